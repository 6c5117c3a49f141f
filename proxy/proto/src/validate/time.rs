//! Times in nanoseconds, in which rules on durations are checked.

use prost_reflect::{DynamicMessage, Value};

const NANOS: i128 = 1_000_000_000;

/// Seconds and nanoseconds in nanoseconds.
pub(super) fn nanos(seconds: i64, nanos: i32) -> i128 {
    i128::from(seconds) * NANOS + i128::from(nanos)
}

/// A `google.protobuf.Duration` in nanoseconds.
pub(super) fn duration_nanos(duration: &DynamicMessage) -> i128 {
    let part = |name| match duration.get_field_by_name(name).as_deref() {
        Some(Value::I64(number)) => i128::from(*number),
        Some(Value::I32(number)) => i128::from(*number),
        _ => 0,
    };
    part("seconds") * NANOS + part("nanos")
}

/// `1.5s` for 1,500,000,000.
pub(super) fn seconds(nanos: &i128) -> String {
    let sign = if *nanos < 0 { "-" } else { "" };
    let (whole, fraction) = (nanos.abs() / NANOS, nanos.abs() % NANOS);
    let fraction = format!("{fraction:09}");
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{whole}s"),
        fraction => format!("{sign}{whole}.{fraction}s"),
    }
}
