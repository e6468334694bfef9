// SPDX-License-Identifier: GPL-2.0

//! Generates programs.
//!
//! Random commands alone would rarely deliver a call. So most of a program consists of valid sequences - a call with
//! its reply, a node that is sent, a notification request - with random commands and errors in between.

use crate::program::Action;
use crate::program::Buffer;
use crate::program::Cmd;
use crate::program::Cookie;
use crate::program::Damage;
use crate::program::Handle;
use crate::program::Ioctl;
use crate::program::Load;
use crate::program::Node;
use crate::program::Object;
use crate::program::Place;
use crate::program::Program;
use crate::program::Ref;
use crate::program::Step;
use crate::program::Talk;
use crate::rng::Rng;
use binder_client::LIBBINDER_MAPPING;
use binder_client::MAX_MAPPING;
use binder_client::uapi;

mod wide;

/// Room for whatever can come in one read.
const AMPLE: usize = 1024;

/// Rooms that are hardly enough or not enough. One to three bytes are left out: there the drivers differ on purpose
/// (`tiny-read`).
const ROOMS: &[usize] = &[0, 4, 8, 24, 40, 71, 72, 75, 76, 77, 79, 80, 84, 96, 148, 152, 156, 160, 300];

/// Sizes of mappings: usual, small enough to run full, none.
const MAPPINGS: &[usize] = &[
    65536,
    65536,
    65536,
    65536,
    65536,
    65536,
    65536,
    65536,
    8192,
    8192,
    4096,
    4096,
    20480,
    20480,
    0,
    0,
    LIBBINDER_MAPPING,
    5000,
    MAX_MAPPING + 8192,
];

#[derive(Debug)]
struct Maker {
    rng: Rng,
    program: Program,
}

/// A thread: process and thread number.
type ThreadId = (usize, usize);

/// Makes the program of a seed, of about `length` steps.
pub fn program(seed: u64, length: usize) -> Program {
    let mut rng = Rng::new(seed);
    let processes = 2 + rng.below(3);
    let threads = 1 + rng.below(3);
    let mut mappings: Vec<_> = (0..processes).map(|_| rng.pick(MAPPINGS)).collect();
    if rng.chance(90) {
        mappings[0] = 65536;
    }
    let program = Program { seed, mappings, threads, steps: Vec::new() };
    let mut maker = Maker { rng, program };
    maker.begin();
    while maker.program.steps.len() < length {
        maker.scene();
    }
    maker.end();
    maker.program
}

impl Maker {
    fn step(&mut self, (process, thread): ThreadId, action: Action) {
        self.program.steps.push(Step { process, thread, action });
    }

    /// A talk as planned, now and then with something unplanned in it.
    fn talk(&mut self, actor: ThreadId, mut commands: Vec<Cmd>, mut room: usize) {
        if self.rng.chance(8) {
            let at = self.rng.below(commands.len() + 1);
            let extra = self.command();
            commands.insert(at, extra);
        }
        let cut = if self.rng.chance(2) { 1 + self.rng.below(12) } else { 0 };
        if self.rng.chance(4) {
            room = self.rng.pick(ROOMS);
        }
        let place = self.place();
        self.step(actor, Action::Talk(Talk { commands, cut, room, place }));
    }

    fn any_thread(&mut self) -> ThreadId {
        let process = self.rng.below(self.program.mappings.len());
        (process, self.thread())
    }

    fn thread(&mut self) -> usize {
        self.rng.below(self.program.threads)
    }

    fn begin(&mut self) {
        if self.rng.chance(95) {
            let ioctl = if self.rng.chance(70) {
                Ioctl::BecomeManager
            } else {
                Ioctl::BecomeManagerExt(Node { ptr: 0x70, cookie: 0x71 }, self.rng.pick(&[0, 0x100, 0x100, 0x17f]))
            };
            self.step((0, 0), Action::Ioctl(ioctl));
        }
        // After the first, empty, read of each thread its reads are as they will be.
        for process in 0..self.program.mappings.len() {
            for thread in 0..self.program.threads {
                if self.rng.chance(85) {
                    let commands = if self.rng.chance(70) { vec![Cmd::EnterLooper] } else { Vec::new() };
                    self.step(
                        (process, thread),
                        Action::Talk(Talk { commands, cut: 0, room: AMPLE, place: Place::Usual }),
                    );
                }
            }
            if self.rng.chance(20) {
                let threads = self.rng.below(3) as u32;
                self.step((process, 0), Action::Ioctl(Ioctl::SetMaxThreads(threads)));
            }
        }
        for process in 1..self.program.mappings.len() {
            if self.rng.chance(70) {
                self.publish(process);
            }
        }
    }

