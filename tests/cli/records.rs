//! `wardkey logs` and `wardkey audit`: what was done with keys, and for what.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::program::{Folder, Running, assert_no_secret, wait_until, with_and_without_a_host};

fn entries(listed: &Value) -> Vec<Value> {
    listed.as_array().unwrap().clone()
}

/// Waits until the log has so many entries.
fn logged(folder: &Folder, count: usize) {
    wait_until("the log is written", || entries(&folder.json(&["logs", "list"])).len() >= count);
}

fn used() -> (Folder, Running, String, String) {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let (reader, reads) = folder.key(&["--permission", "balance_read"]);
    let (secret, all) = folder.key(&["--kind", "secret", "--live"]);
    for (method, path, key, status) in [
        ("GET", "/v1/balance", &reads, 200),
        ("GET", "/v1/customers", &reads, 403),
        ("POST", "/v1/refunds", &reads, 403),
        ("GET", "/v1/balance", &all, 200),
        ("GET", "/v1/customers/cus_none", &all, 404),
    ] {
        assert_eq!(host.call(method, path, key).status, status, "{method} {path}");
    }
    logged(&folder, 5);
    (folder, host, reader, secret)
}

#[test]
fn the_log_is_found_by_what_one_looks_for() {
    let (folder, _host, reader, secret) = used();
    let account = folder.json(&["keys", "show", &reader])["account"].as_str().unwrap().to_owned();
    let all = entries(&folder.json(&["logs", "list"]));
    let middle = all[2]["created"].as_str().unwrap();
    // Requests may come in the same millisecond.
    let is_earlier = |entry: &Value| {
        let at = |entry: &Value| entry["created"].as_str().unwrap().parse::<Timestamp>().unwrap();
        at(entry) < at(&all[2])
    };
    let (until, from): (Vec<&Value>, Vec<&Value>) = all.iter().partition(|one| is_earlier(one));
    let statuses = |entries: Vec<&Value>| -> Vec<String> {
        entries.iter().map(|entry| entry["status"].to_string()).collect()
    };
    let (until, from) = (statuses(until), statuses(from));
    let (until, from): (Vec<&str>, Vec<&str>) =
        (until.iter().map(String::as_str).collect(), from.iter().map(String::as_str).collect());
    for (args, expected) in [
        (&[][..], &["404", "200", "403", "403", "200"][..]),
        (&["--key", &reader], &["403", "403", "200"]),
        (&["--key", &secret], &["404", "200"]),
        (&["--live"], &["404", "200"]),
        (&["--test"], &["403", "403", "200"]),
        (&["--account", &account], &["404", "200", "403", "403", "200"]),
        (&["--status", "403"], &["403", "403"]),
        (&["--status", "4xx"], &["404", "403", "403"]),
        (&["--code", "more_permissions_required"], &["403", "403"]),
        (&["--endpoint", "POST /v1/refunds"], &["403"]),
        (&["--endpoint", "get /v1/balance", "--live"], &["200"]),
        (&["--limit", "2"], &["404", "200"]),
        (&["--from", middle], &from),
        (&["--until", middle], &until),
        (&["--from", "2999-01-01T00:00:00Z"], &[]),
        (&["--status", "5xx"], &[]),
    ] {
        let found = entries(&folder.json(&[&["logs", "list"], args].concat()));
        let statuses: Vec<String> = found.iter().map(|entry| entry["status"].to_string()).collect();
        assert_eq!(statuses, expected, "{args:?}");
    }
    for (args, code, named) in [
        (&["--status", "many"][..], 1, "status"),
        (&["--key", "key_nobody"], 1, "key_nobody"),
        (&["--from", "yesterday"], 2, "--from"),
        (&["--live", "--test"], 2, "--test"),
    ] {
        let ended = folder.run(&[&["logs", "list"], args].concat());
        assert_eq!((ended.code, ended.stdout.as_str()), (code, ""), "{args:?}");
        assert!(ended.stderr.contains(named), "{args:?}: {}", ended.stderr);
    }
    let table = folder.run(&["logs", "list"]).stdout;
    assert_eq!(table.lines().count(), 6);
    for part in ["POST", "/v1/refunds", "more_permissions_required", reader.as_str(), "req_"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    assert_no_secret(&table);
}

#[test]
fn a_long_log_is_followed_page_by_page() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let (_, secret) = folder.key(&["--permission", "balance_read"]);
    for _ in 0..120 {
        assert_eq!(host.call("GET", "/v1/balance", &secret).status, 200);
    }
    let list = |limit: &str| entries(&folder.json(&["logs", "list", "--limit", limit]));
    wait_until("the log is written", || list("1000").len() == 120);
    for (limit, expected) in [("1", 1), ("99", 99), ("100", 100), ("101", 101), ("120", 120)] {
        let found = list(limit);
        let ids: BTreeSet<&str> = found.iter().map(|entry| entry["id"].as_str().unwrap()).collect();
        assert_eq!((found.len(), ids.len()), (expected, expected), "{limit}");
    }
    assert_eq!(entries(&folder.json(&["logs", "list"])).len(), 100);
}

