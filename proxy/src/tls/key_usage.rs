//! What a certificate's key may be used for (RFC 5280 section 4.2.1.3), as BoringSSL asks for it.

use super::der;

/// `id-ce-keyUsage`.
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
/// The first bit.
const DIGITAL_SIGNATURE: u8 = 0x80;

/// Whether the key may sign handshakes: so it is where the certificate does not say what it may do.
pub fn may_sign(certificate: &[u8]) -> bool {
    let Some(usage) = der::extension(certificate, KEY_USAGE) else { return true };
    let bits = der::read(usage).filter(|(element, _)| element.tag == der::BIT_STRING);
    // The first byte says how many bits of the last are none.
    bits.and_then(|(element, _)| element.content.get(1).copied()).is_some_and(|bits| bits & DIGITAL_SIGNATURE != 0)
}

#[cfg(test)]
mod tests {
    use rcgen::KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign, KeyEncipherment};

    use super::*;
    use crate::tls::testing::{authority, leaf};

    #[test]
    fn keys_sign_unless_they_are_for_something_else() {
        let ca = authority("ca");
        for (usages, may) in [
            (vec![], true),
            (vec![DigitalSignature], true),
            (vec![KeyEncipherment, DigitalSignature], true),
            (vec![KeyEncipherment], false),
            (vec![KeyCertSign, CrlSign], false),
        ] {
            let issued = leaf(&ca, |params| params.key_usages.clone_from(&usages));
            assert_eq!(may_sign(&issued.certificate), may, "{usages:?}");
        }
    }
}
