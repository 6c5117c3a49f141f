//! The keys of a provider: at hand, or fetched.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, StatusCode, header};

use crate::{
    config::filter::jwt_authn::{Fetched, JwtAuthn, Keys, Provider, Remote},
    http::{
        body::RequestBody,
        call::{self, Answered, Question},
        stream::connection::Connection,
    },
    jwt::{Jwks, Status, Token},
    telemetry::panics,
};

/// What Envoy says that it is where it fetches something.
const USER_AGENT: HeaderValue = HeaderValue::from_static("Go-browser");

/// Keys are no longer than this, bytes.
const LONGEST: usize = 1 << 20;

/// Keys that are fetched ahead are so before they are stale.
const AHEAD: Duration = Duration::from_secs(5);

/// Verifies a token's signature.
pub(super) async fn verify(
    filter: &Arc<JwtAuthn>,
    provider: &Arc<Provider>,
    connection: &Rc<Connection>,
    token: &Token,
) -> Result<(), Status> {
    let remote = match &provider.keys {
        Keys::Local(keys) => return keys.verify(token),
        Keys::Remote(remote) => remote,
    };
    let fetched = remote.fetched.load_full();
    match fetched.filter(|fetched| remote.ahead.is_some() || fetched.at.elapsed() < remote.lifetime) {
        Some(fetched) => {
            if is_to_be_fetched(remote, fetched.at.elapsed()) && !remote.fetching.swap(true, Relaxed) {
                let (filter, provider, client) = (filter.clone(), provider.clone(), connection.clone());
                panics::spawn_for(connection.id, fetch_ahead(filter, provider, client));
            }
            fetched.keys.verify(token)
        }
        None => {
            let keys = fetch(filter, remote, connection).await.ok_or(Status::FetchFailed)?;
            let fetched = Arc::new(Fetched { keys, at: Instant::now() });
            remote.fetched.store(Some(fetched.clone()));
            fetched.keys.verify(token)
        }
    }
}

/// Whether keys of this age are to be fetched while they still serve.
fn is_to_be_fetched(remote: &Remote, age: Duration) -> bool {
    let early = if remote.lifetime > AHEAD { remote.lifetime - AHEAD } else { remote.lifetime };
    remote.ahead.is_some() && age >= early
}

/// Fetches keys while the ones at hand serve.
async fn fetch_ahead(filter: Arc<JwtAuthn>, provider: Arc<Provider>, connection: Rc<Connection>) {
    let Keys::Remote(remote) = &provider.keys else { return };
    match fetch(&filter, remote, &connection).await {
        Some(keys) => remote.fetched.store(Some(Arc::new(Fetched { keys, at: Instant::now() }))),
        None => tokio::time::sleep(remote.ahead.unwrap_or_default()).await,
    }
    remote.fetching.store(false, Relaxed);
}

/// Fetches keys, and counts that.
async fn fetch(filter: &JwtAuthn, remote: &Remote, connection: &Rc<Connection>) -> Option<Jwks> {
    let mut keys = None;
    for attempt in 0..=remote.retries {
        if attempt > 0 {
            tokio::time::sleep(call::pause(attempt - 1)).await;
        }
        match ask(remote, connection).await {
            Some(answered) if answered.status.is_server_error() => {}
            Some(answered) if answered.status == StatusCode::OK => {
                keys = Jwks::parse(&answered.body).ok();
                break;
            }
            Some(_) => break,
            None => {}
        }
    }
    let (shard, stats) = (&connection.worker.stats, &filter.stats);
    shard.inc(if keys.is_some() { stats.jwks_fetch_success } else { stats.jwks_fetch_failed });
    keys
}

async fn ask(remote: &Remote, connection: &Rc<Connection>) -> Option<Answered> {
    let snapshot = connection.snapshot().load_full();
    let Some(cluster) = snapshot.cluster(&remote.cluster) else {
        tracing::error!(cluster = &*remote.cluster, uri = %remote.uri, "keys of tokens: the cluster does not exist");
        return None;
    };
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.uri = remote.uri.clone();
    parts.headers.insert(header::HOST, remote.host.clone());
    parts.headers.insert(header::USER_AGENT, USER_AGENT);
    call::sign(connection.behalf(), &mut parts.headers, remote.timeout);
    let question = Question {
        parts,
        body: RequestBody::Empty,
        scheme: remote.scheme,
        timeout: Some(remote.timeout).filter(|timeout| !timeout.is_zero()),
        keep: Some(LONGEST),
    };
    let answered = call::ask(connection.behalf(), cluster, question).await;
    if let Err(error) = &answered {
        tracing::debug!(connection = connection.id, uri = %remote.uri, ?error, "keys of tokens were not fetched");
    }
    answered.ok()
}
