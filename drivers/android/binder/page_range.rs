// SPDX-License-Identifier: GPL-2.0

//! The pages behind a mapping.
//!
//! A process maps up to 4 MB to receive transactions in, and mostly uses a page or two of it. So pages are allocated
//! one by one when a buffer first touches them, stay for the next call, and are given back when memory is short. All
//! of that happens while buffers come and go on every call, so the common case - the page is there, it is mapped -
//! must cost next to nothing.
//!
//! # A page's life
//!
//! ```text
//!             allocate                 last user goes
//!    absent ------------> in use <---------------------> unused (on the LRU)
//!       ^                             first user comes       |
//!       |                                                    | isolate
//!       |            zapped, and still has no user           v
//!       +------------------------------------------------ isolated
//! ```
//!
//! A slot counts its *users*: buffers that touch the page, and threads that are about to map it. Becoming used does not
//! take the slot off the LRU; the shrinker does that when it meets one, and the last user puts it back.
//!
//! An isolated page is still in its slot while it is zapped. A buffer that wants it meanwhile simply takes it: that
//! clears `reclaiming`, and the shrinker, when it comes back from the zap, leaves the page where it is. So a page never
//! leaves its offset before every page table entry for it is gone, and while an offset is used it is one and the same
//! page. In particular `-EBUSY` from inserting a page can only mean that just this page is mapped there already.
//!
//! A page is shown to user space when something is delivered in it, and not before: neither while a buffer is filled
//! in it, nor if that fails. From then on it can be seen until it is reclaimed, with what else is written to it.
//!
//! # Locking
//!
//! `PageRange::lock` is a spinlock and guards every slot of the range. Under it the LRU's lock is taken, to add and
//! remove; the shrinker's walk comes the other way round and only tries. Nothing is allocated and nothing is zapped
//! under it.
//!
//! # Memory cgroups
//!
//! Senders allocate pages and slots, but for as long as the receiver keeps its buffers. So both are charged to the
//! receiver's memory cgroup: to the one that the process was in when it made the mapping. That is also the group on
//! whose LRU they are, and whose reclaim finds them.

use core::{
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    bindings,
    ffi::c_uint,
    impl_has_work,
    mm::virt::VmaNew,
    new_spinlock,
    page::{
        Page,
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc,
        ArcBorrow,
        SpinLock, //
    },
    warn_on,
    workqueue::{
        new_work,
        Work,
        WorkItem, //
    },
};

use crate::{
    in_flight::InFlight,
    sys::{
        memcg::{
            MemCgroup,
            Payer, //
        },
        release_queue,
        rmap::{
            self,
            AddressSpace,
            PageSource, //
        },
        trace, //
    },
};

mod page_use;
mod slot;
mod state;

pub(crate) use self::page_use::PageUse;
use self::slot::{
    Chunk,
    Guarded,
    OwnPage,
    Slot,
    Slots,
    CHUNK_SLOTS,
    MAX_CHUNKS, //
};
use self::state::{
    Next,
    View, //
};

/// The most of a mapping that is used, in bytes.
pub(crate) const MAX_SIZE: usize = 4 << 20;

/// The pages of one process's mapping.
///
/// # Invariants
///
/// - Each of `chunks` is null or a valid chunk whose owner is this range. It is set once, under `lock`.
/// - As long as `lock` guards `dead == false`, an [`OwnedPageRange`] for it exists.
#[pin_data(PinnedDrop)]
pub(crate) struct PageRange {
    space: AddressSpace,
    /// The process whose mapping it is, for traces.
    pid: i32,
    #[pin]
    lock: SpinLock<Guarded>,
    chunks: [Atomic<*mut Chunk>; MAX_CHUNKS],
    /// Bytes that are used of the mapping; 0 before `mmap`.
    size: Atomic<usize>,
    /// Page offset in the file of slot 0. Written before `size`.
    pgoff: Atomic<usize>,
    /// User address of slot 0, as last seen.
    start: Atomic<usize>,
    /// How many VMAs there are.
    vmas: Atomic<usize>,
    /// Files that come with what is received in the mapping.
    #[pin]
    in_flight: InFlight,
    /// Lets go of those once the mapping is gone.
    #[pin]
    gone: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for PageRange { self.gone }
}

