// SPDX-License-Identifier: GPL-2.0

//! The environment of a test.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::differences::Difference;

/// The driver under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// The driver of this project.
    Ours,
    /// The kernel's C driver.
    C,
}

/// The environment of a test.
#[derive(Clone, Debug)]
pub struct Env {
    /// The device.
    pub device: PathBuf,
    /// The driver behind it.
    pub driver: Driver,
    /// The driver's module.
    pub module: Option<PathBuf>,
    /// The parameters of the module.
    pub module_params: String,
    /// Run stress tests with more repetitions.
    pub thorough: bool,
}

/// The exit status of a skipped test, as in kselftest.
pub const SKIPPED: i32 = 4;

/// Marks the output line with the reason.
pub const SKIP_MARK: &str = "skip: ";

impl Env {
    /// Skips the test: a precondition is missing.
    pub fn skip(&self, reason: &str) -> ! {
        println!("{SKIP_MARK}{reason}");
        std::process::exit(SKIPPED)
    }

    /// The driver whose behaviour to expect for a deliberate difference.
    pub fn driver(&self, _why: Difference) -> Driver {
        self.driver
    }
}
