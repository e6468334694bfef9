// SPDX-License-Identifier: GPL-2.0

//! Frozen processes: which transactions they get, and freeze notifications.

use std::sync::Arc;
use std::sync::mpsc;

use binder_client::Binder;
use binder_client::Call;
use binder_client::Commands;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::process::Child;
use binder_client::uapi;
use binder_client::uapi::FreezeInfo;
use binder_client::uapi::FrozenStateInfo;
use binder_client::uapi::FrozenStatusInfo;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sched::unshare;
use nix::sys::signal::Signal;

use super::tests;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Meeting;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::fixture::until;
use crate::fixture::until_in_ioctl;
use crate::hostile;
use crate::kernel::Cgroup;

tests! { Interface, "freeze":
    unknown_process_is_einval,
    zero_names_no_process_of_another_namespace,
    zero_names_no_process_that_has_exited,
    calls_to_a_frozen_process_fail,
    one_way_calls_wait_until_it_thaws,
    later_one_way_call_takes_the_place_of_an_earlier,
    call_that_is_out_keeps_it_from_freezing,
    call_of_its_own_keeps_it_from_freezing,
    freezing_waits_for_calls_that_are_out,
    freezing_goes_on_after_a_signal,
    thaw_ends_a_freezing_that_waits,
    freezing_that_fails_leaves_another_one_waiting,
    freezing_that_was_overtaken_counts_no_more,
    notification_is_true_in_the_end,
    notification_of_many_is_true_in_the_end,
    what_a_frozen_process_was_sent_is_known,
    notification_tells_the_state_and_its_changes,
    notification_is_told_once_at_a_time,
    notifications_with_one_cookie_are_acknowledged_in_turn,
    notification_cleared,
    notification_requests_that_make_no_sense,
    frozen_process_that_dies,
    control_group_that_stops_a_waiting_process,
    a_pid_is_one_of_the_callers_namespace,
}

/// A server in a process of its own, which can be frozen, and a client here.
struct Scene {
    client: End,
    handle: u32,
    peer: Peer,
    registry: Registry,
}

/// Told to the server: read one thing and answer it if it is a call.
const TAKE: u64 = 1;

impl Scene {
    fn new(env: &Env) -> Self {
        let registry = Registry::start(env);
        let peer = Peer::start(env, |env, line| {
            let mut end = End::open(env);
            registry.put(&mut end, 1, object::binder(0x8000, 0x8008));
            let mut end = end.enter();
            line.say(0).expect("the test is there");
            while let Ok(TAKE) = line.hear() {
                let received = end.wait_transaction();
                end.give_back(&received);
                line.say(received.code.into()).expect("the test is there");
                if received.flags & uapi::TF_ONE_WAY == 0 {
                    // A number first, so that a test can act while the call is being answered.
                    let _ = line.hear();
                    end.start_reply(Call::reply(&Parcel::new()));
                    assert_eq!(end.wait(), Return::TransactionComplete);
                    line.say(0).expect("the test is there");
                }
            }
        });
        peer.hear();
        let mut client = End::open(env).enter();
        let handle = registry.get(&mut client, 1);
        Self { client, handle, peer, registry }
    }

    fn freeze(&self, enable: u32, timeout_ms: u32) -> nix::Result<()> {
        let mut info = FreezeInfo { pid: self.peer.pid() as u32, enable, timeout_ms };
        self.client.binder().ioctl(uapi::BINDER_FREEZE, &mut info).map(drop)
    }

    fn state(&self) -> FrozenStatusInfo {
        let mut info = FrozenStatusInfo { pid: self.peer.pid() as u32, ..FrozenStatusInfo::default() };
        assert_eq!(self.client.binder().ioctl(uapi::BINDER_GET_FROZEN_INFO, &mut info), Ok(0));
        info
    }

    /// The server takes one call; its code.
    fn take(&self) -> u64 {
        self.peer.say(TAKE);
        self.peer.hear()
    }

    fn one_way(&mut self, code: u32) -> Vec<Return> {
        self.client.start(Call::one_way(self.handle, code, &Parcel::from_bytes(&[1; 20])));
        self.client.drain()
    }