impl WorkItem for PageRange {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.in_flight.let_go();
    }
}

// SAFETY: By the type invariant the pointers in `chunks` lead to chunks that are this range's own. The pages in them
// may be freed on any thread.
unsafe impl Send for PageRange {}
// SAFETY: The invariants of `Slot` say how the chunks behind `chunks` are shared: what changes there is guarded by
// `lock`.
unsafe impl Sync for PageRange {}

impl PageRange {
    /// The size of what [`crate::sys::lru::LRU`] is to allocate at a time.
    // CAST: A small constant.
    pub(crate) const ENTRIES_SIZE: c_uint = size_of::<Chunk>() as c_uint;

    /// Readies `vma`, which is being made, to show the pages of this range. A VMA larger than [`MAX_SIZE`] shows
    /// nothing beyond that. From now on the current process's memory cgroup is charged.
    ///
    /// Returns the size in bytes.
    ///
    /// # Errors
    ///
    /// - `EPERM` if the VMA is writable.
    /// - `EBUSY` if there was a mapping before.
    /// - `ENOMEM`.
    ///
    /// # Safety
    ///
    /// `vma` must be a mapping of the file whose `release` drops the [`OwnedPageRange`] of this range.
    pub(crate) unsafe fn map(&self, vma: &VmaNew) -> Result<usize> {
        let group = Arc::new(MemCgroup::of_current(), GFP_KERNEL_ACCOUNT)?;
        let mut guard = self.lock.lock();
        if vma.writable() {
            return Err(EPERM);
        }
        if self.size.load(Relaxed) != 0 {
            return Err(EBUSY);
        }
        // SAFETY: The caller promises that this range lives until the file's release.
        unsafe { rmap::map(vma, self) }?;
        let size = vma.end().wrapping_sub(vma.start()).min(MAX_SIZE);
        guard.set_group(group);
        self.pgoff.store(rmap::vma_pgoff(vma), Relaxed);
        self.start.store(vma.start(), Relaxed);
        self.vmas.store(1, Relaxed);
        // ORDERING: Pairs with the load in `mapped_size`: a reader that sees the size sees the rest.
        self.size.store(size, Release);
        Ok(size)
    }

    /// Bytes of the mapping; 0 if there was none yet.
    pub(crate) fn mapped_size(&self) -> usize {
        // ORDERING: Pairs with the store in `map`.
        self.size.load(Acquire)
    }

    /// The page offset in the file of the first page.
    fn pgoff(&self) -> usize {
        self.pgoff.load(Relaxed)
    }

    /// Whether any part of the mapping still exists.
    pub(crate) fn is_mapped(&self) -> bool {
        self.vmas.load(Relaxed) != 0
    }

    /// Lets go of the files in flight, later. The mapping is going, and still holds the file.
    #[cold]
    fn let_files_go(&self) {
        // SAFETY: A mapping holds the file, which by the promise of `map`'s caller is not released before the
        // `OwnedPageRange` is dropped. That holds a reference, and so the count is not 0.
        let this = unsafe { ArcBorrow::from_raw(ptr::from_ref(self)) };
        // SAFETY: The file holds the module.
        let Some(queue) = (unsafe { release_queue::get() }) else {
            // A file is opened only while there is a queue.
            warn_on!(true);
            return self.in_flight.let_go();
        };
        // There is one mapping, so the work was never put there before.
        warn_on!(queue.enqueue(Arc::from(this)).is_err());
    }

    /// Files that come with what is received in the mapping.
    pub(crate) fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// The user address at which the mapping begins.
    pub(crate) fn user_start(&self) -> usize {
        self.start.load(Relaxed)
    }

