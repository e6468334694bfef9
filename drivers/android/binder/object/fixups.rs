// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Bounds of objects and of the buffers that they point to: the part of the translation that is arithmetic.
//!
//! All numbers here come from the sender.

use core::cmp::Ordering;
use kernel::prelude::*;

use crate::error::{
    failed,
    BinderError, //
};
use crate::sums::push;

/// Objects begin at multiples of this.
pub(super) const OBJECT_ALIGN: usize = 4;

/// Fails with `EINVAL`.
#[track_caller]
pub(super) fn invalid<T>(reason: &'static str) -> Result<T, BinderError> {
    Err(failed(EINVAL, reason))
}

/// `value` as a size or place in memory.
#[track_caller]
pub(super) fn number(value: u64, reason: &'static str) -> Result<usize, BinderError> {
    match usize::try_from(value) {
        Ok(number) => Ok(number),
        Err(_) => Err(failed(EINVAL, reason)),
    }
}

/// The bytes from `done`, where the last object ended, to the next object at `offset`.
///
/// # Errors
///
/// `EFAULT` if it begins behind the data, or before the last one ended.
pub(super) fn gap(done: usize, offset: usize, data_size: usize) -> Result<usize, BinderError> {
    if offset > data_size {
        return Err(failed(EFAULT, "offset beyond the data"));
    }
    offset
        .checked_sub(done)
        .ok_or_else(|| failed(EFAULT, "objects overlap or are out of order"))
}

/// The bytes of the data from `at` on.
///
/// # Errors
///
/// `EFAULT` if that is behind the data.
pub(super) fn rest_of(data_size: usize, at: usize) -> Result<usize, BinderError> {
    data_size
        .checked_sub(at)
        .ok_or_else(|| failed(EFAULT, "offset beyond the data"))
}

/// The bytes that the numbers of `count` files take.
///
/// # Errors
///
/// `EINVAL` if no buffer can have so many.
pub(super) fn array_size(count: u64) -> Result<usize, BinderError> {
    const REASON: &str = "too many file descriptors";

    number(count, REASON)?
        .checked_mul(size_of::<u32>())
        .ok_or_else(|| failed(EINVAL, REASON))
}

/// The room for the buffers that objects point to.
pub(super) struct Room {
    next: usize,
    end: usize,
}

impl Room {
    /// All of `extra`, whose ends are multiples of 8.
    pub(super) fn new(extra: core::ops::Range<usize>) -> Self {
        Self {
            next: extra.start,
            end: extra.end,
        }
    }

    /// Takes the next `length` bytes, rounded up to a multiple of 8; returns where they begin.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no room left; nothing is taken then.
    pub(super) fn take(&mut self, length: usize) -> Result<usize, BinderError> {
        let at = self.next;
        let left = self.end.saturating_sub(at);
        if length > left {
            return invalid("buffer too large");
        }
        // The whole is a multiple of 8, so that what is rounded up fits if what is not does.
        self.next = at.saturating_add(length.checked_next_multiple_of(8).unwrap_or(left).min(left));
        Ok(at)
    }
}

/// A buffer that an object pointed to.
pub(super) struct Pointer {
    /// The object's number.
    pub(super) object: usize,
    /// Where in the transaction's buffer it is.
    pub(super) at: usize,
    pub(super) length: usize,
    /// The end of the bytes that were copied or replaced.
    pub(super) done: usize,
    /// The sender's address of it.
    pub(super) source: u64,
    /// The object number of its parent, and where it was fixed up in that.
    pub(super) parent: Option<(usize, usize)>,
}

/// Bytes of a buffer that are copied without change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where in the transaction's buffer they go.
    pub(super) at: usize,
    /// The sender's address of them.
    pub(super) source: u64,
    pub(super) length: usize,
}

impl Pointer {
    /// The bytes from where the copying has got to up to `end`, after which it goes on at `next`.
    fn advance(&mut self, end: usize, next: usize) -> Option<Piece> {
        let piece = Piece {
            at: self.at.checked_add(self.done)?,
            source: self.source.wrapping_add(self.done as u64),
            length: end.checked_sub(self.done)?,
        };
        self.done = next;
        Some(piece)
    }
}

/// How far a buffer was fixed up.
#[derive(Clone, Copy)]
struct Fixup {
    object: usize,
    /// The next fix-up in it must not be below this.
    from: usize,
}

/// The buffers that came so far, and where they may still be written to: see the head of [`object`](super).
pub(super) struct Fixups {
    /// By ascending object number.
    pointers: KVec<Pointer>,
    last: Option<Fixup>,
}

