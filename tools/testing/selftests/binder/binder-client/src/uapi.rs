// SPDX-License-Identifier: GPL-2.0

//! The UAPI: numbers and layouts.
//!
//! Sizes are asserted at build time: a command code contains the size of its argument, so a wrong layout would be a
//! different command.

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;

const WRITE: u32 = 1;
const READ: u32 = 2;

const fn ioc(dir: u32, kind: u8, nr: u32, size: usize) -> u32 {
    assert!(size < 1 << 14);
    (dir << 30) | ((size as u32) << 16) | ((kind as u32) << 8) | nr
}

const fn io(kind: u8, nr: u32) -> u32 {
    ioc(0, kind, nr, 0)
}

const fn iow<T>(kind: u8, nr: u32) -> u32 {
    ioc(WRITE, kind, nr, size_of::<T>())
}

const fn ior<T>(kind: u8, nr: u32) -> u32 {
    ioc(READ, kind, nr, size_of::<T>())
}

const fn iowr<T>(kind: u8, nr: u32) -> u32 {
    ioc(READ | WRITE, kind, nr, size_of::<T>())
}

/// Declares plain structs of the interface, each with its size.
macro_rules! layouts {
    ($($(#[$meta:meta])* struct $name:ident [$size:literal] { $($(#[$fmeta:meta])* $field:ident: $ty:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }
        const _: () = assert!(size_of::<$name>() == $size);
    )*};
}

layouts! {
    /// The argument of [`BINDER_WRITE_READ`].
    struct WriteRead [48] {
        /// Bytes of commands.
        write_size: u64,
        /// Bytes of commands the driver has taken.
        write_consumed: u64,
        /// Address of the commands.
        write_buffer: u64,
        /// Room for returns.
        read_size: u64,
        /// Bytes of returns the driver has written.
        read_consumed: u64,
        /// Address of the room for returns.
        read_buffer: u64,
    }

    /// What a transaction or a reply is about and where its bytes are.
    struct TransactionData [64] {
        /// A handle on the way in (its first four bytes), a node's pointer on the way out.
        target: u64,
        /// The node's cookie, on the way out.
        cookie: u64,
        /// The call's code, for the two sides to agree on.
        code: u32,
        /// `TF_*`.
        flags: u32,
        /// The sending process, on the way out; 0 for a one-way call.
        sender_pid: i32,
        /// The sending user, on the way out.
        sender_euid: u32,
        /// Bytes of data.
        data_size: u64,
        /// Bytes of offsets.
        offsets_size: u64,
        /// Address of the data.
        buffer: u64,
        /// Address of the offsets.
        offsets: u64,
    }

    /// [`TransactionData`] with the address of the sender's security context.
    struct TransactionDataSecctx [72] {
        /// The transaction.
        transaction: TransactionData,
        /// Where the context stands, as a string.
        secctx: u64,
    }

    /// [`TransactionData`] with room for the buffers that objects point to.
    struct TransactionDataSg [72] {
        /// The transaction.
        transaction: TransactionData,
        /// Bytes that all buffer objects take together.
        buffers_size: u64,
    }

    /// Names a node to the process that owns it.
    struct PtrCookie [16] {
        /// The owner's name for the node.
        ptr: u64,
        /// The owner's second name.
        cookie: u64,
    }

    /// The argument of the unsupported `BC_ATTEMPT_ACQUIRE`.
    struct PriDesc [8] {
        /// A priority.
        priority: i32,
        /// A handle.
        desc: u32,
    }

    /// A binder or a handle inside a transaction's data.
    struct FlatObject [24] {
        /// `BINDER_TYPE_*`.
        kind: u32,
        /// `FLAT_BINDER_FLAG_*`.
        flags: u32,
        /// A node's pointer, or a handle in the first four bytes.
        value: u64,
        /// A node's cookie.
        cookie: u64,
    }

    /// A file descriptor inside a transaction's data.
    struct FdObject [24] {
        /// [`BINDER_TYPE_FD`].
        kind: u32,
        /// Unused.
        pad_flags: u32,
        /// The descriptor, in the first four bytes.
        fd: u64,
        /// For the two sides' own use.
        cookie: u64,
    }

    /// A pointer to bytes that travel with the transaction.
    struct BufferObject [40] {
        /// [`BINDER_TYPE_PTR`].
        kind: u32,
        /// [`BINDER_BUFFER_FLAG_HAS_PARENT`].
        flags: u32,
        /// Address of the bytes.
        buffer: u64,
        /// How many.
        length: u64,
        /// Index of the object that points to this one.
        parent: u64,
        /// Where in the parent that pointer stands.
        parent_offset: u64,
    }

    /// An array of file descriptors inside a buffer object.
    struct FdArrayObject [32] {
        /// [`BINDER_TYPE_FDA`].
        kind: u32,
        /// Unused.
        pad: u32,
        /// How many descriptors.
        num_fds: u64,
        /// Index of the buffer object that holds them.
        parent: u64,
        /// Where in the parent they start.
        parent_offset: u64,
    }

    /// The argument of [`BINDER_GET_NODE_DEBUG_INFO`].
    struct NodeDebugInfo [24] {
        /// The node after which to look; the node found.
        ptr: u64,
        /// Its cookie.
        cookie: u64,
        /// Whether the driver holds a strong reference for others.
        has_strong_ref: u32,
        /// Whether the driver holds a weak reference for others.
        has_weak_ref: u32,
    }

    /// The argument of [`BINDER_GET_NODE_INFO_FOR_REF`].
    struct NodeInfoForRef [24] {
        /// The handle asked about.
        handle: u32,
        /// Strong references to its node.
        strong_count: u32,
        /// Weak references to its node.
        weak_count: u32,
        /// Must be zero.
        reserved: [u32; 3],
    }

    /// The argument of [`BINDER_FREEZE`].
    struct FreezeInfo [12] {
        /// The process.
        pid: u32,
        /// Freeze or thaw.
        enable: u32,
        /// How long to wait for calls that are on their way.
        timeout_ms: u32,
    }

    /// The argument of [`BINDER_GET_FROZEN_INFO`].
    struct FrozenStatusInfo [12] {
        /// The process.
        pid: u32,
        /// What synchronous calls it was sent.
        sync_recv: u32,
        /// What one-way calls it was sent.
        async_recv: u32,
    }

    /// What [`BR_FROZEN_BINDER`] says.
    struct FrozenStateInfo [16] {
        /// The notification's cookie.
        cookie: u64,
        /// Frozen or thawed.
        is_frozen: u32,
        /// Zero.
        reserved: u32,
    }

    /// The argument of [`BINDER_GET_EXTENDED_ERROR`].
    struct ExtendedError [12] {
        /// The failed transaction's number.
        id: u32,
        /// The `BR_*` it was answered with.
        command: u32,
        /// A negative errno.
        param: i32,
    }
}

/// A handle and the cookie of a notification; the one struct of the interface that is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct HandleCookie {
    /// The handle.
    pub handle: u32,
    /// The notification's cookie.
    pub cookie: u64,
}
const _: () = assert!(size_of::<HandleCookie>() == 12);

