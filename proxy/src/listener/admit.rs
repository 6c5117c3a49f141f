//! The network filters that decide about a connection as such, before anything of it is read.

use std::{sync::Arc, time::Instant};

use smallvec::SmallVec;

use crate::{
    access_log::{Flag, View},
    config::{
        cluster::{Authority, DYNAMIC_HOST_KEY, DYNAMIC_PORT_KEY, Load},
        filter_state::{Setting, add},
        network::{LimitedSeat, NetworkFilter, SniForwardProxy},
    },
    downstream::Downstream,
    filter_state::{Object, Shared, Span, Value},
    tcp::line::Line,
    worker::state::Worker,
};

/// A connection that may go on; what it holds of limits is given back when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Admitted<'a> {
    _seats: SmallVec<[LimitedSeat<'a>; 1]>,
    /// The cluster that a filter chose.
    pub cluster: Option<Arc<str>>,
}

/// Asks the filters in their order. None: the connection is to be closed now.
pub(super) async fn admit<'a>(
    worker: &'a Worker,
    filters: &'a [Arc<NetworkFilter>],
    downstream: &mut Downstream,
    line: Option<&mut Line>,
) -> Option<Admitted<'a>> {
    let mut admitted = Admitted::default();
    for filter in filters {
        let (reason, delay, flag) = match &**filter {
            NetworkFilter::ConnectionLimit(limit) => match limit.admit(&worker.runtime, &worker.stats) {
                Ok(seat) => {
                    admitted._seats.extend(seat);
                    continue;
                }
                Err(_) => ("over_connection_limit", limit.delay, None),
            },
            NetworkFilter::LocalRateLimit(rate) => {
                if rate.admits(&worker.runtime, &worker.stats, Instant::now()) {
                    continue;
                }
                ("local_ratelimit_close_over_limit", None, Some(Flag::UpstreamRetryLimitExceeded))
            }
            NetworkFilter::SniCluster => {
                admitted.cluster = downstream.server_name.clone();
                continue;
            }
            NetworkFilter::SetFilterState(settings) => {
                keep(&settings.on_new_connection, downstream);
                continue;
            }
            NetworkFilter::SniForwardProxy(filter) => {
                if resolve(filter, downstream).await.is_some() {
                    continue;
                }
                // As in Envoy, nothing tells why it is closed.
                if let Some(line) = line {
                    line.learn(downstream);
                }
                return None;
            }
            // Asked when the client has said something.
            NetworkFilter::Rbac(_) | NetworkFilter::Authz(_) | NetworkFilter::Telling => continue,
            // What came by itself is no such thing again.
            NetworkFilter::Discovered(_) => continue,
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        if let Some(line) = line {
            line.closes(reason);
            if let Some(flag) = flag {
                line.entry.raise(flag);
            }
        }
        return None;
    }
    Some(admitted)
}

/// Waits until the host that a connection asks for has been resolved, whatever comes of it. None: it can't wait.
async fn resolve(filter: &SniForwardProxy, downstream: &mut Downstream) -> Option<()> {
    let state = downstream.filter_state.as_deref();
    let host = state.and_then(|state| state.text(DYNAMIC_HOST_KEY)).or(downstream.server_name.as_deref());
    let Some(host) = host.filter(|host| !host.is_empty()) else { return Some(()) };
    let _place = filter.cache.admit()?;
    let known = state.and_then(|state| state.port(DYNAMIC_PORT_KEY));
    let load = filter.cache.load(&Authority::parse(host, known.unwrap_or(filter.port))?);
    if known.is_none() {
        let (key, value) = (DYNAMIC_PORT_KEY.into(), Value::Number(filter.port.into()));
        add(&mut downstream.filter_state, Object { key, value, shared: Shared::No, span: Span::Connection });
    }
    match load {
        Load::Known(_) => {}
        Load::Overflow => return None,
        Load::Wait(answer) => drop(answer.await),
    }
    Some(())
}

/// What is kept once the handshake is done, or was not to come.
pub(super) fn after_handshake(filters: &[Arc<NetworkFilter>], downstream: &mut Downstream) {
    for filter in filters {
        if let NetworkFilter::SetFilterState(settings) = &**filter {
            keep(&settings.on_handshake, downstream);
        }
    }
}

fn keep(settings: &[Setting], downstream: &mut Downstream) {
    for setting in settings {
        let entry = downstream.entry();
        if let Some(object) = setting.object(&View::of(&entry), Span::Connection) {
            add(&mut downstream.filter_state, object);
        }
    }
}
