// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Objects in a buffer, translated from the sender's names to the receiver's.
//!
//! An object is read from the sender once, translated, and written to the buffer. Neither the sender's memory nor the
//! buffer, which the receiver can see, is read again. The references that the receiver gets are recorded beside the
//! buffer, and so is what later objects depend on.
//!
//! # Pointers
//!
//! A `BINDER_TYPE_PTR` object names a buffer of the sender's, which is copied behind the offsets; the receiver finds
//! its address there in the object. With a parent it also finds it in the parent's buffer, at the parent offset.
//! Fix-ups come in ascending order, depth first: the only buffers that may still be written to are the last one that
//! was, its parent, that one's parent, and so on, each behind the place of the last fix-up in it.
//!
//! So a buffer is copied in pieces, around what is written to it. The receiver, which may be able to read the page
//! already, never sees a pointer or a descriptor number of the sender there. An error of these copies fails the
//! transaction only if no other error does, as in the C driver, which copies the buffers last.

use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc,
    transmute::{
        AsBytes,
        FromBytes, //
    },
    uaccess::{
        UserPtr,
        UserSlice,
        UserSliceReader, //
    },
};

use crate::{
    buffer::{
        Buffer,
        ObjectRef, //
    },
    defs::{
        BufferObject,
        FdArrayObject,
        FlatObject,
        BINDER_BUFFER_FLAG_HAS_PARENT,
        BINDER_TYPE_BINDER,
        BINDER_TYPE_FD,
        BINDER_TYPE_FDA,
        BINDER_TYPE_HANDLE,
        BINDER_TYPE_PTR,
        BINDER_TYPE_WEAK_BINDER,
        BINDER_TYPE_WEAK_HANDLE, //
    },
    error::{
        failed,
        BinderError, //
    },
    in_flight::SentFile,
    node::{
        owner_knows,
        LocalNode,
        NodeArc, //
    },
    process::Process,
    sys::{
        fd,
        lsm, //
    },
    thread::Thread, //
};

mod fixups;

use self::fixups::{
    array_size,
    gap,
    invalid,
    number,
    rest_of,
    Fixups,
    Piece,
    Pointer,
    Room,
    OBJECT_ALIGN, //
};

/// Checks the offsets before any object is translated. The C driver copies all offsets first, and so returns these
/// errors first.
///
/// # Errors
///
/// `EFAULT` if the offsets cannot be read, `EINVAL` if they are cut short, or `extra_size` is no multiple of 8.
pub(crate) fn check(offsets: &UserSliceReader, extra_size: usize) -> Result<(), BinderError> {
    const UNREADABLE: &str = "offsets cannot be read";

    let aligned = extra_size % 8 == 0;
    // A single offset is read before anything else happens.
    if aligned && offsets.len() == size_of::<u64>() {
        return Ok(());
    }
    // One byte of each page, and the last.
    let mut rest = offsets.clone_reader();
    while !rest.is_empty() {
        let _: u8 = rest.read().map_err(|e| failed(e, UNREADABLE))?;
        let step = rest.len().saturating_sub(1).min(PAGE_SIZE - 1);
        rest.skip(step).map_err(|e| failed(e, UNREADABLE))?;
    }
    if offsets.len() % size_of::<u64>() != 0 {
        return invalid("size of the offsets is not a multiple of 8");
    }
    if !aligned {
        return invalid("size of the buffers is not a multiple of 8");
    }
    Ok(())
}

/// A transaction's data on its way from the sender into a buffer.
pub(crate) struct Filler<'a> {
    thread: &'a Arc<Thread>,
    buffer: &'a mut Buffer,
    /// The receiver accepts file descriptors.
    accepts_fds: bool,
    /// The area for the buffers that objects point to.
    room: Room,
    fixups: Fixups,
    /// Why the buffers that objects point to could not be copied.
    bad_buffer: Option<BinderError>,
}

impl<'a> Filler<'a> {
    /// Prepares to fill `buffer`, in which the buffers that objects point to are at `extra`.
    pub(crate) fn new(
        thread: &'a Arc<Thread>,
        buffer: &'a mut Buffer,
        accepts_fds: bool,
        extra: core::ops::Range<usize>,
    ) -> Self {
        Self {
            thread,
            buffer,
            accepts_fds,
            room: Room::new(extra),
            fixups: Fixups::new(),
            bad_buffer: None,
        }
    }

