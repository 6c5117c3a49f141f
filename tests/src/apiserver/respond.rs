//! Answers to requests.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Response, StatusCode,
    body::{Body, Frame, Incoming},
    header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER},
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::sleep};

use super::{
    Fault, Request, Resource, Verb,
    state::{Next, State},
};

/// A server that never answers is taken for dead before this.
const NEVER: Duration = Duration::from_secs(3600);

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// What a path names.
struct Target {
    resource: Resource,
    namespace: Option<String>,
    name: Option<String>,
}

pub async fn respond(state: Arc<State>, request: hyper::Request<Incoming>) -> Result<Answer, Infallible> {
    let path = request.uri().path().to_owned();
    let Some(target) = target(&path) else { return Ok(status(404, "the server could not find it", None)) };
    let query = query(request.uri().query().unwrap_or_default());
    let verb = match (request.method(), &target.name) {
        (&Method::POST, _) => Verb::Create,
        (&Method::PATCH, _) => Verb::Patch,
        (_, Some(_)) => Verb::Get,
        _ if query.get("watch").is_some_and(|watch| watch == "true") => Verb::Watch,
        _ => Verb::List,
    };
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let seen = Request { resource: target.resource, verb, path, query, accept };
    let fault = state.begin(seen.clone());
    match &fault {
        Some(Fault::Status(code, after)) => return Ok(status(*code, "scripted", *after)),
        Some(Fault::Html) => return Ok(text("<html>a gateway's page</html>")),
        Some(Fault::Slow(pause)) => sleep(*pause).await,
        Some(Fault::Silent) => sleep(NEVER).await,
        _ => {}
    }
    Ok(match verb {
        Verb::List => list(&state, &seen, &target, fault),
        Verb::Watch => watch(state, seen, fault),
        Verb::Get => get(&state, &target),
        Verb::Create | Verb::Patch => write(&state, &target, request).await,
    })
}

fn target(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let rest = match parts.as_slice() {
        ["api", "v1", rest @ ..] | ["apis", "events.k8s.io", "v1", rest @ ..] => rest,
        _ => return None,
    };
    let resource = |name: &str| match name {
        "pods" => Some(Resource::Pods),
        "namespaces" => Some(Resource::Namespaces),
        "nodes" => Some(Resource::Nodes),
        "events" => Some(Resource::Events),
        _ => None,
    };
    let (namespace, kind, name) = match rest {
        ["namespaces", namespace, kind] => (Some(*namespace), kind, None),
        ["namespaces", namespace, kind, name] => (Some(*namespace), kind, Some(*name)),
        [kind] => (None, kind, None),
        [kind, name] => (None, kind, Some(*name)),
        _ => return None,
    };
    let resource = resource(kind)?;
    Some(Target { resource, namespace: namespace.map(str::to_owned), name: name.map(str::to_owned) })
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digits: Option<[u8; 2]> = (byte == b'%').then(|| Some([rest.next()?, rest.next()?])).flatten();
        let decoded = digits.and_then(|pair| u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok());
        bytes.push(decoded.unwrap_or(if byte == b'+' { b' ' } else { byte }));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether an object is one that the field selector names.
fn selected(object: &Value, request: &Request) -> bool {
    request.query.get("fieldSelector").is_none_or(|selector| {
        selector.split(',').all(|term| {
            let (field, value) = term.split_once('=').unwrap_or((term, ""));
            let found = object.pointer(&format!("/{}", field.replace('.', "/")));
            found.and_then(Value::as_str).unwrap_or_default() == value
        })
    })
}

/// An object as the client wants it.
fn shown(object: &Value, request: &Request) -> Value {
    if request.accept.contains("as=PartialObjectMetadata") {
        return json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]
        });
    }
    object.clone()
}

fn list(state: &State, request: &Request, target: &Target, fault: Option<Fault>) -> Answer {
    // The token of a page says where it starts and of which version the list is.
    let token = request.query.get("continue").and_then(|token| token.split_once(' '));
    let (version, start) = match token {
        Some((version, start)) => (version.parse().unwrap_or_default(), start.parse().unwrap_or_default()),
        None => (state.version(), 0),
    };
    if !state.remembers(version) {
        return status(410, "The provided continue parameter is too old", None);
    }
    let known = state.version();
    let wanted: Option<u64> = request.query.get("resourceVersion").and_then(|version| version.parse().ok());
    if let Some(wanted) = wanted.filter(|wanted| *wanted > known) {
        return status(504, &format!("Too large resource version: {wanted}, current: {known}"), None);
    }
    let limit = request.query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let of_namespace = |object: &Value| {
        target.namespace.as_deref().is_none_or(|namespace| object["metadata"]["namespace"] == namespace)
    };
    let all = state.all(target.resource);
    let mut chosen = all.iter().filter(|object| selected(object, request) && of_namespace(object)).skip(start);
    let items: Vec<Value> = chosen.by_ref().take(limit).map(|object| shown(object, request)).collect();
    let more = chosen.next().is_some();
    let next = if more { format!("{version} {}", start + limit) } else { String::new() };
    let list = json!({
        "kind": "List", "apiVersion": "v1",
        "metadata": {"resourceVersion": version.to_string(), "continue": next}, "items": items
    });
    let text_of_list = list.to_string();
    match fault {
        Some(Fault::Cut) => cut(&text_of_list),
        _ => json_answer(200, text_of_list),
    }
}

