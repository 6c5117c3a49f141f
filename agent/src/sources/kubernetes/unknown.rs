//! Labels and annotations below `weir.dev/` that nobody reads: a slip of the pen does nothing, in silence. It is told, and
//! holds no pod: what it was meant to say cannot be known.

use std::collections::BTreeMap;

use super::{
    labels::{ANNOTATIONS, MESH, OWN},
    objects::{Namespace, Pod, UNINSTALL},
};
use crate::distance::distance;

/// How far a key may be from a known one to be taken for a slip, in characters added, left out or changed.
const NEAR: usize = 3;
/// Notes that are told of a node: whoever may make pods chooses how many there are.
pub const MOST: usize = 20;

/// A key that nobody reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unread {
    /// Of the namespace's pods, or of the namespace.
    of_pods: bool,
    namespace: String,
    kind: Kind,
    key: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Label,
    Annotation,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::Annotation => "annotation",
        }
    }
}

/// What nobody reads of these pods and namespaces, with the note that says so.
pub fn unread<'a>(
    pods: impl Iterator<Item = &'a Pod>,
    namespaces: impl Iterator<Item = &'a Namespace>,
) -> BTreeMap<Unread, String> {
    let mut notes = BTreeMap::new();
    for namespace in namespaces {
        let labels = keys(Kind::Label, &namespace.labels);
        let annotations = namespace.annotations.iter().map(|key| (Kind::Annotation, key.as_str()));
        let read = [(Kind::Label, MESH), (Kind::Annotation, UNINSTALL)];
        for (kind, key) in labels.chain(annotations).filter(|key| !read.contains(key)) {
            let unread = Unread { of_pods: false, namespace: namespace.name.clone(), kind, key: key.to_owned() };
            notes.insert(unread, format!("namespace {}: {}", namespace.name, ignored(kind, key)));
        }
    }
    let mut of_pods: BTreeMap<(&str, Kind, &str), (&str, usize)> = BTreeMap::new();
    for pod in pods {
        let read = |kind, key: &str| match kind {
            Kind::Label => key == MESH,
            Kind::Annotation => ANNOTATIONS.contains(&key),
        };
        let keys = keys(Kind::Label, &pod.labels).chain(keys(Kind::Annotation, &pod.annotations));
        for (kind, key) in keys.filter(|(kind, key)| !read(*kind, key)) {
            let (first, more) = of_pods.entry((&pod.namespace, kind, key)).or_insert((&pod.name, 0));
            *first = pod.name.as_str().min(first);
            *more += 1;
        }
    }
    for ((namespace, kind, key), (pod, count)) in of_pods {
        let others = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        let unread = Unread { of_pods: true, namespace: namespace.to_owned(), kind, key: key.to_owned() };
        notes.insert(unread, format!("pod {namespace}/{pod}{others}: {}", ignored(kind, key)));
    }
    notes
}

/// The notes that are told: not more than can be read.
pub fn told(unread: &BTreeMap<Unread, String>) -> impl Iterator<Item = String> {
    let more = unread.len().checked_sub(MOST).filter(|more| *more > 0);
    let rest = more.map(|more| format!("{more} more keys below {OWN} are unknown and ignored"));
    unread.values().take(MOST).cloned().chain(rest)
}

fn keys(kind: Kind, of: &BTreeMap<String, String>) -> impl Iterator<Item = (Kind, &str)> {
    let own = of.range(OWN.to_owned()..).map(|(key, _)| key.as_str()).take_while(|key| key.starts_with(OWN));
    own.map(move |key| (kind, key))
}