    /// Copies data and offsets from the sender, and translates the objects in the data on the way. The offsets have
    /// passed [`check`].
    ///
    /// # Errors
    ///
    /// What was done until then is undone when the buffer is dropped.
    pub(crate) fn fill(
        &mut self,
        data: UserPtr,
        data_size: usize,
        mut offsets: UserSliceReader,
    ) -> Result<(), BinderError> {
        // The end of the data that is in the buffer.
        let mut done = 0;
        let mut object = 0;
        while !offsets.is_empty() {
            let value: u64 = offsets
                .read()
                .map_err(|e| failed(e, "offsets cannot be read"))?;
            self.buffer
                .write_offset(object, value)
                .map_err(|e| failed(e, "offsets cannot be written"))?;

            let offset = number(value, "offset beyond the data")?;
            self.copy_data(data, done, gap(done, offset, data_size)?)?;
            let rest = UserSlice::new(data.wrapping_byte_add(offset), rest_of(data_size, offset)?);
            let size = self.object(object, offset, rest.reader())?;
            done = offset
                .checked_add(size)
                .ok_or_else(|| failed(EINVAL, "object beyond the data"))?;
            object = object.wrapping_add(1);
        }
        self.copy_data(data, done, rest_of(data_size, done)?)?;
        if object == 0 {
            return Ok(());
        }
        self.copy_buffers()
    }

    /// Copies `len` bytes at `at` in the data, which the sender has at `data`.
    fn copy_data(&self, data: UserPtr, at: usize, len: usize) -> Result<(), BinderError> {
        self.buffer
            .copy_from_user(at, data.wrapping_byte_add(at), len)
            .map_err(|e| failed(e, "data cannot be read"))
    }

    /// Copies what is left of the buffers that objects point to.
    fn copy_buffers(&mut self) -> Result<(), BinderError> {
        if let Some(refused) = self.bad_buffer {
            return Err(refused);
        }
        for piece in self.fixups.rest() {
            copy_piece(self.buffer, piece)?;
        }
        Ok(())
    }

    /// Copies what stands before the `len` bytes at `offset` in the buffer of `parent`, at `place` in the
    /// transaction's, in which something else is written; returns whether that is still to be done.
    fn copy_before(
        &mut self,
        parent: usize,
        offset: usize,
        place: usize,
        len: usize,
    ) -> Result<bool, BinderError> {
        let piece = self.fixups.leave_out(parent, offset, len)?;
        if self.bad_buffer.is_none() {
            self.bad_buffer = if place % OBJECT_ALIGN != 0 {
                Some(failed(EINVAL, "fix-up is not at a multiple of 4"))
            } else {
                copy_piece(self.buffer, piece).err()
            };
        }
        Ok(self.bad_buffer.is_none())
    }

    fn write<T: AsBytes>(&self, at: usize, value: &T) -> Result<(), BinderError> {
        self.buffer
            .write(at, AsBytes::as_bytes(value))
            .map_err(|e| failed(e, "buffer cannot be written"))
    }

