// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! The reference counts of a node, as a machine without surroundings.
//!
//! A node lives in its owner's user space. The driver counts who needs it, and tells the owner only when "somebody"
//! becomes "nobody" or the other way round, once for strong and once for weak references. The owner acknowledges what
//! it was told to acquire; until then the driver holds a count of its own, so that the answer cannot cross a release.

/// The counts of one node.
#[derive(Default)]
pub(crate) struct Counts {
    /// Handles, in all processes.
    handles: usize,
    /// Handles with a strong count, in all processes.
    strong_handles: usize,
    /// Strong counts of the owner's own: buffers in its mapping, and acknowledgements that are due.
    local_strong: usize,
    /// Weak counts of the owner's own.
    local_weak: usize,
    strong: Told,
    weak: Told,
    /// The node of a context manager, which anybody may acquire at any time.
    manager: bool,
}

/// What the owner knows of one kind of reference.
#[derive(Default)]
struct Told {
    /// It was told to acquire, and not yet to release.
    acquired: bool,
    /// Its acknowledgement is due.
    pending: bool,
}

/// What the owner is to be told now. In this order: weak before strong when it comes, after it when it goes.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Changes {
    /// `BR_INCREFS`.
    pub(crate) increfs: bool,
    /// `BR_ACQUIRE`.
    pub(crate) acquire: bool,
    /// `BR_RELEASE`.
    pub(crate) release: bool,
    /// `BR_DECREFS`.
    pub(crate) decrefs: bool,
    /// Nobody needs the node any more: it goes.
    pub(crate) gone: bool,
}

/// Why counts were not changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotCounted;

impl Counts {
    /// The node becomes a context manager's: the owner is taken to hold it as long as it is the manager, and has
    /// nothing to acknowledge.
    pub(crate) fn become_manager(&mut self) {
        self.local_strong += 1;
        self.local_weak += 1;
        self.strong.acquired = true;
        self.weak.acquired = true;
        self.manager = true;
    }

    fn any_strong(&self) -> bool {
        self.local_strong != 0 || self.strong_handles != 0
    }

    fn any_weak(&self) -> bool {
        self.local_weak != 0 || self.handles != 0 || self.any_strong()
    }

    /// Whether the owner does not know of a strong reference, although it should.
    pub(crate) fn owes_acquire(&self) -> bool {
        self.any_strong() && !self.strong.acquired
    }

    /// Whether what the owner knows is not what is.
    pub(crate) fn is_stale(&self) -> bool {
        self.any_strong() != self.strong.acquired || self.any_weak() != self.weak.acquired
    }

    /// Whether nobody refers to the node.
    pub(crate) fn is_unused(&self) -> bool {
        !self.any_weak()
    }

    /// One local count more.
    pub(crate) fn add_local(&mut self, strong: bool) {
        if strong {
            self.local_strong += 1;
        } else {
            self.local_weak += 1;
        }
    }

    /// One local count less; returns whether it was the last that mattered to the owner.
    pub(crate) fn remove_local(&mut self, strong: bool) -> bool {
        if strong {
            self.local_strong = self.local_strong.saturating_sub(1);
            !self.any_strong()
        } else {
            self.local_weak = self.local_weak.saturating_sub(1);
            !self.any_weak()
        }
    }

    /// Whether a handle may get its first count of this kind from somebody other than the owner. The owner must know
    /// of the node already: else the first to tell it would come too late.
    pub(crate) fn can_add_handle(&self, strong: bool) -> bool {
        if strong {
            self.strong_handles != 0 || (self.manager && self.strong.acquired)
        } else {
            self.weak.acquired
        }
    }

    /// A process has a new handle.
    pub(crate) fn add_handle(&mut self) {
        self.handles += 1;
    }

    /// A handle has got its first strong count.
    pub(crate) fn add_strong_handle(&mut self) {
        self.strong_handles += 1;
    }

    /// A handle has lost its last strong count; returns whether it was the last that mattered to the owner.
    pub(crate) fn remove_strong_handle(&mut self) -> bool {
        self.strong_handles = self.strong_handles.saturating_sub(1);
        !self.any_strong()
    }

    /// A handle is gone; returns whether it was the last that mattered to the owner.
    pub(crate) fn remove_handle(&mut self) -> bool {
        self.handles = self.handles.saturating_sub(1);
        !self.any_weak()
    }

    /// The owner died: only handles are left, and there is nobody to tell.
    pub(crate) fn forget_owner(&mut self) {
        self.local_strong = 0;
        self.local_weak = 0;
        self.strong = Told::default();
        self.weak = Told::default();
    }

    /// What the owner is to be told, taken as told from now on.
    pub(crate) fn tell(&mut self) -> Changes {
        let (strong, weak) = (self.any_strong(), self.any_weak());
        let mut changes = Changes::default();
        if weak && !self.weak.acquired {
            self.weak = Told {
                acquired: true,
                pending: true,
            };
            self.local_weak += 1;
            changes.increfs = true;
        }
        if strong && !self.strong.acquired {
            self.strong = Told {
                acquired: true,
                pending: true,
            };
            self.local_strong += 1;
            changes.acquire = true;
        }
        if !strong && self.strong.acquired {
            self.strong.acquired = false;
            changes.release = true;
        }
        if !weak && self.weak.acquired {
            self.weak.acquired = false;
            changes.decrefs = true;
        }
        changes.gone = !weak && !strong;
        changes
    }

    /// The owner has acquired what it was told to; returns whether the driver's own count was the last.
    ///
    /// # Errors
    ///
    /// If it was not told to.
    pub(crate) fn acknowledge(&mut self, strong: bool) -> Result<bool, NotCounted> {
        let told = if strong {
            &mut self.strong
        } else {
            &mut self.weak
        };
        if !core::mem::replace(&mut told.pending, false) {
            return Err(NotCounted);
        }
        Ok(self.remove_local(strong))
    }

    /// What the owner was told to hold: strongly, weakly.
    pub(crate) fn told(&self) -> (bool, bool) {
        (self.strong.acquired, self.weak.acquired)
    }

    /// Strong references in all, and the weak ones that are the driver's own: what the C driver tells.
    pub(crate) fn totals(&self) -> (usize, usize) {
        (
            self.local_strong.saturating_add(self.strong_handles),
            self.local_weak,
        )
    }

    /// For the logs: handles, strong handles, local strong, local weak.
    pub(crate) fn figures(&self) -> [usize; 4] {
        [
            self.handles,
            self.strong_handles,
            self.local_strong,
            self.local_weak,
        ]
    }
}
