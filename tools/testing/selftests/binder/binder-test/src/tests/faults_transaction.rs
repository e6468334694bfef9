// SPDX-License-Identifier: GPL-2.0

//! Transactions in which every allocation and every user copy fails in turn.
//!
//! After each failure the call is either delivered and answered, or its sender reads a failure. Then the driver's
//! counts have their old values, no descriptor is left open, and the next call succeeds.

use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;

use binder_client::Call;
use binder_client::Commands;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::Returns;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::FlatObject;
use binder_client::uapi::TransactionData;
use nix::errno::Errno;

use super::reclaim::squeeze;
use super::tests;
use super::transaction::pattern;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Registry;
use crate::fixture::node;
use crate::hostile;
use crate::hostile::adopt;
use crate::inject::Faults;
use crate::inject::Live;
use crate::inject::Shot;
use crate::kernel::contexts_are_given;
use crate::kernel::own_context;

tests! { Faults, "faults":
    a_call_is_sent,
    a_call_with_objects_is_sent,
    a_call_with_files_is_sent,
    a_call_with_buffers_is_sent,
    a_call_with_a_context_is_sent,
    a_one_way_call_is_sent,
    a_call_is_read,
    a_call_with_a_context_is_read,
    a_one_way_call_is_read,
    a_reply_is_sent,
    a_reply_is_read,
}

/// What a transaction carries, and what has to stay as long as it is sent.
struct Load {
    parcel: Parcel,
    buffers_size: u64,
    _bytes: Vec<Vec<u8>>,
    _files: Vec<OwnedFd>,
}

/// What there is to carry. The number makes nodes that were never sent before.
type Make = fn(&Scene, u64) -> Load;

fn load(parcel: Parcel) -> Load {
    Load { parcel, buffers_size: 0, _bytes: Vec::new(), _files: Vec::new() }
}

fn few_bytes(_: &Scene, _: u64) -> Load {
    load(Parcel::from_bytes(&pattern(20, 1)))
}

fn many_bytes(_: &Scene, _: u64) -> Load {
    load(Parcel::from_bytes(&pattern(5 * 4096 + 20, 2)))
}

fn own_nodes(_: &Scene, number: u64) -> Load {
    let (strong, weak) = (node(0x1000 + 2 * number), node(0x1001 + 2 * number));
    let mut parcel = Parcel::from_object(&object::binder(strong.ptr, strong.cookie));
    parcel.object(&object::weak_binder(weak.ptr, weak.cookie));
    load(parcel)
}

fn handles(scene: &Scene, _: u64) -> Load {
    // One is of the receiver's own node, one is new to the receiver.
    let mut parcel = Parcel::from_object(&object::handle(scene.pair.handle));
    parcel.object(&object::handle(scene.others));
    parcel.object(&object::weak_handle(scene.others));
    load(parcel)
}

fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe().expect("pipe")
}

fn files(_: &Scene, _: u64) -> Load {
    let (read, write) = pipe();
    let mut parcel = Parcel::from_object(&object::fd(read.as_raw_fd(), 1));
    parcel.object(&object::fd(write.as_raw_fd(), 2));
    Load { _files: vec![read, write], ..load(parcel) }
}

fn buffers(_: &Scene, _: u64) -> Load {
    let (read, write) = pipe();
    let numbers: Vec<u8> = [&read, &write].iter().flat_map(|file| file.as_raw_fd().to_ne_bytes()).collect();
    let parent = pattern(4096, 3);
    let child = pattern(100, 4);
    let mut parcel = Parcel::from_bytes(b"before..");
    let first = parcel.object(&object::buffer(&parent));
    parcel.object(&object::child_buffer(&child, first, 16));
    let third = parcel.object(&object::buffer(&numbers));
    parcel.object(&object::fd_array(2, third, 0));
    let buffers_size = [&parent, &child, &numbers].iter().map(|bytes| bytes.len().next_multiple_of(8) as u64).sum();
    Load { parcel, buffers_size, _bytes: vec![parent, child, numbers], _files: vec![read, write] }
}

/// What one end was told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    calls: usize,
    replies: usize,
    failures: usize,
    completions: usize,
}

/// A client, a server that takes files, and a third whose node the client has.
struct Scene {
    pair: Pair,
    /// The node of the server's that is called.
    called: u32,
    third: End,
    others: u32,
    live: Option<Live>,
    open: usize,
}

