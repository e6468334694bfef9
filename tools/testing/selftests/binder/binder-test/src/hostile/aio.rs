// SPDX-License-Identifier: GPL-2.0

//! Asynchronous I/O.

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;

/// `struct iocb`.
#[repr(C)]
#[derive(Debug, Default)]
struct Request {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    eventfd: u32,
}

const READ: u16 = 0;
const WRITE: u16 = 1;

/// Requests that are out. The process cannot go away before each is answered.
#[derive(Debug)]
pub struct Aio {
    context: usize,
}

impl Aio {
    /// None yet.
    pub fn new() -> nix::Result<Self> {
        let mut context: usize = 0;
        // SAFETY: the kernel writes to the number alone.
        Errno::result(unsafe { libc::syscall(libc::SYS_io_setup, 4, &raw mut context) })?;
        Ok(Self { context })
    }

    fn submit(&self, request: &mut Request) -> nix::Result<()> {
        let mut list = [std::ptr::from_mut(request)];
        // SAFETY: the kernel copies the request; the callers answer for the memory in it.
        Errno::result(unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, list.as_mut_ptr()) }).map(drop)
    }

    /// Has a file's first bytes be written to an arena, some time.
    pub fn read(&self, fd: impl AsFd, to: &super::Arena, len: usize) -> nix::Result<()> {
        assert!(to.at(0) + len as u64 <= to.end());
        let (fd, len, buffer) = (fd.as_fd().as_raw_fd() as u32, len as u64, to.at(0));
        self.submit(&mut Request { opcode: READ, fd, buffer, len, ..Request::default() })
    }

    /// Has the bytes at an address of a device's mapping, to which there are no references, be written to a file, some
    /// time.
    pub fn write(&self, fd: impl AsFd, from: u64, len: usize) -> nix::Result<()> {
        let (fd, len) = (fd.as_fd().as_raw_fd() as u32, len as u64);
        self.submit(&mut Request { opcode: WRITE, fd, buffer: from, len, ..Request::default() })
    }
}
