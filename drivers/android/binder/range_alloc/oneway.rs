// SPDX-License-Identifier: GPL-2.0

//! The share of a mapping that one-way calls may take, and which sender takes too much of it.
//!
//! No thread waits for a one-way call, so one sender can fill the mapping of a slow receiver and lock out
//! everybody else. Therefore one-way calls have half of the mapping, and the sender that floods it is
//! told so while there still is some room.

#![forbid(unsafe_code)]

use kernel::prelude::*;

use super::Live;

/// A sender with more one-way ranges than this is suspect when one-way space is short.
const MAX_RANGES: usize = 50;

/// Into how many groups senders are sorted, by their pid.
const GROUPS: usize = 32;

/// The one-way ranges of a group of senders.
#[derive(Clone, Copy)]
struct Group {
    ranges: u32,
    bytes: u32,
}

/// What one-way calls have left of a mapping.
///
/// # Invariants
///
/// `groups` has the number and the lengths of all one-way ranges, each in the group of its sender.
pub(super) struct OnewaySpace {
    mapping: u32,
    left: u32,
    groups: [Group; GROUPS],
    /// A suspect was reported, and no reservation has found enough room since.
    reported: bool,
}

impl OnewaySpace {
    /// One-way calls have half of a mapping of `mapping` bytes.
    pub(super) fn new(mapping: u32) -> Self {
        Self {
            mapping,
            left: mapping / 2,
            // INVARIANT: There are no ranges.
            groups: [Group {
                ranges: 0,
                bytes: 0,
            }; GROUPS],
            reported: false,
        }
    }

    pub(super) fn left(&self) -> u32 {
        self.left
    }

    /// Whether nothing of it is taken.
    pub(super) fn is_whole(&self) -> bool {
        self.left == self.mapping / 2
    }

    /// Takes `size` bytes away for `pid`, and says how the sender is to be looked at: it is when less than a
    /// fifth is left and no sender was reported since that has been so.
    ///
    /// A look takes time in proportion to the number of ranges. Mostly the group of the sender shows that there is
    /// no need: where all of it together has not too many ranges, none of it has.
    pub(super) fn charge(&mut self, pid: i32, size: u32) -> Option<Inquiry> {
        self.left = self.left.saturating_sub(size);
        let inquiry = self.inquiry(pid, size);
        let mut clear = false;
        if let Some(group) = self.group(pid) {
            // INVARIANT: The new range is added to the group of its sender.
            group.ranges = group.ranges.saturating_add(1);
            group.bytes = group.bytes.saturating_add(size);
            clear = inquiry.allows(group);
        }
        // A tenth of the mapping is a fifth of the half.
        let short = self.left < self.mapping / 10;
        self.reported &= short;

        (short && !self.reported && !clear).then_some(inquiry)
    }

    /// Gives `size` bytes of `pid` back.
    pub(super) fn refund(&mut self, pid: i32, size: u32) {
        self.left = self.left.saturating_add(size);
        if let Some(group) = self.group(pid) {
            // INVARIANT: The range was in the group of its sender.
            group.ranges = group.ranges.saturating_sub(1);
            group.bytes = group.bytes.saturating_sub(size);
        }
    }

    /// The group of `pid`, which is always there.
    fn group(&mut self, pid: i32) -> Option<&mut Group> {
        // CAST: Any fixed number will do, and a pid is not negative.
        self.groups.get_mut(pid as usize % GROUPS)
    }

    /// A sender is suspect: whether it is to be reported, which is so once until there is room again.
    pub(super) fn report(&mut self) -> bool {
        !core::mem::replace(&mut self.reported, true)
    }

    /// Begins to look whether `pid`, whose latest range has `latest` bytes, has too many of them.
    fn inquiry(&self, pid: i32, latest: u32) -> Inquiry {
        Inquiry {
            pid,
            next: 0,
            ranges_left: MAX_RANGES.saturating_add(1),
            bytes_left: (self.mapping / 4).saturating_add(latest) as usize,
        }
    }
}

/// What is known so far of the one-way ranges of one sender.
///
/// They are counted from the lowest offset to the highest, and what comes and goes meanwhile counts or does not: this
/// is a guess about which sender floods, and not a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inquiry {
    pid: i32,
    /// Ranges below this have been looked at.
    next: usize,
    /// What the sender may have yet, the latest range included, which does not count.
    ranges_left: usize,
    bytes_left: usize,
}

impl Inquiry {
    /// Where to go on.
    pub(super) fn next(&self) -> usize {
        self.next
    }

    /// Whether a sender may have all ranges of this group, with nothing counted yet.
    fn allows(&self, group: &Group) -> bool {
        // CAST: Widening: the driver runs on 64-bit kernels only.
        group.ranges as usize <= self.ranges_left && group.bytes as usize <= self.bytes_left
    }

    /// Counts the next range. Returns whether the sender has too many.
    pub(super) fn add<T>(&mut self, live: &Live<'_, T>) -> bool {
        self.next = live.offset.saturating_add(1);
        if !live.oneway || live.pid != self.pid {
            return false;
        }
        let ranges = self.ranges_left.checked_sub(1);
        let bytes = self.bytes_left.checked_sub(live.size);
        let (Some(ranges), Some(bytes)) = (ranges, bytes) else {
            return true;
        };
        (self.ranges_left, self.bytes_left) = (ranges, bytes);
        false
    }
}

#[kunit_tests(binder_range_alloc_oneway)]
mod tests {
    use super::*;

