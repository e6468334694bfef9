// SPDX-License-Identifier: GPL-2.0

//! Numbers passed to binderfs.

use binder_client::Binder;
use binder_client::uapi;
use nix::errno::Errno;

use super::Table;
use super::limits;
use super::tests;
use crate::env::Env;
use crate::fixture::Pair;
use crate::mounts::BINDER_CTL_ADD;
use crate::mounts::DeviceRequest;
use crate::mounts::Mount;
use crate::mounts::device_number;
use crate::mounts::devices;

tests! { Binderfs, "extremes":
    numbers_in_a_request_for_a_device,
    lengths_of_a_device_name,
    most_devices_of_a_mount,
}

fn numbers_in_a_request_for_a_device(env: &Env) {
    let mount = Mount::new();
    let mut pair = Pair::new(&mount.env(env, &devices(env).into_iter().next().expect("a device")));
    let mut table = Table::default();
    for (number, value) in limits().into_iter().enumerate() {
        let name = format!("device{number}");
        let value = value as u32;
        let mut request = DeviceRequest { major: value, minor: value, ..DeviceRequest::new(name.as_bytes()) };
        let result = mount.control().ioctl(BINDER_CTL_ADD, &mut request);
        let told = (request.major, request.minor);
        table.row(format_args!("{value:#x}"), (result, told), (Ok(0), device_number(&mount.at(&name))));
        // Refused the second time, when the number that it would have had is known already.
        let mut request = DeviceRequest { major: value, minor: value, ..DeviceRequest::new(name.as_bytes()) };
        let result = mount.control().ioctl(BINDER_CTL_ADD, &mut request);
        table.row(format_args!("{value:#x} twice"), (result, request.major), (Err(Errno::EEXIST), told.0));
        pair.check();
    }
    table.end();
}

fn lengths_of_a_device_name(env: &Env) {
    let mount = Mount::new();
    let mut table = Table::default();
    for length in [0, 1, 2, 7, 8, 9, 127, 128, 254, 255, 256] {
        let name = "x".repeat(length);
        let wanted = match length {
            0 => Err(Errno::EACCES),
            // What does not end is cut off after 255 bytes.
            256 => Err(Errno::EEXIST),
            _ => Ok(()),
        };
        table.row(length, mount.add(&name).0, wanted);
        if wanted.is_ok() {
            Pair::new(&mount.env(env, &name)).check();
        }
    }
    table.end();
}

fn most_devices_of_a_mount(env: &Env) {
    let mut table = Table::default();
    let given = devices(env).len() as u64;
    let most = 1 << 20;
    let beside = [given, given + 1, most - 1, most, most + 1];
    for max in limits().into_iter().chain(beside) {
        let mount = Mount::with(&format!("max={max}"));
        let wanted = match max {
            // Not enough for those that each mount has.
            max if max < given => Some(Errno::ENOSPC),
            max if max > most => Some(Errno::EINVAL),
            _ => None,
        };
        table.row(format_args!("max={max}"), mount.as_ref().err().copied(), wanted);
        let Ok(mount) = mount else { continue };
        for (name, more) in [("one", 1), ("two", 2), ("three", 3)] {
            let wanted = if given + more <= max { Ok(()) } else { Err(Errno::ENOSPC) };
            table.row(format_args!("max={max}: {more} more"), mount.add(name).0, wanted);
        }
        for name in devices(env) {
            let binder = Binder::open(&mount.at(name)).expect("open");
            assert_eq!(binder.version(), Ok(uapi::BINDER_CURRENT_PROTOCOL_VERSION));
        }
    }
    table.end();
}