impl Scene {
    fn new(env: &Env) -> Self {
        let registry = Registry::start(env);
        let (mut client, mut server, mut third) = (End::open(env), End::open(env), End::open(env));
        let accepting = |object| FlatObject { flags: uapi::FLAT_BINDER_FLAG_ACCEPTS_FDS, ..object };
        registry.put(&mut server, 1, accepting(object::binder(Pair::NODE.ptr, Pair::NODE.cookie)));
        registry.put(&mut third, 2, object::binder(0x3000, 0x3008));
        let handle = registry.get(&mut client, 1);
        let others = registry.get(&mut client, 2);
        registry.drop_kept(&mut server, 1);
        registry.drop_kept(&mut third, 2);
        let pair = Pair { client, server: server.enter(), handle, registry };
        let mut scene = Self { called: handle, pair, third, others, live: None, open: 0 };
        scene.begin();
        scene
    }

    /// The same in which calls go to a node that asks for their senders' security context.
    fn with_contexts(env: &Env) -> Self {
        if !contexts_are_given() {
            env.skip("no security module that has contexts to give");
        }
        let mut scene = Self::new(env);
        let Pair { client, server, registry, .. } = &mut scene.pair;
        let flags = uapi::FLAT_BINDER_FLAG_TXN_SECURITY_CTX;
        registry.put(server, 3, FlatObject { flags, ..object::binder(0x4000, 0x4008) });
        scene.called = registry.get(client, 3);
        registry.drop_kept(server, 3);
        scene.begin();
        scene
    }

    /// Takes what there is now for what there has to be again.
    fn begin(&mut self) {
        self.pair.check();
        self.settle();
        self.live = Live::now();
        self.open = open_files();
    }

    /// Lets everything that is under way come to its end; what the client and the server were told by then.
    #[track_caller]
    fn settle(&mut self) -> (Told, Told) {
        let (mut client, mut server) = (Told::default(), Told::default());
        loop {
            let mut quiet = true;
            for (end, told) in [
                (&mut self.pair.client, &mut client),
                (&mut self.pair.server, &mut server),
                (&mut self.third, &mut Told::default()),
            ] {
                for ret in end.drain() {
                    quiet = false;
                    handle(end, ret, told);
                }
            }
            if quiet {
                return (client, server);
            }
        }
    }

    /// All is as it was before, and a call goes through.
    #[track_caller]
    fn whole(&mut self, what: &str) {
        self.pair.check();
        assert_eq!(self.settle(), Default::default());
        Live::again(&self.live, what);
        assert_eq!(open_files(), self.open, "{what}: descriptors");
    }

    /// A transaction as a stream of commands.
    fn command(&self, code: u32, load: &Load, flags: u32) -> Vec<u8> {
        let call = Call::new(self.called, 1, &load.parcel).with_flags(flags);
        let mut commands = Commands::new();
        match (code, load.buffers_size) {
            (uapi::BC_REPLY, 0) => commands.reply(call),
            (uapi::BC_REPLY, size) => commands.reply_sg(call, size),
            (_, 0) => commands.transaction(call),
            (_, size) => commands.transaction_sg(call, size),
        };
        commands.bytes().to_vec()
    }

    /// A call by the client that the server has not read.
    #[track_caller]
    fn queued(&mut self, load: &Load, flags: u32) {
        let command = self.command(uapi::BC_TRANSACTION, load, flags);
        self.pair.client.queue().raw(&command);
        self.pair.client.flush().expect("BC_TRANSACTION");
    }
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc/self/fd").count()
}

/// Answers one thing that was read.
#[track_caller]
fn handle(end: &mut End, ret: Return, told: &mut Told) {
    match ret {
        Return::IncRefs(_) | Return::Acquire(_) => {
            end.grant(&ret);
            end.flush().expect("a granted reference");
        }
        Return::Release(_) | Return::DecRefs(_) | Return::Noop => {}
        Return::Transaction(received) => {
            told.calls += 1;
            dispose(end, &received);
            if received.flags & uapi::TF_ONE_WAY == 0 {
                end.start_reply(Call::reply(&Parcel::new()));
            }
        }
        Return::TransactionSecCtx(received) => {
            let context = own_context();
            assert_eq!(hostile::peek(received.secctx, context.len()), Ok(context));
            handle(end, Return::Transaction(received.transaction), told);
        }
        Return::Reply(received) => {
            told.replies += 1;
            dispose(end, &received);
        }
        Return::FailedReply => told.failures += 1,
        Return::TransactionComplete => told.completions += 1,
        other => panic!("not to be expected: {other:x?}"),
    }
}

