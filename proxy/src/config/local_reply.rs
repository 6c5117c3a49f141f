//! Responses made here: which form they take.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::{
    access_log::{filter::Filter, format::Format},
    config::headers::Addition,
};

/// `SubstitutionFormatString`, for a body.
#[derive(Clone, Debug)]
pub struct BodyFormat {
    /// What it says.
    pub format: Format,
    /// `content-type`.
    pub content_type: HeaderValue,
}

/// `LocalReplyConfig`.
#[derive(Clone, Debug, Default)]
pub struct LocalReplies {
    /// Changes; the first that concerns a reply is made.
    pub mappers: Vec<ReplyMapper>,
    /// The form of bodies.
    pub format: Option<BodyFormat>,
}

/// `ResponseMapper`.
#[derive(Clone, Debug)]
pub struct ReplyMapper {
    /// Which replies it concerns.
    pub filter: Filter,
    /// Another status.
    pub status: Option<StatusCode>,
    /// Another body.
    pub body: Option<Bytes>,
    /// Another form of the body.
    pub format: Option<BodyFormat>,
    /// Headers to add.
    pub headers: Vec<Addition>,
}
