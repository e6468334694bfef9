// SPDX-License-Identifier: GPL-2.0

//! File descriptors in transactions.

use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;

use binder_client::Call;
use binder_client::Parcel;
use binder_client::Payload;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::TransactionData;
use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::rlim_t;
use nix::sys::resource::setrlimit;

use super::tests;
use super::transaction::whole;
use crate::env::Env;
use crate::fixture::Pair;
use crate::hostile::adopt;
use crate::hostile::duplicate;

tests! { Interface, "fd":
    arrives_as_a_new_descriptor_of_the_same_file,
    arrives_in_a_one_way_call,
    arrives_in_a_reply_that_is_allowed_to,
    is_refused_in_a_reply_that_is_not,
    is_refused_by_a_node_that_takes_none,
    bad_descriptors_are_refused,
    several_arrive_in_order,
    failure_in_the_middle_leaves_none_open,
    call_never_read_closes_them,
    stays_open_when_the_buffer_goes,
    receiver_without_room_for_descriptors,
    caller_without_room_for_a_replys_descriptors,
    receiver_with_room_for_some_descriptors,
    device_itself_can_be_sent,
    closes_on_exec,
}

/// The descriptor that stands in an object of a received buffer; owned from now on.
fn received(payload: &Payload, index: usize) -> File {
    let object = payload.flat(index).expect("an object");
    assert_eq!(object.kind, uapi::BINDER_TYPE_FD);
    File::from(adopt(uapi::from_union(object.value) as i32))
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc/self/fd").count()
}

/// What goes in at one end comes out at the other.
#[track_caller]
fn connected(mut write: File, read: OwnedFd) {
    write.write_all(b"through").expect("write");
    drop(write);
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).expect("read");
    assert_eq!(text, "through");
}

#[track_caller]
fn finish(pair: &mut Pair, call: &TransactionData) {
    pair.server.give_back(call);
    pair.server.answer(&Parcel::new());
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
}

fn arrives_as_a_new_descriptor_of_the_same_file(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let (read, write) = nix::unistd::pipe().expect("pipe");
    let object = object::fd(write.as_raw_fd(), 0x1234_5678_9abc);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_object(&object)));
    let call = pair.server.expect_transaction();
    let payload = pair.server.payload(&call).expect("a readable buffer");
    let there = received(&payload, 0);
    assert_ne!(there.as_raw_fd(), write.as_raw_fd());
    assert_eq!(payload.flat(0).map(|object| object.cookie), Some(0x1234_5678_9abc));
    drop(write);
    connected(there, read);
    finish(&mut pair, &call);
    whole(&mut pair);
}

fn arrives_in_a_one_way_call(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let (read, write) = nix::unistd::pipe().expect("pipe");
    pair.client.start_one_way(Call::new(pair.handle, 1, &Parcel::from_object(&object::fd(write.as_raw_fd(), 0))));
    // The sender need not keep it.
    drop(write);
    let call = pair.server.expect_transaction();
    let payload = pair.server.take(&call);
    connected(received(&payload, 0), read);
}

fn arrives_in_a_reply_that_is_allowed_to(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let (read, write) = nix::unistd::pipe().expect("pipe");
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()).with_flags(uapi::TF_ACCEPT_FDS));
    let call = pair.server.expect_transaction();
    pair.server.give_back(&call);
    pair.server.answer(&Parcel::from_object(&object::fd(write.as_raw_fd(), 0)));
    drop(write);
    let reply = pair.client.expect_reply();
    let payload = pair.client.take(&reply);
    connected(received(&payload, 0), read);
}

fn is_refused_in_a_reply_that_is_not(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let before = open_descriptors();
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let call = pair.server.expect_transaction();
    pair.server.give_back(&call);
    pair.server.answer(&Parcel::from_object(&object::fd(0, 0)));
    pair.client.expect(&[Return::TransactionComplete, Return::FailedReply]);
    assert_eq!(open_descriptors(), before);
    pair.check();
}

fn is_refused_by_a_node_that_takes_none(env: &Env) {
    let mut pair = Pair::new(env);
    for flags in [0, uapi::TF_ONE_WAY, uapi::TF_ACCEPT_FDS] {
        let parcel = Parcel::from_object(&object::fd(0, 0));
        pair.client.start(Call { handle: pair.handle, code: 1, flags, parcel: &parcel });
        pair.client.expect(&[Return::FailedReply]);
    }
    pair.check();
    whole(&mut pair);
}

fn bad_descriptors_are_refused(env: &Env) {
    let mut pair = Pair::with_fds(env);
    for fd in [-1, i32::MIN, i32::MAX, 4711] {
        pair.client.start(Call::new(pair.handle, 1, &Parcel::from_object(&object::fd(fd, 0))));
        pair.client.expect(&[Return::FailedReply]);
        pair.server.expect(&[]);
    }
    whole(&mut pair);
}

fn several_arrive_in_order(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let pipes: Vec<_> = (0..20).map(|_| nix::unistd::pipe().expect("pipe")).collect();
    let mut parcel = Parcel::from_bytes(&[7; 100]);
    for (_, write) in &pipes {
        parcel.object(&object::fd(write.as_raw_fd(), 0));
    }
    pair.client.start(Call::new(pair.handle, 1, &parcel));
    let call = pair.server.expect_transaction();
    let payload = pair.server.payload(&call).expect("a readable buffer");
    for (index, (read, write)) in pipes.into_iter().enumerate() {
        drop(write);
        connected(received(&payload, index), read);
    }
    finish(&mut pair, &call);
}

