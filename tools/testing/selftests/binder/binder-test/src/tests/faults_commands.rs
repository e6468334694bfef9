// SPDX-License-Identifier: GPL-2.0

//! Every allocation and every user copy fails in turn: commands and returns other than transactions, and the other
//! ioctls.
//!
//! A command is executed or it is not; after an ioctl that fails, the caller does not know which. So each is repeated
//! after a failure, and then the state must be as if it was executed once.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use binder_client::Call;
use binder_client::Commands;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::Returns;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::ExtendedError;
use binder_client::uapi::FlatObject;
use binder_client::uapi::FreezeInfo;
use binder_client::uapi::FrozenStatusInfo;
use binder_client::uapi::NodeDebugInfo;
use binder_client::uapi::NodeInfoForRef;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::stat::Mode;
use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;

use super::tests;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Registry;
use crate::fixture::node;
use crate::fixture::until;
use crate::hostile::Arena;
use crate::hostile::PAGE;
use crate::hostile::Torn;
use crate::inject::Faults;
use crate::inject::Live;
use crate::inject::Shot;
use crate::mounts::Mount;
use crate::netlink::Listener;

tests! { Faults, "faults":
    a_buffer_is_freed,
    references_come_and_go,
    references_are_acknowledged,
    loopers,
    a_death_notification_is_read,
    a_freeze_notification_is_read,
    settings,
    queries,
    freezing_and_thawing,
    a_thread_exits,
    a_failure_is_reported,
    a_mapping_is_moved,
    logs_are_read,
    open_in_a_mount,
}

/// What system calls say whose allocations and copies fail.
#[track_caller]
fn expected(result: &nix::Result<()>, also: &[Errno]) {
    if let Err(errno) = result {
        assert!([Errno::ENOMEM, Errno::EFAULT].contains(errno) || also.contains(errno), "{errno}");
    }
}

/// Has an end carry out one command, in which something fails.
#[track_caller]
fn carry_out(shot: &mut Shot<'_>, end: &End, fill: impl FnOnce(&mut Commands<'static>)) -> nix::Result<()> {
    let mut commands = Commands::new();
    fill(&mut commands);
    let bytes = commands.bytes().to_vec();
    let (result, _) = shot.at(|| end.binder().write_read(&bytes, &mut []));
    expected(&result, &[]);
    assert!(shot.fired() || result.is_ok(), "{result:?}");
    result
}

/// Has an end read, while something fails; what it was told, whether or not the driver could say how much that is.
#[track_caller]
fn read(shot: &mut Shot<'_>, end: &mut End) -> Vec<Return> {
    let mut room = [0; 256];
    let (result, _) = shot.at(|| end.binder().write_read(&[], &mut room));
    expected(&result, &[Errno::EAGAIN]);
    assert!(shot.fired() || result.is_ok(), "{result:?}");
    // No return has the code 0, which ends what lies there.
    let mut told: Vec<Return> =
        Returns::new(&room).map_while(|ret| ret.ok()).filter(|ret| *ret != Return::Noop).collect();
    told.extend(end.drain());
    told
}

fn a_buffer_is_freed(env: &Env) {
    let faults = Faults::new(env);
    let mut pair = Pair::new(env);
    pair.check();
    let live = Live::now();
    faults.walk("BC_FREE_BUFFER", |shot| {
        pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(b"twenty bytes of data")));
        let received = pair.server.expect_transaction();
        if carry_out(shot, &pair.server, |commands| _ = commands.free_buffer(received.buffer)).is_err() {
            pair.server.give_back(&received);
        }
        pair.server.answer(&Parcel::new());
        let reply = pair.client.expect_reply();
        pair.client.give_back(&reply);
        pair.check();
        Live::again(&live, "BC_FREE_BUFFER");
    });
}

