//! What can be done with keys.
//!
//! Every operation has one shape: read the key, ask the policy for the plan,
//! have a person confirm it if the plan says so, store the outcome together with
//! its entry in the audit log, make the caches forget, answer. The key is stored
//! only if it is still the one that was read; otherwise all of it is done again.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Keys,
    ask::{Actor, Ask},
    journal,
    view::KeyView,
};
use crate::{
    engine::contract::{
        Denial,
        lifecycle::{
            KeyChange, KeyPlan, KeyRequest, RotationRequest, RotationSchedule as Schedule,
            StoredKey,
        },
    },
    error::ApiError,
    secret::{Digest, Secret, mint_id, prefix_of},
    storage::{Change, Ipv4Network, KeptReply, KeyRecord, Mode, RotationSchedule, StorageError},
    verification::Operation,
};

/// How often an operation is done again because somebody else changed the key
/// meanwhile. Each time somebody else has got on, so that more means a loop of
/// clients that fight over one key.
pub(super) const MAX_TRIES: usize = 5;

/// A key that somebody wants, as it comes over HTTP.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// The future owner; left out by a key, and where there is only one account.
    #[serde(default)]
    pub account: Option<String>,
    /// Live or test. Live has to be said.
    #[serde(default)]
    pub livemode: bool,
    /// `restricted`, `secret`, `publishable`, `organization` or `managed`.
    pub kind: String,
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// Where it will be kept.
    #[serde(default)]
    pub note: String,
    /// What it may do.
    #[serde(default)]
    pub permissions: Vec<String>,
    /// What it may do on connected accounts.
    #[serde(default)]
    pub connect_permissions: Vec<String>,
    /// From where it may be used: IPv4 addresses and networks.
    #[serde(default)]
    pub ip_allowlist: Vec<String>,
    /// When it shall end, as RFC 3339.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

/// A key whose secret was made elsewhere, as it comes over HTTP.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(from = "ImportFields")]
pub struct ImportKey {
    /// SHA-256 of the whole secret, in lower-case hexadecimal.
    pub digest: String,
    /// The secret as it may be shown: its readable start, asterisks, and at most
    /// four characters of its end.
    pub redacted: String,
    /// What it shall be.
    #[serde(flatten)]
    pub key: CreateKey,
}

/// The fields of an [`ImportKey`] as they are read, side by side: through
/// `flatten` serde does not know any more which of them was wrong.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportFields {
    digest: String,
    redacted: String,
    #[serde(default)]
    account: Option<String>,
    #[serde(default)]
    livemode: bool,
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    note: String,
    #[serde(default)]
    permissions: Vec<String>,
    #[serde(default)]
    connect_permissions: Vec<String>,
    #[serde(default)]
    ip_allowlist: Vec<String>,
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

impl From<ImportFields> for ImportKey {
    fn from(fields: ImportFields) -> Self {
        let ImportFields {
            digest,
            redacted,
            account,
            livemode,
            kind,
            name,
            note,
            permissions,
            connect_permissions,
            ip_allowlist,
            expires_at,
        } = fields;
        let key = CreateKey {
            account,
            livemode,
            kind,
            name,
            note,
            permissions,
            connect_permissions,
            ip_allowlist,
            expires_at,
        };
        Self { digest, redacted, key }
    }
}

/// What somebody wants changed, as it comes over HTTP. What is left out stays.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateKey {
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What it may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Vec<String>>,
    /// What it may do on connected accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_permissions: Option<Vec<String>>,
    /// From where it may be used. Empty: from everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_allowlist: Option<Vec<String>>,
}

/// How somebody wants a key rotated, as it comes over HTTP.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// How long the old key works beside its replacement, in minutes.
    #[serde(default)]
    pub expire_current_key_in_minutes: u32,
    /// The note of the replacement; left out: that of the old key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// When somebody wants a key rotated by the host, as it comes over HTTP.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleRotation {
    /// The first time, as RFC 3339.
    pub at: Timestamp,
    /// Again after this many days, and so on; left out: once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_days: Option<u32>,
    /// How long the old key works beside its replacement, in minutes.
    #[serde(default)]
    pub expire_current_key_in_minutes: u32,
}

/// What an operation left behind: the key that the answer is about, and its
/// secret if this is the moment to show it.
#[derive(Debug)]
pub struct Done {
    /// The key as it is stored now.
    pub key: KeyRecord,
    /// Its secret.
    pub secret: Option<Secret>,
}

