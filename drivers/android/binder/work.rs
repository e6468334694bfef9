// SPDX-License-Identifier: GPL-2.0
//! Work lists: putting something on one, and waking a thread for it.
//!
//! All of this runs under [`Process::inner`](crate::process::Process::inner) of the process the work is for.

use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    },
};

use crate::{
    code::Code,
    process::{
        Process,
        ProcessInner, //
    },
    thread::{
        Tally,
        Thread,
        ThreadInner,
        LOOPER_ENTERED,
        LOOPER_POLL,
        LOOPER_REGISTERED, //
    },
    todo::{
        Queued,
        Work,
        WorkArc, //
    },
    transaction::TransactionArc, //
};

impl Thread {
    /// The thread's guarded part.
    #[inline]
    pub(crate) fn state<'a>(&'a self, inner: &'a mut ProcessInner) -> &'a mut ThreadInner {
        self.inner.access_mut(inner)
    }

    /// Brings the process's counts of threads that poll up to date with this one, whose state has changed.
    #[cold]
    fn recount(&self, inner: &mut ProcessInner) {
        let state = self.state(inner);
        let polling = state.looper & LOOPER_POLL != 0;
        let now = Tally {
            polling,
            free_polling: polling && state.takes_any_work(),
        };
        let before = core::mem::replace(&mut state.tally, now);
        count(&mut inner.polling_threads, before.polling, now.polling);
        count(
            &mut inner.free_polling_threads,
            before.free_polling,
            now.free_polling,
        );
    }

    /// The thread polls from now on, or has stopped for good.
    pub(crate) fn set_polling(&self, inner: &mut ProcessInner, polling: bool) {
        let state = self.state(inner);
        if polling {
            state.looper |= LOOPER_POLL;
        } else {
            state.looper &= !LOOPER_POLL;
        }
        self.recount(inner);
    }

    /// Makes `stack` the innermost of the calls that the thread waits for or works on; returns what was that before.
    /// It is dropped after the lock.
    #[must_use]
    pub(crate) fn set_stack(
        &self,
        inner: &mut ProcessInner,
        stack: Option<TransactionArc>,
    ) -> Option<TransactionArc> {
        let busy = stack.is_some();
        let before = core::mem::replace(&mut self.state(inner).stack, stack);
        count(inner.freezing.busy_threads(), before.is_some(), busy);
        self.work_changed(inner);
        before
    }

    /// What the thread has to do has changed, which is counted if it polls.
    #[inline]
    fn work_changed(&self, inner: &mut ProcessInner) {
        if self.state(inner).looper & LOOPER_POLL != 0 {
            self.recount(inner);
        }
    }

    /// Takes the first work that is for this thread alone.
    #[inline]
    pub(crate) fn pop(&self, inner: &mut ProcessInner) -> Option<WorkArc<dyn Work>> {
        let state = self.state(inner);
        let work = state.work.pop_front();
        if state.work.is_empty() {
            state.has_work = false;
        }
        self.work_changed(inner);
        work
    }

