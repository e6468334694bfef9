// SPDX-License-Identifier: GPL-2.0

//! Which bytes of a process's mapping are taken.
//!
//! Every call copies its bytes into the mapping of the process that receives it. Senders on all
//! processors cut ranges from that one mapping, user space gives them back in any order and names
//! them by address only, and all of it happens under a spinlock. So finding a fit and finding a
//! range must stay cheap with thousands of ranges, nothing may be allocated here, and yet a
//! typical process, which holds one or two ranges of a few hundred bytes, should not pay for a
//! general solution.
//!
//! The shape follows from the typical process. Its ranges lie at the low end of the mapping and
//! everything behind them is one hole, the tail, which is a plain number. The two topmost ranges lie
//! in two cells of the allocator itself: one call in hand while the next one arrives needs no more,
//! in whatever order they are freed. Only with a third range the lowest of them moves to the trees
//! of [`trees`], which do for any number of ranges what the cells do for two.
//!
//! So the mapping is, from its low end to its high end:
//!
//! ```text
//! | ranges in the trees, with the hole below each | low, and its hole | top, and its hole | tail |
//! ```
//!
//! A process that never holds more than two ranges never allocates a node.
//!
//! Nothing here knows about pages, processes or user space. Offsets are relative to the mapping.
//!
//! # Locking
//!
//! The owner protects a [`RangeAllocator`] with a spinlock. Only [`Spare::new`] sleeps, and it needs
//! no allocator. No value of type `T` is ever dropped by a method, so that `T` may be something whose
//! destructor takes other locks.

#![forbid(unsafe_code)]

use kernel::prelude::*;

use self::{
    cells::{
        Cells,
        NOWHERE, //
    },
    oneway::OnewaySpace,
    trees::{
        Entry,
        Trees, //
    }, //
};

pub(crate) use self::oneway::Inquiry;
pub(crate) use self::trees::Spare;

mod cells;
mod oneway;
mod trees;

/// Every range starts and ends at a multiple of this.
pub(crate) const GRANULE: usize = 8;

/// As [`GRANULE`], in the type that offsets have in here.
const GRANULE_U32: u32 = GRANULE as u32;

/// How many ranges an inquiry looks at before the lock is let go.
const INQUIRY_BATCH: usize = 32;

/// What is to be reserved.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Request {
    /// Bytes wanted; rounded up to [`GRANULE`], and at least one granule is taken, so that no two
    /// ranges have the same address.
    pub(crate) size: usize,
    /// Whether the bytes are charged to the one-way half of the mapping.
    pub(crate) oneway: bool,
    /// The sender, as far as the detection of spam tells senders apart.
    pub(crate) pid: i32,
    /// A number for listings of all ranges.
    pub(crate) id: u32,
}

/// A range that was cut from a hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reserved {
    /// Where the range begins. Names the range from here on.
    pub(crate) offset: usize,
    /// Its length: the size asked for, rounded up.
    pub(crate) size: usize,
    /// The sender may flood the one-way space: to be settled with [`RangeAllocator::inquire`].
    pub(crate) inquiry: Option<Inquiry>,
    /// Whether the range is charged to the one-way space, and no other is.
    pub(crate) only_oneway: bool,
}

/// Why nothing was reserved. Nothing changed then.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReserveError {
    /// There is room, but no memory to note it: [`RangeAllocator::add_spare`], then again.
    NeedSpare,
    /// No hole is long enough.
    NoSpace {
        /// Length of the longest hole.
        largest_hole: usize,
        /// Length of all holes together.
        free: usize,
    },
    /// One-way calls have used up their share.
    NoOnewaySpace {
        /// What is left of it.
        free: usize,
    },
}

/// Why a range was not given back. Nothing changed then.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum FreeError {
    /// No range begins at this offset.
    NotFound,
    /// User space holds the range: [`RangeAllocator::take`] comes first.
    Held,
}

