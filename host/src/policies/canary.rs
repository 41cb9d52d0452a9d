//! Policies that decide for a share of the keys or accounts, beside the one that
//! decides for the others: how one begins, and how it ends without being in force
//! for all. To put it in force for all, or to go back from it, is in `activation`.

use super::{Listed, Policies, State, activation::Wanted, history::StackDigests};
use crate::{
    error::ApiError,
    keys::Ask,
    share::{CanaryBy, Share},
};

impl Policies {
    /// Has a policy decide for a share of the keys or accounts, on the overlays that
    /// there are. Once more with another share raises it, or lowers it.
    ///
    /// # Errors
    ///
    /// If it is in force for everybody, retired, older than what was in force, or
    /// fails.
    pub async fn canary(
        &self,
        ask: &Ask,
        name: &str,
        share: Share,
        by: CanaryBy,
    ) -> Result<Listed, ApiError> {
        const ACTION: &str = "policy.canary";
        self.keys
            .audited(ask, ACTION, Some(name), async {
                let mut highest = self.activating.lock().await;
                let canary = self.named(name).await?.record;
                let stored = self.stored().await?;
                if canary.digest == stored.policy {
                    let message = "this policy is in force for everybody";
                    return Err(ApiError::Conflict(message.to_owned()));
                }
                self.highest(&mut highest).await?.check(&stored, &canary, &[])?;
                let (policy, overlays) = self.stack_records(&stored).await?;
                let wanted = Wanted {
                    policy,
                    overlays,
                    canary: Some((canary.clone(), share, by)),
                    min_revision: self.last().await?.map_or(0, |last| last.min_revision),
                    reason: "canary",
                    action: ACTION,
                    breach: None,
                };
                let stable = self.put_in_force(ask, wanted, &mut highest).await?;
                let signed_by = self.trust.signer_of(&canary);
                Ok(Listed { record: canary, state: State::Canary, signed_by, ..stable })
            })
            .await
    }

    /// Ends a canary: what decides for the others decides for all. To put the canary
    /// in force for all is an activation.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub async fn end_canary(&self, ask: &Ask) -> Result<Listed, ApiError> {
        const ACTION: &str = "policy.canary_ended";
        self.keys
            .audited(ask, ACTION, None, async {
                let mut highest = self.activating.lock().await;
                let last = self.last().await?.filter(|last| last.canary.is_some());
                let none = || ApiError::Conflict("there is no canary".to_owned());
                let last = last.ok_or_else(none)?;
                let (policy, overlays) = self.stack_records(&StackDigests::of(&last)).await?;
                let wanted = Wanted {
                    policy,
                    overlays,
                    canary: None,
                    min_revision: last.min_revision,
                    reason: "canary ended",
                    action: ACTION,
                    breach: None,
                };
                self.put_in_force(ask, wanted, &mut highest).await
            })
            .await
    }
}
