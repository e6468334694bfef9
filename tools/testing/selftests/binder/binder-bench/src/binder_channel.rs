// SPDX-License-Identifier: GPL-2.0

//! A context manager in a process of its own and a client in this one.

use std::path::Path;
use std::sync::Arc;

use binder_client::Binder;
use binder_client::Call;
use binder_client::Error;
use binder_client::LIBBINDER_MAPPING;
use binder_client::Looper;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::Served;
use binder_client::object;
use binder_client::process;
use binder_client::process::Child;
use binder_client::process::Line;
use binder_client::uapi;
use binder_client::uapi::TransactionData;

use crate::BURST;
use crate::Case;
use crate::Channel;

/// Answer with four bytes.
const CALL: u32 = 1;
/// Count, and send one message back after each burst.
const ONE_WAY: u32 = 2;
/// Call the client, then answer.
const NESTED: u32 = 3;
/// Carries the client's node.
const HELLO: u32 = 4;
/// Answer with the sum of the bytes.
const SUM: u32 = 5;
/// Sent by the server: a burst has arrived, or the call inside a call.
const BACK: u32 = 6;

fn text(error: Error) -> String {
    error.to_string()
}

/// The client's end; the server dies with it.
pub struct BinderChannel {
    looper: Looper,
    payload: Parcel,
    reply: Parcel,
    acquainted: bool,
    _server: Child,
}

impl BinderChannel {
    /// Starts a server on `device` and checks that it gets what it is sent.
    pub fn start(device: &Path) -> Result<Self, String> {
        let (here, there) = Line::pair().map_err(|error| error.to_string())?;
        let server = Child::spawn(move || match serve(device, &there) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("binder-bench: server on {}: {error}", device.display());
                1
            }
        })
        .map_err(|errno| errno.to_string())?;
        here.hear().map_err(|_| "the server did not start".to_owned())?;

        let binder = Arc::new(Binder::open_mapped(device, LIBBINDER_MAPPING).map_err(text)?);
        let mut channel = Self {
            looper: Looper::new(binder),
            payload: Parcel::new(),
            reply: Parcel::from_bytes(&[0; 4]),
            acquainted: false,
            _server: server,
        };
        channel.check()?;
        Ok(channel)
    }

    fn check(&mut self) -> Result<(), String> {
        for size in [0, 1, 128, 4096, 64 * 1024] {
            let bytes: Vec<u8> = (0..size).map(|index: usize| (index * 31 + 7) as u8).collect();
            let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
            let parcel = Parcel::from_bytes(&bytes);
            let reply = self.looper.call(Call::new(0, SUM, &parcel)).map_err(text)?;
            let payload = self.looper.payload(&reply).map_err(text)?;
            self.looper.free(&reply);
            if payload.data != sum.to_ne_bytes() {
                return Err(format!("{size} bytes did not arrive as they were sent"));
            }
        }
        Ok(())
    }

    /// Gives the server a node of ours to send to.
    fn get_acquainted(&mut self) -> Result<(), String> {
        if !self.acquainted {
            let node = Parcel::from_object(&object::binder(0x1000, 0x2000));
            let reply = self
                .looper
                .call_with(Call::new(0, HELLO, &node), |looper, ret| {
                    looper.grant(&ret);
                    Ok(())
                })
                .map_err(text)?;
            self.looper.free(&reply);
            self.acquainted = true;
        }
        Ok(())
    }

    fn call(&mut self, code: u32) -> Result<(), String> {
        let inner = &self.reply;
        let reply = self
            .looper
            .call_with(Call::new(0, code, &self.payload), |looper, ret| match ret {
                Return::Transaction(received) => {
                    looper.free(&received);
                    looper.reply(inner)
                }
                ret => {
                    looper.grant(&ret);
                    Ok(())
                }
            })
            .map_err(text)?;
        self.looper.free(&reply);
        Ok(())
    }

    fn burst(&mut self) -> Result<(), String> {
        let mut back = None;
        for _ in 0..BURST {
            self.looper.queue().command(uapi::BC_TRANSACTION, &Call::one_way(0, ONE_WAY, &self.payload).data());
            // One ioctl for each message, which also reads that it was taken.
            loop {
                match self.looper.next().map_err(text)? {
                    Return::TransactionComplete => break,
                    Return::Transaction(received) => back = Some(received),
                    Return::DeadReply | Return::FailedReply => return Err("a message was refused".to_owned()),
                    ret => self.looper.grant(&ret),
                }
            }
        }
        let back = match back {
            Some(back) => back,
            None => self.wait_for_message()?,
        };
        self.looper.free(&back);
        Ok(())
    }

    fn wait_for_message(&mut self) -> Result<TransactionData, String> {
        loop {
            match self.looper.next().map_err(text)? {
                Return::Transaction(received) => return Ok(received),
                ret => self.looper.grant(&ret),
            }
        }
    }
}

impl Channel for BinderChannel {
    fn run(&mut self, case: Case, times: u32) -> Result<(), String> {
        let (Case::Call(size) | Case::OneWay(size) | Case::Nested(size)) = case;
        if self.payload.data().len() != size {
            self.payload = Parcel::from_bytes(&vec![0x5a; size]);
        }
        match case {
            Case::Call(_) => (0..times).try_for_each(|_| self.call(CALL)),
            Case::OneWay(_) => {
                self.get_acquainted()?;
                (0..times / BURST).try_for_each(|_| self.burst())
            }
            Case::Nested(_) => {
                self.get_acquainted()?;
                (0..times).try_for_each(|_| self.call(NESTED))
            }
        }
    }
}

fn serve(device: &Path, line: &Line) -> Result<(), Error> {
    // Inherited from the client, and asked for again so that the server stands on its own.
    process::pin_to(0).map_err(|errno| Error::Sys { what: "sched_setaffinity", errno })?;
    let binder = Binder::open_mapped(device, LIBBINDER_MAPPING)?;
    binder.become_manager()?;
    // A client that is gone shows in the next ioctl.
    let _ = line.say(0);
    let four = Parcel::from_bytes(&[0; 4]);
    let mut client = None;
    let mut count = 0;
    Looper::new(Arc::new(binder)).serve(|looper, received| {
        let result = match (received.code, client) {
            (CALL, _) => Ok(()),
            (ONE_WAY, Some(client)) => {
                count += 1;
                if count % BURST == 0 { looper.send(Call::one_way(client, BACK, &four)) } else { Ok(()) }
            }
            (NESTED, Some(client)) => looper.call(Call::new(client, BACK, &four)).map(|reply| looper.free(&reply)),
            (HELLO, _) => looper.payload(received).map(|payload| {
                client = payload.flat(0).and_then(|object| object.as_handle());
                if let Some(handle) = client {
                    looper.queue().acquire(handle);
                }
            }),
            (SUM, _) => {
                return match looper.payload(received) {
                    Ok(payload) => {
                        let sum: u32 = payload.data.iter().map(|byte| u32::from(*byte)).sum();
                        Served::Reply(Parcel::from_bytes(&sum.to_ne_bytes()))
                    }
                    Err(_) => Served::Stop(Parcel::new()),
                };
            }
            _ => Err(Error::Failed),
        };
        match result {
            Ok(()) => Served::Reply(four.clone()),
            Err(error) => {
                eprintln!("binder-bench: server: code {}: {error}", received.code);
                Served::Stop(Parcel::new())
            }
        }
    })
}