/// A range, for listings of all of them.
pub(crate) struct Live<'a, T> {
    /// Where it begins.
    pub(crate) offset: usize,
    /// Its length.
    pub(crate) size: usize,
    /// Whether it is charged to the one-way space.
    pub(crate) oneway: bool,
    /// The process that asked for it.
    pub(crate) pid: i32,
    /// The number that came with the request.
    pub(crate) id: u32,
    /// What was committed with it; `None`: the driver has it in hand.
    pub(crate) data: Option<&'a T>,
}

impl<'a, T> Live<'a, T> {
    fn new(offset: u32, entry: &'a Entry<T>) -> Self {
        Self {
            offset: offset as usize,
            size: entry.size as usize,
            oneway: entry.oneway,
            pid: entry.pid,
            id: entry.id,
            data: entry.data.as_ref(),
        }
    }
}

/// The ranges of one mapping.
///
/// A range is *reserved* when it has just been cut off and whenever the driver has it in hand, and
/// *held* while user space may free it. [`commit`](Self::commit) and [`take`](Self::take) lead from
/// one to the other; only a reserved range can be freed, so the first caller that takes it has it alone.
///
/// # Invariants
///
/// 1. Every offset and length is a multiple of [`GRANULE`], and every length is at least that.
/// 2. The ranges of `trees` are below those of `cells`, and no two ranges overlap.
/// 3. The `gap` of a range is its offset less the end of the range below it, or less zero.
/// 4. `tail` is where the topmost range ends (zero without ranges), and `tail <= size`.
/// 5. `free` is `size` less the lengths of the ranges, and what is left in `oneway` is half of `size`
///    less the lengths of those that are charged to it.
pub(crate) struct RangeAllocator<T> {
    cells: Cells<T>,
    trees: Trees<T>,
    size: u32,
    tail: u32,
    free: u32,
    oneway: OnewaySpace,
}

/// Where a reservation goes.
enum Fit {
    /// To the low end of the hole that begins here, which the trees do not know.
    Hole(u32),
    /// It is there already, in the trees.
    Done(u32),
}

impl<T> RangeAllocator<T> {
    /// Starts with one hole of `size` bytes, rounded down to a granule. Allocates nothing.
    ///
    /// What a `u32` cannot address is left unused; no mapping of a binder device comes near it.
    pub(crate) fn new(size: usize) -> Self {
        let size = u32::try_from(size).unwrap_or(u32::MAX) & !(GRANULE_U32 - 1);

        // INVARIANT: There is no range, and the tail is everything.
        Self {
            cells: Cells::new(),
            trees: Trees::new(),
            size,
            tail: 0,
            free: size,
            oneway: OnewaySpace::new(size),
        }
    }

    /// The length of all holes together.
    pub(crate) fn free_space(&self) -> usize {
        self.free as usize
    }

    /// What is left of the share of one-way calls.
    pub(crate) fn oneway_space(&self) -> usize {
        self.oneway.left() as usize
    }

    /// The length of the longest hole.
    pub(crate) fn largest_hole(&self) -> usize {
        let longest = |so_far: u32, (_, length)| so_far.max(length);
        let holes = self.holes().into_iter();

        holes.fold(self.trees.largest_hole(), longest) as usize
    }

    /// Stocks memory for a reservation to come; gives back what there is no place for.
    ///
    /// Another processor may use it up before the caller reserves. A caller that adds and reserves without
    /// letting go of the lock in between is asked only once.
    pub(crate) fn add_spare(&mut self, spare: Spare<T>) -> Option<Spare<T>> {
        self.trees.add_spare(spare)
    }

