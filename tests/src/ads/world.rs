//! What a management server has, and what a stream is to be sent of it. No sockets.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_types::Any;
use weir_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};

/// Types in the order in which they are pushed, with their abbreviations.
const KINDS: [(&str, &str); 11] = [
    ("cds", "type.googleapis.com/envoy.config.cluster.v3.Cluster"),
    ("eds", "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"),
    ("lds", "type.googleapis.com/envoy.config.listener.v3.Listener"),
    ("srds", "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"),
    ("rds", "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"),
    ("vhds", "type.googleapis.com/envoy.config.route.v3.VirtualHost"),
    ("sds", "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"),
    ("ecds", "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"),
    ("rtds", "type.googleapis.com/envoy.service.runtime.v3.Runtime"),
    ("wds", "type.googleapis.com/istio.workload.Address"),
    ("authz", "type.googleapis.com/istio.security.Authorization"),
];

/// The abbreviation of a type URL, or the URL itself.
pub fn short(type_url: &str) -> &str {
    KINDS.iter().find(|(_, url)| *url == type_url).map_or(type_url, |(short, _)| short)
}

/// The type URL that an abbreviation means, or the text itself.
pub fn type_url(short: &str) -> &str {
    KINDS.iter().find(|(known, _)| *known == short).map_or(short, |(_, url)| url)
}

fn order(type_url: &str) -> usize {
    KINDS.iter().position(|(_, url)| *url == type_url).unwrap_or(KINDS.len())
}

/// Every type that a proxy asks for has its name in field 1.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// The name of an encoded resource; none: it can't be decoded.
pub fn name_of(resource: &Any) -> Option<String> {
    Named::decode(&*resource.value).ok().map(|named| named.name)
}

/// One resource: its version is the number of the change that brought it.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    body: Any,
    version: u64,
}

/// What a server has.
#[derive(Debug, Default)]
pub struct World {
    resources: BTreeMap<String, BTreeMap<String, Known>>,
    /// The number of the last change of each type.
    versions: BTreeMap<String, u64>,
    version: u64,
    /// Begins every version, so that two servers have different ones.
    pub prefix: String,
    /// Responses of the state of the world have, of types but clusters and listeners, only what changed.
    pub partial: bool,
    /// Resources of a response are in reverse.
    pub reversed: bool,
    /// Further names that virtual hosts are asked for by, to the names of their resources, which may come later.
    pub aliases: BTreeMap<String, String>,
}

impl World {
    /// Adds or replaces a resource. It is sent with the next push.
    pub fn put(&mut self, name: &str, body: Any) {
        let version = self.change(&body.type_url);
        let of = self.resources.entry(body.type_url.clone()).or_default();
        of.insert(name.to_owned(), Known { body, version });
    }

    /// Takes one away. Whether it was there.
    pub fn remove(&mut self, type_url: &str, name: &str) -> bool {
        let was = self.resources.get_mut(type_url).and_then(|of| of.remove(name)).is_some();
        if was {
            self.change(type_url);
        }
        was
    }

    /// Has exactly these. What is as it was keeps its version.
    pub fn replace(&mut self, resources: BTreeMap<(String, String), Any>) {
        let old: Vec<_> = self.names().filter(|key| !resources.contains_key(key)).collect();
        for (type_url, name) in old {
            self.remove(&type_url, &name);
        }
        for ((type_url, name), body) in resources {
            let known = self.resources.get(&type_url).and_then(|of| of.get(&name));
            if known.is_none_or(|known| known.body != body) {
                self.put(&name, body);
            }
        }
    }

    /// What there is of a type, by name.
    pub fn of(&self, type_url: &str) -> impl Iterator<Item = (&str, &Any)> {
        let of = self.resources.get(type_url).into_iter().flatten();
        of.map(|(name, known)| (name.as_str(), &known.body))
    }

    /// Every type is sent again, though nothing of it changed.
    pub fn touch(&mut self, type_url: &str) {
        self.change(type_url);
    }

    fn change(&mut self, type_url: &str) -> u64 {
        self.version += 1;
        self.versions.insert(type_url.to_owned(), self.version);
        self.version
    }

    fn names(&self) -> impl Iterator<Item = (String, String)> {
        self.resources.iter().flat_map(|(type_url, of)| of.keys().map(|name| (type_url.clone(), name.clone())))
    }

    /// The version of a type, as it is sent.
    pub fn version_of(&self, type_url: &str) -> String {
        self.text(self.versions.get(type_url).copied().unwrap_or_default())
    }

