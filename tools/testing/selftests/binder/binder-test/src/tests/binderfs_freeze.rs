// SPDX-License-Identifier: GPL-2.0

//! Which processes can be frozen from a device of a mount, and by which users.
//!
//! The module's own device under `/dev` counts as a mount of its own. A C driver with binderfs has no such device.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use binder_client::Binder;
use binder_client::uapi;
use binder_client::uapi::FreezeInfo;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sched::unshare;
use nix::unistd::Gid;
use nix::unistd::Uid;

use super::freeze::thaw_and_ask;
use super::freeze_rights::ALLOWED;
use super::freeze_rights::ONE;
use super::freeze_rights::Reach;
use super::freeze_rights::TWO;
use super::freeze_rights::as_user;
use super::freeze_rights::freeze;
use super::freeze_rights::refused;
use super::freeze_rights::told;
use super::freeze_rights::with_open;
use super::tests;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::mounts::Mount;
use crate::mounts::become_root_of_a_user_namespace;

tests! { Binderfs, "binderfs_freeze":
    a_process_of_another_mount_is_out_of_reach,
    what_a_process_has_open_elsewhere_is_not_frozen,
    all_that_a_process_has_open_in_the_mount_is_frozen,
    a_mount_of_ones_own_reaches_no_other,
    root_of_the_mounts_user_namespace_may,
    the_managers_user_may,
    the_manager_of_a_device_that_had_none_may_not,
    what_never_had_a_manager_goes_with_the_rest,
    the_devices_of_a_mount_that_is_detached,
}

/// A device of a mount that every user can open.
fn open_to_all(env: &Env, mount: &Mount, name: &str) -> Env {
    let device = mount.make(name);
    fs::set_permissions(&device, fs::Permissions::from_mode(0o666)).expect("chmod");
    mount.env(env, name)
}

/// What is said of a process that is not in reach. The C driver reaches all of the machine.
fn out_of_reach(env: &Env) -> [nix::Result<i32>; 2] {
    match env.driver(Difference::FreezeMount) {
        Driver::Ours => [Err(Errno::EINVAL); 2],
        Driver::C => ALLOWED,
    }
}

fn a_process_of_another_mount_is_out_of_reach(env: &Env) {
    let (first, second) = (Mount::new(), Mount::new());
    let first = open_to_all(env, &first, "device");
    let second = open_to_all(env, &second, "device");
    let all = || [&first, &second, env].into_iter().filter(|env| env.device.exists());
    for there in all() {
        let peer = with_open(&[(there, 0)]);
        for asked in all() {
            let wanted = if asked.device == there.device { ALLOWED } else { out_of_reach(env) };
            assert_eq!(told(asked, 0, peer.pid()), wanted);
        }
    }
    // That it is the caller's own changes nothing.
    let peer = with_open(&[(&first, ONE)]);
    assert_eq!(told(&second, ONE, peer.pid()), out_of_reach(env));
    assert_eq!(told(&first, ONE, peer.pid()), ALLOWED);
}

fn what_a_process_has_open_elsewhere_is_not_frozen(env: &Env) {
    let mounts = [Mount::new(), Mount::new()];
    let [first, second] = mounts.each_ref().map(|mount| open_to_all(env, mount, "device"));
    let all: Vec<&Env> = [&first, &second, env].into_iter().filter(|env| env.device.exists()).collect();
    let mut reach = Reach::new(&all);
    let states = |first, others| [vec![first], vec![others; all.len() - 1]].concat();
    let everywhere = env.driver(Difference::FreezeMount) == Driver::C;
    assert_eq!(reach.frozen(), states(false, false));
    assert_eq!(freeze(&first, reach.peer.pid()), Ok(0));
    assert_eq!(reach.frozen(), states(true, everywhere));
    assert_eq!(told(&second, 0, reach.peer.pid()), ALLOWED);
    assert_eq!(reach.frozen(), states(!everywhere, false));
}

fn all_that_a_process_has_open_in_the_mount_is_frozen(env: &Env) {
    let mount = Mount::new();
    let [one, two] = ["one", "two"].map(|name| open_to_all(env, &mount, name));
    let mut reach = Reach::new(&[&one, &two]);
    assert_eq!(freeze(&one, reach.peer.pid()), Ok(0));
    assert_eq!(reach.frozen(), [true; 2]);
}

/// A user can have a mount in a user namespace, and a pid namespace in which there is nothing but what it starts.
fn a_mount_of_ones_own_reaches_no_other(env: &Env) {
    let mount = Mount::new();
    let there = open_to_all(env, &mount, "device");
    let mut reach = Reach::new(&[&there]);
    let pid = reach.peer.pid();
    Peer::start(&there, |there, _| {
        nix::unistd::setresuid(Uid::from_raw(ONE), Uid::from_raw(ONE), Uid::from_raw(ONE)).expect("setresuid");
        become_root_of_a_user_namespace();
        let own = Mount::new();
        own.make("device");
        let own = Binder::open(&own.at("device")).expect("open");
        assert_eq!(thaw_and_ask(&own, nix::unistd::getpid().as_raw()), ALLOWED);
        assert_eq!(thaw_and_ask(&own, pid), out_of_reach(there));
        // Nor is it of use on a device of the other.
        let theirs = Binder::open(&there.device).expect("open");
        assert_eq!(thaw_and_ask(&theirs, pid), refused(there));
        if there.driver(Difference::FreezeMount) == Driver::Ours {
            let mut info = FreezeInfo { pid: pid as u32, enable: 1, timeout_ms: 0 };
            assert_eq!(own.ioctl(uapi::BINDER_FREEZE, &mut info), Err(Errno::EINVAL));
        }
    })
    .join();
    assert_eq!(reach.frozen(), [false]);
}