#[test]
fn the_log_of_an_ended_key_stays() {
    let (folder, _host, reader, _) = used();
    folder.json(&["keys", "expire", &reader, "--yes"]);
    assert_eq!(entries(&folder.json(&["logs", "list", "--key", &reader])).len(), 3);
}

#[test]
fn old_requests_are_forgotten_only_where_that_was_said() {
    let (folder, host, ..) = used();
    assert!(host.terminate().success());
    {
        let database = rusqlite::Connection::open(folder.data().join("wardkey.db")).unwrap();
        let day = 24 * 60 * 60 * 1000;
        database
            .execute("UPDATE request_log SET at_ms = at_ms - ?1 WHERE seq <= 2", [3 * day])
            .unwrap();
    }
    let host = folder.start(&["--log-retention-days", "4"]);
    // The worker has been round when it has seen to what is due.
    let (id, _) = folder.key(&[]);
    let soon = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + 1).unwrap();
    folder.json(&["keys", "schedule-rotation", &id, "--at", &soon.to_string()]);
    wait_until("the worker has worked", || {
        folder.json(&["keys", "show", &id])["replaced_by"].is_string()
    });
    assert_eq!(entries(&folder.json(&["logs", "list"])).len(), 5);
    assert!(host.terminate().success());
    let _host = folder.start(&["--log-retention-days", "2"]);
    wait_until("old entries are dropped", || entries(&folder.json(&["logs", "list"])).len() == 3);
    for wrong in ["0", "-1", "many"] {
        let ended = folder.run(&["serve", &format!("--log-retention-days={wrong}")]);
        assert_eq!(ended.code, 2, "{wrong}");
    }
}

#[test]
fn what_was_done_is_written_down() {
    with_and_without_a_host(|folder| {
        let (id, _) = folder.key(&["--permission", "charge_read"]);
        folder.json(&["keys", "update", &id, "--name", "b", "--no-permissions"]);
        assert_eq!(folder.run(&["keys", "update", &id, "--permission", "everything"]).code, 1);
        folder.json(&["keys", "reveal", &id]);
        folder.json(&["keys", "expire", &id, "--yes"]);
        let list = entries(&folder.json(&["audit", "list", "--target", &id]));
        let actions: Vec<&str> =
            list.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
        let expected = [
            "api_key.expired",
            "api_key.revealed",
            "api_key.updated",
            "api_key.updated",
            "api_key.created",
        ];
        assert_eq!(actions, expected);
        assert!(list[2]["refused"].is_string(), "{}", list[2]);
        assert_eq!(list[3]["before"]["permissions"], json!(["charge_read"]));
        assert_eq!(list[3]["after"]["name"], "b");
        assert!(list.iter().all(|entry| entry["actor"] == "operator"));

        // With the keys that came with the account.
        let platform = entries(&folder.json(&["audit", "list", "--actor", "platform"]));
        assert_eq!(platform.len(), 7);
        assert_eq!(entries(&folder.json(&["audit", "list"])).len(), 12);
        assert_eq!(entries(&folder.json(&["audit", "list", "--limit", "3"])).len(), 3);
        let table = folder.run(&["audit", "list"]).stdout;
        assert_eq!(table.lines().count(), 13);
        for part in ["api_key.updated", &id, "done", "parameter_invalid", "name, permissions"] {
            assert!(table.contains(part), "{part}: {table}");
        }
        assert_no_secret(&table);
        assert_no_secret(&folder.run(&["audit", "list", "--json"]).stdout);
    });
}

#[test]
fn what_a_stranger_wrote_does_not_move_the_cursor() {
    let folder = Folder::ready();
    let id = "key_\u{1b}[2Jgone";
    assert_eq!(folder.run(&["keys", "expire", id, "--yes"]).code, 1);
    let table = folder.run(&["audit", "list"]).stdout;
    assert!(table.contains("key_\\u{1b}[2Jgone") && !table.contains('\u{1b}'), "{table}");
}