impl Fixups {
    /// None so far.
    pub(super) fn new() -> Self {
        Self {
            pointers: KVec::new(),
            last: None,
        }
    }

    fn index(&self, object: usize) -> Option<usize> {
        // `binary_search` has sums that can panic.
        let (mut rest, mut skipped) = (&self.pointers[..], 0usize);
        loop {
            let (below, from) = rest.split_at_checked(rest.len() / 2)?;
            let (middle, above) = from.split_first()?;
            let at = skipped.wrapping_add(below.len());
            match object.cmp(&middle.object) {
                Ordering::Less => rest = below,
                Ordering::Equal => return Some(at),
                Ordering::Greater => (rest, skipped) = (above, at.wrapping_add(1)),
            }
        }
    }

    fn find(&self, object: usize) -> Option<&Pointer> {
        self.pointers.get(self.index(object)?)
    }

    /// Whether the buffer of `parent` may be changed at `offset`.
    fn may_fix_up(&self, parent: usize, offset: usize) -> bool {
        let mut last = self.last;
        while let Some(fixup) = last {
            if fixup.object == parent {
                return offset >= fixup.from;
            }
            // A parent's number is below its child's, so this ends.
            last = self
                .find(fixup.object)
                .and_then(|pointer| pointer.parent)
                .map(|(object, at)| Fixup {
                    object,
                    from: at.saturating_add(size_of::<u64>()),
                });
        }
        false
    }

    /// The buffer of object number `parent`, of which `len` bytes at `offset` are to be changed: where those are in the
    /// transaction's buffer, and where the sender has them.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such buffer, it may not be changed there, or ends before.
    pub(super) fn place_in_parent(
        &self,
        parent: usize,
        offset: usize,
        len: usize,
    ) -> Result<(usize, u64), BinderError> {
        let Some(pointer) = self.find(parent) else {
            return invalid("parent is no buffer that came before");
        };
        if !self.may_fix_up(parent, offset) {
            return invalid("fix-ups are out of order");
        }
        // Where nothing is changed, it may be anywhere.
        if len == 0 {
            return Ok((0, 0));
        }
        if offset
            .checked_add(len)
            .is_none_or(|end| end > pointer.length)
        {
            return invalid("fix-up beyond its parent");
        }
        Ok((
            pointer.at.saturating_add(offset),
            pointer.source.wrapping_add(offset as u64),
        ))
    }

    /// Leaves `len` bytes at `offset` out of what is copied of the buffer of `parent`: something else is written there.
    /// Returns what is to be copied before them.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they are not behind all that were left out before. [`Fixups::place_in_parent`] has said no to that.
    pub(super) fn leave_out(
        &mut self,
        parent: usize,
        offset: usize,
        len: usize,
    ) -> Result<Piece, BinderError> {
        self.index(parent)
            .and_then(|index| self.pointers.get_mut(index))
            .zip(offset.checked_add(len))
            .and_then(|(pointer, end)| pointer.advance(offset, end))
            .ok_or_else(|| failed(EINVAL, "fix-ups are out of order"))
    }

    /// What is left to be copied of each buffer.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = Piece> + '_ {
        self.pointers
            .iter_mut()
            .filter_map(|pointer| pointer.advance(pointer.length, pointer.length))
    }

    /// The next object pointed to a buffer.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn push(&mut self, pointer: Pointer) -> Result<(), BinderError> {
        let object = pointer.object;
        push(&mut self.pointers, pointer, GFP_KERNEL_ACCOUNT)
            .map_err(|_| failed(ENOMEM, "out of memory"))?;
        self.last = Some(Fixup { object, from: 0 });
        Ok(())
    }

    /// The buffer of `parent` was changed up to `end`.
    pub(super) fn fixed_up(&mut self, parent: usize, end: usize) {
        self.last = Some(Fixup {
            object: parent,
            from: end,
        });
    }
}

#[kunit_tests(binder_fixups)]
mod tests {
    use super::*;

    /// Whether it was refused, and with what.
    fn errno<T>(result: Result<T, BinderError>) -> Option<i32> {
        result.err().map(|error| error.errno().to_errno())
    }

    const EINVAL_: Option<i32> = Some(-22);
    const EFAULT_: Option<i32> = Some(-14);