    /// Translates the object at the start of `data` and returns its size.
    fn object(
        &mut self,
        object: usize,
        offset: usize,
        mut data: UserSliceReader,
    ) -> Result<usize, BinderError> {
        // The type is read first, because the size of the object depends on it. It is read a second time with the rest,
        // and may differ then; the second value is not used.
        fn whole<T: FromBytes>(data: &mut UserSliceReader) -> Result<T, BinderError> {
            if data.len() < size_of::<T>() {
                return invalid("object beyond the data");
            }
            data.read().map_err(|e| failed(e, "object cannot be read"))
        }

        if offset % OBJECT_ALIGN != 0 {
            return invalid("offset is not a multiple of 4");
        }
        if data.len() < size_of::<u32>() {
            return invalid("object beyond the data");
        }
        let kind: u32 = data
            .clone_reader()
            .read()
            .map_err(|e| failed(e, "object cannot be read"))?;
        match kind {
            BINDER_TYPE_BINDER
            | BINDER_TYPE_WEAK_BINDER
            | BINDER_TYPE_HANDLE
            | BINDER_TYPE_WEAK_HANDLE => {
                let mut flat: FlatObject = whole(&mut data)?;
                flat.kind = kind;
                let translated = self.reference(&flat)?;
                self.write(offset, &translated)?;
                Ok(size_of::<FlatObject>())
            }
            BINDER_TYPE_FD => {
                let flat: FlatObject = whole(&mut data)?;
                // The descriptor is where a flat object has its handle.
                self.file(
                    flat.handle(),
                    offset.wrapping_add(core::mem::offset_of!(FlatObject, binder)),
                    false,
                )?;
                let translated = FlatObject {
                    kind,
                    binder: 0,
                    ..flat
                };
                self.write(offset, &translated)?;
                Ok(size_of::<FlatObject>())
            }
            BINDER_TYPE_FDA => {
                let array: FdArrayObject = whole(&mut data)?;
                self.fd_array(&array)?;
                self.write(offset, &FdArrayObject { kind, ..array })?;
                Ok(size_of::<FdArrayObject>())
            }
            BINDER_TYPE_PTR => {
                let pointer: BufferObject = whole(&mut data)?;
                let pointer = BufferObject { kind, ..pointer };
                let translated = self.pointer(object, offset, &pointer)?;
                self.write(offset, &translated)?;
                Ok(size_of::<BufferObject>())
            }
            _ => invalid("unknown object type"),
        }
    }

    /// Translates a node or handle.
    fn reference(&mut self, object: &FlatObject) -> Result<FlatObject, BinderError> {
        let sender = self.thread.process();
        let receiver = self.buffer.process().clone();
        let thread = self.thread.clone();
        if matches!(object.kind, BINDER_TYPE_BINDER | BINDER_TYPE_WEAK_BINDER) {
            let strong = object.kind == BINDER_TYPE_BINDER;
            loop {
                let node = sender.node_for(object.binder, object.cookie, object.flags)?;
                let result = may_transfer(thread.process(), &receiver)
                    .and_then(|()| self.give_handle(&node, strong, object, Some(&thread)));
                match result {
                    // Another thread has just given up the last reference to it. The next one is a new node.
                    Err(error) if error.errno() == ENOENT => {}
                    Err(_) => {
                        thread.process().forget_if_unused(&node);
                        return result;
                    }
                    Ok(_) => return result,
                }
            }
        } else {
            let strong = object.kind == BINDER_TYPE_HANDLE;
            // The node is held from now on, whatever another thread does with the handle.
            let local = sender.local_node(object.handle(), strong)?;
            may_transfer(sender, &receiver)?;
            if Arc::ptr_eq(local.node().owner(), &receiver) {
                self.give_node(local, object)
            } else {
                self.give_handle(local.node(), strong, object, None)
            }
        }
    }

    /// Gives the receiver a reference to a node that it does not own.
    fn give_handle(
        &mut self,
        node: &NodeArc,
        strong: bool,
        object: &FlatObject,
        sender: Option<&Thread>,
    ) -> Result<FlatObject, BinderError> {
        let handle = self.buffer.process().insert_ref(node, strong, sender)?;
        self.buffer
            .add_object(ObjectRef::Handle { handle, strong })
            .map_err(|e| failed(e, "out of memory"))?;
        let kind = if strong {
            BINDER_TYPE_HANDLE
        } else {
            BINDER_TYPE_WEAK_HANDLE
        };
        Ok(FlatObject::with_handle(kind, object.flags, handle))
    }

    /// Gives the receiver its own node.
    fn give_node(
        &mut self,
        local: LocalNode,
        object: &FlatObject,
    ) -> Result<FlatObject, BinderError> {
        let node = local.node();
        if !local.is_strong() && !owner_knows(node) {
            return invalid("weak reference to a node its owner forgot");
        }
        let translated = FlatObject {
            kind: if local.is_strong() {
                BINDER_TYPE_BINDER
            } else {
                BINDER_TYPE_WEAK_BINDER
            },
            flags: object.flags,
            binder: node.ptr(),
            cookie: node.cookie(),
        };
        self.buffer
            .add_object(ObjectRef::Node(local))
            .map_err(|e| failed(e, "out of memory"))?;
        Ok(translated)
    }

