// SPDX-License-Identifier: GPL-2.0

//! The mapping: mmap arguments, and mappings that are split, moved and emptied.

use std::os::fd::AsFd;

use binder_client::Binder;
use binder_client::Call;
use binder_client::Mapping;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::process::Child;
use binder_client::uapi::TransactionData;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;
use nix::sys::mman::MmapAdvise;
use nix::sys::mman::ProtFlags;
use nix::sys::wait::WaitStatus;

use super::tests;
use super::transaction::pattern;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Registry;
use crate::hostile;
use crate::hostile::PAGE;
use crate::hostile::Torn;

tests! { Core, "mapping":
    second_mapping_is_ebusy,
    second_mapping_after_unmapping,
    writable_mapping_is_eperm,
    mapping_from_an_offset,
    shared_and_private_mappings,
    populated_and_locked_mappings,
    executable_mapping,
    read_only_file_can_be_mapped,
    mprotect_cannot_make_it_writable,
    mprotect_none_and_back,
    mremap_cannot_stretch_or_double_it,
    unused_parts_cannot_be_read,
    kernel_cannot_be_made_to_write_it,
    kernel_reads_it_like_memory,
    not_inherited_by_a_child,
    dontneed_and_read,
    dontneed_of_everything_between_calls,
    dontneed_of_what_was_given_back,
    moved_mapping,
    moved_mapping_with_a_buffer_in_it,
    moved_in_two_pieces,
    hole_in_the_middle,
    unmapped_while_open,
    unmapped_with_a_buffer_in_it,
    unmapped_while_a_call_waits,
    closed_while_mapped,
}

fn map(binder: &Binder, prot: ProtFlags, flags: MapFlags, offset: i64) -> nix::Result<Mapping> {
    Mapping::with(binder.as_fd(), 16 * PAGE, prot, flags, offset)
}

const READ: ProtFlags = ProtFlags::PROT_READ;

fn second_mapping_is_ebusy(env: &Env) {
    let end = End::open(env);
    assert_eq!(map(end.binder(), READ, MapFlags::MAP_PRIVATE, 0).err(), Some(Errno::EBUSY));
    assert_eq!(map(end.binder(), READ, MapFlags::MAP_SHARED, 4096).err(), Some(Errno::EBUSY));
}

fn second_mapping_after_unmapping(env: &Env) {
    let binder = Binder::open(&env.device).expect("open");
    drop(map(&binder, READ, MapFlags::MAP_PRIVATE, 0).expect("mmap"));
    assert_eq!(map(&binder, READ, MapFlags::MAP_PRIVATE, 0).err(), Some(Errno::EBUSY));
}

fn writable_mapping_is_eperm(env: &Env) {
    let binder = Binder::open(&env.device).expect("open");
    for flags in [MapFlags::MAP_PRIVATE, MapFlags::MAP_SHARED] {
        for prot in [READ | ProtFlags::PROT_WRITE, ProtFlags::PROT_WRITE] {
            assert_eq!(map(&binder, prot, flags, 0).err(), Some(Errno::EPERM), "{prot:?} {flags:?}");
        }
    }
    // The refusals have used nothing up.
    assert!(map(&binder, READ, MapFlags::MAP_PRIVATE, 0).is_ok());
}

/// A server whose mapping is read through the kernel only, and its client.
fn torn(env: &Env, len: usize) -> (Pair, Torn) {
    let registry = Registry::start(env);
    let server = End::open_unmapped(env);
    let torn = Torn::map(server.binder().as_fd(), len);
    (Pair::at(registry, End::open(env), server.enter()), torn)
}

/// A call arrives; where, and with what in it.
#[track_caller]
fn arrives(pair: &mut Pair, bytes: &[u8]) -> (TransactionData, nix::Result<Vec<u8>>) {
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(bytes)));
    let received = pair.server.expect_transaction();
    assert_eq!(received.data_size, bytes.len() as u64);
    (received, hostile::peek(received.buffer, bytes.len()))
}

