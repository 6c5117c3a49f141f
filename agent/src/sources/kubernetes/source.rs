//! The task that turns what the reflectors hear into the listing.

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep_until},
};

use super::{
    Namespaces, Shared,
    health::Health,
    locations::{Locations, Wanted},
    objects::{Namespace, NamespaceObject, NodeObject, Pod, PodObject},
    record::{Record, RecordedPod},
    reflector::{Heard, Listener, reflect},
    selection::Choice,
    unknown::{self, Unread},
};
use crate::{
    file::put_private,
    locate::Locator,
    reason::Cause,
    sources::{Listing, PassedOver, PodNetns, PodSpec},
};

/// Messages that are taken before the listing is made anew.
const BATCH: usize = 512;
/// Listings come no faster than this.
const PUBLISH: Duration = Duration::from_millis(20);
/// Without anything due, looked at again.
const IDLE: Duration = Duration::from_secs(60);
/// The record is written this soon after a change.
const WRITE: Duration = Duration::from_millis(200);
/// What the source hears.
pub enum Message {
    Pods(Heard<PodObject>),
    Namespaces(Heard<NamespaceObject>),
    Node(Heard<NodeObject>),
    /// A pod that was asked for, and its namespace.
    Learned(Box<(Pod, Namespace)>),
}

impl Message {
    /// Whether the API server gave something.
    fn is_from_the_server(&self) -> bool {
        match self {
            Self::Pods(heard) => !matches!(heard, Heard::Failed(_)),
            Self::Namespaces(heard) => !matches!(heard, Heard::Failed(_)),
            Self::Node(heard) => !matches!(heard, Heard::Failed(_)),
            Self::Learned(_) => true,
        }
    }
}

/// Where what the source says goes.
pub struct Senders {
    pub listing: watch::Sender<Listing>,
    pub namespaces: watch::Sender<Namespaces>,
    pub uninstall: watch::Sender<bool>,
}

/// The task.
pub struct Source {
    shared: Arc<Shared>,
    locations: Locations,
    moved: watch::Receiver<u64>,
    senders: Senders,
    recalled: Option<Record>,
    from_record: bool,
    pods: Health,
    namespaces: Health,
    node: Health,
    published: Option<Instant>,
    publish_at: Option<Instant>,
    record_at: Option<Instant>,
    recall_at: Option<Instant>,
    written: Vec<u8>,
    write_problem: String,
    /// What the log has been told of.
    unread: BTreeSet<Unread>,
}

impl Source {
    /// A source with what an earlier agent left.
    pub fn new(shared: Arc<Shared>, locator: Arc<Locator>, senders: Senders, recalled: Option<Record>) -> Self {
        let recall_at = recalled.as_ref().map(|_| Instant::now() + shared.settings.first_list);
        Self {
            shared,
            locations: Locations::new(locator.clone()),
            moved: locator.changed(),
            senders,
            recalled,
            from_record: false,
            pods: Health::new("pods"),
            namespaces: Health::new("namespaces"),
            node: Health::new("nodes"),
            published: None,
            publish_at: None,
            record_at: None,
            recall_at,
            written: Vec::new(),
            write_problem: String::new(),
            unread: BTreeSet::new(),
        }
    }

