// SPDX-License-Identifier: GPL-2.0

//! Transactions and replies: delivery and refusal.

use binder_client::Call;
use binder_client::Commands;
use binder_client::LIBBINDER_MAPPING;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::process;
use binder_client::uapi;
use binder_client::uapi::TransactionData;
use nix::errno::Errno;
use nix::sys::mman::ProtFlags;
use nix::unistd;
use nix::unistd::Uid;

use super::tests;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::fixture::become_manager;
use crate::hostile::Arena;
use crate::hostile::PAGE;

tests! { Core, "transaction":
    calls_of_every_size_arrive_whole,
    replies_of_every_size_arrive_whole,
    largest_call_fits_exactly,
    largest_reply_fits_exactly,
    reply_too_large_fails_for_the_caller,
    offsets_take_room_too,
    receiver_sees_pid_euid_and_code,
    one_way_receiver_sees_no_pid,
    receiver_of_a_reply_sees_no_pid,
    sender_euid_is_the_effective_one,
    codes_and_flags_arrive_as_sent,
    buffers_are_aligned,
    nothing_is_read_from_empty_addresses,
    data_at_a_bad_address,
    data_with_a_hole,
    offsets_at_a_bad_address,
    huge_sizes,
    offset_out_of_place,
    object_at_an_odd_place,
    offsets_of_a_broken_size,
    offsets_that_overlap_or_go_back,
    object_of_an_unknown_type,
    object_cut_short_by_the_end,
    call_to_an_unknown_handle,
    call_to_a_handle_given_back,
    call_to_a_handle_of_a_dead_process,
    manager_cannot_call_itself,
    reply_without_a_call,
    reply_by_another_thread,
    reply_twice,
    reply_to_a_one_way_call,
    reply_says_one_way,
    call_to_a_process_without_a_mapping,
    call_from_a_process_without_a_mapping,
    refused_reply_can_not_be_repeated,
    second_call_while_one_is_out,
    changed_data_after_the_call_is_not_seen,
}

/// Bytes in which every stretch looks different.
pub fn pattern(size: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(size as u32) | 1;
    (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 11) as u8
        })
        .collect()
}

const SIZES: [usize; 17] =
    [0, 1, 7, 8, 9, 127, 128, 4088, 4095, 4096, 4097, 8191, 8192, 65_535, 65_536, 300_000, LIBBINDER_MAPPING - 1];

fn calls_of_every_size_arrive_whole(env: &Env) {
    let mut pair = Pair::new(env);
    for size in SIZES {
        let bytes = pattern(size, 1);
        let (there, _) = pair.round(&Parcel::from_bytes(&bytes), &Parcel::new());
        assert!(there.data == bytes, "{size} bytes are not what was sent");
        assert_eq!(there.offsets, []);
    }
}

fn replies_of_every_size_arrive_whole(env: &Env) {
    let mut pair = Pair::new(env);
    for size in SIZES {
        let bytes = pattern(size, 2);
        let (_, back) = pair.round(&Parcel::new(), &Parcel::from_bytes(&bytes));
        assert!(back.data == bytes, "{size} bytes are not what was sent");
    }
}

fn largest_call_fits_exactly(env: &Env) {
    for pages in [1, 2, 3, 33, 256] {
        let size = pages * PAGE;
        let mut pair = Pair::sized(env, 2 * PAGE, size);
        for (bytes, fits) in [(size - 8, true), (size, true), (size + 1, false), (size + 8, false), (2 * size, false)] {
            let parcel = Parcel::from_bytes(&pattern(bytes, 3));
            if fits {
                let (there, _) = pair.round(&parcel, &Parcel::new());
                assert!(there.data == parcel.data(), "{bytes} of {size}");
            } else {
                pair.client.start(Call::new(pair.handle, 1, &parcel));
                pair.client.expect(&[Return::FailedReply]);
                pair.server.expect(&[]);
            }
        }
        pair.check();
    }
}

