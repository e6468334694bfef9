// SPDX-License-Identifier: GPL-2.0

//! Numbers in ioctls, and in commands other than transactions.

use std::os::fd::AsFd;

use binder_client::Binder;
use binder_client::Call;
use binder_client::Commands;
use binder_client::LIBBINDER_MAPPING;
use binder_client::Mapping;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::FlatObject;
use binder_client::uapi::FreezeInfo;
use binder_client::uapi::FrozenStateInfo;
use binder_client::uapi::FrozenStatusInfo;
use binder_client::uapi::HandleCookie;
use binder_client::uapi::NodeDebugInfo;
use binder_client::uapi::NodeInfoForRef;
use binder_client::uapi::PriDesc;
use binder_client::uapi::PtrCookie;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use zerocopy::Immutable;
use zerocopy::IntoBytes;

use super::Table;
use super::limits;
use super::limits_beside;
use super::tests;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Registry;
use crate::fixture::until;
use crate::hostile::PAGE;

tests! { Interface, "extremes":
    handles_of_references,
    addresses_of_buffers,
    names_of_nodes,
    requests_for_deaths,
    requests_for_freezes,
    commands_that_no_driver_has,
    numbers_of_threads,
    numbers_that_are_not_looked_at,
    nodes_to_ask_about,
    handles_to_ask_about,
    processes_to_freeze,
    ways_to_freeze,
    fields_of_the_managers_node,
    sizes_of_a_mapping,
}

/// Both halves of 64 bits, and what else there is in 32.
fn limits_of_32() -> impl Iterator<Item = u32> {
    let mut all: Vec<u32> = limits().into_iter().flat_map(|value| [value as u32, (value >> 32) as u32]).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter()
}

/// Gives a command; what came of it, and what there is to read then.
fn give(end: &mut End, code: u32, argument: &(impl IntoBytes + Immutable)) -> (nix::Result<()>, Vec<Return>) {
    let mut commands = Commands::new();
    commands.command(code, argument);
    let (result, progress) = end.binder().write_read(commands.bytes(), &mut []);
    assert_eq!(progress.written, if result.is_ok() { commands.len() } else { 0 });
    (result, end.drain())
}

/// Nothing comes of it.
fn nothing() -> (nix::Result<()>, Vec<Return>) {
    (Ok(()), vec![])
}

fn handles_of_references(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    for handle in limits_of_32() {
        // Handle 0 is there for all, and the other one is the pair's.
        if handle == 0 || handle == pair.handle {
            continue;
        }
        for code in [uapi::BC_INCREFS, uapi::BC_ACQUIRE, uapi::BC_RELEASE, uapi::BC_DECREFS] {
            let found = give(&mut pair.client, code, &handle);
            table.row(format_args!("{code:#x} of handle {handle:#x}"), found, nothing());
        }
        pair.check();
    }
    table.end();
}

fn addresses_of_buffers(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    pair.client.start(Call::one_way(pair.handle, 1, &Parcel::from_bytes(b"kept as long as it is not freed")));
    let kept = pair.server.expect_transaction();
    pair.client.expect(&[Return::TransactionComplete]);
    let mapping = pair.server.binder().mapping().expect("a mapping").address();
    let beside = [kept.buffer, mapping, mapping + LIBBINDER_MAPPING as u64].map(limits_beside).concat();
    for address in beside.into_iter().chain([1, 4, 8, 16].map(|more| kept.buffer + more)).chain([mapping + (1 << 22)]) {
        if address != kept.buffer {
            let found = give(&mut pair.server, uapi::BC_FREE_BUFFER, &address);
            table.row(format_args!("{address:#x} with a buffer at {:#x}", kept.buffer), found, nothing());
            pair.check();
        }
    }
    table.end();
    assert_eq!(pair.server.take(&kept).data, b"kept as long as it is not freed");
}

fn names_of_nodes(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    for value in limits() {
        for node in [
            PtrCookie { ptr: value, cookie: value },
            PtrCookie { ptr: value, ..Pair::NODE },
            PtrCookie { cookie: value, ..Pair::NODE },
        ] {
            for code in [uapi::BC_INCREFS_DONE, uapi::BC_ACQUIRE_DONE] {
                table.row(format_args!("{code:#x} of {node:#x?}"), give(&mut pair.server, code, &node), nothing());
            }
        }
        pair.check();
    }
    table.end();
}

