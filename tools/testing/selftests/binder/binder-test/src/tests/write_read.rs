// SPDX-License-Identifier: GPL-2.0

//! `BINDER_WRITE_READ`: consumed counts, bad addresses, blocking and signals.

use std::sync::Arc;

use binder_client::Binder;
use binder_client::Call;
use binder_client::Commands;
use binder_client::Error;
use binder_client::Looper;
use binder_client::Parcel;
use binder_client::Progress;
use binder_client::Return;
use binder_client::Returns;
use binder_client::process;
use binder_client::uapi;
use binder_client::uapi::WriteRead;
use nix::errno::Errno;
use nix::sys::mman::ProtFlags;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;

use super::tests;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::fixture::become_manager;
use crate::fixture::until;
use crate::fixture::until_in_ioctl;
use crate::hostile;
use crate::hostile::Arena;
use crate::hostile::PAGE;

tests! { Core, "write_read":
    nothing_to_write_and_nothing_to_read,
    write_consumed_counts_every_command,
    unknown_command_stops_before_it,
    write_consumed_says_where_to_go_on,
    write_consumed_past_the_end_does_nothing,
    write_consumed_that_wraps_starts_before_the_buffer,
    read_consumed_says_where_to_go_on,
    first_return_is_a_noop,
    write_buffer_at_a_bad_address,
    write_buffer_past_the_end_of_memory_is_empty,
    write_buffer_that_ends_at_a_hole,
    write_buffer_cut_inside_a_command,
    read_buffer_at_a_bad_address,
    read_buffer_that_cannot_be_written,
    read_buffer_at_a_bad_address_keeps_the_work,
    read_buffer_that_ends_at_a_hole,
    read_buffer_too_small_for_a_transaction,
    read_of_less_than_a_return_stays_inside_its_room,
    argument_in_memory_that_cannot_be_written,
    first_ioctl_of_a_thread_does_not_wait,
    nonblocking_read_is_eagain_after_the_write,
    commands_after_a_failed_transaction_wait,
    commands_wait_until_the_error_is_read,
    signal_interrupts_a_read,
    signal_with_restart_interrupts_a_read,
    call_after_a_signal_goes_to_a_thread_that_reads,
    signal_after_a_write_keeps_what_was_written,
    signal_while_a_call_is_out,
    killed_in_a_read,
    killed_in_a_write,
}

/// An ioctl with addresses that need not be good.
struct Raw {
    end: End,
    arena: Arena,
}

impl Raw {
    fn new(env: &Env) -> Self {
        Self { end: End::open(env), arena: Arena::new(8) }
    }

    fn ioctl(&self, argument: &mut WriteRead) -> nix::Result<i32> {
        self.arena.write_read(self.end.binder(), argument)
    }

    fn write(&self, address: u64, size: u64) -> (nix::Result<i32>, u64) {
        let mut argument = WriteRead { write_size: size, write_buffer: address, ..WriteRead::default() };
        (self.ioctl(&mut argument), argument.write_consumed)
    }

    fn read(&self, address: u64, size: u64) -> (nix::Result<i32>, u64) {
        let mut argument = WriteRead { read_size: size, read_buffer: address, ..WriteRead::default() };
        (self.ioctl(&mut argument), argument.read_consumed)
    }
}

/// Leaves an error for this thread to read: a transaction to an unknown handle.
fn leave_an_error(end: &mut End) {
    end.start(Call::new(4711, 1, &Parcel::new()));
}

fn parse(bytes: &[u8]) -> Vec<Return> {
    Returns::new(bytes).collect::<Result<_, _>>().expect("returns that make sense")
}

fn nothing_to_write_and_nothing_to_read(env: &Env) {
    let end = End::open(env);
    assert_eq!(end.binder().write_read(&[], &mut []), (Ok(()), Progress { written: 0, read: 0 }));
    // No size, and addresses that would be wrong.
    let raw = Raw { end, arena: Arena::new(1) };
    assert_eq!(raw.write(1, 0), (Ok(0), 0));
    assert_eq!(raw.read(1, 0), (Ok(0), 0));
}

fn write_consumed_counts_every_command(env: &Env) {
    let end = End::open(env);
    let mut commands = Commands::new();
    commands.enter_looper().increfs(4711).free_buffer(0).exit_looper();
    let (result, progress) = end.binder().write_read(commands.bytes(), &mut []);
    assert_eq!((result, progress.written), (Ok(()), commands.len()));
}

