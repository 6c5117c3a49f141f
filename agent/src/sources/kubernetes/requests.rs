//! Requests to the API server: list a page, watch, get. Answers are read with limits, and every failure says what it
//! means for who asked: try again, list anew, or nothing of the kind is there.

use std::{marker::PhantomData, pin::pin, time::Duration};

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use http::{Request, Response, StatusCode, header::RETRY_AFTER};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube::{
    Client,
    api::{GetParams, ListParams, VersionMatch, WatchParams},
    client::Body,
    core::request,
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;
use tokio_util::{
    codec::{FramedRead, LinesCodec, LinesCodecError},
    io::StreamReader,
};

use super::{absent::or_default, client::connection_problem, objects::Object};
use crate::causes::on_one_line;

/// Objects of one page of a list.
const PAGE: u32 = 500;
/// The largest page that is read, in bytes: an object has up to 1.5 MiB in etcd, few come near.
const MAX_PAGE: usize = 256 << 20;
/// The longest line of a watch, in bytes: one object with what is around it.
const MAX_EVENT: usize = 16 << 20;
/// The largest answer that is read for its message.
const MAX_STATUS: usize = 64 << 10;

/// Objects of one kind that can be listed and watched.
#[derive(Clone, Debug)]
pub struct Resource<K> {
    /// Path in the API, such as `/api/v1/pods`.
    pub path: &'static str,
    /// What people call it.
    pub name: &'static str,
    /// Which of them.
    pub fields: Option<String>,
    /// Whether only their metadata is asked for.
    pub metadata: bool,
    kind: PhantomData<fn() -> K>,
}

impl<K> Resource<K> {
    /// Objects at a path.
    pub fn new(path: &'static str, name: &'static str) -> Self {
        Self { path, name, fields: None, metadata: false, kind: PhantomData }
    }

    /// Only those of which these fields say so.
    pub fn fields(self, selector: String) -> Self {
        Self { fields: Some(selector), ..self }
    }

    /// Only their metadata.
    pub fn metadata(self) -> Self {
        Self { metadata: true, ..self }
    }
}

/// Why a request gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No answer, or it broke off.
    #[error("{0}")]
    Unreachable(String),
    /// Silence.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Silent(Duration),
    /// The version to watch from is too old (410 Gone).
    #[error("the version is expired: {0}")]
    Expired(String),
    /// There is no such object.
    #[error("not found")]
    NotFound,
    /// The server refuses.
    #[error("{code}: {message}")]
    Refused {
        /// HTTP status code.
        code: u16,
        /// The server's message.
        message: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// The answer is not one.
    #[error("unreadable answer: {0}")]
    Unreadable(String),
}

/// A page of a list.
#[derive(Debug)]
pub struct Page<K> {
    pub items: Vec<K>,
    /// Version of the list.
    pub version: String,
    /// Where the next page begins; empty at the end.
    pub next: String,
}

/// An event of a watch.
#[derive(Debug)]
pub enum Event<K> {
    /// An object is there or changed.
    Applied(K),
    /// An object is gone.
    Deleted(K),
    /// Nothing happened up to this version.
    Bookmark(String),
}

#[derive(Deserialize)]
struct List<K> {
    metadata: ListMetadata,
    #[serde(deserialize_with = "or_default", bound(deserialize = "K: Deserialize<'de>"))]
    items: Vec<K>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
enum Line<K> {
    Added(K),
    Modified(K),
    Deleted(K),
    Bookmark(Bookmark),
    Error(Status),
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMetadata {
    resource_version: String,
}

/// `metav1.Status`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
    message: String,
    details: Option<Details>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Details {
    retry_after_seconds: Option<u64>,
}

impl Status {
    fn into_failure(self, retry_after: Option<Duration>) -> Failure {
        let asked = self.details.and_then(|details| details.retry_after_seconds).filter(|seconds| *seconds != 0);
        match StatusCode::from_u16(self.code) {
            Ok(StatusCode::GONE) => Failure::Expired(self.message),
            Ok(StatusCode::NOT_FOUND) => Failure::NotFound,
            _ => Failure::Refused {
                code: self.code,
                message: self.message,
                retry_after: retry_after.or(asked.map(Duration::from_secs)),
            },
        }
    }
}

/// What of a list is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// The first page of the newest state, which the server reads from etcd.
    First,
    /// The page at this token.
    Next(&'a str),
    /// All of it from the server's own copy, which must be no older than this version ("0": any). With a limit the server
    /// would read all objects of the cluster from etcd and only then choose by fields.
    Cached(&'a str),
}

/// Reads a page of a list.
pub async fn list<K: Object>(
    client: &Client,
    resource: &Resource<K>,
    part: Part<'_>,
    patience: Duration,
) -> Result<Page<K>, Failure> {
    let mut params = match part {
        Part::First => ListParams::default().limit(PAGE),
        Part::Next(token) => ListParams::default().limit(PAGE).continue_token(token),
        Part::Cached(version) => ListParams::default().at(version).matching(VersionMatch::NotOlderThan),
    };
    params.field_selector.clone_from(&resource.fields);
    let request = request::Request::new(resource.path);
    let request = if resource.metadata { request.list_metadata(&params) } else { request.list(&params) };
    let list: List<K> = read(client, request, patience).await?;
    Ok(Page { items: list.items, version: list.metadata.resource_version, next: list.metadata.next })
}

/// Reads one object.
pub async fn get<K: DeserializeOwned>(
    client: &Client,
    path: &str,
    name: &str,
    patience: Duration,
) -> Result<K, Failure> {
    read(client, request::Request::new(path).get(name, &GetParams::default()), patience).await
}

/// Watches from a version on. The stream ends when the server ends it, which is no error.
pub async fn watch<K: Object>(
    client: &Client,
    resource: &Resource<K>,
    version: &str,
    seconds: u32,
    patience: Duration,
) -> Result<impl Stream<Item = Result<Event<K>, Failure>> + Send + use<K>, Failure> {
    let mut params = WatchParams::default().timeout(seconds);
    params.field_selector.clone_from(&resource.fields);
    let request = request::Request::new(resource.path);
    let request =
        if resource.metadata { request.watch_metadata(&params, version) } else { request.watch(&params, version) };
    let response = within(patience, send(client, request)).await?;
    let bytes = response.into_body().into_data_stream().map_err(std::io::Error::other);
    let lines = FramedRead::new(StreamReader::new(bytes), LinesCodec::new_with_max_length(MAX_EVENT));
    // An error is the last that is heard of a stream.
    Ok(stream::unfold(Some(Box::pin(lines)), |lines| async {
        let mut lines = lines?;
        match event(lines.next().await?) {
            Ok(event) => Some((Ok(event), Some(lines))),
            Err(failure) => Some((Err(failure), None)),
        }
    }))
}

fn event<K: DeserializeOwned>(line: Result<String, LinesCodecError>) -> Result<Event<K>, Failure> {
    let line = line.map_err(|error| match error {
        LinesCodecError::Io(error) => Failure::Unreachable(connection_problem(&error)),
        LinesCodecError::MaxLineLengthExceeded => {
            Failure::Unreadable(format!("an event of more than {MAX_EVENT} bytes"))
        }
    })?;
    match serde_json::from_str(&line) {
        Ok(Line::Added(object) | Line::Modified(object)) => Ok(Event::Applied(object)),
        Ok(Line::Deleted(object)) => Ok(Event::Deleted(object)),
        Ok(Line::Bookmark(bookmark)) => Ok(Event::Bookmark(bookmark.metadata.resource_version)),
        Ok(Line::Error(status)) => Err(status.into_failure(None)),
        // A line that broke off with its connection.
        Err(error) if error.is_eof() => Err(Failure::Unreachable("the connection ended within an event".to_owned())),
        Err(error) => Err(Failure::Unreadable(error.to_string())),
    }
}

async fn read<T: DeserializeOwned>(
    client: &Client,
    request: Result<Request<Vec<u8>>, request::Error>,
    patience: Duration,
) -> Result<T, Failure> {
    let bytes = within(patience, async {
        let response = send(client, request).await?;
        let collected = Limited::new(response.into_body(), MAX_PAGE).collect().await;
        collected.map(|body| body.to_bytes()).map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => Failure::Unreadable(format!("more than {MAX_PAGE} bytes")),
            None => Failure::Unreachable(connection_problem(&*error)),
        })
    })
    .await?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::Unreadable(error.to_string()))
}

/// Sends a request and gives the head of a good answer.
async fn send(client: &Client, request: Result<Request<Vec<u8>>, request::Error>) -> Result<Response<Body>, Failure> {
    let request = request.map_err(|error| Failure::Unreadable(on_one_line(&error)))?;
    let sent = client.send(request.map(Body::from)).await;
    let response = sent.map_err(|error| Failure::Unreachable(connection_problem(&error)))?;
    if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
}

async fn refusal(response: Response<Body>) -> Failure {
    let code = response.status();
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = Limited::new(response.into_body(), MAX_STATUS).collect().await.map(|body| body.to_bytes());
    let body = body.unwrap_or_default();
    let mut status = serde_json::from_slice::<Status>(&body).unwrap_or_else(|_| Status {
        // Not an API server, or something in front of one.
        message: String::from_utf8_lossy(&body).chars().take(200).collect::<String>().trim().to_owned(),
        ..Status::default()
    });
    status.code = code.as_u16();
    if status.message.is_empty() {
        status.message = code.canonical_reason().unwrap_or_default().to_owned();
    }
    status.into_failure(seconds.map(Duration::from_secs))
}

async fn within<T>(patience: Duration, answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let answer = pin!(answer);
    timeout(patience, answer).await.unwrap_or(Err(Failure::Silent(patience)))
}

#[cfg(test)]
mod tests {
    use super::{
        super::objects::{NodeObject, PodObject},
        *,
    };

    fn of(line: &str) -> Result<Event<PodObject>, Failure> {
        event(Ok(line.to_owned()))
    }

    #[test]
    fn events_are_read() {
        let pod = r#"{"metadata": {"name": "a", "uid": "u", "resourceVersion": "5"}}"#;
        for kind in ["ADDED", "MODIFIED"] {
            let applied = of(&format!(r#"{{"type": "{kind}", "object": {pod}}}"#)).unwrap();
            assert!(matches!(applied, Event::Applied(pod) if pod.object.uid == "u"));
        }
        let deleted = of(&format!(r#"{{"type": "DELETED", "object": {pod}}}"#)).unwrap();
        assert!(matches!(deleted, Event::Deleted(pod) if pod.version() == "5"));
        let bookmark = of(r#"{"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": "9"}}}"#);
        assert!(matches!(bookmark, Ok(Event::Bookmark(version)) if version == "9"));
    }

    #[test]
    fn failures_say_what_they_mean() {
        let gone = r#"{"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}"#;
        assert_eq!(of(gone).unwrap_err(), Failure::Expired("too old".to_owned()));
        let busy =
            r#"{"type": "ERROR", "object": {"code": 500, "message": "no", "details": {"retryAfterSeconds": 3}}}"#;
        let after = Some(Duration::from_secs(3));
        assert_eq!(of(busy).unwrap_err(), Failure::Refused { code: 500, message: "no".to_owned(), retry_after: after });
        assert!(matches!(of(r#"{"type": "ADDED", "obj"#), Err(Failure::Unreachable(_))));
        for garbage in ["<html>", r#"{"type": "ADDED", "object": 7}"#, r#"{"type": "OTHER", "object": {}}"#] {
            assert!(matches!(of(garbage), Err(Failure::Unreadable(_))), "{garbage}");
        }
        let forbidden = Failure::Refused { code: 403, message: "pods is forbidden".to_owned(), retry_after: None };
        assert_eq!(forbidden.to_string(), "403: pods is forbidden");
    }

    #[test]
    fn lists_may_be_empty_in_every_way() {
        let read = |text: &str| serde_json::from_str::<List<NodeObject>>(text).map(|list| list.items.len()).ok();
        assert_eq!(read(r#"{"metadata": {"resourceVersion": "1"}, "items": []}"#), Some(0));
        assert_eq!(read(r#"{"metadata": {}, "items": null}"#), Some(0));
        // Something else that is JSON is not a list.
        assert_eq!(read(r#"{"kind": "Status", "code": 200}"#), None);
    }
}
