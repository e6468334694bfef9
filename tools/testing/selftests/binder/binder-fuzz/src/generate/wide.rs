// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Sequences around calls: files, mappings, users, one-way floods, threads, deaths, bad memory.

use binder_client::uapi;

use super::AMPLE;
use super::MAPPINGS;
use super::Maker;
use super::ThreadId;
use crate::program::Action;
use crate::program::Buffer;
use crate::program::Cmd;
use crate::program::Epoll;
use crate::program::Handle;
use crate::program::Ioctl;
use crate::program::Load;
use crate::program::Map;
use crate::program::Node;
use crate::program::Place;
use crate::program::Ref;

/// Every ioctl that a driver knows.
const REQUESTS: &[u32] = &[
    uapi::BINDER_WRITE_READ,
    uapi::BINDER_SET_MAX_THREADS,
    uapi::BINDER_SET_CONTEXT_MGR,
    uapi::BINDER_VERSION,
    uapi::BINDER_GET_NODE_DEBUG_INFO,
    uapi::BINDER_GET_NODE_INFO_FOR_REF,
    uapi::BINDER_SET_CONTEXT_MGR_EXT,
    uapi::BINDER_FREEZE,
    uapi::BINDER_GET_FROZEN_INFO,
    uapi::BINDER_ENABLE_ONEWAY_SPAM_DETECTION,
    uapi::BINDER_GET_EXTENDED_ERROR,
];

impl Maker {
    /// One of the scenes of this file.
    pub(super) fn wide_scene(&mut self) {
        match self.rng.weighted(&[14, 12, 6, 8, 8, 6, 12, 14, 10]) {
            0 => self.devices(),
            1 => self.memory(),
            2 => self.users(),
            3 => self.flood(),
            4 => self.watch_file(),
            5 => self.nice(),
            6 => self.loopers(),
            7 => self.die_in_call(),
            _ => {
                let actor = self.any_thread();
                let ioctl = self.odd_ioctl();
                self.step(actor, Action::Ioctl(ioctl));
            }
        }
    }

    /// Where a talk's memory is, now and then not where it should be.
    pub(super) fn place(&mut self) -> Place {
        if !self.rng.chance(3) {
            return Place::Usual;
        }
        let bytes = self.rng.pick(&[1, 2, 4, 8, 12, 40, 64, 68, 72]);
        match self.rng.below(8) {
            0 | 1 => Place::WriteEnd(bytes),
            2 | 3 => Place::ReadEnd(bytes),
            4 => Place::WriteNowhere(self.rng.below(3)),
            5 => Place::ReadNowhere(self.rng.below(3)),
            6 => Place::Nowhere(self.rng.below(3)),
            _ => Place::Begun { written: self.rng.pick(&[0, 4, 8, 13]), read: self.rng.pick(&[0, 4, 8, 16]) },
        }
    }

    /// A second device, a device of another process, a device that is closed and opened again.
    fn devices(&mut self) {
        let actor = self.any_thread();
        match self.rng.weighted(&[3, 3, 4, 3, 2]) {
            0 => {
                self.open(actor);
                if self.rng.chance(60) {
                    self.publish(actor.0);
                }
                if self.rng.chance(50) {
                    self.call(1);
                }
                if self.rng.chance(60) {
                    self.step(actor, Action::Switch);
                }
            }
            1 => self.step(actor, Action::Switch),
            2 => {
                let to = self.rng.below(self.program.mappings.len());
                self.step(actor, Action::Lend { to });
                for _ in 0..self.rng.below(3) {
                    self.call(1);
                }
                let borrower = (to, self.thread());
                self.talk(borrower, Vec::new(), AMPLE);
                if self.rng.chance(70) {
                    self.step(borrower, Action::Switch);
                }
            }
            3 => {
                self.step(actor, Action::CloseCopy);
                self.talk(actor, Vec::new(), AMPLE);
            }
            _ => {
                let unmap = self.rng.chance(70);
                self.step(actor, Action::Close { unmap });
                self.open(actor);
                let manage = if self.rng.chance(60) { 0 } else { actor.0 };
                if manage == actor.0 {
                    self.step(actor, Action::Ioctl(Ioctl::BecomeManager));
                }
                self.publish(actor.0);
            }
        }
    }

    fn open(&mut self, actor: ThreadId) {
        let mapping = self.rng.pick(MAPPINGS);
        self.step(actor, Action::Open { mapping });
        // Its first read tells nothing.
        self.talk(actor, vec![Cmd::EnterLooper], AMPLE);
    }

