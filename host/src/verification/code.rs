//! The six digits that a person reads and types.

use std::fmt;

use rand::{RngExt as _, rand_core::UnwrapErr, rngs::SysRng};
use subtle::{Choice, ConstantTimeEq as _};
use zeroize::Zeroizing;

/// How many digits a code has: what people are used to, and few enough to carry
/// in the head from one screen to another. That they can be guessed is what
/// tries, lifetimes and rates are limited for.
pub(super) const CODE_DIGITS: usize = 6;

/// How many codes there are.
const CODES: u32 = 10_u32.pow(CODE_DIGITS as u32);

/// A verification code, as its ASCII digits. Wiped from memory on drop.
///
/// Kept as it is and not as a digest: a million digests are made in a moment.
#[derive(Clone)]
pub(super) struct Code(Zeroizing<[u8; CODE_DIGITS]>);

impl Code {
    /// Draws a code from the operating system's randomness, each as likely as
    /// any other.
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness to give.
    pub(super) fn generate() -> Self {
        Self::draw(&mut UnwrapErr(SysRng))
    }

    fn draw(random: &mut impl rand::Rng) -> Self {
        // Not a remainder, which would make small codes likelier.
        let mut rest = random.random_range(0..CODES);
        let mut digits = Zeroizing::new([b'0'; CODE_DIGITS]);
        for digit in digits.iter_mut().rev() {
            *digit = b"0123456789"[rest as usize % 10];
            rest /= 10;
        }
        Self(digits)
    }

    /// Reads a presented code; `None` if it is not six digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits: [u8; CODE_DIGITS] = text.as_bytes().try_into().ok()?;
        digits.iter().all(u8::is_ascii_digit).then(|| Self(Zeroizing::new(digits)))
    }

    /// Returns the digits, for the message that they are sent in.
    pub(super) fn expose(&self) -> &str {
        // Always ASCII, so that the empty string is never the answer.
        str::from_utf8(self.0.as_slice()).unwrap_or_default()
    }

    /// Compares in a time that tells nothing about where two codes differ.
    pub(super) fn ct_eq(&self, other: &Self) -> Choice {
        self.0.as_slice().ct_eq(other.0.as_slice())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(…)")
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::SmallRng};

    use super::*;

    #[test]
    fn a_code_is_six_digits() {
        for (text, expected) in [
            ("000000", true),
            ("012345", true),
            ("999999", true),
            ("", false),
            ("12345", false),
            ("1234567", false),
            ("12345x", false),
            (" 12345", false),
            ("+12345", false),
            ("12345\u{0}", false),
            // Digits elsewhere, and six bytes of them.
            ("٣٤٥", false),
        ] {
            let code = Code::parse(text);
            assert_eq!(code.is_some(), expected, "`{text}`");
            if let Some(code) = code {
                assert_eq!(code.expose(), text);
            }
        }
    }

    #[test]
    fn codes_are_equal_if_all_of_their_digits_are() {
        let code = |text| Code::parse(text).unwrap();
        for (other, expected) in
            [("012345", true), ("112345", false), ("012344", false), ("543210", false)]
        {
            assert_eq!(bool::from(code("012345").ct_eq(&code(other))), expected, "{other}");
        }
    }

    #[test]
    fn every_digit_is_as_likely_in_every_place() {
        const DRAWN: usize = 100_000;
        let mut random = SmallRng::seed_from_u64(1);
        let mut counts = [[0_usize; 10]; CODE_DIGITS];
        for _ in 0..DRAWN {
            for (place, digit) in Code::draw(&mut random).0.iter().enumerate() {
                counts[place][usize::from(digit - b'0')] += 1;
            }
        }
        // Five standard deviations of a tenth of them.
        for count in counts.as_flattened() {
            assert!(count.abs_diff(DRAWN / 10) < 475, "{counts:?}");
        }
    }

    #[test]
    fn a_code_is_not_printed() {
        assert_eq!(format!("{:?}", Code::generate()), "Code(…)");
    }
}
