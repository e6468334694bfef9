// SPDX-License-Identifier: GPL-2.0

use std::marker::PhantomData;

use zerocopy::Immutable;
use zerocopy::IntoBytes;

use crate::Parcel;
use crate::uapi;
use crate::uapi::HandleCookie;
use crate::uapi::PriDesc;
use crate::uapi::PtrCookie;
use crate::uapi::TransactionData;
use crate::uapi::TransactionDataSg;

/// A transaction to be sent: where to, what, how.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The target; has no meaning in a reply.
    pub handle: u32,
    /// For the two sides to agree on.
    pub code: u32,
    /// `TF_*`.
    pub flags: u32,
    /// What it carries.
    pub parcel: &'a Parcel,
}

impl<'a> Call<'a> {
    /// A synchronous call.
    pub fn new(handle: u32, code: u32, parcel: &'a Parcel) -> Self {
        Self { handle, code, flags: 0, parcel }
    }

    /// A one-way transaction.
    pub fn one_way(handle: u32, code: u32, parcel: &'a Parcel) -> Self {
        Self { handle, code, flags: uapi::TF_ONE_WAY, parcel }
    }

    /// A reply.
    pub fn reply(parcel: &'a Parcel) -> Self {
        Self { handle: 0, code: 0, flags: 0, parcel }
    }

    /// The same with flags added.
    pub fn with_flags(self, flags: u32) -> Self {
        Self { flags: self.flags | flags, ..self }
    }

    /// What the driver is told. The addresses in it are the parcel's.
    pub fn data(&self) -> TransactionData {
        TransactionData {
            target: uapi::in_union(self.handle),
            code: self.code,
            flags: self.flags,
            data_size: self.parcel.data().len() as u64,
            offsets_size: size_of_val(self.parcel.offsets()) as u64,
            buffer: self.parcel.data().as_ptr() as u64,
            offsets: self.parcel.offsets().as_ptr() as u64,
            ..TransactionData::default()
        }
    }
}

/// A stream of commands for the driver, in the order in which they are added.
///
/// A transaction holds its parcel's address, so the stream borrows the parcels until it is sent.
#[derive(Clone, Debug, Default)]
pub struct Commands<'a> {
    bytes: Vec<u8>,
    parcels: PhantomData<&'a Parcel>,
}

impl<'a> Commands<'a> {
    /// An empty stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes as the driver reads them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Removes what the driver has taken.
    pub fn consume(&mut self, bytes: usize) {
        self.bytes.drain(..bytes);
    }

    /// Any bytes.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A command with any argument.
    pub fn command<T: IntoBytes + Immutable>(&mut self, code: u32, argument: &T) -> &mut Self {
        self.raw(&code.to_ne_bytes());
        self.raw(argument.as_bytes())
    }

    /// A command without an argument.
    pub fn bare(&mut self, code: u32) -> &mut Self {
        self.raw(&code.to_ne_bytes())
    }

    /// `BC_TRANSACTION`.
    pub fn transaction(&mut self, call: Call<'a>) -> &mut Self {
        self.command(uapi::BC_TRANSACTION, &call.data())
    }

    /// `BC_REPLY`.
    pub fn reply(&mut self, call: Call<'a>) -> &mut Self {
        self.command(uapi::BC_REPLY, &call.data())
    }

    /// `BC_TRANSACTION_SG`.
    pub fn transaction_sg(&mut self, call: Call<'a>, buffers_size: u64) -> &mut Self {
        self.command(uapi::BC_TRANSACTION_SG, &TransactionDataSg { transaction: call.data(), buffers_size })
    }

    /// `BC_REPLY_SG`.
    pub fn reply_sg(&mut self, call: Call<'a>, buffers_size: u64) -> &mut Self {
        self.command(uapi::BC_REPLY_SG, &TransactionDataSg { transaction: call.data(), buffers_size })
    }

    /// `BC_FREE_BUFFER`.
    pub fn free_buffer(&mut self, address: u64) -> &mut Self {
        self.command(uapi::BC_FREE_BUFFER, &address)
    }