fn unknown_command_stops_before_it(env: &Env) {
    let end = End::open(env);
    for unknown in [0, 1, 0xdead_beef, uapi::BR_NOOP, uapi::BC_TRANSACTION + 99, uapi::BINDER_WRITE_READ] {
        let mut commands = Commands::new();
        commands.enter_looper().increfs(4711);
        let good = commands.len();
        commands.bare(unknown).exit_looper();
        let mut room = [0; 256];
        // A failed write leaves the read out.
        let (result, progress) = end.binder().write_read(commands.bytes(), &mut room);
        assert_eq!((result, progress), (Err(Errno::EINVAL), Progress { written: good, read: 0 }), "{unknown:#x}");
    }
}

fn write_consumed_says_where_to_go_on(env: &Env) {
    let raw = Raw::new(env);
    let mut commands = Commands::new();
    commands.bare(0xdead_beef).enter_looper().exit_looper();
    raw.arena.put(0, commands.bytes());
    let mut argument =
        WriteRead { write_size: 12, write_consumed: 4, write_buffer: raw.arena.at(0), ..WriteRead::default() };
    assert_eq!(raw.ioctl(&mut argument), Ok(0));
    assert_eq!(argument.write_consumed, 12);
}

fn write_consumed_past_the_end_does_nothing(env: &Env) {
    let raw = Raw::new(env);
    for consumed in [4, 5, 100, 1 << 40] {
        let mut argument = WriteRead {
            write_size: 4,
            write_consumed: consumed,
            write_buffer: raw.arena.at(0),
            ..WriteRead::default()
        };
        assert_eq!(raw.ioctl(&mut argument), Ok(0), "{consumed}");
        assert_eq!(argument.write_consumed, consumed);
    }
}

fn write_consumed_that_wraps_starts_before_the_buffer(env: &Env) {
    let raw = Raw::new(env);
    let mut commands = Commands::new();
    commands.enter_looper().increfs(4711).exit_looper();
    raw.arena.put(0, commands.bytes());
    for before in [4u64, 12] {
        // The last command begins just below the end, which is 4 bytes into the buffer.
        let mut argument = WriteRead {
            write_size: 4,
            write_consumed: before.wrapping_neg(),
            write_buffer: raw.arena.at(before as usize),
            ..WriteRead::default()
        };
        assert_eq!(raw.ioctl(&mut argument), Ok(0), "{before}");
        // After 4 bytes stands BC_INCREFS with its handle, after 12 BC_EXIT_LOOPER.
        assert_eq!(argument.write_consumed, if before == 4 { 8 } else { 4 }, "{before}");
    }
}

fn read_consumed_says_where_to_go_on(env: &Env) {
    let mut raw = Raw::new(env);
    leave_an_error(&mut raw.end);
    raw.arena.put(0, &[0xaa; 64]);
    let mut argument =
        WriteRead { read_size: 128, read_consumed: 16, read_buffer: raw.arena.at(0), ..WriteRead::default() };
    assert_eq!(raw.ioctl(&mut argument), Ok(0));
    // What is there already is left alone, and only the first stretch of a read begins with a noop.
    assert_eq!(raw.arena.get(0, 16), [0xaa; 16]);
    assert_eq!(parse(&raw.arena.get(16, argument.read_consumed as usize - 16)), [Return::FailedReply]);
}

fn first_return_is_a_noop(env: &Env) {
    let mut end = End::open(env);
    leave_an_error(&mut end);
    let mut room = [0; 128];
    let (result, progress) = end.binder().write_read(&[], &mut room);
    assert_eq!(result, Ok(()));
    assert_eq!(parse(&room[..progress.read]), [Return::Noop, Return::FailedReply]);
}

fn write_buffer_at_a_bad_address(env: &Env) {
    let raw = Raw::new(env);
    raw.arena.unmap(0);
    raw.arena.protect(1, ProtFlags::PROT_NONE);
    for address in [0, 8, raw.arena.at(0), raw.arena.at(PAGE), 1 << 63, u64::MAX - 4] {
        assert_eq!(raw.write(address, 4), (Err(Errno::EFAULT), 0), "{address:#x}");
    }
    for address in [0, 8, raw.arena.at(0), raw.arena.at(PAGE), 1 << 63] {
        assert_eq!(raw.write(address, 1 << 62), (Err(Errno::EFAULT), 0), "{address:#x}");
    }
}

