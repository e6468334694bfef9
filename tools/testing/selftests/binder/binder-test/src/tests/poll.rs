// SPDX-License-Identifier: GPL-2.0

//! `poll` and `epoll`; close, fork and exec with an open file.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use binder_client::Binder;
use binder_client::Call;
use binder_client::Commands;
use binder_client::LIBBINDER_MAPPING;
use binder_client::Looper;
use binder_client::Mapping;
use binder_client::Parcel;
use binder_client::Progress;
use binder_client::Return;
use binder_client::process::Child;
use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::epoll::Epoll;
use nix::sys::epoll::EpollCreateFlags;
use nix::sys::epoll::EpollEvent;
use nix::sys::epoll::EpollFlags;
use nix::sys::epoll::EpollTimeout;
use nix::sys::wait::WaitStatus;
use nix::unistd::Uid;
use nix::unistd::seteuid;

use super::tests;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::fixture::become_manager;
use crate::fixture::node;
use crate::fixture::until;
use crate::fixture::until_in_ioctl;

tests! { Core, "poll":
    first_poll_of_a_thread_is_ready,
    nothing_to_read_is_not_ready,
    never_ready_to_write,
    an_error_is_ready,
    a_call_for_the_process_is_ready,
    a_call_for_the_process_is_not_for_a_thread_inside_a_call,
    completion_of_a_call_alone_is_not_ready,
    reply_is_ready,
    every_thread_is_ready_for_a_call,
    waiting_poll_wakes_on_a_call,
    waiting_poll_wakes_on_a_reply,
    epoll_is_level_triggered,
    epoll_edge_tells_once,
    epoll_edge_is_not_for_a_thread_with_its_own_to_read,
    epoll_wakes_on_an_error_of_its_own_thread,
    epoll_wakes_on_its_threads_exit,
    epoll_survives_thread_exit,
    epoll_survives_the_end_of_its_thread,
    epoll_survives_close,
    close_elsewhere_makes_a_read_return,
    close_elsewhere_makes_the_next_read_return,
    close_elsewhere_does_not_wake_epoll,
    close_elsewhere_does_not_wake_epoll_of_a_thread_in_a_read,
    child_may_talk_on_an_inherited_file,
    child_calls_as_the_user_it_is,
    child_may_not_map_an_inherited_file,
    exec_closes_the_file,
    file_outlives_the_thread_that_opened_it,
}

fn ready(binder: &Binder, timeout: PollTimeout) -> PollFlags {
    let all =
        PollFlags::POLLIN | PollFlags::POLLOUT | PollFlags::POLLPRI | PollFlags::POLLRDNORM | PollFlags::POLLWRNORM;
    let mut fds = [PollFd::new(binder.as_fd(), all)];
    poll(&mut fds, timeout).expect("poll");
    fds[0].revents().expect("flags that exist")
}

fn now(end: &End) -> PollFlags {
    ready(end.binder(), PollTimeout::ZERO)
}

const READY: PollFlags = PollFlags::POLLIN;

/// The thread has been seen: its first ioctl is behind it.
fn known(end: End) -> End {
    assert_eq!(end.binder().version(), Ok(8));
    end
}

fn first_poll_of_a_thread_is_ready(env: &Env) {
    let mut end = End::open(env);
    // As the first ioctl does not wait, there is nothing to wait for.
    assert_eq!(now(&end), READY);
    assert_eq!(now(&end), READY);
    end.expect(&[]);
    assert_eq!(now(&end), PollFlags::empty());
}

fn nothing_to_read_is_not_ready(env: &Env) {
    let end = known(End::open(env)).enter();
    for _ in 0..3 {
        assert_eq!(now(&end), PollFlags::empty());
    }
}

fn never_ready_to_write(env: &Env) {
    let end = known(End::open(env));
    assert!(!now(&end).contains(PollFlags::POLLOUT));
}

fn an_error_is_ready(env: &Env) {
    let mut end = known(End::open(env));
    end.start(Call::new(4711, 1, &Parcel::new()));
    assert_eq!(now(&end), READY);
    end.expect(&[Return::FailedReply]);
    assert_eq!(now(&end), PollFlags::empty());
}

fn a_call_for_the_process_is_ready(env: &Env) {
    let mut pair = Pair::new(env);
    let empty = Parcel::new();
    assert_eq!(now(&pair.server), PollFlags::empty());
    pair.client.start(Call::new(pair.handle, 1, &empty));
    assert_eq!(now(&pair.server), READY);
    let received = pair.server.expect_transaction();
    assert_eq!(now(&pair.server), PollFlags::empty());
    pair.server.give_back(&received);
    pair.server.answer(&empty);
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
}

