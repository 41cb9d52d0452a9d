//! Keys that have not moved money for long, and what moves it.

use wardkey::{secret::Secret, storage::Mode};

use super::{common, outcome};
use common::{Answer, NOON, TestHost};

const DAY: u64 = 24 * 60 * 60;

/// The endpoints that are closed to a key of limited access.
const MONEY: [&str; 6] = [
    "/v1/payouts",
    "/v1/payouts/po_1/cancel",
    "/v1/payouts/po_1/reverse",
    "/v1/transfers",
    "/v1/transfers/tr_1/reversals",
    "/v1/accounts/acct_1/external_accounts",
];

fn post(host: &TestHost, path: &str, secret: &Secret) -> Answer {
    let auth = super::bearer(secret);
    host.call_with("POST", path, &[("Authorization", &auth)], "amount=100&currency=usd")
}

/// Asks for something that moves money, and compares what came of it.
#[track_caller]
fn check(host: &TestHost, now: u64, path: &str, secret: &Secret, expected: &str) {
    host.clock.set(now);
    let answer = post(host, path, secret);
    assert_eq!(outcome(&answer), expected, "{path} at {now}: {answer:?}");
}

#[test]
fn access_is_limited_after_180_days_and_not_at_180_days() {
    let host = TestHost::start();
    let (_, restricted) = host.key("restricted", &["payout_write"]);
    let secret = host.default_secret("secret", Mode::Live);
    for secret in [&restricted, &secret] {
        check(&host, NOON + 180 * DAY, "/v1/payouts/po_1/cancel", secret, "404 resource_missing");
    }
    for secret in [&restricted, &secret] {
        check(&host, NOON + 180 * DAY + 1, "/v1/payouts", secret, "403 access_limited");
    }
    // A key that was made later is not limited yet.
    let (_, younger) = host.key("restricted", &["payout_write"]);
    check(&host, NOON + 180 * DAY + 1, "/v1/payouts", &younger, "200");
}

#[test]
fn limited_access_closes_the_six_endpoints_and_no_other() {
    let host = TestHost::start();
    let secret = host.default_secret("secret", Mode::Test);
    host.clock.set(NOON + 180 * DAY + 1);
    for path in MONEY {
        let answer = post(&host, path, &secret);
        assert_eq!(outcome(&answer), "403 access_limited", "{path}");
        assert!(answer.message().contains("over 180 days"), "{answer:?}");
    }
    for request in [
        "GET /v1/payouts",
        "GET /v1/transfers",
        "GET /v1/payouts/po_1",
        "POST /v1/payouts/po_1",
        "POST /v1/transfers/tr_1",
        "POST /v1/charges",
        "POST /v1/refunds",
        "POST /v1/customers",
        "GET /v1/balance",
        "GET /v2/iam/api_keys/self",
    ] {
        let (method, path) = request.split_once(' ').unwrap();
        let answer = host.call(method, path, secret.expose());
        assert!(!outcome(&answer).contains("access_limited"), "{request}: {answer:?}");
        assert_ne!(answer.status, 403, "{request}: {answer:?}");
    }
    // Nothing was made by what was refused.
    for path in ["/v1/payouts", "/v1/transfers"] {
        let list = host.call("GET", path, secret.expose()).json();
        assert_eq!(list["data"].as_array().map(Vec::len), Some(0), "{path}: {list}");
    }
}

#[test]
fn moved_money_restarts_the_clock() {
    let host = TestHost::start();
    let secret = host.default_secret("secret", Mode::Test);
    let other = host.default_secret("secret", Mode::Live);
    let moved = NOON + 180 * DAY;
    check(&host, moved, "/v1/payouts", &secret, "200");
    check(&host, moved + 1, "/v1/payouts", &other, "403 access_limited");
    check(&host, moved + 180 * DAY, "/v1/transfers", &secret, "200");
    check(&host, moved + 360 * DAY, "/v1/transfers", &secret, "200");
    check(&host, moved + 540 * DAY + 1, "/v1/transfers", &secret, "403 access_limited");
    // A host that forgets what it has at hand reads the same from storage.
    host.finish();
    let key = host.block_on(host.storage.find_key_by_digest(secret.digest())).unwrap().unwrap();
    assert_eq!(key.money_moved_at, Some(moved + 360 * DAY));
}

/// Storage is told of uses about once a second. A key that is changed, and so read
/// anew, has not forgotten the money that it moved within that second.
#[test]
fn moved_money_is_not_forgotten_when_the_key_is_changed_at_once() {
    let host = TestHost::start();
    let (key, secret) = host.key("restricted", &["payout_write"]);
    let moved = NOON + 180 * DAY;
    check(&host, moved, "/v1/payouts", &secret, "200");
    let path = format!("/v2/iam/api_keys/{}", key.id);
    let changed = host.manage("POST", &path, serde_json::json!({ "note": "changed" }));
    assert_eq!(changed.status, 200, "{changed:?}");
    check(&host, moved + 1, "/v1/payouts", &secret, "200");
}

#[test]
fn a_refused_transfer_does_not_restart_the_clock() {
    let host = TestHost::start();
    let (_, reader) = host.key("restricted", &["payout_read"]);
    let secret = host.default_secret("secret", Mode::Test);
    let late = NOON + 180 * DAY;
    check(&host, late, "/v1/payouts", &reader, "403 more_permissions_required");
    check(&host, late, "/v1/payouts/po_missing/cancel", &secret, "404 resource_missing");
    check(&host, late + 1, "/v1/payouts", &secret, "403 access_limited");
    host.finish();
    let key = host.block_on(host.storage.find_key_by_digest(secret.digest())).unwrap().unwrap();
    assert_eq!(key.money_moved_at, None);
    let last_used_at = key.last_use.map(|last_use| last_use.at);
    assert_eq!(last_used_at, Some(late), "what was refused by the rules is no use");
}

#[test]
fn a_read_of_payouts_does_not_restart_the_clock() {
    let host = TestHost::start();
    let secret = host.default_secret("secret", Mode::Test);
    host.clock.set(NOON + 179 * DAY);
    assert_eq!(host.call("GET", "/v1/payouts", secret.expose()).status, 200);
    check(&host, NOON + 180 * DAY + 1, "/v1/payouts", &secret, "403 access_limited");
}
