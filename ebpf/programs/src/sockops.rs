//! Socket operations: the original destination moves from the client's socket to the accepted one.
//!
//! `TCP_CONNECT_CB` runs before the SYN leaves, with the source address and port chosen: it publishes what the socket
//! carries under the connection's key. `PASSIVE_ESTABLISHED_CB` runs on the accepted socket before `accept` can return
//! it: it takes the entry off and stores it there. Outbound that is the original destination, for the proxy; inbound
//! the real client, for the application. So no lookup of the proxy or the application can come too early.

use crate::context::{AF_INET, field, netns_cookie};
use crate::log::{debug, octets};
use crate::maps::{ACCEPTED, CONFIG, ENROLLED, PEER, PENDING, UPSTREAM};
use crate::node;
use crate::record::{self, Close, Decision, fault};
use crate::storage::{self, Socket};
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use weir_abi::addr::EndpointRole;
use weir_abi::map::{Config, Fault, FourTuple, PendingKey};
use weir_abi::{Endpoint, Ip, Rule};

/// `TCP_CLOSE`, from the kernel's `tcp_states.h`.
const TCP_CLOSE: u32 = 7;
/// `srtt_us` is kept as eight times the smoothed round-trip time (`tcp_sock.srtt_us`).
const SRTT_SHIFT: u32 = 3;

/// The two ends of the context's socket.
struct Ends {
    local: Endpoint,
    remote: Endpoint,
}

#[sock_ops]
pub fn weir_sockops(context: SockOpsContext) -> u32 {
    let ops = context.ops;
    let op = field!(ops.op);
    if op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && op != BPF_SOCK_OPS_STATE_CB {
        return 0;
    }
    let socket = field!(ops.__bindgen_anon_2.sk);
    let Some(config) = CONFIG.get(0) else { return 0 };
    if socket.is_null() {
        return 0;
    }
    match op {
        BPF_SOCK_OPS_TCP_CONNECT_CB => on_connect(&context, socket, config),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => on_accepted(&context, socket, config),
        _ => on_state(&context, socket, config),
    }
    0
}

#[inline(always)]
fn on_connect(context: &SockOpsContext, socket: Socket, config: &Config) {
    let netns = netns_cookie(context);
    if netns == config.node_netns {
        let ends = ends(context);
        if node::publish(socket, &client_tuple(&ends)) {
            ask_for_state_changes(context);
        }
    }
    let Some(carried) = carried(socket) else { return };
    // Over what a former connection of the same ends left.
    if PENDING.insert(pending_key(netns, &ends(context)), carried, 0).is_err() {
        fault(Fault::PendingInsert);
    }
    ask_for_state_changes(context);
}

#[inline(always)]
fn on_accepted(context: &SockOpsContext, socket: Socket, config: &Config) {
    let netns = netns_cookie(context);
    let Ends { local, remote } = ends(context);
    // SAFETY: as in `connect`.
    let pod = unsafe { ENROLLED.get(netns) };
    // Both ends of a hand-over usually have one address; looking at it first finds the last ones of a pod that was
    // withdrawn meanwhile, and spares other pods the lookup.
    if pod.is_none() && !local.ip.same(&remote.ip) {
        return;
    }
    let key = PendingKey {
        netns,
        source_ip: remote.ip,
        target_ip: local.ip,
        source_port: remote.port,
        target_port: local.port,
    };
    let to_proxy = local.port == config.outbound_port;
    // SAFETY: an entry belongs to one connection, and only the close of that connection could remove it meanwhile.
    if let Some(carried) = unsafe { PENDING.get(key) } {
        let carried = *carried;
        let _ = PENDING.remove(key);
        if carried.role == EndpointRole::RealClient as u32 {
            // getpeername would show the pod's own address: no fault of policy.
            let _ = storage::put(&PEER, socket, carried);
            ask_for_state_changes(context);
            return;
        }
        if to_proxy {
            if !storage::put(&ACCEPTED, socket, carried) {
                fault(Fault::AcceptedStorage);
            }
            return;
        }
    }
    if !to_proxy {
        return;
    }
    let Some(pod) = pod else { return };
    let rule = Rule::NoOriginalDestination;
    record::decision(config, &Decision { slot: pod.slot, netns, rule, source: &remote, destination: &local }, false);
    debug!(context, "no original destination from {:i} port {} of slot {}", octets(&remote.ip), remote.port, pod.slot);
}

