// SPDX-License-Identifier: GPL-2.0

//! The tests, by what they are about.

use clap::ValueEnum;

use crate::env::Env;

mod binderfs;
mod binderfs_freeze;
mod binderfs_logs;
mod bounds;
mod buffer;
mod counts;
mod data_leaks;
mod death_notification;
mod extremes;
mod faults_commands;
mod faults_module;
mod faults_setup;
mod faults_transaction;
mod fd;
mod freeze;
mod freeze_rights;
mod in_flight;
mod info;
mod ioctl;
mod logs;
mod looper;
mod lsm;
mod mapping;
mod memcg;
mod mesh;
mod missing_hooks;
mod module;
mod module_reload;
mod nesting;
mod nice;
mod object;
mod oneway;
mod pinned;
mod poll;
mod pressure;
mod process_death;
mod random_kills;
mod reclaim;
mod reclaim_races;
mod reclaim_states;
mod refs;
mod report;
mod secctx;
mod sg;
mod thread_races;
mod threads;
mod tlb_flush;
mod trace;
mod transaction;
mod undelivered;
mod write_read;

/// Which part of the interface a test is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// Calls, references, buffers, threads, the mapping, the module.
    Core,
    /// Notifications, file descriptors, buffers that objects point to, freezing, looking in from outside.
    Interface,
    /// The file system. Debian's C module is built without it.
    Binderfs,
    /// Memory that is short, and processes that end at any moment.
    Reclaim,
    /// A machine that has no memory left. It has to be a small one.
    OutOfMemory,
    /// What steps cost with many of something in the way. The clock has to count instructions.
    Bounds,
    /// Failures that a kernel built for it makes happen.
    Faults,
}

/// One test.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// The file's name and what is shown.
    pub name: &'static str,
    /// What it belongs to.
    pub group: Group,
    /// Returns where all is well, and panics where not.
    pub run: fn(&Env),
}

/// The table of a file's tests.
macro_rules! tests {
    ($group:ident, $file:literal: $($name:ident),* $(,)?) => {
        pub const TESTS: &[crate::tests::Test] = &[$(crate::tests::Test {
            name: concat!($file, ".", stringify!($name)),
            group: crate::tests::Group::$group,
            run: $name,
        }),*];
    };
}
pub(crate) use tests;

/// Every test, in the order in which they are best read.
pub fn all() -> impl Iterator<Item = &'static Test> {
    [
        ioctl::TESTS,
        write_read::TESTS,
        extremes::TESTS,
        extremes::calls::TESTS,
        extremes::objects::TESTS,
        extremes::requests::TESTS,
        poll::TESTS,
        looper::TESTS,
        transaction::TESTS,
        buffer::TESTS,
        object::TESTS,
        refs::TESTS,
        nesting::TESTS,
        oneway::TESTS,
        process_death::TESTS,
        mapping::TESTS,
        reclaim::TESTS,
        threads::TESTS,
        thread_races::TESTS,
        mesh::TESTS,
        death_notification::TESTS,
        fd::TESTS,
        in_flight::TESTS,
        sg::TESTS,
        info::TESTS,
        freeze::TESTS,
        freeze_rights::TESTS,
        secctx::TESTS,
        lsm::TESTS,
        nice::TESTS,
        memcg::TESTS,
        memcg::KILLED,
        counts::TESTS,
        trace::TESTS,
        logs::TESTS,
        report::TESTS,
        binderfs::TESTS,
        binderfs_logs::TESTS,
        binderfs_freeze::TESTS,
        extremes::binderfs::TESTS,
        tlb_flush::TESTS,
        reclaim_states::TESTS,
        pinned::TESTS,
        data_leaks::TESTS,
        undelivered::TESTS,
        reclaim_races::TESTS,
        pressure::TESTS,
        pressure::SMALL,
        random_kills::TESTS,
        module_reload::TESTS,
        bounds::TESTS,
        faults_transaction::TESTS,
        faults_setup::TESTS,
        faults_commands::TESTS,
        faults_module::TESTS,
        module::TESTS,
        missing_hooks::TESTS,
    ]
    .into_iter()
    .flatten()
}
