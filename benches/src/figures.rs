//! Figures, and what may be concluded from them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// CPU of the proxy's processes for a request, user and system, in microseconds.
    CpuPerRequest,
    /// CPU of the proxy's processes for a GB (10^9 bytes) of bodies, in seconds.
    CpuPerGb,
    /// Requests answered in a second.
    Rate,
    /// GB of bodies in a second.
    Throughput,
    /// The median latency in milliseconds.
    P50,
    /// The latency that 10 % exceed, in milliseconds.
    P90,
    /// The latency that 1 % exceed, in milliseconds.
    P99,
    /// The latency that one of a thousand exceeds, in milliseconds.
    P999,
    /// The median latency above that of the origin without a proxy, in milliseconds.
    Added50,
    /// The 99th percentile above that of the origin without a proxy, in milliseconds.
    Added99,
    /// From exec to the first answer through the proxy, in milliseconds.
    FirstAnswer,
    /// Resident memory before any request, in MB.
    Idle,
    /// The most resident memory there was, in MB.
    Peak,
    /// Resident memory for each idle connection of a caller, in KB.
    PerConnection,
    /// Resident memory 30 seconds after a burst, in MB.
    After,
    /// Resident memory 30 seconds after a burst, for each MB that there was before any request.
    Kept,
    /// Resident memory at the end, for each MB two minutes after the beginning.
    Growth,
    /// Requests that failed.
    Errors,
}

impl Metric {
    /// The heading of its column.
    pub fn title(self) -> &'static str {
        match self {
            Self::CpuPerRequest => "CPU us/request",
            Self::CpuPerGb => "CPU s/GB",
            Self::Rate => "requests/s",
            Self::Throughput => "GB/s",
            Self::P50 => "p50 ms",
            Self::P90 => "p90 ms",
            Self::P99 => "p99 ms",
            Self::P999 => "p99.9 ms",
            Self::Added50 => "added p50 ms",
            Self::Added99 => "added p99 ms",
            Self::FirstAnswer => "first answer ms",
            Self::Idle => "idle MB",
            Self::Peak => "peak MB",
            Self::PerConnection => "KB/connection",
            Self::After => "after 30 s MB",
            Self::Kept => "after / idle",
            Self::Growth => "end / minute 2",
            Self::Errors => "errors",
        }
    }

    /// How far the middle half of the rounds may lie apart, relative to the median, for a conclusion to mean anything.
    fn tolerance(self) -> f64 {
        match self {
            // Tails are decided by few requests.
            Self::P90 | Self::P99 | Self::P999 | Self::Added50 | Self::Added99 => 0.5,
            _ => 0.15,
        }
    }

    /// Digits after the point.
    pub fn digits(self) -> usize {
        match self {
            Self::Rate | Self::Errors => 0,
            Self::CpuPerGb | Self::Throughput | Self::P50 | Self::P90 | Self::P99 | Self::P999 => 2,
            Self::Added50 | Self::Added99 | Self::Growth | Self::Kept => 2,
            _ => 1,
        }
    }
}

/// The figures of one round.
pub type Round = BTreeMap<Metric, f64>;

/// The middle of several rounds, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
    /// The distance of the quartiles, relative to the median.
    pub disagreement: f64,
}

impl Summary {
    /// Of the rounds that have it.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let median = quantile(&values, 2);
        let disagreement = if median == 0.0 { 0.0 } else { (quantile(&values, 3) - quantile(&values, 1)) / median.abs() };
        Some(Self { median, least, most, disagreement })
    }
}

/// A quartile of sorted values, between two of them if need be.
fn quantile(sorted: &[f64], quarter: usize) -> f64 {
    let place = (sorted.len() - 1) * quarter;
    let (low, rest) = (place / 4, place % 4);
    let high = (low + usize::from(rest > 0)).min(sorted.len() - 1);
    let share = [0.0, 0.25, 0.5, 0.75][rest];
    sorted[low] + (sorted[high] - sorted[low]) * share
}

