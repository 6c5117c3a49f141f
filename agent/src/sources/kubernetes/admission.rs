//! Whether a pod that is about to start is to be enrolled first: what a CNI call asks.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    Handle,
    cluster::Cluster,
    objects::{Namespace, NamespaceObject, Pod, PodObject},
    requests::{self, Failure},
    selection::{self, Choice},
    source::Message,
};

/// How long the API server is asked about a pod that was not heard of: less than the plugin waits for a first answer.
const ASKING: Duration = Duration::from_millis(1500);

/// Whether a pod is to be enrolled before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is: it is to wait until it is redirected.
    Enroll,
    /// It is not, and why; it may start at once.
    Pass(String),
    /// That cannot be told now, and why.
    Unknown(String),
    /// The API server has to be asked and cannot be reached: it is to wait until it can.
    Unreached(String),
}

impl From<Choice> for Admission {
    fn from(choice: Choice) -> Self {
        match choice {
            // One that is held back is to wait for what the reason asks for.
            Choice::Enroll | Choice::Hold(_) => Self::Enroll,
            Choice::Pass(reason) => Self::Pass(reason),
        }
    }
}

impl Handle {
    /// Whether a pod is to be enrolled before it starts. A pod that was not heard of is asked for, and its namespace with
    /// it, for 1.5 s at most: while a watch is broken, a namespace may have been labelled since it was last heard of. Such a
    /// pod was bound to the node since then, so that the API server is there, or was a moment ago. For the same reason a
    /// new pod is asked for that would pass by what was known of its namespace when it was last heard of.
    pub async fn admit(&self, uid: &str, namespace: &str, name: &str) -> Admission {
        let shared = &self.shared;
        if namespace == shared.settings.rules.own_namespace {
            return Admission::Pass(format!("pods of weir's own namespace {namespace} are never enrolled"));
        }
        let follows_namespaces = shared.follows_namespaces.load(Ordering::Relaxed);
        if let Some(admission) = known(&shared.cluster.read(), uid, follows_namespaces) {
            return admission;
        }
        match self.ask(uid, namespace, name).await {
            (Ok(pod), Ok(of_namespace)) => self.decide(uid, pod, of_namespace).await,
            (Err(failure), Ok(of_namespace)) if failure == Failure::NotFound => {
                let enrolled = selection::namespace_enrolled(&of_namespace, &shared.settings.rules);
                by_namespace(Some(enrolled), true, uid, namespace, name, &failure)
            }
            (Err(failure), _) | (_, Err(failure)) => {
                let cluster = shared.cluster.read();
                by_namespace(cluster.namespace_enrolled(namespace), cluster.knows_any(), uid, namespace, name, &failure)
            }
        }
    }

    async fn ask(&self, uid: &str, namespace: &str, name: &str) -> (Result<Pod, Failure>, Result<Namespace, Failure>) {
        let invalid = |what: &str, text: &str| Failure::Unreadable(format!("{text:?} is not the name of a {what}"));
        for (what, text) in [("namespace", namespace), ("pod", name)] {
            if !is_name(text) {
                return (Err(invalid(what, text)), Err(invalid(what, text)));
            }
        }
        tracing::debug!(uid, namespace, name, "asks for a pod that was not heard of");
        let client = &self.shared.client;
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let pod = requests::get::<PodObject>(client, &path, name, ASKING);
        let namespace = requests::get::<NamespaceObject>(client, "/api/v1/namespaces", namespace, ASKING);
        let (pod, namespace) = tokio::join!(pod, namespace);
        (pod.map(|pod| pod.object), namespace.map(|namespace| namespace.object))
    }

    async fn decide(&self, uid: &str, pod: Pod, namespace: Namespace) -> Admission {
        let settings = &self.shared.settings;
        if pod.uid != uid {
            let name = pod.full_name();
            return Admission::Unknown(format!("pod {name} is another one now: its UID is {}, not {uid}", pod.uid));
        }
        if pod.node != settings.node {
            return Admission::Unknown(format!(
                "pod {} is bound to the node {:?}, not to this one, {:?}: expected `node` of agent.toml to be the name \
                 of this machine's Node",
                pod.full_name(),
                pod.node,
                settings.node
            ));
        }
        let admission = selection::choose(&pod, Some(&namespace), &settings.rules).into();
        let _ = self.shared.learned.send(Message::Learned(Box::new((pod, namespace)))).await;
        admission
    }
}

/// What follows from what was heard; none if that is not enough.
fn known(cluster: &Cluster, uid: &str, follows_namespaces: bool) -> Option<Admission> {
    let pod = cluster.pod(uid)?;
    // Before the first list nothing says that there is no such namespace.
    cluster.namespace(&pod.namespace)?;
    let choice = cluster.choose(pod);
    // One that ran before is no other for a new sandbox.
    let may_be_old = matches!(choice, Choice::Pass(_)) && !follows_namespaces && !pod.begun;
    (!may_be_old || cluster.passes_in_any_namespace(pod)).then(|| choice.into())
}

