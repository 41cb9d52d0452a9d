//! A policy that decides beside the one in force, so that people see what would
//! change before it does.
//!
//! # Invariants
//!
//! - Nothing of it reaches a request: what a shadow decides is compared and
//!   forgotten, and a request never waits for it. Its thread holds nothing that one
//!   could wait for: it reads storage past the cache. What does not fit into its
//!   queue is dropped and counted.
//! - What it holds is bounded, whatever is requested and whatever a policy says.
//! - It decides about the very same request, on what that has read of storage, at
//!   the same time. What the other policy has not asked for is read anew.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::{
    answer,
    decide::{DecideError, Reads, decide_by},
    engine::{
        EngineError::Starved,
        contract::{Credential, Decision, Key, PresentedCredential, Request, Source},
    },
    facts::Facts,
    secret::Digest,
    share::Share,
    stack::Stack,
    storage::Storage,
};

/// How many requests may wait to be compared.
const QUEUE: usize = 1024;

/// How long the thread sleeps where there is nothing to compare. It is not woken:
/// to wake somebody is a system call, which would cost each compared request more
/// than all the rest. The queue holds what comes meanwhile, at 200,000 a second.
const PAUSE: Duration = Duration::from_millis(5);

/// The most text that a request and its decision may have to be compared, in
/// bytes. Most have a few hundred; those that have more are there to fill memory.
const MAX_CASE_BYTES: usize = 4096;

/// The most text of a code and of an example's decision that is kept, in bytes.
const MAX_CODE_BYTES: usize = 100;
const MAX_EXAMPLE_BYTES: usize = 2048;

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

impl Drop for Shadow {
    fn drop(&mut self) {
        // What is in the queue is not worth the time any more.
        self.seen.is_over.store(true, Ordering::Relaxed);
    }
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
    is_over: AtomicBool,
}

/// A kind of difference.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    /// What was decided: `allow`, `deny`, or `error` where the policy failed.
    pub from: &'static str,
    /// What the shadow says: `allow`, `deny` or `error`.
    pub to: &'static str,
    /// The code of the shadow's refusal or failure; where it allows, that of the
    /// refusal or failure that there was. Empty where neither has one, and `other` where
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
    key: Option<Arc<Key>>,
    facts: Facts,
    outcome: Outcome,
}

