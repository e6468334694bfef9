// SPDX-License-Identifier: GPL-2.0

//! Many processes that all serve and all call: no transaction is lost, duplicated or reordered, and no process starves.
//!
//! The scheduler decides how fast each process runs. The driver decides the order: which thread gets the next work
//! item, and which item is next. The tests compare that order.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::mpsc;

use binder_client::Binder;
use binder_client::Call;
use binder_client::Error;
use binder_client::Looper;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::clock;
use binder_client::object;
use binder_client::process;
use binder_client::uapi;
use binder_client::uapi::TransactionData;

use super::counts::at_rest;
use super::counts::file;
use super::counts::until_no_more_than;
use super::tests;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::fixture::node;
use crate::fixture::until_in_ioctl;

tests! { Interface, "mesh":
    twenty_processes_that_all_call_all,
    calls_wait_in_the_order_in_which_they_came,
    next_one_way_call_goes_behind_what_waits,
    thread_that_slept_last_is_woken_first,
    next_one_way_call_goes_to_a_thread_that_sleeps,
}

/// How large the mesh is and what is sent in it.
#[derive(Clone, Copy)]
struct Mesh {
    processes: u32,
    /// Threads of each process that take calls.
    loopers: u32,
    /// How often each process goes round all the others.
    rounds: u32,
    /// One-way calls to each of them in a round; a call follows.
    one_way: u32,
}

/// What a message says: its sender and its number among those of the sender to the receiver, which are counted apart
/// for calls and one-way calls.
fn message(sender: u32, number: u32) -> Parcel {
    let mut parcel = Parcel::from_bytes(&sender.to_ne_bytes());
    parcel.bytes(&number.to_ne_bytes());
    // Of different sizes.
    parcel.bytes(&vec![sender as u8; number as usize * 24 % 128]);
    parcel
}

/// The words at the head of what arrived.
fn words<const N: usize>(looper: &Looper, received: &TransactionData) -> [u32; N] {
    let data = looper.payload(received).expect("a readable buffer").data;
    let mut words = data.chunks_exact(4).map(|word| word.try_into().map(u32::from_ne_bytes).expect("four bytes"));
    std::array::from_fn(|_| words.next().expect("so many words"))
}

/// What a process of the mesh has received.
struct Arrived {
    /// From each process: calls and one-way calls.
    from: Vec<[u32; 2]>,
    /// A one-way call is being worked on.
    in_one_way: bool,
    /// By each thread.
    by: Vec<u32>,
}

struct Server {
    arrived: Mutex<Arrived>,
    changed: Condvar,
}

impl Server {
    fn new(mesh: Mesh) -> Self {
        let arrived = Arrived {
            from: vec![[0; 2]; mesh.processes as usize],
            in_one_way: false,
            by: vec![0; mesh.loopers as usize],
        };
        Self { arrived: Mutex::new(arrived), changed: Condvar::new() }
    }

    /// Takes calls as thread `thread` of process `own`.
    fn serve(&self, binder: Arc<Binder>, own: u32, thread: usize) {
        let mut looper = Looper::new(binder);
        looper.queue().enter_looper();
        loop {
            let received = match looper.next().expect("BINDER_WRITE_READ") {
                Return::Transaction(received) => received,
                Return::TransactionComplete => continue,
                other => panic!("a looper read {other:x?}"),
            };
            let [sender, number] = words(&looper, &received);
            let one_way = received.flags & uapi::TF_ONE_WAY != 0;
            let mut arrived = self.arrived.lock().expect("no thread panics");
            arrived.by[thread] += 1;
            let next = &mut arrived.from[sender as usize][usize::from(one_way)];
            assert_eq!(number, *next, "process {sender} to {own}, one-way: {one_way}");
            *next += 1;
            assert!(!(one_way && arrived.in_one_way), "two one-way calls to {own} at a time");
            arrived.in_one_way |= one_way;
            drop(arrived);
            if one_way {
                // A chance for the other threads; until this one is given back none may get the next one.
                std::thread::yield_now();
                self.arrived.lock().expect("no thread panics").in_one_way = false;
            }
            looper.free(&received);
            if !one_way {
                let mut answer = Parcel::from_bytes(&own.to_ne_bytes());
                answer.bytes(&sender.to_ne_bytes()).bytes(&number.to_ne_bytes());
                looper.reply(&answer).expect("BC_REPLY");
            }
            self.changed.notify_all();
        }
    }

