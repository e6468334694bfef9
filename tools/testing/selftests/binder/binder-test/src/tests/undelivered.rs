// SPDX-License-Identifier: GPL-2.0

//! What a receiver can see of a transaction before delivery, with a sender that is stopped half-way.

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;

use binder_client::Call;
use binder_client::Looper;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::BufferObject;
use binder_client::uapi::TransactionData;
use binder_client::uapi::TransactionDataSg;
use binder_client::uapi::WriteRead;
use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::fcntl;

use super::reclaim::squeeze_out;
use super::tests;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Registry;
use crate::fixture::until;
use crate::hostile::Arena;
use crate::hostile::PAGE;
use crate::hostile::Stalled;
use crate::hostile::Torn;
use crate::hostile::adopt;
use crate::hostile::peek;

tests! { Interface, "undelivered":
    pointers_and_descriptors_of_the_sender_are_not_seen,
    page_that_is_being_filled_cannot_be_read,
    page_that_is_being_filled_again_after_reclaim_cannot_be_read,
    mapping_that_moves_while_it_is_filled,
    nothing_is_left_of_what_cannot_be_sent,
    nothing_is_left_of_what_cannot_be_delivered,
}

/// The pages of the server's mapping.
const PAGES: usize = 16;

/// A server that takes descriptors, and where it receives.
fn served(env: &Env) -> (Pair, Torn) {
    let registry = Registry::start(env);
    let server = End::open_unmapped(env);
    let torn = Torn::map(server.binder().as_fd(), PAGES * PAGE);
    (Pair::with_flags(registry, End::open(env), server.enter(), uapi::FLAT_BINDER_FLAG_ACCEPTS_FDS), torn)
}

/// A whole call: its pages have been delivered then, and can be read from then on.
#[track_caller]
fn deliver(pair: &mut Pair, bytes: &[u8]) {
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(bytes)));
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
    pair.server.answer(&Parcel::new());
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
}

/// Has another thread of the client's send what stands still at `stalled`, calls `body` meanwhile, and lets it go on with
/// the pages that `page_of` makes.
fn while_sending(
    pair: &mut Pair,
    sg: TransactionDataSg,
    stalled: &Stalled,
    page_of: impl Fn(usize) -> [u8; PAGE],
    body: impl FnOnce(&mut Pair),
) {
    let binder = pair.client.binder().clone();
    let sender = std::thread::spawn(move || {
        let mut looper = Looper::new(binder);
        looper.queue().command(uapi::BC_TRANSACTION_SG, &sg);
        looper.flush().expect("BC_TRANSACTION_SG");
    });
    let mut page = None;
    until(|| {
        page = stalled.wanted();
        page.is_some()
    });
    body(pair);
    until(|| {
        if let Some(page) = page.take() {
            stalled.supply(page, &page_of(page));
        }
        page = stalled.wanted();
        sender.is_finished()
    });
    sender.join().expect("the sender is well");
}

fn last_page(_: usize) -> [u8; PAGE] {
    [0x51; PAGE]
}

fn pointers_and_descriptors_of_the_sender_are_not_seen(env: &Env) {
    const SECRET: [u8; 8] = [0xa1; 8];
    let stalled = Stalled::new(env, 1);
    let (mut pair, torn) = served(env);
    deliver(&mut pair, &[0x11; PAGE]);

    // A descriptor with a number of its own.
    let (read, _write) = nix::unistd::pipe().expect("pipe");
    let number = fcntl(read.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(0xa1)).expect("F_DUPFD_CLOEXEC");
    let descriptor = adopt(number);
    let mut parent = vec![0x22; 64];
    parent[8..16].copy_from_slice(&SECRET);
    parent[32..36].copy_from_slice(&descriptor.as_raw_fd().to_ne_bytes());

    let mut parcel = Parcel::from_bytes(b"before..");
    parcel.object(&object::buffer(&parent));
    let child = BufferObject { buffer: stalled.at(0), length: 8, ..object::child_buffer(&[], 0, 8) };
    parcel.object(&child);
    parcel.object(&object::fd_array(1, 0, 32));
    let last = BufferObject { buffer: stalled.at(8), length: 8, ..object::buffer(&[]) };
    parcel.object(&last);
    let buffers = torn.at(parcel.data().len() + size_of_val(parcel.offsets()));
    let transaction = Call::one_way(pair.handle, 1, &parcel).data();
    let sg = TransactionDataSg { transaction, buffers_size: 80 };
    let look = || peek(buffers, 64).expect("the page was delivered before");
    let unseen = |seen: &[u8]| {
        assert_ne!(seen[8..16], SECRET);
        assert_ne!(seen[32..36], parent[32..36]);
    };
    while_sending(&mut pair, sg, &stalled, last_page, |_| unseen(&look()));
    // It is all there, and waits.
    unseen(&look());
    let received = pair.server.expect_transaction();
    assert_eq!(received.buffer, torn.at(0));
    let seen = look();
    unseen(&seen);
    for range in [0..8, 16..32, 36..64] {
        assert_eq!(seen[range.clone()], parent[range]);
    }
    assert_eq!(seen[8..16], (buffers + 64).to_ne_bytes());
    pair.server.give_back(&received);
}

