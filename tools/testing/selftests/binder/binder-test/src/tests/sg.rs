// SPDX-License-Identifier: GPL-2.0

//! Scatter-gather buffers and descriptor arrays: `BC_TRANSACTION_SG` and `BC_REPLY_SG`.

use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;

use binder_client::Call;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::BufferObject;
use binder_client::uapi::FdArrayObject;
use binder_client::uapi::TransactionData;
use binder_client::uapi::TransactionDataSg;
use nix::errno::Errno;
use zerocopy::FromBytes;

use super::buffer::wiped;
use super::tests;
use super::transaction::pattern;
use super::transaction::whole;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Registry;
use crate::hostile;
use crate::hostile::Arena;
use crate::hostile::PAGE;
use crate::hostile::Torn;

tests! { Interface, "sg":
    buffer_arrives_behind_its_pointer,
    several_buffers_of_many_sizes,
    pointer_in_the_parent_is_changed,
    pointers_three_deep,
    parent_at_the_very_start,
    arrives_in_a_reply,
    too_little_room_is_refused,
    room_that_is_no_multiple_of_eight_is_refused,
    bad_address_is_refused,
    huge_lengths_are_refused,
    parents_that_are_none_are_refused,
    pointer_outside_the_parent_is_refused,
    pointer_at_an_odd_place_of_the_parent_is_refused,
    other_errors_come_before_those_of_buffers,
    pointers_must_be_changed_in_order,
    plain_call_has_no_room_for_buffers,
    descriptors_in_an_array_arrive,
    arrays_that_make_no_sense_are_refused,
    array_is_closed_with_its_buffer,
    clear_buf_wipes_what_objects_point_to,
    pointers_in_calls_that_wait_follow_the_mapping,
}

/// A parcel that starts with a few bytes and a buffer object. (What stands at the very start is a matter of its own.)
fn behind(bytes: &[u8]) -> Parcel {
    let mut parcel = Parcel::from_bytes(b"before..");
    parcel.object(&object::buffer(bytes));
    parcel
}

fn start(pair: &mut Pair, parcel: &Parcel, buffers_size: u64) {
    let transaction = Call::new(pair.handle, 1, parcel).data();
    pair.client.queue().command(uapi::BC_TRANSACTION_SG, &TransactionDataSg { transaction, buffers_size });
    pair.client.flush().expect("BC_TRANSACTION_SG");
}

#[track_caller]
fn refused(pair: &mut Pair, parcel: &Parcel, buffers_size: u64) {
    refused_with(pair, parcel, buffers_size, Errno::EINVAL);
}

#[track_caller]
fn refused_with(pair: &mut Pair, parcel: &Parcel, buffers_size: u64, errno: Errno) {
    start(pair, parcel, buffers_size);
    pair.client.expect(&[Return::FailedReply]);
    assert_eq!(pair.client.errno(), errno);
    pair.server.expect(&[]);
}

#[track_caller]
fn finish(pair: &mut Pair, call: &TransactionData) {
    pair.server.give_back(call);
    pair.server.answer(&Parcel::new());
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
}

/// The buffer object number `index` of what arrived.
#[track_caller]
fn arrived(end: &End, call: &TransactionData, index: usize) -> BufferObject {
    let payload = end.payload(call).expect("a readable buffer");
    let object = &payload.data[payload.offsets[index] as usize..];
    let (object, _) = BufferObject::read_from_prefix(object).expect("a buffer object");
    assert_eq!(object.kind, uapi::BINDER_TYPE_PTR);
    object
}

/// The bytes behind a buffer object that arrived.
#[track_caller]
fn bytes(end: &End, object: &BufferObject) -> Vec<u8> {
    let map = end.binder().mapping().expect("a mapping");
    assert!(map.contains(object.buffer, object.length));
    hostile::peek(object.buffer, object.length as usize).expect("readable")
}

fn room(lengths: &[usize]) -> u64 {
    lengths.iter().map(|length| length.next_multiple_of(8) as u64).sum()
}

fn buffer_arrives_behind_its_pointer(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let sent = pattern(1000, 1);
    let parcel = Parcel::from_object(&object::buffer(&sent));
    start(&mut pair, &parcel, 1000);
    let call = pair.server.expect_transaction();
    assert_eq!((call.data_size, call.offsets_size), (40, 8));
    let object = arrived(&pair.server, &call, 0);
    assert_eq!(object.length, 1000);
    assert!(bytes(&pair.server, &object) == sent);
    finish(&mut pair, &call);
    whole(&mut pair);
}

