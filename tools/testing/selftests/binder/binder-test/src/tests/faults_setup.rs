// SPDX-License-Identifier: GPL-2.0

//! Every allocation and every user copy fails in turn: open, mmap, poll, references, notification requests, binderfs,
//! and module load.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;

use binder_client::Binder;
use binder_client::Call;
use binder_client::Commands;
use binder_client::Mapping;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::kmod::DeleteModuleFlags;
use nix::kmod::ModuleInitFlags;
use nix::kmod::delete_module;
use nix::kmod::finit_module;
use nix::mount::MntFlags;
use nix::mount::MsFlags;
use nix::mount::mount;
use nix::mount::umount2;
use nix::sys::epoll::Epoll;
use nix::sys::epoll::EpollCreateFlags;
use nix::sys::epoll::EpollEvent;
use nix::sys::epoll::EpollFlags;
use nix::sys::epoll::EpollTimeout;
use nix::sys::stat::Mode;

use super::tests;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::node;
use crate::fixture::until;
use crate::inject::Faults;
use crate::inject::Live;
use crate::mounts::BINDER_CTL_ADD;
use crate::mounts::DeviceRequest;
use crate::mounts::Mount;

tests! { Faults, "faults":
    open,
    map,
    first_ioctl_of_a_thread,
    become_manager,
    epoll,
    references,
    death_notifications,
    freeze_notifications,
    mounting,
    adding_a_device,
    loading_the_module,
}

const LEN: usize = 64 << 10;

/// What system calls say whose allocations and copies fail.
const EXPECTED: &[Errno] = &[Errno::ENOMEM, Errno::EFAULT];

#[track_caller]
fn expected<T>(result: &nix::Result<T>, also: &[Errno]) {
    if let Err(errno) = result {
        assert!(EXPECTED.contains(errno) || also.contains(errno), "{errno}");
    }
}

fn open(env: &Env) {
    let faults = Faults::new(env);
    let live = Live::now();
    let path = CString::new(env.device.to_str().expect("a path")).expect("a path");
    faults.walk("open", |shot| {
        let opened = shot.at(|| nix::fcntl::open(path.as_c_str(), OFlag::O_RDWR, Mode::empty()));
        expected(&opened, &[Errno::ENFILE]);
        if let Ok(file) = opened {
            assert_eq!(Binder::from_file(File::from(file)).version(), Ok(uapi::BINDER_CURRENT_PROTOCOL_VERSION));
        }
        Live::again(&live, "open");
    });
}

fn map(env: &Env) {
    let faults = Faults::new(env);
    let live = Live::now();
    faults.walk("mmap", |shot| {
        let binder = Binder::open(&env.device).expect("open");
        let mapped = shot.at(|| Mapping::of_device(&binder, LEN));
        expected(&mapped, &[]);
        if mapped.is_err() {
            // It can be tried again.
            Mapping::of_device(&binder, LEN).expect("mmap");
        }
        drop(mapped);
        drop(binder);
        Live::again(&live, "mmap");
    });
}

fn first_ioctl_of_a_thread(env: &Env) {
    let faults = Faults::new(env);
    let live = Live::now();
    faults.walk("BINDER_VERSION", |shot| {
        let binder = Binder::open(&env.device).expect("open");
        let mut version = 0i32;
        let result = shot.at(|| binder.ioctl(uapi::BINDER_VERSION, &mut version));
        expected(&result, &[Errno::EINVAL]);
        assert_eq!(binder.version(), Ok(uapi::BINDER_CURRENT_PROTOCOL_VERSION));
        drop(binder);
        Live::again(&live, "BINDER_VERSION");
    });
}

fn become_manager(env: &Env) {
    let faults = Faults::new(env);
    let live = Live::now();
    faults.walk("BINDER_SET_CONTEXT_MGR", |shot| {
        let binder = Binder::open(&env.device).expect("open");
        let result = shot.at(|| binder.ioctl(uapi::BINDER_SET_CONTEXT_MGR, &mut 0i32));
        expected(&result, &[]);
        if result.is_err() {
            assert_eq!(binder.become_manager(), Ok(()));
        }
        drop(binder);
        Live::again(&live, "BINDER_SET_CONTEXT_MGR");
    });
}

fn epoll(env: &Env) {
    let faults = Faults::new(env);
    let mut pair = Pair::new(env);
    let live = Live::now();
    faults.walk("EPOLL_CTL_ADD", |shot| {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll_create");
        let event = || EpollEvent::new(EpollFlags::EPOLLIN, 7);
        let added = shot.at(|| epoll.add(pair.server.binder().as_fd(), event()));
        expected(&added, &[]);
        if added.is_err() {
            epoll.add(pair.server.binder().as_fd(), event()).expect("EPOLL_CTL_ADD");
        }
        pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
        let mut events = [EpollEvent::empty()];
        assert_eq!(epoll.wait(&mut events, EpollTimeout::NONE), Ok(1));
        let received = pair.server.expect_transaction();
        pair.server.give_back(&received);
        pair.server.answer(&Parcel::new());
        let reply = pair.client.expect_reply();
        pair.client.give_back(&reply);
        drop(epoll);
        Live::again(&live, "EPOLL_CTL_ADD");
    });
}

