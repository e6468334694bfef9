// SPDX-License-Identifier: GPL-2.0

//! Unused pages are reclaimed when memory is short.

use std::os::fd::AsFd;

use binder_client::Call;
use binder_client::LIBBINDER_MAPPING;
use binder_client::MAX_MAPPING;
use binder_client::Parcel;
use binder_client::object;
use binder_client::pages;
use binder_client::uapi::TransactionData;

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
use crate::hostile;
use crate::hostile::PAGE;
use crate::hostile::Torn;

tests! { Core, "reclaim":
    unused_pages_go,
    used_pages_stay,
    unused_pages_between_used_ones_go,
    calls_go_on_afterwards,
    pages_come_back_empty,
    spliced_bytes_stay_what_they_were,
    pages_of_many_processes_go,
    pages_go_when_a_cgroup_is_short,
    while_calls_run,
    while_processes_die,
    pages_of_a_moved_mapping_go,
    pages_of_a_split_mapping_go,
}

/// Has the kernel shrink whatever can be shrunk.
pub fn squeeze() {
    pages::squeeze().expect("the test runs as root");
}

/// Has the kernel shrink until nothing of these ranges is there. One time is not always enough: how much a shrinker is
/// asked for depends on how much everybody has.
#[track_caller]
pub fn squeeze_out(ranges: &[(u64, usize)]) {
    until(|| {
        squeeze();
        ranges.iter().all(|(address, len)| count(*address, *len) == 0)
    });
}

/// How many pages of a range are in the page table.
pub fn count(address: u64, len: usize) -> usize {
    pages::count(address, len).expect("a page table")
}

/// A server whose mapping is looked at from outside, and its client.
fn torn(env: &Env, len: usize) -> (Pair, Torn) {
    let registry = Registry::start(env);
    let server = End::open_unmapped(env);
    let torn = Torn::map(server.binder().as_fd(), len);
    (Pair::at(registry, End::open(env), server.enter()), torn)
}

/// A call arrives and is answered; its buffer stays.
#[track_caller]
fn keep(pair: &mut Pair, bytes: &[u8]) -> TransactionData {
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(bytes)));
    let received = pair.server.expect_transaction();
    assert!(hostile::peek(received.buffer, bytes.len()).as_deref() == Ok(bytes));
    pair.server.answer(&Parcel::new());
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
    received
}

#[track_caller]
fn once(pair: &mut Pair, bytes: &[u8]) {
    let received = keep(pair, bytes);
    pair.server.give_back(&received);
}

fn unused_pages_go(env: &Env) {
    for len in [PAGE, 100 * PAGE, MAX_MAPPING] {
        let (mut pair, torn) = torn(env, len);
        // The first page was used when the two met.
        assert!(count(torn.at(0), len) <= 1);
        once(&mut pair, &pattern(len, 1));
        squeeze();
        assert_eq!(count(torn.at(0), len), 0, "of {} pages", len / PAGE);
    }
}

fn used_pages_stay(env: &Env) {
    let len = 64 * PAGE;
    let (mut pair, torn) = torn(env, len);
    let received = keep(&mut pair, &pattern(len, 1));
    assert_eq!(count(torn.at(0), len), 64);
    for _ in 0..3 {
        squeeze();
        assert_eq!(count(torn.at(0), len), 64);
    }
    assert!(hostile::peek(received.buffer, len) == Ok(pattern(len, 1)));
    pair.server.give_back(&received);
    squeeze_out(&[(torn.at(0), len)]);
}

fn unused_pages_between_used_ones_go(env: &Env) {
    let (mut pair, torn) = torn(env, 256 * PAGE);
    // 128 buffers of a page, which then are given back but for every fifth.
    let kept: Vec<TransactionData> = (0..128).map(|number| keep(&mut pair, &pattern(PAGE, number))).collect();
    for (number, received) in kept.iter().enumerate() {
        if number % 5 != 0 {
            pair.server.give_back(received);
        }
    }
    for (number, received) in kept.iter().enumerate() {
        if number % 5 != 0 {
            squeeze_out(&[(received.buffer, PAGE)]);
        }
    }
    for (number, received) in kept.iter().enumerate() {
        let here = count(received.buffer, PAGE) == 1;
        assert_eq!(here, number % 5 == 0, "buffer {number}");
        if here {
            assert!(hostile::peek(received.buffer, PAGE) == Ok(pattern(PAGE, number as u32)));
        }
    }
    assert_eq!(count(torn.at(0), 256 * PAGE), 26);
}

