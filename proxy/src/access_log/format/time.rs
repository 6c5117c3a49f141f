//! Times: Envoy's default, and formats in the words of strftime with Envoy's and absl's additions.

use std::{fmt::Write as _, time::SystemTime};

use jiff::{Timestamp, Zoned, fmt::strtime, tz::TimeZone};

/// How a time is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeFormat {
    /// None: Envoy's default.
    pieces: Option<Vec<Piece>>,
    /// None: UTC.
    zone: Option<TimeZone>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Box<str>),
    /// One specifier, in jiff's spelling.
    Strftime(Box<str>),
    /// Seconds since the epoch.
    Epoch,
    /// So many digits of the second's fraction.
    Fraction(usize),
    /// Seconds with so many digits of their fraction; none: as many as say something.
    Seconds(Option<usize>),
    /// The fraction, as many digits as say something.
    ShortFraction,
}

/// Specifiers that strftime and jiff understand alike.
const KNOWN: &str = "aAbBCdDeFgGhHIjklmMnpPrRStTuUVwWxXyYzZ";

impl TimeFormat {
    /// Envoy's default in UTC.
    pub const DEFAULT: Self = Self { pieces: None, zone: None };

    /// Parses a format; an empty one is the default. `local`: in the process's time zone.
    pub fn parse(text: &str, local: bool) -> Result<Self, String> {
        let zone = local.then(TimeZone::system);
        let text = match (text, local) {
            ("", false) => return Ok(Self::DEFAULT),
            ("", true) => "%Y-%m-%dT%H:%M:%E3S%z",
            (text, _) => text,
        };
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            literal.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            if let Some(next) = after.strip_prefix('%') {
                literal.push('%');
                rest = next;
                continue;
            }
            match specifier(after)? {
                Some((piece, length)) => {
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
                    }
                    pieces.push(piece);
                    rest = &after[length..];
                }
                // As absl: what is no specifier stands for itself.
                None => {
                    literal.push('%');
                    rest = after;
                }
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.into()));
        }
        Ok(Self { pieces: Some(pieces), zone })
    }

    /// Appends a time; false if it is out of range.
    pub(super) fn write(&self, out: &mut Vec<u8>, time: SystemTime) -> bool {
        let Ok(time) = Timestamp::try_from(time) else { return false };
        match &self.pieces {
            None => write_default(out, time),
            Some(pieces) => {
                let zoned = time.to_zoned(self.zone.clone().unwrap_or(TimeZone::UTC));
                // Writing into a String does not fail.
                let mut text = String::new();
                pieces.iter().for_each(|piece| piece.write(&mut text, &zoned));
                out.extend_from_slice(text.as_bytes());
            }
        }
        true
    }
}

/// What follows a `%`: the specifier, and how long it is.
fn specifier(text: &str) -> Result<Option<(Piece, usize)>, String> {
    let bytes = text.as_bytes();
    let newline = || Err("Invalid header configuration. Format string contains newline.".to_owned());
    let fraction = |digits: u8| Piece::Fraction(usize::from(digits - b'0'));
    Ok(match bytes {
        [b'n', ..] | [b'E' | b'O', b'n', ..] => return newline(),
        [b's', ..] => Some((Piece::Epoch, 1)),
        [b'f', ..] => Some((Piece::Fraction(9), 1)),
        [digits @ b'1'..=b'9', b'f', ..] => Some((fraction(*digits), 2)),
        [b'E', b'*', b'S', ..] => Some((Piece::Seconds(None), 3)),
        [b'E', b'*', b'f', ..] => Some((Piece::ShortFraction, 3)),
        [b'E', digits @ b'0'..=b'9', b'S', ..] => Some((Piece::Seconds(Some(usize::from(digits - b'0'))), 3)),
        [b'E', digits @ b'1'..=b'9', b'f', ..] => Some((fraction(*digits), 3)),
        [b'E', b'z', ..] => Some((Piece::Strftime("%:z".into()), 2)),
        [b'E', b'*', b'z', ..] => Some((Piece::Strftime("%::z".into()), 3)),
        [b':', b'z', ..] => Some((Piece::Strftime("%:z".into()), 2)),
        [b'E', b'T', ..] => Some((Piece::Literal("T".into()), 2)),
        [b'E', b'4', b'Y', ..] => Some((Piece::Strftime("%Y".into()), 3)),
        [b'c', ..] => Some((Piece::Strftime("%a %b %e %H:%M:%S %Y".into()), 1)),
        [b'x', ..] => Some((Piece::Strftime("%m/%d/%y".into()), 1)),
        [b'X', ..] => Some((Piece::Strftime("%H:%M:%S".into()), 1)),
        [b'r', ..] => Some((Piece::Strftime("%I:%M:%S %p".into()), 1)),
        [letter, ..] if KNOWN.as_bytes().contains(letter) => {
            Some((Piece::Strftime(format!("%{}", char::from(*letter)).into()), 1))
        }
        _ => None,
    })
}

