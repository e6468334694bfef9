// SPDX-License-Identifier: GPL-2.0

//! Processes that die at each step of a transaction.

use binder_client::Call;
use binder_client::Error;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::process::Line;
use binder_client::uapi::TransactionData;

use super::tests;
use super::transaction::whole;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::fixture::node;
use crate::fixture::until;
use crate::fixture::until_in_ioctl;

tests! { Core, "process_death":
    callee_before_it_reads,
    callee_after_it_reads,
    callee_after_it_frees,
    callee_that_closes_before_it_reads,
    callee_that_closes_after_it_reads,
    callee_inside_a_call_to_a_third,
    callee_inside_a_call_back,
    third_inside_a_call,
    caller_before_the_callee_reads,
    caller_after_the_callee_reads,
    caller_that_waits_in_the_kernel,
    caller_inside_a_call_back,
    caller_with_its_reply_unread,
    callee_that_waits_in_the_kernel,
    callee_with_one_way_calls_waiting,
    callee_with_one_way_calls_unfreed,
    callee_with_many_calls_waiting,
    manager_during_a_call,
    holder_of_many_handles,
    owner_of_many_nodes,
    processes_that_die_while_they_talk,
    all_processes_at_once,
    thread_of_the_callee,
}

/// A process that has given its node to the registry, and does what it is told.
fn server(env: &Env, registry: &Registry, number: u32, body: impl FnOnce(&mut End, &Line)) -> Peer {
    let peer = Peer::start(env, |env, line| {
        let mut end = End::open(env);
        registry.put(&mut end, number, object::binder(node(7).ptr, node(7).cookie));
        let mut end = end.enter();
        line.say(0).expect("the test is there");
        body(&mut end, line);
        // Until it is killed.
        let _ = line.hear();
    });
    peer.hear();
    peer
}

struct Scene {
    registry: Registry,
    client: End,
    handle: u32,
    peer: Peer,
}

impl Scene {
    /// A client here and a server in a process of its own.
    fn new(env: &Env, body: impl FnOnce(&mut End, &Line)) -> Self {
        let registry = Registry::start(env);
        let peer = server(env, &registry, 1, body);
        let mut client = End::open(env);
        let handle = registry.get(&mut client, 1);
        registry.drop_kept(&mut client, 1);
        Self { registry, client, handle, peer }
    }

    /// The call that is out ends with the other side's death, and so does every later one.
    #[track_caller]
    fn dead(&mut self) {
        assert_eq!(self.client.wait(), Return::TransactionComplete);
        assert_eq!(self.client.wait(), Return::DeadReply);
        for flags in [0, 1] {
            let empty = Parcel::new();
            self.client.start(Call { handle: self.handle, code: 1, flags, parcel: &empty });
            self.client.expect(&[Return::DeadReply]);
        }
        let handle = self.handle;
        self.client.queue().release(handle);
        self.client.flush().expect("BC_RELEASE");
        self.client.expect(&[]);
        // Others are not harmed.
        self.registry.put(&mut self.client, 77, object::binder(0x77, 0x77));
    }
}

/// Waits for a call and says so.
fn take_call(end: &mut End, line: &Line) -> TransactionData {
    let received = end.wait_transaction();
    line.say(1).expect("the test is there");
    received
}

fn callee_before_it_reads(env: &Env) {
    let mut scene = Scene::new(env, |_, _| {});
    scene.client.start(Call::new(scene.handle, 1, &Parcel::from_bytes(b"unread")));
    scene.peer.kill();
    scene.dead();
}

fn callee_after_it_reads(env: &Env) {
    let mut scene = Scene::new(env, |end, line| {
        take_call(end, line);
    });
    scene.client.start(Call::new(scene.handle, 1, &Parcel::from_bytes(b"unanswered")));
    scene.peer.hear();
    scene.peer.kill();
    scene.dead();
}

fn callee_after_it_frees(env: &Env) {
    let mut scene = Scene::new(env, |end, line| {
        let received = end.wait_transaction();
        end.give_back(&received);
        line.say(1).expect("the test is there");
    });
    scene.client.start(Call::new(scene.handle, 1, &Parcel::from_bytes(b"unanswered")));
    scene.peer.hear();
    scene.peer.kill();
    scene.dead();
}