#[track_caller]
fn finish(pair: &mut Pair, received: &TransactionData) {
    pair.server.give_back(received);
    pair.server.answer(&Parcel::new());
    let reply = pair.client.expect_reply();
    pair.client.give_back(&reply);
}

/// A call does not arrive: the caller hears this.
#[track_caller]
fn fails(pair: &mut Pair, with: Return) {
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(b"into the void")));
    pair.client.expect(&[with]);
    pair.server.expect(&[]);
}

fn mapping_from_an_offset(env: &Env) {
    // As far as a program of either width can ask.
    let far = if cfg!(target_pointer_width = "64") { 1i64 << 40 } else { 1 << 30 };
    for offset in [4096, 1 << 20, far] {
        let registry = Registry::start(env);
        let mut binder = Binder::open_with(&env.device, nix::libc::O_NONBLOCK).expect("open");
        let mapping = map(&binder, READ, MapFlags::MAP_PRIVATE, offset).expect("mmap");
        binder.replace_mapping(Some(mapping));
        let mut pair = Pair::at(registry, End::open(env), End::over(binder).enter());
        for size in [10, 3 * PAGE, 16 * PAGE] {
            let bytes = pattern(size, 1);
            let (there, _) = pair.round(&Parcel::from_bytes(&bytes), &Parcel::new());
            assert!(there.data == bytes, "{size} bytes, mapped from {offset}");
        }
        drop(pair);
    }
}

fn kinds(env: &Env, prot: ProtFlags, flags: MapFlags) {
    let registry = Registry::start(env);
    let mut binder = Binder::open_with(&env.device, nix::libc::O_NONBLOCK).expect("open");
    let mapping = map(&binder, prot, flags, 0).expect("mmap");
    binder.replace_mapping(Some(mapping));
    let mut pair = Pair::at(registry, End::open(env), End::over(binder).enter());
    let bytes = pattern(3 * PAGE, 1);
    let (there, _) = pair.round(&Parcel::from_bytes(&bytes), &Parcel::new());
    assert!(there.data == bytes, "{flags:?}");
}

fn shared_and_private_mappings(env: &Env) {
    kinds(env, READ, MapFlags::MAP_PRIVATE);
    kinds(env, READ, MapFlags::MAP_SHARED);
    kinds(env, READ, MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE);
}

fn populated_and_locked_mappings(env: &Env) {
    kinds(env, READ, MapFlags::MAP_PRIVATE | MapFlags::MAP_POPULATE);
    kinds(env, READ, MapFlags::MAP_PRIVATE | MapFlags::MAP_LOCKED);
}

fn executable_mapping(env: &Env) {
    kinds(env, READ | ProtFlags::PROT_EXEC, MapFlags::MAP_PRIVATE);
}

fn read_only_file_can_be_mapped(env: &Env) {
    let file = std::fs::OpenOptions::new().read(true).open(&env.device).expect("open");
    let binder = Binder::from_file(file);
    assert_eq!(map(&binder, READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE, 0).err(), Some(Errno::EPERM));
    assert!(map(&binder, READ, MapFlags::MAP_PRIVATE, 0).is_ok());
}

fn mprotect_cannot_make_it_writable(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    for prot in [ProtFlags::PROT_WRITE, READ | ProtFlags::PROT_WRITE] {
        assert_eq!(torn.protect(0..8, prot), Err(Errno::EACCES));
        assert_eq!(torn.protect(3..4, prot), Err(Errno::EACCES));
    }
    let (received, bytes) = arrives(&mut pair, &pattern(5 * PAGE, 1));
    assert!(bytes == Ok(pattern(5 * PAGE, 1)));
    assert_eq!(torn.protect(0..8, READ | ProtFlags::PROT_WRITE), Err(Errno::EACCES));
    finish(&mut pair, &received);
}

