// SPDX-License-Identifier: GPL-2.0

//! binderfs: adding devices, mounts, options, and ownership.
//!
//! These do not use the device under `/dev`, only its name: `--module-params` must contain `devices=`.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use binder_client::Binder;
use binder_client::Mapping;
use binder_client::uapi;
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::fcntl::RenameFlags;
use nix::fcntl::renameat2;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::stat::Mode;
use nix::sys::stat::SFlag;
use nix::sys::stat::mknod;
use nix::sys::statfs::statfs;
use nix::unistd;
use nix::unistd::Gid;
use nix::unistd::Uid;

use super::binderfs_logs::with_logs;
use super::tests;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::fixture::until;
use crate::hostile;
use crate::hostile::Arena;
use crate::mounts::BINDER_CTL_ADD;
use crate::mounts::CONTROL;
use crate::mounts::DeviceRequest;
use crate::mounts::Mount;
use crate::mounts::UNTOLD;
use crate::mounts::become_root_of_a_user_namespace;
use crate::mounts::device_number;
use crate::mounts::devices;
use crate::mounts::errno;
use crate::mounts::open_error;
use crate::mounts::write_to;
use crate::netlink::Listener;

tests! { Binderfs, "binderfs":
    a_mount_has_what_it_should,
    a_device_is_made_and_used,
    features_read_one_and_cannot_be_changed,
    names_that_are_taken_and_names_that_are_not,
    control_refuses_what_it_does_not_know,
    control_sends_no_uevent_for_a_device_that_is_not_there,
    nothing_else_can_be_made,
    control_stays_where_it_is,
    devices_are_renamed,
    devices_replace_and_exchange,
    nothing_leaves_the_root,
    a_directory_takes_no_place_of_another,
    an_unlinked_device_goes_on,
    an_unlinked_device_can_be_opened_through_proc,
    numbers_are_given_back,
    failures_take_no_room,
    max_is_kept_and_changed,
    options_that_are_taken_and_options_that_are_not,
    stats_are_for_the_whole_machine,
    each_mount_has_contexts_of_its_own,
    one_name_for_many_at_once,
    a_detached_mount_goes_on,
    a_busy_mount_stays,
    attributes_can_be_changed,
    a_user_without_rights_cannot_mount,
    a_user_namespace_has_its_own,
    a_user_namespace_without_a_root,
    many_devices_outlive_their_mount,
}

/// `max=` where nothing is said.
const MAX: u32 = 1 << 20;

/// What every driver can do, and says so.
const FEATURES: [&str; 3] = ["oneway_spam_detection", "extended_error", "freeze_notification"];

/// The features of this driver.
fn features() -> BTreeSet<String> {
    let mut all: BTreeSet<String> = FEATURES.map(str::to_owned).into();
    match Listener::new() {
        Ok(_) => {
            all.insert("transaction_report".to_owned());
        }
        Err(errno) => assert_eq!(errno, Errno::ENOENT),
    }
    all
}

pub fn rename(from: &Path, to: &Path) -> nix::Result<()> {
    renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::empty())
}

fn exchange(from: &Path, to: &Path) -> nix::Result<()> {
    renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_EXCHANGE)
}

fn a_mount_has_what_it_should(env: &Env) {
    let mount = Mount::new();
    let mut wanted = devices(env);
    wanted.extend([CONTROL.to_owned(), "features".to_owned()]);
    assert_eq!(mount.names(""), wanted);
    assert_eq!(mount.names("features"), features());
    assert_eq!(statfs(mount.path()).expect("statfs").filesystem_type().0, 0x6c6f_6f70);

    let root = fs::metadata(mount.path()).expect("stat");
    assert_eq!((root.mode(), root.uid(), root.gid(), root.nlink(), root.ino()), (0o40755, 0, 0, 3, 1));
    let (major, _) = device_number(&mount.at(CONTROL));
    let mut minors = BTreeSet::new();
    let mut inodes = BTreeSet::new();
    for name in devices(env).into_iter().chain([CONTROL.to_owned()]) {
        let stat = fs::symlink_metadata(mount.at(&name)).expect("stat");
        assert!(stat.file_type().is_char_device());
        assert_eq!((stat.mode(), stat.uid(), stat.gid(), stat.nlink()), (0o20600, 0, 0, 1));
        let number = device_number(&mount.at(&name));
        assert_eq!(number.0, major);
        assert!(minors.insert(number.1) && inodes.insert(stat.ino()));
    }
    let features = fs::metadata(mount.at("features")).expect("stat");
    assert_eq!((features.mode(), features.nlink(), features.uid()), (0o40755, 2, 0));
    assert!(inodes.insert(features.ino()));
    // The devices of `devices=` are what others are.
    for name in devices(env) {
        Pair::new(&mount.env(env, &name)).check();
    }
}

