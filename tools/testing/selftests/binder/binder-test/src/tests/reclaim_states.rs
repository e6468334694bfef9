// SPDX-License-Identifier: GPL-2.0

//! Reclaim of unused pages in each state of their process and mapping.
//!
//! Each test brings a process into one state, runs the shrinkers, and prints how many of its pages were freed.
//! `scripts/reclaim-table` makes a table of that for both drivers.

use std::os::fd::AsFd;

use binder_client::Call;
use binder_client::Parcel;
use binder_client::object;
use binder_client::uapi;
use binder_client::uapi::TransactionData;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::reclaim::squeeze;
use super::tests;
use super::transaction::pattern;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Peer;
use crate::fixture::Registry;
use crate::fixture::until;
use crate::hostile;
use crate::hostile::Aio;
use crate::hostile::Arena;
use crate::hostile::PAGE;
use crate::hostile::Stalled;
use crate::hostile::Torn;
use crate::kernel::Freed;
use crate::slow_file;
use crate::slow_file::SlowFile;

tests! { Reclaim, "reclaim_states":
    untouched,
    moved,
    split,
    partly_unmapped,
    wholly_unmapped,
    wholly_unmapped_and_something_else_there,
    exiting,
    exited_with_the_file_open_elsewhere,
    mapping_locked_by_a_fork,
    allocation_in_progress,
    behind_unfreeable_pages,
    behind_pages_that_are_used_again,
}

/// The pages of a holder's mapping.
const PAGES: usize = 64;
/// How often the kernel is asked. What one time leaves behind is not skipped.
const TIMES: usize = 5;

/// What a holder can be told.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
enum Deed {
    /// Take a call that fills the whole mapping.
    Take,
    /// Say how many pages of the mapping are in the page table.
    Count,
    /// Move the whole mapping.
    Move,
    /// Move the middle of it.
    Split,
    /// Unmap its last page.
    Cut,
    /// Unmap it.
    Unmap,
    /// Unmap it and have other memory where it was.
    Replace,
    /// Give the test the open file and end.
    Leave,
    /// Have a request out that is not answered.
    Request,
    /// Fork, with much memory to be copied after the mapping.
    Fork,
}

const DEEDS: [Deed; 10] = [
    Deed::Take,
    Deed::Count,
    Deed::Move,
    Deed::Split,
    Deed::Cut,
    Deed::Unmap,
    Deed::Replace,
    Deed::Leave,
    Deed::Request,
    Deed::Fork,
];

/// A process behind whose mapping there are pages that it does not use.
struct Holder {
    peer: Peer,
}

/// How much a holder that is told to fork has to copy.
const BULK_PAGES: usize = 60_000;

