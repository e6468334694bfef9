// SPDX-License-Identifier: GPL-2.0

//! The table.

use std::fmt::Write;
use std::process::ExitCode;

use binder_client::clock::Clock;

use crate::Case;

/// One case's figures, by channel and repetition.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was done.
    pub case: Case,
    /// Nanoseconds of the clock per operation.
    pub figures: Vec<Vec<f64>>,
}

impl Row {
    /// A row without figures.
    pub fn new(case: Case, channels: usize) -> Self {
        Self { case, figures: vec![Vec::new(); channels] }
    }

    fn median(&self, column: usize) -> f64 {
        let mut figures = self.figures[column].clone();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    }

    /// How far apart the repetitions are, as a part of the median.
    fn spread(&self) -> f64 {
        let spread = |column: usize| {
            let figures = &self.figures[column];
            let most = figures.iter().copied().fold(f64::MIN, f64::max);
            let least = figures.iter().copied().fold(f64::MAX, f64::min);
            (most - least) / self.median(column)
        };
        (0..self.figures.len()).map(spread).fold(0.0, f64::max)
    }
}

/// Every case in a line: medians, the first channel's ratios to the others, and the widest spread.
///
/// `charged` if that was in a memory cgroup.
pub fn table(clock: &Clock, charged: bool, names: &[&str], rows: &[Row]) -> String {
    let mut text = String::new();
    let group = if charged { "in a memory cgroup" } else { "in no memory cgroup" };
    // Writing to a string does not fail.
    let _ = match clock {
        Clock::Instructions => {
            writeln!(text, "guest instructions per operation, two processes on one processor, {group}")
        }
        Clock::Time(ratio) => writeln!(
            text,
            "WARNING: this clock does not count instructions ({ratio:.2} ns each): nanoseconds per operation, which are noise"
        ),
    };
    let _ = write!(text, "{:<14}", "");
    for name in names {
        let _ = write!(text, "{name:>12}");
    }
    for name in names.iter().skip(1) {
        let _ = write!(text, "{:>17}", format!("{}/{name}", names[0]));
    }
    let _ = writeln!(text, "{:>9}", "spread");
    for row in rows {
        let _ = write!(text, "{:<14}", row.case.to_string());
        for column in 0..names.len() {
            let _ = write!(text, "{:>12.0}", row.median(column));
        }
        for column in 1..names.len() {
            let _ = write!(text, "{:>17.3}", row.median(0) / row.median(column));
        }
        let _ = writeln!(text, "{:>8.2}%", row.spread() * 100.0);
    }
    text
}

/// Whether the first channel's calls cost no more than `limit` times the second's.
pub fn verdict(clock: &Clock, names: &[&str], rows: &[Row], limit: f64) -> ExitCode {
    if *clock != Clock::Instructions || names.len() < 2 {
        println!("no verdict: it takes a clock that counts instructions, and two channels");
        return ExitCode::FAILURE;
    }
    let mut code = ExitCode::SUCCESS;
    for row in rows.iter().filter(|row| matches!(row.case, Case::Call(_))) {
        let ratio = row.median(0) / row.median(1);
        if ratio > limit {
            println!("{}: {} costs {ratio:.3} times {}, more than {limit}", row.case, names[0], names[1]);
            code = ExitCode::FAILURE;
        }
    }
    code
}