fn callee_that_closes_before_it_reads(env: &Env) {
    let Pair { mut client, server, handle, registry } = Pair::new(env);
    client.start(Call::new(handle, 1, &Parcel::from_bytes(b"unread")));
    drop(server);
    assert_eq!(client.wait(), Return::TransactionComplete);
    assert_eq!(client.wait(), Return::DeadReply);
    drop(registry);
}

fn callee_that_closes_after_it_reads(env: &Env) {
    let Pair { mut client, mut server, handle, registry } = Pair::new(env);
    client.start(Call::new(handle, 1, &Parcel::from_bytes(b"unanswered")));
    let received = server.expect_transaction();
    assert_eq!(server.payload(&received).expect("a readable buffer").data, b"unanswered");
    drop(server);
    assert_eq!(client.wait(), Return::TransactionComplete);
    assert_eq!(client.wait(), Return::DeadReply);
    drop(registry);
}

fn callee_inside_a_call_to_a_third(env: &Env) {
    let registry = Registry::start(env);
    let mut third = End::open(env);
    registry.put(&mut third, 3, object::binder(0x3000, 0));
    let mut third = third.enter();
    let mut peer = server(env, &registry, 1, |end, line| {
        let to_third = registry.get(end, 3);
        line.say(0).expect("the test is there");
        let _ = end.wait_transaction();
        end.start(Call::new(to_third, 2, &Parcel::from_bytes(b"inner")));
        line.say(1).expect("the test is there");
    });
    peer.hear();
    let mut client = End::open(env);
    let handle = registry.get(&mut client, 1);
    client.start(Call::new(handle, 1, &Parcel::from_bytes(b"outer")));
    peer.hear();
    let inner = third.wait_transaction();
    peer.kill();
    // The third replies to a dead caller, and is not told.
    assert_eq!(third.take(&inner).data, b"inner");
    third.answer(&Parcel::from_bytes(b"too late"));
    third.expect(&[]);
    // A driver may tell the first caller at once; it must when the inner call is over.
    assert_eq!(client.wait(), Return::TransactionComplete);
    assert_eq!(client.wait(), Return::DeadReply);
}

fn callee_inside_a_call_back(env: &Env) {
    let registry = Registry::start(env);
    let mut client = End::open(env);
    registry.put(&mut client, 2, object::binder(0x2000, 0));
    let mut peer = server(env, &registry, 1, |end, line| {
        let back = registry.get(end, 2);
        line.say(0).expect("the test is there");
        let _ = end.wait_transaction();
        end.start(Call::new(back, 2, &Parcel::from_bytes(b"inner")));
        line.say(1).expect("the test is there");
    });
    peer.hear();
    let handle = registry.get(&mut client, 1);
    client.start(Call::new(handle, 1, &Parcel::from_bytes(b"outer")));
    peer.hear();
    assert_eq!(client.wait(), Return::TransactionComplete);
    let inner = client.wait_transaction();
    peer.kill();
    // Gone for good before the inner call is answered.
    until(|| {
        let mut other = End::open(env);
        let handle = registry.get(&mut other, 1);
        other.start(Call::one_way(handle, 1, &Parcel::new()));
        other.drain() == [Return::DeadReply]
    });
    assert_eq!(client.take(&inner).data, b"inner");
    client.start_reply(Call::reply(&Parcel::new()));
    let mut returns = Vec::new();
    while !returns.contains(&Return::DeadReply) {
        returns.push(client.wait());
    }
    assert_eq!(returns, [Return::TransactionComplete, Return::DeadReply]);
    registry.put(&mut client, 77, object::binder(0x77, 0x77));
}

fn third_inside_a_call(env: &Env) {
    let registry = Registry::start(env);
    let mut peer = server(env, &registry, 3, |end, line| {
        take_call(end, line);
    });
    let mut pair = Pair::at(registry, End::open(env), End::open(env).enter());
    let to_third = pair.registry.get(&mut pair.server, 3);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let outer = pair.server.expect_transaction();
    pair.server.start(Call::new(to_third, 2, &Parcel::new()));
    peer.hear();
    peer.kill();
    assert_eq!(pair.server.wait(), Return::TransactionComplete);
    assert_eq!(pair.server.wait(), Return::DeadReply);
    // The outer call goes on.
    pair.server.give_back(&outer);
    pair.server.answer(&Parcel::from_bytes(b"without it"));
    let reply = pair.client.expect_reply();
    assert_eq!(pair.client.take(&reply).data, b"without it");
    whole(&mut pair);
}

