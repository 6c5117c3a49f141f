//! Metadata: values by namespace, as configured (of routes) or gathered while a request passes (dynamic), and matchers
//! of them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::StringMatcher;

/// Values by namespace, which is a filter's name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(BTreeMap<Box<str>, serde_json::Map<String, Value>>);

impl Metadata {
    /// Adds the members of `values` to a namespace; one that is there is replaced.
    pub fn merge(&mut self, namespace: &str, values: serde_json::Map<String, Value>) {
        match self.0.get_mut(namespace) {
            Some(known) => known.extend(values),
            None => {
                self.0.insert(namespace.into(), values);
            }
        }
    }

    /// Adds all of another's.
    pub fn absorb(&mut self, other: Self) {
        for (namespace, values) in other.0 {
            self.merge(&namespace, values);
        }
    }

    /// Sets one value.
    pub fn set(&mut self, namespace: &str, key: &str, value: impl Into<Value>) {
        self.0.entry(namespace.into()).or_default().insert(key.to_owned(), value.into());
    }

    /// The value at the end of a path of keys.
    pub fn get<'a>(&'a self, namespace: &str, path: &[Box<str>]) -> Option<&'a Value> {
        let (first, rest) = path.split_first()?;
        let mut value = self.0.get(namespace)?.get(&**first)?;
        for key in rest {
            value = value.as_object()?.get(&**key)?;
        }
        Some(value)
    }

    /// The members of a namespace.
    pub fn namespace(&self, name: &str) -> Option<&serde_json::Map<String, Value>> {
        self.0.get(name)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Metadata of an endpoint: by filter namespace, as JSON.
pub type EndpointMetadata = serde_json::Map<String, Value>;

/// `MetadataMatcher`.
#[derive(Clone, Debug)]
pub struct MetadataMatcher {
    /// The namespace.
    pub namespace: Box<str>,
    /// Keys, from the outside in.
    pub path: Vec<Box<str>>,
    /// How the value must look.
    pub value: ValueMatcher,
    /// The other way round.
    pub invert: bool,
}

/// `ValueMatcher`.
#[derive(Clone, Debug)]
pub enum ValueMatcher {
    /// Null, or absent.
    Null,
    /// Exactly this number.
    Number(f64),
    /// A number in `start..end`.
    Range(f64, f64),
    /// A string.
    String(StringMatcher),
    /// A boolean.
    Bool(bool),
    /// There is one, which is not null; or not.
    Present(bool),
    /// A list with such an element.
    OneOf(Box<ValueMatcher>),
    /// Any of these.
    Or(Vec<ValueMatcher>),
}

impl MetadataMatcher {
    /// Whether `metadata` matches.
    pub fn matches(&self, metadata: Option<&Metadata>) -> bool {
        let value = metadata.and_then(|metadata| metadata.get(&self.namespace, &self.path));
        self.value.matches(value) != self.invert
    }
}

impl ValueMatcher {
    /// Whether a value matches.
    pub fn matches(&self, value: Option<&Value>) -> bool {
        match self {
            Self::Null => matches!(value, Some(Value::Null)),
            Self::Number(number) => value.and_then(Value::as_f64).is_some_and(|value| value == *number),
            Self::Range(start, end) => {
                value.and_then(Value::as_f64).is_some_and(|value| (*start..*end).contains(&value))
            }
            Self::String(matcher) => value.and_then(Value::as_str).is_some_and(|text| matcher.matches(text.as_bytes())),
            Self::Bool(wanted) => value.and_then(Value::as_bool) == Some(*wanted),
            Self::Present(wanted) => value.is_some_and(|value| !value.is_null()) && *wanted,
            Self::OneOf(matcher) => value
                .and_then(Value::as_array)
                .is_some_and(|list| list.iter().any(|value| matcher.matches(Some(value)))),
            Self::Or(matchers) => matchers.iter().any(|matcher| matcher.matches(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_path() {
        let mut metadata = Metadata::default();
        metadata.set("a", "b", serde_json::json!({"c": [1, "two", true]}));
        let matcher = |value, path: &[&str]| MetadataMatcher {
            namespace: "a".into(),
            path: path.iter().map(|key| Box::from(*key)).collect(),
            value,
            invert: false,
        };
        let one_of = |value| matcher(ValueMatcher::OneOf(Box::new(value)), &["b", "c"]);
        assert!(one_of(ValueMatcher::Number(1.0)).matches(Some(&metadata)));
        assert!(one_of(ValueMatcher::String(StringMatcher::exact("two"))).matches(Some(&metadata)));
        assert!(one_of(ValueMatcher::Bool(true)).matches(Some(&metadata)));
        assert!(!one_of(ValueMatcher::Range(2.0, 3.0)).matches(Some(&metadata)));
        assert!(!matcher(ValueMatcher::Present(true), &["b", "d"]).matches(Some(&metadata)));
        assert!(!matcher(ValueMatcher::Present(true), &["b"]).matches(None));
        assert!(MetadataMatcher { invert: true, ..matcher(ValueMatcher::Present(true), &["x"]) }.matches(None));
    }
}
