//! From a request to a decision: run the policy, and read what it lacked.
//!
//! No instance is held while storage is read. A run that asks for something
//! which the request has not read yet is ended; the host reads it, adds it to
//! the request's facts and runs again from the start, with the same policy and
//! the same time. The presented digest is read before the first run, so that
//! nearly every request takes one.

use std::{sync::Arc, time::Instant};

use crate::{
    active_policy::ActivePolicy,
    cache::Cache,
    engine::{
        EngineError, Policy, Run,
        contract::{
            Account, Decision, Key, Request,
            explain::{Explanation, Step},
        },
    },
    facts::{Facts, MAX_IDS, Unread},
    secret::Digest,
    stack::{InForce, Stack},
    storage::{Storage, StorageError},
};

/// How often a policy may run for one decision. The standard policy asks for all
/// accounts at once, so it needs two runs; the third is for policies that look
/// something up by what they looked up.
pub const MAX_RUNS: usize = 3;

/// Why there is no decision. The request is answered with an error, and never
/// let through.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// A policy failed.
    #[error("the policy {} failed", policy.to_hex())]
    Engine {
        /// Which one.
        policy: Digest,
        /// How.
        source: EngineError,
    },
    /// Storage did not answer.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A policy still lacked something after [`MAX_RUNS`] runs, or asked for more
    /// than [`MAX_IDS`] ids.
    #[error("the policy {} asked for more than it may", policy.to_hex())]
    Insatiable {
        /// Which one.
        policy: Digest,
    },
}

impl DecideError {
    /// Returns which policy has not decided; `None`: storage did not answer.
    pub fn policy(&self) -> Option<Digest> {
        match self {
            Self::Engine { policy, .. } | Self::Insatiable { policy } => Some(*policy),
            Self::Storage(_) => None,
        }
    }

    /// Returns which policy is at fault: not where storage or a busy machine is.
    fn guilty(&self) -> Option<Digest> {
        match self {
            Self::Insatiable { policy } => Some(*policy),
            Self::Engine { policy, source } => match source {
                EngineError::OutOfTime | EngineError::Trapped(_) | EngineError::Garbage(_) => {
                    Some(*policy)
                }
                EngineError::Missing(_) | EngineError::Starved => None,
            },
            Self::Storage(_) => None,
        }
    }

    /// Returns the word for it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Engine { source, .. } => match source {
                EngineError::OutOfTime => "out_of_time",
                EngineError::Starved => "starved",
                EngineError::Trapped(_) => "trapped",
                EngineError::Garbage(_) => "garbage",
                EngineError::Missing(_) => "missing",
            },
            Self::Insatiable { .. } => "insatiable",
            Self::Storage(_) => "storage",
        }
    }
}

/// A decision, and what it was made from.
#[derive(Debug)]
pub struct Decided<T> {
    /// The answer.
    pub answer: T,
    /// Whose it is.
    pub by: By,
    /// The key that the presented secret belongs to.
    pub key: Option<Arc<Key>>,
    /// How long it took, reads of storage included, in microseconds.
    pub took_us: u32,
}

/// Which policies a decision is by.
#[derive(Debug)]
pub struct By {
    in_force: Arc<InForce>,
    is_canary: bool,
    /// How many of the overlays were asked.
    asked: usize,
}

impl By {
    fn stack(&self) -> &Arc<Stack> {
        match &self.in_force.canary {
            Some(canary) if self.is_canary => &canary.stack,
            _ => &self.in_force.stable,
        }
    }

    /// Returns the digest of the policy that the overlays stand on.
    pub fn policy(&self) -> Digest {
        self.stack().policy().digest()
    }

    /// Returns the digests of the overlays that were asked, in their order. Where
    /// the policy has allowed and the answer is a refusal, it is that of the last.
    pub fn asked_overlays(&self) -> Vec<Digest> {
        self.stack().overlays()[..self.asked].iter().map(|overlay| overlay.digest()).collect()
    }
}

/// Decides requests. One for a host.
pub struct Decider {
    active: Arc<ActivePolicy>,
    cache: Arc<Cache>,
}

/// A request that is being decided about.
struct Opened {
    key: Option<Arc<Key>>,
    by: By,
    start: Instant,
}

impl Decider {
    /// Makes one that asks what is in force.
    pub fn new(active: Arc<ActivePolicy>, cache: Arc<Cache>) -> Self {
        Self { active, cache }
    }

    /// Decides about a request, which presents the secret with this digest.
    ///
    /// # Errors
    ///
    /// If there is no decision.
    pub async fn decide(
        &self,
        request: &Request<'_>,
        presented: Option<Digest>,
    ) -> Result<Decided<Decision>, DecideError> {
        let Opened { key, mut by, start } = self.open(presented).await?;
        let mut facts = Facts::default();
        let stack = by.stack();
        let known = Reads::Kept(&self.cache);
        let decided = decide_by(stack, request, key.as_deref(), &mut facts, known).await;
        let outcome = match &decided {
            Ok((decision, _)) => {
                stack.health.decided(matches!(decision, Decision::Allow(_)));
                Some(Ok(decision))
            }
            Err(err) => err.guilty().map(|policy| {
                if stack.health.failed(policy, key.as_deref(), request.now) {
                    self.active.bell().ring();
                }
                Err(err.name())
            }),
        };
        let took_us = micros_since(start);
        if let (Some(shadow), Some(outcome)) = (&by.in_force.shadow, outcome)
            && !by.is_canary
            && shadow.wants()
        {
            shadow.take(request, key.clone(), facts, outcome);
        }
        let (answer, asked) = decided?;
        by.asked = asked;
        Ok(Decided { answer, by, key, took_us })
    }

