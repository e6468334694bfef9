// SPDX-License-Identifier: GPL-2.0

//! The looper commands and `BR_SPAWN_LOOPER`.

use binder_client::Binder;
use binder_client::Call;
use binder_client::Commands;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::uapi;
use nix::errno::Errno;

use super::tests;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;

tests! { Core, "looper":
    commands_in_any_order_are_taken,
    calls_come_to_a_thread_that_never_entered,
    calls_come_to_a_thread_that_left,
    register_without_a_request_is_taken,
    no_thread_is_asked_for_without_leave,
    one_thread_is_asked_for_when_none_waits,
    thread_that_says_it_leaves_makes_no_room,
    one_request_at_a_time,
    registered_thread_allows_the_next_request,
    no_more_than_the_limit,
    raising_the_limit_asks_again,
    request_comes_in_place_of_the_noop,
    thread_that_is_no_looper_is_not_asked,
    no_request_while_a_thread_waits,
    exit_of_a_registered_thread_does_not_count_back,
    attempt_acquire_is_not_supported,
    acquire_result_is_not_supported,
}

fn commands_in_any_order_are_taken(env: &Env) {
    let orders: [&[u32]; 7] = [
        &[uapi::BC_EXIT_LOOPER],
        &[uapi::BC_ENTER_LOOPER, uapi::BC_ENTER_LOOPER],
        &[uapi::BC_ENTER_LOOPER, uapi::BC_EXIT_LOOPER, uapi::BC_ENTER_LOOPER],
        &[uapi::BC_REGISTER_LOOPER, uapi::BC_REGISTER_LOOPER],
        &[uapi::BC_ENTER_LOOPER, uapi::BC_REGISTER_LOOPER],
        &[uapi::BC_REGISTER_LOOPER, uapi::BC_ENTER_LOOPER],
        &[uapi::BC_EXIT_LOOPER, uapi::BC_EXIT_LOOPER],
    ];
    for order in orders {
        let mut end = End::open(env);
        let mut commands = Commands::new();
        order.iter().for_each(|code| {
            commands.bare(*code);
        });
        let (result, progress) = end.binder().write_read(commands.bytes(), &mut []);
        assert_eq!((result, progress.written), (Ok(()), commands.len()), "{order:x?}");
        end.expect(&[]);
    }
}

/// A call to the server comes and is answered, whatever the server's thread has said of itself before.
fn still_serves(pair: &mut Pair) {
    pair.check();
}

fn calls_come_to_a_thread_that_never_entered(env: &Env) {
    let mut pair = Pair::new(env);
    assert_eq!(pair.server.binder().thread_exit(), Ok(()));
    still_serves(&mut pair);
}

fn calls_come_to_a_thread_that_left(env: &Env) {
    let mut pair = Pair::new(env);
    pair.server.queue().exit_looper();
    pair.server.flush().expect("BC_EXIT_LOOPER");
    still_serves(&mut pair);
}

fn register_without_a_request_is_taken(env: &Env) {
    let mut pair = Pair::new(env);
    assert_eq!(pair.server.binder().thread_exit(), Ok(()));
    pair.server.queue().register_looper();
    pair.server.flush().expect("BC_REGISTER_LOOPER");
    pair.server.expect(&[]);
    still_serves(&mut pair);
}

/// One call to the server; says what it read along with the call and with the completion of its reply.
fn round(pair: &mut Pair) -> (Vec<Return>, Vec<Return>) {
    let empty = Parcel::new();
    pair.client.start(Call::new(pair.handle, 1, &empty));
    let first = pair.server.drain();
    let received = first
        .iter()
        .find_map(|ret| if let Return::Transaction(received) = ret { Some(*received) } else { None })
        .expect("the call");
    pair.server.queue().command(uapi::BC_REPLY, &Call::reply(&empty).data());
    pair.server.free(&received);
    pair.server.flush().expect("BC_REPLY");
    let second = pair.server.drain();
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
    let without = |all: Vec<Return>| {
        all.into_iter().filter(|ret| !matches!(ret, Return::Transaction(_) | Return::TransactionComplete)).collect()
    };
    (without(first), without(second))
}

fn no_thread_is_asked_for_without_leave(env: &Env) {
    let mut pair = Pair::new(env);
    for _ in 0..3 {
        assert_eq!(round(&mut pair), (vec![], vec![]));
    }
}

fn one_thread_is_asked_for_when_none_waits(env: &Env) {
    let mut pair = Pair::new(env);
    assert_eq!(pair.server.binder().set_max_threads(1), Ok(()));
    assert_eq!(round(&mut pair), (vec![Return::SpawnLooper], vec![]));
}

fn thread_that_says_it_leaves_makes_no_room(env: &Env) {
    let mut pair = Pair::new(env);
    assert_eq!(pair.server.binder().set_max_threads(1), Ok(()));
    assert_eq!(round(&mut pair), (vec![Return::SpawnLooper], vec![]));
    let thread = register(pair.server.binder());
    pair.server.queue().exit_looper();
    pair.server.flush().expect("BC_EXIT_LOOPER");
    assert_eq!(round(&mut pair), (vec![], vec![]));
    thread.end();
}

fn one_request_at_a_time(env: &Env) {
    let mut pair = Pair::new(env);
    assert_eq!(pair.server.binder().set_max_threads(5), Ok(()));
    assert_eq!(round(&mut pair), (vec![Return::SpawnLooper], vec![]));
    for _ in 0..3 {
        assert_eq!(round(&mut pair), (vec![], vec![]));
    }
}