    /// The slot at `index`, if its chunk is there.
    fn slot(&self, index: usize) -> Option<&Slot> {
        // ORDERING: Pairs with the store in `install_chunk`: a reader that sees the chunk sees it initialised.
        let chunk = self.chunks.get(index / CHUNK_SLOTS)?.load(Acquire);
        if chunk.is_null() {
            return None;
        }
        // SAFETY: By the type invariant the chunk is valid as long as `self` is. All of it that changes is behind
        // `UnsafeCell`.
        let chunk = unsafe { &*chunk };
        chunk.slot(index % CHUNK_SLOTS)
    }

    /// The payer for what other processes allocate on behalf of the process whose mapping this is: the current task
    /// where there is no mapping, or none any more.
    pub(crate) fn payer(&self) -> Payer {
        let group = self.lock.lock().group();
        group.map_or(Payer::Current, Payer::Group)
    }

    /// The lock that the slots are under.
    fn guarded(&self) -> &SpinLock<Guarded> {
        &self.lock
    }

    fn lock(&self) -> Slots<'_> {
        Slots::lock(self)
    }

    /// Makes the chunk for `index`, charged to `group`.
    fn install_chunk(&self, group: Arc<MemCgroup>, index: usize) -> Result {
        let first = index - index % CHUNK_SLOTS;
        // SAFETY: If the chunk stays, `self` frees it in its drop.
        let chunk = unsafe { Chunk::new(group, self, first) }?;
        let slots = self.lock();
        let place = self.chunks.get(index / CHUNK_SLOTS).ok_or(EINVAL)?;
        if place.load(Relaxed).is_null() {
            // ORDERING: Pairs with the load in `slot`.
            // INVARIANT: The chunk is valid, ours, and set under the lock.
            place.store(chunk.as_ptr(), Release);
            return Ok(());
        }
        drop(slots);
        // SAFETY: The chunk was made above and is in no table, so no other reference to it exists.
        unsafe { Chunk::free(chunk) };
        Ok(())
    }

    /// Counts one user more of each page that `bytes` touches and allocates the pages that are absent, which the
    /// receiver pays for.
    ///
    /// # Errors
    ///
    /// With nothing changed but that some pages may be there now, unused:
    ///
    /// - `ENOMEM`. Also when the receiver's memory cgroup is at its limit and nothing in it can be reclaimed; no process
    ///   is killed for it.
    /// - `ESRCH` if the file is being released.
    pub(crate) fn acquire(this: &Arc<Self>, offset: usize, len: usize) -> Result<PageUse> {
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        if len == 0 || end > this.mapped_size() {
            return Err(EINVAL);
        }
        // CAST: The range ends inside the mapping, which has no more pages than fit.
        let (first, end) = (
            (offset >> PAGE_SHIFT) as u16,
            end.div_ceil(PAGE_SIZE) as u16,
        );
        let mut held = PageUse {
            range: this.clone(),
            first,
            end: first,
            all_mapped: true,
        };
        let mut slots = this.lock();
        while held.end < end {
            let index = usize::from(held.end);
            let Some(mut slot) = slots.get(index) else {
                let group = slots.group().ok_or(ESRCH)?;
                drop(slots);
                this.install_chunk(group, index)?;
                slots = this.lock();
                continue;
            };
            if !slot.has_page() {
                let group = slots.group().ok_or(ESRCH)?;
                drop(slots);
                let page = OwnPage::new(group)?;
                slots = this.lock();
                let surplus = slots.get(index).and_then(|mut slot| slot.set_page(page));
                if surplus.is_none() {
                    trace::page_alloc(this.pid, index, 1);
                } else {
                    drop(slots);
                    drop(surplus);
                    slots = this.lock();
                }
                continue;
            }
            slot.begin_use();
            held.all_mapped &= slot.view() == View::Mapped;
            held.end += 1;
        }
        drop(slots);
        Ok(held)
    }

    /// Counts one user less of each of the pages at `indices`.
    ///
    /// # Safety
    ///
    /// The caller must be a user of each of them, and give that up.
    unsafe fn release(&self, indices: core::ops::Range<usize>) {
        let mut slots = self.lock();
        for index in indices {
            let Some(mut slot) = slots.get(index) else {
                warn_on!(true);
                continue;
            };
            // SAFETY: By the caller's promise.
            let (next, page) = unsafe { slot.end_use() };
            if next == Next::List {
                trace::lru_add(self.pid, index, 1);
            }
            drop(page);
        }
    }

    /// Frees every page without users, now and from now on. The file is being released, so nothing is mapped.
    fn shut_down(&self) {
        let group = self.lock.lock().die();
        drop(group);
        let pages = self.mapped_size().div_ceil(PAGE_SIZE);
        let mut index = 0;
        while index < pages {
            // One chunk at a time, so as not to hold the lock for long.
            let end = index.saturating_add(CHUNK_SLOTS).min(pages);
            let mut slots = self.lock();
            for i in index..end {
                let Some(mut slot) = slots.get(i) else { break };
                let (was_listed, page) = slot.shut_down();
                if was_listed {
                    trace::lru_del(self.pid, i, 1);
                }
                drop(page);
            }
            index = end;
        }
    }

    /// Isolates the page of an entry that the walk of [`LRU`](crate::sys::lru::LRU) has come to, or says why not.
    ///
    /// # Safety
    ///
    /// To be called by that walk only, with `item` and `list` as the walk gives them, and with `isolated` pointing at
    /// an initialised list that is the caller's own.
    pub(crate) unsafe fn isolate(
        item: *mut bindings::list_head,
        list: *mut bindings::list_lru_one,
        isolated: *mut bindings::list_head,
    ) -> Isolation {
        // SAFETY: Only slots are put on the LRU. The walk holds the lock of the list, so the slot stays on it. Slots
        // are taken off before their chunk is freed.
        let (owner, index) = unsafe { Slot::position(item) };
        // SAFETY: By the invariant of `Chunk` the owner outlives the chunk.
        let owner = unsafe { owner.as_ref() };
        // The other side takes these two locks in the other order.
        let Some(mut slots) = Slots::try_lock(owner) else {
            return Isolation::Busy;
        };
        let Some(mut slot) = slots.get(index) else {
            warn_on!(true);
            return Isolation::Busy;
        };
        trace::lru_del(owner.pid, index, 1);
        // SAFETY: The slot is the entry's, which is on `list`; the walk holds the lock of that. The reference is left
        // below.
        if !unsafe { slot.isolate(list, isolated) } {
            return Isolation::InUse;
        }
        // SAFETY: The slot was `Listed`, so the range is not `dead` (the lock that guards this is held). By the type
        // invariant an `OwnedPageRange` exists then, which holds a reference: the count is not 0.
        let borrowed = unsafe { ArcBorrow::from_raw(ptr::from_ref(owner)) };
        // This is the reference that the slot owns from now on. `reclaim` takes it up.
        let _: *const Self = Arc::into_raw(Arc::from(borrowed));
        Isolation::Isolated
    }

    /// Returns the place of an isolated slot: an opaque number that is the same for all slots of one range, and the
    /// index.
    ///
    /// # Safety
    ///
    /// `item` must be an entry that [`PageRange::isolate`] moved and [`PageRange::reclaim`] did not yet take.
    pub(crate) unsafe fn position(item: *const bindings::list_head) -> (usize, usize) {
        // SAFETY: An isolated slot owns a reference on its range, so chunk and range are valid.
        let (owner, index) = unsafe { Slot::position(item.cast_mut()) };
        (owner.addr().get(), index)
    }

    /// Zaps `run` isolated pages, which are neighbours both in the list and in the mapping. `item` is the first of
    /// them. Frees those of them that had no users since, and returns their number.
    ///
    /// # Locking
    ///
    /// Sleeps.
    ///
    /// # Safety
    ///
    /// The caller must own the list that `item` is on. `item` and the `run - 1` entries after it must be entries moved
    /// there by [`PageRange::isolate`], of one range, with consecutive indices. None of them may be looked at
    /// afterwards: they are on no list or on the LRU, or gone.
    pub(crate) unsafe fn reclaim(item: *mut bindings::list_head, run: usize) -> usize {
        // SAFETY: An isolated slot owns a reference on its range, so chunk and range are valid.
        let (range, first) = unsafe { Slot::position(item) };
        // SAFETY: The slots own references on their range, which are taken up only below.
        let owner = unsafe { range.as_ref() };
        owner.space.zap(owner.pgoff().wrapping_add(first), run);
        trace::zap(owner.pid, first, run);

        let mut freed = 0usize;
        let mut index = first;
        let end = first.saturating_add(run);
        while index < end {
            // Freed after the lock is dropped; in portions, so that neither the stack nor the lock is taken up much.
            let mut pages: [Option<OwnPage>; 16] = [const { None }; 16];
            let mut slots = owner.lock();
            for place in &mut pages {
                if index == end {
                    break;
                }
                if let Some(mut slot) = slots.get(index) {
                    // SAFETY: By the caller's promise the slot is isolated, and its entry is not looked at any more. It
                    // was zapped above. The reference is taken up below.
                    let (next, page) = unsafe { slot.zapped() };
                    if next == Next::List {
                        trace::lru_add(owner.pid, index, 1);
                    }
                    freed = freed.wrapping_add(usize::from(page.is_some()));
                    *place = page;
                } else {
                    warn_on!(true);
                }
                index = index.wrapping_add(1);
            }
            drop(slots);
        }
        trace::reclaim(owner.pid, first, freed);
        for _ in 0..run {
            // SAFETY: Each isolated slot owned a reference, which is taken up here. `owner` is not used any more.
            drop(unsafe { Arc::from_raw(range.as_ptr().cast_const()) });
        }
        freed
    }

    /// How many pages there are, for listings.
    pub(crate) fn figures(&self) -> PageFigures {
        let slots = self.mapped_size().div_ceil(PAGE_SIZE);
        let (mut used, mut unused) = (0usize, 0usize);
        for first in (0..slots).step_by(CHUNK_SLOTS) {
            // One chunk at a time, so as not to hold the lock for long.
            let mut locked = self.lock();
            for index in first..slots.min(first.saturating_add(CHUNK_SLOTS)) {
                let Some(slot) = locked.get(index) else { break };
                if slot.is_used() {
                    used = used.wrapping_add(1);
                } else if slot.has_page() {
                    unused = unused.wrapping_add(1);
                }
            }
        }
        PageFigures {
            used,
            unused,
            absent: slots.saturating_sub(used).saturating_sub(unused),
            // CAST: Widening.
            high_water: self.lock.lock().high_water() as usize,
        }
    }
}

