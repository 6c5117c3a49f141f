//! What is shown, one file each.

pub mod absent;
pub mod churn;
pub mod disruptions;
pub mod first;
pub mod opt_in;
pub mod policy;
pub mod probes;
pub mod reboot;
pub mod rollback;
pub mod scale;
pub mod traffic;
pub mod uninstall;
pub mod upgrade;

use std::time::Duration;

use super::{Cluster, report::Report};

/// How long pods may take to become ready.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A scenario.
pub type Scenario = fn(&Cluster, &mut Report) -> Result<(), String>;

/// All, in the order in which they are run.
pub const ALL: [(&str, Scenario); 11] = [
    ("traffic", traffic::run),
    ("policy", policy::run),
    ("opt-in", opt_in::run),
    ("upgrade", upgrade::run),
    ("rollback", rollback::run),
    ("absent", absent::run),
    ("churn", churn::run),
    ("disruptions", disruptions::run),
    ("scale", scale::run),
    ("reboot", reboot::run),
    ("uninstall", uninstall::run),
];

/// Removes namespaces when it goes.
pub struct Namespaces<'a> {
    cluster: &'a Cluster,
    names: Vec<String>,
}

impl<'a> Namespaces<'a> {
    /// Makes namespaces, those with `true` enrolled; what an interrupted run left of them goes first.
    pub fn make(cluster: &'a Cluster, names: &[(&str, bool)]) -> Result<Self, String> {
        let this = Self { cluster, names: names.iter().map(|(name, _)| (*name).to_owned()).collect() };
        for (name, enrolled) in names {
            cluster.kubectl.remove_namespace(name)?;
            cluster.kubectl.namespace(name, *enrolled)?;
        }
        Ok(this)
    }
}

impl Drop for Namespaces<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(why) = self.cluster.kubectl.remove_namespace(name) {
                println!("       namespace {name} is left: {why}");
            }
        }
    }
}
