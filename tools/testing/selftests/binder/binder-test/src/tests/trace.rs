// SPDX-License-Identifier: GPL-2.0

//! The driver's tracepoints. The C driver has others.

use binder_client::Call;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::uapi;
use nix::unistd;

use super::reclaim::squeeze;
use super::tests;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::Pair;
use crate::fixture::until;
use crate::hostile::PAGE;
use crate::trace::Event;
use crate::trace::Trace;

tests! { Interface, "trace":
    a_call_and_its_reply,
    commands_and_returns,
    buffers,
    a_buffer_that_is_refused,
    pages_of_a_buffer,
    a_run_is_zapped_once,
}

fn start(env: &Env) -> Trace {
    if env.driver == Driver::C {
        env.skip("this driver's tracepoints are other ones");
    }
    Trace::start().unwrap_or_else(|| env.skip("this kernel has no tracepoints"))
}

fn pid() -> u64 {
    u64::try_from(unistd::getpid().as_raw()).expect("a pid")
}

#[track_caller]
fn only(events: &[Event]) -> &Event {
    let [event] = events else { panic!("not one event: {events:?}") };
    event
}

fn a_call_and_its_reply(env: &Env) {
    let trace = start(env);
    let mut pair = Pair::new(env);
    trace.clear();
    pair.client.start(Call::new(pair.handle, 0xca11, &Parcel::from_bytes(b"call")).with_flags(uapi::TF_ACCEPT_FDS));
    let sent = trace.of("binder_rs_transaction");
    let call = only(&sent);
    assert_eq!(
        (call.get("code"), call.get("flags"), call.get("reply"), call.get("to_proc"), call.get("to_thread")),
        (0xca11, u64::from(uapi::TF_ACCEPT_FDS), 0, pid(), 0)
    );
    assert_ne!(call.get("target_node"), 0);
    assert_eq!(trace.of("binder_rs_transaction_received"), []);

    let received = pair.server.expect_transaction();
    let got = trace.of("binder_rs_transaction_received");
    let got = only(&got);
    for field in ["debug_id", "target_node", "code", "flags", "reply", "to_proc"] {
        assert_eq!(got.get(field), call.get(field), "{field}");
    }
    // The call was for any thread; now it is known which.
    assert_eq!(got.get("to_thread"), pid());
    pair.server.give_back(&received);

    trace.clear();
    pair.server.answer(&Parcel::from_bytes(b"reply"));
    let sent = trace.of("binder_rs_transaction");
    let reply = only(&sent);
    assert_eq!(
        (reply.get("reply"), reply.get("target_node"), reply.get("to_proc"), reply.get("to_thread")),
        (1, 0, pid(), pid())
    );
    assert_ne!(reply.get("debug_id"), call.get("debug_id"));
    pair.client.expect_reply();
    let got = trace.of("binder_rs_transaction_received");
    assert_eq!(only(&got).fields, reply.fields);
}

fn commands_and_returns(env: &Env) {
    let trace = start(env);
    let mut pair = Pair::new(env);
    trace.clear();
    pair.check();
    let codes = |name: &str| -> Vec<u32> {
        trace.of(name).iter().map(|event| u32::try_from(event.get("code")).expect("a code")).collect()
    };
    assert_eq!(
        codes("binder_rs_command"),
        [uapi::BC_TRANSACTION, uapi::BC_FREE_BUFFER, uapi::BC_REPLY, uapi::BC_FREE_BUFFER]
    );
    assert_eq!(
        codes("binder_rs_return"),
        [uapi::BR_TRANSACTION, uapi::BR_TRANSACTION_COMPLETE, uapi::BR_TRANSACTION_COMPLETE, uapi::BR_REPLY]
    );
}

fn buffers(env: &Env) {
    let trace = start(env);
    let mut pair = Pair::new(env);
    trace.clear();
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&[1; 1001])));
    let received = pair.server.expect_transaction();
    let all = trace.of("binder_rs_buffer_alloc");
    let allocated = only(&all);
    let sent = trace.of("binder_rs_transaction");
    assert_eq!(allocated.get("debug_id"), only(&sent).get("debug_id"));
    assert_eq!((allocated.get("proc"), allocated.get("size")), (pid(), 1008));
    assert_eq!(trace.of("binder_rs_buffer_free"), []);
    pair.server.give_back(&received);
    let freed = trace.of("binder_rs_buffer_free");
    assert_eq!(only(&freed).fields, allocated.fields);
    // The next one has the same place, which was free.
    pair.server.answer(&Parcel::new());
    pair.client.expect_reply();
    trace.clear();
    pair.client.start_one_way(Call::new(pair.handle, 1, &Parcel::from_bytes(&[2; 1008])));
    let again = trace.of("binder_rs_buffer_alloc");
    let again = only(&again);
    assert_eq!((again.get("offset"), again.get("size")), (allocated.get("offset"), 1008));
    assert_ne!(again.get("debug_id"), allocated.get("debug_id"));
}

