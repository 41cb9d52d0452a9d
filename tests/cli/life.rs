//! `wardkey keys`: what becomes of a key after it was made.

use std::fs;

use serde_json::{Value, json};

use crate::program::{
    Folder, Terminal, assert_no_secret, end, has_tool, token, with_and_without_a_host,
};

/// What can be said of a key that nobody has touched.
#[track_caller]
fn assert_untouched(folder: &Folder, before: &Value) {
    let after = folder.json(&["keys", "show", before["id"].as_str().unwrap()]);
    assert_eq!(&after, before);
}

#[test]
fn a_change_changes_what_was_named_and_nothing_else() {
    with_and_without_a_host(|folder| {
        let (id, secret) = folder.key(&[
            "--note",
            "vault: a",
            "--permission",
            "charge_read",
            "--connect-permission",
            "balance_read",
            "--allow-ip",
            "10.0.0.0/8",
        ]);
        let mut expected = folder.json(&["keys", "show", &id]);
        for (args, field, value) in [
            (&["--name", "orders"][..], "name", json!("orders")),
            (&["--note", ""], "note", json!("")),
            (
                &["--permission", "customer_read,charge_write"],
                "permissions",
                json!(["charge_write", "customer_read"]),
            ),
            (&["--no-permissions"], "permissions", json!([])),
            (
                &["--connect-permission", "charge_read"],
                "connect_permissions",
                json!(["charge_read"]),
            ),
            (&["--no-connect-permissions"], "connect_permissions", json!([])),
            (&["--allow-ip", "192.0.2.7"], "ip_allowlist", json!(["192.0.2.7"])),
            (&["--any-ip"], "ip_allowlist", json!([])),
        ] {
            let changed = folder.json(&[&["keys", "update", &id], args].concat());
            expected[field] = value;
            expected["revision"] = json!(expected["revision"].as_u64().unwrap() + 1);
            assert_eq!(changed, expected, "{args:?}");
            assert_untouched(folder, &changed);
        }
        // The secret is the same.
        assert_eq!(folder.run(&["keys", "reveal", &id]).stdout.trim(), secret);
        let shown = folder.run(&["keys", "update", &id, "--name", "last"]);
        assert!(shown.stdout.contains("revision             10"), "{}", shown.stdout);
        assert_no_secret(&shown.stdout);
    });
}

#[test]
fn what_may_not_be_changed_stays() {
    with_and_without_a_host(|folder| {
        let (id, _) = folder.key(&["--permission", "charge_read"]);
        let before = folder.json(&["keys", "show", &id]);
        for (args, code, named) in [
            (&[][..], 2, "--name"),
            (&["--permission", "charge_write", "--no-permissions"], 2, "--no-permissions"),
            (&["--allow-ip", "10.0.0.1", "--any-ip"], 2, "--any-ip"),
            (&["--if-revision", "1"], 2, "--name"),
            (&["--name", "b", "--if-revision", "first"], 2, "--if-revision"),
            (&["--name", "b", "--if-revision", "7"], 1, "changed since you read it"),
            (&["--permission", "everything"], 1, "everything"),
            (&["--allow-ip", "10.0.0.0/33"], 1, "10.0.0.0/33"),
            (&["--name", ""], 1, "name"),
        ] {
            let ended = folder.run(&[&["keys", "update", &id], args].concat());
            assert_eq!((ended.code, ended.stdout.as_str()), (code, ""), "{args:?}: {ended:?}");
            assert!(ended.stderr.contains(named), "{args:?}: {}", ended.stderr);
            assert_untouched(folder, &before);
        }
        let changed = folder.json(&["keys", "update", &id, "--name", "b", "--if-revision", "1"]);
        assert_eq!(changed["revision"], 2);
    });
}