    /// Cuts a range from the low end of the shortest hole that is long enough, of several such holes
    /// the lowest.
    ///
    /// The range is reserved. A one-way request is also charged to the one-way space, which is half
    /// of the mapping. When less than a fifth of that is left then, and the sender already had more
    /// than fifty one-way ranges or more than a quarter of the mapping in them, it is to be reported
    /// as suspect: once, and then no sender is until a one-way reservation leaves a fifth again. The
    /// ranges are counted by [`inquire`](Self::inquire), which the caller calls until it has an answer.
    ///
    /// Takes O(log n) steps for n ranges.
    ///
    /// # Errors
    ///
    /// Any [`ReserveError`]; nothing has changed then.
    pub(crate) fn reserve(&mut self, request: &Request) -> Result<Reserved, ReserveError> {
        // A size that cannot be rounded up is more than there ever is.
        let size = round_up(request.size);
        if request.oneway && size.is_none_or(|size| size > self.oneway.left()) {
            return Err(ReserveError::NoOnewaySpace {
                free: self.oneway_space(),
            });
        }
        let size = size.ok_or_else(|| self.no_space())?;

        let start = self.cut(size, request)?;

        // INVARIANT: One range more, of `size` bytes, which were free.
        self.free = self.free.saturating_sub(size);
        let only_oneway = request.oneway && self.oneway.is_whole();
        let inquiry = if request.oneway {
            self.oneway.charge(request.pid, size)
        } else {
            None
        };

        Ok(Reserved {
            offset: start as usize,
            size: size as usize,
            inquiry,
            only_oneway,
        })
    }

    /// Goes on with an inquiry about a sender. Returns whether it is suspect once that is known, and
    /// `None` if the caller should let go of the lock for a moment and go on.
    ///
    /// Takes O(log n) steps for n ranges.
    pub(crate) fn inquire(&mut self, inquiry: &mut Inquiry) -> Option<bool> {
        for _ in 0..INQUIRY_BATCH {
            let Some(live) = self.at_or_above(inquiry.next()) else {
                return Some(false);
            };
            if inquiry.add(&live) {
                return Some(self.oneway.report());
            }
        }

        None
    }

    /// Hands a reserved range to user space, with `data`.
    ///
    /// # Errors
    ///
    /// Gives `data` back if no reserved range begins at `offset`.
    pub(crate) fn commit(&mut self, offset: usize, data: T) -> Result<(), T> {
        match self.entry_mut(offset) {
            Some(entry) if entry.data.is_none() => {
                entry.data = Some(data);
                Ok(())
            }
            _ => Err(data),
        }
    }

    /// Takes a range out of the hands of user space. It is reserved then, and no second caller gets it.
    ///
    /// `None` if user space holds no range that begins at `offset`.
    pub(crate) fn take(&mut self, offset: usize) -> Option<T> {
        self.entry_mut(offset)?.data.take()
    }

    /// Gives a reserved range back. It becomes one hole with the holes beside it.
    ///
    /// Nodes of the trees may be left over: they go to a small stock or, beyond it, to the slab
    /// allocator.
    ///
    /// # Errors
    ///
    /// Any [`FreeError`]; nothing has changed then.
    pub(crate) fn free(&mut self, offset: usize) -> Result<(), FreeError> {
        let offset = narrow(offset).ok_or(FreeError::NotFound)?;
        let (low, top) = self.cells.get_mut();
        let (size, oneway_pid);

        // INVARIANT: What is above the range, be it the tail, now follows the end of what is below.
        if offset == top.offset {
            if top.entry.data.is_some() {
                return Err(FreeError::Held);
            }
            (size, oneway_pid) = (top.entry.size, top.entry.oneway_pid());
            self.tail = top.hole_start();
            top.clear();
            self.cells.swap();
        } else if offset == low.offset {
            if low.entry.data.is_some() {
                return Err(FreeError::Held);
            }
            (size, oneway_pid) = (low.entry.size, low.entry.oneway_pid());
            top.entry.gap = top.offset.saturating_sub(low.hole_start());
            low.clear();
        } else {
            (size, oneway_pid) = self.free_in_trees(offset)?;
        }

        // INVARIANT: One range of `size` bytes less.
        self.free = self.free.saturating_add(size);
        if let Some(pid) = oneway_pid {
            self.oneway.refund(pid, size);
        }

        Ok(())
    }

    /// All ranges, by rising offset.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) fn iter(&self) -> impl Iterator<Item = Live<'_, T>> {
        let cells = self.cells.iter();
        let cells = cells.map(|cell| Live::new(cell.offset, &cell.entry));

