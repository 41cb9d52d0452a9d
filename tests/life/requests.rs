//! Requests that are repeated, clash with each other or make no sense.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Barrier,
    thread,
};

use serde_json::{Value, json};
use wardkey::secret::Secret;

use super::{
    Answer, DAY, KEYS, Life, MINUTE, Made, NOON, on, outcome, send_json, text, time, token,
};

const CREATE: &str = "POST /v2/iam/api_keys";

fn restricted() -> Value {
    json!({ "kind": "restricted", "name": "a key" })
}

/// Sends the same from so many clients at the same moment.
fn at_once<T: Send>(clients: usize, send: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(clients);
    let (barrier, send) = (&barrier, &send);
    thread::scope(|scope| {
        let client = |number| {
            scope.spawn(move || {
                barrier.wait();
                send(number)
            })
        };
        let clients: Vec<_> = (0..clients).map(client).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    })
}

/// Returns how many answers there are of each outcome.
fn outcomes(answers: &[Answer]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(outcome(answer)).or_default() += 1;
    }
    counts
}

// The same request again.

/// Sends a request twice under one idempotency key. What is kept of the first
/// answer is all of it but the secret.
#[track_caller]
fn check_repeated(life: &Life, request: &str, body: Value, expected: &str) -> Value {
    let headers = [("Idempotency-Key", request)];
    let operator = &life.host.operator;
    let first = life.check_as(operator, request, body.clone(), &headers, expected);
    assert!(!first.headers.contains_key("idempotent-replayed"));
    let before = life.state();
    let second = life.check_as(operator, request, body, &headers, expected);
    assert_eq!(second.headers["idempotent-replayed"], "true");
    assert_eq!(life.state(), before, "{request} was done twice");
    assert_ne!(first.headers["request-id"], second.headers["request-id"]);
    let (first, mut second) = (first.json(), second.json());
    let mut kept = first.clone();
    if let Some(secret) = token(&first)
        && first["kind"] != "publishable"
    {
        assert!(!second.to_string().contains(&secret[10..40]), "{request}: the secret is kept");
        kept["secret_key"].as_object_mut().unwrap().remove("token");
    }
    let showed = token(&first).is_some();
    let shown = second.as_object_mut().unwrap().remove("secret_shown");
    assert_eq!(shown, showed.then_some(Value::Bool(true)), "{request}");
    assert_eq!(second, kept, "{request}");
    first
}

#[test]
fn a_repeated_request_is_done_once_and_answered_without_its_secret() {
    let life = Life::start();
    let id = life.make_kind("restricted", true).id;
    let digest = Secret::generate(None, "sk_live_").digest().to_hex();
    let import = json!({ "kind": "restricted", "name": "taken in", "digest": digest,
        "redacted": "old_****abcd" });
    let at = json!({ "at": time(NOON + DAY) });
    check_repeated(
        &life,
        CREATE,
        json!({ "kind": "secret", "livemode": true, "name": "x" }),
        "201",
    );
    for (verb, body) in [
        ("", json!({ "name": "renamed" })),
        ("schedule_rotation", at),
        ("cancel_rotation", Value::Null),
        ("restore", Value::Null),
        ("rotate", json!({ "expire_current_key_in_minutes": 60 })),
        ("expire", Value::Null),
    ] {
        check_repeated(&life, &on(&id, verb), body, "200");
    }
    check_repeated(&life, &format!("{CREATE}/import"), import, "201");
    let publishable = life.make_kind("publishable", false).id;
    check_repeated(&life, &on(&publishable, "rotate"), json!({}), "200");

    // Accounts are many from here on.
    let account = check_repeated(&life, "POST /v2/accounts", json!({ "name": "Shop" }), "201");
    let name = json!({ "name": "Group" });
    let organization = check_repeated(&life, "POST /v2/organizations", name, "201");
    let join = json!({ "organization": organization["id"] });
    check_repeated(&life, &format!("POST /v2/accounts/{}", text(&account["id"])), join, "200");
}

