// SPDX-License-Identifier: GPL-2.0

//! No process reads bytes that were not sent to it.
//!
//! Every transaction is filled with a byte of its own. Every process searches all that it can read of its mapping - the
//! padding between the parts of a buffer, the rest of the last page, and pages without a buffer - for bytes of other
//! processes, or bytes that should have been cleared.

use std::os::fd::AsFd;

use binder_client::Call;
use binder_client::Parcel;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::BufferObject;
use binder_client::uapi::TransactionDataSg;
use nix::errno::Errno;

use super::reclaim::squeeze;
use super::reclaim::squeeze_out;
use super::tests;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::hostile;
use crate::hostile::PAGE;
use crate::hostile::Torn;

tests! { Reclaim, "data_leaks":
    nothing_is_left_of_what_was_to_be_cleared,
    nothing_is_left_of_a_reply_that_was_to_be_cleared,
    nothing_is_left_of_a_call_that_failed,
    nothing_is_left_of_unread_transactions,
    nothing_is_left_after_reclaim,
    nothing_comes_from_other_processes,
    nothing_comes_through_pages_that_were_reclaimed,
}

/// The pages of a small mapping.
const PAGES: usize = 16;

/// All that can be read of a mapping.
fn readable(torn: &Torn, pages: usize) -> Vec<u8> {
    readable_at(torn.at(0), pages)
}

fn readable_at(start: u64, pages: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for page in 0..pages {
        match hostile::peek(start + (page * PAGE) as u64, PAGE) {
            Ok(bytes) => all.extend(bytes),
            Err(errno) => assert_eq!(errno, Errno::EFAULT),
        }
    }
    all
}

/// How many of the bytes are this one.
fn of(bytes: &[u8], secret: u8) -> usize {
    bytes.iter().filter(|byte| **byte == secret).count()
}

fn served(env: &Env, pages: usize) -> (Pair, Torn) {
    let registry = Registry::start(env);
    let server = End::open_unmapped(env);
    let torn = Torn::map(server.binder().as_fd(), pages * PAGE);
    (Pair::at(registry, End::open(env), server.enter()), torn)
}

/// The bytes before an object, after it, and in the buffer that it points to: none is a multiple of anything.
const BEFORE: usize = 5001;
const AFTER: usize = 13;
const EXTRA: usize = 777;

/// A call with data around an object and a buffer that the object points to, all filled with `secret`.
fn with_everything(handle: u32, secret: u8, flags: u32, send: impl FnOnce(TransactionDataSg)) {
    let extra = [secret; EXTRA];
    let mut parcel = Parcel::from_bytes(&[secret; BEFORE]);
    parcel.object(&object::buffer(&extra));
    parcel.bytes(&[secret; AFTER]);
    let call = Call::new(handle, 1, &parcel).with_flags(flags);
    send(TransactionDataSg { transaction: call.data(), buffers_size: EXTRA.next_multiple_of(8) as u64 });
}

#[track_caller]
fn end_call(pair: &mut Pair) {
    pair.server.answer(&Parcel::new());
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
}

fn nothing_is_left_of_what_was_to_be_cleared(env: &Env) {
    let (mut pair, torn) = served(env, PAGES);
    for (turn, flags) in [uapi::TF_CLEAR_BUF, 0].into_iter().enumerate() {
        let secret = 0xa1 + turn as u8;
        let client = &mut pair.client;
        with_everything(pair.handle, secret, flags, |sg| {
            client.queue().command(uapi::BC_TRANSACTION_SG, &sg);
            client.flush().expect("BC_TRANSACTION_SG");
        });
        let received = pair.server.expect_transaction();
        let object = received.buffer + BEFORE.next_multiple_of(8) as u64;
        let object = hostile::peek(object, size_of::<BufferObject>()).expect("a readable object");
        // All of it arrives. The object has an address in it, any byte of which may happen to be the same.
        let all = BEFORE + AFTER + EXTRA + of(&object, secret);
        assert_eq!(of(&readable(&torn, PAGES), secret), all);
        pair.server.give_back(&received);
        let left = of(&readable(&torn, PAGES), secret);
        if flags == uapi::TF_CLEAR_BUF {
            assert_eq!(left, 0);
        } else {
            // Else the search would find nothing, whatever there is.
            assert_eq!(left, all);
        }
        end_call(&mut pair);
    }
}

fn nothing_is_left_of_a_reply_that_was_to_be_cleared(env: &Env) {
    let registry = Registry::start(env);
    let client = End::open_sized(env, PAGES * PAGE);
    let start = client.binder().mapping().expect("a mapping").address();
    let mut pair = Pair::at(registry, client, End::open(env).enter());
    for secret in [0xa1, 0xa2] {
        pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
        let received = pair.server.expect_transaction();
        pair.server.give_back(&received);
        let parcel = Parcel::from_bytes(&[secret; 3 * PAGE + 5]);
        pair.server.start_reply(Call::reply(&parcel).with_flags(uapi::TF_CLEAR_BUF));
        pair.server.drain();
        let received = pair.client.expect_reply();
        assert_eq!(of(&readable_at(start, PAGES), secret), 3 * PAGE + 5);
        pair.client.give_back(&received);
        assert_eq!(of(&readable_at(start, PAGES), secret), 0);
    }
}

