// SPDX-License-Identifier: GPL-2.0

//! Reclaim concurrent with everything else that can happen to a page.
//!
//! Two processes run reclaim while the test repeats one operation a fixed number of times. Counts show that both
//! sides ran: pages reclaimed meanwhile, and - if the kernel can be probed - isolated pages that were used again.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use binder_client::Call;
use binder_client::Parcel;
use binder_client::object;
use binder_client::process::Child;
use nix::errno::Errno;
use nix::sys::mman::MmapAdvise;
use nix::sys::wait::WaitStatus;

use super::reclaim::squeeze;
use super::reclaim::squeeze_out;
use super::tests;
use super::transaction::pattern;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::fixture::until;
use crate::hostile;
use crate::hostile::PAGE;
use crate::hostile::Tally;
use crate::hostile::Torn;
use crate::kernel::Freed;
use crate::kernel::Trace;
use crate::kernel::all_pages;
use crate::kernel::field;

tests! { Reclaim, "reclaim_races":
    with_allocation,
    with_allocation_by_many,
    with_faults,
    with_reads_of_unused_pages,
    with_munmap,
    with_mremap,
    with_fork,
    with_exec,
    with_exit,
    with_release,
    with_other_reclaimers,
}

/// The pages of a mapping that is fought for.
const PAGES: usize = 12;

/// How many processes squeeze.
const SQUEEZERS: usize = 2;

/// Watches pages on their way out. What is removed from page tables and not freed was wanted again meanwhile.
struct Zaps(Trace);

const ZAP: &str = "binder_rs_zap";
const RECLAIM: &str = "binder_rs_reclaim";

impl Zaps {
    /// From now on; `None` where it cannot be watched.
    fn from_now(env: &Env) -> Option<Self> {
        let trace = Trace::new(env, "zaps");
        let all = [ZAP, RECLAIM].iter().all(|name| trace.event(&format!("binder_rs/{name}"), ""));
        all.then_some(Self(trace))
    }

    fn wanted_again(&self) -> u64 {
        let pages = |name| {
            let events = self.0.events(name);
            events.iter().map(|event| field(event, "pages").expect("the event's field")).sum::<u64>()
        };
        pages(ZAP).saturating_sub(pages(RECLAIM))
    }
}

