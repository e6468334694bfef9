// SPDX-License-Identifier: GPL-2.0

//! Nodes and handles in transactions, and their translation.

use binder_client::Call;
use binder_client::Parcel;
use binder_client::Payload;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::FlatObject;
use binder_client::uapi::PtrCookie;

use super::tests;
use super::transaction::whole;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::node;

tests! { Core, "object":
    node_becomes_a_handle,
    weak_node_becomes_a_weak_handle,
    handle_becomes_a_node_in_its_owner,
    weak_handle_becomes_a_weak_node_in_its_owner,
    same_node_twice_is_one_handle,
    nodes_get_the_smallest_free_handles,
    third_process_gets_a_handle_of_its_own,
    node_with_another_cookie_is_refused,
    node_without_a_pointer,
    flags_arrive,
    bytes_around_objects_are_left_alone,
    objects_arrive_in_replies,
    manager_is_handle_zero_to_others,
    unknown_handle_is_refused,
    weakly_held_handle_is_refused_as_a_strong_one,
    call_to_a_weakly_held_handle_is_refused,
    failure_in_the_middle_undoes_what_came_before,
    calls_reach_the_node_they_name,
    many_nodes,
    many_objects_in_one_call,
    handle_of_a_dead_process_can_be_passed_on,
    weak_handle_of_a_dead_process_can_be_passed_on,
    weak_handle_to_what_its_owner_never_knew,
    weak_handle_is_passed_on_whatever_the_owner_was_told,
    call_holds_the_node_it_goes_to,
    buffer_holds_the_receivers_own_nodes_in_it,
    nodes_go_in_the_order_of_their_handles,
    file_descriptor_types_are_known,
}

/// The client sends a parcel in a call; what the server gets. The server's buffer is given back, and with it what it held.
#[track_caller]
fn send(pair: &mut Pair, parcel: &Parcel) -> (Vec<Return>, Payload) {
    let received = start(pair, parcel);
    let payload = pair.server.take(&received);
    pair.server.answer(&Parcel::new());
    let mut returns = pair.client.drain();
    let Some(Return::Reply(reply)) = returns.pop() else { panic!("not a reply") };
    pair.client.give_back(&reply);
    (returns, payload)
}

/// The client sends a parcel; the server's buffer stays.
#[track_caller]
fn start(pair: &mut Pair, parcel: &Parcel) -> uapi::TransactionData {
    pair.client.start(Call::new(pair.handle, 1, parcel));
    match pair.server.drain()[..] {
        [.., Return::Transaction(received)] => received,
        ref other => panic!("not a call: {other:x?}"),
    }
}

/// The server keeps what it got strongly, and answers.
#[track_caller]
fn keep(pair: &mut Pair, received: &uapi::TransactionData) -> (Payload, Vec<Return>) {
    let payload = pair.server.payload(received).expect("a readable buffer");
    for index in 0..payload.offsets.len() {
        if let Some(handle) = payload.flat(index).and_then(|object| object.as_handle()) {
            pair.server.queue().acquire(handle);
        }
    }
    pair.server.give_back(received);
    pair.server.answer(&Parcel::new());
    let mut returns = pair.client.drain();
    let Some(Return::Reply(reply)) = returns.pop() else { panic!("not a reply") };
    pair.client.give_back(&reply);
    for ret in &returns {
        pair.client.grant(ret);
    }
    pair.client.flush().expect("the references are granted");
    (payload, returns)
}

/// Gives the server a node of the client's and has it keep it. Returns its handle.
#[track_caller]
fn give(pair: &mut Pair, node: PtrCookie) -> u32 {
    let received = start(pair, &Parcel::from_object(&object::binder(node.ptr, node.cookie)));
    let (payload, _) = keep(pair, &received);
    payload.flat(0).and_then(|object| object.as_handle()).expect("a handle")
}

fn node_becomes_a_handle(env: &Env) {
    let mut pair = Pair::new(env);
    let ours = node(1);
    let received = start(&mut pair, &Parcel::from_object(&object::binder(ours.ptr, ours.cookie)));
    let (payload, returns) = keep(&mut pair, &received);
    assert_eq!(payload.offsets, [0]);
    assert_eq!(payload.data.len(), size_of::<FlatObject>());
    // The sender's names are nothing to the receiver.
    assert_eq!(payload.flat(0), Some(object::handle(1)));
    assert_eq!(returns, [Return::IncRefs(ours), Return::Acquire(ours), Return::TransactionComplete]);
}

