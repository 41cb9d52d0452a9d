//! The largest that the rules and the host let through: it is decided, and does
//! not run into the component's limits.

use wardkey_policy::{
    catalogue::Permission,
    context::MAX_CONTEXT_ACCOUNTS,
    contract::{
        Account, Decision, Key, Request, Source,
        lifecycle::{Caller, KeyChange, KeyRequest, RotationRequest, StoredKey},
    },
    lifecycle::{MAX_NAME_CHARS, MAX_NOTE_CHARS},
    network::MAX_NETWORKS,
    permission,
};

use crate::{
    both::{
        World, decide, describe,
        lifecycle::{create, expire, reveal, rotate, schedule_rotation, status, update},
    },
    rows::*,
};

/// What the host lets through of a header.
const MAX_HEADER_BYTES: usize = 256;

/// The longest path that the host lets through.
const MAX_PATH_BYTES: usize = wardkey::path::MAX_PATH_BYTES;

fn all() -> String {
    permission::join(Permission::all().iter().map(Permission::name))
}

/// Ids that fill the longest header.
fn ids() -> Vec<String> {
    let length = MAX_HEADER_BYTES / MAX_CONTEXT_ACCOUNTS - 1;
    (0..MAX_CONTEXT_ACCOUNTS).map(|n| format!("acct_{n:x<width$}", width = length - 5)).collect()
}

/// Every address but the caller's, so that the whole list is gone through.
fn networks() -> Vec<wardkey_policy::contract::Ipv4Net> {
    let entries = (0..MAX_NETWORKS).map(|n| format!("10.0.{n}.0/24"));
    entries.map(|entry| wardkey_policy::network::parse(&entry).unwrap()).collect()
}

fn largest_key() -> Key {
    let mut nets = networks();
    nets.pop();
    nets.push(wardkey_policy::network::parse("203.0.113.9").unwrap());
    Key {
        id: format!("key_{}", "k".repeat(60)),
        connect_permissions: all(),
        ipv4_nets: nets,
        ends_at: Some(NOW + 1),
        attributes: (0..8).map(|n| (format!("name-{n}"), "v".repeat(200))).collect(),
        ..restricted(&all())
    }
}

fn largest_world(key: &Key) -> World {
    let mut world = world(key);
    let mut platform = OWNER.to_owned();
    for id in ids() {
        let account = Account {
            id: id.clone(),
            organization: Some(format!("org_{}", "o".repeat(60))),
            platform: Some(platform),
        };
        world.accounts.insert(id.clone(), account);
        platform = id;
    }
    world
}

fn largest_request(path: &str) -> Request {
    let start = path.len();
    let path = path.replace(":id", &"x".repeat(MAX_PATH_BYTES - start + ":id".len()));
    assert_eq!(path.len(), MAX_PATH_BYTES);
    Request {
        api_version: Some("v".repeat(MAX_HEADER_BYTES)),
        ..context(&ids().join("/"), post(&path))
    }
}

#[test]
fn the_largest_key_is_decided() {
    let key = largest_key();
    let request = largest_request("/v1/payouts/:id/reverse");
    let expected = format!(
        "allow on {} by payout_write, money-movement, notice: This API key stops working in 1 h. \
         Use its replacement.",
        ids().last().unwrap(),
    );
    assert_eq!(describe(&decide(&request, &largest_world(&key))), expected);
}

#[test]
fn the_largest_key_is_refused_too() {
    let request = largest_request("/v1/payouts/:id/reverse");
    let without = all().replace(" payout_write", "").replace("balance_read ", "");
    let key = Key { connect_permissions: without, ..largest_key() };
    assert_eq!(
        describe(&decide(&request, &largest_world(&key))),
        "forbidden: more_permissions_required, missing payout_write"
    );
    let from_elsewhere = Request { source: Source::Ipv4(1), ..request.clone() };
    assert_eq!(
        describe(&decide(&from_elsewhere, &largest_world(&key))),
        "forbidden: ip_not_allowed"
    );
    let unlisted = largest_request("/v1/nothing/:id");
    let Decision::Deny(denial) = decide(&unlisted, &largest_world(&key)) else { unreachable!() };
    assert!(denial.message.contains(&unlisted.path), "the path is named whole");
    let allowed = allow_unlisted(unlisted);
    assert_eq!(
        describe(&decide(&allowed, &largest_world(&key))),
        "forbidden: more_permissions_required"
    );
}

