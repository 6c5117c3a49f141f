//! `weirctl`, as a user runs it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{
    mesh::binary,
    process::{Launch, Outcome, Process},
};

/// A call must answer within this.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long an agent may take on a slow machine; without it, weirctl gives up earlier.
const TIMEOUT: &str = "--timeout=20s";

/// weirctl against one agent.
#[derive(Clone, Debug)]
pub struct Weirctl {
    api: PathBuf,
    directory: PathBuf,
}

impl Weirctl {
    /// Against the agent whose API socket is `api`.
    pub fn new(api: &Path, directory: &Path) -> Self {
        Self { api: api.to_owned(), directory: directory.to_owned() }
    }

    fn launch(&self, arguments: &[&str]) -> Launch<'static> {
        let api = self.api.display().to_string();
        Launch::new(binary("weirctl"), &self.directory).args(["--agent", &api, TIMEOUT]).args(arguments)
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.launch(arguments).output(PATIENCE)
    }

    /// Runs it and expects success; gives what it wrote.
    #[track_caller]
    pub fn text(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert!(outcome.status.success(), "weirctl {arguments:?}: {outcome:?}");
        outcome.stdout
    }

    /// Leaves it running, its output in a log.
    pub fn start(&self, arguments: &[&str]) -> Process {
        self.launch(arguments).start()
    }

    /// Runs it with `-j`.
    pub fn try_json(&self, arguments: &[&str]) -> Result<Value, String> {
        let outcome = self.run(&[&["-j"], arguments].concat());
        if !outcome.status.success() {
            return Err(format!("weirctl -j {}: {}", arguments.join(" "), outcome.stderr.trim()));
        }
        serde_json::from_str(&outcome.stdout).map_err(|error| format!("{error} in {}", outcome.stdout))
    }

    /// Runs it with `-j` and expects success.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.try_json(arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    /// `pod list`, by `namespace/name`.
    pub fn pods(&self) -> Result<BTreeMap<String, Value>, String> {
        let list = self.try_json(&["pod", "list"])?;
        let rows = list.as_array().ok_or_else(|| format!("not a list: {list}"))?;
        Ok(rows.iter().map(|row| (format!("{}/{}", text(row, "namespace"), text(row, "name")), row.clone())).collect())
    }

    /// The row of one pod.
    #[track_caller]
    pub fn pod(&self, name: &str) -> Value {
        let pods = self.pods().unwrap_or_else(|error| panic!("{error}"));
        pods.get(name).unwrap_or_else(|| panic!("no pod {name} among {:?}", pods.keys())).clone()
    }

    /// Decisions of a pod by rule.
    #[track_caller]
    pub fn counters(&self, pod: &str) -> Counters {
        let row = self.pod(pod);
        let rules = row["counters"].as_object().unwrap_or_else(|| panic!("no counters in {row}"));
        Counters(rules.iter().map(|(rule, count)| (rule.clone(), number(count))).collect())
    }

    /// Sum of `redirect list` over the rows that `wanted` picks.
    #[track_caller]
    pub fn redirects(&self, wanted: impl Fn(&Value) -> bool) -> u64 {
        let list = self.json(&["redirect", "list", "--all"]);
        let rows = list.as_array().unwrap_or_else(|| panic!("not a list: {list}"));
        rows.iter().filter(|row| wanted(row)).map(|row| number(&row["count"])).sum()
    }

    /// Entries of a map.
    #[track_caller]
    pub fn map_entries(&self, name: &str) -> usize {
        let dump = self.json(&["map", "dump", name]);
        dump.as_array().unwrap_or_else(|| panic!("not a list: {dump}")).len()
    }
}

/// A field's text, empty where there is none.
pub fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_default()
}

/// A number, also one written as text, as proto3-JSON does with 64 bits.
#[track_caller]
pub fn number(value: &Value) -> u64 {
    match value {
        Value::Null => 0,
        Value::Number(number) => number.as_u64().unwrap_or_else(|| panic!("not a count: {number}")),
        Value::String(text) => text.parse().unwrap_or_else(|error| panic!("{text}: {error}")),
        other => panic!("not a number: {other}"),
    }
}

/// Decisions by rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub BTreeMap<String, u64>);

impl Counters {
    /// Decisions under a rule.
    pub fn of(&self, rule: weir_abi::Rule) -> u64 {
        self.0.get(rule.name()).copied().unwrap_or_default()
    }

    /// What was added since.
    pub fn since(&self, earlier: &Self) -> Self {
        Self(
            self.0
                .iter()
                .map(|(rule, count)| (rule.clone(), count - earlier.0.get(rule).copied().unwrap_or_default()))
                .filter(|(_, count)| *count != 0)
                .collect(),
        )
    }
}
