// SPDX-License-Identifier: GPL-2.0

//! Space in the mapping: allocated by transactions, freed by `BC_FREE_BUFFER`, and exhausted.

use binder_client::Call;
use binder_client::LIBBINDER_MAPPING;
use binder_client::MAX_MAPPING;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::TransactionData;
use binder_client::uapi::WriteRead;
use nix::errno::Errno;
use nix::sys::mman::ProtFlags;

use super::tests;
use super::transaction::pattern;
use super::transaction::whole;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::hostile;
use crate::hostile::Arena;
use crate::hostile::PAGE;
use crate::hostile::peek;

tests! { Core, "buffer":
    free_of_no_address,
    free_of_an_address_inside,
    free_twice,
    free_of_another_processs_buffer,
    free_before_delivery_is_refused,
    free_before_the_reply,
    free_without_a_mapping,
    free_by_another_thread,
    full_mapping_refuses_and_recovers,
    empty_buffers_take_room,
    pieces_grow_together_again,
    best_hole_is_taken,
    one_way_room_is_half,
    one_way_room_comes_back,
    one_way_room_leaves_the_other_half,
    one_way_calls_count_for_one_way_room_alone,
    mapping_of_one_page,
    mapping_of_four_megabytes,
    thousands_of_calls_leave_nothing,
    clear_buf_leaves_zeroes,
    clear_buf_of_a_reply_leaves_zeroes,
    buffers_of_a_process_are_its_own,
    unread_reply_of_a_thread_that_exits,
    call_that_cannot_be_written,
    what_failed_on_the_way_is_not_seen,
}

/// A client of its own for each call that is to stay unanswered.
fn clients(env: &Env, pair: &mut Pair, count: usize) -> Vec<(End, u32)> {
    pair.registry.put(&mut pair.server, 2, binder_client::object::binder(Pair::NODE.ptr, Pair::NODE.cookie));
    (0..count)
        .map(|_| {
            let mut end = End::open_sized(env, 2 * PAGE);
            let handle = pair.registry.get(&mut end, 2);
            (end, handle)
        })
        .collect()
}

/// A call comes, is left unanswered for now, and its buffer is kept.
#[track_caller]
fn one_call(pair: &mut Pair, bytes: &[u8]) -> TransactionData {
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(bytes)));
    pair.server.expect_transaction()
}

/// The call is answered; its buffer is not touched.
#[track_caller]
fn finish(pair: &mut Pair) {
    pair.server.answer(&Parcel::new());
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
}

fn free(pair: &mut Pair, address: u64) {
    pair.server.queue().free_buffer(address);
    pair.server.flush().expect("BC_FREE_BUFFER");
    pair.server.expect(&[]);
}

fn free_of_no_address(env: &Env) {
    let mut pair = Pair::new(env);
    let received = one_call(&mut pair, b"stay");
    let base = pair.server.binder().mapping().expect("a mapping").address();
    for address in [0, 1, 8, base - 8, base + LIBBINDER_MAPPING as u64, 1 << 47, 1 << 63, u64::MAX] {
        free(&mut pair, address);
    }
    assert_eq!(pair.server.take(&received).data, b"stay");
    finish(&mut pair);
    whole(&mut pair);
}

fn free_of_an_address_inside(env: &Env) {
    let mut pair = Pair::new(env);
    let received = one_call(&mut pair, &pattern(5000, 1));
    for inside in [1, 4, 8, 16, 4096, 4999, 5000, 5008] {
        free(&mut pair, received.buffer + inside);
    }
    assert!(pair.server.take(&received).data == pattern(5000, 1));
    finish(&mut pair);
    whole(&mut pair);
}

fn free_twice(env: &Env) {
    let mut pair = Pair::new(env);
    let received = one_call(&mut pair, b"once");
    free(&mut pair, received.buffer);
    free(&mut pair, received.buffer);
    finish(&mut pair);
    whole(&mut pair);
    free(&mut pair, received.buffer);
    whole(&mut pair);
}

fn free_of_another_processs_buffer(env: &Env) {
    let mut pair = Pair::new(env);
    let received = one_call(&mut pair, b"not yours");
    pair.client.queue().free_buffer(received.buffer);
    pair.client.flush().expect("BC_FREE_BUFFER");
    assert_eq!(pair.server.take(&received).data, b"not yours");
    finish(&mut pair);
    whole(&mut pair);
}

