//! A connection that was accepted, and what is known of it before anything is read.

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc, time::Instant};

use crate::{
    access_log::{Entry, Place, next_connection},
    drain::DrainWatch,
    filter_state::FilterState,
    matcher::metadata::Metadata,
    pod::{Direction, Pod},
    tls::{PeerTls, fingerprint::Fingerprints},
    view::ViewId,
    wire::{dial::Dialer, io::Io, named::NamedAddress},
};

/// What a connection was accepted on.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A listener that this process bound.
    Bound {
        /// The listener's view.
        view: ViewId,
        /// Its name there.
        listener: Arc<str>,
    },
    /// A listener inside of this process.
    Within {
        /// The listener's view, which is that of the cluster that leads to it.
        view: ViewId,
        /// Its name there.
        listener: Arc<str>,
        /// How upstream connections are made for whom it is made for.
        dialer: Dialer,
    },
    /// A listening socket of a pod.
    Pod {
        /// The pod.
        pod: Arc<Pod>,
        /// Which of its sockets.
        direction: Direction,
    },
}

/// Bytes of a connection.
#[derive(Debug, Default)]
pub struct Meter {
    /// From the client.
    pub received: Cell<u64>,
    /// To it.
    pub sent: Cell<u64>,
}

impl Meter {
    /// So many more.
    pub fn add(&self, received: u64, sent: u64) {
        self.received.set(self.received.get() + received);
        self.sent.set(self.sent.get() + sent);
    }
}

/// What becomes of a connection, for its log lines, while others have it.
#[derive(Debug, Default)]
pub struct Told {
    /// Bytes so far.
    pub meter: Meter,
    /// Why this side closed it; empty: it did not.
    pub close_reason: Cell<&'static str>,
    /// The client broke the protocol.
    pub protocol_error: Cell<bool>,
    /// And nothing that it said before was understood.
    pub unintelligible: Cell<bool>,
    /// The client reset it.
    pub reset: Cell<bool>,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Downstream {
    /// The connection: bare until its filter chain's TLS handshake.
    pub stream: Io,
    /// What its TLS handshake settled; none: it is bare.
    pub tls: Option<Rc<PeerTls>>,
    /// SNI as the TLS inspector has seen it, in lower case, also of a connection whose TLS ends elsewhere.
    pub server_name: Option<Arc<str>>,
    /// Fingerprints of its ClientHello; none: none were taken.
    pub fingerprints: Option<Arc<Fingerprints>>,
    /// The client, IPv4-mapped addresses as IPv4: the peer of the socket, or whom a PROXY header names.
    pub peer: SocketAddr,
    /// The peer of the socket.
    pub direct_peer: SocketAddr,
    /// What listener filters noted; none: nothing.
    pub metadata: Option<Box<Metadata>>,
    /// What network filters keep; none: nothing.
    pub filter_state: Option<Box<FilterState>>,
    /// What is told of an HTTP connection, where some log asks.
    pub told: Option<Rc<Told>>,
    /// The address that it was accepted on.
    pub local: SocketAddr,
    /// The original destination of a redirected connection; `local` for others.
    pub destination: SocketAddr,
    /// The name that it was made to, instead of an address: kept, as others go by it.
    pub named: Option<Arc<NamedAddress>>,
    /// A listener filter found out where it went.
    pub restored: bool,
    /// What it was accepted on.
    pub origin: Origin,
    /// Its number, for logs.
    pub id: u64,
    /// The listener and the filter chain that it belongs to, once that is known.
    pub place: Option<Arc<Place>>,
    /// When.
    pub accepted: Instant,
    /// Follows the drain of what it was accepted on: the process's, and its pod's withdrawal.
    pub drain: DrainWatch,
}

impl Downstream {
    /// A connection that `peer` made to `local`, where it wanted to go.
    pub fn new(
        stream: impl Into<Io>,
        peer: SocketAddr,
        local: SocketAddr,
        origin: Origin,
        accepted: Instant,
        drain: DrainWatch,
    ) -> Self {
        Self {
            stream: stream.into(),
            tls: None,
            server_name: None,
            fingerprints: None,
            peer,
            direct_peer: peer,
            metadata: None,
            filter_state: None,
            told: None,
            local,
            destination: local,
            named: None,
            restored: false,
            origin,
            id: next_connection(),
            place: None,
            accepted,
            drain,
        }
    }

    /// By whose configuration it is served.
    pub fn view(&self) -> ViewId {
        match &self.origin {
            Origin::Bound { view, .. } | Origin::Within { view, .. } => *view,
            Origin::Pod { pod, .. } => pod.view,
        }
    }

    /// Where it went, if it was not just to the listener.
    pub fn original_destination(&self) -> Option<SocketAddr> {
        let redirected = matches!(self.origin, Origin::Pod { .. });
        Some(self.destination).filter(|_| redirected || self.restored)
    }

    /// What logs and formats may know of it by now.
    pub fn entry(&self) -> Entry {
        let mut entry = Entry::since(self.accepted, self.destination, self.peer);
        self.tell(&mut entry);
        entry
    }

    /// Has an entry learn what is known by now.
    pub fn tell(&self, entry: &mut Entry) {
        entry.connection = self.id;
        entry.place.clone_from(&self.place);
        entry.downstream_local = self.destination;
        entry.downstream_remote = self.peer;
        entry.downstream_direct_remote = self.direct_peer;
        entry.requested_server_name.clone_from(&self.server_name);
        entry.fingerprints.clone_from(&self.fingerprints);
        entry.tls.clone_from(&self.tls);
        entry.metadata.clone_from(&self.metadata);
        entry.filter_state.clone_from(&self.filter_state);
    }

    /// How upstream connections on behalf of this one are dialled: from the pod that it belongs to, and, towards the
    /// pod's application, as its real client.
    pub fn dialer(&self) -> Dialer {
        match &self.origin {
            Origin::Bound { .. } => Dialer::HOST,
            Origin::Within { dialer, .. } => dialer.clone(),
            Origin::Pod { pod, direction } => {
                let client = (*direction == Direction::Inbound).then_some(self.direct_peer);
                Dialer::of_pod(pod.clone(), client)
            }
        }
    }
}
