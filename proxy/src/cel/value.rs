//! Values of expressions.

use std::{borrow::Cow, cmp::Ordering};

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// `int`.
    Int(i64),
    /// `uint`.
    Uint(u64),
    /// `double`.
    Double(f64),
    /// `string`.
    Text(Cow<'a, str>),
    /// `bytes`.
    Bytes(Cow<'a, [u8]>),
    /// `duration`, in nanoseconds.
    Duration(i64),
    /// `timestamp`, in nanoseconds since 1970.
    Timestamp(i64),
    /// `list`.
    List(Vec<Value<'a>>),
}

/// There is no such value, or the types do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed;

impl<'a> Value<'a> {
    /// A text of bytes that should be one.
    pub fn lossy(bytes: &'a [u8]) -> Self {
        Self::Text(String::from_utf8_lossy(bytes))
    }

    /// A text.
    pub fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    /// A value of metadata; none: it is an object, which nothing here looks at as a whole.
    pub fn json(value: &'a serde_json::Value) -> Option<Self> {
        Some(match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(flag) => Self::Bool(*flag),
            serde_json::Value::Number(number) => Self::Double(number.as_f64()?),
            serde_json::Value::String(text) => Self::text(text),
            serde_json::Value::Array(values) => Self::List(values.iter().map(Self::json).collect::<Option<_>>()?),
            serde_json::Value::Object(_) => return None,
        })
    }

    /// Whether two values are equal: numbers across their types; values of other types are not.
    pub fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::List(one), Self::List(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.equals(other))
            }
            (Self::Null, Self::Null) => true,
            (Self::Bool(one), Self::Bool(other)) => one == other,
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }

    /// How two values compare; none: they do not.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(one), Self::Bool(other)) => Some(one.cmp(other)),
            (Self::Text(one), Self::Text(other)) => Some(one.cmp(other)),
            (Self::Bytes(one), Self::Bytes(other)) => Some(one.cmp(other)),
            (Self::Duration(one), Self::Duration(other)) | (Self::Timestamp(one), Self::Timestamp(other)) => {
                Some(one.cmp(other))
            }
            _ => match (self.integer(), other.integer()) {
                (Some(one), Some(other)) => Some(one.cmp(&other)),
                _ => self.number()?.partial_cmp(&other.number()?),
            },
        }
    }

    fn integer(&self) -> Option<i128> {
        match self {
            Self::Int(number) => Some((*number).into()),
            Self::Uint(number) => Some((*number).into()),
            _ => None,
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Self::Int(number) => Some(*number as f64),
            Self::Uint(number) => Some(*number as f64),
            Self::Double(number) => Some(*number),
            _ => None,
        }
    }
}
