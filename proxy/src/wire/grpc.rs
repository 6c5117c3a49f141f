//! gRPC's statuses.

/// The one that an HTTP status stands for where a peer gave none, as the gRPC specification maps them
/// (doc/http-grpc-status-mapping.md).
pub(crate) fn status_of(http: u16) -> u8 {
    match http {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}
