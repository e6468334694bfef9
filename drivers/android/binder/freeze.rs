// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

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
    node::NodeRef,
    process::{
        InnerGuard,
        Process,
        ProcessInner, //
    },
    read_buffer::ReadBuffer,
    stats::CountedFreeze,
    thread::Thread,
    todo::{
        Delivered,
        Home,
        Listed,
        Queued,
        Work, //
    },
    unacknowledged::Place, //
};

/// A process's wish to hear when a node's owner is frozen and thawed.
pub(crate) struct Freeze {
    /// Chosen by the process.
    pub(crate) cookie: u64,
    pub(crate) receiver: Arc<Process>,
    pub(crate) home: Home,
    /// Guarded by [`Process::inner`] of the receiver.
    pub(crate) state: LockedBy<FreezeState, ProcessInner>,
    pub(crate) _counted: CountedFreeze,
}

/// A counted reference to a [`Freeze`].
pub(crate) type FreezeRef = Arc<Queued<Freeze>>;

/// How far a [`Freeze`] has got.
pub(crate) struct FreezeState {
    /// What is to be told.
    pub(crate) frozen: bool,
    /// [`ProcessInner::freeze_epoch`] of the node's owner when that was so; 0 if nothing is known yet.
    pub(crate) epoch: u64,
    pub(crate) place: Place<Freeze>,
    /// When it is acknowledged, there is something new to tell.
    pub(crate) resend: bool,
    /// The request was cleared: that is what is to be told.
    pub(crate) cleared: bool,
    /// The handle is gone; nothing is to be told any more.
    pub(crate) over: bool,
}

fn key(freeze: &FreezeRef) -> usize {
    Arc::as_ptr(freeze).addr()
}

impl Freeze {
    fn state<'a>(&'a self, inner: &'a mut ProcessInner) -> &'a mut FreezeState {
        self.state.access_mut(inner)
    }
}

/// What a freeze notification says: the owner is frozen or not, and how often that was decided before.
#[derive(Clone, Copy)]
struct News {
    frozen: bool,
    epoch: u64,
}

/// The owner of the node was frozen or thawed: `freeze` is to be told.
///
/// The news was read under the owner's lock, and the receiver has another one. So it may come late, and says by its
/// epoch whether the receiver knows newer.
fn announce(freeze: &FreezeRef, news: News) {
    let receiver = &freeze.receiver;
    let mut inner = receiver.inner.lock();
    let work = freeze.to_queue();
    let state = freeze.state(&mut inner);
    if state.cleared || state.over || news.epoch <= state.epoch {
        return;
    }
    let other = state.frozen != news.frozen;
    state.epoch = news.epoch;
    state.frozen = news.frozen;
    if state.place.is_inside() {
        // Told, and not yet acknowledged.
        state.resend |= other;
    } else if let Some(work) = work {
        receiver.push(&mut inner, work);
    }
}

