//! `wardkey keys`, with and without a host that runs.

use std::thread;

use crate::program::{
    Folder, assert_no_secret, assert_no_secret_key, end, token, with_and_without_a_host,
};

#[test]
fn a_key_is_made_as_asked() {
    with_and_without_a_host(|folder| {
        let key = folder.json(&[
            "keys",
            "create",
            "--name",
            "orders service",
            "--note",
            "vault: orders/stripe",
            "--permission",
            "charge_write,customer_read",
            "--permission",
            "balance_read",
            "--connect-permission",
            "charge_read",
            "--allow-ip",
            "10.1.2.3,10.2.0.0/16",
            "--expires-at",
            "2999-01-31T00:00:00Z",
        ]);
        assert!(token(&key).unwrap().starts_with("rk_test_"), "{key}");
        assert_eq!(key["kind"], "restricted");
        assert_eq!(key["status"], "active");
        assert_eq!(key["livemode"], false);
        assert_eq!(key["name"], "orders service");
        assert_eq!(key["note"], "vault: orders/stripe");
        assert_eq!(key["expires_at"], "2999-01-31T00:00:00Z");
        assert_eq!(key["last_used"], serde_json::Value::Null);
        assert_eq!(
            key["permissions"],
            serde_json::json!(["balance_read", "charge_write", "customer_read"])
        );
        assert_eq!(key["connect_permissions"], serde_json::json!(["charge_read"]));
        assert_eq!(key["ip_allowlist"], serde_json::json!(["10.1.2.3", "10.2.0.0/16"]));

        // The same key, as it is shown from now on.
        let id = key["id"].as_str().unwrap();
        let mut shown = folder.json(&["keys", "show", id]);
        assert_eq!(token(&shown), None);
        shown["secret_key"]["token"] = key["secret_key"]["token"].clone();
        assert_eq!(shown, key);
        let listed = folder.json(&["keys", "list"]);
        assert_eq!(listed[0]["id"], id);
    });
}

#[test]
fn the_prefix_says_kind_and_mode() {
    with_and_without_a_host(|folder| {
        for (args, prefix) in [
            (&["--kind", "restricted"][..], "rk_test_"),
            (&["--kind", "restricted", "--live"], "rk_live_"),
            (&["--kind", "secret"], "sk_test_"),
            (&["--kind", "secret", "--live"], "sk_live_"),
            (&["--kind", "publishable"], "pk_test_"),
            (&["--kind", "publishable", "--live"], "pk_live_"),
        ] {
            let (_, secret) = folder.key(args);
            assert!(secret.starts_with(prefix), "{args:?}");
        }
    });
}

#[test]
fn a_person_gets_the_secret_alone_on_the_standard_output() {
    with_and_without_a_host(|folder| {
        let made = folder.run(&["keys", "create", "--name", "mine", "--kind", "secret", "--live"]);
        assert_eq!(made.code, 0);
        let secret = made.stdout.strip_suffix('\n').unwrap();
        assert!(secret.starts_with("sk_live_") && !secret.contains('\n'), "{secret}");
        assert!(made.stderr.contains("mine"), "{}", made.stderr);
        assert!(made.stderr.contains("not shown again"), "{}", made.stderr);
        assert_no_secret(&made.stderr);
    });
}

#[test]
fn only_create_and_reveal_show_a_secret() {
    with_and_without_a_host(|folder| {
        let (id, secret) = folder.key(&[]);
        for args in [
            &["keys", "list"][..],
            &["keys", "list", "--json"],
            &["keys", "list", "--include-expired"],
            &["keys", "show", &id],
            &["keys", "show", &id, "--json"],
        ] {
            let ended = folder.run(args);
            assert_eq!(ended.code, 0, "{args:?}: {}", ended.stderr);
            assert!(ended.stdout.contains(&id), "{}", ended.stdout);
            assert!(ended.stdout.contains(&secret[secret.len() - 4..]), "{}", ended.stdout);
            // Programs get publishable keys whole.
            assert_no_secret_key(&ended.stdout);
            if !args.contains(&"--json") {
                assert_no_secret(&ended.stdout);
            }
            assert_no_secret(&ended.stderr);
        }
        assert_eq!(folder.run(&["keys", "reveal", &id]).stdout.trim(), secret);
        assert_eq!(token(&folder.json(&["keys", "reveal", &id])), Some(secret.as_str()));
    });
}

#[test]
fn what_may_be_revealed() {
    with_and_without_a_host(|folder| {
        // A test key always (S36), a publishable one too (S37).
        for args in [
            &["--kind", "restricted"][..],
            &["--kind", "secret"],
            &["--kind", "publishable"],
            &["--kind", "publishable", "--live"],
        ] {
            let (id, secret) = folder.key(args);
            assert_eq!(folder.run(&["keys", "reveal", &id]).stdout.trim(), secret, "{args:?}");
        }
        // A live key that a user made: never again (S33, S77).
        for kind in ["restricted", "secret"] {
            let (id, secret) = folder.key(&["--kind", kind, "--live"]);
            for args in [&["keys", "reveal", &id][..], &["keys", "reveal", &id, "--json"]] {
                let ended = folder.run(args);
                assert_eq!(ended.code, 1, "{kind}");
                assert_eq!(ended.stdout, "");
                assert!(ended.stderr.contains("shown once"), "{}", ended.stderr);
                assert!(!ended.stderr.contains(&secret));
            }
        }
        // A live key that came with the account (S34, S35).
        for (kind, prefix) in
            [("restricted", "rk_live_"), ("secret", "sk_live_"), ("publishable", "pk_live_")]
        {
            let key = folder.default_key(kind, "--live");
            let ended = folder.run(&["keys", "reveal", key["id"].as_str().unwrap()]);
            assert_eq!(ended.code, 0, "{}", ended.stderr);
            assert!(ended.stdout.starts_with(prefix), "{kind}");
        }
    });
}

