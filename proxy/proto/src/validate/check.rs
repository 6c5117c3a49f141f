//! Values against rules.

use prost_reflect::{MapKey, ReflectMessage, Value};

use super::rules::{Check, Rule};
use super::time::{duration_nanos, seconds};
use crate::error::{ConfigError, Segment};

impl Rule {
    /// Checks a field. An unset one of a message type satisfies everything but `required`.
    pub fn check_field(&self, value: &Value, is_set: bool, has_presence: bool) -> Result<(), ConfigError> {
        if self.required && !is_set {
            return Err(ConfigError::new("must be set"));
        }
        if has_presence && !is_set { Ok(()) } else { self.check_value(value) }
    }

    fn check_value(&self, value: &Value) -> Result<(), ConfigError> {
        match &self.check {
            Some(check) => check.check(unwrapped(value).as_ref().unwrap_or(value)),
            None => Ok(()),
        }
    }
}

impl Check {
    fn check(&self, value: &Value) -> Result<(), ConfigError> {
        match (self, value) {
            (Self::Bool(exactly), Value::Bool(value)) if exactly != value => {
                Err(ConfigError::new(format!("must be {exactly}")))
            }
            (Self::Bool(_), Value::Bool(_)) => Ok(()),
            (Self::Text(text), Value::String(value)) if text.ignore_empty && value.is_empty() => Ok(()),
            (Self::Text(text), Value::String(value)) => text.check(value),
            (Self::Bytes(_, true), Value::Bytes(value)) if value.is_empty() => Ok(()),
            (Self::Bytes(length, _), Value::Bytes(value)) => length.check(value.len(), "bytes"),
            (Self::Enum { bounds, defined }, Value::EnumNumber(number)) => {
                if defined.as_ref().is_some_and(|defined| !defined.contains(number)) {
                    return Err(ConfigError::new(format!("must be a defined value, not {number}")));
                }
                bounds.check(&i128::from(*number), i128::clone)
            }
            (Self::Duration(bounds), Value::Message(duration)) => bounds.check(&duration_nanos(duration), seconds),
            (Self::List { length, unique, items, ignore_empty }, Value::List(values)) => {
                if *ignore_empty && values.is_empty() {
                    return Ok(());
                }
                length.check(values.len(), "items")?;
                for (index, value) in values.iter().enumerate() {
                    let inside = |error: ConfigError| error.inside(Segment::Index(index));
                    if *unique && values[..index].contains(value) {
                        return Err(inside(ConfigError::new("must not repeat an earlier item")));
                    }
                    items.as_ref().map_or(Ok(()), |rule| rule.check_value(value)).map_err(inside)?;
                }
                Ok(())
            }
            (Self::Map { length, keys, values, ignore_empty }, Value::Map(entries)) => {
                if *ignore_empty && entries.is_empty() {
                    return Ok(());
                }
                length.check(entries.len(), "entries")?;
                for (key, value) in entries {
                    let inside = |error: ConfigError| error.inside(Segment::Key(shown_key(key)));
                    let in_key = |rule: &Rule| {
                        rule.check_value(&Value::from(key.clone()))
                            .map_err(|error| ConfigError::new(format!("the key {}", error.problem())))
                    };
                    keys.as_deref().map_or(Ok(()), in_key).map_err(inside)?;
                    values.as_ref().map_or(Ok(()), |rule| rule.check_value(value)).map_err(inside)?;
                }
                Ok(())
            }
            (Self::Any { one_of, none_of }, Value::Message(any)) => {
                let type_url = any.get_field_by_name("type_url");
                let type_url = type_url.as_ref().and_then(|url| url.as_str()).unwrap_or_default().to_owned();
                if !one_of.is_empty() && !one_of.contains(&type_url) {
                    return Err(ConfigError::new(format!("must be of type {}", one_of.join(" or "))));
                }
                if none_of.contains(&type_url) {
                    return Err(ConfigError::new(format!("must not be of type {type_url}")));
                }
                Ok(())
            }
            (Self::Integer(bounds, ignore_empty), _) => match integer(value) {
                Some(0) if *ignore_empty => Ok(()),
                Some(number) => bounds.check(&number, i128::clone),
                None => Err(mismatch()),
            },
            (Self::Float(bounds, ignore_empty), _) => match float(value) {
                Some(number) if *ignore_empty && number == 0.0 => Ok(()),
                Some(number) => bounds.check(&number, f64::clone),
                None => Err(mismatch()),
            },
            _ => Err(mismatch()),
        }
    }
}

/// A rule for another type than the field's: protoc-gen-validate would not have compiled it.
fn mismatch() -> ConfigError {
    ConfigError::new("has a validation rule for another type")
}

/// What a wrapper such as `google.protobuf.UInt32Value` holds: rules on it are rules on that.
fn unwrapped(value: &Value) -> Option<Value> {
    let wrapper = value.as_message()?;
    if wrapper.descriptor().parent_file().name() != "google/protobuf/wrappers.proto" {
        return None;
    }
    wrapper.get_field_by_name("value").map(|value| value.into_owned())
}

fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::I32(number) => Some((*number).into()),
        Value::I64(number) => Some((*number).into()),
        Value::U32(number) => Some((*number).into()),
        Value::U64(number) => Some((*number).into()),
        _ => None,
    }
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::F32(number) => Some((*number).into()),
        Value::F64(number) => Some(*number),
        _ => None,
    }
}

/// A map's key as paths show it.
pub(super) fn shown_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}
