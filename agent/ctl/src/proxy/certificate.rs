//! As much of an X.509 certificate as is shown of it (RFC 5280, section 4.1): its serial number and how long it is valid.

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::civil::DateTime;

use crate::time::Time;

/// Tags of DER (X.690).
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The version, which stands before the serial number in all but the first version.
const VERSION: u8 = 0xa0;

/// What is shown of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Certificate {
    /// In hexadecimal.
    pub(super) serial: String,
    /// RFC 3339.
    pub(super) not_before: String,
    /// RFC 3339.
    pub(super) not_after: String,
}

impl Certificate {
    /// The first of a text in PEM.
    pub(super) fn first(pem: &str) -> Option<Self> {
        let (_, rest) = pem.split_once("-----BEGIN CERTIFICATE-----")?;
        let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
        let body: String = body.split_whitespace().collect();
        Self::of(&BASE64_STANDARD.decode(body).ok()?)
    }

    fn of(der: &[u8]) -> Option<Self> {
        let certificate = Der(der).expect(SEQUENCE)?;
        let mut signed = Der(Der(certificate).expect(SEQUENCE)?);
        if signed.0.first() == Some(&VERSION) {
            signed.next()?;
        }
        let serial = signed.expect(INTEGER)?;
        let [_, _] = [signed.expect(SEQUENCE)?, signed.expect(SEQUENCE)?];
        let mut validity = Der(signed.expect(SEQUENCE)?);
        let [not_before, not_after] = [time(validity.next()?)?, time(validity.next()?)?];
        // A positive number whose first bit is set has a zero before it.
        let serial = serial.strip_prefix(&[0]).filter(|rest| !rest.is_empty()).unwrap_or(serial);
        let serial = serial.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Self { serial, not_before, not_after })
    }

    /// Whether it is valid then.
    pub(super) fn is_valid(&self, now: Time) -> bool {
        let at = |text: &str| serde_json::from_value::<Time>(text.into()).ok();
        let (Some(before), Some(after)) = (at(&self.not_before), at(&self.not_after)) else { return false };
        before <= now && now <= after
    }
}

/// What is left of a sequence.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next value, with its tag.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first & 0x80 != 0 {
            let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            length = bytes
                .iter()
                .try_fold(0_usize, |length, byte| length.checked_mul(256)?.checked_add(usize::from(*byte)))?;
            rest = after;
        }
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    /// The next value, if it is of this tag.
    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, value)| value)
    }
}

/// A time of DER, always in UTC, as RFC 3339. Two digits of a year are those of 1950 to 2049.
fn time((tag, value): (u8, &[u8])) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    let text = match tag {
        UTC_TIME if text.get(..2)? < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let time = DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let value = parts.concat();
        [&[tag, 0x82, (value.len() >> 8) as u8, value.len() as u8], &*value].concat()
    }

    fn certificate(serial: &[u8], not_after: (u8, &str)) -> String {
        let validity =
            value(SEQUENCE, &[&value(UTC_TIME, &[b"991231235959Z"]), &value(not_after.0, &[not_after.1.as_bytes()])]);
        let nothing = value(SEQUENCE, &[]);
        let version = value(VERSION, &[&value(INTEGER, &[&[2]])]);
        let signed = value(SEQUENCE, &[&version, &value(INTEGER, &[serial]), &nothing, &nothing, &validity]);
        let body = BASE64_STANDARD.encode(value(SEQUENCE, &[&signed]));
        format!("# a comment\n-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }

    #[test]
    fn a_certificate_is_known_by_its_serial_number_and_valid_for_a_time() {
        let one = Certificate::first(&certificate(&[0, 0xab, 1], (GENERALIZED_TIME, "20500101000000Z"))).unwrap();
        let expected = Certificate {
            serial: "ab01".into(),
            not_before: "1999-12-31T23:59:59Z".into(),
            not_after: "2050-01-01T00:00:00Z".into(),
        };
        assert_eq!(one, expected);
        assert!(one.is_valid(Time::now()));
        let over = Certificate::first(&certificate(&[7], (UTC_TIME, "200101000000Z"))).unwrap();
        assert_eq!((over.serial.as_str(), over.is_valid(Time::now())), ("07", false));
    }

    #[test]
    fn what_is_none_is_not_shown() {
        assert_eq!(Certificate::first("no certificate"), None);
        assert_eq!(Certificate::first("-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----"), None);
        assert_eq!(Certificate::first(&certificate(&[7], (UTC_TIME, "nonsense"))), None);
    }
}
