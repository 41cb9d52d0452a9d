//! Flags and variables.

use std::{fs, io::Read as _, net::TcpListener, os::unix::fs::PermissionsExt as _, process::Stdio};

use crate::{
    common::send,
    program::{FREE_PORTS, Folder, SlowUpstream, end},
};

/// Every flag of `serve`, and its variable.
const SERVE_FLAGS: &[(&str, &str)] = &[
    ("--data-dir", "WARDKEY_DATA_DIR"),
    ("--init", "WARDKEY_INIT"),
    ("--listen", "WARDKEY_LISTEN"),
    ("--admin-listen", "WARDKEY_ADMIN_LISTEN"),
    ("--internal-listen", "WARDKEY_INTERNAL_LISTEN"),
    ("--internal-token-file", "WARDKEY_INTERNAL_TOKEN_FILE"),
    ("--upstream", "WARDKEY_UPSTREAM"),
    ("--gate-prefix", "WARDKEY_GATE_PREFIX"),
    ("--trusted-proxy", "WARDKEY_TRUSTED_PROXY"),
    ("--policy", "WARDKEY_POLICY"),
    ("--watch", "WARDKEY_WATCH"),
    ("--fall-back", "WARDKEY_FALL_BACK"),
    ("--policy-key", "WARDKEY_POLICY_KEY"),
    ("--require-policy", "WARDKEY_REQUIRE_POLICY"),
    ("--min-revision", "WARDKEY_MIN_REVISION"),
    ("--allow-unlisted", "WARDKEY_ALLOW_UNLISTED"),
    ("--max-failed-auth-per-minute", "WARDKEY_MAX_FAILED_AUTH_PER_MINUTE"),
    ("--brand", "WARDKEY_BRAND"),
    ("--log-retention-days", "WARDKEY_LOG_RETENTION_DAYS"),
    ("--accept-backup", "WARDKEY_ACCEPT_BACKUP"),
    ("--verification", "WARDKEY_VERIFICATION"),
    ("--verification-to", "WARDKEY_VERIFICATION_TO"),
    ("--smtp-url", "WARDKEY_SMTP_URL"),
    ("--smtp-url-file", "WARDKEY_SMTP_URL_FILE"),
    ("--smtp-from", "WARDKEY_SMTP_FROM"),
    ("--verification-webhook", "WARDKEY_VERIFICATION_WEBHOOK"),
    ("--verification-webhook-secret-file", "WARDKEY_VERIFICATION_WEBHOOK_SECRET_FILE"),
];

