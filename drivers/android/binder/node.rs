// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! Nodes: what a process offers to others.
//!
//! The counts themselves are in [`counts`](crate::counts). This file decides when they change, and tells the owner.

use kernel::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        Arc,
        LockedBy, //
    },
};

use crate::{
    counts::Counts,
    death::{
        self,
        Death, //
    },
    defs::{
        NodeDebugInfo,
        NodeReturn,
        PtrCookie,
        BR_ACQUIRE,
        BR_DECREFS,
        BR_INCREFS,
        BR_RELEASE, //
    },
    error::{
        failed,
        no_target,
        BinderError, //
    },
    freeze::Freeze,
    notification::Requests,
    oneway::{
        OnewayQueue,
        UpdateKind,
        UpdateSlots, //
    },
    process::{
        InnerGuard,
        Process,
        ProcessInner, //
    },
    read_buffer::ReadBuffer,
    stats::NodeCount,
    sys::helpers::{
        cond_resched,
        next_debug_id, //
    },
    thread::Thread,
    todo::{
        Delivered,
        Home,
        Listed,
        Work,
        WorkItem,
        WorkItemArc, //
    },
    transaction::Transaction, //
};

/// An object that its owner offers to other processes.
pub(crate) struct Node {
    debug_id: u32,
    /// The owner's name for it, unique in the owner.
    ptr: u64,
    /// The owner's companion to that.
    cookie: u64,
    /// `FLAT_BINDER_FLAG_*`, as of its first appearance.
    flags: u32,
    owner: Arc<Process>,
    home: Home,
    inner: LockedBy<NodeInner, ProcessInner>,
    _count: NodeCount,
}

/// A counted reference to a node. The counts that user space sees are in [`NodeInner`].
pub(crate) type NodeArc = Arc<WorkItem<Node>>;

/// The part of a node that its owner's [`Process::inner`] guards.
struct NodeInner {
    counts: Counts,
    /// While the node is queued: the thread on whose todo list it is, or `None` for that of the owner.
    queued_for: Option<i32>,
    /// The node is no longer in its owner's table, and the owner is told nothing about it any more.
    forgotten: bool,
    /// A one-way call to this node is queued for a thread, or its buffer is not yet freed.
    oneway_active: bool,
    /// The one-way calls that wait behind it.
    oneway: OnewayQueue,
    /// Requests to be told of the owner's death.
    deaths: Requests<Death>,
    /// Requests to be told when the owner is frozen or thawed.
    freezes: Requests<Freeze>,
}

/// The nodes that a process owns, by their `ptr`.
pub(crate) struct Nodes(RBTree<u64, NodeArc>);

impl Nodes {
    /// No nodes.
    pub(crate) fn new() -> Self {
        Self(RBTree::new())
    }

    /// The first node whose `ptr` is not below `from`.
    pub(crate) fn next(&self, from: u64) -> Option<NodeArc> {
        Some(self.0.cursor_lower_bound(&from)?.current().1.clone())
    }

    /// The nodes, for listings.
    pub(crate) fn tree(&self) -> &RBTree<u64, NodeArc> {
        &self.0
    }
}

/// What a one-way call with `TF_UPDATE_TXN` brings along.
pub(crate) struct Update {
    pub(crate) kind: UpdateKind,
    pub(crate) slots: UpdateSlots,
    /// The call takes the place of an earlier one like it.
    pub(crate) replaces: bool,
}

/// When a one-way call is handed out.
pub(crate) enum OnewayTurn {
    /// At once.
    Now(WorkItemArc<Transaction>),
    /// When those before it have ended.
    Later {
        /// The earlier call whose place it took. It is dropped after the lock.
        outdated: Option<WorkItemArc<Transaction>>,
    },
}

/// A local strong count on a node, removed when dropped. The owner keeps the object meanwhile.
pub(crate) struct StrongNode(NodeArc);

/// A local count on a node, strong or weak, removed when dropped.
pub(crate) struct LocalNode {
    node: NodeArc,
    strong: bool,
}

