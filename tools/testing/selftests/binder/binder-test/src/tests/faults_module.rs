// SPDX-License-Identifier: GPL-2.0

//! Module load with every allocation for its device nodes failing in turn.
//!
//! The kernel frees a module whose init function fails, whatever is open or mounted. Init can fail after the first node
//! exists, and udev or another program may open that node before.

use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;

use super::module::Module;
use super::module::module_gone;
use super::tests;
use crate::env::Env;
use crate::fixture::Pair;
use crate::fixture::Peer;
use crate::inject::Faults;
use crate::mounts::Mount;
use crate::mounts::open_error;
use crate::uevents::Uevents;

tests! { Faults, "faults":
    a_module_is_loaded,
}

/// The devices.
const NAMES: [&str; 2] = ["first", "second"];

/// A process that does something each time a node comes, until it is told a number.
fn whenever_a_node_comes(env: &Env, act: impl Fn()) -> Peer {
    let peer = Peer::start(env, |_, line| {
        let uevents = Uevents::new();
        line.say(0).expect("the test is there");
        while !line.heard() {
            let mut fds = [line.as_fd(), uevents.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            poll(&mut fds, PollTimeout::NONE).expect("poll");
            let events = uevents.of_misc_devices();
            events.iter().filter(|event| !event.starts_with("remove@")).for_each(|_| act());
        }
    });
    peer.hear();
    peer
}

fn a_module_is_loaded(env: &Env) {
    let module = Module::of(env);
    if module.stays() {
        return;
    }
    let faults = Faults::new(env);
    module.unload_eventually();
    let opener = whenever_a_node_comes(env, || {
        for name in NAMES {
            let error = open_error(&Path::new("/dev").join(name));
            assert!(matches!(error, None | Some(Errno::ENOENT | Errno::ENODEV)), "{error:?}");
        }
    });
    let mounter = whenever_a_node_comes(env, || {
        let error = Mount::with("").err();
        assert!(matches!(error, None | Some(Errno::ENODEV)), "{error:?}");
    });
    let uevents = Uevents::new();
    let parameters = format!("devices={}", NAMES.join(","));
    faults.only_below("misc_register");
    let mut late = 0;
    faults.walk("loading", |shot| {
        let loaded = shot.at(|| module.load_with(&parameters));
        match loaded {
            Ok(()) => module_gone(&module),
            Err(errno) => assert_eq!(errno, Errno::ENOMEM),
        }
        let came = uevents.of_misc_devices().iter().any(|event| event.starts_with("add@"));
        late += u32::from(loaded.is_err() && came);
        assert!(NAMES.iter().all(|name| !Path::new("/dev").join(name).exists()));
    });
    println!("{late} loads failed after a node had come");
    assert!(late > 0);
    for peer in [opener, mounter] {
        peer.say(0);
        peer.join();
    }
    module.load();
    Pair::new(env).check();
}