fn largest_reply_fits_exactly(env: &Env) {
    let size = 5 * PAGE;
    let mut pair = Pair::sized(env, size, LIBBINDER_MAPPING);
    let parcel = Parcel::from_bytes(&pattern(size, 4));
    let (_, back) = pair.round(&Parcel::new(), &parcel);
    assert!(back.data == parcel.data());
}

fn reply_too_large_fails_for_the_caller(env: &Env) {
    let mut pair = Pair::sized(env, 4 * PAGE, LIBBINDER_MAPPING);
    let empty = Parcel::new();
    for size in [4 * PAGE + 1, 5 * PAGE, 1 << 20] {
        pair.client.start(Call::new(pair.handle, 1, &empty));
        let received = pair.server.expect_transaction();
        pair.server.give_back(&received);
        // The replying thread is not told: for it the call is over.
        pair.server.answer(&Parcel::from_bytes(&vec![1; size]));
        pair.client.expect(&[Return::TransactionComplete, Return::FailedReply]);
    }
    pair.check();
}

fn offsets_take_room_too(env: &Env) {
    let mut pair = Pair::sized(env, 2 * PAGE, 4 * PAGE);
    let mut parcel = Parcel::new();
    parcel.object(&object::binder(0x100, 0x200));
    parcel.bytes(&vec![7; 4 * PAGE - 24 - 8]);
    let fits = parcel.clone();
    parcel.bytes(&[7; 1]);
    pair.client.start(Call::new(pair.handle, 1, &parcel));
    assert!(pair.client.drain().contains(&Return::FailedReply));
    pair.client.start(Call::new(pair.handle, 1, &fits));
    let received = pair.server.expect_transaction();
    assert_eq!((received.data_size, received.offsets_size), (4 * PAGE as u64 - 8, 8));
}

fn receiver_sees_pid_euid_and_code(env: &Env) {
    let mut pair = Pair::new(env);
    let parcel = Parcel::from_bytes(b"hello");
    pair.client.start(Call::new(pair.handle, 0x1234_5678, &parcel));
    let received = pair.server.expect_transaction();
    let map = pair.server.binder().mapping().expect("a mapping");
    assert!(map.contains(received.buffer, received.data_size));
    assert!(map.contains(received.offsets, 0));
    assert_eq!(
        received,
        TransactionData {
            target: Pair::NODE.ptr,
            cookie: Pair::NODE.cookie,
            code: 0x1234_5678,
            flags: 0,
            sender_pid: unistd::getpid().as_raw(),
            sender_euid: 0,
            data_size: 5,
            offsets_size: 0,
            buffer: received.buffer,
            offsets: received.buffer + 8,
        }
    );
}

fn one_way_receiver_sees_no_pid(env: &Env) {
    let mut pair = Pair::new(env);
    let parcel = Parcel::from_bytes(b"hello");
    pair.client.start_one_way(Call::new(pair.handle, 5, &parcel));
    let received = pair.server.expect_transaction();
    assert_eq!((received.sender_pid, received.sender_euid), (0, 0));
    assert_eq!((received.code, received.flags), (5, uapi::TF_ONE_WAY));
    assert_eq!((received.target, received.cookie), (Pair::NODE.ptr, Pair::NODE.cookie));
}

fn receiver_of_a_reply_sees_no_pid(env: &Env) {
    let mut pair = Pair::new(env);
    pair.client.start(Call::new(pair.handle, 5, &Parcel::new()));
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
    let answer = Parcel::from_bytes(b"yes");
    let call = Call { handle: 99, code: 6, flags: uapi::TF_STATUS_CODE, parcel: &answer };
    pair.server.start_reply(call);
    let reply = pair.client.expect_reply();
    assert_eq!((reply.sender_pid, reply.sender_euid, reply.target, reply.cookie), (0, 0, 0, 0));
    assert_eq!((reply.code, reply.flags, reply.data_size), (6, uapi::TF_STATUS_CODE, 3));
}