fn weak_node_becomes_a_weak_handle(env: &Env) {
    let mut pair = Pair::new(env);
    let ours = node(1);
    let received = start(&mut pair, &Parcel::from_object(&object::weak_binder(ours.ptr, ours.cookie)));
    assert_eq!(pair.server.payload(&received).expect("a readable buffer").flat(0), Some(object::weak_handle(1)));
    pair.server.answer(&Parcel::new());
    let returns = pair.client.drain();
    let [Return::IncRefs(asked), Return::TransactionComplete, Return::Reply(_)] = returns[..] else {
        panic!("{returns:x?}")
    };
    assert_eq!(asked, ours);
}

fn handle_becomes_a_node_in_its_owner(env: &Env) {
    let mut pair = Pair::new(env);
    let handle = pair.handle;
    let (returns, payload) = send(&mut pair, &Parcel::from_object(&object::handle(handle)));
    assert_eq!(returns, [Return::TransactionComplete]);
    assert_eq!(payload.flat(0), Some(object::binder(Pair::NODE.ptr, Pair::NODE.cookie)));
}

fn weak_handle_becomes_a_weak_node_in_its_owner(env: &Env) {
    let mut pair = Pair::new(env);
    let handle = pair.handle;
    let (_, payload) = send(&mut pair, &Parcel::from_object(&object::weak_handle(handle)));
    assert_eq!(payload.flat(0), Some(object::weak_binder(Pair::NODE.ptr, Pair::NODE.cookie)));
}

fn same_node_twice_is_one_handle(env: &Env) {
    let mut pair = Pair::new(env);
    let mut parcel = Parcel::from_object(&object::binder(0x100, 0x200));
    parcel.object(&object::binder(0x300, 0x400));
    parcel.object(&object::binder(0x100, 0x200));
    parcel.object(&object::weak_binder(0x300, 0x400));
    let received = start(&mut pair, &parcel);
    let (payload, _) = keep(&mut pair, &received);
    let handles: Vec<_> = (0..4).map(|index| payload.flat(index).and_then(|object| object.as_handle())).collect();
    assert_eq!(handles, [Some(1), Some(2), Some(1), Some(2)]);
    // And in another call.
    assert_eq!(give(&mut pair, PtrCookie { ptr: 0x300, cookie: 0x400 }), 2);
}

fn nodes_get_the_smallest_free_handles(env: &Env) {
    let mut pair = Pair::new(env);
    for number in 1..=6 {
        assert_eq!(give(&mut pair, node(u64::from(number))), number);
    }
    for (freed, next) in [(vec![3], vec![3, 7]), (vec![5, 2, 6], vec![2, 5, 6, 8]), (vec![1], vec![1])] {
        for handle in freed {
            pair.server.queue().release(handle);
        }
        pair.server.flush().expect("BC_RELEASE");
        pair.client.drain();
        for handle in next {
            // A node that is new to the driver.
            assert_eq!(give(&mut pair, node(0x100 + rand())), handle);
        }
    }
}

/// A number not given before in this process.
fn rand() -> u64 {
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering;
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // ORDERING: only that each number is given once.
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn third_process_gets_a_handle_of_its_own(env: &Env) {
    let mut pair = Pair::new(env);
    let mut third = End::open(env).enter();
    // So that handle 1 of the third process is something else.
    pair.registry.put(&mut pair.client, 5, object::binder(0x5000, 0));
    assert_eq!(pair.registry.get(&mut third, 5), 1);
    // The client passes its handle to the server's node on.
    let handle = pair.handle;
    pair.registry.put(&mut pair.client, 6, object::handle(handle));
    let other = pair.registry.get(&mut third, 6);
    assert_eq!(other, 2);
    third.start(Call::new(other, 7, &Parcel::from_bytes(b"by way of another")));
    let received = pair.server.expect_transaction();
    assert_eq!((received.target, received.cookie, received.code), (Pair::NODE.ptr, Pair::NODE.cookie, 7));
    assert_eq!(pair.server.take(&received).data, b"by way of another");
    pair.server.answer(&Parcel::new());
    let reply = third.expect_reply();
    third.give_back(&reply);
}

fn node_with_another_cookie_is_refused(env: &Env) {
    let mut pair = Pair::new(env);
    assert_eq!(give(&mut pair, PtrCookie { ptr: 0x100, cookie: 0x200 }), 1);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_object(&object::binder(0x100, 0x201))));
    pair.client.expect(&[Return::FailedReply]);
    pair.server.expect(&[]);
    pair.check();
    whole(&mut pair);
}

