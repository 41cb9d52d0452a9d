//! Policies that decide beside the one in force: they find what they would change,
//! and change nothing.

use serde_json::json;
use wardkey::keys::CreateAccount;

use crate::{lossless::Connection, overlays::no_posts, program::wait_until, *};

impl Place {
    fn shadow(&self, policy: &str, percent: f64) -> Answer {
        self.shadow_with(policy, percent, None)
    }

    fn shadow_with(&self, policy: &str, percent: f64, overlays: Option<&[&str]>) -> Answer {
        let body = json!({ "percent": percent, "overlays": overlays }).to_string();
        self.ask("POST", &format!("/v2/policies/{policy}/shadow"), &body)
    }

    fn report(&self) -> Value {
        let answer = self.ask("GET", "/v2/policies/shadow", "");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Waits until so many requests are through, and returns what was found.
    fn found(&self, requests: u64) -> Value {
        let count = |report: &Value, field: &str| report[field].as_u64().unwrap();
        wait_until("the shadow is through", || {
            let report = self.report();
            ["compared", "dropped", "skipped"]
                .map(|field| count(&report, field))
                .iter()
                .sum::<u64>()
                >= requests
        });
        self.report()
    }
}

/// Returns what was found as rows of from, to, code and how often, sorted.
fn kinds(report: &Value) -> Vec<(String, String, String, u64)> {
    let text = |kind: &Value, field: &str| kind[field].as_str().unwrap().to_owned();
    let row = |kind: &Value| {
        (text(kind, "from"), text(kind, "to"), text(kind, "code"), kind["count"].as_u64().unwrap())
    };
    let mut rows: Vec<_> = report["differences"].as_array().unwrap().iter().map(row).collect();
    rows.sort();
    rows
}

#[test]
fn a_shadow_finds_exactly_the_decisions_that_would_change() {
    const ROUNDS: u64 = 40;
    let place = Place::start();
    let (base, changed) = (honest(ONE), no_posts(TWO));
    let base = place.pushed(&base, 1);
    let changed = place.pushed(&changed, 2);
    assert_eq!(place.activate(&base).status, 200);
    let answer = place.shadow(&changed, 100.0);
    assert_eq!((answer.status, &answer.json()["compared"]), (200, &json!(0)), "{answer:?}");

    // What the one in force answers is what comes back, every time.
    let good = format!("Bearer {}", place.secret.expose());
    let unknown = format!("Bearer {}", Secret::generate(None, "sk_test_").expose());
    for _ in 0..ROUNDS {
        for (method, auth, status) in [
            ("GET", Some(&good), 200),
            ("POST", Some(&good), 200),
            ("GET", Some(&unknown), 403),
            ("POST", Some(&unknown), 403),
            ("GET", None, 403),
        ] {
            let headers: Vec<_> =
                auth.iter().map(|auth| ("Authorization", auth.as_str())).collect();
            let answer = place.host.call_with(method, "/v1/customers", &headers, "");
            assert_eq!(answer.status, status, "{method}: {answer:?}");
        }
    }

    let report = place.found(5 * ROUNDS);
    let row = |from: &str, code: &str, count| {
        (from.to_owned(), "deny".to_owned(), code.to_owned(), count)
    };
    // A known key that posts is refused; `honest` refuses strangers in other words
    // than the other does, whether they post or not: that the other says nothing of
    // its own where they do not is no difference of a code.
    let mut expected =
        vec![row("allow", TWO.0, ROUNDS), row("deny", TWO.0, ROUNDS), row("deny", "", 2 * ROUNDS)];
    expected.sort();
    assert_eq!(kinds(&report), expected, "{report:#}");
    assert_eq!((&report["compared"], &report["agreed"]), (&json!(5 * ROUNDS), &json!(ROUNDS)));
    assert_eq!((&report["dropped"], &report["skipped"]), (&json!(0), &json!(0)));
    let allowed = report["differences"].as_array().unwrap().iter();
    let allowed = allowed.clone().find(|kind| kind["from"] == "allow").unwrap();
    let examples = allowed["examples"].as_array().unwrap();
    assert_eq!(examples.len(), 5);
    assert_eq!(
        (&examples[0]["method"], &examples[0]["path"], &examples[0]["in_force"]["allowed"]),
        (&json!("POST"), &json!("/v1/customers"), &json!(true))
    );
    assert_eq!(examples[0]["shadow"]["error"]["message"], TWO.1);
    let metrics = common::send(place.host.internal, "GET", "/metrics", &[], "").body;
    let line = format!(
        "wardkey_shadow_differences_total{{from=\"allow\",to=\"deny\",code=\"{}\"}} {ROUNDS}",
        TWO.0
    );
    assert!(metrics.contains(&line), "{metrics}");

    let ended = place.ask("POST", "/v2/policies/shadow/end", "");
    assert_eq!((ended.status, kinds(&ended.json())), (200, expected));
    assert_eq!(place.ask("GET", "/v2/policies/shadow", "").status, 409);
}

/// An overlay is looked at on what it would stand on.
#[test]
fn an_overlay_is_looked_at_before_it_narrows() {
    let place = Place::start();
    let overlay = place.pushed(&no_posts(TWO), 1);
    assert_eq!(place.shadow_with("standard", 100.0, Some(&[&overlay])).status, 200);
    for (method, status) in [("GET", 200), ("POST", 200), ("GET", 200)] {
        let answer = place.host.call(method, "/v1/customers", place.secret.expose());
        assert_eq!(answer.status, status, "{answer:?}");
    }
    let report = place.found(3);
    let row = ("allow".to_owned(), "deny".to_owned(), TWO.0.to_owned(), 1);
    assert_eq!((kinds(&report), &report["agreed"]), (vec![row], &json!(2)), "{report:#}");
    refused(&place.shadow_with("standard", 100.0, Some(&[])), 409, "conflict", "in force");
    let twice = [&*overlay, &*overlay];
    refused(&place.shadow_with("standard", 100.0, Some(&twice)), 400, "parameter_invalid", "twice");
    refused(&place.retire(&overlay), 409, "conflict", "in the shadow");
}

/// Neither secrets that were put in a wrong place, nor texts that are sent to fill
/// memory.
#[test]
fn a_shadow_keeps_no_secret_and_nothing_that_is_long() {
    let place = Place::start();
    let other = place.pushed(&honest(ONE), 1);
    assert_eq!(place.shadow(&other, 100.0).status, 200);
    let secret = place.secret.expose();
    let headers = [("Stripe-Context", secret)];
    let answer = place.host.call_with("GET", &format!("/v1/customers/{secret}"), &headers, "");
    assert_eq!(answer.status, 401, "{answer:?}");
    // The refusal repeats it.
    let long = format!("/v1/{}", "a".repeat(2_040));
    assert_eq!(place.host.call("GET", &long, secret).status, 404);
    let report = place.found(2);
    assert_eq!((&report["compared"], &report["dropped"]), (&json!(1), &json!(1)), "{report:#}");
    let example = &report["differences"][0]["examples"][0];
    assert!(example["path"].as_str().unwrap().starts_with("/v1/customers/sk_test_"), "{report:#}");
    assert!(!report.to_string().contains(secret), "a secret: {report:#}");
}

/// What the policy in force fails at is a difference, too.
#[test]
fn where_the_policy_in_force_fails_the_shadow_says_what_it_would_do() {
    let place = Place::start();
    let failing = Guest::new(format!("(if {IS_LONG} (then unreachable)) {}", honest_with("")));
    let failing = place.pushed(&failing.build(), 1);
    assert_eq!(place.activate(&failing).status, 200);
    assert_eq!(place.shadow("standard", 100.0).status, 200);
    let path = "/v1/customers/cus_and_so_on_and_so_on";
    assert_eq!(place.host.call("GET", path, place.secret.expose()).status, 500);
    let row = ("error".to_owned(), "allow".to_owned(), "trapped".to_owned(), 1);
    assert_eq!(kinds(&place.found(1)), [row]);
}

/// It decides on what the request has read, and reads what only it asks for.
#[test]
fn a_shadow_reads_what_the_other_has_not_asked_for() {
    let place = Place::start();
    let platform = Some(place.host.account.clone());
    let connected =
        place.host.make_account(CreateAccount { platform, ..common::account_named("Connected") });
    let base = place.pushed(&honest(ONE), 1);
    assert_eq!(place.activate(&base).status, 200);
    // A rollback to it would be allowed, and so is looking.
    assert_eq!(place.shadow("standard", 100.0).status, 200);
    let auth = format!("Bearer {}", place.secret.expose());
    let headers = [("Authorization", &*auth), ("Stripe-Context", &*connected)];
    assert_eq!(place.host.call_with("GET", "/v1/charges", &headers, "").status, 200);
    let report = place.found(1);
    let example = &report["differences"][0]["examples"][0];
    assert_eq!(example["in_force"]["account"], json!(place.host.account), "{report:#}");
    assert_eq!(example["shadow"]["account"], json!(connected), "{report:#}");
}

#[test]
fn a_shadow_that_fails_fails_nobody() {
    let place = Place::start();
    let failing = format!(
        "(if {IS_LONG} (then (if {IS_POST} (then unreachable) (else (loop $on (br $on)))))) {}",
        honest_with("")
    );
    let failing = place.pushed(&Guest::new(failing).build(), 1);
    assert_eq!(place.shadow(&failing, 100.0).status, 200);
    let path = "/v1/customers/cus_and_so_on_and_so_on";
    for (method, code) in [("POST", "resource_missing"), ("GET", "resource_missing")] {
        let answer = place.host.call(method, path, place.secret.expose());
        assert_eq!((answer.status, answer.code().as_str()), (404, code), "{answer:?}");
    }
    let rows: Vec<_> =
        kinds(&place.found(2)).into_iter().map(|row| (row.1, row.2, row.3)).collect();
    let row = |code: &str| ("error".to_owned(), code.to_owned(), 1);
    assert_eq!(rows, [row("out_of_time"), row("trapped")]);
    assert_eq!(place.host.host.policy().in_force().shadow.as_ref().unwrap().counts(), [0, 2, 0, 0]);
    // No alarm: nobody was failed.
    let metrics = common::send(place.host.internal, "GET", "/metrics", &[], "").body;
    assert!(metrics.contains("wardkey_policy_alarms_total 0"), "{metrics}");
}

/// More than fit into its queue, by one that takes its whole budget each time.
#[test]
fn what_a_shadow_has_no_time_for_is_dropped_and_counted() {
    const REQUESTS: u64 = 2_000;
    let place = Place::start();
    let slow = format!("(if {IS_LONG} (then (loop $on (br $on)))) {}", honest_with(""));
    let slow = place.pushed(&Guest::new(slow).build(), 1);
    assert_eq!(place.shadow(&slow, 100.0).status, 200);
    let mut connection = Connection::to(place.host.gate);
    let auth = format!("Authorization: Bearer {}\r\n", place.secret.expose());
    let path = "/v1/customers/cus_and_so_on_and_so_on";
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{auth}\r\n");
    for _ in 0..REQUESTS {
        assert_eq!(connection.send(&request).unwrap().status, 404);
    }
    let report = place.report();
    let dropped = report["dropped"].as_u64().unwrap();
    println!("{dropped} of {REQUESTS} dropped, {} compared", report["compared"]);
    assert!(dropped > 0, "{report}");
    let ended = place.ask("POST", "/v2/policies/shadow/end", "").json();
    assert!(ended["compared"].as_u64().unwrap() + dropped <= REQUESTS);
}

#[test]
fn a_shadow_is_asked_about_its_share() {
    const REQUESTS: u64 = 1_000;
    let place = Place::start();
    let same = place.host.push_policy("same");
    assert_eq!(place.shadow(&same, 20.0).status, 200);
    let mut connection = Connection::to(place.host.gate);
    for _ in 0..REQUESTS {
        connection.send("GET /v1/charges HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    }
    // Every time the same ones: the share is of their numbers.
    wait_until("some are through", || place.report()["compared"].as_u64() >= Some(100));
    let report = place.report();
    let seen = report["compared"].as_u64().unwrap() + report["dropped"].as_u64().unwrap();
    assert!((100..=300).contains(&seen), "{report}");
    assert_eq!(report["disagreed"], 0, "{report:#}");
}

#[test]
fn a_shadow_ends_with_what_it_is_compared_with() {
    let place = Place::start();
    let [one, two] = [honest(ONE), honest(TWO)].map(|bytes| place.pushed(&bytes, 1));
    let is_there = || place.ask("GET", "/v2/policies/shadow", "").status == 200;
    assert_eq!(place.shadow(&one, 50.0).status, 200);
    // A canary changes nothing for the others.
    let canary = json!({ "percent": 1 }).to_string();
    assert_eq!(place.ask("POST", &format!("/v2/policies/{two}/canary"), &canary).status, 200);
    assert!(is_there());
    // Another takes its place.
    assert_eq!(place.shadow(&two, 50.0).status, 200);
    assert_eq!(place.report()["digest"], two);
    assert_eq!(place.activate(&one).status, 200);
    assert!(!is_there());
    refused(&place.shadow(&one, 50.0), 409, "conflict", "in force");
    let gone = place.pushed(&honest(THREE), 1);
    assert_eq!(place.retire(&gone).status, 200);
    refused(&place.shadow(&gone, 50.0), 409, "conflict", "retired");
    refused(&place.shadow(&two, 0.0), 400, "parameter_invalid", "0.01 to 100");
    assert!(!is_there());
}
