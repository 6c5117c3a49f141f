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

/// Appends an object as what it is, in JSON; false if it is not there, or is nothing that JSON knows.
pub(super) fn write_typed(out: &mut Vec<u8>, entry: &Entry, key: &str) -> bool {
    let start = out.len();
    match find(entry, key) {
        Some(Value::Text(text) | Value::Keyed(text)) => out.extend_from_slice(text.as_bytes()),
        Some(Value::Address(_)) | None => return false,
    }
    quote(out, start);
    true
}
