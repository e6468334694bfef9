// SPDX-License-Identifier: GPL-2.0

//! Files in flight, and what they keep alive.
//!
//! A binder file can be sent like any other file. A transaction queued in a binder file must not keep that file alive,
//! neither directly nor through other files: it would never be released. Each test leaves such a cycle behind, and the
//! harness checks that the driver has released it.

use std::fs::File;
use std::io::ErrorKind;
use std::io::IoSlice;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use binder_client::Call;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::BufferObject;
use binder_client::uapi::FlatObject;
use binder_client::uapi::TransactionDataSg;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::ControlMessage;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::socket::sendmsg;
use nix::sys::socket::socketpair;

use super::tests;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::fixture::node;
use crate::fixture::until;
use crate::hostile::PAGE;
use crate::hostile::Stalled;
use crate::hostile::Tally;
use crate::hostile::Torn;
use crate::hostile::duplicate;
use crate::hostile::ring_holding;

tests! { Interface, "in_flight":
    a_file_in_itself,
    two_files_in_each_other,
    a_circle_of_five_files,
    a_file_in_an_array_in_itself,
    a_file_in_a_reply_to_itself,
    a_file_in_a_call_that_waits_behind_another,
    a_circle_through_a_socket,
    a_circle_through_a_ring,
    killed_while_they_send_themselves,
    files_go_with_the_mapping,
    files_stay_when_the_mapping_moves,
    a_file_is_sent_while_the_mapping_goes,
    a_reply_that_is_not_read_lets_its_file_go,
}

/// What is sent in place of a file, and holds it.
type Hide = fn(&OwnedFd) -> OwnedFd;

/// A way to send descriptors to the owner of a handle.
type Sending = fn(&mut End, u32, &[OwnedFd]);

/// The file itself.
fn bare(file: &OwnedFd) -> OwnedFd {
    file.try_clone().expect("a descriptor")
}

/// A socket in which it waits to be received.
fn socket(file: &OwnedFd) -> OwnedFd {
    let (here, there) =
        socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC).expect("socketpair");
    let files = [file.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&files)];
    sendmsg::<()>(here.as_raw_fd(), &[IoSlice::new(b"x")], &message, MsgFlags::empty(), None).expect("sendmsg");
    there
}

/// A ring in which it is registered.
fn ring(file: &OwnedFd) -> OwnedFd {
    ring_holding(file).expect("the test has made sure of that")
}

/// In a one-way call, as objects.
fn as_objects(sender: &mut End, handle: u32, files: &[OwnedFd]) {
    let mut parcel = Parcel::new();
    for file in files {
        parcel.object(&object::fd(file.as_raw_fd(), 0));
    }
    sender.start_one_way(Call::new(handle, 1, &parcel));
}

/// In a one-way call, as an array.
fn as_array(sender: &mut End, handle: u32, files: &[OwnedFd]) {
    let numbers: Vec<u8> = files.iter().flat_map(|file| file.as_raw_fd().to_ne_bytes()).collect();
    let mut parcel = Parcel::from_bytes(b"before..");
    let parent = parcel.object(&object::buffer(&numbers));
    parcel.object(&object::fd_array(files.len() as u64, parent, 0));
    let buffers_size = numbers.len().next_multiple_of(8) as u64;
    let transaction = Call::one_way(handle, 1, &parcel).data();
    sender.queue().command(uapi::BC_TRANSACTION_SG, &TransactionDataSg { transaction, buffers_size });
    sender.flush().expect("BC_TRANSACTION_SG");
    sender.expect(&[Return::TransactionComplete]);
}

/// A node that takes files.
fn taking(number: u64) -> FlatObject {
    let flags = uapi::FLAT_BINDER_FLAG_ACCEPTS_FDS;
    FlatObject { flags, ..object::binder(node(number).ptr, node(number).cookie) }
}

fn file_of(end: &End) -> OwnedFd {
    duplicate(end.binder().as_fd().as_raw_fd()).expect("a descriptor")
}

/// Files in files, directly and not, of processes that are dead.
pub fn leave_circles(env: &Env) {
    circle(env, 1, bare, as_objects);
    circle(env, 3, bare, as_array);
    circle(env, 2, socket, as_objects);
}

