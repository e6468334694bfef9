// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Statistics: objects that exist, commands and returns.
//!
//! The figures are shown and nothing depends on them. So all counters are relaxed: a listing that is made while
//! transactions run may show figures of slightly different moments.

use kernel::{
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    uapi::binder_driver_return_protocol_BR_NOOP as BR_NOOP, //
};

use crate::sys::trace;

/// What is counted while it exists. The first ones have the order in which the C driver lists them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Object {
    /// Open files.
    Process,
    /// Threads.
    Thread,
    /// Nodes.
    Node,
    /// RefTable.
    Handle,
    /// Requests for a death notification.
    Death,
    /// Calls, one-way calls and replies that are under way.
    Transaction,
    /// `BR_TRANSACTION_COMPLETE`s: those that threads keep in stock, and further ones while they are queued.
    Complete,
    /// Requests for a notification of freezing.
    Freeze,
    /// Buffers, until they are freed.
    Buffer,
    /// Pages behind mappings.
    Page,
}

impl Object {
    const KINDS: usize = Self::Page as usize + 1;

    /// Every kind, in the order of a listing.
    pub(crate) const ALL: [Self; Self::KINDS] = [
        Self::Process,
        Self::Thread,
        Self::Node,
        Self::Handle,
        Self::Death,
        Self::Transaction,
        Self::Complete,
        Self::Freeze,
        Self::Buffer,
        Self::Page,
    ];

    /// The name in a listing, which for what the C driver counts is the C driver's.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Process => "proc",
            Self::Thread => "thread",
            Self::Node => "node",
            Self::Handle => "ref",
            Self::Death => "death",
            Self::Transaction => "transaction",
            Self::Complete => "transaction_complete",
            Self::Freeze => "freeze",
            Self::Buffer => "buffer",
            Self::Page => "page",
        }
    }

    /// How many there are, and how many there have been since the module was loaded.
    pub(crate) fn count(self) -> (u64, u64) {
        // The ones that went are read first, so that there are never less than none.
        let [made, gone] = &TALLIES[self as usize];
        let gone = gone.load(Relaxed);
        let made = made.load(Relaxed);
        (made.saturating_sub(gone), made)
    }
}

/// For each kind, how many were made and how many of them are gone. Two counters that only grow instead of a total and
/// a balance: that is one step less for each object.
static TALLIES: [[Atomic<u64>; 2]; Object::KINDS] =
    [const { [const { Atomic::new(0) }; 2] }; Object::KINDS];

/// Counts the object that it is a field of, from now to its drop. `KIND` is an [`Object`].
///
/// It takes no room, and as it is dropped with the object, no path can forget it.
pub(crate) struct ObjectCount<const KIND: usize>(());

impl<const KIND: usize> ObjectCount<KIND> {
    /// One more.
    #[inline]
    pub(crate) fn new() -> Self {
        TALLIES[KIND][0].add(1, Relaxed);
        Self(())
    }
}

impl<const KIND: usize> Drop for ObjectCount<KIND> {
    #[inline]
    fn drop(&mut self) {
        TALLIES[KIND][1].add(1, Relaxed);
    }
}

/// Counts a process.
pub(crate) type ProcessCount = ObjectCount<{ Object::Process as usize }>;
/// Counts a thread.
pub(crate) type ThreadCount = ObjectCount<{ Object::Thread as usize }>;
/// Counts a node.
pub(crate) type NodeCount = ObjectCount<{ Object::Node as usize }>;
/// Counts a handle.
pub(crate) type RefCount = ObjectCount<{ Object::Handle as usize }>;
/// Counts a request for a death notification.
pub(crate) type DeathCount = ObjectCount<{ Object::Death as usize }>;
/// Counts a request for a notification of freezing.
pub(crate) type FreezeCount = ObjectCount<{ Object::Freeze as usize }>;
/// Counts a transaction.
pub(crate) type TransactionCount = ObjectCount<{ Object::Transaction as usize }>;
/// Counts a `BR_TRANSACTION_COMPLETE`.
pub(crate) type CompleteCount = ObjectCount<{ Object::Complete as usize }>;
/// Counts a buffer.
pub(crate) type BufferCount = ObjectCount<{ Object::Buffer as usize }>;
/// Counts a page.
pub(crate) type PageCount = ObjectCount<{ Object::Page as usize }>;

