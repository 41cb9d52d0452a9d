//! Is the description of the management routes complete, well made and true?

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use wardkey::{
    active_policy::STANDARD_POLICY,
    api::admin::{Callers, ROUTES},
    secret::Digest,
    storage::Mode,
    verification::Delivery,
};

use crate::common::{
    Answer, NOON, Options, TestHost,
    openapi::{
        self, Operation, document, faults, find, members, operations, resolved, validate,
        validate_as,
    },
};

#[test]
fn every_route_is_described_and_nothing_else_is() {
    let routes: BTreeSet<_> = ROUTES.iter().map(|route| (route.method, route.path)).collect();
    let described: BTreeSet<_> =
        operations().iter().map(|operation| (operation.method, operation.path)).collect();
    assert_eq!(described, routes);
}

#[test]
fn who_may_call_is_what_the_routes_say() {
    let operator = json!([{ "operatorCredential": [] }]);
    let keys =
        json!([{ "operatorCredential": [] }, { "accountKey": [] }, { "accountKeyAsUser": [] }]);
    for route in ROUTES {
        let operation = find(route.method, route.path).unwrap();
        let expected = match route.callers {
            Callers::Operator => &operator,
            Callers::Keys => &keys,
            Callers::Socket => &json!([]),
        };
        assert_eq!(operation.value["security"], *expected, "{}", operation.id());
    }
}

#[test]
fn every_operation_says_what_a_reader_needs() {
    let tags: Vec<&Value> =
        document()["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let mut ids = BTreeSet::new();
    for operation in operations() {
        let Operation { path, value, .. } = operation;
        let id = operation.id();
        assert!(ids.insert(id), "two operations are called `{id}`");
        for word in ["summary", "description"] {
            assert!(value[word].as_str().is_some_and(|text| text.len() > 5), "{id} has no {word}");
        }
        assert!(value["description"].as_str().unwrap().contains("Who: "), "{id}: who may?");
        for tag in value["tags"].as_array().unwrap() {
            assert!(tags.contains(&tag), "{id}: the tag {tag} is not described");
        }

        let in_path: BTreeSet<_> = path
            .split('/')
            .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
            .collect();
        let parameters = operation.parameters();
        let names = |place: &str| -> BTreeSet<&str> {
            let there = parameters.iter().filter(|parameter| parameter["in"] == place);
            there.map(|parameter| parameter["name"].as_str().unwrap()).collect()
        };
        assert_eq!(names("path"), in_path, "{id}");
        for parameter in &parameters {
            // What is pushed is no JSON, and what is said of it is in the query.
            let is_needed = match id {
                "pushPolicy" => parameter["name"] != "signature",
                _ => parameter["in"] == "path",
            };
            assert_eq!(parameter["required"].as_bool().unwrap_or(false), is_needed, "{id}");
            assert!(parameter["description"].is_string(), "{id}: {parameter}");
            assert!(parameter["schema"].is_object(), "{id}: {parameter}");
        }
        let headers = names("header");
        let is_change = operation.method != "GET";
        assert!(is_change || headers.is_empty(), "{id}: a condition on what changes nothing");
        // What has a revision can be changed on condition of it.
        let changes_one = is_change && path.starts_with("/v2/iam/api_keys/{id}");
        assert_eq!(headers.contains("If-Match"), changes_one, "{id}");
        assert!(is_change || value.get("requestBody").is_none(), "{id}");

        let responses: Vec<_> = members(&value["responses"]).collect();
        assert_eq!(responses.iter().filter(|(status, _)| status.starts_with('2')).count(), 1);
        for (status, response) in responses {
            let response = resolved(response);
            assert!(response["description"].is_string(), "{id} {status}");
            assert!(response["content"]["application/json"]["schema"].is_object(), "{id} {status}");
            assert!(response["headers"]["Request-Id"].is_object(), "{id} {status}");
        }
        for status in ["400", "401", "429", "500", "503"] {
            assert!(value["responses"].get(status).is_some(), "{id} without {status}");
        }
        // The answers that a condition brings with it.
        assert_eq!(value["responses"].get("412").is_some(), headers.contains("If-Match"), "{id}");
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    fn walk(value: &Value, used: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    if let ("$ref", Value::String(reference)) = (name.as_str(), value) {
                        used.insert(reference.clone());
                    }
                    walk(value, used);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, used)),
            _ => {}
        }
    }
    let mut used = BTreeSet::new();
    walk(document(), &mut used);
    for operation in operations() {
        for scheme in operation.value["security"].as_array().unwrap() {
            for name in scheme.as_object().unwrap().keys() {
                used.insert(format!("#/components/securitySchemes/{name}"));
            }
        }
    }
    let mut there = BTreeSet::new();
    for (kind, components) in members(&document()["components"]) {
        there.extend(members(components).map(|(name, _)| format!("#/components/{kind}/{name}")));
    }
    assert_eq!(used, there);
}

