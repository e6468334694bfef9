// SPDX-License-Identifier: GPL-2.0

//! The hooks that security modules have for Binder.
//!
//! Built into the kernel, the driver calls them as the kernel's own crate does. Built as a module, it cannot do that
//! everywhere: see [`looked_up`].

use kernel::{
    cred::Credential,
    fs::File,
    prelude::*, //
};

#[cfg(MODULE)]
mod looked_up;

#[cfg(MODULE)]
use self::looked_up as hooks;
#[cfg(not(MODULE))]
use kernel::security as hooks;

/// To be called once, when the driver is loaded.
///
/// # Errors
///
/// Those of [`looked_up::init`], where the driver is a module.
pub(crate) fn init() -> Result {
    #[cfg(MODULE)]
    looked_up::init()?;
    Ok(())
}

/// May a process with these credentials become context manager?
///
/// # Errors
///
/// The security module's.
pub(crate) fn may_become_manager(manager: &Credential) -> Result {
    hooks::binder_set_context_mgr(manager)
}

/// May one call the other?
///
/// # Errors
///
/// The security module's.
#[inline]
pub(crate) fn may_call(from: &Credential, to: &Credential) -> Result {
    hooks::binder_transaction(from, to)
}

/// May one give the other a node or a handle?
///
/// # Errors
///
/// The security module's.
pub(crate) fn may_give_node(from: &Credential, to: &Credential) -> Result {
    hooks::binder_transfer_binder(from, to)
}

/// May one give the other this file?
///
/// # Errors
///
/// The security module's.
pub(crate) fn may_give_file(from: &Credential, to: &Credential, file: &File) -> Result {
    hooks::binder_transfer_file(from, to, file)
}
