//! What went wrong with an attempt at an upstream, as Envoy names it.

use std::borrow::Cow;

use http::StatusCode;

use crate::{
    access_log::Flag,
    http::{
        codec::http2,
        pool::{Lease, PoolError},
    },
    wire::{dial::ConnectError, socket::why},
};

/// An attempt that brought no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::http) enum Failure {
    /// A circuit breaker is open: the host would have too many requests.
    Overflow,
    /// A circuit breaker is open: too many would wait for a connection, and no host gets the request.
    NoWaiting,
    /// The connection was refused or failed otherwise; how.
    Connect(String),
    /// The socket could not be made ready; how.
    Local(String),
    /// The connection was made and could not be secured; the transport failure reason.
    Tls(String),
    /// The connection was not made in time.
    ConnectTimeout,
    /// The connection ended.
    Terminated,
    /// The upstream broke the protocol.
    Protocol,
    /// The upstream reset the stream.
    Reset,
    /// The upstream refused the stream: nothing was processed.
    RefusedStream,
    /// The client's body broke off.
    Downstream,
}

impl Failure {
    /// Of an exchange on an established connection.
    fn of_exchange(error: &hyper::Error) -> Self {
        if let Some(failure) = Self::of_stream(error) {
            return failure;
        }
        if error.is_user() || error.is_body_write_aborted() {
            return Self::Downstream;
        }
        if error.is_parse() {
            return Self::Protocol;
        }
        Self::Terminated
    }

    /// Of an exchange over `lease`, which it ended before there was a response.
    pub fn of_lease(error: &hyper::Error, lease: &mut Lease) -> Self {
        let failure = if lease.broke_protocol() { Self::Protocol } else { Self::of_exchange(error) };
        failure.end(lease);
        failure
    }

    /// Of an HTTP/2 stream, or of all streams of its connection; none: the error is no error of HTTP/2.
    fn of_stream(error: &hyper::Error) -> Option<Self> {
        let error = http2::error_of(error)?;
        if error.is_library() {
            // Found here in what the upstream sent.
            Some(Self::Protocol)
        } else if error.is_go_away() || error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM) {
            // GOAWAY names the last stream that was taken, and this one came later (RFC 9113 section 6.8).
            Some(Self::RefusedStream)
        } else if error.is_reset() && !error.is_remote() {
            // From here, as the client's body ended before its end.
            Some(Self::Downstream)
        } else {
            error.is_reset().then_some(Self::Reset)
        }
    }

    /// Of a response that broke off after its headers. `http2`: it came by HTTP/2.
    pub fn of_body(error: &hyper::Error, http2: bool) -> Self {
        // As in Envoy, whose HTTP/1 parser finds an end too early where a connection ends.
        Self::of_stream(error).unwrap_or(if http2 { Self::Terminated } else { Self::Protocol })
    }

    /// Of an upgraded connection, or of a tunnel.
    pub fn of_tunnel(error: &std::io::Error) -> Self {
        let cause = error.get_ref();
        let reset = cause.and_then(|cause| cause.downcast_ref::<h2::Error>()).is_some_and(h2::Error::is_reset)
            || cause.and_then(|cause| cause.downcast_ref()).and_then(http2::error_of).is_some_and(h2::Error::is_reset);
        if reset { Self::Reset } else { Self::Terminated }
    }

    /// It ended what was under way over `lease`.
    pub fn end(&self, lease: &mut Lease) {
        match self {
            // What was found here to break the protocol is reset from here.
            Self::Protocol => {}
            Self::Downstream => lease.broken_off(),
            _ => lease.lost(*self == Self::Reset),
        }
    }

    /// `%RESPONSE_CODE_DETAILS%` of a response that broke off.
    pub fn details_after_headers(&self) -> Cow<'static, str> {
        format!("upstream_reset_after_response_started{{{}}}", self.reason().replace(' ', "_")).into()
    }

    /// The reason in bodies and details.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Overflow | Self::NoWaiting => "overflow",
            Self::Connect(_) | Self::Tls(_) => "remote connection failure",
            Self::Local(_) => "local connection failure",
            Self::ConnectTimeout => "connection timeout",
            Self::Terminated => "connection termination",
            Self::Protocol => "protocol error",
            Self::Reset => "remote reset",
            Self::RefusedStream => "remote refused stream reset",
            Self::Downstream => "local reset",
        }
    }

    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub fn transport(&self) -> Option<String> {
        match self {
            Self::Connect(reason) | Self::Tls(reason) | Self::Local(reason) => {
                Some(reason.replace(' ', "_")).filter(|reason| !reason.is_empty())
            }
            _ => None,
        }
    }

    /// `%RESPONSE_CODE_DETAILS%`.
    pub fn details(&self) -> Cow<'static, str> {
        let reason = self.reason().replace(' ', "_");
        match self.transport() {
            Some(transport) => format!("upstream_reset_before_response_started{{{reason}|{transport}}}").into(),
            None => format!("upstream_reset_before_response_started{{{reason}}}").into(),
        }
    }

    /// The response flag.
    pub fn flag(&self) -> Flag {
        match self {
            Self::Overflow | Self::NoWaiting => Flag::UpstreamOverflow,
            Self::Connect(_) | Self::Local(_) | Self::Tls(_) | Self::ConnectTimeout => Flag::UpstreamConnectionFailure,
            Self::Terminated => Flag::UpstreamConnectionTermination,
            Self::Protocol => Flag::UpstreamProtocolError,
            Self::Reset | Self::RefusedStream => Flag::UpstreamRemoteReset,
            Self::Downstream => Flag::LocalReset,
        }
    }

    /// What the client is told.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Protocol => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// A circuit breaker is open.
    pub fn is_overflow(&self) -> bool {
        matches!(self, Self::Overflow | Self::NoWaiting)
    }

    /// The connection was never made.
    pub fn before_connection(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Local(_) | Self::Tls(_) | Self::ConnectTimeout)
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Overflow => Self::Overflow,
            PoolError::NoWaiting => Self::NoWaiting,
            PoolError::Connect(ConnectError::Timeout) => Self::ConnectTimeout,
            PoolError::Connect(ConnectError::Io(error)) => {
                Self::Connect(format!("delayed_connect_error: {}", why(&error)))
            }
            PoolError::Connect(ConnectError::Pipe { path, source }) => {
                Self::Connect(format!("immediate_connect_error: {}|remote_address:{path}", why(&source)))
            }
            PoolError::Connect(ConnectError::Local(reason)) => Self::Local(reason.transport()),
            PoolError::Connect(ConnectError::Tls(reason)) => Self::Tls(reason),
            PoolError::Handshake => Self::Terminated,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn details_are_envoys() {
        let refused = Failure::from(PoolError::Connect(io::Error::from_raw_os_error(libc::ECONNREFUSED).into()));
        assert_eq!(
            refused.details(),
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
        );
        assert_eq!(Failure::Terminated.details(), "upstream_reset_before_response_started{connection_termination}");
        assert_eq!(Failure::Protocol.status(), StatusCode::BAD_GATEWAY);
    }
}
