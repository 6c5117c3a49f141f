//! What could leak, counted before and after.

use std::{collections::BTreeMap, fs, time::Duration};

use weir_abi::map::name;

use crate::{
    mesh::{Agent, Proxy},
    poll::wait_for,
};

/// File descriptors that come and go by themselves: clients keep connections for the next request.
pub const IDLE: usize = 3;
/// Closing is not instant for connections that drain.
const PATIENCE: Duration = Duration::from_secs(120);

const AGENT_FDS: &str = "fds of the agent";

/// File descriptors, entries of maps, pins and programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings(BTreeMap<String, usize>);

impl Holdings {
    /// Of an agent and its proxy, now.
    #[track_caller]
    pub fn of(agent: &Agent, proxy: &Proxy) -> Self {
        let mut counts = BTreeMap::from([
            (AGENT_FDS.to_owned(), agent.process.open_fds()),
            ("fds of the proxy".to_owned(), proxy.process.open_fds()),
        ]);
        let entries = [
            name::ENROLLED,
            name::PORT_RULES,
            name::EXCLUDED_CIDRS,
            name::LISTENERS,
            name::PENDING,
            name::SLOTS,
            name::NODE_CONNECTIONS,
        ];
        for map in entries {
            counts.insert(format!("entries of {map}"), agent.ctl.map_entries(map));
        }
        for kind in ["links", "programs", "maps"] {
            let pins = fs::read_dir(agent.place.pins().join(kind)).expect("pins").count();
            counts.insert(format!("pinned {kind}"), pins);
        }
        let programs = agent.ctl.json(&["prog", "list"]);
        counts.insert("programs".to_owned(), programs.as_array().expect("a list").len());
        Self(counts)
    }

    /// Waits until nothing is held beyond this, but for so many file descriptors of the agent.
    #[track_caller]
    pub fn wait_no_more(&self, agent: &Agent, proxy: &Proxy, idle: usize) {
        wait_for("all is as before", PATIENCE, || {
            let now = Self::of(agent, proxy);
            let allowed = |what: &str| self.0[what] + if what == AGENT_FDS { idle } else { 0 };
            let more: Vec<_> = now.0.iter().filter(|(what, count)| **count > allowed(what)).collect();
            if more.is_empty() { Ok(()) } else { Err(format!("{more:?} before {self:?}")) }
        });
    }
}
