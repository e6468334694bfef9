// SPDX-License-Identifier: GPL-2.0

//! Repeated load, use and unload of the module must not leak memory.

use std::sync::atomic::Ordering;

use super::module::Module;
use super::module::use_it;
use super::reclaim::squeeze;
use super::tests;
use crate::env::Env;
use crate::fixture::Peer;
use crate::fixture::until;
use crate::hostile::Tally;
use crate::kernel::all_pages;
use crate::kernel::slabs;
use crate::kernel::unclaimed;

tests! { Reclaim, "module_reload":
    load_use_unload,
    unload_while_memory_is_short,
}

/// KB of unused memory, after caches are dropped.
fn free() -> u64 {
    squeeze();
    unclaimed()
}

fn load_use_unload(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    let usual = if env.thorough { 100 } else { 12 };
    let round = || {
        use_it(env);
        module.unload_eventually();
        module.load();
    };
    // What is made once is made.
    for _ in 0..3 {
        round();
    }
    // What leaks does so in every round. What the kernel's caches keep in stock, some sheaves of sixty objects for each
    // processor, comes and goes, but is no more after many rounds than after few.
    for (turns, last) in [(usual, false), (2 * usual, false), (300.max(2 * usual), true)] {
        module.unload_eventually();
        let (slabs_before, free_before) = (slabs(), free());
        module.load();
        for _ in 0..turns {
            round();
        }
        module.unload_eventually();
        // What a round leaves behind would be there once for each. What the kernel frees after a grace period may take
        // some time.
        let mut grown = Vec::new();
        let mut lost = 0;
        let mut looks = 0;
        until(|| {
            looks += 1;
            let now = slabs();
            let more =
                |name: &str, count: u64| count.saturating_sub(slabs_before.get(name).copied().unwrap_or_default());
            grown = now
                .into_iter()
                .map(|(name, count)| (more(&name, count), name))
                .filter(|(more, _)| *more >= turns)
                .collect();
            lost = free_before.saturating_sub(free());
            // The module alone takes a hundred times that in so many rounds.
            (grown.is_empty() && lost < 4 * turns) || looks == 10
        });
        println!(
            "after {turns} rounds: {lost} KB of {free_before} KB lost, seen at the look number {looks}: {grown:?}"
        );
        module.load();
        if grown.is_empty() && lost < 4 * turns {
            return;
        }
        assert!(!last, "{lost} KB lost, and more objects than there were: {grown:?}");
    }
}

fn unload_while_memory_is_short(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    let squeezes = Tally::new(1);
    let squeezer = Peer::start(env, |_, line| {
        while !line.heard() {
            squeeze();
            // ORDERING: a count.
            squeezes.at(0).fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut reclaimed = 0;
    for _ in 0..if env.thorough { 100 } else { 12 } {
        use_it(env);
        reclaimed += all_pages(env).map_or(0, |pages| pages.reclaimed);
        module.unload_eventually();
        module.load();
    }
    squeezer.say(0);
    squeezer.join();
    // ORDERING: as above; the process has ended.
    println!("{} squeezes, {reclaimed} pages reclaimed", squeezes.at(0).load(Ordering::Relaxed));
    assert!(reclaimed > 0, "nothing was reclaimed");
}
