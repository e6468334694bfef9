// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! One transaction's bytes: reserved in the receiver's mapping, filled by the sender, delivered, released.
//!
//! ```text
//!    reserve -> Buffer -> deliver -> Held, in the receiver's table
//!                  ^                   |
//!                  +------- take ------+      (BC_FREE_BUFFER)
//! ```
//!
//! A [`Buffer`] gives back everything it stands for when it is dropped: references, pages, bytes, and the node's next
//! one-way call.

use kernel::{
    fs::{
        file::{
            flags::O_CLOEXEC,
            FileDescriptorReservation, //
        },
        File, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
    uaccess::UserPtr,
    warn_on, //
};

use crate::{
    in_flight::SentFile,
    node::{
        LocalNode,
        NodeArc,
        StrongNode, //
    },
    page_range::{
        PageRange,
        PageUse,
        MAX_SIZE, //
    },
    process::Process,
    range_alloc::{
        Inquiry,
        RangeAllocator,
        Request,
        ReserveError,
        Reserved,
        Spare, //
    },
    stats::BufferCount,
    sums::{
        push,
        reserve, //
    },
    sys::{
        fd,
        helpers,
        memcg::Payer,
        trace, //
    },
};

mod layout;

use self::layout::Layout;

/// A buffer in a process's mapping.
///
/// It is moved several times on every call, and so is kept small: what few transactions have is in [`Cargo`].
pub(crate) struct Held {
    pages: PageUse,
    /// The node that was called.
    node: Option<StrongNode>,
    cargo: Option<KBox<Cargo>>,
    /// Where it begins in the mapping.
    offset: u32,
    data_size: u32,
    offsets_size: u32,
    /// Bytes behind the offsets: buffers that objects point to, and the security context.
    extra_size: u32,
    /// Bytes of the security context, the last of those; 0 if there is none.
    context_size: u32,
    /// Charged to the half of the mapping that is for one-way calls.
    oneway: bool,
    /// When it is freed, the node's next one-way call is due.
    ends_oneway: bool,
    /// Overwrite the bytes before they are given back.
    clear: bool,
    /// User space has, or had, the buffer. If it did not come to that, the bytes are overwritten, too.
    delivered: bool,
    _count: BufferCount,
}

/// What comes with the objects in a buffer.
#[derive(Default)]
struct Cargo {
    /// What they keep alive.
    objects: KVec<ObjectRef>,
    /// Files that the receiver is to get descriptors for, until the buffer is filled.
    files: KVec<SentFile>,
    /// They are among the receiver's [`PageRange::in_flight`].
    files_in_flight: bool,
    /// Descriptors of arrays, which the driver closes for the receiver when the buffer is freed.
    fds_to_close: KVec<u32>,
    /// Addresses in the receiver that were written, until it gets the buffer.
    addresses: KVec<SentAddress>,
    /// Where the buffer was in the receiver when those were written.
    written_at: usize,
}

/// An address of a part of a buffer, written in the buffer.
#[derive(Clone, Copy)]
struct SentAddress {
    /// Where in the buffer it stands.
    at: u32,
    /// What in the buffer it leads to.
    to: u32,
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
    process: Arc<Process>,
    /// `None` once user space has it.
    held: Option<Held>,
}

/// What a buffer is wanted for.
pub(crate) struct Wanted {
    /// Bytes of data.
    pub(crate) data_size: usize,
    /// Bytes of offsets.
    pub(crate) offsets_size: usize,
    /// Bytes behind them.
    pub(crate) extra_size: usize,
    /// Bytes of the security context, which are the last of those.
    pub(crate) context_size: usize,
    /// Charged to the half of the mapping that is for one-way calls.
    pub(crate) oneway: bool,
    /// Overwrite it when it is freed.
    pub(crate) clear: bool,
    /// The sender.
    pub(crate) pid: i32,
    /// The transaction's number.
    pub(crate) id: u32,
}

/// What a reservation shows of the one-way calls in a mapping.
pub(crate) struct OnewayCalls {
    /// The sender is suspected of flooding the receiver with them.
    pub(crate) suspect: bool,
    /// The buffer is that of the only one.
    pub(crate) only: bool,
}

/// Why there is no buffer.
pub(crate) enum NoBuffer {
    /// The receiver has no mapping.
    NotMapped,
    /// The sizes make no sense.
    BadSize,
    /// There is no hole that is large enough.
    Full {
        /// The largest.
        largest_hole: usize,
        /// All of them.
        free: usize,
    },
    /// The one-way half is used up.
    OnewayFull {
        /// What is left of it.
        free: usize,
    },
    /// The kernel is out of memory.
    NoMemory,
}

const _: () = assert!(MAX_SIZE <= u32::MAX as usize);

/// `n` as a size or place in memory.
fn wide(n: u32) -> usize {
    // CAST: Widening: the driver runs on 64-bit kernels only.
    n as usize
}

impl Process {
    fn reserve_range(&self, request: &Request, is_reply: bool) -> Result<Reserved, NoBuffer> {
        let mut buffers = self.buffers().lock();
        let mut result = buffers.reserve(request);
        if let Err(ReserveError::NeedSpare) = result {
            drop(buffers);
            let spare = self
                .payer_of(is_reply)
                .pay(Spare::new)
                .map_err(|_| NoBuffer::NoMemory)?;
            buffers = self.buffers().lock();
            let surplus = buffers.add_spare(spare);
            result = buffers.reserve(request);
            drop(buffers);
            drop(surplus);
        }
        result.map_err(|e| match e {
            ReserveError::NeedSpare => NoBuffer::NoMemory,
            ReserveError::NoSpace { largest_hole, free } => NoBuffer::Full { largest_hole, free },
            ReserveError::NoOnewaySpace { free } => NoBuffer::OnewayFull { free },
        })
    }

    /// Answers an inquiry about a sender, with the lock let go now and then.
    #[cold]
    fn is_flooded(&self, mut inquiry: Inquiry) -> bool {
        loop {
            let answer = self.buffers().lock().inquire(&mut inquiry);
            if let Some(answer) = answer {
                return answer;
            }
            helpers::cond_resched();
        }
    }

    /// Reserves a buffer in this process's mapping; `node` stays held until it is freed.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        wanted: &Wanted,
        node: Option<StrongNode>,
    ) -> Result<(Buffer, OnewayCalls), NoBuffer> {
        let layout = Layout {
            data: wanted.data_size,
            offsets: wanted.offsets_size,
            extra: wanted.extra_size,
            context: wanted.context_size,
        };
        let size = layout.size().ok_or(NoBuffer::BadSize)?;
        if !self.pages().is_mapped() {
            return Err(NoBuffer::NotMapped);
        }
        let failed = |e| {
            trace::buffer_alloc_failed(self.pid(), wanted.id, 0, size);
            e
        };
        let request = Request {
            size,
            oneway: wanted.oneway,
            pid: wanted.pid,
            id: wanted.id,
        };
        let reserved = self
            .reserve_range(&request, node.is_none())
            .map_err(failed)?;
        let pages = match PageRange::acquire(self.pages(), reserved.offset, reserved.size) {
            Ok(pages) => pages,
            Err(e) => {
                self.free_range(reserved.offset);
                return Err(failed(match e {
                    ESRCH => NoBuffer::NotMapped,
                    _ => NoBuffer::NoMemory,
                }));
            }
        };
        trace::buffer_alloc(self.pid(), wanted.id, reserved.offset, reserved.size);
        // CAST: The range is inside a mapping of at most `MAX_SIZE` bytes, and so are its parts.
        let buffer = Buffer {
            process: self.clone(),
            held: Some(Held {
                pages,
                node,
                cargo: None,
                offset: reserved.offset as u32,
                data_size: wanted.data_size as u32,
                offsets_size: wanted.offsets_size as u32,
                extra_size: wanted.extra_size as u32,
                context_size: wanted.context_size as u32,
                oneway: wanted.oneway,
                ends_oneway: false,
                clear: wanted.clear,
                delivered: false,
                _count: BufferCount::new(),
            }),
        };
        let oneway_calls = OnewayCalls {
            suspect: reserved
                .inquiry
                .is_some_and(|inquiry| self.is_flooded(inquiry)),
            only: reserved.only_oneway,
        };
        Ok((buffer, oneway_calls))
    }

    /// What is charged with a transaction to this process: the sender of a call, which is the current task, or the
    /// receiver of a reply, which has asked for it.
    fn payer_of(&self, is_reply: bool) -> Payer {
        if is_reply {
            self.pages().payer()
        } else {
            Payer::Current
        }
    }

    /// Frees a range that the caller has reserved.
    fn free_range(&self, offset: usize) {
        let mut buffers = self.buffers().lock();
        if trace::wants_buffer_free() {
            self.trace_free(&buffers, offset);
        }
        let freed = buffers.free(offset);
        drop(buffers);
        // The caller has reserved the range, and its contents are not with user space.
        warn_on!(freed.is_err());
    }

    /// Traces that a range is about to be freed. The lock is held, so that no other buffer can have it yet.
    #[cold]
    fn trace_free(&self, buffers: &RangeAllocator<Held>, offset: usize) {
        if let Some(live) = buffers.at_or_above(offset) {
            if live.offset == offset {
                trace::buffer_free(self.pid(), live.id, offset, live.size);
            }
        }
    }

    /// `BC_FREE_BUFFER`: takes the buffer at `address` back from user space.
    ///
    /// # Errors
    ///
    /// `EINVAL` if user space has no buffer there.
    pub(crate) fn take_buffer(self: &Arc<Self>, address: usize) -> Result<Buffer> {
        let offset = address
            .checked_sub(self.pages().user_start())
            .ok_or(EINVAL)?;
        let held = self.buffers().lock().take(offset).ok_or(EINVAL)?;
        Ok(Buffer {
            process: self.clone(),
            held: Some(held),
        })
    }

    /// Takes all buffers back from user space, which is gone.
    pub(crate) fn release_buffers(self: &Arc<Self>) {
        let mut offset = 0;
        loop {
            let mut buffers = self.buffers().lock();
            let Some(live) = buffers.at_or_above(offset) else {
                break;
            };
            let at = live.offset;
            let held = buffers.take(at);
            drop(buffers);
            offset = at.saturating_add(1);
            // A buffer that is not with user space is freed by the thread that has it.
            if held.is_some() {
                drop(Buffer {
                    process: self.clone(),
                    held,
                });
            }
            helpers::cond_resched();
        }
    }

    /// Gives this process, which has just mapped `size` bytes, that many to reserve.
    pub(crate) fn init_buffers(&self, size: usize) {
        *self.buffers().lock() = RangeAllocator::new(size);
    }
}

