//! Who may do what: every route of the management listener with every kind of
//! caller.

use serde_json::{Value, json};
use wardkey::{api::admin::ROUTES, secret::Secret};

use super::{
    Answer, DAY, KEYS, Life, Made, NOON,
    common::{account_named, policy_named},
    on, outcome, send_json, text, time, token,
};

/// The callers, in the order of the columns of [`TABLE`].
///
/// Each but the last two asks about a key without permissions that is of the
/// host's account, and of the mode of the caller.
const CALLERS: [&str; 17] = [
    "nobody",
    "garbage",
    "an unknown key",
    "the operator",
    "a secret test key",
    "a secret live key",
    "a restricted key that writes keys",
    "a restricted key that reads keys",
    "a restricted key without permissions",
    "a publishable key",
    "an organization key",
    "a managed key",
    "a key that has ended",
    "a key of another account",
    "a key of other addresses",
    "a secret test key, of a live key",
    "a secret live key, of a test key",
];

/// A route, and what comes of it for each caller.
struct Row(&'static str, [&'static str; CALLERS.len()]);

const OPERATOR: &str = "401 operator_required";
const PERMISSION: &str = "403 more_permissions_required";
const PUBLISHABLE: &str = "403 secret_key_required";
/// Keys are managed by keys of their own account.
const ORGANIZATION: &str = "403 key_scope";
const ENDED: &str = "401 api_key_expired";
const ADDRESS: &str = "403 ip_not_allowed";
const MISSING: &str = "404 resource_missing";
const ONLY_OPERATOR: &str = "403 operator_required";

/// The one request whose body is no JSON.
const PUSH: &str = "POST /v2/policies";

/// A row that the operator alone has.
const fn operators(request: &'static str, done: &'static str) -> Row {
    let mut row = [OPERATOR; CALLERS.len()];
    row[3] = done;
    Row(request, row)
}

/// A row of reading keys, or of what happened to them.
const fn reading(request: &'static str, foreign: &'static str) -> Row {
    Row(
        request,
        [
            "401",
            "401",
            "401",
            "200",
            "200",
            "200",
            "200",
            "200",
            PERMISSION,
            PUBLISHABLE,
            ORGANIZATION,
            "200",
            ENDED,
            foreign,
            ADDRESS,
            foreign,
            foreign,
        ],
    )
}

/// A row of changing a key.
const fn writing(request: &'static str, done: &'static str) -> Row {
    Row(
        request,
        [
            "401",
            "401",
            "401",
            done,
            done,
            done,
            done,
            PERMISSION,
            PERMISSION,
            PUBLISHABLE,
            ORGANIZATION,
            done,
            ENDED,
            MISSING,
            ADDRESS,
            MISSING,
            MISSING,
        ],
    )
}

/// A row of what every key may ask.
const fn asking(request: &'static str) -> Row {
    Row(
        request,
        [
            "401", "401", "401", "200", "200", "200", "200", "200", "200", "200", "200", "200",
            ENDED, "200", ADDRESS, "200", "200",
        ],
    )
}

/// The same row but for one caller.
const fn but(row: Row, caller: usize, expected: &'static str) -> Row {
    let Row(request, mut columns) = row;
    columns[caller] = expected;
    Row(request, columns)
}

