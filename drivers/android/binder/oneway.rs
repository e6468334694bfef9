// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! The one-way transactions that wait behind the one that a node's owner works on.
//!
//! They are handed out in the order in which they were sent. One with `TF_UPDATE_TXN` that is sent while the owner is
//! frozen replaces the first waiting one with the same code, flags and sender. Those with the flag are in a tree of
//! their own, by code, flags and sender. Each records how many without the flag were sent before it, which gives the
//! order of all.

use kernel::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::Arc, //
};

use crate::{
    todo::{
        TodoList,
        Work,
        WorkItem,
        WorkItemArc, //
    },
    transaction::Transaction, //
};

/// What an update and the one that it replaces have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UpdateKind {
    pub(crate) code: u32,
    pub(crate) flags: u32,
    pub(crate) sender_pid: i32,
}

/// The position of an update in the queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    /// The number of other transactions that were queued before it.
    behind: u64,
    /// The number of updates that were queued before it.
    number: u64,
}

/// The memory for an update in the queue.
pub(crate) struct UpdateSlots<T = Transaction> {
    order: RBTreeNodeReservation<Position, (UpdateKind, WorkItemArc<T>)>,
    kind: RBTreeNodeReservation<(UpdateKind, Position), ()>,
}

impl<T> UpdateSlots<T> {
    /// Allocates it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            order: RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?,
            kind: RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?,
        })
    }
}

/// The waiting one-way transactions of one node.
///
/// # Invariants
///
/// `updates` and `kinds` have the same entries.
pub(crate) struct OnewayQueue<T = Transaction> {
    plain: TodoList,
    /// How many were put into `plain` and taken from it in all.
    plain_in: u64,
    plain_out: u64,
    updates: RBTree<Position, (UpdateKind, WorkItemArc<T>)>,
    kinds: RBTree<(UpdateKind, Position), ()>,
    updates_in: u64,
}

impl<T: Work + 'static> OnewayQueue<T> {
    /// An empty queue.
    pub(crate) fn new() -> Self {
        Self {
            plain: TodoList::new(),
            plain_in: 0,
            plain_out: 0,
            updates: RBTree::new(),
            kinds: RBTree::new(),
            updates_in: 0,
        }
    }

    /// Appends a transaction.
    pub(crate) fn push_back(&mut self, work: WorkItemArc<T>) {
        self.plain_in = self.plain_in.wrapping_add(1);
        self.plain.push_back(work);
    }

    /// Appends an update.
    pub(crate) fn push_update(
        &mut self,
        kind: UpdateKind,
        work: WorkItemArc<T>,
        slots: UpdateSlots<T>,
    ) {
        let position = Position {
            behind: self.plain_in,
            number: self.updates_in,
        };
        self.updates_in = self.updates_in.wrapping_add(1);
        // INVARIANT: It is added to both.
        self.updates
            .insert(slots.order.into_node(position, (kind, work)));
        self.kinds
            .insert(slots.kind.into_node((kind, position), ()));
    }

    /// Takes the first update of this kind out.
    pub(crate) fn take_update(&mut self, kind: UpdateKind) -> Option<WorkItemArc<T>> {
        let first = Position {
            behind: 0,
            number: 0,
        };
        let cursor = self.kinds.cursor_lower_bound(&(kind, first))?;
        let (&(other, position), ()) = cursor.current();
        if other != kind {
            return None;
        }
        self.take_at(position)
    }

    fn take_at(&mut self, position: Position) -> Option<WorkItemArc<T>> {
        let (kind, work) = self.updates.remove(&position)?;
        // INVARIANT: It is removed from both.
        self.kinds.remove(&(kind, position));
        Some(work)
    }

    /// Takes the first.
    pub(crate) fn pop_front(&mut self) -> Option<WorkItemArc<dyn Work>> {
        let update = self.updates.cursor_front().map(|first| *first.current().0);
        if let Some(position) = update {
            if position.behind <= self.plain_out {
                return self
                    .take_at(position)
                    .map(|work| work as WorkItemArc<dyn Work>);
            }
        }
        let work = self.plain.pop_front()?;
        self.plain_out = self.plain_out.wrapping_add(1);
        Some(work)
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Arc<WorkItem<dyn Work>>> + '_ {
        let mut plain = self.plain.iter();
        let mut updates = self.updates.iter().peekable();
        let mut out = self.plain_out;
        core::iter::from_fn(move || {
            if let Some((_, (_, work))) = updates.next_if(|(at, _)| at.behind <= out) {
                let work: Arc<WorkItem<dyn Work>> = work.clone_arc();
                return Some(work);
            }
            out = out.wrapping_add(1);
            plain.next().map(Arc::from)
        })
    }
}

