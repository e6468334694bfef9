// SPDX-License-Identifier: GPL-2.0

//! Which memory cgroup is charged, and transactions at its limit.
//!
//! The measure is `memory.current`, which is exact but for the stock that each CPU has charged in advance.

use std::os::fd::AsFd;

use binder_client::Call;
use binder_client::MAX_MAPPING;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::process::Line;
use binder_client::uapi::TF_ONE_WAY;
use binder_client::uapi::TransactionData;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use super::reclaim::squeeze;
use super::tests;
use super::transaction::pattern;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::fixture::until;
use crate::hostile::PAGE;
use crate::hostile::Torn;
use crate::kernel::Cgroup;
use crate::kernel::kept_groups;

tests! { Interface, "memcg":
    pages_are_paid_by_the_receiver,
    pages_of_replies_are_paid_by_the_caller,
    pages_are_paid_by_the_group_at_the_time_of_the_mapping,
    pages_of_a_removed_group_are_paid_by_its_parent,
    removed_groups_go_with_the_mapping,
    unused_pages_make_room_at_the_limit,
    the_limit_fails_calls_and_kills_no_process,
    nodes_and_handles_are_paid_by_the_sender,
    one_way_calls_are_paid_by_the_sender,
    nested_calls_are_paid_by_the_caller,
    unread_replies_are_paid_by_the_caller,
}

/// The kernel tells of a process that it kills with a stack, so this is run where that is expected.
pub const KILLED: &[crate::tests::Test] = &[crate::tests::Test {
    name: "memcg.a_sender_at_its_limit_fills_no_other_process",
    group: crate::tests::Group::OutOfMemory,
    run: a_sender_at_its_limit_fills_no_other_process,
}];

const MB: usize = 1 << 20;

/// What may be charged beyond what is used, or not at all: each processor charges 64 pages in advance, and there is what
/// a process has by itself.
const SLACK: usize = MB;

/// Bytes of a large call: all of the mapping but the room for a few small ones.
const LARGE: usize = MAX_MAPPING - 16 * PAGE;

/// Whether this driver charges anything.
fn charges(env: &Env) -> bool {
    env.driver(Difference::MemoryCharged) == Driver::Ours
}

/// What a group has now beyond what it had.
fn growth(group: &Cgroup, before: usize) -> usize {
    group.current().saturating_sub(before)
}

/// Of a group that pays for `bytes`, or with the C driver for none of them.
#[track_caller]
fn expect_charged(env: &Env, group: &Cgroup, before: usize, bytes: usize) {
    let grown = growth(group, before);
    if charges(env) {
        assert!(grown + SLACK >= bytes, "{grown} of {bytes} bytes are charged");
        assert!(grown <= 2 * bytes + SLACK, "{grown} bytes are charged for {bytes}");
    } else {
        expect_free(group, before);
    }
}

/// Of a group that pays for nothing.
#[track_caller]
fn expect_free(group: &Cgroup, before: usize) {
    let grown = growth(group, before);
    assert!(grown <= SLACK, "{grown} bytes are charged");
}

/// What a [`receiver`] is told to do.
const TAKE: u64 = 1;
const GIVE_BACK: u64 = 2;
const COUNT: u64 = 3;

/// A process that takes calls to node `number` when it is told to, answers them, and keeps their buffers until it is told to
/// give them back. It does `first` before it opens the device, and `then` when it has its mapping.
fn receiver(env: &Env, registry: &Registry, number: u32, first: impl Fn(), then: impl Fn()) -> Peer {
    let peer = Peer::start(env, |env, line| {
        first();
        let mut server = End::open_unmapped(env);
        let torn = Torn::map(server.binder().as_fd(), MAX_MAPPING);
        then();
        registry.put(&mut server, number, object::binder(8, 8));
        obey(server.enter(), &torn, line);
    });
    peer.hear();
    peer
}

