//! Metadata in formats: a value by its path, or a whole namespace.

use super::{field::MetadataOf, quote::write_value};
use crate::{access_log::entry::Entry, matcher::metadata::Metadata};

/// A value of metadata, or a whole namespace.
pub(super) enum Found<'a> {
    Value(&'a serde_json::Value),
    Namespace(&'a serde_json::Map<String, serde_json::Value>),
}

/// Reads what is there.
pub(super) fn find<T>(
    entry: &Entry,
    of: MetadataOf,
    namespace: &str,
    path: &[Box<str>],
    read: impl FnOnce(Found<'_>) -> T,
) -> Option<T> {
    let place = || entry.place.as_deref();
    let metadata: Option<&Metadata> = match of {
        MetadataOf::Dynamic => entry.metadata.as_deref(),
        MetadataOf::Cluster => entry.cluster.as_deref()?.metadata.as_ref(),
        MetadataOf::Route => entry.route_metadata.route.as_deref(),
        MetadataOf::VirtualHost => entry.route_metadata.virtual_host.as_deref(),
        MetadataOf::Listener => place()?.listener_metadata.as_deref(),
        MetadataOf::FilterChain => place()?.chain_metadata.as_ref(),
        MetadataOf::Host => {
            let members = entry.upstream.as_ref()?.metadata.as_deref()?.get(namespace)?.as_object()?;
            let Some((first, rest)) = path.split_first() else { return Some(read(Found::Namespace(members))) };
            let value = rest.iter().try_fold(members.get(&**first)?, |value, key| value.as_object()?.get(&**key))?;
            return Some(read(Found::Value(value)));
        }
    };
    let metadata = metadata?;
    match path {
        [] => metadata.namespace(namespace).map(|members| read(Found::Namespace(members))),
        path => metadata.get(namespace, path).map(|value| read(Found::Value(value))),
    }
}

/// Appends it as text; false if it is null.
pub(super) fn write(out: &mut Vec<u8>, found: &Found<'_>) -> bool {
    match found {
        Found::Value(serde_json::Value::Null) => false,
        Found::Value(serde_json::Value::String(text)) => {
            out.extend_from_slice(text.as_bytes());
            true
        }
        other => write_json(out, other),
    }
}

/// Appends it as JSON; false if it is null.
pub(super) fn write_json(out: &mut Vec<u8>, found: &Found<'_>) -> bool {
    match found {
        Found::Value(serde_json::Value::Null) => return false,
        Found::Value(value) => write_value(out, value),
        Found::Namespace(members) => write_value(out, &(*members).clone().into()),
    }
    true
}
