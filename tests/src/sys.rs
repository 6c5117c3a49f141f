//! System calls that no safe wrapper has.

use std::{collections::BTreeSet, io, os::fd::AsRawFd};

/// `connect(AF_UNSPEC)`: makes a connected TCP socket one that may connect again (`connect(2)`).
pub fn disconnect(socket: &impl AsRawFd) -> io::Result<()> {
    let address = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the descriptor is open while `socket` is borrowed, and the address is `length` bytes of initialised memory.
    let result = unsafe { libc::connect(socket.as_raw_fd(), &raw const address, length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What the kernel's eBPF knows by numbers of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BpfKind {
    /// Programs.
    Program,
    /// Maps.
    Map,
    /// Links.
    Link,
}

/// The numbers of all that there are on this machine, everybody's.
pub fn bpf_ids(kind: BpfKind) -> io::Result<BTreeSet<u32>> {
    // `BPF_PROG_GET_NEXT_ID`, `BPF_MAP_GET_NEXT_ID`, `BPF_LINK_GET_NEXT_ID` of linux/bpf.h.
    let command: libc::c_long = match kind {
        BpfKind::Program => 11,
        BpfKind::Map => 12,
        BpfKind::Link => 31,
    };
    let mut ids = BTreeSet::new();
    // `start_id`, `next_id`, `open_flags`, as in `union bpf_attr`.
    let mut attributes = [0u32; 3];
    loop {
        // SAFETY: the kernel reads and writes no more than the size that it is told, which is that of `attributes`.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(&attributes)) };
        if result != 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ENOENT) { Ok(ids) } else { Err(error) };
        }
        let next = attributes[1];
        ids.insert(next);
        attributes = [next, 0, 0];
    }
}
