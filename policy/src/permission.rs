//! What a key's permissions let it do.
//!
//! Permissions travel as one string: sorted bytewise, separated by one space.
//! Empty grants nothing; [`UNRESTRICTED`] grants everything, and is a word that
//! somebody had to say.

use std::cmp::Ordering;

use crate::catalogue::Permission;

/// The permissions of a key without limits.
pub const UNRESTRICTED: &str = "*";

/// Tells whether somebody who holds `held` has `needed`, by that name or
/// through a permission that includes it.
pub fn covers(held: &str, needed: &Permission) -> bool {
    held == UNRESTRICTED || needed.covered_by().any(|one| contains(held, one.name()))
}

/// Returns those of `needed` that `held` does not cover: sorted,
/// space-separated.
pub fn missing<'a>(held: &str, needed: impl Iterator<Item = &'a Permission>) -> String {
    join(needed.filter(|needed| !covers(held, needed)).map(Permission::name))
}

/// Joins names, which come sorted, as permissions travel.
pub fn join<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut joined = String::new();
    for name in names {
        if !joined.is_empty() {
            joined.push(' ');
        }
        joined.push_str(name);
    }
    joined
}

/// Tells whether the sorted list `held` has `name`.
///
/// A binary search over the text, because a key may hold hundreds of
/// permissions and this runs on every request: going through them one by one
/// costs more than the rest of the decision.
fn contains(held: &str, name: &str) -> bool {
    let held = held.as_bytes();
    let (mut low, mut high) = (0, held.len());
    while low < high {
        let middle = low + (high - low) / 2;
        // The name that the middle falls into. Both ends of the range are
        // always ends of names, so the search ends.
        let start = before(held, low, middle);
        let end = after(held, middle, high);
        match held.get(start..end).unwrap_or_default().cmp(name.as_bytes()) {
            Ordering::Equal => return true,
            Ordering::Less => low = end + 1,
            Ordering::Greater => high = start.saturating_sub(1),
        }
    }
    false
}

/// Returns where the name starts that `at` falls into, not below `low`. The
/// space behind a name belongs to it.
fn before(held: &[u8], low: usize, at: usize) -> usize {
    let part = held.get(low..at).unwrap_or_default();
    part.iter().rposition(|&byte| byte == b' ').map_or(low, |space| low + space + 1)
}

/// Returns where the name ends that `at` falls into, not above `high`.
fn after(held: &[u8], at: usize, high: usize) -> usize {
    let part = held.get(at..high).unwrap_or_default();
    part.iter().position(|&byte| byte == b' ').map_or(high, |space| at + space)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(held: &str, needed: &str, expected: bool) {
        let needed = Permission::find(needed).unwrap();
        assert_eq!(covers(held, needed), expected, "`{held}` for `{}`", needed.name());
    }

    #[test]
    fn a_name_is_found_wherever_it_stands() {
        let names = ["a", "aa", "b_read", "b_write", "c", "charge_read", "z"];
        for count in 0..=names.len() {
            let held = names[..count].join(" ");
            for (index, name) in names.iter().enumerate() {
                assert_eq!(contains(&held, name), index < count, "`{name}` in `{held}`");
            }
            for absent in ["", " ", "a ", "A", "b", "b_", "charge", "charge_reads", "zz"] {
                assert!(!contains(&held, absent), "`{absent}` in `{held}`");
            }
        }
    }

    #[test]
    fn write_covers_read_and_not_the_other_way_round() {
        check("charge_write", "charge_read", true);
        check("charge_write", "charge_write", true);
        check("charge_read", "charge_write", false);
    }

    #[test]
    fn implied_permissions_are_covered_one_step_deep() {
        check("customer_read", "billing_clock_read", true);
        check("customer_write", "billing_clock_read", true);
        check("billing_clock_read", "customer_read", false);
        // Implies `transfer_read`, which implies `payout_read`; the list of a
        // permission is complete, so the second step does not follow.
        check("balance_transaction_source_read", "transfer_read", true);
        check("balance_transaction_source_read", "payout_read", false);
    }

    #[test]
    fn absence_grants_nothing_and_unrestricted_is_a_word_of_its_own() {
        check("", "charge_read", false);
        check("*", "charge_read", true);
        check("* charge_write", "payout_write", false);
        check("charge_*", "charge_read", false);
    }
}