#[test]
fn a_list_is_filtered_and_has_no_end() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    assert_eq!(folder.json(&["keys", "list", "--live"]).as_array().unwrap().len(), 3);
    assert_eq!(folder.json(&["keys", "list", "--test"]).as_array().unwrap().len(), 3);
    assert_eq!(folder.json(&["keys", "list"]).as_array().unwrap().len(), 6);
    let account = folder.json(&["keys", "list"])[0]["account"].as_str().unwrap().to_owned();
    let ours = folder.json(&["keys", "list", "--account", &account]);
    assert_eq!(ours.as_array().unwrap().len(), 6);
    let nobodys = folder.json(&["keys", "list", "--account", "acct_a b&c"]);
    assert_eq!(nobodys, serde_json::json!([]));

    // More than one page of the admin API: over HTTP, where 100 processes would
    // take a while.
    let operator = std::fs::read_to_string(folder.data().join("operator.secret")).unwrap();
    let body = r#"{"kind":"restricted","name":"one of many"}"#;
    for _ in 0..100 {
        let request = format!(
            "POST /v2/iam/api_keys HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            operator.trim(),
            body.len()
        );
        assert_eq!(crate::common::send_raw(host.admin, request.as_bytes()).status, 201);
    }
    let all = folder.json(&["keys", "list"]);
    let ids: std::collections::BTreeSet<&str> =
        all.as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap()).collect();
    assert_eq!((all.as_array().unwrap().len(), ids.len()), (106, 106));
    // One line each, below the header.
    assert_eq!(folder.run(&["keys", "list"]).stdout.lines().count(), 107);
}

#[test]
fn an_ended_key_is_listed_only_on_demand() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let soon = jiff::Timestamp::now().as_second() + 4;
    let soon = jiff::Timestamp::from_second(soon).unwrap().to_string();
    let (id, secret) = folder.key(&["--permission", "balance_read", "--expires-at", &soon]);
    crate::program::wait_until("the key ends", || {
        host.call("GET", "/v1/balance", &secret).status == 401
    });
    let answer = host.call("GET", "/v1/balance", &secret);
    assert_eq!(answer.code(), "api_key_expired");
    let is_in =
        |keys: serde_json::Value| keys.as_array().unwrap().iter().any(|key| key["id"] == id);
    assert!(!is_in(folder.json(&["keys", "list"])));
    assert!(is_in(folder.json(&["keys", "list", "--include-expired"])));
    assert_eq!(folder.json(&["keys", "show", &id])["status"], "expired");
}

#[test]
fn a_key_works_at_the_gate_at_once() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    for _ in 0..10 {
        let (_, secret) = folder.key(&["--permission", "balance_read"]);
        assert_eq!(host.call("GET", "/v1/balance", &secret).status, 200);
        assert_eq!(host.call("GET", "/v1/customers", &secret).status, 403);
    }
}

#[test]
fn what_cannot_be_made_is_refused_and_named() {
    with_and_without_a_host(|folder| {
        let count = || folder.json(&["keys", "list"]).as_array().unwrap().len();
        let before = count();
        for (args, named) in [
            (&["--kind", "golden"][..], "golden"),
            (&["--permission", "everything"], "everything"),
            (&["--kind", "secret", "--permission", "charge_read"], "permissions"),
            (&["--allow-ip", "::1"], "::1"),
            (&["--allow-ip", "10.0.0.0/33"], "10.0.0.0/33"),
            (&["--kind", "publishable", "--allow-ip", "10.0.0.1"], "ip_allowlist"),
            (&["--kind", "publishable", "--expires-at", "2999-01-01T00:00:00Z"], "expire"),
            (&["--expires-at", "2001-01-01T00:00:00Z"], "expires_at"),
            (&["--account", "acct_nobody"], "acct_nobody"),
            (&["--kind", "organization"], "organization"),
            (&["--name", ""], "name"),
        ] {
            let name: &[&str] = if args[0] == "--name" { &[] } else { &["--name", "a key"] };
            let ended = folder.run(&[&["keys", "create"], name, args].concat());
            assert_eq!(ended.code, 1, "{args:?}: {}", ended.stdout);
            assert_eq!(ended.stdout, "", "{args:?}");
            assert!(ended.stderr.contains(named), "{args:?}: {}", ended.stderr);
        }
        assert_eq!(count(), before);
        for verb in ["show", "reveal"] {
            for id in ["key_nobody", "../accounts", "a b"] {
                let ended = folder.run(&["keys", verb, id]);
                assert_eq!(ended.code, 1, "{verb} `{id}`: {ended:?}");
                assert_eq!(ended.stdout, "");
                assert!(ended.stderr.contains("No such API key"), "`{id}`: {}", ended.stderr);
            }
        }
    });
}

#[test]
fn commands_at_the_same_time_wait_for_each_other() {
    with_and_without_a_host(|folder| {
        let commands: Vec<_> = (0..4)
            .map(|_| folder.command(&["keys", "create", "--name", "one of four"]))
            .map(|command| thread::spawn(move || end(command, "")))
            .collect();
        for command in commands {
            let ended = command.join().unwrap();
            assert_eq!(ended.code, 0, "{}", ended.stderr);
        }
        assert_eq!(folder.json(&["keys", "list"]).as_array().unwrap().len(), 10);
    });
}
