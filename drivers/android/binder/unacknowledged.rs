// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Notifications that user space has read and not yet acknowledged.
//!
//! User space acknowledges a notification by its cookie. It chose the cookie, so several notifications may have the
//! same one. A tree by cookie and time of delivery finds the oldest in O(log n). The memory for the entry is allocated
//! when the notification is requested, because the entry is added under a spinlock.

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

/// Whether a notification is in the tree.
pub(crate) enum Place<T> {
    /// It is not; this is the memory for its entry.
    Outside(RBTreeNodeReservation<Key, Item<T>>),
    /// It is, at this key.
    Inside(Key),
    /// It is being moved, under the lock of the tree, or is over.
    Nowhere,
}

impl<T> Place<T> {
    /// For a new notification.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self::Outside(RBTreeNodeReservation::new(
            GFP_KERNEL_ACCOUNT,
        )?))
    }

    /// Takes the place out of a notification. The notification gets one again before the lock is dropped, or is over.
    pub(crate) fn take(&mut self) -> Self {
        core::mem::replace(self, Self::Nowhere)
    }

    /// Whether the notification was read and not yet acknowledged.
    pub(crate) fn is_inside(&self) -> bool {
        matches!(self, Self::Inside(_))
    }
}

impl<T> Unacknowledged<T> {
    /// An empty tree.
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

    /// Adds `item`, which is being read. `place` was its place; returns its new one.
    pub(crate) fn insert(&mut self, item: Item<T>, cookie: u64, place: Place<T>) -> Place<T> {
        let Place::Outside(reservation) = place else {
            // A notification in the tree is on no todo list, so that it is not read again.
            warn_on!(true);
            return place;
        };
        let key = (cookie, self.next);
        self.next = self.next.wrapping_add(1);
        self.entries.insert(reservation.into_node(key, item));
        Place::Inside(key)
    }

    /// Takes the oldest notification with `cookie` out. Returns it with its new place.
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

    /// Takes the notification at `key` out. Returns it with its new place.
    pub(crate) fn remove(&mut self, key: Key) -> Option<(Item<T>, Place<T>)> {
        let entry = self.entries.find_mut(&key)?;
        let item = entry.get().clone();
        // This drops the table's reference, of which there is another in `item`.
        let reservation = entry.remove_node().into_reservation();
        Some((item, Place::Outside(reservation)))
    }
}
