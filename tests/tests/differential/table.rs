//! The table of deliberate differences in docs/envoy-differences.md, and the case files' entries: they are the same.

use std::{collections::BTreeSet, path::Path};

/// What is wrong between the rows of the table and the entries that were met.
pub fn mistakes(met: &BTreeSet<String>) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/envoy-differences.md");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return vec![format!("{}: {error}", path.display())],
    };
    let rows: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |").map(|(id, _)| id.to_owned()))
        .collect();
    let unmet = rows.difference(met).map(|id| format!("`{id}` stands in the table, but no case meets it"));
    let untold = met.difference(&rows).map(|id| format!("`{id}` is a difference that the table does not tell"));
    unmet.chain(untold).collect()
}
