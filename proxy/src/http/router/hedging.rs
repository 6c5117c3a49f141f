//! Hedging: an attempt that has had its time goes on beside the next one, and the first good answer wins.
//!
//! Attempts under way are flights, each a future of its own. The record of the request knows the latest; what it knew of
//! an earlier one goes with that one's flight, and comes back while something is done about it.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use http::Response;
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::{
    attempts::{Again, Attempts, Last, Wants},
    upstream::{Attempted, Sights},
};
use crate::{
    access_log::Entry,
    config::cluster::{Cluster, Endpoint},
    http::{
        body::BodySource,
        call::{
            charge::{self, Ended},
            once::{self, Asks},
        },
        pool::Lease,
        stream::{
            Stream, failure::Failure, record::Record, timers::Expired, tracking::Tracking, upstream_line::UpstreamLine,
        },
    },
};

type Exchanged = Result<(Response<Incoming>, Lease), Failure>;

/// An attempt under way.
struct Flight<'a> {
    exchanging: Pin<Box<dyn Future<Output = Exchanged> + 'a>>,
    sights: Rc<Sights<'a>>,
    endpoint: Arc<Endpoint>,
    /// The endpoint's cluster, if the route's is an aggregate.
    member: Option<Arc<Cluster>>,
    /// It has had its time.
    slow: bool,
}

/// A flight beside the latest, and what the record knew of it.
struct Earlier<'a> {
    flight: Flight<'a>,
    known: Known,
}

/// What a record knows of one attempt.
#[derive(Default)]
struct Known {
    entry: Option<Box<Entry>>,
    line: Option<Box<UpstreamLine>>,
    tracking: Option<Box<Tracking>>,
}

/// The next attempt, which waits.
struct Pause {
    again: Again,
    sleep: Pin<Box<Sleep>>,
}

/// Attempts under way.
#[derive(Default)]
struct Flights<'a> {
    latest: Option<Flight<'a>>,
    earlier: Vec<Earlier<'a>>,
    pause: Option<Pause>,
}

/// What happens next.
enum Event {
    Latest(Exchanged),
    Earlier(usize, Exchanged),
    Paused,
}

impl Known {
    /// What `record` knows, which keeps it but for the line and what is tracked.
    fn of(record: &mut Record) -> Self {
        let (line, tracking) = (record.upstream.take(), record.tracking.take());
        Self { entry: Some(Box::new(record.entry.clone())), line, tracking }
    }

    /// Has `record` know this, and this what it knew.
    fn swap(&mut self, record: &mut Record) {
        std::mem::swap(&mut self.line, &mut record.upstream);
        std::mem::swap(&mut self.tracking, &mut record.tracking);
        let (Some(entry), now) = (&mut self.entry, &mut record.entry) else { return };
        std::mem::swap(&mut entry.upstream, &mut now.upstream);
        std::mem::swap(&mut entry.upstream_local, &mut now.upstream_local);
        std::mem::swap(&mut entry.upstream_connection, &mut now.upstream_connection);
        std::mem::swap(&mut entry.upstream_tls, &mut now.upstream_tls);
        std::mem::swap(&mut entry.upstream_protocol, &mut now.upstream_protocol);
        std::mem::swap(&mut entry.transport_failure, &mut now.transport_failure);
        let (timing, now) = (&mut entry.timing, &mut now.timing);
        std::mem::swap(&mut timing.connect_began, &mut now.connect_began);
        std::mem::swap(&mut timing.connected, &mut now.connected);
        std::mem::swap(&mut timing.upstream_secured, &mut now.upstream_secured);
        std::mem::swap(&mut timing.asked, &mut now.asked);
        std::mem::swap(&mut timing.ready, &mut now.ready);
        std::mem::swap(&mut timing.request_sent_from, &mut now.request_sent_from);
    }
}

impl Earlier<'_> {
    /// Does something while the record of `stream` knows this flight.
    fn known(&mut self, stream: &mut Stream, act: impl FnOnce(&Flight<'_>, &mut Stream)) {
        self.known.swap(&mut stream.record);
        act(&self.flight, stream);
        self.known.swap(&mut stream.record);
    }

    fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Exchanged> {
        let polled = self.flight.exchanging.as_mut().poll(cx);
        if self.flight.sights.has_news() {
            self.known(stream, |flight, stream| _ = flight.sights.tell(stream));
        }
        polled
    }
}