fn write_buffer_past_the_end_of_memory_is_empty(env: &Env) {
    let raw = Raw::new(env);
    for (address, size) in [(u64::MAX - 4, 1 << 62), (8, u64::MAX), (u64::MAX, 1)] {
        assert_eq!(raw.write(address, size), (Ok(0), 0), "{address:#x} {size:#x}");
    }
}

fn write_buffer_that_ends_at_a_hole(env: &Env) {
    let raw = Raw::new(env);
    raw.arena.unmap(1);
    let mut commands = Commands::new();
    commands.enter_looper().increfs(4711).exit_looper();
    let start = PAGE - commands.len();
    raw.arena.put(start, commands.bytes());
    // The three commands are taken; the fourth would stand in the hole.
    let (result, consumed) = raw.write(raw.arena.at(start), commands.len() as u64 + 4);
    assert_eq!((result, consumed), (Err(Errno::EFAULT), commands.len() as u64));

    // A command whose argument stands in the hole is not taken.
    let mut commands = Commands::new();
    commands.enter_looper().bare(uapi::BC_INCREFS);
    let start = PAGE - commands.len();
    raw.arena.put(start, commands.bytes());
    assert_eq!(raw.write(raw.arena.at(start), commands.len() as u64 + 4), (Err(Errno::EFAULT), 4));
}

fn write_buffer_cut_inside_a_command(env: &Env) {
    let raw = Raw::new(env);
    let mut commands = Commands::new();
    commands.enter_looper().increfs(4711).exit_looper();
    raw.arena.put(0, commands.bytes());
    // The size says where to stop, and a command that began before is taken whole.
    for (size, consumed) in [(1, 4), (4, 4), (5, 12), (8, 12), (11, 12), (12, 12), (13, 16)] {
        assert_eq!(raw.write(raw.arena.at(0), size), (Ok(0), consumed), "{size}");
    }
}

fn read_buffer_at_a_bad_address(env: &Env) {
    let mut raw = Raw::new(env);
    raw.arena.unmap(0);
    leave_an_error(&mut raw.end);
    for address in [0, 8, raw.arena.at(0), 1 << 63, u64::MAX - 255] {
        assert_eq!(raw.read(address, 256), (Err(Errno::EFAULT), 0), "{address:#x}");
    }
    raw.end.expect(&[Return::FailedReply]);
}

fn read_buffer_that_cannot_be_written(env: &Env) {
    let mut raw = Raw::new(env);
    leave_an_error(&mut raw.end);
    raw.arena.protect(0, ProtFlags::PROT_READ);
    assert_eq!(raw.read(raw.arena.at(0), 256), (Err(Errno::EFAULT), 0));
    raw.arena.protect(0, ProtFlags::PROT_NONE);
    assert_eq!(raw.read(raw.arena.at(0), 256), (Err(Errno::EFAULT), 0));
    raw.end.expect(&[Return::FailedReply]);
}

fn read_buffer_at_a_bad_address_keeps_the_work(env: &Env) {
    let mut pair = Pair::new(env);
    let call = Parcel::from_bytes(b"still here");
    pair.client.start(Call::new(pair.handle, 1, &call));
    let arena = Arena::new(2);
    arena.unmap(0);
    let mut argument = WriteRead { read_size: 256, read_buffer: arena.at(0), ..WriteRead::default() };
    assert_eq!(arena.write_read(pair.server.binder(), &mut argument), Err(Errno::EFAULT));
    assert_eq!(argument.read_consumed, 0);
    let received = pair.server.expect_transaction();
    assert_eq!(pair.server.take(&received).data, b"still here");
    pair.server.answer(&Parcel::new());
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
    pair.check();
}

fn read_buffer_that_ends_at_a_hole(env: &Env) {
    // There is room for the noop and not for the call, which fails in the middle of being told.
    let mut pair = Pair::new(env);
    let arena = Arena::new(2);
    arena.unmap(1);
    let call = Parcel::from_bytes(b"lost");
    pair.client.start(Call::new(pair.handle, 1, &call));
    let mut argument = WriteRead { read_size: 256, read_buffer: arena.at(PAGE - 4), ..WriteRead::default() };
    assert_eq!(arena.write_read(pair.server.binder(), &mut argument), Err(Errno::EFAULT));
    assert_eq!(argument.read_consumed, 0);
    // The caller is told, and the next call is not harmed.
    pair.client.expect(&[Return::TransactionComplete, Return::FailedReply]);
    pair.server.expect(&[]);
    pair.check();
}

