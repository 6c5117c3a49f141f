//! `kubectl weir`, as a user runs it.

use serde_json::Value;
use weir_abi::Rule;

use super::{
    command::CommandLine,
    kubectl::{PATIENCE, eventually},
};
use crate::weirctl::{Counters, number, text};

/// `kubectl weir` against the cluster.
#[derive(Debug)]
pub struct Weir(pub CommandLine);

impl Weir {
    /// Runs it.
    pub fn run(&self, arguments: &[&str]) -> Result<String, String> {
        self.0.run(arguments, b"", PATIENCE)
    }

    /// Runs it with `-j`.
    pub fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        let written = self.run(&[&["-j"], arguments].concat())?;
        serde_json::from_str(&written).map_err(|error| format!("{error} in {written}"))
    }

    /// `pod list --all` of all namespaces.
    pub fn pods(&self) -> Result<Vec<Value>, String> {
        let list = self.json(&["pod", "list", "-A", "--all"])?;
        list.as_array().cloned().ok_or_else(|| format!("not a list: {list}"))
    }

    /// A pod's row.
    pub fn pod(&self, pod: &str) -> Result<Value, String> {
        self.json(&["pod", "show", pod])
    }

    /// A pod's decisions by rule; none for one that is not enrolled.
    pub fn counters(&self, pod: &str) -> Result<Counters, String> {
        let row = self.pod(pod)?;
        let rules = row["counters"].as_object().cloned().unwrap_or_default();
        Ok(Counters(rules.iter().map(|(rule, count)| (rule.clone(), number(count))).collect()))
    }

    /// Waits until a pod is in a state, and gives the reason that is said with it.
    pub fn state(&self, pod: &str, wanted: &str) -> Result<String, String> {
        eventually(&format!("{pod} {wanted}"), PATIENCE, || {
            let row = self.pod(pod)?;
            match text(&row, "state") {
                state if state == wanted => Ok(text(&row, "reason").to_owned()),
                state => Err(format!("{state}: {}", text(&row, "reason"))),
            }
        })
    }

    /// Connections of a pod to a destination (or any, `""`) that were decided by a rule.
    pub fn redirects(&self, pod: &str, to: &str, rule: Rule) -> Result<u64, String> {
        let list = self.json(&["redirect", "list", "-A"])?;
        let rows = list.as_array().ok_or_else(|| format!("not a list: {list}"))?;
        let wanted = |row: &&Value| {
            text(row, "pod") == pod
                && text(row, "rule") == rule.name()
                && (to.is_empty() || text(row, "original_destination") == to)
        };
        Ok(rows.iter().filter(wanted).map(|row| number(&row["count"])).sum())
    }
}
