// SPDX-License-Identifier: GPL-2.0

//! Ranges and the holes between them, for any number of ranges.
//!
//! `live` holds the ranges, by offset; each knows the length of the hole right below it. `holes` holds
//! those holes, by length and then offset, so that the best fit is one search.
//!
//! The nodes of both trees have one type. A freed range that leaves a hole of its own becomes that
//! hole with the node it had; a range that fills a hole takes over the node of the hole. So a range
//! needs a node for itself, and one for the hole below it if it comes with one; removing it needs
//! no memory at all. A node that is left over goes to a small stock.

#![forbid(unsafe_code)]

use core::mem::replace;

use kernel::{
    alloc::{
        AllocError,
        Flags, //
    },
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    }, //
};

use super::{
    FreeError,
    Live,
    Request,
    ReserveError, //
};

/// What is known about a range besides its offset.
pub(super) struct Entry<T> {
    /// Length of the range.
    pub(super) size: u32,
    /// Length of the hole that ends where the range begins; zero if another range ends there.
    pub(super) gap: u32,
    /// The process that asked for the range.
    pub(super) pid: i32,
    /// The number that came with the request.
    pub(super) id: u32,
    /// Whether the range is charged to the one-way space.
    pub(super) oneway: bool,
    /// What the driver keeps with a range that user space holds; `None`: the driver has it in hand.
    pub(super) data: Option<T>,
}

impl<T> Entry<T> {
    /// No range.
    pub(super) const NONE: Self = Self {
        size: 0,
        gap: 0,
        pid: 0,
        id: 0,
        oneway: false,
        data: None,
    };

    /// A reserved range of `size` bytes, with no hole below it.
    pub(super) fn new(size: u32, request: &Request) -> Self {
        Self {
            size,
            gap: 0,
            pid: request.pid,
            id: request.id,
            oneway: request.oneway,
            data: None,
        }
    }

    /// The process that asked for the range, if that is charged to the one-way space.
    pub(super) fn oneway_pid(&self) -> Option<i32> {
        self.oneway.then_some(self.pid)
    }
}

/// Place of a node in one of the trees.
///
/// Both have the same key type, because both have the same nodes: a range sorts by its offset, a hole
/// by its length and, among those of one length, by its offset.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key(u64);

impl Key {
    const fn live(offset: u32) -> Self {
        Self(offset as u64)
    }

    const fn hole(size: u32, offset: u32) -> Self {
        Self((size as u64) << u32::BITS | offset as u64)
    }

    /// The offset of the range or of the hole.
    const fn offset(self) -> u32 {
        self.0 as u32
    }

    /// The length of the hole; zero for a range.
    const fn hole_size(self) -> u32 {
        (self.0 >> u32::BITS) as u32
    }
}

type Tree<T> = RBTree<Key, Entry<T>>;
type Memory<T> = RBTreeNodeReservation<Key, Entry<T>>;

/// Puts a node into a tree that has none with this key.
#[inline(always)]
fn insert<T>(tree: &mut Tree<T>, memory: Memory<T>, key: Key, entry: Entry<T>) {
    let replaced = tree.insert(memory.into_node(key, entry));
    debug_assert!(replaced.is_none());
}

/// Nodes that are kept for later: as many as a range can need.
///
/// More would be memory that lies about in every process that was once busy.
pub(super) const SPARES: usize = 2;

/// The nodes that are in neither tree.
struct Stock<T>([Option<Memory<T>>; SPARES]);

impl<T> Stock<T> {
    /// Gives the node back if the stock is full.
    fn put(&mut self, memory: Memory<T>) -> Option<Memory<T>> {
        match self.0.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => {
                *slot = Some(memory);
                None
            }
            None => Some(memory),
        }
    }

    fn take(&mut self) -> Option<Memory<T>> {
        self.0.iter_mut().find_map(Option::take)
    }
}

/// Memory for whatever one reservation can need, allocated while no lock was held.
pub(crate) struct Spare<T> {
    memory: [Option<Memory<T>>; SPARES],
}

impl<T> Spare<T> {
    /// Allocates the memory. May sleep.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if there is no memory.
    pub(crate) fn new(flags: Flags) -> Result<Self, AllocError> {
        let mut memory = [const { None }; SPARES];
        for slot in &mut memory {
            *slot = Some(Memory::new(flags).map_err(|_| AllocError)?);
        }

        Ok(Self { memory })
    }
}

