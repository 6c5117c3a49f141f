//! Answers the CNI plugin.
//!
//! A connection for each call. Any number are served at the same time; while they wait for the reconciler they cost
//! nothing. When the server is dropped, connections end without an answer and the plugins ask whoever comes next.

use std::{
    fs::File,
    future::Future,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::SockType;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use weir_cni::protocol::{Answer, Command, Request, Verdict, packet};

use crate::{
    enroll::Outcomes,
    handoff::channel::{Channel, Packet},
    locate::Locator,
    netns::{self, Identity, Netns},
    sources::kubernetes,
    unix::{self, Access},
};

pub use crate::sources::kubernetes::Admission;

/// How long a pod is waited for, if the plugin waits so long. The rest of its time is for telling it why not.
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// How long a plugin may take to say what it wants, and to hear the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// After a failed accept, which mostly means that file descriptors ran out.
const PAUSE: Duration = Duration::from_millis(100);

/// Knows which pods are to be enrolled.
pub trait Admit: Send + Sync + 'static {
    /// Whether a pod is to be enrolled before it starts.
    fn admit(&self, uid: &str, namespace: &str, name: &str) -> impl Future<Output = Admission> + Send;
}

impl Admit for kubernetes::Handle {
    async fn admit(&self, uid: &str, namespace: &str, name: &str) -> Admission {
        kubernetes::Handle::admit(self, uid, namespace, name).await
    }
}

/// What answers go by.
#[derive(Debug)]
pub struct Answers<A> {
    /// Who is to be enrolled.
    pub pods: A,
    /// Is told of sandboxes.
    pub locator: Arc<Locator>,
    /// Who is redirected.
    pub outcomes: Outcomes,
}

/// Accepts plugins.
#[derive(Debug)]
pub struct Server {
    listener: Channel,
}

impl Server {
    /// Makes the socket, for root only, in the place of one that an earlier agent left.
    pub fn bind(path: &Path) -> Result<Self, unix::Error> {
        let listener = unix::listen_at("cni.socket", path, SockType::SeqPacket, Access::Owner)?;
        let failed = |source| unix::Error::Make { key: "cni.socket", action: "poll", path: path.to_owned(), source };
        Ok(Self { listener: Channel::new(listener).map_err(failed)? })
    }

