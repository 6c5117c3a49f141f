//! What to do next: a pure function of the pods that should be enrolled and those that are.

use std::collections::{BTreeMap, BTreeSet};

use super::policy::Policy;
use crate::{config, netns::Identity, reason::Reason, sources::PodSpec};

/// A pod that should be enrolled.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What the source says.
    pub spec: PodSpec,
    /// What is treated apart; or which annotation is wrong.
    pub policy: Result<Policy, Reason>,
    /// What is at the path of its network namespace.
    pub netns: Look,
}

impl Wanted {
    /// A pod that the source says something new of.
    pub fn new(spec: PodSpec, node: &config::Redirect) -> Self {
        let policy = Policy::of(&spec, node).map_err(Reason::from);
        Self { spec, policy, netns: Look::NotDue { cookie: None } }
    }
}

/// What is at the path of a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// A namespace.
    Found {
        /// Which one.
        identity: Identity,
        /// Its cookie.
        cookie: u64,
    },
    /// Nothing that is one.
    Missing(Reason),
    /// It could not be looked at; it may be there.
    Failed(Reason),
    /// An attempt failed a short while ago; it is not time to look again.
    NotDue {
        /// Of the namespace that was seen then.
        cookie: Option<u64>,
    },
}

/// A pod that the kernel redirects.
#[derive(Clone, Debug)]
pub struct Enrolled<'a> {
    /// What the source said when it was enrolled or changed.
    pub spec: &'a PodSpec,
    /// What is treated apart.
    pub policy: &'a Policy,
    /// Its namespace.
    pub identity: Identity,
    /// The cookie of its namespace.
    pub cookie: u64,
    /// Whether the agent holds its listening sockets.
    pub listening: bool,
}

/// What should be and what is.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The pods of the source by uid; none while it has not said any.
    pub wanted: Option<&'a BTreeMap<String, Wanted>>,
    /// Whether the source's last answer was good: what it does not name may otherwise still be wanted.
    pub source_well: bool,
    /// The enrolled pods by uid.
    pub enrolled: &'a BTreeMap<&'a str, Enrolled<'a>>,
    /// Pods that an earlier agent enrolled, not taken over yet: cookie -> slot.
    pub adopted: &'a BTreeMap<u64, u32>,
    /// Namespaces whose last pod a proxy is still letting go, by cookie.
    pub busy: &'a BTreeSet<u64>,
    /// Cookie of the node's own namespace.
    pub node_netns: u64,
    /// Whether proxies had their time to hand sockets back.
    pub sockets_overdue: bool,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take a pod out, that is not wanted or whose namespace is gone.
    Withdraw {
        /// The pod.
        uid: String,
        /// Whether its namespace is gone.
        gone: bool,
    },
    /// Take out what an earlier agent enrolled and nobody wants.
    Forget {
        /// Cookie of the namespace.
        cookie: u64,
        /// Its slot.
        slot: u32,
    },
    /// Give a pod the place of one that leaves, in the same namespace, so that there is no gap between the two.
    Replace {
        /// The pod.
        uid: String,
        /// The one that leaves.
        of: String,
    },
    /// Take over what an earlier agent enrolled.
    Adopt {
        /// The pod.
        uid: String,
        /// Its slot.
        slot: u32,
    },
    /// Make listening sockets for a pod that was taken over and whose own did not come back.
    Listen {
        /// The pod.
        uid: String,
    },
    /// Apply what changed, in place.
    Update {
        /// The pod.
        uid: String,
    },
    /// Enroll a pod.
    Enroll {
        /// The pod.
        uid: String,
    },
    /// Not now, and why.
    Pend {
        /// The pod.
        uid: String,
        /// The reason to show.
        reason: Reason,
    },
}

impl Step {
    /// The pod that it is about, if that is known.
    pub fn uid(&self) -> Option<&str> {
        match self {
            Self::Forget { .. } => None,
            Self::Withdraw { uid, .. }
            | Self::Replace { uid, .. }
            | Self::Adopt { uid, .. }
            | Self::Listen { uid }
            | Self::Update { uid }
            | Self::Enroll { uid }
            | Self::Pend { uid, .. } => Some(uid),
        }
    }
}

