//! JSON values as YAML, in block style: what is not plain beyond doubt is quoted as in JSON, which YAML takes.

use serde_json::Value;

/// A value as YAML, with the end of its last line.
pub fn text(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Array(items) if !items.is_empty() => list(items, 0, &mut text),
        Value::Object(fields) if !fields.is_empty() => map(fields, 0, &mut text),
        scalar => {
            text.push_str(&flow(scalar));
            text.push('\n');
        }
    }
    text
}

fn list(items: &[Value], depth: usize, text: &mut String) {
    for item in items {
        text.push_str(&"  ".repeat(depth));
        text.push_str("- ");
        match item {
            Value::Object(fields) if !fields.is_empty() => {
                // Its first field stands behind the dash.
                let mut below = String::new();
                map(fields, depth + 1, &mut below);
                text.push_str(below.trim_start());
            }
            Value::Array(items) if !items.is_empty() => {
                let mut below = String::new();
                list(items, depth + 1, &mut below);
                text.push_str(below.trim_start());
            }
            scalar => {
                text.push_str(&flow(scalar));
                text.push('\n');
            }
        }
    }
}

fn map(fields: &serde_json::Map<String, Value>, depth: usize, text: &mut String) {
    for (name, value) in fields {
        text.push_str(&"  ".repeat(depth));
        text.push_str(&flow(&name.as_str().into()));
        text.push(':');
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                text.push('\n');
                map(fields, depth + 1, text);
            }
            Value::Array(items) if !items.is_empty() => {
                text.push('\n');
                list(items, depth, text);
            }
            scalar => {
                text.push(' ');
                text.push_str(&flow(scalar));
                text.push('\n');
            }
        }
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        value => value.to_string(),
    }
}

/// Begins with a letter and has nothing that YAML could take for something else.
fn is_plain(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(plain)
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_written_in_blocks() {
        let value = json!([{ "@type": "a.b/c", "name": "x", "list": [1, [true, "no"], { "deep": { "a": "b c" } }], "none": {} }, "y", []]);
        let expected = "- \"@type\": a.b/c\n  name: x\n  list:\n  - 1\n  - - true\n    - \"no\"\n  - deep:\n      a: \"b c\"\n  none: {}\n- \"y\"\n- []\n";
        let sorted = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
        // The order of fields is serde_json's.
        assert_eq!(sorted(&text(&value)).len(), sorted(expected).len());
        let again: Value = serde_json::from_value(json!(text(&json!({ "a": [{ "b": "1" }] })))).unwrap();
        assert_eq!(again, "a:\n- b: \"1\"\n");
        assert_eq!(text(&json!("x")), "x\n");
    }
}