    /// Takes `item` off this thread's work, if it is there.
    pub(crate) fn unqueue<T: Work + 'static>(
        &self,
        inner: &mut ProcessInner,
        item: &Arc<Queued<T>>,
    ) -> Option<WorkArc<dyn Work>> {
        let removed = self.state(inner).work.remove(item);
        self.work_changed(inner);
        removed
    }

    /// Queues work for this thread and wakes it.
    pub(crate) fn push<T: Work + 'static>(
        &self,
        inner: &mut ProcessInner,
        work: WorkArc<T>,
        sync: bool,
    ) {
        let state = self.state(inner);
        state.work.push_back(work);
        state.has_work = true;
        self.work_changed(inner);
        self.wake(inner, sync);
    }

    /// Queues work that this thread will see in its next read, but need not be woken for.
    pub(crate) fn push_deferred<T: Work + 'static>(
        &self,
        inner: &mut ProcessInner,
        work: WorkArc<T>,
    ) {
        self.state(inner).work.push_back(work);
        self.work_changed(inner);
    }

    /// Queues work that this thread, which is the current one, will see in its next read.
    pub(crate) fn push_own<T: Work + 'static>(&self, inner: &mut ProcessInner, work: WorkArc<T>) {
        self.state(inner).work.push_back(work);
        self.has_own(inner);
    }

    /// This thread, which is the current one, has got work. It may well wait for that in `epoll_wait` next, which knows
    /// only of what it is woken for.
    fn has_own(&self, inner: &mut ProcessInner) {
        let state = self.state(inner);
        let had = core::mem::replace(&mut state.has_work, true);
        self.work_changed(inner);
        if !had && self.state(inner).looper & LOOPER_POLL != 0 {
            self.process.poll.wake();
        }
    }

    /// Queues work for this thread, which is the current one, if it is a looper, and for any thread if not.
    pub(crate) fn push_own_or_any<T: Work + 'static>(
        &self,
        inner: &mut ProcessInner,
        work: WorkArc<T>,
    ) {
        let state = self.state(inner);
        if state.looper & (LOOPER_ENTERED | LOOPER_REGISTERED) != 0 {
            self.push_own(inner, work);
        } else {
            self.process.push(inner, work);
        }
    }

    /// Makes a failed call known to this thread, which waits for it.
    pub(crate) fn push_reply_error(&self, inner: &mut ProcessInner, code: u32) {
        let state = self.state(inner);
        if state.reply_error.is_none() {
            state.reply_error = Some(code);
        }
        if let Some(work) = self.reply_error.to_queue() {
            self.push(inner, work, false);
        }
    }

    /// Makes a failed command known to this thread, which gave it.
    pub(crate) fn push_return_error(&self, inner: &mut ProcessInner, code: u32) {
        self.return_code.store(code, Relaxed);
        if let Some(work) = self.return_error.to_queue() {
            self.push_own(inner, work);
        }
    }

    /// Wakes this thread if it sleeps, and whoever polls in its stead.
    pub(crate) fn wake(&self, inner: &mut ProcessInner, sync: bool) {
        self.sleeper.wake(sync);
        if self.state(inner).looper & LOOPER_POLL != 0 {
            self.process.poll.wake();
        }
    }

    /// The right to queue one `BR_TRANSACTION_COMPLETE` (or `code` in its place) for this thread.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn complete_work(&self, code: u32) -> Result<WorkArc<Code>> {
        let work = match self.complete.to_queue() {
            Some(work) => work,
            None => Code::new_complete()?.to_queue().ok_or(ENOMEM)?,
        };
        work.set(code);
        Ok(work)
    }

    /// See [`ThreadInner::takes_any_work`].
    pub(crate) fn takes_any_work(&self, inner: &mut ProcessInner) -> bool {
        self.state(inner).takes_any_work()
    }

    /// Whether a read has something to return.
    pub(crate) fn is_ready(&self, inner: &mut ProcessInner, takes_any: bool) -> bool {
        self.state(inner).has_work
            || self.need_return.load(Relaxed)
            || (takes_any && !inner.work.is_empty())
    }

    /// Takes this thread, which is the current one, off the list of idle ones if it is there.
    pub(crate) fn leave_idle(&self, inner: &mut ProcessInner) {
        // SAFETY: A thread is put on one list of this number only, its own process's `idle`, and this is the guarded
        // part of that process (or `access_mut` above would have refused it).
        unsafe { inner.idle.remove(self) };
    }
}

/// Counts a thread, or no longer, where something has become true of it, or is no longer true.
///
/// A thread is taken off only where it was counted.
#[inline]
fn count(threads: &mut u32, before: bool, now: bool) {
    *threads = threads
        .wrapping_add(u32::from(now))
        .wrapping_sub(u32::from(before));
}

impl ThreadInner {
    /// Whether the thread may take work that is not for it alone: it has nothing else to do.
    fn takes_any_work(&self) -> bool {
        self.stack.is_none() && self.work.is_empty()
    }
}

impl Process {
    /// Queues work that any thread may do, and wakes one for it.
    pub(crate) fn push<T: Work + 'static>(&self, inner: &mut ProcessInner, work: WorkArc<T>) {
        inner.work.push_back(work);
        self.wake_one(inner);
    }

    /// Queues work for an idle thread if there is one, for any thread if not.
    pub(crate) fn push_to_idle<T: Work + 'static>(
        &self,
        inner: &mut ProcessInner,
        work: WorkArc<T>,
        sync: bool,
    ) {
        if let Some(thread) = inner.idle.pop_front() {
            thread.push(inner, work, sync);
        } else {
            inner.work.push_back(work);
            self.poll_if_polled(inner);
        }
    }

    /// Queues work of any kind that was queued before, for an idle thread or for any.
    pub(crate) fn push_again(&self, inner: &mut ProcessInner, work: WorkArc<dyn Work>) {
        inner.work.push_back_any(work);
        self.wake_one(inner);
    }

    /// Wakes an idle thread, if there is one, to look at the common work.
    pub(crate) fn wake_one(&self, inner: &mut ProcessInner) {
        if let Some(thread) = inner.idle.pop_front() {
            thread.wake(inner, false);
        } else {
            self.poll_if_polled(inner);
        }
    }

    /// No thread sleeps that could take the work; some may poll. As long as all of those have other things to do they
    /// are left alone, as the C driver does. Where those that polled are gone, somebody may still watch the file.
    fn poll_if_polled(&self, inner: &ProcessInner) {
        if inner.polled && (inner.polling_threads == 0 || inner.free_polling_threads != 0) {
            self.poll.wake();
        }
    }
}
