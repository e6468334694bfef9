// SPDX-License-Identifier: GPL-2.0

//! Fixtures that most tests use.
//!
//! A Binder process is an open file, so one thread can have both ends of a transaction: it sends on one file and
//! reads the other, step by step, independent of timing. Files are opened `O_NONBLOCK`: a return that is missing is
//! an error at once, not a hang. For returns caused by another process or by deferred work, a test waits
//! ([`End::wait`]).

use std::collections::HashMap;
use std::ops::Deref;
use std::ops::DerefMut;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use binder_client::Binder;
use binder_client::Call;
use binder_client::Error;
use binder_client::LIBBINDER_MAPPING;
use binder_client::Looper;
use binder_client::Parcel;
use binder_client::Payload;
use binder_client::Return;
use binder_client::Served;
use binder_client::object;
use binder_client::process::Child;
use binder_client::process::Line;
use binder_client::uapi;
use binder_client::uapi::ExtendedError;
use binder_client::uapi::FlatObject;
use binder_client::uapi::PtrCookie;
use binder_client::uapi::TransactionData;
use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::fcntl;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use crate::env::Env;
use crate::hostile;

/// The pointer and cookie of a node.
pub const fn node(number: u64) -> PtrCookie {
    PtrCookie { ptr: number << 12, cookie: (number << 12) | 0xc00 }
}

/// One open file and the calling thread's looper on it.
#[derive(Debug)]
pub struct End {
    looper: Looper,
}

impl Deref for End {
    type Target = Looper;

    fn deref(&self) -> &Looper {
        &self.looper
    }
}

impl DerefMut for End {
    fn deref_mut(&mut self) -> &mut Looper {
        &mut self.looper
    }
}

impl End {
    /// Uses an open file.
    pub fn over(binder: Binder) -> Self {
        Self { looper: Looper::new(Arc::new(binder)) }
    }

    /// Opens the device and maps as much as libbinder does.
    pub fn open(env: &Env) -> Self {
        Self::open_sized(env, LIBBINDER_MAPPING)
    }

    /// Opens the device and maps so many bytes.
    pub fn open_sized(env: &Env, len: usize) -> Self {
        let mut binder = Binder::open_with(&env.device, libc::O_NONBLOCK).expect("open");
        binder.map(len).expect("mmap");
        Self::over(binder)
    }

    /// Opens the device and maps nothing.
    pub fn open_unmapped(env: &Env) -> Self {
        Self::over(Binder::open_with(&env.device, libc::O_NONBLOCK).expect("open"))
    }

    /// Makes the calling thread a looper.
    pub fn enter(mut self) -> Self {
        self.queue().enter_looper();
        self.flush().expect("BC_ENTER_LOOPER");
        self
    }

    /// Sets or clears `O_NONBLOCK`.
    pub fn set_blocking(&self, blocking: bool) {
        let flags = if blocking { OFlag::O_RDWR } else { OFlag::O_RDWR | OFlag::O_NONBLOCK };
        fcntl(self.binder().as_fd(), FcntlArg::F_SETFL(flags)).expect("F_SETFL");
    }

    /// Runs `body` while the file is blocking.
    pub fn blocking<T>(&mut self, body: impl FnOnce(&mut Looper) -> T) -> T {
        self.set_blocking(true);
        let result = body(&mut self.looper);
        self.set_blocking(false);
        result
    }

    /// Waits for the next return.
    pub fn wait(&mut self) -> Return {
        self.blocking(|looper| looper.next()).expect("a return")
    }

    /// Reads all returns.
    pub fn drain(&mut self) -> Vec<Return> {
        let mut all = Vec::new();
        loop {
            match self.next() {
                Ok(ret) => all.push(ret),
                Err(Error::Sys { errno: Errno::EAGAIN, .. }) => return all,
                Err(error) => panic!("reading returns: {error}; before it came {all:x?}"),
            }
        }
    }

    /// Reads the extended error of this thread, which clears it.
    pub fn error(&self) -> ExtendedError {
        let mut error = ExtendedError::default();
        assert_eq!(self.binder().ioctl(uapi::BINDER_GET_EXTENDED_ERROR, &mut error), Ok(0));
        error
    }

    /// The errno of the extended error.
    pub fn errno(&self) -> Errno {
        Errno::from_raw(-self.error().param)
    }

