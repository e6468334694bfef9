// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! One call on its way, and its reply.
//!
//! A call stands on two stacks: on its sender's, who waits, and on the handling thread's. What a thread was doing
//! before is the transaction's parent there. From a transaction, the parents on the senders' side lead through all
//! processes that wait for it, which is how a call back into a waiting process finds the thread that waits.

use kernel::{
    prelude::*,
    security,
    sync::{
        Arc,
        LockedBy, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

use crate::{
    buffer::{
        NoBuffer,
        Wanted, //
    },
    defs::{
        TransactionData,
        TransactionReturn,
        BR_DEAD_REPLY,
        BR_FAILED_REPLY,
        BR_ONEWAY_SPAM_SUSPECT,
        BR_REPLY,
        BR_TRANSACTION,
        BR_TRANSACTION_COMPLETE,
        TF_CLEAR_BUF,
        TF_ONE_WAY, //
    },
    helpers::{
        eproto,
        user_error, //
    },
    model::{
        Buffer,
        Delivered,
        InnerGuard,
        Process,
        ProcessInner,
        Queued,
        ReadBuffer,
        Receiver,
        StrongNode,
        Thread,
        Transaction,
        TransactionRef,
        Work, //
    },
    object,
    work::remove_from, //
};

/// Why a transaction did not get on its way.
struct Failure {
    /// What the sender is told.
    code: u32,
    error: Error,
    reason: &'static str,
}

fn failed(error: Error, reason: &'static str) -> Failure {
    Failure {
        code: BR_FAILED_REPLY,
        error,
        reason,
    }
}

fn dead(reason: &'static str) -> Failure {
    Failure {
        code: BR_DEAD_REPLY,
        error: ESRCH,
        reason,
    }
}

impl Transaction {
    fn is_oneway(&self) -> bool {
        self.flags & TF_ONE_WAY != 0
    }

    fn receiver<'a>(&'a self, inner: &'a mut ProcessInner) -> &'a mut Receiver {
        self.receiver.access_mut(inner)
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

/// What is sent where.
struct Outgoing<'a> {
    thread: &'a Arc<Thread>,
    data: &'a TransactionData,
    target: Arc<Process>,
}

impl Outgoing<'_> {
    /// Reserves a buffer in the target and fills it.
    fn fill(&self, node: Option<StrongNode>, oneway: bool) -> Result<(Buffer, bool), Failure> {
        let data = self.data;
        let too_large = |_| failed(EINVAL, "size too large");
        let wanted = Wanted {
            data_size: usize::try_from(data.data_size).map_err(too_large)?,
            offsets_size: usize::try_from(data.offsets_size).map_err(too_large)?,
            oneway,
            clear: data.flags & TF_CLEAR_BUF != 0,
            pid: self.thread.process.pid,
        };
        let (mut buffer, suspect) = self.target.reserve(&wanted, node).map_err(|e| match e {
            NoBuffer::NotMapped => dead("receiver has no mapping"),
            NoBuffer::BadSize => failed(EINVAL, "size too large"),
            NoBuffer::NoMemory => failed(ENOMEM, "out of memory"),
            NoBuffer::Full { largest_hole, free } => {
                user_error!(
                    self.thread.process.pid,
                    self.thread.id,
                    "no space for {} bytes in {}'s mapping of {}: {} free, largest hole {}",
                    wanted.data_size.saturating_add(wanted.offsets_size),
                    self.target.pid,
                    self.target.pages.mapped_size(),
                    free,
                    largest_hole
                );
                failed(ENOSPC, "receiver's mapping is full")
            }
            NoBuffer::OnewayFull { free } => {
                user_error!(
                    self.thread.process.pid,
                    self.thread.id,
                    "no space for {} one-way bytes in {}'s mapping of {}: {} free",
                    wanted.data_size.saturating_add(wanted.offsets_size),
                    self.target.pid,
                    self.target.pages.mapped_size(),
                    free
                );
                failed(ENOSPC, "receiver's one-way space is full")
            }
        })?;
        // CAST: Addresses in user space; the driver runs on 64-bit kernels only.
        let slice = |address: u64, size| {
            UserSlice::new(UserPtr::from_addr(address as usize), size).reader()
        };
        object::fill(
            self.thread,
            &mut buffer,
            slice(data.buffer, wanted.data_size),
            slice(data.offsets, wanted.offsets_size),
        )
        .map_err(|(error, reason)| failed(error, reason))?;
        Ok((buffer, suspect))
    }

    /// Makes the transaction of a filled buffer.
    fn transaction(
        &self,
        buffer: Buffer,
        called: Option<(u64, u64)>,
        from: Option<Arc<Thread>>,
        from_parent: Option<TransactionRef>,
    ) -> Result<TransactionRef, Failure> {
        Queued::new(Transaction {
            from,
            from_parent,
            target: self.target.clone(),
            called,
            code: self.data.code,
            flags: self.data.flags,
            sender_euid: self.thread.process.task.euid(),
            receiver: LockedBy::new(
                &self.target.inner,
                Receiver {
                    buffer: Some(buffer),
                    thread: None,
                    parent: None,
                },
            ),
        })
        .map_err(|e| failed(e, "out of memory"))
    }
}

/// `BC_TRANSACTION`. What goes wrong, the thread reads as a return code.
pub(crate) fn call(thread: &Arc<Thread>, data: &TransactionData) {
    if let Err(failure) = try_call(thread, data) {
        report(thread, data, &failure, "call");
        let mut inner = thread.process.inner.lock();
        thread.push_return_error(&mut inner, failure.code);
    }
}

/// `BC_REPLY`. What goes wrong, the caller reads, or, where there is none, the thread itself.
pub(crate) fn reply(thread: &Arc<Thread>, data: &TransactionData) {
    let (failure, call) = match try_reply(thread, data) {
        Ok(()) => return,
        Err(error) => error,
    };
    report(thread, data, &failure, "reply");
    let code = match call {
        Some(call) => {
            fail_call(call, failure.code);
            BR_TRANSACTION_COMPLETE
        }
        None => failure.code,
    };
    let mut inner = thread.process.inner.lock();
    thread.push_return_error(&mut inner, code);
}

#[cold]
fn report(thread: &Thread, data: &TransactionData, failure: &Failure, what: &str) {
    user_error!(
        thread.process.pid,
        thread.id,
        "{} to handle {} failed: {} ({:?}), code {}, flags {:#x}, size {}-{}",
        what,
        data.handle(),
        failure.reason,
        failure.error,
        data.code,
        data.flags,
        data.data_size,
        data.offsets_size
    );
}

fn try_call(thread: &Arc<Thread>, data: &TransactionData) -> Result<(), Failure> {
    let process = &thread.process;
    let node = if data.handle() == 0 {
        let node = process
            .context
            .manager_node()
            .map_err(|_| dead("no context manager"))?;
        if node.0.owner.pid == process.pid {
            return Err(failed(EINVAL, "context manager called itself"));
        }
        node
    } else {
        process.strong_node(data.handle()).map_err(|e| {
            if e == ESRCH {
                dead("node's owner is dead")
            } else {
                failed(EINVAL, "no such handle")
            }
        })?
    };
    let target = node.0.owner.clone();
    if Arc::ptr_eq(&target, process) {
        return Err(failed(EINVAL, "process called itself"));
    }
    security::binder_transaction(&process.cred, &target.cred)
        .map_err(|_| failed(EPERM, "security module objects"))?;

    let outgoing = Outgoing {
        thread,
        data,
        target,
    };
    if data.flags & TF_ONE_WAY != 0 {
        call_oneway(&outgoing, node)
    } else {
        call_and_wait(&outgoing, node)
    }
}

fn call_oneway(outgoing: &Outgoing<'_>, node: StrongNode) -> Result<(), Failure> {
    let thread = outgoing.thread;
    let called = node.0.clone();
    let (buffer, suspect) = outgoing.fill(Some(node), true)?;
    let transaction =
        outgoing.transaction(buffer, Some((called.ptr, called.cookie)), None, None)?;
    let code = if suspect && thread.process.inner.lock().spam_detection {
        BR_ONEWAY_SPAM_SUSPECT
    } else {
        BR_TRANSACTION_COMPLETE
    };
    let complete = thread
        .complete_work(code)
        .map_err(|e| failed(e, "out of memory"))?;
    let work = transaction.to_queue().ok_or(failed(EINVAL, "queued"))?;

    let target = &outgoing.target;
    let mut inner = target.inner.lock();
    if inner.dead {
        drop(inner);
        return Err(dead("receiver is dead"));
    }
    if let Some(buffer) = &mut transaction.receiver(&mut inner).buffer {
        buffer.submitted();
    }
    let state = called.state(&mut inner);
    if core::mem::replace(&mut state.oneway_active, true) {
        state.oneway_work.push_back(work);
    } else {
        target.push_to_idle(&mut inner, work, false);
    }
    drop(inner);

    let mut inner = thread.process.inner.lock();
    thread.push_own(&mut inner, complete);
    Ok(())
}

/// Where a synchronous call comes from: the thread's stack, and the thread in `target` that waits for this very call
/// to come back, if there is one.
fn place_call(
    thread: &Arc<Thread>,
    target: &Arc<Process>,
) -> Result<(Option<TransactionRef>, Option<Arc<Thread>>), Failure> {
    let mut inner = thread.process.inner.lock();
    let state = thread.state(&mut inner);
    if state
        .work
        .cursor_front()
        .peek_next()
        .is_some_and(|work| work.arc().is_transaction())
    {
        return Err(failed(eproto(), "a transaction waits to be read"));
    }
    let Some(parent) = state.stack.clone() else {
        return Ok((None, None));
    };
    let handles = parent
        .target_is(&thread.process)
        .then(|| parent.receiver(&mut inner).thread.as_ref())
        .flatten()
        .is_some_and(|handler| Arc::ptr_eq(handler, thread));
    drop(inner);
    if !handles {
        return Err(failed(eproto(), "a call waits for its reply"));
    }
    let mut next = Some(&parent);
    while let Some(transaction) = next {
        if let Some(from) = &transaction.from {
            if Arc::ptr_eq(&from.process, target) && !from.exited() {
                let waiting = from.clone();
                return Ok((Some(parent), Some(waiting)));
            }
        }
        next = transaction.from_parent.as_ref();
    }
    Ok((Some(parent), None))
}

fn call_and_wait(outgoing: &Outgoing<'_>, node: StrongNode) -> Result<(), Failure> {
    let thread = outgoing.thread;
    let target = &outgoing.target;
    let (parent, waiting) = place_call(thread, target)?;
    let called = Some((node.0.ptr, node.0.cookie));
    let (buffer, _) = outgoing.fill(Some(node), false)?;
    let transaction =
        outgoing.transaction(buffer, called, Some(thread.clone()), parent.clone())?;
    let complete = thread
        .complete_work(BR_TRANSACTION_COMPLETE)
        .map_err(|e| failed(e, "out of memory"))?;
    let complete_arc = complete.clone_arc();
    let work = transaction.to_queue().ok_or(failed(EINVAL, "queued"))?;

    // First this side: the reply may come at once. That the call was taken will be read together with the reply.
    let mut inner = thread.process.inner.lock();
    thread.push_deferred(&mut inner, complete);
    let below = thread.state(&mut inner).stack.replace(transaction.clone());
    drop(inner);
    // That was `parent`.
    drop(below);

    let mut inner = target.inner.lock();
    let gone = inner.dead || waiting.as_ref().is_some_and(|w| w.state(&mut inner).dead);
    if !gone {
        match waiting {
            Some(waiting) => waiting.push(&mut inner, work, true),
            None => target.push_to_idle(&mut inner, work, true),
        }
        return Ok(());
    }
    drop(inner);

    let mut inner = thread.process.inner.lock();
    let state = thread.state(&mut inner);
    let removed = remove_from(&mut state.work, &complete_arc);
    let popped = core::mem::replace(&mut state.stack, parent);
    drop(inner);
    drop(removed);
    drop(popped);
    Err(dead("receiver is dead"))
}

/// Takes the call that `thread` works on off its stack.
fn pop_handled(thread: &Arc<Thread>) -> Result<TransactionRef, Failure> {
    let mut inner = thread.process.inner.lock();
    let Some(call) = thread.state(&mut inner).stack.clone() else {
        return Err(failed(eproto(), "reply without a call"));
    };
    let handles = call.target_is(&thread.process)
        && call
            .receiver(&mut inner)
            .thread
            .as_ref()
            .is_some_and(|handler| Arc::ptr_eq(handler, thread));
    if !handles {
        drop(inner);
        return Err(failed(eproto(), "reply to a call of its own"));
    }
    let receiver = call.receiver(&mut inner);
    let handler = receiver.thread.take();
    let parent = receiver.parent.take();
    let popped = core::mem::replace(&mut thread.state(&mut inner).stack, parent);
    drop(inner);
    drop((handler, popped));
    Ok(call)
}

/// On failure, the call that has yet to be told comes back.
fn try_reply(
    thread: &Arc<Thread>,
    data: &TransactionData,
) -> Result<(), (Failure, Option<TransactionRef>)> {
    let call = pop_handled(thread).map_err(|failure| (failure, None))?;
    let Some(caller) = call.from.clone().filter(|caller| !caller.exited()) else {
        return Err((dead("caller is dead"), Some(call)));
    };
    let outgoing = Outgoing {
        thread,
        data,
        target: caller.process.clone(),
    };
    match reply_to(&outgoing, &call, &caller) {
        Ok(()) => Ok(()),
        Err((failure, tell)) => Err((failure, tell.then_some(call))),
    }
}

fn reply_to(
    outgoing: &Outgoing<'_>,
    call: &TransactionRef,
    caller: &Arc<Thread>,
) -> Result<(), (Failure, bool)> {
    let thread = outgoing.thread;
    let target = &outgoing.target;
    let is_top = |inner: &mut ProcessInner| {
        let state = caller.state(inner);
        state.stack.as_ref().is_some_and(|top| Arc::ptr_eq(top, call))
    };
    if !is_top(&mut target.inner.lock()) {
        return Err((failed(eproto(), "caller does not wait for this reply"), false));
    }
    let tell = |failure| (failure, true);
    let (buffer, _) = outgoing.fill(None, false).map_err(tell)?;
    let transaction = outgoing.transaction(buffer, None, None, None).map_err(tell)?;
    let complete = thread
        .complete_work(BR_TRANSACTION_COMPLETE)
        .map_err(|e| tell(failed(e, "out of memory")))?;
    let work = transaction
        .to_queue()
        .ok_or(tell(failed(EINVAL, "queued")))?;

    let mut inner = target.inner.lock();
    if inner.dead || !is_top(&mut inner) {
        drop(inner);
        return Err(tell(dead("caller is dead")));
    }
    let popped = core::mem::replace(
        &mut caller.state(&mut inner).stack,
        call.from_parent.clone(),
    );
    caller.push(&mut inner, work, true);
    drop(inner);
    drop(popped);

    let mut inner = thread.process.inner.lock();
    thread.push_own(&mut inner, complete);
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
                let waits = state.stack.as_ref().is_some_and(|top| Arc::ptr_eq(top, &call));
                let popped = waits.then(|| {
                    core::mem::replace(&mut state.stack, call.from_parent.clone())
                });
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
    /// Whether this went to `process`.
    pub(crate) fn target_is(&self, process: &Arc<Process>) -> bool {
        Arc::ptr_eq(&self.target, process)
    }

    /// What the receiver reads.
    fn describe(&self, buffer: &Buffer) -> Result<TransactionReturn> {
        let (data, offsets) = buffer.addresses()?;
        let (data_size, offsets_size) = buffer.sizes()?;
        let (ptr, cookie) = self.called.unwrap_or((0, 0));
        let sender_pid = match &self.from {
            Some(from) if !from.exited() => {
                let current = current!();
                from.process.task.tgid_nr_ns(current.active_pid_ns())
            }
            _ => 0,
        };
        Ok(TransactionReturn {
            code: if self.called.is_some() {
                BR_TRANSACTION
            } else {
                BR_REPLY
            },
            data: TransactionData {
                target: ptr,
                cookie,
                code: self.code,
                flags: self.flags,
                sender_pid,
                sender_euid: self.sender_euid.into_uid_in_current_ns(),
                data_size: data_size as u64,
                offsets_size: offsets_size as u64,
                buffer: data as u64,
                offsets: offsets as u64,
            },
        })
    }

    /// Whether `self` waits for a reply.
    fn is_call(&self) -> bool {
        self.from.is_some()
    }
}

impl Work for Transaction {
    fn deliver(
        self: Arc<Queued<Self>>,
        thread: &Arc<Thread>,
        mut inner: InnerGuard<'_>,
        out: &mut ReadBuffer,
    ) -> Result<Delivered> {
        let Some(buffer) = self.receiver(&mut inner).buffer.take() else {
            return Ok(Delivered::More);
        };
        if self.is_call() {
            let below = thread.state(&mut inner).stack.replace(self.clone());
            let receiver = self.receiver(&mut inner);
            receiver.thread = Some(thread.clone());
            receiver.parent = below;
        }
        drop(inner);

        buffer.map_if_needed();
        let written = self.describe(&buffer).and_then(|what| out.put(&what));
        if let Err(e) = written {
            user_error!(
                thread.process.pid,
                thread.id,
                "transaction cannot be written to the read buffer: {:?}",
                e
            );
            drop(buffer);
            if self.is_call() {
                if let Ok(call) = pop_handled(thread) {
                    fail_call(call, BR_FAILED_REPLY);
                }
            }
            return Err(e);
        }
        buffer.deliver();
        Ok(Delivered::Last)
    }

    fn cancel(self: Arc<Queued<Self>>) {
        let buffer = self
            .receiver(&mut self.target.inner.lock())
            .buffer
            .take();
        drop(buffer);
        if self.is_call() {
            fail_call(self, BR_DEAD_REPLY);
        }
    }

    fn is_transaction(&self) -> bool {
        true
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
            let receiver = transaction.receiver(&mut inner);
            (receiver.thread.take(), receiver.parent.take())
        } else {
            (None, transaction.from_parent.clone())
        };
        let popped = core::mem::replace(&mut thread.state(&mut inner).stack, parent);
        drop(inner);
        drop((handler, popped));
        // A call further down is told when the one above it ends, which is somebody else's to answer.
        if handled && top {
            fail_call(transaction, BR_DEAD_REPLY);
        }
        top = false;
    }
}
