//! The use of a connection by one request.

use std::{
    net::SocketAddr,
    rc::{Rc, Weak},
};

use http::{HeaderMap, StatusCode, Version, header};
use http_body::Body;
use hyper::client::conn::TrySendError;
use tokio::{sync::oneshot, time::Instant};

use super::host::{Host, Http1, Http2, Switched};
use crate::{
    cluster::{account::ActiveRequest, dial::Made},
    config::cluster::InUse,
    http::{
        body::{RequestBody, sending::Sending},
        codec::trailers::{Sent, Trailers},
        headers::nominated,
    },
    tls::PeerTls,
};

/// The use of a connection by one request. Dropping it without releasing it means that the response was not read
/// to its end.
#[derive(Debug)]
pub struct Lease {
    pub(super) sender: Sender,
    pub(super) host: Weak<Host>,
    /// Counts the request.
    pub(super) _active: Option<ActiveRequest>,
    pub(super) _in_use: InUse,
    pub(super) max_requests: u32,
    pub(in crate::http) reused: bool,
    /// Request and response have ended: there is nothing to reset.
    pub(super) over: bool,
    /// Gets the connection's bytes if the upstream switches protocols.
    pub(super) switched: Option<oneshot::Receiver<Switched>>,
}

#[derive(Debug)]
pub(super) enum Sender {
    Http1(Option<Http1>),
    /// What ends the body that goes out, if there is one.
    Http2(Rc<Http2>, Option<Rc<Sending>>),
}

impl Lease {
    /// This side's address.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match &self.sender {
            Sender::Http1(one) => one.as_ref().and_then(|one| one.connection.local),
            Sender::Http2(two, _) => two.connection.local,
        }
    }

    /// How it came to be.
    pub(crate) fn made(&self) -> Option<&Made> {
        match &self.sender {
            Sender::Http1(one) => one.as_ref().map(|one| &one.connection.made),
            Sender::Http2(two, _) => Some(&two.connection.made),
        }
    }

    /// Its TLS; none: it is bare.
    pub(crate) fn tls(&self) -> Option<&Rc<PeerTls>> {
        match &self.sender {
            Sender::Http1(one) => one.as_ref().and_then(|one| one.connection.tls.as_ref()),
            Sender::Http2(two, _) => two.connection.tls.as_ref(),
        }
    }

    /// Whether the connection ended because the upstream broke the protocol of HTTP/2.
    pub(in crate::http) fn broke_protocol(&self) -> bool {
        matches!(&self.sender, Sender::Http2(two, _) if two.connection.broke_protocol.get())
    }

    /// Whether the head of a response is one that the cluster takes. That of HTTP/1 was judged as it came.
    pub(in crate::http) fn takes(&self, headers: &HeaderMap) -> bool {
        match &self.sender {
            Sender::Http1(_) => true,
            Sender::Http2(two, _) => two.connection.response_heads.take(headers),
        }
    }

    /// The interim response that came first; over HTTP/2 none is known.
    pub(in crate::http) fn interim(&self) -> Option<StatusCode> {
        match &self.sender {
            Sender::Http1(one) => one.as_ref().and_then(|one| one.connection.interim.status()),
            Sender::Http2(..) => None,
        }
    }

    /// Whether it is HTTP/2.
    pub(in crate::http) fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(..))
    }

    /// The request that follows may have the upstream switch protocols. HTTP/2 switches none.
    pub(in crate::http) fn may_switch(&mut self) {
        if let Sender::Http1(Some(one)) = &self.sender {
            let (switch, switched) = oneshot::channel();
            *one.connection.switch.borrow_mut() = Some(switch);
            self.switched = Some(switched);
        }
    }

    /// The connection's bytes, once the upstream has switched protocols.
    pub(in crate::http) fn switched(&mut self) -> Option<oneshot::Receiver<Switched>> {
        self.switched.take()
    }

    /// Counts bytes that passed after a switch of protocols; those of an HTTP/2 connection are counted as they pass.
    pub(in crate::http) fn passed(&self, sent: u64, received: u64) {
        if !self.is_http2()
            && let Some(account) = self.host.upgrade().as_ref().and_then(|host| host.account.as_ref())
        {
            account.shard.add(account.cluster.stats.upstream_cx_tx_bytes_total, sent);
            account.shard.add(account.cluster.stats.upstream_cx_rx_bytes_total, received);
        }
    }

    /// Sends a request. An error holds the request if nothing of it was sent.
    pub(in crate::http) async fn send(
        &mut self,
        request: http::Request<RequestBody>,
    ) -> Result<http::Response<hyper::body::Incoming>, TrySendError<http::Request<RequestBody>>> {
        match &mut self.sender {
            Sender::Http1(Some(one)) => {
                one.connection.interim.begin();
                let request = with_trailers(request.map(RequestBody::unsent), one.connection.trailers.as_ref());
                one.sender.try_send_request(request).await
            }
            Sender::Http1(None) => std::future::pending().await,
            Sender::Http2(two, sending) => {
                let mut request = request.map(RequestBody::unsent);
                if !request.body().is_end_stream() {
                    let sending = sending.insert(Sending::new(&two.beginnings));
                    request = request.map(|body| body.sent(sending));
                }
                two.sender.clone().try_send_request(request).await
            }
        }
    }

    /// The upstream has answered, and may have said that nothing follows.
    pub(in crate::http) fn answered(&self, version: Version, headers: &HeaderMap) {
        if let Sender::Http1(Some(one)) = &self.sender
            && nominated::is_last_response(version, headers)
        {
            one.connection.close_notified();
        }
    }

    /// The upstream has ended the exchange before its end; `reset`: the stream only.
    pub(in crate::http) fn lost(&mut self, reset: bool) {
        self.over = true;
        if let Some(host) = self.host.upgrade().filter(|_| reset)
            && let Some(account) = &host.account
        {
            let stats = &account.cluster.stats;
            account.shard.inc(stats.upstream_rq_rx_reset);
        }
    }

    /// A message of HTTP/1 is not what it is to be, or not all of it: as in Envoy, that breaks the protocol.
    pub(in crate::http) fn count_broken(&self) {
        if !self.is_http2()
            && let Some(account) = self.host.upgrade().as_ref().and_then(|host| host.account.as_ref())
        {
            account.shard.inc(account.cluster.stats.upstream_cx_protocol_error);
        }
    }

    /// The client's body broke off, and HTTP/1 has no other end for that than the connection's.
    pub(in crate::http) fn broken_off(&self) {
        if let Sender::Http1(Some(one)) = &self.sender {
            one.connection.ended_here();
        }
    }

    /// The upstream has ended the connection that switched protocols.
    pub(in crate::http) fn ended_remotely(&self) {
        if let Sender::Http1(Some(one)) = &self.sender {
            one.connection.ended_remotely();
        }
    }

    /// The response has been read to its end: the connection may serve another request.
    pub(in crate::http) fn release(mut self) {
        self.over = true;
        if let Sender::Http2(_, sending) = &mut self.sender {
            // The request has come whole, and the rest of it goes out.
            *sending = None;
        }
        if let Sender::Http1(one) = &mut self.sender
            && let Some(one) = one.take()
            && let Some(host) = self.host.upgrade()
        {
            one.connection.idle_since.set(Instant::now());
            let full = self.max_requests > 0 && one.connection.requests.get() >= self.max_requests;
            if !full && !one.connection.spent.get() && !one.sender.is_closed() {
                host.offer(one);
            } else if let Some(account) = host.account.as_ref().filter(|_| full) {
                account.shard.inc(account.cluster.stats.upstream_cx_max_requests);
            }
        }
    }
}

