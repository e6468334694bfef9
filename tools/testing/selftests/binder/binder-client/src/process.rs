// SPDX-License-Identifier: GPL-2.0

//! Child processes.

use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::libc;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sched::CpuSet;
use nix::sched::sched_setaffinity;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use nix::unistd::Pid;
use nix::unistd::fork;
use nix::unistd::getppid;

/// A child process; killed and waited for when dropped.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    status: Option<WaitStatus>,
}

impl Child {
    /// Runs `body` in a child process, whose exit status is what it returns. The child dies with its parent.
    ///
    /// The caller must be the only thread of its process: another one's locks would stay taken in the child.
    pub fn spawn(body: impl FnOnce() -> i32) -> nix::Result<Self> {
        let parent = nix::unistd::getpid();
        // SAFETY: there is one thread, so the child is a whole copy.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self { pid: child, status: None }),
            ForkResult::Child => {
                let tied = prctl::set_pdeathsig(Signal::SIGKILL);
                // 0 is a parent outside of the child's pid namespace.
                let orphan = ![parent, Pid::from_raw(0)].contains(&getppid());
                let status = if tied.is_err() || orphan { 125 } else { body() };
                std::process::exit(status)
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Gives up ownership: the caller waits for the process.
    pub fn release(self) -> Pid {
        let pid = self.pid;
        std::mem::forget(self);
        pid
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> nix::Result<WaitStatus> {
        match self.status {
            Some(status) => Ok(status),
            None => {
                let status = waitpid(self.pid, None)?;
                self.status = Some(status);
                Ok(status)
            }
        }
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(&mut self) -> nix::Result<WaitStatus> {
        if self.status.is_none() {
            kill(self.pid, Signal::SIGKILL)?;
        }
        self.wait()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // A child that is gone already is what is wanted.
        let _ = self.kill();
    }
}

/// Keeps the calling thread on one processor.
pub fn pin_to(cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// One end of a line of numbers between two processes: for "I am ready", "go on", and results.
#[derive(Debug)]
pub struct Line(UnixStream);

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Line {
    /// Both ends.
    pub fn pair() -> std::io::Result<(Line, Line)> {
        let (left, right) = UnixStream::pair()?;
        Ok((Line(left), Line(right)))
    }

    /// Says a number.
    pub fn say(&self, number: u64) -> std::io::Result<()> {
        (&self.0).write_all(&number.to_ne_bytes())
    }

    /// Whether a number, or the other process's end, can be heard without waiting.
    pub fn heard(&self) -> bool {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO) != Ok(0)
    }

    /// Waits for a number; the other process's end is an error.
    pub fn hear(&self) -> std::io::Result<u64> {
        let mut bytes = [0; 8];
        (&self.0).read_exact(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

/// The calling thread's id.
pub fn thread_id() -> libc::pid_t {
    nix::unistd::gettid().as_raw()
}

/// How nice a thread of this process is.
pub fn nice_of(thread: libc::pid_t) -> nix::Result<i32> {
    // SAFETY: asks about a number. The system call itself tells 20 less what is asked for, which is never negative.
    Errno::result(unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, thread) })
        .map(|told| 20 - told as i32)
}

/// Makes a thread so nice.
pub fn set_nice(thread: libc::pid_t, nice: i32) -> nix::Result<()> {
    // SAFETY: the kernel checks the numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, thread, nice) }).map(drop)
}