/// A thread registers and stays.
fn register(binder: &std::sync::Arc<Binder>) -> Registered {
    let (stop, stopped) = std::sync::mpsc::channel();
    let (say, hear) = std::sync::mpsc::channel();
    let binder = binder.clone();
    let thread = std::thread::spawn(move || {
        let mut commands = Commands::new();
        commands.register_looper();
        let (result, _) = binder.write_read(commands.bytes(), &mut []);
        assert_eq!(result, Ok(()));
        say.send(()).expect("the receiver is there");
        // The other end is dropped when the thread is to end.
        let _: Result<(), _> = stopped.recv();
        assert_eq!(binder.thread_exit(), Ok(()));
    });
    hear.recv().expect("the thread is well");
    Registered { stop, thread }
}

struct Registered {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Registered {
    fn end(self) {
        drop(self.stop);
        self.thread.join().expect("the thread is well");
    }
}

fn registered_thread_allows_the_next_request(env: &Env) {
    let mut pair = Pair::new(env);
    assert_eq!(pair.server.binder().set_max_threads(2), Ok(()));
    assert_eq!(round(&mut pair), (vec![Return::SpawnLooper], vec![]));
    let first = register(pair.server.binder());
    assert_eq!(round(&mut pair), (vec![Return::SpawnLooper], vec![]));
    assert_eq!(round(&mut pair), (vec![], vec![]));
    first.end();
}

fn no_more_than_the_limit(env: &Env) {
    let mut pair = Pair::new(env);
    assert_eq!(pair.server.binder().set_max_threads(3), Ok(()));
    let mut registered = Vec::new();
    for _ in 0..3 {
        assert_eq!(round(&mut pair), (vec![Return::SpawnLooper], vec![]));
        registered.push(register(pair.server.binder()));
    }
    for _ in 0..3 {
        assert_eq!(round(&mut pair), (vec![], vec![]));
    }
    registered.into_iter().for_each(Registered::end);
}

fn raising_the_limit_asks_again(env: &Env) {
    let mut pair = Pair::new(env);
    assert_eq!(pair.server.binder().set_max_threads(1), Ok(()));
    assert_eq!(round(&mut pair), (vec![Return::SpawnLooper], vec![]));
    let first = register(pair.server.binder());
    assert_eq!(round(&mut pair), (vec![], vec![]));
    assert_eq!(pair.server.binder().set_max_threads(2), Ok(()));
    assert_eq!(round(&mut pair), (vec![Return::SpawnLooper], vec![]));
    first.end();
}

fn request_comes_in_place_of_the_noop(env: &Env) {
    let mut pair = Pair::new(env);
    assert_eq!(pair.server.binder().set_max_threads(1), Ok(()));
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let mut room = [0; 256];
    let (result, progress) = pair.server.binder().write_read(&[], &mut room);
    assert_eq!((result, progress.read), (Ok(()), 72));
    assert_eq!(room[..4], uapi::BR_SPAWN_LOOPER.to_ne_bytes());
    assert_eq!(room[4..8], uapi::BR_TRANSACTION.to_ne_bytes());
}

fn thread_that_is_no_looper_is_not_asked(env: &Env) {
    let mut pair = Pair::new(env);
    assert_eq!(pair.server.binder().set_max_threads(1), Ok(()));
    assert_eq!(pair.server.binder().thread_exit(), Ok(()));
    pair.server.drain();
    assert_eq!(round(&mut pair), (vec![], vec![]));
}

fn no_request_while_a_thread_waits(env: &Env) {
    let mut pair = Pair::new(env);
    assert_eq!(pair.server.binder().set_max_threads(1), Ok(()));
    // Another thread waits for work; this one reads its own, which is an error of its own.
    pair.server.set_blocking(true);
    let binder = pair.server.binder().clone();
    let (say, hear) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        let mut looper = binder_client::Looper::new(binder);
        looper.queue().enter_looper();
        looper.flush().expect("BC_ENTER_LOOPER");
        say.send(binder_client::process::thread_id()).expect("the receiver is there");
        looper.next()
    });
    let thread = hear.recv().expect("the thread is there");
    crate::fixture::until_in_ioctl(nix::unistd::getpid().as_raw(), thread);
    pair.server.start(Call::new(4711, 1, &Parcel::new()));
    assert_eq!(pair.server.next(), Ok(Return::FailedReply));
    assert_eq!(pair.server.pending(), None);
    // The waiting one takes the call that comes, and is asked then.
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    assert_eq!(waiting.join().expect("the thread is well"), Ok(Return::SpawnLooper));
}

fn exit_of_a_registered_thread_does_not_count_back(env: &Env) {
    let mut pair = Pair::new(env);
    assert_eq!(pair.server.binder().set_max_threads(1), Ok(()));
    assert_eq!(round(&mut pair), (vec![Return::SpawnLooper], vec![]));
    register(pair.server.binder()).end();
    assert_eq!(round(&mut pair), (vec![], vec![]));
}

fn refused(env: &Env, fill: impl FnOnce(&mut Commands<'_>)) {
    let mut end = End::open(env);
    let mut commands = Commands::new();
    commands.enter_looper();
    fill(&mut commands);
    commands.exit_looper();
    let (result, progress) = end.binder().write_read(commands.bytes(), &mut []);
    assert_eq!((result, progress.written), (Err(Errno::EINVAL), 4));
    end.expect(&[]);
}

fn attempt_acquire_is_not_supported(env: &Env) {
    refused(env, |commands| {
        commands.attempt_acquire(0, 0);
    });
}

fn acquire_result_is_not_supported(env: &Env) {
    refused(env, |commands| {
        commands.acquire_result(0);
    });
}