#[test]
fn a_log_that_was_tampered_with_is_told() {
    let folder = Folder::ready();
    let (id, _) = folder.key(&[]);
    let head = folder.run(&["audit", "head"]);
    let head = head.stdout.trim();
    assert!(head.starts_with("8:"), "{head}");
    assert_eq!(folder.json(&["audit", "head"])["head"], head);
    folder.json(&["keys", "expire", &id, "--yes"]);

    let verify = |args: &[&str]| folder.run(&[&["audit", "verify"], args].concat());
    let intact = |args: &[&str]| {
        let ended = verify(args);
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.stderr);
        assert!(ended.stdout.contains("intact: 9 entries"), "{}", ended.stdout);
    };
    intact(&[]);
    intact(&["--head", head]);
    let answer = folder.json(&["audit", "verify"]);
    assert_eq!((&answer["intact"], &answer["entries"]), (&json!(true), &json!(9)));
    let (_, seal) = head.split_once(':').unwrap();
    let later = format!("12:{seal}");
    let other = format!("7:{seal}");
    for (args, code, says) in [
        (&["--head", &later][..], 1, "cut off"),
        (&["--head", &other], 1, "not the one"),
        (&["--head", "8"], 2, "--head"),
        (&["--head", "0:00"], 2, "--head"),
    ] {
        let ended = verify(args);
        assert_eq!((ended.code, ended.stdout.as_str()), (code, ""), "{args:?}");
        assert!(ended.stderr.contains(says), "{args:?}: {}", ended.stderr);
    }

    {
        let database = rusqlite::Connection::open(folder.data().join("wardkey.db")).unwrap();
        // Who writes to the file takes what stands in the way away first.
        let guards = "SELECT name FROM sqlite_master WHERE type = 'trigger'";
        let guards: Vec<String> = {
            let mut guards = database.prepare(guards).unwrap();
            guards.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        for guard in guards {
            database.execute_batch(&format!("DROP TRIGGER {guard}")).unwrap();
        }
        let changed = database.execute(
            "UPDATE audit_log SET text = replace(text, 'operator', 'somebody') WHERE seq = 8",
            [],
        );
        assert_eq!(changed.unwrap(), 1);
    }
    let ended = verify(&[]);
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""));
    assert!(ended.stderr.contains("not intact: entry 8"), "{}", ended.stderr);
    let ended = verify(&["--json"]);
    assert_eq!(ended.code, 1);
    let answer: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(answer["intact"], false);
}

#[test]
fn the_log_names_keys_that_have_lost_their_turn_in_one_line_a_look() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let ids: Vec<String> = (0..12).map(|_| folder.key(&["--kind", "secret"]).0).collect();
    let refused: Vec<String> = (0..3).map(|_| folder.key(&["--kind", "secret"]).0).collect();
    let (good, _) = folder.key(&["--kind", "secret"]);
    assert!(host.terminate().success());
    {
        let database = rusqlite::Connection::open(folder.data().join("wardkey.db")).unwrap();
        database.pragma_update(None, "ignore_check_constraints", true).unwrap();
        let due = "UPDATE keys SET rotate_at = seq, rotate_overlap_minutes = 0, mode = ?2 \
            WHERE id = ?1";
        for id in &ids {
            assert_eq!(database.execute(due, [id.as_str(), "prod"]).unwrap(), 1);
        }
        for id in refused.iter().chain([&good]) {
            assert_eq!(database.execute(due, [id.as_str(), "test"]).unwrap(), 1);
        }
        for id in &refused {
            let unknown = "UPDATE keys SET kind = 'of another policy' WHERE id = ?1";
            assert_eq!(database.execute(unknown, [id]).unwrap(), 1);
        }
    }
    let host = folder.start(&[]);
    wait_until("the good key is rotated", || {
        folder.json(&["keys", "show", &good])["replaced_by"].is_string()
    });
    let failed = "what is due with these keys was not done";
    let put_off = "the policy refused rotations, which were put off";
    let output = host.output();
    // How many, what is wrong, and which; of many, the first.
    for (what, parts, others) in [
        (
            failed,
            ["ERROR", "count=12", "unknown mode", &ids[..10].join(" ")],
            [&ids[10], &refused[0], &good],
        ),
        (
            put_off,
            ["WARN", "count=3", "key_kind_unknown", &refused.join(" ")],
            [&ids[0], &ids[11], &good],
        ),
    ] {
        let lines: Vec<&str> = output.lines().filter(|line| line.contains(what)).collect();
        assert!(!lines.is_empty(), "{what}: {output}");
        for line in lines {
            for part in parts {
                assert!(line.contains(part), "{part}: {line}");
            }
            for id in others {
                assert!(!line.contains(id.as_str()), "{id}: {line}");
            }
        }
    }
    assert_no_secret(&output);
}
