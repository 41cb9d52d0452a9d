//! What is stored, and what is asked for.

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::StorageResult;
use crate::{
    audit::AuditSeal,
    secret::Digest,
    share::{CanaryBy, Share},
};

/// Test or live: the two separate sets of keys and objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The sandbox.
    Test,
    /// The real thing.
    Live,
}

impl Mode {
    /// Returns `test` or `live`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Live => "live",
        }
    }

    /// Returns the mode of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "test" => Some(Self::Test),
            "live" => Some(Self::Live),
            _ => None,
        }
    }
}

/// An IPv4 network in an allowlist: the network's first address and its prefix
/// length, from 0 to 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Network {
    /// The address as a big-endian number.
    pub address: u32,
    /// How many leading bits count.
    pub prefix_length: u8,
}

/// A key as it is stored. It never holds the secret, only the digest and, where
/// the rules allow a later reveal, the sealed secret.
///
/// Times are whole seconds since 1970-01-01 UTC.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyRecord {
    /// The public name, `key_…`.
    pub id: String,
    /// The owner: an account (`acct_…`) or an organization (`org_…`).
    pub account: String,
    /// Which set of objects the key works on.
    pub mode: Mode,
    /// What the policy calls this kind of key: `secret`, `restricted`, ….
    pub kind: String,
    /// Who made it, in the policy's words: `platform`, `user`, ….
    pub origin: String,
    /// The readable start of the secret, without brand: `sk_live_`.
    pub prefix: String,
    /// The display form of the secret, safe to show.
    pub masked: String,
    /// SHA-256 of the secret. Unique.
    pub digest: Digest,
    /// The secret under the host's key-encryption key; `None` if it can never
    /// be revealed again.
    pub sealed_secret: Option<Vec<u8>>,
    /// The name a person gave it.
    pub name: String,
    /// Where a person said they stored it.
    pub note: String,
    /// Sorted, space-separated; `*` alone means unrestricted; empty grants nothing.
    pub permissions: String,
    /// The same, for acting on a connected account.
    pub connect_permissions: String,
    /// Empty: any source address.
    pub ipv4_networks: Vec<Ipv4Network>,
    /// When it was made.
    pub created_at: u64,
    /// From when on it no longer works; `None`: never.
    pub ends_at: Option<u64>,
    /// When its access was last restored.
    pub restored_at: Option<u64>,
    /// When it last moved money.
    pub money_moved_at: Option<u64>,
    /// When, from where and for what it was last used.
    pub last_use: Option<LastUse>,
    /// What the policy adds, as sorted name and value pairs.
    pub attributes: Vec<(String, String)>,
    /// Whether its secret was made elsewhere: it has no checksum of ours.
    pub imported: bool,
    /// The key that it took the place of when that was rotated.
    pub replaces: Option<String>,
    /// The key that took its place when it was rotated.
    pub replaced_by: Option<String>,
    /// The rotation that was scheduled for it.
    pub rotation: Option<RotationSchedule>,
    /// Whether its end was seen to: its secret forgotten, and the audit log told.
    pub end_noted: bool,
    /// How often it was changed; 1 for a new one. A change is stored only over the
    /// revision that it was made from. Uses are no changes; a secret that is
    /// sealed anew is one.
    pub revision: u64,
}

/// The latest use of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastUse {
    /// When.
    pub at: u64,
    /// The client's address. `0.0.0.0` where only the time is known: the use was
    /// noted by a version that kept no more.
    pub source: IpAddr,
    /// The method and the path as it is logged: its template where the catalogue
    /// lists the endpoint (`POST /v1/charges`).
    pub endpoint: String,
}

/// When the host rotates a key by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationSchedule {
    /// The time of the next rotation.
    pub at: u64,
    /// The replacement is rotated again after this many days. `None`: once.
    pub every_days: Option<u32>,
    /// How long the old key works beside its replacement, in minutes.
    pub expire_current_in_minutes: u32,
}

/// An account: it owns keys and objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRecord {
    /// `acct_…`.
    pub id: String,
    /// What a person calls it.
    pub name: String,
    /// The organization it is a member of, `org_…`.
    pub organization: Option<String>,
    /// The account that it is connected to (its platform), `acct_…`.
    pub platform: Option<String>,
    /// When it was made.
    pub created_at: u64,
}

/// An organization: it owns organization keys, and has accounts as members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrganizationRecord {
    /// `org_…`.
    pub id: String,
    /// What a person calls it.
    pub name: String,
    /// When it was made.
    pub created_at: u64,
}

