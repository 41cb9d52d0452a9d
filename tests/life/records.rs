//! What is kept of keys and requests, and how it is found again: lists, the
//! request log, last uses and the audit log.

use std::{collections::BTreeSet, net::IpAddr};

use rusqlite::Connection;
use serde_json::{Value, json};
use wardkey::storage::AuditEntry;

use super::{
    DAY, KEYS, Life, Made, NOON, Options, common::account_named, on, outcome, text, time, token,
};

// Lists of keys.

/// Returns a page of ids and whether there is more.
#[track_caller]
fn page(life: &Life, query: &str) -> (Vec<String>, bool) {
    let list = life.check(&format!("GET {KEYS}?{query}"), Value::Null, "200");
    let ids = list["data"].as_array().unwrap().iter().map(|key| text(&key["id"])).collect();
    (ids, list["has_more"].as_bool().unwrap())
}

#[test]
fn no_key_is_listed_twice_or_missed_while_keys_are_made_and_end() {
    let life = Life::start();
    // All in the same second, so that time alone gives no order.
    let made: Vec<Made> = (0..40).map(|_| life.make_kind("restricted", false)).collect();
    for limit in [1, 7, 13, 40] {
        let (mut seen, mut after): (Vec<String>, _) = (Vec::new(), String::new());
        let there: BTreeSet<String> = life.list("").iter().map(|key| text(&key["id"])).collect();
        loop {
            let (ids, has_more) = page(&life, &format!("limit={limit}{after}"));
            assert!(ids.len() == limit || !has_more);
            seen.extend(ids);
            if !has_more {
                break;
            }
            let last = seen.last().unwrap();
            after = format!("&starting_after={last}");
            if seen.len() % 3 == 0 {
                life.make_kind("secret", true);
            }
        }
        let once: BTreeSet<String> = seen.iter().cloned().collect();
        assert_eq!(once.len(), seen.len(), "a key is listed twice");
        assert_eq!(once, there, "what was there is listed, and what came later is not");
        // Newest first: in the order they were made, backwards.
        let ours: Vec<&String> =
            seen.iter().filter(|id| made.iter().any(|key| key.id == **id)).collect();
        let expected: Vec<&String> = made.iter().rev().map(|key| &key.id).collect();
        assert_eq!(ours, expected);
    }
    // A cursor that ends meanwhile leads on all the same.
    let (ids, _) = page(&life, "limit=3&livemode=false");
    life.check_key(&ids[2], "expire", Value::Null, "200");
    let (next, _) = page(&life, &format!("limit=3&livemode=false&starting_after={}", ids[2]));
    let (all, _) = page(&life, "limit=5&livemode=false");
    assert_eq!(next[..], all[2..]);
}

#[test]
fn a_list_is_of_what_was_asked_for() {
    let life = Life::start();
    let other = life.host.make_account(account_named("Other"));
    let ended = life.make_kind("secret", false);
    life.check_key(&ended.id, "expire", Value::Null, "200");
    let ends = life.make(json!({ "kind": "secret", "expires_at": time(NOON + DAY) }));
    life.make(json!({ "kind": "secret", "account": other, "livemode": true }));
    let ours = format!("account={}", life.host.account);
    let count = |query: &str| life.list(query).len();
    assert_eq!(count(""), 6 + 1 + 6 + 1);
    assert_eq!(count("include_expired=true"), 6 + 2 + 6 + 1);
    assert_eq!(count("include_expired=false"), count(""));
    assert_eq!(count(&ours), 7);
    assert_eq!(count(&format!("{ours}&livemode=false")), 4);
    assert_eq!(count(&format!("{ours}&livemode=false&include_expired=true")), 5);
    assert_eq!(count("livemode=true"), 3 + 4);
    assert_eq!(count("account=acct_none"), 0);
    life.host.clock.set(NOON + DAY);
    assert_eq!(count(&ours), 6, "what has ended by itself is not listed either");
    let all = life.list(&format!("{ours}&include_expired=true"));
    for key in [&ended, &ends] {
        let listed = all.iter().find(|one| one["id"] == *key.id).unwrap();
        assert_eq!(listed["status"], "expired");
    }
    for query in [
        "limit=0",
        "limit=101",
        "limit=-1",
        "limit=x",
        "livemode=maybe",
        "include_expired=2",
        "page=2",
        "livemode=true&livemode=false",
    ] {
        life.check(&format!("GET {KEYS}?{query}"), Value::Null, "400 parameter_invalid");
    }
    let unknown = format!("GET {KEYS}?starting_after=key_none");
    life.check(&unknown, Value::Null, "404 resource_missing");
}

