//! Accounts and organizations, which own keys.

use serde_json::json;

use super::{
    Keys, MAX_TEXT_CHARS,
    ask::Ask,
    journal,
    view::{AccountView, OrganizationView},
};
use crate::{
    error::ApiError,
    secret::{Secret, mint_id},
    storage::{AccountRecord, AuditEntry, Change, KeyRecord, OrganizationRecord},
};

/// An account that somebody wants.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateAccount {
    /// What to call it.
    pub name: String,
    /// The organization to be a member of.
    #[serde(default)]
    pub organization: Option<String>,
    /// The account to be connected to.
    #[serde(default)]
    pub platform: Option<String>,
}

impl Keys {
    /// Makes an account with the keys that the policy gives to new ones.
    ///
    /// # Errors
    ///
    /// If a part of the host failed, in which case nothing was made.
    pub async fn create_account(
        &self,
        ask: &Ask,
        wanted: CreateAccount,
    ) -> Result<(AccountRecord, Vec<(KeyRecord, Secret)>), ApiError> {
        const ACTION: &str = "account.created";
        self.audited(ask, ACTION, None, self.make_account(ask, ACTION, wanted)).await
    }

    async fn make_account(
        &self,
        ask: &Ask,
        action: &str,
        wanted: CreateAccount,
    ) -> Result<(AccountRecord, Vec<(KeyRecord, Secret)>), ApiError> {
        let now = self.clock.now();
        check_name(&wanted.name)?;
        if let Some(id) = &wanted.organization {
            self.organization(id).await?;
        }
        if let Some(id) = &wanted.platform {
            self.account(id).await?;
        }
        let CreateAccount { name, organization, platform } = wanted;
        let account =
            AccountRecord { id: mint_id("acct_"), name, organization, platform, created_at: now };
        let plans = self.policy.default_keys(&account.id, now)?;
        let _sealing = self.sealing.read().await;
        let made: Vec<(KeyRecord, Secret)> =
            plans.into_iter().map(|plan| self.carry_out(plan, now)).collect::<Result<_, _>>()?;
        let keys: Vec<KeyRecord> = made.iter().map(|(key, _)| key.clone()).collect();
        let at_ms = self.clock.now_ms();
        let mut audit = vec![journal::other(
            ask,
            at_ms,
            action,
            Some(&account.id),
            None,
            Some(json!(AccountView::from(&account))),
        )];
        audit
            .extend(keys.iter().map(|key| journal::done(ask, at_ms, "api_key.created", None, key)));
        let reply = self.kept(ask, 201, json!(AccountView::from(&account)));
        let change = Change {
            reply,
            new_accounts: vec![account.clone()],
            new_keys: keys,
            audit,
            ..Change::default()
        };
        self.commit(change).await?;
        Ok((account, made))
    }

    /// Makes an organization.
    ///
    /// # Errors
    ///
    /// If storage failed.
    pub async fn create_organization(
        &self,
        ask: &Ask,
        name: String,
    ) -> Result<OrganizationRecord, ApiError> {
        const ACTION: &str = "organization.created";
        self.audited(ask, ACTION, None, async {
            check_name(&name)?;
            let created_at = self.clock.now();
            let organization = OrganizationRecord { id: mint_id("org_"), name, created_at };
            let audit = journal::other(
                ask,
                self.clock.now_ms(),
                ACTION,
                Some(&organization.id),
                None,
                Some(json!(OrganizationView::from(&organization))),
            );
            let reply = self.kept(ask, 201, json!(OrganizationView::from(&organization)));
            let change = Change {
                reply,
                new_organizations: vec![organization.clone()],
                audit: vec![audit],
                ..Change::default()
            };
            self.commit(change).await?;
            Ok(organization)
        })
        .await
    }

    /// Makes an account a member of an organization, or of none.
    ///
    /// # Errors
    ///
    /// If there is no such account or organization, or storage failed.
    pub async fn set_organization(
        &self,
        ask: &Ask,
        account: &str,
        organization: Option<&str>,
    ) -> Result<AccountRecord, ApiError> {
        const ACTION: &str = "account.updated";
        self.audited(ask, ACTION, Some(account), async {
            let before = self.account(account).await?;
            if let Some(id) = organization {
                self.organization(id).await?;
            }
            let audit = journal::other(
                ask,
                self.clock.now_ms(),
                ACTION,
                Some(account),
                Some(json!({ "organization": before.organization })),
                Some(json!({ "organization": organization })),
            );
            let after = AccountRecord { organization: organization.map(str::to_owned), ..before };
            let change = Change {
                memberships: vec![(after.id.clone(), after.organization.clone())],
                audit: vec![audit],
                reply: self.kept(ask, 200, json!(AccountView::from(&after))),
                ..Change::default()
            };
            self.commit(change).await?;
            Ok(after)
        })
        .await
    }

    /// Writes to the audit log what was done to the host itself.
    ///
    /// # Errors
    ///
    /// If storage failed.
    pub(crate) async fn note(
        &self,
        ask: &Ask,
        action: &str,
        after: serde_json::Value,
    ) -> Result<(), ApiError> {
        let entry = self.entry(ask, action, None, None, Some(after));
        self.commit(Change { audit: vec![entry], ..Change::default() }).await
    }

    /// Returns an entry for the audit log about something that is no key.
    pub(crate) fn entry(
        &self,
        ask: &Ask,
        action: &str,
        target: Option<&str>,
        before: Option<serde_json::Value>,
        after: Option<serde_json::Value>,
    ) -> AuditEntry {
        journal::other(ask, self.clock.now_ms(), action, target, before, after)
    }

    /// Returns the account with this id.
    ///
    /// # Errors
    ///
    /// If there is none, or storage failed.
    pub async fn account(&self, id: &str) -> Result<AccountRecord, ApiError> {
        let found = self.storage.find_accounts(vec![id.to_owned()]).await?;
        found.into_iter().next().flatten().ok_or_else(|| super::not_found("account", id))
    }

    async fn organization(&self, id: &str) -> Result<OrganizationRecord, ApiError> {
        let found = self.storage.find_organization(id).await?;
        found.ok_or_else(|| super::not_found("organization", id))
    }

    /// Returns the owner's id, which may be left out where there is one account.
    pub(super) async fn owner(&self, named: Option<String>) -> Result<String, ApiError> {
        if let Some(id) = named {
            // An organization is an owner too.
            if self.storage.find_organization(&id).await?.is_none() {
                self.account(&id).await?;
            }
            return Ok(id);
        }
        match self.storage.list_accounts(None, 2).await?.as_slice() {
            [only] => Ok(only.id.clone()),
            _ => Err(ApiError::Invalid {
                param: "account".to_owned(),
                message: "there are several accounts: name the owner".to_owned(),
            }),
        }
    }
}

fn check_name(name: &str) -> Result<(), ApiError> {
    let message = if name.trim().is_empty() {
        "give it a name".to_owned()
    } else if name.chars().count() > MAX_TEXT_CHARS || name.chars().any(char::is_control) {
        format!("use at most {MAX_TEXT_CHARS} characters, and none that control")
    } else {
        return Ok(());
    };
    Err(ApiError::Invalid { param: "name".to_owned(), message })
}
