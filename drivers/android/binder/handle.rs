// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Handles: one process's small numbers for other processes' nodes.
//!
//! The smallest free number is given to a node that a process hears of for the first time; 0 is kept for the context
//! manager's. A handle lives as long as it has a strong or a weak count.

use kernel::{
    bindings,
    id_pool::IdPool,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::Arc, //
};

use crate::{
    death,
    freeze,
    helpers::next_debug_id,
    model::{
        Handle,
        Handles,
        NodeRef,
        Process,
        StrongNode,
        Thread, //
    },
    node::{
        count_handle,
        uncount_handle, //
    },
    stats::CountedHandle, //
};

/// The most handles of one process. The bitmap of the numbers is one allocation, and this is the largest that the page
/// allocator has: it warns of whoever asks for more.
// CAST: Widening.
const MOST_NUMBERS: usize = 8 * bindings::KMALLOC_MAX_SIZE as usize;

impl Handles {
    /// An empty table.
    pub(crate) fn new() -> Self {
        Self {
            closed: false,
            entries: RBTree::new(),
            by_node: RBTree::new(),
            ids: IdPool::new(),
        }
    }
}

fn key(node: &NodeRef) -> usize {
    Arc::as_ptr(node).addr()
}

impl Process {
    /// Counts one reference more on `node` in this process's name, and returns the handle.
    ///
    /// `sender` is as in [`count_handle`].
    ///
    /// # Errors
    ///
    /// - `EINVAL` as in [`count_handle`].
    /// - `ESRCH` if this process is dead.
    /// - `ENOMEM`.
    pub(crate) fn insert_handle(
        &self,
        node: &NodeRef,
        strong: bool,
        sender: Option<&Thread>,
    ) -> Result<u32> {
        let mut handles = self.handles.lock();
        let handles = &mut *handles;
        if handles.closed {
            return Err(ESRCH);
        }
        if let Some(&number) = handles.by_node.get(&key(node)) {
            let handle = handles.entries.get_mut(&number).ok_or(EINVAL)?;
            handle.add(strong, sender)?;
            return Ok(number);
        }

        let entry = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        let index = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        let first = if self.context.is_manager_node(node) {
            0
        } else {
            1
        };
        let number = handles.take_number(first)?;
        if let Err(e) = count_handle(node, true, strong, sender) {
            handles.ids.release_id(number as usize);
            return Err(e);
        }
        // INVARIANT: One count is 1, and the node has counted the handle.
        handles.entries.insert(entry.into_node(
            number,
            Handle {
                debug_id: next_debug_id(),
                node: node.clone(),
                strong: usize::from(strong),
                weak: usize::from(!strong),
                death: None,
                freeze: None,
                _counted: CountedHandle::new(),
            },
        ));
        handles.by_node.insert(index.into_node(key(node), number));
        Ok(number)
    }

    /// Counts one reference more on a handle.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such handle, or a strong one is asked of one that is held only weakly, or as in
    /// [`count_handle`].
    pub(crate) fn add_to_handle(&self, number: u32, strong: bool) -> Result {
        let mut handles = self.handles.lock();
        let handle = handles.entries.get_mut(&number).ok_or(EINVAL)?;
        if strong && handle.strong == 0 {
            return Err(EINVAL);
        }
        handle.add(strong, None)
    }

    /// Counts one reference less on a handle, which goes with its last.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such handle, or it has no such count.
    pub(crate) fn remove_from_handle(&self, number: u32, strong: bool) -> Result {
        let mut guard = self.handles.lock();
        let handles = &mut *guard;
        let handle = handles.entries.get_mut(&number).ok_or(EINVAL)?;
        let count = if strong {
            &mut handle.strong
        } else {
            &mut handle.weak
        };
        *count = count.checked_sub(1).ok_or(EINVAL)?;
        let last_strong = strong && handle.strong == 0;
        let gone = handle.strong == 0 && handle.weak == 0;
        if !last_strong && !gone {
            return Ok(());
        }
        let node = handle.node.clone();
        let mut removed = None;
        if gone {
            removed = handles.entries.remove(&number);
            handles.by_node.remove(&key(&node));
            handles.ids.release_id(number as usize);
        }
        drop(guard);
        if let Some(handle) = removed {
            handle.cancel_notifications();
        }
        uncount_handle(&node, last_strong, gone);
        Ok(())
    }

    /// The node behind a handle, held strongly; for calling it.
    ///
    /// # Errors
    ///
    /// - `EINVAL` if there is no such handle, or it has no strong count.
    /// - `ESRCH` if the node's owner is dead.
    pub(crate) fn strong_node(&self, number: u32) -> Result<StrongNode> {
        let handles = self.handles.lock();
        let handle = handles.entries.get(&number).ok_or(EINVAL)?;
        if handle.strong == 0 {
            return Err(EINVAL);
        }
        StrongNode::new(handle.node.clone())
    }

    /// The node behind a handle that has a count of the kind asked for: any will do for a weak one.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is none.
    pub(crate) fn node_of_handle(&self, number: u32, strong: bool) -> Result<NodeRef> {
        let handles = self.handles.lock();
        let handle = handles.entries.get(&number).ok_or(EINVAL)?;
        if strong && handle.strong == 0 {
            return Err(EINVAL);
        }
        Ok(handle.node.clone())
    }

    /// Gives up all handles. No more can be made after this.
    pub(crate) fn close_handles(&self) {
        let mut handles = self.handles.lock();
        handles.closed = true;
        let entries = core::mem::take(&mut handles.entries);
        let by_node = core::mem::take(&mut handles.by_node);
        drop(handles);
        drop(by_node);
        for handle in entries.values() {
            handle.cancel_notifications();
            uncount_handle(&handle.node, handle.strong != 0, true);
        }
    }
}

