// SPDX-License-Identifier: GPL-2.0

//! Safe faces of what the kernel's C code offers and the kernel's crates do not.
//!
//! This is the lowest floor: the files here use no other part of the driver, and they know nothing of Binder.

pub(crate) mod debugfs;
pub(crate) mod fd;
pub(crate) mod helpers;
pub(crate) mod ida;
pub(crate) mod lru;
pub(crate) mod lsm;
pub(crate) mod memcg;
pub(crate) mod netlink;
pub(crate) mod nice;
pub(crate) mod release_queue;
pub(crate) mod rmap;
pub(crate) mod seq_file;
pub(crate) mod trace;
pub(crate) mod wait;