/// Gives the client a handle for a node of the server's, which it holds strongly.
#[track_caller]
fn given(pair: &mut Pair, number: u64) -> u32 {
    let ours = node(number);
    let (handle, reply) = offered(pair, number, |server| {
        server.queue().increfs_done(ours).acquire_done(ours);
        server.flush().expect("BC_ACQUIRE_DONE");
    });
    pair.client.queue().acquire(handle).free_buffer(reply);
    pair.client.flush().expect("BC_ACQUIRE");
    handle
}

/// Sends the client a node of the server's, which acknowledges the references in its own way. The handle, and the buffer
/// that holds it.
#[track_caller]
fn offered(pair: &mut Pair, number: u64, acknowledge: impl FnOnce(&mut End)) -> (u32, u64) {
    let ours = node(number);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
    pair.server.start_reply(Call::reply(&Parcel::from_object(&object::binder(ours.ptr, ours.cookie))));
    assert_eq!(pair.server.next(), Ok(Return::IncRefs(ours)));
    assert_eq!(pair.server.next(), Ok(Return::Acquire(ours)));
    assert_eq!(pair.server.next(), Ok(Return::TransactionComplete));
    acknowledge(&mut pair.server);
    let reply = pair.client.expect_reply();
    let payload = pair.client.payload(&reply).expect("a readable reply");
    (payload.flat(0).and_then(|object| object.as_handle()).expect("a handle"), reply.buffer)
}

fn references_come_and_go(env: &Env) {
    let faults = Faults::new(env);
    let mut pair = Pair::new(env);
    pair.check();
    let live = Live::now();
    let mut number = 0x2000;
    // A count taken twice would be there after it was given up once, and what was given up twice is refused.
    faults.walk("BC_RELEASE", |shot| {
        number += 1;
        let handle = given(&mut pair, number);
        let result = carry_out(shot, &pair.client, |commands| _ = commands.release(handle));
        let mut told = pair.server.drain();
        if told.is_empty() {
            assert!(result.is_err());
            pair.client.queue().release(handle);
            pair.client.flush().expect("BC_RELEASE");
            told = pair.server.drain();
        }
        assert_eq!(told, [Return::Release(node(number)), Return::DecRefs(node(number))]);
        pair.check();
        Live::again(&live, "BC_RELEASE");
    });
    faults.walk("BC_INCREFS", |shot| {
        number += 1;
        let handle = given(&mut pair, number);
        let result = carry_out(shot, &pair.client, |commands| _ = commands.increfs(handle));
        pair.client.queue().release(handle);
        pair.client.flush().expect("BC_RELEASE");
        let told = pair.server.drain();
        assert_eq!(told[..1], [Return::Release(node(number))]);
        if told.len() == 1 {
            // It was counted.
            pair.client.queue().decrefs(handle);
            pair.client.flush().expect("BC_DECREFS");
            assert_eq!(pair.server.drain(), [Return::DecRefs(node(number))]);
        } else {
            assert!(result.is_err());
            assert_eq!(told[1..], [Return::DecRefs(node(number))]);
        }
        Live::again(&live, "BC_INCREFS");
    });
    faults.walk("BC_DECREFS", |shot| {
        number += 1;
        let handle = given(&mut pair, number);
        pair.client.queue().increfs(handle).release(handle);
        pair.client.flush().expect("BC_INCREFS");
        assert_eq!(pair.server.drain(), [Return::Release(node(number))]);
        let result = carry_out(shot, &pair.client, |commands| _ = commands.decrefs(handle));
        let mut told = pair.server.drain();
        if told.is_empty() {
            assert!(result.is_err());
            pair.client.queue().decrefs(handle);
            pair.client.flush().expect("BC_DECREFS");
            told = pair.server.drain();
        }
        assert_eq!(told, [Return::DecRefs(node(number))]);
        Live::again(&live, "BC_DECREFS");
    });
}

