// SPDX-License-Identifier: GPL-2.0

//! From a page's place in a process's buffer space to every page table that maps it, and back.
//!
//! The driver must take pages back from processes that are asleep, that moved or split the mapping, or that are just
//! exiting. Remembering the address at which a process once mapped its buffers does not do: it goes stale, and using it
//! takes a reference on, and locks of, another process's mm, at a time - reclaim - when neither is safe to wait for.
//!
//! The kernel already keeps what is needed. Each open binder file gets an inode of its own, and with it an
//! `address_space`, whose interval tree the kernel keeps current through every `mmap`, `mremap`, split, `munmap` and
//! exit. [`AddressSpace::zap`] walks that tree (`unmap_mapping_range`), with no mm reference and no mmap lock. Whatever
//! is not mapped, for whatever reason, the fault handler maps by its offset in the file.
//!
//! # Locking
//!
//! `zap` sleeps on the `i_mmap_rwsem` of the address space, so no spinlock may be held. Everything that inserts a page
//! runs under the mmap or VMA lock of the current process, never of another.

use core::{
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    bindings,
    error::from_err_ptr,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    mm::virt::{
        VmaNew,
        VmaRef, //
    },
    page::{
        Page,
        PAGE_MASK,
        PAGE_SHIFT, //
    },
    prelude::*,
    types::Opaque, //
};

/// The magic number of the internal file system, which user space never sees. "binr" in ASCII.
const MAGIC: usize = 0x6269_6e72;

/// The internal file system that the inodes belong to. It has no root that could be reached and is never registered.
///
/// Its owner stays empty: the module itself makes the mounts of it, which would otherwise keep the module from being
/// unloaded.
struct FsType(Opaque<bindings::file_system_type>);

// SAFETY: The kernel locks what it changes in a `file_system_type`.
unsafe impl Sync for FsType {}

static FS_TYPE: FsType = FsType(Opaque::new(bindings::file_system_type {
    name: c"binder_rs_pages".to_bytes_with_nul().as_ptr().cast(),
    init_fs_context: Some(init_fs_context),
    kill_sb: Some(bindings::kill_anon_super),
    ..pin_init::zeroed()
}));

// What is inside a `fs_context` is C's business.
#[allow(improper_ctypes)]
extern "C" {
    /// `include/linux/pseudo_fs.h`, which the kernel's bindings leave out: null if there is no memory.
    fn init_pseudo(fc: *mut bindings::fs_context, magic: c_ulong) -> *mut c_void;
}

/// # Safety
///
/// To be called by the kernel, as `file_system_type.init_fs_context`.
unsafe extern "C" fn init_fs_context(fc: *mut bindings::fs_context) -> c_int {
    // SAFETY: The kernel calls this with a context that is being prepared.
    if unsafe { init_pseudo(fc, MAGIC) }.is_null() {
        return ENOMEM.to_errno();
    }
    0
}

/// The mount of the internal file system: as long as it exists, [`AddressSpace`]s can be made.
///
/// # Invariants
///
/// `mount` is a mount made by `kern_mount` and not yet unmounted.
pub(crate) struct Mount {
    mount: NonNull<bindings::vfsmount>,
}

// SAFETY: A mount may be used from and unmounted on any thread.
unsafe impl Send for Mount {}
// SAFETY: `&Mount` allows nothing but making inodes, for which the kernel locks.
unsafe impl Sync for Mount {}

impl Mount {
    /// Mounts the internal file system.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: The type is complete, and lives as long as the module.
        let mount = from_err_ptr(unsafe { bindings::kern_mount(FS_TYPE.0.get()) })?;
        // INVARIANT: `kern_mount` succeeded.
        Ok(Self {
            mount: NonNull::new(mount).ok_or(ENOMEM)?,
        })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this is a mount of `kern_mount`, and it is not used after this.
        unsafe { bindings::kern_unmount(self.mount.as_ptr()) };
    }
}

/// The reverse map of one open binder file.
///
/// # Invariants
///
/// `inode` is a valid inode of the internal file system, and this value owns one reference on it.
pub(crate) struct AddressSpace {
    inode: NonNull<bindings::inode>,
}

// SAFETY: The inode may be used and released on any thread.
unsafe impl Send for AddressSpace {}
// SAFETY: `&AddressSpace` allows only zapping, for which the kernel takes its own locks.
unsafe impl Sync for AddressSpace {}

impl AddressSpace {
    /// Makes an address space that nothing is mapped from.
    pub(crate) fn new(mount: &Mount) -> Result<Self> {
        // SAFETY: By the type invariant the mount is valid.
        let sb = unsafe { (*mount.mount.as_ptr()).mnt_sb };
        // SAFETY: The super block of a mount is valid as long as the mount is.
        let inode = unsafe { bindings::alloc_anon_inode(sb) };
        let inode = from_err_ptr(inode)?;
        // INVARIANT: `alloc_anon_inode` returned a reference, which is now ours.
        Ok(Self {
            inode: NonNull::new(inode).ok_or(ENOMEM)?,
        })
    }

