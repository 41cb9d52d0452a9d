//! What was in force, as the activations tell it.

use std::collections::HashMap;

use super::{FELL_BACK, ROLLED_BACK, standard};
use crate::{
    error::ApiError,
    secret::Digest,
    storage::{Activation, PolicyRecord, Storage, StorageResult},
};

/// A policy and the overlays on it, by their digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StackDigests {
    pub(super) policy: Digest,
    pub(super) overlays: Vec<Digest>,
}

impl StackDigests {
    /// What is in force where nothing was ever put there.
    pub(super) fn standard() -> Self {
        Self { policy: standard().digest, overlays: Vec::new() }
    }

    pub(super) fn of(activation: &Activation) -> Self {
        Self {
            policy: activation.policy.unwrap_or_else(|| standard().digest),
            overlays: activation.overlays.clone(),
        }
    }

    /// Returns the digests of all, the policy's first.
    pub(super) fn all(&self) -> impl Iterator<Item = Digest> {
        std::iter::once(self.policy).chain(self.overlays.iter().copied())
    }
}

/// The highest revisions that were in force: an older one is not put in force by
/// mistake. What is in force, stays so whatever its revision is.
#[derive(Clone, Debug, Default)]
pub(super) struct Highest {
    /// Of all policies that overlays can stand on, whatever they are called: each
    /// takes the place of the one before.
    policy: Option<u64>,
    /// Of overlays by their name: several are in force at a time.
    overlays: HashMap<String, u64>,
}

impl Highest {
    /// Looks it up in all that was ever in force.
    pub(super) async fn read(storage: &dyn Storage) -> StorageResult<Self> {
        let records = storage.list_policies().await?;
        let record = |digest: Digest| records.iter().find(|record| record.digest == digest);
        let mut highest = Self::default();
        for activation in storage.list_activations(usize::MAX).await? {
            let policy = activation.policy.and_then(record);
            let overlays: Vec<_> =
                activation.overlays.iter().filter_map(|&digest| record(digest).cloned()).collect();
            highest.note(policy, &overlays);
        }
        Ok(highest)
    }

    /// Notes what is put in force. The standard policy has no revision of its own.
    pub(super) fn note(&mut self, policy: Option<&PolicyRecord>, overlays: &[PolicyRecord]) {
        self.policy = self.policy.max(policy.map(|policy| policy.revision));
        for overlay in overlays {
            let highest = self.overlays.entry(overlay.name.clone()).or_default();
            *highest = (*highest).max(overlay.revision);
        }
    }

    /// Refuses what is older than what was in force already, unless it is in force or
    /// asked for as a rollback: an old release that is pushed again by mistake, or
    /// by somebody who knows what it lets through.
    pub(super) fn check(
        &self,
        in_force: &StackDigests,
        policy: &PolicyRecord,
        overlays: &[PolicyRecord],
    ) -> Result<(), ApiError> {
        let of_overlays =
            overlays.iter().map(|overlay| (overlay, self.overlays.get(&overlay.name).copied()));
        for (wanted, highest) in std::iter::once((policy, self.policy)).chain(of_overlays) {
            let PolicyRecord { digest, name, revision, .. } = wanted;
            if let Some(highest) = highest.filter(|highest| revision < highest)
                && !in_force.all().any(|one| one == *digest)
            {
                return Err(ApiError::Conflict(format!(
                    "revision {highest} was in force, and `{name}` is revision {revision}: to go \
                     back is a rollback"
                )));
            }
        }
        Ok(())
    }
}