#[test]
fn an_ended_key_lets_nobody_in_and_cannot_be_brought_back() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let (id, secret) = folder.key(&["--kind", "secret"]);
    assert_eq!(host.call("GET", "/v1/balance", &secret).status, 200);
    let before = folder.json(&["keys", "show", &id]);
    assert_eq!(before["status"], "active");

    // Nobody was asked.
    let ended = folder.run(&["keys", "expire", &id]);
    assert_eq!((ended.code, ended.stdout.as_str()), (2, ""));
    assert!(ended.stderr.contains("--yes"), "{}", ended.stderr);
    assert_eq!(host.call("GET", "/v1/balance", &secret).status, 200);
    assert_eq!(folder.json(&["keys", "show", &id])["revision"], before["revision"]);

    let ended = folder.json(&["keys", "expire", &id, "--yes"]);
    assert_eq!(ended["status"], "expired");
    let answer = host.call("GET", "/v1/balance", &secret);
    assert_eq!((answer.status, answer.code().as_str()), (401, "api_key_expired"));
    for verb in [
        &["expire", "--yes"][..],
        &["reveal"],
        &["rotate", "--yes"],
        &["restore"],
        &["cancel-rotation"],
        &["update", "--name", "b"],
        &["schedule-rotation", "--at", "2999-01-01T00:00:00Z"],
    ] {
        let refused = folder.run(&[&["keys", verb[0], &id], &verb[1..]].concat());
        assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{verb:?}");
        assert_no_secret(&refused.stderr);
    }
    assert_untouched(&folder, &folder.json(&["keys", "show", &id]));
}

#[test]
fn a_person_is_asked_before_a_key_ends() {
    if !has_tool("script") {
        return;
    }
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let (id, secret) = folder.key(&["--kind", "secret"]);
    for verb in ["expire", "rotate"] {
        for answer in ["n", "", "yess", "a key"] {
            let mut terminal = Terminal::run(&folder, &["keys", verb, &id]);
            // Which key it is, and whether somebody still uses it.
            terminal.wait_for(&id).wait_for("a key").wait_for(&secret[secret.len() - 4..]);
            terminal
                .wait_for("used")
                .wait_for("[y/N]")
                .enter(answer)
                .wait_for("Nothing was changed");
            let ended = terminal.end();
            assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{verb} `{answer}`");
            assert_eq!(host.call("GET", "/v1/balance", &secret).status, 200, "{verb} `{answer}`");
            assert_eq!(folder.json(&["keys", "show", &id])["revision"], 1);
        }
    }
    crate::program::wait_until("the use is noted", || {
        folder.json(&["keys", "show", &id])["last_used"].is_string()
    });
    let mut terminal = Terminal::run(&folder, &["keys", "expire", &id]);
    terminal.wait_for("GET /v1/balance from 127.0.0.1").wait_for("[y/N]").enter("y");
    let ended = terminal.end();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("expired"), "{}", ended.stdout);
    assert_eq!(host.call("GET", "/v1/balance", &secret).status, 401);
}

#[test]
fn a_key_that_changed_while_a_person_thought_is_left_alone() {
    if !has_tool("script") {
        return;
    }
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let (id, secret) = folder.key(&["--kind", "secret"]);
    let mut terminal = Terminal::run(&folder, &["keys", "expire", &id]);
    terminal.wait_for("[y/N]");
    folder.json(&["keys", "update", &id, "--note", "still needed"]);
    terminal.enter("y").wait_for("changed since you read it");
    assert_eq!(terminal.end().code, 1);
    assert_eq!(host.call("GET", "/v1/balance", &secret).status, 200);
}

