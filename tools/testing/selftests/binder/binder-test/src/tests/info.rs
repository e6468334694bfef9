// SPDX-License-Identifier: GPL-2.0

//! Ioctls that return node counts and extended errors, and one-way spam detection.

use binder_client::Binder;
use binder_client::Call;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::ExtendedError;
use binder_client::uapi::NodeDebugInfo;
use binder_client::uapi::NodeInfoForRef;
use nix::errno::Errno;

use super::tests;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Registry;
use crate::fixture::become_manager;
use crate::fixture::node;
use crate::hostile;

tests! { Interface, "info":
    nodes_of_a_process_one_after_the_other,
    node_counts_as_the_owner_sees_them,
    counts_of_a_handle_are_for_the_manager,
    counts_of_a_handle_as_the_manager_sees_them,
    requests_with_bad_addresses,
    extended_error_says_what_failed,
    extended_error_is_forgotten_when_read,
    extended_error_of_a_reply_does_not_take_the_place_of_another,
    extended_error_is_each_threads_own,
    spam_is_reported_once_if_enabled,
    spam_is_not_reported_unless_enabled,
    one_call_that_is_too_much,
    idle_settings_are_not_known,
}

fn node_after(binder: &Binder, ptr: u64) -> NodeDebugInfo {
    let mut info = NodeDebugInfo { ptr, ..NodeDebugInfo::default() };
    assert_eq!(binder.ioctl(uapi::BINDER_GET_NODE_DEBUG_INFO, &mut info), Ok(0));
    info
}

fn nodes_of_a_process_one_after_the_other(env: &Env) {
    let registry = Registry::start(env);
    let mut end = End::open(env);
    assert_eq!(node_after(end.binder(), 0), NodeDebugInfo::default());
    for number in [3, 1, 2] {
        registry.put(&mut end, number, object::binder(node(number.into()).ptr, node(number.into()).cookie));
    }
    let mut seen = Vec::new();
    let mut at = 0;
    loop {
        let info = node_after(end.binder(), at);
        at = info.ptr;
        if at == 0 {
            break;
        }
        seen.push((info.ptr, info.cookie));
    }
    assert_eq!(seen, [1, 2, 3].map(|number| (node(number).ptr, node(number).cookie)));
    // From between two nodes on.
    assert_eq!(node_after(end.binder(), node(1).ptr + 1).ptr, node(2).ptr);
    assert_eq!(node_after(end.binder(), u64::MAX).ptr, 0);
}

fn node_counts_as_the_owner_sees_them(env: &Env) {
    let mut pair = Pair::new(env);
    let info = node_after(pair.server.binder(), 0);
    assert_eq!((info.ptr, info.cookie), (Pair::NODE.ptr, Pair::NODE.cookie));
    assert_eq!((info.has_strong_ref, info.has_weak_ref), (1, 1));
    let handle = pair.handle;
    pair.client.queue().increfs(handle).release(handle);
    pair.client.flush().expect("BC_RELEASE");
    pair.server.expect(&[Return::Release(Pair::NODE)]);
    let info = node_after(pair.server.binder(), 0);
    assert_eq!((info.has_strong_ref, info.has_weak_ref), (0, 1));
    pair.client.queue().decrefs(handle);
    pair.client.flush().expect("BC_DECREFS");
    pair.server.expect(&[Return::DecRefs(Pair::NODE)]);
    assert_eq!(node_after(pair.server.binder(), 0), NodeDebugInfo::default());
}

fn counts(binder: &Binder, info: NodeInfoForRef) -> nix::Result<NodeInfoForRef> {
    let mut info = info;
    binder.ioctl(uapi::BINDER_GET_NODE_INFO_FOR_REF, &mut info)?;
    Ok(info)
}

fn counts_of_a_handle_are_for_the_manager(env: &Env) {
    let pair = Pair::new(env);
    let asked = NodeInfoForRef { handle: pair.handle, ..NodeInfoForRef::default() };
    assert_eq!(counts(pair.client.binder(), asked), Err(Errno::EPERM));
    assert_eq!(counts(pair.server.binder(), asked), Err(Errno::EPERM));
}