/// How one compares with another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ratio {
    /// The median of the rounds' ratios.
    Of(f64),
    /// The rounds say different things.
    Disagree {
        /// The smallest ratio of a round.
        least: f64,
        /// The largest.
        most: f64,
    },
    /// One of the two had errors, or was not measured.
    Nothing,
}

impl Ratio {
    /// One's figure over another's, round by round: what disturbs a round disturbs both.
    pub fn between(one: &[Round], other: &[Round], metric: Metric) -> Self {
        let failed = |rounds: &[Round]| rounds.iter().any(|round| failures(round) > 0.001);
        if failed(one) || failed(other) {
            return Self::Nothing;
        }
        let pairs = one.iter().zip(other).filter_map(|(one, other)| Some(one.get(&metric)? / other.get(&metric)?));
        match Summary::of(pairs) {
            None => Self::Nothing,
            Some(summary) if summary.disagreement > metric.tolerance() => {
                Self::Disagree { least: summary.least, most: summary.most }
            }
            Some(summary) => Self::Of(summary.median),
        }
    }

    /// Whether it is not above a limit. Rounds that disagree about how much may still agree on that: each of them must.
    pub fn is_at_most(self, limit: f64) -> Option<bool> {
        match self {
            Self::Of(ratio) => Some(ratio <= limit),
            Self::Disagree { most, .. } if most <= limit => Some(true),
            Self::Disagree { least, .. } if least > limit => Some(false),
            Self::Disagree { .. } | Self::Nothing => None,
        }
    }

    /// For a table.
    pub fn text(self) -> String {
        match self {
            Self::Of(ratio) => format!("{ratio:.3}x"),
            Self::Disagree { least, most } => format!("rounds disagree ({least:.2}-{most:.2})"),
            Self::Nothing => "-".to_owned(),
        }
    }
}

/// How many requests failed, for each that is answered in a second.
fn failures(round: &Round) -> f64 {
    let errors = round.get(&Metric::Errors).copied().unwrap_or(0.0);
    // A round without a rate has few requests or connections, of which none may fail.
    let requests = round.get(&Metric::Rate).copied().unwrap_or(1.0).max(1.0);
    errors / requests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(values: &[f64]) -> Vec<Round> {
        values.iter().map(|value| Round::from([(Metric::CpuPerRequest, *value)])).collect()
    }

    #[test]
    fn quartiles_lie_between_values() {
        let summary = Summary::of([4.0, 1.0, 3.0, 2.0].into_iter()).unwrap();
        assert_eq!((summary.median, summary.least, summary.most), (2.5, 1.0, 4.0));
        assert!((summary.disagreement - 1.5 / 2.5).abs() < 1e-9, "{summary:?}");
        assert_eq!(Summary::of([].into_iter()), None);
        assert_eq!(Summary::of([7.0].into_iter()).unwrap().disagreement, 0.0);
    }

    #[test]
    fn what_disturbs_both_disturbs_nothing() {
        let (one, other) = (rounds(&[10.0, 20.0, 30.0]), rounds(&[20.0, 40.0, 60.0]));
        assert_eq!(Ratio::between(&one, &other, Metric::CpuPerRequest), Ratio::Of(0.5));
    }

    #[test]
    fn rounds_that_disagree_give_no_ratio() {
        let (one, other) = (rounds(&[10.0, 20.0, 30.0]), rounds(&[20.0, 20.0, 20.0]));
        let ratio = Ratio::between(&one, &other, Metric::CpuPerRequest);
        assert_eq!(ratio, Ratio::Disagree { least: 0.5, most: 1.5 });
        assert_eq!([1.6, 1.0, 0.4].map(|limit| ratio.is_at_most(limit)), [Some(true), None, Some(false)]);
    }

    #[test]
    fn errors_give_no_ratio() {
        let (mut one, other) = (rounds(&[10.0; 3]), rounds(&[20.0; 3]));
        one[1].insert(Metric::Errors, 5.0);
        assert_eq!(Ratio::between(&one, &other, Metric::CpuPerRequest), Ratio::Nothing);
        assert_eq!(Ratio::between(&one, &other, Metric::P99), Ratio::Nothing);
    }
}
