//! A policy that decides beside the one in force, so that people see what would
//! change before it does.
//!
//! # Invariants
//!
//! - Nothing of it reaches a request: what a shadow decides is compared and
//!   forgotten, and a request never waits for it. What does not fit into its
//!   queue is dropped and counted.
//! - It decides about the very same request, on what that has read of storage, at
//!   the same time. What the other policy has not asked for is read anew.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::{
    answer,
    cache::Cache,
    decide::{DecideError, Kept, decide_by},
    engine::{
        EngineError,
        contract::{
            Credential, Decision, Key, MalformedCredential, Request, Source, WellFormedCredential,
        },
    },
    facts::Facts,
    secret::Digest,
    share::Share,
    stack::Stack,
};

/// How many requests may wait to be compared. Each takes about a kilobyte.
const QUEUE: usize = 1024;

/// How many kinds of difference are told apart: a policy is free to make up a
/// code for each request.
const MAX_KINDS: usize = 100;

/// How many examples are kept of each kind: the first ones, as they came.
const MAX_EXAMPLES: usize = 5;

/// How much less urgent than everything else the thread is, as `nice` counts: it
/// gets what nobody else wants.
#[cfg(target_os = "linux")]
const NICE: i32 = 19;

/// A stack that decides beside the one in force.
pub struct Shadow {
    stack: Arc<Stack>,
    share: Share,
    started_at: u64,
    queue: SyncSender<Case>,
    /// Numbers the requests: which of them are compared.
    offered: AtomicU64,
    seen: Arc<Seen>,
}

impl fmt::Debug for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shadow").field("stack", &self.stack).finish_non_exhaustive()
    }
}

/// What came of the comparisons.
#[derive(Default)]
struct Seen {
    agreed: AtomicU64,
    disagreed: AtomicU64,
    dropped: AtomicU64,
    /// Where storage did not answer what only the shadow had asked for.
    skipped: AtomicU64,
    kinds: Mutex<HashMap<Kind, Difference>>,
}

/// A kind of difference.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    /// What was decided: `allow` or `deny`.
    pub from: &'static str,
    /// What the shadow says: `allow`, `deny` or `error`.
    pub to: &'static str,
    /// The code of the shadow's refusal or failure; where it allows, that of the
    /// refusal that there was. Empty where neither has one, and `other` where
    /// there are too many to tell apart.
    pub code: String,
}

#[derive(Default)]
struct Difference {
    count: u64,
    examples: VecDeque<Value>,
}

/// A request that was decided about, with all that it takes to do so again.
struct Case {
    request: Recorded,
    facts: Facts,
    key: Option<Arc<Key>>,
    decision: Decision,
}

impl Shadow {
    /// Starts a shadow with a thread of its own, which ends when this is dropped.
    ///
    /// # Errors
    ///
    /// If the machine cannot give the thread.
    pub(crate) fn start(
        stack: Arc<Stack>,
        share: Share,
        started_at: u64,
        cache: Arc<Cache>,
    ) -> std::io::Result<Self> {
        let (queue, cases) = sync_channel(QUEUE);
        let seen = Arc::new(Seen::default());
        let comparer = Comparer {
            stack: Arc::clone(&stack),
            seen: Arc::clone(&seen),
            cache,
            runtime: Handle::current(),
        };
        thread::Builder::new()
            .name("policy-shadow".to_owned())
            .spawn(move || comparer.compare_all(&cases))?;
        Ok(Self { stack, share, started_at, queue, offered: AtomicU64::new(0), seen })
    }

    /// Returns the stack that is compared.
    pub(crate) fn stack(&self) -> &Arc<Stack> {
        &self.stack
    }

    /// Tells whether the next request is one to compare.
    pub(crate) fn wants(&self) -> bool {
        let number = self.offered.fetch_add(1, Ordering::Relaxed);
        self.share == Share::ALL || self.share.includes(scattered(number))
    }

