// SPDX-License-Identifier: GPL-2.0

//! Bad addresses and partly mapped memory, which well-behaved clients do not use.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;

use crate::Binder;
use crate::Mapping;
use crate::pages::PAGE;
use crate::uapi;
use crate::uapi::WriteRead;

/// From here on there is nothing of a program's: the end of what it can address.
#[cfg(target_pointer_width = "64")]
const KERNEL: u64 = 1 << 47;
#[cfg(target_pointer_width = "32")]
const KERNEL: u64 = 0xffff_f000;

/// Addresses for an ioctl's argument at which no program has anything.
pub const NOWHERE: [u64; 3] = [0, KERNEL, usize::MAX as u64 - 4095];

/// Memory whose pages can be taken away or protected while a driver is told to use them.
///
/// It is only ever touched through the kernel (by system calls that fail where a page is not there), so
/// that no access of the program's own can go wrong.
#[derive(Debug)]
pub struct Arena {
    base: NonNull<c_void>,
    len: usize,
    /// The pages at both ends were taken away.
    walled: bool,
}

// SAFETY: an arena is an address range of the process; no thread owns it.
unsafe impl Send for Arena {}

// SAFETY: it is an address range of the process, whose memory is only touched through the kernel; no thread owns it.
unsafe impl Sync for Arena {}

impl Arena {
    /// So many pages, readable and writable.
    pub fn new(pages: usize) -> Self {
        let len = NonZeroUsize::new(pages * PAGE).expect("an arena has pages");
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel picks a range nothing else uses.
        let base = unsafe { mman::mmap_anonymous(None, len, prot, MapFlags::MAP_PRIVATE) }.expect("mmap");
        Self { base, len: len.get(), walled: false }
    }

    /// The address of a byte in it.
    pub fn at(&self, offset: usize) -> u64 {
        assert!(offset <= self.len);
        self.base.as_ptr() as u64 + offset as u64
    }

    /// The first address behind it.
    pub fn end(&self) -> u64 {
        self.at(self.len)
    }

    fn page(&self, page: usize) -> NonNull<c_void> {
        assert!((page + 1) * PAGE <= self.len);
        NonNull::new(self.at(page * PAGE) as *mut c_void).expect("not at zero")
    }

    /// Has every page be there, each as a page of its own.
    pub fn fill(&self) {
        for advice in [libc::MADV_NOHUGEPAGE, libc::MADV_POPULATE_WRITE] {
            // SAFETY: the range is the arena's, to which there are no references; no byte of it changes.
            Errno::result(unsafe { libc::madvise(self.base.as_ptr(), self.len, advice) }).expect("madvise");
        }
    }

    /// Takes one page away for good.
    pub fn unmap(&self, page: usize) {
        // SAFETY: the page is the arena's, to which there are no references.
        unsafe { mman::munmap(self.page(page), PAGE) }.expect("munmap");
    }

    /// Takes the pages at both ends away for good.
    pub fn wall(&mut self) {
        self.unmap(0);
        self.unmap(self.len / PAGE - 1);
        self.walled = true;
    }

    /// Changes what one page may be used for.
    pub fn protect(&self, page: usize, prot: ProtFlags) {
        // SAFETY: the page is the arena's, to which there are no references.
        unsafe { mman::mprotect(self.page(page), PAGE, prot) }.expect("mprotect");
    }

    /// Puts bytes into it.
    pub fn put(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        poke(self.at(offset), bytes).expect("the page is there and writable");
    }