#[test]
fn the_largest_header_full_of_blanks_and_slashes_is_decided() {
    let key = secret();
    for named in ["/".repeat(MAX_HEADER_BYTES), "acct_/".repeat(42), "a ".repeat(128)] {
        let decision = decide(&context(&named, get("/v1/charges")), &world(&key));
        assert_eq!(describe(&decision), "invalid request: context_invalid in Stripe-Context");
    }
    // As many segments as a path can have.
    let path = "/a".repeat(MAX_PATH_BYTES / 2);
    assert_eq!(describe(&decide(&get(&path), &world(&key))), "not found");
}

#[test]
fn the_largest_key_can_be_made() {
    let networks: Vec<String> = (0..MAX_NETWORKS).map(|n| format!("10.0.{n}.0/24")).collect();
    let backwards = || {
        let mut names: Vec<&str> = Permission::all().iter().map(Permission::name).collect();
        names.reverse();
        names.join(" ")
    };
    let request = KeyRequest {
        account: OWNER.to_owned(),
        mode: wardkey_policy::contract::Mode::Live,
        kind: "restricted".to_owned(),
        // Four bytes each.
        name: "🔑".repeat(MAX_NAME_CHARS),
        note: "🔑".repeat(MAX_NOTE_CHARS),
        permissions: backwards(),
        connect_permissions: backwards(),
        ip_allowlist: networks.join(" "),
        ends_at: Some(u64::MAX),
    };
    let plan = create(&Caller::Operator, &request, NOW).unwrap();
    assert_eq!(plan.permissions, all());
    assert_eq!(plan.connect_permissions, all());
    assert_eq!(plan.ipv4_nets.len(), MAX_NETWORKS);
}

/// By a key as large as itself, so that each permission and each network is
/// looked up among as many others.
#[test]
fn the_largest_key_can_be_managed() {
    let long_lived = Key { ends_at: None, ..largest_key() };
    let caller = Caller::Key(Key { id: format!("key_{}", "c".repeat(60)), ..long_lived.clone() });
    let current = StoredKey {
        name: "🔑".repeat(MAX_NAME_CHARS),
        note: "🔑".repeat(MAX_NOTE_CHARS),
        rotation: Some(schedule(NOW + DAY, Some(30))),
        ..stored(long_lived)
    };
    let networks: Vec<String> = (0..MAX_NETWORKS - 1).map(|n| format!("10.0.{n}.0/25")).collect();
    let change = KeyChange {
        name: Some(current.name.clone()),
        note: Some(current.note.clone()),
        permissions: Some(all()),
        connect_permissions: Some(all()),
        ip_allowlist: Some(networks.join(" ")),
    };
    let changed = update(&caller, &current, &change, NOW).unwrap();
    assert_eq!((changed.permissions, changed.ipv4_nets.len()), (all(), MAX_NETWORKS - 1));
    let request = RotationRequest { note: change.note, ..rotation_request(60) };
    let plan = rotate(&caller, &current, &request, NOW).unwrap();
    assert_eq!(plan.replacement.permissions, all());
    assert!(schedule_rotation(&caller, &current, &schedule(NOW + DAY, Some(30)), NOW).is_ok());
    assert!(reveal(&caller, &current, NOW).is_ok());
    assert_eq!(expire(&caller, &current, NOW), Ok(NOW));
    assert_eq!(status(&current, NOW).actions, "expire restore reveal rotate update");
    // What it holds itself does not count on connected accounts, so that there
    // all of it is missing, and named.
    let weak = Caller::Key(restricted("api_key_write"));
    let denial = rotate(&weak, &current, &request, NOW).unwrap_err();
    assert_eq!(denial.missing_permissions, all());
}