    /// Decides as [`decide`](Self::decide) does, and says which rules were asked.
    ///
    /// # Errors
    ///
    /// If there is no decision.
    pub async fn explain(
        &self,
        request: &Request<'_>,
        presented: Option<Digest>,
    ) -> Result<Decided<Explanation>, DecideError> {
        let Opened { key, mut by, start } = self.open(presented).await?;
        let mut facts = Facts::default();
        let known = Reads::Kept(&self.cache);
        // What fails here has failed no request: it is not counted.
        let (answer, asked) =
            explain_by(by.stack(), request, key.as_deref(), &mut facts, known).await?;
        by.asked = asked;
        let took_us = micros_since(start);
        Ok(Decided { answer, by, key, took_us })
    }

    /// Reads the presented key, and chooses what decides.
    async fn open(&self, presented: Option<Digest>) -> Result<Opened, DecideError> {
        let start = Instant::now();
        let in_force = self.active.in_force();
        let key = match presented {
            None => None,
            Some(digest) => match self.cache.known_key(digest) {
                Some(known) => known,
                // Boxed, like every way that few requests take: the future of the
                // others stays small, and is copied into place faster.
                None => Box::pin(self.cache.key(digest)).await?,
            },
        };
        let (_, is_canary) = in_force.stack_for(key.as_deref());
        Ok(Opened { key, by: By { in_force, is_canary, asked: 0 }, start })
    }
}

fn micros_since(start: Instant) -> u32 {
    u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX)
}

/// Decides by a stack: its policy, and then, as long as nobody refuses, one
/// overlay after the other. Also returns how many overlays were asked.
///
/// `key` is the one that the presented secret belongs to; `reads` has what a run
/// has lacked.
///
/// # Errors
///
/// If one of them gives no decision, or one that cannot be true.
pub(crate) async fn decide_by(
    stack: &Stack,
    request: &Request<'_>,
    key: Option<&Key>,
    facts: &mut Facts,
    reads: Reads<'_>,
) -> Result<(Decision, usize), DecideError> {
    let policy = stack.policy();
    let decision = run(policy, facts, |facts| policy.authorize(request, key, facts), reads).await?;
    checked(policy, &decision, key)?;
    match decision {
        Decision::Allow(_) if !stack.overlays().is_empty() => {
            // Boxed: few hosts have any.
            Box::pin(narrowed(stack, decision, request, key, facts, reads)).await
        }
        decision => Ok((decision, 0)),
    }
}

/// Asks the overlays about a request that the policy allows.
async fn narrowed(
    stack: &Stack,
    mut decision: Decision,
    request: &Request<'_>,
    key: Option<&Key>,
    facts: &mut Facts,
    reads: Reads<'_>,
) -> Result<(Decision, usize), DecideError> {
    let overlays = stack.overlays();
    for (place, overlay) in overlays.iter().enumerate() {
        let said =
            run(overlay, facts, |facts| overlay.authorize(request, key, facts), reads).await?;
        checked(overlay, &said, key)?;
        match (said, &mut decision) {
            // What it grants is the policy's to say. Its sentences for the caller
            // are passed on.
            (Decision::Allow(said), Decision::Allow(grant)) => grant.notices.extend(said.notices),
            (Decision::Deny(mut denial), Decision::Allow(grant)) => {
                // It may not know what the catalogue calls the endpoint.
                denial.endpoint = denial.endpoint.or_else(|| grant.endpoint.take());
                return Ok((Decision::Deny(denial), place + 1));
            }
            (_, Decision::Deny(_)) => {}
        }
    }
    Ok((decision, overlays.len()))
}

/// Decides as [`decide_by`] does, and says how. Each overlay that was asked is a
/// step.
async fn explain_by(
    stack: &Stack,
    request: &Request<'_>,
    key: Option<&Key>,
    facts: &mut Facts,
    reads: Reads<'_>,
) -> Result<(Explanation, usize), DecideError> {
    let policy = stack.policy();
    let explained = run(policy, facts, |facts| policy.explain(request, key, facts), reads).await?;
    let Explanation { decision, mut steps } = explained;
    checked(policy, &decision, key)?;
    if matches!(decision, Decision::Deny(_)) {
        return Ok((Explanation { decision, steps }, 0));
    }
    let (decision, asked) = narrowed(stack, decision, request, key, facts, reads).await?;
    let is_denied = matches!(decision, Decision::Deny(_));
    for (place, overlay) in stack.overlays()[..asked].iter().enumerate() {
        steps.push(Step {
            rule: "overlay".to_owned(),
            passed: !(is_denied && place + 1 == asked),
            detail: overlay.digest().to_hex(),
        });
    }
    Ok((Explanation { decision, steps }, asked))
}