fn free_before_delivery_is_refused(env: &Env) {
    let mut pair = Pair::new(env);
    // The first buffer of an empty mapping lies where the one before lay.
    let received = one_call(&mut pair, b"first");
    pair.server.give_back(&received);
    finish(&mut pair);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(b"second")));
    pair.server.queue().free_buffer(received.buffer);
    pair.server.flush().expect("BC_FREE_BUFFER");
    let second = pair.server.expect_transaction();
    assert_eq!(second.buffer, received.buffer);
    assert_eq!(pair.server.take(&second).data, b"second");
    finish(&mut pair);
    whole(&mut pair);
}

fn free_before_the_reply(env: &Env) {
    let mut pair = Pair::new(env);
    for _ in 0..3 {
        let received = one_call(&mut pair, b"early");
        pair.server.give_back(&received);
        finish(&mut pair);
    }
    // And after it.
    let received = one_call(&mut pair, b"late");
    finish(&mut pair);
    assert_eq!(pair.server.take(&received).data, b"late");
    whole(&mut pair);
}

fn free_without_a_mapping(env: &Env) {
    let mut end = End::open_unmapped(env);
    for address in [0, 8, 4096, u64::MAX] {
        end.queue().free_buffer(address);
    }
    assert_eq!(end.flush(), Ok(()));
    end.expect(&[]);
}

fn free_by_another_thread(env: &Env) {
    let mut pair = Pair::new(env);
    let received = one_call(&mut pair, b"anyone's");
    let binder = pair.server.binder().clone();
    std::thread::spawn(move || {
        let mut looper = binder_client::Looper::new(binder);
        looper.free(&received);
        looper.flush().expect("BC_FREE_BUFFER");
    })
    .join()
    .expect("the thread is well");
    finish(&mut pair);
    whole(&mut pair);
}

fn full_mapping_refuses_and_recovers(env: &Env) {
    let mut pair = Pair::sized(env, 2 * PAGE, 16 * PAGE);
    let mut callers = clients(env, &mut pair, 9);
    let piece = Parcel::from_bytes(&vec![1; 2 * PAGE]);
    for (end, handle) in &mut callers[..8] {
        end.start(Call::new(*handle, 1, &piece));
        end.expect(&[]);
    }
    let (last, last_handle) = &mut callers[8];
    for size in [0, 1, 8, 2 * PAGE] {
        last.start(Call::new(*last_handle, 1, &Parcel::from_bytes(&vec![2; size])));
        last.expect(&[Return::FailedReply]);
        last.start(Call::one_way(*last_handle, 1, &Parcel::from_bytes(&vec![2; size])));
        last.expect(&[Return::FailedReply]);
    }
    // One is answered and its room is there at once.
    let received = match pair.server.next() {
        Ok(Return::Transaction(received)) => received,
        other => panic!("not a call: {other:?}"),
    };
    pair.server.give_back(&received);
    let (last, last_handle) = &mut callers[8];
    last.start(Call::new(*last_handle, 1, &piece));
    last.expect(&[]);
    pair.server.start_reply(Call::reply(&Parcel::new()));
    // The other eight, one after the other.
    for _ in 0..8 {
        let received = loop {
            match pair.server.next() {
                Ok(Return::Transaction(received)) => break received,
                Ok(Return::TransactionComplete) => {}
                other => panic!("not a call: {other:?}"),
            }
        };
        pair.server.give_back(&received);
        pair.server.start_reply(Call::reply(&Parcel::new()));
    }
    pair.server.expect(&[Return::TransactionComplete]);
    for (end, _) in &mut callers {
        let reply = end.expect_reply();
        end.give_back(&reply);
    }
    whole(&mut pair);
}

/// Sends one-way calls of these sizes, which the server keeps. One-way calls to a node come one at a time, until the one
/// before is given back, so what is not delivered yet stands in the mapping all the same.
#[track_caller]
fn one_ways(pair: &mut Pair, bytes: usize) -> usize {
    let parcel = Parcel::from_bytes(&vec![3; bytes]);
    for count in 0.. {
        pair.client.start(Call::one_way(pair.handle, 1, &parcel));
        match pair.client.drain()[..] {
            [Return::TransactionComplete] => {}
            [Return::FailedReply] => return count,
            ref other => panic!("neither taken nor refused: {other:x?}"),
        }
    }
    unreachable!("a mapping is never that large")
}