/// The bytes of a call whose third page is not there yet.
fn three_pages(pair: &Pair, stalled: &Stalled) -> TransactionDataSg {
    let call = Call::one_way(pair.handle, 1, &Parcel::new()).data();
    let transaction = TransactionData { buffer: stalled.at(0), data_size: 3 * PAGE as u64, ..call };
    for page in [0, 1] {
        stalled.supply(page, &[page as u8 + 1; PAGE]);
    }
    TransactionDataSg { transaction, buffers_size: 0 }
}

/// The first byte of each of the first three pages.
fn first_bytes(torn: &Torn) -> [nix::Result<u8>; 3] {
    [0, 1, 2].map(|page| peek(torn.at(page * PAGE), 1).map(|bytes| bytes[0]))
}

fn unread_while_filled(env: &Env, pair: &mut Pair, torn: &Torn, first: nix::Result<u8>) {
    let stalled = Stalled::new(env, 3);
    let sg = three_pages(pair, &stalled);
    let unread = match env.driver(Difference::UndeliveredPage) {
        Driver::Ours => [first, Err(Errno::EFAULT), Err(Errno::EFAULT)],
        Driver::C => [Ok(1), Ok(2), Ok(0)],
    };
    while_sending(pair, sg, &stalled, last_page, |_| assert_eq!(first_bytes(torn), unread));
    // Nor can it be while it waits.
    let [.., last] = first_bytes(torn);
    match env.driver(Difference::UndeliveredPage) {
        Driver::Ours => assert_eq!(last, Err(Errno::EFAULT)),
        Driver::C => assert_eq!(last, Ok(0x51)),
    }
    let received = pair.server.expect_transaction();
    assert_eq!(received.buffer, torn.at(0));
    assert_eq!(first_bytes(torn), [Ok(1), Ok(2), Ok(0x51)]);
    pair.server.give_back(&received);
}

fn page_that_is_being_filled_cannot_be_read(env: &Env) {
    let (mut pair, torn) = served(env);
    // In the first page, and no other, there was something before.
    unread_while_filled(env, &mut pair, &torn, Ok(1));
}

fn page_that_is_being_filled_again_after_reclaim_cannot_be_read(env: &Env) {
    let (mut pair, torn) = served(env);
    deliver(&mut pair, &[0x11; 4 * PAGE]);
    squeeze_out(&[(torn.at(0), PAGES * PAGE)]);
    unread_while_filled(env, &mut pair, &torn, Err(Errno::EFAULT));
}

fn mapping_that_moves_while_it_is_filled(env: &Env) {
    let stalled = Stalled::new(env, 2);
    let (mut pair, torn) = served(env);
    let mut parcel = Parcel::from_bytes(b"before..");
    parcel.object(&object::buffer(&[0x22; 64]));
    // The sender stands still behind this.
    parcel.object(&object::child_buffer(&[0x33; 8], 0, 8));
    parcel.bytes(&[0; PAGE]);
    parcel.object(&object::child_buffer(&[0x44; 8], 0, 24));
    let mut data = parcel.data().to_vec();
    data.resize(2 * PAGE, 0);
    let page = |page| *data[page * PAGE..].first_chunk::<PAGE>().expect("two pages");
    stalled.supply(0, &page(0));
    let call = Call::one_way(pair.handle, 1, &parcel).data();
    let transaction = TransactionData { buffer: stalled.at(0), ..call };
    let mut moved = None;
    let move_away = |_: &mut Pair| moved = Some(torn.move_away(0..PAGES).expect("mremap"));
    while_sending(&mut pair, TransactionDataSg { transaction, buffers_size: 80 }, &stalled, page, move_away);
    let received = pair.server.expect_transaction();
    let moved = moved.expect("it was moved");
    if env.driver(Difference::MovedMapping) == Driver::C {
        return assert!(torn.contains(received.buffer));
    }
    assert!(moved.contains(received.buffer));
    let parent = received.offsets + received.offsets_size;
    let got = peek(parent, 80).expect("readable");
    assert_eq!(got[8..16], (parent + 64).to_ne_bytes());
    assert_eq!(got[24..32], (parent + 72).to_ne_bytes());
    assert_eq!(got[64..], [[0x33; 8], [0x44; 8]].concat());
    pair.server.give_back(&received);
}

