// SPDX-License-Identifier: GPL-2.0

//! The files in debugfs. Other programs read them, so their format is that of the C driver.

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

use binder_client::Call;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use nix::errno::Errno;
use nix::unistd;

use super::reclaim::squeeze;
use super::tests;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::fixture::node;
use crate::fixture::until;
use crate::hostile::PAGE;
use crate::mounts::errno;
use crate::mounts::write_to;

tests! { Interface, "logs":
    state_of_a_process,
    transactions_in_progress,
    a_process_has_a_file,
    hashed_addresses,
    statistics_of_a_process,
    statistics_of_the_driver,
    pages_of_a_process,
    transactions_are_remembered,
    failures_are_remembered_longer,
    read_in_pieces,
    a_file_of_a_dead_process,
    read_while_processes_come_and_go,
    a_long_list_is_cut,
}

const FILES: [&str; 7] = [
    "state",
    "state_hashed",
    "stats",
    "transactions",
    "transactions_hashed",
    "transaction_log",
    "failed_transaction_log",
];

/// The driver's folder in debugfs.
struct Logs {
    folder: PathBuf,
}

impl Logs {
    fn of(env: &Env) -> Self {
        // Where both drivers are loaded, the name of the C driver's folder is its own.
        let names: &[&str] = match env.driver {
            Driver::Ours => &["binder_rs", "binder"],
            Driver::C => &["binder"],
        };
        let mut folders = names.iter().map(|name| Path::new("/sys/kernel/debug").join(name));
        let folder = folders.find(|folder| folder.join("state").exists());
        Self { folder: folder.unwrap_or_else(|| env.skip("the driver shows nothing in debugfs")) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The file of the process with this pid.
    fn path_of(&self, pid: i32) -> PathBuf {
        self.folder.join("proc").join(pid.to_string())
    }

    #[track_caller]
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("a text")
    }

    /// What a file says of the processes with this pid, each beginning after the line with its context; in a fixed order.
    #[track_caller]
    fn processes(&self, name: &str, pid: i32) -> Vec<String> {
        processes(&self.read(name), pid)
    }
}

fn processes(text: &str, pid: i32) -> Vec<String> {
    let own = format!("proc {pid}\ncontext ");
    let mut all: Vec<String> = text
        .split_inclusive('\n')
        .fold(Vec::new(), |mut blocks: Vec<String>, line| {
            if line.starts_with("proc ") || blocks.is_empty() {
                blocks.push(String::new());
            }
            // A file of one process says what it is before each.
            if line != "binder proc state:\n" {
                blocks.last_mut().expect("a block").push_str(line);
            }
            blocks
        })
        .iter()
        .filter_map(|block| block.strip_prefix(&own)?.split_once('\n').map(|(_, rest)| rest.to_owned()))
        .collect();
    all.sort_unstable();
    all
}

/// The text without what is another one every time: numbers of objects are `#`, addresses in the kernel `@`, ids of
/// processes and threads `ME` for this one and `OTHER`, times `T`.
fn plain(text: &str) -> String {
    let me = unistd::getpid().to_string();
    let id = |id: &str| match id {
        "0" => "0",
        id if id == me => "ME",
        _ => "OTHER",
    };
    let ids = |word: &str| match word.split_once(':') {
        Some((process, thread)) => format!("{}:{}", id(process), id(thread)),
        None => id(word).to_owned(),
    };
    let line = |line: &str| {
        let indent = line.len() - line.trim_start().len();
        let words: Vec<&str> = line.trim_start().split(' ').collect();
        let mut owners = false;
        let changed: Vec<String> = (0..words.len())
            .map(|i| {
                let word = words[i];
                let before = |back: usize| i.checked_sub(back).map_or("", |at| words[at]);
                owners |= before(1) == "proc";
                let colon = if word.ends_with(':') { ":" } else { "" };
                match (before(2), before(1)) {
                    ("transaction", _) => "@".to_owned(),
                    (_, "from" | "to") => ids(word),
                    (_, "elapsed") => "T".to_owned(),
                    (_, "thread") => ids(word.trim_end_matches(':')) + colon,
                    (_, "transaction" | "node" | "ref" | "buffer")
                        if word.starts_with(|c: char| c.is_ascii_digit() && c != '0') =>
                    {
                        format!("#{colon}")
                    }
                    (_, "d") if word.bytes().any(|digit| digit != b'0') => "@".to_owned(),
                    _ if owners => ids(word),
                    _ => word.to_owned(),
                }
            })
            .collect();
        format!("{}{}\n", &line[..indent], changed.join(" "))
    };
    text.lines().map(line).collect()
}

fn pid() -> i32 {
    unistd::getpid().as_raw()
}

/// A server that works on a call of one client; another client has called and waits, and two one-way calls to the same
/// node, the second of which has to wait for the first.
struct Scene {
    _pair: Pair,
    _waiting: End,
    _senders: [End; 2],
}

impl Scene {
    fn new(env: &Env) -> Self {
        let mut pair = Pair::new(env);
        let mut waiting = End::open(env);
        let busy = node(0x52);
        pair.registry.put(&mut pair.server, 2, object::binder(busy.ptr, busy.cookie));
        let handle = pair.registry.get(&mut waiting, 2);
        waiting.queue().request_death(handle, 77);
        waiting.flush().expect("BC_REQUEST_DEATH_NOTIFICATION");
        let mut senders = [End::open(env), End::open(env)];
        let handles = senders.each_mut().map(|sender| pair.registry.get(sender, 2));
        pair.client.start(Call::new(pair.handle, 0x11, &Parcel::from_bytes(&[1; 100])).with_flags(0x10));
        pair.server.expect_transaction();
        waiting.start(Call::new(handle, 0x22, &Parcel::from_bytes(&[1; 200])));
        for (sender, handle) in senders.iter_mut().zip(handles) {
            sender.start_one_way(Call::new(handle, 0x33, &Parcel::from_bytes(&[1; 300])));
        }
        Self { _pair: pair, _waiting: waiting, _senders: senders }
    }
}

const SERVER_BUSY: &str = "  thread ME: l 02 need_return 0 tr 0
    incoming transaction #: @ from ME:ME to ME:ME code 11 flags 10 pri 0 a0 r0 elapsed T node # size 100:0 offset 0
";
const SERVER_NODE: &str = "  node #: u0000000000051000 c0000000000051c00 hs 1 hw 1 ls 1 lw 0 is 1 iw 1 tr 1 proc ME
";
const SERVER_REST: &str =
    "  node #: u0000000000052000 c0000000000052c00 hs 1 hw 1 ls 3 lw 0 is 4 iw 4 tr 1 proc ME ME ME OTHER
    pending async transaction #: @ from ME:ME to ME:0 code 33 flags 1 pri 0 a1 r0 elapsed T node # size 300:0 offset 260
  buffer #: 0 size 100:0:0 active
  buffer #: 68 size 200:0:0 active
  buffer #: 130 size 300:0:0 active
  buffer #: 260 size 300:0:0 active
  pending transaction #: @ from ME:ME to ME:0 code 22 flags 0 pri 0 a0 r0 elapsed T node # size 200:0 offset 68
  pending transaction #: @ from ME:ME to ME:0 code 33 flags 1 pri 0 a1 r0 elapsed T node # size 300:0 offset 130
";
const IDLE: &str = "  thread ME: l 00 need_return 0 tr 0
";
const CLIENT_BUSY: &str = "    outgoing transaction #: @ from ME:ME to ME:ME code 11 flags 10 pri 0 a0 r0 elapsed T
    transaction complete
";
const WAITING_BUSY: &str = "    outgoing transaction #: @ from ME:ME to ME:0 code 22 flags 0 pri 0 a0 r0 elapsed T
    transaction complete
";
const HANDLE: &str = "  ref #: desc 1 node # s 1 w 0 d 0000000000000000
";
const WATCHED_HANDLE: &str = "  ref #: desc 1 node # s 1 w 0 d @
";

/// What `state` says of the five in a [`Scene`].
fn scene_state() -> Vec<String> {
    let mut all = vec![
        format!("{SERVER_BUSY}{SERVER_NODE}{SERVER_REST}"),
        format!("{IDLE}{CLIENT_BUSY}{HANDLE}"),
        format!("{IDLE}{WAITING_BUSY}{WATCHED_HANDLE}"),
        format!("{IDLE}{HANDLE}"),
        format!("{IDLE}{HANDLE}"),
    ];
    all.sort_unstable();
    all
}

fn sorted_plain(blocks: &[String]) -> Vec<String> {
    let mut all: Vec<String> = blocks.iter().map(|block| plain(block)).collect();
    all.sort_unstable();
    all
}

/// The number after a word, for each time it comes.
fn numbers(text: &str, word: &str) -> Vec<u64> {
    let parts = text.split(word).skip(1);
    parts.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).collect()
}

