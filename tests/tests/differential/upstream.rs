//! Scripted servers: they answer by rule or by the built-in script, and remember what they were asked.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    task::{AbortHandle, JoinSet},
};

use weir_tests::name_server;

use super::{
    case::{Protocol, Rule, Switch, Then, Upstream},
    dns,
    http1::Head,
    proxy_protocol,
    script::{self, Answer},
    seen::Request,
    tls, upstream_h2,
    wire::{Buffered, Port, Wire},
};

/// A scripted server; ends when dropped.
#[derive(Debug)]
pub struct Server {
    port: Port,
    shared: Arc<Shared>,
    running: Mutex<Option<AbortHandle>>,
}

/// What its connections share.
#[derive(Debug)]
pub struct Shared {
    pub script: Upstream,
    seen: Mutex<Vec<Request>>,
    /// How often each rule has answered, and each `/flaky` path.
    used: Mutex<HashMap<String, usize>>,
    certificates: PathBuf,
}

impl Server {
    pub fn new(script: &Upstream, certificates: &Path) -> Self {
        let shared = Shared {
            script: script.clone(),
            seen: Mutex::default(),
            used: Mutex::default(),
            certificates: certificates.to_owned(),
        };
        let shared = Arc::new(shared);
        loop {
            // Some other program may take the port meanwhile: then it is another one.
            let server = Self { port: Port::claim(), shared: shared.clone(), running: Mutex::default() };
            if script.stopped {
                return server;
            }
            match server.start() {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                started => {
                    started.expect("the upstream listens");
                    return server;
                }
            }
        }
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().expect("requests seen").clone()
    }

    /// How many connections have ended, if it remembers those and not requests: that comes in its own time.
    pub fn ended(&self) -> Option<usize> {
        let script = &self.shared.script;
        let connections = matches!(script.protocol, Protocol::Tcp) && !script.unseen;
        connections.then(|| self.shared.seen.lock().expect("requests seen").len())
    }

    /// Turns it on or off.
    pub fn switch(&self, to: Switch) {
        if let Some(task) = self.running.lock().expect("the server's task").take() {
            task.abort();
        }
        if to == Switch::Start {
            self.start().expect("the upstream's port");
        }
    }

    fn start(&self) -> io::Result<()> {
        if self.shared.script.protocol == Protocol::Dns {
            let socket = self.port.datagrams()?;
            socket.set_nonblocking(true)?;
            let shared = self.shared.clone();
            let judge = move |name: &str, kind| dns::verdict(shared.rule(name), name, kind);
            let task = tokio::spawn(name_server::serve(UdpSocket::from_std(socket)?, judge));
            *self.running.lock().expect("the server's task") = Some(task.abort_handle());
            return Ok(());
        }
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(([127, 0, 0, 1], self.port()).into())?;
        let listener = socket.listen(1024)?;
        let task = tokio::spawn(accept(listener, self.shared.clone()));
        *self.running.lock().expect("the server's task") = Some(task.abort_handle());
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.switch(Switch::Stop);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Ends the connections with the server.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        connections.spawn(serve(stream, shared));
    }
}

/// Serves a connection: PROXY protocol, TLS, then what it is for.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let script = &shared.script;
    let mut about = Vec::new();
    if script.proxy_protocol {
        match proxy_protocol::read(&mut stream).await {
            Some(told) => about.push(told),
            None => return,
        }
    }
    let mut http2 = script.protocol == Protocol::H2;
    let wire = if script.certificate.is_none() {
        Wire::Tcp(stream)
    } else {
        tokio::time::sleep(script.handshake_delay.unwrap_or_default()).await;
        let first = !script.alpn_first.is_empty() && shared.count("connections") == 1;
        let protocols = if first { &script.alpn_first } else { &script.alpn };
        match tls::accept(stream, script, protocols, &shared.certificates).await {
            Ok((wire, told, protocol)) => {
                about.push(told);
                http2 = protocol.map_or(http2, |protocol| protocol == b"h2");
                wire
            }
            Err(error) => {
                about.push(error);
                return shared.remember(Request { connection: about, ..Request::default() });
            }
        }
    };
    match script.protocol {
        Protocol::Tcp => serve_tcp(wire, &shared, about).await,
        _ if http2 => upstream_h2::serve(wire, shared.clone(), about).await,
        _ => serve_http1(wire, &shared, about).await.unwrap_or_default(),
    }
}

impl Shared {
    /// Remembers a request.
    pub fn remember(&self, request: Request) {
        if !self.script.unseen {
            self.seen.lock().expect("requests seen").push(request);
        }
    }

    /// The first rule that fits the path and is not used up.
    pub fn rule(&self, path: &str) -> Option<&Rule> {
        let mut used = self.used.lock().expect("rules used");
        self.script.rules.iter().enumerate().find_map(|(index, rule)| {
            let count = used.entry(format!("rule {index}")).or_default();
            let fits = path.starts_with(&rule.path) && rule.times.is_none_or(|times| *count < times);
            *count += usize::from(fits);
            fits.then_some(rule)
        })
    }

