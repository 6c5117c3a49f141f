//! Upstream connections, secured as their cluster says.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    access_log::{Entry, next_connection},
    config::{
        cluster::{Cluster, Endpoint},
        tls::{MetadataOf, Transport},
    },
    filter_state::FilterState,
    matcher::metadata::{EndpointMetadata, Metadata},
    telemetry::stats::Shard,
    tls::{client::Asked, failure::Failure, session::PeerTls},
    view::ViewId,
    wire::{
        bare::Bare,
        dial::{ConnectError, Dialer},
        io::Io,
        named::{Name, NamedAddress},
        pipe,
        proxy_header::Client,
        race::{self, Preference},
        socket::SocketSettings,
        within::{self, Brought},
    },
};

/// A connection that is ready for use.
#[derive(Debug)]
pub struct Secured {
    /// Its bytes.
    pub io: Io,
    /// What its handshake settled; none: it is bare.
    pub tls: Option<Rc<PeerTls>>,
    /// Its number, and when it was made.
    pub made: Made,
}

/// How a connection came to be, for logs.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// Its number.
    pub number: u64,
    /// When it was begun.
    pub began: Instant,
    /// When it was there.
    pub connected: Instant,
    /// When its handshake was done; none: it is bare.
    pub secured: Option<Instant>,
}

impl Made {
    /// Notes what is known of it.
    pub fn tell(&self, entry: &mut Entry) {
        entry.upstream_connection = self.number;
        entry.timing.connect_began = Some(self.began);
        entry.timing.connected = Some(self.connected);
        entry.timing.upstream_secured = self.secured;
    }
}

/// Where a connection goes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// What it starts from.
    pub dialer: &'a Dialer,
    /// Whose listeners inside of this process it may lead to.
    pub view: ViewId,
    /// The endpoint.
    pub to: SocketAddr,
    /// Further addresses of the same endpoint.
    pub also: &'a [SocketAddr],
    /// Which of them come first.
    pub preference: Preference,
    /// All must be done within, from when there is a socket.
    pub timeout: Duration,
    /// How it is secured.
    pub transport: &'a Transport,
    /// What its TLS asks for.
    pub asked: Asked<'a>,
    /// What its socket is given.
    pub socket: &'a SocketSettings,
    /// Whose connection it is, where the upstream is told; none: the proxy's own.
    pub client: Option<Client>,
    /// What filters keep of it, and share with upstreams inside of this process.
    pub filter_state: Option<&'a FilterState>,
    /// Metadata of the endpoint and of its cluster.
    pub metadata: (Option<&'a EndpointMetadata>, Option<&'a Metadata>),
    /// Where its TLS is counted.
    pub shard: &'a Shard,
}

impl Way<'_> {
    /// Connects and shakes hands.
    pub async fn connect(&self) -> Result<Secured, ConnectError> {
        let named = NamedAddress::of(&self.to);
        if named.is_none() {
            self.dialer.ready(self.to).await?;
        }
        let connection = next_connection();
        tracing::debug!(connection, "connecting to {}", NamedAddress::text(&self.to));
        let secured = tokio::time::timeout(self.timeout, self.secure(connection, named)).await;
        let secured = secured.map_err(|_| ConnectError::Timeout).flatten();
        match &secured {
            Ok(_) => tracing::debug!(connection, "connected"),
            Err(error) => tracing::debug!(connection, %error, "connect error"),
        }
        secured
    }

    async fn dial(&self, named: Option<Arc<NamedAddress>>) -> Result<Bare, ConnectError> {
        let Some(named) = named else { return self.dial_out().await.map(Bare::Tcp) };
        match &named.name {
            Name::Pipe(path) => self.dialer.connect_to_pipe(path).await.map(Bare::Tcp),
            Name::Internal { .. } => {
                Ok(Bare::Within(Box::new(within::connect(self.view, named, self.dialer, self.brought()).await?)))
            }
        }
    }

    /// What an endpoint inside of this process gets to know.
    fn brought(&self) -> Brought {
        let Some(internal) = self.transport.internal() else { return Brought::default() };
        let mut metadata = Metadata::default();
        for (of, name) in &internal.metadata {
            let members = match of {
                MetadataOf::Host => self.metadata.0.and_then(|all| all.get(&**name)?.as_object()),
                MetadataOf::Cluster => self.metadata.1.and_then(|all| all.namespace(name)),
            };
            if let Some(members) = members {
                metadata.merge(name, members.clone());
            }
        }
        Brought {
            metadata: (!metadata.is_empty()).then(|| Box::new(metadata)),
            filter_state: self.filter_state.and_then(FilterState::shared),
        }
    }

    async fn dial_out(&self) -> Result<TcpStream, ConnectError> {
        if self.also.is_empty() {
            return self.dialer.connect(self.to, self.socket).await;
        }
        let addresses: Vec<_> = [self.to].into_iter().chain(self.also.iter().copied()).collect();
        let addresses = race::order(&addresses, self.preference);
        let first = race::first(&addresses, |address| self.dialer.connect(address, self.socket)).await;
        first.unwrap_or(Err(ConnectError::Timeout))
    }

    async fn secure(&self, number: u64, named: Option<Arc<NamedAddress>>) -> Result<Secured, ConnectError> {
        let began = Instant::now();
        let made = |connected, secured| Made { number, began, connected, secured };
        let mut bare = self.dial(named).await?;
        let connected = Instant::now();
        if let Some(header) = self.transport.proxy_header() {
            let own = match bare.tcp() {
                Some(tcp) => {
                    Client { source: pipe::local_address(tcp)?, destination: tcp.peer_addr().unwrap_or(self.to) }
                }
                None => Client { source: NamedAddress::client(), destination: self.to },
            };
            bare.write_all(&header.bytes(self.client, own)).await?;
        }
        let Some(tls) = self.transport.tls() else {
            return Ok(Secured { io: Io::from(bare), tls: None, made: made(connected, None) });
        };
        let Some(loaded) = tls.current() else {
            tls.factory.not_ready(self.shard);
            return Err(ConnectError::Tls(Failure::NoSecret.reason()));
        };
        match loaded.context.connect(bare, self.asked).await {
            Ok((io, session)) => {
                tls.stats().established(self.shard, &session);
                Ok(Secured { io, tls: Some(Rc::new(session)), made: made(connected, Some(Instant::now())) })
            }
            Err(failure) => {
                tls.stats().failed(self.shard, &failure);
                Err(ConnectError::Tls(failure.reason()))
            }
        }
    }
}

impl Cluster {
    /// The way to one of its endpoints.
    pub fn way<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        dialer: &'a Dialer,
        asked: Asked<'a>,
        client: Option<Client>,
        shard: &'a Shard,
    ) -> Way<'a> {
        Way {
            dialer,
            view: self.view,
            to: endpoint.address,
            also: &endpoint.template.additional,
            preference: self.preference,
            timeout: self.connect_timeout,
            transport: self.transports.choose(endpoint.template.metadata.as_deref()),
            asked,
            socket: &self.socket,
            client,
            filter_state: None,
            metadata: (endpoint.template.metadata.as_deref(), self.logged.metadata.as_ref()),
            shard,
        }
    }
}
