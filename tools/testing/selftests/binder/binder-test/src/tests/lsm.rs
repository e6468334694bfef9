// SPDX-License-Identifier: GPL-2.0

//! LSM hooks that deny.

use std::fs::File;
use std::os::fd::AsRawFd;

use binder_client::Call;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::fcntl;
use nix::unistd::Gid;
use nix::unistd::setegid;

use super::tests;
use super::transaction::whole;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Registry;
use crate::fixture::become_manager;
use crate::hostile::Asked;
use crate::hostile::Denial;

tests! { Interface, "lsm":
    calls_are_denied,
    replies_are_not_asked_about,
    nodes_are_denied,
    handles_are_denied,
    files_are_denied,
    a_context_manager_is_denied,
    asked_with_sender_and_receiver,
    asked_with_replier_and_caller,
    asked_with_the_file,
    asked_with_the_manager,
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

/// A group that no other process of a test is in.
const GROUP: u32 = 4711;

/// What the body opens has credentials of that group.
fn in_group<T>(body: impl FnOnce() -> T) -> T {
    setegid(Gid::from_raw(GROUP)).expect("the test runs as root");
    let result = body();
    setegid(Gid::from_raw(0)).expect("the test runs as root");
    result
}

/// The hook's argument of this number are the credentials of that group.
fn group_in(argument: u16) -> Asked {
    Asked { argument, of: "cred", field: "egid", is: GROUP }
}

/// A pair whose client is of that group.
fn pair_in_group(env: &Env) -> Pair {
    let registry = Registry::start(env);
    let client = in_group(|| End::open(env));
    Pair::with_flags(registry, client, End::open(env).enter(), uapi::FLAT_BINDER_FLAG_ACCEPTS_FDS)
}

/// The three hooks that are asked about two processes, and calls at which they are.
fn between(pair: &Pair, file: &File) -> [(&'static str, Parcel); 3] {
    [
        ("binder_transaction", Parcel::from_bytes(b"call")),
        ("binder_transfer_binder", Parcel::from_object(&object::handle(pair.handle))),
        ("binder_transfer_file", Parcel::from_object(&object::fd(file.as_raw_fd(), 0))),
    ]
}

fn asked_with_sender_and_receiver(env: &Env) {
    let mut pair = pair_in_group(env);
    let file = File::open("/dev/null").expect("/dev/null");
    for (hook, parcel) in between(&pair, &file) {
        let denial = Denial::when(env, hook, group_in(0), Errno::EXDEV);
        pair.client.start(Call::one_way(pair.handle, 1, &parcel));
        pair.client.expect(&[Return::FailedReply]);
        drop(denial);
        let denial = Denial::when(env, hook, group_in(1), Errno::EXDEV);
        pair.client.start_one_way(Call::one_way(pair.handle, 1, &parcel));
        drop(denial);
        let call = pair.server.expect_transaction();
        pair.server.give_back(&call);
    }
}

fn asked_with_replier_and_caller(env: &Env) {
    let mut pair = pair_in_group(env);
    let file = File::open("/dev/null").expect("/dev/null");
    // Replies themselves are not asked about.
    let [_, node, file] = between(&pair, &file);
    let node = (node.0, Parcel::from_object(&object::binder(Pair::NODE.ptr, Pair::NODE.cookie)));
    for (hook, parcel) in [node, file] {
        for (argument, denied) in [(0, false), (1, true)] {
            pair.client.start(Call::new(pair.handle, 1, &Parcel::new()).with_flags(uapi::TF_ACCEPT_FDS));
            let call = pair.server.expect_transaction();
            pair.server.give_back(&call);
            let denial = Denial::when(env, hook, group_in(argument), Errno::EXDEV);
            // It is the caller that hears of it.
            pair.server.answer(&parcel);
            drop(denial);
            if denied {
                pair.client.expect(&[Return::TransactionComplete, Return::FailedReply]);
            } else {
                let reply = pair.client.expect_reply();
                pair.client.give_back(&reply);
            }
        }
    }
}

fn asked_with_the_file(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let plain = File::open("/dev/null").expect("/dev/null");
    let special = File::open("/dev/null").expect("/dev/null");
    fcntl(&special, FcntlArg::F_SETFL(OFlag::O_APPEND)).expect("F_SETFL");
    let flags = fcntl(&special, FcntlArg::F_GETFL).expect("F_GETFL");
    let asked = Asked { argument: 2, of: "file", field: "f_flags", is: flags as u32 };
    let _denial = Denial::when(env, "binder_transfer_file", asked, Errno::EXDEV);
    let object = |file: &File| object::fd(file.as_raw_fd(), 0);
    pair.client.start_one_way(Call::one_way(pair.handle, 1, &Parcel::from_object(&object(&plain))));
    let call = pair.server.expect_transaction();
    pair.server.give_back(&call);
    // The one of them that is objected to is enough.
    let mut parcel = Parcel::from_object(&object(&plain));
    parcel.object(&object(&special));
    pair.client.start(Call::one_way(pair.handle, 1, &parcel));
    pair.client.expect(&[Return::FailedReply]);
    pair.server.expect(&[]);
}

fn asked_with_the_manager(env: &Env) {
    // That there is none before.
    drop(Registry::start(env));
    let end = End::open(env);
    become_manager(end.binder());
    drop(end);
    let theirs = in_group(|| End::open(env));
    let ours = End::open(env);
    let denial = Denial::when(env, "binder_set_context_mgr", group_in(0), Errno::EXDEV);
    crate::fixture::until(|| {
        let errno = theirs.binder().become_manager().expect_err("denied").errno();
        // Busy for as long as the one before is not gone.
        errno != Some(Errno::EBUSY) && {
            assert_eq!(errno, Some(Errno::EXDEV));
            true
        }
    });
    assert_eq!(ours.binder().become_manager(), Ok(()));
    drop(denial);
}