/// Does something so many times while memory is taken away all the time. Returns how many pages were on their way out
/// when they were wanted again, where that is known.
#[track_caller]
fn against_reclaim(env: &Env, turns: u32, mut body: impl FnMut(u32)) -> Option<u64> {
    let freed = Freed::from_now(env);
    let zaps = Zaps::from_now(env);
    let squeezes = Tally::new(SQUEEZERS);
    let squeezers: Vec<Peer> = (0..SQUEEZERS)
        .map(|number| {
            Peer::start(env, |_, line| {
                while !line.heard() {
                    squeeze();
                    // ORDERING: a count, which is read after the process has ended.
                    squeezes.at(number).fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    // Each has begun.
    until(|| (0..SQUEEZERS).all(|number| squeezes.at(number).load(Ordering::Relaxed) > 0));
    for turn in 0..turns {
        body(turn);
    }
    let freed = freed.so_far();
    for squeezer in squeezers {
        squeezer.say(0);
        squeezer.join();
    }
    let squeezes: u64 = (0..SQUEEZERS).map(|number| squeezes.at(number).load(Ordering::Relaxed)).sum();
    println!("{turns} turns, {squeezes} squeezes, {freed} pages reclaimed meanwhile");
    assert!(freed > 0, "nothing was reclaimed: there was no race");
    let wanted_again = zaps.map(|zaps| zaps.wanted_again());
    if let Some(pages) = wanted_again {
        println!("{pages} pages more were wanted again on their way out");
    }
    wanted_again
}

/// Nothing is left behind: with everything closed, no page is there and none is listed.
#[track_caller]
fn nothing_left(env: &Env) {
    if all_pages(env).is_some() {
        until(|| {
            squeeze();
            all_pages(env).is_some_and(|pages| pages.active == 0 && pages.listed == 0)
        });
    }
}

/// A server whose mapping is small, and its client.
fn small(env: &Env) -> (Pair, Torn) {
    let registry = Registry::start(env);
    let server = End::open_unmapped(env);
    let torn = Torn::map(server.binder().as_fd(), PAGES * PAGE);
    (Pair::at(registry, End::open(env), server.enter()), torn)
}

/// A call that touches a number of pages which depends on the turn; what arrives is looked at, again after a while, and given
/// back.
#[track_caller]
fn call(pair: &mut Pair, turn: u32) {
    let bytes = pattern(1 + turn as usize * 5003 % (PAGES * PAGE), turn);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&bytes)));
    let received = pair.server.expect_transaction();
    for _ in 0..2 {
        assert!(hostile::peek(received.buffer, bytes.len()).as_ref() == Ok(&bytes), "turn {turn}");
    }
    pair.server.give_back(&received);
    pair.server.answer(&Parcel::from_bytes(&bytes));
    let reply = pair.client.expect_reply();
    assert!(pair.client.take(&reply).data == bytes, "reply of turn {turn}");
}

fn with_allocation(env: &Env) {
    let (mut pair, _torn) = small(env);
    let wanted_again = against_reclaim(env, 600, |turn| call(&mut pair, turn));
    assert_ne!(wanted_again, Some(0), "no page was allocated while it was being reclaimed");
}

/// A process that does so many calls to itself, end to end.
fn caller(env: &Env, registry: &Registry, number: u32, turns: u32) -> Peer {
    Peer::start(env, |env, line| {
        let mut server = End::open_unmapped(env);
        let torn = Torn::map(server.binder().as_fd(), PAGES * PAGE);
        let mut client = End::open(env);
        registry.put(&mut server, number, object::binder(8, 8));
        let handle = registry.get(&mut client, number);
        let mut server = server.enter();
        line.hear().expect("the test is there");
        for turn in 0..turns {
            let bytes = pattern(1 + (turn + number) as usize * 5003 % (PAGES * PAGE), turn);
            client.start(Call::new(handle, 1, &Parcel::from_bytes(&bytes)));
            let received = server.expect_transaction();
            assert!(torn.contains(received.buffer));
            assert!(hostile::peek(received.buffer, bytes.len()) == Ok(bytes), "turn {turn}");
            server.give_back(&received);
            server.answer(&Parcel::new());
            let reply = client.expect_reply();
            client.give_back(&reply);
        }
    })
}

fn with_allocation_by_many(env: &Env) {
    let registry = Registry::start(env);
    against_reclaim(env, 1, |_| {
        let peers: Vec<Peer> = (0..4).map(|number| caller(env, &registry, number, 200)).collect();
        peers.iter().for_each(|peer| peer.say(0));
        peers.into_iter().for_each(Peer::join);
    });
    registry.kill(&mut End::open(env));
    nothing_left(env);
}

fn with_faults(env: &Env) {
    let (mut pair, torn) = small(env);
    against_reclaim(env, 400, |turn| {
        let bytes = pattern(PAGES * PAGE / 2, turn);
        pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&bytes)));
        let received = pair.server.expect_transaction();
        if env.driver(Difference::Dontneed) == Driver::Ours {
            // Each read finds no page in the page table and has it brought back by its offset.
            for _ in 0..3 {
                assert_eq!(torn.advise(0..PAGES, MmapAdvise::MADV_DONTNEED), Ok(()));
                assert!(hostile::peek(received.buffer, bytes.len()).as_ref() == Ok(&bytes), "turn {turn}");
            }
        }
        pair.server.give_back(&received);
        pair.server.answer(&Parcel::new());
        let reply = pair.client.expect_reply();
        pair.client.give_back(&reply);
    });
}

