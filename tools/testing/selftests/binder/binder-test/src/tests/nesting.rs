// SPDX-License-Identifier: GPL-2.0

//! Calls inside calls: the transaction stack.

use binder_client::Binder;
use binder_client::Call;
use binder_client::LIBBINDER_MAPPING;
use binder_client::Looper;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::Served;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::TransactionData;

use super::tests;
use super::transaction::whole;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::fixture::until_in_ioctl;

tests! { Core, "nesting":
    call_back_goes_to_the_waiting_thread,
    call_back_does_not_go_to_another_thread,
    hundred_deep_between_two,
    hundred_deep_between_processes,
    through_a_third_process_and_back,
    one_way_inside_a_call_goes_to_the_process,
    call_to_another_inside_a_call,
    inner_reply_must_come_first,
    inner_reply_is_taken_before_the_outer_comes,
    inner_call_that_fails_leaves_the_outer,
    thread_exit_inside_a_call_fails_the_caller,
    caller_that_exits_its_thread_is_not_answered,
    call_to_oneself_through_another,
}

/// Both ends can call the other.
struct Both {
    pair: Pair,
    /// The server's handle to the client's node.
    back: u32,
}

impl Both {
    fn new(env: &Env) -> Self {
        let mut pair = Pair::new(env);
        pair.registry.put(&mut pair.client, 2, object::binder(0xc000, 0xc001));
        pair.client.flush().expect("the references are granted");
        let back = pair.registry.get(&mut pair.server, 2);
        Self { pair, back }
    }
}

#[track_caller]
fn calls(end: &mut End) -> TransactionData {
    match end.drain()[..] {
        // The completion of the call that is out comes along with the call back.
        [Return::TransactionComplete, Return::Transaction(received)] | [Return::Transaction(received)] => received,
        ref other => panic!("not a call: {other:x?}"),
    }
}

#[track_caller]
fn replies(end: &mut End) -> TransactionData {
    match end.drain()[..] {
        [Return::TransactionComplete, Return::Reply(received)] | [Return::Reply(received)] => received,
        ref other => panic!("not a reply: {other:x?}"),
    }
}

fn call_back_goes_to_the_waiting_thread(env: &Env) {
    let Both { mut pair, back } = Both::new(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(b"out")));
    let outer = pair.server.expect_transaction();
    pair.server.start(Call::new(back, 2, &Parcel::from_bytes(b"back")));
    pair.server.expect(&[]);
    let [Return::TransactionComplete, Return::Transaction(inner)] = pair.client.drain()[..] else {
        panic!("not a completion and a call")
    };
    assert_eq!((inner.target, inner.cookie, inner.code), (0xc000, 0xc001, 2));
    assert_eq!(pair.client.take(&inner).data, b"back");
    pair.client.answer(&Parcel::from_bytes(b"inner"));
    let reply = pair.server.expect_reply();
    assert_eq!(pair.server.take(&reply).data, b"inner");
    pair.server.give_back(&outer);
    pair.server.answer(&Parcel::from_bytes(b"outer"));
    let [Return::Reply(reply)] = pair.client.drain()[..] else { panic!("not a reply") };
    assert_eq!(pair.client.take(&reply).data, b"outer");
    whole(&mut pair);
}

fn call_back_does_not_go_to_another_thread(env: &Env) {
    let Both { mut pair, back } = Both::new(env);
    // Another thread of the client waits for calls, and gets none of this.
    let binder = pair.client.binder().clone();
    pair.client.set_blocking(true);
    let (say, hear) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        let mut looper = Looper::new(binder);
        looper.queue().enter_looper();
        looper.flush().expect("BC_ENTER_LOOPER");
        say.send(binder_client::process::thread_id()).expect("the receiver is there");
        looper.next()
    });
    let thread = hear.recv().expect("the thread is there");
    until_in_ioctl(nix::unistd::getpid().as_raw(), thread);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let outer = pair.server.expect_transaction();
    pair.server.start(Call::new(back, 2, &Parcel::new()));
    pair.client.set_blocking(false);
    let inner = calls(&mut pair.client);
    assert_eq!(inner.code, 2);
    pair.client.give_back(&inner);
    pair.client.answer(&Parcel::new());
    let reply = pair.server.expect_reply();
    pair.server.give_back(&reply);
    pair.server.give_back(&outer);
    pair.server.answer(&Parcel::new());
    let reply = replies(&mut pair.client);
    pair.client.give_back(&reply);
    // The other thread gets work of the process.
    pair.server.start(Call::one_way(back, 3, &Parcel::new()));
    let got = waiting.join().expect("the thread is well");
    assert!(matches!(got, Ok(Return::Transaction(TransactionData { code: 3, .. }))), "{got:x?}");
}

