//! Descriptors of every message of Envoy's API and ours, with their options.

use std::sync::LazyLock;

use prost::Name;
use prost_reflect::{DescriptorPool, MessageDescriptor};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let compressed = include_bytes!("generated/descriptors.binpb.zst");
    let set = zstd::decode_all(&compressed[..]).expect("the embedded descriptor set is what xtask compressed");
    DescriptorPool::decode(&set[..]).expect("protoc made the embedded descriptor set")
});

/// The pool: unpacked once, on first use.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// The descriptor of a generated type.
pub(crate) fn of<T: Name>() -> MessageDescriptor {
    let name = T::full_name();
    pool().get_message_by_name(&name).expect("generated types come from the embedded descriptor set")
}
