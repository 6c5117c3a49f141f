//! A steady load between two pods, and which of its requests failed while what was done to the cluster.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    Cluster,
    fixture::{Pod, WORK},
    kubectl::eventually,
    report::Report,
};

/// Kinds of load, as `weir-load` names them.
const KINDS: [&str; 2] = [NEW, "keep-alive"];
/// A connection for each request.
const NEW: &str = "new";
/// How long after a kill a request that was under way may notice.
const NOTICE: u128 = 1_000;
/// Lost requests of a phase that are shown.
const SHOWN: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// A request that was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    started: u128,
    ended: u128,
    reused: bool,
    connected: bool,
    error: String,
}

/// What one second brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Second {
    at: u128,
    succeeded: u64,
    failed: u64,
    stale: u64,
    slowest: u64,
}

/// What a log of `weir-load` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    seconds: Vec<Second>,
    failures: Vec<Failure>,
    ended: bool,
}

impl Log {
    fn parse(text: &str) -> Self {
        let mut log = Self::default();
        for line in text.lines() {
            let mut words = line.splitn(7, ' ');
            let kind = words.next().unwrap_or_default();
            let words: Vec<&str> = words.collect();
            let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
            match kind {
                "second" => log.seconds.push(Second {
                    at: number(0).into(),
                    succeeded: number(1),
                    failed: number(2),
                    stale: number(4),
                    slowest: number(5),
                }),
                "failure" => log.failures.push(Failure {
                    started: number(0).into(),
                    ended: number(1).into(),
                    reused: words.get(2) == Some(&"reused"),
                    connected: words.get(3) == Some(&"connected"),
                    error: words.get(4..).unwrap_or_default().join(" "),
                }),
                "end" => log.ended = true,
                _ => {}
            }
        }
        log
    }
}

/// Something that was done to the cluster under load.
#[derive(Clone, Debug)]
struct Phase {
    name: String,
    began: u128,
    lossless: bool,
    /// When a proxy was killed, from just before to just after.
    kills: Vec<(u128, u128)>,
}

/// Loads from a pod.
#[derive(Debug)]
pub struct Steady<'a> {
    cluster: &'a Cluster,
    client: String,
    kinds: &'static [&'static str],
    phases: Vec<Phase>,
}

impl<'a> Steady<'a> {
    /// Makes client and server in a namespace and starts the loads.
    pub fn start(cluster: &'a Cluster, namespace: &str, client_on: &str, server_on: &str) -> Result<Self, String> {
        let server = Pod::load_server(namespace, "load-server", server_on, &cluster.image);
        cluster.kubectl.apply(&[server.manifest()])?;
        cluster.kubectl.ready(namespace, PATIENCE)?;
        let server = format!("{namespace}/load-server");
        cluster.kubectl.copy(&server, &program(cluster)?, &format!("{WORK}/weir-load"))?;
        let to = format!("{}:8080", cluster.kubectl.pod_ip(&server)?);
        Self::drive(cluster, namespace, client_on, &to, &KINDS)
    }

    /// Makes a client and starts a load of a connection for each request to an address that something answers.
    pub fn start_to(cluster: &'a Cluster, namespace: &str, client_on: &str, to: &str) -> Result<Self, String> {
        Self::drive(cluster, namespace, client_on, to, &[NEW])
    }

    fn drive(
        cluster: &'a Cluster,
        namespace: &str,
        client_on: &str,
        to: &str,
        kinds: &'static [&'static str],
    ) -> Result<Self, String> {
        let client = Pod::idle(namespace, "load-client", client_on, &cluster.image);
        cluster.kubectl.apply(&[client.manifest()])?;
        // The others may be on their way down and up again.
        let arguments = ["-n", namespace, "wait", "--for=condition=Ready", "pod/load-client", "--timeout=120s"];
        cluster.kubectl.0.run(&arguments, b"", 3 * PATIENCE)?;
        let client = format!("{namespace}/load-client");
        cluster.kubectl.copy(&client, &program(cluster)?, &format!("{WORK}/weir-load"))?;
        eventually("answer of the load's server", PATIENCE, || {
            cluster.kubectl.sh(&client, &format!("curl -fsS -m 5 http://{to}/"))
        })?;
        for kind in kinds {
            // It outlives this command, and an API server that goes away.
            cluster.kubectl.sh(
                &client,
                &format!(
                    "setsid {WORK}/weir-load run {to} --rate {} --connections {kind} --log {WORK}/{kind}.log \
                     >{WORK}/{kind}.out 2>&1 </dev/null & echo $! >{WORK}/{kind}.pid",
                    cluster.rate
                ),
            )?;
        }
        let steady = Self { cluster, client, kinds, phases: Vec::new() };
        eventually("load", PATIENCE, || {
            let log = steady.log(NEW)?;
            log.seconds.iter().any(|second| second.succeeded > 0).then_some(()).ok_or("no request yet".to_owned())
        })?;
        Ok(steady)
    }

    /// Says what is done from now on.
    pub fn phase(&mut self, name: &str) {
        self.phases.push(Phase { name: name.to_owned(), began: now(), lossless: true, kills: Vec::new() });
    }

    /// What is done now may lose requests: they are counted, and no failure.
    pub fn may_lose(&mut self) {
        if let Some(phase) = self.phases.last_mut() {
            phase.lossless = false;
        }
    }

    /// Kills a proxy: requests that are under way inside it break by nature.
    pub fn kill<T>(&mut self, kill: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let before = now();
        let outcome = kill();
        if let Some(phase) = self.phases.last_mut() {
            phase.kills.push((before, now()));
        }
        outcome
    }

    fn log(&self, kind: &str) -> Result<Log, String> {
        Ok(Log::parse(&self.cluster.kubectl.sh(&self.client, &format!("cat {WORK}/{kind}.log"))?))
    }

    /// Stops the loads, and checks every phase.
    pub fn finish(self, report: &mut Report) -> Result<(), String> {
        let mut logs = Vec::new();
        for kind in self.kinds {
            self.cluster.kubectl.sh(&self.client, &format!("kill $(cat {WORK}/{kind}.pid)"))?;
            logs.push(eventually("end of the load", PATIENCE, || {
                let log = self.log(kind)?;
                if log.ended { Ok(log) } else { Err("it has not ended".to_owned()) }
            })?);
        }
        for (at, phase) in self.phases.iter().enumerate() {
            let until = self.phases.get(at + 1).map_or(u128::MAX, |next| next.began);
            for (kind, log) in self.kinds.iter().zip(&logs) {
                let tally = Tally::of(log, phase, until);
                let (name, judged) = (format!("{}, {kind}", phase.name), tally.judged(self.cluster.rate));
                match phase.lossless {
                    true => drop(report.check(&name, judged)),
                    false => report.note(&format!("{name}: {}", judged.unwrap_or_else(|said| said))),
                }
                for failure in tally.lost.iter().take(SHOWN) {
                    report.note(&format!("{failure:?}, {} ms into it", failure.started.saturating_sub(phase.began)));
                }
            }
        }
        Ok(())
    }
}