// The request log.

/// Returns what was logged as `METHOD path status code`, newest first.
#[track_caller]
fn logged_to(life: &Life, credential: &str, query: &str) -> Vec<String> {
    let request = format!("GET /v2/request_logs?limit=100&{query}");
    let answer = life.check_as(credential, &request, Value::Null, &[], "200").json();
    let entries = answer["data"].as_array().unwrap().clone();
    let line = |entry: &Value| {
        let word = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let status = &entry["status"];
        format!("{} {} {status} {}", word("method"), word("path"), word("code"))
            .trim_end()
            .to_owned()
    };
    entries.iter().map(line).collect()
}

fn logged(life: &Life, query: &str) -> Vec<String> {
    logged_to(life, &life.host.operator, query)
}

#[test]
fn a_request_is_found_by_all_that_is_known_of_it() {
    let life = Life::start();
    let reader = life.make(json!({ "kind": "restricted", "permissions": ["charge_read"] }));
    let owner = life.default_secret("secret", true);
    life.ask(&reader.secret, "GET /v1/charges/ch_1");
    life.ask(&reader.secret, "POST /v1/charges");
    life.host.clock.set(NOON + DAY);
    life.ask(&owner.secret, "POST /v1/customers");
    life.ask(&owner.secret, "GET /v1/customers");
    life.ask("sk_live_x", "GET /v1/customers");
    life.check_key(&reader.id, "expire", Value::Null, "200");
    life.ask(&reader.secret, "GET /v1/charges/ch_1");
    life.host.finish();

    let [missing, refused, made, listed, unknown, ended] = [
        "GET /v1/charges/:id 404 resource_missing",
        "POST /v1/charges 403 more_permissions_required",
        "POST /v1/customers 200",
        "GET /v1/customers 200",
        "GET /v1/customers 401",
        // Who has ended learns nothing of the API.
        "GET /v1/charges/ch_1 401 api_key_expired",
    ];
    let all = &[ended, unknown, listed, made, refused, missing][..];
    let (reader_id, owner_id) = (&reader.id, &owner.id);
    for (query, expected) in [
        ("", all),
        (&format!("key={reader_id}"), &[ended, refused, missing]),
        (&format!("key={owner_id}"), &[listed, made]),
        (&format!("account={}", life.host.account), &[ended, listed, made, refused, missing]),
        ("account=acct_none", &[]),
        ("livemode=true", &[listed, made]),
        ("livemode=false", &[ended, refused, missing]),
        (&format!("from={}", time(NOON + DAY)), &[ended, unknown, listed, made]),
        (&format!("until={}", time(NOON + DAY)), &[refused, missing]),
        (&format!("from={0}&until={0}", time(NOON)), &[]),
        (&format!("from={}&until={}", time(NOON), time(NOON + 1)), &[refused, missing]),
        ("status=4xx", &[ended, unknown, refused, missing]),
        ("status=2xx", &[listed, made]),
        ("status=5xx", &[]),
        ("status=403", &[refused]),
        ("code=api_key_expired", &[ended]),
        ("code=nothing", &[]),
        ("endpoint=GET%20/v1/customers", &[unknown, listed]),
        ("endpoint=/v1/customers", &[unknown, listed, made]),
        ("endpoint=get%20/v1/charges/:id", &[missing]),
        (&format!("key={owner_id}&status=200&endpoint=POST%20/v1/customers"), &[made]),
    ] {
        assert_eq!(logged(&life, query), expected, "{query}");
    }
    for query in ["status=6xx", "status=99", "status=4x", "from=today", "limit=0", "path=x"] {
        let request = format!("GET /v2/request_logs?{query}");
        life.check(&request, Value::Null, "400 parameter_invalid");
    }
    let unknown = "GET /v2/request_logs?key=key_none";
    life.check(unknown, Value::Null, "404 resource_missing");

    // In pages.
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let request = format!("GET /v2/request_logs?limit=2{after}");
        let list = life.check(&request, Value::Null, "200");
        let entries = list["data"].as_array().unwrap();
        seen.extend(entries.iter().map(|entry| entry["id"].clone()));
        if list["has_more"] == false {
            break;
        }
        after = format!("&starting_after={}", entries.last().unwrap()["position"]);
    }
    assert_eq!(seen.len(), all.len());
}

