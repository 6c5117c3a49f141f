//! Upstream connections, secured as their cluster says.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use super::{client::Asked, session::PeerTls};
use crate::{
    config::tls::Transport,
    telemetry::stats::Shard,
    wire::{
        dial::{ConnectError, Dialer},
        io::Io,
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

/// Connects and shakes hands, all within `timeout`.
pub async fn connect(
    dialer: &Dialer,
    to: SocketAddr,
    timeout: Duration,
    transport: &Transport,
    asked: Asked<'_>,
    shard: &Shard,
) -> Result<Secured, ConnectError> {
    match transport {
        Transport::Plain => Ok(Secured { io: Io::Tcp(dialer.connect(to, timeout).await?), tls: None }),
        Transport::Tls(tls) => {
            let began = tokio::time::Instant::now();
            let tcp = dialer.connect(to, timeout).await?;
            let loaded = tls.current().clone();
            let shaken = tokio::time::timeout_at(began + timeout, loaded.context.connect(tcp, asked));
            match shaken.await {
                Ok(Ok((io, session))) => {
                    tls.stats.established(shard, &session);
                    Ok(Secured { io, tls: Some(Rc::new(session)) })
                }
                Ok(Err(failure)) => {
                    tls.stats.failed(shard, &failure);
                    Err(ConnectError::Tls(failure.reason()))
                }
                Err(_) => Err(ConnectError::Timeout),
            }
        }
    }
}
