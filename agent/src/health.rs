//! What the kubelet is told of the agent: whether it lives, has started, is ready, was uninstalled. On the same port are the
//! metrics.
//!
//! The parts of the agent say how they stand; what is answered is decided by `answer`, a pure function. An agent that
//! gave the lead to its successor stays ready: a rolling update ends by the old pod being deleted, not by its probes.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Bytes, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::Instant,
};

use crate::metrics::{Format, Metrics};

/// A reconciler that has not come round for so long is stuck.
const STUCK: Duration = Duration::from_secs(60);
/// A request must be there by then; the kubelet sends it at once.
const REQUEST: Duration = Duration::from_secs(1);
/// Connections at a time. Anybody who reaches the agent's pod can open them: one too many ends another, so that those who
/// say nothing do not keep the kubelet from being answered.
const CONNECTIONS: usize = 64;
/// How often the log says that there were too many.
const TOLD: Duration = Duration::from_secs(60);
/// After a failed accept, which mostly means that file descriptors ran out.
const PAUSE: Duration = Duration::from_millis(100);

const PLAIN: &str = "text/plain; charset=utf-8";

/// How the agent stands. Written by its parts, read by the server; a clone is the same.
#[derive(Clone, Debug)]
pub struct Health {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    /// When the reconciler last came round.
    beat: Instant,
}

/// Where the agent stands in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing is loaded yet.
    Starting,
    /// It enrols pods.
    Leading(Progress),
    /// A newer agent does; this one waits to be ended.
    Superseded,
    /// Everything was taken off this node.
    Uninstalled,
}

/// What an agent that leads has reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whether the pods of an earlier agent are taken over, or their time is over.
    pub taken_over: bool,
    /// Why the source of pods has not said which there are; none once it has.
    pub unlisted: Option<String>,
    /// Whether the proxy of the agent's pod accepts, or stands by while another does.
    pub proxy_ready: bool,
    /// Whether the proxy that accepts was sent every pod.
    pub snapshot_sent: bool,
    /// That the proxy does not answer, and for how long; none while it does.
    pub hung: Option<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self { state: Arc::new(Mutex::new(State { stage: Stage::Starting, beat: Instant::now() })) }
    }
}

impl Health {
    /// The agent is somewhere else in its life.
    pub fn enter(&self, stage: Stage) {
        let mut state = self.state.lock();
        state.beat = Instant::now();
        if state.stage != stage {
            state.stage = stage;
        }
    }

    /// What is answered to a request for this path now.
    pub fn answer(&self, path: &str) -> (StatusCode, String) {
        let state = self.state.lock();
        answer(path, &state.stage, state.beat.elapsed())
    }
}

/// What is answered to a request for this path, in this stage, so long after the reconciler last came round.
fn answer(path: &str, stage: &Stage, since_beat: Duration) -> (StatusCode, String) {
    let problems = match path {
        "/healthz/live" => stuck(stage, since_beat),
        "/healthz/started" => not_started(stage),
        "/healthz/ready" => not_ready(stage),
        "/healthz/uninstalled" if *stage == Stage::Uninstalled => Vec::new(),
        "/healthz/uninstalled" => vec!["weir was not taken off this node".to_owned()],
        _ => return (StatusCode::NOT_FOUND, String::new()),
    };
    if problems.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, problems.iter().map(|problem| format!("{problem}\n")).collect())
}

fn stuck(stage: &Stage, since_beat: Duration) -> Vec<String> {
    let stuck = matches!(stage, Stage::Leading(_)) && since_beat > STUCK;
    let problem = || format!("the reconciler has not come round for {} s", since_beat.as_secs());
    stuck.then(problem).into_iter().collect()
}

fn not_started(stage: &Stage) -> Vec<String> {
    match stage {
        Stage::Starting => vec!["the eBPF programs are not loaded".to_owned()],
        Stage::Leading(Progress { taken_over: false, .. }) => vec![TAKING_OVER.to_owned()],
        Stage::Leading(_) | Stage::Superseded | Stage::Uninstalled => Vec::new(),
    }
}

const TAKING_OVER: &str = "pods of an earlier agent are still being taken over";

fn not_ready(stage: &Stage) -> Vec<String> {
    let progress = match stage {
        Stage::Starting => return not_started(stage),
        Stage::Superseded => return Vec::new(),
        Stage::Uninstalled => return vec!["weir was taken off this node".to_owned()],
        Stage::Leading(progress) => progress,
    };
    let mut problems = not_started(stage);
    problems.extend(progress.unlisted.as_ref().map(|error| {
        let because = if error.is_empty() { String::new() } else { format!(": {error}") };
        format!("the source of pods has not said which there are{because}")
    }));
    if !progress.proxy_ready {
        problems.push("the proxy of this pod is not ready".to_owned());
    }
    if !progress.snapshot_sent {
        problems.push("the proxy does not know every pod yet".to_owned());
    }
    problems.extend(progress.hung.clone());
    problems
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("health.address: cannot listen on {address}: {source}")]
pub struct Error {
    address: SocketAddr,
    source: io::Error,
}

