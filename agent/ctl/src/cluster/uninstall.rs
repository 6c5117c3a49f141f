//! `uninstall`: takes weir off the nodes of a cluster while its agents, which can do that, are still there.
//!
//! The word to the agents is an annotation of weir's own namespace, whose value is the UID of the DaemonSet that is to
//! go: one that is installed later is not meant. Each agent answers for its node once nothing of weir is left there.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{Namespace, Pod},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    AT_ONCE, Outcome, Reply,
    connect::{Connection, DAEMON_SET, WEIR},
    error::Error,
    place,
};
use crate::{cli::Cluster, output::Output};

/// What the agents look for.
const ANNOTATION: &str = "weir.dev/uninstall";
/// Where an agent answers for its node.
const PORT: u16 = 15021;
const PATH: &str = "/healthz/uninstalled";
/// How the API server begins what it says of a pod that it cannot reach itself.
const NOT_REACHED: &str = "error trying to reach service";
/// How often the nodes are asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// How far nodes are: uninstalled, or why not.
type Progress = BTreeMap<String, Result<(), Unfinished>>;

/// Why a node is not known to be uninstalled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Unfinished {
    /// Its agent answers, and says that it is not done.
    #[error("not done yet: {0}")]
    Working(String),
    /// Its agent cannot be asked.
    #[error("not known to be uninstalled: {0}")]
    Unanswered(String),
}

impl Unfinished {
    /// Why, without which of them it is.
    fn reason(&self) -> &str {
        let (Self::Working(why) | Self::Unanswered(why)) = self;
        why
    }

    /// What to do about a node, once nobody waits any more.
    fn advice(&self, namespace: &str, node: &str) -> String {
        match self {
            Self::Working(_) => "it goes on by itself: uninstall again to wait on".to_owned(),
            Self::Unanswered(_) => format!(
                "why: kubectl get pods -n {namespace} -l {WEIR} --field-selector spec.nodeName={node}, and kubectl logs of \
                 that pod; a node whose agent is gone for good: docs/operate.md, \"By hand\""
            ),
        }
    }
}

/// Has every node take weir off, and waits until all have.
pub async fn uninstall(cluster: &Cluster, wait: Duration, output: &mut Output) -> Result<Outcome, Error> {
    let connection = Connection::open(cluster).await?;
    let set = connection.weir_daemon_set().await?.ok_or_else(|| none(&cluster.weir_namespace))?;
    annotate(&connection, &set).await?;
    let deadline = Instant::now() + wait;
    let mut progress = Progress::new();
    let complete = loop {
        // An API server that is away for a moment is not the end.
        let round = round(&connection, &set, &mut progress, output).await;
        if let Ok(true) = round {
            break true;
        }
        if Instant::now() >= deadline {
            if let Err(error) = round {
                output.complain(error);
            }
            break false;
        }
        sleep(INTERVAL).await;
    };
    for (node, state) in &progress {
        if let Err(why) = state {
            let advice = why.advice(&cluster.weir_namespace, node);
            output.complain(format_args!("node {node}: {why}; {advice}"));
        }
    }
    if !complete && progress.values().all(Result::is_ok) {
        let (on, wanted) = (progress.len(), place::wanted(&set));
        output.complain(format_args!(
            "uninstalled on {on} nodes, and the DaemonSet wants weir on {wanted}; for those without a weir pod see \
             docs/operate.md, \"By hand\""
        ));
    }
    output.answer("", || Ok(report(&progress)))?;
    Ok(if complete { Outcome::Done } else { Outcome::Incomplete })
}

fn none(namespace: &str) -> Error {
    Error::Other(format!(
        "no DaemonSet {DAEMON_SET} in namespace {namespace} (another one: --weir-namespace): weir is not installed \
         there; if it was deleted without being uninstalled, nodes may still redirect: install it again and uninstall it \
         then, or see docs/operate.md, \"By hand\""
    ))
}

async fn annotate(connection: &Connection, set: &DaemonSet) -> Result<(), Error> {
    let api: Api<Namespace> = Api::all(connection.client.clone());
    let patch = json!({ "metadata": { "annotations": { ANNOTATION: set.metadata.uid } } });
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
    connection.ask(api.patch_metadata(&connection.cluster.weir_namespace, &parameters, &patch)).await?;
    Ok(())
}