impl Buffer {
    /// The process in whose mapping the buffer is.
    pub(crate) fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// What there is in the mapping, unless user space has it already.
    pub(crate) fn info(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    fn held(&self) -> Result<&Held> {
        self.held.as_ref().ok_or(EINVAL)
    }

    /// The user address of the data.
    ///
    /// # Errors
    ///
    /// `EINVAL` if user space has the buffer already; that goes for all that follows.
    pub(crate) fn address(&self) -> Result<usize> {
        let offset = wide(self.held()?.offset);
        Ok(self.process.pages().user_start().wrapping_add(offset))
    }

    /// Where the offsets begin, from the start of the buffer.
    pub(crate) fn offsets_at(&self) -> Result<usize> {
        self.held()?.layout().offsets_at().ok_or(EINVAL)
    }

    /// Where that which is behind the offsets begins, from the start of the buffer.
    pub(crate) fn extra_at(&self) -> Result<usize> {
        self.held()?.layout().extra_at().ok_or(EINVAL)
    }

    /// Bytes of data and of offsets.
    pub(crate) fn sizes(&self) -> Result<(u32, u32)> {
        self.held().map(|held| (held.data_size, held.offsets_size))
    }

    /// The node that was called; `None` for replies.
    pub(crate) fn node(&self) -> Option<&NodeArc> {
        let node = self.held.as_ref()?.node.as_ref()?;
        Some(node.node())
    }

    /// Where the sender's security context is, from the start of the buffer.
    pub(crate) fn context_at(&self) -> Option<usize> {
        self.held.as_ref()?.layout().context_at()
    }

    /// The place in the mapping of `len` bytes at `at` in the buffer.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they go beyond the buffer.
    fn place(&self, at: usize, len: usize) -> Result<usize> {
        let held = self.held()?;
        if !held.layout().has(at, len) {
            return Err(EINVAL);
        }
        wide(held.offset).checked_add(at).ok_or(EINVAL)
    }

    /// Copies `len` bytes from user space to `at` in the buffer.
    ///
    /// # Errors
    ///
    /// `EFAULT` if they cannot be read, `EINVAL` if they go beyond the buffer.
    pub(crate) fn copy_from_user(&self, at: usize, from: UserPtr, len: usize) -> Result {
        let place = self.place(at, len)?;
        self.held()?.pages.copy_from_user(place, from, len)
    }

    /// Writes to `at` in the buffer.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it goes beyond the buffer.
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) -> Result {
        let place = self.place(at, bytes.len())?;
        self.held()?.pages.write(place, bytes)
    }