        // Called like this, because the initializers of the prelude have a `chain` as well.
        Iterator::chain(self.trees.iter(), cells)
    }

    /// The lowest range that begins at `offset` or above.
    ///
    /// With it a reader can visit all ranges and let go of the lock in between.
    pub(crate) fn at_or_above(&self, offset: usize) -> Option<Live<'_, T>> {
        let offset = narrow(offset)?;
        let in_cells = || {
            let cell = self.cells.iter().find(|cell| cell.offset >= offset)?;
            Some(Live::new(cell.offset, &cell.entry))
        };

        self.trees.at_or_above(offset).or_else(in_cells)
    }

    fn entry_mut(&mut self, offset: usize) -> Option<&mut Entry<T>> {
        let offset = narrow(offset)?;

        match self.cells.find(offset) {
            Some(entry) => Some(entry),
            None => self.trees.get_mut(offset),
        }
    }

    fn tail_size(&self) -> u32 {
        self.size.saturating_sub(self.tail)
    }

    /// The holes that are known without the trees, from the lowest on: where they end, and their lengths.
    fn holes(&self) -> [(u32, u32); 3] {
        let (low, top) = self.cells.get();

        [
            (low.offset, low.entry.gap),
            (top.offset, top.entry.gap),
            (self.size, self.tail_size()),
        ]
    }

    /// Cuts a range from the low end of the best fitting hole, and returns where it begins.
    ///
    /// The caller does the sums.
    fn cut(&mut self, size: u32, request: &Request) -> Result<u32, ReserveError> {
        // Mostly, all that is free is the tail.
        let start = if self.free == self.tail_size() && self.free >= size {
            self.tail
        } else {
            match self.best_fit(size, request)? {
                Fit::Hole(start) => start,
                Fit::Done(start) => return Ok(start),
            }
        };
        if !self.cells.get().0.is_empty() && self.cut_from_full(start, size, request)? {
            return Ok(start);
        }

        // INVARIANT: The new range begins where the hole did, so nothing is free right below it, and
        // the rest of the hole is still right below what was above it. The low cell was empty.
        let (low, top) = self.cells.get_mut();
        low.fill(start, size, request);
        if start == self.tail {
            self.tail = self.tail.saturating_add(size);
            self.cells.swap();
        } else {
            top.entry.gap = top.entry.gap.saturating_sub(size);
        }

        Ok(start)
    }

    /// Finds the best fitting hole, and cuts the range from it if it is one of the trees.
    #[inline(never)]
    fn best_fit(&mut self, size: u32, request: &Request) -> Result<Fit, ReserveError> {
        let mut best = None;
        let mut limit = u32::MAX;
        for (end, length) in self.holes() {
            // The lowest comes first, and stays the best among those of its length.
            if length >= size && length < limit {
                best = Some(Fit::Hole(end.saturating_sub(length)));
                limit = length;
            }
        }
        // All holes of the trees are below these.
        if self.trees.has_holes() {
            if let Some(start) = self.trees.cut(size, limit, request)? {
                return Ok(Fit::Done(start));
            }
        }

        best.ok_or_else(|| self.no_space())
    }

    /// As both cells are taken, cuts the range for the trees if it is below, or else moves the low range
    /// there. Says which it was.
    #[inline(never)]
    fn cut_from_full(
        &mut self,
        start: u32,
        size: u32,
        request: &Request,
    ) -> Result<bool, ReserveError> {
        let (low, _) = self.cells.get_mut();
        let lowest = start < low.offset;

        // INVARIANT: All of `trees` is below what joins it, and what stays in the cells is above.
        if lowest {
            let room = self.trees.room(0)?;
            low.entry.gap = low.entry.gap.saturating_sub(size);
            self.trees.push(room, start, Entry::new(size, request));
        } else {
            let room = self.trees.room(low.entry.gap)?;
            let offset = low.offset;
            self.trees.push(room, offset, low.take());
        }

        Ok(lowest)
    }

    /// Frees a range that is in none of the cells. Returns its length and, if it was one-way, whose it was.
    #[inline(never)]
    fn free_in_trees(&mut self, offset: u32) -> Result<(u32, Option<i32>), FreeError> {
        let removed = self.trees.remove(offset)?;
        if let Some(start) = removed.open {
            let (low, top) = self.cells.get_mut();
            // INVARIANT: The hole is right below the lowest range in a cell, or else part of the tail.
            match [low, top].into_iter().find(|cell| !cell.is_empty()) {
                Some(above) => above.entry.gap = above.offset.saturating_sub(start),
                None => self.tail = start,
            }
        }

        Ok((removed.size, removed.oneway_pid))
    }

    #[cold]
    fn no_space(&self) -> ReserveError {
        ReserveError::NoSpace {
            largest_hole: self.largest_hole(),
            free: self.free_space(),
        }
    }
}

