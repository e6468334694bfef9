// SPDX-License-Identifier: GPL-2.0

//! One page of a mapping: its states, and where they are kept.

use core::{
    cell::UnsafeCell,
    mem::{
        offset_of,
        size_of, //
    },
    ops::Deref,
    ptr::NonNull,
};
use kernel::{
    alloc::flags::{
        __GFP_HIGHMEM,
        __GFP_ZERO, //
    },
    bindings,
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
    types::Opaque, //
};

use super::{
    state::{
        Flags,
        Place,
        View, //
    },
    PageRange,
    MAX_SIZE, //
};
use crate::{
    stats::CountedPage,
    sys::{
        lru::LRU,
        memcg::{
            MemCgroup,
            Payer, //
        },
    },
};

/// Slots are allocated by the chunk, when one of them is first needed. A chunk is 1 KB.
pub(super) const CHUNK_SLOTS: usize = 32;
pub(super) const MAX_CHUNKS: usize = (MAX_SIZE / PAGE_SIZE).div_ceil(CHUNK_SLOTS);

/// A page that is counted as long as it is behind a mapping.
pub(super) struct OwnPage {
    page: Page,
    _counted: CountedPage,
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
            _counted: CountedPage::new(),
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
/// - `users` and `flags` are accessed only with the owner's lock held.
/// - `page` is changed only with the owner's lock held, and only while `users` is 0 or `page` is `None`.
/// - `Listed` and `Isolated` slots have a page. An `Isolated` slot owns one reference on its [`PageRange`]. A `Listed`
///   one belongs to a range that is not `dead`.
/// - `users` is 0 wherever `Isolated` comes with `reclaiming`.
/// - A slot without a page is `Hidden`.
/// - A page table entry for this offset exists only for the page in `page`, and only if it is not `Hidden`.
#[repr(C)]
pub(super) struct Slot {
    pub(super) links: Opaque<bindings::list_head>,
    pub(super) page: UnsafeCell<Option<OwnPage>>,
    /// Buffers that touch the page, and whoever is just mapping it.
    pub(super) users: UnsafeCell<u32>,
    pub(super) flags: UnsafeCell<Flags>,
    pub(super) index_in_chunk: u8,
}

/// Neighbouring slots.
///
/// # Invariants
///
/// `owner` points at the range that the chunk belongs to, which outlives it.
#[repr(C)]
pub(super) struct Chunk {
    pub(super) owner: *const PageRange,
    pub(super) first: usize,
    pub(super) slots: [Slot; CHUNK_SLOTS],
}

const _: () = assert!(size_of::<Slot>() <= 4 * size_of::<usize>());

impl Chunk {
    /// Allocates a chunk of slots without pages, charged to `group`, which gets lists on the LRU for their entries.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. No process is killed to avoid that.
    pub(super) fn new(
        group: Arc<MemCgroup>,
        owner: *const PageRange,
        first: usize,
    ) -> Result<NonNull<Self>> {
        let memory = LRU.alloc_entries(group)?;
        let raw = memory.cast::<Self>().as_ptr();
        for i in 0..CHUNK_SLOTS {
            // SAFETY: `raw` is valid for writes, and `i` is in bounds of the array in it; every field of every slot is
            // written here, before anybody reads one.
            unsafe {
                let slot = (&raw mut (*raw).slots).cast::<Slot>().add(i);
                let links = Opaque::cast_into(&raw const (*slot).links);
                (*links).next = links;
                (*links).prev = links;
                (&raw mut (*slot).page).write(UnsafeCell::new(None));
                (&raw mut (*slot).users).write(UnsafeCell::new(0));
                (&raw mut (*slot).flags).write(UnsafeCell::new(Flags::FRESH));
                // CAST: Less than `CHUNK_SLOTS`.
                (&raw mut (*slot).index_in_chunk).write(i as u8);
            }
        }
        // SAFETY: As above.
        unsafe {
            (&raw mut (*raw).owner).write(owner);
            (&raw mut (*raw).first).write(first);
        }
        Ok(memory.cast())
    }

    /// Frees a chunk.
    ///
    /// # Safety
    ///
    /// `chunk` must come from [`Chunk::new`] and not be used afterwards, and none of its slots may be on a list.
    pub(super) unsafe fn free(chunk: NonNull<Self>) {
        // SAFETY: By the caller's promise the chunk is valid and nobody else uses it.
        unsafe { chunk.drop_in_place() };
        // SAFETY: By the caller's promise the memory came from the LRU, and no entry in it is on a list.
        unsafe { LRU.free_entries(chunk.cast()) };
    }
}

impl Slot {
    /// The slot that a list entry belongs to.
    ///
    /// # Safety
    ///
    /// `links` must be the `links` of a slot.
    pub(super) unsafe fn from_links(links: *mut bindings::list_head) -> *const Self {
        links
            .cast::<u8>()
            .wrapping_sub(offset_of!(Self, links))
            .cast()
    }

