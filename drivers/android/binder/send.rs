// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Sending: `BC_TRANSACTION` and `BC_REPLY`, from the look-up of the target to the work item on a todo list.

use kernel::{
    alloc::Flags,
    prelude::*,
    security::SecurityCtx,
    sync::Arc,
    uaccess::{
        UserPtr,
        UserSlice,
        UserSliceReader, //
    },
};

use crate::{
    buffer::{
        Buffer,
        NoBuffer,
        OnewayCalls,
        Wanted, //
    },
    defs::{
        ExtendedError,
        TransactionData,
        BR_OK,
        BR_ONEWAY_SPAM_SUSPECT,
        BR_TRANSACTION_COMPLETE,
        BR_TRANSACTION_PENDING_FROZEN,
        FLAT_BINDER_FLAG_ACCEPTS_FDS,
        FLAT_BINDER_FLAG_TXN_SECURITY_CTX,
        TF_ACCEPT_FDS,
        TF_CLEAR_BUF,
        TF_ONE_WAY,
        TF_UPDATE_TXN, //
    },
    error::{
        dead,
        failed,
        frozen,
        BinderError, //
    },
    level::Level,
    node::{
        OnewayTurn,
        StrongNode,
        Update, //
    },
    object,
    oneway::UpdateSlots,
    process::{
        Process,
        ProcessInner, //
    },
    sys::{
        helpers::{
            eproto,
            next_debug_id,
            user_error, //
        },
        lsm,
        netlink,
        trace, //
    },
    thread::Thread,
    transaction::{
        fail_call,
        pop_handled,
        NewTransaction,
        Transaction,
        TransactionArc, //
    },
    transaction_log::{
        Kind,
        Record,
        ALL,
        FAILED, //
    },
};

/// The argument of `BC_TRANSACTION` and `BC_REPLY`.
#[derive(Clone, Copy)]
pub(crate) struct SentData {
    data: TransactionData,
    /// Bytes of the buffers that objects in it point to.
    extra_size: u64,
}

impl SentData {
    /// Reads what comes with `BC_TRANSACTION` and `BC_REPLY`, or with `_SG` if `with_buffers`.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    pub(crate) fn read(reader: &mut UserSliceReader, with_buffers: bool) -> Result<Self> {
        Ok(Self {
            data: reader.read()?,
            extra_size: if with_buffers { reader.read()? } else { 0 },
        })
    }
}

/// What the logs tell of a transaction.
struct LogEntry {
    id: u32,
    /// Its slot in the transaction log.
    place: u32,
    kind: Kind,
    /// Process and thread it goes to.
    to: (i32, i32),
    /// The number of the node that is called.
    node: u32,
    /// The transaction waits until its receiver is thawed.
    waits_frozen: bool,
}

impl LogEntry {
    /// A transaction begins.
    #[inline]
    fn begin(kind: Kind) -> Self {
        Self {
            id: next_debug_id(),
            place: ALL.begin(),
            kind,
            to: (0, 0),
            node: 0,
            waits_frozen: false,
        }
    }

    /// The transaction is about to be handed to its receiver.
    #[inline]
    fn traced(&self, sent: &SentData) {
        trace::transaction(
            self.id,
            self.node,
            self.to.0,
            self.to.1,
            self.kind == Kind::Reply,
            sent.data.code,
            sent.data.flags,
        );
    }

    /// Logs what became of the transaction with which `thread` sent `sent`.
    #[inline]
    fn end(&self, thread: &Thread, sent: &SentData, failure: Option<&BinderError>) {
        let process = thread.process();
        let data = &sent.data;
        let entry = Record {
            id: self.id,
            kind: self.kind as u32,
            from_pid: process.pid(),
            from_tid: thread.id(),
            to_pid: self.to.0,
            to_tid: self.to.1,
            node: self.node,
            handle: match self.kind {
                Kind::Reply => 0,
                Kind::Call | Kind::Oneway => data.handle(),
            },
            data_size: data.data_size,
            offsets_size: data.offsets_size,
            code: failure.map_or(0, |failure| failure.code()),
            errno: failure.map_or(0, BinderError::param),
            line: failure.map_or(0, |failure| failure.place().1),
            context: process.context().short_name(),
        };
        if failure.is_some() {
            FAILED.write(FAILED.begin(), &entry);
        }
        ALL.write(self.place, &entry);
        if let Some(failure) = failure {
            self.report(thread, sent, failure.code());
        } else if self.waits_frozen {
            self.report(thread, sent, BR_TRANSACTION_PENDING_FROZEN);
        }
    }

