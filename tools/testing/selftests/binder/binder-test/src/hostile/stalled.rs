// SPDX-License-Identifier: GPL-2.0

//! Memory in which the first access to a page blocks, also from the kernel (userfaultfd).

use std::ffi::c_void;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::libc;

use super::Arena;
use super::PAGE;
use super::peek;
use crate::env::Env;

/// `struct uffdio_api`.
#[repr(C)]
#[derive(Debug, Default)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
#[derive(Debug, Default)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_copy`.
#[repr(C)]
#[derive(Debug, Default)]
struct Copy {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

const UFFD_API: u64 = 0xaa;
const MODE_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;

nix::ioctl_readwrite!(uffdio_api, UFFD_API, 0x3f, Api);
nix::ioctl_readwrite!(uffdio_register, UFFD_API, 0x00, Register);
nix::ioctl_readwrite!(uffdio_copy, UFFD_API, 0x03, Copy);

/// Pages that are not there until the test supplies them (`userfaultfd`).
#[derive(Debug)]
pub struct Stalled {
    fd: OwnedFd,
    memory: Arena,
}

impl Stalled {
    /// So many pages.
    pub fn new(env: &Env, pages: usize) -> Self {
        // SAFETY: a system call that takes flags.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        let Ok(fd) = Errno::result(fd) else { env.skip("no userfaultfd for faults of the kernel's") };
        // SAFETY: it was just opened, for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let memory = Arena::new(pages);
        let mut api = Api { api: UFFD_API, ..Api::default() };
        // SAFETY: the kernel writes to the struct alone.
        unsafe { uffdio_api(fd.as_raw_fd(), &mut api) }.expect("UFFDIO_API");
        let mut register =
            Register { start: memory.at(0), len: (pages * PAGE) as u64, mode: MODE_MISSING, ..Register::default() };
        // SAFETY: as above; the range is the arena's and has not been touched.
        unsafe { uffdio_register(fd.as_raw_fd(), &mut register) }.expect("UFFDIO_REGISTER");
        Self { fd, memory }
    }

    /// The address of a byte in it.
    pub fn at(&self, offset: usize) -> u64 {
        self.memory.at(offset)
    }

    /// The page that an access waits for.
    pub fn wanted(&self) -> Option<usize> {
        let mut message = [0u8; 32];
        match nix::unistd::read(&self.fd, &mut message) {
            Ok(32) if message[0] == EVENT_PAGEFAULT => {
                let (_, rest) = message.split_at(16);
                let address = u64::from_ne_bytes(*rest.first_chunk().expect("8 bytes"));
                Some((address - self.at(0)) as usize / PAGE)
            }
            Err(Errno::EAGAIN) => None,
            other => panic!("userfaultfd: {other:?}"),
        }
    }

    /// Fills in a page. Accesses that wait for it go on.
    pub fn supply(&self, page: usize, bytes: &[u8; PAGE]) {
        let from = bytes.as_ptr() as u64;
        let mut copy = Copy { to: self.at(page * PAGE), from, len: PAGE as u64, ..Copy::default() };
        // SAFETY: the kernel reads the bytes, and writes to a page of the arena, to which there are no references.
        unsafe { uffdio_copy(self.fd.as_raw_fd(), &mut copy) }.expect("UFFDIO_COPY");
    }

    /// What stands there. All of it must have been supplied.
    pub fn get(&self, offset: usize, len: usize) -> Vec<u8> {
        peek(self.at(offset), len).expect("the pages are there")
    }

    /// Has the kernel read this process's memory at `from` and write it here. Waits for the pages.
    pub fn read_from(&self, from: u64, len: usize) -> nix::Result<usize> {
        let local = libc::iovec { iov_base: self.at(0) as *mut c_void, iov_len: len };
        let remote = libc::iovec { iov_base: from as *mut c_void, iov_len: len };
        assert!(self.at(0) + len as u64 <= self.memory.end());
        // SAFETY: the kernel writes to the arena, to which there are no references, and answers for the other address.
        let done = unsafe { libc::process_vm_readv(super::this_process(), &local, 1, &remote, 1, 0) };
        Errno::result(done).map(|done| done as usize)
    }
}
