// SPDX-License-Identifier: GPL-2.0

//! The minor numbers that all mounts share.

use kernel::{
    bindings,
    error::to_result,
    id_pool::IdPool,
    new_mutex,
    prelude::*,
    sync::Mutex, //
};

/// How many devices there can be: as many as there are minor numbers.
pub(super) const MAX_DEVICES: u32 = 1 << bindings::MINORBITS;

/// How many of them are for the initial user namespace alone, so that no container can take what the host needs.
const RESERVED: u32 = 4;

/// The major number, and which minor numbers are taken.
#[pin_data]
pub(super) struct Numbers {
    region: Region,
    #[pin]
    ids: Mutex<IdPool>,
}

impl Numbers {
    /// Asks the kernel for a major number.
    ///
    /// # Errors
    ///
    /// `EBUSY` if there is none left, `ENOMEM`.
    pub(super) fn new() -> Result<impl PinInit<Self>> {
        let region = Region::new()?;
        Ok(pin_init!(Self {
            region,
            ids <- new_mutex!(IdPool::new(), "binderfs::Numbers"),
        }))
    }

    /// The device number that belongs to `minor`.
    pub(super) fn device(&self, minor: u32) -> bindings::dev_t {
        self.region.0 | minor
    }

    /// The major number of all of them.
    pub(super) fn major(&self) -> u32 {
        self.region.0 >> bindings::MINORBITS
    }

    /// Takes the smallest number that is free.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if none is, `ENOMEM`.
    pub(super) fn take(&self, privileged: bool) -> Result<u32> {
        let end = if privileged {
            MAX_DEVICES
        } else {
            MAX_DEVICES - RESERVED
        };
        let mut ids = self.ids.lock();
        loop {
            if let Some(id) = ids.find_unused_id(0) {
                let number = id.as_u32();
                if number >= end {
                    return Err(ENOSPC);
                }
                id.acquire();
                return Ok(number);
            }
            // CAST: From 32 to 64 bits.
            if ids.capacity() >= MAX_DEVICES as usize {
                return Err(ENOSPC);
            }
            let grown = ids.grow_request().ok_or(ENOSPC)?.realloc(GFP_KERNEL)?;
            ids.grow(grown);
        }
    }

    /// Gives a number back.
    pub(super) fn give_back(&self, number: u32) {
        // CAST: From 32 to 64 bits.
        self.ids.lock().release_id(number as usize);
    }
}

/// A major number of our own, with all its minor numbers.
///
/// # Invariants
///
/// The region that begins at this number is allocated.
struct Region(bindings::dev_t);

impl Region {
    fn new() -> Result<Self> {
        let mut first = 0;
        // SAFETY: The name is a string that lives for ever, and the number is written before this returns.
        to_result(unsafe {
            bindings::alloc_chrdev_region(&mut first, 0, MAX_DEVICES, c"binder".as_char_ptr())
        })?;
        // INVARIANT: Allocated just now.
        Ok(Self(first))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. No inode has a number of it any more.
        unsafe { bindings::unregister_chrdev_region(self.0, MAX_DEVICES) };
    }
}