fn requests_for_deaths(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    for cookie in limits() {
        let good = HandleCookie { handle: pair.handle, cookie };
        let other = HandleCookie { cookie: cookie.wrapping_add(1), ..good };
        let cleared = (Ok(()), vec![Return::ClearDeathNotificationDone(cookie)]);
        for (code, argument, wanted) in [
            (uapi::BC_REQUEST_DEATH_NOTIFICATION, good, nothing()),
            (uapi::BC_REQUEST_DEATH_NOTIFICATION, good, nothing()),
            (uapi::BC_CLEAR_DEATH_NOTIFICATION, other, nothing()),
            (uapi::BC_CLEAR_DEATH_NOTIFICATION, good, cleared),
            (uapi::BC_CLEAR_DEATH_NOTIFICATION, good, nothing()),
        ] {
            let found = give(&mut pair.client, code, &argument);
            table.row(format_args!("{code:#x} with cookie {:#x}", { argument.cookie }), found, wanted);
        }
        let found = give(&mut pair.client, uapi::BC_DEAD_BINDER_DONE, &cookie);
        table.row(format_args!("BC_DEAD_BINDER_DONE of {cookie:#x}"), found, nothing());
        pair.check();
    }
    let there = pair.handle;
    for handle in limits_of_32().filter(|handle| *handle != there) {
        for code in [uapi::BC_REQUEST_DEATH_NOTIFICATION, uapi::BC_CLEAR_DEATH_NOTIFICATION] {
            let found = give(&mut pair.client, code, &HandleCookie { handle, cookie: 1 });
            table.row(format_args!("{code:#x} of handle {handle:#x}"), found, nothing());
        }
        pair.check();
    }
    table.end();
}

fn requests_for_freezes(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    let refused = || (Err(Errno::EINVAL), vec![]);
    for cookie in limits() {
        let good = HandleCookie { handle: pair.handle, cookie };
        let other = HandleCookie { cookie: cookie.wrapping_add(1), ..good };
        let told = FrozenStateInfo { cookie, is_frozen: 0, reserved: 0 };
        let cleared = (Ok(()), vec![Return::ClearFreezeNotificationDone(cookie)]);
        let (ask, done, clear) = (
            uapi::BC_REQUEST_FREEZE_NOTIFICATION,
            uapi::BC_FREEZE_NOTIFICATION_DONE,
            uapi::BC_CLEAR_FREEZE_NOTIFICATION,
        );
        let client = &mut pair.client;
        let rows = [
            ("nothing to be done", give(client, done, &cookie), refused()),
            ("asked", give(client, ask, &good), (Ok(()), vec![Return::FrozenBinder(told)])),
            ("asked twice", give(client, ask, &good), refused()),
            ("done with another", give(client, done, &{ other.cookie }), refused()),
            ("done", give(client, done, &cookie), nothing()),
            ("cleared with another", give(client, clear, &other), refused()),
            ("cleared", give(client, clear, &good), cleared),
            ("cleared twice", give(client, clear, &good), refused()),
        ];
        for (what, found, wanted) in rows {
            table.row(format_args!("cookie {cookie:#x} {what}"), found, wanted);
        }
        pair.check();
    }
    let there = pair.handle;
    for handle in limits_of_32().filter(|handle| *handle != there) {
        for code in [uapi::BC_REQUEST_FREEZE_NOTIFICATION, uapi::BC_CLEAR_FREEZE_NOTIFICATION] {
            let found = give(&mut pair.client, code, &HandleCookie { handle, cookie: 1 });
            table.row(format_args!("{code:#x} of handle {handle:#x}"), found, refused());
        }
        pair.check();
    }
    table.end();
}

fn commands_that_no_driver_has(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    let refused = || (Err(Errno::EINVAL), vec![]);
    for value in limits_of_32() {
        let found = give(&mut pair.client, uapi::BC_ACQUIRE_RESULT, &value);
        table.row(format_args!("BC_ACQUIRE_RESULT {value:#x}"), found, refused());
        for argument in [PriDesc { priority: value as i32, desc: pair.handle }, PriDesc { priority: 0, desc: value }] {
            let found = give(&mut pair.client, uapi::BC_ATTEMPT_ACQUIRE, &argument);
            table.row(format_args!("{argument:#x?}"), found, refused());
        }
        pair.check();
    }
    table.end();
}

fn numbers_of_threads(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    let mut asked = false;
    for threads in limits_of_32() {
        table.row(format_args!("{threads:#x}"), pair.client.binder().set_max_threads(threads), Ok(()));
        table.row(format_args!("{threads:#x} of the server"), pair.server.binder().set_max_threads(threads), Ok(()));
        // With this call the server's only thread is busy: if it may have more, it is asked for one, once.
        pair.client.start(Call::one_way(pair.handle, 1, &Parcel::new()));
        pair.client.expect(&[Return::TransactionComplete]);
        let mut found = pair.server.drain();
        let wanted = if threads == 0 || asked { vec![] } else { vec![Return::SpawnLooper] };
        asked |= threads != 0;
        let mut received = None;
        found.retain(|ret| match ret {
            Return::Transaction(call) => received.replace(*call).is_some(),
            _ => true,
        });
        table.row(format_args!("{threads:#x}: asked"), found, wanted);
        pair.server.give_back(&received.expect("a call"));
        assert_eq!(pair.server.binder().set_max_threads(0), Ok(()));
        pair.check();
    }
    table.end();
}

