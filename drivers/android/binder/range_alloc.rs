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
//! everything behind them is one hole, so that hole - the tail - is a plain number. A hole
//! *between* ranges appears only when a range is freed before its upper neighbour. Therefore:
//!
//! - `live` holds the ranges, by offset; each knows the length of the hole right below it;
//! - `holes` holds the holes below some range, by length and then offset, and is mostly empty;
//! - both trees have nodes of one type. A freed range that leaves a hole of its own becomes that
//!   hole with the node it had; a range that fills a hole takes over the node of the hole. One node
//!   per reservation is enough for ever, and freeing needs no memory at all.
//!
//! While the freed ranges are at the upper end, as in a process that handles one call after the
//! other, a reservation is one insertion into a tree of a few nodes and freeing is one removal.
//! The node travels between the tree and a small stock of spare ones, without the allocator.
//!
//! Nothing here knows about pages, processes or user space. Offsets are relative to the mapping.
//!
//! # Locking
//!
//! The owner protects a [`RangeAllocator`] with a spinlock. Only [`Spare::new`] sleeps, and it needs
//! no allocator. No value of type `T` is ever dropped by a method, so that `T` may be something whose
//! destructor takes other locks.

#![forbid(unsafe_code)]

use core::ops::Range;

use kernel::{
    prelude::*,
    rbtree::RBTree, //
};

use self::node::{
    insert,
    Entry,
    Key,
    Stock,
    Tree, //
};

pub(crate) use self::node::Spare;

mod node;

/// Every range starts and ends at a multiple of this.
pub(crate) const GRANULE: usize = 8;

/// As [`GRANULE`], in the type that offsets have in here.
const GRANULE_U32: u32 = GRANULE as u32;

/// A sender with more one-way ranges than this is suspect when one-way space is short.
const SPAM_RANGES: usize = 50;

/// What somebody wants to reserve.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Request {
    /// Bytes wanted; rounded up to [`GRANULE`], and at least one granule is taken, so that no two
    /// ranges have the same address.
    pub(crate) size: usize,
    /// Whether the bytes are charged to the one-way half of the mapping.
    pub(crate) oneway: bool,
    /// The sender, as far as the detection of spam tells senders apart.
    pub(crate) pid: i32,
}

/// A range that was cut from a hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reserved {
    /// Where the range begins. Names the range from here on.
    pub(crate) offset: usize,
    /// Its length: the size asked for, rounded up.
    pub(crate) size: usize,
    /// The hole it was cut from, as it was before.
    pub(crate) hole: Range<usize>,
    /// Whether the sender floods the one-way space. See [`RangeAllocator::reserve`].
    pub(crate) spam_suspect: bool,
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
    /// The size cannot even be rounded up.
    TooBig,
}

/// A range that was given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Freed {
    /// The range.
    pub(crate) range: Range<usize>,
    /// The hole that it became part of.
    pub(crate) hole: Range<usize>,
    /// Whether its bytes were charged to the one-way space.
    pub(crate) oneway: bool,
}

/// Why a range was not given back. Nothing changed then.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum FreeError {
    /// No range begins at this offset.
    NotFound,
    /// User space holds the range: [`RangeAllocator::take`] comes first.
    Held,
}

/// A range, for those who look at all of them.
pub(crate) struct Live<'a, T> {
    /// Where it begins.
    pub(crate) offset: usize,
    /// Its length.
    pub(crate) size: usize,
    /// Whether it is charged to the one-way space.
    pub(crate) oneway: bool,
    /// The process that asked for it.
    pub(crate) pid: i32,
    /// What was committed with it; `None`: the driver has it in hand.
    pub(crate) data: Option<&'a T>,
}

impl<'a, T> Live<'a, T> {
    fn new(key: &Key, entry: &'a Entry<T>) -> Self {
        Self {
            offset: key.offset() as usize,
            size: entry.size as usize,
            oneway: entry.oneway,
            pid: entry.pid,
            data: entry.data.as_ref(),
        }
    }
}

