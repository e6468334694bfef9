// SPDX-License-Identifier: GPL-2.0

//! Sleeping until there is work, and waking whoever sleeps or polls.
//!
//! A thread sleeps on an entry of its own that never leaves its queue, so that going to sleep is no more than setting
//! the task's state. Both sides hold the process's spinlock while they look at the work lists and set the state or
//! wake, so no wake-up is lost.
//!
//! Poll tables are registered with one queue per open file, not per thread: a thread may exit while an epoll still
//! watches the file, and everything that watches a file is gone before its `release`. So no queue is ever freed under
//! a watcher.

use core::ptr;
use kernel::{
    bindings,
    prelude::*,
    sync::LockClassKey,
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

/// Where one thread sleeps.
///
/// # Invariants
///
/// `entry` is on the queue `head` from the end of initialisation to the drop. Its `private` is null, or the task that
/// called [`ThreadWait::prepare`] and did not yet call [`ThreadWait::finish`], which therefore is alive. It is written and
/// read under one and the same lock of the caller's.
#[pin_data(PinnedDrop)]
pub(crate) struct ThreadWait {
    #[pin]
    head: Opaque<bindings::wait_queue_head>,
    #[pin]
    entry: Opaque<bindings::wait_queue_entry>,
}

// SAFETY: The queue locks for itself, the rest is guarded as the type invariant says.
unsafe impl Send for ThreadWait {}
// SAFETY: As above.
unsafe impl Sync for ThreadWait {}

/// # Safety
///
/// To be called by the kernel, as the function of the entry of a [`ThreadWait`], under its queue's lock.
unsafe extern "C" fn wake_function(
    entry: *mut bindings::wait_queue_entry,
    mode: kernel::ffi::c_uint,
    flags: kernel::ffi::c_int,
    key: *mut kernel::ffi::c_void,
) -> kernel::ffi::c_int {
    // SAFETY: The queue calls this for its entries, under its lock. By the invariant of `ThreadWait` the task is alive if
    // there is one.
    unsafe {
        if (*entry).private.is_null() {
            return 0;
        }
        bindings::default_wake_function(entry, mode, flags, key)
    }
}

impl ThreadWait {
    /// A wait_entry with nobody asleep.
    pub(crate) fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(&this in Self {
            // SAFETY: The slot is valid for writes; name and key live as long as the module.
            head <- Opaque::ffi_init(|slot| unsafe {
                bindings::__init_waitqueue_head(slot, name.as_char_ptr(), key.as_ptr())
            }),
            entry <- Opaque::ffi_init(|slot: *mut bindings::wait_queue_entry| {
                // SAFETY: The slot is valid for writes, and the head, which is initialised, is not used by anybody yet.
                // INVARIANT: The entry is linked into the queue, alone.
                unsafe {
                    let head = &raw mut (*Opaque::cast_into(&raw const (*this.as_ptr()).head)).head;
                    let links = &raw mut (*slot).entry;
                    slot.write(bindings::wait_queue_entry {
                        flags: 0,
                        private: ptr::null_mut(),
                        func: Some(wake_function),
                        entry: bindings::list_head { next: head, prev: head },
                    });
                    (*head).next = links;
                    (*head).prev = links;
                }
            }),
        })
    }

    /// Readies the current task to sleep. To be called under the lock that guards what it waits for, which is to be
    /// dropped before [`ThreadWait::sleep`].
    pub(crate) fn prepare(&self) {
        // SAFETY: The caller's lock guards the field. INVARIANT: The current task is alive until `finish`.
        unsafe { (*self.entry.get()).private = Task::current_raw().cast() };
        // CAST: The state bits are small.
        set_current_state((TASK_INTERRUPTIBLE | TASK_FREEZABLE) as u32);
    }

    /// Sleeps until woken or until a signal comes. No lock may be held.
    pub(crate) fn sleep(&self) {
        // SAFETY: Sleeping is allowed: the caller holds no lock.
        unsafe { bindings::schedule() };
    }

    /// The current task no longer sleeps. To be called under the same lock as [`ThreadWait::prepare`].
    pub(crate) fn finish(&self) {
        set_current_state(TASK_RUNNING);
        // SAFETY: The caller's lock guards the field.
        unsafe { (*self.entry.get()).private = ptr::null_mut() };
    }

    /// Wakes the task that sleeps here, if one does. `sync` says that the current task is about to sleep itself, so
    /// that the woken one may as well take its processor. To be called under the same lock as [`ThreadWait::prepare`].
    pub(crate) fn wake(&self, sync: bool) {
        // SAFETY: The caller's lock guards the field.
        if unsafe { (*self.entry.get()).private.is_null() } {
            return;
        }
        // SAFETY: The queue is initialised. The entry's task is alive as long as the caller's lock is held.
        unsafe {
            if sync {
                bindings::__wake_up_sync(self.head.get(), TASK_NORMAL);
            } else {
                bindings::__wake_up(self.head.get(), TASK_NORMAL, 1, ptr::null_mut());
            }
        }
    }
}

#[pinned_drop]
impl PinnedDrop for ThreadWait {
    fn drop(self: Pin<&mut Self>) {
        // Head and entry go together; nobody sleeps on a value that is being dropped.
    }
}

/// The queue of those who poll one open file.
#[pin_data]
pub(crate) struct PollQueue {
    #[pin]
    head: Opaque<bindings::wait_queue_head>,
}

// SAFETY: The queue locks for itself.
unsafe impl Send for PollQueue {}
// SAFETY: As above.
unsafe impl Sync for PollQueue {}

impl PollQueue {
    /// A queue that nobody is on.
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

    /// Tells all who poll that something can be read.
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
