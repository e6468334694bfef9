// SPDX-License-Identifier: GPL-2.0

//! Every number from user space, at the limits of its range and where a sum with another number overflows.
//!
//! Each test has a table: a field, its values, and the expected results. After each row a normal call must succeed. The
//! harness compares the driver's counts after each test, so a refused value must leave nothing behind.

use std::fmt::Debug;
use std::fmt::Display;

use binder_client::Call;
use binder_client::Commands;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::uapi::WriteRead;
use nix::errno::Errno;

use super::tests;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::hostile::Arena;
use crate::hostile::PAGE;

pub mod binderfs;
pub mod calls;
pub mod objects;
pub mod requests;

tests! { Core, "extremes":
    size_of_the_commands,
    consumed_commands,
    address_of_the_commands,
    room_for_returns,
}

/// The ends of 32 and 64 bits, signed and not, small numbers, and their neighbours.
fn limits() -> Vec<u64> {
    let mut all: Vec<u64> = (0..=9).collect();
    for end in [1 << 12, 1 << 16, 1 << 31, 1 << 32, 1 << 47, 1 << 62, 1 << 63] {
        all.extend([end - 8, end - 4, end - 1, end, end + 1, end + 4]);
    }
    all.extend(u64::MAX - 15..=u64::MAX);
    all
}

/// The same with what comes to the end of the range when `other` is added.
fn limits_beside(other: u64) -> Vec<u64> {
    let end = other.wrapping_neg();
    let mut all = limits();
    all.extend([16, 9, 8, 7, 5, 4, 3, 1, 0].map(|below| end.wrapping_sub(below)));
    all.extend([1, 4, 8].map(|above| end.wrapping_add(above)));
    all
}

/// What was found, and what should have been.
#[derive(Default)]
struct Table {
    rows: usize,
    wrong: Vec<String>,
}

impl Table {
    fn row<T: PartialEq + Debug>(&mut self, what: impl Display, found: T, wanted: T) {
        self.rows += 1;
        if found != wanted {
            self.wrong.push(format!("{what}: {found:x?} instead of {wanted:x?}"));
        }
    }

    #[track_caller]
    fn end(self) {
        let (rows, wrong) = (self.rows, self.wrong.len());
        assert!(rows > 0, "an empty table");
        assert!(wrong == 0, "{wrong} of {rows} rows:\n{}", self.wrong.join("\n"));
    }
}

/// Two pages full of `BC_EXIT_LOOPER`, which does no harm as often as it comes, and nothing on either side.
struct Strip {
    arena: Arena,
}

impl Strip {
    const SIZE: usize = 2 * PAGE;

    fn new() -> Self {
        let mut arena = Arena::new(4);
        let mut commands = Commands::new();
        for _ in 0..Self::SIZE / 4 {
            commands.exit_looper();
        }
        arena.put(PAGE, commands.bytes());
        arena.wall();
        Self { arena }
    }

    fn at(&self, offset: usize) -> u64 {
        self.arena.at(PAGE + offset)
    }

    /// How far `BINDER_WRITE_READ` comes with what it is to write.
    fn write(&self, end: &End, size: u64, consumed: u64, address: u64) -> (nix::Result<i32>, u64) {
        let mut argument =
            WriteRead { write_size: size, write_consumed: consumed, write_buffer: address, ..WriteRead::default() };
        (self.arena.write_read(end.binder(), &mut argument), argument.write_consumed)
    }

    /// The same as both drivers should have it: commands are carried out from the address plus what is consumed up to
    /// the address plus the size, both of which wrap.
    fn written(&self, size: u64, consumed: u64, address: u64) -> (nix::Result<i32>, u64) {
        let end = address.wrapping_add(size);
        let mut done = consumed;
        while size > 0 && address.wrapping_add(done) < end {
            let next = address.wrapping_add(done);
            if next < self.at(0) || next > self.at(Self::SIZE - 4) {
                return (Err(Errno::EFAULT), done);
            }
            if next % 4 != 0 {
                // Between two commands there is none.
                return (Err(Errno::EINVAL), done);
            }
            done = done.wrapping_add(4);
        }
        (Ok(0), done)
    }
}

fn size_of_the_commands(env: &Env) {
    let mut pair = Pair::new(env);
    let strip = Strip::new();
    let mut table = Table::default();
    for start in [0, PAGE, 2 * PAGE - 8] {
        let address = strip.at(start);
        for size in limits_beside(address) {
            let found = strip.write(&pair.client, size, 0, address);
            table.row(format_args!("{size:#x} bytes at {start:#x}"), found, strip.written(size, 0, address));
            pair.check();
        }
    }
    table.end();
}