fn a_call_for_the_process_is_not_for_a_thread_inside_a_call(env: &Env) {
    let mut pair = Pair::new(env);
    let (empty, other) = (Parcel::new(), End::open(env));
    let mut other = other;
    let handle = {
        pair.registry.put(&mut pair.server, 2, binder_client::object::binder(Pair::NODE.ptr, Pair::NODE.cookie));
        pair.registry.get(&mut other, 2)
    };
    pair.client.start(Call::new(pair.handle, 1, &empty));
    let received = pair.server.expect_transaction();
    // The server's only thread is busy: a second call is no work for it until it has answered the first.
    other.start(Call::new(handle, 2, &empty));
    assert_eq!(now(&pair.server), PollFlags::empty());
    pair.server.expect(&[]);
    pair.server.give_back(&received);
    pair.server.start_reply(Call::reply(&empty));
    assert_eq!(now(&pair.server), READY);
    let [Return::TransactionComplete, Return::Transaction(second)] = pair.server.drain()[..] else {
        panic!("not a completion and a call")
    };
    assert_eq!(second.code, 2);
    pair.server.give_back(&second);
    pair.server.answer(&empty);
    let reply = other.expect_reply();
    other.give_back(&reply);
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
}

fn completion_of_a_call_alone_is_not_ready(env: &Env) {
    let mut pair = Pair::new(env);
    let empty = Parcel::new();
    pair.client.start(Call::new(pair.handle, 1, &empty));
    assert_eq!(now(&pair.client), PollFlags::empty());
    pair.client.expect(&[]);
    let received = pair.server.expect_transaction();
    assert_eq!(now(&pair.client), PollFlags::empty());
    pair.server.give_back(&received);
    pair.server.answer(&empty);
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
}

fn reply_is_ready(env: &Env) {
    let mut pair = Pair::new(env);
    let empty = Parcel::new();
    pair.client.start(Call::new(pair.handle, 1, &empty));
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
    pair.server.answer(&empty);
    assert_eq!(now(&pair.client), READY);
    let reply = pair.client.expect_reply();
    assert_eq!(now(&pair.client), PollFlags::empty());
    pair.client.give_back(&reply);
}

fn every_thread_is_ready_for_a_call(env: &Env) {
    let mut pair = Pair::new(env);
    let empty = Parcel::new();
    pair.client.start(Call::new(pair.handle, 1, &empty));
    let binder = pair.server.binder().clone();
    let other = std::thread::spawn(move || {
        assert_eq!(binder.version(), Ok(8));
        ready(&binder, PollTimeout::ZERO)
    });
    assert_eq!(other.join().expect("the thread is well"), READY);
    assert_eq!(now(&pair.server), READY);
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
    pair.server.answer(&empty);
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
}

/// Waits until a thread of this process sleeps in poll or epoll.
fn until_in_poll(thread: i32) {
    until(|| {
        let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).unwrap_or_default();
        text.split(' ').next().and_then(|number| number.parse().ok()) == Some(nix::libc::SYS_poll)
    });
}

/// Polls in a thread of its own; says how to wait for it to be asleep, and for its result.
fn polling(
    binder: Arc<Binder>,
    first: impl FnOnce(&Arc<Binder>) + Send + 'static,
) -> std::thread::JoinHandle<PollFlags> {
    let (say, hear) = std::sync::mpsc::channel();
    let handle = std::thread::spawn(move || {
        first(&binder);
        say.send(binder_client::process::thread_id()).expect("the receiver is there");
        ready(&binder, PollTimeout::NONE)
    });
    until_in_poll(hear.recv().expect("the thread is there"));
    handle
}

fn waiting_poll_wakes_on_a_call(env: &Env) {
    let mut pair = Pair::new(env);
    let empty = Parcel::new();
    let waiting = polling(pair.server.binder().clone(), |binder| assert_eq!(binder.version(), Ok(8)));
    pair.client.start(Call::new(pair.handle, 1, &empty));
    assert_eq!(waiting.join().expect("the thread is well"), READY);
    // It only looked: the call is still there.
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
    pair.server.answer(&empty);
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
}

fn waiting_poll_wakes_on_a_reply(env: &Env) {
    let mut pair = Pair::new(env);
    let handle = pair.handle;
    let waiting = polling(pair.client.binder().clone(), move |binder| {
        let mut looper = Looper::new(binder.clone());
        looper.queue().command(binder_client::uapi::BC_TRANSACTION, &Call::new(handle, 1, &Parcel::new()).data());
        looper.flush().expect("BC_TRANSACTION");
    });
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
    pair.server.answer(&Parcel::new());
    assert_eq!(waiting.join().expect("the thread is well"), READY);
}

