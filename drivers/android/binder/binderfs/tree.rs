// SPDX-License-Identifier: GPL-2.0

//! The inodes of binderfs, and how they get into the tree.
//!
//! An inode that is not in the tree yet is a [`NewInode`]; what has to be given back when it goes is its own from the
//! start, and [`evict`] gives it back, whether it ever got into the tree or not.

use core::{
    marker::PhantomData,
    mem,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    bindings,
    error::from_err_ptr,
    ffi::c_int,
    prelude::*,
    sync::atomic::{
        Full,
        Relaxed, //
    },
    types::Opaque, //
};

use super::{
    logs_dir::Opened,
    numbers::MAX_DEVICES,
    Info,
    State, //
};
use crate::{
    device::BinderDevice,
    sys::seq_file::{
        self,
        Show, //
    },
};

const ROOT_INO: u64 = 1;
const CONTROL_INO: u64 = 2;
/// Devices have this and their minor number.
const FIRST_DEVICE_INO: u64 = 3;
/// All others are counted up from here.
pub(super) const FIRST_OTHER_INO: u64 = FIRST_DEVICE_INO + MAX_DEVICES as u64;

/// What an id without a name in the initial user namespace is.
const INVALID_ID: u32 = u32::MAX;

#[allow(improper_ctypes)]
extern "C" {
    fn binder_rs_notify_created(dir: *mut bindings::inode, dentry: *mut bindings::dentry);
}

/// A super block of binderfs.
///
/// # Invariants
///
/// Its `s_fs_info` leads to an [`Info`], which lives as long as any inode of it.
#[repr(transparent)]
pub(super) struct Super(Opaque<bindings::super_block>);

impl Super {
    /// # Safety
    ///
    /// `sb` must be a super block of binderfs that `fill_super` has given an [`Info`], and stay so for `'a`.
    pub(super) unsafe fn from_raw<'a>(sb: *mut bindings::super_block) -> &'a Self {
        // SAFETY: By the caller's promise; the layout is the same.
        unsafe { &*sb.cast() }
    }

    /// What the super block has of its own.
    pub(super) fn info(&self) -> &Info {
        // SAFETY: By the type invariant. The field is not written.
        unsafe { &*(*self.0.get()).s_fs_info.cast::<Info>() }
    }

    /// Remembers `binder_logs/proc/`, for [`Super::proc_dir`].
    pub(super) fn set_proc_dir(&self, dir: &Dir<'_>) {
        self.info().proc_dir.store(dir.dentry.as_ptr(), Relaxed);
    }

    /// `binder_logs/proc/`, if there is one.
    pub(super) fn proc_dir(&self) -> Option<Dir<'_>> {
        let dentry = NonNull::new(self.info().proc_dir.load(Relaxed))?;
        // INVARIANT: It was a `Dir` of this super block when it was remembered, and so it still is.
        Some(Dir {
            dentry,
            _sb: PhantomData,
        })
    }

    /// Which process has which device open.
    pub(super) fn opened(&self) -> &Opened {
        &self.info().opened
    }

    fn state(&self) -> &State {
        // SAFETY: A super block is seen in the file system's callbacks only.
        unsafe { State::get() }
    }

    /// The ids that root of the user namespace that mounted this has in the initial one.
    fn root_ids(&self) -> (u32, u32) {
        #[cfg(CONFIG_USER_NS)]
        // SAFETY: The super block holds the user namespace; the field is not written after it was made.
        unsafe {
            let ns = (*self.0.get()).s_user_ns;
            (
                bindings::make_kuid(ns, 0).val,
                bindings::make_kgid(ns, 0).val,
            )
        }
        #[cfg(not(CONFIG_USER_NS))]
        (0, 0)
    }

    /// Makes the root.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn make_root(&self) -> Result<Dir<'_>> {
        let inode = NewInode::directory(self, ROOT_INO, &ROOT_OPS)?;
        // SAFETY: The inode is the caller's to give away, also if this fails.
        let root = unsafe { bindings::d_make_root(inode.into_raw()) };
        let root = NonNull::new(root).ok_or(ENOMEM)?;
        // SAFETY: The super block is being filled in, which is where `populate` is called from.
        unsafe { (*self.0.get()).s_root = root.as_ptr() };
        // INVARIANT: The root stays as long as the super block.
        Ok(Dir {
            dentry: root,
            _sb: PhantomData,
        })
    }

    fn root(&self) -> Result<Dir<'_>> {
        // SAFETY: The field is written once, by `make_root`.
        let root = NonNull::new(unsafe { (*self.0.get()).s_root }).ok_or(ENOENT)?;
        // INVARIANT: The root stays as long as the super block.
        Ok(Dir {
            dentry: root,
            _sb: PhantomData,
        })
    }

    /// Adds a device called `name`. `tell` is told its number before it can be seen, and may object.
    ///
    /// # Errors
    ///
    /// - `ENOSPC` if there are as many devices as there may be.
    /// - `EEXIST` if there is something of this name.
    /// - `EACCES` if it cannot be a name.
    /// - What `tell` returns, and `ENOMEM`.
    pub(super) fn add_device(&self, name: &CStr, tell: impl FnOnce(u32) -> Result) -> Result {
        let number = Number::for_device(self)?;
        tell(number.minor)?;
        let binder_device = BinderDevice::new(name, &self.info().instance, &self.state().driver)?;
        self.root()?
            .add(name, NewInode::device(number, binder_device)?)?;
        Ok(())
    }

    /// The major number of the devices.
    pub(super) fn major(&self) -> u32 {
        self.state().numbers.major()
    }

    fn give_back(&self, minor: u32, counted: bool) {
        self.state().numbers.give_back(minor);
        if counted {
            self.info().devices.fetch_sub(1, Relaxed);
        }
    }
}

