// SPDX-License-Identifier: GPL-2.0

//! Fault injection, one failure at a time.
//!
//! With fault injection in the kernel a thread can make its n-th allocation or user copy from now on fail, in any
//! system call. With n = 1, 2, 3, ... a repeated step fails at each such place in turn, until it succeeds without a
//! failure.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

use nix::libc;

use crate::env::Env;
use crate::fixture::until;
use crate::kernel::active;

/// The failures a thread asks for.
const NTH: &str = "/proc/thread-self/fail-nth";

/// What the kernel leaves out by itself is what the driver does most. Nothing is logged: a stack in the log means that
/// something is wrong.
const KNOBS: &[(&str, &str)] = &[
    ("failslab/ignore-gfp-wait", "N"),
    ("fail_page_alloc/ignore-gfp-wait", "N"),
    ("fail_page_alloc/ignore-gfp-highmem", "N"),
    ("fail_page_alloc/min-order", "0"),
];

/// What can fail.
const KINDS: &[&str] = &["failslab", "fail_page_alloc", "fail_usercopy"];

/// More places than any step has.
const TOO_MANY: u32 = 20_000;

#[track_caller]
fn set(knob: &str, value: &str) {
    let path = PathBuf::from("/sys/kernel/debug").join(knob);
    if let Err(error) = fs::write(&path, value) {
        panic!("{}: {error}", path.display());
    }
}

/// Makes the calling thread's system calls fail.
#[derive(Debug)]
pub struct Faults {
    nth: File,
}

impl Faults {
    /// For the calling thread.
    pub fn new(env: &Env) -> Self {
        let Ok(nth) = File::options().read(true).write(true).open(NTH) else {
            env.skip("the kernel makes nothing fail (FAULT_INJECTION)")
        };
        for (knob, value) in KNOBS {
            set(knob, value);
        }
        for kind in KINDS {
            set(&format!("{kind}/verbose"), "0");
        }
        let faults = Self { nth };
        faults.only_between(0, u64::MAX);
        faults
    }

    fn only_between(&self, start: u64, end: u64) {
        for kind in KINDS {
            set(&format!("{kind}/require-start"), &format!("{start:#x}"));
            set(&format!("{kind}/require-end"), &format!("{end:#x}"));
        }
    }

    /// Looks only at what is called, at whatever depth, by one of the kernel's functions.
    pub fn only_below(&self, function: &str) {
        let symbols = fs::read_to_string("/proc/kallsyms").expect("/proc/kallsyms");
        let mut text: Vec<(u64, &str)> = symbols
            .lines()
            .filter_map(|line| {
                let mut words = line.split_ascii_whitespace();
                let address = u64::from_str_radix(words.next()?, 16).ok()?;
                let is_text = matches!(words.next()?, "t" | "T");
                is_text.then_some((address, words.next()?))
            })
            .collect();
        text.sort();
        let at = text.iter().position(|(_, name)| *name == function).expect("the kernel has the function");
        let start = text[at].0;
        let end = text[at..].iter().map(|(address, _)| *address).find(|address| *address > start).expect("a next one");
        self.only_between(start, end);
    }

    fn arm(&self, nth: u32) {
        self.nth.write_all_at(nth.to_string().as_bytes(), 0).expect("fail-nth");
    }

    /// Says whether what was asked for has happened, and asks for no more.
    fn disarm(&self) -> bool {
        let mut text = [0; 16];
        // To read the number is a copy to user space, too: if that is what fails, nothing had before.
        let fired = match self.nth.read_at(&mut text, 0) {
            Ok(len) => text[..len].trim_ascii() == b"0",
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => false,
            Err(error) => panic!("fail-nth: {error}"),
        };
        // And so is to write it, at most once.
        while self.nth.write_all_at(b"0", 0).is_err() {}
        fired
    }

    /// One repetition, in which the n-th place fails.
    pub fn shot(&self, nth: u32) -> Shot<'_> {
        Shot { faults: self, nth, fired: None }
    }

    /// Does a step again and again, each time with the next place failing, until it comes through.
    ///
    /// The step prepares what it needs, does the one system call in question through [`Shot::at`], and looks at what
    /// came of it, whether it failed or not.
    #[track_caller]
    pub fn walk(&self, what: &str, mut step: impl FnMut(&mut Shot<'_>)) {
        for nth in 1..TOO_MANY {
            let mut shot = self.shot(nth);
            step(&mut shot);
            if !shot.fired.expect("the step makes the system call") {
                println!("{what}: {} places", nth - 1);
                assert!(nth > 1, "{what}: there was nothing that could fail");
                return;
            }
        }
        panic!("{what}: does not come through");
    }
}

/// One repetition of a step.
#[derive(Debug)]
pub struct Shot<'a> {
    faults: &'a Faults,
    /// Which place fails.
    pub nth: u32,
    fired: Option<bool>,
}

impl Shot<'_> {
    /// Makes the system call.
    pub fn at<T>(&mut self, call: impl FnOnce() -> T) -> T {
        assert!(self.fired.is_none(), "one system call is looked at");
        self.faults.arm(self.nth);
        let result = call();
        self.fired = Some(self.faults.disarm());
        result
    }

    /// Whether anything was made to fail.
    pub fn fired(&self) -> bool {
        self.fired.expect("after the system call")
    }
}

/// How many of each kind of object the driver has, as it tells in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live(BTreeMap<String, u64>);

impl Live {
    /// As of now, when the last call is over: the callee may hold it a moment longer than the caller. `None`
    /// where the driver does not tell.
    #[track_caller]
    pub fn now() -> Option<Self> {
        until(|| Self::read().is_none_or(|live| !live.0.contains_key("transaction")));
        Self::read()
    }

    fn read() -> Option<Self> {
        let places = ["/sys/kernel/debug/binder_rs/stats", "/sys/kernel/debug/binder/stats"];
        let path = places.into_iter().map(Path::new).find(|path| path.exists())?;
        let mut kinds = active(path);
        // A page stays for the next buffer.
        kinds.remove("page");
        Some(Self(kinds))
    }

    /// Waits until it is so again: what other processes had takes a moment to go.
    #[track_caller]
    pub fn again(before: &Option<Self>, what: &str) {
        let mut now = Self::read();
        for _ in 0..2_000 {
            if now == *before {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
            now = Self::read();
        }
        panic!("{what}: the driver had {before:?} and has {now:?}");
    }
}
