//! Making keys, and showing them.
//!
//! The policy plans, this carries out: it adds id, secret and times, and stores
//! all of it at once. The HTTP routes and, through them, the command line call
//! these functions; there is no other way to a key.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    active_policy::ActivePolicy,
    cache::Cache,
    clock::Clock,
    engine::contract::lifecycle::{Caller, KeyPlan, KeyRequest},
    error::ApiError,
    secret::{Brand, Secret, is_prefix, mint_id},
    storage::{
        AccountRecord, Ipv4Network, KeyFilter, KeyRecord, Mode, OrganizationRecord, Storage,
    },
    vault::Vault,
};

/// How many objects a list may hold.
pub const MAX_LIST: usize = 100;

/// A key that somebody wants, as it comes over HTTP.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// The future owner; left out where there is only one account.
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

/// A key as it is shown: the fields of Stripe's `/v2/iam/api_keys`, and what
/// Wardkey knows besides.
#[derive(Debug, Serialize)]
pub struct KeyView {
    id: String,
    object: &'static str,
    /// `publishable_key` or `secret_key`, by whether it is safe to expose.
    #[serde(rename = "type")]
    key_type: &'static str,
    kind: String,
    account: String,
    origin: String,
    status: &'static str,
    livemode: bool,
    name: String,
    note: String,
    created: Timestamp,
    expires_at: Option<Timestamp>,
    last_used: Option<Timestamp>,
    ip_allowlist: Vec<String>,
    permissions: Vec<String>,
    connect_permissions: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    publishable_key: Option<Token>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_key: Option<Token>,
}

#[derive(Debug, Serialize)]
struct Token {
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<ShownSecret>,
    secret_token_redacted: String,
}

/// A secret on its way into the one response that may hold it.
struct ShownSecret(Secret);

impl std::fmt::Debug for ShownSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ShownSecret")
    }
}

impl Serialize for ShownSecret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.expose())
    }
}

/// Returns how a key is shown. `secret` is in it only where it was just made or
/// revealed.
pub fn view(key: &KeyRecord, secret: Option<Secret>, now: u64) -> KeyView {
    let names = |list: &str| list.split_whitespace().map(str::to_owned).collect();
    let token =
        Some(Token { token: secret.map(ShownSecret), secret_token_redacted: key.masked.clone() });
    // Stripe shows keys that may stand in front-end code in another shape.
    // Which ones those are, the policy has written beside the key.
    let exposable =
        key.attributes.iter().any(|(name, value)| name == "safe-to-expose" && value == "yes");
    let ended = key.ends_at.is_some_and(|ends_at| now >= ends_at);
    KeyView {
        id: key.id.clone(),
        object: "v2.iam.api_key",
        key_type: if exposable { "publishable_key" } else { "secret_key" },
        kind: key.kind.clone(),
        account: key.account.clone(),
        origin: key.origin.clone(),
        status: if ended { "expired" } else { "active" },
        livemode: key.mode == Mode::Live,
        name: key.name.clone(),
        note: key.note.clone(),
        created: timestamp(key.created_at),
        expires_at: key.ends_at.map(timestamp),
        last_used: key.last_used_at.map(timestamp),
        ip_allowlist: key.ipv4_networks.iter().map(display_network).collect(),
        permissions: names(&key.permissions),
        connect_permissions: names(&key.connect_permissions),
        publishable_key: None,
        secret_key: None,
    }
    .with_token(exposable, token)
}

impl KeyView {
    fn with_token(mut self, exposable: bool, token: Option<Token>) -> Self {
        if exposable {
            self.publishable_key = token;
        } else {
            self.secret_key = token;
        }
        self
    }
}

fn timestamp(seconds: u64) -> Timestamp {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::MAX)
}

fn display_network(network: &Ipv4Network) -> String {
    let address = std::net::Ipv4Addr::from(network.address);
    match network.prefix_length {
        32 => address.to_string(),
        length => format!("{address}/{length}"),
    }
}

