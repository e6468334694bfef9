// SPDX-License-Identifier: GPL-2.0

//! Counters that a test's processes share.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::sys::mman;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;

/// Counters that a process and all it forks after see alike.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    base: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the memory is never unmapped, and is only used as atomics.
unsafe impl Send for Tally {}
// SAFETY: as above.
unsafe impl Sync for Tally {}

impl Tally {
    /// So many, all zero. They stay as long as the process.
    pub fn new(len: usize) -> Self {
        let bytes = NonZeroUsize::new(len * size_of::<AtomicU64>()).expect("at least one");
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel picks a range nothing else uses.
        let base = unsafe { mman::mmap_anonymous(None, bytes, prot, MapFlags::MAP_SHARED) }.expect("mmap");
        Self { base: base.cast(), len }
    }

    /// One of them.
    pub fn at(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.len);
        // SAFETY: the index is inside; the memory is aligned to a page, zeroed, and stays.
        let place = unsafe { self.base.add(index) };
        // SAFETY: as above; any bytes are a valid atomic, and all references to it are shared.
        unsafe { place.as_ref() }
    }
}
