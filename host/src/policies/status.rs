//! What is shown of what is in force.

use serde_json::{Value, json};

use super::Policies;
use crate::{error::ApiError, keys::timestamp, secret::Digest, stack::Stack};

impl Policies {
    /// Returns what is in force, and how it has fared since.
    ///
    /// # Errors
    ///
    /// If storage failed.
    pub async fn in_force(&self) -> Result<Value, ApiError> {
        // While nobody puts another in force: what is, and since when, belong together.
        let _activating = self.activating.lock().await;
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
