//! Virtual hosts that come by themselves. A source has those of all route configurations, each with the name of its own
//! before the last slash; a cell has those of one, offered all together.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;

use super::read;
use crate::{
    config::cell::Feed,
    xds::{
        kind::Kind,
        update::{Refused, Update},
        wishes::{Handle, Options, Subscription},
    },
};

/// What there is of each cell, by its number.
#[derive(Debug, Default)]
pub(super) struct Hosts(HashMap<u64, OfTable>);

/// What there is of one route configuration.
#[derive(Debug, Default)]
struct OfTable {
    /// Encoded, by their resources' names.
    hosts: BTreeMap<Arc<str>, Bytes>,
    /// Further names of theirs.
    aliases: HashMap<Arc<str>, Vec<String>>,
    /// What requests have asked for.
    asked: HashMap<Arc<str>, Subscription>,
}

/// The route configuration that a virtual host is of.
pub(super) fn table_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(table, _)| table)
}

impl Hosts {
    /// A cell is followed from now on. What came on behalf of others does not come again.
    pub(super) fn begin(&mut self, cell: &dyn Feed, handle: &Handle) {
        let known = handle.store().of(Kind::VirtualHost);
        let own = known.entries.iter().filter(|(name, _)| table_of(name) == &*cell.subject().name);
        let hosts: BTreeMap<_, _> =
            own.filter_map(|(name, entry)| Some((name.clone(), entry.accepted.as_ref()?.body.clone()))).collect();
        if let Some(version) = &known.version {
            let offered = match hosts.is_empty() {
                true => Ok(false),
                false => cell.offer(&together(&hosts), version, SystemTime::now()),
            };
            if offered == Ok(false) {
                cell.miss(false);
            }
        }
        self.0.insert(cell.number(), OfTable { hosts, ..OfTable::default() });
    }

    /// Asks for one on behalf of a request.
    pub(super) fn ask(&mut self, number: u64, name: Arc<str>, handle: &Handle) {
        let Some(of) = self.0.get_mut(&number) else { return };
        // Requests have time limits of their own, and the subscription to all is counted.
        let options = Options { timeout: None, ..Options::default() };
        of.asked.insert(name.clone(), handle.subscribe(Kind::VirtualHost, Some(name), options));
    }

    /// Requests need these no more.
    pub(super) fn forget(&mut self, number: u64, names: &[Arc<str>]) {
        let Some(of) = self.0.get_mut(&number) else { return };
        names.iter().for_each(|name| _ = of.asked.remove(name));
    }

    /// A cell is gone.
    pub(super) fn end(&mut self, number: u64) {
        self.0.remove(&number);
    }

    /// Takes what it can of an update: of each route configuration all or nothing.
    pub(super) fn update(
        &mut self,
        cells: impl Iterator<Item = Arc<dyn Feed>>,
        update: &Update,
        now: SystemTime,
    ) -> Result<(), Refused> {
        let mut refused = Vec::new();
        for cell in cells {
            let Some(of) = self.0.get_mut(&cell.number()) else { continue };
            if let Err(why) = of.update(&*cell, update, now) {
                let own = update.added.iter().filter(|resource| table_of(&resource.name) == &*cell.subject().name);
                refused.extend(own.map(|resource| (resource.name.clone(), why.clone())));
            }
        }
        read::verdict(refused)
    }
}

impl OfTable {
    fn update(&mut self, cell: &dyn Feed, update: &Update, now: SystemTime) -> Result<(), String> {
        let own = |name: &Arc<str>| table_of(name) == &*cell.subject().name;
        let came = || update.added.iter().chain(&update.unchanged).filter(|resource| own(&resource.name));
        let mut hosts = self.hosts.clone();
        for name in update.removed.iter().filter(|name| own(name)) {
            hosts.remove(name);
        }
        let known = came().filter(|resource| !resource.is_absent());
        hosts.extend(known.map(|resource| (resource.name.clone(), resource.body.clone())));
        if came().next().is_none() && hosts.len() == self.hosts.len() {
            // Nothing of it, but an answer.
            cell.miss(false);
            return Ok(());
        }
        cell.offer(&together(&hosts), &update.version, now)?;
        self.hosts = hosts;
        for resource in came() {
            let found = !resource.is_absent();
            cell.answer(&resource.name, found);
            resource.aliases.iter().for_each(|alias| cell.answer(alias, found));
            if found {
                self.aliases.insert(resource.name.clone(), resource.aliases.clone());
            }
        }
        for name in update.removed.iter().filter(|name| own(name)) {
            cell.answer(name, false);
            let aliases = self.aliases.remove(name).unwrap_or_default();
            aliases.iter().for_each(|alias| cell.answer(alias, false));
        }
        Ok(())
    }
}

fn together(hosts: &BTreeMap<Arc<str>, Bytes>) -> Bytes {
    read::together(Kind::VirtualHost, hosts.values())
}
