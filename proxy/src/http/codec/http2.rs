//! How a connection of HTTP/2 begins, and what went wrong on one, looked for in what hyper says.

/// What a client begins with (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The error of HTTP/2 that an error is made of, if it is.
pub(in crate::http) fn error_of(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = std::error::Error::source(error);
    loop {
        match source?.downcast_ref() {
            Some(error) => return Some(error),
            None => source = source?.source(),
        }
    }
}

/// Whether the other side has broken the protocol.
pub(in crate::http) fn broke_protocol(error: &hyper::Error) -> bool {
    error_of(error).is_some_and(h2::Error::is_library)
}
