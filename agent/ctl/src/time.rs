//! Times as users read them.

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Seconds shown as such below this, then minutes, hours and days.
const SECONDS_UP_TO: u64 = 120;
const MINUTES_UP_TO: u64 = 120;
const HOURS_UP_TO: u64 = 48;

/// A time of the agent's API: Unix time in nanoseconds, 0 for never. In JSON RFC 3339 in UTC, or null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// Now.
    pub fn now() -> Self {
        Self(u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or_default())
    }

    /// RFC 3339 in UTC, "" for never.
    fn rfc3339(self) -> String {
        if self.0 == 0 { String::new() } else { timestamp(self.0).to_string() }
    }

    /// Time of day as tcpdump writes it, in a time zone.
    pub fn clock(self, zone: &TimeZone) -> String {
        let local = zone.to_datetime(timestamp(self.0));
        let microseconds = local.subsec_nanosecond() / 1000;
        format!("{:02}:{:02}:{:02}.{microseconds:06}", local.hour(), local.minute(), local.second())
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 == 0 { serializer.serialize_none() } else { serializer.serialize_str(&self.rfc3339()) }
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(Self::default()) };
        let time: Timestamp = text.parse().map_err(D::Error::custom)?;
        Ok(Self(u64::try_from(time.as_nanosecond()).unwrap_or_default()))
    }
}

/// How long ago, as kubectl shows it: `7s`, `5m`, `3h`, `2d`; "" for never.
pub fn age(now: Time, then: Time) -> String {
    if then.0 == 0 {
        return String::new();
    }
    span(now.0.saturating_sub(then.0))
}

/// The same of a duration in nanoseconds.
pub fn span(duration: u64) -> String {
    let seconds = duration / 1_000_000_000;
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
        let age = |seconds: u64| age(Time(now), Time(now - seconds * SECOND));
        assert_eq!([age(0), age(119), age(120), age(7199)], ["0s", "119s", "2m", "119m"]);
        assert_eq!([age(7200), age(172_799), age(172_800)], ["2h", "47h", "2d"]);
        assert_eq!(super::age(Time(now), Time(0)), "");
        assert_eq!(super::age(Time(now), Time(now + SECOND)), "0s");
    }

    #[test]
    fn times_are_written_as_elsewhere() {
        let time = 1_795_161_601 * SECOND + 123_456_789;
        assert_eq!(Time(time).clock(&TimeZone::UTC), "08:00:01.123456");
        assert_eq!(Time(time).clock(&TimeZone::fixed(jiff::tz::offset(2))), "10:00:01.123456");
        let json = serde_json::to_string(&[Time(time), Time(0)]).unwrap();
        assert_eq!(json, "[\"2026-11-20T08:00:01.123456789Z\",null]");
        assert_eq!(serde_json::from_str::<[Time; 2]>(&json).unwrap(), [Time(time), Time(0)]);
    }

    #[test]
    fn durations_take_the_unit_that_fits() {
        assert_eq!([950, 12_345, 1_234_567, 3_400_000_000].map(nanoseconds), ["950ns", "12.3us", "1.2ms", "3.4s"]);
    }
}