    fn end(&mut self) {
        for process in 0..self.program.mappings.len() {
            for thread in 0..self.program.threads {
                self.step((process, thread), Action::Drain);
            }
        }
    }

    fn scene(&mut self) {
        match self.rng.weighted(&[24, 10, 8, 8, 8, 16, 8, 6, 8, 2, 3, 30, 3]) {
            0 => self.call(2),
            1 => self.one_ways(),
            2 => {
                let process = self.rng.below(self.program.mappings.len());
                self.publish(process);
            }
            3 => self.hand_out(),
            4 => self.watch(),
            5 => {
                let actor = self.any_thread();
                let count = self.rng.below(4);
                let commands = (0..count).map(|_| self.command()).collect();
                let room = if self.rng.chance(70) { AMPLE } else { self.rng.pick(ROOMS) };
                self.talk(actor, commands, room);
            }
            6 => {
                let actor = self.any_thread();
                let ioctl = self.ioctl();
                self.step(actor, Action::Ioctl(ioctl));
            }
            7 => self.read_all(),
            8 => self.freeze(),
            9 => {
                let actor = self.any_thread();
                let action = match self.rng.below(3) {
                    0 => Action::Kill,
                    1 => Action::Close { unmap: true },
                    _ => Action::Close { unmap: false },
                };
                self.step(actor, action);
            }
            10 => {
                let actor = self.any_thread();
                self.step(actor, Action::Poll);
            }
            11 => self.wide_scene(),
            _ => self.step((0, 0), Action::Counts),
        }
    }

    /// Everybody reads, answers and frees.
    fn read_all(&mut self) {
        for process in 0..self.program.mappings.len() {
            let thread = self.thread();
            self.talk((process, thread), Vec::new(), AMPLE);
            if self.rng.chance(60) {
                self.talk((process, thread), vec![Cmd::AnswerAll], 0);
            }
        }
    }

    /// A call from a random thread, most often to the manager, and what is likely to follow.
    fn call(&mut self, depth: usize) {
        let caller = self.any_thread();
        let handle = self.handle();
        let callee = self.callee(handle, caller);
        let load = self.load();
        self.call_between(caller, callee, handle, load, depth);
    }

    fn callee(&mut self, handle: Handle, caller: ThreadId) -> ThreadId {
        let thread = self.thread();
        let processes = self.program.mappings.len();
        match handle {
            Handle::No(0) => (0, thread),
            // The owner of the node is not known before the program runs.
            _ => ((caller.0 + 1 + self.rng.below(processes - 1)) % processes, thread),
        }
    }

    fn call_between(&mut self, caller: ThreadId, callee: ThreadId, handle: Handle, load: Load, depth: usize) {
        let flags = self.flags(0);
        let code = self.rng.below(100) as u32;
        let room = if self.rng.chance(60) { 0 } else { AMPLE };
        self.talk(caller, vec![Cmd::Call { handle, code, flags, load }], room);
        self.talk(callee, Vec::new(), AMPLE);
        if depth > 0 && self.rng.chance(25) {
            let handle = self.handle();
            let next = if self.rng.chance(50) { caller } else { self.callee(handle, callee) };
            let load = self.load();
            self.call_between(callee, next, handle, load, depth - 1);
        }
        if self.rng.chance(90) {
            let mut commands = Vec::new();
            if self.rng.chance(40) {
                commands.push(Cmd::Ref(self.rng.pick(&[Ref::Acquire, Ref::Acquire, Ref::Increfs]), Handle::Recent(0)));
            }
            let load = self.load();
            let flags = self.flags(0);
            commands.push(Cmd::Reply { code: 1, flags, load });
            let at = self.rng.below(commands.len() + 1);
            if self.rng.chance(85) {
                commands.insert(at, Cmd::Free(Buffer::Held(0)));
            }
            let room = if self.rng.chance(50) { AMPLE } else { 0 };
            self.talk(callee, commands, room);
        }
        self.talk(caller, Vec::new(), AMPLE);
        let mut commands = vec![Cmd::AnswerAll];
        if self.rng.chance(30) {
            commands.push(Cmd::Ref(Ref::Acquire, Handle::Recent(0)));
        }
        if self.rng.chance(80) {
            commands.push(Cmd::Free(Buffer::Held(0)));
        }
        self.talk(caller, commands, 0);
    }

