//! Headers by which istio's proxies tell each other who they are.

/// `istio.metadata_exchange`: from whom such headers are taken out. What they say has no reader here yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerHeaders {
    /// From requests.
    pub of_requests: bool,
    /// From responses.
    pub of_responses: bool,
}