/// How many pages of a mapping there are.
pub(crate) struct PageFigures {
    /// In use.
    pub(crate) used: usize,
    /// There, and not in use.
    pub(crate) unused: usize,
    /// Not there.
    pub(crate) absent: usize,
    /// The most that ever were there at a time.
    pub(crate) high_water: usize,
}

/// What became of an entry that the shrinker looked at.
pub(crate) enum Isolation {
    /// On the shrinker's list now.
    Isolated,
    /// In use, and no longer on the LRU; the last user puts it back.
    InUse,
    /// Its range is locked just now.
    Busy,
}

#[pinned_drop]
impl PinnedDrop for PageRange {
    fn drop(self: Pin<&mut Self>) {
        for chunk in &self.chunks {
            if let Some(chunk) = NonNull::new(chunk.load(Relaxed)) {
                // SAFETY: The range is not used any more. No slot of it is on a list: an isolated one would own a
                // reference on this range, and no slot of a dead range is `Listed`.
                unsafe { Chunk::free(chunk) };
            }
        }
    }
}

/// The one reference to a [`PageRange`] that decides how long it may have a mapping. Dropping it frees every page
/// that is not in use.
pub(crate) struct OwnedPageRange(Arc<PageRange>);

impl OwnedPageRange {
    /// Makes a range without a mapping, for the process `pid`.
    pub(crate) fn new(mount: &rmap::Mount, pid: i32) -> Result<Self> {
        let space = AddressSpace::new(mount)?;
        Ok(Self(Arc::pin_init(
            pin_init!(PageRange {
                space,
                pid,
                lock <- new_spinlock!(
                    Guarded::new(),
                    "PageRange::lock"
                ),
                chunks: [const { Atomic::new(ptr::null_mut()) }; MAX_CHUNKS],
                size: Atomic::new(0),
                pgoff: Atomic::new(0),
                start: Atomic::new(0),
                vmas: Atomic::new(0),
                in_flight <- InFlight::new(),
                gone <- new_work!("PageRange::gone"),
            }),
            GFP_KERNEL_ACCOUNT,
        )?))
    }