/// How many bytes of the mapping are this one. All of it has been delivered before.
fn count(torn: &Torn, secret: u8) -> usize {
    let all = peek(torn.at(0), PAGES * PAGE).expect("readable");
    all.iter().filter(|byte| **byte == secret).count()
}

/// What is left of `sent` bytes that did not arrive.
#[track_caller]
fn left(env: &Env, torn: &Torn, secret: u8, sent: usize) {
    let left = count(torn, secret);
    match env.driver(Difference::UndeliveredPage) {
        Driver::Ours => assert_eq!(left, 0, "{secret:#x}"),
        Driver::C => assert_eq!(left, sent, "{secret:#x}"),
    }
}

fn nothing_is_left_of_what_cannot_be_sent(env: &Env) {
    let (mut pair, torn) = served(env);
    deliver(&mut pair, &[0x11; PAGES * PAGE]);
    let failed = |pair: &mut Pair, sg: &TransactionDataSg| {
        for flags in [0, uapi::TF_ONE_WAY] {
            let transaction = TransactionData { flags, ..sg.transaction };
            let sg = TransactionDataSg { transaction, ..*sg };
            pair.client.queue().command(uapi::BC_TRANSACTION_SG, &sg);
            pair.client.flush().expect("BC_TRANSACTION_SG");
            pair.client.expect(&[Return::FailedReply]);
        }
    };
    // An object that cannot be sent.
    let mut parcel = Parcel::from_bytes(&[0xa1; 3 * PAGE]);
    parcel.object(&object::handle(4711));
    let call = Call::new(pair.handle, 1, &parcel).data();
    failed(&mut pair, &TransactionDataSg { transaction: call, buffers_size: 0 });
    left(env, &torn, 0xa1, 3 * PAGE);

    // Data that ends in the middle.
    let arena = Arena::new(2);
    arena.put(0, &[0xa2; PAGE]);
    arena.unmap(1);
    let call = Call::new(pair.handle, 1, &Parcel::new()).data();
    let transaction = TransactionData { buffer: arena.at(0), data_size: PAGE as u64 + 1, ..call };
    failed(&mut pair, &TransactionDataSg { transaction, buffers_size: 0 });
    left(env, &torn, 0xa2, PAGE);

    // A buffer that ends in the middle.
    let mut parcel = Parcel::from_bytes(&[0xa3; 40]);
    arena.put(0, &[0xa3; PAGE]);
    parcel.object(&BufferObject { buffer: arena.at(0), length: PAGE as u64 + 8, ..object::buffer(&[]) });
    let call = Call::new(pair.handle, 1, &parcel).data();
    failed(&mut pair, &TransactionDataSg { transaction: call, buffers_size: PAGE as u64 + 8 });
    left(env, &torn, 0xa3, 40 + PAGE);
}

fn nothing_is_left_of_what_cannot_be_delivered(env: &Env) {
    let (mut pair, torn) = served(env);
    deliver(&mut pair, &[0x11; PAGES * PAGE]);
    // Its description does not fit where it is to be read to.
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&[0xa4; 2 * PAGE])));
    let arena = Arena::new(2);
    arena.unmap(1);
    let mut argument = WriteRead { read_size: 256, read_buffer: arena.at(PAGE - 16), ..WriteRead::default() };
    assert_eq!(arena.write_read(pair.server.binder(), &mut argument), Err(Errno::EFAULT));
    pair.server.drain();
    pair.client.expect(&[Return::TransactionComplete, Return::FailedReply]);
    left(env, &torn, 0xa4, 2 * PAGE);
}
