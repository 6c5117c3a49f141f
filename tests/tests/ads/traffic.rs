//! Servers behind a proxy, and a client that asks without a pause and remembers what it got.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server that answers every request with its name, for ever.
pub fn backend(name: &'static str) -> u16 {
    answering("200 OK", name)
}

/// A server that answers every request with this status and text, for ever.
pub fn answering(status: &'static str, text: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream, status, text));
        }
    });
    port
}

fn answer(mut stream: TcpStream, status: &str, text: &str) {
    let Ok(read) = stream.try_clone() else { return };
    let mut lines = BufReader::new(read).lines();
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            let length = text.len();
            if write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{text}").is_err() {
                return;
            }
        }
    }
}

/// What became of requests.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How often which text came, with the status 200.
    pub answers: BTreeMap<String, usize>,
    /// What else happened.
    pub failures: Vec<String>,
}

/// A client that asks one request after another, on one connection for as long as that may be.
pub struct Load {
    stop: Arc<AtomicBool>,
    last: Arc<Mutex<String>>,
    thread: thread::JoinHandle<Outcome>,
}

impl Load {
    pub fn start(to: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let last = Arc::new(Mutex::new(String::new()));
        let (stopped, latest) = (stop.clone(), last.clone());
        let thread = thread::spawn(move || {
            let mut outcome = Outcome::default();
            let mut client = Client { to, stream: None };
            while !stopped.load(Ordering::Relaxed) {
                match client.ask() {
                    Ok((200, text)) => {
                        latest.lock().unwrap().clone_from(&text);
                        *outcome.answers.entry(text).or_default() += 1;
                    }
                    Ok((status, text)) => outcome.failures.push(format!("{status} {text}")),
                    Err(error) => outcome.failures.push(error.to_string()),
                }
                thread::sleep(Duration::from_millis(2));
            }
            outcome
        });
        Self { stop, last, thread }
    }

    /// What came last.
    pub fn last(&self) -> String {
        self.last.lock().unwrap().clone()
    }

    pub fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

struct Client {
    to: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    fn ask(&mut self) -> std::io::Result<(u16, String)> {
        let reused = self.stream.is_some();
        match self.ask_once() {
            // It was closed while nothing was under way: any client asks again.
            Err(error) if reused && error.kind() == std::io::ErrorKind::UnexpectedEof => self.ask_once(),
            asked => asked,
        }
    }

    fn ask_once(&mut self) -> std::io::Result<(u16, String)> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.to)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                BufReader::new(stream)
            }
        };
        stream.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")?;
        let (mut status, mut length, mut close) = (0, 0, false);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                let kind =
                    if status == 0 { std::io::ErrorKind::UnexpectedEof } else { std::io::ErrorKind::ConnectionAborted };
                return Err(std::io::Error::new(kind, "the connection ended before the answer"));
            }
            let line = line.trim().to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(("connection", "close")) => close = true,
                _ if line.starts_with("http/1.1 ") => status = line[9..12].parse().unwrap(),
                _ if line.is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        if !close {
            self.stream = Some(stream);
        }
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}
