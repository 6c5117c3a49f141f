//! What a metric is: the handles by which it is counted, and what is read of it.

use std::sync::{Arc, OnceLock};

use super::distribution::Distribution;

/// A number that only grows. The default one counts nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter(pub(super) u32);

/// A number that goes up and down: workers add to it, or the control thread sets it. The default one is nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge(pub(super) u32);

/// A distribution of values. The default one records nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram(pub(super) u32);

/// A text, set by the control thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextReadout(pub(super) u32);

/// What kind a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum Kind {
    /// See [`Counter`].
    Counter,
    /// See [`Gauge`].
    Gauge,
    /// See [`Histogram`].
    Histogram,
    /// See [`TextReadout`].
    TextReadout,
}

impl Kind {
    pub(super) const COUNT: usize = 4;
}

/// What a histogram's values measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Unit {
    /// A number of something.
    #[default]
    Unspecified,
    /// Bytes.
    Bytes,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// Parts of a million, shown as parts of one.
    Percent,
}

impl Unit {
    /// How many there are.
    pub(super) const COUNT: usize = 5;
}

/// The name of a metric without the parts that are tags, and those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tagged {
    /// The name.
    pub name: String,
    /// Tag and value, in the order in which they were extracted.
    pub tags: Vec<(String, String)>,
}

/// A metric as read.
#[derive(Clone, Debug)]
pub struct Metric {
    /// What its values measure, for histograms.
    pub unit: Unit,
    /// Whether it was ever written.
    pub used: bool,
    /// Its value.
    pub value: Value,
    pub(super) prefix: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) tagged: Arc<OnceLock<Tagged>>,
}

/// What a metric says.
#[derive(Clone, Debug)]
pub enum Value {
    /// Of a counter.
    Counter(u64),
    /// Of a gauge.
    Gauge(u64),
    /// Of a histogram: the last interval, and since the start.
    Histogram(Arc<Merged>),
    /// Of a text readout.
    Text(Arc<str>),
}

impl Metric {
    /// The whole name.
    pub fn name(&self) -> String {
        format!("{}{}", self.prefix, self.name)
    }

    /// The name with its tags taken out, by `extract` unless that has been done before.
    pub fn tagged(&self, extract: impl FnOnce(&str) -> Tagged) -> &Tagged {
        self.tagged.get_or_init(|| extract(&self.name()))
    }
}

/// A histogram's values.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// Of the last interval.
    pub interval: Distribution,
    /// Since the start.
    pub cumulative: Distribution,
}
