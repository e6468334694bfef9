// SPDX-License-Identifier: GPL-2.0

//! Reference counts: commands of the holders, and returns to the owner.

use std::sync::mpsc;

use binder_client::Call;
use binder_client::Commands;
use binder_client::Error;
use binder_client::Looper;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::FlatObject;
use binder_client::uapi::PtrCookie;

use super::tests;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::node;
use crate::kernel::Slow;

tests! { Core, "refs":
    last_release_is_told_to_the_owner,
    second_reference_keeps_the_node,
    weak_reference_keeps_the_node_weakly,
    buffer_holds_what_it_carries,
    weak_cannot_become_strong_beside_strong_references,
    weak_cannot_become_strong_without_strong_references,
    release_of_what_is_not_held,
    decrefs_of_what_is_not_held,
    commands_on_unknown_handles_are_taken,
    two_holders_must_both_let_go,
    release_waits_for_the_owners_answer,
    owner_answers_that_make_no_sense,
    owner_is_asked_once,
    owner_is_asked_before_transaction_complete,
    owner_is_asked_again_after_letting_go,
    references_on_handle_zero,
    reference_on_handle_zero_without_a_manager,
    holder_that_closes_lets_go,
    owner_may_be_told_through_any_thread,
    order_of_acquire_and_increfs_is_free,
    counts_go_up_and_down_many_times,
    release_and_resend_in_one_write,
    node_is_held_while_it_is_sent,
    node_of_an_exiting_thread_is_told_to_the_next_sender,
    owner_reads_releases_of_a_dead_holder_handle_by_handle,
}

const NODE: PtrCookie = Pair::NODE;

/// What a command leaves the owner to hear.
#[track_caller]
fn tell(pair: &mut Pair, fill: impl FnOnce(&mut Commands<'static>, u32)) -> Vec<Return> {
    let handle = pair.handle;
    fill(pair.client.queue(), handle);
    assert_eq!(pair.client.flush(), Ok(()));
    pair.client.expect(&[]);
    pair.server.drain()
}

fn last_release_is_told_to_the_owner(env: &Env) {
    let mut pair = Pair::new(env);
    let told = tell(&mut pair, |commands, handle| {
        commands.release(handle);
    });
    assert_eq!(told, [Return::Release(NODE), Return::DecRefs(NODE)]);
}

fn second_reference_keeps_the_node(env: &Env) {
    let mut pair = Pair::new(env);
    let told = tell(&mut pair, |commands, handle| {
        commands.acquire(handle).acquire(handle).release(handle);
    });
    assert_eq!(told, []);
    pair.check();
    let told = tell(&mut pair, |commands, handle| {
        commands.release(handle);
    });
    assert_eq!(told, []);
    let told = tell(&mut pair, |commands, handle| {
        commands.release(handle);
    });
    assert_eq!(told, [Return::Release(NODE), Return::DecRefs(NODE)]);
}

fn weak_reference_keeps_the_node_weakly(env: &Env) {
    let mut pair = Pair::new(env);
    let told = tell(&mut pair, |commands, handle| {
        commands.increfs(handle).release(handle);
    });
    assert_eq!(told, [Return::Release(NODE)]);
    let told = tell(&mut pair, |commands, handle| {
        commands.decrefs(handle);
    });
    assert_eq!(told, [Return::DecRefs(NODE)]);
    // The handle is gone.
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    pair.client.expect(&[Return::FailedReply]);
}

fn buffer_holds_what_it_carries(env: &Env) {
    let mut pair = Pair::new(env);
    let ours = node(1);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_object(&object::binder(ours.ptr, ours.cookie))));
    let received = pair.server.expect_transaction();
    pair.server.answer(&Parcel::new());
    let returns = pair.client.drain();
    returns.iter().for_each(|ret| pair.client.grant(ret));
    pair.client.flush().expect("the references are granted");
    pair.client.expect(&[]);
    // The receiver took no reference of its own; the buffer's ends with the buffer.
    pair.server.start(Call::one_way(1, 1, &Parcel::new()));
    pair.server.expect(&[Return::TransactionComplete]);
    let inner = pair.client.expect_transaction();
    pair.client.give_back(&inner);
    pair.server.give_back(&received);
    pair.client.expect(&[Return::Release(ours), Return::DecRefs(ours)]);
    pair.server.start(Call::one_way(1, 1, &Parcel::new()));
    pair.server.expect(&[Return::FailedReply]);
}

