// SPDX-License-Identifier: GPL-2.0

//! Runs random programs on two binder drivers, which must agree about each.
//!
//! A program follows from its seed: processes and threads that send commands, right ones and wrong ones, in an order
//! that is always the same. Everything that a process can see of the driver is compared: results, bytes taken, returns, data,
//! objects, files. Where the drivers disagree, the shortest part of the program about which they still do is printed.
//!
//! Where they differ on purpose (the rows of `Documentation/differences.md`) programs must not:
//!
//! - `tiny-read`, `parent-at-zero`, `grown-mapping`, `dontneed`, `moved-mapping`, `moved-reclaim`: no program reads
//!   into one to three bytes, has a buffer object at offset 0, or changes a mapping otherwise than as a whole.
//! - `lost-buffer`: a thread reads all there is for it before it leaves with `BINDER_THREAD_EXIT`, and before it reads to
//!   where not everything can be written.
//! - `deaf-epoll`: an epoll is asked once after that, and then dropped.
//! - `undelivered-page`: only buffers that were delivered are looked at, and until the next commands.
//! - `spam-latest`: `BR_ONEWAY_SPAM_SUSPECT` is told as `BR_TRANSACTION_COMPLETE`.
//! - `killed-node`: what the C driver has left behind in its counts is not held against it.

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
    /// Where the driver that is tested does.
    #[arg(long, value_name = "PATH", default_value = "/sys/kernel/debug/binder_rs/stats")]
    our_stats: PathBuf,
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

/// Where two traces begin to be different.
fn first_difference(c: &Trace, ours: &Trace) -> Option<usize> {
    (0..c.len().max(ours.len())).find(|at| c.get(*at) != ours.get(*at))
}

/// Makes a difference as small as it can be. `None` if it does not happen again.
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
    /// Prints a difference, unless there was one like it.
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