impl Piece {
    fn write(&self, text: &mut String, time: &Zoned) {
        let nanos = time.subsec_nanosecond().unsigned_abs();
        let _ = match self {
            Self::Literal(literal) => {
                text.push_str(literal);
                Ok(())
            }
            Self::Strftime(format) => {
                let written = strtime::format(&**format, time);
                text.push_str(written.as_deref().unwrap_or_default());
                Ok(())
            }
            Self::Epoch => write!(text, "{}", time.timestamp().as_second()),
            Self::Fraction(digits) => {
                text.push_str(&format!("{nanos:09}")[..*digits]);
                Ok(())
            }
            Self::Seconds(Some(0)) => write!(text, "{:02}", time.second()),
            Self::Seconds(Some(digits)) => {
                write!(text, "{:02}.{}", time.second(), &format!("{nanos:09}")[..*digits])
            }
            Self::Seconds(None) if nanos == 0 => write!(text, "{:02}", time.second()),
            Self::Seconds(None) => {
                write!(text, "{:02}.{}", time.second(), format!("{nanos:09}").trim_end_matches('0'))
            }
            Self::ShortFraction if nanos == 0 => write!(text, "0"),
            Self::ShortFraction => write!(text, "{}", format!("{nanos:09}").trim_end_matches('0')),
        };
    }
}

/// ISO 8601 with milliseconds, written by hand: it is in every line.
fn write_default(out: &mut Vec<u8>, time: Timestamp) {
    let time = jiff::tz::Offset::UTC.to_datetime(time);
    let two = |out: &mut Vec<u8>, value: i8, after: u8| {
        let value = value.unsigned_abs();
        out.extend_from_slice(&[b'0' + value / 10, b'0' + value % 10, after]);
    };
    let year = time.year().unsigned_abs();
    two(out, i8::try_from(year / 100).unwrap_or_default(), b'0');
    out.pop();
    two(out, i8::try_from(year % 100).unwrap_or_default(), b'-');
    two(out, time.month(), b'-');
    two(out, time.day(), b'T');
    two(out, time.hour(), b':');
    two(out, time.minute(), b':');
    two(out, time.second(), b'.');
    let millis = time.millisecond().unsigned_abs();
    out.push(b'0' + u8::try_from(millis / 100).unwrap_or_default());
    two(out, i8::try_from(millis % 100).unwrap_or_default(), b'Z');
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times() {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_481_818_059, 319_040_500);
        for (format, expected) in [
            ("", "2016-12-15T16:07:39.319Z"),
            ("%Y/%m/%dT%H:%M:%S.%3f %s", "2016/12/15T16:07:39.319 1481818059"),
            ("%f %1f %6f %9f", "319040500 3 319040 319040500"),
            ("%E3S %E*S %E*f %E0S %Ez %:z %ET", "39.319 39.3190405 3190405 39 +00:00 +00:00 T"),
            ("%q %% %Q%", "%q % %Q%"),
            ("%F %T %z %Z %a %b %e %j", "2016-12-15 16:07:39 +0000 UTC Thu Dec 15 350"),
        ] {
            let mut out = Vec::new();
            assert!(TimeFormat::parse(format, false).unwrap().write(&mut out, time));
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{format}");
        }
        assert_eq!(
            TimeFormat::parse("%n", false).unwrap_err(),
            "Invalid header configuration. Format string contains newline."
        );
    }
}