/// So many processes, each with a file that is queued in that of the next, the last one's in that of the first. Then
/// they are killed.
fn circle(env: &Env, members: u32, hide: Hide, send: Sending) {
    let registry = Registry::start(env);
    let mut peers: Vec<Peer> = (0..members)
        .map(|number| {
            Peer::start(env, |env, line| {
                let mut own = End::open(env).enter();
                registry.put(&mut own, number, taking(1));
                line.say(0).expect("the test is there");
                line.hear().expect("the test is there");
                let mut sender = End::open(env);
                let next = registry.get(&mut sender, (number + 1) % members);
                send(&mut sender, next, &[hide(&file_of(&own))]);
                line.say(0).expect("the test is there");
                line.hear().expect("the test is there");
                // There they would stay for good.
                if env.driver(Difference::InFlight) == Driver::C {
                    assert!(matches!(own.drain()[..], [.., Return::Transaction(_)]));
                }
                line.say(0).expect("the test is there");
                // Until it is killed.
                let _ = line.hear();
            })
        })
        .collect();
    for _ in 0..2 {
        for peer in &peers {
            peer.hear();
        }
        peers.iter().for_each(|peer| peer.say(0));
    }
    for peer in &peers {
        peer.hear();
    }
    peers.iter_mut().for_each(Peer::kill);
}

fn a_file_in_itself(env: &Env) {
    circle(env, 1, bare, as_objects);
}

fn two_files_in_each_other(env: &Env) {
    circle(env, 2, bare, as_objects);
}

fn a_circle_of_five_files(env: &Env) {
    circle(env, 5, bare, as_objects);
}

fn a_file_in_an_array_in_itself(env: &Env) {
    circle(env, 1, bare, as_array);
    circle(env, 2, bare, as_array);
}

fn a_file_in_a_reply_to_itself(env: &Env) {
    let mut pair = Pair::with_fds(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()).with_flags(uapi::TF_ACCEPT_FDS));
    let call = pair.server.expect_transaction();
    pair.server.give_back(&call);
    let own = file_of(&pair.client);
    pair.server.answer(&Parcel::from_object(&object::fd(own.as_raw_fd(), 0)));
    if env.driver(Difference::InFlight) == Driver::C {
        pair.client.expect_reply();
    }
}

fn a_file_in_a_call_that_waits_behind_another(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let own = file_of(&pair.server);
    for _ in 0..3 {
        as_objects(&mut pair.client, pair.handle, std::slice::from_ref(&own));
    }
    if env.driver(Difference::InFlight) == Driver::C {
        for _ in 0..3 {
            let call = pair.server.expect_transaction();
            pair.server.give_back(&call);
        }
    }
}

fn a_circle_through_a_socket(env: &Env) {
    circle(env, 1, socket, as_objects);
    circle(env, 3, socket, as_objects);
}

fn a_circle_through_a_ring(env: &Env) {
    let probe = File::open("/dev/null").expect("/dev/null");
    if let Err(errno @ (Errno::ENOSYS | Errno::EPERM)) = ring_holding(&probe) {
        env.skip(&format!("no io_uring: {errno}"));
    }
    circle(env, 1, ring, as_objects);
    circle(env, 3, ring, as_objects);
}

