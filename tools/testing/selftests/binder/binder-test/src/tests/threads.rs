// SPDX-License-Identifier: GPL-2.0

//! Many concurrent threads and processes.

use std::sync::Arc;
use std::sync::Barrier;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use binder_client::Binder;
use binder_client::Call;
use binder_client::Error;
use binder_client::LIBBINDER_MAPPING;
use binder_client::Looper;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::process;
use binder_client::uapi;
use binder_client::uapi::TransactionData;
use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::tests;
use super::transaction::pattern;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::fixture::until_in_ioctl;
use crate::hostile;

tests! { Core, "threads":
    pool_grows_to_its_limit_and_serves_at_once,
    sixty_four_threads_of_one_process,
    sixty_four_files_of_one_process,
    twenty_processes,
    threads_that_come_and_go,
    nested_calls_from_many_threads,
    one_way_order_of_each_sender_among_many,
    buffers_freed_by_others,
    references_from_many_threads,
    work_that_an_interrupted_thread_was_woken_for,
}

/// What a pool does with a call.
type Handler = dyn Fn(&mut Looper, &TransactionData) -> Parcel + Send + Sync;

/// A process's threads that take calls; it grows when the driver asks for it.
struct Pool {
    binder: Arc<Binder>,
    handler: Box<Handler>,
    threads: AtomicU32,
}

impl Pool {
    /// Starts with one thread and allows so many more.
    fn start(end: &End, more: u32, handler: Box<Handler>) -> Arc<Pool> {
        end.set_blocking(true);
        end.binder().set_max_threads(more).expect("BINDER_SET_MAX_THREADS");
        let pool = Arc::new(Pool { binder: end.binder().clone(), handler, threads: AtomicU32::new(0) });
        pool.clone().spawn(uapi::BC_ENTER_LOOPER);
        pool
    }

    fn spawn(self: Arc<Self>, as_what: u32) {
        // ORDERING: a count, read when all is over.
        self.threads.fetch_add(1, Ordering::Relaxed);
        std::thread::spawn(move || {
            let mut looper = Looper::new(self.binder.clone());
            looper.queue().bare(as_what);
            loop {
                match looper.next().expect("BINDER_WRITE_READ") {
                    Return::SpawnLooper => self.clone().spawn(uapi::BC_REGISTER_LOOPER),
                    Return::Transaction(received) => {
                        let answer = (self.handler)(&mut looper, &received);
                        looper.free(&received);
                        if received.flags & uapi::TF_ONE_WAY == 0 {
                            looper.reply(&answer).expect("BC_REPLY");
                        }
                    }
                    ret => looper.grant(&ret),
                }
            }
        });
    }
}

fn echo(looper: &mut Looper, received: &TransactionData) -> Parcel {
    Parcel::from_bytes(&looper.payload(received).expect("a readable buffer").data)
}

/// A call whose answer must be what it carries.
fn call_echo(looper: &mut Looper, handle: u32, turn: u32) {
    let bytes = pattern(turn as usize * 613 % 6000, turn);
    let parcel = Parcel::from_bytes(&bytes);
    let reply = looper
        .call_with(Call::new(handle, turn, &parcel), |looper, ret| {
            looper.grant(&ret);
            Ok(())
        })
        .expect("a reply");
    assert!(looper.payload(&reply).expect("a readable reply").data == bytes, "turn {turn}: another's answer");
    looper.free(&reply);
}

/// A process with a pool behind its node number 1.
fn pool_process(
    env: &Env,
    registry: &Registry,
    more: u32,
    handler: fn(&mut Looper, &TransactionData) -> Parcel,
) -> Peer {
    let peer = Peer::start(env, |env, line| {
        let mut end = End::open(env);
        registry.put(&mut end, 1, object::binder(8, 8));
        let _pool = Pool::start(&end, more, Box::new(handler));
        line.say(0).expect("the test is there");
        let _ = line.hear();
    });
    peer.hear();
    peer
}