fn sender_euid_is_the_effective_one(env: &Env) {
    let mut pair = Pair::new(env);
    unistd::seteuid(Uid::from_raw(4711)).expect("the test runs as root");
    pair.client.start(Call::new(pair.handle, 5, &Parcel::new()));
    unistd::seteuid(Uid::from_raw(0)).expect("back to root");
    let received = pair.server.expect_transaction();
    assert_eq!((received.sender_euid, received.sender_pid), (4711, process::thread_id()));
}

fn codes_and_flags_arrive_as_sent(env: &Env) {
    let mut pair = Pair::new(env);
    let empty = Parcel::new();
    for (code, flags) in [
        (0, 0),
        (u32::MAX, uapi::TF_ACCEPT_FDS),
        (1, uapi::TF_ROOT_OBJECT | uapi::TF_STATUS_CODE),
        (2, uapi::TF_CLEAR_BUF),
        (3, 0x8000_0000),
        (4, !uapi::TF_ONE_WAY),
    ] {
        pair.client.start(Call { handle: pair.handle, code, flags, parcel: &empty });
        let received = pair.server.expect_transaction();
        assert_eq!((received.code, received.flags), (code, flags));
        pair.server.give_back(&received);
        pair.server.answer(&empty);
        let reply = pair.client.expect_reply();
        pair.client.give_back(&reply);
    }
}

fn buffers_are_aligned(env: &Env) {
    let mut pair = Pair::new(env);
    // One-way calls that stay, so that each next one lies behind the one before.
    for size in 0..40 {
        pair.client.start_one_way(Call::new(pair.handle, 1, &Parcel::from_bytes(&vec![1; size])));
        let received = pair.server.expect_transaction();
        assert_eq!(received.buffer % 8, 0);
        assert_eq!(received.offsets, received.buffer + size.next_multiple_of(8) as u64);
        if size % 2 == 0 {
            pair.server.give_back(&received);
        } else {
            pair.server.free(&received);
        }
    }
}

/// Sends a transaction as it is; it must be refused with an error, and nothing may reach the server.
#[track_caller]
fn refused(pair: &mut Pair, data: TransactionData, errno: Errno) {
    pair.client.queue().command(uapi::BC_TRANSACTION, &data);
    pair.client.flush().expect("BC_TRANSACTION");
    let returns = pair.client.drain();
    assert_eq!(returns, [Return::FailedReply], "{data:x?}");
    assert_eq!(pair.client.errno(), errno, "{data:x?}");
    pair.server.expect(&[]);
}

fn to(pair: &Pair) -> TransactionData {
    TransactionData { target: uapi::in_union(pair.handle), ..TransactionData::default() }
}

fn nothing_is_read_from_empty_addresses(env: &Env) {
    let mut pair = Pair::new(env);
    for address in [0, 1, 1 << 63, u64::MAX] {
        let data = TransactionData { buffer: address, offsets: address, ..to(&pair) };
        pair.client.queue().command(uapi::BC_TRANSACTION, &data);
        pair.client.flush().expect("BC_TRANSACTION");
        let received = pair.server.expect_transaction();
        assert_eq!((received.data_size, received.offsets_size), (0, 0));
        pair.server.give_back(&received);
        pair.server.answer(&Parcel::new());
        let reply = pair.client.expect_reply();
        pair.client.give_back(&reply);
    }
}

fn data_at_a_bad_address(env: &Env) {
    let mut pair = Pair::new(env);
    let arena = Arena::new(3);
    arena.unmap(0);
    arena.protect(1, ProtFlags::PROT_NONE);
    for address in [0, 8, arena.at(0), arena.at(PAGE), 1 << 47, 1 << 63, u64::MAX - 100, u64::MAX] {
        for size in [1, 100, 5000] {
            let data = TransactionData { buffer: address, data_size: size, ..to(&pair) };
            refused(&mut pair, data, Errno::EFAULT);
        }
    }
    whole(&mut pair);
}

