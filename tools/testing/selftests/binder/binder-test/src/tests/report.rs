// SPDX-License-Identifier: GPL-2.0

//! Reports of failed transactions on the netlink family `binder`.

use binder_client::Call;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::process::Child;
use binder_client::uapi;
use binder_client::uapi::FreezeInfo;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sched::unshare;
use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use nix::unistd;
use nix::unistd::Uid;

use super::tests;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::fixture::become_manager;
use crate::fixture::node;
use crate::netlink::Listener;
use crate::netlink::Report;

tests! { Interface, "report":
    what_goes_well_is_not_reported,
    calls_without_a_target,
    calls_that_are_refused,
    a_manager_that_calls_itself,
    a_size_beyond_32_bits,
    a_call_out_of_turn,
    a_call_back_that_is_refused,
    replies_that_fail,
    a_reply_to_a_dead_caller,
    calls_to_the_dead,
    calls_to_the_frozen,
    what_cannot_be_handed_over,
    any_user_may_listen,
    pids_are_those_of_the_machine,
    another_network_hears_nothing,
    unread_reports_are_dropped,
}

const TOO_LARGE: usize = 2 << 20;

fn listen(env: &Env) -> Listener {
    match Listener::new() {
        Ok(listener) => listener,
        Err(Errno::ENOENT) => env.skip("there is no family 'binder'"),
        Err(errno) => panic!("{errno}"),
    }
}

/// A report of a call with this code and so many bytes, made by this thread, which read `error`.
fn call(env: &Env, error: u32, code: u32, size: usize) -> Report {
    let pid = unistd::getpid().as_raw() as u32;
    Report {
        error: Some(error),
        context: Some(env.device.file_name().and_then(|name| name.to_str()).expect("a name").to_owned()),
        from_pid: Some(pid),
        from_tid: Some(pid),
        flags: Some(0),
        code: Some(code),
        data_size: Some(size as u32),
        ..Report::default()
    }
}

/// The same of a reply.
fn reply(env: &Env, error: u32, size: usize) -> Report {
    Report { is_reply: true, ..call(env, error, 0, size) }
}

/// Addressed to this process.
fn here(report: Report) -> Report {
    Report { to_pid: report.from_pid, ..report }
}

/// Addressed to this thread.
fn to_thread(report: Report) -> Report {
    Report { to_tid: report.from_tid, ..here(report) }
}

fn what_goes_well_is_not_reported(env: &Env) {
    let listener = listen(env);
    let mut pair = Pair::new(env);
    for _ in 0..3 {
        pair.check();
        pair.client.start_one_way(Call::new(pair.handle, 1, &Parcel::from_bytes(b"one way")));
        let received = pair.server.expect_transaction();
        pair.server.give_back(&received);
    }
    assert_eq!(listener.reports(), []);
}

fn calls_without_a_target(env: &Env) {
    let listener = listen(env);
    let mut end = End::open(env);
    end.start(Call::new(0, 7, &Parcel::from_bytes(b"x")).with_flags(uapi::TF_ACCEPT_FDS));
    end.expect(&[Return::DeadReply]);
    let wanted = Report { flags: Some(uapi::TF_ACCEPT_FDS), ..call(env, uapi::BR_DEAD_REPLY, 7, 1) };
    assert_eq!(listener.reports(), [wanted]);
    end.start(Call::one_way(99, 8, &Parcel::from_bytes(b"abc")));
    end.expect(&[Return::FailedReply]);
    let wanted = Report { flags: Some(uapi::TF_ONE_WAY), ..call(env, uapi::BR_FAILED_REPLY, 8, 3) };
    assert_eq!(listener.reports(), [wanted]);
}

fn calls_that_are_refused(env: &Env) {
    let listener = listen(env);
    let mut pair = Pair::new(env);
    let bad_object = Parcel::from_object(&object::handle(99));
    for (parcel, flags) in [
        (Parcel::from_bytes(&vec![0; TOO_LARGE]), 0),
        (Parcel::from_bytes(&vec![0; TOO_LARGE]), uapi::TF_ONE_WAY),
        (bad_object, 0),
    ] {
        pair.client.start(Call { handle: pair.handle, code: 5, flags, parcel: &parcel });
        pair.client.expect(&[Return::FailedReply]);
        let report = here(call(env, uapi::BR_FAILED_REPLY, 5, parcel.data().len()));
        assert_eq!(listener.reports(), [Report { flags: Some(flags), ..report }]);
    }
}

