//! What is known of the cluster: the node's pods, all namespaces, the node. Fed with what the reflectors hear; asked what
//! follows for each pod. No I/O.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{
    objects::{Namespace, NamespaceObject, Node, NodeObject, Pod, PodObject},
    reflector::Heard,
    selection::{self, Choice, Rules},
    unknown::{self, Unread},
};

/// Pods that are remembered as deleted, lest a late answer brings one back.
const REMEMBERED: usize = 256;

/// What is known of the cluster.
#[derive(Debug)]
pub struct Cluster {
    rules: Rules,
    node: String,
    pods: BTreeMap<String, Arc<Pod>>,
    /// Enrolled or held back, and deleted from the API server; their processes may still run.
    leaving: BTreeMap<String, Arc<Pod>>,
    /// What an earlier agent had found on this node, until there is a list.
    found: Vec<Arc<Pod>>,
    deleted: VecDeque<String>,
    namespaces: BTreeMap<String, Namespace>,
    node_object: Option<Node>,
    listed: Listed,
}

/// Of what there was a whole list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    pub pods: bool,
    pub namespaces: bool,
    pub node: bool,
}

impl Cluster {
    /// Nothing is known yet of the cluster around this node.
    pub fn new(node: &str, rules: Rules) -> Self {
        Self {
            rules,
            node: node.to_owned(),
            pods: BTreeMap::new(),
            leaving: BTreeMap::new(),
            found: Vec::new(),
            deleted: VecDeque::new(),
            namespaces: BTreeMap::new(),
            node_object: None,
            listed: Listed::default(),
        }
    }

    /// Takes the pods whose network namespaces an earlier agent had found. Those that the first list does not name are
    /// leaving: deleted while nobody listened, or not heard of yet by the server that was asked. Either way their processes
    /// may run, and what enrolled them stays until none does.
    pub fn expect(&mut self, found: Vec<Pod>) {
        self.found = found.into_iter().map(Arc::new).collect();
    }

    /// Takes what an earlier agent knew, where nothing better is known.
    pub fn recall(&mut self, pods: Vec<Pod>, namespaces: Vec<Namespace>) {
        if !self.listed.pods {
            self.pods = pods.into_iter().map(|pod| (pod.uid.clone(), Arc::new(pod))).collect();
        }
        if !self.listed.namespaces {
            self.namespaces = namespaces.into_iter().map(|namespace| (namespace.name.clone(), namespace)).collect();
        }
    }

    /// Of what there was a whole list from the API server.
    pub fn listed(&self) -> Listed {
        self.listed
    }

    /// Whether there was a list of nodes, and this one was not in it, or is gone since.
    pub fn lacks_node(&self) -> bool {
        self.listed.node && self.node_object.is_none()
    }

    /// Whether a pod is on this node, and not only leaving it.
    pub fn is_present(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// A pod by its UID, also one that leaves.
    pub fn pod(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.pods.get(uid).or_else(|| self.leaving.get(uid))
    }

    /// Pods that were deleted and whose processes may still run.
    pub fn leaving(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.leaving.values()
    }

    /// The node's pods.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values()
    }