fn with_reads_of_unused_pages(env: &Env) {
    let (mut pair, torn) = small(env);
    let (mut there, mut gone) = (0, 0);
    against_reclaim(env, 400, |turn| {
        // One byte all over, so that whatever can still be read has to be it, or the call's before.
        let fill = turn as u8;
        pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&[fill; PAGES * PAGE])));
        let received = pair.server.expect_transaction();
        pair.server.give_back(&received);
        for page in 0..PAGES {
            match hostile::peek(torn.at(page * PAGE), PAGE) {
                Ok(bytes) => {
                    there += 1;
                    assert!(bytes == [fill; PAGE], "page {page} of turn {turn}");
                }
                Err(Errno::EFAULT) => gone += 1,
                Err(errno) => panic!("{errno}"),
            }
        }
        pair.server.answer(&Parcel::new());
        let reply = pair.client.expect_reply();
        pair.client.give_back(&reply);
    });
    println!("{there} unused pages were read, {gone} were gone by then");
    assert!(there > 0 && gone > 0);
}

/// A server of one turn, whose whole mapping a call has filled that it has not read.
struct Full {
    server: End,
    torn: Torn,
    handle: u32,
    bytes: Vec<u8>,
}

impl Full {
    fn new(env: &Env, registry: &Registry, client: &mut End, turn: u32) -> Self {
        let server = End::open_unmapped(env);
        let torn = Torn::map(server.binder().as_fd(), PAGES * PAGE);
        let mut server = server.enter();
        registry.put(&mut server, turn, object::binder(8, 8));
        let handle = registry.get(client, turn);
        registry.drop_kept(&mut server, turn);
        let bytes = pattern(PAGES * PAGE, turn);
        client.start(Call::new(handle, 1, &Parcel::from_bytes(&bytes)));
        Self { server, torn, handle, bytes }
    }
}

fn with_munmap(env: &Env) {
    let registry = Registry::start(env);
    let mut client = End::open(env);
    against_reclaim(env, 150, |turn| {
        let Full { mut server, torn, handle, bytes } = Full::new(env, &registry, &mut client, turn);
        let received = server.expect_transaction();
        assert!(hostile::peek(received.buffer, bytes.len()).as_ref() == Ok(&bytes), "turn {turn}");
        server.give_back(&received);
        // All of it is unused now, and goes from both ends.
        let middle = 1 + turn as usize % (PAGES - 1);
        torn.unmap(middle..PAGES);
        torn.unmap(0..middle);
        client.queue().release(handle);
        drop(server);
        // The end of the call comes when the server's file is gone for good, which is later.
        until(|| client.drain().contains(&binder_client::Return::DeadReply));
    });
    drop(client);
    registry.kill(&mut End::open(env));
    nothing_left(env);
}

fn with_mremap(env: &Env) {
    if env.driver(Difference::MovedMapping) == Driver::C {
        env.skip("calls to a mapping that was moved do not arrive");
    }
    let (mut pair, mut torn) = small(env);
    against_reclaim(env, 300, |turn| {
        call(&mut pair, turn);
        torn = torn.move_away(0..PAGES).expect("mremap");
        // And with a buffer in it.
        let bytes = pattern(PAGES * PAGE - 4 * turn as usize, turn);
        pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&bytes)));
        let mut received = pair.server.expect_transaction();
        let offset = (received.buffer - torn.at(0)) as usize;
        torn = torn.move_away(0..PAGES).expect("mremap");
        received.buffer = torn.at(offset);
        assert!(hostile::peek(received.buffer, bytes.len()).as_ref() == Ok(&bytes), "turn {turn}");
        pair.server.give_back(&received);
        pair.server.answer(&Parcel::new());
        let reply = pair.client.expect_reply();
        pair.client.give_back(&reply);
    });
    squeeze_out(&[(torn.at(0), PAGES * PAGE)]);
}

