//! Messages of `google.protobuf` that JSON spells in their own way.

use std::collections::BTreeMap;

use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use prost_types::value::Kind as Dynamic;
use prost_types::{Duration, FieldMask, ListValue, Struct, Timestamp};

use super::own_json::wrapped;
use super::{any, fields, scalar};
use crate::error::{ConfigError, Segment};
use crate::tree::{Node, Value};

/// About 10,000 years, the range of `google.protobuf.Duration`.
pub const MAX_DURATION_SECONDS: i64 = 315_576_000_000;
const NANOS_DIGITS: usize = 9;

/// The message, if it is one of these and spelled in its own way; None where the ordinary spelling applies.
pub(super) fn message(descriptor: &MessageDescriptor, node: &Node) -> Option<Result<DynamicMessage, ConfigError>> {
    if descriptor.package_name() != "google.protobuf" {
        return None;
    }
    let name = descriptor.full_name();
    let by_fields = || match &node.value {
        Value::Map(entries) => Some(fields(descriptor, entries.iter())),
        _ => None,
    };
    if wrapped(descriptor) {
        return by_fields().or_else(|| Some(wrapper(descriptor, node)));
    }
    match name {
        "google.protobuf.Any" => Some(any::any(descriptor, node)),
        "google.protobuf.Duration" => {
            by_fields().or_else(|| Some(duration(node).and_then(|value| typed(descriptor, &value))))
        }
        "google.protobuf.Timestamp" => {
            by_fields().or_else(|| Some(timestamp(node).and_then(|value| typed(descriptor, &value))))
        }
        "google.protobuf.FieldMask" => {
            by_fields().or_else(|| Some(field_mask(node).and_then(|value| typed(descriptor, &value))))
        }
        "google.protobuf.Struct" => Some(structure(node).and_then(|value| typed(descriptor, &value))),
        "google.protobuf.ListValue" => Some(list(node).and_then(|value| typed(descriptor, &value))),
        "google.protobuf.Value" => Some(dynamic(node).and_then(|value| typed(descriptor, &value))),
        _ => None,
    }
}

fn typed<T: Message>(descriptor: &MessageDescriptor, value: &T) -> Result<DynamicMessage, ConfigError> {
    // Only protobuf's limit on nesting can fail here.
    DynamicMessage::decode(descriptor.clone(), &value.encode_to_vec()[..])
        .map_err(|_| ConfigError::new("nested too deeply"))
}

fn wrapper(descriptor: &MessageDescriptor, node: &Node) -> Result<DynamicMessage, ConfigError> {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        message.set_field(&field, scalar::value(&field.kind(), node)?);
    }
    Ok(message)
}

fn duration(node: &Node) -> Result<Duration, ConfigError> {
    let wrong = || ConfigError::new(format!("must be a duration in seconds such as \"0.25s\", not {}", node.shown()));
    let Value::String(text) = &node.value else { return Err(wrong()) };
    let seconds = text.strip_suffix('s').ok_or_else(wrong)?;
    let (sign, seconds) = match seconds.strip_prefix('-') {
        Some(seconds) => (-1, seconds),
        None => (1, seconds),
    };
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > NANOS_DIGITS {
        return Err(wrong());
    }
    let whole: i64 = whole.parse().map_err(|_| wrong())?;
    let nanos: i32 = format!("{fraction:0<NANOS_DIGITS$}").parse().map_err(|_| wrong())?;
    if whole > MAX_DURATION_SECONDS {
        return Err(ConfigError::new(format!("must be at most {MAX_DURATION_SECONDS}s, not {}", node.shown())));
    }
    Ok(Duration { seconds: sign * whole, nanos: sign as i32 * nanos })
}

fn timestamp(node: &Node) -> Result<Timestamp, ConfigError> {
    let wrong = || ConfigError::new(format!("must be a time such as \"2006-01-02T15:04:05Z\", not {}", node.shown()));
    let Value::String(text) = &node.value else { return Err(wrong()) };
    text.parse().map_err(|_| wrong())
}

fn field_mask(node: &Node) -> Result<FieldMask, ConfigError> {
    let text = scalar::string(node)?;
    let snake_case = |path: &str| {
        path.chars().fold(String::new(), |mut snake, letter| {
            if letter.is_ascii_uppercase() {
                snake.push('_');
            }
            snake.push(letter.to_ascii_lowercase());
            snake
        })
    };
    Ok(FieldMask { paths: text.split(',').filter(|path| !path.is_empty()).map(snake_case).collect() })
}

fn structure(node: &Node) -> Result<Struct, ConfigError> {
    let Value::Map(entries) = &node.value else {
        return Err(ConfigError::new(format!("must be a map, not {}", node.shown())));
    };
    let mut fields = BTreeMap::new();
    for entry in entries {
        let inside = |error: ConfigError| error.inside(Segment::Key(entry.key.clone()));
        if fields.insert(entry.key.clone(), dynamic(&entry.value).map_err(inside)?).is_some() {
            return Err(inside(ConfigError::new("given twice").at(entry.at)));
        }
    }
    Ok(Struct { fields })
}

fn list(node: &Node) -> Result<ListValue, ConfigError> {
    let Value::List(items) = &node.value else {
        return Err(ConfigError::new(format!("must be a list, not {}", node.shown())));
    };
    let item = |(index, item): (usize, &Node)| dynamic(item).map_err(|error| error.inside(Segment::Index(index)));
    Ok(ListValue { values: items.iter().enumerate().map(item).collect::<Result<_, _>>()? })
}

fn dynamic(node: &Node) -> Result<prost_types::Value, ConfigError> {
    let kind = match &node.value {
        Value::Null => Dynamic::NullValue(0),
        Value::Bool(value) => Dynamic::BoolValue(*value),
        Value::Number(text) => Dynamic::NumberValue(
            text.parse().map_err(|_| ConfigError::new(format!("must be a number, not {}", node.shown())))?,
        ),
        Value::String(text) => Dynamic::StringValue(text.clone()),
        Value::List(_) => Dynamic::ListValue(list(node)?),
        Value::Map(_) => Dynamic::StructValue(structure(node)?),
    };
    Ok(prost_types::Value { kind: Some(kind) })
}
