//! Which bytes may stand where.

const TOKEN: u8 = 1;
const PLAIN_TARGET: u8 = 2;
const AUTHORITY: u8 = 4;
const INVALID: u8 = 8;

/// What each byte may be part of.
static KINDS: [u8; 256] = kinds();

const fn kinds() -> [u8; 256] {
    let mut kinds = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let character = byte as u8;
        let mut kind = 0;
        if character.is_ascii_alphanumeric() || is_one_of(character, b"!#$%&'*+-.^_`|~") {
            kind |= TOKEN;
        }
        if character.is_ascii_graphic() && !is_one_of(character, b"#<>`\"") {
            kind |= PLAIN_TARGET;
        }
        if character.is_ascii_alphanumeric() || is_one_of(character, b"!$%&'()*+,-.:;=@[]_~") {
            kind |= AUTHORITY;
        }
        if character.is_ascii_control() && !is_one_of(character, b"\t\r\n") {
            kind |= INVALID;
        }
        kinds[byte] = kind;
        byte += 1;
    }
    kinds
}

const fn is_one_of(character: u8, characters: &[u8]) -> bool {
    let mut at = 0;
    while at < characters.len() {
        if characters[at] == character {
            return true;
        }
        at += 1;
    }
    false
}

fn is(byte: u8, kind: u8) -> bool {
    KINDS[usize::from(byte)] & kind != 0
}

/// Of methods and names of headers (RFC 9110 section 5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    is(byte, TOKEN)
}

/// Of targets that every parser takes: printable, and none of those that some want escaped.
pub(super) fn is_plain_target(byte: u8) -> bool {
    is(byte, PLAIN_TARGET)
}

/// Of paths and queries, as Envoy takes them.
pub(super) fn is_target(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

/// Of a host and port, as Envoy takes them.
pub(in crate::http) fn is_authority(byte: u8) -> bool {
    is(byte, AUTHORITY)
}

/// Nowhere in a head: control characters but for those of whitespace and line ends.
pub(super) fn is_invalid(byte: u8) -> bool {
    is(byte, INVALID)
}

/// How many control characters there are.
pub(super) fn controls(bytes: &[u8]) -> usize {
    // In pieces whose counts fit a byte, which compilers turn into vector instructions.
    bytes
        .chunks(255)
        .map(|piece| usize::from(piece.iter().map(|byte| u8::from(byte.is_ascii_control())).sum::<u8>()))
        .sum()
}

/// Without the whitespace around it, which is whatever is no larger than a space.
pub(super) fn trimmed(mut bytes: &[u8]) -> &[u8] {
    while let [0..=b' ', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., 0..=b' '] = bytes {
        bytes = rest;
    }
    bytes
}

/// A number in decimal digits and nothing else, if it fits.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_counted() {
        assert_eq!(controls(b"a: b\r\n\x7f\x00\xff "), 4);
        assert_eq!(controls(&[b'\n'; 1000]), 1000);
    }

    #[test]
    fn numbers_are_digits() {
        for (text, number) in [
            ("5", Some(5)),
            ("05", Some(5)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("", None),
            ("+5", None),
            ("5a", None),
        ] {
            assert_eq!(decimal(text.as_bytes()), number, "{text}");
        }
    }
}