    /// All namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.values()
    }

    /// A namespace.
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name)
    }

    /// Whether a namespace is enrolled; none if there is none of this name, or it was not heard of yet.
    pub fn namespace_enrolled(&self, name: &str) -> Option<bool> {
        if name == self.rules.own_namespace {
            return Some(false);
        }
        self.namespaces.get(name).map(|namespace| selection::namespace_enrolled(namespace, &self.rules))
    }

    /// Whether any namespace was heard of, by this agent or the one before it.
    pub fn knows_any(&self) -> bool {
        !self.namespaces.is_empty()
    }

    /// Which namespaces are enrolled.
    pub fn enrolled_namespaces(&self) -> BTreeMap<String, bool> {
        let enrolled = |namespace: &Namespace| selection::namespace_enrolled(namespace, &self.rules);
        self.namespaces.iter().map(|(name, namespace)| (name.clone(), enrolled(namespace))).collect()
    }

    /// Namespaces that have pods on this node.
    fn namespaces_here(&self) -> impl Iterator<Item = &Namespace> {
        let here: BTreeSet<&str> = self.pods.values().map(|pod| pod.namespace.as_str()).collect();
        here.into_iter().filter_map(|name| self.namespaces.get(name))
    }

    /// What nobody reads of the labels and annotations of the node's pods and of their namespaces, but for weir's own.
    pub fn unread(&self) -> BTreeMap<Unread, String> {
        let own = &self.rules.own_namespace;
        let pods = self.pods.values().map(Arc::as_ref).filter(|pod| pod.namespace != *own);
        unknown::unread(pods, self.namespaces_here().filter(|namespace| namespace.name != *own))
    }

    /// What is wrong with the labels of namespaces that have pods on this node.
    pub fn namespace_problems(&self) -> Vec<String> {
        let of_pods = self.namespaces_here();
        let problems = of_pods.filter_map(|namespace| {
            let problem = selection::namespace_problem(namespace, &self.rules)?;
            Some(format!("namespace {}: {problem}", namespace.name))
        });
        problems.collect()
    }

    /// What becomes of a pod.
    pub fn choose(&self, pod: &Pod) -> Choice {
        selection::choose(pod, self.namespaces.get(&pod.namespace), &self.rules)
    }

    /// Whether a pod is not enrolled whatever its namespace says.
    pub fn passes_in_any_namespace(&self, pod: &Pod) -> bool {
        selection::passes_in_any_namespace(pod, &self.rules)
    }

    /// Every pod of the node, with what becomes of it; one that leaves stays enrolled, or is not mentioned.
    pub fn choices(&self) -> impl Iterator<Item = (&Arc<Pod>, Choice)> {
        let chosen = |pod: _| -> (&Arc<Pod>, Choice) { (pod, self.choose(pod)) };
        let leaving = self.leaving.values().map(chosen).filter(|(_, choice)| !matches!(choice, Choice::Pass(_)));
        self.pods.values().map(chosen).chain(leaving)
    }

    /// A pod that left is gone for good.
    pub fn left(&mut self, uid: &str) {
        self.leaving.remove(uid);
    }

    /// Whether the DaemonSet of this agent's own pod is being uninstalled.
    pub fn is_uninstalled(&self, own_pod: &str) -> bool {
        let Some(uid) = self.namespace(&self.rules.own_namespace).and_then(|namespace| namespace.uninstall.as_deref())
        else {
            return false;
        };
        self.controller_of(own_pod).as_deref() == Some(uid)
    }

    /// UID of the DaemonSet of a pod of weir's own.
    pub fn controller_of(&self, own_pod: &str) -> Option<String> {
        let own = |pod: &&Arc<Pod>| pod.name == own_pod && pod.namespace == self.rules.own_namespace;
        self.pods.values().find(own).and_then(|pod| pod.controller.clone())
    }

    /// Takes what was heard of pods; the UIDs of those that may have changed.
    pub fn hear_pods(&mut self, heard: Heard<PodObject>) -> BTreeSet<String> {
        match heard {
            Heard::All(objects) => {
                self.listed.pods = true;
                let new = objects.into_iter().map(|pod| pod.object).filter(|pod| pod.node == self.node);
                let new: BTreeMap<_, _> = new.map(|pod| (pod.uid.clone(), Arc::new(pod))).collect();
                let old = std::mem::replace(&mut self.pods, new);
                self.leaving.retain(|uid, _| !self.pods.contains_key(uid));
                let changed = old.keys().chain(self.pods.keys()).cloned().collect();
                for pod in old.into_values() {
                    if !self.pods.contains_key(&pod.uid) {
                        self.leave(pod);
                    }
                }
                for pod in std::mem::take(&mut self.found) {
                    // Whether its namespace is enrolled may not be known yet.
                    if !pod.finished && !self.pods.contains_key(&pod.uid) {
                        self.leaving.insert(pod.uid.clone(), pod);
                    }
                }
                changed
            }
            Heard::Applied(pod) => self.apply(pod.object).into_iter().collect(),
            Heard::Deleted(PodObject { object: pod, .. }) => {
                self.deleted.push_back(pod.uid.clone());
                if self.deleted.len() > REMEMBERED {
                    self.deleted.pop_front();
                }
                let Some(known) = self.pods.remove(&pod.uid) else { return BTreeSet::new() };
                // The last version of it says whether its containers had ended.
                if !pod.finished {
                    self.leave(known);
                }
                [pod.uid].into()
            }
            Heard::Well | Heard::Failed(_) => BTreeSet::new(),
        }
    }

    /// Takes a pod that was asked for; what the watch said of it meanwhile is newer.
    pub fn learn(&mut self, pod: Pod) -> Option<String> {
        if self.pods.contains_key(&pod.uid) || self.deleted.contains(&pod.uid) {
            return None;
        }
        self.apply(pod)
    }

    /// Takes a namespace that was asked for; while the watch tells, what that said of it meanwhile is newer.
    pub fn learn_namespace(&mut self, namespace: Namespace, watched: bool) {
        if !(watched && self.namespaces.contains_key(&namespace.name)) {
            self.namespaces.insert(namespace.name.clone(), namespace);
        }
    }

    fn apply(&mut self, pod: Pod) -> Option<String> {
        if pod.node != self.node {
            return None;
        }
        self.leaving.remove(&pod.uid);
        let uid = pod.uid.clone();
        self.pods.insert(uid.clone(), Arc::new(pod));
        Some(uid)
    }

    fn leave(&mut self, pod: Arc<Pod>) {
        // One that is held back may be enrolled by what was said before.
        if !pod.finished && !matches!(self.choose(&pod), Choice::Pass(_)) {
            self.leaving.insert(pod.uid.clone(), pod);
        }
    }

    /// Takes what was heard of namespaces; whether anything changed.
    pub fn hear_namespaces(&mut self, heard: Heard<NamespaceObject>) -> bool {
        match heard {
            Heard::All(objects) => {
                self.listed.namespaces = true;
                let new = objects.into_iter().map(|seen| (seen.object.name.clone(), seen.object)).collect();
                let old = std::mem::replace(&mut self.namespaces, new);
                old != self.namespaces
            }
            Heard::Applied(NamespaceObject { object: namespace, .. }) => {
                let name = namespace.name.clone();
                let before = self.namespaces.insert(name.clone(), namespace);
                before.as_ref() != self.namespaces.get(&name)
            }
            Heard::Deleted(namespace) => self.namespaces.remove(&namespace.object.name).is_some(),
            Heard::Well | Heard::Failed(_) => false,
        }
    }

    /// Takes what was heard of the node.
    pub fn hear_node(&mut self, heard: Heard<NodeObject>) {
        match heard {
            Heard::All(objects) => {
                self.listed.node = true;
                self.node_object = objects.into_iter().map(|seen| seen.object).find(|node| node.name == self.node);
            }
            Heard::Applied(node) if node.object.name == self.node => self.node_object = Some(node.object),
            Heard::Deleted(node) if node.object.name == self.node => self.node_object = None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::objects::Versioned, *};

    const OWN: &str = "weir-system";

    fn cluster() -> Cluster {
        let mut cluster = Cluster::new("n1", Rules { own_namespace: OWN.to_owned(), istio_labels: false });
        cluster.hear_namespaces(Heard::All(vec![namespace("shop", true), namespace(OWN, false)]));
        cluster
    }

    fn seen<T>(object: T) -> Versioned<T> {
        Versioned { object, version: String::new() }
    }

    fn namespace(name: &str, enrolled: bool) -> NamespaceObject {
        let labels = enrolled.then(|| ("weir.dev/mesh".to_owned(), "enabled".to_owned())).into_iter().collect();
        seen(Namespace { name: name.to_owned(), labels, ..Namespace::default() })
    }

    fn pod(uid: &str) -> PodObject {
        seen(Pod {
            uid: uid.to_owned(),
            name: "web-0".to_owned(),
            namespace: "shop".to_owned(),
            node: "n1".to_owned(),
            ..Pod::default()
        })
    }

    fn enrolled(cluster: &Cluster) -> Vec<&str> {
        let mut uids: Vec<&str> = cluster
            .choices()
            .filter(|(_, choice)| *choice == Choice::Enroll)
            .map(|(pod, _)| pod.uid.as_str())
            .collect();
        uids.sort_unstable();
        uids
    }

    #[test]
    fn a_namespace_whose_label_means_nothing_is_named_where_it_has_pods() {
        let mut cluster = cluster();
        let labelled = |value: &str| {
            let labels = [("weir.dev/mesh".to_owned(), value.to_owned())].into();
            seen(Namespace { name: "shop".to_owned(), labels, ..Namespace::default() })
        };
        cluster.hear_namespaces(Heard::Applied(labelled("Enabled")));
        assert!(cluster.namespace_problems().is_empty(), "none of its pods is here");
        cluster.hear_pods(Heard::All(vec![pod("a"), pod("b")]));
        assert_eq!(
            cluster.namespace_problems(),
            ["namespace shop: label weir.dev/mesh: invalid \"Enabled\", expected \"enabled\" or \"disabled\""]
        );
        cluster.hear_namespaces(Heard::Applied(labelled("disabled")));
        assert!(cluster.namespace_problems().is_empty());
    }

    #[test]
    fn keys_that_nobody_reads_are_noted_and_hold_no_pod() {
        let mut cluster = cluster();
        let annotated = |namespace: &str| {
            let annotations = [("weir.dev/exclude-outbound-port".to_owned(), "25".to_owned())].into();
            seen(Pod { annotations, namespace: namespace.to_owned(), ..pod(namespace).object })
        };
        cluster.hear_pods(Heard::All(vec![annotated("shop"), annotated(OWN)]));
        let note = "pod shop/web-0: annotation weir.dev/exclude-outbound-port is unknown and ignored; is the annotation \
                    weir.dev/exclude-outbound-ports meant?";
        assert_eq!(cluster.unread().into_values().collect::<Vec<_>>(), [note]);
        assert_eq!(enrolled(&cluster), ["shop"]);
    }

    #[test]
    fn a_label_flip_changes_every_pod_of_the_namespace() {
        let mut cluster = cluster();
        assert!(!cluster.listed().pods);
        cluster.hear_pods(Heard::All(vec![pod("a"), pod("b")]));
        assert_eq!(enrolled(&cluster), ["a", "b"]);
        assert!(cluster.hear_namespaces(Heard::Applied(namespace("shop", false))));
        assert!(enrolled(&cluster).is_empty());
        assert!(!cluster.hear_namespaces(Heard::Applied(namespace("shop", false))), "the same again");
        cluster.hear_namespaces(Heard::Applied(namespace("shop", true)));
        assert_eq!(enrolled(&cluster), ["a", "b"]);
        cluster.hear_namespaces(Heard::Deleted(namespace("shop", true)));
        assert!(enrolled(&cluster).is_empty());
        assert_eq!(cluster.enrolled_namespaces(), [(OWN.to_owned(), false)].into());
    }

    #[test]
    fn a_pod_that_is_replaced_under_its_name_leaves_while_the_next_one_is_there() {
        let mut cluster = cluster();
        cluster.hear_pods(Heard::Applied(pod("old")));
        assert_eq!(cluster.hear_pods(Heard::Deleted(pod("old"))), ["old".to_owned()].into());
        cluster.hear_pods(Heard::Applied(pod("new")));
        assert_eq!(enrolled(&cluster), ["new", "old"], "its containers may still run");
        cluster.left("old");
        assert_eq!(enrolled(&cluster), ["new"]);
    }

    #[test]
    fn a_pod_whose_containers_had_ended_is_gone_at_once() {
        let mut cluster = cluster();
        cluster.hear_pods(Heard::Applied(pod("a")));
        cluster.hear_pods(Heard::Deleted(seen(Pod { finished: true, ..pod("a").object })));
        assert!(enrolled(&cluster).is_empty());
        // One that was not enrolled has nothing to wait for either.
        let other = |namespace: &str| seen(Pod { namespace: namespace.to_owned(), ..pod("b").object });
        cluster.hear_pods(Heard::Applied(other("plain")));
        cluster.hear_pods(Heard::Deleted(other("plain")));
        assert_eq!(cluster.choices().count(), 0);
    }

    #[test]
    fn a_pod_that_is_held_back_leaves_as_an_enrolled_one_does() {
        let mut cluster = cluster();
        cluster.hear_pods(Heard::Applied(pod("a")));
        let labels = [("weir.dev/mesh".to_owned(), "Enabled".to_owned())].into();
        cluster.hear_pods(Heard::Applied(seen(Pod { labels, ..pod("a").object })));
        cluster.hear_pods(Heard::Deleted(pod("a")));
        let held = |(pod, choice): (&Arc<Pod>, Choice)| pod.uid == "a" && matches!(choice, Choice::Hold(_));
        assert!(cluster.choices().any(held), "what was said before may have enrolled it");
    }

    #[test]
    fn a_new_list_replaces_the_old_and_says_what_changed() {
        let mut cluster = cluster();
        cluster.hear_pods(Heard::All(vec![pod("a"), pod("b")]));
        let changed = cluster.hear_pods(Heard::All(vec![pod("b"), pod("c")]));
        assert_eq!(changed.into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(cluster.leaving.keys().collect::<Vec<_>>(), ["a"]);
        // It was there all along: the server that was asked had not heard of it.
        cluster.hear_pods(Heard::Applied(pod("a")));
        assert!(cluster.leaving.is_empty());
        assert_eq!(enrolled(&cluster), ["a", "b", "c"]);
    }

    #[test]
    fn pods_of_other_nodes_are_not_looked_at() {
        let mut cluster = cluster();
        let elsewhere = || seen(Pod { node: "n2".to_owned(), ..pod("x").object });
        cluster.hear_pods(Heard::All(vec![elsewhere()]));
        assert!(cluster.hear_pods(Heard::Applied(elsewhere())).is_empty());
        assert_eq!(cluster.pods().count(), 0);
    }

    #[test]
    fn an_answer_that_comes_late_brings_no_pod_back() {
        let mut cluster = cluster();
        assert_eq!(cluster.learn(pod("a").object).as_deref(), Some("a"));
        assert_eq!(cluster.learn(pod("a").object), None, "the watch knows better");
        cluster.hear_pods(Heard::Deleted(pod("b")));
        assert_eq!(cluster.learn(pod("b").object), None);
        for n in 0..=REMEMBERED {
            cluster.hear_pods(Heard::Deleted(pod(&format!("x{n}"))));
        }
        assert_eq!(cluster.deleted.len(), REMEMBERED);
    }

    #[test]
    fn what_was_recorded_stands_until_there_is_a_list() {
        let mut cluster = Cluster::new("n1", Rules { own_namespace: OWN.to_owned(), istio_labels: false });
        cluster.recall(vec![pod("a").object], vec![namespace("shop", true).object]);
        assert_eq!(enrolled(&cluster), ["a"]);
        assert_eq!(cluster.listed(), Listed::default());
        cluster.hear_pods(Heard::All(vec![]));
        cluster.recall(vec![pod("a").object], vec![namespace("shop", false).object]);
        assert_eq!(cluster.pods().count(), 0);
        assert_eq!(cluster.namespace_enrolled("shop"), Some(false));
    }

    #[test]
    fn what_an_earlier_agent_had_found_leaves_where_the_first_list_does_not_name_it() {
        let mut cluster = Cluster::new("n1", Rules { own_namespace: OWN.to_owned(), istio_labels: false });
        let plain = Pod { namespace: "plain".to_owned(), ..pod("c").object };
        let finished = Pod { finished: true, ..pod("d").object };
        cluster.expect(vec![pod("a").object, pod("b").object, plain, finished]);
        assert_eq!(cluster.choices().count(), 0, "a list may say that it is there");
        cluster.hear_pods(Heard::All(vec![pod("b")]));
        cluster.hear_namespaces(Heard::All(vec![namespace("shop", true), namespace("plain", false)]));
        assert_eq!(enrolled(&cluster), ["a", "b"]);
        assert!(cluster.is_present("b") && !cluster.is_present("a"));
        cluster.left("a");
        cluster.hear_pods(Heard::All(vec![pod("b")]));
        assert_eq!(enrolled(&cluster), ["b"], "only the first list");
    }

    #[test]
    fn an_uninstall_is_for_the_daemonset_that_it_names() {
        let mut cluster = cluster();
        let own = Pod {
            uid: "w".to_owned(),
            name: "weir-x".to_owned(),
            namespace: OWN.to_owned(),
            controller: Some("d1".to_owned()),
            ..pod("w").object
        };
        cluster.hear_pods(Heard::Applied(seen(own)));
        assert!(!cluster.is_uninstalled("weir-x"));
        for (uid, uninstalled) in [("d2", false), ("d1", true)] {
            let named = Namespace { name: OWN.to_owned(), uninstall: Some(uid.to_owned()), ..Namespace::default() };
            cluster.hear_namespaces(Heard::Applied(seen(named)));
            assert_eq!(cluster.is_uninstalled("weir-x"), uninstalled, "{uid}");
        }
        assert!(!cluster.is_uninstalled("weir-y"));
    }

    #[test]
    fn the_node_is_known_by_its_name() {
        let mut cluster = cluster();
        assert!(!cluster.lacks_node(), "nobody said so");
        let node = |name: &str| seen(Node { name: name.to_owned() });
        cluster.hear_node(Heard::All(vec![node("n2"), node("n1")]));
        cluster.hear_node(Heard::Deleted(node("n2")));
        assert!(!cluster.lacks_node());
        cluster.hear_node(Heard::Deleted(node("n1")));
        assert!(cluster.lacks_node());
    }
}