    fn mapping(&self) -> *mut bindings::address_space {
        // SAFETY: By the type invariant the inode is valid.
        unsafe { (*self.inode.as_ptr()).i_mapping }
    }

    /// Makes `file` map its pages through this address space.
    ///
    /// # Safety
    ///
    /// To be called from `file_operations.open` of `file`, before others can see the file. The address space must live
    /// until the file's `release`.
    pub(crate) unsafe fn attach(&self, file: *mut bindings::file) {
        // SAFETY: By the caller's promise the file is valid, and not yet seen by others.
        unsafe { (*file).f_mapping = self.mapping() };
    }

    /// Removes every page table entry for the `pages` page offsets from `first`, in all mappings, with one flush of
    /// the TLB for each.
    ///
    /// # Locking
    ///
    /// Sleeps.
    pub(crate) fn zap(&self, first: usize, pages: usize) {
        // CAST: Page offsets of a mapping of at most a few megabytes at an offset that `mmap` has checked, so that
        // their byte offsets fit a `loff_t`.
        let (start, len) = ((first << PAGE_SHIFT) as i64, (pages << PAGE_SHIFT) as i64);
        // SAFETY: By the type invariant the inode is valid, and so is its mapping.
        unsafe { bindings::unmap_mapping_range(self.mapping(), start, len, 1) };
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours to give back.
        unsafe { bindings::iput(self.inode.as_ptr()) };
    }
}

/// What stands behind a mapping.
pub(crate) trait PageSource: Sync + Sized + 'static {
    /// A page that cannot be taken from its offset as long as this value lives.
    type Pinned<'a>: Deref<Target = Page>
    where
        Self: 'a;

    /// Pins the page at `pgoff` (in pages, from the start of the file), if there is one to be seen.
    fn pin_page(&self, pgoff: usize) -> Option<Self::Pinned<'_>>;

    /// A page table has just got an entry for the page at `pgoff` that it had not before.
    fn page_mapped(&self, pgoff: usize);

    /// A VMA of this backing came into being by a split, or the mapping moved.
    fn vma_opened(&self);

    /// A VMA of this backing is gone.
    fn vma_closed(&self);

    /// The VMA that starts at page offset `pgoff` of the file now starts at the address `start`.
    fn vma_moved(&self, pgoff: usize, start: usize);
}

struct VmOps<B>(B);

impl<B: PageSource> VmOps<B> {
    const TABLE: bindings::vm_operations_struct = bindings::vm_operations_struct {
        open: Some(Self::open),
        close: Some(Self::close),
        mremap: Some(Self::mremap),
        fault: Some(Self::fault),
        ..pin_init::zeroed()
    };

    /// The table's address, which tells our VMAs from others.
    fn table() -> *const bindings::vm_operations_struct {
        &Self::TABLE
    }

    /// Returns the backing of a VMA.
    ///
    /// # Safety
    ///
    /// `vma` must be a valid VMA whose operations are [`Self::TABLE`], for as long as `'a`.
    unsafe fn backing<'a>(vma: *const bindings::vm_area_struct) -> &'a B {
        // SAFETY: By the caller's promise the VMA is valid.
        let backing = unsafe { (*vma).vm_private_data };
        // SAFETY: `map` alone makes VMAs with this table, and put a pointer to a `B` there. The caller of `map` promised
        // that it lives until the release of the file, on which the VMA holds a reference.
        unsafe { &*backing.cast::<B>() }
    }

    /// # Safety
    ///
    /// To be called by the kernel, as `vm_operations_struct.open` of [`Self::TABLE`].
    unsafe extern "C" fn open(vma: *mut bindings::vm_area_struct) {
        // SAFETY: The kernel calls this for a VMA with this table, which is valid meanwhile.
        unsafe { Self::backing(vma) }.vma_opened();
    }

    /// # Safety
    ///
    /// To be called by the kernel, as `vm_operations_struct.close` of [`Self::TABLE`].
    unsafe extern "C" fn close(vma: *mut bindings::vm_area_struct) {
        // SAFETY: The kernel calls this for a VMA with this table, which is valid meanwhile.
        unsafe { Self::backing(vma) }.vma_closed();
    }

    /// # Safety
    ///
    /// To be called by the kernel, as `vm_operations_struct.mremap` of [`Self::TABLE`].
    unsafe extern "C" fn mremap(vma: *mut bindings::vm_area_struct) -> c_int {
        // SAFETY: The kernel holds the mmap lock for writing.
        let start = unsafe { (*vma).__bindgen_anon_1.__bindgen_anon_1.vm_start };
        // SAFETY: The kernel holds the mmap lock for writing.
        let pgoff = unsafe { (*vma).vm_pgoff };
        // SAFETY: The kernel calls this for a VMA with this table, which is valid meanwhile.
        unsafe { Self::backing(vma) }.vma_moved(pgoff, start);
        0
    }

