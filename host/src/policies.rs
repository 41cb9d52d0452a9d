//! Policies that were pushed: kept, tried, put in force, and taken back.
//!
//! # Invariants
//!
//! - A policy is called by the SHA-256 of its bytes, so that what was tried is
//!   what is put in force.
//! - What [`Trust`] does not allow is neither kept nor put in force, and is not
//!   parsed to find out: not even where it is stored.
//! - A policy is tried before it is kept, and its bytes are read and it is tried
//!   again before it is put in force. What fails at any step leaves what is in
//!   force alone.
//! - What is in force is stored before it is in force, and by one at a time: the
//!   last row of the activations is what every restart comes back to. A host
//!   that cannot load that one does not start with another.
//! - What storage would come back to is never retired.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::{Mutex, Semaphore};

use self::{
    history::{Highest, StackDigests},
    loaded::Loaded,
};
use crate::{
    active_policy::{ActivePolicy, STANDARD_POLICY},
    clock::Clock,
    engine::{Engine, Policy},
    error::ApiError,
    keys::{Ask, Keys, timestamp},
    metrics::Metrics,
    secret::Digest,
    stack::Stack,
    storage::{Activation, Change, PolicyRecord, Storage},
    trial::cases,
    trust::{PolicyKey, Trust, TrustError},
};

mod activation;
mod canary;
mod history;
mod loaded;
mod shadowing;
mod status;

pub use self::activation::Activate;

/// The longest name or version, in characters.
const MAX_TEXT_CHARS: usize = 100;

/// How many pushed policies are loaded at once: a component of the largest size
/// takes a core for seconds, and requests need the others. What is put in force
/// does not wait for them: it may be the way back from a bad one.
const PUSHES_AT_ONCE: usize = 1;

/// The largest revision: what every backend can store.
pub(crate) const MAX_REVISION: u64 = i64::MAX.unsigned_abs();

/// Why a policy came back into force: somebody went back to it, or the host by
/// itself. Rolling back again reads it.
const ROLLED_BACK: &str = "rolled back";
const FELL_BACK: &str = "fell back";

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
    /// What somebody vouches with for these bytes, this name and this revision.
    pub signature: Option<[u8; 64]>,
    /// The component.
    pub bytes: Arc<[u8]>,
}

/// How a policy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It decides.
    Active,
    /// It decides for a share.
    Canary,
    /// It narrows what the one that decides allows.
    Overlay,
    /// It may be put in force.
    Ready,
    /// It may not.
    Retired,
}

impl State {
    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Canary => "canary",
            Self::Overlay => "overlay",
            Self::Ready => "ready",
            Self::Retired => "retired",
        }
    }
}

/// A policy, and how it stands.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The policy.
    pub record: PolicyRecord,
    /// How it stands.
    pub state: State,
    /// What stands on it, where it is in force.
    pub overlays: Vec<Digest>,
    /// Which of the keys that this host trusts has signed it.
    pub signed_by: Option<PolicyKey>,
    /// How many cases of its own it has passed, where it was just pushed and
    /// carries any.
    pub cases: Option<usize>,
}

impl Listed {
    /// Returns it as the management listener shows it.
    pub fn to_json(&self) -> Value {
        let record = &self.record;
        let mut shown = json!({
            "object": "policy",
            "digest": record.digest.to_hex(),
            "name": record.name,
            "version": record.version,
            "revision": record.revision,
            "state": self.state.as_str(),
            "overlays": self.overlays.iter().map(Digest::to_hex).collect::<Vec<_>>(),
            "interfaces": record.interfaces.split_whitespace().collect::<Vec<_>>(),
            "size_bytes": record.size_bytes,
            // The standard policy came with the host.
            "pushed": (record.pushed_at > 0).then(|| timestamp(record.pushed_at)),
            "pushed_by": record.pushed_by,
            "retired": record.retired_at.map(timestamp),
            "signed": record.signature.is_some(),
            "signed_by": self.signed_by.map(|key| key.to_string()),
        });
        if let Some(cases) = self.cases {
            shown["cases"] = cases.into();
        }
        shown
    }
}

/// What policies are kept and put in force with.
pub(crate) struct PoliciesParts {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) active: Arc<ActivePolicy>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    pub(crate) is_pinned: bool,
    pub(crate) trust: Trust,
    /// After failures for how many accounts the host goes back by itself.
    pub(crate) fall_back_after: Option<u32>,
}

