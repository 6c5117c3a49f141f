//! TLS of clients and of scripted servers, and what each sees of the other.

use std::{
    fs,
    io::{self, BufReader},
    path::Path,
    sync::Arc,
};

use rustls::{
    ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme, SupportedCipherSuite,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    case::{TlsClient, Upstream},
    wire::Wire,
};

fn chain(path: &Path) -> Vec<CertificateDer<'static>> {
    let file = fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    CertificateDer::pem_reader_iter(BufReader::new(file)).collect::<Result<_, _>>().expect("certificates")
}

fn key(path: &Path) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A certificate with its key, whatever version it is of: rustls would look into it.
fn shown(certificate: &Path, private: &Path) -> Result<Arc<SingleCertAndKey>, String> {
    let key = provider().key_provider.load_private_key(key(private)).map_err(|error| error.to_string())?;
    Ok(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain(certificate), key))))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// With a preferred cipher suite of TLS 1.3.
fn preferring(suite: &str) -> Result<Arc<CryptoProvider>, String> {
    let mut provider = aws_lc_rs::default_provider();
    let named = |known: &SupportedCipherSuite| known.suite().as_str() == Some(suite);
    let place = provider.cipher_suites.iter().position(named).ok_or_else(|| format!("no cipher suite {suite}"))?;
    provider.cipher_suites[..=place].rotate_right(1);
    Ok(Arc::new(provider))
}

/// Takes every certificate: which one it is, is compared.
#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Asks for a client certificate, and takes any or none: what it is, is compared.
#[derive(Debug)]
struct Optional(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Optional {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// A TLS handshake as a client: the connection, and what was agreed.
pub async fn connect(tcp: TcpStream, how: &TlsClient, certificates: &Path) -> Result<(Wire, String), String> {
    let versions: &[&rustls::SupportedProtocolVersion] = match how.version.as_deref() {
        Some("1.2") => &[&rustls::version::TLS12],
        Some("1.3") => &[&rustls::version::TLS13],
        _ => rustls::ALL_VERSIONS,
    };
    let provider = preferring(how.suite.as_deref().unwrap_or("TLS13_AES_128_GCM_SHA256"))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything));
    let file = |name: &str, kind: &str| certificates.join(format!("{name}.{kind}"));
    let mut config = match &how.certificate {
        Some(name) => builder.with_client_cert_resolver(shown(&file(name, "pem"), &file(name, "key"))?),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = how.alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect();
    config.enable_sni = how.sni.is_some();
    let name = ServerName::try_from(how.sni.clone().unwrap_or_else(|| "none.test".to_owned()))
        .map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|error| reason(&error))?;
    let agreed = told(stream.get_ref().1, certificates);
    Ok((Wire::Tls(Box::new(stream.into())), agreed))
}

/// A TLS handshake as a scripted server: the connection, what was agreed, and the protocol.
pub async fn accept(
    tcp: TcpStream,
    script: &Upstream,
    protocols: &[String],
    certificates: &Path,
) -> Result<(Wire, String, Option<Vec<u8>>), String> {
    let file = |name: &str, kind: &str| certificates.join(format!("{name}.{kind}"));
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .map_err(|error| error.to_string())?;
    let builder = match &script.client_authority {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(chain(&file(authority, "pem")));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .map_err(|error| error.to_string())?;
            builder.with_client_cert_verifier(Arc::new(Optional(verifier)))
        }
        None => builder.with_no_client_auth(),
    };
    let name = script.certificate.as_deref().unwrap_or_default();
    let mut config = builder.with_cert_resolver(shown(&file(name, "pem"), &file(name, "key"))?);
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.clone().into_bytes()).collect();
    let stream = TlsAcceptor::from(Arc::new(config)).accept(tcp).await.map_err(|error| reason(&error))?;
    let state = stream.get_ref().1;
    let agreed = format!("{} sni={}", told(state, certificates), state.server_name().unwrap_or("-"));
    let protocol = state.alpn_protocol().map(<[u8]>::to_vec);
    Ok((Wire::Tls(Box::new(stream.into())), agreed, protocol))
}

/// What two sides agreed on.
fn told(state: &CommonState, certificates: &Path) -> String {
    let version = state.protocol_version().map_or("-".to_owned(), |version| format!("{version:?}"));
    let cipher = state.negotiated_cipher_suite().map_or("-".to_owned(), |suite| format!("{:?}", suite.suite()));
    let protocol = state.alpn_protocol().map_or("-".into(), String::from_utf8_lossy);
    let peer =
        state.peer_certificates().and_then(<[_]>::first).map_or("-".to_owned(), |peer| named(peer, certificates));
    format!("{version} {cipher} alpn={protocol} certificate={peer}")
}

/// A certificate's name in the case file.
fn named(certificate: &CertificateDer<'_>, certificates: &Path) -> String {
    let entries = fs::read_dir(certificates).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "pem"))
        .find(|path| chain(path).first() == Some(certificate))
        .and_then(|path| path.file_stem().map(|name| name.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "(unknown)".to_owned())
}

/// Why a TLS connection ended, in TLS's words.
pub fn reason(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(alert)) => format!("TLS alert {alert:?}"),
        Some(other) => format!("TLS: {other}"),
        None => match error.kind() {
            io::ErrorKind::ConnectionReset => "RST".to_owned(),
            io::ErrorKind::UnexpectedEof => "FIN without TLS close".to_owned(),
            kind => kind.to_string(),
        },
    }
}
