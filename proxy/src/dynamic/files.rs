//! Cells that are fed from files (`path_config_source`), each from a file of its own.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Weak},
    time::SystemTime,
};

use bytes::Bytes;
use prost::Message;
use weir_proto::envoy::service::discovery::v3::DiscoveryResponse;

use crate::{
    config::cell::{self, Feed, Feeder, Note, Refused, Registry, Source, Subject},
    xds::{
        file::{LOOK, Watched},
        kind::Kind,
        stats::SubscriptionStats,
    },
};

/// The files of a registry's cells.
#[derive(Debug)]
pub struct Files {
    registry: Arc<Registry>,
    /// By the cells' numbers: in the order in which they came.
    followed: BTreeMap<u64, File>,
}

#[derive(Debug)]
struct File {
    cell: Weak<dyn Feed>,
    watched: Watched,
    stats: SubscriptionStats,
}

/// The type that a cell's resources have on the wire.
pub fn wire(kind: cell::Kind) -> Kind {
    match kind {
        cell::Kind::Routes => Kind::Routes,
        cell::Kind::Hosts => Kind::VirtualHost,
        cell::Kind::ScopedRoutes => Kind::ScopedRoutes,
        cell::Kind::Secret => Kind::Secret,
        cell::Kind::Extension => Kind::Extension,
        cell::Kind::Runtime => Kind::Runtime,
    }
}