fn obey(mut server: End, torn: &Torn, line: &Line) {
    let mut kept: Vec<TransactionData> = Vec::new();
    line.say(0).expect("the test is there");
    while let Ok(order) = line.hear() {
        let answer = match order {
            TAKE => {
                let mut received = server.wait_transaction();
                while received.flags & TF_ONE_WAY != 0 {
                    server.give_back(&received);
                    received = server.wait_transaction();
                }
                kept.push(received);
                server.start_reply(Call::reply(&Parcel::new()));
                assert_eq!(server.wait(), Return::TransactionComplete);
                0
            }
            GIVE_BACK => {
                kept.drain(..).for_each(|received| server.give_back(&received));
                0
            }
            COUNT => super::reclaim::count(torn.at(0), MAX_MAPPING),
            other => panic!("not an order: {other}"),
        };
        line.say(answer as u64).expect("the test is there");
    }
}

fn order(peer: &Peer, order: u64) -> u64 {
    peer.say(order);
    peer.hear()
}

/// Makes a call, and has the receiver answer it and keep it; the error if it does not get there.
#[track_caller]
fn call(client: &mut End, handle: u32, receiver: &Peer, bytes: &[u8]) -> Result<(), Errno> {
    client.start(Call::new(handle, 1, &Parcel::from_bytes(bytes)));
    match client.drain()[..] {
        [] => {}
        [Return::FailedReply] => return Err(client.errno()),
        ref other => panic!("neither taken nor refused: {other:x?}"),
    }
    order(receiver, TAKE);
    let reply = client.expect_reply();
    client.give_back(&reply);
    Ok(())
}

fn pages_are_paid_by_the_receiver(env: &Env) {
    let (receivers, senders) = (Cgroup::new(env, "receiver"), Cgroup::new(env, "sender"));
    let registry = Registry::start(env);
    let server = receiver(env, &registry, 1, || receivers.enter(), || {});
    let sender = Peer::start(env, |env, line| {
        senders.enter();
        let mut client = End::open(env);
        let handle = registry.get(&mut client, 1);
        let parcel = Parcel::from_bytes(&pattern(LARGE, 1));
        line.say(0).expect("the test is there");
        while line.hear().is_ok() {
            client.start(Call::new(handle, 1, &parcel));
            client.expect(&[]);
            line.say(0).expect("the test is there");
            let reply = client.wait();
            assert_eq!(reply, Return::TransactionComplete);
            let Return::Reply(reply) = client.wait() else { panic!("not a reply") };
            client.give_back(&reply);
            line.say(0).expect("the test is there");
        }
    });
    sender.hear();
    let before = (receivers.current(), senders.current());
    for _ in 0..3 {
        sender.say(0);
        sender.hear();
        order(&server, TAKE);
        sender.hear();
        expect_charged(env, &receivers, before.0, LARGE);
        expect_free(&senders, before.1);
        // Reclaim gives it back.
        order(&server, GIVE_BACK);
        until(|| {
            squeeze();
            order(&server, COUNT) == 0 && growth(&receivers, before.0) <= SLACK
        });
    }
    // So does the end, also of pages that are in use.
    sender.say(0);
    sender.hear();
    order(&server, TAKE);
    sender.hear();
    expect_charged(env, &receivers, before.0, LARGE);
    drop(server);
    until(|| receivers.current() <= SLACK);
    expect_free(&senders, before.1);
}