/// Which keys a list is about, newest first.
#[derive(Clone, Debug, Default)]
pub struct KeyFilter {
    /// Only keys of this owner.
    pub account: Option<String>,
    /// Only keys of this mode.
    pub mode: Option<Mode>,
    /// Leave out keys that have ended at this time.
    pub not_ended_at: Option<u64>,
    /// Start behind this key id.
    pub starting_after: Option<String>,
    /// At most this many.
    pub limit: usize,
}

/// A part of the keys of which something is due, the longest due first.
#[derive(Debug, Default)]
pub struct DuePage {
    /// Each key, or [`Damaged`](super::StorageError::Damaged) in its place.
    pub keys: Vec<StorageResult<KeyRecord>>,
    /// Where to go on. `None`: there are no more.
    pub next: Option<DuePosition>,
}

/// How far a search for what is due has come.
///
/// Whoever goes on from here meets nothing twice that was not made due anew, and
/// no key that was made since the search began: it comes to an end even where each
/// rotation makes another key whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DuePosition {
    /// Since when the last key was due, as it is stored: that of a damaged key may
    /// be no time.
    pub at: i64,
    /// That key's place among all keys.
    pub place: i64,
    /// The place of the newest key that there was when the search began.
    pub newest: i64,
}

/// What a batch of requests did with one key, coalesced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageMark {
    /// The key that was used.
    pub key_id: String,
    /// The latest use.
    pub last_use: LastUse,
    /// The latest use that moved money, if one did.
    pub money_moved_at: Option<u64>,
}

/// One decided request. Everything here is safe to show: it was scrubbed of
/// secrets before it got here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// When the request came, in milliseconds since 1970.
    pub at_ms: u64,
    /// `req_…`, as in the response.
    pub request_id: String,
    /// The key, if one was recognised, whatever the answer.
    pub key_id: Option<String>,
    /// The account acted on.
    pub account: Option<String>,
    /// The HTTP method.
    pub method: String,
    /// The path's template (`/v1/charges/:id`), or the scrubbed path where no
    /// template is known.
    pub path: String,
    /// The status answered.
    pub status: u16,
    /// The error code answered.
    pub code: Option<String>,
    /// The client's address.
    pub source: IpAddr,
    /// SHA-256 of the policy that decided, or that failed to; `None` if it did not
    /// come to that.
    pub policy: Option<Digest>,
    /// The overlays that were asked after it, in their order. Where the policy has
    /// allowed and the request was refused, the last of them has refused it.
    pub overlays: Vec<Digest>,
    /// How long the decision took, in microseconds.
    pub decision_us: u32,
}

/// Which entries of the request log are asked for, newest first.
#[derive(Clone, Debug, Default)]
pub struct LogFilter {
    /// Only requests with this key.
    pub key_id: Option<String>,
    /// Only requests that acted on this account, or were made with a key of it.
    pub account: Option<String>,
    /// Only requests of this mode: of those, whose key is known.
    pub mode: Option<Mode>,
    /// Only requests that came at this time or later, in milliseconds since 1970.
    pub from_ms: Option<u64>,
    /// Only requests that came before this time, in milliseconds since 1970.
    pub until_ms: Option<u64>,
    /// Only answers with these statuses: both included.
    pub statuses: Option<(u16, u16)>,
    /// Only answers with this error code.
    pub code: Option<String>,
    /// Only requests with this method.
    pub method: Option<String>,
    /// Only requests of this path's template.
    pub path: Option<String>,
    /// Start behind the entry with this position. Positions are those of the
    /// entries that are there: where all were dropped, they begin anew.
    pub before: Option<u64>,
    /// At most this many.
    pub limit: usize,
}

/// A policy that was pushed, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRecord {
    /// SHA-256 of its bytes: what it is called.
    pub digest: Digest,
    /// What people call it.
    pub name: String,
    /// Which version of that, in its maker's words.
    pub version: String,
    /// Goes up with every release: an older one is not put in force by mistake.
    pub revision: u64,
    /// The interfaces that it exports, space-separated.
    pub interfaces: String,
    /// The size of the component in bytes.
    pub size_bytes: u64,
    /// When it was pushed.
    pub pushed_at: u64,
    /// Who pushed it.
    pub pushed_by: String,
    /// Who made it vouches for it by this Ed25519 signature.
    pub signature: Option<[u8; 64]>,
    /// From when on it may not be put in force any more.
    pub retired_at: Option<u64>,
}

