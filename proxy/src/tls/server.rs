//! TLS towards clients: which certificate for which client, and the handshake.

use std::{net::IpAddr, sync::Arc};

use rustls::{
    CipherSuite, InconsistentKeys, ServerConfig, SignatureScheme,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use tokio_rustls::TlsStream;

use super::{
    certificate::Certificate,
    failure::Failure,
    greeting,
    key_log::{KeyLogFile, KeyLogRange},
    san::dns_name_matches,
    session::PeerTls,
    verify::{Validation, Verifier},
};
use crate::wire::{bare::Bare, io::Io};

/// Sessions that are kept for clients without tickets.
const SESSIONS: usize = 20 * 1024;
/// Tickets that a TLS 1.3 handshake gives: BoringSSL's number.
const TICKETS: usize = 2;
/// Tickets that one gives which goes on with a session: as OpenSSL, one for the one that the client has spent.
const TICKETS_AGAIN: usize = 1;

/// A certificate with its key.
#[derive(Debug)]
pub struct KeyPair {
    /// The certificate, and those above it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
    /// A stapled OCSP response; empty: none.
    pub ocsp: Vec<u8>,
}

impl Clone for KeyPair {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key(), ocsp: self.ocsp.clone() }
    }
}

impl KeyPair {
    /// As rustls shows it. An error: the key is none, or another certificate's. rustls's own check cannot read certificates
    /// of X.509 v1.
    pub fn certified(self, provider: &CryptoProvider) -> Result<Arc<SingleCertAndKey>, rustls::Error> {
        let leaf = Certificate::from(self.chain.first().cloned().unwrap_or_else(|| Vec::new().into()));
        let key = provider.key_provider.load_private_key(self.key)?;
        if key.public_key().is_some_and(|public| *public != *leaf.content().public_key) {
            return Err(InconsistentKeys::KeyMismatch.into());
        }
        let ocsp = Some(self.ocsp).filter(|ocsp| !ocsp.is_empty());
        Ok(Arc::new(SingleCertAndKey::from(CertifiedKey { ocsp, ..CertifiedKey::new(self.chain, key) })))
    }
}

/// How sessions are resumed.
#[derive(Clone, Debug)]
pub struct Resumption {
    /// What seals tickets; none: there are none.
    pub tickets: Option<Arc<dyn ProducesTickets>>,
    /// Sessions are remembered for clients without tickets.
    pub stateful: bool,
}

/// What a server context is made of.
#[derive(Debug)]
pub struct Settings {
    /// Cipher suites and groups.
    pub provider: Arc<CryptoProvider>,
    /// TLS 1.2 is spoken.
    pub tls12: bool,
    /// TLS 1.3 is spoken.
    pub tls13: bool,
    /// The client's order of cipher suites counts.
    pub client_order: bool,
    /// The first one serves who asks for no other.
    pub certificates: Vec<KeyPair>,
    /// What is asked of clients.
    pub validation: Arc<Validation>,
    /// A client without a certificate is refused.
    pub require_client_certificate: bool,
    /// The names of the roots are told to clients.
    pub tell_roots: bool,
    /// A client without SNI is refused.
    pub require_server_name: bool,
    /// A name that no certificate is for gets the one whose key suits the client best, instead of the first.
    pub full_scan: bool,
    /// ALPN, the most preferred first; empty: none.
    pub protocols: Vec<Vec<u8>>,
    /// How sessions are resumed.
    pub resumption: Resumption,
    /// Where secrets go, and whose.
    pub key_log: Option<(Arc<KeyLogFile>, KeyLogRange)>,
}

/// TLS towards the clients of a filter chain.
#[derive(Debug)]
pub struct ServerContext {
    choices: Vec<Choice>,
    verifier: Arc<Verifier>,
    tls13: bool,
    require_server_name: bool,
    full_scan: bool,
    key_log: Option<(Arc<KeyLogFile>, KeyLogRange)>,
}

/// Configurations that differ in what they make of a client.
#[derive(Debug)]
struct Configs {
    /// For one that is new, and one that goes on with a session.
    own_order: [Arc<ServerConfig>; 2],
    /// The same, but the client's order of cipher suites counts.
    client_order: [Arc<ServerConfig>; 2],
}

