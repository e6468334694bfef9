// SPDX-License-Identifier: GPL-2.0

//! Files whose contents are printed when they are read.
//!
//! C header: [`include/linux/seq_file.h`](srctree/include/linux/seq_file.h)

use core::cell::Cell;
use kernel::{
    bindings,
    ffi::{
        c_int,
        c_void, //
    },
    fmt,
    seq_file::SeqFile,
    seq_print, //
};

/// The most that a file shows, in bytes.
const MOST: usize = 4 << 20;

/// What a listing is printed to, with [`seq_print!`].
///
/// # Invariants
///
/// `raw` is the `seq_file` that `seq` refers to. It is valid, and only this thread uses it.
pub(crate) struct Output<'a> {
    seq: &'a SeqFile,
    raw: *const bindings::seq_file,
    is_cut: Cell<bool>,
}

impl Output<'_> {
    /// # Safety
    ///
    /// `raw` must be the `seq_file` of a show function that is running, and be used by nothing else for `'a`.
    unsafe fn new(raw: *mut bindings::seq_file) -> Self {
        // INVARIANT: By the caller's promise.
        Self {
            // SAFETY: By the caller's promise.
            seq: unsafe { SeqFile::from_raw(raw) },
            raw,
            is_cut: Cell::new(false),
        }
    }

    fn count(&self) -> usize {
        // SAFETY: By the type invariant.
        unsafe { (*self.raw).count }
    }

    /// Prints `args`, for [`seq_print!`].
    pub(crate) fn call_printf(&self, args: fmt::Arguments<'_>) {
        if self.is_full() {
            return;
        }
        self.seq.call_printf(args);
        if self.count() > MOST && !self.has_overflowed() {
            self.is_cut.set(true);
            seq_print!(self.seq, "(there is more)\n");
        }
    }

    /// Whether the buffer is too small. The kernel then calls the show function again, with a larger one.
    fn has_overflowed(&self) -> bool {
        // SAFETY: By the type invariant.
        let size = unsafe { (*self.raw).size };
        self.count() == size
    }

    /// Whether nothing more is printed. A long listing can stop then.
    pub(crate) fn is_full(&self) -> bool {
        self.is_cut.get() || self.has_overflowed()
    }
}

/// A kind of file. Files of one kind are told apart by a number.
pub(crate) trait Show: 'static {
    /// Prints the file of that number.
    fn show(number: usize, out: &Output<'_>);
}

/// What `i_private` of a file is: its number, not a pointer.
pub(crate) fn private_of(number: usize) -> *mut c_void {
    core::ptr::without_provenance_mut(number)
}

/// Holds the table of operations of a kind of file.
struct Table<T>(T);

impl<T: Show> Table<T> {
    /// The owner keeps the module loaded as long as a file is open.
    const OPERATIONS: bindings::file_operations = bindings::file_operations {
        owner: crate::THIS_MODULE.as_ptr(),
        open: Some(open::<T>),
        read: Some(bindings::seq_read),
        llseek: Some(bindings::seq_lseek),
        release: Some(bindings::single_release),
        ..pin_init::zeroed()
    };
}

/// The operations of files of the kind `T` whose inodes have [`private_of`] a number in `i_private`.
pub(crate) const fn operations<T: Show>() -> &'static bindings::file_operations {
    &Table::<T>::OPERATIONS
}

/// # Safety
///
/// To be called by the kernel, as `file_operations.open`.
unsafe extern "C" fn open<T: Show>(
    inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: The kernel passes a valid inode, and nothing writes this field once a file can be opened.
    let private = unsafe { (*inode).i_private };
    // SAFETY: The kernel passes a file that is being opened.
    unsafe { bindings::single_open(file, Some(show::<T>), private) }
}

/// # Safety
///
/// To be called by the kernel, as the show function of a file that [`open`] opened.
unsafe extern "C" fn show<T: Show>(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
    // SAFETY: The kernel passes a valid `seq_file`.
    let private = unsafe { (*seq).private };
    // SAFETY: The kernel holds the lock of the `seq_file` while this runs.
    let out = unsafe { Output::new(seq) };
    T::show(private.addr(), &out);
    0
}
