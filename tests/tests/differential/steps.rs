//! One case on one proxy: its steps, one after the other, then what scripted servers saw and what was logged.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::SocketAddr,
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use regex::Regex;
use tokio::{
    io::AsyncWriteExt,
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{
    case::{Case, File, Read, Step},
    client::{AFTER_ABANDON, Http2, Request, Response, exchange},
    script,
    seen::{Observed, body_text},
    side::{Side, Which},
    tls,
    wire::{Buffered, PATIENCE, Wire},
};

/// How often something that is waited for is looked at.
const INTERVAL: Duration = Duration::from_millis(15);

/// A connection that several steps use.
enum Held {
    Http1(Buffered),
    Http2(Http2),
}

/// A case under way.
struct Run<'a> {
    side: &'a Side,
    file: &'a File,
    held: Mutex<HashMap<String, Held>>,
    /// What went against the case's own expectations.
    failures: Mutex<Vec<String>>,
}

/// What a case did on one proxy, before it is looked at what others saw of it.
pub struct Done<'a> {
    run: Run<'a>,
    observed: Observed,
    logs_wanted: BTreeMap<String, usize>,
    logs_before: BTreeMap<String, usize>,
    seen_before: BTreeMap<&'a String, usize>,
}

/// What a case showed on one proxy.
#[derive(Debug)]
pub struct Shown {
    pub observed: Observed,
    pub failures: Vec<String>,
}

/// Runs a case.
pub async fn run<'a>(side: &'a Side, file: &'a File, case: &Case) -> Done<'a> {
    let logs_wanted = logs_wanted(file, case);
    let logs_before = logs_wanted.keys().map(|log| (log.clone(), lines(side, log).len())).collect();
    let seen_before: BTreeMap<&String, usize> =
        side.upstreams.iter().map(|(name, server)| (name, server.seen().len())).collect();
    let run = Run { side, file, held: Mutex::default(), failures: Mutex::default() };
    let mut observed = Observed::new();
    for (index, step) in case.steps.iter().enumerate() {
        let label = if case.steps.len() > 1 { (index + 1).to_string() } else { "response".to_owned() };
        observed.extend(run.step(&label, step).await);
    }
    run.held.lock().await.clear();
    for (name, server) in &side.upstreams {
        let before = seen_before[name];
        if let Some(wanted) = case.after.seen.get(name) {
            let came = until(|| server.seen().len() >= before + wanted).await;
            let count = server.seen().len() - before;
            if !came {
                run.fail(format!("upstream {name} has seen {count} requests instead of {wanted}")).await;
            }
        }
    }
    Done { run, observed, logs_wanted, logs_before, seen_before }
}

impl Done<'_> {
    /// What came of it.
    pub async fn shown(self, case: &Case) -> Shown {
        let Self { run, mut observed, logs_wanted, logs_before, seen_before } = self;
        let side = run.side;
        for (name, server) in &side.upstreams {
            let mut told: Vec<Observed> = Vec::new();
            for request in &server.seen()[seen_before[name]..] {
                let mut one = Observed::new();
                request.tell("", &mut one);
                told.push(one);
            }
            if case.after.unordered {
                told.sort();
            }
            for (index, one) in told.into_iter().enumerate() {
                let label = |what| format!("upstream {name} #{}{what}", index + 1);
                observed.extend(one.into_iter().map(|(what, text)| (label(what), text)));
            }
        }
        for (log, wanted) in &logs_wanted {
            let before = logs_before[log];
            let came = until(|| lines(side, log).len() >= before + wanted).await;
            let mut new = lines(side, log).split_off(before);
            if !came || new.len() > *wanted {
                run.fail(format!("log {log} has {} lines instead of {wanted}: {new:?}", new.len())).await;
            }
            if case.after.unordered {
                new.sort();
            }
            let lines = new.into_iter().enumerate();
            observed.extend(lines.map(|(index, line)| (format!("log {log} #{}", index + 1), line)));
        }
        for (_, text) in &mut observed {
            *text = side.normal.apply(text, &case.after.replace);
        }
        let failures = run.failures.into_inner();
        Shown { observed, failures }
    }
}