fn hundred_deep_between_two(env: &Env) {
    let Both { mut pair, back } = Both::new(env);
    let depth = 100;
    let mut outer = Vec::new();
    for level in 0..depth {
        pair.client.start(Call::new(pair.handle, 2 * level, &Parcel::from_bytes(&level.to_ne_bytes())));
        let received = calls(&mut pair.server);
        assert_eq!(received.code, 2 * level);
        pair.server.start(Call::new(back, 2 * level + 1, &Parcel::from_bytes(&level.to_ne_bytes())));
        let inner = calls(&mut pair.client);
        assert_eq!(inner.code, 2 * level + 1);
        outer.push((received, inner));
    }
    for (level, (received, inner)) in (0..depth).zip(outer).rev() {
        assert_eq!(pair.client.take(&inner).data, level.to_ne_bytes());
        pair.client.start_reply(Call::reply(&Parcel::from_bytes(&inner.code.to_ne_bytes())));
        pair.client.expect(&[Return::TransactionComplete]);
        let reply = replies(&mut pair.server);
        assert_eq!(pair.server.take(&reply).data, inner.code.to_ne_bytes());
        assert_eq!(pair.server.take(&received).data, level.to_ne_bytes());
        pair.server.answer(&Parcel::from_bytes(&received.code.to_ne_bytes()));
        let reply = replies(&mut pair.client);
        assert_eq!(pair.client.take(&reply).data, received.code.to_ne_bytes());
    }
    pair.check();
    whole(&mut pair);
}

/// Answers a call with so many levels left by calling back one level less, until none is left.
fn descend(looper: &mut Looper, back: u32, received: &TransactionData) -> Parcel {
    let payload = looper.payload(received).expect("a readable buffer");
    let left = payload.data.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)).expect("a number");
    if left == 0 {
        return Parcel::from_bytes(&1u32.to_ne_bytes());
    }
    let call = Parcel::from_bytes(&(left - 1).to_ne_bytes());
    let reply = looper
        .call_with(Call::new(back, 1, &call), |looper, ret| match ret {
            Return::Transaction(received) => {
                let answer = descend(looper, back, &received);
                looper.free(&received);
                looper.reply(&answer)
            }
            ret => {
                looper.grant(&ret);
                Ok(())
            }
        })
        .expect("a reply");
    let payload = looper.payload(&reply).expect("a readable buffer");
    looper.free(&reply);
    let below = payload.data.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)).expect("a number");
    Parcel::from_bytes(&(below + 1).to_ne_bytes())
}

fn hundred_deep_between_processes(env: &Env) {
    let registry = Registry::start(env);
    let mut end = End::open(env);
    registry.put(&mut end, 1, object::binder(0x10, 0x20));
    let peer = Peer::start(env, |env, line| {
        let mut end = End::over(Binder::open_mapped(&env.device, LIBBINDER_MAPPING).expect("open"));
        let ask = Parcel::from_bytes(&1u32.to_ne_bytes());
        let back = match end.call(Call::new(0, 2, &ask)) {
            Ok(reply) => {
                let handle = end
                    .payload(&reply)
                    .expect("a reply")
                    .flat(0)
                    .and_then(|object| object.as_handle())
                    .expect("a handle");
                end.queue().acquire(handle);
                end.give_back(&reply);
                handle
            }
            other => panic!("{other:?}"),
        };
        let mut node = Parcel::from_bytes(&2u32.to_ne_bytes());
        node.object(&object::binder(0x30, 0x40));
        let reply = end
            .call_with(Call::new(0, 1, &node), |looper, ret| {
                looper.grant(&ret);
                Ok(())
            })
            .expect("the registry answers");
        end.give_back(&reply);
        line.say(0).expect("the test is there");
        let _ = end.serve(|looper, received| Served::Reply(descend(looper, back, received)));
    });
    peer.hear();
    let there = registry.get(&mut end, 2);
    end.set_blocking(true);
    for depth in [1u32, 2, 99, 100, 100] {
        let call = Parcel::from_bytes(&depth.to_ne_bytes());
        let reply = end
            .call_with(Call::new(there, 1, &call), |looper, ret| match ret {
                Return::Transaction(received) => {
                    let answer = descend(looper, there, &received);
                    looper.free(&received);
                    looper.reply(&answer)
                }
                ret => {
                    looper.grant(&ret);
                    Ok(())
                }
            })
            .expect("a reply");
        let payload = end.payload(&reply).expect("a readable buffer");
        end.free(&reply);
        assert_eq!(payload.data, (depth + 1).to_ne_bytes());
    }
}

