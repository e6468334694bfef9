// SPDX-License-Identifier: GPL-2.0

//! The tests, by subject.

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

/// Groups of tests that need the same setup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// Calls, references, buffers, threads, the mapping, the module.
    Core,
    /// Notifications, file descriptors, scatter-gather buffers, freezing, debug files.
    Interface,
    /// binderfs. Debian's C module is built without it.
    Binderfs,
    /// Memory pressure, and processes killed at random.
    Reclaim,
    /// Out of memory. The machine has to be a small one.
    OutOfMemory,
    /// The cost of operations with many objects. The clock has to count instructions.
    Bounds,
    /// Fault injection, for which the kernel has to be built.
    Faults,
}

/// One test.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// The file's name and the name of the test.
    pub name: &'static str,
    /// The group.
    pub group: Group,
    /// Panics if the test fails.
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

/// Every test, in the order in which they run.
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
