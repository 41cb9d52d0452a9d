//! Policies that were pushed: kept, tried, put in force, and taken back.
//!
//! # Invariants
//!
//! - A policy is called by the SHA-256 of its bytes, so that what was tried is
//!   what is put in force.
//! - A policy is tried before it is kept, and its bytes are read and it is tried
//!   again before it is put in force. What fails at any step leaves the one in
//!   force alone.
//! - What is in force is stored before it is in force, and by one at a time: the
//!   last row of the activations is what every restart comes back to. A host
//!   that cannot load that one does not start with another.
//! - What storage would come back to is never retired.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::{Mutex, Semaphore};

use crate::{
    active_policy::{ActivePolicy, STANDARD_POLICY},
    clock::Clock,
    engine::{Engine, LoadError, MAX_COMPONENT_BYTES, Policy},
    error::ApiError,
    keys::{Ask, Keys, timestamp},
    secret::Digest,
    storage::{Activation, Change, PolicyRecord, Storage},
    trial::{TrialError, try_policy},
};

/// The longest name or version, in characters.
const MAX_TEXT_CHARS: usize = 100;

/// How many pushed policies are loaded at once: a component of the largest size
/// takes a core for seconds, and requests need the others. What is put in force
/// does not wait for them: it may be the way back from a bad one.
const PUSHES_AT_ONCE: usize = 1;

/// How many policies stay compiled that are not in force: the one just pushed
/// and the one to go back to are in force at once, and not after the time that
/// compiling takes. Compiled, the standard policy has a few megabytes.
const STAY_LOADED: usize = 4;

/// The largest revision: what every backend can store.
const MAX_REVISION: u64 = i64::MAX.unsigned_abs();

/// Why a policy came back into force. Rolling back again reads it.
const ROLLED_BACK: &str = "rolled back";

/// What the standard policy is called instead of its digest.
pub const STANDARD: &str = "standard";

/// A policy that somebody pushes.
#[derive(Clone, Debug)]
pub struct PushPolicy {
    /// What to call it.
    pub name: String,
    /// Which version of that.
    pub version: String,
    /// Goes up with every release.
    pub revision: u64,
    /// The component.
    pub bytes: Arc<[u8]>,
}

/// A policy, and how it stands.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The policy.
    pub record: PolicyRecord,
    /// Whether it is in force.
    pub is_active: bool,
}

impl Listed {
    /// Returns it as the management listener shows it.
    pub fn to_json(&self) -> Value {
        let record = &self.record;
        let state = match (self.is_active, record.retired_at) {
            (true, _) => "active",
            (false, Some(_)) => "retired",
            (false, None) => "ready",
        };
        json!({
            "object": "policy",
            "digest": record.digest.to_hex(),
            "name": record.name,
            "version": record.version,
            "revision": record.revision,
            "state": state,
            "interfaces": record.interfaces.split_whitespace().collect::<Vec<_>>(),
            "size_bytes": record.size_bytes,
            // The standard policy came with the host.
            "pushed": (record.pushed_at > 0).then(|| timestamp(record.pushed_at)),
            "pushed_by": record.pushed_by,
            "retired": record.retired_at.map(timestamp),
        })
    }
}

/// The highest revision that was ever in force, once it was asked for: it is not
/// searched for in all the rows each time, and a row that is damaged does not
/// keep a host from starting that has nothing to do with it.
type Highest = Option<Option<u64>>;

/// Everything that can be done with policies.
pub struct Policies {
    storage: Arc<dyn Storage>,
    keys: Arc<Keys>,
    engine: Arc<Engine>,
    active: Arc<ActivePolicy>,
    clock: Clock,
    /// Set where a file is in force, whatever storage says.
    is_pinned: bool,
    /// Held from reading what is in force until another is: the order of the
    /// rows is the order of the swaps.
    activating: Mutex<Highest>,
    pushing: Semaphore,
    /// What was asked for lately, the last one behind.
    loaded: std::sync::Mutex<VecDeque<Arc<Policy>>>,
}

