// SPDX-License-Identifier: GPL-2.0

//! Android's Binder IPC driver.
//!
//! The modules form floors: ground, memory, protocol, outside. Imports between floors lead down only. On one floor the
//! types may know one another: processes, threads, nodes and transactions refer to each other in circles.
//!
//! ```text
//!   Context --manager--> Node <--entries-- RefTable of other processes
//!                        |  ^
//!                   owner|  |nodes
//!                        v  |
//!   open file ------> Process --buffers--> Held (a buffer that user space has)
//!                      |  ^
//!               threads|  |process
//!                      v  |
//!                    Thread --stack--> Transaction --parents--> ...
//! ```
//!
//! Circles of counted references are broken when the file is released. The release empties every table and stack of
//! the process, whatever else still refers to it.
//!
//! # Locks
//!
//! | no. | lock                    | kind  | guards                                                         |
//! |-----|-------------------------|-------|----------------------------------------------------------------|
//! | 0   | `Context::setting`      | mutex | becoming the context manager                                   |
//! | 1   | `Context::manager`      | spin  | which node is the context manager's                            |
//! | 2   | `Refs::table`           | spin  | the references that one process holds                          |
//! | 3   | `Process::inner`        | spin  | threads, nodes, work lists, and what is `LockedBy` them        |
//! | 4   | `Process::buffers`      | spin  | which bytes of the mapping are taken                           |
//! | 5   | `PageRange::lock`       | spin  | the pages behind the mapping                                   |
//! | 6   | the LRU's own lock      | spin  | the list of pages that may be reclaimed                        |
//! | 7   | `InFlight::state`       | spin  | files on their way to one mapping                              |
//!
//! A lock is taken while only locks of smaller numbers are held, and never two of one number, with one exception: the
//! LRU walk callback holds lock 6 and only trylocks 5. Copies from and to user space are made with no lock held. The
//! wait queues of `sys/wait.rs` are inside 3.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use crate::sys::{
    lsm,
    netlink,
    release_queue,
    rmap, //
};

// Floor 0: ground. The interface, safe faces of C code, counters, small state machines.
mod defs;

mod sys;

mod sums;

mod counts;

mod instance;

mod stats;

mod transaction_log;

// Floor 1: memory. Pages, their mappings, files in flight to a mapping, reclaim.
mod in_flight;

mod range_alloc;

mod page_range;

mod shrinker;

// Floor 2: the protocol.
mod error;

mod level;

mod todo;

mod code;

mod read_buffer;

mod unacknowledged;

mod oneway;

mod procs;

mod notification;

mod death;

mod freeze;

mod node;

mod context;

mod refs;

mod buffer;

mod object;

mod send;

mod transaction;

mod thread;

mod write_read;

mod process;

// Floor 3: the outside. Listings, device nodes, the file system.
mod debug;

mod device;

mod binderfs;

module! {
    type: Binder,
    name: "binder_rs",
    authors: ["The binder-rs authors"],
    description: "Android Binder IPC driver",
    license: "GPL v2",
    alias: ["fs-binder", "binder_linux"],
}

/// The loaded module. The fields are dropped in this order.
struct Binder {
    _reports: Option<netlink::Registration>,
    _binderfs: binderfs::Registration,
    _devices: device::Devices,
    // Waits for processes whose files were closed.
    _releases: release_queue::Registration,
    _driver_files: debug::files::DriverFiles,
    _debug_files: Arc<debug::files::Directory>,
    // Waits for scans, which may hold the last pages of a file.
    _shrinker: shrinker::Registration,
    // Those pages belong to inodes of this.
    _mount: Arc<rmap::Mount>,
}

impl kernel::Module for Binder {
    fn init(module: &'static ThisModule) -> Result<Self> {
        // SAFETY: The module is loaded once, and no other code of it runs yet.
        unsafe { procs::init() };
        lsm::init()?;
        let debug_files = debug::files::Directory::new()?;
        let mount = Arc::new(rmap::Mount::new()?, GFP_KERNEL)?;
        // SAFETY: The module is loaded once, and there are no pages before there are devices.
        let shrinker = unsafe { shrinker::Registration::new() }?;
        // SAFETY: The module is loaded once, and this is the only call.
        let releases = unsafe { release_queue::Registration::new() }?;
        // SAFETY: The module is loaded once, and this is the only call.
        let reports = unsafe { netlink::Registration::new() };
        let driver = device::Driver::new(&debug_files, &mount)?;
        let mut devices = device::Devices::new(module, &driver)?;
        // SAFETY: The module is loaded once, and this is the only call.
        let binderfs = unsafe { binderfs::Registration::new(module, &driver) }?;
        devices.register()?;
        // Nothing fails from here on, and so user space may come in.
        let driver_files = debug_files.make_driver_files();
        binderfs.enable(module);
        devices.enable();
        if let Err(e) = &reports {
            pr_warn!("there is a netlink family 'binder' already ({e:?}): failures are not reported there\n");
        }
        pr_info!("{} devices\n", devices.count());
        Ok(Self {
            _reports: reports.ok(),
            _binderfs: binderfs,
            _devices: devices,
            _releases: releases,
            _driver_files: driver_files,
            _debug_files: debug_files,
            _shrinker: shrinker,
            _mount: mount,
        })
    }
}
