// SPDX-License-Identifier: GPL-2.0

//! Safe faces of the functions in `helpers.c`.

use kernel::{
    bindings,
    ffi::{
        c_char,
        c_int,
        c_uint,
        c_void, //
    },
    fmt,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

extern "C" {
    static binder_rs_devices: *const c_char;
    #[cfg(MODULE)]
    static binder_rs_lsm_hooks: *const c_char;
    fn binder_rs_set_current_state(state: c_uint);
    fn binder_rs_ratelimit() -> bool;
    fn binder_rs_cond_resched();
    fn binder_rs_fatal_signal_pending() -> bool;
}

/// The module parameter `devices=`: names separated by commas.
///
/// It cannot be written once the module runs (mode 0444), so the text does not change under the reader.
pub(crate) fn devices() -> &'static [u8] {
    // SAFETY: The variable is defined in `helpers.c` and not written to, see above.
    let text = unsafe { binder_rs_devices };
    // SAFETY: It is a `charp` parameter.
    unsafe { parameter(text) }
}

/// The module parameter `lsm_hooks=`: a word. It cannot be written once the module runs either.
#[cfg(MODULE)]
pub(crate) fn lsm_hooks() -> &'static [u8] {
    // SAFETY: The variable is defined in `helpers.c` and not written to, see above.
    let text = unsafe { binder_rs_lsm_hooks };
    // SAFETY: It is a `charp` parameter.
    unsafe { parameter(text) }
}

/// # Safety
///
/// `text` must be the value of a `charp` parameter.
unsafe fn parameter(text: *const c_char) -> &'static [u8] {
    // SAFETY: A `charp` parameter is a string that ends in NUL.
    let length = unsafe { bindings::strlen(text) };
    // SAFETY: The string has so many bytes, and lives as long as the module does.
    unsafe { core::slice::from_raw_parts(text.cast(), length) }
}

/// Sets the state in which the current task's next `schedule()` leaves it, with the barrier that goes with it.
pub(crate) fn set_current_state(state: u32) {
    // SAFETY: Setting one's own state is always allowed.
    unsafe { binder_rs_set_current_state(state) };
}

/// Lets another task run, if one is due. A kernel without preemption has no other chance in a long loop.
pub(crate) fn cond_resched() {
    // SAFETY: Called where sleeping is allowed: in a system call or a work item, with no lock held.
    unsafe { binder_rs_cond_resched() };
}

/// Whether the current thread was killed: it does not return to user space any more.
pub(crate) fn is_killed() -> bool {
    // SAFETY: The function has no requirements.
    unsafe { binder_rs_fatal_signal_pending() }
}

/// Whether another line about a user's mistake may be printed now.
pub(crate) fn may_log() -> bool {
    // SAFETY: The function has no requirements.
    unsafe { binder_rs_ratelimit() }
}

/// The error for what does not fit the protocol's state, which the kernel's crates have no name for.
pub(crate) fn eproto() -> Error {
    // CAST: A small constant.
    Error::from_errno(-(bindings::EPROTO as c_int))
}

/// A number that nothing else has had for a long while, for logs. Never 0.
pub(crate) fn next_debug_id() -> u32 {
    static LAST: Atomic<u32> = Atomic::new(0);

    match LAST.fetch_add(1, Relaxed).wrapping_add(1) {
        0 => LAST.fetch_add(1, Relaxed).wrapping_add(1),
        id => id,
    }
}

/// The lower half of the kernel's tick count: enough to tell how old something is that is not older than weeks.
pub(crate) fn jiffies() -> u32 {
    // SAFETY: The kernel's tick count can be read at any time.
    // CAST: Only the lower half is wanted.
    unsafe { (&raw const bindings::jiffies).read_volatile() as u32 }
}

/// Milliseconds since [`jiffies`] was `start`.
pub(crate) fn milliseconds_since(start: u32) -> u64 {
    // SAFETY: The function has no requirements.
    unsafe { bindings::jiffies64_to_msecs(u64::from(jiffies().wrapping_sub(start))) }
}

/// An address that is printed as a hash, which stays the same until the next boot and does not reveal the address.
pub(crate) struct Hashed(pub(crate) u64);

impl fmt::Display for Hashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; 20];
        // SAFETY: The function writes at most as many bytes as the buffer has, the last of them 0.
        unsafe {
            bindings::snprintf(
                text.as_mut_ptr().cast(),
                text.len(),
                c"%p".as_char_ptr(),
                // CAST: The driver runs on 64-bit kernels only.
                core::ptr::without_provenance::<c_void>(self.0 as usize),
            );
        }
        let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
        f.write_str(core::str::from_utf8(text).map_err(|_| fmt::Error)?)
    }
}

/// Logs one line about a mistake of user space, rate-limited, with the process and thread that made it.
macro_rules! user_error {
    ($pid:expr, $tid:expr, $($what:tt)*) => {
        if $crate::sys::helpers::may_log() {
            kernel::pr_info!("{}:{} {}\n", $pid, $tid, kernel::prelude::fmt!($($what)*));
        }
    };
}
pub(crate) use user_error;
