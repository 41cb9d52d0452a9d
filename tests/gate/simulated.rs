//! The gate before the built-in API: modes, front ends, and whose objects.

use wardkey::{secret::Secret, storage::Mode};

use super::{common, outcome};
use common::{Answer, TestHost, account_named, by_operator};

fn make(host: &TestHost, path: &str, secret: &Secret) -> serde_json::Value {
    let auth = super::bearer(secret);
    let made = host.call_with("POST", path, &[("Authorization", &auth)], "amount=100&currency=usd");
    assert_eq!(made.status, 200, "{made:?}");
    made.json()
}

#[track_caller]
fn check(host: &TestHost, request: &str, secret: &Secret, expected: &str) -> Answer {
    let (method, path) = request.split_once(' ').unwrap();
    let answer = host.call(method, path, secret.expose());
    assert_eq!(outcome(&answer), expected, "{request}: {answer:?}");
    if answer.status >= 400 {
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error", "{answer:?}");
        assert_eq!(answer.headers["content-type"], "application/json");
    }
    answer
}

#[test]
fn the_other_modes_object_is_missing_with_a_hint() {
    let host = TestHost::start();
    let test = host.default_secret("secret", Mode::Test);
    let live = host.default_secret("secret", Mode::Live);
    for (maker, asker, hint) in [
        (&test, &live, "exists in test mode, but a live mode key was used"),
        (&live, &test, "exists in live mode, but a test mode key was used"),
    ] {
        let made = make(&host, "/v1/customers", maker);
        let request = format!("GET /v1/customers/{}", made["id"].as_str().unwrap());
        check(&host, &request, maker, "200");
        let answer = check(&host, &request, asker, "404 resource_missing");
        assert!(answer.message().contains(hint), "{answer:?}");
    }
    let answer = check(&host, "GET /v1/customers/cus_missing", &test, "404 resource_missing");
    assert_eq!(answer.message(), "No such customer: 'cus_missing'");
}

#[test]
fn another_accounts_object_is_missing_without_a_hint() {
    let host = TestHost::start();
    let secret = host.default_secret("secret", Mode::Test);
    let made = make(&host, "/v1/customers", &secret);
    let id = made["id"].as_str().unwrap();
    let other = host.host.keys().create_account(by_operator(), account_named("Other"));
    for (key, secret) in host.block_on(other).unwrap().1 {
        if key.kind == "secret" {
            let request = format!("GET /v1/customers/{id}");
            let answer = check(&host, &request, &secret, "404 resource_missing");
            assert_eq!(answer.message(), format!("No such customer: '{id}'"));
        }
    }
}

#[test]
fn a_front_end_sees_a_payment_intent_with_its_client_secret_only() {
    let host = TestHost::start();
    let publishable = host.default_secret("publishable", Mode::Test);
    let intent = make(&host, "/v1/payment_intents", &host.default_secret("secret", Mode::Test));
    let id = intent["id"].as_str().unwrap();
    let client_secret = intent["client_secret"].as_str().unwrap();
    let get = format!("GET /v1/payment_intents/{id}");
    check(&host, &format!("{get}?client_secret={client_secret}"), &publishable, "200");
    check(&host, &get, &publishable, "404 resource_missing");
    check(&host, &format!("{get}?client_secret="), &publishable, "404 resource_missing");
    check(&host, &format!("{get}?client_secret={client_secret}x"), &publishable, {
        "404 resource_missing"
    });
    let live = host.default_secret("publishable", Mode::Live);
    let answer = check(&host, &format!("{get}?client_secret={client_secret}"), &live, {
        "404 resource_missing"
    });
    assert!(!answer.message().contains("test mode"), "a front end learns of the other mode");
}

#[test]
fn every_answer_names_its_request() {
    let host = TestHost::start();
    let secret = host.default_secret("secret", Mode::Test);
    let answers = [
        check(&host, "GET /v1/customers", &secret, "200"),
        check(&host, "GET /v1/customers/cus_missing", &secret, "404 resource_missing"),
        check(&host, "GET /v1/nothing", &secret, "404"),
        check(&host, "GET /", &secret, "404"),
    ];
    host.finish();
    let log = host.logged(10);
    assert_eq!(log.len(), answers.len());
    for answer in answers {
        let id = &answer.headers["request-id"];
        assert_eq!(log.iter().filter(|entry| entry.request_id == *id).count(), 1, "{answer:?}");
    }
}
