//! Which messages of `google.protobuf` JSON spells in their own way.

use prost_reflect::MessageDescriptor;

/// Whether the message's JSON is not a map of its fields.
pub(super) fn has_own_json(descriptor: &MessageDescriptor) -> bool {
    wrapped(descriptor)
        || matches!(
            descriptor.full_name(),
            "google.protobuf.Any"
                | "google.protobuf.Duration"
                | "google.protobuf.FieldMask"
                | "google.protobuf.ListValue"
                | "google.protobuf.Struct"
                | "google.protobuf.Timestamp"
                | "google.protobuf.Value"
        )
}

/// Whether the message is a wrapper such as `google.protobuf.UInt32Value`.
pub(super) fn wrapped(descriptor: &MessageDescriptor) -> bool {
    descriptor.parent_file().name() == "google/protobuf/wrappers.proto"
}
