//! Why TLS failed, in BoringSSL's words: `%DOWNSTREAM_TRANSPORT_FAILURE_REASON%` and the like.
//!
//! Envoy prints what BoringSSL's error queue holds, `TLS_error:|CODE:SSL routines:OPENSSL_internal:REASON:TLS_error_end`;
//! the code is `16 << 24 | reason`. What rustls reports is put into those words where they exist.

use std::{fmt, io};

use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

use super::untrusted::{KEY_USAGE, Untrusted};

/// `ERR_LIB_SSL << 24`.
const LIBRARY: u32 = 16 << 24;
/// `ERR_LIB_SYS << 24`.
const SYSTEM: u32 = 2 << 24;
/// Alerts are reasons from here on, by their number.
const FIRST_ALERT: u32 = 1000;

/// A record with an alert that is not encrypted.
const ALERT_BYTES: usize = 7;
const HANDSHAKE_FAILURE: &str = "SSLV3_ALERT_HANDSHAKE_FAILURE";
/// The same where a server answers a ClientHello so: BoringSSL's queue then holds two errors.
const HANDSHAKE_FAILURE_AT_ONCE: &str =
    "SSLV3_ALERT_HANDSHAKE_FAILURE|268435610:SSL routines:OPENSSL_internal:HANDSHAKE_FAILURE_ON_CLIENT_HELLO";

/// A handshake, or a connection, that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// TLS failed.
    Tls {
        /// BoringSSL's number of it, and its name.
        reason: (u32, &'static str),
        /// What Envoy adds; empty: nothing.
        detail: String,
        /// How it is counted.
        kind: Kind,
    },
    /// The socket failed, or the peer left: no matter of TLS.
    Io {
        /// What happened.
        text: String,
        /// The kernel's number of it, if there is one.
        errno: Option<i32>,
    },
    /// The handshake took too long.
    Timeout,
    /// There is no context: a secret that it needs has not come.
    NoSecret,
}

/// How a failure is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ssl.connection_error`.
    Connection,
    /// `ssl.fail_verify_no_cert`.
    NoCertificate,
    /// `ssl.fail_verify_error`.
    Chain,
    /// `ssl.fail_verify_san`.
    Names,
    /// `ssl.fail_verify_cert_hash`.
    Hash,
}

impl Kind {
    /// Of a certificate that is not trusted.
    pub fn of(untrusted: &Untrusted) -> Self {
        match untrusted {
            Untrusted::Chain { .. } => Self::Chain,
            Untrusted::Names(_) | Untrusted::Asked { .. } => Self::Names,
            Untrusted::Hash => Self::Hash,
        }
    }
}

