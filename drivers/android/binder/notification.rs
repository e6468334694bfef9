// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! Notifications about the owner of a node: that it died, that it was frozen or thawed.
//!
//! A process requests a notification for a handle and names it by a cookie. The request is listed at the node, and kept
//! with the handle. A notification that user space has read stays with the receiver until user space acknowledges it.
//! What is common to all kinds is here; what is said and when is in [`death`](crate::death) and
//! [`freeze`](crate::freeze).
//!
//! # Locking
//!
//! The state of a notification is guarded by [`Process::inner`] of the receiver, the list at the node by that of the
//! node's owner. The two are never held together.

use kernel::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode,
        RBTreeNodeReservation, //
    },
    sync::{
        Arc,
        LockedBy, //
    },
};

use crate::{
    error::{
        failed,
        BinderError, //
    },
    node::{
        Node,
        NodeArc, //
    },
    process::{
        InnerGuard,
        Process,
        ProcessInner, //
    },
    read_buffer::ReadBuffer,
    refs::Ref,
    sys::helpers::cond_resched,
    thread::Thread,
    todo::{
        Delivered,
        Home,
        Listed,
        Work,
        WorkItem, //
    },
    unacknowledged::{
        Place,
        Unacknowledged, //
    },
};

/// A kind of notification. A value of the type is the state of one notification.
pub(crate) trait Kind: Send + Sync + Sized + 'static {
    /// Counts the notification among the driver's objects.
    type Count: Send + Sync;

    /// What is found out about the node's owner when the notification is requested.
    type Seen;

    /// The state of a notification that was just requested.
    fn new() -> (Self, Self::Count);

    /// The requests of this kind that are listed at `node`.
    fn requests<'a>(node: &'a Node, owner: &'a mut ProcessInner) -> &'a mut Requests<Self>;

    /// The notifications of this kind that the receiver has to acknowledge.
    fn delivered(receiver: &mut ProcessInner) -> &mut Unacknowledged<Notification<Self>>;

    /// The place for a notification of this kind in a handle.
    fn slot(handle: &mut Ref) -> &mut Option<NotificationArc<Self>>;

    /// Called when the request is listed at the node, with the lock of the owner, which is alive.
    fn look(owner: &mut ProcessInner) -> Self::Seen;

    /// The notification was requested. `seen` is `None` if the owner is dead.
    fn requested(notification: &NotificationArc<Self>, seen: Option<Self::Seen>);

    /// The request was cleared by `thread`.
    fn cleared(notification: &NotificationArc<Self>, thread: &Thread, inner: &mut ProcessInner);

    /// User space has acknowledged the notification, on `thread`.
    fn acknowledged(
        notification: &NotificationArc<Self>,
        thread: &Thread,
        inner: &mut ProcessInner,
    );

    /// Nothing is to be told any more.
    fn end(&mut self);

    /// Hands the notification to user space.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the read buffer cannot be written to.
    fn deliver(
        notification: &NotificationArc<Self>,
        inner: InnerGuard<'_>,
        out: &mut ReadBuffer<'_>,
    ) -> Result<Delivered>;

    /// The notification, for listings.
    fn listed(notification: NotificationArc<Self>) -> Listed;
}

/// One process's request to be notified about the owner of one node.
pub(crate) struct Notification<K: Kind> {
    /// Chosen by the receiver.
    cookie: u64,
    receiver: Arc<Process>,
    home: Home,
    state: LockedBy<State<K>, ProcessInner>,
    _count: K::Count,
}

/// A counted reference to a notification.
pub(crate) type NotificationArc<K> = Arc<WorkItem<Notification<K>>>;

/// The part of a notification that [`Process::inner`] of the receiver guards.
struct State<K: Kind> {
    kind: K,
    place: Place<Notification<K>>,
}

/// The requests of one kind that are listed at a node, by address.
pub(crate) struct Requests<K: Kind>(RBTree<usize, NotificationArc<K>>);

fn key<K: Kind>(notification: &NotificationArc<K>) -> usize {
    Arc::as_ptr(notification).addr()
}

impl<K: Kind> Requests<K> {
    /// An empty list.
    pub(crate) fn new() -> Self {
        Self(RBTree::new())
    }

    /// Takes the request off the list. The entry is to be dropped after the lock.
    #[must_use]
    fn remove(
        &mut self,
        notification: &NotificationArc<K>,
    ) -> Option<RBTreeNode<usize, NotificationArc<K>>> {
        self.0.remove_node(&key(notification))
    }

    /// The first request at or after position `from`, and the position behind it.
    pub(crate) fn next(&self, from: usize) -> Option<(NotificationArc<K>, usize)> {
        let cursor = self.0.cursor_lower_bound(&from)?;
        let (&at, notification) = cursor.current();
        // Addresses of objects are not the last one there is.
        Some((notification.clone(), at.wrapping_add(1)))
    }

    /// All requests, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &NotificationArc<K>> {
        self.0.values()
    }
}

impl<K: Kind> Notification<K> {
    /// The cookie that the receiver chose.
    pub(crate) fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The process that is notified.
    pub(crate) fn receiver(&self) -> &Arc<Process> {
        &self.receiver
    }

    /// What is known of this kind.
    pub(crate) fn kind<'a>(&'a self, inner: &'a mut ProcessInner) -> &'a mut K {
        &mut self.state.access_mut(inner).kind
    }

    /// As [`Self::kind`], for looking.
    pub(crate) fn kind_ref<'a>(&'a self, inner: &'a ProcessInner) -> &'a K {
        &self.state.access(inner).kind
    }

    /// Whether user space has read the notification and not yet acknowledged it.
    pub(crate) fn is_delivered(&self, inner: &ProcessInner) -> bool {
        self.state.access(inner).place.is_inside()
    }