/// What to do, in this order: first what makes room, then what keeps pods working, then new pods.
pub fn plan(view: &View<'_>) -> Vec<Step> {
    let Some(wanted) = view.wanted else { return listens(view).collect() };
    let mut leaving = leaving(view, wanted);
    let stays: BTreeSet<&str> = view.enrolled.keys().copied().filter(|uid| !leaving.contains_key(uid)).collect();
    let staying = |uid: &str| view.enrolled.get(uid).filter(|_| stays.contains(uid));
    // Cookie -> uid: a namespace is one pod's.
    let mut owners: BTreeMap<u64, &str> =
        stays.iter().filter_map(|uid| Some((view.enrolled.get(uid)?.cookie, *uid))).collect();
    let (mut replaces, mut adopts, mut updates, mut enrolls) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (uid, pod) in wanted {
        if let Some(enrolled) = staying(uid) {
            updates.extend(update(uid, pod, enrolled));
            continue;
        }
        let cookie = match &pod.netns {
            Look::Found { cookie, .. } => *cookie,
            Look::Missing(reason) | Look::Failed(reason) => {
                // What is to be put right by somebody comes first.
                let reason = pod.policy.as_ref().err().unwrap_or(reason);
                enrolls.push(pend(uid, reason.clone()));
                continue;
            }
            Look::NotDue { .. } => continue,
        };
        let owner = *owners.entry(cookie).or_insert(uid);
        let step = if cookie == view.node_netns {
            pend(uid, Reason::owner("its network namespace is the node's own: host-network pods are not redirected"))
        } else if owner != uid {
            let other = wanted.get(owner).map_or_else(|| owner.to_owned(), |pod| pod.spec.full_name());
            pend(uid, Reason::node(format!("its network namespace is that of {other} too")))
        } else if let Some(slot) = view.adopted.get(&cookie) {
            adopts.push(Step::Adopt { uid: uid.clone(), slot: *slot });
            continue;
        } else if let Err(reason) = &pod.policy {
            pend(uid, reason.clone())
        } else if let Some(of) = replaced(view, &leaving, uid, &pod.netns) {
            leaving.remove(of);
            replaces.push(Step::Replace { uid: uid.clone(), of: of.to_owned() });
            continue;
        } else if view.busy.contains(&cookie) {
            let reason = "a proxy is still letting go of the pod that had its network namespace before";
            pend(uid, Reason::starting(reason))
        } else {
            Step::Enroll { uid: uid.clone() }
        };
        enrolls.push(step);
    }
    let listens: Vec<Step> =
        listens(view).filter(|step| !matches!(step, Step::Listen { uid } if staying(uid).is_none())).collect();
    let withdraw = |(uid, gone): (&str, bool)| Step::Withdraw { uid: uid.to_owned(), gone };
    let mut steps = replaces;
    steps.extend(leaving.into_iter().map(withdraw));
    steps.extend(forgets(view, wanted, &owners));
    steps.extend(adopts);
    steps.extend(listens);
    steps.extend(updates);
    steps.extend(enrolls);
    steps
}

/// The enrolled pods that nothing is to be done with. A mistake that was put right by putting things back as they were
/// leaves nothing else to do.
pub fn undisturbed<'a>(view: &View<'a>, steps: &[Step]) -> impl Iterator<Item = &'a str> {
    let disturbed: BTreeSet<&str> = steps.iter().filter_map(Step::uid).collect();
    view.enrolled.keys().copied().filter(move |uid| !disturbed.contains(uid))
}

fn pend(uid: &str, reason: Reason) -> Step {
    Step::Pend { uid: uid.to_owned(), reason }
}

/// The enrolled pods that are to be taken out, and whether their namespaces are gone. One whose namespace is not known
/// just now stays: its connections may not pass in the clear because somebody could not tell where they come from.
fn leaving<'a>(view: &View<'a>, wanted: &BTreeMap<String, Wanted>) -> BTreeMap<&'a str, bool> {
    let leaves = |(uid, enrolled): (&&'a str, &Enrolled<'_>)| {
        let gone = match wanted.get(*uid).map(|pod| &pod.netns) {
            None => false,
            Some(Look::Missing(_)) => true,
            Some(Look::Found { identity, .. }) if *identity != enrolled.identity => true,
            Some(_) => return None,
        };
        Some((*uid, gone))
    };
    view.enrolled.iter().filter_map(leaves).collect()
}

