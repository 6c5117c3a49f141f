//! Descriptors of every message of Envoy's API and ours, with their options: unpacked when they are first needed, and kept
//! until [`forget`]: they are some ten megabytes, of use only while a configuration is read or shown.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use prost::Name;
use prost_reflect::{DescriptorPool, MessageDescriptor};

use crate::validate::Rules;

static KEPT: Mutex<Option<Arc<Unpacked>>> = Mutex::new(None);
static KEEPERS: AtomicUsize = AtomicUsize::new(0);

/// The descriptors, with the rules in them. A message goes with the rules of the same unpacking.
pub(crate) struct Unpacked {
    pool: DescriptorPool,
    pub rules: Rules,
}

impl Unpacked {
    fn new() -> Self {
        let compressed = include_bytes!("generated/descriptors.binpb.zst");
        let set = zstd::decode_all(&compressed[..]).expect("the embedded descriptor set is what xtask compressed");
        let pool = DescriptorPool::decode(&set[..]).expect("protoc made the embedded descriptor set");
        let rules = Rules::of(&pool);
        Self { pool, rules }
    }

    /// The descriptor of a generated type.
    pub fn of<T: Name>(&self) -> MessageDescriptor {
        let name = T::full_name();
        self.pool.get_message_by_name(&name).expect("generated types come from the embedded descriptor set")
    }

    /// The descriptor of a type by its name, if it is known.
    pub fn of_name(&self, name: &str) -> Option<MessageDescriptor> {
        self.pool.get_message_by_name(name)
    }
}

pub(crate) fn unpacked() -> Arc<Unpacked> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.get_or_insert_with(|| Arc::new(Unpacked::new())).clone()
}

/// The pool. What came from it keeps it alive.
pub fn pool() -> DescriptorPool {
    unpacked().pool.clone()
}

/// As long as one of these is kept, so are the descriptors: they are about to be used again.
#[derive(Debug)]
pub struct Keeping(());

/// Keeps the descriptors, from their next use on.
pub fn keep() -> Keeping {
    KEEPERS.fetch_add(1, Relaxed);
    Keeping(())
}

impl Drop for Keeping {
    fn drop(&mut self) {
        KEEPERS.fetch_sub(1, Relaxed);
    }
}

/// Drops the descriptors, but for what still uses them, unless somebody [keeps](keep) them; whether there were any. The next
/// use unpacks them anew, in some ten milliseconds.
pub fn forget() -> bool {
    if KEEPERS.load(Relaxed) > 0 {
        return false;
    }
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
}
