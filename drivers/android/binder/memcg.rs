// SPDX-License-Identifier: GPL-2.0

//! Memory cgroups: which one an allocation is charged to.
//!
//! An allocation with `GFP_KERNEL_ACCOUNT` is charged to the group of the task that makes it. That is right for what
//! a task causes and only itself can give back. It is wrong for the pages behind a mapping: the sender of a call
//! allocates them, but they stay with the receiver, for as long as the receiver likes. [`MemCgroup::charge`] is for
//! those.

use core::ptr;
use kernel::{
    bindings,
    types::NotThreadSafe,
    warn_on, //
};

// What is inside the structs is C's business.
#[allow(improper_ctypes)]
extern "C" {
    fn binder_rs_mem_cgroup_of_current() -> *mut bindings::mem_cgroup;
    fn binder_rs_mem_cgroup_put(memcg: *mut bindings::mem_cgroup);
    fn binder_rs_set_active_mem_cgroup(
        memcg: *mut bindings::mem_cgroup,
    ) -> *mut bindings::mem_cgroup;
}

/// A memory cgroup.
///
/// A group that was removed still exists as long as this does. What is charged to it then, the kernel charges to its
/// nearest ancestor that was not removed, and so it did with all that had been charged to it before.
///
/// # Invariants
///
/// `memcg` is null, or points at a group on which this value owns a reference. It is null only where the kernel has no
/// memory cgroups, or they are disabled.
pub(crate) struct MemCgroup {
    memcg: *mut bindings::mem_cgroup,
}

// SAFETY: A reference on a group may be given back on any thread.
unsafe impl Send for MemCgroup {}
// SAFETY: `&MemCgroup` allows no more than to charge the group, for which the kernel locks.
unsafe impl Sync for MemCgroup {}

impl MemCgroup {
    /// The group of the current process: the one that its memory is charged to.
    pub(crate) fn of_current() -> Self {
        // INVARIANT: The function takes a reference on what it returns.
        Self {
            // SAFETY: The function has no requirements.
            memcg: unsafe { binder_rs_mem_cgroup_of_current() },
        }
    }

    /// Has this group charged for what the current task allocates with `__GFP_ACCOUNT`, until the value returned is
    /// dropped. That may be nested.
    pub(crate) fn charge(&self) -> Charge<'_> {
        Charge {
            // SAFETY: The group exists as long as `self` is borrowed, and by then what was active before is active
            // again.
            before: unsafe { binder_rs_set_active_mem_cgroup(self.memcg) },
            _group: self,
            _not_thread_safe: NotThreadSafe,
        }
    }
}

impl Drop for MemCgroup {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this value owns the reference, if there is a group.
        unsafe { binder_rs_mem_cgroup_put(self.memcg) };
    }
}

/// As long as this lives, allocations of the current task are charged to a group of the caller's choice.
///
/// # Invariants
///
/// `before` is what was the task's active group when this was made.
#[must_use = "nothing is charged to the group once this is dropped"]
pub(crate) struct Charge<'a> {
    before: *mut bindings::mem_cgroup,
    _group: &'a MemCgroup,
    _not_thread_safe: NotThreadSafe,
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        // SAFETY: This is the task that made the value, as it is not `Send`. What was active then outlives this, for
        // it was made active around it.
        let ours = unsafe { binder_rs_set_active_mem_cgroup(self.before) };
        warn_on!(!ptr::eq(ours, self._group.memcg));
    }
}
