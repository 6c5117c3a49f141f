//! A panic ends one connection, or one stream of HTTP/2: it is counted and logged, and the worker goes on, also with
//! accepting. What panics is the test's own log, at the event of a request to a certain path, or of a connection to a pod
//! of a certain name; the program has no switch for it.
#![expect(clippy::unwrap_used, reason = "a test says enough by failing there")]

use std::{collections::HashMap, fmt, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::{io::AsyncReadExt, net::TcpStream, sync::mpsc, time::timeout};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};
use weir_proto::envoy::config::bootstrap::v3::Bootstrap;
use weir_proxy::{
    cluster::Local,
    config::{
        self,
        snapshot::Snapshot,
        tcp::Passthrough,
        views::{InForce, Views},
    },
    drain::Drain,
    http::pool::Pools,
    pod::{Direction, Pod, PodLocal, passing::Passing, stash::Stash},
    telemetry::{
        panics,
        stats::{Kind, Store, Value, process},
        writer::LogHandle,
    },
    view::ViewId,
    worker::{Accepting, Source, Worker, Workers},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// The path of the request that the panic happens for, and the end of the pod's name.
const TRIPWIRE: &str = "/tripwire";

const CONFIGURATION: &str = r#"
static_resources:
  listeners:
  - name: web
    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          http_filters: [{ name: envoy.filters.http.router }]
          route_config:
            virtual_hosts:
            - { name: all, domains: ["*"], routes: [{ match: { prefix: / }, direct_response: { status: 200 } }] }
"#;

/// The errors that were logged.
static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A log that panics at the event of a request to [`TRIPWIRE`].
struct Log;

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        if event.metadata().target() == "backtrace" {
            // There, if RUST_BACKTRACE asks for it.
        } else if *event.metadata().level() == Level::ERROR {
            // The test's own failure is told here, too.
            eprintln!("{}", line.0);
            TOLD.lock().push(line.0);
        } else {
            assert!(!line.0.contains(TRIPWIRE), "the wire was\ntripped");
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 += &format!("{}={value:?} ", field.name());
    }
}

/// One worker that serves [`CONFIGURATION`].
struct Proxy {
    stats: Store,
    workers: Workers,
    accepting: Accepting,
    address: SocketAddr,
}

impl Proxy {
    async fn start() -> Self {
        let stats = Store::new(1);
        let bootstrap: Bootstrap = weir_proto::from_yaml(CONFIGURATION).unwrap();
        let snapshot: Snapshot = config::from_bootstrap(&bootstrap, &stats.root()).unwrap().snapshot;
        let drain = Drain::new().watch();
        let worker = {
            let (stats, drain) = (stats.worker(0), drain.clone());
            move || Worker {
                index: 0,
                views: Views::new([InForce::at_once(Arc::new(ArcSwap::from_pointee(snapshot)))]),
                passthrough: Arc::new(Passthrough::new(None)),
                pools: Pools::default(),
                balancers: Local::default(),
                log: LogHandle::discard(),
                stats,
                drain,
                lifecycle: Arc::default(),
                runtime: Arc::default(),
                overload: Arc::default(),
                rested: Default::default(),
            }
        };
        let workers = Workers::start([worker], PATIENCE).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = Accepting::none();
        let source = Source::Bound { view: ViewId::OWN, listener: "web".into(), drain };
        workers.accept(0, listener.into(), source, &accepting).await.unwrap();
        Self { stats, workers, accepting, address }
    }

    /// Accepts what the pod's processes dial. Without the agent's maps each connection is refused.
    async fn accept_of(&self, pod: &Arc<ArcSwap<Pod>>) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let source = Source::Pod { pod: pod.clone(), direction: Direction::Outbound };
        self.workers.accept(0, listener.into(), source, &self.accepting).await.unwrap();
        address
    }

    async fn http1(&self) -> http1::SendRequest<Empty<Bytes>> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(driver);
        sender
    }

    async fn http2(&self) -> http2::SendRequest<Empty<Bytes>> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(driver);
        sender
    }

    fn panics(&self) -> u64 {
        self.stats.total(process::PANICS)
    }

    /// The gauges of the connection manager that are not 0.
    fn active(&self) -> Vec<(String, u64)> {
        let gauges = self.stats.read(Kind::Gauge, |name| name.starts_with("http.web."));
        let active = gauges.iter().filter_map(|metric| match metric.value {
            Value::Gauge(level @ 1..) => Some((metric.name().to_owned(), level)),
            _ => None,
        });
        active.collect()
    }

    /// Waits until clients have so many connections open, and the manager serves no others.
    async fn settles(&self, connections: u64) {
        let settled = || {
            let active = self.active();
            self.stats.open_connections() == connections && !active.iter().any(|(name, _)| name.contains("rq_active"))
        };
        let settling = async {
            while !settled() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, settling)
            .await
            .unwrap_or_else(|_| panic!("{} open, {:?}", self.stats.open_connections(), self.active()));
    }
}

