//! Keys and who owns them: everything that can be done with them.
//!
//! The policy plans, this carries out: it adds ids, secrets and times, and
//! stores all of it at once with its entry in the audit log. The HTTP routes
//! and, through them, the command line call these functions; there is no other
//! way to a key.
//!
//! # Invariants
//!
//! - No change without its audit entry: both commit together.
//! - A change is stored only over the revision that it was planned from.
//! - By the time a change is answered, the caches have forgotten what it
//!   changed.
//! - A secret is in one answer: that of the call that made or revealed it. What
//!   is kept for repeated requests, and the audit log, never hold one.

use std::sync::Arc;

use tokio::sync::RwLock;

use crate::{
    active_policy::ActivePolicy,
    audit::AuditKey,
    cache::Cache,
    clock::Clock,
    engine::contract::lifecycle::KeyFilter as Scope,
    error::ApiError,
    secret::Brand,
    storage::{KeyFilter, KeyRecord, Mode, Storage},
    vault::Vault,
    verification::Verifier,
};

mod ask;
mod carry_out;
mod due;
mod journal;
mod operations;
mod owners;
mod reseal;
mod view;
mod wanted;

pub(crate) use self::view::timestamp;
pub use self::{
    ask::{Actor, Ask, Idempotency},
    operations::Done,
    owners::CreateAccount,
    view::{AccountView, KeyView, OrganizationView},
    wanted::{CreateKey, ImportKey, RotateKey, ScheduleRotation, UpdateKey},
};

/// How many objects a list may hold.
pub const MAX_LIST: usize = 100;

/// The longest name of an account or organization, in characters: that of a key.
const MAX_TEXT_CHARS: usize = 100;

/// Everything that can be done with keys, accounts and organizations.
pub struct Keys {
    /// Where they are kept.
    pub storage: Arc<dyn Storage>,
    /// What has to forget them when they change.
    pub cache: Arc<Cache>,
    /// Plans.
    pub policy: Arc<ActivePolicy>,
    /// Seals the secrets that may be revealed.
    pub vault: Vault,
    /// Held for reading from when a secret is sealed until it is stored, so that
    /// a replacement of the key-encryption key can wait for what is under way.
    pub sealing: RwLock<()>,
    /// Seals the audit log.
    pub audit_key: Arc<AuditKey>,
    /// Has people confirm what is dangerous.
    pub verifier: Verifier,
    /// Tells the time.
    pub clock: Clock,
    /// The mark before every secret of this host.
    pub brand: Option<Brand>,
}

impl Keys {
    /// Returns the key with this id, if it is the caller's to see.
    ///
    /// # Errors
    ///
    /// If there is none for this caller, or storage failed.
    pub async fn find(&self, ask: &Ask, id: &str) -> Result<KeyRecord, ApiError> {
        let scope = self.scope(ask, None, None)?;
        let found = self.storage.find_key(id).await?.filter(|key| {
            scope.account.as_ref().is_none_or(|account| *account == key.account)
                && scope.mode.is_none_or(|mode| Mode::from(mode) == key.mode)
        });
        found.ok_or_else(|| not_found("API key", id))
    }

    /// Returns the keys that the caller may see, newest first, and whether there
    /// are more.
    ///
    /// # Errors
    ///
    /// If it asks for what is not its to see, or storage failed.
    pub async fn list(
        &self,
        ask: &Ask,
        mut filter: KeyFilter,
    ) -> Result<(Vec<KeyRecord>, bool), ApiError> {
        let scope = self.scope(ask, filter.account.as_deref(), filter.mode)?;
        filter.account = scope.account;
        filter.mode = scope.mode.map(Mode::from);
        if let Some(cursor) = &filter.starting_after {
            self.find(ask, cursor).await?;
        }
        let limit = filter.limit;
        filter.limit = limit + 1;
        let mut keys = self.storage.list_keys(filter).await?;
        let more = keys.len() > limit;
        keys.truncate(limit);
        Ok((keys, more))
    }

    /// Narrows what a caller wants to see to what it may see.
    ///
    /// # Errors
    ///
    /// The policy's refusal.
    pub(crate) fn scope(
        &self,
        ask: &Ask,
        account: Option<&str>,
        mode: Option<Mode>,
    ) -> Result<Scope, ApiError> {
        let wanted = Scope { account: account.map(str::to_owned), mode: mode.map(Into::into) };
        Ok(self.policy.visible(&ask.actor.caller(), &wanted)??)
    }
}

fn not_found(what: &'static str, id: &str) -> ApiError {
    ApiError::NotFound { what, id: crate::scrub::scrub(id).into_owned() }
}
