// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! `binder_logs/`: the files of `debug.rs`, and in `proc/` a file for each process that has a device of this mount
//! open.
//!
//! A process can open many devices, and one many times. Its file is there from the first to the last of them, and shows
//! all of them, as well as those of other mounts: the pid is what it is about.

use kernel::{
    new_mutex,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    str::CString,
    sync::Mutex, //
};

use super::tree::{
    Dir,
    NewInode,
    Super, //
};
use crate::{
    debug::{
        DriverFile,
        ProcessFile,
        FILES, //
    },
    sums::{
        decrement,
        increment, //
    },
};

/// How often each process has a device of the mount open.
///
/// # Locking
///
/// Taken with no other lock held; the VFS's lock of `proc/` is taken inside, so that a file is there if, and only if,
/// there is an entry.
#[pin_data]
pub(super) struct Opened {
    #[pin]
    files: Mutex<RBTree<i32, PidFile>>,
}

/// A file in `proc/`.
struct PidFile {
    /// How often the process has a device open; not 0.
    count: usize,
    /// The pid. Kept, because nothing may fail when it goes.
    name: CString,
}

impl Opened {
    /// No process yet.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            files <- new_mutex!(RBTree::new(), "binderfs::Opened"),
        })
    }
}

/// Makes `binder_logs/` in `root`, and returns `binder_logs/proc/`.
///
/// # Errors
///
/// `ENOMEM`.
pub(super) fn populate<'a>(sb: &'a Super, root: &Dir<'_>) -> Result<Dir<'a>> {
    let dir = root.add_dir(sb, c"binder_logs")?;
    for (number, file) in FILES.iter().enumerate() {
        dir.add(file.name, NewInode::log::<DriverFile>(sb, number)?)?;
    }
    dir.add_dir(sb, c"proc")
}

/// The process `pid` is about to open a device of `sb`.
///
/// # Errors
///
/// `ENOMEM`.
pub(super) fn opened(sb: &Super, pid: i32) -> Result {
    let Some(proc) = sb.proc_dir() else {
        return Ok(());
    };
    let mut files = sb.opened().files.lock();
    if let Some(file) = files.get_mut(&pid) {
        increment(&mut file.count);
        return Ok(());
    }
    let name = CString::try_from_fmt(fmt!("{}", pid))?;
    let node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
    // CAST: A pid is positive.
    proc.add(&name, NewInode::log::<ProcessFile>(sb, pid as usize)?)?;
    files.insert(node.into_node(pid, PidFile { count: 1, name }));
    Ok(())
}

/// The process `pid` has closed a device of `sb`, or has not opened it after all.
pub(super) fn closed(sb: &Super, pid: i32) {
    let Some(proc) = sb.proc_dir() else {
        return;
    };
    let mut files = sb.opened().files.lock();
    let Some(file) = files.get_mut(&pid) else {
        return;
    };
    decrement(&mut file.count);
    if file.count == 0 {
        proc.remove(&file.name);
        files.remove(&pid);
    }
}
