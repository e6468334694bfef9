// SPDX-License-Identifier: GPL-2.0

//! Data that a lock elsewhere guards, like `kernel::sync::LockedBy`, without its panic.
//!
//! The kernel's type panics when it is shown another lock's data than the one that guards it. Here that is a warning,
//! and the caller gets a stand-in that belongs to what it has shown: no mistake in the driver becomes the machine's end,
//! and none touches data without the lock.

use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    ptr, //
};
use kernel::{
    prelude::*,
    warn_on, //
};

/// What is behind a lock that also guards values of type `T` elsewhere, and has one to spare.
///
/// Nothing reads the spare value but callers that have shown the wrong lock.
pub(crate) trait Guards<T> {
    /// The spare value.
    fn spare(&self) -> &T;

    /// The spare value, to be changed.
    fn spare_mut(&mut self) -> &mut T;
}

/// Names one value behind a lock.
///
/// A wrong name is harmless: what is `LockedBy` it cannot be reached.
pub(crate) struct Owner<U> {
    /// An address to compare with, never followed.
    address: usize,
    _of: PhantomData<fn(U)>,
}

impl<U> Owner<U> {
    /// Names nothing.
    pub(crate) const fn none() -> Self {
        Self {
            address: 0,
            _of: PhantomData,
        }
    }

    /// Names `value`, for as long as it stays where it is.
    pub(crate) fn of(value: &U) -> Self {
        Self {
            address: ptr::from_ref(value).addr(),
            _of: PhantomData,
        }
    }
}

/// A `T` that the lock of one `U` guards, which is elsewhere.
pub(crate) struct LockedBy<T, U> {
    /// The address of that `U`. It does not change.
    owner: usize,
    data: UnsafeCell<T>,
    _by: PhantomData<fn(U)>,
}

// SAFETY: Beside an address it has nothing but the data.
unsafe impl<T: Send, U> Send for LockedBy<T, U> {}

// SAFETY: `access_mut` hands out the data to one thread at a time, for which it has to be `Send`. `access` hands it out
// to several, and asks for `Sync` itself.
unsafe impl<T: Send, U> Sync for LockedBy<T, U> {}

impl<T, U: Guards<T>> LockedBy<T, U> {
    /// Data that is guarded together with what `owner` names.
    pub(crate) fn new(owner: &Owner<U>, data: T) -> Self {
        build_assert!(
            size_of::<U>() > 0,
            "values without a size can share an address"
        );
        Self {
            owner: owner.address,
            data: UnsafeCell::new(data),
            _by: PhantomData,
        }
    }

    /// Whether it is `owner` that this is guarded with.
    #[inline]
    pub(crate) fn is_locked_by(&self, owner: &U) -> bool {
        ptr::from_ref(owner).addr() == self.owner
    }

    /// The data, seen while `owner` cannot change.
    #[inline]
    pub(crate) fn access<'a>(&'a self, owner: &'a U) -> &'a T
    where
        T: Sync,
    {
        if !self.is_locked_by(owner) {
            mismatch();
            return owner.spare();
        }
        // SAFETY: There is one `U` at that address at a time, and a shared reference to it lives as long as this one
        // does. So there is no exclusive one, without which `access_mut` hands out nothing.
        unsafe { &*self.data.get() }
    }

    /// The data, exclusively while `owner` is.
    #[inline]
    pub(crate) fn access_mut<'a>(&'a self, owner: &'a mut U) -> &'a mut T {
        if !self.is_locked_by(owner) {
            mismatch();
            return owner.spare_mut();
        }
        // SAFETY: There is one `U` at that address at a time, and the only reference to it lives as long as this one
        // does. Without another neither function hands out anything.
        unsafe { &mut *self.data.get() }
    }
}

/// Reports a mistake of the driver's.
#[cold]
#[inline(never)]
fn mismatch() {
    warn_on!(true);
}

#[kunit_tests(binder_locked_by)]
mod tests {
    use super::*;

    struct Table(u32);

    impl Guards<u32> for Table {
        fn spare(&self) -> &u32 {
            &self.0
        }

        fn spare_mut(&mut self) -> &mut u32 {
            &mut self.0
        }
    }

    #[test]
    fn what_is_named_has_access_and_nothing_else() {
        let (mut right, wrong) = (Table(1), Table(2));
        let data = LockedBy::<u32, Table>::new(&Owner::of(&right), 3);
        assert!(data.is_locked_by(&right));
        assert!(!data.is_locked_by(&wrong));
        *data.access_mut(&mut right) += 1;
        assert_eq!(*data.access(&right), 4);
        assert_eq!(right.0, 1);
    }

    #[test]
    fn no_name_fits_nothing() {
        let data = LockedBy::<u32, Table>::new(&Owner::none(), 3);
        assert!(!data.is_locked_by(&Table(1)));
    }
}
