//! The types of resource that a management server may be asked for, and what the protocol makes of each.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Which of the two protocols a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// State of the world: every response has all that is asked for, or, of most types, any part of it.
    Sotw,
    /// Delta: responses have what changed.
    Delta,
}

/// A type of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Clusters.
    Cluster,
    /// Endpoints of one cluster.
    LoadAssignment,
    /// Listeners.
    Listener,
    /// Which route configuration has requests of a scope.
    ScopedRoutes,
    /// Route configurations.
    Routes,
    /// One virtual host of a route configuration, asked for when a request needs it.
    VirtualHost,
    /// Certificates, validation contexts, keys of session tickets.
    Secret,
    /// Configurations of filters.
    Extension,
    /// Layers of runtime values.
    Runtime,
}

/// The prefix of every type URL.
const PREFIX: &str = "type.googleapis.com/";
/// More of an error than this is cut off, as Envoy does.
const LONGEST_ERROR: usize = 4096;

/// Names of a type.
struct Names {
    type_url: &'static str,
    short: &'static str,
    service: &'static str,
    methods: [&'static str; 2],
}

impl Kind {
    /// Every type.
    pub const ALL: [Self; 9] = [
        Self::Cluster,
        Self::LoadAssignment,
        Self::Listener,
        Self::ScopedRoutes,
        Self::Routes,
        Self::VirtualHost,
        Self::Secret,
        Self::Extension,
        Self::Runtime,
    ];

    const fn names(self) -> Names {
        let (type_url, short, service, methods) = match self {
            Self::Cluster => (
                "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                "cds",
                "envoy.service.cluster.v3.ClusterDiscoveryService",
                ["StreamClusters", "DeltaClusters"],
            ),
            Self::LoadAssignment => (
                "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
                "eds",
                "envoy.service.endpoint.v3.EndpointDiscoveryService",
                ["StreamEndpoints", "DeltaEndpoints"],
            ),
            Self::Listener => (
                "type.googleapis.com/envoy.config.listener.v3.Listener",
                "lds",
                "envoy.service.listener.v3.ListenerDiscoveryService",
                ["StreamListeners", "DeltaListeners"],
            ),
            Self::ScopedRoutes => (
                "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
                "srds",
                "envoy.service.route.v3.ScopedRoutesDiscoveryService",
                ["StreamScopedRoutes", "DeltaScopedRoutes"],
            ),
            Self::Routes => (
                "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
                "rds",
                "envoy.service.route.v3.RouteDiscoveryService",
                ["StreamRoutes", "DeltaRoutes"],
            ),
            // There is no state of the world of it: its names are patterns until a request comes.
            Self::VirtualHost => (
                "type.googleapis.com/envoy.config.route.v3.VirtualHost",
                "vhds",
                "envoy.service.route.v3.VirtualHostDiscoveryService",
                ["DeltaVirtualHosts", "DeltaVirtualHosts"],
            ),
            Self::Secret => (
                "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
                "sds",
                "envoy.service.secret.v3.SecretDiscoveryService",
                ["StreamSecrets", "DeltaSecrets"],
            ),
            Self::Extension => (
                "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
                "ecds",
                "envoy.service.extension.v3.ExtensionConfigDiscoveryService",
                ["StreamExtensionConfigs", "DeltaExtensionConfigs"],
            ),
            Self::Runtime => (
                "type.googleapis.com/envoy.service.runtime.v3.Runtime",
                "rtds",
                "envoy.service.runtime.v3.RuntimeDiscoveryService",
                ["StreamRuntime", "DeltaRuntime"],
            ),
        };
        Names { type_url, short, service, methods }
    }

    /// The type URL of its messages.
    pub const fn type_url(self) -> &'static str {
        self.names().type_url
    }

    /// The type that a type URL means.
    pub fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// A resource must be of this type: why not, if it is of another.
    pub fn expect(self, type_url: &str) -> Result<(), String> {
        let expected = self.type_url();
        if type_url == expected { Ok(()) } else { Err(format!("expected a {expected}, not {type_url}")) }
    }

