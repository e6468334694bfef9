// SPDX-License-Identifier: GPL-2.0

//! Executes a step and returns its result as text.

use std::os::fd::AsFd;

use binder_client::Binder;
use binder_client::Mapping;
use binder_client::Progress;
use binder_client::hostile;
use binder_client::hostile::Arena;
use binder_client::pages::PAGE;
use binder_client::process;
use binder_client::uapi;
use binder_client::uapi::ExtendedError;
use binder_client::uapi::FlatObject;
use binder_client::uapi::FreezeInfo;
use binder_client::uapi::FrozenStatusInfo;
use binder_client::uapi::NodeDebugInfo;
use binder_client::uapi::NodeInfoForRef;
use binder_client::uapi::WriteRead;
use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::sys::epoll::Epoll;
use nix::sys::epoll::EpollCreateFlags;
use nix::sys::epoll::EpollEvent;
use nix::sys::epoll::EpollFlags;
use nix::sys::epoll::EpollTimeout;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::prctl;
use nix::unistd::Uid;
use nix::unistd::seteuid;

use crate::actor::Process;
use crate::actor::Slot;
use crate::encode::Pool;
use crate::encode::Stream;
use crate::program;
use crate::program::Action;
use crate::program::Buffer;
use crate::program::Ioctl;
use crate::program::Map;
use crate::program::Place;
use crate::program::Talk;
use crate::state::State;
use crate::state::open_files;

/// Written behind the room that the driver is given, and before.
const CANARY: u8 = 0xa5;

/// A process id that no process has.
const NO_PID: u32 = 0x7fff_fff0;

/// What is told where there is no device to work on.
pub const NO_DEVICE: &str = "no device";

/// Pages of the arena: room for returns, nothing, commands, nothing.
pub const ARENA_PAGES: usize = 4;

/// The memory for what is not all there: two pages, each with a hole behind it.
pub fn arena() -> Arena {
    let arena = Arena::new(ARENA_PAGES);
    arena.protect(1, ProtFlags::PROT_NONE);
    arena.protect(3, ProtFlags::PROT_NONE);
    arena
}

fn told<T>(result: nix::Result<T>, well: &str) -> String {
    result.map_or_else(|errno| format!("{errno:?}"), |_| well.to_owned())
}

impl Process {
    /// Does something that concerns this process alone.
    pub(crate) fn act(&mut self, action: &Action) -> String {
        match *action {
            Action::Open { mapping } => return self.open(mapping),
            Action::Switch => {
                std::mem::swap(&mut self.current, &mut self.other);
                return "switched".into();
            }
            Action::Close { unmap } => return self.close(unmap),
            Action::Nice(nice) => return told(process::set_nice(process::thread_id(), nice), "nice"),
            Action::User(user) => return told(become_user(user), "user"),
            Action::Epoll(program::Epoll::Wait) => return self.epoll_wait(),
            _ => {}
        }
        let Some(slot) = &mut self.current else { return NO_DEVICE.into() };
        match action {
            Action::Talk(talk) => slot.talk(talk, &mut self.pool, &self.arena),
            Action::Ioctl(Ioctl::ThreadExit) => {
                let told = slot.exit_thread(&mut self.pool, &self.arena);
                told + &self.forget_epoll()
            }
            Action::Ioctl(ioctl) => slot.ioctl(*ioctl),
            Action::Poll => poll(&slot.binder),
            Action::Drain => slot.read_all(&mut self.pool, &self.arena) + &open_files(self.first),
            Action::CloseCopy => told(slot.binder.as_fd().try_clone_to_owned().map_err(|_| Errno::EMFILE), "copied"),
            Action::Map { len, how } => slot.map(*len, *how),
            Action::Unmap => slot.unmap(),
            Action::MakeWritable => slot.make_writable(),
            Action::Peek { buffer, len } => slot.peek(*buffer, *len),
            Action::Epoll(what) => epoll(&mut self.epoll, &slot.binder, *what),
            _ => "not done here".into(),
        }
    }

    fn close(&mut self, unmap: bool) -> String {
        match self.current.take() {
            Some(mut slot) => {
                if !unmap {
                    self.orphans.extend(slot.binder.replace_mapping(None));
                }
                "closed".into()
            }
            None => NO_DEVICE.into(),
        }
    }

