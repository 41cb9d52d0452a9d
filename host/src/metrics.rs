//! What the host counts, in Prometheus' text format.

use std::sync::{Arc, OnceLock, atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};

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
    pub fn new(policy: &str) -> Arc<Self> {
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
        let version = env!("CARGO_PKG_VERSION").to_owned();
        registry.register(
            "build",
            "The host's version, and the policy it started with",
            Info::new([("version", version), ("policy", policy.to_owned())]),
        );
        Arc::new(Self {
            registry,
            answered,
            counters: Default::default(),
            decision_seconds,
            storage_reads,
            log_dropped,
        })
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

    /// Returns everything as text. Values that others count are handed in.
    pub fn encode(&self, storage_reads: u64, log_dropped: u64) -> String {
        self.storage_reads.set(storage_reads);
        self.log_dropped.set(log_dropped);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
