// SPDX-License-Identifier: GPL-2.0

//! The hooks as a module gets at them.
//!
//! Mainline has the four functions and exports none of them; distributions that build the C driver as a module export
//! them. So they are looked up by name when the module is loaded. A kernel that does not export one leaves its security
//! modules unasked, and what they forbid is allowed then.
//!
//! In mainline, one security module has something to say at these hooks: SELinux. Where it is active and cannot be asked,
//! the module is not loaded, unless `lsm_hooks=optional` says that it may. The others (AppArmor, Smack, TOMOYO, Landlock
//! and so on) have no code there. BPF programs can be attached to the hooks of a running kernel at any time. Nothing
//! tells a module of that, so a kernel that exports no hooks never asks those either; the log says so.

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

use crate::sys::helpers;

type SetContextManager = unsafe extern "C" fn(*const cred) -> c_int;
type Between = unsafe extern "C" fn(*const cred, *const cred) -> c_int;
type TransferFile = unsafe extern "C" fn(*const cred, *const cred, *const file) -> c_int;

/// How many hooks there should be.
const ALL: usize = 4;

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

impl Hooks {
    fn count(&self) -> usize {
        let all: [bool; ALL] = [
            self.set_context_mgr.is_some(),
            self.transaction.is_some(),
            self.transfer_binder.is_some(),
            self.transfer_file.is_some(),
        ];
        all.into_iter().filter(|&found| found).count()
    }
}

static HOOKS: SetOnce<Hooks> = SetOnce::new();

/// Looks up what the kernel exports under a name.
///
/// # Safety
///
/// `T` must be the type of a pointer to the function of that name.
unsafe fn find<T: Copy>(name: &'static CStr) -> Option<T> {
    const { assert!(size_of::<T>() == size_of::<*mut c_void>()) };
    // SAFETY: The name is a string. What is found belongs to the kernel itself, where these functions are, so no
    // reference to a module is taken that would have to be given back.
    let address = unsafe { kernel::bindings::__symbol_get(name.as_char_ptr()) };
    if address.is_null() {
        return None;
    }
    // SAFETY: The address is that of the function, of the type that the caller promises.
    Some(unsafe { transmute_copy(&address) })
}

/// Whether SELinux is active, as it is told by what every kernel exports: the properties that security modules give to a
/// task. SELinux gives each task an id that is not 0.
fn selinux_is_active() -> bool {
    #[cfg(CONFIG_SECURITY_SELINUX)]
    {
        let mut properties = kernel::bindings::lsm_prop::default();
        // SAFETY: The function writes to the properties alone.
        unsafe { kernel::bindings::security_current_getlsmprop_subj(&mut properties) };
        properties.selinux.secid != 0
    }
    #[cfg(not(CONFIG_SECURITY_SELINUX))]
    false
}

/// What `lsm_hooks=` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    /// A security module that has Binder hooks must be asked.
    Required,
    /// The driver may be used without that.
    Optional,
}

impl Demand {
    fn parse(text: &[u8]) -> Option<Self> {
        match text {
            b"required" => Some(Self::Required),
            b"optional" => Some(Self::Optional),
            _ => None,
        }
    }
}

/// What becomes of the hooks that are missing.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// None is.
    Complete,
    /// As far as one can know, nothing would be said at them.
    Unneeded,
    /// SELinux is not asked, and that was allowed.
    LeftOut,
    /// SELinux would not be asked: the module is not to be loaded.
    Refused,
}

fn judge(found: usize, selinux: bool, demand: Demand) -> Verdict {
    match (found, selinux, demand) {
        (ALL.., _, _) => Verdict::Complete,
        (_, false, _) => Verdict::Unneeded,
        (_, true, Demand::Optional) => Verdict::LeftOut,
        (_, true, Demand::Required) => Verdict::Refused,
    }
}

