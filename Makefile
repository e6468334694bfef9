# SPDX-License-Identifier: GPL-2.0
#
# Builds binder_rs.ko in the Debian 13 build root, see scripts/in-root.

KVER  ?= 7.2.12+deb13-amd64
CACHE := $(or $(BINDER_RS_CACHE),/var/cache/binder-rs)
KBUILD := $(CACHE)/kernels/$(KVER)/build
O := $(CURDIR)/build

.PHONY: all clean
all:
	mkdir -p $(O)/driver
	scripts/in-root $(MAKE) --no-print-directory -C $(KBUILD) M=$(CURDIR)/drivers/android/binder MO=$(O)/driver modules

clean:
	rm -rf $(O)