/// Runs a policy until it lacks nothing.
async fn run<T>(
    policy: &Policy,
    facts: &mut Facts,
    ask: impl Fn(Facts) -> (Facts, Result<Run<T>, EngineError>),
    reads: Reads<'_>,
) -> Result<T, DecideError> {
    for _ in 0..MAX_RUNS {
        let (read_by_now, answer) = ask(std::mem::take(facts));
        *facts = read_by_now;
        let policy = policy.digest();
        match answer.map_err(|source| DecideError::Engine { policy, source })? {
            Run::Done(answer) => return Ok(answer),
            Run::Unread(unread) => match Box::pin(reads.read(unread, facts)).await {
                Ok(()) => {}
                Err(ReadError::TooMuch) => return Err(DecideError::Insatiable { policy }),
                Err(ReadError::Storage(err)) => return Err(err.into()),
            },
        }
    }
    Err(DecideError::Insatiable { policy: policy.digest() })
}

/// Why what a run has lacked was not read.
enum ReadError {
    /// It is more than a decision may read.
    TooMuch,
    Storage(StorageError),
}

impl From<StorageError> for ReadError {
    fn from(err: StorageError) -> Self {
        Self::Storage(err)
    }
}

/// Where a decision reads what it lacks.
#[derive(Clone, Copy)]
pub(crate) enum Reads<'a> {
    /// What the host has at hand, or fetches.
    Kept(&'a Cache),
    /// Storage itself, past the cache: for who must hold nothing that a request
    /// waits for.
    Storage(&'a dyn Storage),
    /// Nothing but these accounts: there is no other.
    Only(&'a [Account]),
}

impl Reads<'_> {
    /// Adds to the facts what a run has lacked.
    async fn read(self, unread: Unread, facts: &mut Facts) -> Result<(), ReadError> {
        let Unread(mut ids) = unread;
        ids.retain(|id| facts.account(id).is_none());
        ids.sort_unstable();
        ids.dedup();
        room_for(ids.len(), facts)?;
        for id in ids {
            let account = match self {
                Self::Kept(cache) => cache.account(&id).await?,
                Self::Storage(storage) => {
                    let found = storage.find_accounts(vec![id.clone()]).await?;
                    let found = found.into_iter().next().flatten();
                    found.map(|account| Arc::new(account.into()))
                }
                Self::Only(accounts) => {
                    let account = accounts.iter().find(|account| account.id == id);
                    account.cloned().map(Arc::new)
                }
            };
            facts.add_account(id, account);
        }
        Ok(())
    }
}

fn room_for(more: usize, facts: &Facts) -> Result<(), ReadError> {
    if facts.len() + more > MAX_IDS { Err(ReadError::TooMuch) } else { Ok(()) }
}

/// [`check`]s what a policy has decided.
fn checked(policy: &Policy, decision: &Decision, key: Option<&Key>) -> Result<(), DecideError> {
    check(decision, key).map_err(|source| DecideError::Engine { policy: policy.digest(), source })
}

/// Refuses an answer that cannot be true.
///
/// No rule: a net below the policy. Whatever it says, nobody is let through as
/// a key other than the one whose secret they presented, or into its other
/// mode.
pub(crate) fn check(decision: &Decision, key: Option<&Key>) -> Result<(), EngineError> {
    let Decision::Allow(grant) = decision else { return Ok(()) };
    match key {
        Some(key) if key.id == grant.key && key.mode == grant.mode => {}
        Some(_) => return Err(EngineError::Garbage("it let the request through as another key")),
        None => return Err(EngineError::Garbage("it let a request through without a key")),
    }
    // Names and values become HTTP headers for the upstream.
    let plain = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let name = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    // Headers of these names are the host's own word on who is calling.
    let ours = |text: &str| matches!(text, "key" | "account" | "mode" | "permissions");
    let attributes =
        grant.attributes.iter().all(|(key, value)| name(key) && !ours(key) && plain(value));
    if !attributes || !plain(&grant.account) || !plain(&grant.permissions) {
        return Err(EngineError::Garbage("it holds what does not pass in a header"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever can slow a host down, or its storage, must not choose its rules by
    /// it.
    #[test]
    fn to_be_slow_is_no_fault_of_a_policy() {
        let policy = Digest::of("a policy");
        let trapped = || wasmtime::Error::msg("unreachable");
        for (source, guilty) in [
            (EngineError::OutOfTime, true),
            (EngineError::Trapped(trapped()), true),
            (EngineError::Garbage("nonsense"), true),
            (EngineError::Starved, false),
            (EngineError::Missing("explain"), false),
        ] {
            let err = DecideError::Engine { policy, source };
            assert_eq!(err.guilty(), guilty.then_some(policy), "{}", err.name());
        }
        assert_eq!(DecideError::Insatiable { policy }.guilty(), Some(policy));
        let late = StorageError::Unavailable("the read took too long".into());
        assert_eq!(DecideError::from(late).guilty(), None);
    }
}
