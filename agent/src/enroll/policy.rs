//! What is treated apart for a pod: from the node's configuration, the pod's annotations and its probes.

use std::collections::BTreeSet;

use ipnet::IpNet;
use weir_abi::map::{MAX_CIDRS as CIDRS, MAX_PODS, MAX_PORT_RULES, PortRule};

use crate::{
    config,
    reason::Reason,
    redirect::PodRules,
    sources::{
        PodSpec,
        kubernetes::labels::{self, FAIL_OPEN},
    },
};

/// weir's annotations, and Istio's that say the same: pods that have those need no others. Both together add up.
const OUTBOUND_CIDRS: [&str; 2] = [labels::OUTBOUND_CIDRS, "traffic.sidecar.istio.io/excludeOutboundIPRanges"];
const OUTBOUND_PORTS: [&str; 2] = [labels::OUTBOUND_PORTS, "traffic.sidecar.istio.io/excludeOutboundPorts"];
const INBOUND_PORTS: [&str; 2] = [labels::INBOUND_PORTS, "traffic.sidecar.istio.io/excludeInboundPorts"];
/// Characters of a refused value that are shown.
const SHOWN: usize = 60;

/// A pod's share of the maps, so that none takes another's place.
const MAX_PORTS: usize = MAX_PORT_RULES / MAX_PODS as usize;
const MAX_CIDRS: usize = CIDRS / MAX_PODS as usize;

/// What is treated apart for one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Outbound CIDRs that are left alone.
    pub outbound_cidrs: BTreeSet<IpNet>,
    /// Outbound ports that are left alone.
    pub outbound_ports: BTreeSet<u16>,
    /// Inbound ports that are left alone.
    pub inbound_ports: BTreeSet<u16>,
    /// Ports that the node's own processes may reach untouched.
    pub probe_ports: BTreeSet<u16>,
    /// Whether connections pass untouched while no proxy is ready.
    pub fail_open: bool,
}

/// Why there is no policy for a pod.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The source found something wrong with the pod.
    #[error("{0}")]
    Source(String),
    /// An annotation is not what it must be.
    #[error("annotation {name}: invalid {value:?}, expected {expected}")]
    Annotation {
        /// The annotation.
        name: &'static str,
        /// What it says.
        value: String,
        /// What it should.
        expected: &'static str,
    },
    /// The maps are shared by all pods of the node.
    #[error("too many {what}: {count}, the node's and the pod's own, expected at most {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
        /// How many of them are the node's.
        of_node: usize,
    },
}

impl From<Error> for Reason {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            // No pod can have so few that it fits.
            Error::TooMany { most, of_node, .. } if of_node > most => Self::node(text),
            _ => Self::owner(text),
        }
    }
}

impl Policy {
    /// The policy of a pod on a node.
    pub fn of(pod: &PodSpec, node: &config::Redirect) -> Result<Self, Error> {
        if let Some(problem) = &pod.problem {
            return Err(Error::Source(problem.clone()));
        }
        let cidrs =
            list(pod, OUTBOUND_CIDRS, "CIDRs such as 10.0.0.0/8,fd00::/8", |text| config::parse_cidr(text).ok())?;
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
        let outbound_ports = list(pod, OUTBOUND_PORTS, "ports such as 25,587", port)?;
        let inbound_ports = list(pod, INBOUND_PORTS, "ports such as 22,9090", port)?;
        let fail_open = match pod.annotations.get(FAIL_OPEN).map(String::as_str) {
            None | Some("false") => false,
            Some("true") => true,
            Some(value) => {
                let expected = "\"true\" or \"false\"";
                return Err(Error::Annotation { name: FAIL_OPEN, value: shown(value), expected });
            }
        };
        let policy = Self {
            outbound_cidrs: node.exclude_outbound_cidrs.iter().copied().chain(cidrs).collect(),
            outbound_ports: node.exclude_outbound_ports.iter().copied().chain(outbound_ports).collect(),
            inbound_ports: node.exclude_inbound_ports.iter().copied().chain(inbound_ports).collect(),
            probe_ports: pod.probe_ports.iter().copied().collect(),
            fail_open,
        };
        let ports = policy.outbound_ports.len() + policy.inbound_ports.len() + policy.probe_ports.len();
        let of_node = node.exclude_outbound_ports.len() + node.exclude_inbound_ports.len();
        at_most("ports that are excluded or probed", ports, MAX_PORTS, of_node)?;
        at_most("excluded CIDRs", policy.outbound_cidrs.len(), MAX_CIDRS, node.exclude_outbound_cidrs.len())?;
        Ok(policy)
    }

