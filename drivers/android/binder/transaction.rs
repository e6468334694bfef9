// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! Transactions: calls, one-way calls and replies.
//!
//! A call is on two stacks: that of the sending thread, which waits, and that of the thread that works on it. On each,
//! the transaction below it is its parent there. The parents on the sender's side lead through all processes that wait
//! for the call. By them, a call back into a waiting process finds the thread that waits.

use kernel::{
    alloc::Flags,
    prelude::*,
    sync::{
        Arc,
        LockedBy, //
    },
    task::Kuid, //
};

use crate::{
    buffer::Buffer,
    defs::{
        SecureTransactionReturn,
        TransactionData,
        TransactionReturn,
        BR_DEAD_REPLY,
        BR_FAILED_REPLY,
        BR_REPLY,
        BR_TRANSACTION,
        BR_TRANSACTION_SEC_CTX,
        FLAT_BINDER_FLAG_PRIORITY_MASK,
        TF_ONE_WAY, //
    },
    error::{
        failed,
        BinderError, //
    },
    level::Level,
    oneway::UpdateKind,
    process::{
        InnerGuard,
        Process,
        ProcessInner, //
    },
    read_buffer::ReadBuffer,
    stats::TransactionCount,
    sys::{
        helpers::{
            eproto,
            jiffies,
            user_error, //
        },
        nice,
        trace, //
    },
    thread::Thread,
    todo::{
        Delivered,
        Listed,
        Work,
        WorkItem, //
    },
};

/// A synchronous transaction (a call), an asynchronous one (a one-way call), or a reply.
pub(crate) struct Transaction {
    debug_id: u32,
    /// When it was sent, in [`jiffies`].
    start: u32,
    /// The thread that waits for the reply; `None` for one-way calls and replies.
    from: Option<Arc<Thread>>,
    /// What that thread was waiting for or working on before.
    from_parent: Option<TransactionArc>,
    target: Arc<Process>,
    sender_pid: i32,
    code: u32,
    flags: u32,
    sender_euid: Kuid,
    receiver: LockedBy<Receiver, ProcessInner>,
    _count: TransactionCount,
}

/// What a new transaction is made of.
pub(crate) struct NewTransaction<'a> {
    pub(crate) debug_id: u32,
    pub(crate) sender: &'a Arc<Thread>,
    pub(crate) target: &'a Arc<Process>,
    pub(crate) code: u32,
    pub(crate) flags: u32,
    /// The filled buffer.
    pub(crate) buffer: Buffer,
    pub(crate) level: Level,
    /// The sender waits for a reply. Before that it waited for or worked on the inner transaction, if there is one.
    pub(crate) call: Option<Option<TransactionArc>>,
}

// With its reference count it fits the allocator's 192 bytes, all of which are cleared on every call.
const _: () = assert!(size_of::<WorkItem<Transaction>>() + size_of::<usize>() <= 192);

/// A counted reference to a transaction.
pub(crate) type TransactionArc = Arc<WorkItem<Transaction>>;

/// The receiver's side of a transaction, guarded by [`Process::inner`] of the target.
struct Receiver {
    /// The buffer, until it is delivered.
    buffer: Option<Buffer>,
    /// The thread that works on it.
    thread: Option<Arc<Thread>>,
    /// What that thread was waiting for or working on before.
    parent: Option<TransactionArc>,
    /// The thread that sent it, for logs.
    sender_tid: i32,
    /// The sender's nice value.
    sender_nice: i8,
    /// The nice value that the thread that works on it had before.
    saved_nice: i8,
    /// It is counted as an outstanding transaction of its target.
    counted: bool,
    /// It never changes. It stands here because there is room for it.
    level: Level,
}

/// What a listing shows of the receiver's side.
pub(crate) struct Details {
    /// The thread that works on the transaction, or 0.
    pub(crate) handler: i32,
    pub(crate) sender_tid: i32,
    pub(crate) sender_nice: i8,
}

/// What a transaction had on the stack of the thread that worked on it. It is dropped after the lock.
struct Handled {
    thread: Option<Arc<Thread>>,
    parent: Option<TransactionArc>,
    saved_nice: i8,
    level: Level,
}