fn nothing_is_left_of_a_call_that_failed(env: &Env) {
    let (mut pair, torn) = served(env, PAGES);
    // Every page is there and can be read.
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&[0x11; PAGES * PAGE])));
    let received = pair.server.expect_transaction();
    assert_eq!(readable(&torn, PAGES).len(), PAGES * PAGE);
    pair.server.give_back(&received);
    end_call(&mut pair);
    for (turn, secret) in (0xa1..0xa9).enumerate() {
        // The last object is one that cannot be sent: all before it is in the buffer by then.
        let mut parcel = Parcel::from_bytes(&[secret; 2000]);
        parcel.object(&object::handle(4711 + turn as u32));
        let flags = if turn % 2 == 0 { uapi::TF_CLEAR_BUF } else { uapi::TF_CLEAR_BUF | uapi::TF_ONE_WAY };
        pair.client.start(Call::new(pair.handle, 1, &parcel).with_flags(flags));
        assert_eq!(pair.client.drain(), [binder_client::Return::FailedReply]);
        assert_eq!(of(&readable(&torn, PAGES), secret), 0, "turn {turn}");
    }
}

fn nothing_is_left_of_unread_transactions(env: &Env) {
    let (mut pair, torn) = served(env, PAGES);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&[0x11; PAGES * PAGE])));
    let received = pair.server.expect_transaction();
    readable(&torn, PAGES);
    pair.server.give_back(&received);
    end_call(&mut pair);
    for secret in [0xa1, 0xa2, 0xa3] {
        // A second client's call, which its end takes back before the server has seen it.
        let mut client = End::open(env);
        let handle = {
            pair.registry.put(&mut pair.server, 7, object::binder(8, 8));
            pair.registry.get(&mut client, 7)
        };
        let mut parcel = Parcel::from_bytes(&[secret; 3000]);
        parcel.object(&object::binder(16, 16));
        client.start(Call::new(handle, 1, &parcel).with_flags(uapi::TF_CLEAR_BUF | uapi::TF_ONE_WAY));
        assert_eq!(of(&readable(&torn, PAGES), secret), 3000);
        drop(client);
        // One-way calls stay when their sender is gone; this one is given back unread.
        let received = pair.server.wait_transaction();
        pair.server.give_back(&received);
        assert_eq!(of(&readable(&torn, PAGES), secret), 0);
    }
}

fn nothing_is_left_after_reclaim(env: &Env) {
    let (mut pair, torn) = served(env, PAGES);
    for turn in 0..6u8 {
        let secret = 0xa1 + turn;
        pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&[secret; PAGES * PAGE])));
        let received = pair.server.expect_transaction();
        assert_eq!(of(&readable(&torn, PAGES), secret), PAGES * PAGE);
        pair.server.give_back(&received);
        squeeze_out(&[(torn.at(0), PAGES * PAGE)]);
        // Touched or not, there is nothing.
        assert!(readable(&torn, PAGES).is_empty());
        end_call(&mut pair);
        // Each of these needs a page or two, of which it fills a part.
        for size in [1, 100, 5000] {
            pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&vec![0x55; size])));
            let received = pair.server.expect_transaction();
            let all = readable(&torn, PAGES);
            assert!(!all.is_empty());
            assert_eq!(all.iter().filter(|byte| ![0, 0x55].contains(*byte)).count(), 0, "{size} bytes");
            pair.server.give_back(&received);
            end_call(&mut pair);
        }
    }
}

/// A service that looks for what was not sent to it whenever something arrives: each call is filled with the byte that is its
/// code, and the calls it gets have its own number's bytes alone.
fn searcher(env: &Env, registry: &Registry, number: u32) -> Peer {
    let peer = Peer::start(env, |env, line| {
        let mut server = End::open_unmapped(env);
        let torn = Torn::map(server.binder().as_fd(), PAGES * PAGE);
        registry.put(&mut server, number, object::binder(8, 8));
        let mut server = server.enter();
        line.say(0).expect("the test is there");
        while let Ok(calls) = line.hear() {
            for _ in 0..calls {
                let received = server.wait_transaction();
                let secret = received.code as u8;
                assert_eq!(
                    hostile::peek(received.buffer, received.data_size as usize),
                    Ok(vec![secret; received.data_size as usize])
                );
                let foreign = |byte: &&u8| **byte != 0 && u32::from(**byte >> 4) != number;
                assert_eq!(readable(&torn, PAGES).iter().filter(foreign).count(), 0, "bytes of others");
                server.give_back(&received);
                server.answer(&Parcel::new());
            }
            line.say(0).expect("the test is there");
        }
    });
    peer.hear();
    peer
}

/// Calls of many sizes to services of whose bytes each high half is its own number.
fn among(env: &Env, calls: u64, meanwhile: impl Fn(u64)) {
    let registry = Registry::start(env);
    let numbers = 1..6u32;
    let peers: Vec<Peer> = numbers.clone().map(|number| searcher(env, &registry, number)).collect();
    let mut client = End::open(env);
    let handles: Vec<u32> = numbers.map(|number| registry.get(&mut client, number)).collect();
    for turn in 0..calls {
        for (index, (peer, handle)) in peers.iter().zip(&handles).enumerate() {
            peer.say(1);
            let size = 1 + (turn as usize * 3571 + index * 977) % (PAGES * PAGE - 1);
            let secret = ((index as u8 + 1) << 4) | (turn % 16) as u8;
            let parcel = Parcel::from_bytes(&vec![secret; size]);
            let call = Call::new(*handle, u32::from(secret), &parcel);
            let call = if turn % 3 == 0 { call.with_flags(uapi::TF_CLEAR_BUF) } else { call };
            let reply = client.blocking(|looper| looper.call(call)).expect("a reply");
            client.give_back(&reply);
            peer.hear();
        }
        meanwhile(turn);
    }
}

fn nothing_comes_from_other_processes(env: &Env) {
    among(env, 60, |_| {});
}

fn nothing_comes_through_pages_that_were_reclaimed(env: &Env) {
    among(env, 40, |_| squeeze());
}