    /// Multicasts what the sender reads.
    #[cold]
    fn report(&self, thread: &Thread, sent: &SentData, error: u32) {
        let process = thread.process();
        netlink::report(&netlink::Report {
            error,
            context: process.context().name(),
            from: (process.pid(), thread.id()),
            to: self.to,
            is_reply: self.kind == Kind::Reply,
            flags: sent.data.flags,
            code: sent.data.code,
            data_size: sent.data.data_size,
        });
    }
}

/// A transaction on its way from the sender's thread to its target.
struct SendContext<'a> {
    debug_id: u32,
    thread: &'a Arc<Thread>,
    sent: &'a SentData,
    target: Arc<Process>,
    accepts_fds: bool,
}

impl SendContext<'_> {
    /// Reserves a buffer in the target and fills it.
    fn fill(
        &self,
        node: Option<StrongNode>,
        oneway: bool,
    ) -> Result<(Buffer, OnewayCalls), BinderError> {
        let data = &self.sent.data;
        let context = match &node {
            Some(node) if node.node().flags() & FLAT_BINDER_FLAG_TXN_SECURITY_CTX != 0 => {
                let id = self.thread.process().cred().get_secid();
                let context =
                    SecurityCtx::from_secid(id).map_err(|e| failed(e, "no security context"))?;
                Some(context)
            }
            _ => None,
        };
        // Before the checks of sizes, as with the C driver.
        if !self.target.pages().is_mapped() {
            return Err(dead("receiver has no mapping"));
        }
        let size =
            |bytes: u64| usize::try_from(bytes).map_err(|_| failed(EINVAL, "size too large"));
        let extra_size = size(self.sent.extra_size)?;
        let context_size = context.as_ref().map_or(0, |context| context.len());
        let wanted = Wanted {
            data_size: size(data.data_size)?,
            offsets_size: size(data.offsets_size)?,
            extra_size: extra_size
                .checked_add(context_size)
                .ok_or(failed(EINVAL, "size too large"))?,
            context_size,
            oneway,
            clear: data.flags & TF_CLEAR_BUF != 0,
            pid: self.thread.process().pid(),
            id: self.debug_id,
        };
        let (mut buffer, oneway_calls) = self
            .target
            .reserve(&wanted, node)
            .map_err(|e| self.no_buffer(&wanted, e))?;
        // CAST: Addresses in user space; the driver runs on 64-bit kernels only.
        let (from, offsets) = (
            UserPtr::from_addr(data.buffer as usize),
            UserPtr::from_addr(data.offsets as usize),
        );
        let offsets = UserSlice::new(offsets, wanted.offsets_size).reader();
        object::check(&offsets, extra_size)?;

        let bad = |e| failed(e, "buffer cannot be written");
        let extra_at = buffer.extra_at().map_err(bad)?;
        let extra_end = extra_at
            .checked_add(extra_size)
            .ok_or(failed(EINVAL, "size too large"))?;
        object::Filler::new(
            self.thread,
            &mut buffer,
            self.accepts_fds,
            extra_at..extra_end,
        )
        .fill(from, wanted.data_size, offsets)?;
        if let Some(context) = &context {
            buffer.write(extra_end, context.as_bytes()).map_err(bad)?;
        }
        buffer.send_files().map_err(|e| {
            if e == ESRCH {
                dead("receiver has no mapping")
            } else {
                failed(e, "out of memory")
            }
        })?;
        Ok((buffer, oneway_calls))
    }

    /// The error for a buffer that there is not. Logs how full the mapping is.
    #[cold]
    fn no_buffer(&self, wanted: &Wanted, why: NoBuffer) -> BinderError {
        let size = wanted
            .data_size
            .saturating_add(wanted.offsets_size)
            .saturating_add(wanted.extra_size);
        let (pid, tid) = (self.thread.process().pid(), self.thread.id());
        let (target, mapped) = (self.target.pid(), self.target.pages().mapped_size());
        match why {
            NoBuffer::NotMapped => dead("receiver has no mapping"),
            NoBuffer::BadSize => failed(EINVAL, "size too large"),
            NoBuffer::NoMemory => failed(ENOMEM, "out of memory"),
            NoBuffer::Full { largest_hole, free } => {
                user_error!(
                    pid,
                    tid,
                    "no space for {} bytes in {}'s mapping of {}: {} free, largest hole {}",
                    size,
                    target,
                    mapped,
                    free,
                    largest_hole
                );
                failed(ENOSPC, "receiver's mapping is full")
            }
            NoBuffer::OnewayFull { free } => {
                user_error!(
                    pid,
                    tid,
                    "no space for {} one-way bytes in {}'s mapping of {}: {} free for those",
                    size,
                    target,
                    mapped,
                    free
                );
                failed(ENOSPC, "receiver's one-way space is full")
            }
        }
    }

    /// Makes the transaction of a filled buffer, allocated with `flags`.
    fn transaction(
        &self,
        buffer: Buffer,
        level: Level,
        flags: Flags,
        call: Option<Option<TransactionArc>>,
    ) -> Result<TransactionArc, BinderError> {
        Transaction::new(
            NewTransaction {
                debug_id: self.debug_id,
                sender: self.thread,
                target: &self.target,
                code: self.sent.data.code,
                flags: self.sent.data.flags,
                buffer,
                level,
                call,
            },
            flags,
        )
        .map_err(|e| failed(e, "out of memory"))
    }
}