fn pages_of_replies_are_paid_by_the_caller(env: &Env) {
    let (callers, servers) = (Cgroup::new(env, "caller"), Cgroup::new(env, "server"));
    let registry = Registry::start(env);
    let server = Peer::start(env, |env, line| {
        servers.enter();
        let mut server = End::open(env);
        registry.put(&mut server, 1, object::binder(8, 8));
        let mut server = server.enter();
        let parcel = Parcel::from_bytes(&pattern(LARGE, 1));
        line.say(0).expect("the test is there");
        let received = server.wait_transaction();
        server.give_back(&received);
        server.answer(&parcel);
        let _ = line.hear();
    });
    server.hear();
    let caller = Peer::start(env, |env, line| {
        callers.enter();
        let mut client = End::open_sized(env, MAX_MAPPING);
        let handle = registry.get(&mut client, 1);
        line.say(0).expect("the test is there");
        line.hear().expect("the test is there");
        let reply = client.blocking(|looper| looper.call(Call::new(handle, 1, &Parcel::new()))).expect("a reply");
        assert_eq!(reply.data_size, LARGE as u64);
        line.say(0).expect("the test is there");
        let _ = line.hear();
    });
    caller.hear();
    let before = (callers.current(), servers.current());
    caller.say(0);
    caller.hear();
    expect_charged(env, &callers, before.0, LARGE);
    expect_free(&servers, before.1);
}

fn pages_are_paid_by_the_group_at_the_time_of_the_mapping(env: &Env) {
    let opened = Cgroup::new(env, "opened");
    let (first, then) = (Cgroup::new(env, "first"), Cgroup::new(env, "then"));
    let registry = Registry::start(env);
    let server = Peer::start(env, |env, line| {
        opened.enter();
        let mut server = End::open_unmapped(env);
        first.enter();
        let torn = Torn::map(server.binder().as_fd(), MAX_MAPPING);
        then.enter();
        registry.put(&mut server, 1, object::binder(8, 8));
        obey(server.enter(), &torn, line);
    });
    server.hear();
    let mut client = End::open(env);
    let handle = registry.get(&mut client, 1);
    let before = (first.current(), then.current(), opened.current());
    assert_eq!(call(&mut client, handle, &server, &pattern(LARGE, 1)), Ok(()));
    expect_charged(env, &first, before.0, LARGE);
    expect_free(&then, before.1);
    expect_free(&opened, before.2);
    drop(server);
    until(|| growth(&first, before.0) <= SLACK);
}

fn pages_of_a_removed_group_are_paid_by_its_parent(env: &Env) {
    let (parent, elsewhere) = (Cgroup::new(env, "parent"), Cgroup::new(env, "elsewhere"));
    let child = parent.child("child");
    let registry = Registry::start(env);
    let server = receiver(env, &registry, 1, || child.enter(), || elsewhere.enter());
    let mut client = End::open(env);
    let handle = registry.get(&mut client, 1);
    let before = (parent.current(), elsewhere.current());
    // Pages from before, in use and unused.
    let half = LARGE / 2;
    assert_eq!(call(&mut client, handle, &server, &pattern(half, 1)), Ok(()));
    order(&server, GIVE_BACK);
    assert_eq!(call(&mut client, handle, &server, &pattern(half / 2, 2)), Ok(()));
    expect_charged(env, &parent, before.0, half);
    child.remove();
    expect_charged(env, &parent, before.0, half);
    // Pages that come now.
    assert_eq!(call(&mut client, handle, &server, &pattern(half, 3)), Ok(()));
    expect_charged(env, &parent, before.0, half / 2 + half);
    expect_free(&elsewhere, before.1);
    order(&server, GIVE_BACK);
    // What the parent has at its limit are these pages, all of them unused, and it is given them.
    if charges(env) {
        parent.limit(MB);
        assert!(parent.current() <= MB);
        assert_eq!(parent.events("oom_kill"), 0);
        parent.no_limit();
    }
    assert_eq!(call(&mut client, handle, &server, &pattern(LARGE, 4)), Ok(()));
    expect_charged(env, &parent, before.0, LARGE);
    drop(server);
    until(|| growth(&parent, before.0) <= SLACK);
}

