//! Protocol messages: Envoy v3 ([`envoy`], [`xds`]), the handoff protocol ([`handoff`]) and the agent's API ([`agent`]).
//!
//! `generated/` comes from `cargo xtask proto`.

#[rustfmt::skip]
#[expect(clippy::all, clippy::allow_attributes_without_reason, reason = "generated")]
mod generated;

pub use generated::weir::{agent, handoff};
pub use generated::{envoy, google, xds};