    /// The counted reference inside.
    pub(crate) fn arc(&self) -> &Arc<PageRange> {
        &self.0
    }

    /// Makes `file`, which is being opened, map its pages through this range.
    ///
    /// # Safety
    ///
    /// To be called from `file_operations.open`; this value must live until the file's `release`.
    pub(crate) unsafe fn attach(&self, file: *mut bindings::file) {
        // SAFETY: By the caller's promise; the address space lives in the range.
        unsafe { self.0.space.attach(file) };
    }
}

impl Deref for OwnedPageRange {
    type Target = PageRange;

    fn deref(&self) -> &PageRange {
        &self.0
    }
}

impl Drop for OwnedPageRange {
    fn drop(&mut self) {
        self.0.shut_down();
    }
}

/// A page on its way into a page table.
///
/// # Invariants
///
/// This value is one of the users of slot `index`, whose page is `page`.
pub(crate) struct PinnedPage<'a> {
    range: &'a PageRange,
    index: usize,
    page: &'a Page,
}

impl Deref for PinnedPage<'_> {
    type Target = Page;

    fn deref(&self) -> &Page {
        self.page
    }
}

impl Drop for PinnedPage<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this value is a user of the page, and it goes.
        unsafe { self.range.release(self.index..self.index.wrapping_add(1)) };
    }
}

