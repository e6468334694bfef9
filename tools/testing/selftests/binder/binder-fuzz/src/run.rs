// SPDX-License-Identifier: GPL-2.0

//! Runs a program on a driver.
//!
//! One step at a time: each thread of each process waits until it is told to do its next step, and nothing goes on before it
//! has answered. The device is non-blocking. What a driver does later by itself - the C driver lets go of a process from a
//! work queue - is waited for before the next step. So the order of things is the same on every driver.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use binder_client::process::Child;

use crate::actor;
use crate::program::Action;
use crate::program::Program;

/// After this long a thread that does not answer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A driver to run programs on.
#[derive(Debug)]
pub struct Driver {
    /// Its device.
    pub device: PathBuf,
    /// Where it counts its processes, if it lets go of them after their last `close` has returned.
    pub stats: Option<PathBuf>,
}

/// What was told on the way, one line for opening each device and then one for each step.
pub type Trace = Vec<String>;

/// A program's processes.
struct Cast {
    children: Vec<Option<Child>>,
    lines: Vec<Vec<UnixStream>>,
}

impl Driver {
    /// How many processes have the device open, where the driver tells.
    pub fn open_processes(&self) -> Result<usize, String> {
        let Some(path) = &self.stats else { return Ok(0) };
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        // Before the first process there is no such line.
        let count = text.lines().find_map(|line| line.strip_prefix("proc: active ")?.split(' ').next()?.parse().ok());
        Ok(count.unwrap_or(0))
    }

    fn wait_for(&self, processes: usize) -> Result<(), String> {
        if self.stats.is_none() {
            return Ok(());
        }
        let began = Instant::now();
        loop {
            let open = self.open_processes()?;
            if open == processes {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("the driver has {open} processes instead of {processes}"));
            }
            std::thread::yield_now();
        }
    }

    /// Runs a program. The error is one of this tool or of where it runs, and not of a driver.
    pub fn run(&self, program: &Arc<Program>) -> Result<Trace, String> {
        let before = self.open_processes()?;
        let mut trace = Trace::new();
        let mut cast = Cast::start(&self.device, program)?;
        let pids: Vec<_> = cast.children.iter().flatten().map(|child| child.pid().as_raw().to_string()).collect();
        for lines in &mut cast.lines {
            trace.push(tell(&mut lines[0], &pids.join(" ")));
        }
        let mut open = trace.len();
        let mut closed = vec![false; open];
        for (number, step) in program.steps.iter().enumerate() {
            let process = step.process;
            if cast.children[process].is_none() {
                trace.push("gone".into());
                continue;
            }
            if step.action == Action::Kill {
                cast.children[process] = None;
                trace.push("killed".into());
            } else {
                trace.push(tell(&mut cast.lines[process][step.thread], &number.to_string()));
            }
            // A device is closed when it is not mapped any more either.
            let closes = matches!(step.action, Action::Close { unmap: true } | Action::Kill)
                || matches!(step.action, Action::Close { unmap: false } if program.mappings[process] == 0);
            let has_closed = closes && trace.last().is_some_and(|told| told != "no device");
            if has_closed && !closed[process] {
                closed[process] = true;
                open -= 1;
                self.wait_for(before + open)?;
            }
            if trace.last().is_some_and(|told| told.starts_with("silent")) {
                break;
            }
        }
        drop(cast);
        self.wait_for(before)?;
        Ok(trace)
    }
}

impl Cast {
    fn start(device: &Path, program: &Arc<Program>) -> Result<Self, String> {
        let mut cast = Self { children: Vec::new(), lines: Vec::new() };
        for number in 0..program.mappings.len() {
            let mut near = Vec::new();
            let mut far = Vec::new();
            for _ in 0..program.threads {
                let (here, there) = UnixStream::pair().map_err(|error| error.to_string())?;
                here.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
                near.push(here);
                far.push(there);
            }
            let mut far = Some(far);
            let child = Child::spawn(|| actor::live(device, program, number, far.take().unwrap_or_default()));
            cast.children.push(Some(child.map_err(|errno| format!("fork: {errno}"))?));
            cast.lines.push(near);
        }
        Ok(cast)
    }
}

fn tell(line: &mut UnixStream, text: &str) -> String {
    match actor::say(line, text).and_then(|()| actor::hear(line)) {
        Ok(answer) => answer,
        Err(error) => format!("silent: {:?}", error.kind()),
    }
}