    fn text(&self, version: u64) -> String {
        format!("{}{version}", self.prefix)
    }

    fn arranged<T>(&self, mut resources: Vec<T>) -> Vec<T> {
        if self.reversed {
            resources.reverse();
        }
        resources
    }
}

/// Virtual hosts are of route configurations, and asked for by the hosts of requests.
const VHDS: &str = KINDS[5].1;

/// What one stream wants of one type.
#[derive(Debug, Default)]
struct Wants {
    everything: bool,
    /// A request has had names: without them, one means nothing.
    named: bool,
    names: BTreeSet<String>,
    /// The type's version that was sent last; none: nothing was.
    sent: Option<u64>,
    /// Versions of resources that the client has or was sent.
    has: BTreeMap<String, String>,
    begun: bool,
}

impl Wants {
    fn wanted(&self, name: &str) -> bool {
        self.everything || self.names.contains(name)
    }
}

/// One stream: what its client wants, and what it was sent.
#[derive(Debug, Default)]
pub struct Subscriber {
    kinds: BTreeMap<String, Wants>,
    nonces: u64,
}

impl Subscriber {
    fn nonce(nonces: &mut u64) -> String {
        *nonces += 1;
        format!("n{nonces}")
    }

    /// Answers a request of the state of the world.
    pub fn sotw(&mut self, world: &World, request: &DiscoveryRequest) -> Option<DiscoveryResponse> {
        let type_url = request.type_url.as_str();
        let wants = self.kinds.entry(type_url.to_owned()).or_default();
        let names: BTreeSet<String> = request.resource_names.iter().filter(|name| *name != "*").cloned().collect();
        wants.named |= !request.resource_names.is_empty();
        let everything = request.resource_names.iter().any(|name| name == "*") || !wants.named;
        let news = !wants.begun || (everything && !wants.everything) || names.iter().any(|name| !wants.wanted(name));
        (wants.everything, wants.names, wants.begun) = (everything, names, true);
        // A client that has sent a nonce of another stream, or an old one, is answered all the same.
        if news { self.sotw_response(world, type_url, false) } else { None }
    }

    /// What a stream is sent after changes.
    pub fn sotw_changes(&mut self, world: &World) -> Vec<DiscoveryResponse> {
        self.stale(world)
            .into_iter()
            .filter_map(|type_url| self.sotw_response(world, &type_url, world.partial))
            .collect()
    }

    fn sotw_response(&mut self, world: &World, type_url: &str, partial: bool) -> Option<DiscoveryResponse> {
        let nonce = Self::nonce(&mut self.nonces);
        let wants = self.kinds.get_mut(type_url)?;
        let whole = ["cds", "lds"].contains(&short(type_url));
        let version = world.versions.get(type_url).copied().unwrap_or_default();
        let last = wants.sent.replace(version).unwrap_or_default();
        let known = world.resources.get(type_url).into_iter().flatten();
        let resources: Vec<Any> = known
            .filter(|(name, known)| (whole || !partial || known.version > last) && wants.wanted(name))
            .map(|(_, known)| known.body.clone())
            .collect();
        // Of names that lead nowhere there is nothing to say.
        if resources.is_empty() && !whole {
            return None;
        }
        Some(DiscoveryResponse {
            version_info: world.version_of(type_url),
            resources: world.arranged(resources),
            type_url: type_url.to_owned(),
            nonce,
            ..DiscoveryResponse::default()
        })
    }

    /// Answers a delta request.
    pub fn delta(&mut self, world: &World, request: &DeltaDiscoveryRequest) -> Option<DeltaDiscoveryResponse> {
        let type_url = request.type_url.as_str();
        let wants = self.kinds.entry(type_url.to_owned()).or_default();
        let first = !std::mem::replace(&mut wants.begun, true);
        if first {
            wants.has = request.initial_resource_versions.clone().into_iter().collect();
            wants.everything = request.resource_names_subscribe.is_empty();
        }
        for name in &request.resource_names_unsubscribe {
            match name.as_str() {
                "*" => wants.everything = false,
                name => {
                    wants.names.remove(name);
                    wants.has.remove(name);
                }
            }
        }
        let mut asked = Vec::new();
        for name in &request.resource_names_subscribe {
            match name.as_str() {
                "*" => wants.everything = true,
                name => {
                    wants.names.insert(name.to_owned());
                    // On a new stream it may be there already; later, it was lost.
                    if !first {
                        wants.has.remove(name);
                    }
                    asked.push(name.to_owned());
                }
            }
        }
        let news = first || !request.resource_names_subscribe.is_empty();
        if news { self.delta_response(world, type_url, &asked, first) } else { None }
    }

