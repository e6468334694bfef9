// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! One call on its way, and its reply.
//!
//! A call stands on two stacks: on its sender's, who waits, and on the handling thread's. What a thread was doing
//! before is the transaction's parent there. From a transaction, the parents on the senders' side lead through all
//! processes that wait for it, which is how a call back into a waiting process finds the thread that waits.

use kernel::{
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
        ExtendedError,
        SecureTransactionReturn,
        TransactionData,
        TransactionReturn,
        BR_DEAD_REPLY,
        BR_FAILED_REPLY,
        BR_OK,
        BR_ONEWAY_SPAM_SUSPECT,
        BR_REPLY,
        BR_TRANSACTION,
        BR_TRANSACTION_COMPLETE,
        BR_TRANSACTION_PENDING_FROZEN,
        BR_TRANSACTION_SEC_CTX,
        FLAT_BINDER_FLAG_ACCEPTS_FDS,
        FLAT_BINDER_FLAG_PRIORITY_MASK,
        TF_ACCEPT_FDS,
        TF_ONE_WAY,
        TF_UPDATE_TXN, //
    },
    level::Level,
    node::StrongNode,
    oneway::{
        UpdateKind,
        UpdateSlots, //
    },
    outgoing::{
        dead,
        failed,
        frozen,
        Failure,
        Message,
        Outgoing,
        Recorded, //
    },
    process::{
        InnerGuard,
        Process,
        ProcessInner, //
    },
    read_buffer::ReadBuffer,
    stats::CountedTransaction,
    sums::increment,
    sys::{
        helpers::{
            eproto,
            user_error, //
        },
        lsm,
        nice,
        trace, //
    },
    thread::Thread,
    todo::{
        Delivered,
        Listed,
        Queued,
        Work, //
    },
    transaction_log::Kind, //
};

/// A call, one-way call or reply.
pub(crate) struct Transaction {
    pub(crate) debug_id: u32,
    /// When it began, as told by [`jiffies`](crate::sys::helpers::jiffies).
    pub(crate) start: u32,
    /// Who waits for the reply; nobody for one-way calls and replies.
    pub(crate) from: Option<Arc<Thread>>,
    /// What that thread was waiting for or working on before.
    pub(crate) from_parent: Option<TransactionRef>,
    pub(crate) target: Arc<Process>,
    pub(crate) sender_pid: i32,
    pub(crate) code: u32,
    pub(crate) flags: u32,
    pub(crate) sender_euid: Kuid,
    pub(crate) receiver: LockedBy<Receiver, ProcessInner>,
    pub(crate) _counted: CountedTransaction,
}

// With its reference count it fits the allocator's 192 bytes, all of which are cleared on every call.
const _: () = assert!(size_of::<Queued<Transaction>>() + size_of::<usize>() <= 192);

/// A counted reference to a transaction.
pub(crate) type TransactionRef = Arc<Queued<Transaction>>;

/// The receiver's side of a transaction, guarded by [`Process::inner`] of the target.
pub(crate) struct Receiver {
    /// Until it is delivered.
    pub(crate) buffer: Option<Buffer>,
    /// Who works on it.
    pub(crate) thread: Option<Arc<Thread>>,
    /// What that thread was waiting for or working on before.
    pub(crate) parent: Option<TransactionRef>,
    /// The thread that sent it, for logs.
    pub(crate) sender_tid: i32,
    /// The sender's nice value.
    pub(crate) sender_nice: i8,
    /// The nice value of the thread that works on it before it did.
    pub(crate) saved_nice: i8,
    /// It is one of [`ProcessInner::outstanding`].
    pub(crate) counted: bool,
    /// It never changes; here is the room for it.
    pub(crate) level: Level,
}

impl Transaction {
    /// Whether `self` waits for a reply.
    fn is_call(&self) -> bool {
        self.from.is_some()
    }