/// Every schema of the document, by where it stands.
fn schemas() -> BTreeMap<String, &'static Value> {
    fn add(at: String, schema: &'static Value, found: &mut BTreeMap<String, &'static Value>) {
        for (name, member) in members(&schema["properties"]) {
            add(format!("{at}.{name}"), member, found);
        }
        if let Some(items) = schema.get("items") {
            add(format!("{at}[]"), items, found);
        }
        for (index, choice) in schema["oneOf"].as_array().into_iter().flatten().enumerate() {
            add(format!("{at}|{index}"), choice, found);
        }
        found.insert(at, schema);
    }
    let mut found = BTreeMap::new();
    let components = &document()["components"];
    for (name, schema) in members(&components["schemas"]) {
        add(name.to_owned(), schema, &mut found);
    }
    for kind in ["parameters", "headers"] {
        for (name, component) in members(&components[kind]) {
            add(format!("{kind} {name}"), &component["schema"], &mut found);
        }
    }
    for operation in operations() {
        for parameter in operation.parameters() {
            add(
                format!("{} {}", operation.id(), parameter["name"]),
                &parameter["schema"],
                &mut found,
            );
        }
    }
    found
}

#[test]
fn every_schema_is_well_made() {
    let schemas = schemas();
    assert!(schemas.len() > 100, "only {} schemas were found", schemas.len());
    for (at, schema) in &schemas {
        // Of a word that the validator does not know, it panics.
        let _ = faults(schema, &Value::Null);
        for name in schema["required"].as_array().into_iter().flatten() {
            // The choices of a key speak of properties that it has around them.
            let is_choice = at.contains('|');
            let is_there = schema["properties"].get(name.as_str().unwrap()).is_some();
            assert!(is_there || is_choice, "{at}: {name} is required and not described");
        }
        if schema["type"] == "object" {
            let said = schema["additionalProperties"].is_boolean();
            assert!(said, "{at}: does it have members that are not described?");
        }
        let examples = schema["examples"].as_array().into_iter().flatten();
        for value in examples.chain(schema.get("default")) {
            assert_eq!(faults(schema, value), <[String; 0]>::default(), "{at}: {value}");
        }
        // The others say it by their value, or where they lead.
        let is_plain = ["$ref", "const"].iter().all(|word| schema.get(word).is_none())
            && schema["items"].get("$ref").is_none();
        if is_plain && !at.ends_with("[]") && !at.contains('|') && !at.contains(' ') {
            assert!(schema["description"].is_string(), "{at} is not described");
        }
    }
}

#[test]
fn the_validator_finds_what_is_wrong() {
    let key =
        TestHost::start().manage("GET", "/v2/iam/api_keys", Value::Null).json()["data"][0].clone();
    assert_eq!(validate_as("Key", &key), <[String; 0]>::default());
    for (change, expected) in [
        (json!({ "id": null }), "the body.id: null is not of the type \"string\""),
        (json!({ "type": "key" }), "the body.type: \"key\" is none of"),
        (json!({ "object": "key" }), "the body.object: \"key\" is not \"v2.iam.api_key\""),
        (json!({ "created": "today" }), "the body.created: \"today\" is no time"),
        (json!({ "expires_at": "today" }), "the body.expires_at: \"today\" is no time"),
        (json!({ "revision": 0 }), "the body.revision: 0 is less than 1"),
        (json!({ "revision": 1.5 }), "the body.revision: 1.5 is not of the type \"integer\""),
        (json!({ "permissions": [1] }), "the body.permissions[0]: 1 is not of the type"),
        (json!({ "secret_shown": false }), "the body.secret_shown: false is not true"),
        (json!({ "rotation": {} }), "the body.rotation: not exactly one of the choices fits"),
        (json!({ "undocumented": 1 }), "the body: `undocumented` is not described"),
        (json!({ "secret_key": { "token": "x" } }), "`secret_token_redacted` is missing"),
    ] {
        let mut changed = key.clone();
        for (name, value) in change.as_object().unwrap() {
            changed[name] = value.clone();
        }
        let found = validate_as("Key", &changed).join("\n");
        assert!(found.contains(expected), "{change}: {found}");
    }
    let mut without = key.clone();
    without.as_object_mut().unwrap().remove("status");
    assert_eq!(validate_as("Key", &without), ["the body: `status` is missing"]);
    // A key has its token under the name of its type.
    let mut moved = key;
    let other = if moved["type"] == "secret_key" { "publishable_key" } else { "secret_key" };
    moved["type"] = other.into();
    assert_eq!(validate_as("Key", &moved).len(), 1);
    assert_eq!(validate("getKey", 418, &Value::Null), ["`getKey` has no status 418"]);
}