impl Transaction {
    /// Makes a transaction, allocated with `flags`. The current task is the sender.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(new: NewTransaction<'_>, flags: Flags) -> Result<TransactionArc> {
        let (from, from_parent) = match new.call {
            Some(parent) => (Some(new.sender.clone()), parent),
            None => (None, None),
        };
        WorkItem::with_flags(
            Self {
                debug_id: new.debug_id,
                start: jiffies(),
                from,
                from_parent,
                target: new.target.clone(),
                sender_pid: new.sender.process().pid(),
                code: new.code,
                flags: new.flags,
                // The sending thread's, which need not be the opener's.
                sender_euid: Kuid::current_euid(),
                receiver: new.target.locked_by(Receiver {
                    buffer: Some(new.buffer),
                    thread: None,
                    parent: None,
                    sender_tid: new.sender.id(),
                    sender_nice: nice::current_small(),
                    saved_nice: 0,
                    counted: false,
                    level: new.level,
                }),
                _count: TransactionCount::new(),
            },
            flags,
        )
    }

    /// The transaction's number in logs.
    pub(crate) fn debug_id(&self) -> u32 {
        self.debug_id
    }

    /// The code that sender and receiver agreed on.
    pub(crate) fn code(&self) -> u32 {
        self.code
    }

    /// `TF_*`.
    #[inline]
    pub(crate) fn flags(&self) -> u32 {
        self.flags
    }

    /// The pid of the sender in the initial namespace.
    pub(crate) fn sender_pid(&self) -> i32 {
        self.sender_pid
    }

    /// When it was sent, in [`jiffies`].
    pub(crate) fn start(&self) -> u32 {
        self.start
    }

    /// The process that it goes to.
    pub(crate) fn target(&self) -> &Arc<Process> {
        &self.target
    }

    /// The thread that waits for the reply.
    #[inline]
    pub(crate) fn from(&self) -> Option<&Arc<Thread>> {
        self.from.as_ref()
    }

    /// The transaction that the waiting thread waited for or worked on before.
    #[inline]
    pub(crate) fn sender_parent(&self) -> Option<&TransactionArc> {
        self.from_parent.as_ref()
    }

    /// Whether `self` waits for a reply.
    fn is_call(&self) -> bool {
        self.from.is_some()
    }

    /// Whether this went to `process`.
    pub(crate) fn target_is(&self, process: &Arc<Process>) -> bool {
        Arc::ptr_eq(&self.target, process)
    }

    /// The transaction was queued: counts it among the outstanding ones of its target.
    pub(crate) fn count(&self, inner: &mut ProcessInner) {
        self.receiver(inner).counted = true;
        inner.freezing_mut().txn_sent();
    }

    /// The transaction has ended: removes it from the outstanding ones, if it was counted.
    fn uncount(&self, inner: &mut ProcessInner) {
        if core::mem::take(&mut self.receiver(inner).counted) {
            self.target.transaction_ended(inner);
        }
    }

    fn receiver<'a>(&'a self, inner: &'a mut ProcessInner) -> &'a mut Receiver {
        self.receiver.access_mut(inner)
    }

    /// Whether `thread`, of the process that `inner` is of, works on the call.
    fn is_handled_by(&self, thread: &Arc<Thread>, inner: &mut ProcessInner) -> bool {
        self.target_is(thread.process())
            && self
                .receiver(inner)
                .thread
                .as_ref()
                .is_some_and(|handler| Arc::ptr_eq(handler, thread))
    }

    /// The level of the call, if `thread`, of the process that `inner` is of, works on it.
    pub(crate) fn level_if_handled_by(
        &self,
        thread: &Arc<Thread>,
        inner: &mut ProcessInner,
    ) -> Option<Level> {
        self.is_handled_by(thread, inner)
            .then(|| self.receiver(inner).level)
    }

    /// Ends the work of `thread`, of the process that `inner` is of, on the call. Returns `None` if it does not work on
    /// it.
    fn end_handling(&self, thread: &Arc<Thread>, inner: &mut ProcessInner) -> Option<Handled> {
        if !self.is_handled_by(thread, inner) {
            return None;
        }
        self.uncount(inner);
        let receiver = self.receiver(inner);
        Some(Handled {
            thread: receiver.thread.take(),
            parent: receiver.parent.take(),
            saved_nice: receiver.saved_nice,
            level: receiver.level,
        })
    }

    /// What the thread that works on the call waited for or worked on before.
    pub(crate) fn handler_parent<'a>(
        &'a self,
        inner: &'a ProcessInner,
    ) -> Option<&'a TransactionArc> {
        self.receiver.access(inner).parent.as_ref()
    }

    /// The buffer, if it is not delivered yet.
    pub(crate) fn buffer<'a>(&'a self, inner: &'a ProcessInner) -> Option<&'a Buffer> {
        self.receiver.access(inner).buffer.as_ref()
    }

    /// What a listing shows of the receiver's side.
    pub(crate) fn details(&self) -> Details {
        let inner = self.target.lock();
        let receiver = self.receiver.access(&inner);
        Details {
            handler: receiver.thread.as_ref().map_or(0, |thread| thread.id()),
            sender_tid: receiver.sender_tid,
            sender_nice: receiver.sender_nice,
        }
    }

    /// What a later update that replaces this one has in common with it.
    pub(crate) fn update_kind(&self) -> UpdateKind {
        UpdateKind {
            code: self.code,
            flags: self.flags,
            sender_pid: self.sender_pid,
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // User space determines the length of a chain of parents, so that it must not be dropped by recursion.
        let mut parent = self.from_parent.take();
        while let Some(transaction) = parent {
            let Some(mut last) = Arc::into_unique_or_drop(transaction) else {
                break;
            };
            parent = last.as_mut().value_mut().from_parent.take();
        }
    }
}

