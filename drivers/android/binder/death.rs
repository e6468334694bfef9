// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! Death notifications: a process asks to hear when the owner of a node it has a handle for is gone.
//!
//! The receiver acknowledges each obituary with `BC_DEAD_BINDER_DONE`. A request that is cleared meanwhile is reported
//! as cleared only after that, so that user space never hears of a request it has already let go.

use kernel::{
    prelude::*,
    rbtree::RBTreeNodeReservation,
    sync::{
        Arc,
        LockedBy, //
    },
};

use crate::{
    defs::{
        CookieReturn,
        BR_CLEAR_DEATH_NOTIFICATION_DONE,
        BR_DEAD_BINDER, //
    },
    node::NodeRef,
    process::{
        InnerGuard,
        Process,
        ProcessInner, //
    },
    read_buffer::ReadBuffer,
    stats::CountedDeath,
    thread::Thread,
    todo::{
        Delivered,
        Home,
        Listed,
        Queued,
        Work, //
    },
    unacknowledged::Place, //
};

/// A process's wish to hear of the death of a node's owner.
pub(crate) struct Death {
    /// Chosen by the process.
    pub(crate) cookie: u64,
    pub(crate) receiver: Arc<Process>,
    pub(crate) home: Home,
    /// Guarded by [`Process::inner`] of the receiver.
    pub(crate) state: LockedBy<DeathState, ProcessInner>,
    pub(crate) _counted: CountedDeath,
}

/// A counted reference to a [`Death`].
pub(crate) type DeathRef = Arc<Queued<Death>>;

/// The guarded part of a [`Death`].
pub(crate) struct DeathState {
    pub(crate) phase: DeathPhase,
    pub(crate) place: Place<Death>,
}

/// How far a [`Death`] has got.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeathPhase {
    /// The owner lives.
    Alive,
    /// It died; that is to be told, or told and not yet acknowledged.
    Dead,
    /// As `Dead`, and when that is acknowledged, that the request was cleared is to be told.
    DeadThenClear,
    /// That the request was cleared is to be told.
    Clear,
    /// Nothing is to be told any more.
    Over,
}

fn key(death: &DeathRef) -> usize {
    Arc::as_ptr(death).addr()
}

impl Death {
    fn state<'a>(&'a self, inner: &'a mut ProcessInner) -> &'a mut DeathState {
        self.state.access_mut(inner)
    }
}

/// `node`'s owner is gone: `death` is to be told.
pub(crate) fn announce(death: &DeathRef) {
    let receiver = &death.receiver;
    let mut inner = receiver.inner.lock();
    let state = death.state(&mut inner);
    if state.phase == DeathPhase::Alive {
        state.phase = DeathPhase::Dead;
        if let Some(work) = death.to_queue() {
            receiver.push(&mut inner, work);
        }
    }
}

/// The handle that `death` was requested for is gone, or its process: nothing is to be told any more.
pub(crate) fn cancel(death: &DeathRef, node: &NodeRef) {
    let mut inner = node.owner.inner.lock();
    let listed = node.state(&mut inner).deaths.remove_node(&key(death));
    drop(inner);
    drop(listed);

    let mut inner = death.receiver.inner.lock();
    let state = death.state(&mut inner);
    state.phase = DeathPhase::Over;
    let place = state.place.take();
    let delivered = match &place {
        Place::Inside(key) => inner.delivered_deaths.remove(*key),
        Place::Outside(_) | Place::Nowhere => None,
    };
    let queued = inner.work.remove(death);
    drop(inner);
    drop((queued, delivered, place));
}

impl Process {
    /// `BC_REQUEST_DEATH_NOTIFICATION`.
    ///
    /// # Errors
    ///
    /// A reason for the log. `ENOMEM` comes as the outer error.
    pub(crate) fn request_death(
        self: &Arc<Self>,
        handle: u32,
        cookie: u64,
    ) -> Result<Result<(), &'static str>> {
        let death = Queued::new(Death {
            cookie,
            receiver: self.clone(),
            home: Home::new(),
            state: LockedBy::new(
                &self.inner,
                DeathState {
                    phase: DeathPhase::Alive,
                    place: Place::new()?,
                },
            ),
            _counted: CountedDeath::new(),
        })?;
        let reservation = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;