    /// Takes what a request was decided by. Never waits.
    pub(crate) fn take(
        &self,
        request: &Request<'_>,
        facts: Facts,
        key: Option<Arc<Key>>,
        decision: &Decision,
    ) {
        let request = Recorded::new(request);
        let case = Case { request, facts, key, decision: decision.clone() };
        if self.queue.try_send(case).is_err() {
            self.seen.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how many comparisons agreed, disagreed, were dropped, and skipped.
    pub fn counts(&self) -> [u64; 4] {
        let seen = &self.seen;
        [&seen.agreed, &seen.disagreed, &seen.dropped, &seen.skipped]
            .map(|count| count.load(Ordering::Relaxed))
    }

    /// Returns how often each kind of difference was seen, by its kind.
    pub fn differences(&self) -> Vec<(Kind, u64)> {
        let kinds = self.seen.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> =
            kinds.iter().map(|(kind, difference)| (kind.clone(), difference.count)).collect();
        all.sort();
        all
    }

    /// Returns what came of it, as the management listener shows it.
    pub fn to_json(&self) -> Value {
        let [agreed, disagreed, dropped, skipped] = self.counts();
        let kinds = self.seen.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kinds: Vec<_> = kinds.iter().collect();
        kinds.sort_by(|one, other| (other.1.count, one.0).cmp(&(one.1.count, other.0)));
        let differences = kinds.into_iter().map(|(kind, difference)| {
            json!({
                "from": kind.from,
                "to": kind.to,
                "code": kind.code,
                "count": difference.count,
                "examples": difference.examples,
            })
        });
        json!({
            "object": "policy_shadow",
            "digest": self.stack.policy().digest().to_hex(),
            "overlays": self.stack.overlay_digests().iter().map(Digest::to_hex).collect::<Vec<_>>(),
            "percent": self.share.percent(),
            "started": crate::keys::timestamp(self.started_at),
            "compared": agreed + disagreed,
            "agreed": agreed,
            "disagreed": disagreed,
            "dropped": dropped,
            "skipped": skipped,
            "differences": differences.collect::<Vec<_>>(),
        })
    }
}

/// Returns a number that has no pattern of the one it is made from (splitmix64):
/// to compare every tenth request would compare the same endpoint for ever where
/// a client calls ten in turn.
fn scattered(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// What compares.
struct Comparer {
    stack: Arc<Stack>,
    seen: Arc<Seen>,
    cache: Arc<Cache>,
    runtime: Handle,
}

impl Comparer {
    fn compare_all(&self, cases: &Receiver<Case>) {
        be_least_urgent();
        for case in cases {
            self.compare(case);
        }
    }

    fn compare(&self, case: Case) {
        let Case { request, mut facts, key, decision } = case;
        let answer = request.with(|request| {
            let kept = Kept::By(&self.cache);
            let decided = decide_by(&self.stack, request, &mut facts, key.as_deref(), kept);
            self.runtime.block_on(decided)
        });
        let (to, shadow) = match &answer {
            Ok((same, _)) if *same == decision => {
                self.seen.agreed.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Ok((other, _)) => (word(other), answer::shown(other)),
            Err(DecideError::Storage(_)) => {
                self.seen.skipped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Err(err) => ("error", json!({ "error": failure(err), "message": err.to_string() })),
        };
        let code = match (&answer, &decision) {
            (Ok((Decision::Deny(denial), _)), _) | (Ok(_), Decision::Deny(denial)) => {
                denial.code.clone().unwrap_or_default()
            }
            (Ok(_), Decision::Allow(_)) => String::new(),
            (Err(err), _) => failure(err).to_owned(),
        };
        let kind = Kind { from: word(&decision), to, code };
        self.seen.disagreed.fetch_add(1, Ordering::Relaxed);
        self.seen.note(kind, || {
            json!({
                "at": crate::keys::timestamp(request.now),
                "method": request.method,
                "path": request.path,
                "key": key.as_ref().map(|key| key.id.as_str()),
                "context": request.context,
                "account": request.account,
                "in_force": answer::shown(&decision),
                "shadow": shadow,
            })
        });
    }
}

impl Seen {
    fn note(&self, kind: Kind, example: impl FnOnce() -> Value) {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = kinds.contains_key(&kind) || kinds.len() < MAX_KINDS;
        let kind = if is_known { kind } else { Kind { code: "other".to_owned(), ..kind } };
        let difference = kinds.entry(kind).or_default();
        difference.count += 1;
        if difference.examples.len() < MAX_EXAMPLES {
            difference.examples.push_back(example());
        }
    }
}

fn word(decision: &Decision) -> &'static str {
    match decision {
        Decision::Allow(_) => "allow",
        Decision::Deny(_) => "deny",
    }
}

/// What a failure is called.
fn failure(err: &DecideError) -> &'static str {
    match err {
        DecideError::Engine(EngineError::OutOfTime) => "out_of_time",
        DecideError::Engine(EngineError::Starved) => "starved",
        DecideError::Engine(EngineError::Trapped(_)) => "trapped",
        DecideError::Engine(EngineError::Garbage(_)) => "garbage",
        DecideError::Engine(EngineError::Missing(_)) => "missing",
        DecideError::Insatiable => "insatiable",
        DecideError::Storage(_) => "storage",
    }
}

/// Makes the thread that calls it wait for all others.
fn be_least_urgent() {
    // Of Linux only: there, what a thread asks of itself counts for it alone.
    #[cfg(target_os = "linux")]
    if let Err(err) = rustix::process::setpriority_process(None, NICE) {
        tracing::warn!("the shadow is as urgent as the requests: {err}");
    }
}

/// A request that outlives the one that it was made from.
struct Recorded {
    credential: RecordedCredential,
    method: String,
    path: String,
    source: Source,
    context: Option<String>,
    account: Option<String>,
    api_version: Option<String>,
    now: u64,
    attributes: Vec<(String, String)>,
}

enum RecordedCredential {
    Absent,
    Malformed { prefix: String, masked: String },
    WellFormed { prefix: String, masked: String, digest: (u64, u64, u64, u64) },
}

impl Recorded {
    fn new(request: &Request<'_>) -> Self {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Self {
            credential: match &request.credential {
                Credential::Absent => RecordedCredential::Absent,
                Credential::Malformed(MalformedCredential { prefix, masked }) => {
                    RecordedCredential::Malformed {
                        prefix: (*prefix).to_owned(),
                        masked: (*masked).to_owned(),
                    }
                }
                Credential::WellFormed(WellFormedCredential { prefix, masked, digest }) => {
                    RecordedCredential::WellFormed {
                        prefix: (*prefix).to_owned(),
                        masked: (*masked).to_owned(),
                        digest: *digest,
                    }
                }
            },
            method: request.method.to_owned(),
            path: request.path.to_owned(),
            source: request.source,
            context: own(request.context),
            account: own(request.account),
            api_version: own(request.api_version),
            now: request.now,
            attributes: request
                .attributes
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    fn with<T>(&self, ask: impl FnOnce(&Request<'_>) -> T) -> T {
        let attributes: Vec<(&str, &str)> =
            self.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        ask(&Request {
            credential: match &self.credential {
                RecordedCredential::Absent => Credential::Absent,
                RecordedCredential::Malformed { prefix, masked } => {
                    Credential::Malformed(MalformedCredential { prefix, masked })
                }
                RecordedCredential::WellFormed { prefix, masked, digest } => {
                    Credential::WellFormed(WellFormedCredential { prefix, masked, digest: *digest })
                }
            },
            method: &self.method,
            path: &self.path,
            source: self.source,
            context: self.context.as_deref(),
            account: self.account.as_deref(),
            api_version: self.api_version.as_deref(),
            now: self.now,
            attributes: &attributes,
        })
    }
}
