// SPDX-License-Identifier: GPL-2.0

//! File descriptors of the current process.

use kernel::{
    bindings,
    fs::{
        File,
        LocalFile, //
    },
    prelude::*,
    sync::aref::ARef, //
};

/// The file behind a descriptor.
///
/// To be called in an ioctl.
///
/// # Errors
///
/// `EBADF` if there is none.
pub(crate) fn get(fd: u32) -> Result<ARef<File>> {
    let file = LocalFile::fget(fd)?;
    // SAFETY: An ioctl looks up its own file without `fdget_pos`, and while this thread is in it, it is in no other
    // system call that does.
    Ok(unsafe { LocalFile::assume_no_fdget_pos(file) })
}

/// Closes a descriptor; does nothing if there is none.
///
/// If this was the last descriptor of a file, even of the binder file whose ioctl this is, then its release is put off
/// by the kernel until the current thread returns to user space.
pub(crate) fn close(fd: u32) {
    // SAFETY: Closing any number is allowed.
    unsafe { bindings::close_fd(fd) };
}
