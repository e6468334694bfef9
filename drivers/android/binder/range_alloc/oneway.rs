// SPDX-License-Identifier: GPL-2.0

//! The share of a mapping that one-way calls may take, and who takes too much of it.
//!
//! Nobody waits for a one-way call, so one sender can fill the mapping of a slow receiver and lock out
//! everybody else. Therefore one-way calls have half of the mapping, and the sender that floods it is
//! told so while there still is some room.

#![forbid(unsafe_code)]

use kernel::prelude::*;

use super::Live;

/// A sender with more one-way ranges than this is suspect when one-way space is short.
const MAX_RANGES: usize = 50;

/// What one-way calls have left of a mapping.
pub(super) struct OnewaySpace {
    mapping: u32,
    left: u32,
    /// A suspect was reported, and no reservation has found enough room since.
    reported: bool,
}

impl OnewaySpace {
    /// One-way calls have half of a mapping of `mapping` bytes.
    pub(super) fn new(mapping: u32) -> Self {
        Self {
            mapping,
            left: mapping / 2,
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

    /// Takes `size` bytes away, and says whether the sender is to be looked at: it is when less than a
    /// fifth is left and nobody was reported since that has been so.
    pub(super) fn charge(&mut self, size: u32) -> bool {
        self.left = self.left.saturating_sub(size);
        // A tenth of the mapping is a fifth of the half.
        let short = self.left < self.mapping / 10;
        self.reported &= short;

        short && !self.reported
    }

    /// Gives `size` bytes back.
    pub(super) fn refund(&mut self, size: u32) {
        self.left = self.left.saturating_add(size);
    }

    /// A sender is suspect: whether it is to be reported, which is so once until there is room again.
    pub(super) fn report(&mut self) -> bool {
        !core::mem::replace(&mut self.reported, true)
    }

    /// Begins to look whether `pid`, whose latest range has `latest` bytes, has too many of them.
    pub(super) fn inquiry(&self, pid: i32, latest: u32) -> Inquiry {
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
/// is a guess about who floods, and not a limit.
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
