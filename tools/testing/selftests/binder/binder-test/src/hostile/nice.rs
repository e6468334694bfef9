// SPDX-License-Identifier: GPL-2.0

//! Nice values of threads, for which there is no safe wrapper.

use nix::errno::Errno;
use nix::libc;

/// Makes this thread as nice as that.
#[track_caller]
pub fn set_nice(nice: i32) {
    // SAFETY: the call takes no pointers.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    assert_eq!(Errno::result(result), Ok(0));
}

/// How nice this thread is.
#[track_caller]
pub fn nice() -> i32 {
    Errno::clear();
    // SAFETY: the call takes no pointers.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // Every number is a nice value, -1 too.
    assert_eq!(Errno::last_raw(), 0);
    nice
}
