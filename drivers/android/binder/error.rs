// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Why a transaction failed: what its sender reads, the errno, the reason and the place in the source.

use core::panic::Location;
use kernel::prelude::*;

use crate::defs::{
    BR_DEAD_REPLY,
    BR_FAILED_REPLY,
    BR_FROZEN_REPLY, //
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

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
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
