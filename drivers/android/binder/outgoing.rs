// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! The first half of sending: a buffer in the receiver, filled, and a transaction around it.

use core::panic::Location;
use kernel::{
    alloc::Flags,
    prelude::*,
    security::SecurityCtx,
    sync::{
        Arc,
        LockedBy, //
    },
    task::Kuid,
    uaccess::{
        UserPtr,
        UserSlice, //
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
        TransactionData,
        BR_DEAD_REPLY,
        BR_FAILED_REPLY,
        BR_FROZEN_REPLY,
        BR_TRANSACTION_PENDING_FROZEN,
        FLAT_BINDER_FLAG_TXN_SECURITY_CTX,
        TF_CLEAR_BUF, //
    },
    level::Level,
    node::StrongNode,
    object,
    process::Process,
    stats::CountedTransaction,
    sys::{
        helpers::{
            jiffies,
            next_debug_id,
            user_error, //
        },
        netlink,
        nice,
        trace, //
    },
    thread::Thread,
    todo::Queued,
    transaction::{
        Receiver,
        Transaction,
        TransactionRef, //
    },
    transaction_log::{
        Kind,
        Record,
        ALL,
        FAILED, //
    },
};

/// Why a transaction did not get on its way.
pub(crate) struct Failure {
    /// What the sender is told.
    pub(crate) code: u32,
    pub(crate) error: Error,
    pub(crate) reason: &'static str,
    /// The line of the driver's source that found it out.
    pub(crate) line: u32,
}

/// The line that the caller of the function this is called in is in.
#[track_caller]
fn line() -> u32 {
    Location::caller().line()
}

#[track_caller]
pub(crate) fn failed(error: Error, reason: &'static str) -> Failure {
    Failure {
        code: BR_FAILED_REPLY,
        error,
        reason,
        line: line(),
    }
}

impl Failure {
    /// The number that goes with the code, in the ioctl that asks for it, in logs and reports: a negative errno. As
    /// with the C driver there is none with `BR_FROZEN_REPLY`.
    pub(crate) fn param(&self) -> i32 {
        if self.code == BR_FROZEN_REPLY {
            return 0;
        }
        self.error.to_errno()
    }
}

#[track_caller]
pub(crate) fn dead(reason: &'static str) -> Failure {
    Failure {
        code: BR_DEAD_REPLY,
        error: ESRCH,
        reason,
        line: line(),
    }
}

#[track_caller]
pub(crate) fn frozen() -> Failure {
    Failure {
        code: BR_FROZEN_REPLY,
        error: EAGAIN,
        reason: "receiver is frozen",
        line: line(),
    }
}

/// What a thread sends.
#[derive(Clone, Copy)]
pub(crate) struct Message {
    pub(crate) data: TransactionData,
    /// Bytes of the buffers that objects in it point to.
    pub(crate) extra_size: u64,
}

/// What is known of a transaction on its way, for the logs.
pub(crate) struct Recorded {
    pub(crate) id: u32,
    /// The place that is kept for it.
    place: u32,
    kind: Kind,
    /// Process and thread it goes to.
    pub(crate) to: (i32, i32),
    /// Number of the node that is called.
    pub(crate) node: u32,
    /// It waits until its receiver is thawed.
    pub(crate) waits_frozen: bool,
}

