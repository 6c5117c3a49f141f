//! Socket lookup: one instance per pod steers what comes from outside to the pod's inbound listening sockets.
//!
//! It runs for every packet that no connected socket takes, so it is quiet and cheap. It has no netns cookie, hence the
//! instance per namespace and [`SLOT`].

use crate::context::{AF_INET, field, port_from_network};
use crate::maps::{CONFIG, ENROLLED, LISTENERS, SLOT, SLOTS};
use crate::record::{self, Decision};
use crate::tables;
use aya_ebpf::bindings::BPF_SK_LOOKUP_F_NO_REUSEPORT;
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use weir_abi::map::{FourTuple, MAX_LISTENERS, SlotConfig};
use weir_abi::verdict::{self, Action};
use weir_abi::{Endpoint, Ip, Rule};

const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;
/// The loopback interface has this index in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;
/// 2^32 divided by the golden ratio, for multiplicative hashing.
const GOLDEN_RATIO: u32 = 0x9e37_79b1;

#[sk_lookup]
pub fn weir_sklookup(context: SkLookupContext) -> u32 {
    let lookup = context.lookup;
    let family = field!(lookup.family);
    let protocol = field!(lookup.protocol);
    let (remote_v4, local_v4) = (field!(lookup.remote_ip4), field!(lookup.local_ip4));
    let remote_v6 = Ip([
        field!(lookup.remote_ip6[0]),
        field!(lookup.remote_ip6[1]),
        field!(lookup.remote_ip6[2]),
        field!(lookup.remote_ip6[3]),
    ]);
    let local_v6 = Ip([
        field!(lookup.local_ip6[0]),
        field!(lookup.local_ip6[1]),
        field!(lookup.local_ip6[2]),
        field!(lookup.local_ip6[3]),
    ]);
    let remote_port = port_from_network(u32::from(field!(lookup.remote_port)));
    let local_port = field!(lookup.local_port);
    let loopback = field!(lookup.ingress_ifindex) == LOOPBACK_IFINDEX;
    let (remote, local) = if family == AF_INET {
        (Ip::from_v4_word(remote_v4), Ip::from_v4_word(local_v4))
    } else {
        (remote_v6, local_v6)
    };
    let source = Endpoint { ip: remote, port: remote_port, role: 0 };
    let destination = Endpoint { ip: local, port: local_port, role: 0 };
    let tuple = FourTuple {
        source_ip: source.ip,
        destination_ip: destination.ip,
        source_port: source.port,
        destination_port: destination.port,
    };

    let index = SLOT.load();
    // Never: both are arrays, and the agent gives a slot within them.
    let (Some(config), Some(slot)) = (CONFIG.get(0), SLOTS.get(index)) else { return SK_DROP };
    // SAFETY: as in `connect`: the agent replaces a pod's entry whole.
    let pod = unsafe { ENROLLED.get(&slot.netns) };
    let mut rule = verdict::inbound(index, pod, protocol, &source.ip, &destination, loopback, &tables::Inbound(&tuple));
    if matches!(rule, Rule::InboundNotTcp | Rule::InboundLoopback | Rule::InboundOwnAddress) {
        // Every datagram, and the second half of every redirected connection: not worth a flow or an event each.
        record::count(index, rule);
        return SK_PASS;
    }
    if rule == Rule::Steered && !steer(&context, index, slot, &source) {
        rule = verdict::without_listener(slot);
    }
    record::decision(
        config,
        &Decision { slot: index, netns: slot.netns, rule, source: &source, destination: &destination },
        false,
    );
    match rule.action() {
        Action::Refuse => SK_DROP,
        _ => SK_PASS,
    }
}

/// Gives the connection to one of the slot's listening sockets, the same for every packet of it; when that one is gone,
/// to the first. Never by a reuseport group: a process of the pod could have joined it.
#[inline(always)]
fn steer(context: &SkLookupContext, index: u32, slot: &SlotConfig, source: &Endpoint) -> bool {
    let first = index * MAX_LISTENERS;
    let listeners = slot.listeners.min(MAX_LISTENERS);
    let words = &source.ip.0;
    let hash = (words[0] ^ words[1] ^ words[2] ^ words[3] ^ source.port).wrapping_mul(GOLDEN_RATIO);
    let chosen = ((u64::from(hash) * u64::from(listeners)) >> 32) as u32;
    let flags = u64::from(BPF_SK_LOOKUP_F_NO_REUSEPORT);
    listeners != 0
        && (LISTENERS.redirect_sk_lookup(context, first + chosen, flags).is_ok()
            || LISTENERS.redirect_sk_lookup(context, first, flags).is_ok())
}
