// SPDX-License-Identifier: GPL-2.0

//! A security module that says no.
//!
//! The kernel lets programs of its own byte code be security modules (`BPF_LSM`). One of two instructions, the
//! number to return and the return, denies everything at one hook for as long as it is attached.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::libc;
use zerocopy::Immutable;
use zerocopy::IntoBytes;

use super::adopt;
use crate::env::Env;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const BPF_PROG_TYPE_LSM: u32 = 29;
const BPF_LSM_MAC: u32 = 27;

/// The kernel's types, in its BPF Type Format.
const TYPES: &str = "/sys/kernel/btf/vmlinux";

/// `union bpf_attr` for `BPF_PROG_LOAD`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// `union bpf_attr` for `BPF_RAW_TRACEPOINT_OPEN`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct Open {
    name: u64,
    prog_fd: u32,
    pad: u32,
}

/// Something is denied until this is dropped.
#[derive(Debug)]
pub struct Denial {
    _attached: OwnedFd,
}

impl Denial {
    /// Has a hook (`binder_transaction`, say) return an error to everybody.
    pub fn new(env: &Env, hook: &str, errno: Errno) -> Self {
        let Ok(types) = fs::read(TYPES) else { env.skip("the kernel does not tell its types (DEBUG_INFO_BTF)") };
        let Some(attach_btf_id) = function(&types, &format!("bpf_lsm_{hook}")) else {
            env.skip("the kernel has no security module of byte code (BPF_LSM)")
        };
        // Put a number into register 0; return it.
        let program: [u64; 2] = [0xb7 | (u64::from((-(errno as i32)) as u32) << 32), 0x95];
        let license = c"GPL";
        let load = Load {
            prog_type: BPF_PROG_TYPE_LSM,
            insn_cnt: program.len() as u32,
            insns: program.as_ptr() as u64,
            license: license.as_ptr() as u64,
            expected_attach_type: BPF_LSM_MAC,
            attach_btf_id,
            ..Load::default()
        };
        let program = bpf(BPF_PROG_LOAD, &load).expect("BPF_PROG_LOAD");
        let open = Open { prog_fd: program.as_raw_fd() as u32, ..Open::default() };
        Self { _attached: bpf(BPF_RAW_TRACEPOINT_OPEN, &open).expect("BPF_RAW_TRACEPOINT_OPEN") }
    }
}

fn bpf<T: IntoBytes + Immutable>(command: libc::c_long, attributes: &T) -> nix::Result<OwnedFd> {
    let bytes = attributes.as_bytes();
    // SAFETY: the kernel reads the attributes, and what their addresses point to: live objects of the caller's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, bytes.as_ptr(), bytes.len()) };
    Errno::result(result).map(|fd| adopt(fd as i32))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The number of the function of that name among the kernel's types.
fn function(btf: &[u8], wanted: &str) -> Option<u32> {
    const FUNC: u32 = 12;
    let [header, types, types_len, strings] = [4, 8, 12, 16].map(|at| word(btf, at).map(|word| word as usize));
    let strings = btf.get(header? + strings?..)?;
    let types = btf.get(header? + types?..)?.get(..types_len?)?;
    let (mut at, mut id) = (0, 1);
    while let (Some(name), Some(info)) = (word(types, at), word(types, at + 4)) {
        let (count, kind) = (info as usize & 0xffff, (info >> 24) & 0x1f);
        if kind == FUNC {
            let name = strings.get(name as usize..)?;
            if name.starts_with(wanted.as_bytes()) && name.get(wanted.len()) == Some(&0) {
                return Some(id);
            }
        }
        // Type, then what its kind adds for each of its parts, or once.
        at += 12
            + match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * count,
                6 | 13 => 8 * count,
                _ => 0,
            };
        id += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::function;

    #[test]
    fn a_function_is_found_behind_types_of_other_kinds() {
        // The header: magic, its length, where types and strings are behind it.
        let header: [u32; 6] = [0x1_eb9f, 24, 0, 48, 48, 9];
        let number: [u32; 4] = [1, 1 << 24, 4, 32];
        let prototype: [u32; 5] = [0, (13 << 24) | 1, 1, 0, 1];
        let function_two: [u32; 3] = [5, 12 << 24, 2];
        let words = [&header[..], &number, &prototype, &function_two].concat();
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(b"\0one\0two\0");
        assert_eq!(function(&bytes, "two"), Some(3));
        assert_eq!(function(&bytes, "tw"), None);
        assert_eq!(function(&bytes, "one"), None);
        assert_eq!(function(&[], "two"), None);
    }
}
