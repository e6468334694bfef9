// SPDX-License-Identifier: GPL-2.0

//! Death notifications.

use binder_client::Call;
use binder_client::Commands;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;

use super::tests;
use crate::env::Env;
use crate::fixture::End;
use crate::fixture::Pair;
use crate::fixture::Registry;

tests! { Interface, "death_notification":
    death_is_told,
    death_before_the_request_is_told,
    death_is_told_to_every_holder,
    death_of_every_node_is_told,
    cleared_before_death,
    cleared_after_death_was_told,
    cleared_after_death_was_told_and_done,
    cleared_after_death_and_before_it_was_told,
    requested_twice,
    requested_again_after_clearing,
    requests_that_make_no_sense,
    answers_that_make_no_sense,
    request_on_the_manager,
    release_ends_the_notification,
    weak_reference_is_enough,
    death_of_the_holder,
    told_to_a_waiting_thread,
    told_while_a_call_is_out,
    cookies_are_the_holders_own,
    acknowledgement_with_another_cookie_is_refused,
    equal_cookies_are_acknowledged_in_turn,
}

/// A client with a handle to a node of a process that can be killed.
struct Scene {
    client: End,
    doomed: Option<End>,
    handle: u32,
    registry: Registry,
}

impl Scene {
    fn new(env: &Env) -> Self {
        let Pair { client, server, handle, registry } = Pair::new(env);
        // A looper, to which what is for the process comes.
        Self { client: client.enter(), doomed: Some(server), handle, registry }
    }

