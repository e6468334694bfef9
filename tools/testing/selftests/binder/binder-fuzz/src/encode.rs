// SPDX-License-Identifier: GPL-2.0

//! Encodes the commands of programs as the bytes that a driver reads.

use std::os::fd::AsRawFd;

use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::BufferObject;
use binder_client::uapi::FlatObject;
use binder_client::uapi::HandleCookie;
use binder_client::uapi::PriDesc;
use binder_client::uapi::PtrCookie;
use binder_client::uapi::TransactionData;
use zerocopy::Immutable;
use zerocopy::IntoBytes;

use crate::program::Cmd;
use crate::program::Damage;
use crate::program::Load;
use crate::program::Node;
use crate::program::Object;
use crate::program::Ref;
use crate::state::State;

/// An address at which nothing is ever mapped.
const NOWHERE: u64 = 16;

/// More data than this does not go into any mapping.
const MOST: u64 = binder_client::MAX_MAPPING as u64;

/// What changes in the sender's eyes once the driver has taken a command.
#[derive(Clone, Copy, Debug)]
pub enum Effect {
    /// A buffer is no longer held.
    Freed(u64),
    /// Everything asked so far has its answer.
    Answered(usize),
}

/// The memory that addresses in commands lead to.
///
/// It stands at the same address in every process and for every driver. So an address that a receiver
/// comes to see, in data that the driver was not to translate, is the same on both.
#[derive(Debug)]
pub struct Pool {
    bytes: Vec<u8>,
    /// What found no room.
    more: Vec<Vec<u8>>,
}

impl Pool {
    /// An empty one with so much room.
    pub fn new(room: usize) -> Self {
        Self { bytes: Vec::with_capacity(room), more: Vec::new() }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.more.clear();
    }

    /// Keeps bytes, and tells their address.
    fn keep(&mut self, bytes: Vec<u8>) -> u64 {
        let at = self.bytes.len().next_multiple_of(8);
        if at + bytes.len() <= self.bytes.capacity() {
            self.bytes.resize(at, 0);
            self.bytes.extend(bytes);
            // Not moved since: there was room.
            return self.bytes.as_ptr() as u64 + at as u64;
        }
        let address = bytes.as_ptr() as u64;
        self.more.push(bytes);
        address
    }
}

/// A stream of commands.
#[derive(Debug)]
pub struct Stream<'a> {
    /// What the driver reads.
    pub bytes: Vec<u8>,
    /// Effects, each with the number of bytes that must have been taken for it.
    pub effects: Vec<(usize, Effect)>,
    pool: &'a mut Pool,
}

impl<'a> Stream<'a> {
    /// Encodes commands for a process. What they point to is in the pool until the next ones are encoded.
    pub fn new(commands: &[Cmd], state: &State, pool: &'a mut Pool) -> Self {
        pool.clear();
        let mut stream = Self { bytes: Vec::new(), effects: Vec::new(), pool };
        for command in commands {
            stream.command(command, state);
        }
        stream
    }

    fn put<T: IntoBytes + Immutable>(&mut self, code: u32, argument: &T) {
        self.bytes.extend(code.to_ne_bytes());
        self.bytes.extend(argument.as_bytes());
    }

