//! What a server saw and did.

use std::collections::BTreeMap;

use serde::Serialize;

/// One thing that happened on a stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Milliseconds since the server was made.
    pub t_ms: u128,
    /// The stream's number, from 1.
    pub stream: u64,
    /// The abbreviation of the type, or its URL; empty where it is about the stream.
    pub kind: String,
    /// What happened.
    #[serde(flatten)]
    pub seen: Seen,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "seen")]
pub enum Seen {
    /// A stream was opened.
    Opened {
        /// Of which method.
        method: String,
        /// Headers that came with it, but for those of HTTP and gRPC themselves.
        metadata: BTreeMap<String, String>,
    },
    /// A stream ended.
    Closed {
        /// Why, as far as is known.
        why: String,
    },
    /// A request that says something about what is wanted.
    Request {
        /// All names (state of the world), or those that are new (delta).
        names: Vec<String>,
        /// Names that are no longer wanted (delta).
        unsubscribed: Vec<String>,
        /// The version that the client claims (state of the world).
        version: String,
        /// What it claims to have (delta).
        initial: BTreeMap<String, String>,
        /// The nonce that it repeats.
        nonce: String,
        /// The node's id, if it came with it.
        node: Option<String>,
    },
    /// A response was accepted. What else the request said is an event of its own, before it.
    Ack {
        /// The version of that response.
        version: String,
    },
    /// A response was rejected.
    Nack {
        /// The version of that response.
        version: String,
        /// Why.
        error: String,
    },
    /// A request repeats a nonce that was not the last of its type, or never given.
    Stale {
        /// That nonce.
        nonce: String,
    },
    /// What came is no request.
    Garbage,
    /// A response was sent.
    Response {
        /// Its version.
        version: String,
        /// Its nonce.
        nonce: String,
        /// The names of its resources.
        names: Vec<String>,
        /// Names that are gone.
        removed: Vec<String>,
    },
}
