// SPDX-License-Identifier: GPL-2.0

//! The same exchanges over an `AF_UNIX` `SOCK_SEQPACKET` pair.

use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;

use binder_client::process;
use binder_client::process::Child;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::socket::recv;
use nix::sys::socket::send;
use nix::sys::socket::setsockopt;
use nix::sys::socket::socketpair;
use nix::sys::socket::sockopt::SndBuf;

use crate::BURST;
use crate::Case;
use crate::Channel;

/// The largest message and the byte that says what it is.
const ROOM: usize = 64 * 1024 + 1;

const CALL: u8 = 1;
const ONE_WAY: u8 = 2;
const NESTED: u8 = 3;

/// The client's end; the server dies with it.
pub struct UnixChannel {
    socket: OwnedFd,
    message: Vec<u8>,
    room: Vec<u8>,
    _server: Child,
}

impl UnixChannel {
    /// Starts the other end.
    pub fn start() -> nix::Result<Self> {
        let (here, there) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        // Room for a burst, so that the sender is not put to sleep in the middle of one where binder's is not.
        for end in [&here, &there] {
            setsockopt(end, SndBuf, &(1024 * 1024))?;
        }
        let server = Child::spawn(|| if serve(&there).is_ok() { 0 } else { 1 })?;
        Ok(Self { socket: here, message: Vec::new(), room: vec![0; ROOM], _server: server })
    }

    fn say(&self) -> nix::Result<()> {
        send(self.socket.as_raw_fd(), &self.message, MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    fn hear(&mut self) -> nix::Result<usize> {
        recv(self.socket.as_raw_fd(), &mut self.room, MsgFlags::empty())
    }

    fn exchange(&mut self, case: Case) -> nix::Result<()> {
        self.say()?;
        self.hear()?;
        if let Case::Nested(_) = case {
            send(self.socket.as_raw_fd(), &[NESTED, 0, 0, 0], MsgFlags::MSG_NOSIGNAL)?;
            self.hear()?;
        }
        Ok(())
    }
}

impl Channel for UnixChannel {
    fn run(&mut self, case: Case, times: u32) -> Result<(), String> {
        let (code, size) = match case {
            Case::Call(size) => (CALL, size),
            Case::OneWay(size) => (ONE_WAY, size),
            Case::Nested(size) => (NESTED, size),
        };
        // A packet of no bytes looks like the end of the stream, and the code must travel somehow: at least one byte.
        self.message.clear();
        self.message.resize(size.max(1), 0x5a);
        self.message[0] = code;
        let result = match case {
            Case::OneWay(_) => (0..times / BURST).try_for_each(|_| {
                (0..BURST).try_for_each(|_| self.say())?;
                self.hear().map(drop)
            }),
            _ => (0..times).try_for_each(|_| self.exchange(case)),
        };
        result.map_err(|errno| errno.to_string())
    }
}

fn serve(socket: &OwnedFd) -> nix::Result<()> {
    process::pin_to(0)?;
    let socket = socket.as_raw_fd();
    let mut room = vec![0; ROOM];
    let mut count = 0;
    while recv(socket, &mut room, MsgFlags::empty())? > 0 {
        match room[0] {
            ONE_WAY => {
                count += 1;
                if count % BURST != 0 {
                    continue;
                }
            }
            NESTED => {
                send(socket, &[0; 4], MsgFlags::MSG_NOSIGNAL)?;
                recv(socket, &mut room, MsgFlags::empty())?;
            }
            _ => {}
        }
        send(socket, &[0; 4], MsgFlags::MSG_NOSIGNAL)?;
    }
    Ok(())
}