fn mprotect_none_and_back(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    let (received, _) = arrives(&mut pair, &pattern(5 * PAGE, 1));
    assert_eq!(torn.protect(1..2, ProtFlags::PROT_NONE), Ok(()));
    assert_eq!(torn.protect(1..2, READ), Ok(()));
    assert!(hostile::peek(received.buffer, 5 * PAGE) == Ok(pattern(5 * PAGE, 1)));
    finish(&mut pair, &received);
    // The driver puts what arrives behind a page that cannot be read for now.
    assert_eq!(torn.protect(0..8, ProtFlags::PROT_NONE), Ok(()));
    let (received, bytes) = arrives(&mut pair, &pattern(5 * PAGE, 2));
    assert_eq!(bytes, Err(Errno::EFAULT));
    assert_eq!(torn.protect(0..8, READ), Ok(()));
    assert!(hostile::peek(received.buffer, 5 * PAGE) == Ok(pattern(5 * PAGE, 2)));
    finish(&mut pair, &received);
}

fn mremap_cannot_stretch_or_double_it(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    let grown = torn.stretch(8 * PAGE, 16 * PAGE);
    match env.driver(Difference::GrownMapping) {
        Driver::Ours => assert_eq!(grown, Err(Errno::EFAULT)),
        // It may have moved on that way, and nothing more can be asked of it.
        Driver::C => return assert_eq!(grown, Ok(())),
    }
    // A second view of the same pages, which a mapping that is not private could have.
    assert_eq!(torn.stretch(0, 8 * PAGE), Err(Errno::EINVAL));
    let (received, bytes) = arrives(&mut pair, b"all is well");
    assert_eq!(bytes, Ok(b"all is well".to_vec()));
    finish(&mut pair, &received);
}

fn unused_parts_cannot_be_read(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    // The first page was used when the two met.
    let (received, _) = arrives(&mut pair, &pattern(PAGE, 1));
    let used = (received.buffer - torn.at(0)) as usize / PAGE;
    for page in (1..8).filter(|page| *page != used) {
        assert_eq!(hostile::peek(torn.at(page * PAGE), 1), Err(Errno::EFAULT), "page {page}");
    }
    finish(&mut pair, &received);
}

fn kernel_cannot_be_made_to_write_it(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    let (received, _) = arrives(&mut pair, b"as it was");
    let zero = std::fs::File::open("/dev/zero").expect("/dev/zero");
    for address in [received.buffer, torn.at(7 * PAGE)] {
        assert_eq!(hostile::read_to(&zero, address, 8), Err(Errno::EFAULT));
    }
    assert_eq!(hostile::peek(received.buffer, 9), Ok(b"as it was".to_vec()));
    finish(&mut pair, &received);
}

fn kernel_reads_it_like_memory(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    let (received, _) = arrives(&mut pair, &pattern(2 * PAGE, 1));
    let (read, write) = nix::unistd::pipe().expect("pipe");
    assert_eq!(hostile::write_from(&write, received.buffer, 2 * PAGE), Ok(2 * PAGE));
    let mut bytes = vec![0; 2 * PAGE];
    assert_eq!(nix::unistd::read(&read, &mut bytes), Ok(2 * PAGE));
    assert!(bytes == pattern(2 * PAGE, 1));
    // A received buffer can be what is sent on.
    let onward = TransactionData {
        target: binder_client::uapi::in_union(pair.handle),
        buffer: received.buffer,
        data_size: received.data_size,
        flags: 1,
        ..TransactionData::default()
    };
    assert!(torn.contains(onward.buffer));
    pair.client.queue().command(binder_client::uapi::BC_TRANSACTION, &onward);
    pair.client.flush().expect("BC_TRANSACTION");
    // Its own, and that of the call that is still out.
    pair.client.expect(&[Return::TransactionComplete, Return::TransactionComplete]);
    pair.server.give_back(&received);
    pair.server.start_reply(Call::reply(&Parcel::new()));
    let [Return::Reply(reply)] = pair.client.drain()[..] else { panic!("not a reply") };
    pair.client.give_back(&reply);
    let [Return::TransactionComplete, Return::Transaction(again)] = pair.server.drain()[..] else {
        panic!("not a completion and a call")
    };
    assert!(hostile::peek(again.buffer, 2 * PAGE) == Ok(pattern(2 * PAGE, 1)));
    pair.server.give_back(&again);
}

