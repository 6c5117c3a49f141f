//! Between texts, `Any` and Rust types.

use std::collections::BTreeSet;

use prost::encoding::{DecodeContext, decode_key, skip_field};
use prost::{DecodeError, Message, Name};
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use prost_types::Any;

use crate::descriptors::{self, Unpacked};
use crate::error::ConfigError;
use crate::tree::{Node, Value};
use crate::{json, nesting, read, validate::UnknownFields, yaml};

/// The message that a YAML text spells, validated.
///
/// # Errors
/// What is wrong first, with its field and position: in the order YAML, fields and types, validation rules.
pub fn from_yaml<T: Message + Name + Default>(text: &str) -> Result<T, ConfigError> {
    from_tree(&yaml::parse(text)?)
}

/// The same without the validation rules, which [`validate`] checks apart.
///
/// # Errors
/// What is wrong first, with its field and position: in the order YAML, fields and types.
pub fn from_yaml_unvalidated<T: Message + Name + Default>(text: &str) -> Result<T, ConfigError> {
    typed(&read_as::<T>(&descriptors::unpacked(), &yaml::parse(text)?)?)
}

/// The same without fields that are not known here, as those of a later version: these are told apart.
///
/// # Errors
/// What else is wrong.
pub fn from_yaml_known<T: Message + Name + Default>(text: &str) -> Result<(T, Vec<ConfigError>), ConfigError> {
    let descriptors = descriptors::unpacked();
    let mut tree = yaml::parse(text)?;
    let mut unknown = Vec::new();
    loop {
        match read_as::<T>(&descriptors, &tree) {
            Ok(message) => return Ok((typed(&message)?, unknown)),
            Err(error) => {
                let at = error.position().filter(|_| error.is_unknown_field());
                if !at.is_some_and(|at| tree.remove(at)) {
                    return Err(error);
                }
                unknown.push(error);
            }
        }
    }
}

fn typed<T: Message + Name + Default>(message: &DynamicMessage) -> Result<T, ConfigError> {
    // Only protobuf's limit on nesting is left to fail.
    message.transcode_to().map_err(|_| ConfigError::new("nested too deeply"))
}

/// The same from JSON.
///
/// # Errors
/// As [`from_yaml`].
pub fn from_json<T: Message + Name + Default>(text: &str) -> Result<T, ConfigError> {
    from_tree(&json::parse(text)?)
}

/// A message of a type that only its name tells, spelled in JSON, validated: an `Any` of it. None: there is no such type.
///
/// # Errors
/// As [`from_yaml`].
pub fn any_from_json(type_url: &str, text: &str) -> Result<Option<Any>, ConfigError> {
    let descriptors = descriptors::unpacked();
    let name = type_url.rsplit('/').next().unwrap_or_default();
    let Some(descriptor) = descriptors.of_name(name) else { return Ok(None) };
    let tree = json::parse(text)?;
    let message = read::message(&descriptor, &tree).map_err(|error| tree.locate(error))?;
    descriptors.rules.check(&message)?;
    Ok(Some(Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }))
}

/// An error about a message with the position of its field in the YAML text that the message was read from.
pub fn locate(text: &str, error: ConfigError) -> ConfigError {
    match yaml::parse(text) {
        Ok(tree) => tree.locate(error),
        Err(_) => error,
    }
}

fn from_tree<T: Message + Name + Default>(tree: &Node) -> Result<T, ConfigError> {
    let descriptors = descriptors::unpacked();
    let message = read_as::<T>(&descriptors, tree)?;
    descriptors.rules.check(&message).map_err(|error| tree.locate(error))?;
    typed(&message)
}

fn read_as<T: Name>(descriptors: &Unpacked, tree: &Node) -> Result<DynamicMessage, ConfigError> {
    if let Value::Null = tree.value {
        return Err(ConfigError::new("is empty"));
    }
    read::message(&descriptors.of::<T>(), tree).map_err(|error| tree.locate(error))
}

/// proto3 JSON with the field names of the `.proto` files, unset fields left out and every `Any` expanded, as in
/// Envoy's `/config_dump`. Maps come out in no particular order.
///
/// # Errors
/// An `Any` in it has an unknown type or does not decode as its type, or messages are nested too deep.
pub fn to_json<T: Message + Name>(message: &T) -> Result<serde_json::Value, ConfigError> {
    spelled(&to_dynamic(message)?)
}

/// The same of a message of any type, by its full name and its bytes.
///
/// # Errors
/// There is no such type, or the bytes are not one.
pub fn json_of(name: &str, bytes: &[u8]) -> Result<serde_json::Value, ConfigError> {
    let message = DynamicMessage::decode(named(name)?, bytes).map_err(|error| ConfigError::new(error.to_string()))?;
    spelled(&message)
}