impl Node {
    /// The node's number in logs.
    #[inline]
    pub(crate) fn debug_id(&self) -> u32 {
        self.debug_id
    }

    /// The owner's name for the node.
    #[inline]
    pub(crate) fn ptr(&self) -> u64 {
        self.ptr
    }

    /// The owner's companion to that.
    #[inline]
    pub(crate) fn cookie(&self) -> u64 {
        self.cookie
    }

    /// `FLAT_BINDER_FLAG_*`, as of the first time that the node was sent.
    #[inline]
    pub(crate) fn flags(&self) -> u32 {
        self.flags
    }

    /// The process that offers the node.
    #[inline]
    pub(crate) fn owner(&self) -> &Arc<Process> {
        &self.owner
    }

    /// The counts of references, for looking.
    pub(crate) fn counts<'a>(&'a self, owner: &'a ProcessInner) -> &'a Counts {
        &self.inner.access(owner).counts
    }

    /// The node becomes a context manager's. Returns `false`, and does nothing, if the node was forgotten.
    #[must_use]
    pub(crate) fn become_manager(&self, owner: &mut ProcessInner) -> bool {
        let state = self.state(owner);
        if !state.forgotten {
            state.counts.become_manager();
        }
        !state.forgotten
    }

    /// The requests for death notifications.
    pub(crate) fn deaths<'a>(&'a self, owner: &'a mut ProcessInner) -> &'a mut Requests<Death> {
        &mut self.state(owner).deaths
    }

    /// The requests for freeze notifications.
    pub(crate) fn freezes<'a>(&'a self, owner: &'a mut ProcessInner) -> &'a mut Requests<Freeze> {
        &mut self.state(owner).freezes
    }

    /// The one-way calls that wait behind the one that a thread works on, in order.
    pub(crate) fn pending_oneway<'a>(
        &'a self,
        owner: &'a ProcessInner,
    ) -> impl Iterator<Item = Arc<WorkItem<dyn Work>>> + 'a {
        self.inner.access(owner).oneway.iter()
    }

    /// A one-way call to the node is sent. One-way calls to a node are handed out one at a time, so the call may have
    /// to wait. With `update`, it may take the place of an earlier one.
    pub(crate) fn send_oneway(
        &self,
        owner: &mut ProcessInner,
        work: WorkItemArc<Transaction>,
        update: Option<Update>,
    ) -> OnewayTurn {
        let state = self.state(owner);
        if !core::mem::replace(&mut state.oneway_active, true) {
            return OnewayTurn::Now(work);
        }
        let mut outdated = None;
        match update {
            Some(update) => {
                if update.replaces {
                    outdated = state.oneway.take_update(update.kind);
                }
                state.oneway.push_update(update.kind, work, update.slots);
            }
            None => state.oneway.push_back(work),
        }
        OnewayTurn::Later { outdated }
    }

    /// The node's guarded part.
    #[inline]
    fn state<'a>(&'a self, inner: &'a mut ProcessInner) -> &'a mut NodeInner {
        self.inner.access_mut(inner)
    }

    fn identity(&self) -> PtrCookie {
        PtrCookie {
            ptr: self.ptr,
            cookie: self.cookie,
        }
    }
}

/// Queues `node` on its owner's todo list, to tell the owner what has changed. A node without references that the owner
/// was never told about is forgotten instead.
fn notify_owner(node: &NodeArc, inner: &mut ProcessInner) {
    if inner.is_dead() {
        return;
    }
    let counts = &node.state(inner).counts;
    let (stale, unused) = (counts.is_stale(), counts.is_unused());
    if stale || counts.told() != (false, false) {
        if let Some(work) = node.to_queue() {
            node.state(inner).queued_for = None;
            node.owner.push(inner, work);
        }
    } else if unused {
        // It may still be queued, if the owner has not read since the node was sent.
        unqueue(node, inner);
        forget(node, inner);
    }
}