#[test]
fn an_idempotency_key_is_kept_for_a_day() {
    let life = Life::start();
    let operator = &life.host.operator;
    let headers = [("Idempotency-Key", "monday")];
    let send = || life.check_as(operator, CREATE, restricted(), &headers, "201").json();
    let first = Made::from(send());
    // Whatever has become of the key meanwhile.
    life.check_key(&first.id, "expire", Value::Null, "200");
    for now in [NOON + 1, NOON + DAY] {
        life.wait_until(now);
        life.host.block_on(life.host.host.drop_old()).unwrap();
        let again = send();
        assert_eq!((&again["id"], &again["status"]), (&json!(first.id), &json!("active")));
    }
    life.wait_until(NOON + DAY + 1);
    life.host.block_on(life.host.host.drop_old()).unwrap();
    assert_ne!(Made::from(send()).id, first.id);
}

#[test]
fn an_idempotency_key_stands_for_one_request() {
    let life = Life::start();
    let operator = &life.host.operator;
    let headers = [("Idempotency-Key", "one")];
    life.check_as(operator, CREATE, restricted(), &headers, "201");
    let id = text(&life.default_key("restricted", false)["id"]);
    let note = json!({ "kind": "restricted", "name": "a key", "note": "another" });
    for (request, body) in [
        (CREATE.to_owned(), note),
        (CREATE.to_owned(), Value::Null),
        (format!("{CREATE}/import"), restricted()),
        (on(&id, ""), restricted()),
        (on(&id, "expire"), Value::Null),
        ("POST /v2/organizations".to_owned(), json!({ "name": "x" })),
    ] {
        let answer =
            life.check_as(operator, &request, body, &headers, "400 idempotency_key_reused");
        assert_eq!(answer.json()["error"]["type"], "idempotency_error");
    }
    // Reading is not done twice anyway.
    life.check_as(operator, &format!("GET {KEYS}/{id}"), Value::Null, &headers, "200");
}

#[test]
fn two_of_the_same_at_once_are_one() {
    let life = Life::start();
    let rotated = life.make_kind("restricted", false);
    for (request, body, done) in [
        (CREATE.to_owned(), restricted(), "201"),
        (on(&rotated.id, "rotate"), json!({ "expire_current_key_in_minutes": 60 }), "200"),
        ("POST /v2/accounts".to_owned(), json!({ "name": "Shop" }), "201"),
    ] {
        let (method, path) = request.split_once(' ').unwrap();
        let before = life.state();
        let headers = [("Idempotency-Key", &*request)];
        let operator = &life.host.operator;
        let answers =
            at_once(8, |_| life.host.manage_as(operator, method, path, body.clone(), &headers));
        let after = life.state();
        let (keys, accounts) = match path {
            "/v2/accounts" => (6, 1),
            _ => (1, 0),
        };
        assert_eq!(after.keys.len(), before.keys.len() + keys, "{answers:#?}");
        assert_eq!(after.accounts.len(), before.accounts.len() + accounts);
        // Whoever came too early is told to ask again; no two are shown a secret.
        for (outcome, _) in outcomes(&answers) {
            let expected = [done, "409 idempotency_key_in_use", "409 key_replaced"];
            assert!(expected.contains(&&*outcome), "{request}: {outcome}");
        }
        let first = answers.iter().filter(|answer| {
            answer.status < 400 && !answer.headers.contains_key("idempotent-replayed")
        });
        assert_eq!(first.count(), 1, "{answers:#?}");
        let shown = answers.iter().filter(|answer| token(&answer.json()).is_some()).count();
        assert_eq!(shown, usize::from(path != "/v2/accounts"));
        life.check_as(operator, &request, body, &headers, done);
        assert_eq!(life.state(), after);
    }
}

#[test]
fn each_caller_has_its_own_idempotency_keys() {
    let life = Life::start();
    let manager = || life.make(json!({ "kind": "restricted", "permissions": ["api_key_write"] }));
    let callers = [life.host.operator.clone(), manager().secret, manager().secret];
    let headers = [("Idempotency-Key", "the same")];
    let mut made = BTreeSet::new();
    for caller in &callers {
        let key = Made::from(life.check_as(caller, CREATE, restricted(), &headers, "201").json());
        made.insert(key.id);
    }
    assert_eq!(made.len(), callers.len());
    // Nor does one learn by it what another has done.
    let other = json!({ "kind": "restricted", "name": "another" });
    for caller in &callers {
        let reused = "400 idempotency_key_reused";
        life.check_as(caller, CREATE, other.clone(), &headers, reused);
        let again = life.check_as(caller, CREATE, restricted(), &headers, "201");
        assert!(made.contains(again.json()["id"].as_str().unwrap()));
    }
    // Whoever may no longer call is not answered from what is kept.
    let key = manager();
    let headers = [("Idempotency-Key", "late")];
    life.check_as(&key.secret, CREATE, restricted(), &headers, "201");
    life.check_key(&key.id, "expire", Value::Null, "200");
    life.check_as(&key.secret, CREATE, restricted(), &headers, "401 api_key_expired");
}

