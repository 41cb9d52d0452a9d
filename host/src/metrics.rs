//! What the host counts, in Prometheus' text format.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};

use crate::{engine::Policy, shadow::Kind, stack::InForce};

/// The upper bounds of the buckets for the time of a decision, in seconds: from
/// a good one (5 µs) to the budget's end (10 ms) and storage that is slow.
const DECISION_BUCKETS: [f64; 10] = [5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 5e-4, 1e-3, 1e-2, 0.1, 1.0];

/// How a request at the gate ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    /// `allowed`, `denied` or `failed`.
    outcome: &'static str,
    /// The class of the status: `2xx`. Not the code, which a policy can choose
    /// freely: each new one would be a series that is never forgotten.
    status: &'static str,
}

/// What the host counts.
pub struct Metrics {
    registry: Registry,
    answered: Family<Answered, Counter>,
    /// The counters of `answered` by outcome and class, once they were needed:
    /// to find one by its labels takes longer than to count.
    counters: [[OnceLock<Counter>; 4]; 3],
    decision_seconds: Histogram,
    storage_reads: Gauge<u64, AtomicU64>,
    log_dropped: Gauge<u64, AtomicU64>,
    /// Held while what is in force is noted and told.
    noting: Mutex<()>,
    policies: Family<InRole, Gauge>,
    policy_decisions: Family<DecidedBy, Counter>,
    policy_alarms: Counter,
    policy_fallbacks: Counter,
    shadow_decisions: Family<Compared, Counter>,
    shadow_differences: Family<Differs, Counter>,
}

/// A policy that has a say.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InRole {
    /// `active`, `overlay`, `canary` or `shadow`.
    role: &'static str,
    /// The digest of the policy.
    policy: String,
}

/// Decisions of what is in force, since it is.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DecidedBy {
    /// `active` or `canary`.
    role: &'static str,
    /// `allowed`, `denied` or `failed`.
    outcome: &'static str,
}

/// Decisions of the shadow that there is, since there is.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Compared {
    /// `agreed`, `disagreed`, `dropped` or `skipped`.
    result: &'static str,
}

/// A kind of difference that it has shown. Bounded, as the shadow's own list is.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Differs {
    from: &'static str,
    to: &'static str,
    code: String,
}

/// How a request at the gate ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The policy let it through.
    Allowed,
    /// It was refused.
    Denied,
    /// There was no decision.
    Failed,
}

impl Metrics {
    /// Makes the counters, all zero.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("wardkey");
        let answered = Family::default();
        registry.register("gate_requests", "Requests answered by the gate", answered.clone());
        let decision_seconds = Histogram::new(DECISION_BUCKETS);
        registry.register(
            "decision_seconds",
            "Time to a decision, reads of storage included",
            decision_seconds.clone(),
        );
        let storage_reads = Gauge::default();
        registry.register(
            "storage_reads",
            "Keys and accounts read from storage, as they were not at hand",
            storage_reads.clone(),
        );
        let log_dropped = Gauge::default();
        registry.register(
            "request_log_dropped",
            "Entries of the request log that were dropped because storage was too slow",
            log_dropped.clone(),
        );
        let policies = Family::default();
        registry.register("policy", "The policies that have a say", policies.clone());
        let policy_decisions = Family::default();
        registry.register(
            "policy_decisions",
            "Decisions of what is in force, since it is",
            policy_decisions.clone(),
        );
        let policy_alarms = Counter::default();
        registry.register(
            "policy_alarms",
            "How often a policy failed more requests than it may",
            policy_alarms.clone(),
        );
        let policy_fallbacks = Counter::default();
        registry.register(
            "policy_fallbacks",
            "How often the host went back to what was in force before, by itself",
            policy_fallbacks.clone(),
        );
        let shadow_decisions = Family::default();
        registry.register(
            "shadow_decisions",
            "Decisions of the shadow beside those that were made",
            shadow_decisions.clone(),
        );
        let shadow_differences = Family::default();
        registry.register(
            "shadow_differences",
            "Decisions of the shadow that differ, by what they are",
            shadow_differences.clone(),
        );
        let version = env!("CARGO_PKG_VERSION").to_owned();
        registry.register("build", "The host's version", Info::new([("version", version)]));
        Arc::new(Self {
            registry,
            answered,
            counters: Default::default(),
            decision_seconds,
            storage_reads,
            log_dropped,
            noting: Mutex::default(),
            policies,
            policy_decisions,
            policy_alarms,
            policy_fallbacks,
            shadow_decisions,
            shadow_differences,
        })
    }

    /// Counts that a policy failed more requests than it may.
    pub(crate) fn alarm(&self) {
        self.policy_alarms.inc();
    }

    /// Counts that the host went back by itself.
    pub(crate) fn fell_back(&self) {
        self.policy_fallbacks.inc();
    }

    /// Counts an answer of the gate.
    pub fn answered(&self, outcome: Outcome, status: u16) {
        let class = match status / 100 {
            class @ 2..=4 => usize::from(class) - 2,
            _ => 3,
        };
        let counter = &self.counters[outcome as usize][class];
        counter
            .get_or_init(|| {
                let outcome = ["allowed", "denied", "failed"][outcome as usize];
                let status = ["2xx", "3xx", "4xx", "5xx"][class];
                self.answered.get_or_create(&Answered { outcome, status }).clone()
            })
            .inc();
    }

    /// Notes how long a decision took.
    pub fn decided(&self, took_us: u32) {
        self.decision_seconds.observe(f64::from(took_us) / 1e6);
    }

    /// Notes what is in force, and how it has fared.
    ///
    /// Whole, and not as it happens: what is no longer in force leaves no series
    /// behind.
    fn note(&self, in_force: &InForce) {
        self.policies.clear();
        self.policy_decisions.clear();
        self.shadow_decisions.clear();
        self.shadow_differences.clear();
        let has_role = |role, policy: &Policy| {
            let policy = policy.digest().to_hex();
            self.policies.get_or_create(&InRole { role, policy }).set(1);
        };
        let stable = &in_force.stable;
        let canary = in_force.canary.as_ref().map(|canary| &canary.stack);
        for (role, stack) in [("active", Some(stable)), ("canary", canary)] {
            let Some(stack) = stack else { continue };
            has_role(role, stack.policy());
            let outcomes = ["allowed", "denied", "failed"];
            for (outcome, count) in outcomes.into_iter().zip(stack.health.counts()) {
                self.policy_decisions.get_or_create(&DecidedBy { role, outcome }).inc_by(count);
            }
        }
        stable.overlays().iter().for_each(|overlay| has_role("overlay", overlay));
        let Some(shadow) = &in_force.shadow else { return };
        has_role("shadow", shadow.stack().policy());
        let results = ["agreed", "disagreed", "dropped", "skipped"];
        for (result, count) in results.into_iter().zip(shadow.counts()) {
            self.shadow_decisions.get_or_create(&Compared { result }).inc_by(count);
        }
        for (Kind { from, to, code }, count) in shadow.differences() {
            self.shadow_differences.get_or_create(&Differs { from, to, code }).inc_by(count);
        }
    }

    /// Returns everything as text. Values that others count are handed in.
    pub fn encode(&self, in_force: &InForce, storage_reads: u64, log_dropped: u64) -> String {
        let _noting = self.noting.lock().unwrap_or_else(PoisonError::into_inner);
        self.note(in_force);
        self.storage_reads.set(storage_reads);
        self.log_dropped.set(log_dropped);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
