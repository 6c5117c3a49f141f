//! Evaluation.

use super::{
    attribute::{Attribute, Attributes},
    operation::{Function, Operator},
    value::{Failed, Value},
};
use crate::matcher::Regex;

/// A part of an expression.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Literal(Value<'static>),
    Attribute(Attribute),
    /// Whether there is one.
    Has(Attribute),
    List(Vec<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
    If(Box<[Node; 3]>),
    Matches(Box<Node>, Regex),
    Operator(Operator, Box<[Node; 2]>),
    Function(Function, Box<Node>),
}

impl Node {
    pub(super) fn evaluate<'a>(&'a self, attributes: &'a dyn Attributes) -> Result<Value<'a>, Failed> {
        match self {
            Self::Literal(value) => Ok(value.clone()),
            Self::Attribute(attribute) => attributes.get(attribute).ok_or(Failed),
            Self::Has(attribute) => Ok(Value::Bool(attributes.get(attribute).is_some())),
            Self::List(nodes) => {
                nodes.iter().map(|node| node.evaluate(attributes)).collect::<Result<_, _>>().map(Value::List)
            }
            Self::And(nodes) => settle(nodes, false, attributes),
            Self::Or(nodes) => settle(nodes, true, attributes),
            Self::If(nodes) => {
                let [condition, one, other] = &**nodes;
                if truth(condition.evaluate(attributes))? { one } else { other }.evaluate(attributes)
            }
            Self::Matches(text, regex) => match text.evaluate(attributes)? {
                Value::Text(text) => Ok(Value::Bool(regex.is_match(text.as_bytes()))),
                _ => Err(Failed),
            },
            Self::Operator(operator, nodes) => {
                let [one, other] = &**nodes;
                operator.apply(one.evaluate(attributes)?, other.evaluate(attributes)?)
            }
            Self::Function(function, node) => function.apply(node.evaluate(attributes)?),
        }
    }

    pub(super) fn each_attribute(&self, visit: &mut dyn FnMut(&Attribute)) {
        match self {
            Self::Literal(_) => {}
            Self::Attribute(attribute) | Self::Has(attribute) => visit(attribute),
            Self::List(nodes) | Self::And(nodes) | Self::Or(nodes) => {
                nodes.iter().for_each(|node| node.each_attribute(visit));
            }
            Self::If(nodes) => nodes.iter().for_each(|node| node.each_attribute(visit)),
            Self::Operator(_, nodes) => nodes.iter().for_each(|node| node.each_attribute(visit)),
            Self::Matches(node, _) | Self::Function(_, node) => node.each_attribute(visit),
        }
    }
}

/// `&&` and `||`: one that settles the matter is enough, whatever has failed before or would fail after it.
fn settle<'a>(nodes: &'a [Node], settles: bool, attributes: &'a dyn Attributes) -> Result<Value<'a>, Failed> {
    let mut failed = false;
    for node in nodes {
        match truth(node.evaluate(attributes)) {
            Ok(value) if value == settles => return Ok(Value::Bool(settles)),
            Ok(_) => {}
            Err(Failed) => failed = true,
        }
    }
    if failed { Err(Failed) } else { Ok(Value::Bool(!settles)) }
}

fn truth(value: Result<Value<'_>, Failed>) -> Result<bool, Failed> {
    match value {
        Ok(Value::Bool(value)) => Ok(value),
        _ => Err(Failed),
    }
}