#[test]
fn a_rotated_key_has_a_replacement_that_is_like_it() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let args = ["--note", "vault: a", "--permission", "balance_read", "--allow-ip", "127.0.0.1"];
    for (expire_in, works_on) in
        [(None, false), (Some("0"), false), (Some("1m"), true), (Some("7d"), true)]
    {
        let (old_id, old_secret) = folder.key(&args);
        let flags = match expire_in {
            None => vec!["--yes"],
            Some("0") => vec!["--expire-in", "0", "--yes"],
            // What can still be put right is not asked.
            Some(expire_in) => vec!["--expire-in", expire_in, "--note", "vault: b"],
        };
        let made = folder.run(&[&["keys", "rotate", &old_id][..], &flags].concat());
        assert_eq!(made.code, 0, "{expire_in:?}: {}", made.stderr);
        let secret = made.stdout.trim();
        assert!(secret.starts_with("rk_test_") && secret != old_secret, "{expire_in:?}");
        assert_no_secret(&made.stderr);
        let says = if works_on { "works for another" } else { "has ended" };
        assert!(made.stderr.contains(says), "{}", made.stderr);

        assert_eq!(host.call("GET", "/v1/balance", secret).status, 200);
        let status = if works_on { 200 } else { 401 };
        assert_eq!(host.call("GET", "/v1/balance", &old_secret).status, status, "{expire_in:?}");
        let old = folder.json(&["keys", "show", &old_id]);
        let new = folder.json(&["keys", "show", old["replaced_by"].as_str().unwrap()]);
        assert_eq!(new["replaces"], json!(old_id));
        for field in ["kind", "name", "account", "livemode", "permissions", "ip_allowlist"] {
            assert_eq!(new[field], old[field], "{field}");
        }
        assert_eq!(new["note"], if works_on { "vault: b" } else { "vault: a" });
        assert!(old["expires_at"].is_string() && new["expires_at"].is_null());

        // Once: the next one is rotated in its turn.
        let refused = folder.run(&["keys", "rotate", &old_id, "--yes"]);
        assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{}", refused.stderr);
    }
}

#[test]
fn a_rotation_that_is_asked_wrongly_changes_nothing() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let (id, secret) = folder.key(&["--kind", "secret"]);
    for (args, code, named) in [
        (&["rotate"][..], 2, "--yes"),
        (&["rotate", "--expire-in", "0"], 2, "--yes"),
        (&["rotate", "--expire-in", "60"], 2, "`30m`"),
        (&["rotate", "--expire-in", "1w"], 2, "`30m`"),
        (&["rotate", "--expire-in", "8d"], 1, "7 days"),
        (&["schedule-rotation"], 2, "--at"),
        (&["schedule-rotation", "--at", "tomorrow"], 2, "--at"),
        (&["schedule-rotation", "--at", "2001-01-01T00:00:00Z"], 1, "at:"),
        (&["schedule-rotation", "--at", "2999-01-01T00:00:00Z"], 1, "at:"),
    ] {
        let ended = folder.run(&[&["keys", args[0], &id], &args[1..]].concat());
        assert_eq!((ended.code, ended.stdout.as_str()), (code, ""), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(named), "{args:?}: {}", ended.stderr);
    }
    assert_eq!(host.call("GET", "/v1/balance", &secret).status, 200);
    assert_eq!(folder.json(&["keys", "show", &id])["revision"], 1);
    assert_eq!(folder.json(&["keys", "list"]).as_array().unwrap().len(), 7);
}

#[test]
fn a_scheduled_rotation_happens_by_itself() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let (id, secret) = folder.key(&["--kind", "secret"]);
    let soon = jiff::Timestamp::now().as_second() + 2;
    let soon = jiff::Timestamp::from_second(soon).unwrap().to_string();
    let args = ["keys", "schedule-rotation", &id, "--at", &soon, "--every-days", "30"];
    let key = folder.json(&[&args[..], &["--expire-in", "12h"]].concat());
    let rotation = json!({ "at": soon, "every_days": 30, "expire_current_key_in_minutes": 720 });
    assert_eq!(key["rotation"], rotation);
    crate::program::wait_until("the host rotates the key", || {
        folder.json(&["keys", "show", &id])["replaced_by"].is_string()
    });
    let old = folder.json(&["keys", "show", &id]);
    assert_eq!(old["rotation"], Value::Null);
    let new_id = old["replaced_by"].as_str().unwrap();
    let new = folder.json(&["keys", "show", new_id]);
    assert_eq!((&new["rotation"]["every_days"], &new["origin"]), (&json!(30), &json!("platform")));
    // Both work, and the new secret is there to be fetched.
    let new_secret = folder.run(&["keys", "reveal", new_id]).stdout;
    for secret in [secret.as_str(), new_secret.trim()] {
        assert_eq!(host.call("GET", "/v1/balance", secret).status, 200);
    }
    assert_no_secret(&host.output());
}

