//! Names that are resolved once somebody wants to go there, and again while somebody does: a cache that clusters and
//! filters share by its name.
//!
//! Workers look names up in an immutable map. For one that is not there they leave a note, and wait until the control
//! thread has resolved it for the first time, whatever came of it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::{
    mpsc::{Receiver, Sender, channel},
    oneshot,
};

use super::{
    dns::{DnsFamily, NameServers},
    limits::{Gauge as Usage, InUse},
};
use crate::{
    queue::Queue,
    telemetry::stats::{Gauge, Scope, Shared, Store, handles},
};

/// So many notes wait for the control thread, besides those of names that are resolved at once.
const ASKS: usize = 4096;

/// How names are resolved, how many, and how long they stay.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsCacheSettings {
    /// Unique in the process.
    pub name: Box<str>,
    /// Which addresses.
    pub family: DnsFamily,
    /// Who is asked.
    pub servers: NameServers,
    /// Until a name that has no address is resolved again.
    pub refresh: Duration,
    /// One that has is resolved again when its TTL ends, but not before this.
    pub least_refresh: Duration,
    /// Between tries while resolution fails: base and maximum.
    pub failure_refresh: (Duration, Duration),
    /// An answer must come within; none: any time.
    pub timeout: Option<Duration>,
    /// A name that was not used for so long leaves when it would be resolved again.
    pub host_ttl: Duration,
    /// So many names.
    pub max_hosts: usize,
    /// So many requests may wait for names.
    pub max_pending: u32,
    /// Resolved at once.
    pub first: Vec<(Box<str>, u16)>,
}

handles! {
    /// `dns_cache.<name>.`.
    #[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
    DnsCacheStats {
        counters {
            cache_load
            dns_address_filter_out
            dns_query_attempt
            dns_query_failure
            dns_query_success
            dns_query_timeout
            dns_rq_pending_overflow
            host_added
            host_address_changed
            host_overflow
            host_removed
        }
        gauges { num_hosts }
        histograms {}
    }
}

/// A host as a request names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// With a port, by which it is known.
    pub key: String,
    /// What is resolved.
    pub host: &'a str,
    /// Where its addresses are connected to.
    pub port: u16,
}

impl<'a> Authority<'a> {
    /// Takes `host:port`, or a host without a port, apart. None: there is nothing.
    pub fn parse(text: &'a str, default_port: u16) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let split = text.rsplit_once(':').filter(|_| !text.ends_with(']'));
        let split = split.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        let (host, port) = split.unwrap_or((text, default_port));
        let key = if split.is_some() { text.to_owned() } else { format!("{text}:{port}") };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bare.filter(|bare| bare.parse::<IpAddr>().is_ok()).unwrap_or(host);
        Some(Self { key, host, port })
    }
}

/// A name of the cache.
#[derive(Debug)]
pub struct CachedName {
    /// The name with its port.
    pub key: Arc<str>,
    /// What is resolved.
    pub host: Box<str>,
    /// Where its addresses are connected to.
    pub port: u16,
    /// What has come of it; none: that is not known yet.
    pub resolution: ArcSwapOption<Resolution>,
    /// When somebody went there last, in milliseconds of the clusters' clock.
    used: AtomicU64,
}

impl CachedName {
    /// Somebody goes there.
    pub fn touch(&self, now: u64) {
        self.used.store(now, Relaxed);
    }

    /// When somebody went there last.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Why there is no address; none: there is one.
    pub fn failure(&self) -> Option<String> {
        match self.resolution.load().as_deref() {
            Some(Resolution { addresses, why }) if addresses.is_empty() => Some(why.to_string()),
            Some(_) => None,
            None => Some(String::new()),
        }
    }
}

/// What has come of a name.
#[derive(Debug, PartialEq, Eq)]
pub struct Resolution {
    /// Its addresses, the first one before others.
    pub addresses: Box<[SocketAddr]>,
    /// Why there are none, as details of responses tell it.
    pub why: Box<str>,
}

