// SPDX-License-Identifier: GPL-2.0

//! Objects inside a transaction's data.

use zerocopy::FromBytes;

use crate::uapi;
use crate::uapi::BufferObject;
use crate::uapi::FdArrayObject;
use crate::uapi::FdObject;
use crate::uapi::FlatObject;

/// A node of the sender, strongly referenced.
pub fn binder(ptr: u64, cookie: u64) -> FlatObject {
    FlatObject { kind: uapi::BINDER_TYPE_BINDER, flags: 0, value: ptr, cookie }
}

/// A node of the sender, weakly referenced.
pub fn weak_binder(ptr: u64, cookie: u64) -> FlatObject {
    FlatObject { kind: uapi::BINDER_TYPE_WEAK_BINDER, flags: 0, value: ptr, cookie }
}

/// A node of another process, strongly referenced.
pub fn handle(handle: u32) -> FlatObject {
    FlatObject { kind: uapi::BINDER_TYPE_HANDLE, flags: 0, value: uapi::in_union(handle), cookie: 0 }
}

/// A node of another process, weakly referenced.
pub fn weak_handle(handle: u32) -> FlatObject {
    FlatObject { kind: uapi::BINDER_TYPE_WEAK_HANDLE, flags: 0, value: uapi::in_union(handle), cookie: 0 }
}

/// A file descriptor of the sender.
pub fn fd(fd: i32, cookie: u64) -> FdObject {
    FdObject { kind: uapi::BINDER_TYPE_FD, pad_flags: 0, fd: uapi::in_union(fd as u32), cookie }
}

/// Bytes of the sender that nothing else in the transaction points to.
pub fn buffer(bytes: &[u8]) -> BufferObject {
    BufferObject {
        kind: uapi::BINDER_TYPE_PTR,
        flags: 0,
        buffer: bytes.as_ptr() as u64,
        length: bytes.len() as u64,
        parent: 0,
        parent_offset: 0,
    }
}

/// Bytes of the sender that the buffer object number `parent` points to from `parent_offset`.
pub fn child_buffer(bytes: &[u8], parent: usize, parent_offset: u64) -> BufferObject {
    BufferObject { flags: uapi::BINDER_BUFFER_FLAG_HAS_PARENT, parent: parent as u64, parent_offset, ..buffer(bytes) }
}

/// File descriptors that stand in the buffer object number `parent`.
pub fn fd_array(num_fds: u64, parent: usize, parent_offset: u64) -> FdArrayObject {
    FdArrayObject { kind: uapi::BINDER_TYPE_FDA, pad: 0, num_fds, parent: parent as u64, parent_offset }
}

/// Reads the binder or handle at an offset of received data.
pub fn read_flat(data: &[u8], offset: u64) -> Option<FlatObject> {
    let rest = data.get(usize::try_from(offset).ok()?..)?;
    FlatObject::read_from_prefix(rest).ok().map(|(object, _)| object)
}

impl FlatObject {
    /// The handle, where the object is one.
    pub fn as_handle(&self) -> Option<u32> {
        matches!(self.kind, uapi::BINDER_TYPE_HANDLE | uapi::BINDER_TYPE_WEAK_HANDLE)
            .then(|| uapi::from_union(self.value))
    }

    /// Pointer and cookie, where the object is a node of the reader's own.
    pub fn as_binder(&self) -> Option<(u64, u64)> {
        matches!(self.kind, uapi::BINDER_TYPE_BINDER | uapi::BINDER_TYPE_WEAK_BINDER)
            .then_some((self.value, self.cookie))
    }
}