    /// Looks at the epoll a last time after a thread has exited (`deaf-epoll`: the C driver tells it nothing after that).
    fn forget_epoll(&mut self) -> String {
        if self.epoll.is_none() {
            return String::new();
        }
        let last = self.epoll_wait();
        self.epoll = None;
        format!(", epoll {last}")
    }

    fn epoll_wait(&mut self) -> String {
        let Some(epoll) = &self.epoll else { return "no epoll".into() };
        let mut events = [EpollEvent::empty(); 4];
        match epoll.wait(&mut events, EpollTimeout::ZERO) {
            Ok(count) => format!("{:?}", events[..count].iter().map(EpollEvent::events).collect::<Vec<_>>()),
            Err(errno) => format!("{errno:?}"),
        }
    }
}

/// A process that is not root can become root again, or another user. It can read its own files in /proc only with all
/// of its rights.
fn become_user(user: u32) -> nix::Result<()> {
    seteuid(Uid::from_raw(0))?;
    seteuid(Uid::from_raw(user))?;
    prctl::set_dumpable(true)
}

fn poll(binder: &Binder) -> String {
    let mut fds = [PollFd::new(binder.as_fd(), PollFlags::POLLIN | PollFlags::POLLOUT | PollFlags::POLLPRI)];
    let result = nix::poll::poll(&mut fds, PollTimeout::ZERO);
    format!("{result:?} {:?}", fds[0].revents())
}

fn epoll(epoll: &mut Option<Epoll>, binder: &Binder, what: program::Epoll) -> String {
    if epoll.is_none() {
        *epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).ok();
    }
    let Some(epoll) = epoll else { return "no epoll".into() };
    match what {
        program::Epoll::Watch { edge } => {
            let edge = if edge { EpollFlags::EPOLLET } else { EpollFlags::empty() };
            told(epoll.add(binder, EpollEvent::new(EpollFlags::EPOLLIN | edge, 1)), "watched")
        }
        program::Epoll::Forget => told(epoll.delete(binder), "forgotten"),
        program::Epoll::Wait => "not done here".into(),
    }
}

/// What came of a `BINDER_WRITE_READ`.
struct Came<'a> {
    result: nix::Result<()>,
    progress: Progress,
    /// How much of it was not this time's doing.
    begun: Progress,
    /// All there is to read into.
    room: &'a [u8],
    /// Bytes outside of the room were written to.
    overrun: bool,
}

impl Slot {
    fn talk(&mut self, talk: &Talk, pool: &mut Pool, arena: &Arena) -> String {
        // `lost-buffer`: of a call that cannot be written to the room there is, the C driver keeps the buffer.
        let before = match talk.place {
            Place::ReadEnd(_) => self.read_all(pool, arena),
            _ => String::new(),
        };
        before + &self.talk_once(talk, pool, arena)
    }

    fn talk_once(&mut self, talk: &Talk, pool: &mut Pool, arena: &Arena) -> String {
        self.state.begin();
        let stream = Stream::new(&talk.commands, &self.state, pool);
        let commands = &stream.bytes[..stream.bytes.len().saturating_sub(talk.cut)];
        let fits = commands.len() + 16 <= PAGE && talk.room + 16 <= PAGE;
        match talk.place {
            Place::Nowhere(which) => {
                let nowhere = hostile::NOWHERE[which % hostile::NOWHERE.len()];
                told(hostile::ioctl_at(&self.binder, uapi::BINDER_WRITE_READ, nowhere), "Ok")
            }
            place if place != Place::Usual && fits => self.talk_from(arena, place, commands, talk.room, &stream),
            _ => {
                let mut room = vec![CANARY; talk.room + 8];
                let (room, behind) = room.split_at_mut(talk.room);
                let (result, progress) = self.binder.write_read(commands, room);
                let overrun = behind.iter().any(|byte| *byte != CANARY);
                self.came(&stream, &Came { result, progress, begun: Progress::default(), room, overrun })
            }
        }
    }