#[test]
fn a_key_sees_what_was_asked_of_its_account_and_mode() {
    let life = Life::start();
    let other = life.host.make_account(account_named("Other"));
    let reading = json!({ "kind": "restricted", "permissions": ["api_key_read"] });
    let reader = life.make(reading.clone());
    let live = life.default_secret("secret", true);
    let mut foreign = reading;
    foreign["account"] = other.clone().into();
    let foreign = life.make(foreign);
    for (key, request) in
        [(&reader, "GET /v1/charges"), (&live, "GET /v1/customers"), (&foreign, "GET /v1/payouts")]
    {
        life.ask(&key.secret, request);
    }
    life.host.finish();
    let refused = "403 more_permissions_required";
    let own = [format!("GET /v1/charges {refused}")];
    assert_eq!(logged_to(&life, &reader.secret, ""), own);
    assert_eq!(logged_to(&life, &reader.secret, &format!("account={}", life.host.account)), own);
    assert_eq!(logged_to(&life, &live.secret, ""), ["GET /v1/customers 200"]);
    assert_eq!(logged_to(&life, &foreign.secret, ""), [format!("GET /v1/payouts {refused}")]);
    for (query, expected) in [
        (format!("account={other}"), "403 key_scope"),
        ("livemode=true".to_owned(), "403 key_scope"),
        (format!("key={}", foreign.id), "404 resource_missing"),
        (format!("key={}", live.id), "404 resource_missing"),
    ] {
        let request = format!("GET /v2/request_logs?{query}");
        life.check_as(&reader.secret, &request, Value::Null, &[], expected);
    }
}

#[test]
fn the_request_log_is_kept_as_long_as_the_operator_said() {
    for (days, kept) in [(Some(30), 1), (None, 2)] {
        let life = Life::start_with(Options { log_retention_days: days, ..Options::default() });
        let key = life.default_secret("secret", false);
        life.ask(&key.secret, "GET /v1/charges");
        life.host.clock.set(NOON + DAY);
        life.ask(&key.secret, "GET /v1/customers");
        life.host.finish();
        let drop_old = |now: u64| {
            life.host.clock.set(now);
            life.host.block_on(life.host.host.drop_old()).unwrap()
        };
        assert_eq!(drop_old(NOON + 30 * DAY), 0);
        assert_eq!(logged(&life, "").len(), 2);
        assert_eq!(drop_old(NOON + 30 * DAY + 1), 2 - kept);
        assert_eq!(logged(&life, "").len(), usize::try_from(kept).unwrap());
        // The audit log is kept for good.
        assert!(life.state().done.len() >= 7);
    }
}

