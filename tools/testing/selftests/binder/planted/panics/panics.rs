// SPDX-License-Identifier: GPL-2.0

//! Code that can panic.
//!
//! scripts/check-panics has to find each function here whose name begins with `planted_`, and none that begins with
//! `clean_`. The module is built and never loaded. It is no part of the driver.

use core::hint::black_box;
use kernel::{
    bindings,
    new_spinlock,
    prelude::*,
    str::CString,
    sync::{
        LockedBy,
        SpinLock, //
    },
    warn_on, //
};

module! {
    type: Panics,
    name: "panics",
    authors: ["The binder-rs authors"],
    description: "Code that can panic",
    license: "GPL v2",
}

struct Panics;

impl kernel::Module for Panics {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        black_box(ALL);
        Ok(Self)
    }
}

/// Keeps the functions from being left out.
static ALL: &[fn(&mut Room) -> usize] = &[
    planted_addition,
    planted_subtraction,
    planted_multiplication,
    planted_negation,
    planted_shift,
    planted_division,
    planted_remainder,
    planted_index,
    planted_range,
    planted_text_range,
    planted_copy,
    planted_option,
    planted_expectation,
    planted_result,
    planted_panic,
    planted_assertion,
    planted_equality,
    planted_unreachable,
    planted_in_code_of_the_kernel,
    planted_in_code_of_the_core,
    planted_in_a_function_of_the_kernel,
    planted_owner,
    planted_bug,
    planted_trap,
    clean_arithmetic,
    clean_access,
    clean_warning,
];

/// What the functions work on, of which the compiler knows nothing.
struct Room {
    a: usize,
    b: usize,
    signed: isize,
    bytes: KVec<u8>,
    text: &'static str,
    option: Option<usize>,
    owner: Pin<KBox<SpinLock<usize>>>,
    owned: LockedBy<usize, usize>,
}

#[inline(never)]
fn planted_addition(room: &mut Room) -> usize {
    room.a + room.b
}

#[inline(never)]
fn planted_subtraction(room: &mut Room) -> usize {
    room.a - room.b
}

#[inline(never)]
fn planted_multiplication(room: &mut Room) -> usize {
    room.a * room.b
}

#[inline(never)]
fn planted_negation(room: &mut Room) -> usize {
    (-room.signed) as usize
}

#[inline(never)]
fn planted_shift(room: &mut Room) -> usize {
    room.a << room.b
}

#[inline(never)]
fn planted_division(room: &mut Room) -> usize {
    room.a / room.b
}

#[inline(never)]
fn planted_remainder(room: &mut Room) -> usize {
    room.a % room.b
}

#[inline(never)]
fn planted_index(room: &mut Room) -> usize {
    usize::from(room.bytes[room.a])
}

#[inline(never)]
fn planted_range(room: &mut Room) -> usize {
    room.bytes[room.a..].iter().map(|&byte| usize::from(byte)).max().unwrap_or(0)
}

#[inline(never)]
fn planted_text_range(room: &mut Room) -> usize {
    room.text[room.a..].len()
}

#[inline(never)]
fn planted_copy(room: &mut Room) -> usize {
    room.bytes.copy_from_slice(room.text.as_bytes());
    0
}

#[inline(never)]
fn planted_option(room: &mut Room) -> usize {
    room.option.unwrap()
}

#[inline(never)]
fn planted_expectation(room: &mut Room) -> usize {
    room.option.expect("there is one")
}

#[inline(never)]
fn planted_result(room: &mut Room) -> usize {
    usize::from(u8::try_from(room.a).unwrap())
}

#[inline(never)]
fn planted_panic(room: &mut Room) -> usize {
    if room.a == 7 {
        panic!("seven");
    }
    0
}

#[inline(never)]
fn planted_assertion(room: &mut Room) -> usize {
    assert!(room.a == 7);
    0
}

#[inline(never)]
fn planted_equality(room: &mut Room) -> usize {
    assert_eq!(room.a, room.b);
    0
}

#[inline(never)]
fn planted_unreachable(room: &mut Room) -> usize {
    match room.a {
        0 | 1 => 3,
        _ => unreachable!(),
    }
}

/// Generic code of the kernel's, compiled into this module.
#[inline(never)]
fn planted_in_code_of_the_kernel(room: &mut Room) -> usize {
    usize::from(room.bytes.push(1, GFP_KERNEL).is_ok())
}

/// The same of the core library.
#[inline(never)]
fn planted_in_code_of_the_core(room: &mut Room) -> usize {
    room.bytes.iter().map(|&byte| usize::from(byte)).sum()
}

/// Code that the kernel has compiled, and that this module calls.
#[inline(never)]
fn planted_in_a_function_of_the_kernel(room: &mut Room) -> usize {
    usize::from(CString::try_from_fmt(fmt!("{}", room.a)).is_ok())
}

#[inline(never)]
fn planted_owner(room: &mut Room) -> usize {
    *room.owned.access_mut(&mut room.owner.lock())
}

#[inline(never)]
fn planted_bug(room: &mut Room) -> usize {
    if room.a == 7 {
        // SAFETY: It stops the machine, which is what this is for.
        unsafe { bindings::BUG() };
    }
    0
}

#[inline(never)]
fn planted_trap(room: &mut Room) -> usize {
    if room.a == 7 {
        // SAFETY: As above.
        unsafe { core::arch::asm!("ud2") };
    }
    0
}

#[inline(never)]
fn clean_arithmetic(room: &mut Room) -> usize {
    room.a
        .wrapping_add(room.b)
        .saturating_mul(room.a)
        .checked_div(room.b)
        .unwrap_or(room.a / 8)
}

#[inline(never)]
fn clean_access(room: &mut Room) -> usize {
    room.bytes
        .get(room.a)
        .copied()
        .map_or(room.option.unwrap_or(7), usize::from)
}

#[inline(never)]
fn clean_warning(room: &mut Room) -> usize {
    usize::from(warn_on!(room.a == 7))
}

/// Never called: it keeps the fields from being unused.
#[allow(dead_code)]
fn room() -> Result<Room> {
    let owner = KBox::pin_init(new_spinlock!(0, "planted"), GFP_KERNEL)?;
    let owned = LockedBy::new(&*owner, 0);
    Ok(Room {
        a: 0,
        b: 0,
        signed: 0,
        bytes: KVec::new(),
        text: "",
        option: None,
        owner,
        owned,
    })
}