    /// Waits until everything from all the others has come.
    fn until_all_of(&self, mesh: Mesh, own: u32) {
        let wanted = [mesh.rounds, mesh.rounds * mesh.one_way];
        let complete = |arrived: &Arrived| {
            (0..).zip(&arrived.from).all(|(sender, got)| *got == if sender == own { [0; 2] } else { wanted })
        };
        let mut arrived = self.arrived.lock().expect("no thread panics");
        while !complete(&arrived) {
            arrived = self.changed.wait(arrived).expect("no thread panics");
        }
    }
}

/// One call, which must get its own answer; an answer to another one, or a second one, is an error.
fn call(looper: &mut Looper, handle: u32, own: u32, other: u32, number: u32) {
    let reply = looper.call(Call::new(handle, number, &message(own, number))).expect("one reply");
    assert_eq!(words(looper, &reply), [other, own, number]);
    assert_eq!(looper.pending(), None);
    looper.free(&reply);
}

/// Process `own` of the mesh.
fn member(env: &Env, line: &process::Line, registry: &Registry, mesh: Mesh, own: u32) {
    let hear = || line.hear().expect("the test is there");
    let say = |number| line.say(number).expect("the test is there");
    let mut end = End::open(env);
    let node = node(u64::from(own) + 1);
    registry.put(&mut end, own, object::binder(node.ptr, node.cookie));
    say(0);
    hear();
    let others: Vec<(u32, u32)> = (1..mesh.processes)
        .map(|step| (own + step) % mesh.processes)
        .map(|other| (other, registry.get(&mut end, other)))
        .collect();
    end.set_blocking(true);
    let server = Arc::new(Server::new(mesh));
    for thread in 0..mesh.loopers as usize {
        let (server, binder) = (server.clone(), end.binder().clone());
        std::thread::spawn(move || server.serve(binder, own, thread));
    }
    say(0);
    hear();

    for round in 0..mesh.rounds {
        for &(other, handle) in &others {
            for number in round * mesh.one_way..(round + 1) * mesh.one_way {
                end.send(Call::one_way(handle, number, &message(own, number))).expect("room for all there are");
            }
            call(&mut end, handle, own, other, round);
        }
    }
    end.flush().expect("BC_FREE_BUFFER");
    say(clock::now().as_nanos() as u64);
    // How far the others are by now, in messages to this process.
    let arrived = server.arrived.lock().expect("no thread panics");
    let least = (0..).zip(&arrived.from).filter(|(sender, _)| *sender != own).map(|(_, got)| got[0] + got[1]).min();
    drop(arrived);
    say(least.unwrap_or_default().into());
    server.until_all_of(mesh, own);
    say(clock::now().as_nanos() as u64);
    let by = server.arrived.lock().expect("no thread panics").by.clone();
    by.into_iter().for_each(|count| say(count.into()));
    // Until all others have their replies.
    hear();
}

/// The figures at its end are for information: they depend on the scheduler.
fn run(env: &Env, mesh: Mesh) {
    let registry = Registry::start(env);
    let members: Vec<Peer> =
        (0..mesh.processes).map(|own| Peer::start(env, |env, line| member(env, line, &registry, mesh, own))).collect();
    let all_heard = || -> Vec<u64> { members.iter().map(Peer::hear).collect() };
    all_heard();
    members.iter().for_each(|member| member.say(0));
    all_heard();
    let start = clock::now().as_nanos() as u64;
    members.iter().for_each(|member| member.say(0));
    let sent = all_heard();
    let least = all_heard();
    let received = all_heard();
    let by: Vec<Vec<u64>> = (0..mesh.loopers).map(|_| all_heard()).collect();
    members.iter().for_each(|member| member.say(0));
    members.into_iter().for_each(Peer::join);

    let first = (0..sent.len()).min_by_key(|&own| sent[own]).expect("a process");
    let after = |times: &[u64]| times.iter().max().map(|last| (last - start) / 1_000_000);
    println!(
        "{} processes, {} calls and {} one-way calls each: all sent after {:?} ms, all received after {:?} ms",
        mesh.processes,
        mesh.rounds * (mesh.processes - 1),
        mesh.rounds * mesh.one_way * (mesh.processes - 1),
        after(&sent).unwrap_or_default(),
        after(&received).unwrap_or_default(),
    );
    println!(
        "process {first} was first, after {} ms; the slowest had sent it {} of {} messages",
        (sent[first] - start) / 1_000_000,
        least[first],
        mesh.rounds * (1 + mesh.one_way)
    );
    println!("messages taken by each process's threads: {by:?}");
}