impl Configs {
    fn new(config: &ServerConfig, client_order: bool) -> Self {
        let with = |ignore_client_order, tickets| {
            let mut config = config.clone();
            config.ignore_client_order = ignore_client_order;
            config.send_tls13_tickets = config.send_tls13_tickets.min(tickets);
            Arc::new(config)
        };
        let both = |ignore| [with(ignore, TICKETS), with(ignore, TICKETS_AGAIN)];
        Self { own_order: both(!client_order), client_order: both(false) }
    }

    fn of(&self, client_order: bool, resumes: bool) -> &Arc<ServerConfig> {
        let configs = if client_order { &self.client_order } else { &self.own_order };
        &configs[usize::from(resumes)]
    }
}

/// A certificate, and the configurations that show it.
#[derive(Debug)]
struct Choice {
    configs: Configs,
    certificate: Certificate,
    names: Vec<String>,
    ecdsa: bool,
    stapled: bool,
}

impl ServerContext {
    /// Makes it. An error is about `certificates[index]`.
    pub fn new(settings: &Settings) -> Result<Self, (usize, rustls::Error)> {
        let mut choices = Vec::new();
        let sessions = ServerSessionMemoryCache::new(SESSIONS);
        let verifier = Arc::new(Verifier::of_clients(
            settings.validation.clone(),
            settings.provider.signature_verification_algorithms,
            settings.require_client_certificate
                || (settings.validation.names_certificates() && !settings.validation.accept_untrusted),
            settings.tell_roots,
        ));
        for (index, pair) in settings.certificates.iter().enumerate() {
            let failed = |error| (index, error);
            let mut versions = Vec::new();
            if settings.tls13 {
                versions.push(&TLS13);
            }
            if settings.tls12 {
                versions.push(&TLS12);
            }
            let builder = ServerConfig::builder_with_provider(settings.provider.clone())
                .with_protocol_versions(&versions)
                .map_err(failed)?;
            let validation = &settings.validation;
            let wanted = validation.asks() || validation.accept_untrusted || settings.require_client_certificate;
            let builder = if wanted {
                builder.with_client_cert_verifier(verifier.clone())
            } else {
                builder.with_no_client_auth()
            };
            let stapled = !pair.ocsp.is_empty();
            let certificate = Certificate::from(pair.chain.first().cloned().unwrap_or_else(|| Vec::new().into()));
            let shown = pair.clone().certified(&settings.provider).map_err(failed)?;
            let mut config = builder.with_cert_resolver(shown);
            config.alpn_protocols = settings.protocols.clone();
            config.send_tls13_tickets = TICKETS;
            match &settings.resumption.tickets {
                Some(tickets) => config.ticketer = tickets.clone(),
                None => config.send_tls13_tickets = 0,
            }
            config.session_storage = match settings.resumption.stateful {
                true => sessions.clone(),
                false => Arc::new(NoServerSessionStorage {}),
            };
            let content = certificate.content();
            let mut names: Vec<String> = content.dns().map(str::to_ascii_lowercase).collect();
            if names.is_empty() {
                // As Envoy: the common name counts where there is no DNS name.
                names.extend(content.common_names.iter().map(|name| name.to_ascii_lowercase()));
            }
            let ecdsa = content.key.is_ecdsa();
            choices.push(Choice {
                configs: Configs::new(&config, settings.client_order),
                certificate,
                names,
                ecdsa,
                stapled,
            });
        }
        Ok(Self {
            choices,
            verifier,
            tls13: settings.tls13,
            require_server_name: settings.require_server_name,
            full_scan: settings.full_scan,
            key_log: settings.key_log.clone(),
        })
    }