fn several_buffers_of_many_sizes(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let sizes = [0, 1, 7, 8, 9, 4095, 4096, 4097, 100_000];
    let sent: Vec<Vec<u8>> = (0..).zip(sizes).map(|(seed, size)| pattern(size, seed)).collect();
    let mut parcel = Parcel::from_bytes(&[1, 2, 3]);
    for bytes in &sent {
        parcel.object(&object::buffer(bytes));
    }
    start(&mut pair, &parcel, room(&sizes));
    let call = pair.server.expect_transaction();
    for (index, sent) in sent.iter().enumerate() {
        assert!(bytes(&pair.server, &arrived(&pair.server, &call, index)) == *sent, "buffer {index}");
    }
    finish(&mut pair, &call);
    whole(&mut pair);
}

fn pointer_in_the_parent_is_changed(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let (parent, child) = (pattern(100, 1), pattern(50, 2));
    for at in [0, 8, 16, 88, 92] {
        let mut parcel = behind(&parent);
        parcel.object(&object::child_buffer(&child, 0, at));
        start(&mut pair, &parcel, room(&[100, 50]));
        let call = pair.server.expect_transaction();
        let (outer, inner) = (arrived(&pair.server, &call, 0), arrived(&pair.server, &call, 1));
        let mut wanted = parent.clone();
        wanted[at as usize..at as usize + 8].copy_from_slice(&inner.buffer.to_ne_bytes());
        assert!(bytes(&pair.server, &outer) == wanted, "at {at}");
        assert!(bytes(&pair.server, &inner) == child);
        finish(&mut pair, &call);
    }
}

fn pointers_three_deep(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let levels: Vec<Vec<u8>> = (0..4).map(|seed| pattern(64, seed)).collect();
    let mut parcel = behind(&levels[0]);
    for (level, bytes) in levels.iter().enumerate().skip(1) {
        parcel.object(&object::child_buffer(bytes, level - 1, 8 * level as u64));
    }
    start(&mut pair, &parcel, 4 * 64);
    let call = pair.server.expect_transaction();
    let objects: Vec<BufferObject> = (0..4).map(|index| arrived(&pair.server, &call, index)).collect();
    for level in 0..4 {
        let mut wanted = levels[level].clone();
        if let Some(below) = objects.get(level + 1) {
            let at = 8 * (level + 1);
            wanted[at..at + 8].copy_from_slice(&below.buffer.to_ne_bytes());
        }
        assert!(bytes(&pair.server, &objects[level]) == wanted, "level {level}");
    }
    finish(&mut pair, &call);
}

fn parent_at_the_very_start(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let (parent, child) = (pattern(64, 1), pattern(64, 2));
    let mut parcel = Parcel::from_object(&object::buffer(&parent));
    parcel.object(&object::child_buffer(&child, 0, 8));
    if env.driver(Difference::ParentAtZero) == Driver::C {
        return refused(&mut pair, &parcel, 128);
    }
    start(&mut pair, &parcel, 128);
    let call = pair.server.expect_transaction();
    assert!(bytes(&pair.server, &arrived(&pair.server, &call, 1)) == child);
    finish(&mut pair, &call);
}

