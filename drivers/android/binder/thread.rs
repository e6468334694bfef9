// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! What one thread does in the driver: carry out the commands in its write buffer, and read what there is for it.

use kernel::{
    list::{
        impl_list_arc_safe,
        impl_list_item,
        AtomicTracker,
        ListArc,
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
    uaccess::{
        UserPtr,
        UserSlice,
        UserSliceReader, //
    },
};

use crate::{
    code::{
        Code,
        CodeKind, //
    },
    death::Death,
    defs::*,
    error::Failure,
    freeze::Freeze,
    node::NodeArc,
    process::{
        InnerGuard,
        Process,
        ProcessInner,
        IDLE, //
    },
    read_buffer::ReadBuffer,
    send::{
        self,
        Message, //
    },
    stats::CountedThread,
    sys::{
        helpers::{
            cond_resched,
            is_killed,
            user_error, //
        },
        nice,
        wait::Sleeper, //
    },
    todo::{
        Delivered,
        Queued,
        WorkList, //
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
    pub(crate) id: i32,
    pub(crate) process: Arc<Process>,
    /// The thread exited: a hint without the lock, which never turns back.
    exited: AtomicFlag,
    /// The next read returns at once: the thread is new, or a `flush` wants it out.
    pub(crate) need_return: AtomicFlag,
    /// The code of `return_error` while it is queued, else 0. No further command is carried out meanwhile. Written by
    /// the thread itself.
    pub(crate) return_code: Atomic<u32>,
    /// Where it sleeps; under [`Process::inner`].
    #[pin]
    pub(crate) sleeper: Sleeper,
    /// `BR_TRANSACTION_COMPLETE` and its like, for when no other is queued.
    pub(crate) complete: Arc<Queued<Code>>,
    /// What a command of this thread came to.
    pub(crate) return_error: Arc<Queued<Code>>,
    /// What became of a call this thread waits for.
    pub(crate) reply_error: Arc<Queued<Code>>,
    pub(crate) inner: LockedBy<ThreadInner, ProcessInner>,
    #[pin]
    links: ListLinks<IDLE>,
    #[pin]
    tracker: AtomicTracker<IDLE>,
    _counted: CountedThread,
}

impl_list_arc_safe! {
    impl ListArcSafe<{IDLE}> for Thread { tracked_by tracker: AtomicTracker<IDLE>; }
}

impl_list_item! {
    impl ListItem<{IDLE}> for Thread { using ListLinks { self.links }; }
}

impl Thread {
    /// A thread that has done nothing yet.
    pub(crate) fn new(id: i32, process: &Arc<Process>) -> Result<Arc<Self>> {
        let complete = Queued::new(Code::new(CodeKind::Complete))?;
        let return_error = Queued::new(Code::new(CodeKind::ReturnError))?;
        let reply_error = Queued::new(Code::new(CodeKind::ReplyError))?;
        let inner = LockedBy::new(
            &process.inner,
            ThreadInner {
                looper: 0,
                dead: false,
                stack: None,
                work: WorkList::new(),
                has_work: false,
                reply_error: None,
                extended_error: ExtendedError {
                    id: 0,
                    command: BR_OK,
                    param: 0,
                },
                tally: Tally::default(),
            },
        );
        let process = process.clone();
        Arc::pin_init(
            pin_init!(Self {
                id,
                process,
                exited: AtomicFlag::new(false),
                need_return: AtomicFlag::new(true),
                return_code: Atomic::new(0),
                sleeper <- Sleeper::new(c"Thread::sleeper", kernel::static_lock_class!()),
                complete,
                return_error,
                reply_error,
                inner,
                links <- ListLinks::new(),
                tracker <- AtomicTracker::new(),
                _counted: CountedThread::new(),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Whether the thread is known to have exited.
    pub(crate) fn exited(&self) -> bool {
        self.exited.load(Relaxed)
    }

    /// The thread has exited.
    pub(crate) fn set_exited(&self) {
        self.exited.store(true, Relaxed);
    }
}

/// The part of a thread that its process's [`Process::inner`] guards.
pub(crate) struct ThreadInner {
    /// `LOOPER_*`.
    pub(crate) looper: u32,
    /// The thread exited. It gets no work from then on.
    pub(crate) dead: bool,
    /// The innermost of the calls it waits for or works on.
    pub(crate) stack: Option<TransactionArc>,
    /// Work for this thread and no other.
    pub(crate) work: WorkList,
    /// `work` has something worth waking up for. What is queued while this is unset waits for company.
    pub(crate) has_work: bool,
    /// The code in [`Thread::reply_error`] while it is queued.
    pub(crate) reply_error: Option<u32>,
    /// What the last transaction came to.
    pub(crate) extended_error: ExtendedError,
    /// What the process counts of this thread.
    pub(crate) tally: Tally,
}

/// Whether a thread is one of [`ProcessInner::polling_threads`] and so on.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) polling: bool,
    pub(crate) free_polling: bool,
}

/// Told with `BC_REGISTER_LOOPER` that it was started because the driver asked.
pub(crate) const LOOPER_REGISTERED: u32 = 0x01;

/// Told with `BC_ENTER_LOOPER` that it is a looper.
pub(crate) const LOOPER_ENTERED: u32 = 0x02;

/// Told with `BC_EXIT_LOOPER` that it no longer is one.
pub(crate) const LOOPER_EXITED: u32 = 0x04;

/// Gave commands in an order that makes no sense.
pub(crate) const LOOPER_INVALID: u32 = 0x08;

/// Is in a read.
pub(crate) const LOOPER_WAITING: u32 = 0x10;

/// Polls.
pub(crate) const LOOPER_POLL: u32 = 0x20;

/// What has to fit into a read buffer before anything is taken off a list for it: the longest return, which is
/// `BR_TRANSACTION_SEC_CTX`.
const ROOM_FOR_ANY: usize = size_of::<TransactionReturn>() + size_of::<u64>();

/// The longest command with its argument.
const LONGEST_COMMAND: usize = size_of::<u32>() + size_of::<TransactionData>() + size_of::<u64>();

/// Reads what comes with `BC_TRANSACTION` and `BC_REPLY`, or their kind with buffers.
fn message(reader: &mut UserSliceReader, with_buffers: bool) -> Result<Message> {
    Ok(Message {
        data: reader.read()?,
        extra_size: if with_buffers { reader.read()? } else { 0 },
    })
}

impl Thread {
    /// `BINDER_WRITE_READ`: first commands, then returns. What was done is in `bwr`, also on failure.
    ///
    /// # Errors
    ///
    /// - Of commands: `EFAULT`, or `EINVAL` for one that there is not. `EINTR` between two if the thread was killed.
    /// - Of reading: `EAGAIN` if there is nothing and `nonblock`, `EINTR` for a signal, `EFAULT`.
    pub(crate) fn write_read(self: &Arc<Self>, bwr: &mut WriteRead, nonblock: bool) -> Result {
        if bwr.write_size > 0 {
            if let Err(e) = self.write(bwr) {
                bwr.read_consumed = 0;
                return Err(e);
            }
        }
        if bwr.read_size > 0 {
            self.read(bwr, nonblock)?;
        }
        Ok(())
    }

    /// Carries out commands until they end or one of them fails.
    fn write(self: &Arc<Self>, bwr: &mut WriteRead) -> Result {
        // A size that leads beyond the end of memory means an empty buffer.
        let end = bwr.write_buffer.wrapping_add(bwr.write_size);
        while self.return_code.load(Relaxed) == 0 {
            let next = bwr.write_buffer.wrapping_add(bwr.write_consumed);
            if next >= end {
                break;
            }
            // The size says where the last command begins, not where it ends.
            // CAST: The driver runs on 64-bit kernels only.
            let start = UserPtr::from_addr(next as usize);
            let mut reader = UserSlice::new(start, LONGEST_COMMAND).reader();
            self.command(&mut reader)?;
            // What user space wrote there may lead to commands below the buffer, so this wraps, too.
            let length = LONGEST_COMMAND.wrapping_sub(reader.len()) as u64;
            bwr.write_consumed = bwr.write_consumed.wrapping_add(length);
            // The buffer can be as large as the address space, with few pages behind it: to carry it out can take days.
            if is_killed() {
                return Err(EINTR);
            }
        }
        Ok(())
    }

    fn command(self: &Arc<Self>, reader: &mut UserSliceReader) -> Result {
        let command: u32 = reader.read()?;
        self.process.stats.command(command);
        match command {
            BC_TRANSACTION => send::call(self, &message(reader, false)?),
            BC_REPLY => send::reply(self, &message(reader, false)?),
            BC_TRANSACTION_SG => send::call(self, &message(reader, true)?),
            BC_REPLY_SG => send::reply(self, &message(reader, true)?),
            BC_FREE_BUFFER => self.free_buffer(reader.read()?),
            BC_INCREFS => self.change_handle(reader.read()?, true, false)?,
            BC_ACQUIRE => self.change_handle(reader.read()?, true, true)?,
            BC_RELEASE => self.change_handle(reader.read()?, false, true)?,
            BC_DECREFS => self.change_handle(reader.read()?, false, false)?,
            BC_INCREFS_DONE => self.acknowledge(reader.read()?, false),
            BC_ACQUIRE_DONE => self.acknowledge(reader.read()?, true),
            BC_REGISTER_LOOPER => self.register_looper(),
            BC_ENTER_LOOPER => self.enter_looper(),
            BC_EXIT_LOOPER => {
                let mut inner = self.process.inner.lock();
                self.state(&mut inner).looper |= LOOPER_EXITED;
            }
            BC_REQUEST_DEATH_NOTIFICATION => {
                let HandleCookie { handle, cookie } = reader.read()?;
                let result = self.process.request_notification::<Death>(handle, cookie);
                match result.as_ref().err().map(|failure| failure.error) {
                    Some(ENOMEM) => {
                        let mut inner = self.process.inner.lock();
                        self.push_return_error(&mut inner, BR_ERROR);
                    }
                    _ => self.refused("BC_REQUEST_DEATH_NOTIFICATION", cookie, result),
                }
            }
            BC_CLEAR_DEATH_NOTIFICATION => {
                let HandleCookie { handle, cookie } = reader.read()?;
                let result = self.clear_notification::<Death>(handle, cookie);
                self.refused("BC_CLEAR_DEATH_NOTIFICATION", cookie, result);
            }
            BC_DEAD_BINDER_DONE => {
                let cookie: u64 = reader.read()?;
                let result = self.acknowledge_notification::<Death>(cookie);
                self.refused("BC_DEAD_BINDER_DONE", cookie, result);
            }
            BC_REQUEST_FREEZE_NOTIFICATION => {
                let HandleCookie { handle, cookie } = reader.read()?;
                self.process
                    .request_notification::<Freeze>(handle, cookie)?;
            }
            BC_CLEAR_FREEZE_NOTIFICATION => {
                let HandleCookie { handle, cookie } = reader.read()?;
                self.clear_notification::<Freeze>(handle, cookie)?;
            }
            BC_FREEZE_NOTIFICATION_DONE => {
                self.acknowledge_notification::<Freeze>(reader.read()?)?;
            }
            _ => {
                user_error!(self.process.pid, self.id, "unknown command {:#x}", command);
                return Err(EINVAL);
            }
        }
        Ok(())
    }

    /// Logs why a command about a notification was not carried out, if it was not.
    fn refused(&self, command: &str, cookie: u64, result: Result<(), Failure>) {
        if let Err(failure) = result {
            user_error!(
                self.process.pid,
                self.id,
                "{} with cookie {:#x} refused: {}",
                command,
                cookie,
                failure.reason
            );
        }
    }

    fn free_buffer(&self, address: u64) {
        // CAST: The driver runs on 64-bit kernels only.
        match self.process.take_buffer(address as usize) {
            Ok(mut buffer) => {
                // The kernel lets go of the files when this thread returns to user space, so it should not stay.
                if self.process.is_current() && buffer.close_descriptors() {
                    self.need_return.store(true, Relaxed);
                }
            }
            Err(_) => user_error!(
                self.process.pid,
                self.id,
                "BC_FREE_BUFFER: no buffer at {:#x}",
                address
            ),
        }
    }

    /// `BC_INCREFS`, `BC_ACQUIRE`, `BC_RELEASE`, `BC_DECREFS`. What is refused is logged and counts as carried out.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the context manager wants a handle for itself.
    fn change_handle(&self, handle: u32, more: bool, strong: bool) -> Result {
        let process = &self.process;
        let manager = if more && handle == 0 {
            process.context.manager_node_ref()
        } else {
            None
        };
        let own = |node: &NodeArc| Arc::ptr_eq(node.owner(), process);
        let is_own = manager.as_ref().is_some_and(own);
        let result = match manager {
            Some(_) if is_own => Err(EINVAL),
            Some(node) => process.insert_ref(&node, strong, None).map(|number| {
                if number != 0 {
                    user_error!(process.pid, self.id, "handle 0 came out as {}", number);
                }
            }),
            None if more => process.inc_ref(handle, strong),
            None => process.dec_ref(handle, strong),
        };
        if let Err(e) = result {
            user_error!(
                process.pid,
                self.id,
                "{} of handle {} refused: {:?}",
                match (more, strong) {
                    (true, true) => "BC_ACQUIRE",
                    (true, false) => "BC_INCREFS",
                    (false, true) => "BC_RELEASE",
                    (false, false) => "BC_DECREFS",
                },
                handle,
                e
            );
        }
        if is_own {
            return Err(EINVAL);
        }
        Ok(())
    }

    fn acknowledge(&self, node: PtrCookie, strong: bool) {
        if let Err(reason) = self.process.acknowledge(node, strong) {
            user_error!(
                self.process.pid,
                self.id,
                "{} of node {:#x} with cookie {:#x} refused: {}",
                if strong {
                    "BC_ACQUIRE_DONE"
                } else {
                    "BC_INCREFS_DONE"
                },
                node.ptr,
                node.cookie,
                reason
            );
        }
    }

    fn register_looper(&self) {
        let mut inner = self.process.inner.lock();
        let asked = inner.requested_threads.checked_sub(1);
        let state = self.state(&mut inner);
        let entered = state.looper & LOOPER_ENTERED != 0;
        state.looper |= LOOPER_REGISTERED;
        if entered || asked.is_none() {
            state.looper |= LOOPER_INVALID;
        }
        if let (false, Some(left)) = (entered, asked) {
            inner.requested_threads = left;
            inner.started_threads = inner.started_threads.saturating_add(1);
        }
        drop(inner);
        if entered {
            user_error!(
                self.process.pid,
                self.id,
                "BC_REGISTER_LOOPER after BC_ENTER_LOOPER"
            );
        } else if asked.is_none() {
            user_error!(
                self.process.pid,
                self.id,
                "BC_REGISTER_LOOPER without request"
            );
        }
    }

    fn enter_looper(&self) {
        let mut inner = self.process.inner.lock();
        let state = self.state(&mut inner);
        let registered = state.looper & LOOPER_REGISTERED != 0;
        state.looper |= LOOPER_ENTERED;
        if registered {
            state.looper |= LOOPER_INVALID;
        }
        drop(inner);
        if registered {
            user_error!(
                self.process.pid,
                self.id,
                "BC_ENTER_LOOPER after BC_REGISTER_LOOPER"
            );
        }
    }

    /// Fills the read buffer.
    fn read(self: &Arc<Self>, bwr: &mut WriteRead, nonblock: bool) -> Result {
        // CAST: The driver runs on 64-bit kernels only.
        let mut out = ReadBuffer::new(
            bwr.read_buffer as usize,
            bwr.read_size as usize,
            bwr.read_consumed as usize,
            &self.process.stats,
        )?;
        let result = self
            .fill(&mut out, nonblock)
            .and_then(|()| self.end_read(&out));
        if result.is_err() {
            self.pass_on(&mut self.process.inner.lock());
        }
        if result.is_ok() {
            bwr.read_consumed = out.consumed() as u64;
        }
        result
    }

    fn fill(self: &Arc<Self>, out: &mut ReadBuffer<'_>, nonblock: bool) -> Result {
        if out.consumed() == 0 {
            out.put(&BR_NOOP)?;
        }
        let empty = out.consumed();
        loop {
            let (inner, takes_any) = self.wait(nonblock)?;
            self.deliver_all(inner, out, takes_any)?;
            // Woken for nothing it sleeps on, unless it is wanted back in user space.
            if out.consumed() != empty
                || out.room() < ROOM_FOR_ANY
                || self.need_return.load(Relaxed)
            {
                return Ok(());
            }
        }
    }

    /// Hands out work until there is no more, no room, or something after which a read ends.
    fn deliver_all<'a>(
        self: &'a Arc<Self>,
        mut inner: InnerGuard<'a>,
        out: &mut ReadBuffer<'_>,
        takes_any: bool,
    ) -> Result {
        while out.room() >= ROOM_FOR_ANY {
            let mut work = self.pop(&mut inner);
            if work.is_none() && takes_any {
                work = inner.work.pop_front();
            }
            let Some(work) = work else { break };
            if work.into_arc().deliver(self, inner, out)? == Delivered::Last {
                break;
            }
            inner = self.process.inner.lock();
        }
        Ok(())
    }

    /// Waits until there is something to read. Returns whether it may be work that is not for this thread alone.
    fn wait<'a>(self: &'a Arc<Self>, nonblock: bool) -> Result<(InnerGuard<'a>, bool)> {
        let mut inner = self.process.inner.lock();
        let mut takes_any = self.takes_any_work(&mut inner);
        // What a one-way call before asked for, or the thread itself, is not to last.
        if takes_any && nice::current() != self.process.nice {
            drop(inner);
            nice::set(self.process.nice);
            inner = self.process.inner.lock();
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
                    if let Ok(idle) = ListArc::try_from_arc(self.clone()) {
                        inner.idle.push_front(idle);
                    }
                }
                self.sleeper.prepare();
                drop(inner);
                self.sleeper.sleep();
                inner = self.process.inner.lock();
                self.sleeper.finish();
                if takes_any {
                    self.leave_idle(&mut inner);
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

    /// The last step of a read: pass on what is left to do, and have the process asked for another looper if none is
    /// left to take work and there may be more.
    fn end_read(&self, out: &ReadBuffer<'_>) -> Result {
        let mut inner = self.process.inner.lock();
        self.pass_on(&mut inner);
        let ask = inner.requested_threads == 0
            && inner.idle.is_empty()
            && inner.started_threads < inner.max_threads
            && self.state(&mut inner).looper & (LOOPER_REGISTERED | LOOPER_ENTERED) != 0;
        if ask {
            inner.requested_threads = 1;
        }
        drop(inner);
        if ask {
            out.replace_first(BR_SPAWN_LOOPER)?;
        }
        Ok(())
    }

    /// Wakes another thread for work that this one did not take.
    fn pass_on(&self, inner: &mut ProcessInner) {
        if !inner.work.is_empty() {
            self.process.wake_one(inner);
        }
    }

    /// The thread leaves the driver: what waits for it is told, and what it had to do is given up.
    ///
    /// It stays in the process's table, from which the caller takes it then: as long as it has work, that is to be found.
    pub(crate) fn release(self: &Arc<Self>) {
        let mut inner = self.process.inner.lock();
        let state = self.state(&mut inner);
        state.dead = true;
        let polls = state.looper & LOOPER_POLL != 0;
        self.set_polling(&mut inner, false);
        drop(inner);
        if polls {
            // What watches the file is to look again: for a thread it does not know, there is something to read.
            self.process.poll.wake();
        }
        self.set_exited();
        transaction::abandon_stack(self);
        loop {
            let work = self.pop(&mut self.process.inner.lock());
            let Some(work) = work else { break };
            work.into_arc().cancel();
            cond_resched();
        }
    }
}
