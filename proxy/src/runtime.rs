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
    Fraction(f64, f64),
}

impl Value {
    /// A value as `/runtime_modify` and YAML strings spell it.
    pub fn parse(text: &str) -> Self {
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