fn node_without_a_pointer(env: &Env) {
    let mut pair = Pair::new(env);
    let nothing = PtrCookie { ptr: 0, cookie: 0 };
    let received = start(&mut pair, &Parcel::from_object(&object::binder(0, 0)));
    let (payload, returns) = keep(&mut pair, &received);
    assert_eq!(payload.flat(0), Some(object::handle(1)));
    assert_eq!(returns, [Return::IncRefs(nothing), Return::Acquire(nothing), Return::TransactionComplete]);
}

fn flags_arrive(env: &Env) {
    let mut pair = Pair::new(env);
    let handle = pair.handle;
    for flags in [0x7f | uapi::FLAT_BINDER_FLAG_ACCEPTS_FDS, !uapi::FLAT_BINDER_FLAG_TXN_SECURITY_CTX] {
        let mut parcel = Parcel::from_object(&FlatObject { flags, ..object::binder(0x100, 0x200) });
        parcel.object(&FlatObject { flags, ..object::handle(handle) });
        let (_, payload) = send(&mut pair, &parcel);
        assert_eq!(payload.flat(0).map(|object| object.flags), Some(flags));
        assert_eq!(payload.flat(1).map(|object| object.flags), Some(flags));
    }
}

fn bytes_around_objects_are_left_alone(env: &Env) {
    let mut pair = Pair::new(env);
    let mut parcel = Parcel::from_bytes(&super::transaction::pattern(4080, 1));
    // Across the end of a page.
    parcel.object(&object::binder(0x100, 0x200));
    parcel.bytes(&super::transaction::pattern(5000, 2));
    parcel.object(&object::binder(0x300, 0x400));
    parcel.bytes(&super::transaction::pattern(3, 3));
    let received = start(&mut pair, &parcel);
    let (payload, _) = keep(&mut pair, &received);
    assert_eq!(payload.offsets, parcel.offsets());
    let mut wanted = parcel.data().to_vec();
    for (offset, handle) in [(4080, 1), (parcel.offsets()[1] as usize, 2)] {
        wanted[offset..offset + 24].copy_from_slice(zerocopy::IntoBytes::as_bytes(&object::handle(handle)));
    }
    assert!(payload.data == wanted);
}