    fn send(&mut self, fill: impl FnOnce(&mut Commands<'static>, u32)) -> Vec<Return> {
        let handle = self.handle;
        fill(self.client.queue(), handle);
        assert_eq!(self.client.flush(), Ok(()));
        self.client.drain()
    }

    /// The owner closes, and the driver has let the node go: a second holder was told so. That calls fail would not be
    /// enough: they do before that.
    fn kill(&mut self, env: &Env) {
        let mut witness = End::open(env).enter();
        self.registry.put(&mut self.client, 50, object::handle(self.handle));
        let handle = self.registry.get(&mut witness, 50);
        witness.queue().request_death(handle, 1);
        witness.flush().expect("BC_REQUEST_DEATH_NOTIFICATION");
        self.doomed = None;
        assert_eq!(witness.wait(), Return::DeadBinder(1));
    }
}

const COOKIE: u64 = 0xdead_0001;
const DEAD: Return = Return::DeadBinder(COOKIE);
const CLEARED: Return = Return::ClearDeathNotificationDone(COOKIE);

fn death_is_told(env: &Env) {
    let mut scene = Scene::new(env);
    let told = scene.send(|commands, handle| {
        commands.request_death(handle, COOKIE);
    });
    assert_eq!(told, []);
    scene.doomed = None;
    assert_eq!(scene.client.wait(), DEAD);
    // Once.
    let told = scene.send(|commands, _| {
        commands.dead_binder_done(COOKIE);
    });
    assert_eq!(told, []);
}

fn death_before_the_request_is_told(env: &Env) {
    let mut scene = Scene::new(env);
    scene.kill(env);
    let told = scene.send(|commands, handle| {
        commands.request_death(handle, COOKIE);
    });
    assert_eq!(told, [DEAD]);
}

fn death_is_told_to_every_holder(env: &Env) {
    let mut scene = Scene::new(env);
    scene.registry.put(&mut scene.client, 50, object::handle(scene.handle));
    let mut holders: Vec<End> = (0..10u64)
        .map(|number| {
            let mut end = End::open(env).enter();
            let handle = scene.registry.get(&mut end, 50);
            end.queue().request_death(handle, number);
            end.flush().expect("BC_REQUEST_DEATH_NOTIFICATION");
            end
        })
        .collect();
    scene.doomed = None;
    for (number, end) in (0..).zip(&mut holders) {
        assert_eq!(end.wait(), Return::DeadBinder(number));
    }
}

fn death_of_every_node_is_told(env: &Env) {
    let mut scene = Scene::new(env);
    let mut doomed = scene.doomed.take().expect("alive");
    for number in 0..50u64 {
        scene.registry.put(&mut doomed, 60, object::binder(number * 8 + 8, 0));
        let handle = scene.registry.get(&mut scene.client, 60);
        scene.client.queue().request_death(handle, 1000 + number);
    }
    scene.client.flush().expect("BC_REQUEST_DEATH_NOTIFICATION");
    drop(doomed);
    let mut told: Vec<u64> = (0..50)
        .map(|_| match scene.client.wait() {
            Return::DeadBinder(cookie) => cookie,
            other => panic!("{other:x?}"),
        })
        .collect();
    told.sort_unstable();
    assert_eq!(told, (1000..1050).collect::<Vec<u64>>());
}

fn cleared_before_death(env: &Env) {
    let mut scene = Scene::new(env);
    let told = scene.send(|commands, handle| {
        commands.request_death(handle, COOKIE).clear_death(handle, COOKIE);
    });
    assert_eq!(told, [CLEARED]);
    scene.kill(env);
    scene.client.expect(&[]);
}

fn cleared_after_death_was_told(env: &Env) {
    let mut scene = Scene::new(env);
    scene.send(|commands, handle| {
        commands.request_death(handle, COOKIE);
    });
    scene.doomed = None;
    assert_eq!(scene.client.wait(), DEAD);
    // The answer waits until the holder is done with the news.
    let told = scene.send(|commands, handle| {
        commands.clear_death(handle, COOKIE);
    });
    assert_eq!(told, []);
    let told = scene.send(|commands, _| {
        commands.dead_binder_done(COOKIE);
    });
    assert_eq!(told, [CLEARED]);
}

fn cleared_after_death_was_told_and_done(env: &Env) {
    let mut scene = Scene::new(env);
    scene.send(|commands, handle| {
        commands.request_death(handle, COOKIE);
    });
    scene.doomed = None;
    assert_eq!(scene.client.wait(), DEAD);
    let told = scene.send(|commands, handle| {
        commands.dead_binder_done(COOKIE).clear_death(handle, COOKIE);
    });
    assert_eq!(told, [CLEARED]);
}

fn cleared_after_death_and_before_it_was_told(env: &Env) {
    let mut scene = Scene::new(env);
    scene.send(|commands, handle| {
        commands.request_death(handle, COOKIE);
    });
    scene.kill(env);
    let told = scene.send(|commands, handle| {
        commands.clear_death(handle, COOKIE);
    });
    assert_eq!(told, [DEAD]);
    let told = scene.send(|commands, _| {
        commands.dead_binder_done(COOKIE);
    });
    assert_eq!(told, [CLEARED]);
}

fn requested_twice(env: &Env) {
    let mut scene = Scene::new(env);
    let told = scene.send(|commands, handle| {
        commands.request_death(handle, COOKIE).request_death(handle, COOKIE + 1);
    });
    assert_eq!(told, []);
    // The first counts.
    scene.doomed = None;
    assert_eq!(scene.client.wait(), DEAD);
    scene.client.expect(&[]);
}

fn requested_again_after_clearing(env: &Env) {
    let mut scene = Scene::new(env);
    for _ in 0..3 {
        let told = scene.send(|commands, handle| {
            commands.request_death(handle, COOKIE).clear_death(handle, COOKIE);
        });
        assert_eq!(told, [CLEARED]);
    }
    scene.send(|commands, handle| {
        commands.request_death(handle, 77);
    });
    scene.doomed = None;
    assert_eq!(scene.client.wait(), Return::DeadBinder(77));
}

fn requests_that_make_no_sense(env: &Env) {
    let mut scene = Scene::new(env);
    let told = scene.send(|commands, handle| {
        commands.request_death(handle + 1, COOKIE).request_death(u32::MAX, COOKIE);
        commands.clear_death(handle + 1, COOKIE).clear_death(handle, COOKIE);
        commands.request_death(handle, COOKIE).clear_death(handle, COOKIE + 1);
    });
    assert_eq!(told, []);
    // What was asked for well holds.
    scene.doomed = None;
    assert_eq!(scene.client.wait(), DEAD);
}

fn answers_that_make_no_sense(env: &Env) {
    let mut scene = Scene::new(env);
    let told = scene.send(|commands, _| {
        commands.dead_binder_done(0).dead_binder_done(COOKIE).dead_binder_done(u64::MAX);
    });
    assert_eq!(told, []);
    scene.send(|commands, handle| {
        commands.request_death(handle, COOKIE);
    });
    let told = scene.send(|commands, _| {
        commands.dead_binder_done(COOKIE);
    });
    assert_eq!(told, []);
    scene.doomed = None;
    assert_eq!(scene.client.wait(), DEAD);
    let told = scene.send(|commands, _| {
        commands.dead_binder_done(COOKIE + 1).dead_binder_done(COOKIE).dead_binder_done(COOKIE);
    });
    assert_eq!(told, []);
}

fn request_on_the_manager(env: &Env) {
    let mut end = End::open(env).enter();
    let registry = Registry::start(env);
    end.queue().acquire(0).request_death(0, COOKIE);
    end.flush().expect("BC_REQUEST_DEATH_NOTIFICATION");
    end.expect(&[]);
    drop(registry);
    assert_eq!(end.wait(), DEAD);
}

fn release_ends_the_notification(env: &Env) {
    let mut scene = Scene::new(env);
    let told = scene.send(|commands, handle| {
        commands.request_death(handle, COOKIE).release(handle);
    });
    assert_eq!(told, []);
    let mut witness = End::open(env).enter();
    let mut doomed = scene.doomed.take().expect("alive");
    scene.registry.put(&mut doomed, 50, object::binder(8, 8));
    let handle = scene.registry.get(&mut witness, 50);
    witness.queue().request_death(handle, 1);
    witness.flush().expect("BC_REQUEST_DEATH_NOTIFICATION");
    drop(doomed);
    assert_eq!(witness.wait(), Return::DeadBinder(1));
    scene.client.expect(&[]);
}

fn weak_reference_is_enough(env: &Env) {
    let mut scene = Scene::new(env);
    let told = scene.send(|commands, handle| {
        commands.increfs(handle).release(handle).request_death(handle, COOKIE);
    });
    assert_eq!(told, []);
    scene.doomed = None;
    assert_eq!(scene.client.wait(), DEAD);
    let told = scene.send(|commands, handle| {
        commands.dead_binder_done(COOKIE).clear_death(handle, COOKIE).decrefs(handle);
    });
    assert_eq!(told, [CLEARED]);
}

fn death_of_the_holder(env: &Env) {
    for _ in 0..5 {
        let mut scene = Scene::new(env);
        scene.send(|commands, handle| {
            commands.request_death(handle, COOKIE);
        });
        let Scene { client, doomed, handle: _, registry } = scene;
        // In either order.
        drop(client);
        drop(doomed);
        drop(registry);
        let mut scene = Scene::new(env);
        scene.send(|commands, handle| {
            commands.request_death(handle, COOKIE);
        });
        scene.kill(env);
        drop(scene);
    }
    Pair::new(env).check();
}

fn told_to_a_waiting_thread(env: &Env) {
    let mut scene = Scene::new(env);
    scene.send(|commands, handle| {
        commands.request_death(handle, COOKIE);
    });
    scene.client.set_blocking(true);
    let binder = scene.client.binder().clone();
    let (say, hear) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        let mut looper = binder_client::Looper::new(binder);
        looper.queue().enter_looper();
        looper.flush().expect("BC_ENTER_LOOPER");
        say.send(binder_client::process::thread_id()).expect("the receiver is there");
        looper.next()
    });
    let thread = hear.recv().expect("the thread is there");
    crate::fixture::until_in_ioctl(nix::unistd::getpid().as_raw(), thread);
    scene.doomed = None;
    assert_eq!(waiting.join().expect("the thread is well"), Ok(DEAD));
}

