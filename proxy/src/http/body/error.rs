//! Why a body breaks off.

/// A body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client's side.
    #[error("the client's body broke off")]
    Downstream(#[source] hyper::Error),
    /// The upstream's side. Not as the source of this: hyper would tell the client of HTTP/2 the upstream's error code.
    #[error("the upstream's body broke off: {0}")]
    Upstream(hyper::Error),
    /// The upstream's side, where it speaks no HTTP.
    #[error("the tunnel to the upstream broke off")]
    Tunnel(#[source] std::io::Error),
    /// An HTTP/2 stream was reset without an error before its body had ended.
    #[error("the body was cut short")]
    Cut,
    /// Cut here.
    #[error("timed out")]
    TimedOut,
    /// The response has come whole before it, or is not waited for.
    #[error("the upstream is to get no more")]
    Unwanted,
    /// The body goes with a later attempt.
    #[error("another attempt has begun")]
    Superseded,
}
