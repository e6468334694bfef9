// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

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
    model::{
        Death,
        DeathPhase,
        DeathRef,
        Delivered,
        InnerGuard,
        Listed,
        NodeRef,
        Process,
        ProcessInner,
        Queued,
        ReadBuffer,
        Thread,
        Work, //
    },
    stats::CountedDeath,
    work::{
        remove_from,
        take_cookie, //
    },
};

fn key(death: &DeathRef) -> usize {
    Arc::as_ptr(death).addr()
}

impl Death {
    fn phase<'a>(&'a self, inner: &'a mut ProcessInner) -> &'a mut DeathPhase {
        self.phase.access_mut(inner)
    }
}

/// `node`'s owner is gone: `death` is to be told.
pub(crate) fn announce(death: &DeathRef) {
    let receiver = &death.receiver;
    let mut inner = receiver.inner.lock();
    let phase = death.phase(&mut inner);
    if *phase == DeathPhase::Alive {
        *phase = DeathPhase::Dead;
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
    *death.phase(&mut inner) = DeathPhase::Over;
    let mut queued = remove_from(&mut inner.delivered_deaths, death);
    if queued.is_none() {
        queued = remove_from(&mut inner.work, death);
    }
    drop(inner);
    drop(queued);
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
            phase: LockedBy::new(&self.inner, DeathPhase::Alive),
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
        match death.to_queue() {
            // Nothing is being told.
            Some(work) => {
                *death.phase(&mut inner) = DeathPhase::Clear;
                self.push_own_or_any(&mut inner, work);
            }
            None => *death.phase(&mut inner) = DeathPhase::DeadThenClear,
        }
        drop(inner);
        Ok(())
    }

    /// `BC_DEAD_BINDER_DONE`.
    ///
    /// # Errors
    ///
    /// A reason for the log.
    pub(crate) fn acknowledge_death(&self, cookie: u64) -> Result<(), &'static str> {
        let mut inner = self.process.inner.lock();
        let work =
            take_cookie(&mut inner.delivered_deaths, cookie).ok_or("no such obituary was told")?;
        if work.clear_after_acknowledgement(&mut inner) {
            self.push_own_or_any(&mut inner, work);
            drop(inner);
        } else {
            drop(inner);
            drop(work);
        }
        Ok(())
    }
}

impl Work for Death {
    fn deliver(
        self: Arc<Queued<Self>>,
        _thread: &Arc<Thread>,
        mut inner: InnerGuard<'_>,
        out: &mut ReadBuffer<'_>,
    ) -> Result<Delivered> {
        let (code, delivered) = match *self.phase(&mut inner) {
            DeathPhase::Dead | DeathPhase::DeadThenClear => {
                if let Some(work) = self.to_queue() {
                    inner.delivered_deaths.push_back(work);
                }
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

    fn cookie(&self) -> Option<u64> {
        Some(self.cookie)
    }

    fn clear_after_acknowledgement(&self, inner: &mut ProcessInner) -> bool {
        let phase = self.phase(inner);
        if *phase == DeathPhase::DeadThenClear {
            *phase = DeathPhase::Clear;
            return true;
        }
        false
    }
}
