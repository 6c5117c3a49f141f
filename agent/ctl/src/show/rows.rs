//! Lists and single things: of one node, where that goes without saying, or with the node that each is of.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::table::Table;

/// The name of the node in JSON.
const NODE: &str = "node";

/// A list. All rows say their node, or none does.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows<T> {
    per_node: bool,
    rows: Vec<(String, T)>,
}

impl<T> Rows<T> {
    /// Those of the node that was asked.
    pub fn here(rows: Vec<T>) -> Self {
        Self { per_node: false, rows: rows.into_iter().map(|row| (String::new(), row)).collect() }
    }

    /// Says which node's they are.
    pub fn of_node(self, node: &str) -> Self {
        Self { per_node: true, rows: self.rows.into_iter().map(|(_, row)| (node.to_owned(), row)).collect() }
    }

    /// With those of another node.
    pub fn and(mut self, other: Self) -> Self {
        self.rows.extend(other.rows);
        self
    }

    /// Without those that are not wanted.
    pub fn retain(&mut self, wanted: impl Fn(&T) -> bool) {
        self.rows.retain(|(_, row)| wanted(row));
    }

    /// By a key; those with the same one stay as they are.
    pub fn sort_by_key<K: Ord>(&mut self, key: impl Fn(&T) -> K) {
        self.rows.sort_by_key(|(_, row)| key(row));
    }

    /// The rows.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.rows.iter().map(|(_, row)| row)
    }

    /// A table of them.
    pub fn table<const N: usize>(&self, header: [&str; N], cells: impl Fn(&T) -> [String; N]) -> Table {
        self.table_of(&header.map(str::to_owned), |row| cells(row).into())
    }

    /// A table whose columns are not known beforehand.
    pub fn table_of(&self, header: &[String], cells: impl Fn(&T) -> Vec<String>) -> Table {
        let mut table = Table::new(self.node("NODE").into_iter().chain(header.iter().cloned()));
        for (node, row) in &self.rows {
            table.row(self.node(node).into_iter().chain(cells(row)));
        }
        table
    }

    /// A table in which a row may have several lines.
    pub fn table_of_lines(&self, header: &[String], lines: impl Fn(&T) -> Vec<Vec<String>>) -> Table {
        let mut table = Table::new(self.node("NODE").into_iter().chain(header.iter().cloned()));
        for (node, row) in &self.rows {
            for cells in lines(row) {
                table.row(self.node(node).into_iter().chain(cells));
            }
        }
        table
    }

    fn node(&self, cell: &str) -> Option<String> {
        self.per_node.then(|| cell.to_owned())
    }
}

impl<T: Serialize> Rows<T> {
    /// A list of them.
    pub fn json(&self) -> Result<Value, serde_json::Error> {
        let row = |(node, row): &(String, T)| {
            let value = serde_json::to_value(row)?;
            Ok(if self.per_node { placed(node, value) } else { value })
        };
        self.rows.iter().map(row).collect()
    }
}

/// One thing.
#[derive(Clone, Debug, PartialEq)]
pub struct One<T> {
    /// The node that it is of, unless that goes without saying.
    pub node: Option<String>,
    /// The thing.
    pub item: T,
}

impl<T> One<T> {
    /// That of the node that was asked.
    pub fn here(item: T) -> Self {
        Self { node: None, item }
    }

    /// Says which node's it is.
    pub fn of_node(self, node: &str) -> Self {
        Self { node: Some(node.to_owned()), ..self }
    }
}

impl<T: Serialize> One<T> {
    /// The thing as an object.
    pub fn json(&self) -> Result<Value, serde_json::Error> {
        let value = serde_json::to_value(&self.item)?;
        Ok(match &self.node {
            Some(node) => placed(node, value),
            None => value,
        })
    }
}

/// An object with the node that it is of, before all else.
pub fn placed(node: &str, value: Value) -> Value {
    let Value::Object(fields) = value else { return value };
    let mut object = Map::new();
    object.insert(NODE.to_owned(), node.into());
    object.extend(fields);
    // What the node calls itself may be another name.
    object.insert(NODE.to_owned(), node.into());
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_of_several_nodes_say_which() {
        #[derive(Clone, Serialize)]
        struct Row {
            id: u32,
        }
        let rows = |ids: &[u32]| Rows::here(ids.iter().map(|id| Row { id: *id }).collect());
        let table = |rows: &Rows<Row>| rows.table(["ID"], |row| [row.id.to_string()]).to_string();
        assert_eq!((table(&rows(&[7])).as_str(), rows(&[7]).json().unwrap()), ("ID\n7\n", json!([{ "id": 7 }])));
        let mut nodes = rows(&[7, 9]).of_node("n1").and(rows(&[8]).of_node("n2"));
        nodes.retain(|row| row.id != 9);
        nodes.sort_by_key(|row| std::cmp::Reverse(row.id));
        assert_eq!(table(&nodes), "NODE  ID\nn2    8\nn1    7\n");
        assert_eq!(nodes.json().unwrap().to_string(), r#"[{"node":"n2","id":8},{"node":"n1","id":7}]"#);
        assert_eq!(table(&rows(&[]).of_node("n1")), "NODE  ID\n");
    }
}
