//! Fingerprints of ClientHellos, JA3 and JA4, as `tls_inspector` takes them.
//!
//! <https://github.com/salesforce/ja3>, <https://github.com/FoxIO-LLC/ja4/blob/main/technical_details/JA4.md>; where they
//! leave room, as Envoy does it.

use aws_lc_rs::digest::{SHA256, digest};

use super::{
    certificate::hex,
    md5::md5,
    vectors::{ALPN, Reader, SERVER_NAME, SUPPORTED_VERSIONS},
};

const SUPPORTED_GROUPS: u16 = 10;
const POINT_FORMATS: u16 = 11;
const SIGNATURE_ALGORITHMS: u16 = 13;
/// Digits of a hash in JA4.
const SHORT: usize = 12;

/// Which are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// JA3.
    pub ja3: bool,
    /// JA4.
    pub ja4: bool,
}

/// Fingerprints of a ClientHello; none: not wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprints {
    /// JA3, in hexadecimal.
    pub ja3: Option<Box<str>>,
    /// JA4.
    pub ja4: Option<Box<str>>,
}

/// What of a ClientHello fingerprints look at.
pub(super) struct Parts<'a> {
    pub version: u16,
    pub suites: Reader<'a>,
    pub extensions: Vec<(u16, Reader<'a>)>,
}

impl Fingerprints {
    pub(super) fn of(parts: &Parts<'_>, wanted: Wanted) -> Self {
        Self {
            ja3: wanted.ja3.then(|| hex(&md5(parts.ja3().as_bytes())).into()),
            ja4: wanted.ja4.then(|| parts.ja4().into()),
        }
    }
}

impl Parts<'_> {
    fn extension(&self, kind: u16) -> Option<Reader<'_>> {
        self.extensions.iter().find(|(known, _)| *known == kind).map(|(_, content)| *content)
    }

    /// The numbers of an extension that is one vector of them.
    fn numbers(&self, kind: u16) -> Vec<u16> {
        let vector = self.extension(kind).and_then(|mut content| content.vector16());
        vector.map(|vector| vector.shorts().collect()).unwrap_or_default()
    }

    fn suites(&self) -> Vec<u16> {
        self.suites.shorts().filter(|suite| !is_grease(*suite)).collect()
    }

    fn kinds(&self) -> Vec<u16> {
        self.extensions.iter().map(|(kind, _)| *kind).filter(|kind| !is_grease(*kind)).collect()
    }

    fn ja3(&self) -> String {
        let list = |numbers: &[u16]| numbers.iter().map(u16::to_string).collect::<Vec<_>>().join("-");
        let formats = self.extension(POINT_FORMATS).and_then(|mut content| content.vector8());
        let formats: Vec<u16> =
            formats.map(|formats| formats.0.iter().copied().map(u16::from).collect()).unwrap_or_default();
        let (suites, kinds) = (list(&self.suites()), list(&self.kinds()));
        // As in Envoy, groups that mean nothing (GREASE) are left in.
        let groups = list(&self.numbers(SUPPORTED_GROUPS));
        format!("{},{suites},{kinds},{groups},{}", self.version, list(&formats))
    }

    fn ja4(&self) -> String {
        let (mut suites, kinds) = (self.suites(), self.kinds());
        let name = if self.extension(SERVER_NAME).is_some() { 'd' } else { 'i' };
        let (suites_count, kinds_count) = (suites.len().min(99), kinds.len().min(99));
        suites.sort_unstable();
        let mut hashed: Vec<u16> = kinds.into_iter().filter(|kind| ![SERVER_NAME, ALPN].contains(kind)).collect();
        hashed.sort_unstable();
        let mut rest = list4(&hashed);
        let mut algorithms = self.numbers(SIGNATURE_ALGORITHMS);
        algorithms.retain(|algorithm| !is_grease(*algorithm));
        if !hashed.is_empty() && !algorithms.is_empty() {
            rest.push('_');
            rest.push_str(&list4(&algorithms));
        }
        let (version, protocol) = (self.ja4_version(), self.ja4_protocol());
        let (first, second) = (short_hash(&list4(&suites)), short_hash(&rest));
        format!("t{version}{name}{suites_count:02}{kinds_count:02}{protocol}_{first}_{second}")
    }

    fn ja4_version(&self) -> &'static str {
        let offered = self.extension(SUPPORTED_VERSIONS).and_then(|mut content| content.vector8());
        let highest = offered.and_then(|offered| offered.shorts().filter(|version| !is_grease(*version)).max());
        match highest.unwrap_or(self.version) {
            0x0304 => "13",
            0x0303 => "12",
            0x0302 => "11",
            0x0301 => "10",
            0x0300 => "s3",
            _ => "00",
        }
    }

    /// The first and the last character of the first protocol, or digits of theirs.
    fn ja4_protocol(&self) -> String {
        let list = self.extension(ALPN).and_then(|mut content| content.vector16());
        let first = list.and_then(|mut list| list.vector8());
        let Some([first, last]) = first.and_then(|name| Some([*name.0.first()?, *name.0.last()?])) else {
            return "00".to_owned();
        };
        if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
            return [first, last].map(char::from).iter().collect();
        }
        format!("{:x}{:x}", first >> 4, last & 0xf)
    }
}

/// RFC 8701: values that clients send to find out whether servers ignore them.
fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 0xf == 0xa
}

fn list4(numbers: &[u16]) -> String {
    numbers.iter().map(|number| format!("{number:04x}")).collect::<Vec<_>>().join(",")
}

fn short_hash(text: &str) -> String {
    if text.is_empty() {
        return "0".repeat(SHORT);
    }
    let mut hash = hex(digest(&SHA256, text.as_bytes()).as_ref());
    hash.truncate(SHORT);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::hello::{Seen, look_for};

    fn bytes(hexadecimal: &str) -> Vec<u8> {
        (0..hexadecimal.len()).step_by(2).map(|at| u8::from_str_radix(&hexadecimal[at..at + 2], 16).unwrap()).collect()
    }

    /// What Envoy 1.40 says of the same bytes.
    #[test]
    fn fingerprints_are_envoys() {
        let random = "00".repeat(32);
        for (hello, ja3, ja4) in [
            (
                format!(
                    "16030100820100007e0303{random}0000080a0a1301c02f00ff0100004d1a1a00000000000b0009000006622e74657374\
                     000a000800062a2a001d0017000b00020100000d00080006040308040401001000080006020a0a026832002b0007063a3a\
                     030403034a4a000100"
                ),
                "7530e61f17df3f1d675c5fae78a68142",
                "t13d03060a_938715873a05_0d385148b956",
            ),
            (
                format!(
                    "160301004c010000480301{random}000002c02f0100001d0010000b000908687474702f312e31000d00020000000b0004\
                     03000102"
                ),
                "df8c6bfa8e25dd7a2c553bdc9495e621",
                "t10i0103h1_f06271c2b022_fb56c745b0be",
            ),
        ] {
            let Seen::Hello(hello) = look_for(&bytes(&hello), Wanted { ja3: true, ja4: true }) else {
                panic!("{hello}")
            };
            let found = hello.fingerprints.unwrap();
            assert_eq!((found.ja3.as_deref(), found.ja4.as_deref()), (Some(ja3), Some(ja4)));
        }
    }
}