/// Says of nodes without an answer that they are uninstalled, where that is why.
pub async fn explain(connection: &Connection, replies: &mut [Reply]) {
    if replies.iter().all(|reply| reply.answer.is_ok()) {
        return;
    }
    // Whoever may not look at all of this gets the plain answers.
    let (Ok(Some(set)), Ok(Some(namespace)), Ok(pods)) =
        tokio::join!(connection.weir_daemon_set(), own_namespace(connection), connection.weir_pods())
    else {
        return;
    };
    let uid = set.metadata.uid.unwrap_or_default();
    if namespace.annotations.unwrap_or_default().get(ANNOTATION) != Some(&uid) {
        return;
    }
    let of_nodes = to_ask(&pods, &uid, &Progress::new());
    let ask = async |(node, pod): (String, &Pod)| (node, answer(connection, pod).await);
    let failing = of_nodes
        .into_iter()
        .filter(|(node, _)| replies.iter().any(|reply| reply.node == *node && reply.answer.is_err()));
    let answers: Vec<_> = stream::iter(failing).map(ask).buffer_unordered(AT_ONCE).collect().await;
    let progress = by_node(answers);
    for reply in replies.iter_mut().filter(|reply| reply.answer.is_err()) {
        if progress.get(&reply.node).is_some_and(Result::is_ok) {
            reply.answer = Err(taken_off(&connection.cluster.weir_namespace));
        }
    }
}

async fn own_namespace(connection: &Connection) -> Result<Option<ObjectMeta>, Error> {
    let api: Api<Namespace> = Api::all(connection.client.clone());
    let found = connection.ask(api.get_metadata_opt(&connection.cluster.weir_namespace)).await?;
    Ok(found.map(|namespace| namespace.metadata))
}

fn taken_off(namespace: &str) -> String {
    format!("uninstalled; to take that back: kubectl annotate namespace {namespace} {ANNOTATION}-")
}

/// Asks all nodes that are not done. Whether all are.
async fn round(
    connection: &Connection,
    set: &DaemonSet,
    progress: &mut Progress,
    output: &mut Output,
) -> Result<bool, Error> {
    let pods = connection.weir_pods().await?;
    let asked = to_ask(&pods, set.metadata.uid.as_deref().unwrap_or_default(), progress);
    let ask = async |(node, pod): (String, &Pod)| (node, answer(connection, pod).await);
    let answers: Vec<_> = stream::iter(asked).map(ask).buffer_unordered(AT_ONCE).collect().await;
    for (node, answer) in by_node(answers) {
        if answer.is_ok() && output.is_plain() {
            output.text(format_args!("node {node}: uninstalled\n"))?;
        }
        progress.insert(node, answer);
    }
    Ok(progress.values().all(Result::is_ok) && progress.len() >= place::wanted(set))
}

/// What each node says: in the middle of a rollout two pods speak for one, and it is done when both are.
fn by_node(answers: Vec<(String, Result<(), Unfinished>)>) -> Progress {
    let mut nodes = Progress::new();
    for (node, answer) in answers {
        let said = nodes.entry(node).or_insert(Ok(()));
        if said.is_ok() {
            *said = answer;
        }
    }
    nodes
}

/// The pods of the DaemonSet whose nodes are not done. One that is leaving is not there to answer.
fn to_ask<'a>(pods: &'a [Pod], set: &str, progress: &Progress) -> Vec<(String, &'a Pod)> {
    let of_set = |pod: &&Pod| pod.metadata.owner_references.iter().flatten().any(|owner| owner.uid == set);
    let there = pods.iter().filter(of_set).filter(|pod| !place::is_leaving(pod));
    let on_nodes = there.filter_map(|pod| Some((place::node(pod)?.to_owned(), pod)));
    on_nodes.filter(|(node, _)| !progress.get(node).is_some_and(Result::is_ok)).collect()
}

/// What the agent in a pod says of its node.
async fn answer(connection: &Connection, pod: &Pod) -> Result<(), Unfinished> {
    let asked =
        async { if connection.in_cluster { direct(pod).await } else { through_api_server(connection, pod).await } };
    let limit = connection.cluster.timeout;
    timeout(limit, asked).await.unwrap_or_else(|_| {
        Err(Unfinished::Unanswered(format!("no answer within {}", humantime::format_duration(limit))))
    })
}

/// From a pod of the cluster, which reaches the others.
async fn direct(pod: &Pod) -> Result<(), Unfinished> {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    let ip: std::net::IpAddr = ip
        .and_then(|ip| ip.parse().ok())
        .ok_or_else(|| Unfinished::Unanswered(format!("weir pod {} has no address", place::name(pod))))?;
    get((ip, PORT).into()).await
}

