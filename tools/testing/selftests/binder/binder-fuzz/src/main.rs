// SPDX-License-Identifier: GPL-2.0

//! Runs random programs on two Binder drivers and compares the results.
//!
//! A seed determines a program: processes and threads that send valid and invalid commands in a fixed order.
//! Everything that a process can see is compared: results, bytes consumed, returns, data, objects, files. On a
//! mismatch, a minimised program with the same mismatch is printed.
//!
//! Programs avoid the deliberate differences (the rows of `Documentation/differences.md`):
//!
//! - `tiny-read`, `parent-at-zero`, `grown-mapping`, `dontneed`, `moved-mapping`, `moved-reclaim`: no program reads
//!   into one to three bytes, has a buffer object at offset 0, or changes a mapping otherwise than as a whole.
//! - `lost-buffer`: a thread reads all its work before `BINDER_THREAD_EXIT`, and before it reads into a buffer that is
//!   not wholly writable.
//! - `deaf-epoll`: an epoll is read once after that, and then closed.
//! - `undelivered-page`: only delivered buffers are read, and only until the next commands.
//! - `spam-latest`: `BR_ONEWAY_SPAM_SUSPECT` is recorded as `BR_TRANSACTION_COMPLETE`.
//! - `killed-node`: nodes that the C driver leaves in its counts are not a mismatch.

mod actor;
mod encode;
mod files;
mod generate;
mod minimise;
mod post;
mod program;
mod rng;
mod run;
mod state;
mod step;

use std::collections::HashSet;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use binder_client::Binder;
use clap::Parser;

use crate::program::Program;
use crate::run::Cast;
use crate::run::Driver;
use crate::run::Trace;

/// Programs that one line of results stands for.
const BATCH: u64 = 100;

#[derive(Parser)]
#[command(version, about = "Runs random programs on two Binder drivers and compares the results")]
struct Args {
    /// The device of the driver under test.
    #[arg(long, value_name = "PATH")]
    ours: PathBuf,
    /// The device of the C driver.
    #[arg(long, value_name = "PATH")]
    c: PathBuf,
    /// Statistics of the C driver, to wait until it has released closed files.
    #[arg(long, value_name = "PATH", default_value = "/sys/kernel/debug/binder/stats")]
    c_stats: PathBuf,
    /// Statistics of the driver under test, likewise.
    #[arg(long, value_name = "PATH", default_value = "/sys/kernel/debug/binder_rs/stats")]
    our_stats: PathBuf,
    /// The seed of the first program; each further program has the next seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The number of programs.
    #[arg(long, default_value_t = 1000)]
    programs: u64,
    /// The approximate number of steps of a program.
    #[arg(long, default_value_t = 40)]
    steps: usize,
    /// Runs until stopped or until a mismatch.
    #[arg(long)]
    forever: bool,
    /// Stop after so many different mismatches.
    #[arg(long, default_value_t = 10)]
    show: usize,
    /// Prints whole programs, not minimised.
    #[arg(long)]
    no_minimise: bool,
    /// Prints the results of the C driver for each program.
    #[arg(long)]
    verbose: bool,
}

/// A mismatch between two drivers.
struct Difference {
    program: Program,
    at: usize,
    ours: Trace,
    c: Trace,
}

/// The drivers: the C driver first.
type Drivers = [Driver; 2];

/// Runs a program on both drivers.
fn compare(cast: &mut Cast<'_>, program: usize) -> Result<Option<Difference>, String> {
    let c = cast.run(program, 0)?;
    let ours = cast.run(program, 1)?;
    Ok(first_difference(&c, &ours).map(|at| Difference { program: cast.programs()[program].clone(), at, ours, c }))
}

/// The index at which two traces differ first.
fn first_difference(c: &Trace, ours: &Trace) -> Option<usize> {
    (0..c.len().max(ours.len())).find(|at| c.get(*at) != ours.get(*at))
}

/// Minimises the program of a mismatch. `None` if the mismatch does not recur.
fn shorten(drivers: &Drivers, difference: &Difference) -> Result<Option<Difference>, String> {
    let mut program = difference.program.clone();
    program.steps.truncate((difference.at + 1).saturating_sub(program.mappings.len()));
    let mut failure = Ok(());
    let mut latest = None;
    let mut differs = |program: &Program| {
        let found = Cast::new(drivers, vec![program.clone()]).and_then(|mut cast| compare(&mut cast, 0));
        match found {
            Ok(Some(found)) => {
                latest = Some(found);
                true
            }
            Ok(None) => false,
            Err(error) => {
                failure = Err(error);
                false
            }
        }
    };
    if differs(&program) {
        minimise::minimise(program, &mut differs);
    }
    failure.map(|()| latest)
}

impl Difference {
    /// A key that mismatches of one cause share.
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
        _ => Err(format!("the counts in {} are not those of {}", driver.stats.display(), driver.device.display())),
    }
}

