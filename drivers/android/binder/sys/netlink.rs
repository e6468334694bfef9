// SPDX-License-Identifier: GPL-2.0

//! Reports of failed transactions to listeners.
//!
//! The generic netlink family `binder` has one multicast group, `report`. Any process may listen in the initial network
//! namespace. The driver waits for no listener: what a listener has no room for, the kernel drops, and tells it so. A
//! report is a list of attributes; what is not known is left out. Its form is that of `linux/android/binder_netlink.h`.
//!
//! There can be only one family of a name. Where another driver has it, this one goes on without.

use kernel::{
    error::to_result,
    ffi::{
        c_int,
        c_void, //
    },
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

use crate::sums::extend;

/// `struct genl_family`, of which the kernel's bindings know nothing.
#[repr(C)]
struct Family([u8; 0]);

extern "C" {
    static mut binder_rs_family: Family;
    fn genl_register_family(family: *mut Family) -> c_int;
    fn genl_unregister_family(family: *const Family) -> c_int;
    fn binder_rs_reports_are_wanted() -> bool;
    fn binder_rs_report(attributes: *const c_void, size: usize);
}

/// Whether there is a [`Registration`].
static REGISTERED: Atomic<bool> = Atomic::new(false);

/// Whether failures are reported.
pub(crate) fn is_registered() -> bool {
    REGISTERED.load(Relaxed)
}

/// The family, as long as it is registered.
pub(crate) struct Registration(());

impl Registration {
    /// Registers the family.
    ///
    /// # Errors
    ///
    /// `EEXIST` if there is one of that name, `ENOMEM`.
    ///
    /// # Safety
    ///
    /// Only one `Registration` may exist at a time.
    pub(crate) unsafe fn new() -> Result<Self> {
        // SAFETY: By the caller's promise it is not registered. It is static, and the module is its owner.
        to_result(unsafe { genl_register_family(&raw mut binder_rs_family) })?;
        REGISTERED.store(true, Relaxed);
        Ok(Self(()))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        REGISTERED.store(false, Relaxed);
        // SAFETY: `new` registered it. It cannot fail then.
        unsafe { genl_unregister_family(&raw const binder_rs_family) };
    }
}

/// What there is to tell of a transaction.
pub(crate) struct Report<'a> {
    /// The return that the sender reads, or for a failed reply the one that its receiver reads.
    pub(crate) error: u32,
    /// The device's name.
    pub(crate) context: &'a CStr,
    /// Process and thread of the sender.
    pub(crate) from: (i32, i32),
    /// Process and thread of the receiver; 0 where that is not known.
    pub(crate) to: (i32, i32),
    pub(crate) is_reply: bool,
    pub(crate) flags: u32,
    pub(crate) code: u32,
    pub(crate) data_size: u64,
}

/// The numbers of the attributes; `netlink.c` compares the first and the last with the kernel's.
#[derive(Clone, Copy)]
enum Attribute {
    Error = 1,
    Context,
    FromPid,
    FromTid,
    ToPid,
    ToTid,
    IsReply,
    Flags,
    Code,
    DataSize,
}

/// Attributes one behind the other, as netlink has them: length and number, then the value, up to a multiple of four.
struct Attributes(KVec<u8>);

impl Attributes {
    const HEADER: usize = 2 * size_of::<u16>();

    fn put(&mut self, attribute: Attribute, value: &[u8]) -> Result {
        const PADDING: [u8; 3] = [0; 3];

        let length = Self::HEADER
            .checked_add(value.len())
            .and_then(|length| u16::try_from(length).ok())
            .ok_or(EINVAL)?;
        let padding = PADDING.get(..value.len().wrapping_neg() % 4);
        extend(&mut self.0, &length.to_ne_bytes(), GFP_KERNEL)?;
        // CAST: A small number.
        extend(&mut self.0, &(attribute as u16).to_ne_bytes(), GFP_KERNEL)?;
        extend(&mut self.0, value, GFP_KERNEL)?;
        extend(&mut self.0, padding.unwrap_or_default(), GFP_KERNEL)
    }

    fn put_u32(&mut self, attribute: Attribute, value: u32) -> Result {
        self.put(attribute, &value.to_ne_bytes())
    }

    /// A pid or tid, if there is one.
    fn put_id(&mut self, attribute: Attribute, id: i32) -> Result {
        if id == 0 {
            return Ok(());
        }
        self.put(attribute, &id.to_ne_bytes())
    }

    /// # Errors
    ///
    /// `ENOMEM`, `EINVAL` for a name that is too long.
    fn of(report: &Report<'_>) -> Result<Self> {
        // What all but the name take.
        const REST: usize = 128;

        let name = report.context.to_bytes_with_nul();
        let mut all = Self(KVec::with_capacity(
            name.len().saturating_add(REST),
            GFP_KERNEL,
        )?);
        all.put_u32(Attribute::Error, report.error)?;
        all.put(Attribute::Context, name)?;
        all.put_id(Attribute::FromPid, report.from.0)?;
        all.put_id(Attribute::FromTid, report.from.1)?;
        all.put_id(Attribute::ToPid, report.to.0)?;
        all.put_id(Attribute::ToTid, report.to.1)?;
        if report.is_reply {
            all.put(Attribute::IsReply, &[])?;
        }
        all.put_u32(Attribute::Flags, report.flags)?;
        all.put_u32(Attribute::Code, report.code)?;
        // CAST: The attribute has 32 bits; of a size that makes no sense, the lower half is told.
        all.put_u32(Attribute::DataSize, report.data_size as u32)?;
        Ok(all)
    }
}

/// Multicasts a report, if there is a listener and memory for it.
///
/// # Locking
///
/// Sleeps.
#[cold]
pub(crate) fn report(report: &Report<'_>) {
    // SAFETY: The family is registered, and stays so while files are open, which is where transactions come from.
    if !is_registered() || !unsafe { binder_rs_reports_are_wanted() } {
        return;
    }
    if let Ok(attributes) = Attributes::of(report) {
        // SAFETY: The family is registered, and stays so while files are open. The attributes are as long as they say.
        unsafe { binder_rs_report(attributes.0.as_ptr().cast(), attributes.0.len()) };
    }
}
