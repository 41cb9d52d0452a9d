//! What a row is written with: keys, requests, and the accounts there are.

use wardkey_policy::{
    contract::{
        Account, Credential, Ipv4Net, Key, Mode, PresentedCredential, Request, Source,
        lifecycle::{KeyChange, RotationRequest, RotationSchedule, StoredKey},
    },
    network,
};

use crate::both::World;

/// When every row happens, unless it says otherwise: 2030-01-01T00:00:00Z.
pub(crate) const NOW: u64 = 1_893_456_000;

pub(crate) const HOUR: u64 = 60 * 60;
pub(crate) const DAY: u64 = 24 * HOUR;

/// The owner of every key that is not an organization's.
pub(crate) const OWNER: &str = "acct_owner";

/// The owner of organization keys.
pub(crate) const ORGANIZATION: &str = "org_home";

/// Returns the accounts that all rows know. Below `acct_owner` and below the
/// organization's `acct_member` hangs a chain of connected accounts each.
pub(crate) fn accounts() -> Vec<Account> {
    let account = |id: &str, organization: Option<&str>, platform: Option<&str>| Account {
        id: id.to_owned(),
        organization: organization.map(str::to_owned),
        platform: platform.map(str::to_owned),
    };
    vec![
        account(OWNER, None, None),
        account("acct_shop", None, Some(OWNER)),
        account("acct_courier", None, Some("acct_shop")),
        account("acct_rider", None, Some("acct_courier")),
        account("acct_bike", None, Some("acct_rider")),
        account("acct_member", Some(ORGANIZATION), None),
        account("acct_branch", None, Some("acct_member")),
        account("acct_seller", None, Some("acct_branch")),
        account("acct_buyer", None, Some("acct_seller")),
        // Connected to a platform that is no member itself.
        account("acct_far_shop", None, Some("acct_stranger")),
        account("acct_stranger", Some("org_other"), None),
        // A member, and connected to the owner too.
        account("acct_twofold", Some(ORGANIZATION), Some(OWNER)),
    ]
}

/// Returns a world with these accounts and one key.
pub(crate) fn world(key: &Key) -> World {
    World {
        key: Some(key.clone()),
        accounts: accounts().into_iter().map(|account| (account.id.clone(), account)).collect(),
    }
}

/// A test key that was made yesterday.
fn key(kind: &str, permissions: &str) -> Key {
    Key {
        id: "key_1".to_owned(),
        account: OWNER.to_owned(),
        mode: Mode::Test,
        kind: kind.to_owned(),
        origin: "user".to_owned(),
        created_at: NOW - DAY,
        ends_at: None,
        restored_at: None,
        money_moved_at: None,
        permissions: permissions.to_owned(),
        connect_permissions: String::new(),
        ipv4_nets: Vec::new(),
        attributes: Vec::new(),
    }
}

pub(crate) fn restricted(permissions: &str) -> Key {
    key("restricted", permissions)
}

pub(crate) fn secret() -> Key {
    Key { connect_permissions: "*".to_owned(), ..key("secret", "*") }
}

pub(crate) fn publishable() -> Key {
    key("publishable", "")
}

pub(crate) fn managed() -> Key {
    Key { connect_permissions: "*".to_owned(), ..key("managed", "*") }
}

pub(crate) fn organization(permissions: &str) -> Key {
    Key { account: ORGANIZATION.to_owned(), ..key("organization", permissions) }
}

pub(crate) fn kind(kind: &str) -> Key {
    key(kind, "*")
}

pub(crate) fn live(key: Key) -> Key {
    Key { mode: Mode::Live, ..key }
}

/// A key as the host keeps it: with its secret, and never rotated.
pub(crate) fn stored(key: Key) -> StoredKey {
    StoredKey {
        key,
        name: "a key".to_owned(),
        note: String::new(),
        has_secret: true,
        imported: false,
        replaced_by: None,
        rotation: None,
    }
}

/// A rotation at that time, where the old key works on for an hour.
pub(crate) fn schedule(at: u64, every_days: Option<u32>) -> RotationSchedule {
    RotationSchedule { at, every_days, expire_current_in_minutes: 60 }
}

/// A change that leaves everything as it is.
pub(crate) fn no_change() -> KeyChange {
    KeyChange {
        name: None,
        note: None,
        permissions: None,
        connect_permissions: None,
        ip_allowlist: None,
    }
}

pub(crate) fn rotation_request(expire_current_in_minutes: u32) -> RotationRequest {
    RotationRequest { expire_current_in_minutes, note: None }
}

/// An allowlist, as people write it.
pub(crate) fn display(nets: &[Ipv4Net]) -> String {
    let nets = nets
        .iter()
        .map(|net| format!("{}/{}", std::net::Ipv4Addr::from(net.address), net.prefix_length));
    nets.collect::<Vec<_>>().join(" ")
}

/// The networks of an allowlist.
pub(crate) fn nets(list: &str) -> Vec<Ipv4Net> {
    list.split_whitespace().map(|entry| network::parse(entry).unwrap()).collect()
}

/// A request with a key that has the right shape, from 203.0.113.9.
pub(crate) fn request(method: &str, path: &str) -> Request {
    Request {
        credential: well_formed("rk_test_"),
        method: method.to_owned(),
        path: path.to_owned(),
        source: ipv4("203.0.113.9"),
        context: None,
        account: None,
        api_version: None,
        now: NOW,
        attributes: Vec::new(),
    }
}

pub(crate) fn get(path: &str) -> Request {
    request("GET", path)
}

pub(crate) fn post(path: &str) -> Request {
    request("POST", path)
}

/// The request with `Stripe-Context`, and the version that organization keys
/// have to send.
pub(crate) fn context(context: &str, request: Request) -> Request {
    Request {
        context: Some(context.to_owned()),
        api_version: Some("2026-06-24".to_owned()),
        ..request
    }
}

/// The request with `Stripe-Account`.
pub(crate) fn account(account: &str, request: Request) -> Request {
    Request { account: Some(account.to_owned()), ..request }
}

pub(crate) fn at(now: u64, request: Request) -> Request {
    Request { now, ..request }
}

pub(crate) fn from(source: Source, request: Request) -> Request {
    Request { source, ..request }
}

/// The request, where the operator lets unlisted endpoints through.
pub(crate) fn allow_unlisted(request: Request) -> Request {
    Request { attributes: vec![("allow-unlisted".to_owned(), "yes".to_owned())], ..request }
}

pub(crate) fn presenting(credential: Credential, request: Request) -> Request {
    Request { credential, ..request }
}

pub(crate) fn well_formed(prefix: &str) -> Credential {
    Credential::WellFormed(PresentedCredential {
        prefix: prefix.to_owned(),
        masked: format!("{prefix}****1234"),
    })
}

pub(crate) fn malformed(prefix: &str) -> Credential {
    Credential::Malformed(PresentedCredential {
        prefix: prefix.to_owned(),
        masked: format!("{prefix}****5678"),
    })
}

pub(crate) fn ipv4(address: &str) -> Source {
    Source::Ipv4(address.parse::<std::net::Ipv4Addr>().unwrap().into())
}

pub(crate) fn ipv6(address: &str) -> Source {
    let bits = u128::from(address.parse::<std::net::Ipv6Addr>().unwrap());
    Source::Ipv6(((bits >> 64) as u64, bits as u64))
}
