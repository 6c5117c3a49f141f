//! Network filters: what is asked before a connection reaches the end of its filter chain.
//!
//! Each is a decision without I/O, counted here; `listener/network.rs` carries it out.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    config::{
        cell::Slot,
        cluster::dns_cache::DnsCache,
        filter::local_ratelimit::Bucket,
        filter_state::Setting,
        grpc_service::GrpcService,
        rbac::{Engine, Subject},
    },
    matcher::metadata::{Metadata, MetadataMatcher},
    runtime::Runtime,
    telemetry::stats::{Counter, Gauge, Scope, Shard},
};

/// The namespace of the metadata that tells of shadow verdicts.
pub const RBAC_NAMESPACE: &str = "envoy.filters.network.rbac";

/// The object of filter state that names the cluster of a TCP connection.
pub const CLUSTER_KEY: &str = "envoy.tcp_proxy.cluster";

/// A network filter that is not the last of its chain.
#[derive(Debug)]
pub enum NetworkFilter {
    /// `rbac`.
    Rbac(Box<NetworkRbac>),
    /// `local_ratelimit`.
    LocalRateLimit(Box<ConnectionRate>),
    /// `connection_limit`.
    ConnectionLimit(Box<ConnectionLimit>),
    /// `sni_cluster`: the connection goes to the cluster that is named by its SNI.
    SniCluster,
    /// `sni_dynamic_forward_proxy`: the name by SNI is resolved before the connection goes on.
    SniForwardProxy(SniForwardProxy),
    /// `ext_authz`.
    Authz(Box<NetworkAuthz>),
    /// `set_filter_state`.
    SetFilterState(Box<SetFilterState>),
    /// It only tells peers or measures, and nobody reads that yet.
    Telling,
    /// What it does comes by itself (`config_discovery`).
    Discovered(Arc<Slot<NetworkFilter>>),
}

/// Resolves the host that a connection asks for.
#[derive(Debug)]
pub struct SniForwardProxy {
    /// Resolves names.
    pub cache: Arc<DnsCache>,
    /// Where it is connected to, unless filter state says so.
    pub port: u16,
}

/// The namespace of the metadata that services of authorization want noted of connections.
pub const AUTHZ_NAMESPACE: &str = "envoy.filters.network.ext_authz";

/// `envoy.filters.network.ext_authz`. As in Envoy it is asked when the client's first bytes have come, or its end.
#[derive(Debug)]
pub struct NetworkAuthz {
    /// Who is asked.
    pub service: Arc<GrpcService>,
    /// A connection goes on if the service does not answer.
    pub failure_passes: bool,
    /// The client's certificate is part of the question.
    pub peer_certificate: bool,
    /// SNI is.
    pub tls_session: bool,
    /// Namespaces of metadata that are.
    pub metadata: Vec<Box<str>>,
    /// The address that this process calls its own.
    pub node: IpAddr,
    /// Metadata that a connection must have to be asked about.
    pub enabled_metadata: Option<MetadataMatcher>,
    /// What is counted.
    pub stats: AuthzStats,
}

/// What it counts: `ext_authz.<prefix>.*`.
#[derive(Debug)]
pub struct AuthzStats {
    /// Connections that were asked about.
    pub total: Counter,
    /// The service did not answer.
    pub error: Counter,
    /// It refused.
    pub denied: Counter,
    /// It did not answer, and the connection went on.
    pub failure_mode_allowed: Counter,
    /// It agreed.
    pub ok: Counter,
    /// Connections that were closed for it.
    pub cx_closed: Counter,
    /// Connections that were not asked about.
    pub disabled: Counter,
    /// Connections that are being asked about.
    pub active: Gauge,
    /// Keeps the names.
    _scope: Scope,
}

impl AuthzStats {
    /// Below `scope`.
    pub fn new(scope: Scope) -> Self {
        Self {
            total: scope.counter("total"),
            error: scope.counter("error"),
            denied: scope.counter("denied"),
            failure_mode_allowed: scope.counter("failure_mode_allowed"),
            ok: scope.counter("ok"),
            cx_closed: scope.counter("cx_closed"),
            disabled: scope.counter("disabled"),
            active: scope.gauge("active"),
            _scope: scope,
        }
    }
}

/// What is kept of a connection, and when.
#[derive(Debug)]
pub struct SetFilterState {
    /// When it has come.
    pub on_new_connection: Vec<Setting>,
    /// When its TLS handshake is done; when it has come, where there is none.
    pub on_handshake: Vec<Setting>,
}

/// A feature that the runtime switches (`RuntimeFeatureFlag`).
#[derive(Clone, Debug)]
pub struct Switch {
    /// Without a runtime value.
    pub default: bool,
    /// The runtime value's key.
    pub key: Box<str>,
}

