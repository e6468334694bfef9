// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! Processes: each open binder file is one.

use kernel::{
    cred::Credential,
    list::{
        List,
        ListArc, //
    },
    new_condvar, new_spinlock,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        aref::ARef,
        lock::{
            spinlock::SpinLockBackend,
            Guard, //
        },
        Arc,
        CondVar,
        LockedBy,
        SpinLock, //
    },
    task::{
        Kuid,
        Task, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

use crate::{
    buffer::Held,
    context::Context,
    death::Death,
    defs::*,
    freeze::{
        Freeze,
        Freezing, //
    },
    node::Nodes,
    notification::Notification,
    page_range::PageRange,
    procs,
    range_alloc::RangeAllocator,
    refs::Refs,
    stats::{
        self,
        ProcessCount,
        Stats, //
    },
    sums::count,
    sys::{
        helpers::{
            cond_resched,
            user_error, //
        },
        nice,
        wait::PollQueue, //
    },
    thread::{
        Tally,
        Thread, //
    },
    todo::{
        TodoList,
        Work,
        WorkItemArc, //
    },
    unacknowledged::Unacknowledged, //
};

/// One open binder file.
#[pin_data]
pub(crate) struct Process {
    context: Arc<Context>,
    /// The thread group that opened the file.
    task: ARef<Task>,
    /// Its id in the initial namespace, for logs and comparisons.
    pid: i32,
    /// The opener's credentials.
    cred: ARef<Credential>,
    pages: Arc<PageRange>,
    #[pin]
    refs: Refs,
    #[pin]
    inner: SpinLock<ProcessInner>,
    #[pin]
    buffers: SpinLock<RangeAllocator<Held>>,
    #[pin]
    poll: PollQueue,
    /// `BINDER_FREEZE` waits here until no transaction is outstanding.
    #[pin]
    freeze_wait: CondVar,
    /// The opener's nice value: that of threads that work on nothing.
    nice: i32,
    stats: Stats,
    _count: ProcessCount,
}

/// The lock that most of a process is under.
pub(crate) type InnerGuard<'a> = Guard<'a, ProcessInner, SpinLockBackend>;

/// The part of a process that its lock guards.
pub(crate) struct ProcessInner {
    /// The file was released. No work, node or thread is added from then on.
    dead: bool,
    threads: RBTree<i32, Arc<Thread>>,
    /// Threads that sleep and may be given any work, the last to fall asleep first.
    waiting_threads: List<Thread, WAITING>,
    /// Work for the next thread that may take any.
    todo: TodoList,
    /// The nodes that this process owns.
    nodes: Nodes,
    /// How many threads the driver may ask for.
    max_threads: u32,
    /// Threads asked for that did not register yet.
    requested_threads: u32,
    /// Threads that registered after they were asked for.
    started_threads: u32,
    /// Death notifications that were read and not yet acknowledged.
    delivered_deaths: Unacknowledged<Notification<Death>>,
    /// Freeze notifications that were read and not yet acknowledged.
    delivered_freezes: Unacknowledged<Notification<Freeze>>,
    freezing: Freezing,
    /// `BINDER_ENABLE_ONEWAY_SPAM_DETECTION`.
    spam_detection: bool,
    /// A thread has polled.
    polled: bool,
    /// Threads with `LOOPER_POLL`.
    polling_threads: u32,
    /// The threads of these that may take any work.
    free_polling_threads: u32,
}

/// The number of the list [`ProcessInner::waiting_threads`]. A thread is on no other list with this number.
pub(crate) const WAITING: u64 = 1;

/// How many threads of a process serve it.
pub(crate) struct LooperCounts {
    pub(crate) requested: u32,
    pub(crate) started: u32,
    pub(crate) max: u32,
    pub(crate) waiting: usize,
}

impl Process {
    /// Locks the state of the process.
    #[inline]
    pub(crate) fn lock(&self) -> InnerGuard<'_> {
        self.inner.lock()
    }

    /// Puts `data` under the lock of the process.
    pub(crate) fn locked_by<T>(&self, data: T) -> LockedBy<T, ProcessInner> {
        LockedBy::new(&self.inner, data)
    }

    /// The context that the process is in.
    #[inline]
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The thread group that opened the file.
    #[inline]
    pub(crate) fn task(&self) -> &Task {
        &self.task
    }

    /// The id of that in the initial namespace.
    #[inline]
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// The opener's credentials.
    #[inline]
    pub(crate) fn cred(&self) -> &Credential {
        &self.cred
    }

    /// The opener's nice value: that of threads that work on nothing.
    #[inline]
    pub(crate) fn nice(&self) -> i32 {
        self.nice
    }

    /// The references that the process holds.
    #[inline]
    pub(crate) fn refs(&self) -> &Refs {
        &self.refs
    }

    /// Counts commands and returns.
    #[inline]
    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The pages behind the mapping.
    #[inline]
    pub(crate) fn pages(&self) -> &Arc<PageRange> {
        &self.pages
    }

    /// Which bytes of the mapping are taken.
    #[inline]
    pub(crate) fn buffers(&self) -> &SpinLock<RangeAllocator<Held>> {
        &self.buffers
    }

    /// What polls the file waits here.
    pub(crate) fn poll_queue(&self) -> &PollQueue {
        &self.poll
    }

    /// `BINDER_FREEZE` waits here until no transaction is outstanding.
    pub(crate) fn freeze_wait(&self) -> &CondVar {
        &self.freeze_wait
    }

    /// A process that the current one has just become by opening a device.
    pub(crate) fn new(
        context: Arc<Context>,
        cred: ARef<Credential>,
        pages: Arc<PageRange>,
    ) -> Result<Arc<Self>> {
        let current = current!();
        let task = ARef::from(current.group_leader());
        let pid = task.pid();
        Arc::pin_init(
            pin_init!(Self {
                context,
                task,
                pid,
                cred,
                pages,
                refs <- Refs::new(),
                inner <- new_spinlock!(
                    ProcessInner {
                        dead: false,
                        threads: RBTree::new(),
                        waiting_threads: List::new(),
                        todo: TodoList::new(),
                        nodes: Nodes::new(),
                        max_threads: 0,
                        requested_threads: 0,
                        started_threads: 0,
                        delivered_deaths: Unacknowledged::new(),
                        delivered_freezes: Unacknowledged::new(),
                        freezing: Freezing::new(),
                        spam_detection: false,
                        polled: false,
                        polling_threads: 0,
                        free_polling_threads: 0,
                    },
                    "Process::inner"
                ),
                buffers <- new_spinlock!(RangeAllocator::new(0), "Process::buffers"),
                poll <- PollQueue::new(c"Process::poll", kernel::static_lock_class!()),
                freeze_wait <- new_condvar!("Process::freeze_wait"),
                nice: nice::current(),
                stats: Stats::new(),
                _count: ProcessCount::new(),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Whether the current thread belongs to the thread group that opened the file.
    pub(crate) fn is_current(&self) -> bool {
        core::ptr::eq(current!().group_leader().as_ptr(), self.task.as_ptr())
    }

    /// Returns the current thread, added to the table if it is new.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn current_thread(self: &Arc<Self>) -> Result<Arc<Thread>> {
        let id = current!().pid();
        if let Some(thread) = self.lock().threads.get(&id) {
            return Ok(thread.clone());
        }
        let thread = Thread::new(id, self)?;
        let reservation = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        // A thread is added by itself only, so no other has added it meanwhile.
        let mut inner = self.lock();
        inner
            .threads
            .insert(reservation.into_node(id, thread.clone()));
        Ok(thread)
    }

    /// One ioctl.
    ///
    /// # Errors
    ///
    /// - `EINVAL` for an unknown one.
    /// - `EFAULT` for an argument that cannot be read or written.
    /// - Those of the single ioctls.
    pub(crate) fn ioctl(self: &Arc<Self>, command: u32, argument: usize, nonblock: bool) -> Result {
        let thread = self.current_thread()?;
        let result = self.ioctl_of(&thread, command, argument, nonblock);
        thread.returned();
        match result {
            Ok(()) | Err(EINTR) | Err(EAGAIN) => {}
            Err(e) => user_error!(
                self.pid,
                thread.id(),
                "ioctl {:#x} {:#x} returned {:?}",
                command,
                argument,
                e
            ),
        }
        result
    }

    fn ioctl_of(
        self: &Arc<Self>,
        thread: &Arc<Thread>,
        command: u32,
        argument: usize,
        nonblock: bool,
    ) -> Result {
        let user = |size| UserSlice::new(UserPtr::from_addr(argument), size);
        // The C driver returns this for an argument that it cannot read or write, except for `BINDER_WRITE_READ`.
        let invalid = |_| EINVAL;
        match command {
            BINDER_WRITE_READ => {
                let mut bwr: WriteRead = user(size_of::<WriteRead>()).reader().read()?;
                let result = thread.write_read(&mut bwr, nonblock);
                user(size_of::<WriteRead>()).writer().write(&bwr)?;
                result
            }
            BINDER_SET_MAX_THREADS => {
                let max: u32 = user(size_of::<u32>()).reader().read().map_err(invalid)?;
                self.lock().max_threads = max;
                Ok(())
            }
            BINDER_SET_CONTEXT_MGR => self.context.set_manager(self, 0, 0, 0),
            BINDER_SET_CONTEXT_MGR_EXT => {
                let object: FlatObject = user(size_of::<FlatObject>())
                    .reader()
                    .read()
                    .map_err(invalid)?;
                self.context
                    .set_manager(self, object.binder, object.cookie, object.flags)
            }
            BINDER_ENABLE_ONEWAY_SPAM_DETECTION => {
                let enable: u32 = user(size_of::<u32>()).reader().read()?;
                self.lock().spam_detection = enable != 0;
                Ok(())
            }
            BINDER_THREAD_EXIT => {
                thread.release();
                let removed = self.lock().threads.remove_node(&thread.id());
                drop(removed);
                Ok(())
            }
            BINDER_VERSION => {
                let version = Version {
                    // CAST: A small constant.
                    protocol_version: BINDER_CURRENT_PROTOCOL_VERSION as i32,
                };
                user(size_of::<Version>())
                    .writer()
                    .write(&version)
                    .map_err(invalid)
            }
            BINDER_GET_EXTENDED_ERROR => {
                let mut inner = self.lock();
                let error =
                    core::mem::replace(thread.extended_error(&mut inner), ExtendedError::NONE);
                drop(inner);
                user(size_of::<ExtendedError>()).writer().write(&error)
            }
            BINDER_GET_NODE_DEBUG_INFO => {
                let asked: NodeDebugInfo = user(size_of::<NodeDebugInfo>()).reader().read()?;
                let answer = self.node_debug_info(asked.ptr);
                user(size_of::<NodeDebugInfo>()).writer().write(&answer)
            }
            BINDER_GET_NODE_INFO_FOR_REF => {
                let asked: NodeInfoForRef = user(size_of::<NodeInfoForRef>()).reader().read()?;
                let answer = self.node_info_for_ref(&asked)?;
                user(size_of::<NodeInfoForRef>()).writer().write(&answer)
            }
            BINDER_FREEZE => {
                let info: FreezeInfo = user(size_of::<FreezeInfo>()).reader().read()?;
                self.freeze_others(&info)
            }
            BINDER_GET_FROZEN_INFO => {
                let mut info: FrozenStatusInfo =
                    user(size_of::<FrozenStatusInfo>()).reader().read()?;
                self.frozen_info_of(&mut info)?;
                user(size_of::<FrozenStatusInfo>()).writer().write(&info)
            }
            _ => Err(EINVAL),
        }
    }

    /// `BINDER_GET_NODE_INFO_FOR_REF`.
    ///
    /// # Errors
    ///
    /// - `EPERM` for others than the context manager.
    /// - `EINVAL` if there is no such handle, or a field is set that should not be.
    fn node_info_for_ref(self: &Arc<Self>, asked: &NodeInfoForRef) -> Result<NodeInfoForRef> {
        if [
            asked.strong_count,
            asked.weak_count,
            asked.reserved1,
            asked.reserved2,
            asked.reserved3,
        ] != [0; 5]
        {
            return Err(EINVAL);
        }
        let manager = self.context.manager_node_ref().ok_or(EPERM)?;
        if !Arc::ptr_eq(manager.owner(), self) {
            return Err(EPERM);
        }
        let (strong, weak) = self.totals_of_ref(asked.handle)?;
        Ok(NodeInfoForRef {
            handle: asked.handle,
            strong_count: strong.try_into().unwrap_or(u32::MAX),
            weak_count: weak.try_into().unwrap_or(u32::MAX),
            ..*asked
        })
    }

    /// Returns the open files that `pid` stands for in `BINDER_FREEZE`: those that the process with this pid in the
    /// caller's pid namespace has opened of devices of the caller's instance.
    ///
    /// # Errors
    ///
    /// - `EINVAL` if there are none.
    /// - `EPERM` if the caller has no right to them, as [`Process::may_freeze`] has it.
    /// - `ENOMEM`.
    fn named(&self, pid: u32) -> Result<KVVec<Arc<Process>>> {
        // A task has the pid 0 in a namespace that it is not in, and after it has exited.
        let pid = i32::try_from(pid)
            .ok()
            .filter(|&pid| pid > 0)
            .ok_or(EINVAL)?;
        let current = current!();
        let namespace = current.active_pid_ns();
        let named = procs::find(|process| {
            Arc::ptr_eq(process.context.instance(), self.context.instance())
                && process.task.tgid_nr_ns(namespace) == pid
                && !process.lock().dead
        })?;
        if named.is_empty() {
            Err(EINVAL)
        } else if self.may_freeze(&named) {
            Ok(named)
        } else {
            Err(EPERM)
        }
    }

    /// Whether the current thread may freeze, thaw and ask about `named`, which are open files of one process and of
    /// devices of this one's instance.
    ///
    /// The user that opened all of them may, the user of the context manager, and administrators of the instance. The
    /// user is that of the current thread, not that of the file's opener: a process that has dropped its rights has
    /// dropped this one.
    ///
    /// Any user can become the manager of a device that has none. So the managers of all devices that the process has
    /// open count, on whichever the ioctl is made. If one of them is of another user, the process is out of reach
    /// unless the file is the caller's own. A device that never had a manager gives no right and takes none away, since
    /// calls on it reach no process.
    fn may_freeze(&self, named: &[Arc<Process>]) -> bool {
        let user = Kuid::current_euid();
        let mut owns = true;
        let mut manages = false;
        let mut foreign = false;
        for process in named {
            let own = process.cred.euid() == user;
            let manager = process.context.manager_uid();
            owns &= own;
            manages |= manager == Some(user);
            foreign |= !own && manager.is_some_and(|manager| manager != user);
        }
        // The check for a capability comes last: it marks the thread, and its failure may be logged.
        owns || (manages && !foreign) || self.context.instance().current_is_admin()
    }

    /// `BINDER_FREEZE`.
    ///
    /// # Errors
    ///
    /// As [`Process::named`] and [`Process::freeze`].
    fn freeze_others(&self, info: &FreezeInfo) -> Result {
        for process in &self.named(info.pid)? {
            if info.enable != 0 {
                process.freeze(info.timeout_ms)?;
            } else {
                process.thaw();
            }
        }
        Ok(())
    }

    /// `BINDER_GET_FROZEN_INFO`.
    ///
    /// # Errors
    ///
    /// As [`Process::named`].
    fn frozen_info_of(&self, info: &mut FrozenStatusInfo) -> Result {
        info.sync_recv = 0;
        info.async_recv = 0;
        for process in &self.named(info.pid)? {
            let (sync, oneway) = process.frozen_info();
            info.sync_recv |= sync;
            info.async_recv |= oneway;
        }
        Ok(())
    }

    /// The current thread polls: whether it can read something. It is woken through [`Process::poll`] from now on.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn poll_ready(self: &Arc<Self>) -> Result<bool> {
        let thread = self.current_thread()?;
        let mut inner = self.lock();
        inner.polled = true;
        thread.set_polling(&mut inner, true);
        let takes_any = thread.takes_any_work(&mut inner);
        let ready = thread.is_ready(&mut inner, takes_any);
        drop(inner);
        Ok(ready)
    }

    /// A descriptor of the file was closed: threads that wait return to user space.
    pub(crate) fn flush(&self) {
        /// Threads that are looked at before the lock is dropped for a moment.
        const BATCH: usize = 32;

        let mut from = Some(i32::MIN);
        while let Some(mut next) = from {
            let mut inner = self.lock();
            for _ in 0..BATCH {
                let Some(cursor) = inner.threads.cursor_lower_bound(&next) else {
                    return;
                };
                // The table has another reference.
                let thread = cursor.current().1.clone();
                thread.flush(&mut inner);
                from = thread.id().checked_add(1);
                let Some(id) = from else { return };
                next = id;
            }
        }
    }

    /// The file is released: no thread uses it any more. No work reaches the process from now on.
    /// [`release`](Self::release) follows.
    pub(crate) fn close(self: &Arc<Self>) {
        self.context.unset_manager(self);
        // References that buffers hold are not removed one by one: all go with the table.
        self.seal_refs();
        self.lock().dead = true;
    }

    /// The second part of the end: fails what other processes wait for, and releases all that the process holds. Takes
    /// time in proportion to that.
    pub(crate) fn release(self: &Arc<Self>) {
        let mut inner = self.lock();
        let threads = core::mem::take(&mut inner.threads);
        drop(inner);
        for thread in threads.values() {
            thread.release();
        }
        drop(threads);

        let nodes = self.release_nodes();
        self.close_refs();
        self.cancel_oneway(&nodes);
        drop(nodes);
        loop {
            let work = self.lock().todo.pop_front();
            let Some(work) = work else { break };
            work.into_arc().cancel();
            cond_resched();
        }
        self.forget_delivered::<Death>();
        self.forget_delivered::<Freeze>();

        self.release_buffers();
        procs::remove(self);
        stats::OF_DEAD_PROCESSES.add(&self.stats);
    }
}

impl ProcessInner {
    /// Whether the file was released.
    #[inline]
    pub(crate) fn is_dead(&self) -> bool {
        self.dead
    }

    /// The threads, by id.
    pub(crate) fn threads(&self) -> &RBTree<i32, Arc<Thread>> {
        &self.threads
    }

    /// The nodes that the process owns.
    pub(crate) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// The nodes that the process owns.
    pub(crate) fn nodes_mut(&mut self) -> &mut Nodes {
        &mut self.nodes
    }

    /// Work for the next thread that may take any.
    #[inline]
    pub(crate) fn todo(&self) -> &TodoList {
        &self.todo
    }

    /// Work for the next thread that may take any.
    #[inline]
    pub(crate) fn todo_mut(&mut self) -> &mut TodoList {
        &mut self.todo
    }

    /// The state of freezing.
    #[inline]
    pub(crate) fn freezing(&self) -> &Freezing {
        &self.freezing
    }

    /// The state of freezing.
    #[inline]
    pub(crate) fn freezing_mut(&mut self) -> &mut Freezing {
        &mut self.freezing
    }

    /// The death notifications that were read and not yet acknowledged.
    pub(crate) fn delivered_deaths(&self) -> &Unacknowledged<Notification<Death>> {
        &self.delivered_deaths
    }

    /// The death notifications that were read and not yet acknowledged.
    pub(crate) fn delivered_deaths_mut(&mut self) -> &mut Unacknowledged<Notification<Death>> {
        &mut self.delivered_deaths
    }

    /// The freeze notifications that were read and not yet acknowledged.
    pub(crate) fn delivered_freezes(&self) -> &Unacknowledged<Notification<Freeze>> {
        &self.delivered_freezes
    }

    /// The freeze notifications that were read and not yet acknowledged.
    pub(crate) fn delivered_freezes_mut(&mut self) -> &mut Unacknowledged<Notification<Freeze>> {
        &mut self.delivered_freezes
    }

    /// Whether the process asked for `BR_ONEWAY_SPAM_SUSPECT`.
    pub(crate) fn detects_spam(&self) -> bool {
        self.spam_detection
    }

    /// A thread that the driver asked for registers. Returns `false` if none was asked for.
    pub(crate) fn looper_registered(&mut self) -> bool {
        let Some(left) = self.requested_threads.checked_sub(1) else {
            return false;
        };
        self.requested_threads = left;
        self.started_threads = self.started_threads.saturating_add(1);
        true
    }

    /// Decides whether to ask for another thread: one is wanted if none waits, none was asked for, and the process
    /// allows more. To be called for a looper that stops waiting.
    #[inline]
    pub(crate) fn request_thread(&mut self) -> bool {
        let ask = self.requested_threads == 0
            && self.waiting_threads.is_empty()
            && self.started_threads < self.max_threads;
        if ask {
            self.requested_threads = 1;
        }
        ask
    }

    /// For listings: threads that were asked for, that were started, and that may be, and how many wait.
    pub(crate) fn looper_counts(&self) -> LooperCounts {
        LooperCounts {
            requested: self.requested_threads,
            started: self.started_threads,
            max: self.max_threads,
            waiting: count(self.waiting_threads.iter()),
        }
    }

    /// A thread has begun or stopped to poll, or what it may take has changed.
    pub(crate) fn recount_polling(&mut self, before: Tally, now: Tally) {
        recount(&mut self.polling_threads, before.polling, now.polling);
        recount(
            &mut self.free_polling_threads,
            before.free_polling,
            now.free_polling,
        );
    }

    /// Puts `thread`, which is about to sleep, at the head of the threads that may be given any work.
    pub(crate) fn add_waiting_thread(&mut self, thread: &Arc<Thread>) {
        if let Ok(thread) = ListArc::try_from_arc(thread.clone()) {
            self.waiting_threads.push_front(thread);
        }
    }

    /// Takes `thread` off those threads, if it is one of them.
    #[expect(unsafe_code)]
    pub(crate) fn remove_waiting_thread(&mut self, thread: &Thread) {
        // This shows that the thread is of the process that `self` is of.
        thread.todo(self);
        // SAFETY: A thread is put on one list of this number only, the `waiting_threads` of its own process. That is
        // this one, as was just shown.
        unsafe { self.waiting_threads.remove(thread) };
    }
}

impl Process {
    /// Queues work that any thread may take, and wakes one.
    pub(crate) fn push<T: Work + 'static>(&self, inner: &mut ProcessInner, work: WorkItemArc<T>) {
        inner.todo.push_back(work);
        self.wake_one(inner);
    }

    /// Queues work for a waiting thread if there is one, for any thread if not.
    pub(crate) fn push_to_waiting<T: Work + 'static>(
        &self,
        inner: &mut ProcessInner,
        work: WorkItemArc<T>,
        sync: bool,
    ) {
        if let Some(thread) = inner.waiting_threads.pop_front() {
            thread.push(inner, work, sync);
        } else {
            inner.todo.push_back(work);
            self.poll_if_polled(inner);
        }
    }

    /// As [`Self::push`], for work of any type.
    pub(crate) fn push_again(&self, inner: &mut ProcessInner, work: WorkItemArc<dyn Work>) {
        inner.todo.push_back_any(work);
        self.wake_one(inner);
    }

    /// Wakes a waiting thread, if there is one, to take work of the process.
    pub(crate) fn wake_one(&self, inner: &mut ProcessInner) {
        if let Some(thread) = inner.waiting_threads.pop_front() {
            thread.wake(inner, false);
        } else {
            self.poll_if_polled(inner);
        }
    }

    /// No waiting thread can take the work; some may poll. Pollers are woken unless all of them have other work, as
    /// with the C driver. If the threads that polled have exited, another process may still watch the file.
    fn poll_if_polled(&self, inner: &ProcessInner) {
        if inner.polled && (inner.polling_threads == 0 || inner.free_polling_threads != 0) {
            self.poll.wake();
        }
    }
}

/// Updates a count of threads with one that had a property `before` and has it `now`. The count does not wrap: a thread
/// is subtracted only after it was added.
#[inline]
pub(crate) fn recount(threads: &mut u32, before: bool, now: bool) {
    *threads = threads
        .wrapping_add(u32::from(now))
        .wrapping_sub(u32::from(before));
}
