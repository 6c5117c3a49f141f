//! TLS towards upstreams.

use std::{net::IpAddr, sync::Arc};

use rustls::{
    ClientConfig,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use tokio_rustls::{TlsConnector, TlsStream};

use super::{
    certificate::Certificate,
    failure::Failure,
    key_log::{KeyLogFile, KeyLogRange},
    server::KeyPair,
    session::PeerTls,
    verify::{Validation, Verifier},
};
use crate::wire::{bare::Bare, deferring::Deferring, io::Io};

/// What a client context is made of.
#[derive(Debug)]
pub struct Settings {
    /// Cipher suites and groups.
    pub provider: Arc<CryptoProvider>,
    /// TLS 1.2 is spoken.
    pub tls12: bool,
    /// TLS 1.3 is spoken.
    pub tls13: bool,
    /// Shown to servers that ask for one.
    pub certificate: Option<KeyPair>,
    /// What is asked of servers.
    pub validation: Arc<Validation>,
    /// SNI; empty: none.
    pub server_name: String,
    /// SNI is the endpoint's hostname, where it has one.
    pub host_server_name: bool,
    /// The certificate must be for the name asked for.
    pub validate_server_name: bool,
    /// ALPN, the most preferred first; empty: what the connection's user speaks.
    pub protocols: Vec<Vec<u8>>,
    /// Sessions that are remembered.
    pub sessions: usize,
    /// Where secrets go, and whose.
    pub key_log: Option<(Arc<KeyLogFile>, KeyLogRange)>,
}

/// TLS towards the endpoints of a cluster.
#[derive(Debug)]
pub struct ClientContext {
    /// As configured.
    configured: Checked,
    /// The same, where the certificate must be for the name asked for.
    named: Checked,
    server_name: Option<ServerName<'static>>,
    host_server_name: bool,
    validate_server_name: bool,
    has_protocols: bool,
    certificate: Option<Certificate>,
    key_log: Option<(Arc<KeyLogFile>, KeyLogRange)>,
}

/// A configuration, and what checks the certificates of its peers.
#[derive(Debug)]
struct Checked {
    config: Arc<ClientConfig>,
    verifier: Arc<Verifier>,
}

impl Checked {
    /// The same for one connection, whose peer must be `name` too. It goes on with no session: those are found by what is
    /// sent, and may have been checked for another name.
    fn only_for(&self, name: &str) -> Self {
        let verifier = Arc::new(self.verifier.of_servers_named(name));
        let mut config = ClientConfig::clone(&self.config);
        config.dangerous().set_certificate_verifier(verifier.clone());
        config.resumption = Resumption::disabled();
        Self { config: Arc::new(config), verifier }
    }
}

/// What one connection asks for beyond the configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// SNI instead of the configured one (`auto_sni`).
    pub server_name: Option<&'a str>,
    /// The certificate must be for this name or address (`auto_san_validation`).
    pub validate: Option<&'a str>,
    /// The endpoint's hostname; empty: none.
    pub hostname: &'a str,
    /// ALPN, where none is configured.
    pub protocols: &'a [&'a str],
    /// ALPN, whatever is configured.
    pub overrides: Option<&'a [Box<str>]>,
}

