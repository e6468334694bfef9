// SPDX-License-Identifier: GPL-2.0

//! Programs: steps of processes and threads, in one fixed order.
//!
//! A step names its operands relative to the state ("the oldest buffer still held"), and the process resolves them
//! when it executes the step. So a program stays valid when steps are removed, and is the same on two drivers as long
//! as they behave the same.

use std::fmt;

/// A whole program.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The number it was made from.
    pub seed: u64,
    /// The size of each process's mapping; 0 for none.
    pub mappings: Vec<usize>,
    /// Threads of each process.
    pub threads: usize,
    /// What is done.
    pub steps: Vec<Step>,
}

/// Something one thread does.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Which process.
    pub process: usize,
    /// Which of its threads.
    pub thread: usize,
    /// What.
    pub action: Action,
}

/// What a thread can do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send commands and read.
    Talk(Talk),
    /// Another ioctl.
    Ioctl(Ioctl),
    /// Ask whether there is something to read.
    Poll,
    /// Read until there is nothing, and list the open files.
    Drain,
    /// Close the device; with the mapping, or without it.
    Close {
        /// Unmap before.
        unmap: bool,
    },
    /// The process is killed.
    Kill,
    /// Open the device once more and work on that; what was worked on before is kept, the one before that closed.
    Open {
        /// The size of the mapping; 0 for none.
        mapping: usize,
    },
    /// Work on the device that was kept.
    Switch,
    /// Hand the open file to another process, which works on it as on one it has opened.
    Lend {
        /// Which process.
        to: usize,
    },
    /// Close a copy of the device's descriptor.
    CloseCopy,
    /// Map the device, which most often is mapped already.
    Map {
        /// How many bytes.
        len: usize,
        /// How.
        how: Map,
    },
    /// Unmap the whole mapping.
    Unmap,
    /// Ask that the mapping can be written to.
    MakeWritable,
    /// Look at the mapping from a buffer's address on.
    Peek {
        /// Which buffer.
        buffer: Buffer,
        /// How many bytes.
        len: usize,
    },
    /// Watch the device.
    Epoll(Epoll),
    /// Become so nice.
    Nice(i32),
    /// Become this user.
    User(u32),
    /// Look at what the driver counts.
    Counts,
}

/// How a device can be mapped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Map {
    /// As clients do it.
    Usual,
    /// Shared, which is no different.
    Shared,
    /// So that it can be written to.
    Writable,
    /// Not from its start.
    Offset,
}

/// What is done with an epoll.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Epoll {
    /// Add the device, to hear of changes only if so.
    Watch {
        /// `EPOLLET`.
        edge: bool,
    },
    /// Ask.
    Wait,
    /// Take the device out.
    Forget,
}

/// Where what is told to the driver stands, and where it is to write.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Place {
    /// In memory.
    #[default]
    Usual,
    /// The last bytes of the commands are not there.
    WriteEnd(usize),
    /// The last bytes of the room are not there.
    ReadEnd(usize),
    /// The commands are at an address that no program has.
    WriteNowhere(usize),
    /// The room is.
    ReadNowhere(usize),
    /// The ioctl's argument is.
    Nowhere(usize),
    /// In memory, but the driver is told that it has had the first bytes of both already.
    Begun {
        /// How many bytes of the commands.
        written: usize,
        /// How many bytes of the room.
        read: usize,
    },
}

/// One `BINDER_WRITE_READ`.
#[derive(Clone, Debug, PartialEq)]
pub struct Talk {
    /// Commands, in order.
    pub commands: Vec<Cmd>,
    /// How many bytes the driver is told less than there are.
    pub cut: usize,
    /// Room to read into.
    pub room: usize,
    /// Where all this is.
    pub place: Place,
}

/// How a handle is named.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Handle {
    /// By its number.
    No(u32),
    /// By how many others have arrived in this process since.
    Recent(usize),
}

/// How a buffer is named.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Buffer {
    /// Of those still held, by how many came later.
    Held(usize),
    /// Of those given back, by how many were given back later.
    Freed(usize),
    /// A place inside one still held.
    Inside(usize, u64),
    /// A place in the mapping.
    At(u64),
}

