//! Answers to NeedSockets, each by a task of its own: a pod that is not known yet, or a slow namespace, holds up no other
//! pod's sockets and nothing else that the proxy says.
//!
//! A proxy that is not what it was may ask for as many as it likes: what is made and not sent yet is bounded, because
//! file descriptors are the agent's.

use std::{collections::HashSet, os::fd::OwnedFd, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use weir_abi::map::MAX_PODS;
use weir_proto::handoff::v1 as handoff;

use super::{
    UpstreamSockets,
    proxy::WeakProxy,
    question::{Asked, InFlight, Question},
};
use crate::netns::Family;

/// The most upstream sockets in one answer.
const MAX_SOCKETS: u32 = 128;
/// Questions that one proxy may have open: one for each pod and family.
const ASKED: usize = 2 * MAX_PODS as usize;
/// Answers to one proxy that are made and not sent: each takes a thread while it is made, and then its sockets.
const MADE: usize = 8;
/// The longest UID of a pod; Kubernetes' have 36.
const UID_BYTES: usize = 255;

/// Answers one proxy.
#[derive(Clone)]
pub(super) struct Needs {
    proxy: WeakProxy,
    sockets: Arc<dyn UpstreamSockets>,
    asked: Arc<Mutex<HashSet<Question>>>,
    made: Arc<Semaphore>,
    stuck: CancellationToken,
}

impl Needs {
    /// `stuck` is told when the proxy takes no answers.
    pub fn new(proxy: WeakProxy, sockets: Arc<dyn UpstreamSockets>, stuck: CancellationToken) -> Self {
        Self { proxy, sockets, asked: Arc::default(), made: Arc::new(Semaphore::new(MADE)), stuck }
    }

    /// Sees to an answer. A question that is asked again before it is answered has one answer: it names the pod and the
    /// family, not the question. False: the proxy asks for more than it can use.
    pub fn answer(&self, need: handoff::NeedSockets) -> bool {
        let question = (need.uid.clone(), need.family);
        {
            let mut asked = self.asked.lock();
            if asked.contains(&question) {
                return true;
            }
            if asked.len() >= ASKED || need.uid.len() > UID_BYTES {
                return false;
            }
            asked.insert(question.clone());
        }
        let asked = Asked { question, of: self.asked.clone() };
        let needs = self.clone();
        tokio::spawn(async move {
            needs.sockets.known(&need.uid).await;
            let Ok(made) = needs.made.clone().acquire_owned().await else { return };
            let (answer, fds) = make(need, needs.sockets.clone()).await;
            // Without the proxy nobody waits.
            let Some(proxy) = needs.proxy.upgrade() else { return };
            if proxy.answer(answer, fds, InFlight { _asked: asked, _made: made }).is_none() {
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
