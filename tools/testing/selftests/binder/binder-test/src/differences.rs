// SPDX-License-Identifier: GPL-2.0

//! Where the drivers differ on purpose.
//!
//! Each has a row in `Documentation/differences.md`, found by its name here; a unit test compares the two lists.

macro_rules! differences {
    ($($(#[$meta:meta])* $name:ident = $row:literal,)*) => {
        /// Something the C driver does and this project's driver does otherwise.
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
    /// What a read writes that has one, two or three bytes of room, or less than none.
    TinyRead = "tiny-read",
    /// Whether `mremap` can make a mapping larger.
    GrownMapping = "grown-mapping",
    /// Whether pages thrown out with `MADV_DONTNEED` come back.
    Dontneed = "dontneed",
    /// Whether calls arrive in a mapping that was moved or split.
    MovedMapping = "moved-mapping",
    /// Whether pages of a mapping that was moved or split can be reclaimed.
    MovedReclaim = "moved-reclaim",
    /// Whether pages are reclaimed whatever state their process is in, and whatever stands before them.
    SkippedReclaim = "skipped-reclaim",
    /// How many flushes it takes to reclaim neighbouring pages.
    FlushPerPage = "flush-per-page",
    /// Whether an object at the very start of the data can be a parent.
    ParentAtZero = "parent-at-zero",
    /// Whether a process that is killed while it talks can leave a node behind.
    KilledNode = "killed-node",
    /// Whether a thread that is killed carries out the rest of its commands.
    KilledWriter = "killed-writer",
    /// In which pid namespace `BINDER_FREEZE` looks up a pid.
    FreezeNamespace = "freeze-namespace",
    /// Which processes can be frozen from a device.
    FreezeMount = "freeze-mount",
    /// Which users may freeze a process.
    FreezeRights = "freeze-rights",
    /// What holds where a process is frozen and thawed at the same time.
    OvertakenFreeze = "overtaken-freeze",
    /// Whether a process can be frozen with a very long time-out.
    FreezeTimeout = "freeze-timeout",
    /// What becomes of the buffer of a transaction or reply that is never read.
    LostBuffer = "lost-buffer",
    /// What an epoll hears after the thread that set it up has left.
    DeafEpoll = "deaf-epoll",
    /// Whether a close of another descriptor is told to an epoll.
    FlushWatched = "flush-watched",
    /// Whether bytes that were never delivered can be seen.
    UndeliveredPage = "undelivered-page",
    /// Whether a one-way call counts when its own sender is judged.
    SpamLatest = "spam-latest",
    /// How long files on their way to a process are held.
    InFlight = "in-flight",
    /// Whether memory cgroups are charged for what the driver allocates.
    MemoryCharged = "memory-charged",
    /// Whether the module can be unloaded.
    Unload = "unload",
    /// Whether a long list of work is shown whole.
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
