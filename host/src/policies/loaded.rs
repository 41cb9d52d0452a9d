//! Policies that are compiled: read, checked and tried away from the threads that
//! requests run on.

use std::{
    collections::VecDeque,
    sync::{Arc, MutexGuard, PoisonError},
};

use crate::{
    engine::{Engine, LoadError, MAX_COMPONENT_BYTES, Policy},
    error::ApiError,
    secret::Digest,
    trial::{TrialError, try_policy},
};

/// How many policies stay compiled that were asked for lately: what was just
/// pushed, and a stack with its overlays to go back to, are in force at once, and
/// not after the time that compiling takes. Compiled, the standard policy has a few
/// megabytes.
const STAY_LOADED: usize = 8;

/// The policies that are compiled, and what compiles them.
pub(super) struct Loaded {
    engine: Arc<Engine>,
    /// What was asked for lately, the last one behind.
    latest: std::sync::Mutex<VecDeque<Arc<Policy>>>,
}

impl Loaded {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self { engine, latest: std::sync::Mutex::default() }
    }

    /// Compiles, checks and tries a component.
    pub(super) async fn load(&self, bytes: Arc<[u8]>, now: u64) -> Result<Arc<Policy>, ApiError> {
        if bytes.len() > MAX_COMPONENT_BYTES {
            return Err(LoadError::TooLarge(bytes.len()).into());
        }
        let digest = Digest::of_bytes(&bytes);
        let known = self.latest().iter().find(|one| one.digest() == digest).cloned();
        let policy = match known {
            Some(policy) => policy,
            None => {
                let engine = Arc::clone(&self.engine);
                let loaded = tokio::task::spawn_blocking(move || engine.load(&bytes)).await;
                Arc::new(loaded.map_err(|err| ApiError::Internal(err.into()))??)
            }
        };
        let policy = tried(policy, now).await?;
        let mut latest = self.latest();
        latest.retain(|one| one.digest() != digest);
        latest.push_back(Arc::clone(&policy));
        if latest.len() > STAY_LOADED {
            latest.pop_front();
        }
        Ok(policy)
    }

    fn latest(&self) -> MutexGuard<'_, VecDeque<Arc<Policy>>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tries a policy: it may spend its budget each time that it is asked.
pub(super) async fn tried(policy: Arc<Policy>, now: u64) -> Result<Arc<Policy>, ApiError> {
    let trial = tokio::task::spawn_blocking(move || try_policy(&policy, now).map(|_| policy));
    let tried = trial.await.map_err(|err| ApiError::Internal(err.into()))?;
    Ok(tried?)
}

impl From<TrialError> for ApiError {
    fn from(err: TrialError) -> Self {
        Self::PolicyRefused(err.to_string())
    }
}

impl From<LoadError> for ApiError {
    fn from(err: LoadError) -> Self {
        Self::PolicyRefused(err.to_string())
    }
}
