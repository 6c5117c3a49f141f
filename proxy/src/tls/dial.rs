//! Upstream connections, secured as their cluster says.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{client::Asked, session::PeerTls};
use crate::{
    config::{
        cluster::{Cluster, Endpoint},
        tls::Transport,
    },
    telemetry::stats::Shard,
    wire::{
        dial::{ConnectError, Dialer},
        io::Io,
        proxy_header::Client,
        race::{self, Preference},
        socket::SocketSettings,
    },
};

/// A connection that is ready for use.
#[derive(Debug)]
pub struct Secured {
    /// Its bytes.
    pub io: Io,
    /// What its handshake settled; none: it is bare.
    pub tls: Option<Rc<PeerTls>>,
}

/// Where a connection goes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// What it starts from.
    pub dialer: &'a Dialer,
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
    /// Where its TLS is counted.
    pub shard: &'a Shard,
}

impl Way<'_> {
    /// Connects and shakes hands.
    pub async fn connect(&self) -> Result<Secured, ConnectError> {
        self.dialer.ready(self.to).await?;
        tokio::time::timeout(self.timeout, self.secure()).await.map_err(|_| ConnectError::Timeout)?
    }

    async fn dial(&self) -> Result<TcpStream, ConnectError> {
        if self.also.is_empty() {
            return self.dialer.connect(self.to, self.socket).await;
        }
        let addresses: Vec<_> = [self.to].into_iter().chain(self.also.iter().copied()).collect();
        let addresses = race::order(&addresses, self.preference);
        let first = race::first(&addresses, |address| self.dialer.connect(address, self.socket)).await;
        first.unwrap_or(Err(ConnectError::Timeout))
    }

    async fn secure(&self) -> Result<Secured, ConnectError> {
        let mut tcp = self.dial().await?;
        if let Some(header) = self.transport.proxy_header() {
            let own = Client { source: tcp.local_addr()?, destination: tcp.peer_addr()? };
            tcp.write_all(&header.bytes(self.client, own)).await?;
        }
        let Some(tls) = self.transport.tls() else { return Ok(Secured { io: Io::Tcp(tcp), tls: None }) };
        let loaded = tls.current().clone();
        match loaded.context.connect(tcp, self.asked).await {
            Ok((io, session)) => {
                tls.stats.established(self.shard, &session);
                Ok(Secured { io, tls: Some(Rc::new(session)) })
            }
            Err(failure) => {
                tls.stats.failed(self.shard, &failure);
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
            to: endpoint.address,
            also: &endpoint.template.additional,
            preference: self.preference,
            timeout: self.connect_timeout,
            transport: self.transports.choose(endpoint.template.metadata.as_deref()),
            asked,
            socket: &self.socket,
            client,
            shard,
        }
    }
}