impl Switch {
    /// Whether it is on.
    pub fn is_on(&self, runtime: &Runtime) -> bool {
        if self.key.is_empty() { self.default } else { runtime.is_on(&self.key, self.default) }
    }
}

/// `envoy.filters.network.rbac`. As in Envoy it is asked when the client's first bytes have come, or its end.
#[derive(Debug)]
pub struct NetworkRbac {
    /// In force.
    pub rules: Option<Engine>,
    /// Evaluated, noted and without effect.
    pub shadow: Option<Engine>,
    /// Goes before the keys of what is noted of `shadow`.
    pub shadow_prefix: Box<str>,
    /// Asked for all bytes, not only the first.
    pub continuous: bool,
    /// A connection that is refused is closed only after this.
    pub delay: Option<Duration>,
    /// What is counted.
    pub stats: RbacStats,
}

/// What an RBAC filter counts: `<prefix>.rbac.*`.
#[derive(Debug)]
pub struct RbacStats {
    allowed: Counter,
    denied: Counter,
    shadow_allowed: Counter,
    shadow_denied: Counter,
    /// Keep the names.
    _scopes: [Scope; 2],
}

impl RbacStats {
    /// Below `scope`; those of the shadow rules below a prefix of their own, if it is not empty.
    pub fn new(scope: Scope, shadow_prefix: &str) -> Self {
        let shadow = if shadow_prefix.is_empty() { scope.clone() } else { scope.scope(shadow_prefix) };
        Self {
            allowed: scope.counter("allowed"),
            denied: scope.counter("denied"),
            shadow_allowed: shadow.counter("shadow_allowed"),
            shadow_denied: shadow.counter("shadow_denied"),
            _scopes: [scope, shadow],
        }
    }
}

impl NetworkRbac {
    /// Evaluates the rules, counts what they say, and notes what logs may tell. The result is
    /// `%CONNECTION_TERMINATION_DETAILS%` of a connection that is to be closed; none: it may go on.
    pub fn rule(&self, subject: &Subject<'_>, shard: &Shard, noted: &mut Option<Box<Metadata>>) -> Option<String> {
        if let Some(rules) = &self.shadow {
            let verdict = rules.evaluate(subject);
            shard.inc(if verdict.allowed { self.stats.shadow_allowed } else { self.stats.shadow_denied });
            let noted = noted.get_or_insert_default();
            let key = |name: &str| format!("{}{name}", self.shadow_prefix);
            if let Some(policy) = &verdict.policy {
                noted.set(RBAC_NAMESPACE, &key("shadow_effective_policy_id"), &**policy);
            }
            let result = if verdict.allowed { "allowed" } else { "denied" };
            noted.set(RBAC_NAMESPACE, &key("shadow_engine_result"), result);
        }
        let rules = self.rules.as_ref()?;
        let verdict = rules.evaluate(subject);
        shard.inc(if verdict.allowed { self.stats.allowed } else { self.stats.denied });
        if let Some(hint) = verdict.hint {
            noted.get_or_insert_default().set("envoy.common", "access_log_hint", hint);
        }
        (!verdict.allowed).then(|| {
            let policy = verdict.policy.as_deref().unwrap_or("none").replace(' ', "_");
            format!("rbac_access_denied_matched_policy[{policy}]")
        })
    }
}

/// `envoy.filters.network.local_ratelimit`: new connections per time.
#[derive(Debug)]
pub struct ConnectionRate {
    /// A token for each.
    pub bucket: Bucket,
    /// Whether it is asked.
    pub enabled: Switch,
    rate_limited: Counter,
    _scope: Scope,
}

impl ConnectionRate {
    /// Counted below `scope`.
    pub fn new(bucket: Bucket, enabled: Switch, scope: Scope) -> Self {
        Self { bucket, enabled, rate_limited: scope.counter("rate_limited"), _scope: scope }
    }

    /// Whether one more connection may come.
    pub fn admits(&self, runtime: &Runtime, shard: &Shard, now: Instant) -> bool {
        let admitted = !self.enabled.is_on(runtime) || self.bucket.take(1, now);
        if !admitted {
            shard.inc(self.rate_limited);
        }
        admitted
    }
}

/// `envoy.filters.network.connection_limit`: connections at once.
#[derive(Debug)]
pub struct ConnectionLimit {
    max: u64,
    /// A connection too many is closed only after this.
    pub delay: Option<Duration>,
    enabled: Switch,
    open: Arc<AtomicU64>,
    active_connections: Gauge,
    limited_connections: Counter,
    _scope: Scope,
}