/// What a request to change something is made of. Each is made anew for every
/// request: most can be done to a key once.
struct Row {
    operation: &'static str,
    /// The path and a body with every field that there is.
    request: fn(&TestHost) -> (String, Value),
}

fn key_path(host: &TestHost, rest: &str) -> String {
    format!("/v2/iam/api_keys/{}{rest}", host.key("restricted", &["charge_read"]).0.id)
}

fn wanted(host: &TestHost) -> Value {
    json!({
        "account": host.account,
        "livemode": false,
        "kind": "restricted",
        "name": "a key",
        "note": "where it is kept",
        "permissions": ["charge_read"],
        "connect_permissions": ["charge_read"],
        "ip_allowlist": ["192.0.2.7", "198.51.100.0/24"],
        "expires_at": "2030-06-01T00:00:00Z",
    })
}

const ROWS: &[Row] = &[
    Row { operation: "createKey", request: |host| ("/v2/iam/api_keys".to_owned(), wanted(host)) },
    Row {
        operation: "importKey",
        request: |host| {
            let mut key = wanted(host);
            // Another digest each time.
            let seed = format!("{:?}", std::time::Instant::now());
            key["digest"] = Digest::of(&seed).to_hex().into();
            key["redacted"] = "old_****abcd".into();
            ("/v2/iam/api_keys/import".to_owned(), key)
        },
    },
    Row {
        operation: "updateKey",
        request: |host| {
            let change = json!({
                "name": "another name",
                "note": "elsewhere",
                "permissions": ["charge_write"],
                "connect_permissions": [],
                "ip_allowlist": ["192.0.2.8"],
            });
            (key_path(host, ""), change)
        },
    },
    Row { operation: "expireKey", request: |host| (key_path(host, "/expire"), json!({})) },
    Row {
        operation: "rotateKey",
        request: |host| {
            let how = json!({ "expire_current_key_in_minutes": 60, "note": "the new place" });
            (key_path(host, "/rotate"), how)
        },
    },
    Row {
        operation: "scheduleRotation",
        request: |host| {
            let when = json!({
                "at": "2030-02-01T00:00:00Z",
                "every_days": 90,
                "expire_current_key_in_minutes": 1440,
            });
            (key_path(host, "/schedule_rotation"), when)
        },
    },
    Row {
        operation: "cancelRotation",
        request: |host| {
            let path = key_path(host, "");
            let at = json!({ "at": "2030-02-01T00:00:00Z" });
            assert_eq!(host.manage("POST", &format!("{path}/schedule_rotation"), at).status, 200);
            (format!("{path}/cancel_rotation"), json!({}))
        },
    },
    Row { operation: "revealKey", request: |host| (key_path(host, "/reveal"), json!({})) },
    Row { operation: "restoreKey", request: |host| (key_path(host, "/restore"), json!({})) },
    Row {
        operation: "resolvePermissions",
        request: |_| {
            let asked = json!({ "endpoints": ["POST /v1/refunds", "GET /nowhere", "nonsense"] });
            ("/v2/iam/permissions/resolve".to_owned(), asked)
        },
    },
    Row {
        operation: "verifyAuditLog",
        request: |host| {
            let head = host.manage("GET", "/v2/audit_log/head", Value::Null).json();
            ("/v2/audit_log/verify".to_owned(), json!({ "head": head["head"] }))
        },
    },
    Row {
        operation: "createAccount",
        request: |host| {
            let account = json!({
                "name": "Another",
                "organization": host.make_organization(),
                "platform": host.account,
            });
            ("/v2/accounts".to_owned(), account)
        },
    },
    Row {
        operation: "updateAccount",
        request: |host| {
            let organization = host.make_organization();
            let change = json!({ "organization": organization });
            (format!("/v2/accounts/{}", host.account), change)
        },
    },
    Row {
        operation: "createOrganization",
        request: |_| ("/v2/organizations".to_owned(), json!({ "name": "Another" })),
    },
    Row {
        operation: "activatePolicy",
        request: |host| {
            let path = format!("/v2/policies/{}/activate", host.push_policy("a"));
            (path, json!({ "overlays": [], "min_revision": 1 }))
        },
    },
    Row {
        operation: "rollBackPolicy",
        request: |host| {
            let path = format!("/v2/policies/{}/activate", host.push_policy("a"));
            assert_eq!(host.manage("POST", &path, Value::Null).status, 200);
            ("/v2/policies/rollback".to_owned(), json!({ "to": "standard" }))
        },
    },
    Row {
        operation: "startPolicyCanary",
        request: |host| {
            let path = format!("/v2/policies/{}/canary", host.push_policy("c"));
            (path, json!({ "percent": 0.5, "by": "key" }))
        },
    },
    Row {
        operation: "endPolicyCanary",
        request: |host| {
            let path = format!("/v2/policies/{}/canary", host.push_policy("c"));
            assert_eq!(host.manage("POST", &path, json!({ "percent": 5 })).status, 200);
            ("/v2/policies/canary/end".to_owned(), json!({}))
        },
    },
    Row {
        operation: "startPolicyShadow",
        request: |host| {
            let path = format!("/v2/policies/{}/shadow", host.push_policy("c"));
            (path, json!({ "percent": 100, "overlays": [] }))
        },
    },
    Row {
        operation: "endPolicyShadow",
        request: |host| {
            let path = format!("/v2/policies/{}/shadow", host.push_policy("c"));
            assert_eq!(host.manage("POST", &path, json!({ "percent": 5 })).status, 200);
            ("/v2/policies/shadow/end".to_owned(), json!({}))
        },
    },
    Row {
        operation: "retirePolicy",
        request: |host| (format!("/v2/policies/{}/retire", host.push_policy("b")), json!({})),
    },
    Row {
        operation: "backUp",
        request: |host| {
            let name = format!("copy-{:?}.db", std::time::Instant::now()).replace([' ', ':'], "");
            ("/v2/backup".to_owned(), json!({ "to": host.dir.path().join(name) }))
        },
    },
];