#[test]
fn a_key_tells_when_from_where_and_what_for_it_was_last_used() {
    let life = Life::start();
    let wanted = json!({ "kind": "restricted", "permissions": ["charge_read", "api_key_read"],
        "ip_allowlist": ["192.0.2.0/24"] });
    let key = life.make(wanted);
    let unused = life.make_kind("secret", false);
    let auth = format!("Bearer {}", key.secret);
    let from = |address, method: &str, path: &str| {
        let headers = [("Authorization", &*auth), ("X-Forwarded-For", address)];
        outcome(&life.host.call_with(method, path, &headers, ""))
    };
    assert_eq!(from("192.0.2.1", "GET", "/v1/charges?limit=3"), "200");
    life.host.clock.set(NOON + 10);
    assert_eq!(from("192.0.2.9", "GET", "/v1/charges/ch_1"), "404 resource_missing");
    // What the rules refuse is no use.
    life.host.clock.set(NOON + 20);
    assert_eq!(from("192.0.2.8", "POST", "/v1/charges"), "403 more_permissions_required");
    assert_eq!(from("198.51.100.1", "GET", "/v1/charges"), "403 ip_not_allowed");
    life.host.finish();
    let revision = key.shown["revision"].clone();
    let last = |id: &str| {
        let shown = life.show(id);
        assert_eq!(shown["revision"], revision, "to use a key is no change of it");
        ["last_used", "last_used_source", "last_used_endpoint"].map(|field| shown[field].clone())
    };
    assert_eq!(
        last(&key.id),
        [json!(time(NOON + 10)), json!("192.0.2.9"), json!("GET /v1/charges/:id")]
    );
    assert_eq!(last(&unused.id), [Value::Null, Value::Null, Value::Null]);
    // To manage keys is a use too, and a template holds nothing that was typed.
    life.host.clock.set(NOON + 30);
    let show = format!("GET {KEYS}/{}", key.id);
    let headers = [("X-Forwarded-For", "192.0.2.7")];
    life.check_as(&key.secret, &show, Value::Null, &headers, "200");
    life.host.finish();
    assert_eq!(
        last(&key.id),
        [json!(time(NOON + 30)), json!("192.0.2.7"), json!("GET /v2/iam/api_keys/:id")]
    );
}

// The audit log.

/// What is to be found in an entry: the fields before and after, and no other.
struct Fields(&'static [&'static str]);

/// Does something as the operator, and compares the entries that it leaves: each
/// an action, the fields that changed, and whether there was anything before.
#[track_caller]
fn check_audited(
    life: &Life,
    request: &str,
    body: Value,
    expected: &[(&str, bool, Fields)],
) -> Value {
    let count = life.host.block_on(life.audit()).len();
    let headers = [("X-Forwarded-For", "192.0.2.77")];
    let operator = &life.host.operator;
    let (method, path) = request.split_once(' ').unwrap();
    let answer = life.host.manage_as(operator, method, path, body, &headers);
    assert!(answer.status < 400, "{request}: {answer:?}");
    let log = life.host.block_on(life.audit());
    let entries = &log[count..];
    assert_eq!(entries.len(), expected.len(), "{request}: {entries:#?}");
    for (entry, (action, was_there, Fields(fields))) in entries.iter().zip(expected) {
        assert_eq!(entry.action, *action, "{request}");
        assert_eq!(entry.actor, "operator");
        assert_eq!(entry.source, Some(IpAddr::from([192, 0, 2, 77])));
        assert_eq!(entry.request_id.as_ref(), Some(&answer.headers["request-id"]));
        assert_eq!(entry.at_ms, life.host.clock.now_ms());
        assert_eq!(entry.refused, None);
        let names = |value: &Option<Value>| -> BTreeSet<String> {
            let object = value.as_ref().and_then(Value::as_object);
            object.map(|object| object.keys().cloned().collect()).unwrap_or_default()
        };
        let expected: BTreeSet<String> = fields.iter().map(|&field| field.to_owned()).collect();
        if *was_there {
            assert_eq!(names(&entry.before), expected, "{request}: {entry:#?}");
            assert_eq!(names(&entry.after), expected, "{request}: {entry:#?}");
        } else {
            assert_eq!(entry.before, None, "{request}");
            assert!(names(&entry.after).is_superset(&expected), "{request}: {entry:#?}");
        }
    }
    answer.json()
}

