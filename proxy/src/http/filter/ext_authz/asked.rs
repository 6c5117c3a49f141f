//! What a question is made of, whoever it is put to.

use http::HeaderName;

use crate::config::filter::ext_authz::ExtAuthz;

/// Tells the service whether the body that it gets is cut.
pub(super) const PARTIAL_BODY: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");

/// What a question is made of, besides the request.
pub(super) struct Asked<'a> {
    pub filter: &'a ExtAuthz,
    /// What the service is told besides, by names.
    pub extensions: Vec<(&'a str, &'a str)>,
    /// The part of the body; none: it is no part.
    pub body: Option<bytes::Bytes>,
    pub as_bytes: bool,
}