    /// What a stream is sent after changes.
    pub fn delta_changes(&mut self, world: &World) -> Vec<DeltaDiscoveryResponse> {
        self.stale(world).into_iter().filter_map(|type_url| self.delta_response(world, &type_url, &[], false)).collect()
    }

    fn delta_response(
        &mut self,
        world: &World,
        type_url: &str,
        asked: &[String],
        first: bool,
    ) -> Option<DeltaDiscoveryResponse> {
        let nonce = Self::nonce(&mut self.nonces);
        let wants = self.kinds.get_mut(type_url)?;
        wants.sent = Some(world.versions.get(type_url).copied().unwrap_or_default());
        let none = BTreeMap::new();
        let known = world.resources.get(type_url).unwrap_or(&none);
        let mut resources = Vec::new();
        for (name, known) in known {
            let version = world.text(known.version);
            let is_meant = |alias: &&String| world.aliases.get(*alias) == Some(name);
            let again = asked.iter().any(|asked| is_meant(&asked));
            if again || wants.wanted(name) && wants.has.get(name) != Some(&version) {
                let aliases = wants.names.iter().filter(is_meant).cloned().collect();
                wants.has.insert(name.clone(), version.clone());
                let resource = Some(known.body.clone());
                resources.push(Resource { name: name.clone(), version, resource, aliases, ..Resource::default() });
            }
        }
        let absent: Vec<&String> =
            asked.iter().filter(|name| !known.contains_key(*name) && !world.aliases.contains_key(*name)).collect();
        let mut removed: Vec<String> = wants.has.keys().filter(|name| !known.contains_key(*name)).cloned().collect();
        removed.iter().for_each(|name| drop(wants.has.remove(name)));
        if type_url == VHDS {
            // That there is none is said by a resource without anything in it.
            let nothing =
                |name: &String| Resource { name: name.clone(), aliases: vec![name.clone()], ..Resource::default() };
            resources.extend(absent.into_iter().map(nothing));
        } else {
            removed.extend(absent.into_iter().cloned());
        }
        removed.sort();
        removed.dedup();
        if resources.is_empty() && removed.is_empty() && !first {
            return None;
        }
        Some(DeltaDiscoveryResponse {
            system_version_info: world.version_of(type_url),
            resources: world.arranged(resources),
            type_url: type_url.to_owned(),
            removed_resources: removed,
            nonce,
            ..DeltaDiscoveryResponse::default()
        })
    }

    /// Types of which this stream was not sent the last change, in the order in which they are pushed.
    fn stale(&self, world: &World) -> Vec<String> {
        let stale = self.kinds.iter().filter(|(type_url, wants)| {
            wants.begun && wants.sent.unwrap_or_default() != world.versions.get(*type_url).copied().unwrap_or_default()
        });
        let mut stale: Vec<String> = stale.map(|(type_url, _)| type_url.clone()).collect();
        stale.sort_by_key(|type_url| order(type_url));
        if world.reversed {
            stale.reverse();
        }
        stale
    }