/// What matters most comes first.
const TABLE: &[Row] = &[
    // No account's key touches what is the whole host's.
    operators("GET /v2/accounts", "200"),
    operators("POST /v2/accounts", "201"),
    operators("GET /v2/accounts/{id}", "200"),
    operators("POST /v2/accounts/{id}", "200"),
    operators("POST /v2/organizations", "201"),
    operators("GET /v2/audit_log", "200"),
    operators("GET /v2/audit_log/head", "200"),
    operators("POST /v2/audit_log/verify", "200"),
    operators("GET /openapi.json", "200"),
    // Nor the rules. The one pushed is put in force, taken back and retired.
    operators(PUSH, "201"),
    operators("GET /v2/policies", "200"),
    operators("GET /v2/policies/{digest}", "200"),
    operators("POST /v2/policies/{digest}/shadow", "200"),
    operators("GET /v2/policies/shadow", "200"),
    operators("POST /v2/policies/shadow/end", "200"),
    operators("POST /v2/policies/{digest}/canary", "200"),
    operators("GET /v2/policies/in_force", "200"),
    operators("POST /v2/policies/canary/end", "200"),
    operators("POST /v2/policies/{digest}/activate", "200"),
    operators("POST /v2/policies/rollback", "200"),
    operators("POST /v2/policies/{digest}/retire", "200"),
    operators("POST /v2/iam/api_keys/import", "201"),
    // These name files of this machine, and are at its socket only.
    operators("POST /v2/backup", "404"),
    operators("POST /v2/key_encryption_key/replace", "404"),
    // A key makes keys of its own account and mode, and nothing else is asked
    // for here: a foreign account or mode is named in the rows below.
    but(
        but(but(writing("POST /v2/iam/api_keys", "201"), 13, "201"), 15, "403 key_scope"),
        16,
        "403 key_scope",
    ),
    writing("POST /v2/iam/api_keys/{id}", "200"),
    writing("POST /v2/iam/api_keys/{id}/expire", "200"),
    writing("POST /v2/iam/api_keys/{id}/rotate", "200"),
    writing("POST /v2/iam/api_keys/{id}/schedule_rotation", "200"),
    writing("POST /v2/iam/api_keys/{id}/cancel_rotation", "200"),
    // In live mode a key reveals nothing.
    but(writing("POST /v2/iam/api_keys/{id}/reveal", "200"), 5, ONLY_OPERATOR),
    // A person has to look.
    but(
        but(
            but(
                but(writing("POST /v2/iam/api_keys/{id}/restore", "200"), 4, ONLY_OPERATOR),
                5,
                ONLY_OPERATOR,
            ),
            6,
            ONLY_OPERATOR,
        ),
        11,
        ONLY_OPERATOR,
    ),
    reading("GET /v2/iam/api_keys/{id}", MISSING),
    reading("GET /v2/iam/api_keys", "200"),
    reading("GET /v2/request_logs", "200"),
    // The operator is no key.
    but(asking("GET /v2/iam/api_keys/self"), 3, MISSING),
    asking("GET /v2/iam/permissions"),
    asking("POST /v2/iam/permissions/resolve"),
];

/// A host with one of each kind of caller.
struct Callers {
    life: Life,
    organization: String,
    policy: String,
    credentials: Vec<String>,
}

impl Callers {
    fn start() -> Self {
        let life = Life::start();
        let host = &life.host;
        let restricted = |permission: &[&str]| {
            life.make(json!({ "kind": "restricted", "permissions": permission })).secret
        };
        let organization = host.make_organization();
        let change = json!({ "organization": organization });
        life.check(&format!("POST /v2/accounts/{}", host.account), change, "200");
        let other = host.make_account(account_named("Other"));
        let of_all = json!({ "kind": "organization", "account": organization,
            "permissions": ["*"], "connect_permissions": ["*"] });
        let ended = life.make_kind("secret", false);
        life.check_key(&ended.id, "expire", Value::Null, "200");
        let elsewhere = json!({ "kind": "secret", "ip_allowlist": ["198.51.100.1"] });
        let credentials = vec![
            String::new(),
            "garbage".to_owned(),
            Secret::generate(None, "sk_live_").expose().to_owned(),
            host.operator.clone(),
            life.default_secret("secret", false).secret,
            life.default_secret("secret", true).secret,
            restricted(&["api_key_write"]),
            restricted(&["api_key_read"]),
            restricted(&[]),
            token(&life.default_key("publishable", false)).unwrap(),
            life.make(of_all).secret,
            life.make_kind("managed", false).secret,
            ended.secret,
            life.make(json!({ "kind": "secret", "account": other })).secret,
            life.make(elsewhere).secret,
            life.default_secret("secret", false).secret,
            life.default_secret("secret", true).secret,
        ];
        assert_eq!(credentials.len(), CALLERS.len());
        let policy = host.push_policy("pushed");
        Self { life, organization, policy, credentials }
    }