#[test]
fn a_refused_request_is_not_kept() {
    let life = Life::start();
    let operator = &life.host.operator;
    let headers = [("Idempotency-Key", "again")];
    let nameless = json!({ "kind": "restricted" });
    life.check_as(operator, CREATE, nameless, &headers, "400 parameter_missing");
    life.check_as(operator, CREATE, json!({ "kind": 5 }), &headers, "400 parameter_invalid");
    life.check_as(operator, CREATE, restricted(), &headers, "201");

    let manager = life.make(json!({ "kind": "restricted", "permissions": ["api_key_write"] }));
    let wanted = json!({ "kind": "restricted", "name": "x", "permissions": ["charge_read"] });
    let refused = "403 more_permissions_required";
    life.check_as(&manager.secret, CREATE, wanted.clone(), &headers, refused);
    let more = json!({ "permissions": ["api_key_write", "charge_read"] });
    life.check_key(&manager.id, "", more, "200");
    life.check_as(&manager.secret, CREATE, wanted, &headers, "201");

    let key = life.make_kind("restricted", false);
    let stale = [("Idempotency-Key", "stale"), ("If-Match", "\"7\"")];
    let rename = json!({ "name": "renamed" });
    life.check_as(operator, &on(&key.id, ""), rename.clone(), &stale, "412 revision_changed");
    let fresh = [("Idempotency-Key", "stale"), ("If-Match", "\"1\"")];
    life.check_as(operator, &on(&key.id, ""), rename, &fresh, "200");
}

#[test]
fn an_idempotency_key_has_its_bounds() {
    let life = Life::start();
    let operator = &life.host.operator;
    for (key, expected) in [
        ("a".repeat(255), "201"),
        ("a".repeat(256), "400 parameter_invalid"),
        (String::new(), "400 parameter_invalid"),
        ("   ".to_owned(), "400 parameter_invalid"),
        ("naïve".to_owned(), "400 parameter_invalid"),
    ] {
        let headers = [("Idempotency-Key", &*key)];
        let answer = life.check_as(operator, CREATE, restricted(), &headers, expected);
        if answer.status == 400 {
            assert_eq!(answer.json()["error"]["param"], "idempotency-key", "{key}");
        }
    }
    let twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")];
    life.check_as(operator, CREATE, restricted(), &twice, "400 parameter_invalid");
}

// On the condition that nobody else has changed it.

#[test]
fn a_stale_request_changes_nothing() {
    let life = Life::start();
    let operator = &life.host.operator;
    let key = life.make_kind("restricted", false);
    let request = on(&key.id, "");
    let change = |tag: &str, name: &str, expected: &str| {
        let headers = [("If-Match", tag)];
        life.check_as(operator, &request, json!({ "name": name }), &headers, expected)
    };
    let shown = life.check_as(operator, &format!("GET {KEYS}/{}", key.id), Value::Null, &[], "200");
    assert_eq!((&*shown.headers["etag"], &shown.json()["revision"]), ("\"1\"", &json!(1)));
    assert_eq!(change("\"1\"", "first", "200").headers["etag"], "\"2\"");
    change("\"1\"", "second", "412 revision_changed");
    change("\"3\"", "second", "412 revision_changed");
    change("*", "second", "200");
    assert_eq!(life.show(&key.id)["name"], "second");
    for malformed in
        ["3", "\"x\"", "\"\"", "W/\"3\"", "\"3\", \"4\"", "\"-3\"", "\"3", "", "'3'", "**"]
    {
        let answer = change(malformed, "third", "400 parameter_invalid");
        assert_eq!(answer.json()["error"]["param"], "if-match", "{malformed}");
    }
    let twice = [("If-Match", "\"3\""), ("If-Match", "\"3\"")];
    life.check_as(operator, &request, json!({}), &twice, "400 parameter_invalid");
    // To use a key is no change of it.
    assert_eq!(life.used(&key.secret), "200");
    life.host.finish();
    change("\"3\"", "third", "200");

    // Everything that is done with one key takes the condition.
    for (verb, body) in [
        ("schedule_rotation", json!({ "at": time(NOON + DAY) })),
        ("cancel_rotation", Value::Null),
        ("restore", Value::Null),
        ("reveal", Value::Null),
        ("rotate", json!({ "expire_current_key_in_minutes": 60 })),
        ("expire", Value::Null),
    ] {
        let revision = life.stored(&key.id).revision;
        let request = on(&key.id, verb);
        let stale = [("If-Match", &*format!("\"{}\"", revision - 1))];
        life.check_as(operator, &request, body.clone(), &stale, "412 revision_changed");
        let fresh = [("If-Match", &*format!("\"{revision}\""))];
        life.check_as(operator, &request, body, &fresh, "200");
    }
    let none = on("key_none", "");
    let headers = [("If-Match", "*")];
    life.check_as(operator, &none, json!({}), &headers, "404 resource_missing");
}