/// A decision, or how a policy has failed.
type Outcome = Result<Decision, &'static str>;

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
        storage: Arc<dyn Storage>,
    ) -> std::io::Result<Self> {
        let (queue, cases) = sync_channel(QUEUE);
        let seen = Arc::new(Seen::default());
        let comparer = Comparer {
            stack: Arc::clone(&stack),
            seen: Arc::clone(&seen),
            storage,
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

    /// Tells whether a policy is part of it.
    pub(crate) fn has(&self, policy: Digest) -> bool {
        let overlays = self.stack.overlays().iter();
        std::iter::once(self.stack.policy()).chain(overlays).any(|one| one.digest() == policy)
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
        key: Option<Arc<Key>>,
        facts: Facts,
        outcome: Result<&Decision, &'static str>,
    ) {
        let fits = request_bytes(request) + outcome.map_or(0, decision_bytes) <= MAX_CASE_BYTES;
        let case =
            || Case { request: Recorded::new(request), key, facts, outcome: outcome.cloned() };
        if !fits || self.queue.try_send(case()).is_err() {
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
    storage: Arc<dyn Storage>,
    runtime: Handle,
}

impl Comparer {
    fn compare_all(&self, cases: &Receiver<Case>) {
        be_least_urgent();
        while !self.seen.is_over.load(Ordering::Relaxed) {
            match cases.try_recv() {
                Ok(case) => self.compare(case),
                Err(TryRecvError::Empty) => thread::sleep(PAUSE),
                Err(TryRecvError::Disconnected) => break,
            }
        }
    }

    fn compare(&self, case: Case) {
        let Case { request, key, mut facts, outcome } = case;
        let shadow = request.with(|request| {
            let reads = Reads::Storage(&*self.storage);
            let decided = decide_by(&self.stack, request, key.as_deref(), &mut facts, reads);
            self.runtime.block_on(decided)
        });
        let shadow = match shadow {
            Ok((decision, _)) => Ok(decision),
            // Nobody's fault, and so no difference.
            Err(DecideError::Storage(_) | DecideError::Engine { source: Starved, .. }) => {
                self.seen.skipped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Err(err) => Err(err.name()),
        };
        if shadow == outcome {
            self.seen.agreed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let kind = Kind { from: word(&outcome), to: word(&shadow), code: code(&outcome, &shadow) };
        self.seen.note(kind, || {
            json!({
                "at": crate::keys::timestamp(request.now),
                "method": request.method,
                "path": request.path,
                "key": key.as_ref().map(|key| key.id.as_str()),
                "context": request.context,
                "account": request.account,
                "in_force": shown(&outcome),
                "shadow": shown(&shadow),
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
        // Last, so that who sees it counted sees what it is.
        self.disagreed.fetch_add(1, Ordering::Relaxed);
    }
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Ok(Decision::Allow(_)) => "allow",
        Ok(Decision::Deny(_)) => "deny",
        Err(_) => "error",
    }
}

/// Returns the code of what a request would be answered now, or else of what it was.
fn code(outcome: &Outcome, shadow: &Outcome) -> String {
    let of = |outcome: &Outcome| match outcome {
        Ok(Decision::Allow(_)) => None,
        Ok(Decision::Deny(denial)) => Some(denial.code.clone().unwrap_or_default()),
        Err(failure) => Some((*failure).to_owned()),
    };
    let mut code = of(shadow).or_else(|| of(outcome)).unwrap_or_default();
    code.truncate(code.floor_char_boundary(MAX_CODE_BYTES));
    code
}

fn shown(outcome: &Outcome) -> Value {
    match outcome {
        Ok(decision) if decision_bytes(decision) > MAX_EXAMPLE_BYTES => {
            json!({ "allowed": matches!(decision, Decision::Allow(_)), "message": "too long" })
        }
        Ok(decision) => answer::shown(decision),
        Err(failure) => json!({ "error": failure }),
    }
}

/// Returns how much text a request has, in bytes.
fn request_bytes(request: &Request<'_>) -> usize {
    let own = [request.method, request.path];
    let told = [request.context, request.account, request.api_version];
    let told = told.into_iter().flatten();
    own.into_iter().chain(told).map(str::len).sum()
}

/// Returns how much text a decision has, in bytes.
fn decision_bytes(decision: &Decision) -> usize {
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    match decision {
        Decision::Allow(grant) => {
            let attributes = grant.attributes.iter().map(|(name, value)| name.len() + value.len());
            let notices = grant.notices.iter().map(String::len);
            let own = [&grant.key, &grant.account, &grant.permissions, &grant.usage];
            let own = own.into_iter().map(String::len);
            own.chain(notices).chain(attributes).sum::<usize>() + length(&grant.endpoint)
        }
        Decision::Deny(denial) => {
            let own = [&denial.message, &denial.missing_permissions];
            let other = [&denial.code, &denial.param, &denial.key, &denial.endpoint];
            own.into_iter().map(String::len).sum::<usize>()
                + other.into_iter().map(length).sum::<usize>()
        }
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
    WellFormed { prefix: String, masked: String },
}

impl Recorded {
    fn new(request: &Request<'_>) -> Self {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Self {
            credential: match &request.credential {
                Credential::Absent => RecordedCredential::Absent,
                Credential::Malformed(PresentedCredential { prefix, masked }) => {
                    RecordedCredential::Malformed {
                        prefix: (*prefix).to_owned(),
                        masked: (*masked).to_owned(),
                    }
                }
                Credential::WellFormed(PresentedCredential { prefix, masked }) => {
                    RecordedCredential::WellFormed {
                        prefix: (*prefix).to_owned(),
                        masked: (*masked).to_owned(),
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
                    Credential::Malformed(PresentedCredential { prefix, masked })
                }
                RecordedCredential::WellFormed { prefix, masked } => {
                    Credential::WellFormed(PresentedCredential { prefix, masked })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::contract::{Denial, DenialClass};

    #[test]
    fn of_too_many_kinds_the_rest_is_counted_as_other() {
        let seen = Seen::default();
        let kind = |n: usize| Kind { from: "allow", to: "deny", code: format!("code_{n}") };
        for n in 0..MAX_KINDS + 20 {
            for _ in 0..=MAX_EXAMPLES {
                seen.note(kind(n), || json!(n));
            }
        }
        let kinds = seen.kinds.lock().unwrap();
        assert_eq!(kinds.len(), MAX_KINDS + 1);
        let other = &kinds[&Kind { code: "other".to_owned(), ..kind(0) }];
        assert_eq!((other.count, other.examples.len()), (20 * 6, MAX_EXAMPLES));
        assert_eq!(kinds[&kind(0)].examples.len(), MAX_EXAMPLES);
        assert_eq!(seen.disagreed.load(Ordering::Relaxed), 120 * 6);
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let denied = |code: &str, message: &str| {
            Ok(Decision::Deny(Denial {
                class: DenialClass::Forbidden,
                code: Some(code.to_owned()),
                message: message.to_owned(),
                param: None,
                missing_permissions: String::new(),
                key: None,
                endpoint: None,
            }))
        };
        let long = "é".repeat(MAX_EXAMPLE_BYTES);
        let cut = code(&Err("trapped"), &denied(&long, ""));
        assert_eq!(cut.len(), MAX_CODE_BYTES);
        assert_eq!(shown(&denied("a", &long)), json!({ "allowed": false, "message": "too long" }));
        assert_eq!(shown(&denied("a", "no"))["error"]["message"], "no");
    }
}
