//! Having a view follow what there is to follow.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};

use super::{
    acts,
    descriptors::Descriptors,
    feed::Feed,
    kept::Kept,
    setup::Setup,
    sources::Follow,
    status::Status,
    view::{Around, View},
    wait::Wait,
    way::Way,
};
use crate::{
    config::cell::{Feeder, Registry},
    queue::Queue,
    telemetry::panics,
};

/// What a panic has ended is begun again after, so that a fault that stays leaves time for everything else.
const AGAIN: Duration = Duration::from_secs(1);

/// Follows what there is to follow until told to stop. `names` are those of all views that have one.
pub(super) async fn run(
    setup: Setup,
    status: Arc<Status>,
    initialized: watch::Sender<bool>,
    names: Rc<[Arc<str>]>,
    stop: watch::Receiver<()>,
) {
    let kept = Kept { directory: setup.state_dir.clone(), views: names };
    let served = initialized.subscribe();
    let way = Rc::new(Way::new(&setup));
    let (view, around) = View::new(setup, status, initialized);
    let view = Rc::new(RefCell::new(view));
    let descriptors = Rc::new(Descriptors::default());
    descriptors.keep();
    view.borrow_mut().begin();
    let Around { follow, acts, waits, publish, cells, listening } = around;
    tokio::select! {
        () = again(|| acts::tell(acts.clone(), listening.clone())) => {}
        () = wait(&view, waits) => {}
        () = again(|| publish_when_told(&view, &publish)) => {}
        () = again(|| heed_notes(&view, &cells)) => {}
        () = again(|| descriptors.give_up()) => {}
        () = again(|| kept.tidy(&view, served.clone())) => {}
        // It ends with the last of what it follows, once that has said its last words.
        () = follow_all(&view, &descriptors, way, follow, stop) => {}
    }
}

/// Does something to its end, and begins it again where a panic ends it: what it was about then is lost, nothing else is.
async fn again<F: Future<Output = ()>>(begin: impl Fn() -> F) {
    while panics::caught(begin()).await.is_none() {
        tokio::time::sleep(AGAIN).await;
    }
}

/// Waits on behalf of the view.
async fn wait(view: &Rc<RefCell<View>>, waits: Queue<Wait>) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            wait = waits.take() => {
                let view = view.clone();
                tasks.spawn_local(async move {
                    match wait {
                        // Whoever runs it has given up: what it waited for does not come.
                        Wait::Warm(number, cells, warm) => {
                            cells.settle().await;
                            if let Some(warm) = warm {
                                let _ = warm.await;
                            }
                            view.borrow_mut().warm(number);
                        }
                        Wait::Settled(number, cells) => {
                            cells.settle().await;
                            view.borrow_mut().settled(number);
                        }
                        Wait::Runtime(layers) => {
                            layers.settle().await;
                            view.borrow_mut().begin_clusters();
                        }
                        Wait::Drained(number, after) => {
                            tokio::time::sleep(after).await;
                            view.borrow_mut().drained(number);
                        }
                    }
                });
            }
            Some(done) = tasks.join_next() => {
                if done.is_err() {
                    tracing::error!("a cluster or listener is not waited for to its end, by a fault: it stays what it is");
                }
            }
        }
    }
}

/// Asks for what others have come to want.
async fn heed_notes(view: &Rc<RefCell<View>>, cells: &Registry) {
    loop {
        cells.noted(Feeder::Servers).await;
        view.borrow_mut().heed();
    }
}

/// Puts clusters in force that have become warm meanwhile.
async fn publish_when_told(view: &Rc<RefCell<View>>, publish: &Notify) {
    loop {
        publish.notified().await;
        view.borrow_mut().publish();
    }
}

/// Follows every source that is asked for; returns once all have ended, which is when they are told to stop.
async fn follow_all(
    view: &Rc<RefCell<View>>,
    descriptors: &Rc<Descriptors>,
    way: Rc<Way>,
    follow: Queue<Follow>,
    mut stop: watch::Receiver<()>,
) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            follow = follow.take() => {
                let (way, stop) = (way.clone(), stop.clone());
                let feed = Feed { view: view.clone(), source: follow.source().clone(), descriptors: descriptors.clone() };
                tasks.spawn_local(async move { again(|| way.follow(follow.clone(), feed.clone(), stop.clone())).await });
            }
            Some(_) = tasks.join_next() => {}
            _ = stop.changed() => break,
        }
    }
    while tasks.join_next().await.is_some() {}
}
