//! The redirect verdict: a pure function of a connection, its pod and the tables, the same in the kernel and outside.
//!
//! A decision is a [`Rule`]; the rule gives the [`Action`]. The first rule that applies wins, in the order in which
//! [`outbound`] and [`inbound`] ask. The functions are inlined into the eBPF programs: no loop without a constant
//! bound, no slice comparison, no panic.

use crate::addr::{Endpoint, Ip};
use crate::map::{CidrKey, Config, MAX_POD_IPS, PodConfig, PortKey, PortRule, SlotConfig, config_flag, pod_flag};
use crate::{IPPROTO_MPTCP, IPPROTO_TCP};

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Outbound: rewritten to the pod's own address and the proxy's port.
    Redirect,
    /// Inbound: given to the proxy's listening socket.
    Steer,
    /// Left alone.
    Pass,
    /// Refused.
    Refuse,
}

impl Action {
    /// The name that `weirctl` shows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Steer => "steer",
            Self::Pass => "pass",
            Self::Refuse => "refuse",
        }
    }
}

/// Which way a connection goes, as its pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The pod connects.
    Outbound,
    /// The pod is connected to.
    Inbound,
}

impl Direction {
    /// The name that `weirctl` shows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// The rule that decided. Numbers are part of the ABI: they index counters and stand in events.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Outbound: the network namespace is not enrolled.
    NotEnrolled = 0,
    /// Outbound: neither TCP nor MPTCP.
    NotTcp = 1,
    /// Outbound: the socket bears the proxy's tag.
    ProxySocket = 2,
    /// Outbound: 127.0.0.0/8, `::1` or an unspecified address.
    Loopback = 3,
    /// Outbound: one of the pod's own addresses.
    OwnAddress = 4,
    /// Outbound: the port is excluded.
    ExcludedPort = 5,
    /// Outbound: the address lies in an excluded CIDR.
    ExcludedCidr = 6,
    /// Outbound: IPv6 link-local; its scope cannot be carried through the proxy.
    LinkLocal = 7,
    /// Outbound: the pod has no address of this family that the connection could be rewritten to.
    NoPodAddress = 8,
    /// Outbound: no proxy is ready and the pod fails open.
    OutboundFailOpen = 9,
    /// Outbound: the kernel could not record the original destination.
    NoStorage = 10,
    /// Outbound: redirected.
    Redirected = 11,
    /// Outbound: a dial of the proxy's port without a recorded original destination; the proxy closes it.
    NoOriginalDestination = 12,
    /// A process of the node, outside the pods' cgroups, connects out of the node's network namespace.
    NodeProcess = 13,
    /// Inbound: not TCP.
    InboundNotTcp = 16,
    /// Inbound: over the pod's loopback.
    InboundLoopback = 17,
    /// Inbound: from the pod's own address.
    InboundOwnAddress = 18,
    /// Inbound: a process of the node reaches a port that the pod's probes name.
    NodeProbe = 19,
    /// Inbound: the port is excluded.
    ExcludedInboundPort = 20,
    /// Inbound: no listening socket in the pod's slot.
    NoListener = 21,
    /// Inbound: no listening socket in the pod's slot and the pod fails open.
    InboundFailOpen = 22,
    /// Inbound: given to the proxy.
    Steered = 23,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 22] = [
        Self::NotEnrolled,
        Self::NotTcp,
        Self::ProxySocket,
        Self::Loopback,
        Self::OwnAddress,
        Self::ExcludedPort,
        Self::ExcludedCidr,
        Self::LinkLocal,
        Self::NoPodAddress,
        Self::OutboundFailOpen,
        Self::NoStorage,
        Self::Redirected,
        Self::NoOriginalDestination,
        Self::NodeProcess,
        Self::InboundNotTcp,
        Self::InboundLoopback,
        Self::InboundOwnAddress,
        Self::NodeProbe,
        Self::ExcludedInboundPort,
        Self::NoListener,
        Self::InboundFailOpen,
        Self::Steered,
    ];

    /// The rule of this number, if there is one.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| *rule as u32 == number)
    }

    /// What happens to a connection under this rule.
    pub const fn action(self) -> Action {
        match self {
            Self::Redirected => Action::Redirect,
            Self::Steered => Action::Steer,
            Self::LinkLocal | Self::NoPodAddress | Self::NoStorage | Self::NoOriginalDestination | Self::NoListener => {
                Action::Refuse
            }
            _ => Action::Pass,
        }
    }

    /// Which way the connections of this rule go.
    pub const fn direction(self) -> Direction {
        if (self as u32) < Self::InboundNotTcp as u32 { Direction::Outbound } else { Direction::Inbound }
    }

    /// The name that `weirctl` shows and `--verdict` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotEnrolled => "not-enrolled",
            Self::NotTcp => "not-tcp",
            Self::ProxySocket => "proxy-socket",
            Self::Loopback => "loopback",
            Self::OwnAddress => "own-address",
            Self::ExcludedPort => "excluded-port",
            Self::ExcludedCidr => "excluded-cidr",
            Self::LinkLocal => "link-local",
            Self::NoPodAddress => "no-pod-address",
            Self::OutboundFailOpen => "fail-open",
            Self::NoStorage => "no-storage",
            Self::Redirected => "redirected",
            Self::NoOriginalDestination => "no-original-destination",
            Self::NodeProcess => "node-process",
            Self::InboundNotTcp => "inbound-not-tcp",
            Self::InboundLoopback => "inbound-loopback",
            Self::InboundOwnAddress => "inbound-own-address",
            Self::NodeProbe => "node-probe",
            Self::ExcludedInboundPort => "excluded-inbound-port",
            Self::NoListener => "no-listener",
            Self::InboundFailOpen => "inbound-fail-open",
            Self::Steered => "steered",
        }
    }

    /// One line that tells an operator why.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::NotEnrolled => "the network namespace is not enrolled",
            Self::NotTcp | Self::InboundNotTcp => "only TCP and MPTCP are carried",
            Self::ProxySocket => "the socket is the proxy's own",
            Self::Loopback | Self::InboundLoopback => "loopback traffic stays in the pod",
            Self::OwnAddress | Self::InboundOwnAddress => "the pod talks to itself",
            Self::ExcludedPort => "the port is excluded by the node's configuration or an annotation of the pod",
            Self::ExcludedCidr => "the address is excluded by the node's configuration or an annotation of the pod",
            Self::LinkLocal => "IPv6 link-local destinations cannot be carried; exclude fe80::/10 to let them pass",
            Self::NoPodAddress => "the pod has no address of this family",
            Self::OutboundFailOpen | Self::InboundFailOpen => "no proxy is ready and the pod fails open",
            Self::NoStorage => "the kernel could not record the original destination",
            Self::Redirected | Self::Steered => "carried by the proxy",
            Self::NoOriginalDestination => "dialled the proxy's port directly",
            Self::NodeProcess => "a process of the node, outside the pods' cgroups",
            Self::NodeProbe => "a process of the node reaches a port that the pod's probes name",
            Self::ExcludedInboundPort => {
                "the inbound port is excluded by the node's configuration or an annotation of the pod"
            }
            Self::NoListener => "no proxy listens for this pod",
        }
    }
}

