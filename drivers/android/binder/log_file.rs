// SPDX-License-Identifier: GPL-2.0

//! The files that [`crate::logs`] writes: the tables of operations that any file system can use for them, and
//! the ones in debugfs.
//!
//! The kernel's own Rust interface to debugfs is not used, because its files know nothing of the module that they
//! belong to: one that is open when the module is unloaded calls into memory that is gone when it is closed. These
//! files have an owner, so the module stays as long as one is open.

use core::{
    fmt::{
        self,
        Write, //
    },
    ptr,
};
use kernel::{
    bindings,
    error::from_err_ptr,
    ffi::{
        c_int,
        c_void, //
    },
    prelude::*,
    str::CString,
    types::Opaque, //
};

use crate::{
    logs::{
        self,
        LogFile,
        FILES, //
    },
    sums::{
        decrement,
        increment,
        push,
        reserve, //
    },
};

/// The permissions of the files.
pub(crate) const MODE: bindings::umode_t = 0o444;

/// The most that a file shows, in bytes.
const MOST: usize = 4 << 20;

/// A table of operations; filled in before the first file is made.
struct Operations(Opaque<bindings::file_operations>);

// SAFETY: Written once, before anybody else sees it.
unsafe impl Sync for Operations {}

static OPERATIONS: Operations = Operations(Opaque::zeroed());
static PID_OPERATIONS: Operations = Operations(Opaque::zeroed());

/// The operations of a file whose inode's `i_private` points at a [`LogFile`] that lives as long as the module.
pub(crate) fn operations() -> *const bindings::file_operations {
    OPERATIONS.0.get()
}

/// The operations of a file that shows one process. Its inode's `i_private` is no pointer, but the pid.
pub(crate) fn pid_operations() -> *const bindings::file_operations {
    PID_OPERATIONS.0.get()
}

/// What a pid is in `i_private`.
pub(crate) fn private_of(pid: i32) -> *mut c_void {
    // CAST: A pid is positive.
    ptr::without_provenance_mut(pid as usize)
}

/// A listing on its way into a `seq_file`.
struct Printer<'a> {
    seq: &'a mut bindings::seq_file,
    cut: bool,
}

impl Printer<'_> {
    /// Whether it fitted.
    fn put(&mut self, text: &str) -> bool {
        // SAFETY: The text is as long as it says, and nobody else uses the `seq_file`.
        unsafe { bindings::seq_write(self.seq, text.as_ptr().cast(), text.len()) == 0 }
    }
}

impl Write for Printer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // What does not fit is all written again, to a larger buffer: no use going on.
        if self.cut || !self.put(text) {
            return Err(fmt::Error);
        }
        if self.seq.count > MOST {
            self.cut = true;
            let _ = self.put("(there is more)\n");
            return Err(fmt::Error);
        }
        Ok(())
    }
}

/// Writes a listing into `seq`.
///
/// # Safety
///
/// `seq` must be the `seq_file` that a show function was called with.
unsafe fn print(
    seq: *mut bindings::seq_file,
    show: impl FnOnce(&mut dyn Write) -> fmt::Result,
) -> c_int {
    // SAFETY: By the caller's promise; the kernel holds the lock of a `seq_file` that is being shown.
    let seq = unsafe { &mut *seq };
    // It fails where the buffer is too small, which the kernel sees for itself, or where there is too much.
    let _ = show(&mut Printer { seq, cut: false });
    0
}

/// # Safety
///
/// To be called by the kernel, as the show function of a file that [`open`] opened.
unsafe extern "C" fn show(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
    // SAFETY: `open` below left a pointer to a `LogFile` there.
    let file = unsafe { &*(*seq).private.cast::<LogFile>() };
    // SAFETY: This is the show function.
    unsafe { print(seq, file.show) }
}

/// # Safety
///
/// To be called by the kernel, as the show function of a file that [`open_pid`] opened.
unsafe extern "C" fn show_pid(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
    // SAFETY: The `seq_file` is valid.
    // CAST: `open_pid` left a pid there.
    let pid = unsafe { (*seq).private.addr() } as i32;
    // SAFETY: This is the show function.
    unsafe { print(seq, |out| logs::process_state(out, pid)) }
}

/// # Safety
///
/// To be called by the kernel, as `file_operations.open` of what [`operations`] returns.
unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: Both are as the kernel gave them to `open`; the inode has what `operations` asks for.
    unsafe { bindings::single_open(file, Some(show), (*inode).i_private) }
}

/// # Safety
///
/// To be called by the kernel, as `file_operations.open` of what [`pid_operations`] returns.
unsafe extern "C" fn open_pid(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: As in `open`, with what `pid_operations` asks for.
    unsafe { bindings::single_open(file, Some(show_pid), (*inode).i_private) }
}

type Open = unsafe extern "C" fn(*mut bindings::inode, *mut bindings::file) -> c_int;

fn table(module: &'static ThisModule, open: Open) -> bindings::file_operations {
    bindings::file_operations {
        owner: module.as_ptr(),
        open: Some(open),
        read: Some(bindings::seq_read),
        llseek: Some(bindings::seq_lseek),
        release: Some(bindings::single_release),
        ..pin_init::zeroed()
    }
}

