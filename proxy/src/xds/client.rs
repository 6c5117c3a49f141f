//! Following a management server: opens streams for as long as it is polled, sends what [`Mux`] has to say, has the
//! [`Consumer`] apply what comes, and reads notes of what is wanted.
//!
//! It lives on one thread and is the only one to touch the mux and the consumer.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
    time::{Instant, SystemTime},
};

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::{
    backoff::{Backoff, Failure},
    kind::{Kind, Protocol},
    mux::{Mux, Received, Request, Response},
    rate::Bucket,
    saved::Directory,
    saving::{Saving, written},
    sotw::SotwRequest,
    stats::{ControlPlaneStats, SubscriptionStats},
    store::{Content, Store},
    subscriptions::Subscriptions,
    told::Told,
    transport::{Open, Service, Target},
    update::{Consumer, FAULT, Origin, Refused, Update, offer},
    wishes::{Handle, Wish},
};
use crate::telemetry::panics;

/// What goes with a server.
pub struct Settings {
    /// The server.
    pub target: Target,
    /// Its service.
    pub service: Service,
    /// What is spoken there.
    pub protocol: Protocol,
    /// What this proxy calls itself.
    pub node: weir_proto::envoy::config::core::v3::Node,
    /// `set_node_on_first_message_only`.
    pub node_once: bool,
    /// `retry_back_off`.
    pub backoff: Backoff,
    /// `rate_limit_settings`; none: requests are not limited.
    pub rate: Option<Bucket>,
    /// Where the stream is counted.
    pub stats: ControlPlaneStats,
    /// Where what is accepted is kept; none: nowhere.
    pub saved: Option<Directory>,
}

/// The client of one server.
pub struct Client<C> {
    mux: Mux,
    handle: Handle,
    consumer: C,
    target: Rc<Target>,
    service: Service,
    backoff: Backoff,
    rate: Option<Bucket>,
    /// When there is a token again.
    rate_at: Option<Instant>,
    stats: ControlPlaneStats,
    saving: Option<Saving>,
    /// What was saved of types that are wanted by name, until it is, or the server speaks of the type.
    unclaimed: HashMap<Kind, Content>,
    /// What of it has been subscribed to.
    claimed: Vec<(Kind, Arc<str>)>,
    subscriptions: Subscriptions,
    said: Said,
}

/// What the log says of the server.
#[derive(Default)]
struct Said {
    told: Told,
    /// It was told that the server is not followed.
    troubled: bool,
    /// A stream has ended as streams do, and was to be opened again.
    excused: bool,
}

impl Said {
    /// `usual`: servers end streams so now and then.
    fn trouble(&mut self, server: &str, why: &str, usual: bool, now: Instant) {
        if usual && !self.troubled && !std::mem::replace(&mut self.excused, true) {
            tracing::info!(server, why, "stream to a management server is opened again");
        } else if self.told.is_news(why, now) {
            self.troubled = true;
            tracing::warn!(server, why, "management server is not followed: what was accepted stays in force");
        } else {
            tracing::debug!(server, why, "management server is still not followed");
        }
    }

    fn well(&mut self, server: &str) {
        self.excused = false;
        if std::mem::take(&mut self.troubled) {
            tracing::info!(server, "management server is followed again");
        }
    }

    /// Resources of a type were not taken.
    fn refused(&mut self, server: &str, kind: Kind, why: &str, now: Instant) {
        if self.told.is_news(&format!("{} {why}", kind.short()), now) {
            tracing::warn!(server, kind = kind.short(), why, "resources are refused");
        } else {
            tracing::debug!(server, kind = kind.short(), why, "resources are refused again");
        }
    }

    fn unasked(&mut self, server: &str, type_url: &str, now: Instant) {
        if self.told.is_news(type_url, now) {
            tracing::warn!(server, type_url, "responses that nobody asked for are ignored");
        }
    }
}

/// There is a stream, as long as this is kept: also where a panic ends it.
struct Connected {
    stats: ControlPlaneStats,
    store: Arc<Store>,
}

impl Connected {
    fn new(stats: ControlPlaneStats, store: Arc<Store>) -> Self {
        stats.connected(true);
        store.followed(true);
        Self { stats, store }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.stats.connected(false);
        self.store.followed(false);
    }
}

