//! proto3 JSON: a [`Node`] tree to a message, by its descriptor.
//!
//! Unknown fields are refused, also when null. Otherwise null means unset. Where Envoy's reader (protobuf's, with its
//! legacy leniency) takes more than the specification, so does this one, because published configurations rely on it:
//! one value for a repeated field, null items of a repeated field (skipped), booleans and enum numbers in quotes, enum
//! names in any case, durations and wrappers as maps of their fields.
//!
//! Unlike Envoy, which takes the last or first of them, a field or key given twice is refused.

mod any;
mod own_json;
mod scalar;
mod wellknown;

pub use wellknown::MAX_DURATION_SECONDS;

use std::collections::{HashMap, HashSet};

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value as Field};

use crate::error::{ConfigError, Segment};
use crate::tree::{Entry, Node, Value};

/// The message that `node` spells. Errors carry the path from this message; [`Node::locate`] adds the position.
pub(crate) fn message(descriptor: &MessageDescriptor, node: &Node) -> Result<DynamicMessage, ConfigError> {
    match wellknown::message(descriptor, node) {
        Some(message) => message,
        None => match &node.value {
            Value::Map(entries) => fields(descriptor, entries.iter()),
            _ => Err(ConfigError::new(format!("must be a map ({}), not {}", descriptor.full_name(), node.shown()))),
        },
    }
}

/// An ordinary message from its fields.
fn fields<'tree>(
    descriptor: &MessageDescriptor,
    entries: impl Iterator<Item = &'tree Entry>,
) -> Result<DynamicMessage, ConfigError> {
    let mut message = DynamicMessage::new(descriptor.clone());
    let mut given = HashSet::new();
    let mut chosen: HashMap<String, FieldDescriptor> = HashMap::new();
    for entry in entries {
        let named = descriptor.get_field_by_name(&entry.key).or_else(|| descriptor.get_field_by_json_name(&entry.key));
        let Some(field) = named else {
            return Err(ConfigError::unknown_field(&entry.key, descriptor.full_name()).at(entry.at));
        };
        let refuse = |problem: String| Err(ConfigError::new(problem).in_field(field.name()).at(entry.at));
        if !given.insert(field.number()) {
            return refuse("given twice".into());
        }
        if matches!(entry.value.value, Value::Null) && !takes_null(&field) {
            continue;
        }
        if let Some(oneof) = field.containing_oneof()
            && let Some(other) = chosen.insert(oneof.name().to_owned(), field.clone())
        {
            return refuse(format!("excludes {}, which is set too", other.name()));
        }
        let value = value_of(&field, &entry.value).map_err(|error| error.in_field(field.name()))?;
        message.set_field(&field, value);
    }
    Ok(message)
}

/// Whether null is a value of the field instead of its absence.
fn takes_null(field: &FieldDescriptor) -> bool {
    !field.is_list()
        && !field.is_map()
        && match field.kind() {
            Kind::Message(message) => message.full_name() == "google.protobuf.Value",
            Kind::Enum(enumeration) => enumeration.full_name() == "google.protobuf.NullValue",
            _ => false,
        }
}

fn value_of(field: &FieldDescriptor, node: &Node) -> Result<Field, ConfigError> {
    if field.is_map() {
        return map(field, node);
    }
    if !field.is_list() {
        return one(&field.kind(), node);
    }
    let items = match &node.value {
        Value::List(items) => &items[..],
        _ => std::slice::from_ref(node),
    };
    let kind = field.kind();
    let mut list = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let is_absent = matches!(item.value, Value::Null)
            && !matches!(&kind, Kind::Message(message) if message.full_name() == "google.protobuf.Value");
        if !is_absent {
            list.push(one(&kind, item).map_err(|error| error.inside(Segment::Index(index)))?);
        }
    }
    Ok(Field::List(list))
}

fn map(field: &FieldDescriptor, node: &Node) -> Result<Field, ConfigError> {
    let Value::Map(entries) = &node.value else {
        return Err(ConfigError::new(format!("must be a map, not {}", node.shown())));
    };
    let Kind::Message(entry_type) = field.kind() else {
        return Err(ConfigError::new("is a map without an entry type"));
    };
    let (key_kind, value_kind) = (entry_type.map_entry_key_field().kind(), entry_type.map_entry_value_field().kind());
    let mut map = HashMap::with_capacity(entries.len());
    for entry in entries {
        let inside = |error: ConfigError| error.inside(Segment::Key(entry.key.clone())).at(entry.at);
        let key = map_key(&key_kind, &entry.key).map_err(inside)?;
        let value = one(&value_kind, &entry.value).map_err(|error| error.inside(Segment::Key(entry.key.clone())))?;
        if map.insert(key, value).is_some() {
            return Err(inside(ConfigError::new("given twice")));
        }
    }
    Ok(Field::Map(map))
}

fn map_key(kind: &Kind, key: &str) -> Result<MapKey, ConfigError> {
    let wrong = || ConfigError::new(format!("must be a key of type {kind:?}"));
    Ok(match kind {
        Kind::String => MapKey::String(key.to_owned()),
        Kind::Bool => MapKey::Bool(key.parse().map_err(|_| wrong())?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => MapKey::I32(key.parse().map_err(|_| wrong())?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => MapKey::I64(key.parse().map_err(|_| wrong())?),
        Kind::Uint32 | Kind::Fixed32 => MapKey::U32(key.parse().map_err(|_| wrong())?),
        Kind::Uint64 | Kind::Fixed64 => MapKey::U64(key.parse().map_err(|_| wrong())?),
        _ => return Err(wrong()),
    })
}

fn one(kind: &Kind, node: &Node) -> Result<Field, ConfigError> {
    match kind {
        Kind::Message(descriptor) => Ok(Field::Message(message(descriptor, node)?)),
        _ => scalar::value(kind, node),
    }
}
