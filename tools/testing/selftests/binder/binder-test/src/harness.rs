// SPDX-License-Identifier: GPL-2.0

//! Runs tests in processes of their own and reports in KTAP.
//!
//! A test's process leads a process group, and everything it starts stays in it. After the test, or its timeout, the
//! group is killed and every process in it is reaped (this process is their subreaper). So no process of one test
//! runs in the next. The test fails if the counts of the driver do not return to their old values.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use binder_client::process::Child;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::signal::killpg;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd;
use nix::unistd::Pid;

use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::env::SKIP_MARK;
use crate::env::SKIPPED;
use crate::kernel::active;
use crate::kernel::find_stats;
use crate::kernel::is_processes_own;
use crate::tests::Test;

/// How often to check whether the test's process has ended while other processes keep its output open.
const TICK_MS: u16 = 50;

/// How long killed processes may take to end, and the driver to release them.
const REAP: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

/// Runs the tests in order. The exit status says whether none failed.
pub fn run(env: &Env, tests: &[&Test], timeout: Duration) -> ExitCode {
    if let Err(errno) = prctl::set_child_subreaper(true) {
        println!("Bail out! cannot take in orphans: {errno}");
        return ExitCode::FAILURE;
    }
    println!("KTAP version 1");
    println!("1..{}", tests.len());
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut before = find_stats(env).map(|path| active(&path)).unwrap_or_default();
    for (number, test) in (1..).zip(tests) {
        // So that what the kernel says can be told to belong to it.
        let _ = fs::write("/dev/kmsg", format!("binder-test: {}\n", test.name));
        let (mut outcome, output) = run_one(env, test, timeout);
        if outcome == Outcome::Passed {
            if let Some(left) = left_behind(env, &before) {
                outcome = Outcome::Failed(format!("left behind in the driver: {left:?}"));
                // It is this test's, not the next one's.
                before.extend(left);
            }
        }
        for line in output.lines() {
            println!("# {line}");
        }
        match outcome {
            Outcome::Passed => {
                passed += 1;
                println!("ok {number} {}", test.name);
            }
            Outcome::Skipped(reason) => {
                skipped += 1;
                println!("ok {number} {} # SKIP {reason}", test.name);
            }
            Outcome::Failed(reason) => {
                failed += 1;
                println!("# {}: {reason}", test.name);
                println!("not ok {number} {}", test.name);
            }
        }
        // Results appear as they come; a broken pipe ends the run at the next write.
        let _ = std::io::stdout().flush();
    }
    println!("# Totals: pass:{passed} fail:{failed} xfail:0 xpass:0 skip:{skipped} error:0");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The counts of the driver that stay above their old values.
fn left_behind(env: &Env, before: &BTreeMap<String, u64>) -> Option<BTreeMap<String, u64>> {
    let deadline = Instant::now() + REAP;
    loop {
        let mut left = active(&find_stats(env)?);
        left.retain(|kind, count| *count > before.get(kind).copied().unwrap_or_default());
        if env.driver(Difference::KilledNode) == Driver::C {
            left.retain(|kind, _| is_processes_own(kind));
        }
        if left.is_empty() {
            return None;
        }
        if Instant::now() >= deadline {
            return Some(left);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn run_one(env: &Env, test: &Test, timeout: Duration) -> (Outcome, String) {
    let mut output = Vec::new();
    let outcome = watch(env, test, timeout, &mut output)
        .unwrap_or_else(|errno| Outcome::Failed(format!("the test could not be run: {errno}")));
    let mut output = String::from_utf8_lossy(&output).into_owned();
    let outcome = match outcome {
        Outcome::Skipped(_) => {
            let reason = output.lines().find_map(|line| line.strip_prefix(SKIP_MARK)).map(str::to_owned);
            output.retain(|_| false);
            // A skip has to say why the test did not run.
            reason.map_or_else(|| Outcome::Failed("skipped without a reason".to_owned()), Outcome::Skipped)
        }
        other => other,
    };
    (outcome, output)
}

fn watch(env: &Env, test: &Test, timeout: Duration, output: &mut Vec<u8>) -> nix::Result<Outcome> {
    let (read, write) = unistd::pipe2(OFlag::O_CLOEXEC)?;
    let pid = Child::spawn(|| {
        let ready = unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))
            .and_then(|()| unistd::dup2_stdout(&write))
            .and_then(|()| unistd::dup2_stderr(&write));
        if ready.is_err() {
            return 1;
        }
        (test.run)(env);
        0
    })?
    .release();
    drop(write);
    // Parent and child both call it: either may run first. The later call fails once the child has moved on.
    let _ = unistd::setpgid(pid, pid);

    let deadline = Instant::now() + timeout;
    let mut read = fs::File::from(read);
    let mut ended = None;
    let mut chunk = [0; 4096];
    while ended.is_none() && Instant::now() < deadline {
        let mut fds = [PollFd::new(read.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(TICK_MS)) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => match read.read(&mut chunk) {
                // No writer is left: the test is over or about to be.
                Ok(0) => ended = wait_until(pid, deadline)?,
                Ok(count) => {
                    output.extend_from_slice(&chunk[..count]);
                    continue;
                }
                Err(_) => return Err(Errno::EIO),
            },
            Err(errno) => return Err(errno),
        }
        if ended.is_none() {
            ended = reap(Some(pid))?;
        }
    }
    if ended.is_none() {
        let _ = writeln!(output, "{}", describe_group(pid));
    }
    let clean = clean_up(pid)?;
    drain(&mut read, output);
    if !clean {
        return Ok(Outcome::Failed("processes of the test cannot be killed".to_owned()));
    }
    Ok(match ended {
        None => Outcome::Failed(format!("hang: not over after {} s", timeout.as_secs())),
        Some(WaitStatus::Exited(_, 0)) => Outcome::Passed,
        Some(WaitStatus::Exited(_, SKIPPED)) => Outcome::Skipped(String::new()),
        Some(WaitStatus::Exited(_, status)) => Outcome::Failed(format!("exit status {status}")),
        Some(WaitStatus::Signaled(_, Signal::SIGABRT, _)) => Outcome::Failed("a check failed".to_owned()),
        Some(other) => Outcome::Failed(format!("ended with {other:?}")),
    })
}

/// Reads the rest of the pipe; it has no writers.
fn drain(read: &mut fs::File, output: &mut Vec<u8>) {
    loop {
        let mut fds = [PollFd::new(read.as_fd(), PollFlags::POLLIN)];
        let mut chunk = [0; 4096];
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(1) => match read.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(count) => output.extend_from_slice(&chunk[..count]),
            },
            _ => return,
        }
    }
}

