//! What workers are told once something else is in force, one after the other.

use std::sync::{Arc, Weak};

use crate::{
    config::{cluster::Cluster, listener::Listener},
    intake::{bound::BoundListener, listening::Listening},
    queue::Queue,
    view::ViewId,
    worker::Teller,
};

/// Something to tell workers.
#[derive(Debug)]
pub(super) enum Act {
    /// Accept from these sockets.
    Open(ViewId, Arc<Listener>, Vec<BoundListener>),
    /// Accept no more.
    Close(ViewId, Arc<str>),
    /// Let go of connections.
    Unpool(Weak<Cluster>),
}

/// Tells workers, for ever.
pub(super) async fn tell(acts: Queue<Act>, listening: Arc<Listening>) {
    let workers: Teller = listening.teller().clone();
    loop {
        let done = match acts.take().await {
            Act::Open(view, listener, bound) => listening.open(view, &listener, bound).await,
            Act::Close(view, name) => {
                listening.close(view, &name).await;
                Ok(())
            }
            Act::Unpool(cluster) => {
                workers.unpool(&cluster).await;
                Ok(())
            }
        };
        if let Err(error) = done {
            tracing::error!(%error, "a listener does not accept");
        }
    }
}