/// Takes one-way calls until none comes any more.
#[track_caller]
fn take_all(pair: &mut Pair) -> usize {
    for count in 0.. {
        match pair.server.drain()[..] {
            [] => return count,
            [Return::Transaction(received)] => pair.server.give_back(&received),
            ref other => panic!("not one call: {other:x?}"),
        }
    }
    unreachable!("a mapping is never that large")
}

fn empty_buffers_take_room(env: &Env) {
    let mut pair = Pair::sized(env, 2 * PAGE, PAGE);
    // An empty call takes eight bytes, so that its address is its own.
    assert_eq!(one_ways(&mut pair, 0), PAGE / 2 / 8);
    assert_eq!(take_all(&mut pair), PAGE / 2 / 8);
    whole(&mut pair);
}

fn pieces_grow_together_again(env: &Env) {
    let mut pair = Pair::sized(env, 2 * PAGE, 8 * PAGE);
    for order in
        [[0, 1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0], [0, 2, 4, 6, 1, 3, 5, 7], [3, 4, 2, 5, 1, 6, 0, 7]]
    {
        // Eight calls inside one another would take eight threads; buffers outlive their calls just as well.
        let kept: Vec<TransactionData> = (0..8)
            .map(|_| {
                let received = one_call(&mut pair, &[1; PAGE]);
                finish(&mut pair);
                received
            })
            .collect();
        pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
        pair.client.expect(&[Return::FailedReply]);
        for number in order {
            free(&mut pair, kept[number].buffer);
        }
        whole(&mut pair);
    }
}

fn best_hole_is_taken(env: &Env) {
    let mut pair = Pair::sized(env, 2 * PAGE, 16 * PAGE);
    // Holes of three pages, one page and two, with something between them.
    let sizes = [3, 1, 1, 1, 2, 1];
    let kept: Vec<TransactionData> = sizes
        .iter()
        .map(|pages| {
            let received = one_call(&mut pair, &vec![1; pages * PAGE]);
            finish(&mut pair);
            received
        })
        .collect();
    for hole in [0, 2, 4] {
        free(&mut pair, kept[hole].buffer);
    }
    for (bytes, hole) in [(PAGE, 2), (2 * PAGE, 4), (2 * PAGE + 8, 0)] {
        let received = one_call(&mut pair, &vec![2; bytes]);
        assert_eq!(received.buffer, kept[hole].buffer, "{bytes} bytes");
        finish(&mut pair);
        free(&mut pair, received.buffer);
    }
    for stays in [1, 3, 5] {
        free(&mut pair, kept[stays].buffer);
    }
    whole(&mut pair);
}

fn one_way_room_is_half(env: &Env) {
    for pages in [2, 64] {
        let mut pair = Pair::sized(env, 2 * PAGE, pages * PAGE);
        let half = pages * PAGE / 2;
        // All at once, and not a byte more.
        pair.client.start(Call::one_way(pair.handle, 1, &Parcel::from_bytes(&vec![1; half + 1])));
        pair.client.expect(&[Return::FailedReply]);
        pair.client.start_one_way(Call::new(pair.handle, 1, &Parcel::from_bytes(&vec![1; half])));
        pair.client.start(Call::one_way(pair.handle, 1, &Parcel::new()));
        pair.client.expect(&[Return::FailedReply]);
        assert_eq!(take_all(&mut pair), 1);
        // In pieces.
        assert_eq!(one_ways(&mut pair, half / 8), 8);
        assert_eq!(take_all(&mut pair), 8);
        whole(&mut pair);
    }
}

fn one_way_room_comes_back(env: &Env) {
    let mut pair = Pair::new(env);
    let piece = 50_000;
    let fit = LIBBINDER_MAPPING / 2 / 50_000;
    for _ in 0..3 {
        assert_eq!(one_ways(&mut pair, piece), fit);
        let received = pair.server.expect_transaction();
        pair.server.give_back(&received);
        assert_eq!(one_ways(&mut pair, piece), 1);
        assert_eq!(take_all(&mut pair), fit);
    }
    whole(&mut pair);
}