    fn one_ways(&mut self) {
        let caller = self.any_thread();
        let handle = self.handle();
        let callee = self.callee(handle, caller);
        for _ in 0..1 + self.rng.below(4) {
            let flags = self.flags(uapi::TF_ONE_WAY);
            let load = self.load();
            let code = self.rng.below(5) as u32;
            let room = if self.rng.chance(50) { AMPLE } else { 0 };
            self.talk(caller, vec![Cmd::Call { handle, code, flags, load }], room);
        }
        for _ in 0..1 + self.rng.below(3) {
            self.talk(callee, Vec::new(), AMPLE);
            if self.rng.chance(80) {
                let room = if self.rng.chance(50) { AMPLE } else { 0 };
                self.talk(callee, vec![Cmd::Free(Buffer::Held(0))], room);
            }
        }
    }

    /// A process hands the manager a node, and the manager keeps it.
    fn publish(&mut self, process: usize) {
        let owner = (process, self.thread());
        let manager = (0, self.thread());
        let object = self.own_node();
        let load = Load { objects: vec![object], ..Load::default() };
        self.talk(owner, vec![Cmd::Call { handle: Handle::No(0), code: 1, flags: 0, load }], 0);
        self.talk(manager, Vec::new(), AMPLE);
        let kept = if self.rng.chance(80) { Ref::Acquire } else { Ref::Increfs };
        let reply = Cmd::Reply { code: 0, flags: 0, load: Load::default() };
        self.talk(manager, vec![Cmd::Ref(kept, Handle::Recent(0)), Cmd::Free(Buffer::Held(0)), reply], AMPLE);
        self.talk(owner, Vec::new(), AMPLE);
        self.talk(owner, vec![Cmd::AnswerAll, Cmd::Free(Buffer::Held(0))], 0);
    }

    /// The manager sends a handle to a process, which keeps it.
    fn hand_out(&mut self) {
        let asker = self.any_thread();
        let manager = (0, self.thread());
        self.talk(asker, vec![Cmd::Call { handle: Handle::No(0), code: 2, flags: 0, load: Load::default() }], 0);
        self.talk(manager, Vec::new(), AMPLE);
        let handle = Object::Handle { handle: Handle::Recent(self.rng.below(3)), weak: self.rng.chance(15) };
        let load = Load { objects: vec![handle], ..Load::default() };
        self.talk(manager, vec![Cmd::Free(Buffer::Held(0)), Cmd::Reply { code: 0, flags: 0, load }], AMPLE);
        self.talk(asker, Vec::new(), AMPLE);
        let kept = if self.rng.chance(80) { Ref::Acquire } else { Ref::Increfs };
        self.talk(asker, vec![Cmd::Ref(kept, Handle::Recent(0)), Cmd::Free(Buffer::Held(0))], AMPLE);
    }

    /// A process requests a death or freeze notification.
    fn watch(&mut self) {
        let actor = self.any_thread();
        let handle = self.handle();
        let cookie = 0xc0 + self.rng.below(4) as u64;
        let command =
            if self.rng.chance(50) { Cmd::RequestDeath(handle, cookie) } else { Cmd::RequestFreeze(handle, cookie) };
        let mut commands = vec![command.clone()];
        if self.rng.chance(25) {
            commands.push(match command {
                Cmd::RequestDeath(..) => Cmd::ClearDeath(handle, Cookie::No(cookie)),
                _ => Cmd::ClearFreeze(handle, Cookie::No(cookie)),
            });
        }
        self.talk(actor, commands, AMPLE);
        if self.rng.chance(25) {
            let process = self.rng.below(self.program.mappings.len());
            self.step((process, 0), Action::Close { unmap: true });
        }
        if self.rng.chance(50) {
            let thread = self.thread();
            self.talk((actor.0, thread), Vec::new(), AMPLE);
            let done = match command {
                Cmd::RequestDeath(..) => Cmd::DeadDone(Cookie::Told),
                _ => Cmd::FreezeDone(Cookie::Told),
            };
            self.talk((actor.0, thread), vec![done], AMPLE);
        }
    }

