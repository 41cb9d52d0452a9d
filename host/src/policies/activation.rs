//! Putting policies in force, and going back: what is wanted is found, loaded,
//! tried, stored and swapped, whoever wants it and for how many.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{
    FELL_BACK, Listed, Policies, ROLLED_BACK, State, check_revision,
    history::{Highest, StackDigests, floor_of, ways_back},
    loaded::tried,
    standard,
};
use crate::{
    engine::Policy,
    error::ApiError,
    health::Breach,
    keys::{Actor, Ask},
    secret::Digest,
    share::{CanaryBy, Share},
    stack::{Canary, InForce, MAX_OVERLAYS, Stack},
    storage::{Activation, CanaryRecord, Change, PolicyRecord},
};

/// Why a policy came into force: somebody wanted it for all.
const ACTIVATED: &str = "activated";

/// What an overlay exports: what it said of the life of keys nobody would ask.
const OF_OVERLAYS: &str = "authorizer";

/// A policy that somebody wants in force.
#[derive(Clone, Debug, Default)]
pub struct Activate {
    /// Its name: its digest, the start of it, or `standard`.
    pub policy: String,
    /// What shall stand on it, in this order, by the same names. `None`: what
    /// stands there already, so that nobody takes it away by not thinking of it.
    pub overlays: Option<Vec<String>>,
    /// The lowest revision that the host may fall back to by itself from it. `None`:
    /// as it is for what is in force.
    pub min_revision: Option<u64>,
}

/// What is to be in force, found and not yet loaded.
pub(super) struct Wanted {
    pub(super) policy: PolicyRecord,
    pub(super) overlays: Vec<PolicyRecord>,
    pub(super) canary: Option<(PolicyRecord, Share, CanaryBy)>,
    pub(super) min_revision: u64,
    pub(super) reason: &'static str,
    pub(super) action: &'static str,
    /// Why the host does it by itself.
    pub(super) breach: Option<Breach>,
}

impl Wanted {
    fn stack(&self) -> StackDigests {
        digests(&self.policy, &self.overlays)
    }

    fn all(&self) -> impl Iterator<Item = &PolicyRecord> {
        let canary = self.canary.iter().map(|(policy, ..)| policy);
        std::iter::once(&self.policy).chain(&self.overlays).chain(canary)
    }

    /// Returns what the audit log is told of it.
    fn told(&self) -> Value {
        let mut told = told(
            &self.stack(),
            self.canary.as_ref().map(|(policy, share, by)| (policy.digest, *share, *by)),
        );
        if self.min_revision > 0 {
            told.insert("min_revision".to_owned(), self.min_revision.into());
        }
        if let Some(breach) = self.breach {
            told.insert("failed".to_owned(), breach.failed.into());
            told.insert("decided".to_owned(), breach.decided.into());
            told.insert("accounts".to_owned(), breach.owners.into());
        }
        Value::Object(told)
    }
}

/// A stack that is compiled.
struct Compiled {
    policy: Arc<Policy>,
    overlays: Vec<Arc<Policy>>,
    canary: Option<(Arc<Policy>, Share, CanaryBy)>,
}

impl Policies {
    /// Puts a policy in force: every request that begins after this returns is
    /// decided by it, and those under way by the one that they began with. A canary
    /// ends by that.
    ///
    /// # Errors
    ///
    /// If it is retired, older than what was in force, or fails; then what is in
    /// force stays.
    pub async fn activate(&self, ask: &Ask, wanted: Activate) -> Result<Listed, ApiError> {
        const ACTION: &str = "policy.activated";
        self.keys
            .audited(ask, ACTION, Some(&wanted.policy), async {
                check_revision("min_revision", wanted.min_revision.unwrap_or_default())?;
                let mut highest = self.activating.lock().await;
                let stored = self.stored().await?;
                let policy = self.named(&wanted.policy).await?.record;
                let overlays = match &wanted.overlays {
                    Some(names) => self.overlays_named(names).await?,
                    None => self.records(&stored.overlays).await?,
                };
                self.highest(&mut highest).await?.check(&stored, &policy, &overlays)?;
                let floor = self.last().await?.map_or(0, |last| last.min_revision);
                let wanted = Wanted {
                    policy,
                    overlays,
                    canary: None,
                    min_revision: wanted.min_revision.unwrap_or(floor),
                    reason: ACTIVATED,
                    action: ACTION,
                    breach: None,
                };
                self.put_in_force(ask, wanted, &mut highest).await
            })
            .await
    }

