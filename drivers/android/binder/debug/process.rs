// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! One process, as `state` and `transactions` show it.

use kernel::{
    prelude::*,
    rbtree::RBTree,
    seq_print,
    sync::Arc, //
};

use crate::{
    buffer::Held,
    code::CodeKind,
    defs::TF_ONE_WAY,
    node::NodeArc,
    process::{
        Process,
        ProcessInner, //
    },
    sys::{
        helpers::{
            milliseconds_since,
            Hashed, //
        },
        seq_file::Output, //
    },
    thread::Thread,
    todo::{
        Listed,
        TodoList,
        Work,
        WorkItem, //
    },
    transaction::TransactionArc, //
};

use super::{
    batch,
    context_name,
    node_refs::RefsByNode,
    Addresses,
    BATCH,
    MOST_WORK, //
};

/// Something that a thread waits for, works on or is to be told, or that waits in a list.
enum Item {
    /// A call it waits for.
    Outgoing(TransactionArc),
    /// A call it works on.
    Incoming(TransactionArc),
    /// Work that is due.
    Due(Listed),
}

/// What was copied of a thread's, a process's or a node's work.
struct Items {
    items: KVec<Item>,
    /// There is more than fits.
    more: bool,
}

impl Items {
    fn new() -> Result<Self> {
        Ok(Self {
            items: KVec::with_capacity(MOST_WORK, GFP_KERNEL_ACCOUNT)?,
            more: false,
        })
    }

    /// Forgets all. Not under a lock: these may be the last references.
    fn clear(&mut self) {
        self.items.clear();
        self.more = false;
    }

    fn push(&mut self, item: Item) -> bool {
        // It cannot be the last reference, so it may be dropped here.
        let fits = self.items.push_within_capacity(item).is_ok();
        self.more |= !fits;
        fits
    }

    fn add_list(&mut self, list: &TodoList) {
        self.add_all(list.iter().map(Arc::from));
    }

    fn add_all(&mut self, list: impl Iterator<Item = Arc<WorkItem<dyn Work>>>) {
        for work in list {
            if !self.push(Item::Due(work.listed())) {
                break;
            }
        }
    }

    /// Adds what `thread` waits for and works on, the innermost first.
    fn add_stack(&mut self, thread: &Arc<Thread>, inner: &mut ProcessInner) {
        let mut next = thread.stack(inner).cloned();
        while let Some(transaction) = next {
            let waits = transaction
                .from()
                .is_some_and(|from| Arc::ptr_eq(from, thread));
            let item = if waits {
                next = transaction.sender_parent().cloned();
                Item::Outgoing(transaction)
            } else if transaction.target_is(thread.process()) {
                next = transaction.handler_parent(inner).cloned();
                Item::Incoming(transaction)
            } else {
                break;
            };
            if !self.push(item) {
                break;
            }
        }
    }
}

/// What there is to say of a buffer.
#[derive(Clone, Copy)]
struct Contents {
    id: u32,
    /// The node that was called; 0 for a reply.
    node: u32,
    offset: u32,
    data_size: u32,
    offsets_size: u32,
    extra_size: u32,
}

impl Contents {
    fn new(id: u32, held: &Held) -> Self {
        let [data_size, offsets_size, extra_size] = held.sizes();
        Self {
            id,
            node: held.node().map_or(0, |node| node.node().debug_id()),
            offset: held.offset(),
            data_size,
            offsets_size,
            extra_size,
        }
    }

    /// The buffer of a transaction that is not delivered yet.
    fn of_pending(transaction: &TransactionArc) -> Option<Self> {
        let inner = transaction.target().lock();
        let buffer = transaction.buffer(&inner)?;
        Some(Self::new(transaction.debug_id(), buffer.info()?))
    }
}

/// A line that is held back until something under it is to be shown.
enum Head {
    Process,
    Thread {
        id: i32,
        looper: u32,
        need_return: bool,
    },
}

/// One process on its way to a file.
pub(super) struct Listing<'a> {
    out: &'a Output<'a>,
    process: &'a Arc<Process>,
    refs: &'a RefsByNode,
    addresses: Addresses,
    /// Show also what is idle.
    whole: bool,
    heads: [Option<Head>; 2],
    /// The buffers that are known, by number.
    buffers: RBTree<u32, Contents>,
    /// The numbers of the calls that threads of this process work on.
    worked_on: RBTree<u32, ()>,
}