impl Holder {
    /// Starts it and has every page of its mapping be filled by a call, read, and given back.
    #[track_caller]
    fn start(
        env: &Env,
        registry: &Registry,
        client: &mut End,
        number: u32,
        pages: usize,
        slow: Option<&SlowFile>,
    ) -> Self {
        let path = slow.map(|slow| slow.path().to_owned());
        let peer = Peer::start(env, |env, line| {
            // Above the mapping, so that it comes after it wherever the kernel goes through both.
            let bulk = Arena::new(BULK_PAGES);
            let mut server = End::open_unmapped(env);
            let torn = Torn::map(server.binder().as_fd(), pages * PAGE);
            assert!(torn.at(0) < bulk.at(0));
            registry.put(&mut server, number, object::binder(8, 8));
            let mut server = server.enter();
            let mut pieces = vec![(torn.at(0), pages * PAGE)];
            line.say(0).expect("the test is there");
            while let Ok(deed) = line.hear() {
                match DEEDS[deed as usize] {
                    Deed::Take => {
                        let received = server.wait_transaction();
                        assert!(hostile::peek(torn.at(0), pages * PAGE) == Ok(pattern(pages * PAGE, number)));
                        server.give_back(&received);
                        server.answer(&Parcel::new());
                    }
                    Deed::Count => {
                        let count = |(address, len): &(u64, usize)| super::reclaim::count(*address, *len);
                        line.say(pieces.iter().map(count).sum::<usize>() as u64).expect("the test is there");
                        continue;
                    }
                    Deed::Move => pieces = vec![(torn.move_away(0..pages).expect("mremap").at(0), pages * PAGE)],
                    Deed::Split => {
                        let moved = torn.move_away(20..40).expect("mremap");
                        pieces = vec![
                            (torn.at(0), 20 * PAGE),
                            (moved.at(0), 20 * PAGE),
                            (torn.at(40 * PAGE), (pages - 40) * PAGE),
                        ];
                    }
                    Deed::Cut => {
                        torn.unmap(pages - 1..pages);
                        pieces = vec![(torn.at(0), (pages - 1) * PAGE)];
                    }
                    Deed::Unmap => {
                        torn.unmap(0..pages);
                        pieces.clear();
                    }
                    Deed::Replace => {
                        torn.replace();
                        pieces.clear();
                    }
                    Deed::Leave => return,
                    Deed::Request => {
                        let file = slow_file::open(path.as_deref().expect("a slow file"));
                        let aio = Aio::new().expect("io_setup");
                        let to = Arena::new(1);
                        aio.read(&file, &to, PAGE).expect("io_submit");
                        line.say(0).expect("the test is there");
                        let _ = line.hear();
                        // It does not get here: the request is not answered.
                        std::mem::forget(to);
                    }
                    Deed::Fork => {
                        bulk.fill();
                        // The test squeezes between these two, as often as it can.
                        line.say(0).expect("the test is there");
                        let mut child = binder_client::process::Child::spawn(|| 0).expect("fork");
                        line.say(1).expect("the test is there");
                        child.wait().expect("wait");
                        continue;
                    }
                }
                line.say(0).expect("the test is there");
            }
        });
        peer.hear();
        let holder = Self { peer };
        holder.fill(registry, client, number, pages);
        holder
    }

    /// A call that fills the whole mapping, and is over.
    #[track_caller]
    fn fill(&self, registry: &Registry, client: &mut End, number: u32, pages: usize) {
        self.peer.say(Deed::Take as u64);
        let handle = registry.get(client, number);
        let parcel = Parcel::from_bytes(&pattern(pages * PAGE, number));
        let reply = client.blocking(|looper| looper.call(Call::new(handle, 1, &parcel))).expect("a reply");
        client.give_back(&reply);
        self.peer.hear();
    }

    #[track_caller]
    fn tell(&self, deed: Deed) -> u64 {
        self.peer.say(deed as u64);
        self.peer.hear()
    }

    fn pid(&self) -> i32 {
        self.peer.pid()
    }
}

/// What reclaim made of a holder's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Result {
    /// All of them.
    pages: u64,
    /// The driver has let go of so many.
    let_go: u64,
    /// So many are still in the page table.
    mapped: u64,
}

impl Result {
    /// What the driver has let go of and is still mapped is not free.
    fn freed(self) -> u64 {
        self.let_go.min(self.pages - self.mapped)
    }
}

/// Everything a case starts from.
struct Case<'a> {
    env: &'a Env,
    registry: Registry,
    client: End,
}

impl<'a> Case<'a> {
    fn new(env: &'a Env) -> Self {
        Self { env, registry: Registry::start(env), client: End::open(env) }
    }

    #[track_caller]
    fn holder(&mut self, number: u32, pages: usize) -> Holder {
        Holder::start(self.env, &self.registry, &mut self.client, number, pages, None)
    }
}

#[track_caller]
fn report(case: &str, result: Result) {
    let Result { pages, let_go, mapped } = result;
    println!("{let_go} of {pages} pages let go of, {mapped} still mapped");
    println!("reclaim | {case} | {pages} | {}", result.freed());
}

/// Squeezes, and says how many of a process's pages went. On our driver, which does not tell whose pages they were, the
/// listing does.
#[track_caller]
fn squeezed(env: &Env, pid: i32, pages: usize, mapped: impl FnOnce() -> u64) -> Result {
    let freed = Freed::from_now(env);
    let before = unused(env, pid, pages);
    for _ in 0..TIMES {
        squeeze();
    }
    let let_go = match env.driver {
        Driver::Ours => before - unused(env, pid, pages),
        Driver::C => freed.of(pid),
    };
    Result { pages: pages as u64, let_go, mapped: mapped() }
}

