// SPDX-License-Identifier: GPL-2.0

//! Giving unused pages back when memory is short.
//!
//! The walk of the LRU runs under the LRU's spinlock, but removing a page from page tables sleeps. So a scan has two
//! halves: the walk only *isolates* - it moves entries to a list of the scan's own - and when it is over, with no lock
//! held, what was isolated is sorted by process and offset, and each run of neighbours is zapped at once, with one
//! flush of the TLB, and freed.
//!
//! Pages in use may stand on the LRU, since taking them off on every call would cost every call. The walk drops the
//! ones it meets, and what that takes from its budget is given back to it, so that no number of them at the head of
//! the list can keep it from those that can be freed.
//!
//! Pages are charged to memory cgroups, and each group has lists of its own. Reclaim because of a group's limit calls
//! for that group and those below it only.

use core::{
    cmp::Ordering,
    iter,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    bindings,
    ffi::{
        c_int,
        c_uint,
        c_ulong,
        c_void, //
    },
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

use crate::{
    page_range::{
        Isolation,
        PageRange, //
    },
    sys::lru::LRU, //
};

/// Largest number of entries that one scan looks at: the largest mapping fits in one run.
const BATCH: isize = 1024;

/// The flag for a shrinker that is called for each NUMA node; `helpers.c` compares it with the kernel's.
const SHRINKER_NUMA_AWARE: c_uint = 4;
/// The flag for a shrinker that is called for each memory cgroup; `helpers.c` compares it with the kernel's.
const SHRINKER_MEMCG_AWARE: c_uint = 8;

/// Pages freed by reclaim since the module was loaded.
static RECLAIMED: Atomic<u64> = Atomic::new(0);

/// Pages freed by reclaim since the module was loaded.
pub(crate) fn reclaimed() -> u64 {
    RECLAIMED.load(Relaxed)
}

extern "C" {
    /// `include/linux/list_sort.h`, which the kernel's bindings leave out.
    fn list_sort(
        private: *mut c_void,
        head: *mut bindings::list_head,
        compare: Option<
            unsafe extern "C" fn(
                *mut c_void,
                *const bindings::list_head,
                *const bindings::list_head,
            ) -> c_int,
        >,
    );
}

/// The registered shrinker, with the LRU it works on.
///
/// # Invariants
///
/// `shrinker` is registered, and [`LRU`] is initialised.
pub(crate) struct Registration {
    shrinker: NonNull<bindings::shrinker>,
}

// SAFETY: A shrinker may be freed on any thread.
unsafe impl Send for Registration {}
// SAFETY: `&Registration` allows nothing.
unsafe impl Sync for Registration {}

impl Registration {
    /// Initialises the LRU and registers its shrinker.
    ///
    /// # Safety
    ///
    /// Only one registration may exist at a time. While it does not exist, there must be no page ranges.
    pub(crate) unsafe fn new() -> Result<Self> {
        let flags = SHRINKER_NUMA_AWARE | SHRINKER_MEMCG_AWARE;
        // SAFETY: The name is a string without anything to be filled in.
        let shrinker = unsafe { bindings::shrinker_alloc(flags, c"binder-rs".as_char_ptr()) };
        let shrinker = NonNull::new(shrinker).ok_or(ENOMEM)?;
        // SAFETY: By the caller's promise the list is not in use.
        if let Err(e) = unsafe { LRU.init(shrinker.as_ptr(), PageRange::ENTRIES_SIZE) } {
            // SAFETY: The shrinker was allocated above and never registered.
            unsafe { bindings::shrinker_free(shrinker.as_ptr()) };
            return Err(e);
        }
        // SAFETY: The shrinker was allocated above. It is not registered yet, so nothing else accesses it.
        let fields = unsafe { &mut *shrinker.as_ptr() };
        fields.count_objects = Some(count);
        fields.scan_objects = Some(scan);
        fields.batch = BATCH;
        // SAFETY: The shrinker is complete, and not registered yet.
        unsafe { bindings::shrinker_register(shrinker.as_ptr()) };
        // INVARIANT: The shrinker was registered, and the list initialised above.
        Ok(Self { shrinker })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the shrinker is registered. This waits for running scans.
        unsafe { bindings::shrinker_free(self.shrinker.as_ptr()) };
        // SAFETY: By the type invariant the list is initialised. By the promise made to `new` no page ranges are left,
        // which took their entries off and freed them. No scan runs any more.
        unsafe { LRU.destroy() };
    }
}

/// # Safety
///
/// To be called by the kernel, as `shrinker.count_objects`.
unsafe extern "C" fn count(
    _: *mut bindings::shrinker,
    sc: *mut bindings::shrink_control,
) -> c_ulong {
    // SAFETY: The kernel gives a valid control block, which does not change meanwhile.
    let sc = unsafe { &*sc };
    // SAFETY: The shrinker is registered only while the list is initialised. The kernel asks about one of its nodes and
    // holds the group.
    match unsafe { LRU.count(sc.nid, sc.memcg) } {
        // CAST: The constants are negative numbers that travel in an unsigned return value.
        0 => bindings::SHRINK_EMPTY as c_ulong,
        n => n,
    }
}

/// One scan's state: what its walk has isolated and what it has met.
struct Scan {
    isolated: bindings::list_head,
    in_use: usize,
}

/// # Safety
///
/// To be called by the walk of [`LRU`], with a [`Scan`] as `arg` that nothing else accesses meanwhile.
unsafe extern "C" fn isolate(
    item: *mut bindings::list_head,
    list: *mut bindings::list_lru_one,
    arg: *mut c_void,
) -> bindings::lru_status {
    let scan = arg.cast::<Scan>();
    // SAFETY: `arg` is a valid `Scan`.
    let isolated = unsafe { &raw mut (*scan).isolated };
    // SAFETY: The walk gave item and list. The list of the scan is initialised, and its own.
    match unsafe { PageRange::isolate(item, list, isolated) } {
        Isolation::Isolated => bindings::lru_status::LRU_REMOVED,
        Isolation::InUse => {
            // SAFETY: `arg` is a valid `Scan` that nothing else accesses.
            let in_use = unsafe { &mut (*scan).in_use };
            *in_use = in_use.wrapping_add(1);
            bindings::lru_status::LRU_REMOVED
        }
        Isolation::Busy => bindings::lru_status::LRU_ROTATE,
    }
}

/// # Safety
///
/// To be called by `list_sort`, for a list of isolated entries.
unsafe extern "C" fn compare(
    _: *mut c_void,
    a: *const bindings::list_head,
    b: *const bindings::list_head,
) -> c_int {
    // SAFETY: Only isolated entries are on the list that is sorted.
    let a = unsafe { PageRange::position(a) };
    // SAFETY: Only isolated entries are on the list that is sorted.
    let b = unsafe { PageRange::position(b) };
    c_int::from(a.cmp(&b) == Ordering::Greater)
}

/// # Safety
///
/// To be called by the kernel, as `shrinker.scan_objects`.
unsafe extern "C" fn scan(
    _: *mut bindings::shrinker,
    sc: *mut bindings::shrink_control,
) -> c_ulong {
    let mut state = Scan {
        isolated: bindings::list_head {
            next: ptr::null_mut(),
            prev: ptr::null_mut(),
        },
        in_use: 0,
    };
    let head = &raw mut state.isolated;
    // SAFETY: `head` is valid for writes. `state` is not moved from here on.
    unsafe { bindings::INIT_LIST_HEAD(head) };

    // SAFETY: The kernel gives a valid control block, of which nothing else reads or writes these fields meanwhile.
    let sc = unsafe { &*sc };
    let mut budget = sc.nr_to_scan;
    while budget > 0 {
        state.in_use = 0;
        let arg = (&raw mut state).cast();
        // SAFETY: The shrinker is registered only while the list is initialised. The kernel asks about one of its nodes
        // and holds the group. `isolate` obeys the rules of the walk and gets the state it expects.
        unsafe { LRU.walk(sc.nid, sc.memcg, Some(isolate), arg, budget) };
        // Those were dropped from the list, so this ends.
        budget = state.in_use;
    }

    // SAFETY: The list is initialised, this scan's own, and holds isolated entries only.
    unsafe { list_sort(ptr::null_mut(), head, Some(compare)) };
    let mut freed = 0;
    // SAFETY: The list is initialised.
    let mut first = unsafe { (*head).next };
    while !ptr::eq(first, head) {
        // SAFETY: `first` and the entries after it are isolated entries.
        let (run, next) = unsafe { next_run(head, first) };
        // SAFETY: These are exactly those of the run, and what is looked at from now on begins with `next`.
        let pages = unsafe { PageRange::reclaim(first, run) };
        freed = pages.wrapping_add(freed);
        first = next;
    }
    // CAST: Widening.
    RECLAIMED.add(freed as u64, Relaxed);
    if freed == 0 {
        // Nothing more to be had here for now.
        return bindings::SHRINK_STOP as c_ulong;
    }
    freed
}

/// How many entries from `first` on are neighbours in one mapping, and what comes after them.
///
/// # Safety
///
/// `first` must be an isolated entry on the list at `head`, and so must all be that come after it.
unsafe fn next_run(
    head: *mut bindings::list_head,
    first: *mut bindings::list_head,
) -> (usize, *mut bindings::list_head) {
    let mut item = first;
    let run = neighbours(iter::from_fn(|| {
        if ptr::eq(item, head) {
            return None;
        }
        // SAFETY: By the caller's promise all entries of the list but the head are isolated ones.
        let position = unsafe { PageRange::position(item) };
        // SAFETY: By the caller's promise the list is made of valid entries.
        item = unsafe { (*item).next };
        Some(position)
    }));
    let mut next = first;
    for _ in 0..run {
        // SAFETY: By the caller's promise the list is made of valid entries, of which there are so many.
        next = unsafe { (*next).next };
    }
    (run, next)
}

/// How many of these positions, from the first on, follow one another in one mapping. A position is a mapping and an
/// index in it.
fn neighbours(positions: impl Iterator<Item = (usize, usize)>) -> usize {
    let mut run = 0usize;
    let mut expected = None;
    for (range, index) in positions {
        if expected.is_some_and(|next| next != (range, index)) {
            break;
        }
        run = run.wrapping_add(1);
        expected = Some((range, index.wrapping_add(1)));
    }
    run
}

#[kunit_tests(binder_shrinker_runs)]
mod tests {
    use super::*;

    /// The lengths of the runs that a scan makes of what it has isolated, in any order.
    fn runs(isolated: &[(usize, usize)]) -> Result<KVec<usize>> {
        let mut sorted = KVec::new();
        sorted.extend_from_slice(isolated, GFP_KERNEL)?;
        // The order of `compare`.
        sorted.sort_unstable();
        let mut rest = &sorted[..];
        let mut runs = KVec::new();
        while !rest.is_empty() {
            let run = neighbours(rest.iter().copied());
            runs.push(run, GFP_KERNEL)?;
            rest = rest.get(run..).unwrap_or_default();
        }
        Ok(runs)
    }

    #[test]
    fn nothing_makes_no_run() {
        assert_eq!(neighbours(iter::empty()), 0);
    }

    #[test]
    fn a_run_ends_at_a_gap_at_another_mapping_and_at_the_end() -> Result {
        for (isolated, expected) in [
            (&[(1, 0)][..], &[1][..]),
            (&[(1, 7), (1, 8), (1, 9)], &[3]),
            (&[(1, 7), (1, 9)], &[1, 1]),
            (&[(1, 7), (1, 8), (1, 10), (1, 11), (1, 12)], &[2, 3]),
            // The next index, but of another range.
            (&[(1, 7), (2, 8)], &[1, 1]),
            (&[(1, 1023), (2, 0)], &[1, 1]),
            // The same index of two.
            (&[(1, 7), (2, 7), (2, 8)], &[1, 2]),
            (&[(1, 3), (2, 2), (3, 1), (4, 0)], &[1, 1, 1, 1]),
        ] {
            assert_eq!(&runs(isolated)?[..], expected);
            // However they came.
            let mut turned = KVec::new();
            turned.extend_from_slice(isolated, GFP_KERNEL)?;
            turned.reverse();
            assert_eq!(&runs(&turned)?[..], expected);
        }
        Ok(())
    }

    #[test]
    fn the_largest_mapping_is_one_run() -> Result {
        let mut isolated = KVec::new();
        // Each index once, far from its neighbours.
        for n in 0..BATCH as usize {
            isolated.push((9, n * 619 % BATCH as usize), GFP_KERNEL)?;
        }
        assert_eq!(&runs(&isolated)?[..], &[BATCH as usize]);
        Ok(())
    }

    #[test]
    fn every_page_is_in_one_run_and_no_two_runs_touch() -> Result {
        // A generator of numbers that stands for whatever is isolated.
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as usize
        };
        for _ in 0..200 {
            let mut isolated = KVec::new();
            // Pages of three mappings, between none and nearly all of them.
            let share = next() % 17;
            for range in 1..=3 {
                for index in 0..64 {
                    if next() % 16 < share {
                        isolated.push((range, index), GFP_KERNEL)?;
                    }
                }
            }
            let is_there = |range, index| isolated.contains(&(range, index));
            let heads = isolated
                .iter()
                .filter(|&&(range, index): &&(usize, usize)| {
                    index == 0 || !is_there(range, index - 1)
                });
            let runs = runs(&isolated)?;
            assert_eq!(runs.len(), heads.count());
            assert_eq!(runs.iter().sum::<usize>(), isolated.len());
        }
        Ok(())
    }
}