fn weak_cannot_become_strong_beside_strong_references(env: &Env) {
    let mut pair = Pair::new(env);
    // Another process holds a strong reference.
    pair.registry.put(&mut pair.server, 2, object::binder(NODE.ptr, NODE.cookie));
    let told = tell(&mut pair, |commands, handle| {
        commands.increfs(handle).release(handle);
    });
    assert_eq!(told, []);
    let told = tell(&mut pair, |commands, handle| {
        commands.acquire(handle);
    });
    assert_eq!(told, []);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    pair.client.expect(&[Return::FailedReply]);
    // A strong one that comes in a buffer can be kept.
    pair.handle = pair.registry.get(&mut pair.client, 2);
    pair.check();
}

fn weak_cannot_become_strong_without_strong_references(env: &Env) {
    let mut pair = Pair::new(env);
    let told = tell(&mut pair, |commands, handle| {
        commands.increfs(handle).release(handle);
    });
    assert_eq!(told, [Return::Release(NODE)]);
    let told = tell(&mut pair, |commands, handle| {
        commands.acquire(handle);
    });
    assert_eq!(told, []);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    pair.client.expect(&[Return::FailedReply]);
    let told = tell(&mut pair, |commands, handle| {
        commands.decrefs(handle);
    });
    assert_eq!(told, [Return::DecRefs(NODE)]);
}

fn release_of_what_is_not_held(env: &Env) {
    let mut pair = Pair::new(env);
    // One is held weakly more, so that the handle stays.
    let told = tell(&mut pair, |commands, handle| {
        commands.increfs(handle).release(handle).release(handle).release(handle);
    });
    assert_eq!(told, [Return::Release(NODE)]);
    let told = tell(&mut pair, |commands, handle| {
        commands.decrefs(handle);
    });
    assert_eq!(told, [Return::DecRefs(NODE)]);
}

fn decrefs_of_what_is_not_held(env: &Env) {
    let mut pair = Pair::new(env);
    let told = tell(&mut pair, |commands, handle| {
        commands.decrefs(handle).decrefs(handle);
    });
    assert_eq!(told, []);
    pair.check();
    let told = tell(&mut pair, |commands, handle| {
        commands.release(handle);
    });
    assert_eq!(told, [Return::Release(NODE), Return::DecRefs(NODE)]);
}

fn commands_on_unknown_handles_are_taken(env: &Env) {
    let mut end = End::open(env);
    for handle in [1, 4711, 1 << 31, u32::MAX] {
        for code in [uapi::BC_INCREFS, uapi::BC_ACQUIRE, uapi::BC_RELEASE, uapi::BC_DECREFS] {
            end.queue().command(code, &handle);
            assert_eq!(end.flush(), Ok(()));
            end.expect(&[]);
        }
    }
}

fn two_holders_must_both_let_go(env: &Env) {
    let mut pair = Pair::new(env);
    let mut other = End::open(env);
    pair.registry.put(&mut pair.server, 2, object::binder(NODE.ptr, NODE.cookie));
    let handle = pair.registry.get(&mut other, 2);
    pair.registry.drop_kept(&mut other, 2);
    let told = tell(&mut pair, |commands, handle| {
        commands.release(handle);
    });
    assert_eq!(told, []);
    other.queue().release(handle);
    other.flush().expect("BC_RELEASE");
    pair.server.expect(&[Return::Release(NODE), Return::DecRefs(NODE)]);
}

/// The client's new node is with the server, which keeps it; the client has been asked and has not answered.
#[track_caller]
fn unanswered(pair: &mut Pair, ours: PtrCookie) -> u32 {
    let handle = pair.lend(ours);
    let returns = pair.client.drain();
    let [Return::IncRefs(one), Return::Acquire(two), Return::TransactionComplete, Return::Reply(reply)] = returns[..]
    else {
        panic!("{returns:x?}")
    };
    assert_eq!((one, two), (ours, ours));
    pair.client.give_back(&reply);
    handle
}

