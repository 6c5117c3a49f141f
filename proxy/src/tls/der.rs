//! As much of DER as it takes to find a part of a certificate, without reading the rest.

/// A BIT STRING.
pub const BIT_STRING: u8 = 0x03;
/// An OCTET STRING.
pub const OCTET_STRING: u8 = 0x04;
/// A SEQUENCE.
pub const SEQUENCE: u8 = 0x30;
/// `[0]`, a certificate's version.
pub const VERSION: u8 = 0xa0;
/// `[3]`, a certificate's extensions.
pub const EXTENSIONS: u8 = 0xa3;

/// A tag with what it stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// The tag's byte.
    pub tag: u8,
    /// What is in it.
    pub content: &'a [u8],
    /// All of it.
    pub whole: &'a [u8],
}

impl<'a> Element<'a> {
    /// The elements in it, as far as they can be read.
    pub fn parts(&self) -> impl Iterator<Item = Element<'a>> + use<'a> {
        let mut rest = self.content;
        std::iter::from_fn(move || {
            let (element, after) = read(rest)?;
            rest = after;
            Some(element)
        })
    }
}

/// The first element, and what comes after it.
pub fn read(bytes: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let [tag, first, ..] = *bytes else { return None };
    let (length, head) = match first {
        0..=0x7f => (usize::from(first), 2),
        // Longer ones stand in no certificate that fits a handshake.
        0x81..=0x83 => {
            let head = 2 + usize::from(first & 0x7f);
            let length = bytes.get(2..head)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            (length, head)
        }
        _ => return None,
    };
    let whole = bytes.get(..head + length)?;
    Some((Element { tag, content: &whole[head..], whole }, &bytes[head + length..]))
}

/// An element of such content.
pub fn write(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().position(|byte| *byte != 0).unwrap_or(length.len() - 1)..];
    let mut written = vec![tag];
    if content.len() >= 0x80 {
        written.push(0x80 | significant.len() as u8);
    }
    written.extend_from_slice(significant);
    written.extend_from_slice(content);
    written
}

/// What a certificate's issuer signs of it, and what comes after that.
pub fn to_be_signed(certificate: &[u8]) -> Option<(Element<'_>, &[u8])> {
    read(read(certificate)?.0.content)
}

/// An extension's value by its object identifier (without the head of that). None: the certificate has none such.
pub fn extension<'a>(certificate: &'a [u8], identifier: &[u8]) -> Option<&'a [u8]> {
    let (signed, _) = to_be_signed(certificate)?;
    let extensions = signed.parts().find(|part| part.tag == EXTENSIONS)?;
    let found = extensions.parts().next()?.parts().find(|one| is(one, identifier))?;
    found.parts().find(|part| part.tag == OCTET_STRING).map(|part| part.content)
}

/// Whether an extension has this identifier.
pub fn is(extension: &Element<'_>, identifier: &[u8]) -> bool {
    extension.parts().next().is_some_and(|part| part.content == identifier)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000] {
            let content = vec![7; length];
            let mut bytes = write(SEQUENCE, &content);
            let whole = bytes.clone();
            bytes.extend([1, 2, 3]);
            let (element, rest) = read(&bytes).unwrap();
            assert_eq!((element.tag, element.content, element.whole), (SEQUENCE, &*content, &*whole));
            assert_eq!(rest, [1, 2, 3]);
        }
    }

    #[test]
    fn what_ends_early_is_not_read() {
        for bytes in [&[][..], &[0x30], &[0x30, 1], &[0x30, 0x80, 0, 0], &[0x30, 0x82, 1], &[0x30, 0x84, 0, 0, 0, 1, 1]]
        {
            assert_eq!(read(bytes), None, "{bytes:?}");
        }
    }
}