#[test]
fn a_schedule_is_shown_and_taken_off_again() {
    with_and_without_a_host(|folder| {
        let (id, _) = folder.key(&[]);
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
        let at = jiff::Timestamp::from_second(at.as_second()).unwrap().to_string();
        let args = ["keys", "schedule-rotation", &id, "--at", &at, "--every-days", "90"];
        let told = folder.run(&[&args[..], &["--expire-in", "7d"]].concat());
        assert_eq!(told.code, 0, "{}", told.stderr);
        for part in [at.as_str(), "every 90 days", "another 7d"] {
            assert!(told.stdout.contains(part), "{part}: {}", told.stdout);
        }
        assert!(folder.run(&["keys", "list"]).stdout.contains(&at));
        assert_eq!(folder.json(&["keys", "cancel-rotation", &id])["rotation"], Value::Null);
        assert!(!folder.run(&["keys", "list"]).stdout.contains(&at));
        let refused = folder.run(&["keys", "cancel-rotation", &id]);
        assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
        assert!(refused.stderr.contains("No rotation is scheduled"), "{}", refused.stderr);
    });
}

#[test]
fn access_is_restored() {
    with_and_without_a_host(|folder| {
        let (id, _) = folder.key(&[]);
        let key = folder.json(&["keys", "restore", &id]);
        assert!(key["restored_at"].is_string(), "{key}");
        assert_eq!(key["limited_access"], false);
        let (publishable, _) = folder.key(&["--kind", "publishable"]);
        assert_eq!(folder.run(&["keys", "restore", &publishable]).code, 1);
    });
}

#[test]
fn a_key_made_elsewhere_works_and_its_secret_stays_where_it_was() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    // Not a key of ours: no checksum, and other characters.
    let body = "51H-elsewhere_".to_owned() + &"x".repeat(20) + "Wxyz";
    for (at, prefix) in ["", "sk_test_"].into_iter().enumerate() {
        let secret = format!("{prefix}{body}{at}");
        fs::write(folder.path().join("secret"), format!("{secret}\n")).unwrap();
        let import = |file: &str| {
            let args = ["keys", "import", "--name", "moved", "--kind", "secret", "--json"];
            end(folder.command(&[&args[..], &["--secret-file", file]].concat()), &secret)
        };
        assert_eq!(host.call("GET", "/v1/balance", &secret).status, 401);
        let made = import(["secret", "-"][at]);
        assert_eq!(made.code, 0, "{}", made.stderr);
        assert!(!made.stdout.contains(&body) && !made.stderr.contains(&body), "{made:?}");
        let key: Value = serde_json::from_str(&made.stdout).unwrap();
        assert_eq!((&key["imported"], &key["name"]), (&json!(true), &json!("moved")));
        assert_eq!(token(&key), None);
        let redacted = key["secret_key"]["secret_token_redacted"].as_str().unwrap();
        assert!(redacted.starts_with(&format!("{prefix}****")), "{redacted}");
        assert!(redacted.ends_with(&format!("*xyz{at}")), "{redacted}");
        assert_eq!(host.call("GET", "/v1/balance", &secret).status, 200);
        // Its digest is all there is.
        assert_eq!(folder.run(&["keys", "reveal", key["id"].as_str().unwrap()]).code, 1);
        // It is there already.
        let again = import("secret");
        assert_eq!((again.code, again.stdout.as_str()), (1, ""));
    }
    let output = host.output();
    assert!(!output.contains(&body), "{output}");
    for file in fs::read_dir(folder.data()).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap_or_default();
        assert!(!bytes.windows(body.len()).any(|window| window == body.as_bytes()));
    }
}