/// A name that somebody waits for.
#[derive(Debug)]
pub struct Ask {
    /// The name with its port.
    pub key: Arc<str>,
    /// What is to be resolved.
    pub host: Box<str>,
    /// Where its addresses are to be connected to.
    pub port: u16,
    /// Told once something has come of it.
    pub answer: Option<oneshot::Sender<Arc<CachedName>>>,
}

/// What is known of a name.
#[derive(Debug)]
pub enum Load {
    /// Something has come of it.
    Known(Arc<CachedName>),
    /// It is being resolved.
    Wait(oneshot::Receiver<Arc<CachedName>>),
    /// There are as many names as there may be.
    Overflow,
}

/// Names by what they are known by.
pub type Names = HashMap<Arc<str>, Arc<CachedName>>;

/// Told what names there are from now on, unless it is gone: then it says no.
type Follower = Box<dyn Fn(&Names) -> bool + Send>;

/// A cache.
pub struct DnsCache {
    /// How names are resolved.
    pub settings: DnsCacheSettings,
    /// What is counted.
    pub stats: DnsCacheStats,
    /// Where: from any thread.
    pub shared: Shared,
    store: Option<Store>,
    breaker: [Gauge; 2],
    pending: Usage,
    known: ArcSwap<Names>,
    asks: Sender<Ask>,
    /// Until the control thread takes it.
    asked: Mutex<Option<Receiver<Ask>>>,
    followers: Mutex<Vec<Follower>>,
    _scopes: [Scope; 2],
}

