//! How a stack fares: what it decided, and when it fails more than it may.
//!
//! A failure is a policy that traps, loops or answers nonsense. The request that
//! it failed is answered with an error, whatever becomes of the policy.
//!
//! # Invariants
//!
//! - To be slow is no failure, nor is a machine that has no time for a policy:
//!   whoever can slow a host down must not choose its rules by it.
//! - An account counts by a key that is good: what everybody can read in a web page,
//!   or has ended, is nobody's.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{engine::contract::Key, secret::Digest};

/// Over how long failures are counted, in seconds. Long enough for a host with
/// few requests, and a bad policy is gone while people still look at what they
/// have just put in force.
const WINDOW_SECS: u64 = 10;

/// The fewest failures in a window that are an alarm: a handful is one client
/// with one odd request, tried again and again.
const MIN_FAILURES: u64 = 10;

/// The least part of a window's decisions that have failed, as one in so many.
/// Less is a corner case, and to go back would take the new rules from everybody
/// else.
const ONE_IN: u64 = 100;

/// How many accounts are told apart. A host that asks for more than this many
/// before it goes back does not go back.
pub(crate) const MAX_OWNERS: usize = 100;

/// How a stack has fared since it was put in force.
#[derive(Debug, Default)]
pub(crate) struct Health {
    allowed: AtomicU64,
    denied: AtomicU64,
    failed: AtomicU64,
    window: Mutex<Window>,
}

/// The last seconds, as far as something failed in them.
#[derive(Debug, Default)]
struct Window {
    began: u64,
    /// How many decisions there had been when it began.
    decided_before: u64,
    failed: u64,
    owners: HashSet<String>,
    breach: Option<Breach>,
    is_told: bool,
    is_gone_back_from: bool,
}

/// Failures that are more than a stack may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Breach {
    /// Which of its policies failed last.
    pub(crate) policy: Digest,
    /// How many requests it failed.
    pub(crate) failed: u64,
    /// Of so many decisions.
    pub(crate) decided: u64,
    /// How many accounts the keys were of.
    pub(crate) owners: usize,
}

