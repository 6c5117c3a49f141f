//! Identifiers in the form of UUIDs.

use std::{
    hash::{BuildHasher, RandomState},
    sync::OnceLock,
};

/// A new one.
pub(super) fn random() -> String {
    form((u128::from(fastrand::u64(..)) << 64) | u128::from(fastrand::u64(..)))
}

/// The one of a connection of this process: always the same, and no other's.
pub(super) fn of_connection(connection: u64) -> String {
    static SEED: OnceLock<RandomState> = OnceLock::new();
    let seed = SEED.get_or_init(RandomState::new);
    let half = |salt: u8| u128::from(seed.hash_one((connection, salt)));
    form((half(0) << 64) | half(1))
}

/// Version 4, RFC 9562 section 5.4.
fn form(bits: u128) -> String {
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_connection_keeps_its_own() {
        let (one, two) = (super::of_connection(1), super::of_connection(2));
        assert_eq!(one, super::of_connection(1));
        assert_ne!(one, two);
        assert_eq!((one.len(), &one[14..15]), (36, "4"));
        assert_ne!(super::random(), super::random());
    }
}
