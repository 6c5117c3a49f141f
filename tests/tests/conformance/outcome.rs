//! One case on one connection: what is sent, and what becomes of its streams and of the connection.

use std::{collections::BTreeMap, time::Duration};

use tokio::{io::AsyncWriteExt, time::timeout};

use super::{
    frame::{
        self, ACK, CONTINUATION, DATA, END_HEADERS, Frame, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WHOLE,
        WINDOW_UPDATE, headers, window_update,
    },
    pair::wire::{Buffered, PATIENCE, Wire},
};

/// The stream of the request that shows that the connection goes on.
const PROBE: u32 = 0x00ff_ffff;
/// A request that the proxy answers by itself.
const PROBE_REQUEST: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "any.test"), (":path", "/probe")];

/// What is done on a connection, in its order.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends bytes.
    Send(Vec<u8>),
    /// Sends bytes that end in the midst of a head: nothing else may be sent from then on.
    Begin(Vec<u8>),
    /// Waits until a stream has ended.
    Ended(u32),
    /// Waits until so many bytes of a stream's body have come.
    Body(u32, usize),
    /// Waits until all that was sent is seen (a PING is answered).
    Seen,
}

/// What became of a stream.
#[derive(Clone, Debug, Default)]
struct Stream {
    status: Option<u16>,
    body: usize,
    trailers: bool,
    ended: bool,
    reset: Option<String>,
}

impl Stream {
    fn over(&self) -> bool {
        self.ended || self.reset.is_some()
    }

    fn told(&self) -> String {
        let mut told = self.status.map(|status| status.to_string()).unwrap_or_default();
        if self.trailers {
            told.push_str(" with trailers");
        }
        // What did not come whole is told by its length.
        if !self.ended && self.status.is_some() {
            told.push_str(&format!(" {} bytes", self.body));
        }
        if let Some(error) = &self.reset {
            told.push_str(&format!(" RST_STREAM {error}"));
        }
        told.trim_start().to_owned()
    }
}

/// A client's connection.
#[derive(Debug)]
pub struct Client {
    connection: Buffered,
    streams: BTreeMap<u32, Stream>,
    /// SETTINGS that were acknowledged.
    acknowledged: usize,
    /// SETTINGS came.
    settings: bool,
    pongs: Vec<Vec<u8>>,
    goaway: Option<String>,
    /// HEADERS or CONTINUATION came whose block goes on.
    open_block: bool,
    /// The connection's window is opened again for what comes.
    reads: bool,
    /// What comes is not answered.
    mute: bool,
}

impl Client {
    pub fn new(wire: Wire) -> Self {
        Self {
            connection: Buffered::new(wire),
            streams: BTreeMap::new(),
            acknowledged: 0,
            settings: false,
            pongs: Vec::new(),
            goaway: None,
            open_block: false,
            reads: true,
            mute: false,
        }
    }

    /// Sends the preface and SETTINGS, and waits for the other side's.
    pub async fn greet(&mut self) {
        // Without a dynamic table, each header block can be read by itself.
        let greeting = [PREFACE, &frame::settings(&[(frame::HEADER_TABLE_SIZE, 0)])].concat();
        self.send(&greeting).await;
        while !(self.settings && self.acknowledged > 0) && self.next().await {}
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // A proxy that has had enough closes; what it has said is read all the same.
        let _ = timeout(PATIENCE, self.connection.wire.write_all(bytes)).await;
        let _ = self.connection.wire.flush().await;
    }

    async fn answer(&mut self, bytes: &[u8]) {
        if !self.mute {
            self.send(bytes).await;
        }
    }

    fn is_over(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_some_and(Stream::over)
    }

