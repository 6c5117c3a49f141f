//! Times of the API (Unix time in nanoseconds, 0 for never) as users read them.

use jiff::{Timestamp, tz::TimeZone};

/// Seconds shown as such below this, then minutes, hours and days.
const SECONDS_UP_TO: u64 = 120;
const MINUTES_UP_TO: u64 = 120;
const HOURS_UP_TO: u64 = 48;

/// Now.
pub fn now() -> u64 {
    u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or_default()
}

/// How long ago, as kubectl shows it: `7s`, `5m`, `3h`, `2d`; "" for never.
pub fn age(now: u64, then: u64) -> String {
    if then == 0 {
        return String::new();
    }
    let seconds = now.saturating_sub(then) / 1_000_000_000;
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    if seconds < SECONDS_UP_TO {
        format!("{seconds}s")
    } else if minutes < MINUTES_UP_TO {
        format!("{minutes}m")
    } else if hours < HOURS_UP_TO {
        format!("{hours}h")
    } else {
        format!("{}d", hours / 24)
    }
}

/// RFC 3339 in UTC, "" for never.
pub fn rfc3339(time: u64) -> String {
    if time == 0 { String::new() } else { timestamp(time).to_string() }
}

/// Time of day as tcpdump writes it, in this machine's time zone.
pub fn clock(time: u64, zone: &TimeZone) -> String {
    let local = zone.to_datetime(timestamp(time));
    format!("{:02}:{:02}:{:02}.{:06}", local.hour(), local.minute(), local.second(), local.subsec_nanosecond() / 1000)
}

/// A duration in nanoseconds with the unit that fits: `950ns`, `12.3us`, `1.2ms`, `3.4s`.
pub fn nanoseconds(duration: u64) -> String {
    match duration {
        0..1_000 => format!("{duration}ns"),
        1_000..1_000_000 => format!("{:.1}us", duration as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}ms", duration as f64 / 1e6),
        _ => format!("{:.1}s", duration as f64 / 1e9),
    }
}

fn timestamp(time: u64) -> Timestamp {
    Timestamp::from_nanosecond(time.into()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn ages_grow_in_units() {
        let now = 1_000_000 * SECOND;
        let age = |seconds: u64| age(now, now - seconds * SECOND);
        assert_eq!([age(0), age(119), age(120), age(7199)], ["0s", "119s", "2m", "119m"]);
        assert_eq!([age(7200), age(172_799), age(172_800)], ["2h", "47h", "2d"]);
        assert_eq!(super::age(now, 0), "");
        assert_eq!(super::age(now, now + SECOND), "0s");
    }

    #[test]
    fn times_are_written_as_elsewhere() {
        let time = 1_795_161_601 * SECOND + 123_456_789;
        assert_eq!(rfc3339(time), "2026-11-20T08:00:01.123456789Z");
        assert_eq!(clock(time, &TimeZone::UTC), "08:00:01.123456");
        assert_eq!(clock(time, &TimeZone::fixed(jiff::tz::offset(2))), "10:00:01.123456");
        assert_eq!(rfc3339(0), "");
    }

    #[test]
    fn durations_take_the_unit_that_fits() {
        assert_eq!([950, 12_345, 1_234_567, 3_400_000_000].map(nanoseconds), ["950ns", "12.3us", "1.2ms", "3.4s"]);
    }
}