fn removed_groups_go_with_the_mapping(env: &Env) {
    const GROUPS: usize = 60;
    // Each processor remembers up to seven of them, with nothing charged, until it meets others.
    let of_the_kernel = 7 * std::thread::available_parallelism().map_or(1, usize::from);
    if of_the_kernel * 2 > GROUPS {
        env.skip("too many processors: each remembers groups of its own");
    }
    let elsewhere = Cgroup::plain("elsewhere");
    let registry = Registry::start(env);
    let mut client = End::open(env);
    let mut handles = Vec::new();
    for number in 0..GROUPS as u32 {
        let group = Cgroup::new(env, "removed");
        let server = receiver(env, &registry, number, || group.enter(), || elsewhere.enter());
        group.remove();
        // What is left of the process, as long as there is a handle, needs no group.
        handles.push(registry.get(&mut client, number));
        assert_eq!(call(&mut client, handles[number as usize], &server, b"a page"), Ok(()));
    }
    until(|| kept_groups() <= of_the_kernel);
}

/// Receivers in a group, each with a mapping of [`MAX_MAPPING`], and a client elsewhere with a handle to each.
fn receivers(env: &Env, registry: &Registry, group: &Cgroup, number: u32) -> (End, Vec<(u32, Peer)>) {
    let mut client = End::open(env);
    let all = (0..number).map(|number| {
        let peer = receiver(env, registry, number, || group.enter(), || {});
        (registry.get(&mut client, number), peer)
    });
    let all = all.collect();
    (client, all)
}

fn unused_pages_make_room_at_the_limit(env: &Env) {
    let group = Cgroup::new(env, "limited");
    let registry = Registry::start(env);
    let (mut client, all) = receivers(env, &registry, &group, 4);
    group.limit(group.current() + 2 * MAX_MAPPING);
    let bytes = pattern(LARGE, 1);
    for _ in 0..2 {
        for (handle, peer) in &all {
            // What the others have is unused.
            assert_eq!(call(&mut client, *handle, peer, &bytes), Ok(()));
            order(peer, GIVE_BACK);
        }
    }
    assert_eq!(group.events("max") > 0, charges(env), "whether the limit was met");
    assert_eq!(group.events("oom_kill"), 0);
}

fn the_limit_fails_calls_and_kills_no_process(env: &Env) {
    let group = Cgroup::new(env, "limited");
    let registry = Registry::start(env);
    let (mut client, all) = receivers(env, &registry, &group, 12);
    let (before, room) = (group.current(), 24 * MB);
    group.limit(before + room);
    let bytes = pattern(LARGE, 1);
    let mut taken = 0;
    for (handle, peer) in &all {
        match call(&mut client, *handle, peer, &bytes) {
            Ok(()) => taken += 1,
            Err(errno) => assert_eq!(errno, Errno::ENOMEM),
        }
    }
    assert_eq!(group.events("oom_kill"), 0);
    if !charges(env) {
        assert_eq!(taken, all.len());
        return expect_free(&group, before);
    }
    assert!((4..=6).contains(&taken), "{taken} calls of 4 MB were taken by a group with 24 MB");
    assert!(growth(&group, before) <= room);
    // All of them live, nothing of what failed is left over, and there is room for as many again.
    all.iter().for_each(|(_, peer)| assert_eq!(order(peer, GIVE_BACK), 0));
    for (handle, peer) in all.iter().rev() {
        assert_eq!(call(&mut client, *handle, peer, &bytes), Ok(()));
        order(peer, GIVE_BACK);
    }
    assert_eq!(group.events("oom_kill"), 0);
}

/// A process in a group that does something with a handle to node 1, and what the group had before.
fn causer(env: &Env, registry: &Registry, group: &Cgroup, body: impl Fn(&mut End, u32)) -> (Peer, usize) {
    let peer = Peer::start(env, |env, line| {
        group.enter();
        let mut client = End::open(env);
        let handle = registry.get(&mut client, 1);
        line.say(0).expect("the test is there");
        line.hear().expect("the test is there");
        body(&mut client, handle);
        line.say(0).expect("the test is there");
        let _ = line.hear();
    });
    peer.hear();
    let before = group.current();
    peer.say(0);
    (peer, before)
}

