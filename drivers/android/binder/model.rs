// SPDX-License-Identifier: GPL-2.0

//! What the driver's objects are, how they point at one another, and which lock guards what.
//!
//! Processes, threads, nodes and transactions refer to each other in circles; that is what Binder is. So their
//! structs stand here together, without logic. Each has its methods in a file of its own, and those files import
//! downwards only.
//!
//! ```text
//!   Context --manager--> Node <--entries-- Handles of other processes
//!                        |  ^
//!                   owner|  |nodes
//!                        v  |
//!   open file ------> Process --buffers--> Held (a buffer that user space has)
//!                      |  ^
//!               threads|  |process
//!                      v  |
//!                    Thread --stack--> Transaction --parents--> ...
//! ```
//!
//! Circles of counted references are broken when the file is released: that empties every table and stack of the
//! process, whatever else still holds on to it.
//!
//! # Locks
//!
//! | no. | lock                    | kind  | guards                                                         |
//! |-----|-------------------------|-------|----------------------------------------------------------------|
//! | 0   | `Context::setting`      | mutex | becoming the context manager                                   |
//! | 1   | `Context::manager`      | spin  | which node is the context manager's                            |
//! | 2   | `Process::handles`      | spin  | the handles of one process                                     |
//! | 3   | `Process::inner`        | spin  | threads, nodes, work lists, and what is `LockedBy` them        |
//! | 4   | `Process::buffers`      | spin  | which bytes of the mapping are taken                           |
//! | 5   | `PageRange::lock`       | spin  | the pages behind the mapping                                   |
//! | 6   | the LRU's own lock      | spin  | the list of pages that may be reclaimed                        |
//! | 7   | `InFlight::state`       | spin  | files on their way to one mapping                              |
//!
//! A lock is taken while only locks of smaller numbers are held, and never two of one number, with one exception: the
//! walk of the LRU comes with 6 and *tries* 5. Copies from and to user space are made with none held. The queues of
//! `wait.rs` are inside 3.

use kernel::{
    alloc::Flags,
    cred::Credential,
    list::{
        impl_list_arc_safe,
        impl_list_item,
        AtomicTracker,
        List,
        ListLinks,
        TryNewListArc, //
    },
    prelude::*,
    rbtree::RBTree,
    str::CString,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            AtomicFlag,
            Relaxed, //
        },
        lock::{
            spinlock::SpinLockBackend,
            Guard, //
        },
        Arc,
        CondVar,
        LockedBy,
        Mutex,
        SpinLock, //
    },
    task::{
        Kuid,
        Task, //
    },
};

use crate::{
    counts::Counts,
    defs::{
        ExtendedError,
        BR_OK,
        BR_TRANSACTION_COMPLETE, //
    },
    in_flight::SentFile,
    instance::Instance,
    oneway::OnewayQueue,
    page_range::{
        PageRange,
        PageUse, //
    },
    range_alloc::RangeAllocator,
    stats::{
        CountedBuffer,
        CountedComplete,
        CountedDeath,
        CountedFreeze,
        CountedHandle,
        CountedNode,
        CountedProcess,
        CountedThread,
        CountedTransaction,
        Traffic, //
    },
    sys::{
        ida::Ida,
        wait::{
            PollQueue,
            Sleeper, //
        },
    },
    todo::{
        Home,
        Queued,
        WorkList, //
    },
    transaction_log::ShortName,
    unacknowledged::{
        Place,
        Unacknowledged, //
    },
};

/// A device: processes that opened the same one can call each other.
#[pin_data]
pub(crate) struct Context {
    /// The device's name.
    pub(crate) name: CString,
    /// The devices that this one belongs to.
    pub(crate) instance: Arc<Instance>,
    /// The beginning of that, as logs of transactions have it.
    pub(crate) short_name: ShortName,
    /// The address of the manager's node, or 0; to compare with, without the lock.
    pub(crate) manager_key: Atomic<usize>,
    /// Held by a process that is becoming the manager, which takes steps that sleep.
    #[pin]
    pub(crate) setting: Mutex<()>,
    #[pin]
    pub(crate) manager: SpinLock<Manager>,
}

