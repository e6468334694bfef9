// SPDX-License-Identifier: GPL-2.0

//! Nice values: a thread that works on a call is as nice as the caller.

use kernel::{
    bindings,
    prelude::*,
    task::Task, //
};

/// The current thread's nice value.
pub(crate) fn current() -> i32 {
    // SAFETY: The current task is valid; the field is an integer that is changed with plain stores.
    let priority = unsafe { (&raw const (*Task::current_raw()).static_prio).read_volatile() };
    // CAST: A small constant.
    priority.wrapping_sub(bindings::DEFAULT_PRIO as i32)
}

/// The same, to keep: real-time threads, whose value is out of range, count as the least nice.
pub(crate) fn current_small() -> i8 {
    small(current())
}

fn small(nice: i32) -> i8 {
    // CAST: Clamped to what fits.
    nice.clamp(bindings::MIN_NICE, bindings::MAX_NICE as i32) as i8
}

/// Makes the current thread as nice as `nice`, or as close to that as it may come by its limits.
pub(crate) fn set(nice: i32) {
    let now = current();
    if nice == now {
        return;
    }
    let wanted = if nice < now { allowed(nice, now) } else { nice };
    // SAFETY: The current task is valid. Values out of range are ignored.
    unsafe { bindings::set_user_nice(Task::current_raw(), wanted as isize) };
}

/// The nice value closest to `nice`, which is lower than `now`, that the current thread may take.
///
/// The limit comes first: to ask for a capability is an audit record where a security module says no, and marks a task
/// that has it as one that has used it.
#[cold]
fn allowed(nice: i32, now: i32) -> i32 {
    // SAFETY: The current task has the fields that it shares with its group's other threads for as long as it runs; the
    // limit is a number that is changed with plain stores.
    let limit = unsafe {
        let limits = &raw const (*(*Task::current_raw()).signal).rlim;
        (&raw const (*limits)[bindings::RLIMIT_NICE as usize].rlim_cur).read_volatile()
    };
    let wanted = nice.max(bindings::MIN_NICE);
    let lowest = lowest_within(limit, now);
    // SAFETY: The function has no requirements.
    if wanted >= lowest || unsafe { bindings::capable(bindings::CAP_SYS_NICE as i32) } {
        return wanted;
    }
    lowest
}

/// The lowest nice value that a limit of so many levels allows, no higher than `now`.
fn lowest_within(limit: usize, now: i32) -> i32 {
    // CAST: Limits that count nice levels are at most 40; others are clamped.
    let levels = limit.min(40) as i32;
    (bindings::MAX_NICE as i32 + 1 - levels).min(now)
}

#[kunit_tests(binder_nice)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_counts_levels_from_the_nicest() {
        // setrlimit(2): 20 less the limit is how low it may go.
        for (limit, lowest) in [
            (0, 20),
            (1, 19),
            (20, 0),
            (30, -10),
            (39, -19),
            (40, -20),
            (41, -20),
            (usize::MAX, -20),
        ] {
            assert_eq!(lowest_within(limit, 20), lowest);
            // What a thread has, it may keep.
            assert_eq!(lowest_within(limit, -20), -20);
            assert_eq!(lowest_within(limit, 0), lowest.min(0));
        }
    }

    #[test]
    fn what_is_out_of_range_is_kept_as_the_nearest() {
        for (nice, kept) in [(-20, -20), (19, 19), (0, 0), (20, 19), (-21, -20)] {
            assert_eq!(small(nice), kept);
        }
        // Real-time and deadline threads.
        assert_eq!(small(-120), -20);
        assert_eq!(small(i32::MIN), -20);
        assert_eq!(small(i32::MAX), 19);
    }
}