impl Failure {
    /// Of what reading, writing or a handshake returned.
    pub fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(error) => Self::of_tls(error),
            None => Self::Io { text: error.to_string(), errno: error.raw_os_error() },
        }
    }

    /// Of a handshake with a server, which has said `received` bytes.
    pub(super) fn of_answer(error: &io::Error, received: usize) -> Self {
        let mut failure = Self::of(error);
        if let Self::Tls { reason, .. } = &mut failure
            && *reason == (FIRST_ALERT + 40, HANDSHAKE_FAILURE)
            && received == ALERT_BYTES
        {
            reason.1 = HANDSHAKE_FAILURE_AT_ONCE;
        }
        failure
    }

    /// The connection ends for a reason that BoringSSL has no words for.
    pub fn left(why: &str) -> Self {
        Self::Io { text: why.into(), errno: None }
    }

    /// Of what a client begins with, which rustls refuses.
    pub(super) fn of_greeting(error: &Error, first: &[u8]) -> Self {
        let reason = match first {
            [b'G', b'E', b'T', b' ', ..] | [b'P', b'U', b'T', b' ', ..] => (156, "HTTP_REQUEST"),
            [b'P', b'O', b'S', b'T', b' ', ..] | [b'H', b'E', b'A', b'D', b' ', ..] => (156, "HTTP_REQUEST"),
            [b'C', b'O', b'N', b'N', b'E', ..] => (155, "HTTPS_PROXY_REQUEST"),
            _ => return Self::of_tls(error),
        };
        Self::Tls { reason, detail: String::new(), kind: Kind::Connection }
    }

    /// Of what rustls says.
    pub(super) fn of_tls(error: &Error) -> Self {
        let connection = |reason| Self::Tls { reason, detail: String::new(), kind: Kind::Connection };
        match error {
            Error::InvalidCertificate(_) => match Untrusted::find(error) {
                Some(untrusted) => Self::Tls {
                    reason: (125, "CERTIFICATE_VERIFY_FAILED"),
                    detail: format!("verify cert failed: {untrusted}"),
                    kind: Kind::of(&untrusted),
                },
                None => connection((137, "DECODE_ERROR")),
            },
            Error::NoCertificatesPresented => Self::Tls {
                reason: (192, "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
                detail: "peer did not provide required client certificate".into(),
                kind: Kind::NoCertificate,
            },
            Error::AlertReceived(alert) => connection((FIRST_ALERT + u32::from(u8::from(*alert)), alert_name(*alert))),
            Error::NoApplicationProtocol => connection((307, "NO_APPLICATION_PROTOCOL")),
            Error::PeerIncompatible(what) => connection(incompatible(what)),
            Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol) => {
                connection((267, "INVALID_ALPN_PROTOCOL"))
            }
            Error::PeerMisbehaved(what) if *what == KEY_USAGE => connection((302, "KEY_USAGE_BIT_INCORRECT")),
            Error::PeerMisbehaved(_) => connection((137, "DECODE_ERROR")),
            Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
                connection((247, "WRONG_VERSION_NUMBER"))
            }
            Error::InvalidMessage(_) => connection((137, "DECODE_ERROR")),
            Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
                connection((223, "UNEXPECTED_MESSAGE"))
            }
            Error::DecryptError => connection((148, "DECRYPTION_FAILED_OR_BAD_RECORD_MAC")),
            Error::PeerSentOversizedRecord => connection((136, "DATA_LENGTH_TOO_LONG")),
            _ => connection((223, "UNEXPECTED_MESSAGE")),
        }
    }

    /// How to count it; none: it is not TLS that failed.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Tls { kind, .. } => Some(*kind),
            Self::Io { .. } | Self::Timeout | Self::NoSecret => None,
        }
    }

    /// The transport failure reason; empty if there is none to tell. With spaces, as in bodies; logs write underscores.
    pub fn reason(&self) -> String {
        match self {
            Self::Tls { reason: (number, name), detail, .. } => {
                let detail = if detail.is_empty() { String::new() } else { format!(":{detail}") };
                format!("TLS_error:|{}:SSL routines:OPENSSL_internal:{name}{detail}:TLS_error_end", LIBRARY + number)
            }
            Self::Io { errno: Some(errno), .. } => format!(
                "TLS_error:|{}:system library:OPENSSL_internal:{}:TLS_error_end",
                SYSTEM + errno.unsigned_abs(),
                nix::errno::Errno::from_raw(*errno).desc()
            ),
            Self::Io { .. } => String::new(),
            Self::Timeout => "transport socket timeout was reached".into(),
            Self::NoSecret => "TLS error: Secret is not supplied by SDS".into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { text, .. } => f.write_str(text),
            _ => f.write_str(&self.reason()),
        }
    }
}

fn incompatible(what: &PeerIncompatible) -> (u32, &'static str) {
    match what {
        PeerIncompatible::NoCipherSuitesInCommon => (184, "NO_SHARED_CIPHER"),
        PeerIncompatible::NoKxGroupsInCommon => (266, "NO_SHARED_GROUP"),
        PeerIncompatible::NoSignatureSchemesInCommon => (253, "NO_COMMON_SIGNATURE_ALGORITHMS"),
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        // All later than TLS 1.1 send it.
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::Tls13RequiredForQuic => (240, "UNSUPPORTED_PROTOCOL"),
        PeerIncompatible::ExtendedMasterSecretExtensionRequired => (252, "EXTENDED_MASTER_SECRET_MISSING"),
        _ => (223, "UNEXPECTED_MESSAGE"),
    }
}

