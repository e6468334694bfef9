// SPDX-License-Identifier: GPL-2.0

//! The share of a mapping that one-way calls may take, and who takes too much of it.
//!
//! Nobody waits for a one-way call, so one sender can fill the mapping of a slow receiver and lock out
//! everybody else. Therefore one-way calls have half of the mapping, and the sender that floods it is
//! told so while there still is some room.

#![forbid(unsafe_code)]

use kernel::prelude::*;

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

    /// Notes that a sender was reported.
    pub(super) fn reported(&mut self) {
        self.reported = true;
    }

    /// Whether a sender that has ranges of these `sizes` has too many.
    ///
    /// The latest, of `latest` bytes, is among them and does not count.
    pub(super) fn is_flood(&self, sizes: impl Iterator<Item = usize>, latest: u32) -> bool {
        let max_ranges = MAX_RANGES.saturating_add(1);
        let max_bytes = (self.mapping / 4).saturating_add(latest) as usize;
        let mut ranges = 0_usize;
        let mut bytes = 0_usize;
        for size in sizes {
            ranges = ranges.saturating_add(1);
            bytes = bytes.saturating_add(size);
            if ranges > max_ranges || bytes > max_bytes {
                return true;
            }
        }

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
