//! The labels that choose pods.

/// The label that enrolls.
pub const MESH: &str = "weir.dev/mesh";
/// Istio's label for the same; honoured only if the agent is told so.
pub const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";

/// Whether a label of a namespace is one that is looked at.
pub fn is_read(label: &str) -> bool {
    label == MESH || label == DATAPLANE_MODE
}
