//! What a YAML or JSON text says, before anybody knows which message it is: JSON values with their places.

use crate::error::{ConfigError, FieldPath, Position, Segment};

/// How deep lists and maps may nest. protobuf's own limit is 100 messages, and what walks the tree recurses.
pub(crate) const MAX_DEPTH: usize = 100;

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub at: Position,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// As JSON spells it.
    Number(String),
    String(String),
    List(Vec<Node>),
    /// In the order of the text. Keys may repeat: the reader refuses that, for it knows the path.
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub key: String,
    pub at: Position,
    pub value: Node,
}

impl Node {
    /// The value as an error message shows it.
    pub fn shown(&self) -> String {
        const LONGEST: usize = 40;
        match &self.value {
            Value::Null => "null".into(),
            Value::Bool(value) => value.to_string(),
            Value::Number(text) => text.clone(),
            Value::String(text) if text.chars().count() > LONGEST => {
                format!("{:?}...", text.chars().take(LONGEST).collect::<String>())
            }
            Value::String(text) => format!("{text:?}"),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a map".into(),
        }
    }

    /// Levels of lists and maps, and how many nodes there are.
    pub fn depth_and_size(&self) -> (usize, usize) {
        let mut deepest = 0;
        let mut size = 1;
        let mut visit = |node: &Node| {
            let (depth, nodes) = node.depth_and_size();
            deepest = deepest.max(depth);
            size += nodes;
        };
        match &self.value {
            Value::List(items) => items.iter().for_each(&mut visit),
            Value::Map(entries) => entries.iter().for_each(|entry| visit(&entry.value)),
            _ => return (0, 1),
        }
        (deepest + 1, size)
    }

    /// Adds to an error the place that its path names in this tree, or the nearest one around it.
    pub fn locate(&self, error: ConfigError) -> ConfigError {
        let position = self.position_of(error.path());
        error.at(position)
    }

    /// Takes out what stands at a place under a name; whether there was anything.
    pub fn remove(&mut self, at: Position) -> bool {
        match &mut self.value {
            Value::List(items) => {
                let mut removed = false;
                for item in items {
                    removed |= item.remove(at);
                }
                removed
            }
            Value::Map(entries) => {
                let before = entries.len();
                entries.retain(|entry| entry.at != at);
                let mut removed = entries.len() < before;
                for entry in entries {
                    removed |= entry.value.remove(at);
                }
                removed
            }
            _ => false,
        }
    }

    fn position_of(&self, path: &FieldPath) -> Position {
        let mut node = self;
        let mut position = self.at;
        for segment in path.segments() {
            match (segment, &node.value) {
                (Segment::Field(name) | Segment::Key(name), Value::Map(entries)) => {
                    let camel = camel_case(name);
                    let named = |entry: &&Entry| entry.key == *name || entry.key == camel;
                    // A oneof or a missing field: the message that should have it is as near as it gets.
                    let Some(entry) = entries.iter().find(named) else { return position };
                    (node, position) = (&entry.value, entry.at);
                }
                (Segment::Index(index), Value::List(items)) => {
                    let Some(item) = items.get(*index) else { return position };
                    (node, position) = (item, item.at);
                }
                // One value where a list could be stands for a list of one.
                (Segment::Index(_), _) => {}
                _ => return position,
            }
        }
        position
    }
}

/// proto3 JSON's name of a field.
fn camel_case(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    let mut upper = false;
    for letter in name.chars() {
        match letter {
            '_' => upper = true,
            _ if upper => {
                camel.push(letter.to_ascii_uppercase());
                upper = false;
            }
            _ => camel.push(letter),
        }
    }
    camel
}