/// A process that calls the node number 1 and does what it is told.
fn caller(env: &Env, registry: &Registry, body: impl FnOnce(&mut End, &Line, u32)) -> Peer {
    Peer::start(env, |env, line| {
        let mut end = End::open(env);
        let handle = registry.get(&mut end, 1);
        body(&mut end, line, handle);
        let _ = line.hear();
    })
}

/// A server here, and a process that calls it.
fn served(env: &Env, body: impl FnOnce(&mut End, &Line, u32)) -> (Registry, End, Peer) {
    let registry = Registry::start(env);
    let mut server = End::open(env);
    registry.put(&mut server, 1, object::binder(node(7).ptr, node(7).cookie));
    let server = server.enter();
    let peer = caller(env, &registry, body);
    (registry, server, peer)
}

/// The server can be called by others, and all of its mapping is free.
#[track_caller]
fn unharmed(env: &Env, registry: Registry, mut server: End) {
    server.drain();
    whole(&mut Pair::at(registry, End::open(env), server));
}

fn caller_before_the_callee_reads(env: &Env) {
    let (registry, mut server, mut peer) = served(env, |end, line, handle| {
        end.start(Call::new(handle, 1, &Parcel::from_bytes(b"from the grave")));
        line.say(1).expect("the test is there");
    });
    peer.hear();
    let pid = peer.pid();
    peer.kill();
    let received = server.wait_transaction();
    assert!(received.sender_pid == 0 || received.sender_pid == pid, "{received:x?}");
    assert_eq!(server.take(&received).data, b"from the grave");
    server.answer(&Parcel::from_bytes(b"to a dead caller"));
    unharmed(env, registry, server);
}

fn caller_after_the_callee_reads(env: &Env) {
    let (registry, mut server, mut peer) = served(env, |end, line, handle| {
        end.start(Call::new(handle, 1, &Parcel::from_bytes(b"last words")));
        line.say(1).expect("the test is there");
    });
    peer.hear();
    let received = server.wait_transaction();
    assert_eq!(received.sender_pid, peer.pid());
    peer.kill();
    assert_eq!(server.take(&received).data, b"last words");
    server.answer(&Parcel::from_bytes(b"to a dead caller"));
    unharmed(env, registry, server);
}

fn caller_that_waits_in_the_kernel(env: &Env) {
    let (registry, mut server, mut peer) = served(env, |end, _, handle| {
        end.set_blocking(true);
        let never = end.call(Call::new(handle, 1, &Parcel::from_bytes(b"waiting")));
        panic!("no reply was sent, but this was read: {never:?}");
    });
    let received = server.wait_transaction();
    until_in_ioctl(peer.pid(), peer.pid());
    peer.kill();
    server.give_back(&received);
    server.answer(&Parcel::new());
    unharmed(env, registry, server);
}

fn caller_inside_a_call_back(env: &Env) {
    let registry = Registry::start(env);
    let mut server = End::open(env);
    registry.put(&mut server, 1, object::binder(node(7).ptr, node(7).cookie));
    let mut server = server.enter();
    let mut peer = Peer::start(env, |env, line| {
        let mut end = End::open(env);
        registry.put(&mut end, 2, object::binder(0x2000, 0));
        let handle = registry.get(&mut end, 1);
        line.say(0).expect("the test is there");
        end.start(Call::new(handle, 1, &Parcel::new()));
        assert_eq!(end.wait(), Return::TransactionComplete);
        let _ = end.wait_transaction();
        line.say(1).expect("the test is there");
        let _ = line.hear();
    });
    peer.hear();
    let back = registry.get(&mut server, 2);
    let outer = server.wait_transaction();
    server.start(Call::new(back, 2, &Parcel::from_bytes(b"inner")));
    peer.hear();
    peer.kill();
    assert_eq!(server.wait(), Return::TransactionComplete);
    assert_eq!(server.wait(), Return::DeadReply);
    server.give_back(&outer);
    server.answer(&Parcel::new());
    unharmed(env, registry, server);
}

