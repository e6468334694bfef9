// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Files on their way to a process.
//!
//! A file in a transaction is held by the transaction, which is queued in the receiver's binder file. If that file is
//! itself the one that is held, or holds it through others, the two keep each other: after the process has died, the
//! file, its pages and the module stay for good. `AF_UNIX` has this problem too and collects such circles. It can,
//! because each of them is made of its own sockets. Those made here may lead through files that this driver cannot look
//! into: a socket in which a binder file is in flight, or an `io_uring` in which one is registered.
//!
//! So a circle is not looked for but cut, at a place that each of them has. A file can only be sent to a process that has
//! its buffers mapped, and a mapping holds the file that it is of. As long as there is a mapping, what is in flight to the
//! process therefore keeps its file no longer than it is kept anyway. When the last VMA goes, which happens at the latest
//! when the process exits, all files in flight to it are let go. Nothing is lost by that: a transaction is received in the
//! mapping, of which there is never a second one.
//!
//! How many there are is up to others. The task whose mapping goes does not wait for it: it closes the door
//! ([`InFlight::close`]), and a work item does the rest ([`InFlight::let_go`]).
//!
//! # Locking
//!
//! `InFlight::state` is a spinlock under which nothing is taken, allocated or dropped.

use kernel::{
    alloc::Flags,
    fs::File,
    new_spinlock,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::{
        aref::ARef,
        SpinLock, //
    },
};

use crate::sys::helpers;

/// A file on its way.
pub(crate) struct SentFile {
    /// Where in the buffer the receiver's descriptor is to be written.
    pub(crate) at: usize,
    pub(crate) file: ARef<File>,
    /// It is one of an array.
    pub(crate) in_array: bool,
}

/// The files of one buffer.
type Files = KVec<SentFile>;

/// The files on their way to one mapping.
#[pin_data]
pub(crate) struct InFlight {
    #[pin]
    state: SpinLock<State>,
}

struct State {
    /// The mapping is gone. No files are added from then on.
    closed: bool,
    /// By the place of their buffer in the mapping.
    files: RBTree<usize, Files>,
}

impl InFlight {
    /// Nothing is on its way yet.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- new_spinlock!(
                State {
                    closed: false,
                    files: RBTree::new(),
                },
                "InFlight::state"
            ),
        })
    }

    /// Holds the files of the buffer at `offset` until it is read. What that takes is allocated with `flags`.
    ///
    /// # Errors
    ///
    /// - `ESRCH` if the mapping is gone.
    /// - `ENOMEM`.
    pub(crate) fn add(&self, offset: usize, files: Files, flags: Flags) -> Result {
        let node = RBTreeNode::new(offset, files, flags)?;
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            drop(node);
            return Err(ESRCH);
        }
        let other = state.files.insert(node);
        drop(state);
        // A buffer takes its files out before its place is given to another.
        kernel::warn_on!(other.is_some());
        Ok(())
    }

    /// The files of the buffer at `offset`, which are no longer on their way; `None` if they went with the mapping.
    pub(crate) fn take(&self, offset: usize) -> Option<Files> {
        let node = self.state.lock().files.remove_node(&offset)?;
        let (_, files) = node.to_key_value();
        Some(files)
    }

    /// The mapping is gone. Returns whether there are files to let go of.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.state.lock();
        state.closed = true;
        !state.files.is_empty()
    }

    /// Lets go of all there are.
    pub(crate) fn let_go(&self) {
        // One buffer at a time, so as not to hold the lock for long.
        while let Some(node) = self.take_first() {
            drop(node);
            helpers::cond_resched();
        }
    }

    fn take_first(&self) -> Option<RBTreeNode<usize, Files>> {
        let mut state = self.state.lock();
        let (_, node) = state.files.cursor_front_mut()?.remove_current();
        Some(node)
    }
}

#[kunit_tests(binder_in_flight)]
mod tests {
    use super::*;

    fn in_flight() -> Result<Pin<KBox<InFlight>>> {
        KBox::pin_init(InFlight::new(), GFP_KERNEL)
    }

    #[test]
    fn what_is_added_is_taken_once() -> Result {
        let in_flight = in_flight()?;
        in_flight.add(8, Files::new(), GFP_KERNEL)?;
        in_flight.add(0, Files::new(), GFP_KERNEL)?;
        assert!(in_flight.take(16).is_none());
        assert!(in_flight.take(8).is_some());
        assert!(in_flight.take(8).is_none());
        // The place is another buffer's now.
        in_flight.add(8, Files::new(), GFP_KERNEL)?;
        assert!(in_flight.take(8).is_some());
        assert!(in_flight.take(0).is_some());
        Ok(())
    }

    #[test]
    fn nothing_stays_and_nothing_comes_once_it_is_closed() -> Result {
        let in_flight = in_flight()?;
        for offset in 0..100 {
            in_flight.add(offset, Files::new(), GFP_KERNEL)?;
        }
        assert!(in_flight.close());
        // A buffer may still take its own.
        assert!(in_flight.take(7).is_some());
        in_flight.let_go();
        for offset in 0..100 {
            assert!(in_flight.take(offset).is_none());
            assert_eq!(in_flight.add(offset, Files::new(), GFP_KERNEL), Err(ESRCH));
        }
        assert!(!in_flight.close());
        Ok(())
    }
}