/// BoringSSL's name of an alert that was received.
fn alert_name(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CloseNotify => "SSLV3_ALERT_CLOSE_NOTIFY",
        AlertDescription::UnexpectedMessage => "SSLV3_ALERT_UNEXPECTED_MESSAGE",
        AlertDescription::BadRecordMac => "SSLV3_ALERT_BAD_RECORD_MAC",
        AlertDescription::RecordOverflow => "TLSV1_ALERT_RECORD_OVERFLOW",
        AlertDescription::HandshakeFailure => HANDSHAKE_FAILURE,
        AlertDescription::NoCertificate => "SSLV3_ALERT_NO_CERTIFICATE",
        AlertDescription::BadCertificate => "SSLV3_ALERT_BAD_CERTIFICATE",
        AlertDescription::UnsupportedCertificate => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        AlertDescription::CertificateRevoked => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        AlertDescription::CertificateExpired => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        AlertDescription::CertificateUnknown => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        AlertDescription::IllegalParameter => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        AlertDescription::UnknownCA => "TLSV1_ALERT_UNKNOWN_CA",
        AlertDescription::AccessDenied => "TLSV1_ALERT_ACCESS_DENIED",
        AlertDescription::DecodeError => "TLSV1_ALERT_DECODE_ERROR",
        AlertDescription::DecryptError => "TLSV1_ALERT_DECRYPT_ERROR",
        AlertDescription::ProtocolVersion => "TLSV1_ALERT_PROTOCOL_VERSION",
        AlertDescription::InsufficientSecurity => "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        AlertDescription::InternalError => "TLSV1_ALERT_INTERNAL_ERROR",
        AlertDescription::InappropriateFallback => "TLSV1_ALERT_INAPPROPRIATE_FALLBACK",
        AlertDescription::UserCanceled => "TLSV1_ALERT_USER_CANCELLED",
        AlertDescription::NoRenegotiation => "TLSV1_ALERT_NO_RENEGOTIATION",
        AlertDescription::UnsupportedExtension => "TLSV1_ALERT_UNSUPPORTED_EXTENSION",
        AlertDescription::UnrecognisedName => "TLSV1_ALERT_UNRECOGNIZED_NAME",
        AlertDescription::BadCertificateStatusResponse => "TLSV1_ALERT_BAD_CERTIFICATE_STATUS_RESPONSE",
        AlertDescription::UnknownPSKIdentity => "TLSV1_ALERT_UNKNOWN_PSK_IDENTITY",
        AlertDescription::CertificateRequired => "TLSV1_ALERT_CERTIFICATE_REQUIRED",
        AlertDescription::NoApplicationProtocol => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        _ => "TLSV1_ALERT_UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(error: Error) -> String {
        Failure::of(&io::Error::new(io::ErrorKind::InvalidData, error)).reason()
    }

    #[test]
    fn reasons_read_as_boringssls() {
        assert_eq!(
            reason(Error::AlertReceived(AlertDescription::HandshakeFailure)),
            "TLS_error:|268436496:SSL routines:OPENSSL_internal:SSLV3_ALERT_HANDSHAKE_FAILURE:TLS_error_end"
        );
        assert_eq!(
            reason(Error::InvalidMessage(InvalidMessage::InvalidContentType)),
            "TLS_error:|268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end"
        );
        assert_eq!(
            reason(Error::NoCertificatesPresented),
            "TLS_error:|268435648:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE:\
             peer did not provide required client certificate:TLS_error_end"
        );
        let left = Failure::of(&io::Error::from(io::ErrorKind::UnexpectedEof));
        assert_eq!((left.reason().as_str(), left.kind()), ("", None));
        let reset = Failure::of(&io::Error::from_raw_os_error(libc::ECONNRESET));
        assert_eq!(reset.kind(), None);
        assert_eq!(
            reset.reason(),
            "TLS_error:|33554536:system library:OPENSSL_internal:Connection reset by peer:TLS_error_end"
        );
    }
}
