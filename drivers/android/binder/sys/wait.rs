// SPDX-License-Identifier: GPL-2.0

//! Sleeping until there is work, waking sleepers and pollers.
//!
//! A thread sleeps on a wait queue entry of its own that never leaves its queue, so that to go to sleep is to set the state
//! of the task. Sleeper and waker hold the same lock while they look at the work and set the state or wake, so no wake-up is
//! lost.
//!
//! Poll tables are registered with one queue for each open file, not for each thread: a thread may exit while an epoll
//! instance still watches the file, and all watchers are gone before the file's `release`. So no queue is freed under a
//! watcher.
//!
//! C header: [`include/linux/wait.h`](srctree/include/linux/wait.h)

use core::ptr;
use kernel::{
    bindings,
    prelude::*,
    sync::{
        lock::{
            spinlock::SpinLockBackend,
            Guard, //
        },
        LockClassKey,
        LockedBy, //
    },
    task::{
        Task,
        TASK_FREEZABLE,
        TASK_INTERRUPTIBLE,
        TASK_NORMAL, //
    },
    types::Opaque, //
};

use crate::sys::helpers::set_current_state;

const TASK_RUNNING: u32 = bindings::TASK_RUNNING;

/// A place for one task to sleep, under the lock that guards a `T`.
///
/// # Invariants
///
/// `entry` is on the queue `head` from the end of initialisation to the drop. Its `private` is null, or the task that is
/// in [`ThreadWait::sleep`], which therefore is alive. It is read and written under the lock of `guard` only.
#[pin_data]
pub(crate) struct ThreadWait<T> {
    #[pin]
    head: Opaque<bindings::wait_queue_head>,
    #[pin]
    entry: Opaque<bindings::wait_queue_entry>,
    guard: LockedBy<(), T>,
}

// SAFETY: The queue locks for itself. By the type invariant `entry` is guarded by a lock.
unsafe impl<T> Send for ThreadWait<T> {}
// SAFETY: The queue locks for itself. By the type invariant `entry` is guarded by a lock.
unsafe impl<T> Sync for ThreadWait<T> {}

/// # Safety
///
/// To be called by the kernel, as the function of the entry of a [`ThreadWait`], under its queue's lock.
unsafe extern "C" fn wake_function(
    entry: *mut bindings::wait_queue_entry,
    mode: kernel::ffi::c_uint,
    flags: kernel::ffi::c_int,
    key: *mut kernel::ffi::c_void,
) -> kernel::ffi::c_int {
    // SAFETY: The queue calls this for its entries, which are valid.
    let task = unsafe { (*entry).private };
    if task.is_null() {
        return 0;
    }
    // SAFETY: By the invariant of `ThreadWait` the task is alive.
    unsafe { bindings::default_wake_function(entry, mode, flags, key) }
}

impl<T: Unpin> ThreadWait<T> {
    /// Returns a place in which no task sleeps. `guard` says which lock guards it.
    pub(crate) fn new(
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
        guard: LockedBy<(), T>,
    ) -> impl PinInit<Self> {
        pin_init!(&this in Self {
            // SAFETY: The slot is valid for writes; name and key live as long as the module.
            head <- Opaque::ffi_init(|slot| unsafe {
                bindings::__init_waitqueue_head(slot, name.as_char_ptr(), key.as_ptr())
            }),
            entry <- Opaque::ffi_init(|slot: *mut bindings::wait_queue_entry| {
                // SAFETY: `this` is valid, and `head` was initialised above.
                let head = unsafe { &raw const (*this.as_ptr()).head };
                // SAFETY: The head is a valid wait queue head.
                let head = unsafe { &raw mut (*Opaque::cast_into(head)).head };
                // SAFETY: The slot is valid for writes.
                let links = unsafe { &raw mut (*slot).entry };
                let entry = bindings::wait_queue_entry {
                    flags: 0,
                    private: ptr::null_mut(),
                    func: Some(wake_function),
                    entry: bindings::list_head { next: head, prev: head },
                };
                // SAFETY: The slot is valid for writes.
                unsafe { slot.write(entry) };
                // INVARIANT: The entry is linked into the queue, alone.
                let only = bindings::list_head { next: links, prev: links };
                // SAFETY: The head is valid for writes, and no other task knows of it yet.
                unsafe { head.write(only) };
            }),
            guard,
        })
    }

