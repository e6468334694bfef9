// SPDX-License-Identifier: GPL-2.0

//! Which users may freeze a process, by the credentials of caller, process and context manager.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;

use binder_client::Binder;
use binder_client::Call;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::FreezeInfo;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sched::unshare;
use nix::sys::stat::Mode;
use nix::sys::stat::SFlag;
use nix::sys::stat::mknod;
use nix::unistd::Uid;
use nix::unistd::seteuid;

use super::freeze::thaw_and_ask;
use super::tests;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::kernel::Trace;
use crate::mounts::become_root_of_a_user_namespace;

tests! { Interface, "freeze_rights":
    a_user_may_freeze_its_own_processes,
    a_user_that_opened_the_file_counts_and_not_what_it_became,
    rights_given_up_since_the_open_are_given_up,
    a_process_with_a_file_of_another_user_is_not_ones_own,
    the_managers_user_may_freeze_without_a_capability,
    capabilities_of_another_user_namespace_do_not_count,
    the_capability_is_asked_for_where_nothing_else_suffices,
    a_user_without_rights_is_not_told_of_processes_that_are_not_there,
}

/// Does something as an effective user, without root's capabilities.
pub fn as_user<T>(id: u32, body: impl FnOnce() -> T) -> T {
    seteuid(Uid::from_raw(id)).expect("the test runs as root");
    let result = body();
    seteuid(Uid::from_raw(0)).expect("it was root");
    result
}

/// Users of no meaning.
pub const ONE: u32 = 4711;
pub const TWO: u32 = 4712;

/// The device under a name at which every user may open it.
struct OpenToAll(Env);

impl OpenToAll {
    fn new(env: &Env) -> Self {
        let path = std::env::temp_dir().join(format!("binder-{}", nix::unistd::getpid()));
        let number = fs::metadata(&env.device).map(|stat| stat.rdev());
        mknod(&path, SFlag::S_IFCHR, Mode::empty(), number.expect("the device")).expect("mknod");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("chmod");
        Self(Env { device: path, ..env.clone() })
    }
}

impl Drop for OpenToAll {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0.device);
    }
}

/// A process that has devices open, each as some user.
pub fn with_open(devices: &[(&Env, u32)]) -> Peer {
    let (first, _) = devices.first().expect("a device");
    let peer = Peer::start(first, |_, line| {
        let ends: Vec<End> = devices.iter().map(|(env, id)| as_user(*id, || End::open(env))).collect();
        line.say(0).expect("the test is there");
        let _ = line.hear();
        drop(ends);
    });
    peer.hear();
    peer
}

/// Opens the device and freezes a process.
pub fn freeze(env: &Env, pid: i32) -> nix::Result<i32> {
    let mut info = FreezeInfo { pid: pid as u32, enable: 1, timeout_ms: 0 };
    Binder::open(&env.device).expect("open").ioctl(uapi::BINDER_FREEZE, &mut info)
}

/// Handles to nodes of one process, one on each of several devices.
pub struct Reach {
    clients: Vec<(End, u32)>,
    pub peer: Peer,
    _registries: Vec<Registry>,
}

impl Reach {
    /// A process that has all of these open.
    pub fn new(envs: &[&Env]) -> Self {
        let registries: Vec<Registry> = envs.iter().map(|env| Registry::start(env)).collect();
        let (first, _) = envs.split_first().expect("a device");
        let peer = Peer::start(first, |_, line| {
            let mut ends: Vec<End> = envs.iter().map(|env| End::open(env).enter()).collect();
            for (end, registry) in ends.iter_mut().zip(&registries) {
                registry.put(end, 1, object::binder(0x8000, 0x8008));
            }
            line.say(0).expect("the test is there");
            while line.hear().is_ok() {
                // Calls end when they are read.
                ends.iter_mut().for_each(|end| drop(end.drain()));
                line.say(0).expect("the test is there");
            }
        });
        peer.hear();
        let clients = envs.iter().zip(&registries).map(|(env, registry)| {
            let mut client = End::open(env).enter();
            let handle = registry.get(&mut client, 1);
            (client, handle)
        });
        Self { clients: clients.collect(), peer, _registries: registries }
    }

