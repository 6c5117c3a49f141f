//! Operators and functions.

use std::cmp::Ordering;

use super::value::{Failed, Value};

/// What is switched on (`CelExpressionConfig`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `string()` of other types.
    pub string_conversion: bool,
    /// `+` of strings.
    pub string_concat: bool,
}

/// Of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Add { texts: bool },
    Subtract,
    Multiply,
    Divide,
    Remainder,
    StartsWith,
    EndsWith,
    Contains,
}

/// Of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Not,
    Negate,
    Size,
    Int,
    Uint,
    Double,
    Text,
    Duration,
    Timestamp,
}

impl Operator {
    pub(super) fn named(name: &str, options: Options) -> Option<Self> {
        Some(match name {
            "_==_" => Self::Equal,
            "_!=_" => Self::NotEqual,
            "_<_" => Self::Less,
            "_<=_" => Self::LessOrEqual,
            "_>_" => Self::Greater,
            "_>=_" => Self::GreaterOrEqual,
            "@in" | "_in_" | "in" => Self::In,
            "_+_" => Self::Add { texts: options.string_concat },
            "_-_" => Self::Subtract,
            "_*_" => Self::Multiply,
            "_/_" => Self::Divide,
            "_%_" => Self::Remainder,
            "startsWith" => Self::StartsWith,
            "endsWith" => Self::EndsWith,
            "contains" => Self::Contains,
            _ => return None,
        })
    }

    pub(super) fn apply<'a>(self, one: Value<'a>, other: Value<'a>) -> Result<Value<'a>, Failed> {
        let ordered = |holds: fn(Ordering) -> bool| one.compare(&other).map(|order| Value::Bool(holds(order)));
        let texts = |holds: fn(&str, &str) -> bool| match (&one, &other) {
            (Value::Text(one), Value::Text(other)) => Some(Value::Bool(holds(one, other))),
            _ => None,
        };
        match self {
            Self::Equal => Some(Value::Bool(one.equals(&other))),
            Self::NotEqual => Some(Value::Bool(!one.equals(&other))),
            Self::Less => ordered(Ordering::is_lt),
            Self::LessOrEqual => ordered(Ordering::is_le),
            Self::Greater => ordered(Ordering::is_gt),
            Self::GreaterOrEqual => ordered(Ordering::is_ge),
            Self::In => match &other {
                Value::List(list) => Some(Value::Bool(list.iter().any(|value| value.equals(&one)))),
                _ => None,
            },
            Self::StartsWith => texts(|one, other| one.starts_with(other)),
            Self::EndsWith => texts(|one, other| one.ends_with(other)),
            Self::Contains => texts(|one, other| one.contains(other)),
            Self::Add { .. } | Self::Subtract | Self::Multiply | Self::Divide | Self::Remainder => {
                self.calculate(one, other)
            }
        }
        .ok_or(Failed)
    }

    fn calculate<'a>(self, one: Value<'a>, other: Value<'a>) -> Option<Value<'a>> {
        use Value::{Double, Duration, Int, Text, Timestamp, Uint};
        Some(match (self, one, other) {
            (Self::Add { texts: true }, Text(one), Text(other)) => Text((one.into_owned() + &other).into()),
            (Self::Add { .. }, Int(one), Int(other)) => Int(one.checked_add(other)?),
            (Self::Subtract, Int(one), Int(other)) => Int(one.checked_sub(other)?),
            (Self::Multiply, Int(one), Int(other)) => Int(one.checked_mul(other)?),
            (Self::Divide, Int(one), Int(other)) => Int(one.checked_div(other)?),
            (Self::Remainder, Int(one), Int(other)) => Int(one.checked_rem(other)?),
            (Self::Add { .. }, Uint(one), Uint(other)) => Uint(one.checked_add(other)?),
            (Self::Subtract, Uint(one), Uint(other)) => Uint(one.checked_sub(other)?),
            (Self::Multiply, Uint(one), Uint(other)) => Uint(one.checked_mul(other)?),
            (Self::Divide, Uint(one), Uint(other)) => Uint(one.checked_div(other)?),
            (Self::Remainder, Uint(one), Uint(other)) => Uint(one.checked_rem(other)?),
            (Self::Add { .. }, Double(one), Double(other)) => Double(one + other),
            (Self::Subtract, Double(one), Double(other)) => Double(one - other),
            (Self::Multiply, Double(one), Double(other)) => Double(one * other),
            (Self::Divide, Double(one), Double(other)) => Double(one / other),
            (Self::Add { .. }, Duration(one), Duration(other)) => Duration(one.checked_add(other)?),
            (Self::Add { .. }, Timestamp(one), Duration(other))
            | (Self::Add { .. }, Duration(one), Timestamp(other)) => Timestamp(one.checked_add(other)?),
            (Self::Subtract, Duration(one), Duration(other)) | (Self::Subtract, Timestamp(one), Timestamp(other)) => {
                Duration(one.checked_sub(other)?)
            }
            (Self::Subtract, Timestamp(one), Duration(other)) => Timestamp(one.checked_sub(other)?),
            _ => return None,
        })
    }
}