impl<C: Consumer> Client<C> {
    /// A client that has asked for nothing yet. What was saved is applied at once.
    pub fn new(settings: Settings, handle: Handle, consumer: C) -> Self {
        let Settings { target, service, protocol, node, node_once, backoff, rate, stats, saved } = settings;
        let mux = Mux::new(protocol, node, node_once, handle.store().clone());
        let mut client = Self {
            mux,
            handle,
            consumer,
            target: Rc::new(target),
            service,
            backoff,
            rate,
            rate_at: None,
            saving: saved.map(|directory| Saving::new(directory, stats.clone())),
            stats,
            unclaimed: HashMap::new(),
            claimed: Vec::new(),
            subscriptions: Subscriptions::default(),
            said: Said::default(),
        };
        client.stats.connected(false);
        // What has been asked for meanwhile is followed all the same.
        if catch_unwind(AssertUnwindSafe(|| client.restore())).is_err() {
            tracing::error!(server = client.target.name, "not all saved resources are in force: {FAULT}");
        }
        client
    }

    /// Applies what was saved: clusters and listeners at once, other types as they are subscribed to.
    fn restore(&mut self) {
        let Some(directory) = self.saving.as_ref().map(Saving::directory).cloned() else { return };
        let mut whole = Vec::new();
        for kind in Kind::ALL {
            let Some(content) = directory.load(kind, SystemTime::now()) else { continue };
            if kind.is_whole() {
                whole.push((kind, content));
            } else {
                self.unclaimed.insert(kind, content);
            }
        }
        for (kind, content) in whole {
            self.apply_saved(kind, content);
            self.heed();
            self.claim();
        }
    }

    /// Applies what was saved of what is subscribed to by now.
    fn claim(&mut self) {
        while !self.claimed.is_empty() {
            let mut claimed = std::mem::take(&mut self.claimed);
            for kind in Kind::ALL {
                let names: HashSet<Arc<str>> =
                    claimed.extract_if(.., |(of, _)| *of == kind).map(|(_, name)| name).collect();
                let Some(unclaimed) = self.unclaimed.get_mut(&kind).filter(|_| !names.is_empty()) else { continue };
                let resources = unclaimed.resources.extract_if(.., |resource| names.contains(&resource.name)).collect();
                let content = Content { version: unclaimed.version.clone(), resources, ..Content::default() };
                self.apply_saved(kind, content);
                self.heed();
            }
        }
    }

    fn apply_saved(&mut self, kind: Kind, content: Content) {
        let resources = content.resources.len();
        let update = match self.handle.store().changes(kind, content, Origin::Saved) {
            Ok(update) => update,
            Err(why) => {
                tracing::warn!(kind = kind.short(), resources, why, "saved resources are not used");
                return;
            }
        };
        let verdict = offer(&mut self.consumer, &update);
        self.mux.restored(&update, &verdict, SystemTime::now());
        self.subscriptions.answered(&update, &verdict, false);
        match Refused::told(&verdict, kind, &[]) {
            None => tracing::info!(kind = kind.short(), resources, "saved resources are in force"),
            Some(why) => {
                tracing::warn!(kind = kind.short(), resources, why, "not all saved resources are in force");
            }
        }
    }

