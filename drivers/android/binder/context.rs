// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! Contexts: the processes that can call each other, and their context manager.

use kernel::{
    new_mutex,
    new_spinlock,
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex,
        SpinLock, //
    },
    task::Kuid, //
};

use crate::{
    error::{
        no_target,
        BinderError, //
    },
    instance::Instance,
    node::{
        NodeArc,
        StrongNode, //
    },
    process::Process,
    sums::text_bytes,
    sys::lsm,
    transaction_log::{
        short_name,
        ShortName, //
    },
};

/// A device. Processes that opened the same one can call each other.
#[pin_data]
pub(crate) struct Context {
    /// The device's name.
    name: CString,
    /// The devices that this one belongs to.
    instance: Arc<Instance>,
    /// The beginning of the name, as the transaction log has it.
    short_name: ShortName,
    /// The address of the manager's node, or 0. It can be compared with another address without the lock.
    manager_key: Atomic<usize>,
    /// Held while a process becomes the manager, which takes steps that sleep.
    #[pin]
    setting: Mutex<()>,
    #[pin]
    manager: SpinLock<Manager>,
}

/// The context manager, which answers handle 0.
struct Manager {
    /// The node behind handle 0.
    node: Option<NodeArc>,
    /// The user of the first manager. No other user may become one.
    uid: Option<Kuid>,
}

impl Context {
    /// A context without a manager.
    pub(crate) fn new(name: CString, instance: Arc<Instance>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                short_name: short_name(text_bytes(&name)),
                name,
                instance,
                manager_key: Atomic::new(0),
                setting <- new_mutex!((), "Context::setting"),
                manager <- new_spinlock!(Manager { node: None, uid: None }, "Context::manager"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The device's name.
    pub(crate) fn name(&self) -> &CStr {
        &self.name
    }

    /// The beginning of the name, as the transaction log has it.
    #[inline]
    pub(crate) fn short_name(&self) -> ShortName {
        self.short_name
    }

    /// The instance that the device belongs to.
    pub(crate) fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// The manager's node, held strongly.
    ///
    /// # Errors
    ///
    /// `BR_DEAD_REPLY` if there is no manager.
    pub(crate) fn manager_node(&self) -> Result<StrongNode, BinderError> {
        let manager = self.manager.lock();
        let Some(node) = manager.node.clone() else {
            return Err(no_target("no context manager"));
        };
        StrongNode::new(node, &manager)
    }

    /// The manager's node, for counting a reference on it.
    pub(crate) fn manager_node_ref(&self) -> Option<NodeArc> {
        self.manager.lock().node.clone()
    }

    /// The user that the manager is of, or was of if it is gone; `None` if there never was one.
    pub(crate) fn manager_uid(&self) -> Option<Kuid> {
        self.manager.lock().uid
    }

    /// Makes `process` the manager, with the node `(ptr, cookie)`.
    ///
    /// # Errors
    ///
    /// - `EBUSY` if there is a manager.
    /// - `EPERM` if another user once was, or the security module objects.
    /// - `ENOMEM`.
    pub(crate) fn set_manager(
        &self,
        process: &Arc<Process>,
        ptr: u64,
        cookie: u64,
        flags: u32,
    ) -> Result {
        // One at a time. Meanwhile the manager can go, but no other process can become it.
        let _setting = self.setting.lock();
        if self.manager.lock().node.is_some() {
            return Err(EBUSY);
        }
        lsm::may_become_manager(process.cred())?;
        let euid = Kuid::current_euid();
        match *self.manager.lock().uid.get_or_insert(euid) {
            uid if uid != euid => return Err(EPERM),
            _ => {}
        }
        loop {
            let node = process.node_for(ptr, cookie, flags)?;
            let mut manager = self.manager.lock();
            let mut inner = process.lock();
            if !node.become_manager(&mut inner) {
                // Another thread has just given up the last reference to it. The next one is a new node.
                continue;
            }
            drop(inner);
            self.manager_key.store(Arc::as_ptr(&node).addr(), Relaxed);
            manager.node = Some(node);
            return Ok(());
        }
    }

    /// Whether `node` is the manager's, read without the lock. The manager may come or go at any time; the answer is
    /// used to choose a handle.
    pub(crate) fn is_manager_node(&self, node: &NodeArc) -> bool {
        self.manager_key.load(Relaxed) == Arc::as_ptr(node).addr()
    }

    /// `process` is being released. If it is the manager, there is none from now on.
    pub(crate) fn unset_manager(&self, process: &Arc<Process>) {
        let mut manager = self.manager.lock();
        let node = manager
            .node
            .take_if(|node| Arc::ptr_eq(node.owner(), process));
        if node.is_some() {
            self.manager_key.store(0, Relaxed);
        }
        drop(manager);
        drop(node);
    }
}