    /// The rule of a path that is answered before its request has come whole.
    pub fn early(&self, path: &str) -> Option<&Rule> {
        self.script.rules.iter().find(|rule| path.starts_with(&rule.path)).filter(|rule| rule.early)
    }

    /// Remembers how a request ended that was answered before.
    pub fn remember_end(&self, closed: bool) {
        let line = if closed { "<ended>" } else { "<still open>" };
        self.remember(Request { line: line.to_owned(), ..Request::default() });
    }

    /// How often this was asked for a key, this time included.
    pub fn count(&self, key: &str) -> usize {
        let mut used = self.used.lock().expect("keys used");
        let count = used.entry(key.to_owned()).or_default();
        *count += 1;
        *count
    }
}

async fn serve_tcp(wire: Wire, shared: &Shared, about: Vec<String>) {
    let mut connection = Buffered::new(wire);
    let mut all = Vec::new();
    if let Some(greeting) = &shared.script.greeting {
        let _ = connection.wire.write_all(greeting.as_bytes()).await;
    }
    let mut buffer = vec![0; 65_536];
    loop {
        match connection.wire.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => {
                all.extend_from_slice(&buffer[..length]);
                if shared.script.echo && connection.wire.write_all(&buffer[..length]).await.is_err() {
                    break;
                }
                let Some(rule) = (!shared.script.echo).then(|| shared.rule("")).flatten() else { continue };
                let reply = rule.raw.clone().unwrap_or_else(|| rule.body.clone());
                if let Some(delay) = rule.delay {
                    tokio::time::sleep(delay).await;
                }
                let _ = connection.wire.write_all(reply.as_bytes()).await;
                match rule.then {
                    Then::Keep => {}
                    Then::Close | Then::CloseAtOnce => break,
                    Then::Reset | Then::ResetAtOnce => {
                        connection.wire.reset_on_close();
                        break;
                    }
                }
            }
        }
    }
    shared.remember(Request { connection: about, line: "<connection>".to_owned(), body: all, ..Request::default() });
}

async fn serve_http1(wire: Wire, shared: &Shared, about: Vec<String>) -> Option<()> {
    let mut connection = Buffered::new(wire);
    loop {
        let head = Head::read(&mut connection).await?;
        let path = head.line.split(' ').nth(1).unwrap_or_default().to_owned();
        let upgrade = head.header("upgrade").is_some() && path.starts_with("/websocket");
        if head.header("expect").is_some() {
            connection.wire.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
        }
        if let Some(rule) = shared.early(&path) {
            let request = Request { connection: about, line: head.line, headers: head.headers, ..Request::default() };
            shared.remember(request.clone());
            by_rule(&mut connection, rule, &request).await?;
            connection.rest().await;
            shared.remember_end(connection.ended.is_some());
            return None;
        }
        let body = head.request_body(&mut connection).await;
        if !body.whole {
            return None;
        }
        let request = Request {
            connection: about.clone(),
            line: head.line,
            headers: head.headers,
            body: body.bytes,
            trailers: body.trailers,
        };
        shared.remember(request.clone());
        if upgrade {
            return upgraded(&mut connection, &path).await;
        }
        if let Some(rule) = shared.rule(&path) {
            by_rule(&mut connection, rule, &request).await?;
            continue;
        }
        match script::answer(&path, &request, shared).await? {
            Answer::Response(response) => response.write(&mut connection.wire, &request).await?,
            Answer::Raw(bytes) => connection.wire.write_all(&bytes).await.ok()?,
            Answer::RawThenClose(bytes, pause) => {
                connection.wire.write_all(&bytes).await.ok()?;
                tokio::time::sleep(pause).await;
                return None;
            }
            Answer::Reset => {
                connection.wire.reset_on_close();
                return None;
            }
        }
    }
}

/// Sends back what comes, as it comes or all of it once the other side has ended; or the first of it, and leaves.
async fn upgraded(connection: &mut Buffered, path: &str) -> Option<()> {
    let head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    connection.wire.write_all(head).await.ok()?;
    if path.ends_with("/at-end") {
        let all = connection.rest().await;
        return connection.wire.write_all(&all).await.ok();
    }
    loop {
        let bytes = std::mem::take(&mut connection.bytes);
        connection.wire.write_all(&bytes).await.ok()?;
        if !bytes.is_empty() && path.ends_with("/leaves") {
            return None;
        }
        if !bytes.is_empty() && path.ends_with("/resets") {
            connection.wire.reset_on_close();
            return None;
        }
        if !connection.more().await {
            return None;
        }
    }
}

async fn by_rule(connection: &mut Buffered, rule: &Rule, request: &Request) -> Option<()> {
    if let Some(delay) = rule.delay {
        tokio::time::sleep(delay).await;
    }
    match rule.then {
        Then::CloseAtOnce => return None,
        Then::ResetAtOnce => {
            connection.wire.reset_on_close();
            return None;
        }
        _ => {}
    }
    match &rule.raw {
        Some(raw) => connection.wire.write_all(raw.as_bytes()).await.ok()?,
        None => script::Response::of(rule).write(&mut connection.wire, request).await?,
    }
    match rule.then {
        Then::Close => None,
        Then::Reset => {
            connection.wire.reset_on_close();
            None
        }
        _ => Some(()),
    }
}
