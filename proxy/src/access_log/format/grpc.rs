//! gRPC statuses by name.

use super::{field::GrpcForm, number::write_whole};

/// The names of gRPC statuses.
const STATUSES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// Appends a status; one without a name is a number.
pub(super) fn write(out: &mut Vec<u8>, status: i64, form: GrpcForm) {
    let names = usize::try_from(status).ok().and_then(|status| STATUSES.get(status));
    match (names, form) {
        (Some((camel, _)), GrpcForm::Camel) => out.extend_from_slice(camel.as_bytes()),
        (Some((_, snake)), GrpcForm::Snake) => out.extend_from_slice(snake.as_bytes()),
        _ => write_whole(out, status),
    }
}
