//! Whom to ask in a cluster.

use jiff::Timestamp;
use kube::api::ListParams;

use super::{
    connect::Connection,
    error::Error,
    place::{self, Stalled, Weirs},
};
use crate::{cli::Namespace, question::Question};

/// Pods that are named where one was not found.
const NEAR: usize = 5;
/// Pods of a namespace that are looked through for those.
const LOOKED_THROUGH: u32 = 500;

/// What to ask whom.
pub struct Asked {
    /// The nodes, with the weir pod of each or why it has none.
    pub nodes: Weirs,
    /// The question, with the pod's full name if it is about one.
    pub question: Question,
    /// Whether it is about one pod.
    pub one_pod: bool,
    /// Where a rollout of weir does not go on, for those who ask how weir is.
    pub stalled: Vec<Stalled>,
}

/// Finds whom a question is for.
pub async fn whom(connection: &Connection, question: &Question) -> Result<Asked, Error> {
    let pods = connection.weir_pods().await?;
    let weirs = place::weirs(&pods);
    if weirs.is_empty() {
        return Err(Error::NotInstalled(connection.cluster.weir_namespace.clone()));
    }
    let asked_node = connection.cluster.node.as_deref();
    let Some(pod) = question.pod().filter(|pod| !pod.is_empty()) else {
        let nodes = match asked_node {
            Some(node) => one(&weirs, node),
            None => all(connection, weirs).await,
        };
        let mut stalled = Vec::new();
        if matches!(question, Question::Status { .. }) {
            stalled = place::stalled(&pods, &nodes, Timestamp::now());
        }
        return Ok(Asked { nodes, question: question.clone(), one_pod: false, stalled });
    };
    let (namespace, name) = named(pod, connection).map_err(Error::Pod)?;
    let full_name = format!("{namespace}/{name}");
    let Some(found) = connection.ask(connection.pods(namespace).get_opt(name)).await? else {
        return Err(Error::Pod(missing(connection, namespace, name).await));
    };
    let node = place::of_pod(&found).map_err(Error::Pod)?;
    if let Some(other) = asked_node.filter(|asked| *asked != node) {
        return Err(Error::Pod(format!("pod {full_name} is on node {node}, not on {other}")));
    }
    Ok(Asked { nodes: one(&weirs, node), question: question.about(&full_name), one_pod: true, stalled: Vec::new() })
}

/// The namespace and name of a pod as it is named.
fn named<'a>(pod: &'a str, connection: &'a Connection) -> Result<(&'a str, &'a str), String> {
    let asked = match &connection.cluster.namespace {
        Namespace::Named(namespace) => Some(namespace.as_str()),
        Namespace::Current | Namespace::All => None,
    };
    split(pod, asked).map(|(namespace, name)| (namespace.unwrap_or(&connection.current), name))
}

/// The parts of a pod's name, unless they are none or not in the namespace that was asked for.
fn split<'a>(pod: &'a str, asked: Option<&str>) -> Result<(Option<&'a str>, &'a str), String> {
    let Some((namespace, name)) = pod.split_once('/') else { return Ok((None, pod)) };
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        return Err(format!("{pod:?}: expected a pod as NAME or NAMESPACE/NAME"));
    }
    match asked.filter(|asked| *asked != namespace) {
        Some(asked) => Err(format!("pod {pod} is not in namespace {asked}, which --namespace names")),
        None => Ok((Some(namespace), name)),
    }
}

/// One node, whether it has weir or not.
fn one(weirs: &Weirs, node: &str) -> Weirs {
    let has: Vec<&str> = weirs.keys().map(String::as_str).collect();
    let none = || Err(format!("no weir pod there; there is one on {}", has.join(", ")));
    [(node.to_owned(), weirs.get(node).cloned().unwrap_or_else(none))].into()
}

/// All nodes that weir is to be on.
async fn all(connection: &Connection, mut weirs: Weirs) -> Weirs {
    // Whoever may not look at these may still ask the nodes that have weir.
    let (set, nodes) = tokio::join!(connection.weir_daemon_set(), connection.nodes());
    let wanted = set.ok().flatten().as_ref().map_or(0, place::wanted);
    for node in place::without_weir(&weirs, wanted, &nodes.unwrap_or_default()) {
        weirs.insert(node, Err("no weir pod, though the DaemonSet wants more than it has".to_owned()));
    }
    weirs
}