impl Row {
    fn described(&self) -> Operation {
        operations().into_iter().find(|operation| operation.id() == self.operation).unwrap()
    }

    /// Sends the request with its body changed.
    fn send(&self, host: &TestHost, change: impl Fn(&mut Map<String, Value>)) -> Answer {
        let (path, mut body) = (self.request)(host);
        change(body.as_object_mut().unwrap());
        self.send_to(host, &path, body)
    }

    fn send_to(&self, host: &TestHost, path: &str, body: Value) -> Answer {
        if self.operation == "backUp" {
            return host.manage_at_socket("POST", path, body);
        }
        host.manage("POST", path, body)
    }
}

#[test]
fn the_rows_are_about_every_body_that_is_described() {
    let described: BTreeSet<_> = operations()
        .iter()
        .filter(|operation| operation.request_schema().is_some())
        .map(Operation::id)
        .collect();
    assert_eq!(ROWS.iter().map(|row| row.operation).collect::<BTreeSet<_>>(), described);
}

#[test]
fn what_a_body_may_hold_is_taken_and_anything_else_is_refused() {
    let host = TestHost::start();
    for row in ROWS {
        let (name, schema) = (row.operation, row.described().request_schema().unwrap());
        let (path, body) = (row.request)(&host);
        assert_eq!(faults(schema, &body), <[String; 0]>::default(), "{name}");
        let fields: BTreeSet<_> = body.as_object().unwrap().keys().cloned().collect();
        let described: BTreeSet<_> =
            members(&schema["properties"]).map(|(name, _)| name.to_owned()).collect();
        assert_eq!(fields, described, "{name}: a row has every field");
        let answer = row.send_to(&host, &path, body);
        assert!(answer.status < 300, "{name}: {answer:?}");

        let answer = row.send(&host, |body| {
            body.insert("undocumented".to_owned(), json!(1));
        });
        refused_as_body(name, &answer);
        assert!(answer.message().contains("undocumented"), "{name}: {answer:?}");
    }
}

