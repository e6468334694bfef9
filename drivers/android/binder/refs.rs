// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! References: what one process holds of the nodes of others, and the handles by which it names them.
//!
//! A handle is a small number. A process gets the lowest free one when it first receives a reference to a node. 0 is
//! kept for the context manager's node. A reference lives as long as it has a strong or a weak count.
//!
//! A real-time thread's call takes the lock of the table, so it is a spinlock: what a new reference needs is allocated
//! before, and nothing under it takes longer with more references, except for searches in trees.

use kernel::{
    new_spinlock,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        lock::{
            spinlock::SpinLockBackend,
            Guard, //
        },
        Arc,
        SpinLock, //
    },
};

use crate::{
    death::DeathArc,
    error::{
        dead,
        failed,
        BinderError, //
    },
    freeze::FreezeArc,
    node::{
        count_ref,
        uncount_ref,
        LocalNode,
        NodeArc,
        StrongNode, //
    },
    notification,
    process::Process,
    stats::RefCount,
    sys::{
        helpers::{
            cond_resched,
            next_debug_id, //
        },
        ida::Ida, //
    },
    thread::Thread, //
};

/// One process's references to nodes.
#[pin_data]
pub(crate) struct Refs {
    #[pin]
    table: SpinLock<RefTable>,
    /// The numbers of the handles. A number is free only after the node has forgotten the reference.
    #[pin]
    handles: Ida,
}

impl Refs {
    /// No references.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            table <- new_spinlock!(RefTable::new(), "Refs::table"),
            handles <- Ida::new(),
        })
    }

    /// Locks the table.
    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, RefTable, SpinLockBackend> {
        self.table.lock()
    }
}

/// The table of one process's references.
pub(crate) struct RefTable {
    /// The file was released. No reference changes from then on.
    closed: bool,
    /// By handle.
    entries: RBTree<u32, Ref>,
    /// Handles by the address of the node.
    by_node: RBTree<usize, u32>,
}

/// A process's reference to a node. The process names it by a number, the handle.
///
/// # Invariants
///
/// Not both counts are 0. The node's counts contain this reference: once, and once more as strong if `strong` is not 0.
pub(crate) struct Ref {
    debug_id: u32,
    node: NodeArc,
    strong: usize,
    weak: usize,
    death: Option<DeathArc>,
    freeze: Option<FreezeArc>,
    _count: RefCount,
}

impl RefTable {
    /// An empty table.
    fn new() -> Self {
        Self {
            closed: false,
            entries: RBTree::new(),
            by_node: RBTree::new(),
        }
    }

    /// The references, by handle.
    pub(crate) fn entries(&self) -> &RBTree<u32, Ref> {
        &self.entries
    }

    /// The reference with this handle.
    pub(crate) fn get_mut(&mut self, handle: u32) -> Option<&mut Ref> {
        self.entries.get_mut(&handle)
    }

    /// Adds a count to the reference to `node`, if there is one. Returns its handle.
    fn add_to_existing(
        &mut self,
        node: &NodeArc,
        strong: bool,
        sender: Option<&Thread>,
    ) -> Option<Result<u32, BinderError>> {
        if self.closed {
            return Some(Err(dead("receiver is dead")));
        }
        let &number = self.by_node.get(&key(node))?;
        let handle = self.entries.get_mut(&number)?;
        Some(handle.add(strong, sender).map(|()| number))
    }
}

/// A handle that was allocated, freed when dropped unless it was used.
struct Taken<'a> {
    numbers: &'a Ida,
    number: u32,
    used: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.used {
            self.numbers.free(self.number);
        }
    }
}

fn key(node: &NodeArc) -> usize {
    Arc::as_ptr(node).addr()
}