    /// Writes the offset of an object.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no object of that number.
    pub(crate) fn write_offset(&self, object: usize, offset: u64) -> Result {
        let at = self.held()?.layout().offset_at(object).ok_or(EINVAL)?;
        self.write(at, &offset.to_ne_bytes())
    }

    fn cargo(&mut self) -> Result<&mut Cargo> {
        let held = self.held.as_mut().ok_or(EINVAL)?;
        held.cargo.as_deref_mut().ok_or(EINVAL)
    }

    /// The cargo, made if there is none, and the payer for what is put into it.
    fn make_cargo(&mut self) -> Result<(&mut Cargo, Payer)> {
        let held = self.held.as_mut().ok_or(EINVAL)?;
        let payer = self.process.payer_of(held.node.is_none());
        if held.cargo.is_none() {
            held.cargo = Some(payer.pay(|flags| KBox::new(Cargo::default(), flags))?);
        }
        Ok((held.cargo.as_deref_mut().ok_or(EINVAL)?, payer))
    }

    /// Lets `object` be given back with the buffer.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; the object is given back at once then.
    pub(crate) fn add_object(&mut self, object: ObjectRef) -> Result {
        let room = self
            .make_cargo()
            .and_then(|(cargo, payer)| payer.pay(|flags| reserve(&mut cargo.objects, 1, flags)));
        if let Err(e) = room {
            object.give_back(&self.process);
            return Err(e);
        }
        push(&mut self.cargo()?.objects, object, GFP_KERNEL_ACCOUNT)
    }