/// What a phase brought.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    seconds: u64,
    succeeded: u64,
    stale: u64,
    slowest: u64,
    in_flight: usize,
    lost: Vec<Failure>,
}

impl Tally {
    fn of(log: &Log, phase: &Phase, until: u128) -> Self {
        let within = |at: u128| phase.began <= at && at < until;
        let mut tally = Self::default();
        for second in log.seconds.iter().filter(|second| within(second.at)) {
            tally.seconds += 1;
            tally.succeeded += second.succeeded;
            tally.stale += second.stale;
            tally.slowest = tally.slowest.max(second.slowest);
        }
        for failure in log.failures.iter().filter(|failure| within(failure.ended)) {
            let in_flight = |(before, after): &(u128, u128)| {
                // An idle connection broke with the kill as well, which its client hears of with the next request.
                failure.connected
                    && (failure.started <= *after || failure.reused)
                    && *before <= failure.ended
                    && failure.ended <= after + NOTICE
            };
            if phase.kills.iter().any(in_flight) {
                tally.in_flight += 1;
            } else {
                tally.lost.push(failure.clone());
            }
        }
        tally
    }

    fn judged(&self, rate: u32) -> Result<String, String> {
        let mut said = format!(
            "{} requests in {} s, {} lost, slowest {} ms",
            self.succeeded,
            self.seconds,
            self.lost.len(),
            self.slowest
        );
        if self.in_flight > 0 {
            said += &format!(", {} in flight inside the killed proxy", self.in_flight);
        }
        if self.stale > 0 {
            said += &format!(", {} idle connections closed", self.stale);
        }
        // A load that stood still lost nothing either.
        let expected = u64::from(rate) * self.seconds.saturating_sub(2) * 9 / 10;
        if !self.lost.is_empty() {
            Err(said)
        } else if self.succeeded < expected {
            Err(format!("{said}; expected at least {expected}"))
        } else {
            Ok(said)
        }
    }
}

fn program(cluster: &Cluster) -> Result<Vec<u8>, String> {
    let file = &cluster.load_program;
    fs::read(file).map_err(|error| format!("--load-program {}: {error}", file.display()))
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "second 1000 200 0 0 0 3\n\
                       failure 1500 1900 new connected read: Connection reset by peer\n\
                       failure 2800 2801 reused connected write: Broken pipe\n\
                       second 2000 199 1 0 7 450\n\
                       end\n";

    #[test]
    fn a_log_says_what_each_second_brought_and_every_failure() {
        let log = Log::parse(LOG);
        assert!(log.ended);
        assert_eq!(log.seconds[1], Second { at: 2000, succeeded: 199, failed: 1, stale: 7, slowest: 450 });
        assert_eq!(log.failures[0].error, "read: Connection reset by peer");
        assert!(!log.failures[0].reused && log.failures[1].reused);
    }

    #[test]
    fn only_what_was_under_way_when_a_proxy_was_killed_is_excused() {
        let phase = Phase { name: String::new(), began: 500, lossless: true, kills: vec![(1_600, 1_700)] };
        let tally = Tally::of(&Log::parse(LOG), &phase, u128::MAX);
        assert_eq!((tally.in_flight, tally.lost.len(), tally.succeeded), (1, 1, 399));
        assert!(tally.judged(100).unwrap_err().contains("1 lost"));
        let none = Phase { kills: Vec::new(), ..phase.clone() };
        assert_eq!(Tally::of(&Log::parse(LOG), &none, u128::MAX).lost.len(), 2);
        // An idle connection that broke, and a request on a new one, both a while after the kill.
        let log = "failure 1800 1810 reused connected read: Connection reset by peer\n\
                   failure 1800 1810 new connected read: Connection reset by peer\n";
        let tally = Tally::of(&Log::parse(log), &phase, u128::MAX);
        assert_eq!((tally.in_flight, tally.lost.len()), (1, 1));
        assert!(!tally.lost[0].reused);
    }

    #[test]
    fn a_load_that_stood_still_is_no_success() {
        let log = Log::parse("second 1000 1 0 0 0 1\nsecond 2000 1 0 0 0 1\nsecond 3000 1 0 0 0 1\n");
        let phase = Phase { name: String::new(), began: 0, lossless: true, kills: Vec::new() };
        assert!(Tally::of(&log, &phase, u128::MAX).judged(200).unwrap_err().contains("expected at least 180"));
    }
}
