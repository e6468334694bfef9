// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! One transaction's bytes: reserved in the receiver's mapping, filled by the sender, delivered, released.
//!
//! ```text
//!    reserve -> Buffer -> deliver -> Held, in the receiver's table
//!                  ^                   |
//!                  +------- take ------+      (BC_FREE_BUFFER)
//! ```
//!
//! A [`Buffer`] gives back everything it stands for when it is dropped: references, pages, bytes, and the node's next
//! one-way call.

use kernel::{
    prelude::*,
    sync::Arc,
    uaccess::UserSliceReader, //
};

use crate::{
    model::{
        Buffer,
        Held,
        ObjectRef,
        Process,
        StrongNode, //
    },
    node::uncount_local,
    page_range::PageRange,
    range_alloc::{
        RangeAllocator,
        Request,
        Reserved,
        ReserveError,
        Spare, //
    },
};

/// What a buffer is wanted for.
pub(crate) struct Wanted {
    /// Bytes of data.
    pub(crate) data_size: usize,
    /// Bytes of offsets.
    pub(crate) offsets_size: usize,
    /// Charged to the half of the mapping that is for one-way calls.
    pub(crate) oneway: bool,
    /// Overwrite it when it is freed.
    pub(crate) clear: bool,
    /// The sender.
    pub(crate) pid: i32,
}

/// Why there is no buffer.
pub(crate) enum NoBuffer {
    /// The receiver has no mapping.
    NotMapped,
    /// The sizes make no sense.
    BadSize,
    /// There is no hole that is large enough.
    Full {
        /// The largest.
        largest_hole: usize,
        /// All of them.
        free: usize,
    },
    /// The one-way half is used up.
    OnewayFull {
        /// What is left of it.
        free: usize,
    },
    /// The kernel is out of memory.
    NoMemory,
}

/// `n` rounded up to where the next part of a buffer may begin.
fn align(n: usize) -> Option<usize> {
    n.checked_next_multiple_of(8)
}

impl Process {
    fn reserve_range(&self, request: &Request) -> Result<Reserved, NoBuffer> {
        let mut buffers = self.buffers.lock();
        let mut result = buffers.reserve(request);
        if let Err(ReserveError::NeedSpare) = result {
            drop(buffers);
            let spare = Spare::new().map_err(|_| NoBuffer::NoMemory)?;
            buffers = self.buffers.lock();
            let surplus = buffers.add_spare(spare);
            result = buffers.reserve(request);
            drop(buffers);
            drop(surplus);
        }
        result.map_err(|e| match e {
            ReserveError::NeedSpare => NoBuffer::NoMemory,
            ReserveError::TooBig => NoBuffer::BadSize,
            ReserveError::NoSpace { largest_hole, free } => NoBuffer::Full { largest_hole, free },
            ReserveError::NoOnewaySpace { free } => NoBuffer::OnewayFull { free },
        })
    }

    /// Reserves a buffer in this process's mapping; `node` stays held until it is freed.
    ///
    /// Returns with it whether the sender is suspected of flooding the receiver with one-way calls.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        wanted: &Wanted,
        node: Option<StrongNode>,
    ) -> Result<(Buffer, bool), NoBuffer> {
        let size = align(wanted.data_size)
            .and_then(|data| data.checked_add(align(wanted.offsets_size)?))
            .ok_or(NoBuffer::BadSize)?;
        if !self.pages.is_mapped() {
            return Err(NoBuffer::NotMapped);
        }
        let reserved = self.reserve_range(&Request {
            size,
            oneway: wanted.oneway,
            pid: wanted.pid,
        })?;
        let mut buffer = Buffer {
            process: self.clone(),
            offset: reserved.offset,
            reserved: true,
            held: None,
        };
        let pages = PageRange::acquire(&self.pages, reserved.offset, reserved.size)
            .map_err(|_| NoBuffer::NoMemory)?;
        buffer.held = Some(Held {
            pages,
            data_size: wanted.data_size,
            offsets_size: wanted.offsets_size,
            node,
            oneway: wanted.oneway,
            ends_oneway: false,
            clear: wanted.clear,
            objects: KVec::new(),
        });
        Ok((buffer, reserved.spam_suspect))
    }

    /// `BC_FREE_BUFFER`: takes the buffer at `address` back from user space.
    ///
    /// # Errors
    ///
    /// `EINVAL` if user space has no buffer there.
    pub(crate) fn take_buffer(self: &Arc<Self>, address: usize) -> Result<Buffer> {
        let offset = address
            .checked_sub(self.pages.user_start())
            .ok_or(EINVAL)?;
        let held = self.buffers.lock().take(offset).ok_or(EINVAL)?;
        Ok(Buffer {
            process: self.clone(),
            offset,
            reserved: true,
            held: Some(held),
        })
    }

    /// Takes all buffers back from user space, which is gone.
    pub(crate) fn release_buffers(self: &Arc<Self>) {
        let mut offset = 0;
        loop {
            let mut buffers = self.buffers.lock();
            let Some(live) = buffers.at_or_above(offset) else {
                break;
            };
            let at = live.offset;
            let held = buffers.take(at);
            drop(buffers);
            offset = at.saturating_add(1);
            // What was not with user space belongs to somebody who frees it.
            if held.is_some() {
                drop(Buffer {
                    process: self.clone(),
                    offset: at,
                    reserved: true,
                    held,
                });
            }
        }
    }

    /// Gives this process, which has just mapped `size` bytes, that many to reserve.
    pub(crate) fn init_buffers(&self, size: usize) {
        *self.buffers.lock() = RangeAllocator::new(size);
    }
}