#[test]
fn the_audit_log_tells_who_did_what_from_where_and_how_it_was_before() {
    let life = Life::start();
    const NEW: Fields =
        Fields(&["id", "kind", "name", "permissions", "ip_allowlist", "expires_at", "revision"]);
    let account = life.host.account.clone();
    let wanted = json!({ "kind": "restricted", "name": "a key", "account": account });
    let made =
        check_audited(&life, &format!("POST {KEYS}"), wanted, &[("api_key.created", false, NEW)]);
    let id = text(&made["id"]);
    let entry = life.last_audit();
    assert_eq!(entry.target.as_deref(), Some(&*id));
    assert_eq!(entry.after.unwrap()["name"], "a key");

    check_audited(
        &life,
        &on(&id, ""),
        json!({ "name": "renamed", "ip_allowlist": ["192.0.2.7"] }),
        &[("api_key.updated", true, Fields(&["name", "ip_allowlist", "revision"]))],
    );
    let AuditEntry { before, after, .. } = life.last_audit();
    assert_eq!(before, Some(json!({ "name": "a key", "ip_allowlist": [], "revision": 1 })));
    let now = json!({ "name": "renamed", "ip_allowlist": ["192.0.2.7"], "revision": 2 });
    assert_eq!(after, Some(now));

    let rotation = || Fields(&["rotation", "revision"]);
    let at = json!({ "at": time(NOON + DAY) });
    let schedule = on(&id, "schedule_rotation");
    check_audited(&life, &schedule, at, &[("api_key.rotation_scheduled", true, rotation())]);
    let cancel = on(&id, "cancel_rotation");
    check_audited(&life, &cancel, Value::Null, &[("api_key.rotation_canceled", true, rotation())]);
    let restored = Fields(&["restored_at", "revision"]);
    let restore = on(&id, "restore");
    check_audited(&life, &restore, Value::Null, &[("api_key.access_restored", true, restored)]);
    let reveal = on(&id, "reveal");
    check_audited(&life, &reveal, Value::Null, &[("api_key.revealed", true, Fields(&[]))]);
    let replaced = Fields(&["expires_at", "replaced_by", "revision"]);
    let made = check_audited(
        &life,
        &on(&id, "rotate"),
        json!({ "expire_current_key_in_minutes": 60 }),
        &[("api_key.rotated", true, replaced), ("api_key.created", false, NEW)],
    );
    let ended = Fields(&["expires_at", "status", "revision"]);
    let expire = on(&text(&made["id"]), "expire");
    check_audited(&life, &expire, Value::Null, &[("api_key.expired", true, ended)]);
    let digest = wardkey::secret::Digest::of("x").to_hex();
    let import = json!({ "kind": "secret", "name": "taken in", "account": account,
        "digest": digest, "redacted": "old_****abcd" });
    let request = format!("POST {KEYS}/import");
    check_audited(&life, &request, import, &[("api_key.imported", false, NEW)]);

    let name = json!({ "name": "Group" });
    let organization = Fields(&["id", "name"]);
    let made = check_audited(
        &life,
        "POST /v2/organizations",
        name,
        &[("organization.created", false, organization)],
    );
    let join = json!({ "organization": made["id"] });
    let request = format!("POST /v2/accounts/{account}");
    let joined = [("account.updated", true, Fields(&["organization"]))];
    check_audited(&life, &request, join, &joined);
    let mut expected = vec![("account.created", false, Fields(&["id", "name"]))];
    expected.extend((0..6).map(|_| ("api_key.created", false, NEW)));
    check_audited(&life, "POST /v2/accounts", json!({ "name": "Shop" }), &expected);

    // What the host does by itself.
    let key = life.make(json!({ "kind": "restricted", "expires_at": time(NOON + 2 * DAY) }));
    let at = json!({ "at": time(NOON + DAY) });
    life.check_key(&key.id, "schedule_rotation", at, "200");
    let count = life.host.block_on(life.audit()).len();
    life.wait_until(NOON + 2 * DAY);
    let log = life.host.block_on(life.audit());
    assert!(log.len() > count);
    for entry in &log[count..] {
        assert_eq!((&*entry.actor, entry.source, &entry.request_id), ("platform", None, &None));
    }
}