fn objects_arrive_in_replies(env: &Env) {
    let mut pair = Pair::new(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
    let mut parcel = Parcel::from_object(&object::binder(0x100, 0x200));
    parcel.object(&object::binder(Pair::NODE.ptr, Pair::NODE.cookie));
    pair.server.start_reply(Call::reply(&parcel));
    let new = PtrCookie { ptr: 0x100, cookie: 0x200 };
    pair.server.expect(&[Return::IncRefs(new), Return::Acquire(new), Return::TransactionComplete]);
    let reply = pair.client.expect_reply();
    let payload = pair.client.take(&reply);
    assert_eq!(payload.flat(0), Some(object::handle(pair.handle + 1)));
    assert_eq!(payload.flat(1), Some(object::handle(pair.handle)));
}

fn manager_is_handle_zero_to_others(env: &Env) {
    let mut pair = Pair::new(env);
    // Without a reference of one's own it can be called and not passed on.
    assert_eq!(refused(&mut pair, &Parcel::from_object(&object::handle(0))), [Return::FailedReply]);
    pair.client.queue().acquire(0);
    // Handle 0 passed on is handle 0 there.
    let (_, payload) = send(&mut pair, &Parcel::from_object(&object::handle(0)));
    assert_eq!(payload.flat(0), Some(object::handle(0)));
}

fn refused(pair: &mut Pair, parcel: &Parcel) -> Vec<Return> {
    pair.client.start(Call::new(pair.handle, 1, parcel));
    let returns = pair.client.drain();
    assert!(returns.contains(&Return::FailedReply), "{returns:x?}");
    assert!(!returns.contains(&Return::TransactionComplete), "{returns:x?}");
    pair.server.expect(&[]);
    returns
}

fn unknown_handle_is_refused(env: &Env) {
    let mut pair = Pair::new(env);
    for handle in [pair.handle + 1, 4711, u32::MAX] {
        for object in [object::handle(handle), object::weak_handle(handle)] {
            assert_eq!(refused(&mut pair, &Parcel::from_object(&object)), [Return::FailedReply]);
        }
    }
    pair.check();
    whole(&mut pair);
}

fn weakly_held_handle_is_refused_as_a_strong_one(env: &Env) {
    let mut pair = Pair::new(env);
    let handle = pair.handle;
    pair.client.queue().increfs(handle).release(handle);
    // The call itself needs a strong one, so ask for it through a second node of the server's.
    pair.registry.put(&mut pair.server, 3, object::binder(0x9000, 0x9001));
    pair.handle = pair.registry.get(&mut pair.client, 3);
    pair.server.expect(&[Return::Release(Pair::NODE)]);
    assert_eq!(refused(&mut pair, &Parcel::from_object(&object::handle(handle)))[..], [Return::FailedReply]);
    let (_, payload) = send(&mut pair, &Parcel::from_object(&object::weak_handle(handle)));
    assert_eq!(payload.flat(0), Some(object::weak_binder(Pair::NODE.ptr, Pair::NODE.cookie)));
}

fn call_to_a_weakly_held_handle_is_refused(env: &Env) {
    let mut pair = Pair::new(env);
    let handle = pair.handle;
    pair.client.queue().increfs(handle).release(handle);
    for flags in [0, uapi::TF_ONE_WAY] {
        pair.client.start(Call { handle, code: 1, flags, parcel: &Parcel::new() });
        pair.client.expect(&[Return::FailedReply]);
    }
}

fn failure_in_the_middle_undoes_what_came_before(env: &Env) {
    let mut pair = Pair::new(env);
    pair.client.queue().acquire(0);
    let mut broken = object::binder(0x500, 0x600);
    broken.kind = 0x1234;
    for turn in 0..3u64 {
        let fresh = PtrCookie { ptr: 0x1000 + turn, cookie: 0x2000 };
        let mut parcel = Parcel::from_object(&object::binder(fresh.ptr, fresh.cookie));
        parcel.object(&object::handle(0));
        parcel.object(&broken);
        // The owner is not asked for references: no process will hold the node.
        assert_eq!(refused(&mut pair, &parcel), [Return::FailedReply]);
    }
    // The handles that were made are free again.
    assert_eq!(give(&mut pair, node(9)), 1);
    whole(&mut pair);
}

fn calls_reach_the_node_they_name(env: &Env) {
    let mut pair = Pair::new(env);
    let handles: Vec<(u32, PtrCookie)> = (1..=20).map(|number| (give(&mut pair, node(number)), node(number))).collect();
    for (handle, node) in handles {
        pair.server.start(Call::one_way(handle, handle, &Parcel::new()));
        pair.server.expect(&[Return::TransactionComplete]);
        let received = pair.client.expect_transaction();
        assert_eq!((received.target, received.cookie, received.code), (node.ptr, node.cookie, handle));
        pair.client.give_back(&received);
    }
}

fn many_nodes(env: &Env) {
    let mut pair = Pair::new(env);
    let count = 1000;
    for number in 1..=count {
        assert_eq!(give(&mut pair, node(u64::from(number))), number);
    }
    // Given back in an order that is neither that of the handles nor its reverse.
    for step in 0..count {
        let handle = step * 617 % count + 1;
        pair.server.queue().release(handle);
        pair.server.flush().expect("BC_RELEASE");
        let gone = node(u64::from(handle));
        pair.client.expect(&[Return::Release(gone), Return::DecRefs(gone)]);
    }
    assert_eq!(give(&mut pair, node(1)), 1);
}

fn many_objects_in_one_call(env: &Env) {
    let mut pair = Pair::new(env);
    let mut parcel = Parcel::new();
    for number in 1..=500 {
        let node = node(number);
        parcel.object(&object::binder(node.ptr, node.cookie));
    }
    let received = start(&mut pair, &parcel);
    let payload = pair.server.payload(&received).expect("a readable buffer");
    for number in 1..=500u32 {
        assert_eq!(payload.flat(number as usize - 1), Some(object::handle(number)));
    }
    pair.server.answer(&Parcel::new());
    let returns = pair.client.drain();
    // Each node was asked for once in each way, and given up once in each way.
    let count = |wanted: fn(&Return) -> bool| returns.iter().filter(|ret| wanted(ret)).count();
    assert_eq!(count(|ret| matches!(ret, Return::IncRefs(_))), 500);
    assert_eq!(count(|ret| matches!(ret, Return::Acquire(_))), 500);
    for ret in &returns {
        pair.client.grant(ret);
    }
    let after = {
        pair.client.flush().expect("the references are granted");
        pair.client.expect(&[]);
        pair.server.give_back(&received);
        pair.client.drain()
    };
    assert_eq!(after.iter().filter(|ret| matches!(ret, Return::Release(_))).count(), 500);
    assert_eq!(after.iter().filter(|ret| matches!(ret, Return::DecRefs(_))).count(), 500);
    whole(&mut pair);
}

fn handle_of_a_dead_process_can_be_passed_on(env: &Env) {
    let mut pair = Pair::new(env);
    let mut doomed = End::open(env);
    pair.registry.put(&mut doomed, 4, object::binder(0x7000, 0x7001));
    let handle = pair.registry.get(&mut pair.client, 4);
    drop(doomed);
    crate::fixture::until(|| {
        pair.client.start(Call::one_way(handle, 1, &Parcel::new()));
        pair.client.drain() == [Return::DeadReply]
    });
    let received = start(&mut pair, &Parcel::from_object(&object::handle(handle)));
    let (payload, _) = keep(&mut pair, &received);
    let there = payload.flat(0).and_then(|object| object.as_handle()).expect("a handle");
    pair.server.start(Call::new(there, 1, &Parcel::new()));
    pair.server.expect(&[Return::DeadReply]);
}

fn weak_handle_of_a_dead_process_can_be_passed_on(env: &Env) {
    let mut pair = Pair::new(env);
    let mut doomed = End::open(env);
    pair.registry.put(&mut doomed, 4, object::binder(0x7000, 0x7001));
    let handle = pair.registry.get(&mut pair.client, 4);
    pair.registry.drop_kept(&mut pair.client, 4);
    drop(doomed);
    crate::fixture::until(|| {
        pair.client.start(Call::one_way(handle, 1, &Parcel::new()));
        pair.client.drain() == [Return::DeadReply]
    });
    pair.client.queue().increfs(handle).release(handle);
    pair.client.flush().expect("BC_RELEASE");
    let received = start(&mut pair, &Parcel::from_object(&object::weak_handle(handle)));
    let (payload, _) = keep(&mut pair, &received);
    assert_eq!(payload.flat(0), Some(object::weak_handle(1)));
    pair.server.start(Call::new(1, 1, &Parcel::new()));
    pair.server.expect(&[Return::FailedReply]);
}

fn weak_handle_to_what_its_owner_never_knew(env: &Env) {
    let mut pair = Pair::new(env);
    pair.registry.put(&mut pair.server, 2, object::binder(Pair::NODE.ptr, Pair::NODE.cookie));
    pair.registry.put(&mut pair.client, 3, object::binder(0x9000, 0));
    let client = pair.registry.get(&mut pair.server, 3);
    // The owner is gone before it reads BR_INCREFS and BR_ACQUIRE for its node.
    let mut doomed = End::open(env);
    let handle = pair.registry.get(&mut doomed, 2);
    doomed.start(Call::one_way(handle, 1, &Parcel::from_object(&object::weak_binder(0x7000, 0))));
    drop(doomed);
    let received = pair.server.expect_transaction();
    let payload = pair.server.payload(&received).expect("a readable buffer");
    let weak = payload.flat(0).and_then(|object| object.as_handle()).expect("a handle");
    pair.server.queue().increfs(weak);
    pair.server.give_back(&received);
    pair.server.start_one_way(Call::new(client, 2, &Parcel::from_object(&object::weak_handle(weak))));
    let received = pair.client.expect_transaction();
    assert_eq!(received.code, 2);
    assert_eq!(pair.client.take(&received).flat(0), Some(object::weak_handle(pair.handle + 1)));
}

/// The owner was never told of the node, because the thread that sent it has exited. A weak handle for the node is passed
/// on all the same.
fn weak_handle_is_passed_on_whatever_the_owner_was_told(env: &Env) {
    let mut pair = Pair::new(env);
    pair.registry.put(&mut pair.server, 2, object::binder(Pair::NODE.ptr, Pair::NODE.cookie));
    pair.registry.put(&mut pair.client, 3, object::binder(0x9000, 0));
    let client = pair.registry.get(&mut pair.server, 3);
    let mut owner = End::open(env);
    let handle = pair.registry.get(&mut owner, 2);
    owner.start(Call::one_way(handle, 1, &Parcel::from_object(&object::weak_binder(0x7000, 0))));
    owner.binder().thread_exit().expect("BINDER_THREAD_EXIT");
    let received = pair.server.expect_transaction();
    let payload = pair.server.payload(&received).expect("a readable buffer");
    let weak = payload.flat(0).and_then(|object| object.as_handle()).expect("a handle");
    pair.server.queue().increfs(weak);
    pair.server.give_back(&received);
    pair.server.start(Call::one_way(client, 2, &Parcel::from_object(&object::weak_handle(weak))));
    assert_eq!(pair.server.drain(), [Return::TransactionComplete]);
    pair.registry.put(&mut pair.server, 4, object::binder(0x7100, 0));
    assert_eq!(pair.registry.get(&mut pair.client, 4), pair.handle + 2);
}

fn call_holds_the_node_it_goes_to(env: &Env) {
    let mut pair = Pair::new(env);
    pair.client.start_one_way(Call::new(pair.handle, 1, &Parcel::new()));
    pair.client.queue().release(pair.handle);
    pair.client.flush().expect("BC_RELEASE");
    // Nothing else refers to it any more, but it is not let go before the call is done with.
    let call = pair.server.expect_transaction();
    pair.server.expect(&[]);
    pair.server.give_back(&call);
    pair.server.expect(&[Return::Release(Pair::NODE), Return::DecRefs(Pair::NODE)]);
}

fn buffer_holds_the_receivers_own_nodes_in_it(env: &Env) {
    let mut pair = Pair::new(env);
    let mut parcel = Parcel::from_object(&object::handle(pair.handle));
    parcel.object(&object::weak_handle(pair.handle));
    pair.client.start_one_way(Call::new(pair.handle, 1, &parcel));
    pair.client.queue().release(pair.handle);
    pair.client.flush().expect("BC_RELEASE");
    let call = pair.server.expect_transaction();
    let payload = pair.server.payload(&call).expect("a readable buffer");
    assert_eq!(payload.flat(0), Some(object::binder(Pair::NODE.ptr, Pair::NODE.cookie)));
    assert_eq!(payload.flat(1), Some(object::weak_binder(Pair::NODE.ptr, Pair::NODE.cookie)));
    pair.server.give_back(&call);
    pair.server.expect(&[Return::Release(Pair::NODE), Return::DecRefs(Pair::NODE)]);
}

fn nodes_go_in_the_order_of_their_handles(env: &Env) {
    let mut pair = Pair::new(env);
    let (strong, weak) = (node(1), node(2));
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let call = pair.server.expect_transaction();
    pair.server.give_back(&call);
    let mut parcel = Parcel::from_object(&object::binder(strong.ptr, strong.cookie));
    parcel.object(&object::weak_binder(weak.ptr, weak.cookie));
    pair.server.start_reply(Call::reply(&parcel));
    for ret in pair.server.drain() {
        pair.server.grant(&ret);
    }
    pair.server.flush().expect("the references are granted");
    let reply = pair.client.expect_reply();
    pair.client.start_one_way(Call::new(pair.handle + 1, 2, &Parcel::new()));
    pair.client.give_back(&reply);
    // The call still holds the node of the first handle. What comes of that is told in the place of the handle.
    let Ok(Return::Transaction(call)) = pair.server.next() else { panic!("no call") };
    pair.server.give_back(&call);
    pair.server.expect(&[Return::Release(strong), Return::DecRefs(strong), Return::DecRefs(weak)]);
}

fn file_descriptor_types_are_known(env: &Env) {
    // Without leave for descriptors each is refused, not taken for something unknown or passed through.
    let mut pair = Pair::new(env);
    assert_eq!(refused(&mut pair, &Parcel::from_object(&object::fd(0, 7))), [Return::FailedReply]);
    assert_eq!(refused(&mut pair, &Parcel::from_object(&object::fd_array(1, 0, 0))), [Return::FailedReply]);
    assert_eq!(refused(&mut pair, &Parcel::from_object(&object::buffer(&[1; 8]))), [Return::FailedReply]);
    pair.check();
    whole(&mut pair);
}
