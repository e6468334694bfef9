// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Notifications that user space has read and not yet acknowledged.
//!
//! User space acknowledges a notification by its cookie, which it chose itself, so several may have the same one. A
//! table by cookie, and by time where the cookies are equal, finds the one that is meant in O(log n) however many there
//! are. The memory for its entry is allocated when the notification is requested, because the entry is made under a
//! spinlock.

use kernel::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::Arc,
    warn_on, //
};

use crate::todo::WorkItem;

/// A cookie, and the number of the delivery.
type Key = (u64, u64);

type Item<T> = Arc<WorkItem<T>>;

/// Notifications of one kind that one process has to acknowledge.
pub(crate) struct Unacknowledged<T> {
    entries: RBTree<Key, Item<T>>,
    /// The number of the next delivery.
    next: u64,
}

/// Where a notification stands with regard to the table.
pub(crate) enum Place<T> {
    /// Outside, with the memory for its entry.
    Outside(RBTreeNodeReservation<Key, Item<T>>),
    /// Inside.
    Inside(Key),
    /// Just being moved, under the lock of the table, or of no use any more.
    Nowhere,
}

impl<T> Place<T> {
    /// Of a new notification.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self::Outside(RBTreeNodeReservation::new(
            GFP_KERNEL_ACCOUNT,
        )?))
    }

    /// Takes the place out of a notification, which is to be given one again before the lock is dropped, or is over.
    pub(crate) fn take(&mut self) -> Self {
        core::mem::replace(self, Self::Nowhere)
    }

    /// Whether the notification was read and not yet acknowledged.
    pub(crate) fn is_inside(&self) -> bool {
        matches!(self, Self::Inside(_))
    }
}

impl<T> Unacknowledged<T> {
    /// An empty table.
    pub(crate) fn new() -> Self {
        Self {
            entries: RBTree::new(),
            next: 0,
        }
    }

    /// Whether everything was acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts `item`, which is being read, into the table. `place` is what it had as its place, and what is returned is
    /// its place from now on.
    pub(crate) fn insert(&mut self, item: Item<T>, cookie: u64, place: Place<T>) -> Place<T> {
        let Place::Outside(reservation) = place else {
            // What is in the table is not on a list, so it is not read again.
            warn_on!(true);
            return place;
        };
        let key = (cookie, self.next);
        self.next = self.next.wrapping_add(1);
        self.entries.insert(reservation.into_node(key, item));
        Place::Inside(key)
    }

    /// Takes the notification that was delivered first of those with `cookie`, with its new place.
    pub(crate) fn take(&mut self, cookie: u64) -> Option<(Item<T>, Place<T>)> {
        let cursor = self.entries.cursor_lower_bound(&(cookie, 0))?;
        let (&key, _) = cursor.current();
        if key.0 != cookie {
            return None;
        }
        self.remove(key)
    }

    /// Takes any notification out.
    pub(crate) fn take_any(&mut self) -> Option<(Item<T>, Place<T>)> {
        let key = *self.entries.cursor_front()?.current().0;
        self.remove(key)
    }

    /// Takes the notification at `key` out, with its new place.
    pub(crate) fn remove(&mut self, key: Key) -> Option<(Item<T>, Place<T>)> {
        let entry = self.entries.find_mut(&key)?;
        let item = entry.get().clone();
        // This drops the table's reference, of which there is another in `item`.
        let reservation = entry.remove_node().into_reservation();
        Some((item, Place::Outside(reservation)))
    }
}
