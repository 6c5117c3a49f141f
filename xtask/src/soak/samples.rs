//! What the proxy used over time, and whether it grew.

use std::time::Duration;

/// What a process uses at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Since the start of the load.
    pub at: Duration,
    /// Resident kilobytes.
    pub resident: u64,
    /// Open files.
    pub files: u64,
    /// Threads.
    pub threads: u64,
}

/// Memory may grow by this part of itself between the first third and the last.
const GROWTH: f64 = 0.05;
/// Or by so many kilobytes, if that is more.
const GROWTH_KILOBYTES: f64 = 2048.0;

/// What samples say of the time after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Course {
    /// The medians of its thirds.
    pub thirds: [Sample; 3],
    /// Kilobytes an hour, by least squares.
    pub slope: f64,
}

impl Course {
    /// Of the samples after the warm-up; none: there are fewer than three.
    pub fn of(samples: &[Sample], warm_up: Duration) -> Option<Self> {
        let warm: Vec<Sample> = samples.iter().filter(|sample| sample.at >= warm_up).copied().collect();
        let third = warm.len() / 3;
        let rest = warm.get(2 * third..).filter(|_| third > 0)?;
        Some(Self {
            thirds: [median(&warm[..third]), median(&warm[third..2 * third]), median(rest)],
            slope: slope(&warm),
        })
    }

    /// Kilobytes that the last third's median is above the first's.
    pub fn growth(&self) -> f64 {
        self.thirds[2].resident as f64 - self.thirds[0].resident as f64
    }

    /// How much growth is none.
    pub fn bound(&self) -> f64 {
        (self.thirds[0].resident as f64 * GROWTH).max(GROWTH_KILOBYTES)
    }

    /// Whether memory did not grow.
    pub fn is_flat(&self) -> bool {
        self.growth() <= self.bound()
    }
}

fn median(samples: &[Sample]) -> Sample {
    let middle = |of: fn(&Sample) -> u64| {
        let mut values: Vec<u64> = samples.iter().map(of).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    Sample {
        at: samples[samples.len() / 2].at,
        resident: middle(|sample| sample.resident),
        files: middle(|sample| sample.files),
        threads: middle(|sample| sample.threads),
    }
}

fn slope(samples: &[Sample]) -> f64 {
    let count = samples.len() as f64;
    let hours = |sample: &Sample| sample.at.as_secs_f64() / 3600.0;
    let mean = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(&hours), mean(&|sample| sample.resident as f64));
    let above: f64 = samples.iter().map(|sample| (hours(sample) - x) * (sample.resident as f64 - y)).sum();
    let below: f64 = samples.iter().map(|sample| (hours(sample) - x).powi(2)).sum();
    if below == 0.0 { 0.0 } else { above / below }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(resident: impl Fn(u64) -> u64) -> Vec<Sample> {
        let sample =
            |second| Sample { at: Duration::from_secs(second), resident: resident(second), files: 9, threads: 5 };
        (0..=360).step_by(10).map(sample).collect()
    }

    #[test]
    fn growth_is_seen_above_noise_and_warm_up() {
        let noisy = Course::of(
            &samples(|second| if second < 60 { 10_000 } else { 60_000 + second % 3 * 500 }),
            Duration::from_secs(60),
        );
        assert!(noisy.unwrap().is_flat());
        let leaking = Course::of(&samples(|second| 60_000 + second * 20), Duration::from_secs(60)).unwrap();
        assert!(!leaking.is_flat(), "{leaking:?}");
        assert!((leaking.slope - 72_000.0).abs() < 1.0, "{leaking:?}");
        assert_eq!(leaking.bound(), leaking.thirds[0].resident as f64 * 0.05);
    }

    #[test]
    fn too_few_samples_say_nothing() {
        assert_eq!(Course::of(&samples(|_| 1), Duration::from_secs(350)), None);
    }
}