    /// Commands and room stand at the ends of pages that have nothing behind them.
    fn talk_from(&mut self, arena: &Arena, place: Place, commands: &[u8], room: usize, stream: &Stream<'_>) -> String {
        let (mut lost_write, mut lost_read) = (0, 0);
        let mut begun = Progress::default();
        match place {
            Place::WriteEnd(bytes) => lost_write = bytes.min(commands.len()),
            Place::ReadEnd(bytes) => lost_read = bytes.min(room),
            Place::Begun { written, read } => begun = Progress { written, read },
            _ => {}
        }
        let written_at = 3 * PAGE - (begun.written + commands.len() - lost_write);
        arena.put(written_at + begun.written, &commands[..commands.len() - lost_write]);
        let read_at = PAGE - (begun.read + room - lost_read);
        arena.put(0, &[CANARY; PAGE]);
        let nowhere = |which: usize| hostile::NOWHERE[which % hostile::NOWHERE.len()];
        let mut argument = WriteRead {
            write_size: (begun.written + commands.len()) as u64,
            write_consumed: begun.written as u64,
            write_buffer: if let Place::WriteNowhere(which) = place { nowhere(which) } else { arena.at(written_at) },
            read_size: (begun.read + room) as u64,
            read_consumed: begun.read as u64,
            read_buffer: if let Place::ReadNowhere(which) = place { nowhere(which) } else { arena.at(read_at) },
        };
        let result = arena.write_read(&self.binder, &mut argument).map(drop);
        let progress = Progress { written: argument.write_consumed as usize, read: argument.read_consumed as usize };
        let before = arena.get(0, read_at);
        let there = arena.get(read_at, PAGE - read_at);
        let overrun = before.iter().any(|byte| *byte != CANARY);
        self.came(stream, &Came { result, progress, begun, room: &there, overrun })
    }

    fn came(&mut self, stream: &Stream<'_>, came: &Came<'_>) -> String {
        let written = came.progress.written.saturating_sub(came.begun.written);
        for (end, effect) in &stream.effects {
            if *end <= written {
                self.state.taken(*effect);
            }
        }
        let result = came.result.map_or_else(|errno| format!("{errno:?}"), |()| "Ok".into());
        let overrun = if came.overrun { " OVERRUN" } else { "" };
        let mut told = format!("{result} {}/{}{overrun}", came.progress.written, came.progress.read);
        if came.begun.read > 0 && came.room.iter().take(came.begun.read).any(|byte| *byte != CANARY) {
            told += &format!(" {:x?}", &came.room[..came.begun.read.min(came.room.len())]);
        }
        match came.room.get(came.begun.read.min(came.progress.read)..came.progress.read) {
            Some(read) => told += &self.state.read(&self.binder, read),
            None => told += " more than there is room",
        }
        if told.contains("Transaction") || told.contains("Reply") {
            match process::nice_of(process::thread_id()) {
                Ok(0) => {}
                nice => told += &format!(" nice {nice:?}"),
            }
        }
        told
    }

    /// Everything there is to read is read before (`lost-buffer`: the C driver keeps the buffers of what is not).
    fn exit_thread(&mut self, pool: &mut Pool, arena: &Arena) -> String {
        let read = self.read_all(pool, arena);
        let exited =
            told(self.binder.thread_exit().map_err(|error| error.errno().unwrap_or(Errno::UnknownErrno)), "Ok");
        read + &exited
    }

    /// A thread's first read tells nothing, so one empty read is not the end.
    fn read_all(&mut self, pool: &mut Pool, arena: &Arena) -> String {
        let mut all = String::new();
        let mut empty = 0;
        for _ in 0..200 {
            let talk = Talk { commands: Vec::new(), cut: 0, room: 4096, place: Place::Usual };
            let one = self.talk(&talk, pool, arena);
            empty = if one == "Ok 0/4 Noop;" { empty + 1 } else { 0 };
            all += &one;
            all += " | ";
            if !one.starts_with("Ok") || empty > 1 {
                break;
            }
        }
        all
    }

    fn map(&mut self, len: usize, how: Map) -> String {
        let (prot, flags, offset) = match how {
            Map::Usual => (ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, 0),
            Map::Shared => (ProtFlags::PROT_READ, MapFlags::MAP_SHARED, 0),
            Map::Writable => (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, 0),
            Map::Offset => (ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, PAGE as i64),
        };
        match Mapping::with(&self.binder, len, prot, flags, offset) {
            Ok(mapping) => {
                self.state.mapping = (mapping.address(), mapping.len() as u64);
                self.binder.replace_mapping(Some(mapping));
                "mapped".into()
            }
            Err(errno) => format!("{errno:?}"),
        }
    }

    fn unmap(&mut self) -> String {
        match self.binder.replace_mapping(None) {
            Some(_) => "unmapped".into(),
            None => "no mapping".into(),
        }
    }

    fn make_writable(&self) -> String {
        match self.binder.mapping() {
            Some(mapping) => told(hostile::protect(mapping, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE), "writable"),
            None => "no mapping".into(),
        }
    }