    /// The full name of its message.
    pub fn message(self) -> &'static str {
        self.type_url().trim_start_matches(PREFIX)
    }

    /// The abbreviation that statistics, logs and files go by.
    pub const fn short(self) -> &'static str {
        self.names().short
    }

    /// The service that has only this type, and its method for a protocol.
    pub const fn method(self, protocol: Protocol) -> (&'static str, &'static str) {
        let names = self.names();
        match protocol {
            Protocol::Sotw => (names.service, names.methods[0]),
            Protocol::Delta => (names.service, names.methods[1]),
        }
    }

    /// A state of the world is whole: what is absent from it is to be removed. Of the other types a response may have
    /// any part of what is asked for.
    pub const fn is_whole(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener | Self::ScopedRoutes)
    }

    /// Types whose requests wait while an update of this type is applied: what it refers to is asked for once, when all
    /// of it is known, and before it is acknowledged.
    pub const fn holds(self) -> &'static [Self] {
        match self {
            Self::Cluster => &[Self::LoadAssignment, Self::Secret],
            Self::Listener => &[Self::Routes, Self::Secret],
            Self::ScopedRoutes => &[Self::Routes],
            _ => &[],
        }
    }

    /// The name of an encoded resource, which every one of these types has in its first field.
    pub fn name_of(self, body: &[u8]) -> Result<String, NoName> {
        let malformed = |why: &dyn std::fmt::Display| NoName(format!("malformed {}: {why}", self.message()));
        let mut rest = body;
        let mut name: &[u8] = &[];
        while !rest.is_empty() {
            let (tag, wire_type) = decode_key(&mut rest).map_err(|error| malformed(&error))?;
            if tag == 1 && wire_type == WireType::LengthDelimited {
                let length = decode_varint(&mut rest).map_err(|error| malformed(&error))?;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                name = rest.get(..length).ok_or_else(|| malformed(&"it ends within its name"))?;
                rest = &rest[length..];
            } else {
                skip_field(wire_type, tag, &mut rest, DecodeContext::default()).map_err(|error| malformed(&error))?;
            }
        }
        String::from_utf8(name.to_vec()).map_err(|_| malformed(&"its name is not UTF-8"))
    }

    /// What a server is told when some resources of an update are refused, in Envoy's words.
    pub fn refusal<'a>(self, refused: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
        let refused = refused.into_iter();
        let text = match self {
            Self::Cluster => {
                let each: Vec<_> = refused.map(|(name, why)| format!("{name}: {why}")).collect();
                format!("Error adding/updating cluster(s) {}", each.join(", "))
            }
            Self::Listener => {
                let each: String = refused.map(|(name, why)| format!("{name}: {why}\n")).collect();
                format!("Error adding/updating listener(s) {each}")
            }
            // Envoy's say less: not which of them all.
            _ => refused.map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>().join(", "),
        };
        shortened(text)
    }
}

/// Why a resource has no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoName(String);

/// An error as it may be sent: gRPC's headers have limits.
pub(super) fn shortened(mut text: String) -> String {
    if text.len() > LONGEST_ERROR {
        let end = (0..=LONGEST_ERROR).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.push_str("...(truncated)");
    }
    text
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use weir_proto::envoy::config::{cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment};

    use super::*;

    #[test]
    fn names_are_those_of_envoys_protocol() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.type_url()), Some(kind));
            let pool = weir_proto::pool();
            let message = pool.get_message_by_name(kind.message()).unwrap();
            let first = message.get_field(1).unwrap();
            assert!(["name", "cluster_name"].contains(&first.name()), "{}", first.name());
            for protocol in [Protocol::Sotw, Protocol::Delta] {
                let (service, method) = kind.method(protocol);
                let service = pool.get_service_by_name(service).unwrap();
                let method = service.methods().find(|other| other.name() == method).unwrap();
                let delta = method.input().name() == "DeltaDiscoveryRequest";
                assert_eq!(delta, protocol == Protocol::Delta || kind == Kind::VirtualHost);
                assert!(method.is_client_streaming() && method.is_server_streaming());
            }
        }
        assert_eq!(Kind::of("type.googleapis.com/istio.workload.Address"), None);
    }

    #[test]
    fn a_resource_has_the_name_that_is_in_its_first_field() {
        let cluster = Cluster { name: "a".into(), alt_stat_name: "b".into(), ..Cluster::default() };
        assert_eq!(Kind::Cluster.name_of(&cluster.encode_to_vec()), Ok("a".into()));
        let assignment = ClusterLoadAssignment { cluster_name: "c".into(), ..ClusterLoadAssignment::default() };
        assert_eq!(Kind::LoadAssignment.name_of(&assignment.encode_to_vec()), Ok("c".into()));
        // The last of several counts, as in every decoder.
        assert_eq!(Kind::Cluster.name_of(b"\x0a\x01a\x0a\x01b"), Ok("b".into()));
        assert_eq!(Kind::Cluster.name_of(b""), Ok(String::new()));
        let message = |body: &[u8]| Kind::Cluster.name_of(body).unwrap_err().to_string();
        assert_eq!(message(b"\x0a\x05a"), "malformed envoy.config.cluster.v3.Cluster: it ends within its name");
        assert_eq!(message(b"\x0a\x01\xff"), "malformed envoy.config.cluster.v3.Cluster: its name is not UTF-8");
        assert!(message(b"\xff").starts_with("malformed envoy.config.cluster.v3.Cluster: "));
    }

    #[test]
    fn refusals_are_in_envoys_words() {
        let refused = [("a", "why"), ("b", "because")];
        assert_eq!(Kind::Cluster.refusal(refused), "Error adding/updating cluster(s) a: why, b: because");
        assert_eq!(Kind::Listener.refusal(refused), "Error adding/updating listener(s) a: why\nb: because\n");
        assert_eq!(Kind::Routes.refusal(refused), "a: why, b: because");
        let long = "ä".repeat(LONGEST_ERROR);
        let text = Kind::Routes.refusal([("a", long.as_str())]);
        assert!(text.len() < LONGEST_ERROR + 20 && text.ends_with("ä...(truncated)"));
    }
}
