//! Ranges and sets of values: the rules that numbers, durations and timestamps share.

use std::fmt::Display;

use crate::error::ConfigError;

/// What a value must be. `T` is i128 for integers and for times in nanoseconds, f64 for the others.
#[derive(Debug)]
pub(super) struct Bounds<T> {
    pub exactly: Option<T>,
    pub less_than: Option<T>,
    pub at_most: Option<T>,
    pub greater_than: Option<T>,
    pub at_least: Option<T>,
    pub one_of: Vec<T>,
    pub none_of: Vec<T>,
}

impl<T: PartialOrd> Bounds<T> {
    /// Checks a value; `show` writes a bound for the message. NaN lies outside of every range.
    pub fn check<S: Display>(&self, value: &T, show: impl Fn(&T) -> S) -> Result<(), ConfigError> {
        let list = |values: &[T]| values.iter().map(|value| show(value).to_string()).collect::<Vec<_>>().join(", ");
        let below = match (&self.greater_than, &self.at_least) {
            (Some(bound), _) if !T::gt(value, bound) => Some(format!("greater than {}", show(bound))),
            (_, Some(bound)) if !T::ge(value, bound) => Some(format!("at least {}", show(bound))),
            _ => None,
        };
        let above = match (&self.less_than, &self.at_most) {
            (Some(bound), _) if !T::lt(value, bound) => Some(format!("less than {}", show(bound))),
            (_, Some(bound)) if !T::le(value, bound) => Some(format!("at most {}", show(bound))),
            _ => None,
        };
        let problem = match (below, above, &self.exactly) {
            (_, _, Some(exactly)) if value != exactly => show(exactly).to_string(),
            (Some(below), Some(above), _) if self.exclude_a_range() => format!("{above} or {below}"),
            (Some(bound), _, _) | (_, Some(bound), _) if !self.exclude_a_range() => bound,
            _ if !self.one_of.is_empty() && !self.one_of.contains(value) => format!("one of {}", list(&self.one_of)),
            _ if self.none_of.contains(value) => {
                return Err(ConfigError::new(format!("must not be {}", show(value))));
            }
            _ => return Ok(()),
        };
        Err(ConfigError::new(format!("must be {problem}")))
    }

    /// An upper bound below the lower one leaves what lies outside of them: "zero, or at least a millisecond".
    fn exclude_a_range(&self) -> bool {
        let lower = self.greater_than.as_ref().or(self.at_least.as_ref());
        let upper = self.less_than.as_ref().or(self.at_most.as_ref());
        lower.zip(upper).is_some_and(|(lower, upper)| lower > upper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Bounds<f64> {
        Bounds {
            exactly: None,
            less_than: None,
            at_most: None,
            greater_than: None,
            at_least: None,
            one_of: vec![],
            none_of: vec![],
        }
    }

    fn problem(bounds: &Bounds<f64>, value: f64) -> String {
        bounds.check(&value, f64::clone).map_or_else(|error| error.problem().to_owned(), |()| String::new())
    }

    #[test]
    fn ranges() {
        let inside = Bounds { greater_than: Some(0.0), at_most: Some(10.0), none_of: vec![5.0], ..bounds() };
        assert_eq!(problem(&inside, 10.0), "");
        assert_eq!(problem(&inside, 0.0), "must be greater than 0");
        assert_eq!(problem(&inside, 11.0), "must be at most 10");
        assert_eq!(problem(&inside, f64::NAN), "must be greater than 0");
        assert_eq!(problem(&inside, 5.0), "must not be 5");
        let outside = Bounds { at_most: Some(0.0), at_least: Some(10.0), ..bounds() };
        assert_eq!(problem(&outside, 0.0), "");
        assert_eq!(problem(&outside, 10.0), "");
        assert_eq!(problem(&outside, 5.0), "must be at most 0 or at least 10");
        let listed = Bounds { one_of: vec![1.0, 2.0], ..bounds() };
        assert_eq!(problem(&listed, 3.0), "must be one of 1, 2");
        assert_eq!(problem(&Bounds { exactly: Some(1.0), ..bounds() }, 2.0), "must be 1");
    }
}