impl Process {
    /// Adds a count to this process's reference to `node`, created if there is none. Returns the handle.
    ///
    /// `sender` is as in [`count_ref`].
    ///
    /// # Errors
    ///
    /// - `EINVAL` and `ENOENT` as in [`count_ref`].
    /// - `BR_DEAD_REPLY` if this process is dead.
    /// - `ENOMEM`.
    pub(crate) fn insert_ref(
        &self,
        node: &NodeArc,
        strong: bool,
        sender: Option<&Thread>,
    ) -> Result<u32, BinderError> {
        if let Some(result) = self.refs().lock().add_to_existing(node, strong, sender) {
            return result;
        }
        // What a new reference needs is allocated before the lock is taken. What is not used is freed after the lock is
        // dropped: these values live longer than the guard.
        let no_memory = |e| failed(e, "out of memory");
        let entry = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT).map_err(no_memory)?;
        let index = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT).map_err(no_memory)?;
        let first = u32::from(!self.context().is_manager_node(node));
        let mut taken = Taken {
            numbers: &self.refs().handles,
            number: self.refs().handles.alloc_min(first).map_err(no_memory)?,
            used: false,
        };
        let number = taken.number;
        let mut handles = self.refs().lock();
        if let Some(result) = handles.add_to_existing(node, strong, sender) {
            return result;
        }
        count_ref(node, true, strong, sender)?;
        taken.used = true;
        // INVARIANT: One count is 1, and the node has counted the reference.
        handles.entries.insert(entry.into_node(
            number,
            Ref {
                debug_id: next_debug_id(),
                node: node.clone(),
                strong: usize::from(strong),
                weak: usize::from(!strong),
                death: None,
                freeze: None,
                _count: RefCount::new(),
            },
        ));
        handles.by_node.insert(index.into_node(key(node), number));
        Ok(number)
    }

    /// `BC_INCREFS`, `BC_ACQUIRE`: adds a count to a reference.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such handle, for a strong count on a reference that has weak ones only, or as in
    /// [`count_ref`].
    pub(crate) fn inc_ref(&self, number: u32, strong: bool) -> Result<(), BinderError> {
        let mut handles = self.refs().lock();
        let handle = handles
            .get_mut(number)
            .ok_or_else(|| failed(EINVAL, "no such handle"))?;
        if strong && handle.strong == 0 {
            return Err(failed(EINVAL, "no strong reference"));
        }
        handle.add(strong, None)
    }

    /// `BC_DECREFS`, `BC_RELEASE`: removes a count from a reference. The reference goes with its last count.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such handle, or it has no such count.
    pub(crate) fn dec_ref(&self, number: u32, strong: bool) -> Result<(), BinderError> {
        let mut guard = self.refs().lock();
        let handles = &mut *guard;
        if handles.closed {
            // All references go at once, in `close_refs`.
            return Ok(());
        }
        let handle = handles
            .entries
            .get_mut(&number)
            .ok_or_else(|| failed(EINVAL, "no such handle"))?;
        let count = if strong {
            &mut handle.strong
        } else {
            &mut handle.weak
        };
        *count = count
            .checked_sub(1)
            .ok_or_else(|| failed(EINVAL, "no such reference"))?;
        let last_strong = strong && handle.strong == 0;
        let gone = handle.strong == 0 && handle.weak == 0;
        if !last_strong && !gone {
            return Ok(());
        }
        let node = handle.node.clone();
        let mut removed = (None, None);
        if gone {
            removed = (
                handles.entries.remove_node(&number),
                handles.by_node.remove_node(&key(&node)),
            );
        }
        drop(guard);
        if let (Some(handle), _) = removed {
            let (_, handle) = handle.to_key_value();
            handle.cancel_notifications();
            // After the notifications: as long as the node counts the reference, its handle stays taken.
            self.refs().handles.free(number);
        }
        uncount_ref(&node, last_strong, gone);
        Ok(())
    }

    /// Returns the node that a handle stands for, held strongly, for a call to it.
    ///
    /// # Errors
    ///
    /// - `EINVAL` if there is no such handle, or it has no strong count.
    /// - `BR_DEAD_REPLY` if the node's owner is dead.
    pub(crate) fn strong_node(&self, number: u32) -> Result<StrongNode, BinderError> {
        let handles = self.refs().lock();
        let handle = handles
            .entries
            .get(&number)
            .ok_or_else(|| failed(EINVAL, "no such handle"))?;
        if handle.strong == 0 {
            return Err(failed(EINVAL, "no strong reference"));
        }
        StrongNode::new(handle.node.clone(), &handles)
    }

    /// Returns the node that a handle stands for, with a local count of the kind asked for. The reference must have a
    /// count of that kind; for a weak one, either will do.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is none.
    pub(crate) fn local_node(&self, number: u32, strong: bool) -> Result<LocalNode, BinderError> {
        let handles = self.refs().lock();
        let handle = handles
            .entries
            .get(&number)
            .ok_or_else(|| failed(EINVAL, "no such handle"))?;
        if strong && handle.strong == 0 {
            return Err(failed(EINVAL, "no strong reference"));
        }
        Ok(LocalNode::new(&handle.node, strong, &handles))
    }

    /// For `BINDER_GET_NODE_INFO_FOR_REF`: [`Counts::totals`](crate::counts::Counts::totals) of the node that a handle
    /// stands for. The reference must have a strong count.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such handle.
    pub(crate) fn totals_of_ref(&self, number: u32) -> Result<(usize, usize), BinderError> {
        let handles = self.refs().lock();
        let handle = handles
            .entries
            .get(&number)
            .ok_or_else(|| failed(EINVAL, "no such handle"))?;
        if handle.strong == 0 {
            return Err(failed(EINVAL, "no strong reference"));
        }
        let node = &handle.node;
        let inner = node.owner().lock();
        Ok(node.counts(&inner).totals())
    }

    /// No reference changes from now on. Counts that buffers hold need not be removed.
    pub(crate) fn seal_refs(&self) {
        self.refs().lock().closed = true;
    }

    /// Removes all references. The table was sealed before.
    pub(crate) fn close_refs(&self) {
        let mut handles = self.refs().lock();
        let entries = core::mem::take(&mut handles.entries);
        let by_node = core::mem::take(&mut handles.by_node);
        drop(handles);
        drop(by_node);
        for handle in entries.values() {
            handle.cancel_notifications();
            uncount_ref(&handle.node, handle.strong != 0, true);
            cond_resched();
        }
    }
}