#[test]
fn help_mentions_every_flag() {
    let folder = Folder::empty();
    let host_flags = &["--data-dir", "--policy", "--brand", "--json"][..];
    let with = |flags: &[&'static str]| [host_flags, flags].concat();
    let wanted = [
        "--name",
        "--kind",
        "--live",
        "--account",
        "--note",
        "--permission",
        "--connect-permission",
        "--allow-ip",
        "--expires-at",
    ];
    let codes = &["--idempotency-key", "--verification"][..];
    let import = [codes, &["--secret-file", "--digest", "--redacted"]].concat();
    let serve: Vec<&str> =
        SERVE_FLAGS.iter().flat_map(|&(flag, variable)| [flag, variable]).collect();
    let nouns = ["serve", "keys", "verify", "permissions", "logs", "audit", "accounts"];
    let nouns =
        [&nouns[..], &["organizations", "policies", "backup", "key-encryption-key"]].concat();
    let verbs = ["list", "show", "create", "import", "update", "expire", "rotate", "reveal"];
    let verbs = [&verbs[..], &["schedule-rotation", "cancel-rotation", "restore"]].concat();
    for (args, flags) in [
        (&[][..], [&serve[..], &nouns, &["--version", "0 fine", "4 a verification"]].concat()),
        (&["serve"], serve.clone()),
        (&["keys"], verbs),
        (&["keys", "list"], with(&["--account", "--live", "--test", "--include-expired"])),
        (&["keys", "show"], with(&[])),
        (&["keys", "create"], [&with(&wanted)[..], codes].concat()),
        (&["keys", "import"], [&with(&wanted)[..], &import].concat()),
        (
            &["keys", "update"],
            with(&[
                "--name",
                "--note",
                "--permission",
                "--no-permissions",
                "--connect-permission",
                "--no-connect-permissions",
                "--allow-ip",
                "--any-ip",
                "--if-revision",
            ]),
        ),
        (&["keys", "expire"], with(&["--yes"])),
        (&["keys", "rotate"], [&with(&["--expire-in", "--note", "--yes"])[..], codes].concat()),
        (&["keys", "schedule-rotation"], with(&["--at", "--every-days", "--expire-in"])),
        (&["keys", "cancel-rotation"], with(&[])),
        (&["keys", "reveal"], with(&["--verification"])),
        (&["keys", "restore"], with(&[])),
        (&["verify"], with(&["--key-file", "--source", "--context", "--account", "--api-version"])),
        (&["permissions"], vec!["for", "list"]),
        (&["permissions", "for"], with(&[])),
        (&["permissions", "list"], with(&[])),
        (&["logs"], vec!["list"]),
        (
            &["logs", "list"],
            with(&[
                "--key",
                "--account",
                "--live",
                "--test",
                "--from",
                "--until",
                "--status",
                "--code",
                "--endpoint",
                "--limit",
            ]),
        ),
        (&["audit"], vec!["list", "head", "verify"]),
        (&["audit", "list"], with(&["--target", "--actor", "--limit"])),
        (&["audit", "head"], with(&[])),
        (&["audit", "verify"], with(&["--head"])),
        (&["accounts"], vec!["list", "create", "show", "update"]),
        (&["accounts", "list"], with(&[])),
        (&["accounts", "create"], with(&["--name", "--organization", "--platform"])),
        (&["accounts", "show"], with(&[])),
        (&["accounts", "update"], with(&["--organization", "--no-organization"])),
        (&["organizations"], vec!["create"]),
        (&["organizations", "create"], with(&["--name"])),
        (&["policies"], vec!["push", "list", "show", "status", "activate", "rollback", "retire"]),
        (&["policies"], vec!["canary", "shadow", "keygen", "sign"]),
        (&["policies", "status"], with(&[])),
        (&["policies", "canary"], with(&["--percent", "--by", "--end"])),
        (&["policies", "shadow"], with(&["--percent", "--overlay", "--end"])),
        (&["policies", "keygen"], vec!["--out"]),
        (&["policies", "sign"], vec!["--key", "--name", "--revision", "--out"]),
        (&["policies", "push"], with(&["--name", "--version", "--revision", "--signature"])),
        (&["policies", "list"], with(&[])),
        (&["policies", "show"], with(&[])),
        (&["policies", "activate"], with(&["--overlay", "--no-overlays", "--min-revision"])),
        (&["policies", "rollback"], with(&["--to"])),
        (&["policies", "retire"], with(&[])),
        (&["backup"], with(&["--to"])),
        (&["key-encryption-key"], vec!["replace"]),
        (&["key-encryption-key", "replace"], with(&["--yes"])),
    ] {
        let ended = folder.run(&[args, &["--help"]].concat());
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{args:?}");
        for flag in &flags {
            assert!(ended.stdout.contains(flag), "{args:?} {flag}: {}", ended.stdout);
        }
        // And no flag is there that this table does not know.
        let known = |word: &str| flags.contains(&word) || ["--help", "--version"].contains(&word);
        for line in ended.stdout.lines() {
            let mut words = line.trim_start().split([' ', ',', '=']).filter(|word| word.len() > 2);
            if let Some(word) = words.next().filter(|word| word.starts_with("--")) {
                assert!(known(word), "{args:?}: {word}");
            }
        }
    }
    let version = folder.run(&["--version"]);
    assert_eq!(version.stdout, format!("wardkey {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A revision that no host could store.
const SIGN_TOO_HIGH: [&str; 9] = [
    "policies",
    "sign",
    "a.wasm",
    "--key",
    "policy.key",
    "--name",
    "a",
    "--revision",
    "9223372036854775808",
];

/// What somebody writes who has no key yet.
const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[test]
fn what_is_asked_wrongly_exits_with_2_and_names_what_is_wrong() {
    let folder = Folder::empty();
    for (args, named) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["nonsense"], "nonsense"),
        (&["serve", "nonsense"], "nonsense"),
        (&["--listen", "8080"], "--listen"),
        (&["--listen", "localhost:8080"], "--listen"),
        (&["--admin-listen", "127.0.0.1:99999"], "--admin-listen"),
        (&["--upstream", "https://api.example.com"], "https is not spoken"),
        (&["--upstream", "localhost:3000"], "http://HOST:PORT"),
        (&["--upstream", "http://localhost:3000/api"], "path"),
        (&["--trusted-proxy", "10.0.0.0/33"], "--trusted-proxy"),
        (&["--brand", "Acme"], "lower-case"),
        (&["--brand", "a-c"], "lower-case"),
        (&["--init=maybe"], "--init"),
        (&["keys"], "Usage"),
        (&["keys", "create"], "--name"),
        (&["keys", "create", "--name", "a", "--expires-at", "tomorrow"], "--expires-at"),
        (&["keys", "list", "--live", "--test"], "--test"),
        (&["keys", "show"], "<ID>"),
        (&["keys", "reveal", ""], "<ID>"),
        (&["keys", "expire"], "<ID>"),
        (&["keys", "import", "--name", "a"], "--secret-file"),
        (&["keys", "rotate", "key_1", "--expire-in", "soon"], "--expire-in"),
        (&["logs", "list", "--limit", "all"], "--limit"),
        (&["audit", "verify", "--head", "newest"], "--head"),
        (&["accounts", "update", "acct_1"], "--organization"),
        (&["policies", "push"], "<FILE.wasm>"),
        (&["policies", "push", "a.wasm", "--name", "a", "--version", "1"], "--revision"),
        (&["policies", "push", "a.wasm", "--revision", "1", "--version", "1"], "--name"),
        (&["policies", "push", "a.wasm", "--signature", "a.wasm.sig"], "--version"),
        (&["policies", "keygen"], "--out"),
        (&["policies", "sign", "a.wasm", "--name", "a", "--revision", "1"], "--key"),
        (&SIGN_TOO_HIGH, "--revision"),
        (&["--policy-key", "policy.key"], "64 lower-case"),
        (&["--policy-key", ZEROS], "anybody could sign"),
        (&["--policy-key="], "--policy-key"),
        (&["--require-policy", "standard"], "--require-policy"),
        (&["--require-policy="], "--require-policy"),
        (&["--min-revision=-1"], "--min-revision"),
        (&["--fall-back", "1"], "--fall-back"),
        (&["--fall-back", "101"], "--fall-back"),
        (&["policies", "activate"], "<DIGEST>"),
        (&["policies", "retire", ""], "<DIGEST>"),
        (&["backup"], "--to"),
        (&["permissions", "for"], "<REQUESTS>"),
        (&["--init", "keys", "list"], "keys"),
    ] {
        let ended = folder.run(args);
        assert_eq!(ended.code, 2, "{args:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{args:?}");
        assert!(ended.stderr.contains(named), "{args:?}: {}", ended.stderr);
    }
    let ended = folder.run(&[&FREE_PORTS[..], &["--watch"]].concat());
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("--policy"), "{}", ended.stderr);
    let both = ["--policy", "a.wasm", "--fall-back", "2"];
    let ended = folder.run(&[&FREE_PORTS[..], &both].concat());
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("leave one of them away"), "{}", ended.stderr);
    for prefix in ["", "v1/", "/v1", "//", "/v1/../", "/v1/%2e/", "/a b/"] {
        let ended = folder.run(&[&FREE_PORTS[..], &["--gate-prefix", prefix]].concat());
        assert_ne!(ended.code, 0, "`{prefix}`");
        assert!(ended.stderr.contains("--gate-prefix"), "`{prefix}`: {}", ended.stderr);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn every_flag_can_be_a_variable_and_the_flag_wins() {
    let folder = Folder::empty();
    let upstream = SlowUpstream::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let token = "0123456789abcdef0123456789abcdef";
    fs::write(folder.path().join("token"), token).unwrap();
    fs::set_permissions(folder.path().join("token"), fs::Permissions::from_mode(0o600)).unwrap();
    for yes in ["1", "true", "yes"] {
        let mut serve = folder.command(&["serve", "--listen", "127.0.0.1:0"]);
        for (variable, value) in [
            ("WARDKEY_DATA_DIR", format!("data {yes}")),
            ("WARDKEY_INIT", yes.to_owned()),
            // The flag says otherwise.
            ("WARDKEY_LISTEN", taken.clone()),
            ("WARDKEY_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
            ("WARDKEY_INTERNAL_LISTEN", "127.0.0.1:0".to_owned()),
            ("WARDKEY_INTERNAL_TOKEN_FILE", "token".to_owned()),
            ("WARDKEY_UPSTREAM", upstream.url.clone()),
            ("WARDKEY_GATE_PREFIX", "/".to_owned()),
            ("WARDKEY_TRUSTED_PROXY", "127.0.0.1/32,::1/128".to_owned()),
            ("WARDKEY_ALLOW_UNLISTED", yes.to_owned()),
            ("WARDKEY_BRAND", "acme".to_owned()),
        ] {
            serve.env(variable, value);
        }
        let host = folder.start_command(serve);
        let mut create = folder.command(&["keys", "create", "--name", "a", "--kind", "secret"]);
        create.args(["--allow-ip", "192.0.2.7"]).env("WARDKEY_DATA_DIR", format!("data {yes}"));
        let made = end(create, "");
        assert_eq!(made.code, 0, "{}", made.stderr);
        let secret = made.stdout.trim();
        assert!(secret.starts_with("acme_sk_test_"));
        // Prefix, list, brand, proxy and upstream in one request.
        upstream.answer();
        let authorization = format!("Bearer {secret}");
        let headers = [("Authorization", authorization.as_str()), ("X-Forwarded-For", "192.0.2.7")];
        let answer = send(host.gate, "GET", "/api/made-up", &headers, "");
        assert_eq!((answer.status, answer.body.as_str()), (200, "slow"));
        assert!(upstream.arrived().starts_with("GET /api/made-up HTTP/1.1\r\n"));
        assert_eq!(send(host.gate, "GET", "/api/made-up", &headers[..1], "").status, 403);
        assert_eq!(send(host.internal, "GET", "/metrics", &[], "").status, 403);
        assert!(host.terminate().success());
    }
    for no in ["0", "false", "no"] {
        let mut serve = folder.command(&[&["serve"], &FREE_PORTS[..]].concat());
        serve.env("WARDKEY_WATCH", no).env("WARDKEY_INIT", no).env("WARDKEY_DATA_DIR", "none");
        assert!(end(serve, "").stderr.contains("--init"));
    }
    let mut policy = folder.command(&FREE_PORTS);
    policy.env("WARDKEY_POLICY", "missing.wasm");
    assert!(end(policy, "").stderr.contains("`missing.wasm`"));
    // A variable that is there and says nothing is no wish to go without.
    for variable in ["WARDKEY_POLICY_KEY", "WARDKEY_REQUIRE_POLICY", "WARDKEY_MIN_REVISION"] {
        let mut serve = folder.command(&FREE_PORTS);
        serve.env(variable, "");
        let flag = variable.replace("WARDKEY_", "--").replace('_', "-").to_lowercase();
        let ended = end(serve, "");
        assert_eq!(ended.code, 2, "{variable}: {}", ended.stderr);
        assert!(ended.stderr.contains(&flag), "{variable}: {}", ended.stderr);
    }
}

#[test]
fn the_internal_listener_beyond_this_machine_needs_a_token() {
    let folder = Folder::empty();
    let args = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    for open in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let ended = folder.run(&[&args[..], &["--internal-listen", open]].concat());
        assert_eq!(ended.code, 1, "{open}");
        assert!(ended.stderr.contains("--internal-token-file"), "{}", ended.stderr);
    }
    let token = folder.path().join("token");
    let flag = ["--internal-token-file", "token"];
    for (text, mode, says) in [
        (None, 0o600, "`token`"),
        (Some("short"), 0o600, "fewer than 32"),
        (Some("0123456789abcdef0123456789abcdef"), 0o644, "chmod 600"),
    ] {
        if let Some(text) = text {
            fs::write(&token, text).unwrap();
            fs::set_permissions(&token, fs::Permissions::from_mode(mode)).unwrap();
        }
        let ended = folder.run(&[&FREE_PORTS[..], &flag].concat());
        assert_eq!(ended.code, 1);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
    assert!(!folder.data().exists(), "it was made although nothing could be served");

    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let host = folder.start(&flag);
    let metrics = |authorization: &str| {
        send(host.internal, "GET", "/metrics", &[("Authorization", authorization)], "").status
    };
    assert_eq!(metrics("Bearer 0123456789abcdef0123456789abcdef"), 200);
    assert_eq!(metrics("Bearer 0123456789abcdef0123456789abcdee"), 403);
    assert_eq!(send(host.internal, "GET", "/metrics", &[], "").status, 403);
}

#[test]
fn the_gate_serves_what_is_below_its_prefix() {
    let folder = Folder::ready();
    let (_, secret) = folder.key(&["--kind", "secret"]);
    for (prefix, path, status) in [
        ("/", "/v1/balance", 200),
        ("/v1/", "/v1/balance", 200),
        ("/v1/customers/", "/v1/balance", 404),
        ("/v1/customers/", "/v1/customers", 404),
        ("/v1/customers/", "/v1/customers/search", 200),
        ("/v1/customers/", "/v1/customers/cus_none", 404),
        ("/api/", "/v1/balance", 404),
        ("/api/", "/api/balance", 404),
    ] {
        let host = folder.start(&["--gate-prefix", prefix]);
        let answer = host.call("GET", path, &secret);
        assert_eq!(answer.status, status, "{prefix} {path}: {}", answer.body);
        // It proposes no request that would be refused.
        let served = "/v1/balance".starts_with(prefix);
        let proposed = if served { "/v1/balance -u" } else { "/v2/iam/api_keys/self -u" };
        let output = host.output();
        assert!(output.contains(proposed), "{prefix}: {output}");
    }
}

#[test]
fn a_brand_stands_before_every_secret() {
    let folder = Folder::empty();
    let host = folder.start(&["--brand", "acme"]);
    for (kind, prefix) in [("secret", "acme_sk_test_"), ("restricted", "acme_rk_test_")] {
        let permission: &[&str] =
            if kind == "secret" { &[] } else { &["--permission", "balance_read"] };
        let (id, secret) = folder.key(&[&["--kind", kind], permission].concat());
        assert!(secret.starts_with(prefix), "{kind}");
        assert_eq!(host.call("GET", "/v1/balance", &secret).status, 200);
        // Without its mark it is no key of this host.
        let unmarked = secret.strip_prefix("acme_").unwrap();
        assert_eq!(host.call("GET", "/v1/balance", unmarked).status, 401);
        assert_eq!(folder.run(&["keys", "reveal", &id]).stdout.trim(), secret);
        assert!(folder.run(&["keys", "show", &id]).stdout.contains(prefix));
    }
    let default = folder.default_key("secret", "--live");
    let revealed = folder.run(&["keys", "reveal", default["id"].as_str().unwrap()]);
    assert!(revealed.stdout.starts_with("acme_sk_live_"));
    assert!(host.terminate().success());
    // Where no host runs, the flag says it.
    let (_, secret) = folder.key(&["--kind", "secret", "--brand", "acme"]);
    assert!(secret.starts_with("acme_sk_test_"));
    let verify = ["verify", "GET /v1/balance", "--brand", "acme"];
    assert_eq!(end(folder.command(&verify), &secret).code, 0);
}

#[test]
fn endpoints_that_nobody_described_are_closed_unless_the_operator_opens_them() {
    let folder = Folder::ready();
    let (_, unrestricted) = folder.key(&["--kind", "secret"]);
    let (_, restricted) = folder.key(&["--permission", "charge_write"]);
    let upstream = SlowUpstream::start();
    let host = folder.start(&["--upstream", &upstream.url]);
    assert_eq!(host.call("GET", "/v1/made_up", &unrestricted).status, 404);
    assert!(host.terminate().success());
    let host = folder.start(&["--upstream", &upstream.url, "--allow-unlisted"]);
    assert_eq!(host.call("GET", "/v1/made_up", &restricted).status, 403);
    upstream.answer();
    assert_eq!(host.call("GET", "/v1/made_up", &unrestricted).status, 200);
    assert!(upstream.arrived().starts_with("GET /v1/made_up "));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let folder = Folder::ready();
    let mut list = folder.command(&["permissions", "list"]);
    let mut child = list.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // As `| head -0` does.
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}