impl fmt::Debug for DnsCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsCache").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl DnsCache {
    /// An empty one, counted below `stats`; the names that are to be resolved at once are asked for.
    pub fn new(settings: DnsCacheSettings, stats: &Scope) -> Self {
        let scope = stats.scope(&format!("dns_cache.{}", settings.name));
        let breakers = scope.scope("circuit_breakers");
        let store = Store::of(&scope);
        let (asks, asked) = channel(ASKS + settings.first.len());
        let cache = Self {
            stats: DnsCacheStats::register(&scope),
            shared: store.as_ref().map(Store::shared).unwrap_or_default(),
            breaker: ["rq_pending_open", "rq_pending_remaining"].map(|name| breakers.gauge(name)),
            pending: Usage::default(),
            known: ArcSwap::default(),
            asks,
            asked: Mutex::new(Some(asked)),
            followers: Mutex::default(),
            _scopes: [scope, breakers],
            store,
            settings,
        };
        cache.publish();
        for (host, port) in &cache.settings.first {
            if let Some(authority) = Authority::parse(host, *port) {
                let _ = cache.ask(&authority, None);
            }
        }
        cache
    }

    /// What is known of a name. Of one that is not known, the control thread hears.
    pub fn load(&self, authority: &Authority<'_>) -> Load {
        let known = self.known.load();
        if let Some(name) = known.get(&*authority.key).filter(|name| name.resolution.load().is_some()) {
            return Load::Known(name.clone());
        }
        if known.len() >= self.settings.max_hosts {
            self.shared.inc(self.stats.host_overflow);
            return Load::Overflow;
        }
        let (answer, answered) = oneshot::channel();
        if self.ask(authority, Some(answer)) {
            return Load::Wait(answered);
        }
        self.shared.inc(self.stats.host_overflow);
        Load::Overflow
    }

    /// Whether the control thread will hear of it.
    fn ask(&self, authority: &Authority<'_>, answer: Option<oneshot::Sender<Arc<CachedName>>>) -> bool {
        let Authority { key, host, port } = authority;
        let ask = Ask { key: key.as_str().into(), host: (*host).into(), port: *port, answer };
        self.asks.try_send(ask).is_ok()
    }

    /// A place among the requests that may wait; none: as many do as may.
    pub fn admit(&self) -> Option<InUse> {
        let place = self.pending.take(self.settings.max_pending);
        if place.is_none() {
            self.shared.inc(self.stats.dns_rq_pending_overflow);
        }
        place
    }

    /// Sets the gauges `circuit_breakers.*`: they are computed when somebody reads them.
    pub fn publish(&self) {
        let Some(store) = &self.store else { return };
        let left = self.settings.max_pending.saturating_sub(self.pending.load());
        let [open, remaining] = self.breaker;
        if self.pending.ever() {
            store.set(open, u64::from(left == 0));
        }
        store.set(remaining, u64::from(left));
    }

    /// The names that are asked for, for the one that resolves them.
    pub fn asked(&self) -> Option<Receiver<Ask>> {
        self.asked.lock().take()
    }

    /// A name that there is.
    pub fn get(&self, key: &str) -> Option<Arc<CachedName>> {
        self.known.load().get(key).cloned()
    }

    /// There is one more name, which is used now.
    pub fn add(&self, ask: &Ask, now: u64) -> Arc<CachedName> {
        let name = Arc::new(CachedName {
            key: ask.key.clone(),
            host: ask.host.clone(),
            port: ask.port,
            resolution: ArcSwapOption::empty(),
            used: AtomicU64::new(now),
        });
        self.change(|names| {
            names.insert(name.key.clone(), name.clone());
        });
        self.shared.inc(self.stats.host_added);
        name
    }

    /// A name is gone. Who follows hears of it if it had an address.
    pub fn remove(&self, name: &CachedName) {
        self.change(|names| {
            names.remove(&*name.key);
        });
        self.shared.inc(self.stats.host_removed);
        if name.failure().is_none() {
            self.tell();
        }
    }

    /// What has come of a name. One that has addresses keeps them while there are no others.
    pub fn learn(&self, name: &CachedName, resolution: Resolution) {
        let known = name.resolution.load();
        let before = known.as_deref().map_or(&[][..], |known| &*known.addresses);
        if resolution.addresses.is_empty() && !before.is_empty() {
            return;
        }
        let changed = !resolution.addresses.is_empty() && differ(before, &resolution.addresses);
        if changed || before.is_empty() {
            name.resolution.store(Some(Arc::new(resolution)));
        }
        if changed {
            self.shared.inc(self.stats.host_address_changed);
            self.tell();
        }
    }

    fn change(&self, change: impl FnOnce(&mut Names)) {
        let mut names = Names::clone(&self.known.load());
        change(&mut names);
        if let Some(store) = &self.store {
            store.set(self.stats.num_hosts, names.len() as u64);
        }
        self.known.store(Arc::new(names));
    }

    /// Has somebody follow the names that have addresses: told of them now, and when they change.
    pub fn follow(&self, follower: Follower) {
        if follower(&self.known.load()) {
            self.followers.lock().push(follower);
        }
    }

    fn tell(&self) {
        let names = self.known.load();
        self.followers.lock().retain(|follower| follower(&names));
    }
}

/// Whether these are other addresses, in whatever order.
fn differ(one: &[SocketAddr], other: &[SocketAddr]) -> bool {
    one.len() != other.len() || one.iter().any(|address| !other.contains(address))
}

/// The caches of the process, by name. It keeps none alive. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct DnsCaches {
    known: Arc<Mutex<HashMap<Box<str>, Known>>>,
    /// Those that nobody resolves names for yet.
    pub fresh: Queue<Arc<DnsCache>>,
}

#[derive(Debug)]
struct Known {
    /// What it was made from.
    message: Vec<u8>,
    cache: Weak<DnsCache>,
}

/// There is one of that name that was made from something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch;

