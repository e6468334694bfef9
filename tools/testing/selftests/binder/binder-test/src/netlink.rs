// SPDX-License-Identifier: GPL-2.0

//! Listens to the generic netlink family `binder`.

use std::os::fd::AsRawFd;
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
use nix::sys::socket::send;
use nix::sys::socket::socket;

/// `GENL_ID_CTRL`: the generic netlink controller, which resolves family names.
const CONTROLLER: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;

const BINDER_CMD_REPORT: u8 = 1;
const BINDER_FAMILY_VERSION: u8 = 1;

/// The type and the bytes of each attribute in `bytes`.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut all = Vec::new();
    while let [low, high, kind_low, kind_high, ..] = *bytes {
        let len = usize::from(u16::from_ne_bytes([low, high]));
        // The upper two bits are flags.
        let kind = u16::from_ne_bytes([kind_low, kind_high]) & 0x3fff;
        all.push((kind, &bytes[4..len]));
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
    }
    all
}

fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes(bytes.try_into().expect("four bytes"))
}

/// A member of the multicast group.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

/// A transaction that did not go as it should. What the message does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What the sender read.
    pub error: Option<u32>,
    /// The device's name.
    pub context: Option<String>,
    pub from_pid: Option<u32>,
    pub from_tid: Option<u32>,
    pub to_pid: Option<u32>,
    pub to_tid: Option<u32>,
    pub is_reply: bool,
    pub flags: Option<u32>,
    pub code: Option<u32>,
    pub data_size: Option<u32>,
}

impl Report {
    /// Of a message of the family's only kind.
    fn parse(bytes: &[u8]) -> Self {
        assert_eq!(bytes[16..18], [BINDER_CMD_REPORT, BINDER_FAMILY_VERSION]);
        let mut report = Self::default();
        for (kind, value) in attributes(&bytes[20..]) {
            match kind {
                1 => report.error = Some(u32_of(value)),
                2 => {
                    let name = value.strip_suffix(b"\0").expect("a name ends in a zero");
                    report.context = Some(String::from_utf8(name.to_vec()).expect("text"));
                }
                3 => report.from_pid = Some(u32_of(value)),
                4 => report.from_tid = Some(u32_of(value)),
                5 => report.to_pid = Some(u32_of(value)),
                6 => report.to_tid = Some(u32_of(value)),
                7 => {
                    assert_eq!(value, b"");
                    report.is_reply = true;
                }
                8 => report.flags = Some(u32_of(value)),
                9 => report.code = Some(u32_of(value)),
                10 => report.data_size = Some(u32_of(value)),
                other => panic!("attribute {other}: {value:x?}"),
            }
        }
        report
    }
}

impl Listener {
    /// Joins the group; `ENOENT` if there is no such family.
    pub fn new() -> nix::Result<Self> {
        let open =
            || socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkGeneric);
        let group = Self::find(&open()?)?;
        assert!((1..=32).contains(&group), "a group that bind() cannot name: {group}");
        let socket = open()?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 1 << (group - 1)))?;
        Ok(Self { socket })
    }

    /// What was reported since the last look.
    #[track_caller]
    pub fn reports(&self) -> Vec<Report> {
        let mut reports = Vec::new();
        loop {
            let mut buffer = [0; 8192];
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(count) => reports.push(Report::parse(&buffer[..count])),
                Err(Errno::EAGAIN) => return reports,
                Err(errno) => panic!("a netlink socket: {errno}"),
            }
        }
    }

    /// Whether there were more than there was room for, which is told once.
    pub fn missed(&self) -> bool {
        let peek = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        recv(self.socket.as_raw_fd(), &mut [0; 1], peek) == Err(Errno::ENOBUFS)
    }

    /// The number of the group `report` of the family `binder`.
    fn find(socket: &OwnedFd) -> nix::Result<u32> {
        let name = b"binder\0";
        let mut request = Vec::new();
        let len = 16 + 4 + 4 + name.len().next_multiple_of(4);
        request.extend_from_slice(&u32::try_from(len).expect("small").to_ne_bytes());
        request.extend_from_slice(&CONTROLLER.to_ne_bytes());
        request.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        request.extend_from_slice(&[0; 8]);
        request.extend_from_slice(&[CTRL_CMD_GETFAMILY, 1, 0, 0]);
        request.extend_from_slice(&u16::try_from(4 + name.len()).expect("small").to_ne_bytes());
        request.extend_from_slice(&CTRL_ATTR_FAMILY_NAME.to_ne_bytes());
        request.extend_from_slice(name);
        request.resize(len, 0);
        send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut buffer = [0; 8192];
        let count = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let bytes = &buffer[..count];
        if u16::from_ne_bytes([bytes[4], bytes[5]]) == NLMSG_ERROR {
            return Err(Errno::from_raw(-i32::from_ne_bytes(bytes[16..20].try_into().expect("four bytes"))));
        }
        let all = attributes(&bytes[20..]);
        let groups = all.iter().find(|(kind, _)| *kind == CTRL_ATTR_MCAST_GROUPS).map(|(_, value)| attributes(value));
        let groups = groups.expect("groups");
        let [(_, only)] = groups[..] else { panic!("not one group: {groups:?}") };
        let parts = attributes(only);
        assert!(parts.contains(&(1, b"report\0")), "{parts:?}");
        Ok(parts.iter().find(|(kind, _)| *kind == 2).map(|(_, id)| u32_of(id)).expect("a number"))
    }
}