    /// Follows the server, for ever. A panic ends a stream and nothing else.
    pub async fn run(&mut self) -> Infallible {
        loop {
            let failure = panics::caught(self.attempt()).await.unwrap_or_else(|| {
                self.said.trouble(&self.target.name, FAULT, false, Instant::now());
                Failure::Unanswered
            });
            self.mux.lost();
            self.subscriptions.all().for_each(SubscriptionStats::failed);
            let wait = self.backoff.next(failure, fastrand::f64());
            if panics::caught(self.meanwhile(None, tokio::time::sleep(wait))).await.is_none() {
                // What there is to do meanwhile is at fault.
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// Opens a stream and follows it to its end.
    async fn attempt(&mut self) -> Failure {
        let target = self.target.clone();
        let opening = target.open(self.service, self.mux.protocol());
        match self.meanwhile(None, opening).await {
            Ok(open) => {
                let _connected = Connected::new(self.stats.clone(), self.handle.store().clone());
                self.mux.opened();
                let opened = Instant::now();
                let (ended, answered) = self.follow(open).await;
                let usual = matches!(ended.code(), Code::Ok | Code::Unavailable);
                let why = format!("stream ended: {:?}: {}", ended.code(), ended.message());
                self.said.trouble(&target.name, &why, usual, Instant::now());
                if answered { Failure::Ended(opened.elapsed()) } else { Failure::Unanswered }
            }
            Err(why) => {
                self.said.trouble(&target.name, &why, false, Instant::now());
                Failure::Unreachable
            }
        }
    }

    /// Writes what was accepted and is not saved yet.
    pub async fn finish(&mut self) {
        if let Some(saving) = &mut self.saving {
            saving.finish(self.handle.store()).await;
        }
    }

    /// Follows a stream until it ends; gives the reason, and whether anything came.
    async fn follow(&mut self, open: Open) -> (Status, bool) {
        let Open { requests, mut responses } = open;
        let mut answered = false;
        loop {
            match self.meanwhile(Some(&requests), responses.next()).await {
                Some(Ok(response)) => {
                    answered = true;
                    self.said.well(&self.target.name);
                    self.received(response);
                }
                Some(Err(status)) => return (status, answered),
                None => return (Status::ok(""), answered),
            }
        }
    }

    /// Waits for something, and meanwhile does what notes and time call for, and sends what there is to say.
    async fn meanwhile<T>(
        &mut self,
        requests: Option<&mpsc::Sender<Request>>,
        something: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(something);
        let wishes = self.handle.wishes.clone();
        loop {
            self.heed();
            self.claim();
            self.tick();
            if let Some(requests) = requests {
                self.send(requests);
            }
            let save = self.saving.as_ref().and_then(Saving::due);
            let times = [self.mux.next_expiry(), save, self.rate_at, self.subscriptions.next_deadline()];
            let next = times.into_iter().flatten().min();
            let full = requests.filter(|_| self.mux.ready() && self.rate_at.is_none());
            tokio::select! {
                done = &mut something => return done,
                () = wishes.noted() => {}
                () = sleep_until(next) => {}
                () = written(self.saving.as_mut()) => {}
                () = room(full) => {}
            }
        }
    }

    /// Sends what there is to say, as far as there is room and a token for each.
    fn send(&mut self, requests: &mpsc::Sender<Request>) {
        while self.rate_at.is_none() && self.mux.ready() {
            let Ok(room) = requests.try_reserve() else { break };
            if let Some(bucket) = &mut self.rate
                && let Err(at) = bucket.take(Instant::now())
            {
                self.stats.rate_limited();
                self.rate_at = Some(at);
                break;
            }
            let Some(request) = self.mux.next_request() else { break };
            self.log(&request);
            room.send(request);
        }
        self.stats.pending(self.mux.pending());
    }

    /// Reads notes.
    fn heed(&mut self) {
        for wish in self.handle.wishes.take() {
            match wish {
                Wish::Subscribe { number, kind, name, options } => {
                    // Somebody else had it: whoever subscribes takes it from the store.
                    let there = self.has(kind, name.as_deref());
                    self.mux.subscribe(kind, name.as_ref());
                    if let Some(unclaimed) = self.unclaimed.get(&kind) {
                        let all = unclaimed.resources.iter().map(|resource| &resource.name);
                        let wanted = all.filter(|known| name.as_ref().is_none_or(|name| name == *known));
                        self.claimed.extend(wanted.map(|name| (kind, name.clone())));
                    }
                    self.subscriptions.add(number, kind, name, options, (!there).then(Instant::now));
                }
                Wish::Unsubscribe(number) => {
                    if let Some((kind, name)) = self.subscriptions.remove(number) {
                        self.mux.unsubscribe(kind, name.as_ref());
                    }
                }
                Wish::Hold(kind) => self.mux.hold(kind),
                Wish::Release(kind) => self.mux.release(kind),
            }
        }
    }

    /// Does what it is time for.
    fn tick(&mut self) {
        let now = Instant::now();
        if self.rate_at.is_some_and(|at| at <= now) {
            self.rate_at = None;
        }
        for (kind, name) in self.subscriptions.late(now) {
            tracing::warn!(
                server = self.target.name,
                kind = kind.short(),
                name = name.as_deref().unwrap_or("*"),
                "initial fetch timed out; it stays subscribed"
            );
            self.handle.store().timed_out(kind, name.as_deref());
            self.consumer.timed_out(kind, name.as_ref());
        }
        for update in self.mux.expired(now, SystemTime::now()) {
            // Nobody is told whether it is taken: there is no response to answer.
            if offer(&mut self.consumer, &update).is_err() {
                tracing::warn!(kind = update.kind.short(), "resources whose time is over are not given up");
            }
        }
        if let Some(saving) = &mut self.saving {
            saving.begin(self.handle.store(), now);
        }
    }

    fn received(&mut self, response: Response) {
        if let Some(identifier) = response.control_plane() {
            self.stats.identifier(identifier);
        }
        match self.mux.received(response, SystemTime::now()) {
            Received::Update(update) => self.apply(&update),
            Received::Malformed(kind, why) => {
                self.subscriptions.all_of(kind).for_each(SubscriptionStats::rejected);
                self.said.refused(&self.target.name, kind, &why, Instant::now());
                self.give_up(kind);
            }
            Received::Unasked(type_url) => self.said.unasked(&self.target.name, &type_url, Instant::now()),
        }
    }

    /// Nobody waits any more for first answers of a type of which one came that can't be read: nor does anybody in Envoy.
    fn give_up(&mut self, kind: Kind) {
        for (kind, name) in self.subscriptions.over(kind) {
            if !self.has(kind, name.as_deref()) {
                self.consumer.timed_out(kind, name.as_ref());
            }
        }
    }

    /// Whether there is something in force by a name, or of a type.
    fn has(&self, kind: Kind, name: Option<&str>) -> bool {
        let store = self.handle.store();
        name.map_or_else(|| store.version(kind).is_some(), |name| store.accepted(kind, name).is_some())
    }

    fn apply(&mut self, update: &Update) {
        let began = Instant::now();
        let kind = update.kind;
        // The server's word is better, also about what it does not speak of yet.
        self.unclaimed.remove(&kind);
        let unanswered = self.handle.store().version(kind).is_none();
        let verdict = offer(&mut self.consumer, update);
        // What it refers to is wanted before it is acknowledged.
        self.heed();
        let now = SystemTime::now();
        let told = self.mux.judged(update, &verdict, Instant::now(), now);
        let took = began.elapsed();
        tracing::debug!(
            server = self.target.name,
            kind = kind.short(),
            version = &*update.version,
            added = update.added.len(),
            unchanged = update.unchanged.len(),
            removed = update.removed.len(),
            ?took,
            "resources came"
        );
        for (stats, refused) in self.subscriptions.answered(update, &verdict, told.is_some()) {
            if refused {
                stats.rejected();
            } else {
                stats.succeeded(&update.version, now, Some(took));
            }
        }
        // That there is nothing is worth keeping, too: who is told is not to wait for it.
        let answered = unanswered && self.handle.store().version(kind).is_some();
        let changed = answered || !update.added.is_empty() || !update.removed.is_empty();
        if let Some(saving) = self.saving.as_mut().filter(|_| changed) {
            saving.changed(kind, Instant::now());
        }
        if let Some(why) = told {
            self.said.refused(&self.target.name, kind, &why, Instant::now());
        }
    }

    fn log(&self, request: &Request) {
        let (type_url, nonce, rejected) = match request {
            Request::Sotw(SotwRequest { request, .. }) => {
                (&request.type_url, &request.response_nonce, &request.error_detail)
            }
            Request::Delta(request) => (&request.type_url, &request.response_nonce, &request.error_detail),
        };
        let kind = Kind::of(type_url).map_or("", Kind::short);
        let rejected = rejected.is_some();
        tracing::debug!(server = self.target.name, kind, nonce, rejected, "request to a management server");
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Resolves when there is room for a request. A stream that is over has none: its end is told otherwise.
async fn room(full: Option<&mpsc::Sender<Request>>) {
    match full {
        Some(requests) if requests.reserve().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}