fn a_device_is_made_and_used(env: &Env) {
    let mount = Mount::new();
    let mut request = DeviceRequest::new(b"mine");
    // A descriptor that cannot write will do.
    assert_eq!(mount.control().ioctl(BINDER_CTL_ADD, &mut request), Ok(0));
    assert_eq!(request.name, DeviceRequest::new(b"mine").name);
    assert_eq!((request.major, request.minor), device_number(&mount.at("mine")));
    let stat = fs::symlink_metadata(mount.at("mine")).expect("stat");
    assert_eq!((stat.mode(), stat.uid(), stat.gid(), stat.nlink()), (0o20600, 0, 0, 1));
    Pair::new(&mount.env(env, "mine")).check();
    let writable = Binder::open(&mount.at(CONTROL)).expect("open");
    assert_eq!(writable.ioctl(BINDER_CTL_ADD, &mut DeviceRequest::new(b"other")), Ok(0));
    Pair::new(&mount.env(env, "other")).check();
}

fn features_read_one_and_cannot_be_changed(_: &Env) {
    let mount = Mount::new();
    for name in features() {
        let path = mount.at("features").join(name);
        assert_eq!(fs::read_to_string(&path).expect("a feature"), "1\n");
        assert_eq!(fs::metadata(&path).expect("stat").mode(), 0o100_444);
        assert_eq!(errno(write_to(&path, "0")), Some(Errno::EINVAL));
        let mut file = File::open(&path).expect("open");
        let mut byte = [0];
        assert_eq!((file.read(&mut byte).expect("read"), byte), (1, *b"1"));
        assert_eq!((file.read(&mut byte).expect("read"), byte), (1, *b"\n"));
        assert_eq!(file.read(&mut byte).expect("read"), 0);
        assert_eq!(file.seek(SeekFrom::Start(1)).expect("seek"), 1);
        assert_eq!((file.read(&mut byte).expect("read"), byte), (1, *b"\n"));
        assert_eq!(unistd::unlink(&path), Err(Errno::EPERM));
        assert_eq!(rename(&path, &mount.at("features").join("else")), Err(Errno::EPERM));
    }
    assert_eq!(errno(fs::remove_dir(mount.at("features"))), Some(Errno::EPERM));
    assert_eq!(mount.names("features"), features());
}

fn names_that_are_taken_and_names_that_are_not(env: &Env) {
    let mount = Mount::new();
    let full = [b'x'; 255];
    for good in [&b"a"[..], b" ", b"...", b".hidden", b"a\nb", b"\xff\xfe", b"binder-control2", &full[1..], &full] {
        let (result, request) = mount.add(good);
        assert_eq!(result, Ok(()));
        let path = mount.path().join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(good));
        assert_eq!((request.major, request.minor), device_number(&path));
        assert_eq!(Binder::open(&path).expect("open").version(), Ok(uapi::BINDER_CURRENT_PROTOCOL_VERSION));
        assert_eq!(mount.add(good).0, Err(Errno::EEXIST));
    }
    // What does not end is cut off.
    assert_eq!(mount.add([b'y'; 256]).0, Ok(()));
    assert_eq!(device_number(&mount.at("y".repeat(255))).0, device_number(&mount.at(CONTROL)).0);
    assert_eq!(mount.add([b'x'; 256]).0, Err(Errno::EEXIST));
    for bad in ["", ".", "..", "/", "a/b", "/dev/binder", "features/x", "../x"] {
        assert_eq!(mount.add(bad).0, Err(Errno::EACCES), "{bad}");
    }
    for taken in devices(env).into_iter().chain([CONTROL.to_owned(), "features".to_owned()]) {
        assert_eq!(mount.add(taken).0, Err(Errno::EEXIST));
    }
}

