// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! The debug files in debugfs.

use kernel::{
    new_mutex,
    prelude::*,
    str::CString,
    sync::{
        Arc,
        Mutex, //
    },
    warn_on, //
};

use crate::{
    sums::{
        decrement,
        increment,
        push,
        reserve, //
    },
    sys::debugfs::{
        self,
        Dir,
        File, //
    },
};

use super::{
    DriverFile,
    ProcessFile,
    FILES, //
};

/// The file of a pid, as long as a process of that pid has a binder file open.
struct PidFile {
    pid: i32,
    /// How many binder files the process has open.
    open_files: usize,
    _file: File,
}

/// The driver's directory in debugfs: `binder`, or `binder_rs` where another driver has that name.
#[pin_data]
pub(crate) struct Directory {
    dir: Dir,
    /// The directory `proc`.
    proc: Dir,
    #[pin]
    pid_files: Mutex<KVec<PidFile>>,
}

/// The files about the whole driver.
pub(crate) struct DriverFiles {
    _files: [File; FILES.len()],
}

impl Directory {
    /// Makes the directory.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let name = if debugfs::exists(c"binder") {
            c"binder_rs"
        } else {
            c"binder"
        };
        let dir = Dir::new(name, None)?;
        let proc = Dir::new(c"proc", Some(&dir))?;
        Arc::pin_init(
            pin_init!(Self {
                dir,
                proc,
                pid_files <- new_mutex!(KVec::new(), "debug::Directory::pid_files"),
            }),
            GFP_KERNEL,
        )
    }

    /// Makes the files about the whole driver.
    pub(crate) fn make_driver_files(&self) -> DriverFiles {
        DriverFiles {
            _files: core::array::from_fn(|number| {
                self.dir.file::<DriverFile>(FILES[number].name, number)
            }),
        }
    }

    /// Makes the file of this pid, unless there is one. It stays as long as what is returned.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn pid_file(self: &Arc<Self>, pid: i32) -> Result<PidFileRef> {
        let directory = self.clone();
        let mut files = self.pid_files.lock();
        if let Some(file) = files.iter_mut().find(|file| file.pid == pid) {
            increment(&mut file.open_files);
            return Ok(PidFileRef { directory, pid });
        }
        let name = CString::try_from_fmt(fmt!("{}", pid))?;
        reserve(&mut files, 1, GFP_KERNEL)?;
        // CAST: A pid is positive.
        let file = self.proc.file::<ProcessFile>(&name, pid as usize);
        push(
            &mut files,
            PidFile {
                pid,
                open_files: 1,
                _file: file,
            },
            GFP_KERNEL,
        )?;
        Ok(PidFileRef { directory, pid })
    }
}

/// Keeps the file of a pid. Taken for each binder file that the process has open.
///
/// # Locking
///
/// Dropping the last one waits for what reads the file just now, which takes the locks of processes.
pub(crate) struct PidFileRef {
    directory: Arc<Directory>,
    pid: i32,
}

impl Drop for PidFileRef {
    fn drop(&mut self) {
        let mut files = self.directory.pid_files.lock();
        let Some(index) = files.iter().position(|file| file.pid == self.pid) else {
            warn_on!(true);
            return;
        };
        if let Some(file) = files.get_mut(index) {
            decrement(&mut file.open_files);
            if file.open_files > 0 {
                return;
            }
        }
        // Dropped under the lock: a new file of the same name is not made before this one is gone.
        drop(files.remove(index));
        if files.is_empty() {
            *files = KVec::new();
        }
    }
}
