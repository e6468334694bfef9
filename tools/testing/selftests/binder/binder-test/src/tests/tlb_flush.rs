// SPDX-License-Identifier: GPL-2.0

//! The number of TLB flushes to reclaim neighbouring pages.
//!
//! The kernel counts, not the driver: with probes at the functions that zap a range of a file and that flush a range
//! of an mm, and with the event `tlb:tlb_flush` where the architecture has it.

use std::os::fd::AsFd;

use binder_client::Call;
use binder_client::MAX_MAPPING;
use binder_client::Parcel;
use binder_client::process::pin_to;

use super::reclaim::squeeze;
use super::tests;
use super::transaction::pattern;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Registry;
use crate::hostile::PAGE;
use crate::hostile::Torn;
use crate::kernel::Freed;
use crate::kernel::Probe;
use crate::kernel::Trace;
use crate::kernel::field;

tests! { Reclaim, "tlb_flush":
    one_per_run,
    one_per_run_of_many,
}

/// What one reclaim did.
#[derive(Debug, PartialEq, Eq)]
struct Work {
    /// Pages freed.
    freed: u64,
    /// Ranges removed from page tables: page offset and pages.
    zaps: Vec<(u64, u64)>,
    /// Ranges flushed.
    flushes: usize,
    /// Flushes of this processor's TLB for an mm that the architecture tells of.
    tlb: usize,
}

struct Watch {
    // In the order in which they have to go.
    trace: Trace,
    zap: Probe,
    flush: Probe,
}

impl Watch {
    fn new(env: &Env) -> Self {
        let probe = |function, arguments| {
            Probe::at(function, arguments).unwrap_or_else(|| env.skip("the kernel cannot be probed (KPROBE_EVENTS)"))
        };
        let zap = probe("unmap_mapping_range", "start=$arg2:u64 len=$arg3:u64");
        let flush = probe("flush_tlb_mm_range", "start=$arg2:u64 end=$arg3:u64");
        let trace = Trace::new(env, "flush");
        trace.only(&[nix::unistd::getpid().as_raw()]);
        // To open a file of /proc for writing truncates it, which removes what is mapped of it from somewhere "to the end".
        let events = [(zap.event(), "len > 0"), (flush.event(), ""), ("tlb/tlb_flush".to_owned(), "")];
        for (event, filter) in events {
            assert!(trace.event(&event, filter), "no event {event}");
        }
        // What the driver says of itself has to agree.
        let told = trace.event("binder_rs/binder_rs_zap", "");
        assert_eq!(told, env.driver == Driver::Ours);
        Self { trace, zap, flush }
    }

    /// Squeezes, and tells what that took.
    fn squeeze(&self, env: &Env) -> Work {
        let freed = Freed::from_now(env);
        self.trace.during(squeeze);
        let number = |event: &str, name: &str| field(event, name).expect("the probe's field");
        let zaps = self.trace.events(self.zap.name());
        let told = self.trace.events("binder_rs_zap");
        let told = told.iter().map(|event| (number(event, "first"), number(event, "pages")));
        let zaps: Vec<(u64, u64)> =
            zaps.iter().map(|zap| (number(zap, "start") / PAGE as u64, number(zap, "len") / PAGE as u64)).collect();
        assert!(told.eq(zaps.iter().copied()));
        // Not when a task is switched to, nor the message to a processor that this process has left, to which the kernel
        // sends the next flush, too.
        let tlb = |event: &String| event.contains("local MM shootdown");
        Work {
            freed: freed.so_far(),
            zaps,
            flushes: self.trace.events(self.flush.name()).len(),
            tlb: self.trace.events("tlb_flush").iter().filter(|event| tlb(event)).count(),
        }
    }
}

/// A server with the largest mapping and its client, and nothing that can be reclaimed.
fn idle(env: &Env) -> (Pair, Torn) {
    let registry = Registry::start(env);
    let server = End::open_unmapped(env);
    let torn = Torn::map(server.binder().as_fd(), MAX_MAPPING);
    let pair = Pair::at(registry, End::open(env), server.enter());
    let freed = Freed::from_now(env);
    // Until it has nothing to give.
    loop {
        let before = freed.so_far();
        squeeze();
        if freed.so_far() == before {
            return (pair, torn);
        }
    }
}

/// Leaves an answered call's reply out of the picture: its buffer would be one more run.
#[track_caller]
fn end_call(pair: &mut Pair) {
    pair.server.answer(&Parcel::new());
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
    squeeze();
}

fn one_per_run(env: &Env) {
    // Then the mm is in use on one processor, and one thread does all.
    pin_to(0).expect("processor 0");
    let watch = Watch::new(env);
    let (mut pair, torn) = idle(env);
    for pages in [1, 16, 256, 1024] {
        let bytes = pattern(pages * PAGE, pages as u32);
        pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&bytes)));
        let received = pair.server.expect_transaction();
        assert_eq!(received.buffer, torn.at(0));
        assert!(crate::hostile::peek(torn.at(0), bytes.len()) == Ok(bytes));
        pair.server.give_back(&received);
        let work = watch.squeeze(env);
        println!("{pages} pages: {} zaps, {} ranges flushed, {} TLB flushes", work.zaps.len(), work.flushes, work.tlb);
        assert_eq!(work.freed, pages as u64);
        match env.driver(Difference::FlushPerPage) {
            Driver::Ours => {
                assert_eq!(work.zaps, [(0, pages as u64)]);
                assert_eq!((work.flushes, work.tlb), (1, 1));
            }
            Driver::C => assert_eq!((work.flushes, work.tlb), (pages, pages)),
        }
        end_call(&mut pair);
    }
}

fn one_per_run_of_many(env: &Env) {
    pin_to(0).expect("processor 0");
    let watch = Watch::new(env);
    let (mut pair, torn) = idle(env);
    // Every fifth buffer of a page is kept.
    let mut kept = Vec::new();
    let mut freed = Vec::new();
    for number in 0..100 {
        pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&pattern(PAGE, number))));
        let received = pair.server.expect_transaction();
        let page = (received.buffer - torn.at(0)) / PAGE as u64;
        if number % 5 == 0 {
            kept.push((received, page))
        } else {
            freed.push((received, page))
        }
        pair.server.answer(&Parcel::new());
        let reply = pair.client.expect_reply();
        pair.client.give_back(&reply);
    }
    squeeze();
    for (received, _) in &freed {
        pair.server.give_back(received);
    }
    let mut pages: Vec<u64> = freed.iter().map(|(_, page)| *page).collect();
    pages.sort_unstable();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for page in pages {
        match runs.last_mut() {
            Some((first, len)) if *first + *len == page => *len += 1,
            _ => runs.push((page, 1)),
        }
    }
    let work = watch.squeeze(env);
    println!("{} pages in {} runs: {} ranges flushed", freed.len(), runs.len(), work.flushes);
    assert_eq!(work.freed, freed.len() as u64);
    match env.driver(Difference::FlushPerPage) {
        Driver::Ours => {
            assert_eq!(work.zaps, runs);
            assert_eq!(work.flushes, runs.len());
        }
        Driver::C => assert_eq!(work.flushes, freed.len()),
    }
    for (number, (received, _)) in kept.iter().enumerate() {
        assert!(crate::hostile::peek(received.buffer, PAGE) == Ok(pattern(PAGE, number as u32 * 5)));
    }
}