    fn send(&mut self, fill: impl FnOnce(&mut Commands<'static>, u32)) -> Vec<Return> {
        let handle = self.handle;
        fill(self.client.queue(), handle);
        assert_eq!(self.client.flush(), Ok(()));
        self.client.drain()
    }
}

fn unknown_process_is_einval(env: &Env) {
    let scene = Scene::new(env);
    for pid in [0, 1, u32::MAX, 1 << 31] {
        let mut info = FreezeInfo { pid, enable: 1, timeout_ms: 0 };
        assert_eq!(scene.client.binder().ioctl(uapi::BINDER_FREEZE, &mut info), Err(Errno::EINVAL), "{pid}");
        let mut info = FrozenStatusInfo { pid, ..FrozenStatusInfo::default() };
        assert_eq!(scene.client.binder().ioctl(uapi::BINDER_GET_FROZEN_INFO, &mut info), Err(Errno::EINVAL));
    }
}

/// What `BINDER_FREEZE` and `BINDER_GET_FROZEN_INFO` say to numbers that are no pid.
fn freeze_what_is_no_pid(end: &End) {
    for pid in [0, u32::MAX, 1 << 31] {
        let mut info = FreezeInfo { pid, enable: 1, timeout_ms: 0 };
        assert_eq!(end.binder().ioctl(uapi::BINDER_FREEZE, &mut info), Err(Errno::EINVAL), "{pid}");
        let mut info = FrozenStatusInfo { pid, ..FrozenStatusInfo::default() };
        assert_eq!(end.binder().ioctl(uapi::BINDER_GET_FROZEN_INFO, &mut info), Err(Errno::EINVAL), "{pid}");
    }
}

/// Seen from a namespace that a process is not in, its pid is 0.
fn zero_names_no_process_of_another_namespace(env: &Env) {
    let mut scene = Scene::new(env);
    Peer::start(env, |env, _| {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID).expect("the test runs as root");
        let mut contained = Child::spawn(|| {
            assert_eq!(nix::unistd::getpid().as_raw(), 1);
            freeze_what_is_no_pid(&End::open(env));
            0
        })
        .expect("fork");
        assert!(matches!(contained.wait(), Ok(nix::sys::wait::WaitStatus::Exited(_, 0))));
    })
    .join();
    assert_eq!(scene.one_way(1), [Return::TransactionComplete]);
    assert_eq!(scene.take(), 1);
}

/// A process that has exited has no pid, and the files it opened may live on in others.
fn zero_names_no_process_that_has_exited(env: &Env) {
    let registry = Registry::start(env);
    let mut opener = Peer::start(env, |env, line| {
        let mut end = End::open(env);
        registry.put(&mut end, 1, object::binder(0x8000, 0x8008));
        let heir = Child::spawn(|| {
            nix::sys::prctl::set_pdeathsig(None).expect("prctl");
            line.say(0).expect("the test is there");
            loop {
                nix::unistd::pause();
            }
        });
        heir.expect("fork").release();
        nix::unistd::pause();
    });
    opener.hear();
    let mut client = End::open(env).enter();
    let handle = registry.get(&mut client, 1);
    opener.kill();
    freeze_what_is_no_pid(&client);
    let by_its_last_pid = match env.driver(Difference::FreezeNamespace) {
        Driver::Ours => [Err(Errno::EINVAL); 2],
        Driver::C => [Ok(0); 2],
    };
    assert_eq!(thaw_and_ask(client.binder(), opener.pid()), by_its_last_pid);
    client.start(Call::one_way(handle, 1, &Parcel::new()));
    // The C driver cannot write to a process that is gone.
    let told = client.drain();
    assert!(!told.contains(&Return::TransactionPendingFrozen), "{told:x?}");
}

fn calls_to_a_frozen_process_fail(env: &Env) {
    let mut scene = Scene::new(env);
    assert_eq!(scene.freeze(1, 0), Ok(()));
    for _ in 0..2 {
        scene.client.start(Call::new(scene.handle, 1, &Parcel::new()));
        scene.client.expect(&[Return::FrozenReply]);
        let error = scene.client.error();
        assert_eq!((error.command, error.param), (uapi::BR_FROZEN_REPLY, 0));
    }
    // Freezing what is frozen is no error, nor is thawing what is not.
    assert_eq!(scene.freeze(1, 0), Ok(()));
    assert_eq!(scene.freeze(0, 0), Ok(()));
    assert_eq!(scene.freeze(0, 0), Ok(()));
    scene.client.start(Call::new(scene.handle, 2, &Parcel::new()));
    assert_eq!(scene.take(), 2);
    scene.peer.say(0);
    scene.peer.hear();
    let reply = scene.client.expect_reply();
    scene.client.give_back(&reply);
}

