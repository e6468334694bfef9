// SPDX-License-Identifier: GPL-2.0
//! The interfaces between the service and its clients, generated from AIDL.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

include!(concat!(env!("OUT_DIR"), "/clients.rs"));

pub use clients::{IAsync, ICallback, IService, Record};

/// The device that the service manager, the service and the clients meet on.
pub const DEVICE: &str = "/dev/binder";

/// The names in the service manager.
pub const SERVICE: &str = "clients.service";
/// See [`SERVICE`].
pub const ASYNC_SERVICE: &str = "clients.async";

/// How many callers [`IService::IService::meet`] can bring together.
pub const THREADS: u32 = 16;

/// Two ends: what is written to one can be read from the other.
///
/// # Errors
///
/// The system's, where no more files can be opened.
pub fn connected() -> std::io::Result<(File, File)> {
    let (one, other) = UnixStream::pair()?;
    Ok((OwnedFd::from(one).into(), OwnedFd::from(other).into()))
}