/// What was refused, and what the audit log has to say of it.
#[track_caller]
fn check_refused(
    life: &Life,
    caller: (&str, &str),
    request: &str,
    body: Value,
    expected: (&str, &str),
    target: Option<&str>,
) {
    let (credential, actor) = caller;
    let (outcome, action) = expected;
    let count = life.host.block_on(life.audit()).len();
    let headers = [("X-Forwarded-For", "192.0.2.66")];
    let answer = life.check_as(credential, request, body, &headers, outcome);
    let log = life.host.block_on(life.audit());
    let [entry] = &log[count..] else { panic!("{request}: {:#?}", &log[count..]) };
    assert_eq!((&*entry.actor, &*entry.action), (actor, action), "{request}");
    assert_eq!(entry.refused, Some(answer.code()), "{request}");
    assert_eq!(entry.target.as_deref(), target, "{request}");
    assert_eq!(entry.source, Some(IpAddr::from([192, 0, 2, 66])), "{request}");
    assert_eq!(entry.request_id.as_ref(), Some(&answer.headers["request-id"]), "{request}");
    assert_eq!((&entry.before, &entry.after), (&None, &None), "{request}");
}

#[test]
fn what_a_known_caller_was_refused_is_in_the_audit_log() {
    let life = Life::start();
    let operator = (&*life.host.operator, "operator");
    let live = life.make_kind("secret", true);
    let publishable = text(&life.default_key("publishable", true)["id"]);
    let create = &format!("POST {KEYS}");
    let wanted = json!({ "kind": "restricted", "name": "x", "account": life.host.account });
    let with = |field: &str, value: Value| {
        let mut wanted = wanted.clone();
        wanted[field] = value;
        wanted
    };
    let reveal = on(&live.id, "reveal");
    let shown_once = ("403 secret_shown_once", "api_key.revealed");
    check_refused(&life, operator, &reveal, Value::Null, shown_once, Some(&live.id));
    let expire = on(&publishable, "expire");
    let cannot = ("400 publishable_key_cannot_expire", "api_key.expired");
    check_refused(&life, operator, &expire, Value::Null, cannot, Some(&publishable));
    let missing = ("404 resource_missing", "api_key.updated");
    check_refused(&life, operator, &on("key_none", ""), json!({}), missing, Some("key_none"));
    let nameless = ("400 parameter_missing", "api_key.created");
    check_refused(&life, operator, create, with("name", json!("")), nameless, None);
    let ipv6 = with("ip_allowlist", json!(["::1"]));
    let invalid = ("400 parameter_invalid", "api_key.created");
    check_refused(&life, operator, create, ipv6, invalid, None);
    for (request, action) in [
        ("POST /v2/accounts", "account.created"),
        ("POST /v2/organizations", "organization.created"),
    ] {
        let expected = ("400 parameter_invalid", action);
        check_refused(&life, operator, request, json!({ "name": " " }), expected, None);
    }
    let join = json!({ "organization": "org_none" });
    let account = format!("POST /v2/accounts/{}", life.host.account);
    let missing = ("404 resource_missing", "account.updated");
    check_refused(&life, operator, &account, join, missing, Some(&life.host.account));

    // Keys, at the door and behind it.
    let manager = life.make(json!({ "kind": "restricted", "permissions": ["api_key_write"] }));
    let manager = (&*manager.secret, &*manager.id);
    let more = with("permissions", json!(["charge_read"]));
    let beyond = ("403 more_permissions_required", "api_key.created");
    check_refused(&life, manager, create, more, beyond, None);
    let foreign = ("404 resource_missing", "api_key.expired");
    check_refused(&life, manager, &on(&live.id, "expire"), Value::Null, foreign, Some(&live.id));
    let none = life.make_kind("restricted", false);
    let none = (&*none.secret, &*none.id);
    let door = ("403 more_permissions_required", "POST /v2/iam/api_keys");
    check_refused(&life, none, create, wanted.clone(), door, None);
    let path = format!("/v2/iam/api_keys/{}", live.id);
    let door = ("403 more_permissions_required", &*format!("GET {path}"));
    check_refused(&life, none, &format!("GET {path}"), Value::Null, door, None);
    for request in ["GET /v2/audit_log", "POST /v2/accounts"] {
        let body = if request.starts_with("POST") { json!({ "name": "x" }) } else { Value::Null };
        check_refused(&life, none, request, body, ("401 operator_required", request), None);
    }
    let limited = life.make(json!({ "kind": "secret", "ip_allowlist": ["198.51.100.1"] }));
    let limited = (&*limited.secret, &*limited.id);
    let door = ("403 ip_not_allowed", "POST /v2/iam/api_keys");
    check_refused(&life, limited, create, wanted.clone(), door, None);
    let ended = life.make_kind("secret", false);
    life.check_key(&ended.id, "expire", Value::Null, "200");
    let ended = (&*ended.secret, &*ended.id);
    let door = ("401 api_key_expired", "POST /v2/iam/api_keys");
    check_refused(&life, ended, create, wanted.clone(), door, None);

    // Of strangers there is nothing to tell.
    let count = life.host.block_on(life.audit()).len();
    for stranger in ["x", "sk_live_x", wardkey::secret::Secret::generate(None, "sk_live_").expose()]
    {
        life.check_as(stranger, create, wanted.clone(), &[], "401");
    }
    assert_eq!(life.host.block_on(life.audit()).len(), count);
}