/// A file of a process, for as long as a process of that pid is there.
struct PidFile {
    pid: i32,
    /// How many processes of this pid there are.
    processes: usize,
    /// The file in debugfs; it may be an error.
    dentry: *mut bindings::dentry,
}

/// The directory `proc` in debugfs, and the files in it.
struct Files {
    directory: *mut bindings::dentry,
    files: KVec<PidFile>,
}

// SAFETY: The entries of debugfs may be used on any thread.
unsafe impl Send for Files {}

kernel::sync::global_lock! {
    // SAFETY: `Directory::new` initialises it, before there is a device that could be opened.
    unsafe(uninit) static PID_FILES: Mutex<Files> = Files {
        directory: ptr::null_mut(),
        files: KVec::new(),
    };
}

/// A process of this pid was opened: there is a file for it until [`closed`].
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn opened(pid: i32) -> Result {
    let mut files = PID_FILES.lock();
    if let Some(file) = files.files.iter_mut().find(|file| file.pid == pid) {
        increment(&mut file.processes);
        return Ok(());
    }
    let name = CString::try_from_fmt(fmt!("{}", pid))?;
    reserve(&mut files.files, 1, GFP_KERNEL)?;
    // SAFETY: The directory is one of debugfs or an error, which is as good here. The private data is as
    // `pid_operations` wants it, and both tables live as long as the module, which outlives the file.
    let dentry = unsafe {
        bindings::debugfs_create_file_full(
            name.as_char_ptr(),
            MODE,
            files.directory,
            private_of(pid),
            ptr::null(),
            pid_operations(),
        )
    };
    push(
        &mut files.files,
        PidFile {
            pid,
            processes: 1,
            dentry,
        },
        GFP_KERNEL,
    )
}

/// A process of this pid that was [`opened`] is gone.
///
/// # Locking
///
/// Waits for whoever reads the file just now, which takes the locks of processes.
pub(crate) fn closed(pid: i32) {
    let mut files = PID_FILES.lock();
    let Some(index) = files.files.iter().position(|file| file.pid == pid) else {
        return;
    };
    if let Some(file) = files.files.get_mut(index) {
        decrement(&mut file.processes);
        if file.processes > 0 {
            return;
        }
        // SAFETY: The entry is what `debugfs_create_file_full` returned, and is forgotten below.
        unsafe { bindings::debugfs_remove(file.dentry) };
    }
    let _ = files.files.remove(index);
    if files.files.is_empty() {
        files.files = KVec::new();
    }
}

/// The driver's directory in debugfs: `binder`, or `binder_rs` where another driver has that name.
pub(crate) struct Directory {
    dentry: *mut bindings::dentry,
}

// SAFETY: The entries of debugfs may be used on any thread.
unsafe impl Send for Directory {}
// SAFETY: `&Directory` allows nothing.
unsafe impl Sync for Directory {}

impl Directory {
    /// Makes the directory. Where debugfs is not to be had, there is none.
    ///
    /// # Safety
    ///
    /// To be called once, before anything else here.
    pub(crate) unsafe fn new(module: &'static ThisModule) -> Self {
        // SAFETY: By the caller's promise nobody uses the tables and the lock yet.
        unsafe {
            *OPERATIONS.0.get() = table(module, open);
            *PID_OPERATIONS.0.get() = table(module, open_pid);
            PID_FILES.init();
        }
        let name = if is_taken(c"binder") {
            c"binder_rs"
        } else {
            c"binder"
        };
        // SAFETY: Both names end in NUL. A parent that is an error is refused.
        let (dentry, processes) = unsafe {
            let dentry = bindings::debugfs_create_dir(name.as_char_ptr(), ptr::null_mut());
            (
                dentry,
                bindings::debugfs_create_dir(c"proc".as_char_ptr(), dentry),
            )
        };
        PID_FILES.lock().directory = processes;
        Self { dentry }
    }

    /// Makes the files that do not belong to a process.
    pub(crate) fn make_files(&self) {
        for file in &FILES {
            // SAFETY: As in `opened`; the private data is as `operations` wants it.
            unsafe {
                bindings::debugfs_create_file_full(
                    file.name.as_char_ptr(),
                    MODE,
                    self.dentry,
                    ptr::from_ref(file).cast_mut().cast(),
                    ptr::null(),
                    operations(),
                );
            }
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // SAFETY: The entry is what `debugfs_create_dir` returned.
        unsafe { bindings::debugfs_remove(self.dentry) };
    }
}

/// Whether there is something of this name at the top of debugfs.
fn is_taken(name: &CStr) -> bool {
    // SAFETY: The name ends in NUL; no parent means the top.
    let found = unsafe { bindings::debugfs_lookup(name.as_char_ptr(), ptr::null_mut()) };
    match from_err_ptr(found) {
        Ok(dentry) if !dentry.is_null() => {
            // SAFETY: The lookup returned a reference.
            unsafe { bindings::dput(dentry) };
            true
        }
        _ => false,
    }
}
