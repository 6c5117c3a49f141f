//! Responses made here: which form they take.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::{
    config::{
        headers::Addition,
        matcher::HeaderMatcher,
        route::{RequestView, header_matches},
    },
    telemetry::{access_log::Flag, format::Format},
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
    pub filter: ReplyFilter,
    /// Another status.
    pub status: Option<StatusCode>,
    /// Another body.
    pub body: Option<Bytes>,
    /// Another form of the body.
    pub format: Option<BodyFormat>,
    /// Headers to add.
    pub headers: Vec<Addition>,
}

/// Which replies a mapper concerns.
#[derive(Clone, Debug)]
pub enum ReplyFilter {
    /// By status.
    Status(Comparison),
    /// By how long the request has taken, in milliseconds.
    Duration(Comparison),
    /// By a request header.
    Header(HeaderMatcher),
    /// With one of these flags; none are named: with any.
    Flags(Vec<Flag>),
    /// All of these.
    All(Vec<ReplyFilter>),
    /// Any of these.
    Any(Vec<ReplyFilter>),
}

/// How a number must compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// How.
    pub operator: Operator,
    /// With what.
    pub value: u32,
}

/// See [`Comparison`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Equal.
    Equal,
    /// Greater or equal.
    AtLeast,
    /// Less or equal.
    AtMost,
    /// Not equal.
    NotEqual,
}

impl Comparison {
    fn holds(self, number: u128) -> bool {
        let value = u128::from(self.value);
        match self.operator {
            Operator::Equal => number == value,
            Operator::AtLeast => number >= value,
            Operator::AtMost => number <= value,
            Operator::NotEqual => number != value,
        }
    }
}

/// What is known of a reply.
#[derive(Clone, Copy, Debug)]
pub struct Replied<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Why it is made.
    pub flags: &'a [Flag],
    /// How long the request has taken.
    pub lasted: Duration,
    /// The request.
    pub request: &'a RequestView<'a>,
}

impl ReplyFilter {
    /// Whether it concerns a reply.
    pub fn takes(&self, reply: &Replied<'_>) -> bool {
        match self {
            Self::Status(comparison) => comparison.holds(u128::from(reply.status.as_u16())),
            Self::Duration(comparison) => comparison.holds(reply.lasted.as_millis()),
            Self::Header(matcher) => header_matches(matcher, reply.request),
            Self::Flags(flags) if flags.is_empty() => !reply.flags.is_empty(),
            Self::Flags(flags) => flags.iter().any(|flag| reply.flags.contains(flag)),
            Self::All(filters) => filters.iter().all(|filter| filter.takes(reply)),
            Self::Any(filters) => filters.iter().any(|filter| filter.takes(reply)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare() {
        let holds = |operator, number| Comparison { operator, value: 500 }.holds(number);
        assert!(holds(Operator::Equal, 500) && !holds(Operator::Equal, 501));
        assert!(holds(Operator::AtLeast, 500) && !holds(Operator::AtLeast, 499));
        assert!(holds(Operator::AtMost, 500) && !holds(Operator::AtMost, 501));
        assert!(holds(Operator::NotEqual, 499) && !holds(Operator::NotEqual, 500));
    }
}
