//! Access log filters: which streams get a line. A pure function of what is known about the stream.

use super::{entry::LogType, flag::Flag, header_name::HeaderName, view::View};
use crate::{
    cel::{Attribute, Expression},
    matcher::{HeaderMatcher, MatchedHeader, fraction::Fraction, metadata::MetadataMatcher},
    runtime::Runtime,
};

/// gRPC's UNKNOWN: of a response that does not say.
const UNKNOWN: i64 = 2;

/// Which streams get a line.
#[derive(Clone, Debug)]
pub enum Filter {
    /// By response code; 0: no response.
    Status(Comparison),
    /// By duration, in ms.
    Duration(Comparison),
    /// Not those that the health check filter answers.
    NotHealthCheck,
    /// Those that are traced: none, as nothing traces.
    Traced,
    /// A share.
    Sample {
        /// Runtime key of the share.
        key: Box<str>,
        /// The share.
        share: Fraction,
        /// Draw for each line; else by request id, where there is one.
        independent: bool,
    },
    /// All of these.
    And(Vec<Filter>),
    /// Any of these.
    Or(Vec<Filter>),
    /// By a request header.
    Header(HeaderMatcher),
    /// With one of these flags; none are named: with any.
    Flags(Vec<Flag>),
    /// By gRPC status.
    GrpcStatus {
        /// These.
        statuses: Vec<i64>,
        /// The others instead.
        exclude: bool,
    },
    /// By why the line is written.
    LogType {
        /// These.
        types: Vec<LogType>,
        /// The others instead.
        exclude: bool,
    },
    /// By an expression.
    Expression(Expression),
    /// By dynamic metadata.
    Metadata {
        /// How a value must look.
        matcher: Option<MetadataMatcher>,
        /// What holds where there is no value.
        if_absent: bool,
    },
}

/// How a number must compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// How.
    pub operator: Operator,
    /// With what.
    pub value: u32,
    /// Runtime key of the value; empty: none.
    pub key: Box<str>,
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
    fn holds(&self, number: u64, runtime: &Runtime) -> bool {
        let value = match &*self.key {
            "" => u64::from(self.value),
            // Runtime values are doubles; a negative one is as good as 0.
            key => runtime.number(key, f64::from(self.value)) as u64,
        };
        match self.operator {
            Operator::Equal => number == value,
            Operator::AtLeast => number >= value,
            Operator::AtMost => number <= value,
            Operator::NotEqual => number != value,
        }
    }
}

impl Filter {
    /// Whether the stream gets a line.
    pub fn takes(&self, view: &View<'_>, runtime: &Runtime) -> bool {
        let entry = view.entry;
        match self {
            Self::Status(comparison) => comparison.holds(u64::from(entry.response_code), runtime),
            Self::Duration(comparison) => {
                let millis = u64::try_from(entry.start.elapsed().as_millis()).unwrap_or(u64::MAX);
                comparison.holds(millis, runtime)
            }
            Self::NotHealthCheck => !entry.health_check,
            Self::Traced => false,
            Self::Sample { key, share, independent } => {
                let random = match view.request_id().filter(|_| !independent).and_then(leading_bits) {
                    Some(bits) => bits,
                    None => fastrand::u64(..),
                };
                // A runtime value is a numerator of the configured denominator here, not percent.
                random % u64::from(share.denominator) < runtime.integer(key).unwrap_or(u64::from(share.numerator))
            }
            Self::And(filters) => filters.iter().all(|filter| filter.takes(view, runtime)),
            Self::Or(filters) => filters.iter().any(|filter| filter.takes(view, runtime)),
            Self::Header(matcher) => match name_of(matcher) {
                // As Envoy 1.40: each value by itself.
                HeaderName::Plain(name) => {
                    let mut values = view.request_values(&name).peekable();
                    match (values.peek().is_some(), matcher.invert) {
                        (false, _) => matcher.matches(None),
                        (true, false) => values.any(|value| matcher.matches(Some(value))),
                        (true, true) => values.all(|value| matcher.matches(Some(value))),
                    }
                }
                pseudo => matcher.matches(view.request_header(&pseudo)),
            },
            Self::Flags(flags) if flags.is_empty() => !entry.flags.is_empty(),
            Self::Flags(flags) => flags.iter().any(|flag| entry.flags.contains(flag)),
            Self::GrpcStatus { statuses, exclude } => {
                statuses.contains(&view.grpc_status().unwrap_or(UNKNOWN)) != *exclude
            }
            Self::LogType { types, exclude } => types.contains(&view.log_type) != *exclude,
            Self::Expression(expression) => expression.holds(view),
            Self::Metadata { matcher, if_absent } => {
                let found = matcher.as_ref().and_then(|matcher| {
                    let value = entry.metadata.as_ref()?.get(&matcher.namespace, &matcher.path)?;
                    Some(matcher.value.matches(Some(value)))
                });
                found.unwrap_or(*if_absent)
            }
        }
    }