/// What the verdict looks up: the maps, in the kernel through helpers and outside through bpf(2).
pub trait Tables {
    /// Whether [`crate::map::name::PORT_RULES`] holds the key.
    fn has_port_rule(&self, key: &PortKey) -> bool;
    /// Whether [`crate::map::name::EXCLUDED_CIDRS`] matches the key.
    fn is_excluded_cidr(&self, key: &CidrKey) -> bool;
    /// Whether [`crate::map::name::NODE_CONNECTIONS`] says that a process of the node opened the connection under decision.
    fn is_node_connection(&self) -> bool;
}

/// Decides an outbound `connect`. `protocol` is an IANA number, `stream` whether the socket is `SOCK_STREAM`,
/// `tagged` whether it bears the proxy's tag.
#[inline(always)]
pub fn outbound(
    config: &Config,
    pod: Option<&PodConfig>,
    stream: bool,
    protocol: u32,
    tagged: bool,
    destination: &Endpoint,
    tables: &impl Tables,
) -> Rule {
    let Some(pod) = pod else { return Rule::NotEnrolled };
    if !stream || (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP) {
        return Rule::NotTcp;
    }
    if tagged {
        return Rule::ProxySocket;
    }
    let ip = &destination.ip;
    if ip.is_loopback_or_unspecified() {
        return Rule::Loopback;
    }
    if is_own(pod, ip) {
        return Rule::OwnAddress;
    }
    let port = destination.port as u16;
    if tables.has_port_rule(&PortKey { slot: pod.slot, port, kind: PortRule::ExcludedOutbound as u16 }) {
        return Rule::ExcludedPort;
    }
    if tables.is_excluded_cidr(&CidrKey { slot: pod.slot, ip: *ip }) {
        return Rule::ExcludedCidr;
    }
    if ip.is_v6_link_local() {
        return Rule::LinkLocal;
    }
    if pod.flags & pod_flag::FAIL_OPEN != 0 && config.flags & config_flag::PROXY_READY == 0 {
        return Rule::OutboundFailOpen;
    }
    if redirect_address(pod, ip).same(&Ip::UNSPECIFIED) {
        return Rule::NoPodAddress;
    }
    Rule::Redirected
}

