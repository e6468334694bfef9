// SPDX-License-Identifier: GPL-2.0

//! The context manager: holds a handle to one service and gives it to clients.

use std::path::Path;
use std::sync::Arc;

use binder_client::Looper;
use binder_client::Parcel;
use binder_client::Served;
use binder_client::object;
use binder_client::process::Line;

use crate::Outcome;
use crate::PAGES;
use crate::open;
use crate::pages_behind;
use crate::text;

/// Carries the service's node.
pub const ADD: u32 = 1;
/// Is answered with a handle to it.
pub const GET: u32 = 2;

/// Answers until it is killed.
pub fn run(device: &Path, line: &Line) -> Outcome<()> {
    let binder = Arc::new(open(device)?);
    binder.become_manager().map_err(text)?;
    // Questions come on the line while the main thread waits for calls.
    std::thread::scope(|scope| {
        scope.spawn(|| answer_pages(line, &binder));
        line.say(0).map_err(|error| error.to_string())?;
        let mut service = None;
        Looper::new(binder.clone())
            .serve(|looper, received| match received.code {
                ADD => {
                    let payload = looper.payload(received).unwrap_or_default();
                    service = payload.flat(0).and_then(|object| object.as_handle());
                    if let Some(handle) = service {
                        looper.queue().acquire(handle);
                    }
                    Served::Reply(Parcel::new())
                }
                GET => Served::Reply(
                    service.map_or_else(Parcel::new, |handle| Parcel::from_object(&object::handle(handle))),
                ),
                _ => Served::Reply(Parcel::new()),
            })
            .map_err(text)
    })
}

/// Tells how many pages stand behind a mapping, as often as it is asked. The process ends with the line.
pub fn answer_pages(line: &Line, binder: &binder_client::Binder) {
    while matches!(line.hear(), Ok(PAGES)) {
        let Ok(pages) = pages_behind(binder) else { break };
        if line.say(pages).is_err() {
            break;
        }
    }
    std::process::exit(0);
}
