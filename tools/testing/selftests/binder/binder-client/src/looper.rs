// SPDX-License-Identifier: GPL-2.0

use std::collections::VecDeque;
use std::sync::Arc;

use nix::errno::Errno;

use crate::Binder;
use crate::Call;
use crate::Commands;
use crate::Error;
use crate::Parcel;
use crate::Payload;
use crate::Result;
use crate::Return;
use crate::Returns;
use crate::uapi;
use crate::uapi::TransactionData;

/// Room for returns in one ioctl.
const READ_SIZE: usize = 256;

/// One thread's conversation with a driver.
///
/// Commands that carry nothing are queued and go out with the next ioctl, as every client does it: a
/// buffer is freed and the next call made in one entry into the kernel. Returns are read as many at a time as the
/// driver gives and handed out one by one.
#[derive(Debug)]
pub struct Looper {
    binder: Arc<Binder>,
    out: Commands<'static>,
    inbox: VecDeque<Return>,
    room: Box<[u8; READ_SIZE]>,
}

impl Looper {
    /// The calling thread's conversation on `binder`.
    pub fn new(binder: Arc<Binder>) -> Self {
        Self { binder, out: Commands::new(), inbox: VecDeque::with_capacity(8), room: Box::new([0; READ_SIZE]) }
    }

    /// The file this thread talks on.
    pub fn binder(&self) -> &Arc<Binder> {
        &self.binder
    }

    /// Commands to go out with the next ioctl.
    pub fn queue(&mut self) -> &mut Commands<'static> {
        &mut self.out
    }

    /// One ioctl: everything queued goes out, and with `read` returns come in.
    ///
    /// What the driver has taken is taken off the queue, and what it returned is in the inbox, whether the ioctl
    /// succeeded or not.
    pub fn talk(&mut self, read: bool) -> Result<()> {
        let room = if read { &mut self.room[..] } else { &mut [] };
        let (result, progress) = self.binder.write_read(self.out.bytes(), room);
        if progress.written == self.out.len() {
            self.out.clear();
        } else {
            self.out.consume(progress.written);
        }
        for ret in Returns::new(&self.room[..progress.read]) {
            match ret? {
                Return::Noop => {}
                ret => self.inbox.push_back(ret),
            }
        }
        result.map_err(|errno| Error::Sys { what: "BINDER_WRITE_READ", errno })
    }

    /// Sends what is queued and reads nothing.
    pub fn flush(&mut self) -> Result<()> {
        if self.out.is_empty() { Ok(()) } else { self.talk(false) }
    }

    /// The next return that is not `BR_NOOP`; waits for it where the file blocks.
    #[allow(clippy::should_implement_trait, reason = "it does not end and it can fail")]
    pub fn next(&mut self) -> Result<Return> {
        loop {
            if let Some(ret) = self.inbox.pop_front() {
                return Ok(ret);
            }
            match self.talk(true) {
                Err(Error::Sys { errno: Errno::EINTR, .. }) => {}
                result => result?,
            }
        }
    }

    /// The next return that was read already.
    pub fn pending(&mut self) -> Option<Return> {
        self.inbox.pop_front()
    }

    /// Sends a synchronous call and waits for the reply; a call back into this thread meanwhile is an error.
    pub fn call(&mut self, call: Call<'_>) -> Result<TransactionData> {
        self.call_with(call, |_, ret| Err(Error::Unexpected(ret)))
    }

    /// Sends a synchronous call and waits for the reply. Whatever else comes meanwhile, such as a
    /// call back into this thread, goes to `other`.
    pub fn call_with(
        &mut self,
        call: Call<'_>,
        mut other: impl FnMut(&mut Self, Return) -> Result<()>,
    ) -> Result<TransactionData> {
        self.out.command(uapi::BC_TRANSACTION, &call.data());
        loop {
            match self.next()? {
                Return::TransactionComplete => {}
                Return::Reply(reply) => return Ok(reply),
                Return::DeadReply => return Err(Error::Dead),
                Return::FailedReply => return Err(Error::Failed),
                Return::FrozenReply => return Err(Error::Frozen),
                ret => other(self, ret)?,
            }
        }
    }

    /// Sends a one-way call and waits until the driver has it.
    pub fn send(&mut self, call: Call<'_>) -> Result<()> {
        self.out.command(uapi::BC_TRANSACTION, &call.with_flags(uapi::TF_ONE_WAY).data());
        match self.next()? {
            Return::TransactionComplete => Ok(()),
            Return::DeadReply => Err(Error::Dead),
            Return::FailedReply => Err(Error::Failed),
            ret => Err(Error::Unexpected(ret)),
        }
    }

    /// Sends a reply. What the driver says to it is left in the inbox.
    pub fn reply(&mut self, parcel: &Parcel) -> Result<()> {
        self.reply_with(Call::reply(parcel))
    }

    /// Sends a reply with a code and flags.
    pub fn reply_with(&mut self, call: Call<'_>) -> Result<()> {
        self.out.command(uapi::BC_REPLY, &call.data());
        match self.talk(true) {
            // Taken, and nothing was there to read.
            Err(Error::Sys { errno: Errno::EAGAIN, .. }) if self.out.is_empty() => Ok(()),
            result => result,
        }
    }

    /// Copies what a transaction or reply carries.
    pub fn payload(&self, received: &TransactionData) -> Result<Payload> {
        self.binder.payload(received)
    }

    /// Gives a buffer back with the next ioctl.
    pub fn free(&mut self, received: &TransactionData) {
        self.out.free_buffer(received.buffer);
    }

    /// Answers calls until `handler` says stop or an ioctl fails.
    ///
    /// References that the driver asks for are granted; everything that is no call is passed over. The handler's parcel is
    /// the reply, which a one-way call does not have.
    pub fn serve(&mut self, mut handler: impl FnMut(&mut Self, &TransactionData) -> Served) -> Result<()> {
        self.out.enter_looper();
        loop {
            let received = match self.next()? {
                Return::Transaction(received) => received,
                Return::TransactionSecCtx(received) => received.transaction,
                ret => {
                    self.grant(&ret);
                    continue;
                }
            };
            let served = handler(self, &received);
            self.free(&received);
            if received.flags & uapi::TF_ONE_WAY == 0 {
                self.reply(match &served {
                    Served::Reply(parcel) | Served::Stop(parcel) => parcel,
                })?;
            }
            if let Served::Stop(_) = served {
                return self.flush();
            }
        }
    }

    /// Answers a request for a reference; anything else is left alone.
    pub fn grant(&mut self, ret: &Return) {
        match *ret {
            Return::IncRefs(node) => drop(self.out.increfs_done(node)),
            Return::Acquire(node) => drop(self.out.acquire_done(node)),
            _ => {}
        }
    }
}

/// What a handler of calls wants.
#[derive(Clone, Debug)]
pub enum Served {
    /// Answer with this and go on.
    Reply(Parcel),
    /// Answer with this and stop.
    Stop(Parcel),
}