/// What becomes of a key.
pub(super) struct Planned {
    /// The key as it shall be. Still at the revision that was read.
    changed: KeyRecord,
    /// The key that takes its place.
    made: Option<(KeyRecord, Secret)>,
    /// Whether a person has to confirm it first.
    needs_code: bool,
}

impl Planned {
    fn change(changed: KeyRecord) -> Self {
        Self { changed, made: None, needs_code: false }
    }
}

/// Why there is no plan: the policy's word, or that it has none.
pub(super) enum NoPlan {
    Denied(Denial),
    Failed(ApiError),
}

impl<E: Into<ApiError>> From<E> for NoPlan {
    fn from(err: E) -> Self {
        Self::Failed(err.into())
    }
}

impl Keys {
    /// Makes a key, and returns it with its secret.
    ///
    /// # Errors
    ///
    /// The policy's refusal; that a person has to confirm it; or that a part of
    /// the host failed, in which case no key was made.
    pub async fn create(&self, ask: &Ask, wanted: CreateKey) -> Result<Done, ApiError> {
        self.audited(ask, "api_key.created", None, async {
            let now = self.clock.now();
            let request =
                Request::new(self.owner_for(ask, wanted.account.clone()).await?, &wanted)?;
            let plan = self.policy.create(&ask.actor.caller(), &request.as_wit(), now)??;
            self.confirm(ask, plan.needs_code, || {
                let mode = if wanted.livemode { "live" } else { "test" };
                format!("create a {mode} {} key named '{}'", plan.kind, plan.name)
            })
            .await?;
            let _sealing = self.sealing.read().await;
            let (key, secret) = self.carry_out(plan, now)?;
            self.store_new(ask, "api_key.created", key, Some(secret)).await
        })
        .await
    }

    /// Takes in a key whose secret was made elsewhere.
    ///
    /// # Errors
    ///
    /// As with [`create`](Self::create).
    pub async fn import(&self, ask: &Ask, wanted: ImportKey) -> Result<Done, ApiError> {
        self.audited(ask, "api_key.imported", None, async {
            let now = self.clock.now();
            let invalid = |param: &str, message: &str| ApiError::Invalid {
                param: param.to_owned(),
                message: message.to_owned(),
            };
            let digest = Digest::from_hex(&wanted.digest).ok_or_else(|| {
                invalid("digest", "give the SHA-256 digest of the secret: 64 hexadecimal digits")
            })?;
            let redacted = &wanted.redacted;
            if !is_redacted(redacted) {
                return Err(invalid(
                    "redacted",
                    "give the secret's readable start, at least four asterisks, and at most its \
                     last four characters: 64 characters in all",
                ));
            }
            if let Some(there) = self.storage.find_key_by_digest(digest).await? {
                let id = there.id;
                return Err(ApiError::Conflict(format!("the key '{id}' has this secret already")));
            }
            let start = redacted.split('*').next().unwrap_or_default();
            let prefix = prefix_of(start, self.brand.as_ref());
            let owner = self.owner_for(ask, wanted.key.account.clone()).await?;
            let request = Request::new(owner, &wanted.key)?;
            let plan =
                self.policy.import_key(&ask.actor.caller(), &request.as_wit(), prefix, now)??;
            self.confirm(ask, plan.needs_code, || {
                format!("import a {} key named '{}'", plan.kind, plan.name)
            })
            .await?;
            let key = KeyRecord {
                prefix: prefix.to_owned(),
                masked: redacted.clone(),
                digest,
                imported: true,
                ..record(plan, now)
            };
            self.store_new(ask, "api_key.imported", key, None).await
        })
        .await
    }

    /// Changes what a key is called and may do. Its secret stays.
    ///
    /// # Errors
    ///
    /// The policy's refusal; that the key is at another revision than was asked
    /// for; or that a part of the host failed, in which case nothing changed.
    pub async fn update(&self, ask: &Ask, id: &str, wanted: UpdateKey) -> Result<Done, ApiError> {
        let permissions = list(wanted.permissions.as_deref(), "permissions")?;
        let connect_permissions =
            list(wanted.connect_permissions.as_deref(), "connect_permissions")?;
        let ip_allowlist = list(wanted.ip_allowlist.as_deref(), "ip_allowlist")?;
        self.change(ask, id, "api_key.updated", "update", |current, now| {
            let change = KeyChange {
                name: wanted.name.as_deref(),
                note: wanted.note.as_deref(),
                permissions: permissions.as_deref(),
                connect_permissions: connect_permissions.as_deref(),
                ip_allowlist: ip_allowlist.as_deref(),
            };
            let stored = Stored::new(current);
            let update = self
                .policy
                .update(&ask.actor.caller(), &stored.as_wit(), &change, now)?
                .map_err(NoPlan::Denied)?;
            let nets = update.ipv4_nets.into_iter();
            Ok(Planned::change(KeyRecord {
                name: update.name,
                note: update.note,
                permissions: update.permissions,
                connect_permissions: update.connect_permissions,
                ipv4_networks: nets.map(Ipv4Network::from).collect(),
                ..current.clone()
            }))
        })
        .await
    }