#[test]
fn a_key_is_imported_by_its_digest() {
    with_and_without_a_host(|folder| {
        let digest = "ab".repeat(32);
        let args = ["keys", "import", "--name", "moved", "--kind", "secret", "--digest", &digest];
        let key = folder.json(&[&args[..], &["--redacted", "sk_test_****abcd"]].concat());
        assert_eq!(key["secret_key"]["secret_token_redacted"], "sk_test_****abcd");
        let before = folder.json(&["keys", "list"]);
        for (args, code, named) in [
            (&["--digest", "abc", "--redacted", "sk_test_****abcd"][..], 1, "digest"),
            (&["--digest", &"cd".repeat(32), "--redacted", "sk_test_abcd"], 1, "redacted"),
            (&["--digest", &"cd".repeat(32), "--redacted", "sk_live_****abcd"], 1, "live"),
            (&["--digest", &"cd".repeat(32)], 2, "--redacted"),
            (&["--redacted", "sk_test_****abcd"], 2, "--secret-file"),
            (&["--digest", &digest, "--secret-file", "-"], 2, "--secret-file"),
            (&["--secret-file", "missing"], 1, "`missing`"),
            (&["--secret-file", "-"], 1, "`-` does not hold a secret"),
        ] {
            let whole = [&["keys", "import", "--name", "b", "--kind", "secret"], args].concat();
            let ended = folder.run(&whole);
            assert_eq!((ended.code, ended.stdout.as_str()), (code, ""), "{args:?}: {ended:?}");
            assert!(ended.stderr.contains(named), "{args:?}: {}", ended.stderr);
        }
        assert_eq!(folder.json(&["keys", "list"]), before);
    });
}

#[test]
fn the_same_command_makes_nothing_twice() {
    with_and_without_a_host(|folder| {
        let args = ["keys", "create", "--name", "once", "--idempotency-key", "deploy 7"];
        let first = folder.run(&args);
        assert_eq!(first.code, 0, "{}", first.stderr);
        let again = folder.run(&args);
        // A script that wants the secret must not go on without it.
        assert_eq!((again.code, again.stdout.as_str()), (1, ""));
        assert!(again.stderr.contains("made before"), "{}", again.stderr);
        assert!(!again.stderr.contains(first.stdout.trim()));
        let again = folder.json(&args);
        assert_eq!((&again["secret_shown"], token(&again)), (&json!(true), None));
        assert_eq!(folder.json(&["keys", "list"]).as_array().unwrap().len(), 7);
        // Another command under the same text is a mistake.
        let other = folder.run(&["keys", "create", "--name", "b", "--idempotency-key", "deploy 7"]);
        assert_eq!((other.code, other.stdout.as_str()), (1, ""));
        assert_eq!(folder.json(&["keys", "list"]).as_array().unwrap().len(), 7);

        let id = again["id"].as_str().unwrap();
        let args = ["keys", "rotate", id, "--expire-in", "1h", "--idempotency-key", "deploy 8"];
        assert_eq!(folder.run(&args).code, 0);
        assert_eq!(folder.run(&args).code, 1);
        assert_eq!(folder.json(&["keys", "list"]).as_array().unwrap().len(), 8);
    });
}

#[test]
fn people_are_shown_what_a_key_was_used_for() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let (id, secret) = folder.key(&["--permission", "balance_read"]);
    assert!(folder.run(&["keys", "show", &id]).stdout.contains("never"));
    assert_eq!(host.call("GET", "/v1/balance", &secret).status, 200);
    let used = "GET /v1/balance from 127.0.0.1";
    crate::program::wait_until("the use is noted", || {
        folder.run(&["keys", "show", &id]).stdout.contains(used)
    });
    assert!(folder.run(&["keys", "list"]).stdout.contains(used));
    let key = folder.json(&["keys", "show", &id]);
    assert_eq!(key["last_used_endpoint"], "GET /v1/balance");
    assert_eq!(key["last_used_source"], "127.0.0.1");
    assert_eq!(key["actions"], json!(["expire", "restore", "reveal", "rotate", "update"]));
}
