//! JSON formats: objects, lists and texts that hold operators, written without building a value.

use serde_json::Value;

use super::{
    Field, Limited, Piece, number,
    parse::{self, FormatError},
    write::write_pieces,
};
use crate::telemetry::access_log::View;

/// A node of a JSON format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// Keys are quoted already, and in order.
    Object(Vec<(Box<str>, Node)>),
    List(Vec<Node>),
    /// Exactly one operator, whose value keeps its type.
    Operator(Limited),
    /// A string that holds operators.
    Text(Vec<Piece>),
    /// What holds no operators, already in JSON.
    Fixed(Box<str>),
    Null,
}

impl Node {
    pub(super) fn parse(value: &Value) -> Result<Self, FormatError> {
        let fixed = |value: &Value| {
            let mut out = Vec::new();
            write_value(&mut out, value);
            Self::Fixed(String::from_utf8_lossy(&out).into())
        };
        Ok(match value {
            Value::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                members.sort_by_key(|(key, _)| *key);
                Self::Object(members.into_iter().map(member).collect::<Result<_, FormatError>>()?)
            }
            Value::Array(values) => Self::List(values.iter().map(Self::parse).collect::<Result<_, _>>()?),
            Value::String(text) => match parse::pieces(text)?.as_mut_slice() {
                [] => fixed(&Value::from("")),
                [Piece::Literal(text)] => fixed(&Value::from(&**text)),
                [Piece::Field(operator)] => Self::Operator(operator.clone()),
                pieces => Self::Text(pieces.to_vec()),
            },
            Value::Null => Self::Null,
            other => fixed(other),
        })
    }

    pub(super) fn each_field(&self, visit: &mut impl FnMut(&Field)) {
        match self {
            Self::Object(members) => members.iter().for_each(|(_, node)| node.each_field(visit)),
            Self::List(nodes) => nodes.iter().for_each(|node| node.each_field(visit)),
            Self::Operator(operator) => operator.field.each(visit),
            Self::Text(pieces) => super::each_of(pieces, visit),
            Self::Fixed(_) | Self::Null => {}
        }
    }

    /// Appends the value; false, and nothing is appended, if it is absent or an object that has no members. `omit`:
    /// members that are absent are left out.
    pub(super) fn write(&self, out: &mut Vec<u8>, view: &View<'_>, omit: bool) -> bool {
        match self {
            Self::Object(members) => {
                let start = out.len();
                out.push(b'{');
                let mut first = true;
                for (key, node) in members {
                    let before = out.len();
                    if !first {
                        out.push(b',');
                    }
                    out.extend_from_slice(key.as_bytes());
                    out.push(b':');
                    first &= !node.write_or_leave(out, view, omit, before);
                }
                out.push(b'}');
                if first && omit {
                    out.truncate(start);
                    return false;
                }
            }
            Self::List(nodes) => {
                out.push(b'[');
                let mut first = true;
                for node in nodes {
                    let before = out.len();
                    if !first {
                        out.push(b',');
                    }
                    first &= !node.write_or_leave(out, view, omit, before);
                }
                out.push(b']');
            }
            Self::Fixed(json) => out.extend_from_slice(json.as_bytes()),
            Self::Null => return false,
            Self::Operator(operator) => return operator.write_json(out, view),
            Self::Text(pieces) => {
                let start = out.len();
                write_pieces(pieces, out, view, omit);
                quote(out, start);
            }
        }
        true
    }

    /// Appends the value, or null; an absent value that is omitted takes back what was appended since `before`. False if it did.
    fn write_or_leave(&self, out: &mut Vec<u8>, view: &View<'_>, omit: bool, before: usize) -> bool {
        if self.write(out, view, omit) {
            return true;
        }
        if omit {
            out.truncate(before);
            return false;
        }
        out.extend_from_slice(b"null");
        true
    }
}

fn member((key, value): (&String, &Value)) -> Result<(Box<str>, Node), FormatError> {
    let mut quoted = key.clone().into_bytes();
    quote(&mut quoted, 0);
    Ok((String::from_utf8_lossy(&quoted).into(), Node::parse(value)?))
}

/// Appends a value as Envoy writes it: keys in order, numbers as short as they can be.
pub(super) fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Value::Number(value) => number::write(out, value.as_f64().unwrap_or_default()),
        Value::String(text) => {
            let start = out.len();
            out.extend_from_slice(text.as_bytes());
            quote(out, start);
        }
        Value::Array(values) => {
            out.push(b'[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(out, value);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            out.push(b'{');
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| *key);
            for (index, (key, value)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                let start = out.len();
                out.extend_from_slice(key.as_bytes());
                quote(out, start);
                out.push(b':');
                write_value(out, value);
            }
            out.push(b'}');
        }
    }
}

/// Makes what was appended since `start` a JSON string. Bytes that are no UTF-8 are escaped one by one, and with them
/// everything else that is not plain ASCII.
pub(super) fn quote(out: &mut Vec<u8>, start: usize) {
    let plain = |byte: &u8| (0x20..0x7f).contains(byte) && !matches!(byte, b'"' | b'\\');
    if out[start..].iter().all(plain) {
        out.insert(start, b'"');
        out.push(b'"');
        return;
    }
    let text = out.split_off(start);
    out.push(b'"');
    match std::str::from_utf8(&text) {
        Ok(valid) => {
            for c in valid.chars() {
                match c {
                    '"' => out.extend_from_slice(b"\\\""),
                    '\\' => out.extend_from_slice(b"\\\\"),
                    '\n' => out.extend_from_slice(b"\\n"),
                    '\r' => out.extend_from_slice(b"\\r"),
                    '\t' => out.extend_from_slice(b"\\t"),
                    '\u{8}' => out.extend_from_slice(b"\\b"),
                    '\u{c}' => out.extend_from_slice(b"\\f"),
                    c if c < ' ' => escape(out, c as u8),
                    c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
        }
        Err(_) => {
            for byte in &text {
                if plain(byte) { out.push(*byte) } else { escape(out, *byte) }
            }
        }
    }
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\u00");
    out.push(DIGITS[usize::from(byte >> 4)]);
    out.push(DIGITS[usize::from(byte & 15)]);
}