#[kunit_tests(binder_oneway_queue)]
mod tests {
    use super::*;
    use crate::{
        process::InnerGuard,
        read_buffer::ReadBuffer,
        thread::Thread,
        todo::{
            Delivered,
            Listed, //
        },
    };

    struct Item;

    #[expect(unsafe_code)]
    // SAFETY: There is no home.
    unsafe impl Work for Item {
        fn deliver(
            self: Arc<WorkItem<Self>>,
            _: &Arc<Thread>,
            _: InnerGuard<'_>,
            _: &mut ReadBuffer<'_>,
        ) -> Result<Delivered> {
            Err(EINVAL)
        }

        fn cancel(self: Arc<WorkItem<Self>>) {}

        fn listed(self: Arc<WorkItem<Self>>) -> Listed {
            unreachable!()
        }
    }

    fn kind(code: u32) -> UpdateKind {
        UpdateKind {
            code,
            flags: 0x41,
            sender_pid: 7,
        }
    }

    struct World {
        queue: OnewayQueue<Item>,
        all: KVec<Arc<WorkItem<Item>>>,
    }

    impl World {
        fn new() -> Self {
            Self {
                queue: OnewayQueue::new(),
                all: KVec::new(),
            }
        }

        fn item(&mut self) -> Result<WorkItemArc<Item>> {
            let item = WorkItem::new(Item)?;
            self.all.push(item.clone(), GFP_KERNEL)?;
            item.to_queue().ok_or(EINVAL)
        }

        fn plain(&mut self) -> Result {
            let item = self.item()?;
            self.queue.push_back(item);
            Ok(())
        }

        fn update(&mut self, code: u32) -> Result {
            let item = self.item()?;
            self.queue
                .push_update(kind(code), item, UpdateSlots::new()?);
            Ok(())
        }

        /// The number of an item: how many were made before it.
        fn number<T: ?Sized>(&self, work: *const T) -> Option<usize> {
            self.all
                .iter()
                .position(|item| core::ptr::addr_eq(Arc::as_ptr(item), work))
        }

        fn order(&self) -> Result<KVec<usize>> {
            let mut order = KVec::new();
            for work in self.queue.iter() {
                order.push(self.number(Arc::as_ptr(&work)).ok_or(EINVAL)?, GFP_KERNEL)?;
            }
            Ok(order)
        }

        fn drain(&mut self) -> Result<KVec<usize>> {
            let mut order = KVec::new();
            while let Some(work) = self.queue.pop_front() {
                let work = work.into_arc();
                order.push(self.number(Arc::as_ptr(&work)).ok_or(EINVAL)?, GFP_KERNEL)?;
            }
            Ok(order)
        }
    }

    #[test]
    fn transactions_come_out_as_they_went_in() -> Result {
        let mut world = World::new();
        world.update(1)?;
        world.plain()?;
        world.plain()?;
        world.update(1)?;
        world.update(2)?;
        world.plain()?;
        assert_eq!(world.order()?.as_slice(), &[0, 1, 2, 3, 4, 5]);
        let first = world.queue.pop_front().ok_or(EINVAL)?.into_arc();
        assert_eq!(world.number(Arc::as_ptr(&first)), Some(0));
        let second = world.queue.pop_front().ok_or(EINVAL)?.into_arc();
        assert_eq!(world.number(Arc::as_ptr(&second)), Some(1));
        world.update(1)?;
        assert_eq!(world.order()?.as_slice(), &[2, 3, 4, 5, 6]);
        assert_eq!(world.drain()?.as_slice(), &[2, 3, 4, 5, 6]);
        assert!(world.queue.pop_front().is_none());
        Ok(())
    }

    #[test]
    fn the_first_update_of_a_kind_is_found() -> Result {
        let mut world = World::new();
        world.plain()?;
        world.update(1)?;
        world.update(2)?;
        world.plain()?;
        world.update(1)?;
        assert!(world.queue.take_update(kind(0)).is_none());
        assert!(world.queue.take_update(kind(3)).is_none());
        let mut other = kind(1);
        other.sender_pid = 8;
        assert!(world.queue.take_update(other).is_none());
        let taken = world.queue.take_update(kind(1)).ok_or(EINVAL)?.into_arc();
        assert_eq!(world.number(Arc::as_ptr(&taken)), Some(1));
        let taken = world.queue.take_update(kind(1)).ok_or(EINVAL)?.into_arc();
        assert_eq!(world.number(Arc::as_ptr(&taken)), Some(4));
        assert!(world.queue.take_update(kind(1)).is_none());
        assert_eq!(world.drain()?.as_slice(), &[0, 2, 3]);
        assert!(world.queue.take_update(kind(2)).is_none());
        Ok(())
    }
}