/// The length of a range for a request of `size` bytes.
fn round_up(size: usize) -> Option<u32> {
    let size = size.max(1).checked_add(GRANULE - 1)? & !(GRANULE - 1);

    u32::try_from(size).ok()
}

/// An offset that some range may have. [`NOWHERE`] is none, and is that of what is not there.
fn narrow(offset: usize) -> Option<u32> {
    if offset < NOWHERE as usize {
        Some(offset as u32)
    } else {
        None
    }
}

#[cfg(CONFIG_KUNIT = "y")]
mod model;

#[kunit_tests(binder_range_alloc)]
mod tests {
    use core::cell::Cell;

    use super::{
        model::{
            free,
            reserve,
            sync,
            Token, //
        },
        trees::SPARES,
        *, //
    };

    const PAGE: usize = 4096;

    /// A mapping of one page with `count` ranges of 256 bytes.
    fn with_ranges(count: usize) -> Result<RangeAllocator<()>> {
        let mut ranges = RangeAllocator::new(PAGE);
        for _ in 0..count {
            reserve(&mut ranges, sync(256))?;
        }
        Ok(ranges)
    }

    #[test]
    fn fresh_is_one_hole_without_memory() {
        let mut ranges = RangeAllocator::<()>::new(PAGE);
        assert_eq!(ranges.free_space(), PAGE);
        assert_eq!(ranges.oneway_space(), PAGE / 2);
        assert_eq!(ranges.largest_hole(), PAGE);
        assert_eq!(ranges.iter().count(), 0);
        assert_eq!(ranges.trees.spares(), 0);
        // 0xffff_ffff is what an empty cell says.
        for offset in [0, 8, 0xffff_ffff, 0x1_0000_0000, usize::MAX] {
            assert_eq!(ranges.free(offset), Err(FreeError::NotFound));
            assert_eq!(ranges.commit(offset, ()), Err(()));
            assert_eq!(ranges.take(offset), None);
        }
    }

    #[test]
    fn mapping_sizes_at_their_limits() {
        let none = Err(ReserveError::NoSpace {
            largest_hole: 0,
            free: 0,
        });
        assert_eq!(RangeAllocator::<()>::new(0).reserve(&sync(0)), none);
        assert_eq!(RangeAllocator::<()>::new(7).reserve(&sync(1)), none);
        assert_eq!(RangeAllocator::<()>::new(15).free_space(), 8);
        assert_eq!(
            RangeAllocator::<()>::new(usize::MAX).free_space(),
            0xffff_fff8
        );
    }

    #[test]
    fn request_sizes_at_their_limits() -> Result {
        for (asked, got) in [(0, 8), (1, 8), (7, 8), (8, 8), (9, 16), (PAGE - 7, PAGE)] {
            let mut ranges = RangeAllocator::<()>::new(PAGE);
            assert_eq!(reserve(&mut ranges, sync(asked))?.size, got);
            assert_eq!(ranges.free_space(), PAGE - got);
        }
        let mut ranges = RangeAllocator::<()>::new(PAGE);
        let full = Err(ReserveError::NoSpace {
            largest_hole: PAGE,
            free: PAGE,
        });
        assert_eq!(ranges.reserve(&sync(PAGE + 1)), full);
        assert_eq!(ranges.reserve(&sync(0xffff_fff8)), full);
        for size in [0xffff_fff9, usize::MAX - 7, usize::MAX - 6, usize::MAX] {
            assert_eq!(ranges.reserve(&sync(size)), full);
        }
        Ok(())
    }

