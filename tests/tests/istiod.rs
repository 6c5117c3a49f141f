//! What a real istiod sent, served again: taken as far as it can be, and traffic goes where the manifests say that it was
//! made from (tests/data/istiod). Each case names the manifest and its line.
//!
//! Addresses are those of the recording. The proxy serves a pod on a node as it does everywhere, by eBPF and without a
//! sidecar; a gateway is a process in a namespace of its own. Secrets come from a server of their own, as from istio's agent.

#![expect(clippy::unwrap_used, reason = "a test says enough by failing there")]

#[path = "istiod/ask.rs"]
mod ask;
#[path = "istiod/backend.rs"]
mod backend;
#[path = "istiod/forward.rs"]
mod forward;
#[path = "istiod/gateway.rs"]
mod gateway;
#[path = "istiod/identity.rs"]
mod identity;
#[path = "istiod/inbound.rs"]
mod inbound;
#[path = "istiod/outbound.rs"]
mod outbound;
#[path = "istiod/scene.rs"]
mod scene;
#[path = "istiod/taken.rs"]
mod taken;
#[path = "istiod/waypoint.rs"]
mod waypoint;
