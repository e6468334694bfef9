// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! The debug files: `state`, `stats`, `transactions`, `transaction_log`, `failed_transaction_log` and a file for each
//! process, in debugfs and in binderfs.
//!
//! The lines have the C driver's form, because `dumpstate` and other programs parse them. What the C driver does not
//! list is in additional lines of the same form.
//!
//! Nothing is printed while a spinlock is held. A listing goes through a table by key: it takes the lock, copies one
//! entry, drops the lock, prints, and looks up the next key. Todo lists and transaction stacks have no keys. They are
//! copied up to a limit, into memory that was reserved before. So a listing is not a consistent snapshot, but reading
//! one delays no process.

use kernel::{
    fmt,
    prelude::*,
    rbtree::RBTree,
    seq_print,
    sync::Arc, //
};

use crate::{
    node::NodeArc,
    process::Process,
    procs,
    sums::text_bytes,
    sys::{
        helpers::Hashed,
        seq_file::{
            Output,
            Show, //
        },
    },
};

use self::{
    node_refs::RefsByNode,
    process::Listing, //
};

mod node_refs;
mod process;
mod stats;
mod transaction_log;

pub(crate) mod files;

/// Entries of a table that are copied in one critical section.
const BATCH: usize = 64;

/// The most entries of a todo list or transaction stack that are copied.
const MOST_WORK: usize = 256;

/// A file about the whole driver.
pub(crate) struct LogFile {
    /// The file's name.
    pub(crate) name: &'static CStr,
    /// Prints its contents.
    show: fn(&Output<'_>),
}

/// The files about the whole driver.
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
        show: stats::show,
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
        show: transaction_log::show,
    },
    LogFile {
        name: c"failed_transaction_log",
        show: transaction_log::show_failed,
    },
];

/// A file of [`FILES`]. The file's number is its index there.
pub(crate) struct DriverFile;

impl Show for DriverFile {
    fn show(number: usize, out: &Output<'_>) {
        if let Some(file) = FILES.get(number) {
            (file.show)(out);
        }
    }
}

/// A file about one process. The file's number is the pid.
pub(crate) struct ProcessFile;

impl Show for ProcessFile {
    fn show(number: usize, out: &Output<'_>) {
        // CAST: The number was made of a pid.
        process_state(out, number as i32);
    }
}

/// How addresses in processes are printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Addresses {
    /// As they are.
    Plain,
    /// Hashed, so that they can be compared but reveal nothing.
    Hashed,
}

/// An address in a process.
enum Address {
    Plain(u64),
    Hashed(Hashed),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(address) => f.write_fmt(fmt!("{address:016x}")),
            Self::Hashed(address) => fmt::Display::fmt(address, f),
        }
    }
}

impl Addresses {
    fn of(self, address: u64) -> Address {
        match self {
            Self::Plain => Address::Plain(address),
            Self::Hashed => Address::Hashed(Hashed(address)),
        }
    }

    /// A node's address and cookie.
    fn of_node(self, node: &NodeArc) -> (Address, Address) {
        (self.of(node.ptr()), self.of(node.cookie()))
    }
}

/// All processes.
struct Processes {
    /// By pid, and by address where one pid has several.
    all: RBTree<(i32, usize), Arc<Process>>,
    /// Memory ran out before all were found.
    incomplete: bool,
}

impl Processes {
    fn new() -> Self {
        let mut all = RBTree::new();
        let mut incomplete = false;
        procs::for_each(|process| {
            let key = (process.pid(), Arc::as_ptr(process).addr());
            incomplete |= all
                .try_create_and_insert(key, process.clone(), GFP_KERNEL_ACCOUNT)
                .is_err();
        });
        Self { all, incomplete }
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Process>> {
        self.all.values()
    }

    fn print_end(&self, out: &Output<'_>) {
        if self.incomplete {
            seq_print!(out, "(out of memory: not all processes are shown)\n");
        }
    }
}

fn context_name(process: &Process) -> &str {
    // A device's name is valid UTF-8 when the device is made.
    core::str::from_utf8(text_bytes(process.context().name())).unwrap_or_default()
}

/// Everything of every process.
fn state(out: &Output<'_>, addresses: Addresses) {
    seq_print!(out, "binder state:\n");
    let processes = Processes::new();
    let refs = RefsByNode::new(processes.iter());
    refs.print_dead_nodes(out, addresses);
    for process in processes.iter().take_while(|_| !out.is_full()) {
        Listing::whole(out, process, &refs, addresses).print();
    }
    refs.print_end(out);
    processes.print_end(out);
}

/// The pending and running transactions of every process.
fn transactions(out: &Output<'_>, addresses: Addresses) {
    seq_print!(out, "binder transactions:\n");
    let processes = Processes::new();
    let refs = RefsByNode::new(processes.iter());
    for process in processes.iter().take_while(|_| !out.is_full()) {
        Listing::busy(out, process, &refs, addresses).print();
    }
    refs.print_end(out);
    processes.print_end(out);
}

/// Everything of the binder files that the process `pid` has opened.
fn process_state(out: &Output<'_>, pid: i32) {
    let processes = Processes::new();
    let refs = RefsByNode::new(processes.iter());
    for process in processes.iter().filter(|process| process.pid() == pid) {
        seq_print!(out, "binder proc state:\n");
        Listing::whole(out, process, &refs, Addresses::Plain).print();
    }
    refs.print_end(out);
    processes.print_end(out);
}

/// A key that has a next one.
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

/// Calls `f` for up to [`BATCH`] entries of `tree`, beginning at `from`. Returns the key to continue at, if any.
fn batch<K: Successor, V>(tree: &RBTree<K, V>, mut from: K, mut f: impl FnMut(K, &V)) -> Option<K> {
    for _ in 0..BATCH {
        let cursor = tree.cursor_lower_bound(&from)?;
        let (&key, value) = cursor.current();
        f(key, value);
        from = key.successor()?;
    }
    Some(from)
}