fn state_of_a_process(env: &Env) {
    let logs = Logs::of(env);
    let _scene = Scene::new(env);
    let text = logs.read("state");
    // Nodes of the dead come first: what others left behind a moment ago may still be on its way out.
    assert!(
        ["proc ", "dead nodes:\n"].iter().any(|next| text.starts_with(&format!("binder state:\n{next}"))),
        "{text}"
    );
    let name = env.device.file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(text.contains(&format!("proc {}\ncontext {name}\n", pid())));
    let blocks = processes(&text, pid());
    assert_eq!(sorted_plain(&blocks), scene_state());
    // The numbers fit together.
    let server = blocks.iter().find(|block| block.contains("incoming")).expect("the server");
    let transactions: Vec<u64> = numbers(server, "transaction ");
    let mut buffers = numbers(server, "  buffer ");
    let mut sorted = transactions.clone();
    sorted.sort_unstable();
    buffers.sort_unstable();
    assert_eq!(sorted, buffers, "{server}");
    let nodes = numbers(server, "  node ");
    let handles: Vec<u64> = blocks.iter().flat_map(|block| numbers(block, "desc 1 node ")).collect();
    assert!(handles.iter().all(|node| nodes.contains(node)), "{handles:?} of {nodes:?}");
}

fn transactions_in_progress(env: &Env) {
    let logs = Logs::of(env);
    let scene = Scene::new(env);
    assert!(logs.read("transactions").starts_with("binder transactions:\n"));
    let mut wanted =
        vec![format!("{SERVER_BUSY}{SERVER_REST}"), format!("{IDLE}{CLIENT_BUSY}"), format!("{IDLE}{WAITING_BUSY}")];
    wanted.sort_unstable();
    assert_eq!(sorted_plain(&logs.processes("transactions", pid())), wanted);
    drop(scene);
    until(|| logs.processes("transactions", pid()).is_empty());
}

