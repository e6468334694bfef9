// SPDX-License-Identifier: GPL-2.0

//! binderfs mounts, in a mount namespace of each test's own: they go when the test ends.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use binder_client::Binder;
use nix::errno::Errno;
use nix::mount::MntFlags;
use nix::mount::MsFlags;
use nix::mount::mount;
use nix::mount::umount2;
use nix::sched::CloneFlags;
use nix::sched::unshare;
use nix::unistd::getpid;
use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;

use crate::env::Env;

/// `BINDER_CTL_ADD`.
pub const BINDER_CTL_ADD: u32 = 0xc108_6201;

/// The file that takes it.
pub const CONTROL: &str = "binder-control";

/// What it takes: `struct binderfs_device`.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct DeviceRequest {
    /// A name, which ends in a NUL or is cut off after 255 bytes.
    pub name: [u8; 256],
    /// What the driver gave.
    pub major: u32,
    /// What the driver gave.
    pub minor: u32,
}

/// What stands in the numbers before the driver writes them.
pub const UNTOLD: u32 = 0xdead;

impl DeviceRequest {
    /// Asks for a name of at most 256 bytes.
    pub fn new(name: &[u8]) -> Self {
        let mut request = Self { name: [0; 256], major: UNTOLD, minor: UNTOLD };
        request.name[..name.len()].copy_from_slice(name);
        request
    }
}

/// Leaves the mount namespace of the others.
fn leave_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("private mounts");
}

/// Enters a user namespace in which the caller is root, and a mount namespace of it.
///
/// The caller must have one thread.
pub fn become_root_of_a_user_namespace() {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    // A process that has changed its user does not own its files in /proc until this.
    nix::sys::prctl::set_dumpable(true).expect("dumpable");
    unshare(CloneFlags::CLONE_NEWUSER).expect("unshare");
    fs::write("/proc/self/setgroups", "deny").expect("setgroups");
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).expect("uid_map");
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).expect("gid_map");
    leave_mounts();
}

/// A directory with the file system mounted on it.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
}

impl Mount {
    /// Mounts with these options.
    pub fn with(options: &str) -> nix::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static OWNER: AtomicU32 = AtomicU32::new(0);

        // A child has a count of its own, and leaves the namespace of its parent.
        let pid = getpid().as_raw().unsigned_abs();
        if OWNER.swap(pid, Ordering::Relaxed) != pid {
            leave_mounts();
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("binderfs-{pid}-{number}"));
        fs::create_dir_all(&path).expect("a directory to mount on");
        let new = Self { path };
        match mount(Some("binder"), &new.path, Some("binder"), MsFlags::empty(), Some(options)) {
            Ok(()) => Ok(new),
            Err(errno) => Err(errno),
        }
    }

    /// Mounts without options.
    #[track_caller]
    pub fn new() -> Self {
        Self::with("").expect("mount")
    }

    /// Changes the options.
    pub fn remount(&self, options: &str) -> nix::Result<()> {
        mount(Some("binder"), &self.path, Some("binder"), MsFlags::MS_REMOUNT, Some(options))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// The names in a directory of it.
    #[track_caller]
    pub fn names(&self, dir: &str) -> BTreeSet<String> {
        let entries = fs::read_dir(self.at(dir)).expect("a directory");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    /// The options as the kernel tells them, after those that every file system has.
    #[track_caller]
    pub fn options(&self) -> String {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let path = self.path.to_str().expect("a path");
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(path)).expect("a mount");
        let options = line.split(' ').nth(3).expect("options");
        options.strip_prefix("rw,relatime,").expect("common options").to_owned()
    }

    /// `binder-control`, open for reading only.
    #[track_caller]
    pub fn control(&self) -> Binder {
        Binder::from_file(File::open(self.at(CONTROL)).expect("binder-control"))
    }

    /// Asks for a device; returns what the driver has made of the request.
    pub fn add(&self, name: impl AsRef<[u8]>) -> (nix::Result<()>, DeviceRequest) {
        let mut request = DeviceRequest::new(name.as_ref());
        let result = self.control().ioctl(BINDER_CTL_ADD, &mut request);
        (result.map(|status| assert_eq!(status, 0)), request)
    }

    /// Makes a device, and says where it is.
    #[track_caller]
    pub fn make(&self, name: &str) -> PathBuf {
        assert_eq!(self.add(name).0, Ok(()));
        self.at(name)
    }

    /// The same environment, but with a device of this mount.
    pub fn env(&self, env: &Env, name: &str) -> Env {
        Env { device: self.at(name), ..env.clone() }
    }

    /// Unmounts it, which fails while it is in use.
    pub fn unmount(&self) -> nix::Result<()> {
        umount2(&self.path, MntFlags::empty())
    }

    /// Takes it out of sight; what is open goes on.
    pub fn detach(&self) {
        umount2(&self.path, MntFlags::MNT_DETACH).expect("umount");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.path);
    }
}

/// What the module was loaded with: the devices every mount has.
pub fn devices(env: &Env) -> BTreeSet<String> {
    let names = env.module_params.split(' ').find_map(|word| word.strip_prefix("devices="));
    let names = names.expect("--module-params with devices=");
    names.split(',').map(str::to_owned).collect()
}

/// A device's number.
#[track_caller]
pub fn device_number(path: &Path) -> (u32, u32) {
    let rdev = fs::symlink_metadata(path).expect("stat").rdev();
    let (major, minor) = (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev));
    (u32::try_from(major).expect("a major number"), u32::try_from(minor).expect("a minor number"))
}

/// How opening fails.
pub fn open_error(path: &Path) -> Option<Errno> {
    Binder::open(path).err().and_then(|error| error.errno())
}

/// The errno of what the standard library did.
pub fn errno<T>(result: std::io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| error.raw_os_error()).map(Errno::from_raw)
}

/// Writes to a file that is there.
pub fn write_to(path: &Path, text: &str) -> std::io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}
