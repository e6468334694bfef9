// SPDX-License-Identifier: GPL-2.0

//! The work queue on which processes end after their file was closed.
//!
//! What a process leaves behind can be a quarter of a million queued transactions of other processes, so that its end
//! takes long. The task that closes the file, or is killed, does not wait for it.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use core::ptr;
use kernel::{
    bindings,
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Relaxed,
        Release, //
    },
    workqueue::Queue, //
};

/// The queue, or null. It is there from the creation to the drop of the one [`Registration`].
static QUEUE: Atomic<*mut bindings::workqueue_struct> = Atomic::new(ptr::null_mut());

/// The queue, which exists as long as this does. Dropping it waits for everything that is on the queue.
pub(crate) struct Registration(());

impl Registration {
    /// Makes the queue.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    ///
    /// # Safety
    ///
    /// There must be no other value of this type at the same time.
    pub(crate) unsafe fn new() -> Result<Self> {
        // Any number of processes may end at the same time (0 is the default limit), on any processor.
        // SAFETY: The name is a string without conversions, so no argument is missing.
        let queue = unsafe {
            bindings::alloc_workqueue_noprof(
                c"binder_rs".as_char_ptr(),
                bindings::wq_flags_WQ_UNBOUND,
                0,
            )
        };
        if queue.is_null() {
            return Err(ENOMEM);
        }
        // ORDERING: Pairs with the load in `get`: the queue is seen initialised.
        QUEUE.store(queue, Release);
        Ok(Self(()))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let queue = QUEUE.load(Relaxed);
        QUEUE.store(ptr::null_mut(), Relaxed);
        // SAFETY: The queue was made by `new`. Nothing is put on it any more: no file is open.
        unsafe { bindings::destroy_workqueue(queue) };
    }
}

/// The queue.
///
/// # Safety
///
/// To be called while an open file keeps the module, and with it the [`Registration`], from going.
pub(crate) unsafe fn get<'a>() -> Option<&'a Queue> {
    // ORDERING: Pairs with the store in `new`.
    let queue = QUEUE.load(Acquire);
    if queue.is_null() {
        return None;
    }
    // SAFETY: By the caller's promise the registration exists, and so does the queue.
    Some(unsafe { Queue::from_raw(queue) })
}