fn a_process_has_a_file(env: &Env) {
    let logs = Logs::of(env);
    let path = logs.path_of(pid());
    assert!(!path.exists());
    let scene = Scene::new(env);
    let text = fs::read_to_string(&path).expect("a text");
    assert_eq!(text.matches("binder proc state:\nproc ").count(), 5);
    assert_eq!(sorted_plain(&processes(&text, pid())), scene_state());
    assert_eq!(errno(write_to(&path, "0")), Some(Errno::EINVAL));
    drop(scene);
    until(|| !path.exists());
}

fn hashed_addresses(env: &Env) {
    let logs = Logs::of(env);
    let _scene = Scene::new(env);
    for (open, hashed) in [("state", "state_hashed"), ("transactions", "transactions_hashed")] {
        let (open, hashed) = (logs.processes(open, pid()).concat(), logs.processes(hashed, pid()).concat());
        assert!(open.contains(" u0000000000052000 c0000000000052c00 "));
        assert!(!hashed.contains("52000") && !hashed.contains("52c00"), "{hashed}");
        let address = |word: &str| word.len() == 17 && word.starts_with(['u', 'c']);
        let rest = |text: &str| text.split([' ', '\n']).filter(|word| !address(word)).collect::<Vec<_>>().join(" ");
        assert_eq!(rest(&plain(&open)), rest(&plain(&hashed)));
    }
    // One address is always the same, so that one can follow it from file to file.
    let of = |text: String| {
        let found =
            text.lines().find(|line| line.contains(" ls 3 ")).map(|line| line.split(' ').nth(4).map(str::to_owned));
        found.flatten().expect("the node's line")
    };
    let first = of(logs.read("state_hashed"));
    assert_eq!(of(logs.read("transactions_hashed")), first);
    assert_ne!(first, "u0000000000052000");
}

