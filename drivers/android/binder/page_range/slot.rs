// SPDX-License-Identifier: GPL-2.0

//! Slots: one for each page of a mapping, with the page, its users and its state.
//!
//! This file and `state.rs` keep the invariants of [`Slot`]. All other code changes a slot through [`SlotMut`], which
//! [`Slots`] gives out under the lock of the range.

use core::{
    cell::UnsafeCell,
    convert::Infallible,
    mem::size_of,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    alloc::flags::{
        __GFP_HIGHMEM,
        __GFP_ZERO, //
    },
    bindings,
    container_of,
    page::{
        Page,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        lock::{
            spinlock::SpinLockBackend,
            Guard, //
        },
        Arc, //
    },
    types::Opaque,
    warn_on, //
};
use pin_init::pin_init_array_from_fn;

use super::{
    state::{
        Flags,
        Next,
        View, //
    },
    PageRange,
    MAX_SIZE, //
};
use crate::{
    stats::PageCount,
    sys::{
        lru::LRU,
        memcg::{
            MemCgroup,
            Payer, //
        },
    },
};

/// The number of slots in a chunk. A chunk takes 1 KB and is allocated when one of its slots is first needed.
pub(super) const CHUNK_SLOTS: usize = 32;
/// The most chunks that a range has.
pub(super) const MAX_CHUNKS: usize = (MAX_SIZE / PAGE_SIZE).div_ceil(CHUNK_SLOTS);

/// A page behind a mapping. [`PageCount`] counts it until it is freed.
pub(super) struct OwnPage {
    page: Page,
    _count: PageCount,
}

impl OwnPage {
    /// Allocates a page of zeroes, charged to `group`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. No process is killed to avoid that.
    pub(super) fn new(group: Arc<MemCgroup>) -> Result<Self> {
        let zeroed = |flags| Page::alloc_page(flags | __GFP_HIGHMEM | __GFP_ZERO);
        Ok(Self {
            page: Payer::Group(group).pay(zeroed)?,
            _count: PageCount::new(),
        })
    }
}

impl Deref for OwnPage {
    type Target = Page;

    fn deref(&self) -> &Page {
        &self.page
    }
}

/// One page of a mapping.
///
/// # Invariants
///
/// 1. The slot is element `index_in_chunk` of [`Chunk::slots`].
/// 2. `users` and `flags` are accessed only with the owner's lock held.
/// 3. `page` is changed only with the owner's lock held, and only while `users` is 0 or `page` is `None`. So it may be
///    read under the lock, and by one of the users.
/// 4. `links` is initialised. It is on the LRU while the slot is `Listed`, on a scan's private list while it is
///    `Isolated`, and else on no list.
/// 5. A `Listed` or `Isolated` slot has a page. An `Isolated` slot owns one reference on its [`PageRange`]. The range of
///    a `Listed` slot is not `dead`.
/// 6. `users` is 0 while the slot is `Isolated` and `reclaiming`.
/// 7. A slot without a page is `Hidden`.
/// 8. A page table entry for this offset maps the page in `page`, and exists only while the slot is not `Hidden`.
#[repr(C)]
#[pin_data]
pub(super) struct Slot {
    #[pin]
    links: Opaque<bindings::list_head>,
    page: UnsafeCell<Option<OwnPage>>,
    /// The buffers that touch the page, and the faults that are about to map it.
    users: UnsafeCell<u32>,
    flags: UnsafeCell<Flags>,
    index_in_chunk: u8,
}

/// Neighbouring slots.
///
/// # Invariants
///
/// `owner` is the range that the chunk belongs to, which outlives the chunk. Slot `i` is for page `first + i` of it.
#[repr(C)]
#[pin_data]
pub(super) struct Chunk {
    owner: NonNull<PageRange>,
    first: usize,
    #[pin]
    slots: [Slot; CHUNK_SLOTS],
}

const _: () = assert!(size_of::<Slot>() <= 4 * size_of::<usize>());

impl Slot {
    /// A slot without a page, which is number `index` of its chunk.
    fn new(index: usize) -> impl PinInit<Self> {
        pin_init!(Self {
            links <- Opaque::ffi_init(|links| {
                // SAFETY: `links` is valid for writes.
                unsafe { bindings::INIT_LIST_HEAD(links) }
            }),
            page: UnsafeCell::new(None),
            users: UnsafeCell::new(0),
            flags: UnsafeCell::new(Flags::FRESH),
            // CAST: Less than `CHUNK_SLOTS`.
            index_in_chunk: index as u8,
        })
    }

