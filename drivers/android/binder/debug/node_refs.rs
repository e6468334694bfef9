// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Which processes have references to which node.
//!
//! Nodes do not know that; handles know their nodes. So a listing of nodes begins with a look at all handles.

use core::cmp::Reverse;
use kernel::{
    prelude::*,
    rbtree::RBTree,
    seq_print,
    sync::Arc, //
};

use crate::{
    node::NodeArc,
    process::Process,
    sys::seq_file::Output, //
};

use super::{
    batch,
    process::print_node,
    Addresses,
    BATCH, //
};

/// The most handles that are looked at.
const MOST: usize = 1 << 16;

/// All handles, by node.
pub(super) struct RefsByNode {
    /// The pids of the processes, by the numbers of node and reference. The youngest reference comes first.
    handles: RBTree<(u32, Reverse<u32>), i32>,
    /// Nodes whose owners are gone, by number.
    dead: RBTree<u32, NodeArc>,
    /// There was no memory for more, or there were too many.
    incomplete: bool,
}

impl RefsByNode {
    /// The handles of `processes`.
    pub(super) fn new<'a>(processes: impl Iterator<Item = &'a Arc<Process>>) -> Self {
        let mut refs = Self {
            handles: RBTree::new(),
            dead: RBTree::new(),
            incomplete: false,
        };
        refs.incomplete = refs.look(processes).is_err();
        refs
    }

    fn look<'a>(&mut self, processes: impl Iterator<Item = &'a Arc<Process>>) -> Result {
        let mut found = KVec::with_capacity(BATCH, GFP_KERNEL_ACCOUNT)?;
        let mut count = 0;
        for process in processes {
            let mut from = Some(0);
            while let Some(key) = from {
                let handles = process.refs().lock();
                from = batch(handles.entries(), key, |_, handle| {
                    // There is room for it.
                    let _ = found.push_within_capacity((handle.debug_id(), handle.node().clone()));
                });
                drop(handles);
                count = found.len().saturating_add(count);
                if count > MOST {
                    return Err(ENOSPC);
                }
                for (handle, node) in found.drain_all() {
                    let key = (node.debug_id(), Reverse(handle));
                    self.handles
                        .try_create_and_insert(key, process.pid(), GFP_KERNEL_ACCOUNT)?;
                    let is_dead = node.owner().lock().is_dead();
                    if is_dead {
                        self.dead.try_create_and_insert(
                            node.debug_id(),
                            node,
                            GFP_KERNEL_ACCOUNT,
                        )?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The processes that have a handle for the node of this number, the youngest handle first.
    pub(super) fn of(&self, node: u32) -> impl Iterator<Item = i32> + '_ {
        let mut from = Some(u32::MAX);
        core::iter::from_fn(move || {
            let cursor = self.handles.cursor_lower_bound(&(node, Reverse(from?)))?;
            let (&(other, Reverse(handle)), &pid) = cursor.current();
            from = handle.checked_sub(1);
            (other == node).then_some(pid)
        })
    }

    /// Lists the nodes whose owners are gone.
    pub(super) fn print_dead_nodes(&self, out: &Output<'_>, addresses: Addresses) {
        let mut head = "dead nodes:\n";
        for node in self.dead.values() {
            if out.is_full() {
                return;
            }
            seq_print!(out, "{head}");
            head = "";
            print_node(out, node, self, addresses);
        }
    }

    /// Says so if something is missing.
    pub(super) fn print_end(&self, out: &Output<'_>) {
        if self.incomplete {
            seq_print!(out, "(not all handles were looked at)\n");
        }
    }
}