    /// A process is frozen, is sent transactions, and is thawed.
    fn freeze(&mut self) {
        let actor = self.any_thread();
        let process = self.rng.below(self.program.mappings.len());
        let wait = self.rng.pick(&[0, 0, 1]);
        self.step(actor, Action::Ioctl(Ioctl::Freeze { process: Some(process), enable: 1, wait }));
        for _ in 0..self.rng.below(3) {
            if self.rng.chance(50) {
                self.call(0);
            } else {
                self.one_ways();
            }
        }
        if self.rng.chance(60) {
            self.step(actor, Action::Ioctl(Ioctl::FrozenInfo(Some(process))));
        }
        if self.rng.chance(80) {
            self.step(actor, Action::Ioctl(Ioctl::Freeze { process: Some(process), enable: 0, wait: 0 }));
        }
        if self.rng.chance(50) {
            self.step(actor, Action::Ioctl(Ioctl::FrozenInfo(Some(process))));
        }
    }

    fn handle(&mut self) -> Handle {
        match self.rng.weighted(&[40, 25, 30, 3]) {
            0 => Handle::No(0),
            1 => Handle::No(1 + self.rng.below(4) as u32),
            2 => Handle::Recent(self.rng.below(3)),
            _ => Handle::No(self.rng.pick(&[7, 100, u32::MAX])),
        }
    }

    fn node(&mut self) -> Node {
        let ptr = self.rng.pick(&[0x10, 0x20, 0x20, 0x30, 0x40, 0]);
        let wrong = self.rng.chance(5);
        Node { ptr, cookie: if wrong { 0x999 } else { ptr + 1 } }
    }

    fn own_node(&mut self) -> Object {
        let flags = self.rng.pick(&[0, 0x100, 0x100, 0x100, 0x100, 0x100, 0x100, 0x17f, 0x10a, 0x113, 0x1ff, 0x1100]);
        Object::Binder { node: self.node(), weak: self.rng.chance(15), flags }
    }

    fn flags(&mut self, flags: u32) -> u32 {
        let mut flags = flags;
        for (flag, chance) in [
            (uapi::TF_ACCEPT_FDS, 60),
            (uapi::TF_CLEAR_BUF, 10),
            (uapi::TF_UPDATE_TXN, 10),
            (uapi::TF_STATUS_CODE, 5),
            (uapi::TF_ROOT_OBJECT, 5),
            (uapi::TF_ONE_WAY, 2),
            (0x8000_0000, 1),
        ] {
            if self.rng.chance(chance) {
                flags |= flag;
            }
        }
        flags
    }

    fn load(&mut self) -> Load {
        let head = match self.rng.weighted(&[40, 30, 20, 6, 2, 4]) {
            0 => 0,
            1 => 8,
            2 => self.rng.below(200),
            3 => 1000 + self.rng.below(5000),
            4 => 10_000 + self.rng.below(60_000),
            // The size of a mapping, half of it (the limit of one-way calls), and a little more or less.
            _ => {
                let mapping = self.rng.pick(&self.program.mappings);
                let part = mapping / self.rng.pick(&[1, 1, 2, 2, 4]);
                part.saturating_sub(self.rng.pick(&[0, 0, 8, 16, 4096])) + self.rng.pick(&[0, 0, 0, 8])
            }
        };
        let mut load = Load { head, ..Load::default() };
        if self.rng.chance(55) {
            let count = if self.rng.chance(70) { 1 } else { 2 + self.rng.below(4) };
            for _ in 0..count {
                self.object(&mut load);
            }
        }
        let elsewhere = load.objects.iter().any(|object| matches!(object, Object::Bytes { .. }));
        if elsewhere || self.rng.chance(10) {
            load.sg = Some(if self.rng.chance(90) { 0 } else { self.rng.pick(&[-8, -4, 4, 8, 64, 1 << 40]) });
        }
        if elsewhere {
            // `parent-at-zero`: the drivers differ where such an object is the first thing of all.
            load.head = load.head.max(8);
            if self.rng.chance(3) {
                load.sg = None;
            }
        }
        if self.rng.chance(10) {
            load.damage = Some(self.damage());
        }
        load
    }

