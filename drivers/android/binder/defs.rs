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
    BR_CLEAR_DEATH_NOTIFICATION_DONE, BR_FAILED_REPLY, BR_ONEWAY_SPAM_SUSPECT,
);

names_of!(binder_driver_command_protocol_:
    BC_TRANSACTION, BC_REPLY, BC_ACQUIRE_RESULT, BC_FREE_BUFFER, BC_INCREFS, BC_ACQUIRE, BC_RELEASE, BC_DECREFS,
    BC_INCREFS_DONE, BC_ACQUIRE_DONE, BC_ATTEMPT_ACQUIRE, BC_REGISTER_LOOPER, BC_ENTER_LOOPER, BC_EXIT_LOOPER,
);

names_of!(transaction_flags_: TF_ONE_WAY, TF_CLEAR_BUF);
names_of!(flat_binder_object_flags_: FLAT_BINDER_FLAG_ACCEPTS_FDS, FLAT_BINDER_FLAG_TXN_SECURITY_CTX);

pub(crate) use uapi::{
    BINDER_CURRENT_PROTOCOL_VERSION,
    BINDER_ENABLE_ONEWAY_SPAM_DETECTION,
    BINDER_SET_CONTEXT_MGR,
    BINDER_SET_CONTEXT_MGR_EXT,
    BINDER_SET_MAX_THREADS,
    BINDER_THREAD_EXIT,
    BINDER_TYPE_BINDER,
    BINDER_TYPE_HANDLE,
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
    assert!(offset_of!(TransactionData, cookie) == offset_of!(uapi::binder_transaction_data, cookie));
    assert!(offset_of!(TransactionData, flags) == offset_of!(uapi::binder_transaction_data, flags));
    assert!(offset_of!(TransactionData, sender_pid) == offset_of!(uapi::binder_transaction_data, sender_pid));
    assert!(offset_of!(TransactionData, data_size) == offset_of!(uapi::binder_transaction_data, data_size));
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

/// A `BR_TRANSACTION` or `BR_REPLY` as it stands in the read buffer: the code with its payload right behind it.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub(crate) struct TransactionReturn {
    /// `BR_TRANSACTION` or `BR_REPLY`.
    pub(crate) code: u32,
    /// What comes with it.
    pub(crate) data: TransactionData,
}

// SAFETY: A packed struct of two types without padding has no padding.
unsafe impl AsBytes for TransactionReturn {}

interface_struct! {
    /// A node's identity in its owner: argument of `BC_INCREFS_DONE`, `BC_ACQUIRE_DONE`, `BR_INCREFS`, ...
    PtrCookie = binder_ptr_cookie {
        /// Chosen by the owner, unique among its nodes.
        ptr: u64 = ptr,
        /// Chosen by the owner.
        cookie: u64 = cookie,
    }
}

/// A `BR_INCREFS`, `BR_ACQUIRE`, `BR_RELEASE` or `BR_DECREFS` as it stands in the read buffer.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub(crate) struct NodeReturn {
    /// The return code.
    pub(crate) code: u32,
    /// The node.
    pub(crate) node: PtrCookie,
}

// SAFETY: A packed struct of two types without padding has no padding.
unsafe impl AsBytes for NodeReturn {}

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

interface_struct! {
    /// Argument of `BINDER_VERSION`.
    Version = binder_version {
        /// `BINDER_CURRENT_PROTOCOL_VERSION`.
        protocol_version: i32 = protocol_version,
    }
}