impl Policies {
    /// Makes it, and puts in force what storage says. With `is_pinned`, what the
    /// host was started with stays.
    ///
    /// # Errors
    ///
    /// If that cannot be loaded. There is no second choice: another policy would
    /// be other rules.
    pub async fn start(
        storage: Arc<dyn Storage>,
        keys: Arc<Keys>,
        engine: Arc<Engine>,
        active: Arc<ActivePolicy>,
        clock: Clock,
        is_pinned: bool,
    ) -> Result<Self, ApiError> {
        let policies = Self {
            storage,
            keys,
            engine,
            active,
            clock,
            is_pinned,
            activating: Mutex::default(),
            pushing: Semaphore::new(PUSHES_AT_ONCE),
            loaded: std::sync::Mutex::default(),
        };
        if !is_pinned && let Some(Activation { policy: Some(digest), .. }) = policies.last().await?
        {
            let found = policies.storage.find_policy(digest).await?;
            let missing = || ApiError::NotFound { what: "policy", id: digest.to_hex() };
            let (_, bytes) = found.ok_or_else(missing)?;
            policies.active.activate(policies.load(bytes).await?);
        }
        Ok(policies)
    }

    /// Loads and tries a policy, and keeps it. It is not in force. One that is
    /// there already is returned as it is.
    ///
    /// # Errors
    ///
    /// What is wrong with it; then nothing was kept.
    pub async fn push(&self, ask: &Ask, wanted: PushPolicy) -> Result<Listed, ApiError> {
        const ACTION: &str = "policy.pushed";
        let digest = Digest::of_bytes(&wanted.bytes);
        let target = digest.to_hex();
        self.keys
            .audited(ask, ACTION, Some(&target), async {
                check_text("name", &wanted.name)?;
                check_text("version", &wanted.version)?;
                if wanted.revision > MAX_REVISION {
                    return Err(ApiError::Invalid {
                        param: "revision".to_owned(),
                        message: format!("use at most {MAX_REVISION}"),
                    });
                }
                // Whoever pushes the same meanwhile waits here, and then finds it.
                let _permit = self.pushing.acquire().await.ok();
                if let Some(record) = self.kept(digest).await? {
                    return Ok(self.listed(record));
                }
                let policy = self.load(Arc::clone(&wanted.bytes)).await?;
                let record = PolicyRecord {
                    digest,
                    name: wanted.name,
                    version: wanted.version,
                    revision: wanted.revision,
                    interfaces: policy.interfaces().join(" "),
                    size_bytes: wanted.bytes.len() as u64,
                    pushed_at: self.clock.now(),
                    pushed_by: ask.actor.name().to_owned(),
                    signature: None,
                    retired_at: None,
                };
                let after = json!({
                    "name": record.name,
                    "version": record.version,
                    "revision": record.revision,
                    "size_bytes": record.size_bytes,
                });
                let entry = self.keys.entry(ask, ACTION, Some(&target), None, Some(after));
                let listed = self.listed(record.clone());
                let change = Change {
                    new_policies: vec![(record, wanted.bytes)],
                    audit: vec![entry],
                    reply: self.keys.kept(ask, 201, listed.to_json()),
                    ..Change::default()
                };
                self.keys.commit(change).await?;
                Ok(listed)
            })
            .await
    }

    /// Returns all policies, the newest first and the standard one last.
    ///
    /// # Errors
    ///
    /// If storage failed.
    pub async fn list(&self) -> Result<Vec<Listed>, ApiError> {
        let records = self.storage.list_policies().await?;
        let standard = standard();
        let has_standard = records.iter().any(|record| record.digest == standard.digest);
        let own = (!has_standard).then_some(standard);
        Ok(records.into_iter().chain(own).map(|record| self.listed(record)).collect())
    }

