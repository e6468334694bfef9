// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! `BINDER_WRITE_READ`: carries out the commands in the write buffer, and fills the read buffer with returns.

use kernel::{
    prelude::*,
    sync::Arc,
    uaccess::{
        UserPtr,
        UserSlice,
        UserSliceReader, //
    },
};

use crate::{
    death::Death,
    defs::*,
    error::{
        failed,
        BinderError, //
    },
    freeze::Freeze,
    node::NodeArc,
    process::InnerGuard,
    read_buffer::ReadBuffer,
    send::{
        self,
        SentData, //
    },
    sys::helpers::{
        is_killed,
        user_error, //
    },
    thread::Thread,
    todo::Delivered, //
};

/// The room that a read buffer must have before work is taken off a list: that of the longest return,
/// `BR_TRANSACTION_SEC_CTX`.
const ROOM_FOR_ANY: usize = size_of::<TransactionReturn>() + size_of::<u64>();

/// The longest command with its argument.
const LONGEST_COMMAND: usize = size_of::<u32>() + size_of::<TransactionData>() + size_of::<u64>();

impl Thread {
    /// `BINDER_WRITE_READ`: first commands, then returns. `bwr` says how much was done, also on failure.
    ///
    /// # Errors
    ///
    /// - Of commands: `EFAULT`, `EINVAL` for an unknown one, `EINTR` between two if the thread was killed.
    /// - Of reading: `EAGAIN` if there is nothing to read and `nonblock`, `EINTR` for a signal, `EFAULT`.
    pub(crate) fn write_read(self: &Arc<Self>, bwr: &mut WriteRead, nonblock: bool) -> Result {
        if bwr.write_size > 0 {
            if let Err(e) = self.write(bwr) {
                bwr.read_consumed = 0;
                return Err(e);
            }
        }
        if bwr.read_size > 0 {
            self.read(bwr, nonblock)?;
        }
        Ok(())
    }

    /// Carries out commands until they end or one of them fails.
    fn write(self: &Arc<Self>, bwr: &mut WriteRead) -> Result {
        // A buffer that reaches beyond the end of the address space is taken as empty.
        let end = bwr.write_buffer.wrapping_add(bwr.write_size);
        while self.return_code() == 0 {
            let next = bwr.write_buffer.wrapping_add(bwr.write_consumed);
            if next >= end {
                break;
            }
            // The last command begins in the buffer and may end behind it, as with the C driver.
            // CAST: The driver runs on 64-bit kernels only.
            let start = UserPtr::from_addr(next as usize);
            let mut reader = UserSlice::new(start, LONGEST_COMMAND).reader();
            self.command(&mut reader)?;
            // User space may have set it so that commands are read from below the buffer: this wraps, too.
            let length = LONGEST_COMMAND.wrapping_sub(reader.len()) as u64;
            bwr.write_consumed = bwr.write_consumed.wrapping_add(length);
            // The buffer can be as large as the address space, with few pages behind it: to carry it out can take days.
            if is_killed() {
                return Err(EINTR);
            }
        }
        Ok(())
    }

    fn command(self: &Arc<Self>, reader: &mut UserSliceReader) -> Result {
        let command: u32 = reader.read()?;
        self.process().stats().command(command);
        match command {
            BC_TRANSACTION => send::call(self, &SentData::read(reader, false)?),
            BC_REPLY => send::reply(self, &SentData::read(reader, false)?),
            BC_TRANSACTION_SG => send::call(self, &SentData::read(reader, true)?),
            BC_REPLY_SG => send::reply(self, &SentData::read(reader, true)?),
            BC_FREE_BUFFER => self.free_buffer(reader.read()?),
            BC_INCREFS => self.change_handle(reader.read()?, true, false)?,
            BC_ACQUIRE => self.change_handle(reader.read()?, true, true)?,
            BC_RELEASE => self.change_handle(reader.read()?, false, true)?,
            BC_DECREFS => self.change_handle(reader.read()?, false, false)?,
            BC_INCREFS_DONE => self.acknowledge(reader.read()?, false),
            BC_ACQUIRE_DONE => self.acknowledge(reader.read()?, true),
            BC_REGISTER_LOOPER => self.register_looper(),
            BC_ENTER_LOOPER => self.enter_looper(),
            BC_EXIT_LOOPER => self.exit_looper(),
            BC_REQUEST_DEATH_NOTIFICATION => {
                let HandleCookie { handle, cookie } = reader.read()?;
                let result = self.process().request_notification::<Death>(handle, cookie);
                match result.as_ref().err().map(|failure| failure.errno()) {
                    Some(ENOMEM) => {
                        let mut inner = self.process().lock();
                        self.push_return_error(&mut inner, BR_ERROR);
                    }
                    _ => self.refused("BC_REQUEST_DEATH_NOTIFICATION", cookie, result),
                }
            }
            BC_CLEAR_DEATH_NOTIFICATION => {
                let HandleCookie { handle, cookie } = reader.read()?;
                let result = self.clear_notification::<Death>(handle, cookie);
                self.refused("BC_CLEAR_DEATH_NOTIFICATION", cookie, result);
            }
            BC_DEAD_BINDER_DONE => {
                let cookie: u64 = reader.read()?;
                let result = self.acknowledge_notification::<Death>(cookie);
                self.refused("BC_DEAD_BINDER_DONE", cookie, result);
            }
            BC_REQUEST_FREEZE_NOTIFICATION => {
                let HandleCookie { handle, cookie } = reader.read()?;
                self.process()
                    .request_notification::<Freeze>(handle, cookie)?;
            }
            BC_CLEAR_FREEZE_NOTIFICATION => {
                let HandleCookie { handle, cookie } = reader.read()?;
                self.clear_notification::<Freeze>(handle, cookie)?;
            }
            BC_FREEZE_NOTIFICATION_DONE => {
                self.acknowledge_notification::<Freeze>(reader.read()?)?;
            }
            _ => {
                user_error!(
                    self.process().pid(),
                    self.id(),
                    "unknown command {:#x}",
                    command
                );
                return Err(EINVAL);
            }
        }
        Ok(())
    }

