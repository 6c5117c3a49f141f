//! A view, fed by hand.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use weir_proto::envoy::{config::bootstrap::v3::Bootstrap, service::discovery::v3::DiscoveryResponse};

use super::{
    Setup,
    resources::Resources,
    status::Status,
    view::{Around, View},
};
use crate::{
    config::{self, Built, cell::Source, cluster::Cluster, snapshot::Snapshot},
    drain::Drain,
    intake::listening::Listening,
    lifecycle::Lifecycle,
    pod::Direction,
    queue::Queue,
    telemetry::stats::Store,
    view::{Gate, ViewId},
    worker::Teller,
    xds::{
        budget::Budget,
        kind::Kind,
        update::{Origin, Refused, Resource, Update},
    },
};

const BOOTSTRAP: &str = "
dynamic_resources:
  ads_config: { api_type: GRPC, transport_api_version: V3, grpc_services: [ { envoy_grpc: { cluster_name: xds } } ] }
  cds_config: { ads: {} }
  lds_config: { ads: {} }
static_resources:
  clusters:
  - { name: xds }
  - name: all
    lb_policy: CLUSTER_PROVIDED
    cluster_type:
      name: envoy.clusters.aggregate
      typed_config: { \"@type\": type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig, clusters: [ a ] }
  listeners:
  - name: fixed
    address: { socket_address: { address: 127.0.0.1, port_value: 9 } }
    filter_chains: [ { filters: [ { name: echo, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo } } ] } ]
";

struct Fixture {
    view: View,
    status: Arc<Status>,
    stats: Store,
    _around: Around,
    initialized: watch::Receiver<bool>,
}

impl Fixture {
    fn new() -> Self {
        let bootstrap: Bootstrap = weir_proto::from_yaml(BOOTSTRAP).unwrap();
        let stats = Store::new(1);
        let Built { snapshot, converter, cells, .. } = config::from_bootstrap(&bootstrap, &stats.root()).unwrap();
        let drain = Drain::new();
        let setup = Setup {
            view: ViewId::OWN,
            name: None,
            resources: Resources::read(&bootstrap).unwrap(),
            converter,
            cells,
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            gate: Arc::new(Gate::closed(true)),
            listening: Arc::new(Listening::new(Teller::default(), drain.watch(), drain.watch())),
            lifecycle: Arc::new(Lifecycle::default()),
            stats: stats.clone(),
            clusters: Queue::default(),
            drain_time: Duration::from_secs(600),
            discovery_memory: Budget::of(usize::MAX),
            bodies: None,
            state_dir: None,
        };
        let status = Arc::new(Status::default());
        let (initialize, initialized) = watch::channel(false);
        let (mut view, around) = View::new(setup, status.clone(), initialize);
        view.begin();
        Self { view, status, stats, _around: around, initialized }
    }

    fn update(&mut self, kind: Kind, resources: &[(&str, String)], removed: &[&str]) -> Result<(), Refused> {
        let added = resources.iter().map(|(name, yaml)| resource(kind, name, yaml)).collect();
        let update = Update {
            kind,
            version: "1".into(),
            added,
            unchanged: Vec::new(),
            removed: removed.iter().map(|name| Arc::from(*name)).collect(),
            whole: false,
            origin: Origin::Server,
        };
        self.view.update(&Source::Ads, &update)
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.view.snapshot()
    }

    fn cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        self.snapshot().cluster(name).cloned()
    }

    fn level(&self, name: &str) -> u64 {
        let (scope, name) = name.rsplit_once('.').unwrap();
        self.stats.level(self.stats.root().scope(scope).gauge(name))
    }

    fn total(&self, name: &str) -> u64 {
        let (scope, name) = name.rsplit_once('.').unwrap();
        self.stats.total(self.stats.root().scope(scope).counter(name))
    }
}

fn resource(kind: Kind, name: &str, yaml: &str) -> Resource {
    let text = format!("resources: [ {{ \"@type\": {}, {yaml} }} ]", kind.type_url());
    let response: DiscoveryResponse =
        weir_proto::from_yaml_unvalidated(&text).unwrap_or_else(|error| panic!("{error}"));
    let body = response.resources[0].value.clone();
    Resource { name: name.into(), version: "1".into(), body: body.into(), ttl: None, aliases: Vec::new() }
}

