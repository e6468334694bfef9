// SPDX-License-Identifier: GPL-2.0

//! Nodes with `FLAT_BINDER_FLAG_TXN_SECURITY_CTX`.
//!
//! The result depends on the active security module: SELinux delivers the context; without a module that has contexts
//! (AppArmor, or none) such a call fails.

use binder_client::Binder;
use binder_client::Call;
use binder_client::LIBBINDER_MAPPING;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::FlatObject;
use nix::errno::Errno;

use super::tests;
use super::transaction::whole;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Registry;
use crate::fixture::until;
use crate::hostile;
use crate::kernel::contexts_are_given;
use crate::kernel::own_context;

tests! { Interface, "secctx":
    call_to_a_node_that_asks,
    one_way_call_to_a_node_that_asks,
    reply_carries_none,
    manager_may_ask,
    context_is_looked_for_before_the_mapping,
}

/// A client and a server whose node asks.
fn pair(env: &Env) -> Pair {
    let flags = uapi::FLAT_BINDER_FLAG_TXN_SECURITY_CTX;
    Pair::with_flags(Registry::start(env), End::open(env), End::open(env).enter(), flags)
}

/// One call; checks what comes along with it. Says whether it came.
#[track_caller]
fn call(pair: &mut Pair, flags: u32) -> bool {
    let parcel = Parcel::from_bytes(b"context");
    pair.client.start(Call { handle: pair.handle, code: 1, flags, parcel: &parcel });
    println!("contexts are given: {}", contexts_are_given());
    if !contexts_are_given() {
        pair.client.expect(&[Return::FailedReply]);
        pair.server.expect(&[]);
        return false;
    }
    let [Return::TransactionSecCtx(received)] = pair.server.drain()[..] else { panic!("not a call with a context") };
    let map = pair.server.binder().mapping().expect("a mapping");
    let wanted = own_context();
    assert!(map.contains(received.secctx, wanted.len() as u64 + 1));
    let got = hostile::peek(received.secctx, wanted.len() + 1).expect("readable");
    assert_eq!((&got[..wanted.len()], got[wanted.len()]), (&wanted[..], 0));
    assert_eq!(pair.server.take(&received.transaction).data, b"context");
    true
}

fn call_to_a_node_that_asks(env: &Env) {
    let mut pair = pair(env);
    if call(&mut pair, 0) {
        pair.server.answer(&Parcel::new());
        let reply = pair.client.expect_reply();
        pair.client.give_back(&reply);
    }
}

fn one_way_call_to_a_node_that_asks(env: &Env) {
    let mut pair = pair(env);
    if call(&mut pair, uapi::TF_ONE_WAY) {
        pair.client.expect(&[Return::TransactionComplete]);
    }
}

fn reply_carries_none(env: &Env) {
    // The server, whose own node asks, calls a node that does not: what it gets is plain.
    let mut pair = Pair::new(env);
    let node = FlatObject { flags: uapi::FLAT_BINDER_FLAG_TXN_SECURITY_CTX, ..object::binder(0x999000, 0) };
    pair.registry.put(&mut pair.client, 2, node);
    pair.check();
    whole(&mut pair);
}

fn manager_may_ask(env: &Env) {
    let binder = Binder::open_mapped(&env.device, LIBBINDER_MAPPING).expect("open");
    let node = FlatObject { flags: uapi::FLAT_BINDER_FLAG_TXN_SECURITY_CTX, ..object::binder(0, 0) };
    until(|| binder.become_manager_with(node).is_ok());
    let mut manager = End::over(binder).enter();
    let peer = crate::fixture::Peer::start(env, |env, line| {
        let mut end = End::open(env);
        end.start(Call::one_way(0, 1, &Parcel::new()));
        let wanted = if contexts_are_given() { Return::TransactionComplete } else { Return::FailedReply };
        end.expect(&[wanted]);
        line.say(0).expect("the test is there");
    });
    peer.hear();
    if contexts_are_given() {
        let received = manager.wait();
        assert!(matches!(received, Return::TransactionSecCtx(_)), "{received:x?}");
    }
    peer.join();
}

fn context_is_looked_for_before_the_mapping(env: &Env) {
    let manager = Binder::open(&env.device).expect("open");
    let node = FlatObject { flags: uapi::FLAT_BINDER_FLAG_TXN_SECURITY_CTX, ..object::binder(0, 0) };
    until(|| manager.become_manager_with(node).is_ok());
    let peer = crate::fixture::Peer::start(env, |env, _| {
        let mut end = End::open(env);
        end.start(Call::new(0, 1, &Parcel::new()));
        if contexts_are_given() {
            end.expect(&[Return::DeadReply]);
            assert_eq!(end.errno(), Errno::ESRCH);
        } else {
            end.expect(&[Return::FailedReply]);
            // A security module that has something to say of a process, though no contexts to give, or none at all.
            let there_is_one = std::fs::read("/proc/self/attr/current").is_ok();
            assert_eq!(end.errno(), if there_is_one { Errno::EINVAL } else { Errno::EOPNOTSUPP });
        }
    });
    peer.join();
}