/// How the cookie of a notification is named.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cookie {
    /// By its number.
    No(u64),
    /// The one told last.
    Told,
}

/// Which count of references a command is about, and which way.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the commands' own names")]
pub enum Ref {
    Increfs,
    Acquire,
    Release,
    Decrefs,
}

/// A node by its two names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Node {
    /// The first.
    pub ptr: u64,
    /// The second.
    pub cookie: u64,
}

/// One command.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the interface's own names")]
pub enum Cmd {
    Call {
        handle: Handle,
        code: u32,
        flags: u32,
        load: Load,
    },
    Reply {
        code: u32,
        flags: u32,
        load: Load,
    },
    Free(Buffer),
    Ref(Ref, Handle),
    IncrefsDone(Node),
    AcquireDone(Node),
    /// Whatever the driver asked of this process with `BR_INCREFS` and `BR_ACQUIRE` is answered.
    AnswerAll,
    RegisterLooper,
    EnterLooper,
    ExitLooper,
    RequestDeath(Handle, u64),
    ClearDeath(Handle, Cookie),
    DeadDone(Cookie),
    RequestFreeze(Handle, u64),
    ClearFreeze(Handle, Cookie),
    FreezeDone(Cookie),
    AttemptAcquire,
    AcquireResult,
    Code(u32),
}

/// What a call carries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Plain bytes before the objects.
    pub head: usize,
    /// Objects.
    pub objects: Vec<Object>,
    /// Room for what objects point to, more or less than they need; `None` is a command without such room.
    pub sg: Option<i64>,
    /// What is wrong with it.
    pub damage: Option<Damage>,
}

/// One object.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the interface's own names")]
pub enum Object {
    Binder {
        node: Node,
        weak: bool,
        flags: u32,
    },
    Handle {
        handle: Handle,
        weak: bool,
    },
    /// The process's own file of a number, or a descriptor that is none.
    Fd(Option<usize>),
    /// Bytes elsewhere; `parent` is another such object and a place in it; bytes at a bad address if `bad`.
    Bytes {
        len: usize,
        parent: Option<(usize, u64)>,
        bad: bool,
    },
    Fds {
        count: u64,
        parent: usize,
        at: u64,
    },
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "each says itself")]
pub enum Damage {
    OffsetMisaligned(usize),
    OffsetBeyond(usize),
    OffsetBefore(usize, u64),
    OffsetTwice(usize),
    OffsetsSwapped,
    OffsetsCut,
    OffsetsHuge,
    OffsetsUnreadable,
    NoOffsets,
    UnknownType(usize),
    DataCut,
    DataHuge(u64),
    DataUnreadable,
}

/// The other ioctls.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the interface's own names")]
pub enum Ioctl {
    Version,
    SetMaxThreads(u32),
    BecomeManager,
    BecomeManagerExt(Node, u32),
    ThreadExit,
    NodeDebugInfo(u64),
    NodeInfoForRef(Handle, bool),
    Freeze {
        process: Option<usize>,
        enable: u32,
        wait: u32,
    },
    FrozenInfo(Option<usize>),
    SpamDetection(u32),
    ExtendedError,
    Other(u32),
    /// With an argument at an address that no program has.
    Nowhere(u32, usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}.t{} ", self.process, self.thread)?;
        match &self.action {
            Action::Talk(talk) => {
                write!(f, "write {:?}", talk.commands)?;
                if talk.cut > 0 {
                    write!(f, " less {} bytes", talk.cut)?;
                }
                write!(f, ", read {}", talk.room)?;
                if talk.place == Place::Usual { Ok(()) } else { write!(f, ", {:?}", talk.place) }
            }
            Action::Ioctl(ioctl) => write!(f, "ioctl {ioctl:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}; mappings {:?}; {} threads each", self.seed, self.mappings, self.threads)?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{number:3}  {step}")?;
        }
        Ok(())
    }
}
