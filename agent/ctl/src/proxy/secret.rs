//! Secrets: what a certificate is, and how long it is valid.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

use super::{Filter, certificate::Certificate, is, items, lines, text};
use crate::{show::rows::Rows, table::Table, time::Time};

/// Which list of the dump an entry is of, and what that says of it.
const LISTS: [(&str, &str); 3] =
    [("dynamic_active_secrets", "ACTIVE"), ("static_secrets", "ACTIVE"), ("dynamic_warming_secrets", "WARMING")];

/// Entries of the dump, each with its `state`.
pub(super) fn resources(dump: &Value, filter: &Filter) -> Vec<Value> {
    let of = |(list, state): (&'static str, &str)| {
        let state = state.to_owned();
        let entries: Vec<Value> = items(dump, "Secrets", &[list]).cloned().collect();
        entries.into_iter().map(move |mut entry| {
            entry["state"] = state.clone().into();
            entry
        })
    };
    LISTS.into_iter().flat_map(of).filter(|entry| is(filter.name.as_ref(), text(&entry["name"]))).collect()
}

pub(super) fn table(rows: &Rows<Value>) -> Table {
    let header = ["RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"];
    let now = Time::now();
    lines(rows, header, |entry| {
        let secret = &entry["secret"];
        let (kind, source) = if secret["tls_certificate"].is_object() {
            ("Cert Chain", &secret["tls_certificate"]["certificate_chain"])
        } else if secret["validation_context"].is_object() {
            ("CA", &secret["validation_context"]["trusted_ca"])
        } else if secret["session_ticket_keys"].is_object() {
            ("Ticket Keys", &Value::Null)
        } else {
            ("", &Value::Null)
        };
        let certificate = pem(source).and_then(|pem| Certificate::first(&pem));
        let valid = certificate.as_ref().is_some_and(|certificate| certificate.is_valid(now));
        let certificate = certificate.unwrap_or_default();
        vec![[
            text(&entry["name"]).to_owned(),
            kind.to_owned(),
            text(&entry["state"]).to_owned(),
            valid.to_string(),
            certificate.serial,
            certificate.not_after,
            certificate.not_before,
        ]]
    })
}

/// The text of a data source.
fn pem(source: &Value) -> Option<String> {
    if let Some(text) = source["inline_string"].as_str() {
        return Some(text.to_owned());
    }
    String::from_utf8(BASE64_STANDARD.decode(source["inline_bytes"].as_str()?).ok()?).ok()
}