/// What is required, what may be null, and what type each field has.
#[test]
fn every_field_of_a_body_is_what_is_described() {
    let host = TestHost::start();
    for row in ROWS {
        let operation = row.described();
        let schema = operation.request_schema().unwrap();
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (field, described) in members(&schema["properties"]) {
            // Who goes on being refused is told to wait.
            host.clock.set(host.clock.now() + 60);
            let name = format!("`{field}` of {}", row.operation);
            let answer = row.send(&host, |body| {
                body.remove(field);
            });
            let is_required = required.contains(&json!(field));
            assert_eq!(answer.status >= 400, is_required, "without {name}: {answer:?}");
            if is_required {
                assert_eq!(answer.status, 400, "without {name}: {answer:?}");
            }

            let answer = row.send(&host, |body| body[field] = Value::Null);
            if faults(described, &Value::Null).is_empty() {
                assert!(answer.status < 300, "{name} as null: {answer:?}");
            } else {
                refused_as_body(&format!("{name} as null"), &answer);
            }

            for other in [json!({}), json!("x"), json!([{}]), json!(true), json!(-1)] {
                if !faults(described, &other).is_empty() {
                    let answer = row.send(&host, |body| body[field] = other.clone());
                    let told = format!("{name} as {other}: {answer:?}");
                    assert_eq!(
                        (answer.status, &*answer.code()),
                        (400, "parameter_invalid"),
                        "{told}"
                    );
                }
            }
        }
        // A body as a whole: left out, or not an object.
        let is_needed = operation.value["requestBody"]["required"] == true;
        let (path, _) = (row.request)(&host);
        if row.operation != "backUp" {
            let answer = host.manage(operation.method, &path, Value::Null);
            assert_eq!(answer.status >= 400, is_needed, "{}: {answer:?}", row.operation);
        }
        let (path, _) = (row.request)(&host);
        refused_as_body(row.operation, &row.send_to(&host, &path, json!("x")));
    }
}

#[track_caller]
fn refused_as_body(what: &str, answer: &Answer) {
    assert_eq!((answer.status, &*answer.code()), (400, "parameter_invalid"), "{what}: {answer:?}");
    assert_eq!(answer.json()["error"]["param"], "body", "{what}: {answer:?}");
}

/// The bounds of what is described are those of the host, to the last one.
#[test]
fn a_field_is_taken_up_to_its_bound_and_not_beyond() {
    let host = TestHost::start();
    let mut bounds = 0;
    for row in ROWS {
        let schema = row.described().request_schema().unwrap();
        for (field, described) in members(&schema["properties"]) {
            // Digests, masks, paths and policies have a form besides.
            if ["digest", "redacted", "to", "overlays"].contains(&field) {
                continue;
            }
            let limit = |word: &str| described[word].as_u64();
            let texts = |count: u64| json!("x".repeat(count as usize));
            let items = |count: u64| {
                let item = |i: u64| match field {
                    "endpoints" => json!("GET /v1/charges"),
                    _ => json!(format!("10.0.{}.{}", i / 250, i % 250)),
                };
                Value::Array((0..count).map(item).collect())
            };
            let mut cases: Vec<(Value, bool)> = Vec::new();
            if let Some(max) = limit("maxLength") {
                cases.extend([(texts(max), true), (texts(max + 1), false)]);
            }
            if let Some(min) = limit("minLength") {
                cases.extend([(texts(min), true), (texts(min - 1), false)]);
            }
            if let Some(max) = limit("maxItems") {
                cases.extend([(items(max), true), (items(max + 1), false)]);
            }
            if let Some(max) = limit("maximum") {
                cases.extend([(json!(max), true), (json!(max + 1), false)]);
            }
            if let Some(min) = limit("minimum") {
                cases.push((json!(min), true));
                if min > 0 {
                    cases.push((json!(min - 1), false));
                }
            }
            for (value, expected) in cases {
                assert_eq!(faults(described, &value).is_empty(), expected);
                let answer = row.send(&host, |body| {
                    body[field] = value.clone();
                    // One bound at a time: the longest overlap needs an interval
                    // that is as long, and the shortest interval no longer overlap.
                    match field {
                        "expire_current_key_in_minutes" => drop(body.remove("every_days")),
                        "every_days" => drop(body.remove("expire_current_key_in_minutes")),
                        _ => {}
                    }
                });
                let told = format!("`{field}` of {} as {value}: {answer:?}", row.operation);
                assert_eq!(answer.status < 300, expected, "{told}");
                if !expected {
                    assert_eq!(answer.status, 400, "{told}");
                    assert_eq!(answer.json()["error"]["param"], field, "{told}");
                }
                bounds += 1;
            }
        }
    }
    assert!(bounds > 40, "only {bounds} bounds were tried");
}

