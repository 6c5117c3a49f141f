//! Virtual hosts that come by themselves, beside those of their route configuration (`vhds`).

use std::{fmt, sync::Arc};

use super::RouteTable;
use crate::config::cell::{Asked, Feed, Slot};

/// Virtual hosts that come by themselves.
pub struct DiscoveredHosts {
    /// Where they come from: asked for one by its table's name and the host of a request.
    pub cell: Arc<dyn Feed>,
    /// The table with all that have come.
    pub whole: Arc<Slot<RouteTable>>,
}

impl fmt::Debug for DiscoveredHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DiscoveredHosts").field(&self.cell).finish()
    }
}

impl DiscoveredHosts {
    /// Asks for the virtual host of a request. None: there is nothing to wait for.
    pub fn ask(&self, authority: &[u8]) -> Option<Asked> {
        let host = std::str::from_utf8(authority).ok()?.to_ascii_lowercase();
        let name = format!("{}/{host}", self.cell.subject().name);
        self.cell.ask(&name.into())
    }
}

impl RouteTable {
    /// This with the virtual hosts that have come, if any come by themselves.
    pub fn whole(&self) -> Option<Arc<RouteTable>> {
        self.discovered.as_ref()?.whole.current()
    }
}
