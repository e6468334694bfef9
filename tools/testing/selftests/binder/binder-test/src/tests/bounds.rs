// SPDX-License-Identifier: GPL-2.0

//! The cost of operations does not grow with the number of objects.
//!
//! Much of this happens under a spinlock that other processes wait for. The guest's clock counts instructions here, so
//! a duration is the same in every run; elsewhere these tests are skipped. The C driver walks its lists.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::time::Duration;

use binder_client::Call;
use binder_client::Commands;
use binder_client::LIBBINDER_MAPPING;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::clock;
use binder_client::clock::Clock;
use binder_client::object;
use binder_client::process::Child;
use binder_client::uapi;
use binder_client::uapi::FlatObject;
use binder_client::uapi::FreezeInfo;
use binder_client::uapi::FrozenStatusInfo;
use nix::errno::Errno;
use nix::libc;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;

use super::tests;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::hostile;
use crate::hostile::PAGE;
use crate::hostile::Torn;

tests! { Bounds, "bounds":
    handle_goes_beside_many_death_notifications,
    death_notification_is_acknowledged_beside_many,
    freeze_notification_is_acknowledged_beside_many,
    node_goes_that_is_queued_behind_many,
    update_takes_its_place_behind_many,
    one_way_call_among_many_of_others_in_little_room,
    node_is_new_beside_many_handles,
    frozen_state_of_a_process_with_many_threads,
    work_comes_for_many_threads_that_poll,
    file_is_closed_that_many_wait_for,
    mapping_goes_that_many_files_are_in_flight_to,
    real_time_caller_waits_for_no_allocation,
}

/// How many there are of what is in the way, and how many at the other time.
const FEW: usize = 50;
const MANY: usize = 3000;

/// Needs a clock that counts instructions.
fn need_instructions(env: &Env) {
    if env.driver == Driver::C {
        env.skip("the C driver walks its lists");
    }
    if Clock::check() != Clock::Instructions {
        env.skip("the guest's clock does not count instructions");
    }
}

/// How long something takes in which no other thread has its turn.
fn cost(body: impl FnOnce()) -> Duration {
    hostile::go_first(true);
    let start = clock::now();
    body();
    let cost = clock::now() - start;
    hostile::go_first(false);
    cost
}

/// The cost with many in the way is that with few: a search in a tree apart, and a tick of the timer.
#[track_caller]
fn compare(few: Duration, many: Duration) {
    let allowance = Duration::from_nanos(5_000);
    println!("{} instructions with few, {} with many", few.as_nanos(), many.as_nanos());
    assert!(many < 2 * few + allowance, "{many:?} instead of {few:?}");
}

/// A process that gives away as many nodes as it is asked for, and answers nothing else.
struct Maker {
    peer: Peer,
    /// Nodes of one call.
    handle: u32,
}

/// Nodes in one reply.
const BATCH: usize = 50;

impl Maker {
    fn start(env: &Env, registry: &Registry, client: &mut End) -> Self {
        let peer = Peer::start(env, |env, line| {
            let mut end = End::open(env);
            registry.put(&mut end, 1, object::binder(8, 8));
            line.say(0).expect("the test is there");
            let mut next = 0x1000;
            end.set_blocking(true);
            let served = end.serve(|_, _| {
                let mut parcel = Parcel::new();
                for _ in 0..BATCH {
                    parcel.object(&object::binder(next, next));
                    next += 8;
                }
                binder_client::Served::Reply(parcel)
            });
            panic!("{served:?}");
        });
        peer.hear();
        let handle = registry.get(client, 1);
        Self { peer, handle }
    }

    /// Handles to nodes of its own, each with one strong reference.
    fn make(&self, client: &mut End, count: usize) -> Vec<u32> {
        let mut handles = Vec::new();
        while handles.len() < count {
            let handle = self.handle;
            let reply = client.blocking(|looper| looper.call(Call::new(handle, 1, &Parcel::new()))).expect("a reply");
            let payload = client.payload(&reply).expect("a readable reply");
            for index in 0..BATCH {
                let handle = payload.flat(index).and_then(|object| object.as_handle()).expect("a handle");
                client.queue().acquire(handle);
                handles.push(handle);
            }
            client.give_back(&reply);
        }
        handles
    }