fn not_inherited_by_a_child(env: &Env) {
    let (mut pair, _torn) = torn(env, 8 * PAGE);
    let (received, bytes) = arrives(&mut pair, b"mine alone");
    assert_eq!(bytes, Ok(b"mine alone".to_vec()));
    let mut child = Child::spawn(|| {
        assert_eq!(hostile::peek(received.buffer, 10), Err(Errno::EFAULT));
        0
    })
    .expect("fork");
    assert!(matches!(child.wait(), Ok(WaitStatus::Exited(_, 0))));
    // The child's end made reads return, and the completion of the call that is out came with it.
    pair.client.drain();
    pair.server.drain();
    assert_eq!(hostile::peek(received.buffer, 10), Ok(b"mine alone".to_vec()));
    pair.server.give_back(&received);
    pair.server.answer(&Parcel::new());
    assert!(matches!(pair.client.drain()[..], [.., Return::Reply(_)]));
}

fn dontneed_and_read(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    let (received, _) = arrives(&mut pair, &pattern(5 * PAGE, 1));
    assert_eq!(torn.advise(0..8, MmapAdvise::MADV_DONTNEED), Ok(()));
    let again = hostile::peek(received.buffer, 5 * PAGE);
    match env.driver(Difference::Dontneed) {
        Driver::Ours => assert!(again == Ok(pattern(5 * PAGE, 1))),
        Driver::C => assert_eq!(again, Err(Errno::EFAULT)),
    }
    finish(&mut pair, &received);
}

fn dontneed_of_everything_between_calls(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    for turn in 0..10 {
        let (received, bytes) = arrives(&mut pair, &pattern(5 * PAGE, turn));
        if turn == 0 || env.driver(Difference::Dontneed) == Driver::Ours {
            assert!(bytes == Ok(pattern(5 * PAGE, turn)));
        } else {
            assert_eq!(bytes, Err(Errno::EFAULT));
        }
        finish(&mut pair, &received);
        assert_eq!(torn.advise(0..8, MmapAdvise::MADV_DONTNEED), Ok(()));
    }
}

fn dontneed_of_what_was_given_back(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    let (received, _) = arrives(&mut pair, &pattern(5 * PAGE, 1));
    finish(&mut pair, &received);
    assert_eq!(torn.advise(0..8, MmapAdvise::MADV_DONTNEED), Ok(()));
    // Its pages may be gone at any time, so touching them does not bring them back.
    for page in 0..8 {
        assert_eq!(hostile::peek(torn.at(page * PAGE), 1), Err(Errno::EFAULT), "page {page}");
    }
}

fn moved_mapping(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    let (received, _) = arrives(&mut pair, &pattern(5 * PAGE, 0));
    finish(&mut pair, &received);
    let moved = torn.move_away(0..8).expect("mremap");
    if env.driver(Difference::MovedMapping) == Driver::C {
        return fails(&mut pair, Return::DeadReply);
    }
    for turn in 1..10 {
        let (received, bytes) = arrives(&mut pair, &pattern(turn * 3000, turn as u32));
        assert!(moved.contains(received.buffer));
        assert!(bytes == Ok(pattern(turn * 3000, turn as u32)));
        finish(&mut pair, &received);
    }
    super::transaction::whole_of(&mut pair, 8 * PAGE);
}

fn moved_mapping_with_a_buffer_in_it(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    let (mut received, _) = arrives(&mut pair, &pattern(5 * PAGE, 1));
    let moved = torn.move_away(0..8).expect("mremap");
    assert_eq!(hostile::peek(received.buffer, 1), Err(Errno::EFAULT));
    let new = moved.at((received.buffer - torn.at(0)) as usize);
    assert!(hostile::peek(new, 5 * PAGE) == Ok(pattern(5 * PAGE, 1)));
    match env.driver(Difference::MovedMapping) {
        Driver::Ours => {
            // Its name is where it stands now.
            received.buffer = new;
            finish(&mut pair, &received);
            super::transaction::whole_of(&mut pair, 8 * PAGE);
        }
        Driver::C => {
            finish(&mut pair, &received);
            fails(&mut pair, Return::DeadReply);
        }
    }
}

