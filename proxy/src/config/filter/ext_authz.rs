//! Asking a service whether a request may pass.

use std::{sync::Arc, time::Duration};

use http::StatusCode;

use crate::{
    config::{
        filter::stats::{self, Counted},
        grpc_service::GrpcService,
        headers::Addition,
        network::Switch,
    },
    matcher::{StringMatcher, fraction::RuntimeFraction, metadata::MetadataMatcher},
};

/// `ExtAuthz`.
#[derive(Debug)]
pub struct ExtAuthz {
    /// Who is asked.
    pub service: Service,
    /// Requests pass where nobody answers.
    pub failure_passes: bool,
    /// And a header says so.
    pub failure_is_told: bool,
    /// How much of the body is part of the question; none: nothing.
    pub body: Option<BodyPart>,
    /// The route is chosen anew where the answer changes headers.
    pub clear_route: bool,
    /// What clients get where nobody answers.
    pub status_on_error: StatusCode,
    /// An answer with headers that are none is an error.
    pub validates: bool,
    /// Namespaces of dynamic metadata that are part of the question.
    pub metadata: Vec<Box<str>>,
    /// Namespaces of the route's metadata that are.
    pub route_metadata: Vec<Box<str>>,
    /// Whether anything is asked.
    pub enabled: Option<RuntimeFraction>,
    /// The same, by dynamic metadata.
    pub enabled_metadata: Option<MetadataMatcher>,
    /// Whether a request is turned away where nothing is asked.
    pub deny_at_disable: Switch,
    /// The client's certificate is part of the question.
    pub peer_certificate: bool,
    /// What is known of the client's TLS is.
    pub tls_session: bool,
    /// Headers that are part of the question; none: all, or of an HTTP service the usual ones.
    pub allowed_headers: Option<Vec<StringMatcher>>,
    /// Headers that are not.
    pub disallowed_headers: Vec<StringMatcher>,
    /// Headers are listed as they are.
    pub raw_headers: bool,
    /// Refusals count as answers of the route's cluster.
    pub charges: bool,
    /// The answer's metadata becomes dynamic metadata.
    pub takes_metadata: bool,
    /// Bytes of a refusal's body that are passed on at most; none: all.
    pub longest_body: Option<usize>,
    /// Its statistics' prefix, also below clusters; empty: none.
    pub prefix: Box<str>,
    /// Counted for all of it.
    pub stats: Counted<stats::ExtAuthz>,
}

/// How much of a body is part of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyPart {
    /// So many bytes.
    pub most: usize,
    /// A longer one is cut; else it is refused.
    pub partial: bool,
    /// As bytes, not as text.
    pub as_bytes: bool,
}

/// Who is asked.
#[derive(Clone, Debug)]
pub enum Service {
    /// By gRPC.
    Grpc(Arc<GrpcService>),
    /// By HTTP.
    Http(Arc<HttpService>),
}

/// A service of HTTP.
#[derive(Debug)]
pub struct HttpService {
    /// Its cluster.
    pub cluster: Box<str>,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// For the whole call; none: any time.
    pub timeout: Option<Duration>,
    /// What the path becomes.
    pub path: ServicePath,
    /// Headers that the question has besides.
    pub additions: Vec<Addition>,
    /// Headers of an answer that a request gets.
    pub upstream: Vec<StringMatcher>,
    /// The same, beside those that it has.
    pub upstream_append: Vec<StringMatcher>,
    /// Headers of a refusal that clients get; none: all.
    pub client: Option<Vec<StringMatcher>>,
    /// Headers of an answer that clients get with the response.
    pub client_on_success: Vec<StringMatcher>,
    /// Headers of an answer that become dynamic metadata.
    pub metadata: Vec<StringMatcher>,
    /// How often a question that fails is repeated.
    pub retries: u32,
}

/// What a request's path becomes in a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServicePath {
    /// It follows this.
    Prefixed(Box<str>),
    /// This.
    Always(Box<str>),
}

/// What a route says.
#[derive(Clone, Debug)]
pub enum OfRoute {
    /// Nothing is asked.
    Off,
    /// How it is asked.
    Settings(Box<Settings>),
}

/// How something is asked for a route.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the service is told besides.
    pub extensions: Vec<(Box<str>, Box<str>)>,
    /// No body is part of the question.
    pub without_body: bool,
    /// Another part of the body.
    pub body: Option<BodyPart>,
    /// Somebody else is asked.
    pub service: Option<Service>,
}