macro_rules! numbers {
    ($($(#[$meta:meta])* $name:ident = $value:expr;)*) => {$(
        $(#[$meta])*
        #[allow(missing_docs, reason = "the interface's own names; what they do is said where they are sent")]
        pub const $name: u32 = $value;
    )*};
}

numbers! {
    BINDER_WRITE_READ = iowr::<WriteRead>(b'b', 1);
    BINDER_SET_IDLE_TIMEOUT = iow::<i64>(b'b', 3);
    BINDER_SET_MAX_THREADS = iow::<u32>(b'b', 5);
    BINDER_SET_IDLE_PRIORITY = iow::<i32>(b'b', 6);
    BINDER_SET_CONTEXT_MGR = iow::<i32>(b'b', 7);
    BINDER_THREAD_EXIT = iow::<i32>(b'b', 8);
    BINDER_VERSION = iowr::<i32>(b'b', 9);
    BINDER_GET_NODE_DEBUG_INFO = iowr::<NodeDebugInfo>(b'b', 11);
    BINDER_GET_NODE_INFO_FOR_REF = iowr::<NodeInfoForRef>(b'b', 12);
    BINDER_SET_CONTEXT_MGR_EXT = iow::<FlatObject>(b'b', 13);
    BINDER_FREEZE = iow::<FreezeInfo>(b'b', 14);
    BINDER_GET_FROZEN_INFO = iowr::<FrozenStatusInfo>(b'b', 15);
    BINDER_ENABLE_ONEWAY_SPAM_DETECTION = iow::<u32>(b'b', 16);
    BINDER_GET_EXTENDED_ERROR = iowr::<ExtendedError>(b'b', 17);

    BC_TRANSACTION = iow::<TransactionData>(b'c', 0);
    BC_REPLY = iow::<TransactionData>(b'c', 1);
    BC_ACQUIRE_RESULT = iow::<i32>(b'c', 2);
    BC_FREE_BUFFER = iow::<u64>(b'c', 3);
    BC_INCREFS = iow::<u32>(b'c', 4);
    BC_ACQUIRE = iow::<u32>(b'c', 5);
    BC_RELEASE = iow::<u32>(b'c', 6);
    BC_DECREFS = iow::<u32>(b'c', 7);
    BC_INCREFS_DONE = iow::<PtrCookie>(b'c', 8);
    BC_ACQUIRE_DONE = iow::<PtrCookie>(b'c', 9);
    BC_ATTEMPT_ACQUIRE = iow::<PriDesc>(b'c', 10);
    BC_REGISTER_LOOPER = io(b'c', 11);
    BC_ENTER_LOOPER = io(b'c', 12);
    BC_EXIT_LOOPER = io(b'c', 13);
    BC_REQUEST_DEATH_NOTIFICATION = iow::<HandleCookie>(b'c', 14);
    BC_CLEAR_DEATH_NOTIFICATION = iow::<HandleCookie>(b'c', 15);
    BC_DEAD_BINDER_DONE = iow::<u64>(b'c', 16);
    BC_TRANSACTION_SG = iow::<TransactionDataSg>(b'c', 17);
    BC_REPLY_SG = iow::<TransactionDataSg>(b'c', 18);
    BC_REQUEST_FREEZE_NOTIFICATION = iow::<HandleCookie>(b'c', 19);
    BC_CLEAR_FREEZE_NOTIFICATION = iow::<HandleCookie>(b'c', 20);
    BC_FREEZE_NOTIFICATION_DONE = iow::<u64>(b'c', 21);

    BR_ERROR = ior::<i32>(b'r', 0);
    BR_OK = io(b'r', 1);
    BR_TRANSACTION = ior::<TransactionData>(b'r', 2);
    BR_TRANSACTION_SEC_CTX = ior::<TransactionDataSecctx>(b'r', 2);
    BR_REPLY = ior::<TransactionData>(b'r', 3);
    BR_ACQUIRE_RESULT = ior::<i32>(b'r', 4);
    BR_DEAD_REPLY = io(b'r', 5);
    BR_TRANSACTION_COMPLETE = io(b'r', 6);
    BR_INCREFS = ior::<PtrCookie>(b'r', 7);
    BR_ACQUIRE = ior::<PtrCookie>(b'r', 8);
    BR_RELEASE = ior::<PtrCookie>(b'r', 9);
    BR_DECREFS = ior::<PtrCookie>(b'r', 10);
    BR_NOOP = io(b'r', 12);
    BR_SPAWN_LOOPER = io(b'r', 13);
    BR_FINISHED = io(b'r', 14);
    BR_DEAD_BINDER = ior::<u64>(b'r', 15);
    BR_CLEAR_DEATH_NOTIFICATION_DONE = ior::<u64>(b'r', 16);
    BR_FAILED_REPLY = io(b'r', 17);
    BR_FROZEN_REPLY = io(b'r', 18);
    BR_ONEWAY_SPAM_SUSPECT = io(b'r', 19);
    BR_TRANSACTION_PENDING_FROZEN = io(b'r', 20);
    BR_FROZEN_BINDER = ior::<FrozenStateInfo>(b'r', 21);
    BR_CLEAR_FREEZE_NOTIFICATION_DONE = ior::<u64>(b'r', 22);

    /// A one-way transaction.
    TF_ONE_WAY = 0x01;
    TF_ROOT_OBJECT = 0x04;
    TF_STATUS_CODE = 0x08;
    /// The caller takes file descriptors in the reply.
    TF_ACCEPT_FDS = 0x10;
    /// The receiver's buffer is overwritten with zeroes when it is freed.
    TF_CLEAR_BUF = 0x20;
    /// A one-way call that replaces an older one that still waits.
    TF_UPDATE_TXN = 0x40;

    BINDER_TYPE_BINDER = tag(b's', b'b');
    BINDER_TYPE_WEAK_BINDER = tag(b'w', b'b');
    BINDER_TYPE_HANDLE = tag(b's', b'h');
    BINDER_TYPE_WEAK_HANDLE = tag(b'w', b'h');
    BINDER_TYPE_FD = tag(b'f', b'd');
    BINDER_TYPE_FDA = u32::from_be_bytes([b'f', b'd', b'a', 0x85]);
    BINDER_TYPE_PTR = tag(b'p', b't');

    FLAT_BINDER_FLAG_PRIORITY_MASK = 0xff;
    /// The node takes file descriptors.
    FLAT_BINDER_FLAG_ACCEPTS_FDS = 0x100;
    /// The node wants to know the security context of its callers.
    FLAT_BINDER_FLAG_TXN_SECURITY_CTX = 0x1000;

    BINDER_BUFFER_FLAG_HAS_PARENT = 0x01;
}

/// The version of the protocol these numbers describe.
pub const BINDER_CURRENT_PROTOCOL_VERSION: i32 = 8;

const fn tag(first: u8, second: u8) -> u32 {
    u32::from_be_bytes([first, second, b'*', 0x85])
}

/// Places a handle (or a descriptor) in an eight-byte field as the interface's unions do.
pub fn in_union(value: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&value.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// Takes a handle (or a descriptor) out of such a field.
pub fn from_union(field: u64) -> u32 {
    let [a, b, c, d, ..] = field.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// How many bytes follow a command or a return, as its code says.
pub const fn payload_size(code: u32) -> usize {
    ((code >> 16) & 0x3fff) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_header() {
        assert_eq!(BINDER_WRITE_READ, 0xc030_6201);
        assert_eq!(BINDER_VERSION, 0xc004_6209);
        assert_eq!(BINDER_SET_CONTEXT_MGR_EXT, 0x4018_620d);
        assert_eq!(BC_TRANSACTION, 0x4040_6300);
        assert_eq!(BC_REQUEST_DEATH_NOTIFICATION, 0x400c_630e);
        assert_eq!(BR_TRANSACTION, 0x8040_7202);
        assert_eq!(BR_NOOP, 0x720c);
        assert_eq!(BINDER_TYPE_BINDER, 0x7362_2a85);
        assert_eq!(BINDER_TYPE_FDA, 0x6664_6185);
    }

    #[test]
    fn unions_keep_what_they_are_given() {
        assert_eq!(from_union(in_union(0xdead_beef)), 0xdead_beef);
        assert_eq!(payload_size(BC_TRANSACTION), 64);
        assert_eq!(payload_size(BR_NOOP), 0);
    }
}