    /// The mode of the keys that this caller asks about.
    fn asks_live(caller: usize) -> bool {
        matches!(caller, 5 | 15)
    }

    #[track_caller]
    fn check(&self, request: &str, caller: usize, expected: &str) {
        let life = &self.life;
        let live = Self::asks_live(caller);
        let target = life.make(json!({ "kind": "restricted", "livemode": live }));
        if request.ends_with("/cancel_rotation") {
            let at = json!({ "at": time(NOON + DAY) });
            life.check_key(&target.id, "schedule_rotation", at, "200");
        }
        let id = if request.contains("accounts") { &life.host.account } else { &target.id };
        let sent = request.replace("{id}", id).replace("{digest}", &self.policy);
        let (method, _) = sent.split_once(' ').unwrap();
        let body = if method == "GET" { Value::Null } else { self.body(request, live) };
        let context = [("Stripe-Version", "2026-01-01"), ("Stripe-Context", &*life.host.account)];
        let headers: &[_] = if caller == 10 { &context } else { &[] };
        let count = life.state().done.len();
        let answer = match caller {
            0 => self.check_without_credential(&sent, &body, expected),
            _ if request == PUSH => life.check_sent(&sent, expected, || {
                let query = "name=another&version=1&revision=1";
                let component = policy_named("another");
                life.host.push_policy_as(&self.credentials[caller], query, &component)
            }),
            _ => life.check_as(&self.credentials[caller], &sent, body, headers, expected),
        };
        let name = CALLERS[caller];
        if answer.status < 400 && caller != 3 {
            self.check_sight(request, caller, &answer);
        }
        if answer.status < 400 && method == "POST" && !is_question(request) {
            assert!(life.state().done.len() > count, "{name}: {request} is not in the audit log");
        }
        for secret in [&target.secret, &self.credentials[5]] {
            let shows = answer.body.contains(secret.as_str());
            let may_show = answer.status < 400 && request.ends_with("/reveal");
            assert!(!shows || may_show, "{name}: {request} shows a secret");
        }
    }

    /// What a caller is shown is its own.
    fn check_sight(&self, request: &str, caller: usize, answer: &Answer) {
        let body = answer.json();
        let of = match request {
            "GET /v2/iam/api_keys" | "GET /v2/request_logs" => body["data"].as_array().unwrap(),
            _ if request.contains("/api_keys") => &vec![body],
            _ => return,
        };
        let own = self.stored_as(caller);
        for one in of {
            assert_eq!(one["account"], *own.account, "{}: {request}", CALLERS[caller]);
            if one["object"] == "v2.iam.api_key" {
                assert_eq!(one["livemode"], own.mode == wardkey::storage::Mode::Live);
            }
        }
    }

    fn stored_as(&self, caller: usize) -> wardkey::storage::KeyRecord {
        let digest = wardkey::secret::Digest::of(&self.credentials[caller]);
        let host = &self.life.host;
        host.block_on(host.storage.find_key_by_digest(digest)).unwrap().unwrap()
    }

    #[track_caller]
    fn check_without_credential(&self, request: &str, body: &Value, expected: &str) -> Answer {
        let (method, path) = request.split_once(' ').unwrap();
        let before = self.life.state();
        let admin = self.life.host.admin;
        let answer = send_json(admin, method, path, &[], &body.to_string());
        assert_eq!(outcome(&answer), expected, "{request}: {answer:?}");
        assert_eq!(self.life.state(), before, "{request}");
        answer
    }

