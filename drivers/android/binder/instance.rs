// SPDX-License-Identifier: GPL-2.0

//! Instances: sets of devices that belong together.
//!
//! Each mount of binderfs is one, and the module's own nodes under `/dev` are one. What a device allows its users to do
//! to processes of other devices ends at the instance: a mount of one's own, which any user can have in a user
//! namespace, is a way to what is in it and to nothing else.

use core::ptr::NonNull;
use kernel::{
    bindings,
    prelude::*,
    sync::Arc, //
};

// What is inside a `user_namespace` is not looked at.
#[allow(improper_ctypes)]
extern "C" {
    fn binder_rs_get_user_ns(ns: *mut bindings::user_namespace) -> *mut bindings::user_namespace;
    fn binder_rs_put_user_ns(ns: *mut bindings::user_namespace);
}

/// A set of devices that belong together. Two are the same if they are one object.
///
/// # Invariants
///
/// `user_ns` is valid, and this value owns one reference on it.
pub(crate) struct Instance {
    user_ns: NonNull<bindings::user_namespace>,
}

// SAFETY: References on a user namespace are taken and given back on any thread.
unsafe impl Send for Instance {}
// SAFETY: `&Instance` allows nothing but checks against the namespace, which is not written.
unsafe impl Sync for Instance {}

impl Instance {
    /// An instance that belongs to `user_ns`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    ///
    /// # Safety
    ///
    /// `user_ns` must be valid.
    pub(crate) unsafe fn new(user_ns: *mut bindings::user_namespace) -> Result<Arc<Self>> {
        // SAFETY: By the caller's promise.
        let user_ns = unsafe { binder_rs_get_user_ns(user_ns) };
        // INVARIANT: The reference is the one just taken.
        let new = Self {
            user_ns: NonNull::new(user_ns).ok_or(EINVAL)?,
        };
        Ok(Arc::new(new, GFP_KERNEL_ACCOUNT)?)
    }

    /// The instance that the module's own nodes are. It belongs to the initial user namespace.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn of_module() -> Result<Arc<Self>> {
        // SAFETY: The initial user namespace is always there.
        unsafe { Self::new(&raw mut bindings::init_user_ns) }
    }

    /// Whether the current thread administers the instance: it has `CAP_SYS_ADMIN` in the user namespace that the
    /// instance belongs to, as is needed to mount binderfs there.
    ///
    /// The thread counts as one that has used the capability, and a security module may log that it has not got it. So
    /// this is asked last.
    pub(crate) fn current_is_admin(&self) -> bool {
        // SAFETY: By the type invariant. CAST: A small constant.
        unsafe { bindings::ns_capable(self.user_ns.as_ptr(), bindings::CAP_SYS_ADMIN as c_int) }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is this value's to give back.
        unsafe { binder_rs_put_user_ns(self.user_ns.as_ptr()) };
    }
}
