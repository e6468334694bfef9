// SPDX-License-Identifier: GPL-2.0

//! The object counts in the driver's statistics are zero when everything is closed.
//!
//! Only tests use the device, so when the last file is closed every count must be zero. These tests also find objects
//! that earlier tests have leaked.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use binder_client::Call;
use binder_client::Commands;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::FreezeInfo;
use binder_client::uapi::TransactionDataSg;

use super::reclaim::squeeze;
use super::tests;
use super::transaction::pattern;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::fixture::node;
use crate::fixture::until;
use crate::hostile::PAGE;
use crate::kernel::active;
use crate::kernel::is_processes_own;
use crate::kernel::stats_file;

tests! { Interface, "counts":
    nothing_is_left_of_the_tests_before,
    nothing_is_left_of_calls,
    nothing_is_left_of_calls_without_an_end,
    nothing_is_left_of_one_way_calls,
    nothing_is_left_of_nodes_and_handles,
    node_without_references_is_gone_before_its_owner_reads,
    nothing_is_left_of_notifications,
    nothing_is_left_of_descriptors_and_buffers,
    nothing_is_left_of_what_was_refused,
    nothing_is_left_of_threads,
    nothing_is_left_of_the_killed,
    nothing_is_left_of_the_frozen,
    pages_are_counted,
    pages_of_a_process_are_told,
}

/// What there is of each kind. Empty where nothing is left.
pub type Counts = BTreeMap<String, u64>;

/// The file the driver tells its counts in.
pub fn file(env: &Env) -> PathBuf {
    let path = stats_file(env);
    // A file that tells nothing would make every one of these tests pass.
    let open = End::open(env);
    assert!(active(&path).get("proc").is_some_and(|count| *count > 0), "no counts in {}", path.display());
    drop(open);
    path
}

/// Waits until there is no more than there was. What is left meanwhile is printed when it changes, so that a
/// count that never comes down can be seen.
pub fn until_no_more_than(path: &Path, before: &Counts, kinds: impl Fn(&str) -> bool) {
    let mut last = Counts::new();
    until(|| {
        let now = active(path);
        if now != last {
            println!("left: {now:?}");
        }
        last = now;
        let allowed = |kind: &str| before.get(kind).copied().unwrap_or_default();
        last.iter().filter(|(kind, _)| kinds(kind)).all(|(kind, count)| *count <= allowed(kind))
    });
}

/// Waits until everybody is gone. What there is then is what may be there later, which is nothing, but for a
/// driver that loses things.
pub fn at_rest(env: &Env, path: &Path) -> Counts {
    match env.driver(Difference::KilledNode) {
        Driver::Ours => {
            until_no_more_than(path, &Counts::new(), |_| true);
            Counts::new()
        }
        Driver::C => {
            until_no_more_than(path, &Counts::new(), is_processes_own);
            active(path)
        }
    }
}

/// Back to where it was, with something in between.
fn nothing_is_left(env: &Env, body: impl Fn()) {
    let path = file(env);
    let before = at_rest(env, &path);
    for _ in 0..3 {
        body();
        until_no_more_than(&path, &before, |_| true);
    }
}

fn nothing_is_left_of_the_tests_before(env: &Env) {
    at_rest(env, &file(env));
}

fn nothing_is_left_of_calls(env: &Env) {
    nothing_is_left(env, || {
        let mut pair = Pair::new(env);
        for size in [0, 100, 5000, 300_000] {
            let bytes = Parcel::from_bytes(&pattern(size, 1));
            pair.round(&bytes, &bytes);
        }
    });
}

fn nothing_is_left_of_calls_without_an_end(env: &Env) {
    nothing_is_left(env, || {
        // Unread, unanswered, and with its reply unread; and a call inside a call.
        let mut pair = Pair::new(env);
        pair.registry.put(&mut pair.client, 2, object::binder(8, 8));
        let back = pair.registry.get(&mut pair.server, 2);
        pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&[1; 5000])));
        drop(pair);
        let mut pair = Pair::new(env);
        pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&[1; 5000])));
        pair.server.expect_transaction();
        drop(pair);
        let mut pair = Pair::new(env);
        pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
        pair.server.expect_transaction();
        pair.server.answer(&Parcel::from_bytes(&[1; 5000]));
        drop(pair);
        let mut pair = Pair::new(env);
        pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
        pair.server.expect_transaction();
        pair.server.start(Call::new(back, 2, &Parcel::from_bytes(&[1; 5000])));
    });
}

fn nothing_is_left_of_one_way_calls(env: &Env) {
    nothing_is_left(env, || {
        let mut pair = Pair::new(env);
        for number in 0..50 {
            pair.client.start_one_way(Call::new(pair.handle, number, &Parcel::from_bytes(&[1; 3000])));
        }
        pair.server.expect_transaction();
        // One is being read, the rest wait; both ends go.
    });
}

