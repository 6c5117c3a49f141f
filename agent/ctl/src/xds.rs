//! What a proxy follows, by source and type: from the client status that its admin server tells.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    show::rows::Rows,
    table::Table,
    time::{self, Time},
};

/// Where a proxy tells it.
pub const PATH: &str = "/v3/discovery:client_status?exclude_resource_contents";

/// One type of one source, or one resource of it that was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Whose it is; empty: the process's own view.
    pub view: String,
    /// The proxy's name for servers there; that of an older program is not known.
    #[serde(default)]
    pub node: String,
    /// Where it comes from.
    pub source: String,
    /// The type, by its short name.
    #[serde(rename = "type")]
    pub kind: String,
    /// How it stands.
    pub status: Status,
    /// Resources in force, and all that are known.
    pub accepted: usize,
    /// See [`accepted`](Self::accepted).
    pub resources: usize,
    /// The latest version in force.
    pub version: String,
    /// When it was taken.
    pub updated: Time,
    /// Resources that were refused, or have not come, with why.
    pub faults: Vec<Fault>,
}

/// A resource that is not as the server would have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Its name; `*`: everything of the type.
    pub name: String,
    /// What is wrong.
    pub why: String,
}

/// How a type stands; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Status {
    /// Something was refused, and what was in force before stays.
    #[serde(rename = "NACKED")]
    Nacked,
    /// What is in force is not known to be what the server has: there is no stream, or it is from disk.
    #[serde(rename = "STALE")]
    Stale,
    /// Something was asked for and has not come.
    #[serde(rename = "NOT SENT")]
    NotSent,
    /// All is as the server has it.
    #[serde(rename = "SYNCED")]
    Synced,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Nacked => "NACKED",
            Self::Stale => "STALE",
            Self::NotSent => "NOT SENT",
            Self::Synced => "SYNCED",
        }
    }
}

/// The types of `ClientStatusResponse`s.
pub fn rows(response: &Value) -> Vec<Row> {
    let configs = response["config"].as_array().into_iter().flatten();
    configs.flat_map(of_source).collect()
}

fn of_source(config: &Value) -> Vec<Row> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let scope = config["client_scope"].as_str().unwrap_or_default();
    let (view, source) = scope.strip_prefix("view/").and_then(|of| of.split_once('/')).unwrap_or(("", scope));
    let mut kinds: BTreeMap<usize, Row> = BTreeMap::new();
    for resource in config["generic_xds_configs"].as_array().into_iter().flatten() {
        let type_url = resource["type_url"].as_str().unwrap_or_default();
        let (at, kind) = short(type_url);
        let row = kinds.entry(at).or_insert_with(|| Row {
            view: view.to_owned(),
            node: text(&config["node"]["id"]),
            source: source.to_owned(),
            kind,
            status: Status::Synced,
            accepted: 0,
            resources: 0,
            version: String::new(),
            updated: Time::default(),
            faults: Vec::new(),
        });
        row.add(resource);
    }
    kinds.into_values().collect()
}

impl Row {
    fn add(&mut self, resource: &Value) {
        let text = |field: &str| resource[field].as_str().unwrap_or_default();
        let name = text("name");
        self.resources += usize::from(name != "*");
        let updated: Time = serde_json::from_value(resource["last_updated"].clone()).unwrap_or_default();
        if updated != Time::default() {
            self.accepted += usize::from(name != "*");
            if updated >= self.updated {
                text("version_info").clone_into(&mut self.version);
                self.updated = updated;
            }
        }
        let (status, why) = match (text("config_status"), text("client_status")) {
            ("ERROR", _) => (Status::Nacked, resource["error_state"]["details"].as_str().unwrap_or("refused")),
            ("STALE", _) => (Status::Stale, ""),
            // The server has said that there is none: that is known, too.
            (_, "DOES_NOT_EXIST") => (Status::Synced, "the server has none"),
            ("NOT_SENT", "TIMEOUT") => (Status::NotSent, "did not come in time"),
            ("NOT_SENT", _) => (Status::NotSent, "has not come yet"),
            _ => (Status::Synced, ""),
        };
        self.status = self.status.min(status);
        if !why.is_empty() {
            self.faults.push(Fault { name: name.to_owned(), why: why.to_owned() });
        }
    }
}