/// The address that a connection to `ip` is rewritten to: the pod's own, of the same family.
#[inline(always)]
pub fn redirect_address<'a>(pod: &'a PodConfig, ip: &Ip) -> &'a Ip {
    if ip.is_v4() { &pod.redirect_v4 } else { &pod.redirect_v6 }
}

/// Decides an inbound connection, but for the listening socket: [`Rule::Steered`] still has to find one, else
/// [`without_listener`] applies. `pod` is none while the pod is enrolled or withdrawn, `local` the connection's
/// destination, `loopback` whether it came over the loopback interface.
#[inline(always)]
pub fn inbound(
    slot: u32,
    pod: Option<&PodConfig>,
    protocol: u32,
    remote: &Ip,
    local: &Endpoint,
    loopback: bool,
    tables: &impl Tables,
) -> Rule {
    if protocol != IPPROTO_TCP {
        return Rule::InboundNotTcp;
    }
    // A connection to the pod's own address reports the outer interface although it comes over the loopback: one that
    // was redirected too, from whichever of its addresses. From outside such a source gets no answer: that stays here.
    if remote.same(&local.ip) || pod.is_some_and(|pod| is_own(pod, remote)) {
        return Rule::InboundOwnAddress;
    }
    // So does one from a loopback address; from outside the kernel drops such sources (RFC 1122, section 3.2.1.3).
    if loopback || remote.is_loopback() {
        return Rule::InboundLoopback;
    }
    let port = local.port as u16;
    if tables.is_node_connection() && tables.has_port_rule(&PortKey { slot, port, kind: PortRule::Probe as u16 }) {
        return Rule::NodeProbe;
    }
    if tables.has_port_rule(&PortKey { slot, port, kind: PortRule::ExcludedInbound as u16 }) {
        return Rule::ExcludedInboundPort;
    }
    Rule::Steered
}

/// The rule for a connection that should be steered when the slot has no listening socket.
#[inline(always)]
pub fn without_listener(slot: &SlotConfig) -> Rule {
    if slot.flags & pod_flag::FAIL_OPEN != 0 { Rule::InboundFailOpen } else { Rule::NoListener }
}