/// A connection's place below a [`ConnectionLimit`], given back when dropped.
#[derive(Debug)]
pub struct LimitedSeat<'a> {
    limit: &'a ConnectionLimit,
    shard: &'a Shard,
}

impl ConnectionLimit {
    /// Counted below `scope`.
    pub fn new(max: u64, delay: Option<Duration>, enabled: Switch, scope: Scope) -> Self {
        Self {
            max,
            delay,
            enabled,
            open: Arc::default(),
            active_connections: scope.gauge("active_connections"),
            limited_connections: scope.counter("limited_connections"),
            _scope: scope,
        }
    }

    /// A place for one more connection; `Err`: there is none. `Ok(None)`: it is not asked.
    pub fn admit<'a>(&'a self, runtime: &Runtime, shard: &'a Shard) -> Result<Option<LimitedSeat<'a>>, LimitReached> {
        if !self.enabled.is_on(runtime) {
            return Ok(None);
        }
        // Counted before it is compared: two workers cannot both take the last one.
        if self.open.fetch_add(1, Relaxed) >= self.max {
            self.open.fetch_sub(1, Relaxed);
            shard.inc(self.limited_connections);
            return Err(LimitReached);
        }
        shard.gauge_add(self.active_connections, 1);
        Ok(Some(LimitedSeat { limit: self, shard }))
    }
}

/// There are as many connections as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitReached;

impl Drop for LimitedSeat<'_> {
    fn drop(&mut self) {
        self.limit.open.fetch_sub(1, Relaxed);
        self.shard.gauge_add(self.limit.active_connections, -1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rbac::{Action, Condition, Policy, Rules, tests::subject};

    fn on() -> Switch {
        Switch { default: true, key: "".into() }
    }

    fn rules(action: Action, port: u32) -> Engine {
        let policy = Policy {
            permissions: vec![Condition::DestinationPort(port, port + 1)],
            principals: vec![Condition::Any],
            condition: None,
        };
        Engine::Rules(Rules { action, policies: vec![("a b".into(), policy)] })
    }

    fn rbac(rules: Option<Engine>, shadow: Option<Engine>) -> NetworkRbac {
        let stats = RbacStats::new(Scope::default(), "");
        NetworkRbac { rules, shadow, shadow_prefix: "s_".into(), continuous: false, delay: None, stats }
    }

    #[test]
    fn rbac_names_the_policy_that_denies() {
        let shard = Shard::default();
        let denied = |rules| rbac(Some(rules), None).rule(&subject(), &shard, &mut None);
        assert_eq!(denied(rules(Action::Deny, 80)).as_deref(), Some("rbac_access_denied_matched_policy[a_b]"));
        assert_eq!(denied(rules(Action::Deny, 81)), None);
        assert_eq!(denied(rules(Action::Allow, 80)), None);
        assert_eq!(denied(rules(Action::Allow, 81)).as_deref(), Some("rbac_access_denied_matched_policy[none]"));
        assert_eq!(denied(rules(Action::Log, 81)), None);
    }

    #[test]
    fn shadow_rules_are_noted_and_close_nothing() {
        let mut noted = None;
        let denied = rbac(None, Some(rules(Action::Deny, 80))).rule(&subject(), &Shard::default(), &mut noted);
        assert_eq!(denied, None);
        let noted = noted.unwrap();
        let get =
            |key: &str| noted.get(RBAC_NAMESPACE, &[key.into()]).and_then(|value| value.as_str().map(str::to_owned));
        assert_eq!(get("s_shadow_engine_result").as_deref(), Some("denied"));
        assert_eq!(get("s_shadow_effective_policy_id").as_deref(), Some("a b"));
    }

    #[test]
    fn connections_take_tokens_and_places() {
        let (shard, runtime) = (Shard::default(), Runtime::default());
        let bucket = Bucket::new(1, 1, Duration::from_secs(60));
        let rate = ConnectionRate::new(bucket, on(), Scope::default());
        let now = Instant::now();
        assert!(rate.admits(&runtime, &shard, now));
        assert!(!rate.admits(&runtime, &shard, now));
        assert!(rate.admits(&runtime, &shard, now + Duration::from_secs(61)));

        let limit = ConnectionLimit::new(1, None, on(), Scope::default());
        let first = limit.admit(&runtime, &shard).unwrap();
        assert!(first.is_some());
        assert_eq!(limit.admit(&runtime, &shard).unwrap_err(), LimitReached);
        drop(first);
        assert!(limit.admit(&runtime, &shard).unwrap().is_some());
        let off = ConnectionLimit::new(0, None, Switch { default: false, key: "".into() }, Scope::default());
        assert!(off.admit(&runtime, &shard).unwrap().is_none());
    }
}
