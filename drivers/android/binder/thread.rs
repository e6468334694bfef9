// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Threads: what each waits for or works on, what it has to read, and how it sleeps.

use kernel::{
    list::{
        impl_list_arc_safe,
        impl_list_item,
        AtomicTracker,
        ListLinks,
        TryNewListArc, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            AtomicFlag,
            Relaxed, //
        },
        Arc,
        LockedBy, //
    },
};

use crate::{
    code::{
        Code,
        CodeKind, //
    },
    defs::*,
    process::{
        recount,
        InnerGuard,
        Process,
        ProcessInner,
        WAITING, //
    },
    stats::ThreadCount,
    sys::{
        helpers::{
            cond_resched,
            user_error, //
        },
        nice,
        wait::ThreadWait, //
    },
    todo::{
        TodoList,
        Work,
        WorkItem,
        WorkItemArc, //
    },
    transaction::{
        self,
        TransactionArc, //
    },
};

/// A thread of a process, from its first call until it exits.
#[pin_data]
pub(crate) struct Thread {
    /// Its id in the initial namespace.
    id: i32,
    process: Arc<Process>,
    /// The thread exited. A hint that is read without the lock and never cleared.
    exited: AtomicFlag,
    /// The next read returns at once: the thread is new, or a `flush` wants it out.
    need_return: AtomicFlag,
    /// The code of `return_error` while it is queued, else 0. No further command is carried out meanwhile. Written by
    /// the thread itself.
    return_code: Atomic<u32>,
    /// The thread sleeps here. Guarded by the lock of the process.
    #[pin]
    wait_entry: ThreadWait<ProcessInner>,
    /// `BR_TRANSACTION_COMPLETE` or the like, used unless it is queued already.
    tcomplete: Arc<WorkItem<Code>>,
    /// The return code of a failed command.
    return_error: Arc<WorkItem<Code>>,
    /// The return code of a failed call that this thread waits for.
    reply_error: Arc<WorkItem<Code>>,
    inner: LockedBy<ThreadInner, ProcessInner>,
    #[pin]
    links: ListLinks<WAITING>,
    #[pin]
    tracker: AtomicTracker<WAITING>,
    _count: ThreadCount,
}

impl_list_arc_safe! {
    impl ListArcSafe<{WAITING}> for Thread { tracked_by tracker: AtomicTracker<WAITING>; }
}

impl_list_item! {
    impl ListItem<{WAITING}> for Thread { using ListLinks { self.links }; }
}

