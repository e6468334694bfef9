// SPDX-License-Identifier: GPL-2.0

//! Reclaim of pages to which others hold references.
//!
//! The holder of a reference still reads what the page contained: the page has left the mapping, and later
//! transactions, to this process or another, use other pages.

use std::os::fd::AsFd;

use binder_client::Call;
use binder_client::Parcel;
use binder_client::object;

use super::reclaim::squeeze;
use super::reclaim::squeeze_out;
use super::tests;
use super::transaction::pattern;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::fixture::until;
use crate::hostile;
use crate::hostile::Aio;
use crate::hostile::PAGE;
use crate::hostile::Stalled;
use crate::hostile::Torn;
use crate::slow_file;
use crate::slow_file::SlowFile;

tests! { Reclaim, "pinned":
    by_a_pipe,
    by_process_vm_readv,
    by_direct_io,
    by_direct_io_of_a_process_that_ends,
}

const PAGES: usize = 8;
const LEN: usize = PAGES * PAGE;

/// A server whose mapping is `LEN` long and full of one call, which it has, and its client.
struct Held {
    pair: Pair,
    torn: Torn,
    received: binder_client::uapi::TransactionData,
    was: Vec<u8>,
}

impl Held {
    #[track_caller]
    fn new(env: &Env, seed: u32) -> Self {
        let registry = Registry::start(env);
        let server = End::open_unmapped(env);
        let torn = Torn::map(server.binder().as_fd(), LEN);
        let mut pair = Pair::at(registry, End::open(env), server.enter());
        let was = pattern(LEN, seed);
        pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&was)));
        let received = pair.server.expect_transaction();
        assert!(hostile::peek(received.buffer, LEN).as_deref() == Ok(&was[..]));
        Self { pair, torn, received, was }
    }

    /// Gives the buffer back, has its pages reclaimed, and fills the same places anew, and some of other processes'.
    #[track_caller]
    fn reclaim_and_reuse(&mut self, env: &Env) {
        self.pair.server.give_back(&self.received);
        squeeze_out(&[(self.torn.at(0), LEN)]);
        self.pair.server.answer(&Parcel::new());
        let reply = self.pair.client.expect_reply();
        self.pair.client.give_back(&reply);
        for fill in [0xb1, 0xb2] {
            self.pair.client.start(Call::new(self.pair.handle, 1, &Parcel::from_bytes(&[fill; LEN])));
            let received = self.pair.server.expect_transaction();
            assert!(hostile::peek(received.buffer, LEN) == Ok(vec![fill; LEN]));
            self.pair.server.give_back(&received);
            self.pair.server.answer(&Parcel::from_bytes(&[fill; LEN]));
            let reply = self.pair.client.expect_reply();
            self.pair.client.give_back(&reply);
            squeeze();
        }
        fill_others(env, &self.pair.registry, 0xc0);
    }
}

/// The registry, which is another process, gets calls, and gives its pages up.
fn fill_others(env: &Env, registry: &Registry, fill: u8) {
    let mut other = End::open(env);
    for number in 0..3 {
        let mut parcel = Parcel::from_bytes(&u32::to_ne_bytes(100 + number));
        parcel.object(&object::binder(8, 8));
        parcel.bytes(&vec![fill + number as u8; 4 * LEN]);
        registry.put_with(&mut other, &parcel);
        squeeze();
    }
}

fn by_a_pipe(env: &Env) {
    let mut held = Held::new(env, 1);
    let (read, write) = nix::unistd::pipe().expect("pipe");
    assert_eq!(held.torn.splice_into(&write, held.received.buffer, LEN), Ok(LEN));
    held.reclaim_and_reuse(env);
    let mut bytes = vec![0; LEN];
    let mut got = 0;
    while got < LEN {
        got += nix::unistd::read(&read, &mut bytes[got..]).expect("read");
    }
    assert!(bytes == held.was, "what was spliced has changed");
}

