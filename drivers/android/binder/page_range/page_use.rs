// SPDX-License-Identifier: GPL-2.0

//! Filling, clearing and mapping the pages of one buffer.

use kernel::{
    bindings,
    page::{
        Page,
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::Arc,
    uaccess::UserPtr, //
};

use super::{
    state::View,
    PageRange,
    MAX_SIZE, //
};
use crate::sys::rmap;

/// The right to the pages that one buffer touches.
///
/// # Invariants
///
/// Every slot in `first..end` of the range has a page, and one of its users is this value. So the page stays the same.
pub(crate) struct PageUse {
    pub(super) range: Arc<PageRange>,
    // A mapping has few pages, and this is moved often.
    pub(super) first: u16,
    pub(super) end: u16,
    pub(super) all_mapped: bool,
}

const _: () = assert!(MAX_SIZE / PAGE_SIZE <= u16::MAX as usize);

impl PageUse {
    fn indices(&self) -> core::ops::Range<usize> {
        usize::from(self.first)..usize::from(self.end)
    }

    /// Calls `f` for each piece of a page that makes up the bytes `offset..offset + len` of the mapping: page, offset
    /// in the page, and length. A piece ends inside its page.
    ///
    /// # Errors
    ///
    /// `EINVAL` where bytes are outside of the pages held, and whatever `f` returns.
    fn for_each_piece(
        &self,
        mut offset: usize,
        mut len: usize,
        mut f: impl FnMut(&Page, usize, usize) -> Result,
    ) -> Result {
        while len > 0 {
            let index = offset >> PAGE_SHIFT;
            if !self.indices().contains(&index) {
                return Err(EINVAL);
            }
            let within = offset & (PAGE_SIZE - 1);
            let piece = len.min(PAGE_SIZE - within);
            let slot = self.range.slot(index).ok_or(EINVAL)?;
            // SAFETY: By the type invariant this value is one of the page's users.
            let page = unsafe { slot.page() }.ok_or(EINVAL)?;
            f(page, within, piece)?;
            offset += piece;
            len -= piece;
        }
        Ok(())
    }

    /// Copies `len` bytes from user space to `offset` in the mapping.
    ///
    /// # Errors
    ///
    /// `EFAULT` if they cannot be read; `EINVAL` if they go beyond the pages held.
    pub(crate) fn copy_from_user(&self, offset: usize, from: UserPtr, len: usize) -> Result {
        let mut from = from;
        self.for_each_piece(offset, len, |page, within, piece| {
            // SAFETY: The page is valid as long as it is lent; it is unmapped below, in the reverse order of mapping.
            let mapped = unsafe { bindings::kmap_local_page(page.as_ptr()) };
            // The variant without the check of the kernel's side: that looks for the object that the bytes are in,
            // and here it is the one page, of which `piece` bytes from `within` are left.
            // SAFETY: By the promise of `for_each_piece` the bytes are in the page. They belong to one buffer, which is
            // not delivered yet: no other code writes to them, and a process that reads the page through a mapping does
            // so as a user of memory that the kernel writes.
            let left = unsafe {
                bindings::_copy_from_user(
                    mapped.cast::<u8>().add(within).cast(),
                    from.as_const_ptr(),
                    piece,
                )
            };
            // SAFETY: It was the last page that this thread mapped.
            unsafe { bindings::kunmap_local(mapped) };
            from = from.wrapping_byte_add(piece);
            if left == 0 {
                Ok(())
            } else {
                Err(EFAULT)
            }
        })
    }

    /// Copies `data` to `offset` in the mapping.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it goes beyond the pages held.
    pub(crate) fn write(&self, offset: usize, data: &[u8]) -> Result {
        let mut rest = data;
        self.for_each_piece(offset, data.len(), |page, within, piece| {
            let (now, later) = rest.split_at_checked(piece).ok_or(EINVAL)?;
            rest = later;
            // SAFETY: `now` is `piece` bytes long. The bytes of the page belong to one buffer, whose owner is the only one
            // to write to them.
            unsafe { page.write_raw(now.as_ptr(), within, now.len()) }
        })
    }

    /// Overwrites bytes of the mapping with zeroes.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they go beyond the pages held.
    pub(crate) fn clear(&self, offset: usize, len: usize) -> Result {
        self.for_each_piece(offset, len, |page, within, piece| {
            // SAFETY: The bytes are in the page. They belong to one buffer, whose owner is the only one to write to them.
            unsafe { page.fill_zero_raw(within, piece) }
        })
    }

    /// Lets the pages be seen from now on, and maps them into the current process if it has the mapping and they are
    /// not there yet. Failure is no error: what is missing, the fault handler maps.
    ///
    /// # Locking
    ///
    /// Takes the mmap lock of the current process and sleeps.
    #[inline]
    pub(crate) fn map_if_needed(&self) {
        if !self.all_mapped {
            self.map();
        }
    }

    #[cold]
    fn map(&self) {
        let range = &*self.range;
        let (pgoff, start) = (range.pgoff(), range.user_start());
        let mut slots = range.lock();
        for index in self.indices() {
            if let Some(mut slot) = slots.get(index) {
                slot.show();
            }
        }
        drop(slots);
        rmap::with_inserter(range, |insert| {
            for index in self.indices() {
                let view = range.lock().get(index).map(|slot| slot.view());
                if view.is_none_or(|view| view == View::Mapped) {
                    continue;
                }
                let Some(slot) = range.slot(index) else {
                    continue;
                };
                // SAFETY: By the type invariant this value is one of the page's users.
                let Some(page) = (unsafe { slot.page() }) else {
                    continue;
                };
                let address = start.wrapping_add(index << PAGE_SHIFT);
                if insert(pgoff.wrapping_add(index), address, page) {
                    if let Some(mut slot) = range.lock().get(index) {
                        slot.set_mapped();
                    }
                }
            }
        });
    }
}

impl Drop for PageUse {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this value is a user of each of these, and it goes.
        unsafe { self.range.release(self.indices()) };
    }
}