impl Health {
    /// Counts a decision.
    pub(crate) fn decided(&self, is_allowed: bool) {
        let counter = if is_allowed { &self.allowed } else { &self.denied };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failure of a request with this key. Tells whether there are more by
    /// now than may be.
    pub(crate) fn failed(&self, policy: Digest, key: Option<&Key>, now: u64) -> bool {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let decided: u64 = self.counts().iter().sum();
        let mut window = self.window();
        if now >= window.began + WINDOW_SECS {
            // This one is the first that counts.
            *window = Window { began: now, decided_before: decided - 1, ..Window::default() };
        }
        window.failed += 1;
        if let Some(owner) = key.and_then(|key| owner(key, now))
            && window.owners.len() < MAX_OWNERS
            && !window.owners.contains(owner)
        {
            window.owners.insert(owner.to_owned());
        }
        let (failed, decided) = (window.failed, decided.saturating_sub(window.decided_before));
        let is_breach = failed >= MIN_FAILURES && failed * ONE_IN >= decided;
        let owners = window.owners.len();
        window.breach = is_breach.then_some(Breach { policy, failed, decided, owners });
        is_breach
    }

    /// Returns the failures of the latest window, if they are more than may be.
    pub(crate) fn breach(&self) -> Option<Breach> {
        self.window().breach
    }

    /// Tells the first time in a window that its alarm is to be raised.
    pub(crate) fn is_to_be_told(&self) -> bool {
        !std::mem::replace(&mut self.window().is_told, true)
    }

    /// Tells the first time in a window that the stack is to be gone back from.
    pub(crate) fn is_to_be_gone_back_from(&self) -> bool {
        !std::mem::replace(&mut self.window().is_gone_back_from, true)
    }

    /// Returns how many decisions allowed, denied and failed.
    pub(crate) fn counts(&self) -> [u64; 3] {
        [&self.allowed, &self.denied, &self.failed].map(|count| count.load(Ordering::Relaxed))
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whose key it is, if it is one that only its owner has.
fn owner(key: &Key, now: u64) -> Option<&str> {
    let has_ended = key.ends_at.is_some_and(|ends_at| now >= ends_at);
    let is_public = is_exposable(&key.attributes);
    (!has_ended && !is_public).then_some(key.account.as_str())
}

/// Tells whether the secret of a key may stand in front-end code. Which ones may,
/// the policy has written beside the key.
pub(crate) fn is_exposable(attributes: &[(String, String)]) -> bool {
    attributes.iter().any(|(name, value)| name == "safe-to-expose" && value == "yes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::contract::Mode;

    fn policy() -> Digest {
        Digest::of("a policy")
    }

    fn key(account: &str) -> Key {
        Key {
            id: "key_1".to_owned(),
            account: account.to_owned(),
            mode: Mode::Live,
            kind: "secret".to_owned(),
            origin: "user".to_owned(),
            created_at: 0,
            ends_at: None,
            restored_at: None,
            money_moved_at: None,
            permissions: String::new(),
            connect_permissions: String::new(),
            ipv4_nets: Vec::new(),
            attributes: Vec::new(),
        }
    }

    /// Has a stack decide, and then fail for these keys, all in one window. Returns
    /// how many failed, of how many, and of how many accounts, if that is too much.
    fn breach(decided: u64, keys: &[Option<Key>]) -> Option<(u64, u64, usize)> {
        let health = Health::default();
        // What was decided before the first failure is not of its window.
        health.decided(true);
        health.failed(policy(), keys[0].as_ref(), 100);
        for _ in 0..decided {
            health.decided(false);
        }
        for key in &keys[1..] {
            let is_breach = health.failed(policy(), key.as_ref(), 109);
            assert_eq!(is_breach, health.breach().is_some());
        }
        health.breach().map(|breach| (breach.failed, breach.decided, breach.owners))
    }

    #[test]
    fn ten_failures_that_are_one_decision_in_a_hundred_are_a_breach() {
        let times = |count| vec![Some(key("acct_1")); count];
        assert_eq!(breach(0, &times(9)), None);
        assert_eq!(breach(0, &times(10)), Some((10, 10, 1)));
        assert_eq!(breach(990, &times(10)), Some((10, 1000, 1)));
        assert_eq!(breach(991, &times(10)), None);
        assert_eq!(breach(1089, &times(11)), Some((11, 1100, 1)));
    }

    #[test]
    fn accounts_are_counted_once_and_by_good_keys_only() {
        let owners = |some: Vec<Option<Key>>| {
            let rest = 10_usize.saturating_sub(some.len());
            breach(0, &[some, vec![None; rest]].concat()).map(|(.., owners)| owners)
        };
        assert_eq!(owners(vec![]), Some(0));
        let [one, two] = ["acct_1", "acct_2"].map(|account| Some(key(account)));
        assert_eq!(owners(vec![one.clone(), None, two, one]), Some(2));
        // What everybody has, and what nobody may use any more.
        let exposed = vec![("safe-to-expose".to_owned(), "yes".to_owned())];
        let public = Key { attributes: exposed, ..key("acct_1") };
        let ended = Key { ends_at: Some(100), ..key("acct_2") };
        let ending = Key { ends_at: Some(110), ..key("acct_3") };
        assert_eq!(owners([public, ended, ending].map(Some).to_vec()), Some(1));
        let many = (0..=MAX_OWNERS).map(|n| Some(key(&format!("acct_{n}")))).collect();
        assert_eq!(owners(many), Some(MAX_OWNERS));
    }

    #[test]
    fn failures_of_another_window_do_not_count() {
        let health = Health::default();
        for second in 0..100 {
            assert!(!health.failed(policy(), None, second * 2), "{second}");
        }
        assert_eq!(health.counts(), [0, 0, 100]);
    }

    #[test]
    fn each_window_is_told_of_once() {
        let health = Health::default();
        for (now, expected) in [(100, true), (105, false), (110, true)] {
            for _ in 0..10 {
                health.failed(policy(), None, now);
            }
            assert_eq!(health.is_to_be_told(), expected, "{now}");
            assert_eq!(health.is_to_be_gone_back_from(), expected, "{now}");
        }
    }
}
