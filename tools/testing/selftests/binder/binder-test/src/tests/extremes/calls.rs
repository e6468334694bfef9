// SPDX-License-Identifier: GPL-2.0

//! Numbers in a transaction.

use binder_client::Call;
use binder_client::Commands;
use binder_client::LIBBINDER_MAPPING;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::uapi;
use binder_client::uapi::TransactionData;
use binder_client::uapi::TransactionDataSg;
use nix::errno::Errno;
use zerocopy::Immutable;
use zerocopy::IntoBytes;

use super::Table;
use super::limits;
use super::limits_beside;
use super::tests;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::hostile::Arena;
use crate::hostile::PAGE;

tests! { Core, "extremes":
    fields_of_a_call,
    sizes_of_a_call,
    addresses_of_a_call,
    fields_of_a_reply,
    sizes_of_a_reply,
}

/// What becomes of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Arrives,
    /// The one-way call is taken and arrives.
    ArrivesOneWay,
    /// `BR_FAILED_REPLY`, and why.
    Fails(Errno),
    /// The ioctl fails.
    Refused(Errno),
    /// Nothing comes of it.
    Nothing,
}

/// Reads all that there is to read at one end, and leaves out what is about nodes.
fn drain(end: &mut End) -> Vec<Return> {
    let mut all = end.drain();
    for ret in &all {
        end.grant(ret);
    }
    all.retain(|ret| !matches!(ret, Return::IncRefs(_) | Return::Acquire(_) | Return::Release(_) | Return::DecRefs(_)));
    if !end.queue().is_empty() {
        end.flush().expect("BC_ACQUIRE_DONE");
    }
    all
}

/// Gives one end any command; `None` if it is taken.
fn command(end: &End, code: u32, argument: &(impl IntoBytes + Immutable)) -> Option<Fate> {
    let mut commands = Commands::new();
    commands.command(code, argument);
    let (result, progress) = end.binder().write_read(commands.bytes(), &mut []);
    assert_eq!(progress.written, if result.is_ok() { commands.len() } else { 0 });
    result.err().map(Fate::Refused)
}

/// Sends a transaction of the client's with any numbers and has what comes of it done with. What arrives is looked at.
pub fn send_and_look(
    pair: &mut Pair,
    code: u32,
    argument: &(impl IntoBytes + Immutable),
    look: impl FnOnce(&End, &TransactionData),
) -> Fate {
    if let Some(refused) = command(&pair.client, code, argument) {
        return refused;
    }
    let (there, mut here) = (drain(&mut pair.server), drain(&mut pair.client));
    let fate = match (&there[..], &here[..]) {
        ([], []) => Fate::Nothing,
        ([], [Return::FailedReply]) => Fate::Fails(pair.client.errno()),
        ([Return::Transaction(received)], _) => {
            look(&pair.server, received);
            pair.server.give_back(received);
            if received.flags & uapi::TF_ONE_WAY != 0 {
                assert_eq!(here, [Return::TransactionComplete]);
                Fate::ArrivesOneWay
            } else {
                pair.server.answer(&Parcel::new());
                here.extend(drain(&mut pair.client));
                match here[..] {
                    [Return::TransactionComplete, Return::Reply(reply)] => pair.client.give_back(&reply),
                    ref other => panic!("{other:x?}"),
                }
                Fate::Arrives
            }
        }
        other => panic!("{other:x?}"),
    };
    // Nodes that were sent are let go of.
    assert_eq!((drain(&mut pair.server), drain(&mut pair.client)), (vec![], vec![]));
    fate
}

/// The same; what arrives is returned.
fn send(pair: &mut Pair, code: u32, argument: &(impl IntoBytes + Immutable)) -> (Fate, Option<TransactionData>) {
    let mut arrived = None;
    let fate = send_and_look(pair, code, argument, |_, received| arrived = Some(*received));
    (fate, arrived)
}