    fn object(&mut self, load: &mut Load) {
        let parents: Vec<usize> =
            (0..load.objects.len()).filter(|index| matches!(load.objects[*index], Object::Bytes { .. })).collect();
        let object = match self.rng.weighted(&[30, 30, 15, 15, if parents.is_empty() { 1 } else { 15 }]) {
            0 => self.own_node(),
            1 => Object::Handle { handle: self.handle(), weak: self.rng.chance(20) },
            2 => Object::Fd(if self.rng.chance(92) { Some(self.rng.below(3)) } else { None }),
            3 => {
                let len = self.rng.pick(&[0, 4, 8, 16, 24, 40, 64, 100, 3000]);
                let parent = match (parents.is_empty(), self.rng.chance(60)) {
                    (false, true) => Some((
                        self.rng.pick(&parents),
                        self.rng.pick(&[0, 0, 8, 8, 16, 24, 32, 4, 56, 4096, u64::MAX - 3]),
                    )),
                    (true, true) if self.rng.chance(5) => Some((self.rng.below(4), 0)),
                    _ => None,
                };
                Object::Bytes { len, parent, bad: self.rng.chance(3) }
            }
            _ => {
                let parent = match parents.is_empty() || self.rng.chance(5) {
                    true => self.rng.below(4),
                    false => self.rng.pick(&parents),
                };
                let count = self.rng.pick(&[0, 1, 1, 2, 2, 3, 1000, u64::MAX / 4 + 1]);
                Object::Fds { count, parent, at: self.rng.pick(&[0, 0, 4, 8, 16, 2, 64]) }
            }
        };
        load.objects.push(object);
    }

    fn damage(&mut self) -> Damage {
        let index = self.rng.below(4);
        match self.rng.below(13) {
            0 => Damage::OffsetMisaligned(index),
            12 => Damage::OffsetBefore(index, self.rng.pick(&[4, 8, 16, 24])),
            1 => Damage::OffsetBeyond(index),
            2 => Damage::OffsetTwice(index),
            3 => Damage::OffsetsSwapped,
            4 => Damage::OffsetsCut,
            5 => Damage::OffsetsHuge,
            6 => Damage::OffsetsUnreadable,
            7 => Damage::NoOffsets,
            8 => Damage::UnknownType(index),
            9 => Damage::DataCut,
            10 => Damage::DataHuge(self.rng.pick(&[1 << 20, 1 << 40, u64::MAX - 63])),
            _ => Damage::DataUnreadable,
        }
    }

    fn cookie(&mut self) -> Cookie {
        if self.rng.chance(50) { Cookie::Told } else { Cookie::No(0xc0 + self.rng.below(4) as u64) }
    }

    fn buffer(&mut self) -> Buffer {
        let number = self.rng.below(4);
        match self.rng.weighted(&[70, 12, 10, 8]) {
            0 => Buffer::Held(number),
            1 => Buffer::Freed(number),
            2 => Buffer::Inside(number, self.rng.pick(&[1, 4, 8, 16, 4096])),
            _ => Buffer::At(self.rng.pick(&[0, 8, 4096, 65536, 1 << 30])),
        }
    }

    fn command(&mut self) -> Cmd {
        match self.rng.weighted(&[10, 8, 12, 24, 3, 3, 8, 2, 2, 2, 5, 4, 5, 5, 4, 5, 1, 1, 1]) {
            0 => {
                let flags = self.rng.pick(&[0, uapi::TF_ONE_WAY]);
                let flags = self.flags(flags);
                Cmd::Call { handle: self.handle(), code: 9, flags, load: self.load() }
            }
            1 => Cmd::Reply { code: 8, flags: self.flags(0), load: self.load() },
            2 => Cmd::Free(self.buffer()),
            3 => {
                let which = self.rng.pick(&[Ref::Increfs, Ref::Acquire, Ref::Release, Ref::Decrefs]);
                Cmd::Ref(which, self.handle())
            }
            4 => Cmd::IncrefsDone(self.node()),
            5 => Cmd::AcquireDone(self.node()),
            6 => Cmd::AnswerAll,
            7 => Cmd::RegisterLooper,
            8 => Cmd::EnterLooper,
            9 => Cmd::ExitLooper,
            10 => Cmd::RequestDeath(self.handle(), 0xc0 + self.rng.below(4) as u64),
            11 => Cmd::ClearDeath(self.handle(), self.cookie()),
            12 => Cmd::DeadDone(self.cookie()),
            13 => Cmd::RequestFreeze(self.handle(), 0xc0 + self.rng.below(4) as u64),
            14 => Cmd::ClearFreeze(self.handle(), self.cookie()),
            15 => Cmd::FreezeDone(self.cookie()),
            16 => Cmd::AttemptAcquire,
            17 => Cmd::AcquireResult,
            _ => Cmd::Code(self.rng.pick(&[0, uapi::BR_NOOP, 0x4008_6363, u32::MAX])),
        }
    }

