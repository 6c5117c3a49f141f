//! Changing headers, trailers and query parameters.

use weir_proto::envoy::{
    config::{
        common::mutation_rules::v3::{self as rules, header_mutation::Action},
        core::v3 as core,
    },
    extensions::filters::http::header_mutation::v3 as proto,
};

use crate::{
    access_log::format::Format,
    config::{
        convert::{
            context::Context,
            fields::{header_name, item, sub},
            headers, matcher,
        },
        error::Error,
        filter::header_mutation::{HeaderMutation, Mutation, QueryMutation},
        headers::Append,
    },
};

pub(super) fn mutations(
    cx: &mut Context,
    message: Option<&proto::Mutations>,
    at: &str,
) -> Result<HeaderMutation, Error> {
    let Some(message) = message else { return Ok(HeaderMutation::default()) };
    let supported = [
        "request_mutations",
        "query_parameter_mutations",
        "response_mutations",
        "response_trailers_mutations",
        "request_trailers_mutations",
    ];
    cx.only(message, at, &supported, &[])?;
    let mut list = |messages: &[rules::HeaderMutation], field: &str| list(cx, messages, &sub(at, field));
    Ok(HeaderMutation {
        request: list(&message.request_mutations, "request_mutations")?,
        response: list(&message.response_mutations, "response_mutations")?,
        request_trailers: list(&message.request_trailers_mutations, "request_trailers_mutations")?,
        response_trailers: list(&message.response_trailers_mutations, "response_trailers_mutations")?,
        query: {
            let messages = message.query_parameter_mutations.iter().enumerate();
            messages
                .map(|(index, message)| query(message, &item(at, "query_parameter_mutations", index)))
                .collect::<Result<_, _>>()?
        },
        most_specific_wins: false,
    })
}

/// Changes of headers, in order; `at` is their list.
pub(in crate::config::convert) fn list(
    cx: &mut Context,
    messages: &[rules::HeaderMutation],
    at: &str,
) -> Result<Vec<Mutation>, Error> {
    let messages = messages.iter().enumerate();
    messages.map(|(index, message)| mutation(cx, message, &format!("{at}[{index}]"))).collect()
}

fn mutation(cx: &mut Context, message: &rules::HeaderMutation, at: &str) -> Result<Mutation, Error> {
    Ok(match &message.action {
        Some(Action::Remove(name)) => Mutation::Remove(header_name(name, &sub(at, "remove"))?),
        Some(Action::Append(addition)) => {
            Mutation::Append(Box::new(headers::addition(cx, addition, &sub(at, "append"))?))
        }
        Some(Action::RemoveOnMatch(on_match)) => {
            let at = sub(&sub(at, "remove_on_match"), "key_matcher");
            let matcher = on_match.key_matcher.as_ref().ok_or_else(|| Error::at(&at, "a matcher is required"))?;
            Mutation::RemoveMatching(matcher::string(matcher, &at)?)
        }
        None => return Err(Error::at(at, "expected one of remove, append, remove_on_match")),
    })
}

#[expect(deprecated, reason = "configurations of both forms exist")]
fn query(message: &core::KeyValueMutation, at: &str) -> Result<QueryMutation, Error> {
    use core::key_value_append::KeyValueAppendAction as Action;
    if !message.remove.is_empty() {
        return Ok(QueryMutation::Remove(message.remove.as_str().into()));
    }
    let append = message.append.as_ref().ok_or_else(|| Error::at(at, "expected one of append, remove"))?;
    let action = match append.action() {
        Action::AppendIfExistsOrAdd => Append::AppendIfExistsOrAdd,
        Action::AddIfAbsent => Append::AddIfAbsent,
        Action::OverwriteIfExistsOrAdd => Append::OverwriteIfExistsOrAdd,
        Action::OverwriteIfExists => Append::OverwriteIfExists,
    };
    let at = sub(at, "append");
    let entry = append.entry.as_ref();
    let (key, value) = match (&append.record, entry) {
        (Some(record), _) => {
            let value = match record.value.as_ref().and_then(|value| value.kind.as_ref()) {
                Some(prost_types::value::Kind::StringValue(text)) => text.clone(),
                _ => return Err(Error::at(sub(&at, "record.value"), "expected a string")),
            };
            (record.key.clone(), value)
        }
        (None, Some(entry)) => (entry.key.clone(), String::from_utf8_lossy(&entry.value).into_owned()),
        (None, None) => return Err(Error::at(sub(&at, "record"), "a key and a value are required")),
    };
    let value = Format::text(&value).map_err(|error| Error::at(&at, error.to_string()))?;
    Ok(QueryMutation::Append(key.into(), Box::new(value), action))
}
