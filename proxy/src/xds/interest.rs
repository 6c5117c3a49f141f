//! What is wanted of a type: everything, or names, each as often as somebody subscribes to it.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint};

/// Asks for everything there is.
pub(super) const EVERYTHING: &str = "*";

/// What is wanted of one type.
#[derive(Debug, Default)]
pub(super) struct Interest {
    everything: usize,
    names: BTreeMap<Arc<str>, usize>,
    /// All names as a request has them, since they last changed.
    encoded: Option<Bytes>,
}

/// The field of `DiscoveryRequest` that names are in.
const RESOURCE_NAMES: u32 = 3;

fn encode_name(name: &str, into: &mut impl BufMut) {
    encode_key(RESOURCE_NAMES, WireType::LengthDelimited, into);
    encode_varint(name.len() as u64, into);
    into.put_slice(name.as_bytes());
}

impl Interest {
    /// Adds a subscription to a name; none: to everything. Whether that is news.
    pub(super) fn add(&mut self, name: Option<&Arc<str>>) -> bool {
        let count = match name {
            Some(name) => self.names.entry(name.clone()).or_default(),
            None => &mut self.everything,
        };
        *count += 1;
        let news = *count == 1;
        if news {
            self.encoded = None;
        }
        news
    }

    /// Takes one away again. Whether it was the last.
    pub(super) fn remove(&mut self, name: Option<&Arc<str>>) -> bool {
        let Some(name) = name else {
            let last = self.everything == 1;
            self.everything = self.everything.saturating_sub(1);
            return last;
        };
        let Some(count) = self.names.get_mut(name) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.names.remove(name);
            self.encoded = None;
        }
        last
    }

    /// Everything is wanted.
    pub(super) fn everything(&self) -> bool {
        self.everything > 0
    }

    /// The names that are wanted whatever else is.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.keys()
    }

    /// The same as a request has them. Large meshes want tens of thousands, and each acknowledgement names them all.
    pub(super) fn encoded(&mut self) -> Bytes {
        let names = &self.names;
        let encode = || {
            let mut encoded = BytesMut::new();
            names.keys().for_each(|name| encode_name(name, &mut encoded));
            encoded.freeze()
        };
        self.encoded.get_or_insert_with(encode).clone()
    }

    /// A name is wanted, by itself or with everything.
    pub(super) fn has(&self, name: &str) -> bool {
        self.everything() || self.names.contains_key(name)
    }

    /// A name is wanted by itself.
    pub(super) fn names_it(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Nothing is wanted.
    pub(super) fn is_empty(&self) -> bool {
        !self.everything() && self.names.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_wanted_as_long_as_anybody_wants_it() {
        let mut interest = Interest::default();
        let name: Arc<str> = "a".into();
        assert!(interest.is_empty());
        assert!(interest.add(Some(&name)) && !interest.add(Some(&name)));
        assert!(interest.has("a") && !interest.has("b"));
        assert!(!interest.remove(Some(&name)) && interest.has("a"));
        assert!(interest.remove(Some(&name)) && !interest.has("a"));
        assert!(!interest.remove(Some(&name)));
        assert!(interest.encoded().is_empty());
        assert!(interest.add(Some(&name)) && &interest.encoded()[..] == b"\x1a\x01a");
        assert!(interest.remove(Some(&name)) && interest.encoded().is_empty());
        assert!(interest.add(None) && interest.has("b") && !interest.names_it("b"));
        assert!(interest.remove(None) && interest.is_empty() && !interest.remove(None));
    }
}
