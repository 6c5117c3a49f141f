//! protoc-gen-validate's rules, as the descriptors carry them.
//!
//! The rules of a message type are read from its descriptor's options once (`rules`), and then checked against dynamic
//! messages of it (`check`, `bounds`, `text`), for every message that is set, also in an `Any`. A rule that is not
//! implemented makes its message type fail to compile; a test compiles every type of the API.

mod bounds;
mod check;
mod rules;
mod text;
mod time;
mod unknown;
mod unsupported;

use prost_reflect::{DynamicMessage, ReflectMessage, Value};

use crate::{
    error::{ConfigError, Segment},
    nesting,
};
pub(crate) use rules::Rules;
pub use unknown::UnknownFields;

impl Rules {
    /// Checks `message` and everything in it.
    pub fn check(&self, message: &DynamicMessage) -> Result<(), ConfigError> {
        self.check_noting(message, &mut Vec::new())
    }

    /// The same, and notes the fields that the message or one in it does not have.
    pub fn check_noting(&self, message: &DynamicMessage, found: &mut Vec<UnknownFields>) -> Result<(), ConfigError> {
        self.walk(message, found, 0)
    }

    /// The same of a message within so many others.
    fn walk(&self, message: &DynamicMessage, found: &mut Vec<UnknownFields>, within: usize) -> Result<(), ConfigError> {
        nesting::check(within)?;
        let descriptor = message.descriptor();
        match descriptor.full_name() {
            "google.protobuf.Any" => return self.any(message, found, within),
            // Envoy refuses them wherever it reads a duration, with or without a rule.
            "google.protobuf.Duration" if time::duration_nanos(message) < 0 => {
                return Err(ConfigError::new("must not be negative"));
            }
            _ => {}
        }
        found.extend(unknown::of(message));
        let rules = self.of_message(&descriptor).map_err(ConfigError::new)?;
        for oneof in &rules.required_oneofs {
            if !oneof.fields().any(|field| message.has_field(&field)) {
                let names: Vec<String> = oneof.fields().map(|field| field.name().to_owned()).collect();
                let problem = format!("one of {} must be set", names.join(", "));
                return Err(ConfigError::new(problem).in_field(oneof.name()));
            }
        }
        for (field, rule) in &rules.fields {
            let is_set = message.has_field(field);
            // Rules on an arm of a oneof, or on an optional field, wait until it is set.
            if is_set || field.containing_oneof().is_none() {
                let value = message.get_field(field);
                rule.check_field(&value, is_set, field.supports_presence())
                    .map_err(|error| error.in_field(field.name()))?;
            }
        }
        for (field, value) in message.fields() {
            if !rules.skipped.contains(&field.number()) {
                let before = found.len();
                self.inside(value, found, within).map_err(|error| error.in_field(field.name()))?;
                unknown::within(&mut found[before..], field.name());
            }
        }
        Ok(())
    }

    /// Messages inside a field's value.
    fn inside(&self, value: &Value, found: &mut Vec<UnknownFields>, within: usize) -> Result<(), ConfigError> {
        match value {
            Value::Message(inner) => self.walk(inner, found, within + 1),
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.inside(item, found, within).map_err(|error| error.inside(Segment::Index(index)))?;
                }
                Ok(())
            }
            Value::Map(entries) => {
                for (key, value) in entries {
                    self.inside(value, found, within)
                        .map_err(|error| error.inside(Segment::Key(check::shown_key(key))))?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What an `Any` holds, if its type is known: who wants it has to refuse unknown ones.
    fn any(&self, any: &DynamicMessage, found: &mut Vec<UnknownFields>, within: usize) -> Result<(), ConfigError> {
        let descriptors = any.descriptor();
        let any: prost_types::Any = any.transcode_to().map_err(|error| ConfigError::new(error.to_string()))?;
        let known = descriptors.parent_pool().get_message_by_name(crate::type_name(&any));
        let Some(descriptor) = known else { return Ok(()) };
        let inner = DynamicMessage::decode(descriptor, &any.value[..])
            .map_err(|error| ConfigError::new(format!("is not a {}: {error}", crate::type_name(&any))))?;
        self.walk(&inner, found, within + 1)
    }
}

#[cfg(test)]
mod tests;
