// SPDX-License-Identifier: GPL-2.0

//! Runs random programs on two binder drivers, which must agree about each.
//!
//! A program follows from its seed: processes and threads that send commands, right ones and wrong ones, in an order
//! that is always the same. Everything that a process can see of the driver is compared: results, bytes taken, returns, data,
//! objects, files. Where the drivers disagree, the shortest part of the program about which they still do is printed.

mod actor;
mod encode;
mod generate;
mod minimise;
mod program;
mod rng;
mod run;
mod state;

use std::collections::HashSet;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use binder_client::Binder;
use clap::Parser;

use crate::program::Program;
use crate::run::Driver;
use crate::run::Trace;

/// Programs that one line of results stands for.
const BATCH: u64 = 100;

#[derive(Parser)]
#[command(version, about = "Runs random programs on two binder drivers, which must agree about each")]
struct Args {
    /// The device of the driver that is tested.
    #[arg(long, value_name = "PATH")]
    ours: PathBuf,
    /// The device of the C driver.
    #[arg(long, value_name = "PATH")]
    c: PathBuf,
    /// Where the C driver, which ends processes after they have closed it, counts them.
    #[arg(long, value_name = "PATH", default_value = "/sys/kernel/debug/binder/stats")]
    c_stats: PathBuf,
    /// The seed of the first program; the next one has the next.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many programs.
    #[arg(long, default_value_t = 1000)]
    programs: u64,
    /// About how many steps a program has.
    #[arg(long, default_value_t = 40)]
    steps: usize,
    /// Goes on until it is stopped, or there is something to report.
    #[arg(long)]
    forever: bool,
    /// Different disagreements to print before giving up.
    #[arg(long, default_value_t = 10)]
    show: usize,
    /// Prints programs as they are, and not the shortest part of them.
    #[arg(long)]
    no_minimise: bool,
    /// Prints what the C driver did with each program.
    #[arg(long)]
    verbose: bool,
}

/// A place where two drivers disagree.
struct Difference {
    program: Arc<Program>,
    at: usize,
    ours: Trace,
    c: Trace,
}

struct Pair {
    ours: Driver,
    c: Driver,
}

impl Pair {
    fn compare(&self, program: Program) -> Result<Option<Difference>, String> {
        let program = Arc::new(program);
        let c = self.c.run(&program)?;
        let ours = self.ours.run(&program)?;
        let at = (0..c.len().max(ours.len())).find(|at| c.get(*at) != ours.get(*at));
        Ok(at.map(|at| Difference { program, at, ours, c }))
    }

    /// Makes a difference as small as it can be. `None` if it does not happen again.
    fn shorten(&self, difference: Difference) -> Result<Option<Difference>, String> {
        let mut program = (*difference.program).clone();
        program.steps.truncate((difference.at + 1).saturating_sub(program.mappings.len()));
        let mut failure = Ok(());
        let mut latest = None;
        let mut differs = |program: &Program| match self.compare(program.clone()) {
            Ok(Some(found)) => {
                latest = Some(found);
                true
            }
            Ok(None) => false,
            Err(error) => {
                failure = Err(error);
                false
            }
        };
        if differs(&program) {
            minimise::minimise(program, &mut differs);
        }
        failure.map(|()| latest)
    }
}

impl Difference {
    /// What two differences of one cause have in common.
    fn kind(&self) -> (Option<String>, Option<String>) {
        (self.c.get(self.at).cloned(), self.ours.get(self.at).cloned())
    }

    fn told(&self) -> String {
        let mut told = self.program.to_string();
        let before = self.program.mappings.len();
        for (number, line) in self.c.iter().take(self.at).enumerate().skip(before) {
            let _ = writeln!(told, "both at {}: {line}", number - before);
        }
        let line = |trace: &Trace| trace.get(self.at).cloned().unwrap_or_else(|| "nothing".into());
        let place = match self.at.checked_sub(before) {
            Some(step) => format!("step {step}"),
            None => format!("opening p{}", self.at),
        };
        let _ = writeln!(told, "at {place} the C driver: {}", line(&self.c));
        let _ = writeln!(told, "at {place} this driver:  {}", line(&self.ours));
        told
    }
}

/// The counts must be those of the driver behind the device, or nothing would be waited for.
fn check_stats(driver: &Driver) -> Result<(), String> {
    let before = driver.open_processes()?;
    let _binder = Binder::open(&driver.device).map_err(|error| error.to_string())?;
    match driver.open_processes()? {
        during if during == before + 1 => Ok(()),
        _ => Err("the counts of --c-stats are not the C driver's".into()),
    }
}

fn fuzz(args: &Args) -> Result<bool, String> {
    let pair = Pair {
        ours: Driver { device: args.ours.clone(), stats: None },
        c: Driver { device: args.c.clone(), stats: Some(args.c_stats.clone()) },
    };
    check_stats(&pair.c)?;
    Binder::open(&pair.ours.device).map_err(|error| error.to_string())?;
    println!("KTAP version 1");
    let batches = args.programs.div_ceil(BATCH);
    if !args.forever {
        println!("1..{batches}");
    }
    let mut kinds = HashSet::new();
    let mut shorter = HashSet::new();
    let mut all_agree = true;
    for batch in 0.. {
        if !args.forever && batch == batches {
            break;
        }
        let first = batch * BATCH;
        let end = if args.forever { first + BATCH } else { (first + BATCH).min(args.programs) };
        let mut agree = true;
        for seed in (args.seed + first)..(args.seed + end) {
            let program = generate::program(seed, args.steps);
            if args.verbose {
                let trace = pair.c.run(&Arc::new(program.clone()))?;
                eprintln!("{program}{}", trace.join("\n"));
            }
            let Some(found) = pair.compare(program)? else { continue };
            agree = false;
            if !kinds.insert(found.kind()) {
                println!("# seed {seed}: differs as one before");
                continue;
            }
            let shown = if args.no_minimise { Some(found) } else { pair.shorten(found)? };
            match shown {
                Some(shown) if shorter.insert(shown.kind()) => {
                    shown.told().lines().for_each(|line| println!("# {line}"));
                }
                Some(_) => println!("# seed {seed}: differs as one before"),
                None => println!("# seed {seed}: differed once, but not again"),
            }
            if shorter.len() >= args.show {
                break;
            }
        }
        all_agree &= agree;
        let result = if agree { "ok" } else { "not ok" };
        println!("{result} {} fuzz.seeds_{}_to_{}", batch + 1, args.seed + first, args.seed + end - 1);
        eprintln!("binder-fuzz: {end} programs, {} differences", shorter.len());
        if shorter.len() >= args.show || (args.forever && !agree) {
            break;
        }
    }
    Ok(all_agree)
}

fn main() -> ExitCode {
    match fuzz(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("binder-fuzz: {error}");
            ExitCode::from(2)
        }
    }
}
