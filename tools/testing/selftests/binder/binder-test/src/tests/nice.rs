// SPDX-License-Identifier: GPL-2.0

//! Nice values: a thread handles a call at the caller's nice value, within the node's minimum and the thread's limit.
//!
//! Both ends are one thread here. Each test sets its nice value before it calls and before it reads.

use binder_client::Call;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::FlatObject;
use nix::sys::resource::Resource;
use nix::sys::resource::setrlimit;
use nix::unistd::Uid;

use super::tests;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Registry;
use crate::hostile::nice;
use crate::hostile::set_nice;
use crate::kernel::Trace;

tests! { Interface, "nice":
    call_is_handled_as_nice_as_its_caller,
    nodes_minimum_is_kept,
    nodes_without_a_minimum_ask_for_zero,
    minimum_is_not_below_zero,
    one_way_call_takes_the_nodes_minimum_alone,
    nested_calls_come_back_in_order,
    reply_that_fails_restores_too,
    thread_that_waits_for_process_work_has_the_nice_value_of_the_open,
    without_the_right_to_be_less_nice,
    with_a_limit_on_how_little_nice,
    the_capability_is_asked_for_where_the_limit_does_not_suffice,
}

/// A client and a server whose node asks for a minimum.
fn pair(env: &Env, minimum: i8) -> Pair {
    let flags = minimum as u32 & uapi::FLAT_BINDER_FLAG_PRIORITY_MASK;
    Pair::with_flags(Registry::start(env), End::open(env), End::open(env).enter(), flags)
}

/// The nice values while a call from `caller` to a thread of `handler` is handled, and after the reply.
fn handled(pair: &mut Pair, caller: i32, handler: i32) -> (i32, i32) {
    set_nice(caller);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    set_nice(handler);
    let received = pair.server.expect_transaction();
    let during = nice();
    pair.server.give_back(&received);
    pair.server.start_reply(Call::reply(&Parcel::new()));
    // At once: what a thread reads next changes it again.
    let after = nice();
    pair.server.expect(&[Return::TransactionComplete]);
    assert_eq!(nice(), after);
    let reply = pair.client.expect_reply();
    assert_eq!(nice(), after, "a caller's value is its own");
    pair.client.give_back(&reply);
    (during, after)
}

fn call_is_handled_as_nice_as_its_caller(env: &Env) {
    let mut pair = pair(env, 19);
    assert_eq!(handled(&mut pair, 10, 0), (10, 0));
    assert_eq!(handled(&mut pair, -10, 0), (-10, 0));
    assert_eq!(handled(&mut pair, 19, 0), (19, 0));
    assert_eq!(handled(&mut pair, -20, 0), (-20, 0));
    assert_eq!(handled(&mut pair, 0, 0), (0, 0));
}

fn nodes_minimum_is_kept(env: &Env) {
    let mut pair = pair(env, 5);
    // No caller is so nice that the node's calls are handled at more than its minimum.
    assert_eq!(handled(&mut pair, 10, 0), (5, 0));
    assert_eq!(handled(&mut pair, 5, 0), (5, 0));
    assert_eq!(handled(&mut pair, 4, 0), (4, 0));
    assert_eq!(handled(&mut pair, -4, 0), (-4, 0));
    assert_eq!(handled(&mut pair, 19, 0), (5, 0));
}

fn nodes_without_a_minimum_ask_for_zero(env: &Env) {
    let mut pair = pair(env, 0);
    assert_eq!(handled(&mut pair, 10, 0), (0, 0));
    assert_eq!(handled(&mut pair, -3, 0), (-3, 0));
}

fn minimum_is_not_below_zero(env: &Env) {
    // Eight bits without a sign: nothing that a thread can be.
    let mut pair = pair(env, -10);
    assert_eq!(handled(&mut pair, 10, 0), (10, 0));
    assert_eq!(handled(&mut pair, -15, 0), (-15, 0));
}

fn one_way_call_takes_the_nodes_minimum_alone(env: &Env) {
    // The thread that reads is 12 when nothing else is asked of it.
    set_nice(12);
    let mut pair = pair(env, 5);
    let mut handled = |caller| {
        set_nice(caller);
        pair.client.start_one_way(Call::one_way(pair.handle, 1, &Parcel::new()));
        // One read: the next would find nothing and wait.
        let Ok(Return::Transaction(received)) = pair.server.next() else { panic!("not one call") };
        let during = nice();
        pair.server.give_back(&received);
        during
    };
    assert_eq!(handled(-10), 5);
    assert_eq!(handled(19), 5);
}

fn thread_that_waits_for_process_work_has_the_nice_value_of_the_open(env: &Env) {
    let mut pair = pair(env, 19);
    set_nice(-10);
    pair.server.expect(&[]);
    assert_eq!(nice(), 0);
    assert_eq!(handled(&mut pair, 3, 11), (3, 0));
    set_nice(9);
    let mut other = End::open(env).enter();
    set_nice(0);
    other.expect(&[]);
    assert_eq!(nice(), 9);
    // One that waits for a reply stays what it is.
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    set_nice(4);
    pair.client.expect(&[]);
    assert_eq!(nice(), 4);
}