    fn peek(&self, buffer: Buffer, len: usize) -> String {
        let Some(mapping) = self.binder.mapping() else { return "no mapping".into() };
        let Some((address, size)) = self.state.delivered(buffer) else { return "no buffer".into() };
        // Addresses stand at multiples of eight and are blanked as wholes.
        let len = len.min(size as usize).next_multiple_of(8);
        if !mapping.contains(address, len as u64) {
            return "outside".into();
        }
        match hostile::peek(address, len) {
            Ok(mut bytes) => self.state.bytes(&mut bytes),
            Err(errno) => format!("{errno:?}"),
        }
    }

    fn ioctl(&self, ioctl: Ioctl) -> String {
        let binder = &self.binder;
        let pid = |process: Option<usize>| pid(&self.state, process);
        macro_rules! ask {
            ($request:expr, $argument:expr, $told:expr) => {{
                let mut argument = $argument;
                match binder.ioctl($request, &mut argument) {
                    Ok(0) => format!("Ok {:x?}", $told(argument)),
                    Ok(other) => format!("Ok({other}) {:x?}", $told(argument)),
                    Err(errno) => format!("{errno:?} {:x?}", $told(argument)),
                }
            }};
        }
        match ioctl {
            Ioctl::Version => ask!(uapi::BINDER_VERSION, 0i32, |version| version),
            Ioctl::SetMaxThreads(threads) => ask!(uapi::BINDER_SET_MAX_THREADS, threads, |_| ()),
            Ioctl::BecomeManager => ask!(uapi::BINDER_SET_CONTEXT_MGR, 0i32, |_| ()),
            Ioctl::BecomeManagerExt(node, flags) => {
                let object = FlatObject { kind: uapi::BINDER_TYPE_BINDER, flags, value: node.ptr, cookie: node.cookie };
                ask!(uapi::BINDER_SET_CONTEXT_MGR_EXT, object, |_| ())
            }
            Ioctl::ThreadExit => "not done here".into(),
            Ioctl::NodeDebugInfo(ptr) => {
                ask!(uapi::BINDER_GET_NODE_DEBUG_INFO, NodeDebugInfo { ptr, ..NodeDebugInfo::default() }, |info| info)
            }
            Ioctl::NodeInfoForRef(handle, reserved) => {
                let handle = self.state.handle(handle);
                let reserved = [u32::from(reserved), 0, 0];
                let argument = NodeInfoForRef { handle, reserved, ..NodeInfoForRef::default() };
                ask!(uapi::BINDER_GET_NODE_INFO_FOR_REF, argument, |info| info)
            }
            // Which users may freeze which processes is each driver's own (`freeze-rights`).
            Ioctl::Freeze { .. } | Ioctl::FrozenInfo(_) if !nix::unistd::geteuid().is_root() => "not asked".into(),
            Ioctl::Freeze { process, enable, wait } => {
                let argument = FreezeInfo { pid: pid(process), enable, timeout_ms: wait };
                ask!(uapi::BINDER_FREEZE, argument, |_| ())
            }
            Ioctl::FrozenInfo(process) => {
                let argument = FrozenStatusInfo { pid: pid(process), ..FrozenStatusInfo::default() };
                ask!(uapi::BINDER_GET_FROZEN_INFO, argument, |info: FrozenStatusInfo| (info.sync_recv, info.async_recv))
            }
            Ioctl::SpamDetection(enable) => ask!(uapi::BINDER_ENABLE_ONEWAY_SPAM_DETECTION, enable, |_| ()),
            // The failed transaction's number is counted by each driver from where it likes.
            Ioctl::ExtendedError => {
                ask!(uapi::BINDER_GET_EXTENDED_ERROR, ExtendedError::default(), |error: ExtendedError| (
                    error.id != 0,
                    error.command,
                    error.param
                ))
            }
            // As much as any request can be about.
            Ioctl::Other(request) => ask!(request, [0u64; 2048], |_| ()),
            Ioctl::Nowhere(request, which) => {
                told(hostile::ioctl_at(binder, request, hostile::NOWHERE[which % hostile::NOWHERE.len()]), "Ok")
            }
        }
    }
}

fn pid(state: &State, process: Option<usize>) -> u32 {
    process.and_then(|number| state.pids.get(number)).map_or(NO_PID, |pid| *pid as u32)
}
