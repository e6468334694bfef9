// SPDX-License-Identifier: GPL-2.0

//! The open file and the mapping: every system call the protocol needs.

use std::fs::File;
use std::fs::OpenOptions;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;

use crate::Error;
use crate::Result;
use crate::error::Context;
use crate::uapi;
use crate::uapi::FlatObject;
use crate::uapi::TransactionData;
use crate::uapi::WriteRead;

/// How far a driver got through the two streams of one ioctl.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of commands taken.
    pub written: usize,
    /// Bytes of returns written.
    pub read: usize,
}

/// A mapping of a device, or of anything else.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<libc::c_void>,
    len: NonZeroUsize,
}

// SAFETY: a mapping is an address range of the process; no thread owns it.
unsafe impl Send for Mapping {}
// SAFETY: through a shared reference the range is only copied from.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from `offset` on, where the kernel likes.
    pub fn with(fd: impl AsFd, len: usize, prot: ProtFlags, flags: MapFlags, offset: i64) -> nix::Result<Self> {
        let len = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        assert!(!flags.contains(MapFlags::MAP_FIXED), "would replace what the program stands on");
        #[allow(clippy::useless_conversion, reason = "a 32-bit program's offsets are 32 bits wide")]
        let offset = offset.try_into().map_err(|_| Errno::EOVERFLOW)?;
        // SAFETY: without MAP_FIXED the kernel picks a range nothing else uses.
        let base = unsafe { mman::mmap(None, len, prot, flags, fd, offset) }?;
        Ok(Self { base, len })
    }

    /// Maps `len` bytes of a device as a client does.
    pub fn of_device(fd: impl AsFd, len: usize) -> nix::Result<Self> {
        Self::with(fd, len, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE, 0)
    }

    /// Gives up ownership: the caller unmaps the range.
    pub fn into_range(self) -> (u64, usize) {
        let range = (self.address(), self.len());
        std::mem::forget(self);
        range
    }

    /// Where it starts.
    pub fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// How long it is.
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// A mapping is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether `size` bytes at `address` lie in it.
    pub fn contains(&self, address: u64, size: u64) -> bool {
        address
            .checked_sub(self.address())
            .and_then(|start| start.checked_add(size))
            .is_some_and(|end| end <= self.len() as u64)
    }

    /// Copies bytes out.
    ///
    /// The kernel writes to a device's mapping behind the compiler's back, so what stands there is
    /// copied and never lent.
    pub fn copy(&self, address: u64, out: &mut [u8]) -> Result<()> {
        let size = out.len() as u64;
        if !self.contains(address, size) {
            return Err(Error::OutsideMapping { address, size });
        }
        // SAFETY: the range lies in the mapping, which lives as long as `self`; any byte is a valid `u8`;
        // `out` is a different object.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, out.as_mut_ptr(), out.len()) };
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this object owns the range, and no reference into it exists.
        let result = unsafe { mman::munmap(self.base, self.len.get()) };
        debug_assert_eq!(result, Ok(()));
    }
}

/// What a received buffer holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// The bytes.
    pub data: Vec<u8>,
    /// Where objects stand.
    pub offsets: Vec<u64>,
}

impl Payload {
    /// The binder or handle number `index`.
    pub fn flat(&self, index: usize) -> Option<FlatObject> {
        crate::object::read_flat(&self.data, *self.offsets.get(index)?)
    }
}

/// One open file of a device, with the mapping it receives in.
#[derive(Debug)]
pub struct Binder {
    map: Option<Mapping>,
    file: File,
}