#[inline(always)]
fn is_own(pod: &PodConfig, ip: &Ip) -> bool {
    if ip.same(&Ip::UNSPECIFIED) {
        return false;
    }
    let mut i = 0;
    while i < MAX_POD_IPS {
        if pod.ips[i].same(ip) {
            return true;
        }
        i += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::map::MAX_RULES;
    use core::net::{IpAddr, SocketAddr};
    use std::collections::HashSet;

    #[derive(Default)]
    struct Fake {
        ports: HashSet<PortKey>,
        cidrs: HashSet<Ip>,
        node: bool,
    }

    impl Tables for Fake {
        fn has_port_rule(&self, key: &PortKey) -> bool {
            self.ports.contains(key)
        }
        fn is_excluded_cidr(&self, key: &CidrKey) -> bool {
            self.cidrs.contains(&key.ip)
        }
        fn is_node_connection(&self) -> bool {
            self.node
        }
    }

    fn ip(text: &str) -> Ip {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn to(text: &str) -> Endpoint {
        let address: SocketAddr = text.parse().unwrap();
        Endpoint { ip: address.ip().into(), port: address.port().into(), role: 0 }
    }

    fn pod() -> PodConfig {
        let mut pod = PodConfig { slot: 7, flags: pod_flag::ENROLLED, ..Default::default() };
        pod.ips[0] = ip("10.0.0.2");
        pod.ips[1] = ip("fd00::2");
        (pod.redirect_v4, pod.redirect_v6) = (pod.ips[0], pod.ips[1]);
        pod
    }

    fn ready() -> Config {
        Config { flags: config_flag::PROXY_READY, ..Default::default() }
    }

    fn decide(pod: &PodConfig, destination: &str, tables: &Fake) -> Rule {
        outbound(&ready(), Some(pod), true, IPPROTO_TCP, false, &to(destination), tables)
    }

    #[test]
    fn rules_have_distinct_names_and_fit_the_counters() {
        let names: HashSet<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
        assert_eq!(names.len(), Rule::ALL.len());
        assert!(
            Rule::ALL.iter().all(|rule| (*rule as u32) < MAX_RULES && Rule::from_number(*rule as u32) == Some(*rule))
        );
        assert_eq!(Rule::from_number(14), None);
    }

    #[test]
    fn outbound_rules_apply_in_order() {
        let mut tables = Fake::default();
        tables.ports.insert(PortKey { slot: 7, port: 25, kind: PortRule::ExcludedOutbound as u16 });
        tables.ports.insert(PortKey { slot: 8, port: 80, kind: PortRule::ExcludedOutbound as u16 });
        tables.cidrs.insert(ip("192.0.2.9"));
        for (destination, rule) in [
            ("10.96.0.1:80", Rule::Redirected),
            ("[2001:db8::1]:80", Rule::Redirected),
            ("127.0.0.1:25", Rule::Loopback),
            ("0.0.0.0:80", Rule::Loopback),
            ("[::1]:80", Rule::Loopback),
            ("10.0.0.2:15001", Rule::OwnAddress),
            ("[fd00::2]:80", Rule::OwnAddress),
            ("10.96.0.1:25", Rule::ExcludedPort),
            ("192.0.2.9:80", Rule::ExcludedCidr),
            ("[fe80::1]:80", Rule::LinkLocal),
        ] {
            assert_eq!(decide(&pod(), destination, &tables), rule, "{destination}");
        }
        let destination = to("10.96.0.1:80");
        let pod = pod();
        let any =
            |pod, stream, protocol, tagged| outbound(&ready(), pod, stream, protocol, tagged, &destination, &tables);
        assert_eq!(any(None, true, IPPROTO_TCP, false), Rule::NotEnrolled);
        assert_eq!(any(Some(&pod), false, 17, false), Rule::NotTcp);
        assert_eq!(any(Some(&pod), true, 132, false), Rule::NotTcp);
        assert_eq!(any(Some(&pod), true, IPPROTO_MPTCP, false), Rule::Redirected);
        assert_eq!(any(Some(&pod), true, IPPROTO_TCP, true), Rule::ProxySocket);
    }

    #[test]
    fn a_pod_without_an_address_of_the_family_is_refused() {
        let mut v4_only = pod();
        (v4_only.ips[1], v4_only.redirect_v6) = (Ip::UNSPECIFIED, Ip::UNSPECIFIED);
        assert_eq!(decide(&v4_only, "[2001:db8::1]:80", &Fake::default()), Rule::NoPodAddress);
        assert_eq!(Rule::NoPodAddress.action(), Action::Refuse);
    }

    #[test]
    fn only_a_pod_that_opted_in_fails_open() {
        let mut open = pod();
        open.flags |= pod_flag::FAIL_OPEN;
        let without_proxy = |pod| {
            outbound(&Config::default(), Some(pod), true, IPPROTO_TCP, false, &to("10.96.0.1:80"), &Fake::default())
        };
        assert_eq!(without_proxy(&open), Rule::OutboundFailOpen);
        assert_eq!(without_proxy(&pod()), Rule::Redirected);
        assert_eq!(decide(&open, "10.96.0.1:80", &Fake::default()), Rule::Redirected);
        assert_eq!(
            without_listener(&SlotConfig { flags: pod_flag::FAIL_OPEN, ..Default::default() }),
            Rule::InboundFailOpen
        );
        assert_eq!(without_listener(&SlotConfig::default()), Rule::NoListener);
    }

    #[test]
    fn inbound_rules_apply_in_order() {
        let mut tables = Fake::default();
        tables.ports.insert(PortKey { slot: 7, port: 8080, kind: PortRule::Probe as u16 });
        tables.ports.insert(PortKey { slot: 7, port: 9090, kind: PortRule::ExcludedInbound as u16 });
        let mut pod = pod();
        pod.ips[2] = ip("10.0.0.3");
        let decide = |remote: &str, local: &str, loopback, node| {
            let tables = Fake { ports: tables.ports.clone(), cidrs: HashSet::new(), node };
            inbound(7, Some(&pod), IPPROTO_TCP, &ip(remote), &to(local), loopback, &tables)
        };
        assert_eq!(decide("10.0.0.9", "10.0.0.2:80", false, false), Rule::Steered);
        assert_eq!(decide("10.0.0.2", "10.0.0.2:80", false, false), Rule::InboundOwnAddress);
        assert_eq!(decide("10.0.0.3", "10.0.0.2:15001", false, false), Rule::InboundOwnAddress);
        assert_eq!(decide("::", "10.0.0.2:80", false, false), Rule::Steered);
        assert_eq!(decide("127.0.0.1", "127.0.0.2:80", true, false), Rule::InboundLoopback);
        assert_eq!(decide("127.0.0.1", "10.0.0.2:80", false, false), Rule::InboundLoopback);
        assert_eq!(decide("::1", "[fd00::2]:80", false, false), Rule::InboundLoopback);
        assert_eq!(decide("10.0.0.1", "10.0.0.2:8080", false, true), Rule::NodeProbe);
        assert_eq!(decide("10.0.0.1", "10.0.0.2:8080", false, false), Rule::Steered);
        assert_eq!(decide("10.0.0.1", "10.0.0.2:80", false, true), Rule::Steered);
        assert_eq!(decide("10.0.0.9", "10.0.0.2:9090", false, false), Rule::ExcludedInboundPort);
        assert_eq!(inbound(7, None, 17, &ip("10.0.0.9"), &to("10.0.0.2:80"), false, &tables), Rule::InboundNotTcp);
    }
}
