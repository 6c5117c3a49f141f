//! The admin server: a thread of its own, so that no client of it, and no large answer, costs the data path or the
//! control thread anything.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
};

use super::{
    body::{Answer, Chunks},
    client_status::{Calls, Method},
    counts::{self, Metered},
    query::Query,
    reply::Reply,
    routes,
    state::Admin,
};
use crate::{
    access_log::{self, AccessLog, Entry, LogType},
    memory,
    telemetry::writer::LogHandle,
    worker,
};

/// Connections that are served at a time; further ones wait in the backlog.
const CONNECTIONS: usize = 64;
/// The head of a request must arrive within.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// A connection, with all its requests and answers, lasts at most so long: who reads slowly does not hold it for ever.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(600);
/// What a request may carry, bytes.
const MAX_BODY: usize = 1 << 20;
/// Showing messages that are nested as deep as they may be takes more of a stack than threads have otherwise, bytes.
const STACK: usize = 8 << 20;
/// The content type of gRPC.
const GRPC: &str = "application/grpc";
/// Pause after accept(2) failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The socket that the admin server listens on.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// A unix socket.
    Pipe(std::os::unix::net::UnixListener),
}

/// Starts the thread; it ends with the process.
pub fn spawn(admin: Arc<Admin>, listener: Listener, log: LogHandle, access_log: Vec<AccessLog>) -> io::Result<()> {
    std::thread::Builder::new().name("admin".into()).stack_size(STACK).spawn(move || {
        let serving = worker::local_runtime()
            .and_then(|runtime| runtime.block_on(accept(admin, listener, Rc::new(Log { log, files: access_log }))));
        if let Err(error) = serving {
            tracing::error!(%error, "the admin server ended");
        }
    })?;
    Ok(())
}

struct Log {
    log: LogHandle,
    files: Vec<AccessLog>,
}

/// What is known of a connection.
#[derive(Clone, Copy)]
struct Ends {
    local: SocketAddr,
    remote: SocketAddr,
}

async fn accept(admin: Arc<Admin>, listener: Listener, log: Rc<Log>) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    match listener {
        Listener::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
                match listener.accept().await {
                    Ok((stream, remote)) => {
                        let _ = stream.set_nodelay(true);
                        let ends = Ends { local: stream.local_addr().unwrap_or(nowhere), remote };
                        let serving = connection(admin.clone(), stream, ends, log.clone());
                        tokio::task::spawn_local(async move {
                            serving.await;
                            drop(place);
                        });
                    }
                    Err(error) => failed(&error).await,
                }
            }
        }
        Listener::Pipe(listener) => {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let serving =
                            connection(admin.clone(), stream, Ends { local: nowhere, remote: nowhere }, log.clone());
                        tokio::task::spawn_local(async move {
                            serving.await;
                            drop(place);
                        });
                    }
                    Err(error) => failed(&error).await,
                }
            }
        }
    }
}

async fn failed(error: &io::Error) {
    tracing::warn!(%error, "the admin server cannot accept");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn connection<S>(admin: Arc<Admin>, stream: S, ends: Ends, log: Rc<Log>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let counted = Rc::new(admin.counts.connected());
    let stream = Metered { io: stream, connection: counted.clone() };
    let service = service_fn(move |request: Request<Incoming>| {
        let (admin, log) = (admin.clone(), log.clone());
        let counting = counted.request(request.version() == http::Version::HTTP_2);
        async move { Ok::<_, Infallible>(answer(&admin, request, counting, ends, &log).await) }
    });
    let mut server = auto::Builder::new(crate::wire::executor::LocalExecutor::default());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let serving = server.serve_connection(TokioIo::new(stream), service);
    // Whatever ends it, a broken request or a client that is gone, concerns that client alone.
    let _ = tokio::time::timeout(CONNECTION_LIFETIME, serving).await;
}

fn is_grpc(headers: &http::HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(GRPC.as_bytes()))
}

async fn answer(
    admin: &Arc<Admin>,
    request: Request<Incoming>,
    counting: counts::Request,
    ends: Ends,
    log: &Log,
) -> Response<Answer> {
    let start = Instant::now();
    let (head, body) = request.into_parts();
    if let Some(method) =
        Method::of(head.uri.path()).filter(|_| is_grpc(&head.headers) && routes::is_allowed(admin, head.uri.path()))
    {
        admin.counts.answered(http::StatusCode::OK);
        let mut response = Response::new(Answer::Calls(Calls::new(admin.clone(), method, body, counting)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(GRPC));
        return response;
    }
    let body = match tokio::time::timeout(HEADER_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => Bytes::new(),
    };
    let form = head
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    let mut query = head.uri.query().unwrap_or_default().to_owned();
    if form && query.is_empty() {
        query = String::from_utf8_lossy(&body).into_owned();
    }
    let Reply { status, content_type, body, counted, insists } =
        routes::answer(admin, &head.method, head.uri.path(), &Query::parse(&query));
    if !counted {
        admin.counts.answered(status);
    }
    // On this thread: what it has unpacked lies in its part of the heap.
    if weir_proto::forget() {
        memory::give_back();
    }
    if !log.files.is_empty() {
        let mut entry = Entry::since(start, ends.local, ends.remote);
        entry.protocol = Some(if head.version == http::Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" });
        entry.response_code = status.as_u16();
        entry.bytes_sent = body.len() as u64;
        entry.kept.request(&access_log::Wanted::by(&log.files), &head.method, &head.uri, "http", &head.headers);
        access_log::write(&log.log, &admin.runtime, &log.files, LogType::DownstreamEnd, &entry);
        log.log.flush();
    }
    let mut response = Response::new(Answer::Text(Chunks::new(body, counting)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if insists {
        headers.append(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
    headers.append(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::SERVER, HeaderValue::from_static("envoy"));
    response
}