    /// `BC_INCREFS`: one weak reference more.
    pub fn increfs(&mut self, handle: u32) -> &mut Self {
        self.command(uapi::BC_INCREFS, &handle)
    }

    /// `BC_ACQUIRE`: one strong reference more.
    pub fn acquire(&mut self, handle: u32) -> &mut Self {
        self.command(uapi::BC_ACQUIRE, &handle)
    }

    /// `BC_RELEASE`: one strong reference less.
    pub fn release(&mut self, handle: u32) -> &mut Self {
        self.command(uapi::BC_RELEASE, &handle)
    }

    /// `BC_DECREFS`: one weak reference less.
    pub fn decrefs(&mut self, handle: u32) -> &mut Self {
        self.command(uapi::BC_DECREFS, &handle)
    }

    /// `BC_INCREFS_DONE`: the owner has taken its weak reference.
    pub fn increfs_done(&mut self, node: PtrCookie) -> &mut Self {
        self.command(uapi::BC_INCREFS_DONE, &node)
    }

    /// `BC_ACQUIRE_DONE`: the owner has taken its strong reference.
    pub fn acquire_done(&mut self, node: PtrCookie) -> &mut Self {
        self.command(uapi::BC_ACQUIRE_DONE, &node)
    }

    /// `BC_ATTEMPT_ACQUIRE`, which no driver supports.
    pub fn attempt_acquire(&mut self, priority: i32, desc: u32) -> &mut Self {
        self.command(uapi::BC_ATTEMPT_ACQUIRE, &PriDesc { priority, desc })
    }

    /// `BC_ACQUIRE_RESULT`, which no driver supports.
    pub fn acquire_result(&mut self, result: i32) -> &mut Self {
        self.command(uapi::BC_ACQUIRE_RESULT, &result)
    }

    /// `BC_REGISTER_LOOPER`: a thread the driver asked for.
    pub fn register_looper(&mut self) -> &mut Self {
        self.bare(uapi::BC_REGISTER_LOOPER)
    }

    /// `BC_ENTER_LOOPER`: a thread that came by itself.
    pub fn enter_looper(&mut self) -> &mut Self {
        self.bare(uapi::BC_ENTER_LOOPER)
    }

    /// `BC_EXIT_LOOPER`.
    pub fn exit_looper(&mut self) -> &mut Self {
        self.bare(uapi::BC_EXIT_LOOPER)
    }

    /// `BC_REQUEST_DEATH_NOTIFICATION`.
    pub fn request_death(&mut self, handle: u32, cookie: u64) -> &mut Self {
        self.command(uapi::BC_REQUEST_DEATH_NOTIFICATION, &HandleCookie { handle, cookie })
    }

    /// `BC_CLEAR_DEATH_NOTIFICATION`.
    pub fn clear_death(&mut self, handle: u32, cookie: u64) -> &mut Self {
        self.command(uapi::BC_CLEAR_DEATH_NOTIFICATION, &HandleCookie { handle, cookie })
    }

    /// `BC_DEAD_BINDER_DONE`.
    pub fn dead_binder_done(&mut self, cookie: u64) -> &mut Self {
        self.command(uapi::BC_DEAD_BINDER_DONE, &cookie)
    }

    /// `BC_REQUEST_FREEZE_NOTIFICATION`.
    pub fn request_freeze(&mut self, handle: u32, cookie: u64) -> &mut Self {
        self.command(uapi::BC_REQUEST_FREEZE_NOTIFICATION, &HandleCookie { handle, cookie })
    }

    /// `BC_CLEAR_FREEZE_NOTIFICATION`.
    pub fn clear_freeze(&mut self, handle: u32, cookie: u64) -> &mut Self {
        self.command(uapi::BC_CLEAR_FREEZE_NOTIFICATION, &HandleCookie { handle, cookie })
    }

    /// `BC_FREEZE_NOTIFICATION_DONE`.
    pub fn freeze_done(&mut self, cookie: u64) -> &mut Self {
        self.command(uapi::BC_FREEZE_NOTIFICATION_DONE, &cookie)
    }
}
