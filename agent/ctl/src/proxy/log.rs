//! Loggers and their levels.

use serde_json::{Value, json};

use super::{lines, text};
use crate::{show::rows::Rows, table::Table};

/// Those that `/logging` lists, as text: `  upstream: debug` a line, after one that says so.
pub fn loggers(listed: &str) -> Vec<Value> {
    let pairs = listed.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(": "));
    pairs.map(|(logger, level)| json!({ "logger": logger, "level": level })).collect()
}

pub(super) fn table(rows: &Rows<Value>) -> Table {
    lines(rows, ["LOGGER", "LEVEL"], |row| vec![[text(&row["logger"]).to_owned(), text(&row["level"]).to_owned()]])
}