/// The same for a reply of the server's to a call.
fn reply(pair: &mut Pair, code: u32, argument: &(impl IntoBytes + Immutable)) -> Fate {
    pair.client.start(Call::new(pair.handle, 1, &Parcel::new()));
    let call = pair.server.expect_transaction();
    pair.server.give_back(&call);
    if let Some(refused) = command(&pair.server, code, argument) {
        return refused;
    }
    match (&drain(&mut pair.server)[..], &drain(&mut pair.client)[..]) {
        ([Return::TransactionComplete], [Return::TransactionComplete, Return::Reply(reply)]) => {
            pair.client.give_back(reply);
            Fate::Arrives
        }
        ([Return::TransactionComplete], [Return::TransactionComplete, Return::FailedReply]) => {
            Fate::Fails(pair.client.errno())
        }
        other => panic!("{other:x?}"),
    }
}

fn fields_of_a_call(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    let parcel = Parcel::from_bytes(&[7; 64]);
    let good = Call::new(pair.handle, 1, &parcel).data();
    let handle = u64::from(pair.handle);
    for value in limits().into_iter().chain([handle, handle | (1 << 32), handle | (1 << 63)]) {
        // Handle 0 is another process.
        if value as u32 != 0 {
            let wanted = if value as u32 == pair.handle { Fate::Arrives } else { Fate::Fails(Errno::EINVAL) };
            let (fate, _) = send(&mut pair, uapi::BC_TRANSACTION, &TransactionData { target: value, ..good });
            table.row(format_args!("target {value:#x}"), fate, wanted);
            pair.check();
        }
        let (fate, got) = send(&mut pair, uapi::BC_TRANSACTION, &TransactionData { cookie: value, ..good });
        table.row(format_args!("cookie {value:#x}"), fate, Fate::Arrives);
        assert!(got.is_none_or(|got| (got.target, got.cookie) == (Pair::NODE.ptr, Pair::NODE.cookie)));

        let value = value as u32;
        let (fate, got) = send(&mut pair, uapi::BC_TRANSACTION, &TransactionData { code: value, ..good });
        table.row(format_args!("code {value:#x}"), (fate, got.map(|got| got.code)), (Fate::Arrives, Some(value)));
        let (fate, got) = send(&mut pair, uapi::BC_TRANSACTION, &TransactionData { flags: value, ..good });
        let wanted = if value & uapi::TF_ONE_WAY != 0 { Fate::ArrivesOneWay } else { Fate::Arrives };
        table.row(format_args!("flags {value:#x}"), (fate, got.map(|got| got.flags)), (wanted, Some(value)));
        let forged = TransactionData { sender_pid: value as i32, sender_euid: value, ..good };
        let (fate, got) = send(&mut pair, uapi::BC_TRANSACTION, &forged);
        let sender = (nix::unistd::getpid().as_raw(), 0);
        let told = got.map(|got| (got.sender_pid, got.sender_euid));
        table.row(format_args!("sender {value:#x}"), (fate, told), (Fate::Arrives, Some(sender)));
        pair.check();
    }
    table.end();
}

/// What becomes of a call whose data, offsets and buffers have these sizes, where a page of zeros can be read.
fn of_sizes(data: u64, offsets: u64, buffers: u64) -> Fate {
    let parts = [data, offsets, buffers].map(|size| size.checked_next_multiple_of(8));
    let whole = parts.into_iter().try_fold(0u64, |sum, part| sum.checked_add(part?));
    match whole {
        None => Fate::Fails(Errno::EINVAL),
        Some(whole) if whole > LIBBINDER_MAPPING as u64 => Fate::Fails(Errno::ENOSPC),
        _ if offsets > PAGE as u64 => Fate::Fails(Errno::EFAULT),
        // Zeros are no object.
        _ if buffers % 8 != 0 || offsets != 0 => Fate::Fails(Errno::EINVAL),
        _ if data > PAGE as u64 => Fate::Fails(Errno::EFAULT),
        _ => Fate::Arrives,
    }
}

/// Zeros that can be read, a page of them, and none behind it.
fn zeros() -> Arena {
    let arena = Arena::new(2);
    arena.unmap(1);
    arena
}