/// A minor number, given back when dropped.
struct Number<'a> {
    sb: &'a Super,
    minor: u32,
    /// It is that of a device, of which there may be so many.
    counted: bool,
}

impl<'a> Number<'a> {
    fn take(sb: &'a Super) -> Result<u32> {
        // SAFETY: The field is not written after the super block was made.
        let ns = unsafe { (*sb.0.get()).s_user_ns };
        sb.state()
            .numbers
            .take(ptr::eq(ns, &raw const bindings::init_user_ns))
    }

    fn for_control(sb: &'a Super) -> Result<Self> {
        Ok(Self {
            sb,
            minor: Self::take(sb)?,
            counted: false,
        })
    }

    fn for_device(sb: &'a Super) -> Result<Self> {
        let info = sb.info();
        let mut count = info.devices.load(Relaxed);
        loop {
            if count >= info.max.load(Relaxed) {
                return Err(ENOSPC);
            }
            match info.devices.cmpxchg(count, count + 1, Full) {
                Ok(_) => break,
                Err(now) => count = now,
            }
        }
        match Self::take(sb) {
            Ok(minor) => Ok(Self {
                sb,
                minor,
                counted: true,
            }),
            Err(e) => {
                info.devices.fetch_sub(1, Relaxed);
                Err(e)
            }
        }
    }

    /// The device number. It is the inode's from now on.
    fn into_inode(self) -> bindings::dev_t {
        let device = self.sb.state().numbers.device(self.minor);
        mem::forget(self);
        device
    }
}

impl Drop for Number<'_> {
    fn drop(&mut self) {
        self.sb.give_back(self.minor, self.counted);
    }
}

/// An inode that is not in the tree.
///
/// # Invariants
///
/// `inode` is an inode of a super block of ours which no other code sees, and this value owns the reference on it.
///
/// An inode that is a character device has a number that was taken for it; its `i_private` is a box with an
/// [`BinderDevice`], or null for `binder-control`.
pub(super) struct NewInode<'a> {
    inode: NonNull<bindings::inode>,
    _sb: PhantomData<&'a Super>,
}

impl<'a> NewInode<'a> {
    fn new(sb: &'a Super, ino: u64, mode: u32) -> Result<Self> {
        // SAFETY: A super block of ours.
        let inode = NonNull::new(unsafe { bindings::new_inode(sb.0.get()) }).ok_or(ENOMEM)?;
        // SAFETY: No other code sees the inode.
        unsafe {
            let inode = inode.as_ptr();
            (*inode).i_ino = ino;
            // CAST: The type and permissions of a file are 16 bits.
            (*inode).i_mode = mode as bindings::umode_t;
            let (uid, gid) = sb.root_ids();
            // Where the user namespace has no root, the initial one's is the owner.
            (*inode).i_uid.val = if uid == INVALID_ID { 0 } else { uid };
            (*inode).i_gid.val = if gid == INVALID_ID { 0 } else { gid };
            bindings::simple_inode_init_ts(inode);
        }
        // INVARIANT: New, and ours.
        Ok(Self {
            inode,
            _sb: PhantomData,
        })
    }

    fn directory(
        sb: &'a Super,
        ino: u64,
        operations: &'static bindings::inode_operations,
    ) -> Result<Self> {
        let new = Self::new(sb, ino, bindings::S_IFDIR | 0o755)?;
        // SAFETY: No other code sees the inode. The second link is that from itself.
        unsafe {
            let inode = new.inode.as_ptr();
            (*inode).i_op = operations;
            (*inode).__bindgen_anon_3.i_fop = &raw const bindings::simple_dir_operations;
            bindings::inc_nlink(inode);
        }
        Ok(new)
    }