    /// What the kernel is told.
    pub fn rules(&self) -> PodRules {
        let with = |ports: &BTreeSet<u16>, rule: PortRule| ports.iter().map(|port| (*port, rule as u16)).collect();
        let ports: [Vec<_>; 3] = [
            with(&self.outbound_ports, PortRule::ExcludedOutbound),
            with(&self.inbound_ports, PortRule::ExcludedInbound),
            with(&self.probe_ports, PortRule::Probe),
        ];
        PodRules { ports: ports.into_iter().flatten().collect(), cidrs: self.outbound_cidrs.clone() }
    }

    /// The policy that the kernel was told.
    pub fn from_rules(rules: &PodRules, fail_open: bool) -> Self {
        let of = |rule: PortRule| {
            rules.ports.iter().filter(|(_, kind)| *kind == rule as u16).map(|(port, _)| *port).collect()
        };
        Self {
            outbound_cidrs: rules.cidrs.clone(),
            outbound_ports: of(PortRule::ExcludedOutbound),
            inbound_ports: of(PortRule::ExcludedInbound),
            probe_ports: of(PortRule::Probe),
            fail_open,
        }
    }
}

fn at_most(what: &'static str, count: usize, most: usize, of_node: usize) -> Result<(), Error> {
    if count <= most { Ok(()) } else { Err(Error::TooMany { what, count, most, of_node }) }
}