/// Takes the call that `thread` works on off its stack and returns it with its level. The thread gets the nice value
/// back that it had before.
///
/// # Errors
///
/// `EPROTO` if it works on no call, or one of its own is above it.
pub(crate) fn pop_handled(thread: &Arc<Thread>) -> Result<(TransactionArc, Level), BinderError> {
    let mut inner = thread.process().lock();
    let Some(call) = thread.stack(&mut inner).cloned() else {
        return Err(failed(eproto(), "reply without a call"));
    };
    let Some(handled) = call.end_handling(thread, &mut inner) else {
        drop(inner);
        return Err(failed(eproto(), "reply to a call of its own"));
    };
    let popped = thread.set_stack(&mut inner, handled.parent);
    drop(inner);
    drop((handled.thread, popped));
    nice::set(i32::from(handled.saved_nice));
    Ok((call, handled.level))
}

/// Tells the thread that waits for `call` that it failed. If that thread has exited, tells the thread that waits for
/// what it was working on, and so on.
pub(crate) fn fail_call(call: TransactionArc, code: u32) {
    let mut next = Some(call);
    while let Some(call) = next {
        if let Some(from) = &call.from {
            let mut inner = from.process().lock();
            if !from.is_dead(&mut inner) {
                let waits = from.is_stack_top(&mut inner, &call);
                let popped = waits.then(|| from.set_stack(&mut inner, call.from_parent.clone()));
                from.push_reply_error(&mut inner, code);
                drop(inner);
                drop(popped);
                return;
            }
        }
        next = call.from_parent.clone();
    }
}

impl Transaction {
    /// The `binder_transaction_data` that the receiver reads.
    fn describe(&self, buffer: &Buffer) -> Result<TransactionData> {
        let (data_size, offsets_size) = buffer.sizes()?;
        let (target, cookie) = buffer
            .node()
            .map_or((0, 0), |node| (node.ptr(), node.cookie()));
        let sender_pid = match &self.from {
            Some(from) if !from.exited() => {
                let current = current!();
                from.process().task().tgid_nr_ns(current.active_pid_ns())
            }
            _ => 0,
        };
        Ok(TransactionData {
            target,
            cookie,
            code: self.code,
            flags: self.flags,
            sender_pid,
            sender_euid: self.sender_euid.into_uid_in_current_ns(),
            data_size: u64::from(data_size),
            offsets_size: u64::from(offsets_size),
            buffer: buffer.address()? as u64,
            offsets: buffer.address()?.wrapping_add(buffer.offsets_at()?) as u64,
        })
    }

    fn write_out(&self, buffer: &Buffer, out: &mut ReadBuffer<'_>) -> Result {
        let data = self.describe(buffer)?;
        match (buffer.node(), buffer.context_at()) {
            (Some(_), Some(at)) => out.put(&SecureTransactionReturn {
                code: BR_TRANSACTION_SEC_CTX,
                data,
                security_context: buffer.address()?.wrapping_add(at) as u64,
            }),
            (Some(_), None) => out.put(&TransactionReturn {
                code: BR_TRANSACTION,
                data,
            }),
            (None, _) => out.put(&TransactionReturn {
                code: BR_REPLY,
                data,
            }),
        }
    }

    /// The nice value for the thread that works on the transaction. The sender's was `sent`, its own is `own`.
    fn handler_nice(&self, sent: i32, min_nice: i32, own: i32) -> i32 {
        let oneway = self.flags & TF_ONE_WAY != 0;
        if sent < min_nice && !oneway {
            sent
        } else if !oneway || own > min_nice {
            min_nice
        } else {
            own
        }
    }
}

