// SPDX-License-Identifier: GPL-2.0

//! The ioctls other than `BINDER_WRITE_READ`, and unsupported file operations.

use std::fs::OpenOptions;
use std::io::Read;
use std::io::Seek;
use std::io::Write;

use binder_client::Binder;
use binder_client::Call;
use binder_client::Error;
use binder_client::LIBBINDER_MAPPING;
use binder_client::Parcel;
use binder_client::object;
use binder_client::uapi;
use nix::errno::Errno;
use nix::unistd;
use nix::unistd::Uid;

use super::tests;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::fixture::become_manager;
use crate::hostile;

tests! { Core, "ioctl":
    version_is_8,
    unknown_request_is_einval,
    known_request_with_another_size_is_einval,
    every_request_with_a_bad_address,
    max_threads_takes_any_number,
    second_manager_is_ebusy,
    manager_twice_by_the_same_file_is_ebusy,
    manager_ext_takes_the_flags,
    manager_of_another_user_is_eperm,
    manager_that_dies_makes_room,
    devices_node_is_zero_for_the_manager,
    thread_exit_then_going_on,
    thread_exit_twice,
    read_write_and_seek_are_refused,
    read_only_open_takes_ioctls,
    many_open_files,
}

fn unmapped(env: &Env) -> Binder {
    Binder::open(&env.device).expect("open")
}

fn version_is_8(env: &Env) {
    assert_eq!(unmapped(env).version(), Ok(uapi::BINDER_CURRENT_PROTOCOL_VERSION));
}

fn unknown_request_is_einval(env: &Env) {
    let binder = unmapped(env);
    // An unused number, a number of another kind of device, and one without a size.
    for request in [0x4004_62ff, 0xc004_6b09, 0x6209, 0x0000_6200, 0xffff_ffff] {
        assert_eq!(hostile::ioctl_at(&binder, request, 0), Err(Errno::EINVAL), "{request:#x}");
    }
}

fn known_request_with_another_size_is_einval(env: &Env) {
    let binder = unmapped(env);
    for (request, size) in [(uapi::BINDER_WRITE_READ, 24), (uapi::BINDER_VERSION, 8), (uapi::BINDER_SET_MAX_THREADS, 8)]
    {
        let other = (request & 0xc000_ffff) | (size << 16);
        assert_eq!(hostile::ioctl_at(&binder, other, 0), Err(Errno::EINVAL), "{request:#x}");
    }
}

fn every_request_with_a_bad_address(env: &Env) {
    let binder = unmapped(env);
    // Only the one that carries calls says EFAULT.
    let expected = [
        (uapi::BINDER_WRITE_READ, Errno::EFAULT),
        (uapi::BINDER_SET_MAX_THREADS, Errno::EINVAL),
        (uapi::BINDER_SET_CONTEXT_MGR_EXT, Errno::EINVAL),
        (uapi::BINDER_VERSION, Errno::EINVAL),
    ];
    for (request, errno) in expected {
        for address in hostile::NOWHERE {
            assert_eq!(hostile::ioctl_at(&binder, request, address), Err(errno), "{request:#x} at {address:#x}");
        }
    }
    assert_eq!(binder.version(), Ok(8));
}

fn max_threads_takes_any_number(env: &Env) {
    let binder = unmapped(env);
    for threads in [0, 1, 15, 1 << 31, u32::MAX, 0] {
        assert_eq!(binder.set_max_threads(threads), Ok(()));
    }
}

fn second_manager_is_ebusy(env: &Env) {
    let _registry = Registry::start(env);
    let other = unmapped(env);
    assert_eq!(other.become_manager().map_err(|error| error.errno()), Err(Some(Errno::EBUSY)));
    let with = other.become_manager_with(object::binder(0, 0));
    assert_eq!(with.map_err(|error| error.errno()), Err(Some(Errno::EBUSY)));
}

fn manager_twice_by_the_same_file_is_ebusy(env: &Env) {
    let binder = unmapped(env);
    become_manager(&binder);
    assert_eq!(binder.become_manager().map_err(|error| error.errno()), Err(Some(Errno::EBUSY)));
}

