//! Streams of HTTP/2 that carry bytes of anything: the upstream is asked for them by CONNECT.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use super::once::{self, Asks, want};
use crate::{
    access_log::{Entry, View},
    config::{
        cluster::{Cluster, Endpoint, RoutingPriority},
        tcp::Tunneling,
    },
    filter_state::FilterState,
    http::{
        body::RequestBody,
        headers::{lines::Of, mutate},
        pool::{Lease, Want, names::naming_header},
        stream::{behalf::Behalf, failure::Failure},
    },
};

/// What a tunnel is asked for with.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    headers: HeaderMap,
}

/// A tunnel.
#[derive(Debug)]
pub(crate) struct Tunnel {
    /// Its bytes.
    pub stream: Box<TokioIo<Upgraded>>,
    /// The connection that carries it.
    pub lease: Lease,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoTunnel {
    /// The request cannot be made.
    #[error("the host is no authority")]
    NoAuthority,
    /// It does not agree.
    #[error("the upstream answered {0}")]
    Refused(u16),
    /// It could not be asked.
    #[error("{0}")]
    Failed(String),
}

impl NoTunnel {
    fn failed(failure: &Failure) -> Self {
        Self::Failed(format!("{failure:?}"))
    }
}

/// What is asked, by what is known of the connection.
pub(crate) fn head(settings: &Tunneling, entry: &Entry) -> Result<Head, NoTunnel> {
    let view = View::of(entry);
    let mut host = Vec::new();
    settings.hostname.write_line(&mut host, &view);
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_bytes(&host).map_err(|_| NoTunnel::NoAuthority)?);
    mutate::add(&settings.headers, Of::Request, &mut headers, |out, format, _| format.write_header(out, &view));
    Ok(Head { headers })
}

/// Asks for a tunnel.
pub(crate) async fn open(
    behalf: Behalf<'_>,
    (cluster, chosen): (&Arc<Cluster>, &Arc<Cluster>),
    endpoint: &Arc<Endpoint>,
    filter_state: Option<&FilterState>,
    head: Head,
) -> Result<Tunnel, NoTunnel> {
    let name = naming_header(cluster, &head.headers);
    let wanted = want(behalf, (cluster, chosen), endpoint, name.as_ref(), RoutingPriority::Default);
    let wanted = Want { filter_state, ..wanted };
    let mut request = Request::new(RequestBody::Empty);
    *request.method_mut() = Method::CONNECT;
    *request.headers_mut() = head.headers;
    let exchanged = once::exchange(behalf, wanted, (Asks::Stream, "http"), request, &()).await;
    let (mut answer, lease) = exchanged.map_err(|failure| NoTunnel::failed(&failure))?;
    if !answer.status().is_success() {
        return Err(NoTunnel::Refused(answer.status().as_u16()));
    }
    let upgraded = hyper::upgrade::on(&mut answer).await;
    let stream = upgraded.map_err(|_| NoTunnel::failed(&Failure::Terminated))?;
    Ok(Tunnel { stream: Box::new(TokioIo::new(stream)), lease })
}
