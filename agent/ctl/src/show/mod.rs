//! The agent's answers, as text and as JSON.
//!
//! Each object has one type here, which comes from the agent's API on a node and from the JSON of a node's weirctl in a
//! whole cluster. So JSON says everything that the text says, and both read the same wherever they are asked for. JSON
//! has the names of the agent's API and never leaves one out; times are RFC 3339, what there is not is null. Read, a
//! name that another version does not write has its default.

pub mod event;
pub mod map;
pub mod pod;
pub mod prog;
pub mod redirect;
pub mod rows;
pub mod status;

use std::{collections::BTreeMap, collections::HashMap, fmt::Display};

/// Counts by name.
pub type Counts = BTreeMap<String, u64>;

/// Counts of the API, sorted by name.
fn sorted(counts: HashMap<String, u64>) -> Counts {
    counts.into_iter().collect()
}

/// Items separated by commas, "" for none.
fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// `name count` separated by commas; "none" for none.
fn counts<'a>(counts: impl IntoIterator<Item = (&'a String, &'a u64)>) -> String {
    let text: Vec<String> = counts.into_iter().map(|(name, count)| format!("{name} {count}")).collect();
    if text.is_empty() { "none".to_owned() } else { text.join(", ") }
}

/// The API's text, none for "".
fn optional(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

/// Text to show, "" for none.
fn shown(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

/// A number to show, "" for none.
fn number<T: Display>(number: Option<T>) -> String {
    number.map_or_else(String::new, |number| number.to_string())
}

/// What a type says in JSON and is read back from it.
#[cfg(test)]
#[track_caller]
fn read_back<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(
    item: &T,
) -> serde_json::Value {
    let json = serde_json::to_value(item).unwrap();
    assert_eq!(serde_json::from_value::<T>(json.clone()).unwrap(), *item);
    json
}
