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
        contract::{Credential, Decision, Key, Request, explain::Explanation},
    },
    facts::{Facts, MAX_IDS, Unread},
    secret::Digest,
    storage::StorageError,
};

/// How often a decision may run. The standard policy asks for all accounts at
/// once, so it needs two runs; the third is for policies that look something up
/// by what they looked up.
pub const MAX_RUNS: usize = 3;

/// Why there is no decision. The request is answered with an error, and never
/// let through.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// The policy failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Storage did not answer.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The policy still lacked something after [`MAX_RUNS`] runs, or asked for
    /// more than [`MAX_IDS`] ids.
    #[error("the policy asked for more than it may")]
    Insatiable,
}

/// A decision, and what it was made from.
#[derive(Debug)]
pub struct Decided<T> {
    /// The policy's answer.
    pub answer: T,
    /// The policy that gave it.
    pub policy: Arc<Policy>,
    /// The key that the presented secret belongs to.
    pub key: Option<Arc<Key>>,
    /// How long it took, reads of storage included, in microseconds.
    pub took_us: u32,
}

/// Decides requests. One for a host.
pub struct Decider {
    active: Arc<ActivePolicy>,
    cache: Arc<Cache>,
}

impl Decider {
    /// Makes one that asks the policy in force.
    pub fn new(active: Arc<ActivePolicy>, cache: Arc<Cache>) -> Self {
        Self { active, cache }
    }

    /// Decides about a request.
    ///
    /// # Errors
    ///
    /// If there is no decision.
    pub async fn decide(&self, request: &Request<'_>) -> Result<Decided<Decision>, DecideError> {
        let decided = self.run(request, |policy, facts| policy.authorize(request, facts)).await?;
        check(&decided.answer, decided.key.as_deref())?;
        Ok(decided)
    }

    /// Decides about a request, and says which rules were asked.
    ///
    /// # Errors
    ///
    /// If there is no decision.
    pub async fn explain(
        &self,
        request: &Request<'_>,
    ) -> Result<Decided<Explanation>, DecideError> {
        let decided = self.run(request, |policy, facts| policy.explain(request, facts)).await?;
        check(&decided.answer.decision, decided.key.as_deref())?;
        Ok(decided)
    }

    async fn run<T>(
        &self,
        request: &Request<'_>,
        ask: impl Fn(&Policy, Facts) -> (Facts, Result<Run<T>, EngineError>),
    ) -> Result<Decided<T>, DecideError> {
        let start = Instant::now();
        let policy = self.active.get();
        let mut facts = Facts::default();
        let presented = presented(request);
        if let Some(digest) = presented {
            // Boxed, like every way that few requests take: the future of the
            // others stays small, and is copied into place faster.
            let key = match self.cache.known_key(digest) {
                Some(known) => known,
                None => Box::pin(self.cache.key(digest)).await?,
            };
            facts.add_key(digest, key);
        }
        for _ in 0..MAX_RUNS {
            let (read, answer) = ask(&policy, facts);
            facts = read;
            match answer? {
                Run::Done(answer) => {
                    let key = presented.and_then(|digest| facts.key(digest)).flatten();
                    let took_us = u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX);
                    return Ok(Decided { answer, policy, key, took_us });
                }
                Run::Unread(unread) => Box::pin(self.read(unread, &mut facts)).await?,
            }
        }
        Err(DecideError::Insatiable)
    }

    async fn read(&self, unread: Unread, facts: &mut Facts) -> Result<(), DecideError> {
        match unread {
            Unread::Key(digest) => {
                room_for(1, facts)?;
                facts.add_key(digest, self.cache.key(digest).await?);
            }
            Unread::Accounts(mut ids) => {
                ids.retain(|id| facts.account(id).is_none());
                ids.sort_unstable();
                ids.dedup();
                room_for(ids.len(), facts)?;
                for id in ids {
                    let account = self.cache.account(&id).await?;
                    facts.add_account(id, account);
                }
            }
        }
        Ok(())
    }
}

fn presented(request: &Request<'_>) -> Option<Digest> {
    match &request.credential {
        Credential::WellFormed(well_formed) => Some(Digest::from_words(well_formed.digest)),
        Credential::Absent | Credential::Malformed(_) => None,
    }
}

fn room_for(more: usize, facts: &Facts) -> Result<(), DecideError> {
    if facts.len() + more > MAX_IDS { Err(DecideError::Insatiable) } else { Ok(()) }
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
