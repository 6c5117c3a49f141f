//! Protocol messages: Envoy v3 ([`envoy`], [`xds`], [`udpa`]), the handoff protocol ([`handoff`]) and the agent's API ([`agent`]);
//! and the way from YAML, JSON and `Any` to them.
//!
//! A text goes `text -> tree (YAML or JSON, with positions) -> read (by the message's descriptor) -> validate
//! (protoc-gen-validate rules) -> the Rust type`, all through [`from_yaml`] or [`from_json`]. What comes back is valid
//! throughout, also inside every `Any`; a [`ConfigError`] names the field and the line. Messages that arrive in binary
//! go through [`validate()`].
//!
//! `generated/` comes from `cargo xtask proto`: Rust types for what the proxy implements, and one descriptor set of
//! Envoy's whole API, so that also messages without a Rust type are read, validated and shown.

mod convert;
mod descriptors;
mod error;
mod json;
mod nesting;
mod read;
mod tree;
mod validate;
mod yaml;

#[rustfmt::skip]
#[expect(clippy::all, clippy::allow_attributes_without_reason, reason = "generated")]
mod generated;

pub use convert::{
    any_from_json, bytes_of, from_json, from_yaml, from_yaml_known, from_yaml_unvalidated, json_of, locate, set_fields,
    to_json, type_name, unpack, validate, validate_encoded, whole_numbers,
};
pub use descriptors::{Keeping, forget, keep, pool};
pub use error::{ConfigError, FieldPath, Position, Segment};
pub use generated::weir::{agent, handoff};
pub use generated::{cel, envoy, google, io, istio, stats, udpa, xds};
pub use read::MAX_DURATION_SECONDS;
pub use validate::UnknownFields;