    fn body(&self, request: &str, live: bool) -> Value {
        let (_, path) = request.split_once(' ').unwrap();
        let digest = Secret::generate(None, "sk_live_").digest().to_hex();
        match path {
            KEYS => json!({ "kind": "restricted", "name": "made", "livemode": live }),
            "/v2/iam/api_keys/import" => json!({ "kind": "restricted", "name": "taken in",
                "account": self.life.host.account, "digest": digest, "redacted": "old_****abcd" }),
            "/v2/iam/api_keys/{id}" => json!({ "name": "renamed" }),
            "/v2/iam/permissions/resolve" => json!({ "endpoints": ["POST /v1/refunds"] }),
            "/v2/accounts" | "/v2/organizations" => json!({ "name": "made" }),
            "/v2/accounts/{id}" => json!({ "organization": self.organization }),
            "/v2/backup" => json!({ "to": self.life.host.dir.path().join("copy") }),
            _ if path.ends_with("/canary") || path.ends_with("/shadow") => {
                json!({ "percent": 5 })
            }
            _ if path.ends_with("/schedule_rotation") => json!({ "at": time(NOON + DAY) }),
            _ => json!({}),
        }
    }
}

/// What is asked for and changes nothing.
fn is_question(request: &str) -> bool {
    request.ends_with("/resolve") || request.ends_with("/verify")
}

#[test]
fn the_table_has_every_route_once() {
    let mut of_table: Vec<String> =
        TABLE.iter().map(|Row(request, _)| (*request).to_owned()).collect();
    let mut of_listener: Vec<String> =
        ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    of_table.sort();
    of_listener.sort();
    assert_eq!(of_table, of_listener);
}

#[test]
fn each_route_is_open_to_whom_it_is_for_and_to_nobody_else() {
    let callers = Callers::start();
    // The operator makes a key where only one account is, unless it says whose.
    for Row(request, columns) in TABLE {
        for (caller, expected) in columns.iter().enumerate() {
            if caller == 3 && *request == "POST /v2/iam/api_keys" {
                callers.life.make_kind("restricted", false);
                continue;
            }
            callers.check(request, caller, expected);
        }
    }
}

#[test]
fn a_path_that_leads_nowhere_says_nothing_to_strangers() {
    let life = Life::start();
    let key = life.default_secret("secret", false).secret;
    for request in [
        "GET /",
        "GET /v2",
        "GET /v2/nothing",
        "POST /v2/iam/api_keys/x/y",
        "GET /verify",
        "GET /metrics",
        // Nor with which methods a path is there.
        "DELETE /v2/accounts",
        "GET /v2/organizations",
        "PUT /v2/iam/api_keys",
        "DELETE /v2/policies/standard",
    ] {
        life.check_as("x", request, Value::Null, &[], OPERATOR);
        life.check_as(&key, request, Value::Null, &[], OPERATOR);
        let operator = &life.host.operator;
        life.check_as(operator, request, Value::Null, &[], "404");
    }
}

// Nobody gets more out of another key than it holds itself.

/// What a key asks for, and what comes of it.
#[track_caller]
fn check_mints(life: &Life, caller: &Made, wanted: Value, expected: &str) {
    let mut wanted = wanted;
    for (field, value) in [("name", json!("made")), ("livemode", caller.shown["livemode"].clone())]
    {
        if wanted[field].is_null() {
            wanted[field] = value;
        }
    }
    life.check_as(&caller.secret, &format!("POST {KEYS}"), wanted, &[], expected);
}

