//! `connect(2)`: every outbound connection is decided here, once.

use crate::context::{SOCK_STREAM, field, netns_cookie, port_from_network, port_to_network, set_field};
use crate::log::{debug, octets};
use crate::maps::{CONFIG, ENROLLED, PEER, UPSTREAM};
use crate::record::{self, Decision, fault};
use crate::{node, storage, tables};
use aya_ebpf::helpers::generated::bpf_set_retval;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use weir_abi::addr::EndpointRole;
use weir_abi::map::Fault;
use weir_abi::verdict::{self, Action};
use weir_abi::{Endpoint, Ip, Rule};

/// What the hooks return: go on, or fail with the return value that was set.
const ALLOW: i32 = 1;
const DENY: i32 = 0;
const ECONNREFUSED: i32 = 111;

const NO_SOURCE: Endpoint = Endpoint { ip: Ip::UNSPECIFIED, port: 0, role: 0 };

/// What becomes of the address that the application gave.
enum Outcome {
    Keep,
    Refuse,
    Rewrite(Endpoint),
}

#[cgroup_sock_addr(connect4)]
pub fn weir_connect4(context: SockAddrContext) -> i32 {
    let address = context.sock_addr;
    let destination = Endpoint {
        ip: Ip::from_v4_word(field!(address.user_ip4)),
        port: port_from_network(field!(address.user_port)),
        role: EndpointRole::OriginalDestination as u32,
    };
    match decide(&context, destination) {
        Outcome::Keep => ALLOW,
        Outcome::Refuse => DENY,
        Outcome::Rewrite(to) => {
            set_field!(address.user_ip4, to.ip.0[3]);
            set_field!(address.user_port, port_to_network(to.port));
            ALLOW
        }
    }
}

#[cgroup_sock_addr(connect6)]
pub fn weir_connect6(context: SockAddrContext) -> i32 {
    let address = context.sock_addr;
    let destination = Endpoint {
        ip: Ip([
            field!(address.user_ip6[0]),
            field!(address.user_ip6[1]),
            field!(address.user_ip6[2]),
            field!(address.user_ip6[3]),
        ]),
        port: port_from_network(field!(address.user_port)),
        role: EndpointRole::OriginalDestination as u32,
    };
    match decide(&context, destination) {
        Outcome::Keep => ALLOW,
        Outcome::Refuse => DENY,
        // An IPv4-mapped destination is rewritten to the pod's IPv4 address, mapped.
        Outcome::Rewrite(to) => {
            set_field!(address.user_ip6[0], to.ip.0[0]);
            set_field!(address.user_ip6[1], to.ip.0[1]);
            set_field!(address.user_ip6[2], to.ip.0[2]);
            set_field!(address.user_ip6[3], to.ip.0[3]);
            set_field!(address.user_port, port_to_network(to.port));
            ALLOW
        }
    }
}

#[inline(always)]
fn decide(context: &SockAddrContext, destination: Endpoint) -> Outcome {
    let address = context.sock_addr;
    let socket = field!(address.__bindgen_anon_1.sk);
    let stream = field!(address.type_) == SOCK_STREAM;
    let protocol = field!(address.protocol);
    // Before the agent wrote its configuration nobody is enrolled.
    let Some(config) = CONFIG.get(0) else { return Outcome::Keep };
    if stream {
        node::mark(context, socket, config);
    }
    let netns = netns_cookie(context);
    // SAFETY: the agent replaces a pod's entry whole, and a torn read of it could only misdirect a connection of a
    // pod that is being withdrawn.
    let Some(pod) = (unsafe { ENROLLED.get(netns) }) else {
        // Redirected while its pod was enrolled, and connected again since.
        storage::delete(&PEER, socket);
        return Outcome::Keep;
    };
    let tagged = storage::has(&UPSTREAM, socket);
    let mut rule = verdict::outbound(config, Some(pod), stream, protocol, tagged, &destination, &tables::Outbound);
    if rule == Rule::Redirected && !storage::put(&PEER, socket, destination) {
        fault(Fault::PeerStorage);
        rule = Rule::NoStorage;
    }
    if rule != Rule::Redirected {
        // A socket may be connected again (after AF_UNSPEC): getpeername must not answer with the last destination.
        storage::delete(&PEER, socket);
    }
    record::decision(
        config,
        &Decision { slot: pod.slot, netns, rule, source: &NO_SOURCE, destination: &destination },
        true,
    );
    match rule.action() {
        Action::Redirect => {
            debug!(context, "redirect {:i} port {} of slot {}", octets(&destination.ip), destination.port, pod.slot);
            Outcome::Rewrite(Endpoint {
                ip: *verdict::redirect_address(pod, &destination.ip),
                port: config.outbound_port,
                role: 0,
            })
        }
        Action::Refuse => {
            debug!(
                context,
                "refuse {:i} port {} of slot {}: rule {}",
                octets(&destination.ip),
                destination.port,
                pod.slot,
                rule as u32
            );
            // SAFETY: a helper that takes a number. Without it the application would see EPERM.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            Outcome::Refuse
        }
        Action::Pass | Action::Steer => Outcome::Keep,
    }
}