/// Who answers handle 0.
pub(crate) struct Manager {
    /// The node behind handle 0.
    pub(crate) node: Option<NodeRef>,
    /// The user who was the first manager; nobody else may become one.
    pub(crate) uid: Option<Kuid>,
}

/// One open binder file.
#[pin_data]
pub(crate) struct Process {
    pub(crate) context: Arc<Context>,
    /// The thread group that opened the file.
    pub(crate) task: ARef<Task>,
    /// Its id in the initial namespace, for logs and comparisons.
    pub(crate) pid: i32,
    /// The opener's credentials.
    pub(crate) cred: ARef<Credential>,
    pub(crate) pages: Arc<PageRange>,
    #[pin]
    pub(crate) handles: SpinLock<Handles>,
    /// The numbers of `handles`.
    #[pin]
    pub(crate) numbers: Ida,
    #[pin]
    pub(crate) inner: SpinLock<ProcessInner>,
    #[pin]
    pub(crate) buffers: SpinLock<RangeAllocator<Held>>,
    #[pin]
    pub(crate) poll: PollQueue,
    /// Who waits until [`ProcessInner::outstanding`] is 0.
    #[pin]
    pub(crate) quiet: CondVar,
    /// The opener's nice value: that of threads that work on nothing.
    pub(crate) nice: i32,
    pub(crate) traffic: Traffic,
    pub(crate) _counted: CountedProcess,
}

/// The lock that most of a process is under.
pub(crate) type InnerGuard<'a> = Guard<'a, ProcessInner, SpinLockBackend>;

/// The part of a process that [`Process::inner`] guards.
pub(crate) struct ProcessInner {
    /// The file was released. No work, node or thread is added from then on.
    pub(crate) dead: bool,
    pub(crate) threads: RBTree<i32, Arc<Thread>>,
    /// Threads that sleep and may be given any work, the last to fall asleep first.
    pub(crate) idle: List<Thread, IDLE>,
    /// Work for whichever thread comes first.
    pub(crate) work: WorkList,
    /// The nodes this process owns, by their `ptr`.
    pub(crate) nodes: RBTree<u64, NodeRef>,
    /// How many threads the driver may ask for.
    pub(crate) max_threads: u32,
    /// Threads asked for that did not register yet.
    pub(crate) requested_threads: u32,
    /// Threads that registered after they were asked for.
    pub(crate) started_threads: u32,
    /// Obituaries that were read and not yet acknowledged.
    pub(crate) delivered_deaths: Unacknowledged<Death>,
    /// Freeze notifications that were read and not yet acknowledged.
    pub(crate) delivered_freezes: Unacknowledged<Freeze>,
    /// The process is frozen: synchronous calls fail, one-way calls wait.
    pub(crate) frozen: bool,
    /// What the freeze notifications of this process say: counts the times that it was frozen or thawed.
    pub(crate) freeze_epoch: u64,
    /// The state that was last told.
    pub(crate) frozen_told: bool,
    /// `BINDER_FREEZE`s of this epoch that wait for transactions to end.
    pub(crate) freezing: u32,
    /// A synchronous call came since it was frozen.
    pub(crate) sync_received: bool,
    /// A one-way call came since it was frozen.
    pub(crate) oneway_received: bool,
    /// Transactions for this process that were sent and have not ended: one-way calls end when they are read, calls
    /// when they are replied to.
    pub(crate) outstanding: usize,
    /// The process wants to be told when it is suspected of flooding others with one-way calls.
    pub(crate) spam_detection: bool,
    /// Some thread polled.
    pub(crate) polled: bool,
    /// Threads that wait for a reply or work on a call.
    pub(crate) busy_threads: u32,
    /// Threads with `LOOPER_POLL`.
    pub(crate) polling_threads: u32,
    /// Those of them that may take any work.
    pub(crate) free_polling_threads: u32,
}

/// The list that [`ProcessInner::idle`] is; a thread is on no other with this number.
pub(crate) const IDLE: u64 = 1;

