// SPDX-License-Identifier: GPL-2.0

//! The list of pages that may be taken back: `struct list_lru`, one list per NUMA node.
//!
//! There is one for the whole module. It stands below the pages, which put themselves on it, and below the shrinker,
//! which walks it.

use core::ptr;
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// The module's `list_lru`.
///
/// # Invariants
///
/// Between a successful [`Lru::init`] and [`Lru::destroy`] the `list_lru` is initialised. Whoever holds an entry that
/// is or was on it lives between the two: entries exist only while a device file is open, and the module initialises
/// the list before it has devices and destroys it after.
pub(crate) struct Lru {
    inner: Opaque<bindings::list_lru>,
}

// SAFETY: The functions of `list_lru` lock for themselves.
unsafe impl Sync for Lru {}

/// The one list.
pub(crate) static LRU: Lru = Lru {
    inner: Opaque::zeroed(),
};

impl Lru {
    /// Initialises the list; `shrinker` is the one that will walk it.
    ///
    /// # Safety
    ///
    /// To be called once, before anything else of the list is used; `shrinker` must be valid.
    pub(crate) unsafe fn init(&self, shrinker: *mut bindings::shrinker) -> Result {
        // SAFETY: By the caller's promise nobody else uses the list yet, and `shrinker` is valid.
        to_result(unsafe { bindings::__list_lru_init(self.inner.get(), false, shrinker) })
    }

    /// Frees what the list itself takes.
    ///
    /// # Safety
    ///
    /// The list must be initialised and empty, and not be used afterwards.
    pub(crate) unsafe fn destroy(&self) {
        // SAFETY: By the caller's promise.
        unsafe { bindings::list_lru_destroy(self.inner.get()) };
    }

    /// Puts `entry` at the young end of the list of the NUMA node its memory is on.
    ///
    /// # Safety
    ///
    /// `entry` must be initialised and on no list, must stay valid until it is off this one, and must lie in memory
    /// from the slab or page allocator (its node is found from its address).
    pub(crate) unsafe fn add(&self, entry: *mut bindings::list_head) {
        // SAFETY: By the caller's promise; the list is initialised by the type invariants.
        unsafe { bindings::list_lru_add_obj(self.inner.get(), entry) };
    }

    /// Takes `entry` off the list.
    ///
    /// # Safety
    ///
    /// `entry` must be on this list.
    pub(crate) unsafe fn del(&self, entry: *mut bindings::list_head) {
        // SAFETY: By the caller's promise; the list is initialised by the type invariants.
        unsafe { bindings::list_lru_del_obj(self.inner.get(), entry) };
    }

    /// The number of entries on the list of node `nid`.
    pub(crate) fn count(&self, nid: i32) -> usize {
        // SAFETY: The list is initialised by the type invariants; it does not know of memory cgroups, so none is given.
        unsafe { bindings::list_lru_count_one(self.inner.get(), nid, ptr::null_mut()) }
    }

    /// The number of entries on the lists of all nodes.
    pub(crate) fn count_all(&self) -> usize {
        // SAFETY: The number is written while the kernel boots, and where there can be one node only it is a constant.
        #[allow(unused_unsafe)]
        let nodes = unsafe { bindings::nr_node_ids };
        // CAST: A small number.
        (0..nodes as i32).fold(0, |all, nid| self.count(nid).saturating_add(all))
    }

    /// Calls `isolate` for up to `budget` entries of node `nid`, oldest first, with the list's spinlock held, and
    /// returns how many of them it took off.
    ///
    /// # Safety
    ///
    /// `isolate` must be sound to call for each entry with `arg`, and must obey the rules of `list_lru_walk_cb`.
    pub(crate) unsafe fn walk(
        &self,
        nid: i32,
        isolate: bindings::list_lru_walk_cb,
        arg: *mut kernel::ffi::c_void,
        mut budget: usize,
    ) -> usize {
        // SAFETY: The list is initialised by the type invariants, the rest is the caller's promise.
        unsafe {
            bindings::list_lru_walk_one(
                self.inner.get(),
                nid,
                ptr::null_mut(),
                isolate,
                arg,
                &mut budget,
            )
        }
    }
}