fn statistics_of_a_process(env: &Env) {
    let logs = Logs::of(env);
    let _scene = Scene::new(env);
    assert!(logs.read("stats").starts_with("binder stats:\nBC_TRANSACTION: "));
    let all = logs.processes("stats", pid());
    let server = all.iter().find(|block| block.contains("  nodes: 2\n")).expect("the server");
    let wanted = "  threads: 1
  requested threads: 0+0/0
  ready threads 0
  free async space 519584
  nodes: 2
  refs: 0 s 0 w 0
  buffers: 4
  pages: 1:0:253
  pages high watermark: 1
  pending transactions: 2
  BC_TRANSACTION: 3
  BC_FREE_BUFFER: 3
  BC_INCREFS_DONE: 2
  BC_ACQUIRE_DONE: 2
  BC_ENTER_LOOPER: 1
  BR_TRANSACTION: 1
  BR_REPLY: 3
  BR_TRANSACTION_COMPLETE: 3
  BR_INCREFS: 2
  BR_ACQUIRE: 2
";
    assert_eq!(server, wanted);
}

/// The lines of `stats` before the first process, by what stands before the colon.
fn totals(logs: &Logs) -> Vec<(String, String)> {
    let text = logs.read("stats");
    let (all, _) = text.split_once("\nproc ").unwrap_or((&text, ""));
    let lines = all.lines().filter_map(|line| line.split_once(": "));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn total(logs: &Logs, name: &str) -> u64 {
    let all = totals(logs);
    let value = all.iter().find(|(found, _)| found == name).map_or("0", |(_, value)| value);
    value.parse().expect("a number")
}

fn statistics_of_the_driver(env: &Env) {
    let logs = Logs::of(env);
    let mut pair = Pair::new(env);
    let figures = ["BC_TRANSACTION", "BC_REPLY", "BC_FREE_BUFFER", "BR_TRANSACTION", "BR_REPLY"];
    let before = figures.map(|name| total(&logs, name));
    for _ in 0..3 {
        pair.check();
    }
    let after = figures.map(|name| total(&logs, name));
    let grown: Vec<u64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
    assert_eq!(grown, [3, 3, 6, 3, 3]);
    // What processes did that are gone is in the sum as well.
    drop(pair);
    until(|| logs.processes("stats", pid()).is_empty());
    assert_eq!(figures.map(|name| total(&logs, name)), after);
    let objects = ["proc", "thread", "node", "ref", "transaction", "transaction_complete"];
    let all = totals(&logs);
    for object in objects {
        let (_, value) =
            all.iter().find(|(name, _)| name == object).unwrap_or_else(|| panic!("no {object} in {all:?}"));
        let words: Vec<&str> = value.split(' ').collect();
        assert!(matches!(words[..], ["active", _, "total", _]), "{object}: {value}");
    }
}

fn pages_of_a_process(env: &Env) {
    let logs = Logs::of(env);
    let mut pair = Pair::sized(env, PAGE, 100 * PAGE);
    // Used, unused and absent; and the most that were there.
    let pages = || {
        let all = logs.processes("stats", pid());
        let line = |block: &str, name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let mut both = all.iter().map(|block| {
            (line(block, "  pages: ").expect("pages"), line(block, "  pages high watermark: ").expect("the most"))
        });
        both.find(|(pages, _)| numbers(&format!(":{pages}"), ":").iter().sum::<u64>() == 100).expect("the server")
    };
    let of = |pages: &str, most: &str| (pages.to_owned(), most.to_owned());
    assert_eq!(pages(), of("0:1:99", "1"));
    pair.client.start(Call::new(pair.handle, 1, &Parcel::from_bytes(&[1; 10 * PAGE])));
    assert_eq!(pages(), of("10:0:90", "10"));
    let received = pair.server.expect_transaction();
    assert_eq!(pages(), of("10:0:90", "10"));
    pair.server.give_back(&received);
    assert_eq!(pages(), of("0:10:90", "10"));
    until(|| {
        squeeze();
        pages() == of("0:0:100", "10")
    });
    pair.server.answer(&Parcel::new());
    pair.client.expect_reply();
    pair.check();
    assert_eq!(pages(), of("0:1:99", "10"));
}

/// The lines of a log about what this process sent, without what is another one every time.
#[track_caller]
fn sent(logs: &Logs, name: &str) -> Vec<String> {
    let from = format!(" from {}:", pid());
    let text = logs.read(name);
    assert!(text.lines().count() <= 32);
    let ids: Vec<u64> = text.lines().filter_map(|line| line.split_once(": ")?.0.parse().ok()).collect();
    assert_eq!(ids.len(), text.lines().count(), "{text}");
    assert!(ids.is_sorted(), "{text}");
    let own = text.lines().filter(|line| line.contains(&from)).filter_map(|line| line.split_once(": "));
    // The line of the driver's source is its own.
    own.map(|(_, line)| plain(line.rsplit_once(" l=").map_or(line, |(line, _)| line)).trim_end().to_owned()).collect()
}

fn transactions_are_remembered(env: &Env) {
    let logs = Logs::of(env);
    let mut pair = Pair::new(env);
    let name = env.device.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    pair.client.start(Call::new(pair.handle, 5, &Parcel::from_bytes(&[1; 100])));
    let received = pair.server.expect_transaction();
    pair.server.give_back(&received);
    pair.server.start_reply(Call::reply(&Parcel::from_object(&object::binder(8, 8))));
    pair.server.drain();
    pair.client.expect_reply();
    pair.client.start_one_way(Call::new(pair.handle, 6, &Parcel::new()));
    pair.client.start(Call::new(99, 7, &Parcel::from_bytes(b"abc")));
    pair.client.expect(&[Return::FailedReply]);
    let wanted = [
        format!("call  from ME:ME to ME:0 context {name} node # handle 1 size 100:0 ret 0/0"),
        format!("reply from ME:ME to ME:ME context {name} node 0 handle 0 size 24:8 ret 0/0"),
        format!("async from ME:ME to ME:0 context {name} node # handle 1 size 0:0 ret 0/0"),
        format!("call  from ME:ME to 0:0 context {name} node 0 handle 99 size 3:0 ret 29201/-22"),
    ];
    let all = sent(&logs, "transaction_log");
    assert_eq!(all[all.len() - wanted.len()..], wanted);
    let failed = sent(&logs, "failed_transaction_log");
    assert_eq!(failed.last(), wanted.last());
}

fn failures_are_remembered_longer(env: &Env) {
    let logs = Logs::of(env);
    let mut pair = Pair::new(env);
    pair.client.start(Call::new(98, 7, &Parcel::from_bytes(b"failure")));
    pair.client.expect(&[Return::FailedReply]);
    for _ in 0..20 {
        pair.check();
    }
    assert_eq!(logs.read("transaction_log").lines().count(), 32);
    assert!(!logs.read("transaction_log").contains(" handle 98 "));
    assert!(logs.read("failed_transaction_log").contains(" handle 98 size 7:0 ret 29201/-22 "));
    for _ in 0..40 {
        pair.client.start(Call::new(97, 7, &Parcel::new()));
        pair.client.expect(&[Return::FailedReply]);
    }
    let failed = sent(&logs, "failed_transaction_log");
    assert_eq!(failed.len(), 32);
    assert!(failed.iter().all(|line| line.contains(" handle 97 ")), "{failed:?}");
}

fn read_in_pieces(env: &Env) {
    let logs = Logs::of(env);
    let mut pair = Pair::new(env);
    // Enough for several buffers of the kernel's.
    for number in 0..200 {
        let binder = object::binder(0x10_0000 + number * 8, number);
        pair.registry.put(&mut pair.client, number as u32 + 10, binder);
    }
    let mut paths: Vec<PathBuf> = FILES.iter().map(|name| logs.path(name)).collect();
    paths.push(logs.path_of(pid()));
    for path in paths {
        let whole = fs::read(&path).expect("a text");
        let file = File::open(&path).expect("open");
        for step in [1, 7, 100, 4096] {
            let mut pieces = Vec::new();
            let mut buffer = vec![0; step];
            loop {
                let count = file.read_at(&mut buffer, pieces.len() as u64).expect("read");
                if count == 0 {
                    break;
                }
                pieces.extend_from_slice(&buffer[..count]);
                if step < 7 && pieces.len() > 3000 {
                    break;
                }
            }
            assert!(whole.starts_with(&pieces), "{} in pieces of {step}", path.display());
            assert!(step < 7 || pieces.len() == whole.len(), "{} in pieces of {step}", path.display());
        }
        // From anywhere, in any order, and beyond the end.
        for at in [whole.len() * 2 / 3, whole.len() / 3, 0, whole.len().saturating_sub(1)] {
            let mut buffer = [0; 50];
            let count = file.read_at(&mut buffer, at as u64).expect("read");
            assert!(whole[at..].starts_with(&buffer[..count]), "{} at {at}", path.display());
            assert!(count > 0 || at == whole.len());
        }
        for beyond in [whole.len() as u64, whole.len() as u64 + 1, 1 << 40] {
            assert_eq!(file.read_at(&mut [0; 50], beyond).ok(), Some(0));
        }
    }
}

fn a_file_of_a_dead_process(env: &Env) {
    let logs = Logs::of(env);
    let mut peer = Peer::start(env, |env, line| {
        let _end = End::open(env);
        line.say(0).expect("the test is there");
        let _ = line.hear();
    });
    peer.hear();
    let path = logs.path_of(peer.pid());
    let [before, unread] = [(); 2].map(|()| File::open(&path).expect("open"));
    let mut buffer = [0; 10];
    assert_eq!(before.read_at(&mut buffer, 0).ok(), Some(10));
    assert_eq!(&buffer, b"binder pro");
    peer.kill();
    until(|| !path.exists());
    // debugfs allows only close on a file that was removed.
    for file in [&before, &unread] {
        assert_eq!(errno(file.read_at(&mut buffer, 0)), Some(Errno::EIO));
    }
}

/// Each process in a listing has its two lines, and nothing stands before the first but what is allowed to.
#[track_caller]
fn check_form(name: &str, text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        if line.starts_with("proc ") && !line.contains(": ") {
            let next = lines.get(number + 1).copied().unwrap_or_default();
            assert!(next.starts_with("context "), "{name}: after {line} comes {next}");
        }
    }
    assert!(text.is_empty() || text.ends_with('\n'), "{name} ends in the middle of a line");
}