fn watch(binder: &Binder, flags: EpollFlags) -> Epoll {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll_create");
    epoll.add(binder, EpollEvent::new(flags, 7)).expect("epoll_ctl");
    epoll
}

fn events(epoll: &Epoll) -> Vec<EpollFlags> {
    let mut events = [EpollEvent::empty(); 4];
    let count = epoll.wait(&mut events, EpollTimeout::ZERO).expect("epoll_wait");
    events[..count].iter().map(EpollEvent::events).collect()
}

fn epoll_is_level_triggered(env: &Env) {
    let mut pair = Pair::new(env);
    let epoll = watch(pair.server.binder(), EpollFlags::EPOLLIN);
    assert_eq!(events(&epoll), []);
    let empty = Parcel::new();
    pair.client.start(Call::new(pair.handle, 1, &empty));
    assert_eq!(events(&epoll), [EpollFlags::EPOLLIN]);
    assert_eq!(events(&epoll), [EpollFlags::EPOLLIN]);
    let received = pair.server.expect_transaction();
    assert_eq!(events(&epoll), []);
    pair.server.give_back(&received);
    pair.server.answer(&empty);
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
}

fn epoll_edge_tells_once(env: &Env) {
    let mut pair = Pair::new(env);
    let epoll = watch(pair.server.binder(), EpollFlags::EPOLLIN | EpollFlags::EPOLLET);
    let empty = Parcel::new();
    for _ in 0..3 {
        assert_eq!(events(&epoll), []);
        pair.client.start(Call::new(pair.handle, 1, &empty));
        assert_eq!(events(&epoll), [EpollFlags::EPOLLIN]);
        assert_eq!(events(&epoll), []);
        let received = pair.server.expect_transaction();
        pair.server.give_back(&received);
        pair.server.answer(&empty);
        let reply = pair.client.expect_reply();
        pair.client.give_back(&reply);
        // The server's own completion was an edge too.
        events(&epoll);
    }
}

fn epoll_edge_is_not_for_a_thread_with_its_own_to_read(env: &Env) {
    let mut pair = Pair::new(env);
    let handle = pair.lend(node(0x70));
    let epoll = watch(pair.client.binder(), EpollFlags::EPOLLIN | EpollFlags::EPOLLET);
    assert_eq!(events(&epoll), [EpollFlags::EPOLLIN]);
    pair.server.start_one_way(Call::new(handle, 2, &Parcel::new()));
    assert_eq!(events(&epoll), []);
    let returns = pair.client.drain();
    assert!(matches!(returns[..], [.., Return::Reply(_), Return::Transaction(_)]), "{returns:x?}");
}

fn epoll_wakes_on_an_error_of_its_own_thread(env: &Env) {
    let mut end = known(End::open(env));
    let epoll = watch(end.binder(), EpollFlags::EPOLLIN);
    assert_eq!(events(&epoll), []);
    // A thread that only waits in epoll would never read the error without a wakeup.
    end.start(Call::new(4711, 1, &Parcel::new()));
    assert_eq!(events(&epoll), [EpollFlags::EPOLLIN]);
    end.expect(&[Return::FailedReply]);
    assert_eq!(events(&epoll), []);
}

fn epoll_wakes_on_its_threads_exit(env: &Env) {
    let mut pair = Pair::new(env);
    let empty = Parcel::new();
    let epoll = watch(pair.server.binder(), EpollFlags::EPOLLIN | EpollFlags::EPOLLET);
    assert_eq!(events(&epoll), []);
    pair.server.binder().thread_exit().expect("BINDER_THREAD_EXIT");
    // The thread is a new one now, whose first read does not wait.
    assert_eq!(events(&epoll), [EpollFlags::EPOLLIN]);
    pair.server = known(pair.server).enter();
    assert_eq!(events(&epoll), []);
    pair.client.start(Call::new(pair.handle, 1, &empty));
    match env.driver(Difference::DeafEpoll) {
        Driver::Ours => assert_eq!(events(&epoll), [EpollFlags::EPOLLIN]),
        Driver::C => assert_eq!(events(&epoll), []),
    }
    pair.server.expect_transaction();
}