    /// Adds the sender's file `number`. The receiver's descriptor will be written at `at` in the buffer.
    fn file(&mut self, number: u32, at: usize, in_array: bool) -> Result<(), BinderError> {
        if !self.accepts_fds {
            return Err(failed(EPERM, "receiver takes no file descriptors"));
        }
        let file = fd::get(number).map_err(|e| failed(e, "no such file descriptor"))?;
        let (sender, receiver) = (self.thread.process(), self.buffer.process());
        lsm::may_give_file(sender.cred(), receiver.cred(), &file)
            .map_err(|_| failed(EPERM, "security module objects to a file"))?;
        self.buffer
            .add_file(SentFile { at, file, in_array })
            .map_err(|e| failed(e, "out of memory"))
    }

    /// Reserves room for the buffer that the object at `offset` points to, and writes its address into the parent.
    fn pointer(
        &mut self,
        object: usize,
        offset: usize,
        from: &BufferObject,
    ) -> Result<BufferObject, BinderError> {
        let length = number(from.length, "buffer too large")?;
        let at = self.room.take(length)?;
        let no_address = |e| failed(e, "out of memory");
        let place = offset.saturating_add(core::mem::offset_of!(BufferObject, buffer));
        let address = self.buffer.address_for(place, at).map_err(no_address)?;
        let mut parent = None;
        if from.flags & BINDER_BUFFER_FLAG_HAS_PARENT != 0 {
            let owner = number(from.parent, "parent is no buffer that came before")?;
            let offset = number(from.parent_offset, "fix-up beyond its parent")?;
            let len = size_of::<u64>();
            let (place, _) = self.fixups.place_in_parent(owner, offset, len)?;
            if self.copy_before(owner, offset, place, len)? {
                let address = self.buffer.address_for(place, at).map_err(no_address)?;
                self.write(place, &address)?;
            }
            parent = Some((owner, offset));
        }
        self.fixups.push(Pointer {
            object,
            at,
            length,
            done: 0,
            source: from.buffer,
            parent,
        })?;
        Ok(BufferObject {
            buffer: address,
            ..*from
        })
    }

    /// Adds the files whose descriptors are in the buffer of an earlier object.
    fn fd_array(&mut self, array: &FdArrayObject) -> Result<(), BinderError> {
        let parent = number(array.parent, "parent is no buffer that came before")?;
        let offset = number(array.parent_offset, "fix-up beyond its parent")?;
        let bytes = array_size(array.num_fds)?;
        let (place, source) = self.fixups.place_in_parent(parent, offset, bytes)?;
        if place % size_of::<u32>() != 0 || source % 4 != 0 {
            return invalid("file descriptors are not aligned");
        }
        // CAST: An address in user space; the driver runs on 64-bit kernels only.
        let mut reader = UserSlice::new(UserPtr::from_addr(source as usize), bytes).reader();
        let mut at = place;
        while !reader.is_empty() {
            let number: u32 = reader
                .read()
                .map_err(|e| failed(e, "file descriptors cannot be read"))?;
            self.file(number, at, true)?;
            at = at.wrapping_add(size_of::<u32>());
        }
        if bytes != 0 {
            self.copy_before(parent, offset, place, bytes)?;
        }
        self.fixups.fixed_up(parent, offset.saturating_add(bytes));
        Ok(())
    }
}

/// Copies a part of a buffer that an object points to.
fn copy_piece(buffer: &Buffer, piece: Piece) -> Result<(), BinderError> {
    // CAST: An address in user space; the driver runs on 64-bit kernels only.
    let source = UserPtr::from_addr(piece.source as usize);
    buffer
        .copy_from_user(piece.at, source, piece.length)
        // The C driver has another error here than for the data.
        .map_err(|_| failed(EINVAL, "buffer cannot be read"))
}

fn may_transfer(sender: &Process, receiver: &Process) -> Result<(), BinderError> {
    lsm::may_give_node(sender.cred(), receiver.cred())
        .map_err(|_| failed(EPERM, "security module objects to a node or handle"))
}
