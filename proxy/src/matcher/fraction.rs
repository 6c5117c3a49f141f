//! Shares of requests.

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

    /// The same denominator, but no more than `limit` of it.
    #[must_use]
    pub fn at_most(self, limit: u32) -> Self {
        Self { numerator: self.numerator.min(limit), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        let half = Fraction { numerator: 50, denominator: 100 };
        assert!(half.takes(149) && !half.takes(150));
        assert!(Fraction::ALWAYS.sample() && !Fraction::NEVER.sample());
        assert_eq!(half.at_most(20).numerator, 20);
    }
}
