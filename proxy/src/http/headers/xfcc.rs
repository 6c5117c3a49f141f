//! `x-forwarded-client-cert`: who the client of this hop, and of those before it, has proved to be.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    config::http::{ClientCertificateDetails, ForwardClientCertificate},
    tls::{PeerTls, certificate::Certificate},
};

/// The header.
pub(super) const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// What this hop says of its client; none: the client has shown no certificate.
pub(in crate::http) fn element(details: &ClientCertificateDetails, tls: Option<&PeerTls>) -> Option<HeaderValue> {
    let tls = tls?;
    let peer = tls.peer()?;
    let content = peer.content();
    let mut parts = Vec::new();
    if let Some(local) = &tls.local {
        parts.extend(local.content().uris().map(|uri| format!("By={uri}")));
    }
    parts.push(format!("Hash={}", peer.sha256()));
    if details.cert {
        parts.push(format!("Cert=\"{}\"", peer.url_encoded_pem()));
    }
    if details.chain {
        let chain: String = tls.chain().iter().map(Certificate::url_encoded_pem).collect();
        parts.push(format!("Chain=\"{chain}\""));
    }
    if details.subject {
        parts.push(format!("Subject=\"{}\"", content.subject));
    }
    if details.uri {
        // The key is there even if there is no URI.
        match content.uris().next() {
            None => parts.push("URI=".into()),
            Some(_) => parts.extend(content.uris().map(|uri| format!("URI={uri}"))),
        }
    }
    if details.dns {
        parts.extend(content.dns().map(|name| format!("DNS={name}")));
    }
    HeaderValue::try_from(parts.join(";")).ok()
}

/// Rewrites the header. `element` is what this hop says; none: its client has shown no certificate.
pub(in crate::http) fn rewrite(
    mode: ForwardClientCertificate,
    headers: &mut HeaderMap,
    element: impl FnOnce() -> Option<HeaderValue>,
) {
    use ForwardClientCertificate::{AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet};
    match mode {
        AlwaysForwardOnly => {}
        Sanitize => {
            headers.remove(&X_FORWARDED_CLIENT_CERT);
        }
        ForwardOnly | AppendForward | SanitizeSet => match element() {
            None => {
                headers.remove(&X_FORWARDED_CLIENT_CERT);
            }
            Some(_) if mode == ForwardOnly => {}
            Some(element) => {
                let joined = match mode {
                    AppendForward => appended(headers, &element),
                    _ => None,
                };
                headers.insert(X_FORWARDED_CLIENT_CERT, joined.unwrap_or(element));
            }
        },
    }
}

fn appended(headers: &HeaderMap, element: &HeaderValue) -> Option<HeaderValue> {
    let mut joined = Vec::new();
    for value in headers.get_all(&X_FORWARDED_CLIENT_CERT) {
        joined.extend_from_slice(value.as_bytes());
        joined.push(b',');
    }
    if joined.is_empty() {
        return None;
    }
    joined.extend_from_slice(element.as_bytes());
    HeaderValue::from_bytes(&joined).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(mode: ForwardClientCertificate, sent: &[&'static str], element: Option<&'static str>) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for value in sent {
            headers.append(X_FORWARDED_CLIENT_CERT, HeaderValue::from_static(value));
        }
        rewrite(mode, &mut headers, || element.map(HeaderValue::from_static));
        headers.get_all(X_FORWARDED_CLIENT_CERT).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_is_forwarded_depends_on_the_mode_and_on_the_client() {
        use ForwardClientCertificate::{AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet};
        for (mode, with, without) in [
            (Sanitize, &[][..], &[][..]),
            (ForwardOnly, &["Hash=1"], &[]),
            (AppendForward, &["Hash=1,Hash=2"], &[]),
            (SanitizeSet, &["Hash=2"], &[]),
            (AlwaysForwardOnly, &["Hash=1"], &["Hash=1"]),
        ] {
            assert_eq!(rewritten(mode, &["Hash=1"], Some("Hash=2")), with, "{mode:?}");
            assert_eq!(rewritten(mode, &["Hash=1"], None), without, "{mode:?}");
        }
        assert_eq!(rewritten(AppendForward, &[], Some("Hash=2")), ["Hash=2"]);
        assert_eq!(rewritten(AppendForward, &["a", "b"], Some("c")), ["a,b,c"]);
    }
}