fn data_with_a_hole(env: &Env) {
    let mut pair = Pair::new(env);
    let arena = Arena::new(5);
    arena.unmap(3);
    // The end lies in the hole, or the hole in the middle.
    for (start, size) in [(0, 3 * PAGE + 1), (3 * PAGE - 1, 2), (PAGE + 5, 4 * PAGE - 5)] {
        let data = TransactionData { buffer: arena.at(start), data_size: size as u64, ..to(&pair) };
        refused(&mut pair, data, Errno::EFAULT);
    }
    let data = TransactionData { buffer: arena.at(0), data_size: 3 * PAGE as u64, ..to(&pair) };
    pair.client.queue().command(uapi::BC_TRANSACTION, &data);
    pair.client.flush().expect("BC_TRANSACTION");
    let received = pair.server.expect_transaction();
    assert_eq!(pair.server.take(&received).data, [0; 3 * PAGE]);
    pair.server.answer(&Parcel::new());
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
    whole(&mut pair);
}

fn offsets_at_a_bad_address(env: &Env) {
    let mut pair = Pair::new(env);
    let arena = Arena::new(2);
    arena.unmap(1);
    for address in [0, 8, arena.at(PAGE), arena.at(PAGE - 4), 1 << 63] {
        let data =
            TransactionData { buffer: arena.at(0), data_size: 64, offsets: address, offsets_size: 8, ..to(&pair) };
        refused(&mut pair, data, Errno::EFAULT);
    }
    whole(&mut pair);
}

/// What is wrong with sizes: there is no room for them, or they make no sense.
fn too_much(data: &TransactionData) -> Errno {
    let sum = data.data_size.checked_next_multiple_of(8).and_then(|size| size.checked_add(data.offsets_size));
    if sum.is_some_and(|sum| sum > LIBBINDER_MAPPING as u64) { Errno::ENOSPC } else { Errno::EINVAL }
}

fn huge_sizes(env: &Env) {
    let mut pair = Pair::new(env);
    // All that fits into the mapping can be read: it is the sizes that are wrong.
    let arena = Arena::new(LIBBINDER_MAPPING / PAGE + 1);
    let huge = [
        u64::MAX,
        u64::MAX - 7,
        u64::MAX - 8,
        1 << 63,
        (1 << 63) - 1,
        1 << 62,
        1 << 32,
        (1 << 32) - 1,
        (1 << 32) + 8,
        1 << 31,
        LIBBINDER_MAPPING as u64 + 1,
    ];
    for size in huge {
        let data = TransactionData { buffer: arena.at(0), data_size: size, ..to(&pair) };
        refused(&mut pair, data, too_much(&data));
        let aligned = size & !7;
        let data = TransactionData { buffer: arena.at(0), offsets: arena.at(0), offsets_size: aligned, ..to(&pair) };
        refused(&mut pair, data, too_much(&data));
        // Sums that come out small.
        for other in [aligned.wrapping_neg(), aligned.wrapping_neg().wrapping_add(8), aligned] {
            let data = TransactionData {
                buffer: arena.at(0),
                data_size: size,
                offsets: arena.at(0),
                offsets_size: other,
                ..to(&pair)
            };
            refused(&mut pair, data, too_much(&data));
        }
    }
    whole(&mut pair);
}

/// A node and room around it, with these offsets.
fn with_offsets(offsets: &[u64]) -> Parcel {
    let mut parcel = Parcel::new();
    for number in 0..4u64 {
        // The first four bytes of each are a type; every eighth byte starts one.
        parcel.bytes(zerocopy::IntoBytes::as_bytes(&object::binder(0x100 + number, 0x200)));
    }
    parcel.bytes(&[0; 3]);
    offsets.iter().for_each(|offset| {
        parcel.offset(*offset);
    });
    parcel
}