/// The ranges of one mapping.
///
/// A range is *reserved* when it has just been cut off and whenever the driver has it in hand, and
/// *held* while user space may free it. [`commit`](Self::commit) and [`take`](Self::take) lead from
/// one to the other; only a reserved range can be freed, so whoever takes it first has it alone.
///
/// # Invariants
///
/// 1. Every offset and length is a multiple of [`GRANULE`], and every length is at least that.
/// 2. `live` has, under [`Key::live`], each range; ranges do not overlap and end at or below `tail`.
/// 3. `tail` is where the topmost range ends (zero without ranges), and `tail <= size`.
/// 4. The `gap` of a range is its offset less the end of the range below it, or less zero.
/// 5. `holes` has, under [`Key::hole`], exactly one node for each `gap` that is not zero.
/// 6. `count` is the number of nodes of `live`, `free` is `size` less their lengths, and
///    `oneway_free` is `size / 2` less the lengths of those that are charged to the one-way space.
pub(crate) struct RangeAllocator<T> {
    live: Tree<T>,
    holes: Tree<T>,
    stock: Stock<T>,
    size: u32,
    tail: u32,
    free: u32,
    oneway_free: u32,
    count: u32,
    /// A suspect was reported and the one-way space has not recovered since.
    spam_reported: bool,
}

impl<T> RangeAllocator<T> {
    /// Starts with one hole of `size` bytes, rounded down to a granule.
    ///
    /// Allocates nothing: the first reservation asks for a [`Spare`]. What a `u32` cannot address is
    /// left unused; no mapping of a binder device comes near it.
    pub(crate) fn new(size: usize) -> Self {
        let size = u32::try_from(size).unwrap_or(u32::MAX) & !(GRANULE_U32 - 1);

        // INVARIANT: There is no range, and the tail is everything.
        Self {
            live: RBTree::new(),
            holes: RBTree::new(),
            stock: Stock::EMPTY,
            size,
            tail: 0,
            free: size,
            oneway_free: size / 2,
            count: 0,
            spam_reported: false,
        }
    }

    /// The length of the mapping.
    pub(crate) fn size(&self) -> usize {
        self.size as usize
    }

    /// The length of all holes together.
    pub(crate) fn free_space(&self) -> usize {
        self.free as usize
    }

    /// What is left of the share of one-way calls.
    pub(crate) fn oneway_space(&self) -> usize {
        self.oneway_free as usize
    }

    /// The length of the longest hole.
    pub(crate) fn largest_hole(&self) -> usize {
        let inner = match self.holes.cursor_back() {
            Some(cursor) => cursor.current().0.hole_size(),
            None => 0,
        };

        inner.max(self.tail_size()) as usize
    }

    /// The number of ranges, reserved and held.
    pub(crate) fn live(&self) -> usize {
        self.count as usize
    }

    /// Stocks memory for a reservation to come; gives it back if there is enough in stock.
    ///
    /// Another processor may use it up before the caller reserves. Whoever adds and reserves without
    /// letting go of the lock in between is asked only once.
    pub(crate) fn add_spare(&mut self, spare: Spare<T>) -> Option<Spare<T>> {
        let memory = self.stock.put(spare.memory)?;

        Some(Spare { memory })
    }