fn caller_with_its_reply_unread(env: &Env) {
    let (registry, mut server, mut peer) = served(env, |end, line, handle| {
        end.start(Call::new(handle, 1, &Parcel::new()));
        line.say(1).expect("the test is there");
    });
    peer.hear();
    let received = server.wait_transaction();
    server.give_back(&received);
    let mut reply = Parcel::from_bytes(b"unread");
    // With a node in it, whose reference must come back.
    reply.object(&object::binder(0x4000, 0x4001));
    server.start_reply(Call::reply(&reply));
    let ours = binder_client::uapi::PtrCookie { ptr: 0x4000, cookie: 0x4001 };
    server.expect(&[Return::IncRefs(ours), Return::Acquire(ours), Return::TransactionComplete]);
    server.queue().increfs_done(ours).acquire_done(ours);
    server.flush().expect("the references are granted");
    peer.kill();
    let mut returns = Vec::new();
    until(|| {
        returns.push(server.wait());
        returns.contains(&Return::DecRefs(ours))
    });
    assert!(returns.contains(&Return::Release(ours)));
    unharmed(env, registry, server);
}

fn callee_that_waits_in_the_kernel(env: &Env) {
    for _ in 0..3 {
        let mut scene = Scene::new(env, |end, _| {
            end.set_blocking(true);
            let received = end.next();
            assert!(matches!(received, Ok(Return::Transaction(_))));
        });
        until_in_ioctl(scene.peer.pid(), scene.peer.pid());
        scene.peer.kill();
        until(|| {
            scene.client.start(Call::one_way(scene.handle, 1, &Parcel::new()));
            scene.client.drain() == [Return::DeadReply]
        });
    }
}

fn callee_with_one_way_calls_waiting(env: &Env) {
    let mut scene = Scene::new(env, |_, _| {});
    for number in 0..100 {
        scene.client.start_one_way(Call::new(scene.handle, number, &Parcel::from_bytes(&[1; 100])));
    }
    scene.client.start(Call::new(scene.handle, 1, &Parcel::new()));
    scene.peer.kill();
    scene.dead();
}

fn callee_with_one_way_calls_unfreed(env: &Env) {
    let mut scene = Scene::new(env, |end, line| {
        take_call(end, line);
    });
    for number in 0..10 {
        scene.client.start_one_way(Call::new(scene.handle, number, &Parcel::from_bytes(&[1; 5000])));
    }
    scene.peer.hear();
    scene.client.start(Call::new(scene.handle, 1, &Parcel::new()));
    scene.peer.kill();
    scene.dead();
}

fn callee_with_many_calls_waiting(env: &Env) {
    let mut scene = Scene::new(env, |_, _| {});
    let mut callers: Vec<End> = (0..20).map(|_| End::open(env)).collect();
    let handle = scene.handle;
    scene.registry.put(&mut scene.client, 5, object::handle(handle));
    for end in &mut callers {
        let handle = scene.registry.get(end, 5);
        end.start(Call::new(handle, 1, &Parcel::from_bytes(&[1; 3000])));
    }
    scene.client.start(Call::new(scene.handle, 1, &Parcel::new()));
    scene.peer.kill();
    for end in &mut callers {
        assert_eq!(end.wait(), Return::TransactionComplete);
        assert_eq!(end.wait(), Return::DeadReply);
    }
    scene.dead();
}

fn manager_during_a_call(env: &Env) {
    let mut manager = Peer::start(env, |env, line| {
        let mut end = End::open(env);
        crate::fixture::become_manager(end.binder());
        end.queue().enter_looper();
        line.say(0).expect("the test is there");
        let _ = end.wait_transaction();
        line.say(1).expect("the test is there");
        let _ = line.hear();
    });
    manager.hear();
    let mut client = End::open(env);
    client.start(Call::new(0, 1, &Parcel::from_bytes(b"unanswered")));
    manager.hear();
    manager.kill();
    assert_eq!(client.wait(), Return::TransactionComplete);
    assert_eq!(client.wait(), Return::DeadReply);
    // The next one answers the same client.
    let registry = Registry::start(env);
    registry.put(&mut client, 1, object::binder(1, 1));
}