fn release_waits_for_the_owners_answer(env: &Env) {
    let mut pair = Pair::new(env);
    let ours = node(1);
    let handle = unanswered(&mut pair, ours);
    pair.server.queue().release(handle);
    pair.server.flush().expect("BC_RELEASE");
    pair.client.expect(&[]);
    pair.client.queue().increfs_done(ours);
    pair.client.flush().expect("BC_INCREFS_DONE");
    pair.client.expect(&[]);
    pair.client.queue().acquire_done(ours);
    pair.client.flush().expect("BC_ACQUIRE_DONE");
    pair.client.expect(&[Return::Release(ours), Return::DecRefs(ours)]);
}

fn owner_answers_that_make_no_sense(env: &Env) {
    let mut pair = Pair::new(env);
    let ours = node(1);
    let handle = unanswered(&mut pair, ours);
    let wrong = [
        PtrCookie { ptr: ours.ptr + 8, ..ours },
        PtrCookie { cookie: ours.cookie + 8, ..ours },
        PtrCookie { ptr: 0, cookie: 0 },
        PtrCookie { ptr: u64::MAX, cookie: u64::MAX },
    ];
    for wrong in wrong {
        pair.client.queue().increfs_done(wrong).acquire_done(wrong);
        assert_eq!(pair.client.flush(), Ok(()));
        pair.client.expect(&[]);
    }
    pair.client.queue().increfs_done(ours).acquire_done(ours);
    // And once too often.
    pair.client.queue().increfs_done(ours).acquire_done(ours);
    assert_eq!(pair.client.flush(), Ok(()));
    pair.client.expect(&[]);
    // Nor may an answer from another process count.
    pair.server.queue().increfs_done(ours).acquire_done(ours);
    assert_eq!(pair.server.flush(), Ok(()));
    pair.server.start(Call::one_way(handle, 1, &Parcel::new()));
    pair.server.expect(&[Return::TransactionComplete]);
    let received = pair.client.expect_transaction();
    pair.client.give_back(&received);
    pair.server.queue().release(handle);
    pair.server.flush().expect("BC_RELEASE");
    pair.client.expect(&[Return::Release(ours), Return::DecRefs(ours)]);
}

fn owner_is_asked_once(env: &Env) {
    let mut pair = Pair::new(env);
    let ours = node(1);
    unanswered(&mut pair, ours);
    // The node goes out again, to another process and to the same one, and nothing new is asked.
    for _ in 0..2 {
        pair.client.start(Call::new(pair.handle, 1, &Parcel::from_object(&object::binder(ours.ptr, ours.cookie))));
        let received = pair.server.expect_transaction();
        pair.server.give_back(&received);
        pair.server.answer(&Parcel::new());
        let reply = pair.client.expect_reply();
        pair.client.give_back(&reply);
    }
}

fn owner_is_asked_before_transaction_complete(env: &Env) {
    let send = |pair: &mut Pair, objects: &[FlatObject]| {
        let mut parcel = Parcel::new();
        for object in objects {
            parcel.object(object);
        }
        pair.client.start(Call::one_way(pair.handle, 1, &parcel));
    };
    let strong = |node: PtrCookie| object::binder(node.ptr, node.cookie);
    let weak = |node: PtrCookie| object::weak_binder(node.ptr, node.cookie);
    let complete = Return::TransactionComplete;
    let asked = |node| [Return::IncRefs(node), Return::Acquire(node)];
    let mut pair = Pair::new(env);

    // Strongly, then weakly: what is queued first is enough.
    let [one, two, three, four] = [node(1), node(2), node(3), node(4)];
    send(&mut pair, &[strong(one)]);
    send(&mut pair, &[weak(one)]);
    pair.client.expect(&[asked(one)[0], asked(one)[1], complete, complete]);
    send(&mut pair, &[strong(two), weak(two)]);
    pair.client.expect(&[asked(two)[0], asked(two)[1], complete]);

    // Weakly, then strongly: what is queued moves behind the completion of the first call.
    send(&mut pair, &[weak(three)]);
    send(&mut pair, &[strong(three)]);
    pair.client.expect(&[complete, asked(three)[0], asked(three)[1], complete]);

    // With two nodes the one that has to move does, and the other does not.
    send(&mut pair, &[weak(four), strong(node(5))]);
    send(&mut pair, &[strong(four), weak(node(5))]);
    let five = asked(node(5));
    pair.client.expect(&[five[0], five[1], complete, asked(four)[0], asked(four)[1], complete]);
}

