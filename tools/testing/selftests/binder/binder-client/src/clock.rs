// SPDX-License-Identifier: GPL-2.0

//! The clock, and whether it counts instructions.
//!
//! An emulator can derive the guest's time from the instructions it executes. Then the same work takes the same time in
//! every run, and a duration is a number of instructions.

use std::arch::asm;
use std::time::Duration;

use nix::time::ClockId;
use nix::time::clock_gettime;

/// Turns of the loop of known length, of two instructions each.
const TURNS: u64 = 2_000_000;

/// What a nanosecond of the clock is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clock {
    /// One instruction of the guest.
    Instructions,
    /// Time, in which the loop of known length ran at so many nanoseconds per instruction.
    Time(f64),
}

/// The monotonic clock.
pub fn now() -> Duration {
    // The clock is always there; with none there would be nothing to measure.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

fn spin(turns: u64) {
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    // SAFETY: counts a register down; touches nothing else.
    unsafe {
        asm!("2:", "dec {0}", "jnz 2b", inout(reg) turns as usize => _, options(nomem, nostack));
    }
}

impl Clock {
    /// Runs a loop of known length against the clock. Interrupts only ever add to it, so the shortest of several runs counts.
    pub fn check() -> Self {
        let shortest = (0..5)
            .map(|_| {
                let start = now();
                spin(TURNS);
                now() - start
            })
            .min()
            .unwrap_or_default();
        let ratio = shortest.as_nanos() as f64 / (2 * TURNS) as f64;
        if (0.99..1.03).contains(&ratio) { Clock::Instructions } else { Clock::Time(ratio) }
    }
}