#[test]
fn every_parameter_of_a_query_is_taken_and_anything_else_is_refused() {
    let host = TestHost::start();
    let (key, _) = host.key("restricted", &["charge_read"]);
    for operation in operations() {
        let parameters = operation.parameters();
        let in_query: Vec<_> =
            parameters.iter().filter(|parameter| parameter["in"] == "query").collect();
        if in_query.is_empty() {
            continue;
        }
        let (id, path) = (operation.id(), operation.path);
        let is_keys = id == "listKeys";
        let ask = |query: &str| match id {
            "pushPolicy" => {
                let needed = ["name=a", "version=1", "revision=1"];
                let is_missing = |one: &&str| !query.contains(&one[..=one.find('=').unwrap()]);
                let missing: Vec<_> = needed.into_iter().filter(is_missing).collect();
                let query = format!("{}&{query}", missing.join("&"));
                let query = query.trim_start_matches('&');
                host.push_policy_as(&host.operator, query, STANDARD_POLICY)
            }
            _ => host.manage("GET", &format!("{path}?{query}"), Value::Null),
        };
        let done = if operation.method == "GET" { 200 } else { 201 };
        let mut all = Vec::new();
        for parameter in in_query {
            let name = parameter["name"].as_str().unwrap();
            let value = match (name, &parameter["schema"]) {
                ("account", _) => host.account.clone(),
                ("key", _) => key.id.clone(),
                ("starting_after", _) if is_keys => key.id.clone(),
                ("starting_after", _) if id == "listAccounts" => host.account.clone(),
                (_, schema) if schema["format"] == "date-time" => "2030-01-01T00:00:00Z".to_owned(),
                (_, schema) if schema["type"] == "integer" => "7".to_owned(),
                (_, schema) if schema["type"] == "boolean" => "true".to_owned(),
                _ => match parameter["example"].as_str() {
                    Some(example) => example.replace(' ', "%20"),
                    None => "operator".to_owned(),
                },
            };
            assert_eq!(ask(&format!("{name}={value}")).status, done, "{id}: {name}={value}");
            all.push(format!("{name}={value}"));
            // Of what is more than a text, not every text is one.
            let schema = &parameter["schema"];
            if schema["type"] != "string" || schema.get("format").is_some() {
                let answer = ask(&format!("{name}=nonsense"));
                assert_eq!(answer.status, 400, "{id}: {name}: {answer:?}");
                assert_eq!(answer.json()["error"]["param"], "query", "{id}: {name}: {answer:?}");
            }
            for (word, beyond) in [("minimum", -1), ("maximum", 1)] {
                let Some(bound) = schema[word].as_i64() else { continue };
                assert_eq!(ask(&format!("{name}={bound}")).status, done, "{id}: {name}={bound}");
                let answer = ask(&format!("{name}={}", bound + beyond));
                assert_eq!(answer.status, 400, "{id}: {name}: {answer:?}");
            }
        }
        assert_eq!(ask(&all.join("&")).status, done, "{id}: {all:?}");
        let answer = ask("undocumented=1");
        assert_eq!((answer.status, &*answer.code()), (400, "parameter_invalid"), "{answer:?}");
        assert_eq!(answer.json()["error"]["param"], "query", "{id}: {answer:?}");
        assert!(answer.message().contains("undocumented"), "{id}: {answer:?}");
    }
}