fn nested_calls_come_back_in_order(env: &Env) {
    let mut pair = pair(env, 19);
    let empty = Parcel::new();
    // A second server, which the first one calls.
    let mut third = End::open(env).enter();
    let node = FlatObject { flags: 19, ..object::binder(0x61000, 0x61c00) };
    pair.registry.put(&mut third, 2, node);
    let handle = pair.registry.get(&mut pair.server, 2);
    set_nice(4);
    pair.client.start(Call::new(pair.handle, 1, &empty));
    let outer = pair.server.expect_transaction();
    assert_eq!(nice(), 4);
    set_nice(6);
    pair.server.start(Call::new(handle, 2, &empty));
    let inner = third.expect_transaction();
    assert_eq!(nice(), 6);
    third.give_back(&inner);
    third.answer(&empty);
    assert_eq!(nice(), 0);
    set_nice(7);
    let reply = pair.server.expect_reply();
    pair.server.give_back(&reply);
    assert_eq!(nice(), 7);
    pair.server.give_back(&outer);
    pair.server.answer(&empty);
    assert_eq!(nice(), 0);
}

fn reply_that_fails_restores_too(env: &Env) {
    let mut pair = pair(env, 19);
    set_nice(8);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let received = pair.server.expect_transaction();
    assert_eq!(nice(), 8);
    pair.server.give_back(&received);
    // A reply with an unknown handle: the caller reads the failure, and the callee is done.
    pair.server.start_reply(Call::reply(&Parcel::from_object(&object::handle(77))));
    assert_eq!(nice(), 0);
    pair.server.expect(&[Return::TransactionComplete]);
    pair.client.expect(&[Return::TransactionComplete, Return::FailedReply]);
}

/// Without CAP_SYS_NICE, RLIMIT_NICE bounds the nice value.
fn without_the_right_to_be_less_nice(env: &Env) {
    set_nice(3);
    let mut pair = pair(env, 19);
    set_nice(-5);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    set_nice(3);
    setrlimit(Resource::RLIMIT_NICE, 0, 0).expect("setrlimit");
    nix::unistd::setuid(Uid::from_raw(4711)).expect("the test runs as root");
    let received = pair.server.expect_transaction();
    assert_eq!(nice(), 3);
    pair.server.give_back(&received);
    pair.server.answer(&Parcel::new());
    assert_eq!(nice(), 3);
}

fn with_a_limit_on_how_little_nice(env: &Env) {
    set_nice(6);
    let mut pair = pair(env, 19);
    set_nice(-5);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    set_nice(6);
    // 20 less the limit: down to 2, and so less nice than the thread is, but not as little as its caller.
    setrlimit(Resource::RLIMIT_NICE, 18, 18).expect("setrlimit");
    nix::unistd::setuid(Uid::from_raw(4711)).expect("the test runs as root");
    let received = pair.server.expect_transaction();
    assert_eq!(nice(), 2);
    pair.server.give_back(&received);
    pair.server.answer(&Parcel::new());
    assert_eq!(nice(), 6);
}

/// A capability that is asked for is an audit record, and marks a process that has it as one that used it.
fn the_capability_is_asked_for_where_the_limit_does_not_suffice(env: &Env) {
    // CAP_SYS_NICE.
    const FILTER: &str = "cap==23";

    let trace = Trace::new(env, "capable");
    if !trace.event("capability/cap_capable", FILTER) {
        env.skip("this kernel does not trace which capabilities are asked for");
    }
    trace.only(&[nix::unistd::getpid().as_raw()]);
    let mut pair = pair(env, 19);
    let mut asked = |id, caller, during| {
        set_nice(caller);
        pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
        set_nice(0);
        let mut received = None;
        trace.during(|| {
            nix::unistd::seteuid(Uid::from_raw(id)).expect("the test runs as root");
            received = Some(pair.server.expect_transaction());
            nix::unistd::seteuid(Uid::from_raw(0)).expect("it was root");
        });
        assert_eq!(nice(), during);
        pair.server.give_back(&received.expect("one call"));
        pair.server.answer(&Parcel::new());
        let reply = pair.client.expect_reply();
        pair.client.give_back(&reply);
        trace.events("cap_capable").len()
    };
    // 20 less the limit: down to -10.
    setrlimit(Resource::RLIMIT_NICE, 30, 30).expect("setrlimit");
    for id in [0, 4711] {
        assert_eq!(asked(id, -10, -10), 0);
        assert_eq!(asked(id, -1, -1), 0);
        assert_eq!(asked(id, 5, 5), 0);
    }
    assert_eq!(asked(0, -11, -11), 1);
    assert_eq!(asked(4711, -11, -10), 1);
}
