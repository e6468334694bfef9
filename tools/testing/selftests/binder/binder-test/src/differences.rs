// SPDX-License-Identifier: GPL-2.0

//! Deliberate differences between the drivers.
//!
//! Each has a row in `Documentation/differences.md`, found by its name here; a unit test compares the two lists.

macro_rules! differences {
    ($($(#[$meta:meta])* $name:ident = $row:literal,)*) => {
        /// A deliberate difference from the C driver.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Difference {
            $($(#[$meta])* $name,)*
        }

        /// The rows' names.
        #[cfg(test)]
        const ROWS: &[&str] = &[$($row),*];
    };
}

differences! {
    /// What is written to a read buffer of one, two or three bytes, or with `read_consumed` beyond its end.
    TinyRead = "tiny-read",
    /// Whether `mremap` can make a mapping larger.
    GrownMapping = "grown-mapping",
    /// Whether pages can be read again after `MADV_DONTNEED`.
    Dontneed = "dontneed",
    /// Whether calls arrive in a mapping that was moved or split.
    MovedMapping = "moved-mapping",
    /// Whether pages of a mapping that was moved or split can be reclaimed.
    MovedReclaim = "moved-reclaim",
    /// Whether pages are reclaimed whatever state their process is in, and whatever pages are before them on the list.
    SkippedReclaim = "skipped-reclaim",
    /// How many flushes it takes to reclaim neighbouring pages.
    FlushPerPage = "flush-per-page",
    /// Whether an object at offset 0 can be a parent.
    ParentAtZero = "parent-at-zero",
    /// Whether a node can stay after a process is killed while it sends it.
    KilledNode = "killed-node",
    /// Whether a killed thread executes the rest of its write buffer.
    KilledWriter = "killed-writer",
    /// In which pid namespace `BINDER_FREEZE` looks up a pid.
    FreezeNamespace = "freeze-namespace",
    /// Which processes can be frozen from a device.
    FreezeMount = "freeze-mount",
    /// Which users may freeze a process.
    FreezeRights = "freeze-rights",
    /// The result of concurrent freezes and thaws.
    OvertakenFreeze = "overtaken-freeze",
    /// Whether a process can be frozen with a very long timeout.
    FreezeTimeout = "freeze-timeout",
    /// What becomes of the buffer of a transaction or reply that is never read.
    LostBuffer = "lost-buffer",
    /// Whether an epoll gets events after `BINDER_THREAD_EXIT` of the thread that added the device.
    DeafEpoll = "deaf-epoll",
    /// Whether a close of another descriptor wakes an epoll.
    FlushWatched = "flush-watched",
    /// Whether a receiver can read bytes before delivery.
    UndeliveredPage = "undelivered-page",
    /// Whether the new one-way transaction counts in the spam check.
    SpamLatest = "spam-latest",
    /// How long files in flight are held.
    InFlight = "in-flight",
    /// Whether memory cgroups are charged for what the driver allocates.
    MemoryCharged = "memory-charged",
    /// Whether the module can be unloaded.
    Unload = "unload",
    /// Whether a long todo list is shown whole.
    LongLists = "long-lists",
    /// Which mounts have a file for a process in `binder_logs/proc`.
    BinderfsProc = "binderfs-proc",
    /// What can be renamed in binderfs.
    BinderfsRename = "binderfs-rename",
}

#[cfg(test)]
mod tests {
    use super::ROWS;

    #[test]
    fn every_difference_has_its_row_and_every_row_its_difference() {
        let page = include_str!("../../../../../../Documentation/differences.md");
        let mut documented: Vec<&str> =
            page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name).collect();
        let mut tested = ROWS.to_vec();
        documented.sort_unstable();
        tested.sort_unstable();
        assert_eq!(documented, tested);
    }
}
