// SPDX-License-Identifier: GPL-2.0

//! The two topmost ranges of a mapping, outside the trees.
//!
//! Nothing is ever moved from cell to cell, and filling or emptying one leaves alone the place for what
//! the driver keeps with a range: that is the larger part of a cell.

#![forbid(unsafe_code)]

use core::mem::replace;

use super::{
    trees::Entry,
    Request, //
};

/// The offset that an empty cell has. No range begins there: it is not a multiple of a granule.
pub(super) const NOWHERE: u32 = u32::MAX;

/// A place for a range, with the hole right below it.
///
/// # Invariants
///
/// In an empty cell, `offset` is [`NOWHERE`], `size` and `gap` are zero, and there is no data.
pub(super) struct Cell<T> {
    pub(super) offset: u32,
    pub(super) entry: Entry<T>,
}

impl<T> Cell<T> {
    const EMPTY: Self = Self {
        offset: NOWHERE,
        entry: Entry::NONE,
    };

    pub(super) fn is_empty(&self) -> bool {
        self.offset == NOWHERE
    }

    /// Where the hole below begins.
    pub(super) fn hole_start(&self) -> u32 {
        self.offset.saturating_sub(self.entry.gap)
    }

    /// Puts a reserved range, with no hole below it, into an empty cell.
    pub(super) fn fill(&mut self, offset: u32, size: u32, request: &Request) {
        self.offset = offset;
        self.entry.size = size;
        self.entry.pid = request.pid;
        self.entry.id = request.id;
        self.entry.oneway = request.oneway;
    }

    /// Empties a cell whose range has no data.
    pub(super) fn clear(&mut self) {
        // INVARIANT: The cell is empty.
        self.offset = NOWHERE;
        self.entry.size = 0;
        self.entry.gap = 0;
    }

    /// Takes the range out, with its data.
    pub(super) fn take(&mut self) -> Entry<T> {
        self.offset = NOWHERE;
        replace(&mut self.entry, Entry::NONE)
    }
}

/// Up to two ranges.
///
/// Which of the cells is the upper one is a flag.
///
/// # Invariants
///
/// If there is a low range, there is a top range, and it is above.
pub(super) struct Cells<T> {
    first: Cell<T>,
    second: Cell<T>,
    second_is_top: bool,
}

impl<T> Cells<T> {
    pub(super) fn new() -> Self {
        // INVARIANT: There is no range.
        Self {
            first: Cell::EMPTY,
            second: Cell::EMPTY,
            second_is_top: false,
        }
    }

    /// The low and the top cell.
    pub(super) fn get(&self) -> (&Cell<T>, &Cell<T>) {
        if self.second_is_top {
            (&self.first, &self.second)
        } else {
            (&self.second, &self.first)
        }
    }

    /// As [`get`](Self::get), to change them.
    pub(super) fn get_mut(&mut self) -> (&mut Cell<T>, &mut Cell<T>) {
        if self.second_is_top {
            (&mut self.first, &mut self.second)
        } else {
            (&mut self.second, &mut self.first)
        }
    }

    /// Makes the low cell the top one, and the other way round.
    ///
    /// Goes with emptying the top cell, or with filling the low one with a range above the top one.
    pub(super) fn swap(&mut self) {
        // INVARIANT: The caller does the rest.
        self.second_is_top = !self.second_is_top;
    }

    /// The ranges there are, from the lowest on.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Cell<T>> {
        let (low, top) = self.get();

        [low, top].into_iter().filter(|cell| !cell.is_empty())
    }

    /// The range at `offset`.
    pub(super) fn find(&mut self, offset: u32) -> Option<&mut Entry<T>> {
        if offset == self.first.offset {
            Some(&mut self.first.entry)
        } else if offset == self.second.offset {
            Some(&mut self.second.entry)
        } else {
            None
        }
    }
}