#[test]
fn the_audit_log_is_read_by_target_and_actor_and_in_pages() {
    let life = Life::start();
    let manager = life.make(json!({ "kind": "restricted", "permissions": ["api_key_write"] }));
    let wanted = json!({ "kind": "restricted", "name": "x" });
    let request = format!("POST {KEYS}");
    let made = life.check_as(&manager.secret, &request, wanted, &[], "201").json();
    let id = text(&made["id"]);
    life.check_key(&id, "", json!({ "name": "y" }), "200");
    life.check_key(&id, "reveal", Value::Null, "200");
    let read = |query: &str| {
        let list = life.check(&format!("GET /v2/audit_log?limit=100&{query}"), Value::Null, "200");
        let entries = list["data"].as_array().unwrap();
        entries.iter().map(|entry| text(&entry["action"])).collect::<Vec<_>>()
    };
    let all = ["api_key.revealed", "api_key.updated", "api_key.created"];
    assert_eq!(read(&format!("target={id}")), all);
    assert_eq!(read(&format!("actor={}", manager.id)), ["api_key.created"]);
    assert_eq!(read(&format!("target={id}&actor=operator")), all[..2]);
    assert!(read("target=key_none").is_empty());
    let whole = life.host.block_on(life.audit()).len();
    let (mut sequences, mut after) = (Vec::new(), String::new());
    loop {
        let list = life.check(&format!("GET /v2/audit_log?limit=3{after}"), Value::Null, "200");
        let entries = list["data"].as_array().unwrap();
        sequences.extend(entries.iter().map(|entry| entry["sequence"].as_u64().unwrap()));
        if list["has_more"] == false {
            break;
        }
        after = format!("&starting_after={}", sequences.last().unwrap());
    }
    let expected: Vec<u64> = (1..=whole as u64).rev().collect();
    assert_eq!(sequences, expected);
}

/// Changes the database as somebody with a shell would, past what is to stop
/// mistakes.
fn tamper(life: &Life, sql: &str) {
    let database = Connection::open(life.host.data_dir.database()).unwrap();
    database.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
    for trigger in ["has_no_gaps", "is_not_changed", "is_not_shortened"] {
        database.execute_batch(&format!("DROP TRIGGER audit_log_{trigger}")).unwrap();
    }
    database.execute_batch(sql).unwrap();
}

