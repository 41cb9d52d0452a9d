//! Carrying out what was planned: confirmed, stored with its audit entries and
//! its kept reply in one change, and forgotten by the caches.

use serde_json::{Value, json};

use super::{
    Keys,
    ask::{Actor, Ask},
    journal,
    operations::{Done, Planned},
};
use crate::{
    engine::contract::lifecycle::KeyPlan,
    error::ApiError,
    secret::{Digest, Secret, mint_id},
    storage::{Change, Ipv4Network, KeptReply, KeyRecord, StorageError},
    verification::Operation,
};

impl Keys {
    pub(super) async fn store_changed(
        &self,
        ask: &Ask,
        action: &str,
        before: &KeyRecord,
        planned: Planned,
    ) -> Result<Done, ApiError> {
        let Planned { changed, made, .. } = planned;
        let at_ms = self.clock.now_ms();
        let after = KeyRecord { revision: changed.revision + 1, ..changed.clone() };
        let mut audit = vec![journal::done(ask, at_ms, action, Some(before), &after)];
        let (answer, secret, new_keys) = match made {
            Some((made, secret)) => {
                audit.push(journal::done(ask, at_ms, "api_key.created", None, &made));
                (made.clone(), Some(secret), vec![made])
            }
            None => (after, None, Vec::new()),
        };
        let reply = self.reply(ask, 200, &answer, secret.is_some())?;
        self.commit(Change {
            changed_keys: vec![changed],
            new_keys,
            audit,
            reply,
            ..Change::default()
        })
        .await?;
        Ok(Done { key: answer, secret })
    }

    pub(super) async fn store_new(
        &self,
        ask: &Ask,
        action: &str,
        key: KeyRecord,
        secret: Option<Secret>,
    ) -> Result<Done, ApiError> {
        let entry = journal::done(ask, self.clock.now_ms(), action, None, &key);
        let reply = self.reply(ask, 201, &key, secret.is_some())?;
        let change =
            Change { new_keys: vec![key.clone()], audit: vec![entry], reply, ..Change::default() };
        self.commit(change).await?;
        Ok(Done { key, secret })
    }

    /// Returns what a repeated request gets: the same answer without its secret.
    fn reply(
        &self,
        ask: &Ask,
        status: u16,
        key: &KeyRecord,
        showed_secret: bool,
    ) -> Result<Option<KeptReply>, ApiError> {
        // Also where nothing is kept: a policy that fails at showing the key must
        // do so before the change, and not when the only answer that holds the
        // secret is written.
        let mut body = json!(self.view(key, None)?);
        if showed_secret {
            body["secret_shown"] = Value::Bool(true);
        }
        Ok(self.kept(ask, status, body))
    }

    /// Returns an answer, which holds no secret, as it is kept for a repeated
    /// request.
    pub(crate) fn kept(&self, ask: &Ask, status: u16, body: Value) -> Option<KeptReply> {
        let idempotency = ask.idempotency.as_ref()?;
        Some(KeptReply {
            caller: ask.actor.name().to_owned(),
            idempotency_key: idempotency.key.clone(),
            request_digest: idempotency.request_digest,
            at: self.clock.now(),
            status,
            body: body.to_string(),
        })
    }

    /// Stores a change, and makes the caches forget what it changed.
    pub(crate) async fn commit(&self, change: Change) -> Result<(), ApiError> {
        let keys: Vec<(Digest, bool)> = change
            .new_keys
            .iter()
            .chain(&change.changed_keys)
            .map(|key| (key.digest, key.imported))
            .collect();
        let accounts: Vec<String> = change
            .new_accounts
            .iter()
            .map(|account| account.id.clone())
            .chain(change.memberships.iter().map(|(account, _)| account.clone()))
            .collect();
        let keeps_reply = change.reply.is_some();
        let stored = self.storage.commit(change, self.audit_key.clone()).await;
        // Also after an error: one that came after the commit, as when the disk
        // went away under the answer, must not leave the old key in force.
        for (digest, imported) in keys {
            if imported && stored.is_ok() {
                self.cache.imported(digest);
            }
            self.cache.key_changed(digest);
        }
        for account in accounts {
            self.cache.account_changed(&account);
        }
        match stored {
            // The same request was a moment faster. Its answer is kept.
            Err(StorageError::Exists { .. }) if keeps_reply => Err(ApiError::IdempotencyInUse),
            stored => Ok(stored?),
        }
    }