    /// Cuts a range from the low end of the shortest hole that is long enough, of several such holes
    /// the lowest.
    ///
    /// The range is reserved. A one-way request is also charged to the one-way space, which is half
    /// of the mapping. When that leaves less than a fifth of the one-way space, and the sender has
    /// more than fifty one-way ranges or more than a quarter of the mapping in one-way ranges, the
    /// new one included, the sender is reported as suspect: once, and then nobody is until
    /// a reservation leaves a fifth again.
    ///
    /// Takes O(log n) steps for n ranges; O(n) in the unusual case that one-way space is that short
    /// and nobody has been reported yet.
    ///
    /// # Errors
    ///
    /// Any [`ReserveError`]; nothing has changed then.
    pub(crate) fn reserve(&mut self, request: &Request) -> Result<Reserved, ReserveError> {
        let size = round_up(request.size).ok_or(ReserveError::TooBig)?;
        if request.oneway && size > self.oneway_free {
            return Err(ReserveError::NoOnewaySpace {
                free: self.oneway_space(),
            });
        }

        let hole = self.cut(size, request)?;

        // INVARIANT: One range more, of `size` bytes, which were free.
        self.count = self.count.saturating_add(1);
        self.free = self.free.saturating_sub(size);
        if request.oneway {
            self.oneway_free = self.oneway_free.saturating_sub(size);
        }

        Ok(Reserved {
            offset: hole.start,
            size: size as usize,
            hole,
            spam_suspect: request.oneway && self.is_spam(request.pid),
        })
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

    /// What was committed with the range at `offset`, if user space holds it.
    pub(crate) fn data(&self, offset: usize) -> Option<&T> {
        self.live.get(&live_key(offset)?)?.data.as_ref()
    }

    /// As [`data`](Self::data), to change it.
    pub(crate) fn data_mut(&mut self, offset: usize) -> Option<&mut T> {
        self.entry_mut(offset)?.data.as_mut()
    }

    /// Takes a range out of the hands of user space. It is reserved then, and no second caller gets it.
    ///
    /// `None` if user space holds no range that begins at `offset`.
    pub(crate) fn take(&mut self, offset: usize) -> Option<T> {
        self.entry_mut(offset)?.data.take()
    }

    /// Gives a reserved range back. It becomes one hole with the holes beside it.
    ///
    /// A node or two may be left over: they go to the stock of spare ones or, beyond it, to the slab
    /// allocator.
    ///
    /// # Errors
    ///
    /// Any [`FreeError`]; nothing has changed then.
    pub(crate) fn free(&mut self, offset: usize) -> Result<Freed, FreeError> {
        let key = live_key(offset).ok_or(FreeError::NotFound)?;
        let found = self.live.find_mut(&key).ok_or(FreeError::NotFound)?;
        let entry = found.get();
        if entry.data.is_some() {
            return Err(FreeError::Held);
        }
        let (below, size, oneway) = (entry.gap, entry.size, entry.oneway);
        let node = found.remove_node().into_reservation();

        // INVARIANT: One range of `size` bytes less.
        self.count = self.count.saturating_sub(1);
        self.free = self.free.saturating_add(size);
        if oneway {
            self.oneway_free = self.oneway_free.saturating_add(size);
        }

        // INVARIANT: The holes on both sides leave `holes`. What takes their place together with the
        // range is the tail, or a hole of that tree right below the next range.
        let start = key.offset().saturating_sub(below);
        let end = key.offset().saturating_add(size);
        if below != 0 {
            self.remove_hole(Key::hole(below, start));
        }
        let hole_end = if end == self.tail {
            self.tail = start;
            drop(self.stock.put(node));
            self.size
        } else {
            let mut above = 0;
            let mut whole = end.saturating_sub(start);
            if let Some(mut next) = self.live.cursor_lower_bound_mut(&Key::live(end)) {
                let next = next.current_mut().1;
                above = next.gap;
                whole = whole.saturating_add(above);
                next.gap = whole;
            }
            if above != 0 {
                self.remove_hole(Key::hole(above, end));
            }
            insert(&mut self.holes, node, Key::hole(whole, start), Entry::HOLE);
            start.saturating_add(whole)
        };

        Ok(Freed {
            range: offset..end as usize,
            hole: start as usize..hole_end as usize,
            oneway,
        })
    }
    /// Frees the topmost range and returns it with what was committed with it, if anything was.
    ///
    /// For emptying the mapping when its process is gone: next to the tail, freeing is cheapest.
    pub(crate) fn pop_any(&mut self) -> Option<(Freed, Option<T>)> {
        let mut cursor = self.live.cursor_back_mut()?;
        let (key, entry) = cursor.current_mut();
        let offset = key.offset() as usize;
        let data = entry.data.take();

        match self.free(offset) {
            Ok(freed) => Some((freed, data)),
            Err(_) => None,
        }
    }

    /// All ranges, by rising offset.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Live<'_, T>> {
        self.live.iter().map(|(key, entry)| Live::new(key, entry))
    }