/// Memory for one range that joins the trees.
pub(super) struct Room<T> {
    range: Memory<T>,
    /// For the hole right below it, if there is one.
    hole: Option<Memory<T>>,
}

/// What was left where a range was.
pub(super) struct Removed {
    /// Length of the range.
    pub(super) size: u32,
    /// The process that it was charged to, if it was one-way.
    pub(super) oneway_pid: Option<i32>,
    /// If no range of the trees is above: where the hole begins that is now above all of them.
    pub(super) open: Option<u32>,
}

/// Any number of ranges, and the holes below each of them.
///
/// # Invariants
///
/// 1. `live` has each range, under [`Key::live`]. Ranges do not overlap.
/// 2. The `gap` of a range is its offset less the end of the range below it, or less zero.
/// 3. `holes` has, under [`Key::hole`], exactly one node for each `gap` that is not zero.
pub(super) struct Trees<T> {
    live: Tree<T>,
    holes: Tree<T>,
    stock: Stock<T>,
}

impl<T> Trees<T> {
    pub(super) fn new() -> Self {
        // INVARIANT: There is no range.
        Self {
            live: RBTree::new(),
            holes: RBTree::new(),
            stock: Stock([const { None }; SPARES]),
        }
    }

    /// Stocks memory; gives back what is too much.
    pub(super) fn add_spare(&mut self, mut spare: Spare<T>) -> Option<Spare<T>> {
        for slot in &mut spare.memory {
            *slot = slot.take().and_then(|memory| self.stock.put(memory));
        }

        spare.memory.iter().any(Option::is_some).then_some(spare)
    }

    pub(super) fn get(&self, offset: u32) -> Option<&Entry<T>> {
        self.live.get(&Key::live(offset))
    }

    pub(super) fn get_mut(&mut self, offset: u32) -> Option<&mut Entry<T>> {
        self.live.get_mut(&Key::live(offset))
    }

    /// The length of the longest hole below one of the ranges.
    pub(super) fn largest_hole(&self) -> u32 {
        match self.holes.cursor_back() {
            Some(cursor) => cursor.current().0.hole_size(),
            None => 0,
        }
    }