fn twenty_processes_that_all_call_all(env: &Env) {
    let path = file(env);
    let before = at_rest(env, &path);
    let rounds = if env.thorough { 60 } else { 10 };
    run(env, Mesh { processes: 20, loopers: 2, rounds, one_way: 2 });
    until_no_more_than(&path, &before, |_| true);
}

/// Clients that each have a handle to the pair's server.
fn clients(pair: &mut Pair, env: &Env, count: usize) -> Vec<(End, u32)> {
    pair.registry.put(&mut pair.server, 2, object::binder(Pair::NODE.ptr, Pair::NODE.cookie));
    (0..count)
        .map(|_| {
            let mut client = End::open(env);
            let handle = pair.registry.get(&mut client, 2);
            (client, handle)
        })
        .collect()
}

fn calls_wait_in_the_order_in_which_they_came(env: &Env) {
    let mut pair = Pair::new(env);
    let mut clients = clients(&mut pair, env, 20);
    // A client that calls again as soon as it can is behind all that wait.
    let order = |turn: usize| turn * 7 % 20;
    for turn in 0..20 {
        let (client, handle) = &mut clients[order(turn)];
        client.start(Call::new(*handle, turn as u32, &Parcel::new()));
    }
    for turn in 0..100 {
        let received = pair.server.expect_transaction();
        assert_eq!(received.code, turn as u32);
        pair.server.give_back(&received);
        pair.server.start_reply(Call::reply(&Parcel::new()));
        let (client, handle) = &mut clients[order(turn)];
        let reply = client.expect_reply();
        client.give_back(&reply);
        client.start(Call::new(*handle, turn as u32 + 20, &Parcel::new()));
        // Only now, since the thread takes the next call with it.
        assert_eq!(pair.server.talk(true), Ok(()));
        assert_eq!(pair.server.pending(), Some(Return::TransactionComplete));
        if let Some(ret) = pair.server.pending() {
            let Return::Transaction(next) = ret else { panic!("{ret:x?}") };
            assert_eq!(next.code, turn as u32 + 1);
        }
    }
}

fn next_one_way_call_goes_behind_what_waits(env: &Env) {
    let mut pair = Pair::new(env);
    pair.registry.put(&mut pair.server, 3, object::binder(0x3000, 0x3001));
    let second = pair.registry.get(&mut pair.client, 3);
    let mut clients = clients(&mut pair, env, 3);
    // Many to one node; then one to another one, and calls.
    for number in 0..4 {
        pair.client.start_one_way(Call::new(pair.handle, number, &Parcel::new()));
    }
    pair.client.start_one_way(Call::new(second, 10, &Parcel::new()));
    for (number, (client, handle)) in (20..).zip(&mut clients) {
        client.start(Call::new(*handle, number, &Parcel::new()));
    }
    pair.client.start_one_way(Call::new(second, 11, &Parcel::new()));
    let mut order = Vec::new();
    while order.len() < 9 {
        let received = match pair.server.next() {
            Ok(Return::Transaction(received)) => received,
            Ok(Return::TransactionComplete) => continue,
            other => panic!("after {order:?}: {other:x?}"),
        };
        order.push(received.code);
        pair.server.give_back(&received);
        if received.flags & uapi::TF_ONE_WAY == 0 {
            pair.server.start_reply(Call::reply(&Parcel::new()));
        }
    }
    assert_eq!(order, [0, 10, 20, 21, 22, 1, 11, 2, 3]);
}

/// What a thread of a pool is told to do.
enum Step {
    Read,
    GiveBack(u64),
    Answer,
}

