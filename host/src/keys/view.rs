//! How a key is shown: the fields of Stripe's `/v2/iam/api_keys`, and what
//! Wardkey knows besides.

use std::net::{IpAddr, Ipv4Addr};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{Keys, wanted::Stored};
use crate::{
    engine::contract::lifecycle::KeyStatus,
    error::ApiError,
    secret::Secret,
    storage::{AccountRecord, Ipv4Network, KeyRecord, Mode, OrganizationRecord},
};

/// What is stored of a key, as it is shown and as the audit log has it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct KeyFields {
    id: String,
    object: &'static str,
    /// `publishable_key` or `secret_key`, by whether it is safe to expose.
    #[serde(rename = "type")]
    key_type: &'static str,
    kind: String,
    account: String,
    origin: String,
    /// `active` or `expired`.
    status: &'static str,
    livemode: bool,
    name: String,
    note: String,
    created: Timestamp,
    /// From when on it no longer works; null: never.
    expires_at: Option<Timestamp>,
    /// When its access was last restored.
    restored_at: Option<Timestamp>,
    ip_allowlist: Vec<String>,
    permissions: Vec<String>,
    connect_permissions: Vec<String>,
    /// Whether its secret was made elsewhere.
    imported: bool,
    /// The key that it took the place of.
    replaces: Option<String>,
    /// The key that took its place.
    replaced_by: Option<String>,
    /// The rotation that is scheduled for it.
    rotation: Option<Rotation>,
    /// Goes up with every change. Also in the `ETag` header, for `If-Match`.
    revision: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Rotation {
    at: Timestamp,
    every_days: Option<u32>,
    expire_current_key_in_minutes: u32,
}

/// A key as it is shown.
#[derive(Debug, Serialize)]
pub struct KeyView {
    #[serde(flatten)]
    fields: KeyFields,
    /// Whether it can no longer move money until its access is restored.
    limited_access: bool,
    /// What the operator could do with it now.
    actions: Vec<String>,
    last_used: Option<Timestamp>,
    last_used_source: Option<IpAddr>,
    last_used_endpoint: Option<String>,
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

/// Tells whether the secret of a key may stand in front-end code. Which ones
/// may, the policy has written beside the key.
pub(super) fn is_exposable(key: &KeyRecord) -> bool {
    crate::health::is_exposable(&key.attributes)
}

impl KeyFields {
    pub(super) fn new(key: &KeyRecord, now: u64) -> Self {
        let names = |list: &str| list.split_whitespace().map(str::to_owned).collect();
        let ended = key.ends_at.is_some_and(|ends_at| now >= ends_at);
        Self {
            id: key.id.clone(),
            object: "v2.iam.api_key",
            key_type: if is_exposable(key) { "publishable_key" } else { "secret_key" },
            kind: key.kind.clone(),
            account: key.account.clone(),
            origin: key.origin.clone(),
            status: if ended { "expired" } else { "active" },
            livemode: key.mode == Mode::Live,
            name: key.name.clone(),
            note: key.note.clone(),
            created: timestamp(key.created_at),
            expires_at: key.ends_at.map(timestamp),
            restored_at: key.restored_at.map(timestamp),
            ip_allowlist: key.ipv4_networks.iter().map(display_network).collect(),
            permissions: names(&key.permissions),
            connect_permissions: names(&key.connect_permissions),
            imported: key.imported,
            replaces: key.replaces.clone(),
            replaced_by: key.replaced_by.clone(),
            rotation: key.rotation.as_ref().map(|rotation| Rotation {
                at: timestamp(rotation.at),
                every_days: rotation.every_days,
                expire_current_key_in_minutes: rotation.expire_current_in_minutes,
            }),
            revision: key.revision,
        }
    }

    /// Returns the fields as JSON.
    pub(super) fn to_json(&self) -> Value {
        // Text, numbers and lists of them: nothing that JSON does not have.
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl KeyView {
    /// Returns how a key is shown. `secret` is in it only where it was just made
    /// or revealed, and for keys that are safe to expose.
    pub(super) fn new(
        key: &KeyRecord,
        status: &KeyStatus,
        secret: Option<Secret>,
        now: u64,
    ) -> Self {
        let token = Some(Token {
            token: secret.map(ShownSecret),
            secret_token_redacted: key.masked.clone(),
        });
        let (publishable_key, secret_key) =
            if is_exposable(key) { (token, None) } else { (None, token) };
        let last_use = key.last_use.as_ref();
        Self {
            fields: KeyFields::new(key, now),
            limited_access: status.limited_access,
            actions: status.actions.split_whitespace().map(str::to_owned).collect(),
            last_used: last_use.map(|last_use| timestamp(last_use.at)),
            // A use from before these were noted has neither.
            last_used_source: last_use
                .map(|last_use| last_use.source)
                .filter(|ip| !ip.is_unspecified()),
            last_used_endpoint: last_use
                .map(|last_use| last_use.endpoint.clone())
                .filter(|text| !text.is_empty()),
            publishable_key,
            secret_key,
        }
    }

    /// Returns the key's revision, for the `ETag` header.
    pub fn revision(&self) -> u64 {
        self.fields.revision
    }
}

/// An account as it is shown.
#[derive(Debug, Serialize)]
pub struct AccountView {
    id: String,
    object: &'static str,
    name: String,
    /// The organization that it is a member of.
    organization: Option<String>,
    /// The account that it is connected to.
    platform: Option<String>,
    created: Timestamp,
}

impl From<&AccountRecord> for AccountView {
    fn from(account: &AccountRecord) -> Self {
        Self {
            id: account.id.clone(),
            object: "account",
            name: account.name.clone(),
            organization: account.organization.clone(),
            platform: account.platform.clone(),
            created: timestamp(account.created_at),
        }
    }
}

/// An organization as it is shown.
#[derive(Debug, Serialize)]
pub struct OrganizationView {
    id: String,
    object: &'static str,
    name: String,
    created: Timestamp,
}

impl From<&OrganizationRecord> for OrganizationView {
    fn from(organization: &OrganizationRecord) -> Self {
        Self {
            id: organization.id.clone(),
            object: "organization",
            name: organization.name.clone(),
            created: timestamp(organization.created_at),
        }
    }
}

impl Keys {
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
            (Some(sealed), None) if is_exposable(key) => Some(self.vault.open(&key.id, sealed)?),
            (_, secret) => secret,
        };
        Ok(KeyView::new(key, &status, secret, now))
    }
}

/// Returns a time as it is shown.
pub(crate) fn timestamp(seconds: u64) -> Timestamp {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::MAX)
}

fn display_network(network: &Ipv4Network) -> String {
    let address = Ipv4Addr::from(network.address);
    match network.prefix_length {
        32 => address.to_string(),
        length => format!("{address}/{length}"),
    }
}