fn epoll_survives_thread_exit(env: &Env) {
    let mut pair = Pair::new(env);
    for _ in 0..3 {
        let epoll = watch(pair.server.binder(), EpollFlags::EPOLLIN);
        assert_eq!(pair.server.binder().thread_exit(), Ok(()));
        // What it tells now is not promised, but that nothing breaks.
        events(&epoll);
        pair.server.queue().enter_looper();
        pair.server.flush().expect("BC_ENTER_LOOPER");
        pair.check();
        events(&epoll);
        drop(epoll);
        // One that is made anew tells.
        let epoll = watch(pair.server.binder(), EpollFlags::EPOLLIN);
        pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
        assert_eq!(events(&epoll), [EpollFlags::EPOLLIN]);
        let received = pair.server.expect_transaction();
        pair.server.give_back(&received);
        pair.server.answer(&Parcel::new());
        let reply = pair.client.expect_reply();
        pair.client.give_back(&reply);
    }
}

fn epoll_survives_the_end_of_its_thread(env: &Env) {
    let mut pair = Pair::new(env);
    for _ in 0..10 {
        let binder = pair.server.binder().clone();
        let epoll = std::thread::spawn(move || {
            assert_eq!(binder.version(), Ok(8));
            let epoll = watch(&binder, EpollFlags::EPOLLIN);
            assert_eq!(binder.thread_exit(), Ok(()));
            epoll
        })
        .join()
        .expect("the thread is well");
        pair.check();
        events(&epoll);
    }
}

fn epoll_survives_close(env: &Env) {
    for _ in 0..20 {
        let end = known(End::open(env));
        let epoll = watch(end.binder(), EpollFlags::EPOLLIN);
        drop(end);
        assert_eq!(events(&epoll), []);
    }
    Pair::new(env).check();
}

/// A read that waits in a thread of its own, which has done something else before.
fn reading<T: Send + 'static>(
    binder: &Arc<Binder>,
    first: impl FnOnce(&Binder) -> T + Send + 'static,
) -> (std::thread::JoinHandle<(nix::Result<()>, Progress)>, T) {
    let (say, hear) = std::sync::mpsc::channel();
    let binder = binder.clone();
    let reader = std::thread::spawn(move || {
        assert_eq!(binder.version(), Ok(8));
        let first = first(&binder);
        say.send((binder_client::process::thread_id(), first)).expect("the receiver is there");
        binder.write_read(&[], &mut [0; 128])
    });
    let (thread, first) = hear.recv().expect("the thread is there");
    until_in_ioctl(nix::unistd::getpid().as_raw(), thread);
    (reader, first)
}

const NOOP_ALONE: (nix::Result<()>, Progress) = (Ok(()), Progress { written: 0, read: 4 });

fn close_a_copy(binder: &Binder) {
    drop(binder.as_fd().try_clone_to_owned().expect("dup"));
}

fn close_elsewhere_makes_a_read_return(env: &Env) {
    let binder = Arc::new(Binder::open(&env.device).expect("open"));
    let (reader, ()) = reading(&binder, |_| ());
    close_a_copy(&binder);
    assert_eq!(reader.join().expect("the thread is well"), NOOP_ALONE);
}

fn close_elsewhere_makes_the_next_read_return(env: &Env) {
    let mut end = known(End::open(env)).enter();
    for _ in 0..3 {
        assert_eq!(now(&end), PollFlags::empty());
        end.expect(&[]);
        close_a_copy(end.binder());
        // A thread may be on its way into a read, so the next read of each does not wait, and poll says so.
        until(|| now(&end) == READY);
        assert_eq!(now(&end), READY);
        assert_eq!(end.binder().write_read(&[], &mut [0; 128]), NOOP_ALONE);
    }
}

fn close_elsewhere_does_not_wake_epoll(env: &Env) {
    for flags in [EpollFlags::EPOLLIN, EpollFlags::EPOLLIN | EpollFlags::EPOLLET] {
        let mut pair = Pair::new(env);
        let epoll = watch(pair.server.binder(), flags);
        assert_eq!(events(&epoll), []);
        pair.server.set_blocking(true);
        // Another thread's read returns; that it has polled itself does not matter.
        let (reader, _) = reading(pair.server.binder(), |binder| ready(binder, PollTimeout::ZERO));
        close_a_copy(pair.server.binder());
        assert_eq!(reader.join().expect("the thread is well"), NOOP_ALONE);
        assert_eq!(events(&epoll), []);
        pair.server.set_blocking(false);
        pair.server.expect(&[]);
        // It goes on hearing.
        pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
        assert_eq!(events(&epoll), [EpollFlags::EPOLLIN]);
        pair.server.expect_transaction();
    }
}