    /// On which of the devices it is frozen.
    pub fn frozen(&mut self) -> Vec<bool> {
        let is_frozen = |(client, handle): &mut (End, u32)| {
            client.start(Call::one_way(*handle, 1, &Parcel::new()));
            match client.drain()[..] {
                [Return::TransactionComplete] => false,
                [Return::TransactionPendingFrozen] => true,
                ref other => panic!("{other:x?}"),
            }
        };
        let frozen = self.clients.iter_mut().map(is_frozen).collect();
        self.peer.say(0);
        self.peer.hear();
        frozen
    }
}

/// What `BINDER_FREEZE` and `BINDER_GET_FROZEN_INFO` say where they may.
pub const ALLOWED: [nix::Result<i32>; 2] = [Ok(0); 2];

/// What they say to users without a right. With the C driver every user has it.
pub fn refused(env: &Env) -> [nix::Result<i32>; 2] {
    match env.driver(Difference::FreezeRights) {
        Driver::Ours => [Err(Errno::EPERM); 2],
        Driver::C => ALLOWED,
    }
}

/// The result of `BINDER_FREEZE` for a user that opens the device and names a process.
#[track_caller]
pub fn told(env: &Env, user: u32, pid: i32) -> [nix::Result<i32>; 2] {
    as_user(user, || thaw_and_ask(&Binder::open(&env.device).expect("open"), pid))
}

fn a_user_may_freeze_its_own_processes(env: &Env) {
    let device = OpenToAll::new(env);
    let env = &device.0;
    let mut reach = Reach::new(&[env]);
    let other = with_open(&[(env, ONE)]);
    assert_eq!(told(env, 0, other.pid()), ALLOWED);
    assert_eq!(told(env, ONE, other.pid()), ALLOWED);
    assert_eq!(told(env, TWO, other.pid()), refused(env));
    let roots = reach.peer.pid();
    for user in [ONE, TWO] {
        assert_eq!(told(env, user, roots), refused(env));
    }
    // Where a user is refused, nothing has changed.
    if env.driver(Difference::FreezeRights) == Driver::Ours {
        assert_eq!(as_user(ONE, || freeze(env, roots)), Err(Errno::EPERM));
        assert_eq!(reach.frozen(), [false]);
        assert_eq!(freeze(env, roots), Ok(0));
        assert_eq!(told(env, ONE, roots), refused(env));
        assert_eq!(reach.frozen(), [true]);
    }
}

fn a_user_that_opened_the_file_counts_and_not_what_it_became(env: &Env) {
    let device = OpenToAll::new(env);
    let env = &device.0;
    let peer = Peer::start(env, |env, line| {
        let end = as_user(ONE, || End::open(env));
        nix::unistd::setresuid(Uid::from_raw(TWO), Uid::from_raw(TWO), Uid::from_raw(TWO)).expect("setresuid");
        line.say(0).expect("the test is there");
        let _ = line.hear();
        drop(end);
    });
    peer.hear();
    assert_eq!(told(env, ONE, peer.pid()), ALLOWED);
    assert_eq!(told(env, TWO, peer.pid()), refused(env));
}

fn rights_given_up_since_the_open_are_given_up(env: &Env) {
    let device = OpenToAll::new(env);
    let env = &device.0;
    let (roots, ones) = (with_open(&[(env, 0)]), with_open(&[(env, ONE)]));
    let opened_by_root = Binder::open(&env.device).expect("open");
    let opened_by_one = as_user(ONE, || Binder::open(&env.device).expect("open"));
    assert_eq!(as_user(ONE, || thaw_and_ask(&opened_by_root, roots.pid())), refused(env));
    assert_eq!(as_user(TWO, || thaw_and_ask(&opened_by_root, ones.pid())), refused(env));
    assert_eq!(as_user(TWO, || thaw_and_ask(&opened_by_one, ones.pid())), refused(env));
    // And what was gained is had.
    assert_eq!(as_user(ONE, || thaw_and_ask(&opened_by_root, ones.pid())), ALLOWED);
    assert_eq!(thaw_and_ask(&opened_by_one, roots.pid()), ALLOWED);
}

