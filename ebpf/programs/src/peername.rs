//! `getpeername(2)` and `accept(2)`: the application sees the peer that it would see without weir.

use crate::context::{field, port_to_network, set_field};
use crate::maps::PEER;
use crate::storage;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

/// These hooks may only go on.
const ALLOW: i32 = 1;

#[cgroup_sock_addr(getpeername4)]
pub fn weir_peername4(context: SockAddrContext) -> i32 {
    let address = context.sock_addr;
    if let Some(peer) = storage::get(&PEER, field!(address.__bindgen_anon_1.sk)) {
        set_field!(address.user_ip4, peer.ip.0[3]);
        set_field!(address.user_port, port_to_network(peer.port));
    }
    ALLOW
}

#[cgroup_sock_addr(getpeername6)]
pub fn weir_peername6(context: SockAddrContext) -> i32 {
    let address = context.sock_addr;
    if let Some(peer) = storage::get(&PEER, field!(address.__bindgen_anon_1.sk)) {
        set_field!(address.user_ip6[0], peer.ip.0[0]);
        set_field!(address.user_ip6[1], peer.ip.0[1]);
        set_field!(address.user_ip6[2], peer.ip.0[2]);
        set_field!(address.user_ip6[3], peer.ip.0[3]);
        set_field!(address.user_port, port_to_network(peer.port));
    }
    ALLOW
}