/// Says that there is no such pod, and which there are.
async fn missing(connection: &Connection, namespace: &str, name: &str) -> String {
    let elsewhere = ListParams::default().fields(&format!("metadata.name={name}"));
    let all = kube::Api::<k8s_openapi::api::core::v1::Pod>::all(connection.client.clone());
    let (pods, some) = (connection.pods(namespace), ListParams::default().limit(LOOKED_THROUGH));
    let (elsewhere, here) =
        tokio::join!(connection.ask(all.list_metadata(&elsewhere)), connection.ask(pods.list_metadata(&some)));
    // They only help; whoever may not look gets the plain answer.
    let elsewhere = elsewhere.map(|list| list.items).unwrap_or_default();
    let here = here.map(|list| list.items.into_iter().filter_map(|pod| pod.metadata.name).collect());
    let elsewhere = elsewhere.into_iter().filter_map(|pod| pod.metadata.namespace).collect();
    no_pod(namespace, name, elsewhere, here.ok())
}

fn no_pod(namespace: &str, name: &str, elsewhere: Vec<String>, here: Option<Vec<String>>) -> String {
    let mut text = format!("no pod {namespace}/{name}");
    if !elsewhere.is_empty() {
        let found: Vec<String> = elsewhere.iter().map(|other| format!("{other}/{name}")).collect();
        text.push_str(&format!("; there is {}", found.join(", ")));
        return text;
    }
    let Some(mut here) = here else { return text };
    if here.is_empty() {
        text.push_str(&format!("; namespace {namespace} has no pods"));
        return text;
    }
    // A workload's name is the beginning of its pods' names.
    let alike = |pod: &String| pod.starts_with(name) || name.starts_with(pod.as_str());
    here.sort_by_key(|pod| (!alike(pod), pod.clone()));
    let more = if here.len() > NEAR { ", ..." } else { "" };
    here.truncate(NEAR);
    text.push_str(&format!("; namespace {namespace} has {}{more}", here.join(", ")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_not_there_is_said_with_those_that_are() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let no = |elsewhere: &[&str], here| no_pod("demo", "web", names(elsewhere), here);
        assert_eq!(no(&["prod"], Some(names(&["web-1"]))), "no pod demo/web; there is prod/web");
        assert_eq!(no(&[], Some(names(&[]))), "no pod demo/web; namespace demo has no pods");
        assert_eq!(no(&[], None), "no pod demo/web");
        assert_eq!(
            no(&[], Some(names(&["a", "b", "c", "d", "e", "web-7d"]))),
            "no pod demo/web; namespace demo has web-7d, a, b, c, d, ..."
        );
    }

    #[test]
    fn a_pod_is_named_with_its_namespace_or_without() {
        assert_eq!(split("web", Some("demo")), Ok((None, "web")));
        assert_eq!(split("demo/web", Some("demo")), Ok((Some("demo"), "web")));
        assert_eq!(split("demo/web", None), Ok((Some("demo"), "web")));
        let refused = |pod, asked| split(pod, asked).unwrap_err();
        let other = "pod demo/web is not in namespace prod, which --namespace names";
        assert_eq!(refused("demo/web", Some("prod")), other);
        for pod in ["a/b/c", "/web", "demo/"] {
            assert_eq!(refused(pod, None), format!("{pod:?}: expected a pod as NAME or NAMESPACE/NAME"));
        }
    }

    #[test]
    fn a_node_without_weir_says_who_has_it() {
        let weirs: Weirs =
            [("n1".to_owned(), Ok("weir-x".to_owned())), ("n2".to_owned(), Err("sick".to_owned()))].into();
        assert_eq!(one(&weirs, "n1")["n1"], Ok("weir-x".to_owned()));
        assert_eq!(one(&weirs, "n3")["n3"], Err("no weir pod there; there is one on n1, n2".to_owned()));
    }
}
