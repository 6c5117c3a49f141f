//! Names that dynamic forward proxies go to: resolved on the control thread when a worker asks, and again as long as they
//! are used. The clusters that share a cache of them have its names as hosts.

use std::{
    borrow::Cow,
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Weak},
    time::Duration,
};

use hashbrown::HashMap;
use tokio::{
    sync::{mpsc::Receiver, oneshot},
    task::JoinSet,
};

use super::dns::{self, Answer, Resolve, Unresolved};
use crate::{
    cluster::clock,
    config::cluster::{
        Ask, CachedName, Cluster, Discovery, DnsCache, DnsCaches, Endpoint, ForwardHost, Resolution, Resolver, Template,
    },
    wire::named::NamedAddress,
};

/// What has a file's TTL, or is an address, is looked at as often as it may be, as c-ares says that it holds no longer.
const FILES_TTL: Duration = Duration::from_secs(86_399);

/// The characters of names, as c-ares knows them.
fn is_name(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/*".contains(&byte))
}

/// Resolves the names of every cache of the process, as long as the cache is there.
pub async fn keep_caches(caches: DnsCaches) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            cache = caches.fresh.take() => {
                let Some(asked) = cache.asked() else { continue };
                let resolver = dns::resolver(cache.settings.family, &cache.settings.servers);
                if let Err(error) = &resolver {
                    tracing::error!(cache = %cache.settings.name, %error, "names can't be resolved");
                }
                tasks.spawn_local(keep(Arc::downgrade(&cache), asked, resolver.ok()));
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

impl<R: Resolve> Resolve for Option<R> {
    async fn resolve(&self, name: &str) -> Result<Answer, Unresolved> {
        match self {
            Some(resolver) => resolver.resolve(name).await,
            None => Err(Unresolved::unasked("Could not contact DNS servers")),
        }
    }
}

type Waiting = HashMap<Arc<str>, Vec<oneshot::Sender<Arc<CachedName>>>>;

/// What the tasks of a cache's names share.
struct Keeper<R> {
    cache: Weak<DnsCache>,
    resolver: R,
    /// For names that nothing has come of yet.
    waiting: RefCell<Waiting>,
}

/// Resolves the names of one cache, until it is gone.
async fn keep(cache: Weak<DnsCache>, mut asked: Receiver<Ask>, resolver: impl Resolve + 'static) {
    let keeper = Rc::new(Keeper { cache, resolver, waiting: RefCell::default() });
    let mut tasks = JoinSet::new();
    loop {
        let ask = tokio::select! {
            ask = asked.recv() => ask,
            Some(_) = tasks.join_next() => continue,
        };
        let Some(ask) = ask else { return };
        if let Some(name) = keeper.take(ask) {
            let keeper = keeper.clone();
            tasks.spawn_local(async move { keeper.follow(name).await });
        }
    }
}

impl<R: Resolve> Keeper<R> {
    /// Takes what somebody asks for, and answers what is known. What comes back is to be resolved.
    fn take(&self, mut ask: Ask) -> Option<Arc<CachedName>> {
        let cache = self.cache.upgrade()?;
        let (answer, known) = (ask.answer.take(), cache.get(&ask.key));
        match (&known, answer) {
            (Some(name), Some(answer)) if name.resolution.load().is_some() => drop(answer.send(name.clone())),
            (_, Some(answer)) => self.waiting.borrow_mut().entry(ask.key.clone()).or_default().push(answer),
            (_, None) => {}
        }
        known.is_none().then(|| cache.add(&ask, clock::now()))
    }

    /// Resolves a name until nobody has used it for so long that it leaves.
    async fn follow(&self, name: Arc<CachedName>) {
        let mut pause = None;
        loop {
            let Some(timeout) = self.begin() else { return };
            let resolving = self.resolve(&name);
            let resolved = match timeout {
                Some(timeout) => tokio::time::timeout(timeout, resolving).await.map_err(|_| ()),
                None => Ok(resolving.await),
            };
            let Some(cache) = self.cache.upgrade() else { return };
            let next = settle(&cache, &name, resolved, &mut pause);
            for answer in self.waiting.borrow_mut().remove(&name.key).unwrap_or_default() {
                let _ = answer.send(name.clone());
            }
            drop(cache);
            tokio::time::sleep(next).await;
            let Some(cache) = self.cache.upgrade() else { return };
            let unused = Duration::from_millis(clock::now().saturating_sub(name.used()));
            if unused > cache.settings.host_ttl {
                tracing::debug!(cache = %cache.settings.name, name = %name.key, "host's TTL expired");
                cache.remove(&name);
                return;
            }
        }
    }

    /// Counts a query; how long it may take. None: the cache is gone.
    fn begin(&self) -> Option<Option<Duration>> {
        let cache = self.cache.upgrade()?;
        cache.shared.inc(cache.stats.dns_query_attempt);
        Some(cache.settings.timeout)
    }

    async fn resolve(&self, name: &CachedName) -> Result<Answer, Unresolved> {
        if let Ok(address) = name.host.parse() {
            return Ok(Answer { addresses: vec![address], ttl: Duration::ZERO });
        }
        match &*name.host {
            "" => Err(Unresolved::unknown()),
            host if is_name(host) => self.resolver.resolve(host).await,
            _ => Err(Unresolved::unasked("Misformatted domain name")),
        }
    }
}

/// Counts and keeps what has come of a query (an error without a word: its time is up); how long until the next one.
fn settle(
    cache: &DnsCache,
    name: &CachedName,
    resolved: Result<Result<Answer, Unresolved>, ()>,
    pause: &mut Option<Duration>,
) -> Duration {
    let (settings, stats) = (&cache.settings, &cache.stats);
    let (failed, resolution, ttl) = match resolved {
        Ok(Ok(Answer { addresses, ttl })) => {
            let addresses = addresses.into_iter().map(|ip| SocketAddr::new(ip, name.port));
            // What a client says never leads inside of this process.
            let addresses = addresses.filter(|address| NamedAddress::of(address).is_none()).collect();
            (false, Resolution { addresses, why: "dns_resolution_failure{}".into() }, Some(ttl))
        }
        Ok(Err(why)) => {
            tracing::debug!(cache = %settings.name, name = %name.key, error = %why, "DNS resolution failed");
            let failed = !why.nothing || settings.servers.resolver == Resolver::GetAddrInfo;
            (failed, Resolution { addresses: Box::default(), why: details(&why, settings.servers.resolver) }, None)
        }
        Err(()) => {
            cache.shared.inc(stats.dns_query_timeout);
            let why = "dns_resolution_failure{resolve_timeout}".into();
            (true, Resolution { addresses: Box::default(), why }, None)
        }
    };
    cache.shared.inc(if failed { stats.dns_query_failure } else { stats.dns_query_success });
    cache.learn(name, resolution);
    if failed {
        let (least, most) = settings.failure_refresh;
        let next = pause.map_or(least, |pause| (pause * 2).min(most));
        *pause = Some(next);
        return if least == most { next } else { next.mul_f64(0.5 + fastrand::f64() / 2.0) };
    }
    *pause = None;
    match ttl {
        Some(ttl) if ttl < FILES_TTL => ttl.max(settings.least_refresh),
        Some(_) => settings.least_refresh,
        None => settings.refresh,
    }
}

/// Why a name has no address, as details of responses tell it.
fn details(why: &Unresolved, resolver: Resolver) -> Box<str> {
    let text: Cow<'static, str> = match (resolver, why.nothing) {
        (Resolver::Cares, true) => format!("cares_norecords:{}", why.reason).into(),
        (Resolver::Cares, false) => format!("cares_failure:{}", why.reason).into(),
        (Resolver::GetAddrInfo, _) if why.nothing || why.reason == "Misformatted domain name" => {
            Cow::Borrowed("Name or service not known")
        }
        (Resolver::GetAddrInfo, _) => Cow::Borrowed("Temporary failure in name resolution"),
    };
    format!("dns_resolution_failure{{{}}}", text.replace(' ', "_")).into()
}

/// Has a cluster follow its cache, if it is one of a dynamic forward proxy.
pub(in crate::cluster) fn attach(cluster: &Arc<Cluster>) {
    let Discovery::ForwardProxy(proxy) = &cluster.discovery else { return };
    let followed = Arc::downgrade(cluster);
    proxy.cache.follow(Box::new(move |names| match followed.upgrade() {
        Some(cluster) => {
            update(&cluster, names.values());
            true
        }
        None => false,
    }));
}

/// Makes the names that have addresses the hosts of a cluster. One whose address has changed stays the host that it was.
fn update<'a>(cluster: &Cluster, names: impl Iterator<Item = &'a Arc<CachedName>>) {
    let Discovery::ForwardProxy(proxy) = &cluster.discovery else { return };
    let before = proxy.hosts.load_full();
    let (mut hosts, mut news, mut moved) = (HashMap::new(), 0, false);
    for name in names {
        let resolution = name.resolution.load();
        let Some(addresses) = resolution.as_deref().map(|known| &*known.addresses) else { continue };
        let Some((first, others)) = addresses.split_first() else { continue };
        let known = before.get(&name.key).map(|known| &known.endpoint);
        let endpoint = match known {
            Some(known) if known.address == *first && *known.template.additional == *others => known.clone(),
            _ => {
                let template = Template { additional: others.into(), ..Template::default() };
                let mut endpoint =
                    Endpoint { hostname: name.key.clone(), template: Arc::new(template), ..Endpoint::at(*first) };
                match known {
                    Some(known) => {
                        endpoint.host = known.host.clone();
                        moved = true;
                    }
                    None => {
                        cluster.count_match(&endpoint);
                        endpoint.host = Arc::new(cluster.new_host(&endpoint));
                        news += 1;
                    }
                }
                Arc::new(endpoint)
            }
        };
        hosts.insert(name.key.clone(), ForwardHost { name: name.clone(), endpoint });
    }
    let gone: Vec<_> = before.iter().filter(|(key, _)| !hosts.contains_key(*key)).map(|(_, host)| host).collect();
    if news == 0 && gone.is_empty() && !moved {
        return;
    }
    let mut endpoints: Vec<_> = hosts.values().map(|host| Endpoint::clone(&host.endpoint)).collect();
    endpoints.sort_unstable_by(|one, other| one.hostname.cmp(&other.hostname));
    proxy.hosts.store(Arc::new(hosts));
    if news > 0 || !gone.is_empty() {
        cluster.set_hosts(endpoints);
    } else {
        cluster.move_hosts(endpoints);
    }
    gone.into_iter().for_each(|host| cluster.forget(&host.endpoint));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::cluster::{Authority, DnsCacheSettings, EndpointSet, ForwardProxy, Load, dns_cache::tests::settings},
        telemetry::stats::Scope,
    };

    /// What names resolve to, one after the other.
    struct Script(RefCell<Vec<Result<u8, &'static str>>>);

    impl Resolve for Script {
        async fn resolve(&self, _: &str) -> Result<Answer, Unresolved> {
            let next = self.0.borrow_mut().pop().unwrap_or(Err("over"));
            let address = |last| vec![[10, 0, 0, last].into()];
            next.map(|last| Answer { addresses: address(last), ttl: Duration::ZERO }).map_err(Unresolved::unasked)
        }
    }

    fn cache(settings: DnsCacheSettings) -> Arc<DnsCache> {
        Arc::new(DnsCache::new(settings, &Scope::default()))
    }

    async fn with(cache: &Arc<DnsCache>, mut script: Vec<Result<u8, &'static str>>, test: impl Future<Output = ()>) {
        script.reverse();
        let asked = cache.asked().unwrap();
        let local = tokio::task::LocalSet::new();
        let keeping = keep(Arc::downgrade(cache), asked, Script(RefCell::new(script)));
        local
            .run_until(async {
                tokio::select! {
                    () = test => {}
                    () = keeping => panic!("the cache is there"),
                }
            })
            .await;
    }

    async fn load(cache: &DnsCache, host: &str) -> Arc<CachedName> {
        match cache.load(&Authority::parse(host, 80).unwrap()) {
            Load::Known(name) => name,
            Load::Wait(answer) => answer.await.unwrap(),
            Load::Overflow => panic!("there is room"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_moves_stays_the_host_that_it_was() {
        let cache = cache(settings());
        let mut cluster = Cluster::fixed("c", EndpointSet::default());
        cluster.discovery = Discovery::ForwardProxy(Arc::new(ForwardProxy::new(cache.clone(), 80)));
        let cluster = Arc::new(cluster);
        attach(&cluster);
        let only = || {
            let endpoints = cluster.endpoints.load();
            let [only] = &endpoints.priorities()[0].endpoints[..] else { panic!("{endpoints:?}") };
            only.clone()
        };
        let test = async {
            let (one, other) = tokio::join!(load(&cache, "a.test"), load(&cache, "a.test:80"));
            assert!(Arc::ptr_eq(&one, &other) && one.failure().is_none());
            let before = only();
            assert_eq!((before.address.to_string().as_str(), &*before.hostname), ("10.0.0.1:80", "a.test:80"));
            tokio::time::sleep(Duration::from_secs(6)).await;
            let after = only();
            assert_eq!(after.address.to_string(), "10.0.0.2:80");
            assert!(Arc::ptr_eq(&before.host, &after.host));
        };
        with(&cache, vec![Ok(1), Ok(2)], test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_known_until_the_next_try() {
        let seconds = Duration::from_secs;
        let cache = cache(DnsCacheSettings { failure_refresh: (seconds(10), seconds(10)), ..settings() });
        let test = async {
            let name = load(&cache, "a.test").await;
            assert_eq!(name.failure().as_deref(), Some("dns_resolution_failure{cares_failure:no_luck}"));
            assert!(Arc::ptr_eq(&name, &load(&cache, "a.test").await));
            tokio::time::sleep(seconds(11)).await;
            assert_eq!(name.failure(), None);
            // What is no name is not even asked for.
            let broken = load(&cache, "a b").await;
            assert_eq!(
                broken.failure().as_deref(),
                Some("dns_resolution_failure{cares_failure:Misformatted_domain_name}")
            );
            assert!(load(&cache, "[::1]:81").await.failure().is_none());
            // Nor does it lead to listeners inside of the process.
            let inside = NamedAddress::internal("l", "");
            assert!(load(&cache, &inside.address().to_string()).await.failure().is_some());
        };
        with(&cache, vec![Err("no luck"), Ok(1)], test).await;
    }
}