    /// Reads all returns and compares them.
    #[track_caller]
    pub fn expect(&mut self, wanted: &[Return]) {
        assert_eq!(self.drain(), wanted);
    }

    /// Reads all returns, which must be one transaction.
    #[track_caller]
    pub fn expect_transaction(&mut self) -> TransactionData {
        match self.drain()[..] {
            [Return::Transaction(received)] => received,
            ref other => panic!("not one call: {other:x?}"),
        }
    }

    /// Reads all returns, which must end a call of this thread.
    #[track_caller]
    pub fn expect_reply(&mut self) -> TransactionData {
        match self.drain()[..] {
            [Return::TransactionComplete, Return::Reply(received)] => received,
            ref other => panic!("not a completion and a reply: {other:x?}"),
        }
    }

    /// Waits for one transaction.
    #[track_caller]
    pub fn wait_transaction(&mut self) -> TransactionData {
        match self.wait() {
            Return::Transaction(received) => received,
            other => panic!("not a call: {other:x?}"),
        }
    }

    /// Sends a call and reads nothing.
    #[track_caller]
    pub fn start(&mut self, call: Call<'_>) {
        self.queue().command(uapi::BC_TRANSACTION, &call.data());
        self.flush().expect("BC_TRANSACTION");
    }

    /// Sends a one-way call, which must succeed.
    #[track_caller]
    pub fn start_one_way(&mut self, call: Call<'_>) {
        self.start(call.with_flags(uapi::TF_ONE_WAY));
        self.expect(&[Return::TransactionComplete]);
    }

    /// Sends a reply and reads nothing.
    #[track_caller]
    pub fn start_reply(&mut self, call: Call<'_>) {
        self.queue().command(uapi::BC_REPLY, &call.data());
        self.flush().expect("BC_REPLY");
    }

    /// Sends a reply, which must succeed.
    #[track_caller]
    pub fn answer(&mut self, parcel: &Parcel) {
        self.start_reply(Call::reply(parcel));
        self.expect(&[Return::TransactionComplete]);
    }

    /// Frees a buffer at once.
    #[track_caller]
    pub fn give_back(&mut self, received: &TransactionData) {
        self.free(received);
        self.flush().expect("BC_FREE_BUFFER");
    }

    /// The data and objects of a transaction; frees the buffer.
    #[track_caller]
    pub fn take(&mut self, received: &TransactionData) -> Payload {
        let payload = self.payload(received).expect("a readable buffer");
        self.give_back(received);
        payload
    }
}

const PUT: u32 = 1;
const GET: u32 = 2;
const DROP: u32 = 3;

/// A context manager in a process of its own. It holds handles by number, through which processes find each other.
#[derive(Debug)]
pub struct Registry {
    peer: Peer,
}

impl Registry {
    /// The code of a call that gets a handle; the reply is empty if there is none.
    pub const GET: u32 = GET;

    /// Starts it. Waits until the manager of the previous test is released.
    pub fn start(env: &Env) -> Self {
        let peer = Peer::start(env, |env, line| {
            let binder = Binder::open_mapped(&env.device, LIBBINDER_MAPPING).expect("open");
            become_manager(&binder);
            line.say(0).expect("the test is there");
            keep_registry(Looper::new(Arc::new(binder)));
        });
        peer.hear();
        Self { peer }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.peer.pid()
    }

    /// Registers a node under a number.
    #[track_caller]
    pub fn put(&self, end: &mut End, number: u32, object: FlatObject) {
        let mut parcel = Parcel::from_bytes(&number.to_ne_bytes());
        parcel.object(&object);
        self.ask(end, PUT, &parcel);
    }

    /// Registers the node in a parcel that begins with the number.
    #[track_caller]
    pub fn put_with(&self, end: &mut End, parcel: &Parcel) {
        self.ask(end, PUT, parcel);
    }

    /// A handle to the node registered under a number, with one strong reference.
    #[track_caller]
    pub fn get(&self, end: &mut End, number: u32) -> u32 {
        let parcel = Parcel::from_bytes(&number.to_ne_bytes());
        let reply = end.blocking(|looper| looper.call(Call::new(0, GET, &parcel))).expect("the registry answers");
        let object = end.payload(&reply).expect("a readable reply").flat(0).expect("an object");
        let handle = object.as_handle().expect("a handle");
        end.queue().acquire(handle);
        end.give_back(&reply);
        handle
    }