fn consumed_commands(env: &Env) {
    let mut pair = Pair::new(env);
    let strip = Strip::new();
    let mut table = Table::default();
    for (start, size) in [(0, 4), (PAGE, 4), (PAGE, 8), (PAGE, 64), (PAGE, u64::MAX), (2 * PAGE - 8, 8)] {
        let address = strip.at(start);
        for consumed in limits_beside(address) {
            let found = strip.write(&pair.client, size, consumed, address);
            let wanted = strip.written(size, consumed, address);
            table.row(format_args!("{consumed:#x} of {size:#x} bytes at {start:#x}"), found, wanted);
            pair.check();
        }
    }
    table.end();
}

fn address_of_the_commands(env: &Env) {
    let mut pair = Pair::new(env);
    let strip = Strip::new();
    let mut table = Table::default();
    for (size, consumed) in [(1, 0), (4, 0), (8, 4), (64, 0), (u64::MAX, 0), (u64::MAX - 3, u64::MAX - 7)] {
        for address in limits_beside(size) {
            let found = strip.write(&pair.client, size, consumed, address);
            let wanted = strip.written(size, consumed, address);
            table.row(format_args!("{consumed:#x} of {size:#x} bytes at address {address:#x}"), found, wanted);
            pair.check();
        }
    }
    table.end();
}

/// The longest return with its code: where less is free, nothing is taken off a list.
const LONGEST: u64 = 76;

/// What a read comes to when there is one code to be read: the result, the count, which bytes are written, and whether
/// the code is left. Where the code would come to stand beyond all pages there is no telling: `None`.
type Read = (nix::Result<i32>, u64, Option<(u64, u64)>, bool);

fn read(room: std::ops::Range<u64>, driver: Driver, argument: &WriteRead) -> Option<Read> {
    let WriteRead { read_size, read_consumed, read_buffer, .. } = *argument;
    let mut start = read_buffer.wrapping_add(read_consumed);
    let free = match read_size.checked_sub(read_consumed) {
        _ if read_size == 0 => return Some((Ok(0), read_consumed, None, true)),
        Some(free) if free >= 4 || read_consumed != 0 || driver == Driver::C => free,
        Some(_) => return Some((Err(Errno::EFAULT), 0, None, true)),
        None if driver == Driver::C => u64::MAX,
        None => return Some((Err(Errno::EINVAL), read_consumed, None, true)),
    };
    let is_there = |at: u64| room.contains(&at) && room.end - at >= 4;
    let noop = if read_consumed == 0 { 4 } else { 0 };
    if noop != 0 && !is_there(start) {
        return Some((Err(Errno::EFAULT), 0, None, true));
    }
    let first = start;
    start = start.wrapping_add(noop);
    // What is left in a room of less than four bytes counts as endless.
    if free >= noop && free - noop < LONGEST {
        let written = (noop != 0).then_some((first, first.wrapping_add(3)));
        return Some((Ok(0), read_consumed + noop, written, true));
    }
    is_there(start).then(|| (Ok(0), read_consumed.wrapping_add(noop + 4), Some((first, start + 3)), false))
}

fn room_for_returns(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    let mut arena = Arena::new(4);
    arena.wall();
    let parcel = Parcel::new();
    let room = arena.at(PAGE)..arena.at(3 * PAGE);
    for value in limits_beside(room.start).into_iter().chain([75, 76, 79, 80, 81]) {
        for (read_size, read_consumed, read_buffer) in [
            (value, 0, room.start),
            (value, 4, room.start),
            (64, value, room.start),
            (128, value, room.start + PAGE as u64),
            (u64::MAX, value, room.start),
            (value, value, room.start),
            (128, 0, value),
            (128, 128, value),
        ] {
            let mut argument = WriteRead { read_size, read_consumed, read_buffer, ..WriteRead::default() };
            if !arena.may_read(&argument) {
                continue;
            }
            let Some(wanted) = read(room.clone(), env.driver(Difference::TinyRead), &argument) else { continue };
            // There is no such handle.
            pair.client.start(Call::new(4711, 1, &parcel));
            arena.put(PAGE, &[0xaa; 2 * PAGE]);
            let what = format!("{argument:x?}");
            let result = arena.write_read(pair.client.binder(), &mut argument);
            let bytes = arena.get(PAGE, 2 * PAGE);
            let at = |found: Option<usize>| found.map(|place| room.start + place as u64);
            let first = at(bytes.iter().position(|byte| *byte != 0xaa));
            let written = first.zip(at(bytes.iter().rposition(|byte| *byte != 0xaa)));
            let left = pair.client.drain();
            assert!(left.is_empty() || left == [Return::FailedReply]);
            table.row(what, (result, argument.read_consumed, written, !left.is_empty()), wanted);
            pair.check();
        }
    }
    table.end();
}
