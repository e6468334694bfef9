// SPDX-License-Identifier: GPL-2.0

//! What a well-behaved client has no use for: bad addresses, torn mappings, raw system calls.
//!
//! All `unsafe` of the tests is in this file.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use binder_client::Binder;
use binder_client::Mapping;
use binder_client::uapi::WriteRead;
use nix::errno::Errno;
use nix::libc;
use nix::sys::mman;
use nix::sys::mman::MRemapFlags;
use nix::sys::mman::MapFlags;
use nix::sys::mman::MmapAdvise;
use nix::sys::mman::ProtFlags;
use nix::sys::signal::SaFlags;
use nix::sys::signal::SigAction;
use nix::sys::signal::SigHandler;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::signal::sigaction;

pub use binder_client::pages::PAGE;

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
}

impl Arena {
    /// So many pages, readable and writable.
    pub fn new(pages: usize) -> Self {
        let len = NonZeroUsize::new(pages * PAGE).expect("an arena has pages");
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel picks a range nothing else uses.
        let base = unsafe { mman::mmap_anonymous(None, len, prot, MapFlags::MAP_PRIVATE) }.expect("mmap");
        Self { base, len: len.get() }
    }

    /// The address of a byte in it.
    pub fn at(&self, offset: usize) -> u64 {
        assert!(offset <= self.len);
        self.base.as_ptr() as u64 + offset as u64
    }

    fn page(&self, page: usize) -> NonNull<c_void> {
        assert!((page + 1) * PAGE <= self.len);
        NonNull::new(self.at(page * PAGE) as *mut c_void).expect("not at zero")
    }