impl Function {
    pub(super) fn named(name: &str, options: Options) -> Option<Self> {
        Some(match name {
            "!_" => Self::Not,
            "-_" => Self::Negate,
            "size" => Self::Size,
            "int" => Self::Int,
            "uint" => Self::Uint,
            "double" => Self::Double,
            "string" if options.string_conversion => Self::Text,
            "duration" => Self::Duration,
            "timestamp" => Self::Timestamp,
            _ => return None,
        })
    }

    pub(super) fn apply(self, value: Value<'_>) -> Result<Value<'_>, Failed> {
        match self {
            Self::Not => match value {
                Value::Bool(value) => Some(Value::Bool(!value)),
                _ => None,
            },
            Self::Negate => match value {
                Value::Int(value) => value.checked_neg().map(Value::Int),
                Value::Double(value) => Some(Value::Double(-value)),
                _ => None,
            },
            Self::Size => {
                let size = match &value {
                    Value::Text(text) => Some(text.chars().count()),
                    Value::Bytes(bytes) => Some(bytes.len()),
                    Value::List(list) => Some(list.len()),
                    _ => None,
                };
                size.and_then(|size| i64::try_from(size).ok()).map(Value::Int)
            }
            Self::Int => int(&value).map(Value::Int),
            Self::Uint => uint(&value).map(Value::Uint),
            Self::Double => double(&value).map(Value::Double),
            Self::Text => text(value),
            Self::Duration => match &value {
                Value::Text(text) => duration(text).map(Value::Duration),
                Value::Duration(value) => Some(Value::Duration(*value)),
                _ => None,
            },
            Self::Timestamp => match &value {
                Value::Text(text) => timestamp(text).map(Value::Timestamp),
                Value::Timestamp(value) => Some(Value::Timestamp(*value)),
                _ => None,
            },
        }
        .ok_or(Failed)
    }
}

fn int(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Int(value) => Some(*value),
        Value::Uint(value) => i64::try_from(*value).ok(),
        Value::Double(value) => (value.abs() < i64::MAX as f64).then_some(*value as i64),
        Value::Text(text) => text.parse().ok(),
        Value::Timestamp(nanos) => Some(nanos.div_euclid(1_000_000_000)),
        _ => None,
    }
}

fn uint(value: &Value<'_>) -> Option<u64> {
    match value {
        Value::Uint(value) => Some(*value),
        Value::Int(value) => u64::try_from(*value).ok(),
        Value::Double(value) => (*value >= 0.0 && *value < u64::MAX as f64).then_some(*value as u64),
        Value::Text(text) => text.parse().ok(),
        _ => None,
    }
}

fn double(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(value) => Some(*value),
        Value::Int(value) => Some(*value as f64),
        Value::Uint(value) => Some(*value as f64),
        Value::Text(text) => text.parse().ok(),
        _ => None,
    }
}

fn text(value: Value<'_>) -> Option<Value<'_>> {
    let text = match value {
        Value::Text(text) => return Some(Value::Text(text)),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::Bytes(bytes) => String::from_utf8(bytes.into_owned()).ok()?,
        _ => return None,
    };
    Some(Value::Text(text.into()))
}

/// `1h30m`, `-1.5s`, `100ms`.
fn duration(text: &str) -> Option<i64> {
    const UNITS: [(&str, f64); 6] = [("h", 3.6e12), ("ms", 1e6), ("m", 6e10), ("us", 1e3), ("ns", 1.0), ("s", 1e9)];
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut nanos = 0.0;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let (unit, factor) = UNITS.iter().find(|(unit, _)| rest[digits..].starts_with(unit))?;
        nanos += number * factor;
        rest = &rest[digits + unit.len()..];
        if rest.is_empty() {
            break;
        }
    }
    let nanos = if negative { -nanos } else { nanos };
    (nanos.abs() < i64::MAX as f64).then_some(nanos as i64)
}

/// RFC 3339.
fn timestamp(text: &str) -> Option<i64> {
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    i64::try_from(timestamp.as_nanosecond()).ok()
}
