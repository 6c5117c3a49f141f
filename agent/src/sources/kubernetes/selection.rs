//! Which pods are enrolled: a pure function of a pod, its namespace and what the agent was told.
//!
//! A namespace opts in by the label `weir.dev/mesh=enabled`; the same label on a pod, `enabled` or `disabled`, overrides
//! it. A value that nobody knows enrolls nothing; on a pod of an enrolled namespace it holds the pod back with a reason,
//! because passing it would carry in the clear what somebody meant to have carried.

use std::collections::BTreeMap;

use super::{
    labels::{DATAPLANE_MODE, MESH},
    objects::{Namespace, Pod},
};

/// What the agent is told about choosing pods.
#[derive(Clone, Debug)]
pub struct Rules {
    /// weir's own namespace.
    pub own_namespace: String,
    /// Whether `istio.io/dataplane-mode` counts.
    pub istio_labels: bool,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It is enrolled.
    Enroll,
    /// It is to be enrolled, but not before what the reason says is put right.
    Hold(String),
    /// It is none of weir's business, and why.
    Pass(String),
}

/// What labels say.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wish {
    Nothing,
    In,
    Out(&'static str, String),
    Malformed(String),
}

/// Whether a namespace is enrolled, so that pods in it are unless they say otherwise.
pub fn namespace_enrolled(namespace: &Namespace, rules: &Rules) -> bool {
    namespace.name != rules.own_namespace && wish(&namespace.labels, rules) == Wish::In
}

/// What is wrong with a namespace's labels, so that they enroll nothing.
pub fn namespace_problem(namespace: &Namespace, rules: &Rules) -> Option<String> {
    match wish(&namespace.labels, rules) {
        Wish::Malformed(problem) if namespace.name != rules.own_namespace => Some(problem),
        _ => None,
    }
}

/// What becomes of a pod. A namespace that is not known yet has no labels.
pub fn choose(pod: &Pod, namespace: Option<&Namespace>, rules: &Rules) -> Choice {
    if pod.namespace == rules.own_namespace {
        return Choice::Pass(format!("pods of weir's own namespace {} are never enrolled", pod.namespace));
    }
    if pod.host_network {
        return Choice::Pass("it is on the host network (hostNetwork: true)".to_owned());
    }
    if pod.finished {
        return Choice::Pass("its containers have ended".to_owned());
    }
    let of_namespace = namespace.map_or(Wish::Nothing, |namespace| wish(&namespace.labels, rules));
    match (wish(&pod.labels, rules), of_namespace) {
        (Wish::In, _) | (Wish::Nothing, Wish::In) => Choice::Enroll,
        (Wish::Out(label, value), _) => Choice::Pass(format!("its label {label}={value} keeps it out")),
        (Wish::Malformed(problem), Wish::In) => Choice::Hold(problem),
        (Wish::Malformed(problem), _) => Choice::Pass(problem),
        (Wish::Nothing, Wish::Nothing) => Choice::Pass(format!("its namespace has no label {MESH}=enabled")),
        (Wish::Nothing, Wish::Out(label, value)) => {
            Choice::Pass(format!("its namespace's label {label}={value} keeps it out"))
        }
        (Wish::Nothing, Wish::Malformed(problem)) => Choice::Pass(format!("its namespace's {problem}")),
    }
}

/// Whether a pod is not enrolled whatever its namespace says.
pub fn passes_in_any_namespace(pod: &Pod, rules: &Rules) -> bool {
    let labels = [(MESH.to_owned(), "enabled".to_owned())].into();
    let enrolled = Namespace { labels, ..Namespace::default() };
    matches!(choose(pod, Some(&enrolled), rules), Choice::Pass(_))
}

fn wish(labels: &BTreeMap<String, String>, rules: &Rules) -> Wish {
    // weir's own label wins.
    let own = read(labels, MESH, "enabled", "disabled");
    if own != Wish::Nothing || !rules.istio_labels {
        return own;
    }
    read(labels, DATAPLANE_MODE, "ambient", "none")
}