fn moved_in_two_pieces(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    let moved = torn.move_away(4..8).expect("mremap");
    if env.driver(Difference::MovedMapping) == Driver::C {
        return fails(&mut pair, Return::DeadReply);
    }
    let wanted = pattern(8 * PAGE, 1);
    for _ in 0..3 {
        let (received, bytes) = arrives(&mut pair, &wanted);
        // It cannot be read in one piece: the second half is where it was moved.
        assert_eq!(bytes, Err(Errno::EFAULT));
        assert_eq!(received.buffer, torn.at(0));
        assert!(hostile::peek(torn.at(0), 4 * PAGE).as_deref() == Ok(&wanted[..4 * PAGE]));
        assert!(hostile::peek(moved.at(0), 4 * PAGE).as_deref() == Ok(&wanted[4 * PAGE..]));
        finish(&mut pair, &received);
    }
}

fn hole_in_the_middle(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    torn.unmap(3..5);
    if env.driver(Difference::MovedMapping) == Driver::C {
        return fails(&mut pair, Return::DeadReply);
    }
    let wanted = pattern(8 * PAGE, 1);
    for _ in 0..3 {
        let (received, bytes) = arrives(&mut pair, &wanted[..3 * PAGE]);
        assert!(bytes.as_deref() == Ok(&wanted[..3 * PAGE]));
        finish(&mut pair, &received);
        let (received, bytes) = arrives(&mut pair, &wanted);
        assert_eq!(bytes, Err(Errno::EFAULT));
        assert!(hostile::peek(torn.at(5 * PAGE), 3 * PAGE).as_deref() == Ok(&wanted[5 * PAGE..]));
        finish(&mut pair, &received);
    }
}

fn unmapped_while_open(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    let (received, _) = arrives(&mut pair, &pattern(5 * PAGE, 1));
    finish(&mut pair, &received);
    torn.unmap(0..8);
    for _ in 0..3 {
        fails(&mut pair, Return::DeadReply);
    }
    // It can still call others, which cannot answer with anything.
    assert_eq!(pair.server.binder().version(), Ok(8));
}

fn unmapped_with_a_buffer_in_it(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    let (received, _) = arrives(&mut pair, &pattern(5 * PAGE, 1));
    torn.unmap(0..8);
    assert_eq!(hostile::peek(received.buffer, 1), Err(Errno::EFAULT));
    finish(&mut pair, &received);
    fails(&mut pair, Return::DeadReply);
}

fn unmapped_while_a_call_waits(env: &Env) {
    let (mut pair, torn) = torn(env, 8 * PAGE);
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&pattern(5 * PAGE, 1))));
    torn.unmap(0..8);
    // It is told all the same, and cannot be read.
    let received = pair.server.expect_transaction();
    assert_eq!(hostile::peek(received.buffer, 1), Err(Errno::EFAULT));
    finish(&mut pair, &received);
    fails(&mut pair, Return::DeadReply);
}

fn closed_while_mapped(env: &Env) {
    let (pair, torn) = torn(env, 8 * PAGE);
    let Pair { mut client, server, handle, registry } = pair;
    client.start(Call::one_way(handle, 1, &Parcel::from_bytes(&pattern(PAGE, 1))));
    // The mapping keeps the file: nothing is over until it is gone too.
    drop(server);
    client.expect(&[Return::TransactionComplete]);
    client.start(Call::one_way(handle, 1, &Parcel::new()));
    client.expect(&[Return::TransactionComplete]);
    torn.unmap(0..8);
    crate::fixture::until(|| {
        client.start(Call::one_way(handle, 1, &Parcel::new()));
        client.drain() == [Return::DeadReply]
    });
    drop(registry);
}