/// A thread of a process, from its first call until it exits.
#[pin_data]
pub(crate) struct Thread {
    /// Its id in the initial namespace.
    pub(crate) id: i32,
    pub(crate) process: Arc<Process>,
    /// The thread exited: a hint without the lock, which never turns back.
    exited: AtomicFlag,
    /// The next read returns at once: the thread is new, or a `flush` wants it out.
    pub(crate) need_return: AtomicFlag,
    /// The code of `return_error` while it is queued, else 0. No further command is carried out meanwhile. Written by
    /// the thread itself.
    pub(crate) return_code: Atomic<u32>,
    /// Where it sleeps; under [`Process::inner`].
    #[pin]
    pub(crate) sleeper: Sleeper,
    /// `BR_TRANSACTION_COMPLETE` and its like, for when no other is queued.
    pub(crate) complete: Arc<Queued<Code>>,
    /// What a command of this thread came to.
    pub(crate) return_error: Arc<Queued<Code>>,
    /// What became of a call this thread waits for.
    pub(crate) reply_error: Arc<Queued<Code>>,
    pub(crate) inner: LockedBy<ThreadInner, ProcessInner>,
    #[pin]
    links: ListLinks<IDLE>,
    #[pin]
    tracker: AtomicTracker<IDLE>,
    _counted: CountedThread,
}

impl_list_arc_safe! {
    impl ListArcSafe<{IDLE}> for Thread { tracked_by tracker: AtomicTracker<IDLE>; }
}
impl_list_item! {
    impl ListItem<{IDLE}> for Thread { using ListLinks { self.links }; }
}