    #[test]
    fn shortest_hole_that_fits_and_the_lowest_of_them() -> Result {
        // Holes of 512, 256, 256 bytes, and a tail of 2048.
        let mut ranges = with_ranges(8)?;
        for offset in [0, 256, 768, 1280] {
            free(&mut ranges, offset)?;
        }
        assert_eq!(reserve(&mut ranges, sync(200))?.offset, 768);
        assert_eq!(reserve(&mut ranges, sync(256))?.offset, 1280);
        assert_eq!(reserve(&mut ranges, sync(256))?.offset, 0);
        assert_eq!(reserve(&mut ranges, sync(257))?.offset, 2048);
        Ok(())
    }

    #[test]
    fn every_kind_of_hole_competes() -> Result {
        // From the lowest on: one in the trees, one below each cell, and the tail. Of 24 bytes or more,
        // the shortest is to be taken, and of several of that length the lowest.
        for (holes, expected) in [
            ([24, 32, 32, 32], 0),
            ([32, 24, 32, 32], 1),
            ([32, 32, 24, 32], 2),
            ([32, 32, 32, 24], 3),
            ([40, 40, 40, 40], 0),
            ([48, 40, 40, 40], 1),
            ([48, 48, 40, 40], 2),
            ([48, 48, 48, 40], 3),
            ([16, 16, 16, 32], 3),
            ([16, 16, 32, 16], 2),
            ([16, 32, 16, 16], 1),
            ([32, 16, 16, 16], 0),
        ] {
            let [in_trees, below_low, below_top, tail] = holes;
            let low = in_trees + 8;
            let top = low + below_low + 64;
            let last = top + below_top + 8;
            let mut ranges = RangeAllocator::<()>::new(last + tail);
            for size in [in_trees, 8, below_low, 64 + below_top, 8] {
                reserve(&mut ranges, sync(size))?;
            }
            free(&mut ranges, top - 64)?;
            reserve(&mut ranges, sync(64))?;
            free(&mut ranges, 0)?;
            free(&mut ranges, low)?;
            let lengths = ranges.holes().map(|(_, length)| length as usize);
            assert_eq!(lengths, [below_low, below_top, tail]);
            assert_eq!(ranges.trees.largest_hole() as usize, in_trees);

            let starts = [0, low, top, last];
            let start = reserve(&mut ranges, sync(24))?.offset;
            assert_eq!(Some(&start), starts.get(expected));
        }
        Ok(())
    }

    #[test]
    fn neighbouring_holes_become_one() -> Result {
        // In whatever order four ranges go, and wherever they were, one hole is left.
        for order in 0..24 {
            let mut ranges = with_ranges(4)?;
            let mut left = [Some(0), Some(256), Some(512), Some(768)];
            for (divisor, base) in [(6, 4), (2, 3), (1, 2), (1, 1)] {
                let mut there = left.iter_mut().filter(|slot| slot.is_some());
                let next = there.nth(order / divisor % base);
                let offset = next.and_then(Option::take).ok_or(EINVAL)?;
                free(&mut ranges, offset)?;
                assert_eq!(ranges.free(offset), Err(FreeError::NotFound));
            }
            assert_eq!(ranges.largest_hole(), PAGE);
            assert!(!ranges.trees.has_holes());
        }
        Ok(())
    }

