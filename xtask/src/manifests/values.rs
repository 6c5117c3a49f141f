//! The table of a chart's values: names and defaults from values.yaml, descriptions from its comments that start with
//! `# --`.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;

/// The table, in Markdown. Every value must have a description, or be part of one that has.
pub fn table(text: &str) -> Result<String> {
    let values: Value = serde_saphyr::from_str(text).context("values.yaml")?;
    let mut descriptions = descriptions(text);
    let mut table = String::from("| value | default | |\n|---|---|---|\n");
    rows("", &values, &mut descriptions, &mut table)?;
    let unused: Vec<&String> = descriptions.keys().collect();
    ensure!(unused.is_empty(), "values.yaml: descriptions of no value: {unused:?}");
    Ok(table)
}

fn rows(path: &str, value: &Value, descriptions: &mut BTreeMap<String, String>, table: &mut String) -> Result<()> {
    if let Some(description) = descriptions.remove(path) {
        let default = value.to_string().replace('|', "\\|");
        table.push_str(&format!("| `{path}` | `{default}` | {} |\n", description.replace('|', "\\|")));
        return Ok(());
    }
    let fields = value.as_object().with_context(|| format!("values.yaml: {path} has no description (`# -- ...`)"))?;
    for (name, value) in fields {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        rows(&path, value, descriptions, table)?;
    }
    Ok(())
}

/// Descriptions by the dotted path of the value that follows them.
fn descriptions(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut description: Option<String> = None;
    // Names of the enclosing values, with their indentation.
    let mut above: Vec<(usize, &str)> = Vec::new();
    for line in text.lines() {
        let content = line.trim_start();
        let indentation = line.len() - content.len();
        if let Some(comment) = content.strip_prefix('#') {
            let comment = comment.trim();
            match (&mut description, comment.strip_prefix("-- ")) {
                (_, Some(start)) => description = Some(start.to_owned()),
                (Some(description), None) => {
                    description.push(' ');
                    description.push_str(comment);
                }
                (None, None) => {}
            }
        } else if let Some((name, _)) = content.split_once(':').filter(|_| !content.starts_with('-')) {
            above.retain(|(outer, _)| *outer < indentation);
            above.push((indentation, name));
            if let Some(description) = description.take() {
                let path: Vec<&str> = above.iter().map(|(_, name)| *name).collect();
                found.insert(path.join("."), description);
            }
        } else {
            description = None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: &str = "\
# A remark.

# -- Where it runs.
namespace: weir-system
agent:
  # -- What it logs:
  # a|b.
  log: info
  # -- What it asks for.
  resources:
    requests:
      cpu: 50m
# -- Which taints.
tolerations:
  - operator: Exists
";

    #[test]
    fn a_value_is_a_row() {
        let rows: Vec<String> = table(VALUES).unwrap().lines().skip(2).map(str::to_owned).collect();
        assert_eq!(
            rows,
            [
                r#"| `namespace` | `"weir-system"` | Where it runs. |"#,
                r#"| `agent.log` | `"info"` | What it logs: a\|b. |"#,
                r#"| `agent.resources` | `{"requests":{"cpu":"50m"}}` | What it asks for. |"#,
                r#"| `tolerations` | `[{"operator":"Exists"}]` | Which taints. |"#,
            ]
        );
    }

    #[test]
    fn a_value_without_description_is_told() {
        let error = table("agent:\n  log: info\n").unwrap_err();
        assert_eq!(error.to_string(), "values.yaml: agent.log has no description (`# -- ...`)");
    }
}