fn one_way_calls_wait_until_it_thaws(env: &Env) {
    let mut scene = Scene::new(env);
    assert_eq!(scene.freeze(1, 0), Ok(()));
    for code in 1..4 {
        assert_eq!(scene.one_way(code), [Return::TransactionPendingFrozen]);
    }
    assert_eq!(scene.freeze(0, 0), Ok(()));
    for code in 1..4 {
        assert_eq!(scene.take(), code);
    }
    assert_eq!(scene.one_way(9), [Return::TransactionComplete]);
    assert_eq!(scene.take(), 9);
}

fn later_one_way_call_takes_the_place_of_an_earlier(env: &Env) {
    let mut scene = Scene::new(env);
    assert_eq!(scene.freeze(1, 0), Ok(()));
    let empty = Parcel::new();
    // Same node, code and flags: only the last of them is worth anything.
    for code in [5, 6, 5, 5, 6] {
        scene.client.start(Call::one_way(scene.handle, code, &empty).with_flags(uapi::TF_UPDATE_TXN));
        scene.client.expect(&[Return::TransactionPendingFrozen]);
    }
    scene.one_way(7);
    assert_eq!(scene.freeze(0, 0), Ok(()));
    let got: Vec<u64> = (0..4).map(|_| scene.take()).collect();
    // The first was next in line already and is not replaced.
    assert_eq!(got, [5, 5, 6, 7]);
    assert_eq!(scene.freeze(1, 0), Ok(()));
    assert_eq!((scene.state().sync_recv, scene.state().async_recv), (0, 0));
}

fn call_that_is_out_keeps_it_from_freezing(env: &Env) {
    let mut scene = Scene::new(env);
    scene.client.start(Call::new(scene.handle, 3, &Parcel::new()));
    assert_eq!(scene.freeze(1, 0), Err(Errno::EAGAIN));
    assert_eq!(scene.take(), 3);
    assert_eq!(scene.freeze(1, 10), Err(Errno::EAGAIN));
    scene.peer.say(0);
    scene.peer.hear();
    let reply = scene.client.expect_reply();
    scene.client.give_back(&reply);
    // It has not stayed half frozen.
    scene.client.start(Call::new(scene.handle, 4, &Parcel::new()));
    assert_eq!(scene.take(), 4);
    scene.peer.say(0);
    scene.peer.hear();
    let reply = scene.client.expect_reply();
    scene.client.give_back(&reply);
    assert_eq!(scene.freeze(1, 0), Ok(()));
}

/// A process that waits for the reply to a call of its own cannot be frozen.
fn call_of_its_own_keeps_it_from_freezing(env: &Env) {
    let registry = Registry::start(env);
    let mut end = End::open(env).enter();
    registry.put(&mut end, 1, object::binder(8, 8));
    let peer = Peer::start(env, |env, line| {
        let mut end = End::open(env);
        let handle = registry.get(&mut end, 1);
        end.start(Call::new(handle, 7, &Parcel::new()));
        line.say(0).expect("the test is there");
        let _ = line.hear();
        let reply = end.expect_reply();
        end.give_back(&reply);
        line.say(0).expect("the test is there");
        let _ = line.hear();
    });
    peer.hear();
    let binder = end.binder().clone();
    let freeze = || {
        let mut info = FreezeInfo { pid: peer.pid() as u32, enable: 1, timeout_ms: 0 };
        binder.ioctl(uapi::BINDER_FREEZE, &mut info)
    };
    assert_eq!(freeze(), Err(Errno::EAGAIN));
    let received = end.expect_transaction();
    end.give_back(&received);
    end.answer(&Parcel::new());
    peer.say(0);
    peer.hear();
    assert_eq!(freeze(), Ok(0));
    peer.say(0);
    peer.join();
}