/// The pod that leaves and has the namespace of this one, which is not enrolled itself.
fn replaced<'a>(view: &View<'a>, leaving: &BTreeMap<&'a str, bool>, uid: &str, netns: &Look) -> Option<&'a str> {
    let Look::Found { identity, cookie } = netns else { return None };
    let has_it =
        |of: &&&'a str| view.enrolled.get(**of).is_some_and(|pod| (pod.identity, pod.cookie) == (*identity, *cookie));
    if view.enrolled.contains_key(uid) { None } else { leaving.keys().find(has_it).copied() }
}

/// What an earlier agent enrolled and nobody wants. While the source goes by what it knew before, it may not know all;
/// while some pod's namespace cannot be looked at, it may be that one's. A pod that has none, or another one, does not
/// keep what is not its own: anybody can make one that is pending for ever.
fn forgets(view: &View<'_>, wanted: &BTreeMap<String, Wanted>, owners: &BTreeMap<u64, &str>) -> Vec<Step> {
    let unsure = |(uid, pod): (&String, &Wanted)| {
        matches!(pod.netns, Look::Failed(_) | Look::NotDue { cookie: None })
            && !view.enrolled.contains_key(uid.as_str())
    };
    if !view.source_well || wanted.iter().any(unsure) {
        return Vec::new();
    }
    let tried = |cookie: u64| wanted.values().any(|pod| pod.netns == Look::NotDue { cookie: Some(cookie) });
    let unclaimed = view.adopted.iter().filter(|(cookie, _)| !owners.contains_key(*cookie) && !tried(**cookie));
    unclaimed.map(|(cookie, slot)| Step::Forget { cookie: *cookie, slot: *slot }).collect()
}

fn listens<'a>(view: &View<'a>) -> impl Iterator<Item = Step> + use<'a> {
    let overdue = view.sockets_overdue;
    let missing = view.enrolled.iter().filter(move |(_, pod)| overdue && !pod.listening);
    missing.map(|(uid, _)| Step::Listen { uid: (*uid).to_owned() })
}

