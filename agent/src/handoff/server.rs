//! The socket that proxies dial.

use std::{path::Path, sync::Arc, time::Duration};

use nix::sys::socket::SockType;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{Event, ProxyId, UpstreamSockets, channel::Channel, connection};
use crate::unix::{self, Access};

/// After a failed accept, which mostly means that file descriptors ran out.
const PAUSE: Duration = Duration::from_millis(100);
/// Proxies at a time: those of two pods, each with the connection that it is about to lose.
const CONNECTIONS: usize = 4;
/// Of these, of one process: a proxy has one. One that is not what it was must not keep the others out.
const CONNECTIONS_OF_ONE: usize = 2;

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
        let mut served: Vec<(i32, JoinHandle<()>)> = Vec::new();
        loop {
            let connection = tokio::select! {
                connection = self.listener.accept() => connection.and_then(Channel::new),
                () = events.closed() => return,
            };
            match connection {
                Ok(channel) => {
                    served.retain(|(_, connection)| !connection.is_finished());
                    let pid = unix::peer(&channel.socket()).pid;
                    if !has_place(pid, served.iter().map(|(pid, _)| *pid)) {
                        tracing::warn!(pid, open = served.len(), "too many connections of proxies; this one is closed");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                    accepted += 1;
                    let (id, events, sockets) = (ProxyId(accepted), events.clone(), sockets.clone());
                    let connection = tokio::spawn(async move {
                        let ended = connection::serve(id, channel, events, sockets).await;
                        tracing::info!(proxy = id.0, reason = %ended, "connection to a proxy ended");
                    });
                    served.push((pid, connection));
                }
                Err(error) => {
                    tracing::error!(%error, "cannot accept a proxy");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Whether a process may connect, beside those of the processes that are connected.
fn has_place(pid: i32, connected: impl Iterator<Item = i32> + Clone) -> bool {
    connected.clone().count() < CONNECTIONS && connected.filter(|other| *other == pid).count() < CONNECTIONS_OF_ONE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_proxy_cannot_keep_another_out() {
        for (pid, connected, expected) in
            [(1, &[][..], true), (1, &[1], true), (1, &[1, 1], false), (2, &[1, 1], true), (5, &[1, 2, 3, 4], false)]
        {
            assert_eq!(has_place(pid, connected.iter().copied()), expected, "{pid} beside {connected:?}");
        }
    }
}
