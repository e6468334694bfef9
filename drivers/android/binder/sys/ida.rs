// SPDX-License-Identifier: GPL-2.0

//! The kernel's ID allocator: small numbers, of which the lowest free one is allocated.
//!
//! A search takes O(log n). A few numbers take next to no memory, and memory is given back when numbers are freed. An
//! allocation may sleep.
//!
//! C header: [`include/linux/idr.h`](srctree/include/linux/idr.h)

use kernel::{
    bindings,
    ffi::c_uint,
    prelude::*,
    types::Opaque, //
};

/// The flags of an IDA, which a macro hides.
const FLAGS: bindings::gfp_t =
    bindings::XA_FLAGS_ALLOC | bindings::xa_lock_type_XA_LOCK_IRQ as bindings::gfp_t;

/// A `struct ida`.
///
/// # Invariants
///
/// `ida` is initialised.
#[pin_data(PinnedDrop)]
pub(crate) struct Ida {
    #[pin]
    ida: Opaque<bindings::ida>,
}

// SAFETY: An IDA can be used from any thread.
unsafe impl Send for Ida {}
// SAFETY: An IDA locks for itself.
unsafe impl Sync for Ida {}

impl Ida {
    /// Returns an allocator in which all numbers are free.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: This is what `ida_init` does; no number is taken.
            // SAFETY: The slot is valid for writes, and an IDA is an array with these flags.
            ida <- Opaque::ffi_init(|slot: *mut bindings::ida| unsafe {
                bindings::xa_init_flags(&raw mut (*slot).xa, FLAGS)
            }),
        })
    }

    /// Allocates the lowest free number that is not below `min`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, also if no number is free.
    pub(crate) fn alloc_min(&self, min: u32) -> Result<u32> {
        // SAFETY: By the type invariant this is an IDA.
        let number = unsafe {
            bindings::ida_alloc_range(
                self.ida.get(),
                min,
                // CAST: A positive constant.
                i32::MAX as c_uint,
                bindings::GFP_KERNEL_ACCOUNT,
            )
        };
        u32::try_from(number).map_err(|_| ENOMEM)
    }

    /// Frees a number.
    pub(crate) fn free(&self, number: u32) {
        // SAFETY: By the type invariant this is an IDA; it complains of numbers that are not taken and does nothing.
        unsafe { bindings::ida_free(self.ida.get(), number) };
    }
}

#[pinned_drop]
impl PinnedDrop for Ida {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant this is an IDA, and it is not used any more.
        unsafe { bindings::ida_destroy(self.ida.get()) };
    }
}

#[kunit_tests(binder_ida)]
mod tests {
    use super::*;

    fn numbers() -> Result<Pin<KBox<Ida>>> {
        KBox::pin_init(Ida::new(), GFP_KERNEL)
    }

    /// Takes as many numbers; says whether they were these.
    fn take(numbers: &Ida, wanted: core::ops::Range<u32>) -> Result<bool> {
        for number in wanted {
            if numbers.alloc_min(1)? != number {
                return Ok(false);
            }
        }
        Ok(true)
    }

    #[test]
    fn lowest_free_number_is_allocated() -> Result {
        let numbers = numbers()?;
        assert!(take(&numbers, 1..6)?);
        for number in [4, 2, 3] {
            numbers.free(number);
        }
        assert_eq!(numbers.alloc_min(1)?, 2);
        assert_eq!(numbers.alloc_min(1)?, 3);
        assert_eq!(numbers.alloc_min(1)?, 4);
        assert_eq!(numbers.alloc_min(1)?, 6);
        Ok(())
    }

    #[test]
    fn zero_is_allocated_only_when_asked_for() -> Result {
        let numbers = numbers()?;
        assert_eq!(numbers.alloc_min(1)?, 1);
        assert_eq!(numbers.alloc_min(0)?, 0);
        assert_eq!(numbers.alloc_min(0)?, 2);
        numbers.free(0);
        // Not even if it is the only one that is free.
        assert_eq!(numbers.alloc_min(1)?, 3);
        assert_eq!(numbers.alloc_min(0)?, 0);
        Ok(())
    }

    #[test]
    fn many_numbers_are_taken_and_come_back() -> Result {
        const MANY: u32 = 5000;

        let numbers = numbers()?;
        assert!(take(&numbers, 1..MANY)?);
        assert_eq!(numbers.alloc_min(1)?, MANY);
        for number in [MANY - 1, 64, 63, 1] {
            numbers.free(number);
        }
        for number in [1, 63, 64, MANY - 1, MANY + 1] {
            assert_eq!(numbers.alloc_min(1)?, number);
        }
        Ok(())
    }

    #[test]
    fn numbers_agree_with_a_model() -> Result {
        const MOST: usize = 600;

        let numbers = numbers()?;
        let mut taken = KVec::from_elem(false, MOST, GFP_KERNEL)?;
        let mut random = 0x9e37_79b9_u32;
        for _ in 0..20_000 {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            let place = random as usize >> 8;
            let free = taken.iter().skip(1).position(|&taken| !taken);
            match (random & 1, free) {
                (0, Some(free)) => {
                    let number = numbers.alloc_min(1)? as usize;
                    assert_eq!(number, free + 1);
                    if let Some(taken) = taken.get_mut(number) {
                        *taken = true;
                    }
                }
                _ => {
                    let number = place % MOST;
                    if let Some(taken) = taken.get_mut(number).filter(|taken| **taken) {
                        *taken = false;
                        numbers.free(number as u32);
                    }
                }
            }
        }
        Ok(())
    }
}