/// Sizes of data, offsets and buffers.
fn sizes() -> Vec<[u64; 3]> {
    let mapping = LIBBINDER_MAPPING as u64;
    let mut all = Vec::new();
    for size in limits().into_iter().chain([mapping - 8, mapping - 7, mapping, mapping + 1]) {
        for (one, other) in [(0, 0), (8, 0), (0, 8), (size, 0), (size, size), (u64::MAX - 7, 0), (0, u64::MAX - 7)] {
            all.extend([[size, one, other], [one, size, other], [one, other, size]]);
        }
    }
    all
}

fn sizes_of_a_call(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    let arena = zeros();
    let call = Call::new(pair.handle, 1, &Parcel::new()).data();
    for [data_size, offsets_size, buffers_size] in sizes() {
        let transaction =
            TransactionData { data_size, offsets_size, buffer: arena.at(0), offsets: arena.at(0), ..call };
        let wanted = of_sizes(data_size, offsets_size, buffers_size);
        let sizes = format!("{data_size:#x} {offsets_size:#x} {buffers_size:#x}");
        let argument = TransactionDataSg { transaction, buffers_size };
        table.row(&sizes, send(&mut pair, uapi::BC_TRANSACTION_SG, &argument).0, wanted);
        if buffers_size == 0 {
            table.row(&sizes, send(&mut pair, uapi::BC_TRANSACTION, &transaction).0, wanted);
        }
        pair.check();
    }
    table.end();
}

fn sizes_of_a_reply(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    let arena = zeros();
    let good = Call::reply(&Parcel::new()).data();
    for [data_size, offsets_size, buffers_size] in sizes() {
        let transaction =
            TransactionData { data_size, offsets_size, buffer: arena.at(0), offsets: arena.at(0), ..good };
        let wanted = of_sizes(data_size, offsets_size, buffers_size);
        let sizes = format!("{data_size:#x} {offsets_size:#x} {buffers_size:#x}");
        let argument = TransactionDataSg { transaction, buffers_size };
        table.row(&sizes, reply(&mut pair, uapi::BC_REPLY_SG, &argument), wanted);
        if buffers_size == 0 {
            table.row(&sizes, reply(&mut pair, uapi::BC_REPLY, &transaction), wanted);
        }
        pair.check();
    }
    table.end();
}

fn addresses_of_a_call(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    let arena = zeros();
    let call = Call::new(pair.handle, 1, &Parcel::new()).data();
    for size in [0, 1, 8, 24, PAGE as u64] {
        for address in limits_beside(size).into_iter().chain([arena.at(0), arena.at(PAGE - 8), arena.at(PAGE - 1)]) {
            let there = arena.at(0)..=arena.at(PAGE);
            let readable = there.contains(&address) && there.contains(&address.wrapping_add(size));
            let wanted = if size == 0 || readable { Fate::Arrives } else { Fate::Fails(Errno::EFAULT) };
            let data = TransactionData { buffer: address, data_size: size, ..call };
            table.row(
                format_args!("{size} bytes at {address:#x}"),
                send(&mut pair, uapi::BC_TRANSACTION, &data).0,
                wanted,
            );
            if size % 8 == 0 {
                let wanted = if size != 0 && readable { Fate::Fails(Errno::EINVAL) } else { wanted };
                let data = TransactionData { offsets: address, offsets_size: size, ..call };
                let fate = send(&mut pair, uapi::BC_TRANSACTION, &data).0;
                table.row(format_args!("{size} bytes of offsets at {address:#x}"), fate, wanted);
            }
            pair.check();
        }
    }
    table.end();
}

fn fields_of_a_reply(env: &Env) {
    let mut pair = Pair::new(env);
    let mut table = Table::default();
    let parcel = Parcel::from_bytes(&[7; 64]);
    let good = Call::reply(&parcel).data();
    for value in limits() {
        let half = value as u32;
        for (what, data) in [
            ("target", TransactionData { target: value, ..good }),
            ("cookie", TransactionData { cookie: value, ..good }),
            ("code", TransactionData { code: half, ..good }),
            ("flags", TransactionData { flags: half, ..good }),
            ("sender", TransactionData { sender_pid: half as i32, sender_euid: half, ..good }),
        ] {
            table.row(format_args!("{what} {value:#x}"), reply(&mut pair, uapi::BC_REPLY, &data), Fate::Arrives);
            pair.check();
        }
    }
    table.end();
}
