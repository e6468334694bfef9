// SPDX-License-Identifier: GPL-2.0

use std::fmt;

use zerocopy::FromBytes;

use crate::uapi;
use crate::uapi::FrozenStateInfo;
use crate::uapi::PtrCookie;
use crate::uapi::TransactionData;
use crate::uapi::TransactionDataSecctx;

/// One thing the driver says.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "one for each `BR_*` of the interface, with its argument")]
pub enum Return {
    Error(i32),
    Ok,
    Transaction(TransactionData),
    TransactionSecCtx(TransactionDataSecctx),
    Reply(TransactionData),
    AcquireResult(i32),
    DeadReply,
    TransactionComplete,
    IncRefs(PtrCookie),
    Acquire(PtrCookie),
    Release(PtrCookie),
    DecRefs(PtrCookie),
    Noop,
    SpawnLooper,
    Finished,
    DeadBinder(u64),
    ClearDeathNotificationDone(u64),
    FailedReply,
    FrozenReply,
    OnewaySpamSuspect,
    TransactionPendingFrozen,
    FrozenBinder(FrozenStateInfo),
    ClearFreezeNotificationDone(u64),
}

/// Returns that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// A code that the interface does not have.
    Unknown {
        /// The code.
        code: u32,
        /// Where it stands.
        at: usize,
    },
    /// The stream ends inside a return.
    Truncated {
        /// Where the return starts.
        at: usize,
    },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParseError::Unknown { code, at } => write!(f, "unknown return {code:#x} at byte {at}"),
            ParseError::Truncated { at } => write!(f, "the return at byte {at} is cut short"),
        }
    }
}

impl std::error::Error for ParseError {}

/// Takes a stream of returns apart. After an error there is nothing more.
#[derive(Clone, Debug)]
pub struct Returns<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Returns<'a> {
    /// Reads what a driver wrote.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take<T: FromBytes>(&mut self, start: usize) -> Result<T, ParseError> {
        let (value, _) =
            T::read_from_prefix(&self.bytes[self.at..]).map_err(|_| ParseError::Truncated { at: start })?;
        self.at += size_of::<T>();
        Ok(value)
    }

    fn one(&mut self) -> Result<Return, ParseError> {
        let start = self.at;
        let code: u32 = self.take(start)?;
        Ok(match code {
            uapi::BR_ERROR => Return::Error(self.take(start)?),
            uapi::BR_OK => Return::Ok,
            uapi::BR_TRANSACTION => Return::Transaction(self.take(start)?),
            uapi::BR_TRANSACTION_SEC_CTX => Return::TransactionSecCtx(self.take(start)?),
            uapi::BR_REPLY => Return::Reply(self.take(start)?),
            uapi::BR_ACQUIRE_RESULT => Return::AcquireResult(self.take(start)?),
            uapi::BR_DEAD_REPLY => Return::DeadReply,
            uapi::BR_TRANSACTION_COMPLETE => Return::TransactionComplete,
            uapi::BR_INCREFS => Return::IncRefs(self.take(start)?),
            uapi::BR_ACQUIRE => Return::Acquire(self.take(start)?),
            uapi::BR_RELEASE => Return::Release(self.take(start)?),
            uapi::BR_DECREFS => Return::DecRefs(self.take(start)?),
            uapi::BR_NOOP => Return::Noop,
            uapi::BR_SPAWN_LOOPER => Return::SpawnLooper,
            uapi::BR_FINISHED => Return::Finished,
            uapi::BR_DEAD_BINDER => Return::DeadBinder(self.take(start)?),
            uapi::BR_CLEAR_DEATH_NOTIFICATION_DONE => Return::ClearDeathNotificationDone(self.take(start)?),
            uapi::BR_FAILED_REPLY => Return::FailedReply,
            uapi::BR_FROZEN_REPLY => Return::FrozenReply,
            uapi::BR_ONEWAY_SPAM_SUSPECT => Return::OnewaySpamSuspect,
            uapi::BR_TRANSACTION_PENDING_FROZEN => Return::TransactionPendingFrozen,
            uapi::BR_FROZEN_BINDER => Return::FrozenBinder(self.take(start)?),
            uapi::BR_CLEAR_FREEZE_NOTIFICATION_DONE => Return::ClearFreezeNotificationDone(self.take(start)?),
            code => return Err(ParseError::Unknown { code, at: start }),
        })
    }
}

impl Iterator for Returns<'_> {
    type Item = Result<Return, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.bytes.len() {
            return None;
        }
        let one = self.one();
        if one.is_err() {
            self.at = self.bytes.len();
        }
        Some(one)
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    #[test]
    fn reads_returns_in_order() {
        let mut bytes = uapi::BR_NOOP.to_ne_bytes().to_vec();
        bytes.extend(uapi::BR_ACQUIRE.to_ne_bytes());
        bytes.extend(PtrCookie { ptr: 7, cookie: 8 }.as_bytes());
        bytes.extend(uapi::BR_DEAD_REPLY.to_ne_bytes());
        let all: Result<Vec<_>, _> = Returns::new(&bytes).collect();
        assert_eq!(all, Ok(vec![Return::Noop, Return::Acquire(PtrCookie { ptr: 7, cookie: 8 }), Return::DeadReply]));
    }

    #[test]
    fn an_unknown_code_and_a_cut_are_errors() {
        let bytes = 0xdead_beefu32.to_ne_bytes();
        let all: Vec<_> = Returns::new(&bytes).collect();
        assert_eq!(all, vec![Err(ParseError::Unknown { code: 0xdead_beef, at: 0 })]);

        let mut bytes = uapi::BR_NOOP.to_ne_bytes().to_vec();
        bytes.extend(uapi::BR_DEAD_BINDER.to_ne_bytes());
        bytes.extend([0; 3]);
        let all: Vec<_> = Returns::new(&bytes).collect();
        assert_eq!(all, vec![Ok(Return::Noop), Err(ParseError::Truncated { at: 4 })]);
    }
}