    /// Logs why a command about a notification was refused, if it was.
    fn refused(&self, command: &str, cookie: u64, result: Result<(), BinderError>) {
        if let Err(failure) = result {
            user_error!(
                self.process().pid(),
                self.id(),
                "{} with cookie {:#x} refused: {}",
                command,
                cookie,
                failure.reason()
            );
        }
    }

    fn free_buffer(&self, address: u64) {
        // CAST: The driver runs on 64-bit kernels only.
        match self.process().take_buffer(address as usize) {
            Ok(mut buffer) => {
                // The kernel releases the files when this thread returns to user space, so it should return.
                if self.process().is_current() && buffer.close_descriptors() {
                    self.set_need_return();
                }
            }
            Err(_) => user_error!(
                self.process().pid(),
                self.id(),
                "BC_FREE_BUFFER: no buffer at {:#x}",
                address
            ),
        }
    }

    /// `BC_INCREFS`, `BC_ACQUIRE`, `BC_RELEASE`, `BC_DECREFS`. What is refused is logged and counts as carried out.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the context manager asks for a reference to its own node.
    fn change_handle(&self, handle: u32, more: bool, strong: bool) -> Result {
        let process = self.process();
        let manager = if more && handle == 0 {
            process.context().manager_node_ref()
        } else {
            None
        };
        let own = |node: &NodeArc| Arc::ptr_eq(node.owner(), process);
        let is_own = manager.as_ref().is_some_and(own);
        let result = match manager {
            Some(_) if is_own => Err(failed(EINVAL, "the node is its own")),
            Some(node) => process.insert_ref(&node, strong, None).map(|number| {
                if number != 0 {
                    user_error!(process.pid(), self.id(), "handle 0 came out as {}", number);
                }
            }),
            None if more => process.inc_ref(handle, strong),
            None => process.dec_ref(handle, strong),
        };
        if let Err(error) = result {
            user_error!(
                process.pid(),
                self.id(),
                "{} of handle {} refused: {}",
                match (more, strong) {
                    (true, true) => "BC_ACQUIRE",
                    (true, false) => "BC_INCREFS",
                    (false, true) => "BC_RELEASE",
                    (false, false) => "BC_DECREFS",
                },
                handle,
                error.reason()
            );
        }
        if is_own {
            return Err(EINVAL);
        }
        Ok(())
    }

    fn acknowledge(&self, node: PtrCookie, strong: bool) {
        if let Err(error) = self.process().acknowledge(node, strong) {
            user_error!(
                self.process().pid(),
                self.id(),
                "{} of node {:#x} with cookie {:#x} refused: {}",
                if strong {
                    "BC_ACQUIRE_DONE"
                } else {
                    "BC_INCREFS_DONE"
                },
                node.ptr,
                node.cookie,
                error.reason()
            );
        }
    }

    /// Fills the read buffer.
    fn read(self: &Arc<Self>, bwr: &mut WriteRead, nonblock: bool) -> Result {
        // CAST: The driver runs on 64-bit kernels only.
        let mut out = ReadBuffer::new(
            bwr.read_buffer as usize,
            bwr.read_size as usize,
            bwr.read_consumed as usize,
            self.process().stats(),
        )?;
        let result = self
            .fill(&mut out, nonblock)
            .and_then(|()| self.end_read(&out));
        if result.is_err() {
            self.pass_on(&mut self.process().lock());
        }
        if result.is_ok() {
            bwr.read_consumed = out.consumed() as u64;
        }
        result
    }

    fn fill(self: &Arc<Self>, out: &mut ReadBuffer<'_>, nonblock: bool) -> Result {
        if out.consumed() == 0 {
            out.put(&BR_NOOP)?;
        }
        let empty = out.consumed();
        loop {
            let (inner, takes_any) = self.wait(nonblock)?;
            self.deliver_all(inner, out, takes_any)?;
            // Spurious wakeup: sleep again unless `need_return` is set.
            if out.consumed() != empty || out.room() < ROOM_FOR_ANY || self.needs_return() {
                return Ok(());
            }
        }
    }

    /// Delivers work until there is none left, no room, or an item that ends the read.
    fn deliver_all<'a>(
        self: &'a Arc<Self>,
        mut inner: InnerGuard<'a>,
        out: &mut ReadBuffer<'_>,
        takes_any: bool,
    ) -> Result {
        while out.room() >= ROOM_FOR_ANY {
            let mut work = self.pop(&mut inner);
            if work.is_none() && takes_any {
                work = inner.todo_mut().pop_front();
            }
            let Some(work) = work else { break };
            if work.into_arc().deliver(self, inner, out)? == Delivered::Last {
                break;
            }
            inner = self.process().lock();
        }
        Ok(())
    }

    /// The last step of a read. Wakes another thread for work that is left, and asks for another looper if no thread
    /// waits and the process allows more.
    fn end_read(&self, out: &ReadBuffer<'_>) -> Result {
        let mut inner = self.process().lock();
        self.pass_on(&mut inner);
        let ask = self.is_looper(&mut inner) && inner.request_thread();
        drop(inner);
        if ask {
            out.replace_first(BR_SPAWN_LOOPER)?;
        }
        Ok(())
    }
}
