//! An API server of the tests' own: what an agent uses of a real one, over real HTTP, and every way in which it fails.
//!
//! Lists with pages, watches with resource versions, bookmarks and expiry, reads of one object, and events that are
//! written. A test changes the objects, scripts failures ([`Fault`]), stops the server and lets it come back, and asks
//! what was requested of it.

mod objects;
mod respond;
mod state;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    task::{JoinHandle, JoinSet},
};

pub use objects::{PodObject, namespace, node};
use state::State;

/// Objects that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// `v1 Pod`.
    Pods,
    /// `v1 Namespace`.
    Namespaces,
    /// `v1 Node`.
    Nodes,
    /// `events.k8s.io/v1 Event`.
    Events,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// GET of a collection.
    List,
    /// GET of a collection with `watch=true`.
    Watch,
    /// GET of one object.
    Get,
    /// POST.
    Create,
    /// PATCH.
    Patch,
}

/// A way to fail, for one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status code, with `Retry-After`.
    Status(u16, Option<u64>),
    /// A page that is not JSON, with status 200.
    Html,
    /// No answer for so long.
    Slow(Duration),
    /// No answer at all.
    Silent,
    /// The connection ends in the middle of the answer: of a watch, within the next event.
    Cut,
    /// Of a watch: an ERROR event with this code.
    ErrorEvent(u16),
    /// Of a watch: a line that is no event.
    Garbage,
    /// Of a watch: it ends at once.
    Ended,
}

/// A request that was made.
#[derive(Clone, Debug)]
pub struct Request {
    /// Of what.
    pub resource: Resource,
    /// What was asked.
    pub verb: Verb,
    /// The whole path.
    pub path: String,
    /// The query.
    pub query: BTreeMap<String, String>,
    /// What the client accepts.
    pub accept: String,
}

/// A running API server; it ends when dropped.
#[derive(Debug)]
pub struct ApiServer {
    state: Arc<State>,
    address: SocketAddr,
    serving: Option<JoinHandle<()>>,
    runtime: Option<Runtime>,
}

impl ApiServer {
    /// Starts one on a port that nothing else has, on this host's loopback.
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("apiserver")
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port of this host");
        let address = listener.local_addr().expect("a bound address");
        let state = Arc::new(State::default());
        let serving = Some(runtime.spawn(serve(listener, state.clone())));
        Self { state, address, serving, runtime: Some(runtime) }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Writes a kubeconfig for it.
    pub fn kubeconfig(&self, directory: &Path) -> PathBuf {
        let path = directory.join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n\
             clusters: [{{name: test, cluster: {{server: '{}'}}}}]\nusers: [{{name: test, user: {{token: t}}}}]\n",
            self.url()
        );
        std::fs::write(&path, text).expect("a file of this test");
        path
    }

    /// Goes away: nothing listens, and every connection is cut.
    pub fn stop(&mut self) {
        let (Some(runtime), Some(serving)) = (&self.runtime, self.serving.take()) else { return };
        serving.abort();
        let _ = runtime.block_on(serving);
    }

    /// Comes back at the same address, with the objects as they are by now.
    pub fn resume(&mut self) {
        let Some(runtime) = self.runtime.as_ref().filter(|_| self.serving.is_none()) else { return };
        let listener = runtime.block_on(TcpListener::bind(self.address)).expect("the port that was this server's");
        self.serving = Some(runtime.spawn(serve(listener, self.state.clone())));
    }

    /// Makes an object, or changes the one of its name. Gives its new version.
    pub fn put(&self, object: impl Into<Value>) -> u64 {
        self.state.put(object.into())
    }

    /// Deletes an object; `name` is `namespace/name` for pods.
    #[track_caller]
    pub fn delete(&self, resource: Resource, name: &str) {
        assert!(self.state.delete(resource, name), "there is no {name} among {resource:?}");
    }

    /// Sends a bookmark to every watch.
    pub fn bookmark(&self) {
        self.state.bookmark();
    }

    /// Forgets what happened: no version from before can be watched from.
    pub fn expire(&self) {
        self.state.expire();
    }

    /// Lets the next requests fail, one each.
    pub fn fail(&self, resource: Resource, verb: Verb, faults: impl IntoIterator<Item = Fault>) {
        self.state.fail(resource, verb, faults);
    }

    /// Faults that nothing met yet.
    pub fn faults_left(&self) -> usize {
        self.state.faults_left()
    }

    /// Ends every watch, as a server does now and then.
    pub fn end_watches(&self) {
        self.state.end_watches();
    }

    /// What was requested so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state.requests()
    }

    /// Requests of a kind so far.
    pub fn count(&self, resource: Resource, verb: Verb) -> usize {
        self.requests().iter().filter(|request| (request.resource, request.verb) == (resource, verb)).count()
    }

    /// Watches that are open now.
    pub fn watches(&self, resource: Resource) -> usize {
        self.state.watches(resource)
    }

    /// The most watches that were ever open at a time.
    pub fn most_watches(&self, resource: Resource) -> usize {
        self.state.most_watches(resource)
    }

    /// Events that were written, as they are now.
    pub fn events(&self) -> Vec<Value> {
        self.state.all(Resource::Events)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A test may be asynchronous itself: a runtime must not wait inside another.
            let _ = thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(5))).join();
        }
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    // Dropped with this task: every connection ends.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let state = state.clone();
        let service = hyper::service::service_fn(move |request| respond::respond(state.clone(), request));
        connections.spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}
