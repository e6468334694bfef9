// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Freezing: a process that is stopped for a while gets no synchronous calls, and its callers hear of it.
//!
//! Whoever freezes a process names it by its pid, as they see it: in their own pid namespace.

use kernel::{
    prelude::*,
    rbtree::RBTreeNodeReservation,
    sync::{
        Arc,
        CondVarTimeoutResult,
        LockedBy, //
    },
    time::msecs_to_jiffies, //
};

use crate::{
    defs::{
        CookieReturn,
        FrozenReturn,
        BR_CLEAR_FREEZE_NOTIFICATION_DONE,
        BR_FROZEN_BINDER, //
    },
    model::{
        Delivered,
        Freeze,
        FreezeRef,
        FreezeState,
        InnerGuard,
        Listed,
        NodeRef,
        Process,
        ProcessInner,
        Queued,
        ReadBuffer,
        Thread,
        Work, //
    },
    stats::CountedFreeze,
    work::{
        remove_from,
        take_cookie, //
    },
};

fn key(freeze: &FreezeRef) -> usize {
    Arc::as_ptr(freeze).addr()
}

impl Freeze {
    fn state<'a>(&'a self, inner: &'a mut ProcessInner) -> &'a mut FreezeState {
        self.state.access_mut(inner)
    }
}

/// The owner of the node was frozen or thawed: `freeze` is to be told.
fn announce(freeze: &FreezeRef, frozen: bool) {
    let receiver = &freeze.receiver;
    let mut inner = receiver.inner.lock();
    let work = freeze.to_queue();
    let state = freeze.state(&mut inner);
    if state.cleared || state.over {
        return;
    }
    match work {
        Some(work) => {
            state.frozen = frozen;
            receiver.push(&mut inner, work);
        }
        None => {
            state.resend |= state.sent && state.frozen != frozen;
            state.frozen = frozen;
        }
    }
}

/// The handle that `freeze` was requested for is gone, or its process: nothing is to be told any more.
pub(crate) fn cancel(freeze: &FreezeRef, node: &NodeRef) {
    let mut inner = node.owner.inner.lock();
    let listed = node.state(&mut inner).freezes.remove_node(&key(freeze));
    drop(inner);
    drop(listed);

    let mut inner = freeze.receiver.inner.lock();
    freeze.state(&mut inner).over = true;
    let mut queued = remove_from(&mut inner.delivered_freezes, freeze);
    if queued.is_none() {
        queued = remove_from(&mut inner.work, freeze);
    }
    drop(inner);
    drop(queued);
}

impl Process {
    /// `BC_REQUEST_FREEZE_NOTIFICATION`. What is so now is told at once.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such handle, or it was requested before; `ENOMEM`.
    pub(crate) fn request_freeze(self: &Arc<Self>, handle: u32, cookie: u64) -> Result {
        let freeze = Queued::new(Freeze {
            cookie,
            receiver: self.clone(),
            state: LockedBy::new(
                &self.inner,
                FreezeState {
                    frozen: false,
                    sent: false,
                    resend: false,
                    cleared: false,
                    over: false,
                },
            ),
            _counted: CountedFreeze::new(),
        })?;
        let reservation = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;

        let mut handles = self.handles.lock();
        let entry = handles.entries.get_mut(&handle).ok_or(EINVAL)?;
        if entry.freeze.is_some() {
            return Err(EINVAL);
        }
        entry.freeze = Some(freeze.clone());
        let node = entry.node.clone();
        let mut inner = node.owner.inner.lock();
        let (dead, frozen) = (inner.dead, inner.frozen);
        if !dead {
            let listed = reservation.into_node(key(&freeze), freeze.clone());
            node.state(&mut inner).freezes.insert(listed);
        }
        drop(inner);
        if !dead {
            announce(&freeze, frozen);
        }
        Ok(())
    }

    /// `BC_CLEAR_FREEZE_NOTIFICATION`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such handle, or nothing was requested with this cookie.
    pub(crate) fn clear_freeze(&self, handle: u32, cookie: u64) -> Result {
        let mut handles = self.handles.lock();
        let entry = handles.entries.get_mut(&handle).ok_or(EINVAL)?;
        let freeze = entry
            .freeze
            .take_if(|freeze| freeze.cookie == cookie)
            .ok_or(EINVAL)?;
        let node = entry.node.clone();
        let mut inner = node.owner.inner.lock();
        let listed = node.state(&mut inner).freezes.remove_node(&key(&freeze));
        drop(inner);
        drop(listed);

        let mut inner = self.inner.lock();
        let work = freeze.to_queue();
        let state = freeze.state(&mut inner);
        state.cleared = true;
        state.resend |= state.sent;
        if let Some(work) = work {
            self.push(&mut inner, work);
        }
        drop(inner);
        Ok(())
    }

    /// `BC_FREEZE_NOTIFICATION_DONE`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if nothing with this cookie was told.
    pub(crate) fn acknowledge_freeze(&self, cookie: u64) -> Result {
        let mut inner = self.inner.lock();
        let work = take_cookie(&mut inner.delivered_freezes, cookie).ok_or(EINVAL)?;
        if work.clear_after_acknowledgement(&mut inner) {
            self.push_again(&mut inner, work);
            drop(inner);
        } else {
            drop(inner);
            drop(work);
        }
        Ok(())
    }