    /// Takes bytes out of it.
    pub fn get(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len);
        peek(self.at(offset), len).expect("the page is there")
    }

    /// Gives up ownership: the caller unmaps the range.
    pub fn into_range(self) -> (NonNull<c_void>, usize) {
        let range = (self.base, self.len);
        std::mem::forget(self);
        range
    }

    /// Whether a driver writes nowhere but to this arena, or to addresses that no program has. It writes one return
    /// behind the other, so that none comes past pages that are not there.
    pub fn may_read(&self, argument: &WriteRead) -> bool {
        let start = argument.read_buffer.wrapping_add(argument.read_consumed);
        let end = if self.walled { Some(start) } else { argument.read_buffer.checked_add(argument.read_size) };
        let ours = start >= self.at(0) && end.is_some_and(|end| end <= self.end());
        let nobodys = start < PAGE as u64 || start >= KERNEL;
        argument.read_size == 0 || ours || nobodys
    }

    /// `BINDER_WRITE_READ` with the returns going to this arena, or to an address that no program has.
    pub fn write_read(&self, binder: &Binder, argument: &mut WriteRead) -> nix::Result<i32> {
        assert!(self.may_read(argument), "the driver would write to the program's own memory");
        // SAFETY: what the driver can write to is the arena's, to which there are no references.
        unsafe { binder.write_read_at(argument) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the range is the arena's; parts that are gone already do no harm, as nothing was mapped since by address.
        unsafe { mman::munmap(self.base, self.len) }.expect("munmap");
    }
}

fn this_process() -> libc::pid_t {
    nix::unistd::getpid().as_raw()
}

/// Reads memory of this process; `EFAULT` where it cannot be read.
pub fn peek(address: u64, len: usize) -> nix::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    if len == 0 {
        return Ok(bytes);
    }
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: len };
    let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: len };
    // SAFETY: the kernel writes to `bytes` alone and answers for the other address.
    let done = Errno::result(unsafe { libc::process_vm_readv(this_process(), &local, 1, &remote, 1, 0) })?;
    if done as usize == len { Ok(bytes) } else { Err(Errno::EFAULT) }
}

/// Writes memory of this process; `EFAULT` where it cannot be written.
fn poke(address: u64, bytes: &[u8]) -> nix::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let local = libc::iovec { iov_base: bytes.as_ptr() as *mut c_void, iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: bytes.len() };
    // SAFETY: the only caller is the arena, for its own pages.
    let done = Errno::result(unsafe { libc::process_vm_writev(this_process(), &local, 1, &remote, 1, 0) })?;
    if done as usize == bytes.len() { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Changes what a device's mapping may be used for.
pub fn protect(mapping: &Mapping, prot: ProtFlags) -> nix::Result<()> {
    let start = NonNull::new(mapping.address() as *mut c_void).ok_or(Errno::EINVAL)?;
    // SAFETY: there are no references into a mapping, which is only copied from.
    unsafe { mman::mprotect(start, mapping.len(), prot) }
}

/// Any ioctl with any number as its argument, on a device that is told to read or write there.
///
/// The address must be one that no program has.
pub fn ioctl_at(binder: &Binder, request: u32, address: u64) -> nix::Result<i32> {
    assert!(address < PAGE as u64 || address >= KERNEL, "the driver would write to the program's own memory");
    // SAFETY: nothing of the program is at the address.
    Errno::result(unsafe { libc::ioctl(binder.as_fd().as_raw_fd(), request as _, address as usize) })
}

/// An ioctl whose argument stands at the start of an arena, whose first page may have been protected.
pub fn ioctl_in(binder: &Binder, request: u32, arena: &Arena) -> nix::Result<i32> {
    assert!(uapi::payload_size(request) <= arena.len);
    // SAFETY: the driver touches no more than the arena, to which there are no references. What stands there as addresses
    // is zero, or sizes of zero: nothing is written through it.
    Errno::result(unsafe { libc::ioctl(binder.as_fd().as_raw_fd(), request as _, arena.at(0) as usize) })
}

/// Closes every descriptor from `first` on.
///
/// # Safety
///
/// Nothing in this process may own one of them.
pub unsafe fn close_all_from(first: i32) {
    // SAFETY: the caller answers for the owners.
    unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, 0) };
}

/// Closes every file of a process that was just forked, but for the standard ones and one more.
///
/// # Safety
///
/// What owns those files must never be used or dropped in this process again.
pub unsafe fn close_all_but(keep: i32) {
    let keep = keep as libc::c_uint;
    for (first, last) in [(3, keep - 1), (keep + 1, libc::c_uint::MAX)] {
        if first <= last {
            // SAFETY: the caller answers for the owners.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

/// Takes a descriptor that the kernel says it has opened for this process.
pub fn adopt(fd: i32) -> OwnedFd {
    assert!(fd > 2, "{fd} is no new descriptor");
    // SAFETY: the descriptor is open and has no other owner: only the caller reads its number, once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
