// SPDX-License-Identifier: GPL-2.0

//! A process that executes the steps of programs on request and returns their results.
//!
//! It runs many programs, one after the other. Between two programs it resets its state: devices, mappings,
//! descriptors, nice value and user.

use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use binder_client::Binder;
use binder_client::Mapping;
use binder_client::hostile;
use binder_client::hostile::Arena;
use binder_client::process;
use nix::libc;
use nix::sys::epoll::Epoll;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::unistd::Uid;
use nix::unistd::seteuid;

use crate::encode::Pool;
use crate::post;
use crate::program::Action;
use crate::program::Program;
use crate::state::State;

/// Files of its own that each process has.
const FILES: usize = 3;

/// Stands between what came of one step and of the next.
pub const BETWEEN: &str = "\x1e";

/// What a process is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Begin a program with a driver, in the company of these processes.
    Begin {
        /// Which program.
        program: usize,
        /// Which driver.
        driver: usize,
        /// The ids of all processes of the program.
        pids: Vec<i32>,
    },
    /// Do so many steps, from this one on.
    Steps(usize, usize),
    /// Take the file that another process has sent.
    Take,
    /// Give everything back.
    End,
}

impl Order {
    /// As text.
    pub fn told(&self) -> String {
        match self {
            Order::Begin { program, driver, pids } => {
                let pids: Vec<_> = pids.iter().map(i32::to_string).collect();
                format!("begin {program} {driver} {}", pids.join(" "))
            }
            Order::Steps(first, count) => format!("steps {first} {count}"),
            Order::Take => "take".into(),
            Order::End => "end".into(),
        }
    }

    /// From text.
    pub fn heard(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let kind = words.next()?;
        let mut number = || words.next()?.parse::<usize>().ok();
        Some(match kind {
            "begin" => {
                let (program, driver) = (number()?, number()?);
                Order::Begin { program, driver, pids: words.filter_map(|pid| pid.parse().ok()).collect() }
            }
            "steps" => Order::Steps(number()?, number()?),
            "take" => Order::Take,
            "end" => Order::End,
            _ => return None,
        })
    }
}

/// What a process is made of before it is one.
#[derive(Debug)]
pub struct Part<'a> {
    /// Its number.
    pub number: usize,
    /// The drivers' devices.
    pub devices: Vec<PathBuf>,
    /// All programs.
    pub programs: Arc<Vec<Program>>,
    /// A line for each thread. The process ends when the first one does.
    pub lines: Vec<UnixStream>,
    /// Where files for each process are sent to.
    pub post: Vec<&'a UnixDatagram>,
    /// Where those for this one arrive.
    pub inbox: &'a UnixDatagram,
    /// For what commands point to.
    pub pool: Pool,
    /// For commands and returns that are not all there.
    pub arena: Arena,
}

/// A device that is worked on.
#[derive(Debug)]
pub struct Slot {
    /// The file, and the mapping if this process has made it.
    pub binder: Binder,
    /// What is known of it.
    pub state: State,
}

/// A process, shared by its threads, of which one at a time does something.
#[derive(Debug)]
pub struct Process {
    number: usize,
    devices: Vec<PathBuf>,
    programs: Arc<Vec<Program>>,
    program: usize,
    driver: usize,
    pids: Arc<Vec<i32>>,
    files: Arc<Vec<std::fs::File>>,
    threads: Vec<libc::pid_t>,
    /// The first descriptor that is not the process's for good.
    pub(crate) first: i32,
    /// What is worked on.
    pub(crate) current: Option<Slot>,
    /// What was worked on before.
    pub(crate) other: Option<Slot>,
    /// Mappings of files that were closed.
    pub(crate) orphans: Vec<Mapping>,
    pub(crate) epoll: Option<Epoll>,
    pub(crate) pool: Pool,
    pub(crate) arena: Arena,
}

/// Sends text over a line.
pub fn say(line: &mut UnixStream, text: &str) -> std::io::Result<()> {
    let mut bytes = (text.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(text.as_bytes());
    line.write_all(&bytes)
}

/// Waits for a message. An actor writes only in answer to a message, so at most one is in the socket.
pub fn hear(line: &mut UnixStream) -> std::io::Result<String> {
    let mut bytes = vec![0; 8192];
    let mut have = 0;
    let mut end = 4;
    while have < end {
        if have == bytes.len() {
            bytes.resize(end.max(bytes.len()), 0);
        }
        match line.read(&mut bytes[have..])? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            more => have += more,
        }
        if have >= 4 {
            end = 4 + u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        }
    }
    bytes.truncate(end);
    bytes.drain(..4);
    String::from_utf8(bytes).map_err(std::io::Error::other)
}