impl<'a> Listing<'a> {
    /// Everything there is.
    pub(super) fn whole(
        out: &'a Output<'a>,
        process: &'a Arc<Process>,
        refs: &'a RefsByNode,
        addresses: Addresses,
    ) -> Self {
        Self {
            out,
            process,
            refs,
            addresses,
            whole: true,
            heads: [Some(Head::Process), None],
            buffers: RBTree::new(),
            worked_on: RBTree::new(),
        }
    }

    /// What is under way.
    pub(super) fn busy(
        out: &'a Output<'a>,
        process: &'a Arc<Process>,
        refs: &'a RefsByNode,
        addresses: Addresses,
    ) -> Self {
        Self {
            whole: false,
            ..Self::whole(out, process, refs, addresses)
        }
    }

    /// Writes it.
    pub(super) fn print(mut self) {
        let Ok(mut items) = Items::new() else {
            return seq_print!(self.out, "(out of memory)\n");
        };
        if self.find_buffers().is_err() {
            seq_print!(self.out, "(out of memory: not all buffers are known)\n");
        }
        if self.whole {
            self.begin();
        }
        self.threads(&mut items);
        self.nodes(&mut items);
        if self.whole {
            self.handles();
        }

        items.clear();
        let inner = self.process.lock();
        items.add_list(inner.todo());
        let delivered = !inner.delivered_deaths().is_empty();
        let delivered_freeze = !inner.delivered_freezes().is_empty();
        drop(inner);
        self.note_buffers(&items);
        self.buffers();
        self.items(&items, "  ", "pending transaction", None);
        items.clear();
        if delivered {
            self.begin();
            seq_print!(self.out, "  has delivered dead binder\n");
        }
        if delivered_freeze {
            self.begin();
            seq_print!(self.out, "  has delivered freeze binder\n");
        }
    }

    /// Looks at the buffers that user space has: their transactions do not know them any more.
    fn find_buffers(&mut self) -> Result {
        let mut offset = 0;
        loop {
            let buffers = self.process.buffers().lock();
            let Some(live) = buffers.at_or_above(offset) else {
                break;
            };
            offset = live.offset.saturating_add(1);
            let found = live.data.map(|held| Contents::new(live.id, held));
            drop(buffers);
            if let Some(found) = found {
                self.buffers
                    .try_create_and_insert(found.id, found, GFP_KERNEL_ACCOUNT)?;
            }
        }
        Ok(())
    }

    /// Looks at the buffers of transactions that wait for this process.
    fn note_buffers(&mut self, items: &Items) {
        for item in &items.items {
            let Item::Due(Listed::Transaction(due)) = item else {
                continue;
            };
            if let Some(contents) = Contents::of_pending(due) {
                // Without memory the buffer is shown with the size it takes.
                let _ =
                    self.buffers
                        .try_create_and_insert(contents.id, contents, GFP_KERNEL_ACCOUNT);
            }
        }
    }

    /// Writes what was held back.
    fn begin(&mut self) {
        for head in &mut self.heads {
            match head.take() {
                None => {}
                Some(Head::Process) => {
                    seq_print!(self.out, "proc {}\n", self.process.pid());
                    seq_print!(self.out, "context {}\n", context_name(self.process));
                }
                Some(Head::Thread {
                    id,
                    looper,
                    need_return,
                }) => seq_print!(
                    self.out,
                    // Nothing holds on to a thread that has exited but those that have it in hand.
                    "  thread {}: l {:02x} need_return {} tr 0\n",
                    id,
                    looper,
                    u8::from(need_return)
                ),
            }
        }
    }

