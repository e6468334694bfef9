// SPDX-License-Identifier: GPL-2.0

//! A demonstration: processes call each other through a Binder driver, and every byte is checked, before and after
//! memory reclaim.
//!
//! A context manager, a service and several clients, each a process of its own. The clients find the service through
//! the manager, then call it with 0 bytes to 1 MB, synchronously and one-way. Every reply is compared byte for byte;
//! one-way calls are summed up on both sides, in order. Then memory reclaim frees the unused pages of all mappings,
//! and all of it is done again.

mod client;
mod manager;
mod report;
mod service;

use std::path::PathBuf;
use std::process::ExitCode;

use binder_client::Binder;
use binder_client::Error;
use binder_client::MAX_MAPPING;
use binder_client::pages;
use binder_client::process::Child;
use binder_client::process::Line;
use clap::Parser;

use crate::client::Client;
use crate::client::Tally;
use crate::report::Report;

#[derive(Parser)]
#[command(version, about = "Shows calls between processes through a binder driver")]
struct Args {
    /// The device.
    #[arg(long, value_name = "PATH", default_value = "/dev/binder")]
    device: PathBuf,
    /// How many clients call at the same time.
    #[arg(long, default_value_t = 4)]
    clients: u32,
    /// The file with the page counts of the driver, if not the default.
    #[arg(long, value_name = "PATH")]
    stats: Option<PathBuf>,
}

/// What can go wrong, as a sentence.
pub type Outcome<T> = Result<T, String>;

/// What a client is told to do.
const ROUND: u64 = 1;
/// A request to every process of the demonstration: the number of present pages of its mapping.
const PAGES: u64 = 2;

/// A process of the demonstration, and the socket to it.
struct Actor {
    child: Child,
    line: Line,
}

impl Actor {
    /// Starts a process. It prints an error and exits.
    fn start(name: &str, body: impl FnOnce(&Line) -> Outcome<()>) -> Outcome<Self> {
        let (here, there) = Line::pair().map_err(|error| error.to_string())?;
        let child = Child::spawn(|| match body(&there) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("binder-demo: {name}: {error}");
                1
            }
        })
        .map_err(|errno| errno.to_string())?;
        Ok(Self { child, line: here })
    }

    fn pid(&self) -> i32 {
        self.child.pid().as_raw()
    }

    fn hear(&self) -> Outcome<u64> {
        self.line.hear().map_err(|_| format!("process {} is gone", self.pid()))
    }

    fn ask(&self, what: u64) -> Outcome<u64> {
        self.tell(what)?;
        self.hear()
    }

    fn tell(&self, what: u64) -> Outcome<()> {
        self.line.say(what).map_err(|_| format!("process {} is gone", self.pid()))
    }
}

/// Says what went wrong with the driver.
pub fn text(error: Error) -> String {
    error.to_string()
}

/// Opens the device with the largest mapping.
pub fn open(device: &std::path::Path) -> Outcome<Binder> {
    Binder::open_mapped(device, MAX_MAPPING).map_err(|error| format!("{}: {error}", device.display()))
}

/// The number of pages behind a mapping.
pub fn pages_behind(binder: &Binder) -> Outcome<u64> {
    let map = binder.mapping().ok_or("no mapping")?;
    Ok(pages::count(map.address(), map.len()).map_err(|error| format!("pagemap: {error}"))? as u64)
}

struct Cast {
    manager: Actor,
    service: Actor,
    clients: Vec<Actor>,
}

impl Cast {
    fn start(args: &Args) -> Outcome<Self> {
        let device = args.device.as_path();
        let manager = Actor::start("manager", |line| manager::run(device, line))?;
        manager.hear()?;
        let service = Actor::start("service", |line| service::run(device, line))?;
        service.hear()?;
        let clients: Vec<Actor> = (0..args.clients)
            .map(|number| Actor::start("client", |line| client::run(device, number, line)))
            .collect::<Outcome<_>>()?;
        for client in &clients {
            client.hear()?;
        }
        Ok(Self { manager, service, clients })
    }

    /// All clients at the same time.
    fn round(&self) -> Outcome<Tally> {
        for client in &self.clients {
            client.tell(ROUND)?;
        }
        let mut total = Tally::default();
        for client in &self.clients {
            total.add(&Tally::hear(|| client.hear())?);
        }
        Ok(total)
    }

    fn pages(&self) -> Outcome<u64> {
        let everybody = [&self.manager, &self.service].into_iter().chain(&self.clients);
        everybody.map(|actor| actor.ask(PAGES)).sum()
    }
}

fn run(args: &Args) -> Outcome<()> {
    if args.clients == 0 {
        return Err("it takes a client".to_owned());
    }
    // Before the first process is forked, so that a wrong device is said once.
    let version = Binder::open(&args.device)
        .and_then(|binder| binder.version())
        .map_err(|error| format!("{}: {error}", args.device.display()))?;
    let cast = Cast::start(args)?;
    let report = Report::new(args.stats.clone());
    report.cast(&args.device, version, cast.manager.pid(), cast.service.pid(), cast.clients.iter().map(Actor::pid));

    let first = cast.round()?;
    let used = cast.pages()?;
    report.round(1, &first, used);

    pages::squeeze().map_err(|error| format!("drop_caches: {error}"))?;
    let left = cast.pages()?;
    report.pressure(used, left);
    if left >= used {
        return Err("no page was reclaimed".to_owned());
    }

    let second = cast.round()?;
    let again = cast.pages()?;
    report.round(2, &second, again);
    if again <= left {
        return Err("no page came back".to_owned());
    }

    report.cost(&mut Client::new(&args.device, u32::MAX)?)?;
    report.counters()?;
    report.end(&first, &second)
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("binder-demo: {error}");
            ExitCode::FAILURE
        }
    }
}