fn with_fork(env: &Env) {
    let (mut pair, torn) = small(env);
    against_reclaim(env, 250, |turn| {
        let bytes = pattern(PAGES * PAGE / 2, turn);
        pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&bytes)));
        let received = pair.server.expect_transaction();
        // Half of the pages are used, and half of them may be going.
        let mut child = Child::spawn(|| {
            let hidden = hostile::peek(torn.at(0), 1) == Err(Errno::EFAULT);
            i32::from(!hidden)
        })
        .expect("fork");
        assert!(hostile::peek(received.buffer, bytes.len()).as_ref() == Ok(&bytes), "turn {turn}");
        assert!(matches!(child.wait(), Ok(WaitStatus::Exited(_, 0))), "the child sees its parent's buffers");
        // The child's end made reads return: what is left to be read goes with the reply.
        pair.client.drain();
        pair.server.drain();
        pair.server.give_back(&received);
        pair.server.start_reply(Call::reply(&Parcel::new()));
        pair.server.drain();
        let [.., binder_client::Return::Reply(reply)] = pair.client.drain()[..] else { panic!("no reply") };
        pair.client.give_back(&reply);
    });
}

/// A process that has received a call all over its mapping, and then does as it is told.
fn filled(env: &Env, registry: &Registry, number: u32, last: impl FnOnce()) -> Peer {
    let peer = Peer::start(env, |env, line| {
        let mut server = End::open_unmapped(env);
        let torn = Torn::map(server.binder().as_fd(), PAGES * PAGE);
        let mut client = End::open(env);
        registry.put(&mut server, number, object::binder(8, 8));
        let handle = registry.get(&mut client, number);
        let mut server = server.enter();
        let bytes = pattern(PAGES * PAGE, number);
        client.start(Call::new(handle, 1, &Parcel::from_bytes(&bytes)));
        let received = server.expect_transaction();
        assert!(hostile::peek(torn.at(0), PAGES * PAGE) == Ok(bytes));
        server.give_back(&received);
        line.say(0).expect("the test is there");
        last();
        let _ = line.hear();
    });
    peer.hear();
    peer
}

fn with_exec(env: &Env) {
    let registry = Registry::start(env);
    against_reclaim(env, 120, |turn| {
        filled(env, &registry, turn, || {
            let program = c"/bin/true";
            let never = nix::unistd::execv(program, &[program]);
            panic!("{never:?}");
        })
        .join();
    });
    registry.kill(&mut End::open(env));
    nothing_left(env);
}

fn with_exit(env: &Env) {
    let registry = Registry::start(env);
    against_reclaim(env, 120, |turn| {
        let mut peer = filled(env, &registry, turn, || {});
        if turn % 2 == 0 {
            peer.say(0);
            peer.join();
        } else {
            peer.kill();
        }
    });
    registry.kill(&mut End::open(env));
    nothing_left(env);
}

fn with_release(env: &Env) {
    // The file alone is closed, and its process goes on; a sender is in the middle of a call half of the time.
    let registry = Registry::start(env);
    let mut client = End::open(env);
    against_reclaim(env, 150, |turn| {
        let Full { mut server, torn, handle, bytes } = Full::new(env, &registry, &mut client, turn);
        if turn % 2 == 0 {
            let received = server.expect_transaction();
            assert!(hostile::peek(received.buffer, bytes.len()) == Ok(bytes), "turn {turn}");
            server.give_back(&received);
        }
        torn.unmap(0..PAGES);
        drop(server);
        until(|| client.drain().contains(&binder_client::Return::DeadReply));
        client.queue().release(handle);
    });
    drop(client);
    registry.kill(&mut End::open(env));
    nothing_left(env);
}

fn with_other_reclaimers(env: &Env) {
    // The two that drop caches, one that has the kernel reclaim by itself, and the test.
    let root = "/sys/fs/cgroup/memory.reclaim";
    if !std::path::Path::new(root).exists() {
        env.skip("no control group whose memory can be reclaimed at /sys/fs/cgroup");
    }
    let (mut pair, _torn) = small(env);
    let third = Peer::start(env, |_, line| {
        while !line.heard() {
            // More may be asked for than there is.
            let _ = std::fs::write(root, "256K");
        }
    });
    against_reclaim(env, 300, |turn| {
        call(&mut pair, turn);
        if turn % 20 == 0 {
            squeeze();
        }
    });
    third.say(0);
    third.join();
}