/// Takes `node` off the todo list that it stands on, if any.
fn unqueue(node: &NodeArc, inner: &mut ProcessInner) {
    if node.to_queue().is_some() {
        return;
    }
    // The caller has a reference, so what is dropped here is not the last.
    match node.state(inner).queued_for {
        None => drop(inner.todo_mut().remove(node)),
        Some(id) => {
            // A thread stays in the table until its todo list is empty.
            if let Some(thread) = inner.threads().get(&id).cloned() {
                drop(thread.unqueue(inner, node));
            }
        }
    }
}

/// Takes `node` out of its owner's table. The caller holds a reference that outlives the lock.
fn forget(node: &NodeArc, inner: &mut ProcessInner) {
    node.state(inner).forgotten = true;
    // The table may have another node of that name by now.
    if inner
        .nodes()
        .0
        .get(&node.ptr)
        .is_some_and(|n| Arc::ptr_eq(n, node))
    {
        inner.nodes_mut().0.remove(&node.ptr);
    }
}

/// Queues `node` for `thread`, which is sending it, so that the thread reads `BR_INCREFS` and `BR_ACQUIRE` before
/// `BR_TRANSACTION_COMPLETE`. User space may free the object right after that.
fn tell_sender(node: &NodeArc, inner: &mut ProcessInner, thread: &Thread) {
    // On another list it may be read too late.
    unqueue(node, inner);
    if let Some(work) = node.to_queue() {
        node.state(inner).queued_for = Some(thread.id());
        thread.push_deferred(inner, work);
    }
}

impl Process {
    /// Returns the node `ptr` of this process, created if there is none.
    ///
    /// No count holds the node: another thread can remove the last reference, and the node is forgotten then.
    ///
    /// # Errors
    ///
    /// - `EINVAL` if there is one with another cookie.
    /// - `ESRCH` if the process is dead.
    /// - `ENOMEM`.
    pub(crate) fn node_for(
        self: &Arc<Self>,
        ptr: u64,
        cookie: u64,
        flags: u32,
    ) -> Result<NodeArc, BinderError> {
        let no_memory = |e| failed(e, "out of memory");
        let checked = |node: NodeArc| {
            if node.cookie == cookie {
                Ok(node)
            } else {
                Err(failed(EINVAL, "node has another cookie"))
            }
        };
        let known = self.lock().nodes().0.get(&ptr).cloned();
        if let Some(node) = known {
            return checked(node);
        }
        let node = WorkItem::new(Node {
            debug_id: next_debug_id(),
            ptr,
            cookie,
            flags,
            owner: self.clone(),
            home: Home::new(),
            inner: self.locked_by(NodeInner {
                counts: Counts::default(),
                queued_for: None,
                forgotten: false,
                oneway_active: false,
                oneway: OnewayQueue::new(),
                deaths: Requests::new(),
                freezes: Requests::new(),
            }),
            _count: NodeCount::new(),
        })
        .map_err(no_memory)?;
        let reservation = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT).map_err(no_memory)?;
        let mut inner = self.lock();
        if inner.is_dead() {
            return Err(failed(ESRCH, "process is dead"));
        }
        if let Some(other) = inner.nodes().0.get(&ptr) {
            // Another thread has added it meanwhile.
            let other = other.clone();
            drop(inner);
            return checked(other);
        }
        inner
            .nodes_mut()
            .0
            .insert(reservation.into_node(ptr, node.clone()));
        Ok(node)
    }

    /// Forgets `node` if it has no references. To be called if the first reference could not be added.
    pub(crate) fn forget_if_unused(&self, node: &NodeArc) {
        let mut inner = self.lock();
        if !inner.is_dead() && node.state(&mut inner).counts.is_unused() {
            notify_owner(node, &mut inner);
        }
    }
}