fn references_are_acknowledged(env: &Env) {
    let faults = Faults::new(env);
    let mut pair = Pair::new(env);
    pair.check();
    let live = Live::now();
    let mut number = 0x3000;
    for strong in [false, true] {
        faults.walk(if strong { "BC_ACQUIRE_DONE" } else { "BC_INCREFS_DONE" }, |shot| {
            number += 1;
            let ours = node(number);
            let (_, reply) = offered(&mut pair, number, |server| {
                let result = carry_out(shot, server, |commands| {
                    _ = if strong { commands.acquire_done(ours) } else { commands.increfs_done(ours) };
                });
                // A second one is refused, and changes nothing.
                if result.is_err() {
                    _ = if strong { server.queue().acquire_done(ours) } else { server.queue().increfs_done(ours) };
                }
                _ = if strong { server.queue().increfs_done(ours) } else { server.queue().acquire_done(ours) };
                server.flush().expect("BC_ACQUIRE_DONE");
            });
            assert_eq!(pair.server.drain(), []);
            pair.client.queue().free_buffer(reply);
            pair.client.flush().expect("BC_FREE_BUFFER");
            assert_eq!(pair.server.drain(), [Return::Release(ours), Return::DecRefs(ours)]);
            Live::again(&live, "BC_ACQUIRE_DONE");
        });
    }
}

fn loopers(env: &Env) {
    let faults = Faults::new(env);
    let registry = Registry::start(env);
    let mut client = End::open(env);
    // With this the client has a thread.
    let (_, handle) = registry.another(env, &mut client);
    client.queue().release(handle);
    client.flush().expect("BC_RELEASE");
    let live = Live::now();
    faults.walk("BC_ENTER_LOOPER", |shot| {
        let (mut server, handle) = registry.another(env, &mut client);
        if carry_out(shot, &server, |commands| _ = commands.enter_looper()).is_err() {
            server.queue().enter_looper();
            server.flush().expect("BC_ENTER_LOOPER");
        }
        client.start(Call::new(handle, 1, &Parcel::new()));
        let received = server.expect_transaction();
        server.give_back(&received);
        server.answer(&Parcel::new());
        let reply = client.expect_reply();
        client.give_back(&reply);
        client.queue().release(handle);
        client.flush().expect("BC_RELEASE");
        drop(server);
        Live::again(&live, "BC_ENTER_LOOPER");
    });
    faults.walk("BC_REGISTER_LOOPER", |shot| {
        let end = End::open(env);
        _ = carry_out(shot, &end, |commands| _ = commands.register_looper());
        drop(end);
        Live::again(&live, "BC_REGISTER_LOOPER");
    });
    faults.walk("BC_EXIT_LOOPER", |shot| {
        let end = End::open(env).enter();
        _ = carry_out(shot, &end, |commands| _ = commands.exit_looper());
        drop(end);
        Live::again(&live, "BC_EXIT_LOOPER");
    });
}

