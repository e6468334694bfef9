// SPDX-License-Identifier: GPL-2.0

//! Calls under memory pressure of each kind.
//!
//! Services with mappings of several sizes return the data of each call, and every byte is compared. Afterwards every
//! page without a buffer can be freed, and calls cost what they cost before.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use binder_client::Call;
use binder_client::LIBBINDER_MAPPING;
use binder_client::MAX_MAPPING;
use binder_client::Parcel;
use binder_client::Served;
use binder_client::clock;
use binder_client::clock::Clock;
use binder_client::object;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use super::reclaim::squeeze;
use super::tests;
use super::transaction::pattern;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::fixture::until;
use crate::hostile::Arena;
use crate::hostile::PAGE;
use crate::hostile::Tally;
use crate::kernel::Cgroup;
use crate::kernel::Freed;
use crate::kernel::all_pages;
use crate::kernel::meminfo;

tests! { Reclaim, "pressure":
    while_caches_are_dropped,
    while_control_groups_are_at_their_limit,
    while_the_shrinker_is_told_to_scan,
    while_everything_is_reclaimed,
    calls_cost_what_they_did,
}

/// Needs a guest that has little memory, so these are run by themselves.
pub const SMALL: &[crate::tests::Test] = &[crate::tests::Test {
    name: "pressure.until_the_machine_is_out_of_memory",
    group: crate::tests::Group::OutOfMemory,
    run: until_the_machine_is_out_of_memory,
}];

/// The mappings of the services.
const SIZES: [usize; 4] = [8 * PAGE, 16 * PAGE, LIBBINDER_MAPPING, MAX_MAPPING];
/// Clients of each service.
const CLIENTS: usize = 2;

/// Services and clients that talk until each client has made its calls.
struct Load {
    registry: Registry,
    /// Calls made, by client.
    made: Tally,
    clients: Vec<Peer>,
    services: Vec<Peer>,
    calls: u64,
}

impl Load {
    /// Starts them; each does `first` before anything else.
    fn start(env: &Env, calls: u64, first: impl Fn()) -> Self {
        let registry = Registry::start(env);
        let made = Tally::new(SIZES.len() * CLIENTS);
        let services =
            (0u32..).zip(SIZES).map(|(number, size)| service(env, &registry, number, size, &first)).collect();
        let clients = (0..SIZES.len() * CLIENTS)
            .map(|index| {
                let peer = Peer::start(env, |env, line| {
                    first();
                    let size = SIZES[index / CLIENTS];
                    let mut end = End::open(env);
                    let handle = registry.get(&mut end, (index / CLIENTS) as u32);
                    end.set_blocking(true);
                    line.say(0).expect("the test is there");
                    line.hear().expect("the test is there");
                    for call in 0..calls {
                        // Both clients' calls fit, however they lie, and so do the answers; once in a while there is a large one.
                        let most = if call % 16 == 0 { 400_000 } else { 30_000 }.min(size / 4);
                        let turn = (call as u32).wrapping_mul(7919) + index as u32;
                        let bytes = pattern(turn as usize % most, turn);
                        let reply = end.call(Call::new(handle, 1, &Parcel::from_bytes(&bytes))).expect("a reply");
                        assert!(end.payload(&reply).expect("a readable reply").data == bytes, "the echo is wrong");
                        end.free(&reply);
                        // ORDERING: a count.
                        made.at(index).fetch_add(1, Ordering::Relaxed);
                    }
                    end.flush().expect("BC_FREE_BUFFER");
                    // Stays, so that what stands behind its mapping does.
                    line.say(0).expect("the test is there");
                    let _ = line.hear();
                });
                peer.hear();
                peer
            })
            .collect();
        Self { registry, made, clients, services, calls }
    }

    fn go(&self) {
        self.clients.iter().for_each(|client| client.say(0));
    }

    fn made_by(&self, client: usize) -> u64 {
        // ORDERING: a count.
        self.made.at(client).load(Ordering::Relaxed)
    }

    fn made(&self) -> u64 {
        (0..self.clients.len()).map(|client| self.made_by(client)).sum()
    }

    fn done(&self) -> bool {
        self.made() == self.calls * self.clients.len() as u64
    }