fn control_refuses_what_it_does_not_know(_: &Env) {
    let mount = Mount::new();
    let control = mount.control();
    for request in [uapi::BINDER_VERSION, 0xc108_6202, 0xc104_6201, 0x1234, u32::MAX] {
        assert_eq!(hostile::ioctl_at(&control, request, 0), Err(Errno::EINVAL), "{request:x}");
    }
    for address in [0, 8, u64::MAX, 1 << 63] {
        assert_eq!(hostile::ioctl_at(&control, BINDER_CTL_ADD, address), Err(Errno::EFAULT));
    }
    let mut file = File::options().read(true).write(true).open(mount.at(CONTROL)).expect("open");
    assert_eq!(errno(file.read(&mut [0])), Some(Errno::EINVAL));
    assert_eq!(unistd::write(&file, b"x"), Err(Errno::EINVAL));
    assert_eq!(errno(file.seek(SeekFrom::Start(0))), Some(Errno::ESPIPE));
    let map = Mapping::with(file.as_fd(), hostile::PAGE, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, 0);
    assert_eq!(map.err(), Some(Errno::ENODEV));
}

fn control_sends_no_uevent_for_a_device_that_is_not_there(_: &Env) {
    let mount = Mount::new();
    let before = mount.names("");
    let arena = Arena::new(1);
    arena.put(0, DeviceRequest::new(b"unseen").name.as_slice());
    arena.protect(0, ProtFlags::PROT_READ);
    assert_eq!(hostile::ioctl_in(&mount.control(), BINDER_CTL_ADD, &arena), Err(Errno::EFAULT));
    assert_eq!(mount.names(""), before);
}

fn nothing_else_can_be_made(env: &Env) {
    let mount = Mount::new();
    let device = mount.at(devices(env).first().expect("a device"));
    let mode = Mode::S_IRWXU;
    for dir in ["", "features"] {
        let new = mount.at(dir).join("new");
        assert_eq!(errno(File::create(&new)), Some(Errno::EACCES));
        assert_eq!(errno(fs::create_dir(&new)), Some(Errno::EPERM));
        assert_eq!(errno(std::os::unix::fs::symlink("x", &new)), Some(Errno::EPERM));
        assert_eq!(errno(fs::hard_link(&device, &new)), Some(Errno::EPERM));
        assert_eq!(mknod(&new, SFlag::S_IFCHR, mode, nix::sys::stat::makedev(1, 3)), Err(Errno::EPERM));
        assert_eq!(mknod(&new, SFlag::S_IFCHR, mode, fs::metadata(&device).expect("stat").rdev()), Err(Errno::EPERM));
    }
}

fn control_stays_where_it_is(_: &Env) {
    let mount = Mount::new();
    let control = mount.at(CONTROL);
    let device = mount.make("device");
    assert_eq!(unistd::unlink(&control), Err(Errno::EPERM));
    assert_eq!(rename(&control, &mount.at("other")), Err(Errno::EPERM));
    assert_eq!(rename(&control, &device), Err(Errno::EPERM));
    assert_eq!(rename(&device, &control), Err(Errno::EPERM));
    assert_eq!(exchange(&device, &control), Err(Errno::EPERM));
    assert_eq!(exchange(&control, &device), Err(Errno::EPERM));
    mount.make("still");
}

fn devices_are_renamed(env: &Env) {
    let mount = Mount::new();
    let first = mount.make("first");
    let number = device_number(&first);
    let manager = Binder::open(&first).expect("open");
    manager.become_manager().expect("the first manager");
    assert_eq!(rename(&first, &mount.at("second")), Ok(()));
    assert_eq!(open_error(&first), Some(Errno::ENOENT));
    assert_eq!(device_number(&mount.at("second")), number);
    // The context came along.
    let again = Binder::open(&mount.at("second")).expect("open").become_manager();
    assert_eq!(again.err().and_then(|error| error.errno()), Some(Errno::EBUSY));
    // And the name is free for another, with a context of its own.
    assert_eq!(mount.add("second").0, Err(Errno::EEXIST));
    mount.make("first");
    Pair::new(&mount.env(env, "first")).check();
    drop(manager);
    Pair::new(&mount.env(env, "second")).check();
}