/// Closes what came and gives the buffer back.
#[track_caller]
fn dispose(end: &mut End, received: &TransactionData) {
    let payload = end.payload(received).expect("a readable buffer");
    for index in 0..payload.offsets.len() {
        match payload.flat(index) {
            Some(object) if object.kind == uapi::BINDER_TYPE_FD => drop(adopt(uapi::from_union(object.value) as i32)),
            _ => {}
        }
    }
    end.give_back(received);
}

/// What lies in a read buffer that was empty before, whether or not the driver could say how much it is.
fn lying_in(room: &[u8]) -> Vec<Return> {
    let mut all = Vec::new();
    // No return has the code 0.
    for ret in Returns::new(room) {
        match ret {
            Ok(ret) => all.push(ret),
            Err(_) => break,
        }
    }
    all
}

/// What an ioctl may say whose copies and allocations fail.
#[track_caller]
fn expect_result(result: nix::Result<()>) {
    assert!(matches!(result, Ok(()) | Err(Errno::EFAULT | Errno::ENOMEM)), "{result:?}");
}

/// The one read in question, and what the reader was told by it, whatever the ioctl said.
#[track_caller]
fn read_once(shot: &mut Shot<'_>, end: &mut End) -> (nix::Result<()>, Told) {
    let mut room = [0; 256];
    let (result, _) = shot.at(|| end.binder().write_read(&[], &mut room));
    // What cannot be delivered is passed over, and then there may be nothing to read.
    if !(shot.fired() && result == Err(Errno::EAGAIN)) {
        expect_result(result);
    }
    let mut told = Told::default();
    for ret in lying_in(&room) {
        handle(end, ret, &mut told);
    }
    (result, told)
}

/// Whether a call with these flags has a reply.
fn is_answered(flags: u32) -> bool {
    flags & uapi::TF_ONE_WAY == 0
}