    /// Removes the node under a number.
    #[track_caller]
    pub fn drop_kept(&self, end: &mut End, number: u32) {
        self.ask(end, DROP, &Parcel::from_bytes(&number.to_ne_bytes()));
    }

    /// Another server, and a handle of the client to its node.
    pub fn another(&self, env: &Env, client: &mut End) -> (End, u32) {
        let mut server = End::open(env);
        self.put(&mut server, 9, object::binder(0x9000, 0x9008));
        let handle = self.get(client, 9);
        self.drop_kept(&mut server, 9);
        (server, handle)
    }

    fn ask(&self, end: &mut End, code: u32, parcel: &Parcel) {
        let reply = end
            .blocking(|looper| {
                looper.call_with(Call::new(0, code, parcel), |looper, ret| {
                    looper.grant(&ret);
                    Ok(())
                })
            })
            .expect("the registry answers");
        end.give_back(&reply);
    }

    /// Kills the manager and waits until the context has none.
    pub fn kill(mut self, end: &mut End) {
        self.peer.kill();
        let empty = Parcel::new();
        until(|| end.blocking(|looper| looper.call(Call::new(0, DROP, &empty))) == Err(Error::Dead));
    }
}

fn keep_registry(mut looper: Looper) {
    let mut kept: HashMap<u32, u32> = HashMap::new();
    let served = looper.serve(|looper, received| {
        let payload = looper.payload(received).expect("a readable buffer");
        let number = payload.data.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)).unwrap_or_default();
        match received.code {
            PUT => {
                let handle = payload.flat(0).and_then(|object| object.as_handle()).expect("a handle");
                looper.queue().acquire(handle);
                kept.insert(number, handle);
                Served::Reply(Parcel::new())
            }
            GET => match kept.get(&number) {
                Some(handle) => Served::Reply(Parcel::from_object(&object::handle(*handle))),
                None => Served::Reply(Parcel::new()),
            },
            _ => {
                if let Some(handle) = kept.remove(&number) {
                    looper.queue().release(handle);
                }
                Served::Reply(Parcel::new())
            }
        }
    });
    panic!("the registry ends: {served:?}");
}

/// Becomes context manager once the one of the previous test is released.
pub fn become_manager(binder: &Binder) {
    until(|| match binder.become_manager() {
        Ok(()) => true,
        Err(error) if error.errno() == Some(Errno::EBUSY) => false,
        Err(error) => panic!("{error}"),
    });
}

/// Two files of this process, one with a handle to a node of the other.
#[derive(Debug)]
pub struct Pair {
    /// Holds [`Pair::handle`].
    pub client: End,
    /// Owns [`Pair::NODE`].
    pub server: End,
    /// The client's handle to the server's node.
    pub handle: u32,
    /// The context manager; it holds no reference any more.
    pub registry: Registry,
}

impl Pair {
    /// The server's node.
    pub const NODE: PtrCookie = node(0x51);

    /// Both with libbinder's mapping.
    pub fn new(env: &Env) -> Self {
        Self::sized(env, LIBBINDER_MAPPING, LIBBINDER_MAPPING)
    }

    /// With mappings of these sizes.
    pub fn sized(env: &Env, client: usize, server: usize) -> Self {
        let registry = Registry::start(env);
        Self::at(registry, End::open_sized(env, client), End::open_sized(env, server).enter())
    }

    /// With two open files.
    pub fn at(registry: Registry, client: End, server: End) -> Self {
        Self::with_flags(registry, client, server, 0)
    }

    /// With a node that accepts descriptors.
    pub fn with_fds(env: &Env) -> Self {
        let registry = Registry::start(env);
        Self::with_flags(registry, End::open(env), End::open(env).enter(), uapi::FLAT_BINDER_FLAG_ACCEPTS_FDS)
    }

    /// With a node with these flags.
    pub fn with_flags(registry: Registry, mut client: End, mut server: End, flags: u32) -> Self {
        registry.put(&mut server, 1, FlatObject { flags, ..object::binder(Self::NODE.ptr, Self::NODE.cookie) });
        let handle = registry.get(&mut client, 1);
        registry.drop_kept(&mut server, 1);
        Self { client, server, handle, registry }
    }

