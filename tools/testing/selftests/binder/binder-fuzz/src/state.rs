// SPDX-License-Identifier: GPL-2.0

//! The state of one process of a program, and the text form of what it reads.
//!
//! The text must be the same on two drivers that behave the same. So addresses are written as offsets in the mapping,
//! process ids as numbers of the program's processes, descriptors as the files they refer to. The debug ids of
//! transactions are left out.

use std::fmt::Write;
use std::fs::File;
use std::sync::Arc;

use binder_client::Binder;
use binder_client::Return;
use binder_client::Returns;
use binder_client::uapi;
use binder_client::uapi::BufferObject;
use binder_client::uapi::FdArrayObject;
use binder_client::uapi::PtrCookie;
use binder_client::uapi::TransactionData;
use zerocopy::FromBytes;

use crate::encode::Effect;
use crate::program::Buffer;
use crate::program::Cookie;
use crate::program::Handle;

/// Stands in place of an address in the receiver's mapping.
const ADDRESS: u64 = 0xadd0_0000_0000_0000;

/// How many bytes are told as they are; of more, a sum.
const TOLD_BYTES: usize = 96;

/// What a process remembers of one device it works on.
#[derive(Debug, Default)]
pub struct State {
    /// Address and size of each buffer.
    held: Vec<(u64, u64)>,
    freed: Vec<(u64, u64)>,
    /// How many of them were given back with the last commands.
    just_freed: usize,
    handles: Vec<u32>,
    asked: Vec<(bool, PtrCookie)>,
    told: u64,
    /// Its own files.
    pub files: Arc<Vec<File>>,
    /// The ids of all processes of the program.
    pub pids: Arc<Vec<i32>>,
    /// Its mapping: address and length.
    pub mapping: (u64, u64),
}

/// One of a list, counted from its end, around if need be.
fn recent<T: Copy>(list: &[T], number: usize) -> Option<T> {
    list.len().checked_sub(1).map(|last| list[last - number % list.len()])
}

impl State {
    /// Of a device with a mapping at a place, in a process with these files and that company.
    pub fn new(files: Arc<Vec<File>>, pids: Arc<Vec<i32>>, mapping: (u64, u64)) -> Self {
        Self { files, pids, mapping, ..Self::default() }
    }

    /// The handle of a name.
    pub fn handle(&self, name: Handle) -> u32 {
        match name {
            Handle::No(number) => number,
            Handle::Recent(number) => recent(&self.handles, number).unwrap_or(0),
        }
    }

    /// The address of a buffer's name.
    pub fn buffer(&self, name: Buffer) -> u64 {
        match name {
            Buffer::Held(number) => recent(&self.held, number).map_or(0, |(address, _)| address),
            Buffer::Freed(number) => recent(&self.freed, number).map_or(0, |(address, _)| address),
            Buffer::Inside(number, place) => recent(&self.held, number).map_or(0, |(address, _)| address) + place,
            Buffer::At(place) => self.mapping.0 + place,
        }
    }

    /// Address and size of a buffer that was delivered and can be looked at: one that is held, or that was given back just
    /// now. Into one given back before, something else may have been written that was not delivered
    /// (`undelivered-page`), of which each driver writes as much as it likes.
    pub fn delivered(&self, name: Buffer) -> Option<(u64, u64)> {
        match name {
            Buffer::Held(number) => recent(&self.held, number),
            Buffer::Freed(number) => recent(&self.freed[self.freed.len() - self.just_freed..], number),
            Buffer::Inside(..) | Buffer::At(_) => None,
        }
    }

    /// New commands are given.
    pub fn begin(&mut self) {
        self.just_freed = 0;
    }

    /// The cookie of a name.
    pub fn cookie(&self, name: Cookie) -> u64 {
        match name {
            Cookie::No(number) => number,
            Cookie::Told => self.told,
        }
    }

    /// What the driver has asked and not been answered: whether strongly, and of which node.
    pub fn asked(&self) -> &[(bool, PtrCookie)] {
        &self.asked
    }