#[expect(unsafe_code)]
// SAFETY: A transaction has no home.
unsafe impl Work for Transaction {
    fn deliver(
        self: Arc<WorkItem<Self>>,
        thread: &Arc<Thread>,
        mut inner: InnerGuard<'_>,
        out: &mut ReadBuffer<'_>,
    ) -> Result<Delivered> {
        let receiver = self.receiver(&mut inner);
        let sender_nice = i32::from(receiver.sender_nice);
        let Some(mut buffer) = receiver.buffer.take() else {
            return Ok(Delivered::More);
        };
        buffer.submitted();
        if self.is_call() {
            let below = thread.set_stack(&mut inner, Some(self.clone()));
            let receiver = self.receiver(&mut inner);
            receiver.thread = Some(thread.clone());
            receiver.parent = below;
            receiver.saved_nice = nice::current_small();
        } else {
            self.uncount(&mut inner);
        }
        drop(inner);

        let is_reply = match buffer.node() {
            Some(node) => {
                // CAST: Eight bits.
                let min_nice = (node.flags() & FLAT_BINDER_FLAG_PRIORITY_MASK) as i32;
                nice::set(self.handler_nice(sender_nice, min_nice, nice::current()));
                false
            }
            None => true,
        };
        let descriptors = match buffer.reserve_descriptors() {
            Ok(descriptors) => descriptors,
            Err(e) => {
                let reason = if e == ESRCH {
                    "its files went with the mapping"
                } else {
                    "no file descriptors"
                };
                self.report_undelivered(thread, e, reason);
                drop(buffer);
                if self.is_call() {
                    self.fail_delivered(thread);
                } else if is_reply {
                    out.put(&BR_FAILED_REPLY)?;
                }
                return Ok(Delivered::More);
            }
        };
        buffer.map_if_needed();
        if let Err(e) = self.write_out(&buffer, out) {
            self.report_undelivered(thread, e, "read buffer cannot be written");
            drop(buffer);
            if self.is_call() {
                self.fail_delivered(thread);
            }
            return Err(e);
        }
        descriptors.install();
        trace::transaction_received(
            self.debug_id,
            buffer.node().map_or(0, |node| node.debug_id()),
            thread.process().pid(),
            thread.id(),
            is_reply,
            self.code,
            self.flags,
        );
        buffer.deliver();
        Ok(Delivered::Last)
    }

    fn listed(self: Arc<WorkItem<Self>>) -> Listed {
        Listed::Transaction(self)
    }

    fn cancel(self: Arc<WorkItem<Self>>) {
        let mut inner = self.target.lock();
        self.uncount(&mut inner);
        let mut buffer = self.receiver(&mut inner).buffer.take();
        drop(inner);
        if let Some(buffer) = &mut buffer {
            buffer.submitted();
        }
        drop(buffer);
        if self.is_call() {
            fail_call(self, BR_DEAD_REPLY);
        }
    }

    fn is_transaction(&self) -> bool {
        true
    }
}

impl Transaction {
    /// Takes the call back from `thread`, to which it cannot be delivered, and fails it.
    #[cold]
    fn fail_delivered(&self, thread: &Arc<Thread>) {
        if let Ok((call, _)) = pop_handled(thread) {
            fail_call(call, BR_FAILED_REPLY);
        }
    }

    #[cold]
    fn report_undelivered(&self, thread: &Thread, error: Error, reason: &str) {
        user_error!(
            thread.process().pid(),
            thread.id(),
            "transaction {} is not delivered: {} ({:?})",
            self.debug_id,
            reason,
            error
        );
    }
}

/// Fails the calls that `thread`, which is exiting, works on, and empties its stack.
pub(crate) fn abandon_stack(thread: &Arc<Thread>) {
    let mut top = true;
    loop {
        let mut inner = thread.process().lock();
        let Some(transaction) = thread.stack(&mut inner).cloned() else {
            return;
        };
        let (is_handled, handler, parent) = match transaction.end_handling(thread, &mut inner) {
            Some(handled) => (true, handled.thread, handled.parent),
            None => (false, None, transaction.from_parent.clone()),
        };
        let popped = thread.set_stack(&mut inner, parent);
        drop(inner);
        drop((handler, popped));
        // The caller further down is told when the call above it ends, which another process answers.
        if is_handled && top {
            fail_call(transaction, BR_DEAD_REPLY);
        }
        top = false;
    }
}
