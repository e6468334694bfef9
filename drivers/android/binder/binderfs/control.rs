// SPDX-License-Identifier: GPL-2.0

//! `binder-control`: asks for devices.

use core::mem::offset_of;
use kernel::{
    bindings,
    ffi::{
        c_long,
        c_uint,
        c_ulong, //
    },
    ioctl::_IOWR,
    prelude::*,
    transmute::{
        AsBytes,
        FromBytes, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

use super::tree::Super;
use crate::device::errno;

/// Its name in the root of each mount.
pub(super) const CONTROL_NAME: &CStr = c"binder-control";

/// `struct binderfs_device`: the name that is asked for, and the number that is given.
#[repr(C)]
struct DeviceRequest {
    name: [u8; 256],
    major: u32,
    minor: u32,
}

// SAFETY: Made of integers, for which every pattern of bits is valid.
unsafe impl FromBytes for DeviceRequest {}
// SAFETY: There is no padding, as asserted below.
unsafe impl AsBytes for DeviceRequest {}

/// `BINDER_CTL_ADD`. Needs no right to write: the mode of the inode says which users may ask.
// CAST: The character is the ioctl's type.
const ADD: u32 = _IOWR::<DeviceRequest>('b' as u32, 1);

// The file that sees the kernel's own definitions, `binderfs_context.c`, asserts the same.
const _: () = {
    assert!(size_of::<DeviceRequest>() == 264);
    assert!(offset_of!(DeviceRequest, major) == 256);
    assert!(offset_of!(DeviceRequest, minor) == 260);
    assert!(ADD == 0xc108_6201);
};

/// The operations of `binder-control`.
pub(super) fn operations(module: &'static ThisModule) -> bindings::file_operations {
    bindings::file_operations {
        owner: module.as_ptr(),
        unlocked_ioctl: Some(ioctl),
        compat_ioctl: bindings::compat_ptr_ioctl,
        ..pin_init::zeroed()
    }
}

/// # Safety
///
/// To be called by the kernel, as `file_operations.unlocked_ioctl` of `binder-control`.
unsafe extern "C" fn ioctl(
    file: *mut bindings::file,
    command: c_uint,
    argument: c_ulong,
) -> c_long {
    // SAFETY: A file of ours, open; it holds the super block.
    let sb = unsafe { Super::from_raw((*(*file).f_inode).i_sb) };
    let result = match command {
        ADD => add(sb, argument),
        _ => Err(EINVAL),
    };
    // CAST: An errno fits.
    errno(result) as c_long
}

/// # Errors
///
/// `EFAULT`, and as [`Super::add_device`].
fn add(sb: &Super, argument: usize) -> Result {
    let user = UserSlice::new(UserPtr::from_addr(argument), size_of::<DeviceRequest>());
    let (mut reader, mut writer) = user.reader_writer();
    let mut request = KBox::new(reader.read::<DeviceRequest>()?, GFP_KERNEL)?;
    if let Some(last) = request.name.last_mut() {
        *last = 0;
    }
    let text = request.name;
    let name = CStr::from_bytes_until_nul(&text).map_err(|_| EINVAL)?;
    request.major = sb.major();
    sb.add_device(name, |minor| {
        request.minor = minor;
        writer.write(&*request)
    })
}
