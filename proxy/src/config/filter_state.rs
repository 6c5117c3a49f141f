//! What filters keep in filter state (`set_filter_state`).

use std::sync::Arc;

use crate::{
    access_log::{View, format::Format},
    filter_state::{FilterState, Object, Shared, Span, Value},
};

/// An object that is to be kept.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its name.
    pub key: Arc<str>,
    /// What is made of the text.
    pub factory: Factory,
    /// The text.
    pub format: Format,
    /// Who else has it.
    pub shared: Shared,
    /// An empty text is no object.
    pub skip_if_empty: bool,
}

/// What is made of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factory {
    /// It stays a text.
    Text,
    /// It stays one, by which upstream connections are told apart.
    Keyed,
    /// An address with its port; what is none makes no object.
    Address,
    /// A number; what is none makes no object.
    Number,
}

impl Factory {
    fn make(self, text: &str) -> Option<Value> {
        match self {
            Self::Text => Some(Value::Text(text.into())),
            Self::Keyed => Some(Value::Keyed(text.into())),
            Self::Address => text.parse().ok().map(Value::Address),
            Self::Number => text.trim().parse().ok().map(Value::Number),
        }
    }
}

impl Setting {
    /// The object; none: there is nothing that it could be.
    pub fn object(&self, view: &View<'_>, span: Span) -> Option<Object> {
        let mut bytes = Vec::new();
        self.format.write_line(&mut bytes, view);
        if bytes.is_empty() && self.skip_if_empty {
            return None;
        }
        let value = self.factory.make(&String::from_utf8_lossy(&bytes))?;
        Some(Object { key: self.key.clone(), value, shared: self.shared, span })
    }
}

/// An object is added to what is known.
pub fn add(state: &mut Option<Box<FilterState>>, object: Object) {
    let key = object.key.clone();
    if !state.get_or_insert_default().set(object) {
        tracing::debug!(%key, "filter state stays as it is");
    }
}
