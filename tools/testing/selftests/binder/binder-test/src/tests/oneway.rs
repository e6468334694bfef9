// SPDX-License-Identifier: GPL-2.0

//! One-way calls: one at a time per node, in the order in which they were sent.

use binder_client::Call;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::TransactionData;

use super::tests;
use super::transaction::whole;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;

tests! { Core, "oneway":
    one_at_a_time_until_given_back,
    order_is_kept,
    order_is_kept_between_senders,
    order_is_kept_beside_updates,
    nodes_do_not_wait_for_one_another,
    calls_overtake_waiting_one_way_calls,
    giving_back_something_else_lets_nothing_go,
    completion_comes_at_once,
    sender_may_close_after_sending,
    one_way_and_call_in_one_ioctl,
    release_of_a_node_with_calls_waiting,
    many_wait_and_are_freed_unread,
}

/// A one-way call with a number.
#[track_caller]
fn send(end: &mut End, handle: u32, number: u32) {
    end.start_one_way(Call::new(handle, number, &Parcel::from_bytes(&number.to_ne_bytes())));
}

#[track_caller]
fn next(end: &mut End, number: u32) -> TransactionData {
    let received = end.expect_transaction();
    assert_eq!((received.code, received.flags & uapi::TF_ONE_WAY), (number, uapi::TF_ONE_WAY));
    assert_eq!(end.payload(&received).expect("a readable buffer").data, number.to_ne_bytes());
    received
}

fn one_at_a_time_until_given_back(env: &Env) {
    let mut pair = Pair::new(env);
    for number in 0..3 {
        send(&mut pair.client, pair.handle, number);
    }
    for number in 0..3 {
        let received = next(&mut pair.server, number);
        pair.server.expect(&[]);
        pair.server.give_back(&received);
    }
    pair.server.expect(&[]);
    whole(&mut pair);
}

fn order_is_kept(env: &Env) {
    let mut pair = Pair::new(env);
    let mut sent = 0;
    let mut got = 0;
    // Sending and taking in uneven steps.
    for step in 1..60u32 {
        for _ in 0..step * 7 % 11 {
            send(&mut pair.client, pair.handle, sent);
            sent += 1;
        }
        for _ in 0..step * 5 % 9 {
            if got < sent {
                let received = next(&mut pair.server, got);
                pair.server.give_back(&received);
                got += 1;
            }
        }
    }
    while got < sent {
        let received = next(&mut pair.server, got);
        pair.server.give_back(&received);
        got += 1;
    }
    whole(&mut pair);
}

fn order_is_kept_between_senders(env: &Env) {
    let mut pair = Pair::new(env);
    pair.registry.put(&mut pair.server, 2, object::binder(Pair::NODE.ptr, Pair::NODE.cookie));
    let mut other = End::open(env);
    let handle = pair.registry.get(&mut other, 2);
    for number in 0..20 {
        if number % 3 == 0 {
            send(&mut other, handle, number);
        } else {
            send(&mut pair.client, pair.handle, number);
        }
    }
    for number in 0..20 {
        let received = next(&mut pair.server, number);
        pair.server.give_back(&received);
    }
}

/// What may take the place of an earlier one while the owner is frozen has no other place while it is not.
fn order_is_kept_beside_updates(env: &Env) {
    let mut pair = Pair::new(env);
    let is_update = |number: u32| number % 3 != 1;
    for number in 0..20 {
        let flags = if is_update(number) { uapi::TF_UPDATE_TXN } else { 0 };
        let parcel = Parcel::from_bytes(&number.to_ne_bytes());
        pair.client.start_one_way(Call::new(pair.handle, number, &parcel).with_flags(flags));
        // One is taken out now and then, so that not all of them are there at once.
        if number % 5 == 4 {
            let received = next(&mut pair.server, number / 5);
            pair.server.give_back(&received);
        }
    }
    for number in 4..20 {
        let received = next(&mut pair.server, number);
        pair.server.give_back(&received);
    }
    whole(&mut pair);
}

fn nodes_do_not_wait_for_one_another(env: &Env) {
    let mut pair = Pair::new(env);
    pair.registry.put(&mut pair.server, 2, object::binder(0x2000, 0x2001));
    let second = pair.registry.get(&mut pair.client, 2);
    send(&mut pair.client, pair.handle, 1);
    send(&mut pair.client, pair.handle, 2);
    send(&mut pair.client, second, 3);
    send(&mut pair.client, second, 4);
    let [Return::Transaction(first), Return::Transaction(third)] = pair.server.drain()[..] else {
        panic!("not one call for each node")
    };
    assert_eq!((first.code, third.code), (1, 3));
    pair.server.give_back(&third);
    let fourth = next(&mut pair.server, 4);
    pair.server.give_back(&first);
    let second = next(&mut pair.server, 2);
    pair.server.give_back(&second);
    pair.server.give_back(&fourth);
    whole(&mut pair);
}

