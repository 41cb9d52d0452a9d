//! Policies that decide beside what is in force, and what is shown of that.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Policies, activation::check_overlays};
use crate::{error::ApiError, keys::Ask, shadow::Shadow, share::Share, stack::Stack};

impl Policies {
    /// Has a policy decide beside what is in force, about a share of the requests,
    /// with these overlays, or with those in force where that is `None`. It takes the
    /// place of another that does.
    ///
    /// # Errors
    ///
    /// If it is in force, retired, not to be trusted, or fails.
    pub async fn shadow(
        &self,
        ask: &Ask,
        name: &str,
        overlays: Option<&[String]>,
        share: Share,
    ) -> Result<Value, ApiError> {
        const ACTION: &str = "policy.shadow";
        self.keys
            .audited(ask, ACTION, Some(name), async {
                let record = self.named(name).await?.record;
                let in_force = self.active.in_force();
                let overlays = match overlays {
                    Some(names) => self.overlays_named(names).await?,
                    None => self.records(&in_force.stable.overlay_digests()).await?,
                };
                check_overlays(&record, None, &overlays)?;
                if std::iter::once(&record).chain(&overlays).any(|one| one.retired_at.is_some()) {
                    return Err(ApiError::Conflict("this policy was retired".to_owned()));
                }
                // Before others have to wait: it may take its time.
                let (_, policy) = self.compiled_policy(record.digest).await?;
                let mut compiled = Vec::new();
                for overlay in &overlays {
                    compiled.push(self.compiled_policy(overlay.digest).await?.1);
                }
                let stack = Arc::new(Stack::new(policy, compiled));
                let _activating = self.activating.lock().await;
                let stable = &self.active.in_force().stable;
                if stack.policy().digest() == stable.policy().digest()
                    && stack.overlay_digests() == stable.overlay_digests()
                {
                    let message = "this is in force: it would be compared with itself";
                    return Err(ApiError::Conflict(message.to_owned()));
                }
                let (now, storage) = (self.clock.now(), Arc::clone(&self.storage));
                let shadow = Shadow::start(stack, share, now, storage)
                    .map_err(|err| ApiError::Unavailable(err.into()))?;
                let shown = shadow.to_json();
                let told = json!({ "percent": share.percent(), "overlays": shown["overlays"] });
                self.note(ask, ACTION, &record.digest.to_hex(), told, &shown).await?;
                self.active.put_shadow(Some(Arc::new(shadow)));
                Ok(shown)
            })
            .await
    }

    /// Returns what came of the shadow so far.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn shadow_report(&self) -> Result<Value, ApiError> {
        let in_force = self.active.in_force();
        let shadow = in_force.shadow.as_ref().ok_or_else(no_shadow)?;
        Ok(shadow.to_json())
    }

    /// Ends the shadow, and returns what came of it.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub async fn end_shadow(&self, ask: &Ask) -> Result<Value, ApiError> {
        const ACTION: &str = "policy.shadow_ended";
        self.keys
            .audited(ask, ACTION, None, async {
                let _activating = self.activating.lock().await;
                let in_force = self.active.in_force();
                let shadow = in_force.shadow.as_ref().ok_or_else(no_shadow)?;
                let [agreed, disagreed, dropped, _] = shadow.counts();
                let told = json!({ "agreed": agreed, "disagreed": disagreed, "dropped": dropped });
                let target = shadow.stack().policy().digest().to_hex();
                let shown = shadow.to_json();
                self.note(ask, ACTION, &target, told, &shown).await?;
                self.active.put_shadow(None);
                Ok(shown)
            })
            .await
    }

    async fn note(
        &self,
        ask: &Ask,
        action: &str,
        target: &str,
        told: Value,
        answer: &Value,
    ) -> Result<(), ApiError> {
        let entry = self.keys.entry(ask, action, Some(target), None, Some(told));
        let change = crate::storage::Change {
            audit: vec![entry],
            reply: self.keys.kept(ask, 200, answer.clone()),
            ..Default::default()
        };
        self.keys.commit(change).await
    }
}

fn no_shadow() -> ApiError {
    ApiError::Conflict("there is no shadow".to_owned())
}