    /// Every name that the stream subscribes to, `*` among them, by abbreviation of the type.
    pub fn wanted(&self) -> BTreeMap<String, Vec<String>> {
        let wanted = self.kinds.iter().map(|(type_url, wants)| {
            let everything = wants.everything.then(|| "*".to_owned());
            (short(type_url).to_owned(), everything.into_iter().chain(wants.names.iter().cloned()).collect())
        });
        wanted.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CDS: &str = KINDS[0].1;
    const EDS: &str = KINDS[1].1;

    fn resource(type_url: &str, name: &str) -> Any {
        let value = Named { name: name.to_owned() }.encode_to_vec();
        Any { type_url: type_url.to_owned(), value }
    }

    fn world() -> World {
        let mut world = World { prefix: "v".into(), ..World::default() };
        for (type_url, name) in [(CDS, "x"), (CDS, "y"), (EDS, "x"), (EDS, "y")] {
            world.put(name, resource(type_url, name));
        }
        world
    }

    fn names(response: &DiscoveryResponse) -> Vec<String> {
        response.resources.iter().filter_map(name_of).collect()
    }

    fn sotw(type_url: &str, names: &[&str]) -> DiscoveryRequest {
        let resource_names = names.iter().map(|name| (*name).to_owned()).collect();
        DiscoveryRequest { type_url: type_url.to_owned(), resource_names, ..DiscoveryRequest::default() }
    }

    #[test]
    fn the_state_of_the_world_is_sent_when_it_is_news() {
        let mut world = world();
        let mut stream = Subscriber::default();
        let all = stream.sotw(&world, &sotw(CDS, &[])).unwrap();
        assert_eq!(
            (names(&all), all.version_info.as_str(), all.nonce.as_str()),
            (vec!["x".into(), "y".into()], "v2", "n1")
        );
        assert_eq!(stream.sotw(&world, &sotw(CDS, &[])), None);
        assert_eq!(names(&stream.sotw(&world, &sotw(EDS, &["x", "nowhere"])).unwrap()), ["x"]);
        assert_eq!(names(&stream.sotw(&world, &sotw(EDS, &["x", "y"])).unwrap()), ["x", "y"]);
        assert_eq!(stream.sotw(&world, &sotw(EDS, &["y"])), None);
        // Without names, after there were some, nothing is wanted.
        assert_eq!(stream.sotw(&world, &sotw(EDS, &[])), None);
        assert!(stream.sotw_changes(&world).is_empty());
        world.remove(CDS, "x");
        world.put("y", resource(EDS, "y"));
        let changes = stream.sotw_changes(&world);
        assert_eq!(changes.iter().map(names).collect::<Vec<_>>(), [["y"]]);
        world.touch(CDS);
        assert_eq!(stream.sotw_changes(&world).len(), 1);
    }

    #[test]
    fn a_partial_state_of_the_world_has_what_changed() {
        let mut world = World { partial: true, ..world() };
        let mut stream = Subscriber::default();
        stream.sotw(&world, &sotw(EDS, &["x", "y"]));
        world.put("y", resource(EDS, "y"));
        assert_eq!(stream.sotw_changes(&world).iter().map(names).collect::<Vec<_>>(), [["y"]]);
    }

    fn delta(type_url: &str, subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: list(subscribe),
            resource_names_unsubscribe: list(unsubscribe),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn changes(response: &DeltaDiscoveryResponse) -> String {
        let added = response.resources.iter().map(|resource| format!("+{}@{}", resource.name, resource.version));
        added.chain(response.removed_resources.iter().map(|name| format!("-{name}"))).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_delta_has_what_the_client_lacks() {
        let mut world = world();
        let mut stream = Subscriber::default();
        assert_eq!(changes(&stream.delta(&world, &delta(CDS, &[], &[])).unwrap()), "+x@v1 +y@v2");
        assert_eq!(stream.delta(&world, &delta(CDS, &[], &[])), None);
        assert_eq!(changes(&stream.delta(&world, &delta(EDS, &["x", "gone"], &[])).unwrap()), "+x@v3 -gone");
        assert_eq!(stream.delta(&world, &delta(EDS, &[], &["x"])), None);
        assert_eq!(changes(&stream.delta(&world, &delta(EDS, &["x"], &[])).unwrap()), "+x@v3");
        world.remove(CDS, "x");
        world.put("x", resource(EDS, "x"));
        let sent: Vec<_> = stream.delta_changes(&world).iter().map(changes).collect();
        assert_eq!(sent, ["-x", "+x@v6"]);
        // A client that comes back has some of it.
        let mut back = Subscriber::default();
        let has = [("x", "v1"), ("y", "v2")].map(|(name, version)| (name.to_owned(), version.to_owned()));
        let request = DeltaDiscoveryRequest { initial_resource_versions: has.into(), ..delta(CDS, &[], &[]) };
        assert_eq!(changes(&back.delta(&world, &request).unwrap()), "-x");
        assert_eq!(
            stream.wanted(),
            [("cds".into(), vec!["*".into()]), ("eds".into(), vec!["gone".into(), "x".into()])].into()
        );
    }

    #[test]
    fn replacing_all_touches_only_what_differs() {
        let mut world = world();
        let all = world.names().map(|(type_url, name)| ((type_url.clone(), name.clone()), resource(&type_url, &name)));
        let mut all: BTreeMap<_, _> = all.collect();
        world.replace(all.clone());
        assert_eq!(world.version, 4);
        all.remove(&(CDS.to_owned(), "x".to_owned()));
        world.replace(all);
        assert_eq!((world.version_of(CDS), world.version_of(EDS)), ("v5".to_owned(), "v4".to_owned()));
    }
}