/// Makes the server's socket.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error { address, source })
}

/// Answers on `listener`, for as long as it is polled.
pub async fn serve(listener: TcpListener, health: Health, metrics: Metrics) {
    serve_within(listener, health, metrics, REQUEST).await;
}

async fn serve_within(listener: TcpListener, health: Health, metrics: Metrics, patience: Duration) {
    // Oldest first.
    let mut open: Vec<(IpAddr, JoinHandle<()>)> = Vec::new();
    let mut told: Option<Instant> = None;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a health probe could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        open.retain(|(_, connection)| !connection.is_finished());
        if open.len() >= CONNECTIONS {
            let (from, connection) = open.remove(surplus(open.iter().map(|(peer, _)| *peer)));
            connection.abort();
            if told.is_none_or(|told| told.elapsed() > TOLD) {
                tracing::warn!(%from, open = CONNECTIONS, "too many connections to the health port; the oldest of one end");
                told = Some(Instant::now());
            }
        }
        open.push((peer.ip(), tokio::spawn(converse(stream, health.clone(), metrics.clone(), patience))));
    }
}

/// Which connection makes room, by their peers, oldest first: the oldest of the peer that has most.
fn surplus(peers: impl Iterator<Item = IpAddr> + Clone) -> usize {
    let mut counts: HashMap<IpAddr, usize> = HashMap::new();
    for peer in peers.clone() {
        *counts.entry(peer).or_default() += 1;
    }
    let most = counts.values().copied().max().unwrap_or_default();
    peers.enumerate().find(|(_, peer)| counts.get(peer) == Some(&most)).map_or(0, |(index, _)| index)
}

