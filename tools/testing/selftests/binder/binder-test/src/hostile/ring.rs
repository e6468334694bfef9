// SPDX-License-Identifier: GPL-2.0

//! An `io_uring` that holds a registered file.

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::libc;

use super::adopt;

const IORING_REGISTER_FILES: libc::c_uint = 2;

/// A ring with one file registered, which it holds until it is closed. Nothing is ever asked of the ring.
pub fn ring_holding(file: impl AsFd) -> nix::Result<OwnedFd> {
    // `struct io_uring_params`.
    let mut parameters = [0u32; 30];
    // SAFETY: the kernel writes to the parameters alone.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    let ring = adopt(Errno::result(ring)? as i32);
    let files = [file.as_fd().as_raw_fd()];
    // SAFETY: the kernel reads one number.
    let done = unsafe {
        libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), IORING_REGISTER_FILES, files.as_ptr(), 1)
    };
    Errno::result(done)?;
    Ok(ring)
}