/// What is shown of a value: an annotation may have 256 KiB, and all pods' reasons travel in one answer.
fn shown(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

/// Comma-separated annotations; absent or empty, nothing.
fn list<T>(
    pod: &PodSpec,
    names: [&'static str; 2],
    expected: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let values = names.into_iter().filter_map(|name| Some((name, pod.annotations.get(name)?)));
    let items = values.flat_map(|(name, values)| values.split(',').map(move |item| (name, item.trim())));
    let items = items.filter(|(_, item)| !item.is_empty());
    let parsed =
        |(name, item): (_, &str)| parse(item).ok_or_else(|| Error::Annotation { name, value: shown(item), expected });
    items.map(parsed).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::sources::PodNetns;

    /// A pod that has only a name.
    pub(in crate::enroll) fn pod(name: &str) -> PodSpec {
        PodSpec {
            uid: format!("uid-{name}"),
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            service_account: "default".to_owned(),
            netns: PodNetns::Path(format!("/run/netns/{name}").into()),
            labels: Default::default(),
            annotations: Default::default(),
            probe_ports: Vec::new(),
            problem: None,
        }
    }

    fn annotated(annotations: &[(&str, &str)]) -> PodSpec {
        let mut pod = pod("web");
        pod.annotations = annotations.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        pod
    }

    #[test]
    fn annotations_add_to_the_node_s_exclusions() {
        let node = config::Redirect {
            exclude_outbound_cidrs: vec!["169.254.0.0/16".parse().unwrap()],
            exclude_outbound_ports: vec![53],
            exclude_inbound_ports: vec![22],
            ..Default::default()
        };
        let mut pod = annotated(&[
            ("weir.dev/exclude-outbound-cidrs", "10.1.2.3/8, fd00::/8"),
            ("weir.dev/exclude-outbound-ports", "25, 587,"),
            ("weir.dev/exclude-inbound-ports", ""),
            ("weir.dev/fail-open", "true"),
        ]);
        pod.probe_ports = vec![8080];
        let policy = Policy::of(&pod, &node).unwrap();
        let cidrs: Vec<String> = policy.outbound_cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(cidrs, ["10.0.0.0/8", "169.254.0.0/16", "fd00::/8"]);
        assert_eq!(policy.outbound_ports, BTreeSet::from([25, 53, 587]));
        assert_eq!((policy.inbound_ports.len(), policy.fail_open), (1, true));

        let rules = policy.rules();
        assert!(rules.ports.contains(&(8080, PortRule::Probe as u16)));
        assert!(rules.ports.contains(&(25, PortRule::ExcludedOutbound as u16)));
        assert_eq!(Policy::from_rules(&rules, true), policy);
    }

    #[test]
    fn istio_s_annotations_say_the_same_and_add_up() {
        let policy = |annotations: &[(&str, &str)]| Policy::of(&annotated(annotations), &Default::default()).unwrap();
        let istio = policy(&[
            ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.0.0.0/8"),
            ("traffic.sidecar.istio.io/excludeOutboundPorts", "25"),
            ("traffic.sidecar.istio.io/excludeInboundPorts", "22"),
        ]);
        let own = policy(&[
            ("weir.dev/exclude-outbound-cidrs", "10.0.0.0/8"),
            ("weir.dev/exclude-outbound-ports", "25"),
            ("weir.dev/exclude-inbound-ports", "22"),
        ]);
        assert_eq!(istio, own);
        let both = policy(&[
            ("weir.dev/exclude-outbound-ports", "25,26"),
            ("traffic.sidecar.istio.io/excludeOutboundPorts", "26,27"),
        ]);
        assert_eq!(both.outbound_ports, BTreeSet::from([25, 26, 27]));
    }

    #[test]
    fn bad_annotations_are_named() {
        let problem = "label weir.dev/mesh: invalid \"of\"".to_owned();
        let held_back = PodSpec { problem: Some(problem.clone()), ..pod("web") };
        assert_eq!(Policy::of(&held_back, &Default::default()).unwrap_err().to_string(), problem);
        let error = |name, value| {
            Policy::of(&annotated(&[(name, value)]), &config::Redirect::default()).unwrap_err().to_string()
        };
        for (names, value, problem) in [
            (OUTBOUND_CIDRS, "10.0.0.0/8,all", "invalid \"all\", expected CIDRs such as 10.0.0.0/8,fd00::/8"),
            (OUTBOUND_PORTS, "http", "invalid \"http\", expected ports such as 25,587"),
            (INBOUND_PORTS, "0", "invalid \"0\", expected ports such as 22,9090"),
        ] {
            for name in names {
                assert_eq!(error(name, value), format!("annotation {name}: {problem}"));
            }
        }
        assert_eq!(
            error(FAIL_OPEN, "yes"),
            "annotation weir.dev/fail-open: invalid \"yes\", expected \"true\" or \"false\""
        );
    }

    #[test]
    fn a_pod_has_its_share_of_the_maps_and_no_more() {
        let ports = |count: u16| (1..=count).map(|port| port.to_string()).collect::<Vec<_>>().join(",");
        let mut pod = annotated(&[(OUTBOUND_PORTS[0], &ports(60))]);
        pod.probe_ports = vec![8080, 8081, 8082, 8083];
        let node = config::Redirect::default();
        assert!(Policy::of(&pod, &node).is_ok());
        pod.probe_ports.push(8084);
        assert_eq!(
            Policy::of(&pod, &node).unwrap_err().to_string(),
            "too many ports that are excluded or probed: 65, the node's and the pod's own, expected at most 64"
        );
        let cidrs = (0..65).map(|index| format!("10.0.{index}.0/24")).collect::<Vec<_>>().join(",");
        let error = Policy::of(&annotated(&[(OUTBOUND_CIDRS[0], &cidrs)]), &node).unwrap_err();
        let text = "too many excluded CIDRs: 65, the node's and the pod's own, expected at most 64";
        assert_eq!(Reason::from(error), Reason::owner(text));
        // No pod can help it.
        let exclude_outbound_cidrs = cidrs.split(',').map(|cidr| cidr.parse().unwrap()).collect();
        let node = config::Redirect { exclude_outbound_cidrs, ..config::Redirect::default() };
        assert_eq!(Reason::from(Policy::of(&annotated(&[]), &node).unwrap_err()), Reason::node(text));
    }
}