    /// Lets the receiver get a descriptor for a file.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn add_file(&mut self, file: SentFile) -> Result {
        let (cargo, payer) = self.make_cargo()?;
        payer.pay(|flags| push(&mut cargo.files, file, flags))
    }

    /// The buffer is filled: has its files be held as long as there is a mapping to receive them in.
    ///
    /// # Errors
    ///
    /// - `ESRCH` if the mapping is gone.
    /// - `ENOMEM`.
    #[inline]
    pub(crate) fn send_files(&mut self) -> Result {
        match self.held.as_ref().and_then(|held| held.cargo.as_ref()) {
            Some(cargo) if !cargo.files.is_empty() => self.send_some_files(),
            _ => Ok(()),
        }
    }

    fn send_some_files(&mut self) -> Result {
        let offset = wide(self.held()?.offset);
        let (cargo, payer) = self.make_cargo()?;
        let files = core::mem::take(&mut cargo.files);
        payer.pay(|flags| self.process.pages().in_flight().add(offset, files, flags))?;
        self.cargo()?.files_in_flight = true;
        Ok(())
    }

    /// The address in the receiver of what is at `to` in the buffer, which is about to be written at `at`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn address_for(&mut self, at: usize, to: usize) -> Result<u64> {
        let address = self.address()?;
        let (cargo, payer) = self.make_cargo()?;
        if cargo.addresses.is_empty() {
            cargo.written_at = address;
        }
        let sent = SentAddress {
            at: at.try_into()?,
            to: to.try_into()?,
        };
        payer.pay(|flags| push(&mut cargo.addresses, sent, flags))?;
        Ok(cargo.written_at.wrapping_add(to) as u64)
    }

    /// Writes the addresses in the buffer, which the current process is about to get, anew if its mapping has moved since.
    fn follow_mapping(&mut self) -> Result {
        let address = self.address()?;
        let cargo = self.cargo()?;
        let addresses = core::mem::take(&mut cargo.addresses);
        if cargo.written_at == address {
            return Ok(());
        }
        for SentAddress { at, to } in addresses {
            let sent = address.wrapping_add(wide(to)) as u64;
            self.write(wide(at), &sent.to_ne_bytes())?;
        }
        Ok(())
    }

    /// Reserves descriptors in the current process, which is about to get the buffer, for the files in it, and writes
    /// their numbers to their places. They are installed by [`Descriptors::install`]. Also has addresses in the buffer
    /// lead to where the mapping is.
    ///
    /// # Errors
    ///
    /// - `ESRCH` if the mapping is gone, and with it the files.
    /// - `EMFILE`, `ENOMEM`.
    #[inline]
    pub(crate) fn reserve_descriptors(&mut self) -> Result<Descriptors> {
        match self.held.as_ref().and_then(|held| held.cargo.as_ref()) {
            Some(cargo) if cargo.files_in_flight || !cargo.addresses.is_empty() => self.unpack(),
            _ => Ok(Descriptors(KVec::new())),
        }
    }

    fn unpack(&mut self) -> Result<Descriptors> {
        self.follow_mapping()?;
        if self.cargo()?.files_in_flight {
            self.reserve_some_descriptors()
        } else {
            Ok(Descriptors(KVec::new()))
        }
    }

    fn reserve_some_descriptors(&mut self) -> Result<Descriptors> {
        let offset = wide(self.held()?.offset);
        self.cargo()?.files_in_flight = false;
        let files = self.process.pages().in_flight().take(offset).ok_or(ESRCH)?;
        let mut reserved = KVec::with_capacity(files.len(), GFP_KERNEL_ACCOUNT)?;
        let mut to_close = KVec::new();
        for SentFile { at, file, in_array } in files {
            let descriptor = FileDescriptorReservation::get_unused_fd_flags(O_CLOEXEC)?;
            let number = descriptor.reserved_fd();
            if in_array {
                push(&mut to_close, number, GFP_KERNEL_ACCOUNT)?;
            }
            self.write(at, &number.to_ne_bytes())?;
            push(&mut reserved, (descriptor, file), GFP_KERNEL_ACCOUNT)?;
        }
        self.cargo()?.fds_to_close = to_close;
        Ok(Descriptors(reserved))
    }

    /// Closes the descriptors that came in arrays, as the current process frees the buffer. Returns whether there were
    /// any.
    pub(crate) fn close_descriptors(&mut self) -> bool {
        let cargo = self.held.as_mut().and_then(|held| held.cargo.as_mut());
        let Some(cargo) = cargo else {
            return false;
        };
        let numbers = core::mem::take(&mut cargo.fds_to_close);
        let any = !numbers.is_empty();
        for number in numbers {
            fd::close(number);
        }
        any
    }

    /// Maps the buffer's pages into the current process, which is about to get it, where that is still to be done.
    #[inline]
    pub(crate) fn map_if_needed(&self) {
        if let Some(held) = &self.held {
            held.pages.map_if_needed();
        }
    }

    /// The transaction this buffer belongs to is on its way: from now on, the node's next one-way call waits for it.
    pub(crate) fn submitted(&mut self) {
        if let Some(held) = &mut self.held {
            held.ends_oneway = held.oneway;
        }
    }

    /// Hands the buffer to user space: from now on it can be freed by its address.
    pub(crate) fn deliver(mut self) {
        if let Some(mut held) = self.held.take() {
            let offset = wide(held.offset);
            held.delivered = true;
            if let Err(held) = self.process.buffers().lock().commit(offset, held) {
                // The range is reserved as long as this value lives.
                warn_on!(true);
                self.held = Some(held);
            }
        }
    }
}

