//! The node's own processes: kubelet probes go straight to the application.
//!
//! A process of the node is one in the node's network namespace and outside the pods' cgroup tree. Its socket is
//! marked when it connects, its 4-tuple published before the SYN leaves, and the pod's `weir_sklookup` lets exactly
//! that connection pass. A host-network pod has the same addresses and may come by the same port: so a mark is taken
//! back when the socket is connected again by another process, and an entry when another's socket gets its 4-tuple.

use crate::context::netns_cookie;
use crate::maps::{NODE_CONNECTIONS, NODE_SOCKETS};
use crate::record::fault;
use crate::storage::{self, Socket};
use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use aya_ebpf::programs::SockAddrContext;
use weir_abi::Ip;
use weir_abi::map::{Config, Fault, FourTuple};

/// `TCP_FIN_WAIT1`. Until then the entry stays: with SYN cookies the last ACK of the handshake is looked up again.
const TCP_FIN_WAIT1: u32 = 4;

const NOT_CONNECTED: FourTuple =
    FourTuple { source_ip: Ip::UNSPECIFIED, destination_ip: Ip::UNSPECIFIED, source_port: 0, destination_port: 0 };

/// Marks the socket of a node's process that connects, or takes another's mark off it.
#[inline(always)]
pub fn mark(context: &SockAddrContext, socket: Socket, config: &Config) {
    if netns_cookie(context) != config.node_netns {
        return;
    }
    if is_current_outside_pods(config) {
        if !storage::put(&NODE_SOCKETS, socket, NOT_CONNECTED) {
            fault(Fault::NodeStorage);
        }
    } else {
        storage::delete(&NODE_SOCKETS, socket);
    }
}

#[inline(always)]
fn is_current_outside_pods(config: &Config) -> bool {
    // SAFETY: a helper that takes a number.
    let ancestor = unsafe { bpf_get_current_ancestor_cgroup_id(config.pods_cgroup_level as i32) };
    config.pods_cgroup != 0 && ancestor != config.pods_cgroup
}

/// Publishes the connection of a marked socket, before its SYN leaves; for another socket it removes a stale entry of
/// the same 4-tuple. Whether to ask for the socket's state changes.
#[inline(always)]
pub fn publish(socket: Socket, tuple: &FourTuple) -> bool {
    if !storage::has(&NODE_SOCKETS, socket) {
        let _ = NODE_CONNECTIONS.remove(tuple);
        return false;
    }
    if NODE_CONNECTIONS.insert(tuple, 1, 0).is_err() {
        fault(Fault::NodeInsert);
        return false;
    }
    storage::put(&NODE_SOCKETS, socket, *tuple)
}

/// Takes the connection of a marked socket back once no further lookup can need it.
#[inline(always)]
pub fn withdraw(socket: Socket, new_state: u32) {
    if new_state <= TCP_FIN_WAIT1 {
        return;
    }
    let Some(tuple) = storage::get(&NODE_SOCKETS, socket) else { return };
    if tuple.source_port != 0 {
        let _ = NODE_CONNECTIONS.remove(tuple);
        let _ = storage::put(&NODE_SOCKETS, socket, NOT_CONNECTED);
    }
}