fn a_death_notification_is_read(env: &Env) {
    let faults = Faults::new(env);
    let registry = Registry::start(env);
    let mut client = End::open(env).enter();
    let live = Live::now();
    for acknowledging in [false, true] {
        faults.walk(if acknowledging { "BC_DEAD_BINDER_DONE" } else { "BR_DEAD_BINDER" }, |shot| {
            let (server, handle) = registry.another(env, &mut client);
            client.queue().request_death(handle, 0xdead);
            client.flush().expect("BC_REQUEST_DEATH_NOTIFICATION");
            drop(server);
            // The end of the server comes a little later than its file's.
            until(|| {
                let mut fds = [PollFd::new(client.binder().as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::ZERO) == Ok(1)
            });
            let told = if acknowledging { client.drain() } else { read(shot, &mut client) };
            // What cannot be written to a reader's buffer, the reader has lost.
            let lost = told.is_empty() && !acknowledging && shot.fired();
            assert!(lost || told == [Return::DeadBinder(0xdead)], "{told:x?}");
            if acknowledging {
                let result = carry_out(shot, &client, |commands| _ = commands.dead_binder_done(0xdead));
                if result.is_err() {
                    client.queue().dead_binder_done(0xdead);
                }
            } else {
                client.queue().dead_binder_done(0xdead);
            }
            client.queue().clear_death(handle, 0xdead);
            client.flush().expect("BC_CLEAR_DEATH_NOTIFICATION");
            let cleared = client.drain();
            assert_eq!(cleared, [Return::ClearDeathNotificationDone(0xdead)]);
            client.queue().release(handle);
            client.flush().expect("BC_RELEASE");
            assert_eq!(client.drain(), []);
            Live::again(&live, "a death notification");
        });
    }
}

fn a_freeze_notification_is_read(env: &Env) {
    let faults = Faults::new(env);
    let registry = Registry::start(env);
    let mut client = End::open(env).enter();
    let live = Live::now();
    for step in ["BR_FROZEN_BINDER", "BC_FREEZE_NOTIFICATION_DONE", "BC_CLEAR_FREEZE_NOTIFICATION"] {
        faults.walk(step, |shot| {
            let (server, handle) = registry.another(env, &mut client);
            client.queue().request_freeze(handle, 0xf0);
            client.flush().expect("BC_REQUEST_FREEZE_NOTIFICATION");
            let told = if step == "BR_FROZEN_BINDER" { read(shot, &mut client) } else { client.drain() };
            match &told[..] {
                [Return::FrozenBinder(state)] => assert_eq!((state.cookie, state.is_frozen), (0xf0, 0)),
                [] if step == "BR_FROZEN_BINDER" && shot.fired() => {}
                other => panic!("{other:x?}"),
            }
            // What is done twice is refused the second time.
            if step == "BC_FREEZE_NOTIFICATION_DONE" {
                _ = carry_out(shot, &client, |commands| _ = commands.freeze_done(0xf0));
            }
            client.queue().freeze_done(0xf0);
            _ = client.flush();
            client.queue().clear();
            if step == "BC_CLEAR_FREEZE_NOTIFICATION" {
                _ = carry_out(shot, &client, |commands| _ = commands.clear_freeze(handle, 0xf0));
            }
            client.queue().clear_freeze(handle, 0xf0);
            _ = client.flush();
            client.queue().clear();
            assert_eq!(client.drain(), [Return::ClearFreezeNotificationDone(0xf0)]);
            drop(server);
            client.queue().release(handle);
            client.flush().expect("BC_RELEASE");
            assert_eq!(client.drain(), []);
            Live::again(&live, step);
        });
    }
}

/// One ioctl whose argument is copied, again and again; the last time, with nothing failing, it gives this back.
#[track_caller]
fn ask<T>(faults: &Faults, end: &End, what: &str, request: u32, asked: T, also: &[Errno]) -> T
where
    T: FromBytes + IntoBytes + Immutable + Clone,
{
    let mut answer = None;
    faults.walk(what, |shot| {
        let mut argument = asked.clone();
        let result = shot.at(|| end.binder().ioctl(request, &mut argument).map(drop));
        expected(&result, also);
        assert!(shot.fired() || result.is_ok(), "{what}: {result:?}");
        answer = result.is_ok().then_some(argument);
    });
    answer.expect("it came through")
}

fn settings(env: &Env) {
    let faults = Faults::new(env);
    let mut pair = Pair::new(env);
    let live = Live::now();
    ask(&faults, &pair.client, "BINDER_SET_MAX_THREADS", uapi::BINDER_SET_MAX_THREADS, 3u32, &[Errno::EINVAL]);
    let spam = uapi::BINDER_ENABLE_ONEWAY_SPAM_DETECTION;
    ask(&faults, &pair.client, "BINDER_ENABLE_ONEWAY_SPAM_DETECTION", spam, 1u32, &[]);
    pair.check();
    Live::again(&live, "settings");
    // With a name of its own for the manager's node. It is the registry's already.
    faults.walk("BINDER_SET_CONTEXT_MGR_EXT", |shot| {
        let mut object = FlatObject { flags: 0, ..object::binder(8, 8) };
        let result = shot.at(|| pair.client.binder().ioctl(uapi::BINDER_SET_CONTEXT_MGR_EXT, &mut object).map(drop));
        expected(&result, &[Errno::EINVAL, Errno::EBUSY]);
        assert!(result.is_err());
        Live::again(&live, "BINDER_SET_CONTEXT_MGR_EXT");
    });
    pair.check();
}

fn queries(env: &Env) {
    let faults = Faults::new(env);
    let mut pair = Pair::new(env);
    let live = Live::now();
    let debug = NodeDebugInfo::default();
    let what = "BINDER_GET_NODE_DEBUG_INFO";
    let answer = ask(&faults, &pair.server, what, uapi::BINDER_GET_NODE_DEBUG_INFO, debug, &[]);
    assert_eq!((answer.ptr, answer.cookie), (Pair::NODE.ptr, Pair::NODE.cookie));
    let frozen = FrozenStatusInfo { pid: std::process::id(), ..FrozenStatusInfo::default() };
    let what = "BINDER_GET_FROZEN_INFO";
    let answer = ask(&faults, &pair.server, what, uapi::BINDER_GET_FROZEN_INFO, frozen, &[]);
    assert_eq!((answer.sync_recv, answer.async_recv), (0, 0));
    // Not for everybody.
    let mut asked = NodeInfoForRef { handle: pair.handle, ..NodeInfoForRef::default() };
    faults.walk("BINDER_GET_NODE_INFO_FOR_REF", |shot| {
        let request = uapi::BINDER_GET_NODE_INFO_FOR_REF;
        let result = shot.at(|| pair.client.binder().ioctl(request, &mut asked).map(drop));
        expected(&result, &[Errno::EPERM]);
        assert!(shot.fired() || result == Err(Errno::EPERM), "{result:?}");
    });
    // An error is forgotten when it is told, even if that fails.
    faults.walk("BINDER_GET_EXTENDED_ERROR", |shot| {
        pair.client.start(Call::new(0xbad, 1, &Parcel::new()));
        assert_eq!(pair.client.drain(), [Return::FailedReply]);
        let mut error = ExtendedError::default();
        let request = uapi::BINDER_GET_EXTENDED_ERROR;
        let result = shot.at(|| pair.client.binder().ioctl(request, &mut error).map(drop));
        expected(&result, &[]);
        assert!(shot.fired() || result.is_ok(), "{result:?}");
        if result.is_ok() {
            assert_eq!((error.command, error.param), (uapi::BR_FAILED_REPLY, -libc::EINVAL));
        }
    });
    pair.check();
    Live::again(&live, "queries");
}

fn freezing_and_thawing(env: &Env) {
    let faults = Faults::new(env);
    let mut pair = Pair::new(env);
    let live = Live::now();
    let ask_for = |enable| FreezeInfo { pid: std::process::id(), enable, timeout_ms: 0 };
    for enable in [1, 0] {
        let what = if enable == 1 { "freezing" } else { "thawing" };
        ask(&faults, &pair.server, what, uapi::BINDER_FREEZE, ask_for(enable), &[]);
        // Frozen or not is what was asked for, once it was said to be done.
        pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
        if enable == 1 {
            assert_eq!(pair.client.drain(), [Return::FrozenReply]);
        } else {
            let received = pair.server.expect_transaction();
            pair.server.give_back(&received);
            pair.server.answer(&Parcel::new());
            let reply = pair.client.expect_reply();
            pair.client.give_back(&reply);
        }
    }
    pair.check();
    Live::again(&live, "freezing");
}

fn a_thread_exits(env: &Env) {
    let faults = Faults::new(env);
    let mut pair = Pair::new(env);
    pair.check();
    let live = Live::now();
    let mut places = 0;
    // What does not copy and has a thread already allocates nothing: nothing fails, and all is left.
    for nth in 1..4 {
        let mut shot = faults.shot(nth);
        let result = shot.at(|| pair.client.binder().ioctl(uapi::BINDER_THREAD_EXIT, &mut 0i32).map(drop));
        assert_eq!(result, Ok(()));
        places += u32::from(shot.fired());
        pair.check();
        Live::again(&live, "BINDER_THREAD_EXIT");
    }
    assert_eq!(places, 0);
}

fn a_failure_is_reported(env: &Env) {
    let faults = Faults::new(env);
    let listener = Listener::new().expect("the family is there");
    let mut end = End::open(env).enter();
    let live = Live::now();
    let mut commands = Commands::new();
    let empty = Parcel::new();
    commands.transaction(Call::new(4711, 1, &empty));
    faults.walk("a report", |shot| {
        let (result, _) = shot.at(|| end.binder().write_read(commands.bytes(), &mut []));
        // Where there is no memory for a report there is none. The call has failed all the same, if it was read at all.
        let (returns, reports) = (end.drain(), listener.reports().len());
        match result {
            Ok(()) => assert_eq!(returns, [Return::FailedReply]),
            Err(error) => assert!(shot.fired() && error == Errno::EFAULT && returns.len() <= 1, "{error}: {returns:?}"),
        }
        assert!(reports <= returns.len());
        assert!(shot.fired() || reports == 1, "{reports} reports");
        Live::again(&live, "a report");
    });
}

fn a_mapping_is_moved(env: &Env) {
    let faults = Faults::new(env);
    let live = Live::now();
    const PAGES: usize = 16;
    faults.walk("mremap", |shot| {
        let end = End::open_unmapped(env);
        let mapping = Torn::map(end.binder().as_fd(), PAGES * PAGE);
        let room = Arena::new(PAGES);
        match shot.at(|| mapping.move_to(0..PAGES, room)) {
            Ok(moved) => moved.unmap(0..PAGES),
            Err(error) => {
                assert_eq!(error, Errno::ENOMEM);
                mapping.unmap(0..PAGES);
            }
        }
        drop(end);
        Live::again(&live, "mremap");
    });
}

/// The driver's directory in debugfs.
fn logs() -> PathBuf {
    let places = ["/sys/kernel/debug/binder_rs", "/sys/kernel/debug/binder"];
    places.iter().map(PathBuf::from).find(|place| place.exists()).expect("the driver's logs")
}

fn logs_are_read(env: &Env) {
    let faults = Faults::new(env);
    let mut pair = Pair::new(env);
    pair.check();
    let live = Live::now();
    let pid = format!("proc/{}", std::process::id());
    for name in ["state", "state_hashed", "transactions", "transaction_log", "failed_transaction_log", &pid] {
        let path = logs().join(name);
        let whole = std::fs::read(&path).expect("a log");
        faults.walk(name, |shot| {
            let file = File::open(&path).expect("a log");
            // Larger than what is in it, so that one read is enough.
            let mut room = vec![0; whole.len() + 4096];
            let read = shot.at(|| file.read_at(&mut room, 0));
            match read {
                Ok(len) => {
                    let text = String::from_utf8_lossy(&room[..len]);
                    // What is not all there says so.
                    let complete = room[..len] == whole[..];
                    let admits = text.contains("(out of memory") || text.contains("(not all handles");
                    assert!(complete || shot.fired() && admits, "{name}: {text}");
                }
                Err(error) => {
                    let errno = error.raw_os_error();
                    assert!(shot.fired() && matches!(errno, Some(libc::ENOMEM | libc::EFAULT)), "{name}: {error}");
                }
            }
            Live::again(&live, name);
        });
        assert_eq!(std::fs::read(&path).expect("a log"), whole, "{name} afterwards");
    }
    pair.check();
}

fn open_in_a_mount(env: &Env) {
    let faults = Faults::new(env);
    // Where there is a log for each process.
    let mount = Mount::with("stats=global").expect("mount");
    let path = mount.make("faulty");
    let live = Live::now();
    faults.walk("open in a mount", |shot| {
        let opened = shot.at(|| nix::fcntl::open(&path, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()));
        expected(&opened.as_ref().map(drop).map_err(|errno| *errno), &[Errno::ENFILE]);
        drop(opened);
        Live::again(&live, "open in a mount");
        assert_eq!(mount.names("binder_logs/proc").len(), 0, "logs of processes that are gone");
    });
}