async fn get(address: std::net::SocketAddr) -> Result<(), Unfinished> {
    let failed = |error: &dyn std::error::Error| Unfinished::Unanswered(format!("http://{address}{PATH}: {error}"));
    let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let request = Request::get(PATH).header("host", address.to_string()).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| failed(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
    };
    let (answer, _) = tokio::join!(exchange, connection);
    let (status, body) = answer.map_err(|error| failed(&error))?;
    if status.is_success() { Ok(()) } else { Err(not_yet(&String::from_utf8_lossy(&body), status.as_u16())) }
}

/// From elsewhere.
async fn through_api_server(connection: &Connection, pod: &Pod) -> Result<(), Unfinished> {
    let (namespace, name) = (&connection.cluster.weir_namespace, place::name(pod));
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{PORT}/proxy{PATH}");
    let request = Request::get(path).body(Vec::new()).map_err(|error| Unfinished::Unanswered(error.to_string()))?;
    match connection.client.request_text(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            let why = format!("{}; it takes the verb get on pods/proxy in namespace {namespace}", status.message);
            Err(Unfinished::Unanswered(why))
        }
        Err(kube::Error::Api(status)) if status.message.starts_with(NOT_REACHED) => {
            Err(Unfinished::Unanswered(status.message))
        }
        // What the agent says while it is at it.
        Err(kube::Error::Api(status)) if status.code == 503 => Err(not_yet(&status.message, status.code)),
        Err(kube::Error::Api(status)) => Err(Unfinished::Unanswered(status.message)),
        Err(error) => Err(Unfinished::Unanswered(error.to_string())),
    }
}

/// What an agent that is not done says.
fn not_yet(body: &str, code: u16) -> Unfinished {
    let line = body.trim().lines().next().unwrap_or_default();
    Unfinished::Working(if line.is_empty() { format!("its agent answers {code}") } else { line.to_owned() })
}

fn report(progress: &Progress) -> Value {
    let node = |(node, state): (&String, &Result<(), Unfinished>)| json!({ "node": node, "uninstalled": state.is_ok(), "reason": state.as_ref().err().map(Unfinished::reason) });
    progress.iter().map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    fn pod(name: &str, node: &str, set: &str, leaving: bool) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": name,
                "deletionTimestamp": leaving.then_some("2026-11-21T07:00:00Z"),
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "weir", "uid": set }],
            },
            "spec": { "nodeName": node, "containers": [] },
        }))
        .unwrap()
    }

    fn working(why: &str) -> Unfinished {
        Unfinished::Working(why.to_owned())
    }

    #[test]
    fn a_node_with_two_pods_is_done_when_both_say_so() {
        let said = |node: &str, answer: Result<(), &str>| (node.to_owned(), answer.map_err(working));
        let no = Err("not yet");
        for answers in [[said("a", Ok(())), said("a", no)], [said("a", no), said("a", Ok(()))]] {
            assert_eq!(by_node(answers.into())["a"], Err(working("not yet")));
        }
        let nodes = by_node(vec![said("a", Ok(())), said("b", no), said("a", Ok(()))]);
        assert!(nodes["a"].is_ok() && nodes["b"].is_err());
    }

    #[test]
    fn pods_of_nodes_that_are_not_done_are_asked() {
        let pods = [
            pod("a", "n1", "d", false),
            pod("b", "n2", "d", false),
            pod("c", "n3", "d", true),
            pod("d", "n4", "other", false),
            pod("e", "n5", "d", false),
            pod("f", "", "d", false),
        ];
        let progress = [("n1".to_owned(), Ok(())), ("n2".to_owned(), Err(working("draining")))].into();
        let asked: Vec<String> = to_ask(&pods, "d", &progress).into_iter().map(|(node, _)| node).collect();
        assert_eq!(asked, ["n2", "n5"]);
        assert_eq!(
            report(&progress).to_string(),
            r#"[{"node":"n1","uninstalled":true,"reason":null},{"node":"n2","uninstalled":false,"reason":"draining"}]"#
        );
    }

    #[tokio::test]
    async fn an_agent_says_when_nothing_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            for response in [
                "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 16\r\n\r\n2 pods draining\n",
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let bytes = stream.read(&mut request).await.unwrap();
                assert!(request[..bytes].starts_with(b"GET /healthz/uninstalled HTTP/1.1\r\n"));
                stream.write_all(response.as_bytes()).await.unwrap();
            }
        });
        assert_eq!(get(address).await, Err(working("2 pods draining")));
        assert_eq!(get(address).await, Ok(()));
        server.await.unwrap();
        let gone = get(address).await.unwrap_err();
        let refused = format!("http://{address}/healthz/uninstalled: Connection refused (os error 111)");
        assert_eq!(gone, Unfinished::Unanswered(refused));
        assert_eq!(not_yet("", 503), working("its agent answers 503"));
    }
}