fn close_elsewhere_does_not_wake_epoll_of_a_thread_in_a_read(env: &Env) {
    let end = known(End::open(env)).enter();
    end.set_blocking(true);
    // The device is polled for the thread that added it to the epoll, not for the one that waits.
    let (reader, epoll) = reading(end.binder(), |binder| watch(binder, EpollFlags::EPOLLIN));
    assert_eq!(events(&epoll), []);
    close_a_copy(end.binder());
    assert_eq!(reader.join().expect("the thread is well"), NOOP_ALONE);
    match env.driver(Difference::FlushWatched) {
        Driver::Ours => assert_eq!(events(&epoll), []),
        Driver::C => assert_eq!(events(&epoll), [EpollFlags::EPOLLIN]),
    }
}

fn child_may_talk_on_an_inherited_file(env: &Env) {
    let mut pair = Pair::new(env);
    let handle = pair.handle;
    let binder = pair.client.binder().clone();
    let mut child = Child::spawn(|| {
        // The driver goes by the open file: the parent's handles are there.
        assert_eq!(binder.version(), Ok(8));
        let empty = Parcel::new();
        let mut commands = Commands::new();
        commands.transaction(Call::one_way(handle, 77, &empty));
        let (result, progress) = binder.write_read(commands.bytes(), &mut []);
        assert_eq!((result, progress.written), (Ok(()), commands.len()));
        0
    })
    .expect("fork");
    assert!(matches!(child.wait(), Ok(WaitStatus::Exited(_, 0))));
    let received = pair.server.wait_transaction();
    assert_eq!(received.code, 77);
    pair.server.give_back(&received);
    // The child's end has made reads return; once they have, all is as before.
    pair.client.drain();
    pair.server.drain();
    pair.check();
}

fn child_calls_as_the_user_it_is(env: &Env) {
    let mut pair = Pair::new(env);
    let (binder, handle) = (pair.client.binder().clone(), pair.handle);
    let mut child = Child::spawn(|| {
        seteuid(Uid::from_raw(4711)).expect("the test runs as root");
        let empty = Parcel::new();
        let mut commands = Commands::new();
        commands.transaction(Call::one_way(handle, 77, &empty));
        i32::from(binder.write_read(commands.bytes(), &mut []).0 != Ok(()))
    })
    .expect("fork");
    assert!(matches!(child.wait(), Ok(WaitStatus::Exited(_, 0))));
    let received = pair.server.wait_transaction();
    // The process is the one that has the file, but it must not lend its user's rights.
    assert_eq!((received.code, received.sender_euid), (77, 4711));
    pair.server.give_back(&received);
}

fn child_may_not_map_an_inherited_file(env: &Env) {
    let mut end = End::open_unmapped(env);
    let mut child = Child::spawn(|| {
        let refused = Mapping::of_device(end.binder().as_fd(), LIBBINDER_MAPPING).map(drop);
        if refused == Err(Errno::EINVAL) { 0 } else { panic!("{refused:?}") }
    })
    .expect("fork");
    assert!(matches!(child.wait(), Ok(WaitStatus::Exited(_, 0))));
    // The parent still can.
    let map = Mapping::of_device(end.binder().as_fd(), LIBBINDER_MAPPING).expect("mmap");
    end.drain();
    drop(map);
}

fn exec_closes_the_file(env: &Env) {
    let mut peer = Peer::start(env, |env, line| {
        let binder = Binder::open(&env.device).expect("open");
        become_manager(&binder);
        line.say(0).expect("the test is there");
        let error = Command::new("/bin/sh").args(["-c", "while :; do sleep 1000; done"]).exec();
        panic!("exec: {error}");
    });
    peer.hear();
    // The process lives on as another program; the manager's place becomes free.
    let binder = Binder::open(&env.device).expect("open");
    become_manager(&binder);
    peer.kill();
}

fn file_outlives_the_thread_that_opened_it(env: &Env) {
    let mut pair = Pair::new(env);
    let path = env.device.clone();
    let mut end = std::thread::spawn(move || {
        let mut end = End::over(Binder::open_mapped(&path, LIBBINDER_MAPPING).expect("open"));
        end.set_blocking(false);
        end.drain();
        end
    })
    .join()
    .expect("the thread is well");
    let handle = {
        pair.registry.put(&mut pair.server, 9, binder_client::object::binder(Pair::NODE.ptr, Pair::NODE.cookie));
        pair.registry.get(&mut end, 9)
    };
    end.start(Call::new(handle, 1, &Parcel::from_bytes(b"from another thread's file")));
    let received = pair.server.expect_transaction();
    assert_eq!(pair.server.take(&received).data, b"from another thread's file");
    pair.server.answer(&Parcel::new());
    let reply = end.expect_reply();
    end.give_back(&reply);
}