impl Flights<'_> {
    fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(flight) = &mut self.latest {
            let polled = flight.exchanging.as_mut().poll(cx);
            flight.sights.tell(stream);
            if let Poll::Ready(exchanged) = polled {
                return Poll::Ready(Event::Latest(exchanged));
            }
        }
        for (index, earlier) in self.earlier.iter_mut().enumerate() {
            if let Poll::Ready(exchanged) = earlier.poll(stream, cx) {
                return Poll::Ready(Event::Earlier(index, exchanged));
            }
        }
        if let Some(pause) = &mut self.pause
            && pause.sleep.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Event::Paused);
        }
        stream.record.poll_log(cx);
        Poll::Pending
    }

    /// Whether something may still bring an answer.
    fn go_on(&self) -> bool {
        self.latest.is_some() || !self.earlier.is_empty() || self.pause.is_some()
    }
}

impl<'a> Attempts<'a> {
    /// Whether attempts go on that have had their time.
    pub fn hedges(&self) -> bool {
        let timed = self.timeouts.per_try.is_some() || self.timeouts.per_try_idle.is_some();
        self.timeouts.hedge && timed && matches!(self.wants, Wants::Response)
    }

    /// Makes attempts, some beside others, until one brings a response to pass on or none may follow: that one is what to
    /// finish with.
    pub async fn run_hedged(&mut self, body: &mut BodySource) -> Attempted {
        let mut flights = Flights { latest: self.take_off(body), ..Flights::default() };
        if flights.latest.is_none() {
            return Attempted::NoHost;
        }
        loop {
            let (stream, timers) = (&mut self.stream, &mut self.timers);
            let event = timers.during(poll_fn(|cx| flights.poll(stream, cx))).await;
            let done = match event {
                Ok(Event::Latest(exchanged)) => self.latest_ended(&mut flights, exchanged, body),
                Ok(Event::Earlier(index, exchanged)) => self.earlier_ended(&mut flights, index, exchanged),
                Ok(Event::Paused) => {
                    let asked = flights.pause.take().is_some_and(|pause| pause.again.asked.is_some());
                    self.retried(asked);
                    flights.latest = self.take_off(body);
                    flights.latest.is_none().then_some(Attempted::NoHost)
                }
                Err(Expired::PerTry | Expired::PerTryIdle) => {
                    self.slow(&mut flights, body);
                    None
                }
                Err(expired) => self.expired(&mut flights, expired, body),
            };
            if let Some(done) = done {
                self.end_others(flights);
                return done;
            }
        }
    }

