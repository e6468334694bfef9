// SPDX-License-Identifier: GPL-2.0

//! Behaviour tests of a Binder driver, through its device.
//!
//! Each test runs in a process of its own, with a timeout for all processes it starts. The report is KTAP. The same
//! tests run on the C driver, whose behaviour is expected. For deliberate differences a test uses [`differences`].

mod differences;
mod env;
mod fixture;
mod harness;
mod hostile;
mod inject;
mod kernel;
mod mounts;
mod netlink;
mod slow_file;
mod tests;
mod trace;
mod uevents;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::env::Driver;
use crate::env::Env;
use crate::tests::Group;

#[derive(Parser)]
#[command(version, about = "Tests a Binder driver through its device")]
struct Args {
    /// The device.
    #[arg(long, value_name = "PATH", required_unless_present = "list")]
    device: Option<PathBuf>,
    /// The driver of the device.
    #[arg(long, value_enum, required_unless_present = "list")]
    driver: Option<Driver>,
    /// The driver's module file, for tests that unload and load it.
    #[arg(long, value_name = "PATH")]
    module: Option<PathBuf>,
    /// Parameters the module is loaded with.
    #[arg(long, value_name = "TEXT", default_value = "")]
    module_params: String,
    /// Groups of tests to run; all by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    groups: Vec<Group>,
    /// Seconds after which a test counts as hanging.
    #[arg(long, default_value_t = 180)]
    timeout: u64,
    /// Tests that repeat one thing do it ten times as often, or more.
    #[arg(long)]
    thorough: bool,
    /// Prints the names of the tests and runs none.
    #[arg(long)]
    list: bool,
    /// Only tests whose name contains one of these.
    filter: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let wanted = |test: &&tests::Test| {
        (args.groups.is_empty() || args.groups.contains(&test.group))
            && (args.filter.is_empty() || args.filter.iter().any(|part| test.name.contains(part.as_str())))
    };
    let chosen: Vec<&tests::Test> = tests::all().filter(wanted).collect();
    if args.list {
        chosen.iter().for_each(|test| println!("{}", test.name));
        return ExitCode::SUCCESS;
    }
    let (Some(device), Some(driver)) = (args.device, args.driver) else {
        return ExitCode::FAILURE;
    };
    if chosen.is_empty() {
        eprintln!("binder-test: no test of that name");
        return ExitCode::FAILURE;
    }
    let env = Env { device, driver, module: args.module, module_params: args.module_params, thorough: args.thorough };
    harness::run(&env, &chosen, Duration::from_secs(args.timeout))
}
