// SPDX-License-Identifier: GPL-2.0

//! A small client of the binder protocol.
//!
//! The protocol has a stream of commands (`BC_*`) to the driver, a stream of returns (`BR_*`) from it, both in one
//! ioctl, and buffers that the driver fills in a read-only mapping. This crate has types for each:
//!
//! - [`Binder`] is one open file with its mapping: the ioctls, and reading a received buffer.
//! - [`Commands`] builds the command stream, [`Returns`] parses the return stream.
//! - [`Parcel`] and [`object`] build the data and objects of a transaction.
//! - [`Looper`] is one thread that uses the driver: it queues commands, reads returns, makes calls.
//! - [`process`], [`pages`], [`clock`] and [`hostile`] are for tests and measurements.
//!
//! Nothing here hides the protocol: a test can send any bytes and look at any return. The crate does the layout
//! arithmetic and has the `unsafe` code, only in `sys.rs`, `process.rs`, `clock.rs` and `hostile.rs`.

pub mod clock;
mod commands;
mod error;
pub mod hostile;
mod looper;
pub mod object;
pub mod pages;
mod parcel;
pub mod process;
mod returns;
mod sys;
pub mod uapi;

pub use commands::Call;
pub use commands::Commands;
pub use error::Error;
pub use error::Result;
pub use looper::Looper;
pub use looper::Served;
pub use parcel::Parcel;
pub use returns::ParseError;
pub use returns::Return;
pub use returns::Returns;
pub use sys::Binder;
pub use sys::Mapping;
pub use sys::Payload;
pub use sys::Progress;

/// The size libbinder maps: one megabyte less two pages.
pub const LIBBINDER_MAPPING: usize = 1024 * 1024 - 2 * 4096;

/// The largest mapping a driver makes use of.
pub const MAX_MAPPING: usize = 4 * 1024 * 1024;