impl Handle {
    fn cancel_notifications(&self) {
        if let Some(death) = &self.death {
            death::cancel(death, &self.node);
        }
        if let Some(freeze) = &self.freeze {
            freeze::cancel(freeze, &self.node);
        }
    }

    fn add(&mut self, strong: bool, sender: Option<&Thread>) -> Result {
        let count = if strong {
            &mut self.strong
        } else {
            &mut self.weak
        };
        if *count == 0 {
            // A weak count of a handle that is there needs no counting at the node, but the same conditions hold.
            count_handle(&self.node, false, strong, sender)?;
        }
        *count = count.checked_add(1).ok_or(ENOMEM)?;
        Ok(())
    }
}

impl Handles {
    /// Takes the smallest free number that is not below `from`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, also where all numbers are taken.
    fn take_number(&mut self, from: usize) -> Result<u32> {
        self.take_number_of(from, MOST_NUMBERS)
    }

    /// As [`take_number`](Self::take_number), with a table that does not grow beyond `most` numbers.
    fn take_number_of(&mut self, from: usize, most: usize) -> Result<u32> {
        loop {
            if let Some(id) = self.ids.find_unused_id(from) {
                // CAST: Below `MOST_NUMBERS`.
                return Ok(id.acquire() as u32);
            }
            // It doubles.
            if self.ids.capacity() > most / 2 {
                return Err(ENOMEM);
            }
            let grown = self
                .ids
                .grow_request()
                .ok_or(ENOMEM)?
                .realloc(GFP_KERNEL_ACCOUNT)?;
            self.ids.grow(grown);
        }
    }
}

#[kunit_tests(binder_handle_numbers)]
mod tests {
    use super::*;

    /// Takes as many numbers; says whether they were these.
    fn take(handles: &mut Handles, numbers: core::ops::Range<u32>) -> Result<bool> {
        for number in numbers {
            if handles.take_number(1)? != number {
                return Ok(false);
            }
        }
        Ok(true)
    }

    #[test]
    fn the_lowest_free_number_is_given() -> Result {
        let mut handles = Handles::new();
        assert!(take(&mut handles, 1..6)?);
        for number in [4, 2, 3] {
            handles.ids.release_id(number);
        }
        assert_eq!(handles.take_number(1)?, 2);
        assert_eq!(handles.take_number(1)?, 3);
        assert_eq!(handles.take_number(1)?, 4);
        assert_eq!(handles.take_number(1)?, 6);
        Ok(())
    }

    #[test]
    fn zero_is_for_who_may_have_it() -> Result {
        let mut handles = Handles::new();
        assert_eq!(handles.take_number(1)?, 1);
        assert_eq!(handles.take_number(0)?, 0);
        assert_eq!(handles.take_number(0)?, 2);
        handles.ids.release_id(0);
        // Not even if it is the only one that is free.
        assert_eq!(handles.take_number(1)?, 3);
        assert_eq!(handles.take_number(0)?, 0);
        Ok(())
    }

    #[test]
    fn a_full_table_grows_and_keeps_what_it_has() -> Result {
        const MANY: u32 = 5000;

        let mut handles = Handles::new();
        assert!(take(&mut handles, 1..MANY)?);
        // Each of them is taken, and none was lost when the table grew.
        assert_eq!(handles.take_number(1)?, MANY);
        for number in [MANY - 1, 64, 63, 1] {
            handles.ids.release_id(number as usize);
        }
        for number in [1, 63, 64, MANY - 1, MANY + 1] {
            assert_eq!(handles.take_number(1)?, number);
        }
        Ok(())
    }

    #[test]
    fn a_table_that_cannot_grow_refuses_until_one_is_back() -> Result {
        let mut handles = Handles::new();
        let first = handles.ids.capacity();
        let most = 4 * first;
        for number in 1..most {
            assert_eq!(handles.take_number_of(1, most)?, number as u32);
        }
        assert_eq!(handles.ids.capacity(), most);
        // 0 is left, but not for everybody.
        assert_eq!(handles.take_number_of(1, most), Err(ENOMEM));
        assert_eq!(handles.take_number_of(1, most + 1), Err(ENOMEM));
        assert_eq!(handles.take_number_of(0, most)?, 0);
        assert_eq!(handles.take_number_of(0, most), Err(ENOMEM));
        handles.ids.release_id(first);
        assert_eq!(handles.take_number_of(1, most)?, first as u32);
        assert_eq!(handles.take_number_of(1, most), Err(ENOMEM));
        Ok(())
    }

    #[test]
    fn numbers_agree_with_a_model() -> Result {
        const MOST: usize = 600;

        let mut handles = Handles::new();
        let mut taken = KVec::from_elem(false, MOST, GFP_KERNEL)?;
        let mut random = 0x9e37_79b9_u32;
        for _ in 0..20_000 {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            let place = random as usize >> 8;
            let free = taken.iter().skip(1).position(|&taken| !taken);
            match (random & 1, free) {
                (0, Some(free)) => {
                    let number = handles.take_number(1)? as usize;
                    assert_eq!(number, free + 1);
                    if let Some(taken) = taken.get_mut(number) {
                        *taken = true;
                    }
                }
                _ => {
                    let number = place % MOST;
                    if let Some(taken) = taken.get_mut(number).filter(|taken| **taken) {
                        *taken = false;
                        handles.ids.release_id(number);
                    }
                }
            }
        }
        Ok(())
    }
}