impl Thread {
    /// A thread that has done nothing yet.
    pub(crate) fn new(id: i32, process: &Arc<Process>) -> Result<Arc<Self>> {
        let complete = Queued::new(Code::new(CodeKind::Complete))?;
        let return_error = Queued::new(Code::new(CodeKind::ReturnError))?;
        let reply_error = Queued::new(Code::new(CodeKind::ReplyError))?;
        let inner = LockedBy::new(
            &process.inner,
            ThreadInner {
                looper: 0,
                dead: false,
                stack: None,
                work: WorkList::new(),
                has_work: false,
                reply_error: None,
                extended_error: ExtendedError {
                    id: 0,
                    command: BR_OK,
                    param: 0,
                },
                tally: Tally::default(),
            },
        );
        let process = process.clone();
        Arc::pin_init(
            pin_init!(Self {
                id,
                process,
                exited: AtomicFlag::new(false),
                need_return: AtomicFlag::new(true),
                return_code: Atomic::new(0),
                sleeper <- Sleeper::new(c"Thread::sleeper", kernel::static_lock_class!()),
                complete,
                return_error,
                reply_error,
                inner,
                links <- ListLinks::new(),
                tracker <- AtomicTracker::new(),
                _counted: CountedThread::new(),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Whether the thread is known to have exited.
    pub(crate) fn exited(&self) -> bool {
        self.exited.load(Relaxed)
    }

    /// The thread has exited.
    pub(crate) fn set_exited(&self) {
        self.exited.store(true, Relaxed);
    }
}

/// The part of a thread that its process's [`Process::inner`] guards.
pub(crate) struct ThreadInner {
    /// `LOOPER_*`.
    pub(crate) looper: u32,
    /// The thread exited. It gets no work from then on.
    pub(crate) dead: bool,
    /// The innermost of the calls it waits for or works on.
    pub(crate) stack: Option<TransactionRef>,
    /// Work for this thread and no other.
    pub(crate) work: WorkList,
    /// `work` has something worth waking up for. What is queued while this is unset waits for company.
    pub(crate) has_work: bool,
    /// The code in [`Thread::reply_error`] while it is queued.
    pub(crate) reply_error: Option<u32>,
    /// What the last transaction came to.
    pub(crate) extended_error: ExtendedError,
    /// What the process counts of this thread.
    pub(crate) tally: Tally,
}

/// Whether a thread is one of [`ProcessInner::polling_threads`] and so on.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) polling: bool,
    pub(crate) free_polling: bool,
}

/// Told with `BC_REGISTER_LOOPER` that it was started because the driver asked.
pub(crate) const LOOPER_REGISTERED: u32 = 0x01;
/// Told with `BC_ENTER_LOOPER` that it is a looper.
pub(crate) const LOOPER_ENTERED: u32 = 0x02;
/// Told with `BC_EXIT_LOOPER` that it no longer is one.
pub(crate) const LOOPER_EXITED: u32 = 0x04;
/// Gave commands in an order that makes no sense.
pub(crate) const LOOPER_INVALID: u32 = 0x08;
/// Is in a read.
pub(crate) const LOOPER_WAITING: u32 = 0x10;
/// Polls.
pub(crate) const LOOPER_POLL: u32 = 0x20;

/// A return code on its way to a thread, without anything else to it.
pub(crate) struct Code {
    pub(crate) kind: CodeKind,
    /// The code, for [`CodeKind::Complete`]; for errors the thread has it.
    pub(crate) code: Atomic<u32>,
    pub(crate) home: Home,
    _counted: Option<CountedComplete>,
}

/// What a [`Code`] is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodeKind {
    /// A transaction was taken.
    Complete,
    /// A command failed.
    ReturnError,
    /// A call failed.
    ReplyError,
}

impl Code {
    fn new(kind: CodeKind) -> Self {
        Self {
            kind,
            code: Atomic::new(BR_TRANSACTION_COMPLETE),
            home: Home::new(),
            _counted: (kind == CodeKind::Complete).then(CountedComplete::new),
        }
    }

    /// A further `BR_TRANSACTION_COMPLETE`, for when a thread's own is queued.
    pub(crate) fn new_complete() -> Result<Arc<Queued<Self>>> {
        Queued::new(Self::new(CodeKind::Complete))
    }
}

/// An object that others can call, or refer to.
pub(crate) struct Node {
    pub(crate) debug_id: u32,
    /// The owner's name for it, unique in the owner.
    pub(crate) ptr: u64,
    /// The owner's companion to that.
    pub(crate) cookie: u64,
    /// `FLAT_BINDER_FLAG_*`, as of its first appearance.
    pub(crate) flags: u32,
    pub(crate) owner: Arc<Process>,
    pub(crate) home: Home,
    pub(crate) inner: LockedBy<NodeInner, ProcessInner>,
    pub(crate) _counted: CountedNode,
}

/// A counted reference to a node. The counts that user space sees are in [`NodeInner`].
pub(crate) type NodeRef = Arc<Queued<Node>>;

/// The part of a node that its owner's [`Process::inner`] guards.
pub(crate) struct NodeInner {
    pub(crate) counts: Counts,
    /// While the node is queued: the thread whose work it is among, or `None` for the owner's common work.
    pub(crate) queued_for: Option<i32>,
    /// A one-way call to this node is with a thread, or on its way there.
    pub(crate) oneway_active: bool,
    /// The one-way calls behind it.
    pub(crate) oneway: OnewayQueue,
    /// Who wants to know of the owner's death, by the address of the request.
    pub(crate) deaths: RBTree<usize, DeathRef>,
    /// Who wants to know when the owner is frozen, by the address of the request.
    pub(crate) freezes: RBTree<usize, FreezeRef>,
}

/// One process's names for nodes.
pub(crate) struct Handles {
    /// The file was released. No handle changes from then on.
    pub(crate) closed: bool,
    pub(crate) entries: RBTree<u32, Handle>,
    /// Handles by the address of the node.
    pub(crate) by_node: RBTree<usize, u32>,
}

/// A process's reference to a node.
///
/// # Invariants
///
/// Not both counts are 0. The node's counts contain this handle: once, and once more as strong if `strong` is not 0.
pub(crate) struct Handle {
    pub(crate) debug_id: u32,
    pub(crate) node: NodeRef,
    pub(crate) strong: usize,
    pub(crate) weak: usize,
    pub(crate) death: Option<DeathRef>,
    pub(crate) freeze: Option<FreezeRef>,
    pub(crate) _counted: CountedHandle,
}

/// A process's wish to hear of the death of a node's owner.
pub(crate) struct Death {
    /// Chosen by the process.
    pub(crate) cookie: u64,
    pub(crate) receiver: Arc<Process>,
    pub(crate) home: Home,
    /// Guarded by [`Process::inner`] of the receiver.
    pub(crate) state: LockedBy<DeathState, ProcessInner>,
    pub(crate) _counted: CountedDeath,
}

/// A counted reference to a [`Death`].
pub(crate) type DeathRef = Arc<Queued<Death>>;

/// The guarded part of a [`Death`].
pub(crate) struct DeathState {
    pub(crate) phase: DeathPhase,
    pub(crate) place: Place<Death>,
}

/// How far a [`Death`] has got.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeathPhase {
    /// The owner lives.
    Alive,
    /// It died; that is to be told, or told and not yet acknowledged.
    Dead,
    /// As `Dead`, and when that is acknowledged, that the request was cleared is to be told.
    DeadThenClear,
    /// That the request was cleared is to be told.
    Clear,
    /// Nothing is to be told any more.
    Over,
}

/// A process's wish to hear when a node's owner is frozen and thawed.
pub(crate) struct Freeze {
    /// Chosen by the process.
    pub(crate) cookie: u64,
    pub(crate) receiver: Arc<Process>,
    pub(crate) home: Home,
    /// Guarded by [`Process::inner`] of the receiver.
    pub(crate) state: LockedBy<FreezeState, ProcessInner>,
    pub(crate) _counted: CountedFreeze,
}

/// A counted reference to a [`Freeze`].
pub(crate) type FreezeRef = Arc<Queued<Freeze>>;

/// How far a [`Freeze`] has got.
pub(crate) struct FreezeState {
    /// What is to be told.
    pub(crate) frozen: bool,
    /// [`ProcessInner::freeze_epoch`] of the node's owner when that was so; 0 if nothing is known yet.
    pub(crate) epoch: u64,
    pub(crate) place: Place<Freeze>,
    /// When it is acknowledged, there is something new to tell.
    pub(crate) resend: bool,
    /// The request was cleared: that is what is to be told.
    pub(crate) cleared: bool,
    /// The handle is gone; nothing is to be told any more.
    pub(crate) over: bool,
}

/// A local strong count on a node, given back when dropped. It keeps the owner from letting the object go.
pub(crate) struct StrongNode(pub(crate) NodeRef);

/// A local count on a node, strong or weak, given back when dropped.
pub(crate) struct LocalNode {
    pub(crate) node: NodeRef,
    pub(crate) strong: bool,
}

/// A buffer in a process's mapping.
///
/// It is moved several times on every call, and so is kept small: what few transactions have is in [`Cargo`].
pub(crate) struct Held {
    pub(crate) pages: PageUse,
    /// The node that was called.
    pub(crate) node: Option<StrongNode>,
    pub(crate) cargo: Option<KBox<Cargo>>,
    /// Where it begins in the mapping.
    pub(crate) offset: u32,
    pub(crate) data_size: u32,
    pub(crate) offsets_size: u32,
    /// Bytes behind the offsets: buffers that objects point to, and the security context.
    pub(crate) extra_size: u32,
    /// Bytes of the security context, the last of those; 0 if there is none.
    pub(crate) context_size: u32,
    /// Charged to the half of the mapping that is for one-way calls.
    pub(crate) oneway: bool,
    /// When it is freed, the node's next one-way call is due.
    pub(crate) ends_oneway: bool,
    /// Overwrite the bytes before they are given back.
    pub(crate) clear: bool,
    /// User space has, or had, the buffer. If it did not come to that, the bytes are overwritten, too.
    pub(crate) delivered: bool,
    pub(crate) _counted: CountedBuffer,
}

/// What comes with the objects in a buffer.
#[derive(Default)]
pub(crate) struct Cargo {
    /// What they keep alive.
    pub(crate) objects: KVec<ObjectRef>,
    /// Files that the receiver is to get descriptors for, until the buffer is filled.
    pub(crate) files: KVec<SentFile>,
    /// They are among the receiver's [`PageRange::in_flight`].
    pub(crate) files_in_flight: bool,
    /// Descriptors of arrays, which the driver closes for the receiver when the buffer is freed.
    pub(crate) fds_to_close: KVec<u32>,
    /// Addresses in the receiver that were written, until it gets the buffer.
    pub(crate) addresses: KVec<SentAddress>,
    /// Where the buffer was in the receiver when those were written.
    pub(crate) written_at: usize,
}

/// An address of a part of a buffer, written in the buffer.
#[derive(Clone, Copy)]
pub(crate) struct SentAddress {
    /// Where in the buffer it stands.
    pub(crate) at: u32,
    /// What in the buffer it leads to.
    pub(crate) to: u32,
}

/// A reference that an object in a buffer holds in the name of the receiver.
pub(crate) enum ObjectRef {
    /// The receiver's own node.
    Node(LocalNode),
    /// A handle of the receiver's.
    Handle {
        /// The handle.
        handle: u32,
        /// Which count.
        strong: bool,
    },
}

/// A buffer that user space has not got, or no longer. Dropping it gives everything back.
pub(crate) struct Buffer {
    pub(crate) process: Arc<Process>,
    /// `None` once user space has it.
    pub(crate) held: Option<Held>,
}

/// A call, one-way call or reply.
pub(crate) struct Transaction {
    pub(crate) debug_id: u32,
    /// When it began, as told by [`jiffies`](crate::sys::helpers::jiffies).
    pub(crate) start: u32,
    /// Who waits for the reply; nobody for one-way calls and replies.
    pub(crate) from: Option<Arc<Thread>>,
    /// What that thread was waiting for or working on before.
    pub(crate) from_parent: Option<TransactionRef>,
    pub(crate) target: Arc<Process>,
    pub(crate) sender_pid: i32,
    pub(crate) code: u32,
    pub(crate) flags: u32,
    pub(crate) sender_euid: Kuid,
    pub(crate) receiver: LockedBy<Receiver, ProcessInner>,
    pub(crate) _counted: CountedTransaction,
}

// With its reference count it fits the allocator's 192 bytes, all of which are cleared on every call.
const _: () = assert!(size_of::<Queued<Transaction>>() + size_of::<usize>() <= 192);

/// A counted reference to a transaction.
pub(crate) type TransactionRef = Arc<Queued<Transaction>>;

/// The receiver's side of a transaction, guarded by [`Process::inner`] of the target.
pub(crate) struct Receiver {
    /// Until it is delivered.
    pub(crate) buffer: Option<Buffer>,
    /// Who works on it.
    pub(crate) thread: Option<Arc<Thread>>,
    /// What that thread was waiting for or working on before.
    pub(crate) parent: Option<TransactionRef>,
    /// The thread that sent it, for logs.
    pub(crate) sender_tid: i32,
    /// The sender's nice value.
    pub(crate) sender_nice: i8,
    /// The nice value of the thread that works on it before it did.
    pub(crate) saved_nice: i8,
    /// It is one of [`ProcessInner::outstanding`].
    pub(crate) counted: bool,
    /// It never changes; here is the room for it.
    pub(crate) level: Level,
}

/// Whether a transaction is charged to its sender's memory cgroup.
///
/// A charge costs some hundred instructions, so the common call is without. The number of transactions without a
/// charge is limited by objects that are charged:
///
/// - A call that a thread makes while it works on no other and has nothing to read: there is one for each [`Thread`],
///   which it holds a reference on.
/// - A call that a thread makes while it works on one of those: there is one for each of those.
/// - The reply to one of these: the thread that gets it makes no further call without a charge before it has read it.
/// - A one-way call that no other waits beside: there is one for each [`Process`].
///
/// The number of all others is limited by what they are charged to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Level(u8);

impl Level {
    const FIRST: Self = Self(1);
    const CHARGED: Self = Self(u8::MAX);
    /// Calls nested so deep are not charged: a call, and one back.
    const MOST: u8 = 2;

    /// Of a call by a thread that works on a call of level `parent`; `is_idle` if the thread has nothing to read.
    #[inline]
    pub(crate) fn of_call(is_idle: bool, parent: Option<Self>) -> Self {
        match (is_idle, parent) {
            (false, _) => Self::CHARGED,
            (true, None) => Self::FIRST,
            (true, Some(Self(level))) => Self(level.saturating_add(1)),
        }
    }

    /// Of a one-way call; `is_only` if no other waits in the same process.
    #[inline]
    pub(crate) fn of_oneway(is_only: bool) -> Self {
        if is_only {
            Self::FIRST
        } else {
            Self::CHARGED
        }
    }

    /// Whether it is charged.
    #[inline]
    pub(crate) fn is_charged(self) -> bool {
        self.0 > Self::MOST
    }

    /// The flags to allocate it with where the current task pays.
    #[inline]
    pub(crate) fn flags(self) -> Flags {
        if self.is_charged() {
            GFP_KERNEL_ACCOUNT
        } else {
            GFP_KERNEL
        }
    }
}
