// SPDX-License-Identifier: GPL-2.0

//! Instructions per operation: two binder drivers and a Unix socket, in one boot.
//!
//! Wall time in an emulated guest is noise. If the guest's clock counts instructions (`-icount`), the same loop costs
//! the same every time, and a difference is a difference in code. A loop of known length checks whether the clock
//! does; the head of the table shows the result.

mod binder_channel;
mod report;
mod unix_channel;

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use binder_client::clock;
use binder_client::clock::Clock;
use clap::Parser;

use crate::report::Row;

/// What is measured: the two ends are two processes on one processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// A call with so many bytes and a reply of four.
    Call(usize),
    /// One one-way message of so many bytes, in bursts of [`BURST`] with one message back after each.
    OneWay(usize),
    /// A call with so many bytes during which the callee calls the caller.
    Nested(usize),
}

/// Messages in a burst.
pub const BURST: u32 = 32;

/// The two ends of one means of communication.
pub trait Channel {
    /// Runs the exchange `times` times. A mismatch or a failure is an error.
    fn run(&mut self, case: Case, times: u32) -> Result<(), String>;
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Case::Call(size) => write!(f, "call/{size}"),
            Case::OneWay(size) => write!(f, "oneway/{size}"),
            Case::Nested(size) => write!(f, "nested/{size}"),
        }
    }
}

impl Case {
    /// Operations per measurement with `--iterations 1000`, in thousandths.
    fn weight(self) -> u32 {
        match self {
            Case::Call(size) | Case::OneWay(size) | Case::Nested(size) if size > 16 * 1024 => 200,
            // The order of execution in a burst depends on scheduler ticks: more rounds even this out.
            Case::OneWay(_) => 4000,
            _ => 1000,
        }
    }
}

const CASES: [Case; 8] = [
    Case::Call(0),
    Case::Call(128),
    Case::Call(4096),
    Case::Call(64 * 1024),
    Case::OneWay(128),
    Case::OneWay(4096),
    Case::Nested(0),
    Case::Nested(128),
];

#[derive(Parser)]
#[command(version, about = "Measures guest instructions per operation")]
struct Args {
    /// Device of the driver under test.
    #[arg(long, value_name = "PATH")]
    ours: Option<PathBuf>,
    /// Device of the driver to compare with.
    #[arg(long, value_name = "PATH")]
    c: Option<PathBuf>,
    /// Do not measure the Unix socket.
    #[arg(long)]
    no_unix: bool,
    /// Only cases whose name contains one of these, such as `call/128`.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    cases: Vec<String>,
    /// Operations per measurement.
    #[arg(long, default_value_t = 2000)]
    iterations: u32,
    /// Measurements of each case.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Seconds to wait first, until the machine is idle.
    #[arg(long, default_value_t = 5)]
    settle: u64,
    /// Fail where a case named `call/...` costs the driver under test more than so many times the other driver.
    #[arg(long, value_name = "RATIO")]
    max_ratio: Option<f64>,
}

/// The start of a measured loop, for a profiler to find.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn mark_start() {
    std::hint::black_box(1);
}

/// The end of a measured loop.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn mark_stop() {
    std::hint::black_box(2);
}

fn measure(channel: &mut dyn Channel, case: Case, iterations: u32) -> Result<f64, String> {
    let times = (u64::from(iterations) * u64::from(case.weight()) / 1000).max(10) as u32;
    // Whole bursts, so that the message back is shared by the same number of messages everywhere.
    let times = times.next_multiple_of(BURST);
    channel.run(case, (times / 10).next_multiple_of(BURST))?;
    mark_start();
    let start = clock::now();
    let result = channel.run(case, times);
    let end = clock::now();
    mark_stop();
    result?;
    Ok((end - start).as_nanos() as f64 / f64::from(times))
}

/// Moves this process into a memory cgroup, as on a distribution: outside of one, allocations of a driver are not
/// charged. Returns whether that was possible.
fn enter_memory_cgroup() -> bool {
    let root = Path::new("/sys/fs/cgroup");
    let group = root.join("binder-bench");
    let entered = fs::write(root.join("cgroup.subtree_control"), "+memory")
        .and_then(|()| fs::create_dir_all(&group))
        .and_then(|()| fs::write(group.join("cgroup.procs"), "0"));
    entered.is_ok()
}

fn run(args: &Args) -> Result<ExitCode, String> {
    let charged = enter_memory_cgroup();
    binder_client::process::pin_to(0).map_err(|errno| format!("cannot stay on one processor: {errno}"))?;

    let mut channels: Vec<(&str, Box<dyn Channel>)> = Vec::new();
    for (name, device) in [("ours", &args.ours), ("C driver", &args.c)] {
        if let Some(device) = device {
            let channel = binder_channel::BinderChannel::start(device)
                .map_err(|error| format!("{name} ({}): {error}", device.display()))?;
            channels.push((name, Box::new(channel)));
        }
    }
    if !args.no_unix {
        let channel = unix_channel::UnixChannel::start().map_err(|error| format!("AF_UNIX: {error}"))?;
        channels.push(("AF_UNIX", Box::new(channel)));
    }
    let wanted = |case: &Case| {
        let name = case.to_string();
        args.cases.is_empty() || args.cases.iter().any(|part| name.contains(part.as_str()))
    };
    let cases: Vec<Case> = CASES.into_iter().filter(wanted).collect();
    if cases.is_empty() || channels.is_empty() {
        return Err("nothing to measure: name a device and a case".to_owned());
    }

    std::thread::sleep(Duration::from_secs(args.settle));
    let clock = Clock::check();

    let mut rows: Vec<Row> = cases.iter().map(|case| Row::new(*case, channels.len())).collect();
    // The channels take turns inside each case and round, so that whatever drifts drifts for all.
    for _ in 0..args.repeats {
        for row in &mut rows {
            for (column, (name, channel)) in channels.iter_mut().enumerate() {
                let figure = measure(channel.as_mut(), row.case, args.iterations)
                    .map_err(|error| format!("{name}, {}: {error}", row.case))?;
                row.figures[column].push(figure);
            }
        }
    }
    let names: Vec<&str> = channels.iter().map(|(name, _)| *name).collect();
    print!("{}", report::table(&clock, charged, &names, &rows));
    Ok(match args.max_ratio {
        Some(limit) => report::verdict(&clock, &names, &rows, limit),
        None => ExitCode::SUCCESS,
    })
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("binder-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