/// Sends a parcel, which must be refused with an error.
#[track_caller]
fn refused_parcel(pair: &mut Pair, parcel: &Parcel, errno: Errno) {
    pair.client.start(Call::new(pair.handle, 1, parcel));
    let returns = pair.client.drain();
    assert!(returns.contains(&Return::FailedReply), "{:?} is not refused: {returns:x?}", parcel.offsets());
    assert!(!returns.contains(&Return::TransactionComplete));
    assert_eq!(pair.client.errno(), errno, "{:?}", parcel.offsets());
    pair.server.expect(&[]);
}

fn offset_out_of_place(env: &Env) {
    let mut pair = Pair::new(env);
    // Data is 99 bytes long, an object 24.
    for offset in [1, 2, 3, 5, 76, 77, 80, 96, 99] {
        refused_parcel(&mut pair, &with_offsets(&[offset]), Errno::EINVAL);
    }
    for offset in [100, 4096, 1 << 31, 1 << 32, 1 << 63, u64::MAX, u64::MAX - 3] {
        refused_parcel(&mut pair, &with_offsets(&[offset]), Errno::EFAULT);
    }
    pair.check();
    whole(&mut pair);
}

fn object_at_an_odd_place(env: &Env) {
    let mut pair = Pair::new(env);
    let object = object::binder(0x100, 0x200);
    for before in 1..=8 {
        let mut parcel = Parcel::from_bytes(&[0; 8][..before]);
        parcel.bytes(zerocopy::IntoBytes::as_bytes(&object));
        parcel.offset(before as u64);
        if before % 4 != 0 {
            refused_parcel(&mut pair, &parcel, Errno::EINVAL);
            continue;
        }
        pair.client.start(Call::one_way(pair.handle, 1, &parcel));
        let received = pair.server.expect_transaction();
        pair.server.give_back(&received);
        pair.client.drain();
    }
    whole(&mut pair);
}

fn offsets_of_a_broken_size(env: &Env) {
    let mut pair = Pair::new(env);
    let parcel = with_offsets(&[0, 24]);
    for size in [1, 4, 7, 9, 12, 15] {
        let data = TransactionData { offsets_size: size, ..Call::new(pair.handle, 1, &parcel).data() };
        refused(&mut pair, data, Errno::EINVAL);
    }
    whole(&mut pair);
}

fn offsets_that_overlap_or_go_back(env: &Env) {
    let mut pair = Pair::new(env);
    for offsets in [&[0, 0][..], &[24, 0], &[0, 8], &[0, 20], &[48, 24], &[0, 24, 24], &[0, 48, 24], &[0, 21]] {
        refused_parcel(&mut pair, &with_offsets(offsets), Errno::EFAULT);
    }
    whole(&mut pair);
    pair.check();
}

fn object_of_an_unknown_type(env: &Env) {
    let mut pair = Pair::new(env);
    for kind in [0, 1, u32::MAX, uapi::BINDER_TYPE_BINDER + 1, uapi::BINDER_TYPE_BINDER.swap_bytes()] {
        let mut object = object::binder(0x100, 0x200);
        object.kind = kind;
        refused_parcel(&mut pair, &Parcel::from_object(&object), Errno::EINVAL);
    }
    whole(&mut pair);
}

fn object_cut_short_by_the_end(env: &Env) {
    let mut pair = Pair::new(env);
    let parcel = Parcel::from_object(&object::binder(0x100, 0x200));
    for size in [0, 1, 3, 4, 8, 16, 20, 23] {
        let data = TransactionData { data_size: size, ..Call::new(pair.handle, 1, &parcel).data() };
        refused(&mut pair, data, Errno::EINVAL);
    }
    whole(&mut pair);
}

/// Nothing is left in the server's mapping: all of it can be had at once.
#[track_caller]
pub fn whole(pair: &mut Pair) {
    let all = pair.server.binder().mapping().expect("a mapping").len();
    whole_of(pair, all);
}