fn get(state: &State, target: &Target) -> Answer {
    let name = target.name.as_deref().unwrap_or_default();
    let key = target.namespace.as_ref().map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
    match state.get(target.resource, &key) {
        Some(object) => json_answer(200, object.to_string()),
        None => status(404, &format!("{key} not found"), None),
    }
}

async fn write(state: &State, target: &Target, request: hyper::Request<Incoming>) -> Answer {
    let patch = request.method() == Method::PATCH;
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let Ok(sent) = serde_json::from_slice::<Value>(&body) else { return status(400, "not JSON", None) };
    let object = if patch {
        let name = target.name.as_deref().unwrap_or_default();
        let key = format!("{}/{name}", target.namespace.as_deref().unwrap_or_default());
        let Some(mut object) = state.get(target.resource, &key) else { return status(404, "not found", None) };
        merge(&mut object, sent);
        object
    } else {
        sent
    };
    state.put(object.clone());
    json_answer(if patch { 200 } else { 201 }, object.to_string())
}

/// RFC 7386.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (field, value) in patch {
        if value.is_null() {
            target.as_object_mut().expect("made one above").remove(&field);
        } else {
            merge(&mut target[field], value);
        }
    }
}

/// Counts a watch while it is open.
struct Open {
    state: Arc<State>,
    resource: Resource,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.state.close(self.resource);
    }
}

/// A body that lives as long as its watch counts as open.
struct Counted<B> {
    body: B,
    _open: Open,
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }
}

fn watch(state: Arc<State>, request: Request, fault: Option<Fault>) -> Answer {
    let version = request.query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    let ended = state.open(request.resource);
    let open = Open { state: state.clone(), resource: request.resource };
    let (sender, receiver) = mpsc::channel::<Result<Bytes, io::Error>>(64);
    tokio::spawn(async move {
        let line = |kind: &str, object: Value| Bytes::from(format!("{}\n", json!({"type": kind, "object": object})));
        let error = |code: u16| {
            let message = format!("too old resource version: {version}");
            line("ERROR", json!({"kind": "Status", "code": code, "message": message}))
        };
        match fault {
            Some(Fault::Ended) => return,
            Some(Fault::ErrorEvent(code)) => {
                let _ = sender.send(Ok(error(code))).await;
                return;
            }
            Some(Fault::Garbage) => {
                let _ = sender.send(Ok(Bytes::from_static(b"{\"type\": \"ADDED\", \"object\": []}\n"))).await;
                return;
            }
            _ => {}
        }
        // As a real one does: an expired version is told in an event.
        if !state.remembers(version) {
            let _ = sender.send(Ok(error(410))).await;
            return;
        }
        let mut changes = state.changes();
        let mut from = 0;
        loop {
            changes.mark_unchanged();
            match state.since(request.resource, version, from, ended) {
                Next::End => return,
                Next::Events(events, next) => {
                    from = next;
                    for event in events {
                        if event.kind != "BOOKMARK" && !selected(&event.object, &request) {
                            continue;
                        }
                        let object =
                            if event.kind == "BOOKMARK" { event.object } else { shown(&event.object, &request) };
                        let mut bytes = line(event.kind, object);
                        let cut = matches!(fault, Some(Fault::Cut));
                        if cut {
                            bytes.truncate(bytes.len() / 2);
                        }
                        if sender.send(Ok(bytes)).await.is_err() {
                            return;
                        }
                        if cut {
                            let _ = sender.send(Err(io::ErrorKind::ConnectionReset.into())).await;
                            return;
                        }
                    }
                }
                Next::Wait => {
                    tokio::select! {
                        changed = changes.changed() => if changed.is_err() { return },
                        () = sender.closed() => return,
                    }
                }
            }
        }
    });
    answer(200, Counted { body: stream(receiver), _open: open })
}

fn stream(receiver: mpsc::Receiver<Result<Bytes, io::Error>>) -> impl Body<Data = Bytes, Error = io::Error> + Unpin {
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
        let chunk = receiver.recv().await?;
        Some((chunk.map(Frame::data), receiver))
    });
    StreamBody::new(Box::pin(frames))
}

/// The first half of a text, then the connection's end.
fn cut(text: &str) -> Answer {
    let (sender, receiver) = mpsc::channel(2);
    let half = Bytes::copy_from_slice(&text.as_bytes()[..text.len() / 2]);
    let _ = sender.try_send(Ok(half));
    let _ = sender.try_send(Err(io::ErrorKind::ConnectionReset.into()));
    answer(200, stream(receiver))
}

fn status(code: u16, message: &str, retry_after: Option<u64>) -> Answer {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "message": message, "details": {"retryAfterSeconds": retry_after.unwrap_or_default()}
    });
    let mut answer = json_answer(code, body.to_string());
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    answer
}

fn json_answer(code: u16, text: String) -> Answer {
    let mut answer = answer(code, Full::from(text).map_err(|never| match never {}));
    answer.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    answer
}

fn text(text: &'static str) -> Answer {
    answer(200, Full::from(text).map_err(|never| match never {}))
}

fn answer(code: u16, body: impl Body<Data = Bytes, Error = io::Error> + Send + 'static) -> Answer {
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = StatusCode::from_u16(code).expect("a scripted status is one");
    answer
}
