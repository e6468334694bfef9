// SPDX-License-Identifier: GPL-2.0

//! Work items, and the todo lists of threads, processes and nodes.
//!
//! An item is taken off the middle of a list in O(1), without a search: see [`Home`]. All of it happens under
//! [`Process::inner`](crate::process::Process::inner) of the process that the list belongs to.

use kernel::{
    alloc::Flags,
    list::{
        impl_list_arc_safe,
        impl_list_item,
        AtomicTracker,
        List,
        ListArc,
        ListLinksSelfPtr,
        TryNewListArc, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        ArcBorrow, //
    },
};

use crate::{
    code::Code,
    death::DeathArc,
    freeze::FreezeArc,
    node::NodeArc,
    process::InnerGuard,
    read_buffer::ReadBuffer,
    thread::Thread,
    transaction::TransactionArc, //
};

/// Something that a read hands to user space.
///
/// # Safety
///
/// [`Work::home`] must return the same [`Home`], or none, as long as the value lives, and no other value may return it.
pub(crate) unsafe trait Work: Send + Sync {
    /// The list that the value stands on. Only a value that has this can be taken out of the middle of a list.
    fn home(&self) -> Option<&Home> {
        None
    }

    /// Delivers the item to user space. It was just taken off its list, and the lock of the list is still held.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the read buffer cannot be written to. What the item stands for is undone then.
    fn deliver(
        self: Arc<WorkItem<Self>>,
        thread: &Arc<Thread>,
        inner: InnerGuard<'_>,
        out: &mut ReadBuffer<'_>,
    ) -> Result<Delivered>;

    /// The item will never be read. No lock is held.
    fn cancel(self: Arc<WorkItem<Self>>);

    /// The item, for logs.
    fn listed(self: Arc<WorkItem<Self>>) -> Listed;

    /// Whether this is a transaction.
    fn is_transaction(&self) -> bool {
        false
    }
}

/// A work item, for listings.
pub(crate) enum Listed {
    /// A transaction.
    Transaction(TransactionArc),
    /// A node of which the owner is to be told something.
    Node(NodeArc),
    /// A return code without an argument.
    Code(Arc<WorkItem<Code>>),
    /// A death notification, or that the request for it was cleared.
    Death(DeathArc),
    /// A freeze notification, or that the request for it was cleared.
    Freeze(FreezeArc),
}

/// Whether a read goes on.
#[derive(PartialEq, Eq)]
pub(crate) enum Delivered {
    /// There may be more in this read.
    More,
    /// This was the last.
    Last,
}

/// A value that can stand on a todo list.
#[pin_data]
pub(crate) struct WorkItem<T: ?Sized> {
    #[pin]
    links: ListLinksSelfPtr<WorkItem<dyn Work>>,
    #[pin]
    tracker: AtomicTracker,
    value: T,
}

/// The list that a value stands on, so that the value is taken off it without a search.
///
/// # Invariants
///
/// The id of the list that the value stands on; 0 while it stands on none. It changes together with that, under the
/// exclusive borrow of the list.
pub(crate) struct Home(Atomic<u64>);

impl Home {
    /// The value is on no list.
    pub(crate) const fn new() -> Self {
        Self(Atomic::new(0))
    }
}

/// A todo list: work items in the order in which they are to be read.
///
/// # Invariants
///
/// No two lists have the same `id`, and none has 0.
pub(crate) struct TodoList {
    list: List<WorkItem<dyn Work>>,
    id: u64,
}

impl TodoList {
    /// An empty list.
    pub(crate) fn new() -> Self {
        static LAST: Atomic<u64> = Atomic::new(0);

        Self {
            list: List::new(),
            // INVARIANT: A counter of 64 bits does not wrap while a machine runs.
            id: LAST.fetch_add(1, Relaxed).wrapping_add(1),
        }
    }

    /// Whether there is no work.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Appends work.
    #[inline]
    pub(crate) fn push_back<T: Work + 'static>(&mut self, work: WorkItemArc<T>) {
        if let Some(home) = work.home() {
            // INVARIANT: The value is put on this list.
            home.0.store(self.id, Relaxed);
        }
        self.list.push_back(work);
    }

    /// Appends work of any kind.
    pub(crate) fn push_back_any(&mut self, work: WorkItemArc<dyn Work>) {
        if let Some(home) = work.home() {
            // INVARIANT: The value is put on this list.
            home.0.store(self.id, Relaxed);
        }
        self.list.push_back(work);
    }

    /// Takes the first.
    #[inline]
    pub(crate) fn pop_front(&mut self) -> Option<WorkItemArc<dyn Work>> {
        let work = self.list.pop_front()?;
        if let Some(home) = work.home() {
            // INVARIANT: The value was just taken off.
            home.0.store(0, Relaxed);
        }
        Some(work)
    }

    /// Whether the first is a transaction.
    pub(crate) fn starts_with_transaction(&self) -> bool {
        self.list
            .iter()
            .next()
            .is_some_and(|work| work.is_transaction())
    }

    /// All of it, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = ArcBorrow<'_, WorkItem<dyn Work>>> {
        self.list.iter()
    }

    /// Takes `item` off this list in O(1), if it stands on it.
    ///
    /// An item without [`Work::home`] is not found.
    pub(crate) fn remove<T: Work + 'static>(
        &mut self,
        item: &Arc<WorkItem<T>>,
    ) -> Option<WorkItemArc<dyn Work>> {
        let home = item.home()?;
        if home.0.load(Relaxed) != self.id {
            return None;
        }
        let entry: &WorkItem<dyn Work> = &**item;
        // SAFETY: By the invariant of `Home`, which is the value's own as `Work` promises, the value stands on the list
        // with this id. By the invariant of `TodoList` that is this one, and it stays there as this list is borrowed
        // exclusively.
        let removed = unsafe { self.list.remove(entry) };
        // INVARIANT: The value was just taken off.
        home.0.store(0, Relaxed);
        removed
    }
}

/// The right to put a value on a todo list.
pub(crate) type WorkItemArc<T> = ListArc<WorkItem<T>>;

impl<T> WorkItem<T> {
    /// Makes a value that is on no list, charged to the current task's memory cgroup.
    pub(crate) fn new(value: T) -> Result<Arc<Self>> {
        Self::with_flags(value, GFP_KERNEL_ACCOUNT)
    }

    /// Makes a value that is on no list, allocated with `flags`.
    pub(crate) fn with_flags(value: T, flags: Flags) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                links <- ListLinksSelfPtr::new(),
                tracker <- AtomicTracker::new(),
                value,
            }),
            flags,
        )
    }

    /// The right to put this value on a list, unless it is on one.
    #[inline]
    pub(crate) fn to_queue(self: &Arc<Self>) -> Option<WorkItemArc<T>> {
        ListArc::try_from_arc(self.clone()).ok()
    }
}

impl<T> WorkItem<T> {
    /// The value, to which this is the only reference.
    pub(crate) fn value_mut(self: Pin<&mut Self>) -> &mut T {
        // SAFETY: `value` is not structurally pinned: only the other fields are marked so.
        unsafe { &mut self.get_unchecked_mut().value }
    }
}

impl<T: ?Sized> core::ops::Deref for WorkItem<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl_list_arc_safe! {
    impl{T: ?Sized} ListArcSafe<0> for WorkItem<T> { tracked_by tracker: AtomicTracker; }
}
impl_list_item! {
    impl ListItem<0> for WorkItem<dyn Work> { using ListLinksSelfPtr { self.links }; }
}
