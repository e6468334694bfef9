// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading the module. These tests need `--module` and run last.

use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use binder_client::Binder;
use binder_client::Call;
use binder_client::LIBBINDER_MAPPING;
use binder_client::Parcel;
use nix::errno::Errno;
use nix::kmod::DeleteModuleFlags;
use nix::kmod::ModuleInitFlags;
use nix::kmod::delete_module;
use nix::kmod::finit_module;

use super::freeze_rights::Reach;
use super::freeze_rights::freeze;
use super::in_flight::leave_circles;
use super::reclaim::squeeze;
use super::tests;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::fixture::until;
use crate::hostile::PAGE;
use crate::hostile::Torn;
use crate::mounts::Mount;
use crate::mounts::open_error;
use crate::trace::Trace;
use crate::uevents::Uevents;

tests! { Core, "module":
    unload_and_load,
    unload_is_refused_while_open,
    unload_is_refused_while_mapped,
    unload_is_refused_while_a_read_waits,
    unload_after_everything_was_used,
    unload_after_processes_were_killed,
    unload_after_files_were_sent_in_circles,
    unload_with_pages_reclaimed,
    unload_while_events_are_traced,
    devices_come_and_go,
    devices_are_one_mount,
    names_that_cannot_be_devices,
    a_load_with_a_name_that_is_taken_makes_no_node,
    a_load_without_the_file_system_makes_no_node,
    nothing_can_be_used_before_all_is_there,
    names_of_devices_at_their_limits,
    load_twice_is_refused,
}

/// The driver's module.
pub struct Module<'a> {
    env: &'a Env,
    file: File,
    name: CString,
}

impl<'a> Module<'a> {
    /// The module, loaded. Where it cannot be unloaded there is nothing to test but that.
    pub fn of(env: &'a Env) -> Self {
        let Some(path) = &env.module else { env.skip("no --module given") };
        let file = File::open(path).expect("the module's file");
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a module's name").replace('-', "_");
        let module = Module { env, file, name: CString::new(name).expect("a module's name") };
        if !env.device.exists() {
            module.load();
        }
        module
    }

    /// The same driver once more, for modules are told apart by their names. It is not loaded.
    fn twin(&self) -> Self {
        let mut image = fs::read(self.env.module.as_ref().expect("a module")).expect("the module's file");
        let name = self.name.to_bytes();
        let mut renamed = name.to_vec();
        *renamed.last_mut().expect("a name") = b'2';
        let mut at = 0;
        while let Some(bytes) = image.get_mut(at..at + name.len()) {
            if bytes == name {
                bytes.copy_from_slice(&renamed);
            }
            at += 1;
        }
        let path = std::env::temp_dir().join(format!("twin-{}.ko", std::process::id()));
        fs::write(&path, image).expect("a file");
        let file = File::open(&path).expect("the file");
        fs::remove_file(path).expect("the file");
        Self { env: self.env, file, name: CString::new(renamed).expect("a name") }
    }

    /// Loads it with other parameters.
    pub fn load_with(&self, parameters: &str) -> nix::Result<()> {
        self.load_file(&self.file, parameters)
    }

    /// Loads another file in its place.
    pub fn load_file(&self, file: &File, parameters: &str) -> nix::Result<()> {
        let parameters = CString::new(parameters).expect("parameters");
        finit_module(file.as_fd(), &parameters, ModuleInitFlags::empty())
    }

    /// Loads it.
    #[track_caller]
    pub fn load(&self) {
        assert_eq!(self.load_with(&self.env.module_params), Ok(()));
        assert!(self.env.device.exists());
    }

    /// Unloads it, unless it is in use.
    pub fn unload(&self) -> nix::Result<()> {
        delete_module(&self.name, DeleteModuleFlags::O_NONBLOCK)
    }

    /// Unloads it as soon as the driver has let go of what was closed.
    pub fn unload_eventually(&self) {
        until(|| match self.unload() {
            Ok(()) => true,
            Err(Errno::EWOULDBLOCK) => false,
            Err(errno) => panic!("{errno}"),
        });
        assert!(!self.env.device.exists());
    }

    /// The C driver has no way out: it can be loaded and stays.
    pub fn stays(&self) -> bool {
        let stays = self.env.driver(Difference::Unload) == Driver::C;
        if stays {
            assert_eq!(self.unload(), Err(Errno::EBUSY));
        }
        stays
    }
}

fn unload_and_load(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    for _ in 0..5 {
        module.unload_eventually();
        assert_eq!(Binder::open(&env.device).err().and_then(|error| error.errno()), Some(Errno::ENOENT));
        module.load();
        assert_eq!(Binder::open(&env.device).expect("open").version(), Ok(8));
    }
}

fn unload_is_refused_while_open(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    let binder = Binder::open(&env.device).expect("open");
    for _ in 0..3 {
        assert_eq!(module.unload(), Err(Errno::EWOULDBLOCK));
    }
    // The refusal has broken nothing.
    assert_eq!(binder.version(), Ok(8));
    Pair::new(env).check();
    drop(binder);
    module.unload_eventually();
    module.load();
}

