// SPDX-License-Identifier: GPL-2.0

//! A security module that denies.
//!
//! BPF programs can be attached to LSM hooks (`BPF_LSM`). A program of two instructions, the return value and the exit,
//! denies everything at one hook while it is attached. A few more instructions check the hook's arguments.

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

/// Something that a hook is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Which of the hook's arguments, from 0.
    pub argument: u16,
    /// The kernel's struct that it points to.
    pub of: &'static str,
    /// A field of 32 bits in that.
    pub field: &'static str,
    /// What stands there.
    pub is: u32,
}

/// One instruction: what to do, the register it is done to, another, an offset and a number.
fn instruction(code: u8, to: u8, from: u8, offset: u16, number: i32) -> u64 {
    u64::from(code) | (u64::from(to | (from << 4)) << 8) | (u64::from(offset) << 16) | (u64::from(number as u32) << 32)
}

const RETURN: u8 = 0x95;
const SET: u8 = 0xb7;
const LOAD_64: u8 = 0x79;
const LOAD_32: u8 = 0x61;
const SKIP_UNLESS_EQUAL: u8 = 0x55;

impl Denial {
    /// Has a hook (`binder_transaction`, say) return an error to everybody.
    pub fn new(env: &Env, hook: &str, errno: Errno) -> Self {
        let program = [instruction(SET, 0, 0, 0, -(errno as i32)), instruction(RETURN, 0, 0, 0, 0)];
        Self::with(env, hook, &program)
    }

    /// Has a hook return an error where it is asked about this, and else nothing.
    pub fn when(env: &Env, hook: &str, asked: Asked, errno: Errno) -> Self {
        let types = types(env);
        let offset = member(&types, asked.of, asked.field).expect("a field of the kernel's");
        let program = [
            instruction(LOAD_64, 2, 1, 8 * asked.argument, 0),
            instruction(LOAD_32, 3, 2, offset, 0),
            instruction(SET, 0, 0, 0, 0),
            instruction(SKIP_UNLESS_EQUAL, 3, 0, 1, asked.is as i32),
            instruction(SET, 0, 0, 0, -(errno as i32)),
            instruction(RETURN, 0, 0, 0, 0),
        ];
        Self::with(env, hook, &program)
    }

    fn with(env: &Env, hook: &str, program: &[u64]) -> Self {
        let Some(attach_btf_id) = function(&types(env), &format!("bpf_lsm_{hook}")) else {
            env.skip("the kernel has no security module of byte code (BPF_LSM)")
        };
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

fn types(env: &Env) -> Vec<u8> {
    fs::read(TYPES).unwrap_or_else(|_| env.skip("the kernel does not tell its types (DEBUG_INFO_BTF)"))
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

const STRUCT: u32 = 4;
const FUNC: u32 = 12;

/// The number of the function of that name among the kernel's types.
fn function(btf: &[u8], wanted: &str) -> Option<u32> {
    find(btf, FUNC, wanted).map(|(id, _)| id)
}

/// Where a field is in a struct of the kernel's, in bytes.
fn member(btf: &[u8], wanted: &str, field: &str) -> Option<u16> {
    let strings = strings(btf)?;
    let (_, mut members) = find(btf, STRUCT, wanted)?;
    loop {
        // Name, type, and where it begins, in bits. (With fields of bits there are other numbers in the upper byte.)
        if is_named(strings, word(members, 0)?, field)? {
            return u16::try_from((word(members, 8)? & 0xff_ffff) / 8).ok();
        }
        members = members.get(12..)?;
    }
}

fn strings(btf: &[u8]) -> Option<&[u8]> {
    btf.get(word(btf, 4)? as usize + word(btf, 16)? as usize..)
}

fn is_named(strings: &[u8], name: u32, wanted: &str) -> Option<bool> {
    let name = strings.get(name as usize..)?;
    Some(name.starts_with(wanted.as_bytes()) && name.get(wanted.len()) == Some(&0))
}

/// The number of the type of that kind and name, and what is behind its head.
fn find<'a>(btf: &'a [u8], wanted_kind: u32, wanted: &str) -> Option<(u32, &'a [u8])> {
    let [header, types, types_len] = [4, 8, 12].map(|at| word(btf, at).map(|word| word as usize));
    let strings = strings(btf)?;
    let types = btf.get(header? + types?..)?.get(..types_len?)?;
    let (mut at, mut id) = (0, 1);
    while let (Some(name), Some(info)) = (word(types, at), word(types, at + 4)) {
        let (count, kind) = (info as usize & 0xffff, (info >> 24) & 0x1f);
        if kind == wanted_kind && is_named(strings, name, wanted)? {
            let members = if kind == STRUCT { 12 * count } else { 0 };
            return Some((id, types.get(at + 12..at + 12 + members)?));
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
    use super::instruction;
    use super::member;

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
        assert_eq!(member(&bytes, "two", "one"), None);
    }

    #[test]
    fn a_field_is_found_in_its_struct() {
        let header: [u32; 6] = [0x1_eb9f, 24, 0, 64, 64, 13];
        let number: [u32; 4] = [1, 1 << 24, 4, 32];
        let structure: [u32; 9] = [5, (4 << 24) | 2, 8, 1, 1, 0, 9, 1, 32];
        let function_two: [u32; 3] = [5, 12 << 24, 2];
        let words = [&header[..], &number, &structure, &function_two].concat();
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(b"\0one\0two\0tri\0");
        assert_eq!(member(&bytes, "two", "one"), Some(0));
        assert_eq!(member(&bytes, "two", "tri"), Some(4));
        assert_eq!(member(&bytes, "two", "two"), None);
        assert_eq!(member(&bytes, "one", "tri"), None);
        assert_eq!(function(&bytes, "two"), Some(3));
    }

    #[test]
    fn an_instruction_is_eight_bytes() {
        assert_eq!(instruction(0x61, 3, 2, 0x1234, -1), 0xffff_ffff_1234_2361);
    }
}