fn ignored(kind: Kind, key: &str) -> String {
    let known = std::iter::once((Kind::Label, MESH)).chain(ANNOTATIONS.map(|known| (Kind::Annotation, known)));
    let written = key.to_ascii_lowercase();
    let near = known.map(|(of, known)| (distance(&written, known), of, known)).min().filter(|(far, ..)| *far <= NEAR);
    let meant = near.map_or_else(String::new, |(_, of, known)| format!("; is the {} {known} meant?", of.name()));
    format!("{} {key} is unknown and ignored{meant}", kind.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(keys: &[&str]) -> BTreeMap<String, String> {
        keys.iter().map(|key| ((*key).to_owned(), "x".to_owned())).collect()
    }

    fn pod(name: &str, labels: &[&str], annotations: &[&str]) -> Pod {
        Pod {
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            labels: map(labels),
            annotations: map(annotations),
            ..Pod::default()
        }
    }

    #[test]
    fn a_key_that_nobody_reads_is_named_with_the_one_that_is_near() {
        let of = |pods: &[Pod]| unread(pods.iter(), std::iter::empty()).into_values().collect::<Vec<_>>();
        for (labels, annotations, expected) in [
            (
                ["weir.dev/Mesh"].as_slice(),
                [].as_slice(),
                "label weir.dev/Mesh is unknown and ignored; is the label weir.dev/mesh meant?",
            ),
            (
                &[],
                &["weir.dev/exclude-outbound-port"],
                "annotation weir.dev/exclude-outbound-port is unknown and ignored; is the annotation \
                 weir.dev/exclude-outbound-ports meant?",
            ),
            (
                &[],
                &["weir.dev/mesh"],
                "annotation weir.dev/mesh is unknown and ignored; is the label weir.dev/mesh meant?",
            ),
            (
                &["weir.dev/fail-open"],
                &[],
                "label weir.dev/fail-open is unknown and ignored; is the annotation weir.dev/fail-open meant?",
            ),
            (&["weir.dev/team-of-owner"], &[], "label weir.dev/team-of-owner is unknown and ignored"),
        ] {
            assert_eq!(of(&[pod("web", labels, annotations)]), [format!("pod shop/web: {expected}")]);
        }
        let known = pod("web", &["app", "weir.dev/mesh", "weir.developer/x"], &ANNOTATIONS);
        let sidecar = pod("web", &[], &["traffic.sidecar.istio.io/excludeOutboundPorts"]);
        assert_eq!(of(&[known, sidecar]), [""; 0]);
        let typo = |name| pod(name, &["weir.dev/mehs"], &[]);
        assert_eq!(
            of(&[typo("web-2"), typo("web-1"), typo("web-3")]),
            [
                "pod shop/web-1 and 2 more: label weir.dev/mehs is unknown and ignored; is the label weir.dev/mesh meant?"
            ]
        );
        let many: Vec<String> = (0..50).map(|index| format!("weir.dev/of-no-use-{index}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let many = unread([pod("web", &many, &[])].iter(), std::iter::empty());
        let told: Vec<_> = told(&many).collect();
        assert_eq!((told.len(), &*told[MOST]), (MOST + 1, "30 more keys below weir.dev/ are unknown and ignored"));
    }

    #[test]
    fn namespaces_have_a_label_and_no_annotation_but_the_uninstall_s() {
        let namespace = Namespace {
            name: "shop".to_owned(),
            labels: map(&["istio.io/dataplane-mode", "weir.dev/mesh", "weir.dev/meshed"]),
            annotations: ["weir.dev/mesh".to_owned(), UNINSTALL.to_owned()].into(),
            ..Namespace::default()
        };
        let notes = unread(std::iter::empty(), [namespace].iter());
        assert_eq!(
            notes.into_values().collect::<Vec<_>>(),
            [
                "namespace shop: label weir.dev/meshed is unknown and ignored; is the label weir.dev/mesh meant?",
                "namespace shop: annotation weir.dev/mesh is unknown and ignored; is the label weir.dev/mesh meant?",
            ]
        );
    }

    #[test]
    fn what_is_unread_is_the_same_whichever_pods_have_it() {
        let typo = |name| pod(name, &["weir.dev/mehs"], &[]);
        let of = |pods: &[Pod]| unread(pods.iter(), std::iter::empty()).into_keys().collect::<Vec<_>>();
        assert_eq!(of(&[typo("web-1")]), of(&[typo("web-2"), typo("web-3")]));
    }
}