    /// Returns the slot of a list entry.
    ///
    /// # Safety
    ///
    /// `links` must be the `links` of a slot.
    unsafe fn from_links(links: *mut bindings::list_head) -> *const Self {
        let links = Opaque::cast_from(links).cast_mut();
        // SAFETY: By the caller's promise this is the `links` of a slot.
        unsafe { container_of!(links, Self, links) }
    }

    /// Returns the owner of the slot of a list entry, and the index of the slot there.
    ///
    /// # Safety
    ///
    /// `links` must be the `links` of a slot in a chunk that is not freed.
    pub(super) unsafe fn position(links: *mut bindings::list_head) -> (NonNull<PageRange>, usize) {
        // SAFETY: By the caller's promise.
        let slot = unsafe { Self::from_links(links) };
        // SAFETY: By the caller's promise the slot is valid. The field never changes.
        let i = usize::from(unsafe { (*slot).index_in_chunk });
        // SAFETY: By invariant 1 of `Slot` there are `i` slots before this one in the same array.
        let slots = unsafe { slot.sub(i) };
        let slots = slots.cast::<[Self; CHUNK_SLOTS]>().cast_mut();
        // SAFETY: By invariant 1 of `Slot` this is the array of a chunk.
        let chunk = unsafe { container_of!(slots, Chunk, slots) };
        // SAFETY: By the caller's promise the chunk is valid. The field never changes.
        let owner = unsafe { (*chunk).owner };
        // SAFETY: By the caller's promise the chunk is valid. The field never changes.
        let first = unsafe { (*chunk).first };
        (owner, first.wrapping_add(i))
    }

    /// Returns the page, if there is one.
    ///
    /// # Safety
    ///
    /// The caller must be one of the slot's users for as long as the reference lives.
    pub(super) unsafe fn page(&self) -> Option<&Page> {
        // SAFETY: By invariant 3 the field does not change while there are users.
        let page = unsafe { &*self.page.get() };
        page.as_deref()
    }
}

impl Chunk {
    /// Allocates a chunk of slots without pages, charged to `group`. The LRU gets lists for `group`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. No process is killed to avoid that.
    ///
    /// # Safety
    ///
    /// `owner` must outlive the chunk.
    pub(super) unsafe fn new(
        group: Arc<MemCgroup>,
        owner: &PageRange,
        first: usize,
    ) -> Result<NonNull<Self>> {
        let memory = LRU.alloc_entries(group)?.cast::<Self>();
        // INVARIANT: `owner` outlives the chunk by the caller's promise. Each slot gets its index in `slots`.
        let chunk = pin_init!(Self {
            owner: NonNull::from(owner),
            first,
            slots <- pin_init_array_from_fn(Slot::new),
        });
        // SAFETY: The memory was just allocated, is valid for writes, and is of the size of a chunk: see
        // `PageRange::ENTRIES_SIZE`. It does not move until `Chunk::free`.
        let result: Result<(), Infallible> = unsafe { chunk.__pinned_init(memory.as_ptr()) };
        match result {
            Ok(()) => Ok(memory),
        }
    }

    /// Frees a chunk.
    ///
    /// # Safety
    ///
    /// `chunk` must come from [`Chunk::new`] and not be used afterwards, and none of its slots may be on a list.
    pub(super) unsafe fn free(chunk: NonNull<Self>) {
        // SAFETY: By the caller's promise the chunk is valid and not used by others.
        unsafe { chunk.drop_in_place() };
        // SAFETY: By the caller's promise the memory came from the LRU, and no entry in it is on a list.
        unsafe { LRU.free_entries(chunk.cast()) };
    }

    /// Returns slot `i`.
    pub(super) fn slot(&self, i: usize) -> Option<&Slot> {
        self.slots.get(i)
    }
}

/// A slot whose owner's lock is held.
pub(super) struct SlotMut<'a> {
    slot: &'a Slot,
    users: &'a mut u32,
    flags: &'a mut Flags,
    range: &'a mut Guarded,
}