fn pool_grows_to_its_limit_and_serves_at_once(env: &Env) {
    let registry = Registry::start(env);
    for limit in [1usize, 4, 15] {
        let mut end = End::open(env);
        registry.put(&mut end, 1, object::binder(8, 8));
        // No call is answered before as many are in progress as there may be threads.
        let barrier = Barrier::new(limit + 1);
        let handler = move |looper: &mut Looper, received: &TransactionData| {
            barrier.wait();
            echo(looper, received)
        };
        let pool = Pool::start(&end, limit as u32, Box::new(handler));
        let clients: Vec<_> = (0..limit as u32 + 1)
            .map(|number| {
                let mut client = End::open(env);
                let handle = registry.get(&mut client, 1);
                client.set_blocking(true);
                std::thread::spawn(move || (0..5).for_each(|turn| call_echo(&mut client, handle, number * 5 + turn)))
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().expect("the thread is well"));
        // ORDERING: all calls are answered; the pool is at rest.
        assert_eq!(pool.threads.load(Ordering::Relaxed), limit as u32 + 1);
    }
}

fn sixty_four_threads_of_one_process(env: &Env) {
    let registry = Registry::start(env);
    let _server = pool_process(env, &registry, 15, echo);
    let mut end = End::open(env);
    let handle = registry.get(&mut end, 1);
    end.set_blocking(true);
    let threads: Vec<_> = (0..64)
        .map(|number| {
            let binder = end.binder().clone();
            std::thread::spawn(move || {
                let mut looper = Looper::new(binder);
                (0..30).for_each(|turn| call_echo(&mut looper, handle, number * 30 + turn));
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("the thread is well"));
}

fn sixty_four_files_of_one_process(env: &Env) {
    let registry = Registry::start(env);
    let _server = pool_process(env, &registry, 8, echo);
    let ends: Vec<_> = (0..64)
        .map(|_| {
            let mut end = End::open_sized(env, 128 * 1024);
            let handle = registry.get(&mut end, 1);
            end.set_blocking(true);
            (end, handle)
        })
        .collect();
    let threads: Vec<_> = (0..)
        .zip(ends)
        .map(|(number, (mut end, handle))| {
            std::thread::spawn(move || {
                (0..20).for_each(|turn| call_echo(&mut end, handle, number * 20 + turn));
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("the thread is well"));
}

fn twenty_processes(env: &Env) {
    let registry = Registry::start(env);
    let _server = pool_process(env, &registry, 4, echo);
    let peers: Vec<Peer> = (0..20)
        .map(|number| {
            Peer::start(env, |env, _| {
                let mut end = End::open(env);
                let handle = registry.get(&mut end, 1);
                end.set_blocking(true);
                (0..40).for_each(|turn| call_echo(&mut end, handle, number * 40 + turn));
            })
        })
        .collect();
    peers.into_iter().for_each(Peer::join);
}

fn threads_that_come_and_go(env: &Env) {
    let registry = Registry::start(env);
    let _server = pool_process(env, &registry, 4, echo);
    let mut end = End::open(env);
    let handle = registry.get(&mut end, 1);
    end.set_blocking(true);
    for round in 0..10 {
        let threads: Vec<_> = (0..12)
            .map(|number| {
                let binder = end.binder().clone();
                std::thread::spawn(move || {
                    let mut looper = Looper::new(binder.clone());
                    (0..3).for_each(|turn| call_echo(&mut looper, handle, round * 36 + number * 3 + turn));
                    looper.flush().expect("BC_FREE_BUFFER");
                    // Every other one goes without a word.
                    if number % 2 == 0 {
                        binder.thread_exit().expect("BINDER_THREAD_EXIT");
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("the thread is well"));
    }
}

/// Answers a call by calling the manager's registry first: a call inside a call, to a third.
fn ask_the_registry(looper: &mut Looper, received: &TransactionData) -> Parcel {
    let number = Parcel::from_bytes(&1u32.to_ne_bytes());
    // A request for one more thread may come here too; nothing says that it must be met.
    let reply = looper.call_with(Call::new(0, 2, &number), |looper, ret| {
        looper.grant(&ret);
        Ok(())
    });
    let reply = reply.expect("the registry answers");
    // Its own node comes home as such.
    let object = looper.payload(&reply).expect("a readable reply").flat(0);
    assert_eq!(object.and_then(|object| object.as_binder()), Some((8, 8)));
    looper.free(&reply);
    echo(looper, received)
}

fn nested_calls_from_many_threads(env: &Env) {
    let registry = Registry::start(env);
    let _server = pool_process(env, &registry, 10, ask_the_registry);
    let mut end = End::open(env);
    let handle = registry.get(&mut end, 1);
    end.set_blocking(true);
    let threads: Vec<_> = (0..24)
        .map(|number| {
            let binder = end.binder().clone();
            std::thread::spawn(move || {
                let mut looper = Looper::new(binder);
                (0..15).for_each(|turn| call_echo(&mut looper, handle, number * 15 + turn));
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("the thread is well"));
}

fn one_way_order_of_each_sender_among_many(env: &Env) {
    let registry = Registry::start(env);
    let mut end = End::open(env);
    registry.put(&mut end, 1, object::binder(8, 8));
    let (senders, each) = (8usize, 200u32);
    let seen = Arc::new((Mutex::new(vec![0u32; senders]), std::sync::Condvar::new()));
    let shared = seen.clone();
    let handler = move |looper: &mut Looper, received: &TransactionData| {
        let payload = looper.payload(received).expect("a readable buffer");
        let turn = payload.data.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)).expect("a number");
        let mut seen = shared.0.lock().expect("no thread panics");
        let next = &mut seen[received.code as usize];
        assert_eq!(*next, turn, "sender {}", received.code);
        *next += 1;
        shared.1.notify_all();
        Parcel::new()
    };
    let _pool = Pool::start(&end, 6, Box::new(handler));
    let threads: Vec<_> = (0..senders as u32)
        .map(|number| {
            let mut client = End::open(env);
            let handle = registry.get(&mut client, 1);
            client.set_blocking(true);
            std::thread::spawn(move || {
                for turn in 0..each {
                    let parcel = Parcel::from_bytes(&turn.to_ne_bytes());
                    client.send(Call::one_way(handle, number, &parcel)).expect("room for a few bytes");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("the thread is well"));
    let mut all = seen.0.lock().expect("no thread panics");
    while all.iter().any(|count| *count < each) {
        all = seen.1.wait(all).expect("no thread panics");
    }
    assert_eq!(*all, vec![each; senders]);
}

fn buffers_freed_by_others(env: &Env) {
    // Threads receive, one thread gives everything back.
    let registry = Registry::start(env);
    let mut end = End::open(env);
    registry.put(&mut end, 1, object::binder(8, 8));
    let (give, take) = std::sync::mpsc::channel::<u64>();
    let binder = end.binder().clone();
    let freeing = std::thread::spawn(move || {
        let mut looper = Looper::new(binder);
        for address in take {
            looper.queue().free_buffer(address);
            looper.flush().expect("BC_FREE_BUFFER");
        }
    });
    let give = Mutex::new(give);
    end.set_blocking(true);
    let binder = end.binder().clone();
    let serving: Vec<_> = (0..4)
        .map(|_| {
            let binder = binder.clone();
            let give = give.lock().expect("no thread panics").clone();
            std::thread::spawn(move || {
                let mut looper = Looper::new(binder);
                looper.queue().enter_looper();
                loop {
                    match looper.next().expect("BINDER_WRITE_READ") {
                        Return::Transaction(received) => {
                            let answer = echo(&mut looper, &received);
                            give.send(received.buffer).expect("the receiver is there");
                            if received.code == u32::MAX {
                                return;
                            }
                            looper.reply(&answer).expect("BC_REPLY");
                        }
                        ret => looper.grant(&ret),
                    }
                }
            })
        })
        .collect();
    let mut client = End::open(env);
    let handle = registry.get(&mut client, 1);
    client.set_blocking(true);
    let clients: Vec<_> = (0..6)
        .map(|number| {
            let binder = client.binder().clone();
            std::thread::spawn(move || {
                let mut looper = Looper::new(binder);
                (0..40).for_each(|turn| call_echo(&mut looper, handle, number * 40 + turn));
            })
        })
        .collect();
    clients.into_iter().for_each(|thread| thread.join().expect("the thread is well"));
    for _ in 0..4 {
        // Each ends one thread and is never answered.
        let binder = client.binder().clone();
        std::thread::spawn(move || {
            let mut commands = binder_client::Commands::new();
            let empty = Parcel::new();
            commands.transaction(Call::new(handle, u32::MAX, &empty));
            let (result, _) = binder.write_read(commands.bytes(), &mut []);
            assert_eq!(result, Ok(()));
        })
        .join()
        .expect("the thread is well");
    }
    serving.into_iter().for_each(|thread| thread.join().expect("the thread is well"));
    drop(give);
    freeing.join().expect("the thread is well");
    // All of the mapping is there again.
    client.set_blocking(false);
    let parcel = Parcel::from_bytes(&vec![1; LIBBINDER_MAPPING]);
    client.start(Call::new(handle, 1, &parcel));
    client.expect(&[]);
}

fn references_from_many_threads(env: &Env) {
    let registry = Registry::start(env);
    let mut owner = End::open(env);
    registry.put(&mut owner, 1, object::binder(0x800, 0x801));
    let mut owner = owner.enter();
    let mut holder = End::open(env);
    let handle = registry.get(&mut holder, 1);
    registry.drop_kept(&mut holder, 1);
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let binder = holder.binder().clone();
            std::thread::spawn(move || {
                let mut looper = Looper::new(binder);
                for _ in 0..200 {
                    looper.queue().acquire(handle).increfs(handle);
                    looper.flush().expect("BC_ACQUIRE");
                    looper.queue().decrefs(handle).release(handle);
                    looper.flush().expect("BC_RELEASE");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("the thread is well"));
    owner.expect(&[]);
    holder.queue().release(handle);
    holder.flush().expect("BC_RELEASE");
    let node = uapi::PtrCookie { ptr: 0x800, cookie: 0x801 };
    owner.expect(&[Return::Release(node), Return::DecRefs(node)]);
}

/// A thread that waits for one read to end, asleep by now.
fn waiting(binder: &Arc<Binder>) -> (i32, std::thread::JoinHandle<binder_client::Result<Option<Return>>>) {
    let mut looper = Looper::new(binder.clone());
    let (say, hear) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        looper.queue().enter_looper();
        // The first read of a thread does not wait.
        looper.talk(true)?;
        say.send(process::thread_id()).expect("the receiver is there");
        looper.talk(true)?;
        Ok(looper.pending())
    });
    let id = hear.recv().expect("the thread is there");
    until_in_ioctl(nix::unistd::getpid().as_raw(), id);
    (id, thread)
}

fn work_that_an_interrupted_thread_was_woken_for(env: &Env) {
    hostile::handle_signal(Signal::SIGUSR1, false);
    process::pin_to(0).expect("there is a processor");
    for number in 1..6 {
        let registry = Registry::start(env);
        let mut owner = End::open(env);
        registry.put(&mut owner, 1, object::binder(0x800 * number, 0));
        let mut holder = End::open(env);
        let handle = registry.get(&mut holder, 1);
        registry.drop_kept(&mut holder, 1);
        owner.set_blocking(true);
        let (_, first) = waiting(owner.binder());
        let (id, last) = waiting(owner.binder());
        // The last to fall asleep is the first to be woken. When it comes to run, it has a signal, and the work is still
        // there: the other one has to hear of it.
        hostile::go_first(true);
        hostile::signal_thread(id, Signal::SIGUSR1);
        holder.queue().release(handle);
        let released = holder.flush();
        hostile::go_first(false);
        assert_eq!(released, Ok(()));
        let interrupted = last.join().expect("the thread is well");
        assert!(matches!(interrupted, Err(Error::Sys { errno: Errno::EINTR, .. })), "{interrupted:x?}");
        let node = uapi::PtrCookie { ptr: 0x800 * number, cookie: 0 };
        assert_eq!(first.join().expect("the thread is well"), Ok(Some(Return::Release(node))));
    }
}
