// SPDX-License-Identifier: GPL-2.0

//! Runs programs on drivers.
//!
//! One step at a time: each thread waits for the request to execute its next step, and the next request is sent after
//! its answer. The device is non-blocking. Deferred work of a driver - the C driver releases processes and handles
//! closed descriptors in a work queue - is waited for before the next step. So the order is the same on every driver.
//!
//! The processes are forked once for many programs. A process that a program kills is replaced after the program.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use binder_client::Binder;
use binder_client::hostile::Arena;
use binder_client::process::Child;

use crate::actor;
use crate::actor::Order;
use crate::actor::Part;
use crate::encode::Pool;
use crate::files::Files;
use crate::program::Action;
use crate::program::Program;
use crate::program::Step;
use crate::step;

/// After this long a thread that does not answer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Room for what the commands of one `BINDER_WRITE_READ` point to.
const POOL: usize = 16 << 20;

/// What is compared where a program asks for it. Threads and what they keep in stock are each driver's own business.
const COUNTED: &[&str] = &["node", "ref", "death", "transaction"];

/// What there is of each kind. Nothing is said of what there is none of.
pub type Counts = BTreeMap<String, u64>;

/// A driver to run programs on.
#[derive(Debug)]
pub struct Driver {
    /// Its device.
    pub device: PathBuf,
    /// Where it tells its counts.
    pub stats: PathBuf,
    /// It is the C driver.
    pub is_c: bool,
    /// What it counted before the first program.
    pub before: Counts,
}

/// What was told on the way, one line for opening each device and then one for each step, and one for what is left.
pub type Trace = Vec<String>;

impl Driver {
    /// A driver without an open file.
    pub fn new(device: PathBuf, stats: PathBuf, is_c: bool) -> Result<Self, String> {
        let mut driver = Self { device, stats, is_c, before: Counts::new() };
        driver.before = driver.counts()?;
        Ok(driver)
    }

    /// What the driver counts.
    pub fn counts(&self) -> Result<Counts, String> {
        let text =
            std::fs::read_to_string(&self.stats).map_err(|error| format!("{}: {error}", self.stats.display()))?;
        Ok(text.lines().filter_map(active).filter(|(_, count)| *count > 0).collect())
    }

    /// How many processes have the device open, or have closed it and not come to their end.
    ///
    /// The C driver counts them. Ours counts those as well that have come to their end and have nodes that others hold, so
    /// the ones that it lists are counted.
    pub fn open_processes(&self) -> Result<u64, String> {
        if self.is_c {
            return Ok(self.counts()?.get("proc").copied().unwrap_or(0));
        }
        let text =
            std::fs::read_to_string(&self.stats).map_err(|error| format!("{}: {error}", self.stats.display()))?;
        Ok(text.lines().filter(|line| line.starts_with("proc ")).count() as u64)
    }

    fn wait_for(&self, processes: usize) -> Result<(), String> {
        let before = if self.is_c { self.before.get("proc").copied().unwrap_or(0) } else { 0 };
        let wanted = before + processes as u64;
        let began = Instant::now();
        loop {
            let open = self.open_processes()?;
            if open == wanted {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("the driver has {open} processes instead of {wanted}"));
            }
            std::thread::yield_now();
        }
    }

    /// Waits until the driver has done everything that was to be done later. What is put off last is done last, or first;
    /// so after two more that are put off one after the other nothing older is left.
    fn settle(&self, processes: usize) -> Result<(), String> {
        for _ in 0..2 {
            Binder::open(&self.device).map_err(|error| error.to_string())?;
            self.wait_for(processes)?;
        }
        Ok(())
    }

    /// What is compared of the counts, less what was there before.
    fn tell_counts(&self) -> Result<String, String> {
        let counts = self.counts()?;
        let of = |counts: &Counts, kind: &str| counts.get(kind).copied().unwrap_or(0);
        let told =
            COUNTED.iter().map(|kind| format!("{kind} {}", of(&counts, kind).wrapping_sub(of(&self.before, kind))));
        Ok(told.collect::<Vec<_>>().join(", "))
    }

    /// What is left when no process has the device open.
    fn left(&self) -> Result<String, String> {
        let began = Instant::now();
        loop {
            let counts = self.counts()?;
            // What the C driver has lost it never finds again (`killed-node`).
            let settled = if self.is_c { !counts.contains_key("proc") } else { counts == self.before };
            if settled {
                return Ok("nothing is left".into());
            }
            if began.elapsed() > PATIENCE / 20 {
                return Ok(format!("left: {counts:?}, before {:?}", self.before));
            }
            std::thread::yield_now();
        }
    }
}

/// A line of the form `kind: active N total M`.
fn active(line: &str) -> Option<(String, u64)> {
    let (kind, rest) = line.split_once(": active ")?;
    Some((kind.to_owned(), rest.split(' ').next()?.parse().ok()?))
}

/// How many of the first steps are one thread's, and about nothing but what it and the driver say to each other: they
/// can be ordered at once.
fn run_length(steps: &[Step]) -> usize {
    let simple = |step: &&Step| {
        matches!(step.action, Action::Talk(_) | Action::Ioctl(_) | Action::Poll | Action::Drain | Action::Peek { .. })
            && (step.process, step.thread) == (steps[0].process, steps[0].thread)
    };
    steps.iter().take_while(simple).count().max(1)
}

/// One process: itself, and a line to each of its threads.
#[derive(Debug)]
struct Actor {
    child: Child,
    lines: Vec<UnixStream>,
}