fn arrives_in_a_reply(env: &Env) {
    let mut pair = Pair::with_fds(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let call = pair.server.expect_transaction();
    pair.server.give_back(&call);
    let sent = pattern(777, 1);
    let parcel = Parcel::from_object(&object::buffer(&sent));
    let transaction = Call::reply(&parcel).data();
    pair.server.queue().command(uapi::BC_REPLY_SG, &TransactionDataSg { transaction, buffers_size: 784 });
    pair.server.flush().expect("BC_REPLY_SG");
    pair.server.expect(&[Return::TransactionComplete]);
    let reply = pair.client.expect_reply();
    assert!(bytes(&pair.client, &arrived(&pair.client, &reply, 0)) == sent);
    pair.client.give_back(&reply);
}

fn too_little_room_is_refused(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let sent = pattern(100, 1);
    let mut parcel = Parcel::from_object(&object::buffer(&sent));
    for size in [0, 8, 96] {
        refused(&mut pair, &parcel, size);
    }
    parcel.object(&object::buffer(&sent));
    refused(&mut pair, &parcel, 200);
    whole(&mut pair);
}

fn room_that_is_no_multiple_of_eight_is_refused(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let sent = pattern(10, 1);
    let parcel = Parcel::from_object(&object::buffer(&sent));
    for size in [17, 20, 23] {
        refused(&mut pair, &parcel, size);
    }
    whole(&mut pair);
}

fn bad_address_is_refused(env: &Env) {
    let mut pair = Pair::with_fds(env);
    for address in [0, 8, 1 << 47, u64::MAX - 8] {
        let object = BufferObject { buffer: address, length: 64, ..object::buffer(&[]) };
        refused(&mut pair, &Parcel::from_object(&object), 64);
    }
    whole(&mut pair);
}

fn huge_lengths_are_refused(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let sent = pattern(64, 1);
    for length in [65, 1 << 31, 1 << 32, 1 << 63, u64::MAX - 7, u64::MAX] {
        let object = BufferObject { length, ..object::buffer(&sent) };
        refused(&mut pair, &Parcel::from_object(&object), 64);
    }
    let parcel = Parcel::from_object(&object::buffer(&sent));
    for size in [1 << 32, 1 << 62, 1 << 63, (u64::MAX - 7) & !0xff] {
        refused_with(&mut pair, &parcel, size, Errno::ENOSPC);
    }
    refused(&mut pair, &parcel, u64::MAX - 7);
    whole(&mut pair);
}

fn parents_that_are_none_are_refused(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let sent = pattern(64, 1);
    for parent in [1, 2, 3, 1 << 32, u64::MAX] {
        let mut parcel = behind(&sent);
        parcel.object(&BufferObject { parent, ..object::child_buffer(&sent, 0, 0) });
        refused(&mut pair, &parcel, 128);
    }
    // A node is no parent.
    let mut parcel = Parcel::from_object(&object::binder(8, 8));
    parcel.object(&object::buffer(&sent));
    parcel.object(&object::child_buffer(&sent, 0, 0));
    start(&mut pair, &parcel, 128);
    assert!(pair.client.drain().contains(&Return::FailedReply));
    whole(&mut pair);
}

fn pointer_outside_the_parent_is_refused(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let sent = pattern(64, 1);
    for at in [57, 64, 65, 1 << 31, 1 << 32, 1 << 63, u64::MAX - 7, u64::MAX] {
        let mut parcel = behind(&sent);
        parcel.object(&object::child_buffer(&sent, 0, at));
        refused(&mut pair, &parcel, 128);
    }
    whole(&mut pair);
}

fn pointer_at_an_odd_place_of_the_parent_is_refused(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let sent = pattern(64, 1);
    for (child, at) in [(&sent[..], 1), (&sent, 2), (&sent, 3), (&sent, 5), (&sent, 6), (&sent, 54), (&[], 10)] {
        let mut parcel = behind(&sent);
        parcel.object(&object::child_buffer(child, 0, at));
        refused(&mut pair, &parcel, 128);
        // Nor does it become right by what comes behind it.
        parcel.object(&object::child_buffer(&sent, 0, 56));
        parcel.object(&object::binder(8, 8));
        refused(&mut pair, &parcel, 192);
    }
    // Where the sender has it does not matter.
    for shift in 1..4 {
        let mut parcel = behind(&sent[shift..]);
        parcel.object(&object::child_buffer(&sent, 0, 4));
        start(&mut pair, &parcel, 128);
        let call = pair.server.expect_transaction();
        finish(&mut pair, &call);
    }
    whole(&mut pair);
}

fn other_errors_come_before_those_of_buffers(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let sent = pattern(64, 1);
    let nowhere = BufferObject { buffer: 8, length: 64, ..object::buffer(&[]) };
    let mut odd = behind(&sent);
    odd.object(&object::child_buffer(&sent, 0, 6));
    let mut unreadable = behind(&sent);
    unreadable.object(&nowhere);
    let mut parent_unreadable = Parcel::from_bytes(b"before..");
    parent_unreadable.object(&nowhere);
    parent_unreadable.object(&object::child_buffer(&sent, 0, 8));
    for parcel in [odd, unreadable, parent_unreadable] {
        refused(&mut pair, &parcel, 128);
        let with = |object| {
            let mut parcel = parcel.clone();
            parcel.object(&object);
            parcel
        };
        refused_with(&mut pair, &with(object::fd(4711, 0)), 128, Errno::EBADF);
        // What is in order before does not help, nor does a handle that there is not.
        refused(&mut pair, &with(object::fd(0, 0)), 128);
        // The end of the data cannot be read.
        let arena = Arena::new(2);
        let at = PAGE - parcel.data().len();
        arena.put(at, parcel.data());
        arena.unmap(1);
        let transaction = TransactionData {
            buffer: arena.at(at),
            data_size: parcel.data().len() as u64 + 8,
            ..Call::new(pair.handle, 1, &parcel).data()
        };
        pair.client.queue().command(uapi::BC_TRANSACTION_SG, &TransactionDataSg { transaction, buffers_size: 128 });
        pair.client.flush().expect("BC_TRANSACTION_SG");
        pair.client.expect(&[Return::FailedReply]);
        assert_eq!(pair.client.errno(), Errno::EFAULT);
    }
    whole(&mut pair);
}

fn pointers_must_be_changed_in_order(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let sent = pattern(64, 1);
    // Within one parent from front to back.
    let mut parcel = behind(&sent);
    parcel.object(&object::child_buffer(&sent, 0, 16));
    parcel.object(&object::child_buffer(&sent, 0, 8));
    refused(&mut pair, &parcel, 192);
    // Nor may two overlap.
    let mut parcel = behind(&sent);
    parcel.object(&object::child_buffer(&sent, 0, 16));
    parcel.object(&object::child_buffer(&sent, 0, 20));
    refused(&mut pair, &parcel, 192);
    // And back to an earlier parent only upwards.
    let mut parcel = behind(&sent);
    parcel.object(&object::buffer(&sent));
    parcel.object(&object::child_buffer(&sent, 1, 0));
    parcel.object(&object::child_buffer(&sent, 0, 0));
    refused(&mut pair, &parcel, 256);
    whole(&mut pair);
}

fn plain_call_has_no_room_for_buffers(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let sent = pattern(64, 1);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_object(&object::buffer(&sent))));
    pair.client.expect(&[Return::FailedReply]);
    // Of nothing there is always enough.
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_object(&object::buffer(&[]))));
    let call = pair.server.expect_transaction();
    assert_eq!(arrived(&pair.server, &call, 0).length, 0);
    finish(&mut pair, &call);
    whole(&mut pair);
}

