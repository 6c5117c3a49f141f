//! Headers to add and to remove.

use http::HeaderValue;
use weir_proto::envoy::config::core::v3 as core;

use super::{
    context::Context,
    fields::{header_name, item, sub},
};
use crate::{
    access_log::format::Format,
    config::{
        error::Error,
        headers::{Addition, Append, HeaderChanges, Mutations, Value},
    },
};

/// The four header fields that routes, virtual hosts, route configurations and weighted clusters have.
pub(super) struct Fields<'a> {
    pub request_add: &'a [core::HeaderValueOption],
    pub request_remove: &'a [String],
    pub response_add: &'a [core::HeaderValueOption],
    pub response_remove: &'a [String],
}

impl Fields<'_> {
    pub const NAMES: [&'static str; 4] = [
        "request_headers_to_add",
        "request_headers_to_remove",
        "response_headers_to_add",
        "response_headers_to_remove",
    ];

    pub fn convert(&self, cx: &mut Context, at: &str) -> Result<HeaderChanges, Error> {
        let [request_add, request_remove, response_add, response_remove] = Self::NAMES;
        Ok(HeaderChanges {
            request: Mutations {
                add: additions(cx, self.request_add, at, request_add)?,
                remove: removals(self.request_remove, at, request_remove)?,
            },
            response: Mutations {
                add: additions(cx, self.response_add, at, response_add)?,
                remove: removals(self.response_remove, at, response_remove)?,
            },
        })
    }
}

fn removals(names: &[String], at: &str, field: &str) -> Result<Vec<http::HeaderName>, Error> {
    names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let at = item(at, field, index);
            if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
                return Err(Error::at(at, ":-prefixed or host headers may not be removed"));
            }
            header_name(name, &at)
        })
        .collect()
}

pub(super) fn additions(
    cx: &mut Context,
    messages: &[core::HeaderValueOption],
    at: &str,
    field: &str,
) -> Result<Vec<Addition>, Error> {
    messages.iter().enumerate().map(|(index, message)| addition(cx, message, &item(at, field, index))).collect()
}

pub(super) fn addition(cx: &mut Context, message: &core::HeaderValueOption, at: &str) -> Result<Addition, Error> {
    use core::header_value_option::HeaderAppendAction;
    cx.only(message, at, &["header", "append", "append_action", "keep_empty_value"], &[])?;
    let header = message.header.as_ref().ok_or_else(|| Error::at(sub(at, "header"), "a header is required"))?;
    let at = sub(at, "header");
    if header.key.starts_with(':') || header.key.eq_ignore_ascii_case("host") {
        return Err(Error::at(sub(&at, "key"), ":-prefixed or host headers may not be modified"));
    }
    #[expect(deprecated, reason = "published configurations use it")]
    let append = match (message.append, message.append_action()) {
        (Some(true), HeaderAppendAction::AppendIfExistsOrAdd) => Append::AppendIfExistsOrAdd,
        (Some(false), HeaderAppendAction::AppendIfExistsOrAdd) => Append::OverwriteIfExistsOrAdd,
        (Some(_), _) => return Err(Error::at(&at, "append and append_action cannot both be set")),
        (None, HeaderAppendAction::AppendIfExistsOrAdd) => Append::AppendIfExistsOrAdd,
        (None, HeaderAppendAction::AddIfAbsent) => Append::AddIfAbsent,
        (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => Append::OverwriteIfExistsOrAdd,
        (None, HeaderAppendAction::OverwriteIfExists) => Append::OverwriteIfExists,
    };
    let value = if header.raw_value.is_empty() {
        let format = Format::text(&with_paths(&header.value))
            .map_err(|error| Error::at(sub(&at, "value"), error.to_string()))?;
        match format.as_literal() {
            Some(text) => Value::Fixed(
                HeaderValue::from_str(text).map_err(|_| Error::at(sub(&at, "value"), "not a header value"))?,
            ),
            None => Value::Format(format),
        }
    } else {
        Value::Fixed(
            HeaderValue::from_bytes(&header.raw_value)
                .map_err(|_| Error::at(sub(&at, "raw_value"), "not a header value"))?,
        )
    };
    Ok(Addition {
        name: header_name(&header.key, &sub(&at, "key"))?,
        value,
        append,
        keep_empty: message.keep_empty_value,
    })
}

/// A format whose metadata may be named as it once was in headers, by a list, as all formats name it now:
/// `%UPSTREAM_METADATA(["namespace", "key"])%` is `%UPSTREAM_METADATA(namespace:key)%`.
fn with_paths(text: &str) -> String {
    const OPENING: &str = "_METADATA(";
    let mut parts = text.split(OPENING);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let old = ["%UPSTREAM", "%DYNAMIC"].iter().any(|whose| out.ends_with(whose));
        let list = part.split_once(")%").filter(|_| old).and_then(|(list, rest)| {
            let path: Vec<String> = serde_json::from_str(list).ok()?;
            Some((path, rest))
        });
        out.push_str(OPENING);
        match list {
            Some((path, rest)) => out.extend([path.join(":").as_str(), ")%", rest]),
            None => out.push_str(part),
        }
    }
    out
}

/// The header changes of a message that has all four fields.
macro_rules! header_fields {
    ($message:expr) => {
        $crate::config::convert::headers::Fields {
            request_add: &$message.request_headers_to_add,
            request_remove: &$message.request_headers_to_remove,
            response_add: &$message.response_headers_to_add,
            response_remove: &$message.response_headers_to_remove,
        }
    };
}
pub(super) use header_fields;

/// These fields and those of header changes.
pub(super) fn with_headers(fields: &[&'static str]) -> Vec<&'static str> {
    fields.iter().copied().chain(Fields::NAMES).collect()
}

#[cfg(test)]
mod tests {
    use super::with_paths;

    #[test]
    fn lists_become_paths() {
        for (old, new) in [
            (r#"a %UPSTREAM_METADATA( ["ns", "a", "b"] )% b"#, "a %UPSTREAM_METADATA(ns:a:b)% b"),
            (
                r#"%DYNAMIC_METADATA(["ns"])%%UPSTREAM_METADATA(["n","k"])%"#,
                "%DYNAMIC_METADATA(ns)%%UPSTREAM_METADATA(n:k)%",
            ),
            (r#"%CLUSTER_METADATA(["n","k"])%"#, r#"%CLUSTER_METADATA(["n","k"])%"#),
            (r#"%UPSTREAM_METADATA(["n",5])%"#, r#"%UPSTREAM_METADATA(["n",5])%"#),
            ("%UPSTREAM_METADATA(n:k)%", "%UPSTREAM_METADATA(n:k)%"),
        ] {
            assert_eq!(with_paths(old), new);
        }
    }
}