    /// Returns a policy by its digest, by the start of it, or as `standard`.
    ///
    /// # Errors
    ///
    /// If there is none, or more than one.
    pub async fn named(&self, name: &str) -> Result<Listed, ApiError> {
        let missing =
            || ApiError::NotFound { what: "policy", id: crate::scrub::scrub(name).into_owned() };
        let fits = |listed: &Listed| {
            let is_standard = listed.record.digest == standard().digest;
            match name {
                STANDARD => is_standard,
                start => {
                    start.len() >= MIN_DIGEST_CHARS
                        && listed.record.digest.to_hex().starts_with(start)
                }
            }
        };
        let mut found = self.list().await?.into_iter().filter(fits);
        match (found.next(), found.next()) {
            (Some(listed), None) => Ok(listed),
            (Some(_), Some(_)) => Err(ApiError::Invalid {
                param: "digest".to_owned(),
                message: "several policies begin like this: give more of the digest".to_owned(),
            }),
            (None, _) => Err(missing()),
        }
    }

    /// Puts a policy in force: every request that begins after this returns is
    /// decided by it, and those under way by the one that they began with.
    ///
    /// # Errors
    ///
    /// If it is retired, older than what was in force, or fails; then what is in
    /// force stays.
    pub async fn activate(&self, ask: &Ask, name: &str) -> Result<Listed, ApiError> {
        const ACTION: &str = "policy.activated";
        self.keys
            .audited(ask, ACTION, Some(name), async {
                let mut highest = self.activating.lock().await;
                let wanted = self.named(name).await?.record;
                let known = match *highest {
                    Some(known) => known,
                    None => *highest.insert(self.highest_revision().await?),
                };
                check_revision(wanted.revision, known)?;
                self.put_in_force(ask, ACTION, "activated", wanted, &mut highest).await
            })
            .await
    }

    /// Puts in force what was before, or the one named, even if it is older.
    ///
    /// # Errors
    ///
    /// If there is none, or it fails; then what is in force stays.
    pub async fn roll_back(&self, ask: &Ask, to: Option<&str>) -> Result<Listed, ApiError> {
        const ACTION: &str = "policy.rolled_back";
        self.keys
            .audited(ask, ACTION, to, async {
                let mut highest = self.activating.lock().await;
                let wanted = match to {
                    Some(name) => self.named(name).await?.record,
                    None => self.before().await?,
                };
                self.put_in_force(ask, ACTION, ROLLED_BACK, wanted, &mut highest).await
            })
            .await
    }

    /// Sees to it that a policy is never put in force again. Its bytes stay: the
    /// request log names it.
    ///
    /// # Errors
    ///
    /// If it is in force, or is the standard one, which is a part of the host.
    pub async fn retire(&self, ask: &Ask, name: &str) -> Result<Listed, ApiError> {
        const ACTION: &str = "policy.retired";
        self.keys
            .audited(ask, ACTION, Some(name), async {
                let _activating = self.activating.lock().await;
                let listed = self.named(name).await?;
                let digest = listed.record.digest;
                // With a pinned policy, another is in force than storage says.
                let stored = self.last().await?.and_then(|last| last.policy);
                if listed.is_active || stored == Some(digest) {
                    let message = "this policy is in force: put another one in force first";
                    return Err(ApiError::Conflict(message.to_owned()));
                }
                if digest == standard().digest {
                    let message = "the standard policy is a part of the host";
                    return Err(ApiError::Conflict(message.to_owned()));
                }
                if listed.record.retired_at.is_some() {
                    return Ok(listed);
                }
                let at = self.clock.now();
                let target = digest.to_hex();
                let entry = self.keys.entry(ask, ACTION, Some(&target), None, None);
                let retired = self.listed(PolicyRecord { retired_at: Some(at), ..listed.record });
                let change = Change {
                    retired_policies: vec![(digest, at)],
                    audit: vec![entry],
                    reply: self.keys.kept(ask, 200, retired.to_json()),
                    ..Change::default()
                };
                self.keys.commit(change).await?;
                Ok(retired)
            })
            .await
    }

