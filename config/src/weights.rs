//! Weighted choice.

/// Shares of a split, prepared so that a choice is a multiplication and a short search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights {
    /// Running totals: place `i` is chosen when the scaled draw is below `cumulative[i]` and not below the one before.
    cumulative: Box<[u64]>,
}

impl Weights {
    /// Prepares a choice. `None` if there are no weights or all are zero.
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut total = 0_u64;
        let cumulative: Box<[u64]> = weights
            .into_iter()
            .map(|weight| {
                total += u64::from(weight);
                total
            })
            .collect();
        (total > 0).then_some(Self { cumulative })
    }

    /// The place that `draw`, uniform over all of `u64`, chooses. Place `i` has probability `weight[i] / total`.
    pub fn pick(&self, draw: u64) -> usize {
        if self.cumulative.len() == 1 {
            return 0;
        }
        // Fixed-point multiplication maps the draw to [0, total) without the bias of a remainder.
        let scaled = ((u128::from(draw) * u128::from(self.total())) >> 64) as u64;
        if self.cumulative.len() <= 8 {
            self.cumulative.iter().position(|&upper| scaled < upper).unwrap_or(0)
        } else {
            self.cumulative.partition_point(|&upper| upper <= scaled)
        }
    }

    /// The sum of all weights.
    pub fn total(&self) -> u64 {
        self.cumulative.last().copied().unwrap_or(0)
    }

    /// The weight of one place.
    pub fn weight(&self, place: usize) -> u64 {
        let before = if place == 0 { 0 } else { self.cumulative[place - 1] };
        self.cumulative[place] - before
    }

    /// How many places there are.
    pub fn len(&self) -> usize {
        self.cumulative.len()
    }

    /// Whether there are no places. Never true for a value made by [`Weights::new`].
    pub fn is_empty(&self) -> bool {
        self.cumulative.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// SplitMix64: a uniform, reproducible source of draws.
    fn draws(mut state: u64) -> impl Iterator<Item = u64> {
        std::iter::repeat_with(move || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        })
    }

    #[test]
    fn edges() {
        assert_eq!(Weights::new([]), None);
        assert_eq!(Weights::new([0, 0]), None);
        let half = Weights::new([1, 1]).unwrap();
        assert_eq!(half.pick(0), 0);
        assert_eq!(half.pick(u64::MAX / 2), 0);
        assert_eq!(half.pick(u64::MAX / 2 + 1), 1);
        assert_eq!(half.pick(u64::MAX), 1);
    }

    proptest! {
        #[test]
        fn a_zero_weight_is_never_picked(weights in prop::collection::vec(0_u32..5, 1..20), draw: u64) {
            if let Some(w) = Weights::new(weights.iter().copied()) {
                prop_assert!(weights[w.pick(draw)] > 0);
            }
        }

        /// Over 200,000 draws every share is within 0.6 points of what was asked: more than 5 sigma even for a half.
        #[test]
        fn shares_converge(weights in prop::collection::vec(0_u32..100, 2..12), seed: u64) {
            prop_assume!(weights.iter().any(|w| *w > 0));
            let w = Weights::new(weights.iter().copied()).unwrap();
            let mut hits = vec![0_u32; weights.len()];
            for draw in draws(seed).take(200_000) {
                hits[w.pick(draw)] += 1;
            }
            for (place, hit) in hits.iter().enumerate() {
                let wanted = f64::from(weights[place]) / w.total() as f64;
                let got = f64::from(*hit) / 200_000.0;
                prop_assert!((wanted - got).abs() < 0.006, "place {}: wanted {}, got {}", place, wanted, got);
            }
        }
    }
}
