//! A part of the requests, the keys or the accounts.

/// What a canary's share is a share of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CanaryBy {
    /// Of the keys.
    Key,
    /// Of the accounts: all keys of one are decided by the same.
    Account,
}

impl CanaryBy {
    /// Returns `key` or `account`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Account => "account",
        }
    }

    /// Returns the one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Key, Self::Account].into_iter().find(|by| by.as_str() == name)
    }
}

/// A part of a whole, in hundredths of a percent: 1 to 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u16);

impl Share {
    /// All of it.
    pub const ALL: Self = Self(10_000);

    /// Returns a share of that many hundredths of a percent; `None` if that is
    /// nothing, or more than all.
    pub fn of_hundredths(hundredths: u16) -> Option<Self> {
        Some(Self(hundredths)).filter(|share| (1..=Self::ALL.0).contains(&share.0))
    }

    /// Returns a share of that many percent; `None` if that is nothing, more than
    /// all, or has more than two decimals.
    pub fn of_percent(percent: f64) -> Option<Self> {
        let hundredths = percent * 100.0;
        let rounded = hundredths.round();
        // What was written with two decimals is not always exact.
        let is_exact = (hundredths - rounded).abs() < 1e-6;
        let fits = (1.0..=f64::from(Self::ALL.0)).contains(&rounded);
        (is_exact && fits).then_some(Self(rounded as u16))
    }

    /// Returns the hundredths of a percent.
    pub fn hundredths(self) -> u16 {
        self.0
    }

    /// Returns the percent.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// Tells whether one of many evenly spread numbers is in the share. What is in
    /// a share is in every larger one.
    pub fn includes(self, number: u64) -> bool {
        // The number as a fraction of its range, in hundredths of a percent.
        let place = (u128::from(number) * u128::from(Self::ALL.0)) >> 64;
        place < u128::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Digest;

    #[test]
    fn a_share_is_of_one_hundredth_of_a_percent_to_all() {
        let rows = [
            (0.0, None),
            (-1.0, None),
            (0.004, None),
            (0.01, Some(1)),
            (0.29, Some(29)),
            (1.15, Some(115)),
            (33.33, Some(3333)),
            (33.333, None),
            (99.99, Some(9999)),
            (100.0, Some(10_000)),
            (100.01, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
        ];
        for (percent, hundredths) in rows {
            let share = Share::of_percent(percent);
            assert_eq!(share.map(Share::hundredths), hundredths, "{percent}");
            if let Some(share) = share {
                assert!((share.percent() - percent).abs() < 1e-9, "{percent}");
                assert_eq!(Share::of_hundredths(share.hundredths()), Some(share));
            }
        }
        assert_eq!([0, 10_001].map(Share::of_hundredths), [None, None]);
    }

    #[test]
    fn a_share_is_as_large_as_it_says_and_part_of_every_larger_one() {
        let numbers: Vec<u64> =
            (0..20_000_u32).map(|n| Digest::of(&n.to_string()).to_words().0).collect();
        let mut smaller: Vec<bool> = vec![false; numbers.len()];
        for hundredths in [1, 100, 1000, 5000, 9999, 10_000] {
            let share = Share::of_hundredths(hundredths).unwrap();
            let inside: Vec<bool> = numbers.iter().map(|&n| share.includes(n)).collect();
            let count = inside.iter().filter(|inside| **inside).count();
            let expected = numbers.len() * usize::from(hundredths) / 10_000;
            assert!(count.abs_diff(expected) <= 250, "{count} of {expected}");
            assert!(smaller.iter().zip(&inside).all(|(small, large)| !small || *large));
            smaller = inside;
        }
        assert!(smaller.iter().all(|inside| *inside), "all is all");
        assert!(Share::ALL.includes(u64::MAX) && !Share(9999).includes(u64::MAX));
    }
}
