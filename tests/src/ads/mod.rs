//! A scripted management server: Envoy's discovery services, aggregated and of one type each, in both protocols, over TCP,
//! TLS or a Unix socket. It serves what it is given, does wrong when it is told to, and remembers what it was told.
//!
//! A test drives [`Ads`]; by hand there is `cargo run -p weir-tests --bin ads -- DIR` ([`directory`]).

pub mod directory;
mod event;
pub mod recorded;
mod serve;
pub mod world;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use bytes::Bytes;
use prost::Message;
use prost_types::Any;
use socket2::{Domain, Socket, Type};
use tokio::sync::oneshot;
use tonic::{Code, Status};
use weir_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};

pub use self::event::{Event, Seen};
use self::{
    serve::{Outgoing, Shared, State},
    world::World,
};
use crate::poll::wait_for;

/// How long a test waits for what must come: machines are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Listen {
    /// TCP; port 0 is any that is free.
    Tcp(SocketAddr),
    /// TCP with TLS.
    Tls(SocketAddr, Arc<rustls::ServerConfig>),
    /// A Unix socket.
    Pipe(PathBuf),
}

impl Listen {
    /// Any port of 127.0.0.1.
    pub fn anywhere() -> Self {
        Self::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))
    }
}

/// A server that runs as long as this is kept.
pub struct Ads {
    shared: Arc<Shared>,
    listen: Listen,
    address: Option<SocketAddr>,
    /// Keeps the port for this server while it does not listen: bound, and nothing else.
    _reserved: Option<Socket>,
    /// Ends the thread that serves; none: nobody listens.
    serving: Option<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
}

impl Ads {
    /// Starts one that has nothing yet.
    pub fn start(listen: Listen) -> io::Result<Self> {
        let (mut listen, mut reserved, mut address) = (listen, None, None);
        if let Listen::Tcp(wanted) | Listen::Tls(wanted, _) = &mut listen {
            let socket = Socket::new(Domain::for_address(*wanted), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&(*wanted).into())?;
            *wanted = socket.local_addr()?.as_socket().unwrap_or(*wanted);
            (reserved, address) = (Some(socket), Some(*wanted));
        }
        let mut ads = Self { shared: Arc::default(), listen, address, _reserved: reserved, serving: None };
        ads.listen()?;
        Ok(ads)
    }

    /// The TCP address that it listens on, or would.
    pub fn address(&self) -> SocketAddr {
        self.address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Listens again, at the same place.
    pub fn listen(&mut self) -> io::Result<()> {
        if self.serving.is_some() {
            return Ok(());
        }
        let listen = self.listen.clone();
        let (stop, stopped) = oneshot::channel();
        let (bound, listening) = mpsc::channel();
        let shared = self.shared.clone();
        let thread = thread::spawn(move || {
            let serving = async {
                let listener = match serve::bind(listen).await {
                    Ok(listener) => listener,
                    Err(error) => {
                        let _ = bound.send(Err(error));
                        return;
                    }
                };
                let _ = bound.send(Ok(()));
                tokio::select! {
                    _ = stopped => {}
                    () = serve::serve(listener, shared) => {}
                }
            };
            // Ends with its connections.
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(serving),
                Err(error) => eprintln!("no runtime for the management server: {error}"),
            }
        });
        listening.recv().map_err(io::Error::other)??;
        self.serving = Some((stop, thread));
        Ok(())
    }

    /// Listens no more and ends every connection, as a server that is killed: connections are refused.
    pub fn stop(&mut self) {
        let Some((stop, thread)) = self.serving.take() else { return };
        let _ = stop.send(());
        let _ = thread.join();
        self.shared.state().end_all("stopped");
    }

    /// Forgets what streams and versions there were, and calls versions otherwise: another server in its place.
    pub fn restart(&mut self, prefix: &str) -> io::Result<()> {
        self.stop();
        self.change(|world| prefix.clone_into(&mut world.prefix));
        self.listen()
    }

