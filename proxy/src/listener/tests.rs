//! A connection on its way, with a worker and nothing else.

use std::{collections::HashMap, time::Instant};

use arc_swap::ArcSwap;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::*;
use crate::{
    pod::{Pod, PodLocal, passing::Passing, stash::Stash},
    telemetry::stats::Shared,
    view::ViewId,
};

fn pod(stash: Stash) -> Arc<Pod> {
    let local = PodLocal::new(stash, Arc::default(), Passing::never(), Shared::default(), 1);
    Arc::new(Pod {
        uid: "uid".into(),
        name: "pod".into(),
        namespace: "shop".into(),
        view: ViewId::OWN,
        service_account: "default".into(),
        labels: HashMap::new(),
        ips: Vec::new(),
        local: Arc::new(local),
    })
}

#[tokio::test]
async fn a_connection_that_passes_as_it_is_keeps_no_configuration() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = listener.local_addr().unwrap();
    let _client = TcpStream::connect(local).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    let (drain, snapshot) = (Drain::new(), Arc::new(ArcSwap::default()));
    let worker = Rc::new(Worker::with(0, snapshot.clone(), drain.watch()));
    // It waits for a socket that nobody sends.
    let (needs, _needed) = mpsc::channel(1);
    let origin = Origin::Pod { pod: pod(Stash::new("uid".into(), needs)), direction: Direction::Outbound };
    let downstream = Downstream::new(stream, peer, local, origin, Instant::now(), drain.watch());
    let destination = SocketAddr::from(([192, 0, 2, 1], 80));
    let mut passing = Box::pin(serve(worker, Box::new(Downstream { destination, ..downstream })));
    assert!(futures_util::poll!(passing.as_mut()).is_pending());
    let old = Arc::downgrade(&snapshot.load_full());
    snapshot.store(Arc::default());
    assert!(old.upgrade().is_none());
}
