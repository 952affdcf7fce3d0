//! A two-step PIN for a number: six digits that nobody can guess.

use rand::Rng;

/// Digits of a PIN (contracts/meta-cloud-api.md 3.6).
const PIN_SPACE: u32 = 1_000_000;

/// From the operating system's randomness. Workflows take it in a step, so that a replay knows it.
pub fn new_pin() -> String {
    format!("{:06}", rand::rng().random_range(0..PIN_SPACE))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_pin_is_six_digits() {
        assert!((0..100).map(|_| super::new_pin()).all(|pin| pin.len() == 6 && pin.bytes().all(|b| b.is_ascii_digit())));
    }
}