fn freezing_waits_for_calls_that_are_out(env: &Env) {
    let mut scene = Scene::new(env);
    scene.client.start(Call::new(scene.handle, 3, &Parcel::new()));
    assert_eq!(scene.take(), 3);
    let pid = scene.peer.pid() as u32;
    let binder = scene.client.binder().clone();
    let (say, hear) = mpsc::channel();
    let freezing = std::thread::spawn(move || {
        say.send(binder_client::process::thread_id()).expect("the receiver is there");
        let mut info = FreezeInfo { pid, enable: 1, timeout_ms: 600_000 };
        binder.ioctl(uapi::BINDER_FREEZE, &mut info)
    });
    let thread = hear.recv().expect("the thread is there");
    until_in_ioctl(nix::unistd::getpid().as_raw(), thread);
    scene.peer.say(0);
    scene.peer.hear();
    assert_eq!(freezing.join().expect("the thread is well"), Ok(0));
    let reply = scene.client.expect_reply();
    scene.client.give_back(&reply);
    scene.client.start(Call::new(scene.handle, 4, &Parcel::new()));
    scene.client.expect(&[Return::FrozenReply]);
}

/// A thread that freezes a process whose calls have not ended, and is asleep in that.
struct Freezing {
    thread: std::thread::JoinHandle<nix::Result<i32>>,
    tid: i32,
}

impl Freezing {
    fn start(scene: &Scene) -> Self {
        let pid = scene.peer.pid() as u32;
        let binder = scene.client.binder().clone();
        let (say, hear) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            say.send(binder_client::process::thread_id()).expect("the test is there");
            let mut info = FreezeInfo { pid, enable: 1, timeout_ms: 600_000 };
            binder.ioctl(uapi::BINDER_FREEZE, &mut info)
        });
        let tid = hear.recv().expect("the thread is there");
        let freezing = Self { thread, tid };
        freezing.until_asleep();
        freezing
    }

    fn until_asleep(&self) {
        until_in_ioctl(nix::unistd::getpid().as_raw(), self.tid);
    }

    fn ended(self) -> nix::Result<i32> {
        self.thread.join().expect("the thread is well")
    }
}

impl Scene {
    /// A call that the server has taken and not answered.
    fn call_out(&mut self) {
        self.client.start(Call::new(self.handle, 3, &Parcel::new()));
        assert_eq!(self.take(), 3);
    }

    /// The answer to it.
    fn call_back(&mut self) {
        self.peer.say(0);
        self.peer.hear();
    }

    /// As [`told`], of the client.
    fn told(&mut self) -> Vec<u32> {
        told(&mut self.client)
    }
}

/// Reads and acknowledges freeze notifications until there are no more; what they said.
fn told(end: &mut End) -> Vec<u32> {
    let mut told = Vec::new();
    loop {
        let returns = end.drain();
        let news = returns.iter().filter_map(|ret| match ret {
            Return::FrozenBinder(info) => Some(info.is_frozen),
            _ => None,
        });
        let before = told.len();
        told.extend(news);
        if told.len() == before {
            return told;
        }
        end.queue().freeze_done(COOKIE);
        end.flush().expect("BC_FREEZE_NOTIFICATION_DONE");
    }
}

fn freezing_goes_on_after_a_signal(env: &Env) {
    for (restart, wanted) in [(true, Ok(0)), (false, Err(Errno::EINTR))] {
        let mut scene = Scene::new(env);
        hostile::handle_signal(Signal::SIGUSR1, restart);
        scene.call_out();
        let freezing = Freezing::start(&scene);
        let before = hostile::signals_handled();
        hostile::signal_thread(freezing.tid, Signal::SIGUSR1);
        until(|| hostile::signals_handled() != before);
        if wanted.is_ok() {
            freezing.until_asleep();
        }
        scene.call_back();
        assert_eq!(freezing.ended(), wanted);
        let reply = scene.client.expect_reply();
        scene.client.give_back(&reply);
        // Either it is frozen, or it has not stayed half frozen.
        let told = scene.one_way(1);
        let pending = if wanted.is_ok() { Return::TransactionPendingFrozen } else { Return::TransactionComplete };
        assert_eq!(told, [pending]);
        scene.registry.kill(&mut scene.client);
    }
}