/// A buffer with descriptors in it from `at` on, and the array object that says so.
fn array(fds: &[i32], at: usize, bytes: &mut Vec<u8>) -> FdArrayObject {
    bytes.clear();
    bytes.resize(at, 0xab);
    fds.iter().for_each(|fd| bytes.extend_from_slice(&fd.to_ne_bytes()));
    object::fd_array(fds.len() as u64, 0, at as u64)
}

fn descriptors_in_an_array_arrive(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let pipes: Vec<_> = (0..5).map(|_| nix::unistd::pipe().expect("pipe")).collect();
    let fds: Vec<i32> = pipes.iter().map(|(_, write)| write.as_raw_fd()).collect();
    let mut holder = Vec::new();
    let array = array(&fds, 12, &mut holder);
    let mut parcel = behind(&holder);
    parcel.object(&array);
    start(&mut pair, &parcel, room(&[holder.len()]));
    let call = pair.server.expect_transaction();
    let got = bytes(&pair.server, &arrived(&pair.server, &call, 0));
    assert_eq!(got[..12], [0xab; 12]);
    let new: Vec<i32> = got[12..].chunks_exact(4).map(|fd| i32::from_ne_bytes([fd[0], fd[1], fd[2], fd[3]])).collect();
    assert_eq!(new.len(), 5);
    // Copies of one's own: the array's are closed with the buffer.
    for (fd, (read, write)) in new.iter().zip(pipes) {
        let there = hostile::duplicate(*fd).expect("an open descriptor");
        drop(write);
        File::from(there).write_all(b"x").expect("write");
        let mut byte = [0; 1];
        File::from(read).read_exact(&mut byte).expect("read");
        assert_eq!(byte, *b"x");
    }
    finish(&mut pair, &call);
}

