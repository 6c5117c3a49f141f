//! Encoded resources that several views have are kept once: most of what a management server sends to nodes is the same for
//! all of them.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use xxhash_rust::xxh64::xxh64;

/// So many are known before those that are gone are looked for.
const FEW: usize = 1024;

/// The bodies that there are. It keeps none alive. Clones are the same.
#[derive(Clone, Debug)]
pub struct Bodies(Arc<Mutex<Known>>);

#[derive(Debug)]
struct Known {
    /// By their hash: those of one hash are compared.
    by_hash: HashMap<u64, Vec<Weak<Bytes>>>,
    /// How many there may be until those that are gone are looked for.
    most: usize,
    /// Nobody outside knows which bodies have the same hash.
    seed: u64,
}

/// A body that is in use.
struct Held(Arc<Bytes>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Known { by_hash: HashMap::new(), most: FEW, seed: fastrand::u64(..) })))
    }
}

impl Bodies {
    /// The same bytes, which are kept once for all who have them.
    pub fn share(&self, body: Bytes) -> Bytes {
        let mut known = self.0.lock();
        let hash = xxh64(&body, known.seed);
        let same = known.by_hash.get(&hash).into_iter().flatten().filter_map(Weak::upgrade).find(|one| **one == body);
        let kept = same.unwrap_or_else(|| {
            let kept = Arc::new(body);
            known.add(hash, Arc::downgrade(&kept));
            kept
        });
        Bytes::from_owner(Held(kept))
    }

    /// How many bodies there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().by_hash.values().flatten().filter(|one| one.strong_count() > 0).count()
    }
}

impl Known {
    fn add(&mut self, hash: u64, body: Weak<Bytes>) {
        if self.by_hash.len() >= self.most {
            self.by_hash.retain(|_, bodies| {
                bodies.retain(|body| body.strong_count() > 0);
                !bodies.is_empty()
            });
            self.most = (2 * self.by_hash.len()).max(FEW);
        }
        self.by_hash.entry(hash).or_default().push(body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> Bytes {
        Bytes::from(text.to_owned().into_bytes())
    }

    #[test]
    fn the_same_bytes_are_kept_once_and_as_long_as_somebody_has_them() {
        let bodies = Bodies::default();
        let (one, same, other) = (bodies.share(body("one")), bodies.share(body("one")), bodies.share(body("other")));
        assert_eq!((&*one, &*other), (b"one".as_slice(), b"other".as_slice()));
        assert!(std::ptr::eq(one.as_ptr(), same.as_ptr()) && !std::ptr::eq(one.as_ptr(), other.as_ptr()));
        assert_eq!(bodies.len(), 2);
        drop((one, other));
        assert_eq!((bodies.len(), &*same), (1, b"one".as_slice()));
        drop(same);
        assert_eq!((bodies.len(), &*bodies.share(body("one"))), (0, b"one".as_slice()));
    }

    #[test]
    fn what_is_gone_takes_no_place() {
        let bodies = Bodies::default();
        let kept: Vec<_> = (0..100).map(|number| bodies.share(body(&format!("kept {number}")))).collect();
        for number in 0..10 * FEW {
            bodies.share(body(&number.to_string()));
        }
        assert!(bodies.0.lock().by_hash.len() <= FEW);
        assert_eq!(bodies.len(), kept.len());
    }
}
