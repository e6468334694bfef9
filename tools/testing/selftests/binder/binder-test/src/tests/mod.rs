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
mod death;
mod extremes;
mod faults;
mod faults_around;
mod faults_load;
mod faults_rest;
mod fd;
mod flush;
mod freeze;
mod freeze_rights;
mod hooks;
mod in_flight;
mod info;
mod ioctl;
mod killed;
mod level;
mod logs;
mod looper;
mod lsm;
mod mapping;
mod memcg;
mod mesh;
mod module;
mod nesting;
mod nice;
mod notify;
mod object;
mod oneway;
mod pinned;
mod poll;
mod pressure;
mod races;
mod reclaim;
mod refs;
mod report;
mod secctx;
mod secrets;
mod sg;
mod skipped;
mod threads;
mod together;
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
        death::TESTS,
        mapping::TESTS,
        reclaim::TESTS,
        threads::TESTS,
        together::TESTS,
        mesh::TESTS,
        notify::TESTS,
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
        flush::TESTS,
        skipped::TESTS,
        pinned::TESTS,
        secrets::TESTS,
        undelivered::TESTS,
        races::TESTS,
        pressure::TESTS,
        pressure::SMALL,
        killed::TESTS,
        level::TESTS,
        bounds::TESTS,
        faults::TESTS,
        faults_around::TESTS,
        faults_rest::TESTS,
        faults_load::TESTS,
        module::TESTS,
        hooks::TESTS,
    ]
    .into_iter()
    .flatten()
}