/// Sets what `BINDER_GET_EXTENDED_ERROR` returns for `thread`.
fn set_extended_error(
    thread: &Thread,
    inner: &mut ProcessInner,
    id: u32,
    failure: Option<&BinderError>,
) {
    *thread.extended_error(inner) = ExtendedError {
        id,
        command: failure.map_or(BR_OK, |failure| failure.code()),
        param: failure.map_or(0, BinderError::param),
    };
}

/// `BC_TRANSACTION`. The thread reads the code of a failure.
pub(crate) fn call(thread: &Arc<Thread>, sent: &SentData) {
    let kind = if sent.data.flags & TF_ONE_WAY != 0 {
        Kind::Oneway
    } else {
        Kind::Call
    };
    let mut entry = LogEntry::begin(kind);
    let result = try_call(thread, sent, &mut entry);
    entry.end(thread, sent, result.as_ref().err());
    if let Err(failure) = result {
        let id = entry.id;
        report(thread, sent, &failure, "call");
        let mut inner = thread.process().lock();
        set_extended_error(thread, &mut inner, id, Some(&failure));
        thread.push_return_error(&mut inner, failure.code());
    }
}

/// `BC_REPLY`. The caller reads the code of a failure, or the thread itself if there is no caller.
pub(crate) fn reply(thread: &Arc<Thread>, sent: &SentData) {
    let mut entry = LogEntry::begin(Kind::Reply);
    let result = try_reply(thread, sent, &mut entry);
    let failure = result.as_ref().err().map(|(failure, _)| failure);
    entry.end(thread, sent, failure);
    let Err((failure, call)) = result else { return };
    let id = entry.id;
    report(thread, sent, &failure, "reply");
    // If there is a caller, it is the caller that the failure is told to.
    let own = if call.is_some() { None } else { Some(&failure) };
    let mut inner = thread.process().lock();
    set_extended_error(thread, &mut inner, id, own);
    // Before the caller is told: the caller may be this thread, further down its stack.
    let code = match call {
        Some(_) => BR_TRANSACTION_COMPLETE,
        None => failure.code(),
    };
    thread.push_return_error(&mut inner, code);
    drop(inner);
    if let Some(call) = call {
        if let Some(caller) = call.from() {
            let mut inner = caller.process().lock();
            // The error of a failed call of its own, which it has not asked about yet, stays.
            if caller.extended_error(&mut inner).command == BR_OK {
                set_extended_error(caller, &mut inner, id, Some(&failure));
            }
        }
        fail_call(call, failure.code());
    }
}

#[cold]
fn report(thread: &Thread, sent: &SentData, failure: &BinderError, what: &str) {
    let data = &sent.data;
    let (file, line) = failure.place();
    user_error!(
        thread.process().pid(),
        thread.id(),
        "{} to handle {} failed at {}:{}: {} ({:?}), code {}, flags {:#x}, size {}-{}-{}",
        what,
        data.handle(),
        file,
        line,
        failure.reason(),
        failure.errno(),
        data.code,
        data.flags,
        data.data_size,
        data.offsets_size,
        sent.extra_size
    );
}

