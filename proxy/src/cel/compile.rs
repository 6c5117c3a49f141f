//! From what is written to what is evaluated: names become attributes, functions are known ones.

use super::{
    attribute::Attribute,
    evaluate::Node,
    operation::{Function, Operator, Options},
    syntax::Syntax,
    value::Value,
};
use crate::matcher::Regex;

/// Parts of an expression, at most: each is evaluated once.
const MOST_PARTS: usize = 1_000;

pub(super) struct Compiler {
    options: Options,
    parts: usize,
}

impl Compiler {
    pub(super) fn new(options: Options) -> Self {
        Self { options, parts: 0 }
    }

    pub(super) fn node(&mut self, syntax: &Syntax) -> Result<Node, String> {
        self.parts += 1;
        if self.parts > MOST_PARTS {
            return Err(format!("an expression has at most {MOST_PARTS} parts"));
        }
        match syntax {
            Syntax::Literal(value) => Ok(Node::Literal(value.clone())),
            Syntax::List(list) => Ok(Node::List(self.nodes(list)?)),
            Syntax::Other(what) => Err(format!("{what} not supported")),
            Syntax::Name(_) => Ok(Node::Attribute(attribute(syntax, None)?)),
            Syntax::Select { operand, field, test } => {
                let found = attribute(operand, Some(field))?;
                Ok(if *test { Node::Has(found) } else { Node::Attribute(found) })
            }
            Syntax::Call(name, arguments) => self.call(name, arguments),
        }
    }

    fn nodes(&mut self, list: &[Syntax]) -> Result<Vec<Node>, String> {
        list.iter().map(|one| self.node(one)).collect()
    }

    fn call(&mut self, name: &str, arguments: &[Syntax]) -> Result<Node, String> {
        match (name, arguments) {
            ("_&&_", [_, ..]) => Ok(Node::And(self.nodes(arguments)?)),
            ("_||_", [_, ..]) => Ok(Node::Or(self.nodes(arguments)?)),
            ("_?_:_", [condition, one, other]) => {
                Ok(Node::If(Box::new([self.node(condition)?, self.node(one)?, self.node(other)?])))
            }
            ("_[_]", [operand, Syntax::Literal(Value::Text(key))]) => {
                Ok(Node::Attribute(attribute(operand, Some(key))?))
            }
            ("_[_]", _) => Err("keys that are no string literals are not supported".into()),
            ("@in" | "_in_" | "in", [Syntax::Literal(Value::Text(key)), map]) if !matches!(map, Syntax::List(_)) => {
                Ok(Node::Has(attribute(map, Some(key))?))
            }
            ("matches", [text, Syntax::Literal(Value::Text(pattern))]) => {
                let regex = ascii_only(pattern).and_then(|()| Regex::search(pattern));
                let regex = regex.map_err(|error| format!("bad regular expression \"{pattern}\": {error}"))?;
                Ok(Node::Matches(Box::new(self.node(text)?), regex))
            }
            ("matches", _) => Err("regular expressions that are no string literals are not supported".into()),
            _ => {
                if let Some(operator) = Operator::named(name, self.options)
                    && let [one, other] = arguments
                {
                    return Ok(Node::Operator(operator, Box::new([self.node(one)?, self.node(other)?])));
                }
                match (Function::named(name, self.options), arguments) {
                    (Some(function), [argument]) => Ok(Node::Function(function, Box::new(self.node(argument)?))),
                    _ => Err(format!("function {name} with {} arguments is not supported", arguments.len())),
                }
            }
        }
    }
}

/// The attribute that is found at `last` below `operand`, or is `operand`.
fn attribute(operand: &Syntax, last: Option<&str>) -> Result<Attribute, String> {
    let mut path = Vec::new();
    let mut rest = operand;
    let root = loop {
        rest = match rest {
            Syntax::Name(name) => break name,
            Syntax::Select { operand, field, test: false } => {
                path.push(field.as_str());
                operand
            }
            Syntax::Call(name, arguments) => match (name.as_str(), arguments.as_slice()) {
                ("_[_]", [operand, Syntax::Literal(Value::Text(key))]) => {
                    path.push(key);
                    operand
                }
                _ => return Err("fields of what is no attribute are not supported".into()),
            },
            _ => return Err("fields of what is no attribute are not supported".into()),
        };
    };
    path.push(root);
    path.reverse();
    path.extend(last);
    Attribute::named(&path).ok_or_else(|| format!("attribute {} is not supported", path.join(".")))
}

/// Whether an expression asks for ASCII only: CEL's texts are UTF-8, in which what is beyond has more than one byte.
fn ascii_only(pattern: &str) -> Result<(), String> {
    let mut bytes = pattern.bytes();
    while let Some(byte) = bytes.next() {
        let beyond = !byte.is_ascii() || (byte == b'\\' && matches!(bytes.next(), Some(b'p' | b'P' | b'C')));
        if beyond {
            return Err("characters beyond ASCII are not supported".to_owned());
        }
    }
    Ok(())
}