    fn threads(&mut self, items: &mut Items) {
        let mut from = Some(i32::MIN);
        while let Some(key) = from.filter(|_| !self.out.is_full()) {
            items.clear();
            let mut inner = self.process.lock();
            let Some(cursor) = inner.threads().cursor_lower_bound(&key) else {
                break;
            };
            let thread = cursor.current().1.clone();
            items.add_stack(&thread, &mut inner);
            items.add_list(thread.todo(&mut inner));
            let looper = thread.looper(&mut inner);
            let reply_error = *thread.reply_error(&mut inner);
            drop(inner);

            for item in &items.items {
                if let Item::Incoming(call) = item {
                    // Without memory a buffer is shown as delivered, which it was.
                    let _ = self.worked_on.try_create_and_insert(
                        call.debug_id(),
                        (),
                        GFP_KERNEL_ACCOUNT,
                    );
                }
            }
            self.note_buffers(items);
            self.heads[1] = Some(Head::Thread {
                id: thread.id(),
                looper,
                need_return: thread.needs_return(),
            });
            if self.whole {
                self.begin();
            }
            self.items(
                items,
                "    ",
                "pending transaction",
                Some((&thread, reply_error)),
            );
            self.heads[1] = None;
            items.clear();
            from = thread.id().checked_add(1);
        }
    }

    fn nodes(&mut self, items: &mut Items) {
        let mut from = Some(0);
        while let Some(key) = from.filter(|_| !self.out.is_full()) {
            items.clear();
            let inner = self.process.lock();
            let Some(node) = inner.nodes().next(key) else {
                break;
            };
            items.add_all(node.pending_oneway(&inner));
            drop(inner);
            self.note_buffers(items);
            if self.whole || !items.items.is_empty() {
                self.begin();
                print_node(self.out, &node, self.refs, self.addresses);
            }
            self.items(items, "    ", "pending async transaction", None);
            items.clear();
            from = node.ptr().checked_add(1);
        }
    }

    fn handles(&mut self) {
        struct Line {
            id: u32,
            number: u32,
            node: NodeArc,
            strong: usize,
            weak: usize,
            death: u64,
        }

        let Ok(mut lines) = KVec::with_capacity(BATCH, GFP_KERNEL_ACCOUNT) else {
            return seq_print!(self.out, "  (out of memory)\n");
        };
        let mut from = Some(0);
        while let Some(key) = from.filter(|_| !self.out.is_full()) {
            let handles = self.process.refs().lock();
            let next = batch(handles.entries(), key, |number, handle| {
                // There is room for it.
                let _ = lines.push_within_capacity(Line {
                    id: handle.debug_id(),
                    number,
                    node: handle.node().clone(),
                    strong: handle.strong(),
                    weak: handle.weak(),
                    // CAST: Widening.
                    death: handle
                        .death()
                        .map_or(0, |death| Arc::as_ptr(death).addr() as u64),
                });
            });
            drop(handles);
            for line in lines.drain_all() {
                seq_print!(
                    self.out,
                    "  ref {}: desc {} {}node {} s {} w {} d {}\n",
                    line.id,
                    line.number,
                    if line.node.owner().lock().is_dead() {
                        "dead "
                    } else {
                        ""
                    },
                    line.node.debug_id(),
                    line.strong,
                    line.weak,
                    Hashed(line.death)
                );
            }
            from = next;
        }
    }

    fn buffers(&mut self) {
        let mut offset = 0;
        while !self.out.is_full() {
            let buffers = self.process.buffers().lock();
            let Some(live) = buffers.at_or_above(offset) else {
                break;
            };
            let (at, size, id) = (live.offset, live.size, live.id);
            let held = live.data.map(|held| Contents::new(id, held));
            drop(buffers);
            offset = at.saturating_add(1);
            let over = held.is_some() && self.worked_on.get(&id).is_none();
            // What is just being filled is not known yet.
            let contents = held
                .or_else(|| self.buffers.get(&id).copied())
                .unwrap_or(Contents {
                    id,
                    node: 0,
                    offset: 0,
                    // CAST: A mapping's part.
                    data_size: size as u32,
                    offsets_size: 0,
                    extra_size: 0,
                });
            self.begin();
            seq_print!(
                self.out,
                "  buffer {}: {:x} size {}:{}:{} {}\n",
                id,
                at,
                contents.data_size,
                contents.offsets_size,
                contents.extra_size,
                if over { "delivered" } else { "active" }
            );
        }
    }

