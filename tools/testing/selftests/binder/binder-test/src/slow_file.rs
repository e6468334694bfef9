// SPDX-License-Identifier: GPL-2.0

//! A file whose reads and writes complete on request of the test.
//!
//! It is a FUSE file system with one file, and the test answers its requests. Until it does, the kernel holds the pages
//! being written to the file, and an exiting process waits for its requests.

use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::libc;
use nix::mount::MntFlags;
use nix::mount::MsFlags;
use nix::mount::mount;
use nix::mount::umount2;
use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;

use crate::env::Env;

/// `struct fuse_in_header`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Request {
    len: u32,
    opcode: u32,
    unique: u64,
    node: u64,
    uid: u32,
    gid: u32,
    pid: u32,
    extensions: u32,
}

/// `struct fuse_out_header`.
#[repr(C)]
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
struct Answer {
    len: u32,
    error: i32,
    unique: u64,
}

/// `struct fuse_init_out`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
struct InitAnswer {
    major: u32,
    minor: u32,
    max_readahead: u32,
    flags: u32,
    background: [u16; 2],
    max_write: u32,
    time_granularity: u32,
    rest: [u32; 9],
}

/// `struct fuse_attr_out`, of a file that any file is like.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
struct AttributesAnswer {
    valid: [u32; 4],
    inode: u64,
    size: u64,
    blocks: u64,
    times: [u64; 3],
    nanoseconds: [u32; 3],
    mode: u32,
    links: u32,
    owner: [u32; 2],
    device: u32,
    block_size: u32,
    flags: u32,
}

const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const INIT: u32 = 26;

/// The requests of several threads at a time, and of none that waits.
const ASYNC_DIO: u32 = 1 << 15;
/// Every read and write is a request.
const DIRECT_IO: u64 = 1;

const MODE: u32 = 0o100_644;
/// The file's size.
pub const SIZE: usize = 1 << 20;
/// The most that one request carries.
const MAX_WRITE: usize = 128 << 10;
/// What stands before the bytes that are written.
const WRITE_HEADER: usize = size_of::<Request>() + 40;

/// The file system, seen from the side that answers.
#[derive(Debug)]
pub struct SlowFile {
    connection: File,
    path: PathBuf,
}

/// A request that the kernel has made and the test not answered.
#[derive(Debug)]
pub struct Pending {
    request: Request,
    bytes: Vec<u8>,
}

impl SlowFile {
    /// Mounts it.
    pub fn mount(env: &Env) -> Self {
        let Ok(connection) = OpenOptions::new().read(true).write(true).open("/dev/fuse") else {
            env.skip("the kernel has no file systems in user space (FUSE_FS)")
        };
        let path = PathBuf::from(format!("/tmp/slow-{}", std::process::id()));
        File::create(&path).expect("a file to mount over");
        let options = format!("fd={},rootmode={MODE:o},user_id=0,group_id=0", connection.as_raw_fd());
        mount(Some("slow"), &path, Some("fuse"), MsFlags::empty(), Some(options.as_str())).expect("mount");
        Self { connection, path }
    }

    /// Where it is; to be opened by [`open`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the next request.
    fn next(&self) -> Pending {
        let mut bytes = vec![0; WRITE_HEADER + MAX_WRITE];
        let len = (&self.connection).read(&mut bytes).expect("a request");
        bytes.truncate(len);
        let (request, _) = Request::read_from_prefix(&bytes).expect("a header");
        Pending { request, bytes }
    }

    fn answer(&self, request: &Request, error: i32, body: &[u8]) {
        let len = size_of::<Answer>() + body.len();
        let mut bytes = Answer { len: len as u32, error: -error, unique: request.unique }.as_bytes().to_vec();
        bytes.extend(body);
        match (&self.connection).write(&bytes) {
            Ok(written) => assert_eq!(written, len),
            // The request was aborted.
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOENT)),
        }
    }

    /// Answers the kernel, until it has answered the first write: what the kernel asks once is asked then.
    pub fn answer_first_write(&self) {
        loop {
            let pending = self.next();
            if pending.request.opcode == WRITE {
                return self.finish(pending);
            }
            self.finish(pending);
        }
    }

    /// The next read or write. What is written is copied here and now.
    pub fn take(&self) -> Pending {
        loop {
            let pending = self.next();
            if [READ, WRITE].contains(&pending.request.opcode) {
                return pending;
            }
            self.finish(pending);
        }
    }

    /// Answers a request as any file would.
    pub fn finish(&self, pending: Pending) {
        let request = &pending.request;
        match request.opcode {
            INIT => {
                let answer = InitAnswer {
                    major: 7,
                    minor: 31,
                    flags: ASYNC_DIO,
                    background: [16, 16],
                    max_write: MAX_WRITE as u32,
                    time_granularity: 1,
                    ..InitAnswer::default()
                };
                self.answer(request, 0, answer.as_bytes());
            }
            GETATTR => {
                let answer = AttributesAnswer {
                    valid: [u32::MAX, 0, 0, 0],
                    inode: 1,
                    size: SIZE as u64,
                    mode: MODE,
                    links: 1,
                    block_size: 4096,
                    ..AttributesAnswer::default()
                };
                self.answer(request, 0, answer.as_bytes());
            }
            OPEN => self.answer(request, 0, [0, DIRECT_IO].as_bytes()),
            READ => {
                let size = u32::read_from_prefix(&pending.bytes[size_of::<Request>() + 16..]).expect("a size").0;
                self.answer(request, 0, &vec![0; size as usize]);
            }
            WRITE => {
                let size = pending.written().len() as u64;
                self.answer(request, 0, size.as_bytes());
            }
            _ => self.answer(request, Errno::ENOSYS as i32, &[]),
        }
    }
}

impl Pending {
    /// What a write writes.
    pub fn written(&self) -> &[u8] {
        &self.bytes[WRITE_HEADER..]
    }
}

impl Drop for SlowFile {
    fn drop(&mut self) {
        // With the connection, which is closed after this, every request ends that is still out.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}

/// Opens the file and writes to it a first time, for [`SlowFile::answer_first_write`].
pub fn open(path: &Path) -> File {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).expect("open");
    assert_eq!(file.metadata().expect("the file's attributes").len(), SIZE as u64);
    (&file).write_all(&[0; 8]).expect("write");
    file
}