    /// What a mapping holds, and how it can be had.
    fn memory(&mut self) {
        let actor = self.any_thread();
        match self.rng.weighted(&[6, 3, 1, 2]) {
            0 => {
                // What is left of a buffer that was given back.
                let manager = (0, self.thread());
                let flags = self.rng.pick(&[0, uapi::TF_CLEAR_BUF]);
                let load = self.load();
                self.talk(actor, vec![Cmd::Call { handle: Handle::No(0), code: 3, flags, load }], 0);
                self.talk(manager, Vec::new(), AMPLE);
                let len = self.rng.pick(&[8, 64, 4096, 20000]);
                self.step(manager, Action::Peek { buffer: Buffer::Held(0), len });
                let reply = Cmd::Reply { code: 0, flags, load: self.load() };
                self.talk(manager, vec![Cmd::Free(Buffer::Held(0)), reply], AMPLE);
                self.step(manager, Action::Peek { buffer: Buffer::Freed(0), len });
                self.talk(actor, Vec::new(), AMPLE);
                self.talk(actor, vec![Cmd::Free(Buffer::Held(0))], 0);
                self.step(actor, Action::Peek { buffer: Buffer::Freed(0), len });
            }
            1 => {
                let len = self.rng.pick(&[1, 4096, 8192, 65536]);
                let how = self.rng.pick(&[Map::Usual, Map::Shared, Map::Writable, Map::Offset]);
                self.step(actor, Action::Map { len, how });
            }
            2 => {
                self.step(actor, Action::Unmap);
                if self.rng.chance(50) {
                    self.step(actor, Action::Map { len: 65536, how: Map::Usual });
                }
            }
            _ => self.step(actor, Action::MakeWritable),
        }
    }

    /// A process is not root for a while.
    fn users(&mut self) {
        let actor = self.any_thread();
        let user = self.rng.pick(&[1000, 1000, 65534]);
        self.step(actor, Action::User(user));
        for _ in 0..1 + self.rng.below(2) {
            match self.rng.below(5) {
                0 => self.open(actor),
                1 => self.step(actor, Action::Ioctl(Ioctl::BecomeManager)),
                2 => {
                    let ioctl = self.ioctl();
                    self.step(actor, Action::Ioctl(ioctl));
                }
                _ => {
                    let handle = self.handle();
                    let callee = self.callee(handle, actor);
                    let load = self.load();
                    self.call_between(actor, callee, handle, load, 0);
                }
            }
        }
        if self.rng.chance(70) {
            self.step(actor, Action::User(0));
        }
    }

    /// More one-way calls than their receiver reads.
    fn flood(&mut self) {
        let actor = self.any_thread();
        let handle = self.handle();
        let callee = self.callee(handle, actor);
        if self.rng.chance(80) {
            self.step(actor, Action::Ioctl(Ioctl::SpamDetection(1)));
        }
        let head = self.rng.pick(&[0, 8, 100, 1000, 4000]);
        let flags = uapi::TF_ONE_WAY | self.rng.pick(&[0, 0, uapi::TF_UPDATE_TXN]);
        for _ in 0..2 + self.rng.below(6) {
            let load = Load { head, ..Load::default() };
            let one = Cmd::Call { handle, code: 7, flags, load };
            let count = 1 + self.rng.below(14);
            let room = if self.rng.chance(80) { AMPLE } else { 0 };
            self.talk(actor, vec![one; count], room);
            if self.rng.chance(30) {
                self.talk(callee, Vec::new(), AMPLE);
                self.talk(callee, vec![Cmd::Free(Buffer::Held(0))], AMPLE);
            }
        }
        self.talk(actor, Vec::new(), AMPLE);
    }

    /// A thread waits in epoll instead of reading.
    fn watch_file(&mut self) {
        let actor = self.any_thread();
        let edge = self.rng.chance(50);
        self.step(actor, Action::Epoll(Epoll::Watch { edge }));
        self.step(actor, Action::Epoll(Epoll::Wait));
        match self.rng.below(4) {
            0 => self.one_ways(),
            1 => self.publish(actor.0),
            2 => self.watch(),
            _ => self.call(1),
        }
        let looks = (actor.0, self.thread());
        self.step(looks, Action::Epoll(Epoll::Wait));
        self.step(actor, Action::Epoll(Epoll::Wait));
        self.talk(actor, Vec::new(), AMPLE);
        self.step(actor, Action::Epoll(Epoll::Wait));
        if self.rng.chance(30) {
            self.step(actor, Action::Epoll(Epoll::Forget));
        }
        if self.rng.chance(30) {
            self.step(actor, Action::Ioctl(Ioctl::ThreadExit));
            self.step(actor, Action::Epoll(Epoll::Wait));
        }
    }