fn unused(env: &Env, pid: i32, pages: usize) -> u64 {
    match env.driver {
        Driver::Ours => crate::kernel::pages_behind(env, pid, pages).unused as u64,
        Driver::C => 0,
    }
}

/// One deed, and reclaim after it.
#[track_caller]
fn after(env: &Env, name: &str, deed: Option<Deed>, c_skips: bool) {
    let mut case = Case::new(env);
    let holder = case.holder(1, PAGES);
    if let Some(deed) = deed {
        holder.tell(deed);
    }
    let result = squeezed(env, holder.pid(), PAGES, || holder.tell(Deed::Count));
    report(name, result);
    match env.driver(Difference::SkippedReclaim) {
        // The one page that is not mapped any more.
        Driver::C if c_skips => assert!(result.freed() <= 1, "{result:?}"),
        _ => assert_eq!((result.let_go, result.mapped), (PAGES as u64, 0)),
    }
}

fn untouched(env: &Env) {
    after(env, "mapped once and left alone", None, false);
}

fn moved(env: &Env) {
    after(env, "mapping moved", Some(Deed::Move), true);
}

fn split(env: &Env) {
    after(env, "mapping split, its middle moved", Some(Deed::Split), true);
}

fn partly_unmapped(env: &Env) {
    after(env, "last page of the mapping unmapped", Some(Deed::Cut), true);
}

fn wholly_unmapped(env: &Env) {
    after(env, "unmapped, the file still open", Some(Deed::Unmap), false);
}

fn wholly_unmapped_and_something_else_there(env: &Env) {
    after(env, "unmapped, the file still open, other memory in its place", Some(Deed::Replace), true);
}

/// Whether a process is about to give up its memory and waits for its requests. Files that tell of the memory are not
/// read: the reader holds the mm for a moment, and if it drops the last reference, waits in place of the process.
fn waits_for_requests(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stack")).is_ok_and(|stack| stack.contains("exit_aio"))
}

fn exiting(env: &Env) {
    let slow = SlowFile::mount(env);
    let mut case = Case::new(env);
    let holder = Holder::start(env, &case.registry, &mut case.client, 1, PAGES, Some(&slow));
    holder.peer.say(Deed::Request as u64);
    slow.answer_first_write();
    let request = slow.take();
    holder.peer.hear();
    // Nothing of it is unmapped before its requests are answered.
    kill(Pid::from_raw(holder.pid()), Signal::SIGKILL).expect("kill");
    until(|| waits_for_requests(holder.pid()));
    let result = squeezed(env, holder.pid(), PAGES, || 0);
    report("killed, and its memory about to go", result);
    match env.driver(Difference::SkippedReclaim) {
        Driver::Ours => assert_eq!(result.let_go, PAGES as u64),
        Driver::C => assert_eq!(result.let_go, 0),
    }
    slow.finish(request);
    // When the holder closes the slow file, requests are no longer answered.
    drop(slow);
    drop(holder);
}

fn exited_with_the_file_open_elsewhere(env: &Env) {
    let mut case = Case::new(env);
    let holder = case.holder(1, PAGES);
    // As one gets a file from another process.
    let file = hostile::file_of(holder.pid(), &env.device).expect("the process has the device open");
    holder.peer.say(Deed::Leave as u64);
    let pid = holder.pid();
    holder.peer.join();
    let result = squeezed(env, pid, PAGES, || 0);
    report("exited, the file open in another process", result);
    match env.driver(Difference::SkippedReclaim) {
        Driver::Ours => assert_eq!(result.let_go, PAGES as u64),
        Driver::C => assert_eq!(result.let_go, 0),
    }
    drop(file);
}

