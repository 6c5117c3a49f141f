//! The paths, without a connection.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwap;
use clap::Parser;
use tempfile::TempDir;
use tokio::sync::mpsc;
use weir_proto::envoy::config::bootstrap::v3::Bootstrap;

use super::{query::Query, reply::Reply, *};
use crate::{
    config::{self, Listener, convert::StatsSettings},
    drain::Drain,
    intake::listening::Listening,
    lifecycle::Lifecycle,
    matcher::StringMatcher,
    options::Options,
    runtime::Runtime,
    telemetry::{
        stats::Shared,
        writer::{LogFiles, LogHandle},
    },
    view::{ViewId, ViewNames},
    worker::Teller,
};

const BOOTSTRAP: &str = r#"
node: { id: node-1 }
admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }
layered_runtime: { layers: [{ name: st, static_layer: { a: 1 } }, { name: adm, admin_layer: {} }] }
static_resources:
  clusters:
  - name: backend
    load_assignment: { cluster_name: backend, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 80 } } } }] }] }
"#;

/// Another view.
const SHOP: &str = r#"
node: { id: shop-1 }
static_resources:
  clusters:
  - name: backend
    load_assignment: { cluster_name: backend, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 81 } } } }] }] }
"#;

struct Fixture {
    admin: Admin,
    commands: mpsc::Receiver<Command>,
    _directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let bootstrap: Bootstrap = weir_proto::from_yaml(BOOTSTRAP).unwrap();
        let (settings, stats) = StatsSettings::read(&bootstrap, 1, Default::default()).unwrap();
        let snapshot = config::from_bootstrap(&bootstrap, &stats.root()).unwrap().snapshot;
        let of_shop: Bootstrap = weir_proto::from_yaml(SHOP).unwrap();
        let names = ViewNames::new(["shop".into()]).unwrap();
        let in_shop = config::from_bootstrap(&of_shop, &stats.of_view("shop").root()).unwrap().snapshot;
        let writer = LogFiles::open([]).unwrap().spawn(Shared::default()).unwrap();
        let (sender, commands) = mpsc::channel(4);
        let lifecycle = Arc::new(Lifecycle::default());
        lifecycle.live();
        let drain = Drain::new();
        let listening = Listening::new(Teller::default(), drain.watch(), drain.watch());
        let addresses = ["127.0.0.1:8080", "[::1]:8080"].map(|address| address.parse().unwrap());
        listening.put(
            ViewId::OWN,
            &Listener { addresses: addresses.to_vec(), bind: false, ..Listener::named("main") },
            Vec::new(),
        );
        let view = |name: Option<&str>, bootstrap: &Bootstrap, snapshot| View {
            id: name.map_or(ViewId::OWN, |name| names.serving(name)),
            name: name.map(Arc::from),
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            cells: Arc::default(),
            bootstrap: Arc::new(bootstrap.clone()),
            dynamic: None,
        };
        let own = view(None, &bootstrap, snapshot);
        let other = view(Some("shop"), &of_shop, in_shop);
        let other_listener = Listener { addresses: addresses[..1].to_vec(), bind: false, ..Listener::named("main") };
        listening.put(names.serving("shop"), &other_listener, Vec::new());
        let admin = Admin {
            counts: Arc::new(Counts::new(&stats)),
            stats,
            settings: Arc::new(settings),
            views: vec![own, other],
            runtime: Runtime::from_config(bootstrap.layered_runtime.as_ref()).unwrap(),
            lifecycle,
            options: Options::try_parse_from(["weir-proxy", "-c", "b.yaml", "--concurrency", "1"]).unwrap(),
            listening: Arc::new(listening),
            started: Instant::now(),
            loaded: SystemTime::UNIX_EPOCH,
            reopener: writer.reopener(),
            commands: sender,
            allow_paths: Vec::new(),
        };
        Self { admin, commands, _directory: tempfile::tempdir().unwrap() }
    }

    fn ask(&self, method: &str, target: &str) -> Reply {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        routes::answer(&self.admin, &method.parse().unwrap(), path, &Query::parse(query))
    }

    fn get(&self, target: &str) -> (u16, String) {
        let reply = self.ask("GET", target);
        (reply.status.as_u16(), reply.body)
    }

    fn post(&self, target: &str) -> (u16, String) {
        let reply = self.ask("POST", target);
        (reply.status.as_u16(), reply.body)
    }
}