    /// Nice values, and how a receiver inherits that of its caller.
    fn nice(&mut self) {
        let actor = self.any_thread();
        let nice = self.rng.pick(&[-20, -10, -1, 1, 5, 10, 19]);
        self.step(actor, Action::Nice(nice));
        if self.rng.chance(30) {
            let other = self.any_thread();
            let nice = self.rng.pick(&[-5, 7]);
            self.step(other, Action::Nice(nice));
        }
        let handle = self.handle();
        let callee = self.callee(handle, actor);
        let load = self.load();
        self.call_between(actor, callee, handle, load, 2);
        if self.rng.chance(70) {
            self.step(actor, Action::Nice(0));
        }
    }

    /// Threads that are asked for, and threads that come by themselves.
    fn loopers(&mut self) {
        let process = self.rng.below(self.program.mappings.len());
        let actor = (process, self.thread());
        let threads = self.rng.pick(&[0, 1, 2, 15]);
        self.step(actor, Action::Ioctl(Ioctl::SetMaxThreads(threads)));
        for _ in 0..1 + self.rng.below(3) {
            let thread = (process, self.thread());
            let enter = match self.rng.below(4) {
                0 => Cmd::RegisterLooper,
                1 => Cmd::ExitLooper,
                _ => Cmd::EnterLooper,
            };
            self.talk(thread, vec![enter], AMPLE);
            if self.rng.chance(50) {
                self.talk(thread, Vec::new(), AMPLE);
            }
            if self.rng.chance(10) {
                self.step(thread, Action::Ioctl(Ioctl::ThreadExit));
            }
        }
        if self.rng.chance(50) {
            self.one_ways();
        }
    }

    /// A process dies in the middle of a call; other processes have requested death notifications.
    fn die_in_call(&mut self) {
        let caller = self.any_thread();
        let handle = self.handle();
        let callee = self.callee(handle, caller);
        let watcher = self.any_thread();
        if self.rng.chance(60) {
            let cookie = 0xd0 + self.rng.below(4) as u64;
            let handle = self.handle();
            let commands = vec![Cmd::Ref(Ref::Acquire, handle), Cmd::RequestDeath(handle, cookie)];
            self.talk(watcher, commands, AMPLE);
        }
        let load = self.load();
        let code = self.rng.below(9) as u32;
        self.talk(caller, vec![Cmd::Call { handle, code, flags: 0, load }], 0);
        if self.rng.chance(70) {
            self.talk(callee, Vec::new(), AMPLE);
        }
        let next = self.any_thread();
        if self.rng.chance(50) {
            let handle = self.handle();
            let load = self.load();
            self.talk(callee, vec![Cmd::Call { handle, code: 1, flags: 0, load }], 0);
            self.talk(next, Vec::new(), AMPLE);
        }
        let victim = self.rng.pick(&[caller, callee, next]);
        let action = match self.rng.below(5) {
            0 => Action::Kill,
            1 => Action::Close { unmap: true },
            2 => Action::Close { unmap: false },
            3 => Action::Unmap,
            _ => Action::Ioctl(Ioctl::ThreadExit),
        };
        self.step(victim, action);
        for survivor in [next, callee, caller] {
            if self.rng.chance(30) {
                let load = self.load();
                self.talk(survivor, vec![Cmd::Reply { code: 0, flags: 0, load }], AMPLE);
            } else {
                self.talk(survivor, Vec::new(), AMPLE);
            }
        }
        self.talk(watcher, Vec::new(), AMPLE);
    }

    /// Requests of any number and size, and addresses that lead nowhere.
    fn odd_ioctl(&mut self) -> Ioctl {
        if self.rng.chance(30) {
            return Ioctl::Nowhere(self.rng.pick(REQUESTS), self.rng.below(3));
        }
        if self.rng.chance(20) {
            return Ioctl::BecomeManagerExt(Node { ptr: 0x70, cookie: 0x71 }, 0x1100);
        }
        let size = self.rng.pick(&[0, 1, 4, 8, 12, 16, 24, 32, 48, 52, 16383]);
        let request = match self.rng.below(3) {
            // A known number with another size.
            0 => self.rng.pick(REQUESTS) & !0x3fff_0000 | (size << 16),
            1 => self.rng.pick(REQUESTS) ^ 0x4000_0000,
            _ => ((self.rng.below(4) as u32) << 30) | (size << 16) | 0x6200 | self.rng.below(24) as u32,
        };
        if request == uapi::BINDER_WRITE_READ { Ioctl::Version } else { Ioctl::Other(request) }
    }
}