/// What follows from whether the namespace is enrolled, which may be old news, without a word of the pod. `informed` says
/// whether anything is known of the cluster's namespaces.
fn by_namespace(
    enrolled: Option<bool>,
    informed: bool,
    uid: &str,
    namespace: &str,
    name: &str,
    failure: &Failure,
) -> Admission {
    let pod = format!("{namespace}/{name}");
    let cannot = || format!("cannot ask the API server about pod {pod} (UID {uid}): {failure}");
    match (failure, enrolled) {
        // Perhaps a static pod that the kubelet has not told the API server of.
        (Failure::NotFound, Some(false)) => Admission::Pass(format!("its namespace {namespace} is not enrolled")),
        (Failure::NotFound, _) => Admission::Unknown(format!("the API server knows no pod {pod} (UID {uid})")),
        // A name that cannot be asked for.
        (Failure::Unreadable(_), _) => Admission::Unknown(cannot()),
        (_, Some(true)) => Admission::Enroll,
        // On a node that starts, what the plugin finds there counts: nothing here knows better.
        (_, None) if !informed => Admission::Unknown(cannot()),
        _ => Admission::Unreached(cannot()),
    }
}

/// Whether it may be the name of a pod or namespace (RFC 1123 subdomain): it becomes part of a path.
fn is_name(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    !text.is_empty() && text.len() <= 253 && text.bytes().all(known) && text.bytes().any(|byte| byte != b'.')
}

#[cfg(test)]
mod tests {
    use super::{
        super::{reflector::Heard, selection::Rules},
        *,
    };

    fn cluster() -> Cluster {
        let mut cluster = Cluster::new("n1", Rules { own_namespace: "weir-system".to_owned(), istio_labels: false });
        let namespace = |name: &str, value: &str| {
            let labels = [("weir.dev/mesh".to_owned(), value.to_owned())].into();
            NamespaceObject {
                object: Namespace { name: name.to_owned(), labels, ..Namespace::default() },
                version: String::new(),
            }
        };
        cluster.hear_namespaces(Heard::All(vec![namespace("shop", "enabled"), namespace("plain", "disabled")]));
        cluster
    }

    fn pod(namespace: &str, label: Option<&str>) -> PodObject {
        let labels = label.map(|value| ("weir.dev/mesh".to_owned(), value.to_owned())).into_iter().collect();
        let namespace = namespace.to_owned();
        let object = Pod { uid: "u".to_owned(), namespace, node: "n1".to_owned(), labels, ..Pod::default() };
        PodObject { object, version: String::new() }
    }

    #[test]
    fn a_pod_that_was_heard_of_is_known() {
        let admitted = |namespace: &str, label: Option<&str>| {
            let mut cluster = cluster();
            cluster.hear_pods(Heard::Applied(pod(namespace, label)));
            known(&cluster, "u", true)
        };
        assert_eq!(admitted("shop", None), Some(Admission::Enroll));
        assert_eq!(admitted("shop", Some("offf")), Some(Admission::Enroll), "it waits until that is put right");
        assert!(matches!(admitted("shop", Some("disabled")), Some(Admission::Pass(_))));
        assert!(matches!(admitted("plain", None), Some(Admission::Pass(_))));
        assert_eq!(admitted("plain", Some("enabled")), Some(Admission::Enroll));
        assert_eq!(admitted("new", None), None, "its namespace was not heard of yet");
        assert_eq!(known(&cluster(), "u", true), None);
    }

    #[test]
    fn while_namespaces_are_not_followed_no_new_pod_passes_by_what_they_were() {
        let admitted = |namespace: &str, label: Option<&str>, begun: bool| {
            let mut cluster = cluster();
            let PodObject { object, version } = pod(namespace, label);
            cluster.hear_pods(Heard::Applied(PodObject { object: Pod { begun, ..object }, version }));
            known(&cluster, "u", false)
        };
        assert_eq!(admitted("plain", None, false), None, "it may be enrolled by now");
        assert!(matches!(admitted("plain", None, true), Some(Admission::Pass(_))), "it ran before");
        assert!(matches!(admitted("plain", Some("disabled"), false), Some(Admission::Pass(_))), "whatever it is now");
        assert_eq!(admitted("shop", None, false), Some(Admission::Enroll));
    }

    #[test]
    fn without_an_answer_only_what_is_enrolled_is_certain() {
        let by = |enrolled, informed, failure: &Failure| by_namespace(enrolled, informed, "u", "ns", "web", failure);
        let away = Failure::Unreachable("Connection refused".to_owned());
        let cannot = "cannot ask the API server about pod ns/web (UID u): Connection refused".to_owned();
        assert_eq!(by(Some(true), true, &away), Admission::Enroll);
        assert_eq!(by(Some(false), true, &away), Admission::Unreached(cannot.clone()), "it may be by now");
        assert_eq!(by(None, true, &away), Admission::Unreached(cannot.clone()));
        assert_eq!(by(None, false, &away), Admission::Unknown(cannot));
        let none = Admission::Unknown("the API server knows no pod ns/web (UID u)".to_owned());
        assert_eq!(by(Some(true), true, &Failure::NotFound), none);
        let passed = Admission::Pass("its namespace ns is not enrolled".to_owned());
        assert_eq!(by(Some(false), true, &Failure::NotFound), passed);
    }

    #[test]
    fn names_stay_within_their_part_of_a_path() {
        for name in ["web-0", "a.b", "0"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "..", ".", "a/b", "A", "a%2fb", "a?b", "a b", &"a".repeat(254)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