    /// # Safety
    ///
    /// To be called by the kernel, as `vm_operations_struct.fault` of [`Self::TABLE`].
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: The kernel gives a valid description of the fault, which does not change while this runs.
        let what = unsafe { &(*vmf).__bindgen_anon_1 };
        let (vma, pgoff, address) = (what.vma, what.pgoff, what.address);
        // SAFETY: The fault is in a VMA with this table, which is valid while this runs.
        let backing = unsafe { Self::backing(vma) };
        let Some(page) = backing.pin_page(pgoff) else {
            return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
        };
        // SAFETY: A fault runs under the mmap or VMA lock. `map` set `VM_MIXEDMAP`. The page is of order 0, and stays
        // where it is as long as it is lent.
        let ret = unsafe { bindings::vm_insert_page(vma, address & PAGE_MASK, page.as_ptr()) };
        if ret == 0 {
            backing.page_mapped(pgoff);
        }
        // An entry that is there already is for the same page: a page leaves its offset only after it was zapped, and not
        // while it is lent.
        if ret == 0 || ret == EBUSY.to_errno() {
            bindings::vm_fault_reason_VM_FAULT_NOPAGE
        } else if ret == ENOMEM.to_errno() {
            bindings::vm_fault_reason_VM_FAULT_OOM
        } else {
            bindings::vm_fault_reason_VM_FAULT_SIGBUS
        }
    }
}

/// Sets up a VMA that is being made, so that `backing` stands behind it.
///
/// The mapping can be read but never be made writable, is not inherited by `fork`, cannot grow, and never merges with
/// a neighbour. Unlike copies by split or `mremap`, this first VMA is not announced through [`PageSource::vma_opened`].
///
/// # Errors
///
/// `EPERM` if the VMA is writable.
///
/// # Safety
///
/// `backing` must live until the `release` of the file that is being mapped.
pub(crate) unsafe fn map<B: PageSource>(vma: &VmaNew, backing: &B) -> Result {
    vma.try_clear_maywrite().map_err(|_| EPERM)?;
    vma.set_dontcopy();
    vma.set_dontexpand();
    vma.set_mixedmap();
    // SAFETY: A `VmaNew` is a VMA that is still being made, so nothing else accesses it.
    unsafe { (*vma.as_ptr()).vm_ops = VmOps::<B>::table() };
    // SAFETY: A `VmaNew` is a VMA that is still being made, so nothing else accesses it.
    unsafe { (*vma.as_ptr()).vm_private_data = ptr::from_ref(backing).cast_mut().cast() };
    Ok(())
}

/// The page offset in the file at which a VMA starts.
pub(crate) fn vma_pgoff(vma: &VmaRef) -> usize {
    // SAFETY: A `VmaRef` is evidence that at least the mmap read lock is held, under which the field does not change.
    unsafe { (*vma.as_ptr()).vm_pgoff }
}

/// Calls `insert` with a function that maps a page of `backing` at an address of the current process, with the mmap
/// lock held for reading.
///
/// That function returns whether the page is mapped there now. It refuses addresses at which something else than this
/// backing, at just this page offset, is mapped; there the fault handler will do what is needed.
pub(crate) fn with_inserter<B: PageSource>(
    backing: &B,
    insert: impl FnOnce(&mut dyn FnMut(usize, usize, &Page) -> bool),
) {
    let current = current!();
    let Some(mm) = current.mm() else { return };
    let mmap = mm.mmap_read_lock();
    insert(&mut |pgoff, address, page| {
        let Some(vma) = mmap.vma_lookup(address) else {
            return false;
        };
        // SAFETY: A `VmaRef` is evidence of the mmap lock, under which the field does not change.
        let ops = unsafe { (*vma.as_ptr()).vm_ops };
        // SAFETY: A `VmaRef` is evidence of the mmap lock, under which the field does not change.
        let data = unsafe { (*vma.as_ptr()).vm_private_data };
        let ours = ptr::eq(ops, VmOps::<B>::table()) && ptr::eq(data.cast(), backing);
        let here = address.wrapping_sub(vma.start()) >> PAGE_SHIFT;
        if !ours || vma_pgoff(vma).wrapping_add(here) != pgoff {
            return false;
        }
        match vma
            .as_mixedmap_vma()
            .map(|vma| vma.vm_insert_page(address, page))
        {
            Some(Ok(())) => {
                backing.page_mapped(pgoff);
                true
            }
            Some(Err(e)) => e == EBUSY,
            None => false,
        }
    });
}