    fn items(
        &mut self,
        items: &Items,
        indent: &str,
        pending: &str,
        thread: Option<(&Arc<Thread>, Option<u32>)>,
    ) {
        for item in &items.items {
            self.begin();
            seq_print!(self.out, "{indent}");
            match item {
                Item::Outgoing(call) => self.transaction("outgoing transaction", call),
                Item::Incoming(call) => self.transaction("incoming transaction", call),
                Item::Due(Listed::Transaction(due)) => self.transaction(pending, due),
                Item::Due(Listed::Node(node)) => {
                    let (ptr, cookie) = self.addresses.of_node(node);
                    seq_print!(self.out, "node work {}: u{ptr} c{cookie}", node.debug_id());
                }
                Item::Due(Listed::Code(code)) => {
                    let error = match (code.kind(), thread) {
                        (CodeKind::ReturnError, Some((thread, _))) => thread.return_code(),
                        (CodeKind::ReplyError, Some((_, Some(code)))) => code,
                        _ => 0,
                    };
                    if error == 0 {
                        seq_print!(self.out, "transaction complete");
                    } else {
                        seq_print!(self.out, "transaction error: {error}");
                    }
                }
                Item::Due(Listed::Death(death)) => {
                    let inner = death.receiver().lock();
                    let cleared = death.kind_ref(&inner).is_clear();
                    drop(inner);
                    seq_print!(
                        self.out,
                        "{}",
                        if cleared {
                            "has cleared death notification"
                        } else {
                            "has dead binder"
                        }
                    );
                }
                Item::Due(Listed::Freeze(freeze)) => {
                    let inner = freeze.receiver().lock();
                    let cleared = freeze.kind_ref(&inner).is_clear();
                    drop(inner);
                    seq_print!(
                        self.out,
                        "{}",
                        if cleared {
                            "has cleared freeze notification"
                        } else {
                            "has frozen binder"
                        }
                    );
                }
            }
            seq_print!(self.out, "\n");
        }
        if items.more {
            self.begin();
            seq_print!(self.out, "{indent}(and more)\n");
        }
    }

    fn transaction(&mut self, what: &str, transaction: &TransactionArc) {
        let target = transaction.target();
        let details = transaction.details();
        let known = || self.buffers.get(&transaction.debug_id()).copied();
        let buffer = Contents::of_pending(transaction).or_else(known);
        let oneway = transaction.flags() & TF_ONE_WAY != 0;
        seq_print!(
            self.out,
            "{what} {}: {} from {}:{} to {}:{} code {:x} flags {:x} pri {} a{} r{} elapsed {}ms",
            transaction.debug_id(),
            // CAST: Widening.
            Hashed(Arc::as_ptr(transaction).addr() as u64),
            transaction.sender_pid(),
            details.sender_tid,
            target.pid(),
            details.handler,
            transaction.code(),
            transaction.flags(),
            details.sender_nice,
            u8::from(oneway),
            u8::from(transaction.from().is_none() && !oneway),
            milliseconds_since(transaction.start())
        );
        match buffer {
            _ if !Arc::ptr_eq(target, self.process) => {}
            Some(buffer) => seq_print!(
                self.out,
                " node {} size {}:{} offset {:x}",
                buffer.node,
                buffer.data_size,
                buffer.offsets_size,
                buffer.offset
            ),
            None => seq_print!(self.out, " buffer free"),
        }
    }
}

/// Writes one node's line.
pub(super) fn print_node(
    out: &Output<'_>,
    node: &NodeArc,
    refs: &RefsByNode,
    addresses: Addresses,
) {
    let inner = node.owner().lock();
    let counts = node.counts(&inner);
    let (strong, weak) = counts.told();
    let [handles, strong_refs, local_strong, local_weak] = counts.figures();
    drop(inner);
    let (ptr, cookie) = addresses.of_node(node);
    seq_print!(
        out,
        // The C driver ends this with temporary references; the one listed here is that of this listing.
        "  node {}: u{ptr} c{cookie} hs {} hw {} ls {} lw {} is {} iw {} tr 1",
        node.debug_id(),
        u8::from(strong),
        u8::from(weak),
        local_strong,
        local_weak,
        strong_refs,
        handles
    );
    let mut separator = " proc";
    for pid in refs.of(node.debug_id()) {
        seq_print!(out, "{separator} {pid}");
        separator = "";
    }
    seq_print!(out, "\n");
}
