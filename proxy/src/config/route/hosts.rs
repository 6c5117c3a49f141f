//! Virtual hosts that come by themselves, beside those of their route configuration (`vhds`).

use std::{fmt, sync::Arc};

use crate::config::cell::{Asked, Feed, Slot};

/// Virtual hosts that come by themselves, beside those of a table of type `T`.
pub struct DiscoveredHosts<T> {
    /// Where they come from: asked for one by its table's name and the host of a request.
    pub cell: Arc<dyn Feed>,
    /// The table with all that have come.
    pub whole: Arc<Slot<T>>,
}

impl<T> fmt::Debug for DiscoveredHosts<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DiscoveredHosts").field(&self.cell).finish()
    }
}

impl<T> DiscoveredHosts<T> {
    /// Asks for the virtual host of a request. None: there is nothing to wait for.
    pub fn ask(&self, authority: &[u8]) -> Option<Asked> {
        let host = std::str::from_utf8(authority).ok()?.to_ascii_lowercase();
        let name = format!("{}/{host}", self.cell.subject().name);
        self.cell.ask(&name.into())
    }
}
