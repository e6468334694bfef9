// SPDX-License-Identifier: GPL-2.0

//! Processes that are killed at random.
//!
//! Processes call a service and each other, in steps that a seed determines: calls, one-way calls, nodes, handles,
//! descriptors, notifications. After a number of steps, which the seed determines too, a process is killed in the
//! middle of the next step, and another starts. In the end the driver's counts have their old values.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use binder_client::Call;
use binder_client::Error;
use binder_client::LIBBINDER_MAPPING;
use binder_client::Looper;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::Served;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::FdObject;
use nix::errno::Errno;
use zerocopy::FromBytes;

use super::counts;
use super::reclaim::squeeze;
use super::tests;
use super::transaction::pattern;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::hostile;
use crate::hostile::PAGE;
use crate::hostile::Tally;
use crate::kernel::is_processes_own;

tests! { Reclaim, "random_kills":
    at_any_moment,
    at_any_moment_while_memory_is_short,
}

/// How many talk at a time.
const ALIVE: usize = 4;
/// After so many the driver's counts are looked at.
const EPOCH: u64 = 250;
/// How often a look is taken at what a victim has done. One that waits for another, which is killed after it, is
/// killed waiting.
const LOOKS: u32 = 500;

/// The service's place in the registry; the victims' are after it.
const SERVICE: u32 = 0;

/// The next of a row of numbers that have nothing to do with one another.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// What comes besides what one waits for.
fn attend(looper: &mut Looper, ret: Return) {
    let received = match ret {
        Return::Transaction(received) => received,
        Return::DeadBinder(cookie) => {
            looper.queue().dead_binder_done(cookie);
            return;
        }
        other => return looper.grant(&other),
    };
    looper.free(&received);
    if received.flags & uapi::TF_ONE_WAY == 0 {
        looper.queue().command(uapi::BC_REPLY, &Call::reply(&Parcel::new()).data());
    }
}

