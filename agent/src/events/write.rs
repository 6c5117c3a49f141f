//! Sends events to the API server (events.k8s.io/v1). An event that is told again within some minutes becomes a series:
//! the one that is there is counted up.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use prometheus_client::metrics::counter::Counter;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{limit::Limits, story::What};
use crate::sources::kubernetes::Pod;

/// Who reports.
const CONTROLLER: &str = "weir-agent";
/// Where events of things without a namespace are kept.
const DEFAULT_NAMESPACE: &str = "default";
/// Events that wait to be sent.
const QUEUE: usize = 512;
/// How long an event may take to be written.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same event within this time is one of a series.
const SERIES: Duration = Duration::from_secs(6 * 60);
/// The API server's limit of a note, in bytes.
const MAX_NOTE: usize = 1024;
/// Room for what follows an object's name in that of an event, whose limit is 253 bytes.
const MAX_NAME: usize = 230;
/// The API server's word for a namespace that is being deleted: nothing can be made in it any more.
const TERMINATING: &str = "NamespaceTerminating";
/// How often lost events are told in the log.
const TELL_LOST: Duration = Duration::from_secs(60);

/// What an event is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Regarding(ObjectReference);

impl Regarding {
    /// A pod.
    pub fn pod(pod: &Pod) -> Self {
        Self(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(pod.object_uid.clone()),
            ..ObjectReference::default()
        })
    }

    /// A node. As with the kubelet's own events, its name stands for its UID.
    pub fn node(name: &str) -> Self {
        Self(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..ObjectReference::default()
        })
    }

    fn uid(&self) -> &str {
        self.0.uid.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.0.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }
}

/// Takes events and never waits.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Sender<(Regarding, What)>,
    limits: Limits,
    lost: Counter,
    told_lost: Option<Instant>,
}

impl Writer {
    /// Starts the task that sends. `instance` is the agent's own pod; events that are too many are counted in `lost`.
    pub fn start(client: Client, instance: Option<String>, lost: Counter) -> Self {
        let (queue, events) = mpsc::channel(QUEUE);
        tokio::spawn(send_all(client, instance, events));
        Self { queue, limits: Limits::new(Instant::now()), lost, told_lost: None }
    }

    /// Has an event written, unless there are too many.
    pub fn write(&mut self, regarding: Regarding, what: &What, now: Instant) {
        let allowed = self.limits.take(regarding.uid(), now);
        if allowed && self.queue.try_send((regarding, what.clone())).is_ok() {
            return;
        }
        self.lost.inc();
        if self.told_lost.is_none_or(|told| now >= told + TELL_LOST) {
            self.told_lost = Some(now);
            tracing::warn!(
                lost = self.lost.get(),
                "more Kubernetes events than may be written; the rest is not written"
            );
        }
    }
}

/// An event that was written.
struct Written {
    name: String,
    count: i32,
    at: Instant,
}

async fn send_all(client: Client, instance: Option<String>, mut events: mpsc::Receiver<(Regarding, What)>) {
    let mut written: HashMap<(String, &'static str, String), Written> = HashMap::new();
    let mut last_cause = String::new();
    while let Some((regarding, what)) = events.recv().await {
        let now = Instant::now();
        written.retain(|_, event| now < event.at + SERIES);
        let key = (regarding.uid().to_owned(), what.reason(), what.note());
        let sent = match written.get_mut(&key) {
            Some(event) => {
                let sent = within(count_up(&client, &regarding, event)).await;
                (event.at, event.count) = (now, event.count + 1);
                sent
            }
            None => Ok(false),
        };
        let sent = match sent {
            Ok(true) => Ok(()),
            // There is none of the kind, or not any more.
            Ok(false) => within(create(&client, instance.as_deref(), &regarding, &what)).await.map(|name| {
                written.insert(key, Written { name, count: 1, at: now });
            }),
            Err(problem) => Err(problem),
        };
        match sent {
            Ok(()) => last_cause.clear(),
            Err(Problem { ending: true, text, .. }) => tracing::debug!(problem = text, "an event comes too late"),
            Err(Problem { cause, text, .. }) => {
                if cause != last_cause {
                    tracing::warn!(problem = text, "Kubernetes events cannot be written (the agent goes on without)");
                }
                last_cause = cause;
            }
        }
    }
}

/// Why an event was not written.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    /// The same for all events that fail for the same cause.
    cause: String,
    text: String,
    /// Whether it is that the namespace is being deleted, with all that is in it.
    ending: bool,
}

impl From<kube::Error> for Problem {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = error else { return Self::of(error.to_string()) };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        let ending = causes.into_iter().any(|cause| cause.reason == TERMINATING);
        Self { cause: format!("{} {}", status.code, status.reason), text: status.message, ending }
    }
}

impl Problem {
    fn of(text: String) -> Self {
        Self { cause: text.clone(), text, ending: false }
    }
}

/// Writes one event.
pub async fn write_one(
    client: &Client,
    instance: Option<&str>,
    regarding: &Regarding,
    what: &What,
) -> Result<(), String> {
    within(create(client, instance, regarding, what)).await.map(drop).map_err(|problem| problem.text)
}

async fn within<T>(answer: impl Future<Output = kube::Result<T>>) -> Result<T, Problem> {
    match timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(Problem::from),
        Err(_) => Err(Problem::of(format!("no answer within {PATIENCE:?}"))),
    }
}

