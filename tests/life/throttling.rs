//! Who fails or is refused too often has to wait, and nobody else.

use serde_json::{Value, json};
use wardkey::{gate::GateConfig, secret::Secret};

use super::{DAY, KEYS, Life, NOON, Options, on, outcome, send_json, time};

/// How often a source may fail in a minute here.
const SHARE: usize = 6;

const TOO_MANY: &str = "429 too_many_failed_authentications";

fn strict() -> Life {
    let gate = GateConfig {
        max_failed_auth_per_minute: SHARE.try_into().unwrap(),
        ..GateConfig::default()
    };
    Life::start_with(Options { gate, ..Options::default() })
}

/// Asks for keys at the management listener, from an address.
fn manage_from(life: &Life, credential: &str, address: &str) -> String {
    let auth = format!("Bearer {credential}");
    let headers = [("Authorization", &*auth), ("X-Forwarded-For", address)];
    outcome(&send_json(life.host.admin, "GET", KEYS, &headers, ""))
}

#[test]
fn a_source_that_fails_too_often_waits_and_good_keys_behind_it_do_not() {
    let life = strict();
    let cached = life.make_kind("secret", false);
    let cold = life.make_kind("secret", false);
    assert_eq!(life.used_from(&cached.secret, "192.0.2.1"), "200");
    let unknown = Secret::generate(None, "sk_live_");
    // Made up, malformed or well made: all the same.
    for (number, wrong) in
        ["sk_live_x", unknown.expose(), "", "whsec_x"].into_iter().cycle().take(20).enumerate()
    {
        let expected = if number < SHARE { "401" } else { TOO_MANY };
        let answer = life.used_from(wrong, "192.0.2.1");
        assert!(answer.starts_with(expected), "{number}: {answer}");
    }
    // Good keys at the same address, from memory and from storage.
    assert_eq!(life.used_from(&cached.secret, "192.0.2.1"), "200");
    assert_eq!(life.used_from(&cold.secret, "192.0.2.1"), "200");
    assert_eq!(manage_from(&life, &cached.secret, "192.0.2.1"), "200");
    assert_eq!(manage_from(&life, &life.host.operator, "192.0.2.1"), "200");
    // Good keys that may not do this are told so.
    let weak = life.make_kind("restricted", false);
    assert_eq!(life.call(&weak.secret, "GET /v1/charges"), "403 more_permissions_required");
    // Another address has a share of its own.
    assert_eq!(life.used_from("sk_live_x", "192.0.2.2"), "401");
    // Both listeners count together.
    assert_eq!(manage_from(&life, "sk_live_x", "192.0.2.1"), TOO_MANY);
    // Whoever is told to wait learns nothing of the key.
    assert_eq!(life.used_from(unknown.expose(), "192.0.2.1"), TOO_MANY);
}

#[test]
fn the_share_comes_back_with_time() {
    let life = strict();
    let fail = || life.used_from("sk_live_x", "192.0.2.1");
    let spend = |expected: usize| {
        for number in 0..=expected {
            assert_eq!(fail(), if number < expected { "401" } else { TOO_MANY }, "{number}");
        }
    };
    spend(SHARE);
    life.host.clock.set(NOON + 9);
    assert_eq!(fail(), TOO_MANY);
    life.host.clock.set(NOON + 10);
    spend(1);
    life.host.clock.set(NOON + 30);
    spend(2);
    // It does not pile up.
    life.host.clock.set(NOON + DAY);
    spend(SHARE);
}

#[test]
fn the_management_listener_counts_failures_too() {
    let life = strict();
    for number in 0..SHARE + 3 {
        let expected = if number < SHARE { "401" } else { TOO_MANY };
        assert_eq!(manage_from(&life, "sk_live_x", "192.0.2.1"), expected, "{number}");
    }
    assert_eq!(life.used_from("sk_live_x", "192.0.2.1"), TOO_MANY);
    assert_eq!(manage_from(&life, "sk_live_x", "192.0.2.2"), "401");
    // At an operator's route nothing but the operator credential is good.
    for number in 0..SHARE {
        let auth = [("Authorization", "Bearer x"), ("X-Forwarded-For", "192.0.2.3")];
        let answer = send_json(life.host.admin, "GET", "/v2/accounts", &auth, "");
        assert_eq!(outcome(&answer), "401 operator_required", "{number}");
    }
    assert_eq!(manage_from(&life, "x", "192.0.2.3"), TOO_MANY);
    assert_eq!(manage_from(&life, &life.host.operator, "192.0.2.3"), "200");
}