fn devices_replace_and_exchange(_: &Env) {
    let mount = Mount::new();
    let (one, two) = (mount.make("one"), mount.make("two"));
    let numbers = (device_number(&one), device_number(&two));
    let noreplace = renameat2(AT_FDCWD, &one, AT_FDCWD, &two, RenameFlags::RENAME_NOREPLACE);
    assert_eq!(noreplace, Err(Errno::EEXIST));
    assert_eq!(exchange(&one, &two), Ok(()));
    assert_eq!((device_number(&two), device_number(&one)), numbers);
    let whiteout = renameat2(AT_FDCWD, &one, AT_FDCWD, &two, RenameFlags::RENAME_WHITEOUT);
    assert_eq!(whiteout, Err(Errno::EINVAL));

    let open = Binder::open(&one).expect("open");
    assert_eq!(rename(&two, &one), Ok(()));
    assert_eq!(device_number(&one), numbers.0);
    assert_eq!(open_error(&two), Some(Errno::ENOENT));
    // The device that was replaced still works for open files.
    assert_eq!(open.version(), Ok(uapi::BINDER_CURRENT_PROTOCOL_VERSION));
    // Onto itself is nothing.
    assert_eq!(rename(&one, &one), Ok(()));
    assert_eq!(rename(&one, &mount.at("features")), Err(Errno::EISDIR));
    assert_eq!(rename(&mount.at("features"), &one), Err(Errno::ENOTDIR));
}

fn nothing_leaves_the_root(env: &Env) {
    let mount = Mount::new();
    let device = mount.make("device");
    let inside = mount.at("features").join("device");
    match env.driver(Difference::BinderfsRename) {
        Driver::C => assert_eq!(rename(&device, &inside), Ok(())),
        Driver::Ours => {
            assert_eq!(rename(&device, &inside), Err(Errno::EPERM));
            assert_eq!(rename(&device, &mount.at("features").join(FEATURES[0])), Err(Errno::EPERM));
            assert_eq!(exchange(&device, &mount.at("features").join(FEATURES[0])), Err(Errno::EPERM));
            assert_eq!(mount.names("features"), features());
            Pair::new(&mount.env(env, "device")).check();
        }
    }
    // Nor does anything come in.
    let feature = mount.at("features").join(FEATURES[1]);
    assert_eq!(rename(&feature, &mount.at("feature")), Err(Errno::EPERM));
    assert_eq!(errno(fs::rename(&feature, "/tmp/feature")), Some(Errno::EXDEV));
}

fn a_directory_takes_no_place_of_another(env: &Env) {
    let mount = with_logs();
    let (features, logs) = (mount.at("features"), mount.at("binder_logs"));
    assert_eq!(rename(&features, &logs), Err(Errno::ENOTEMPTY));
    assert_eq!(rename(&logs, &features), Err(Errno::ENOTEMPTY));
    assert_eq!(exchange(&features, &logs), Ok(()));
    assert_eq!(exchange(&features, &logs), Ok(()));
    assert_eq!(rename(&logs, &mount.at("elsewhere")), Ok(()));
    assert_eq!(rename(&mount.at("elsewhere"), &logs), Ok(()));
    if env.driver(Difference::BinderfsRename) == Driver::Ours {
        // With this, opening a device brings the C driver down.
        assert_eq!(rename(&features, &logs.join("proc")), Err(Errno::EPERM));
        Pair::new(&mount.env(env, devices(env).first().expect("a device"))).check();
    }
}

fn an_unlinked_device_goes_on(env: &Env) {
    let mount = Mount::new();
    let device = mount.make("device");
    let mut pair = Pair::new(&mount.env(env, "device"));
    let number = device_number(&device);
    assert_eq!(unistd::unlink(&device), Ok(()));
    assert_eq!(open_error(&device), Some(Errno::ENOENT));
    for _ in 0..10 {
        pair.check();
    }
    // Another of the name is another, also by its number.
    mount.make("device");
    assert_ne!(device_number(&device), number);
    let other = Binder::open(&device).expect("open");
    other.become_manager().expect("the context had none");
    pair.check();
}

fn an_unlinked_device_can_be_opened_through_proc(env: &Env) {
    let mount = Mount::new();
    let device = mount.make("device");
    let place = File::options().read(true).custom_flags(nix::libc::O_PATH).open(&device).expect("O_PATH");
    unistd::unlink(&device).expect("unlink");
    let again = format!("/proc/{}/fd/{}", unistd::getpid(), place.as_raw_fd());
    Pair::new(&Env { device: again.into(), ..env.clone() }).check();
}

