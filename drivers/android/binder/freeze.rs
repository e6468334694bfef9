// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Freezing: a process that is stopped for a while gets no synchronous calls, and processes with handles to its nodes
//! can be notified of it.

use kernel::{
    prelude::*,
    sync::CondVarTimeoutResult,
    time::msecs_to_jiffies, //
};

use crate::{
    defs::{
        CookieReturn,
        FrozenReturn,
        BR_CLEAR_FREEZE_NOTIFICATION_DONE,
        BR_FROZEN_BINDER, //
    },
    node::Node,
    notification::{
        Kind,
        Notification,
        NotificationArc,
        Requests, //
    },
    process::{
        InnerGuard,
        Process,
        ProcessInner, //
    },
    read_buffer::ReadBuffer,
    refs::Ref,
    stats::FreezeCount,
    sums::{
        decrement,
        increment, //
    },
    thread::Thread,
    todo::{
        Delivered,
        Listed, //
    },
    unacknowledged::Unacknowledged, //
};

/// A counted reference to a freeze notification.
pub(crate) type FreezeArc = NotificationArc<Freeze>;

/// The state of a freeze notification.
pub(crate) struct Freeze {
    /// What is to be told.
    frozen: bool,
    /// The epoch of the node's owner when that was so; 0 if nothing is known yet.
    epoch: u64,
    /// There is something new to tell when it is acknowledged.
    resend: bool,
    /// The request was cleared, and that is what is to be told.
    cleared: bool,
    /// Nothing is told any more.
    over: bool,
}

impl Freeze {
    /// Whether what is queued tells that the request was cleared.
    pub(crate) fn is_clear(&self) -> bool {
        self.cleared
    }
}

/// How far a process is frozen, and what has not ended. Guarded by [`Process::inner`].
pub(crate) struct Freezing {
    /// Synchronous calls to the process fail, one-way calls wait.
    frozen: bool,
    /// How often the process was frozen or thawed. Begins above the epoch of a new notification.
    epoch: u64,
    /// The state that was last announced.
    announced: bool,
    /// `BINDER_FREEZE`s of this epoch that wait for transactions to end.
    waiting: u32,
    /// A synchronous call came since the process was frozen.
    sync_recv: bool,
    /// A one-way call came since the process was frozen.
    async_recv: bool,
    /// Transactions to this process that were sent and have not ended. One-way calls end when they are read, calls when
    /// they are replied to.
    outstanding_txns: usize,
    /// Threads that wait for a reply or work on a call.
    busy_threads: u32,
}

impl Freezing {
    /// Not frozen.
    pub(crate) fn new() -> Self {
        Self {
            frozen: false,
            epoch: 1,
            announced: false,
            waiting: 0,
            sync_recv: false,
            async_recv: false,
            outstanding_txns: 0,
            busy_threads: 0,
        }
    }

    /// A synchronous call comes. Returns whether the process is frozen.
    #[inline]
    pub(crate) fn sync_came(&mut self) -> bool {
        self.sync_recv |= self.frozen;
        self.frozen
    }

    /// A one-way call comes. Returns whether the process is frozen.
    #[inline]
    pub(crate) fn oneway_came(&mut self) -> bool {
        self.async_recv |= self.frozen;
        self.frozen
    }

    /// A transaction to the process was sent.
    #[inline]
    pub(crate) fn txn_sent(&mut self) {
        increment(&mut self.outstanding_txns);
    }

    /// The count of threads that wait for a reply or work on a call.
    #[inline]
    pub(crate) fn busy_threads(&mut self) -> &mut u32 {
        &mut self.busy_threads
    }

    /// Whether a call to this process, or of it, has not ended.
    fn has_transactions(&self) -> bool {
        self.outstanding_txns != 0 || self.busy_threads != 0
    }

    /// Forgets what came since the process was last frozen or thawed.
    fn forget_received(&mut self) {
        self.sync_recv = false;
        self.async_recv = false;
    }