    /// Has a person confirm an operation, if it needs that.
    pub(super) async fn confirm(
        &self,
        ask: &Ask,
        needs_code: bool,
        phrase: impl FnOnce() -> String,
    ) -> Result<(), ApiError> {
        if !needs_code {
            return Ok(());
        }
        let caller = match &ask.actor {
            Actor::Operator => "the operator".to_owned(),
            Actor::Platform => "the host".to_owned(),
            Actor::Key(key) => format!("the key {}", key.id),
        };
        let operation = Operation::new(&caller, &phrase(), &ask.arguments);
        Ok(self.verifier.require(ask.verification.as_deref(), &operation).await?)
    }

    /// Does something, and tells the audit log if it is refused. What is done
    /// tells it itself, as a part of the change.
    pub(crate) async fn audited<T>(
        &self,
        ask: &Ask,
        action: &str,
        target: Option<&str>,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let result = work.await;
        if let Err(err) = &result
            && let Some(code) = err.refusal()
        {
            self.note_refusal(ask, action, target, &code).await;
        }
        result
    }

    /// Tells the audit log that something was refused. The refusal stands
    /// whether or not this could be written.
    pub(crate) async fn note_refusal(
        &self,
        ask: &Ask,
        action: &str,
        target: Option<&str>,
        code: &str,
    ) {
        let entry = journal::refused(ask, self.clock.now_ms(), action, target, code);
        if let Err(err) = self.commit(Change { audit: vec![entry], ..Change::default() }).await {
            tracing::error!(cause = %err, "a refusal was not written to the audit log");
        }
    }

    /// Adds to a plan what only the host can give.
    pub(super) fn carry_out(
        &self,
        plan: KeyPlan,
        now: u64,
    ) -> Result<(KeyRecord, Secret), ApiError> {
        if !crate::secret::is_prefix(&plan.prefix) {
            // Such a secret would not be recognised when it comes back.
            return Err(ApiError::Internal("the policy planned an impossible prefix".into()));
        }
        let secret = Secret::generate(self.brand.as_ref(), &plan.prefix);
        let is_revealable = plan.revealable;
        let mut key = KeyRecord {
            masked: secret.masked().as_str().to_owned(),
            digest: secret.digest(),
            ..record(plan, now)
        };
        if is_revealable {
            key.sealed_secret = Some(self.vault.seal(&key.id, &secret));
        }
        Ok((key, secret))
    }
}

/// Returns the record of a planned key, without what its secret gives it.
pub(super) fn record(plan: KeyPlan, now: u64) -> KeyRecord {
    KeyRecord {
        id: mint_id("key_"),
        account: plan.account,
        mode: plan.mode.into(),
        kind: plan.kind,
        origin: plan.origin,
        prefix: plan.prefix,
        masked: String::new(),
        digest: Digest::from_bytes([0; 32]),
        sealed_secret: None,
        name: plan.name,
        note: plan.note,
        permissions: plan.permissions,
        connect_permissions: plan.connect_permissions,
        ipv4_networks: plan.ipv4_nets.into_iter().map(Ipv4Network::from).collect(),
        created_at: now,
        ends_at: plan.ends_at,
        restored_at: None,
        money_moved_at: None,
        last_use: None,
        attributes: plan.attributes,
        imported: false,
        replaces: None,
        replaced_by: None,
        rotation: None,
        end_noted: false,
        revision: 1,
    }
}

/// Returns a key that ends at this time. If that is now, its end is seen to.
pub(super) fn ended(key: KeyRecord, ends_at: u64, now: u64) -> KeyRecord {
    let has_ended = now >= ends_at;
    KeyRecord {
        ends_at: Some(ends_at),
        sealed_secret: key.sealed_secret.filter(|_| !has_ended),
        end_noted: has_ended,
        ..key
    }
}
