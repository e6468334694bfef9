// SPDX-License-Identifier: GPL-2.0

//! System calls that no library wraps safely.

use std::os::fd::OwnedFd;

use binder_client::Mapping;
use nix::errno::Errno;
use nix::libc;
use zerocopy::Immutable;
use zerocopy::IntoBytes;

use super::adopt;

/// An address at which nothing is.
const PLACE: *mut libc::c_void = 0x5000_0000 as *mut libc::c_void;

/// Makes this thread as nice as that.
#[track_caller]
pub fn set_nice(nice: i32) {
    // SAFETY: the call takes no pointers.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    assert_eq!(Errno::result(result), Ok(0));
}

/// How nice this thread is.
#[track_caller]
pub fn nice() -> i32 {
    Errno::clear();
    // SAFETY: the call takes no pointers.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // Every number is a nice value, -1 too.
    assert_eq!(Errno::last_raw(), 0);
    nice
}

/// `bpf(2)`; what it makes is a descriptor.
///
/// # Safety
///
/// What the attributes hold the addresses of is alive and as long as they say.
pub unsafe fn bpf<T: IntoBytes + Immutable>(command: libc::c_long, attributes: &T) -> nix::Result<OwnedFd> {
    let bytes = attributes.as_bytes();
    // SAFETY: the kernel reads the attributes, which are alive, and what they point to, which the caller vouches for.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, bytes.as_ptr(), bytes.len()) };
    Errno::result(result).map(|fd| adopt(fd as i32))
}

/// Moves a mapping to where nothing is, and unmaps it there; else where it was.
pub fn move_and_unmap(mapping: Mapping, mover: impl FnOnce(&mut dyn FnMut())) -> nix::Result<()> {
    let (address, len) = mapping.into_range();
    let old = address as *mut libc::c_void;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let mut result = Err(Errno::EINVAL);
    mover(&mut || {
        // SAFETY: Nobody else knows of the mapping, nor of anything at the other place.
        let moved = unsafe { libc::mremap(old, len, len, flags, PLACE) };
        result = if moved == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(moved) };
    });
    // SAFETY: As above.
    assert_eq!(unsafe { libc::munmap(result.unwrap_or(old), len) }, 0);
    result.map(drop)
}
