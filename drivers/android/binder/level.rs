// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Which transactions are charged to a memory cgroup.

use kernel::{
    alloc::Flags,
    prelude::*, //
};

/// Whether a transaction is charged to its sender's memory cgroup.
///
/// A charge costs some hundred instructions, so the common call is without. The number of transactions without a
/// charge is limited by objects that are charged:
///
/// - A call that a thread makes while it works on no other and has nothing to read: there is one for each thread,
///   which it holds a reference on.
/// - A call that a thread makes while it works on one of those: there is one for each of those.
/// - The reply to one of these: the thread that gets it makes no further call without a charge before it has read it.
/// - A one-way call that no other waits beside: there is one for each process.
///
/// The number of all others is limited by what they are charged to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Level(u8);

impl Level {
    const FIRST: Self = Self(1);
    const CHARGED: Self = Self(u8::MAX);
    /// Calls nested so deep are not charged: a call, and one back.
    const MOST: u8 = 2;

    /// Of a call by a thread that works on a call of level `parent`; `is_idle` if the thread has nothing to read.
    #[inline]
    pub(crate) fn of_call(is_idle: bool, parent: Option<Self>) -> Self {
        match (is_idle, parent) {
            (false, _) => Self::CHARGED,
            (true, None) => Self::FIRST,
            (true, Some(Self(level))) => Self(level.saturating_add(1)),
        }
    }

    /// Of a one-way call; `is_only` if no other waits in the same process.
    #[inline]
    pub(crate) fn of_oneway(is_only: bool) -> Self {
        if is_only {
            Self::FIRST
        } else {
            Self::CHARGED
        }
    }

    /// Whether the transaction is charged.
    #[inline]
    pub(crate) fn is_charged(self) -> bool {
        self.0 > Self::MOST
    }

    /// The flags to allocate the transaction with, if the current task is charged.
    #[inline]
    pub(crate) fn flags(self) -> Flags {
        if self.is_charged() {
            GFP_KERNEL_ACCOUNT
        } else {
            GFP_KERNEL
        }
    }
}