impl DnsCaches {
    /// The cache of a name, which `make` makes if it is not there.
    pub fn get<E>(
        &self,
        name: &str,
        message: Vec<u8>,
        make: impl FnOnce() -> Result<DnsCache, E>,
    ) -> Result<Result<Arc<DnsCache>, Mismatch>, E> {
        let mut known = self.known.lock();
        known.retain(|_, known| known.cache.strong_count() > 0);
        if let Some(found) = known.get(name)
            && let Some(cache) = found.cache.upgrade()
        {
            return Ok(if found.message == message { Ok(cache) } else { Err(Mismatch) });
        }
        let cache = Arc::new(make()?);
        known.insert(name.into(), Known { message, cache: Arc::downgrade(&cache) });
        self.fresh.leave(cache.clone());
        Ok(Ok(cache))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Settings with Envoy's defaults.
    pub(crate) fn settings() -> DnsCacheSettings {
        let seconds = Duration::from_secs;
        DnsCacheSettings {
            name: "c".into(),
            family: DnsFamily::default(),
            servers: NameServers::default(),
            refresh: seconds(60),
            least_refresh: seconds(5),
            failure_refresh: (seconds(60), seconds(60)),
            timeout: Some(seconds(5)),
            host_ttl: seconds(300),
            max_hosts: 1024,
            max_pending: 1024,
            first: Vec::new(),
        }
    }

    #[test]
    fn an_authority_has_a_port_or_the_default_one() {
        let parse = |text| Authority::parse(text, 80).map(|found| (found.key, found.host, found.port));
        let known = |key: &str, host, port| Some((key.to_owned(), host, port));
        assert_eq!(parse("a.test"), known("a.test:80", "a.test", 80));
        assert_eq!(parse("a.test:81"), known("a.test:81", "a.test", 81));
        assert_eq!(parse("[::1]:81"), known("[::1]:81", "::1", 81));
        assert_eq!(parse("[::1]"), known("[::1]:80", "::1", 80));
        assert_eq!(parse(":81"), known(":81", "", 81));
        assert_eq!(parse("a:99999"), known("a:99999:80", "a:99999", 80));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_name_is_known_once_something_has_come_of_it() {
        let cache = DnsCache::new(DnsCacheSettings { max_hosts: 1, ..settings() }, &Scope::default());
        let authority = Authority::parse("a.test", 80).unwrap();
        assert!(matches!(cache.load(&authority), Load::Wait(_)));
        let mut asked = cache.asked().unwrap();
        let name = cache.add(&asked.try_recv().unwrap(), 1);
        assert!(matches!(cache.load(&authority), Load::Overflow));
        let none = || Resolution { addresses: Box::default(), why: "gone".into() };
        cache.learn(&name, none());
        assert_eq!(name.failure().as_deref(), Some("gone"));
        let address: SocketAddr = "10.0.0.1:80".parse().unwrap();
        cache.learn(&name, Resolution { addresses: Box::new([address]), why: "".into() });
        // What is known stays while nothing better is.
        cache.learn(&name, none());
        let Load::Known(known) = cache.load(&authority) else { panic!("it is known") };
        assert_eq!(known.resolution.load().as_deref().unwrap().addresses[..], [address]);
        assert!(matches!(cache.load(&Authority::parse("b.test", 80).unwrap()), Load::Overflow));
        cache.remove(&name);
        assert!(matches!(cache.load(&authority), Load::Wait(_)));
    }

    #[test]
    fn a_cache_is_shared_by_name_and_configuration() {
        let caches = DnsCaches::default();
        let make = || Ok::<_, ()>(DnsCache::new(settings(), &Scope::default()));
        let first = caches.get("c", vec![1], make).unwrap().unwrap();
        let same = caches.get("c", vec![1], make).unwrap().unwrap();
        assert!(Arc::ptr_eq(&first, &same));
        assert_eq!(caches.get("c", vec![2], make).unwrap().unwrap_err(), Mismatch);
    }

    #[test]
    fn as_many_wait_as_may() {
        let cache = DnsCache::new(DnsCacheSettings { max_pending: 1, ..settings() }, &Scope::default());
        let place = cache.admit();
        assert!(place.is_some() && cache.admit().is_none());
        drop(place);
        assert!(cache.admit().is_some());
    }
}