fn numbers_that_are_not_looked_at(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    for value in limits_of_32() {
        let end = End::open(env);
        for (what, request, wanted) in [
            ("BINDER_VERSION", uapi::BINDER_VERSION, Ok(0)),
            ("BINDER_THREAD_EXIT", uapi::BINDER_THREAD_EXIT, Ok(0)),
            ("BINDER_ENABLE_ONEWAY_SPAM_DETECTION", uapi::BINDER_ENABLE_ONEWAY_SPAM_DETECTION, Ok(0)),
            ("BINDER_SET_IDLE_PRIORITY", uapi::BINDER_SET_IDLE_PRIORITY, Err(Errno::EINVAL)),
            // There is one.
            ("BINDER_SET_CONTEXT_MGR", uapi::BINDER_SET_CONTEXT_MGR, Err(Errno::EBUSY)),
        ] {
            let mut number = value;
            table.row(format_args!("{what} {value:#x}"), end.binder().ioctl(request, &mut number), wanted);
        }
        let mut long = (u64::from(value) << 32) | u64::from(value);
        let found = end.binder().ioctl(uapi::BINDER_SET_IDLE_TIMEOUT, &mut long);
        table.row(format_args!("BINDER_SET_IDLE_TIMEOUT {long:#x}"), found, Err(Errno::EINVAL));
        pair.check();
    }
    table.end();
}

fn nodes_to_ask_about(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    let (ptr, cookie) = (Pair::NODE.ptr, Pair::NODE.cookie);
    let there = NodeDebugInfo { ptr, cookie, has_strong_ref: 1, has_weak_ref: 1 };
    for value in limits().into_iter().chain([ptr - 1, ptr, ptr + 1]) {
        let mut info = NodeDebugInfo { ptr: value, ..NodeDebugInfo::default() };
        let result = pair.server.binder().ioctl(uapi::BINDER_GET_NODE_DEBUG_INFO, &mut info);
        let wanted = if value < ptr { there } else { NodeDebugInfo::default() };
        table.row(format_args!("node after {value:#x}"), (result, info), (Ok(0), wanted));
        let half = value as u32;
        let mut info = NodeDebugInfo { ptr: 0, cookie: value, has_strong_ref: half, has_weak_ref: half };
        let result = pair.server.binder().ioctl(uapi::BINDER_GET_NODE_DEBUG_INFO, &mut info);
        table.row(format_args!("node, where {value:#x} is said"), (result, info), (Ok(0), there));
        pair.check();
    }
    table.end();
}

fn handles_to_ask_about(env: &Env) {
    let mut table = Table::default();
    let mut manager = End::open(env);
    crate::fixture::become_manager(manager.binder());
    // It has no handles.
    for value in limits_of_32() {
        let zero = NodeInfoForRef::default();
        for asked in [
            NodeInfoForRef { handle: value, ..zero },
            NodeInfoForRef { strong_count: value, ..zero },
            NodeInfoForRef { weak_count: value, ..zero },
            NodeInfoForRef { reserved: [value, 0, 0], ..zero },
            NodeInfoForRef { reserved: [0, value, 0], ..zero },
            NodeInfoForRef { reserved: [0, 0, value], ..zero },
        ] {
            let mut info = asked;
            let found = manager.binder().ioctl(uapi::BINDER_GET_NODE_INFO_FOR_REF, &mut info);
            table.row(format_args!("{asked:x?}"), (found, info), (Err(Errno::EINVAL), asked));
        }
        assert_eq!(manager.drain(), []);
    }
    table.end();
}

fn processes_to_freeze(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    for pid in limits_of_32() {
        // Those small numbers are the kernel's, and init, which have no binder open.
        if pid as i32 == pair.registry.pid() || pid == std::process::id() {
            continue;
        }
        for (enable, timeout_ms) in [(0, 0), (1, 0), (1, u32::MAX)] {
            let mut info = FreezeInfo { pid, enable, timeout_ms };
            let found = pair.client.binder().ioctl(uapi::BINDER_FREEZE, &mut info);
            table.row(format_args!("BINDER_FREEZE {info:x?}"), found, Err(Errno::EINVAL));
        }
        let mut info = FrozenStatusInfo { pid, sync_recv: 7, async_recv: 7 };
        let found = pair.client.binder().ioctl(uapi::BINDER_GET_FROZEN_INFO, &mut info);
        table.row(format_args!("BINDER_GET_FROZEN_INFO {pid:x?}"), found, Err(Errno::EINVAL));
        pair.check();
    }
    table.end();
}