/// The same, of a mapping the file does not know of.
#[track_caller]
pub fn whole_of(pair: &mut Pair, all: usize) {
    let parcel = Parcel::from_bytes(&vec![0x77; all]);
    pair.client.start(Call::new(pair.handle, 1, &parcel));
    let received = pair.server.expect_transaction();
    assert_eq!(received.data_size, all as u64);
    pair.server.give_back(&received);
    pair.server.answer(&Parcel::new());
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
}

fn call_to_an_unknown_handle(env: &Env) {
    let mut pair = Pair::new(env);
    let empty = Parcel::new();
    for handle in [pair.handle + 1, 4711, 1 << 31, u32::MAX] {
        for flags in [0, uapi::TF_ONE_WAY] {
            pair.client.start(Call { handle, code: 1, flags, parcel: &empty });
            pair.client.expect(&[Return::FailedReply]);
        }
    }
    pair.check();
}

fn call_to_a_handle_given_back(env: &Env) {
    let mut pair = Pair::new(env);
    let handle = pair.handle;
    pair.client.queue().release(handle);
    pair.client.start(Call::new(handle, 1, &Parcel::new()));
    pair.client.expect(&[Return::FailedReply]);
    pair.server.expect(&[Return::Release(Pair::NODE), Return::DecRefs(Pair::NODE)]);
}

fn call_to_a_handle_of_a_dead_process(env: &Env) {
    let Pair { mut client, server, handle, registry } = Pair::new(env);
    drop(server);
    // The driver takes its time to let a file go.
    crate::fixture::until(|| {
        client.start(Call::one_way(handle, 1, &Parcel::new()));
        client.drain() == [Return::DeadReply]
    });
    client.start(Call::new(handle, 1, &Parcel::new()));
    client.expect(&[Return::DeadReply]);
    assert_eq!(client.errno(), Errno::EINVAL);
    drop(registry);
}

fn manager_cannot_call_itself(env: &Env) {
    let mut end = End::open(env);
    become_manager(end.binder());
    for flags in [0, uapi::TF_ONE_WAY] {
        end.start(Call { handle: 0, code: 1, flags, parcel: &Parcel::new() });
        end.expect(&[Return::FailedReply]);
    }
    // Nor can another file of the same process.
    let mut other = End::open(env);
    other.start(Call::new(0, 1, &Parcel::new()));
    other.expect(&[Return::FailedReply]);
}

fn reply_without_a_call(env: &Env) {
    let mut end = End::open(env);
    let empty = Parcel::new();
    let mut commands = Commands::new();
    commands.reply(Call::reply(&empty));
    let (result, progress) = end.binder().write_read(commands.bytes(), &mut []);
    assert_eq!((result, progress.written), (Ok(()), commands.len()));
    end.expect(&[Return::FailedReply]);
}

