// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! What the driver shows of itself: `state`, `stats`, `transactions`, `transaction_log`, `failed_transaction_log` and a
//! file for each process.
//!
//! The lines have the C driver's form, because `dumpstate` and people's scripts read them. What the C driver has no
//! line for stands in lines of its own that have the same form.
//!
//! Nothing is printed while a spinlock is held. A listing goes from entry to entry by key: it takes the lock, copies
//! one entry, drops the lock, prints, and looks for the next key. What has no keys - work lists and stacks - is copied
//! up to a limit, into memory that was reserved before. So a listing is not one moment's picture, but nobody waits
//! for it, and whoever reads the file cannot make anybody wait.

use core::fmt::{
    self,
    Write, //
};
use kernel::{
    prelude::*,
    rbtree::RBTree,
    sync::Arc, //
};

use crate::{
    process::Process,
    registry, shrinker,
    stats::{
        Object,
        Traffic,
        DEPARTED, //
    },
    sums::{
        count,
        increment,
        text_bytes, //
    },
    sys::{
        helpers::write_hashed,
        lru, //
    },
    transaction_log::{
        self,
        name_bytes,
        Kind,
        TransactionLog, //
    },
};

use self::{
    process::Listing,
    users::Users, //
};

mod process;

mod users;

/// How many entries of a table are looked at before its lock is dropped for a moment.
const BATCH: usize = 64;

/// How much of a work list or stack is looked at.
const MOST_WORK: usize = 256;

/// Writes a listing.
pub(crate) type Show = fn(&mut dyn Write) -> fmt::Result;

/// A file that shows something of the whole driver.
pub(crate) struct LogFile {
    /// The file's name.
    pub(crate) name: &'static CStr,
    /// Writes what is in it.
    pub(crate) show: Show,
}

/// The files.
pub(crate) static FILES: [LogFile; 7] = [
    LogFile {
        name: c"state",
        show: |out| state(out, Addresses::Plain),
    },
    LogFile {
        name: c"state_hashed",
        show: |out| state(out, Addresses::Hashed),
    },
    LogFile {
        name: c"stats",
        show: stats,
    },
    LogFile {
        name: c"transactions",
        show: |out| transactions(out, Addresses::Plain),
    },
    LogFile {
        name: c"transactions_hashed",
        show: |out| transactions(out, Addresses::Hashed),
    },
    LogFile {
        name: c"transaction_log",
        show: |out| transaction_log(out, &transaction_log::ALL),
    },
    LogFile {
        name: c"failed_transaction_log",
        show: |out| transaction_log(out, &transaction_log::FAILED),
    },
];

/// How addresses in processes are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Addresses {
    /// As they are.
    Plain,
    /// So that they can be told apart, but say nothing.
    Hashed,
}

impl Addresses {
    fn write(self, out: &mut dyn Write, address: u64) -> fmt::Result {
        match self {
            Self::Plain => write!(out, "{address:016x}"),
            Self::Hashed => write_hashed(out, address),
        }
    }
}

/// The processes there are.
struct Processes {
    /// By pid, and by address where one pid has several.
    all: RBTree<(i32, usize), Arc<Process>>,
    /// There was no memory for all of them.
    incomplete: bool,
}