    fn command(&mut self, command: &Cmd, state: &State) {
        let named = |handle, cookie| HandleCookie { handle: state.handle(handle), cookie };
        let names = |node: Node| PtrCookie { ptr: node.ptr, cookie: node.cookie };
        match command {
            Cmd::Call { handle, code, flags, load } => {
                let data = self.load(load, state);
                let target = uapi::in_union(state.handle(*handle));
                let data = TransactionData { target, code: *code, flags: *flags, ..data };
                self.transaction(uapi::BC_TRANSACTION, uapi::BC_TRANSACTION_SG, data, load);
            }
            Cmd::Reply { code, flags, load } => {
                let data = TransactionData { code: *code, flags: *flags, ..self.load(load, state) };
                self.transaction(uapi::BC_REPLY, uapi::BC_REPLY_SG, data, load);
            }
            Cmd::Free(buffer) => {
                let address = state.buffer(*buffer);
                self.put(uapi::BC_FREE_BUFFER, &address);
                self.effects.push((self.bytes.len(), Effect::Freed(address)));
            }
            Cmd::Ref(which, handle) => {
                let code = match which {
                    Ref::Increfs => uapi::BC_INCREFS,
                    Ref::Acquire => uapi::BC_ACQUIRE,
                    Ref::Release => uapi::BC_RELEASE,
                    Ref::Decrefs => uapi::BC_DECREFS,
                };
                self.put(code, &state.handle(*handle));
            }
            Cmd::IncrefsDone(node) => self.put(uapi::BC_INCREFS_DONE, &names(*node)),
            Cmd::AcquireDone(node) => self.put(uapi::BC_ACQUIRE_DONE, &names(*node)),
            Cmd::AnswerAll => {
                for (strong, node) in state.asked() {
                    let code = if *strong { uapi::BC_ACQUIRE_DONE } else { uapi::BC_INCREFS_DONE };
                    self.put(code, node);
                }
                self.effects.push((self.bytes.len(), Effect::Answered(state.asked().len())));
            }
            Cmd::RegisterLooper => self.put(uapi::BC_REGISTER_LOOPER, &()),
            Cmd::EnterLooper => self.put(uapi::BC_ENTER_LOOPER, &()),
            Cmd::ExitLooper => self.put(uapi::BC_EXIT_LOOPER, &()),
            Cmd::RequestDeath(handle, cookie) => {
                self.put(uapi::BC_REQUEST_DEATH_NOTIFICATION, &named(*handle, *cookie));
            }
            Cmd::ClearDeath(handle, cookie) => {
                self.put(uapi::BC_CLEAR_DEATH_NOTIFICATION, &named(*handle, state.cookie(*cookie)));
            }
            Cmd::DeadDone(cookie) => self.put(uapi::BC_DEAD_BINDER_DONE, &state.cookie(*cookie)),
            Cmd::RequestFreeze(handle, cookie) => {
                self.put(uapi::BC_REQUEST_FREEZE_NOTIFICATION, &named(*handle, *cookie));
            }
            Cmd::ClearFreeze(handle, cookie) => {
                self.put(uapi::BC_CLEAR_FREEZE_NOTIFICATION, &named(*handle, state.cookie(*cookie)));
            }
            Cmd::FreezeDone(cookie) => self.put(uapi::BC_FREEZE_NOTIFICATION_DONE, &state.cookie(*cookie)),
            Cmd::AttemptAcquire => self.put(uapi::BC_ATTEMPT_ACQUIRE, &PriDesc { priority: 0, desc: 1 }),
            Cmd::AcquireResult => self.put(uapi::BC_ACQUIRE_RESULT, &0i32),
            Cmd::Code(code) => self.put(*code, &0u64),
        }
    }

    fn transaction(&mut self, plain: u32, sg: u32, data: TransactionData, load: &Load) {
        match load.sg {
            None => self.put(plain, &data),
            Some(more) => {
                let needed: usize = load.objects.iter().map(Object::size_elsewhere).sum();
                let buffers_size = (needed as u64).wrapping_add_signed(more);
                self.put(sg, &uapi::TransactionDataSg { transaction: data, buffers_size });
            }
        }
    }

    /// Lays out data and offsets, keeps them, and returns the part of a transaction that is about them.
    fn load(&mut self, load: &Load, state: &State) -> TransactionData {
        let mut data: Vec<u8> = (0..load.head).map(|at| (at * 7 + 3) as u8).collect();
        let mut offsets: Vec<u64> = Vec::new();
        let elsewhere = self.elsewhere(load, state);
        for (object, address) in load.objects.iter().zip(elsewhere) {
            data.resize(data.len().next_multiple_of(8), 0);
            offsets.push(data.len() as u64);
            match *object {
                Object::Binder { node, weak, flags } => {
                    let kind = if weak { uapi::BINDER_TYPE_WEAK_BINDER } else { uapi::BINDER_TYPE_BINDER };
                    data.extend(FlatObject { kind, flags, value: node.ptr, cookie: node.cookie }.as_bytes());
                }
                Object::Handle { handle, weak } => {
                    let handle = state.handle(handle);
                    data.extend(if weak { object::weak_handle(handle) } else { object::handle(handle) }.as_bytes());
                }
                Object::Fd(file) => data.extend(object::fd(state.file(file), 5).as_bytes()),
                Object::Bytes { len, parent, .. } => {
                    let (flags, (parent, parent_offset)) = match parent {
                        Some(place) => (uapi::BINDER_BUFFER_FLAG_HAS_PARENT, place),
                        None => (0, (0, 0)),
                    };
                    let object = BufferObject {
                        kind: uapi::BINDER_TYPE_PTR,
                        flags,
                        buffer: address,
                        length: len as u64,
                        parent: parent as u64,
                        parent_offset,
                    };
                    data.extend(object.as_bytes());
                }
                Object::Fds { count, parent, at } => data.extend(object::fd_array(count, parent, at).as_bytes()),
            }
        }
        self.damaged(load, data, offsets)
    }

