//! Which endpoint of a cluster takes a request.
//!
//! [`choose`] is the pure decision over weights and load; [`cluster`] keeps the endpoints of a cluster on a worker; [`budget`]
//! how many retries it bears; [`destinations`] the endpoints of clusters that stand for where connections were going;
//! [`discovery`] resolves names, on the control thread.

pub mod budget;
pub mod cluster;
pub mod destinations;
pub mod discovery;

use weir_config::schema::Balance;
use weir_config::weights::Weights;

/// Chooses a place among endpoints. `draw` is uniform over all of `u64`; `turn` counts the choices made so far; `load`
/// gives the requests in flight at a place.
///
/// Least request: of two places drawn by weight, the one with fewer requests in flight for its weight (the power of two
/// choices). Round robin: places in turn; with unequal weights, along a low-discrepancy sequence, which keeps every
/// stretch of turns close to the shares.
pub fn choose(balance: Balance, weights: &Weights, draw: u64, turn: u64, load: impl Fn(usize) -> u32) -> usize {
    if weights.len() == 1 {
        return 0;
    }
    match balance {
        Balance::RoundRobin => {
            // The golden ratio's fraction: consecutive multiples fill the unit interval as evenly as can be.
            const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
            let equal = weights.total() == weights.len() as u64 * weights.weight(0);
            if equal && (1..weights.len()).all(|place| weights.weight(place) == weights.weight(0)) {
                usize::try_from(turn % weights.len() as u64).unwrap_or(0)
            } else {
                weights.pick(turn.wrapping_mul(STEP))
            }
        }
        Balance::LeastRequest => {
            let first = weights.pick(draw);
            // A second, independent draw from the first (the finaliser of SplitMix64).
            let second = weights.pick(remix(draw));
            let second = if second == first { (first + 1) % weights.len() } else { second };
            // a/wa <= b/wb without division. At rest both are nothing, and the draw, which is by weight, decides.
            let cost = |place: usize, other: usize| u64::from(load(place)) * weights.weight(other).max(1);
            let takes_none = weights.weight(second) == 0;
            if takes_none || cost(first, second) <= cost(second, first) { first } else { second }
        }
    }
}

fn remix(draw: u64) -> u64 {
    let mut z = draw.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;

    #[test]
    fn round_robin_takes_turns() {
        let equal = Weights::new([1, 1, 1]).unwrap();
        let order: Vec<_> = (0..6).map(|turn| choose(Balance::RoundRobin, &equal, 0, turn, |_| 0)).collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
        let unequal = Weights::new([3, 1]).unwrap();
        let mut hits = [0; 2];
        for turn in 0..400 {
            hits[choose(Balance::RoundRobin, &unequal, 0, turn, |_| 0)] += 1;
        }
        assert!((298..=302).contains(&hits[0]), "{hits:?}");
    }

    proptest! {
        /// Requests that never finish fill endpoints in proportion to their weights.
        #[test]
        fn load_follows_weights(weights in prop::collection::vec(1_u32..5, 2..6), seed: u64) {
            let prepared = Weights::new(weights.iter().copied()).unwrap();
            let loads = RefCell::new(vec![0_u32; weights.len()]);
            let mut draw = seed;
            for turn in 0..6000 {
                draw = remix(draw);
                let place = choose(Balance::LeastRequest, &prepared, draw, turn, |p| loads.borrow()[p]);
                loads.borrow_mut()[place] += 1;
            }
            let total: u32 = weights.iter().sum();
            for (place, load) in loads.borrow().iter().enumerate() {
                let share = f64::from(*load) / 6000.0;
                let wanted = f64::from(weights[place]) / f64::from(total);
                prop_assert!((share - wanted).abs() < 0.03, "{} of {:?}: {} for {}", place, weights, share, wanted);
            }
        }

        /// A busy endpoint is left alone while another one is idle.
        #[test]
        fn an_idle_endpoint_is_preferred(draw: u64, busy in 0_usize..2) {
            let weights = Weights::new([1, 1]).unwrap();
            let place = choose(Balance::LeastRequest, &weights, draw, 0, |place| if place == busy { 50 } else { 0 });
            prop_assert_eq!(place, 1 - busy);
        }
    }
}