fn nothing_is_left_of_nodes_and_handles(env: &Env) {
    nothing_is_left(env, || {
        let mut pair = Pair::new(env);
        let mut parcel = Parcel::new();
        for number in 0..100 {
            let node = node(number + 1);
            parcel.object(&object::binder(node.ptr, node.cookie));
            parcel.object(&object::weak_binder(node.ptr + 8, node.cookie));
        }
        // Held by a buffer that is read, by one that is not, and by the holder itself.
        pair.client.start(Call::one_way(pair.handle, 1, &parcel));
        pair.client.start(Call::one_way(pair.handle, 2, &parcel));
        pair.server.expect_transaction();
        for handle in 1..=50 {
            pair.server.queue().acquire(handle).increfs(handle);
        }
        pair.server.flush().expect("BC_ACQUIRE");
    });
}

fn node_without_references_is_gone_before_its_owner_reads(env: &Env) {
    let path = file(env);
    at_rest(env, &path);
    let mut pair = Pair::new(env);
    let nodes = || active(&path).get("node").copied().unwrap_or_default();
    let before = nodes();
    let parcel = Parcel::from_object(&object::binder(0x77000, 0x77c00));
    pair.client.start(Call::new(pair.handle, 1, &parcel));
    assert_eq!(nodes(), before + 1);
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
    assert_eq!(nodes(), before);
    // And its owner never hears of it.
    pair.server.answer(&Parcel::new());
    pair.client.expect_reply();
}

fn nothing_is_left_of_notifications(env: &Env) {
    nothing_is_left(env, || {
        let Pair { client, mut server, handle, registry } = Pair::new(env);
        let mut client = client.enter();
        client.queue().request_death(handle, 1).clear_death(handle, 1).request_death(handle, 2);
        client.queue().request_freeze(handle, 3);
        client.flush().expect("BC_REQUEST_DEATH_NOTIFICATION");
        // What was cleared and the state now are read, and not answered.
        assert_eq!(client.drain().len(), 2);
        for number in 10..20 {
            registry.put(&mut server, number, object::binder(u64::from(number) * 8, 0));
            let handle = registry.get(&mut client, number);
            client.queue().request_death(handle, number.into());
        }
        client.flush().expect("BC_REQUEST_DEATH_NOTIFICATION");
        drop(server);
        // Some are told and not answered, some are not even told.
        while !matches!(client.wait(), Return::DeadBinder(_)) {}
    });
}

fn nothing_is_left_of_descriptors_and_buffers(env: &Env) {
    nothing_is_left(env, || {
        let registry = Registry::start(env);
        let (mut client, mut server) = (End::open(env), End::open(env));
        let takes = uapi::FlatObject { flags: uapi::FLAT_BINDER_FLAG_ACCEPTS_FDS, ..object::binder(8, 8) };
        registry.put(&mut server, 1, takes);
        let handle = registry.get(&mut client, 1);
        let mut server = server.enter();
        let holder = [0u8; 16];
        let mut parcel = Parcel::from_bytes(b"before..");
        parcel.object(&object::buffer(&holder));
        parcel.object(&object::fd_array(4, 0, 0));
        parcel.object(&object::fd(0, 0));
        let transaction = Call::one_way(handle, 1, &parcel).data();
        for _ in 0..3 {
            client.queue().command(uapi::BC_TRANSACTION_SG, &TransactionDataSg { transaction, buffers_size: 16 });
        }
        client.flush().expect("BC_TRANSACTION_SG");
        server.expect_transaction();
    });
}

fn nothing_is_left_of_what_was_refused(env: &Env) {
    nothing_is_left(env, || {
        let mut pair = Pair::new(env);
        let mut broken = object::binder(0x500, 0x600);
        broken.kind = 77;
        let mut parcel = Parcel::from_object(&object::binder(8, 8));
        parcel.object(&object::weak_binder(16, 16));
        parcel.object(&object::handle(pair.handle));
        parcel.object(&broken);
        for flags in [0, uapi::TF_ONE_WAY] {
            pair.client.start(Call { handle: pair.handle, code: 1, flags, parcel: &parcel });
            pair.client.expect(&[Return::FailedReply]);
        }
        pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&vec![0; 2 << 20])));
        pair.client.expect(&[Return::FailedReply]);
        pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
        pair.server.expect_transaction();
        pair.server.answer(&parcel);
        pair.client.expect(&[Return::TransactionComplete, Return::FailedReply]);
    });
}

