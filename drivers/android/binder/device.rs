// SPDX-License-Identifier: GPL-2.0

//! Device nodes and what the kernel calls when somebody uses one.

use core::ptr;
use kernel::{
    bindings,
    cred::Credential,
    error::to_result,
    ffi::{
        c_int,
        c_long,
        c_uint,
        c_ulong,
        c_void, //
    },
    fs::file::flags::O_NONBLOCK,
    mm::virt::VmaNew,
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        Arc, //
    },
    types::Opaque, //
};

use crate::{
    helpers,
    model::{
        Context,
        Process, //
    },
    page_range::OwnedPageRange,
    registry,
    rmap::Mount, //
};

/// What an open file points at.
struct OpenFile {
    process: Arc<Process>,
    // Dropped after `release`, so that the pages that buffers gave back go with it.
    pages: OwnedPageRange,
}

/// The operations of every device. Filled in before the first device is registered.
struct Fops(Opaque<bindings::file_operations>);

// SAFETY: Written once, before anybody else sees it.
unsafe impl Sync for Fops {}

static FOPS: Fops = Fops(Opaque::zeroed());

/// One misc device.
///
/// # Invariants
///
/// `misc` is registered, and `context` stays as long as it is.
#[pin_data(PinnedDrop)]
struct Device {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    context: Arc<Context>,
    mount: *const Mount,
    registered: bool,
}

/// All devices of the module, with what they need. Dropping it unregisters them; the kernel sees to it that no file is
/// open then.
pub(crate) struct Devices {
    // Unregistered before the mount goes.
    devices: KVec<Pin<KBox<Device>>>,
    _mount: KBox<Mount>,
}

// SAFETY: The raw pointers inside lead to what is owned, and are used by the kernel's callbacks only.
unsafe impl Send for Devices {}
// SAFETY: `&Devices` allows nothing.
unsafe impl Sync for Devices {}

impl Devices {
    /// Registers a device for each name in `devices=`.
    ///
    /// # Errors
    ///
    /// `EEXIST` if a name is taken, `EINVAL` for one that cannot be a file's name, `ENOMEM`.
    ///
    /// # Safety
    ///
    /// Only one `Devices` may exist at a time, and the shrinker must be registered as long as it does.
    pub(crate) unsafe fn new(module: &'static ThisModule) -> Result<Self> {
        // SAFETY: No device is registered yet, so nobody looks at the table.
        unsafe {
            let fops = FOPS.0.get();
            (*fops).owner = module.as_ptr();
            (*fops).open = Some(open);
            (*fops).release = Some(release);
            (*fops).mmap = Some(mmap);
            (*fops).poll = Some(poll);
            (*fops).flush = Some(flush);
            (*fops).unlocked_ioctl = Some(ioctl);
            (*fops).compat_ioctl = bindings::compat_ptr_ioctl;
        }
        // SAFETY: By the caller's promise there is no other.
        let mount = KBox::new(unsafe { Mount::new() }?, GFP_KERNEL)?;
        let mut devices = KVec::new();
        for name in helpers::devices().to_bytes().split(|&byte| byte == b',') {
            if name.is_empty() {
                continue;
            }
            // The kernel would refuse this too, with a stack trace.
            let twice = |device: &Pin<KBox<Device>>| device.context.name.to_bytes() == name;
            if devices.iter().any(twice) {
                pr_err!("'devices' names a device twice\n");
                return Err(EEXIST);
            }
            devices.push(Device::register(name, &mount)?, GFP_KERNEL)?;
        }
        Ok(Self {
            devices,
            _mount: mount,
        })
    }

    /// The names, for a line in the log.
    pub(crate) fn count(&self) -> usize {
        self.devices.len()
    }
}

impl Device {
    fn register(name: &[u8], mount: &Mount) -> Result<Pin<KBox<Self>>> {
        let text = core::str::from_utf8(name).map_err(|_| EINVAL)?;
        if text.contains('/') || text == "." || text == ".." {
            pr_err!("'{}' cannot be the name of a device\n", text);
            return Err(EINVAL);
        }
        let context = Context::new(CString::try_from_fmt(fmt!("{}", text))?)?;
        let mut device = KBox::pin_init(
            try_pin_init!(Self {
                misc: Opaque::zeroed(),
                context,
                mount: ptr::from_ref(mount),
                registered: false,
            }? Error),
            GFP_KERNEL,
        )?;
        let misc = device.misc.get();
        // SAFETY: The device is not registered yet, so nobody else looks at it. The name belongs to the context, which
        // stays as long as the device does.
        unsafe {
            // CAST: A small constant.
            (*misc).minor = bindings::MISC_DYNAMIC_MINOR as c_int;
            (*misc).name = device.context.name.as_char_ptr();
            (*misc).fops = FOPS.0.get();
        }
        // SAFETY: The device is filled in, and pinned until it is unregistered.
        to_result(unsafe { bindings::misc_register(misc) }).inspect_err(|e| {
            pr_err!("cannot make the device '{}': {:?}\n", text, e);
        })?;
        // SAFETY: Nothing is moved out; a flag is set. INVARIANT: Registered just now.
        unsafe { device.as_mut().get_unchecked_mut().registered = true };
        Ok(device)
    }
}

