#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs the behaviour tests on the driver of the running kernel. Exit status: 0
# if all passed, 1 if not, 4 (skipped) if there is no driver to test.

SKIP=4
directory=$(dirname "$0")
program=${OUTPUT:-$directory}/binder_test
[ -x "$program" ] || program=$directory/binder_test

skip() {
	echo "SKIP: $*"
	exit $SKIP
}

[ "$(id -u)" = 0 ] || skip "needs root"
loaded=
if [ ! -d /sys/module/binder_rs ]; then
	modprobe binder_rs devices=binder 2>/dev/null || skip "there is no module binder_rs"
	loaded=1
fi
if [ ! -c /dev/binder ]; then
	[ -z "$loaded" ] || rmmod binder_rs
	skip "binder_rs has no device /dev/binder"
fi
"$program" --device /dev/binder --driver ours --groups core,interface "$@"
status=$?
[ -z "$loaded" ] || rmmod binder_rs
exit $status
