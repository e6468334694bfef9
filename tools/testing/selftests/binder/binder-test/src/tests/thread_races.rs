// SPDX-License-Identifier: GPL-2.0

//! Threads of one process that use the same object at the same time.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use binder_client::Call;
use binder_client::Looper;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::NodeDebugInfo;
use nix::errno::Errno;

use super::tests;
use crate::env::Env;
use crate::fixture::Pair;
use crate::fixture::node;
use crate::fixture::until;
use crate::hostile::PAGE;
use crate::hostile::Stalled;

tests! { Core, "thread_races":
    node_that_is_sent_while_another_thread_gives_it_up,
    receiver_that_closes_while_it_is_sent_an_object,
}

/// Reads all there is to be read, without waiting, and does what the driver asks for about nodes. Returns the rest.
fn read_and_grant(looper: &mut Looper) -> Vec<Return> {
    let mut rest = Vec::new();
    loop {
        match looper.next() {
            Ok(Return::Release(_) | Return::DecRefs(_)) => {}
            Ok(ret @ (Return::IncRefs(_) | Return::Acquire(_))) => looper.grant(&ret),
            Ok(ret) => rest.push(ret),
            Err(error) if error.errno() == Some(Errno::EAGAIN) => return rest,
            Err(error) => panic!("reading returns: {error}"),
        }
    }
}

/// One thread sends a node, the other one's calls with the same node all fail, so that there is often nothing left that
/// needs it. Whenever it was sent, the driver knows it under its name.
fn node_that_is_sent_while_another_thread_gives_it_up(env: &Env) {
    const TURNS: u32 = 20_000;

    let mut pair = Pair::new(env);
    let (mut other, other_handle) = pair.registry.another(env, &mut pair.client);
    let sent = node(0x77);
    let parcel = Parcel::from_object(&object::binder(sent.ptr, sent.cookie));
    let mut bad = parcel.clone();
    bad.offset(1 << 40);
    let binder = pair.client.binder().clone();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut looper = Looper::new(binder);
            // ORDERING: nothing else depends on it.
            while !over.load(Ordering::Relaxed) {
                looper.queue().command(uapi::BC_TRANSACTION, &Call::new(other_handle, 1, &bad).data());
                looper.flush().expect("BC_TRANSACTION");
                assert_eq!(read_and_grant(&mut looper), [Return::FailedReply]);
            }
        });
        for turn in 0..TURNS {
            pair.client.start(Call::one_way(pair.handle, 1, &parcel));
            assert_eq!(read_and_grant(&mut pair.client), [Return::TransactionComplete]);
            pair.client.flush().expect("the node is granted");
            let received = pair.server.expect_transaction();
            let mut info = NodeDebugInfo::default();
            pair.client.binder().ioctl(uapi::BINDER_GET_NODE_DEBUG_INFO, &mut info).expect("the ioctl");
            if info.ptr != sent.ptr {
                over.store(true, Ordering::Relaxed);
                panic!("turn {turn}: the driver has forgotten the node: {info:x?}");
            }
            pair.server.give_back(&received);
        }
        over.store(true, Ordering::Relaxed);
    });
    other.expect(&[]);
    assert_eq!(read_and_grant(&mut pair.client), []);
}

/// The receiver was there when the sender began to copy, and is gone when it comes to the object.
fn receiver_that_closes_while_it_is_sent_an_object(env: &Env) {
    let mut pair = Pair::new(env);
    let (_third, third_handle) = pair.registry.another(env, &mut pair.client);
    let sent = node(0x77);
    let objects = [
        object::binder(sent.ptr, sent.cookie),
        object::weak_binder(sent.ptr, sent.cookie),
        object::handle(third_handle),
        object::weak_handle(third_handle),
    ];
    for flags in [0, uapi::TF_ONE_WAY] {
        for object in objects {
            let (receiver, handle) = pair.registry.another(env, &mut pair.client);
            let stalled = Stalled::new(env, 1);
            let mut parcel = Parcel::from_bytes(b"before..");
            parcel.object(&object);
            let mut page = [0; PAGE];
            page[..parcel.data().len()].copy_from_slice(parcel.data());
            let mut call = Call::new(handle, 1, &parcel).with_flags(flags).data();
            call.buffer = stalled.at(0);
            let binder = pair.client.binder().clone();
            let sender = std::thread::spawn(move || {
                let mut looper = Looper::new(binder);
                looper.queue().command(uapi::BC_TRANSACTION, &call);
                looper.flush().expect("BC_TRANSACTION");
                read_and_grant(&mut looper)
            });
            until(|| stalled.wanted() == Some(0));
            pair.client.queue().request_death(handle, 1);
            pair.client.flush().expect("BC_REQUEST_DEATH_NOTIFICATION");
            drop(receiver);
            // The C driver ends it a little later.
            assert_eq!(pair.client.wait(), Return::DeadBinder(1));
            stalled.supply(0, &page);
            assert_eq!(sender.join().expect("the sender is well"), [Return::DeadReply], "{object:x?}");
        }
    }
}
