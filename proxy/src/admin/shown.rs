//! Messages as JSON, as dumps show them: with the field names of the `.proto` files, their secrets redacted.

use std::time::SystemTime;

use jiff::Timestamp;
use prost::{Message, Name};
use serde_json::{Map, Value};

/// What stands for a secret.
const REDACTED: &str = "[redacted]";
/// The same where bytes are shown, as base64.
const REDACTED_BYTES: &str = "W3JlZGFjdGVkXQ==";
/// Fields that hold secrets, whatever is in them.
const SENSITIVE: [&str; 4] = ["private_key", "password", "session_ticket_keys", "generic_secret"];

/// As RFC 3339 with milliseconds.
pub(super) fn time(at: SystemTime) -> String {
    let time = Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// A message as JSON, its secrets redacted.
pub(super) fn shown<M: Message + Name>(message: &M) -> Value {
    let mut value = weir_proto::to_json(message).unwrap_or_else(|error| error.to_string().into());
    redact(&mut value, false);
    value
}

/// A message inside an `Any`.
pub(super) fn any<M: Message + Name>(message: &M) -> Value {
    let mut all = Map::new();
    all.insert("@type".into(), format!("type.googleapis.com/{}", M::full_name()).into());
    if let Value::Object(fields) = shown(message) {
        all.extend(fields);
    }
    all.into()
}

fn redact(value: &mut Value, secret: bool) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut().filter(|(name, _)| *name != "@type") {
                if secret && name == "inline_bytes" {
                    *field = REDACTED_BYTES.into();
                    continue;
                }
                redact(field, secret || SENSITIVE.contains(&&**name));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, secret)),
        Value::String(text) if secret => *text = REDACTED.to_owned(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_redacted_wherever_they_are() {
        let mut value = json!({"tls_certificates": [{
            "certificate_chain": {"inline_string": "public"},
            "private_key": {"inline_string": "secret"},
            "password": {"inline_bytes": "c2VjcmV0"},
        }], "private_key": {"filename": "/key"}});
        redact(&mut value, false);
        let text = value.to_string();
        assert!(
            text.contains("public") && !text.contains("secret") && !text.contains("c2VjcmV0") && !text.contains("/key"),
            "{text}"
        );
        assert_eq!(value["tls_certificates"][0]["password"]["inline_bytes"], REDACTED_BYTES);
    }
}
