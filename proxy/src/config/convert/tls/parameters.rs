//! Versions, cipher suites and groups.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use weir_proto::envoy::extensions::transport_sockets::tls::v3::{
    TlsParameters,
    tls_parameters::{CompliancePolicy, TlsProtocol},
};

use crate::{
    config::{
        convert::{
            context::Context,
            fields::{item, sub},
        },
        error::Error,
    },
    tls::{
        names::{self, Missing},
        provider, tls13,
    },
};

pub(super) struct Parameters {
    pub provider: Arc<CryptoProvider>,
    pub tls12: bool,
    pub tls13: bool,
}

pub(super) fn parameters(
    cx: &mut Context,
    message: Option<&TlsParameters>,
    server: bool,
    at: &str,
) -> Result<Parameters, Error> {
    let default = TlsParameters::default();
    let message = message.unwrap_or(&default);
    let supported = [
        "tls_minimum_protocol_version",
        "tls_maximum_protocol_version",
        "cipher_suites",
        "ecdh_curves",
        "compliance_policies",
    ];
    cx.only(message, at, &supported, &[])?;
    if let Some(policy) = message.compliance_policies.first() {
        let name = CompliancePolicy::try_from(*policy).map_or("unknown", |policy| policy.as_str_name());
        return Err(Error::at(item(at, "compliance_policies", 0), format!("{name} is not supported")));
    }
    let version = |protocol: TlsProtocol, field: &str, default: u8| match protocol {
        TlsProtocol::TlsAuto => Ok(default),
        TlsProtocol::TlSv12 => Ok(2),
        TlsProtocol::TlSv13 => Ok(3),
        old @ (TlsProtocol::TlSv10 | TlsProtocol::TlSv11) => Err(Error::at(
            sub(at, field),
            format!("{} is not supported: TLSv1_2 is the lowest version", old.as_str_name()),
        )),
    };
    let least = version(message.tls_minimum_protocol_version(), "tls_minimum_protocol_version", 2)?;
    // As Envoy: clients do not speak TLS 1.3 unless they are told to.
    let most = version(
        message.tls_maximum_protocol_version(),
        "tls_maximum_protocol_version",
        if server { 3 } else { 2.max(least) },
    )?;
    if least > most {
        return Err(Error::at(sub(at, "tls_maximum_protocol_version"), "must not be less than the minimum"));
    }
    let (tls12, tls13) = (least <= 2, most >= 3);
    let mut suites = if tls13 { tls13::SUITES.to_vec() } else { Vec::new() };
    suites.extend(cipher_suites(cx, &message.cipher_suites, at)?);
    Ok(Parameters { provider: provider(suites, groups(cx, &message.ecdh_curves, server, at)?), tls12, tls13 })
}

fn cipher_suites(
    cx: &mut Context,
    configured: &[String],
    at: &str,
) -> Result<Vec<rustls::SupportedCipherSuite>, Error> {
    let mut suites = Vec::new();
    for (index, entry) in configured.iter().enumerate() {
        let at = item(at, "cipher_suites", index);
        // `[A|B]` are as good as each other.
        for name in entry.trim_matches(['[', ']']).split(['|', ':']) {
            match names::cipher_suite(name) {
                Ok(suite) => suites.push(suite),
                Err(Missing::NotHere) => cx.ignored.push(format!("{at}: {name}")),
                Err(Missing::Unknown) => return Err(Error::at(at, format!("unknown cipher suite \"{name}\""))),
            }
        }
    }
    match (suites.is_empty(), configured.is_empty()) {
        (true, true) => Ok(names::TLS12_SUITES.to_vec()),
        (true, false) => {
            let have: Vec<_> = names::TLS12_SUITES.iter().map(|suite| names::suite_name(suite.suite())).collect();
            Err(Error::at(sub(at, "cipher_suites"), format!("none is supported; there are {}", have.join(", "))))
        }
        _ => Ok(suites),
    }
}

fn groups(
    cx: &mut Context,
    configured: &[String],
    server: bool,
    at: &str,
) -> Result<Vec<&'static dyn rustls::crypto::SupportedKxGroup>, Error> {
    let mut groups = Vec::new();
    for (index, name) in configured.iter().enumerate() {
        let at = item(at, "ecdh_curves", index);
        match names::group(name) {
            Ok(group) => groups.push(group),
            Err(Missing::NotHere) => cx.ignored.push(format!("{at}: {name}")),
            Err(Missing::Unknown) => return Err(Error::at(at, format!("unknown curve \"{name}\""))),
        }
    }
    match (groups.is_empty(), configured.is_empty()) {
        (true, true) if server => Ok(names::SERVER_GROUPS.to_vec()),
        (true, true) => Ok(names::CLIENT_GROUPS.to_vec()),
        (true, false) => {
            let message = "none is supported; there are X25519, P-256, P-384, X25519MLKEM768";
            Err(Error::at(sub(at, "ecdh_curves"), message))
        }
        _ => Ok(groups),
    }
}