fn by_process_vm_readv(env: &Env) {
    let stalled = Stalled::new(env, PAGES);
    let mut held = Held::new(env, 2);
    let from = held.received.buffer;
    std::thread::scope(|scope| {
        // It takes hold of the pages, and then has nowhere to write to.
        let reader = scope.spawn(|| stalled.read_from(from, LEN));
        let mut page = None;
        until(|| {
            page = stalled.wanted();
            page.is_some()
        });
        held.reclaim_and_reuse(env);
        until(|| {
            if let Some(page) = page.take() {
                stalled.supply(page, &[0; PAGE]);
            }
            page = stalled.wanted();
            reader.is_finished()
        });
        assert_eq!(reader.join().expect("the reader is well"), Ok(LEN));
    });
    assert!(stalled.get(0, LEN) == held.was, "what was being read has changed");
}

/// A process that receives a call and has its bytes be written to a file from where they stand, which takes as long as
/// the test wants.
fn writer(env: &Env, registry: &Registry, slow: &SlowFile) -> Peer {
    let path = slow.path().to_owned();
    Peer::start(env, |env, line| {
        let mut server = End::open_unmapped(env);
        let torn = Torn::map(server.binder().as_fd(), LEN);
        registry.put(&mut server, 1, object::binder(8, 8));
        let mut server = server.enter();
        line.say(0).expect("the test is there");
        let file = slow_file::open(&path);
        let aio = Aio::new().expect("io_setup");
        let received = server.wait_transaction();
        aio.write(&file, received.buffer, LEN).expect("io_submit");
        server.give_back(&received);
        server.answer(&Parcel::new());
        line.say(0).expect("the test is there");
        // From now on what comes is looked at and given back.
        while let Ok(turn) = line.hear() {
            squeeze_out(&[(torn.at(0), LEN)]);
            line.say(0).expect("the test is there");
            let received = server.wait_transaction();
            assert!(hostile::peek(received.buffer, LEN) == Ok(vec![turn as u8; LEN]));
            server.give_back(&received);
            server.answer(&Parcel::new());
        }
    })
}

#[track_caller]
fn call(client: &mut End, handle: u32, bytes: &[u8]) {
    let parcel = Parcel::from_bytes(bytes);
    let reply = client.blocking(|looper| looper.call(Call::new(handle, 1, &parcel))).expect("a reply");
    client.give_back(&reply);
}

/// A writer that has begun to write, and what it writes.
fn writing(env: &Env, slow: &SlowFile, seed: u32) -> (Registry, Peer, End, u32, Vec<u8>) {
    let registry = Registry::start(env);
    let peer = writer(env, &registry, slow);
    peer.hear();
    slow.answer_first_write();
    let mut client = End::open(env);
    let handle = registry.get(&mut client, 1);
    let was = pattern(LEN, seed);
    call(&mut client, handle, &was);
    peer.hear();
    (registry, peer, client, handle, was)
}

fn by_direct_io(env: &Env) {
    let slow = SlowFile::mount(env);
    let (registry, peer, mut client, handle, was) = writing(env, &slow, 3);
    for turn in [0xd1, 0xd2] {
        // The writer's pages go, and it gets others.
        peer.say(turn);
        peer.hear();
        call(&mut client, handle, &[turn as u8; LEN]);
    }
    fill_others(env, &registry, 0xe0);
    let request = slow.take();
    assert!(request.written() == was, "what was being written has changed");
    slow.finish(request);
    // The writer sends the file system a request on exit, which is never answered.
    drop(slow);
    drop(peer);
}

fn by_direct_io_of_a_process_that_ends(env: &Env) {
    let slow = SlowFile::mount(env);
    let (registry, mut peer, _client, _handle, was) = writing(env, &slow, 4);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(peer.pid()), nix::sys::signal::Signal::SIGKILL).expect("kill");
    // It cannot go before the request is answered, but its pages can.
    squeeze();
    fill_others(env, &registry, 0xf0);
    let request = slow.take();
    assert!(request.written() == was, "what was being written has changed");
    slow.finish(request);
    drop(slow);
    peer.kill();
}