    /// Reads, tries, stores and swaps, in this order.
    async fn put_in_force(
        &self,
        ask: &Ask,
        action: &str,
        reason: &str,
        wanted: PolicyRecord,
        highest: &mut Highest,
    ) -> Result<Listed, ApiError> {
        // To go back is allowed: it is the way out where what is stored as being in
        // force no longer loads, and a host starts with a file only. It is in force
        // from the next start without one.
        if self.is_pinned && reason != ROLLED_BACK {
            return Err(ApiError::Conflict(
                "this host was started with `--policy`, which is in force whatever is stored; \
                 start it without"
                    .to_owned(),
            ));
        }
        if wanted.retired_at.is_some() {
            return Err(ApiError::Conflict("this policy was retired".to_owned()));
        }
        let before = self.stored_as_active().await?;
        let stored = self.storage.find_policy(wanted.digest).await?;
        let (policy, loaded) = match stored {
            Some((_, bytes)) => (Some(wanted.digest), self.load(bytes).await?),
            None => (None, tried(self.active.standard(), self.clock.now()).await?),
        };
        let activation = Activation {
            number: self.last().await?.map_or(1, |last| last.number + 1),
            policy,
            overlays: Vec::new(),
            at: self.clock.now(),
            actor: ask.actor.name().to_owned(),
            reason: reason.to_owned(),
        };
        let entry = self.keys.entry(
            ask,
            action,
            Some(&wanted.digest.to_hex()),
            Some(json!({ "active": before.to_hex() })),
            Some(json!({ "active": wanted.digest.to_hex() })),
        );
        let digest = wanted.digest;
        let revision = wanted.revision;
        let listed = Listed { record: wanted, is_active: !self.is_pinned };
        let change = Change {
            activation: Some(activation.clone()),
            audit: vec![entry],
            // A rollback that is repeated because its answer was lost must not
            // go back again.
            reply: self.keys.kept(ask, 200, listed.to_json()),
            ..Change::default()
        };
        if let Err(err) = self.keys.commit(change).await {
            // One that came after the commit, as when the disk went away under
            // the answer, must not leave another in force than is stored.
            if self.last().await.ok().flatten() != Some(activation) {
                return Err(err);
            }
        }
        if !self.is_pinned {
            self.active.activate(loaded);
        }
        tracing::info!(policy = %digest.to_hex(), reason, "a policy was put in force");
        if let Some(highest) = highest {
            *highest = (*highest).max(policy.map(|_| revision));
        }
        Ok(listed)
    }

    /// Returns what is in force by what is stored; also where a file is instead.
    async fn stored_as_active(&self) -> Result<Digest, ApiError> {
        let last = self.last().await?.and_then(|last| last.policy);
        Ok(last.unwrap_or_else(|| standard().digest))
    }

    /// Returns what was put in force last.
    async fn last(&self) -> Result<Option<Activation>, ApiError> {
        Ok(self.storage.list_activations(1).await?.into_iter().next())
    }

    /// Returns the highest revision that was ever in force.
    async fn highest_revision(&self) -> Result<Option<u64>, ApiError> {
        let records = self.storage.list_policies().await?;
        let activations = self.storage.list_activations(usize::MAX).await?;
        let digests: HashSet<Digest> = activations.iter().filter_map(|one| one.policy).collect();
        let was_in_force = |record: &&PolicyRecord| digests.contains(&record.digest);
        Ok(records.iter().filter(was_in_force).map(|record| record.revision).max())
    }

    /// Returns what was in force before what is.
    async fn before(&self) -> Result<PolicyRecord, ApiError> {
        let standard = standard();
        let active = self.stored_as_active().await?;
        // All of them: the same one may have been put in force many times.
        let activations = self.storage.list_activations(usize::MAX).await?;
        // A stack: what was rolled back from is gone, so that to roll back twice
        // goes back two steps, and never forward to what was bad.
        let mut behind = vec![standard.digest];
        for one in activations.iter().rev() {
            let digest = one.policy.unwrap_or(standard.digest);
            match behind.iter().rposition(|earlier| *earlier == digest) {
                Some(place) if one.reason == ROLLED_BACK => behind.truncate(place + 1),
                Some(place) if place + 1 == behind.len() => {}
                _ => behind.push(digest),
            }
        }
        while let Some(digest) = behind.pop() {
            // Not even read: the one in force may be what is damaged.
            if digest == active {
                continue;
            }
            let record = match self.storage.find_policy(digest).await? {
                Some((record, _)) => record,
                None => standard.clone(),
            };
            if record.retired_at.is_none() {
                return Ok(record);
            }
        }
        Err(ApiError::Conflict("no other policy was in force before".to_owned()))
    }