impl Recorded {
    /// A transaction begins.
    #[inline]
    pub(crate) fn begin(kind: Kind) -> Self {
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
    pub(crate) fn traced(&self, message: &Message) {
        trace::transaction(
            self.id,
            self.node,
            self.to.0,
            self.to.1,
            self.kind == Kind::Reply,
            message.data.code,
            message.data.flags,
        );
    }

    /// Logs what became of the transaction with which `thread` sent `message`.
    #[inline]
    pub(crate) fn end(&self, thread: &Thread, message: &Message, failure: Option<&Failure>) {
        let process = &thread.process;
        let data = &message.data;
        let record = Record {
            id: self.id,
            kind: self.kind as u32,
            from_pid: process.pid,
            from_tid: thread.id,
            to_pid: self.to.0,
            to_tid: self.to.1,
            node: self.node,
            handle: match self.kind {
                Kind::Reply => 0,
                Kind::Call | Kind::Oneway => data.handle(),
            },
            data_size: data.data_size,
            offsets_size: data.offsets_size,
            code: failure.map_or(0, |failure| failure.code),
            errno: failure.map_or(0, Failure::param),
            line: failure.map_or(0, |failure| failure.line),
            context: process.context.short_name(),
        };
        if failure.is_some() {
            FAILED.write(FAILED.begin(), &record);
        }
        ALL.write(self.place, &record);
        if let Some(failure) = failure {
            self.report(thread, message, failure.code);
        } else if self.waits_frozen {
            self.report(thread, message, BR_TRANSACTION_PENDING_FROZEN);
        }
    }

    /// Tells those who listen what the sender reads.
    #[cold]
    fn report(&self, thread: &Thread, message: &Message, error: u32) {
        let process = &thread.process;
        netlink::report(&netlink::Report {
            error,
            context: process.context.name(),
            from: (process.pid, thread.id),
            to: self.to,
            is_reply: self.kind == Kind::Reply,
            flags: message.data.flags,
            code: message.data.code,
            data_size: message.data.data_size,
        });
    }
}

/// What is sent where.
pub(crate) struct Outgoing<'a> {
    pub(crate) debug_id: u32,
    pub(crate) thread: &'a Arc<Thread>,
    pub(crate) message: &'a Message,
    pub(crate) target: Arc<Process>,
    pub(crate) accepts_fds: bool,
}

impl Outgoing<'_> {
    /// Reserves a buffer in the target and fills it.
    pub(crate) fn fill(
        &self,
        node: Option<StrongNode>,
        oneway: bool,
    ) -> Result<(Buffer, OnewayCalls), Failure> {
        let data = &self.message.data;
        let context = match &node {
            Some(node) if node.node().flags & FLAT_BINDER_FLAG_TXN_SECURITY_CTX != 0 => {
                let id = self.thread.process.cred.get_secid();
                let context =
                    SecurityCtx::from_secid(id).map_err(|e| failed(e, "no security context"))?;
                Some(context)
            }
            _ => None,
        };
        // Before anything is said about sizes, as the C driver does.
        if !self.target.pages.is_mapped() {
            return Err(dead("receiver has no mapping"));
        }
        let size =
            |bytes: u64| usize::try_from(bytes).map_err(|_| failed(EINVAL, "size too large"));
        let extra_size = size(self.message.extra_size)?;
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
            pid: self.thread.process.pid,
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
        object::check(&offsets, extra_size).map_err(|(error, reason)| failed(error, reason))?;

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
        .fill(from, wanted.data_size, offsets)
        .map_err(|(error, reason)| failed(error, reason))?;
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

    /// Says why there is no buffer.
    #[cold]
    fn no_buffer(&self, wanted: &Wanted, why: NoBuffer) -> Failure {
        let size = wanted
            .data_size
            .saturating_add(wanted.offsets_size)
            .saturating_add(wanted.extra_size);
        let (pid, tid) = (self.thread.process.pid, self.thread.id);
        let (target, mapped) = (self.target.pid, self.target.pages.mapped_size());
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
    pub(crate) fn transaction(
        &self,
        buffer: Buffer,
        level: Level,
        flags: Flags,
        from: Option<Arc<Thread>>,
        from_parent: Option<TransactionRef>,
    ) -> Result<TransactionRef, Failure> {
        let process = &self.thread.process;
        Queued::with_flags(
            Transaction {
                debug_id: self.debug_id,
                start: jiffies(),
                from,
                from_parent,
                target: self.target.clone(),
                sender_pid: process.pid,
                code: self.message.data.code,
                flags: self.message.data.flags,
                // The sending thread's, which need not be the opener's.
                sender_euid: Kuid::current_euid(),
                receiver: LockedBy::new(
                    &self.target.inner,
                    Receiver {
                        buffer: Some(buffer),
                        thread: None,
                        parent: None,
                        sender_tid: self.thread.id,
                        sender_nice: nice::current_small(),
                        saved_nice: 0,
                        counted: false,
                        level,
                    },
                ),
                _counted: CountedTransaction::new(),
            },
            flags,
        )
        .map_err(|e| failed(e, "out of memory"))
    }
}
