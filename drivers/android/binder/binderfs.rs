// SPDX-License-Identifier: GPL-2.0

//! The file system `binder`: devices that come and go without the module being loaded anew.
//!
//! Containers each want binder devices of their own, under names that others use too, without a right to make device
//! nodes and without seeing one another. So each mount of this file system is a set of devices: those that `devices=`
//! names to begin with, and whatever `binder-control` is asked for. A device's context belongs to its inode and to the
//! files that are open: a device can be unlinked while it is in use, which its users do not notice.
//!
//! ```text
//!   /dev/binderfs/              (sub)mount: `max=`, `stats=global`
//!     binder-control            control.rs: BINDER_CTL_ADD
//!     binder, hwbinder, ...     device.rs, through an inode of tree.rs
//!     features/                 what this driver can do, for programs that cannot try
//!     binder_logs/              logs_dir.rs: what goes on, on the whole machine (with `stats=global`)
//! ```
//!
//! # References
//!
//! A mount, a file that is open in it, and a `fs_context` for it hold the module. So everything that the callbacks here
//! reach through the [`State`] outlives them. Dropping the [`Registration`] is the end of it.
//!
//! # Locking
//!
//! All callbacks run without any lock of the driver's. [`State::numbers`] is taken last and released before the VFS is
//! called again.

mod control;
mod logs_dir;
mod numbers;
mod tree;

use core::ptr;
use kernel::{
    bindings,
    error::to_result,
    ffi::{
        c_char,
        c_int,
        c_ulong,
        c_void, //
    },
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    types::{
        ForeignOwnable,
        Opaque, //
    }, //
};

use crate::{
    device::{
        self,
        errno,
        Driver, //
    },
    instance::Instance,
    sys::netlink, //
};

use self::{
    control::CONTROL_NAME,
    logs_dir::Opened,
    numbers::{
        Numbers,
        MAX_DEVICES, //
    },
    tree::{
        NewInode,
        Super, //
    },
};

/// What `features/` has: one file for each, which reads `1`.
const FEATURES: [&CStr; 3] = [
    c"oneway_spam_detection",
    c"extended_error",
    c"freeze_notification",
];

/// The same, where failures are reported.
const TRANSACTION_REPORT: &CStr = c"transaction_report";

/// The file system's number, as in `linux/magic.h`.
const MAGIC: c_ulong = 0x6c6f_6f70;

/// As in `helpers.h`.
const OPTION_MAX: c_int = 1;
const OPTION_STATS: c_int = 2;

// What is inside a `fs_context` and a `fs_parameter` is C's business.
#[allow(improper_ctypes)]
extern "C" {
    fn get_tree_nodev(
        fc: *mut bindings::fs_context,
        fill_super: unsafe extern "C" fn(
            *mut bindings::super_block,
            *mut bindings::fs_context,
        ) -> c_int,
    ) -> c_int;
    fn binder_rs_owner_not_to_be_held() -> *mut bindings::module;
    fn binder_rs_context_init(fc: *mut bindings::fs_context, options: *mut c_void);
    fn binder_rs_context_options(fc: *mut bindings::fs_context) -> *mut c_void;
    fn binder_rs_context_super(fc: *mut bindings::fs_context) -> *mut bindings::super_block;
    fn binder_rs_context_parse(
        fc: *mut bindings::fs_context,
        param: *mut bindings::fs_parameter,
        value: *mut u32,
    ) -> c_int;
    fn binder_rs_context_error(fc: *mut bindings::fs_context, message: *const c_char);
}

/// What all mounts share.
#[pin_data]
struct State {
    #[pin]
    numbers: Numbers,
    /// The home of the address spaces of the files opened here.
    driver: Arc<Driver>,
    device_fops: bindings::file_operations,
    control_fops: bindings::file_operations,
    feature_fops: bindings::file_operations,
}

// SAFETY: The pointers in the tables of operations lead to functions and to the module.
unsafe impl Send for State {}
// SAFETY: The pointers lead to functions and to the module, and the tables are not written.
unsafe impl Sync for State {}

/// The [`State`] while there is a [`Registration`], else null.
static STATE: Atomic<*mut State> = Atomic::new(ptr::null_mut());

impl State {
    /// # Safety
    ///
    /// To be called from a callback of this file system, and not to be used after it.
    unsafe fn get<'a>() -> &'a Self {
        // SAFETY: By the caller's promise the kernel holds the module, so the registration is there, and with it what
        // it has put here.
        unsafe { &*STATE.load(Relaxed) }
    }
}

/// The type as the kernel knows it. It has the keys of lockdep's classes, which must be in static memory.
struct FsType(Opaque<bindings::file_system_type>);

// SAFETY: The kernel locks what it changes in a `file_system_type`.
unsafe impl Sync for FsType {}