    /// Kills it; every death notification has come.
    fn die(&mut self, client: &mut End, notifications: usize) -> Vec<u64> {
        self.peer.kill();
        let mut cookies = Vec::new();
        while cookies.len() < notifications {
            match client.wait() {
                Return::DeadBinder(cookie) => cookies.push(cookie),
                other => panic!("not a death notification: {other:x?}"),
            }
        }
        cookies
    }
}

/// A client with notifications for as many handles, none of them acknowledged.
fn with_death_notifications(env: &Env, count: usize, body: impl FnOnce(&mut End, &[u32])) {
    let registry = Registry::start(env);
    let mut client = End::open(env).enter();
    let mut maker = Maker::start(env, &registry, &mut client);
    let handles = maker.make(&mut client, count);
    for handle in &handles {
        client.queue().request_death(*handle, u64::from(*handle));
        if client.queue().len() > 4000 {
            client.flush().expect("BC_REQUEST_DEATH_NOTIFICATION");
        }
    }
    client.flush().expect("BC_REQUEST_DEATH_NOTIFICATION");
    maker.die(&mut client, count);
    body(&mut client, &handles);
    drop(client);
    registry.kill(&mut End::open(env));
}

fn send(end: &mut End, fill: impl FnOnce(&mut Commands<'static>)) -> Duration {
    fill(end.queue());
    cost(|| end.flush().expect("BINDER_WRITE_READ"))
}

fn handle_goes_beside_many_death_notifications(env: &Env) {
    need_instructions(env);
    let measure = |count| {
        let mut spent = Duration::ZERO;
        with_death_notifications(env, count, |client, handles| {
            let last = handles[count - 1];
            spent = send(client, |commands| {
                commands.release(last);
            });
        });
        spent
    };
    compare(measure(FEW), measure(MANY));
}

fn death_notification_is_acknowledged_beside_many(env: &Env) {
    need_instructions(env);
    let measure = |count| {
        let mut spent = Duration::ZERO;
        with_death_notifications(env, count, |client, handles| {
            let last = u64::from(handles[count - 1]);
            spent = send(client, |commands| {
                commands.dead_binder_done(last);
            });
        });
        spent
    };
    compare(measure(FEW), measure(MANY));
}

fn freeze_notification_is_acknowledged_beside_many(env: &Env) {
    need_instructions(env);
    let measure = |count: usize| {
        let registry = Registry::start(env);
        let mut client = End::open(env).enter();
        let maker = Maker::start(env, &registry, &mut client);
        let handles = maker.make(&mut client, count);
        for handle in &handles {
            client.queue().request_freeze(*handle, u64::from(*handle));
            client.flush().expect("BC_REQUEST_FREEZE_NOTIFICATION");
            assert!(matches!(client.wait(), Return::FrozenBinder(_)));
        }
        let last = u64::from(handles[count - 1]);
        let spent = send(&mut client, |commands| {
            commands.freeze_done(last);
        });
        drop(client);
        registry.kill(&mut End::open(env));
        spent
    };
    compare(measure(FEW), measure(MANY));
}

fn node_goes_that_is_queued_behind_many(env: &Env) {
    need_instructions(env);
    let measure = |count: usize| {
        let registry = Registry::start(env);
        let mut client = End::open(env).enter();
        let (mut server, _) = registry.another(env, &mut client);
        registry.put(&mut client, 3, object::binder(0x300, 0x308));
        let back = registry.get(&mut server, 3);
        // The server sends nodes and reads nothing: all that it is asked for stands in its list.
        for number in 0..count as u64 {
            let parcel = Parcel::from_object(&object::binder(0x10_0000 + 8 * number, 0));
            server.start(Call::one_way(back, 1, &parcel));
        }
        // The client gives up all but the last, and then the last, whose node goes with that.
        let mut received = Vec::new();
        while received.len() < count - 1 {
            let one = client.wait_transaction();
            client.give_back(&one);
            received.push(one);
        }
        let last = client.wait_transaction();
        client.free(&last);
        let spent = cost(|| client.flush().expect("BC_FREE_BUFFER"));
        drop((client, server));
        registry.kill(&mut End::open(env));
        spent
    };
    compare(measure(FEW), measure(MANY));
}

/// What it costs to send a one-way call to a mapping in which other processes have so many, and little room is left
/// for more, or much.
fn among_one_way_calls(env: &Env, senders: usize, short: bool) -> Duration {
    // Not so many of one sender that it is suspected; of the half, less than a fifth is left, or more.
    const EACH: usize = 40;
    const SIZE: usize = 64;
    let taken = senders * EACH * SIZE;
    let mapping = if short { taken * 20 / 9 } else { taken * 4 }.next_multiple_of(PAGE);
    let registry = Registry::start(env);
    let mut server = End::open_sized(env, mapping);
    registry.put(&mut server, 1, object::binder(8, 8));
    let parcel = Parcel::from_bytes(&[1; SIZE]);
    let peers: Vec<Peer> = (0..senders)
        .map(|_| {
            let peer = Peer::start(env, |env, line| {
                let mut end = End::open_sized(env, PAGE);
                let handle = registry.get(&mut end, 1);
                for _ in 0..EACH {
                    end.start_one_way(Call::new(handle, 1, &parcel));
                }
                line.say(0).expect("the test is there");
                let _ = line.hear();
            });
            peer.hear();
            peer
        })
        .collect();
    let mut client = End::open(env);
    let handle = registry.get(&mut client, 1);
    // The first one makes known what is new to the sender.
    client.start_one_way(Call::new(handle, 1, &parcel));
    let spent = send(&mut client, |commands| {
        commands.command(uapi::BC_TRANSACTION, &Call::one_way(handle, 1, &parcel).data());
    });
    client.expect(&[Return::TransactionComplete]);
    drop((peers, client, server));
    registry.kill(&mut End::open(env));
    spent
}

fn one_way_call_among_many_of_others_in_little_room(env: &Env) {
    need_instructions(env);
    compare(among_one_way_calls(env, 16, false), among_one_way_calls(env, 16, true));
}

fn update_takes_its_place_behind_many(env: &Env) {
    need_instructions(env);
    let measure = |count: usize| {
        let registry = Registry::start(env);
        let peer = Peer::start(env, |env, line| {
            let mut end = End::open(env);
            registry.put(&mut end, 1, object::binder(8, 8));
            line.say(0).expect("the test is there");
            let _ = line.hear();
        });
        peer.hear();
        let mut client = End::open(env).enter();
        let handle = registry.get(&mut client, 1);
        let mut info = FreezeInfo { pid: peer.pid() as u32, enable: 1, timeout_ms: 0 };
        assert_eq!(client.binder().ioctl(uapi::BINDER_FREEZE, &mut info), Ok(0));
        let empty = Parcel::new();
        let update = |code| Call::one_way(handle, code, &empty).with_flags(uapi::TF_UPDATE_TXN);
        for code in 0..count as u32 {
            client.start(update(code));
            client.expect(&[Return::TransactionPendingFrozen]);
        }
        client.queue().command(uapi::BC_TRANSACTION, &update(count as u32 - 1).data());
        let spent = cost(|| client.flush().expect("BC_TRANSACTION"));
        drop(client);
        drop(peer);
        registry.kill(&mut End::open(env));
        spent
    };
    compare(measure(FEW), measure(MANY));
}

fn node_is_new_beside_many_handles(env: &Env) {
    need_instructions(env);
    let measure = |count: usize| {
        let registry = Registry::start(env);
        let mut client = End::open(env).enter();
        let maker = Maker::start(env, &registry, &mut client);
        maker.make(&mut client, count);
        let (mut server, _) = registry.another(env, &mut client);
        registry.put(&mut client, 3, object::binder(0x300, 0x308));
        let back = registry.get(&mut server, 3);
        let parcel = Parcel::from_object(&object::binder(0x10_0000, 0));
        server
            .queue()
            .command(uapi::BC_TRANSACTION, &Call::one_way(back, 1, &parcel).with_flags(uapi::TF_ONE_WAY).data());
        let spent = cost(|| server.flush().expect("BC_TRANSACTION"));
        drop((client, server));
        registry.kill(&mut End::open(env));
        spent
    };
    compare(measure(FEW), measure(MANY));
}

/// Threads of a file that do what they are told once and then wait for the end of the process.
fn with_threads(end: &End, count: usize, body: fn(&binder_client::Binder)) {
    let (say, hear) = std::sync::mpsc::channel();
    for _ in 0..count {
        let (binder, say) = (end.binder().clone(), say.clone());
        let builder = std::thread::Builder::new().stack_size(64 << 10);
        builder
            .spawn(move || {
                body(&binder);
                say.send(()).expect("the test is there");
                loop {
                    std::thread::park();
                }
            })
            .expect("a thread");
    }
    (0..count).for_each(|_| hear.recv().expect("the thread is there"));
}

/// How many threads there are where there are many.
const THREADS: usize = 400;

fn frozen_state_of_a_process_with_many_threads(env: &Env) {
    need_instructions(env);
    let measure = |count: usize| {
        let (peer, mut client, registry) = {
            let registry = Registry::start(env);
            let peer = Peer::start(env, |env, line| {
                let mut end = End::open(env);
                registry.put(&mut end, 1, object::binder(8, 8));
                with_threads(&end, count, |binder| {
                    binder.version().expect("BINDER_VERSION");
                });
                line.say(0).expect("the test is there");
                let _ = line.hear();
            });
            peer.hear();
            (peer, End::open(env), registry)
        };
        let mut info = FrozenStatusInfo { pid: peer.pid() as u32, ..FrozenStatusInfo::default() };
        let binder = client.binder().clone();
        let spent = cost(|| {
            binder.ioctl(uapi::BINDER_GET_FROZEN_INFO, &mut info).expect("BINDER_GET_FROZEN_INFO");
        });
        client.drain();
        drop(client);
        drop(peer);
        registry.kill(&mut End::open(env));
        spent
    };
    compare(measure(FEW), measure(THREADS));
}

fn work_comes_for_many_threads_that_poll(env: &Env) {
    need_instructions(env);
    let measure = |count: usize| {
        let registry = Registry::start(env);
        let mut client = End::open(env).enter();
        // Its threads have polled, and each has something else to read, so that none of them may take the call.
        let peer = Peer::start(env, |env, line| {
            let mut end = End::open(env);
            registry.put(&mut end, 1, object::binder(8, 8));
            with_threads(&end, count, |binder| {
                let mut fds = [PollFd::new(binder.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::ZERO).expect("poll");
                let mut commands = Commands::new();
                let empty = Parcel::new();
                commands.transaction(Call::one_way(0, Registry::GET, &empty).with_flags(uapi::TF_ONE_WAY));
                binder.write_read(commands.bytes(), &mut []).0.expect("BC_TRANSACTION");
            });
            line.say(0).expect("the test is there");
            let _ = line.hear();
        });
        peer.hear();
        let handle = registry.get(&mut client, 1);
        let empty = Parcel::new();
        client
            .queue()
            .command(uapi::BC_TRANSACTION, &Call::one_way(handle, 1, &empty).with_flags(uapi::TF_ONE_WAY).data());
        let spent = cost(|| client.flush().expect("BC_TRANSACTION"));
        drop(client);
        drop(peer);
        registry.kill(&mut End::open(env));
        spent
    };
    compare(measure(FEW), measure(THREADS));
}

fn file_is_closed_that_many_wait_for(env: &Env) {
    need_instructions(env);
    let measure = |count: usize| {
        let registry = Registry::start(env);
        let mut client = End::open(env).enter();
        let (server, handle) = registry.another(env, &mut client);
        let empty = Parcel::new();
        for _ in 0..count {
            client.start_one_way(Call::one_way(handle, 1, &empty));
        }
        let spent = cost(|| drop(server));
        drop(client);
        registry.kill(&mut End::open(env));
        spent
    };
    compare(measure(FEW), measure(MANY));
}

fn mapping_goes_that_many_files_are_in_flight_to(env: &Env) {
    need_instructions(env);
    let measure = |count: usize| {
        let registry = Registry::start(env);
        let mut client = End::open(env).enter();
        let mut server = End::open_unmapped(env).enter();
        let torn = Torn::map(server.binder().as_fd(), LIBBINDER_MAPPING);
        let node = FlatObject { flags: uapi::FLAT_BINDER_FLAG_ACCEPTS_FDS, ..object::binder(0x9000, 0x9008) };
        registry.put(&mut server, 9, node);
        let handle = registry.get(&mut client, 9);
        let (read, write) = nix::unistd::pipe().expect("pipe");
        let parcel = Parcel::from_object(&object::fd(write.as_raw_fd(), 0));
        for _ in 0..count {
            client.start_one_way(Call::one_way(handle, 1, &parcel));
        }
        drop(write);
        let spent = cost(|| torn.unmap(0..LIBBINDER_MAPPING / PAGE));
        // It does come to its end.
        assert_eq!(std::fs::File::from(read).read(&mut [0; 1]).expect("the end"), 0);
        drop((client, server));
        registry.kill(&mut End::open(env));
        spent
    };
    compare(measure(FEW), measure(MANY));
}

/// Sets the calling thread's scheduling policy.
fn set_policy(policy: i32, priority: i32) {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameter lives until the call is over.
    let result = unsafe { libc::sched_setscheduler(0, policy, &parameter) };
    Errno::result(result).expect("the test runs as root");
}

/// One thread of no priority sends nodes to a process, which makes handles for them; a thread of that process that has a
/// real-time priority uses a handle meanwhile, and another process takes all the time there is between the two.
fn real_time_caller_waits_for_no_allocation(env: &Env) {
    need_instructions(env);
    let registry = Registry::start(env);
    let mut end = End::open(env).enter();
    let (mut sender, _) = registry.another(env, &mut end);
    registry.put(&mut end, 3, object::binder(0x300, 0x308));
    let back = registry.get(&mut sender, 3);
    let maker = Maker::start(env, &registry, &mut end);
    let handle = maker.handle;

    let idle = std::thread::spawn(move || {
        set_policy(libc::SCHED_IDLE, 0);
        let mut next = 0x10_0000;
        loop {
            let mut parcel = Parcel::new();
            for _ in 0..200 {
                parcel.object(&object::binder(next, next));
                next += 8;
            }
            sender
                .queue()
                .command(uapi::BC_TRANSACTION, &Call::one_way(back, 1, &parcel).with_flags(uapi::TF_ONE_WAY).data());
            sender.flush().expect("BC_TRANSACTION");
            // That it was sent, or that there was no room.
            sender.drain();
        }
    });
    // It leaves a sixth of the time to the other, a little at a time.
    let hog = Child::spawn(|| {
        hostile::set_nice(19);
        loop {
            std::hint::spin_loop();
        }
    })
    .expect("fork");
    let mut longest = Duration::ZERO;
    set_policy(libc::SCHED_FIFO, 50);
    for _ in 0..300 {
        std::thread::sleep(Duration::from_micros(2700));
        // Room for more.
        for ret in end.drain() {
            if let Return::Transaction(received) = ret {
                end.give_back(&received);
            }
        }
        std::thread::sleep(Duration::from_micros(1300));
        let start = clock::now();
        end.queue().acquire(handle).release(handle);
        end.flush().expect("BC_ACQUIRE");
        longest = longest.max(clock::now() - start);
    }
    set_policy(libc::SCHED_OTHER, 0);
    drop(hog);
    drop(end);
    println!("the longest of 300 took {} instructions", longest.as_nanos());
    assert!(longest < Duration::from_micros(300), "{longest:?}");
    drop(idle);
    drop(maker);
    registry.kill(&mut End::open(env));
}
