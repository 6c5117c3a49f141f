//! Why a connection would be redirected or not: the kernel's own verdict function over the kernel's own maps.

use std::{
    cell::RefCell,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use weir_abi::{
    Endpoint, IPPROTO_MPTCP, IPPROTO_TCP, Ip, Rule,
    map::{CidrKey, INBOUND_PORT, PodConfig, PortKey},
    verdict::{self, Action, Direction, Tables},
};

use super::{Error, Kernel};

/// IANA protocol number of UDP.
const IPPROTO_UDP: u32 = 17;

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A process of the pod.
    Pod,
    /// A process of the node, outside the pods' cgroups.
    Node,
    /// A process of a pod on the host's network.
    HostPod,
    /// Somebody at this address.
    Address(IpAddr),
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" | "pod" => Ok(Self::Pod),
            "node" => Ok(Self::Node),
            "host-pod" => Ok(Self::HostPod),
            address => address
                .parse()
                .map(|ip: IpAddr| Self::Address(ip.to_canonical()))
                .map_err(|_| format!("from: {address:?}: expected pod, node, host-pod or an IP address")),
        }
    }
}

/// What the connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// Multipath TCP.
    Mptcp,
    /// UDP.
    Udp,
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" | "tcp" => Ok(Self::Tcp),
            "mptcp" => Ok(Self::Mptcp),
            "udp" => Ok(Self::Udp),
            other => Err(format!("protocol: {other:?}: expected tcp, mptcp or udp")),
        }
    }
}

/// A verdict and where the connection would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Which way it goes, as the pod sees it.
    pub direction: Direction,
    /// The rule that decides.
    pub rule: Rule,
    /// What an operator should know.
    pub hint: String,
    /// The proxy's listener that would get it.
    pub listener: Option<SocketAddr>,
    /// Whether the kernel has the pod enrolled.
    pub enrolled: bool,
}

/// A question that has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The kernel could not be asked.
    #[error(transparent)]
    Kernel(#[from] Error),
    /// The destination of an inbound connection lies elsewhere.
    #[error("to: {to} is no address of the pod, which only its own processes could connect to; expected one of {ips}")]
    NotThePods {
        /// The destination.
        to: SocketAddr,
        /// The pod's addresses.
        ips: String,
    },
}

/// Decides a connection of `origin` to `to`, for the pod with this netns cookie. `netns` is none for a pod whose
/// namespace is not known; it is not enrolled then.
pub fn explain(
    kernel: &dyn Kernel,
    netns: Option<u64>,
    origin: Origin,
    protocol: Protocol,
    to: SocketAddr,
) -> Result<Explanation, ExplainError> {
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    let pod = match netns {
        Some(netns) => kernel.enrolled(netns)?,
        None => None,
    };
    let direction = if origin == Origin::Pod { Direction::Outbound } else { Direction::Inbound };
    let Some(pod) = pod else {
        let rule = Rule::NotEnrolled;
        return Ok(Explanation { direction, rule, hint: rule.hint().to_owned(), listener: None, enrolled: false });
    };
    let (rule, listener) = match direction {
        Direction::Outbound => outbound(kernel, &pod, protocol, to)?,
        Direction::Inbound => inbound(kernel, &pod, origin, protocol, to)?,
    };
    let outbound_port = kernel.config()?.outbound_port;
    let hint = match rule {
        Rule::Steered if u32::from(to.port()) == outbound_port || to.port() == INBOUND_PORT => {
            format!("{}, which closes connections to its own ports", rule.hint())
        }
        Rule::OwnAddress if u32::from(to.port()) == outbound_port || to.port() == INBOUND_PORT => {
            format!("{}; the proxy closes connections to its own ports", rule.hint())
        }
        _ => rule.hint().to_owned(),
    };
    Ok(Explanation { direction, rule, hint, listener, enrolled: true })
}

fn outbound(
    kernel: &dyn Kernel,
    pod: &PodConfig,
    protocol: Protocol,
    to: SocketAddr,
) -> Result<(Rule, Option<SocketAddr>), Error> {
    let config = kernel.config()?;
    let (stream, number) = match protocol {
        Protocol::Tcp => (true, IPPROTO_TCP),
        Protocol::Mptcp => (true, IPPROTO_MPTCP),
        Protocol::Udp => (false, IPPROTO_UDP),
    };
    let destination = endpoint(to);
    let tables = KernelTables::new(kernel, false);
    let rule = verdict::outbound(&config, Some(pod), stream, number, false, &destination, &tables);
    tables.finish()?;
    Ok((rule, listener(rule, Some(pod), config.outbound_port, &destination)))
}