    use super::super::{
        model::{
            free,
            oneway,
            reserve,
            sync, //
        },
        RangeAllocator,
        ReserveError, //
    };

    #[test]
    fn oneway_calls_have_half() -> Result {
        let mut ranges = RangeAllocator::<()>::new(4096);
        let full = |free| Err(ReserveError::NoOnewaySpace { free });
        assert_eq!(ranges.reserve(&oneway(4096 / 2 + 1, 1)), full(4096 / 2));
        reserve(&mut ranges, oneway(4096 / 2 - 8, 1))?;
        reserve(&mut ranges, oneway(1, 1))?;
        assert_eq!(ranges.reserve(&oneway(0, 1)), full(0));
        reserve(&mut ranges, sync(4096 / 2))?;
        free(&mut ranges, 0)?;
        assert_eq!(ranges.oneway_space(), 4096 / 2 - 8);
        free(&mut ranges, 4096 / 2)?;
        assert_eq!(ranges.oneway_space(), 4096 / 2 - 8);
        Ok(())
    }

    #[test]
    fn the_only_oneway_range_is_known() -> Result {
        let mut ranges = RangeAllocator::<()>::new(4096);
        assert!(!reserve(&mut ranges, sync(8))?.only_oneway);
        let first = reserve(&mut ranges, oneway(8, 1))?;
        assert!(first.only_oneway);
        let second = reserve(&mut ranges, oneway(8, 2))?;
        assert!(!second.only_oneway);
        free(&mut ranges, first.offset)?;
        assert!(!reserve(&mut ranges, oneway(8, 1))?.only_oneway);
        free(&mut ranges, first.offset)?;
        free(&mut ranges, second.offset)?;
        assert!(reserve(&mut ranges, oneway(8, 2))?.only_oneway);
        Ok(())
    }

    #[test]
    fn spam_by_number_at_its_limit() -> Result {
        // A tenth of the mapping is 800 bytes. The new range does not count.
        let mut ranges = RangeAllocator::<()>::new(8000);
        for _ in 0..50 {
            assert!(!reserve(&mut ranges, oneway(8, 7))?.spam_suspect);
        }
        // What other senders do is not this one's fault.
        assert!(!reserve(&mut ranges, oneway(1600, 8))?.spam_suspect);
        assert!(!reserve(&mut ranges, oneway(1200, 9))?.spam_suspect);
        assert_eq!(ranges.oneway_space(), 800);
        assert!(!reserve(&mut ranges, oneway(8, 7))?.spam_suspect);
        assert!(!reserve(&mut ranges, oneway(8, 8))?.spam_suspect);
        assert!(reserve(&mut ranges, oneway(8, 7))?.spam_suspect);
        Ok(())
    }

    #[test]
    fn senders_of_one_group_are_told_apart() -> Result {
        const OTHER: i32 = 7 + GROUPS as i32;
        let mut ranges = RangeAllocator::<()>::new(8000);
        for _ in 0..50 {
            reserve(&mut ranges, oneway(8, 7))?;
            reserve(&mut ranges, oneway(8, OTHER))?;
        }
        reserve(&mut ranges, oneway(1600, 8))?;
        reserve(&mut ranges, oneway(800, 9))?;
        assert_eq!(ranges.oneway_space(), 800);
        assert!(!reserve(&mut ranges, oneway(8, 7))?.spam_suspect);
        assert!(!reserve(&mut ranges, oneway(8, OTHER))?.spam_suspect);
        assert!(reserve(&mut ranges, oneway(8, OTHER))?.spam_suspect);
        Ok(())
    }

    #[test]
    fn spam_by_bytes_at_its_limit() -> Result {
        // A quarter of the mapping is 2000 bytes, a tenth of it 800.
        let mut ranges = RangeAllocator::<()>::new(8000);
        reserve(&mut ranges, oneway(1208, 1))?;
        reserve(&mut ranges, sync(2400))?;
        assert!(!reserve(&mut ranges, oneway(2000, 2))?.spam_suspect);
        assert_eq!(ranges.oneway_space(), 792);
        assert!(!reserve(&mut ranges, oneway(8, 2))?.spam_suspect);
        assert!(reserve(&mut ranges, oneway(8, 2))?.spam_suspect);
        Ok(())
    }

    #[test]
    fn spam_is_reported_once_until_it_is_over() -> Result {
        let mut ranges = RangeAllocator::<()>::new(8000);
        for _ in 0..60 {
            reserve(&mut ranges, oneway(8, 7))?;
        }
        reserve(&mut ranges, oneway(1600, 8))?;
        reserve(&mut ranges, oneway(1120, 9))?;
        assert_eq!(ranges.oneway_space(), 800);
        assert!(reserve(&mut ranges, oneway(8, 7))?.spam_suspect);
        assert!(!reserve(&mut ranges, oneway(8, 7))?.spam_suspect);
        // Room alone does not end it, if the next reservation takes it again.
        free(&mut ranges, 0)?;
        free(&mut ranges, 8)?;
        assert_eq!(ranges.oneway_space(), 800);
        assert!(!reserve(&mut ranges, oneway(8, 7))?.spam_suspect);
        free(&mut ranges, 16)?;
        free(&mut ranges, 24)?;
        assert!(!reserve(&mut ranges, oneway(8, 7))?.spam_suspect);
        assert_eq!(ranges.oneway_space(), 800);
        assert!(reserve(&mut ranges, oneway(8, 7))?.spam_suspect);
        Ok(())
    }
}