#[test]
fn whoever_tampers_with_the_audit_log_is_found_out() {
    // Each with what is said of it to whoever kept no head, and to whoever did.
    for (sql, without, with) in [
        ("", "", ""),
        (
            "UPDATE audit_log SET text = replace(text, 'operator', 'platform') WHERE seq = 9",
            "entry 9",
            "entry 9",
        ),
        ("DELETE FROM audit_log WHERE seq = 4", "entry 4", "entry 4"),
        ("DELETE FROM audit_log WHERE seq = 1", "entry 1", "entry 1"),
        (
            "UPDATE audit_log SET text = (SELECT text FROM audit_log WHERE seq = 8) WHERE seq = 9",
            "entry 9",
            "entry 9",
        ),
        ("UPDATE audit_log SET seal = zeroblob(32) WHERE seq = 5", "entry 5", "entry 5"),
        // A log that was cut off is a good log, only shorter.
        ("DELETE FROM audit_log WHERE seq >= 9", "", "cut off"),
        ("DELETE FROM audit_log", "", "cut off"),
    ] {
        let life = Life::start();
        life.make_kind("secret", true);
        life.make_kind("restricted", true);
        let verify = |head: &Value| {
            let body = json!({ "head": head });
            life.check("POST /v2/audit_log/verify", body, "200")
        };
        let head = life.check("GET /v2/audit_log/head", Value::Null, "200")["head"].clone();
        assert_eq!(verify(&head)["intact"], true);
        life.make_kind("secret", true);
        if !sql.is_empty() {
            tamper(&life, sql);
        }
        for (head, expected) in [(&Value::Null, without), (&head, with)] {
            let found = verify(head);
            assert_eq!(found["intact"], expected.is_empty(), "{sql}: {found}");
            let fault = found["fault"].as_str().unwrap_or_default();
            assert!(fault.contains(expected), "{sql}: {fault}");
        }
    }
}

#[test]
fn no_secret_is_in_the_audit_log() {
    let life = Life::start();
    let mut secrets: Vec<String> = Vec::new();
    for kind in ["publishable", "secret", "restricted", "managed"] {
        for live in [false, true] {
            let made = life.make_kind(kind, live);
            let rotated = Made::from(life.check_key(&made.id, "rotate", json!({}), "200"));
            if !live && kind != "managed" {
                life.check_key(&rotated.id, "reveal", Value::Null, "200");
            }
            if kind != "publishable" {
                secrets.extend([made.secret, rotated.secret]);
            }
        }
    }
    // Where people put them: in place of an id, in a name, in a note.
    let manager = life.make(json!({ "kind": "restricted", "permissions": ["api_key_write"] }));
    let weak = life.make_kind("restricted", false);
    let secret = manager.secret.clone();
    let missing = "404 resource_missing";
    for verb in ["", "expire", "rotate", "reveal"] {
        life.check_key(&secret, verb, json!({}), missing);
    }
    let show = format!("GET {KEYS}/{secret}");
    life.check_as(&manager.secret, &show, Value::Null, &[], missing);
    life.check_as(&weak.secret, &show, Value::Null, &[], "403 more_permissions_required");
    let nowhere = format!("GET /v2/accounts/{secret}");
    life.check_as(&weak.secret, &nowhere, Value::Null, &[], "401 operator_required");
    life.check(&format!("POST /v2/accounts/{secret}"), json!({ "organization": null }), missing);
    life.make(json!({ "kind": "restricted", "name": secret, "note": format!("it is {secret}") }));
    life.check_key(&weak.id, "", json!({ "note": secret }), "200");
    life.check_key(&weak.id, "rotate", json!({ "note": format!("was {secret}") }), "200");
    secrets.extend([manager.secret, weak.secret, life.host.operator.clone()]);
    secrets.extend(life.list("").iter().filter_map(token).filter(|key| !key.starts_with("pk_")));

    for entry in life.host.block_on(life.audit()) {
        let text = serde_json::to_string(&entry).unwrap();
        for secret in &secrets {
            let body = &secret[secret.len() - 30..];
            assert!(!text.contains(body), "a secret is in the audit log: {entry:#?}");
        }
    }
    // Nor in what is shown as a last use.
    life.host.finish();
    for key in life.state().keys.values() {
        let used = life.stored(&key.id).last_use.map(|used| used.endpoint).unwrap_or_default();
        assert!(!secrets.iter().any(|secret| used.contains(&secret[10..40])), "{used}");
    }
}
