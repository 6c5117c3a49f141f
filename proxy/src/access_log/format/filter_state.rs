//! Objects of filter state in formats.

use std::io::Write;

use super::quote::quote;
use crate::{access_log::entry::Entry, filter_state::Value};

fn find<'a>(entry: &'a Entry, key: &str) -> Option<&'a Value> {
    entry.filter_state.as_ref()?.get(key)
}

/// Appends an object as text; false if it is not there.
pub(super) fn write_plain(out: &mut Vec<u8>, entry: &Entry, key: &str) -> bool {
    // A vector takes all that is written.
    find(entry, key).is_some_and(|value| write!(out, "{value}").is_ok())
}

/// Names of the fields of `envoy.extensions.filters.http.grpc_stats.v3.FilterObject`: the request's and the response's
/// messages.
type Names = [&'static str; 2];

const IN_JSON: Names = ["requestMessageCount", "responseMessageCount"];
/// As Envoy calls them where the message is a value among others.
const AS_VALUE: Names = ["request_message_count", "response_message_count"];

/// Numbers of 64 bits are texts, and those of 0 left out.
fn write_messages(out: &mut Vec<u8>, names: Names, (requests, responses): (u64, u64)) {
    out.push(b'{');
    for (name, count) in names.into_iter().zip([requests, responses]) {
        if count > 0 {
            let comma = if out.ends_with(b"{") { "" } else { "," };
            // A vector takes all that is written.
            let _ = write!(out, r#"{comma}"{name}":"{count}""#);
        }
    }
    out.push(b'}');
}

/// Appends an object as what it is, in JSON; false if it is not there, or is nothing that JSON knows.
pub(super) fn write_typed(out: &mut Vec<u8>, entry: &Entry, key: &str) -> bool {
    write(out, entry, key, IN_JSON)
}

/// The same as a value of a JSON log.
pub(super) fn write_json(out: &mut Vec<u8>, entry: &Entry, key: &str) -> bool {
    write(out, entry, key, AS_VALUE)
}

fn write(out: &mut Vec<u8>, entry: &Entry, key: &str, names: Names) -> bool {
    let start = out.len();
    match find(entry, key) {
        Some(Value::Text(text) | Value::Keyed(text)) => out.extend_from_slice(text.as_bytes()),
        Some(Value::Messages(counts)) => {
            write_messages(out, names, counts.now());
            return true;
        }
        // A vector takes all that is written.
        Some(Value::Number(number)) => return write!(out, "{number}").is_ok(),
        Some(Value::Address(_)) | None => return false,
    }
    quote(out, start);
    true
}