fn ok() -> (u16, String) {
    (200, "OK\n".to_owned())
}

#[test]
fn every_path_answers() {
    let fixture = Fixture::new();
    for route in fixture.get("/help").1.lines().filter(|line| line.starts_with("  /")) {
        let path = route.trim().split([':', ' ']).next().unwrap();
        let (code, body) = fixture.get(path);
        if route.contains("(POST)") {
            assert_eq!((code, &*body), (405, "Method GET not allowed, POST required."), "{path}");
        } else {
            assert!([200, 501].contains(&code), "{path}: {code} {body}");
        }
    }
    let (code, body) = fixture.get("/nope");
    assert!(code == 404 && body.starts_with("invalid path. admin commands are:\n  /: Admin home page\n"), "{body}");
}

#[test]
fn readiness_follows_the_health_check() {
    let fixture = Fixture::new();
    let gauge = fixture.admin.stats.root().scope("server");
    let live = gauge.gauge("live");
    assert_eq!(fixture.get("/ready"), (200, "LIVE\n".into()));
    assert_eq!(fixture.post("/healthcheck/fail"), ok());
    assert_eq!(fixture.get("/ready"), (503, "DRAINING\n".into()));
    assert_eq!(fixture.admin.stats.level(live), 0);
    assert_eq!(fixture.post("/healthcheck/ok"), ok());
    assert_eq!(fixture.get("/ready"), (200, "LIVE\n".into()));
    assert_eq!(fixture.admin.stats.level(live), 1);
}

#[test]
fn what_changes_the_process_is_told_to_the_control_thread() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.post("/drain_listeners?inboundonly&graceful"), ok());
    assert_eq!(fixture.post("/quitquitquit"), ok());
    let drain = Command::DrainListeners { graceful: true, inbound_only: true, skip_exit: false };
    assert_eq!(fixture.commands.try_recv(), Ok(drain));
    assert_eq!(fixture.commands.try_recv(), Ok(Command::Quit));
    for _ in 0..4 {
        fixture.post("/quitquitquit");
    }
    assert_eq!(fixture.post("/quitquitquit").0, 503);
}

#[test]
fn runtime_values() {
    let fixture = Fixture::new();
    assert_eq!(fixture.post("/runtime_modify").0, 400);
    assert_eq!(fixture.post("/runtime_modify?a=2"), ok());
    let (_, body) = fixture.get("/runtime");
    assert!(
        body.contains("\"a\": {\n   \"final_value\": \"2\",\n   \"layer_values\": [\n    \"1\",\n    \"2\"\n   ]"),
        "{body}"
    );
}

#[test]
fn stats_in_every_format() {
    let fixture = Fixture::new();
    let scope = fixture.admin.stats.root().scope("http.x");
    let (counter, unused) = (scope.counter("downstream_rq_2xx"), scope.counter("unused"));
    let histogram = scope.histogram("downstream_rq_time", crate::telemetry::stats::Unit::Milliseconds);
    fixture.admin.stats.control().add(counter, 3);
    fixture.admin.stats.control().record(histogram, 26);
    fixture.admin.stats.merge_histograms();
    let get = |target: &str| fixture.get(target).1;
    assert_eq!(get("/stats?filter=^http.x.*(2xx|unused)"), "http.x.downstream_rq_2xx: 3\nhttp.x.unused: 0\n");
    assert_eq!(get("/stats?filter=^http.x.*(2xx|unused)&usedonly"), "http.x.downstream_rq_2xx: 3\n");
    assert!(get("/stats?filter=^http.x.*time$").starts_with("http.x.downstream_rq_time: P0(26.5,26.5) P25(26.5,26.5)"));
    assert_eq!(
        get("/stats?filter=^http.x.*2xx&format=json"),
        "{\"stats\":[{\"name\":\"http.x.downstream_rq_2xx\",\"value\":3}]}"
    );
    let prometheus = get("/stats/prometheus?filter=^http.x.*(2xx|time)");
    let first = "# TYPE envoy_http_downstream_rq_xx counter\nenvoy_http_downstream_rq_xx{envoy_response_code_class=\"2\",\
        envoy_http_conn_manager_prefix=\"x\"} 3\n# TYPE envoy_http_downstream_rq_time histogram\n";
    assert!(prometheus.starts_with(first), "{prometheus}");
    let last = "le=\"+Inf\"} 1\nenvoy_http_downstream_rq_time_sum{envoy_http_conn_manager_prefix=\"x\"} \
        26.490566037735849391765441396274\nenvoy_http_downstream_rq_time_count{envoy_http_conn_manager_prefix=\"x\"} 1\n";
    assert!(prometheus.ends_with(last), "{prometheus}");
    assert_eq!(fixture.post("/reset_counters"), ok());
    assert_eq!((fixture.admin.stats.total(counter), fixture.admin.stats.total(unused)), (0, 0));
    assert_eq!(fixture.get("/stats?filter=("), (400, "Invalid re2 regex: missing ): (".into()));
}