fn counts_of_a_handle_as_the_manager_sees_them(env: &Env) {
    let mut manager = End::open(env);
    become_manager(manager.binder());
    manager.queue().enter_looper();
    let peer = crate::fixture::Peer::start(env, |env, line| {
        let mut end = End::open(env);
        let parcel = Parcel::from_object(&object::binder(8, 8));
        let reply = end.blocking(|looper| {
            looper.call_with(Call::new(0, 1, &parcel), |looper, ret| {
                looper.grant(&ret);
                Ok(())
            })
        });
        end.give_back(&reply.expect("the manager answers"));
        line.say(0).expect("the test is there");
        let _ = line.hear();
    });
    let received = manager.wait_transaction();
    let handle = manager.payload(&received).expect("a buffer").flat(0).and_then(|object| object.as_handle());
    let handle = handle.expect("a handle");
    manager.queue().acquire(handle).acquire(handle).increfs(handle);
    manager.give_back(&received);
    manager.answer(&Parcel::new());
    peer.hear();
    let asked = NodeInfoForRef { handle, ..NodeInfoForRef::default() };
    // What the driver holds for others is strong; weak ones are counted where the owner has not yet answered.
    let got = counts(manager.binder(), asked).expect("counts");
    assert_eq!((got.handle, got.strong_count, got.weak_count), (handle, 1, 0));
    assert_eq!(got.reserved, [0; 3]);
    for wrong in [
        NodeInfoForRef { strong_count: 1, ..asked },
        NodeInfoForRef { weak_count: 1, ..asked },
        NodeInfoForRef { reserved: [0, 1, 0], ..asked },
        NodeInfoForRef { handle: handle + 1, ..asked },
        NodeInfoForRef { handle: u32::MAX, ..asked },
    ] {
        assert_eq!(counts(manager.binder(), wrong), Err(Errno::EINVAL), "{wrong:?}");
    }
}

fn requests_with_bad_addresses(env: &Env) {
    let binder = Binder::open(&env.device).expect("open");
    become_manager(&binder);
    for request in [
        uapi::BINDER_GET_NODE_DEBUG_INFO,
        uapi::BINDER_GET_NODE_INFO_FOR_REF,
        uapi::BINDER_FREEZE,
        uapi::BINDER_GET_FROZEN_INFO,
        uapi::BINDER_ENABLE_ONEWAY_SPAM_DETECTION,
        uapi::BINDER_GET_EXTENDED_ERROR,
    ] {
        for address in hostile::NOWHERE {
            assert_eq!(hostile::ioctl_at(&binder, request, address), Err(Errno::EFAULT), "{request:#x}");
        }
    }
}

fn extended_error_says_what_failed(env: &Env) {
    let mut pair = Pair::new(env);
    let mapping = pair.server.binder().mapping().expect("a mapping").len();
    let cases: [(u32, usize, Errno); 2] = [(4711, 0, Errno::EINVAL), (pair.handle, mapping + 1, Errno::ENOSPC)];
    for (handle, size, errno) in cases {
        pair.client.start(Call::new(handle, 1, &Parcel::from_bytes(&vec![0; size])));
        pair.client.expect(&[Return::FailedReply]);
        let error = pair.client.error();
        assert_eq!((error.command, error.param), (uapi::BR_FAILED_REPLY, -(errno as i32)));
        assert_ne!(error.id, 0);
    }
    let mut dead = End::open_unmapped(env);
    Registry::kill(pair.registry, &mut pair.client);
    dead.start(Call::new(0, 1, &Parcel::new()));
    dead.expect(&[Return::DeadReply]);
    let error = dead.error();
    assert_eq!((error.command, error.param), (uapi::BR_DEAD_REPLY, -(Errno::EINVAL as i32)));
}

fn extended_error_is_forgotten_when_read(env: &Env) {
    let mut end = End::open(env);
    let nothing = ExtendedError { id: 0, command: uapi::BR_OK, param: 0 };
    assert_eq!(end.error(), nothing);
    end.start(Call::new(4711, 1, &Parcel::new()));
    end.expect(&[Return::FailedReply]);
    assert_ne!(end.error(), nothing);
    assert_eq!(end.error(), nothing);
}