/// The body of a process.
pub fn live(part: Part<'_>) -> i32 {
    let (post, inbox) = (part.post, part.inbox);
    let mut files: Vec<std::fs::File> = Vec::new();
    for file in 0..FILES {
        match memfd_create(format!("file-{}-{file}", part.number).as_str(), MFdFlags::MFD_CLOEXEC) {
            Ok(file) => files.push(file.into()),
            Err(errno) => {
                eprintln!("binder-fuzz: cannot make a file: {errno}");
                return 1;
            }
        }
    }
    // Descriptors are given out from the lowest: what comes later is above.
    let first = files.iter().map(AsRawFd::as_raw_fd).max().unwrap_or(2) + 1;
    let process = Mutex::new(Process {
        number: part.number,
        devices: part.devices,
        programs: part.programs,
        program: 0,
        driver: 0,
        pids: Arc::default(),
        files: Arc::new(files),
        threads: Vec::new(),
        first,
        current: None,
        other: None,
        orphans: Vec::new(),
        epoll: None,
        pool: part.pool,
        arena: part.arena,
    });
    let mut lines = part.lines.into_iter();
    let Some(line) = lines.next() else { return 1 };
    std::thread::scope(|scope| {
        for line in lines {
            scope.spawn(|| serve(line, &process, &post, inbox));
        }
        serve(line, &process, &post, inbox);
        // The other threads wait on channels that have no sender any more.
        std::process::exit(0)
    })
}

fn serve(mut line: UnixStream, process: &Mutex<Process>, post: &[&UnixDatagram], inbox: &UnixDatagram) {
    locked(process).threads.push(process::thread_id());
    while let Ok(order) = hear(&mut line) {
        let Some(order) = Order::heard(&order) else { return };
        let came = locked(process).obey(order, post, inbox);
        if say(&mut line, &came).is_err() {
            return;
        }
    }
}

/// One step runs at a time, so this lock is never contended.
fn locked(process: &Mutex<Process>) -> MutexGuard<'_, Process> {
    process.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    fn obey(&mut self, order: Order, post: &[&UnixDatagram], inbox: &UnixDatagram) -> String {
        match order {
            Order::Begin { program, driver, pids } => {
                (self.program, self.driver, self.pids) = (program, driver, Arc::new(pids));
                let mapping = self.programs.get(program).and_then(|program| program.mappings.get(self.number));
                self.open(mapping.copied().unwrap_or(0))
            }
            Order::Steps(first, count) => {
                let programs = Arc::clone(&self.programs);
                let Some(program) = programs.get(self.program) else { return "no such program".into() };
                let steps = program.steps.iter().skip(first).take(count);
                let came: Vec<_> = steps
                    .map(|step| match step.action {
                        Action::Lend { to } => self.lend(post.get(to).copied()),
                        ref action => self.act(action),
                    })
                    .collect();
                came.join(BETWEEN)
            }
            Order::Take => self.take(inbox),
            Order::End => self.end(),
        }
    }

    /// Opens a device, and works on it from now on.
    pub(crate) fn open(&mut self, mapping: usize) -> String {
        let mut binder = match Binder::open_with(&self.devices[self.driver], libc::O_NONBLOCK) {
            Ok(binder) => binder,
            Err(error) => return format!("cannot open: {error}"),
        };
        let mut told = "open".to_owned();
        if mapping > 0 {
            match binder.map(mapping) {
                Ok(()) => told += ", mapped",
                Err(error) => told += &format!(", {error}"),
            }
        }
        let place = binder.mapping().map_or((0, 0), |map| (map.address(), map.len() as u64));
        self.work_on(binder, place);
        told
    }

    fn work_on(&mut self, binder: Binder, mapping: (u64, u64)) {
        let state = State::new(Arc::clone(&self.files), Arc::clone(&self.pids), mapping);
        if let Some(before) = self.current.replace(Slot { binder, state }) {
            self.other = Some(before);
        }
    }

    fn lend(&self, to: Option<&UnixDatagram>) -> String {
        let (Some(slot), Some(to)) = (&self.current, to) else { return "no device".into() };
        match post::send(to, &slot.binder, slot.state.mapping) {
            Ok(()) => "lent".into(),
            Err(errno) => format!("cannot lend: {errno}"),
        }
    }

    fn take(&mut self, inbox: &UnixDatagram) -> String {
        match post::receive(inbox) {
            Ok((binder, mapping)) => {
                self.work_on(binder, mapping);
                "taken".into()
            }
            Err(errno) => format!("cannot take: {errno}"),
        }
    }

    fn end(&mut self) -> String {
        self.epoll = None;
        self.current = None;
        self.other = None;
        self.orphans.clear();
        // SAFETY: what owned descriptors from there on was just dropped, but for those that a driver has opened.
        unsafe { hostile::close_all_from(self.first) };
        let mut result = seteuid(Uid::from_raw(0));
        for thread in &self.threads {
            if process::nice_of(*thread) != Ok(0) {
                result = result.and(process::set_nice(*thread, 0));
            }
        }
        result.map_or_else(|errno| format!("cannot end: {errno}"), |()| "end".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_heard_as_they_were_told() {
        for order in
            [Order::Begin { program: 3, driver: 1, pids: vec![7, 8] }, Order::Steps(12, 3), Order::Take, Order::End]
        {
            assert_eq!(Order::heard(&order.told()), Some(order));
        }
        assert_eq!(Order::heard("jump"), None);
    }

    #[test]
    fn a_line_carries_texts_of_any_length() {
        let (mut here, mut there) = UnixStream::pair().expect("socketpair");
        for length in [0, 1, 8187, 8188, 8189, 100_000] {
            let text = "x".repeat(length);
            say(&mut here, &text).expect("say");
            assert_eq!(hear(&mut there).expect("hear"), text);
        }
    }
}
