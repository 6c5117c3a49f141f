//! Workloads: servers that say what they saw.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, thread, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use rustls::{ServerConfig, server::WebPkiClientVerifier};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::oneshot,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use weir_tests::net::Pod;

use crate::identity::{Authority, Identity, provider};

/// How a workload is reached.
pub enum Speaks {
    /// HTTP in the clear.
    Plain,
    /// HTTP under TLS that both ends ask for.
    Mutual(Arc<ServerConfig>),
    /// HTTP in tunnels of HBONE: CONNECT over HTTP/2 under such TLS.
    Tunnelled(Arc<ServerConfig>),
    /// Not HTTP: it answers with its name and what it is sent.
    Tcp,
}

impl Speaks {
    pub fn mutual(authority: &Authority, identity: &Identity) -> Self {
        Self::Mutual(server(authority, identity))
    }

    pub fn tunnelled(authority: &Authority, identity: &Identity) -> Self {
        Self::Tunnelled(server(authority, identity))
    }
}

/// Asks clients for certificates, and knows the protocols that istio's proxies offer.
fn server(authority: &Authority, identity: &Identity) -> Arc<ServerConfig> {
    let provider = provider();
    let clients = WebPkiClientVerifier::builder_with_provider(authority.roots(), provider.clone()).build().unwrap();
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_client_cert_verifier(clients).with_single_cert(identity.chain(), identity.key());
    let mut config = config.unwrap();
    let protocols = ["istio-h2", "istio-http/1.1", "istio", "h2", "http/1.1"];
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A running server; ended with this.
pub struct Backend {
    seen: Arc<Mutex<Vec<Value>>>,
    _stop: oneshot::Sender<()>,
}

impl Backend {
    pub fn start(pod: &Pod, name: &str, address: &str, speaks: Speaks) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (stop, stopped) = oneshot::channel();
        let listener = pod.netns.run(|| std::net::TcpListener::bind(address)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (name, shared) = (name.to_owned(), seen.clone());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                tokio::select! {
                    () = serve(TcpListener::from_std(listener).unwrap(), name, speaks, shared) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { seen, _stop: stop }
    }

    /// Requests and connections so far whose path begins so.
    pub fn seen(&self, path: &str) -> Vec<Value> {
        let seen = self.seen.lock();
        seen.iter().filter(|one| one["path"].as_str().is_some_and(|seen| seen.starts_with(path))).cloned().collect()
    }
}

async fn serve(listener: TcpListener, name: String, speaks: Speaks, seen: Arc<Mutex<Vec<Value>>>) {
    let (name, speaks): (Arc<str>, _) = (name.into(), Arc::new(speaks));
    loop {
        let Ok((stream, peer)) = listener.accept().await else { continue };
        let (name, seen, speaks) = (name.clone(), seen.clone(), speaks.clone());
        tokio::spawn(async move {
            let about = json!({ "backend": &*name, "peer": peer.ip().to_string() });
            match &*speaks {
                Speaks::Plain => http(stream, about, seen).await,
                Speaks::Tcp => tcp(stream, about, seen).await,
                Speaks::Mutual(config) => mutual(stream, config.clone(), about, seen).await,
                Speaks::Tunnelled(config) => {
                    if let Some((stream, about)) = secured(stream, config.clone(), about, &seen).await {
                        tunnels(stream, about, seen).await;
                    }
                }
            }
        });
    }
}

async fn mutual(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    config: Arc<ServerConfig>,
    about: Value,
    seen: Arc<Mutex<Vec<Value>>>,
) {
    if let Some((stream, about)) = secured(stream, config, about, &seen).await {
        http(stream, about, seen).await;
    }
}

/// Shakes hands, and adds what that says.
async fn secured<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: Arc<ServerConfig>,
    mut about: Value,
    seen: &Mutex<Vec<Value>>,
) -> Option<(TlsStream<S>, Value)> {
    let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else {
        about["path"] = "a failed handshake".into();
        seen.lock().push(about);
        return None;
    };
    let (_, session) = stream.get_ref();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    about["alpn"] = session.alpn_protocol().map(text).into();
    about["sni"] = session.server_name().into();
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    about["identity"] = certificate.and_then(|certificate| spiffe(certificate)).into();
    Some((stream, about))
}

/// Accepts every tunnel, and serves HTTP in it.
async fn tunnels(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    about: Value,
    seen: Arc<Mutex<Vec<Value>>>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let (mut about, seen) = (about.clone(), seen.clone());
        async move {
            about["tunnel"] = request.uri().authority().map(|to| to.to_string()).into();
            tokio::spawn(async move {
                if let Ok(upgraded) = hyper::upgrade::on(request).await {
                    http(TokioIo::new(upgraded), about, seen).await;
                }
            });
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        }
    });
    // Its end is what the client makes of it.
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// The SPIFFE identity of a certificate: its bytes stand in it as they are.
fn spiffe(certificate: &[u8]) -> Option<String> {
    let at = certificate.windows(9).position(|window| window == b"spiffe://")?;
    let length = usize::from(*certificate.get(at.checked_sub(1)?)?);
    Some(String::from_utf8_lossy(certificate.get(at..at + length)?).into_owned())
}

async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    about: Value,
    seen: Arc<Mutex<Vec<Value>>>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let (mut told, seen) = (about.clone(), seen.clone());
        async move {
            let headers = request.headers().iter();
            let headers: serde_json::Map<String, Value> = headers
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned().into()))
                .collect();
            let authority = request.uri().authority().map(|authority| authority.to_string());
            told["host"] = authority.map_or_else(|| headers.get("host").cloned().unwrap_or_default(), Value::from);
            told["path"] = request.uri().path_and_query().map_or("", |path| path.as_str()).into();
            told["method"] = request.method().as_str().into();
            told["version"] = format!("{:?}", request.version()).into();
            let asked = headers.get("x-answer").and_then(Value::as_str).unwrap_or("200").to_owned();
            told["headers"] = headers.into();
            seen.lock().push(told.clone());
            if asked == "never" {
                tokio::time::sleep(Duration::from_secs(600)).await;
            }
            let mut response = Response::new(Full::new(Bytes::from(told.to_string())));
            *response.status_mut() = asked.parse().unwrap_or_default();
            Ok::<_, Infallible>(response)
        }
    });
    // Its end is what the client makes of it.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn tcp(mut stream: impl AsyncRead + AsyncWrite + Unpin, mut about: Value, seen: Arc<Mutex<Vec<Value>>>) {
    let mut bytes = [0; 1024];
    let Ok(read) = stream.read(&mut bytes).await else { return };
    let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
    about["path"] = text.clone().into();
    let name = about["backend"].as_str().unwrap_or_default().to_owned();
    seen.lock().push(about);
    // Whoever is gone does not hear it.
    let _ = stream.write_all(format!("{name} got {text}").as_bytes()).await;
    let _ = stream.shutdown().await;
}
