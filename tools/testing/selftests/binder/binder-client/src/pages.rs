// SPDX-License-Identifier: GPL-2.0

//! Which pages of a mapping are present in the page table.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Once;

/// The size of a page.
pub const PAGE: usize = 4096;

/// The bit of an entry of `/proc/self/pagemap` that says so.
const PRESENT: u64 = 1 << 63;

/// For each page of a range of this process, whether its page table entry points to memory.
pub fn present(address: u64, len: usize) -> std::io::Result<Vec<bool>> {
    let mut entries = vec![0; len.div_ceil(PAGE) * size_of::<u64>()];
    let first = address / PAGE as u64 * size_of::<u64>() as u64;
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entries, first)?;
    let entry = |bytes: &[u8]| bytes.iter().rev().fold(0, |entry, byte| (entry << 8) | u64::from(*byte));
    Ok(entries.chunks_exact(size_of::<u64>()).map(|bytes| entry(bytes) & PRESENT != 0).collect())
}

/// How many pages of a range are present.
pub fn count(address: u64, len: usize) -> std::io::Result<usize> {
    Ok(present(address, len)?.into_iter().filter(|present| *present).count())
}

/// Has the kernel take back whatever its shrinkers can give. Takes root.
pub fn squeeze() -> std::io::Result<()> {
    const FILE: &str = "/proc/sys/vm/drop_caches";
    static SILENT: Once = Once::new();
    // Else the kernel's log has a line of each time, which takes longer than what it tells of.
    SILENT.call_once(|| drop(std::fs::write(FILE, "4")));
    std::fs::write(FILE, "2")
}