fn one_way_room_leaves_the_other_half(env: &Env) {
    let mut pair = Pair::sized(env, 2 * PAGE, 64 * PAGE);
    assert_eq!(one_ways(&mut pair, 32 * PAGE), 1);
    let half = pattern(32 * PAGE, 9);
    pair.client.start(Call::new(pair.handle, 2, &Parcel::from_bytes(&half)));
    let [Return::Transaction(first), Return::Transaction(second)] = pair.server.drain()[..] else {
        panic!("not two calls")
    };
    assert_eq!((first.code, second.code), (1, 2));
    assert!(pair.server.take(&second).data == half);
    pair.server.give_back(&first);
    finish(&mut pair);
    whole(&mut pair);
}

fn one_way_calls_count_for_one_way_room_alone(env: &Env) {
    let mut pair = Pair::sized(env, 2 * PAGE, 64 * PAGE);
    // Three quarters taken by a call leave a quarter, and not the half, to one-way calls.
    let received = one_call(&mut pair, &vec![1; 48 * PAGE]);
    finish(&mut pair);
    assert_eq!(one_ways(&mut pair, 4 * PAGE), 4);
    assert_eq!(take_all(&mut pair), 4);
    // A quarter taken by a call leaves them their half.
    free(&mut pair, received.buffer);
    let received = one_call(&mut pair, &vec![1; 16 * PAGE]);
    finish(&mut pair);
    assert_eq!(one_ways(&mut pair, 4 * PAGE), 8);
    assert_eq!(take_all(&mut pair), 8);
    free(&mut pair, received.buffer);
    whole(&mut pair);
}

fn mapping_of_one_page(env: &Env) {
    let mut pair = Pair::sized(env, PAGE, 1);
    // The kernel maps whole pages.
    let parcel = Parcel::from_bytes(&pattern(PAGE, 1));
    pair.client.start(Call::new(pair.handle, 1, &parcel));
    let received = pair.server.expect_transaction();
    assert_eq!(received.data_size, PAGE as u64);
    assert!(hostile::peek(received.buffer, PAGE).expect("readable") == parcel.data());
    pair.server.give_back(&received);
    finish(&mut pair);
}

fn mapping_of_four_megabytes(env: &Env) {
    for asked in [MAX_MAPPING, MAX_MAPPING + PAGE, 2 * MAX_MAPPING] {
        let mut pair = Pair::sized(env, 2 * PAGE, asked);
        let bytes = pattern(MAX_MAPPING, 5);
        let (there, _) = pair.round(&Parcel::from_bytes(&bytes), &Parcel::new());
        assert!(there.data == bytes);
        // What is mapped beyond is of no use.
        pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&vec![1; MAX_MAPPING + 1])));
        pair.client.expect(&[Return::FailedReply]);
        let base = pair.server.binder().mapping().expect("a mapping").address();
        if asked > MAX_MAPPING {
            assert!(hostile::peek(base + MAX_MAPPING as u64, 1).is_err());
        }
    }
}

fn thousands_of_calls_leave_nothing(env: &Env) {
    let mut pair = Pair::new(env);
    let mut kept = Vec::new();
    for turn in 0..3000usize {
        let size = turn * 7919 % 9000;
        let received = one_call(&mut pair, &pattern(size, turn as u32)[..]);
        finish(&mut pair);
        kept.push((received, size, turn));
        if kept.len() > 40 {
            let (old, size, turn) = kept.swap_remove(turn * 31 % 41);
            assert!(pair.server.take(&old).data == pattern(size, turn as u32));
        }
    }
    for (old, size, turn) in kept {
        assert!(pair.server.take(&old).data == pattern(size, turn as u32));
    }
    whole(&mut pair);
}

/// What stands where a buffer stood: zeroes, or no page at all.
#[track_caller]
pub fn wiped(address: u64, len: usize) {
    for byte in 0..len as u64 {
        match hostile::peek(address + byte, 1) {
            Ok(bytes) => assert_eq!(bytes, [0], "byte {byte}"),
            Err(_) => return,
        }
    }
}

fn clear_buf_leaves_zeroes(env: &Env) {
    let mut pair = Pair::new(env);
    for size in [9, 8192] {
        let parcel = Parcel::from_bytes(&vec![0xee; size]);
        pair.client.start(Call::new(pair.handle, 1, &parcel).with_flags(uapi::TF_CLEAR_BUF));
        let received = pair.server.expect_transaction();
        assert_eq!(pair.server.take(&received).data, parcel.data());
        wiped(received.buffer, 9);
        finish(&mut pair);
    }
}

