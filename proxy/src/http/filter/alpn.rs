//! Saying what TLS offers an upstream by ALPN.

use crate::{
    config::{
        cluster::{Cluster, UpstreamProtocol},
        filter::alpn::{AlpnOverride, Names},
    },
    http::stream::Stream,
    matcher::metadata::Metadata,
};

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Http10,
    Http11,
    Http2,
}

pub(super) fn on_request(alpn: &AlpnOverride, stream: &mut Stream) {
    let client = match stream.record.entry.protocol {
        _ if stream.connection.multiplexed => Client::Http2,
        Some("HTTP/1.0") => Client::Http10,
        _ => Client::Http11,
    };
    let names = |cluster: &Cluster| match is_on(cluster.logged.metadata.as_ref()) {
        true => names(alpn, cluster.protocol, client).cloned(),
        false => None,
    };
    stream.alpn = stream.cluster.as_deref().and_then(names);
}

/// A cluster's metadata may say that it is offered what it is configured to be.
fn is_on(metadata: Option<&Metadata>) -> bool {
    let switch = metadata.and_then(|metadata| metadata.get("istio", &["alpn_override".into()]));
    switch.and_then(serde_json::Value::as_str) != Some("false")
}

/// What a cluster that is spoken to so is offered; none: what it is offered anyway.
fn names(alpn: &AlpnOverride, spoken: UpstreamProtocol, client: Client) -> Option<&Names> {
    let names = match (spoken, client) {
        (UpstreamProtocol::Http2 | UpstreamProtocol::Negotiated, _) | (UpstreamProtocol::Downstream, Client::Http2) => {
            &alpn.http2
        }
        (UpstreamProtocol::Downstream, Client::Http10) => &alpn.http10,
        (UpstreamProtocol::Http1, _) | (UpstreamProtocol::Downstream, Client::Http11) => &alpn.http11,
    };
    names.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_goes_by_what_is_spoken() {
        let list = |name: &str| Some(Names::from([Box::from(name)]));
        let alpn = AlpnOverride { http10: list("0"), http11: list("1"), http2: list("2") };
        for (spoken, client, offered) in [
            (UpstreamProtocol::Http1, Client::Http2, "1"),
            (UpstreamProtocol::Http2, Client::Http11, "2"),
            (UpstreamProtocol::Downstream, Client::Http10, "0"),
            (UpstreamProtocol::Downstream, Client::Http11, "1"),
            (UpstreamProtocol::Downstream, Client::Http2, "2"),
            (UpstreamProtocol::Negotiated, Client::Http11, "2"),
        ] {
            assert_eq!(names(&alpn, spoken, client).unwrap()[..], [Box::from(offered)], "{spoken:?} {client:?}");
        }
        assert_eq!(names(&AlpnOverride::default(), UpstreamProtocol::Http1, Client::Http11), None);
    }

    #[test]
    fn a_cluster_can_switch_it_off() {
        let mut metadata = Metadata::default();
        metadata.set("istio", "alpn_override", "false");
        assert!(is_on(None) && is_on(Some(&Metadata::default())) && !is_on(Some(&metadata)));
    }
}
