//! How deep a cgroup lies below the true root of cgroup2.
//!
//! The programs ask for an ancestor of the current process's cgroup by its level, which the kernel counts from the true
//! root. A node whose root is itself a cgroup (a container that plays a node, as in kind) sees a part of the tree only,
//! and no file says how deep that part begins. The kernel knows: a program of a few instructions, run for this process,
//! asks it.

use std::{
    io,
    mem::zeroed,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_type};

use super::link::bpf;

/// Deeper cgroups are not looked at; the kernel's own limit is far beyond what anybody nests.
const DEEPEST: u32 = 64;
/// `BPF_FUNC_get_current_ancestor_cgroup_id` of linux/bpf.h.
const GET_CURRENT_ANCESTOR_CGROUP_ID: i32 = 123;

/// One instruction: `opcode`, registers, offset, immediate.
const fn instruction(opcode: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    let registers = (source << 4) | destination;
    let [low, high] = offset.to_ne_bytes();
    let [a, b, c, d] = immediate.to_ne_bytes();
    u64::from_ne_bytes([opcode, registers, low, high, a, b, c, d])
}

/// Is the ancestor of the current process's cgroup at level `context[1]` the cgroup `context[0]`? 1 if so, 2 if there
/// is none at that level, else 0.
const PROGRAM: [u64; 10] = [
    // r7 = context[0]; r1 = context[1]
    instruction(0x79, 7, 1, 0, 0),
    instruction(0x79, 1, 1, 8, 0),
    instruction(0x85, 0, 0, 0, GET_CURRENT_ANCESTOR_CGROUP_ID),
    // r1 = r0; r0 = 2; if r1 == 0 exit
    instruction(0xbf, 1, 0, 0, 0),
    instruction(0xb7, 0, 0, 0, 2),
    instruction(0x15, 1, 0, 3, 0),
    // r0 = 1; if r1 == r7 exit
    instruction(0xb7, 0, 0, 0, 1),
    instruction(0x1d, 1, 7, 1, 0),
    // r0 = 0; exit
    instruction(0xb7, 0, 0, 0, 0),
    instruction(0x95, 0, 0, 0, 0),
];

/// Where a cgroup is in the ancestry of this process's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ancestry {
    /// This process is in it or below it.
    At {
        /// Its depth below the true root.
        level: u32,
        /// Whether this process is in it, not below it.
        own: bool,
    },
    /// This process is elsewhere.
    None,
}

/// Finds the cgroup with this id (its inode number) in the ancestry of this process's cgroup. Needs CAP_BPF and
/// CAP_PERFMON or CAP_SYS_ADMIN.
pub fn find(id: u64) -> io::Result<Ancestry> {
    let program = load()?;
    for level in 0..DEEPEST {
        match run(&program, id, level)? {
            0 => {}
            1 => return Ok(Ancestry::At { level, own: run(&program, id, level + 1)? == 2 }),
            _ => break,
        }
    }
    Ok(Ancestry::None)
}

fn load() -> io::Result<OwnedFd> {
    let license = c"GPL";
    // SAFETY: all zeroes is a valid `bpf_attr`: it is a union of structures of integers.
    let mut attributes: bpf_attr = unsafe { zeroed() };
    attributes.__bindgen_anon_3.prog_type = bpf_prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT as u32;
    attributes.__bindgen_anon_3.insn_cnt = PROGRAM.len() as u32;
    attributes.__bindgen_anon_3.insns = PROGRAM.as_ptr() as u64;
    attributes.__bindgen_anon_3.license = license.as_ptr() as u64;
    let fd = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attributes)?;
    // SAFETY: BPF_PROG_LOAD gave a new file descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs the program for the calling process (Linux 5.10).
fn run(program: &OwnedFd, id: u64, level: u32) -> io::Result<u32> {
    let context = [id, u64::from(level)];
    // SAFETY: as above.
    let mut attributes: bpf_attr = unsafe { zeroed() };
    attributes.test.prog_fd = program.as_raw_fd().cast_unsigned();
    attributes.test.ctx_in = context.as_ptr() as u64;
    attributes.test.ctx_size_in = size_of_val(&context) as u32;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attributes)?;
    // SAFETY: `test` is what the kernel wrote to, and all of it are integers.
    Ok(unsafe { attributes.test.retval })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_above_every_process_and_an_unknown_id_above_none() {
        assert!(matches!(find(1).unwrap(), Ancestry::At { level: 0, .. }), "needs root");
        assert_eq!(find(u64::MAX).unwrap(), Ancestry::None);
    }
}