fn read_buffer_too_small_for_a_transaction(env: &Env) {
    let mut pair = Pair::new(env);
    let call = Parcel::from_bytes(b"patience");
    pair.client.start(Call::new(pair.handle, 1, &call));
    // It takes room for the largest return, whether that comes or not.
    for size in [4, 8, 71, 72, 79] {
        let mut room = vec![0; size];
        let (result, progress) = pair.server.binder().write_read(&[], &mut room);
        assert_eq!((result, progress.read), (Ok(()), 4), "{size}");
        assert_eq!(parse(&room[..4]), [Return::Noop]);
    }
    let mut room = [0; 80];
    let (result, progress) = pair.server.binder().write_read(&[], &mut room);
    assert_eq!((result, progress.read), (Ok(()), 72));
    let [Return::Noop, Return::Transaction(received)] = parse(&room[..72])[..] else { panic!("not a call") };
    assert_eq!(pair.server.take(&received).data, b"patience");
    pair.server.answer(&Parcel::new());
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
}

fn read_of_less_than_a_return_stays_inside_its_room(env: &Env) {
    let mut raw = Raw::new(env);
    for size in 1..4 {
        leave_an_error(&mut raw.end);
        raw.arena.put(0, &[0xaa; 16]);
        let (result, consumed) = raw.read(raw.arena.at(0), size);
        let written = raw.arena.get(0, 16).iter().filter(|byte| **byte != 0xaa).count() as u64;
        let left = raw.end.drain();
        match env.driver(Difference::TinyRead) {
            Driver::Ours => {
                assert!(consumed <= size && written <= size, "{size}: {result:?}, {consumed} said, {written} written");
                assert_eq!(left, [Return::FailedReply]);
            }
            // Writes past the room it was given.
            Driver::C => assert_eq!((result, consumed, written, left), (Ok(0), 8, 8, vec![])),
        }
    }
}

fn argument_in_memory_that_cannot_be_written(env: &Env) {
    let arena = Arena::new(1);
    let binder = Binder::open(&env.device).expect("open");
    arena.protect(0, ProtFlags::PROT_READ);
    assert_eq!(hostile::ioctl_in(&binder, uapi::BINDER_WRITE_READ, &arena), Err(Errno::EFAULT));
    assert_eq!(hostile::ioctl_in(&binder, uapi::BINDER_VERSION, &arena), Err(Errno::EINVAL));
    arena.protect(0, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE);
    assert_eq!(hostile::ioctl_in(&binder, uapi::BINDER_WRITE_READ, &arena), Ok(0));
    assert_eq!(hostile::ioctl_in(&binder, uapi::BINDER_VERSION, &arena), Ok(0));
    assert_eq!(arena.get(0, 4), 8i32.to_ne_bytes());
}

fn first_ioctl_of_a_thread_does_not_wait(env: &Env) {
    let end = End::open(env);
    end.set_blocking(true);
    for _ in 0..2 {
        let mut room = [0; 128];
        let (result, progress) = end.binder().write_read(&[], &mut room);
        assert_eq!((result, progress.read), (Ok(()), 4));
        assert_eq!(parse(&room[..4]), [Return::Noop]);
        // The driver forgets the thread, and what comes next is its first ioctl again.
        assert_eq!(end.binder().thread_exit(), Ok(()));
    }
    // Any ioctl is a first one.
    assert_eq!(end.binder().version(), Ok(8));
    end.set_blocking(false);
    let (result, progress) = end.binder().write_read(&[], &mut [0; 128]);
    assert_eq!((result, progress.read), (Err(Errno::EAGAIN), 0));
}

fn nonblocking_read_is_eagain_after_the_write(env: &Env) {
    let end = End::open(env);
    assert_eq!(end.binder().version(), Ok(8));
    let mut commands = Commands::new();
    commands.enter_looper().increfs(4711);
    let (result, progress) = end.binder().write_read(commands.bytes(), &mut [0xaa; 128]);
    assert_eq!((result, progress.written, progress.read), (Err(Errno::EAGAIN), 12, 0));
}