fn fixed(name: &str, timeout: u32) -> (&str, String) {
    (name, format!("name: {name}, connect_timeout: {timeout}s"))
}

fn by_ads(name: &str, timeout: u32) -> (&str, String) {
    (
        name,
        format!(
            "name: {name}, connect_timeout: {timeout}s, type: EDS, eds_cluster_config: {{ eds_config: {{ ads: {{}} }} }}"
        ),
    )
}

fn endpoints(name: &str, port: u16) -> (&str, String) {
    let address = format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}");
    (
        name,
        format!(
            "cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {address} }} }} ] }} ]"
        ),
    )
}

const ECHO: &str = "filters: [ { name: echo, typed_config: { \"@type\": \
    type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo } } ]";

fn listener<'a>(name: &'a str, port: u16, chains: &[&str], rest: &str) -> (&'a str, String) {
    let each =
        |chain: &&str| format!("{{ name: c{chain}, filter_chain_match: {{ destination_port: {chain} }}, {ECHO} }}");
    let chains = chains.iter().map(each).collect::<Vec<_>>().join(", ");
    let address = format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}");
    (name, format!("name: {name}, address: {address}, bind_to_port: false, filter_chains: [ {chains} ]{rest}"))
}

fn ports(cluster: &Cluster) -> Vec<u16> {
    cluster.endpoints.load().iter().map(|endpoint| endpoint.address.port()).collect()
}

#[tokio::test]
async fn a_cluster_is_in_force_with_its_endpoints_and_shares_all_else() {
    let mut fixture = Fixture::new();
    let before = fixture.snapshot();
    assert_eq!(fixture.update(Kind::Cluster, &[by_ads("a", 1)], &[]), Ok(()));
    assert!(fixture.cluster("a").is_none());
    assert_eq!(
        (fixture.level("cluster_manager.warming_clusters"), fixture.total("cluster_manager.cluster_added")),
        (1, 1)
    );
    assert!(fixture.status.clusters()["a"].warming.is_some());
    assert_eq!(fixture.update(Kind::LoadAssignment, &[endpoints("a", 1)], &[]), Ok(()));
    let a = fixture.cluster("a").unwrap();
    assert_eq!(ports(&a), [1]);
    let after = fixture.snapshot();
    assert!(Arc::ptr_eq(before.cluster("xds").unwrap(), after.cluster("xds").unwrap()));
    assert!(Arc::ptr_eq(&before.listeners()[0], &after.listeners()[0]));
    // Another endpoint is that one cluster's affair.
    assert_eq!(fixture.update(Kind::LoadAssignment, &[endpoints("a", 2)], &[]), Ok(()));
    assert!(Arc::ptr_eq(&after, &fixture.snapshot()));
    assert_eq!(ports(&a), [2]);
    // What aggregates others knows it.
    let config::cluster::Discovery::Aggregate { members, .. } = &after.cluster("all").unwrap().discovery else {
        panic!()
    };
    assert!(std::ptr::eq(members.load()[0].as_ptr(), Arc::as_ptr(&a)));
}

#[tokio::test]
async fn a_cluster_that_is_modified_takes_the_endpoints_that_there_are() {
    let mut fixture = Fixture::new();
    fixture.update(Kind::Cluster, &[by_ads("a", 1)], &[]).unwrap();
    fixture.update(Kind::LoadAssignment, &[endpoints("a", 1)], &[]).unwrap();
    let old = fixture.cluster("a").unwrap();
    fixture.update(Kind::Cluster, &[by_ads("a", 2)], &[]).unwrap();
    // The store is the client's to fill; here nothing is known, so that it waits.
    assert!(Arc::ptr_eq(&old, &fixture.cluster("a").unwrap()));
    assert!(fixture.status.clusters()["a"].active.is_some() && fixture.status.clusters()["a"].warming.is_some());
    fixture.update(Kind::LoadAssignment, &[endpoints("a", 3)], &[]).unwrap();
    let new = fixture.cluster("a").unwrap();
    assert!(!Arc::ptr_eq(&old, &new));
    assert_eq!((ports(&new), new.connect_timeout), (vec![3], Duration::from_secs(2)));
    assert_eq!(fixture.total("cluster_manager.cluster_modified"), 1);
    // The same again changes nothing.
    let before = fixture.snapshot();
    fixture.update(Kind::Cluster, &[by_ads("a", 2)], &[]).unwrap();
    assert!(Arc::ptr_eq(&before, &fixture.snapshot()));
    fixture.update(Kind::Cluster, &[], &["a"]).unwrap();
    assert!(fixture.cluster("a").is_none() && fixture.status.clusters().is_empty());
    assert_eq!(fixture.level("cluster_manager.active_clusters"), 2);
}