async fn create(client: &Client, instance: Option<&str>, regarding: &Regarding, what: &What) -> kube::Result<String> {
    let event = event(instance, regarding, what, Timestamp::now());
    let events: Api<Event> = Api::namespaced(client.clone(), regarding.namespace());
    events.create(&PostParams::default(), &event).await?;
    Ok(event.metadata.name.unwrap_or_default())
}

/// Counts an event up; whether it is still there.
async fn count_up(client: &Client, regarding: &Regarding, event: &Written) -> kube::Result<bool> {
    let series = EventSeries { count: event.count + 1, last_observed_time: MicroTime(Timestamp::now()) };
    let patch = Patch::Merge(serde_json::json!({ "series": series }));
    let events: Api<Event> = Api::namespaced(client.clone(), regarding.namespace());
    match events.patch(&event.name, &PatchParams::default(), &patch).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

fn event(instance: Option<&str>, regarding: &Regarding, what: &What, now: Timestamp) -> Event {
    let object = regarding.0.name.as_deref().unwrap_or_default();
    let object = &object[..object.floor_char_boundary(MAX_NAME)];
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", object.trim_end_matches(['.', '-']), since_epoch.as_nanos())),
            namespace: Some(regarding.namespace().to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        action: Some(what.action().to_owned()),
        reason: Some(what.reason().to_owned()),
        note: Some(what.note()),
        type_: Some(what.kind().to_owned()),
        regarding: Some(regarding.0.clone()),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.unwrap_or(CONTROLLER).to_owned()),
        ..Event::default()
    }
}

impl What {
    fn reason(&self) -> &'static str {
        match self {
            Self::Enrolled => "Enrolled",
            Self::Failed(_) => "EnrollFailed",
            Self::Unapplied(_) => "UpdateFailed",
            Self::Withdrawn(_) => "Withdrawn",
            Self::Unavailable(_) => "RedirectUnavailable",
        }
    }

    fn action(&self) -> &'static str {
        match self {
            Self::Enrolled | Self::Failed(_) => "Enroll",
            Self::Unapplied(_) => "Update",
            Self::Withdrawn(_) => "Withdraw",
            Self::Unavailable(_) => "Start",
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Enrolled | Self::Withdrawn(_) => "Normal",
            Self::Failed(_) | Self::Unapplied(_) | Self::Unavailable(_) => "Warning",
        }
    }

    fn note(&self) -> String {
        let mut note = match self {
            Self::Enrolled => "Connections of this pod are redirected to weir from now on".to_owned(),
            Self::Failed(reason) => format!("This pod is not enrolled: {reason}"),
            Self::Unapplied(reason) => format!("This pod is enrolled, but not as it says now: {reason}"),
            Self::Withdrawn(why) => {
                let why = why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
                format!("Connections of this pod are not redirected to weir any more{why}")
            }
            Self::Unavailable(reason) => format!("weir's agent cannot start on this node: {reason}"),
        };
        note.truncate(note.floor_char_boundary(MAX_NOTE));
        note
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_who_what_and_why() {
        let pod = Pod {
            name: "web".to_owned(),
            namespace: "shop".to_owned(),
            uid: "node-level".to_owned(),
            object_uid: "u1".to_owned(),
            ..Pod::default()
        };
        let failed = What::Failed("annotation weir.dev/fail-open: invalid \"x\"".to_owned());
        let event = event(Some("weir-abc"), &Regarding::pod(&pod), &failed, Timestamp::UNIX_EPOCH);
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["apiVersion"], "events.k8s.io/v1");
        assert_eq!((&json["metadata"]["namespace"], &json["reason"]), (&"shop".into(), &"EnrollFailed".into()));
        assert_eq!(json["note"], "This pod is not enrolled: annotation weir.dev/fail-open: invalid \"x\"");
        assert_eq!((&json["type"], &json["action"]), (&"Warning".into(), &"Enroll".into()));
        assert_eq!((&json["regarding"]["kind"], &json["regarding"]["uid"]), (&"Pod".into(), &"u1".into()));
        assert_eq!(
            (&json["reportingController"], &json["reportingInstance"]),
            (&"weir-agent".into(), &"weir-abc".into())
        );
        assert!(json["metadata"]["name"].as_str().unwrap().starts_with("web."));
    }

    #[test]
    fn a_refusal_is_told_by_its_cause_and_the_end_of_a_namespace_is_none() {
        let problem = |text: &str| Problem::from(kube::Error::Api(serde_json::from_str(text).unwrap()));
        let forbidden = |name: &str| {
            problem(&format!(
                r#"{{"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden",
                    "message": "events.events.k8s.io is forbidden: {name}"}}"#
            ))
        };
        assert_eq!(forbidden("web.1").cause, forbidden("web.2").cause);
        assert!(forbidden("web.1").text.ends_with("web.1") && !forbidden("web.1").ending);
        let ending = problem(
            r#"{"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "no",
                "details": {"causes": [{"reason": "NamespaceTerminating", "message": "no", "field": "x"}]}}"#,
        );
        assert!(ending.ending);
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let unavailable = What::Unavailable("é".repeat(2000));
        let node = Regarding::node(&"n".repeat(253));
        let event = event(None, &node, &unavailable, Timestamp::UNIX_EPOCH);
        assert!(event.note.unwrap().len() <= MAX_NOTE);
        assert!(event.metadata.name.unwrap().len() <= 253);
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(event.regarding.unwrap().kind.as_deref(), Some("Node"));
    }
}