fn told_while_a_call_is_out(env: &Env) {
    let mut scene = Scene::new(env);
    scene.send(|commands, handle| {
        commands.request_death(handle, COOKIE);
    });
    // The call is to the one that dies: its end comes first, as the thread is in the middle of it.
    scene.client.start(Call::new(scene.handle, 1, &Parcel::new()));
    scene.doomed = None;
    assert_eq!(scene.client.wait(), Return::TransactionComplete);
    assert_eq!(scene.client.wait(), Return::DeadReply);
    assert_eq!(scene.client.wait(), DEAD);
}

fn cookies_are_the_holders_own(env: &Env) {
    let mut scene = Scene::new(env);
    let mut other = End::open(env).enter();
    scene.registry.put(&mut scene.client, 50, object::handle(scene.handle));
    let handle = scene.registry.get(&mut other, 50);
    other.queue().request_death(handle, COOKIE);
    other.flush().expect("BC_REQUEST_DEATH_NOTIFICATION");
    scene.send(|commands, handle| {
        commands.request_death(handle, COOKIE);
    });
    // One clears, and the other's stays.
    let told = scene.send(|commands, handle| {
        commands.clear_death(handle, COOKIE);
    });
    assert_eq!(told, [CLEARED]);
    scene.doomed = None;
    assert_eq!(other.wait(), DEAD);
    scene.client.expect(&[]);
}

