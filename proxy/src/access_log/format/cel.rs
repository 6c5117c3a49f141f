//! Expressions in formats: `%CEL()%` and `%TYPED_CEL()%`.

use std::sync::Arc;

use super::quote::{quote, write_value};
use crate::{
    access_log::view::View,
    cel::{Attribute, Expression, Options},
};

/// An expression whose value is written.
#[derive(Clone, Debug)]
pub struct Cel {
    /// As it stands in the format.
    text: Box<str>,
    expression: Arc<Expression>,
    /// In JSON it keeps its type.
    typed: bool,
}

impl Cel {
    pub(super) fn parse(text: &str, typed: bool) -> Result<Self, String> {
        let expression = Expression::parse(text, Options::default())?;
        Ok(Self { text: text.into(), expression: Arc::new(expression), typed })
    }

    /// Visits every attribute that it names.
    pub fn each_attribute(&self, visit: &mut dyn FnMut(&Attribute)) {
        self.expression.each_attribute(visit);
    }

    /// Appends its value as text; false: it has none.
    pub(super) fn write(&self, out: &mut Vec<u8>, view: &View<'_>) -> bool {
        self.expression.value(view).map(|value| value.write_text(out)).is_some()
    }

    /// Appends its value as JSON if that keeps its type; none: it is text there, too. False: it has none. Strings have no
    /// more bytes than `limit`.
    pub(super) fn write_json(&self, out: &mut Vec<u8>, view: &View<'_>, limit: Option<usize>) -> Option<bool> {
        if !self.typed {
            return None;
        }
        let value = self.expression.value(view).map(|value| value.to_json());
        match &value {
            None | Some(serde_json::Value::Null) => return Some(false),
            Some(serde_json::Value::String(text)) => {
                let start = out.len();
                out.extend_from_slice(&text.as_bytes()[..text.len().min(limit.unwrap_or(text.len()))]);
                quote(out, start);
            }
            Some(value) => write_value(out, value),
        }
        Some(true)
    }
}

impl PartialEq for Cel {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, self.typed) == (&other.text, other.typed)
    }
}

impl Eq for Cel {}