    /// Does something again and again until all calls are made; how many were made while it was being done, and how
    /// often it was.
    #[track_caller]
    fn run(&self, env: &Env, mut meanwhile: impl FnMut()) {
        let freed = Freed::from_now(env);
        self.go();
        let mut turns = 0;
        while !self.done() {
            let lost = |(index, client): (usize, &Peer)| client.has_spoken() && self.made_by(index) < self.calls;
            assert!(!self.clients.iter().enumerate().any(lost), "a client is gone");
            meanwhile();
            turns += 1;
        }
        let freed = freed.so_far();
        self.clients.iter().for_each(|client| assert_eq!(client.hear(), 0));
        println!("{} calls, {turns} turns, {freed} pages reclaimed meanwhile", self.made());
        assert!(turns > 1 && freed > 0, "there was no pressure");
        self.every_unused_page_can_be_freed(env);
    }

    /// No page is in use, so every page is freed.
    #[track_caller]
    fn every_unused_page_can_be_freed(&self, env: &Env) {
        if env.driver == Driver::Ours {
            until(|| {
                squeeze();
                all_pages(env).is_some_and(|pages| pages.active == 0 && pages.listed == 0)
            });
        }
    }

    /// All is well with all of them.
    #[track_caller]
    fn end(self) {
        for client in self.clients {
            client.say(0);
            client.join();
        }
        drop(self.services);
        drop(self.registry);
    }
}

fn service(env: &Env, registry: &Registry, number: u32, size: usize, first: impl Fn()) -> Peer {
    let peer = Peer::start(env, |env, line| {
        first();
        let mut end = End::open_sized(env, size);
        registry.put(&mut end, number, object::binder(8, 8));
        end.set_blocking(true);
        line.say(0).expect("the test is there");
        let served = end.serve(|looper, received| {
            let payload = looper.payload(received).expect("a readable buffer");
            Served::Reply(Parcel::from_bytes(&payload.data))
        });
        panic!("{served:?}");
    });
    peer.hear();
    peer
}

fn while_caches_are_dropped(env: &Env) {
    let load = Load::start(env, 150, || {});
    load.run(env, squeeze);
    load.end();
}

fn while_control_groups_are_at_their_limit(env: &Env) {
    if fs::read_to_string("/proc/swaps").unwrap_or_default().lines().count() < 2 {
        env.skip("no swap: processes at their limit could only be killed");
    }
    let group = Cgroup::new(env, "calls");
    let load = Load::start(env, 60, || {
        group.enter();
        // Something that can be swapped.
        let ballast = Arena::new(512);
        ballast.fill();
        std::mem::forget(ballast);
    });
    // Less than they have now, so that whatever they need next takes something away from them.
    let has = group.current();
    let limit = has / 2;
    group.limit(limit);
    load.run(env, || {
        squeeze();
        std::thread::yield_now();
    });
    println!("{} times at the limit, of {} KB, after {} KB", group.events("max"), limit >> 10, has >> 10);
    assert!(group.events("max") > 0, "the group was never at its limit");
    assert_eq!(group.events("oom_kill"), 0);
    load.end();
}

fn shrinker() -> Option<PathBuf> {
    let folder = fs::read_dir("/sys/kernel/debug/shrinker").ok()?.flatten();
    let ours = |name: &str| name.starts_with("binder-rs-");
    folder.map(|entry| entry.path()).find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(ours))
}

fn while_the_shrinker_is_told_to_scan(env: &Env) {
    if env.driver == Driver::C {
        env.skip("its shrinker is scanned with the others");
    }
    let Some(shrinker) = shrinker() else { env.skip("no shrinkers in debugfs (SHRINKER_DEBUG)") };
    let scan = shrinker.join("scan");
    let load = Load::start(env, 80, || {});
    // All of them are in the control group at the root, which is known by its inode.
    let group = fs::metadata("/sys/fs/cgroup").expect("control groups at /sys/fs/cgroup").ino();
    // Control group, node, and how many.
    let mut turn = 0;
    load.run(env, || {
        turn += 1;
        fs::write(&scan, format!("{group} 0 {}", 1 + turn * 37 % 300)).expect("a scan");
    });
    load.end();
}

fn while_everything_is_reclaimed(env: &Env) {
    let root = "/sys/fs/cgroup/memory.reclaim";
    if !fs::exists(root).unwrap_or(false) {
        env.skip("no control group whose memory can be reclaimed at /sys/fs/cgroup");
    }
    let load = Load::start(env, 60, || {});
    load.run(env, || {
        // More is asked for than there is: that it fails in the end is to be expected.
        let _ = fs::write(root, "256K");
    });
    load.end();
}

