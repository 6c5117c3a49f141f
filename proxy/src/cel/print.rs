//! Values as text (Envoy's `%CEL()%`, whose numbers, durations and timestamps have Abseil's form) and as JSON (`%TYPED_CEL()%`,
//! which is protobuf's).

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::Value as Json;

use super::value::Value;

/// Significant digits of a double as text.
const DIGITS: usize = 6;

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

impl Value<'_> {
    /// Appends it as text.
    pub fn write_text(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"NULL"),
            Self::Bool(flag) => out.extend_from_slice(if *flag { b"true" } else { b"false" }),
            Self::Int(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Self::Uint(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Self::Double(number) => out.extend_from_slice(double(*number).as_bytes()),
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
            Self::Duration(nanos) => out.extend_from_slice(duration(*nanos).as_bytes()),
            Self::Timestamp(nanos) => {
                if let Ok(time) = Timestamp::from_nanosecond((*nanos).into()) {
                    // Without a point where there is no fraction, and with as many digits as it has.
                    let time = time.to_string();
                    out.extend_from_slice(time.trim_end_matches('Z').as_bytes());
                    out.extend_from_slice(b"+00:00");
                }
            }
            Self::List(_) => out.extend_from_slice(b"CelList value"),
        }
    }

    /// It as JSON.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Bool(flag) => (*flag).into(),
            // A number of JSON is a double, also to Envoy.
            Self::Int(number) => (*number as f64).into(),
            Self::Uint(number) => (*number as f64).into(),
            Self::Double(number) => (*number).into(),
            Self::Text(text) => (&**text).into(),
            Self::Bytes(bytes) => BASE64_STANDARD.encode(bytes).into(),
            Self::Duration(nanos) => {
                let sign = if *nanos < 0 { "-" } else { "" };
                let (seconds, rest) = (nanos.unsigned_abs() / SECOND, nanos.unsigned_abs() % SECOND);
                format!("{sign}{seconds}{}s", thirds(rest)).into()
            }
            Self::Timestamp(nanos) => match Timestamp::from_nanosecond((*nanos).into()) {
                Ok(time) => {
                    let rest = u64::try_from(nanos.rem_euclid(SECOND as i64)).unwrap_or_default();
                    format!("{}{}Z", time.strftime("%Y-%m-%dT%H:%M:%S"), thirds(rest)).into()
                }
                Err(_) => Json::Null,
            },
            Self::List(values) => values.iter().map(Self::to_json).collect(),
        }
    }
}

/// A fraction of a second with three, six or nine digits, or none.
fn thirds(nanos: u64) -> String {
    match nanos {
        0 => String::new(),
        _ if nanos.is_multiple_of(MILLI) => format!(".{:03}", nanos / MILLI),
        _ if nanos.is_multiple_of(MICRO) => format!(".{:06}", nanos / MICRO),
        _ => format!(".{nanos:09}"),
    }
}

/// As `%g` of C writes it.
fn double(number: f64) -> String {
    if !number.is_finite() {
        let text = if number.is_nan() { "nan" } else { "inf" };
        return if number.is_sign_negative() && !number.is_nan() { format!("-{text}") } else { text.into() };
    }
    let rounded = format!("{number:.*e}", DIGITS - 1);
    let (mantissa, exponent) = rounded.split_once('e').unwrap_or((&rounded, "0"));
    let power: i32 = exponent.parse().unwrap_or_default();
    if (-4..DIGITS as i32).contains(&power) {
        let decimals = usize::try_from(DIGITS as i32 - 1 - power).unwrap_or_default();
        return trimmed(&format!("{number:.decimals$}")).into();
    }
    let sign = if power < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trimmed(mantissa), power.unsigned_abs())
}

/// A number without zeros at the end of its fraction.
fn trimmed(number: &str) -> &str {
    match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    }
}

/// As Abseil writes it: in the unit that fits if it is below a second, else in hours, minutes and seconds.
fn duration(nanos: i64) -> String {
    let mut text = String::from(if nanos < 0 { "-" } else { "" });
    let mut rest = nanos.unsigned_abs();
    let part = |number: u64, of: u64| {
        // No more than nine digits follow the point, all of which a decimal of this length keeps.
        let digits = of.ilog10() as usize;
        trimmed(&format!("{}.{:0digits$}", number / of, number % of)).to_owned()
    };
    match rest {
        0 => return "0".into(),
        1..MICRO => text.push_str(&format!("{rest}ns")),
        MICRO..MILLI => text.push_str(&format!("{}us", part(rest, MICRO))),
        MILLI..SECOND => text.push_str(&format!("{}ms", part(rest, MILLI))),
        _ => {
            for (unit, name) in [(HOUR, 'h'), (MINUTE, 'm')] {
                if rest >= unit {
                    text.push_str(&format!("{}{name}", rest / unit));
                    rest %= unit;
                }
            }
            if rest > 0 {
                text.push_str(&format!("{}s", part(rest, SECOND)));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &Value<'_>) -> String {
        let mut out = Vec::new();
        value.write_text(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_have_six_digits() {
        for (number, expected) in [
            (1.5, "1.5"),
            (2.0, "2"),
            (0.1 + 0.2, "0.3"),
            (1e30, "1e+30"),
            (123_456.789, "123457"),
            (1_234_567.0, "1.23457e+06"),
            (999_999.5, "1e+06"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-0.5, "-0.5"),
            (0.0, "0"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(text(&Value::Double(number)), expected);
        }
    }

    #[test]
    fn times_are_those_of_abseil_and_in_json_those_of_protobuf() {
        for (nanos, expected, json) in [
            (0, "0", "0s"),
            (90_000_000_000, "1m30s", "90s"),
            (1_500_000_000, "1.5s", "1.500s"),
            (-1_500_000_000, "-1.5s", "-1.500s"),
            (221_132, "221.132us", "0.000221132s"),
            (1_500_000, "1.5ms", "0.001500s"),
            (7, "7ns", "0.000000007s"),
            (3_600_000_000_000, "1h", "3600s"),
            (3_601_250_000_000, "1h1.25s", "3601.250s"),
        ] {
            let value = Value::Duration(nanos);
            assert_eq!((text(&value).as_str(), value.to_json()), (expected, json.into()));
        }
        for (nanos, expected, json) in [
            (1_577_836_800_000_000_000, "2020-01-01T00:00:00+00:00", "2020-01-01T00:00:00Z"),
            (1_577_836_800_120_000_000, "2020-01-01T00:00:00.12+00:00", "2020-01-01T00:00:00.120Z"),
        ] {
            let value = Value::Timestamp(nanos);
            assert_eq!((text(&value).as_str(), value.to_json()), (expected, json.into()));
        }
    }

    #[test]
    fn numbers_of_json_are_doubles_and_bytes_are_in_base64() {
        assert_eq!(Value::Uint(9_007_199_254_740_993).to_json(), serde_json::json!(9_007_199_254_740_992.0));
        assert_eq!(Value::Int(-7).to_json(), serde_json::json!(-7.0));
        assert_eq!(Value::Bytes(b"xyz".into()).to_json(), serde_json::json!("eHl6"));
    }
}