    /// Puts in force what was before, or the policy named, even if it is older; with
    /// one that is named, overlays stay. Where there is a canary, it is what is gone
    /// back from.
    ///
    /// # Errors
    ///
    /// If there is none, or it fails; then what is in force stays.
    pub async fn roll_back(&self, ask: &Ask, to: Option<&str>) -> Result<Listed, ApiError> {
        const ACTION: &str = "policy.rolled_back";
        self.keys
            .audited(ask, ACTION, to, async {
                let mut highest = self.activating.lock().await;
                let activations = self.storage.list_activations(usize::MAX).await?;
                let last = activations.first();
                let stored = last.map_or_else(StackDigests::standard, StackDigests::of);
                let (policy, overlays) = match to {
                    Some(name) => {
                        let overlays = self.records(&stored.overlays).await?;
                        (self.named(name).await?.record, overlays)
                    }
                    None => {
                        let has_canary = last.is_some_and(|last| last.canary.is_some());
                        // Else not even read: what is in force may be what is damaged.
                        let stable = has_canary.then(|| stored.clone()).into_iter();
                        self.first_usable(stable.chain(ways_back(&activations))).await?
                    }
                };
                let floor = last.map_or(0, |last| last.min_revision);
                let stack = digests(&policy, &overlays);
                let wanted = Wanted {
                    policy,
                    overlays,
                    canary: None,
                    min_revision: floor_of(&activations, &stack).unwrap_or(floor),
                    reason: ROLLED_BACK,
                    action: ACTION,
                    breach: None,
                };
                self.put_in_force(ask, wanted, &mut highest).await
            })
            .await
    }

    /// Goes back from a stack that fails: from a canary to what decides for the
    /// others, else to the nearest stack before it that loads, passes its trial, is
    /// not below the revision that the activation named, and takes no overlay away:
    /// that would widen.
    ///
    /// # Errors
    ///
    /// If there is none, or storage fails; then what is in force stays.
    pub(crate) async fn fall_back(
        &self,
        failing: &Arc<Stack>,
        breach: Breach,
    ) -> Result<(), ApiError> {
        const ACTION: &str = "policy.fell_back";
        let ask = Ask::by(Actor::Platform);
        let mut highest = self.activating.lock().await;
        if !self.active.has(failing) {
            // Somebody was faster.
            return Ok(());
        }
        let is_canary = !Arc::ptr_eq(&self.active.in_force().stable, failing);
        let activations = self.storage.list_activations(usize::MAX).await?;
        let last = activations.first();
        let floor = last.map_or(0, |last| last.min_revision);
        let stored = last.map_or_else(StackDigests::standard, StackDigests::of);
        let (_, narrowing) = self.stack_records(&stored).await?;
        let ways = match is_canary {
            true => vec![stored],
            false => ways_back(&activations),
        };
        let mut refused = None;
        for stack in ways {
            let (policy, overlays) = match self.usable(&stack).await {
                Ok(Some(usable)) => usable,
                Ok(None) => continue,
                Err(err @ ApiError::Unavailable(_)) => return Err(err),
                // Damaged, or not to be trusted: the one before that may be better.
                Err(err) => {
                    refused = Some(err);
                    continue;
                }
            };
            let stays = |overlay: &PolicyRecord| {
                let takes_its_place = |other: &PolicyRecord| {
                    other.digest == overlay.digest
                        || (other.name == overlay.name && other.revision >= overlay.revision)
                };
                overlays.iter().any(takes_its_place)
            };
            if !is_canary && (policy.revision < floor || !narrowing.iter().all(stays)) {
                continue;
            }
            let wanted = Wanted {
                policy,
                overlays,
                canary: None,
                min_revision: floor,
                reason: FELL_BACK,
                action: ACTION,
                breach: Some(breach),
            };
            match self.put_in_force(&ask, wanted, &mut highest).await {
                Ok(_) => {
                    self.metrics.fell_back();
                    return Ok(());
                }
                Err(err @ ApiError::PolicyRefused(_)) => refused = Some(err),
                Err(err) => return Err(err),
            }
        }
        Err(refused.unwrap_or_else(no_way_back))
    }

