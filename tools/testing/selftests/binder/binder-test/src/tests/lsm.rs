// SPDX-License-Identifier: GPL-2.0

//! What a security module denies.

use std::fs::File;
use std::os::fd::AsRawFd;

use binder_client::Call;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use nix::errno::Errno;

use super::tests;
use super::transaction::whole;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Registry;
use crate::fixture::become_manager;
use crate::hostile::Denial;

tests! { Interface, "lsm":
    calls_are_denied,
    replies_are_not_asked_about,
    nodes_are_denied,
    handles_are_denied,
    files_are_denied,
    a_context_manager_is_denied,
}

/// The client's calls with this in them fail while the hook says no, for lack of permission whatever it says; all
/// else goes on, and nothing of them is left.
#[track_caller]
fn denied(env: &Env, hook: &str, pair: &mut Pair, parcel: &Parcel) {
    let denial = Denial::new(env, hook, Errno::EXDEV);
    for flags in [0, uapi::TF_ONE_WAY] {
        pair.client.start(Call::new(pair.handle, 1, parcel).with_flags(flags));
        pair.client.expect(&[Return::FailedReply]);
        let error = pair.client.error();
        assert_eq!((error.command, error.param), (uapi::BR_FAILED_REPLY, -(Errno::EPERM as i32)));
    }
    drop(denial);
    pair.server.expect(&[]);
    pair.check();
    whole(pair);
}

fn calls_are_denied(env: &Env) {
    denied(env, "binder_transaction", &mut Pair::with_fds(env), &Parcel::from_bytes(b"no"));
}

fn replies_are_not_asked_about(env: &Env) {
    let mut pair = Pair::with_fds(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
    let _denial = Denial::new(env, "binder_transaction", Errno::EXDEV);
    pair.server.answer(&Parcel::from_bytes(b"yes"));
    let reply = pair.client.expect_reply();
    assert_eq!(pair.client.take(&reply).data, b"yes");
}

fn nodes_are_denied(env: &Env) {
    let mut pair = Pair::with_fds(env);
    denied(env, "binder_transfer_binder", &mut pair, &Parcel::from_object(&object::binder(0x71000, 0x71c00)));
    let denial = Denial::new(env, "binder_transfer_binder", Errno::EXDEV);
    pair.check();
    drop(denial);
}

fn handles_are_denied(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let handle = pair.handle;
    denied(env, "binder_transfer_binder", &mut pair, &Parcel::from_object(&object::handle(handle)));
}

fn files_are_denied(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let file = File::open("/dev/null").expect("/dev/null");
    let open = || std::fs::read_dir("/proc/self/fd").expect("/proc/self/fd").count();
    let before = open();
    denied(env, "binder_transfer_file", &mut pair, &Parcel::from_object(&object::fd(file.as_raw_fd(), 0)));
    assert_eq!(open(), before);
}

fn a_context_manager_is_denied(env: &Env) {
    // That there is none before.
    drop(Registry::start(env));
    let end = End::open(env);
    become_manager(end.binder());
    drop(end);
    let end = End::open(env);
    let denial = Denial::new(env, "binder_set_context_mgr", Errno::EXDEV);
    crate::fixture::until(|| {
        let errno = end.binder().become_manager().expect_err("denied").errno();
        // Busy for as long as the one before is not gone.
        errno != Some(Errno::EBUSY) && {
            assert_eq!(errno, Some(Errno::EXDEV));
            true
        }
    });
    drop(denial);
    assert_eq!(end.binder().become_manager(), Ok(()));
}