impl Thread {
    /// Makes a thread that has done nothing yet.
    pub(crate) fn new(id: i32, process: &Arc<Process>) -> Result<Arc<Self>> {
        let tcomplete = WorkItem::new(Code::new(CodeKind::Complete))?;
        let return_error = WorkItem::new(Code::new(CodeKind::ReturnError))?;
        let reply_error = WorkItem::new(Code::new(CodeKind::ReplyError))?;
        let guard = process.locked_by(());
        let inner = process.locked_by(ThreadInner {
            looper: 0,
            dead: false,
            stack: None,
            todo: TodoList::new(),
            process_todo: false,
            reply_error: None,
            extended_error: ExtendedError::NONE,
            tally: Tally::default(),
        });
        let process = process.clone();
        Arc::pin_init(
            pin_init!(Self {
                id,
                process,
                exited: AtomicFlag::new(false),
                need_return: AtomicFlag::new(true),
                return_code: Atomic::new(0),
                wait_entry <- ThreadWait::new(c"Thread::wait_entry", kernel::static_lock_class!(), guard),
                tcomplete,
                return_error,
                reply_error,
                inner,
                links <- ListLinks::new(),
                tracker <- AtomicTracker::new(),
                _count: ThreadCount::new(),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Whether the thread is known to have exited.
    pub(crate) fn exited(&self) -> bool {
        self.exited.load(Relaxed)
    }

    /// The thread's id in the initial namespace.
    #[inline]
    pub(crate) fn id(&self) -> i32 {
        self.id
    }

    /// The process that the thread is of.
    #[inline]
    pub(crate) fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Whether the next read returns at once.
    #[inline]
    pub(crate) fn needs_return(&self) -> bool {
        self.need_return.load(Relaxed)
    }

    /// Has the thread return to user space: the next read returns at once.
    pub(crate) fn set_need_return(&self) {
        self.need_return.store(true, Relaxed);
    }

    /// The thread returns to user space.
    #[inline]
    pub(crate) fn returned(&self) {
        if self.needs_return() {
            self.need_return.store(false, Relaxed);
        }
    }

    /// The code of a failed command that is still to be read, or 0.
    #[inline]
    pub(crate) fn return_code(&self) -> u32 {
        self.return_code.load(Relaxed)
    }

    /// Takes that code, which is about to be read.
    pub(crate) fn take_return_code(&self) -> u32 {
        self.return_code.xchg(0, Relaxed)
    }

    /// The code of a failed call that is still to be read.
    pub(crate) fn reply_error<'a>(&'a self, inner: &'a mut ProcessInner) -> &'a mut Option<u32> {
        &mut self.state(inner).reply_error
    }

    /// Whether the thread has exited.
    pub(crate) fn is_dead(&self, inner: &mut ProcessInner) -> bool {
        self.state(inner).dead
    }

    /// `LOOPER_*`.
    pub(crate) fn looper(&self, inner: &mut ProcessInner) -> u32 {
        self.state(inner).looper
    }

    /// `BC_EXIT_LOOPER`.
    pub(crate) fn exit_looper(&self) {
        let mut inner = self.process.lock();
        self.state(&mut inner).looper |= LOOPER_EXITED;
    }

    /// Whether the thread said that it is a looper.
    pub(crate) fn is_looper(&self, inner: &mut ProcessInner) -> bool {
        self.state(inner).looper & (LOOPER_REGISTERED | LOOPER_ENTERED) != 0
    }

    /// What only this thread can read.
    #[inline]
    pub(crate) fn todo<'a>(&'a self, inner: &'a mut ProcessInner) -> &'a TodoList {
        &self.state(inner).todo
    }

    /// The innermost of the calls that the thread waits for or works on.
    #[inline]
    pub(crate) fn stack<'a>(&'a self, inner: &'a mut ProcessInner) -> Option<&'a TransactionArc> {
        self.state(inner).stack.as_ref()
    }

    /// Whether `call` is the innermost of them.
    pub(crate) fn is_stack_top(&self, inner: &mut ProcessInner, call: &TransactionArc) -> bool {
        self.stack(inner).is_some_and(|top| Arc::ptr_eq(top, call))
    }

    /// What the thread's last transaction came to. `BINDER_GET_EXTENDED_ERROR` takes it.
    #[inline]
    pub(crate) fn extended_error<'a>(
        &'a self,
        inner: &'a mut ProcessInner,
    ) -> &'a mut ExtendedError {
        &mut self.state(inner).extended_error
    }

    /// A descriptor of the file was closed: if the thread sleeps, it returns to user space.
    pub(crate) fn flush(&self, inner: &mut ProcessInner) {
        self.set_need_return();
        // Pollers are not woken: there is nothing to read.
        self.wait_entry.wake(inner, false);
    }
}

/// The part of a thread that its process's [`Process::inner`] guards.
struct ThreadInner {
    /// `LOOPER_*`.
    looper: u32,
    /// The thread exited. It gets no work from then on.
    dead: bool,
    /// The innermost of the calls that the thread waits for or works on.
    stack: Option<TransactionArc>,
    /// Work for this thread and no other.
    todo: TodoList,
    /// `todo` is to be read. Items queued while this is false are deferred until one that sets it.
    process_todo: bool,
    /// The code in [`Thread::reply_error`] while it is queued.
    reply_error: Option<u32>,
    /// What the last transaction came to.
    extended_error: ExtendedError,
    /// What the process counts of this thread.
    tally: Tally,
}

/// Whether a thread is one of [`ProcessInner::polling_threads`] and so on.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) polling: bool,
    pub(crate) free_polling: bool,
}

/// The thread said with `BC_REGISTER_LOOPER` that it was started because the driver asked.
const LOOPER_REGISTERED: u32 = 0x01;

/// The thread said with `BC_ENTER_LOOPER` that it is a looper.
const LOOPER_ENTERED: u32 = 0x02;

/// The thread said with `BC_EXIT_LOOPER` that it no longer is one.
const LOOPER_EXITED: u32 = 0x04;

/// The thread gave these commands in an order that is not allowed.
const LOOPER_INVALID: u32 = 0x08;

/// The thread is in a read.
const LOOPER_WAITING: u32 = 0x10;

/// The thread polls.
const LOOPER_POLL: u32 = 0x20;

impl ThreadInner {
    /// Whether the thread may take work that is not for it alone: it has nothing else to do.
    fn takes_any_work(&self) -> bool {
        self.stack.is_none() && self.todo.is_empty()
    }
}

impl Thread {
    /// The thread's guarded part.
    #[inline]
    fn state<'a>(&'a self, inner: &'a mut ProcessInner) -> &'a mut ThreadInner {
        self.inner.access_mut(inner)
    }

    /// Updates the process's counts of polling threads after a change of this one.
    #[cold]
    fn recount(&self, inner: &mut ProcessInner) {
        let state = self.state(inner);
        let polling = state.looper & LOOPER_POLL != 0;
        let now = Tally {
            polling,
            free_polling: polling && state.takes_any_work(),
        };
        let before = core::mem::replace(&mut state.tally, now);
        inner.recount_polling(before, now);
    }