fn nodes_and_handles_are_paid_by_the_sender(env: &Env) {
    const NODES: u64 = 20_000;
    const PER_CALL: u64 = 500;
    let (senders, receivers) = (Cgroup::new(env, "sender"), Cgroup::new(env, "receiver"));
    let registry = Registry::start(env);
    let server = receiver(env, &registry, 1, || receivers.enter(), || {});
    let received = receivers.current();
    let (sender, before) = causer(env, &registry, &senders, |client, handle| {
        for first in (0..NODES).step_by(PER_CALL as usize) {
            let mut parcel = Parcel::new();
            for number in first..first + PER_CALL {
                parcel.object(&object::binder(0x1000 + number, number));
            }
            client.start(Call::one_way(handle, 1, &parcel));
            assert_eq!(client.drain().last(), Some(&Return::TransactionComplete));
        }
    });
    sender.hear();
    // A node and a handle are no less than 200 bytes each.
    expect_charged_at_least(env, &senders, before, NODES as usize * 400);
    // That has the pages of the calls.
    assert!(growth(&receivers, received) <= NODES as usize * 32 + SLACK);
    drop(server);
    drop(sender);
    until(|| senders.current() <= SLACK);
}

/// What two processors may have charged in advance by the time that is compared with, and use up afterwards.
const IN_ADVANCE: usize = MB / 2;

/// Of a group that pays for no less than `bytes`, or with the C driver for none of them.
#[track_caller]
fn expect_charged_at_least(env: &Env, group: &Cgroup, before: usize, bytes: usize) {
    let grown = growth(group, before);
    if charges(env) {
        assert!(bytes > 2 * IN_ADVANCE, "too little to be told from what is charged in advance");
        assert!(grown + IN_ADVANCE >= bytes, "{grown} of {bytes} bytes are charged");
    } else {
        expect_free(group, before);
    }
}

/// One-way calls without a byte, until so many are taken or one is not.
fn pile_up(client: &mut End, handle: u32, calls: usize) -> usize {
    let empty = Parcel::new();
    for number in 0..calls {
        client.start(Call::one_way(handle, 1, &empty));
        match client.drain()[..] {
            [Return::TransactionComplete] => {}
            [Return::FailedReply] => return number,
            ref other => panic!("neither taken nor refused: {other:x?}"),
        }
    }
    calls
}

fn one_way_calls_are_paid_by_the_sender(env: &Env) {
    const CALLS: usize = 10_000;
    let (senders, receivers) = (Cgroup::new(env, "sender"), Cgroup::new(env, "receiver"));
    let registry = Registry::start(env);
    let server = receiver(env, &registry, 1, || receivers.enter(), || {});
    let received = receivers.current();
    let (sender, before) = causer(env, &registry, &senders, |client, handle| {
        assert_eq!(pile_up(client, handle, CALLS), CALLS);
    });
    sender.hear();
    expect_charged_at_least(env, &senders, before, CALLS * 192);
    expect_free(&receivers, received);
    // They stay when the sender goes, and go when the receiver does.
    drop(sender);
    expect_charged_at_least(env, &senders, 0, CALLS * 192);
    drop(server);
    until(|| senders.current() <= SLACK);
}