    /// A file in `features/`.
    pub(super) fn feature(sb: &'a Super) -> Result<Self> {
        let new = Self::new(sb, sb.next_ino(), bindings::S_IFREG | 0o444)?;
        // SAFETY: No other code sees the inode, and the operations live as long as it does.
        unsafe { (*new.inode.as_ptr()).__bindgen_anon_3.i_fop = &sb.state().feature_fops };
        Ok(new)
    }

    /// A file in `binder_logs/`: what `T` prints for `number`.
    pub(super) fn log<T: Show>(sb: &'a Super, number: usize) -> Result<Self> {
        let new = Self::new(sb, sb.next_ino(), bindings::S_IFREG | 0o444)?;
        let inode = new.inode.as_ptr();
        // SAFETY: The inode is not in the tree yet. The operations live as long as the module.
        unsafe { (*inode).__bindgen_anon_3.i_fop = seq_file::operations::<T>() };
        // SAFETY: The inode is not in the tree yet. This is what the operations require.
        unsafe { (*inode).i_private = seq_file::private_of(number) };
        Ok(new)
    }

    /// `binder-control`.
    pub(super) fn control(sb: &'a Super) -> Result<Self> {
        let number = Number::for_control(sb)?;
        let fops = &sb.state().control_fops;
        // SAFETY: The operations live as long as any inode does.
        unsafe { Self::character(CONTROL_INO, number, fops) }
    }

    fn device(number: Number<'a>, binder_device: BinderDevice) -> Result<Self> {
        let binder_device = KBox::new(binder_device, GFP_KERNEL_ACCOUNT)?;
        let fops = &number.sb.state().device_fops;
        let ino = FIRST_DEVICE_INO + u64::from(number.minor);
        // SAFETY: The operations live as long as any inode does.
        let new = unsafe { Self::character(ino, number, fops) }?;
        // SAFETY: No other code sees the inode. INVARIANT: A box with a binder device.
        unsafe { (*new.inode.as_ptr()).i_private = KBox::into_raw(binder_device).cast() };
        Ok(new)
    }

    /// # Safety
    ///
    /// The operations must live as long as the inode.
    unsafe fn character(
        ino: u64,
        number: Number<'a>,
        fops: *const bindings::file_operations,
    ) -> Result<Self> {
        let mode = bindings::S_IFCHR | 0o600;
        // The inode becomes a character device only when it gets the number.
        let new = Self::new(number.sb, ino, 0o600)?;
        // SAFETY: No other code sees the inode. INVARIANT: The number was taken for it.
        unsafe {
            let inode = new.inode.as_ptr();
            // CAST: The type and permissions of a file are 16 bits.
            bindings::init_special_inode(inode, mode as bindings::umode_t, number.into_inode());
            (*inode).__bindgen_anon_3.i_fop = fops;
        }
        Ok(new)
    }

    fn into_raw(self) -> *mut bindings::inode {
        let inode = self.inode.as_ptr();
        mem::forget(self);
        inode
    }
}

impl Drop for NewInode<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours to give back.
        unsafe { bindings::iput(self.inode.as_ptr()) };
    }
}

impl Super {
    fn next_ino(&self) -> u64 {
        self.info().next_ino.fetch_add(1, Relaxed)
    }
}

/// Gives back what an inode has.
///
/// # Safety
///
/// To be called once, from `evict_inode`.
pub(super) unsafe fn evict(inode: *mut bindings::inode) {
    // SAFETY: The kernel gives an inode that no other code uses. It was made here: by the invariant of `NewInode` its
    // number was taken for it, and what it points at is a box.
    unsafe {
        if u32::from((*inode).i_mode) & bindings::S_IFMT != bindings::S_IFCHR {
            return;
        }
        let binder_device = (*inode).i_private.cast::<BinderDevice>();
        let minor = (*inode).i_rdev & (MAX_DEVICES - 1);
        Super::from_raw((*inode).i_sb).give_back(minor, !binder_device.is_null());
        if !binder_device.is_null() {
            drop(KBox::from_raw(binder_device));
        }
    }
}

/// What a device's inode leads to.
///
/// # Safety
///
/// `inode` must be that of a device, and not be evicted for as long as `'a`.
pub(super) unsafe fn binder_device<'a>(inode: *mut bindings::inode) -> &'a BinderDevice {
    // SAFETY: By the invariant of `NewInode`, and `evict` is the end of it.
    unsafe { &*(*inode).i_private.cast::<BinderDevice>() }
}