fn read_while_processes_come_and_go(env: &Env) {
    let logs = Logs::of(env);
    let mut pair = Pair::new(env);
    let readers: Vec<Peer> = (0..2)
        .map(|_| {
            Peer::start(env, |_, line| {
                let mut rounds = 0;
                while !line.heard() {
                    for name in FILES {
                        check_form(name, &logs.read(name));
                    }
                    for entry in fs::read_dir(logs.path("proc")).expect("a folder").flatten() {
                        // It may be gone by now, or go while it is read.
                        if let Ok(text) = fs::read_to_string(entry.path()) {
                            check_form("proc", &text);
                        }
                    }
                    rounds += 1;
                }
                line.say(rounds).expect("the test is there");
            })
        })
        .collect();
    for turn in 0..8 {
        let mut peers: Vec<Peer> = (0..3)
            .map(|_| {
                Peer::start(env, |env, line| {
                    let mut end = End::open(env).enter();
                    line.say(0).expect("the test is there");
                    end.set_blocking(true);
                    let _ = end.next();
                })
            })
            .collect();
        for peer in &peers {
            peer.hear();
        }
        pair.check();
        if turn % 2 == 0 {
            peers.iter_mut().for_each(Peer::kill);
        }
    }
    for reader in readers {
        reader.say(0);
        assert!(reader.hear() > 0, "a reader never came to an end");
        reader.join();
    }
    pair.check();
}

fn a_long_list_is_cut(env: &Env) {
    let logs = Logs::of(env);
    let mut pair = Pair::new(env);
    for _ in 0..300 {
        pair.client.start_one_way(Call::new(pair.handle, 1, &Parcel::new()));
    }
    let all = logs.processes("state", pid());
    let server = all.iter().find(|block| block.contains("  node ")).expect("the server");
    let shown = server.matches("    pending async transaction ").count();
    match env.driver(Difference::LongLists) {
        Driver::C => assert_eq!(shown, 299),
        Driver::Ours => {
            assert_eq!(shown, 256);
            assert!(server.contains("(and more)\n"), "{server}");
        }
    }
}