fn commands_after_a_failed_transaction_wait(env: &Env) {
    let mut end = End::open(env);
    let empty = Parcel::new();
    let mut commands = Commands::new();
    commands.transaction(Call::new(4711, 1, &empty));
    let one = commands.len();
    commands.transaction(Call::new(4712, 1, &empty)).enter_looper();
    let (result, progress) = end.binder().write_read(commands.bytes(), &mut []);
    assert_eq!((result, progress.written), (Ok(()), one));
    end.expect(&[Return::FailedReply]);
    // In one ioctl with room to read: the error comes with it, and the rest is for the next.
    let mut room = [0; 256];
    let (result, progress) = end.binder().write_read(commands.bytes(), &mut room);
    assert_eq!((result, progress.written), (Ok(()), one));
    assert_eq!(parse(&room[..progress.read]), [Return::Noop, Return::FailedReply]);
    let (result, progress) = end.binder().write_read(&commands.bytes()[one..], &mut room);
    assert_eq!((result, progress.written), (Ok(()), one));
    assert_eq!(parse(&room[..progress.read]), [Return::Noop, Return::FailedReply]);
}

fn commands_wait_until_the_error_is_read(env: &Env) {
    let mut end = End::open(env);
    leave_an_error(&mut end);
    let mut commands = Commands::new();
    commands.enter_looper().bare(0xdead_beef);
    // Not even a command that does not exist is looked at.
    assert_eq!(end.binder().write_read(commands.bytes(), &mut []), (Ok(()), Progress::default()));
    end.expect(&[Return::FailedReply]);
    let (result, progress) = end.binder().write_read(commands.bytes(), &mut []);
    assert_eq!((result, progress.written), (Err(Errno::EINVAL), 4));
}

/// What a thread that waits for work sees of a signal.
fn interrupted(env: &Env, restart: bool, commands: &Commands<'_>) -> (nix::Result<()>, Progress) {
    hostile::handle_signal(Signal::SIGUSR1, restart);
    let (pid, thread) = (nix::unistd::getpid(), process::thread_id());
    let peer = Peer::start(env, |_, _| {
        until_in_ioctl(pid.as_raw(), thread);
        kill(pid, Signal::SIGUSR1).expect("kill");
    });
    // Opened after the fork: a copy closed in the other process would make the first read return.
    let binder = Arc::new(Binder::open(&env.device).expect("open"));
    assert_eq!(binder.version(), Ok(8));
    let mut room = [0; 256];
    let result = binder.write_read(commands.bytes(), &mut room);
    assert_eq!(hostile::signals_handled(), 1);
    peer.join();
    // The thread is as good as before.
    let mut looper = Looper::new(binder);
    assert_eq!(looper.call(Call::new(4711, 1, &Parcel::new())), Err(Error::Failed));
    result
}

fn signal_interrupts_a_read(env: &Env) {
    let (result, progress) = interrupted(env, false, Commands::new().enter_looper());
    assert_eq!(result, Err(Errno::EINTR));
    assert_eq!(progress, Progress { written: 4, read: 0 });
}

fn signal_with_restart_interrupts_a_read(env: &Env) {
    // The driver says so itself and leaves nothing for the kernel to restart.
    let (result, progress) = interrupted(env, true, Commands::new().enter_looper());
    assert_eq!(result, Err(Errno::EINTR));
    assert_eq!(progress, Progress { written: 4, read: 0 });
}

fn call_after_a_signal_goes_to_a_thread_that_reads(env: &Env) {
    let mut pair = Pair::new(env);
    // Nothing is left to read.
    pair.check();
    hostile::handle_signal(Signal::SIGUSR1, false);
    let binder = pair.server.binder().clone();
    pair.server.set_blocking(true);
    let (say, hear) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let waiting = std::thread::spawn(move || {
        assert_eq!(binder.version(), Ok(8));
        say.send(process::thread_id()).expect("the receiver is there");
        let result = binder.write_read(Commands::new().enter_looper().bytes(), &mut [0; 256]).0;
        // It does not come back, and does not leave either.
        say.send(0).expect("the receiver is there");
        let _ = ended.recv();
        result
    });
    let thread = hear.recv().expect("the thread is there");
    until_in_ioctl(nix::unistd::getpid().as_raw(), thread);
    hostile::signal_thread(thread, Signal::SIGUSR1);
    hear.recv().expect("the thread was interrupted");
    pair.server.set_blocking(false);
    for _ in 0..2 {
        pair.check();
    }
    drop(end);
    assert_eq!(waiting.join().expect("the thread is well"), Err(Errno::EINTR));
}