    /// Changes what it has, and sends each stream what it wants of that.
    pub fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let mut state = self.shared.state();
        let done = change(&mut state.world);
        state.push();
        done
    }

    /// Changes what a node has of its own, instead of what all have, and sends it what it wants of that.
    pub fn change_of<T>(&self, node: &str, change: impl FnOnce(&mut World) -> T) -> T {
        let mut state = self.shared.state();
        let done = change(state.of_nodes.entry(node.to_owned()).or_default());
        state.push();
        done
    }

    /// Adds or replaces resources that a node has of its own, at once.
    pub fn put_of(&self, node: &str, resources: impl IntoIterator<Item = Any>) {
        self.change_of(node, |world| {
            for resource in resources {
                let name = world::name_of(&resource).unwrap_or_default();
                world.put(&name, resource);
            }
        });
    }

    /// The open streams of a node, by their numbers.
    pub fn streams_of(&self, node: &str) -> Vec<u64> {
        let state = self.shared.state();
        state.streams.iter().filter(|(_, stream)| stream.node == node).map(|(number, _)| *number).collect()
    }

    /// Adds or replaces resources, at once.
    pub fn put(&self, resources: impl IntoIterator<Item = Any>) {
        self.change(|world| {
            for resource in resources {
                let name = world::name_of(&resource).unwrap_or_default();
                world.put(&name, resource);
            }
        });
    }

    /// Adds or replaces resources by these names, at once.
    pub fn put_named(&self, resources: impl IntoIterator<Item = (String, Any)>) {
        self.change(|world| resources.into_iter().for_each(|(name, resource)| world.put(&name, resource)));
    }

    /// Takes one away, by the abbreviation of its type (`cds`).
    pub fn remove(&self, kind: &str, name: &str) {
        self.change(|world| world.remove(world::type_url(kind), name));
    }

    /// Has exactly these.
    pub fn replace(&self, resources: impl IntoIterator<Item = Any>) {
        let named = resources.into_iter().map(|resource| {
            let name = world::name_of(&resource).unwrap_or_default();
            ((resource.type_url.clone(), name), resource)
        });
        let named: BTreeMap<_, _> = named.collect();
        self.change(|world| world.replace(named));
    }

    /// From now on, what is sent is sent so much later.
    pub fn delay(&self, delay: Duration) {
        self.shared.state().delay = delay;
    }

    /// Requests are heard and not answered, and changes are not sent.
    pub fn mute(&self, mute: bool) {
        self.shared.state().mute = mute;
    }

    /// Requests of a type are heard and not answered; a change later on is sent.
    pub fn withhold(&self, kind: &str, withhold: bool) {
        self.shared.state().withhold = withhold.then(|| world::type_url(kind).to_owned());
    }

    /// New streams are refused, with a status; none: they are welcome.
    pub fn refuse(&self, status: Option<(Code, &str)>) {
        self.shared.state().refuse = status.map(|(code, message)| Status::new(code, message));
    }

    /// Ends every stream, with a status.
    pub fn drop_streams(&self, code: Code, message: &str) {
        self.shared.state().end(&Status::new(code, message));
    }

    /// Sends a message of these bytes, whatever they are, to every stream.
    pub fn send_raw(&self, message: impl Into<Bytes>) {
        let message = message.into();
        self.shared.state().send_all(|_| Outgoing::Message(message.clone()));
    }

    /// Sends a response to every stream that has asked for its type, whatever it has.
    pub fn send(&self, sotw: &DiscoveryResponse, delta: &DeltaDiscoveryResponse) {
        let (sotw, delta) = (Bytes::from(sotw.encode_to_vec()), Bytes::from(delta.encode_to_vec()));
        self.shared.state().send_all(|is_delta| Outgoing::Message(if is_delta { delta.clone() } else { sotw.clone() }));
    }

    /// Sends a type's resources again, so many times as there is room for.
    pub fn flood(&self, kind: &str, times: usize) {
        for _ in 0..times {
            self.change(|world| world.touch(world::type_url(kind)));
        }
    }

    /// What was seen so far.
    pub fn events(&self) -> Vec<Event> {
        self.shared.state().events.clone()
    }

    /// How much was seen so far: where [`wait_after`](Self::wait_after) goes on.
    pub fn mark(&self) -> usize {
        self.shared.state().events.len()
    }

    /// Whether there was such an event after a [`mark`](Self::mark).
    pub fn has_seen(&self, mark: usize, wanted: impl Fn(&Event) -> bool) -> bool {
        self.shared.state().events.get(mark..).unwrap_or_default().iter().any(wanted)
    }

    /// Waits for an event, however long ago.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        self.wait_after(0, what, wanted)
    }

    /// Waits for an event after a [`mark`](Self::mark).
    pub fn wait_after(&self, mark: usize, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        wait_for(what, PATIENCE, || {
            let events = self.events();
            let after = events.get(mark..).unwrap_or_default();
            after.iter().find(|event| wanted(event)).cloned().ok_or_else(|| after.to_vec())
        })
    }

    /// Waits until a type's current version is acknowledged, by whichever stream.
    pub fn wait_ack(&self, kind: &str) -> Event {
        let version = self.shared.state().world.version_of(world::type_url(kind));
        self.wait(&format!("acknowledgement of {kind} {version}"), |event| {
            event.kind == kind && matches!(&event.seen, Seen::Ack { version: acked } if *acked == version)
        })
    }

    /// Waits until something of a type is rejected; gives the reason.
    pub fn wait_nack_after(&self, mark: usize, kind: &str) -> String {
        let rejected = |event: &Event| event.kind == kind && matches!(event.seen, Seen::Nack { .. });
        match self.wait_after(mark, &format!("rejection of {kind}"), rejected).seen {
            Seen::Nack { error, .. } => error,
            other => format!("{other:?}"),
        }
    }

    /// What the open streams subscribe to, by their numbers.
    pub fn subscriptions(&self) -> BTreeMap<u64, BTreeMap<String, Vec<String>>> {
        self.shared.state().subscriptions()
    }

    /// Every event is also written as a line of JSON.
    pub fn log(&self, log: impl io::Write + Send + 'static) {
        self.shared.state().log = Some(Box::new(log));
    }
}

impl Drop for Ads {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn subscriptions(&self) -> BTreeMap<u64, BTreeMap<String, Vec<String>>> {
        self.streams.iter().map(|(number, stream)| (*number, stream.subscriber.wanted())).collect()
    }
}