    /// Loads what was put in force last, and puts it in force.
    pub(super) async fn put(&self, last: &Activation) -> Result<(), ApiError> {
        let stack = StackDigests::of(last);
        let canary = last.canary.as_ref().map(|canary| {
            (canary.policy.unwrap_or_else(|| standard().digest), canary.share, canary.by)
        });
        let (_, compiled) = self.compiled(&stack, canary).await?;
        self.swap(compiled, false);
        Ok(())
    }

    /// Reads, tries, stores and swaps, in this order.
    pub(super) async fn put_in_force(
        &self,
        ask: &Ask,
        wanted: Wanted,
        highest: &mut Option<Highest>,
    ) -> Result<Listed, ApiError> {
        // To go back is allowed: it is the way out where what is stored as being in
        // force no longer loads, and a host starts with a file only. It is in force
        // from the next start without one.
        if self.is_pinned && wanted.reason != ROLLED_BACK {
            return Err(ApiError::Conflict(
                "this host was started with `--policy`, which is in force whatever is stored; \
                 start it without"
                    .to_owned(),
            ));
        }
        if wanted.all().any(|record| record.retired_at.is_some()) {
            return Err(ApiError::Conflict("this policy was retired".to_owned()));
        }
        let canary = wanted.canary.as_ref().map(|(canary, ..)| canary);
        check_overlays(&wanted.policy, canary, &wanted.overlays)?;
        let last = self.last().await?;
        let before = last.as_ref().map_or_else(StackDigests::standard, StackDigests::of);
        let before_canary = last.as_ref().and_then(|last| last.canary.clone());
        let canary = wanted.canary.as_ref().map(|(policy, share, by)| (policy.digest, *share, *by));
        let (stored, compiled) = self.compiled(&wanted.stack(), canary).await?;
        let activation = Activation {
            number: last.map_or(1, |last| last.number + 1),
            policy: stored.policy,
            overlays: wanted.stack().overlays,
            canary: canary.map(|(_, share, by)| CanaryRecord { policy: stored.canary, share, by }),
            min_revision: wanted.min_revision,
            at: self.clock.now(),
            actor: ask.actor.name().to_owned(),
            reason: wanted.reason.to_owned(),
        };
        let target = canary.map_or(wanted.policy.digest, |(digest, ..)| digest).to_hex();
        let before = told(
            &before,
            before_canary.map(|canary| {
                (canary.policy.unwrap_or_else(|| standard().digest), canary.share, canary.by)
            }),
        );
        let entry = self.keys.entry(
            ask,
            wanted.action,
            Some(&target),
            Some(Value::Object(before)),
            Some(wanted.told()),
        );
        let state = if self.is_pinned { State::Ready } else { State::Active };
        let overlays = wanted.stack().overlays;
        let signed_by = self.trust.signer_of(&wanted.policy);
        let record = wanted.policy.clone();
        let listed = Listed { record, state, overlays, signed_by, cases: None };
        let answer = match &wanted.canary {
            Some((canary, ..)) => {
                let (record, signed_by) = (canary.clone(), self.trust.signer_of(canary));
                Listed { record, state: State::Canary, signed_by, ..listed.clone() }.to_json()
            }
            None => listed.to_json(),
        };
        let change = Change {
            activation: Some(activation.clone()),
            audit: vec![entry],
            // A rollback that is repeated because its answer was lost must not
            // go back again.
            reply: self.keys.kept(ask, 200, answer),
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
            // What somebody activates is looked at anew, also where it is the same.
            self.swap(compiled, wanted.reason == ACTIVATED);
        }
        tracing::info!(policy = %target, reason = wanted.reason, "a policy was put in force");
        if let Some(highest) = highest {
            highest.note(stored.policy.map(|_| &wanted.policy), &wanted.overlays);
        }
        Ok(listed)
    }