#[tokio::test]
async fn a_cluster_does_without_endpoints_that_do_not_come() {
    let mut fixture = Fixture::new();
    fixture.update(Kind::Cluster, &[by_ads("a", 1)], &[]).unwrap();
    fixture.view.timed_out(&Source::Ads, Kind::LoadAssignment, Some(&"a".into()));
    assert!(fixture.cluster("a").is_some());
}

#[tokio::test]
async fn a_cluster_that_is_modified_has_the_endpoints_of_before_if_none_come() {
    let mut fixture = Fixture::new();
    fixture.update(Kind::Cluster, &[by_ads("a", 1)], &[]).unwrap();
    fixture.update(Kind::LoadAssignment, &[endpoints("a", 1)], &[]).unwrap();
    fixture.update(Kind::LoadAssignment, &[], &["a"]).unwrap();
    for timeout in [2, 3] {
        fixture.update(Kind::Cluster, &[by_ads("a", timeout)], &[]).unwrap();
        fixture.view.timed_out(&Source::Ads, Kind::LoadAssignment, Some(&"a".into()));
        let a = fixture.cluster("a").unwrap();
        assert_eq!((ports(&a), a.connect_timeout), (vec![1], Duration::from_secs(timeout.into())));
    }
}

#[tokio::test]
async fn the_process_serves_once_clusters_and_then_listeners_were_answered() {
    let mut fixture = Fixture::new();
    fixture.update(Kind::Cluster, &[by_ads("a", 1)], &[]).unwrap();
    fixture.update(Kind::Listener, &[], &[]).unwrap();
    assert!(!*fixture.initialized.borrow());
    fixture.update(Kind::LoadAssignment, &[endpoints("a", 1)], &[]).unwrap();
    assert!(*fixture.initialized.borrow());
}

#[tokio::test]
async fn what_the_bootstrap_has_stays_and_what_is_bad_is_refused() {
    let mut fixture = Fixture::new();
    let before = fixture.snapshot();
    fixture.update(Kind::Cluster, &[fixed("xds", 7)], &["all"]).unwrap();
    fixture.update(Kind::Listener, &[listener("fixed", 1, &["1"], "")], &[]).unwrap();
    assert!(Arc::ptr_eq(before.cluster("xds").unwrap(), fixture.snapshot().cluster("xds").unwrap()));
    assert!(fixture.cluster("all").is_some());
    // One that breaks the rules of its type has all refused.
    let refused = fixture.update(Kind::Cluster, &[fixed("good", 1), fixed("zero", 0)], &[]).unwrap_err();
    let why = "zero: Proto constraint validation failed (connect_timeout: must be greater than 0s)";
    assert_eq!(refused, Refused::All(why.into()));
    assert!(fixture.cluster("good").is_none());
    // One that can't be made is refused by itself.
    let bad = ("bad", "name: bad, type: EDS".to_owned());
    let refused = fixture.update(Kind::Cluster, &[bad, fixed("good", 1)], &[]).unwrap_err();
    let why = "eds_cluster_config: cannot create an EDS cluster without an EDS config";
    assert_eq!(refused, Refused::Some(vec![("bad".into(), why.into())]));
    assert!(fixture.cluster("good").is_some());
    let twin = fixture.update(Kind::Listener, &[listener("twin", 9, &["1"], "")], &[]).unwrap_err();
    let Refused::Some(twin) = twin else { panic!() };
    assert!(twin[0].1.starts_with("error adding listener: 'twin' has duplicate address '127.0.0.1:9'"), "{twin:?}");
}