    /// Makes the memory that the objects point to; an address for each object.
    fn elsewhere(&mut self, load: &Load, state: &State) -> Vec<u64> {
        let mut memory: Vec<Vec<u8>> = load
            .objects
            .iter()
            .map(|object| match object {
                Object::Bytes { len, .. } => (0..*len).map(|at| (at * 5 + 1) as u8).collect(),
                _ => Vec::new(),
            })
            .collect();
        for object in &load.objects {
            if let Object::Fds { count, parent, at } = *object {
                let Some(place) = memory.get_mut(parent).and_then(|memory| memory.get_mut(at as usize..)) else {
                    continue;
                };
                for (number, fd) in place.chunks_exact_mut(4).take(count.min(16) as usize).enumerate() {
                    fd.copy_from_slice(&state.file(Some(number)).to_ne_bytes());
                }
            }
        }
        let bad = |object: &Object| matches!(object, Object::Bytes { bad: true, .. });
        let mut addresses = Vec::new();
        for (object, bytes) in load.objects.iter().zip(memory) {
            addresses.push(if bad(object) { NOWHERE } else { self.pool.keep(bytes) });
        }
        addresses
    }

    fn damaged(&mut self, load: &Load, mut data: Vec<u8>, mut offsets: Vec<u64>) -> TransactionData {
        let count = offsets.len();
        let mut more_data = 0u64;
        let mut more_offsets = 0u64;
        let mut unreadable = (false, false);
        match load.damage {
            Some(Damage::OffsetMisaligned(index)) if count > 0 => offsets[index % count] += 2,
            Some(Damage::OffsetBeyond(index)) if count > 0 => offsets[index % count] = data.len() as u64,
            Some(Damage::OffsetBefore(index, by)) if count > 0 => {
                offsets[index % count] = offsets[index % count].wrapping_sub(by);
            }
            Some(Damage::OffsetTwice(index)) if count > 0 => offsets.insert(index % count, offsets[index % count]),
            Some(Damage::OffsetsSwapped) => offsets.reverse(),
            Some(Damage::OffsetsCut) => more_offsets = 4u64.wrapping_neg(),
            Some(Damage::OffsetsHuge) => more_offsets = 1 << 40,
            Some(Damage::OffsetsUnreadable) => unreadable.1 = true,
            Some(Damage::NoOffsets) => offsets.clear(),
            Some(Damage::UnknownType(index)) if count > 0 => data[offsets[index % count] as usize] ^= 0x20,
            Some(Damage::DataCut) if count > 0 => more_data = 8u64.wrapping_neg(),
            // Up to what can be had it is there: what stands behind the data by chance would not be the same each time.
            Some(Damage::DataHuge(more)) if more <= MOST => data.resize(data.len() + more as usize, 0),
            Some(Damage::DataHuge(more)) => more_data = more,
            Some(Damage::DataUnreadable) => unreadable.0 = true,
            _ => {}
        }
        let data_size = (data.len() as u64).wrapping_add(more_data);
        let offsets_size = (size_of_val(offsets.as_slice()) as u64).wrapping_add(more_offsets);
        let data = self.pool.keep(data);
        let offsets = self.pool.keep(offsets.as_bytes().to_vec());
        TransactionData {
            data_size,
            offsets_size,
            buffer: if unreadable.0 { NOWHERE } else { data },
            offsets: if unreadable.1 { NOWHERE } else { offsets },
            ..TransactionData::default()
        }
    }
}