    /// Ends a key. Once this has returned, no request with it is let through.
    ///
    /// # Errors
    ///
    /// As with [`update`](Self::update).
    pub async fn expire(&self, ask: &Ask, id: &str) -> Result<Done, ApiError> {
        self.change(ask, id, "api_key.expired", "expire", |current, now| {
            let stored = Stored::new(current);
            let ends_at = self
                .policy
                .expire(&ask.actor.caller(), &stored.as_wit(), now)?
                .map_err(NoPlan::Denied)?;
            Ok(Planned::change(ended(
                KeyRecord { rotation: None, ..current.clone() },
                ends_at,
                now,
            )))
        })
        .await
    }

    /// Puts another key in the place of one, and returns it with its secret.
    ///
    /// # Errors
    ///
    /// As with [`update`](Self::update); or that a person has to confirm it.
    pub async fn rotate(&self, ask: &Ask, id: &str, wanted: RotateKey) -> Result<Done, ApiError> {
        self.change(ask, id, "api_key.rotated", "rotate", |current, now| {
            self.plan_rotation(ask, current, &wanted, now)
        })
        .await
    }

    /// Plans the replacement of a key.
    pub(super) fn plan_rotation(
        &self,
        ask: &Ask,
        current: &KeyRecord,
        wanted: &RotateKey,
        now: u64,
    ) -> Result<Planned, NoPlan> {
        let request = RotationRequest {
            expire_current_in_minutes: wanted.expire_current_key_in_minutes,
            note: wanted.note.as_deref(),
        };
        let stored = Stored::new(current);
        let plan = self
            .policy
            .rotate(&ask.actor.caller(), &stored.as_wit(), &request, now)?
            .map_err(NoPlan::Denied)?;
        let (mut made, secret) = self.carry_out(plan.replacement, now)?;
        made.replaces = Some(current.id.clone());
        made.rotation = plan.rotation.map(RotationSchedule::from);
        let changed =
            KeyRecord { replaced_by: Some(made.id.clone()), rotation: None, ..current.clone() };
        Ok(Planned {
            changed: ended(changed, plan.current_ends_at, now),
            made: Some((made, secret)),
            needs_code: plan.needs_code,
        })
    }

    /// Sets the time at which the host rotates a key by itself.
    ///
    /// # Errors
    ///
    /// As with [`update`](Self::update).
    pub async fn schedule_rotation(
        &self,
        ask: &Ask,
        id: &str,
        wanted: ScheduleRotation,
    ) -> Result<Done, ApiError> {
        let schedule = Schedule {
            at: seconds(wanted.at),
            every_days: wanted.every_days,
            expire_current_in_minutes: wanted.expire_current_key_in_minutes,
        };
        self.change(ask, id, "api_key.rotation_scheduled", "schedule", |current, now| {
            let stored = Stored::new(current);
            let schedule = self
                .policy
                .schedule_rotation(&ask.actor.caller(), &stored.as_wit(), schedule, now)?
                .map_err(NoPlan::Denied)?;
            Ok(Planned::change(KeyRecord { rotation: Some(schedule.into()), ..current.clone() }))
        })
        .await
    }

    /// Takes the schedule off a key.
    ///
    /// # Errors
    ///
    /// As with [`update`](Self::update).
    pub async fn cancel_rotation(&self, ask: &Ask, id: &str) -> Result<Done, ApiError> {
        self.change(ask, id, "api_key.rotation_canceled", "cancel", |current, now| {
            let stored = Stored::new(current);
            self.policy
                .cancel_rotation(&ask.actor.caller(), &stored.as_wit(), now)?
                .map_err(NoPlan::Denied)?;
            Ok(Planned::change(KeyRecord { rotation: None, ..current.clone() }))
        })
        .await
    }