fn mapping_locked_by_a_fork(env: &Env) {
    let mut case = Case::new(env);
    let holder = case.holder(1, PAGES);
    // A squeeze that was over before the fork was: it came while the kernel copied the memory. With luck, as long
    // as the kernel copies faster than it squeezes; what is told is the best of many.
    let mut least: Option<Result> = None;
    let mut overlapped = 0;
    for _ in 0..40 {
        holder.fill(&case.registry, &mut case.client, 1, PAGES);
        let freed = Freed::from_now(env);
        let before = unused(env, holder.pid(), PAGES);
        holder.peer.say(Deed::Fork as u64);
        holder.peer.hear();
        squeeze();
        let meanwhile = !holder.peer.has_spoken();
        let let_go = match env.driver {
            Driver::Ours => before - unused(env, holder.pid(), PAGES),
            Driver::C => freed.of(holder.pid()),
        };
        holder.peer.hear();
        if meanwhile {
            overlapped += 1;
            let result = Result { pages: PAGES as u64, let_go, mapped: 0 };
            least = Some(least.map_or(result, |least| if result.let_go < least.let_go { result } else { least }));
        }
        if overlapped == 5 {
            break;
        }
    }
    let Some(least) = least else { panic!("no squeeze was over before the fork was") };
    println!("{overlapped} squeezes in the middle of a fork");
    match env.driver(Difference::SkippedReclaim) {
        Driver::Ours => assert_eq!(least.let_go, PAGES as u64),
        // The squeeze may have come before the kernel got to the mapping.
        Driver::C => {}
    }
    report("fork in progress, which locks the mapping", least);
}

fn allocation_in_progress(env: &Env) {
    let stalled = Stalled::new(env, 8);
    let mut case = Case::new(env);
    let holder = case.holder(1, PAGES);
    let handle = case.registry.get(&mut case.client, 1);
    let data = TransactionData {
        target: uapi::in_union(handle),
        code: 1,
        buffer: stalled.at(0),
        data_size: 8 * PAGE as u64,
        ..TransactionData::default()
    };
    let mut client = case.client;
    let sender = std::thread::spawn(move || {
        client.queue().command(uapi::BC_TRANSACTION, &data);
        client.flush().expect("BC_TRANSACTION");
        client
    });
    // The buffer is allocated, and not filled before the sender's memory is there.
    let mut page = None;
    until(|| {
        page = stalled.wanted();
        page.is_some()
    });
    let result = squeezed(env, holder.pid(), PAGES, || holder.tell(Deed::Count));
    report("a sender is filling 8 of the pages", result);
    assert_eq!(result.let_go, PAGES as u64 - 8);
    let mut next = page;
    until(|| {
        if let Some(page) = next.take() {
            stalled.supply(page, &[page as u8; PAGE]);
        }
        next = stalled.wanted();
        sender.is_finished()
    });
    drop(sender.join().expect("the sender is well"));
}

fn behind_unfreeable_pages(env: &Env) {
    let mut case = Case::new(env);
    let first = case.holder(1, 200);
    first.tell(Deed::Cut);
    let second = case.holder(2, 200);
    let result = squeezed(env, second.pid(), 200, || second.tell(Deed::Count));
    report("behind 200 pages of a mapping whose last page is unmapped", result);
    match env.driver(Difference::SkippedReclaim) {
        Driver::Ours => assert_eq!((result.let_go, result.mapped), (200, 0)),
        Driver::C => assert!(result.let_go < 200, "{result:?}"),
    }
}

fn behind_pages_that_are_used_again(env: &Env) {
    let mut case = Case::new(env);
    let first = case.holder(1, 200);
    let second = case.holder(2, 200);
    let mut other = End::open(env);
    let handle = case.registry.get(&mut other, 1);
    other.start(Call::new(handle, 1, &Parcel::from_bytes(&pattern(200 * PAGE, 1))));
    let result = squeezed(env, second.pid(), 200, || second.tell(Deed::Count));
    report("behind 200 pages that are in use again", result);
    assert_eq!((result.let_go, result.mapped), (200, 0));
    assert_eq!(crate::kernel::pages_behind(env, first.pid(), 200).used, 200);
}
