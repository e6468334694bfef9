// SPDX-License-Identifier: GPL-2.0

//! The user-space interface: command and return codes, and the structs that cross the boundary.
//!
//! The contract is `include/uapi/linux/android/binder.h`. The structs are spelt out here, without the header's unions,
//! so that each field can be read without `unsafe`; that they lie in memory as the header's do is asserted at compile
//! time against the bindings that the kernel generates from the header.

use core::mem::{
    offset_of,
    size_of, //
};
use kernel::{
    transmute::{
        AsBytes,
        FromBytes, //
    },
    uapi, //
};

macro_rules! names_of {
    ($prefix:ident: $($name:ident),+ $(,)?) => { kernel::macros::paste! {
        $( #[allow(missing_docs)] pub(crate) const $name: u32 = uapi::[<$prefix $name>]; )+
    } };
}

names_of!(binder_driver_return_protocol_:
    BR_ERROR, BR_OK, BR_TRANSACTION, BR_TRANSACTION_SEC_CTX, BR_REPLY, BR_DEAD_REPLY, BR_TRANSACTION_COMPLETE,
    BR_INCREFS, BR_ACQUIRE, BR_RELEASE, BR_DECREFS, BR_NOOP, BR_SPAWN_LOOPER, BR_DEAD_BINDER,
    BR_CLEAR_DEATH_NOTIFICATION_DONE, BR_FAILED_REPLY, BR_FROZEN_REPLY, BR_ONEWAY_SPAM_SUSPECT,
    BR_TRANSACTION_PENDING_FROZEN, BR_FROZEN_BINDER, BR_CLEAR_FREEZE_NOTIFICATION_DONE,
);

names_of!(binder_driver_command_protocol_:
    BC_TRANSACTION, BC_REPLY, BC_FREE_BUFFER, BC_INCREFS, BC_ACQUIRE, BC_RELEASE, BC_DECREFS, BC_INCREFS_DONE,
    BC_ACQUIRE_DONE, BC_REGISTER_LOOPER, BC_ENTER_LOOPER, BC_EXIT_LOOPER, BC_REQUEST_DEATH_NOTIFICATION,
    BC_CLEAR_DEATH_NOTIFICATION, BC_DEAD_BINDER_DONE, BC_TRANSACTION_SG, BC_REPLY_SG, BC_REQUEST_FREEZE_NOTIFICATION,
    BC_CLEAR_FREEZE_NOTIFICATION, BC_FREEZE_NOTIFICATION_DONE,
);

names_of!(transaction_flags_: TF_ONE_WAY, TF_ACCEPT_FDS, TF_CLEAR_BUF, TF_UPDATE_TXN);
names_of!(flat_binder_object_flags_:
    FLAT_BINDER_FLAG_PRIORITY_MASK, FLAT_BINDER_FLAG_ACCEPTS_FDS, FLAT_BINDER_FLAG_TXN_SECURITY_CTX,
);

pub(crate) use uapi::{
    BINDER_BUFFER_FLAG_HAS_PARENT,
    BINDER_CURRENT_PROTOCOL_VERSION,
    BINDER_ENABLE_ONEWAY_SPAM_DETECTION,
    BINDER_FREEZE,
    BINDER_GET_EXTENDED_ERROR,
    BINDER_GET_FROZEN_INFO,
    BINDER_GET_NODE_DEBUG_INFO,
    BINDER_GET_NODE_INFO_FOR_REF,
    BINDER_SET_CONTEXT_MGR,
    BINDER_SET_CONTEXT_MGR_EXT,
    BINDER_SET_MAX_THREADS,
    BINDER_THREAD_EXIT,
    BINDER_TYPE_BINDER,
    BINDER_TYPE_FD,
    BINDER_TYPE_FDA,
    BINDER_TYPE_HANDLE,
    BINDER_TYPE_PTR,
    BINDER_TYPE_WEAK_BINDER,
    BINDER_TYPE_WEAK_HANDLE,
    BINDER_VERSION,
    BINDER_WRITE_READ, //
};

/// Declares a struct of the interface whose every bit pattern is a value and which has no padding, and checks it
/// against the kernel's generated binding of the same name.
macro_rules! interface_struct {
    (
        $(#[$meta:meta])*
        $name:ident = $theirs:ident {
            $( $(#[$fmeta:meta])* $field:ident : $ty:ty = $their_field:ident ),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Default)]
        pub(crate) struct $name { $( $(#[$fmeta])* pub(crate) $field: $ty ),+ }

        const _: () = {
            assert!(size_of::<$name>() == size_of::<uapi::$theirs>());
            assert!(size_of::<$name>() == 0 $( + size_of::<$ty>() )+, "padding");
            $( assert!(offset_of!($name, $field) == offset_of!(uapi::$theirs, $their_field)); )+
        };

        // SAFETY: All fields are integers, so every bit pattern is a value.
        unsafe impl FromBytes for $name {}
        // SAFETY: All fields are integers and the assertion above shows that there is no padding between them.
        unsafe impl AsBytes for $name {}
    };
}

interface_struct! {
    /// Argument of `BINDER_WRITE_READ`: where commands are read from and returns are written to.
    WriteRead = binder_write_read {
        /// Bytes of commands.
        write_size: u64 = write_size,
        /// Bytes of commands carried out so far.
        write_consumed: u64 = write_consumed,
        /// User address of the commands.
        write_buffer: u64 = write_buffer,
        /// Bytes there is room for.
        read_size: u64 = read_size,
        /// Bytes filled so far.
        read_consumed: u64 = read_consumed,
        /// User address of that room.
        read_buffer: u64 = read_buffer,
    }
}

/// What `BC_TRANSACTION`, `BC_REPLY`, `BR_TRANSACTION` and `BR_REPLY` carry.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct TransactionData {
    /// On the way in the handle of the target (its lower 32 bits by address), on the way out the node's `ptr`.
    pub(crate) target: u64,
    /// The node's cookie, on the way out.
    pub(crate) cookie: u64,
    /// What the two processes agreed on; never looked at.
    pub(crate) code: u32,
    /// `TF_*`.
    pub(crate) flags: u32,
    /// Thread group of the sender in the receiver's pid namespace; 0 for one-way calls and replies.
    pub(crate) sender_pid: i32,
    /// Effective user of the sender in the receiver's user namespace.
    pub(crate) sender_euid: u32,
    /// Bytes of data.
    pub(crate) data_size: u64,
    /// Bytes of offsets.
    pub(crate) offsets_size: u64,
    /// User address of the data.
    pub(crate) buffer: u64,
    /// User address of the offsets.
    pub(crate) offsets: u64,
}

const _: () = {
    assert!(size_of::<TransactionData>() == size_of::<uapi::binder_transaction_data>());
    assert!(size_of::<TransactionData>() == 64, "padding");
    assert!(
        offset_of!(TransactionData, cookie) == offset_of!(uapi::binder_transaction_data, cookie)
    );
    assert!(offset_of!(TransactionData, flags) == offset_of!(uapi::binder_transaction_data, flags));
    assert!(
        offset_of!(TransactionData, sender_pid)
            == offset_of!(uapi::binder_transaction_data, sender_pid)
    );
    assert!(
        offset_of!(TransactionData, data_size)
            == offset_of!(uapi::binder_transaction_data, data_size)
    );
    assert!(offset_of!(TransactionData, buffer) == offset_of!(uapi::binder_transaction_data, data));
};

// SAFETY: All fields are integers, so every bit pattern is a value.
unsafe impl FromBytes for TransactionData {}
// SAFETY: All fields are integers; four of 4 bytes between six of 8 bytes leave no padding (asserted above).
unsafe impl AsBytes for TransactionData {}

impl TransactionData {
    /// The handle that a sender named: the first four bytes of the header's union.
    pub(crate) fn handle(&self) -> u32 {
        let [a, b, c, d, ..] = self.target.to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }
}

/// Declares a return code with its payload right behind it, as it stands in the read buffer.
macro_rules! return_struct {
    ($(#[$meta:meta])* $name:ident { $( $(#[$fmeta:meta])* $field:ident : $ty:ty ),+ $(,)? }) => {
        $(#[$meta])*
        #[repr(C, packed)]
        #[derive(Clone, Copy)]
        pub(crate) struct $name {
            /// The return code.
            pub(crate) code: u32,
            $( $(#[$fmeta])* pub(crate) $field: $ty ),+
        }

        // SAFETY: A packed struct of types without padding has no padding.
        unsafe impl AsBytes for $name {}
    };
}

return_struct! {
    /// `BR_TRANSACTION` or `BR_REPLY`.
    TransactionReturn {
        /// What comes with it.
        data: TransactionData,
    }
}

return_struct! {
    /// `BR_TRANSACTION_SEC_CTX`.
    SecureTransactionReturn {
        /// What comes with it.
        data: TransactionData,
        /// User address of the sender's security context, a string.
        security_context: u64,
    }
}

return_struct! {
    /// `BR_DEAD_BINDER` and its like.
    CookieReturn {
        /// As chosen by the reader.
        cookie: u64,
    }
}

return_struct! {
    /// `BR_FROZEN_BINDER`.
    FrozenReturn {
        /// As chosen by the reader.
        cookie: u64,
        /// Frozen, or not any more.
        is_frozen: u32,
        /// 0.
        reserved: u32,
    }
}

/// What requests and clears a notification. Not aligned in the command buffer.
#[repr(C, packed)]
#[derive(Clone, Copy)]
// It comes from user space, and the driver makes none.
#[allow(dead_code)]
pub(crate) struct HandleCookie {
    /// Whose node.
    pub(crate) handle: u32,
    /// What the notification will say.
    pub(crate) cookie: u64,
}

const _: () = assert!(size_of::<HandleCookie>() == size_of::<uapi::binder_handle_cookie>());

// SAFETY: All fields are integers, so every bit pattern is a value.
unsafe impl FromBytes for HandleCookie {}

interface_struct! {
    /// A node's identity in its owner: argument of `BC_INCREFS_DONE`, `BC_ACQUIRE_DONE`, `BR_INCREFS`, ...
    PtrCookie = binder_ptr_cookie {
        /// Chosen by the owner, unique among its nodes.
        ptr: u64 = ptr,
        /// Chosen by the owner.
        cookie: u64 = cookie,
    }
}

return_struct! {
    /// `BR_INCREFS`, `BR_ACQUIRE`, `BR_RELEASE` or `BR_DECREFS`.
    NodeReturn {
        /// The node.
        node: PtrCookie,
    }
}

/// A binder or handle on its way: the header's `flat_binder_object`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct FlatObject {
    /// `BINDER_TYPE_*`.
    pub(crate) kind: u32,
    /// `FLAT_BINDER_FLAG_*`.
    pub(crate) flags: u32,
    /// The owner's `ptr`, or a handle in the first four bytes.
    pub(crate) binder: u64,
    /// The owner's cookie.
    pub(crate) cookie: u64,
}

const _: () = {
    assert!(size_of::<FlatObject>() == size_of::<uapi::flat_binder_object>());
    assert!(size_of::<FlatObject>() == 24, "padding");
    assert!(offset_of!(FlatObject, flags) == offset_of!(uapi::flat_binder_object, flags));
    assert!(offset_of!(FlatObject, cookie) == offset_of!(uapi::flat_binder_object, cookie));
};

// SAFETY: All fields are integers, so every bit pattern is a value.
unsafe impl FromBytes for FlatObject {}
// SAFETY: All fields are integers without padding between them (asserted above).
unsafe impl AsBytes for FlatObject {}

impl FlatObject {
    /// The handle that the object names.
    pub(crate) fn handle(&self) -> u32 {
        let [a, b, c, d, ..] = self.binder.to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    /// An object of `kind` that names `handle`.
    pub(crate) fn with_handle(kind: u32, flags: u32, handle: u32) -> Self {
        let [a, b, c, d] = handle.to_ne_bytes();
        Self {
            kind,
            flags,
            binder: u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]),
            cookie: 0,
        }
    }
}

/// A buffer that an object in a transaction points to: the header's `binder_buffer_object`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct BufferObject {
    /// `BINDER_TYPE_PTR`.
    pub(crate) kind: u32,
    /// `BINDER_BUFFER_FLAG_*`.
    pub(crate) flags: u32,
    /// User address of the buffer.
    pub(crate) buffer: u64,
    /// Its bytes.
    pub(crate) length: u64,
    /// Number of the object whose buffer has a pointer to this one.
    pub(crate) parent: u64,
    /// Where it has it.
    pub(crate) parent_offset: u64,
}

/// File descriptors inside a buffer: the header's `binder_fd_array_object`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct FdArrayObject {
    /// `BINDER_TYPE_FDA`.
    pub(crate) kind: u32,
    /// Ignored.
    pub(crate) pad: u32,
    /// How many.
    pub(crate) num_fds: u64,
    /// Number of the object in whose buffer they are.
    pub(crate) parent: u64,
    /// Where in it.
    pub(crate) parent_offset: u64,
}

const _: () = {
    assert!(size_of::<BufferObject>() == size_of::<uapi::binder_buffer_object>());
    assert!(size_of::<BufferObject>() == 40, "padding");
    assert!(offset_of!(BufferObject, buffer) == offset_of!(uapi::binder_buffer_object, buffer));
    assert!(
        offset_of!(BufferObject, parent_offset)
            == offset_of!(uapi::binder_buffer_object, parent_offset)
    );
    assert!(size_of::<FdArrayObject>() == size_of::<uapi::binder_fd_array_object>());
    assert!(size_of::<FdArrayObject>() == 32, "padding");
    assert!(
        offset_of!(FdArrayObject, num_fds) == offset_of!(uapi::binder_fd_array_object, num_fds)
    );
    assert!(
        offset_of!(FdArrayObject, parent_offset)
            == offset_of!(uapi::binder_fd_array_object, parent_offset)
    );
    // A file descriptor is an object of the size and with the number at the place of a handle.
    assert!(size_of::<FlatObject>() == size_of::<uapi::binder_fd_object>());
    assert!(offset_of!(FlatObject, binder) == offset_of!(uapi::binder_fd_object, __bindgen_anon_1));
};

// SAFETY: All fields are integers, so every bit pattern is a value.
unsafe impl FromBytes for BufferObject {}
// SAFETY: All fields are integers without padding between them (asserted above).
unsafe impl AsBytes for BufferObject {}
// SAFETY: All fields are integers, so every bit pattern is a value.
unsafe impl FromBytes for FdArrayObject {}
// SAFETY: All fields are integers without padding between them (asserted above).
unsafe impl AsBytes for FdArrayObject {}

interface_struct! {
    /// Argument of `BINDER_GET_NODE_DEBUG_INFO`.
    NodeDebugInfo = binder_node_debug_info {
        /// In: look for the next node beyond this one. Out: that node, or 0.
        ptr: u64 = ptr,
        /// Out.
        cookie: u64 = cookie,
        /// Out: the owner was told to hold it strongly.
        has_strong_ref: u32 = has_strong_ref,
        /// Out: the owner was told to hold it weakly.
        has_weak_ref: u32 = has_weak_ref,
    }
}

interface_struct! {
    /// Argument of `BINDER_GET_NODE_INFO_FOR_REF`.
    NodeInfoForRef = binder_node_info_for_ref {
        /// In.
        handle: u32 = handle,
        /// Out: strong references to the node, in all processes.
        strong_count: u32 = strong_count,
        /// Out: weak ones.
        weak_count: u32 = weak_count,
        /// 0.
        reserved1: u32 = reserved1,
        /// 0.
        reserved2: u32 = reserved2,
        /// 0.
        reserved3: u32 = reserved3,
    }
}

interface_struct! {
    /// Argument of `BINDER_FREEZE`.
    FreezeInfo = binder_freeze_info {
        /// The process, by its pid in the caller's namespace.
        pid: u32 = pid,
        /// Freeze, or thaw.
        enable: u32 = enable,
        /// How long calls may take to end.
        timeout_ms: u32 = timeout_ms,
    }
}

interface_struct! {
    /// Argument of `BINDER_GET_FROZEN_INFO`.
    FrozenStatusInfo = binder_frozen_status_info {
        /// The process, by its pid in the caller's namespace.
        pid: u32 = pid,
        /// Bit 0: synchronous calls came since it was frozen. Bit 1: some have not ended.
        sync_recv: u32 = sync_recv,
        /// One-way calls came since it was frozen.
        async_recv: u32 = async_recv,
    }
}

interface_struct! {
    /// Argument of `BINDER_GET_EXTENDED_ERROR`: what the thread's last transaction came to.
    ExtendedError = binder_extended_error {
        /// The transaction, as logs call it.
        id: u32 = id,
        /// A return code.
        command: u32 = command,
        /// An errno, negative, or 0.
        param: i32 = param,
    }
}

interface_struct! {
    /// Argument of `BINDER_VERSION`.
    Version = binder_version {
        /// `BINDER_CURRENT_PROTOCOL_VERSION`.
        protocol_version: i32 = protocol_version,
    }
}

impl ExtendedError {
    /// No transaction has failed.
    pub(crate) const NONE: Self = Self {
        id: 0,
        command: BR_OK,
        param: 0,
    };
}
