//! The socket that proxies dial.

use std::{path::Path, sync::Arc, time::Duration};

use nix::sys::socket::SockType;
use tokio::sync::mpsc;

use super::{Event, ProxyId, UpstreamSockets, channel::Channel, connection};
use crate::unix::{self, Access};

/// After a failed accept, which mostly means that file descriptors ran out.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts proxies.
#[derive(Debug)]
pub struct Server {
    listener: Channel,
}

impl Server {
    /// Makes the socket at `path`, in the place of one that an earlier agent left, for members of `group`. It stays when
    /// the agent ends: proxies dial it until the next agent answers.
    pub fn bind(path: &Path, group: u32) -> Result<Self, unix::Error> {
        const KEY: &str = "paths.handoff";
        let listener = unix::listen_at(KEY, path, SockType::SeqPacket, Access::Group(group))?;
        let failed = |source| unix::Error::Make { key: KEY, action: "poll", path: path.to_owned(), source };
        Ok(Self { listener: Channel::new(listener).map_err(failed)? })
    }

    /// Serves proxies until whoever receives `events` is gone.
    pub async fn run(self, events: mpsc::Sender<Event>, sockets: Arc<dyn UpstreamSockets>) {
        let mut accepted = 0;
        loop {
            let connection = tokio::select! {
                connection = self.listener.accept() => connection.and_then(Channel::new),
                () = events.closed() => return,
            };
            match connection {
                Ok(channel) => {
                    accepted += 1;
                    let (id, events, sockets) = (ProxyId(accepted), events.clone(), sockets.clone());
                    tokio::spawn(async move {
                        let ended = connection::serve(id, channel, events, sockets).await;
                        tracing::info!(proxy = id.0, reason = %ended, "connection to a proxy ended");
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "cannot accept a proxy");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}