    /// Serves plugins until it is dropped.
    pub async fn run<A: Admit>(self, answers: Answers<A>) {
        let answers = Arc::new(answers);
        let mut calls = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted.and_then(Channel::new),
                Some(_) = calls.join_next(), if !calls.is_empty() => continue,
            };
            match accepted {
                Ok(channel) => {
                    let answers = answers.clone();
                    calls.spawn(async move { answers.serve(&channel).await });
                }
                Err(error) => {
                    tracing::error!(%error, "cannot accept a CNI call");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

impl<A: Admit> Answers<A> {
    async fn serve(&self, channel: &Channel) {
        let packet = match timeout(PATIENCE, channel.receive()).await {
            Ok(Ok(Some(packet))) => packet,
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(error)) => return tracing::warn!(%error, "a CNI call could not be received"),
        };
        let Packet { bytes, mut fds } = packet;
        let answer = match serde_json::from_slice::<Request>(&bytes) {
            Ok(request) => {
                let netns = fds.pop().map(|fd| file(fd, &request.netns));
                let answer = self.answer(&request, netns, channel).await;
                let pod = format!("{}/{}", request.namespace, request.name);
                tracing::debug!(
                    %pod, command = ?request.command, container = request.container_id, verdict = ?answer.verdict,
                    reason = answer.reason, "CNI call answered"
                );
                if request.command == Command::Add && answer.verdict == Verdict::Unsure {
                    let reason = &answer.reason;
                    tracing::warn!(%pod, reason, "a pod may start before it is enrolled: it cannot be told whether to hold it");
                }
                answer
            }
            Err(error) => Answer::new(Verdict::Unsure, format!("the request is not understood: {error}")),
        };
        // A plugin that was killed needs none.
        let _ = send(channel, &answer).await;
    }

    async fn answer(&self, request: &Request, netns: Option<Result<Netns, netns::Error>>, channel: &Channel) -> Answer {
        match request.command {
            Command::Add => self.add(request, netns, channel).await,
            Command::Del => {
                self.locator.release(&request.container_id);
                Answer::new(Verdict::Pass, "")
            }
            Command::Check => self.check(request, netns).await,
            Command::Other => Answer::new(Verdict::Unsure, "the request is not known to this version of weir"),
        }
    }

    async fn add(&self, request: &Request, netns: Option<Result<Netns, netns::Error>>, channel: &Channel) -> Answer {
        let start = Instant::now();
        let Request { uid, container_id, namespace, name, .. } = request;
        let pod = format!("{namespace}/{name}");
        match self.admission(request).await {
            Admission::Enroll => {}
            Admission::Pass(reason) => return Answer::new(Verdict::Pass, reason),
            Admission::Unknown(reason) => return Answer::new(Verdict::Unsure, reason),
            Admission::Unreached(reason) => {
                // Told to wait, the plugin does not go by its list, and asks again.
                let _ = send(channel, &Answer::new(Verdict::Wait, "")).await;
                tracing::warn!(%pod, uid, container = container_id, %reason, "pod held");
                return Answer::new(Verdict::Unsure, reason);
            }
        }
        let opened = netns.unwrap_or_else(|| Netns::open(Path::new(&request.netns)));
        let netns = match opened {
            Ok(netns) => Arc::new(netns),
            Err(error) => return Answer::new(Verdict::Refused, error.to_string()),
        };
        let identity = netns.identity();
        self.locator.from_cni(uid, container_id, netns);
        if send(channel, &Answer::new(Verdict::Wait, "")).await.is_err() {
            return Answer::new(Verdict::Refused, "the plugin has gone");
        }
        // The last fifth of the plugin's time is for the way back.
        let wait = (Duration::from_millis(request.wait_ms) * 4 / 5).min(LONGEST_WAIT);
        let redirected = tokio::select! {
            redirected = self.outcomes.redirected(uid, identity, start + wait) => redirected,
            () = gone(channel) => Err("the plugin has gone".to_owned()),
        };
        match redirected {
            Ok(()) => {
                tracing::info!(%pod, uid, container = container_id, waited = ?start.elapsed(), "pod enrolled before it starts");
                Answer::new(Verdict::Enrolled, "")
            }
            Err(reason) => {
                tracing::warn!(%pod, uid, container = container_id, waited = ?start.elapsed(), %reason, "pod held");
                Answer::new(Verdict::Refused, reason)
            }
        }
    }

    async fn check(&self, request: &Request, netns: Option<Result<Netns, netns::Error>>) -> Answer {
        match self.admission(request).await {
            Admission::Enroll => {}
            Admission::Pass(reason) => return Answer::new(Verdict::Pass, reason),
            Admission::Unknown(reason) | Admission::Unreached(reason) => return Answer::new(Verdict::Unsure, reason),
        }
        let opened = netns.unwrap_or_else(|| Netns::open(Path::new(&request.netns)));
        let identity: Identity = match opened {
            Ok(netns) => netns.identity(),
            Err(error) => return Answer::new(Verdict::Refused, error.to_string()),
        };
        match self.outcomes.redirected(&request.uid, identity, Instant::now()).await {
            Ok(()) => Answer::new(Verdict::Enrolled, ""),
            Err(reason) => Answer::new(Verdict::Refused, reason),
        }
    }

    async fn admission(&self, request: &Request) -> Admission {
        if request.uid.is_empty() {
            return Admission::Unknown("the container runtime did not tell the pod's UID (K8S_POD_UID)".to_owned());
        }
        self.pods.admit(&request.uid, &request.namespace, &request.name).await
    }
}

fn file(fd: OwnedFd, path: &str) -> Result<Netns, netns::Error> {
    Netns::from_file(File::from(fd), PathBuf::from(path))
}

async fn send(channel: &Channel, answer: &Answer) -> io::Result<()> {
    match timeout(PATIENCE, channel.send(&packet(answer), &[])).await {
        Ok(sent) => sent,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Waits until the plugin has ended. It has nothing more to say.
async fn gone(channel: &Channel) {
    while let Ok(Some(_)) = channel.receive().await {}
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use tokio::task::{JoinHandle, spawn_blocking};
    use weir_cni::ask::{Asked, NoAnswer};

    use super::*;
    use crate::{enroll::Outcome, locate::Settings, reason::Reason};

    struct Always(Admission);

    impl Admit for Always {
        async fn admit(&self, _uid: &str, _namespace: &str, _name: &str) -> Admission {
            self.0.clone()
        }
    }

    /// A server of which the plugin asks.
    struct Scene {
        directory: tempfile::TempDir,
        locator: Arc<Locator>,
        outcomes: Outcomes,
        serving: JoinHandle<()>,
    }

    fn own_netns() -> Arc<Netns> {
        Arc::new(Netns::open(Path::new("/proc/self/ns/net")).unwrap())
    }

    fn request(command: Command) -> Request {
        Request {
            command,
            container_id: "c1".to_owned(),
            netns: "/run/netns/cni-1".to_owned(),
            uid: "u1".to_owned(),
            namespace: "demo".to_owned(),
            name: "web".to_owned(),
            wait_ms: 10_000,
            ..Request::default()
        }
    }

    impl Scene {
        fn new(admission: Admission) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let node = Netns::identity_at(Path::new("/")).unwrap();
            let locator = Arc::new(Locator::new(Settings::new(directory.path().to_owned(), "/proc".into(), node)));
            let outcomes = Outcomes::default();
            let answers = Answers { pods: Always(admission), locator: locator.clone(), outcomes: outcomes.clone() };
            let server = Server::bind(&directory.path().join("cni.sock")).unwrap();
            let serving = tokio::spawn(server.run(answers));
            Self { directory, locator, outcomes, serving }
        }

        /// Sends a request, with this process's own namespace for the pod's, and gives the last answer.
        fn ask(&self, request: Request) -> JoinHandle<Result<Answer, NoAnswer>> {
            let socket = self.directory.path().join("cni.sock");
            spawn_blocking(move || {
                let deadline = std::time::Instant::now() + Duration::from_secs(60);
                let netns = File::open("/proc/self/ns/net").unwrap();
                let mut asked = Asked::send(&socket, &request, Some(std::os::fd::AsFd::as_fd(&netns)), deadline)?;
                loop {
                    let answer = asked.answer(deadline)?;
                    if answer.verdict != Verdict::Wait {
                        return Ok(answer);
                    }
                }
            })
        }

        async fn answer(&self, request: Request) -> (Verdict, String) {
            let answer = self.ask(request).await.unwrap().unwrap();
            (answer.verdict, answer.reason)
        }

        /// Waits until the plugin's sandbox has been told to the locator.
        async fn told(&self) {
            let mut changed = self.locator.changed();
            while self.locator.container("u1").is_none() {
                changed.changed().await.unwrap();
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_pod_is_waited_for_until_it_is_redirected_in_the_namespace_passed() {
        let scene = Scene::new(Admission::Enroll);
        let asking = scene.ask(request(Command::Add));
        scene.told().await;
        assert_eq!(scene.locator.find("u1").unwrap().identity(), own_netns().identity());
        assert_eq!(scene.locator.container("u1").as_deref(), Some("c1"));
        let elsewhere = Netns::identity_at(Path::new("/")).unwrap();
        scene.outcomes.set("u1", Outcome::Redirected { identity: elsewhere, problem: None });
        tokio::task::yield_now().await;
        assert!(!asking.is_finished());
        scene.outcomes.set("u1", Outcome::Redirected { identity: own_netns().identity(), problem: None });
        assert_eq!(asking.await.unwrap().unwrap().verdict, Verdict::Enrolled);
        assert_eq!(scene.answer(request(Command::Check)).await.0, Verdict::Enrolled);

        assert_eq!(scene.answer(request(Command::Del)).await.0, Verdict::Pass);
        assert!(scene.locator.container("u1").is_none());
        assert_eq!(scene.answer(request(Command::Other)).await.0, Verdict::Unsure);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_pod_that_cannot_be_enrolled_is_refused_with_the_reason() {
        let scene = Scene::new(Admission::Enroll);
        scene.outcomes.set("u1", Outcome::Pending(Reason::owner("the annotation is malformed")));
        let brief = Request { wait_ms: 100, ..request(Command::Add) };
        assert_eq!(scene.answer(brief).await, (Verdict::Refused, "the annotation is malformed".to_owned()));
        let check = scene.answer(request(Command::Check)).await;
        assert_eq!(check, (Verdict::Refused, "the annotation is malformed".to_owned()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn others_pass_and_what_is_not_known_is_said() {
        let scene = Scene::new(Admission::Pass("not labelled".to_owned()));
        let passed = scene.answer(request(Command::Add)).await;
        assert_eq!(passed, (Verdict::Pass, "not labelled".to_owned()));
        assert!(scene.locator.container("u1").is_none());
        let nameless = Request { uid: String::new(), ..request(Command::Add) };
        let unsure = "the container runtime did not tell the pod's UID (K8S_POD_UID)";
        assert_eq!(scene.answer(nameless).await, (Verdict::Unsure, unsure.to_owned()));
        let scene = Scene::new(Admission::Unknown("the API server is away".to_owned()));
        let unsure = scene.answer(request(Command::Add)).await;
        assert_eq!(unsure, (Verdict::Unsure, "the API server is away".to_owned()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn while_the_api_server_cannot_be_asked_the_plugin_waits() {
        let scene = Scene::new(Admission::Unreached("connection refused".to_owned()));
        let socket = scene.directory.path().join("cni.sock");
        let asking = spawn_blocking(move || {
            let deadline = std::time::Instant::now() + Duration::from_secs(60);
            let mut asked = Asked::send(&socket, &request(Command::Add), None, deadline).unwrap();
            [asked.answer(deadline).unwrap(), asked.answer(deadline).unwrap()]
        });
        let [first, second] = asking.await.unwrap();
        assert_eq!((first.verdict, second.verdict), (Verdict::Wait, Verdict::Unsure));
        assert_eq!(second.reason, "connection refused");
        assert_eq!(scene.answer(request(Command::Check)).await.0, Verdict::Unsure);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_hundred_pods_wait_at_the_same_time() {
        let scene = Scene::new(Admission::Enroll);
        let asking: Vec<_> = (0..200)
            .map(|number| {
                let (uid, container_id) = (format!("u{number}"), format!("c{number}"));
                scene.ask(Request { uid, container_id, ..request(Command::Add) })
            })
            .collect();
        let identity = own_netns().identity();
        for number in 0..200 {
            scene.outcomes.set(&format!("u{number}"), Outcome::Redirected { identity, problem: None });
        }
        for asking in asking {
            assert_eq!(asking.await.unwrap().unwrap().verdict, Verdict::Enrolled);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn when_the_server_goes_its_calls_end_without_an_answer_and_the_next_one_takes_the_socket() {
        let scene = Scene::new(Admission::Enroll);
        let asking = scene.ask(request(Command::Add));
        scene.told().await;
        scene.serving.abort();
        assert_eq!(asking.await.unwrap().unwrap_err(), NoAnswer::Ended);
        let socket = scene.directory.path().join("cni.sock");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let unreachable = scene.ask(request(Command::Add)).await.unwrap().unwrap_err();
        assert!(matches!(unreachable, NoAnswer::Unreachable(_)), "{unreachable}");
        Server::bind(&socket).unwrap();
    }
}