fn unload_is_refused_while_mapped(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    let binder = Binder::open(&env.device).expect("open");
    let torn = Torn::map(binder.as_fd(), 4 * PAGE);
    drop(binder);
    assert_eq!(module.unload(), Err(Errno::EWOULDBLOCK));
    torn.unmap(1..2);
    assert_eq!(module.unload(), Err(Errno::EWOULDBLOCK));
    torn.unmap(0..1);
    torn.unmap(2..4);
    module.unload_eventually();
    module.load();
}

fn unload_is_refused_while_a_read_waits(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    let mut peer = Peer::start(env, |env, _| {
        let mut end = End::open(env).enter();
        end.set_blocking(true);
        let never = end.next();
        panic!("{never:?}");
    });
    crate::fixture::until_in_ioctl(peer.pid(), peer.pid());
    assert_eq!(module.unload(), Err(Errno::EWOULDBLOCK));
    peer.kill();
    module.unload_eventually();
    module.load();
}

/// A little of everything.
pub fn use_it(env: &Env) {
    let mut pair = Pair::new(env);
    pair.check();
    let bytes = super::transaction::pattern(200_000, 3);
    let (there, _) = pair.round(&Parcel::from_bytes(&bytes), &Parcel::from_bytes(&bytes));
    assert!(there.data == bytes);
    for number in 0..20 {
        pair.client.start_one_way(Call::new(pair.handle, number, &Parcel::from_bytes(&[1; 3000])));
    }
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(b"never answered")));
}

fn unload_after_everything_was_used(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    for _ in 0..5 {
        use_it(env);
        module.unload_eventually();
        module.load();
    }
}

fn unload_after_processes_were_killed(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    for _ in 0..5 {
        let registry = Registry::start(env);
        let mut peers: Vec<Peer> = (0..4)
            .map(|number| {
                Peer::start(env, |env, line| {
                    let mut end = End::open(env);
                    line.say(0).expect("the test is there");
                    for turn in 0u64.. {
                        registry.put(&mut end, number, binder_client::object::binder(turn * 8 + 8, turn));
                    }
                })
            })
            .collect();
        for peer in &peers {
            peer.hear();
        }
        peers.iter_mut().for_each(Peer::kill);
        registry.kill(&mut End::open(env));
        module.unload_eventually();
        module.load();
    }
}

fn unload_after_files_were_sent_in_circles(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    leave_circles(env);
    module.unload_eventually();
    module.load();
}

fn unload_with_pages_reclaimed(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    for _ in 0..5 {
        let mut pair = Pair::sized(env, LIBBINDER_MAPPING, LIBBINDER_MAPPING);
        pair.round(&Parcel::from_bytes(&vec![1; LIBBINDER_MAPPING]), &Parcel::from_bytes(&vec![1; LIBBINDER_MAPPING]));
        squeeze();
        pair.check();
        drop(pair);
        module.unload_eventually();
        squeeze();
        module.load();
    }
}

fn unload_while_events_are_traced(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    let Some(trace) = Trace::start() else { env.skip("this kernel has no tracepoints") };
    for _ in 0..3 {
        use_it(env);
        assert!(!trace.of("binder_rs_transaction").is_empty());
        module.unload_eventually();
        // The kernel discards events whose format went with the module.
        assert_eq!(trace.events(), []);
        module.load();
        trace.enable();
    }
}

fn devices_come_and_go(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    module.unload_eventually();
    let there = |name: &str| Path::new("/dev").join(name).exists();
    assert_eq!(module.load_with("devices=one,two,three"), Ok(()));
    assert!(there("one") && there("two") && there("three") && !env.device.exists());
    // Each has a manager of its own.
    let one = Env { device: "/dev/one".into(), ..env.clone() };
    let two = Env { device: "/dev/two".into(), ..env.clone() };
    Pair::new(&one).check();
    let _first = Registry::start(&one);
    let _second = Registry::start(&two);
    drop((_first, _second));
    module_gone(&module);
    assert!(!there("one") && !there("two") && !there("three"));
    module.load();
}

/// Which processes `BINDER_FREEZE` reaches does not depend on the device.
fn devices_are_one_mount(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    module.unload_eventually();
    assert_eq!(module.load_with("devices=one,two,three"), Ok(()));
    let [one, two, three] =
        ["/dev/one", "/dev/two", "/dev/three"].map(|device| Env { device: device.into(), ..env.clone() });
    let mut reach = Reach::new(&[&one, &two]);
    assert_eq!(freeze(&three, reach.peer.pid()), Ok(0));
    assert_eq!(reach.frozen(), [true; 2]);
    drop(reach);
    module_gone(&module);
    module.load();
}

/// Unloads it as soon as nothing is open, whatever devices it has.
pub fn module_gone(module: &Module<'_>) {
    until(|| match module.unload() {
        Ok(()) => true,
        Err(Errno::EWOULDBLOCK) => false,
        Err(errno) => panic!("{errno}"),
    });
}

fn names_that_cannot_be_devices(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    module.unload_eventually();
    // A name that is there already: nothing may be left of what was made before it.
    assert!(module.load_with("devices=fresh,twice,twice").is_err());
    for name in ["fresh", "twice"] {
        assert!(!Path::new("/dev").join(name).exists());
    }
    module.load();
    Pair::new(env).check();
}