/// The client gets a handle that only a buffer holds, gives the references in question while something fails, and gives the
/// buffer back: whether it has a reference then, the owner knows.
fn references(env: &Env) {
    let faults = Faults::new(env);
    let mut pair = Pair::new(env);
    pair.check();
    let live = Live::now();
    let mut number = 0;
    faults.walk("BC_ACQUIRE", |shot| {
        number += 1;
        let ours = node(0x2000 + number);
        pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
        let received = pair.server.expect_transaction();
        pair.server.give_back(&received);
        pair.server.start_reply(Call::reply(&Parcel::from_object(&object::binder(ours.ptr, ours.cookie))));
        assert_eq!(pair.server.next(), Ok(Return::IncRefs(ours)));
        assert_eq!(pair.server.next(), Ok(Return::Acquire(ours)));
        assert_eq!(pair.server.next(), Ok(Return::TransactionComplete));
        pair.server.queue().increfs_done(ours).acquire_done(ours);
        pair.server.flush().expect("BC_ACQUIRE_DONE");
        let reply = pair.client.expect_reply();
        let payload = pair.client.payload(&reply).expect("a readable reply");
        let handle = payload.flat(0).and_then(|object| object.as_handle()).expect("a handle");

        let mut commands = Commands::new();
        commands.acquire(handle);
        let bytes = commands.bytes().to_vec();
        let (result, _) = shot.at(|| pair.client.binder().write_read(&bytes, &mut []));
        expected(&result, &[]);
        pair.client.give_back(&reply);
        let mut told = pair.server.drain();
        if result.is_ok() {
            assert_eq!(told, []);
        }
        if told.is_empty() {
            pair.client.queue().release(handle);
            pair.client.flush().expect("BC_RELEASE");
            told = pair.server.drain();
        }
        assert_eq!(told, [Return::Release(ours), Return::DecRefs(ours)]);
        pair.check();
        Live::again(&live, "BC_ACQUIRE");
    });
}

/// Whether the driver says that a command was not carried out. It says so without the number that should follow.
#[track_caller]
fn refused(end: &End) -> bool {
    let mut room = [0; 256];
    let (result, progress) = end.binder().write_read(&[], &mut room);
    match result {
        Err(Errno::EAGAIN) => false,
        Ok(()) if room[..progress.read] == [uapi::BR_NOOP.to_ne_bytes(), uapi::BR_ERROR.to_ne_bytes()].concat() => true,
        other => panic!("{other:?}, {:?}", &room[..progress.read]),
    }
}

fn death_notifications(env: &Env) {
    let faults = Faults::new(env);
    let pair = Pair::new(env);
    let mut client = pair.client.enter();
    let live = Live::now();
    // Request a notification; the death of the node's owner then shows whether the request was recorded.
    faults.walk("BC_REQUEST_DEATH_NOTIFICATION", |shot| {
        let (server, handle) = pair.registry.another(env, &mut client);
        let mut commands = Commands::new();
        commands.request_death(handle, 0xdead);
        let bytes = commands.bytes().to_vec();
        let (result, _) = shot.at(|| client.binder().write_read(&bytes, &mut []));
        expected(&result, &[]);
        let refused = refused(&client);
        assert!(shot.fired() || !refused && result.is_ok(), "{result:?}");
        drop(server);
        // The end of the server comes a little later than its file's.
        let told = if refused || result.is_err() { client.drain() } else { vec![client.wait()] };
        match &told[..] {
            [Return::DeadBinder(0xdead)] if !refused => {
                client.queue().dead_binder_done(0xdead);
            }
            [] if refused || result.is_err() => {}
            other => panic!("{result:?}, {refused}, {other:x?}"),
        }
        client.queue().release(handle);
        client.flush().expect("BC_RELEASE");
        assert_eq!(client.drain(), []);
        Live::again(&live, "BC_REQUEST_DEATH_NOTIFICATION");
    });
    // And taking it back.
    faults.walk("BC_CLEAR_DEATH_NOTIFICATION", |shot| {
        let (server, handle) = pair.registry.another(env, &mut client);
        client.queue().request_death(handle, 0xdead);
        client.flush().expect("BC_REQUEST_DEATH_NOTIFICATION");
        let mut commands = Commands::new();
        commands.clear_death(handle, 0xdead);
        let bytes = commands.bytes().to_vec();
        let (result, _) = shot.at(|| client.binder().write_read(&bytes, &mut []));
        expected(&result, &[]);
        let cleared = client.drain();
        match &cleared[..] {
            [Return::ClearDeathNotificationDone(0xdead)] => {}
            [] if shot.fired() => {
                client.queue().clear_death(handle, 0xdead);
                client.flush().expect("BC_CLEAR_DEATH_NOTIFICATION");
                assert_eq!(client.drain(), [Return::ClearDeathNotificationDone(0xdead)]);
            }
            other => panic!("{other:x?}"),
        }
        drop(server);
        client.queue().release(handle);
        client.flush().expect("BC_RELEASE");
        assert_eq!(client.drain(), []);
        Live::again(&live, "BC_CLEAR_DEATH_NOTIFICATION");
    });
}