impl Files {
    /// None has been looked at yet.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, followed: BTreeMap::new() }
    }

    /// Feeds those cells whose files are others than at the last look, and those that what came names.
    pub fn look(&mut self, now: SystemTime) {
        self.heed();
        self.look_once(now);
        while self.heed() {
            self.look_once(now);
        }
    }

    fn look_once(&mut self, now: SystemTime) {
        for file in self.followed.values_mut() {
            let Some(cell) = file.cell.upgrade() else { continue };
            if file.watched.changed() {
                feed(&*cell, &file.watched, &file.stats, now);
            }
        }
    }

    /// Learns which cells there are; whether any are new.
    fn heed(&mut self) -> bool {
        let mut news = false;
        for note in self.registry.take(Feeder::Files) {
            match note {
                Note::Wanted(cell) => {
                    self.add(cell);
                    news = true;
                }
                Note::Gone(number) => {
                    self.followed.remove(&number);
                }
                // No file is asked anything.
                Note::Asked(..) | Note::Forgotten(..) | Note::Cluster(..) | Note::ForgottenClusters(..) => {}
            }
        }
        news
    }

    /// Looks at them for as long as it is polled.
    pub async fn follow(mut self) {
        loop {
            self.look(SystemTime::now());
            tokio::select! {
                () = self.registry.noted(Feeder::Files) => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn add(&mut self, weak: Weak<dyn Feed>) {
        let Some(cell) = weak.upgrade() else { return };
        let Source::File(path) = &cell.subject().source else { return };
        let watched = Watched::new(PathBuf::from(&**path));
        let file = File { cell: weak, watched, stats: SubscriptionStats::register(cell.scope()) };
        self.followed.insert(cell.number(), file);
    }
}

/// Offers a cell what its file has.
fn feed(cell: &dyn Feed, file: &Watched, stats: &SubscriptionStats, now: SystemTime) {
    let subject = cell.subject();
    let (kind, name) = (wire(subject.kind).short(), &subject.name);
    let response = match file.read() {
        Ok(response) => response,
        Err(unreadable) => {
            stats.failed();
            tracing::warn!(kind, %name, %unreadable, "file can't be read; what there was stays");
            return cell.miss(false);
        }
    };
    let version = Arc::from(response.version_info.as_str());
    let refused = match only(subject, response) {
        Ok(Some(body)) => cell.offer(&body, &version, now).map(|changed| {
            tracing::debug!(kind, %name, changed, "read");
        }),
        Ok(None) => {
            cell.miss(true);
            Ok(())
        }
        Err(why) => {
            cell.refuse(Refused { body: Bytes::new(), version: version.clone(), at: now, why: why.clone() });
            Err(why)
        }
    };
    match refused {
        Ok(()) => stats.succeeded(&version, now, None),
        Err(why) => {
            stats.rejected();
            tracing::warn!(kind, %name, file = %file.path().display(), %why, "is refused; what there was stays");
        }
    }
}

/// All resources of a file, as [`Kind::ScopedRoutes`] are offered: in a response that says nothing else.
fn all(response: DiscoveryResponse, wire: Kind) -> Result<Bytes, String> {
    response.resources.iter().try_for_each(|resource| wire.expect(&resource.type_url))?;
    let resources = response.resources;
    Ok(DiscoveryResponse { resources, ..DiscoveryResponse::default() }.encode_to_vec().into())
}

/// The one resource that a file is to have, encoded; none: as Envoy takes it, that of routes says nothing.
fn only(subject: &Subject, response: DiscoveryResponse) -> Result<Option<Bytes>, String> {
    let Subject { kind, name, .. } = subject;
    let wire = wire(*kind);
    if *kind == cell::Kind::ScopedRoutes {
        return all(response, wire).map(Some);
    }
    let short = wire.short().to_uppercase();
    let mut resources = response.resources.into_iter();
    let length = resources.len();
    let resource = match (resources.next(), length, kind) {
        (Some(resource), 1, _) => resource,
        (_, 0, cell::Kind::Routes) => return Ok(None),
        (_, 0, cell::Kind::Secret) => return Err(format!("Missing SDS resources for {name} in onConfigUpdate()")),
        (_, _, cell::Kind::Secret) => {
            return Err(format!(
                "Unexpected SDS secrets length for {name}, number of added resources {length}, number of removed \
                 resources 0. Expected sum is 1"
            ));
        }
        (_, _, cell::Kind::Extension) => {
            return Err(format!("Unexpected number of resources in ExtensionConfigDS response: {length}"));
        }
        _ => return Err(format!("Unexpected {short} resource length: {length}")),
    };
    wire.expect(&resource.type_url)?;
    let found = wire.name_of(&resource.value).map_err(|error| error.to_string())?;
    if *found != **name {
        return Err(match kind {
            cell::Kind::Extension => format!("Unexpected resource name in ExtensionConfigDS response: {found}"),
            cell::Kind::Runtime => format!("Unexpected {short} runtime (expecting {name}): {found}"),
            cell::Kind::Secret => format!("Unexpected {short} secret (expecting {name}): {found}"),
            _ => format!("Unexpected {short} configuration (expecting {name}): {found}"),
        });
    }
    Ok(Some(resource.value.into()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use weir_proto::envoy::extensions::transport_sockets::tls::v3::Secret;

    use super::*;
    use crate::{
        config::{
            Error,
            cell::{Cell, Making, Read, State},
        },
        telemetry::stats::{self, Scope, Store, Value},
    };

    /// The cell `a` of a file, which takes what is not longer than a name.
    fn cell(registry: &Registry, kind: cell::Kind, path: &std::path::Path, scope: &Scope) -> Arc<Cell<Bytes>> {
        let source = Source::File(path.to_str().unwrap().into());
        registry.cell(Subject { kind, source, name: "a".into() }, || {
            let read: Read<Bytes> = Box::new(|body| match body.len() {
                0..10 => Ok(body.clone()),
                _ => Err(Error::at("", "is too long")),
            });
            Making { timeout: None, scope: scope.scope("s"), read, reloads: None, further: cell::nothing_further }
        })
    }

    fn secret(name: &str) -> String {
        format!("{{ \"@type\": {}, name: {name} }}", Kind::Secret.type_url())
    }

    fn resources(list: &[String]) -> String {
        format!("{{ version_info: v, resources: [ {} ] }}", list.join(", "))
    }

    #[test]
    fn a_cell_is_fed_with_the_one_resource_of_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sds.yaml");
        let (registry, store) = (Arc::new(Registry::default()), Store::new(1));
        let cell = cell(&registry, cell::Kind::Secret, &path, &store.root());
        let mut files = Files::new(registry.clone());
        let mut look = |text: &str| {
            let beside = directory.path().join("beside");
            fs::write(&beside, text).unwrap();
            fs::rename(beside, &path).unwrap();
            files.look(SystemTime::now());
            cell.told().refused.map(|refused| refused.why)
        };
        assert_eq!(look("resources: {"), None);
        assert_eq!(*cell.state().borrow(), State::Refused);
        let refused = |why: &str| Some(why.to_owned());
        assert_eq!(look("{}"), refused("Missing SDS resources for a in onConfigUpdate()"));
        assert_eq!(look(&resources(&[secret("b")])), refused("Unexpected SDS secret (expecting a): b"));
        let two = resources(&[secret("a"), secret("a")]);
        let why = "Unexpected SDS secrets length for a, number of added resources 2, number of removed resources 0. \
                   Expected sum is 1";
        assert_eq!(look(&two), refused(why));
        let cluster = resources(&[secret("a").replace(Kind::Secret.type_url(), Kind::Cluster.type_url())]);
        let why = format!("expected a {}, not {}", Kind::Secret.type_url(), Kind::Cluster.type_url());
        assert_eq!(look(&cluster), Some(why));
        assert_eq!(look(&resources(&[secret("a")])), None);
        let named = Secret { name: "a".into(), ..Secret::default() }.encode_to_vec();
        assert_eq!(cell.current().as_deref().map(|value| value.to_vec()), Some(named));
        let long = secret("a").replace("name: a", "name: a, generic_secret: { secret: { inline_string: long } }");
        assert_eq!(look(&resources(&[long])), refused("is too long"));
        let counters = store.read(stats::Kind::Counter, |name| name.starts_with("s.update"));
        let counted = counters.iter().map(|metric| match metric.value {
            Value::Counter(value) => format!("{}={value}", metric.name()),
            _ => String::new(),
        });
        let mut counted: Vec<_> = counted.collect();
        counted.sort();
        assert_eq!(counted, ["s.update_attempt=7", "s.update_failure=1", "s.update_rejected=5", "s.update_success=1"]);
        drop(cell);
        files.look(SystemTime::now());
        assert!(files.followed.is_empty());
    }

    #[test]
    fn routes_may_be_missing_and_scopes_come_together() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Arc::new(Registry::default());
        let [routes, scopes] = ["rds.yaml", "srds.yaml"].map(|name| directory.path().join(name));
        fs::write(&routes, "{}").unwrap();
        fs::write(&scopes, "{}").unwrap();
        let routes = cell(&registry, cell::Kind::Routes, &routes, &Scope::default());
        let scopes = cell(&registry, cell::Kind::ScopedRoutes, &scopes, &Scope::default());
        Files::new(registry.clone()).look(SystemTime::now());
        assert_eq!((*routes.state().borrow(), routes.current().is_some()), (State::Refused, false));
        assert_eq!((*scopes.state().borrow(), scopes.current().is_some()), (State::Ready, true));
        assert!(routes.told().refused.is_none());
    }
}