/// Counts a `new` reference on `node`, or the first count of one kind of a reference.
///
/// `sender` is the thread that is sending the node, if it is one of the owner.
///
/// # Errors
///
/// - `EINVAL` for a strong count if the owner does not know of one and cannot be told in time.
/// - `ENOENT` if the node was forgotten since `sender` looked it up.
pub(crate) fn count_ref(
    node: &NodeArc,
    new: bool,
    strong: bool,
    sender: Option<&Thread>,
) -> Result<(), BinderError> {
    let mut inner = node.owner.lock();
    let queued = node.to_queue().is_none();
    let state = node.state(&mut inner);
    if state.forgotten {
        // The owner would not find the node by its `ptr`.
        return Err(failed(ENOENT, "node was forgotten"));
    }
    let counts = &mut state.counts;
    // A weak reference can be passed on even if the owner was never told of the node, because its thread has exited.
    if strong && sender.is_none() && !counts.can_add_ref(true) {
        return Err(failed(EINVAL, "owner does not know the node"));
    }
    if new {
        counts.add_ref();
    }
    if strong {
        counts.add_strong_ref();
    }
    if let Some(thread) = sender {
        // A node that is queued may stay where it is unless a strong reference is to be told.
        let owes = if strong {
            counts.needs_acquire()
        } else {
            !queued && counts.is_stale()
        };
        if owes {
            tell_sender(node, &mut inner, thread);
        }
    }
    Ok(())
}

/// A reference on `node` has lost its last strong count, if `strong`, and is gone, if `gone`.
pub(crate) fn uncount_ref(node: &NodeArc, strong: bool, gone: bool) {
    let mut inner = node.owner.lock();
    let counts = &mut node.state(&mut inner).counts;
    let mut last = strong && counts.remove_strong_ref();
    last |= gone && counts.remove_ref();
    if last {
        notify_owner(node, &mut inner);
    }
}

/// Whether the owner of `node` knows of the node or is about to be told. The node is sent back to it by a weak
/// reference.
pub(crate) fn owner_knows(node: &NodeArc) -> bool {
    let mut inner = node.owner.lock();
    let queued = node.to_queue().is_none();
    queued || node.state(&mut inner).counts.can_add_ref(false)
}

impl LocalNode {
    /// Counts a local reference on `node`.
    ///
    /// `_held` is the evidence that the node has a count now: the guard of the lock under which the reference stays.
    pub(crate) fn new<G>(node: &NodeArc, strong: bool, _held: &G) -> Self {
        let mut inner = node.owner.lock();
        node.state(&mut inner).counts.add_local(strong);
        drop(inner);
        Self {
            node: node.clone(),
            strong,
        }
    }
}

impl LocalNode {
    /// The node.
    pub(crate) fn node(&self) -> &NodeArc {
        &self.node
    }

    /// Whether the reference is a strong one.
    pub(crate) fn is_strong(&self) -> bool {
        self.strong
    }
}

impl Drop for LocalNode {
    fn drop(&mut self) {
        uncount_local(&self.node, self.strong);
    }
}

/// Removes a local count.
pub(crate) fn uncount_local(node: &NodeArc, strong: bool) {
    let mut inner = node.owner.lock();
    if node.state(&mut inner).counts.remove_local(strong) {
        notify_owner(node, &mut inner);
    }
}

impl StrongNode {
    /// Holds on to `node`.
    ///
    /// `_held` is the evidence that the node has a strong count now: the guard of the lock under which the reference,
    /// or the context manager, stays.
    ///
    /// # Errors
    ///
    /// `BR_DEAD_REPLY` if its owner is dead.
    pub(crate) fn new<G>(node: NodeArc, _held: &G) -> Result<Self, BinderError> {
        let mut inner = node.owner.lock();
        if inner.is_dead() {
            drop(inner);
            return Err(no_target("node's owner is dead"));
        }
        node.state(&mut inner).counts.add_local(true);
        drop(inner);
        Ok(Self(node))
    }

    /// The node.
    #[inline]
    pub(crate) fn node(&self) -> &NodeArc {
        &self.0
    }

    /// The buffer of a one-way call was freed: queues the next one, if any.
    pub(crate) fn end_oneway(&self) {
        let node = &self.0;
        let mut inner = node.owner.lock();
        if inner.is_dead() {
            return;
        }
        let state = node.state(&mut inner);
        match state.oneway.pop_front() {
            Some(work) => node.owner.push_again(&mut inner, work),
            None => state.oneway_active = false,
        }
    }
}

impl Drop for StrongNode {
    fn drop(&mut self) {
        uncount_local(&self.0, true);
    }
}