fn calls_go_on_afterwards(env: &Env) {
    let (mut pair, _torn) = torn(env, LIBBINDER_MAPPING);
    for turn in 0..10u32 {
        once(&mut pair, &pattern(turn as usize * 90_000, turn));
        squeeze();
        once(&mut pair, &pattern(300_000, turn));
        pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(b"still there")));
        let received = pair.server.expect_transaction();
        squeeze();
        assert_eq!(hostile::peek(received.buffer, 11), Ok(b"still there".to_vec()));
        pair.server.give_back(&received);
        squeeze();
        pair.server.answer(&Parcel::new());
        let reply = pair.client.expect_reply();
        pair.client.give_back(&reply);
    }
}

fn pages_come_back_empty(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    for _ in 0..5 {
        once(&mut pair, &[0xee; 8 * PAGE]);
        squeeze_out(&[(torn.at(0), 8 * PAGE)]);
        // One byte allocates a page; the rest of the page is unused.
        let received = keep(&mut pair, b"x");
        let page = received.buffer & !(PAGE as u64 - 1);
        let bytes = hostile::peek(page, PAGE).expect("readable");
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 1);
        assert_eq!(count(torn.at(0), 8 * PAGE), 1);
        pair.server.give_back(&received);
    }
}

fn spliced_bytes_stay_what_they_were(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    for turn in 0..5 {
        let (read, write) = nix::unistd::pipe().expect("pipe");
        let received = keep(&mut pair, &pattern(4 * PAGE, turn));
        assert_eq!(torn.splice_into(&write, received.buffer, 4 * PAGE), Ok(4 * PAGE));
        pair.server.give_back(&received);
        squeeze_out(&[(torn.at(0), 8 * PAGE)]);
        // The same places are used again, by this process and by others, with pages of their own.
        once(&mut pair, &[0xbb; 8 * PAGE]);
        let mut other = End::open(env);
        let mut parcel = Parcel::from_bytes(&[0xcc; 4]);
        parcel.object(&object::binder(8, 8));
        parcel.bytes(&[0xcc; 8 * PAGE]);
        let reply = other.blocking(|looper| {
            looper.call_with(Call::new(0, 1, &parcel), |looper, ret| {
                looper.grant(&ret);
                Ok(())
            })
        });
        other.give_back(&reply.expect("the registry answers"));
        let mut bytes = vec![0; 4 * PAGE];
        let mut got = 0;
        while got < bytes.len() {
            got += nix::unistd::read(&read, &mut bytes[got..]).expect("read");
        }
        assert!(bytes == pattern(4 * PAGE, turn), "what was spliced has changed");
    }
}

fn pages_of_many_processes_go(env: &Env) {
    let registry = Registry::start(env);
    let peers: Vec<Peer> = (0..8u32)
        .map(|number| {
            let peer = Peer::start(env, |env, line| {
                let mut server = End::open_unmapped(env);
                let torn = Torn::map(server.binder().as_fd(), 64 * PAGE);
                registry.put(&mut server, number, object::binder(8, 8));
                let mut server = server.enter();
                line.say(0).expect("the test is there");
                let received = server.wait_transaction();
                assert_eq!(count(torn.at(0), 64 * PAGE), 50);
                server.give_back(&received);
                server.start_reply(Call::reply(&Parcel::new()));
                while line.hear().is_ok() {
                    line.say(count(torn.at(0), 64 * PAGE) as u64).expect("the test is there");
                }
            });
            peer.hear();
            peer
        })
        .collect();
    let mut client = End::open(env);
    for number in 0..8 {
        let handle = registry.get(&mut client, number);
        let parcel = Parcel::from_bytes(&pattern(50 * PAGE, number));
        let reply = client.blocking(|looper| looper.call(Call::new(handle, 1, &parcel))).expect("a reply");
        client.give_back(&reply);
    }
    until(|| {
        squeeze();
        peers.iter().all(|peer| {
            peer.say(0);
            peer.hear() == 0
        })
    });
}

fn pages_go_when_a_cgroup_is_short(env: &Env) {
    // Reclaim as the kernel does it by itself: with a priority that rises, through everything it has.
    let root = "/sys/fs/cgroup/memory.reclaim";
    if !std::path::Path::new(root).exists() {
        env.skip("no control group whose memory can be reclaimed at /sys/fs/cgroup");
    }
    let len = 200 * PAGE;
    let (mut pair, torn) = torn(env, len);
    let kept = keep(&mut pair, &pattern(20 * PAGE, 1));
    once(&mut pair, &pattern(180 * PAGE, 2));
    until(|| {
        // More is asked for than there is: that it fails in the end is to be expected.
        let _ = std::fs::write(root, "16M");
        count(torn.at(0), len) == 20
    });
    assert!(hostile::peek(kept.buffer, 20 * PAGE) == Ok(pattern(20 * PAGE, 1)));
    pair.server.give_back(&kept);
    once(&mut pair, &pattern(len, 3));
}