/// Returns what there is to go back to from what is in force, the nearest first.
///
/// A stack: what was gone back from is gone, so that to go back twice goes back
/// two steps, and never forward to what was bad.
pub(super) fn ways_back(activations: &[Activation]) -> Vec<StackDigests> {
    let mut behind = vec![StackDigests::standard()];
    for one in activations.iter().rev() {
        let stack = StackDigests::of(one);
        let went_back = [ROLLED_BACK, FELL_BACK].contains(&&*one.reason);
        match behind.iter().rposition(|earlier| *earlier == stack) {
            Some(place) if went_back => behind.truncate(place + 1),
            Some(place) if place + 1 == behind.len() => {}
            None if went_back => {
                // It never was like this, as with other overlays: what was gone back
                // from is gone all the same.
                let same = behind.iter().rposition(|earlier| earlier.policy == stack.policy);
                // The standard policy is behind everything.
                let left = same.map_or(behind.len() - 1, |place| place + 1);
                behind.truncate(left.max(1));
                behind.push(stack);
            }
            _ => behind.push(stack),
        }
    }
    let in_force = behind.last().cloned();
    behind.retain(|stack| Some(stack) != in_force.as_ref());
    behind.reverse();
    behind
}

/// Returns how far back a host may fall from a stack, as the last activation says
/// that was about it; `None`: there was none.
pub(super) fn floor_of(activations: &[Activation], stack: &StackDigests) -> Option<u64> {
    let is_this = |activation: &&Activation| StackDigests::of(activation) == *stack;
    activations.iter().find(is_this).map(|activation| activation.min_revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the ways back from a history. Each entry is what was put in force,
    /// `-` the standard policy, with `+` between a policy and its overlays, and
    /// behind a colon the reason.
    #[track_caller]
    fn check(history: &[&str], expected: &[&str]) {
        let digest = |name: &str| (name != "-").then(|| Digest::of(name));
        let stack = |text: &str| {
            let mut names = text.split('+');
            let policy = digest(names.next().unwrap());
            (policy, names.map(Digest::of).collect::<Vec<_>>())
        };
        let mut activations: Vec<Activation> = history
            .iter()
            .zip(1..)
            .map(|(entry, number)| {
                let (text, reason) = entry.split_once(':').unwrap_or((entry, "activated"));
                let (policy, overlays) = stack(text);
                Activation {
                    number,
                    policy,
                    overlays,
                    canary: None,
                    min_revision: 0,
                    at: 0,
                    actor: "operator".to_owned(),
                    reason: reason.to_owned(),
                }
            })
            .collect();
        activations.reverse();
        let expected: Vec<_> = expected
            .iter()
            .map(|text| {
                let (policy, overlays) = stack(text);
                let policy = policy.unwrap_or_else(|| standard().digest);
                StackDigests { policy, overlays }
            })
            .collect();
        assert_eq!(ways_back(&activations), expected, "{history:?}");
    }

    #[test]
    fn to_go_back_twice_goes_back_two_steps() {
        check(&[], &[]);
        check(&["-"], &[]);
        check(&["a"], &["-"]);
        check(&["a", "b", "c"], &["b", "a", "-"]);
        check(&["a", "b", "c", "b:rolled back"], &["a", "-"]);
        check(&["a", "b", "c", "b:rolled back", "a:rolled back"], &["-"]);
        check(&["a", "b", "c", "b:fell back", "a:rolled back"], &["-"]);
        check(&["a", "b", "c", "a:fell back"], &["-"]);
        // The same again is no step.
        check(&["a", "a", "b", "b"], &["a", "-"]);
        // Put in force by somebody, what was gone back from is a step again.
        check(&["a", "b", "a:rolled back", "b"], &["a", "-"]);
        // To where it never was: not forward from there to what was left.
        check(&["a", "b:rolled back"], &["-"]);
        check(&["a:rolled back"], &["-"]);
        check(&["b", "c", "c+x", "b+x:rolled back"], &["b", "-"]);
        check(&["b", "c", "c+x", "b+x:rolled back", "b:fell back"], &["-"]);
        check(&["a", "b", "a"], &["b", "-"]);
    }

    #[test]
    fn a_stack_is_another_with_other_overlays() {
        check(&["a", "a+x", "a+x+y"], &["a+x", "a", "-"]);
        check(&["a+x+y", "a+y+x"], &["a+x+y", "-"]);
        check(&["a+x", "a", "a+x:rolled back"], &["-"]);
        check(&["-+x"], &["-"]);
    }

    #[test]
    fn a_canary_is_no_step() {
        check(&["a", "b", "b:canary", "b:canary", "b:canary ended"], &["a", "-"]);
    }
}