    /// One call from the client to the server, step by step; returns what the server and the client got.
    #[track_caller]
    pub fn round(&mut self, call: &Parcel, reply: &Parcel) -> (Payload, Payload) {
        self.client.start(Call::new(self.handle, 1, call));
        let received = self.server.expect_transaction();
        let there = self.server.take(&received);
        self.server.answer(reply);
        let received = self.client.expect_reply();
        (there, self.client.take(&received))
    }

    /// The client sends a node of its own, of which the server keeps a strong handle. What the client has to read then,
    /// the reply last, is not read yet.
    #[track_caller]
    pub fn lend(&mut self, node: PtrCookie) -> u32 {
        let parcel = Parcel::from_object(&object::binder(node.ptr, node.cookie));
        self.client.start(Call::new(self.handle, 1, &parcel));
        let received = self.server.expect_transaction();
        let payload = self.server.payload(&received).expect("a readable buffer");
        let handle = payload.flat(0).and_then(|object| object.as_handle()).expect("a handle");
        self.server.queue().acquire(handle);
        self.server.give_back(&received);
        self.server.answer(&Parcel::new());
        handle
    }

    /// Makes a short call with a reply, to show that the pair still works.
    #[track_caller]
    pub fn check(&mut self) {
        let (there, back) = self.round(&Parcel::from_bytes(b"are you there"), &Parcel::from_bytes(b"here I am"));
        assert_eq!(there.data, b"are you there");
        assert_eq!(back.data, b"here I am");
    }
}

/// A child process that is one end of a test, and a socket to it.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    line: Line,
}

impl Peer {
    /// Runs `body` in a process of its own, which has none of the test's open files.
    pub fn start(env: &Env, body: impl FnOnce(&Env, &Line)) -> Self {
        let (here, there) = Line::pair().expect("socketpair");
        let child = Child::spawn(|| {
            // SAFETY: the child runs `body`, which owns nothing of the parent's (it is handed `env` and its end
            // of the line), and then exits without dropping anything of the parent's.
            unsafe { hostile::close_all_but(there.as_fd().as_raw_fd()) };
            body(env, &there);
            0
        })
        .expect("fork");
        Self { child, line: here }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.pid().as_raw()
    }

    /// Waits for a number from it.
    #[track_caller]
    pub fn hear(&self) -> u64 {
        self.line.hear().expect("the other process is there")
    }

    /// Whether a number has arrived.
    pub fn has_spoken(&self) -> bool {
        self.line.heard()
    }

    /// Sends it a number.
    #[track_caller]
    pub fn say(&self, number: u64) {
        self.line.say(number).expect("the other process is there");
    }

    /// Kills it and reaps it. The driver may still be releasing its files.
    pub fn kill(&mut self) {
        let status = self.child.kill();
        let killed = matches!(status, Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _)));
        assert!(killed, "ended by itself: {status:?}");
    }

    /// Waits until it ends; returns its status.
    pub fn ended(mut self) -> WaitStatus {
        self.child.wait().expect("waitpid")
    }

    /// Waits until it ends, which must be without an error.
    #[track_caller]
    pub fn join(mut self) {
        let status = self.child.wait();
        assert!(matches!(status, Ok(WaitStatus::Exited(_, 0))), "the other process failed: {status:?}");
    }
}

/// Starts something in two threads on two CPUs at the same time.
#[derive(Debug, Default)]
pub struct Meeting {
    is_there: AtomicBool,
    has_begun: AtomicBool,
}

impl Meeting {
    /// The other thread begins.
    pub fn wait(&self) {
        self.is_there.store(true, Ordering::Release);
        while !self.has_begun.swap(false, Ordering::Acquire) {
            std::hint::spin_loop();
        }
    }

    /// Waits until the other thread waits, and begins.
    pub fn begin(&self) {
        while !self.is_there.swap(false, Ordering::Acquire) {
            std::thread::yield_now();
        }
        self.has_begun.store(true, Ordering::Release);
    }
}

/// Waits for a state. There is no limit but the watchdog's.
pub fn until(mut reached: impl FnMut() -> bool) {
    while !reached() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until a thread of a process is asleep in an ioctl.
pub fn until_in_ioctl(pid: i32, thread: i32) {
    until(|| {
        let read = |name| std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/{name}")).unwrap_or_default();
        let asleep = read("stat").rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('S'));
        let number = read("syscall").split(' ').next().and_then(|number| number.parse().ok());
        asleep && number == Some(libc::SYS_ioctl)
    });
}