    /// Does one step.
    pub async fn step(&mut self, step: &Step) {
        match step {
            Step::Send(bytes) => self.send(bytes).await,
            Step::Begin(bytes) => {
                self.send(bytes).await;
                self.mute = true;
            }
            Step::Ended(stream) => while !self.is_over(*stream) && self.next().await {},
            Step::Body(stream, bytes) => {
                let enough = |client: &Self| client.streams.get(stream).is_some_and(|stream| stream.body >= *bytes);
                while !enough(self) && self.next().await {}
            }
            Step::Seen => {
                self.send(&frame::frame(PING, 0, 0, b"all seen")).await;
                while !self.pongs.iter().any(|pong| pong == b"all seen") && self.next().await {}
                self.pongs.retain(|pong| pong != b"all seen");
            }
        }
    }

    /// Takes the next frame in; false when none comes.
    async fn next(&mut self) -> bool {
        let next = loop {
            match Frame::parse(&self.connection.bytes) {
                Some((frame, length)) => {
                    self.connection.bytes.drain(..length);
                    break frame;
                }
                None if self.connection.more().await => {}
                None => return false,
            }
        };
        self.take(next).await;
        true
    }

    async fn take(&mut self, frame: Frame) {
        match frame.kind {
            SETTINGS if frame.has(ACK) => self.acknowledged += 1,
            SETTINGS => {
                self.settings = true;
                self.answer(&frame::frame(SETTINGS, ACK, 0, &[])).await;
            }
            PING if frame.has(ACK) => self.pongs.push(frame.payload),
            PING => self.answer(&frame::frame(PING, ACK, 0, &frame.payload)).await,
            GOAWAY => self.goaway = Some(frame.error()),
            RST_STREAM => self.streams.entry(frame.stream).or_default().reset = Some(frame.error()),
            HEADERS => {
                self.open_block = !frame.has(END_HEADERS);
                let stream = self.streams.entry(frame.stream).or_default();
                stream.ended |= frame.ends();
                if stream.status.is_none_or(|status| status < 200) {
                    stream.status = Some(frame.status().unwrap_or(0));
                } else {
                    stream.trailers = true;
                }
            }
            CONTINUATION => self.open_block = !frame.has(END_HEADERS),
            DATA => {
                let stream = self.streams.entry(frame.stream).or_default();
                stream.ended |= frame.ends();
                stream.body += frame.payload.len();
                if self.reads && !frame.payload.is_empty() {
                    self.answer(&window_update(0, frame.payload.len() as u32)).await;
                }
            }
            WINDOW_UPDATE => {}
            _ => {}
        }
    }

    /// What has become of everything.
    fn told(&self) -> String {
        let mut told: Vec<String> = self
            .streams
            .iter()
            .filter(|(number, _)| **number != PROBE)
            .map(|(number, stream)| format!("{number}: {}", stream.told()))
            .collect();
        told.extend(self.pongs.iter().map(|pong| format!("PING {}", String::from_utf8_lossy(pong))));
        told.push(match (&self.goaway, &self.connection.ended) {
            (Some(error), Some(_)) => format!("GOAWAY {error}"),
            (Some(error), None) if !self.is_over(PROBE) => format!("GOAWAY {error}, still open"),
            (None, Some(_)) => "closed".to_owned(),
            (None, None) if !self.is_over(PROBE) => "hangs".to_owned(),
            (goaway, None) => match self.streams[&PROBE].told().as_str() {
                "200" => match goaway {
                    Some(error) => format!("GOAWAY {error}, goes on"),
                    None => "goes on".to_owned(),
                },
                other => format!("goes on, but answers {other}"),
            },
        });
        told.join("; ")
    }

    /// Does what a case says and tells what came of it. `awaited` are the streams that must be over first.
    pub async fn run(mut self, steps: &[Step], awaited: &[u32], within: Duration) -> String {
        let all = async {
            for step in steps {
                self.step(step).await;
            }
            self.send(&headers(WHOLE, PROBE, &PROBE_REQUEST)).await;
            while !(self.is_over(PROBE) && awaited.iter().all(|stream| self.is_over(*stream))) && self.next().await {}
        };
        let _ = timeout(within, all).await;
        if self.connection.ended.is_none() && self.goaway.is_some() && !self.is_over(PROBE) {
            let _ = timeout(within, async { while self.next().await {} }).await;
        }
        self.told()
    }
}