fn nothing_is_left_of_threads(env: &Env) {
    nothing_is_left(env, || {
        let pair = Pair::new(env);
        let threads: Vec<_> = (0..20)
            .map(|number| {
                let binder = pair.client.binder().clone();
                let handle = pair.handle;
                std::thread::spawn(move || {
                    let empty = Parcel::new();
                    let mut commands = Commands::new();
                    commands.transaction(Call::new(handle, number, &empty));
                    let (result, _) = binder.write_read(commands.bytes(), &mut []);
                    assert_eq!(result, Ok(()));
                    // Half of them say that they go.
                    if number % 2 == 0 {
                        binder.thread_exit().expect("BINDER_THREAD_EXIT");
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("the thread is well"));
    });
}

fn nothing_is_left_of_the_killed(env: &Env) {
    let path = file(env);
    let before = at_rest(env, &path);
    for _ in 0..3 {
        let registry = Registry::start(env);
        let mut peers: Vec<Peer> = (0..6)
            .map(|number| {
                Peer::start(env, |env, line| {
                    let mut end = End::open(env);
                    line.say(0).expect("the test is there");
                    for turn in 0u64.. {
                        registry.put(&mut end, number, object::binder(turn * 8 + 8, turn));
                    }
                })
            })
            .collect();
        for peer in &peers {
            peer.hear();
        }
        peers.iter_mut().for_each(Peer::kill);
        registry.kill(&mut End::open(env));
        match env.driver(Difference::KilledNode) {
            Driver::Ours => until_no_more_than(&path, &before, |_| true),
            Driver::C => until_no_more_than(&path, &before, is_processes_own),
        }
    }
}

fn nothing_is_left_of_the_frozen(env: &Env) {
    nothing_is_left(env, || {
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
        client.queue().request_freeze(handle, 1);
        let mut info = FreezeInfo { pid: peer.pid() as u32, enable: 1, timeout_ms: 0 };
        assert_eq!(client.binder().ioctl(uapi::BINDER_FREEZE, &mut info), Ok(0));
        let parcel = Parcel::from_bytes(&[1; 100]);
        for code in [1, 1, 2] {
            client.start(Call::one_way(handle, code, &parcel).with_flags(uapi::TF_UPDATE_TXN));
        }
        client.drain();
    });
}

fn pages_are_counted(env: &Env) {
    let path = file(env);
    if env.driver == Driver::C {
        env.skip("this driver does not count its pages");
    }
    at_rest(env, &path);
    let mut pair = Pair::new(env);
    let pages = |name: &str| active(&path).get(name).copied().unwrap_or_default();
    // The first page of each mapping was used when they met.
    let before = pages("page");
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&vec![1; 100 * PAGE])));
    let received = pair.server.expect_transaction();
    // Where the buffer lies decides whether the server's first page is one of them.
    assert!((99..=101).contains(&(pages("page") - before)), "{} pages, and {before} before", pages("page"));
    pair.server.give_back(&received);
    until(|| {
        squeeze();
        pages("page") == 0
    });
    pair.server.answer(&Parcel::new());
    assert!(pages("page") > 0);
    drop(pair);
    at_rest(env, &path);
}

/// What the driver tells of the pages of one mapping: in use, there and not in use, absent; and the most there ever were.
#[derive(Debug, PartialEq, Eq)]
struct Pages {
    figures: [usize; 3],
    high_water: usize,
}

/// Of the mapping of so many pages, of which there must be one only.
fn pages_told(path: &Path, pages: usize) -> Pages {
    let text = std::fs::read_to_string(path).expect("the driver's counts");
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(figures) = line.strip_prefix("pages: ") else { continue };
        let figures: Vec<usize> = figures.split(':').map(|figure| figure.parse().expect("a number")).collect();
        if figures.iter().sum::<usize>() != pages {
            continue;
        }
        let high_water = lines.next().and_then(|line| line.strip_prefix("pages high watermark: "));
        let high_water = high_water.and_then(|number| number.parse().ok()).expect("the most there were");
        return Pages { figures: figures.try_into().expect("three numbers"), high_water };
    }
    panic!("no mapping of {pages} pages in {}", path.display());
}

fn pages_of_a_process_are_told(env: &Env) {
    const ALL: usize = 64;
    const CALL: usize = 20;
    let path = file(env);
    let mut pair = Pair::sized(env, ALL * PAGE / 2, ALL * PAGE);
    let told = || pages_told(&path, ALL);
    let until_absent = |high_water| {
        until(|| {
            squeeze();
            told() == Pages { figures: [0, 0, ALL], high_water }
        });
    };
    // One page was used when the two met.
    until_absent(1);
    for _ in 0..3 {
        pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&pattern(CALL * PAGE, 1))));
        let received = pair.server.expect_transaction();
        assert_eq!(told(), Pages { figures: [CALL, 0, ALL - CALL], high_water: CALL });
        pair.server.give_back(&received);
        assert_eq!(told(), Pages { figures: [0, CALL, ALL - CALL], high_water: CALL });
        pair.server.answer(&Parcel::new());
        let reply = pair.client.expect_reply();
        pair.client.give_back(&reply);
        until_absent(CALL);
    }
}
