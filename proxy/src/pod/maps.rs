//! The two socket-storage maps that the agent hands over, used by bpf(2): since Linux 5.19 a process without any
//! capability may look up and update a map whose file descriptor it holds.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
};

use weir_abi::{Endpoint, addr::EndpointRole};

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;

/// ACCEPTED and UPSTREAM, see `weir_abi::map::name`.
#[derive(Debug)]
pub struct Maps {
    accepted: OwnedFd,
    upstream: OwnedFd,
}

impl Maps {
    /// From the file descriptors of ACCEPTED and UPSTREAM.
    pub fn new(accepted: OwnedFd, upstream: OwnedFd) -> Self {
        Self { accepted, upstream }
    }

    /// The original destination that was recorded for an accepted socket, if any.
    pub fn original_destination(&self, socket: impl AsFd) -> io::Result<Option<SocketAddr>> {
        let mut key = socket.as_fd().as_raw_fd();
        let mut value = Endpoint::default();
        match element(BPF_MAP_LOOKUP_ELEM, &self.accepted, &mut key, &mut value) {
            Ok(()) if value.role == EndpointRole::OriginalDestination as u32 => Ok(Some(value.socket_addr())),
            Ok(()) => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tags an upstream socket, before it connects, with the client that the pod's application must see.
    pub fn tag_real_client(&self, socket: impl AsFd, client: SocketAddr) -> io::Result<()> {
        let mut key = socket.as_fd().as_raw_fd();
        let mut value = Endpoint::new(client, EndpointRole::RealClient);
        element(BPF_MAP_UPDATE_ELEM, &self.upstream, &mut key, &mut value)
    }
}

/// The part of `union bpf_attr` that BPF_MAP_*_ELEM uses; the kernel takes what is missing as zeroes.
#[repr(C)]
struct ElementAttributes {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// One bpf(2) call on an element of a map with 4-byte keys and [`Endpoint`] values.
fn element(command: libc::c_long, map: &OwnedFd, key: &mut RawFd, value: &mut Endpoint) -> io::Result<()> {
    let mut attributes = ElementAttributes {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: std::ptr::from_mut(key) as u64,
        value: std::ptr::from_mut(value) as u64,
        flags: 0,
    };
    // SAFETY: the attributes and what they point to live until the call returns. The agent sends maps with 4-byte keys
    // and `Endpoint` values: both sides of weir-abi; a descriptor that is no map gives an error.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(&mut attributes),
            size_of::<ElementAttributes>() as libc::c_uint,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_is_no_map_gives_an_error_and_no_destination() {
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let maps = Maps::new(null(), null());
        assert!(maps.original_destination(null()).is_err());
        assert!(maps.tag_real_client(null(), "10.0.0.1:80".parse().unwrap()).is_err());
    }
}
