//! `map list` and `map dump`.

use serde::{Deserialize, Serialize};
use serde_json::{Map as Object, Value};
use weir_proto::agent::v1 as pb;

use super::rows::Rows;
use crate::table::Table;

/// An eBPF map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Map {
    id: u32,
    name: String,
    r#type: String,
    key_bytes: u32,
    value_bytes: u32,
    max_entries: u32,
    memlock: u64,
    pin: String,
}

impl From<pb::Map> for Map {
    fn from(map: pb::Map) -> Self {
        Self {
            id: map.id,
            name: map.name,
            r#type: map.r#type,
            key_bytes: map.key_bytes,
            value_bytes: map.value_bytes,
            max_entries: map.max_entries,
            memlock: map.memlock,
            pin: map.pin,
        }
    }
}

/// One line a map.
pub fn table(maps: &Rows<Map>) -> Table {
    maps.table(["ID", "NAME", "TYPE", "KEY", "VALUE", "MAX-ENTRIES", "MEMLOCK"], |map| {
        [
            map.id.to_string(),
            map.name.clone(),
            map.r#type.clone(),
            format!("{}B", map.key_bytes),
            format!("{}B", map.value_bytes),
            map.max_entries.to_string(),
            format!("{}B", map.memlock),
        ]
    })
}

/// A decoded entry, as bpftool's JSON has it: whole numbers are numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    key: Object<String, Value>,
    value: Object<String, Value>,
}

impl From<pb::MapEntry> for Entry {
    fn from(entry: pb::MapEntry) -> Self {
        let object = |fields: Vec<pb::Field>| {
            let value = |text: String| text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from);
            fields.into_iter().map(|field| (field.name, value(field.value))).collect()
        };
        Self { key: object(entry.key), value: object(entry.value) }
    }
}

impl Entry {
    fn fields(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.key.iter().chain(&self.value)
    }
}

/// Entries, one a line: all entries of a map have the same fields. Nothing, not even a header, for none.
pub fn entries(entries: &Rows<Entry>) -> String {
    let Some(first) = entries.iter().next() else { return String::new() };
    let header: Vec<String> = first.fields().map(|(name, _)| name.to_uppercase().replace('_', "-")).collect();
    let cell = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    // Another version's map may have another number of fields.
    let cells = |entry: &Entry| {
        let mut cells: Vec<String> = entry.fields().map(|(_, value)| cell(value)).collect();
        cells.resize(header.len(), String::new());
        cells
    };
    entries.table_of(&header, cells).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, value: &str) -> pb::Field {
        pb::Field { name: name.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn entries_are_a_table_of_their_fields() {
        let entry = |slot: &str, redirect: &str| {
            Entry::from(pb::MapEntry {
                key: vec![field("netns", "4711"), field("pod", "default/web")],
                value: vec![field("slot", slot), field("redirect_v4", redirect)],
            })
        };
        assert_eq!(
            entries(&Rows::here(vec![entry("3", "10.0.0.2"), entry("12", "")])),
            "\
NETNS  POD          SLOT  REDIRECT-V4
4711   default/web  3     10.0.0.2
4711   default/web  12    -
"
        );
        assert_eq!(entries(&Rows::here(vec![])), "");
        assert_eq!(
            crate::show::read_back(&entry("3", "10.0.0.2")).to_string(),
            r#"{"key":{"netns":4711,"pod":"default/web"},"value":{"slot":3,"redirect_v4":"10.0.0.2"}}"#
        );
    }

    #[test]
    fn entries_of_another_version_keep_the_columns() {
        let entry = |fields: &[(&str, &str)]| {
            let value = fields.iter().map(|(name, value)| field(name, value)).collect();
            Entry::from(pb::MapEntry { key: vec![field("slot", "1")], value })
        };
        let one = vec![entry(&[("port", "80"), ("rule", "probe")])];
        let other = vec![entry(&[("port", "90")]), entry(&[("port", "91"), ("rule", "probe"), ("new", "1")])];
        let text = entries(&Rows::here(one).of_node("n1").and(Rows::here(other).of_node("n2")));
        assert_eq!(
            text,
            "NODE  SLOT  PORT  RULE\nn1    1     80    probe\nn2    1     90    -\nn2    1     91    probe\n"
        );
    }

    #[test]
    fn maps_are_a_table() {
        let map = Map::from(pb::Map { id: 3, name: "ENROLLED".to_owned(), key_bytes: 8, ..Default::default() });
        let text = table(&Rows::here(vec![map.clone()])).to_string();
        assert!(text.ends_with("\n3   ENROLLED  -     8B   0B     0            0B\n"), "{text}");
        assert_eq!(crate::show::read_back(&map)["key_bytes"], 8);
    }
}