    /// Restarts the clock by which a key's access is limited.
    ///
    /// # Errors
    ///
    /// As with [`update`](Self::update).
    pub async fn restore(&self, ask: &Ask, id: &str) -> Result<Done, ApiError> {
        self.change(ask, id, "api_key.access_restored", "restore", |current, now| {
            let stored = Stored::new(current);
            let restored_at = self
                .policy
                .restore(&ask.actor.caller(), &stored.as_wit(), now)?
                .map_err(NoPlan::Denied)?;
            Ok(Planned::change(KeyRecord { restored_at: Some(restored_at), ..current.clone() }))
        })
        .await
    }

    /// Returns a key with its secret, where the policy allows it. That it was
    /// revealed is in the audit log before the secret leaves the vault.
    ///
    /// # Errors
    ///
    /// The policy's refusal; that a person has to confirm it; or that a part of
    /// the host failed.
    pub async fn reveal(&self, ask: &Ask, id: &str) -> Result<Done, ApiError> {
        const ACTION: &str = "api_key.revealed";
        self.audited(ask, ACTION, Some(id), async {
            let key = self.find(ask, id).await?;
            check_revision(ask, &key)?;
            let stored = Stored::new(&key);
            let now = self.clock.now();
            let plan = self.policy.reveal(&ask.actor.caller(), &stored.as_wit(), now)??;
            let Some(sealed) = &key.sealed_secret else {
                return Err(ApiError::Conflict(
                    "the secret of this key was not kept; rotate the key".to_owned(),
                ));
            };
            self.confirm(ask, plan.needs_code, || phrase("reveal", &key)).await?;
            let secret = self.vault.open(&key.id, sealed)?;
            let entry = journal::done(ask, self.clock.now_ms(), ACTION, Some(&key), &key);
            self.commit(Change { audit: vec![entry], ..Change::default() }).await?;
            Ok(Done { key, secret: Some(secret) })
        })
        .await
    }

    /// Does one operation on one key, again if somebody else was faster.
    async fn change(
        &self,
        ask: &Ask,
        id: &str,
        action: &'static str,
        verb: &'static str,
        plan: impl Fn(&KeyRecord, u64) -> Result<Planned, NoPlan>,
    ) -> Result<Done, ApiError> {
        self.audited(ask, action, Some(id), async {
            let mut is_confirmed = false;
            for _ in 0..MAX_TRIES {
                let current = self.find(ask, id).await?;
                check_revision(ask, &current)?;
                let _sealing = self.sealing.read().await;
                let planned = match plan(&current, self.clock.now()) {
                    Ok(planned) => planned,
                    Err(NoPlan::Denied(denial)) => return Err(denial.into()),
                    Err(NoPlan::Failed(err)) => return Err(err),
                };
                if !is_confirmed {
                    self.confirm(ask, planned.needs_code, || phrase(verb, &current)).await?;
                    is_confirmed = planned.needs_code;
                }
                match self.store_changed(ask, action, &current, planned).await {
                    Err(ApiError::Changed { .. }) if ask.if_match.is_none() => {}
                    Err(ApiError::Changed { .. }) => return Err(ApiError::PreconditionFailed),
                    done => return done,
                }
            }
            Err(ApiError::Conflict("others keep changing this key; try again".to_owned()))
        })
        .await
    }

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

    async fn store_new(
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
        if ask.idempotency.is_none() {
            return Ok(None);
        }
        let mut body = json!(self.view(key, None)?);
        if showed_secret {
            body["secret_shown"] = Value::Bool(true);
        }
        Ok(self.kept(ask, status, body))
    }