/// The processes that programs are made of.
#[derive(Debug)]
pub struct Cast<'a> {
    drivers: &'a [Driver],
    programs: Arc<Vec<Program>>,
    threads: usize,
    actors: Vec<Option<Actor>>,
    /// Files for each process are sent to the first and taken from the second.
    posts: Vec<(UnixDatagram, UnixDatagram)>,
}

impl<'a> Cast<'a> {
    /// As many processes and threads as the largest of the programs needs.
    pub fn new(drivers: &'a [Driver], programs: Vec<Program>) -> Result<Self, String> {
        let processes = programs.iter().map(|program| program.mappings.len()).max().unwrap_or(0);
        let threads = programs.iter().map(|program| program.threads).max().unwrap_or(0);
        let posts: Result<_, _> = (0..processes).map(|_| UnixDatagram::pair()).collect();
        let mut cast = Self {
            drivers,
            programs: Arc::new(programs),
            threads,
            actors: (0..processes).map(|_| None).collect(),
            posts: posts.map_err(|error| error.to_string())?,
        };
        cast.complete()?;
        Ok(cast)
    }

    /// The programs that can be run.
    pub fn programs(&self) -> &[Program] {
        &self.programs
    }

    /// Forks the processes that are missing.
    fn complete(&mut self) -> Result<(), String> {
        for number in 0..self.actors.len() {
            if self.actors[number].is_some() {
                continue;
            }
            let mut lines = Vec::new();
            let mut far = Vec::new();
            for _ in 0..self.threads {
                let (here, there) = UnixStream::pair().map_err(|error| error.to_string())?;
                here.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
                lines.push(here);
                far.push(there);
            }
            // Made before the fork, so that they stand at the same place in each process.
            let (pool, arena): (Pool, Arena) = (Pool::new(POOL), step::arena());
            let part = Part {
                number,
                devices: self.drivers.iter().map(|driver| driver.device.clone()).collect(),
                programs: Arc::clone(&self.programs),
                lines: far,
                post: self.posts.iter().map(|post| &post.0).collect(),
                inbox: &self.posts[number].1,
                pool,
                arena,
            };
            let child = Child::spawn(|| actor::live(part)).map_err(|errno| format!("fork: {errno}"))?;
            self.actors[number] = Some(Actor { child, lines });
        }
        Ok(())
    }

    fn order(&mut self, process: usize, thread: usize, order: &Order) -> String {
        let Some(actor) = self.actors.get_mut(process).and_then(Option::as_mut) else { return "gone".into() };
        let line = &mut actor.lines[thread];
        match actor::say(line, &order.told()).and_then(|()| actor::hear(line)) {
            Ok(answer) => answer,
            Err(error) => format!("silent: {:?}", error.kind()),
        }
    }

    /// Runs a program on a driver. The error is one of this tool or of where it runs, and not of a driver.
    pub fn run(&mut self, program: usize, driver: usize) -> Result<Trace, String> {
        let programs = Arc::clone(&self.programs);
        let behind = &self.drivers[driver];
        let steps = &programs[program].steps;
        let cast = programs[program].mappings.len();
        let mut trace = Trace::new();
        let mut files = Files::new(cast);
        let pids: Vec<_> = self.actors.iter().flatten().map(|actor| actor.child.pid().as_raw()).collect();
        for process in 0..cast {
            let begin = Order::Begin { program, driver, pids: pids.clone() };
            trace.push(self.order(process, 0, &begin));
            files.opened(process, trace.last().is_some_and(|told| told.ends_with("mapped")));
        }
        let mut number = 0;
        while let Some(step) = steps.get(number) {
            let process = step.process;
            let count = run_length(&steps[number..]);
            let mut came: Vec<String> = match step.action {
                _ if self.actors[process].is_none() => vec!["gone".into(); count],
                Action::Kill => {
                    self.actors[process] = None;
                    vec!["killed".into()]
                }
                Action::Counts => vec![behind.tell_counts()?],
                Action::Lend { to } if self.actors.get(to).is_none_or(Option::is_none) => {
                    vec!["no process to lend to".into()]
                }
                _ => {
                    let came = self.order(process, step.thread, &Order::Steps(number, count));
                    came.split(actor::BETWEEN).map(str::to_owned).collect()
                }
            };
            if let (Action::Lend { to }, "lent") = (&step.action, came[0].as_str()) {
                came[0] = self.order(*to, 0, &Order::Take);
            }
            number += count;
            let open = files.alive();
            let closes = files.after(step, &came[0]);
            trace.append(&mut came);
            if trace.last().is_some_and(|told| told.starts_with("silent")) {
                // An actor that hangs is not used again.
                self.actors[process] = None;
                break;
            }
            if closes {
                if files.alive() < open {
                    behind.wait_for(files.alive())?;
                } else {
                    behind.settle(files.alive())?;
                }
            }
        }
        for process in 0..cast {
            match self.order(process, 0, &Order::End).as_str() {
                "end" | "gone" => {}
                other => return Err(format!("p{process} at the end: {other}")),
            }
        }
        self.complete()?;
        trace.push(behind.left()?);
        Ok(trace)
    }
}

#[cfg(test)]
mod tests {
    use super::active;

    #[test]
    fn counts_are_read_from_lines_that_tell_them() {
        assert_eq!(active("ref: active 3 total 159"), Some(("ref".into(), 3)));
        assert_eq!(active("BC_REPLY: 225"), None);
        assert_eq!(active("page: lru 4 reclaimed 0"), None);
    }
}
