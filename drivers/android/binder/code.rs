// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! Return codes without an argument, as work items.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    warn_on, //
};

use crate::{
    defs::{
        BR_ERROR,
        BR_TRANSACTION_COMPLETE, //
    },
    process::InnerGuard,
    read_buffer::ReadBuffer,
    stats::CompleteCount,
    thread::Thread,
    todo::{
        Delivered,
        Home,
        Listed,
        Work,
        WorkItem, //
    },
};

/// A return code without an argument, to be read by a thread.
pub(crate) struct Code {
    kind: CodeKind,
    /// The code of a [`CodeKind::Complete`]. The thread has that of an error.
    code: Atomic<u32>,
    home: Home,
    _count: Option<CompleteCount>,
}

/// What a [`Code`] is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodeKind {
    /// A transaction was sent: `BR_TRANSACTION_COMPLETE` or the like.
    Complete,
    /// A command failed.
    ReturnError,
    /// A call failed.
    ReplyError,
}

impl Code {
    pub(crate) fn new(kind: CodeKind) -> Self {
        Self {
            kind,
            code: Atomic::new(BR_TRANSACTION_COMPLETE),
            home: Home::new(),
            _count: (kind == CodeKind::Complete).then(CompleteCount::new),
        }
    }

    /// What the code is about.
    pub(crate) fn kind(&self) -> CodeKind {
        self.kind
    }

    /// Sets the code of a [`CodeKind::Complete`].
    #[inline]
    pub(crate) fn set(&self, code: u32) {
        self.code.store(code, Relaxed);
    }

    /// Makes a further `BR_TRANSACTION_COMPLETE`, for when the thread's own is queued.
    pub(crate) fn new_complete() -> Result<Arc<WorkItem<Self>>> {
        WorkItem::new(Self::new(CodeKind::Complete))
    }
}

#[expect(unsafe_code)]
// SAFETY: A code has one home, which is its own.
unsafe impl Work for Code {
    fn home(&self) -> Option<&Home> {
        Some(&self.home)
    }

    fn deliver(
        self: Arc<WorkItem<Self>>,
        thread: &Arc<Thread>,
        mut inner: InnerGuard<'_>,
        out: &mut ReadBuffer<'_>,
    ) -> Result<Delivered> {
        let code = match self.kind {
            CodeKind::Complete => self.code.load(Relaxed),
            CodeKind::ReturnError => thread.take_return_code(),
            CodeKind::ReplyError => {
                // The code was stored when the item was queued.
                let code = thread.reply_error(&mut inner).take();
                warn_on!(code.is_none());
                code.unwrap_or(BR_ERROR)
            }
        };
        drop(inner);
        out.put(&code)?;
        Ok(Delivered::More)
    }

    fn listed(self: Arc<WorkItem<Self>>) -> Listed {
        Listed::Code(self)
    }

    fn cancel(self: Arc<WorkItem<Self>>) {}
}
