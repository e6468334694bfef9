// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! The reference counts of a node: a state machine without locks or lists.
//!
//! A node stands for an object in its owner's user space. The driver counts the references to it. It tells the owner
//! only when the first reference is added and the last one is removed, for strong and for weak references. The owner
//! acknowledges `BR_INCREFS` and `BR_ACQUIRE`. Until then the driver holds a local count, so that an acknowledgement
//! cannot cross a release.

use kernel::prelude::*;

use crate::sums::{
    decrement,
    increment, //
};

/// The counts of one node.
#[derive(Default)]
pub(crate) struct Counts {
    /// References of all processes.
    handles: usize,
    /// References of all processes that have a strong count.
    strong_refs: usize,
    /// Strong counts of the owner's own: buffers in its mapping, and acknowledgements that are due.
    local_strong: usize,
    /// Weak counts of the owner's own.
    local_weak: usize,
    strong: Told,
    weak: Told,
    /// The node of a context manager, which any process may acquire at any time.
    manager: bool,
    /// The owner is dead. Local counts are 0 and stay so: buffers that hold some may be freed later.
    orphaned: bool,
}

/// What the owner was told about one kind of reference.
#[derive(Default)]
struct Told {
    /// The owner was told to acquire, and not yet to release.
    acquired: bool,
    /// The owner has yet to acknowledge that.
    pending: bool,
}

/// What the owner is to be told, in the order of the fields: weak before strong when acquired, after it when released.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Changes {
    /// `BR_INCREFS`.
    pub(crate) increfs: bool,
    /// `BR_ACQUIRE`.
    pub(crate) acquire: bool,
    /// `BR_RELEASE`.
    pub(crate) release: bool,
    /// `BR_DECREFS`.
    pub(crate) decrefs: bool,
    /// The node has no references left and goes.
    pub(crate) gone: bool,
}

/// Why counts were not changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotCounted;

impl Counts {
    /// The node becomes a context manager's: the owner is taken to hold it as long as it is the manager, and has
    /// nothing to acknowledge.
    pub(crate) fn become_manager(&mut self) {
        increment(&mut self.local_strong);
        increment(&mut self.local_weak);
        self.strong.acquired = true;
        self.weak.acquired = true;
        self.manager = true;
    }

    fn any_strong(&self) -> bool {
        self.local_strong != 0 || self.strong_refs != 0
    }

    fn any_weak(&self) -> bool {
        self.local_weak != 0 || self.handles != 0 || self.any_strong()
    }

    /// Whether the owner has to be told of a strong reference.
    pub(crate) fn needs_acquire(&self) -> bool {
        self.any_strong() && !self.strong.acquired
    }

    /// Whether what the owner was told differs from the counts.
    pub(crate) fn is_stale(&self) -> bool {
        self.any_strong() != self.strong.acquired || self.any_weak() != self.weak.acquired
    }

    /// Whether the node has no references.
    pub(crate) fn is_unused(&self) -> bool {
        !self.any_weak()
    }

    /// Adds a local count.
    pub(crate) fn add_local(&mut self, strong: bool) {
        if self.orphaned {
            return;
        }
        if strong {
            increment(&mut self.local_strong);
        } else {
            increment(&mut self.local_weak);
        }
    }

    /// Whether no weak count is left, so that the owner may have to be told. As with the C driver the node is queued
    /// even if a strong count is left. If that one goes before the owner reads, both are told at this place in the
    /// queue.
    fn is_weakly_free(&self) -> bool {
        self.local_weak == 0 && self.handles == 0
    }

    /// Removes a local count. Returns whether the owner may have to be told.
    pub(crate) fn remove_local(&mut self, strong: bool) -> bool {
        if self.orphaned {
            return false;
        }
        if strong {
            decrement(&mut self.local_strong);
            !self.any_strong()
        } else {
            decrement(&mut self.local_weak);
            self.is_weakly_free()
        }
    }

    /// Whether a reference may get its first count of this kind from a process other than the owner. The owner must
    /// know of the node already. Otherwise it would be told too late.
    pub(crate) fn can_add_ref(&self, strong: bool) -> bool {
        if strong {
            self.strong_refs != 0 || (self.manager && self.strong.acquired)
        } else {
            self.weak.acquired
        }
    }

    /// Adds a reference of a process.
    pub(crate) fn add_ref(&mut self) {
        increment(&mut self.handles);
    }

    /// A reference has got its first strong count.
    pub(crate) fn add_strong_ref(&mut self) {
        increment(&mut self.strong_refs);
    }

    /// A reference has lost its last strong count. Returns whether the owner may have to be told.
    pub(crate) fn remove_strong_ref(&mut self) -> bool {
        decrement(&mut self.strong_refs);
        !self.any_strong()
    }

    /// Removes a reference of a process. Returns whether the owner may have to be told.
    pub(crate) fn remove_ref(&mut self) -> bool {
        decrement(&mut self.handles);
        self.is_weakly_free()
    }