static FS_TYPE: FsType = FsType(Opaque::zeroed());

/// The file system `binder` is there as long as this lives.
pub(crate) struct Registration {
    _state: Pin<KBox<State>>,
}

impl Registration {
    /// Registers the file system. Until [`Registration::enable`] it is there in name only: to mount it is `ENODEV`.
    ///
    /// What can fail is to be over before it can be mounted. The kernel frees a module whose init function fails, even
    /// if the file system is mounted.
    ///
    /// # Errors
    ///
    /// `EBUSY` if there is a file system of this name, `ENOMEM`.
    ///
    /// # Safety
    ///
    /// Only one `Registration` may exist at a time.
    pub(crate) unsafe fn new(module: &'static ThisModule, driver: &Arc<Driver>) -> Result<Self> {
        let state = KBox::try_pin_init(
            try_pin_init!(State {
                numbers <- Numbers::new()?,
                driver: driver.clone(),
                device_fops: device::operations(module, open, release),
                control_fops: control::operations(module),
                feature_fops: bindings::file_operations {
                    owner: module.as_ptr(),
                    read: Some(read_feature),
                    llseek: Some(bindings::default_llseek),
                    ..pin_init::zeroed()
                },
            }? Error),
            GFP_KERNEL,
        )?;
        STATE.store(ptr::from_ref(&*state).cast_mut(), Relaxed);
        let fs_type = FS_TYPE.0.get();
        // SAFETY: By the caller's promise the type is not registered, so no other code reads it while it is written.
        unsafe {
            (*fs_type).owner = binder_rs_owner_not_to_be_held();
            (*fs_type).name = c"binder".as_char_ptr();
            // CAST: A flag that fits.
            (*fs_type).fs_flags = bindings::FS_USERNS_MOUNT as c_int;
            (*fs_type).init_fs_context = Some(init_fs_context);
            (*fs_type).kill_sb = Some(kill_sb);
        }
        // SAFETY: The type is filled in, and is static.
        to_result(unsafe { bindings::register_filesystem(fs_type) }).inspect_err(|e| {
            STATE.store(ptr::null_mut(), Relaxed);
            pr_err!("there is a file system 'binder' already: {:?}\n", e);
        })?;
        Ok(Self { _state: state })
    }

    /// Lets the file system be mounted.
    pub(crate) fn enable(&self, module: &'static ThisModule) {
        // SAFETY: The kernel reads the pointer whenever the file system is looked up by its name, and takes it for one
        // that is not there as long as the owner cannot be held. It is a single word.
        unsafe { (&raw mut (*FS_TYPE.0.get()).owner).write_volatile(module.as_ptr()) };
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: `new` registered it.
        let result = to_result(unsafe { bindings::unregister_filesystem(FS_TYPE.0.get()) });
        if let Err(e) = result {
            pr_err!("cannot unregister the file system: {:?}\n", e);
        }
        STATE.store(ptr::null_mut(), Relaxed);
    }
}

/// What a mount or a remount asks for.
struct Options {
    max: u32,
    global_stats: bool,
}

/// What one super block has of its own.
#[pin_data]
struct Info {
    /// What the devices belong to.
    instance: Arc<Instance>,
    /// How many devices there may be.
    max: Atomic<u32>,
    /// How many there are.
    devices: Atomic<u32>,
    /// The next number for an inode that is not a device's.
    next_ino: Atomic<u64>,
    /// `stats=global` was given.
    global_stats: bool,
    /// `binder_logs/proc/`, or null; written once.
    proc_dir: Atomic<*mut bindings::dentry>,
    #[pin]
    opened: Opened,
}

/// # Safety
///
/// To be called by the kernel, as `file_system_type.init_fs_context` of the file system.
unsafe extern "C" fn init_fs_context(fc: *mut bindings::fs_context) -> c_int {
    let options = Options {
        max: MAX_DEVICES,
        global_stats: false,
    };
    match KBox::new(options, GFP_KERNEL_ACCOUNT) {
        Ok(options) => {
            // SAFETY: Called by the kernel with a context that is being prepared; `binder_rs_fs_free` frees the box.
            unsafe { binder_rs_context_init(fc, KBox::into_raw(options).cast()) };
            0
        }
        Err(e) => Error::from(e).to_errno(),
    }
}

/// # Safety
///
/// `fc` must be a context of this file system, and no other code may use its options for as long as `'a`.
unsafe fn options<'a>(fc: *mut bindings::fs_context) -> &'a mut Options {
    // SAFETY: `init_fs_context` put them there.
    unsafe { &mut *binder_rs_context_options(fc).cast::<Options>() }
}

