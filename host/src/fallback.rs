//! Policies that fail: when that is worth an alarm, and when it is enough to go
//! back to what was in force before.
//!
//! A failure is a policy that traps, loops or answers nonsense. The request that
//! it failed is answered with an error, whatever becomes of the policy.
//!
//! # Invariants
//!
//! - To be slow is no failure, nor is a machine that has no time for a policy:
//!   whoever can slow a host down must not choose its rules by it.
//! - Nobody alone brings an older policy back: the failures that do have met
//!   requests with keys of several accounts.
//! - It goes back only, and only once from each stack: what failed comes back
//!   when somebody puts it in force again.

use std::{
    collections::HashSet,
    error::Error,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::{active_policy::ActivePolicy, metrics::Metrics, policies::Policies, stack::Stack};

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
}

/// Failures that are more than a stack may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Breach {
    /// When they began to be counted, in seconds since 1970.
    pub(crate) since: u64,
    /// How many.
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

    /// Counts a failure; `owner` is the account of the key, if that was known.
    /// Returns what there is by now, if that is more than may be.
    pub(crate) fn failed(&self, owner: Option<&str>, now: u64) -> Option<Breach> {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let decided: u64 = self.counts().iter().sum();
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= window.began + WINDOW_SECS {
            // This one is the first that counts.
            *window = Window { began: now, decided_before: decided - 1, ..Window::default() };
        }
        window.failed += 1;
        if let Some(owner) = owner
            && window.owners.len() < MAX_OWNERS
            && !window.owners.contains(owner)
        {
            window.owners.insert(owner.to_owned());
        }
        let (failed, decided) = (window.failed, decided.saturating_sub(window.decided_before));
        let is_breach = failed >= MIN_FAILURES && failed * ONE_IN >= decided;
        is_breach.then(|| Breach {
            since: window.began,
            failed,
            decided,
            owners: window.owners.len(),
        })
    }

    /// Returns how many decisions allowed, denied and failed.
    pub(crate) fn counts(&self) -> [u64; 3] {
        [&self.allowed, &self.denied, &self.failed].map(|count| count.load(Ordering::Relaxed))
    }
}

/// A stack that fails more than it may.
#[derive(Debug)]
struct Alarm {
    stack: Arc<Stack>,
    breach: Breach,
}

/// Where a breach is told.
#[derive(Debug)]
pub(crate) struct Bell(Sender<Alarm>);

impl Bell {
    /// Tells of a breach. Never waits: one that is not heard yet is as good.
    #[cold]
    pub(crate) fn ring(&self, stack: &Arc<Stack>, breach: Breach) {
        let _ = self.0.try_send(Alarm { stack: Arc::clone(stack), breach });
    }
}

/// Returns a bell, and what hears it.
pub(crate) fn bell() -> (Bell, Listener) {
    let (sender, receiver) = mpsc::channel(1);
    (Bell(sender), Listener(receiver))
}

/// Hears of breaches, and does about them what was configured.
pub(crate) struct Listener(Receiver<Alarm>);

impl Listener {
    /// Starts the task that hears. It ends with the host.
    pub(crate) fn start(
        mut self,
        active: Arc<ActivePolicy>,
        policies: Weak<Policies>,
        metrics: Arc<Metrics>,
        after_owners: Option<u32>,
    ) {
        tokio::spawn(async move {
            let (mut told, mut tried) = (Once::default(), Once::default());
            while let Some(Alarm { stack, breach }) = self.0.recv().await {
                let Some(policies) = policies.upgrade() else { break };
                if !active.has(&stack) {
                    // It was taken out of force meanwhile.
                    continue;
                }
                if told.is_first(&stack, breach) {
                    metrics.alarm();
                    tell(&stack, breach);
                }
                if after_owners.is_some_and(|after| breach.owners >= after as usize)
                    && tried.is_first(&stack, breach)
                    && let Err(err) = policies.fall_back(&stack, breach).await
                {
                    tracing::error!(error = &err as &dyn Error, "the host did not fall back");
                }
            }
        });
    }
}

/// What is done once for each window of each stack.
#[derive(Default)]
struct Once(Option<(Weak<Stack>, u64)>);

impl Once {
    fn is_first(&mut self, stack: &Arc<Stack>, breach: Breach) -> bool {
        let this = (Arc::downgrade(stack), breach.since);
        let is_known = self
            .0
            .as_ref()
            .is_some_and(|(known, since)| Weak::ptr_eq(known, &this.0) && *since == breach.since);
        self.0 = Some(this);
        !is_known
    }
}

/// Raises the alarm.
fn tell(stack: &Stack, breach: Breach) {
    tracing::error!(
        policy = %stack.policy().digest().to_hex(),
        failed = breach.failed,
        decided = breach.decided,
        accounts = breach.owners,
        "THE POLICY FAILS: requests are answered with errors; `wardkey policies rollback` \
         goes back to the one before",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has a stack decide, and then fail for these owners, all at one time.
    fn breach(decided: u64, owners: &[Option<&str>]) -> Option<Breach> {
        let health = Health::default();
        // What was decided before the first failure is not of its window.
        health.decided(true);
        assert_eq!(health.failed(owners[0], 100), None);
        for _ in 0..decided {
            health.decided(false);
        }
        owners[1..].iter().map(|owner| health.failed(*owner, 109)).last().flatten()
    }

    #[test]
    fn ten_failures_that_are_one_decision_in_a_hundred_are_a_breach() {
        let one = Some("acct_1");
        let found = |failed, decided| Some(Breach { since: 100, failed, decided, owners: 1 });
        assert_eq!(breach(0, &[one; 9]), None);
        assert_eq!(breach(0, &[one; 10]), found(10, 10));
        assert_eq!(breach(990, &[one; 10]), found(10, 1000));
        assert_eq!(breach(991, &[one; 10]), None);
        assert_eq!(breach(1089, &[one; 11]), found(11, 1100));
    }

    #[test]
    fn accounts_are_counted_once_and_nobody_is_none() {
        let owners = |owners: &[Option<&str>]| breach(0, owners).map(|breach| breach.owners);
        assert_eq!(owners(&[None; 10]), Some(0));
        let mut three = [Some("acct_1"); 10];
        (three[3], three[7], three[8]) = (Some("acct_2"), None, Some("acct_3"));
        assert_eq!(owners(&three), Some(3));
        let names: Vec<String> = (0..=MAX_OWNERS).map(|n| format!("acct_{n}")).collect();
        let many: Vec<Option<&str>> = names.iter().map(|name| Some(name.as_str())).collect();
        assert_eq!(owners(&many), Some(MAX_OWNERS));
    }

    #[test]
    fn failures_of_another_window_do_not_count() {
        let health = Health::default();
        for second in 0..100 {
            assert_eq!(health.failed(Some("acct_1"), second * 2), None, "{second}");
        }
        assert_eq!(health.counts(), [0, 0, 100]);
    }
}
