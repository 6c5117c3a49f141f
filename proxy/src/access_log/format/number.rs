//! Numbers as Envoy writes them into JSON: the shortest text that is the same double.

use std::io::Write;

/// Appends a number: plain or with an exponent, whichever is shorter.
pub(super) fn write(out: &mut Vec<u8>, number: f64) {
    if !number.is_finite() {
        out.extend_from_slice(b"null");
        return;
    }
    let plain = number.to_string();
    let exponent = exponential(number);
    let shorter = if exponent.len() < plain.len() { exponent } else { plain };
    out.extend_from_slice(shorter.as_bytes());
}

/// With an exponent of at least two digits and a sign, as C writes it.
fn exponential(number: f64) -> String {
    let text = format!("{number:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// Appends a whole number.
pub(super) fn write_whole(out: &mut Vec<u8>, number: i64) {
    // Writing into a Vec does not fail.
    let _ = write!(out, "{number}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_shortest_form_wins() {
        for (number, text) in [
            (7.0, "7"),
            (-2.0, "-2"),
            (1.5, "1.5"),
            (100_000.0, "1e+05"),
            (120_000.0, "120000"),
            (1_234_567.0, "1234567"),
            (1e21, "1e+21"),
            (0.0001, "1e-04"),
            (0.001, "0.001"),
            (f64::NAN, "null"),
        ] {
            let mut out = Vec::new();
            super::write(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
