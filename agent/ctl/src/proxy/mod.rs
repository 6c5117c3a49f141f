//! A proxy's configuration in force, as its admin server tells it: the columns of `istioctl proxy-config`.

mod certificate;
mod cluster;
mod endpoint;
mod listener;
mod log;
mod route;
mod secret;

use serde_json::Value;

use crate::{show::rows::Rows, table::Table};

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Clusters.
    Cluster,
    /// Listeners, a line for each filter chain.
    Listener,
    /// Routes.
    Route,
    /// Endpoints.
    Endpoint,
    /// Secrets.
    Secret,
    /// The bootstrap.
    Bootstrap,
    /// Loggers and their levels.
    Log,
}

impl What {
    /// Everything that there is a table of.
    pub const TABLES: [Self; 5] = [Self::Cluster, Self::Listener, Self::Route, Self::Endpoint, Self::Secret];

    /// As the command line calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Listener => "listener",
            Self::Route => "route",
            Self::Endpoint => "endpoint",
            Self::Secret => "secret",
            Self::Bootstrap => "bootstrap",
            Self::Log => "log",
        }
    }

    /// The one of a name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Bootstrap, Self::Log].into_iter().chain(Self::TABLES).find(|what| what.name() == name)
    }
}

/// What is asked of a proxy's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// All of these.
    pub what: Vec<What>,
    /// Of this view; none: of the process's own.
    pub view: Option<String>,
    /// Of them only these.
    pub filter: Filter,
    /// Sets levels of loggers first: `warning`, or `LOGGER:LEVEL,...`.
    pub level: Option<String>,
}

/// Which of what there is to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Part of a service's name, or of a cluster's.
    pub fqdn: Option<String>,
    /// A port.
    pub port: Option<u16>,
    /// A subset.
    pub subset: Option<String>,
    /// `inbound` or `outbound`.
    pub direction: Option<String>,
    /// The name of routes or of a secret.
    pub name: Option<String>,
    /// An address.
    pub address: Option<String>,
    /// A kind of listener.
    pub kind: Option<String>,
    /// Health.
    pub status: Option<String>,
}

impl Filter {
    /// Its options, with their values, as the command line has them.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        let port = self.port.map(|port| port.to_string());
        let all = [
            ("fqdn", &self.fqdn),
            ("port", &port),
            ("subset", &self.subset),
            ("direction", &self.direction),
            ("name", &self.name),
            ("address", &self.address),
            ("type", &self.kind),
            ("status", &self.status),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }
}

/// One kind of thing, as messages: of the nodes that were asked.
pub type Shown = (What, Rows<Value>);

/// What of a configuration dump is asked for.
pub fn resources(what: What, dump: &Value, filter: &Filter) -> Vec<Value> {
    match what {
        What::Cluster => cluster::resources(dump, filter),
        What::Listener => listener::resources(dump, filter),
        What::Route => route::resources(dump, filter),
        What::Endpoint => endpoint::resources(dump, filter),
        What::Secret => secret::resources(dump, filter),
        What::Bootstrap => part(dump, "Bootstrap").map(|part| part["bootstrap"].clone()).into_iter().collect(),
        What::Log => Vec::new(),
    }
}

/// Loggers, from the text of `/logging`.
pub use self::log::loggers;

/// As text.
pub fn plain((what, rows): &Shown) -> String {
    let table = match what {
        What::Cluster => cluster::table(rows),
        What::Listener => listener::table(rows),
        What::Route => route::table(rows),
        What::Endpoint => endpoint::table(rows),
        What::Secret => secret::table(rows),
        What::Log => log::table(rows),
        What::Bootstrap => return rows.iter().map(|bootstrap| format!("{bootstrap:#}\n")).collect(),
    };
    table.to_string()
}

/// A message of a dump, by its name without what all have in common: `Clusters` is `envoy.admin.v3.ClustersConfigDump`.
fn part<'a>(dump: &'a Value, name: &str) -> Option<&'a Value> {
    let wanted = format!("type.googleapis.com/envoy.admin.v3.{name}ConfigDump");
    dump["configs"].as_array()?.iter().find(|part| part["@type"] == wanted.as_str())
}

/// The items of lists of one of them.
fn items<'a>(dump: &'a Value, name: &str, lists: &'a [&'a str]) -> impl Iterator<Item = &'a Value> {
    let part = part(dump, name);
    lists.iter().filter_map(move |list| part?[*list].as_array()).flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The items of a list that may not be there.
fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Texts of a list that may not be there.
fn texts(value: &Value) -> Vec<&str> {
    list(value).iter().map(text).collect()
}

fn is(wanted: Option<&String>, found: &str) -> bool {
    wanted.is_none_or(|wanted| wanted.eq_ignore_ascii_case(found))
}

fn has(wanted: Option<&String>, found: &str) -> bool {
    wanted.is_none_or(|wanted| found.contains(wanted.as_str()))
}

/// The rule of Istio's that something was made from, `NAME.NAMESPACE`.
fn rule(metadata: &Value) -> String {
    let path = text(&metadata["filter_metadata"]["istio"]["config"]);
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["", "apis", "networking.istio.io", _, "namespaces", namespace, _, name] => format!("{name}.{namespace}"),
        _ => String::new(),
    }
}

/// What an Istio cluster's name says: `outbound|80|v1|reviews.default.svc.cluster.local`.
struct Parts<'a> {
    direction: &'a str,
    port: &'a str,
    subset: &'a str,
    fqdn: &'a str,
}

impl<'a> Parts<'a> {
    fn of(name: &'a str) -> Self {
        let mut parts = name.splitn(4, '|');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(direction), Some(port), Some(subset), Some(fqdn)) => Self { direction, port, subset, fqdn },
            _ => Self { direction: "", port: "", subset: "", fqdn: name },
        }
    }

    /// By which they are sorted.
    fn key(&self) -> (String, String, u32, String) {
        let port = self.port.parse().unwrap_or_default();
        (self.fqdn.to_owned(), self.subset.to_owned(), port, self.direction.to_owned())
    }
}

fn lines<const N: usize>(rows: &Rows<Value>, header: [&str; N], of: impl Fn(&Value) -> Vec<[String; N]>) -> Table {
    rows.table_of_lines(&header.map(str::to_owned), |row| of(row).into_iter().map(Vec::from).collect())
}

#[cfg(test)]
mod tests;