fn clear_buf_of_a_reply_leaves_zeroes(env: &Env) {
    let mut pair = Pair::new(env);
    let received = one_call(&mut pair, &[]);
    pair.server.give_back(&received);
    let parcel = Parcel::from_bytes(&[0xee; 9]);
    pair.server.start_reply(Call::reply(&parcel).with_flags(uapi::TF_CLEAR_BUF));
    pair.server.expect(&[Return::TransactionComplete]);
    let reply = pair.client.expect_reply();
    assert_eq!(pair.client.take(&reply).data, parcel.data());
    wiped(reply.buffer, 9);
}

fn buffers_of_a_process_are_its_own(env: &Env) {
    // Two servers get different bytes at the same offset.
    let mut one = Pair::new(env);
    let received = one_call(&mut one, &[1; 10_000]);
    finish(&mut one);
    let mut other = End::open(env).enter();
    one.registry.put(&mut other, 7, binder_client::object::binder(0x10, 0x20));
    let mut client = End::open(env);
    let handle = one.registry.get(&mut client, 7);
    client.start(Call::new(handle, 1, &Parcel::from_bytes(&[2; 10_000])));
    let [Return::Transaction(there)] = other.drain()[..] else { panic!("not a call") };
    assert_eq!(other.take(&there).data, [2; 10_000]);
    assert_eq!(one.server.take(&received).data, [1; 10_000]);
}

fn unread_reply_of_a_thread_that_exits(env: &Env) {
    let mut pair = Pair::sized(env, PAGE, LIBBINDER_MAPPING);
    let (empty, large) = (Parcel::new(), Parcel::from_bytes(&pattern(3000, 1)));
    let call = |pair: &mut Pair| {
        pair.client.start(Call::new(pair.handle, 1, &empty));
        let received = pair.server.expect_transaction();
        pair.server.give_back(&received);
        pair.server.start_reply(Call::reply(&large));
    };
    call(&mut pair);
    pair.server.expect(&[Return::TransactionComplete]);
    pair.client.binder().thread_exit().expect("BINDER_THREAD_EXIT");
    // There is room for one of these at a time.
    call(&mut pair);
    pair.server.expect(&[Return::TransactionComplete]);
    pair.client.drain().pop().map_or_else(
        || panic!("no end of the call"),
        |last| match (env.driver(Difference::LostBuffer), last) {
            (Driver::Ours, Return::Reply(received)) => pair.client.give_back(&received),
            (Driver::C, Return::FailedReply) => {}
            (_, other) => panic!("{other:?}"),
        },
    );
}

fn call_that_cannot_be_written(env: &Env) {
    let mut pair = Pair::sized(env, LIBBINDER_MAPPING, PAGE);
    let large = Parcel::from_bytes(&pattern(3000, 1));
    pair.client.start(Call::new(pair.handle, 1, &large));
    let arena = Arena::new(2);
    arena.protect(1, ProtFlags::PROT_NONE);
    let read_buffer = arena.at(PAGE - 16);
    let mut argument = WriteRead { read_size: 256, read_buffer, ..WriteRead::default() };
    assert_eq!(arena.write_read(pair.server.binder(), &mut argument), Err(Errno::EFAULT));
    pair.server.drain();
    pair.client.expect(&[Return::TransactionComplete, Return::FailedReply]);
    // There is room for one of these at a time.
    pair.client.start(Call::new(pair.handle, 1, &large));
    match env.driver(Difference::LostBuffer) {
        Driver::Ours => {
            pair.server.expect_transaction();
        }
        Driver::C => pair.client.expect(&[Return::FailedReply]),
    }
}

fn what_failed_on_the_way_is_not_seen(env: &Env) {
    let mut pair = Pair::new(env);
    let there = pair.server.binder().mapping().expect("a mapping").address();
    // The first page has been used; what is behind it has not.
    let mut parcel = Parcel::from_bytes(&pattern(2 * PAGE, 1));
    parcel.object(&object::handle(4711));
    pair.client.start(Call::new(pair.handle, 1, &parcel));
    pair.client.expect(&[Return::FailedReply]);
    let seen = peek(there + PAGE as u64, 16);
    match env.driver(Difference::UndeliveredPage) {
        Driver::Ours => assert_eq!(seen, Err(Errno::EFAULT)),
        Driver::C => assert_eq!(seen.as_deref(), Ok(&pattern(2 * PAGE, 1)[PAGE..PAGE + 16])),
    }
}