fn manager_ext_takes_the_flags(env: &Env) {
    // The place must be free, which the plain request can wait for and then give up.
    let first = unmapped(env);
    become_manager(&first);
    drop(first);
    let binder = Binder::open_mapped(&env.device, LIBBINDER_MAPPING).expect("open");
    let mut object = object::binder(0x7000, 0x8000);
    object.flags = uapi::FLAT_BINDER_FLAG_ACCEPTS_FDS | 0x7f;
    crate::fixture::until(|| match binder.become_manager_with(object) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.errno(), Some(Errno::EBUSY));
            false
        }
    });
    let peer = Peer::start(env, |env, _| {
        let mut end = End::open(env);
        let parcel = Parcel::from_bytes(b"call");
        let reply = end.blocking(|looper| looper.call(Call::new(0, 9, &parcel))).expect("a reply");
        assert_eq!(end.take(&reply).data, b"I");
    });
    let mut end = End::over(binder).enter();
    let received = end.wait_transaction();
    assert_eq!((received.target, received.cookie, received.code), (0x7000, 0x8000, 9));
    assert_eq!(end.take(&received).data, b"call");
    end.blocking(|looper| looper.reply(&Parcel::from_bytes(b"I"))).expect("BC_REPLY");
    peer.join();
}

fn manager_of_another_user_is_eperm(env: &Env) {
    // The first manager's user is the only one from then on.
    drop(Registry::start(env));
    let binder = unmapped(env);
    become_manager(&binder);
    drop(binder);
    let binder = unmapped(env);
    unistd::seteuid(Uid::from_raw(4711)).expect("the test runs as root");
    crate::fixture::until(|| {
        let errno = binder.become_manager().expect_err("another user's").errno();
        // Busy for as long as the one before is not gone.
        errno != Some(Errno::EBUSY) && {
            assert_eq!(errno, Some(Errno::EPERM));
            true
        }
    });
    unistd::seteuid(Uid::from_raw(0)).expect("back to root");
    assert_eq!(binder.become_manager(), Ok(()));
}

fn manager_that_dies_makes_room(env: &Env) {
    for _ in 0..3 {
        let mut end = End::open(env);
        let registry = Registry::start(env);
        registry.kill(&mut end);
    }
    let parcel = Parcel::new();
    let mut end = End::open(env);
    assert_eq!(end.blocking(|looper| looper.call(Call::new(0, 1, &parcel))), Err(Error::Dead));
    Pair::new(env).check();
}

fn devices_node_is_zero_for_the_manager(env: &Env) {
    let binder = Binder::open_mapped(&env.device, LIBBINDER_MAPPING).expect("open");
    become_manager(&binder);
    let peer = Peer::start(env, |env, _| {
        let mut end = End::open(env);
        let parcel = Parcel::new();
        end.blocking(|looper| looper.call(Call::new(0, 3, &parcel))).expect("a reply");
    });
    let mut end = End::over(binder).enter();
    let received = end.wait_transaction();
    assert_eq!((received.target, received.cookie, received.code), (0, 0, 3));
    assert_eq!(received.sender_pid, peer.pid());
    assert_eq!(received.sender_euid, 0);
    end.give_back(&received);
    end.blocking(|looper| looper.reply(&Parcel::new())).expect("BC_REPLY");
    peer.join();
}

fn thread_exit_then_going_on(env: &Env) {
    let mut pair = Pair::new(env);
    pair.check();
    assert_eq!(pair.client.binder().thread_exit(), Ok(()));
    assert_eq!(pair.server.binder().thread_exit(), Ok(()));
    pair.server.queue().enter_looper();
    pair.server.flush().expect("BC_ENTER_LOOPER");
    pair.check();
}

fn thread_exit_twice(env: &Env) {
    let binder = unmapped(env);
    assert_eq!(binder.thread_exit(), Ok(()));
    assert_eq!(binder.thread_exit(), Ok(()));
    assert_eq!(binder.version(), Ok(8));
}

fn read_write_and_seek_are_refused(env: &Env) {
    let mut file = OpenOptions::new().read(true).write(true).open(&env.device).expect("open");
    let errno = |result: std::io::Result<u64>| result.expect_err("refused").raw_os_error().map(Errno::from_raw);
    assert_eq!(errno(file.read(&mut [0; 4]).map(|count| count as u64)), Some(Errno::EINVAL));
    assert_eq!(errno(file.write(&[0; 4]).map(|count| count as u64)), Some(Errno::EINVAL));
    assert_eq!(errno(file.seek(std::io::SeekFrom::Start(4))), Some(Errno::ESPIPE));
}

fn read_only_open_takes_ioctls(env: &Env) {
    let binder = Binder::from_file(OpenOptions::new().read(true).open(&env.device).expect("open"));
    assert_eq!(binder.version(), Ok(8));
    assert_eq!(binder.set_max_threads(1), Ok(()));
}

fn many_open_files(env: &Env) {
    let files: Vec<Binder> = (0..200).map(|_| Binder::open_mapped(&env.device, 128 * 1024).expect("open")).collect();
    for file in &files {
        assert_eq!(file.version(), Ok(8));
    }
}
