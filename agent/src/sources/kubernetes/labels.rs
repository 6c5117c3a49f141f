//! The labels that choose pods, and the annotations that say what is treated apart for one.

/// What weir's own labels and annotations begin with.
pub const OWN: &str = "weir.dev/";
/// The label that enrolls.
pub const MESH: &str = "weir.dev/mesh";
/// Istio's label for the same; honoured only if the agent is told so.
pub const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// Destinations that a pod reaches directly.
pub const OUTBOUND_CIDRS: &str = "weir.dev/exclude-outbound-cidrs";
/// Destination ports that a pod reaches directly.
pub const OUTBOUND_PORTS: &str = "weir.dev/exclude-outbound-ports";
/// Ports of a pod that others reach directly.
pub const INBOUND_PORTS: &str = "weir.dev/exclude-inbound-ports";
/// Whether a pod's connections pass while nobody accepts them.
pub const FAIL_OPEN: &str = "weir.dev/fail-open";
/// weir's annotations of pods.
pub const ANNOTATIONS: [&str; 4] = [OUTBOUND_CIDRS, OUTBOUND_PORTS, INBOUND_PORTS, FAIL_OPEN];

/// Whether a label of a namespace is kept: one that is looked at, or may have been meant as one.
pub fn is_kept(label: &str) -> bool {
    label.starts_with(OWN) || label == DATAPLANE_MODE
}
