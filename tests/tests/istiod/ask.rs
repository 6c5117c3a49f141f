//! A client in a pod: one request on a connection of its own, or bytes.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, client::danger};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use weir_tests::net::Pod;

use crate::identity::{Authority, Identity, provider};

/// Nothing here takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that is to be made.
#[derive(Clone)]
pub struct To<'a> {
    pod: &'a Pod,
    address: SocketAddr,
    source: Option<IpAddr>,
    tls: Option<(Arc<ClientConfig>, String)>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// 0: nothing that is HTTP.
    pub status: u16,
    pub head: String,
    pub body: String,
    /// Why there is no more.
    #[expect(dead_code, reason = "shown when a case fails")]
    pub failed: Option<String>,
    pub took: Duration,
}

impl<'a> To<'a> {
    pub fn new(pod: &'a Pod, address: &str) -> Self {
        Self { pod, address: address.parse().unwrap(), source: None, tls: None }
    }

    /// From one of the pod's further addresses.
    pub fn from(self, source: &str) -> Self {
        Self { source: Some(source.parse().unwrap()), ..self }
    }

    /// Under TLS, whoever answers.
    pub fn tls(self, name: &str, protocols: &[&str], identity: Option<&Identity>) -> Self {
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody));
        self.with(
            name,
            protocols,
            match identity {
                Some(identity) => builder.with_client_auth_cert(identity.chain(), identity.key()).unwrap(),
                None => builder.with_no_client_auth(),
            },
        )
    }

    /// Under TLS, to a server that this authority certifies the name of.
    pub fn verified(self, name: &str, authority: &Authority) -> Self {
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_root_certificates(authority.roots()).with_no_client_auth();
        self.with(name, &[], config)
    }

    fn with(self, name: &str, protocols: &[&str], mut config: ClientConfig) -> Self {
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        // Every connection is to be judged anew.
        config.resumption = rustls::client::Resumption::disabled();
        Self { tls: Some((Arc::new(config), name.to_owned())), ..self }
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let domain = if self.address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect_timeout(&self.address.into(), PATIENCE)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Sends bytes, and gives what comes until the end.
    pub fn send(&self, bytes: &[u8]) -> (Vec<u8>, Option<String>) {
        self.pod.netns.run(|| {
            let mut answer = Vec::new();
            let failed = self.connect().and_then(|mut stream| match &self.tls {
                None => exchange(&mut stream, bytes, &mut answer),
                Some((config, name)) => {
                    let name = name.clone().try_into().unwrap();
                    let connection = ClientConnection::new(config.clone(), name).unwrap();
                    exchange(&mut StreamOwned::new(connection, stream), bytes, &mut answer)
                }
            });
            (answer, failed.err().map(|error| error.to_string()))
        })
    }

    /// A request: its line without the version, and headers; the first is the host.
    pub fn ask(&self, line: &str, host: &str, headers: &[&str]) -> Answer {
        let mut request = format!("{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
        for header in headers {
            request += &format!("{header}\r\n");
        }
        request += "\r\n";
        let began = Instant::now();
        let (bytes, failed) = self.send(request.as_bytes());
        Answer { failed, took: began.elapsed(), ..Answer::of(&bytes) }
    }
}

fn exchange(stream: &mut (impl Read + Write), bytes: &[u8], answer: &mut Vec<u8>) -> std::io::Result<()> {
    stream.write_all(bytes)?;
    stream.flush()?;
    stream.read_to_end(answer).map(drop)
}

fn dechunked(mut rest: &str) -> String {
    let mut text = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_default();
        let Some(chunk) = after.get(..size).filter(|_| size > 0) else { break };
        text.push_str(chunk);
        rest = after[size..].trim_start_matches("\r\n");
    }
    text
}

impl Answer {
    /// What these bytes say.
    pub fn of(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or_default();
        let body = match head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            true => dechunked(body),
            false => body.to_owned(),
        };
        Self { status, head: head.to_owned(), body, failed: None, took: Duration::ZERO }
    }

    /// A header's first value; empty: there is none.
    pub fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    /// What the backend says that it saw.
    pub fn seen(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Which backend answered.
    pub fn by(&self) -> String {
        self.seen()["backend"].as_str().unwrap().to_owned()
    }

    /// A header of the request as the backend saw it; empty: there was none.
    pub fn sent(&self, name: &str) -> String {
        self.seen()["headers"][name].as_str().unwrap_or_default().to_owned()
    }
}

/// Takes every server: whether it is the right one is not the question.
#[derive(Debug)]
pub struct Anybody;

impl danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<danger::ServerCertVerified, rustls::Error> {
        Ok(danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
