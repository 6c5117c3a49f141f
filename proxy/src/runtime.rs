//! Runtime values: keys by which a configuration lets an operator turn features up and down while it serves.
//!
//! Layers come from the bootstrap's `layered_runtime`; the admin layer is written by `/runtime_modify`. Readers load one
//! merged map; a later layer wins.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use parking_lot::Mutex;
use prost_types::value::Kind;
use weir_proto::envoy::config::bootstrap::v3::{LayeredRuntime, runtime_layer::LayerSpecifier};

use crate::config::error::Error;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number.
    Number(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// `numerator` of `denominator`.
    Fraction(f64, f64),
}

impl Value {
    /// A value as `/runtime_modify` and YAML strings spell it.
    fn parse(text: &str) -> Self {
        match (text, text.parse()) {
            (_, Ok(number)) => Self::Number(number),
            ("true", _) => Self::Bool(true),
            ("false", _) => Self::Bool(false),
            _ => Self::Text(text.to_owned()),
        }
    }

    /// As `/runtime` shows it.
    pub fn shown(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Text(text) => text.clone(),
            Self::Fraction(numerator, denominator) => format!("{numerator}/{denominator}"),
        }
    }
}

/// A layer: its name, whether it is the admin's, and its values.
#[derive(Clone, Debug)]
struct Layer {
    name: String,
    admin: bool,
    values: BTreeMap<String, Value>,
}

/// The runtime values of a process.
#[derive(Debug, Default)]
pub struct Runtime {
    layers: Mutex<Vec<Layer>>,
    merged: ArcSwap<HashMap<String, Value>>,
}

/// There is no layer to write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("No admin layer specified")]
pub struct NoAdminLayer;

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
        let runtime = Self { layers: Mutex::new(layers), merged: ArcSwap::default() };
        runtime.merge();
        Ok(runtime)
    }

    fn merge(&self) {
        let mut merged = HashMap::new();
        for layer in self.layers.lock().iter() {
            merged.extend(layer.values.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        self.merged.store(Arc::new(merged));
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value> {
        self.merged.load().get(key).cloned()
    }

    /// Whether a feature is on.
    pub fn is_on(&self, key: &str, default: bool) -> bool {
        match self.merged.load().get(key) {
            Some(Value::Bool(value)) => *value,
            _ => default,
        }
    }

    /// A whole number that is not negative; none: the key is not set, or to something else.
    pub fn integer(&self, key: &str) -> Option<u64> {
        match self.merged.load().get(key) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; saturates")]
            Some(Value::Number(number)) if *number >= 0.0 => Some(*number as u64),
            _ => None,
        }
    }

    /// A number.
    pub fn number(&self, key: &str, default: f64) -> f64 {
        match self.merged.load().get(key) {
            Some(Value::Number(value)) => *value,
            _ => default,
        }
    }

    /// A share between 0 and 1: a number is a numerator of `denominator`, as Envoy has it for a fractional percent.
    pub fn share(&self, key: &str, numerator: u32, denominator: u32) -> f64 {
        let (numerator, denominator) = match self.merged.load().get(key) {
            Some(Value::Number(number)) => (*number, f64::from(denominator)),
            Some(Value::Fraction(numerator, denominator)) => (*numerator, *denominator),
            _ => (f64::from(numerator), f64::from(denominator)),
        };
        (numerator / denominator).clamp(0.0, 1.0)
    }

    /// Writes to the admin layer; an empty value takes what was written there back.
    pub fn modify(&self, pairs: &[(String, String)]) -> Result<(), NoAdminLayer> {
        let mut layers = self.layers.lock();
        let layer = layers.iter_mut().find(|layer| layer.admin).ok_or(NoAdminLayer)?;
        for (key, value) in pairs {
            if value.is_empty() {
                layer.values.remove(key);
            } else {
                layer.values.insert(key.clone(), Value::parse(value));
            }
        }
        drop(layers);
        self.merge();
        Ok(())
    }

    /// The names of the layers, and for every key its value in each of them.
    pub fn shown(&self) -> (Vec<String>, BTreeMap<String, Vec<Option<Value>>>) {
        let layers = self.layers.lock();
        let mut entries: BTreeMap<String, Vec<Option<Value>>> = BTreeMap::new();
        for (index, layer) in layers.iter().enumerate() {
            for (key, value) in &layer.values {
                entries.entry(key.clone()).or_insert_with(|| vec![None; layers.len()])[index] = Some(value.clone());
            }
        }
        (layers.iter().map(|layer| layer.name.clone()).collect(), entries)
    }

    /// How many layers, keys, and values that `/runtime_modify` wrote.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let layers = self.layers.lock();
        let overrides = layers.iter().filter(|layer| layer.admin).map(|layer| layer.values.len()).sum();
        (layers.len(), self.merged.load().len(), overrides)
    }
}

/// Nested structs become dotted keys; those that say a fraction are values.
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

fn fraction(fields: &prost_types::Struct) -> Option<Value> {
    let number = |value: &prost_types::Value| match value.kind {
        Some(Kind::NumberValue(number)) => Some(number),
        _ => None,
    };
    let numerator = fields.fields.get("numerator").and_then(number);
    let denominator = fields.fields.get("denominator");
    if numerator.is_none() && denominator.is_none() {
        return None;
    }
    let denominator = match denominator.and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(name)) if name == "TEN_THOUSAND" => 10_000.0,
        Some(Kind::StringValue(name)) if name == "MILLION" => 1_000_000.0,
        _ => 100.0,
    };
    Some(Value::Fraction(numerator.unwrap_or(0.0), denominator))
}

#[cfg(test)]
mod tests {
    use weir_proto::envoy::config::bootstrap::v3::Bootstrap;

    use super::*;

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
        assert_eq!(runtime.share("e.f", 50, 100), 0.0005);
        assert_eq!(runtime.share("none", 50, 100), 0.5);
        assert_eq!(runtime.share("a.b", 50, 100), 0.05);
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