fn calls_overtake_waiting_one_way_calls(env: &Env) {
    let mut pair = Pair::new(env);
    for number in 0..3 {
        send(&mut pair.client, pair.handle, number);
    }
    pair.client.start(Call::new(pair.handle, 99, &Parcel::new()));
    let [Return::Transaction(first), Return::Transaction(call)] = pair.server.drain()[..] else {
        panic!("not a one-way call and a call")
    };
    assert_eq!((first.code, call.code), (0, 99));
    pair.server.give_back(&call);
    pair.server.answer(&Parcel::new());
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
    pair.server.give_back(&first);
    for number in 1..3 {
        let received = next(&mut pair.server, number);
        pair.server.give_back(&received);
    }
}

fn giving_back_something_else_lets_nothing_go(env: &Env) {
    let mut pair = Pair::new(env);
    send(&mut pair.client, pair.handle, 0);
    send(&mut pair.client, pair.handle, 1);
    let received = next(&mut pair.server, 0);
    // Freeing something else does not let the next one go.
    pair.server.queue().free_buffer(received.buffer + 8).free_buffer(0);
    pair.server.flush().expect("BC_FREE_BUFFER");
    pair.server.expect(&[]);
    pair.check();
    pair.server.expect(&[]);
    pair.server.give_back(&received);
    let received = next(&mut pair.server, 1);
    pair.server.give_back(&received);
}

fn completion_comes_at_once(env: &Env) {
    let mut pair = Pair::new(env);
    for number in 0..10 {
        pair.client.start(Call::one_way(pair.handle, number, &Parcel::new()));
        pair.client.expect(&[Return::TransactionComplete]);
    }
}

fn sender_may_close_after_sending(env: &Env) {
    let Pair { mut client, mut server, handle, registry } = Pair::new(env);
    for number in 0..5 {
        send(&mut client, handle, number);
    }
    drop(client);
    // Queued transactions are delivered although the node has no references left.
    for number in 0..5 {
        let received = loop {
            match server.wait() {
                Return::Transaction(received) => break received,
                Return::Release(_) | Return::DecRefs(_) => {}
                other => panic!("{other:x?}"),
            }
        };
        assert_eq!((received.code, received.target), (number, Pair::NODE.ptr));
        server.give_back(&received);
    }
    drop(registry);
}

fn one_way_and_call_in_one_ioctl(env: &Env) {
    let mut pair = Pair::new(env);
    let empty = Parcel::new();
    pair.client.queue().command(uapi::BC_TRANSACTION, &Call::one_way(pair.handle, 1, &empty).data());
    pair.client.queue().command(uapi::BC_TRANSACTION, &Call::one_way(pair.handle, 2, &empty).data());
    pair.client.start(Call::new(pair.handle, 3, &empty));
    let [Return::Transaction(first), Return::Transaction(call)] = pair.server.drain()[..] else {
        panic!("not a one-way call and a call")
    };
    assert_eq!((first.code, call.code), (1, 3));
    pair.server.give_back(&first);
    pair.server.give_back(&call);
    pair.server.start_reply(Call::reply(&empty));
    let [Return::TransactionComplete, Return::Transaction(second)] = pair.server.drain()[..] else {
        panic!("not a completion and a call")
    };
    assert_eq!(second.code, 2);
    pair.server.give_back(&second);
    let returns = pair.client.drain();
    let complete = Return::TransactionComplete;
    assert!(matches!(returns[..], [a, b, c, Return::Reply(_)] if a == complete && b == complete && c == complete));
}

fn release_of_a_node_with_calls_waiting(env: &Env) {
    let mut pair = Pair::new(env);
    for number in 0..3 {
        send(&mut pair.client, pair.handle, number);
    }
    let handle = pair.handle;
    pair.client.queue().release(handle);
    pair.client.flush().expect("BC_RELEASE");
    let mut got = Vec::new();
    loop {
        let returns = pair.server.drain();
        if returns.is_empty() {
            break;
        }
        for ret in returns {
            if let Return::Transaction(received) = ret {
                got.push(received.code);
                pair.server.give_back(&received);
            }
        }
    }
    assert_eq!(got, [0, 1, 2]);
    pair.server.expect(&[]);
}

fn many_wait_and_are_freed_unread(env: &Env) {
    let Pair { mut client, server, handle, registry } = Pair::new(env);
    for number in 0..500 {
        send(&mut client, handle, number);
    }
    drop(server);
    crate::fixture::until(|| {
        client.start(Call::one_way(handle, 1, &Parcel::new()));
        client.drain() == [Return::DeadReply]
    });
    drop(registry);
    Pair::new(env).check();
}