/// A context remembers for good which user was the first to be its manager: it is root on both drivers, in every run.
fn settle_manager(driver: &Driver) -> Result<(), String> {
    let binder = Binder::open(&driver.device).map_err(|error| error.to_string())?;
    binder.become_manager().map_err(|error| error.to_string())?;
    // Processes that are not root's open it too.
    let all_users = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(&driver.device, all_users).map_err(|error| error.to_string())
}

struct Report {
    kinds: HashSet<(Option<String>, Option<String>)>,
    shorter: HashSet<(Option<String>, Option<String>)>,
}

impl Report {
    /// Prints a mismatch, unless one with its key was printed.
    fn add(&mut self, args: &Args, drivers: &Drivers, found: Difference) -> Result<(), String> {
        let seed = found.program.seed;
        if !self.kinds.insert(found.kind()) {
            println!("# seed {seed}: differs as one before");
            return Ok(());
        }
        let short = if args.no_minimise { None } else { shorten(drivers, &found)? };
        if short.is_none() && !args.no_minimise {
            println!("# seed {seed}: differs, but not when it is run alone");
        }
        let shown = short.unwrap_or(found);
        if self.shorter.insert(shown.kind()) {
            shown.told().lines().for_each(|line| println!("# {line}"));
        } else {
            println!("# seed {seed}: differs as one before");
        }
        Ok(())
    }
}

fn fuzz(args: &Args) -> Result<bool, String> {
    let drivers = [
        Driver::new(args.c.clone(), args.c_stats.clone(), true)?,
        Driver::new(args.ours.clone(), args.our_stats.clone(), false)?,
    ];
    for driver in &drivers {
        check_stats(driver)?;
        settle_manager(driver)?;
    }
    println!("KTAP version 1");
    let batches = args.programs.div_ceil(BATCH);
    if !args.forever {
        println!("1..{batches}");
    }
    let mut report = Report { kinds: HashSet::new(), shorter: HashSet::new() };
    let mut all_agree = true;
    for batch in 0.. {
        if !args.forever && batch == batches {
            break;
        }
        let first = batch * BATCH;
        let end = if args.forever { first + BATCH } else { (first + BATCH).min(args.programs) };
        let mut agree = true;
        let seeds = (args.seed + first)..(args.seed + end);
        let mut cast = Cast::new(&drivers, seeds.map(|seed| generate::program(seed, args.steps)).collect())?;
        for program in 0..cast.programs().len() {
            if args.verbose {
                let trace = cast.run(program, 0)?;
                eprintln!("{}{}", cast.programs()[program], trace.join("\n"));
            }
            if let Some(found) = compare(&mut cast, program)? {
                agree = false;
                report.add(args, &drivers, found)?;
            }
            if report.shorter.len() >= args.show {
                break;
            }
        }
        all_agree &= agree;
        let result = if agree { "ok" } else { "not ok" };
        println!("{result} {} fuzz.seeds_{}_to_{}", batch + 1, args.seed + first, args.seed + end - 1);
        eprintln!("binder-fuzz: {end} programs, {} differences", report.shorter.len());
        if report.shorter.len() >= args.show || (args.forever && !agree) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Action;
    use crate::program::Cmd;
    use crate::program::Ioctl;

    #[test]
    fn traces_differ_where_they_differ_first() {
        let trace = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Trace>();
        let c = trace(&["open", "Ok", "Ok", "nothing is left"]);
        assert_eq!(first_difference(&c, &c), None);
        assert_eq!(first_difference(&c, &trace(&["open", "Ok", "EFAULT", "left"])), Some(2));
        // One that is shorter has hung.
        assert_eq!(first_difference(&c, &trace(&["open", "Ok"])), Some(2));
        assert_eq!(first_difference(&trace(&["open", "Ok"]), &c), Some(2));
    }

    /// A driver that does everything right but for one thing: what is told of a step depends on it alone, but for
    /// one kind of command after one kind of ioctl.
    fn planted(program: &Program, wrong: bool) -> Trace {
        let mut spoilt = false;
        let line = |step: &program::Step| {
            spoilt |= matches!(step.action, Action::Ioctl(Ioctl::SetMaxThreads(_)));
            let looped = match &step.action {
                Action::Talk(talk) => talk.commands.contains(&Cmd::EnterLooper),
                _ => false,
            };
            if wrong && spoilt && looped { "wrong".to_owned() } else { step.to_string() }
        };
        program.steps.iter().map(line).collect()
    }

    #[test]
    fn a_planted_difference_is_found_and_made_small() {
        let differs = |program: &Program| first_difference(&planted(program, false), &planted(program, true)).is_some();
        let found: Vec<_> = (0..200).map(|seed| generate::program(seed, 40)).filter(differs).collect();
        assert!(found.len() > 20, "only {} programs of 200 come upon it", found.len());
        for program in found.into_iter().take(8) {
            let least = minimise::minimise(program, differs);
            assert!(differs(&least));
            assert!(matches!(least.steps[0].action, Action::Ioctl(Ioctl::SetMaxThreads(_))));
            match &least.steps[1].action {
                Action::Talk(talk) => assert_eq!(talk.commands, [Cmd::EnterLooper]),
                other => panic!("{other:?}"),
            }
            assert_eq!(least.steps.len(), 2);
        }
    }
}