    /// Returns an answer, which holds no secret, as it is kept for a repeated
    /// request.
    pub(super) fn kept(&self, ask: &Ask, status: u16, body: Value) -> Option<KeptReply> {
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
    async fn confirm(
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

    async fn owner_for(&self, ask: &Ask, named: Option<String>) -> Result<String, ApiError> {
        match (&ask.actor, named) {
            // Whether it may name another one is for the policy to say.
            (Actor::Key(key), named) => Ok(named.unwrap_or_else(|| key.account.clone())),
            (_, named) => self.owner(named).await,
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

    /// Returns how a key is shown. `secret` is in it only where it was just made
    /// or revealed, and for keys that are safe to expose.
    ///
    /// # Errors
    ///
    /// If the policy fails at it, or a secret that may be shown does not open.
    pub fn view(&self, key: &KeyRecord, secret: Option<Secret>) -> Result<KeyView, ApiError> {
        let now = self.clock.now();
        let status = self.policy.describe(&Stored::new(key).as_wit(), now)?;
        let secret = match (&key.sealed_secret, secret) {
            // Shown by default, in both modes.
            (Some(sealed), None) if super::view::is_exposable(key) => {
                Some(self.vault.open(&key.id, sealed)?)
            }
            (_, secret) => secret,
        };
        Ok(KeyView::new(key, &status, secret, now))
    }
}

/// Returns the record of a planned key, without what its secret gives it.
fn record(plan: KeyPlan, now: u64) -> KeyRecord {
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
fn ended(key: KeyRecord, ends_at: u64, now: u64) -> KeyRecord {
    let has_ended = now >= ends_at;
    KeyRecord {
        ends_at: Some(ends_at),
        sealed_secret: key.sealed_secret.filter(|_| !has_ended),
        end_noted: has_ended,
        ..key
    }
}

fn phrase(verb: &str, key: &KeyRecord) -> String {
    let mode = key.mode.as_str();
    format!("{verb} the {mode} {} key '{}' ({})", key.kind, key.name, key.id)
}

fn check_revision(ask: &Ask, key: &KeyRecord) -> Result<(), ApiError> {
    match ask.if_match {
        Some(revision) if revision != key.revision => Err(ApiError::PreconditionFailed),
        _ => Ok(()),
    }
}

/// Tells whether this is a secret as it may be shown: printable, with a gap that
/// hides nearly all of it.
fn is_redacted(text: &str) -> bool {
    let (Some(first), Some(last)) = (text.find('*'), text.rfind('*')) else { return false };
    let (start, stars, end) = (&text[..first], &text[first..=last], &text[last + 1..]);
    let word =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    text.len() <= 64
        && stars.len() >= 4
        && stars.bytes().all(|byte| byte == b'*')
        && start.len() <= 32
        && end.len() <= 4
        && word(start)
        && word(end)
}

fn seconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_second()).unwrap_or_default()
}

/// Joins a list as the policy is told it.
fn list(names: Option<&[String]>, param: &str) -> Result<Option<String>, ApiError> {
    let Some(names) = names else { return Ok(None) };
    // They travel as one list: a blank inside a name would make two.
    if names.iter().any(|name| name.is_empty() || name.contains(char::is_whitespace)) {
        let message = "an entry is empty or holds a blank".to_owned();
        return Err(ApiError::Invalid { param: param.to_owned(), message });
    }
    Ok(Some(names.join(" ")))
}

/// What is wanted of a new key, with its lists joined.
struct Request<'a> {
    account: String,
    wanted: &'a CreateKey,
    permissions: String,
    connect_permissions: String,
    ip_allowlist: String,
}

impl<'a> Request<'a> {
    fn new(account: String, wanted: &'a CreateKey) -> Result<Self, ApiError> {
        let list = |names, param| list(Some(names), param).map(Option::unwrap_or_default);
        Ok(Self {
            account,
            wanted,
            permissions: list(&wanted.permissions, "permissions")?,
            connect_permissions: list(&wanted.connect_permissions, "connect_permissions")?,
            ip_allowlist: list(&wanted.ip_allowlist, "ip_allowlist")?,
        })
    }

    fn as_wit(&self) -> KeyRequest<'_> {
        KeyRequest {
            account: &self.account,
            mode: if self.wanted.livemode { Mode::Live } else { Mode::Test }.into(),
            kind: &self.wanted.kind,
            name: &self.wanted.name,
            note: &self.wanted.note,
            permissions: &self.permissions,
            connect_permissions: &self.connect_permissions,
            ip_allowlist: &self.ip_allowlist,
            ends_at: self.wanted.expires_at.map(seconds),
        }
    }
}

/// A key as the policy is told of it.
struct Stored<'a> {
    record: &'a KeyRecord,
    key: crate::engine::contract::Key,
}

impl<'a> Stored<'a> {
    fn new(record: &'a KeyRecord) -> Self {
        Self { record, key: record.clone().into() }
    }

    fn as_wit(&self) -> StoredKey<'_> {
        StoredKey {
            key: &self.key,
            name: &self.record.name,
            note: &self.record.note,
            has_secret: self.record.sealed_secret.is_some(),
            imported: self.record.imported,
            replaced_by: self.record.replaced_by.as_deref(),
            rotation: self.record.rotation.as_ref().map(|rotation| Schedule {
                at: rotation.at,
                every_days: rotation.every_days,
                expire_current_in_minutes: rotation.expire_current_in_minutes,
            }),
        }
    }
}

impl From<Schedule> for RotationSchedule {
    fn from(schedule: Schedule) -> Self {
        Self {
            at: schedule.at,
            every_days: schedule.every_days,
            expire_current_in_minutes: schedule.expire_current_in_minutes,
        }
    }
}