    /// The owner died. Only references of other processes are left, and no process is to be told.
    pub(crate) fn forget_owner(&mut self) {
        self.orphaned = true;
        self.local_strong = 0;
        self.local_weak = 0;
        self.strong = Told::default();
        // A process with a weak handle may pass it on: no owner has to be told in time.
        self.weak = Told {
            acquired: true,
            pending: false,
        };
    }

    /// Returns what the owner is to be told, and records it as told.
    pub(crate) fn tell(&mut self) -> Changes {
        let (strong, weak) = (self.any_strong(), self.any_weak());
        let mut changes = Changes::default();
        if weak && !self.weak.acquired {
            self.weak = Told {
                acquired: true,
                pending: true,
            };
            increment(&mut self.local_weak);
            changes.increfs = true;
        }
        if strong && !self.strong.acquired {
            self.strong = Told {
                acquired: true,
                pending: true,
            };
            increment(&mut self.local_strong);
            changes.acquire = true;
        }
        if !strong && self.strong.acquired {
            self.strong.acquired = false;
            changes.release = true;
        }
        if !weak && self.weak.acquired {
            self.weak.acquired = false;
            changes.decrefs = true;
        }
        changes.gone = !weak && !strong;
        changes
    }

    /// The owner acknowledges that it has acquired the node. Returns whether the owner may have to be told something.
    ///
    /// # Errors
    ///
    /// If the owner was not told to acquire it, or has acknowledged before.
    pub(crate) fn acknowledge(&mut self, strong: bool) -> Result<bool, NotCounted> {
        let told = if strong {
            &mut self.strong
        } else {
            &mut self.weak
        };
        if !core::mem::replace(&mut told.pending, false) {
            return Err(NotCounted);
        }
        Ok(self.remove_local(strong))
    }

    /// What the owner was told to hold: strongly, weakly.
    pub(crate) fn told(&self) -> (bool, bool) {
        (self.strong.acquired, self.weak.acquired)
    }

    /// All strong references, and the local weak ones, which is what the C driver reports.
    pub(crate) fn totals(&self) -> (usize, usize) {
        (
            self.local_strong.saturating_add(self.strong_refs),
            self.local_weak,
        )
    }

    /// For the logs: handles, strong handles, local strong, local weak.
    pub(crate) fn figures(&self) -> [usize; 4] {
        [
            self.handles,
            self.strong_refs,
            self.local_strong,
            self.local_weak,
        ]
    }
}

#[kunit_tests(binder_counts)]
mod tests {
    use super::*;

    /// What the owner is told, in the order in which it is told.
    fn told(changes: &Changes) -> [bool; 4] {
        [
            changes.increfs,
            changes.acquire,
            changes.release,
            changes.decrefs,
        ]
    }

    #[test]
    fn a_strong_handle_comes_and_goes() {
        let mut counts = Counts::default();
        counts.add_ref();
        counts.add_strong_ref();
        assert!(counts.needs_acquire());
        assert_eq!(told(&counts.tell()), [true, true, false, false]);
        assert!(!counts.is_stale());
        assert_eq!(counts.acknowledge(false), Ok(false));
        assert_eq!(counts.acknowledge(true), Ok(false));
        assert!(counts.remove_strong_ref());
        assert!(counts.remove_ref());
        let changes = counts.tell();
        assert_eq!(told(&changes), [false, false, true, true]);
        assert!(changes.gone);
    }

    #[test]
    fn a_weak_handle_asks_for_weak_alone() {
        let mut counts = Counts::default();
        counts.add_ref();
        assert!(!counts.needs_acquire());
        assert_eq!(told(&counts.tell()), [true, false, false, false]);
        assert_eq!(counts.told(), (false, true));
        // A strong reference needs one that is there already.
        assert!(!counts.can_add_ref(true));
        assert!(counts.can_add_ref(false));
    }

    #[test]
    fn an_acknowledgement_that_is_due_holds_the_node() {
        let mut counts = Counts::default();
        counts.add_ref();
        counts.add_strong_ref();
        counts.tell();
        // The reference goes before the owner has acknowledged: nothing may be released yet.
        assert!(!counts.remove_strong_ref());
        assert!(!counts.remove_ref());
        assert!(!counts.is_stale());
        // The acknowledgements come in the order of what was told. After the first the owner reads nothing; after the
        // second it reads the releases.
        assert_eq!(counts.acknowledge(false), Ok(true));
        assert_eq!(told(&counts.tell()), [false; 4]);
        assert_eq!(counts.acknowledge(true), Ok(true));
        let changes = counts.tell();
        assert_eq!(told(&changes), [false, false, true, true]);
        assert!(changes.gone);
    }

    #[test]
    fn what_was_not_told_is_not_acknowledged() {
        let mut counts = Counts::default();
        assert_eq!(counts.acknowledge(true), Err(NotCounted));
        counts.add_ref();
        counts.tell();
        assert_eq!(counts.acknowledge(true), Err(NotCounted));
        assert_eq!(counts.acknowledge(false), Ok(false));
        assert_eq!(counts.acknowledge(false), Err(NotCounted));
    }

