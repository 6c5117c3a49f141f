//! Runtime values: keys by which a configuration lets an operator turn features up and down while it serves.
//!
//! Layers come from the bootstrap's `layered_runtime`; the admin layer is written by `/runtime_modify`. Readers load one
//! merged map; a later layer wins.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use parking_lot::Mutex;

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
    Fraction(u32, u32),
}

impl Value {
    /// A value as `/runtime_modify` and YAML strings spell it.
    pub fn parse(text: &str) -> Self {
        match (text, text.parse()) {
            (_, Ok(number)) => Self::Number(number),
            ("true", _) => Self::Bool(true),
            ("false", _) => Self::Bool(false),
            _ => Self::fraction(text).unwrap_or_else(|| Self::Text(text.to_owned())),
        }
    }

    /// A `FractionalPercent` as YAML or JSON writes it in one line.
    fn fraction(text: &str) -> Option<Self> {
        let (mut numerator, mut denominator) = (0, 100);
        for field in text.trim().strip_prefix('{')?.strip_suffix('}')?.split(',') {
            let (name, value) = field.split_once(':')?;
            let bare = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
            match (&*bare(name), bare(value)) {
                ("numerator", value) => numerator = value.parse().ok()?,
                ("denominator", name) => denominator = self::denominator(&name)?,
                _ => return None,
            }
        }
        Some(Self::Fraction(numerator, denominator))
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

/// The number that a `DenominatorType` names.
pub fn denominator(name: &str) -> Option<u32> {
    match name {
        "HUNDRED" => Some(100),
        "TEN_THOUSAND" => Some(10_000),
        "MILLION" => Some(1_000_000),
        _ => None,
    }
}

/// A layer: its name, whether it is the admin's, and its values.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its name.
    pub name: String,
    /// `/runtime_modify` writes to it.
    pub admin: bool,
    /// By key.
    pub values: BTreeMap<String, Value>,
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
    /// Of layers, the first of which is the lowest. Names differ.
    pub fn new(layers: Vec<Layer>) -> Self {
        let runtime = Self { layers: Mutex::new(layers), merged: ArcSwap::default() };
        runtime.merge();
        runtime
    }

    fn merge(&self) {
        let mut merged = HashMap::new();
        for layer in self.layers.lock().iter() {
            merged.extend(layer.values.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        self.merged.store(Arc::new(merged));
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.merged.load().is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value> {
        self.merged.load().get(key).cloned()
    }

    /// Whether a feature is on. As in Envoy, a whole number says so as well: any but 0.
    pub fn is_on(&self, key: &str, default: bool) -> bool {
        match self.merged.load().get(key) {
            Some(Value::Bool(value)) => *value,
            Some(Value::Number(number)) if number.fract() == 0.0 => *number != 0.0,
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

    /// A share: numerator and denominator. As in Envoy, a number is percent, rounded down, whatever the denominator of
    /// the share that it stands for.
    pub fn share(&self, key: &str) -> Option<(u32, u32)> {
        match self.merged.load().get(key) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
            Some(Value::Number(number)) if *number >= 0.0 => Some((number.min(100.0) as u32, 100)),
            Some(Value::Fraction(numerator, denominator)) => Some((*numerator, *denominator)),
            _ => None,
        }
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

    /// Replaces the values of a layer.
    pub fn replace(&self, layer: &str, values: BTreeMap<String, Value>) {
        let mut layers = self.layers.lock();
        if let Some(layer) = layers.iter_mut().find(|other| other.name == layer) {
            layer.values = values;
        }
        drop(layers);
        self.merge();
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
