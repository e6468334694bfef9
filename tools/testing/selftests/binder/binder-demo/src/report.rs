// SPDX-License-Identifier: GPL-2.0

//! Output.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use binder_client::Parcel;
use binder_client::clock;
use binder_client::clock::Clock;
use binder_client::pages::PAGE;

use crate::Outcome;
use crate::client::Client;
use crate::client::SIZES;
use crate::client::Tally;

/// Calls that are measured, after a tenth as many that are not.
const MEASURED: u32 = 1000;

/// How large they are.
const MEASURED_SIZE: usize = 128;

/// Prints as things happen.
pub struct Report {
    stats: Option<PathBuf>,
    at_start: BTreeMap<String, u64>,
}

/// A number that can be read.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Where the driver tells what it counts. (The second name is taken where the C driver is loaded too.)
const STATS: [&str; 2] = ["/sys/kernel/debug/binder_rs/stats", "/sys/kernel/debug/binder/stats"];

/// The numbers in the lines that begin with `page:`, each after its name.
fn page_counters(path: &Path) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut counters = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("page:")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        for pair in words.chunks_exact(2) {
            if let Ok(number) = pair[1].parse() {
                counters.insert(pair[0].to_owned(), number);
            }
        }
    }
    counters
}

impl Report {
    /// Reads the driver's counters for the first time, if there are any.
    pub fn new(stats: Option<PathBuf>) -> Self {
        let known = || STATS.iter().map(PathBuf::from).find(|path| !page_counters(path).is_empty());
        let stats = stats.or_else(known);
        let at_start = stats.as_deref().map(page_counters).unwrap_or_default();
        Self { stats, at_start }
    }

    /// The processes that take part.
    pub fn cast(&self, device: &Path, version: i32, manager: i32, service: i32, clients: impl Iterator<Item = i32>) {
        let clients: Vec<String> = clients.map(|pid| pid.to_string()).collect();
        println!("{}, protocol version {version}", device.display());
        println!("  context manager  process {manager}");
        println!("  service          process {service}, up to 4 threads");
        println!("  clients          processes {}", clients.join(" "));
        println!(
            "  each with a mapping of 4 MB; calls of {} to {} bytes",
            SIZES[0],
            grouped(SIZES[SIZES.len() - 1] as u64)
        );
        println!();
    }

    /// What a round did.
    pub fn round(&self, number: u32, tally: &Tally, pages: u64) {
        println!(
            "round {number}:  {} calls and {} one-way calls, {} sent, {} answered, every byte as it should be",
            tally.calls,
            tally.one_way,
            megabytes(tally.sent),
            megabytes(tally.answered)
        );
        if tally.repeated > 0 {
            println!("          {} times a call found the service's mapping full and was made again", tally.repeated);
        }
        println!("          {} pages stand behind the mappings ({})", grouped(pages), megabytes(pages * PAGE as u64));
    }

    /// What memory pressure did.
    pub fn pressure(&self, before: u64, after: u64) {
        println!(
            "pressure: the kernel took {} pages back, {} stay",
            grouped(before.saturating_sub(after)),
            grouped(after)
        );
    }

    /// What one call costs, where that can be known.
    pub fn cost(&self, client: &mut Client) -> Outcome<()> {
        let parcel = Parcel::from_bytes(&[0x5a; MEASURED_SIZE]);
        (0..MEASURED / 10).try_for_each(|_| client.bare_call(&parcel))?;
        let start = clock::now();
        (0..MEASURED).try_for_each(|_| client.bare_call(&parcel))?;
        let each = (clock::now() - start).as_nanos() as u64 / u64::from(MEASURED);
        println!();
        match Clock::check() {
            Clock::Instructions => println!(
                "cost:     {} instructions for a call of {MEASURED_SIZE} bytes and its answer, both processes included",
                grouped(each)
            ),
            Clock::Time(_) => println!("cost:     not measured: this clock does not count instructions"),
        }
        Ok(())
    }

    /// What the driver itself has counted since the start.
    pub fn counters(&self) -> Outcome<()> {
        let Some(path) = &self.stats else { return Ok(()) };
        let now = page_counters(path);
        let since = |name: &str| {
            let number = now.get(name).ok_or_else(|| format!("{} does not tell `page: {name}`", path.display()))?;
            Ok::<u64, String>(number - self.at_start.get(name).copied().unwrap_or_default())
        };
        println!(
            "driver:   {} pages allocated, {} reclaimed, {} there now",
            grouped(since("total")?),
            grouped(since("reclaimed")?),
            grouped(now.get("active").copied().unwrap_or_default())
        );
        Ok(())
    }

    /// The last line.
    pub fn end(&self, first: &Tally, second: &Tally) -> Outcome<()> {
        let mut total = *first;
        total.add(second);
        // Each client and round: every size once in each way.
        if total.one_way == 0 || total.one_way % SIZES.len() as u64 != 0 || total.calls <= total.one_way {
            return Err(format!("the numbers do not add up: {total:?}"));
        }
        println!();
        println!(
            "{} calls and {} one-way calls with {} in all: nothing was lost or changed",
            total.calls,
            total.one_way,
            megabytes(total.sent + total.answered)
        );
        Ok(())
    }
}