    /// Whether this went to `process`.
    pub(crate) fn target_is(&self, process: &Arc<Process>) -> bool {
        Arc::ptr_eq(&self.target, process)
    }

    /// The transaction was put on its way: its target has one more that has yet to end.
    fn count(&self, inner: &mut ProcessInner) {
        self.receiver(inner).counted = true;
        increment(&mut inner.outstanding);
    }

    /// It has ended, if it ever was on its way.
    fn uncount(&self, inner: &mut ProcessInner) {
        if core::mem::take(&mut self.receiver(inner).counted) {
            self.target.transaction_ended(inner);
        }
    }

    fn receiver<'a>(&'a self, inner: &'a mut ProcessInner) -> &'a mut Receiver {
        self.receiver.access_mut(inner)
    }

    /// What a later update has to be like to take the place of this one.
    fn update_kind(&self) -> UpdateKind {
        UpdateKind {
            code: self.code,
            flags: self.flags,
            sender_pid: self.sender_pid,
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // A chain of parents can be as long as user space likes; it must not be dropped by recursion.
        let mut parent = self.from_parent.take();
        while let Some(transaction) = parent {
            let Some(mut last) = Arc::into_unique_or_drop(transaction) else {
                break;
            };
            parent = last.as_mut().value_mut().from_parent.take();
        }
    }
}

/// Remembers what a thread's transaction came to.
fn set_extended_error(
    thread: &Thread,
    inner: &mut ProcessInner,
    id: u32,
    failure: Option<&Failure>,
) {
    thread.state(inner).extended_error = ExtendedError {
        id,
        command: failure.map_or(BR_OK, |failure| failure.code),
        param: failure.map_or(0, Failure::param),
    };
}

/// `BC_TRANSACTION`. What goes wrong, the thread reads as a return code.
pub(crate) fn call(thread: &Arc<Thread>, message: &Message) {
    let kind = if message.data.flags & TF_ONE_WAY != 0 {
        Kind::Oneway
    } else {
        Kind::Call
    };
    let mut record = Recorded::begin(kind);
    let result = try_call(thread, message, &mut record);
    record.end(thread, message, result.as_ref().err());
    if let Err(failure) = result {
        let id = record.id;
        report(thread, message, &failure, "call");
        let mut inner = thread.process.inner.lock();
        set_extended_error(thread, &mut inner, id, Some(&failure));
        thread.push_return_error(&mut inner, failure.code);
    }
}

/// `BC_REPLY`. What goes wrong, the caller reads, or, where there is none, the thread itself.
pub(crate) fn reply(thread: &Arc<Thread>, message: &Message) {
    let mut record = Recorded::begin(Kind::Reply);
    let result = try_reply(thread, message, &mut record);
    let failure = result.as_ref().err().map(|(failure, _)| failure);
    record.end(thread, message, failure);
    let Err((failure, call)) = result else { return };
    let id = record.id;
    report(thread, message, &failure, "reply");
    // Where there is a caller, it is the caller's failure.
    let own = if call.is_some() { None } else { Some(&failure) };
    let mut inner = thread.process.inner.lock();
    set_extended_error(thread, &mut inner, id, own);
    // First this: the thread may itself be the one who waits, further down.
    let code = match call {
        Some(_) => BR_TRANSACTION_COMPLETE,
        None => failure.code,
    };
    thread.push_return_error(&mut inner, code);
    drop(inner);
    if let Some(call) = call {
        if let Some(caller) = &call.from {
            let mut inner = caller.process.inner.lock();
            // What it has not asked about yet, a failed call of its own, is not forgotten for this one.
            if caller.state(&mut inner).extended_error.command == BR_OK {
                set_extended_error(caller, &mut inner, id, Some(&failure));
            }
        }
        fail_call(call, failure.code);
    }
}

#[cold]
fn report(thread: &Thread, message: &Message, failure: &Failure, what: &str) {
    let data = &message.data;
    user_error!(
        thread.process.pid,
        thread.id,
        "{} to handle {} failed: {} ({:?}), code {}, flags {:#x}, size {}-{}-{}",
        what,
        data.handle(),
        failure.reason,
        failure.error,
        data.code,
        data.flags,
        data.data_size,
        data.offsets_size,
        message.extra_size
    );
}

fn try_call(thread: &Arc<Thread>, message: &Message, record: &mut Recorded) -> Result<(), Failure> {
    let process = &thread.process;
    let data = &message.data;
    let node = if data.handle() == 0 {
        let node = process.context.manager_node().map_err(|_| Failure {
            error: EINVAL,
            ..dead("no context manager")
        })?;
        if node.node().owner.pid == process.pid {
            return Err(failed(EINVAL, "context manager called itself"));
        }
        node
    } else {
        process.strong_node(data.handle()).map_err(|e| {
            if e == ESRCH {
                Failure {
                    error: EINVAL,
                    ..dead("node's owner is dead")
                }
            } else {
                failed(EINVAL, "no such handle")
            }
        })?
    };
    let target = node.node().owner.clone();
    record.node = node.node().debug_id;
    if Arc::ptr_eq(&target, process) {
        return Err(failed(EINVAL, "process called itself"));
    }
    lsm::may_call(&process.cred, &target.cred)
        .map_err(|_| failed(EPERM, "security module objects"))?;

    let outgoing = Outgoing {
        debug_id: record.id,
        thread,
        message,
        target,
        accepts_fds: node.node().flags & FLAT_BINDER_FLAG_ACCEPTS_FDS != 0,
    };
    if data.flags & TF_ONE_WAY != 0 {
        call_oneway(&outgoing, node, record)
    } else {
        call_and_wait(&outgoing, node, record)
    }
}

fn call_oneway(
    outgoing: &Outgoing<'_>,
    node: StrongNode,
    record: &mut Recorded,
) -> Result<(), Failure> {
    let thread = outgoing.thread;
    record.to.0 = outgoing.target.pid;
    let node_ref = node.node().clone();
    let (buffer, others) = outgoing.fill(Some(node), true)?;
    let level = Level::of_oneway(others.only);
    let transaction = outgoing.transaction(buffer, level, level.flags(), None, None)?;
    let complete = thread
        .complete_work(BR_TRANSACTION_COMPLETE)
        .map_err(|e| failed(e, "out of memory"))?;
    let slots = if transaction.flags & TF_UPDATE_TXN != 0 {
        Some(UpdateSlots::new().map_err(|e| failed(e, "out of memory"))?)
    } else {
        None
    };
    let work = transaction.to_queue().ok_or(failed(EINVAL, "queued"))?;
    record.traced(outgoing.message);

    let target = &outgoing.target;
    let mut inner = target.inner.lock();
    if inner.dead {
        drop(inner);
        return Err(dead("receiver is dead"));
    }
    let is_frozen = inner.frozen;
    inner.oneway_received |= is_frozen;
    record.waits_frozen = is_frozen;
    let state = node_ref.state(&mut inner);
    let mut superseded = None;
    let waits = core::mem::replace(&mut state.oneway_active, true);
    if waits {
        match slots {
            Some(slots) => {
                let kind = transaction.update_kind();
                if is_frozen {
                    superseded = state.oneway.take_update(kind);
                }
                state.oneway.push_update(kind, work, slots);
            }
            None => state.oneway.push_back(work),
        }
        transaction.count(&mut inner);
        if superseded.is_some() {
            target.transaction_ended(&mut inner);
        }
    } else {
        transaction.count(&mut inner);
        target.push_to_idle(&mut inner, work, false);
    }
    drop(inner);
    drop(superseded);

    let mut inner = thread.process.inner.lock();
    if is_frozen {
        complete.set(BR_TRANSACTION_PENDING_FROZEN);
    } else if others.suspect && inner.spam_detection {
        complete.set(BR_ONEWAY_SPAM_SUSPECT);
    }
    set_extended_error(thread, &mut inner, outgoing.debug_id, None);
    thread.push_own(&mut inner, complete);
    Ok(())
}

/// Where a synchronous call comes from.
struct Place {
    level: Level,
    /// The top of the thread's stack.
    parent: Option<TransactionRef>,
    /// The thread in the target that waits for this very call to come back, if there is one.
    waiting: Option<Arc<Thread>>,
}

fn place_call(thread: &Arc<Thread>, target: &Arc<Process>) -> Result<Place, Failure> {
    let mut inner = thread.process.inner.lock();
    let state = thread.state(&mut inner);
    if state.work.starts_with_transaction() {
        return Err(failed(eproto(), "a transaction waits to be read"));
    }
    let is_idle = state.work.is_empty();
    let Some(parent) = state.stack.clone() else {
        return Ok(Place {
            level: Level::of_call(is_idle, None),
            parent: None,
            waiting: None,
        });
    };
    let handled = parent
        .target_is(&thread.process)
        .then(|| parent.receiver(&mut inner))
        .filter(|receiver| receiver.is_with(thread))
        .map(|receiver| Level::of_call(is_idle, Some(receiver.level)));
    drop(inner);
    let Some(level) = handled else {
        return Err(failed(eproto(), "a call waits for its reply"));
    };
    let mut next = Some(&parent);
    while let Some(transaction) = next {
        if let Some(from) = &transaction.from {
            if Arc::ptr_eq(&from.process, target) && !from.exited() {
                let waiting = Some(from.clone());
                return Ok(Place {
                    level,
                    parent: Some(parent),
                    waiting,
                });
            }
        }
        next = transaction.from_parent.as_ref();
    }
    Ok(Place {
        level,
        parent: Some(parent),
        waiting: None,
    })
}

fn call_and_wait(
    outgoing: &Outgoing<'_>,
    node: StrongNode,
    record: &mut Recorded,
) -> Result<(), Failure> {
    let thread = outgoing.thread;
    let target = &outgoing.target;
    let Place {
        level,
        parent,
        waiting,
    } = place_call(thread, target)?;
    record.to.0 = target.pid;
    record.to.1 = waiting.as_ref().map_or(0, |waiting| waiting.id);
    let (buffer, _) = outgoing.fill(Some(node), false)?;
    let transaction = outgoing.transaction(
        buffer,
        level,
        level.flags(),
        Some(thread.clone()),
        parent.clone(),
    )?;
    let complete = thread
        .complete_work(BR_TRANSACTION_COMPLETE)
        .map_err(|e| failed(e, "out of memory"))?;
    let complete_arc = complete.clone_arc();
    let work = transaction.to_queue().ok_or(failed(EINVAL, "queued"))?;
    record.traced(outgoing.message);

    // First this side: the reply may come at once. That the call was taken will be read together with the reply.
    let mut inner = thread.process.inner.lock();
    thread.push_deferred(&mut inner, complete);
    set_extended_error(thread, &mut inner, outgoing.debug_id, None);
    let below = thread.set_stack(&mut inner, Some(transaction.clone()));
    drop(inner);
    // That was `parent`.
    drop(below);

    let mut inner = target.inner.lock();
    let is_frozen = inner.frozen;
    inner.sync_received |= is_frozen;
    let gone = inner.dead || waiting.as_ref().is_some_and(|w| w.state(&mut inner).dead);
    if !gone && !is_frozen {
        transaction.count(&mut inner);
        match waiting {
            Some(waiting) => waiting.push(&mut inner, work, true),
            None => target.push_to_idle(&mut inner, work, true),
        }
        return Ok(());
    }
    drop(inner);

    let mut inner = thread.process.inner.lock();
    let removed = thread.unqueue(&mut inner, &complete_arc);
    let popped = thread.set_stack(&mut inner, parent);
    drop(inner);
    drop(removed);
    drop(popped);
    Err(if is_frozen {
        frozen()
    } else {
        dead("receiver is dead")
    })
}

impl Receiver {
    /// Whether `thread` works on the call.
    fn is_with(&self, thread: &Arc<Thread>) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|handler| Arc::ptr_eq(handler, thread))
    }
}