impl PageSource for PageRange {
    type Pinned<'a> = PinnedPage<'a>;

    fn pin_page(&self, pgoff: usize) -> Option<PinnedPage<'_>> {
        let index = pgoff.checked_sub(self.pgoff())?;
        if index >= self.mapped_size().div_ceil(PAGE_SIZE) {
            return None;
        }
        let slot = self.slot(index)?;
        let mut slots = self.lock();
        let mut locked = slots.get(index)?;
        if !locked.is_used() || locked.view() == View::Hidden {
            return None;
        }
        locked.begin_use();
        drop(slots);
        // SAFETY: The value that is returned is the user just counted, and the reference does not outlive it.
        let page = unsafe { slot.page() };
        // A slot with users has a page.
        warn_on!(page.is_none());
        // INVARIANT: The user was counted above.
        Some(PinnedPage {
            range: self,
            index,
            page: page?,
        })
    }

    fn page_mapped(&self, pgoff: usize) {
        trace::page_map(self.pid, pgoff.wrapping_sub(self.pgoff()), 1);
    }

    fn vma_opened(&self) {
        self.vmas.fetch_add(1, Relaxed);
    }

    fn vma_closed(&self) {
        // The last one: there never is another.
        if self.vmas.fetch_sub(1, Relaxed) == 1 && self.in_flight.close() {
            self.let_files_go();
        }
    }

    fn vma_moved(&self, pgoff: usize, start: usize) {
        // Only the VMA that shows the first page tells where the whole begins.
        if pgoff == self.pgoff() {
            self.start.store(start, Relaxed);
        }
    }
}
