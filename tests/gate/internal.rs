//! What other services of the operator ask, and how they see that the host is
//! well.

use serde_json::{Value, json};
use wardkey::{keys::CreateKey, storage::Mode};

use super::{Options, TestHost, common, failing_storage, outcome};
use common::{Answer, send, send_raw};
use failing_storage::{Health, Switch};

/// Asks whether a request may go ahead.
fn verify(host: &TestHost, asked: &Value) -> Answer {
    post(host, "localhost", &asked.to_string())
}

fn post(host: &TestHost, name: &str, body: &str) -> Answer {
    let request = format!(
        "POST /verify HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    send_raw(host.internal, request.as_bytes())
}

#[test]
fn a_service_is_told_what_the_gate_would_do() {
    let host = TestHost::start();
    let (key, secret) = host.key_with(CreateKey {
        kind: "restricted".to_owned(),
        permissions: vec!["charge_read".to_owned()],
        ip_allowlist: vec!["192.0.2.7".to_owned()],
        ..CreateKey::default()
    });
    let ask = |method: &str, path: &str, source: &str| {
        let key = secret.expose();
        let asked = json!({"key": key, "method": method, "path": path, "source": source});
        let answer = verify(&host, &asked);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(!answer.body.contains(key), "{answer:?}");
        answer.json()
    };
    let policy = host.host.policy().get().digest().to_hex();
    assert_eq!(
        ask("GET", "/v1/charges/ch_1", "192.0.2.7"),
        json!({
            "allowed": true,
            "key": key.id,
            "account": host.account,
            "livemode": false,
            "endpoint": "/v1/charges/:id",
            "permissions": ["charge_read"],
            "usage": [],
            "notices": [],
            "attributes": {},
            "policy": policy,
            "overlays": [],
        })
    );
    let refused = ask("POST", "/v1/payouts", "192.0.2.7");
    assert_eq!(refused["allowed"], false);
    assert_eq!(refused["key"], *key.id);
    assert_eq!(refused["endpoint"], "/v1/payouts");
    assert_eq!(refused["status"], 403);
    assert_eq!(refused["error"]["code"], "more_permissions_required");
    assert_eq!(refused["error"]["missing_permissions"], json!(["payout_write"]));
    assert_eq!(refused["policy"], *policy);
    for source in ["192.0.2.8", "127.0.0.1", "2001:db8::1"] {
        let refused = ask("GET", "/v1/charges", source);
        assert_eq!(refused["error"]["code"], "ip_not_allowed", "{refused}");
    }
    assert_eq!(ask("GET", "/v1/charges", "::ffff:192.0.2.7")["allowed"], true);
}

#[test]
fn a_service_is_told_the_same_as_the_gates_caller() {
    let host = TestHost::start();
    let (_, limited) = host.key("restricted", &["charge_read"]);
    let publishable = host.default_secret("publishable", Mode::Test);
    let live = host.default_secret("secret", Mode::Live);
    let stranger = wardkey::secret::Secret::generate(None, "sk_test_");
    for secret in
        ["", "sk_test_x", limited.expose(), publishable.expose(), live.expose(), stranger.expose()]
    {
        for (method, path) in [
            ("GET", "/v1/charges"),
            ("POST", "/v1/payouts"),
            ("POST", "/v1/tokens"),
            ("GET", "/v1/nothing"),
            ("GET", "/v1/test_helpers/test_clocks"),
        ] {
            let asked = json!({"key": secret, "method": method, "path": path});
            let told = verify(&host, &asked).json();
            let answer = host.call(method, path, secret);
            if told["allowed"] == true {
                assert!(answer.status < 400, "{asked}: {told} but {answer:?}");
            } else {
                assert_eq!(told["status"], answer.status, "{asked}: {told}");
                assert_eq!(told["error"], answer.json()["error"], "{asked}");
            }
        }
    }
}

#[test]
fn the_explanation_names_the_rules_up_to_the_one_that_refused() {
    let host = TestHost::start();
    let (_, secret) = host.key("restricted", &["charge_read"]);
    for (path, allowed, last) in [
        ("/v1/charges", true, "access-not-limited"),
        ("/v1/payouts", false, "permissions-held"),
        ("/v1/nothing", false, "endpoint-listed"),
    ] {
        let asked = json!({"key": secret.expose(), "method": "GET", "path": path, "explain": true});
        let answer = verify(&host, &asked);
        let told = answer.json();
        assert_eq!(told["allowed"], allowed, "{told}");
        let steps = told["steps"].as_array().unwrap();
        assert_eq!(steps[0]["rule"], "credential-well-formed");
        assert_eq!(steps.last().unwrap()["rule"], last, "{told}");
        assert_eq!(
            steps.iter().filter(|step| step["passed"] == false).count(),
            usize::from(!allowed)
        );
        assert!(!answer.body.contains(secret.expose()), "{told}");
    }
}

#[test]
fn what_verify_cannot_read_it_refuses_without_repeating_it() {
    let host = TestHost::start();
    let (_, secret) = host.key("restricted", &["charge_read"]);
    let key = secret.expose();
    for (body, expected) in [
        (String::new(), "400 parameter_invalid"),
        ("null".to_owned(), "400 parameter_invalid"),
        ("{}".to_owned(), "400 parameter_invalid"),
        (format!("{{\"key\": \"{key}\""), "400 parameter_invalid"),
        (format!("\"{key}\""), "400 parameter_invalid"),
        (
            json!({"method": "GET", "path": "/v1/charges", key: 1}).to_string(),
            "400 parameter_invalid",
        ),
        (
            json!({"method": "GET", "path": "/v1/charges", "source": key}).to_string(),
            "400 parameter_invalid",
        ),
        (json!({"method": "GET", "path": "/v1//charges"}).to_string(), "400 path_invalid"),
        (json!({"method": "GET", "path": ""}).to_string(), "400 path_invalid"),
        (json!({"method": "GET", "path": "http://a/v1"}).to_string(), "400 path_invalid"),
    ] {
        let answer = post(&host, "localhost", &body);
        assert_eq!(outcome(&answer), expected, "{body}: {answer:?}");
        assert!(!answer.body.contains(key), "{answer:?}");
    }
}

#[test]
fn a_secret_in_the_wrong_field_is_not_said_back() {
    let host = TestHost::start();
    let (_, secret) = host.key("restricted", &["charge_read"]);
    let key = secret.expose();
    for (field, value) in [
        ("method", key.to_owned()),
        ("path", format!("/v1/{key}")),
        ("path", format!("/v1/charges/{key}/{key}")),
        ("context", key.to_owned()),
        ("context", format!("acct_{key}")),
        ("account", key.to_owned()),
        ("account", format!("acct_{key}")),
        ("api_version", key.to_owned()),
        ("source", key.to_owned()),
    ] {
        for explain in [false, true] {
            let mut asked = json!({"key": key, "method": "GET", "path": "/v1/charges"});
            asked["explain"] = explain.into();
            asked[field] = value.clone().into();
            let answer = verify(&host, &asked);
            assert!(answer.status < 500 && !answer.body.contains(key), "{field}: {answer:?}");
        }
    }
}

#[test]
fn what_is_too_much_for_the_rules_is_the_services_fault() {
    let host = TestHost::start();
    let (_, secret) = host.key("restricted", &["charge_read"]);
    for length in [300, 100_000, 1_500_000] {
        let long = "a".repeat(length);
        for field in ["key", "method", "path", "context", "account", "api_version"] {
            let mut asked = json!({"key": secret.expose(), "method": "GET", "path": "/v1/charges"});
            asked[field] = if field == "path" { format!("/{long}") } else { long.clone() }.into();
            let answer = verify(&host, &asked);
            assert!(answer.status < 500, "{length} bytes of {field}: {answer:?}");
            let allowed = answer.json()["allowed"] == true;
            assert!(!allowed, "{length} bytes of {field}: {answer:?}");
        }
    }
}

#[test]
fn a_web_page_cannot_ask_through_a_name_of_its_own() {
    let host = TestHost::start();
    let asked = json!({"method": "GET", "path": "/v1/charges"}).to_string();
    for (name, expected) in [
        ("localhost", "200"),
        ("localhost:8082", "200"),
        ("127.0.0.1", "200"),
        ("127.0.0.1:8082", "200"),
        ("[::1]:8082", "200"),
        ("127.9.9.9", "200"),
        ("evil.example", "403 internal_only"),
        ("evil.example:8082", "403 internal_only"),
        ("localhost.evil.example", "403 internal_only"),
        ("127.0.0.1.evil.example", "403 internal_only"),
        ("localhost@evil.example", "403 internal_only"),
        ("192.0.2.1", "403 internal_only"),
        ("0.0.0.0", "403 internal_only"),
        ("", "403 internal_only"),
    ] {
        assert_eq!(outcome(&post(&host, name, &asked)), expected, "`{name}`");
        for path in ["/metrics", "/healthz", "/readyz"] {
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
            let answer = send_raw(host.internal, request.as_bytes());
            assert_eq!(outcome(&answer), expected, "{path} as `{name}`");
        }
    }
    let nameless = send_raw(host.internal, b"GET /metrics HTTP/1.0\r\n\r\n");
    assert_eq!(outcome(&nameless), "403 internal_only");
}

#[test]
fn a_host_is_ready_while_storage_answers() {
    let switch = Switch::new();
    let wrapped = switch.clone();
    let wrap = Box::new(move |storage| wrapped.wrap(storage));
    let host = TestHost::start_with(Options { wrap, ..Options::default() });
    let get = |path: &str| outcome(&send(host.internal, "GET", path, &[], ""));
    for (health, ready) in
        [(Health::Well, "200"), (Health::Failing, "503 unavailable"), (Health::Well, "200")]
    {
        switch.set(health);
        assert_eq!(get("/readyz"), ready);
        assert_eq!(get("/healthz"), "200");
    }
    assert_eq!(get("/nothing"), "404");
    assert_eq!(get("/verify"), "404");
}

#[test]
fn the_metrics_are_text_that_prometheus_reads() {
    let host = TestHost::start();
    let (_, secret) = host.key("restricted", &["charge_read"]);
    for (path, times) in [("/v1/charges", 3), ("/v1/payouts", 2)] {
        for _ in 0..times {
            host.call("GET", path, secret.expose());
        }
    }
    let answer = send(host.internal, "GET", "/metrics", &[], "");
    assert_eq!(answer.status, 200);
    assert!(answer.headers["content-type"].starts_with("application/openmetrics-text"));
    assert!(answer.body.ends_with("# EOF\n"), "{}", answer.body);
    for line in answer.body.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("wardkey_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    for line in [
        "wardkey_gate_requests_total{outcome=\"allowed\",status=\"2xx\"} 3",
        "wardkey_gate_requests_total{outcome=\"denied\",status=\"4xx\"} 2",
        "wardkey_decision_seconds_count 5",
        "wardkey_storage_reads 1",
        "wardkey_request_log_dropped 0",
    ] {
        assert!(answer.body.lines().any(|one| one == line), "no `{line}` in\n{}", answer.body);
    }
}