    /// The certificates that clients may be shown.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.choices.iter().map(|choice| &choice.certificate)
    }

    /// The certificates that clients' must lead to.
    pub fn roots(&self) -> impl Iterator<Item = &Certificate> {
        self.verifier.validation().roots.iter().map(|root| &root.certificate)
    }

    /// Shakes hands with a client. `staple` learns whether one that asks for a stapled OCSP response gets it.
    pub async fn accept(
        &self,
        bare: Bare,
        local: IpAddr,
        remote: IpAddr,
        staple: impl FnOnce(bool),
    ) -> Result<(Io, PeerTls), Failure> {
        let (mut start, hello) = greeting::read(bare).await?;
        let asked = start.client_hello();
        let name = asked.server_name().unwrap_or_default();
        if name.is_empty() && self.require_server_name {
            return Err(Failure::left("the client sends no server name"));
        }
        let choice = match self.choices.as_slice() {
            [only] => Some(only),
            _ => self.choose(name, takes_ecdsa(asked.signature_schemes(), asked.cipher_suites())),
        };
        let choice = choice.ok_or_else(|| Failure::left("there is no certificate"))?;
        if hello.wants_staple {
            staple(choice.stapled);
        }
        let tls13 = self.tls13 && hello.tls13;
        let follow = tls13 && prefers_chacha20(asked.cipher_suites());
        let mut config = choice.configs.of(follow, hello.resumes).clone();
        if let Some((file, _)) = self.key_log.as_ref().filter(|(_, range)| range.contains(local, remote)) {
            Arc::make_mut(&mut config).key_log = file.clone();
        }
        if let Some(mut offered) = asked.alpn()
            && !config.alpn_protocols.is_empty()
            && !offered.any(|offered| config.alpn_protocols.iter().any(|known| known == offered))
        {
            // As Envoy: who offers nothing known goes on without. rustls would refuse.
            Arc::make_mut(&mut config).alpn_protocols.clear();
        }
        if tls13 {
            start.io.defer();
        }
        let mut stream = match start.into_stream(config).into_fallible().await {
            Ok(stream) => stream,
            Err((error, socket)) => {
                socket.give_up();
                return Err(Failure::of(&error));
            }
        };
        stream.get_mut().0.go_on();
        let connection = stream.get_ref().1;
        let name = connection.server_name().map(|name| Arc::from(name.to_ascii_lowercase()));
        let session = PeerTls::new(connection, name, Some(choice.certificate.clone()), &self.verifier, None);
        Ok((Io::Tls(Box::new(TlsStream::Server(stream))), session))
    }

    /// By name (exact before wildcard), and among those that are for it the one whose key suits the client.
    fn choose(&self, name: &str, ecdsa: bool) -> Option<&Choice> {
        let best = |candidates: &mut dyn Iterator<Item = &'_ Choice>| -> Option<usize> {
            let mut fallback = None;
            for choice in candidates {
                let index = self.choices.iter().position(|other| std::ptr::eq(other, choice));
                if choice.ecdsa == ecdsa {
                    return index;
                }
                // A client that takes ECDSA takes RSA as well.
                if ecdsa && fallback.is_none() {
                    fallback = index;
                }
            }
            fallback
        };
        let name = name.to_ascii_lowercase();
        let mut found = None;
        if !name.is_empty() {
            found = best(&mut self.choices.iter().filter(|choice| choice.names.contains(&name))).or_else(|| {
                best(&mut self.choices.iter().filter(|choice| {
                    choice.names.iter().any(|pattern| dns_name_matches(name.as_bytes(), pattern.as_bytes()))
                }))
            });
        }
        if found.is_none() && (name.is_empty() || self.full_scan) {
            found = best(&mut self.choices.iter());
        }
        self.choices.get(found.unwrap_or(0))
    }
}

fn is_tls13(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
    )
}

/// Whether a TLS 1.3 client prefers ChaCha20-Poly1305, as those do that have no hardware for AES: it is followed, while one
/// that prefers AES-256 gets AES-128. OpenSSL's default order asks for SHA-384 in every step of the key schedule, for which
/// few processors have instructions, and AES-128 is as strong as a key exchange with X25519 or P-256.
fn prefers_chacha20(suites: &[CipherSuite]) -> bool {
    let first = suites.iter().find(|suite| is_tls13(**suite));
    first == Some(&CipherSuite::TLS13_CHACHA20_POLY1305_SHA256)
}

fn takes_ecdsa(schemes: &[SignatureScheme], suites: &[CipherSuite]) -> bool {
    let signs = schemes.iter().any(|scheme| {
        matches!(
            scheme,
            SignatureScheme::ECDSA_NISTP256_SHA256
                | SignatureScheme::ECDSA_NISTP384_SHA384
                | SignatureScheme::ECDSA_NISTP521_SHA512
        )
    });
    signs
        && suites.iter().any(|suite| {
            is_tls13(*suite)
                || matches!(
                    suite,
                    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
                        | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                )
        })
}