    #[test]
    fn objects_stand_in_order_inside_the_data() {
        for (done, offset, size, expected) in [
            (0, 0, 0, Ok(0)),
            (0, 0, 24, Ok(0)),
            (0, 24, 24, Ok(24)),
            (24, 24, 48, Ok(0)),
            (24, 28, 48, Ok(4)),
            (24, 48, 48, Ok(24)),
            (24, 20, 48, Err(EFAULT_)),
            (24, 0, 48, Err(EFAULT_)),
            (usize::MAX, 0, 48, Err(EFAULT_)),
            (0, 25, 24, Err(EFAULT_)),
            (0, 28, 24, Err(EFAULT_)),
            (0, usize::MAX, 24, Err(EFAULT_)),
            (0, usize::MAX, usize::MAX, Ok(usize::MAX)),
        ] {
            let got = gap(done, offset, size);
            assert_eq!(
                got.map_err(|error| Some(error.errno().to_errno())),
                expected
            );
        }
    }

    #[test]
    fn arrays_of_files_at_their_limits() {
        assert_eq!(array_size(0).ok(), Some(0));
        assert_eq!(array_size(3).ok(), Some(12));
        let most = usize::MAX / 4;
        assert_eq!(array_size(most as u64).ok(), Some(most * 4));
        assert_eq!(errno(array_size(most as u64 + 1)), EINVAL_);
        assert_eq!(errno(array_size(u64::MAX)), EINVAL_);
    }

    #[test]
    fn buffers_get_what_room_there_is() {
        let mut room = Room::new(64..96);
        assert_eq!(errno(room.take(33)), EINVAL_);
        assert_eq!(errno(room.take(usize::MAX)), EINVAL_);
        assert_eq!(room.take(1).ok(), Some(64));
        assert_eq!(room.take(0).ok(), Some(72));
        assert_eq!(room.take(8).ok(), Some(72));
        assert_eq!(errno(room.take(17)), EINVAL_);
        // Rounded up it ends where the room does.
        assert_eq!(room.take(9).ok(), Some(80));
        assert_eq!(room.take(0).ok(), Some(96));
        assert_eq!(errno(room.take(1)), EINVAL_);
    }

    #[test]
    fn where_there_is_no_room_nothing_is_taken() {
        let mut none = Room::new(8..8);
        assert_eq!(none.take(0).ok(), Some(8));
        assert_eq!(errno(none.take(1)), EINVAL_);
        let mut last = Room::new(usize::MAX - 7..usize::MAX);
        assert_eq!(last.take(7).ok(), Some(usize::MAX - 7));
        assert_eq!(errno(last.take(1)), EINVAL_);
    }

    /// Buffers of 64 bytes with these object numbers and parents, the last fix-up of each at the offset named.
    fn tree(buffers: &[(usize, Option<(usize, usize)>)]) -> Result<Fixups, BinderError> {
        let mut fixups = Fixups::new();
        for (n, &(object, parent)) in buffers.iter().enumerate() {
            fixups.push(Pointer {
                object,
                at: 1000 + 64 * n,
                length: 64,
                done: 0,
                source: 0x10000 + 64 * n as u64,
                parent,
            })?;
        }
        Ok(fixups)
    }

    fn may(fixups: &Fixups, parent: usize, offset: usize) -> bool {
        fixups.place_in_parent(parent, offset, 8).is_ok()
    }

    #[test]
    fn a_fix_up_lies_inside_a_buffer_that_came_before() -> Result {
        let fixups = tree(&[(3, None), (5, None)]).map_err(|error| error.errno())?;
        assert_eq!(fixups.place_in_parent(5, 0, 8).ok(), Some((1064, 0x10040)));
        assert_eq!(fixups.place_in_parent(5, 56, 8).ok(), Some((1120, 0x10078)));
        assert_eq!(fixups.place_in_parent(5, 0, 64).ok(), Some((1064, 0x10040)));
        for (parent, offset, len) in [
            (5, 57, 8),
            (5, 64, 1),
            (5, 0, 65),
            (5, usize::MAX, 8),
            (5, usize::MAX - 7, 8),
            (5, 8, usize::MAX),
            // Not there, no buffer, and the number of a buffer, which is no object's.
            (6, 0, 8),
            (4, 0, 8),
            (0, 0, 8),
            (usize::MAX, 0, 8),
        ] {
            assert_eq!(errno(fixups.place_in_parent(parent, offset, len)), EINVAL_);
        }
        let none = Fixups::new();
        assert_eq!(errno(none.place_in_parent(0, 0, 8)), EINVAL_);
        Ok(())
    }

    #[test]
    fn nothing_is_changed_anywhere() -> Result {
        let fixups = tree(&[(0, None)]).map_err(|error| error.errno())?;
        assert_eq!(fixups.place_in_parent(0, 1 << 20, 0).ok(), Some((0, 0)));
        assert_eq!(errno(fixups.place_in_parent(1, 0, 0)), EINVAL_);
        Ok(())
    }