impl Processes {
    fn new() -> Self {
        let mut all = RBTree::new();
        let mut incomplete = false;
        registry::for_each(|process| {
            let key = (process.pid, Arc::as_ptr(process).addr());
            incomplete |= all
                .try_create_and_insert(key, process.clone(), GFP_KERNEL_ACCOUNT)
                .is_err();
        });
        Self { all, incomplete }
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Process>> {
        self.all.values()
    }

    fn end(&self, out: &mut dyn Write) -> fmt::Result {
        if self.incomplete {
            writeln!(out, "(out of memory: not all processes are shown)")?;
        }
        Ok(())
    }
}

fn context_name(process: &Process) -> &str {
    // A device's name was text when it was given.
    core::str::from_utf8(text_bytes(process.context.name())).unwrap_or_default()
}

/// Everything of every process.
fn state(out: &mut dyn Write, addresses: Addresses) -> fmt::Result {
    writeln!(out, "binder state:")?;
    let processes = Processes::new();
    let users = Users::new(processes.iter());
    users.write_dead_nodes(out, addresses)?;
    for process in processes.iter() {
        Listing::whole(out, process, &users, addresses).write()?;
    }
    users.end(out)?;
    processes.end(out)
}

/// What is under way in every process.
fn transactions(out: &mut dyn Write, addresses: Addresses) -> fmt::Result {
    writeln!(out, "binder transactions:")?;
    let processes = Processes::new();
    let users = Users::new(processes.iter());
    for process in processes.iter() {
        Listing::busy(out, process, &users, addresses).write()?;
    }
    users.end(out)?;
    processes.end(out)
}

/// Everything of the files that the process `pid` has opened.
pub(crate) fn process_state(out: &mut dyn Write, pid: i32) -> fmt::Result {
    let processes = Processes::new();
    let users = Users::new(processes.iter());
    for process in processes.iter().filter(|process| process.pid == pid) {
        writeln!(out, "binder proc state:")?;
        Listing::whole(out, process, &users, Addresses::Plain).write()?;
    }
    users.end(out)?;
    processes.end(out)
}

/// Figures of the driver and of every process.
fn stats(out: &mut dyn Write) -> fmt::Result {
    writeln!(out, "binder stats:")?;
    let processes = Processes::new();
    let sum = Traffic::new();
    sum.add(&DEPARTED);
    for process in processes.iter() {
        sum.add(&process.traffic);
    }
    write_traffic(out, "", &sum)?;
    for object in Object::ALL {
        let (active, total) = object.count();
        if total != 0 {
            writeln!(out, "{}: active {} total {}", object.name(), active, total)?;
        }
    }
    writeln!(
        out,
        "page: lru {} reclaimed {}",
        lru::LRU.count_all(),
        shrinker::reclaimed()
    )?;
    for process in processes.iter() {
        process_stats(out, process)?;
    }
    processes.end(out)
}

/// The next key after another, if there can be one.
trait Successor: Copy + Ord {
    fn successor(self) -> Option<Self>;
}

impl Successor for i32 {
    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Successor for u32 {
    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Successor for u64 {
    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// Calls `f` for some entries of `tree`, from `from` on. Returns where to go on if there may be more.
fn batch<K: Successor, V>(tree: &RBTree<K, V>, mut from: K, mut f: impl FnMut(K, &V)) -> Option<K> {
    for _ in 0..BATCH {
        let cursor = tree.cursor_lower_bound(&from)?;
        let (&key, value) = cursor.current();
        f(key, value);
        from = key.successor()?;
    }
    Some(from)
}

fn write_traffic(out: &mut dyn Write, indent: &str, traffic: &Traffic) -> fmt::Result {
    for (name, count) in traffic.figures() {
        writeln!(out, "{indent}{name}: {count}")?;
    }
    Ok(())
}

fn process_stats(out: &mut dyn Write, process: &Process) -> fmt::Result {
    let (mut threads, mut nodes) = (0usize, 0usize);
    let mut from = Some(i32::MIN);
    while let Some(key) = from {
        let inner = process.inner.lock();
        from = batch(&inner.threads, key, |_, _| increment(&mut threads));
    }
    let mut from = Some(0);
    while let Some(key) = from {
        let inner = process.inner.lock();
        from = batch(&inner.nodes, key, |_, _| increment(&mut nodes));
    }
    let inner = process.inner.lock();
    let requested = inner.requested_threads;
    let (started, max) = (inner.started_threads, inner.max_threads);
    let ready = count(inner.idle.iter());
    let pending = count(
        inner
            .work
            .iter()
            .take(MOST_WORK)
            .filter(|work| work.is_transaction()),
    );
    drop(inner);
    let (mut refs, mut strong, mut weak) = (0usize, 0usize, 0usize);
    let mut from = Some(0);
    while let Some(key) = from {
        let handles = process.handles.lock();
        from = batch(&handles.entries, key, |_, handle| {
            increment(&mut refs);
            strong = strong.saturating_add(handle.strong);
            weak = weak.saturating_add(handle.weak);
        });
    }
    let oneway_space = process.buffers.lock().oneway_space();
    let mut buffers = 0usize;
    let mut from = Some(0);
    while let Some(offset) = from {
        let ranges = process.buffers.lock();
        from = ranges
            .at_or_above(offset)
            .and_then(|live| live.offset.checked_add(1));
        drop(ranges);
        buffers = buffers.saturating_add(usize::from(from.is_some()));
    }
    let pages = process.pages.figures();

    writeln!(out, "proc {}", process.pid)?;
    writeln!(out, "context {}", context_name(process))?;
    writeln!(out, "  threads: {threads}")?;
    writeln!(out, "  requested threads: {requested}+{started}/{max}")?;
    writeln!(out, "  ready threads {ready}")?;
    writeln!(out, "  free async space {oneway_space}")?;
    writeln!(out, "  nodes: {nodes}")?;
    writeln!(out, "  refs: {refs} s {strong} w {weak}")?;
    writeln!(out, "  buffers: {buffers}")?;
    writeln!(
        out,
        "  pages: {}:{}:{}",
        pages.used, pages.unused, pages.absent
    )?;
    writeln!(out, "  pages high watermark: {}", pages.high_water)?;
    writeln!(out, "  pending transactions: {pending}")?;
    write_traffic(out, "  ", &process.traffic)
}

/// The last transactions, or the last that failed.
fn transaction_log(out: &mut dyn Write, log: &TransactionLog) -> fmt::Result {
    for record in log.records() {
        let kind = if record.kind == Kind::Call as u32 {
            "call "
        } else if record.kind == Kind::Oneway as u32 {
            "async"
        } else {
            "reply"
        };
        let bytes = name_bytes(&record.context);
        let name = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        writeln!(
            out,
            "{}: {} from {}:{} to {}:{} context {} node {} handle {} size {}:{} ret {}/{} l={}",
            record.id,
            kind,
            record.from_pid,
            record.from_tid,
            record.to_pid,
            record.to_tid,
            name.escape_ascii(),
            record.node,
            record.handle,
            record.data_size,
            record.offsets_size,
            record.code,
            record.errno,
            record.line
        )?;
    }
    Ok(())
}