    /// The thread polls from now on, or has stopped for good.
    pub(crate) fn set_polling(&self, inner: &mut ProcessInner, polling: bool) {
        let state = self.state(inner);
        if polling {
            state.looper |= LOOPER_POLL;
        } else {
            state.looper &= !LOOPER_POLL;
        }
        self.recount(inner);
    }

    /// Makes `stack` the innermost of the calls that the thread waits for or works on; returns what was that before.
    /// It is dropped after the lock.
    #[must_use]
    pub(crate) fn set_stack(
        &self,
        inner: &mut ProcessInner,
        stack: Option<TransactionArc>,
    ) -> Option<TransactionArc> {
        let busy = stack.is_some();
        let before = core::mem::replace(&mut self.state(inner).stack, stack);
        recount(inner.freezing_mut().busy_threads(), before.is_some(), busy);
        self.work_changed(inner);
        before
    }

    /// The todo list or the stack has changed. Updates the counts if the thread polls.
    #[inline]
    fn work_changed(&self, inner: &mut ProcessInner) {
        if self.state(inner).looper & LOOPER_POLL != 0 {
            self.recount(inner);
        }
    }

    /// Takes the first work that is for this thread alone.
    #[inline]
    pub(crate) fn pop(&self, inner: &mut ProcessInner) -> Option<WorkItemArc<dyn Work>> {
        let state = self.state(inner);
        let work = state.todo.pop_front();
        if state.todo.is_empty() {
            state.process_todo = false;
        }
        self.work_changed(inner);
        work
    }

    /// Takes `item` off this thread's work, if it is there.
    pub(crate) fn unqueue<T: Work + 'static>(
        &self,
        inner: &mut ProcessInner,
        item: &Arc<WorkItem<T>>,
    ) -> Option<WorkItemArc<dyn Work>> {
        let removed = self.state(inner).todo.remove(item);
        self.work_changed(inner);
        removed
    }