fn read(labels: &BTreeMap<String, String>, label: &'static str, yes: &str, no: &str) -> Wish {
    match labels.get(label) {
        None => Wish::Nothing,
        Some(value) if value == yes => Wish::In,
        Some(value) if value == no => Wish::Out(label, value.clone()),
        Some(value) => Wish::Malformed(format!("label {label}: invalid {value:?}, expected {yes:?} or {no:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Rules = Rules { own_namespace: String::new(), istio_labels: false };

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn chosen(namespace: &str, pod: &str, istio_labels: bool) -> Choice {
        let rules = Rules { own_namespace: "weir-system".to_owned(), istio_labels };
        let namespace = Namespace { name: "shop".to_owned(), labels: labels(namespace), ..Namespace::default() };
        let pod = Pod { namespace: "shop".to_owned(), labels: labels(pod), ..Pod::default() };
        choose(&pod, Some(&namespace), &rules)
    }

    #[test]
    fn labels_choose() {
        let enroll = || Ok(());
        let pass = |reason: &'static str| Err(reason);
        for (namespace, pod, istio, expected) in [
            ("", "", false, pass("its namespace has no label weir.dev/mesh=enabled")),
            ("weir.dev/mesh=enabled", "", false, enroll()),
            ("weir.dev/mesh=enabled", "weir.dev/mesh=enabled", false, enroll()),
            (
                "weir.dev/mesh=enabled",
                "weir.dev/mesh=disabled",
                false,
                pass("its label weir.dev/mesh=disabled keeps it out"),
            ),
            ("", "weir.dev/mesh=enabled", false, enroll()),
            ("weir.dev/mesh=disabled", "weir.dev/mesh=enabled", false, enroll()),
            ("weir.dev/mesh=disabled", "", false, pass("its namespace's label weir.dev/mesh=disabled keeps it out")),
            (
                "weir.dev/mesh=true",
                "",
                false,
                pass("its namespace's label weir.dev/mesh: invalid \"true\", expected \"enabled\" or \"disabled\""),
            ),
            (
                "",
                "weir.dev/mesh=on",
                false,
                pass("label weir.dev/mesh: invalid \"on\", expected \"enabled\" or \"disabled\""),
            ),
            // Istio's label, where it counts.
            ("istio.io/dataplane-mode=ambient", "", false, pass("its namespace has no label weir.dev/mesh=enabled")),
            ("istio.io/dataplane-mode=ambient", "", true, enroll()),
            (
                "istio.io/dataplane-mode=ambient",
                "istio.io/dataplane-mode=none",
                true,
                pass("its label istio.io/dataplane-mode=none keeps it out"),
            ),
            ("istio.io/dataplane-mode=none", "istio.io/dataplane-mode=ambient", true, enroll()),
            (
                "weir.dev/mesh=disabled istio.io/dataplane-mode=ambient",
                "",
                true,
                pass("its namespace's label weir.dev/mesh=disabled keeps it out"),
            ),
            ("istio.io/dataplane-mode=none", "weir.dev/mesh=enabled", true, enroll()),
            (
                "istio.io/dataplane-mode=sidecar",
                "",
                true,
                pass(
                    "its namespace's label istio.io/dataplane-mode: invalid \"sidecar\", expected \"ambient\" or \"none\"",
                ),
            ),
        ] {
            let expected = match expected {
                Ok(()) => Choice::Enroll,
                Err(reason) => Choice::Pass(reason.to_owned()),
            };
            assert_eq!(chosen(namespace, pod, istio), expected, "namespace {namespace:?}, pod {pod:?}, istio {istio}");
        }
    }

    #[test]
    fn a_malformed_label_of_a_pod_holds_it_back_where_it_would_be_enrolled() {
        assert_eq!(
            chosen("weir.dev/mesh=enabled", "weir.dev/mesh=off", false),
            Choice::Hold("label weir.dev/mesh: invalid \"off\", expected \"enabled\" or \"disabled\"".to_owned())
        );
    }

    #[test]
    fn some_pods_are_never_enrolled() {
        let rules = Rules { own_namespace: "weir-system".to_owned(), istio_labels: false };
        let labels = labels("weir.dev/mesh=enabled");
        let namespace =
            |name: &str| Namespace { name: name.to_owned(), labels: labels.clone(), ..Namespace::default() };
        let pod = |name: &str| Pod { namespace: name.to_owned(), labels: labels.clone(), ..Pod::default() };
        let host = Pod { host_network: true, ..pod("shop") };
        let finished = Pod { finished: true, ..pod("shop") };
        for (pod, reason) in [
            (pod("weir-system"), "pods of weir's own namespace weir-system are never enrolled"),
            (host, "it is on the host network (hostNetwork: true)"),
            (finished, "its containers have ended"),
        ] {
            assert_eq!(choose(&pod, Some(&namespace(&pod.namespace)), &rules), Choice::Pass(reason.to_owned()));
        }
        assert!(
            namespace_enrolled(&namespace("shop"), &rules) && !namespace_enrolled(&namespace("weir-system"), &rules)
        );
    }

    #[test]
    fn a_namespace_that_is_not_known_says_nothing() {
        let pod = Pod { namespace: "shop".to_owned(), ..Pod::default() };
        let reason = "its namespace has no label weir.dev/mesh=enabled".to_owned();
        assert_eq!(choose(&pod, None, &PLAIN), Choice::Pass(reason));
    }
}