/// Answers of every shape that a description has two of. That they are as
/// described is checked with each of them.
#[test]
fn answers_of_every_shape_are_as_described() {
    let host = TestHost::start();
    let seen = |method: &str, path: &str, body: Value, expected: u16| {
        let answer = host.manage(method, path, body);
        assert_eq!(answer.status, expected, "{method} {path}: {answer:?}");
        answer.json()
    };
    let get = |path: &str| seen("GET", path, Value::Null, 200);
    // Kinds of keys, in both modes, as made and as replaced.
    let organization = host.make_organization();
    for (kind, owner, permissions) in [
        ("publishable", &host.account, json!([])),
        ("secret", &host.account, json!([])),
        ("restricted", &host.account, json!(["charge_read"])),
        ("managed", &host.account, json!([])),
        ("organization", &organization, json!(["*"])),
    ] {
        for livemode in [false, true] {
            let wanted = json!({
                "account": owner,
                "kind": kind,
                "name": "a key",
                "livemode": livemode,
                "permissions": permissions,
            });
            let made = seen("POST", "/v2/iam/api_keys", wanted, 201);
            let token = if kind == "publishable" { "publishable_key" } else { "secret_key" };
            assert!(made[token]["token"].is_string(), "{kind}: {made}");
            let path = format!("/v2/iam/api_keys/{}", made["id"].as_str().unwrap());
            let shown = get(&path);
            assert_eq!(shown[token].get("token").is_some(), kind == "publishable", "{shown}");
            let minutes = json!({ "expire_current_key_in_minutes": 10 });
            let replacement = seen("POST", &format!("{path}/rotate"), minutes, 200);
            assert!(replacement[token]["token"].is_string(), "{replacement}");
            get(&path);
            seen("POST", &format!("{path}/rotate"), json!({}), 409);
        }
    }
    // Used, scheduled and ended keys.
    let secret = host.default_secret("secret", Mode::Test);
    assert_eq!(host.call("GET", "/v1/charges", secret.expose()).status, 200);
    assert_eq!(host.call("GET", "/v1/charges", "x").status, 401);
    assert_eq!(host.call("GET", "/v1/nothing", secret.expose()).status, 404);
    host.finish();
    let used = get("/v2/iam/api_keys?limit=100");
    let used = used["data"].as_array().unwrap();
    assert_eq!(used.iter().filter(|key| key["last_used"].is_string()).count(), 1);
    let (key, _) = host.key("restricted", &["charge_read"]);
    let path = format!("/v2/iam/api_keys/{}", key.id);
    let at = json!({ "at": "2030-02-01T00:00:00Z" });
    let scheduled = seen("POST", &format!("{path}/schedule_rotation"), at, 200);
    assert_eq!(scheduled["rotation"]["every_days"], Value::Null);
    assert_eq!(seen("POST", &format!("{path}/expire"), Value::Null, 200)["status"], "expired");
    seen("POST", &format!("{path}/expire"), Value::Null, 409);
    get("/v2/iam/api_keys?include_expired=true&limit=100");
    // What happened.
    assert_eq!(get("/v2/request_logs")["data"].as_array().unwrap().len(), 3);
    let audit = get("/v2/audit_log?limit=100");
    assert!(audit["data"].as_array().unwrap().iter().any(|entry| entry["refused"].is_string()));
    let other = format!("1:{}", "0".repeat(64));
    let verified = seen("POST", "/v2/audit_log/verify", json!({ "head": other }), 200);
    assert_eq!(verified["intact"], false);
    // Who owns keys, and the rest.
    get("/v2/accounts");
    get(&format!("/v2/accounts/{}", host.account));
    get("/v2/iam/permissions");
    get("/openapi.json");
    let replaced =
        host.manage_at_socket("POST", "/v2/key_encryption_key/replace", Value::Null).json();
    assert!(replaced["secrets_resealed"].as_u64() > Some(0), "{replaced}");
    // Policies: one that is no policy, one in each state, and what clashes.
    let answer = host.push_policy_as(&host.operator, "name=a&version=1&revision=1", b"(component)");
    assert_eq!((answer.status, &*answer.code()), (400, "policy_refused"));
    seen("POST", "/v2/policies/rollback", Value::Null, 409);
    let [first, second, third] = ["first", "second", "third"].map(|name| host.push_policy(name));
    let on = |digest: &str, verb: &str| format!("/v2/policies/{digest}/{verb}");
    assert_eq!(seen("POST", &on(&first, "activate"), Value::Null, 200)["state"], "active");
    seen("POST", &on(&first, "retire"), Value::Null, 409);
    assert_eq!(seen("POST", &on(&second, "retire"), Value::Null, 200)["state"], "retired");
    seen("POST", &on(&second, "activate"), Value::Null, 409);
    seen("POST", &on("standard", "activate"), Value::Null, 409);
    seen("POST", &on("standard", "retire"), Value::Null, 409);
    assert_eq!(get(&format!("/v2/policies/{}", &third[..8]))["state"], "ready");
    assert_eq!(get("/v2/policies")["data"].as_array().unwrap().len(), 4);
    let back = seen("POST", "/v2/policies/rollback", Value::Null, 200);
    assert_eq!((&back["name"], &back["pushed"]), (&json!("standard"), &Value::Null));
    seen("POST", "/v2/policies/rollback", json!({ "to": second }), 409);
    // Beside what is in force, and for a share.
    assert_eq!(get("/v2/policies/in_force")["canary"], Value::Null);
    seen("GET", "/v2/policies/shadow", Value::Null, 409);
    seen("POST", "/v2/policies/shadow/end", Value::Null, 409);
    seen("POST", "/v2/policies/canary/end", Value::Null, 409);
    let share = json!({ "percent": 50 });
    seen("POST", &on(&third, "shadow"), share.clone(), 200);
    assert_eq!(get("/v2/policies/shadow")["digest"], third);
    seen("POST", &on(&second, "shadow"), share.clone(), 409);
    seen("POST", &on(&third, "canary"), share.clone(), 200);
    seen("POST", &on("standard", "canary"), share.clone(), 409);
    let in_force = get("/v2/policies/in_force");
    assert_eq!(
        (&in_force["canary"]["by"], &in_force["shadow"]),
        (&json!("account"), &json!(third))
    );
    seen("POST", &on("00000000", "canary"), share.clone(), 404);
    seen("POST", &on("00000000", "shadow"), share, 404);
    // What is not there, and callers who may not.
    seen("GET", "/v2/policies/00000000", Value::Null, 404);
    seen("POST", &on("00000000", "activate"), Value::Null, 404);
    seen("POST", &on("00000000", "retire"), Value::Null, 404);
    seen("POST", "/v2/policies/rollback", json!({ "to": "00000000" }), 404);
    seen("GET", "/v2/iam/api_keys/key_missing", Value::Null, 404);
    seen("GET", "/v2/accounts/acct_missing", Value::Null, 404);
    seen("POST", "/v2/backup", json!({ "to": "x" }), 404);
    for credential in ["x", secret.expose()] {
        let answer = host.manage_as(credential, "GET", "/v2/accounts", Value::Null, &[]);
        assert_eq!((answer.status, &*answer.code()), (401, "operator_required"));
    }
    let (_, reader) = host.key("restricted", &["charge_read"]);
    let create = json!({ "kind": "restricted", "name": "a key" });
    let answer = host.manage_as(reader.expose(), "POST", "/v2/iam/api_keys", create, &[]);
    assert_eq!((answer.status, &*answer.code()), (403, "more_permissions_required"));
}

