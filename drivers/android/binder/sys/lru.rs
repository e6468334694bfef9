// SPDX-License-Identifier: GPL-2.0

//! The list of pages that may be taken back: `struct list_lru`, one list per NUMA node and memory cgroup.
//!
//! A page stands on the list of the group that its entry is charged to, and the pages and the entries of one mapping
//! are charged to one group. So reclaim in a group that is at its limit finds just the pages that count against the
//! limit.
//!
//! There is one for the whole module. It stands below the pages, which put themselves on it, and below the shrinker,
//! which walks it.

use core::ptr::{
    self,
    NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    ffi::{
        c_char,
        c_uint,
        c_void, //
    },
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc, //
    },
    types::Opaque, //
};

use crate::sys::memcg::{
    MemCgroup,
    Payer,
    GFP_GROUP, //
};

// What is inside the structs is C's business.
#[allow(improper_ctypes)]
extern "C" {
    fn binder_rs_create_cache(name: *const c_char, size: c_uint) -> *mut bindings::kmem_cache;
    fn binder_rs_alloc_entries(
        cache: *mut bindings::kmem_cache,
        lru: *mut bindings::list_lru,
        flags: bindings::gfp_t,
    ) -> *mut c_void;
}

/// The module's `list_lru`.
///
/// # Invariants
///
/// `cache` is null, or it is a valid cache and the `list_lru` is initialised. Between a successful [`Lru::init`] and
/// [`Lru::destroy`] it is not null. As memory for entries comes from the cache, and none is left when the list is
/// destroyed, there are entries only while the list is initialised.
pub(crate) struct Lru {
    inner: Opaque<bindings::list_lru>,
    /// Where the memory of the entries comes from.
    cache: Atomic<*mut bindings::kmem_cache>,
}

// SAFETY: The functions of `list_lru` lock for themselves.
unsafe impl Sync for Lru {}

/// The one list.
pub(crate) static LRU: Lru = Lru {
    inner: Opaque::zeroed(),
    cache: Atomic::new(ptr::null_mut()),
};

impl Lru {
    /// Initialises the list; `shrinker` is the one that will walk it. Entries are allocated `entries_size` bytes at a
    /// time.
    ///
    /// # Safety
    ///
    /// To be called once, before anything else of the list is used; `shrinker` must be valid.
    pub(crate) unsafe fn init(
        &self,
        shrinker: *mut bindings::shrinker,
        entries_size: c_uint,
    ) -> Result {
        // SAFETY: The name is a string that lives as long as the module does, and so longer than the cache.
        let cache = NonNull::new(unsafe {
            binder_rs_create_cache(c"binder_rs_pages".as_char_ptr(), entries_size)
        })
        .ok_or(ENOMEM)?;
        // SAFETY: By the caller's promise the list is not used yet, and `shrinker` is valid.
        let result = unsafe { bindings::__list_lru_init(self.inner.get(), true, shrinker) };
        if let Err(e) = to_result(result) {
            // SAFETY: The cache was made above, and nothing is allocated from it.
            unsafe { bindings::kmem_cache_destroy(cache.as_ptr()) };
            return Err(e);
        }
        // INVARIANT: Both are initialised.
        self.cache.store(cache.as_ptr(), Release);
        Ok(())
    }

    /// Frees what the list itself takes.
    ///
    /// # Safety
    ///
    /// The list must be initialised and empty, and no memory for entries allocated. No other function of the list may
    /// run at the same time.
    pub(crate) unsafe fn destroy(&self) {
        // INVARIANT: The list is not initialised any more.
        let cache = self.cache.xchg(ptr::null_mut(), Relaxed);
        // SAFETY: By the caller's promise the list is initialised and empty, and not used at the same time.
        unsafe { bindings::list_lru_destroy(self.inner.get()) };
        // SAFETY: By the type invariant it is a cache, and by the caller's promise nothing is allocated from it.
        unsafe { bindings::kmem_cache_destroy(cache) };
    }

    /// Returns the cache. It is evidence that the list is initialised; `None` if it is not.
    fn cache(&self) -> Option<NonNull<bindings::kmem_cache>> {
        // Pairs with the release in `init`: what follows sees the list initialised.
        NonNull::new(self.cache.load(Acquire))
    }

