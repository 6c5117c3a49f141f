//! Shares of requests.

use crate::runtime::Runtime;

/// A share: so many of a hundred, ten thousand or a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    /// How many.
    pub numerator: u32,
    /// Of how many.
    pub denominator: u32,
}

impl Fraction {
    /// None.
    pub const NEVER: Self = Self { numerator: 0, denominator: 100 };
    /// All.
    pub const ALWAYS: Self = Self { numerator: 100, denominator: 100 };

    /// Whether a request with this random number is in the share.
    pub fn takes(self, random: u64) -> bool {
        random % u64::from(self.denominator) < u64::from(self.numerator)
    }

    /// Whether one more request is in the share. No number is drawn for all or none.
    pub fn sample(self) -> bool {
        self.numerator >= self.denominator || (self.numerator > 0 && self.takes(fastrand::u64(..)))
    }

    /// What the runtime has under a key instead, if it has something. An empty key is none.
    #[must_use]
    pub fn unless(self, runtime: &Runtime, key: &str) -> Self {
        let set = if key.is_empty() { None } else { runtime.share(key) };
        set.map_or(self, |(numerator, denominator)| Self { numerator, denominator })
    }

    /// The same denominator, but no more than `limit` of it.
    #[must_use]
    pub fn at_most(self, limit: u32) -> Self {
        Self { numerator: self.numerator.min(limit), ..self }
    }
}

/// A share that a runtime value may change while the configuration stays (`RuntimeFractionalPercent`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeFraction {
    /// Where the runtime says nothing.
    pub default: Fraction,
    /// The runtime value's key; empty: none.
    pub key: Box<str>,
}

impl RuntimeFraction {
    /// Whether a request with this random number is in the share.
    pub fn takes(&self, random: u64, runtime: &Runtime) -> bool {
        self.default.unless(runtime, &self.key).takes(random)
    }

    /// Whether one more request is in the share.
    pub fn sample(&self, runtime: &Runtime) -> bool {
        self.default.unless(runtime, &self.key).sample()
    }
}

impl From<Fraction> for RuntimeFraction {
    fn from(default: Fraction) -> Self {
        Self { default, key: Box::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Layer, Value};

    #[test]
    fn shares() {
        let half = Fraction { numerator: 50, denominator: 100 };
        assert!(half.takes(149) && !half.takes(150));
        assert!(Fraction::ALWAYS.sample() && !Fraction::NEVER.sample());
        assert_eq!(half.at_most(20).numerator, 20);
    }

    #[test]
    fn the_runtime_goes_first() {
        let values = [
            ("percent", "10"),
            ("all", "1000"),
            ("part", "3.9"),
            ("million", "{numerator: 7, denominator: MILLION}"),
            ("bare", "{numerator: 7}"),
            ("negative", "-1"),
            ("text", "{numerator: 7, denominator: DOZEN}"),
        ];
        let values = values.map(|(key, value)| (key.to_owned(), Value::parse(value))).into();
        let runtime = Runtime::new(vec![Layer { name: "a".into(), admin: false, values }]);
        let default = Fraction { numerator: 50, denominator: 10_000 };
        for (key, numerator, denominator) in [
            ("percent", 10, 100),
            ("all", 100, 100),
            ("part", 3, 100),
            ("million", 7, 1_000_000),
            ("bare", 7, 100),
            ("negative", 50, 10_000),
            ("text", 50, 10_000),
            ("absent", 50, 10_000),
            ("", 50, 10_000),
        ] {
            assert_eq!(default.unless(&runtime, key), Fraction { numerator, denominator }, "{key}");
        }
        let share = RuntimeFraction { default, key: "percent".into() };
        assert!(share.takes(9, &runtime) && !share.takes(10, &runtime) && share.takes(10, &Runtime::default()));
    }
}
