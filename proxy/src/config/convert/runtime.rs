//! Runtime values: the layers of a bootstrap.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use weir_proto::envoy::config::bootstrap::v3::{LayeredRuntime, runtime_layer::LayerSpecifier};

use crate::{
    config::error::Error,
    runtime::{self, Layer, Runtime, Value},
};

impl Runtime {
    /// The layers of a bootstrap.
    pub fn from_config(message: Option<&LayeredRuntime>) -> Result<Self, Error> {
        let at = "layered_runtime";
        let mut layers = Vec::new();
        for (index, layer) in message.into_iter().flat_map(|message| &message.layers).enumerate() {
            let at = format!("{at}.layers[{index}]");
            let mut values = BTreeMap::new();
            let admin = match &layer.layer_specifier {
                Some(LayerSpecifier::StaticLayer(fields)) => {
                    flatten(fields, "", &mut values);
                    false
                }
                Some(LayerSpecifier::AdminLayer(_)) => true,
                Some(LayerSpecifier::DiskLayer(_)) => {
                    return Err(Error::at(format!("{at}.disk_layer"), "not supported yet"));
                }
                Some(LayerSpecifier::RtdsLayer(_)) => {
                    return Err(Error::at(format!("{at}.rtds_layer"), "not supported yet"));
                }
                None => return Err(Error::at(at, "expected one of static_layer, admin_layer")),
            };
            if layers.iter().any(|other: &Layer| other.name == layer.name) {
                return Err(Error::at(format!("{at}.name"), format!("there are several layers \"{}\"", layer.name)));
            }
            layers.push(Layer { name: layer.name.clone(), admin, values });
        }
        Ok(Self::new(layers))
    }
}

/// Nested structs become dotted keys; those that say a fraction, or nothing, are values.
fn flatten(fields: &prost_types::Struct, prefix: &str, values: &mut BTreeMap<String, Value>) {
    for (name, value) in &fields.fields {
        let key = format!("{prefix}{name}");
        let value = match &value.kind {
            Some(Kind::NumberValue(number)) => Value::Number(*number),
            Some(Kind::BoolValue(value)) => Value::Bool(*value),
            Some(Kind::StringValue(text)) => Value::parse(text),
            Some(Kind::StructValue(inner)) => match fraction(inner) {
                Some(fraction) => fraction,
                None => {
                    flatten(inner, &format!("{key}."), values);
                    continue;
                }
            },
            _ => continue,
        };
        values.insert(key, value);
    }
}

/// None: not a fraction, but values of their own. As in Envoy, one that has other fields, too, or an unknown denominator
/// is a value that says nothing.
fn fraction(fields: &prost_types::Struct) -> Option<Value> {
    let fields = &fields.fields;
    if !fields.is_empty() && !fields.contains_key("numerator") && !fields.contains_key("denominator") {
        return None;
    }
    let numerator = match fields.get("numerator").map(|value| &value.kind) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        Some(Some(Kind::NumberValue(number))) => *number as u32,
        _ => 0,
    };
    let denominator = match fields.get("denominator").map(|value| &value.kind) {
        None => Some(100),
        Some(Some(Kind::StringValue(name))) => runtime::denominator(name),
        Some(_) => None,
    };
    let known = fields.keys().all(|name| name == "numerator" || name == "denominator") && !fields.is_empty();
    Some(match denominator.filter(|_| known) {
        Some(denominator) => Value::Fraction(numerator, denominator),
        None => Value::Text(String::new()),
    })
}

#[cfg(test)]
mod tests {
    use weir_proto::envoy::config::bootstrap::v3::Bootstrap;

    use super::*;
    use crate::runtime::NoAdminLayer;

    fn runtime(text: &str) -> Result<Runtime, String> {
        let bootstrap: Bootstrap = weir_proto::from_yaml(text).map_err(|error| error.to_string())?;
        Runtime::from_config(bootstrap.layered_runtime.as_ref()).map_err(|error| error.to_string())
    }

    const LAYERS: &str = "layered_runtime: { layers: [{ name: st, static_layer: { a: { b: 5, c: true }, d: \"7\", e.f: \
        { numerator: 5, denominator: TEN_THOUSAND } } }, { name: adm, admin_layer: {} }] }";

    #[test]
    fn later_layers_win_and_can_be_taken_back() {
        let runtime = runtime(LAYERS).unwrap();
        assert_eq!(runtime.number("a.b", 0.0), 5.0);
        assert!(runtime.is_on("a.c", false));
        assert_eq!(runtime.number("d", 0.0), 7.0);
        assert_eq!(runtime.share("e.f"), Some((5, 10_000)));
        assert_eq!(runtime.share("none"), None);
        assert_eq!(runtime.share("a.b"), Some((5, 100)));
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        runtime.modify(&[pair("a.b", "8"), pair("new", "x")]).unwrap();
        assert_eq!(runtime.number("a.b", 0.0), 8.0);
        assert_eq!(runtime.sizes(), (2, 5, 2));
        let (layers, entries) = runtime.shown();
        assert_eq!(layers, ["st", "adm"]);
        assert_eq!(entries["a.b"], [Some(Value::Number(5.0)), Some(Value::Number(8.0))]);
        runtime.modify(&[pair("a.b", "")]).unwrap();
        assert_eq!(runtime.number("a.b", 0.0), 5.0);
        assert_eq!(Runtime::default().modify(&[pair("a", "b")]), Err(NoAdminLayer));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, message) in [
            (
                "layered_runtime: { layers: [{ name: d, disk_layer: { symlink_root: /x } }] }",
                "layered_runtime.layers[0].disk_layer: not supported yet",
            ),
            (
                "layered_runtime: { layers: [{ name: a, admin_layer: {} }, { name: a, admin_layer: {} }] }",
                "layered_runtime.layers[1].name: there are several layers \"a\"",
            ),
        ] {
            assert_eq!(runtime(text).map(drop).unwrap_err(), message);
        }
    }
}