/// Takes the call that `thread` works on off its stack; returns its level, too.
fn pop_handled(thread: &Arc<Thread>) -> Result<(TransactionRef, Level), Failure> {
    let mut inner = thread.process.inner.lock();
    let Some(call) = thread.state(&mut inner).stack.clone() else {
        return Err(failed(eproto(), "reply without a call"));
    };
    let handles = call.target_is(&thread.process) && call.receiver(&mut inner).is_with(thread);
    if !handles {
        drop(inner);
        return Err(failed(eproto(), "reply to a call of its own"));
    }
    call.uncount(&mut inner);
    let receiver = call.receiver(&mut inner);
    let handler = receiver.thread.take();
    let parent = receiver.parent.take();
    let (saved_nice, level) = (receiver.saved_nice, receiver.level);
    let popped = thread.set_stack(&mut inner, parent);
    drop(inner);
    drop((handler, popped));
    nice::set(i32::from(saved_nice));
    Ok((call, level))
}

/// On failure, the call that has yet to be told comes back.
fn try_reply(
    thread: &Arc<Thread>,
    message: &Message,
    record: &mut Recorded,
) -> Result<(), (Failure, Option<TransactionRef>)> {
    let (call, level) = pop_handled(thread).map_err(|failure| (failure, None))?;
    let Some(caller) = call.from.clone().filter(|caller| !caller.exited()) else {
        return Err((dead("caller is dead"), Some(call)));
    };
    record.to = (caller.process.pid, caller.id);
    let outgoing = Outgoing {
        debug_id: record.id,
        thread,
        message,
        target: caller.process.clone(),
        accepts_fds: call.flags & TF_ACCEPT_FDS != 0,
    };
    match reply_to(&outgoing, &call, level, &caller, record) {
        Ok(()) => Ok(()),
        Err((failure, tell)) => Err((failure, tell.then_some(call))),
    }
}

