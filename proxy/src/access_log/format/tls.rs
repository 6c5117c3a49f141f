//! Operators about TLS: what a handshake settled, and the certificates of both sides.

use super::time::TimeFormat;
use crate::{
    access_log::entry::Entry,
    tls::{PeerTls, certificate::Certificate},
};

/// An operator about TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsField {
    side: Side,
    what: What,
}

/// Which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Downstream,
    Upstream,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Version,
    Cipher,
    Group,
    /// rustls does not tell it.
    SessionId,
    Peer(Part),
    Local(Part),
    /// Of every certificate of the peer's chain.
    Chain(Part),
    /// Of the certificate that issued the peer's.
    Issuer(Part),
    /// SNI.
    ServerName,
    TransportFailure,
}

/// Something of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Subject,
    Issuer,
    Serial,
    Uris,
    Dns,
    Ips,
    Emails,
    Sha256,
    Sha1,
    Pem,
    ValidFrom(TimeFormat),
    ValidUntil(TimeFormat),
    /// Names that no certificate has here: `otherName`.
    OtherNames,
}

impl TlsField {
    /// The operator of that name, if it is one about TLS.
    pub fn parse(command: &str, parameter: &str) -> Result<Option<Self>, String> {
        let (side, name) = match (command.strip_prefix("DOWNSTREAM_"), command.strip_prefix("UPSTREAM_")) {
            (Some(name), _) => (Side::Downstream, name),
            (None, Some(name)) => (Side::Upstream, name),
            (None, None) => return Ok(None),
        };
        let format = || TimeFormat::parse(parameter, false);
        let both = match name {
            "TLS_VERSION" => What::Version,
            "TLS_CIPHER" => What::Cipher,
            "TLS_SESSION_ID" => What::SessionId,
            "PEER_SUBJECT" => What::Peer(Part::Subject),
            "PEER_ISSUER" => What::Peer(Part::Issuer),
            "PEER_URI_SAN" => What::Peer(Part::Uris),
            "PEER_DNS_SAN" => What::Peer(Part::Dns),
            "PEER_IP_SAN" => What::Peer(Part::Ips),
            "PEER_CERT" => What::Peer(Part::Pem),
            "PEER_CERT_V_START" => What::Peer(Part::ValidFrom(format()?)),
            "PEER_CERT_V_END" => What::Peer(Part::ValidUntil(format()?)),
            "LOCAL_URI_SAN" => What::Local(Part::Uris),
            "LOCAL_DNS_SAN" => What::Local(Part::Dns),
            "LOCAL_IP_SAN" => What::Local(Part::Ips),
            "TLS_GROUP" => What::Group,
            "SERVER_NAME" if side == Side::Upstream => What::ServerName,
            _ if side == Side::Upstream => return Ok(None),
            "PEER_OTHERNAME_SAN" => What::Peer(Part::OtherNames),
            "LOCAL_OTHERNAME_SAN" => What::Local(Part::OtherNames),
            "PEER_ISSUER_SERIAL" => What::Issuer(Part::Serial),
            "PEER_ISSUER_FINGERPRINT_256" => What::Issuer(Part::Sha256),
            "PEER_EMAIL_SAN" => What::Peer(Part::Emails),
            "PEER_SERIAL" => What::Peer(Part::Serial),
            "PEER_FINGERPRINT_256" => What::Peer(Part::Sha256),
            "PEER_FINGERPRINT_1" => What::Peer(Part::Sha1),
            "PEER_CHAIN_FINGERPRINTS_256" => What::Chain(Part::Sha256),
            "PEER_CHAIN_FINGERPRINTS_1" => What::Chain(Part::Sha1),
            "PEER_CHAIN_SERIALS" => What::Chain(Part::Serial),
            "LOCAL_SUBJECT" => What::Local(Part::Subject),
            "LOCAL_EMAIL_SAN" => What::Local(Part::Emails),
            "TRANSPORT_FAILURE_REASON" => What::TransportFailure,
            _ => return Ok(None),
        };
        Ok(Some(Self { side, what: both }))
    }

    /// Whether the operator takes a parameter.
    pub fn takes_parameter(&self) -> bool {
        matches!(self.what, What::Peer(Part::ValidFrom(_) | Part::ValidUntil(_)))
    }

    /// Appends the value; false if it is absent.
    pub(super) fn write(&self, out: &mut Vec<u8>, entry: &Entry) -> bool {
        if self.what == What::TransportFailure {
            return write(out, &entry.downstream_transport_failure);
        }
        let tls = match self.side {
            Side::Downstream => &entry.tls,
            Side::Upstream => &entry.upstream_tls,
        };
        let Some(tls) = tls.as_deref() else { return false };
        self.what.write(out, tls)
    }
}

impl What {
    fn write(&self, out: &mut Vec<u8>, tls: &PeerTls) -> bool {
        match self {
            Self::Version => write(out, tls.version),
            Self::Cipher => write(out, tls.cipher),
            Self::Group => write(out, tls.group),
            Self::SessionId | Self::TransportFailure => false,
            Self::ServerName => write(out, tls.server_name.as_deref().unwrap_or_default()),
            Self::Issuer(part) => tls.chain().get(1).is_some_and(|certificate| part.write(out, certificate)),
            Self::Peer(part) => tls.peer().is_some_and(|certificate| part.write(out, certificate)),
            Self::Local(part) => tls.local.as_ref().is_some_and(|certificate| part.write(out, certificate)),
            Self::Chain(part) => {
                let start = out.len();
                for certificate in tls.chain() {
                    if out.len() > start {
                        out.push(b',');
                    }
                    part.write(out, certificate);
                }
                out.len() > start
            }
        }
    }
}

impl Part {
    fn write(&self, out: &mut Vec<u8>, certificate: &Certificate) -> bool {
        let content = certificate.content();
        match self {
            Self::Subject => write(out, &content.subject),
            Self::Issuer => write(out, &content.issuer),
            Self::Serial => write(out, &content.serial),
            Self::Uris => join(out, content.uris()),
            Self::Dns => join(out, content.dns()),
            Self::Ips => join(out, content.ips().map(|ip| ip.to_string())),
            Self::Emails => join(out, content.emails()),
            Self::Sha256 => write(out, &certificate.sha256()),
            Self::Sha1 => write(out, &certificate.sha1()),
            Self::OtherNames => false,
            Self::Pem => write(out, &certificate.url_encoded_pem()),
            Self::ValidFrom(format) => write_seconds(out, content.not_before, format),
            Self::ValidUntil(format) => write_seconds(out, content.not_after, format),
        }
    }
}

fn write(out: &mut Vec<u8>, text: &str) -> bool {
    out.extend_from_slice(text.as_bytes());
    !text.is_empty()
}

fn join(out: &mut Vec<u8>, parts: impl Iterator<Item = impl AsRef<str>>) -> bool {
    let start = out.len();
    for part in parts {
        if out.len() > start {
            out.push(b',');
        }
        out.extend_from_slice(part.as_ref().as_bytes());
    }
    out.len() > start
}

fn write_seconds(out: &mut Vec<u8>, seconds: i64, format: &TimeFormat) -> bool {
    let since = std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    format.write(out, std::time::SystemTime::UNIX_EPOCH + since)
}