/// Sends a call to a process that may be dead, or die meanwhile.
fn call(end: &mut End, call: Call<'_>) -> Option<uapi::TransactionData> {
    let outcome = end.blocking(|looper| {
        looper.call_with(call, |looper, ret| {
            attend(looper, ret);
            Ok(())
        })
    });
    match outcome {
        Ok(reply) => Some(reply),
        Err(Error::Dead | Error::Failed) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Talks until it is killed.
fn victim(env: &Env, registry: &Registry, number: u32, seed: u64, steps: &Tally) {
    let mut state = seed;
    let size = [8 * PAGE, 64 * PAGE, LIBBINDER_MAPPING][next(&mut state) as usize % 3];
    let mut end = End::open_sized(env, size).enter();
    let file = File::open("/dev/null").expect("/dev/null");
    let service = registry.get(&mut end, SERVICE);
    for turn in 0.. {
        let bytes = pattern(next(&mut state) as usize % 12_000, turn);
        match next(&mut state) % 6 {
            0 | 1 => {
                let echo = call(&mut end, Call::new(service, 1, &Parcel::from_bytes(&bytes)));
                if let Some(reply) = echo {
                    assert!(end.payload(&reply).expect("a readable reply").data == bytes, "the echo is wrong");
                    end.free(&reply);
                }
            }
            2 => registry.put(&mut end, number, object::binder(u64::from(turn) * 8 + 8, seed)),
            3 => {
                let mut parcel = Parcel::from_bytes(&bytes);
                parcel.object(&object::binder(u64::from(turn % 5) * 8 + 8, seed));
                parcel.object(&object::fd(file.as_raw_fd(), 0));
                if let Some(reply) = call(&mut end, Call::new(service, 2, &parcel)) {
                    end.free(&reply);
                }
            }
            _ => {
                // Another process, which will be killed.
                let other = 1 + next(&mut state) as u32 % ALIVE as u32;
                let asked = Parcel::from_bytes(&other.to_ne_bytes());
                let Some(reply) = call(&mut end, Call::new(0, Registry::GET, &asked)) else { continue };
                let object = end.payload(&reply).expect("a readable reply").flat(0);
                if let Some(handle) = object.and_then(|object| object.as_handle()) {
                    end.queue().acquire(handle);
                    end.free(&reply);
                    match next(&mut state) % 3 {
                        0 => {
                            end.queue().request_death(handle, u64::from(turn));
                        }
                        1 => {
                            let flags =
                                if turn % 2 == 0 { uapi::TF_ONE_WAY | uapi::TF_CLEAR_BUF } else { uapi::TF_ONE_WAY };
                            let parcel = Parcel::from_bytes(&bytes);
                            end.start(Call::new(handle, 3, &parcel).with_flags(flags));
                        }
                        _ => {
                            if let Some(reply) = call(&mut end, Call::new(handle, 4, &Parcel::from_bytes(&bytes))) {
                                end.free(&reply);
                            }
                        }
                    }
                    end.queue().release(handle);
                } else {
                    end.free(&reply);
                }
            }
        }
        loop {
            match end.next() {
                Ok(ret) => attend(&mut end, ret),
                Err(Error::Sys { errno: Errno::EAGAIN, .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
        // ORDERING: a count, which decides when to kill and nothing else.
        steps.at(number as usize).fetch_add(1, Ordering::Relaxed);
    }
}

fn service(env: &Env, registry: &Registry) -> Peer {
    let peer = Peer::start(env, |env, line| {
        let mut end = End::open(env);
        registry.put(&mut end, SERVICE, object::binder(8, 8));
        end.set_blocking(true);
        line.say(0).expect("the test is there");
        let served = end.serve(|looper, received| {
            let payload = looper.payload(received).expect("a readable buffer");
            for offset in &payload.offsets {
                let object = FdObject::read_from_prefix(&payload.data[*offset as usize..]);
                match object {
                    // It is the receiver's to close.
                    Ok((object, _)) if object.kind == uapi::BINDER_TYPE_FD => {
                        drop(hostile::adopt(uapi::from_union(object.fd) as i32));
                    }
                    _ => {}
                }
            }
            let echo = if received.code == 1 { Parcel::from_bytes(&payload.data) } else { Parcel::new() };
            Served::Reply(echo)
        });
        panic!("{served:?}");
    });
    peer.hear();
    peer
}

/// Kills so many, and looks at the counts in between.
fn kill_them(env: &Env, kills: u64, seed: u64) {
    let path = counts::file(env);
    let before = counts::at_rest(env, &path);
    let steps = Tally::new(1 + ALIVE);
    let mut state = seed;
    let (mut killed, mut done, mut waiting) = (0, 0, 0);
    while killed < kills {
        let registry = Registry::start(env);
        let service = service(env, &registry);
        let start = |number: u32, state: &mut u64| {
            let seed = next(state);
            // ORDERING: no other process writes this counter now.
            steps.at(number as usize).store(0, Ordering::Relaxed);
            Peer::start(env, |env, _| victim(env, &registry, number, seed, &steps))
        };
        let mut alive: Vec<Peer> = (1..=ALIVE as u32).map(|number| start(number, &mut state)).collect();
        for turn in 0..EPOCH.min(kills - killed) {
            let place = turn as usize % ALIVE;
            let wanted = next(&mut state) % 24;
            let mut looks = 0;
            let has_done = || steps.at(place + 1).load(Ordering::Relaxed);
            while has_done() < wanted && looks < LOOKS {
                looks += 1;
                std::thread::yield_now();
            }
            waiting += u64::from(looks == LOOKS);
            alive[place].kill();
            killed += 1;
            done += has_done();
            alive[place] = start(place as u32 + 1, &mut state);
        }
        alive.iter_mut().for_each(Peer::kill);
        let mut last = [service];
        last.iter_mut().for_each(Peer::kill);
        registry.kill(&mut End::open(env));
        match env.driver(Difference::KilledNode) {
            Driver::Ours => counts::until_no_more_than(&path, &before, |_| true),
            Driver::C => counts::until_no_more_than(&path, &before, is_processes_own),
        }
    }
    println!("seed {seed:#x}: {killed} killed in the middle of {done} steps, {waiting} of them while they waited");
    assert!(done > killed, "they were killed before they did anything");
}

fn at_any_moment(env: &Env) {
    kill_them(env, if env.thorough { 9_000 } else { 400 }, 0xb1d);
}

fn at_any_moment_while_memory_is_short(env: &Env) {
    let squeezer = Peer::start(env, |_, line| {
        while !line.heard() {
            squeeze();
        }
    });
    kill_them(env, if env.thorough { 1_000 } else { 150 }, 0xdead);
    squeezer.say(0);
    squeezer.join();
}