fn a_manager_that_calls_itself(env: &Env) {
    let listener = listen(env);
    let mut end = End::open(env);
    become_manager(end.binder());
    end.start(Call::new(0, 4, &Parcel::from_bytes(b"me")));
    end.expect(&[Return::FailedReply]);
    assert_eq!(listener.reports(), [call(env, uapi::BR_FAILED_REPLY, 4, 2)]);
}

fn a_size_beyond_32_bits(env: &Env) {
    let listener = listen(env);
    let mut pair = Pair::new(env);
    let mut data = Call::new(pair.handle, 5, &Parcel::from_bytes(b"abc")).data();
    data.data_size = (7 << 32) + 5;
    pair.client.queue().command(uapi::BC_TRANSACTION, &data);
    pair.client.flush().expect("BC_TRANSACTION");
    pair.client.expect(&[Return::FailedReply]);
    assert_eq!(listener.reports(), [here(call(env, uapi::BR_FAILED_REPLY, 5, 5))]);
}

fn a_call_out_of_turn(env: &Env) {
    let listener = listen(env);
    let mut pair = Pair::new(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    pair.client.start(Call::new(pair.handle, 2, &Parcel::from_bytes(b"x")));
    pair.client.expect(&[Return::TransactionComplete, Return::FailedReply]);
    // The driver gave up before it looked at the receiver.
    assert_eq!(listener.reports(), [call(env, uapi::BR_FAILED_REPLY, 2, 1)]);
}

fn a_call_back_that_is_refused(env: &Env) {
    let listener = listen(env);
    let mut pair = Pair::new(env);
    let back = object::binder(node(0x77).ptr, node(0x77).cookie);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_object(&back)));
    let received = pair.server.expect_transaction();
    let handle =
        pair.server.payload(&received).expect("a readable buffer").flat(0).and_then(|object| object.as_handle());
    pair.server.start(Call::new(handle.expect("a handle"), 6, &Parcel::from_bytes(&vec![0; TOO_LARGE])));
    pair.server.expect(&[Return::FailedReply]);
    // It is known which thread would have got it: the one that waits.
    assert_eq!(listener.reports(), [to_thread(call(env, uapi::BR_FAILED_REPLY, 6, TOO_LARGE))]);
}

fn replies_that_fail(env: &Env) {
    let listener = listen(env);
    let mut pair = Pair::new(env);
    pair.client.start_reply(Call::reply(&Parcel::from_bytes(b"abcd")));
    pair.client.expect(&[Return::FailedReply]);
    assert_eq!(listener.reports(), [reply(env, uapi::BR_FAILED_REPLY, 4)]);

    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
    // The caller reads that it failed, and the report is about the reply.
    pair.server.answer(&Parcel::from_bytes(&vec![0; TOO_LARGE]));
    pair.client.expect(&[Return::TransactionComplete, Return::FailedReply]);
    assert_eq!(listener.reports(), [to_thread(reply(env, uapi::BR_FAILED_REPLY, TOO_LARGE))]);
}

fn a_reply_to_a_dead_caller(env: &Env) {
    let listener = listen(env);
    let mut pair = Pair::new(env);
    // The driver may take a moment to release the client. A death notification tells when that is done.
    let gone = node(2);
    pair.registry.put(&mut pair.client, 2, object::binder(gone.ptr, gone.cookie));
    let mut watcher = End::open(env);
    let handle = pair.registry.get(&mut watcher, 2);
    watcher.queue().request_death(handle, 2);
    watcher.flush().expect("BC_REQUEST_DEATH_NOTIFICATION");
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
    drop(pair.client);
    assert_eq!(watcher.wait(), Return::DeadBinder(2));
    assert_eq!(listener.reports(), []);
    pair.server.start_reply(Call::reply(&Parcel::from_bytes(b"late")));
    assert_eq!(listener.reports(), [reply(env, uapi::BR_DEAD_REPLY, 4)]);
}