/// Threads of one process that do one thing at a time.
struct Threads {
    threads: Vec<(i32, mpsc::Sender<Step>)>,
    read: mpsc::Receiver<(usize, Result<Return, Error>)>,
}

impl Threads {
    /// Loopers that do not sleep yet.
    fn start(binder: &Arc<Binder>, count: usize) -> Self {
        let (say, read) = mpsc::channel();
        let threads = (0..count)
            .map(|index| {
                let mut looper = Looper::new(binder.clone());
                let (tell, told) = mpsc::channel();
                let (own, id) = mpsc::channel();
                let say = say.clone();
                std::thread::spawn(move || {
                    looper.queue().enter_looper();
                    looper.flush().expect("BC_ENTER_LOOPER");
                    own.send(process::thread_id()).expect("the receiver is there");
                    for step in told {
                        match step {
                            Step::Read => say.send((index, looper.next())).expect("the receiver is there"),
                            Step::GiveBack(buffer) => {
                                looper.queue().free_buffer(buffer);
                                looper.flush().expect("BC_FREE_BUFFER");
                            }
                            Step::Answer => {
                                let empty = Parcel::new();
                                looper.queue().command(uapi::BC_REPLY, &Call::reply(&empty).data());
                                looper.flush().expect("BC_REPLY");
                            }
                        }
                    }
                });
                (id.recv().expect("the thread is well"), tell)
            })
            .collect();
        Self { threads, read }
    }

    fn tell(&self, index: usize, step: Step) {
        self.threads[index].1.send(step).expect("the thread is well");
    }

    /// Has them sleep, one after another.
    fn sleep(&self, order: &[usize]) {
        for &index in order {
            self.tell(index, Step::Read);
            until_in_ioctl(nix::unistd::getpid().as_raw(), self.threads[index].0);
        }
    }

    /// The call that one of them has read, and which one.
    fn hear(&self) -> (usize, TransactionData) {
        match self.read.recv().expect("the threads are well") {
            (index, Ok(Return::Transaction(received))) => (index, received),
            other => panic!("not a call: {other:x?}"),
        }
    }

    /// One of them answers and reads that the answer was taken.
    fn answer(&self, index: usize) {
        self.tell(index, Step::Answer);
        self.tell(index, Step::Read);
        let read = self.read.recv().expect("the threads are well");
        assert!(matches!(read, (by, Ok(Return::TransactionComplete)) if by == index), "{read:x?}");
    }
}

fn thread_that_slept_last_is_woken_first(env: &Env) {
    let mut pair = Pair::new(env);
    let mut clients = clients(&mut pair, env, 4);
    pair.server.set_blocking(true);
    let threads = Threads::start(pair.server.binder(), 4);
    let mut code = 0;
    for order in [[0, 1, 2, 3], [1, 3, 0, 2], [2, 0, 3, 1]] {
        threads.sleep(&order);
        let mut woken = Vec::new();
        for (client, handle) in &mut clients {
            client.start(Call::new(*handle, code, &Parcel::new()));
            let (index, received) = threads.hear();
            assert_eq!(received.code, code);
            woken.push((index, received.buffer));
            code += 1;
        }
        let indices: Vec<usize> = woken.iter().map(|(index, _)| *index).collect();
        assert_eq!(indices, order.iter().rev().copied().collect::<Vec<usize>>());
        for ((index, buffer), (client, _)) in woken.into_iter().zip(&mut clients) {
            threads.tell(index, Step::GiveBack(buffer));
            threads.answer(index);
            let reply = client.expect_reply();
            client.give_back(&reply);
        }
    }
}

fn next_one_way_call_goes_to_a_thread_that_sleeps(env: &Env) {
    let mut pair = Pair::new(env);
    pair.server.set_blocking(true);
    let threads = Threads::start(pair.server.binder(), 4);
    threads.sleep(&[2, 0, 3, 1]);
    for number in 0..4 {
        pair.client.start_one_way(Call::new(pair.handle, number, &Parcel::new()));
    }
    // Each thread gives its call back and does not read: the next one is not left to it.
    for (number, wanted) in (0..).zip([1, 3, 0, 2]) {
        let (index, received) = threads.hear();
        assert_eq!((index, received.code), (wanted, number));
        threads.tell(index, Step::GiveBack(received.buffer));
    }
}
