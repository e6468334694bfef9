// SPDX-License-Identifier: GPL-2.0

//! Trace events: `events/binder_rs/` in tracefs.
//!
//! `trace.h` has the layout of the events; here is when they happen. The kernel's `declare_trace!` looks for them among
//! the kernel's own bindings, where those of a module are not, so the same is done here with what it is made of: as
//! long as no tracer listens, an event is one instruction that does nothing.

use kernel::ffi::c_int;
#[cfg(CONFIG_TRACEPOINTS)]
use kernel::{
    bindings,
    jump_label::static_branch_unlikely, //
};

/// Whether an event is enabled.
macro_rules! is_wanted {
    ($event:ident) => { kernel::macros::paste! { {
        #[cfg(CONFIG_TRACEPOINTS)]
        {
            // Part of a tracepoint is nothing at all.
            #[allow(improper_ctypes)]
            extern "C" {
                static [<__tracepoint_ $event>]: bindings::tracepoint;
            }
            // SAFETY: This is the key in a tracepoint that `trace.c` defines.
            unsafe { static_branch_unlikely!([<__tracepoint_ $event>], bindings::tracepoint, key) }
        }
        #[cfg(not(CONFIG_TRACEPOINTS))]
        false
    } } };
}

/// Declares events: the functions that make them happen.
macro_rules! events {
    ($( $(#[$meta:meta])* $function:ident is $event:ident($($field:ident: $ty:ty),+); )+) => { kernel::macros::paste! { $(
        $(#[$meta])*
        #[inline(always)]
        pub(crate) fn $function($($field: $ty),+) {
            #[cfg(CONFIG_TRACEPOINTS)]
            if is_wanted!($event) {
                extern "C" {
                    fn [<rust_do_trace_ $event>]($($field: $ty),+);
                }
                // SAFETY: `trace.c` defines the function, which takes these numbers and has no requirements.
                unsafe { [<rust_do_trace_ $event>]($($field),+) };
            }
            #[cfg(not(CONFIG_TRACEPOINTS))]
            let _ = ($($field,)+);
        }
    )+ } };
}

events! {
    /// A command was read and is about to be carried out.
    command is binder_rs_command(code: u32);

    /// A return was written. `BR_NOOP`, with which every read begins, is left out.
    returned is binder_rs_return(code: u32);

    /// A call or a reply is about to be handed to its receiver, which may yet turn out to be dead or frozen. Process
    /// and thread are the receiver's; 0 stands for a thread that is not determined, and for the node of a reply.
    transaction is binder_rs_transaction(
        debug_id: u32, target_node: u32, to_proc: c_int, to_thread: c_int, reply: bool, code: u32, flags: u32
    );

    /// The receiver has it.
    transaction_received is binder_rs_transaction_received(
        debug_id: u32, target_node: u32, to_proc: c_int, to_thread: c_int, reply: bool, code: u32, flags: u32
    );

    /// Bytes of the mapping of `proc` were reserved for the transaction of this number. The pages are there.
    buffer_alloc is binder_rs_buffer_alloc(proc: c_int, debug_id: u32, offset: usize, size: usize);

    /// There was no room, or no memory, for so many bytes. The offset says nothing.
    buffer_alloc_failed is binder_rs_buffer_alloc_failed(proc: c_int, debug_id: u32, offset: usize, size: usize);

    /// They are about to be given back.
    buffer_free is binder_rs_buffer_free(proc: c_int, debug_id: u32, offset: usize, size: usize);

    /// A page was allocated for the mapping of `proc`, at page offset `first` there.
    page_alloc is binder_rs_page_alloc(proc: c_int, first: usize, pages: usize);

    /// It was entered into a page table.
    page_map is binder_rs_page_map(proc: c_int, first: usize, pages: usize);

    /// It was put on the LRU, as it has no user any more.
    lru_add is binder_rs_lru_add(proc: c_int, first: usize, pages: usize);

    /// It was taken off the LRU: reclaim has isolated it or found it in use, or the process is going.
    lru_del is binder_rs_lru_del(proc: c_int, first: usize, pages: usize);

    /// Reclaim has removed a run of pages from all page tables at once.
    zap is binder_rs_zap(proc: c_int, first: usize, pages: usize);

    /// So many pages of the run that begins at `first` were freed; the others were wanted meanwhile.
    reclaim is binder_rs_reclaim(proc: c_int, first: usize, pages: usize);
}

/// Whether [`buffer_free`] is enabled, for which some of the fields have to be looked up.
#[inline(always)]
pub(crate) fn wants_buffer_free() -> bool {
    is_wanted!(binder_rs_buffer_free)
}
