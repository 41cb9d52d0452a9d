//! Policies that decide beside what is in force, what is shown of that, and of what
//! is in force.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Policies;
use crate::{
    error::ApiError,
    keys::{Ask, timestamp},
    secret::Digest,
    shadow::Shadow,
    share::Share,
    stack::{InForce, Stack},
};

impl Policies {
    /// Has a policy decide beside what is in force, about a share of the requests.
    /// It takes the place of another that does.
    ///
    /// # Errors
    ///
    /// If it is in force, retired, not to be trusted, or fails.
    pub async fn shadow(&self, ask: &Ask, name: &str, share: Share) -> Result<Value, ApiError> {
        const ACTION: &str = "policy.shadow";
        self.keys
            .audited(ask, ACTION, Some(name), async {
                let _activating = self.activating.lock().await;
                let record = self.named(name).await?.record;
                let in_force = self.active.in_force();
                if record.digest == in_force.stable.policy().digest() {
                    let message = "this policy is in force: it would be compared with itself";
                    return Err(ApiError::Conflict(message.to_owned()));
                }
                if record.retired_at.is_some() {
                    return Err(ApiError::Conflict("this policy was retired".to_owned()));
                }
                let (_, policy) = self.compiled_policy(record.digest).await?;
                let stack = Arc::new(Stack::new(policy, in_force.stable.overlays().to_vec()));
                let (now, cache) = (self.clock.now(), Arc::clone(&self.cache));
                let shadow = Shadow::start(stack, share, now, cache)
                    .map_err(|err| ApiError::Unavailable(err.into()))?;
                let told = json!({ "percent": share.percent() });
                let target = record.digest.to_hex();
                self.note(ask, ACTION, &target, told, &shadow.to_json()).await?;
                let shown = shadow.to_json();
                self.put_shadow(Some(Arc::new(shadow)));
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
                self.put_shadow(None);
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

    /// To be called with `activating` held.
    fn put_shadow(&self, shadow: Option<Arc<Shadow>>) {
        let in_force = InForce::clone(&self.active.in_force());
        self.active.put(InForce { shadow, ..in_force });
    }

    /// Returns what is in force, and how it has fared since.
    ///
    /// # Errors
    ///
    /// If storage failed.
    pub async fn in_force(&self) -> Result<Value, ApiError> {
        let in_force = self.active.in_force();
        // With a pinned policy, what is stored is not what is in force.
        let last = if self.is_pinned { None } else { self.last().await? };
        let last = last.as_ref();
        let canary = in_force.canary.as_ref().map(|canary| {
            json!({
                "policy": canary.stack.policy().digest().to_hex(),
                "percent": canary.share.percent(),
                "by": canary.by.as_str(),
                "decisions": decisions(&canary.stack),
            })
        });
        let shadow = in_force.shadow.as_ref();
        let stable = &in_force.stable;
        Ok(json!({
            "object": "policy_in_force",
            "policy": stable.policy().digest().to_hex(),
            "overlays": stable.overlay_digests().iter().map(Digest::to_hex).collect::<Vec<_>>(),
            "decisions": decisions(stable),
            "canary": canary,
            "shadow": shadow.map(|shadow| shadow.stack().policy().digest().to_hex()),
            "number": last.map(|last| last.number),
            "since": last.map(|last| timestamp(last.at)),
            "actor": last.map(|last| last.actor.as_str()),
            "reason": last.map(|last| last.reason.as_str()),
            "min_revision": last.map(|last| last.min_revision),
        }))
    }
}

fn decisions(stack: &Stack) -> Value {
    let [allowed, denied, failed] = stack.health.counts();
    json!({ "allowed": allowed, "denied": denied, "failed": failed })
}

fn no_shadow() -> ApiError {
    ApiError::Conflict("there is no shadow".to_owned())
}