    /// Compiles and tries a stack and its canary. Also returns what the activation
    /// is to name them: the standard policy, which is not stored, by nothing.
    async fn compiled(
        &self,
        stack: &StackDigests,
        canary: Option<(Digest, Share, CanaryBy)>,
    ) -> Result<(Stored, Compiled), ApiError> {
        self.check_trust(stack, canary.map(|(digest, ..)| digest)).await?;
        let (stored, policy) = self.compiled_policy(stack.policy).await?;
        let mut stored = Stored { policy: stored, canary: None };
        let mut overlays = Vec::new();
        for overlay in &stack.overlays {
            overlays.push(self.compiled_policy(*overlay).await?.1);
        }
        let canary = match canary {
            Some((digest, share, by)) => {
                let (digest, policy) = self.compiled_policy(digest).await?;
                stored.canary = digest;
                Some((policy, share, by))
            }
            None => None,
        };
        Ok((stored, Compiled { policy, overlays, canary }))
    }

    /// Refuses what the configuration does not allow, whatever is stored, before any
    /// of it is parsed.
    async fn check_trust(
        &self,
        stack: &StackDigests,
        canary: Option<Digest>,
    ) -> Result<(), ApiError> {
        let (policy, overlays) = self.stack_records(stack).await?;
        let canary = self.records(canary.as_slice()).await?;
        for policy in std::iter::once(&policy).chain(&canary) {
            self.trust.check(policy, &overlays)?;
        }
        Ok(())
    }

    /// Compiles and tries a policy that is to decide, or to be compared. Also returns
    /// by what an activation names it.
    pub(super) async fn compiled_policy(
        &self,
        digest: Digest,
    ) -> Result<(Option<Digest>, Arc<Policy>), ApiError> {
        match self.storage.find_policy(digest).await? {
            Some((record, bytes)) => {
                // Whatever was checked before: nothing that is stored is parsed without.
                self.trust.check_stored(&record)?;
                Ok((Some(digest), self.load(bytes).await?))
            }
            None if digest == standard().digest => {
                Ok((None, tried(self.active.standard(), self.clock.now()).await?))
            }
            None => Err(ApiError::NotFound { what: "policy", id: digest.to_hex() }),
        }
    }

    /// Puts in force what was loaded. To be called with `activating` held.
    fn swap(&self, compiled: Compiled, is_new: bool) {
        let before = self.active.in_force();
        let Compiled { policy, overlays, canary } = compiled;
        let stable = match is_new {
            true => Arc::new(Stack::new(policy, overlays.clone())),
            false => same_or_new(&before.stable, policy, overlays.clone()),
        };
        let canary = canary.map(|(policy, share, by)| {
            let before = before.canary.as_ref().map_or(&before.stable, |canary| &canary.stack);
            Canary { stack: same_or_new(before, policy, overlays), share, by }
        });
        // A shadow was compared with what is no longer in force.
        let shadow = before.shadow.clone().filter(|_| Arc::ptr_eq(&stable, &before.stable));
        self.active.put(InForce { stable, canary, shadow });
    }

    /// Returns what is in force for everybody by what is stored; also where a file
    /// is instead.
    pub(super) async fn stored(&self) -> Result<StackDigests, ApiError> {
        let last = self.last().await?;
        Ok(last.as_ref().map_or_else(StackDigests::standard, StackDigests::of))
    }