    /// Queues work for this thread and wakes it.
    pub(crate) fn push<T: Work + 'static>(
        &self,
        inner: &mut ProcessInner,
        work: WorkItemArc<T>,
        sync: bool,
    ) {
        let state = self.state(inner);
        state.todo.push_back(work);
        state.process_todo = true;
        self.work_changed(inner);
        self.wake(inner, sync);
    }

    /// Queues work that this thread reads together with the next one. Does not wake it.
    pub(crate) fn push_deferred<T: Work + 'static>(
        &self,
        inner: &mut ProcessInner,
        work: WorkItemArc<T>,
    ) {
        self.state(inner).todo.push_back(work);
        self.work_changed(inner);
    }

    /// Queues work that this thread, which is the current one, finds in its next read.
    pub(crate) fn push_own<T: Work + 'static>(
        &self,
        inner: &mut ProcessInner,
        work: WorkItemArc<T>,
    ) {
        self.state(inner).todo.push_back(work);
        self.has_own(inner);
    }

    /// This thread, which is the current one, has got work. It may call `epoll_wait` next, which returns only after a
    /// wake-up.
    fn has_own(&self, inner: &mut ProcessInner) {
        let state = self.state(inner);
        let had = core::mem::replace(&mut state.process_todo, true);
        self.work_changed(inner);
        if !had && self.state(inner).looper & LOOPER_POLL != 0 {
            self.process.poll_queue().wake();
        }
    }

    /// Queues work for this thread, which is the current one, if it is a looper, and for any thread if not.
    pub(crate) fn push_own_or_any<T: Work + 'static>(
        &self,
        inner: &mut ProcessInner,
        work: WorkItemArc<T>,
    ) {
        let state = self.state(inner);
        if state.looper & (LOOPER_ENTERED | LOOPER_REGISTERED) != 0 {
            self.push_own(inner, work);
        } else {
            self.process.push(inner, work);
        }
    }

    /// Queues the return code of a failed call for this thread, which waits for the reply.
    pub(crate) fn push_reply_error(&self, inner: &mut ProcessInner, code: u32) {
        let state = self.state(inner);
        if state.reply_error.is_none() {
            state.reply_error = Some(code);
        }
        if let Some(work) = self.reply_error.to_queue() {
            self.push(inner, work, false);
        }
    }

    /// Queues the return code of a failed command of this thread.
    pub(crate) fn push_return_error(&self, inner: &mut ProcessInner, code: u32) {
        self.return_code.store(code, Relaxed);
        if let Some(work) = self.return_error.to_queue() {
            self.push_own(inner, work);
        }
    }

    /// Wakes this thread if it sleeps, and the pollers of the file if it polls.
    pub(crate) fn wake(&self, inner: &mut ProcessInner, sync: bool) {
        self.wait_entry.wake(inner, sync);
        if self.state(inner).looper & LOOPER_POLL != 0 {
            self.process.poll_queue().wake();
        }
    }

    /// The right to queue one `BR_TRANSACTION_COMPLETE` (or `code` in its place) for this thread.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn complete_work(&self, code: u32) -> Result<WorkItemArc<Code>> {
        let work = match self.tcomplete.to_queue() {
            Some(work) => work,
            None => Code::new_complete()?.to_queue().ok_or(ENOMEM)?,
        };
        work.set(code);
        Ok(work)
    }

    /// See [`ThreadInner::takes_any_work`].
    pub(crate) fn takes_any_work(&self, inner: &mut ProcessInner) -> bool {
        self.state(inner).takes_any_work()
    }

    /// Whether a read has something to return.
    pub(crate) fn is_ready(&self, inner: &mut ProcessInner, takes_any: bool) -> bool {
        self.state(inner).process_todo
            || self.need_return.load(Relaxed)
            || (takes_any && !inner.todo().is_empty())
    }

    /// `BC_REGISTER_LOOPER`.
    pub(crate) fn register_looper(&self) {
        let mut inner = self.process.lock();
        let entered = self.state(&mut inner).looper & LOOPER_ENTERED != 0;
        let asked = !entered && inner.looper_registered();
        let state = self.state(&mut inner);
        state.looper |= LOOPER_REGISTERED;
        if !asked {
            state.looper |= LOOPER_INVALID;
        }
        drop(inner);
        if entered {
            user_error!(
                self.process.pid(),
                self.id,
                "BC_REGISTER_LOOPER after BC_ENTER_LOOPER"
            );
        } else if !asked {
            user_error!(
                self.process.pid(),
                self.id,
                "BC_REGISTER_LOOPER without request"
            );
        }
    }

    /// `BC_ENTER_LOOPER`.
    pub(crate) fn enter_looper(&self) {
        let mut inner = self.process.lock();
        let state = self.state(&mut inner);
        let registered = state.looper & LOOPER_REGISTERED != 0;
        state.looper |= LOOPER_ENTERED;
        if registered {
            state.looper |= LOOPER_INVALID;
        }
        drop(inner);
        if registered {
            user_error!(
                self.process.pid(),
                self.id,
                "BC_ENTER_LOOPER after BC_REGISTER_LOOPER"
            );
        }
    }

    /// Waits until there is something to read. Returns whether it may be work that is not for this thread alone.
    pub(crate) fn wait<'a>(self: &'a Arc<Self>, nonblock: bool) -> Result<(InnerGuard<'a>, bool)> {
        let mut inner = self.process.lock();
        let mut takes_any = self.takes_any_work(&mut inner);
        // A nice value that an earlier one-way call or the thread itself has set does not last.
        if takes_any && nice::current() != self.process.nice() {
            drop(inner);
            nice::set(self.process.nice());
            inner = self.process.lock();
            takes_any = self.takes_any_work(&mut inner);
        }
        let mut result = Ok(());
        if !self.is_ready(&mut inner, takes_any) {
            self.state(&mut inner).looper |= LOOPER_WAITING;
            loop {
                if nonblock {
                    result = Err(EAGAIN);
                    break;
                }
                if takes_any {
                    inner.add_waiting_thread(self);
                }
                inner = self.wait_entry.sleep(inner, || self.process.lock());
                if takes_any {
                    inner.remove_waiting_thread(self);
                }
                if current!().signal_pending() {
                    result = Err(EINTR);
                    break;
                }
                if self.is_ready(&mut inner, takes_any) {
                    break;
                }
            }
            self.state(&mut inner).looper &= !LOOPER_WAITING;
        }
        result.map(|()| (inner, takes_any))
    }

    /// Wakes another thread if this one has left work of the process.
    pub(crate) fn pass_on(&self, inner: &mut ProcessInner) {
        if !inner.todo().is_empty() {
            self.process.wake_one(inner);
        }
    }

    /// The thread leaves the driver. Fails the calls that it works on, and cancels its work.
    ///
    /// The caller takes it out of the process's table then. It has to be found there as long as it has work.
    pub(crate) fn release(self: &Arc<Self>) {
        let mut inner = self.process.lock();
        let state = self.state(&mut inner);
        state.dead = true;
        let polls = state.looper & LOOPER_POLL != 0;
        self.set_polling(&mut inner, false);
        drop(inner);
        if polls {
            // Pollers are to poll again: a thread that is not known has something to read.
            self.process.poll_queue().wake();
        }
        self.exited.store(true, Relaxed);
        transaction::abandon_stack(self);
        loop {
            let work = self.pop(&mut self.process.lock());
            let Some(work) = work else { break };
            work.into_arc().cancel();
            cond_resched();
        }
    }
}