fn thaw_ends_a_freezing_that_waits(env: &Env) {
    if env.driver(Difference::OvertakenFreeze) == Driver::C {
        env.skip("a freezing that was overtaken sleeps until its time is over");
    }
    let mut scene = Scene::new(env);
    scene.send(|commands, handle| {
        commands.request_freeze(handle, COOKIE);
    });
    scene.send(|commands, _| {
        commands.freeze_done(COOKIE);
    });
    scene.call_out();
    let freezing = Freezing::start(&scene);
    assert_eq!(scene.freeze(0, 0), Ok(()));
    // It is thawed: that holds, and is what is told in the end.
    assert_eq!(freezing.ended(), Err(Errno::EAGAIN));
    scene.call_back();
    assert_eq!(scene.told(), [0]);
    assert_eq!(scene.one_way(1), [Return::TransactionComplete]);
}

fn freezing_that_fails_leaves_another_one_waiting(env: &Env) {
    if env.driver(Difference::OvertakenFreeze) == Driver::C {
        env.skip("a freezing that was overtaken sleeps until its time is over");
    }
    let mut scene = Scene::new(env);
    scene.call_out();
    let freezing = Freezing::start(&scene);
    assert_eq!(scene.freeze(1, 0), Err(Errno::EAGAIN));
    let mut other = End::open(env);
    let handle = scene.registry.get(&mut other, 1);
    other.start(Call::new(handle, 1, &Parcel::new()));
    other.expect(&[Return::FrozenReply]);
    scene.call_back();
    assert_eq!(freezing.ended(), Ok(0));
    let reply = scene.client.expect_reply();
    scene.client.give_back(&reply);
    // What was said to be frozen is.
    assert_eq!(scene.one_way(1), [Return::TransactionPendingFrozen]);
}

/// A thaw overtakes a freezing that waits, and before that one runs again, a third one fails: nothing is left that would
/// thaw the process, so the third one has to.
fn freezing_that_was_overtaken_counts_no_more(env: &Env) {
    if env.driver(Difference::OvertakenFreeze) == Driver::C {
        env.skip("a freezing that was overtaken sleeps until its time is over");
    }
    let mut scene = Scene::new(env);
    scene.call_out();
    // On one processor, the thread that waits does not run while this one goes first.
    binder_client::process::pin_to(0).expect("sched_setaffinity");
    let freezing = Freezing::start(&scene);
    hostile::go_first(true);
    assert_eq!(scene.freeze(0, 0), Ok(()));
    assert_eq!(scene.freeze(1, 0), Err(Errno::EAGAIN));
    hostile::go_first(false);
    assert_eq!(freezing.ended(), Err(Errno::EAGAIN));
    scene.call_back();
    let reply = scene.client.expect_reply();
    scene.client.give_back(&reply);
    assert_eq!(scene.one_way(1), [Return::TransactionComplete]);
}

fn notification_is_true_in_the_end(env: &Env) {
    let mut scene = Scene::new(env);
    let rounds = if env.thorough { 3000 } else { 200 };
    let pid = scene.peer.pid() as u32;
    let binder = binder_client::Binder::open(&env.device).expect("open");
    let (turn, turns) = mpsc::channel::<u32>();
    let (done, is_done) = mpsc::channel();
    let freezer = std::thread::spawn(move || {
        for round in turns {
            let mut info = FreezeInfo { pid, enable: round % 2, timeout_ms: 0 };
            binder.ioctl(uapi::BINDER_FREEZE, &mut info).expect("BINDER_FREEZE");
            done.send(()).expect("the test is there");
        }
    });
    for round in 1..=rounds {
        let handle = scene.handle;
        scene.client.queue().request_freeze(handle, COOKIE);
        turn.send(round).expect("the freezer is there");
        scene.client.flush().expect("BC_REQUEST_FREEZE_NOTIFICATION");
        is_done.recv().expect("the freezer is there");
        assert_eq!(scene.told().last(), Some(&(round % 2)), "round {round}");
        let told = scene.send(|commands, handle| {
            commands.clear_freeze(handle, COOKIE);
        });
        assert_eq!(told, [Return::ClearFreezeNotificationDone(COOKIE)]);
    }
    drop(turn);
    freezer.join().expect("the freezer is well");
}