/// The short name of a type, and where it stands in the order in which types depend on one another.
fn short(type_url: &str) -> (usize, String) {
    const KINDS: [(&str, &str); 9] = [
        ("Cluster", "cds"),
        ("ClusterLoadAssignment", "eds"),
        ("Listener", "lds"),
        ("ScopedRouteConfiguration", "srds"),
        ("RouteConfiguration", "rds"),
        ("VirtualHost", "vhds"),
        ("Secret", "sds"),
        ("TypedExtensionConfig", "ecds"),
        ("Runtime", "rtds"),
    ];
    let message = type_url.rsplit('.').next().unwrap_or_default();
    let at = KINDS.iter().position(|(known, _)| *known == message);
    at.map_or_else(|| (KINDS.len(), type_url.to_owned()), |at| (at, KINDS[at].1.to_owned()))
}

/// A table of them: what is wrong has a line each.
pub fn table(rows: &Rows<Row>, now: Time) -> Table {
    let header = ["VIEW", "SOURCE", "TYPE", "STATUS", "RESOURCES", "VERSION", "AGE", "REASON"];
    rows.table_of_lines(&header.map(str::to_owned), |row| {
        let mut faults = row.faults.iter().map(|fault| format!("{}: {}", fault.name, fault.why));
        let count = format!("{}/{}", row.accepted, row.resources);
        let first = [
            row.view.clone(),
            row.source.clone(),
            row.kind.clone(),
            row.status.name().to_owned(),
            count,
            row.version.clone(),
            time::age(now, row.updated),
            faults.next().unwrap_or_default(),
        ];
        let more = faults.map(|fault| {
            let mut cells = [const { String::new() }; 8];
            (cells[0], cells[1], cells[2]) = (row.view.clone(), row.source.clone(), row.kind.clone());
            cells[7] = fault;
            cells.to_vec()
        });
        std::iter::once(first.to_vec()).chain(more).collect()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resource(kind: &str, name: &str, of: (&str, &str), rest: Value) -> Value {
        let mut resource = rest;
        resource["type_url"] = format!("type.googleapis.com/envoy.config.x.v3.{kind}").into();
        resource["name"] = name.into();
        (resource["config_status"], resource["client_status"]) = (of.0.into(), of.1.into());
        resource
    }

    #[test]
    fn a_type_is_what_the_worst_of_its_resources_is() {
        let at = |second: u32| json!({ "version_info": format!("v{second}"), "last_updated": format!("2026-11-20T08:00:{second:02}Z") });
        let mut refused = at(3);
        refused["error_state"] = json!({ "details": "no such thing" });
        let response = json!({ "config": [ { "node": { "id": "n" }, "client_scope": "ads", "generic_xds_configs": [
            resource("Listener", "l", ("SYNCED", "ACKED"), at(1)),
            resource("Cluster", "a", ("SYNCED", "ACKED"), at(2)),
            resource("Cluster", "b", ("ERROR", "NACKED"), refused),
            resource("Cluster", "c", ("STALE", "ACKED"), at(1)),
            resource("ClusterLoadAssignment", "a", ("NOT_SENT", "TIMEOUT"), json!({})),
            resource("ClusterLoadAssignment", "b", ("STALE", "ACKED"), at(5)),
            resource("RouteConfiguration", "r", ("NOT_SENT", "DOES_NOT_EXIST"), json!({})),
            resource("Secret", "*", ("NOT_SENT", "REQUESTED"), json!({})),
        ] }, { "node": { "id": "s" }, "client_scope": "view/shop/ads", "generic_xds_configs": [
            resource("Listener", "l", ("SYNCED", "ACKED"), at(1)),
        ] } ] });
        let rows = rows(&response);
        let now = Time(1_795_161_610 * 1_000_000_000);
        assert_eq!(
            table(&Rows::here(rows.clone()), now).to_string(),
            "VIEW  SOURCE  TYPE  STATUS    RESOURCES  VERSION  AGE  REASON\n\
             -     ads     cds   NACKED    3/3        v3       7s   b: no such thing\n\
             -     ads     eds   STALE     1/2        v5       5s   a: did not come in time\n\
             -     ads     lds   SYNCED    1/1        v1       9s   -\n\
             -     ads     rds   SYNCED    0/1        -        -    r: the server has none\n\
             -     ads     sds   NOT SENT  0/0        -        -    *: has not come yet\n\
             shop  ads     lds   SYNCED    1/1        v1       9s   -\n"
        );
        let again: Vec<Row> = serde_json::from_value(serde_json::to_value(&rows).unwrap()).unwrap();
        assert_eq!(again, rows);
    }
}