/// A pod that the agent has sent nothing for.
fn pod(name: &str, stats: &Store) -> Pod {
    let (needs, _) = mpsc::channel(1);
    let local = PodLocal::new(Stash::new("uid".into(), needs), Arc::default(), Passing::never(), stats.shared(), 10);
    Pod {
        uid: "uid".into(),
        name: name.into(),
        namespace: "default".into(),
        view: ViewId::OWN,
        service_account: String::new(),
        labels: HashMap::new(),
        ips: Vec::new(),
        local: Arc::new(local),
    }
}

/// Waits until something is so.
async fn until(so: impl Fn() -> bool) {
    let waiting = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("it to become so in time");
}

/// Connects, and waits for the end that a refusal is.
async fn is_refused(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut rest = Vec::new();
    // A reset is as good as an end.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end in time");
    assert_eq!(rest, b"");
}

fn get(path: &str, version: http::Version) -> Request<Empty<Bytes>> {
    let uri = match version {
        http::Version::HTTP_2 => format!("http://web.test{path}"),
        _ => path.to_owned(),
    };
    Request::builder().uri(uri).header("host", "web.test").version(version).body(Empty::new()).unwrap()
}

/// The line about the latest panic, and how many there are.
fn told() -> (usize, String) {
    let told = TOLD.lock();
    (told.len(), told.last().cloned().unwrap_or_default())
}

macro_rules! ask {
    ($sender:expr, $path:expr, $version:ident) => {{
        $sender.ready().await.unwrap();
        timeout(PATIENCE, $sender.send_request(get($path, http::Version::$version))).await.expect("an end in time")
    }};
}

#[tokio::test]
async fn a_panic_ends_one_connection_or_stream_and_is_counted_and_told() {
    tracing::subscriber::set_global_default(Log).unwrap();
    let proxy = Proxy::start().await;
    panics::watch(proxy.stats.shared());

    let mut other = proxy.http1().await;
    assert_eq!(ask!(other, "/", HTTP_11).unwrap().status(), StatusCode::OK);
    let mut one = proxy.http1().await;
    assert_eq!(ask!(one, "/", HTTP_11).unwrap().status(), StatusCode::OK);
    let error = ask!(one, TRIPWIRE, HTTP_11).unwrap_err();
    assert!(error.is_incomplete_message(), "not closed: {error}");
    proxy.settles(1).await;
    assert_eq!(proxy.panics(), 1);
    let (count, line) = told();
    assert_eq!(count, 1, "{line}");
    for part in ["message=panicked: the wire was\\ntripped", "connection=1 ", "worker-0", "proxy/tests/panics.rs:"] {
        assert!(line.contains(part), "{part:?} is missing: {line}");
    }

    let mut many = proxy.http2().await;
    assert_eq!(ask!(many, "/", HTTP_2).unwrap().status(), StatusCode::OK);
    assert!(ask!(many, TRIPWIRE, HTTP_2).is_err());
    // The streams beside it go on, and so do other connections.
    let response = ask!(many, "/", HTTP_2).unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.into_body().collect().await.unwrap();
    assert_eq!(ask!(other, "/", HTTP_11).unwrap().status(), StatusCode::OK);
    proxy.settles(2).await;
    assert_eq!(proxy.panics(), 2);
    let (count, line) = told();
    assert_eq!(count, 2);
    assert!(line.contains("connection=2 "), "{line}");

    // Accepting goes on after a panic of its own.
    let struck = Arc::new(ArcSwap::from_pointee(pod(&TRIPWIRE[1..], &proxy.stats)));
    let address = proxy.accept_of(&struck).await;
    for panics in 3..=4 {
        is_refused(address).await;
        // It ends before that is told of.
        until(|| told().0 == panics).await;
        let line = told().1;
        assert!(line.contains("message=panicked: the wire was\\ntripped"), "{line}");
    }
    struck.store(Arc::new(pod("well", &proxy.stats)));
    is_refused(address).await;
    until(|| proxy.stats.total(process::NO_ORIGINAL_DESTINATION) == 3).await;
    assert_eq!(proxy.panics(), 4);

    timeout(PATIENCE, proxy.workers.answer()).await.expect("the worker lives").unwrap();
    drop((other, many));
    proxy.settles(0).await;
    assert_eq!(proxy.active(), []);
}
