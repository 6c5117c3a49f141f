//! Metadata and its matchers.

use weir_proto::envoy::{
    config::core::v3 as core,
    r#type::matcher::v3::{self as proto, value_matcher::MatchPattern},
};

use super::{
    context::Context,
    fields::{item, sub},
    matcher,
};
pub(super) use crate::matcher::structs::object;
use crate::{
    config::error::Error,
    matcher::metadata::{Metadata, MetadataMatcher, ValueMatcher},
};

/// Configured metadata. Typed metadata has no reader here.
pub(super) fn metadata(message: Option<&core::Metadata>) -> Option<Metadata> {
    let mut metadata = Metadata::default();
    for (namespace, values) in &message?.filter_metadata {
        metadata.merge(namespace, object(values));
    }
    (!metadata.is_empty()).then_some(metadata)
}

pub(super) fn metadata_matcher(
    cx: &mut Context,
    message: &proto::MetadataMatcher,
    at: &str,
) -> Result<MetadataMatcher, Error> {
    cx.only(message, at, &["filter", "path", "value", "invert"], &[])?;
    use proto::metadata_matcher::path_segment::Segment;
    let mut path = Vec::new();
    for segment in &message.path {
        let Some(Segment::Key(key)) = &segment.segment else { continue };
        path.push(key.as_str().into());
    }
    let value_at = sub(at, "value");
    let value = message.value.as_ref().ok_or_else(|| Error::at(&value_at, "a value matcher is required"))?;
    Ok(MetadataMatcher {
        namespace: message.filter.as_str().into(),
        path,
        value: value_matcher(value, &value_at)?,
        invert: message.invert,
    })
}

fn value_matcher(message: &proto::ValueMatcher, at: &str) -> Result<ValueMatcher, Error> {
    use proto::{double_matcher, list_matcher};
    Ok(match &message.match_pattern {
        Some(MatchPattern::NullMatch(_)) => ValueMatcher::Null,
        Some(MatchPattern::DoubleMatch(number)) => match &number.match_pattern {
            Some(double_matcher::MatchPattern::Exact(number)) => ValueMatcher::Number(*number),
            Some(double_matcher::MatchPattern::Range(range)) => ValueMatcher::Range(range.start, range.end),
            None => return Err(Error::at(sub(at, "double_match"), "expected one of exact, range")),
        },
        Some(MatchPattern::StringMatch(text)) => ValueMatcher::String(matcher::string(text, &sub(at, "string_match"))?),
        Some(MatchPattern::BoolMatch(flag)) => ValueMatcher::Bool(*flag),
        Some(MatchPattern::PresentMatch(flag)) => ValueMatcher::Present(*flag),
        Some(MatchPattern::ListMatch(list)) => {
            let at = sub(&sub(at, "list_match"), "one_of");
            match &list.match_pattern {
                Some(list_matcher::MatchPattern::OneOf(one)) => ValueMatcher::OneOf(Box::new(value_matcher(one, &at)?)),
                None => return Err(Error::at(at, "a value matcher is required")),
            }
        }
        Some(MatchPattern::OrMatch(any)) => {
            let at = sub(at, "or_match");
            let matchers = any.value_matchers.iter().enumerate();
            ValueMatcher::Or(
                matchers
                    .map(|(index, message)| value_matcher(message, &item(&at, "value_matchers", index)))
                    .collect::<Result<_, _>>()?,
            )
        }
        None => return Err(Error::at(at, "a pattern is required")),
    })
}
