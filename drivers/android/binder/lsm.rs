// SPDX-License-Identifier: GPL-2.0

//! The hooks that security modules have for Binder.
//!
//! Mainline has the four functions and exports none of them; distributions that build the C driver as a module export
//! them. So they are looked up when the module is loaded, and a kernel that does not export one is one whose security
//! modules are not asked: that is said once, in the kernel's log.

use core::mem::{
    size_of,
    transmute_copy, //
};
use kernel::{
    bindings::{
        cred,
        file, //
    },
    cred::Credential,
    error::to_result,
    fs::File,
    prelude::*,
    sync::SetOnce, //
};

type SetContextManager = unsafe extern "C" fn(*const cred) -> c_int;
type Between = unsafe extern "C" fn(*const cred, *const cred) -> c_int;
type TransferFile = unsafe extern "C" fn(*const cred, *const cred, *const file) -> c_int;

/// The hooks there are.
///
/// # Invariants
///
/// Each is the kernel's function of that name, which may be called at any time until the module is gone.
struct Hooks {
    set_context_mgr: Option<SetContextManager>,
    transaction: Option<Between>,
    transfer_binder: Option<Between>,
    transfer_file: Option<TransferFile>,
}

static HOOKS: SetOnce<Hooks> = SetOnce::new();

/// Looks up what the kernel exports under a name.
///
/// # Safety
///
/// `T` must be the type of a pointer to the function of that name.
unsafe fn find<T: Copy>(name: &'static CStr, missing: &mut usize) -> Option<T> {
    const { assert!(size_of::<T>() == size_of::<*mut c_void>()) };
    // SAFETY: The name is a string. What is found belongs to the kernel itself, where these functions are, so no
    // reference to a module is taken that would have to be given back.
    let address = unsafe { kernel::bindings::__symbol_get(name.as_char_ptr()) };
    if address.is_null() {
        *missing += 1;
        return None;
    }
    // SAFETY: The address is that of the function, of the type that the caller promises.
    Some(unsafe { transmute_copy(&address) })
}

/// Looks the hooks up; to be called once, when the module is loaded.
pub(crate) fn init() {
    let mut missing = 0;
    // INVARIANT: What is found is the kernel's, which is never unloaded.
    // SAFETY: The types are those of `include/linux/security.h`.
    let hooks = unsafe {
        Hooks {
            set_context_mgr: find(c"security_binder_set_context_mgr", &mut missing),
            transaction: find(c"security_binder_transaction", &mut missing),
            transfer_binder: find(c"security_binder_transfer_binder", &mut missing),
            transfer_file: find(c"security_binder_transfer_file", &mut missing),
        }
    };
    if missing != 0 {
        pr_info!(
            "the kernel exports {} of the 4 Binder hooks of security modules, which are not asked at the others\n",
            4 - missing
        );
    }
    HOOKS.populate(hooks);
}

fn ask_between(hook: Option<Between>, from: &Credential, to: &Credential) -> Result {
    let Some(hook) = hook else { return Ok(()) };
    // SAFETY: By the invariant of `Hooks` this is the kernel's function; the credentials are valid as long as they
    // are borrowed.
    to_result(unsafe { hook(from.as_ptr(), to.as_ptr()) })
}

/// May a process with these credentials become context manager?
///
/// # Errors
///
/// The security module's.
pub(crate) fn may_become_manager(manager: &Credential) -> Result {
    let Some(hook) = HOOKS.as_ref().and_then(|hooks| hooks.set_context_mgr) else {
        return Ok(());
    };
    // SAFETY: By the invariant of `Hooks` this is the kernel's function; the credentials are valid as long as they
    // are borrowed.
    to_result(unsafe { hook(manager.as_ptr()) })
}

/// May one call the other?
///
/// # Errors
///
/// The security module's.
#[inline]
pub(crate) fn may_call(from: &Credential, to: &Credential) -> Result {
    ask_between(HOOKS.as_ref().and_then(|hooks| hooks.transaction), from, to)
}

/// May one give the other a node or a handle?
///
/// # Errors
///
/// The security module's.
pub(crate) fn may_give_node(from: &Credential, to: &Credential) -> Result {
    ask_between(
        HOOKS.as_ref().and_then(|hooks| hooks.transfer_binder),
        from,
        to,
    )
}

/// May one give the other this file?
///
/// # Errors
///
/// The security module's.
pub(crate) fn may_give_file(from: &Credential, to: &Credential, file: &File) -> Result {
    let Some(hook) = HOOKS.as_ref().and_then(|hooks| hooks.transfer_file) else {
        return Ok(());
    };
    // SAFETY: By the invariant of `Hooks` this is the kernel's function; all three are valid as long as they are
    // borrowed.
    to_result(unsafe { hook(from.as_ptr(), to.as_ptr(), file.as_ptr()) })
}