fn extended_error_of_a_reply_does_not_take_the_place_of_another(env: &Env) {
    for fail_before in [false, true] {
        let mut pair = Pair::new(env);
        let empty = Parcel::new();
        pair.client.start(Call::new(pair.handle, 1, &empty));
        if fail_before {
            pair.client.start(Call::new(4711, 1, &empty));
        }
        let received = pair.server.expect_transaction();
        pair.server.give_back(&received);
        // The caller takes no descriptors: its call fails with EPERM.
        let mut parcel = Parcel::new();
        parcel.object(&object::fd(0, 0));
        pair.server.answer(&parcel);
        let errno = if fail_before { Errno::EINVAL } else { Errno::EPERM };
        let error = pair.client.error();
        assert_eq!((error.command, error.param), (uapi::BR_FAILED_REPLY, -(errno as i32)));
    }
}

fn extended_error_is_each_threads_own(env: &Env) {
    let mut end = End::open(env);
    end.start(Call::new(4711, 1, &Parcel::new()));
    end.expect(&[Return::FailedReply]);
    std::thread::scope(|scope| {
        let end = &end;
        let other = scope.spawn(move || end.error().command);
        assert_eq!(other.join().expect("the thread is well"), uapi::BR_OK);
    });
    assert_eq!(end.error().command, uapi::BR_FAILED_REPLY);
}

/// One-way calls until there is no room; what each was answered with but the last.
fn flood(pair: &mut Pair, size: usize) -> Vec<Return> {
    let parcel = Parcel::from_bytes(&vec![1; size]);
    let mut answers = Vec::new();
    loop {
        pair.client.start(Call::one_way(pair.handle, 1, &parcel));
        match pair.client.drain()[..] {
            [Return::FailedReply] => return answers,
            [one] => answers.push(one),
            ref other => panic!("{other:x?}"),
        }
    }
}

fn take_all(pair: &mut Pair) {
    loop {
        match pair.server.drain()[..] {
            [] => return,
            [Return::Transaction(received)] => pair.server.give_back(&received),
            ref other => panic!("not one call: {other:x?}"),
        }
    }
}

fn enable_detection(end: &End, enable: u32) {
    let mut enable = enable;
    assert_eq!(end.binder().ioctl(uapi::BINDER_ENABLE_ONEWAY_SPAM_DETECTION, &mut enable), Ok(0));
}

fn spam_is_reported_once_if_enabled(env: &Env) {
    let size = 1000 * 1024;
    let mut pair = Pair::sized(env, 8192, size);
    enable_detection(&pair.client, 1);
    for _ in 0..3 {
        // A hundred at most fit in half of the mapping; it is told when little room is left.
        let answers = flood(&mut pair, 5 * 1024);
        assert_eq!(answers.len(), 100);
        let told: Vec<usize> =
            (0..).zip(&answers).filter(|(_, ret)| **ret == Return::OnewaySpamSuspect).map(|(at, _)| at).collect();
        assert_eq!(told, [80]);
        take_all(&mut pair);
    }
    enable_detection(&pair.client, 0);
    assert!(flood(&mut pair, 5 * 1024).iter().all(|ret| *ret == Return::TransactionComplete));
}

fn spam_is_not_reported_unless_enabled(env: &Env) {
    let mut pair = Pair::sized(env, 8192, 1000 * 1024);
    enable_detection(&pair.server, 1);
    assert!(flood(&mut pair, 5 * 1024).iter().all(|ret| *ret == Return::TransactionComplete));
}

fn one_call_that_is_too_much(env: &Env) {
    let mut pair = Pair::sized(env, 8192, 8192);
    // The sender had a buffer there before.
    pair.check();
    enable_detection(&pair.client, 1);
    pair.client.start(Call::one_way(pair.handle, 1, &Parcel::from_bytes(&[1; 4000])));
    pair.client.expect(&[match env.driver(Difference::SpamLatest) {
        Driver::Ours => Return::TransactionComplete,
        Driver::C => Return::OnewaySpamSuspect,
    }]);
}

fn idle_settings_are_not_known(env: &Env) {
    let binder = Binder::open(&env.device).expect("open");
    assert_eq!(binder.ioctl(uapi::BINDER_SET_IDLE_TIMEOUT, &mut 0i64), Err(Errno::EINVAL));
    assert_eq!(binder.ioctl(uapi::BINDER_SET_IDLE_PRIORITY, &mut 0i32), Err(Errno::EINVAL));
}
