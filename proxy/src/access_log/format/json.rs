//! JSON formats: objects, lists and texts that hold operators, written without building a value.

use serde_json::Value;

use super::{
    error::FormatError,
    field::{Field, Limited, Piece, each_of},
    parse,
    quote::{quote, write_value},
    write::write_pieces,
};
use crate::access_log::view::View;

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
            Self::Text(pieces) => each_of(pieces, visit),
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