fn killed_while_they_send_themselves(env: &Env) {
    if env.driver(Difference::InFlight) == Driver::C {
        env.skip("what is in flight to itself stays with the C driver for good");
    }
    let registry = Registry::start(env);
    for round in 0..20 {
        let sent = Tally::new(2);
        let mut peers: Vec<Peer> = (0..2)
            .map(|number| {
                Peer::start(env, |env, line| {
                    let mut own = End::open_sized(env, 4 * PAGE).enter();
                    registry.put(&mut own, number, taking(1));
                    line.say(0).expect("the test is there");
                    line.hear().expect("the test is there");
                    let mut sender = End::open(env);
                    let next = registry.get(&mut sender, 1 - number);
                    let file = file_of(&own);
                    // Until it is killed. The other may be dead, or its mapping full; then there is more room some
                    // time, as what comes is taken now and then.
                    for turn in 0.. {
                        let parcel = Parcel::from_object(&object::fd(file.as_raw_fd(), 0));
                        sender.start(Call::one_way(next, 1, &parcel));
                        sender.drain();
                        // ORDERING: a count.
                        sent.at(number as usize).fetch_add(1, Ordering::Relaxed);
                        if turn % 8 < round % 8 {
                            for got in own.drain() {
                                if let Return::Transaction(call) = got {
                                    own.give_back(&call);
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        for peer in &peers {
            peer.hear();
        }
        peers.iter().for_each(|peer| peer.say(0));
        // ORDERING: a count.
        let done = |number: usize| sent.at(number).load(Ordering::Relaxed);
        until(|| done(0) > 10 * round && done(1) > 10 * round);
        peers.iter_mut().for_each(Peer::kill);
    }
}

/// A pair whose server has a mapping of so many pages that can be torn.
fn torn_pair(env: &Env, pages: usize) -> (Pair, Torn) {
    let registry = Registry::start(env);
    let server = End::open_unmapped(env).enter();
    let torn = Torn::map(server.binder().as_fd(), pages * PAGE);
    let flags = uapi::FLAT_BINDER_FLAG_ACCEPTS_FDS;
    (Pair::with_flags(registry, End::open(env), server, flags), torn)
}

/// A pipe, of which one end tells whether the other is open anywhere.
fn pipe() -> (File, OwnedFd) {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).expect("pipe");
    (File::from(read), write)
}

fn is_open(mut read: &File) -> bool {
    match read.read(&mut [0; 1]) {
        Ok(count) => {
            assert_eq!(count, 0, "nothing was written");
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            true
        }
    }
}

fn files_go_with_the_mapping(env: &Env) {
    let (mut pair, torn) = torn_pair(env, 4);
    let (read, write) = pipe();
    let parcel = Parcel::from_object(&object::fd(write.as_raw_fd(), 0));
    pair.client.start(Call::new(pair.handle, 1, &parcel));
    drop(write);
    assert!(is_open(&read));
    torn.unmap(1..3);
    torn.unmap(0..1);
    assert!(is_open(&read));
    torn.unmap(3..4);
    match env.driver(Difference::InFlight) {
        Driver::Ours => {
            until(|| !is_open(&read));
            pair.server.expect(&[]);
            pair.client.expect(&[Return::TransactionComplete, Return::FailedReply]);
        }
        Driver::C => {
            assert!(is_open(&read));
            let call = pair.server.expect_transaction();
            pair.server.give_back(&call);
            pair.server.answer(&Parcel::new());
            let reply = pair.client.expect_reply();
            pair.client.give_back(&reply);
            assert!(is_open(&read));
        }
    }
    // Nothing comes any more, with a file or without.
    let (read, write) = pipe();
    for parcel in [Parcel::new(), Parcel::from_object(&object::fd(write.as_raw_fd(), 0))] {
        pair.client.start(Call::new(pair.handle, 1, &parcel));
        pair.client.expect(&[Return::DeadReply]);
    }
    drop(write);
    assert!(!is_open(&read));
}

fn files_stay_when_the_mapping_moves(env: &Env) {
    let (mut pair, torn) = torn_pair(env, 4);
    let (read, write) = pipe();
    let parcel = Parcel::from_object(&object::fd(write.as_raw_fd(), 0));
    pair.client.start_one_way(Call::new(pair.handle, 1, &parcel));
    drop(write);
    let moved = torn.move_away(0..4).expect("mremap");
    assert!(is_open(&read));
    let call = pair.server.expect_transaction();
    if env.driver(Difference::MovedMapping) == Driver::Ours {
        assert!(moved.contains(call.buffer));
    }
    // Received: it is the process's own from here on, with a mapping or without.
    moved.unmap(0..4);
    assert!(is_open(&read));
}

fn a_file_is_sent_while_the_mapping_goes(env: &Env) {
    let (mut pair, torn) = torn_pair(env, 4);
    let stalled = Stalled::new(env, 1);
    let (read, write) = pipe();
    let mut parcel = Parcel::from_bytes(b"before..");
    parcel.object(&object::fd(write.as_raw_fd(), 0));
    parcel.object(&BufferObject { buffer: stalled.at(0), length: 8, ..object::buffer(&[]) });
    let transaction = Call::one_way(pair.handle, 1, &parcel).data();
    pair.client.queue().command(uapi::BC_TRANSACTION_SG, &TransactionDataSg { transaction, buffers_size: 8 });
    std::thread::scope(|scope| {
        let client = &mut pair.client;
        let sending = scope.spawn(move || client.flush().expect("BC_TRANSACTION_SG"));
        // The file is taken, the buffer behind it is not copied.
        until(|| stalled.wanted() == Some(0));
        torn.unmap(0..4);
        stalled.supply(0, &[7; PAGE]);
        sending.join().expect("the sender");
    });
    drop(write);
    // The thread that sent is not the one that reads here, so what became of it is told by what is left of it.
    let queued = env.driver(Difference::InFlight) == Driver::C;
    assert_eq!(is_open(&read), queued);
    assert_eq!(pair.server.drain().len(), usize::from(queued));
}

fn a_reply_that_is_not_read_lets_its_file_go(env: &Env) {
    let mut pair = Pair::with_fds(env);
    // Twice, in the same place: nothing of the first is in the second's way.
    for _ in 0..2 {
        let (read, write) = pipe();
        pair.client.start(Call::new(pair.handle, 1, &Parcel::new()).with_flags(uapi::TF_ACCEPT_FDS));
        let call = pair.server.expect_transaction();
        pair.server.give_back(&call);
        pair.server.answer(&Parcel::from_object(&object::fd(write.as_raw_fd(), 0)));
        drop(write);
        assert!(is_open(&read));
        pair.client.binder().thread_exit().expect("BINDER_THREAD_EXIT");
        assert!(!is_open(&read));
    }
}
