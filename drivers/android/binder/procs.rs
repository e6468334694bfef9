// SPDX-License-Identifier: GPL-2.0

//! The table of all processes, of all devices: to find those with a pid, and for listings.
//!
//! No other lock is taken while the lock is held.

use kernel::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::Arc, //
};

use crate::{
    process::Process,
    sums::push, //
};

kernel::sync::global_lock! {
    // SAFETY: `init` is called when the module is loaded, before there is a device that could be opened.
    unsafe(uninit) static PROCESSES: Mutex<Option<RBTree<usize, Arc<Process>>>> = None;
}

/// Readies the table.
///
/// # Safety
///
/// To be called once, before anything else here.
pub(crate) unsafe fn init() {
    // SAFETY: By the caller's promise.
    unsafe { PROCESSES.init() };
}

fn key(process: &Arc<Process>) -> usize {
    Arc::as_ptr(process).addr()
}

/// Adds a process, until [`remove`].
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn add(process: &Arc<Process>) -> Result {
    let entry = RBTreeNode::new(key(process), process.clone(), GFP_KERNEL_ACCOUNT)?;
    PROCESSES
        .lock()
        .get_or_insert_with(RBTree::new)
        .insert(entry);
    Ok(())
}

/// Removes a process.
pub(crate) fn remove(process: &Arc<Process>) {
    let removed = PROCESSES
        .lock()
        .as_mut()
        .and_then(|processes| processes.remove_node(&key(process)));
    drop(removed);
}

/// The processes that are `wanted`, of which there can be very many. One that comes or goes meanwhile may be left out.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn find(wanted: impl Fn(&Process) -> bool) -> Result<KVVec<Arc<Process>>> {
    let mut found = KVVec::new();
    let mut result = Ok(());
    for_each(|process| {
        if result.is_ok() && wanted(process) {
            result = push(&mut found, process.clone(), GFP_KERNEL_ACCOUNT);
        }
    });
    result?;
    Ok(found)
}

/// Calls `f` for every process, with no lock held. One that comes or goes meanwhile may be left out.
pub(crate) fn for_each(mut f: impl FnMut(&Arc<Process>)) {
    let mut from = 0;
    loop {
        let processes = PROCESSES.lock();
        let Some(cursor) = processes
            .as_ref()
            .and_then(|processes| processes.cursor_lower_bound(&from))
        else {
            break;
        };
        let (&key, process) = cursor.current();
        let process = process.clone();
        drop(processes);
        f(&process);
        from = key.saturating_add(1);
    }
}
