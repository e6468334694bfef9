// SPDX-License-Identifier: GPL-2.0

//! Device nodes and their file operations.

use kernel::{
    bindings,
    cred::Credential,
    error::to_result,
    ffi::{
        c_char,
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
    types::{
        ForeignOwnable,
        Opaque, //
    },
    warn_on,
    workqueue::{
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    }, //
};

use crate::{
    context::Context,
    debug::files::{
        Directory,
        PidFileRef, //
    },
    instance::Instance,
    page_range::OwnedPageRange,
    process::Process,
    procs,
    sums::{
        push,
        text_bytes, //
    },
    sys::{
        helpers,
        release_queue,
        rmap::Mount, //
    },
};

// What is inside a `path` is not looked at.
#[allow(improper_ctypes)]
extern "C" {
    fn kern_path(name: *const c_char, flags: c_uint, path: *mut bindings::path) -> c_int;
}

/// What all devices use.
pub(crate) struct Driver {
    debug_files: Arc<Directory>,
    mount: Arc<Mount>,
}

impl Driver {
    /// Collects it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(debug_files: &Arc<Directory>, mount: &Arc<Mount>) -> Result<Arc<Self>> {
        let driver = Self {
            debug_files: debug_files.clone(),
            mount: mount.clone(),
        };
        Ok(Arc::new(driver, GFP_KERNEL)?)
    }
}

/// What an open file points at.
#[pin_data]
struct OpenFile {
    process: Arc<Process>,
    _debug_file: PidFileRef,
    // Dropped after `release`, so that the pages that buffers gave back go with it.
    pages: OwnedPageRange,
    #[pin]
    end: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for OpenFile { self.end }
}

impl WorkItem for OpenFile {
    type Pointer = Pin<KBox<Self>>;

    /// The file was closed, and nothing refers to it any more.
    fn run(this: Pin<KBox<Self>>) {
        this.process.release();
    }
}

/// What a device node leads to, whichever kind of node it is.
pub(crate) struct BinderDevice {
    context: Arc<Context>,
    driver: Arc<Driver>,
}