/// An array of names, each at the place that the low byte of its code says.
macro_rules! by_number {
    ($(#[$meta:meta])* $table:ident, $prefix:ident: $($name:ident),+ $(,)?) => { kernel::macros::paste! {
        $(#[$meta])*
        const $table: [&str; [$(stringify!($name)),+].len()] = {
            let codes = [$(kernel::uapi::[<$prefix $name>]),+];
            let mut i = 0;
            while i < codes.len() {
                assert!(number(codes[i]) == i);
                i += 1;
            }
            [$(stringify!($name)),+]
        };
    } };
}

by_number! {
    /// The commands.
    COMMANDS, binder_driver_command_protocol_:
    BC_TRANSACTION, BC_REPLY, BC_ACQUIRE_RESULT, BC_FREE_BUFFER, BC_INCREFS, BC_ACQUIRE, BC_RELEASE, BC_DECREFS,
    BC_INCREFS_DONE, BC_ACQUIRE_DONE, BC_ATTEMPT_ACQUIRE, BC_REGISTER_LOOPER, BC_ENTER_LOOPER, BC_EXIT_LOOPER,
    BC_REQUEST_DEATH_NOTIFICATION, BC_CLEAR_DEATH_NOTIFICATION, BC_DEAD_BINDER_DONE, BC_TRANSACTION_SG, BC_REPLY_SG,
    BC_REQUEST_FREEZE_NOTIFICATION, BC_CLEAR_FREEZE_NOTIFICATION, BC_FREEZE_NOTIFICATION_DONE,
}

by_number! {
    /// The returns; `BR_TRANSACTION_SEC_CTX` has the number of `BR_TRANSACTION`.
    RETURNS, binder_driver_return_protocol_:
    BR_ERROR, BR_OK, BR_TRANSACTION, BR_REPLY, BR_ACQUIRE_RESULT, BR_DEAD_REPLY, BR_TRANSACTION_COMPLETE, BR_INCREFS,
    BR_ACQUIRE, BR_RELEASE, BR_DECREFS, BR_ATTEMPT_ACQUIRE, BR_NOOP, BR_SPAWN_LOOPER, BR_FINISHED, BR_DEAD_BINDER,
    BR_CLEAR_DEATH_NOTIFICATION_DONE, BR_FAILED_REPLY, BR_FROZEN_REPLY, BR_ONEWAY_SPAM_SUSPECT,
    BR_TRANSACTION_PENDING_FROZEN, BR_FROZEN_BINDER, BR_CLEAR_FREEZE_NOTIFICATION_DONE,
}

/// The low byte of a code is its number.
const fn number(code: u32) -> usize {
    (code & 0xff) as usize
}

/// How often each command was carried out and each return handed out, for one process or for several.
pub(crate) struct Stats {
    commands: [Atomic<u64>; COMMANDS.len()],
    returns: [Atomic<u64>; RETURNS.len()],
}

/// That of the processes that are gone.
pub(crate) static OF_DEAD_PROCESSES: Stats = Stats::new();

impl Stats {
    /// Nothing so far.
    pub(crate) const fn new() -> Self {
        Self {
            commands: [const { Atomic::new(0) }; COMMANDS.len()],
            returns: [const { Atomic::new(0) }; RETURNS.len()],
        }
    }

    /// The command `code` is about to be carried out. Numbers that no command has are not counted.
    #[inline]
    pub(crate) fn command(&self, code: u32) {
        if let Some(counter) = self.commands.get(number(code)) {
            counter.add(1, Relaxed);
        }
        trace::command(code);
    }

    /// The return `code` was handed out. `BR_NOOP`, with which every read begins, is not counted.
    #[inline]
    pub(crate) fn returned(&self, code: u32) {
        if code == BR_NOOP {
            return;
        }
        if let Some(counter) = self.returns.get(number(code)) {
            counter.add(1, Relaxed);
        }
        trace::returned(code);
    }

    /// Adds to this what was counted in `other`.
    pub(crate) fn add(&self, other: &Self) {
        for (sum, counter) in self.counters().zip(other.counters()) {
            sum.add(counter.load(Relaxed), Relaxed);
        }
    }

    fn counters(&self) -> impl Iterator<Item = &Atomic<u64>> {
        self.commands.iter().chain(&self.returns)
    }

    /// The names and figures of all that ever happened, commands first.
    pub(crate) fn figures(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        COMMANDS
            .iter()
            .chain(&RETURNS)
            .copied()
            .zip(self.counters().map(|counter| counter.load(Relaxed)))
            .filter(|&(_, count)| count != 0)
    }
}
