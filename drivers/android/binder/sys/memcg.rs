// SPDX-License-Identifier: GPL-2.0

//! Memory cgroups: which one an allocation is charged to.
//!
//! An allocation with `GFP_KERNEL_ACCOUNT` is charged to the group of the task that makes it. That is right for what
//! the task causes. It is wrong for what it allocates on behalf of another process, which decides how long it stays:
//! pages behind a mapping are allocated by senders and kept by the receiver, and so is a reply. [`Payer::Group`] is
//! for those.

use core::{
    mem::transmute,
    ptr, //
};
use kernel::{
    alloc::Flags,
    bindings,
    prelude::*,
    sync::Arc,
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

/// `GFP_KERNEL_ACCOUNT`, and the allocation fails rather than have a process killed.
pub(crate) const GFP_GROUP: u32 =
    bindings::GFP_KERNEL_ACCOUNT | 1 << bindings::___GFP_RETRY_MAYFAIL_BIT;

const _: () = assert!(size_of::<Flags>() == size_of::<u32>());

/// The same for the kernel's crates, which have no name for `__GFP_RETRY_MAYFAIL`.
// SAFETY: `Flags` is a struct with one field, which is a `u32` with flags of the allocator. As it is no larger than
// that, the field is all of it.
const GROUP_FLAGS: Flags = unsafe { transmute::<u32, Flags>(GFP_GROUP) };

/// Which memory cgroup an allocation is charged to.
pub(crate) enum Payer {
    /// That of the current task. If it is at its limit, and nothing in it can be reclaimed, a process in it may be
    /// killed, as with any allocation of the task's own.
    Current,
    /// This one. It is not the current task's to decide that a process in it be killed, so the allocation fails then.
    Group(Arc<MemCgroup>),
}

impl Payer {
    /// Calls `allocate` with the flags for an allocation that is charged so. It may allocate what it likes, but must not
    /// touch user memory: the payer could be charged for that, too.
    #[inline]
    pub(crate) fn pay<T>(&self, allocate: impl FnOnce(Flags) -> T) -> T {
        match self {
            Self::Current => allocate(GFP_KERNEL_ACCOUNT),
            Self::Group(group) => {
                let _active = group.make_active();
                allocate(GROUP_FLAGS)
            }
        }
    }
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
    /// dropped.
    fn make_active(&self) -> Active<'_> {
        Active {
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

/// As long as this lives, a group is the current task's active one.
///
/// # Invariants
///
/// `before` is what was the task's active group when this was made.
struct Active<'a> {
    before: *mut bindings::mem_cgroup,
    _group: &'a MemCgroup,
    _not_thread_safe: NotThreadSafe,
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        // SAFETY: This is the task that made the value, as it is not `Send`. What was active then outlives this, for
        // it was made active around it.
        let ours = unsafe { binder_rs_set_active_mem_cgroup(self.before) };
        warn_on!(!ptr::eq(ours, self._group.memcg));
    }
}