#[test]
fn of_changes_over_the_same_state_one_wins() {
    let life = Life::start();
    let operator = &life.host.operator;
    let key = life.make_kind("restricted", false);
    let path = format!("{KEYS}/{}", key.id);
    let change = |number: usize, headers: &[(&str, &str)]| {
        let body = json!({ "name": format!("name {number}") });
        life.host.manage_as(operator, "POST", &path, body, headers)
    };
    let answers = at_once(8, |number| change(number, &[("If-Match", "\"1\"")]));
    let counts = outcomes(&answers);
    assert_eq!((counts["200"], counts["412 revision_changed"]), (1, 7), "{counts:?}");
    let won = answers.iter().find(|answer| answer.status == 200).unwrap();
    let shown = life.show(&key.id);
    assert_eq!((&shown["revision"], &shown["name"]), (&json!(2), &won.json()["name"]));

    // Who sets no condition waits its turn.
    let answers = at_once(4, |number| change(number, &[]));
    assert_eq!(outcomes(&answers), BTreeMap::from([("200".to_owned(), 4)]));
    assert_eq!(life.show(&key.id)["revision"], 6);
    // Different fields do not overwrite each other.
    let bodies = [json!({ "name": "both" }), json!({ "note": "both" })];
    at_once(2, |number| life.host.manage_as(operator, "POST", &path, bodies[number].clone(), &[]));
    let shown = life.show(&key.id);
    assert_eq!((&shown["name"], &shown["note"]), (&json!("both"), &json!("both")));
}

#[test]
fn a_key_is_rotated_once_however_many_ask() {
    let life = Life::start();
    let operator = &life.host.operator;
    for minutes in [0, 60] {
        let key = life.make_kind("restricted", false);
        let count = life.state().keys.len();
        let path = format!("{KEYS}/{}/rotate", key.id);
        let body = json!({ "expire_current_key_in_minutes": minutes });
        let answers =
            at_once(6, |_| life.host.manage_as(operator, "POST", &path, body.clone(), &[]));
        assert_eq!(outcomes(&answers)["200"], 1, "{answers:#?}");
        assert_eq!(life.state().keys.len(), count + 1);
        let made = answers.iter().find(|answer| answer.status == 200).unwrap().json();
        assert_eq!(life.show(&key.id)["replaced_by"], made["id"]);
    }
}

// Bodies that make no sense.

/// Sends a body as it is. It is refused and changes nothing; the message holds
/// this word.
#[track_caller]
fn check_bad(life: &Life, request: &str, body: &str, word: &str) {
    let (method, path) = request.split_once(' ').unwrap();
    let auth = format!("Bearer {}", life.host.operator);
    let before = life.state();
    let headers = [("Authorization", auth.as_str())];
    let answer = send_json(life.host.admin, method, path, &headers, body);
    let sent: String = body.chars().take(80).collect();
    let told = format!("{request} {sent}: {answer:?}");
    assert_eq!(outcome(&answer), "400 parameter_invalid", "{told}");
    assert!(answer.message().contains(word), "`{word}` is not named: {told}");
    assert!(answer.body.len() < 2_000, "{told}");
    assert_eq!(life.state(), before, "{told}");
}