    #[test]
    fn fix_ups_go_up_and_depth_first() -> Result {
        // 0 has 1 at 8; 1 has 2 at 16 and 3 at 32.
        let all = [
            (0, None),
            (1, Some((0, 8))),
            (2, Some((1, 16))),
            (3, Some((1, 32))),
        ];
        let at =
            |count: usize| tree(all.get(..count).unwrap_or(&all)).map_err(|error| error.errno());

        let one = at(1)?;
        assert!(may(&one, 0, 0));
        let two = at(2)?;
        assert!(may(&two, 1, 0) && may(&two, 0, 16));
        assert!(!may(&two, 0, 15) && !may(&two, 0, 8) && !may(&two, 0, 0));
        let three = at(3)?;
        assert!(may(&three, 2, 0) && may(&three, 1, 24) && may(&three, 0, 16));
        assert!(!may(&three, 1, 23) && !may(&three, 1, 0) && !may(&three, 0, 15));
        // With the second child of 1, what is beside the way up is closed.
        let mut four = at(4)?;
        assert!(may(&four, 3, 0) && may(&four, 1, 40) && may(&four, 0, 16));
        assert!(!may(&four, 2, 0) && !may(&four, 1, 39));
        // An array of files in 1 closes 3, and 1 up to where it ended.
        four.fixed_up(1, 48);
        assert!(!may(&four, 3, 0) && !may(&four, 1, 47));
        assert!(may(&four, 1, 48) && may(&four, 0, 16));
        // And one in 0 leaves 0 alone.
        four.fixed_up(0, 24);
        assert!(!may(&four, 1, 48) && !may(&four, 0, 23));
        assert!(may(&four, 0, 24));
        Ok(())
    }

    #[test]
    fn a_buffer_without_parent_closes_all_before() -> Result {
        let fixups =
            tree(&[(0, None), (1, Some((0, 8))), (2, None)]).map_err(|error| error.errno())?;
        assert!(may(&fixups, 2, 0));
        assert!(!may(&fixups, 0, 16) && !may(&fixups, 1, 0));
        Ok(())
    }

    /// What the pieces are made of: place in the buffer and length.
    fn rest(fixups: &mut Fixups) -> Result<KVec<(usize, usize)>> {
        let mut pieces = KVec::new();
        for piece in fixups.rest() {
            // The sender has them as far into its buffer as they are in the transaction's.
            assert_eq!(piece.source - 0x10000, piece.at as u64 - 1000);
            pieces.push((piece.at, piece.length), GFP_KERNEL)?;
        }
        Ok(pieces)
    }

    #[test]
    fn each_byte_is_copied_once_or_left_out() -> Result {
        let mut fixups =
            tree(&[(0, None), (1, Some((0, 8))), (2, None)]).map_err(|error| error.errno())?;
        let piece = |at, length| {
            let source = 0x10000 + (at as u64 - 1000);
            Some(Piece { at, source, length })
        };
        assert_eq!(fixups.leave_out(0, 8, 8).ok(), piece(1000, 8));
        assert_eq!(fixups.leave_out(0, 16, 8).ok(), piece(1016, 0));
        assert_eq!(fixups.leave_out(0, 40, 12).ok(), piece(1024, 16));
        assert_eq!(fixups.leave_out(1, 0, 64).ok(), piece(1064, 0));
        let left = rest(&mut fixups)?;
        assert_eq!(&left[..], &[(1052, 12), (1128, 0), (1128, 64)]);
        let left = rest(&mut fixups)?;
        assert_eq!(&left[..], &[(1064, 0), (1128, 0), (1192, 0)]);
        Ok(())
    }

    #[test]
    fn what_is_done_is_not_done_again() -> Result {
        let mut fixups = tree(&[(0, None)]).map_err(|error| error.errno())?;
        assert!(fixups.leave_out(0, 8, 8).is_ok());
        for (parent, offset, len) in [(0, 0, 8), (0, 15, 8), (1, 16, 8), (0, usize::MAX, 8)] {
            assert_eq!(errno(fixups.leave_out(parent, offset, len)), EINVAL_);
        }
        // And that changed nothing.
        assert_eq!(&rest(&mut fixups)?[..], &[(1016, 48)]);
        Ok(())
    }

    #[test]
    fn an_end_beyond_all_numbers_closes_its_buffer() -> Result {
        let mut fixups = tree(&[(0, None)]).map_err(|error| error.errno())?;
        fixups.fixed_up(0, usize::MAX);
        assert!(!may(&fixups, 0, 0) && !may(&fixups, 0, 56));
        Ok(())
    }
}