fn inbound(
    kernel: &dyn Kernel,
    pod: &PodConfig,
    origin: Origin,
    protocol: Protocol,
    to: SocketAddr,
) -> Result<(Rule, Option<SocketAddr>), ExplainError> {
    let local = endpoint(to);
    let within = matches!(origin, Origin::Address(_)) && to.ip().is_loopback();
    if !within && (!pod.ips.contains(&local.ip) || local.ip == Ip::UNSPECIFIED) {
        return Err(ExplainError::NotThePods { to, ips: Addresses(pod).to_string() });
    }
    // An MPTCP connection starts as TCP with an option: sk_lookup sees TCP.
    let number = if protocol == Protocol::Udp { IPPROTO_UDP } else { IPPROTO_TCP };
    let remote = match origin {
        Origin::Address(ip) => ip.into(),
        Origin::Pod | Origin::Node | Origin::HostPod => Ip::UNSPECIFIED,
    };
    let loopback = to.ip().is_loopback();
    // Without the pods' cgroup no process counts as the node's own.
    let node = origin == Origin::Node && kernel.config()?.pods_cgroup != 0;
    let tables = KernelTables::new(kernel, node);
    let mut rule = verdict::inbound(pod.slot, Some(pod), number, &remote, &local, loopback, &tables);
    tables.finish()?;
    if rule == Rule::Steered {
        let slot = kernel.slot(pod.slot)?;
        if slot.listeners == 0 {
            rule = verdict::without_listener(&slot);
        }
    }
    Ok((rule, listener(rule, Some(pod), kernel.config()?.outbound_port, &local)))
}

/// Where a connection to `destination` goes under `rule`: the proxy's listener in the pod, none if it goes to none.
pub fn listener(rule: Rule, pod: Option<&PodConfig>, outbound_port: u32, destination: &Endpoint) -> Option<SocketAddr> {
    match rule.action() {
        Action::Redirect => pod.map(|pod| {
            SocketAddr::new((*verdict::redirect_address(pod, &destination.ip)).into(), outbound_port as u16)
        }),
        Action::Steer => Some(SocketAddr::new(destination.ip.into(), INBOUND_PORT)),
        Action::Pass | Action::Refuse => None,
    }
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { ip: address.ip().into(), port: address.port().into(), role: 0 }
}

/// A pod's addresses, separated by commas.
struct Addresses<'a>(&'a PodConfig);

impl fmt::Display for Addresses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.0.ips.iter().filter(|ip| **ip != Ip::UNSPECIFIED);
        for (i, ip) in used.enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { ", " }, IpAddr::from(*ip))?;
        }
        Ok(())
    }
}

/// The kernel's maps as the verdict looks them up. A lookup that fails answers no and leaves its error behind.
struct KernelTables<'a> {
    kernel: &'a dyn Kernel,
    node: bool,
    error: RefCell<Option<Error>>,
}

impl<'a> KernelTables<'a> {
    fn new(kernel: &'a dyn Kernel, node: bool) -> Self {
        Self { kernel, node, error: RefCell::new(None) }
    }

    fn answer(&self, result: Result<bool, Error>) -> bool {
        result.unwrap_or_else(|error| {
            self.error.borrow_mut().get_or_insert(error);
            false
        })
    }

    fn finish(self) -> Result<(), Error> {
        self.error.into_inner().map_or(Ok(()), Err)
    }
}