/// A process that may mount in the namespace may freeze in the mount.
fn root_of_the_mounts_user_namespace_may(env: &Env) {
    let peer = Peer::start(env, |env, line| {
        unshare(CloneFlags::CLONE_NEWUSER).expect("unshare");
        line.say(0).expect("the test is there");
        line.hear().expect("the test is there");
        nix::unistd::setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0)).expect("setresgid");
        nix::unistd::setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).expect("setresuid");
        let mount = Mount::new();
        let device = open_to_all(env, &mount, "device");
        let others = with_open(&[(&device, ONE)]);
        assert_eq!(told(&device, 0, others.pid()), ALLOWED);
        assert_eq!(told(&device, ONE, others.pid()), ALLOWED);
        assert_eq!(told(&device, TWO, others.pid()), refused(env));
        // Not even root's processes are a matter of the number: in a namespace within, root is another.
        let roots = with_open(&[(&device, 0)]);
        Peer::start(&device, |device, _| {
            nix::unistd::setresuid(Uid::from_raw(TWO), Uid::from_raw(TWO), Uid::from_raw(TWO)).expect("setresuid");
            become_root_of_a_user_namespace();
            let binder = Binder::open(&device.device).expect("open");
            assert_eq!(thaw_and_ask(&binder, roots.pid()), refused(device));
        })
        .join();
        line.say(others.pid() as u64).expect("the test is there");
        line.hear().expect("the test is there");
    });
    peer.hear();
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{map}", peer.pid()), "0 100000 10000").expect("a map");
    }
    peer.say(0);
    let others = peer.hear() as i32;
    // Root of the machine is root of all of its namespaces.
    let path = format!("/proc/{}/root/tmp", peer.pid());
    let mut mount = fs::read_dir(&path).expect("a directory").flatten().map(|entry| entry.path().join("device"));
    let device = mount.find(|path| path.exists()).expect("the device there");
    assert_eq!(thaw_and_ask(&Binder::open(&device).expect("open"), others), ALLOWED);
    peer.say(0);
    peer.join();
}

fn the_managers_user_may(env: &Env) {
    let mount = Mount::new();
    let device = open_to_all(env, &mount, "device");
    let (roots, twos) = (with_open(&[(&device, 0)]), with_open(&[(&device, TWO)]));
    let told = |user| [&roots, &twos].map(|peer| told(&device, user, peer.pid()));
    assert_eq!(told(ONE), [refused(env); 2]);
    let registry = as_user(ONE, || Registry::start(&device));
    assert_eq!(told(ONE), [ALLOWED; 2]);
    assert_eq!(told(TWO), [refused(env), ALLOWED]);
    // While it is away, which may be just when something has to thaw, it is the manager's user all the same.
    registry.kill(&mut End::open(&device));
    assert_eq!(told(ONE), [ALLOWED; 2]);
    assert_eq!(told(TWO), [refused(env), ALLOWED]);
}

/// Every user can become the manager of a device that has none. What else is in the mount is not theirs for that.
fn the_manager_of_a_device_that_had_none_may_not(env: &Env) {
    let mount = Mount::new();
    let [managed, free, unmanaged] = ["managed", "free", "unmanaged"].map(|name| open_to_all(env, &mount, name));
    let _registry = Registry::start(&managed);
    let _usurper = as_user(ONE, || Registry::start(&free));
    for (devices, wanted) in [
        (&[(&managed, TWO), (&free, TWO)][..], refused(env)),
        (&[(&free, TWO), (&managed, TWO)], refused(env)),
        (&[(&managed, TWO)], refused(env)),
        // One that is about to become a manager may be among these.
        (&[(&unmanaged, TWO)], refused(env)),
        (&[(&free, TWO)], ALLOWED),
        (&[(&free, TWO), (&unmanaged, TWO)], ALLOWED),
    ] {
        let peer = with_open(devices);
        for asked in [&managed, &free, &unmanaged] {
            assert_eq!(told(asked, ONE, peer.pid()), wanted);
        }
    }
}

fn what_never_had_a_manager_goes_with_the_rest(env: &Env) {
    let mount = Mount::new();
    let [managed, free] = ["managed", "free"].map(|name| open_to_all(env, &mount, name));
    let _registry = as_user(ONE, || Registry::start(&managed));
    let peer = with_open(&[(&free, TWO), (&managed, TWO), (&free, 0)]);
    for asked in [&managed, &free] {
        assert_eq!(told(asked, ONE, peer.pid()), ALLOWED);
        assert_eq!(told(asked, TWO, peer.pid()), refused(env));
    }
    let peer = with_open(&[(&free, TWO)]);
    for asked in [&managed, &free] {
        assert_eq!(told(asked, ONE, peer.pid()), refused(env));
        assert_eq!(told(asked, TWO, peer.pid()), ALLOWED);
    }
}

fn the_devices_of_a_mount_that_is_detached(env: &Env) {
    let mount = Mount::new();
    let [one, two] = ["one", "two"].map(|name| open_to_all(env, &mount, name));
    let other = Mount::new();
    let elsewhere = Binder::open(&open_to_all(env, &other, "device").device).expect("open");
    let peer = with_open(&[(&one, ONE)]);
    let binder = Binder::open(&two.device).expect("open");
    nix::unistd::unlink(&one.device).expect("unlink");
    mount.detach();
    assert_eq!(thaw_and_ask(&binder, peer.pid()), ALLOWED);
    assert_eq!(as_user(TWO, || thaw_and_ask(&binder, peer.pid())), refused(env));
    assert_eq!(thaw_and_ask(&elsewhere, peer.pid()), out_of_reach(env));
}