fn owner_is_asked_again_after_letting_go(env: &Env) {
    let mut pair = Pair::new(env);
    let ours = node(1);
    for _ in 0..3 {
        let handle = unanswered(&mut pair, ours);
        pair.client.queue().increfs_done(ours).acquire_done(ours);
        pair.client.flush().expect("the references are granted");
        pair.server.queue().release(handle);
        pair.server.flush().expect("BC_RELEASE");
        pair.client.expect(&[Return::Release(ours), Return::DecRefs(ours)]);
    }
}

fn references_on_handle_zero(env: &Env) {
    let mut pair = Pair::new(env);
    for _ in 0..3 {
        pair.client.queue().increfs(0).acquire(0);
        assert_eq!(pair.client.flush(), Ok(()));
        pair.client.expect(&[]);
        pair.client.queue().release(0).decrefs(0);
        assert_eq!(pair.client.flush(), Ok(()));
        pair.client.expect(&[]);
    }
    // It can be called with a reference and without one.
    let mut other = End::open(env);
    pair.registry.put(&mut other, 9, object::binder(1, 1));
    other.queue().acquire(0);
    other.flush().expect("BC_ACQUIRE");
    pair.registry.put(&mut other, 10, object::binder(2, 2));
}

fn reference_on_handle_zero_without_a_manager(env: &Env) {
    let mut end = End::open(env);
    crate::fixture::Registry::start(env).kill(&mut end);
    end.queue().acquire(0).increfs(0).release(0).decrefs(0);
    assert_eq!(end.flush(), Ok(()));
    end.expect(&[]);
}

fn holder_that_closes_lets_go(env: &Env) {
    let Pair { client, mut server, handle: _, registry } = Pair::new(env);
    client.binder().version().expect("the file is open");
    drop(client);
    assert_eq!(server.wait(), Return::Release(NODE));
    assert_eq!(server.wait(), Return::DecRefs(NODE));
    drop(registry);
}

fn owner_may_be_told_through_any_thread(env: &Env) {
    let mut pair = Pair::new(env);
    let handle = pair.handle;
    pair.client.queue().release(handle);
    pair.client.flush().expect("BC_RELEASE");
    let binder = pair.server.binder().clone();
    let told = std::thread::spawn(move || {
        let mut looper = binder_client::Looper::new(binder);
        looper.queue().enter_looper();
        (looper.next(), looper.next())
    })
    .join()
    .expect("the thread is well");
    assert_eq!(told, (Ok(Return::Release(NODE)), Ok(Return::DecRefs(NODE))));
    pair.server.expect(&[]);
}

fn order_of_acquire_and_increfs_is_free(env: &Env) {
    let mut pair = Pair::new(env);
    let told = tell(&mut pair, |commands, handle| {
        commands.acquire(handle).increfs(handle).release(handle).decrefs(handle);
    });
    assert_eq!(told, []);
    let told = tell(&mut pair, |commands, handle| {
        commands.increfs(handle).acquire(handle).decrefs(handle).release(handle);
    });
    assert_eq!(told, []);
    pair.check();
}

fn counts_go_up_and_down_many_times(env: &Env) {
    let mut pair = Pair::new(env);
    for _ in 0..100 {
        let told = tell(&mut pair, |commands, handle| {
            for _ in 0..50 {
                commands.acquire(handle).increfs(handle);
            }
            for _ in 0..50 {
                commands.decrefs(handle).release(handle);
            }
        });
        assert_eq!(told, []);
    }
    let told = tell(&mut pair, |commands, handle| {
        commands.release(handle);
    });
    assert_eq!(told, [Return::Release(NODE), Return::DecRefs(NODE)]);
}