    #[test]
    fn what_comes_back_before_it_was_told_is_not_told() {
        let mut counts = Counts::default();
        counts.add_ref();
        counts.add_strong_ref();
        counts.tell();
        assert_eq!(counts.acknowledge(true), Ok(false));
        assert_eq!(counts.acknowledge(false), Ok(false));
        assert!(counts.remove_strong_ref());
        counts.add_strong_ref();
        assert_eq!(told(&counts.tell()), [false; 4]);
    }

    #[test]
    fn a_buffer_holds_the_node() {
        let mut counts = Counts::default();
        counts.add_ref();
        counts.add_strong_ref();
        counts.tell();
        assert_eq!(counts.acknowledge(false), Ok(false));
        assert_eq!(counts.acknowledge(true), Ok(false));
        counts.add_local(true);
        assert!(!counts.remove_strong_ref());
        // The node is queued, and the owner reads nothing.
        assert!(counts.remove_ref());
        assert_eq!(told(&counts.tell()), [false; 4]);
        assert!(!counts.is_unused());
        assert!(counts.remove_local(true));
        assert!(counts.tell().gone);
    }

    #[test]
    fn a_manager_is_held_and_owes_nothing() {
        let mut counts = Counts::default();
        counts.become_manager();
        assert!(!counts.is_stale());
        assert!(counts.can_add_ref(true));
        counts.add_ref();
        counts.add_strong_ref();
        assert_eq!(told(&counts.tell()), [false; 4]);
        assert_eq!(counts.acknowledge(true), Err(NotCounted));
    }

    #[test]
    fn without_an_owner_nobody_is_told() {
        let mut counts = Counts::default();
        counts.add_ref();
        counts.add_strong_ref();
        counts.tell();
        counts.forget_owner();
        assert_eq!(counts.acknowledge(false), Err(NotCounted));
        assert_eq!(counts.acknowledge(true), Err(NotCounted));
        assert!(counts.remove_strong_ref() || !counts.is_unused());
        counts.remove_ref();
        assert!(counts.is_unused());
    }

    #[test]
    fn without_an_owner_weak_handles_come_from_weak_ones() {
        // Whether it ever was told or not.
        for told in [false, true] {
            let mut counts = Counts::default();
            counts.add_ref();
            if told {
                counts.tell();
            }
            assert_eq!(counts.can_add_ref(false), told);
            counts.forget_owner();
            assert!(counts.can_add_ref(false));
            assert!(!counts.can_add_ref(true));
        }
    }

    #[test]
    fn local_counts_may_be_given_back_after_the_owner_died() {
        let mut counts = Counts::default();
        counts.add_local(true);
        counts.add_local(false);
        counts.forget_owner();
        counts.add_local(true);
        for strong in [true, false, true] {
            assert!(!counts.remove_local(strong));
        }
        assert_eq!(counts.figures(), [0; 4]);
        counts.add_ref();
        assert_eq!(counts.figures(), [1, 0, 0, 0]);
    }

    /// Compares with a model without states, which counts the references of each kind.
    #[test]
    fn long_histories_agree_with_a_model() {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..200 {
            let mut counts = Counts::default();
            let (mut handles, mut strong_refs, mut local) = (0usize, 0usize, [0usize; 2]);
            // What the owner holds, and what it has yet to answer: weak, strong.
            let (mut held, mut due) = ([false; 2], [false; 2]);
            for _ in 0..200 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                match random % 9 {
                    0 => {
                        counts.add_ref();
                        handles += 1;
                    }
                    1 if handles > strong_refs => {
                        counts.add_strong_ref();
                        strong_refs += 1;
                    }
                    2 if strong_refs > 0 => {
                        counts.remove_strong_ref();
                        strong_refs -= 1;
                    }
                    3 if handles > strong_refs => {
                        counts.remove_ref();
                        handles -= 1;
                    }
                    4 | 5 => {
                        let strong = random % 9 == 5;
                        counts.add_local(strong);
                        local[usize::from(strong)] += 1;
                    }
                    6 | 7 => {
                        let strong = random % 9 == 7;
                        if local[usize::from(strong)] > 0 {
                            counts.remove_local(strong);
                            local[usize::from(strong)] -= 1;
                        } else if due[usize::from(strong)] {
                            assert!(counts.acknowledge(strong).is_ok());
                            due[usize::from(strong)] = false;
                        } else {
                            assert_eq!(counts.acknowledge(strong), Err(NotCounted));
                        }
                    }
                    _ => {
                        let strong = strong_refs + local[1] > 0 || due[1];
                        let weak = strong || handles + local[0] > 0 || due[0];
                        let changes = counts.tell();
                        assert_eq!(
                            told(&changes),
                            [
                                weak && !held[0],
                                strong && !held[1],
                                !strong && held[1],
                                !weak && held[0],
                            ]
                        );
                        assert_eq!(changes.gone, !weak);
                        due = [due[0] || changes.increfs, due[1] || changes.acquire];
                        held = [weak, strong];
                        assert!(!counts.is_stale());
                    }
                }
            }
        }
    }
}
