// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! One open binder file: its threads, its calls into the driver, its end.

use kernel::{
    cred::Credential,
    list::List,
    new_mutex,
    new_spinlock,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        aref::ARef,
        atomic::Relaxed,
        Arc, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

use crate::{
    defs::*,
    helpers::user_error,
    model::{
        Context,
        Handles,
        Process,
        ProcessInner,
        Thread,
        LOOPER_POLL,
        LOOPER_WAITING, //
    },
    page_range::PageRange,
    range_alloc::RangeAllocator,
    wait::PollQueue, //
};

impl Process {
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
                handles <- new_mutex!(Handles::new(), "Process::handles"),
                inner <- new_spinlock!(
                    ProcessInner {
                        dead: false,
                        threads: RBTree::new(),
                        idle: List::new(),
                        work: List::new(),
                        nodes: RBTree::new(),
                        max_threads: 0,
                        requested_threads: 0,
                        started_threads: 0,
                        spam_detection: false,
                        polled: false,
                    },
                    "Process::inner"
                ),
                buffers <- new_spinlock!(RangeAllocator::new(0), "Process::buffers"),
                poll <- PollQueue::new(c"Process::poll", kernel::static_lock_class!()),
            }),
            GFP_KERNEL,
        )
    }

    /// Whether the current thread belongs to the thread group that opened the file.
    pub(crate) fn is_current(&self) -> bool {
        core::ptr::eq(current!().group_leader().as_ptr(), self.task.as_ptr())
    }

    /// The current thread, made known if it is new.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn current_thread(self: &Arc<Self>) -> Result<Arc<Thread>> {
        let id = current!().pid();
        if let Some(thread) = self.inner.lock().threads.get(&id) {
            return Ok(thread.clone());
        }
        let thread = Thread::new(id, self)?;
        let reservation = RBTreeNodeReservation::new(GFP_KERNEL)?;
        // Only the thread itself makes itself known, so it still is not.
        let mut inner = self.inner.lock();
        inner
            .threads
            .insert(reservation.into_node(id, thread.clone()));
        Ok(thread)
    }

    /// One ioctl.
    ///
    /// # Errors
    ///
    /// `EINVAL` for one that there is not, `EFAULT` for an argument that cannot be read or written, and what the
    /// single ones say.
    pub(crate) fn ioctl(self: &Arc<Self>, command: u32, argument: usize, nonblock: bool) -> Result {
        let thread = self.current_thread()?;
        let result = self.ioctl_of(&thread, command, argument, nonblock);
        if thread.need_return.load(Relaxed) {
            thread.need_return.store(false, Relaxed);
        }
        match result {
            Ok(()) | Err(EINTR) | Err(EAGAIN) => {}
            Err(e) => user_error!(
                self.pid,
                thread.id,
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
        // The C driver says so for an argument it cannot read or write, but in `BINDER_WRITE_READ`.
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
                self.inner.lock().max_threads = max;
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
                self.inner.lock().spam_detection = enable != 0;
                Ok(())
            }
            BINDER_THREAD_EXIT => {
                let removed = self.inner.lock().threads.remove_node(&thread.id);
                thread.release();
                drop(removed);
                Ok(())
            }
            BINDER_VERSION => {
                let version = Version {
                    // CAST: A small constant.
                    protocol_version: BINDER_CURRENT_PROTOCOL_VERSION as i32,
                };
                user(size_of::<Version>()).writer().write(&version).map_err(invalid)
            }
            _ => Err(EINVAL),
        }
    }

    /// The current thread polls: whether it can read something. It is woken through [`Process::poll`] from now on.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn poll_ready(self: &Arc<Self>) -> Result<bool> {
        let thread = self.current_thread()?;
        let mut inner = self.inner.lock();
        inner.polled = true;
        thread.state(&mut inner).looper |= LOOPER_POLL;
        let takes_any = thread.takes_any_work(&mut inner);
        let ready = thread.is_ready(&mut inner, takes_any);
        drop(inner);
        Ok(ready)
    }

    /// A descriptor of the file was closed: threads that wait return to user space.
    pub(crate) fn flush(&self) {
        let mut inner = self.inner.lock();
        // The tree is put back before the lock is dropped.
        let threads = core::mem::take(&mut inner.threads);
        for thread in threads.values() {
            thread.need_return.store(true, Relaxed);
            if thread.state(&mut inner).looper & LOOPER_WAITING != 0 {
                thread.wake(&mut inner, false);
            }
        }
        inner.threads = threads;
    }

    /// The file is gone: nobody is in the driver for it any more, and nobody will be.
    ///
    /// Whatever others expect of this process is answered, and everything it holds is given back.
    pub(crate) fn release(self: &Arc<Self>) {
        self.context.unset_manager(self);

        let mut inner = self.inner.lock();
        inner.dead = true;
        let threads = core::mem::take(&mut inner.threads);
        drop(inner);
        for thread in threads.values() {
            thread.release();
        }
        drop(threads);

        self.release_nodes();

        loop {
            let work = self.inner.lock().work.pop_front();
            let Some(work) = work else { break };
            work.into_arc().cancel();
        }

        self.release_buffers();
        self.close_handles();
    }

    /// Nobody answers for the nodes any more.
    fn release_nodes(&self) {
        let mut inner = self.inner.lock();
        let nodes = core::mem::take(&mut inner.nodes);
        drop(inner);
        for node in nodes.values() {
            let mut inner = self.inner.lock();
            let state = node.state(&mut inner);
            state.counts.forget_owner();
            let mut oneway_work = core::mem::replace(&mut state.oneway_work, List::new());
            drop(inner);
            while let Some(work) = oneway_work.pop_front() {
                work.into_arc().cancel();
            }
        }
    }
}
