//! What `kubectl weir` uses of an API server, scripted: objects as they are given, and exec by WebSocket
//! (`v5.channel.k8s.io`) with what a weirctl on a node would write.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::sync::Mutex;
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

const PROTOCOL: &str = "v5.channel.k8s.io";
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;

/// What becomes of an exec into a pod.
#[derive(Clone, Debug)]
pub enum Exec {
    /// weirctl writes this and ends with this exit code.
    Ends { stdout: String, stderr: String, code: i32 },
    /// Nothing comes.
    Hangs,
    /// The API server refuses, with a code and a message.
    Refused(u16, String),
    /// The connection is cut after this on standard output.
    Cut(String),
    /// What it says when it starts, and lines, and then it waits for the end of its standard input.
    Follows { stderr: String, lines: Vec<String> },
}

impl Exec {
    /// An answer.
    pub fn answers(json: &Value) -> Self {
        Self::Ends { stdout: format!("{json}\n"), stderr: String::new(), code: 0 }
    }

    /// An error, as weirctl writes it.
    pub fn fails(message: &str, code: i32) -> Self {
        let stdout = format!("{}\n", json!({ "error": message }));
        Self::Ends { stdout, stderr: format!("weirctl: {message}\n"), code }
    }
}

/// What there is.
#[derive(Debug, Default)]
struct Script {
    /// By path without `/api/v1/` or `/apis/apps/v1/`.
    objects: BTreeMap<String, Value>,
    pods: Vec<Value>,
    execs: BTreeMap<String, Exec>,
    /// Codes and messages for paths, instead of what is there.
    refusals: BTreeMap<String, (u16, String)>,
    /// What pods answer to what is asked through the API server.
    proxied: BTreeMap<String, Vec<(u16, String)>>,
    commands: Vec<(String, Vec<String>)>,
    patches: Vec<(String, Value)>,
}

#[derive(Debug, Default)]
struct State {
    script: Mutex<Script>,
    /// Execs whose connection is open.
    open: AtomicUsize,
}

/// A scripted API server.
pub struct Server {
    state: Arc<State>,
    address: SocketAddr,
    _runtime: Runtime,
}

impl Server {
    /// Starts one without anything.
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port of this host");
        let address = listener.local_addr().expect("a bound address");
        let state = Arc::new(State::default());
        runtime.spawn(serve(listener, state.clone()));
        Self { state, address, _runtime: runtime }
    }

    fn script<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.state.script.lock().expect("nobody panicked with it"))
    }

    /// Writes a kubeconfig whose context has the namespace `demo`.
    pub fn kubeconfig(&self, directory: &Path) -> PathBuf {
        let path = directory.join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             contexts: [{{name: test, context: {{cluster: test, user: test, namespace: demo}}}}]\n\
             clusters: [{{name: test, cluster: {{server: 'http://{}'}}}}]\nusers: [{{name: test, user: {{token: t}}}}]\n",
            self.address
        );
        std::fs::write(&path, text).expect("a file of this test");
        path
    }

    /// A pod.
    pub fn pod(&self, pod: Value) {
        self.script(|script| script.pods.push(pod));
    }

    /// An object at a path, such as `nodes/n1`.
    pub fn object(&self, path: &str, object: Value) {
        self.script(|script| script.objects.insert(path.to_owned(), object));
    }

    /// What becomes of execs into a pod from now on.
    pub fn exec(&self, pod: &str, exec: Exec) {
        self.script(|script| script.execs.insert(pod.to_owned(), exec));
    }

    /// Refuses requests for a path.
    pub fn refuse(&self, path: &str, code: u16, message: &str) {
        self.script(|script| script.refusals.insert(path.to_owned(), (code, message.to_owned())));
    }

    /// What a pod answers, one after the other, the last one again and again.
    pub fn proxied(&self, pod: &str, answers: &[(u16, &str)]) {
        let answers = answers.iter().map(|(code, body)| (*code, (*body).to_owned())).collect();
        self.script(|script| script.proxied.insert(pod.to_owned(), answers));
    }

    /// What was run, in which pods.
    pub fn commands(&self) -> Vec<(String, Vec<String>)> {
        let mut commands = self.script(|script| script.commands.clone());
        commands.sort();
        commands
    }

    /// What was changed.
    pub fn patches(&self) -> Vec<(String, Value)> {
        self.script(|script| script.patches.clone())
    }

    /// Execs whose connection is open.
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let state = state.clone();
        let service = hyper::service::service_fn(move |request| respond(state.clone(), request));
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new();
            let _ = connection.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        });
    }
}

type Answer = Response<Full<Bytes>>;