    #[test]
    fn only_one_gets_the_range_back() -> Result {
        let drops = Cell::new(0);
        let mut ranges = RangeAllocator::new(PAGE);
        // The third is in the top cell, the second in the low one, the first in the trees.
        for id in [1, 2, 3] {
            let offset = reserve(&mut ranges, sync(64))?.offset;
            assert!(ranges.take(offset).is_none());
            assert!(ranges.commit(offset, Token::new(id, &drops)).is_ok());
        }
        for (id, offset) in [(1, 0), (2, 64), (3, 128)] {
            let refused = ranges.commit(offset, Token::new(9, &drops));
            assert_eq!(refused.map_err(|token| token.id()), Err(9));
            assert_eq!(ranges.free(offset), Err(FreeError::Held));
            let taken = ranges.take(offset);
            assert!(ranges.take(offset).is_none());
            assert_eq!(drops.get(), 2 * id - 1);
            assert_eq!(taken.map(|token| token.id()), Some(id));
        }
        for offset in [0, 64, 128] {
            assert!(ranges.free(offset).is_ok());
            assert_eq!(ranges.free(offset), Err(FreeError::NotFound));
        }
        assert_eq!(drops.get(), 6);
        Ok(())
    }

    #[test]
    fn two_ranges_need_no_memory() -> Result {
        let mut ranges = RangeAllocator::<()>::new(1 << 20);
        let offset = |reserved: Result<Reserved, _>| reserved.map(|r| r.offset).map_err(|_| ENOMEM);
        for turn in 0..100 {
            let first = offset(ranges.reserve(&sync(100)))?;
            let second = offset(ranges.reserve(&sync(300)))?;
            // Now the lower goes first, now the upper, and the next one fits where it was or does not.
            let (one, other) = if turn % 2 == 0 {
                (first, second)
            } else {
                (second, first)
            };
            free(&mut ranges, one)?;
            let third = offset(ranges.reserve(&sync(turn * 8)))?;
            free(&mut ranges, other)?;
            free(&mut ranges, third)?;
        }
        assert_eq!(ranges.largest_hole(), 1 << 20);
        assert_eq!(ranges.trees.spares(), 0);
        Ok(())
    }

    #[test]
    fn memory_is_asked_for_when_a_node_is_needed() -> Result {
        let mut ranges = with_ranges(2)?;
        assert_eq!(ranges.reserve(&sync(8)), Err(ReserveError::NeedSpare));
        assert!(ranges.add_spare(Spare::new(GFP_KERNEL)?).is_none());
        // One node for each of the two that move to the trees, none for a hole that is filled, and two
        // for a range that comes with a hole.
        assert_eq!(ranges.reserve(&sync(256)).map(|r| r.offset), Ok(512));
        assert_eq!(ranges.reserve(&sync(256)).map(|r| r.offset), Ok(768));
        assert_eq!(ranges.trees.spares(), 0);
        free(&mut ranges, 0)?;
        assert_eq!(ranges.reserve(&sync(256)).map(|r| r.offset), Ok(0));
        free(&mut ranges, 256)?;
        assert_eq!(ranges.trees.spares(), 1);
        assert_eq!(ranges.reserve(&sync(257)), Err(ReserveError::NeedSpare));
        assert_eq!(ranges.trees.spares(), 1);
        assert_eq!(ranges.reserve(&sync(256)).map(|r| r.offset), Ok(256));
        Ok(())
    }

    #[test]
    fn thousands_of_ranges() -> Result {
        const COUNT: usize = 4096;
        let mut ranges = RangeAllocator::<()>::new(COUNT * 64);
        for n in 0..COUNT {
            assert_eq!(reserve(&mut ranges, sync(64))?.offset, n * 64);
        }
        assert_eq!((ranges.iter().count(), ranges.largest_hole()), (COUNT, 0));
        for n in (0..COUNT).step_by(2) {
            free(&mut ranges, n * 64)?;
        }
        assert_eq!(ranges.largest_hole(), 64);
        assert!(reserve(&mut ranges, sync(65)).is_err());
        for n in (1..COUNT).step_by(2) {
            free(&mut ranges, n * 64)?;
        }
        assert_eq!(ranges.largest_hole(), COUNT * 64);
        assert_eq!(ranges.trees.spares(), SPARES);
        assert!(ranges.add_spare(Spare::new(GFP_KERNEL)?).is_some());
        Ok(())
    }
}