/// Logs `message`, for `mount` to show, and returns `error`.
///
/// # Safety
///
/// `fc` must be a valid context.
unsafe fn refuse(fc: *mut bindings::fs_context, message: &CStr, error: Error) -> c_int {
    // SAFETY: By the caller's promise.
    unsafe { binder_rs_context_error(fc, message.as_char_ptr()) };
    error.to_errno()
}

/// # Safety
///
/// To be called by the kernel, as `fs_context_operations.free` of a context of ours.
#[no_mangle]
unsafe extern "C" fn binder_rs_fs_free(fc: *mut bindings::fs_context) {
    // SAFETY: `init_fs_context` made a box of it. The kernel is done with the context.
    drop(unsafe { KBox::from_raw(binder_rs_context_options(fc).cast::<Options>()) });
}

/// # Safety
///
/// To be called by the kernel, as `fs_context_operations.parse_param` of a context of ours.
#[no_mangle]
unsafe extern "C" fn binder_rs_fs_parse(
    fc: *mut bindings::fs_context,
    param: *mut bindings::fs_parameter,
) -> c_int {
    let mut value = 0;
    // SAFETY: Both are what the kernel just gave.
    let option = unsafe { binder_rs_context_parse(fc, param, &mut value) };
    // SAFETY: The kernel has a context used by one thread at a time.
    let options = unsafe { options(fc) };
    match option {
        OPTION_MAX if value > MAX_DEVICES => {
            // SAFETY: As the kernel gave it.
            return unsafe { refuse(fc, c"max= is out of range", EINVAL) };
        }
        OPTION_MAX => options.max = value,
        OPTION_STATS => {
            // What the statistics tell is not limited to one user namespace.
            // SAFETY: The function has no requirements. CAST: A small constant.
            if !unsafe { bindings::capable(bindings::CAP_SYS_ADMIN as c_int) } {
                return EPERM.to_errno();
            }
            options.global_stats = true;
        }
        // An error; anything else is not in the table.
        error => return error,
    }
    0
}

/// # Safety
///
/// To be called by the kernel, as `fs_context_operations.get_tree` of a context of ours.
#[no_mangle]
unsafe extern "C" fn binder_rs_fs_get_tree(fc: *mut bindings::fs_context) -> c_int {
    // SAFETY: The context is the kernel's, and the function is what it wants.
    unsafe { get_tree_nodev(fc, fill_super) }
}

/// # Safety
///
/// To be called by the kernel, as `fs_context_operations.reconfigure` of a context of ours.
#[no_mangle]
unsafe extern "C" fn binder_rs_fs_reconfigure(fc: *mut bindings::fs_context) -> c_int {
    // SAFETY: The kernel has a context used by one thread at a time, and one for a remount has a super block that was
    // mounted.
    let (options, sb) = unsafe { (options(fc), Super::from_raw(binder_rs_context_super(fc))) };
    if options.global_stats != sb.info().global_stats {
        // SAFETY: As the kernel gave it.
        return unsafe { refuse(fc, c"stats= cannot be changed by a remount", EINVAL) };
    }
    sb.info().max.store(options.max, Relaxed);
    0
}

/// # Safety
///
/// To be called by the kernel, as what fills a super block for a context of ours.
unsafe extern "C" fn fill_super(
    sb: *mut bindings::super_block,
    fc: *mut bindings::fs_context,
) -> c_int {
    // SAFETY: The kernel gives a new super block, which no other code sees, and has a context used by one thread at a
    // time.
    let options = unsafe { options(fc) };
    // SAFETY: A super block holds its user namespace from the start to its end.
    let instance = match unsafe { Instance::new((*sb).s_user_ns) } {
        Ok(instance) => instance,
        Err(e) => return e.to_errno(),
    };
    let info = KBox::pin_init(
        pin_init!(Info {
            instance,
            max: Atomic::new(options.max),
            devices: Atomic::new(0),
            next_ino: Atomic::new(tree::FIRST_OTHER_INO),
            global_stats: options.global_stats,
            proc_dir: Atomic::new(ptr::null_mut()),
            opened <- Opened::new(),
        }),
        GFP_KERNEL_ACCOUNT,
    );
    let info = match info {
        Ok(info) => info,
        Err(e) => return e.to_errno(),
    };
    // SAFETY: The kernel gives a new super block, which no other code sees. `kill_sb` frees the box, also after a failure.
    let sb = unsafe {
        (*sb).s_fs_info = info.into_foreign();
        (*sb).s_op = &SUPER_OPS;
        (*sb).s_magic = MAGIC;
        (*sb).s_blocksize = bindings::PAGE_SIZE;
        // CAST: A small constant.
        (*sb).s_blocksize_bits = bindings::PAGE_SHIFT as u8;
        (*sb).s_time_gran = 1;
        // Device nodes are what this is for, also where a user namespace may not otherwise have any: no process can
        // make another one here than this driver's.
        // CAST: From 32 to 64 bits.
        (*sb).s_iflags &= !(bindings::SB_I_NODEV as c_ulong);
        (*sb).s_iflags |= bindings::SB_I_NOEXEC as c_ulong;
        Super::from_raw(sb)
    };
    match populate(sb) {
        Err(e) if e == ENOSPC => {
            // SAFETY: As the kernel gave it.
            unsafe {
                refuse(
                    fc,
                    c"more devices in devices= than max= or the minor numbers allow",
                    e,
                )
            }
        }
        result => errno(result),
    }
}

