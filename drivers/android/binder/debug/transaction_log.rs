// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! `transaction_log` and `failed_transaction_log`: the entries of the rings in
//! [`transaction_log`](crate::transaction_log).

use kernel::seq_print;

use crate::{
    sys::seq_file::Output,
    transaction_log::{
        name_bytes,
        Kind,
        TransactionLog,
        ALL,
        FAILED, //
    },
};

/// The last transactions.
pub(super) fn show(out: &Output<'_>) {
    print(out, &ALL);
}

/// The last transactions that failed.
pub(super) fn show_failed(out: &Output<'_>) {
    print(out, &FAILED);
}

fn print(out: &Output<'_>, log: &TransactionLog) {
    for entry in log.records() {
        let kind = if entry.kind == Kind::Call as u32 {
            "call "
        } else if entry.kind == Kind::Oneway as u32 {
            "async"
        } else {
            "reply"
        };
        let bytes = name_bytes(&entry.context);
        let name = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        seq_print!(
            out,
            "{}: {} from {}:{} to {}:{} context {} node {} handle {} size {}:{} ret {}/{} l={}\n",
            entry.id,
            kind,
            entry.from_pid,
            entry.from_tid,
            entry.to_pid,
            entry.to_tid,
            format_args!("{}", name.escape_ascii()),
            entry.node,
            entry.handle,
            entry.data_size,
            entry.offsets_size,
            entry.code,
            entry.errno,
            entry.line
        );
    }
}