/// How often a caller of the management listener may be refused in a minute.
const REFUSALS: usize = 120;

#[test]
fn a_caller_that_goes_on_being_refused_waits() {
    let life = Life::start();
    let manager = || life.make(json!({ "kind": "restricted", "permissions": ["api_key_write"] }));
    let (loud, quiet) = (manager(), manager());
    let create =
        |key: &str, wanted: Value| outcome(&life.host.manage_as(key, "POST", KEYS, wanted, &[]));
    let refused = json!({ "kind": "secret", "name": "x" });
    let good = json!({ "kind": "restricted", "name": "x" });
    for number in 0..REFUSALS {
        let answer = create(&loud.secret, refused.clone());
        assert_eq!(answer, "403 more_permissions_required", "{number}");
    }
    let entries = life.host.block_on(life.audit()).len();
    for _ in 0..5 {
        assert_eq!(create(&loud.secret, refused.clone()), "429 rate_limit");
        assert_eq!(create(&loud.secret, good.clone()), "429 rate_limit");
    }
    assert_eq!(life.host.block_on(life.audit()).len(), entries, "the audit log is not filled");
    // Reading goes on, and so does everybody else; and the gate.
    life.check_as(&loud.secret, &format!("GET {KEYS}"), Value::Null, &[], "200");
    assert_eq!(create(&quiet.secret, good.clone()), "201");
    life.make_kind("restricted", false);
    assert_eq!(life.used(&loud.secret), "200");
    // And with time it may again.
    life.host.clock.set(NOON + 1);
    assert_eq!(create(&loud.secret, good.clone()), "201");
    for _ in 0..2 {
        assert_eq!(create(&loud.secret, refused.clone()), "403 more_permissions_required");
    }
    assert_eq!(create(&loud.secret, refused), "429 rate_limit");
}

/// Whoever has a stolen key, and is not where it may be used from, must not be
/// able to keep its owner out.
#[test]
fn refusals_at_the_door_are_no_lock_for_those_inside() {
    let life = Life::start();
    let wanted = json!({ "kind": "restricted", "permissions": ["api_key_write"],
        "ip_allowlist": ["192.0.2.7"] });
    let key = life.make(wanted);
    let from = |address: &str| {
        let auth = format!("Bearer {}", key.secret);
        let headers = [("Authorization", &*auth), ("X-Forwarded-For", address)];
        let body = json!({ "kind": "restricted", "name": "x", "ip_allowlist": ["192.0.2.7"] });
        outcome(&send_json(life.host.admin, "POST", KEYS, &headers, &body.to_string()))
    };
    let entries = life.host.block_on(life.audit()).len();
    for number in 0..REFUSALS + 10 {
        let expected = if number < REFUSALS { "403 ip_not_allowed" } else { "429 rate_limit" };
        assert_eq!(from("198.51.100.1"), expected, "{number}");
    }
    assert_eq!(life.host.block_on(life.audit()).len(), entries + REFUSALS);
    assert_eq!(from("192.0.2.7"), "201");
}

#[test]
fn the_operator_is_held_up_by_its_own_refusals_only() {
    let life = Life::start();
    let key = life.make_kind("secret", false);
    let at = json!({ "at": time(NOON - 1) });
    for number in 0..REFUSALS {
        let path = format!("{KEYS}/{}/schedule_rotation", key.id);
        let answer = life.host.manage("POST", &path, at.clone());
        assert_eq!(outcome(&answer), "400 parameter_invalid", "{number}");
    }
    let operator = &life.host.operator;
    let expire = on(&key.id, "expire");
    let answer = life.check_as(operator, &expire, Value::Null, &[], "429 rate_limit");
    assert_eq!(answer.headers["retry-after"], "60");
    life.check_as(&key.secret, &expire, Value::Null, &[], "200");
    life.host.clock.set(NOON + 60);
    life.make_kind("secret", false);
}