fn try_call(
    thread: &Arc<Thread>,
    sent: &SentData,
    entry: &mut LogEntry,
) -> Result<(), BinderError> {
    let process = thread.process();
    let data = &sent.data;
    let node = if data.handle() == 0 {
        let node = process.context().manager_node()?;
        if node.node().owner().pid() == process.pid() {
            return Err(failed(EINVAL, "context manager called itself"));
        }
        node
    } else {
        process.strong_node(data.handle())?
    };
    let target = node.node().owner().clone();
    entry.node = node.node().debug_id();
    if Arc::ptr_eq(&target, process) {
        return Err(failed(EINVAL, "process called itself"));
    }
    lsm::may_call(process.cred(), target.cred())
        .map_err(|_| failed(EPERM, "security module objects"))?;

    let send = SendContext {
        debug_id: entry.id,
        thread,
        sent,
        target,
        accepts_fds: node.node().flags() & FLAT_BINDER_FLAG_ACCEPTS_FDS != 0,
    };
    if data.flags & TF_ONE_WAY != 0 {
        call_oneway(&send, node, entry)
    } else {
        call_and_wait(&send, node, entry)
    }
}

fn call_oneway(
    send: &SendContext<'_>,
    node: StrongNode,
    entry: &mut LogEntry,
) -> Result<(), BinderError> {
    let thread = send.thread;
    entry.to.0 = send.target.pid();
    let node_ref = node.node().clone();
    let (buffer, others) = send.fill(Some(node), true)?;
    let level = Level::of_oneway(others.only);
    let transaction = send.transaction(buffer, level, level.flags(), None)?;
    let complete = thread
        .complete_work(BR_TRANSACTION_COMPLETE)
        .map_err(|e| failed(e, "out of memory"))?;
    let slots = if transaction.flags() & TF_UPDATE_TXN != 0 {
        Some(UpdateSlots::new().map_err(|e| failed(e, "out of memory"))?)
    } else {
        None
    };
    let work = transaction.to_queue().ok_or(failed(EINVAL, "queued"))?;
    entry.traced(send.sent);

    let target = &send.target;
    let mut inner = target.lock();
    if inner.is_dead() {
        drop(inner);
        return Err(dead("receiver is dead"));
    }
    let is_frozen = inner.freezing_mut().oneway_came();
    entry.waits_frozen = is_frozen;
    let update = slots.map(|slots| Update {
        kind: transaction.update_kind(),
        slots,
        replaces: is_frozen,
    });
    transaction.count(&mut inner);
    let outdated = match node_ref.send_oneway(&mut inner, work, update) {
        OnewayTurn::Now(work) => {
            target.push_to_waiting(&mut inner, work, false);
            None
        }
        OnewayTurn::Later { outdated } => {
            if outdated.is_some() {
                target.transaction_ended(&mut inner);
            }
            outdated
        }
    };
    drop(inner);
    drop(outdated);

    let mut inner = thread.process().lock();
    if is_frozen {
        complete.set(BR_TRANSACTION_PENDING_FROZEN);
    } else if others.suspect && inner.detects_spam() {
        complete.set(BR_ONEWAY_SPAM_SUSPECT);
    }
    set_extended_error(thread, &mut inner, send.debug_id, None);
    thread.push_own(&mut inner, complete);
    Ok(())
}

/// The place of a synchronous call among the calls that its sender is part of.
struct Place {
    level: Level,
    /// The top of the thread's stack.
    parent: Option<TransactionArc>,
    /// The thread of the target that waits for the sender, if there is one. It gets the call.
    waiting: Option<Arc<Thread>>,
}

fn place_call(thread: &Arc<Thread>, target: &Arc<Process>) -> Result<Place, BinderError> {
    let mut inner = thread.process().lock();
    let todo = thread.todo(&mut inner);
    if todo.starts_with_transaction() {
        return Err(failed(eproto(), "a transaction waits to be read"));
    }
    let is_idle = todo.is_empty();
    let Some(parent) = thread.stack(&mut inner).cloned() else {
        return Ok(Place {
            level: Level::of_call(is_idle, None),
            parent: None,
            waiting: None,
        });
    };
    let handled = parent
        .level_if_handled_by(thread, &mut inner)
        .map(|level| Level::of_call(is_idle, Some(level)));
    drop(inner);
    let Some(level) = handled else {
        return Err(failed(eproto(), "a call waits for its reply"));
    };
    let mut next = Some(&parent);
    while let Some(transaction) = next {
        if let Some(from) = transaction.from() {
            if Arc::ptr_eq(from.process(), target) && !from.exited() {
                let waiting = Some(from.clone());
                return Ok(Place {
                    level,
                    parent: Some(parent),
                    waiting,
                });
            }
        }
        next = transaction.sender_parent();
    }
    Ok(Place {
        level,
        parent: Some(parent),
        waiting: None,
    })
}