fn reply_to(
    outgoing: &Outgoing<'_>,
    call: &TransactionRef,
    level: Level,
    caller: &Arc<Thread>,
    record: &Recorded,
) -> Result<(), (Failure, bool)> {
    let thread = outgoing.thread;
    let target = &outgoing.target;
    let is_top = |inner: &mut ProcessInner| {
        let state = caller.state(inner);
        state
            .stack
            .as_ref()
            .is_some_and(|top| Arc::ptr_eq(top, call))
    };
    if !is_top(&mut target.inner.lock()) {
        return Err((
            failed(eproto(), "caller does not wait for this reply"),
            false,
        ));
    }
    let tell = |failure| (failure, true);
    let (buffer, _) = outgoing.fill(None, false).map_err(tell)?;
    let transaction = if level.is_charged() {
        let payer = target.pages.payer();
        payer.pay(|flags| outgoing.transaction(buffer, level, flags, None, None))
    } else {
        outgoing.transaction(buffer, level, level.flags(), None, None)
    }
    .map_err(tell)?;
    let complete = thread
        .complete_work(BR_TRANSACTION_COMPLETE)
        .map_err(|e| tell(failed(e, "out of memory")))?;
    let complete_arc = complete.clone_arc();
    let work = transaction
        .to_queue()
        .ok_or(tell(failed(EINVAL, "queued")))?;
    record.traced(outgoing.message);

    // First this side: what the thread itself waits for, further down, may come as soon as the caller goes on, and a
    // thread that has replied reads that it has before it reads anything else.
    let mut inner = thread.process.inner.lock();
    set_extended_error(thread, &mut inner, outgoing.debug_id, None);
    thread.push_own(&mut inner, complete);
    drop(inner);

    let mut inner = target.inner.lock();
    if inner.dead || !is_top(&mut inner) {
        drop(inner);
        let mut inner = thread.process.inner.lock();
        let removed = thread.unqueue(&mut inner, &complete_arc);
        drop(inner);
        drop(removed);
        return Err(tell(dead("caller is dead")));
    }
    let popped = caller.set_stack(&mut inner, call.from_parent.clone());
    transaction.count(&mut inner);
    caller.push(&mut inner, work, true);
    drop(inner);
    drop(popped);
    Ok(())
}