/// One thread freezes while another one thaws. Each tells all holders, and one may overtake the other on the way: what
/// each holder is told last is true nevertheless.
fn notification_of_many_is_true_in_the_end(env: &Env) {
    const HOLDERS: usize = 100;

    if env.driver(Difference::OvertakenFreeze) == Driver::C {
        env.skip("what is told last may be what was so before");
    }
    let mut scene = Scene::new(env);
    let rounds = if env.thorough { 500 } else { 50 };
    let mut holders: Vec<End> = (0..HOLDERS)
        .map(|_| {
            let mut end = End::open(env).enter();
            let handle = scene.registry.get(&mut end, 1);
            end.queue().request_freeze(handle, COOKIE);
            end.flush().expect("BC_REQUEST_FREEZE_NOTIFICATION");
            assert_eq!(told(&mut end), [0]);
            end
        })
        .collect();
    for round in 0..rounds {
        let meeting = Arc::new(Meeting::default());
        let freezer = |enable| {
            let (binder, pid, meeting) = (scene.client.binder().clone(), scene.peer.pid() as u32, meeting.clone());
            move || {
                let mut info = FreezeInfo { pid, enable, timeout_ms: 0 };
                if enable == round % 2 {
                    meeting.begin();
                } else {
                    meeting.wait();
                }
                binder.ioctl(uapi::BINDER_FREEZE, &mut info)
            }
        };
        let threads = [1, 0].map(|enable| std::thread::spawn(freezer(enable)));
        for thread in threads {
            assert_eq!(thread.join().expect("the thread is well"), Ok(0));
        }
        scene.client.start(Call::new(scene.handle, 3, &Parcel::new()));
        let is_frozen = match scene.client.drain()[..] {
            [Return::FrozenReply] => 1,
            [] => 0,
            ref other => panic!("{other:x?}"),
        };
        if is_frozen == 0 {
            assert_eq!(scene.take(), 3);
            scene.call_back();
            let reply = scene.client.expect_reply();
            scene.client.give_back(&reply);
        }
        for end in &mut holders {
            assert_eq!(told(end).last(), Some(&is_frozen), "round {round}");
        }
    }
}

fn what_a_frozen_process_was_sent_is_known(env: &Env) {
    let mut scene = Scene::new(env);
    assert_eq!((scene.state().sync_recv, scene.state().async_recv), (0, 0));
    assert_eq!(scene.freeze(1, 0), Ok(()));
    assert_eq!((scene.state().sync_recv, scene.state().async_recv), (0, 0));
    // The second bit says that something is on its way to it, a one-way call too.
    scene.one_way(1);
    assert_eq!((scene.state().sync_recv, scene.state().async_recv), (2, 1));
    scene.client.start(Call::new(scene.handle, 1, &Parcel::new()));
    scene.client.expect(&[Return::FrozenReply]);
    assert_eq!((scene.state().sync_recv, scene.state().async_recv), (3, 1));
    scene.one_way(2);
    assert_eq!((scene.state().sync_recv, scene.state().async_recv), (3, 1));
    // What it was sent while it was frozen is forgotten when it thaws, what is on its way is not.
    assert_eq!(scene.freeze(0, 0), Ok(()));
    assert_eq!((scene.state().sync_recv, scene.state().async_recv), (2, 0));
    assert_eq!(scene.take(), 1);
    assert_eq!((scene.state().sync_recv, scene.state().async_recv), (2, 0));
    assert_eq!(scene.take(), 2);
    assert_eq!((scene.state().sync_recv, scene.state().async_recv), (0, 0));
}

const COOKIE: u64 = 0xf0;

fn state(is_frozen: u32) -> Return {
    Return::FrozenBinder(FrozenStateInfo { cookie: COOKIE, is_frozen, reserved: 0 })
}

