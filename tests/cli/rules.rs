//! `wardkey verify` and `wardkey permissions`.

use std::fs;

use crate::program::{Folder, assert_no_secret, end};

#[test]
fn the_exit_code_of_verify_is_the_answer() {
    for runs in [false, true] {
        let folder = Folder::ready();
        let host = runs.then(|| folder.start(&[]));
        let (_, secret) = folder.key(&["--permission", "charge_write", "--allow-ip", "10.0.0.0/8"]);
        let from_inside = ["--source", "10.1.2.3"];
        for (request, flags, key, code, says) in [
            ("POST /v1/refunds", &from_inside[..], secret.as_str(), 0, "allowed"),
            ("post /v1/refunds", &from_inside, &secret, 0, "allowed"),
            ("GET /v1/customers", &from_inside, &secret, 3, "customer_read"),
            ("POST /v1/refunds", &[], &secret, 3, "127.0.0.1"),
            ("POST /v1/refunds", &from_inside, "", 3, "did not provide an API key"),
            ("POST /v1/refunds", &from_inside, "sk_test_nonsense", 3, "Invalid API Key"),
            ("GET /v1/nothing", &from_inside, &secret, 3, "GET: /v1/nothing"),
            (
                "GET /v1/charges",
                &["--source", "10.1.2.3", "--context", "acct_nobody"],
                &secret,
                3,
                "acct_nobody",
            ),
        ] {
            let args = [&["verify", request], flags].concat();
            // From the standard input, with the line break that editors leave.
            let ended = end(folder.command(&args), &format!("{key}\n"));
            assert_eq!(ended.code, code, "{args:?}: {ended:?}");
            assert!(ended.stdout.contains(says), "{args:?}: {}", ended.stdout);
            assert_no_secret(&ended.stdout);
            assert_no_secret(&ended.stderr);
            // From a file, for a program.
            fs::write(folder.path().join("key"), key).unwrap();
            let args = [&args[..], &["--key-file", "key", "--json"]].concat();
            let ended = folder.run(&args);
            assert_eq!(ended.code, code, "{args:?}: {ended:?}");
            let answer: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
            assert_eq!(answer["allowed"], code == 0);
            assert!(!answer["steps"].as_array().unwrap().is_empty());
            assert_no_secret(&ended.stdout);
        }
        drop(host);
    }
}

#[test]
fn verify_that_is_asked_wrongly_says_neither_yes_nor_no() {
    let folder = Folder::ready();
    let (_, secret) = folder.key(&[]);
    for (args, code) in [
        (&["verify"][..], 2),
        (&["verify", "/v1/balance"], 2),
        // Never as an argument: those are visible to every user of the machine.
        (&["verify", "GET /v1/balance", &secret], 2),
        (&["verify", "GET /v1/balance", "--key", &secret], 2),
        (&["verify", "GET /v1/balance", "--source", "here"], 2),
        (&["verify", "GET /v1/balance", "--key-file", "missing"], 1),
        (&["verify", "GET /v1//balance"], 1),
        (&["verify", "GET /v1/balance", "--data-dir", "elsewhere"], 1),
    ] {
        let ended = end(folder.command(args), &secret);
        assert_eq!(ended.code, code, "{args:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{args:?}");
        assert!(!ended.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn permissions_for_requests() {
    for runs in [false, true] {
        let folder = Folder::ready();
        let host = runs.then(|| folder.start(&[]));
        let ended =
            folder.run(&["permissions", "for", "POST /v1/refunds", "get /v1/customers/cus_1?a=b"]);
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "charge_write\ncustomer_read\n"));

        let ended = folder.run(&["permissions", "for", "POST /v1/refunds", "GET /v1/nothing"]);
        assert_eq!((ended.code, ended.stdout.as_str()), (1, "charge_write\n"));
        assert!(ended.stderr.contains("GET /v1/nothing"), "{}", ended.stderr);

        let ended = folder.run(&["permissions", "for", "nonsense", "--json"]);
        assert_eq!(ended.code, 1);
        let answer: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(answer["unresolved_endpoints"][0]["endpoint"], "nonsense");

        // What it says is enough, and nothing less is.
        let (_, secret) = folder.key(&["--permission", "charge_write"]);
        let verify = folder.command(&["verify", "POST /v1/refunds"]);
        assert_eq!(end(verify, &secret).code, 0);
        let (_, secret) = folder.key(&["--permission", "charge_read"]);
        let verify = folder.command(&["verify", "POST /v1/refunds"]);
        assert_eq!(end(verify, &secret).code, 3);
        drop(host);
    }
}

#[test]
fn permissions_are_listed() {
    let folder = Folder::ready();
    let all = folder.json(&["permissions", "list"]);
    let all = all.as_array().unwrap();
    assert!(all.iter().any(|one| one["name"] == "charge_read"));
    let table = folder.run(&["permissions", "list"]).stdout;
    assert_eq!(table.lines().count(), all.len() + 1);
    // Every one of them can be given to a key.
    let names: Vec<&str> = all.iter().map(|one| one["name"].as_str().unwrap()).collect();
    let key = folder.json(&[
        "keys",
        "create",
        "--name",
        "all but unlimited",
        "--permission",
        &names.join(","),
    ]);
    assert_eq!(key["permissions"].as_array().unwrap().len(), names.len());
}
