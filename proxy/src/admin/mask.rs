//! Field masks over JSON: which fields of a dump are shown.

use prost_reflect::{Kind, MessageDescriptor};
use serde_json::{Map, Value};

/// Paths of fields, as `a.b,c`.
pub(super) struct Mask(Vec<Vec<String>>);

impl Mask {
    pub(super) fn parse(text: &str) -> Self {
        let paths = text.split(',').filter(|path| !path.is_empty());
        Self(paths.map(|path| path.split('.').map(str::to_owned).collect()).collect())
    }

    /// Whether each path names a field of messages of this type. What is inside an `Any` is not known beforehand.
    pub(super) fn fits(&self, type_name: &str) -> bool {
        let Some(message) = weir_proto::pool().get_message_by_name(type_name) else { return false };
        self.0.iter().all(|path| names_field(&message, path))
    }

    /// Only what the paths name, and the type.
    pub(super) fn apply(&self, value: &Value) -> Value {
        let Value::Object(fields) = value else { return value.clone() };
        let mut out = Map::new();
        for (name, field) in fields {
            if name == "@type" {
                out.insert(name.clone(), field.clone());
                continue;
            }
            let below: Vec<_> = self.0.iter().filter(|path| path.first() == Some(name)).collect();
            if below.iter().any(|path| path.len() == 1) {
                out.insert(name.clone(), field.clone());
            } else if !below.is_empty() {
                let inner = Self(below.iter().map(|path| path[1..].to_vec()).collect());
                out.insert(name.clone(), inner.apply(field));
            }
        }
        Value::Object(out)
    }
}

fn names_field(message: &MessageDescriptor, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    // What is inside an `Any` is not known here.
    if message.full_name() == "google.protobuf.Any" {
        return true;
    }
    let Some(field) = message.get_field_by_name(first) else { return false };
    match field.kind() {
        // As in Envoy, an `Any` needs a path that goes on inside.
        Kind::Message(inner) if rest.is_empty() => inner.full_name() != "google.protobuf.Any",
        _ if rest.is_empty() => true,
        // protobuf's masks end at lists.
        Kind::Message(_) if field.is_list() => false,
        Kind::Message(inner) => names_field(&inner, rest),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_named() {
        let value = json!({"@type": "t", "cluster": {"@type": "c", "name": "a", "type": "EDS"}, "last_updated": "x"});
        assert_eq!(
            Mask::parse("cluster.name").apply(&value),
            json!({"@type": "t", "cluster": {"@type": "c", "name": "a"}})
        );
        assert_eq!(Mask::parse("last_updated").apply(&value), json!({"@type": "t", "last_updated": "x"}));
        let element = "envoy.admin.v3.ClustersConfigDump.StaticCluster";
        assert!(Mask::parse("cluster.name").fits(element));
        assert!(!Mask::parse("nope").fits(element) && !Mask::parse("cluster").fits(element));
        assert!(!Mask::parse("static_clusters.last_updated").fits("envoy.admin.v3.ClustersConfigDump"));
    }
}