fn notification_tells_the_state_and_its_changes(env: &Env) {
    let mut scene = Scene::new(env);
    let told = scene.send(|commands, handle| {
        commands.request_freeze(handle, COOKIE);
    });
    assert_eq!(told, [state(0)]);
    scene.send(|commands, _| {
        commands.freeze_done(COOKIE);
    });
    for _ in 0..2 {
        for frozen in [1, 0] {
            assert_eq!(scene.freeze(frozen, 0), Ok(()));
            assert_eq!(scene.client.drain(), [state(frozen)]);
            let told = scene.send(|commands, _| {
                commands.freeze_done(COOKIE);
            });
            assert_eq!(told, []);
        }
    }
    // What is not frozen can be thawed, and that is told too.
    assert_eq!(scene.freeze(0, 0), Ok(()));
    scene.client.expect(&[state(0)]);
}

fn notification_is_told_once_at_a_time(env: &Env) {
    let mut scene = Scene::new(env);
    let told = scene.send(|commands, handle| {
        commands.request_freeze(handle, COOKIE);
    });
    assert_eq!(told, [state(0)]);
    // The news waits until the holder is done with the last.
    assert_eq!(scene.freeze(1, 0), Ok(()));
    scene.client.expect(&[]);
    let told = scene.send(|commands, _| {
        commands.freeze_done(COOKIE);
    });
    assert_eq!(told, [state(1)]);
}

/// Two handles for which the holder chose one cookie. An acknowledgement is for the notification that was told first.
fn notifications_with_one_cookie_are_acknowledged_in_turn(env: &Env) {
    for cleared in [0, 1] {
        let mut scene = Scene::new(env);
        let mut other = End::open(env);
        scene.registry.put(&mut other, 2, object::binder(8, 8));
        let handles = [scene.handle, scene.registry.get(&mut scene.client, 2)];
        for handle in handles {
            let told = scene.send(|commands, _| {
                commands.request_freeze(handle, COOKIE);
            });
            assert_eq!(told, [state(0)]);
        }
        let told = scene.send(|commands, _| {
            commands.clear_freeze(handles[cleared], COOKIE);
        });
        assert_eq!(told, []);
        let told = [0, 1].map(|_| {
            scene.send(|commands, _| {
                commands.freeze_done(COOKIE);
            })
        });
        let mut wanted = [vec![], vec![]];
        wanted[cleared].push(Return::ClearFreezeNotificationDone(COOKIE));
        assert_eq!(told, wanted);
        scene.registry.kill(&mut scene.client);
    }
}

fn notification_cleared(env: &Env) {
    let mut scene = Scene::new(env);
    scene.send(|commands, handle| {
        commands.request_freeze(handle, COOKIE);
    });
    scene.send(|commands, _| {
        commands.freeze_done(COOKIE);
    });
    let told = scene.send(|commands, handle| {
        commands.clear_freeze(handle, COOKIE);
    });
    assert_eq!(told, [Return::ClearFreezeNotificationDone(COOKIE)]);
    assert_eq!(scene.freeze(1, 0), Ok(()));
    scene.client.expect(&[]);
    // And again from the start.
    let told = scene.send(|commands, handle| {
        commands.request_freeze(handle, COOKIE);
    });
    assert_eq!(told, [state(1)]);
}

fn notification_requests_that_make_no_sense(env: &Env) {
    let scene = Scene::new(env);
    let refused = |fill: &dyn Fn(&mut Commands<'_>)| {
        let mut commands = Commands::new();
        commands.enter_looper();
        fill(&mut commands);
        scene.client.binder().write_read(commands.bytes(), &mut []).0
    };
    let handle = scene.handle;
    let results = [
        refused(&|commands| {
            commands.request_freeze(handle + 1, COOKIE);
        }),
        refused(&|commands| {
            commands.clear_freeze(handle + 1, COOKIE);
        }),
        refused(&|commands| {
            commands.clear_freeze(handle, COOKIE);
        }),
        refused(&|commands| {
            commands.freeze_done(COOKIE);
        }),
        refused(&|commands| {
            commands.request_freeze(handle, COOKIE);
        }),
        refused(&|commands| {
            commands.request_freeze(handle, COOKIE + 1);
        }),
        refused(&|commands| {
            commands.clear_freeze(handle, COOKIE + 1);
        }),
    ];
    // Here the ioctl itself says so, unlike with deaths; the fifth is a good one.
    let no = Err(Errno::EINVAL);
    assert_eq!(results, [no, no, no, no, Ok(()), no, no]);
}