    /// The next attempt.
    fn take_off(&mut self, body: &mut BodySource) -> Option<Flight<'a>> {
        let attempt_body = body.next();
        let endpoint = self.next()?;
        let (request, errand) = self.begin(&endpoint, attempt_body, false);
        // Others go on beside it: its limits do not wait until it has a connection.
        self.timers.attached();
        let connection = self.stream.connection.clone();
        let sights = Rc::new(Sights::new(connection.clone(), &self.groups, endpoint.address));
        let (cluster, chosen) = (self.cluster.clone(), self.chosen().clone());
        let (to, seen, scheme) = (endpoint.clone(), sights.clone(), self.stream.scheme);
        let exchanging = Box::pin(async move {
            let want = errand.want(&connection, (&cluster, &chosen), &to);
            once::exchange(connection.behalf(), want, (Asks::Response, scheme), request, &*seen).await
        });
        Some(Flight { exchanging, sights, endpoint, member: self.member.clone(), slow: false })
    }

    /// The latest attempt has ended: what to finish with, if nothing goes on.
    fn latest_ended(
        &mut self,
        flights: &mut Flights<'a>,
        exchanged: Exchanged,
        body: &BodySource,
    ) -> Option<Attempted> {
        let flight = flights.latest.take()?;
        let attempted = Attempted::of(&mut self.stream, exchanged, None);
        self.abandon(body);
        self.land(&flight, &attempted);
        match self.again(&attempted, body) {
            Ok(again) => {
                self.discard(attempted);
                self.wait(flights, again);
                None
            }
            Err(last) => self.last_or_none(flights, attempted, last),
        }
    }

    /// An attempt that had had its time has ended: what to finish with, if nothing goes on.
    fn earlier_ended(&mut self, flights: &mut Flights<'a>, index: usize, exchanged: Exchanged) -> Option<Attempted> {
        let Earlier { flight, mut known } = flights.earlier.remove(index);
        known.swap(&mut self.stream.record);
        let latest = (self.endpoint.clone(), self.member.clone());
        let attempted = Attempted::of(&mut self.stream, exchanged, None);
        self.land(&flight, &attempted);
        let last = if self.wanted(&attempted) { Last::Refused } else { Last::Unwanted };
        let done = self.last_or_none(flights, attempted, last);
        if done.is_none() {
            self.stream.record.upstream_ended(None);
            known.swap(&mut self.stream.record);
            (self.endpoint, self.member) = latest;
        } else if let Some(latest) = flights.latest.take() {
            flights.earlier.push(Earlier { flight: latest, known });
        }
        done
    }

    /// Charges an attempt that has ended.
    fn land(&mut self, flight: &Flight<'_>, attempted: &Attempted) {
        self.member.clone_from(&flight.member);
        self.ended(attempted, &flight.endpoint);
        self.endpoint = Some(flight.endpoint.clone());
    }

    /// What has been brought, unless it is bad and something better may come.
    fn last_or_none(&mut self, flights: &Flights<'_>, attempted: Attempted, last: Last) -> Option<Attempted> {
        let bad = last == Last::Refused || matches!(attempted, Attempted::Failed(_));
        if !bad || !flights.go_on() {
            return Some(attempted);
        }
        if let Attempted::Failed(failure) = &attempted {
            // As Envoy counts it, though no client gets it.
            let shard = &self.stream.connection.worker.stats;
            charge::answer(&self.cluster, &self.groups, shard, failure.status(), &self.by, self.template());
        }
        self.discard(attempted);
        None
    }

    /// The latest attempt has had its time: it goes on, and another is to come, if one may.
    fn slow(&mut self, flights: &mut Flights<'a>, body: &BodySource) {
        self.timers.forget_attempt();
        let Some(mut flight) = flights.latest.take() else { return };
        flight.slow = true;
        self.land(&flight, &Attempted::Slow);
        match self.again(&Attempted::Slow, body) {
            Ok(again) => {
                let known = Known::of(&mut self.stream.record);
                flights.earlier.push(Earlier { flight, known });
                self.wait(flights, again);
            }
            Err(_) => flights.latest = Some(flight),
        }
    }

    /// Another attempt follows after a while.
    fn wait(&self, flights: &mut Flights<'a>, again: Again) {
        let sleep = Box::pin(tokio::time::sleep(self.back_off(again.asked)));
        flights.pause = Some(Pause { again, sleep });
    }

    /// A limit has passed that is not one of an attempt's time: what to finish with, unless another attempt follows.
    fn expired(&mut self, flights: &mut Flights<'a>, expired: Expired, body: &BodySource) -> Option<Attempted> {
        let attempted = Attempted::Expired(expired);
        if expired == Expired::Global {
            for earlier in std::mem::take(&mut flights.earlier) {
                self.expire_earlier(earlier);
            }
        }
        let Some(flight) = flights.latest.take() else {
            self.tries = false;
            return Some(attempted);
        };
        if expired == Expired::Global && flight.slow {
            self.expire_slow(&flight);
            self.stream.record.overtaken();
            self.stream.record.upstream_ended(None);
            return Some(attempted);
        }
        self.land(&flight, &attempted);
        match self.again(&attempted, body) {
            Ok(again) => {
                self.wait(flights, again);
                None
            }
            Err(_) => Some(attempted),
        }
    }

    /// The whole has taken too long, and this attempt with it.
    fn expire_earlier(&mut self, mut earlier: Earlier<'_>) {
        self.expire_slow(&earlier.flight);
        let (shard, of) = (&self.stream.connection.worker.stats, &*earlier.flight.endpoint.template);
        let status = self.stream.expired(Expired::Global).or_nothing(self.timeouts.alternative).status;
        charge::answer(&self.cluster, &self.groups, shard, status, &self.by, Some(of));
        earlier.known(&mut self.stream, |_, stream| {
            stream.record.overtaken();
            stream.record.upstream_ended(None);
        });
    }

    fn expire_slow(&mut self, flight: &Flight<'_>) {
        self.in_groups(|group| group.upstream_rq_timeout);
        let chosen = flight.member.as_ref().unwrap_or(&self.cluster);
        let shard = &self.stream.connection.worker.stats;
        charge::attempt(&self.cluster, chosen, &flight.endpoint, shard, Ended::SlowExpired);
    }

    /// Ends the attempts that have not won.
    fn end_others(&mut self, flights: Flights<'_>) {
        for mut earlier in flights.earlier {
            earlier.known(&mut self.stream, |_, stream| stream.record.upstream_ended(None));
        }
    }
}