impl BinderDevice {
    /// A device called `name` of `instance`, with a context of its own.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(name: &CStr, instance: &Arc<Instance>, driver: &Arc<Driver>) -> Result<Self> {
        Ok(Self {
            context: Context::new(CString::try_from(name)?, instance.clone())?,
            driver: driver.clone(),
        })
    }

    /// Makes `file` a process of this device, and returns its id.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; the file is as it was.
    ///
    /// # Safety
    ///
    /// To be called from `file_operations.open` of `file`, whose operations are [`operations`]. If it succeeds, so
    /// must `open`.
    pub(crate) unsafe fn open(&self, file: *mut bindings::file) -> Result<i32> {
        let pages = OwnedPageRange::new(&self.driver.mount, current!().group_leader().pid())?;
        // SAFETY: A file has credentials from the start to its end.
        let cred = ARef::from(unsafe { Credential::from_ptr((*file).f_cred) });
        let process = Process::new(self.context.clone(), cred, pages.arc().clone())?;
        let pid = process.pid();
        let debug_file = self.driver.debug_files.pid_file(pid)?;
        let opened = KBox::pin_init(
            pin_init!(OpenFile {
                process,
                _debug_file: debug_file,
                pages,
                end <- new_work!("OpenFile::end"),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        procs::add(&opened.process)?;
        // SAFETY: The file is being opened, and the pages live until its `release`.
        unsafe {
            opened.pages.attach(file);
            (*file).private_data = opened.into_foreign();
        }
        Ok(pid)
    }
}

/// Ends the process that `file` is, and returns its id. Most of it is done later: see [`release_queue`].
///
/// # Safety
///
/// To be called from `file_operations.release` of a file that [`BinderDevice::open`] has made a process.
pub(crate) unsafe fn close(file: *mut bindings::file) -> i32 {
    // SAFETY: `open` put it there, and nothing has a reference to it any more: the file is gone.
    let opened = unsafe { Pin::<KBox<OpenFile>>::from_foreign((*file).private_data) };
    let pid = opened.process.pid();
    opened.process.close();
    // SAFETY: The file still holds the module.
    match unsafe { release_queue::get() } {
        Some(queue) => queue.enqueue(opened),
        None => {
            // A file is opened only while there is a queue.
            warn_on!(true);
            OpenFile::run(opened);
        }
    }
    pid
}

/// The kernel's way of calling `open` or `release`.
pub(crate) type FileCallback =
    unsafe extern "C" fn(*mut bindings::inode, *mut bindings::file) -> c_int;

/// The operations of a device. `open` must call [`BinderDevice::open`], and `release` must call [`close`].
pub(crate) fn operations(
    module: &'static ThisModule,
    open: FileCallback,
    release: FileCallback,
) -> bindings::file_operations {
    bindings::file_operations {
        owner: module.as_ptr(),
        open: Some(open),
        release: Some(release),
        mmap: Some(mmap),
        poll: Some(poll),
        flush: Some(flush),
        unlocked_ioctl: Some(ioctl),
        compat_ioctl: bindings::compat_ptr_ioctl,
        ..pin_init::zeroed()
    }
}

/// How long a file's name can be.
const MAX_NAME: usize = 255;

/// One misc device.
///
/// # Invariants
///
/// `misc` is registered if `registered` is set.
#[pin_data(PinnedDrop)]
struct Device {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    fops: bindings::file_operations,
    binder_device: BinderDevice,
    registered: bool,
}

/// The devices under `/dev`. Dropping it unregisters them; the kernel sees to it that no file is open then.
///
/// They come into being in three steps, so that what can fail is over before a device can be opened. The kernel frees a
/// module whose init function fails, even if a file of it is open.
pub(crate) struct Devices(KVec<Pin<KBox<Device>>>);

// SAFETY: The raw pointers inside lead to what is owned, and are used by the kernel's callbacks only.
unsafe impl Send for Devices {}
// SAFETY: `&Devices` allows nothing but counting them, and storing one word that is the same each time.
unsafe impl Sync for Devices {}

impl Devices {
    /// Makes a device for each name in `devices=`. There are no nodes yet.
    ///
    /// # Errors
    ///
    /// `EEXIST` if a name is taken, `EINVAL` for one that cannot be a file's name, `ENOMEM`.
    pub(crate) fn new(module: &'static ThisModule, driver: &Arc<Driver>) -> Result<Self> {
        let instance = Instance::of_module()?;
        let mut devices = KVec::new();
        for name in names() {
            // The kernel would refuse this too, with a stack trace.
            let twice = |device: &Pin<KBox<Device>>| {
                text_bytes(device.binder_device.context.name()) == name
            };
            if devices.iter().any(twice) {
                pr_err!("'devices' names a device twice\n");
                return Err(EEXIST);
            }
            push(
                &mut devices,
                Device::new(name, module, &instance, driver)?,
                GFP_KERNEL,
            )?;
        }
        Ok(Self(devices))
    }

    /// Registers the devices, of which none was. There are nodes from now on; to open one is `ENODEV`.
    ///
    /// # Errors
    ///
    /// `EEXIST` if a name has been taken since, `EBUSY` if there are no numbers left, `ENOMEM`.
    pub(crate) fn register(&mut self) -> Result {
        for device in self.0.iter_mut() {
            device.as_mut().register()?;
        }
        Ok(())
    }

    /// Lets the devices be opened.
    pub(crate) fn enable(&self) {
        for device in self.0.iter() {
            device.enable();
        }
    }

    /// How many there are, for a line in the log.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// The names in `devices=`.
pub(crate) fn names() -> impl Iterator<Item = &'static [u8]> {
    helpers::devices()
        .split(|&byte| byte == b',')
        .filter(|name| !name.is_empty())
}

impl Device {
    fn new(
        name: &[u8],
        module: &'static ThisModule,
        instance: &Arc<Instance>,
        driver: &Arc<Driver>,
    ) -> Result<Pin<KBox<Self>>> {
        let text = core::str::from_utf8(name).map_err(|_| EINVAL)?;
        if text.contains('/') || text == "." || text == ".." || text.len() > MAX_NAME {
            pr_err!("'{}' cannot be the name of a device\n", text);
            return Err(EINVAL);
        }
        if is_taken(text)? {
            pr_err!("there is a device '{}' already\n", text);
            return Err(EEXIST);
        }
        let binder_device =
            BinderDevice::new(&CString::try_from_fmt(fmt!("{}", text))?, instance, driver)?;
        let device = KBox::pin_init(
            try_pin_init!(Self {
                misc: Opaque::zeroed(),
                fops: operations(module, open, release),
                binder_device,
                registered: false,
            }? Error),
            GFP_KERNEL,
        )?;
        let misc = device.misc.get();
        // SAFETY: The device is not registered yet, so no other code looks at it. The name belongs to the context,
        // which stays as long as the device does.
        unsafe {
            // CAST: A small constant.
            (*misc).minor = bindings::MISC_DYNAMIC_MINOR as c_int;
            (*misc).name = device.binder_device.context.name().as_char_ptr();
        }
        Ok(device)
    }

    /// Registers the device, without operations: the kernel refuses to open it.
    fn register(mut self: Pin<&mut Self>) -> Result {
        // SAFETY: The device is filled in, and pinned until it is unregistered.
        to_result(unsafe { bindings::misc_register(self.misc.get()) }).inspect_err(|e| {
            // It was made of a `str`.
            let name = core::str::from_utf8(text_bytes(self.binder_device.context.name()));
            pr_err!(
                "cannot make the device '{}': {:?}\n",
                name.unwrap_or_default(),
                e
            );
        })?;
        // SAFETY: Nothing is moved out; a flag is set. INVARIANT: Registered just now.
        unsafe { self.as_mut().get_unchecked_mut().registered = true };
        Ok(())
    }

    /// Gives the device its operations.
    fn enable(&self) {
        // SAFETY: The misc core reads the pointer whenever the device is opened, and takes null for a device that
        // cannot be. It is a single word, and what it leads to stays as long as the device.
        // ORDERING: What it leads to was filled in before `misc_register` took the lock that the misc core reads under.
        unsafe { (&raw mut (*self.misc.get()).fops).write_volatile(&self.fops) };
    }
}

/// Whether there is a misc device called `name`, as far as one can see.
///
/// The kernel refuses a second one too, but with a stack trace that would have its readers look for a bug: that another
/// binder driver is loaded is what happens when a program tries this one. Where sysfs is not mounted it remains.
fn is_taken(name: &str) -> Result<bool> {
    let name = CString::try_from_fmt(fmt!("/sys/class/misc/{}", name))?;
    let mut path = bindings::path::default();
    // SAFETY: The name is a string, and the path is ours to be written to.
    if unsafe { kern_path(name.as_char_ptr(), 0, &mut path) } != 0 {
        return Ok(false);
    }
    // SAFETY: The reference that `kern_path` took.
    unsafe { bindings::path_put(&path) };
    Ok(true)
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
/// To be called by the kernel, as `file_operations.open` of a device.
unsafe extern "C" fn open(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: The misc core leaves a pointer to the registered device in the file, whose `Device` is around it.
    let device = unsafe {
        &*kernel::container_of!(
            Opaque::cast_from((*file).private_data.cast::<bindings::miscdevice>()),
            Device,
            misc
        )
    };
    // SAFETY: Called for `open`, and that is all it does.
    errno(unsafe { device.binder_device.open(file) }.map(|_| ()))
}

/// # Safety
///
/// To be called by the kernel, as `file_operations.release` of a device.
unsafe extern "C" fn release(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: Called for `release`; the file was opened by the function above.
    unsafe { close(file) };
    0
}

/// # Safety
///
/// `file` must be a file of ours between `open` and `release`.
unsafe fn open_file<'a>(file: *mut bindings::file) -> &'a OpenFile {
    // SAFETY: `open` put it there, and only `release` takes it away.
    unsafe { &*(*file).private_data.cast::<OpenFile>() }
}

/// What the kernel wants a callback to return.
pub(crate) fn errno(result: Result) -> c_int {
    match result {
        Ok(()) => 0,
        Err(e) => e.to_errno(),
    }
}

/// # Safety
///
/// To be called by the kernel, as `file_operations.mmap` of a device.
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
                    opened.process.pid(),
                    current!().pid(),
                    "mmap refused: {:?}",
                    e
                );
            }),
    )
}

/// # Safety
///
/// To be called by the kernel, as `file_operations.poll` of a device.
unsafe extern "C" fn poll(
    file: *mut bindings::file,
    table: *mut bindings::poll_table_struct,
) -> bindings::__poll_t {
    // SAFETY: A file of ours, open.
    let process = unsafe { &open_file(file).process };
    // SAFETY: As the kernel gave them; the process lives at least until the file's release.
    unsafe { process.poll_queue().register(file, table) };
    match process.poll_ready() {
        Ok(true) => bindings::POLLIN,
        Ok(false) => 0,
        Err(_) => bindings::POLLERR,
    }
}

/// # Safety
///
/// To be called by the kernel, as `file_operations.flush` of a device.
unsafe extern "C" fn flush(file: *mut bindings::file, _: *mut c_void) -> c_int {
    // SAFETY: A file of ours, open.
    unsafe { open_file(file) }.process.flush();
    0
}

/// # Safety
///
/// To be called by the kernel, as `file_operations.unlocked_ioctl` of a device.
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