impl Buffer {
    fn held(&self) -> Result<&Held> {
        self.held.as_ref().ok_or(EINVAL)
    }

    /// Where the offsets begin, from the start of the buffer.
    fn offsets_at(&self) -> Result<usize> {
        align(self.held()?.data_size).ok_or(EINVAL)
    }

    /// The user address of the data and of the offsets.
    pub(crate) fn addresses(&self) -> Result<(usize, usize)> {
        let data = self.process.pages.user_start().wrapping_add(self.offset);
        Ok((data, data.wrapping_add(self.offsets_at()?)))
    }

    /// Bytes of data and of offsets.
    pub(crate) fn sizes(&self) -> Result<(usize, usize)> {
        self.held().map(|held| (held.data_size, held.offsets_size))
    }

    /// Copies `len` bytes of data from user space to `at` in the buffer.
    ///
    /// # Errors
    ///
    /// `EFAULT` if they cannot be read, `EINVAL` if they go beyond the data.
    pub(crate) fn copy_data(&self, at: usize, from: &mut UserSliceReader, len: usize) -> Result {
        let held = self.held()?;
        if at.checked_add(len).is_none_or(|end| end > held.data_size) {
            return Err(EINVAL);
        }
        held.pages.copy_from_user(self.offset + at, from, len)
    }

    /// Writes to `at` in the data.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it goes beyond the data.
    pub(crate) fn write_data(&self, at: usize, bytes: &[u8]) -> Result {
        let held = self.held()?;
        if at.checked_add(bytes.len()).is_none_or(|end| end > held.data_size) {
            return Err(EINVAL);
        }
        held.pages.write(self.offset + at, bytes)
    }

    /// Writes to `at` in the offsets.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it goes beyond the offsets.
    pub(crate) fn write_offsets(&self, at: usize, bytes: &[u8]) -> Result {
        let held = self.held()?;
        if at.checked_add(bytes.len()).is_none_or(|end| end > held.offsets_size) {
            return Err(EINVAL);
        }
        held.pages.write(self.offset + self.offsets_at()? + at, bytes)
    }

    /// Lets `object` be given back with the buffer.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; the object is given back at once then.
    pub(crate) fn add_object(&mut self, object: ObjectRef) -> Result {
        let held = self.held.as_mut().ok_or(EINVAL)?;
        if held.objects.reserve(1, GFP_KERNEL).is_err() {
            object.give_back(&self.process);
            return Err(ENOMEM);
        }
        Ok(held.objects.push(object, GFP_KERNEL)?)
    }

    /// Maps the buffer's pages into the current process, which is about to get it, where that is still to be done.
    #[inline]
    pub(crate) fn map_if_needed(&self) {
        if let Some(held) = &self.held {
            held.pages.map_if_needed();
        }
    }

    /// The transaction this buffer belongs to is on its way: from now on, the node's next one-way call waits for it.
    pub(crate) fn submitted(&mut self) {
        if let Some(held) = &mut self.held {
            held.ends_oneway = held.oneway;
        }
    }

    /// Hands the buffer to user space: from now on it can be freed by its address.
    pub(crate) fn deliver(mut self) {
        if let Some(held) = self.held.take() {
            let refused = self.process.buffers.lock().commit(self.offset, held);
            match refused {
                Ok(()) => self.reserved = false,
                // Not to happen: the range is reserved as long as this value lives.
                Err(held) => self.held = Some(held),
            }
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            held.give_back(&self.process, self.offset);
        }
        if self.reserved {
            // It cannot fail: the range is reserved as long as this value lives.
            let _ = self.process.buffers.lock().free(self.offset);
        }
    }
}

impl Held {
    /// Gives back everything but the range.
    fn give_back(self, process: &Process, offset: usize) {
        if self.clear {
            // Both sizes were rounded up and added when the buffer was reserved, without overflow.
            let size = align(self.data_size)
                .unwrap_or(0)
                .saturating_add(align(self.offsets_size).unwrap_or(0));
            // It cannot fail: these are the pages that are held.
            let _ = self.pages.clear(offset, size);
        }
        drop(self.pages);
        for object in self.objects {
            object.give_back(process);
        }
        if let Some(node) = self.node {
            if self.ends_oneway {
                node.end_oneway();
            }
        }
    }
}

impl ObjectRef {
    fn give_back(self, process: &Process) {
        match self {
            Self::Node { node, strong } => uncount_local(&node, strong),
            Self::Handle { handle, strong } => {
                // User space may have given up more than it had.
                let _ = process.remove_from_handle(handle, strong);
            }
        }
    }
}
