//! The admin listener over HTTP, and the internal one.

use std::fs;

use serde_json::json;

use crate::{
    common::send_raw,
    program::{Folder, Running, token},
};

/// Asks the admin listener, and returns the status and the body.
fn ask(
    host: &Running,
    method: &str,
    path: &str,
    bearer: Option<&str>,
    body: &str,
) -> (u16, String) {
    let authorization =
        bearer.map(|secret| format!("Authorization: Bearer {secret}\r\n")).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{authorization}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = send_raw(host.admin, request.as_bytes());
    (answer.status, answer.body)
}

#[test]
fn the_admin_routes_are_the_operators_but_for_those_that_are_for_keys() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let operator = fs::read_to_string(folder.data().join("operator.secret")).unwrap();
    let operator = operator.trim();
    let (id, secret) = folder.key(&["--kind", "secret"]);
    let account = folder.json(&["keys", "show", &id])["account"].as_str().unwrap().to_owned();
    let shortened = &operator[..operator.len() - 1];
    let key = json!({ "kind": "restricted", "name": "a key" }).to_string();
    let named = json!({ "name": "Acme" }).to_string();
    let import = json!({
        "kind": "secret",
        "name": "a key",
        "digest": "ab".repeat(32),
        "redacted": "sk_test_****abcd",
        "account": account,
    })
    .to_string();
    let endpoints = json!({ "endpoints": ["GET /v1/balance"] }).to_string();
    let member = json!({ "organization": null }).to_string();

    let key_path = format!("/v2/iam/api_keys/{id}");
    let reveal_path = format!("{key_path}/reveal");
    let account_path = format!("/v2/accounts/{account}");
    // What the operator is answered, and whether keys may ask, too.
    for (method, path, body, allowed, is_for_keys) in [
        ("GET", "/v2/iam/api_keys", "", 200, true),
        ("POST", "/v2/iam/api_keys", key.as_str(), 201, true),
        ("GET", &key_path, "", 200, true),
        ("POST", &reveal_path, "", 200, true),
        ("GET", "/v2/iam/permissions", "", 200, true),
        ("POST", "/v2/iam/permissions/resolve", &endpoints, 200, true),
        ("GET", "/v2/request_logs", "", 200, true),
        ("POST", "/v2/iam/api_keys/import", &import, 201, false),
        ("GET", "/v2/audit_log", "", 200, false),
        ("GET", "/v2/audit_log/head", "", 200, false),
        ("POST", "/v2/audit_log/verify", "", 200, false),
        ("GET", "/v2/accounts", "", 200, false),
        ("POST", "/v2/accounts", &named, 201, false),
        ("GET", &account_path, "", 200, false),
        ("POST", &account_path, &member, 200, false),
        ("POST", "/v2/organizations", &named, 201, false),
        // At the socket only.
        ("POST", "/v2/backup", "{\"to\":\"copy.db\"}", 404, false),
        ("POST", "/v2/key_encryption_key/replace", "", 404, false),
        ("POST", "/verify", "{}", 404, false),
        // What is not there tells a stranger nothing.
        ("GET", "/v2/nothing", "", 404, false),
        ("DELETE", "/v2/accounts", "", 404, false),
    ] {
        let key = (!is_for_keys).then_some(Some(secret.as_str()));
        for stranger in [None, Some(""), Some(shortened)].into_iter().chain(key) {
            let (status, answer) = ask(&host, method, path, stranger, body);
            assert_eq!(status, 401, "{method} {path} as {stranger:?}: {answer}");
            assert!(!answer.contains(&secret), "{answer}");
        }
        let (status, answer) = ask(&host, method, path, Some(operator), body);
        assert_eq!(status, allowed, "{method} {path}: {answer}");
    }
}

#[test]
fn the_operator_credential_opens_nothing_at_the_gate() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let operator = fs::read_to_string(folder.data().join("operator.secret")).unwrap();
    let answer = host.call("GET", "/v1/balance", operator.trim());
    assert_eq!(answer.status, 401);
    assert!(!answer.body.contains(operator.trim()), "{}", answer.body);
}

#[test]
fn what_the_command_line_makes_is_seen_over_http_and_the_other_way_round() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let operator = fs::read_to_string(folder.data().join("operator.secret")).unwrap();
    let operator = Some(operator.trim());
    let (id, _) = folder.key(&[]);
    let (status, shown) = ask(&host, "GET", &format!("/v2/iam/api_keys/{id}"), operator, "");
    assert_eq!(status, 200);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown, folder.json(&["keys", "show", &id]));
    assert_eq!(token(&shown), None);

    let wanted = json!({ "kind": "restricted", "name": "over HTTP", "livemode": true });
    let (status, made) = ask(&host, "POST", "/v2/iam/api_keys", operator, &wanted.to_string());
    assert_eq!(status, 201, "{made}");
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    assert!(token(&made).unwrap().starts_with("rk_live_"));
    let shown = folder.json(&["keys", "show", made["id"].as_str().unwrap()]);
    assert_eq!(shown["name"], "over HTTP");
}