/// The handle that `freeze` was requested for is gone, or its process: nothing is to be told any more.
pub(crate) fn cancel(freeze: &FreezeRef, node: &NodeRef) {
    let mut inner = node.owner.inner.lock();
    let listed = node.state(&mut inner).freezes.remove_node(&key(freeze));
    drop(inner);
    drop(listed);

    let mut inner = freeze.receiver.inner.lock();
    let state = freeze.state(&mut inner);
    state.over = true;
    let place = state.place.take();
    let delivered = match &place {
        Place::Inside(key) => inner.delivered_freezes.remove(*key),
        Place::Outside(_) | Place::Nowhere => None,
    };
    let queued = inner.work.remove(freeze);
    drop(inner);
    drop((queued, delivered, place));
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
            home: Home::new(),
            state: LockedBy::new(
                &self.inner,
                FreezeState {
                    frozen: false,
                    epoch: 0,
                    place: Place::new()?,
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
        let dead = inner.dead;
        let news = News {
            frozen: inner.frozen,
            epoch: inner.freeze_epoch,
        };
        if !dead {
            let listed = reservation.into_node(key(&freeze), freeze.clone());
            node.state(&mut inner).freezes.insert(listed);
            // It may be a freezing that fails: that is to be told then.
            inner.frozen_told |= inner.frozen;
        }
        drop(inner);
        if !dead {
            announce(&freeze, news);
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
        if state.place.is_inside() {
            state.resend = true;
        } else if let Some(work) = work {
            self.push(&mut inner, work);
        }
        drop(inner);
        // Before `freeze`, which may be the last reference by now.
        drop(handles);
        Ok(())
    }

    /// `BC_FREEZE_NOTIFICATION_DONE`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if nothing with this cookie was told.
    pub(crate) fn acknowledge_freeze(&self, cookie: u64) -> Result {
        let mut inner = self.inner.lock();
        let (freeze, place) = inner.delivered_freezes.take(cookie).ok_or(EINVAL)?;
        let state = freeze.state(&mut inner);
        state.place = place;
        if core::mem::take(&mut state.resend) {
            if let Some(work) = freeze.to_queue() {
                self.push(&mut inner, work);
            }
        }
        drop(inner);
        Ok(())
    }

    /// Forgets the notifications that were read and not acknowledged: there is no user space left for it.
    pub(crate) fn forget_delivered_freezes(&self) {
        loop {
            let mut inner = self.inner.lock();
            let taken = inner.delivered_freezes.take_any();
            drop(inner);
            if taken.is_none() {
                break;
            }
        }
    }

    /// Whether a call to this process, or of it, has not ended.
    fn has_transactions(inner: &ProcessInner) -> bool {
        inner.outstanding != 0 || inner.busy_threads != 0
    }

    /// Freezes the process. Where it is frozen and thawed at the same time, what was done last counts.
    ///
    /// # Errors
    ///
    /// - `EAGAIN` if calls do not end within `timeout_ms` milliseconds, or the process was thawed meanwhile. The process
    ///   is not frozen then, unless another freezing is under way.
    /// - `ERESTARTSYS` for a signal, likewise.
    pub(crate) fn freeze(&self, timeout_ms: u32) -> Result {
        let mut inner = self.inner.lock();
        inner.sync_received = false;
        inner.oneway_received = false;
        inner.frozen = true;
        inner.freezing = inner.freezing.wrapping_add(1);
        let began = inner.freeze_epoch;

        let mut left = msecs_to_jiffies(timeout_ms);
        let mut result = Ok(());
        while inner.outstanding != 0 && left != 0 && inner.freeze_epoch == began {
            match self.quiet.wait_interruptible_timeout(&mut inner, left) {
                CondVarTimeoutResult::Woken { jiffies } => left = jiffies,
                CondVarTimeoutResult::Timeout => left = 0,
                CondVarTimeoutResult::Signal { .. } => {
                    result = Err(ERESTARTSYS);
                    break;
                }
            }
        }
        if inner.freeze_epoch != began {
            // Another freezing or thawing has been completed meanwhile, and that is what holds. It has taken this one
            // off those that wait.
            return if inner.frozen && inner.frozen_told {
                Ok(())
            } else {
                Err(EAGAIN)
            };
        }
        // As many end in an epoch as have begun in it.
        inner.freezing = inner.freezing.wrapping_sub(1);
        if result.is_ok() && Self::has_transactions(&inner) {
            result = Err(EAGAIN);
        }
        let news = match result {
            Ok(()) => Some(Self::decide(&mut inner, true)),
            Err(_) if inner.freezing != 0 => None,
            Err(_) if inner.frozen_told => Some(Self::decide(&mut inner, false)),
            Err(_) => {
                inner.frozen = false;
                None
            }
        };
        drop(inner);
        if let Some(news) = news {
            self.announce_freeze(news);
        }
        result
    }

    /// Thaws the process.
    pub(crate) fn thaw(&self) {
        let mut inner = self.inner.lock();
        inner.sync_received = false;
        inner.oneway_received = false;
        let news = Self::decide(&mut inner, false);
        // A freezing that waits has been overtaken.
        self.quiet.notify_all();
        drop(inner);
        self.announce_freeze(news);
    }

    /// The process is frozen or not from now on; returns what is to be told of it.
    fn decide(inner: &mut ProcessInner, frozen: bool) -> News {
        inner.frozen = frozen;
        inner.frozen_told = frozen;
        // Those that wait have been overtaken. They may not run before the next one ends, which must not take them for
        // others that wait beside it.
        inner.freezing = 0;
        // 64 bits do not run over.
        inner.freeze_epoch = inner.freeze_epoch.wrapping_add(1);
        News {
            frozen,
            epoch: inner.freeze_epoch,
        }
    }

    /// `BINDER_GET_FROZEN_INFO`: what came since the process was frozen. Bit 0 of the first says whether synchronous
    /// calls came, bit 1 whether some have not ended; the second, whether one-way calls came.
    pub(crate) fn frozen_info(&self) -> (u32, u32) {
        let inner = self.inner.lock();
        let pending = Self::has_transactions(&inner);
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
    fn announce_freeze(&self, news: News) {
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
                announce(&request, news);
                after = key.saturating_add(1);
            }
            let Some(following) = node.ptr.checked_add(1) else {
                break;
            };
            next = following;
        }
    }
}

#[expect(unsafe_code)]
// SAFETY: A notification has one home, which is its own.
unsafe impl Work for Freeze {
    fn home(&self) -> Option<&Home> {
        Some(&self.home)
    }

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
        let frozen = state.frozen;
        let place = state.place.take();
        let place = inner
            .delivered_freezes
            .insert(self.clone(), self.cookie, place);
        self.state(&mut inner).place = place;
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
}