fn a_process_with_a_file_of_another_user_is_not_ones_own(env: &Env) {
    let device = OpenToAll::new(env);
    let env = &device.0;
    // There is a manager, of root.
    let _registry = Registry::start(env);
    for users in [[ONE, 0], [0, ONE], [ONE, TWO]] {
        let peer = with_open(&users.map(|user| (env, user)));
        assert_eq!(told(env, ONE, peer.pid()), refused(env));
        assert_eq!(told(env, 0, peer.pid()), ALLOWED);
    }
    let peer = with_open(&[(env, ONE), (env, ONE)]);
    assert_eq!(told(env, ONE, peer.pid()), ALLOWED);
}

fn the_managers_user_may_freeze_without_a_capability(env: &Env) {
    let device = OpenToAll::new(env);
    let env = &device.0;
    let registry = Registry::start(env);
    let peer = with_open(&[(env, ONE)]);
    let ask = |id| {
        Peer::start(env, |env, _| {
            nix::unistd::setresuid(Uid::from_raw(id), Uid::from_raw(id), Uid::from_raw(id)).expect("setresuid");
            nix::sys::prctl::set_dumpable(true).expect("dumpable");
            // A user stays what it is in a user namespace of its own, and has no capability outside.
            unshare(CloneFlags::CLONE_NEWUSER).expect("unshare");
            let binder = Binder::open(&env.device).expect("open");
            let wanted = if id == 0 { ALLOWED } else { refused(env) };
            assert_eq!(thaw_and_ask(&binder, peer.pid()), wanted, "{id}");
        })
        .join();
    };
    ask(0);
    ask(TWO);
    // While it is away, which may be just when something has to thaw, it is the manager's user all the same.
    registry.kill(&mut End::open(env));
    ask(0);
    ask(TWO);
}

fn capabilities_of_another_user_namespace_do_not_count(env: &Env) {
    let device = OpenToAll::new(env);
    let env = &device.0;
    let _registry = Registry::start(env);
    let peer = with_open(&[(env, ONE)]);
    Peer::start(env, |env, _| {
        nix::unistd::setresuid(Uid::from_raw(TWO), Uid::from_raw(TWO), Uid::from_raw(TWO)).expect("setresuid");
        become_root_of_a_user_namespace();
        assert!(nix::unistd::geteuid().is_root());
        let binder = Binder::open(&env.device).expect("open");
        assert_eq!(thaw_and_ask(&binder, peer.pid()), refused(env));
    })
    .join();
}

/// A capability that is asked for is an audit record, and marks a process that has it as one that used it.
fn the_capability_is_asked_for_where_nothing_else_suffices(env: &Env) {
    // CAP_SYS_ADMIN.
    const FILTER: &str = "cap==21";

    let trace = Trace::new(env, "capable");
    if !trace.event("capability/cap_capable", FILTER) {
        env.skip("this kernel does not trace which capabilities are asked for");
    }
    trace.only(&[nix::unistd::getpid().as_raw()]);
    let device = OpenToAll::new(env);
    let env = &device.0;
    // The manager's user is root's.
    let _registry = Registry::start(env);
    let ones = with_open(&[(env, ONE)]);
    let ours = env.driver(Difference::FreezeRights) == Driver::Ours;
    for (user, wanted, asks) in [(0, ALLOWED, 0), (ONE, ALLOWED, 0), (TWO, refused(env), if ours { 2 } else { 0 })] {
        trace.during(|| assert_eq!(told(env, user, ones.pid()), wanted));
        assert_eq!(trace.events("cap_capable").len(), asks, "{user}");
    }
}

fn a_user_without_rights_is_not_told_of_processes_that_are_not_there(env: &Env) {
    let device = OpenToAll::new(env);
    let env = &device.0;
    let without = Peer::start(env, |_, line| {
        let _ = line.hear();
    });
    for user in [0, ONE] {
        assert_eq!(told(env, user, without.pid()), [Err(Errno::EINVAL); 2]);
        assert_eq!(told(env, user, 1), [Err(Errno::EINVAL); 2]);
    }
}