/// Everything that can be done with policies.
pub struct Policies {
    storage: Arc<dyn Storage>,
    keys: Arc<Keys>,
    loaded: Loaded,
    active: Arc<ActivePolicy>,
    metrics: Arc<Metrics>,
    clock: Clock,
    /// Set where a file is in force, whatever storage says.
    is_pinned: bool,
    trust: Trust,
    /// Held from reading what is in force until another is: the order of the
    /// rows is the order of the swaps. In it the highest revisions, once they were
    /// asked for: they are not searched for in all the rows each time, and a row
    /// that is damaged does not keep a host from starting that has nothing to do
    /// with it.
    activating: Mutex<Option<Highest>>,
    pushing: Semaphore,
}

impl Policies {
    /// Makes it, and puts in force what storage says. With `is_pinned`, what the
    /// host was started with stays.
    ///
    /// # Errors
    ///
    /// If that cannot be loaded, or is not to be trusted. There is no second choice:
    /// another policy would be other rules.
    pub(crate) async fn start(parts: PoliciesParts) -> Result<Arc<Self>, ApiError> {
        let PoliciesParts {
            storage,
            keys,
            engine,
            active,
            metrics,
            clock,
            is_pinned,
            trust,
            fall_back_after,
        } = parts;
        let policies = Arc::new(Self {
            storage,
            keys,
            loaded: Loaded::new(engine),
            active,
            metrics,
            clock,
            is_pinned,
            trust,
            activating: Mutex::default(),
            pushing: Semaphore::new(PUSHES_AT_ONCE),
        });
        if !is_pinned {
            let put = match policies.last().await? {
                Some(last) => policies.put(&last).await,
                // Nothing ever was: what the host was made with is in force.
                None => {
                    let stack = &policies.active.in_force().stable;
                    let digests = stack.overlay_digests();
                    let checked = policies.trust.check_stack(stack.policy().digest(), 0, &digests);
                    checked.map_err(ApiError::from)
                }
            };
            put.map_err(|err| match err {
                ApiError::Untrusted(err) => TrustError::Stored(Box::new(err)).into(),
                err => err,
            })?;
        }
        policies.active.bell().answer(
            Arc::downgrade(&policies.active),
            Arc::downgrade(&policies),
            Arc::clone(&policies.metrics),
            fall_back_after,
        );
        Ok(policies)
    }

    /// Loads and tries a policy, and keeps it. It is not in force. One that is
    /// there already is returned as it is, unless it has no good signature and one
    /// comes with it, or one with another key: then it has that, and is called as
    /// was signed.
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
                check_revision("revision", wanted.revision)?;
                let PushPolicy { name, revision, signature, .. } = &wanted;
                self.trust.check_signature(digest, name, *revision, signature.as_ref())?;
                // Whoever pushes the same meanwhile waits here, and then finds it.
                let _permit = self.pushing.acquire().await.ok();
                if let Some(record) = self.kept(digest).await? {
                    let is_standard = record.digest == standard().digest;
                    let is_better = signature.as_ref().is_some_and(|signature| {
                        self.trust.is_better(&record, name, *revision, signature)
                    });
                    if is_standard || !is_better {
                        return Ok(self.listed(record));
                    }
                    return self.sign_kept(ask, ACTION, record, wanted).await;
                }
                let policy = self.load(Arc::clone(&wanted.bytes)).await?;
                let cases = cases::count(&policy);
                let record = PolicyRecord {
                    digest,
                    name: wanted.name,
                    version: wanted.version,
                    revision: wanted.revision,
                    interfaces: policy.interfaces().join(" "),
                    size_bytes: wanted.bytes.len() as u64,
                    pushed_at: self.clock.now(),
                    pushed_by: ask.actor.name().to_owned(),
                    signature: wanted.signature,
                    retired_at: None,
                };
                let after = json!({
                    "name": record.name,
                    "version": record.version,
                    "revision": record.revision,
                    "size_bytes": record.size_bytes,
                    "signed": record.signature.is_some(),
                    "cases": cases,
                });
                let entry = self.keys.entry(ask, ACTION, Some(&target), None, Some(after));
                let carried = Some(cases).filter(|&cases| cases > 0);
                let listed = Listed { cases: carried, ..self.listed(record.clone()) };
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

