//! Volume: a server that tells each client what it sees of the connection, and a client with many threads.
//!
//! The server writes `L=<its own address> A=<what accept gave> P=<what getpeername gives>` and a newline, then echoes.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::oneshot,
};

use crate::{netns::Netns, poll::wait_for};

/// A connection must make progress within this.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a dial sends and expects back.
const PROBE: &[u8] = b"are you there?";

/// What both ends of one connection are, as one side sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The server's own address (`getsockname`): the destination that reached it.
    pub local: SocketAddr,
    /// What `accept` said of the client.
    pub accepted: SocketAddr,
    /// What `getpeername` says of the client.
    pub peer: SocketAddr,
}

impl Seen {
    fn banner(&self) -> String {
        format!("L={} A={} P={}\n", self.local, self.accepted, self.peer)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let mut word = |prefix: &str| words.next()?.strip_prefix(prefix)?.parse().ok();
        Some(Self { local: word("L=")?, accepted: word("A=")?, peer: word("P=")? })
    }
}

/// One address, IPv4-mapped ones as IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// How the server's sockets are bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// One socket of each family.
    Separate,
    /// One IPv6 socket that also takes IPv4, as Go and Java make it.
    DualStack,
}

/// A server in a namespace; ends when dropped.
#[derive(Debug)]
pub struct Echo {
    seen: Arc<Mutex<Vec<Seen>>>,
    accepted: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Listens on these ports.
    pub fn start(netns: &Netns, ports: impl IntoIterator<Item = u16> + Send, bind: Bind) -> Self {
        let listeners: Vec<std::net::TcpListener> =
            netns.run(|| ports.into_iter().flat_map(|port| listen(port, bind)).collect());
        let (seen, accepted) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let (stop, stopped) = oneshot::channel();
        let shared = (seen.clone(), accepted.clone());
        // Sockets keep the namespace they were made in: the thread itself may stay outside.
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                for listener in listeners {
                    tokio::spawn(serve(listener, shared.clone()));
                }
                let _ = stopped.await;
            });
        });
        Self { seen, accepted, stop: Some(stop), thread: Some(thread) }
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// What it saw of each, in the order of acceptance; empties the list.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *lock(&self.seen))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(port: u16, bind: Bind) -> Vec<std::net::TcpListener> {
    let any: &[IpAddr] = match bind {
        Bind::Separate => &[IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
        Bind::DualStack => &[IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
    };
    any.iter()
        .map(|ip| {
            let domain = if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
            let listen = || -> io::Result<Socket> {
                let socket = Socket::new(domain, Type::STREAM.nonblocking(), None)?;
                if ip.is_ipv6() {
                    socket.set_only_v6(bind == Bind::Separate)?;
                }
                socket.set_reuse_address(true)?;
                socket.bind(&SocketAddr::new(*ip, port).into())?;
                socket.listen(4096)?;
                Ok(socket)
            };
            // A process that another test is about to start holds our earlier sockets between fork and exec.
            wait_for(&format!("listen on {ip} port {port}"), Duration::from_secs(2), listen).into()
        })
        .collect()
}

async fn serve(listener: std::net::TcpListener, (seen, accepted): (Arc<Mutex<Vec<Seen>>>, Arc<AtomicU64>)) {
    let listener = TcpListener::from_std(listener).expect("a runtime is there");
    loop {
        let (mut stream, from) = match listener.accept().await {
            Ok(pair) => pair,
            // The client went away between handshake and accept.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => panic!("accept: {error}"),
        };
        accepted.fetch_add(1, Ordering::Relaxed);
        let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { continue };
        let one = Seen { local: canonical(local), accepted: canonical(from), peer: canonical(peer) };
        lock(&seen).push(one);
        tokio::spawn(async move {
            if stream.write_all(one.banner().as_bytes()).await.is_err() {
                return;
            }
            // Small: some tests hold thousands of connections.
            let mut buffer = vec![0; 8 * 1024];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// One connection as its client sees it.
#[derive(Clone, Copy, Debug)]
pub struct Dialled {
    /// Where it was to go.
    pub to: SocketAddr,
    /// The client's own address.
    pub local: SocketAddr,
    /// What `getpeername` told the client.
    pub peer: SocketAddr,
    /// What the server said it saw.
    pub server: Seen,
}

impl Dialled {
    /// Reads the server's banner on a connected stream and has it echo a few bytes.
    pub fn verify(mut stream: TcpStream, to: SocketAddr) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (local, peer) = (canonical(stream.local_addr()?), canonical(stream.peer_addr()?));
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let invalid = |what: String| io::Error::new(ErrorKind::InvalidData, what);
        let server = Seen::parse(&line).ok_or_else(|| invalid(format!("not a banner: {line:?}")))?;
        stream.write_all(PROBE)?;
        let mut echoed = [0; PROBE.len()];
        reader.read_exact(&mut echoed)?;
        if echoed != PROBE {
            return Err(invalid(format!("echoed {echoed:?}")));
        }
        stream.shutdown(Shutdown::Write)?;
        let rest = reader.read(&mut [0; 1])?;
        if rest != 0 {
            return Err(invalid("bytes after the echo".to_owned()));
        }
        Ok(Self { to, local, peer, server })
    }

    /// Whether the destination is the true one at both ends.
    pub fn destination_is_true(&self) -> bool {
        let to = canonical(self.to);
        self.peer == to && self.server.local == to
    }

    /// Whether the server saw this very client.
    pub fn client_is_true(&self) -> bool {
        self.server.peer == self.local && self.server.accepted == self.local
    }
}

/// Dials once from inside a namespace.
pub fn dial(netns: &Netns, to: SocketAddr) -> io::Result<Dialled> {
    netns.run(|| Dialled::verify(TcpStream::connect_timeout(&to, PATIENCE)?, to))
}

/// Dials `connections` times from `threads` threads inside a namespace, over the destinations in turn.
pub fn volume(netns: &Netns, connections: usize, threads: usize, to: &[SocketAddr]) -> Vec<Result<Dialled, String>> {
    let work: Mutex<VecDeque<SocketAddr>> = Mutex::new(to.iter().copied().cycle().take(connections).collect());
    let done = Mutex::new(Vec::with_capacity(connections));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                netns.enter();
                loop {
                    let Some(to) = lock(&work).pop_front() else { return };
                    let dialled = TcpStream::connect_timeout(&to, PATIENCE)
                        .map_err(|error| format!("connect {to}: {error}"))
                        .and_then(|stream| Dialled::verify(stream, to).map_err(|error| format!("{to}: {error}")));
                    lock(&done).push(dialled);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}
