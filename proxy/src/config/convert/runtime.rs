//! Runtime values: the layers of a bootstrap.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use prost_types::value::Kind;
use weir_proto::envoy::{
    config::bootstrap::v3::{
        LayeredRuntime,
        runtime_layer::{LayerSpecifier, RtdsLayer},
    },
    service::runtime::v3::Runtime as Message,
};

use super::{decoded::decoded, fields::sub, source::source};
use crate::{
    config::{
        cell::{self, Cell, Follower, Making, Registry, Subject, nothing_further},
        error::Error,
    },
    runtime::{self, Layer, Runtime, Value},
    telemetry::stats::{Counter, Scope, Shared, Store},
};

type Values = BTreeMap<String, Value>;

/// A layer that comes by itself: it is what its cell has, for as long as this is kept.
#[derive(Debug)]
pub struct Discovered {
    layer: String,
    cell: Arc<Cell<Values>>,
    runtime: Arc<Runtime>,
    shared: Shared,
    loads: Counter,
    /// What the counter belongs to.
    _scope: Scope,
}

impl Discovered {
    fn follow(
        layer: String,
        cell: Arc<Cell<Values>>,
        runtime: &Arc<Runtime>,
        cells: &Registry,
        stats: &Scope,
    ) -> Arc<Self> {
        let scope = stats.scope("runtime");
        let shared = Store::of(stats).as_ref().map(Store::shared).unwrap_or_default();
        let loads = scope.counter("load_success");
        let followed = cell.clone();
        let this = Arc::new(Self { layer, cell, runtime: runtime.clone(), shared, loads, _scope: scope });
        let _still = cells.still();
        let follower: Weak<Self> = Arc::downgrade(&this);
        followed.followed_by(follower);
        this
    }
}

impl Follower for Discovered {
    fn prepare(&self) -> Result<Box<dyn FnOnce() + '_>, Error> {
        let values = self.cell.current().as_deref().cloned().unwrap_or_default();
        Ok(Box::new(move || {
            self.runtime.replace(&self.layer, values);
            self.shared.inc(self.loads);
        }))
    }
}

/// The cell of a layer.
fn discovered(message: &RtdsLayer, cells: &Registry, stats: &Scope, at: &str) -> Result<Arc<Cell<Values>>, Error> {
    let (source, timeout) = source(cells.sources(), message.rtds_config.as_ref(), &sub(at, "rtds_config"))?;
    Ok(cells.cell(Subject { kind: cell::Kind::Runtime, source, name: message.name.as_str().into() }, || {
        let read = |body: &Bytes| {
            let message: Message = decoded(body)?;
            let mut values = Values::new();
            flatten(&message.layer.unwrap_or_default(), "", &mut values);
            Ok(values)
        };
        Making { timeout, scope: stats.scope("runtime"), read: Box::new(read), reloads: None, further: nothing_further }
    }))
}

/// The layers of a bootstrap, and those of them that come by themselves.
pub fn layers(
    message: Option<&LayeredRuntime>,
    cells: &Registry,
    stats: &Scope,
) -> Result<(Arc<Runtime>, Vec<Arc<Discovered>>), Error> {
    let at = "layered_runtime";
    let mut layers = Vec::new();
    let mut later = Vec::new();
    for (index, layer) in message.into_iter().flat_map(|message| &message.layers).enumerate() {
        let at = format!("{at}.layers[{index}]");
        let mut values = BTreeMap::new();
        let admin = match &layer.layer_specifier {
            Some(LayerSpecifier::StaticLayer(fields)) => {
                flatten(fields, "", &mut values);
                false
            }
            Some(LayerSpecifier::AdminLayer(_)) if layers.iter().any(|other: &Layer| other.admin) => {
                return Err(Error::at(format!("{at}.admin_layer"), "there is one already"));
            }
            Some(LayerSpecifier::AdminLayer(_)) => true,
            Some(LayerSpecifier::DiskLayer(_)) => {
                return Err(Error::at(format!("{at}.disk_layer"), "not supported yet"));
            }
            Some(LayerSpecifier::RtdsLayer(message)) => {
                later.push((layer.name.clone(), discovered(message, cells, stats, &sub(&at, "rtds_layer"))?));
                false
            }
            None => return Err(Error::at(at, "expected one of static_layer, admin_layer, rtds_layer")),
        };
        if layers.iter().any(|other: &Layer| other.name == layer.name) {
            return Err(Error::at(format!("{at}.name"), format!("there are several layers \"{}\"", layer.name)));
        }
        layers.push(Layer { name: layer.name.clone(), admin, values });
    }
    let runtime = Arc::new(Runtime::new(layers));
    let follow = |(layer, cell)| Discovered::follow(layer, cell, &runtime, cells, stats);
    let discovered = later.into_iter().map(follow).collect();
    Ok((runtime, discovered))
}

#[cfg(test)]
impl Runtime {
    /// The layers of a bootstrap.
    pub fn from_config(message: Option<&LayeredRuntime>) -> Result<Arc<Self>, Error> {
        Ok(layers(message, &Registry::default(), &Scope::default())?.0)
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

    fn runtime(text: &str) -> Result<Arc<Runtime>, String> {
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
                "layered_runtime: { layers: [{ name: a, admin_layer: {} }, { name: b, admin_layer: {} }] }",
                "layered_runtime.layers[1].admin_layer: there is one already",
            ),
            (
                "layered_runtime: { layers: [{ name: a, admin_layer: {} }, { name: a, static_layer: {} }] }",
                "layered_runtime.layers[1].name: there are several layers \"a\"",
            ),
        ] {
            assert_eq!(runtime(text).map(drop).unwrap_err(), message);
        }
    }
}