fn holder_of_many_handles(env: &Env) {
    let registry = Registry::start(env);
    let mut owner = End::open(env);
    let count = 300;
    for number in 0..count {
        registry.put(&mut owner, number, object::binder(u64::from(number) * 8 + 8, 1));
    }
    let mut peer = Peer::start(env, |env, line| {
        let mut end = End::open(env);
        for number in 0..count {
            registry.get(&mut end, number);
        }
        line.say(0).expect("the test is there");
        let _ = line.hear();
    });
    peer.hear();
    let mut owner = owner.enter();
    for number in 0..count {
        registry.drop_kept(&mut owner, number);
    }
    owner.expect(&[]);
    peer.kill();
    let (mut released, mut gone) = (0, 0);
    while gone < count {
        match owner.wait() {
            Return::Release(_) => released += 1,
            Return::DecRefs(_) => gone += 1,
            other => panic!("{other:x?}"),
        }
    }
    assert_eq!(released, count);
    owner.expect(&[]);
}

fn owner_of_many_nodes(env: &Env) {
    let registry = Registry::start(env);
    let count = 300;
    let mut peer = Peer::start(env, |env, line| {
        let mut end = End::open(env);
        for number in 0..count {
            registry.put(&mut end, number, object::binder(u64::from(number) * 8 + 8, 1));
        }
        line.say(0).expect("the test is there");
        let _ = line.hear();
    });
    peer.hear();
    let mut client = End::open(env);
    let handles: Vec<u32> = (0..count).map(|number| registry.get(&mut client, number)).collect();
    peer.kill();
    for handle in handles {
        until(|| {
            client.start(Call::one_way(handle, 1, &Parcel::new()));
            client.drain() == [Return::DeadReply]
        });
        client.queue().release(handle);
    }
    assert_eq!(client.flush(), Ok(()));
    registry.put(&mut client, 1, object::binder(1, 1));
}

fn processes_that_die_while_they_talk(env: &Env) {
    let registry = Registry::start(env);
    for round in 0..15u32 {
        // Each talks to the registry as fast as it can, and is killed somewhere in the middle.
        let mut peer = Peer::start(env, |env, line| {
            let mut end = End::open(env);
            line.say(0).expect("the test is there");
            for number in 0.. {
                registry.put(&mut end, round, object::binder(number * 8 + 8, number));
                if number % 3 == 0 {
                    registry.drop_kept(&mut end, round);
                }
            }
        });
        peer.hear();
        for _ in 0..round {
            std::thread::yield_now();
        }
        peer.kill();
    }
    let mut end = End::open(env);
    registry.put(&mut end, 99, object::binder(1, 1));
    assert_eq!(registry.get(&mut End::open(env), 99), 1);
}

fn all_processes_at_once(env: &Env) {
    let registry = Registry::start(env);
    let mut peers: Vec<Peer> = (0..12)
        .map(|number| {
            Peer::start(env, |env, line| {
                let mut end = End::open(env);
                registry.put(&mut end, number, object::binder(8, number.into()));
                line.say(0).expect("the test is there");
                line.hear().expect("go");
                let next = registry.get(&mut end, (number + 1) % 12);
                loop {
                    end.queue().command(
                        binder_client::uapi::BC_TRANSACTION,
                        &Call::one_way(next, 1, &Parcel::from_bytes(&[1; 2000])).data(),
                    );
                    // A neighbour that is gone, or has no room, is to be expected here.
                    let _ = end.flush();
                    let _ = end.drain();
                }
            })
        })
        .collect();
    for peer in &peers {
        peer.hear();
    }
    peers.iter().for_each(|peer| peer.say(0));
    registry.put(&mut End::open(env), 50, object::binder(1, 1));
    peers.iter_mut().for_each(Peer::kill);
    let mut end = End::open(env);
    registry.put(&mut end, 99, object::binder(1, 1));
    registry.kill(&mut end);
    assert_eq!(end.blocking(|looper| looper.call(Call::new(0, 1, &Parcel::new()))), Err(Error::Dead));
}

fn thread_of_the_callee(env: &Env) {
    // One thread ends in the middle of a call; the process and its other thread live.
    let mut pair = Pair::new(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(b"taken by a thread")));
    let binder = pair.server.binder().clone();
    let received = std::thread::spawn(move || {
        let mut looper = binder_client::Looper::new(binder.clone());
        looper.queue().enter_looper();
        let received = looper.next();
        assert_eq!(binder.thread_exit(), Ok(()));
        received
    })
    .join()
    .expect("the thread is well");
    let Ok(Return::Transaction(received)) = received else { panic!("{received:?}") };
    pair.client.expect(&[Return::TransactionComplete, Return::DeadReply]);
    pair.server.give_back(&received);
    pair.check();
    whole(&mut pair);
}