#[test]
fn nobody_mints_more_than_it_holds() {
    let life = Life::start();
    let end = NOON + 10 * DAY;
    let manager = life.make(json!({ "kind": "restricted",
        "permissions": ["api_key_write", "charge_write", "customer_read"],
        "connect_permissions": ["charge_read"],
        "ip_allowlist": ["127.0.0.0/8", "192.0.2.0/24"], "expires_at": time(end) }));
    let within = json!({ "kind": "restricted", "ip_allowlist": ["192.0.2.0/25"],
        "expires_at": time(end) });
    let with = |field: &str, value: Value| {
        let mut wanted = within.clone();
        wanted[field] = value;
        wanted
    };
    let beyond = PERMISSION;
    for (wanted, expected) in [
        (within.clone(), "201"),
        (with("permissions", json!(["charge_read"])), "201"),
        (with("permissions", json!(["charge_write", "customer_read", "api_key_write"])), "201"),
        (with("permissions", json!(["customer_write"])), beyond),
        (with("permissions", json!(["charge_read", "payout_read"])), beyond),
        (with("connect_permissions", json!(["charge_read"])), "201"),
        (with("connect_permissions", json!(["charge_write"])), beyond),
        (with("connect_permissions", json!(["customer_read"])), beyond),
        (with("ip_allowlist", json!(["192.0.2.7"])), "201"),
        (with("ip_allowlist", json!([])), "403 ip_beyond_own"),
        (with("ip_allowlist", json!(["0.0.0.0/0"])), "403 ip_beyond_own"),
        (with("ip_allowlist", json!(["192.0.2.7", "192.0.3.1"])), "403 ip_beyond_own"),
        (with("ip_allowlist", json!(["192.0.0.0/16"])), "403 ip_beyond_own"),
        (with("expires_at", json!(time(end - 1))), "201"),
        (with("expires_at", json!(time(end + 1))), "403 expiry_beyond_own"),
        (with("expires_at", Value::Null), "403 expiry_beyond_own"),
        (with("kind", json!("secret")), beyond),
        (with("kind", json!("managed")), ONLY_OPERATOR),
        (with("kind", json!("organization")), "400 parameter_invalid"),
        (with("kind", json!("platform")), "400 parameter_invalid"),
        (with("livemode", json!(true)), "403 key_scope"),
        (with("account", json!(life.host.make_account(account_named("x")))), "403 key_scope"),
        (with("account", json!("acct_none")), "403 key_scope"),
    ] {
        check_mints(&life, &manager, wanted, expected);
    }

    // Nor by way of a key that there is, whatever is done with it.
    let strong = life.make(json!({ "kind": "restricted", "permissions": ["payout_read"],
        "ip_allowlist": ["192.0.2.7"], "expires_at": time(end) }));
    let wide = life.make(json!({ "kind": "restricted", "expires_at": time(end) }));
    let long = life.make(json!({ "kind": "restricted", "ip_allowlist": ["192.0.2.7"] }));
    let at = json!({ "at": time(NOON + DAY) });
    for (key, refusal) in
        [(&strong, PERMISSION), (&wide, "403 ip_beyond_own"), (&long, "403 expiry_beyond_own")]
    {
        for (verb, body) in [
            ("", json!({ "name": "mine" })),
            ("reveal", Value::Null),
            ("rotate", json!({})),
            ("schedule_rotation", at.clone()),
            ("cancel_rotation", Value::Null),
        ] {
            life.check_as(&manager.secret, &on(&key.id, verb), body, &[], refusal);
        }
    }
    // But to end one gives nobody anything.
    for key in [&strong, &wide, &long] {
        let expire = on(&key.id, "expire");
        life.check_as(&manager.secret, &expire, Value::Null, &[], "200");
        assert_eq!(life.used(&key.secret), ENDED);
    }
    // Nor by way of itself.
    for (change, expected) in [
        (json!({ "permissions": ["api_key_write", "payout_write"] }), "403 key_scope"),
        (json!({ "ip_allowlist": [] }), "403 key_scope"),
        (json!({ "name": "me" }), "403 key_scope"),
        (json!({ "expires_at": null }), "400 parameter_invalid"),
    ] {
        life.check_as(&manager.secret, &on(&manager.id, ""), change, &[], expected);
    }
    let itself = on(&manager.id, "rotate");
    let made = life.check_as(&manager.secret, &itself, json!({}), &[], "200").json();
    for field in ["permissions", "connect_permissions", "ip_allowlist", "expires_at"] {
        assert_eq!(made[field], manager.shown[field], "{field}");
    }
    assert_eq!(life.used(&manager.secret), ENDED);
}

#[test]
fn no_live_key_gets_hold_of_another_without_limits() {
    let life = Life::start();
    let live = life.default_secret("secret", true);
    check_mints(&life, &live, json!({ "kind": "secret" }), ONLY_OPERATOR);
    check_mints(&life, &live, json!({ "kind": "restricted" }), "201");
    let other = life.make_kind("secret", true);
    for key in [&other, &live] {
        let rotate = on(&key.id, "rotate");
        life.check_as(&live.secret, &rotate, json!({}), &[], ONLY_OPERATOR);
        let schedule = on(&key.id, "schedule_rotation");
        let at = json!({ "at": time(NOON + DAY) });
        life.check_as(&live.secret, &schedule, at, &[], ONLY_OPERATOR);
    }
    let test = life.default_secret("secret", false);
    check_mints(&life, &test, json!({ "kind": "secret" }), "201");
}

