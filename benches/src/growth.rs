//! Owns how fast something grows with the size of its input. Must not own measuring it.

/// The exponent of `size` to which `cost` grows, by least squares over the logarithms of `(size, cost)`: 1 is
/// proportional. `None` unless there are two sizes, and all numbers are positive.
pub fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    if points.iter().any(|(size, cost)| size.is_nan() || cost.is_nan() || *size <= 0.0 || *cost <= 0.0) {
        return None;
    }
    let logs: Vec<(f64, f64)> = points.iter().map(|(size, cost)| (size.ln(), cost.ln())).collect();
    let mean = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>() / logs.len() as f64;
    let (x, y) = (mean(|log| log.0), mean(|log| log.1));
    let spread: f64 = logs.iter().map(|log| (log.0 - x).powi(2)).sum();
    let together: f64 = logs.iter().map(|log| (log.0 - x) * (log.1 - y)).sum();
    (spread > 0.0).then(|| together / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponent_is_that_of_the_law() {
        let sizes = [1e4, 1e5, 1e6];
        for law in [0.5, 1.0, 1.7] {
            let points = sizes.map(|size: f64| (size, 3e-6 * size.powf(law)));
            assert!((exponent(&points).unwrap() - law).abs() < 1e-9, "{law}");
        }
        // Noise in the middle: the ends count.
        let found = exponent(&[(1e4, 1.0), (1e5, 11.0), (1e6, 100.0)]).unwrap();
        assert!((found - 1.0).abs() < 1e-9, "{found}");
        for points in [&[][..], &[(1.0, 1.0)], &[(2.0, 1.0), (2.0, 2.0)], &[(1.0, 0.0), (2.0, 1.0)]] {
            assert_eq!(exponent(points), None, "{points:?}");
        }
    }
}