    /// User space is about to read the notification, and has to acknowledge it.
    pub(crate) fn set_delivered(self: &Arc<WorkItem<Self>>, inner: &mut ProcessInner)
    where
        Self: Sized,
    {
        let place = self.state.access_mut(inner).place.take();
        let place = K::delivered(inner).insert(self.clone(), self.cookie, place);
        self.state.access_mut(inner).place = place;
    }
}

/// The handle that `notification` was requested for is gone, or its process. Nothing is told any more.
pub(crate) fn cancel<K: Kind>(notification: &NotificationArc<K>, node: &NodeArc) {
    let mut inner = node.owner().lock();
    let listed = K::requests(node, &mut inner).remove(notification);
    drop(inner);
    drop(listed);

    let mut inner = notification.receiver.lock();
    let state = notification.state.access_mut(&mut inner);
    state.kind.end();
    let place = state.place.take();
    let delivered = match &place {
        Place::Inside(key) => K::delivered(&mut inner).remove(*key),
        Place::Outside(_) | Place::Nowhere => None,
    };
    let queued = inner.todo_mut().remove(notification);
    drop(inner);
    drop((queued, delivered, place));
}

impl Process {
    /// `BC_REQUEST_DEATH_NOTIFICATION`, `BC_REQUEST_FREEZE_NOTIFICATION`.
    ///
    /// # Errors
    ///
    /// - `EINVAL` if there is no such handle, or one of this kind was requested for it before.
    /// - `ENOMEM`.
    pub(crate) fn request_notification<K: Kind>(
        self: &Arc<Self>,
        handle: u32,
        cookie: u64,
    ) -> Result<(), BinderError> {
        let no_memory = |e| failed(e, "out of memory");
        let (kind, count) = K::new();
        let place = Place::new().map_err(no_memory)?;
        let notification = WorkItem::new(Notification {
            cookie,
            receiver: self.clone(),
            home: Home::new(),
            state: self.locked_by(State { kind, place }),
            _count: count,
        })
        .map_err(no_memory)?;
        let reservation = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT).map_err(no_memory)?;

        let mut handles = self.refs().lock();
        let Some(entry) = handles.get_mut(handle) else {
            return Err(failed(EINVAL, "no such handle"));
        };
        let slot = K::slot(entry);
        if slot.is_some() {
            return Err(failed(EINVAL, "already requested"));
        }
        *slot = Some(notification.clone());
        let node = entry.node().clone();
        let mut inner = node.owner().lock();
        let seen = if inner.is_dead() {
            None
        } else {
            let listed = reservation.into_node(key(&notification), notification.clone());
            K::requests(&node, &mut inner).0.insert(listed);
            Some(K::look(&mut inner))
        };
        drop(inner);
        K::requested(&notification, seen);
        Ok(())
    }

    /// Forgets the notifications that were read and not acknowledged. There is no user space left to do that.
    pub(crate) fn forget_delivered<K: Kind>(&self) {
        loop {
            let mut inner = self.lock();
            let taken = K::delivered(&mut inner).take_any();
            drop(inner);
            if taken.is_none() {
                break;
            }
            cond_resched();
        }
    }
}

impl Thread {
    /// `BC_CLEAR_DEATH_NOTIFICATION`, `BC_CLEAR_FREEZE_NOTIFICATION`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such handle, or none of this kind was requested for it with this cookie.
    pub(crate) fn clear_notification<K: Kind>(
        &self,
        handle: u32,
        cookie: u64,
    ) -> Result<(), BinderError> {
        let process = self.process();
        let mut handles = process.refs().lock();
        let Some(entry) = handles.get_mut(handle) else {
            return Err(failed(EINVAL, "no such handle"));
        };
        let slot = K::slot(entry);
        let Some(notification) = slot.take_if(|requested| requested.cookie == cookie) else {
            return Err(if slot.is_some() {
                failed(EINVAL, "cookie mismatch")
            } else {
                failed(EINVAL, "not requested")
            });
        };
        let node = entry.node().clone();
        let mut inner = node.owner().lock();
        let listed = K::requests(&node, &mut inner).remove(&notification);
        drop(inner);
        drop(listed);

        let mut inner = process.lock();
        K::cleared(&notification, self, &mut inner);
        drop(inner);
        // Before `notification`, which may be the last reference by now.
        drop(handles);
        Ok(())
    }

    /// `BC_DEAD_BINDER_DONE`, `BC_FREEZE_NOTIFICATION_DONE`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if no notification of this kind with this cookie was delivered and not yet acknowledged.
    pub(crate) fn acknowledge_notification<K: Kind>(&self, cookie: u64) -> Result<(), BinderError> {
        let mut inner = self.process().lock();
        let Some((notification, place)) = K::delivered(&mut inner).take(cookie) else {
            return Err(failed(EINVAL, "nothing to acknowledge"));
        };
        notification.state.access_mut(&mut inner).place = place;
        K::acknowledged(&notification, self, &mut inner);
        // Before `notification`, which may be the last reference.
        drop(inner);
        Ok(())
    }
}

#[expect(unsafe_code)]
// SAFETY: A notification has one home, which is its own.
unsafe impl<K: Kind> Work for Notification<K> {
    fn home(&self) -> Option<&Home> {
        Some(&self.home)
    }

    fn deliver(
        self: Arc<WorkItem<Self>>,
        _thread: &Arc<Thread>,
        inner: InnerGuard<'_>,
        out: &mut ReadBuffer<'_>,
    ) -> Result<Delivered> {
        K::deliver(&self, inner, out)
    }

    fn listed(self: Arc<WorkItem<Self>>) -> Listed {
        K::listed(self)
    }

    fn cancel(self: Arc<WorkItem<Self>>) {}
}
