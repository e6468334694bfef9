// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Where in a buffer its parts are.
//!
//! ```text
//!    | data | offsets | buffers that objects point to, and the security context |
//! ```
//!
//! Each part begins at a multiple of 8.

use kernel::prelude::*;

/// `n` rounded up to where the next part of a buffer may begin.
fn align(n: usize) -> Option<usize> {
    n.checked_next_multiple_of(8)
}

/// The sizes of a buffer's parts, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Of the data.
    pub(super) data: usize,
    /// Of the offsets.
    pub(super) offsets: usize,
    /// Of what is behind them.
    pub(super) extra: usize,
    /// Of the security context, which is the last of that; 0 if there is none.
    pub(super) context: usize,
}

impl Layout {
    /// Of the whole buffer; `None` if no number is that large, which goes for all that follows.
    pub(super) fn size(&self) -> Option<usize> {
        self.extra_at()?.checked_add(align(self.extra)?)
    }

    /// Where the offsets begin.
    pub(super) fn offsets_at(&self) -> Option<usize> {
        align(self.data)
    }

    /// Where that which is behind the offsets begins.
    pub(super) fn extra_at(&self) -> Option<usize> {
        self.offsets_at()?.checked_add(align(self.offsets)?)
    }

    /// Where the security context begins; also `None` if there is none.
    pub(super) fn context_at(&self) -> Option<usize> {
        if self.context == 0 {
            return None;
        }
        let before = self.extra.checked_sub(self.context)?;
        self.extra_at()?.checked_add(before)
    }

    /// Whether the buffer has `len` bytes at `at`.
    pub(super) fn has(&self, at: usize, len: usize) -> bool {
        let end = self
            .extra_at()
            .and_then(|extra| extra.checked_add(self.extra));
        let last = at.checked_add(len);
        end.zip(last).is_some_and(|(end, last)| last <= end)
    }

    /// Where the offset of object number `object` goes; also `None` if there are not so many.
    pub(super) fn offset_at(&self, object: usize) -> Option<usize> {
        let at = object.checked_mul(size_of::<u64>())?;
        if at >= self.offsets {
            return None;
        }
        self.offsets_at()?.checked_add(at)
    }
}

#[kunit_tests(binder_buffer_layout)]
mod tests {
    use super::*;

    fn layout(data: usize, offsets: usize, extra: usize, context: usize) -> Layout {
        Layout {
            data,
            offsets,
            extra,
            context,
        }
    }

    #[test]
    fn parts_begin_at_multiples_of_8() {
        for (sizes, offsets_at, extra_at, size) in [
            ((0, 0, 0), 0, 0, 0),
            ((1, 0, 0), 8, 8, 8),
            ((8, 8, 8), 8, 16, 24),
            ((9, 8, 1), 16, 24, 32),
            ((0, 16, 0), 0, 16, 16),
            ((0, 0, 7), 0, 0, 8),
            ((4095, 24, 100), 4096, 4120, 4224),
        ] {
            let layout = layout(sizes.0, sizes.1, sizes.2, 0);
            assert_eq!(layout.offsets_at(), Some(offsets_at));
            assert_eq!(layout.extra_at(), Some(extra_at));
            assert_eq!(layout.size(), Some(size));
        }
    }

    #[test]
    fn sizes_that_add_up_to_no_number_are_none() {
        const MOST: usize = usize::MAX - 7;

        assert_eq!(layout(MOST, 0, 0, 0).size(), Some(MOST));
        assert_eq!(layout(0, MOST, 0, 0).size(), Some(MOST));
        assert_eq!(layout(0, 0, MOST, 0).size(), Some(MOST));
        for sizes in [
            (MOST + 1, 0, 0),
            (0, MOST + 1, 0),
            (0, 0, MOST + 1),
            (MOST, 1, 0),
            (1, MOST, 0),
            (0, MOST, 1),
            (MOST, 0, 1),
            (MOST - 8, 8, 8),
            (usize::MAX, usize::MAX, usize::MAX),
            (1 << 63, 1 << 63, 0),
        ] {
            let layout = layout(sizes.0, sizes.1, sizes.2, 0);
            assert_eq!(layout.size(), None);
        }
        // And nothing is inside of them.
        assert!(!layout(MOST, 8, 0, 0).has(0, 0));
        assert!(!layout(0, 0, usize::MAX, 0).has(usize::MAX, 1));
    }

    #[test]
    fn a_security_context_is_the_last_of_what_is_behind() {
        assert_eq!(layout(5, 8, 40, 0).context_at(), None);
        assert_eq!(layout(5, 8, 40, 40).context_at(), Some(16));
        assert_eq!(layout(5, 8, 40, 16).context_at(), Some(40));
        assert_eq!(layout(5, 8, 40, 1).context_at(), Some(55));
        assert_eq!(layout(5, 8, 40, 41).context_at(), None);
    }

    #[test]
    fn bytes_are_inside_up_to_the_last() {
        let layout = layout(5, 8, 3, 0);
        for (at, len, inside) in [
            (0, 0, true),
            (0, 19, true),
            (0, 20, false),
            (18, 1, true),
            (19, 0, true),
            (19, 1, false),
            (20, 0, false),
            (1, usize::MAX, false),
            (usize::MAX, 0, false),
            (usize::MAX, 1, false),
        ] {
            assert_eq!(layout.has(at, len), inside);
        }
    }

    #[test]
    fn there_are_as_many_offsets_as_there_is_room_for() {
        let layout = layout(20, 16, 8, 0);
        assert_eq!(layout.offset_at(0), Some(24));
        assert_eq!(layout.offset_at(1), Some(32));
        assert_eq!(layout.offset_at(2), None);
        assert_eq!(layout.offset_at(usize::MAX / 8), None);
        assert_eq!(layout.offset_at(usize::MAX / 8 + 1), None);
        assert_eq!(layout.offset_at(usize::MAX), None);
    }
}
