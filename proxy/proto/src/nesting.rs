//! How deep messages may be within one another.
//!
//! What looks at a message is called within itself for each that is inside, and in each `Any` protobuf's own limit begins anew:
//! without one that goes through them, a small message could take a thread's whole stack.

use prost_reflect::{DynamicMessage, ReflectMessage, Value};

use crate::error::ConfigError;

/// So many messages may be within one another, those in `Any`s included.
pub(crate) const MOST: usize = 128;

/// Refuses a message that is within so many others already.
pub(crate) fn check(within: usize) -> Result<(), ConfigError> {
    if within < MOST { Ok(()) } else { Err(ConfigError::new(format!("nested deeper than {MOST} messages"))) }
}

/// Refuses a message with messages too deep inside.
pub(crate) fn check_all(message: &DynamicMessage) -> Result<(), ConfigError> {
    of_message(message, 0)
}

fn of_message(message: &DynamicMessage, within: usize) -> Result<(), ConfigError> {
    check(within)?;
    if message.descriptor().full_name() == "google.protobuf.Any" {
        // What does not decode is told by whoever wants it.
        let Ok(any) = message.transcode_to::<prost_types::Any>() else { return Ok(()) };
        let pool = message.descriptor();
        let Some(known) = pool.parent_pool().get_message_by_name(crate::type_name(&any)) else { return Ok(()) };
        return match DynamicMessage::decode(known, &any.value[..]) {
            Ok(inner) => of_message(&inner, within + 1),
            Err(_) => Ok(()),
        };
    }
    message.fields().try_for_each(|(_, value)| of_value(value, within))
}

fn of_value(value: &Value, within: usize) -> Result<(), ConfigError> {
    match value {
        Value::Message(inner) => of_message(inner, within + 1),
        Value::List(items) => items.iter().try_for_each(|item| of_value(item, within)),
        Value::Map(entries) => entries.values().try_for_each(|value| of_value(value, within)),
        _ => Ok(()),
    }
}