fn arrays_that_make_no_sense_are_refused(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let mut holder = Vec::new();
    let good = array(&[0, 1], 8, &mut holder);
    let size = room(&[holder.len()]);
    let wrong = [
        FdArrayObject { num_fds: 3, ..good },
        FdArrayObject { num_fds: 1 << 30, ..good },
        FdArrayObject { num_fds: 1 << 62, ..good },
        FdArrayObject { num_fds: u64::MAX, ..good },
        FdArrayObject { parent: 1, ..good },
        FdArrayObject { parent: 7, ..good },
        FdArrayObject { parent: u64::MAX, ..good },
        FdArrayObject { parent_offset: 9, ..good },
        FdArrayObject { parent_offset: 10, ..good },
        FdArrayObject { parent_offset: 12, ..good },
        FdArrayObject { parent_offset: 16, ..good },
        FdArrayObject { parent_offset: 1 << 63, ..good },
        FdArrayObject { parent_offset: u64::MAX - 3, ..good },
    ];
    for wrong in wrong {
        let mut parcel = behind(&holder);
        parcel.object(&wrong);
        refused(&mut pair, &parcel, size);
    }
    // Descriptors that are none.
    let mut holder = Vec::new();
    let array = array(&[0, 4711], 0, &mut holder);
    let mut parcel = behind(&holder);
    parcel.object(&array);
    refused_with(&mut pair, &parcel, room(&[holder.len()]), Errno::EBADF);
    whole(&mut pair);
}

fn array_is_closed_with_its_buffer(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let (read, write) = nix::unistd::pipe().expect("pipe");
    let mut holder = Vec::new();
    let array = array(&[write.as_raw_fd(); 3], 0, &mut holder);
    let mut parcel = behind(&holder);
    parcel.object(&array);
    start(&mut pair, &parcel, room(&[holder.len()]));
    let call = pair.server.expect_transaction();
    drop(write);
    finish(&mut pair, &call);
    assert_eq!(File::from(read).read(&mut [0; 1]).expect("the end"), 0);
}

fn clear_buf_wipes_what_objects_point_to(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let sent = [0xee; 200];
    let mut parcel = behind(&sent);
    parcel.object(&object::buffer(&sent));
    let size = room(&[sent.len(), sent.len()]);
    let transaction = Call::new(pair.handle, 1, &parcel).with_flags(uapi::TF_CLEAR_BUF).data();
    pair.client.queue().command(uapi::BC_TRANSACTION_SG, &TransactionDataSg { transaction, buffers_size: size });
    pair.client.flush().expect("BC_TRANSACTION_SG");
    let call = pair.server.expect_transaction();
    assert!(bytes(&pair.server, &arrived(&pair.server, &call, 1)) == sent);
    finish(&mut pair, &call);
    wiped(call.buffer, parcel.data().len() + size_of_val(parcel.offsets()) + size as usize);
}

/// The parent of a buffer, and the place in it; none for a buffer that only the data points to.
type Place = Option<(usize, usize)>;

/// A tree of buffers and where each is to be found: the bytes of each, its parent, and the place in that.
struct Tree {
    nodes: Vec<(Vec<u8>, Place)>,
    /// Where in the first of them two descriptors stand.
    array: usize,
}

impl Tree {
    /// A buffer with a hundred below it, every seventh of which has another below itself.
    fn new(seed: u32) -> Self {
        let array = 3000;
        let mut root = pattern(4000, seed);
        root[array..array + 4].copy_from_slice(&0i32.to_ne_bytes());
        root[array + 4..array + 8].copy_from_slice(&1i32.to_ne_bytes());
        let mut nodes = vec![(root, None)];
        for number in 0..100 {
            nodes.push((pattern(20 + number, seed + 1), Some((0, 20 * number))));
            if number % 7 == 0 {
                nodes.push((pattern(1000, seed + 2), Some((nodes.len() - 1, 4))));
            }
        }
        Self { nodes, array }
    }

    fn room(&self) -> u64 {
        room(&self.nodes.iter().map(|(bytes, _)| bytes.len()).collect::<Vec<_>>())
    }

    fn parcel(&self) -> Parcel {
        let mut parcel = Parcel::from_bytes(b"before..");
        for (bytes, parent) in &self.nodes {
            match parent {
                Some((parent, at)) => parcel.object(&object::child_buffer(bytes, *parent, *at as u64)),
                None => parcel.object(&object::buffer(bytes)),
            };
        }
        parcel.object(&object::fd_array(2, 0, self.array as u64));
        parcel
    }

