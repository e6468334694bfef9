// SPDX-License-Identifier: GPL-2.0

//! Numbers in the objects of a transaction.

use std::fs::File;
use std::os::fd::AsRawFd;

use binder_client::Call;
use binder_client::Parcel;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::BufferObject;
use binder_client::uapi::FdArrayObject;
use binder_client::uapi::FdObject;
use binder_client::uapi::FlatObject;
use binder_client::uapi::TransactionDataSg;
use nix::errno::Errno;

use super::Table;
use super::calls::Fate;
use super::calls::send_and_look;
use super::limits;
use super::limits_beside;
use super::tests;
use crate::env::Env;
use crate::fixture::Pair;
use crate::hostile;
use crate::hostile::Arena;
use crate::hostile::PAGE;

tests! { Interface, "extremes":
    offsets_of_objects,
    kinds_of_objects,
    fields_of_a_node,
    fields_of_a_handle,
    numbers_of_files,
    fields_of_a_buffer,
    fields_of_a_buffer_in_another,
    fields_of_an_array_of_files,
}

const REFUSED: Fate = Fate::Fails(Errno::EINVAL);

/// Sends a parcel and buffers of so many bytes.
fn send(pair: &mut Pair, parcel: &Parcel, buffers_size: u64) -> Fate {
    let transaction = Call::new(pair.handle, 1, parcel).data();
    send_and_look(pair, uapi::BC_TRANSACTION_SG, &TransactionDataSg { transaction, buffers_size }, |_, _| {})
}

/// Sends one object behind a few bytes; returns what stands in its place where it arrives.
fn send_flat(pair: &mut Pair, object: &FlatObject) -> (Fate, Option<FlatObject>) {
    let mut parcel = Parcel::from_bytes(b"before..");
    parcel.object(object);
    let transaction = Call::new(pair.handle, 1, &parcel).data();
    let mut found = None;
    let fate = send_and_look(pair, uapi::BC_TRANSACTION, &transaction, |end, received| {
        found = end.payload(received).expect("a readable buffer").flat(0);
    });
    (fate, found)
}

fn offsets_of_objects(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    // A handle at 8, and nothing else that could be an object.
    let mut parcel = Parcel::from_bytes(&[0; 64]);
    let object = object::handle(pair.handle);
    parcel.data_mut()[8..32].copy_from_slice(zerocopy::IntoBytes::as_bytes(&object));
    for offset in limits_beside(24) {
        let mut parcel = parcel.clone();
        parcel.offset(offset);
        let wanted = match offset {
            8 => Fate::Arrives,
            65.. => Fate::Fails(Errno::EFAULT),
            _ => REFUSED,
        };
        table.row(format_args!("object at {offset:#x}"), send(&mut pair, &parcel, 0), wanted);
        // After another.
        let mut parcel = parcel.clone();
        let mut two = Parcel::from_bytes(parcel.data_mut());
        two.offset(8).offset(offset);
        let wanted = match offset {
            ..32 | 65.. => Fate::Fails(Errno::EFAULT),
            _ => REFUSED,
        };
        table.row(format_args!("second object at {offset:#x}"), send(&mut pair, &two, 0), wanted);
        pair.check();
    }
    table.end();
}

fn kinds_of_objects(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let mut table = Table::default();
    let known = [
        uapi::BINDER_TYPE_BINDER,
        uapi::BINDER_TYPE_WEAK_BINDER,
        uapi::BINDER_TYPE_HANDLE,
        uapi::BINDER_TYPE_WEAK_HANDLE,
        uapi::BINDER_TYPE_FD,
        uapi::BINDER_TYPE_FDA,
        uapi::BINDER_TYPE_PTR,
    ];
    let beside = known.iter().flat_map(|kind| [kind - 1, kind + 1, kind ^ (1 << 31), kind & 0xff, kind & 0xffff_ff00]);
    for kind in limits().into_iter().map(|kind| kind as u32).chain(beside) {
        if known.contains(&kind) {
            continue;
        }
        let object = FlatObject { kind, ..object::handle(pair.handle) };
        table.row(format_args!("kind {kind:#x}"), send_flat(&mut pair, &object).0, REFUSED);
        pair.check();
    }
    table.end();
}

fn fields_of_a_node(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    for make in [object::binder, object::weak_binder] {
        let good = make(0x7000, 0x7008);
        for value in limits() {
            let flags = value as u32;
            for (what, object) in [
                ("ptr", FlatObject { value, ..good }),
                ("cookie", FlatObject { cookie: value, ..good }),
                ("flags", FlatObject { flags, ..good }),
            ] {
                let (fate, found) = send_flat(&mut pair, &object);
                let is_handle = found.is_some_and(|found| found.as_handle().is_some_and(|handle| handle != 0));
                let told = found.map(|found| (found.flags, found.cookie));
                let wanted = (Fate::Arrives, true, Some((object.flags, 0)));
                table.row(format_args!("{what} {value:#x} of {:#x}", good.kind), (fate, is_handle, told), wanted);
                pair.check();
            }
        }
    }
    table.end();
}

