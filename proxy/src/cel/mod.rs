//! Expressions of the Common Expression Language over what is known of a request or a connection, by Envoy's attributes.
//!
//! As in Envoy there are no loops (macros such as `exists` and `all`): an expression is evaluated in as many steps as it
//! has parts, whose number is bounded when it is read. Regular expressions are literals, compiled then.

mod attribute;
mod compile;
mod evaluate;
mod operation;
mod print;
mod syntax;
mod value;

pub use self::{
    attribute::{Attribute, Attributes, Part, Side},
    operation::Options,
    syntax::Syntax,
    value::Value,
};
use self::{compile::Compiler, evaluate::Node};

/// An expression that can be evaluated.
#[derive(Clone, Debug)]
pub struct Expression {
    root: Node,
}

impl Expression {
    /// Reads a text. The error is one line.
    pub fn parse(text: &str, options: Options) -> Result<Self, String> {
        Self::new(&syntax::parse(text)?, options)
    }

    /// Of what was parsed elsewhere.
    pub fn new(syntax: &Syntax, options: Options) -> Result<Self, String> {
        Ok(Self { root: Compiler::new(options).node(syntax)? })
    }

    /// Whether it is true. As in Envoy an error, for instance an attribute that there is not, is not.
    pub fn holds(&self, attributes: &dyn Attributes) -> bool {
        matches!(self.root.evaluate(attributes), Ok(Value::Bool(true)))
    }

    /// Its value; none: an error, for instance an attribute that there is not.
    pub fn value<'a>(&'a self, attributes: &'a dyn Attributes) -> Option<Value<'a>> {
        self.root.evaluate(attributes).ok()
    }

    /// Visits every attribute that it names.
    pub fn each_attribute(&self, visit: &mut dyn FnMut(&Attribute)) {
        self.root.each_attribute(visit);
    }
}

#[cfg(test)]
mod tests;