    /// The process is frozen or not from now on. Returns what is to be announced.
    fn decide(&mut self, frozen: bool) -> News {
        self.frozen = frozen;
        self.announced = frozen;
        // This overtakes freezings that wait. They may not run before the next one ends, which must not count them as
        // its own.
        self.waiting = 0;
        // A counter of 64 bits does not wrap while a machine runs.
        self.epoch = self.epoch.wrapping_add(1);
        News {
            frozen,
            epoch: self.epoch,
        }
    }
}

/// What a freeze notification says: whether the owner is frozen, and the epoch of that.
#[derive(Clone, Copy)]
pub(crate) struct News {
    frozen: bool,
    epoch: u64,
}

/// Tells the receiver of `freeze` that the owner of the node was frozen or thawed.
///
/// The news was read under the owner's lock, and the state of the notification is under the receiver's. So news may
/// come late. The epoch says whether the receiver knows newer.
fn announce(freeze: &FreezeArc, news: News) {
    let receiver = freeze.receiver();
    let mut inner = receiver.lock();
    let delivered = freeze.is_delivered(&inner);
    let state = freeze.kind(&mut inner);
    if state.cleared || state.over || news.epoch <= state.epoch {
        return;
    }
    let other = state.frozen != news.frozen;
    state.epoch = news.epoch;
    state.frozen = news.frozen;
    if delivered {
        state.resend |= other;
    } else if let Some(work) = freeze.to_queue() {
        receiver.push(&mut inner, work);
    }
}

impl Kind for Freeze {
    type Count = FreezeCount;
    type Seen = News;

    fn new() -> (Self, FreezeCount) {
        let new = Self {
            frozen: false,
            epoch: 0,
            resend: false,
            cleared: false,
            over: false,
        };
        (new, FreezeCount::new())
    }

    fn requests<'a>(node: &'a Node, owner: &'a mut ProcessInner) -> &'a mut Requests<Self> {
        node.freezes(owner)
    }

    fn delivered(receiver: &mut ProcessInner) -> &mut Unacknowledged<Notification<Self>> {
        receiver.delivered_freezes_mut()
    }

    fn slot(handle: &mut Ref) -> &mut Option<FreezeArc> {
        handle.freeze_mut()
    }

    fn look(owner: &mut ProcessInner) -> News {
        // The freezing may fail, and the receiver is to be told then.
        let freezing = owner.freezing_mut();
        freezing.announced |= freezing.frozen;
        News {
            frozen: freezing.frozen,
            epoch: freezing.epoch,
        }
    }

    fn requested(freeze: &FreezeArc, seen: Option<News>) {
        if let Some(news) = seen {
            announce(freeze, news);
        }
    }

    fn cleared(freeze: &FreezeArc, thread: &Thread, inner: &mut ProcessInner) {
        let delivered = freeze.is_delivered(inner);
        let state = freeze.kind(inner);
        state.cleared = true;
        if delivered {
            state.resend = true;
        } else if let Some(work) = freeze.to_queue() {
            thread.process().push(inner, work);
        }
    }

    fn acknowledged(freeze: &FreezeArc, thread: &Thread, inner: &mut ProcessInner) {
        if core::mem::take(&mut freeze.kind(inner).resend) {
            if let Some(work) = freeze.to_queue() {
                thread.process().push(inner, work);
            }
        }
    }

    fn end(&mut self) {
        self.over = true;
    }

    fn deliver(
        freeze: &FreezeArc,
        mut inner: InnerGuard<'_>,
        out: &mut ReadBuffer<'_>,
    ) -> Result<Delivered> {
        let state = freeze.kind(&mut inner);
        if state.over {
            return Ok(Delivered::More);
        }
        if state.cleared {
            drop(inner);
            out.put(&CookieReturn {
                code: BR_CLEAR_FREEZE_NOTIFICATION_DONE,
                cookie: freeze.cookie(),
            })?;
            return Ok(Delivered::More);
        }
        let frozen = state.frozen;
        freeze.set_delivered(&mut inner);
        drop(inner);
        out.put(&FrozenReturn {
            code: BR_FROZEN_BINDER,
            cookie: freeze.cookie(),
            is_frozen: u32::from(frozen),
            reserved: 0,
        })?;
        Ok(Delivered::Last)
    }