fn nested_calls_are_paid_by_the_caller(env: &Env) {
    const DEPTH: usize = 8000;
    let group = Cgroup::new(env, "deep");
    let peer = Peer::start(env, |env, line| {
        let Pair { mut client, mut server, handle, registry } = Pair::new(env);
        registry.put(&mut client, 2, object::binder(0xc000, 0xc001));
        client.flush().expect("the references are granted");
        let back = registry.get(&mut server, 2);
        group.enter();
        line.say(0).expect("the test is there");
        line.hear().expect("the test is there");
        let empty = Parcel::new();
        let mut ends = [(&mut client, handle), (&mut server, back)];
        for depth in 0..DEPTH {
            let (caller, handle) = &mut ends[depth % 2];
            caller.start(Call::new(*handle, 1, &empty));
            let (callee, _) = &mut ends[(depth + 1) % 2];
            let received = match callee.drain()[..] {
                [Return::TransactionComplete, Return::Transaction(received)] | [Return::Transaction(received)] => {
                    received
                }
                ref other => panic!("not a call: {other:x?}"),
            };
            // So that there is no need of room in the mapping.
            callee.give_back(&received);
        }
        line.say(0).expect("the test is there");
        let _ = line.hear();
    });
    peer.hear();
    let before = group.current();
    peer.say(0);
    peer.hear();
    expect_charged_at_least(env, &group, before, DEPTH * 192);
    drop(peer);
    until(|| group.current() <= SLACK);
}

fn unread_replies_are_paid_by_the_caller(env: &Env) {
    const REPLIES: usize = 5000;
    let (callers, servers) = (Cgroup::new(env, "caller"), Cgroup::new(env, "server"));
    let registry = Registry::start(env);
    // One process has both ends. It is in the servers' group, but for when it makes the client's mapping.
    let peer = Peer::start(env, |env, line| {
        callers.enter();
        let mut client = End::open_sized(env, MAX_MAPPING);
        servers.enter();
        let mut server = End::open(env);
        registry.put(&mut server, 1, object::binder(8, 8));
        let handle = registry.get(&mut client, 1);
        let mut server = server.enter();
        line.say(0).expect("the test is there");
        line.hear().expect("the test is there");
        let empty = Parcel::new();
        let parcel = Parcel::from_object(&object::binder(8, 8));
        for _ in 0..REPLIES {
            // Nothing of it is ever read.
            client.start(Call::new(handle, 1, &empty));
            let received = server.expect_transaction();
            server.give_back(&received);
            server.answer(&parcel);
        }
        line.say(0).expect("the test is there");
        let _ = line.hear();
    });
    peer.hear();
    let before = (callers.current(), servers.current());
    peer.say(0);
    peer.hear();
    println!("{} bytes a reply", growth(&callers, before.0) / REPLIES);
    // The reply itself is 192 bytes; what it brings, and what keeps its place in the mapping, are more than that.
    expect_charged_at_least(env, &callers, before.0, REPLIES * 450);
    expect_free(&servers, before.1);
    drop(peer);
    until(|| callers.current() <= SLACK);
}

fn a_sender_at_its_limit_fills_no_other_process(env: &Env) {
    if !charges(env) {
        env.skip("nothing is charged, so there is no limit to be met");
    }
    const MORE_THAN_THERE_IS: usize = 1_000_000;
    let limit = 8 * MB;
    let (attackers, victims) = (Cgroup::new(env, "attacker"), Cgroup::new(env, "victim"));
    let registry = Registry::start(env);
    let victim = receiver(env, &registry, 1, || victims.enter(), || {});
    attackers.limit(limit);
    let untouched = victims.current();
    let mut client = End::open(env);
    let handle = registry.get(&mut client, 1);
    let (attacker, _) = causer(env, &registry, &attackers, |client, handle| {
        pile_up(client, handle, MORE_THAN_THERE_IS);
        std::process::exit(0)
    });
    // It is its own limit that it meets, and the kernel does what it does with a process that wants more than that.
    let ended = attacker.ended();
    assert!(matches!(ended, WaitStatus::Signaled(_, Signal::SIGKILL, _)), "{ended:?}");
    assert!(attackers.events("oom_kill") > 0);
    assert!(attackers.current() <= limit);
    expect_free(&victims, untouched);
    assert_eq!(victims.events("oom_kill"), 0);
    // What it has piled up is left. Its group can go, and the victim works.
    attackers.remove();
    for number in 0..100 {
        assert_eq!(call(&mut client, handle, &victim, &pattern(1000, number)), Ok(()));
        order(&victim, GIVE_BACK);
    }
}
