//! Bodies of responses made here.

use http::HeaderValue;

use crate::telemetry::format::Format;

/// `SubstitutionFormatString`, for a body.
#[derive(Clone, Debug)]
pub struct BodyFormat {
    /// What it says.
    pub format: Format,
    /// `content-type`.
    pub content_type: HeaderValue,
}
