// SPDX-License-Identifier: GPL-2.0

use std::fmt;

use nix::errno::Errno;

use crate::ParseError;
use crate::Return;

/// What can go wrong between a client and a driver.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// A system call failed.
    Sys {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        errno: Errno,
    },
    /// The driver's returns make no sense.
    Parse(ParseError),
    /// A return that has no place here.
    Unexpected(Return),
    /// `BR_DEAD_REPLY`: the other side is gone.
    Dead,
    /// `BR_FAILED_REPLY`: the transaction could not be carried.
    Failed,
    /// `BR_FROZEN_REPLY`: the other side is frozen.
    Frozen,
    /// An address that does not lie in the mapping.
    OutsideMapping {
        /// Where.
        address: u64,
        /// How much.
        size: u64,
    },
}

/// A result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The errno, if a system call failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Sys { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Sys { what, errno } => write!(f, "{what}: {errno}"),
            Error::Parse(error) => write!(f, "{error}"),
            Error::Unexpected(ret) => write!(f, "unexpected return {ret:x?}"),
            Error::Dead => f.write_str("the other side is dead"),
            Error::Failed => f.write_str("the transaction failed"),
            Error::Frozen => f.write_str("the other side is frozen"),
            Error::OutsideMapping { address, size } => {
                write!(f, "{size} bytes at {address:#x} are outside the mapping")
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<ParseError> for Error {
    fn from(error: ParseError) -> Self {
        Error::Parse(error)
    }
}

/// Says what was tried when an errno comes back.
pub(crate) trait Context<T> {
    fn context(self, what: &'static str) -> Result<T>;
}

impl<T> Context<T> for nix::Result<T> {
    fn context(self, what: &'static str) -> Result<T> {
        self.map_err(|errno| Error::Sys { what, errno })
    }
}