fn calls_to_the_dead(env: &Env) {
    let listener = listen(env);
    let mut pair = Pair::new(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    drop(pair.server);
    // The transaction was delivered before: no process sends now, and nothing is reported.
    assert_eq!([pair.client.wait(), pair.client.wait()], [Return::TransactionComplete, Return::DeadReply]);
    assert_eq!(listener.reports(), []);
    for flags in [0, uapi::TF_ONE_WAY] {
        pair.client.start(Call::new(pair.handle, 2, &Parcel::from_bytes(b"ab")).with_flags(flags));
        pair.client.expect(&[Return::DeadReply]);
        assert_eq!(listener.reports(), [Report { flags: Some(flags), ..call(env, uapi::BR_DEAD_REPLY, 2, 2) }]);
    }
}

fn calls_to_the_frozen(env: &Env) {
    let listener = listen(env);
    let registry = Registry::start(env);
    let peer = Peer::start(env, |env, line| {
        let mut end = End::open(env);
        registry.put(&mut end, 1, object::binder(node(1).ptr, node(1).cookie));
        line.say(0).expect("the test is there");
        let _ = line.hear();
    });
    peer.hear();
    let mut client = End::open(env);
    let handle = registry.get(&mut client, 1);
    let mut info = FreezeInfo { pid: peer.pid() as u32, enable: 1, timeout_ms: 0 };
    assert_eq!(client.binder().ioctl(uapi::BINDER_FREEZE, &mut info), Ok(0));
    let (sync, one_way) = (uapi::BR_FROZEN_REPLY, uapi::BR_TRANSACTION_PENDING_FROZEN);
    for (flags, error, read) in [
        (0, sync, Return::FrozenReply),
        (uapi::TF_ONE_WAY, one_way, Return::TransactionPendingFrozen),
        // This one takes the place of nothing, the next one that of this.
        (uapi::TF_ONE_WAY | uapi::TF_UPDATE_TXN, one_way, Return::TransactionPendingFrozen),
        (uapi::TF_ONE_WAY | uapi::TF_UPDATE_TXN, one_way, Return::TransactionPendingFrozen),
    ] {
        client.start(Call::new(handle, 3, &Parcel::from_bytes(b"abc")).with_flags(flags));
        client.expect(&[read]);
        let to_pid = Some(peer.pid() as u32);
        assert_eq!(listener.reports(), [Report { flags: Some(flags), to_pid, ..call(env, error, 3, 3) }]);
    }
}

fn what_cannot_be_handed_over(env: &Env) {
    let listener = listen(env);
    let registry = Registry::start(env);
    let (mut client, mut server) = (End::open(env), End::open(env));
    let mut node = object::binder(Pair::NODE.ptr, Pair::NODE.cookie);
    node.flags |= uapi::FLAT_BINDER_FLAG_ACCEPTS_FDS;
    registry.put(&mut server, 1, node);
    let handle = registry.get(&mut client, 1);
    client.start(Call::new(handle, 1, &Parcel::from_object(&object::fd(0, 0))));
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).expect("a lower limit");
    server.expect(&[]);
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a limit");
    client.expect(&[Return::TransactionComplete, Return::FailedReply]);
    // The sender's part had gone well.
    assert_eq!(listener.reports(), []);
}

/// Fails in a way that is reported.
fn fail(env: &Env) -> Report {
    let mut end = End::open(env);
    end.start(Call::new(99, 1, &Parcel::new()));
    end.expect(&[Return::FailedReply]);
    call(env, uapi::BR_FAILED_REPLY, 1, 0)
}

fn any_user_may_listen(env: &Env) {
    drop(listen(env));
    let mut end = End::open(env);
    unistd::setuid(Uid::from_raw(65534)).expect("root may change its uid");
    let listener = Listener::new().expect("an unprivileged user may listen");
    end.start(Call::new(99, 1, &Parcel::new()));
    end.expect(&[Return::FailedReply]);
    assert_eq!(listener.reports(), [call(env, uapi::BR_FAILED_REPLY, 1, 0)]);
}

fn pids_are_those_of_the_machine(env: &Env) {
    let listener = listen(env);
    unshare(CloneFlags::CLONE_NEWPID).expect("root may make namespaces");
    let mut child = Child::spawn(|| {
        let report = fail(env);
        // What it believes to be is something else.
        i32::from(report.from_pid != Some(1))
    })
    .expect("fork");
    child.wait().expect("the child ends");
    let pid = Some(child.pid().as_raw() as u32);
    let reports = listener.reports();
    assert_eq!(reports, [Report { from_pid: pid, from_tid: pid, ..call(env, uapi::BR_FAILED_REPLY, 1, 0) }]);
}

fn another_network_hears_nothing(env: &Env) {
    let outside = listen(env);
    unshare(CloneFlags::CLONE_NEWNET).expect("root may make namespaces");
    let inside = Listener::new().expect("the family is there as well");
    let report = fail(env);
    assert_eq!(inside.reports(), []);
    assert_eq!(outside.reports(), [report]);
}

fn unread_reports_are_dropped(env: &Env) {
    let listener = listen(env);
    let mut pair = Pair::new(env);
    for _ in 0..5000 {
        pair.client.start(Call::new(99, 1, &Parcel::new()));
        pair.client.expect(&[Return::FailedReply]);
    }
    pair.check();
    // The kernel tells a reader once that it has missed something, and goes on.
    assert!(listener.missed());
    assert!(!listener.reports().is_empty());
    let report = fail(env);
    assert_eq!(listener.reports(), [report]);
}