/// Reaps one process: this one, or any.
fn reap(pid: Option<Pid>) -> nix::Result<Option<WaitStatus>> {
    match waitpid(pid.unwrap_or(Pid::from_raw(-1)), Some(WaitPidFlag::WNOHANG))? {
        WaitStatus::StillAlive => Ok(None),
        status => Ok(Some(status)),
    }
}

fn wait_until(pid: Pid, deadline: Instant) -> nix::Result<Option<WaitStatus>> {
    loop {
        match reap(Some(pid))? {
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            ended => return Ok(ended),
        }
    }
}

/// Kills the test's processes and reaps each. Returns whether all have ended.
fn clean_up(group: Pid) -> nix::Result<bool> {
    let deadline = Instant::now() + REAP;
    loop {
        match killpg(group, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno),
        }
        match reap(None) {
            Err(Errno::ECHILD) => return Ok(true),
            Ok(None) if Instant::now() >= deadline => return Ok(false),
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Ok(Some(_)) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The kernel stacks of every thread of a process group.
fn describe_group(group: Pid) -> String {
    let mut text = String::from("where its threads stand:\n");
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name may hold anything; the fields after it do not. The third of them is the group.
        let fields = stat.rsplit_once(") ")?.1;
        let of: i32 = fields.split(' ').nth(2)?.parse().ok()?;
        (of == group.as_raw()).then_some(pid)
    });
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let get = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let name = task.file_name();
            text += &format!("{pid}/{}: syscall {}\n", name.to_string_lossy(), get("syscall").trim());
            text += &get("stack");
        }
    }
    text
}