fn frozen_process_that_dies(env: &Env) {
    let mut scene = Scene::new(env);
    scene.send(|commands, handle| {
        commands.request_death(handle, 1).request_freeze(handle, COOKIE);
    });
    scene.send(|commands, _| {
        commands.freeze_done(COOKIE);
    });
    assert_eq!(scene.freeze(1, 0), Ok(()));
    assert_eq!(scene.client.drain(), [state(1)]);
    scene.one_way(1);
    scene.peer.kill();
    assert_eq!(scene.client.wait(), Return::DeadBinder(1));
    let handle = scene.handle;
    let told = scene.send(|commands, _| {
        commands.freeze_done(COOKIE).clear_freeze(handle, COOKIE).dead_binder_done(1).release(handle);
    });
    assert_eq!(told, [Return::ClearFreezeNotificationDone(COOKIE)]);
    scene.registry.put(&mut scene.client, 9, object::binder(1, 1));
}

/// What `BINDER_FREEZE` and `BINDER_GET_FROZEN_INFO` say to a pid.
pub fn thaw_and_ask(binder: &Binder, pid: i32) -> [nix::Result<i32>; 2] {
    let mut info = FreezeInfo { pid: pid as u32, enable: 0, timeout_ms: 0 };
    let thawed = binder.ioctl(uapi::BINDER_FREEZE, &mut info);
    let mut info = FrozenStatusInfo { pid: pid as u32, ..FrozenStatusInfo::default() };
    [thawed, binder.ioctl(uapi::BINDER_GET_FROZEN_INFO, &mut info)]
}

/// As Android freezes a cached application: `BINDER_FREEZE` first, then the cgroup freezer stops its threads.
fn control_group_that_stops_a_waiting_process(env: &Env) {
    let mut scene = Scene::new(env);
    let group = Cgroup::plain("frozen");
    group.add(scene.peer.pid());
    scene.peer.say(TAKE);
    until_in_ioctl(scene.peer.pid(), scene.peer.pid());
    assert_eq!(scene.freeze(1, 0), Ok(()));
    // To wait in the driver does not keep it from being stopped.
    group.freeze(true);
    assert_eq!(scene.one_way(7), [Return::TransactionPendingFrozen]);
    scene.client.start(Call::new(scene.handle, 8, &Parcel::new()));
    scene.client.expect(&[Return::FrozenReply]);
    // For the driver it may be called again; it does not run for all that.
    assert_eq!(scene.freeze(0, 0), Ok(()));
    scene.client.start(Call::new(scene.handle, 9, &Parcel::new()));
    scene.client.expect(&[]);
    assert!(!scene.peer.has_spoken());
    group.freeze(false);
    // It waits on as if nothing had been.
    assert_eq!(scene.peer.hear(), 7);
    assert_eq!(scene.take(), 9);
    scene.peer.say(0);
    scene.peer.hear();
    let reply = scene.client.expect_reply();
    scene.client.give_back(&reply);
}

fn a_pid_is_one_of_the_callers_namespace(env: &Env) {
    let (known, unknown) = ([Ok(0); 2], [Err(Errno::EINVAL); 2]);
    let inside = match env.driver(Difference::FreezeNamespace) {
        Driver::Ours => known,
        Driver::C => unknown,
    };
    let outside = End::open(env);
    let peer = Peer::start(env, |env, line| {
        unshare(CloneFlags::CLONE_NEWPID).expect("the test runs as root");
        let mut contained = Child::spawn(|| {
            assert_eq!(nix::unistd::getpid().as_raw(), 1);
            let end = End::open(env).enter();
            assert_eq!(thaw_and_ask(end.binder(), 1), inside);
            line.say(0).expect("the test is there");
            let _ = line.hear();
            0
        })
        .expect("fork");
        line.say(contained.pid().as_raw() as u64).expect("the test is there");
        assert!(matches!(contained.wait(), Ok(nix::sys::wait::WaitStatus::Exited(_, 0))));
    });
    let (first, second) = (peer.hear(), peer.hear());
    assert_eq!(first.min(second), 0, "the process inside is there");
    assert_eq!(thaw_and_ask(outside.binder(), first.max(second) as i32), known);
    assert_eq!(thaw_and_ask(outside.binder(), 1), unknown);
    peer.say(0);
    peer.join();
}
