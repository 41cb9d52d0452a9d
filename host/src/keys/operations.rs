//! What can be done with keys.
//!
//! Every operation has one shape: read the key, ask the policy for the plan,
//! have a person confirm it if the plan says so, store the outcome together with
//! its entry in the audit log, make the caches forget, answer. The key is stored
//! only if it is still the one that was read; otherwise all of it is done again.

use super::{
    Keys,
    ask::{Actor, Ask},
    carry_out::{ended, record},
    journal,
    wanted::{
        CreateKey, ImportKey, Request, RotateKey, ScheduleRotation, Stored, UpdateKey, is_redacted,
        list, seconds,
    },
};
use crate::{
    engine::contract::{
        Denial,
        lifecycle::{KeyChange, RotationRequest, RotationSchedule as Schedule},
    },
    error::ApiError,
    secret::{Digest, Secret, prefix_of},
    storage::{Change, Ipv4Network, KeyRecord, RotationSchedule},
};

/// How often an operation is done again because somebody else changed the key
/// meanwhile. Each time somebody else has got on, so that more means a loop of
/// clients that fight over one key.
pub(super) const MAX_TRIES: usize = 5;

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
    pub(super) changed: KeyRecord,
    /// The key that takes its place.
    pub(super) made: Option<(KeyRecord, Secret)>,
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
                let sealing = self.sealing.read().await;
                let planned = match plan(&current, self.clock.now()) {
                    Ok(planned) => planned,
                    Err(NoPlan::Denied(denial)) => return Err(denial.into()),
                    Err(NoPlan::Failed(err)) => return Err(err),
                };
                if planned.needs_code && !is_confirmed {
                    // A mail server that stalls must hold up nobody else; and what
                    // was planned before is no longer what is to be done.
                    drop(sealing);
                    self.confirm(ask, true, || phrase(verb, &current)).await?;
                    is_confirmed = true;
                    continue;
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

    async fn owner_for(&self, ask: &Ask, named: Option<String>) -> Result<String, ApiError> {
        match (&ask.actor, named) {
            // Whether it may name another one is for the policy to say.
            (Actor::Key(key), named) => Ok(named.unwrap_or_else(|| key.account.clone())),
            (_, named) => self.owner(named).await,
        }
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
