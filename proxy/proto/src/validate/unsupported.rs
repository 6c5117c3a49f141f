//! Rules that are not implemented.

/// A rule that nothing in Envoy's API uses, and that is not implemented.
#[derive(Debug)]
pub(super) struct Unsupported(pub String);
