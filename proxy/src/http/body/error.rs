//! Why a body breaks off.

/// A body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client's side.
    #[error("the client's body broke off")]
    Downstream(#[source] hyper::Error),
    /// The upstream's side.
    #[error("the upstream's body broke off")]
    Upstream(#[source] hyper::Error),
    /// The upstream's side, where it speaks no HTTP.
    #[error("the tunnel to the upstream broke off")]
    Tunnel(#[source] std::io::Error),
    /// Cut here.
    #[error("timed out")]
    TimedOut,
    /// The body goes with a later attempt.
    #[error("another attempt has begun")]
    Superseded,
}
