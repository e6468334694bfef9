// SPDX-License-Identifier: GPL-2.0

//! The module on a kernel that does not export the LSM hooks. These tests need `--module` and run last.
//!
//! The kernels under test export them. So in a copy of the module file, the names that the module looks up are
//! replaced by names that no kernel has.

use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::os::unix::fs::OpenOptionsExt;

use binder_client::Binder;
use nix::errno::Errno;
use nix::libc;

use super::module::Module;
use super::tests;
use crate::env::Env;
use crate::fixture::Pair;

tests! { Core, "missing_hooks":
    missing_ones_are_not_left_out_unasked,
    one_that_is_missing_is_one_too_many,
    missing_ones_can_be_left_out_on_purpose,
    none_is_missing_that_is_there,
}

const HOOKS: [&str; 4] = ["set_context_mgr", "transaction", "transfer_binder", "transfer_file"];

/// Whether SELinux is active: it alone has a context of this form for every process.
fn selinux_is_active() -> bool {
    let context = fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    println!("this process's context: {context:?}");
    context.trim_end_matches(['\0', '\n']) == "kernel" || context.matches(':').count() >= 2
}

/// A copy of the module that looks for other names in place of those of some hooks.
fn without(env: &Env, hooks: &[&str]) -> File {
    let mut bytes = fs::read(env.module.as_ref().expect("a module")).expect("the module's file");
    for hook in hooks {
        let name = format!("\0security_binder_{hook}\0");
        let found: Vec<usize> =
            bytes.windows(name.len()).enumerate().filter(|(_, at)| *at == name.as_bytes()).map(|(at, _)| at).collect();
        let [at] = found[..] else { panic!("{hook} is looked for {} times", found.len()) };
        bytes[at + 1..at + 9].copy_from_slice(b"no_such_");
    }
    let path = "/tmp/without-hooks.ko";
    fs::write(path, bytes).expect("a copy of the module");
    File::open(path).expect("the copy")
}

/// What the kernel says from now on.
struct Log(File);

impl Log {
    fn from_now() -> Self {
        let mut log = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").expect("/dev/kmsg");
        log.seek(SeekFrom::End(0)).expect("the end");
        Self(log)
    }

    /// Whether a line with this in it has come.
    #[track_caller]
    fn has(&mut self, wanted: &str) -> bool {
        let mut record = [0; 8192];
        let mut said = String::new();
        // One line each.
        while let Ok(length) = self.0.read(&mut record) {
            said += &String::from_utf8_lossy(&record[..length]);
        }
        println!("{said}");
        said.contains(wanted)
    }
}

/// The module, unloaded, where that can be done.
fn unloaded(env: &Env) -> Option<Module<'_>> {
    let module = Module::of(env);
    if module.stays() {
        return None;
    }
    module.unload_eventually();
    Some(module)
}

/// Whether loading comes to this, and what is there after it. What was loaded is unloaded again.
#[track_caller]
fn outcome(env: &Env, module: &Module<'_>, file: &File, word: &str, wanted: nix::Result<()>, line: &str) {
    let mut log = Log::from_now();
    let parameters = format!("{} {word}", env.module_params);
    assert_eq!(module.load_file(file, &parameters), wanted, "{word}");
    assert_eq!(env.device.exists(), wanted.is_ok());
    assert!(log.has(line), "nothing says '{line}'");
    if wanted.is_ok() {
        Pair::new(env).check();
        module.unload_eventually();
    }
}

fn missing_ones_are_not_left_out_unasked(env: &Env) {
    let Some(module) = unloaded(env) else { return };
    let file = without(env, &HOOKS);
    let (wanted, line) = if selinux_is_active() {
        (Err(Errno::ENOENT), "not loaded: SELinux is active, but the kernel exports 0 of its 4 Binder hooks")
    } else {
        (Ok(()), "the kernel exports 0 of the 4 Binder hooks of security modules")
    };
    for word in ["", "lsm_hooks=required"] {
        outcome(env, &module, &file, word, wanted, line);
    }
    for word in ["lsm_hooks=", "lsm_hooks=Optional", "lsm_hooks=1"] {
        outcome(env, &module, &file, word, Err(Errno::EINVAL), "'lsm_hooks' can be 'required' or 'optional'");
    }
    module.load();
}

fn one_that_is_missing_is_one_too_many(env: &Env) {
    let Some(module) = unloaded(env) else { return };
    for hook in HOOKS {
        let file = without(env, &[hook]);
        let (wanted, line) = if selinux_is_active() {
            (Err(Errno::ENOENT), "exports 3 of its 4 Binder hooks")
        } else {
            (Ok(()), "exports 3 of the 4 Binder hooks")
        };
        outcome(env, &module, &file, "", wanted, line);
    }
    module.load();
}

fn missing_ones_can_be_left_out_on_purpose(env: &Env) {
    let Some(module) = unloaded(env) else { return };
    let file = without(env, &HOOKS);
    let line = if selinux_is_active() {
        "SELinux is active and does not decide on calls: the kernel exports 0 of its 4 Binder hooks"
    } else {
        "the kernel exports 0 of the 4 Binder hooks of security modules"
    };
    outcome(env, &module, &file, "lsm_hooks=optional", Ok(()), line);
    module.load();
}

fn none_is_missing_that_is_there(env: &Env) {
    let Some(module) = unloaded(env) else { return };
    let mut log = Log::from_now();
    module.load();
    assert!(!log.has("hooks"));
    assert!(Binder::open(&env.device).is_ok());
}