fn failure_in_the_middle_leaves_none_open(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let (read, write) = nix::unistd::pipe().expect("pipe");
    let before = open_descriptors();
    for _ in 0..10 {
        let mut parcel = Parcel::from_object(&object::fd(write.as_raw_fd(), 0));
        parcel.object(&object::fd(write.as_raw_fd(), 0));
        parcel.object(&object::fd(4711, 0));
        pair.client.start(Call::new(pair.handle, 1, &parcel));
        pair.client.expect(&[Return::FailedReply]);
    }
    assert_eq!(open_descriptors(), before);
    // Nor does the driver hold the file: with the last writer gone there is nothing more to read.
    drop(write);
    assert_eq!(File::from(read).read(&mut [0; 1]).expect("the end"), 0);
    whole(&mut pair);
}

fn call_never_read_closes_them(env: &Env) {
    let Pair { mut client, server, handle, registry } = Pair::with_fds(env);
    let (read, write) = nix::unistd::pipe().expect("pipe");
    for _ in 0..3 {
        client.start_one_way(Call::new(handle, 1, &Parcel::from_object(&object::fd(write.as_raw_fd(), 0))));
    }
    drop(write);
    drop(server);
    // Waits until the driver has let go.
    assert_eq!(File::from(read).read(&mut [0; 1]).expect("the end"), 0);
    drop(registry);
}

fn stays_open_when_the_buffer_goes(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let (read, write) = nix::unistd::pipe().expect("pipe");
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_object(&object::fd(write.as_raw_fd(), 0))));
    let call = pair.server.expect_transaction();
    let payload = pair.server.payload(&call).expect("a readable buffer");
    finish(&mut pair, &call);
    drop(write);
    connected(received(&payload, 0), read);
}

fn receiver_without_room_for_descriptors(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let (_read, write) = nix::unistd::pipe().expect("pipe");
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_object(&object::fd(write.as_raw_fd(), 0))));
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).expect("setrlimit");
    let got = pair.server.drain();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("setrlimit");
    // The caller hears of it, and the server of nothing.
    assert_eq!(got, []);
    pair.client.expect(&[Return::TransactionComplete, Return::FailedReply]);
    pair.check();
    whole(&mut pair);
}

fn caller_without_room_for_a_replys_descriptors(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let before = open_descriptors();
    let (read, write) = nix::unistd::pipe().expect("pipe");
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()).with_flags(uapi::TF_ACCEPT_FDS));
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
    let mut reply = Parcel::from_object(&object::fd(write.as_raw_fd(), 0));
    reply.object(&object::fd(read.as_raw_fd(), 0));
    pair.server.answer(&reply);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).expect("setrlimit");
    let got = pair.client.drain();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("setrlimit");
    assert_eq!(got, [Return::TransactionComplete, Return::FailedReply]);
    drop((read, write));
    assert_eq!(open_descriptors(), before);
    pair.check();
    whole(&mut pair);
}

/// The descriptor that is given out next.
fn next_descriptor() -> i32 {
    duplicate(0).expect("a descriptor").as_raw_fd()
}

fn receiver_with_room_for_some_descriptors(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let (read, write) = nix::unistd::pipe().expect("pipe");
    let mut parcel = Parcel::new();
    for _ in 0..3 {
        parcel.object(&object::fd(write.as_raw_fd(), 0));
    }
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    let next = next_descriptor();
    for room in 0..3 {
        pair.client.start(Call::new(pair.handle, 1, &parcel));
        setrlimit(Resource::RLIMIT_NOFILE, next as rlim_t + room, hard).expect("setrlimit");
        let got = pair.server.drain();
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("setrlimit");
        assert_eq!(got, [], "room for {room}");
        pair.client.expect(&[Return::TransactionComplete, Return::FailedReply]);
        // Those that there was room for are neither open nor taken.
        assert_eq!(next_descriptor(), next, "room for {room}");
    }
    drop(write);
    assert_eq!(File::from(read).read(&mut [0; 1]).expect("the end"), 0);
    pair.check();
    whole(&mut pair);
}

fn device_itself_can_be_sent(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let other = binder_client::Binder::open(&env.device).expect("open");
    let fd = std::os::fd::AsFd::as_fd(&other).as_raw_fd();
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_object(&object::fd(fd, 0))));
    let call = pair.server.expect_transaction();
    let payload = pair.server.payload(&call).expect("a readable buffer");
    let there = binder_client::Binder::from_file(received(&payload, 0));
    drop(other);
    assert_eq!(there.version(), Ok(8));
    finish(&mut pair, &call);
    // The pair's own file, sent and never received: the driver must not hold itself open for ever.
    let own = std::os::fd::AsFd::as_fd(&**pair.client.binder()).as_raw_fd();
    pair.client.start_one_way(Call::new(pair.handle, 1, &Parcel::from_object(&object::fd(own, 0))));
}

fn closes_on_exec(env: &Env) {
    let mut pair = Pair::with_fds(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_object(&object::fd(0, 0))));
    let call = pair.server.expect_transaction();
    let there = received(&pair.server.payload(&call).expect("a readable buffer"), 0);
    let flags = nix::fcntl::fcntl(&there, nix::fcntl::FcntlArg::F_GETFD).expect("F_GETFD");
    assert_eq!(flags, nix::libc::FD_CLOEXEC);
    finish(&mut pair, &call);
}