/// A request whose trailers are sent as HTTP/1 does: announced there, if at all.
fn with_trailers(request: http::Request<RequestBody>, announced: Option<&Rc<Trailers>>) -> http::Request<RequestBody> {
    let headers = request.headers();
    // Only a body in chunks has them.
    let sent = match announced.filter(|_| !headers.contains_key(header::CONTENT_LENGTH)) {
        Some(trailers) => Sent::Announced(trailers.clone()),
        // hyper sends those that are named here.
        None if headers.contains_key(header::TRAILER) => Sent::Never,
        None => return request,
    };
    request.map(|body| body.trailed(sent))
}

impl Drop for Lease {
    fn drop(&mut self) {
        match &mut self.sender {
            // Not released: its driver closes the connection, and then somebody else may open one.
            Sender::Http1(one) => {
                if let Some(one) = one {
                    one.connection.interrupt();
                }
            }
            Sender::Http2(two, sending) => {
                if let Some(sending) = sending {
                    sending.end();
                }
                if let Some(host) = self.host.upgrade() {
                    if let Some(account) = &host.account {
                        let (shard, stats) = (&account.shard, &account.cluster.stats);
                        let codec = stats.codecs.http2();
                        shard.gauge_add(codec.streams_active, -1);
                        if !self.over {
                            shard.inc(stats.upstream_rq_tx_reset);
                            shard.inc(codec.tx_reset);
                        }
                    }
                    host.streams.wake_one();
                }
                let connection = &two.connection;
                connection.active.set(connection.active.get() - 1);
                connection.idle_since.set(Instant::now());
                if connection.spent.get() && connection.active.get() == 0 {
                    connection.done.notify_one();
                }
            }
        }
    }
}
