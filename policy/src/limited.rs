//! Limited access: a key that has not moved money for long cannot any more,
//! until somebody restores its access (S69–S72).

use crate::contract::Key;

/// After this many days without moving money a key's access is limited.
pub const LIMITED_AFTER_DAYS: u64 = 180;

pub(crate) const DAY_SECS: u64 = 24 * 60 * 60;

/// Returns from when on the key's clock runs: the latest of made, restored and
/// last moved money.
pub fn clock_start(key: &Key) -> u64 {
    let since = [Some(key.created_at), key.restored_at, key.money_moved_at];
    since.into_iter().flatten().max().unwrap_or_default()
}

/// Tells whether the key's access is limited. "Over" 180 days: at exactly 180
/// days it is not limited yet.
pub fn is_limited(key: &Key, now: u64) -> bool {
    now.saturating_sub(clock_start(key)) > LIMITED_AFTER_DAYS * DAY_SECS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Mode;

    const NOW: u64 = 1_893_456_000;

    fn key(made: u64, restored_at: Option<u64>, money_moved_at: Option<u64>) -> Key {
        Key {
            id: "key_1".to_owned(),
            account: "acct_1".to_owned(),
            mode: Mode::Live,
            kind: "secret".to_owned(),
            origin: "platform".to_owned(),
            created_at: made,
            ends_at: None,
            restored_at,
            money_moved_at,
            permissions: "*".to_owned(),
            connect_permissions: "*".to_owned(),
            ipv4_nets: Vec::new(),
            attributes: Vec::new(),
        }
    }

    #[test]
    fn the_clock_runs_from_the_latest() {
        for (restored, moved, expected) in [
            (None, None, 10),
            (Some(5), Some(7), 10),
            (Some(20), None, 20),
            (None, Some(30), 30),
            (Some(20), Some(30), 30),
            (Some(30), Some(20), 30),
        ] {
            assert_eq!(clock_start(&key(10, restored, moved)), expected, "{restored:?} {moved:?}");
        }
    }

    #[test]
    fn exactly_180_days_are_not_over_180_days() {
        let limit = 180 * 86_400;
        for (age, expected) in [(0, false), (limit - 1, false), (limit, false), (limit + 1, true)] {
            assert_eq!(is_limited(&key(NOW - age, None, None), NOW), expected, "{age} s");
        }
        // A time that lies ahead limits nobody, and overflows nothing.
        assert!(!is_limited(&key(u64::MAX, None, None), NOW));
        assert!(is_limited(&key(0, None, None), u64::MAX));
    }
}