#[test]
fn a_bad_body_is_refused_by_the_field() {
    let life = Life::start();
    let key = life.make_kind("restricted", false).id;
    let good = json!({ "kind": "restricted", "name": "a key" });
    let create = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        check_bad(&life, CREATE, &body.to_string(), field);
    };
    for (field, wrong) in [
        ("kind", json!(5)),
        ("kind", json!(null)),
        ("name", json!(["x"])),
        ("note", json!(false)),
        ("livemode", json!("true")),
        ("livemode", json!(1)),
        ("livemode", json!(null)),
        ("permissions", json!("charge_read")),
        ("permissions", json!([5])),
        ("permissions", json!({})),
        ("connect_permissions", json!("x")),
        ("ip_allowlist", json!("192.0.2.7")),
        ("ip_allowlist", json!([[]])),
        ("expires_at", json!(1_893_456_000)),
        ("expires_at", json!("tomorrow")),
        ("expires_at", json!("2030-13-01T00:00:00Z")),
        ("expires_at", json!("2031-01-01T00:00:00")),
        ("account", json!(5)),
        ("Name", json!("x")),
        ("ip_allow_list", json!([])),
        ("secret", json!("x")),
        ("id", json!("key_1")),
        ("origin", json!("platform")),
    ] {
        create(field, wrong);
    }
    for (verb, body, word) in [
        ("", json!({ "colour": 1 }), "colour"),
        ("", json!({ "name": 5 }), "name"),
        ("", json!({ "permissions": "charge_read" }), "permissions"),
        ("", json!({ "ip_allowlist": ["192.0.2.7", 5] }), "ip_allowlist"),
        ("expire", json!({ "at": "now" }), "at"),
        ("rotate", json!({ "expire_current_key_in_hours": 1 }), "expire_current_key_in_hours"),
        ("rotate", json!({ "expire_current_key_in_minutes": -1 }), "expire_current_key_in_minutes"),
        ("rotate", json!({ "note": [] }), "note"),
        ("schedule_rotation", json!({}), "at"),
        ("schedule_rotation", json!({ "at": 5 }), "at"),
        ("schedule_rotation", json!({ "at": time(NOON + DAY), "every_days": "x" }), "every_days"),
        ("schedule_rotation", json!({ "at": time(NOON + DAY), "every": 5 }), "every"),
        ("cancel_rotation", json!({ "x": 1 }), "x"),
        ("reveal", json!({ "code": 1 }), "code"),
        ("restore", json!({ "days": 1 }), "days"),
    ] {
        check_bad(&life, &on(&key, verb), &body.to_string(), word);
    }
    let digest = Secret::generate(None, "sk_live_").digest().to_hex();
    let import = json!({ "kind": "restricted", "name": "x", "digest": digest,
        "redacted": "old_****abcd" });
    for (field, wrong) in [
        ("digest", json!("abc")),
        ("digest", json!(5)),
        ("redacted", json!("sk_live_1")),
        ("ip_allow_list", json!(["192.0.2.7"])),
        ("expires_at", json!("tomorrow")),
    ] {
        let mut body = import.clone();
        body[field] = wrong.clone();
        // A text of the wrong form is told by its form.
        let word = match (field, &wrong) {
            ("digest", Value::String(_)) => "64 hexadecimal",
            ("redacted", _) => "asterisks",
            _ => field,
        };
        check_bad(&life, &format!("{CREATE}/import"), &body.to_string(), word);
    }
    for (request, body, word) in [
        ("POST /v2/accounts", json!({ "name": 5 }), "name"),
        ("POST /v2/accounts", json!({ "name": "x", "x": 1 }), "x"),
        ("POST /v2/accounts", json!({ "name": " " }), "name"),
        ("POST /v2/organizations", json!({}), "name"),
        ("POST /v2/iam/permissions/resolve", json!({}), "endpoints"),
        ("POST /v2/iam/permissions/resolve", json!({ "endpoints": "x" }), "endpoints"),
        ("POST /v2/audit_log/verify", json!({ "head": "x" }), "head"),
    ] {
        check_bad(&life, request, &body.to_string(), word);
    }
    let account = format!("POST /v2/accounts/{}", life.host.account);
    check_bad(&life, &account, "{}", "organization");
    check_bad(&life, &account, "{\"organization\": 5}", "organization");
}