        let mut handles = self.handles.lock();
        let Some(entry) = handles.entries.get_mut(&handle) else {
            return Ok(Err("no such handle"));
        };
        if entry.death.is_some() {
            return Ok(Err("already requested"));
        }
        entry.death = Some(death.clone());
        let node = entry.node.clone();
        let mut inner = node.owner.inner.lock();
        let dead = inner.dead;
        if !dead {
            let listed = reservation.into_node(key(&death), death.clone());
            node.state(&mut inner).deaths.insert(listed);
        }
        drop(inner);
        if dead {
            announce(&death);
        }
        Ok(Ok(()))
    }
}

impl Thread {
    /// `BC_CLEAR_DEATH_NOTIFICATION`.
    ///
    /// # Errors
    ///
    /// A reason for the log.
    pub(crate) fn clear_death(&self, handle: u32, cookie: u64) -> Result<(), &'static str> {
        let process = &self.process;
        let mut handles = process.handles.lock();
        let entry = handles.entries.get_mut(&handle).ok_or("no such handle")?;
        let death = entry.death.take_if(|death| death.cookie == cookie);
        let Some(death) = death else {
            return Err(if entry.death.is_some() {
                "cookie mismatch"
            } else {
                "not requested"
            });
        };
        let node = entry.node.clone();
        let mut inner = node.owner.inner.lock();
        let listed = node.state(&mut inner).deaths.remove_node(&key(&death));
        drop(inner);
        drop(listed);

        let mut inner = process.inner.lock();
        let told = death.state(&mut inner).place.is_inside();
        match death.to_queue() {
            // Nothing is being told.
            Some(work) if !told => {
                death.state(&mut inner).phase = DeathPhase::Clear;
                self.push_own_or_any(&mut inner, work);
            }
            _ => death.state(&mut inner).phase = DeathPhase::DeadThenClear,
        }
        drop(inner);
        // Before `death`, which may be the last reference by now.
        drop(handles);
        Ok(())
    }

    /// `BC_DEAD_BINDER_DONE`.
    ///
    /// # Errors
    ///
    /// A reason for the log.
    pub(crate) fn acknowledge_death(&self, cookie: u64) -> Result<(), &'static str> {
        let mut inner = self.process.inner.lock();
        let (death, place) = inner
            .delivered_deaths
            .take(cookie)
            .ok_or("no such obituary was told")?;
        let state = death.state(&mut inner);
        state.place = place;
        if state.phase == DeathPhase::DeadThenClear {
            state.phase = DeathPhase::Clear;
            if let Some(work) = death.to_queue() {
                self.push_own_or_any(&mut inner, work);
            }
        }
        drop(inner);
        Ok(())
    }
}

impl Process {
    /// Forgets the obituaries that were read and not acknowledged: there is no user space left for it.
    pub(crate) fn forget_delivered_deaths(&self) {
        loop {
            let mut inner = self.inner.lock();
            let taken = inner.delivered_deaths.take_any();
            drop(inner);
            if taken.is_none() {
                break;
            }
        }
    }
}

#[expect(unsafe_code)]
// SAFETY: A notification has one home, which is its own.
unsafe impl Work for Death {
    fn home(&self) -> Option<&Home> {
        Some(&self.home)
    }

    fn deliver(
        self: Arc<Queued<Self>>,
        _thread: &Arc<Thread>,
        mut inner: InnerGuard<'_>,
        out: &mut ReadBuffer<'_>,
    ) -> Result<Delivered> {
        let (code, delivered) = match self.state(&mut inner).phase {
            DeathPhase::Dead | DeathPhase::DeadThenClear => {
                let place = self.state(&mut inner).place.take();
                let place = inner
                    .delivered_deaths
                    .insert(self.clone(), self.cookie, place);
                self.state(&mut inner).place = place;
                // What user space does about it may take transactions, which it should not find in the same read.
                (BR_DEAD_BINDER, Delivered::Last)
            }
            DeathPhase::Clear => (BR_CLEAR_DEATH_NOTIFICATION_DONE, Delivered::More),
            DeathPhase::Alive | DeathPhase::Over => return Ok(Delivered::More),
        };
        drop(inner);
        out.put(&CookieReturn {
            code,
            cookie: self.cookie,
        })?;
        Ok(delivered)
    }

    fn listed(self: Arc<Queued<Self>>) -> Listed {
        Listed::Death(self)
    }

    fn cancel(self: Arc<Queued<Self>>) {}
}