    fn ioctl(&mut self) -> Ioctl {
        let processes = self.program.mappings.len();
        let process = if self.rng.chance(93) { Some(self.rng.below(processes)) } else { None };
        match self.rng.weighted(&[2, 6, 3, 3, 5, 12, 12, 8, 10, 5, 20, 2]) {
            0 => Ioctl::Version,
            1 => Ioctl::SetMaxThreads(self.rng.pick(&[0, 1, 2, 15, u32::MAX])),
            2 => Ioctl::BecomeManager,
            3 => Ioctl::BecomeManagerExt(self.node(), self.rng.pick(&[0, 0x100])),
            4 => Ioctl::ThreadExit,
            5 => Ioctl::NodeDebugInfo(self.rng.pick(&[0, 0x10, 0x20, 0x30, 0x15, u64::MAX])),
            6 => Ioctl::NodeInfoForRef(self.handle(), self.rng.chance(5)),
            7 => Ioctl::Freeze { process, enable: self.rng.below(2) as u32, wait: 0 },
            8 => Ioctl::FrozenInfo(process),
            9 => Ioctl::SpamDetection(self.rng.below(2) as u32),
            10 => Ioctl::ExtendedError,
            _ => Ioctl::Other(self.rng.pick(&[
                uapi::BINDER_SET_IDLE_TIMEOUT,
                uapi::BINDER_SET_IDLE_PRIORITY,
                uapi::BINDER_VERSION ^ 0x1_0000,
                0x6263,
            ])),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::program;
    use crate::program::Action;

    #[test]
    fn a_seed_always_gives_the_same_program() {
        assert_eq!(program(5, 40), program(5, 40));
        assert_ne!(program(5, 40).steps, program(6, 40).steps);
    }

    #[test]
    fn everything_that_can_be_done_is_done() {
        let mut done = HashSet::new();
        for step in (0..400).flat_map(|seed| program(seed, 40).steps) {
            let name = |text: String| text.split([' ', '(']).next().unwrap_or_default().to_owned();
            done.insert(name(format!("{:?}", step.action)));
            match step.action {
                Action::Ioctl(ioctl) => drop(done.insert(name(format!("{ioctl:?}")))),
                Action::Talk(talk) => drop(done.insert(name(format!("{:?}", talk.place)))),
                _ => {}
            }
        }
        for name in [
            "Talk",
            "Ioctl",
            "Poll",
            "Drain",
            "Close",
            "Kill",
            "Open",
            "Switch",
            "Lend",
            "CloseCopy",
            "Map",
            "Unmap",
            "MakeWritable",
            "Peek",
            "Epoll",
            "Nice",
            "User",
            "Counts",
            "Usual",
            "WriteEnd",
            "ReadEnd",
            "WriteNowhere",
            "ReadNowhere",
            "Nowhere",
            "Begun",
            "Version",
            "SetMaxThreads",
            "BecomeManager",
            "BecomeManagerExt",
            "ThreadExit",
            "NodeDebugInfo",
            "NodeInfoForRef",
            "Freeze",
            "FrozenInfo",
            "SpamDetection",
            "ExtendedError",
            "Other",
        ] {
            assert!(done.contains(name), "{name} is never done");
        }
    }

    #[test]
    fn steps_are_of_threads_that_there_are() {
        for seed in 0..200 {
            let program = program(seed, 40);
            assert!(program.steps.len() >= 40);
            let there = |process, thread| process < program.mappings.len() && thread < program.threads;
            assert!(program.steps.iter().all(|step| there(step.process, step.thread)));
        }
    }
}
