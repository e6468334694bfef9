// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Which process has which open file of the device, in the course of a program.
//!
//! An open file is released when its last descriptor and its last mapping are gone. The C driver finishes the release
//! later; the fuzzer has to know of each release to wait for it.

use std::collections::HashSet;

use crate::program::Action;
use crate::program::Step;

/// A device that a process works on.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The open file's number.
    file: usize,
    /// The process has a mapping of it.
    mapped: bool,
}

/// The files of all processes.
#[derive(Debug)]
pub struct Files {
    next: usize,
    processes: Vec<Holds>,
}

/// What a process holds.
#[derive(Clone, Debug, Default)]
struct Holds {
    current: Option<Slot>,
    other: Option<Slot>,
    /// Files of which there is a mapping but no descriptor.
    orphans: Vec<usize>,
}

impl Holds {
    /// Returns whether this drops a device.
    fn work_on(&mut self, slot: Slot) -> bool {
        match self.current.replace(slot) {
            Some(before) => self.other.replace(before).is_some(),
            None => false,
        }
    }
}

impl Files {
    /// No process has an open file.
    pub fn new(processes: usize) -> Self {
        Self { next: 0, processes: vec![Holds::default(); processes] }
    }

    /// A process has opened the device. Returns whether it has closed another for it.
    pub fn opened(&mut self, process: usize, mapped: bool) -> bool {
        let file = self.next;
        self.next += 1;
        self.processes[process].work_on(Slot { file, mapped })
    }

    /// How many files are open.
    pub fn alive(&self) -> usize {
        let held = |holds: &Holds| {
            let slots = holds.current.into_iter().chain(holds.other).map(|slot| slot.file);
            slots.chain(holds.orphans.iter().copied()).collect::<Vec<_>>()
        };
        self.processes.iter().flat_map(held).collect::<HashSet<_>>().len()
    }

    /// Notes what a step has done. Returns whether it has closed a descriptor or a mapping.
    pub fn after(&mut self, step: &Step, came: &str) -> bool {
        let holds = &mut self.processes[step.process];
        match (&step.action, came) {
            (Action::Open { .. }, _) if came.starts_with("open") => {
                return self.opened(step.process, came.ends_with("mapped"));
            }
            (Action::Lend { to }, "taken") => {
                let lent = holds.current;
                return lent.is_some_and(|slot| self.processes[*to].work_on(Slot { mapped: false, ..slot }));
            }
            (Action::Switch, "switched") => std::mem::swap(&mut holds.current, &mut holds.other),
            (Action::Close { unmap }, "closed") => {
                let closed = holds.current.take();
                holds.orphans.extend(closed.filter(|slot| slot.mapped && !unmap).map(|slot| slot.file));
                return true;
            }
            (Action::Map { .. }, "mapped") => holds.current.iter_mut().for_each(|slot| slot.mapped = true),
            (Action::Unmap, "unmapped") => holds.current.iter_mut().for_each(|slot| slot.mapped = false),
            (Action::CloseCopy, "copied") => return true,
            (Action::Kill, "killed") => {
                *holds = Holds::default();
                return true;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(process: usize, action: Action) -> Step {
        Step { process, thread: 0, action }
    }

    #[test]
    fn a_file_lives_as_long_as_anybody_holds_it() {
        let mut files = Files::new(2);
        files.opened(0, true);
        files.opened(1, false);
        assert_eq!(files.alive(), 2);
        assert!(!files.after(&step(0, Action::Lend { to: 1 }), "taken"));
        // Closed with its mapping by the one, still open at the other.
        assert!(files.after(&step(0, Action::Close { unmap: true }), "closed"));
        assert_eq!(files.alive(), 2);
        assert!(files.after(&step(1, Action::Close { unmap: true }), "closed"));
        assert_eq!(files.alive(), 1);
        assert!(!files.after(&step(1, Action::Switch), "switched"));
        assert!(files.after(&step(1, Action::Close { unmap: true }), "closed"));
        assert_eq!(files.alive(), 0);
    }

    #[test]
    fn a_mapping_holds_a_file() {
        let mut files = Files::new(1);
        files.opened(0, true);
        assert!(files.after(&step(0, Action::Close { unmap: false }), "closed"));
        assert_eq!(files.alive(), 1);
        assert!(files.after(&step(0, Action::Kill), "killed"));
        assert_eq!(files.alive(), 0);
    }

    #[test]
    fn the_third_device_drops_the_first() {
        let mut files = Files::new(1);
        files.opened(0, true);
        assert!(!files.after(&step(0, Action::Open { mapping: 4096 }), "open, mapped"));
        assert!(files.after(&step(0, Action::Open { mapping: 0 }), "open"));
        assert_eq!(files.alive(), 2);
    }
}