fn signal_after_a_write_keeps_what_was_written(env: &Env) {
    let (result, progress) =
        interrupted(env, false, Commands::new().enter_looper().increfs(4711).free_buffer(1).exit_looper());
    assert_eq!(result, Err(Errno::EINTR));
    assert_eq!(progress, Progress { written: 28, read: 0 });
}

fn signal_while_a_call_is_out(env: &Env) {
    let mut pair = Pair::new(env);
    hostile::handle_signal(Signal::SIGUSR1, false);
    let (pid, handle) = (nix::unistd::getpid(), pair.handle);
    let binder = pair.client.binder().clone();
    pair.client.set_blocking(true);
    let (say, hear) = std::sync::mpsc::channel();
    let calling = std::thread::spawn(move || {
        say.send(process::thread_id()).expect("the receiver is there");
        assert_eq!(binder.version(), Ok(8));
        let empty = Parcel::new();
        let mut commands = Commands::new();
        commands.transaction(Call::new(handle, 1, &empty));
        let interrupted = binder.write_read(commands.bytes(), &mut [0; 256]);
        // The call is out; what comes of it comes with the next read.
        let mut looper = Looper::new(binder);
        (interrupted, commands.len(), looper.next(), looper.next())
    });
    let thread = hear.recv().expect("the thread is there");
    let received = pair.server.wait_transaction();
    until_in_ioctl(pid.as_raw(), thread);
    hostile::signal_thread(thread, Signal::SIGUSR1);
    crate::fixture::until(|| hostile::signals_handled() == 1);
    until_in_ioctl(pid.as_raw(), thread);
    pair.server.give_back(&received);
    pair.server.answer(&Parcel::from_bytes(b"in spite of it"));
    let (interrupted, written, first, second) = calling.join().expect("the thread is well");
    assert_eq!(interrupted, (Err(Errno::EINTR), Progress { written, read: 0 }));
    assert_eq!(first, Ok(Return::TransactionComplete));
    assert!(matches!(second, Ok(Return::Reply(_))), "{second:?}");
}

fn killed_in_a_read(env: &Env) {
    for _ in 0..3 {
        let mut peer = Peer::start(env, |env, line| {
            let binder = Binder::open_mapped(&env.device, 1 << 20).expect("open");
            line.say(0).expect("the test is there");
            let _ = Looper::new(Arc::new(binder)).next();
            panic!("there was nothing to read");
        });
        peer.hear();
        until_in_ioctl(peer.pid(), peer.pid());
        peer.kill();
    }
    Pair::new(env).check();
}

/// The time that a process has spent in the kernel, in ticks.
fn system_time(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    fields.split(' ').nth(12).expect("a time").parse().expect("a number")
}

fn killed_in_a_write(env: &Env) {
    // So many that the process is killed long before they are carried out.
    const COMMANDS: usize = 16 << 20;

    let mut manager = End::open(env);
    become_manager(manager.binder());
    let mut peer = Peer::start(env, |env, line| {
        let end = End::open(env);
        let empty = Parcel::new();
        let call = Call::new(0, 1, &empty).with_flags(uapi::TF_ONE_WAY);
        let mut last = Commands::new();
        last.command(uapi::BC_TRANSACTION, &call.data());
        let mut commands = uapi::BC_ENTER_LOOPER.to_ne_bytes().repeat(COMMANDS);
        commands.extend_from_slice(last.bytes());
        line.say(0).expect("the test is there");
        let _ = end.binder().write_read(&commands, &mut []);
        // Nothing but the kill ends this process.
        let _ = line.hear();
    });
    peer.hear();
    let before = system_time(peer.pid());
    until(|| system_time(peer.pid()) > before + 2);
    peer.kill();
    let got = manager.drain();
    match env.driver(Difference::KilledWriter) {
        Driver::Ours => assert_eq!(got, []),
        Driver::C => assert!(matches!(got[..], [Return::Transaction(_)]), "not the call: {got:x?}"),
    }
}
