// SPDX-License-Identifier: GPL-2.0

//! Android's Binder, as a module.
//!
//! The modules below stand in the order in which they may use one another: each knows those above it only. What the
//! objects are and in which order their locks are taken is written in `model`.

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

// Ground: the interface, what C and the kernel's crates lack, small machines.
mod defs;

mod sys;

mod sums;

mod counts;

mod instance;

mod range_alloc;

mod stats;

mod transaction_log;

// Memory: pages, their mappings, what comes with those, and taking pages back.
mod in_flight;

mod page_range;

mod shrinker;

// The objects, then what each of them does.
mod model;

mod todo;

mod read_buffer;

mod unacknowledged;

mod oneway;

mod registry;

mod work;

mod death;

mod freeze;

mod node;

mod context;

mod handle;

mod buffer;

mod object;

mod outgoing;

mod transaction;

mod thread;

mod process;

// Looking in.
mod logs;

mod log_file;

// The way in.
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
    _logs: log_file::Directory,
    // Waits for scans, which may hold the last pages of a file.
    _shrinker: shrinker::Registration,
    // Those pages belong to inodes of this.
    _mount: Arc<rmap::Mount>,
}

impl kernel::Module for Binder {
    fn init(module: &'static ThisModule) -> Result<Self> {
        // SAFETY: The module is loaded once, and nobody is in it yet.
        unsafe { registry::init() };
        lsm::init()?;
        // SAFETY: As above.
        let logs = unsafe { log_file::Directory::new(module) };
        // SAFETY: As above: there is no other.
        let mount = Arc::new(unsafe { rmap::Mount::new() }?, GFP_KERNEL)?;
        // SAFETY: The module is loaded once, and there are no pages before there are devices.
        let shrinker = unsafe { shrinker::Registration::new() }?;
        // SAFETY: As above: there is no other.
        let releases = unsafe { release_queue::Registration::new() }?;
        // SAFETY: As above: there is no other.
        let reports = unsafe { netlink::Registration::new() };
        let mut devices = device::Devices::new(module, &mount)?;
        // SAFETY: As above: there is no other.
        let binderfs = unsafe { binderfs::Registration::new(module, &mount) }?;
        devices.register()?;
        // Nothing fails from here on, and so user space may come in.
        logs.make_files();
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
            _logs: logs,
            _shrinker: shrinker,
            _mount: mount,
        })
    }
}
