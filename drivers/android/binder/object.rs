// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Flat objects in a buffer: what is one process's node is another's handle.
//!
//! An object is read from the sender once, translated, and written to the buffer; neither the sender's memory nor the
//! buffer, which others may see, is ever looked at again. What the receiver gets to keep alive by it is remembered
//! beside the buffer, not in it.

use kernel::{
    prelude::*,
    security,
    sync::Arc,
    transmute::{
        AsBytes,
        FromBytes, //
    },
    uaccess::UserSliceReader, //
};

use crate::{
    defs::{
        FlatObject,
        BINDER_TYPE_BINDER,
        BINDER_TYPE_HANDLE,
        BINDER_TYPE_WEAK_BINDER,
        BINDER_TYPE_WEAK_HANDLE, //
    },
    model::{
        Buffer,
        NodeRef,
        ObjectRef,
        Process,
        Thread, //
    },
    node::count_local, //
};

/// Objects begin at multiples of this.
const OBJECT_ALIGN: usize = 4;

/// Why a transaction's data could not be taken over: an error, and words for the log.
pub(crate) type Refused = (Error, &'static str);

/// Copies a transaction's data and offsets from the sender into `buffer` and translates the objects in it on the way.
///
/// # Errors
///
/// What was done by then is given back with the buffer.
pub(crate) fn fill(
    thread: &Arc<Thread>,
    buffer: &mut Buffer,
    mut data: UserSliceReader,
    mut offsets: UserSliceReader,
) -> Result<(), Refused> {
    let data_size = data.len();
    if offsets.len() % size_of::<u64>() != 0 {
        return Err((EINVAL, "size of the offsets is not a multiple of 8"));
    }
    // Up to where the data is in the buffer.
    let mut done = 0;
    let mut entry = 0;
    while !offsets.is_empty() {
        let value: u64 = offsets
            .read()
            .map_err(|e| (e, "offsets cannot be read"))?;
        buffer
            .write_offsets(entry, &value.to_ne_bytes())
            .map_err(|e| (e, "offsets cannot be written"))?;
        entry += size_of::<u64>();

        let offset = usize::try_from(value).map_err(|_| (EINVAL, "offset beyond the data"))?;
        if offset % OBJECT_ALIGN != 0 {
            return Err((EINVAL, "offset is not a multiple of 4"));
        }
        if offset
            .checked_add(size_of::<FlatObject>())
            .is_none_or(|end| end > data_size)
        {
            return Err((EINVAL, "object beyond the data"));
        }
        let gap = offset
            .checked_sub(done)
            .ok_or((EINVAL, "objects overlap or are out of order"))?;
        buffer
            .copy_data(done, &mut data, gap)
            .map_err(|e| (e, "data cannot be read"))?;
        let object: FlatObject = data.read().map_err(|e| (e, "object cannot be read"))?;
        let translated = translate(thread, buffer, &object)?;
        buffer
            .write_data(offset, AsBytes::as_bytes(&translated))
            .map_err(|e| (e, "object cannot be written"))?;
        done = offset + size_of::<FlatObject>();
    }
    buffer
        .copy_data(done, &mut data, data_size - done)
        .map_err(|e| (e, "data cannot be read"))
}

/// What the receiver sees in place of `object`.
fn translate(
    thread: &Arc<Thread>,
    buffer: &mut Buffer,
    object: &FlatObject,
) -> Result<FlatObject, Refused> {
    let sender = &thread.process;
    let receiver = buffer.process.clone();
    match object.kind {
        BINDER_TYPE_BINDER | BINDER_TYPE_WEAK_BINDER => {
            let strong = object.kind == BINDER_TYPE_BINDER;
            let node = sender
                .node_for(object.binder, object.cookie, object.flags)
                .map_err(|e| (e, "node has another cookie"))?;
            let result = may_transfer(sender, &receiver)
                .and_then(|()| give_handle(buffer, &node, strong, object, Some(thread)));
            if result.is_err() {
                sender.forget_if_unused(&node);
            }
            result
        }
        BINDER_TYPE_HANDLE | BINDER_TYPE_WEAK_HANDLE => {
            let strong = object.kind == BINDER_TYPE_HANDLE;
            let node = sender
                .node_of_handle(object.handle(), strong)
                .map_err(|e| (e, "no such handle"))?;
            may_transfer(sender, &receiver)?;
            if Arc::ptr_eq(&node.owner, &receiver) {
                give_node(buffer, node, strong, object)
            } else {
                give_handle(buffer, &node, strong, object, None)
            }
        }
        _ => Err((EINVAL, "unknown object type")),
    }
}

fn may_transfer(sender: &Process, receiver: &Process) -> Result<(), Refused> {
    security::binder_transfer_binder(&sender.cred, &receiver.cred)
        .map_err(|_| (EPERM, "security module objects to a node or handle"))
}

/// The receiver gets a handle for somebody else's node.
fn give_handle(
    buffer: &mut Buffer,
    node: &NodeRef,
    strong: bool,
    object: &FlatObject,
    sender: Option<&Arc<Thread>>,
) -> Result<FlatObject, Refused> {
    let handle = buffer
        .process
        .insert_handle(node, strong, sender.map(|thread| &**thread))
        .map_err(|e| (e, "receiver can have no handle for a node"))?;
    buffer
        .add_object(ObjectRef::Handle { handle, strong })
        .map_err(|e| (e, "out of memory"))?;
    let kind = if strong {
        BINDER_TYPE_HANDLE
    } else {
        BINDER_TYPE_WEAK_HANDLE
    };
    Ok(FlatObject::with_handle(kind, object.flags, handle))
}

/// The receiver gets its own node back.
fn give_node(
    buffer: &mut Buffer,
    node: NodeRef,
    strong: bool,
    object: &FlatObject,
) -> Result<FlatObject, Refused> {
    count_local(&node, strong).map_err(|e| (e, "weak reference to a node its owner forgot"))?;
    let translated = FlatObject {
        kind: if strong {
            BINDER_TYPE_BINDER
        } else {
            BINDER_TYPE_WEAK_BINDER
        },
        flags: object.flags,
        binder: node.ptr,
        cookie: node.cookie,
    };
    buffer
        .add_object(ObjectRef::Node { node, strong })
        .map_err(|e| (e, "out of memory"))?;
    Ok(translated)
}

// The objects that are read are of a type whose every bit pattern is a value.
const _: fn() = || {
    fn is_from_bytes<T: FromBytes>() {}
    is_from_bytes::<FlatObject>();
};