fn acknowledgement_with_another_cookie_is_refused(env: &Env) {
    let mut scene = Scene::new(env);
    scene.send(|commands, handle| {
        commands.request_death(handle, COOKIE);
    });
    scene.doomed = None;
    assert_eq!(scene.client.wait(), DEAD);
    let told = scene.send(|commands, handle| {
        commands.clear_death(handle, COOKIE);
        commands
            .dead_binder_done(0)
            .dead_binder_done(COOKIE - 1)
            .dead_binder_done(COOKIE + 1)
            .dead_binder_done(u64::MAX);
    });
    assert_eq!(told, []);
    let told = scene.send(|commands, _| {
        commands.dead_binder_done(COOKIE);
    });
    assert_eq!(told, [CLEARED]);
}

/// Two handles for which the holder chose one cookie. An acknowledgement is for the death notification that was told first.
fn equal_cookies_are_acknowledged_in_turn(env: &Env) {
    for cleared in [0, 1] {
        let mut scene = Scene::new(env);
        let mut doomed = scene.doomed.take().expect("alive");
        // A node above the scene's: its holders hear of it later.
        scene.registry.put(&mut doomed, 60, object::binder(u64::MAX - 7, 0));
        let handles = [scene.handle, scene.registry.get(&mut scene.client, 60)];
        let told = scene.send(|commands, _| {
            for handle in handles {
                commands.request_death(handle, COOKIE);
            }
        });
        assert_eq!(told, []);
        drop(doomed);
        assert_eq!([scene.client.wait(), scene.client.wait()], [DEAD; 2]);
        let told = scene.send(|commands, _| {
            commands.clear_death(handles[cleared], COOKIE);
        });
        assert_eq!(told, []);
        let told = [0, 1].map(|_| {
            scene.send(|commands, _| {
                commands.dead_binder_done(COOKIE);
            })
        });
        let mut wanted = [vec![], vec![]];
        wanted[cleared].push(CLEARED);
        assert_eq!(told, wanted);
        scene.registry.kill(&mut scene.client);
    }
}
