//! `google.protobuf.Any`: a map with `@type` that otherwise has the fields of that type.

use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value as Field};

use super::{fields, own_json, scalar};
use crate::error::ConfigError;
use crate::tree::{Node, Value};

const TYPE: &str = "@type";

/// Numbers of the fields of `google.protobuf.Any`.
const TYPE_URL: u32 = 1;
const VALUE: u32 = 2;

pub(super) fn any(descriptor: &MessageDescriptor, node: &Node) -> Result<DynamicMessage, ConfigError> {
    let Value::Map(entries) = &node.value else {
        return Err(ConfigError::new(format!("must be a map with {TYPE:?}, not {}", node.shown())));
    };
    let mut any = DynamicMessage::new(descriptor.clone());
    if entries.is_empty() {
        return Ok(any);
    }
    let mut types = entries.iter().filter(|entry| entry.key == TYPE);
    let Some(type_entry) = types.next() else { return Err(ConfigError::new(format!("must have {TYPE:?}"))) };
    let in_type = |error: ConfigError| error.in_field(TYPE);
    if let Some(second) = types.next() {
        return Err(in_type(ConfigError::new("given twice").at(second.at)));
    }
    let type_url = scalar::string(&type_entry.value).map_err(in_type)?;
    let name = match type_url.rsplit_once('/') {
        Some((host, name)) if !host.is_empty() => name,
        _ => {
            let problem = format!("must look like \"type.googleapis.com/...\", not {type_url:?}");
            return Err(in_type(ConfigError::new(problem)));
        }
    };
    let Some(inner) = descriptor.parent_pool().get_message_by_name(name) else {
        return Err(in_type(ConfigError::new(format!("unknown type {name}"))));
    };
    let mut others = entries.iter().filter(|entry| entry.key != TYPE);
    let message = if own_json::has_own_json(&inner) {
        match (others.next(), others.next()) {
            (Some(value), None) if value.key == "value" => {
                super::message(&inner, &value.value).map_err(|error| error.in_field("value"))?
            }
            (None, _) => DynamicMessage::new(inner),
            _ => return Err(ConfigError::new(format!("must have \"value\" and nothing else, for {name}"))),
        }
    } else {
        fields(&inner, others)?
    };
    any.set_field_by_number(TYPE_URL, Field::String(type_url.to_owned()));
    any.set_field_by_number(VALUE, Field::Bytes(message.encode_to_vec().into()));
    Ok(any)
}