    /// Notes what the driver has taken.
    pub fn taken(&mut self, effect: Effect) {
        match effect {
            Effect::Freed(address) => {
                if let Some(at) = self.held.iter().position(|held| held.0 == address) {
                    self.freed.push(self.held.remove(at));
                    self.just_freed += 1;
                }
            }
            Effect::Answered(count) => drop(self.asked.drain(..count.min(self.asked.len()))),
        }
    }

    fn place(&self, address: u64) -> String {
        match address.checked_sub(self.mapping.0) {
            Some(place) if place < self.mapping.1 => format!("+{place:#x}"),
            _ => format!("{address:#x}"),
        }
    }

    /// Which process of the program a process id is.
    pub fn process(&self, pid: i32) -> String {
        match self.pids.iter().position(|known| *known == pid) {
            Some(number) => format!("p{number}"),
            None => format!("pid {pid}"),
        }
    }

    /// Tells everything that was read.
    pub fn read(&mut self, binder: &Binder, bytes: &[u8]) -> String {
        let mut told = String::new();
        for one in Returns::new(bytes) {
            let text = match one {
                Ok(Return::Transaction(data)) => format!("Transaction {}", self.transaction(binder, &data)),
                Ok(Return::Reply(data)) => format!("Reply {}", self.transaction(binder, &data)),
                Ok(Return::TransactionSecCtx(data)) => {
                    format!(
                        "TransactionSecCtx {} at {}",
                        self.transaction(binder, &data.transaction),
                        self.place(data.secctx)
                    )
                }
                Ok(Return::IncRefs(node)) => {
                    self.asked.push((false, node));
                    format!("IncRefs({:#x}, {:#x})", node.ptr, node.cookie)
                }
                Ok(Return::Acquire(node)) => {
                    self.asked.push((true, node));
                    format!("Acquire({:#x}, {:#x})", node.ptr, node.cookie)
                }
                Ok(Return::DeadBinder(cookie)) => {
                    self.told = cookie;
                    format!("DeadBinder({cookie:#x})")
                }
                Ok(Return::FrozenBinder(state)) => {
                    self.told = state.cookie;
                    format!("{state:?}")
                }
                // `spam-latest`: which of two calls in a row is the one too many is not the same.
                Ok(Return::OnewaySpamSuspect) => "TransactionComplete".into(),
                Ok(other) => format!("{other:?}"),
                Err(error) => format!("unreadable: {error}"),
            };
            let _ = write!(told, " {text};");
        }
        told
    }

    fn transaction(&mut self, binder: &Binder, data: &TransactionData) -> String {
        let mut told = format!(
            "to {:#x},{:#x} code {} flags {:#x} from {} euid {}, {} bytes at {}, {} of offsets at {}",
            data.target,
            data.cookie,
            data.code,
            data.flags,
            if data.sender_pid == 0 { "none".into() } else { self.process(data.sender_pid) },
            data.sender_euid,
            data.data_size,
            self.place(data.buffer),
            data.offsets_size,
            self.place(data.offsets),
        );
        self.held.push((data.buffer, data.data_size));
        match binder.payload(data) {
            Ok(mut payload) => {
                let mut elsewhere: Vec<Option<(u64, Vec<u8>)>> = vec![None; payload.offsets.len()];
                for (index, offset) in payload.offsets.clone().into_iter().enumerate() {
                    let Some(bytes) = payload.data.get_mut(offset as usize..) else {
                        told += " [offset outside]";
                        continue;
                    };
                    self.object(binder, bytes, index, &mut elsewhere, &mut told);
                }
                for (index, bytes) in elsewhere.iter_mut().enumerate() {
                    if let Some((_, bytes)) = bytes {
                        let _ = write!(told, " [{index}] -> {}", self.bytes(bytes));
                    }
                }
                let _ = write!(told, " = {}", self.bytes(&mut payload.data));
            }
            // The error names addresses.
            Err(_) => told += " [not in a mapping of this process]",
        }
        told
    }

