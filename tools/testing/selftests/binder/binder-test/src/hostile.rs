// SPDX-License-Identifier: GPL-2.0

//! Split mappings and raw system calls, which well-behaved clients do not use, besides those of `binder_client`.
//!
//! All `unsafe` of the tests is in this file and its folder.

mod aio;
mod denial;
mod nice;
mod ring;
mod stalled;
mod tally;

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

use binder_client::Mapping;
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

pub use self::aio::Aio;
pub use self::denial::Asked;
pub use self::denial::Denial;
pub use self::nice::nice;
pub use self::nice::set_nice;
pub use self::ring::ring_holding;
pub use self::stalled::Stalled;
pub use self::tally::Tally;
pub use binder_client::hostile::Arena;
pub use binder_client::hostile::NOWHERE;
pub use binder_client::hostile::adopt;
pub use binder_client::hostile::close_all_but;
pub use binder_client::hostile::ioctl_at;
pub use binder_client::hostile::ioctl_in;
pub use binder_client::hostile::peek;
pub use binder_client::pages::PAGE;

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

    /// Has other memory stand where it was.
    pub fn replace(&self) {
        let (start, len) = self.pages(0..self.len / PAGE);
        let len = NonZeroUsize::new(len).expect("a mapping has pages");
        let (prot, flags) = (ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED);
        // SAFETY: the range is this struct's, to which there are no references.
        unsafe { mman::mmap_anonymous(NonZeroUsize::new(start.as_ptr() as usize), len, prot, flags) }.expect("mmap");
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
        let room = Arena::new(pages.len());
        self.move_to(pages, room)
    }

    /// Moves pages to a place as large as they are.
    pub fn move_to(&self, pages: Range<usize>, room: Arena) -> nix::Result<Torn> {
        let (start, len) = self.pages(pages);
        let (room, room_len) = room.into_range();
        assert_eq!(room_len, len);
        let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
        // SAFETY: both ranges are ours, and there are no references to either.
        let moved = unsafe { mman::mremap(start, len, len, flags, Some(room)) }?;
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

/// Lets the calling thread go before all others on its processor, or makes it one of them again.
pub fn go_first(first: bool) {
    let policy = if first { libc::SCHED_FIFO } else { libc::SCHED_OTHER };
    let parameter = libc::sched_param { sched_priority: i32::from(first) };
    // SAFETY: the parameter lives until the call is over.
    let result = unsafe { libc::sched_setscheduler(0, policy, &parameter) };
    Errno::result(result).expect("the test runs as root");
}

/// How many signals were counted.
pub fn signals_handled() -> u32 {
    // ORDERING: see `count_signal`.
    SIGNALS.load(Ordering::Relaxed)
}

/// A copy of a descriptor known by its number alone.
pub fn duplicate(fd: i32) -> nix::Result<OwnedFd> {
    // SAFETY: the kernel says whether there is such a descriptor; only the copy is owned.
    let copy = Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: it was just made, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// A file that another process has open, by its path.
pub fn file_of(pid: libc::pid_t, path: &std::path::Path) -> Option<OwnedFd> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    let mut named = fds.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target == path));
    let number: i32 = named.next()?.file_name().to_str()?.parse().ok()?;
    // SAFETY: the kernel checks the number; a descriptor is made, for us.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let process = adopt(Errno::result(process).ok()? as i32);
    // SAFETY: as above.
    let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    Some(adopt(Errno::result(copy).ok()? as i32))
}