    /// Visits the request headers that it looks at.
    pub fn each_header(&self, visit: &mut impl FnMut(&HeaderName)) {
        match self {
            Self::Header(matcher) => visit(&name_of(matcher)),
            Self::And(filters) | Self::Or(filters) => {
                for filter in filters {
                    filter.each_header(visit);
                }
            }
            _ => {}
        }
    }

    /// Visits what its expressions ask.
    pub fn each_attribute(&self, visit: &mut dyn FnMut(&Attribute)) {
        match self {
            Self::Expression(expression) => expression.each_attribute(visit),
            Self::And(filters) | Self::Or(filters) => {
                for filter in filters {
                    filter.each_attribute(visit);
                }
            }
            _ => {}
        }
    }

    /// Whether it looks at the request's id.
    pub fn samples(&self) -> bool {
        self.any(&|filter| matches!(filter, Self::Sample { independent: false, .. }))
    }

    /// Whether it looks at the gRPC status.
    pub fn looks_at_grpc_status(&self) -> bool {
        self.any(&|filter| matches!(filter, Self::GrpcStatus { .. }))
    }

    fn any(&self, holds: &dyn Fn(&Self) -> bool) -> bool {
        match self {
            Self::And(filters) | Self::Or(filters) => filters.iter().any(|filter| filter.any(holds)),
            other => holds(other),
        }
    }
}

fn name_of(matcher: &HeaderMatcher) -> HeaderName {
    match &matcher.name {
        MatchedHeader::Method => HeaderName::Method,
        MatchedHeader::Path => HeaderName::Path,
        MatchedHeader::Authority => HeaderName::Authority,
        MatchedHeader::Scheme => HeaderName::Scheme,
        MatchedHeader::Status => HeaderName::Status,
        MatchedHeader::Plain(name) => HeaderName::Plain(name.clone()),
    }
}

/// The number that the first eight characters of a request id are, which is random in a UUID.
fn leading_bits(id: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(id.get(..8)?).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access_log::{Entry, Live},
        matcher::{HeaderPattern, StringMatcher},
    };

    fn entry() -> Entry {
        Entry::new("10.0.0.2:80".parse().unwrap(), "10.0.0.1:4711".parse().unwrap())
    }

    #[test]
    fn numbers_compare() {
        let runtime = Runtime::default();
        let mut entry = entry();
        entry.response_code = 404;
        for (operator, value, expected) in [
            (Operator::AtLeast, 404, true),
            (Operator::AtLeast, 405, false),
            (Operator::AtMost, 403, false),
            (Operator::Equal, 404, true),
            (Operator::NotEqual, 404, false),
        ] {
            let filter = Filter::Status(Comparison { operator, value, key: "a.key".into() });
            assert_eq!(filter.takes(&View::of(&entry), &runtime), expected, "{operator:?} {value}");
        }
    }

    #[test]
    fn flags_types_and_their_combinations() {
        let runtime = Runtime::default();
        let mut entry = entry();
        let takes = |filter: &Filter, entry: &Entry| filter.takes(&View::of(entry), &runtime);
        let any = Filter::Flags(Vec::new());
        let overflow = Filter::Flags(vec![Flag::UpstreamOverflow]);
        assert!(!takes(&any, &entry));
        entry.raise(Flag::NoRouteFound);
        assert!(takes(&any, &entry) && !takes(&overflow, &entry));
        let start = |exclude| Filter::LogType { types: vec![LogType::DownstreamStart], exclude };
        assert!(takes(&Filter::And(vec![any.clone(), start(true)]), &entry));
        assert!(takes(&Filter::Or(vec![overflow, start(true)]), &entry));
        assert!(!takes(&Filter::And(vec![any, start(false)]), &entry));
        assert!(!takes(&Filter::Traced, &entry));
    }

    #[test]
    fn headers_of_a_request_at_hand() {
        let runtime = Runtime::default();
        let entry = entry();
        let headers = [("x-a", "one"), ("x-a", "two")]
            .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
            .into_iter()
            .collect();
        let (method, uri) = (http::Method::GET, http::Uri::from_static("/"));
        let live = Live { method: &method, uri: &uri, scheme: "http", headers: &headers };
        let takes = |name: &'static str, text| {
            let name = MatchedHeader::Plain(http::HeaderName::from_static(name));
            let value = HeaderPattern::String(StringMatcher::exact(text));
            let filter = Filter::Header(HeaderMatcher { name, value, invert: false, missing_is_empty: false });
            filter.takes(&View::live(&entry, live), &runtime)
        };
        assert!(takes("x-a", "one") && takes("x-a", "two"));
        assert!(!takes("x-a", "one,two") && !takes("x-b", "one"));
    }

    #[test]
    fn a_request_id_draws_the_lot() {
        assert_eq!(leading_bits(b"00000031-0000-4000-8000-000000000000"), Some(49));
        assert_eq!(leading_bits(b"0000000-"), None);
        assert_eq!(leading_bits(b"short"), None);
    }
}
