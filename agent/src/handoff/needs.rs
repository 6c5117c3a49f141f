//! Answers to NeedSockets, each by a task of its own: a pod that is not known yet, or a slow namespace, holds up no other
//! pod's sockets and nothing else that the proxy says.

use std::{os::fd::OwnedFd, sync::Arc};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use weir_abi::map::MAX_PODS;
use weir_proto::handoff::v1::{self as handoff, from_agent};

use super::{UpstreamSockets, connection::WeakProxy};
use crate::netns::Family;

/// The most upstream sockets in one answer.
const MAX_SOCKETS: u32 = 128;
/// Questions that one proxy may have open: one for each pod and family.
const ASKED: usize = 2 * MAX_PODS as usize;
/// Answers that are made at a time for one proxy: each takes a thread while it is.
const MADE: usize = 8;

/// Answers one proxy.
#[derive(Clone)]
pub(super) struct Needs {
    proxy: WeakProxy,
    sockets: Arc<dyn UpstreamSockets>,
    asked: Arc<Semaphore>,
    made: Arc<Semaphore>,
    stuck: CancellationToken,
}

impl Needs {
    /// `stuck` is told when the proxy takes no answers.
    pub fn new(proxy: WeakProxy, sockets: Arc<dyn UpstreamSockets>, stuck: CancellationToken) -> Self {
        let [asked, made] = [ASKED, MADE].map(|permits| Arc::new(Semaphore::new(permits)));
        Self { proxy, sockets, asked, made, stuck }
    }

    /// Sees to an answer. False: the proxy asks for more than it can use.
    pub fn answer(&self, need: handoff::NeedSockets) -> bool {
        let Ok(asked) = self.asked.clone().try_acquire_owned() else { return false };
        let needs = self.clone();
        tokio::spawn(async move {
            let _asked = asked;
            needs.sockets.known(&need.uid).await;
            let _made = needs.made.acquire().await;
            let (answer, fds) = make(need, needs.sockets.clone()).await;
            // Without the proxy nobody waits.
            let Some(proxy) = needs.proxy.upgrade() else { return };
            if proxy.send(from_agent::Message::Sockets(answer), fds).is_none() {
                needs.stuck.cancel();
            }
        });
        true
    }
}

async fn make(need: handoff::NeedSockets, sockets: Arc<dyn UpstreamSockets>) -> (handoff::Sockets, Vec<Arc<OwnedFd>>) {
    let (wire, count) = (need.family(), need.count.min(MAX_SOCKETS));
    let family = match wire {
        handoff::Family::Ipv4 => Some(Family::V4),
        handoff::Family::Ipv6 => Some(Family::V6),
        handoff::Family::Unspecified => None,
    };
    let uid = need.uid.clone();
    let made = match family {
        None => Err(format!("{} is not a family", need.family)),
        Some(family) => tokio::task::spawn_blocking(move || sockets.make(&uid, family, count))
            .await
            .unwrap_or_else(|error| Err(error.to_string())),
    };
    let (fds, error) = match made {
        Ok(fds) => (fds.into_iter().map(Arc::new).collect(), String::new()),
        Err(error) => {
            tracing::warn!(uid = %need.uid, %error, "no upstream sockets");
            (Vec::new(), error)
        }
    };
    (handoff::Sockets { uid: need.uid, family: wire.into(), error }, fds)
}
