//! `COALESCE({"operators": [...]})`: the first of several operators that has a value.

use serde_json::Value;

use super::{error::FormatError, field::Limited};

/// Parses one operator: its command, its parameter, and the length that it is cut to.
pub(super) type Make = fn(&str, &str, Option<usize>) -> Result<Limited, FormatError>;

/// The operators of a configuration in JSON: names, or objects with `command`, `param`, `max_length`.
pub(super) fn operators(json: &str, make: Make) -> Result<Vec<Limited>, String> {
    let configuration: Value =
        serde_json::from_str(json).map_err(|error| format!("COALESCE: failed to parse JSON configuration: {error}"))?;
    let Some(operators) = configuration.get("operators") else {
        return Err("COALESCE: JSON configuration must contain 'operators' array".into());
    };
    let operators = operators.as_array().ok_or("COALESCE: 'operators' must be an array")?;
    if operators.is_empty() {
        return Err("COALESCE: 'operators' array must not be empty".into());
    }
    let failed = |index, message: String| format!("COALESCE: failed to parse operator at index {index}: {message}");
    operators.iter().enumerate().map(|(index, entry)| operator(entry, make).map_err(|why| failed(index, why))).collect()
}

fn operator(entry: &Value, make: Make) -> Result<Limited, String> {
    if let Some(command) = entry.as_str() {
        return named(command, "", None, make);
    }
    let Some(entry) = entry.as_object() else {
        let expected = "either a string (command name) or an object with 'command' field";
        return Err(format!("operator entry must be {expected}"));
    };
    let command = entry.get("command").and_then(Value::as_str).ok_or("operator object must have 'command' field")?;
    let parameter = match entry.get("param") {
        None => "",
        Some(parameter) => parameter.as_str().ok_or("'param' field must be a string")?,
    };
    let limit = match entry.get("max_length") {
        None => None,
        Some(limit) => {
            let limit = limit.as_i64().ok_or("'max_length' field must be an integer")?;
            let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0);
            Some(limit.ok_or("'max_length' must be a positive integer")?)
        }
    };
    named(command, parameter, limit, make)
}

fn named(command: &str, parameter: &str, limit: Option<usize>, make: Make) -> Result<Limited, String> {
    // One within another has no use; it would only let a configuration nest without end.
    if command == "COALESCE" {
        return Err("COALESCE within COALESCE is not supported".into());
    }
    make(command, parameter, limit).map_err(|error| match error {
        FormatError::Unknown(command) => format!("unknown command: '{command}'"),
        other => other.to_string(),
    })
}
