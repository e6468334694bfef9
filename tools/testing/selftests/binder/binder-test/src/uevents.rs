// SPDX-License-Identifier: GPL-2.0

//! Receives the uevents of devices that come and go, as udev does.

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::NetlinkAddr;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockProtocol;
use nix::sys::socket::SockType;
use nix::sys::socket::bind;
use nix::sys::socket::recv;
use nix::sys::socket::socket;

/// The group of what the kernel itself tells.
const KERNEL: u32 = 1;

/// A socket on which the kernel tells of devices. What it tells is there before the system call that caused it is over.
#[derive(Debug)]
pub struct Uevents {
    socket: OwnedFd,
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Uevents {
    /// Listens from now on.
    pub fn new() -> Self {
        let kind = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Datagram, kind, SockProtocol::NetlinkKObjectUEvent)
            .expect("a netlink socket");
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL)).expect("bind");
        Self { socket }
    }

    /// What was told since of misc devices: `add@` or `remove@` and the name. `lost` stands for what the kernel had no
    /// memory to tell.
    #[track_caller]
    pub fn of_misc_devices(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut message = [0; 8192];
        loop {
            match recv(self.socket.as_raw_fd(), &mut message, MsgFlags::empty()) {
                Ok(len) => {
                    // The first line is the action and the path of the device in sysfs.
                    let line = message[..len].split(|byte| *byte == 0).next().unwrap_or_default();
                    let line = String::from_utf8_lossy(line);
                    if let Some((action, name)) = line.split_once("@/devices/virtual/misc/") {
                        all.push(format!("{action}@{name}"));
                    }
                }
                Err(Errno::ENOBUFS) => all.push("lost".to_owned()),
                Err(Errno::EAGAIN) => return all,
                Err(errno) => panic!("uevents: {errno}"),
            }
        }
    }
}
