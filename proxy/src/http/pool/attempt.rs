//! Attempts at connections: tasks of their own, which go on when the request that began one has gone. What they make is for
//! whoever waits longest, or idles until somebody comes; one that fails fails all who wait for what it was to make, as in
//! Envoy.

use std::{rc::Rc, sync::Arc};

use super::{
    connect::{start_http1, start_http2},
    error::PoolError,
    host::{Host, Kind, Room, Speaks, Want},
};
use crate::{
    cluster::dial::{Secured, Way},
    config::cluster::{Cluster, Endpoint},
    filter_state::FilterState,
    telemetry::{panics, stats::Shard},
    tls::client::Asked,
    wire::{
        dial::{ConnectError, Dialer},
        proxy_header::Client,
    },
};

/// Begins an attempt if there are fewer than those who wait have a use for, and there is room for one more.
pub(super) fn begin_if_needed(host: &Rc<Host>, want: &Want<'_>, kind: Kind) {
    let enough = match (kind, want.speaks, host.negotiated.get()) {
        (Kind::Http1, ..) => host.waiting(),
        // As long as it is not known whether streams can share a connection, they are taken not to.
        (Kind::Http2, Speaks::Negotiated, None) => host.streams.waiting(),
        (Kind::Http2, ..) => 1,
    };
    let under_way = match want.speaks {
        // Either may come of either.
        Speaks::Negotiated => host.attempts(Kind::Http1).get() + host.attempts(Kind::Http2).get(),
        Speaks::Http1 | Speaks::Http2 => host.attempts(kind).get(),
    };
    if under_way >= enough {
        return;
    }
    let speaks = Some(kind == Kind::Http2).filter(|_| want.speaks != Speaks::Negotiated);
    if let Some(room) = host.room(want.cluster, want.priority, speaks) {
        let attempt = Attempt::new(host, kind);
        let order = Order::of(want);
        panics::spawn_for(None, async move { attempt.run(&order, room).await });
    }
}

/// An attempt under way.
struct Attempt {
    host: Rc<Host>,
    kind: Kind,
    /// It has told what came of it.
    told: bool,
}

impl Attempt {
    fn new(host: &Rc<Host>, kind: Kind) -> Self {
        let under_way = host.attempts(kind);
        under_way.set(under_way.get() + 1);
        Self { host: host.clone(), kind, told: false }
    }

    async fn run(mut self, order: &Order, room: Room) {
        // They are told before it is over, so that none of them begins another one.
        if let Err(error) = self.connect(order, room).await {
            self.host.fail(self.kind, &error);
            if order.speaks == Speaks::Negotiated {
                self.host.fail(self.kind.other(), &error);
            }
        }
        self.told = true;
    }

    async fn connect(&self, order: &Order, room: Room) -> Result<(), PoolError> {
        let (host, cluster) = (&self.host, &order.cluster);
        let dialled = order.way().connect().await;
        if let Some(counted) = &room.counted {
            match &dialled {
                Ok(_) => counted.connected(),
                Err(error) => counted.failed(error),
            }
        }
        let secured = dialled.map_err(PoolError::Connect)?;
        let http2 = match order.speaks {
            Speaks::Http1 => false,
            Speaks::Http2 => true,
            Speaks::Negotiated => {
                let http2 = host.learn(&secured);
                if let Some(account) = &host.account {
                    account.agreed(http2);
                }
                http2
            }
        };
        if http2 {
            let two = start_http2(host, cluster, secured, room).await?;
            host.shared.borrow_mut().push(Rc::new(two));
            if self.kind == Kind::Http1 {
                host.turn_away();
            }
        } else {
            host.offer(start_http1(host, cluster, secured, room).await?);
        }
        Ok(())
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let under_way = self.host.attempts(self.kind);
        under_way.set(under_way.get() - 1);
        if !self.told {
            // It has panicked: whoever waits is not to begin the same again.
            self.host.fail(self.kind, &PoolError::Handshake);
            self.host.fail(self.kind.other(), &PoolError::Handshake);
        }
        // There may be room for another one.
        self.host.freed.notify_one();
        self.host.connected.notify_waiters();
    }
}

/// What is wanted of a connection, kept by who makes it.
struct Order {
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    dialer: Dialer,
    speaks: Speaks,
    server_name: Option<Box<str>>,
    validate: Option<Box<str>>,
    alpn: Option<Box<[Box<str>]>>,
    shard: Shard,
    client: Client,
    filter_state: Option<FilterState>,
}

impl Order {
    fn of(want: &Want<'_>) -> Self {
        Self {
            cluster: want.cluster.clone(),
            endpoint: want.endpoint.clone(),
            dialer: want.dialer.clone(),
            speaks: want.speaks,
            server_name: want.asked.server_name.map(Into::into),
            validate: want.asked.validate.map(Into::into),
            alpn: want.asked.overrides.map(Into::into),
            shard: want.shard.clone(),
            client: want.client,
            filter_state: want.filter_state.cloned(),
        }
    }

    fn way(&self) -> Way<'_> {
        let asked = Asked {
            server_name: self.server_name.as_deref(),
            validate: self.validate.as_deref(),
            hostname: &self.endpoint.hostname,
            protocols: self.speaks.protocols(),
            overrides: self.alpn.as_deref(),
        };
        let way = self.cluster.way(&self.endpoint, &self.dialer, asked, Some(self.client), &self.shard);
        Way { filter_state: self.filter_state.as_ref(), ..way }
    }
}

/// Connects for one request only, which gives up with it.
pub(super) async fn connect_for(want: &Want<'_>) -> Result<Secured, ConnectError> {
    Order::of(want).way().connect().await
}
