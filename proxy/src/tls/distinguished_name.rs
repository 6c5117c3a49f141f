//! Distinguished names as OpenSSL prints them for RFC 2253: the most specific part first.

use std::fmt::Write as _;

use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The name as text.
pub fn rfc2253(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (index, part) in parts.into_iter().rev().enumerate() {
        if index > 0 {
            text.push(',');
        }
        let attributes: Vec<_> = part.iter().collect();
        for (index, attribute) in attributes.into_iter().rev().enumerate() {
            if index > 0 {
                text.push('+');
            }
            write(&mut text, attribute);
        }
    }
    text
}

fn write(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let oid = attribute.attr_type().to_id_string();
    match (short_name(&oid), attribute.as_str()) {
        (Some(name), Ok(value)) => {
            let _ = write!(text, "{name}=");
            escape(text, value);
        }
        // Of a type that is not known the DER says more than a guess.
        (name, _) => {
            let _ = write!(text, "{}=#", name.unwrap_or(&oid));
            let value = attribute.attr_value();
            let bytes = value.as_bytes();
            let _ = write!(text, "{:02X}{}", value.tag().0, length(bytes.len()));
            for byte in bytes {
                let _ = write!(text, "{byte:02X}");
            }
        }
    }
}

/// A DER length, in hexadecimal.
fn length(length: usize) -> String {
    match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => format!("{short:02X}"),
        Ok(long) => format!("81{long:02X}"),
        Err(_) => format!("82{:04X}", length.min(0xffff)),
    }
}

/// RFC 2253 section 2.4; what is not ASCII as the bytes of its UTF-8.
fn escape(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (index, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' if index == 0 => text.push_str("\\#"),
            b' ' if index == 0 || index == last => text.push_str("\\ "),
            0x20..=0x7e => text.push(char::from(byte)),
            other => {
                let _ = write!(text, "\\{other:02X}");
            }
        }
    }
}

fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.17" => "postalCode",
        "2.5.4.41" => "name",
        "2.5.4.42" => "GN",
        "2.5.4.43" => "initials",
        "2.5.4.44" => "generationQualifier",
        "2.5.4.46" => "dnQualifier",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::DnType;

    use crate::tls::{
        certificate::Certificate,
        testing::{authority, leaf},
    };

    #[test]
    fn parts_are_reversed_and_escaped() {
        let issued = leaf(&authority("CA"), |params| {
            let name = &mut params.distinguished_name;
            *name = rcgen::DistinguishedName::new();
            name.push(DnType::CountryName, "US");
            name.push(DnType::OrganizationName, "Lyft");
            name.push(DnType::OrganizationalUnitName, "Eng, \"inc\"+");
            name.push(DnType::CommonName, " Te\u{e9}st");
            name.push(DnType::CustomDnType(vec![1, 2, 3, 4]), "x");
        });
        let certificate = Certificate::from(issued.certificate);
        let subject = &certificate.content().subject;
        assert_eq!(subject, "1.2.3.4=#0C0178,CN=\\ Te\\C3\\A9st,OU=Eng\\, \\\"inc\\\"\\+,O=Lyft,C=US");
    }
}