/// A misc device of the kernel's.
fn some_misc_device() -> String {
    let mut names = fs::read_dir("/sys/class/misc").expect("sysfs").flatten();
    names.next().expect("the kernel has misc devices").file_name().into_string().expect("a name")
}

/// What is wrong with the last name is found out before there is a node for the first.
fn a_load_with_a_name_that_is_taken_makes_no_node(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    module.unload_eventually();
    let uevents = Uevents::new();
    let taken = some_misc_device();
    let too_long = "n".repeat(256);
    for (last, errno) in [
        // The kernel keeps EEXIST for a module that is there.
        (taken.as_str(), Errno::EBUSY),
        ("fresh", Errno::EBUSY),
        ("..", Errno::EINVAL),
        ("a/b", Errno::EINVAL),
        (&too_long, Errno::EINVAL),
    ] {
        assert_eq!(module.load_with(&format!("devices=fresh,other,{last}")), Err(errno), "{last}");
        assert_eq!(uevents.of_misc_devices(), [""; 0], "{last}");
        assert!(!Path::new("/dev/fresh").exists());
    }
    // What a load that succeeds makes is told.
    assert_eq!(module.load_with("devices=fresh,other"), Ok(()));
    assert_eq!(uevents.of_misc_devices(), ["add@fresh", "add@other"]);
    module_gone(&module);
    module.load();
    Pair::new(env).check();
}

/// There can be only one file system `binder`.
fn a_load_without_the_file_system_makes_no_node(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    let twin = module.twin();
    let uevents = Uevents::new();
    for _ in 0..3 {
        assert_eq!(twin.load_with("devices=fresh"), Err(Errno::EBUSY));
        assert_eq!(uevents.of_misc_devices(), [""; 0]);
        assert!(!Path::new("/dev/fresh").exists());
        Pair::new(env).check();
    }
    module.unload_eventually();
    assert_eq!(twin.load_with("devices=fresh"), Ok(()));
    Pair::new(&Env { device: "/dev/fresh".into(), ..env.clone() }).check();
    module_gone(&twin);
    module.load();
    Pair::new(env).check();
}

/// The kernel frees a module that cannot be loaded after all, whatever is open. So the first node is of no use before
/// the last one is there, nor is the file system.
fn nothing_can_be_used_before_all_is_there(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    let names: Vec<String> = (0..60).map(|number| format!("d{number}")).collect();
    let parameters = format!("devices={}", names.join(","));
    let all_there = || names.iter().all(|name| Path::new("/dev").join(name).exists());
    module.unload_eventually();
    for _ in 0..if env.thorough { 50 } else { 5 } {
        let opener = Peer::start(env, |_, line| {
            line.say(0).expect("the test is there");
            let first = Path::new("/dev/d0");
            loop {
                match open_error(first) {
                    None => break,
                    Some(Errno::ENOENT | Errno::ENODEV) => {}
                    Some(errno) => panic!("{errno}"),
                }
            }
            assert!(all_there(), "a device could be opened");
        });
        let mounter = Peer::start(env, |_, line| {
            line.say(0).expect("the test is there");
            loop {
                match Mount::with("") {
                    Ok(_) => break,
                    Err(Errno::ENODEV) => {}
                    Err(errno) => panic!("{errno}"),
                }
            }
            assert!(all_there(), "the file system could be mounted");
        });
        opener.hear();
        mounter.hear();
        assert_eq!(module.load_with(&parameters), Ok(()));
        opener.join();
        mounter.join();
        module_gone(&module);
    }
    module.load();
    Pair::new(env).check();
}

fn names_of_devices_at_their_limits(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    module.unload_eventually();
    let name = |length| "x".repeat(length);
    let many = (0..200).map(|number| format!("d{number}")).collect::<Vec<_>>().join(",");
    for (devices, wanted) in [
        (String::new(), Ok(())),
        (",".repeat(1000), Ok(())),
        (many, Ok(())),
        (name(1), Ok(())),
        (name(127), Ok(())),
        (name(128), Ok(())),
        (name(255), Ok(())),
        // No file has such a name.
        (name(256), Err(Errno::EINVAL)),
        (name(1000), Err(Errno::EINVAL)),
        (format!("fresh,{}", name(256)), Err(Errno::EINVAL)),
        // No parameter is as long.
        (name(1025), Err(Errno::ENOSPC)),
    ] {
        assert_eq!(module.load_with(&format!("devices={devices}")), wanted, "{devices}");
        let exists = |name: &str| Path::new("/dev").join(name).exists();
        assert!(devices.split(',').all(|name| name.is_empty() || exists(name) == wanted.is_ok()), "{devices}");
        if wanted.is_ok() {
            until(|| module.unload().is_ok());
        }
    }
    module.load();
    Pair::new(env).check();
}

fn load_twice_is_refused(env: &Env) {
    let module = Module::of(env);
    assert_eq!(module.load_with(&env.module_params), Err(Errno::EEXIST));
    Pair::new(env).check();
}