/// Makes what every mount has.
fn populate(sb: &Super) -> Result {
    let root = sb.make_root()?;
    let control = NewInode::control(sb)?;
    root.add(CONTROL_NAME, control)?;
    for name in device::names() {
        let name = core::str::from_utf8(name).map_err(|_| EINVAL)?;
        let name = CString::try_from_fmt(fmt!("{}", name))?;
        sb.add_device(&name, |_| Ok(()))?;
    }
    let features = root.add_dir(sb, c"features")?;
    for name in FEATURES {
        features.add(name, NewInode::feature(sb)?)?;
    }
    if netlink::is_registered() {
        features.add(TRANSACTION_REPORT, NewInode::feature(sb)?)?;
    }
    if sb.info().global_stats {
        sb.set_proc_dir(&logs_dir::populate(sb, &root)?);
    }
    Ok(())
}

/// # Safety
///
/// To be called by the kernel, as `file_system_type.kill_sb` of the file system.
unsafe extern "C" fn kill_sb(sb: *mut bindings::super_block) {
    // SAFETY: The kernel wants the super block gone: nothing is open in it, nor mounted.
    let info = unsafe {
        bindings::kill_anon_super(sb);
        (*sb).s_fs_info
    };
    if !info.is_null() {
        // SAFETY: `fill_super` made a box of it, and the last inode, which might have asked for it, is gone.
        drop(unsafe { Pin::<KBox<Info>>::from_foreign(info) });
    }
}

static SUPER_OPS: bindings::super_operations = bindings::super_operations {
    evict_inode: Some(evict_inode),
    statfs: Some(bindings::simple_statfs),
    show_options: Some(show_options),
    ..pin_init::zeroed()
};

/// # Safety
///
/// To be called by the kernel, as `super_operations.evict_inode` of a super block of ours.
unsafe extern "C" fn evict_inode(inode: *mut bindings::inode) {
    // SAFETY: The kernel gives an inode without other references, of a super block of ours.
    unsafe {
        bindings::clear_inode(inode);
        tree::evict(inode);
    }
}

/// # Safety
///
/// To be called by the kernel, as `super_operations.show_options` of a super block of ours.
unsafe extern "C" fn show_options(
    seq: *mut bindings::seq_file,
    root: *mut bindings::dentry,
) -> c_int {
    // SAFETY: The kernel gives a file for this thread to print to, and a root of ours.
    let (seq, info) = unsafe { (SeqFile::from_raw(seq), Super::from_raw((*root).d_sb).info()) };
    seq_print!(seq, ",max={}", info.max.load(Relaxed));
    if info.global_stats {
        seq_print!(seq, ",stats=global");
    }
    0
}

/// # Safety
///
/// To be called by the kernel, as `file_operations.open` of a device.
unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: Only inodes of devices have these operations, and the file holds the inode.
    let (sb, binder_device) =
        unsafe { (Super::from_raw((*inode).i_sb), tree::binder_device(inode)) };
    let pid = current!().group_leader().pid();
    errno(logs_dir::opened(sb, pid).and_then(|()| {
        // SAFETY: Called for `open`, and that is all it does.
        let opened = unsafe { binder_device.open(file) };
        opened
            .map(|_| ())
            .inspect_err(|_| logs_dir::closed(sb, pid))
    }))
}

/// # Safety
///
/// To be called by the kernel, as `file_operations.release` of a device.
unsafe extern "C" fn release(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: Called for `release`; the file was opened by the function above, and holds the super block until this
    // returns.
    unsafe { logs_dir::closed(Super::from_raw((*inode).i_sb), device::close(file)) };
    0
}

/// # Safety
///
/// To be called by the kernel, as `file_operations.read` of a file in `features/`.
unsafe extern "C" fn read_feature(
    _: *mut bindings::file,
    to: *mut c_char,
    size: usize,
    offset: *mut bindings::loff_t,
) -> isize {
    let text = b"1\n";
    // SAFETY: The buffer and the offset are as the kernel gave them; the text is as long as it is said to be.
    unsafe {
        bindings::simple_read_from_buffer(to.cast(), size, offset, text.as_ptr().cast(), text.len())
    }
}
