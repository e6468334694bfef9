// SPDX-License-Identifier: GPL-2.0

//! `binder_logs` in a mount of binderfs.

use super::binderfs::rename;
use super::tests;
use crate::differences::Difference;
use crate::env::Driver;
use crate::env::Env;
use crate::fixture::Peer;
use crate::fixture::until;
use crate::mounts::Mount;
use crate::mounts::errno;
use crate::mounts::write_to;
use binder_client::Binder;
use nix::errno::Errno;
use nix::unistd;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

tests! { Binderfs, "binderfs":
    logs_can_be_read_and_cannot_be_removed,
    a_process_has_a_file_while_it_has_a_device,
    files_of_processes_come_and_go_together,
    each_mount_has_files_of_its_own_processes,
}

/// A mount that shows what goes on.
pub fn with_logs() -> Mount {
    Mount::with("stats=global").expect("mount")
}

fn logs_can_be_read_and_cannot_be_removed(_: &Env) {
    let mount = with_logs();
    let logs = mount.at("binder_logs");
    for (name, start) in [
        ("state", "binder state:\n"),
        ("state_hashed", "binder state:\n"),
        ("stats", "binder stats:\n"),
        ("transactions", "binder transactions:\n"),
        ("transactions_hashed", "binder transactions:\n"),
        ("transaction_log", ""),
        ("failed_transaction_log", ""),
    ] {
        let path = logs.join(name);
        assert_eq!(fs::metadata(&path).expect("stat").mode(), 0o100_444);
        assert!(fs::read_to_string(&path).expect("text").starts_with(start), "{name}");
        assert_eq!(errno(write_to(&path, "0")), Some(Errno::EINVAL));
        assert_eq!(unistd::unlink(&path), Err(Errno::EPERM));
        assert_eq!(rename(&path, &mount.at("elsewhere")), Err(Errno::EPERM));
    }
    assert_eq!(errno(fs::remove_dir(logs.join("proc"))), Some(Errno::EPERM));
    assert_eq!(errno(fs::remove_dir(&logs)), Some(Errno::EPERM));
    assert_eq!(errno(File::create(logs.join("proc/1"))), Some(Errno::EACCES));
}

/// What a process's file must say: it has these devices open, in any order.
fn check_file(path: &Path, pid: i32, devices: &[&str]) {
    let text = fs::read_to_string(path).expect("text");
    assert_eq!(text.lines().filter(|line| *line == format!("proc {pid}")).count(), devices.len(), "{text}");
    let mut contexts: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("context ")).collect();
    let mut wanted = devices.to_vec();
    contexts.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(contexts, wanted, "{text}");
}

fn a_process_has_a_file_while_it_has_a_device(env: &Env) {
    let mount = with_logs();
    mount.make("one");
    mount.make("two");
    assert_eq!(mount.names("binder_logs/proc"), BTreeSet::new());
    let mut peer = Peer::start(env, |_, line| {
        let one = Binder::open(&mount.at("one")).expect("open");
        line.say(1).expect("said");
        line.hear().expect("heard");
        let two = Binder::open(&mount.at("two")).expect("open");
        line.say(2).expect("said");
        line.hear().expect("heard");
        drop(two);
        line.say(3).expect("said");
        line.hear().expect("heard");
        drop(one);
        line.say(4).expect("said");
        line.hear().expect("heard");
        let _again = Binder::open(&mount.at("one")).expect("open");
        line.say(5).expect("said");
        let _ = line.hear();
    });
    let pid = peer.pid();
    let path = mount.at("binder_logs/proc").join(pid.to_string());
    assert_eq!(peer.hear(), 1);
    assert_eq!(mount.names("binder_logs/proc"), [pid.to_string()].into());
    assert_eq!(fs::metadata(&path).expect("stat").mode(), 0o100_444);
    check_file(&path, pid, &["one"]);
    assert_eq!(unistd::unlink(&path), Err(Errno::EPERM));
    peer.say(0);
    assert_eq!(peer.hear(), 2);
    check_file(&path, pid, &["one", "two"]);
    peer.say(0);
    assert_eq!(peer.hear(), 3);
    until(|| fs::read_to_string(&path).expect("text").matches("\ncontext ").count() == 1);
    check_file(&path, pid, &["one"]);
    let mut open = File::open(&path).expect("open");
    peer.say(0);
    assert_eq!(peer.hear(), 4);
    until(|| !path.exists());
    // An open file outlives its name. It tells of no process once the last one has ended, which
    // is later than its name goes: both drivers end a process on a work queue.
    until(|| {
        let mut text = String::new();
        open.rewind().expect("seek");
        open.read_to_string(&mut text).expect("text");
        !text.contains("context ")
    });
    peer.say(0);
    assert_eq!(peer.hear(), 5);
    check_file(&path, pid, &["one"]);
    peer.kill();
    until(|| !path.exists());
}

fn files_of_processes_come_and_go_together(env: &Env) {
    let mount = with_logs();
    let device = mount.make("device");
    let peers: Vec<Peer> = (0..8)
        .map(|_| {
            Peer::start(env, |_, _| {
                std::thread::scope(|scope| {
                    for _ in 0..3 {
                        scope.spawn(|| {
                            for _ in 0..100 {
                                drop(Binder::open(&device).expect("open"));
                            }
                        });
                    }
                });
            })
        })
        .collect();
    // Read the logs meanwhile: each file can be read or is gone.
    for _ in 0..50 {
        for name in mount.names("binder_logs/proc") {
            match fs::read_to_string(mount.at("binder_logs/proc").join(name)) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
            }
        }
    }
    peers.into_iter().for_each(Peer::join);
    until(|| mount.names("binder_logs/proc").is_empty());
}

fn each_mount_has_files_of_its_own_processes(env: &Env) {
    let (first, second) = (with_logs(), with_logs());
    let own: BTreeSet<String> = [unistd::getpid().to_string()].into();
    let files = |mount: &Mount| mount.names("binder_logs/proc");
    let open = |mount: &Mount| Binder::open(&mount.make("device")).expect("open");
    let one = open(&first);
    let _other = open(&second);
    assert_eq!(files(&first), own);
    let wanted = match env.driver(Difference::BinderfsProc) {
        Driver::C => BTreeSet::new(),
        Driver::Ours => own,
    };
    assert_eq!(files(&second), wanted);
    drop(one);
    until(|| files(&first).is_empty());
    assert_eq!(files(&second), wanted);
}