    /// Gives a policy that is there the signature that has come with the same
    /// bytes, and with it what was signed. It was tried when it was pushed, and is
    /// again before it is in force.
    async fn sign_kept(
        &self,
        ask: &Ask,
        action: &str,
        before: PolicyRecord,
        wanted: PushPolicy,
    ) -> Result<Listed, ApiError> {
        let PushPolicy { name, version, revision, signature, .. } = wanted;
        let target = before.digest.to_hex();
        let was = json!({ "revision": before.revision, "signed": before.signature.is_some() });
        let is = json!({ "name": name, "version": version, "revision": revision, "signed": true });
        let entry = self.keys.entry(ask, action, Some(&target), Some(was), Some(is));
        let record = PolicyRecord { name, version, revision, signature, ..before };
        let listed = self.listed(record.clone());
        let change = Change {
            signed_policies: vec![record],
            audit: vec![entry],
            reply: self.keys.kept(ask, 201, listed.to_json()),
            ..Change::default()
        };
        // What it was called may be the highest revision that was in force.
        let mut highest = self.activating.lock().await;
        self.keys.commit(change).await?;
        *highest = None;
        Ok(listed)
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
        let standard = standard();
        let (first, last) = match name {
            STANDARD => (standard.digest, standard.digest),
            start => digests_from(start).ok_or_else(missing)?,
        };
        // Two are enough to know that there is more than one.
        let mut found = self.storage.find_policies(first, last, 2).await?;
        let fits = (first.as_bytes()..=last.as_bytes()).contains(&standard.digest.as_bytes());
        if fits && found.iter().all(|record| record.digest != standard.digest) {
            found.push(standard);
        }
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (Some(record), None) => Ok(self.listed(record)),
            (Some(_), Some(_)) => Err(ApiError::Invalid {
                param: "digest".to_owned(),
                message: "several policies begin like this: give more of the digest".to_owned(),
            }),
            (None, _) => Err(missing()),
        }
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
                let last = self.last().await?;
                let is_stored = last.is_some_and(|last| {
                    let canary = last.canary.as_ref().and_then(|canary| canary.policy);
                    StackDigests::of(&last).all().chain(canary).any(|one| one == digest)
                });
                let decides =
                    matches!(listed.state, State::Active | State::Canary | State::Overlay);
                let shadow = self.active.in_force().shadow.clone();
                if shadow.is_some_and(|shadow| shadow.has(digest)) {
                    let message = "this policy is in the shadow: end that first";
                    return Err(ApiError::Conflict(message.to_owned()));
                }
                if decides || is_stored {
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

    /// Returns what was put in force last.
    async fn last(&self) -> Result<Option<Activation>, ApiError> {
        Ok(self.storage.list_activations(1).await?.into_iter().next())
    }

    /// Returns a policy that there is already; the standard one always is.
    async fn kept(&self, digest: Digest) -> Result<Option<PolicyRecord>, ApiError> {
        if let Some((record, _)) = self.storage.find_policy(digest).await? {
            return Ok(Some(record));
        }
        Ok(Some(standard()).filter(|standard| standard.digest == digest))
    }

    /// Compiles, checks and tries a component.
    async fn load(&self, bytes: Arc<[u8]>) -> Result<Arc<Policy>, ApiError> {
        self.loaded.load(bytes, self.clock.now()).await
    }

    fn listed(&self, record: PolicyRecord) -> Listed {
        let in_force = self.active.in_force();
        let is = |stack: &Stack| stack.policy().digest() == record.digest;
        let mut overlays = in_force.stable.overlays().iter();
        let state = if is(&in_force.stable) {
            State::Active
        } else if in_force.canary.as_ref().is_some_and(|canary| is(&canary.stack)) {
            State::Canary
        } else if overlays.any(|overlay| overlay.digest() == record.digest) {
            State::Overlay
        } else if record.retired_at.is_some() {
            State::Retired
        } else {
            State::Ready
        };
        let overlays = match state {
            State::Active | State::Canary => in_force.stable.overlay_digests(),
            State::Overlay | State::Ready | State::Retired => Vec::new(),
        };
        let signed_by = self.trust.signer_of(&record);
        Listed { record, state, overlays, signed_by, cases: None }
    }
}

/// The least of a digest that names a policy, in hexadecimal digits.
const MIN_DIGEST_CHARS: usize = 8;

/// Returns the first and the last digest that begin like this; `None` for what names
/// no policy.
fn digests_from(start: &str) -> Option<(Digest, Digest)> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if start.len() < MIN_DIGEST_CHARS || !start.bytes().all(is_digit) {
        return None;
    }
    Some((Digest::from_hex(&format!("{start:0<64}"))?, Digest::from_hex(&format!("{start:f<64}"))?))
}

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

/// Refuses a revision that not every backend can store.
fn check_revision(param: &str, revision: u64) -> Result<(), ApiError> {
    if revision <= MAX_REVISION {
        return Ok(());
    }
    let message = format!("use at most {MAX_REVISION}");
    Err(ApiError::Invalid { param: param.to_owned(), message })
}

/// Checks a name or a version.
pub(crate) fn check_text(param: &str, text: &str) -> Result<(), ApiError> {
    let fits = (1..=MAX_TEXT_CHARS).contains(&text.chars().count());
    if fits && text.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        return Ok(());
    }
    Err(ApiError::Invalid {
        param: param.to_owned(),
        message: format!("use 1 to {MAX_TEXT_CHARS} visible ASCII characters"),
    })
}
