// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! The read buffer of a `BINDER_WRITE_READ`, which returns are appended to.

use kernel::{
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice,
        UserSliceWriter, //
    },
};

use crate::stats::Stats;

/// The read buffer of a `BINDER_WRITE_READ`.
pub(crate) struct ReadBuffer<'a> {
    /// Where returns are counted.
    stats: &'a Stats,
    start: UserPtr,
    size: usize,
    writer: UserSliceWriter,
}

impl<'a> ReadBuffer<'a> {
    /// The buffer of `size` bytes at `address`, of which the first `consumed` are filled.
    ///
    /// # Errors
    ///
    /// `EINVAL` if more is filled than there is.
    pub(crate) fn new(
        address: usize,
        size: usize,
        consumed: usize,
        stats: &'a Stats,
    ) -> Result<Self> {
        let room = size.checked_sub(consumed).ok_or(EINVAL)?;
        let start = UserPtr::from_addr(address);
        Ok(Self {
            stats,
            start,
            size,
            writer: UserSlice::new(start.wrapping_byte_add(consumed), room).writer(),
        })
    }

    /// Bytes still free.
    pub(crate) fn room(&self) -> usize {
        self.writer.len()
    }

    /// Bytes filled.
    pub(crate) fn consumed(&self) -> usize {
        // The writer has what is left of them.
        self.size.wrapping_sub(self.writer.len())
    }

    /// Appends a return.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it does not fit or the memory cannot be written to.
    pub(crate) fn put<T: kernel::transmute::AsBytes>(&mut self, value: &T) -> Result {
        self.writer.write(value)?;
        // Every value begins with the code of the return that it is.
        if let Some(code) = value.as_bytes().first_chunk() {
            self.stats.returned(u32::from_ne_bytes(*code));
        }
        Ok(())
    }

    /// Replaces the first return, which is one without argument.
    ///
    /// # Errors
    ///
    /// `EFAULT` if there are less, or the memory cannot be written to.
    pub(crate) fn replace_first(&self, value: u32) -> Result {
        UserSlice::new(self.start, self.size)
            .writer()
            .write(&value)?;
        self.stats.returned(value);
        Ok(())
    }
}