    /// All of it has arrived, and leads to where it is.
    fn check(&self, call: &TransactionData) {
        let data = hostile::peek(call.buffer, call.data_size as usize).expect("readable data");
        let objects = (self.nodes.len() + 1) as u64;
        assert_eq!(call.offsets_size, 8 * objects);
        let mut next = call.offsets + call.offsets_size;
        let mut addresses = Vec::new();
        for (index, (bytes, _)) in self.nodes.iter().enumerate() {
            let (object, _) = BufferObject::read_from_prefix(&data[8 + 40 * index..]).expect("a buffer object");
            assert_eq!((object.buffer, object.length), (next, bytes.len() as u64), "object {index}");
            addresses.push(next);
            next += bytes.len().next_multiple_of(8) as u64;
        }
        for (index, (bytes, _)) in self.nodes.iter().enumerate() {
            let mut wanted = bytes.clone();
            let mut got = hostile::peek(addresses[index], bytes.len()).expect("readable bytes");
            for (child, (_, parent)) in self.nodes.iter().enumerate() {
                if let Some((_, at)) = parent.filter(|(parent, _)| *parent == index) {
                    wanted[at..at + 8].copy_from_slice(&addresses[child].to_ne_bytes());
                }
            }
            if index == 0 {
                let descriptors = self.array..self.array + 8;
                for fd in got[descriptors.clone()].chunks_exact(4) {
                    let fd = i32::from_ne_bytes([fd[0], fd[1], fd[2], fd[3]]);
                    assert!(fd > 2 && hostile::duplicate(fd).is_ok(), "{fd}");
                }
                got[descriptors.clone()].fill(0);
                wanted[descriptors].fill(0);
            }
            assert!(got == wanted, "buffer {index}");
        }
    }
}

fn pointers_in_calls_that_wait_follow_the_mapping(env: &Env) {
    const PAGES: usize = 64;
    let registry = Registry::start(env);
    let server = End::open_unmapped(env);
    let torn = Torn::map(server.binder().as_fd(), PAGES * PAGE);
    let flags = uapi::FLAT_BINDER_FLAG_ACCEPTS_FDS;
    let mut pair = Pair::with_flags(registry, End::open(env), server.enter(), flags);
    let trees = [Tree::new(1), Tree::new(4)];
    let one_way = |pair: &mut Pair, tree: &Tree| {
        let parcel = tree.parcel();
        let transaction = Call::one_way(pair.handle, 1, &parcel).data();
        let sg = TransactionDataSg { transaction, buffers_size: tree.room() };
        pair.client.queue().command(uapi::BC_TRANSACTION_SG, &sg);
        pair.client.flush().expect("BC_TRANSACTION_SG");
        pair.client.expect(&[Return::TransactionComplete]);
    };
    one_way(&mut pair, &trees[0]);
    if env.driver(Difference::MovedMapping) == Driver::C {
        torn.move_away(0..PAGES).expect("mremap");
        let call = pair.server.expect_transaction();
        assert!(torn.contains(call.buffer));
        return assert_eq!(hostile::peek(call.buffer, 1), Err(Errno::EFAULT));
    }
    let moved = torn.move_away(0..PAGES).expect("mremap");
    // This one waits in the node, for the first.
    one_way(&mut pair, &trees[1]);
    let moved = moved.move_away(0..PAGES).expect("mremap");
    for tree in &trees {
        let call = pair.server.expect_transaction();
        assert!(moved.contains(call.buffer));
        tree.check(&call);
        pair.server.give_back(&call);
    }
    // And a call, for which the mapping moves once more.
    let parcel = trees[0].parcel();
    start(&mut pair, &parcel, trees[0].room());
    let moved = moved.move_away(0..PAGES).expect("mremap");
    let call = pair.server.expect_transaction();
    assert!(moved.contains(call.buffer));
    trees[0].check(&call);
    finish(&mut pair, &call);
    // Where it stays nothing is different.
    start(&mut pair, &parcel, trees[0].room());
    let call = pair.server.expect_transaction();
    trees[0].check(&call);
    finish(&mut pair, &call);
}