impl Ref {
    /// The reference's number in logs.
    pub(crate) fn debug_id(&self) -> u32 {
        self.debug_id
    }

    /// The node that it is to.
    pub(crate) fn node(&self) -> &NodeArc {
        &self.node
    }

    /// How often the process holds it strongly.
    pub(crate) fn strong(&self) -> usize {
        self.strong
    }

    /// How often the process holds it weakly.
    pub(crate) fn weak(&self) -> usize {
        self.weak
    }

    /// The request for a death notification.
    pub(crate) fn death(&self) -> Option<&DeathArc> {
        self.death.as_ref()
    }

    /// The place for a request for a death notification.
    pub(crate) fn death_mut(&mut self) -> &mut Option<DeathArc> {
        &mut self.death
    }

    /// The place for a request for a freeze notification.
    pub(crate) fn freeze_mut(&mut self) -> &mut Option<FreezeArc> {
        &mut self.freeze
    }

    fn cancel_notifications(&self) {
        if let Some(death) = &self.death {
            notification::cancel(death, &self.node);
        }
        if let Some(freeze) = &self.freeze {
            notification::cancel(freeze, &self.node);
        }
    }

    fn add(&mut self, strong: bool, sender: Option<&Thread>) -> Result<(), BinderError> {
        let count = if strong {
            &mut self.strong
        } else {
            &mut self.weak
        };
        let more = count
            .checked_add(1)
            .ok_or_else(|| failed(EOVERFLOW, "too many references"))?;
        if *count == 0 {
            // The node does not count a further weak count of a reference.
            count_ref(&self.node, false, strong, sender)?;
        }
        *count = more;
        Ok(())
    }
}
