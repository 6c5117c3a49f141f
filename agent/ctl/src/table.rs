//! Columns that do not shift: a header line, widths from the content, nothing cut off.

use std::fmt;

/// Spaces between columns.
const GAP: usize = 2;
/// What stands for an empty cell, so that a line always has as many words as the header.
const EMPTY: &str = "-";

/// A table of text.
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new<T: Into<String>>(header: impl IntoIterator<Item = T>) -> Self {
        Self { header: header.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let row: Vec<String> = cells.into_iter().map(|cell| clean(&cell)).collect();
        debug_assert_eq!(row.len(), self.header.len());
        self.rows.push(row);
    }
}

/// Text on one line: what could break a line or drive a terminal becomes a space.
pub fn clean(text: &str) -> String {
    if text.is_empty() {
        return EMPTY.to_owned();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| lines().map(|line| line[column].chars().count()).max().unwrap_or_default() + GAP)
            .collect();
        for line in lines() {
            let mut text = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                text.push_str(&format!("{cell:<width$}"));
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

/// Lines of a name and what it is, aligned.
pub struct Facts(Vec<(String, String)>);

impl Facts {
    /// No lines.
    pub fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a line; without a name it belongs to the one before.
    pub fn line(&mut self, name: &str, value: impl AsRef<str>) {
        self.0.push((name.to_owned(), clean(value.as_ref())));
    }

    /// Says of which node this is, where that does not go without saying.
    pub fn node(&mut self, node: Option<&str>) {
        if let Some(node) = node {
            self.line("node", node);
        }
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or_default() + GAP;
        for (name, value) in &self.0 {
            writeln!(f, "{name:<width$}{value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_content() {
        let mut table = Table::new(["POD", "REASON"]);
        table.row(["a".to_owned(), String::new()]);
        table.row(["default/a-long-name".to_owned(), "no\nsuch\x1b[31m file".to_owned()]);
        assert_eq!(
            table.to_string(),
            "POD                  REASON\n\
             a                    -\n\
             default/a-long-name  no such [31m file\n"
        );
    }

    #[test]
    fn an_empty_table_is_its_header() {
        assert_eq!(Table::new(["ID", "NAME"]).to_string(), "ID  NAME\n");
    }

    #[test]
    fn facts_are_aligned() {
        let mut facts = Facts::new();
        facts.line("pod", "default/web");
        facts.line("listener", "");
        assert_eq!(facts.to_string(), "pod       default/web\nlistener  -\n");
    }
}
