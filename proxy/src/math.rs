//! Two functions of the C library's mathematics, for crates that weir is made of (hickory's estimates of round trips).
//!
//! Nothing else asks for that library. With these in its place it is neither looked for at the start nor mapped, which is
//! 0.3 MB of every pod. The work is done by the libm crate, whose code is the one that Rust ships for targets without a C
//! library.

/// `exp` of C: e to the power of `x`.
// SAFETY: of this name there is one function in the world, and this does what it does.
#[unsafe(no_mangle)]
extern "C" fn exp(x: f64) -> f64 {
    libm::exp(x)
}

/// `pow` of C: `x` to the power of `y`.
// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn pow(x: f64, y: f64) -> f64 {
    libm::pow(x, y)
}

#[cfg(test)]
mod tests {
    #[test]
    fn they_are_what_they_are_called() {
        assert!((super::exp(1.0) - std::f64::consts::E).abs() < 1e-15);
        assert!((super::pow(2.0, 0.5) - std::f64::consts::SQRT_2).abs() < 1e-15);
        assert!(super::exp(f64::NEG_INFINITY).to_bits() == 0 && super::pow(0.0, 0.0).to_bits() == 1_f64.to_bits());
    }
}
