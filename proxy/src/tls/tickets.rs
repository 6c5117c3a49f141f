//! Session tickets sealed with configured keys: every process that has the keys accepts them.
//!
//! A key is used for one security context only: what is sealed is bound to the context's digest, so that a session of a
//! listener that asks less of clients is worth nothing at one that asks more.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest,
    rand::{SecureRandom, SystemRandom},
};
use rustls::server::ProducesTickets;

/// Bytes of a key in the configuration: OpenSSL's name, HMAC key and AES key.
pub const KEY_BYTES: usize = 80;
/// How much of the sealed ticket names its key.
const NAME_BYTES: usize = 16;

/// Ticket keys. The first one seals; all open.
#[derive(Debug)]
pub struct TicketKeys {
    keys: Vec<Key>,
    lifetime: u32,
}

#[derive(Debug)]
struct Key {
    name: [u8; NAME_BYTES],
    key: LessSafeKey,
}

impl TicketKeys {
    /// From keys as configured, of 80 bytes each, for the security context that `context` is the digest of. None: a key
    /// of another length. `lifetime` in seconds.
    pub fn new(keys: &[Vec<u8>], context: &[u8], lifetime: u32) -> Option<Self> {
        let keys = keys.iter().map(|key| Key::new(key, context)).collect::<Option<Vec<_>>>()?;
        (!keys.is_empty()).then_some(Self { keys, lifetime })
    }
}

impl Key {
    fn new(configured: &[u8], context: &[u8]) -> Option<Self> {
        if configured.len() != KEY_BYTES {
            return None;
        }
        let derive = |label: &[u8]| {
            let mut digest = digest::Context::new(&digest::SHA256);
            digest.update(label);
            digest.update(configured);
            digest.update(context);
            digest.finish()
        };
        let name = derive(b"weir ticket name").as_ref()[..NAME_BYTES].try_into().ok()?;
        let key = UnboundKey::new(&AES_256_GCM, derive(b"weir ticket key").as_ref()).ok()?;
        Some(Self { name, key: LessSafeKey::new(key) })
    }
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.lifetime
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        key.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&key.name), &mut sealed)
            .ok()?;
        Some([&key.name[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = cipher.split_at_checked(NAME_BYTES)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let key = self.keys.iter().find(|key| key.name == name)?;
        let mut opened = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let length = key.key.open_in_place(nonce, Aad::from(&key.name), &mut opened).ok()?.len();
        opened.truncate(length);
        Some(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_open_with_any_key_of_the_same_context() {
        let (old, new) = (vec![1; KEY_BYTES], vec![2; KEY_BYTES]);
        let before = TicketKeys::new(std::slice::from_ref(&old), b"a", 60).unwrap();
        let after = TicketKeys::new(&[new.clone(), old.clone()], b"a", 60).unwrap();
        let ticket = before.encrypt(b"session").unwrap();
        assert_eq!(after.decrypt(&ticket).unwrap(), b"session");
        assert_eq!(before.decrypt(&after.encrypt(b"session").unwrap()), None);
        let other_context = TicketKeys::new(&[new, old], b"b", 60).unwrap();
        assert_eq!(other_context.decrypt(&ticket), None);
        let mut forged = ticket;
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(after.decrypt(&forged), None);
        assert_eq!(after.decrypt(b"short"), None);
    }

    #[test]
    fn keys_have_eighty_bytes() {
        assert!(TicketKeys::new(&[vec![0; 48]], b"", 60).is_none());
    }
}