impl SlotMut<'_> {
    /// Whether the page has users.
    pub(super) fn is_used(&self) -> bool {
        *self.users != 0
    }

    /// What user space can see of the page.
    pub(super) fn view(&self) -> View {
        self.flags.view()
    }

    /// Something is delivered in the page. From now on the page may be mapped.
    pub(super) fn show(&mut self) {
        self.flags.show();
    }

    /// The page was mapped.
    pub(super) fn set_mapped(&mut self) {
        self.flags.mapped();
    }

    pub(super) fn has_page(&self) -> bool {
        // SAFETY: By invariant 3 of `Slot` the field changes only under the lock, which is held.
        unsafe { (*self.slot.page.get()).is_some() }
    }

    /// Puts a page where there is none. Returns the page if there is one already.
    pub(super) fn set_page(&mut self, page: OwnPage) -> Option<OwnPage> {
        if self.has_page() {
            return Some(page);
        }
        // SAFETY: The lock is held. As there is no page, no user reads the field.
        // INVARIANT: (3) There is no page. (7) This changes no flag.
        unsafe { *self.slot.page.get() = Some(page) };
        self.range.came();
        None
    }

    /// Counts one user more. There is a page.
    pub(super) fn begin_use(&mut self) {
        // INVARIANT: (6) This clears `reclaiming`.
        self.flags.begin_use(self.users);
    }

    /// Counts one user less. Returns the page if it is to be freed.
    ///
    /// # Safety
    ///
    /// The caller must give up a user that [`SlotMut::begin_use`] counted, and be a user no more afterwards.
    #[must_use]
    pub(super) unsafe fn end_use(&mut self) -> (Next, Option<OwnPage>) {
        let next = self.flags.end_use(self.users, self.range.dead);
        self.apply(next)
    }

    /// Does what a transition of the state asks for. Returns that, and the page if it is to be freed.
    fn apply(&mut self, next: Next) -> (Next, Option<OwnPage>) {
        let page = match next {
            Next::Keep => None,
            Next::List => {
                // INVARIANT: (4) The entry is put on the LRU. (5) `Flags` says `List` only of a slot with a page, of a
                // range that is not dead.
                self.flags.listed();
                // SAFETY: `Flags` says `List` only while the slot is `Off`, so by invariant 4 the entry is on no list.
                // It lies in a chunk, and so in memory from the LRU, and is taken off before the chunk is freed.
                unsafe { LRU.add(self.slot.links.get()) };
                None
            }
            Next::Free => self.take_page(),
        };
        (next, page)
    }

    /// Takes the page, which has no users and which no page table has an entry for.
    fn take_page(&mut self) -> Option<OwnPage> {
        if warn_on!(*self.users != 0) {
            return None;
        }
        self.flags.freed();
        // SAFETY: The lock is held. As there are no users, no user reads the field.
        // INVARIANT: (3) There are no users. (7) The slot is `Hidden`.
        let page = unsafe { (*self.slot.page.get()).take() };
        if page.is_some() {
            self.range.went();
        }
        page
    }

    /// Takes the slot off the LRU, for the scan that has met it there. Returns whether the scan is to zap the page: the
    /// slot is on the list `isolated` then. Otherwise the page is in use, and the last user puts the slot back.
    ///
    /// # Safety
    ///
    /// The slot must be on `list`, whose lock must be held. `isolated` must be an initialised list that is the caller's
    /// own. If this returns `true`, the caller must leave a reference on the range to the slot.
    pub(super) unsafe fn isolate(
        &mut self,
        list: *mut bindings::list_lru_one,
        isolated: *mut bindings::list_head,
    ) -> bool {
        let links = self.slot.links.get();
        // INVARIANT: (4) The entry moves as the state does. (5) The caller leaves a reference. (6) There are no users.
        if self.flags.isolate(*self.users) {
            // SAFETY: By the caller's promise the entry is on `list`, whose lock is held, and `isolated` is a list.
            unsafe { bindings::list_lru_isolate_move(list, links, isolated) };
            true
        } else {
            // SAFETY: By the caller's promise the entry is on `list`, whose lock is held.
            unsafe { bindings::list_lru_isolate(list, links) };
            false
        }
    }

    /// The scan that isolated the slot has zapped the page. Returns what is done with the page, and the page if it is to
    /// be freed.
    ///
    /// # Safety
    ///
    /// The slot must be `Isolated` by the caller, and its page zapped since. The caller must take up the reference that
    /// the slot owns, and never look at the list entry or one before it again.
    #[must_use]
    pub(super) unsafe fn zapped(&mut self) -> (Next, Option<OwnPage>) {
        // SAFETY: The entry is on the caller's list, which the caller does not follow past this entry.
        // INVARIANT: (4) The entry is on no list.
        unsafe { bindings::INIT_LIST_HEAD(self.slot.links.get()) };
        let next = self.flags.zapped(*self.users, self.range.dead);
        self.apply(next)
    }

    /// The range is dead. Takes the slot off the LRU and returns its page, unless a user or a scan has it and sees to
    /// that. Also returns whether the slot was on the LRU.
    #[must_use]
    pub(super) fn shut_down(&mut self) -> (bool, Option<OwnPage>) {
        let listed = self.flags.is_listed();
        if listed {
            // SAFETY: By invariant 4 the entry is on the LRU.
            unsafe { LRU.del(self.slot.links.get()) };
        }
        // INVARIANT: (4) The state is `Off` or `Isolated`, and so is the entry. (5) Nothing of a dead range is `Listed`:
        // `Flags` never answers `List`.
        let next = self.flags.shut_down(*self.users);
        let (_, page) = self.apply(next);
        (listed, page)
    }
}