fn numbers_are_given_back(_: &Env) {
    let mount = Mount::new();
    let first = mount.make("first");
    let number = device_number(&first);
    let open = Binder::open(&first).expect("open");
    unistd::unlink(&first).expect("unlink");
    drop(open);
    // The file is gone when the close is done with.
    until(|| {
        let device = mount.make("device");
        let same = device_number(&device) == number;
        unistd::unlink(&device).expect("unlink");
        same
    });
}

fn failures_take_no_room(env: &Env) {
    let count = u32::try_from(devices(env).len()).expect("a number");
    let mount = Mount::with(&format!("max={}", count + 3)).expect("mount");
    let control = mount.control();
    let arena = Arena::new(1);
    arena.put(0, DeviceRequest::new(b"unseen").name.as_slice());
    arena.protect(0, ProtFlags::PROT_READ);
    for _ in 0..100 {
        assert_eq!(mount.add(CONTROL).0, Err(Errno::EEXIST));
        assert_eq!(mount.add("a/b").0, Err(Errno::EACCES));
        assert_eq!(hostile::ioctl_in(&control, BINDER_CTL_ADD, &arena), Err(Errno::EFAULT));
    }
    for name in ["one", "two", "three"] {
        mount.make(name);
    }
    let (result, request) = mount.add("four");
    assert_eq!((result, request), (Err(Errno::ENOSPC), DeviceRequest::new(b"four")));
    assert_eq!(request_numbers(&mount.add("one").1), (UNTOLD, UNTOLD));
}

fn request_numbers(request: &DeviceRequest) -> (u32, u32) {
    (request.major, request.minor)
}

fn max_is_kept_and_changed(env: &Env) {
    let count = u32::try_from(devices(env).len()).expect("a number");
    for too_few in 0..count {
        assert_eq!(Mount::with(&format!("max={too_few}")).err(), Some(Errno::ENOSPC));
    }
    let mount = Mount::with(&format!("max={count}")).expect("mount");
    assert_eq!(mount.options(), format!("max={count}"));
    assert_eq!(mount.add("one").0, Err(Errno::ENOSPC));
    assert_eq!(mount.remount(&format!("max={}", count + 1)), Ok(()));
    assert_eq!(mount.options(), format!("max={}", count + 1));
    let one = mount.make("one");
    assert_eq!(mount.add("two").0, Err(Errno::ENOSPC));
    // One that is unlinked makes room.
    unistd::unlink(&one).expect("unlink");
    let two = mount.make("two");
    assert_eq!(mount.add("three").0, Err(Errno::ENOSPC));
    // Fewer than there are: nothing goes, and nothing comes.
    assert_eq!(mount.remount("max=0"), Ok(()));
    assert_eq!(mount.options(), "max=0");
    assert_eq!(Binder::open(&two).expect("open").version(), Ok(uapi::BINDER_CURRENT_PROTOCOL_VERSION));
    unistd::unlink(&two).expect("unlink");
    assert_eq!(mount.add("three").0, Err(Errno::ENOSPC));
    assert_eq!(mount.remount("max=nonsense"), Err(Errno::EINVAL));
    assert_eq!(mount.options(), "max=0");
    // Nothing said is the most there can be.
    assert_eq!(mount.remount(""), Ok(()));
    assert_eq!(mount.options(), format!("max={MAX}"));
    mount.make("three");
}

fn options_that_are_taken_and_options_that_are_not(_: &Env) {
    let good = [
        ("", format!("max={MAX}")),
        ("max=100", "max=100".to_owned()),
        ("max=0x40", "max=64".to_owned()),
        ("max=010", "max=8".to_owned()),
        ("max=1048576", format!("max={MAX}")),
        ("max=9,max=10", "max=10".to_owned()),
        ("stats=global", format!("max={MAX},stats=global")),
        ("stats=global,max=9", "max=9,stats=global".to_owned()),
        ("max=9,stats=global", "max=9,stats=global".to_owned()),
    ];
    for (options, shown) in good {
        let mount = Mount::with(options).unwrap_or_else(|errno| panic!("{options}: {errno}"));
        assert_eq!(mount.options(), shown, "{options}");
    }
    let bad = [
        "max",
        "max=",
        "max=-1",
        "max=1048577",
        "max=2147483648",
        "max=4294967295",
        "max=4294967296",
        "max=abc",
        "max=5 ",
        "MAX=5",
        "stats",
        "stats=",
        "stats=local",
        "stats=Global",
        "something",
        "something=1",
    ];
    for options in bad {
        assert_eq!(Mount::with(options).err(), Some(Errno::EINVAL), "{options}");
    }
}