fn spelled(message: &DynamicMessage) -> Result<serde_json::Value, ConfigError> {
    nesting::check_all(message)?;
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map(whole_numbers)
        .map_err(|error| ConfigError::new(error.to_string()))
}

/// The same value, with whole numbers as such: JSON of protobuf spells them so, and fields of integers take no others.
#[must_use]
pub fn whole_numbers(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;

    /// Up to here every whole number has a double of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => match number.as_f64() {
            #[expect(clippy::cast_possible_truncation, reason = "it is whole, and small enough")]
            Some(whole) if whole.fract() == 0.0 && whole.abs() < EXACT => (whole as i64).into(),
            _ => Value::Number(number),
        },
        Value::Array(list) => list.into_iter().map(whole_numbers).collect(),
        Value::Object(members) => members
            .into_iter()
            .map(|(name, value)| (name, whole_numbers(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other,
    }
}

/// The bytes of a message of any type that JSON spells.
///
/// # Errors
/// There is no such type, or the JSON spells none.
pub fn bytes_of(name: &str, json: &serde_json::Value) -> Result<Vec<u8>, ConfigError> {
    let message =
        DynamicMessage::deserialize(named(name)?, json).map_err(|error| ConfigError::new(error.to_string()))?;
    Ok(message.encode_to_vec())
}

fn named(name: &str) -> Result<MessageDescriptor, ConfigError> {
    let known = descriptors::pool().get_message_by_name(name);
    known.ok_or_else(|| ConfigError::new(format!("unknown type {name}")))
}

/// Checks protoc-gen-validate's rules throughout a message, also inside every `Any` of a known type.
///
/// # Errors
/// The first rule that does not hold, with its field. There is no position.
pub fn validate<T: Message + Name>(message: &T) -> Result<(), ConfigError> {
    let descriptors = descriptors::unpacked();
    descriptors.rules.check(&dynamic(descriptors.of::<T>(), message)?)
}

/// Names of the fields that are set, in the order of the `.proto` file's numbers. A field without presence is set when
/// it is not the default.
pub fn set_fields<T: Message + Name>(message: &T) -> Vec<String> {
    let descriptor = descriptors::unpacked().of::<T>();
    // What is in them is not looked at: a large mesh has a million messages.
    let bytes = message.encode_to_vec();
    let numbers = numbers(&bytes).unwrap_or_default();
    numbers.into_iter().filter_map(|number| Some(descriptor.get_field(number)?.name().to_owned())).collect()
}

/// The numbers of the fields of an encoded message.
fn numbers(mut bytes: &[u8]) -> Result<BTreeSet<u32>, DecodeError> {
    let mut numbers = BTreeSet::new();
    while !bytes.is_empty() {
        let (number, wire_type) = decode_key(&mut bytes)?;
        skip_field(wire_type, number, &mut bytes, DecodeContext::default())?;
        numbers.insert(number);
    }
    Ok(numbers)
}

/// The same of an encoded message. Gives the fields that it has and its type has not.
///
/// # Errors
/// As [`validate`]; or the bytes are no such message.
pub fn validate_encoded<T: Name>(bytes: &[u8]) -> Result<Vec<UnknownFields>, ConfigError> {
    let descriptors = descriptors::unpacked();
    let message = DynamicMessage::decode(descriptors.of::<T>(), bytes);
    let mut unknown = Vec::new();
    let message = message.map_err(|error| ConfigError::new(error.to_string()))?;
    descriptors.rules.check_noting(&message, &mut unknown)?;
    Ok(unknown)
}

fn to_dynamic<T: Message + Name>(message: &T) -> Result<DynamicMessage, ConfigError> {
    dynamic(descriptors::unpacked().of::<T>(), message)
}

fn dynamic(descriptor: MessageDescriptor, message: &impl Message) -> Result<DynamicMessage, ConfigError> {
    DynamicMessage::decode(descriptor, &message.encode_to_vec()[..])
        .map_err(|error| ConfigError::new(error.to_string()))
}

/// The message inside an `Any` that must hold a `T`. Not validated: what holds the `Any` has been.
///
/// # Errors
/// Another type, or bytes that are not one.
pub fn unpack<T: Message + Name + Default>(any: &Any) -> Result<T, ConfigError> {
    let name = type_name(any);
    if name != T::full_name() {
        let found = if name.is_empty() { "nothing" } else { name };
        return Err(ConfigError::new(format!("must hold {}, not {found}", T::full_name())));
    }
    T::decode(&any.value[..]).map_err(|error| ConfigError::new(format!("is not a {name}: {error}")))
}

/// The full name of the type that an `Any` holds, empty for an empty `Any`.
pub fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}