/// A directory.
///
/// # Invariants
///
/// `dentry` is a directory of a super block of ours, and stays as long as that.
pub(super) struct Dir<'a> {
    dentry: NonNull<bindings::dentry>,
    _sb: PhantomData<&'a Super>,
}

impl Dir<'_> {
    /// Adds `inode` under `name`.
    ///
    /// # Errors
    ///
    /// - `EEXIST` if there is something of this name.
    /// - `EACCES` if it cannot be a name.
    /// - `ENOMEM`.
    pub(super) fn add(&self, name: &CStr, inode: NewInode<'_>) -> Result {
        self.add_raw(name, inode).map(|_| ())
    }

    /// Adds a directory called `name` in which only the driver creates and removes entries.
    ///
    /// # Errors
    ///
    /// As [`Dir::add`].
    pub(super) fn add_dir<'a>(&self, sb: &'a Super, name: &CStr) -> Result<Dir<'a>> {
        // SAFETY: The kernel's table is not written.
        let operations = unsafe { &bindings::simple_dir_inode_operations };
        let inode = NewInode::directory(sb, sb.next_ino(), operations)?;
        let dentry = self.add_raw(name, inode)?;
        // SAFETY: By the type invariant; a directory is linked from each one in it.
        unsafe { bindings::inc_nlink((*self.dentry.as_ptr()).d_inode) };
        // INVARIANT: There is no `rmdir`, and `rename` replaces no directory that has something in it, nor moves one
        // out of the root.
        Ok(Dir {
            dentry,
            _sb: PhantomData,
        })
    }

    /// Removes the file called `name`.
    pub(super) fn remove(&self, name: &CStr) {
        // SAFETY: By the type invariant; nothing in the file system is locked by us.
        unsafe {
            bindings::simple_remove_by_name(self.dentry.as_ptr(), name.as_char_ptr(), None);
        }
    }

    fn add_raw(&self, name: &CStr, inode: NewInode<'_>) -> Result<NonNull<bindings::dentry>> {
        let dir = self.dentry.as_ptr();
        // SAFETY: By the type invariant; nothing in the file system is locked by us.
        let dentry = unsafe { bindings::simple_start_creating(dir, name.as_char_ptr()) };
        let dentry = from_err_ptr(dentry)?;
        // SAFETY: The dentry is new and its parent locked until `simple_done_creating`. It takes the inode over, and
        // stays until it is unlinked.
        unsafe {
            bindings::d_make_persistent(dentry, inode.into_raw());
            binder_rs_notify_created((*dir).d_inode, dentry);
            bindings::simple_done_creating(dentry);
        }
        NonNull::new(dentry).ok_or(ENOMEM)
    }
}

/// What can be done in the root.
static ROOT_OPS: bindings::inode_operations = bindings::inode_operations {
    lookup: Some(bindings::simple_lookup),
    unlink: Some(unlink),
    rename: Some(rename),
    ..pin_init::zeroed()
};

/// # Safety
///
/// `dentry` must be valid and its directory locked.
unsafe fn is_control(dentry: *mut bindings::dentry) -> bool {
    // SAFETY: By the caller's promise what the dentry stands for does not change.
    unsafe {
        let inode = (*dentry).d_inode;
        !inode.is_null() && (*inode).i_ino == CONTROL_INO
    }
}

/// # Safety
///
/// To be called by the kernel, as `inode_operations.unlink` of the root.
unsafe extern "C" fn unlink(dir: *mut bindings::inode, dentry: *mut bindings::dentry) -> c_int {
    // SAFETY: The kernel gives a dentry in a directory that it has locked.
    unsafe {
        if is_control(dentry) {
            return EPERM.to_errno();
        }
        bindings::simple_unlink(dir, dentry)
    }
}

/// # Safety
///
/// To be called by the kernel, as `inode_operations.rename` of the root.
unsafe extern "C" fn rename(
    idmap: *mut bindings::mnt_idmap,
    old_dir: *mut bindings::inode,
    old: *mut bindings::dentry,
    new_dir: *mut bindings::inode,
    new: *mut bindings::dentry,
    flags: u32,
) -> c_int {
    // SAFETY: The kernel gives dentries in directories that it has locked.
    unsafe {
        // Nothing leaves the root: from another directory it could not come back, and what the driver puts there
        // would be in the way, or gone.
        if is_control(old) || is_control(new) || !ptr::eq(old_dir, new_dir) {
            return EPERM.to_errno();
        }
        bindings::simple_rename(idmap, old_dir, old, new_dir, new, flags)
    }
}