    pub(super) async fn highest<'a>(
        &self,
        highest: &'a mut Option<Highest>,
    ) -> Result<&'a mut Highest, ApiError> {
        match highest {
            Some(known) => Ok(known),
            None => Ok(highest.insert(Highest::read(&*self.storage).await?)),
        }
    }

    /// Returns the first of these stacks that may be put in force. None of those
    /// behind it is read.
    async fn first_usable(
        &self,
        stacks: impl Iterator<Item = StackDigests>,
    ) -> Result<(PolicyRecord, Vec<PolicyRecord>), ApiError> {
        let mut refused = None;
        for stack in stacks {
            match self.usable(&stack).await {
                Ok(Some(usable)) => return Ok(usable),
                Ok(None) => {}
                Err(ApiError::Untrusted(err)) => refused = refused.or(Some(err)),
                Err(err) => return Err(err),
            }
        }
        Err(refused.map_or_else(no_way_back, ApiError::from))
    }

    /// Returns the policies of a stack; `None` if one is retired.
    async fn usable(
        &self,
        stack: &StackDigests,
    ) -> Result<Option<(PolicyRecord, Vec<PolicyRecord>)>, ApiError> {
        let (policy, overlays) = self.stack_records(stack).await?;
        if std::iter::once(&policy).chain(&overlays).any(|record| record.retired_at.is_some()) {
            return Ok(None);
        }
        self.trust.check(&policy, &overlays)?;
        Ok(Some((policy, overlays)))
    }

    pub(super) async fn stack_records(
        &self,
        stack: &StackDigests,
    ) -> Result<(PolicyRecord, Vec<PolicyRecord>), ApiError> {
        let policy = self.records(&[stack.policy]).await?.remove(0);
        Ok((policy, self.records(&stack.overlays).await?))
    }

    pub(super) async fn records(&self, digests: &[Digest]) -> Result<Vec<PolicyRecord>, ApiError> {
        let mut records = Vec::new();
        for &digest in digests {
            let missing = || ApiError::NotFound { what: "policy", id: digest.to_hex() };
            records.push(self.kept(digest).await?.ok_or_else(missing)?);
        }
        Ok(records)
    }

    pub(super) async fn overlays_named(
        &self,
        names: &[String],
    ) -> Result<Vec<PolicyRecord>, ApiError> {
        let mut records = Vec::new();
        for name in names {
            records.push(self.named(name).await?.record);
        }
        Ok(records)
    }
}

/// By what an activation names its policies.
struct Stored {
    policy: Option<Digest>,
    canary: Option<Digest>,
}

fn digests(policy: &PolicyRecord, overlays: &[PolicyRecord]) -> StackDigests {
    let overlays = overlays.iter().map(|overlay| overlay.digest).collect();
    StackDigests { policy: policy.digest, overlays }
}

fn no_way_back() -> ApiError {
    ApiError::Conflict("no other policy was in force before".to_owned())
}

/// Keeps a stack that stays in force, with all that was counted of it.
fn same_or_new(before: &Arc<Stack>, policy: Arc<Policy>, overlays: Vec<Arc<Policy>>) -> Arc<Stack> {
    let digests: Vec<Digest> = overlays.iter().map(|overlay| overlay.digest()).collect();
    if before.policy().digest() == policy.digest() && before.overlay_digests() == digests {
        return Arc::clone(before);
    }
    Arc::new(Stack::new(policy, overlays))
}

/// Returns what the audit log is told of what is in force.
fn told(stack: &StackDigests, canary: Option<(Digest, Share, CanaryBy)>) -> Map<String, Value> {
    let mut told = Map::new();
    told.insert("active".to_owned(), stack.policy.to_hex().into());
    if !stack.overlays.is_empty() {
        let overlays = stack.overlays.iter().map(Digest::to_hex).collect();
        told.insert("overlays".to_owned(), overlays);
    }
    if let Some((policy, share, by)) = canary {
        let canary =
            json!({ "policy": policy.to_hex(), "percent": share.percent(), "by": by.as_str() });
        told.insert("canary".to_owned(), canary);
    }
    told
}

/// Refuses overlays that could not do what they are for.
pub(super) fn check_overlays(
    policy: &PolicyRecord,
    canary: Option<&PolicyRecord>,
    overlays: &[PolicyRecord],
) -> Result<(), ApiError> {
    let invalid =
        |message: String| Err(ApiError::Invalid { param: "overlays".to_owned(), message });
    if overlays.len() > MAX_OVERLAYS {
        return invalid(format!("at most {MAX_OVERLAYS} policies are stacked on another"));
    }
    for (place, overlay) in overlays.iter().enumerate() {
        let (digest, name) = (overlay.digest, &overlay.name);
        if overlay.interfaces != OF_OVERLAYS {
            return invalid(format!(
                "`{name}` exports more than `{OF_OVERLAYS}`, which nobody would ask an overlay for"
            ));
        }
        let others = std::iter::once(policy).chain(canary).chain(&overlays[..place]);
        if others.into_iter().any(|other| other.digest == digest) {
            return invalid(format!("`{name}` would be asked twice"));
        }
    }
    Ok(())
}