/// What [`PageRange::lock`] guards, besides the slots.
pub(super) struct Guarded {
    /// The file is being released. A page is freed when its last user goes.
    dead: bool,
    /// The memory cgroup that pages and slots are charged to, as long as there is or may be a mapping.
    group: Option<Arc<MemCgroup>>,
    /// How many slots have a page.
    present: u32,
    /// The most that ever had one at a time.
    high_water: u32,
}

impl Guarded {
    /// No mapping, and no pages.
    pub(super) const fn new() -> Self {
        Self {
            dead: false,
            group: None,
            present: 0,
            high_water: 0,
        }
    }

    /// The memory cgroup that pages and slots are charged to, as long as there is or may be a mapping.
    pub(super) fn group(&self) -> Option<Arc<MemCgroup>> {
        self.group.clone()
    }

    /// From now on `group` is charged.
    pub(super) fn set_group(&mut self, group: Arc<MemCgroup>) {
        self.group = Some(group);
    }

    /// The file is being released. Returns the group that was charged. [`SlotMut::shut_down`] of each slot is to follow.
    pub(super) fn die(&mut self) -> Option<Arc<MemCgroup>> {
        self.dead = true;
        self.group.take()
    }

    /// The most pages that there ever were at a time.
    pub(super) fn high_water(&self) -> u32 {
        self.high_water
    }

    /// A slot got a page.
    fn came(&mut self) {
        // At most as many as there are slots.
        self.present = self.present.wrapping_add(1);
        self.high_water = self.high_water.max(self.present);
    }

    /// A slot lost its page.
    fn went(&mut self) {
        warn_on!(self.present == 0);
        self.present = self.present.wrapping_sub(1);
    }
}

/// A range whose lock is held: the right to change its slots.
///
/// # Invariants
///
/// `guard` is of the lock of `range`.
pub(super) struct Slots<'a> {
    range: &'a PageRange,
    guard: Guard<'a, Guarded, SpinLockBackend>,
}

impl<'a> Slots<'a> {
    /// Takes the lock of `range`.
    pub(super) fn lock(range: &'a PageRange) -> Self {
        // INVARIANT: The guard is of the range's lock.
        Self {
            range,
            guard: range.guarded().lock(),
        }
    }

    /// As [`Slots::lock`]; `None` if the lock is held.
    pub(super) fn try_lock(range: &'a PageRange) -> Option<Self> {
        // INVARIANT: The guard is of the range's lock.
        Some(Self {
            range,
            guard: range.guarded().try_lock()?,
        })
    }

    /// Returns the slot at `index`, if its chunk is there.
    pub(super) fn get(&mut self, index: usize) -> Option<SlotMut<'_>> {
        let slot = self.range.slot(index)?;
        // SAFETY: By invariant 2 of `Slot` this is accessed with the lock held, which it is. `self` is borrowed
        // exclusively as long as the reference lives, so there is no other.
        let users = unsafe { &mut *slot.users.get() };
        // SAFETY: By invariant 2 of `Slot` this is accessed with the lock held, which it is. `self` is borrowed
        // exclusively as long as the reference lives, so there is no other.
        let flags = unsafe { &mut *slot.flags.get() };
        Some(SlotMut {
            slot,
            users,
            flags,
            range: &mut self.guard,
        })
    }
}

impl Deref for Slots<'_> {
    type Target = Guarded;

    fn deref(&self) -> &Guarded {
        &self.guard
    }
}
