// SPDX-License-Identifier: GPL-2.0

//! Arithmetic that cannot panic.
//!
//! Kernels with `CONFIG_RUST_OVERFLOW_CHECKS` panic where a plain sum overflows, in the driver and in the generic code of
//! the kernel's crates that is compiled into it. The driver is to have no such place; `scripts/check-panics` finds them.
//! What user space has a say in is added with checks where it is read. Here is the rest: counts of what is in memory,
//! which cannot get that far, and containers, whose own promises the compiler has to be told.

use kernel::{
    alloc::{
        Allocator,
        Flags,
        Vec, //
    },
    prelude::*,
    warn_on, //
};

/// Reports a mistake of the driver's.
#[cold]
#[inline(never)]
fn impossible() {
    warn_on!(true);
}

/// Counts one more of what is in memory.
#[inline]
pub(crate) fn increment(count: &mut usize) {
    match count.checked_add(1) {
        Some(more) => *count = more,
        None => impossible(),
    }
}

/// Counts one less.
#[inline]
pub(crate) fn decrement(count: &mut usize) {
    match count.checked_sub(1) {
        Some(less) => *count = less,
        None => impossible(),
    }
}

/// How many there are.
pub(crate) fn count(items: impl Iterator) -> usize {
    items.fold(0, |count, _| count.saturating_add(1))
}

/// Makes room for `more` elements.
///
/// # Errors
///
/// `ENOMEM`.
#[inline]
pub(crate) fn reserve<T, A: Allocator>(vec: &mut Vec<T, A>, more: usize, flags: Flags) -> Result {
    // Invariants of `Vec`: the compiler sees from them that its arithmetic does not overflow.
    if vec.len() > vec.capacity() || vec.capacity() > usize::MAX / 2 {
        return Err(ENOMEM);
    }
    Ok(vec.reserve(more, flags)?)
}

/// Appends `value`.
///
/// # Errors
///
/// `ENOMEM`; the value is dropped.
#[inline]
pub(crate) fn push<T, A: Allocator>(vec: &mut Vec<T, A>, value: T, flags: Flags) -> Result {
    reserve(vec, 1, flags)?;
    vec.push_within_capacity(value).map_err(|_| ENOMEM)
}

/// Appends copies of `values`.
///
/// # Errors
///
/// `ENOMEM`; some of them may be there.
pub(crate) fn extend<T: Copy>(vec: &mut KVec<T>, values: &[T], flags: Flags) -> Result {
    reserve(vec, values.len(), flags)?;
    for &value in values {
        vec.push_within_capacity(value).map_err(|_| ENOMEM)?;
    }
    Ok(())
}

/// The bytes of `text` without the NUL at its end.
pub(crate) fn text_bytes(text: &CStr) -> &[u8] {
    match text.to_bytes_with_nul().split_last() {
        Some((_, bytes)) => bytes,
        None => &[],
    }
}