#[test]
fn the_configuration_as_given() {
    let fixture = Fixture::new();
    let (code, body) = fixture.get("/config_dump?resource=static_clusters&mask=cluster.name");
    let element = "\"@type\": \"type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster\"";
    assert!(
        code == 200 && body.contains(element) && body.contains("\"name\": \"backend\"") && !body.contains("load_"),
        "{body}"
    );
    assert_eq!(fixture.get("/config_dump?resource=dynamic_listeners"), (200, "{}\n".into()));
    assert_eq!(fixture.get("/config_dump?resource=nope"), (404, "nope not found in config dump".into()));
    let (code, body) = fixture.get("/config_dump?include_eds");
    assert!(code == 200 && body.contains("EndpointsConfigDump") && body.contains("\"port_value\": 80"), "{body}");
    assert!(fixture.get("/clusters").1.contains("backend::127.0.0.1:80::health_flags::healthy\n"));
    assert_eq!(fixture.get("/listeners").1, "main::127.0.0.1:8080\nmain::[::1]:8080\n");
}

#[test]
fn a_view_is_shown_when_it_is_asked_for() {
    let fixture = Fixture::new();
    let get = |target: &str| fixture.get(target).1;
    assert_eq!(get("/listeners?view=shop"), "main::127.0.0.1:8080\n");
    let (own, shop) = (get("/clusters?view="), get("/clusters?view=shop"));
    assert!(own.contains("backend::127.0.0.1:80::") && !own.contains("127.0.0.1:81"), "{own}");
    assert!(shop.contains("backend::127.0.0.1:81::") && !shop.contains("127.0.0.1:80"), "{shop}");
    let dump = get("/config_dump?view=shop&resource=static_clusters");
    assert!(dump.contains("\"port_value\": 81") && !dump.contains("\"port_value\": 80"), "{dump}");
    assert!(get("/config_dump?view=shop").contains("\"id\": \"shop-1\""));
    assert!(get("/server_info").contains("\"id\": \"node-1\""));
    for path in ["/listeners", "/clusters", "/config_dump", "/certs"] {
        let unknown = (400, "unknown view \"shed\": expected one of shop\n".to_owned());
        assert_eq!(fixture.get(&format!("{path}?view=shed")), unknown, "{path}");
    }
    let name = "view.shop.cluster.backend.upstream_rq_total";
    assert_eq!(get(&format!("/stats?filter=^{name}$")), format!("{name}: 0\n"));
}

#[test]
fn paths_that_are_not_allowed() {
    let mut fixture = Fixture::new();
    let pattern = crate::matcher::StringPattern::Exact(b"/ready".to_vec().into());
    fixture.admin.allow_paths = vec![StringMatcher { pattern, ignore_case: false }];
    assert_eq!(fixture.get("/ready").0, 200);
    assert_eq!(fixture.get("/stats").0, 403);
}

/// More clients than are served at a time, none of which says anything: they go after a while, and meanwhile whoever
/// is served is served.
#[test]
fn a_silent_client_does_not_keep_another_waiting() {
    use std::io::{Read, Write};
    let fixture = Fixture::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    spawn(Arc::new(fixture.admin), super::Listener::Tcp(listener), LogHandle::discard(), Vec::new()).unwrap();
    let _silent: Vec<_> = (0..32).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let mut client = std::net::TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    client.write_all(b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=UTF-8\r\n"), "{answer}");
    assert!(answer.contains("transfer-encoding: chunked\r\n") && answer.contains("5\r\nLIVE\n\r\n"), "{answer}");
}