impl Object {
    /// The room that what the object points to takes in the receiver's buffer.
    pub fn size_elsewhere(&self) -> usize {
        match self {
            Object::Bytes { len, .. } => len.next_multiple_of(8),
            _ => 0,
        }
    }
}

impl State {
    /// The descriptor that a program calls by a number.
    fn file(&self, number: Option<usize>) -> i32 {
        match number {
            Some(number) if !self.files.is_empty() => self.files[number % self.files.len()].as_raw_fd(),
            _ => 999,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use binder_client::hostile::peek;
    use zerocopy::FromBytes;

    use super::*;
    use crate::generate;
    use crate::program::Action;
    use crate::program::Handle;

    /// The codes of a stream, if each is followed by what it says.
    fn codes(bytes: &[u8]) -> Vec<u32> {
        let mut codes = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (code, behind) = u32::read_from_prefix(rest).expect("a code");
            codes.push(code);
            rest = &behind[uapi::payload_size(code)..];
        }
        codes
    }

    #[test]
    fn commands_are_as_long_as_their_codes_say() {
        let (mut pool, state) = (Pool::new(1 << 20), State::default());
        let mut seen = HashSet::new();
        for program in (0..300).map(|seed| generate::program(seed, 40)) {
            for step in program.steps {
                let Action::Talk(talk) = step.action else { continue };
                // What is no code has no length.
                let known = |command: &&Cmd| !matches!(command, Cmd::Code(_) | Cmd::AnswerAll);
                let commands: Vec<Cmd> = talk.commands.iter().filter(known).cloned().collect();
                let stream = Stream::new(&commands, &state, &mut pool);
                let codes = codes(&stream.bytes);
                assert_eq!(codes.len(), commands.len(), "{commands:?}");
                seen.extend(codes);
            }
        }
        // `BC_TRANSACTION` to `BC_FREEZE_NOTIFICATION_DONE`.
        let numbers: HashSet<u32> = seen.into_iter().map(|code| code & 0xff).collect();
        assert_eq!(numbers, (0..=21).collect());
    }

    #[test]
    fn a_call_comes_out_as_it_went_in() {
        let (mut pool, state) = (Pool::new(1 << 20), State::default());
        let node = Node { ptr: 0x10, cookie: 0x11 };
        let bytes = Object::Bytes { len: 24, parent: None, bad: false };
        let objects = vec![Object::Binder { node, weak: true, flags: 0x17f }, bytes];
        let load = Load { head: 9, objects, sg: Some(8), damage: None };
        let command = Cmd::Call { handle: Handle::No(3), code: 5, flags: 0x10, load };
        let stream = Stream::new(&[command], &state, &mut pool);
        assert_eq!(codes(&stream.bytes), [uapi::BC_TRANSACTION_SG]);
        let sent = uapi::TransactionDataSg::read_from_bytes(&stream.bytes[4..]).expect("as long as it says");
        let call = sent.transaction;
        assert_eq!((uapi::from_union(call.target), call.code, call.flags), (3, 5, 0x10));
        assert_eq!((call.data_size, call.offsets_size, sent.buffers_size), (16 + 24 + 40, 16, 24 + 8));
        let offsets = peek(call.offsets, 16).expect("offsets");
        assert_eq!(<[u64; 2]>::read_from_bytes(&offsets), Ok([16, 40]));
        let data = peek(call.buffer, 80).expect("data");
        assert_eq!(object::read_flat(&data, 16).and_then(|object| object.as_binder()), Some((0x10, 0x11)));
        let object = BufferObject::read_from_bytes(&data[40..]).expect("an object");
        assert_eq!((object.kind, object.length), (uapi::BINDER_TYPE_PTR, 24));
        assert_eq!(peek(object.buffer, 3), Ok(vec![1, 6, 11]));
    }

    #[test]
    fn what_finds_no_room_in_the_pool_is_kept_elsewhere() {
        let mut pool = Pool::new(16);
        let small = pool.keep(vec![1; 8]);
        let large = pool.keep(vec![2; 100]);
        let next = pool.keep(vec![3; 8]);
        assert_eq!(next, small + 8);
        assert_eq!(peek(large, 100), Ok(vec![2; 100]));
        assert_eq!(peek(small, 16), Ok([[1; 8], [3; 8]].concat()));
    }
}