fn call_and_wait(
    send: &SendContext<'_>,
    node: StrongNode,
    entry: &mut LogEntry,
) -> Result<(), BinderError> {
    let thread = send.thread;
    let target = &send.target;
    let Place {
        level,
        parent,
        waiting,
    } = place_call(thread, target)?;
    entry.to.0 = target.pid();
    entry.to.1 = waiting.as_ref().map_or(0, |waiting| waiting.id());
    let (buffer, _) = send.fill(Some(node), false)?;
    let transaction = send.transaction(buffer, level, level.flags(), Some(parent.clone()))?;
    let complete = thread
        .complete_work(BR_TRANSACTION_COMPLETE)
        .map_err(|e| failed(e, "out of memory"))?;
    let complete_arc = complete.clone_arc();
    let work = transaction.to_queue().ok_or(failed(EINVAL, "queued"))?;
    entry.traced(send.sent);

    // The sender's side first: the reply may come at once. BR_TRANSACTION_COMPLETE is read together with the reply.
    let mut inner = thread.process().lock();
    thread.push_deferred(&mut inner, complete);
    set_extended_error(thread, &mut inner, send.debug_id, None);
    let below = thread.set_stack(&mut inner, Some(transaction.clone()));
    drop(inner);
    // That was `parent`.
    drop(below);

    let mut inner = target.lock();
    let is_frozen = inner.freezing_mut().sync_came();
    let gone = inner.is_dead() || waiting.as_ref().is_some_and(|w| w.is_dead(&mut inner));
    if !gone && !is_frozen {
        transaction.count(&mut inner);
        match waiting {
            Some(waiting) => waiting.push(&mut inner, work, true),
            None => target.push_to_waiting(&mut inner, work, true),
        }
        return Ok(());
    }
    drop(inner);

    let mut inner = thread.process().lock();
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

/// On failure returns the call whose caller is to be told.
fn try_reply(
    thread: &Arc<Thread>,
    sent: &SentData,
    entry: &mut LogEntry,
) -> Result<(), (BinderError, Option<TransactionArc>)> {
    let (call, level) = pop_handled(thread).map_err(|failure| (failure, None))?;
    let Some(caller) = call.from().cloned().filter(|caller| !caller.exited()) else {
        return Err((dead("caller is dead"), Some(call)));
    };
    entry.to = (caller.process().pid(), caller.id());
    let send = SendContext {
        debug_id: entry.id,
        thread,
        sent,
        target: caller.process().clone(),
        accepts_fds: call.flags() & TF_ACCEPT_FDS != 0,
    };
    match reply_to(&send, &call, level, &caller, entry) {
        Ok(()) => Ok(()),
        Err((failure, tell)) => Err((failure, tell.then_some(call))),
    }
}

fn reply_to(
    send: &SendContext<'_>,
    call: &TransactionArc,
    level: Level,
    caller: &Arc<Thread>,
    entry: &LogEntry,
) -> Result<(), (BinderError, bool)> {
    let thread = send.thread;
    let target = &send.target;
    if !caller.is_stack_top(&mut target.lock(), call) {
        return Err((
            failed(eproto(), "caller does not wait for this reply"),
            false,
        ));
    }
    let tell = |failure| (failure, true);
    let (buffer, _) = send.fill(None, false).map_err(tell)?;
    let transaction = if level.is_charged() {
        let payer = target.pages().payer();
        payer.pay(|flags| send.transaction(buffer, level, flags, None))
    } else {
        send.transaction(buffer, level, level.flags(), None)
    }
    .map_err(tell)?;
    let complete = thread
        .complete_work(BR_TRANSACTION_COMPLETE)
        .map_err(|e| tell(failed(e, "out of memory")))?;
    let complete_arc = complete.clone_arc();
    let work = transaction
        .to_queue()
        .ok_or(tell(failed(EINVAL, "queued")))?;
    entry.traced(send.sent);

    // The sender's side first. The caller goes on after its side, and may answer what this thread waits for further
    // down its stack. The thread reads BR_TRANSACTION_COMPLETE before that.
    let mut inner = thread.process().lock();
    set_extended_error(thread, &mut inner, send.debug_id, None);
    thread.push_own(&mut inner, complete);
    drop(inner);

    let mut inner = target.lock();
    if inner.is_dead() || !caller.is_stack_top(&mut inner, call) {
        drop(inner);
        let mut inner = thread.process().lock();
        let removed = thread.unqueue(&mut inner, &complete_arc);
        drop(inner);
        drop(removed);
        return Err(tell(dead("caller is dead")));
    }
    let popped = caller.set_stack(&mut inner, call.sender_parent().cloned());
    transaction.count(&mut inner);
    caller.push(&mut inner, work, true);
    drop(inner);
    drop(popped);
    Ok(())
}
