// SPDX-License-Identifier: GPL-2.0

//! Nice values: a thread that works on a call is as nice as the caller.

use kernel::{
    bindings,
    task::Task, //
};

/// The current thread's nice value.
pub(crate) fn current() -> i32 {
    // SAFETY: The current task is valid; the field is an integer that is changed with plain stores.
    let priority = unsafe { (&raw const (*Task::current_raw()).static_prio).read_volatile() };
    // CAST: A small constant.
    priority - bindings::DEFAULT_PRIO as i32
}

/// The same, to keep: real-time threads, whose value is out of range, count as the least nice.
pub(crate) fn current_small() -> i8 {
    // CAST: Clamped to what fits.
    current().clamp(bindings::MIN_NICE, bindings::MAX_NICE as i32) as i8
}

/// Makes the current thread as nice as `nice`, or as close to that as it may come by its limits.
pub(crate) fn set(nice: i32) {
    let now = current();
    if nice == now {
        return;
    }
    let wanted = if nice < now {
        nice.max(lowest_allowed(now))
    } else {
        nice
    };
    // SAFETY: The current task is valid. Values out of range are ignored.
    unsafe { bindings::set_user_nice(Task::current_raw(), wanted as isize) };
}

/// The lowest nice value that the current thread may take, no higher than what it has.
#[cold]
fn lowest_allowed(now: i32) -> i32 {
    // SAFETY: The function has no requirements.
    if unsafe { bindings::capable(bindings::CAP_SYS_NICE as i32) } {
        return bindings::MIN_NICE;
    }
    // SAFETY: The current task has the fields that it shares with its group's other threads for as long as it runs; the
    // limit is a number that is changed with plain stores.
    let limit = unsafe {
        let limits = &raw const (*(*Task::current_raw()).signal).rlim;
        (&raw const (*limits)[bindings::RLIMIT_NICE as usize].rlim_cur).read_volatile()
    };
    // CAST: Limits that count nice levels are at most 40; others are clamped.
    let limit = limit.min(40) as i32;
    (bindings::MAX_NICE as i32 + 1 - limit).min(now)
}