impl Process {
    /// The nodes have no owner any more. Returns them, with the one-way transactions that wait for them.
    pub(crate) fn release_nodes(&self) -> Nodes {
        let mut inner = self.lock();
        let nodes = core::mem::replace(inner.nodes_mut(), Nodes::new());
        drop(inner);
        for node in nodes.0.values() {
            let mut inner = self.lock();
            let state = node.state(&mut inner);
            state.counts.forget_owner();
            let deaths = core::mem::replace(&mut state.deaths, Requests::new());
            let freezes = core::mem::replace(&mut state.freezes, Requests::new());
            drop(inner);
            drop(freezes);
            for request in deaths.iter() {
                death::announce(request);
                cond_resched();
            }
        }
        nodes
    }

    /// Cancels the one-way transactions that wait for `nodes`, which were this process's.
    pub(crate) fn cancel_oneway(&self, nodes: &Nodes) {
        for node in nodes.0.values() {
            loop {
                let mut inner = self.lock();
                let work = node.state(&mut inner).oneway.pop_front();
                drop(inner);
                let Some(work) = work else { break };
                work.into_arc().cancel();
                cond_resched();
            }
        }
    }

    /// `BINDER_GET_NODE_DEBUG_INFO`: about the first node beyond `ptr`; zeroes if there is none.
    pub(crate) fn node_debug_info(&self, ptr: u64) -> NodeDebugInfo {
        let mut info = NodeDebugInfo::default();
        let Some(from) = ptr.checked_add(1) else {
            return info;
        };
        let inner = self.lock();
        let node = inner.nodes().next(from);
        if let Some(node) = &node {
            let (strong, weak) = node.counts(&inner).told();
            info = NodeDebugInfo {
                ptr: node.ptr,
                cookie: node.cookie,
                has_strong_ref: u32::from(strong),
                has_weak_ref: u32::from(weak),
            };
        }
        drop(inner);
        info
    }

    /// `BC_INCREFS_DONE` and `BC_ACQUIRE_DONE`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such node, or nothing is to be acknowledged. Nothing is done then.
    pub(crate) fn acknowledge(
        &self,
        PtrCookie { ptr, cookie }: PtrCookie,
        strong: bool,
    ) -> Result<(), BinderError> {
        let mut inner = self.lock();
        let Some(node) = inner.nodes().0.get(&ptr).cloned() else {
            return Err(failed(EINVAL, "no such node"));
        };
        if node.cookie != cookie {
            drop(inner);
            return Err(failed(EINVAL, "cookie mismatch"));
        }
        let acknowledged = node.state(&mut inner).counts.acknowledge(strong);
        if acknowledged == Ok(true) {
            notify_owner(&node, &mut inner);
        }
        // Before `node`, which may be the last reference.
        drop(inner);
        match acknowledged {
            Ok(_) => Ok(()),
            Err(_) => Err(failed(EINVAL, "nothing to acknowledge")),
        }
    }
}

#[expect(unsafe_code)]
// SAFETY: A node has one home, which is its own.
unsafe impl Work for Node {
    fn home(&self) -> Option<&Home> {
        Some(&self.home)
    }

    fn deliver(
        self: Arc<WorkItem<Self>>,
        _thread: &Arc<Thread>,
        mut inner: InnerGuard<'_>,
        out: &mut ReadBuffer<'_>,
    ) -> Result<Delivered> {
        let changes = self.state(&mut inner).counts.tell();
        if changes.gone {
            forget(&self, &mut inner);
        }
        drop(inner);
        let node = self.identity();
        for (due, code) in [
            (changes.increfs, BR_INCREFS),
            (changes.acquire, BR_ACQUIRE),
            (changes.release, BR_RELEASE),
            (changes.decrefs, BR_DECREFS),
        ] {
            if due {
                out.put(&NodeReturn { code, node })?;
            }
        }
        Ok(Delivered::More)
    }

    fn listed(self: Arc<WorkItem<Self>>) -> Listed {
        Listed::Node(self)
    }

    fn cancel(self: Arc<WorkItem<Self>>) {}
}