/// Makes, finds and reveals keys.
pub struct Keys {
    /// Where they are kept.
    pub storage: Arc<dyn Storage>,
    /// What has to forget them when they change.
    pub cache: Arc<Cache>,
    /// Plans them.
    pub policy: Arc<ActivePolicy>,
    /// Seals the secrets that may be revealed.
    pub vault: Vault,
    /// Tells the time.
    pub clock: Clock,
    /// The mark before every secret of this host.
    pub brand: Option<Brand>,
}

impl Keys {
    /// Makes a key, and returns it with its secret.
    ///
    /// # Errors
    ///
    /// The policy's refusal; or that a part of the host failed, in which case
    /// no key was made.
    pub async fn create(
        &self,
        caller: &Caller<'_>,
        wanted: CreateKey,
    ) -> Result<(KeyRecord, Secret), ApiError> {
        let now = self.clock.now();
        let account = self.owner(wanted.account).await?;
        let join = |names: &[String], param: &str| {
            // They travel as one list: a blank inside a name would make two.
            if names.iter().any(|name| name.is_empty() || name.contains(char::is_whitespace)) {
                let message = "an entry is empty or holds a blank".to_owned();
                return Err(ApiError::Invalid { param: param.to_owned(), message });
            }
            Ok(names.join(" "))
        };
        let permissions = join(&wanted.permissions, "permissions")?;
        let connect_permissions = join(&wanted.connect_permissions, "connect_permissions")?;
        let ip_allowlist = join(&wanted.ip_allowlist, "ip_allowlist")?;
        let request = KeyRequest {
            account: &account,
            mode: if wanted.livemode { Mode::Live } else { Mode::Test }.into(),
            kind: &wanted.kind,
            name: &wanted.name,
            note: &wanted.note,
            permissions: &permissions,
            connect_permissions: &connect_permissions,
            ip_allowlist: &ip_allowlist,
            ends_at: wanted
                .expires_at
                .map(|time| u64::try_from(time.as_second()).unwrap_or_default()),
        };
        let plan = self.policy.create(caller, &request, now)??;
        let (key, secret) = self.carry_out(plan, now)?;
        self.storage.create_key(key.clone()).await?;
        self.cache.key_changed(key.digest);
        Ok((key, secret))
    }

    /// Makes an account with the keys that the policy gives to new ones.
    ///
    /// # Errors
    ///
    /// If a part of the host failed, in which case nothing was made.
    pub async fn create_account(
        &self,
        name: String,
        organization: Option<String>,
        platform: Option<String>,
    ) -> Result<(AccountRecord, Vec<(KeyRecord, Secret)>), ApiError> {
        let now = self.clock.now();
        if let Some(id) = &organization {
            self.organization(id).await?;
        }
        if let Some(id) = &platform {
            self.account(id).await?;
        }
        let account =
            AccountRecord { id: mint_id("acct_"), name, organization, platform, created_at: now };
        let plans = self.policy.default_keys(&account.id, now)?;
        let made: Vec<(KeyRecord, Secret)> =
            plans.into_iter().map(|plan| self.carry_out(plan, now)).collect::<Result<_, _>>()?;
        let keys = made.iter().map(|(key, _)| key.clone()).collect();
        self.storage.create_account(account.clone(), keys).await?;
        self.cache.account_changed(&account.id);
        Ok((account, made))
    }

    /// Makes an organization.
    ///
    /// # Errors
    ///
    /// If storage failed.
    pub async fn create_organization(&self, name: String) -> Result<OrganizationRecord, ApiError> {
        let created_at = self.clock.now();
        let organization = OrganizationRecord { id: mint_id("org_"), name, created_at };
        self.storage.create_organization(organization.clone()).await?;
        Ok(organization)
    }

    /// Makes an account a member of an organization, or of none.
    ///
    /// # Errors
    ///
    /// If there is no such account or organization, or storage failed.
    pub async fn set_organization(
        &self,
        account: &str,
        organization: Option<&str>,
    ) -> Result<AccountRecord, ApiError> {
        if let Some(id) = organization {
            self.organization(id).await?;
        }
        self.storage.set_organization(account, organization).await?;
        self.cache.account_changed(account);
        self.account(account).await
    }