fn freeze_notifications(env: &Env) {
    let faults = Faults::new(env);
    let pair = Pair::new(env);
    let mut client = pair.client.enter();
    let live = Live::now();
    faults.walk("BC_REQUEST_FREEZE_NOTIFICATION", |shot| {
        let (server, handle) = pair.registry.another(env, &mut client);
        let mut commands = Commands::new();
        commands.request_freeze(handle, 0xf0);
        let bytes = commands.bytes().to_vec();
        let (result, _) = shot.at(|| client.binder().write_read(&bytes, &mut []));
        expected(&result, &[]);
        let state = client.drain();
        match &state[..] {
            [Return::FrozenBinder(state)] => {
                assert_eq!((state.cookie, state.is_frozen), (0xf0, 0));
                client.queue().freeze_done(0xf0).clear_freeze(handle, 0xf0);
                client.flush().expect("BC_CLEAR_FREEZE_NOTIFICATION");
                assert_eq!(client.drain(), [Return::ClearFreezeNotificationDone(0xf0)]);
            }
            [] if shot.fired() && result.is_err() => {}
            other => panic!("{other:x?}"),
        }
        drop(server);
        client.queue().release(handle);
        client.flush().expect("BC_RELEASE");
        assert_eq!(client.drain(), []);
        Live::again(&live, "BC_REQUEST_FREEZE_NOTIFICATION");
    });
}

fn mounting(env: &Env) {
    let faults = Faults::new(env);
    // For a mount namespace of its own, and a place.
    let first = Mount::new();
    let place = std::env::temp_dir().join("binderfs-faults");
    std::fs::create_dir_all(&place).expect("a directory to mount on");
    faults.walk("mount", |shot| {
        let mounted = shot.at(|| mount(Some("binder"), &place, Some("binder"), MsFlags::empty(), Some("max=9")));
        expected(&mounted, &[Errno::EINVAL, Errno::ENOSPC]);
        assert!(shot.fired() || mounted.is_ok(), "{mounted:?}");
        if mounted.is_ok() {
            umount2(&place, MntFlags::empty()).expect("umount");
        }
    });
    drop(first);
    // What is there is whole.
    let mount = Mount::new();
    let device = mount.make("after");
    assert!(Binder::open(&device).is_ok());
}

fn adding_a_device(env: &Env) {
    let faults = Faults::new(env);
    let mount = Mount::new();
    let control = mount.control();
    let mut number = 0;
    faults.walk("BINDER_CTL_ADD", |shot| {
        number += 1;
        let name = format!("device-{number}");
        let mut request = DeviceRequest::new(name.as_bytes());
        let added = shot.at(|| control.ioctl(BINDER_CTL_ADD, &mut request));
        expected(&added, &[]);
        // Either it is there and works, or its name is free.
        if added.is_err() && !mount.at(&name).exists() {
            mount.make(&name);
        }
        assert!(Binder::open(&mount.at(&name)).is_ok());
        std::fs::remove_file(mount.at(&name)).expect("unlink");
    });
}

fn loading_the_module(env: &Env) {
    let faults = Faults::new(env);
    let Some(path) = &env.module else { env.skip("no --module given") };
    let file = File::open(path).expect("the module's file");
    let name = path.file_stem().and_then(|name| name.to_str()).expect("a module's name").replace('-', "_");
    let name = CString::new(name).expect("a module's name");
    let parameters = CString::new(env.module_params.as_str()).expect("parameters");
    let unload = || until(|| delete_module(&name, DeleteModuleFlags::O_NONBLOCK).is_ok());
    unload();
    // Reading and linking the file is the kernel's own business, and has thousands of places.
    faults.only_below("do_init_module");
    faults.walk("init_module", |shot| {
        let loaded = shot.at(|| finit_module(file.as_fd(), &parameters, ModuleInitFlags::empty()));
        expected(&loaded, &[Errno::ENOEXEC, Errno::EINVAL, Errno::EEXIST, Errno::ENOSPC]);
        assert_eq!(env.device.exists(), loaded.is_ok(), "{loaded:?}");
        if loaded.is_ok() {
            assert!(Binder::open(&env.device).is_ok());
            unload();
        }
    });
    finit_module(file.as_fd(), &parameters, ModuleInitFlags::empty()).expect("the module can be loaded");
}
