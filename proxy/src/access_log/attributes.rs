//! What expressions learn of a stream or a connection.

use std::{net::SocketAddr, time::UNIX_EPOCH};

use super::{header_name::HeaderName, view::View};
use crate::{
    cel::{Attribute, Attributes, Part, Side, Value},
    tls::{PeerTls, certificate::Certificate},
    wire::named::NamedAddress,
};

impl Attributes for View<'_> {
    fn get(&self, attribute: &Attribute) -> Option<Value<'_>> {
        let entry = self.entry;
        Some(match attribute {
            Attribute::Path => self.pseudo(&HeaderName::Path)?,
            Attribute::UrlPath => Value::lossy(split_path(self.request_header(&HeaderName::Path)?).0),
            Attribute::Query => Value::lossy(split_path(self.request_header(&HeaderName::Path)?).1),
            Attribute::Host => self.pseudo(&HeaderName::Authority)?,
            Attribute::Scheme => self.pseudo(&HeaderName::Scheme)?,
            Attribute::Method => self.pseudo(&HeaderName::Method)?,
            Attribute::Header(name) => self.joined(name)?,
            Attribute::Protocol => Value::text(entry.protocol?),
            Attribute::Size => number(self.content_length().unwrap_or(entry.bytes_received)),
            Attribute::Time => {
                Value::Timestamp(i64::try_from(entry.start_time.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()?)
            }
            Attribute::Duration => Value::Duration(i64::try_from(entry.start.elapsed().as_nanos()).ok()?),
            Attribute::ResponseCode => (entry.response_code > 0).then(|| number(entry.response_code.into()))?,
            Attribute::ResponseDetails => some(&entry.details)?,
            Attribute::GrpcStatus => Value::Int(self.grpc_status()?),
            Attribute::ResponseHeader(name) => Value::lossy(self.response_header(&HeaderName::Plain(name.clone()))?),
            Attribute::ResponseTrailer(name) => Value::lossy(self.trailer(&HeaderName::Plain(name.clone()))?),
            Attribute::ResponseSize => number(entry.bytes_sent),
            Attribute::ConnectionId => Value::Uint(entry.connection),
            Attribute::Mtls => Value::Bool(entry.tls.as_ref().is_some_and(|tls| tls.peer().is_some())),
            Attribute::ServerName => Value::text(entry.requested_server_name.as_deref().unwrap_or_default()),
            Attribute::TlsVersion => Value::text(entry.tls.as_ref()?.version),
            Attribute::Certificate(side, part) => certificate(entry.tls.as_ref()?, *side, *part)?,
            Attribute::TerminationDetails => some(&entry.termination_details)?,
            Attribute::SourceAddress => address(entry.downstream_remote),
            Attribute::SourcePort => number(entry.downstream_remote.port().into()),
            Attribute::DestinationAddress => address(entry.downstream_local),
            Attribute::DestinationPort => number(entry.downstream_local.port().into()),
            Attribute::UpstreamAddress => address(entry.upstream.as_ref()?.address),
            Attribute::UpstreamPort => number(entry.upstream.as_ref()?.address.port().into()),
            Attribute::UpstreamLocalAddress => address(entry.upstream_local?),
            Attribute::UpstreamTransportFailure => {
                entry.upstream.as_ref()?;
                Value::text(&entry.transport_failure)
            }
            Attribute::UpstreamAttempts => Value::Uint(entry.attempts.into()),
            Attribute::Metadata(namespace, path) => Value::json(entry.metadata.as_ref()?.get(namespace, path)?)?,
            Attribute::RouteName => Value::text(entry.route_name.as_deref().unwrap_or_default()),
            Attribute::ClusterName => Value::text(&entry.cluster.as_ref()?.name),
            Attribute::FilterChainName => Value::text(&entry.place.as_ref()?.filter_chain),
        })
    }
}

impl View<'_> {
    fn pseudo(&self, name: &HeaderName) -> Option<Value<'_>> {
        self.request_header(name).map(Value::lossy)
    }

    fn joined(&self, name: &http::HeaderName) -> Option<Value<'_>> {
        let mut values = self.request_values(name);
        let first = Value::lossy(values.next()?);
        let Value::Text(mut joined) = first else { return None };
        for value in values {
            let joined = joined.to_mut();
            joined.push(',');
            joined.push_str(&String::from_utf8_lossy(value));
        }
        Some(Value::Text(joined))
    }

    fn content_length(&self) -> Option<u64> {
        std::str::from_utf8(self.request_values(&http::header::CONTENT_LENGTH).next()?).ok()?.parse().ok()
    }
}

fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'?', path) {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, b""),
    }
}

fn number(value: u64) -> Value<'static> {
    Value::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

fn some(text: &str) -> Option<Value<'_>> {
    (!text.is_empty()).then(|| Value::text(text))
}

fn address(address: SocketAddr) -> Value<'static> {
    Value::Text(NamedAddress::text(&address).into())
}

fn certificate(tls: &PeerTls, side: Side, part: Part) -> Option<Value<'_>> {
    let certificate = match side {
        Side::Local => tls.local.as_ref(),
        Side::Peer => tls.peer(),
    };
    let content = certificate.map(Certificate::content)?;
    Some(Value::text(match part {
        Part::Subject => &content.subject,
        Part::Uri => content.uris().next()?,
        Part::Dns => content.dns().next()?,
    }))
}