#[test]
fn a_repeated_request_and_one_on_a_condition_are_answered_as_described() {
    let host = TestHost::start();
    let post = |path: &str, body: Value, headers: &[(&str, &str)]| {
        host.manage_as(&host.operator, "POST", path, body, headers)
    };
    let once = [("Idempotency-Key", "once")];
    let create = json!({ "kind": "secret", "name": "a key" });
    let first = post("/v2/iam/api_keys", create.clone(), &once);
    assert!(first.json()["secret_key"]["token"].is_string(), "{first:?}");
    let again = post("/v2/iam/api_keys", create, &once);
    assert_eq!(again.status, 201);
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(again.json()["secret_shown"], true);
    assert_eq!(again.json()["secret_key"].get("token"), None);
    assert_eq!(again.json()["id"], first.json()["id"]);
    let other = json!({ "kind": "secret", "name": "another key" });
    let answer = post("/v2/iam/api_keys", other, &once);
    assert_eq!((answer.status, &*answer.code()), (400, "idempotency_key_reused"));

    let path = format!("/v2/iam/api_keys/{}", first.json()["id"].as_str().unwrap());
    for (revision, expected) in
        [("\"7\"", 412), ("\"1\"", 200), ("\"1\"", 412), ("*", 200), ("1", 400)]
    {
        let answer = post(&path, json!({ "note": "n" }), &[("If-Match", revision)]);
        assert_eq!(answer.status, expected, "{revision}: {answer:?}");
    }
}

#[test]
fn what_a_person_has_to_confirm_is_described() {
    let options = Options { delivery: Delivery::Console, ..Options::default() };
    let host = TestHost::start_with(options);
    let wanted = json!({ "kind": "secret", "name": "a key", "livemode": true });
    let post = |headers: &[(&str, &str)]| {
        host.manage_as(&host.operator, "POST", "/v2/iam/api_keys", wanted.clone(), headers)
    };
    let asked = post(&[]);
    assert_eq!((asked.status, &*asked.code()), (403, "verification_required"));
    let sent = asked.json()["error"]["verification"].clone();
    assert_eq!(openapi::validate_as("Challenge", &sent), <[String; 0]>::default());
    let expires_at: jiff::Timestamp = sent["expires_at"].as_str().unwrap().parse().unwrap();
    assert!(u64::try_from(expires_at.as_second()).unwrap() > NOON);
    for (header, expected) in [
        ("vrf_AAAAAAAAAAAAAAAAAAAAAAAA:123456", "403 verification_expired"),
        ("nonsense", "400 verification_invalid"),
    ] {
        let answer = post(&[("Wardkey-Verification", header)]);
        assert_eq!(format!("{} {}", answer.status, answer.code()), expected);
    }
}
