//! Which pods' addresses may have changed.

use std::{collections::HashMap, time::Duration};

use tokio::{sync::mpsc, task::AbortHandle, time::sleep};

use crate::netns::AddressChanges;

/// Changes not looked at yet; whoever has more to tell waits.
const QUEUE: usize = 64;
/// Changes of a pod come together, and a pod that changes its addresses all the time must not keep the agent busy.
const SETTLING: Duration = Duration::from_secs(1);

/// Follows the addresses of the enrolled pods.
#[derive(Debug)]
pub(super) struct Addresses {
    following: HashMap<String, Following>,
    sender: mpsc::Sender<String>,
    changed: mpsc::Receiver<String>,
}

#[derive(Debug)]
struct Following(AbortHandle);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Default for Addresses {
    fn default() -> Self {
        let (sender, changed) = mpsc::channel(QUEUE);
        Self { following: HashMap::new(), sender, changed }
    }
}

impl Addresses {
    /// Follows a pod's, until it is forgotten.
    pub(super) fn follow(&mut self, uid: &str, changes: AddressChanges) {
        let (sender, pod) = (self.sender.clone(), uid.to_owned());
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = changes.next().await {
                    tracing::warn!(uid = pod, %error, "a pod's addresses are not followed any more");
                    return;
                }
                if sender.send(pod.clone()).await.is_err() {
                    return;
                }
                sleep(SETTLING).await;
            }
        });
        self.following.insert(uid.to_owned(), Following(task.abort_handle()));
    }

    /// Tells of a pod once more, a little later.
    pub(super) fn again(&self, uid: &str) {
        let (sender, pod) = (self.sender.clone(), uid.to_owned());
        tokio::spawn(async move {
            sleep(SETTLING).await;
            let _ = sender.send(pod).await;
        });
    }

    /// Lets a pod go, and with it what holds its namespace.
    pub(super) fn forget(&mut self, uid: &str) {
        self.following.remove(uid);
    }

    /// The next pod whose addresses may have changed.
    pub(super) async fn changed(&mut self) -> Option<String> {
        self.changed.recv().await
    }
}