#[test]
fn what_is_no_json_object_is_refused_everywhere() {
    let life = Life::start();
    let key = life.make_kind("restricted", false).id;
    let deep = format!("{{\"name\": {}", "[".repeat(10_000));
    let huge = format!("{{\"kind\":\"restricted\",\"name\":\"{}\"}}", "x".repeat(300_000));
    let mut now = NOON;
    for request in [
        CREATE.to_owned(),
        format!("{CREATE}/import"),
        on(&key, ""),
        on(&key, "expire"),
        on(&key, "rotate"),
        on(&key, "schedule_rotation"),
        "POST /v2/accounts".to_owned(),
        "POST /v2/organizations".to_owned(),
        "POST /v2/iam/permissions/resolve".to_owned(),
    ] {
        // Nobody is refused this often without having to wait.
        now += MINUTE;
        life.host.clock.set(now);
        for (body, word) in [
            ("{", "EOF"),
            ("{\"name\": \"x", ""),
            ("name=x&kind=restricted", "JSON"),
            ("<key/>", "JSON"),
            ("{\"name\": \"x\"} {}", ""),
            ("{'name': 'x'}", ""),
            ("{\"name\": NaN}", ""),
            ("[1, 2]", ""),
            ("[[", ""),
            ("5", ""),
            ("\"restricted\"", ""),
            ("true", ""),
            (&deep, ""),
            (&huge, "262144 bytes"),
            ("\u{feff}{}", ""),
            ("\0", ""),
        ] {
            check_bad(&life, &request, body, word);
        }
        // Nothing is nothing to go by where something has to be said.
        if !request.ends_with("/expire") && !request.ends_with("/rotate") {
            for body in ["", "null"] {
                check_bad(&life, &request, body, "");
            }
        }
    }
    check_bad(
        &life,
        CREATE,
        "{\"kind\":\"secret\",\"kind\":\"restricted\",\"name\":\"x\"}",
        "kind",
    );
    // A body that ends before it was to.
    let before = life.state();
    let auth = format!("Authorization: Bearer {}", life.host.operator);
    let request = format!(
        "POST {KEYS} HTTP/1.1\r\nHost: x\r\n{auth}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{}",
        restricted()
    );
    {
        use std::io::Write as _;
        let mut stream = std::net::TcpStream::connect(life.host.admin).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = std::io::Read::read_to_string(&mut stream, &mut answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    // A form is no JSON, whatever is in it.
    let headers = [("Authorization", &*format!("Bearer {}", life.host.operator))];
    let answer =
        super::common::send(life.host.admin, "POST", KEYS, &headers, &restricted().to_string());
    assert_eq!(outcome(&answer), "400 parameter_invalid");
    assert!(answer.message().contains("application/json"), "{answer:?}");
    assert_eq!(life.state(), before);
}

#[test]
fn a_field_has_its_bounds() {
    let life = Life::start();
    let key = life.make_kind("restricted", false).id;
    for (field, value, expected) in [
        ("name", json!("é".repeat(100)), "200"),
        ("name", json!("é".repeat(101)), "400 parameter_invalid"),
        ("name", json!("x".repeat(100_000)), "400 parameter_invalid"),
        ("name", json!("a\u{7}b"), "400 parameter_invalid"),
        ("note", json!("é".repeat(500)), "200"),
        ("note", json!("é".repeat(501)), "400 parameter_invalid"),
        ("permissions", json!(vec!["charge_read"; 1_000]), "200"),
        ("permissions", json!(["charge_read\ncustomer_read"]), "400 parameter_invalid"),
        ("permissions", json!([""]), "400 parameter_invalid"),
        ("permissions", json!(["x".repeat(10_000)]), "400 parameter_invalid"),
        ("ip_allowlist", addresses(200), "200"),
        ("ip_allowlist", addresses(201), "400 parameter_invalid"),
        ("ip_allowlist", json!(["192.0.2.7 192.0.2.8"]), "400 parameter_invalid"),
    ] {
        let answer = life.check_key(&key, "", json!({ field: value }), expected);
        if expected != "200" {
            assert_eq!(answer["error"]["param"], field, "{answer}");
        }
    }
}

fn addresses(count: usize) -> Value {
    (0..count).map(|number| format!("10.0.{}.{}", number / 256, number % 256)).collect()
}