#[tokio::test]
async fn what_a_refused_listener_may_have_been_for_is_lacking() {
    let mut fixture = Fixture::new();
    let lacks = |fixture: &Fixture| {
        let snapshot = fixture.snapshot();
        [Direction::Outbound, Direction::Inbound].map(|direction| snapshot.lacks(direction))
    };
    let bad = |rest: &str| ("l", format!("name: l, filter_chains: [ {{ {ECHO} }} ]{rest}"));
    fixture.update(Kind::Listener, &[bad(", traffic_direction: INBOUND")], &[]).unwrap_err();
    assert_eq!(lacks(&fixture), [false, true]);
    fixture.update(Kind::Listener, &[bad("")], &[]).unwrap_err();
    assert_eq!(lacks(&fixture), [true, false]);
    // What was in force before it was refused stays so.
    fixture.update(Kind::Listener, &[listener("l", 1, &["1"], "")], &[]).unwrap();
    assert_eq!(lacks(&fixture), [false, false]);
    fixture.update(Kind::Listener, &[bad("")], &[]).unwrap_err();
    assert_eq!(lacks(&fixture), [false, false]);
    fixture
        .update(Kind::Listener, &[("m", "name: m, per_connection_buffer_limit_bytes: 1, address: {}".to_owned())], &[])
        .unwrap_err();
    assert!(lacks(&fixture).contains(&true));
    fixture.update(Kind::Listener, &[], &["m"]).unwrap();
    assert_eq!(lacks(&fixture), [false, false]);
}

#[tokio::test]
async fn filter_chains_that_stay_are_the_same_and_others_drain() {
    let mut fixture = Fixture::new();
    let listener_of = |fixture: &Fixture| fixture.snapshot().listener("l").unwrap().clone();
    fixture.update(Kind::Listener, &[listener("l", 1, &["1", "2"], "")], &[]).unwrap();
    let first = listener_of(&fixture);
    fixture.update(Kind::Listener, &[listener("l", 1, &["2", "3"], "")], &[]).unwrap();
    let second = listener_of(&fixture);
    assert!(Arc::ptr_eq(&first.filter_chains[1], &second.filter_chains[0]));
    let drains = |chain: &config::listener::FilterChain| chain.drain.as_ref().unwrap().watch().is_draining();
    assert!(drains(&first.filter_chains[0]) && !second.chains().any(|chain| drains(chain)));
    assert_eq!(fixture.level("listener_manager.total_filter_chains_draining"), 1);
    // All drain where more has changed.
    fixture.update(Kind::Listener, &[listener("l", 1, &["2", "3"], ", freebind: true")], &[]).unwrap();
    assert!(second.chains().all(|chain| drains(chain)));
    assert_eq!(fixture.level("listener_manager.total_listeners_draining"), 1);
    let third = listener_of(&fixture);
    fixture.update(Kind::Listener, &[], &["l"]).unwrap();
    assert!(third.chains().all(|chain| drains(chain)) && fixture.snapshot().listener("l").is_none());
    let totals = ["added", "modified", "in_place_updated", "removed"];
    let totals = totals.map(|name| fixture.total(&format!("listener_manager.listener_{name}")));
    assert_eq!(totals, [1, 2, 1, 1]);
}

#[tokio::test]
async fn a_listener_waits_for_its_routes() {
    let mut fixture = Fixture::new();
    fixture.update(Kind::Cluster, &[], &[]).unwrap();
    let rds = "name: l, address: { socket_address: { address: 127.0.0.1, port_value: 1 } }, bind_to_port: false, \
        filter_chains: [ { filters: [ { name: http, typed_config: { \"@type\": type.googleapis.com/\
        envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: p, rds: { \
        route_config_name: r, config_source: { ads: {} } }, http_filters: [ { name: router, typed_config: { \"@type\": \
        type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } } ] } } ] } ]";
    fixture.update(Kind::Listener, &[("l", rds.to_owned())], &[]).unwrap();
    assert!(fixture.snapshot().listener("l").is_none() && !*fixture.initialized.borrow());
    assert_eq!(fixture.level("listener_manager.total_listeners_warming"), 1);
    fixture.update(Kind::Routes, &[("r", "name: r".to_owned())], &[]).unwrap();
    // Whoever waits tells it.
    fixture.view.settle_all().await;
    assert!(fixture.snapshot().listener("l").is_some() && *fixture.initialized.borrow());
}
