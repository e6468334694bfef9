// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! The driver's error: what the sender reads, the errno, the reason and the place in the source.

use core::panic::Location;
use kernel::prelude::*;

use crate::defs::{
    BR_DEAD_REPLY,
    BR_FAILED_REPLY,
    BR_FROZEN_REPLY, //
};

/// Why a transaction or a command failed.
#[derive(Clone, Copy)]
pub(crate) struct BinderError {
    /// The return code that the sender reads.
    code: u32,
    errno: Error,
    reason: &'static str,
    /// The place in the driver that found it out.
    place: &'static Location<'static>,
}

impl BinderError {
    #[track_caller]
    fn new(code: u32, errno: Error, reason: &'static str) -> Self {
        Self {
            code,
            errno,
            reason,
            place: Location::caller(),
        }
    }

    /// The return code that the sender reads.
    pub(crate) fn code(&self) -> u32 {
        self.code
    }

    /// The errno.
    pub(crate) fn errno(&self) -> Error {
        self.errno
    }

    /// The reason, for logs.
    pub(crate) fn reason(&self) -> &'static str {
        self.reason
    }

    /// The file, without its directory, and the line of the place that found it out.
    pub(crate) fn place(&self) -> (&'static str, u32) {
        let path = self.place.file();
        let name = path.as_bytes().split(|&byte| byte == b'/').last();
        let file = name.and_then(|name| core::str::from_utf8(name).ok());
        (file.unwrap_or(path), self.place.line())
    }

    /// The number that goes with the code in the extended error, in logs and reports: a negative errno. As with the C
    /// driver there is none with `BR_FROZEN_REPLY`.
    pub(crate) fn param(&self) -> i32 {
        if self.code == BR_FROZEN_REPLY {
            return 0;
        }
        self.errno.to_errno()
    }
}

impl From<BinderError> for Error {
    fn from(error: BinderError) -> Self {
        error.errno
    }
}

/// `BR_FAILED_REPLY`.
#[track_caller]
#[cold]
pub(crate) fn failed(errno: Error, reason: &'static str) -> BinderError {
    BinderError::new(BR_FAILED_REPLY, errno, reason)
}

/// `BR_DEAD_REPLY`, with `ESRCH`.
#[track_caller]
#[cold]
pub(crate) fn dead(reason: &'static str) -> BinderError {
    BinderError::new(BR_DEAD_REPLY, ESRCH, reason)
}

/// `BR_DEAD_REPLY` with `EINVAL`, for a target that is not there to begin with.
#[track_caller]
#[cold]
pub(crate) fn no_target(reason: &'static str) -> BinderError {
    BinderError::new(BR_DEAD_REPLY, EINVAL, reason)
}

/// `BR_FROZEN_REPLY`.
#[track_caller]
#[cold]
pub(crate) fn frozen() -> BinderError {
    BinderError::new(BR_FROZEN_REPLY, EAGAIN, "receiver is frozen")
}
