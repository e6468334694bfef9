// SPDX-License-Identifier: GPL-2.0

//! What the trees of the range allocator are made of, and the memory for it.
//!
//! Nodes of ranges and of holes have one type, so that a node can change from one to the other and
//! from one tree to the other without the slab allocator.

#![forbid(unsafe_code)]

use kernel::{
    alloc::AllocError,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    }, //
};

/// Nodes that are kept for later reservations.
///
/// Two let a process that has one buffer in hand while the next arrives run without the slab
/// allocator. More would be memory that lies about in every idle process.
pub(super) const SPARES: usize = 2;

/// Place of a node in one of the two trees.
///
/// Both trees have the same key type, because both have the same nodes: a range sorts by its offset,
/// a hole by its length and, among those of one length, by its offset.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u64);

impl Key {
    pub(super) const fn live(offset: u32) -> Self {
        Self(offset as u64)
    }

    pub(super) const fn hole(size: u32, offset: u32) -> Self {
        Self((size as u64) << u32::BITS | offset as u64)
    }

    /// The offset of the range or of the hole.
    pub(super) const fn offset(self) -> u32 {
        self.0 as u32
    }

    /// The length of the hole; zero for a range.
    pub(super) const fn hole_size(self) -> u32 {
        (self.0 >> u32::BITS) as u32
    }
}

/// What a node says about a range. Nothing of it means anything in a node of `holes`.
pub(super) struct Entry<T> {
    /// Length of the range.
    pub(super) size: u32,
    /// Length of the hole that ends where the range begins; zero if another range ends there.
    pub(super) gap: u32,
    /// The process that asked for the range.
    pub(super) pid: i32,
    /// Whether the range is charged to the one-way space.
    pub(super) oneway: bool,
    /// What the driver keeps with a range that user space holds; `None`: the driver has it in hand.
    pub(super) data: Option<T>,
}

impl<T> Entry<T> {
    /// For a hole: all there is to know about it is its key.
    pub(super) const HOLE: Self = Self {
        size: 0,
        gap: 0,
        pid: 0,
        oneway: false,
        data: None,
    };
}

pub(super) type Tree<T> = RBTree<Key, Entry<T>>;
pub(super) type Memory<T> = RBTreeNodeReservation<Key, Entry<T>>;

/// Puts a node into a tree that has none with this key.
#[inline(always)]
pub(super) fn insert<T>(tree: &mut Tree<T>, memory: Memory<T>, key: Key, entry: Entry<T>) {
    let replaced = tree.insert(memory.into_node(key, entry));
    debug_assert!(replaced.is_none());
}

/// The few nodes that are in neither tree.
pub(super) struct Stock<T>([Option<Memory<T>>; SPARES]);

impl<T> Stock<T> {
    pub(super) const EMPTY: Self = Self([const { None }; SPARES]);

    /// Gives the node back if the stock is full.
    pub(super) fn put(&mut self, memory: Memory<T>) -> Option<Memory<T>> {
        match self.0.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => {
                *slot = Some(memory);
                None
            }
            None => Some(memory),
        }
    }

    pub(super) fn take(&mut self) -> Option<Memory<T>> {
        self.0.iter_mut().find_map(Option::take)
    }

    #[cfg(CONFIG_KUNIT = "y")]
    pub(super) fn len(&self) -> usize {
        self.0.iter().flatten().count()
    }
}

/// Memory for one more range, allocated while no lock was held.
pub(crate) struct Spare<T> {
    pub(super) memory: Memory<T>,
}

impl<T> Spare<T> {
    /// Allocates the memory. May sleep.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if there is no memory.
    pub(crate) fn new() -> Result<Self, AllocError> {
        match Memory::new(GFP_KERNEL) {
            Ok(memory) => Ok(Self { memory }),
            Err(_) => Err(AllocError),
        }
    }
}