#[test]
fn a_test_key_never_touches_live() {
    let life = Life::start();
    let test = life.default_secret("secret", false);
    let managed = life.make_kind("managed", false);
    for kind in ["secret", "restricted", "publishable"] {
        let live = life.make_kind(kind, true);
        for caller in [&test, &managed] {
            for (verb, body) in [
                ("", json!({ "name": "mine" })),
                ("expire", Value::Null),
                ("rotate", json!({})),
                ("schedule_rotation", json!({ "at": time(NOON + DAY) })),
                ("cancel_rotation", Value::Null),
                ("reveal", Value::Null),
                ("restore", Value::Null),
            ] {
                life.check_as(&caller.secret, &on(&live.id, verb), body, &[], MISSING);
            }
            let show = format!("GET {KEYS}/{}", live.id);
            life.check_as(&caller.secret, &show, Value::Null, &[], MISSING);
            let wanted = json!({ "kind": kind, "livemode": true });
            check_mints(&life, caller, wanted, "403 key_scope");
            for query in [format!("{KEYS}?livemode=true"), "/v2/request_logs?livemode=true".into()]
            {
                let request = format!("GET {query}");
                life.check_as(&caller.secret, &request, Value::Null, &[], "403 key_scope");
            }
        }
    }
}

/// A key of another account, or of the other mode, is answered like one that
/// there is not: nobody can tell by asking.
#[test]
fn a_foreign_key_is_answered_like_none() {
    let life = Life::start();
    let other = life.host.make_account(account_named("Other"));
    let foreign = life.make(json!({ "kind": "restricted", "account": other }));
    let ended = life.make(json!({ "kind": "secret", "account": other }));
    life.check_key(&ended.id, "expire", Value::Null, "200");
    let live = life.default_secret("secret", true);
    let caller = life.default_secret("secret", false);
    let none = format!("key_{}", "0".repeat(24));
    let at = json!({ "at": time(NOON + DAY) });
    let requests: &[(&str, Value)] = &[
        ("GET /v2/iam/api_keys/{id}", Value::Null),
        ("POST /v2/iam/api_keys/{id}", json!({ "name": "mine" })),
        ("POST /v2/iam/api_keys/{id}", json!({ "permissions": ["no_such_permission"] })),
        ("POST /v2/iam/api_keys/{id}/expire", Value::Null),
        ("POST /v2/iam/api_keys/{id}/rotate", json!({})),
        ("POST /v2/iam/api_keys/{id}/rotate", json!({ "expire_current_key_in_minutes": 99_999 })),
        ("POST /v2/iam/api_keys/{id}/schedule_rotation", at),
        ("POST /v2/iam/api_keys/{id}/cancel_rotation", Value::Null),
        ("POST /v2/iam/api_keys/{id}/reveal", Value::Null),
        ("POST /v2/iam/api_keys/{id}/restore", Value::Null),
        ("GET /v2/iam/api_keys?starting_after={id}", Value::Null),
        ("GET /v2/request_logs?key={id}", Value::Null),
    ];
    for (request, body) in requests {
        for headers in [&[][..], &[("If-Match", "\"1\"")], &[("If-Match", "\"9\"")]] {
            let answer = |id: &str| {
                let request = request.replace("{id}", id);
                let answer =
                    life.check_as(&caller.secret, &request, body.clone(), headers, MISSING);
                let mut error = answer.json()["error"].clone();
                let message = text(&error["message"]).replace(id, "{id}");
                error["message"] = message.into();
                let mut names: Vec<String> = answer.headers.into_keys().collect();
                names.retain(|name| name != "content-length");
                (error, names)
            };
            let expected = answer(&none);
            for id in [&foreign.id, &ended.id, &live.id] {
                assert_eq!(answer(id), expected, "{request}");
            }
        }
    }
}