/// Does a step with a new load each time, as often as there are places at which it can fail; each leaves all as it was.
fn walk(
    env: &Env,
    scene: fn(&Env) -> Scene,
    what: &str,
    make: Make,
    mut step: impl FnMut(&mut Shot<'_>, &mut Scene, Load),
) {
    let faults = Faults::new(env);
    let mut scene = scene(env);
    let mut number = 0;
    faults.walk(what, |shot| {
        // So that the pages have to be allocated each time.
        squeeze();
        number += 1;
        let load = make(&scene, number);
        step(shot, &mut scene, load);
        scene.whole(what);
    });
}

fn send(env: &Env, scene: fn(&Env) -> Scene, flags: u32, what: &str, make: Make) {
    walk(env, scene, what, make, |shot, scene, load| {
        let command = scene.command(uapi::BC_TRANSACTION, &load, flags);
        let (result, _) = shot.at(|| scene.pair.client.binder().write_read(&command, &mut []));
        drop(load);
        expect_result(result);
        let (client, server) = scene.settle();
        let done = if is_answered(flags) { client.replies } else { client.completions };
        match (server.calls, done, client.failures) {
            (1, 1, 0) => {}
            (0, 0, 1) if shot.fired() => {}
            (0, 0, 0) if shot.fired() && result.is_err() => {}
            other => panic!("{what}, place {}: {result:?}, {other:?}", shot.nth),
        }
        if !is_answered(flags) {
            one_way_goes_through(scene);
        }
    });
}

fn a_call_is_sent(env: &Env) {
    send(env, Scene::new, 0, "few bytes", few_bytes);
    send(env, Scene::new, 0, "many bytes", many_bytes);
}

fn a_call_with_objects_is_sent(env: &Env) {
    send(env, Scene::new, 0, "nodes", own_nodes);
    send(env, Scene::new, 0, "handles", handles);
}

fn a_call_with_files_is_sent(env: &Env) {
    send(env, Scene::new, 0, "files", files);
}

fn a_call_with_buffers_is_sent(env: &Env) {
    send(env, Scene::new, 0, "buffers", buffers);
}

fn a_call_with_a_context_is_sent(env: &Env) {
    for flags in [0, uapi::TF_ONE_WAY] {
        send(env, Scene::with_contexts, flags, "context", few_bytes);
    }
}

fn a_one_way_call_is_sent(env: &Env) {
    for (what, make) in [("few bytes", few_bytes as Make), ("nodes", own_nodes), ("files", files), ("buffers", buffers)]
    {
        send(env, Scene::new, uapi::TF_ONE_WAY, what, make);
    }
}

/// The node's next one-way call is not held up by one that is gone.
#[track_caller]
fn one_way_goes_through(scene: &mut Scene) {
    let next = few_bytes(scene, 0);
    scene.queued(&next, uapi::TF_ONE_WAY);
    let (client, server) = scene.settle();
    assert_eq!((client.completions, server.calls), (1, 1), "the next one-way call");
}

fn read(env: &Env, scene: fn(&Env) -> Scene, flags: u32, what: &str, make: Make) {
    walk(env, scene, what, make, |shot, scene, load| {
        scene.queued(&load, flags);
        drop(load);
        let (result, told) = read_once(shot, &mut scene.pair.server);
        let (client, server) = scene.settle();
        // Only the sender of a synchronous transaction is told that it could not be delivered.
        let waiting = usize::from(is_answered(flags));
        match (told.calls + server.calls, client.replies, client.failures) {
            (1, replies, 0) if replies == waiting => {}
            (0, 0, failures) if failures == waiting && shot.fired() => {}
            other => panic!("{what}, place {}: {result:?}, {other:?}", shot.nth),
        }
        if !is_answered(flags) {
            one_way_goes_through(scene);
        }
    });
}

fn a_call_is_read(env: &Env) {
    let loads = [("few bytes", few_bytes as Make), ("many bytes", many_bytes), ("nodes", own_nodes)];
    for (what, make) in loads.into_iter().chain([("files", files as Make), ("buffers", buffers)]) {
        read(env, Scene::new, 0, what, make);
    }
}

fn a_call_with_a_context_is_read(env: &Env) {
    for flags in [0, uapi::TF_ONE_WAY] {
        read(env, Scene::with_contexts, flags, "context", few_bytes);
    }
}

fn a_one_way_call_is_read(env: &Env) {
    for (what, make) in [("few bytes", few_bytes as Make), ("nodes", own_nodes), ("files", files), ("buffers", buffers)]
    {
        read(env, Scene::new, uapi::TF_ONE_WAY, what, make);
    }
}

/// A call by the client that the server has read and not answered.
#[track_caller]
fn accepted(scene: &mut Scene) {
    let load = few_bytes(scene, 0);
    scene.queued(&load, uapi::TF_ACCEPT_FDS);
    let received = scene.pair.server.expect_transaction();
    scene.pair.server.give_back(&received);
}

fn a_reply_is_sent(env: &Env) {
    // The handles are the client's, and mean nothing to the server.
    let loads = [("few bytes", few_bytes as Make), ("many bytes", many_bytes), ("nodes", own_nodes)];
    for (what, make) in loads.into_iter().chain([("files", files as Make), ("buffers", buffers)]) {
        walk(env, Scene::new, what, make, |shot, scene, load| {
            accepted(scene);
            let command = scene.command(uapi::BC_REPLY, &load, 0);
            let (result, _) = shot.at(|| scene.pair.server.binder().write_read(&command, &mut []));
            drop(load);
            expect_result(result);
            let (client, server) = scene.settle();
            match (client.replies, client.failures, server.completions) {
                (1, 0, 1) => {}
                (0, 1, 1) if shot.fired() => {}
                (0, 0, 0) if shot.fired() && result.is_err() => {
                    scene.pair.server.answer(&Parcel::new());
                    let (client, _) = scene.settle();
                    assert_eq!((client.replies, client.failures), (1, 0), "{what}: answered once more");
                }
                other => panic!("{what}, place {}: {result:?}, {other:?}", shot.nth),
            }
        });
    }
}

fn a_reply_is_read(env: &Env) {
    let loads = [("few bytes", few_bytes as Make), ("many bytes", many_bytes), ("nodes", own_nodes)];
    for (what, make) in loads.into_iter().chain([("files", files as Make), ("buffers", buffers)]) {
        walk(env, Scene::new, what, make, |shot, scene, load| {
            accepted(scene);
            let command = scene.command(uapi::BC_REPLY, &load, 0);
            scene.pair.server.queue().raw(&command);
            scene.pair.server.flush().expect("BC_REPLY");
            drop(load);
            let (result, told) = read_once(shot, &mut scene.pair.client);
            let (client, _) = scene.settle();
            match (told.replies + client.replies, told.failures + client.failures) {
                (1, 0) => {}
                (0, 1) if shot.fired() => {}
                // The reader knows, by what its ioctl said.
                (0, 0) if shot.fired() && result.is_err() => {}
                other => panic!("{what}, place {}: {result:?}, {other:?}", shot.nth),
            }
        });
    }
}