fn update(uid: &str, pod: &Wanted, enrolled: &Enrolled<'_>) -> Option<Step> {
    match &pod.policy {
        // That it has no listening sockets, and why, comes first.
        Err(_) if !enrolled.listening => None,
        // What was enrolled with the annotations before stays so.
        Err(Reason { cause, text }) => {
            let text = format!("{text}; what was said before still applies");
            Some(pend(uid, Reason { cause: *cause, text }))
        }
        Ok(policy) => {
            let changed = policy != enrolled.policy || !pod.spec.described_like(enrolled.spec);
            changed.then(|| Step::Update { uid: uid.to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::policy::tests::pod, *};
    use crate::netns::Netns;

    const NODE: u64 = 1;

    #[derive(Default)]
    struct World {
        wanted: Option<BTreeMap<String, Wanted>>,
        enrolled: BTreeMap<String, Own>,
        adopted: BTreeMap<u64, u32>,
        busy: BTreeSet<u64>,
        source_ill: bool,
        sockets_overdue: bool,
    }

    /// An enrolled pod.
    struct Own {
        spec: PodSpec,
        policy: Policy,
        cookie: u64,
        listening: bool,
    }

    /// Any two that differ.
    fn identity(which: &str) -> Identity {
        Netns::identity_at(std::path::Path::new(which)).unwrap()
    }

    fn found(cookie: u64) -> Look {
        Look::Found { identity: identity("/"), cookie }
    }

    impl World {
        fn want(mut self, name: &str, netns: Look) -> Self {
            let wanted = Wanted { spec: pod(name), policy: Ok(Policy::default()), netns };
            self.wanted.get_or_insert_default().insert(format!("uid-{name}"), wanted);
            self
        }

        fn enrolled(mut self, name: &str, cookie: u64) -> Self {
            let enrolled = Own { spec: pod(name), policy: Policy::default(), cookie, listening: true };
            self.enrolled.insert(format!("uid-{name}"), enrolled);
            self
        }

        fn wanted_mut(&mut self, name: &str) -> &mut Wanted {
            self.wanted.as_mut().unwrap().get_mut(&format!("uid-{name}")).unwrap()
        }

        fn plan(&self) -> Vec<Step> {
            let mut enrolled = BTreeMap::new();
            for (uid, Own { spec, policy, cookie, listening }) in &self.enrolled {
                let (identity, cookie, listening) = (identity("/"), *cookie, *listening);
                enrolled.insert(uid.as_str(), Enrolled { spec, policy, identity, cookie, listening });
            }
            plan(&View {
                wanted: self.wanted.as_ref(),
                source_well: !self.source_ill,
                enrolled: &enrolled,
                adopted: &self.adopted,
                busy: &self.busy,
                node_netns: NODE,
                sockets_overdue: self.sockets_overdue,
            })
        }
    }

    fn uid(name: &str) -> String {
        format!("uid-{name}")
    }

    #[test]
    fn nothing_happens_while_the_source_has_said_nothing() {
        let mut world = World::default().enrolled("web", 5);
        world.adopted.insert(6, 0);
        assert_eq!(world.plan(), []);
    }

    #[test]
    fn new_pods_are_enrolled_and_unwanted_ones_withdrawn_first() {
        let world = World::default().want("new", found(6)).enrolled("old", 5);
        assert_eq!(world.plan(), [Step::Withdraw { uid: uid("old"), gone: false }, Step::Enroll { uid: uid("new") }]);
        assert_eq!(World::default().want("web", found(5)).enrolled("web", 5).plan(), []);
    }

    #[test]
    fn a_pod_takes_the_place_of_one_that_leaves_its_namespace() {
        let replace = Step::Replace { uid: uid("new"), of: uid("old") };
        let mut world = World::default().want("new", found(5)).enrolled("old", 5);
        assert_eq!(world.plan(), std::slice::from_ref(&replace));
        // The other's path is gone, the namespace is not.
        let missing = Look::Missing(Reason::starting("gone"));
        let both = World::default().want("old", missing).want("new", found(5)).enrolled("old", 5);
        assert!(both.plan().contains(&replace) && both.plan().len() == 2, "{:?}", both.plan());
        // Two cannot have it.
        let two = World::default().want("new", found(5)).want("third", found(5)).enrolled("old", 5);
        assert!(matches!(&two.plan()[..], [first, Step::Pend { .. }] if *first == replace), "{:?}", two.plan());
        world.wanted_mut("new").policy = Err(Reason::owner("annotation x: invalid"));
        assert_eq!(world.plan()[0], Step::Withdraw { uid: uid("old"), gone: false });
    }

    #[test]
    fn a_namespace_is_free_when_its_last_pod_is_let_go() {
        let mut world = World::default().want("new", found(5));
        world.busy.insert(5);
        assert!(matches!(&world.plan()[..], [Step::Pend { reason, .. }] if reason.text.contains("letting go")));
        world.busy.clear();
        assert_eq!(world.plan(), [Step::Enroll { uid: uid("new") }]);
    }

    #[test]
    fn a_namespace_that_is_gone_or_another_one_withdraws_the_pod() {
        let missing = Look::Missing(Reason::starting("the network namespace does not exist"));
        let world = World::default().want("web", missing).enrolled("web", 5);
        let steps = world.plan();
        assert_eq!(steps[0], Step::Withdraw { uid: uid("web"), gone: true });
        assert!(matches!(&steps[1], Step::Pend { reason, .. } if reason.text.contains("does not exist")), "{steps:?}");

        let other = Look::Found { identity: identity("/proc"), cookie: 6 };
        let world = World::default().want("web", other).enrolled("web", 5);
        assert_eq!(world.plan(), [Step::Withdraw { uid: uid("web"), gone: true }, Step::Enroll { uid: uid("web") }]);
        let failed = Look::Failed(Reason::starting("the pod's sandbox was taken down, and there is no new one yet"));
        assert_eq!(World::default().want("web", failed).enrolled("web", 5).plan(), []);
    }

    #[test]
    fn changes_are_applied_in_place() {
        let mut world = World::default().want("web", found(5)).enrolled("web", 5);
        world.wanted_mut("web").spec.labels.insert("app".to_owned(), "web".to_owned());
        assert_eq!(world.plan(), [Step::Update { uid: uid("web") }]);

        let mut world = World::default().want("web", found(5)).enrolled("web", 5);
        world.wanted_mut("web").policy = Ok(Policy { fail_open: true, ..Policy::default() });
        assert_eq!(world.plan(), [Step::Update { uid: uid("web") }]);
    }

    #[test]
    fn a_malformed_annotation_leaves_a_new_pod_pending_and_an_enrolled_one_as_it_was() {
        let mut world = World::default().want("web", found(5));
        world.wanted_mut("web").policy = Err(Reason::owner("annotation x: invalid"));
        assert_eq!(world.plan(), [pend(&uid("web"), Reason::owner("annotation x: invalid"))]);
        let world = world.enrolled("web", 5);
        let reason = Reason::owner("annotation x: invalid; what was said before still applies");
        assert_eq!(world.plan(), [pend(&uid("web"), reason)]);
    }

    #[test]
    fn a_malformed_label_of_an_enrolled_pod_is_named_as_an_annotation_is() {
        let problem = "label weir.dev/mesh: invalid \"Enabled\"";
        let spec = PodSpec { problem: Some(problem.to_owned()), ..pod("web") };
        assert_ne!(spec, pod("web"), "it is news");
        let mut world = World::default().want("web", found(5)).enrolled("web", 5);
        *world.wanted_mut("web") = Wanted { netns: found(5), ..Wanted::new(spec, &config::Redirect::default()) };
        let reason = Reason::owner(format!("{problem}; what was said before still applies"));
        assert_eq!(world.plan(), [pend(&uid("web"), reason)]);
        // Its namespace is not found just now.
        world.wanted_mut("web").netns = Look::Failed(Reason::starting("several are"));
        assert!(matches!(&world.plan()[..], [Step::Pend { reason, .. }] if reason.text.starts_with(problem)));
    }

    #[test]
    fn namespaces_have_one_pod_and_the_node_s_own_has_none() {
        let world = World::default().want("a", found(5)).want("b", found(5)).want("c", found(NODE));
        let steps = world.plan();
        assert_eq!(steps[0], Step::Enroll { uid: uid("a") });
        assert!(
            matches!(&steps[1], Step::Pend { reason, .. } if reason.text.ends_with("that of shop/a too")),
            "{steps:?}"
        );
        assert!(matches!(&steps[2], Step::Pend { reason, .. } if reason.text.contains("the node's own")), "{steps:?}");
    }

    #[test]
    fn what_an_earlier_agent_enrolled_is_taken_over_or_forgotten() {
        let mut world = World::default().want("web", found(5)).want("new", found(7));
        world.adopted = BTreeMap::from([(5, 3), (6, 4)]);
        assert_eq!(
            world.plan(),
            [
                Step::Forget { cookie: 6, slot: 4 },
                Step::Adopt { uid: uid("web"), slot: 3 },
                Step::Enroll { uid: uid("new") }
            ]
        );
        world.wanted_mut("new").netns = Look::Failed(Reason::node("too many open files"));
        assert!(!world.plan().iter().any(|step| matches!(step, Step::Forget { .. })), "it may be that pod's");
        let forgotten = Step::Forget { cookie: 6, slot: 4 };
        world.wanted_mut("new").netns = Look::Missing(Reason::not_begun("the pod has no process yet"));
        assert!(world.plan().contains(&forgotten), "a pod that waits for ever keeps nothing that is not its own");
        world.wanted_mut("new").netns = Look::NotDue { cookie: Some(7) };
        assert!(world.plan().contains(&forgotten), "it has another namespace");
        world.wanted_mut("new").netns = Look::NotDue { cookie: Some(6) };
        assert!(!world.plan().contains(&forgotten), "it could not be taken over, and is tried again");
        world.wanted_mut("new").netns = Look::NotDue { cookie: None };
        assert!(!world.plan().contains(&forgotten), "not looked at yet");
        world.wanted_mut("new").netns = found(7);
        world.source_ill = true;
        assert!(!world.plan().iter().any(|step| matches!(step, Step::Forget { .. })), "the source may not know all");
        assert!(world.plan().contains(&Step::Adopt { uid: uid("web"), slot: 3 }));
        // Taken over with the rules that the kernel has.
        world.wanted_mut("web").policy = Err(Reason::owner("annotation x: invalid"));
        assert!(world.plan().contains(&Step::Adopt { uid: uid("web"), slot: 3 }));
    }

    #[test]
    fn sockets_that_do_not_come_back_are_made_anew() {
        let mut world = World::default().want("web", found(5)).enrolled("web", 5);
        world.enrolled.get_mut(&uid("web")).unwrap().listening = false;
        assert_eq!(world.plan(), []);
        world.sockets_overdue = true;
        assert_eq!(world.plan(), [Step::Listen { uid: uid("web") }]);
        world.wanted_mut("web").policy = Err(Reason::owner("annotation x: invalid"));
        assert_eq!(world.plan(), [Step::Listen { uid: uid("web") }], "why it has none is told, if it gets none");
        world.wanted = Some(BTreeMap::new());
        assert_eq!(world.plan(), [Step::Withdraw { uid: uid("web"), gone: false }]);
    }
}
