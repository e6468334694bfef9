// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! `stats`: what is counted in [`stats`](crate::stats), and what each process has just now.

use kernel::seq_print;

use crate::{
    process::{
        LooperCounts,
        Process, //
    },
    shrinker,
    stats::{
        Object,
        Stats,
        OF_DEAD_PROCESSES, //
    },
    sums::{
        count,
        increment, //
    },
    sys::{
        lru,
        seq_file::Output, //
    },
};

use super::{
    batch,
    context_name,
    Processes,
    MOST_WORK, //
};

/// Counters of the driver and of every process.
pub(super) fn show(out: &Output<'_>) {
    seq_print!(out, "binder stats:\n");
    let processes = Processes::new();
    let sum = Stats::new();
    sum.add(&OF_DEAD_PROCESSES);
    for process in processes.iter() {
        sum.add(process.stats());
    }
    print_counters(out, "", &sum);
    for object in Object::ALL {
        let (active, total) = object.count();
        if total != 0 {
            seq_print!(
                out,
                "{}: active {} total {}\n",
                object.name(),
                active,
                total
            );
        }
    }
    seq_print!(
        out,
        "page: lru {} reclaimed {}\n",
        lru::LRU.count_all(),
        shrinker::reclaimed()
    );
    for process in processes.iter().take_while(|_| !out.is_full()) {
        process_stats(out, process);
    }
    processes.print_end(out);
}

fn print_counters(out: &Output<'_>, indent: &str, stats: &Stats) {
    for (name, count) in stats.figures() {
        seq_print!(out, "{indent}{name}: {count}\n");
    }
}

fn process_stats(out: &Output<'_>, process: &Process) {
    let (mut threads, mut nodes) = (0usize, 0usize);
    let mut from = Some(i32::MIN);
    while let Some(key) = from {
        let inner = process.lock();
        from = batch(inner.threads(), key, |_, _| increment(&mut threads));
    }
    let mut from = Some(0);
    while let Some(key) = from {
        let inner = process.lock();
        from = batch(inner.nodes().tree(), key, |_, _| increment(&mut nodes));
    }
    let inner = process.lock();
    let LooperCounts {
        requested,
        started,
        max,
        waiting,
    } = inner.looper_counts();
    let pending = count(
        inner
            .todo()
            .iter()
            .take(MOST_WORK)
            .filter(|work| work.is_transaction()),
    );
    drop(inner);
    let (mut refs, mut strong, mut weak) = (0usize, 0usize, 0usize);
    let mut from = Some(0);
    while let Some(key) = from {
        let handles = process.refs().lock();
        from = batch(handles.entries(), key, |_, handle| {
            increment(&mut refs);
            strong = strong.saturating_add(handle.strong());
            weak = weak.saturating_add(handle.weak());
        });
    }
    let oneway_space = process.buffers().lock().oneway_space();
    let mut buffers = 0usize;
    let mut from = Some(0);
    while let Some(offset) = from {
        let ranges = process.buffers().lock();
        from = ranges
            .at_or_above(offset)
            .and_then(|live| live.offset.checked_add(1));
        drop(ranges);
        buffers = buffers.saturating_add(usize::from(from.is_some()));
    }
    let pages = process.pages().figures();

    seq_print!(out, "proc {}\n", process.pid());
    seq_print!(out, "context {}\n", context_name(process));
    seq_print!(out, "  threads: {threads}\n");
    seq_print!(out, "  requested threads: {requested}+{started}/{max}\n");
    seq_print!(out, "  ready threads {waiting}\n");
    seq_print!(out, "  free async space {oneway_space}\n");
    seq_print!(out, "  nodes: {nodes}\n");
    seq_print!(out, "  refs: {refs} s {strong} w {weak}\n");
    seq_print!(out, "  buffers: {buffers}\n");
    seq_print!(
        out,
        "  pages: {}:{}:{}\n",
        pages.used,
        pages.unused,
        pages.absent
    );
    seq_print!(out, "  pages high watermark: {}\n", pages.high_water);
    seq_print!(out, "  pending transactions: {pending}\n");
    print_counters(out, "  ", process.stats());
}