    /// Tells an object, and takes out of the bytes what is not to be told as bytes.
    fn object(
        &mut self,
        binder: &Binder,
        bytes: &mut [u8],
        index: usize,
        elsewhere: &mut [Option<(u64, Vec<u8>)>],
        told: &mut String,
    ) {
        let Ok((kind, _)) = u32::read_from_prefix(bytes) else { return };
        match kind {
            uapi::BINDER_TYPE_FD => {
                if let Some(fd) = bytes.get_mut(8..12) {
                    let _ = write!(told, " [{index}] fd {}", take_fd(fd));
                }
            }
            uapi::BINDER_TYPE_HANDLE | uapi::BINDER_TYPE_WEAK_HANDLE => {
                if let Ok((handle, _)) = u32::read_from_prefix(&bytes[8..]) {
                    self.handles.push(handle);
                    let _ = write!(told, " [{index}] handle {handle}");
                }
            }
            uapi::BINDER_TYPE_PTR => {
                let Ok((object, _)) = BufferObject::read_from_prefix(bytes) else { return };
                let mut content = vec![0; object.length.min(self.mapping.1) as usize];
                let found = binder.mapping().is_some_and(|map| map.copy(object.buffer, &mut content).is_ok());
                let _ = write!(told, " [{index}] {} bytes at {}", object.length, self.place(object.buffer));
                if found {
                    elsewhere[index] = Some((object.buffer, content));
                }
            }
            uapi::BINDER_TYPE_FDA => {
                let Ok((object, _)) = FdArrayObject::read_from_prefix(bytes) else { return };
                let parent = elsewhere.get_mut(object.parent as usize).and_then(Option::as_mut);
                let place = parent.and_then(|(_, content)| content.get_mut(object.parent_offset as usize..));
                let Some(place) = place else { return };
                let names: Vec<_> = place.chunks_exact_mut(4).take(object.num_fds as usize).map(take_fd).collect();
                let _ = write!(told, " [{index}] fds {names:?}");
            }
            _ => {}
        }
    }

    /// Bytes, with places in the mapping instead of addresses.
    pub fn bytes(&self, bytes: &mut [u8]) -> String {
        for at in 0..bytes.len().saturating_sub(7) {
            let Ok((word, _)) = u64::read_from_prefix(&bytes[at..]) else { break };
            if let Some(place) = word.checked_sub(self.mapping.0).filter(|place| *place < self.mapping.1) {
                bytes[at..at + 8].copy_from_slice(&(ADDRESS | place).to_ne_bytes());
            }
        }
        if bytes.len() <= TOLD_BYTES {
            return bytes.iter().fold(String::new(), |mut told, byte| {
                let _ = write!(told, "{byte:02x}");
                told
            });
        }
        let sum = bytes
            .iter()
            .fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        format!("({} bytes, sum {sum:x})", bytes.len())
    }
}

/// Names the file of a descriptor in received bytes, and blanks the descriptor.
fn take_fd(bytes: &mut [u8]) -> String {
    let fd = u32::read_from_bytes(bytes).unwrap_or(0);
    bytes.fill(0xfd);
    file_name(&format!("/proc/self/fd/{fd}"))
}

/// What a link in `/proc/self/fd` leads to, without what is different each time.
fn file_name(link: &str) -> String {
    match std::fs::read_link(link) {
        Ok(target) => {
            let target = target.to_string_lossy().into_owned();
            target.strip_prefix("/memfd:").map_or_else(|| "another file".into(), |name| name.replace(" (deleted)", ""))
        }
        Err(_) => "closed".into(),
    }
}

/// Descriptors in a row that are closed, after which no more are expected.
const CLOSED: i32 = 8;

/// The programs' files that this process has open from a descriptor on, in alphabetic order.
pub fn open_files(first: i32) -> String {
    let mut names = Vec::new();
    let mut closed = 0;
    for fd in first.. {
        match file_name(&format!("/proc/self/fd/{fd}")) {
            name if name == "closed" => closed += 1,
            name => {
                closed = 0;
                names.extend(Some(name).filter(|name| name.starts_with("file-")));
            }
        }
        if closed == CLOSED {
            break;
        }
    }
    names.sort_unstable();
    names.join(" ")
}
