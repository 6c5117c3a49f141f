//! The network namespaces in which upstream sockets may be asked for.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};

use crate::{
    counts::Counts,
    handoff::UpstreamSockets,
    netns::{self, Family, Netns},
    redirect::Redirect,
};

/// How long a request waits for a pod that is not known, while the agent is still taking over from an earlier one.
const SETTLING: Duration = Duration::from_secs(3);

/// Namespaces by pod uid: those of enrolled pods, and of withdrawn ones while their connections drain.
#[derive(Debug)]
pub struct Registry {
    redirect: Arc<Redirect>,
    counts: Counts,
    namespaces: Mutex<Namespaces>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Namespaces {
    by_uid: HashMap<String, Entry>,
    settled: bool,
}

#[derive(Debug)]
struct Entry {
    netns: Arc<Netns>,
    /// When it goes, if its pod is withdrawn.
    until: Option<Instant>,
}

impl Registry {
    /// An empty one. Sockets are tagged through `redirect`.
    pub fn new(redirect: Arc<Redirect>, counts: Counts) -> Self {
        Self { redirect, counts, namespaces: Mutex::default(), changed: watch::Sender::new(()) }
    }

    /// A pod is enrolled.
    pub(super) fn insert(&self, uid: &str, netns: Arc<Netns>) {
        self.namespaces.lock().by_uid.insert(uid.to_owned(), Entry { netns, until: None });
        self.changed.send_replace(());
    }

    /// A pod is withdrawn: its namespace is kept for so long, for connections that drain.
    pub(super) fn drain(&self, uid: &str, drain: Duration) {
        if let Some(entry) = self.namespaces.lock().by_uid.get_mut(uid) {
            entry.until = Some(Instant::now() + drain);
        }
    }

    /// Lets go of namespaces whose time is over, or that exist only because they are held here.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let gone = |entry: &Entry| {
            let over = entry.until.is_some_and(|until| until <= now);
            over || (entry.until.is_some() && Netns::identity_at(entry.netns.path()) != Some(entry.netns.identity()))
        };
        self.namespaces.lock().by_uid.retain(|_, entry| !gone(entry));
    }

    /// Every pod of an earlier agent is taken over: what is not known now is not enrolled.
    pub(super) fn settle(&self) {
        self.namespaces.lock().settled = true;
        self.changed.send_replace(());
    }

    fn is_certain(&self, uid: &str) -> bool {
        let namespaces = self.namespaces.lock();
        namespaces.settled || namespaces.by_uid.contains_key(uid)
    }
}

impl UpstreamSockets for Registry {
    fn known<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, ()> {
        let mut changed = self.changed.subscribe();
        async move {
            let certain = async { while !self.is_certain(uid) && changed.changed().await.is_ok() {} };
            // One that is not known by then is answered so.
            let _ = timeout(SETTLING, certain).await;
        }
        .boxed()
    }

    fn make(&self, uid: &str, family: Family, count: u32) -> Result<Vec<OwnedFd>, String> {
        let made = self.make_tagged(uid, family, count);
        match &made {
            Ok(sockets) => self.counts.upstream_sockets.inc_by(sockets.len() as u64),
            Err(_) => self.counts.upstream_failures.inc(),
        };
        made
    }
}

impl Registry {
    fn make_tagged(&self, uid: &str, family: Family, count: u32) -> Result<Vec<OwnedFd>, String> {
        let netns = self.namespaces.lock().by_uid.get(uid).map(|entry| entry.netns.clone());
        let netns = netns.ok_or_else(|| format!("no pod {uid} is enrolled"))?;
        let sockets = netns::upstream(&netns, family, count).map_err(|error| error.to_string())?;
        for socket in &sockets {
            self.redirect.tag_upstream(socket).map_err(|error| error.to_string())?;
        }
        Ok(sockets)
    }
}
