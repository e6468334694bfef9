// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Death notifications: that the owner of a node is dead.
//!
//! The receiver acknowledges each with `BC_DEAD_BINDER_DONE`. If a request is cleared between, `BR_CLEAR_DEATH_NOTIFICATION_DONE`
//! comes after the acknowledgement, so that user space never reads about a request that it has let go of.

use kernel::prelude::*;

use crate::{
    defs::{
        CookieReturn,
        BR_CLEAR_DEATH_NOTIFICATION_DONE,
        BR_DEAD_BINDER, //
    },
    node::Node,
    notification::{
        Kind,
        Notification,
        NotificationArc,
        Requests, //
    },
    process::{
        InnerGuard,
        ProcessInner, //
    },
    read_buffer::ReadBuffer,
    refs::Ref,
    stats::DeathCount,
    thread::Thread,
    todo::{
        Delivered,
        Listed, //
    },
    unacknowledged::Unacknowledged, //
};

/// A counted reference to a death notification.
pub(crate) type DeathArc = NotificationArc<Death>;

/// The state of a death notification.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// The owner is alive.
    Alive,
    /// The owner died. `BR_DEAD_BINDER` is queued, or was read and not yet acknowledged.
    Dead,
    /// As `Dead`, and the request was cleared: `BR_CLEAR_DEATH_NOTIFICATION_DONE` follows the acknowledgement.
    DeadThenClear,
    /// The request was cleared, and `BR_CLEAR_DEATH_NOTIFICATION_DONE` is queued.
    Clear,
    /// Nothing is told any more.
    Over,
}

impl Death {
    /// Whether what is queued tells that the request was cleared.
    pub(crate) fn is_clear(self) -> bool {
        self == Self::Clear
    }
}

/// Tells the receiver of `death` that the owner of the node is dead.
pub(crate) fn announce(death: &DeathArc) {
    let receiver = death.receiver();
    let mut inner = receiver.lock();
    let state = death.kind(&mut inner);
    if *state == Death::Alive {
        *state = Death::Dead;
        if let Some(work) = death.to_queue() {
            receiver.push(&mut inner, work);
        }
    }
}

impl Kind for Death {
    type Count = DeathCount;
    type Seen = ();

    fn new() -> (Self, DeathCount) {
        (Self::Alive, DeathCount::new())
    }

    fn requests<'a>(node: &'a Node, owner: &'a mut ProcessInner) -> &'a mut Requests<Self> {
        node.deaths(owner)
    }

    fn delivered(receiver: &mut ProcessInner) -> &mut Unacknowledged<Notification<Self>> {
        receiver.delivered_deaths_mut()
    }

    fn slot(handle: &mut Ref) -> &mut Option<DeathArc> {
        handle.death_mut()
    }

    fn look(_owner: &mut ProcessInner) {}

    fn requested(death: &DeathArc, seen: Option<()>) {
        if seen.is_none() {
            announce(death);
        }
    }

    fn cleared(death: &DeathArc, thread: &Thread, inner: &mut ProcessInner) {
        match death.to_queue() {
            // Nothing is queued or to be acknowledged.
            Some(work) if !death.is_delivered(inner) => {
                *death.kind(inner) = Self::Clear;
                thread.push_own_or_any(inner, work);
            }
            _ => *death.kind(inner) = Self::DeadThenClear,
        }
    }

    fn acknowledged(death: &DeathArc, thread: &Thread, inner: &mut ProcessInner) {
        let state = death.kind(inner);
        if *state == Self::DeadThenClear {
            *state = Self::Clear;
            if let Some(work) = death.to_queue() {
                thread.push_own_or_any(inner, work);
            }
        }
    }

    fn end(&mut self) {
        *self = Self::Over;
    }

    fn deliver(
        death: &DeathArc,
        mut inner: InnerGuard<'_>,
        out: &mut ReadBuffer<'_>,
    ) -> Result<Delivered> {
        let (code, delivered) = match death.kind(&mut inner) {
            Self::Dead | Self::DeadThenClear => {
                death.set_delivered(&mut inner);
                // User space may answer with transactions, which it should not find in the same read.
                (BR_DEAD_BINDER, Delivered::Last)
            }
            Self::Clear => (BR_CLEAR_DEATH_NOTIFICATION_DONE, Delivered::More),
            Self::Alive | Self::Over => return Ok(Delivered::More),
        };
        drop(inner);
        out.put(&CookieReturn {
            code,
            cookie: death.cookie(),
        })?;
        Ok(delivered)
    }

    fn listed(death: DeathArc) -> Listed {
        Listed::Death(death)
    }
}