/// One request and its answer.
async fn converse(stream: TcpStream, health: Health, metrics: Metrics, patience: Duration) {
    let service = service_fn(async |request| {
        Ok::<_, Infallible>(match scraped(&request) {
            Some(format) => expose(&metrics, format).await,
            None => respond(&health, &request),
        })
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A client that does not take its answer must not keep its place.
    let _ = tokio::time::timeout(2 * patience, connection).await;
}

/// In which format the metrics are asked for; none if something else is.
fn scraped<B>(request: &Request<B>) -> Option<Format> {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    (request.method() == Method::GET && request.uri().path() == "/metrics").then(|| Format::of(accept))
}

async fn expose(metrics: &Metrics, format: Format) -> Response<Full<Bytes>> {
    let Some(text) = metrics.text(format).await else {
        return answered(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, Bytes::from("the metrics cannot be written\n"));
    };
    answered(StatusCode::OK, format.content_type(), text)
}

fn respond<B>(health: &Health, request: &Request<B>) -> Response<Full<Bytes>> {
    let (status, body) = match *request.method() {
        Method::GET => health.answer(request.uri().path()),
        _ => (StatusCode::NOT_FOUND, String::new()),
    };
    answered(status, PLAIN, Bytes::from(body))
}

fn answered(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const PATHS: [&str; 4] = ["/healthz/live", "/healthz/started", "/healthz/ready", "/healthz/uninstalled"];

    fn codes(stage: &Stage) -> [u16; 4] {
        PATHS.map(|path| answer(path, stage, Duration::ZERO).0.as_u16())
    }

    fn ready() -> Progress {
        Progress { taken_over: true, unlisted: None, proxy_ready: true, snapshot_sent: true, hung: None }
    }

    #[test]
    fn each_stage_has_its_answers() {
        assert_eq!(codes(&Stage::Starting), [200, 503, 503, 503]);
        assert_eq!(codes(&Stage::Leading(Progress::default())), [200, 503, 503, 503]);
        assert_eq!(codes(&Stage::Leading(Progress { taken_over: true, ..Progress::default() })), [200, 200, 503, 503]);
        assert_eq!(codes(&Stage::Leading(ready())), [200, 200, 200, 503]);
        assert_eq!(codes(&Stage::Superseded), [200, 200, 200, 503]);
        assert_eq!(codes(&Stage::Uninstalled), [200, 200, 503, 200]);
        assert_eq!(answer("/healthz", &Stage::Starting, Duration::ZERO).0, StatusCode::NOT_FOUND);
    }

    #[test]
    fn what_is_not_ready_has_a_line_each() {
        let progress = Progress { unlisted: Some("connection refused".to_owned()), ..Progress::default() };
        assert_eq!(
            answer("/healthz/ready", &Stage::Leading(progress), Duration::ZERO).1,
            "pods of an earlier agent are still being taken over\n\
             the source of pods has not said which there are: connection refused\n\
             the proxy of this pod is not ready\n\
             the proxy does not know every pod yet\n"
        );
        let unlisted = Progress { unlisted: Some(String::new()), ..ready() };
        assert_eq!(
            answer("/healthz/ready", &Stage::Leading(unlisted), Duration::ZERO).1,
            "the source of pods has not said which there are\n"
        );
        let hung = Progress { hung: Some("proxy 40 (0.1.0) has not answered for 37s".to_owned()), ..ready() };
        let (code, text) = answer("/healthz/ready", &Stage::Leading(hung), Duration::ZERO);
        assert_eq!((code.as_u16(), text.as_str()), (503, "proxy 40 (0.1.0) has not answered for 37s\n"));
        assert_eq!(
            answer("/healthz/started", &Stage::Starting, Duration::ZERO).1,
            "the eBPF programs are not loaded\n"
        );
    }

    #[test]
    fn only_a_reconciler_that_should_come_round_can_be_stuck() {
        let late = STUCK + Duration::from_secs(1);
        let (code, text) = answer("/healthz/live", &Stage::Leading(ready()), late);
        assert_eq!((code.as_u16(), text.as_str()), (503, "the reconciler has not come round for 61 s\n"));
        for stage in [Stage::Starting, Stage::Superseded, Stage::Uninstalled] {
            assert_eq!(answer("/healthz/live", &stage, late).0, StatusCode::OK, "{stage:?}");
        }
    }

    #[tokio::test]
    async fn those_who_connect_and_say_nothing_do_not_keep_others_from_being_answered() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        // Nobody is sent away for being slow: only for being one too many.
        tokio::spawn(serve_within(listener, Health::default(), Metrics::default(), Duration::from_secs(3600)));
        let mut silent = Vec::new();
        for _ in 0..2 * CONNECTIONS {
            silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        let answer = tokio::time::timeout(Duration::from_secs(30), ask(address, "GET /healthz/live")).await;
        assert!(answer.expect("an answer").starts_with("HTTP/1.1 200 "));
        let ended = tokio::time::timeout(Duration::from_secs(30), silent[0].read(&mut [0])).await;
        assert!(matches!(ended, Ok(Ok(0) | Err(_))), "the oldest made room: {ended:?}");
    }

    #[test]
    fn whoever_has_most_connections_makes_room() {
        let peers = |last: &[u8]| last.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect::<Vec<_>>();
        for (open, index) in [(&[1, 2, 2, 3, 2][..], 1), (&[1, 2, 3], 0), (&[1, 2, 2, 1], 0), (&[9, 1, 1], 1)] {
            assert_eq!(surplus(peers(open).into_iter()), index, "{open:?}");
        }
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    #[tokio::test]
    async fn probes_are_answered() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let taken = bind(address).await.unwrap_err().to_string();
        assert!(taken.starts_with(&format!("health.address: cannot listen on {address}: ")), "{taken}");

        let health = Health::default();
        tokio::spawn(serve(listener, health.clone(), Metrics::default()));
        assert!(ask(address, "GET /healthz/ready").await.starts_with("HTTP/1.1 503 "));
        health.enter(Stage::Leading(ready()));
        let response = ask(address, "GET /healthz/ready?verbose").await;
        assert!(response.starts_with("HTTP/1.1 200 ") && response.ends_with("\r\n\r\nok\n"), "{response}");
        let metrics = ask(address, "GET /metrics").await;
        assert!(
            metrics.starts_with("HTTP/1.1 200 ") && metrics.contains("\r\ncontent-type: text/plain; version=0.0.4;")
        );
        assert!(metrics.contains("\nweir_leader 0\n"), "{metrics}");
        let open =
            ask(address, "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=1.0.0\r\nX: a").await;
        assert!(open.contains("\r\ncontent-type: application/openmetrics-text; version=1.0.0;"), "{open}");
        assert!(open.ends_with("\n# EOF\n"), "{open}");
        for refused in ["POST /healthz/ready", "HEAD /metrics", "POST /metrics", "GET /metrics/"] {
            assert!(ask(address, refused).await.starts_with("HTTP/1.1 404 "), "{refused}");
        }
        assert!(ask(address, "GET /").await.starts_with("HTTP/1.1 404 "));
    }
}