    /// Runs until nobody follows the listing.
    pub async fn run(mut self, messages: mpsc::Sender<Message>, mut heard: mpsc::Receiver<Message>) {
        self.seed().await;
        let _reflectors = self.reflectors(messages);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let due = self.due();
            tokio::select! {
                _ = heard.recv_many(&mut batch, BATCH) => {}
                Ok(()) = self.moved.changed() => self.news(),
                () = sleep_until(due) => {}
                () = self.senders.listing.closed() => return,
            }
            for message in batch.drain(..) {
                self.hear(message);
            }
            self.tend().await;
        }
    }

    /// They end with the source.
    fn reflectors(&self, messages: mpsc::Sender<Message>) -> JoinSet<()> {
        let Shared { client, settings, .. } = &*self.shared;
        let timing = settings.timing;
        let mut reflectors = JoinSet::new();
        let listener = Listener { messages: messages.clone(), message: Message::Pods };
        reflectors.spawn(reflect(client.clone(), super::pods_of(&settings.node), timing, listener));
        let listener = Listener { messages: messages.clone(), message: Message::Namespaces };
        reflectors.spawn(reflect(client.clone(), super::namespaces(), timing, listener));
        let listener = Listener { messages, message: Message::Node };
        reflectors.spawn(reflect(client.clone(), super::node(&settings.node), timing, listener));
        reflectors
    }

    /// Tells the locator of the namespaces that an earlier agent knew and that are still the same, and whose they are.
    async fn seed(&mut self) {
        let Some(record) = &self.recalled else { return };
        if record.boot != self.shared.settings.boot {
            return;
        }
        let found = record.pods.iter().filter(|pod| pod.netns.is_some()).map(|pod| pod.pod.clone());
        self.shared.cluster.write().expect(found.collect());
        let known = record.pods.iter().filter_map(|pod| Some((pod.pod.uid.clone(), pod.netns.clone()?))).collect();
        self.locations.seed(known).await;
    }

    fn hear(&mut self, message: Message) {
        if message.is_from_the_server() {
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            self.shared.heard.store(now.as_secs(), Ordering::Relaxed);
        }
        let mut cluster = self.shared.cluster.write();
        let changed = match message {
            Message::Pods(heard) => {
                note(&mut self.pods, &heard);
                cluster.hear_pods(heard)
            }
            Message::Namespaces(heard) => {
                note(&mut self.namespaces, &heard);
                cluster.hear_namespaces(heard);
                BTreeSet::new()
            }
            Message::Node(heard) => {
                note(&mut self.node, &heard);
                cluster.hear_node(heard);
                BTreeSet::new()
            }
            Message::Learned(learned) => {
                let (pod, namespace) = *learned;
                cluster.learn_namespace(namespace, self.namespaces.problem().is_none());
                cluster.learn(pod).into_iter().collect()
            }
        };
        let follows_namespaces = cluster.listed().namespaces && self.namespaces.problem().is_none();
        self.shared.follows_namespaces.store(follows_namespaces, Ordering::Relaxed);
        drop(cluster);
        let now = Instant::now();
        for uid in changed {
            self.locations.changed(&uid, now);
        }
        self.publish_soon(now);
    }

    fn publish_soon(&mut self, now: Instant) {
        let after = self.published.map_or(now, |published| now.max(published + PUBLISH));
        self.publish_at.get_or_insert(after);
    }

    fn news(&mut self) {
        self.locations.news(Instant::now());
    }

    fn due(&self) -> Instant {
        let due = [self.publish_at, self.record_at, self.recall_at, self.locations.due()].into_iter().flatten().min();
        due.unwrap_or_else(|| Instant::now() + IDLE)
    }

    async fn tend(&mut self) {
        let now = Instant::now();
        if self.recall_at.is_some_and(|at| at <= now) {
            self.recall();
        }
        let listed = self.shared.cluster.read().listed();
        if listed.pods && listed.namespaces {
            (self.recalled, self.recall_at, self.from_record) = (None, None, false);
        }
        self.locate(now).await;
        if self.publish_at.is_some_and(|at| at <= now) {
            self.publish();
            (self.publish_at, self.published) = (None, Some(now));
        }
        if self.record_at.is_some_and(|at| at <= now) {
            self.record_at = None;
            self.write().await;
        }
    }

    /// Goes by what an earlier agent left, as the API server gave nothing in time.
    fn recall(&mut self) {
        self.recall_at = None;
        let Some(record) = self.recalled.take() else { return };
        tracing::warn!(
            record = %self.shared.settings.record.display(), pods = record.pods.len(),
            "goes by what an earlier agent knew, until the API server is reached"
        );
        let pods = record.pods.into_iter().map(|pod| pod.pod).collect();
        self.shared.cluster.write().recall(pods, record.namespaces);
        self.from_record = true;
        self.publish_soon(Instant::now());
    }

    /// Looks for the namespaces of wanted pods.
    async fn locate(&mut self, now: Instant) {
        let wanted = {
            let cluster = self.shared.cluster.read();
            // Those that are held back, too: what an earlier agent enrolled may be theirs.
            let mesh = cluster.choices().filter(|(_, choice)| !matches!(choice, Choice::Pass(_)));
            mesh.map(|(pod, _)| Wanted { uid: pod.uid.clone(), leaving: !cluster.is_present(&pod.uid) }).collect()
        };
        let changes = self.locations.look(wanted, now).await;
        for uid in &changes.gone {
            tracing::debug!(uid, "the last of a deleted pod is gone");
            self.shared.cluster.write().left(uid);
        }
        if changes.any || !changes.gone.is_empty() {
            self.publish_soon(Instant::now());
        }
    }

    /// Makes the listing anew and tells it, and what else follows, if it is another one.
    fn publish(&mut self) {
        let cluster = self.shared.cluster.read();
        let listed = cluster.listed();
        let known = listed.pods && listed.namespaces || self.from_record;
        let error = self.problem(cluster.lacks_node());
        let unread = cluster.unread();
        let notes = cluster.namespace_problems().into_iter().chain(unknown::told(&unread)).collect();
        let mut listing = Listing { error, notes, ..Listing::default() };
        if known {
            let mut pods = Vec::new();
            for (pod, choice) in cluster.choices() {
                let problem = match choice {
                    Choice::Pass(reason) => {
                        listing.passed_over.push(passed_over(pod, reason));
                        continue;
                    }
                    Choice::Hold(reason) => Some(reason),
                    Choice::Enroll => None,
                };
                pods.push(PodSpec { problem, ..spec(pod, self.locations.netns(&pod.uid)) });
            }
            listing.pods = Some(pods);
        }
        // Not from the record: that may have been taken back meanwhile.
        let own_pod = self.shared.settings.own_pod.as_deref().filter(|_| listed.pods && listed.namespaces);
        let uninstalled = own_pod.is_some_and(|own_pod| cluster.is_uninstalled(own_pod));
        let namespaces = (listed.namespaces || self.from_record).then(|| Arc::new(cluster.enrolled_namespaces()));
        drop(cluster);
        self.senders.namespaces.send_if_modified(|present| {
            let changed = *present != namespaces && namespaces.is_some();
            if changed {
                *present = namespaces;
            }
            changed
        });
        self.senders.uninstall.send_if_modified(|present| std::mem::replace(present, uninstalled) != uninstalled);
        self.senders.listing.send_if_modified(|present| {
            let same = present.pods == listing.pods
                && present.passed_over == listing.passed_over
                && present.error == listing.error
                && present.notes == listing.notes;
            if !same {
                *present = listing;
            }
            !same
        });
        let new = unread.iter().filter(|(unread, _)| !self.unread.contains(unread));
        for (_, note) in new.take(unknown::MOST) {
            tracing::warn!("{note}");
        }
        self.unread = unread.into_keys().collect();
        if listed.pods && listed.namespaces {
            self.record_at.get_or_insert_with(|| Instant::now() + WRITE);
        }
    }

    fn problem(&self, no_node: bool) -> String {
        let failing = [&self.pods, &self.namespaces, &self.node].into_iter().find_map(Health::problem);
        let node = &self.shared.settings.node;
        match failing {
            Some(problem) if self.from_record => format!("{problem}; the pods are those that an earlier agent knew"),
            Some(problem) => problem,
            None if no_node => format!(
                "the API server knows no node {node:?}: expected `node` of agent.toml (or $NODE_NAME) to be the name of \
                 this machine's Node"
            ),
            None => String::new(),
        }
    }

    /// Keeps what is known for the next agent.
    async fn write(&mut self) {
        let (path, record) = (self.shared.settings.record.clone(), self.record());
        let before = std::mem::take(&mut self.written);
        let writing = spawn_blocking(move || write_record(path, &record, before));
        let problem = match writing.await {
            Ok(Ok(written)) => {
                self.written = written;
                String::new()
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if !problem.is_empty() && problem != self.write_problem {
            tracing::warn!(
                record = %self.shared.settings.record.display(), %problem,
                "the record of pods cannot be written: an agent that starts without the API server will know less"
            );
        }
        self.write_problem = problem;
    }

    fn record(&self) -> Record {
        let cluster = self.shared.cluster.read();
        let recorded = |pod: &Arc<Pod>| RecordedPod { pod: (**pod).clone(), netns: self.locations.record(&pod.uid) };
        let settings = &self.shared.settings;
        let namespaces = cluster.namespaces().cloned().collect();
        let pods = cluster.pods().chain(cluster.leaving()).map(recorded).collect();
        Record::new(&settings.node, &settings.boot, namespaces, pods)
    }
}

fn note<K>(health: &mut Health, heard: &Heard<K>) {
    match heard {
        Heard::Well => health.well(),
        Heard::Failed(failure) => health.failed(failure.clone()),
        _ => {}
    }
}

/// Writes a record unless it is what was written before; what is in the file then.
fn write_record(path: PathBuf, record: &Record, before: Vec<u8>) -> io::Result<Vec<u8>> {
    let text = record.to_text().map_err(io::Error::other)?;
    if text != before {
        // Nobody else has to know who runs here.
        put_private(&path, &text)?;
    }
    Ok(text)
}

fn spec(pod: &Pod, mut netns: PodNetns) -> PodSpec {
    if let PodNetns::Unknown(reason) | PodNetns::Absent(reason) = &mut netns
        && reason.cause == Cause::NotBegun
        && pod.begun
    {
        // The kubelet did its part: if this lasts, it is not looked for in the right place.
        reason.cause = Cause::Starting;
    }
    PodSpec {
        uid: pod.uid.clone(),
        name: pod.name.clone(),
        namespace: pod.namespace.clone(),
        service_account: pod.service_account.clone(),
        netns,
        labels: pod.labels.clone(),
        annotations: pod.annotations.clone(),
        probe_ports: pod.probe_ports.clone(),
        problem: None,
    }
}

fn passed_over(pod: &Pod, reason: String) -> PassedOver {
    PassedOver {
        uid: pod.uid.clone(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        reason,
        ended: pod.finished,
    }
}