/// Descriptors that are reserved in the current process for files on their way.
pub(crate) struct Descriptors(KVec<(FileDescriptorReservation, ARef<File>)>);

impl Descriptors {
    /// Makes them real.
    pub(crate) fn install(self) {
        for (descriptor, file) in self.0 {
            descriptor.fd_install(file);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            let offset = wide(held.offset);
            held.give_back(&self.process);
            self.process.free_range(offset);
        }
    }
}

impl Held {
    /// The node that was called; `None` for a reply.
    pub(crate) fn node(&self) -> Option<&StrongNode> {
        self.node.as_ref()
    }

    /// Where the buffer begins in the mapping.
    pub(crate) fn offset(&self) -> u32 {
        self.offset
    }

    /// Bytes of data, of offsets and behind them.
    pub(crate) fn sizes(&self) -> [u32; 3] {
        [self.data_size, self.offsets_size, self.extra_size]
    }

    fn layout(&self) -> Layout {
        Layout {
            data: wide(self.data_size),
            offsets: wide(self.offsets_size),
            extra: wide(self.extra_size),
            context: wide(self.context_size),
        }
    }

    /// Gives back everything but the range.
    fn give_back(self, process: &Process) {
        // Bytes that were not delivered must not be in the page when other bytes are.
        if self.clear || (!self.delivered && process.pages().is_mapped()) {
            let size = self.layout().size();
            // The same sum was made when the buffer was reserved, and these are its pages.
            let cleared =
                size.is_some_and(|size| self.pages.clear(wide(self.offset), size).is_ok());
            warn_on!(!cleared);
        }
        drop(self.pages);
        if let Some(cargo) = self.cargo {
            if cargo.files_in_flight {
                drop(process.pages().in_flight().take(wide(self.offset)));
            }
            for object in KBox::into_inner(cargo).objects {
                object.give_back(process);
            }
        }
        if let Some(node) = self.node {
            if self.ends_oneway {
                node.end_oneway();
            }
        }
    }
}

impl ObjectRef {
    fn give_back(self, process: &Process) {
        match self {
            Self::Node(local) => drop(local),
            Self::Handle { handle, strong } => {
                // User space may have given up more than it had.
                let _ = process.dec_ref(handle, strong);
            }
        }
    }
}
