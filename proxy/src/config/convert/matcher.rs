//! Matchers of strings, headers and query parameters.

use weir_proto::envoy::{
    config::{core::v3 as core, route::v3 as route},
    r#type::{
        matcher::v3 as matcher,
        v3::{FractionalPercent, fractional_percent::DenominatorType},
    },
};

use super::{
    context::Context,
    fields::{header_name, item, sub},
};
use crate::{
    config::error::Error,
    matcher::{
        HeaderMatcher, HeaderPattern, MatchedHeader, QueryMatcher, Regex, RegexRewrite, StringMatcher, StringPattern,
        Substitution,
        fraction::{Fraction, RuntimeFraction},
    },
};

pub(super) fn regex(message: &matcher::RegexMatcher, at: &str) -> Result<Regex, Error> {
    Regex::new(&message.regex).map_err(|error| bad_regex(at, &message.regex, &error))
}

fn bad_regex(at: &str, pattern: &str, error: &str) -> Error {
    Error::at(sub(at, "regex"), format!("bad regular expression \"{pattern}\": {error}"))
}

pub(super) fn rewrite(message: &matcher::RegexMatchAndSubstitute, at: &str) -> Result<RegexRewrite, Error> {
    let pattern_at = sub(at, "pattern");
    let pattern = message.pattern.as_ref().ok_or_else(|| Error::at(&pattern_at, "a pattern is required"))?;
    let regex = Regex::search(&pattern.regex).map_err(|error| bad_regex(&pattern_at, &pattern.regex, &error))?;
    let substitution = Substitution::parse(&message.substitution, regex.groups())
        .map_err(|error| Error::at(sub(at, "substitution"), error))?;
    Ok(RegexRewrite { pattern: regex, substitution })
}

pub(super) fn string(message: &matcher::StringMatcher, at: &str) -> Result<StringMatcher, Error> {
    use matcher::string_matcher::MatchPattern;
    let literal = |text: &str| {
        if message.ignore_case { text.to_ascii_lowercase().into_bytes() } else { text.as_bytes().to_vec() }
            .into_boxed_slice()
    };
    let pattern = match &message.match_pattern {
        Some(MatchPattern::Exact(text)) => StringPattern::Exact(literal(text)),
        Some(MatchPattern::Prefix(text)) => StringPattern::Prefix(literal(text)),
        Some(MatchPattern::Suffix(text)) => StringPattern::Suffix(literal(text)),
        Some(MatchPattern::Contains(text)) => StringPattern::Contains(literal(text)),
        Some(MatchPattern::SafeRegex(_)) if message.ignore_case => {
            return Err(Error::at(sub(at, "ignore_case"), "ignore_case has no effect for safe_regex."));
        }
        Some(MatchPattern::SafeRegex(message)) => StringPattern::Regex(regex(message, &sub(at, "safe_regex"))?),
        Some(MatchPattern::Custom(_)) => return Err(Error::at(sub(at, "custom"), "not supported yet")),
        None => return Err(Error::at(at, "a pattern is required")),
    };
    Ok(StringMatcher { pattern, ignore_case: message.ignore_case })
}

pub(super) fn headers(
    cx: &mut Context,
    messages: &[route::HeaderMatcher],
    at: &str,
    field: &str,
) -> Result<Vec<HeaderMatcher>, Error> {
    messages.iter().enumerate().map(|(index, message)| header(cx, message, &item(at, field, index))).collect()
}

/// A header or pseudo-header by its name.
pub(super) fn matched_header(name: &str, at: &str) -> Result<MatchedHeader, Error> {
    Ok(match name.to_ascii_lowercase().as_str() {
        ":method" => MatchedHeader::Method,
        ":path" => MatchedHeader::Path,
        ":authority" | "host" => MatchedHeader::Authority,
        ":scheme" => MatchedHeader::Scheme,
        ":status" => MatchedHeader::Status,
        name => MatchedHeader::Plain(header_name(name, at)?),
    })
}

pub(super) fn header(cx: &mut Context, message: &route::HeaderMatcher, at: &str) -> Result<HeaderMatcher, Error> {
    use route::header_matcher::HeaderMatchSpecifier as Specifier;
    cx.only(
        message,
        at,
        &[
            "name",
            "invert_match",
            "treat_missing_header_as_empty",
            "exact_match",
            "safe_regex_match",
            "range_match",
            "present_match",
            "prefix_match",
            "suffix_match",
            "contains_match",
            "string_match",
        ],
        &[],
    )?;
    let name = matched_header(&message.name, &sub(at, "name"))?;
    let plain = |pattern| HeaderPattern::String(StringMatcher { pattern, ignore_case: false });
    let bytes = |text: &str| text.as_bytes().to_vec().into_boxed_slice();
    #[expect(deprecated, reason = "published configurations use them")]
    let value = match &message.header_match_specifier {
        None => HeaderPattern::Present(true),
        Some(Specifier::PresentMatch(present)) => HeaderPattern::Present(*present),
        Some(Specifier::RangeMatch(range)) => HeaderPattern::Range(range.start, range.end),
        Some(Specifier::StringMatch(message)) => HeaderPattern::String(string(message, &sub(at, "string_match"))?),
        Some(Specifier::ExactMatch(text)) => plain(StringPattern::Exact(bytes(text))),
        Some(Specifier::PrefixMatch(text)) => plain(StringPattern::Prefix(bytes(text))),
        Some(Specifier::SuffixMatch(text)) => plain(StringPattern::Suffix(bytes(text))),
        Some(Specifier::ContainsMatch(text)) => plain(StringPattern::Contains(bytes(text))),
        Some(Specifier::SafeRegexMatch(message)) => {
            plain(StringPattern::Regex(regex(message, &sub(at, "safe_regex_match"))?))
        }
    };
    Ok(HeaderMatcher {
        name,
        value,
        invert: message.invert_match,
        missing_is_empty: message.treat_missing_header_as_empty,
    })
}

/// A share of the requests that the runtime may change.
pub(super) fn runtime_fraction(message: Option<&core::RuntimeFractionalPercent>) -> Option<RuntimeFraction> {
    message.map(|message| RuntimeFraction {
        default: message.default_value.as_ref().map_or(Fraction::NEVER, fraction),
        key: message.runtime_key.as_str().into(),
    })
}

/// A share.
pub(super) fn fraction(message: &FractionalPercent) -> Fraction {
    let denominator = match message.denominator() {
        DenominatorType::Hundred => 100,
        DenominatorType::TenThousand => 10_000,
        DenominatorType::Million => 1_000_000,
    };
    Fraction { numerator: message.numerator, denominator }
}

pub(super) fn queries(messages: &[route::QueryParameterMatcher], at: &str) -> Result<Vec<QueryMatcher>, Error> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
    messages
        .iter()
        .enumerate()
        .map(|(index, message)| {
            let at = item(at, "query_parameters", index);
            let (value, present) = match &message.query_parameter_match_specifier {
                None => (None, true),
                Some(Specifier::PresentMatch(present)) => (None, *present),
                Some(Specifier::StringMatch(message)) => (Some(string(message, &sub(&at, "string_match"))?), true),
            };
            Ok(QueryMatcher { name: message.name.as_str().into(), value, present })
        })
        .collect()
}