    /// Allocates memory for entries, of the size that was given to [`Lru::init`], aligned for any type and not
    /// initialised. It is charged to `group`, which gets lists for its entries.
    ///
    /// # Errors
    ///
    /// - `ENOMEM`. No process is killed to avoid that.
    /// - `ENODEV` if the list is not initialised.
    pub(crate) fn alloc_entries(&self, group: Arc<MemCgroup>) -> Result<NonNull<c_void>> {
        let cache = self.cache().ok_or(ENODEV)?.as_ptr();
        // SAFETY: By the type invariant the cache is valid, and the list is initialised.
        let alloc = || unsafe { binder_rs_alloc_entries(cache, self.inner.get(), GFP_GROUP) };
        NonNull::new(Payer::Group(group).pay(|_| alloc())).ok_or(ENOMEM)
    }

    /// Frees memory for entries.
    ///
    /// # Safety
    ///
    /// `entries` must come from [`Lru::alloc_entries`], must not be used afterwards, and none of the entries may be on
    /// a list.
    pub(crate) unsafe fn free_entries(&self, entries: NonNull<c_void>) {
        let cache = self.cache.load(Relaxed);
        // SAFETY: By the caller's promise the memory comes from the cache, which by the type invariant is valid then.
        unsafe { bindings::kmem_cache_free(cache, entries.as_ptr()) };
    }

    /// Puts `entry` at the young end of the list of the NUMA node its memory is on and the group it is charged to.
    ///
    /// # Safety
    ///
    /// `entry` must be initialised and on no list, must stay valid until it is off this one, and must lie in memory
    /// from [`Lru::alloc_entries`].
    pub(crate) unsafe fn add(&self, entry: *mut bindings::list_head) {
        // SAFETY: As there is an entry, the list is initialised by the type invariant. The rest is the caller's promise.
        unsafe { bindings::list_lru_add_obj(self.inner.get(), entry) };
    }

    /// Takes `entry` off the list.
    ///
    /// # Safety
    ///
    /// `entry` must be on this list.
    pub(crate) unsafe fn del(&self, entry: *mut bindings::list_head) {
        // SAFETY: As there is an entry, the list is initialised by the type invariant. The rest is the caller's promise.
        unsafe { bindings::list_lru_del_obj(self.inner.get(), entry) };
    }

    /// The number of entries on the list of node `nid` and the group `memcg`.
    ///
    /// # Safety
    ///
    /// The list must be initialised. `nid` must be one of the system's nodes, and `memcg` null or a valid group.
    pub(crate) unsafe fn count(&self, nid: i32, memcg: *mut bindings::mem_cgroup) -> usize {
        // SAFETY: By the caller's promise.
        unsafe { bindings::list_lru_count_one(self.inner.get(), nid, memcg) }
    }

    /// The number of entries on the lists of all nodes and groups; 0 if the list is not initialised.
    pub(crate) fn count_all(&self) -> usize {
        if self.cache().is_none() {
            return 0;
        }
        // SAFETY: The number is written while the kernel boots, and where there can be one node only it is a constant.
        #[allow(unused_unsafe)]
        let nodes = unsafe { bindings::nr_node_ids };
        // CAST: A small number.
        (0..nodes as i32).fold(0, |all, nid| {
            // SAFETY: There is a cache, so by the type invariant the list is initialised. `nid` is one of the nodes.
            let here = unsafe { bindings::list_lru_count_node(self.inner.get(), nid) };
            here.saturating_add(all)
        })
    }

    /// Calls `isolate` for up to `budget` entries of node `nid` and the group `memcg`, oldest first, with the list's
    /// spinlock held, and returns how many of them it took off.
    ///
    /// # Safety
    ///
    /// The list must be initialised. `nid` must be one of the system's nodes, and `memcg` null or a valid group. `isolate`
    /// must be sound to call for each entry with `arg`, and must obey the rules of `list_lru_walk_cb`.
    pub(crate) unsafe fn walk(
        &self,
        nid: i32,
        memcg: *mut bindings::mem_cgroup,
        isolate: bindings::list_lru_walk_cb,
        arg: *mut c_void,
        mut budget: usize,
    ) -> usize {
        // SAFETY: By the caller's promise.
        unsafe {
            bindings::list_lru_walk_one(self.inner.get(), nid, memcg, isolate, arg, &mut budget)
        }
    }
}
