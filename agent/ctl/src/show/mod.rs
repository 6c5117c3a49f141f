//! The agent's answers as text and as JSON. JSON has the names of the agent's API and never leaves one out; times are
//! RFC 3339.

pub mod event;
pub mod map;
pub mod pod;
pub mod prog;
pub mod redirect;
pub mod status;

use std::{collections::HashMap, fmt::Display};

use serde_json::{Map, Value};

/// Items separated by commas, "" for none.
fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Counts by name, the names sorted.
fn sorted(counts: &HashMap<String, u64>) -> Vec<(&String, u64)> {
    let mut counts: Vec<_> = counts.iter().map(|(name, count)| (name, *count)).collect();
    counts.sort();
    counts
}

/// `name count` separated by commas; "none" for none.
fn counts(counts: impl IntoIterator<Item = (impl Display, u64)>) -> String {
    let text: Vec<String> = counts.into_iter().map(|(name, count)| format!("{name} {count}")).collect();
    if text.is_empty() { "none".to_owned() } else { text.join(", ") }
}

fn counts_json(counts: &HashMap<String, u64>) -> Value {
    sorted(counts).into_iter().map(|(name, count)| (name.clone(), count.into())).collect::<Map<_, _>>().into()
}

/// Text, or null for none.
fn optional(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}