#[inline(always)]
fn on_state(context: &SockOpsContext, socket: Socket, config: &Config) {
    let ops = context.ops;
    let new_state = field!(ops.__bindgen_anon_1.args[1]);
    node::withdraw(socket, new_state);
    if new_state != TCP_CLOSE {
        return;
    }
    let netns = netns_cookie(context);
    let ends = ends(context);
    if carried(socket).is_some() {
        // Refused, or reset before it was accepted.
        let _ = PENDING.remove(pending_key(netns, &ends));
    }
    if !record::is_watched(config) {
        return;
    }
    let Some(peer) = storage::get(&PEER, socket) else { return };
    // SAFETY: as in `connect`.
    let Some(pod) = (unsafe { ENROLLED.get(netns) }) else { return };
    let inbound = peer.role == EndpointRole::RealClient as u32;
    let (rule, source, destination) =
        if inbound { (Rule::Steered, peer, ends.local) } else { (Rule::Redirected, ends.local, peer) };
    record::close(
        netns,
        pod.slot,
        rule,
        source.ip,
        source.port,
        &Close {
            destination,
            bytes_sent: field!(ops.bytes_acked),
            bytes_received: field!(ops.bytes_received),
            rtt_us: field!(ops.srtt_us) >> SRTT_SHIFT,
            retransmits: field!(ops.total_retrans),
        },
    );
}

/// What a connecting socket hands over to the socket that accepts it: the original destination of an application's, the
/// real client of the proxy's.
#[inline(always)]
fn carried(socket: Socket) -> Option<Endpoint> {
    let (carried, role) = match storage::get(&UPSTREAM, socket) {
        Some(tag) => (tag, EndpointRole::RealClient),
        None => (storage::get(&PEER, socket)?, EndpointRole::OriginalDestination),
    };
    (carried.role == role as u32).then_some(carried)
}

/// The ends of the socket: all fields are read before the family selects among them.
#[inline(always)]
fn ends(context: &SockOpsContext) -> Ends {
    let ops = context.ops;
    let family = field!(ops.family);
    let (local_v4, remote_v4) = (field!(ops.local_ip4), field!(ops.remote_ip4));
    let local_v6 =
        Ip([field!(ops.local_ip6[0]), field!(ops.local_ip6[1]), field!(ops.local_ip6[2]), field!(ops.local_ip6[3])]);
    let remote_v6 = Ip([
        field!(ops.remote_ip6[0]),
        field!(ops.remote_ip6[1]),
        field!(ops.remote_ip6[2]),
        field!(ops.remote_ip6[3]),
    ]);
    let local_port = field!(ops.local_port);
    // The whole field is in network byte order, the port in its upper half.
    let remote_port = u32::from_be(field!(ops.remote_port));
    let (local, remote) = if family == AF_INET {
        (Ip::from_v4_word(local_v4), Ip::from_v4_word(remote_v4))
    } else {
        (local_v6, remote_v6)
    };
    Ends {
        local: Endpoint { ip: local, port: local_port, role: 0 },
        remote: Endpoint { ip: remote, port: remote_port, role: 0 },
    }
}

#[inline(always)]
fn pending_key(netns: u64, client: &Ends) -> PendingKey {
    PendingKey {
        netns,
        source_ip: client.local.ip,
        target_ip: client.remote.ip,
        source_port: client.local.port,
        target_port: client.remote.port,
    }
}

#[inline(always)]
fn client_tuple(client: &Ends) -> FourTuple {
    FourTuple {
        source_ip: client.local.ip,
        destination_ip: client.remote.ip,
        source_port: client.local.port,
        destination_port: client.remote.port,
    }
}

#[inline(always)]
fn ask_for_state_changes(context: &SockOpsContext) {
    let ops = context.ops;
    let flags = field!(ops.bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG;
    let _ = context.set_cb_flags(flags as i32);
}