    /// The lowest range that begins at `offset` or above.
    ///
    /// With it a reader can visit all ranges and let go of the lock in between.
    pub(crate) fn at_or_above(&self, offset: usize) -> Option<Live<'_, T>> {
        let from = live_key(offset)?;
        // What a cursor lends ends with the cursor; the tree lends for as long as we need.
        let key = *self.live.cursor_lower_bound(&from)?.current().0;

        Some(Live::new(&key, self.live.get(&key)?))
    }

    fn tail_size(&self) -> u32 {
        self.size.saturating_sub(self.tail)
    }

    fn entry_mut(&mut self, offset: usize) -> Option<&mut Entry<T>> {
        self.live.get_mut(&live_key(offset)?)
    }

    /// Takes `size` bytes from the low end of the best fitting hole and enters them in `live`.
    ///
    /// Returns the hole as it was. The caller does the sums.
    fn cut(&mut self, size: u32, request: &Request) -> Result<Range<usize>, ReserveError> {
        let entry = Entry {
            size,
            gap: 0,
            pid: request.pid,
            oneway: request.oneway,
            data: None,
        };
        let tail_size = self.tail_size();
        let inner = self
            .holes
            .cursor_lower_bound_mut(&Key::hole(size, 0))
            // The tail is above all other holes, so it loses against one of the same length.
            .filter(|hole| tail_size < size || hole.current().0.hole_size() <= tail_size);

        if let Some(cursor) = inner {
            let hole = *cursor.current().0;
            let start = hole.offset();
            let end = start.saturating_add(hole.hole_size());
            let rest = hole.hole_size().saturating_sub(size);

            // A range that fills the hole can have its node.
            let memory = if rest == 0 {
                cursor.remove_current().1.into_reservation()
            } else {
                let memory = self.stock.take().ok_or(ReserveError::NeedSpare)?;
                let shrunk = cursor.remove_current().1.into_reservation();
                let rest = Key::hole(rest, start.saturating_add(size));
                insert(&mut self.holes, shrunk, rest, Entry::HOLE);
                memory
            };
            // INVARIANT: The new range begins where the hole did, so nothing is free right below
            // it; what is left of the hole, if anything, still ends where the range above begins.
            if let Some(above) = self.live.get_mut(&Key::live(end)) {
                above.gap = above.gap.saturating_sub(size);
            }
            insert(&mut self.live, memory, Key::live(start), entry);

            Ok(start as usize..end as usize)
        } else if size <= tail_size {
            let memory = self.stock.take().ok_or(ReserveError::NeedSpare)?;
            let start = self.tail;

            // INVARIANT: The new range begins at the old tail and ends at the new one.
            self.tail = start.saturating_add(size);
            insert(&mut self.live, memory, Key::live(start), entry);

            Ok(start as usize..self.size as usize)
        } else {
            Err(ReserveError::NoSpace {
                largest_hole: self.largest_hole(),
                free: self.free_space(),
            })
        }
    }

    /// Takes a hole out of `holes`; its node goes to the stock.
    fn remove_hole(&mut self, key: Key) {
        if let Some(node) = self.holes.remove_node(&key) {
            drop(self.stock.put(node.into_reservation()));
        }
    }

    /// Whether a reservation just made by `pid` makes it suspect, for the first time since the one-way
    /// space was last in good order.
    fn is_spam(&mut self, pid: i32) -> bool {
        // A tenth of the mapping is a fifth of the one-way space.
        if self.oneway_free >= self.size / 10 {
            self.spam_reported = false;
            return false;
        }
        if self.spam_reported {
            return false;
        }

        let mut ranges = 0_usize;
        let mut bytes = 0_u32;
        self.spam_reported = self
            .live
            .values()
            .filter(|entry| entry.oneway && entry.pid == pid)
            .any(|entry| {
                ranges = ranges.saturating_add(1);
                bytes = bytes.saturating_add(entry.size);
                ranges > SPAM_RANGES || bytes > self.size / 4
            });

        self.spam_reported
    }
}