/// Sends calls of many sizes to the node number 1 and checks each echo, until told to stop.
fn echo_client(env: &Env, registry: &Registry, seed: u32) -> Peer {
    Peer::start(env, |env, line| {
        let mut end = End::open(env);
        let handle = registry.get(&mut end, 1);
        line.say(0).expect("the test is there");
        end.set_blocking(true);
        let mut turn = seed;
        while !line.heard() {
            turn = turn.wrapping_add(7919);
            let bytes = pattern(turn as usize % 40_000, turn);
            let reply = end.call(Call::new(handle, 1, &Parcel::from_bytes(&bytes))).expect("a reply");
            assert!(end.payload(&reply).expect("a readable reply").data == bytes, "the echo is wrong");
            end.free(&reply);
        }
    })
}

/// A process that answers the node's calls with what they carry.
fn echo_server(env: &Env, registry: &Registry, number: u32) -> Peer {
    let peer = Peer::start(env, |env, line| {
        let mut end = End::open(env);
        registry.put(&mut end, number, object::binder(8, 8));
        end.set_blocking(true);
        line.say(0).expect("the test is there");
        let served = end.serve(|looper, received| {
            let payload = looper.payload(received).expect("a readable buffer");
            binder_client::Served::Reply(Parcel::from_bytes(&payload.data))
        });
        panic!("{served:?}");
    });
    peer.hear();
    peer
}

fn while_calls_run(env: &Env) {
    let registry = Registry::start(env);
    let _server = echo_server(env, &registry, 1);
    let clients: Vec<Peer> = (0..4).map(|number| echo_client(env, &registry, number)).collect();
    for peer in &clients {
        peer.hear();
    }
    for _ in 0..60 {
        squeeze();
    }
    for peer in clients {
        peer.say(0);
        peer.join();
    }
}

fn while_processes_die(env: &Env) {
    let registry = Registry::start(env);
    for _ in 0..12 {
        let mut server = echo_server(env, &registry, 1);
        let mut client = Peer::start(env, |env, line| {
            let mut end = End::open(env);
            let handle = registry.get(&mut end, 1);
            line.say(0).expect("the test is there");
            end.set_blocking(true);
            for turn in 0.. {
                let bytes = pattern(turn as usize * 997 % 90_000, turn);
                match end.call(Call::new(handle, 1, &Parcel::from_bytes(&bytes))) {
                    Ok(reply) => end.free(&reply),
                    Err(_) => break,
                }
            }
            let _ = line.hear();
        });
        client.hear();
        squeeze();
        server.kill();
        squeeze();
        client.kill();
        squeeze();
    }
    let mut end = End::open(env);
    registry.put(&mut end, 9, object::binder(1, 1));
}

fn pages_of_a_moved_mapping_go(env: &Env) {
    let len = 64 * PAGE;
    let (mut pair, torn) = torn(env, len);
    let mut received = keep(&mut pair, &pattern(len, 1));
    let moved = torn.move_away(0..64).expect("mremap");
    assert_eq!(count(moved.at(0), len), 64);
    if env.driver(Difference::MovedReclaim) == Driver::C {
        pair.server.give_back(&received);
        squeeze();
        return assert_eq!(count(moved.at(0), len), 64);
    }
    received.buffer = moved.at((received.buffer - torn.at(0)) as usize);
    pair.server.give_back(&received);
    squeeze_out(&[(moved.at(0), len)]);
    // And used again.
    once(&mut pair, &pattern(len, 2));
    squeeze_out(&[(moved.at(0), len)]);
}

fn pages_of_a_split_mapping_go(env: &Env) {
    let len = 64 * PAGE;
    let (mut pair, torn) = torn(env, len);
    let received = keep(&mut pair, &pattern(len, 1));
    torn.unmap(10..20);
    let moved = torn.move_away(40..50).expect("mremap");
    let pieces = [
        (torn.at(0), 10 * PAGE),
        (torn.at(20 * PAGE), 20 * PAGE),
        (moved.at(0), 10 * PAGE),
        (torn.at(50 * PAGE), 14 * PAGE),
    ];
    let all =
        |count: &dyn Fn(u64, usize) -> usize| pieces.iter().map(|(address, len)| count(*address, *len)).sum::<usize>();
    assert_eq!(all(&count), 54);
    pair.server.give_back(&received);
    if env.driver(Difference::MovedReclaim) == Driver::C {
        squeeze();
        return assert_eq!(all(&count), 54);
    }
    squeeze_out(&pieces);
    // And used again.
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&pattern(len, 3))));
    let received = pair.server.expect_transaction();
    assert!(hostile::peek(moved.at(0), 10 * PAGE).as_deref() == Ok(&pattern(len, 3)[40 * PAGE..50 * PAGE]));
    assert!(hostile::peek(torn.at(50 * PAGE), 14 * PAGE).as_deref() == Ok(&pattern(len, 3)[50 * PAGE..]));
    pair.server.give_back(&received);
    squeeze_out(&pieces);
}