    /// Returns a policy that there is already; the standard one always is.
    async fn kept(&self, digest: Digest) -> Result<Option<PolicyRecord>, ApiError> {
        if let Some((record, _)) = self.storage.find_policy(digest).await? {
            return Ok(Some(record));
        }
        Ok(Some(standard()).filter(|standard| standard.digest == digest))
    }

    /// Compiles, checks and tries a component, away from the threads that
    /// requests run on.
    async fn load(&self, bytes: Arc<[u8]>) -> Result<Arc<Policy>, ApiError> {
        if bytes.len() > MAX_COMPONENT_BYTES {
            return Err(LoadError::TooLarge(bytes.len()).into());
        }
        let now = self.clock.now();
        let digest = Digest::of_bytes(&bytes);
        let known = self.loaded().iter().find(|one| one.digest() == digest).cloned();
        let policy = match known {
            Some(policy) => policy,
            None => {
                let engine = Arc::clone(&self.engine);
                let loaded = tokio::task::spawn_blocking(move || engine.load(&bytes)).await;
                Arc::new(loaded.map_err(|err| ApiError::Internal(err.into()))??)
            }
        };
        let policy = tried(policy, now).await?;
        let mut loaded = self.loaded();
        loaded.retain(|one| one.digest() != digest);
        loaded.push_back(Arc::clone(&policy));
        if loaded.len() > STAY_LOADED {
            loaded.pop_front();
        }
        Ok(policy)
    }

    fn loaded(&self) -> MutexGuard<'_, VecDeque<Arc<Policy>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listed(&self, record: PolicyRecord) -> Listed {
        Listed { is_active: self.active.get().digest() == record.digest, record }
    }
}

/// The least of a digest that names a policy, in hexadecimal digits.
const MIN_DIGEST_CHARS: usize = 8;

/// The standard policy, as if it had been pushed.
fn standard() -> PolicyRecord {
    PolicyRecord {
        digest: Digest::of_bytes(STANDARD_POLICY),
        name: STANDARD.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: 0,
        interfaces: "authorizer lifecycle catalogue explain".to_owned(),
        size_bytes: STANDARD_POLICY.len() as u64,
        pushed_at: 0,
        pushed_by: "platform".to_owned(),
        signature: None,
        retired_at: None,
    }
}

/// Tries a policy, away from the threads that requests run on: it may spend its
/// budget each time that it is asked.
async fn tried(policy: Arc<Policy>, now: u64) -> Result<Arc<Policy>, ApiError> {
    let trial = tokio::task::spawn_blocking(move || try_policy(&policy, now).map(|()| policy));
    let tried = trial.await.map_err(|err| ApiError::Internal(err.into()))?;
    Ok(tried?)
}

/// Refuses what is older than what was in force already, unless it is asked for
/// as a rollback: an old release that is pushed again by mistake, or by somebody
/// who knows what it lets through.
fn check_revision(wanted: u64, highest: Option<u64>) -> Result<(), ApiError> {
    match highest {
        Some(highest) if wanted < highest => Err(ApiError::Conflict(format!(
            "revision {highest} was in force, and this is revision {wanted}: to go back is a \
             rollback"
        ))),
        _ => Ok(()),
    }
}

fn check_text(param: &str, text: &str) -> Result<(), ApiError> {
    let fits = (1..=MAX_TEXT_CHARS).contains(&text.chars().count());
    if fits && text.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        return Ok(());
    }
    Err(ApiError::Invalid {
        param: param.to_owned(),
        message: format!("use 1 to {MAX_TEXT_CHARS} visible ASCII characters"),
    })
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