fn through_a_third_process_and_back(env: &Env) {
    let Both { mut pair, back: _ } = Both::new(env);
    // The client calls the server, the server a third, and the third calls the client, which waits.
    let mut third = End::open(env).enter();
    pair.registry.put(&mut third, 3, object::binder(0x3000, 0x3001));
    let to_third = pair.registry.get(&mut pair.server, 3);
    let to_client = pair.registry.get(&mut third, 2);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let first = pair.server.expect_transaction();
    pair.server.start(Call::new(to_third, 2, &Parcel::new()));
    let second = third.expect_transaction();
    third.start(Call::new(to_client, 3, &Parcel::from_bytes(b"round")));
    let inner = calls(&mut pair.client);
    assert_eq!(inner.code, 3);
    assert_eq!(pair.client.take(&inner).data, b"round");
    pair.client.answer(&Parcel::new());
    let reply = third.expect_reply();
    third.give_back(&reply);
    third.give_back(&second);
    third.answer(&Parcel::new());
    let reply = pair.server.expect_reply();
    pair.server.give_back(&reply);
    pair.server.give_back(&first);
    pair.server.answer(&Parcel::new());
    let reply = replies(&mut pair.client);
    pair.client.give_back(&reply);
    pair.check();
}

fn one_way_inside_a_call_goes_to_the_process(env: &Env) {
    let Both { mut pair, back } = Both::new(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let outer = pair.server.expect_transaction();
    pair.server.start_one_way(Call::new(back, 2, &Parcel::new()));
    // The client's thread is inside a call: a one-way call is not for it now.
    pair.client.expect(&[]);
    pair.server.give_back(&outer);
    pair.server.answer(&Parcel::new());
    let returns = pair.client.drain();
    let [Return::TransactionComplete, Return::Reply(_), Return::Transaction(one_way)] = returns[..] else {
        panic!("{returns:x?}")
    };
    assert_eq!((one_way.code, one_way.flags), (2, uapi::TF_ONE_WAY));
}

fn call_to_another_inside_a_call(env: &Env) {
    let Both { mut pair, back: _ } = Both::new(env);
    let mut third = End::open(env).enter();
    pair.registry.put(&mut third, 3, object::binder(0x3000, 0x3001));
    let to_third = pair.registry.get(&mut pair.server, 3);
    for _ in 0..3 {
        pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
        let outer = pair.server.expect_transaction();
        for turn in 0..3 {
            pair.server.start(Call::new(to_third, turn, &Parcel::new()));
            let inner = third.expect_transaction();
            assert_eq!(inner.code, turn);
            third.give_back(&inner);
            third.answer(&Parcel::new());
            let reply = pair.server.expect_reply();
            pair.server.give_back(&reply);
        }
        pair.server.give_back(&outer);
        pair.server.answer(&Parcel::new());
        let reply = pair.client.expect_reply();
        pair.client.give_back(&reply);
    }
}

fn inner_reply_must_come_first(env: &Env) {
    let Both { mut pair, back } = Both::new(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let outer = pair.server.expect_transaction();
    pair.server.start(Call::new(back, 2, &Parcel::new()));
    // The server owes the client an answer and waits for one itself: it may not give its own now.
    pair.server.start_reply(Call::reply(&Parcel::new()));
    let returns = pair.server.drain();
    assert_eq!(returns, [Return::TransactionComplete, Return::FailedReply]);
    let inner = calls(&mut pair.client);
    pair.client.give_back(&inner);
    pair.client.answer(&Parcel::new());
    let reply = replies(&mut pair.server);
    pair.server.give_back(&reply);
    pair.server.give_back(&outer);
    pair.server.answer(&Parcel::from_bytes(b"in order"));
    let reply = replies(&mut pair.client);
    assert_eq!(pair.client.take(&reply).data, b"in order");
    pair.check();
}

/// Libraries wait for `BR_TRANSACTION_COMPLETE` of a reply and drop any other reply meanwhile: a reply that comes too
/// early is lost, and they wait for it forever. The outer reply can come as soon as the receiver of the inner one goes on.
fn inner_reply_is_taken_before_the_outer_comes(env: &Env) {
    let Both { mut pair, back } = Both::new(env);
    let rounds = 2000;
    pair.server.set_blocking(true);
    let binder = pair.server.binder().clone();
    let serving = std::thread::spawn(move || {
        let mut left = rounds;
        Looper::new(binder).serve(|looper, _| {
            let reply = looper.call(Call::new(back, 2, &Parcel::new())).expect("an answer");
            looper.free(&reply);
            left -= 1;
            if left == 0 { Served::Stop(Parcel::new()) } else { Served::Reply(Parcel::new()) }
        })
    });
    pair.client.set_blocking(true);
    for round in 0..rounds {
        pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
        assert_eq!(pair.client.next().expect("a return"), Return::TransactionComplete);
        let inner = pair.client.next().expect("a return");
        let Return::Transaction(inner) = inner else { panic!("not a call: {inner:x?}") };
        pair.client.free(&inner);
        pair.client.start_reply(Call::reply(&Parcel::new()));
        let first = pair.client.next().expect("a return");
        assert_eq!(first, Return::TransactionComplete, "round {round}");
        let outer = pair.client.next().expect("a return");
        let Return::Reply(outer) = outer else { panic!("not a reply: {outer:x?}") };
        pair.client.give_back(&outer);
    }
    serving.join().expect("the thread is well").expect("every call is answered");
    pair.client.set_blocking(false);
    pair.server.set_blocking(false);
    whole(&mut pair);
}

fn inner_call_that_fails_leaves_the_outer(env: &Env) {
    let mut pair = Pair::new(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let outer = pair.server.expect_transaction();
    for handle in [4711, u32::MAX] {
        pair.server.start(Call::new(handle, 2, &Parcel::new()));
        pair.server.expect(&[Return::FailedReply]);
    }
    pair.server.give_back(&outer);
    pair.server.answer(&Parcel::from_bytes(b"nevertheless"));
    let reply = pair.client.expect_reply();
    assert_eq!(pair.client.take(&reply).data, b"nevertheless");
}

fn thread_exit_inside_a_call_fails_the_caller(env: &Env) {
    let mut pair = Pair::new(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let outer = pair.server.expect_transaction();
    assert_eq!(pair.server.binder().thread_exit(), Ok(()));
    pair.client.expect(&[Return::TransactionComplete, Return::DeadReply]);
    pair.server.give_back(&outer);
    pair.server.queue().enter_looper();
    pair.server.flush().expect("BC_ENTER_LOOPER");
    pair.server.expect(&[]);
    whole(&mut pair);
}

fn caller_that_exits_its_thread_is_not_answered(env: &Env) {
    let mut pair = Pair::new(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let outer = pair.server.expect_transaction();
    assert_eq!(pair.client.binder().thread_exit(), Ok(()));
    pair.server.give_back(&outer);
    pair.server.start_reply(Call::reply(&Parcel::new()));
    // The replying thread is not told that the caller is gone.
    pair.server.expect(&[Return::TransactionComplete]);
    pair.client.expect(&[]);
    pair.check();
}

fn call_to_oneself_through_another(env: &Env) {
    // Two files of one process, each of which calls the other's node in turn, both on one thread.
    let Both { mut pair, back } = Both::new(env);
    for _ in 0..20 {
        pair.check();
        pair.server.start(Call::new(back, 1, &Parcel::new()));
        pair.client.queue().enter_looper();
        pair.client.flush().expect("BC_ENTER_LOOPER");
        let received = pair.client.expect_transaction();
        pair.client.give_back(&received);
        pair.client.answer(&Parcel::new());
        let reply = pair.server.expect_reply();
        pair.server.give_back(&reply);
    }
}