fn reply_by_another_thread(env: &Env) {
    let mut pair = Pair::new(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let received = pair.server.expect_transaction();
    let binder = pair.server.binder().clone();
    std::thread::spawn(move || {
        let mut looper = binder_client::Looper::new(binder);
        looper.reply(&Parcel::from_bytes(b"stolen")).expect("BC_REPLY");
        assert_eq!(looper.pending(), Some(Return::FailedReply));
    })
    .join()
    .expect("the thread is well");
    pair.client.expect(&[]);
    pair.server.give_back(&received);
    pair.server.answer(&Parcel::from_bytes(b"mine"));
    let reply = pair.client.expect_reply();
    assert_eq!(pair.client.take(&reply).data, b"mine");
}

fn reply_twice(env: &Env) {
    let mut pair = Pair::new(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
    pair.server.answer(&Parcel::from_bytes(b"one"));
    pair.server.start_reply(Call::reply(&Parcel::from_bytes(b"two")));
    pair.server.expect(&[Return::FailedReply]);
    let reply = pair.client.expect_reply();
    assert_eq!(pair.client.take(&reply).data, b"one");
    pair.check();
}

fn reply_to_a_one_way_call(env: &Env) {
    let mut pair = Pair::new(env);
    pair.client.start_one_way(Call::new(pair.handle, 1, &Parcel::new()));
    let received = pair.server.expect_transaction();
    pair.server.start_reply(Call::reply(&Parcel::new()));
    pair.server.expect(&[Return::FailedReply]);
    pair.server.give_back(&received);
    pair.client.expect(&[]);
    pair.check();
}

fn reply_says_one_way(env: &Env) {
    let mut pair = Pair::new(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
    let answer = Parcel::from_bytes(b"odd");
    pair.server.start_reply(Call::reply(&answer).with_flags(uapi::TF_ONE_WAY));
    pair.server.expect(&[Return::TransactionComplete]);
    let reply = pair.client.expect_reply();
    assert_eq!(reply.flags, uapi::TF_ONE_WAY);
    assert_eq!(pair.client.take(&reply).data, b"odd");
    pair.check();
}

fn call_to_a_process_without_a_mapping(env: &Env) {
    let peer = Peer::start(env, |env, line| {
        let binder = binder_client::Binder::open(&env.device).expect("open");
        become_manager(&binder);
        line.say(0).expect("the test is there");
        let _ = line.hear();
    });
    peer.hear();
    let mut client = End::open(env);
    for size in [0, 100] {
        client.start(Call::new(0, 1, &Parcel::from_bytes(&vec![1; size])));
        client.expect(&[Return::DeadReply]);
        assert_eq!(client.errno(), Errno::ESRCH);
    }
}

fn call_from_a_process_without_a_mapping(env: &Env) {
    let mut pair = Pair::new(env);
    let mut client = End::open_unmapped(env);
    // Handle 0 needs no introduction; the registry's reply has nowhere to go.
    client.set_blocking(true);
    client.start(Call::new(0, 3, &Parcel::from_bytes(&[0; 4])));
    assert_eq!(client.next(), Ok(Return::TransactionComplete));
    assert_eq!(client.next(), Ok(Return::DeadReply));
    client.queue().command(uapi::BC_TRANSACTION, &Call::one_way(0, 3, &Parcel::from_bytes(&[0; 4])).data());
    assert_eq!(client.next(), Ok(Return::TransactionComplete));
    pair.check();
}

fn refused_reply_can_not_be_repeated(env: &Env) {
    let mut pair = Pair::new(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
    // A reply with an object that makes no sense fails for the caller, and for the callee the call is over.
    let mut broken = object::binder(1, 2);
    broken.kind = 77;
    pair.server.answer(&Parcel::from_object(&broken));
    pair.client.expect(&[Return::TransactionComplete, Return::FailedReply]);
    pair.server.start_reply(Call::reply(&Parcel::new()));
    pair.server.expect(&[Return::FailedReply]);
    pair.check();
}

fn second_call_while_one_is_out(env: &Env) {
    let mut pair = Pair::new(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(b"first")));
    // The thread should be waiting for the first reply; it calls again instead.
    pair.client.start(Call::new(pair.handle, 2, &Parcel::from_bytes(b"second")));
    pair.client.expect(&[Return::TransactionComplete, Return::FailedReply]);
    // The first is not harmed.
    let received = pair.server.expect_transaction();
    assert_eq!(pair.server.take(&received).data, b"first");
    pair.server.answer(&Parcel::from_bytes(b"answer"));
    let [Return::Reply(reply)] = pair.client.drain()[..] else { panic!("not a reply") };
    assert_eq!(pair.client.take(&reply).data, b"answer");
    // One-way calls are free to go.
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    pair.client.start(Call::one_way(pair.handle, 2, &Parcel::new()));
    assert!(pair.client.drain().iter().all(|ret| *ret == Return::TransactionComplete));
}

fn changed_data_after_the_call_is_not_seen(env: &Env) {
    let mut pair = Pair::new(env);
    let mut parcel = Parcel::from_bytes(b"as it was");
    pair.client.start(Call::new(pair.handle, 1, &parcel));
    parcel.data_mut().fill(b'x');
    let received = pair.server.expect_transaction();
    assert_eq!(pair.server.take(&received).data, b"as it was");
}