    /// Takes one page away for good.
    pub fn unmap(&self, page: usize) {
        // SAFETY: the page is the arena's, to which there are no references.
        unsafe { mman::munmap(self.page(page), PAGE) }.expect("munmap");
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

    /// `BINDER_WRITE_READ` with the returns going to this arena, or to an address that no program has.
    pub fn write_read(&self, binder: &Binder, argument: &mut WriteRead) -> nix::Result<i32> {
        let (from, size) = (argument.read_buffer, argument.read_size);
        let ours = from >= self.at(0) && from.checked_add(size).is_some_and(|end| end <= self.at(self.len));
        let nobodys = from < PAGE as u64 || from >= KERNEL;
        assert!(size == 0 || ours || nobodys, "the driver would write to the program's own memory");
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

/// A device's mapping that is torn, moved and protected while the driver uses it.
///
/// Like an arena it is only looked at through the kernel ([`peek`]). It is never unmapped as a whole: the process ends soon.
#[derive(Debug)]
pub struct Torn {
    base: u64,
    len: usize,
}

impl Torn {
    /// Maps `len` bytes of a device; the driver takes them for where its process receives.
    pub fn map(fd: impl AsFd, len: usize) -> Self {
        let (base, len) = Mapping::of_device(fd, len).expect("mmap").into_range();
        Self { base, len }
    }

    /// The address of a byte in it.
    pub fn at(&self, offset: usize) -> u64 {
        assert!(offset <= self.len);
        self.base + offset as u64
    }

    /// Whether an address lies in it.
    pub fn contains(&self, address: u64) -> bool {
        (self.at(0)..self.at(self.len)).contains(&address)
    }

    fn pages(&self, pages: Range<usize>) -> (NonNull<c_void>, usize) {
        assert!(pages.end * PAGE <= self.len);
        let start = NonNull::new(self.at(pages.start * PAGE) as *mut c_void).expect("not at zero");
        (start, pages.len() * PAGE)
    }

    /// Takes pages away.
    pub fn unmap(&self, pages: Range<usize>) {
        let (start, len) = self.pages(pages);
        // SAFETY: the range is this struct's, to which there are no references.
        unsafe { mman::munmap(start, len) }.expect("munmap");
    }

    /// Changes what pages may be used for.
    pub fn protect(&self, pages: Range<usize>, prot: ProtFlags) -> nix::Result<()> {
        let (start, len) = self.pages(pages);
        // SAFETY: the range is this struct's, to which there are no references.
        unsafe { mman::mprotect(start, len, prot) }
    }

    /// Tells the kernel what will become of pages.
    pub fn advise(&self, pages: Range<usize>, advice: MmapAdvise) -> nix::Result<()> {
        let (start, len) = self.pages(pages);
        // SAFETY: the range is this struct's, to which there are no references.
        unsafe { mman::madvise(start, len, advice) }
    }

    /// Moves pages to where nothing is. What is moved becomes a mapping of its own.
    pub fn move_away(&self, pages: Range<usize>) -> nix::Result<Torn> {
        let (start, len) = self.pages(pages);
        let room = Arena::new(len / PAGE);
        let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
        // SAFETY: both ranges are ours, and there are no references to either.
        let moved = unsafe { mman::mremap(start, len, len, flags, Some(room.base)) }?;
        // The room is not an arena any more: what stands there now is the device's.
        std::mem::forget(room);
        Ok(Torn { base: moved.as_ptr() as u64, len })
    }

    /// Asks for the same pages at a second place, or for more of them.
    pub fn stretch(&self, old: usize, new: usize) -> nix::Result<()> {
        let (start, _) = self.pages(0..0);
        // SAFETY: the range is this struct's, to which there are no references; if it is moved it is lost, no more.
        unsafe { mman::mremap(start, old, new, MRemapFlags::MREMAP_MAYMOVE, None) }.map(drop)
    }

    /// Sends pages into a pipe without copying them.
    pub fn splice_into(&self, pipe: impl AsFd, address: u64, len: usize) -> nix::Result<usize> {
        assert!(self.contains(address));
        let part = libc::iovec { iov_base: address as *mut c_void, iov_len: len };
        // SAFETY: the kernel reads the pages and checks the addresses.
        let done = unsafe { libc::vmsplice(pipe.as_fd().as_raw_fd(), &part, 1, 0) };
        Errno::result(done).map(|done| done as usize)
    }
}

/// Has the kernel read a file's bytes to an address, as `read` does.
pub fn read_to(fd: impl AsFd, address: u64, len: usize) -> nix::Result<usize> {
    // SAFETY: only ever called for a device's mapping, to which there are no references (and which cannot be written).
    let done = unsafe { libc::read(fd.as_fd().as_raw_fd(), address as *mut c_void, len) };
    Errno::result(done).map(|done| done as usize)
}

/// Has the kernel write bytes from an address to a file, as `write` does.
pub fn write_from(fd: impl AsFd, address: u64, len: usize) -> nix::Result<usize> {
    // SAFETY: the kernel checks the address.
    let done = unsafe { libc::write(fd.as_fd().as_raw_fd(), address as *const c_void, len) };
    Errno::result(done).map(|done| done as usize)
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

/// Any ioctl with any number as its argument, on a device that is told to read or write there.
///
/// The address must be one that no program has.
pub fn ioctl_at(binder: &Binder, request: u32, address: u64) -> nix::Result<i32> {
    assert!(address < PAGE as u64 || address >= KERNEL, "the driver would write to the program's own memory");
    // SAFETY: nothing of the program is at the address.
    Errno::result(unsafe { libc::ioctl(binder.as_fd().as_raw_fd(), request as _, address as usize) })
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

/// An ioctl whose argument stands at the start of an arena, whose first page may have been protected.
pub fn ioctl_in(binder: &Binder, request: u32, arena: &Arena) -> nix::Result<i32> {
    assert!(binder_client::uapi::payload_size(request) <= arena.len);
    // SAFETY: the driver touches no more than the arena, to which there are no references. What stands there as addresses
    // is zero, or sizes of zero: nothing is written through it.
    Errno::result(unsafe { libc::ioctl(binder.as_fd().as_raw_fd(), request as _, arena.at(0) as usize) })
}

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_signal(_: libc::c_int) {
    // ORDERING: a count that is read after the system call it interrupted, by the same thread.
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Counts a signal instead of dying of it.
pub fn handle_signal(signal: Signal, restart: bool) {
    let flags = if restart { SaFlags::SA_RESTART } else { SaFlags::empty() };
    let action = SigAction::new(SigHandler::Handler(count_signal), flags, SigSet::empty());
    // SAFETY: the handler does nothing but count.
    unsafe { sigaction(signal, &action) }.expect("sigaction");
}

/// Sends a signal to one thread of this process.
pub fn signal_thread(thread: i32, signal: Signal) {
    // SAFETY: the kernel checks the numbers.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, this_process(), thread, signal as libc::c_int) };
    assert_eq!(sent, 0, "tgkill");
}

/// How many signals were counted.
pub fn signals_handled() -> u32 {
    // ORDERING: see `count_signal`.
    SIGNALS.load(Ordering::Relaxed)
}

/// Takes a descriptor that a driver says it has opened for this process.
pub fn adopt(fd: i32) -> OwnedFd {
    assert!(fd > 2, "{fd} is no new descriptor");
    // SAFETY: the driver opened it for whoever reads of it, which is the caller, once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A copy of a descriptor known by its number alone.
pub fn duplicate(fd: i32) -> nix::Result<OwnedFd> {
    // SAFETY: the kernel says whether there is such a descriptor; only the copy is owned.
    let copy = Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: it was just made, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
