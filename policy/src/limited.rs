//! Limited access: a key that has not moved money for long cannot any more,
//! until somebody restores its access (S69–S72).

use crate::contract::Key;

/// After this many days without moving money a key's access is limited.
pub const LIMITED_AFTER_DAYS: u64 = 180;

const DAY_SECS: u64 = 24 * 60 * 60;

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