fn release_and_resend_in_one_write(env: &Env) {
    let mut pair = Pair::new(env);
    // The last reference goes, and before the owner has heard of it the owner sends the node again.
    let handle = pair.handle;
    pair.client.start(Call::one_way(handle, 1, &Parcel::new()));
    pair.client.queue().release(handle);
    pair.client.flush().expect("BC_RELEASE");
    pair.client.expect(&[Return::TransactionComplete]);
    pair.registry.put(&mut pair.server, 2, object::binder(NODE.ptr, NODE.cookie));
    // There is nothing to be told any more: the node was never without a holder that the owner knew of.
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
}

/// One thread sends a handle while another of its process gives it up, and the owner reads all the while. Either the
/// handle is not there any more, or the owner gets its node, and has not been told before that it is let go of.
fn node_is_held_while_it_is_sent(env: &Env) {
    const OTHER: PtrCookie = node(0x77);
    /// Codes of calls: give a handle, take it back, say that you are here.
    const GIVE: u32 = 1;
    const TAKE: u32 = 2;
    const HERE: u32 = 3;

    let pair = Pair::new(env);
    let mut client = pair.client;
    client.set_blocking(true);
    // The driver asks this between looking the handle up and counting the node.
    let slow = Slow::function("security_binder_transfer_binder");
    if slow.is_none() {
        println!("no probe: what is looked for is less likely");
    }
    let rounds = if env.thorough { 20_000 } else { 1000 };
    pair.server.set_blocking(true);
    let (say_here, here) = mpsc::channel();
    let binder = pair.server.binder().clone();
    std::thread::spawn(move || {
        let mut server = Looper::new(binder);
        server.queue().enter_looper();
        let mut held = false;
        loop {
            match server.next().expect("BINDER_WRITE_READ") {
                ret @ (Return::IncRefs(_) | Return::Acquire(_)) => {
                    held |= ret == Return::Acquire(OTHER);
                    server.grant(&ret);
                }
                Return::Release(OTHER) | Return::DecRefs(OTHER) => held = false,
                Return::Transaction(received) => {
                    server.free(&received);
                    match received.code {
                        GIVE => {
                            let parcel = Parcel::from_object(&object::binder(OTHER.ptr, OTHER.cookie));
                            server.reply(&parcel).expect("BC_REPLY");
                        }
                        TAKE => assert!(held, "the owner gets a node that it was told is not held"),
                        _ => say_here.send(()).expect("the test is there"),
                    }
                }
                _ => {}
            }
        }
    });
    let (give, given) = mpsc::channel::<(u32, u32)>();
    let (done, is_done) = mpsc::channel();
    let releaser = std::thread::spawn({
        let binder = client.binder().clone();
        move || {
            for (round, handle) in given {
                // Now a little earlier, now a little later than the sender.
                (0..round * 37 % 1500).for_each(|_| std::hint::spin_loop());
                let mut commands = Commands::new();
                commands.release(handle);
                binder.write_read(commands.bytes(), &mut []).0.expect("BC_RELEASE");
                done.send(()).expect("the test is there");
            }
        }
    });
    let (mut sent, mut refused) = (0, 0);
    for round in 1..=rounds {
        // The client gets a handle with one strong reference, and nothing else holds the node.
        let reply = client.call(Call::new(pair.handle, GIVE, &Parcel::new())).expect("a reply");
        let payload = client.payload(&reply).expect("a readable reply");
        let handle = payload.flat(0).and_then(|object| object.as_handle()).expect("a handle");
        client.queue().acquire(handle);
        client.give_back(&reply);
        let parcel = Parcel::from_object(&object::handle(handle));
        give.send((round, handle)).expect("the other thread is there");
        match client.send(Call::one_way(pair.handle, TAKE, &parcel)) {
            Ok(()) => sent += 1,
            Err(Error::Failed) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        is_done.recv().expect("the other thread is there");
        client.send(Call::one_way(pair.handle, HERE, &Parcel::new())).expect("it is taken");
        here.recv().expect("the owner is there");
    }
    drop(give);
    releaser.join().expect("the other thread is well");
    println!("{sent} were sent, {refused} were not");
}

/// A thread that leaves has asked its owner for a node and not read that; another one sends the node meanwhile. The
/// owner is asked before the second thread reads that the node was sent.
fn node_of_an_exiting_thread_is_told_to_the_next_sender(env: &Env) {
    const OTHER: PtrCookie = node(0x78);
    /// What the thread has to give up before the node.
    const BEFORE: usize = 2000;

    let mut pair = Pair::new(env);
    let rounds = if env.thorough { 300 } else { 10 };
    let target = pair.lend(node(0x79));
    pair.client.drain();
    // The second one sends the node to another process, for which the node is new.
    let mut other = End::open(env);
    pair.registry.put(&mut other, 5, object::binder(0x7a000, 0x7a008));
    let second_target = pair.registry.get(&mut pair.server, 5);
    for round in 0..rounds {
        let (say_ready, ready) = mpsc::channel();
        let (say_go, go) = mpsc::channel::<()>();
        let leaver = std::thread::spawn({
            let binder = pair.server.binder().clone();
            move || {
                let empty = Parcel::new();
                let parcel = Parcel::from_object(&object::binder(OTHER.ptr, OTHER.cookie));
                let mut commands = Commands::new();
                for _ in 0..BEFORE {
                    commands.transaction(Call::one_way(target, 1, &empty));
                }
                commands.transaction(Call::one_way(target, 2, &parcel));
                binder.write_read(commands.bytes(), &mut []).0.expect("BC_TRANSACTION");
                say_ready.send(()).expect("the test is there");
                go.recv().expect("the test is there");
                binder.thread_exit().expect("BINDER_THREAD_EXIT");
            }
        });
        ready.recv().expect("the other thread is there");
        say_go.send(()).expect("the other thread is there");
        (0..round * 97).for_each(|_| std::hint::spin_loop());
        let parcel = Parcel::from_object(&object::binder(OTHER.ptr, OTHER.cookie));
        pair.server.start(Call::one_way(second_target, 3, &parcel));
        let told = pair.server.drain();
        leaver.join().expect("the other thread is well");
        assert_eq!(
            told,
            [Return::IncRefs(OTHER), Return::Acquire(OTHER), Return::TransactionComplete],
            "round {round}"
        );
        pair.server.queue().increfs_done(OTHER).acquire_done(OTHER);
        pair.server.flush().expect("BC_ACQUIRE_DONE");
        // One after the other: the next is due when the one before is freed.
        let mut left = BEFORE + 1;
        while left > 0 {
            for ret in pair.client.drain() {
                if let Return::Transaction(received) = ret {
                    pair.client.give_back(&received);
                    left -= 1;
                }
            }
        }
        let received = other.expect_transaction();
        other.give_back(&received);
        pair.server.expect(&[Return::Release(OTHER), Return::DecRefs(OTHER)]);
    }
}

/// A holder dies with one one-way transaction to be read and one that waits behind it, each with a node of the sender's.
/// The sender hears of the nodes in the order of the handles, and not in that in which transactions are given up.
fn owner_reads_releases_of_a_dead_holder_handle_by_handle(env: &Env) {
    let Pair { mut client, server, handle, registry: _registry } = Pair::new(env);
    let nodes = [node(0x81), node(0x80)];
    for node in nodes {
        let parcel = Parcel::from_object(&object::binder(node.ptr, node.cookie));
        client.start(Call::one_way(handle, 1, &parcel));
        client.expect(&[Return::IncRefs(node), Return::Acquire(node), Return::TransactionComplete]);
        client.queue().increfs_done(node).acquire_done(node);
        client.flush().expect("BC_ACQUIRE_DONE");
    }
    drop(server);
    let told: Vec<Return> = (0..4).map(|_| client.wait()).collect();
    let [first, second] = nodes;
    let wanted = [Return::Release(first), Return::DecRefs(first), Return::Release(second), Return::DecRefs(second)];
    assert_eq!(told, wanted);
}