    /// The ranges, by rising offset.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(super) fn iter(&self) -> impl Iterator<Item = Live<'_, T>> {
        let live = self.live.iter();
        live.map(|(key, entry)| Live::new(key.offset(), entry))
    }

    /// The lowest range at `offset` or above.
    pub(super) fn at_or_above(&self, offset: u32) -> Option<Live<'_, T>> {
        // What a cursor lends ends with the cursor; the tree lends for as long as we need.
        let cursor = self.live.cursor_lower_bound(&Key::live(offset))?;
        let found = cursor.current().0.offset();

        Some(Live::new(found, self.get(found)?))
    }

    /// Whether there is any hole below a range.
    pub(super) fn has_holes(&self) -> bool {
        !self.holes.is_empty()
    }

    /// Cuts a range from the low end of the shortest hole that is long enough, of several such holes
    /// the lowest.
    ///
    /// `None` if there is no such hole, or only one of more than `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`ReserveError::NeedSpare`]; nothing has changed then.
    #[inline(never)]
    pub(super) fn cut(
        &mut self,
        size: u32,
        limit: u32,
        request: &Request,
    ) -> Result<Option<u32>, ReserveError> {
        let Some(cursor) = self
            .holes
            .cursor_lower_bound_mut(&Key::hole(size, 0))
            .filter(|cursor| cursor.current().0.hole_size() <= limit)
        else {
            return Ok(None);
        };
        let hole = *cursor.current().0;
        let start = hole.offset();
        let end = start.saturating_add(hole.hole_size());
        let rest = hole.hole_size().saturating_sub(size);

        let memory = if rest == 0 {
            cursor.remove_current().1.into_reservation()
        } else {
            let memory = self.stock.take().ok_or(ReserveError::NeedSpare)?;
            let shrunk = cursor.remove_current().1.into_reservation();
            let key = Key::hole(rest, start.saturating_add(size));
            insert(&mut self.holes, shrunk, key, Entry::NONE);
            memory
        };
        // INVARIANT: The new range begins where the hole did, so nothing is free right below it; what
        // is left of the hole, if anything, still ends where the range above begins.
        if let Some(above) = self.get_mut(end) {
            above.gap = rest;
        }
        insert(
            &mut self.live,
            memory,
            Key::live(start),
            Entry::new(size, request),
        );

        Ok(Some(start))
    }

    /// Takes memory out of the stock for a range with a hole of `gap` bytes right below it.
    ///
    /// # Errors
    ///
    /// [`ReserveError::NeedSpare`]; nothing has changed then.
    pub(super) fn room(&mut self, gap: u32) -> Result<Room<T>, ReserveError> {
        let range = self.stock.take().ok_or(ReserveError::NeedSpare)?;
        if gap == 0 {
            return Ok(Room { range, hole: None });
        }
        match self.stock.take() {
            Some(hole) => Ok(Room {
                range,
                hole: Some(hole),
            }),
            None => {
                drop(self.stock.put(range));
                Err(ReserveError::NeedSpare)
            }
        }
    }

    /// Adds a range at `offset`, which is above all others, with the hole right below it, for which
    /// `room` was made.
    pub(super) fn push(&mut self, room: Room<T>, offset: u32, entry: Entry<T>) {
        // INVARIANT: The caller says that none of ours is above, and what is right below.
        if let Some(memory) = room.hole {
            let key = Key::hole(entry.gap, offset.saturating_sub(entry.gap));
            insert(&mut self.holes, memory, key, Entry::NONE);
        }
        insert(&mut self.live, room.range, Key::live(offset), entry);
    }

    /// Removes a reserved range. It becomes one hole with the holes beside it.
    ///
    /// # Errors
    ///
    /// Any [`FreeError`]; nothing has changed then.
    pub(super) fn remove(&mut self, offset: u32) -> Result<Removed, FreeError> {
        let found = self
            .live
            .find_mut(&Key::live(offset))
            .ok_or(FreeError::NotFound)?;
        let entry = found.get();
        if entry.data.is_some() {
            return Err(FreeError::Held);
        }
        let (size, gap, oneway_pid) = (entry.size, entry.gap, entry.oneway_pid());
        let memory = found.remove_node().into_reservation();

        // INVARIANT: The holes on both sides leave `holes`; one that takes their place and that of the
        // range enters it, if there is a range above that it is the gap of.
        let start = offset.saturating_sub(gap);
        let end = offset.saturating_add(size);
        if gap != 0 {
            self.remove_hole(Key::hole(gap, start));
        }
        let above = self.live.cursor_lower_bound_mut(&Key::live(end));
        let open = if let Some(mut above) = above {
            let (key, above) = above.current_mut();
            let whole = key.offset().saturating_sub(start);
            let gap = replace(&mut above.gap, whole);
            if gap != 0 {
                self.remove_hole(Key::hole(gap, end));
            }
            insert(
                &mut self.holes,
                memory,
                Key::hole(whole, start),
                Entry::NONE,
            );
            None
        } else {
            drop(self.stock.put(memory));
            Some(start)
        };

        Ok(Removed {
            size,
            oneway_pid,
            open,
        })
    }

    /// Takes a hole out of `holes`; its node goes to the stock.
    fn remove_hole(&mut self, key: Key) {
        if let Some(node) = self.holes.remove_node(&key) {
            drop(self.stock.put(node.into_reservation()));
        }
    }
}

#[cfg(CONFIG_KUNIT = "y")]
impl<T> Trees<T> {
    /// Checks the invariants and returns where the topmost range ends, or `None` if one is broken.
    pub(super) fn check(&self) -> Option<u32> {
        let mut end = 0_u32;
        let mut holes = 0;
        for (key, entry) in self.live.iter() {
            if key.hole_size() != 0 || key.offset().checked_sub(end)? != entry.gap {
                return None;
            }
            if entry.gap != 0 {
                self.holes.get(&Key::hole(entry.gap, end))?;
                holes += 1;
            }
            end = key.offset().checked_add(entry.size)?;
        }

        (self.holes.iter().count() == holes).then_some(end)
    }

    /// The number of nodes in stock.
    pub(super) fn spares(&self) -> usize {
        self.stock.0.iter().flatten().count()
    }
}