/// Looks the hooks up; to be called once, when the module is loaded.
///
/// # Errors
///
/// - `ENOENT`, as for a symbol that the module cannot do without: SELinux is active, its hooks are missing, and
///   `lsm_hooks=optional` is not given.
/// - `EINVAL` if `lsm_hooks=` says something else than it can.
pub(super) fn init() -> Result {
    let Some(demand) = Demand::parse(helpers::lsm_hooks()) else {
        pr_err!("'lsm_hooks' can be 'required' or 'optional'\n");
        return Err(EINVAL);
    };
    // INVARIANT: What is found is the kernel's, which is never unloaded.
    // SAFETY: The types are those of `include/linux/security.h`.
    let hooks = unsafe {
        Hooks {
            set_context_mgr: find(c"security_binder_set_context_mgr"),
            transaction: find(c"security_binder_transaction"),
            transfer_binder: find(c"security_binder_transfer_binder"),
            transfer_file: find(c"security_binder_transfer_file"),
        }
    };
    let found = hooks.count();
    match judge(found, selinux_is_active(), demand) {
        Verdict::Complete => {}
        Verdict::Unneeded => pr_info!(
            "the kernel exports {} of the 4 Binder hooks of security modules, which are not asked at the others\n",
            found
        ),
        Verdict::LeftOut => pr_warn!(
            "SELinux is active and does not decide on calls: the kernel exports {} of its 4 Binder hooks to modules\n",
            found
        ),
        Verdict::Refused => {
            pr_err!(
                "not loaded: SELinux is active, but the kernel exports {} of its 4 Binder hooks (security_binder_*) to modules\n",
                found
            );
            pr_err!(
                "build the driver into the kernel, or have what SELinux forbids be allowed with lsm_hooks=optional\n"
            );
            return Err(ENOENT);
        }
    }
    HOOKS.populate(hooks);
    Ok(())
}

fn ask_between(hook: Option<Between>, from: &Credential, to: &Credential) -> Result {
    let Some(hook) = hook else { return Ok(()) };
    // SAFETY: By the invariant of `Hooks` this is the kernel's function; the credentials are valid as long as they
    // are borrowed.
    to_result(unsafe { hook(from.as_ptr(), to.as_ptr()) })
}

/// See [`super::may_become_manager`].
pub(super) fn binder_set_context_mgr(manager: &Credential) -> Result {
    let Some(hook) = HOOKS.as_ref().and_then(|hooks| hooks.set_context_mgr) else {
        return Ok(());
    };
    // SAFETY: By the invariant of `Hooks` this is the kernel's function; the credentials are valid as long as they
    // are borrowed.
    to_result(unsafe { hook(manager.as_ptr()) })
}

/// See [`super::may_call`].
#[inline]
pub(super) fn binder_transaction(from: &Credential, to: &Credential) -> Result {
    ask_between(HOOKS.as_ref().and_then(|hooks| hooks.transaction), from, to)
}

/// See [`super::may_give_node`].
pub(super) fn binder_transfer_binder(from: &Credential, to: &Credential) -> Result {
    ask_between(
        HOOKS.as_ref().and_then(|hooks| hooks.transfer_binder),
        from,
        to,
    )
}

/// See [`super::may_give_file`].
pub(super) fn binder_transfer_file(from: &Credential, to: &Credential, file: &File) -> Result {
    let Some(hook) = HOOKS.as_ref().and_then(|hooks| hooks.transfer_file) else {
        return Ok(());
    };
    // SAFETY: By the invariant of `Hooks` this is the kernel's function; all three are valid as long as they are
    // borrowed.
    to_result(unsafe { hook(from.as_ptr(), to.as_ptr(), file.as_ptr()) })
}

#[kunit_tests(binder_lsm_hooks)]
mod tests {
    use super::*;

    #[test]
    fn selinux_is_not_left_out_by_itself() {
        for found in 0..ALL {
            assert_eq!(judge(found, true, Demand::Required), Verdict::Refused);
            assert_eq!(judge(found, true, Demand::Optional), Verdict::LeftOut);
        }
    }

    #[test]
    fn what_has_nothing_to_say_is_not_missed() {
        for demand in [Demand::Required, Demand::Optional] {
            for found in 0..ALL {
                assert_eq!(judge(found, false, demand), Verdict::Unneeded);
            }
            for selinux in [false, true] {
                assert_eq!(judge(ALL, selinux, demand), Verdict::Complete);
            }
        }
    }

    #[test]
    fn a_demand_is_one_of_two_words() {
        assert_eq!(Demand::parse(b"required"), Some(Demand::Required));
        assert_eq!(Demand::parse(b"optional"), Some(Demand::Optional));
        for text in [&b""[..], b"Optional", b"optional ", b"0", b"n"] {
            assert_eq!(Demand::parse(text), None);
        }
    }
}