async fn respond(state: Arc<State>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let path = request.uri().path().trim_start_matches("/api/v1/").trim_start_matches("/apis/apps/v1/").to_owned();
    let refusal = state.script.lock().expect("no panic").refusals.get(&path).cloned();
    if let Some((code, message)) = refusal {
        return Ok(status(code, &message));
    }
    let parts: Vec<&str> = path.split('/').collect();
    Ok(match parts.as_slice() {
        ["namespaces", _, "pods", pod, "exec"] => exec(state, pod.to_string(), request),
        ["namespaces", _, "pods", pod, "proxy", ..] => {
            let pod = pod.split(':').next().unwrap_or_default();
            let mut script = state.script.lock().expect("no panic");
            match script.proxied.get_mut(pod) {
                Some(answers) if answers.len() > 1 => plain(answers.remove(0)),
                Some(answers) => plain(answers[0].clone()),
                None => status(503, "no endpoints"),
            }
        }
        ["namespaces", namespace, "pods"] => pods(&state, Some(namespace), request.uri().query()),
        ["pods"] => pods(&state, None, request.uri().query()),
        ["namespaces", namespace, "pods", name] => {
            let script = state.script.lock().expect("no panic");
            let of = |pod: &&Value| pod["metadata"]["name"] == *name && pod["metadata"]["namespace"] == *namespace;
            match script.pods.iter().find(of) {
                Some(pod) => answer(200, pod),
                None => status(404, &format!("pods {name:?} not found")),
            }
        }
        ["nodes"] => {
            let script = state.script.lock().expect("no panic");
            let nodes = script.objects.iter().filter(|(path, _)| path.starts_with("nodes/"));
            let items: Vec<&Value> = nodes.map(|(_, node)| node).collect();
            answer(200, &json!({ "metadata": {}, "items": items }))
        }
        _ if request.method() == Method::PATCH => {
            let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let patch = serde_json::from_slice(&body).unwrap_or_default();
            state.script.lock().expect("no panic").patches.push((path.clone(), patch));
            answer(200, &json!({ "metadata": { "name": parts.last() } }))
        }
        _ => match state.script.lock().expect("no panic").objects.get(&path) {
            Some(object) => answer(200, object),
            None => status(404, &format!("{path} not found")),
        },
    })
}

fn pods(state: &State, namespace: Option<&str>, query: Option<&str>) -> Answer {
    let query = decode(query.unwrap_or_default());
    let script = state.script.lock().expect("no panic");
    let label =
        query.iter().find_map(|(name, value)| (name == "labelSelector").then(|| value.split_once('=')).flatten());
    let field =
        query.iter().find_map(|(name, value)| (name == "fieldSelector").then(|| value.split_once('=')).flatten());
    let wanted = |pod: &&Value| {
        let metadata = &pod["metadata"];
        namespace.is_none_or(|namespace| metadata["namespace"] == namespace)
            && label.is_none_or(|(label, value)| metadata["labels"][label] == value)
            && field.is_none_or(|(_, name)| metadata["name"] == name)
    };
    let items: Vec<&Value> = script.pods.iter().filter(wanted).collect();
    answer(200, &json!({ "metadata": {}, "items": items }))
}

/// A query's pairs, in order.
fn decode(query: &str) -> Vec<(String, String)> {
    let text = |text: &str| {
        let (mut bytes, mut rest) = (Vec::new(), text.bytes());
        while let Some(byte) = rest.next() {
            let pair: Vec<u8> = if byte == b'%' { rest.by_ref().take(2).collect() } else { Vec::new() };
            let decoded = std::str::from_utf8(&pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
            bytes.push(decoded.unwrap_or(if byte == b'+' { b' ' } else { byte }));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (text(name), text(value))).collect()
}

fn exec(state: Arc<State>, pod: String, mut request: Request<Incoming>) -> Answer {
    let query = decode(request.uri().query().unwrap_or_default());
    let of = |name: &str| -> Vec<String> {
        query.iter().filter(|(given, _)| given == name).map(|(_, value)| value.clone()).collect()
    };
    assert_eq!(of("container"), ["agent"]);
    let exec = {
        let mut script = state.script.lock().expect("no panic");
        script.commands.push((pod.clone(), of("command")));
        script.execs.get(&pod).cloned()
    };
    let exec = match exec {
        Some(Exec::Refused(code, message)) => return status(code, &message),
        Some(exec) => exec,
        None => return status(404, &format!("pods {pod:?} not found")),
    };
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).expect("a WebSocket request").clone();
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        state.open.fetch_add(1, Ordering::SeqCst);
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        run(exec, socket).await;
        state.open.fetch_sub(1, Ordering::SeqCst);
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in [
        (header::CONNECTION, "Upgrade"),
        (header::UPGRADE, "websocket"),
        (header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL),
        (header::SEC_WEBSOCKET_ACCEPT, &derive_accept_key(key.as_bytes())),
    ] {
        response.headers_mut().insert(name, value.parse().expect("a header's value"));
    }
    response
}

async fn run<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(exec: Exec, mut socket: WebSocketStream<S>) {
    let message = |channel: u8, text: &str| Message::binary([&[channel], text.as_bytes()].concat());
    match exec {
        Exec::Refused(..) => {}
        // As long as whoever asked waits.
        Exec::Hangs => while socket.next().await.is_some_and(|message| message.is_ok()) {},
        Exec::Cut(stdout) => {
            let _ = socket.send(message(STDOUT, &stdout)).await;
        }
        Exec::Ends { stdout, stderr, code } => {
            // Not in one piece, as on the way through a kubelet.
            for piece in stdout.as_bytes().chunks(7) {
                let _ = socket.feed(Message::binary([&[STDOUT], piece].concat())).await;
            }
            let _ = socket.feed(message(STDERR, &stderr)).await;
            let end = match code {
                0 => json!({ "status": "Success" }),
                code => json!({
                    "status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated",
                    "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
                }),
            };
            let _ = socket.send(message(STATUS, &end.to_string())).await;
            let _ = socket.close(None).await;
        }
        Exec::Follows { stderr, lines } => {
            let _ = socket.send(message(STDERR, &stderr)).await;
            for line in lines {
                let _ = socket.send(message(STDOUT, &format!("{line}\n"))).await;
            }
            while socket.next().await.is_some_and(|message| message.is_ok()) {}
        }
    }
}

fn plain((code, body): (u16, String)) -> Answer {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::from_u16(code).expect("a status code");
    response
}

fn answer(code: u16, body: &Value) -> Answer {
    let mut response = plain((code, body.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn status(code: u16, message: &str) -> Answer {
    let reason = if code == 404 { "NotFound" } else { "" };
    answer(
        code,
        &json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code
        }),
    )
}

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