fn a_buffer_that_is_refused(env: &Env) {
    let trace = start(env);
    let mut pair = Pair::sized(env, 4 * PAGE, 4 * PAGE);
    trace.clear();
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&vec![1; 4 * PAGE + 1])));
    pair.client.expect(&[Return::FailedReply]);
    let refused = trace.of("binder_rs_buffer_alloc_failed");
    let refused = only(&refused);
    assert_eq!((refused.get("proc"), refused.get("size")), (pid(), 4 * PAGE as u64 + 8));
    for none in ["binder_rs_buffer_alloc", "binder_rs_buffer_free", "binder_rs_transaction"] {
        assert_eq!(trace.of(none), []);
    }
}

/// The page offsets that events of one kind name, of those about this process.
#[track_caller]
fn pages(trace: &Trace, name: &str) -> Vec<u64> {
    let mut pages = Vec::new();
    for event in trace.of(name).iter().filter(|event| event.get("proc") == pid()) {
        pages.extend(event.get("first")..event.get("first") + event.get("pages"));
    }
    pages.sort_unstable();
    pages
}

fn pages_of_a_buffer(env: &Env) {
    let trace = start(env);
    let mut pair = Pair::new(env);
    until(|| {
        squeeze();
        trace.of("binder_rs_lru_add").len() <= trace.of("binder_rs_lru_del").len()
    });
    trace.clear();
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&[1; 20 * PAGE])));
    let all = trace.of("binder_rs_buffer_alloc");
    let (offset, size) = (only(&all).get("offset"), only(&all).get("size"));
    let touched: Vec<u64> = (offset / PAGE as u64..(offset + size).div_ceil(PAGE as u64)).collect();
    assert_eq!(pages(&trace, "binder_rs_page_alloc"), touched);
    assert_eq!(pages(&trace, "binder_rs_page_map"), []);
    let received = pair.server.expect_transaction();
    assert_eq!(pages(&trace, "binder_rs_page_map"), touched);
    assert_eq!(pages(&trace, "binder_rs_lru_add"), []);
    pair.server.give_back(&received);
    assert_eq!(pages(&trace, "binder_rs_lru_add"), touched);
    assert_eq!(pages(&trace, "binder_rs_lru_del"), []);
}

fn a_run_is_zapped_once(env: &Env) {
    let trace = start(env);
    let mut pair = Pair::new(env);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&[1; 100 * PAGE])));
    let received = pair.server.expect_transaction();
    let all = trace.of("binder_rs_buffer_alloc");
    let largest = all.iter().max_by_key(|event| event.get("size")).expect("a buffer");
    // This process has two mappings, and one page in the other: its first.
    let first = (largest.get("offset") / PAGE as u64).max(1);
    let end = (largest.get("offset") + largest.get("size")).div_ceil(PAGE as u64);
    pair.server.give_back(&received);
    trace.clear();
    let covered = |name: &str| pages(&trace, name);
    until(|| {
        squeeze();
        let gone = covered("binder_rs_reclaim");
        (first..end).all(|page| gone.contains(&page))
    });
    // All of it is one run, wherever that begins: a neighbour may have been free as well.
    let zapped = trace.of("binder_rs_zap");
    let hits = |event: &&Event| {
        event.get("proc") == pid() && event.get("first") < end && event.get("first") + event.get("pages") > first
    };
    let runs: Vec<&Event> = zapped.iter().filter(hits).collect();
    assert_eq!(runs.len(), 1, "{runs:?}");
    // None of them was used meanwhile, so each zap frees what it zapped, and all of that comes off the LRU first. More
    // does: what is in use is taken off as well.
    let reclaimed = trace.of("binder_rs_reclaim");
    let fields = |events: &[Event]| events.iter().map(|event| event.fields.clone()).collect::<Vec<_>>();
    assert_eq!(fields(&zapped), fields(&reclaimed));
    let taken = covered("binder_rs_lru_del");
    assert!(covered("binder_rs_zap").iter().all(|page| taken.contains(page)));
    pair.server.answer(&Parcel::new());
}