    /// Sleeps until woken or until a signal comes. `guard` is dropped meanwhile; `relock` takes the same lock again.
    pub(crate) fn sleep<'a>(
        &self,
        mut guard: Guard<'a, T, SpinLockBackend>,
        relock: impl FnOnce() -> Guard<'a, T, SpinLockBackend>,
    ) -> Guard<'a, T, SpinLockBackend> {
        // INVARIANT: The current task is in this function until the field is null again.
        self.set_task(&mut guard, Task::current_raw().cast());
        // CAST: The state bits are small.
        set_current_state((TASK_INTERRUPTIBLE | TASK_FREEZABLE) as u32);
        drop(guard);
        // SAFETY: The function has no requirements; a task that holds a lock would be reported.
        unsafe { bindings::schedule() };
        let mut guard = relock();
        set_current_state(TASK_RUNNING);
        self.set_task(&mut guard, ptr::null_mut());
        guard
    }

    fn set_task(&self, guarded: &mut T, task: *mut kernel::ffi::c_void) {
        // This shows that the lock that guards the entry is held.
        self.guard.access_mut(guarded);
        // SAFETY: The entry is valid, and the lock that guards the field is held.
        unsafe { (*self.entry.get()).private = task };
    }

    /// Wakes the task that sleeps here, if one does. `sync` says that the current task is about to sleep, so that the
    /// woken one may take its processor.
    #[inline]
    pub(crate) fn wake(&self, guarded: &mut T, sync: bool) {
        // This shows that the lock that guards the entry is held.
        self.guard.access_mut(guarded);
        // SAFETY: The entry is valid, and the lock that guards the field is held.
        let task = unsafe { (*self.entry.get()).private };
        if task.is_null() {
            return;
        }
        if sync {
            // SAFETY: The queue is initialised. By the type invariant the entry's task is alive while the lock is held.
            unsafe { bindings::__wake_up_sync(self.head.get(), TASK_NORMAL) };
        } else {
            // SAFETY: The queue is initialised. By the type invariant the entry's task is alive while the lock is held.
            unsafe { bindings::__wake_up(self.head.get(), TASK_NORMAL, 1, ptr::null_mut()) };
        }
    }
}

/// The wait queue for pollers of one open file.
#[pin_data]
pub(crate) struct PollQueue {
    #[pin]
    head: Opaque<bindings::wait_queue_head>,
}

// SAFETY: The queue locks for itself.
unsafe impl Send for PollQueue {}
// SAFETY: The queue locks for itself.
unsafe impl Sync for PollQueue {}

impl PollQueue {
    /// Returns an empty queue.
    pub(crate) fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The slot is valid for writes; name and key live as long as the module.
            head <- Opaque::ffi_init(|slot| unsafe {
                bindings::__init_waitqueue_head(slot, name.as_char_ptr(), key.as_ptr())
            }),
        })
    }

    /// Lets `table` know when [`PollQueue::wake`] is called.
    ///
    /// # Safety
    ///
    /// `file` and `table` must be what `file_operations.poll` was called with, and the queue must live until the
    /// file's `release`.
    pub(crate) unsafe fn register(
        &self,
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) {
        // SAFETY: By the caller's promise. A watcher is off the queue before the file's `release` is called: poll and
        // select hold a reference on the file while they wait, and epoll forgets a file as the first step of its end.
        unsafe { bindings::poll_wait(file, self.head.get(), table) };
    }

    /// Tells all pollers that something can be read.
    pub(crate) fn wake(&self) {
        let key = (bindings::POLLIN | bindings::POLLRDNORM) as usize;
        // SAFETY: The queue is initialised; the key is a number that travels as a pointer.
        unsafe {
            bindings::__wake_up(
                self.head.get(),
                TASK_NORMAL,
                0,
                ptr::without_provenance_mut(key),
            );
        }
    }
}
