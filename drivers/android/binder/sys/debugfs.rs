// SPDX-License-Identifier: GPL-2.0

//! Directories and files in debugfs.
//!
//! The kernel's crate has an interface to debugfs, too. Its files have no owner: one that is open when the module is
//! unloaded is closed by code that is gone. The files here have one, so the module stays as long as one is open.
//!
//! Where debugfs is not available, nothing is made, and nothing fails.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h)

use core::ptr;
use kernel::{
    bindings,
    error::from_err_ptr,
    prelude::*,
    sync::Arc, //
};

use super::seq_file::{
    self,
    Show, //
};

/// The permissions of the files.
const MODE: bindings::umode_t = 0o444;

/// A directory or file, removed when dropped.
///
/// # Invariants
///
/// `dentry` is what debugfs returned when the entry was made, which may be an error. It is not removed.
struct Entry {
    dentry: *mut bindings::dentry,
    /// The directory that it is in. Removing a directory removes what is in it, so that must not come first.
    _parent: Option<Arc<Entry>>,
}

// SAFETY: Entries of debugfs may be used on any thread.
unsafe impl Send for Entry {}
// SAFETY: debugfs has locks of its own.
unsafe impl Sync for Entry {}

impl Drop for Entry {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; debugfs ignores an error here.
        unsafe { bindings::debugfs_remove(self.dentry) };
    }
}

/// A directory. It is removed when it and all entries in it are dropped.
#[derive(Clone)]
pub(crate) struct Dir(Arc<Entry>);

/// A file. Dropping it removes it, and waits for what reads it just now.
pub(crate) struct File {
    _entry: Entry,
}

impl Dir {
    /// Makes a directory called `name` in `parent` or, without one, at the top.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(name: &CStr, parent: Option<&Self>) -> Result<Self> {
        let at = parent.map_or(ptr::null_mut(), |dir| dir.0.dentry);
        // SAFETY: The name ends in NUL. debugfs takes a directory, null or an error here.
        let dentry = unsafe { bindings::debugfs_create_dir(name.as_char_ptr(), at) };
        // INVARIANT: Made just now.
        let entry = Entry {
            dentry,
            _parent: parent.map(|dir| dir.0.clone()),
        };
        Ok(Self(Arc::new(entry, GFP_KERNEL)?))
    }

    /// Makes a file called `name`, which shows what `T` prints for `number`.
    pub(crate) fn file<T: Show>(&self, name: &CStr, number: usize) -> File {
        // SAFETY: The name ends in NUL, and debugfs takes a directory or an error here. The private data is what the
        // operations require. They live as long as the module, which outlives the file.
        let dentry = unsafe {
            bindings::debugfs_create_file_full(
                name.as_char_ptr(),
                MODE,
                self.0.dentry,
                seq_file::private_of(number),
                ptr::null(),
                seq_file::operations::<T>(),
            )
        };
        // INVARIANT: Made just now.
        File {
            _entry: Entry {
                dentry,
                _parent: Some(self.0.clone()),
            },
        }
    }
}

/// Whether there is an entry called `name` at the top.
pub(crate) fn exists(name: &CStr) -> bool {
    // SAFETY: The name ends in NUL; null means the top.
    let found = unsafe { bindings::debugfs_lookup(name.as_char_ptr(), ptr::null_mut()) };
    match from_err_ptr(found) {
        Ok(dentry) if !dentry.is_null() => {
            // SAFETY: The look-up took a reference.
            unsafe { bindings::dput(dentry) };
            true
        }
        _ => false,
    }
}
