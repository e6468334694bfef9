// SPDX-License-Identifier: GPL-2.0

//! Passes open files between processes.

use std::fs::File;
use std::io::IoSlice;
use std::io::IoSliceMut;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::RawFd;
use std::os::unix::net::UnixDatagram;

use binder_client::Binder;
use binder_client::hostile::adopt;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::ControlMessage;
use nix::sys::socket::ControlMessageOwned;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::recvmsg;
use nix::sys::socket::sendmsg;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;

/// Sends an open device, and where its mapping is in the process that made it.
pub fn send(to: &UnixDatagram, binder: &Binder, mapping: (u64, u64)) -> nix::Result<()> {
    let place = [mapping.0, mapping.1];
    let fds = [binder.as_fd().as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(place.as_bytes())], &rights, MsgFlags::MSG_DONTWAIT, None).map(drop)
}

/// Takes what was sent.
pub fn receive(inbox: &UnixDatagram) -> nix::Result<(Binder, (u64, u64))> {
    let mut place = [0u8; 16];
    let mut room = cmsg_space!([RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut place)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(inbox.as_raw_fd(), &mut parts, Some(&mut room), flags)?;
    let fd = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let file = File::from(adopt(fd.ok_or(Errno::ENOMSG)?));
    let [address, len] = <[u64; 2]>::read_from_bytes(&place).map_err(|_| Errno::EBADMSG)?;
    Ok((Binder::from_file(file), (address, len)))
}