    fn listed(freeze: FreezeArc) -> Listed {
        Listed::Freeze(freeze)
    }
}

impl Process {
    /// Freezes the process. If it is frozen and thawed at the same time, what completes last holds.
    ///
    /// # Errors
    ///
    /// - `EAGAIN` if calls do not end within `timeout_ms` milliseconds, or the process was thawed meanwhile. The
    ///   process
    ///   is not frozen then, unless another freezing is under way.
    /// - `ERESTARTSYS` for a signal, likewise.
    pub(crate) fn freeze(&self, timeout_ms: u32) -> Result {
        let mut inner = self.lock();
        let freezing = inner.freezing_mut();
        freezing.forget_received();
        freezing.frozen = true;
        freezing.waiting = freezing.waiting.wrapping_add(1);
        let began = freezing.epoch;

        let mut left = msecs_to_jiffies(timeout_ms);
        let mut result = Ok(());
        while inner.freezing().outstanding_txns != 0 && left != 0 && inner.freezing().epoch == began
        {
            match self
                .freeze_wait()
                .wait_interruptible_timeout(&mut inner, left)
            {
                CondVarTimeoutResult::Woken { jiffies } => left = jiffies,
                CondVarTimeoutResult::Timeout => left = 0,
                CondVarTimeoutResult::Signal { .. } => {
                    result = Err(ERESTARTSYS);
                    break;
                }
            }
        }
        let freezing = inner.freezing_mut();
        if freezing.epoch != began {
            // Another freezing or thawing has completed meanwhile, and holds. It has removed this one from those that
            // wait.
            return if freezing.frozen && freezing.announced {
                Ok(())
            } else {
                Err(EAGAIN)
            };
        }
        // Each freezing of an epoch was added to it.
        freezing.waiting = freezing.waiting.wrapping_sub(1);
        if result.is_ok() && freezing.has_transactions() {
            result = Err(EAGAIN);
        }
        let news = match result {
            Ok(()) => Some(freezing.decide(true)),
            Err(_) if freezing.waiting != 0 => None,
            Err(_) if freezing.announced => Some(freezing.decide(false)),
            Err(_) => {
                freezing.frozen = false;
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
        let mut inner = self.lock();
        inner.freezing_mut().forget_received();
        let news = inner.freezing_mut().decide(false);
        // Wakes freezings that wait: they were overtaken.
        self.freeze_wait().notify_all();
        drop(inner);
        self.announce_freeze(news);
    }

    /// `BINDER_GET_FROZEN_INFO`: what came since the process was frozen. Bit 0 of the first says whether synchronous
    /// calls came, bit 1 whether some have not ended; the second, whether one-way calls came.
    pub(crate) fn frozen_info(&self) -> (u32, u32) {
        let inner = self.lock();
        let freezing = inner.freezing();
        let sync = u32::from(freezing.sync_recv) | u32::from(freezing.has_transactions()) << 1;
        (sync, u32::from(freezing.async_recv))
    }

    /// Decrements `outstanding_txns`. Wakes `BINDER_FREEZE` waiters at zero.
    pub(crate) fn transaction_ended(&self, inner: &mut ProcessInner) {
        let freezing = inner.freezing_mut();
        decrement(&mut freezing.outstanding_txns);
        if freezing.outstanding_txns == 0 && freezing.frozen {
            self.freeze_wait().notify_all();
        }
    }

    /// Tells the receivers of all freeze notifications about nodes of this process.
    fn announce_freeze(&self, news: News) {
        let mut next = 0;
        loop {
            // One node and one request at a time. The lock is dropped in between.
            let inner = self.lock();
            let Some(node) = inner.nodes().next(next) else {
                break;
            };
            drop(inner);
            let mut after = 0;
            loop {
                let mut inner = self.lock();
                let Some((request, behind)) = node.freezes(&mut inner).next(after) else {
                    break;
                };
                drop(inner);
                announce(&request, news);
                after = behind;
            }
            let Some(following) = node.ptr().checked_add(1) else {
                break;
            };
            next = following;
        }
    }
}
