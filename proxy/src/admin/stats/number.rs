//! Numbers as Envoy writes them: four ways, by place.

/// The fewest digits that read back as the same number: 26.5, 1.8e19 in full, nan.
pub(super) fn plain(value: f64) -> String {
    if value.is_nan() { "nan".to_owned() } else { value.to_string() }
}

/// Six significant digits, as C's `%g`.
pub(in crate::admin) fn general(value: f64) -> String {
    significant(value, 6)
}

/// 32 significant digits, as C's `%.32g`: sums in Prometheus text.
pub(super) fn exact(value: f64) -> String {
    significant(value, 32)
}

/// The fewest digits, with an exponent where that is shorter, as C++'s `to_chars`: JSON.
pub(super) fn shortest(value: f64) -> String {
    let plain = value.to_string();
    let (digits, exponent) = scientific(format!("{value:e}"));
    let scientific = exponent_form(&digits, exponent);
    if scientific.len() < plain.len() { scientific } else { plain }
}

fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 || !value.is_finite() {
        return plain(value);
    }
    let (mantissa, exponent) = scientific(format!("{value:.*e}", digits - 1));
    if exponent < -4 || exponent >= digits as i32 {
        return exponent_form(trimmed(&mantissa), exponent);
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    trimmed(&format!("{value:.decimals$}")).to_owned()
}

fn trimmed(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

fn scientific(text: String) -> (String, i32) {
    match text.split_once('e') {
        Some((mantissa, exponent)) => (mantissa.to_owned(), exponent.parse().unwrap_or(0)),
        None => (text, 0),
    }
}

fn exponent_form(mantissa: &str, exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Envoy 1.40 printed them.
    #[test]
    fn numbers_are_envoys() {
        assert_eq!(general(1_800_000.0), "1.8e+06");
        assert_eq!(general(600_000.0), "600000");
        assert_eq!(general(0.5), "0.5");
        assert_eq!(general(110.000_000_000_000_01), "110");
        assert_eq!(shortest(300_000.0), "3e+05");
        assert_eq!(shortest(60_000.0), "60000");
        assert_eq!(shortest(1_800_000.0), "1800000");
        assert_eq!(shortest(110.000_000_000_000_01), "110.00000000000001");
        assert_eq!(exact(1404.0 / 53.0), "26.490566037735849391765441396274");
        assert_eq!(exact(2_017.463_974_652_045_6), "2017.4639746520456355938222259283");
        assert_eq!(exact(0.0), "0");
        assert_eq!(exact(3_600_000.0), "3600000");
        assert_eq!(plain(f64::NAN), "nan");
        assert_eq!(plain(26.5), "26.5");
    }
}
