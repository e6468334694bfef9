// SPDX-License-Identifier: GPL-2.0

//! What can be seen of a transaction before it is delivered: senders that stand still in the middle of it.

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;

use binder_client::Call;
use binder_client::Looper;
use binder_client::Parcel;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::BufferObject;
use binder_client::uapi::TransactionDataSg;
use nix::fcntl::FcntlArg;
use nix::fcntl::fcntl;

use super::tests;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Registry;
use crate::fixture::until;
use crate::hostile::PAGE;
use crate::hostile::Stalled;
use crate::hostile::Torn;
use crate::hostile::adopt;
use crate::hostile::peek;

tests! { Interface, "undelivered":
    pointers_and_descriptors_of_the_sender_are_not_seen,
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

/// Has another thread of the client's send what stands still at `stalled`, calls `body` meanwhile, and lets it go on.
fn while_sending(pair: &mut Pair, sg: TransactionDataSg, stalled: &Stalled, body: impl FnOnce(&mut Pair)) {
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
            stalled.supply(page, &[0x51; PAGE]);
        }
        page = stalled.wanted();
        sender.is_finished()
    });
    sender.join().expect("the sender is well");
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
    while_sending(&mut pair, sg, &stalled, |_| unseen(&look()));
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
