// SPDX-License-Identifier: GPL-2.0

//! A process of a program: does a step when it is told to, and tells what came of it.

use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use binder_client::Binder;
use binder_client::uapi;
use binder_client::uapi::ExtendedError;
use binder_client::uapi::FlatObject;
use binder_client::uapi::FreezeInfo;
use binder_client::uapi::FrozenStatusInfo;
use binder_client::uapi::NodeDebugInfo;
use binder_client::uapi::NodeInfoForRef;
use nix::libc;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;

use crate::encode::Stream;
use crate::program::Action;
use crate::program::Ioctl;
use crate::program::Program;
use crate::program::Talk;
use crate::state::State;
use crate::state::open_files;

/// Files of its own that each process has.
const FILES: usize = 3;

/// Written behind the room that the driver is given.
const CANARY: u8 = 0xa5;

/// A process id that no process has.
const NO_PID: u32 = 0x7fff_fff0;

#[derive(Debug, Default)]
struct Process {
    binder: Option<Binder>,
    state: State,
}

/// Sends text over a line.
pub fn say(line: &mut UnixStream, text: &str) -> std::io::Result<()> {
    line.write_all(&(text.len() as u32).to_ne_bytes())?;
    line.write_all(text.as_bytes())
}

/// Waits for text.
pub fn hear(line: &mut UnixStream) -> std::io::Result<String> {
    let mut size = [0; 4];
    line.read_exact(&mut size)?;
    let mut text = vec![0; u32::from_ne_bytes(size) as usize];
    line.read_exact(&mut text)?;
    String::from_utf8(text).map_err(std::io::Error::other)
}

/// The body of process `number`, with a line for each thread. It ends when the first thread's line does.
pub fn live(device: &Path, program: &Arc<Program>, number: usize, lines: Vec<UnixStream>) -> i32 {
    let mut lines = lines.into_iter();
    let Some(mut first) = lines.next() else { return 1 };
    let Ok(pids) = hear(&mut first) else { return 1 };
    let mut process = Process::default();
    process.state.pids = pids.split(' ').filter_map(|pid| pid.parse().ok()).collect();
    let opened = process.open(device, program.mappings[number], number);
    if say(&mut first, &opened).is_err() {
        return 1;
    }
    let process = Arc::new(Mutex::new(process));
    for line in lines {
        let (program, process) = (Arc::clone(program), Arc::clone(&process));
        std::thread::spawn(move || serve(line, &program, &process));
    }
    serve(first, program, &process);
    0
}

fn serve(mut line: UnixStream, program: &Program, process: &Mutex<Process>) {
    while let Ok(step) = hear(&mut line) {
        let Some(step) = step.parse().ok().and_then(|step: usize| program.steps.get(step)) else { return };
        let came = locked(process).act(&step.action);
        if say(&mut line, &came).is_err() {
            return;
        }
    }
}

/// One step runs at a time, so nobody ever waits here.
fn locked(process: &Mutex<Process>) -> MutexGuard<'_, Process> {
    process.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    fn open(&mut self, device: &Path, mapping: usize, number: usize) -> String {
        for file in 0..FILES {
            match memfd_create(format!("file-{number}-{file}").as_str(), MFdFlags::MFD_CLOEXEC) {
                Ok(file) => self.state.files.push(file.into()),
                Err(errno) => return format!("cannot make a file: {errno:?}"),
            }
        }
        let mut binder = match Binder::open_with(device, libc::O_NONBLOCK) {
            Ok(binder) => binder,
            Err(error) => return format!("open: {error}"),
        };
        if mapping > 0 {
            if let Err(error) = binder.map(mapping) {
                return format!("mmap: {error}");
            }
        }
        self.state.mapping = binder.mapping().map_or((0, 0), |map| (map.address(), map.len() as u64));
        self.binder = Some(binder);
        "open".into()
    }

    fn act(&mut self, action: &Action) -> String {
        if let Action::Close { unmap } = *action {
            return match self.binder.take() {
                Some(mut binder) => {
                    if !unmap {
                        binder.replace_mapping(None).map(binder_client::Mapping::into_range);
                    }
                    "closed".into()
                }
                None => "no device".into(),
            };
        }
        let Some(binder) = self.binder.take() else { return "no device".into() };
        let told = match action {
            Action::Talk(talk) => self.talk(&binder, talk),
            Action::Ioctl(ioctl) => self.ioctl(&binder, *ioctl),
            Action::Poll => poll(&binder),
            Action::Drain => self.drain(&binder),
            Action::Close { .. } | Action::Kill => "not done here".into(),
        };
        self.binder = Some(binder);
        told
    }

    fn talk(&mut self, binder: &Binder, talk: &Talk) -> String {
        let stream = Stream::new(&talk.commands, &self.state);
        let told = &stream.bytes[..stream.bytes.len().saturating_sub(talk.cut)];
        let mut room = vec![CANARY; talk.room + 8];
        let (room, behind) = room.split_at_mut(talk.room);
        let (result, progress) = binder.write_read(told, room);
        for (end, effect) in &stream.effects {
            if *end <= progress.written {
                self.state.taken(*effect);
            }
        }
        let result = result.map_or_else(|errno| format!("{errno:?}"), |()| "Ok".into());
        let read = room.get(..progress.read).map(|read| self.state.read(binder, read));
        let overrun = if behind.iter().all(|byte| *byte == CANARY) { "" } else { " OVERRUN" };
        format!(
            "{result} {}/{}{overrun}{}",
            progress.written,
            progress.read,
            read.unwrap_or_else(|| "more than there is room".into())
        )
    }

    /// The last thing a thread does. A thread's first read tells nothing, so one empty read is not the end.
    fn drain(&mut self, binder: &Binder) -> String {
        let mut told = String::new();
        let mut empty = 0;
        for _ in 0..200 {
            let one = self.talk(binder, &Talk { commands: Vec::new(), cut: 0, room: 4096 });
            empty = if one == "Ok 0/4 Noop;" { empty + 1 } else { 0 };
            told += &one;
            told += " | ";
            if !one.starts_with("Ok") || empty > 1 {
                break;
            }
        }
        told + &open_files()
    }

    fn ioctl(&mut self, binder: &Binder, ioctl: Ioctl) -> String {
        let pid = |process: Option<usize>| {
            process.and_then(|number| self.state.pids.get(number)).map_or(NO_PID, |pid| *pid as u32)
        };
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
            Ioctl::ThreadExit => ask!(uapi::BINDER_THREAD_EXIT, 0i32, |_| ()),
            Ioctl::NodeDebugInfo(ptr) => {
                ask!(uapi::BINDER_GET_NODE_DEBUG_INFO, NodeDebugInfo { ptr, ..NodeDebugInfo::default() }, |info| info)
            }
            Ioctl::NodeInfoForRef(handle, reserved) => {
                let handle = self.state.handle(handle);
                let reserved = [u32::from(reserved), 0, 0];
                let argument = NodeInfoForRef { handle, reserved, ..NodeInfoForRef::default() };
                ask!(uapi::BINDER_GET_NODE_INFO_FOR_REF, argument, |info| info)
            }
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
                    error.command,
                    error.param
                ))
            }
            Ioctl::Other(request) => ask!(request, [0u64; 8], |_| ()),
        }
    }
}

fn poll(binder: &Binder) -> String {
    use std::os::fd::AsFd;
    let mut fds = [PollFd::new(binder.as_fd(), PollFlags::POLLIN | PollFlags::POLLOUT | PollFlags::POLLPRI)];
    let result = nix::poll::poll(&mut fds, PollTimeout::ZERO);
    format!("{result:?} {:?}", fds[0].revents())
}