#[pinned_drop]
impl PinnedDrop for Device {
    fn drop(self: Pin<&mut Self>) {
        if self.registered {
            // SAFETY: By the type invariant.
            unsafe { bindings::misc_deregister(self.misc.get()) };
        }
    }
}

/// # Safety
///
/// `file` must be a file of ours between `open` and `release`.
unsafe fn open_file<'a>(file: *mut bindings::file) -> &'a OpenFile {
    // SAFETY: `open` put it there, and only `release` takes it away.
    unsafe { &*(*file).private_data.cast::<OpenFile>() }
}

fn errno(result: Result) -> c_int {
    match result {
        Ok(()) => 0,
        Err(e) => e.to_errno(),
    }
}

unsafe extern "C" fn open(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: The misc core leaves a pointer to the registered device in the file, whose `Device` is around it.
    let device = unsafe {
        &*kernel::container_of!(
            Opaque::cast_from((*file).private_data.cast::<bindings::miscdevice>()),
            Device,
            misc
        )
    };
    let make = || {
        // SAFETY: The mount outlives all devices, and those outlive their files.
        let pages = OwnedPageRange::new(unsafe { &*device.mount })?;
        // SAFETY: A file has credentials from the start to its end.
        let cred = ARef::from(unsafe { Credential::from_ptr((*file).f_cred) });
        let process = Process::new(device.context.clone(), cred, pages.arc().clone())?;
        let opened = KBox::new(OpenFile { process, pages }, GFP_KERNEL)?;
        registry::add(&opened.process)?;
        Ok::<_, Error>(opened)
    };
    match make() {
        Ok(opened) => {
            // SAFETY: The file is being opened, and the pages live until its `release`.
            unsafe {
                opened.pages.attach(file);
                (*file).private_data = KBox::into_raw(opened).cast();
            }
            0
        }
        Err(e) => e.to_errno(),
    }
}

unsafe extern "C" fn release(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: `open` put a `KBox` there; this is the last that is heard of the file.
    let opened = unsafe { KBox::from_raw((*file).private_data.cast::<OpenFile>()) };
    opened.process.release();
    0
}

unsafe extern "C" fn mmap(file: *mut bindings::file, vma: *mut bindings::vm_area_struct) -> c_int {
    // SAFETY: A file of ours, open.
    let opened = unsafe { open_file(file) };
    if !opened.process.is_current() {
        return EINVAL.to_errno();
    }
    // SAFETY: The kernel is just making this VMA, of this file, whose `release` drops the pages.
    let mapped = unsafe { opened.pages.map(VmaNew::from_raw(vma)) };
    errno(
        mapped
            .map(|size| opened.process.init_buffers(size))
            .inspect_err(|e| {
                helpers::user_error!(
                    opened.process.pid,
                    current!().pid(),
                    "mmap refused: {:?}",
                    e
                );
            }),
    )
}

unsafe extern "C" fn poll(
    file: *mut bindings::file,
    table: *mut bindings::poll_table_struct,
) -> bindings::__poll_t {
    // SAFETY: A file of ours, open.
    let process = unsafe { &open_file(file).process };
    // SAFETY: As the kernel gave them; the process lives at least until the file's release.
    unsafe { process.poll.register(file, table) };
    match process.poll_ready() {
        Ok(true) => bindings::POLLIN,
        Ok(false) => 0,
        Err(_) => bindings::POLLERR,
    }
}

unsafe extern "C" fn flush(file: *mut bindings::file, _: *mut c_void) -> c_int {
    // SAFETY: A file of ours, open.
    unsafe { open_file(file) }.process.flush();
    0
}

unsafe extern "C" fn ioctl(
    file: *mut bindings::file,
    command: c_uint,
    argument: c_ulong,
) -> c_long {
    // SAFETY: A file of ours, open.
    let process = unsafe { &open_file(file).process };
    // SAFETY: The flags can change at any time; this reads them once.
    let flags = unsafe { (&raw const (*file).f_flags).read_volatile() };
    let result = process.ioctl(command, argument, flags & O_NONBLOCK != 0);
    // CAST: An errno fits.
    errno(result) as c_long
}