fn stats_are_for_the_whole_machine(_: &Env) {
    let without = Mount::new();
    assert!(!without.names("").contains("binder_logs"));
    for change in ["stats=global", "max=20,stats=global"] {
        assert_eq!(without.remount(change), Err(Errno::EINVAL));
    }
    assert_eq!(without.options(), format!("max={MAX}"));

    let with = with_logs();
    let wanted = [
        "state",
        "stats",
        "transactions",
        "transaction_log",
        "failed_transaction_log",
        "state_hashed",
        "transactions_hashed",
        "proc",
    ];
    assert_eq!(with.names("binder_logs"), wanted.map(str::to_owned).into());
    for change in ["", "max=20"] {
        assert_eq!(with.remount(change), Err(Errno::EINVAL));
    }
    assert_eq!(with.options(), format!("max={MAX},stats=global"));
    assert_eq!(with.remount("max=20,stats=global"), Ok(()));
    assert_eq!(with.options(), "max=20,stats=global");
}

fn each_mount_has_contexts_of_its_own(env: &Env) {
    let mounts = [Mount::new(), Mount::new(), Mount::new()];
    let name = devices(env).first().expect("a device").clone();
    let mut numbers = BTreeSet::new();
    let managers = mounts.each_ref().map(|mount| {
        assert!(numbers.insert(device_number(&mount.at(&name))));
        let manager = Binder::open(&mount.at(&name)).expect("open");
        manager.become_manager().expect("the first manager here");
        manager
    });
    let [first, ..] = &mounts;
    let again = Binder::open(&first.at(&name)).expect("open").become_manager();
    assert_eq!(again.err().and_then(|error| error.errno()), Some(Errno::EBUSY));
    drop(managers);
    for mount in &mounts {
        Pair::new(&mount.env(env, &name)).check();
    }
}

fn one_name_for_many_at_once(env: &Env) {
    let count = u32::try_from(devices(env).len()).expect("a number");
    const TURNS: usize = 50;
    let mount = Mount::with(&format!("max={}", count as usize + TURNS)).expect("mount");
    let made: usize = std::thread::scope(|scope| {
        let ask = || {
            let results = (0..TURNS).map(|turn| mount.add(format!("d{turn}")).0);
            results
                .filter(|result| match result {
                    Ok(()) => true,
                    // No room: others are on the way to finding the name taken.
                    Err(Errno::EEXIST | Errno::ENOSPC) => false,
                    Err(errno) => panic!("{errno}"),
                })
                .count()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread")).sum()
    });
    assert_eq!(mount.names("").iter().filter(|name| name.starts_with('d')).count(), made);
    // Whatever happened, there is just so much room left.
    for number in made..TURNS {
        mount.make(&format!("more{number}"));
    }
    assert_eq!(mount.add("one too many").0, Err(Errno::ENOSPC));
}

fn a_detached_mount_goes_on(env: &Env) {
    let mount = Mount::new();
    mount.make("device");
    let control = mount.control();
    let mut pair = Pair::new(&mount.env(env, "device"));
    mount.detach();
    assert!(!mount.at(CONTROL).exists());
    pair.check();
    assert_eq!(control.ioctl(BINDER_CTL_ADD, &mut DeviceRequest::new(b"late")), Ok(0));
    assert_eq!(control.ioctl(BINDER_CTL_ADD, &mut DeviceRequest::new(b"late")), Err(Errno::EEXIST));
    drop(control);
    pair.check();
}

fn a_busy_mount_stays(env: &Env) {
    let mount = Mount::new();
    let name = devices(env).first().expect("a device").clone();
    let open = Binder::open(&mount.at(name)).expect("open");
    assert_eq!(mount.unmount(), Err(Errno::EBUSY));
    drop(open);
    until(|| match mount.unmount() {
        Ok(()) => true,
        Err(Errno::EBUSY) => false,
        Err(errno) => panic!("{errno}"),
    });
    assert!(!mount.at(CONTROL).exists());
}

fn attributes_can_be_changed(env: &Env) {
    let mount = Mount::new();
    let device = mount.make("device");
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&device, fs::Permissions::from_mode(0o666)).expect("chmod");
    unistd::chown(&device, Some(Uid::from_raw(1000)), Some(Gid::from_raw(1001))).expect("chown");
    let stat = fs::metadata(&device).expect("stat");
    assert_eq!((stat.mode(), stat.uid(), stat.gid()), (0o20666, 1000, 1001));
    fs::set_permissions(mount.path(), fs::Permissions::from_mode(0o711)).expect("chmod");
    let control = mount.at(CONTROL);
    assert_eq!(unistd::truncate(&device, 10), Err(Errno::EINVAL));
    Peer::start(&mount.env(env, "device"), |env, _| {
        unistd::setresgid(Gid::from_raw(1001), Gid::from_raw(1001), Gid::from_raw(1001)).expect("setgid");
        unistd::setresuid(Uid::from_raw(1000), Uid::from_raw(1000), Uid::from_raw(1000)).expect("setuid");
        assert_eq!(errno(File::open(control)), Some(Errno::EACCES));
        assert_eq!(Binder::open(&env.device).expect("open").version(), Ok(uapi::BINDER_CURRENT_PROTOCOL_VERSION));
    })
    .join();
}

