// SPDX-License-Identifier: GPL-2.0

//! What a test is told about where it runs.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::differences::Difference;

/// Whose driver is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// The driver of this project.
    Ours,
    /// The kernel's C driver.
    C,
}

/// Where a test runs.
#[derive(Clone, Debug)]
pub struct Env {
    /// The device.
    pub device: PathBuf,
    /// The driver behind it.
    pub driver: Driver,
    /// The driver's module.
    pub module: Option<PathBuf>,
    /// What the module is loaded with.
    pub module_params: String,
    /// Tests that repeat one thing do it often.
    pub thorough: bool,
}

/// The exit status of a test that cannot run here, as kselftest has it.
pub const SKIPPED: i32 = 4;

/// Starts the line that says why.
pub const SKIP_MARK: &str = "skip: ";

impl Env {
    /// Ends the test: something it needs is not there.
    pub fn skip(&self, reason: &str) -> ! {
        println!("{SKIP_MARK}{reason}");
        std::process::exit(SKIPPED)
    }

    /// Whose behaviour to expect where the drivers differ on purpose.
    pub fn driver(&self, _why: Difference) -> Driver {
        self.driver
    }
}