/// What was put in force, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// 1, 2, 3 and so on. An activation is stored only behind the one that it
    /// was decided on.
    pub number: u64,
    /// The policy; `None`: the standard one, which the host has in itself.
    pub policy: Option<Digest>,
    /// The policies stacked on it, in their order.
    pub overlays: Vec<Digest>,
    /// What decides for a share instead, on the same overlays.
    pub canary: Option<CanaryRecord>,
    /// The lowest revision that the host may fall back to by itself.
    pub min_revision: u64,
    /// When.
    pub at: u64,
    /// Who: `operator`, or `platform` for the host itself.
    pub actor: String,
    /// Why: `activated`, `rolled back`, `fell back`, `canary`, `canary ended`.
    pub reason: String,
}

/// A policy that decides for a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanaryRecord {
    /// The policy; `None`: the standard one.
    pub policy: Option<Digest>,
    /// How many it decides for.
    pub share: Share,
    /// What is counted.
    pub by: CanaryBy,
}

/// One change that commits whole or not at all.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Accounts to make.
    pub new_accounts: Vec<AccountRecord>,
    /// Organizations to make.
    pub new_organizations: Vec<OrganizationRecord>,
    /// Accounts that become members of an organization, or of none.
    pub memberships: Vec<(String, Option<String>)>,
    /// Keys to make, each at its revision.
    pub new_keys: Vec<KeyRecord>,
    /// Keys as they are from now on. `revision` is the one that was read; the
    /// stored one is one more. Uses are not written: they have a way of their
    /// own, and may be newer than what was read.
    pub changed_keys: Vec<KeyRecord>,
    /// Policies to keep, with their bytes.
    pub new_policies: Vec<(PolicyRecord, Arc<[u8]>)>,
    /// Policies that are there, each with the name, version, revision and signature
    /// that it has from now on. What else there is of them stays.
    pub signed_policies: Vec<PolicyRecord>,
    /// Policies that may not be put in force any more, and since when.
    pub retired_policies: Vec<(Digest, u64)>,
    /// What is in force from now on. Its number must be the next one.
    pub activation: Option<Activation>,
    /// What the audit log says of it. A change without a word there is a bug.
    pub audit: Vec<AuditEntry>,
    /// What a repeated request gets.
    pub reply: Option<KeptReply>,
}

/// What a repeated management request gets: the answer without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptReply {
    /// Who asked: `operator`, or a key's id.
    pub caller: String,
    /// The caller's `Idempotency-Key`.
    pub idempotency_key: String,
    /// SHA-256 of method, path and body: another request under the same key is
    /// the caller's mistake.
    pub request_digest: Digest,
    /// When it was answered.
    pub at: u64,
    /// The status answered.
    pub status: u16,
    /// The JSON answered, without any secret.
    pub body: String,
}

/// What somebody did, or tried to do, with keys and what belongs to them. Holds
/// no secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Who: `operator`, `platform` (the host itself), or a key's id.
    pub actor: String,
    /// From which address; absent for the host itself and for the socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The request, `req_…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What: `api_key.created`, `api_key.expired`, ….
    pub action: String,
    /// With what: the id of a key, an account, ….
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The error code if it was refused. Absent: it was done. What was refused
    /// has changed nothing, but for a scheduled rotation, which is put off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// How it was before: the fields that changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// How it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// An entry of the audit log as it lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedAuditEntry {
    /// Its position: 1, 2, 3 and so on without a gap.
    pub sequence: u64,
    /// The entry as it was written, byte for byte: an [`AuditEntry`] as JSON.
    pub text: String,
    /// What seals it, and with it all before it.
    pub seal: AuditSeal,
}

/// Which entries of the audit log are asked for: all of them, oldest first, if
/// nothing is said. Newest first from the end is before [`u64::MAX`].
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only entries about this key, account or organization.
    pub target: Option<String>,
    /// Only what this caller did.
    pub actor: Option<String>,
    /// Newest first, and before this position. Else oldest first, and behind
    /// `after`.
    pub before: Option<u64>,
    /// Oldest first, and behind this position.
    pub after: Option<u64>,
    /// At most this many.
    pub limit: usize,
}

/// An object of the simulated API.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectRecord {
    /// The object's id, with its type's prefix.
    pub id: String,
    /// Where it is listed: the collection's path without `/v1/`, such as
    /// `customers` or `accounts/acct_1/persons`.
    pub collection: String,
    /// When it was made.
    pub created_at: u64,
    /// The object as it is served.
    pub body: Value,
}

/// A page of a list, newest first.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// At most this many objects.
    pub limit: usize,
    /// Only objects older than this one.
    pub starting_after: Option<String>,
    /// Only objects newer than this one.
    pub ending_before: Option<String>,
}

/// A finished answer that a repeated idempotency key gets again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// SHA-256 of method, path and body: another request under the same key is
    /// the caller's mistake.
    pub request_digest: Digest,
    /// The status answered.
    pub status: u16,
    /// The body answered.
    pub body: Vec<u8>,
}