    /// Returns the key with this id.
    ///
    /// # Errors
    ///
    /// If there is none, or storage failed.
    pub async fn find(&self, id: &str) -> Result<KeyRecord, ApiError> {
        let found = self.storage.find_key(id).await?;
        found.ok_or_else(|| not_found("API key", id))
    }

    /// Returns keys, newest first, and whether there are more.
    ///
    /// # Errors
    ///
    /// If storage failed.
    pub async fn list(&self, mut filter: KeyFilter) -> Result<(Vec<KeyRecord>, bool), ApiError> {
        let limit = filter.limit;
        filter.limit = limit + 1;
        let mut keys = self.storage.list_keys(filter).await?;
        let more = keys.len() > limit;
        keys.truncate(limit);
        Ok((keys, more))
    }

    /// Returns a key with its secret, if that was kept for it.
    ///
    /// # Errors
    ///
    /// If it was not, or a part of the host failed.
    pub async fn reveal(&self, id: &str) -> Result<(KeyRecord, Secret), ApiError> {
        let key = self.find(id).await?;
        let Some(sealed) = &key.sealed_secret else {
            return Err(ApiError::Conflict(
                "the secret of this key was shown once, when it was made, and was not kept; \
                 make another key"
                    .to_owned(),
            ));
        };
        let secret =
            self.vault.open(&key.id, sealed).map_err(|err| ApiError::Internal(err.into()))?;
        Ok((key, secret))
    }

    /// Returns the account with this id.
    ///
    /// # Errors
    ///
    /// If there is none, or storage failed.
    pub async fn account(&self, id: &str) -> Result<AccountRecord, ApiError> {
        let found = self.storage.find_accounts(vec![id.to_owned()]).await?;
        found.into_iter().next().flatten().ok_or_else(|| not_found("account", id))
    }

    async fn organization(&self, id: &str) -> Result<OrganizationRecord, ApiError> {
        let found = self.storage.find_organization(id).await?;
        found.ok_or_else(|| not_found("organization", id))
    }

    /// Returns the owner's id, which may be left out where there is one account.
    async fn owner(&self, named: Option<String>) -> Result<String, ApiError> {
        if let Some(id) = named {
            // An organization is an owner too.
            if self.storage.find_organization(&id).await?.is_none() {
                self.account(&id).await?;
            }
            return Ok(id);
        }
        match self.storage.list_accounts(2).await?.as_slice() {
            [only] => Ok(only.id.clone()),
            _ => Err(ApiError::Invalid {
                param: "account".to_owned(),
                message: "there are several accounts: name the owner".to_owned(),
            }),
        }
    }

    /// Adds to a plan what only the host can give.
    fn carry_out(&self, plan: KeyPlan, now: u64) -> Result<(KeyRecord, Secret), ApiError> {
        if !is_prefix(&plan.prefix) {
            // Such a secret would not be recognised when it comes back.
            return Err(ApiError::Internal("the policy planned an impossible prefix".into()));
        }
        let id = mint_id("key_");
        let secret = Secret::generate(self.brand.as_ref(), &plan.prefix);
        let nets = plan.ipv4_nets.iter();
        let key = KeyRecord {
            account: plan.account,
            mode: plan.mode.into(),
            kind: plan.kind,
            origin: plan.origin,
            prefix: plan.prefix,
            masked: secret.masked().as_str().to_owned(),
            digest: secret.digest(),
            sealed_secret: plan.revealable.then(|| self.vault.seal(&id, &secret)),
            name: plan.name,
            note: plan.note,
            permissions: plan.permissions,
            connect_permissions: plan.connect_permissions,
            ipv4_networks: nets
                .map(|net| Ipv4Network { address: net.address, prefix_length: net.prefix_length })
                .collect(),
            created_at: now,
            ends_at: plan.ends_at,
            restored_at: None,
            money_moved_at: None,
            last_used_at: None,
            attributes: plan.attributes,
            id,
        };
        Ok((key, secret))
    }
}

fn not_found(what: &'static str, id: &str) -> ApiError {
    ApiError::NotFound { what, id: crate::scrub::scrub(id).into_owned() }
}
