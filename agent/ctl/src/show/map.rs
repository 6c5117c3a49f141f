//! `map list` and `map dump`.

use serde_json::{Map as Object, Value, json};
use weir_proto::agent::v1::{Field, Map, MapEntry};

use crate::table::Table;

/// One line a map.
pub fn table(maps: &[Map]) -> Table {
    let mut table = Table::new(["ID", "NAME", "TYPE", "KEY", "VALUE", "MAX-ENTRIES", "MEMLOCK"]);
    for map in maps {
        table.row([
            map.id.to_string(),
            map.name.clone(),
            map.r#type.clone(),
            format!("{}B", map.key_bytes),
            format!("{}B", map.value_bytes),
            map.max_entries.to_string(),
            format!("{}B", map.memlock),
        ]);
    }
    table
}

/// A map as JSON.
pub fn json(map: &Map) -> Value {
    json!({
        "id": map.id,
        "name": map.name,
        "type": map.r#type,
        "key_bytes": map.key_bytes,
        "value_bytes": map.value_bytes,
        "max_entries": map.max_entries,
        "memlock": map.memlock,
        "pin": map.pin,
    })
}

/// Entries, one a line: all entries of a map have the same fields. Nothing, not even a header, for none.
pub fn entries(entries: &[MapEntry]) -> String {
    let Some(first) = entries.first() else { return String::new() };
    let fields = |entry: &'_ MapEntry| entry.key.iter().chain(&entry.value).cloned().collect::<Vec<Field>>();
    let mut table = Table::new(fields(first).into_iter().map(|field| field.name.to_uppercase().replace('_', "-")));
    for entry in entries {
        table.row(fields(entry).into_iter().map(|field| field.value));
    }
    table.to_string()
}

/// An entry as JSON: `{"key": {...}, "value": {...}}`, as bpftool; whole numbers as numbers.
pub fn entry_json(entry: &MapEntry) -> Value {
    let object = |fields: &[Field]| {
        let value = |text: &str| text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from);
        fields.iter().map(|field| (field.name.clone(), value(&field.value))).collect::<Object<_, _>>()
    };
    json!({ "key": object(&entry.key), "value": object(&entry.value) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, value: &str) -> Field {
        Field { name: name.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn entries_are_a_table_of_their_fields() {
        let entry = |slot: &str, flags: &str| MapEntry {
            key: vec![field("netns", "4711"), field("pod", "default/web")],
            value: vec![field("slot", slot), field("redirect_v4", flags)],
        };
        assert_eq!(
            entries(&[entry("3", "10.0.0.2"), entry("12", "")]),
            "\
NETNS  POD          SLOT  REDIRECT-V4
4711   default/web  3     10.0.0.2
4711   default/web  12    -
"
        );
        assert_eq!(entries(&[]), "");
        assert_eq!(
            entry_json(&entry("3", "10.0.0.2")).to_string(),
            r#"{"key":{"netns":4711,"pod":"default/web"},"value":{"slot":3,"redirect_v4":"10.0.0.2"}}"#
        );
    }
}