fn calls_cost_what_they_did(env: &Env) {
    let registry = Registry::start(env);
    let _service = service(env, &registry, 1, LIBBINDER_MAPPING, || {});
    let mut end = End::open(env);
    let handle = registry.get(&mut end, 1);
    end.set_blocking(true);
    let bytes = pattern(5000, 1);
    let parcel = Parcel::from_bytes(&bytes);
    let mut calls = |count: u32| {
        let start = clock::now();
        for _ in 0..count {
            let reply = end.call(Call::new(handle, 1, &parcel)).expect("a reply");
            assert!(end.payload(&reply).expect("a readable reply").data == bytes);
            end.free(&reply);
        }
        clock::now() - start
    };
    calls(200);
    let allocated = all_pages(env);
    let before = calls(500);
    // Calls of one kind after one another need no page that is not there.
    assert_eq!(all_pages(env).map(|pages| pages.total), allocated.map(|pages| pages.total));
    for _ in 0..20 {
        squeeze();
        calls(3);
    }
    if let (Some(then), Some(now)) = (allocated, all_pages(env)) {
        assert!(now.total > then.total, "no page was taken away");
    }
    calls(200);
    let allocated = all_pages(env);
    let after = calls(500);
    assert_eq!(all_pages(env).map(|pages| pages.total), allocated.map(|pages| pages.total));
    // Where the clock counts instructions, and only there, it says something.
    if Clock::check() == Clock::Instructions {
        let (before, after) = (before.as_nanos() / 500, after.as_nanos() / 500);
        println!("{before} instructions a call before, {after} after");
        assert!(after <= before + before / 50, "calls became dearer");
    }
}

/// Takes memory until the kernel kills it.
fn hog(env: &Env) -> Peer {
    Peer::start(env, |_, line| {
        fs::write("/proc/self/oom_score_adj", "1000").expect("oom_score_adj");
        line.say(0).expect("the test is there");
        line.hear().expect("the test is there");
        let mut all = Vec::new();
        loop {
            let more = Arena::new(256);
            more.fill();
            all.push(more);
        }
    })
}

fn until_the_machine_is_out_of_memory(env: &Env) {
    if meminfo("MemTotal") > 512 << 10 {
        env.skip("the machine has too much memory for that");
    }
    let Some(at_first) = all_pages(env) else { env.skip("the driver does not tell what it reclaims") };
    let load = Load::start(env, 250, || {});
    // Unused pages behind many mappings are what there is to be had.
    let full: Vec<Peer> = (0..12).map(|number| full(env, &load.registry, 100 + number)).collect();
    let filled = all_pages(env).expect("the driver tells");
    println!("{} pages unused, {} KB free", filled.listed, meminfo("MemFree"));
    load.go();
    let mut killed = 0;
    while !load.done() || killed < 3 {
        let hog = hog(env);
        hog.hear();
        hog.say(0);
        let ended = hog.ended();
        assert!(matches!(ended, WaitStatus::Signaled(_, Signal::SIGKILL, _)), "{ended:?}");
        killed += 1;
    }
    load.clients.iter().for_each(|client| assert_eq!(client.hear(), 0));
    let now = all_pages(env).expect("the driver tells");
    let reclaimed = now.reclaimed - at_first.reclaimed;
    println!("{} calls, {killed} processes killed, {reclaimed} pages reclaimed", load.made());
    // What was unused for long went, and all of it.
    assert!(reclaimed >= filled.listed / 2, "the kernel did not get the pages");
    for peer in full {
        peer.say(0);
        peer.join();
    }
    load.every_unused_page_can_be_freed(env);
    load.end();
}

/// A process behind whose mapping there are 4 MB of unused pages.
fn full(env: &Env, registry: &Registry, number: u32) -> Peer {
    let peer = Peer::start(env, |env, line| {
        let mut server = End::open_sized(env, MAX_MAPPING);
        let mut client = End::open(env);
        registry.put(&mut server, number, object::binder(8, 8));
        let handle = registry.get(&mut client, number);
        let mut server = server.enter();
        let bytes = pattern(MAX_MAPPING, number);
        client.start(Call::new(handle, 1, &Parcel::from_bytes(&bytes)));
        let received = server.expect_transaction();
        assert!(server.take(&received).data == bytes);
        drop(bytes);
        line.say(0).expect("the test is there");
        line.hear().expect("the test is there");
    });
    peer.hear();
    peer
}