/// The length of a range for a request of `size` bytes.
fn round_up(size: usize) -> Option<u32> {
    let size = size.max(1).checked_next_multiple_of(GRANULE)?;

    u32::try_from(size).ok()
}

/// The key of a range that begins at `offset`, if one can begin there.
fn live_key(offset: usize) -> Option<Key> {
    u32::try_from(offset).ok().map(Key::live)
}

#[cfg(CONFIG_KUNIT = "y")]
mod model;

#[kunit_tests(binder_range_alloc)]
mod tests {
    use core::cell::Cell;

    use super::{
        model::Token,
        node::SPARES,
        *, //
    };

    const PAGE: usize = 4096;

    fn sync(size: usize) -> Request {
        Request {
            size,
            oneway: false,
            pid: 1,
        }
    }

    fn oneway(size: usize, pid: i32) -> Request {
        Request {
            size,
            oneway: true,
            pid,
        }
    }

    /// Reserves as the driver does: memory when asked for it.
    fn reserve<T>(ranges: &mut RangeAllocator<T>, request: Request) -> Result<Reserved> {
        match ranges.reserve(&request) {
            Err(ReserveError::NeedSpare) => (),
            outcome => return outcome.map_err(|_| ENOSPC),
        }
        ranges.add_spare(Spare::new()?);
        ranges.reserve(&request).map_err(|_| ENOSPC)
    }

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
        assert_eq!(ranges.size(), PAGE);
        assert_eq!(ranges.free_space(), PAGE);
        assert_eq!(ranges.oneway_space(), PAGE / 2);
        assert_eq!(ranges.largest_hole(), PAGE);
        assert_eq!(ranges.live(), 0);
        assert_eq!(ranges.stock.len(), 0);
        assert_eq!(ranges.reserve(&sync(8)), Err(ReserveError::NeedSpare));
        assert_eq!(ranges.live(), 0);
        assert!(ranges.pop_any().is_none());
    }

    #[test]
    fn mapping_sizes_at_their_limits() {
        let none = Err(ReserveError::NoSpace {
            largest_hole: 0,
            free: 0,
        });
        assert_eq!(RangeAllocator::<()>::new(0).reserve(&sync(0)), none);
        assert_eq!(RangeAllocator::<()>::new(7).reserve(&sync(1)), none);
        assert_eq!(RangeAllocator::<()>::new(15).size(), 8);
        assert_eq!(RangeAllocator::<()>::new(usize::MAX).size(), 0xffff_fff8);
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
            assert_eq!(ranges.reserve(&sync(size)), Err(ReserveError::TooBig));
        }
        Ok(())
    }

    #[test]
    fn shortest_hole_that_fits_and_the_lowest_of_them() -> Result {
        // Holes of 512, 256, 256 bytes, and a tail of 2048.
        let mut ranges = with_ranges(8)?;
        for offset in [0, 256, 768, 1280] {
            ranges.free(offset).map_err(|_| EINVAL)?;
        }
        let first = reserve(&mut ranges, sync(200))?;
        assert_eq!((first.offset, first.hole), (768, 768..1024));
        let second = reserve(&mut ranges, sync(256))?;
        assert_eq!((second.offset, second.hole), (1280, 1280..1536));
        let third = reserve(&mut ranges, sync(256))?;
        assert_eq!((third.offset, third.hole), (0, 0..512));
        let fourth = reserve(&mut ranges, sync(257))?;
        assert_eq!((fourth.offset, fourth.hole), (2048, 2048..PAGE));
        Ok(())
    }

    #[test]
    fn tail_competes_as_any_hole() -> Result {
        // A hole of 256 bytes below, and a tail first as long as that and then shorter.
        let mut ranges = with_ranges(2)?;
        ranges.free(0).map_err(|_| EINVAL)?;
        let filler = reserve(&mut ranges, sync(PAGE - 3 * 256))?;
        assert_eq!(filler.hole, 512..PAGE);
        assert_eq!(reserve(&mut ranges, sync(8))?.offset, 0);
        ranges.free(0).map_err(|_| EINVAL)?;
        assert_eq!(reserve(&mut ranges, sync(248))?.offset, 0);
        ranges.free(0).map_err(|_| EINVAL)?;
        let tail = PAGE - 256;
        assert_eq!(reserve(&mut ranges, sync(256))?.offset, 0);
        assert_eq!(reserve(&mut ranges, sync(8))?.offset, tail);
        ranges.free(0).map_err(|_| EINVAL)?;
        assert_eq!(reserve(&mut ranges, sync(8))?.offset, tail + 8);
        Ok(())
    }

    #[test]
    fn neighbouring_holes_become_one() -> Result {
        let hole = |ranges: &mut RangeAllocator<()>, offset| ranges.free(offset).map(|f| f.hole);
        let mut ranges = with_ranges(6)?;
        assert_eq!(hole(&mut ranges, 256), Ok(256..512));
        assert_eq!(hole(&mut ranges, 768), Ok(768..1024));
        assert_eq!(hole(&mut ranges, 512), Ok(256..1024));
        assert_eq!(hole(&mut ranges, 0), Ok(0..1024));
        assert_eq!(hole(&mut ranges, 1280), Ok(1280..PAGE));
        assert_eq!(hole(&mut ranges, 1024), Ok(0..PAGE));
        assert!(ranges.holes.is_empty());
        Ok(())
    }

    #[test]
    fn only_one_gets_the_range_back() -> Result {
        let drops = Cell::new(0);
        let mut ranges = RangeAllocator::new(PAGE);
        reserve(&mut ranges, sync(64))?;
        assert!(ranges.take(0).is_none());
        assert!(ranges.commit(0, Token::new(1, &drops)).is_ok());
        let refused = ranges.commit(0, Token::new(2, &drops));
        assert_eq!(refused.map_err(|token| token.id()), Err(2));
        assert_eq!(ranges.free(0), Err(FreeError::Held));
        assert_eq!(ranges.data(0).map(Token::id), Some(1));
        let taken = ranges.take(0);
        assert!(ranges.take(0).is_none());
        assert!(ranges.data(0).is_none());
        assert!(ranges.free(0).is_ok());
        assert_eq!(ranges.free(0), Err(FreeError::NotFound));
        assert_eq!(drops.get(), 1);
        assert_eq!(taken.map(|token| token.id()), Some(1));
        Ok(())
    }

    #[test]
    fn oneway_calls_have_half() -> Result {
        let mut ranges = RangeAllocator::<()>::new(PAGE);
        assert_eq!(
            ranges.reserve(&oneway(PAGE / 2 + 1, 1)),
            Err(ReserveError::NoOnewaySpace { free: PAGE / 2 })
        );
        reserve(&mut ranges, oneway(PAGE / 2 - 8, 1))?;
        reserve(&mut ranges, oneway(1, 1))?;
        assert_eq!(
            ranges.reserve(&oneway(0, 1)),
            Err(ReserveError::NoOnewaySpace { free: 0 })
        );
        reserve(&mut ranges, sync(PAGE / 2))?;
        assert_eq!(ranges.free(0).map(|freed| freed.oneway), Ok(true));
        assert_eq!(ranges.oneway_space(), PAGE / 2 - 8);
        assert_eq!(ranges.free(PAGE / 2).map(|freed| freed.oneway), Ok(false));
        assert_eq!(ranges.oneway_space(), PAGE / 2 - 8);
        Ok(())
    }

    #[test]
    fn spam_by_number_at_its_limit() -> Result {
        // A thousand granules: a tenth is a hundred granules, and 50 of them are far below a quarter.
        let mut ranges = RangeAllocator::<()>::new(8000);
        for _ in 0..50 {
            assert!(!reserve(&mut ranges, oneway(8, 7))?.spam_suspect);
        }
        // What another sender does is not this one's fault: one-way space is at its threshold.
        assert!(!reserve(&mut ranges, oneway(2000, 8))?.spam_suspect);
        assert!(!reserve(&mut ranges, oneway(800, 9))?.spam_suspect);
        assert_eq!(ranges.oneway_space(), 800);
        assert!(reserve(&mut ranges, oneway(8, 7))?.spam_suspect);
        assert!(!reserve(&mut ranges, oneway(8, 7))?.spam_suspect);
        // It recovers to the threshold, the next call says so, and the one after that is suspect.
        ranges.free(0).map_err(|_| EINVAL)?;
        ranges.free(8).map_err(|_| EINVAL)?;
        ranges.free(16).map_err(|_| EINVAL)?;
        assert!(!reserve(&mut ranges, oneway(8, 7))?.spam_suspect);
        assert!(reserve(&mut ranges, oneway(8, 7))?.spam_suspect);
        assert!(!reserve(&mut ranges, oneway(8, 7))?.spam_suspect);
        Ok(())
    }

    #[test]
    fn spam_by_bytes_at_its_limit() -> Result {
        let mut ranges = RangeAllocator::<()>::new(8000);
        reserve(&mut ranges, oneway(1208, 1))?;
        reserve(&mut ranges, sync(2400))?;
        // Less than a tenth is left, a quarter is not exceeded, and calls with a reply do not count.
        assert!(!reserve(&mut ranges, oneway(2000, 2))?.spam_suspect);
        assert_eq!(ranges.oneway_space(), 792);
        assert!(reserve(&mut ranges, oneway(8, 2))?.spam_suspect);
        Ok(())
    }

    #[test]
    fn steady_state_needs_no_memory() -> Result {
        let mut ranges = RangeAllocator::<()>::new(1 << 20);
        let mut older = reserve(&mut ranges, sync(128))?.offset;
        let mut newer = reserve(&mut ranges, sync(256))?.offset;
        // The older goes, another comes. Three turns make all the nodes that this ever takes.
        for turn in 0..100 {
            ranges.free(older).map_err(|_| EINVAL)?;
            older = newer;
            newer = if turn < 3 {
                reserve(&mut ranges, sync(200))?.offset
            } else {
                ranges.reserve(&sync(200)).map_err(|_| ENOMEM)?.offset
            };
        }
        while ranges.pop_any().is_some() {}
        assert_eq!(ranges.free_space(), 1 << 20);
        assert_eq!(ranges.stock.len(), SPARES);
        assert!(ranges.add_spare(Spare::new()?).is_some());
        Ok(())
    }

    #[test]
    fn a_range_that_fills_a_hole_needs_no_memory() -> Result {
        let mut ranges = with_ranges(3)?;
        ranges.free(256).map_err(|_| EINVAL)?;
        assert_eq!(ranges.stock.len(), 0);
        assert_eq!(ranges.reserve(&sync(8)), Err(ReserveError::NeedSpare));
        assert_eq!(ranges.largest_hole(), PAGE - 768);
        assert_eq!(ranges.reserve(&sync(256)).map(|r| r.offset), Ok(256));
        Ok(())
    }

    #[test]
    fn thousands_of_ranges() -> Result {
        let mut ranges = RangeAllocator::<()>::new(1 << 20);
        let count = (1 << 20) / 64;
        for n in 0..count {
            assert_eq!(reserve(&mut ranges, sync(64))?.offset, n * 64);
        }
        assert_eq!((ranges.live(), ranges.largest_hole()), (count, 0));
        for n in (0..count).step_by(2) {
            assert!(ranges.free(n * 64).is_ok());
        }
        assert_eq!(ranges.largest_hole(), 64);
        assert!(reserve(&mut ranges, sync(65)).is_err());
        for n in (1..count).step_by(2) {
            assert!(ranges.free(n * 64).is_ok());
        }
        assert_eq!((ranges.live(), ranges.largest_hole()), (0, 1 << 20));
        assert_eq!(ranges.stock.len(), SPARES);
        Ok(())
    }
}