fn become_user(id: u32) {
    unistd::setresgid(Gid::from_raw(id), Gid::from_raw(id), Gid::from_raw(id)).expect("setgid");
    unistd::setresuid(Uid::from_raw(id), Uid::from_raw(id), Uid::from_raw(id)).expect("setuid");
}

fn a_user_without_rights_cannot_mount(_: &Env) {
    let mount = Mount::new();
    become_user(1000);
    assert_eq!(mount.remount("max=100"), Err(Errno::EPERM));
    let again =
        nix::mount::mount(Some("binder"), mount.path(), Some("binder"), nix::mount::MsFlags::empty(), None::<&str>);
    assert_eq!(again, Err(Errno::EPERM));
}

fn a_user_namespace_has_its_own(env: &Env) {
    become_user(1000);
    become_root_of_a_user_namespace();
    let mount = Mount::with("max=20").expect("mount");
    assert_eq!(mount.options(), "max=20");
    for name in [".", CONTROL, "features", "features/extended_error"] {
        let stat = fs::symlink_metadata(mount.at(name)).expect("stat");
        assert_eq!((stat.uid(), stat.gid()), (0, 0), "{name}");
    }
    let device = mount.make("device");
    assert_eq!(unistd::chown(&device, Some(Uid::from_raw(5)), None), Err(Errno::EINVAL));
    assert_eq!(unistd::chown(&device, Some(Uid::from_raw(0)), None), Ok(()));
    Pair::new(&mount.env(env, "device")).check();
    // From here one would see into all of the machine.
    assert_eq!(Mount::with("stats=global").err(), Some(Errno::EPERM));
    assert_eq!(mount.remount("max=20,stats=global"), Err(Errno::EPERM));
    assert_eq!(Mount::with("stats=local").err(), Some(Errno::EINVAL));
    assert_eq!(mount.remount("max=30"), Ok(()));
    assert_eq!(mount.options(), "max=30");
}

fn a_user_namespace_without_a_root(env: &Env) {
    become_user(1000);
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).expect("unshare");
    let mount = Mount::new();
    let mut wanted = devices(env);
    wanted.extend([CONTROL.to_owned(), "features".to_owned()]);
    assert_eq!(mount.names(""), wanted);
    // The owner is not mapped in this user namespace.
    assert_eq!(errno(File::open(mount.at(CONTROL))), Some(Errno::EACCES));
}

fn many_devices_outlive_their_mount(_: &Env) {
    let mount = Mount::new();
    let open: Vec<Binder> =
        (0..500).map(|number| Binder::open(&mount.make(&format!("d{number}"))).expect("open")).collect();
    mount.detach();
    std::thread::scope(|scope| {
        for part in open.chunks(125) {
            scope.spawn(move || {
                for binder in part {
                    assert_eq!(binder.version(), Ok(uapi::BINDER_CURRENT_PROTOCOL_VERSION));
                }
            });
        }
    });
}