fn ways_to_freeze(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    let pid = pair.registry.pid() as u32;
    let empty = Parcel::new();
    for value in limits_of_32() {
        for (enable, timeout_ms) in [(value, 0), (1, value), (0, value)] {
            let mut info = FreezeInfo { pid, enable, timeout_ms };
            let found = pair.client.binder().ioctl(uapi::BINDER_FREEZE, &mut info);
            // A time-out that an `int` cannot hold.
            let fails = enable != 0 && timeout_ms >= 1 << 31 && env.driver(Difference::FreezeTimeout) == Driver::C;
            table.row(format_args!("{info:x?}"), found, if fails { Err(Errno::ENOENT) } else { Ok(0) });
            // The registry answers, unless it is frozen.
            pair.client.start(Call::new(0, 3, &empty));
            let frozen = match pair.client.wait() {
                Return::FrozenReply => true,
                Return::TransactionComplete => {
                    let Return::Reply(reply) = pair.client.wait() else { panic!("no reply") };
                    pair.client.give_back(&reply);
                    false
                }
                other => panic!("{other:x?}"),
            };
            table.row(format_args!("{info:x?}: frozen"), frozen, enable != 0 && !fails);
            let mut state = FrozenStatusInfo { pid, sync_recv: value, async_recv: value };
            let result = pair.client.binder().ioctl(uapi::BINDER_GET_FROZEN_INFO, &mut state);
            // Beside it stands whether the registry is still replying.
            state.sync_recv &= 1;
            let wanted = FrozenStatusInfo { pid, sync_recv: u32::from(frozen), async_recv: 0 };
            table.row(format_args!("{info:x?}: told"), (result, state), (Ok(0), wanted));
            let mut info = FreezeInfo { pid, enable: 0, timeout_ms: 0 };
            assert_eq!(pair.client.binder().ioctl(uapi::BINDER_FREEZE, &mut info), Ok(0));
        }
        pair.check();
    }
    table.end();
}

fn fields_of_the_managers_node(env: &Env) {
    let mut table = Table::default();
    let good = object::binder(0x7000, 0x7008);
    for value in limits() {
        for object in [
            FlatObject { kind: value as u32, ..good },
            FlatObject { flags: value as u32, ..good },
            FlatObject { value, ..good },
            FlatObject { cookie: value, ..good },
        ] {
            let end = End::open(env);
            until(|| match end.binder().become_manager_with(object) {
                Ok(()) => true,
                Err(error) if error.errno() == Some(Errno::EBUSY) => false,
                Err(error) => panic!("{object:x?}: {error}"),
            });
            let mut info = NodeDebugInfo::default();
            assert_eq!(end.binder().ioctl(uapi::BINDER_GET_NODE_DEBUG_INFO, &mut info), Ok(0));
            // Nodes are shown by their names, of which 0 says that there is none.
            let shown = if object.value == 0 { (0, 0) } else { (object.value, object.cookie) };
            table.row(format_args!("{object:x?}"), (info.ptr, info.cookie), shown);
        }
    }
    Pair::new(env).check();
    table.end();
}

fn sizes_of_a_mapping(env: &Env) {
    let registry = Registry::start(env);
    let mut table = Table::default();
    let (prot, flags) = (ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE);
    for value in limits_beside(PAGE as u64).into_iter().chain([(4 << 20) - 1, 4 << 20, (4 << 20) + 1, 1 << 24]) {
        for (what, len, offset) in [("size", value, 0), ("offset", 16 * PAGE as u64, value), ("both", value, value)] {
            let mut binder = Binder::open(&env.device).expect("open");
            let found = match usize::try_from(len) {
                Ok(len) => Mapping::with(binder.as_fd(), len, prot, flags, offset as i64),
                Err(_) => continue,
            };
            let errno = found.as_ref().err().copied();
            let wanted = match (len, offset) {
                // What else fits depends on the program.
                _ if cfg!(target_pointer_width = "32") => errno,
                (0, _) => Some(Errno::EINVAL),
                (_, offset) if offset % PAGE as u64 != 0 => Some(Errno::EINVAL),
                (len, _) if len > 1 << 46 => Some(Errno::ENOMEM),
                (len, offset) if offset.checked_add(len).is_none() => Some(Errno::EOVERFLOW),
                _ => None,
            };
            table.row(format_args!("{what} {value:#x}"), errno, wanted);
            if let Ok(mapping) = found {
                binder.replace_mapping(Some(mapping));
                let mut end = End::over(binder);
                registry.put(&mut end, 1, object::binder(8, 8));
                registry.drop_kept(&mut end, 1);
            }
        }
    }
    table.end();
}