/// How many lines to wait for in which logs.
fn logs_wanted(file: &File, case: &Case) -> BTreeMap<String, usize> {
    fn requests(steps: &[Step]) -> usize {
        steps
            .iter()
            .map(|step| match &step.concurrent {
                Some(steps) => requests(steps),
                None => usize::from(step.request.is_some()) * step.repeat.unwrap_or(1),
            })
            .sum()
    }
    match (&case.after.logs, &file.log) {
        (Some(logs), _) => logs.clone(),
        (None, Some(log)) => BTreeMap::from([(log.clone(), requests(&case.steps))]),
        (None, None) => BTreeMap::new(),
    }
}

fn lines(side: &Side, log: &str) -> Vec<String> {
    let text = fs::read_to_string(side.log(log)).unwrap_or_default();
    // A line that is still being written is not there yet.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.split('\n').filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

async fn until(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(INTERVAL).await;
    }
    true
}

impl Run<'_> {
    async fn fail(&self, why: String) {
        self.failures.lock().await.push(why);
    }

    fn step<'a>(&'a self, label: &'a str, step: &'a Step) -> BoxFuture<'a, Observed> {
        async move {
            let Some(times) = step.repeat else { return self.once(label, step).await };
            let mut observed = Observed::new();
            for time in 1..=times {
                observed.extend(self.once(&format!("{label}.{time}"), step).await);
            }
            observed
        }
        .boxed()
    }

    async fn once(&self, label: &str, step: &Step) -> Observed {
        let mut observed = Observed::new();
        if let Some(text) = &step.request {
            self.request(label, step, text, &mut observed).await;
        } else if let Some(text) = &step.send {
            self.send(label, step, text, &mut observed).await;
        } else if let Some(text) = &step.admin {
            self.admin(label, step, text, &mut observed).await;
        } else if let Some(stats) = &step.wait {
            for (name, value) in stats {
                self.wait_for_stat(name, *value).await;
            }
        } else if let Some(files) = &step.write {
            files.iter().for_each(|(name, content)| self.side.write(name, content));
        } else if let Some(switches) = &step.upstream {
            for (name, switch) in switches {
                match self.side.upstreams.get(name) {
                    Some(server) => server.switch(*switch),
                    None => self.fail(format!("no upstream is named `{name}`")).await,
                }
            }
        } else if let Some(name) = &step.close {
            self.held.lock().await.remove(name);
        } else if let Some(name) = &step.reset {
            let mut held = self.held.lock().await;
            match held.remove(name) {
                Some(Held::Http1(connection)) => connection.wire.reset_on_close(),
                Some(Held::Http2(mut connection)) => {
                    connection.reset();
                    held.insert(name.clone(), Held::Http2(connection));
                }
                None => self.fail(format!("no connection is held as `{name}`")).await,
            }
        } else if let Some(steps) = &step.concurrent {
            let labels: Vec<_> = (1..=steps.len()).map(|number| format!("{label}/{number}")).collect();
            let all = steps.iter().zip(&labels).map(|(step, label)| self.step(label, step));
            observed.extend(futures_util::future::join_all(all).await.into_iter().flatten());
        } else if let Some(pause) = step.pause {
            tokio::time::sleep(pause).await;
        }
        observed
    }

    /// Connects, says what goes first, and shakes hands; what TLS agreed on is told.
    async fn connect(&self, label: &str, step: &Step, into: &mut Observed) -> Option<Wire> {
        match self.reach(label, step, into).await {
            Ok(wire) => Some(wire),
            Err(error) => {
                into.push((format!("{label} connection"), error));
                None
            }
        }
    }

    async fn reach(&self, label: &str, step: &Step, into: &mut Observed) -> Result<Wire, String> {
        let listener = step.to.as_ref().unwrap_or(&self.file.to);
        let from = match &step.from {
            Some(from) => {
                let ip = from.parse().map_err(|_| format!("`from` is an address, not `{from}`"))?;
                Some(SocketAddr::new(ip, 0))
            }
            None => None,
        };
        let address = self.side.address(listener);
        let mut tcp = Wire::connect(address, from).await.map_err(|error| format!("{listener}: {}", error.kind()))?;
        if let Some(first) = &step.first {
            tcp.write_all(&script::unhex(first)).await.map_err(|error| error.kind().to_string())?;
        }
        let Some(how) = &step.tls else { return Ok(Wire::Tcp(tcp)) };
        let handshake = timeout(PATIENCE, tls::connect(tcp, how, &self.side.certificates)).await;
        let (wire, agreed) = handshake.unwrap_or_else(|_| Err("no TLS handshake".to_owned()))?;
        into.push((format!("{label} tls"), agreed));
        Ok(wire)
    }

    async fn request(&self, label: &str, step: &Step, text: &str, into: &mut Observed) {
        let request = Request::parse(&self.side.fill(text), step.body_size, &step.trailers);
        let request = Request { open: step.open, ..request };
        let held = match &step.connection {
            Some(name) => self.held.lock().await.remove(name),
            None => None,
        };
        let held = match (held, step.http.unwrap_or(1)) {
            (Some(held), _) => Ok(held),
            (None, version) => match self.connect(label, step, into).await {
                Some(wire) if version == 2 => Http2::start(wire).await.map(Held::Http2),
                Some(wire) => Ok(Held::Http1(Buffered::new(wire))),
                None => return,
            },
        };
        let mut held = match held {
            Ok(held) => held,
            Err(error) => return into.push((format!("{label} connection"), error)),
        };
        if step.abandon {
            return self.abandon(held, &request, step.tls.is_some()).await;
        }
        let response = match &mut held {
            Held::Http1(connection) => exchange(connection, &request.bytes(), &request.method, step.end).await,
            Held::Http2(connection) if step.read == Some(Read::Echo) => {
                connection.begin(&request, step.tls.is_some()).await
            }
            Held::Http2(connection) => connection.exchange(&request, step.tls.is_some()).await,
        };
        self.check(step, &response).await;
        response.tell(label, step.ordered, into);
        if let Some(name) = &step.connection {
            self.held.lock().await.insert(name.clone(), held);
        }
    }

    /// Sends a request and gives up once a scripted server has it.
    async fn abandon(&self, held: Held, request: &Request, secure: bool) {
        let count = || self.side.upstreams.values().map(|server| server.seen().len()).sum::<usize>();
        let before = count();
        match held {
            Held::Http1(mut connection) => {
                let _ = connection.wire.write_all(&request.bytes()).await;
                until(|| count() > before).await;
            }
            Held::Http2(mut connection) => {
                let sent = connection.send(request, secure).await;
                until(|| count() > before).await;
                if let Ok((_, mut stream)) = sent {
                    stream.send_reset(h2::Reason::CANCEL);
                }
                tokio::time::sleep(AFTER_ABANDON).await;
            }
        }
    }

    async fn send(&self, label: &str, step: &Step, text: &str, into: &mut Observed) {
        let held = match &step.connection {
            Some(name) => self.held.lock().await.remove(name),
            None => None,
        };
        let mut connection = match held {
            Some(Held::Http1(connection)) => connection,
            Some(Held::Http2(_)) => return self.fail("`send` does not go over HTTP/2".to_owned()).await,
            None => match self.connect(label, step, into).await {
                Some(wire) => Buffered::new(wire),
                None => return,
            },
        };
        let text = self.side.fill(text);
        let bytes = script::bytes(&text);
        match step.read.unwrap_or(Read::Response) {
            Read::Response => {
                let method = text.split(' ').next().unwrap_or_default().to_owned();
                let response = exchange(&mut connection, &bytes, &method, step.end).await;
                self.check(step, &response).await;
                response.tell(label, step.ordered, into);
            }
            read => {
                if step.with_end {
                    connection.wire.write_with_the_end();
                }
                let _ = connection.wire.write_all(&bytes).await;
                let _ = connection.wire.flush().await;
                let came = match read {
                    Read::Echo => connection.exactly(bytes.len()).await.0,
                    Read::Line => connection.until(b"\n").await.unwrap_or_default(),
                    Read::End => {
                        // An end that is to come by itself must not find that this side has gone: a race.
                        if step.end.is_none() && step.abrupt {
                            connection.wire.end_tcp();
                        } else if step.end.is_none() {
                            let _ = connection.wire.shutdown().await;
                        }
                        connection.rest().await
                    }
                    _ => Vec::new(),
                };
                if read != Read::Nothing {
                    into.push((format!("{label} bytes"), body_text(&came)));
                }
                if read == Read::End || step.end.is_some() {
                    let expected = step.end != Some(super::case::End::Open);
                    into.push((format!("{label} end"), connection.end(expected).await));
                }
            }
        }
        if let Some(name) = &step.connection {
            self.held.lock().await.insert(name.clone(), Held::Http1(connection));
        }
    }

    async fn check(&self, step: &Step, response: &Response) {
        if step.expect.is_some_and(|expected| expected != response.code()) && self.side.which == Which::Envoy {
            let expected = step.expect.unwrap_or_default();
            self.fail(format!("the case expects {expected} of Envoy, not {:?}", response.status)).await;
        }
    }

    async fn ask_admin(&self, text: &str) -> Option<Response> {
        let request = Request::parse(&self.side.fill(text), None, &[]);
        let tcp = Wire::connect(self.side.address("admin"), None).await.ok()?;
        let mut connection = Buffered::new(Wire::Tcp(tcp));
        Some(exchange(&mut connection, &request.bytes(), &request.method, None).await)
    }

    async fn admin(&self, label: &str, step: &Step, text: &str, into: &mut Observed) {
        let Some(mut response) = self.ask_admin(text).await else {
            return into.push((format!("{label} admin"), "no connection".to_owned()));
        };
        self.check(step, &response).await;
        if let Some(expression) = &step.lines {
            let expression = Regex::new(expression).unwrap_or_else(|error| panic!("`lines`: {error}"));
            let body = String::from_utf8_lossy(&response.body).into_owned();
            let mut lines: Vec<_> = body.lines().filter(|line| expression.is_match(line)).collect();
            if !step.ordered {
                lines.sort_unstable();
            }
            for line in lines {
                // By name, so that one line that differs is one difference.
                let name = line.rsplit_once(['=', ' ', ':']).map_or(line, |(name, _)| name);
                let name = self.side.normal.apply(name, &[]);
                into.push((format!("{label} line {name}"), line.to_owned()));
            }
            response.body = Vec::new();
        }
        response.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-length"));
        response.tell(label, false, into);
    }

    async fn wait_for_stat(&self, name: &str, value: u64) {
        let name = self.side.fill(name);
        // What makes it come may wait for a processor several times.
        let deadline = Instant::now() + 5 * PATIENCE;
        let mut last = String::new();
        while Instant::now() < deadline {
            let stats = stats(self.side).await;
            match stats.iter().find(|(known, _)| *known == name) {
                Some((_, known)) if *known == value.to_string() => return,
                Some((_, known)) => last.clone_from(known),
                None => "absent".clone_into(&mut last),
            }
            tokio::time::sleep(2 * INTERVAL).await;
        }
        self.fail(format!("{:?}: stat {name} is {last}, not {value}", self.side.which)).await;
    }
}

/// All stats of a proxy.
pub async fn stats(side: &Side) -> Vec<(String, String)> {
    let Ok(tcp) = Wire::connect(side.address("admin"), None).await else { return Vec::new() };
    let mut connection = Buffered::new(Wire::Tcp(tcp));
    let request = Request::parse("GET /stats", None, &[]);
    let response = exchange(&mut connection, &request.bytes(), "GET", None).await;
    String::from_utf8_lossy(&response.body)
        .lines()
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect()
}