impl ClientContext {
    /// Makes it.
    pub fn new(settings: Settings) -> Result<Self, rustls::Error> {
        let mut versions = Vec::new();
        if settings.tls13 {
            versions.push(&TLS13);
        }
        if settings.tls12 {
            versions.push(&TLS12);
        }
        let algorithms = settings.provider.signature_verification_algorithms;
        let verifier = |named| Arc::new(Verifier::of_servers(settings.validation.clone(), algorithms, named));
        let (unnamed_verifier, named_verifier) = (verifier(false), verifier(true));
        let builder = ClientConfig::builder_with_provider(settings.provider.clone())
            .with_protocol_versions(&versions)?
            .dangerous()
            .with_custom_certificate_verifier(unnamed_verifier.clone());
        let certificate =
            settings.certificate.as_ref().and_then(|pair| pair.chain.first()).cloned().map(Certificate::from);
        let mut configured = match settings.certificate {
            Some(pair) => builder.with_client_cert_resolver(pair.certified(&settings.provider)?),
            None => builder.with_no_client_auth(),
        };
        configured.alpn_protocols = settings.protocols.clone();
        configured.resumption = match settings.sessions {
            0 => Resumption::disabled(),
            sessions => Resumption::in_memory_sessions(sessions),
        };
        let mut named = configured.clone();
        named.dangerous().set_certificate_verifier(named_verifier.clone());
        // A session's certificate was checked by the one that began it.
        named.resumption = match settings.sessions {
            0 => Resumption::disabled(),
            sessions => Resumption::in_memory_sessions(sessions),
        };
        Ok(Self {
            configured: Checked { config: Arc::new(configured), verifier: unnamed_verifier },
            named: Checked { config: Arc::new(named), verifier: named_verifier },
            server_name: server_name(&settings.server_name),
            host_server_name: settings.host_server_name,
            validate_server_name: settings.validate_server_name,
            has_protocols: !settings.protocols.is_empty(),
            certificate,
            key_log: settings.key_log,
        })
    }

    /// The certificate shown to servers.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// The certificates that servers' must lead to.
    pub fn roots(&self) -> impl Iterator<Item = &Certificate> {
        self.configured.verifier.validation().roots.iter().map(|root| &root.certificate)
    }

    /// Shakes hands with a server.
    pub async fn connect(&self, bare: Bare, asked: Asked<'_>) -> Result<(Io, PeerTls), Failure> {
        let host = Some(asked.hostname).filter(|host| self.host_server_name && !host.is_empty());
        let name = asked.server_name.or(host).and_then(server_name).or_else(|| self.server_name.clone());
        let sent: Option<Arc<str>> = match &name {
            Some(ServerName::DnsName(name)) => Some(name.as_ref().into()),
            _ => None,
        };
        let validate = asked.validate.or(sent.as_deref().filter(|_| self.validate_server_name));
        let of_its_own;
        let Checked { config, verifier } = match validate {
            None => &self.configured,
            // Sessions are found by what is sent, and so checked for the same name.
            Some(name) if sent.as_deref() == Some(name) => &self.named,
            Some(name) => {
                of_its_own = self.configured.only_for(name);
                &of_its_own
            }
        };
        let mut config = config.clone();
        let addresses = bare.tcp().and_then(|tcp| Some((tcp.local_addr().ok()?, tcp.peer_addr().ok()?)));
        if let (Some((file, range)), Some((local, remote))) = (&self.key_log, addresses)
            && range.contains(local.ip(), remote.ip())
        {
            Arc::make_mut(&mut config).key_log = file.clone();
        }
        let protocols: Vec<Vec<u8>> = match (asked.overrides, self.has_protocols) {
            (Some(names), _) => names.iter().map(|name| name.as_bytes().to_vec()).collect(),
            (None, true) => Vec::new(),
            (None, false) => asked.protocols.iter().map(|name| name.as_bytes().to_vec()).collect(),
        };
        // Without a name none is sent: an address is the way to say so.
        let name = name.unwrap_or(ServerName::IpAddress(IpAddr::from([0, 0, 0, 0]).into()));
        let connector = TlsConnector::from(config);
        let under = Deferring::new(bare);
        let connecting = match protocols.is_empty() {
            true => connector.connect(name, under),
            false => connector.with_alpn(protocols).connect(name, under),
        };
        let connected = connecting.into_fallible().await;
        let stream = connected.map_err(|(error, under)| Failure::of_answer(&error, under.received()))?;
        let connection = stream.get_ref().1;
        let session = PeerTls::new(connection, sent.clone(), self.certificate.clone(), verifier, sent.as_deref());
        Ok((Io::Tls(Box::new(TlsStream::Client(stream))), session))
    }
}

fn server_name(name: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(name).ok().map(|name| name.to_owned())
}