    /// The owner of the slot, and its index there.
    ///
    /// # Safety
    ///
    /// `slot` must point at a slot in a chunk, and the chunk must be valid.
    pub(super) unsafe fn position(slot: *const Self) -> (*const PageRange, usize) {
        // SAFETY: By the caller's promise; neither field ever changes.
        unsafe {
            let i = usize::from((*slot).index_in_chunk);
            let chunk = slot
                .sub(i)
                .cast::<u8>()
                .sub(offset_of!(Chunk, slots))
                .cast::<Chunk>();
            ((*chunk).owner, (*chunk).first.wrapping_add(i))
        }
    }
}

/// A slot whose owner's lock is held.
pub(super) struct SlotMut<'a> {
    pub(super) slot: &'a Slot,
    pub(super) users: &'a mut u32,
    pub(super) flags: &'a mut Flags,
}

impl SlotMut<'_> {
    pub(super) fn links(&self) -> *mut bindings::list_head {
        self.slot.links.get()
    }

    pub(super) fn has_page(&self) -> bool {
        // SAFETY: The lock is held, so nobody writes to the field.
        unsafe { (*self.slot.page.get()).is_some() }
    }

    /// Puts a page where there is none; gives it back if there is one.
    pub(super) fn set_page(&mut self, page: OwnPage) -> Option<OwnPage> {
        if self.has_page() {
            return Some(page);
        }
        // SAFETY: The lock is held, and as there is no page nobody reads the field without it.
        // INVARIANT: Changed under the lock where there is none.
        unsafe { *self.slot.page.get() = Some(page) };
        None
    }

    /// Takes the page if nobody uses it. The caller knows that no page table has an entry for it.
    pub(super) fn take_page(&mut self) -> Option<OwnPage> {
        if *self.users != 0 {
            return None;
        }
        self.flags.view = View::Hidden;
        // SAFETY: The lock is held, and as there are no users nobody reads the field without it.
        // INVARIANT: Changed under the lock without users. The slot is `Hidden`.
        unsafe { (*self.slot.page.get()).take() }
    }

    /// Puts the slot, which is on no list, on the LRU. The range must not be dead and the slot have a page.
    pub(super) fn list(&mut self) {
        self.flags.place = Place::Listed;
        // SAFETY: The entry is on no list, in slab memory, and is taken off before the chunk goes.
        unsafe { LRU.add(self.links()) };
    }
}

/// Under [`PageRange::lock`].
pub(super) struct Guarded {
    /// The file is being released. Pages that nobody uses go at once.
    pub(super) dead: bool,
    /// The memory cgroup that pages and slots are charged to, as long as there is or may be a mapping.
    pub(super) group: Option<Arc<MemCgroup>>,
    /// How many slots have a page.
    ///
    /// Not kept up to date once the range is dead.
    pub(super) present: u32,
    /// The most that ever had one at a time.
    pub(super) high_water: u32,
}

impl Guarded {
    /// A slot got a page.
    pub(super) fn came(&mut self) {
        self.present = self.present.saturating_add(1);
        self.high_water = self.high_water.max(self.present);
    }

    /// Slots lost their pages.
    pub(super) fn went(&mut self, pages: usize) {
        // CAST: At most as many as there are slots.
        self.present = self.present.saturating_sub(pages as u32);
    }
}

/// A range whose lock is held: the right to change its slots.
pub(super) struct Slots<'a> {
    pub(super) range: &'a PageRange,
    pub(super) guard: Guard<'a, Guarded, SpinLockBackend>,
}

impl Slots<'_> {
    pub(super) fn get(&mut self, index: usize) -> Option<SlotMut<'_>> {
        let slot = self.range.slot(index)?;
        // SAFETY: The slot is one of the range whose lock is held.
        Some(unsafe { self.slot_mut(slot) })
    }

    /// # Safety
    ///
    /// `slot` must be one of the range whose lock is held.
    pub(super) unsafe fn slot_mut<'b>(&'b mut self, slot: &'b Slot) -> SlotMut<'b> {
        // SAFETY: By the invariant of `Slot` these are accessed with the lock held, and `self` is borrowed exclusively
        // as long as these references live.
        let (users, flags) = unsafe { (&mut *slot.users.get(), &mut *slot.flags.get()) };
        SlotMut { slot, users, flags }
    }
}