impl AsFd for Binder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Binder {
    /// Opens a device; it cannot receive yet.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, 0)
    }

    /// Opens a device with more open flags, such as `O_NONBLOCK`.
    pub fn open_with(path: &Path, flags: i32) -> Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(flags | libc::O_CLOEXEC).open(path).map_err(
                |error| Error::Sys { what: "open", errno: Errno::from_raw(error.raw_os_error().unwrap_or(0)) },
            )?;
        Ok(Self { map: None, file })
    }

    /// Talks on a device that is open already.
    pub fn from_file(file: File) -> Self {
        Self { map: None, file }
    }

    /// Opens a device and maps `len` bytes.
    pub fn open_mapped(path: &Path, len: usize) -> Result<Self> {
        let mut binder = Self::open(path)?;
        binder.map(len)?;
        Ok(binder)
    }

    /// Maps `len` bytes to receive in.
    pub fn map(&mut self, len: usize) -> Result<()> {
        self.map = Some(Mapping::of_device(&self.file, len).context("mmap")?);
        Ok(())
    }

    /// Takes a mapping of this file that was made elsewhere, or gives the present one away.
    pub fn replace_mapping(&mut self, map: Option<Mapping>) -> Option<Mapping> {
        std::mem::replace(&mut self.map, map)
    }

    /// The mapping.
    pub fn mapping(&self) -> Option<&Mapping> {
        self.map.as_ref()
    }

    /// Copies a received transaction's bytes and offsets.
    pub fn payload(&self, received: &TransactionData) -> Result<Payload> {
        let outside = Error::OutsideMapping { address: received.buffer, size: received.data_size };
        let map = self.map.as_ref().ok_or_else(|| outside.clone())?;
        if !map.contains(received.buffer, received.data_size) || !map.contains(received.offsets, received.offsets_size)
        {
            return Err(outside);
        }
        let mut payload = Payload {
            data: vec![0; received.data_size as usize],
            offsets: vec![0; received.offsets_size as usize / size_of::<u64>()],
        };
        map.copy(received.buffer, &mut payload.data)?;
        map.copy(received.offsets, payload.offsets.as_mut_bytes())?;
        Ok(payload)
    }

    /// Any ioctl whose argument is a struct that the driver reads or writes.
    pub fn ioctl<T>(&self, request: u32, argument: &mut T) -> nix::Result<i32>
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        assert!(uapi::payload_size(request) <= size_of::<T>(), "the driver would write past the argument");
        assert!(request != uapi::BINDER_WRITE_READ, "has addresses in its argument: write_read or write_read_at");
        // SAFETY: the driver reads and writes no more of the argument than the request's size, and any
        // bytes are a valid `T`.
        Errno::result(unsafe { libc::ioctl(self.file.as_raw_fd(), request as _, std::ptr::from_mut(argument)) })
    }

    /// Sends commands and receives returns. Progress is known even where the ioctl fails.
    pub fn write_read(&self, write: &[u8], read: &mut [u8]) -> (nix::Result<()>, Progress) {
        let mut argument = WriteRead {
            write_size: write.len() as u64,
            write_buffer: write.as_ptr() as u64,
            read_size: read.len() as u64,
            read_buffer: read.as_mut_ptr() as u64,
            ..WriteRead::default()
        };
        // SAFETY: the driver writes at most `read_size` bytes at `read_buffer`, which are `read`'s.
        let result = unsafe { self.write_read_at(&mut argument) };
        let progress = Progress { written: argument.write_consumed as usize, read: argument.read_consumed as usize };
        (result.map(drop), progress)
    }

    /// The ioctl with any argument at all.
    ///
    /// # Safety
    ///
    /// The bytes from `read_buffer + read_consumed` to `read_buffer + read_size` must be the caller's to
    /// be written to, or not be mapped writable. The same holds for the addresses that commands name as places
    /// for the driver to write to (there are none today).
    pub unsafe fn write_read_at(&self, argument: &mut WriteRead) -> nix::Result<i32> {
        // SAFETY: the struct is ours; the caller answers for the addresses in it.
        let result =
            unsafe { libc::ioctl(self.file.as_raw_fd(), uapi::BINDER_WRITE_READ as _, std::ptr::from_mut(argument)) };
        Errno::result(result)
    }

    /// `BINDER_VERSION`.
    pub fn version(&self) -> Result<i32> {
        let mut version = 0i32;
        self.ioctl(uapi::BINDER_VERSION, &mut version).context("BINDER_VERSION")?;
        Ok(version)
    }

    /// `BINDER_SET_MAX_THREADS`.
    pub fn set_max_threads(&self, threads: u32) -> Result<()> {
        let mut threads = threads;
        self.ioctl(uapi::BINDER_SET_MAX_THREADS, &mut threads).context("BINDER_SET_MAX_THREADS")?;
        Ok(())
    }

    /// `BINDER_SET_CONTEXT_MGR`.
    pub fn become_manager(&self) -> Result<()> {
        self.ioctl(uapi::BINDER_SET_CONTEXT_MGR, &mut 0i32).context("BINDER_SET_CONTEXT_MGR")?;
        Ok(())
    }

    /// `BINDER_SET_CONTEXT_MGR_EXT`.
    pub fn become_manager_with(&self, object: FlatObject) -> Result<()> {
        let mut object = object;
        self.ioctl(uapi::BINDER_SET_CONTEXT_MGR_EXT, &mut object).context("BINDER_SET_CONTEXT_MGR_EXT")?;
        Ok(())
    }

    /// `BINDER_THREAD_EXIT`: the driver forgets the calling thread.
    pub fn thread_exit(&self) -> Result<()> {
        self.ioctl(uapi::BINDER_THREAD_EXIT, &mut 0i32).context("BINDER_THREAD_EXIT")?;
        Ok(())
    }
}