/// Tells whoever waits for `call`, or, if that thread is gone, whoever waits for what it was doing, that it failed.
pub(crate) fn fail_call(call: TransactionRef, code: u32) {
    let mut next = Some(call);
    while let Some(call) = next {
        if let Some(from) = &call.from {
            let mut inner = from.process.inner.lock();
            if !from.state(&mut inner).dead {
                let state = from.state(&mut inner);
                let waits = state
                    .stack
                    .as_ref()
                    .is_some_and(|top| Arc::ptr_eq(top, &call));
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
    /// What the receiver reads.
    fn describe(&self, buffer: &Buffer) -> Result<TransactionData> {
        let (data_size, offsets_size) = buffer.sizes()?;
        let (target, cookie) = buffer.node().map_or((0, 0), |node| (node.ptr, node.cookie));
        let sender_pid = match &self.from {
            Some(from) if !from.exited() => {
                let current = current!();
                from.process.task.tgid_nr_ns(current.active_pid_ns())
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

    /// How nice the thread that handles this should be, if the sender was as nice as `sent` and it is itself `own`.
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
        self: Arc<Queued<Self>>,
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
                let min_nice = (node.flags & FLAT_BINDER_FLAG_PRIORITY_MASK) as i32;
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
            buffer.node().map_or(0, |node| node.debug_id),
            thread.process.pid,
            thread.id,
            is_reply,
            self.code,
            self.flags,
        );
        buffer.deliver();
        Ok(Delivered::Last)
    }

    fn listed(self: Arc<Queued<Self>>) -> Listed {
        Listed::Transaction(self)
    }

    fn cancel(self: Arc<Queued<Self>>) {
        let mut inner = self.target.inner.lock();
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
    /// Takes the call, which `thread` has just got and cannot read, back from it, and lets the caller know.
    #[cold]
    fn fail_delivered(&self, thread: &Arc<Thread>) {
        if let Ok((call, _)) = pop_handled(thread) {
            fail_call(call, BR_FAILED_REPLY);
        }
    }

    #[cold]
    fn report_undelivered(&self, thread: &Thread, error: Error, reason: &str) {
        user_error!(
            thread.process.pid,
            thread.id,
            "transaction {} is not delivered: {} ({:?})",
            self.debug_id,
            reason,
            error
        );
    }
}

/// `thread`, which is exiting, will not reply to what it works on, and waits for nothing any more.
pub(crate) fn abandon_stack(thread: &Arc<Thread>) {
    let mut top = true;
    loop {
        let mut inner = thread.process.inner.lock();
        let Some(transaction) = thread.state(&mut inner).stack.clone() else {
            return;
        };
        let handled = transaction.target_is(&thread.process)
            && transaction
                .receiver(&mut inner)
                .thread
                .as_ref()
                .is_some_and(|handler| Arc::ptr_eq(handler, thread));
        let (handler, parent) = if handled {
            transaction.uncount(&mut inner);
            let receiver = transaction.receiver(&mut inner);
            (receiver.thread.take(), receiver.parent.take())
        } else {
            (None, transaction.from_parent.clone())
        };
        let popped = thread.set_stack(&mut inner, parent);
        drop(inner);
        drop((handler, popped));
        // A call further down is told when the one above it ends, which is somebody else's to answer.
        if handled && top {
            fail_call(transaction, BR_DEAD_REPLY);
        }
        top = false;
    }
}