fn fields_of_a_handle(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    let own = u64::from(pair.handle);
    for make in [object::handle, object::weak_handle] {
        let good = make(pair.handle);
        for value in limits().into_iter().chain([own, own | (1 << 32), own | (1 << 63)]) {
            let (fate, found) = send_flat(&mut pair, &FlatObject { value, ..good });
            let node = found.and_then(|found| found.as_binder());
            let wanted = if value as u32 == pair.handle {
                (Fate::Arrives, Some((Pair::NODE.ptr, Pair::NODE.cookie)))
            } else {
                (REFUSED, None)
            };
            table.row(format_args!("{:#x} of {:#x}", value, good.kind), (fate, node), wanted);
            for object in [FlatObject { cookie: value, ..good }, FlatObject { flags: value as u32, ..good }] {
                let (fate, found) = send_flat(&mut pair, &object);
                let told = found.map(|found| (found.value, found.cookie, found.flags));
                let wanted = (Fate::Arrives, Some((Pair::NODE.ptr, Pair::NODE.cookie, object.flags)));
                table.row(format_args!("{value:#x} in {object:x?}"), (fate, told), wanted);
            }
            pair.check();
        }
    }
    table.end();
}

fn numbers_of_files(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let mut table = Table::default();
    let file = File::open("/dev/null").expect("open");
    let open = file.as_raw_fd() as u64;
    for value in limits().into_iter().chain([open, open | (1 << 32), open | (1 << 63)]) {
        for object in [
            FdObject { fd: value, ..object::fd(0, 0) },
            FdObject { fd: open, cookie: value, ..object::fd(0, 0) },
            FdObject { fd: open, pad_flags: value as u32, ..object::fd(0, 0) },
        ] {
            let number = object.fd as u32 as i32;
            let is_open = hostile::duplicate(number).is_ok();
            let mut parcel = Parcel::from_bytes(b"before..");
            parcel.object(&object);
            let call = Call::new(pair.handle, 1, &parcel).data();
            let mut came = 0;
            let fate = send_and_look(&mut pair, uapi::BC_TRANSACTION, &call, |end, received| {
                let found = end.payload(received).expect("a readable buffer").flat(0).expect("an object");
                drop(hostile::adopt(found.value as i32));
                came += 1;
            });
            let wanted = if is_open { (Fate::Arrives, 1) } else { (Fate::Fails(Errno::EBADF), 0) };
            table.row(format_args!("{object:x?}"), (fate, came), wanted);
        }
        pair.check();
    }
    table.end();
}

fn fields_of_a_buffer(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    let arena = Arena::new(2);
    arena.unmap(1);
    let good = BufferObject { buffer: arena.at(0), length: 8, ..object::buffer(&[]) };
    for value in limits_beside(arena.at(0)).into_iter().chain([64, 65]) {
        let readable = (arena.at(0)..=arena.at(PAGE - 8)).contains(&value);
        for (what, object, wanted) in [
            ("address", BufferObject { buffer: value, ..good }, readable),
            ("address of nothing", BufferObject { buffer: value, length: 0, ..good }, true),
            ("length", BufferObject { length: value, ..good }, value <= 64),
            ("length at the end", BufferObject { buffer: arena.at(PAGE - 8), length: value, ..good }, value <= 8),
            // Without a parent these say nothing.
            ("parent", BufferObject { parent: value, ..good }, true),
            ("parent offset", BufferObject { parent_offset: value, ..good }, true),
            ("flags", BufferObject { flags: value as u32, ..good }, value & 1 == 0),
        ] {
            let mut parcel = Parcel::from_bytes(b"before..");
            parcel.object(&object);
            let wanted = if wanted { Fate::Arrives } else { REFUSED };
            table.row(format_args!("{what} {value:#x}"), send(&mut pair, &parcel, 64), wanted);
        }
        pair.check();
    }
    table.end();
}

fn fields_of_a_buffer_in_another(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    let (parent, child) = ([0; 16], [1; 8]);
    for value in limits_beside(8) {
        let good = object::child_buffer(&child, 0, 8);
        for (what, object, wanted) in [
            ("parent", BufferObject { parent: value, ..good }, value == 0),
            ("parent offset", BufferObject { parent_offset: value, ..good }, value <= 8 && value % 4 == 0),
            ("flags", BufferObject { flags: value as u32 | 1, ..good }, true),
            ("length", BufferObject { length: value, ..good }, value <= 8),
        ] {
            let mut parcel = Parcel::from_bytes(b"before..");
            parcel.object(&object::buffer(&parent));
            parcel.object(&object);
            let wanted = if wanted { Fate::Arrives } else { REFUSED };
            table.row(format_args!("{what} {value:#x}"), send(&mut pair, &parcel, 24), wanted);
        }
        pair.check();
    }
    table.end();
}

fn fields_of_an_array_of_files(env: &Env) {
    let mut pair = Pair::with_fds(env);
    let mut table = Table::default();
    let file = File::open("/dev/null").expect("open");
    let numbers: Vec<u8> = [file.as_raw_fd(); 4].iter().flat_map(|fd| fd.to_ne_bytes()).collect();
    let quarters = [1 << 30, 1 << 61, 1 << 62, 3 << 62].map(|end: u64| [end - 1, end, end + 1]).concat();
    for value in limits_beside(4).into_iter().chain(quarters) {
        let good = object::fd_array(1, 0, 4);
        for (what, object, wanted) in [
            ("number", FdArrayObject { num_fds: value, ..good }, value <= 3),
            ("parent", FdArrayObject { parent: value, ..good }, value == 0),
            ("offset", FdArrayObject { parent_offset: value, ..good }, value <= 12 && value % 4 == 0),
            ("offset of none", FdArrayObject { num_fds: 0, parent_offset: value, ..good }, true),
            ("pad", FdArrayObject { pad: value as u32, ..good }, true),
        ] {
            let mut parcel = Parcel::from_bytes(b"before..");
            parcel.object(&object::buffer(&numbers));
            parcel.object(&object);
            let wanted = if wanted { Fate::Arrives } else { REFUSED };
            table.row(format_args!("{what} {value:#x}"), send(&mut pair, &parcel, 16), wanted);
        }
        pair.check();
    }
    table.end();
}