impl Tables for KernelTables<'_> {
    fn has_port_rule(&self, key: &PortKey) -> bool {
        self.answer(self.kernel.has_port_rule(key))
    }
    fn is_excluded_cidr(&self, key: &CidrKey) -> bool {
        self.answer(self.kernel.is_excluded_cidr(key))
    }
    fn is_node_connection(&self) -> bool {
        self.node
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fake::Fake, *};
    use weir_abi::map::{PortRule, SlotConfig, pod_flag};

    const NETNS: u64 = 4711;

    fn kernel() -> Fake {
        let mut kernel = Fake::with_pod(NETNS, 7, &["10.0.0.2", "fd00::2"]);
        for (port, kind) in
            [(25, PortRule::ExcludedOutbound), (9090, PortRule::ExcludedInbound), (8080, PortRule::Probe)]
        {
            kernel.ports.insert(PortKey { slot: 7, port, kind: kind as u16 });
        }
        kernel.cidrs.push((7, "192.0.2.0/24".parse().unwrap()));
        kernel
    }

    fn ask(kernel: &Fake, from: &str, protocol: &str, to: &str) -> Explanation {
        explain(kernel, Some(NETNS), from.parse().unwrap(), protocol.parse().unwrap(), to.parse().unwrap()).unwrap()
    }

    #[test]
    fn outbound_verdicts_come_from_the_maps() {
        let kernel = kernel();
        for (to, rule) in [
            ("10.96.0.10:80", Rule::Redirected),
            ("[::ffff:10.96.0.10]:80", Rule::Redirected),
            ("[2001:db8::1]:80", Rule::Redirected),
            ("10.96.0.10:25", Rule::ExcludedPort),
            ("192.0.2.77:80", Rule::ExcludedCidr),
            ("127.0.0.1:80", Rule::Loopback),
            ("10.0.0.2:80", Rule::OwnAddress),
            ("[fe80::1]:80", Rule::LinkLocal),
        ] {
            let explained = ask(&kernel, "pod", "", to);
            assert_eq!((explained.rule, explained.direction), (rule, Direction::Outbound), "{to}");
        }
        assert_eq!(ask(&kernel, "", "mptcp", "10.96.0.10:80").rule, Rule::Redirected);
        assert_eq!(ask(&kernel, "", "udp", "10.96.0.10:80").rule, Rule::NotTcp);
        let listener = |to| ask(&kernel, "", "", to).listener.map(|address| address.to_string());
        assert_eq!(listener("10.96.0.10:80").unwrap(), "10.0.0.2:15001");
        assert_eq!(listener("[2001:db8::1]:80").unwrap(), "[fd00::2]:15001");
        assert_eq!(listener("10.96.0.10:25"), None);
        assert_eq!(
            ask(&kernel, "", "", "10.0.0.2:15001").hint,
            "the pod talks to itself; the proxy closes connections to its own ports"
        );
    }

    #[test]
    fn only_the_node_reaches_probe_ports_untouched() {
        let mut kernel = kernel();
        for (from, to, rule) in [
            ("node", "10.0.0.2:8080", Rule::NodeProbe),
            ("node", "10.0.0.2:80", Rule::Steered),
            ("node", "10.0.0.2:9090", Rule::ExcludedInboundPort),
            ("host-pod", "10.0.0.2:8080", Rule::Steered),
            ("10.0.0.9", "10.0.0.2:8080", Rule::Steered),
            ("10.0.0.2", "10.0.0.2:8080", Rule::InboundOwnAddress),
            ("127.0.0.1", "127.0.0.1:8080", Rule::InboundOwnAddress),
            ("127.0.0.2", "127.0.0.1:8080", Rule::InboundLoopback),
            ("127.0.0.1", "10.0.0.2:8080", Rule::InboundLoopback),
        ] {
            let explained = ask(&kernel, from, "tcp", to);
            assert_eq!((explained.rule, explained.direction), (rule, Direction::Inbound), "{from} {to}");
        }
        assert_eq!(ask(&kernel, "10.0.0.9", "", "[fd00::2]:80").listener.unwrap().to_string(), "[fd00::2]:15006");
        assert_eq!(ask(&kernel, "10.0.0.9", "udp", "10.0.0.2:80").rule, Rule::InboundNotTcp);
        kernel.config.pods_cgroup = 0;
        assert_eq!(ask(&kernel, "node", "tcp", "10.0.0.2:8080").rule, Rule::Steered);
    }

    #[test]
    fn without_listeners_the_slot_decides() {
        let mut kernel = kernel();
        kernel.slots.insert(7, SlotConfig { netns: NETNS, flags: pod_flag::ENROLLED, listeners: 0 });
        assert_eq!(ask(&kernel, "10.0.0.9", "", "10.0.0.2:80").rule, Rule::NoListener);
        kernel.slots.get_mut(&7).unwrap().flags |= pod_flag::FAIL_OPEN;
        assert_eq!(ask(&kernel, "10.0.0.9", "", "10.0.0.2:80").rule, Rule::InboundFailOpen);
    }

    #[test]
    fn an_unknown_namespace_is_not_enrolled() {
        let to = "10.96.0.10:80".parse().unwrap();
        for netns in [None, Some(1)] {
            let explained = explain(&kernel(), netns, Origin::Pod, Protocol::Tcp, to).unwrap();
            assert_eq!((explained.rule, explained.enrolled), (Rule::NotEnrolled, false));
        }
    }

    #[test]
    fn bad_questions_say_what_was_expected() {
        let error =
            explain(&kernel(), Some(NETNS), Origin::Node, Protocol::Tcp, "10.0.0.3:80".parse().unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "to: 10.0.0.3:80 is no address of the pod, which only its own processes could connect to; \
             expected one of 10.0.0.2, fd00::2"
        );
        assert_eq!(
            "kubelet".parse::<Origin>().unwrap_err(),
            "from: \"kubelet\": expected pod, node, host-pod or an IP address"
        );
        assert_eq!("sctp".parse::<Protocol>().unwrap_err(), "protocol: \"sctp\": expected tcp, mptcp or udp");
    }

    #[test]
    fn a_failed_lookup_is_an_error_and_no_verdict() {
        let mut kernel = kernel();
        kernel.broken = true.into();
        let error = explain(&kernel, Some(NETNS), Origin::Pod, Protocol::Tcp, "10.96.0.10:80".parse().unwrap());
        assert!(matches!(error, Err(ExplainError::Kernel(_))));
    }
}
