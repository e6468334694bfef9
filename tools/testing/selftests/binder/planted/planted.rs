// SPDX-License-Identifier: GPL-2.0

//! Mistakes made on purpose.
//!
//! A run in the debug kernel is worth something only if it fails when there is something wrong. This module does one
//! wrong thing while it is loaded, the one that the parameter `bug=` names by its number. scripts/debug-test loads it and
//! expects the run to fail, with the function here in the stack that is printed. It is no part of the driver.

use core::{
    hint::black_box,
    ptr, //
};
use kernel::{
    new_mutex, new_spinlock,
    prelude::*,
    sync::{
        Arc,
        Completion,
        Mutex,
        SpinLock, //
    },
    workqueue, //
};
use pin_init::stack_pin_init;

module! {
    type: Planted,
    name: "planted",
    authors: ["The binder-rs authors"],
    description: "Mistakes made on purpose",
    license: "GPL v2",
    params: {
        bug: i32 {
            default: 0,
            description: "Which mistake to make",
        },
    },
}

struct Planted;

impl kernel::Module for Planted {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        match *module_parameters::bug.value() {
            // A module that does nothing wrong is loaded without a complaint.
            0 => {}
            1 => use_after_free()?,
            2 => out_of_bounds()?,
            3 => lock_inversion(),
            4 => sleep_in_spinlock(),
            5 => leak()?,
            6 => debug_assertion(),
            7 => two_threads()?,
            _ => return Err(EINVAL),
        }
        Ok(Self)
    }
}

#[inline(never)]
fn use_after_free() -> Result {
    let raw = KBox::into_raw(KBox::new([1u64; 8], GFP_KERNEL)?);
    // SAFETY: It came from a `KBox` just now.
    drop(unsafe { KBox::from_raw(raw) });
    // SAFETY: There is none: this is the mistake.
    unsafe { ptr::write_volatile(raw.cast::<u64>(), 2) };
    Ok(())
}

#[inline(never)]
fn out_of_bounds() -> Result {
    let boxed = KBox::new([1u8; 60], GFP_KERNEL)?;
    let raw = ptr::from_ref(&*boxed).cast::<u8>();
    // SAFETY: There is none: this is the mistake.
    let byte = unsafe { ptr::read_volatile(raw.wrapping_add(60)) };
    pr_info!("read {byte}\n");
    Ok(())
}

#[inline(never)]
fn in_this_order(first: &Mutex<()>, then: &Mutex<()>) {
    let first = first.lock();
    let then = then.lock();
    drop(then);
    drop(first);
}

/// No other task takes these locks, so there is no deadlock; lockdep reports the order all the same.
#[inline(never)]
fn lock_inversion() {
    stack_pin_init!(let one = new_mutex!((), "planted::one"));
    stack_pin_init!(let two = new_mutex!((), "planted::two"));
    in_this_order(&one, &two);
    in_this_order(&two, &one);
}

#[inline(never)]
fn lock_both(spinning: &SpinLock<()>, sleeping: &Mutex<()>) {
    let spinning = spinning.lock();
    // This one is free, so that it would go well nearly always.
    drop(sleeping.lock());
    drop(spinning);
}

#[inline(never)]
fn sleep_in_spinlock() {
    stack_pin_init!(let spinning = new_spinlock!((), "planted::spinning"));
    stack_pin_init!(let sleeping = new_mutex!((), "planted::sleeping"));
    lock_both(&spinning, &sleeping);
}

#[inline(never)]
fn leak() -> Result {
    // Several, as the address of one may lie about somewhere.
    for _ in 0..10 {
        let _ = KBox::into_raw(KBox::new([7u8; 200], GFP_KERNEL)?);
    }
    Ok(())
}

#[inline(never)]
fn debug_assertion() {
    debug_assert!(*module_parameters::bug.value() == 0, "a debug assertion");
}

/// What two threads count in without agreeing on it.
static mut COUNT: u64 = 0;

#[inline(never)]
fn data_race() {
    for _ in 0..2_000_000 {
        let count = black_box(&raw mut COUNT);
        // SAFETY: There is none: this is the mistake. The place is there as long as the module is.
        unsafe { *count = (*count).wrapping_add(1) };
    }
}

#[inline(never)]
fn two_threads() -> Result {
    let done = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
    let other = done.clone();
    workqueue::system_unbound().try_spawn(GFP_KERNEL, move || {
        data_race();
        other.complete_all();
    })?;
    data_race();
    done.wait_for_completion();
    Ok(())
}