    /// Whether a call to this process, or of it, has not ended.
    fn has_transactions(inner: &mut ProcessInner) -> bool {
        if inner.outstanding != 0 {
            return true;
        }
        // The tree is put back before the lock is dropped.
        let threads = core::mem::take(&mut inner.threads);
        let busy = threads
            .values()
            .any(|thread| thread.state(inner).stack.is_some());
        inner.threads = threads;
        busy
    }

    /// Freezes the process.
    ///
    /// # Errors
    ///
    /// - `EAGAIN` if calls do not end within `timeout_ms` milliseconds. The process is not frozen then.
    /// - `EINTR` for a signal.
    pub(crate) fn freeze(&self, timeout_ms: u32) -> Result {
        let mut inner = self.inner.lock();
        inner.sync_received = false;
        inner.oneway_received = false;
        inner.frozen = true;

        let mut left = msecs_to_jiffies(timeout_ms);
        let mut result = Ok(());
        while inner.outstanding != 0 && left != 0 {
            match self.quiet.wait_interruptible_timeout(&mut inner, left) {
                CondVarTimeoutResult::Woken { jiffies } => left = jiffies,
                CondVarTimeoutResult::Timeout => left = 0,
                CondVarTimeoutResult::Signal { .. } => {
                    result = Err(EINTR);
                    break;
                }
            }
        }
        if result.is_ok() && Self::has_transactions(&mut inner) {
            result = Err(EAGAIN);
        }
        if result.is_err() {
            inner.frozen = false;
        }
        drop(inner);
        if result.is_ok() {
            self.announce_freeze(true);
        }
        result
    }

    /// Thaws the process.
    pub(crate) fn thaw(&self) {
        let mut inner = self.inner.lock();
        inner.sync_received = false;
        inner.oneway_received = false;
        inner.frozen = false;
        drop(inner);
        self.announce_freeze(false);
    }

    /// `BINDER_GET_FROZEN_INFO`: what came since the process was frozen. Bit 0 of the first says whether synchronous
    /// calls came, bit 1 whether some have not ended; the second, whether one-way calls came.
    pub(crate) fn frozen_info(&self) -> (u32, u32) {
        let mut inner = self.inner.lock();
        let pending = Self::has_transactions(&mut inner);
        let sync = u32::from(inner.sync_received) | u32::from(pending) << 1;
        let oneway = u32::from(inner.oneway_received);
        drop(inner);
        (sync, oneway)
    }

    /// One transaction less for this process has yet to end. The caller wakes who waits for that.
    pub(crate) fn transaction_ended(&self, inner: &mut ProcessInner) {
        inner.outstanding = inner.outstanding.saturating_sub(1);
        if inner.outstanding == 0 && inner.frozen {
            self.quiet.notify_all();
        }
    }

    /// Tells all who asked.
    fn announce_freeze(&self, frozen: bool) {
        let mut next = 0;
        loop {
            // Node by node, and of each node request by request, with the lock dropped in between.
            let inner = self.inner.lock();
            let Some(cursor) = inner.nodes.cursor_lower_bound(&next) else {
                break;
            };
            let node = cursor.current().1.clone();
            drop(inner);
            let mut after = 0;
            loop {
                let mut inner = self.inner.lock();
                let requests = &node.state(&mut inner).freezes;
                let Some(cursor) = requests.cursor_lower_bound(&after) else {
                    break;
                };
                let (&key, request) = cursor.current();
                let request = request.clone();
                drop(inner);
                announce(&request, frozen);
                after = key.saturating_add(1);
            }
            let Some(following) = node.ptr.checked_add(1) else {
                break;
            };
            next = following;
        }
    }
}

impl Work for Freeze {
    fn deliver(
        self: Arc<Queued<Self>>,
        _thread: &Arc<Thread>,
        mut inner: InnerGuard<'_>,
        out: &mut ReadBuffer<'_>,
    ) -> Result<Delivered> {
        let state = self.state(&mut inner);
        if state.over {
            return Ok(Delivered::More);
        }
        if state.cleared {
            drop(inner);
            out.put(&CookieReturn {
                code: BR_CLEAR_FREEZE_NOTIFICATION_DONE,
                cookie: self.cookie,
            })?;
            return Ok(Delivered::More);
        }
        state.sent = true;
        let frozen = state.frozen;
        if let Some(work) = self.to_queue() {
            inner.delivered_freezes.push_back(work);
        }
        drop(inner);
        out.put(&FrozenReturn {
            code: BR_FROZEN_BINDER,
            cookie: self.cookie,
            is_frozen: u32::from(frozen),
            reserved: 0,
        })?;
        Ok(Delivered::Last)
    }

    fn listed(self: Arc<Queued<Self>>) -> Listed {
        Listed::Freeze(self)
    }

    fn cancel(self: Arc<Queued<Self>>) {}

    fn cookie(&self) -> Option<u64> {
        Some(self.cookie)
    }

    fn clear_after_acknowledgement(&self, inner: &mut ProcessInner) -> bool {
        let state = self.state(inner);
        state.sent = false;
        core::mem::replace(&mut state.resend, false)
    }
}
