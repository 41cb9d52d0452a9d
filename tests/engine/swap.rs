//! Policies that are changed while requests run, and policies that are silent
//! on a part of the contract.

use std::{
    sync::{Arc, Mutex},
    thread,
};

use axum::{Router, body::Body, http::Request as HttpRequest, routing::get};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use wardkey::{
    active_policy::{ActivePolicy, STANDARD_POLICY},
    clock::Clock,
    engine::{
        EngineError, Policy, Run,
        contract::{
            Credential, Request, Source,
            lifecycle::{Caller, KeyRequest},
        },
    },
    facts::Facts,
    host::{Api, Host, Parts},
    keys::{Actor, Ask, CreateAccount, CreateKey},
    storage::{KeyFilter, Mode, SqliteStorage},
};

use crate::{
    common::{self, NOON, Options, TestHost, account_named, by_operator, engine},
    failing_storage::Switch,
    guest::*,
};

fn load(authorize: impl Into<String>) -> Arc<Policy> {
    Arc::new(engine().load(&Guest::new(authorize).build()).unwrap())
}

fn standard() -> Arc<Policy> {
    Arc::new(engine().load(STANDARD_POLICY).unwrap())
}

#[test]
fn the_standard_policy_answers_where_another_is_silent() {
    let active = ActivePolicy::load(engine(), Some(&Guest::new(deny()).build())).unwrap();
    let (small, standard) = (active.get(), standard());
    assert_eq!(small.interfaces(), ["authorizer"]);
    assert_ne!(small.digest(), standard.digest());

    assert_eq!(
        active.default_keys("acct_1", NOON).unwrap(),
        standard.default_keys("acct_1", NOON).unwrap()
    );
    assert_eq!(active.permissions().unwrap(), standard.permissions().unwrap());
    let charge = ("GET", "/v1/charges/ch_1");
    let found = active.find_endpoint(charge.0, charge.1).unwrap();
    assert_eq!(found, standard.find_endpoint(charge.0, charge.1).unwrap());
    assert_eq!(found.unwrap().path, "/v1/charges/:id");
    let mut request = KeyRequest {
        account: "acct_1",
        mode: wardkey::engine::contract::Mode::Test,
        kind: "restricted",
        name: "a key",
        note: "",
        permissions: "charge_read",
        connect_permissions: "",
        ip_allowlist: "",
        ends_at: None,
    };
    let plan = active.create(&Caller::Operator, &request, NOON).unwrap().unwrap();
    assert_eq!((plan.prefix.as_str(), plan.permissions.as_str()), ("rk_test_", "charge_read"));
    request.permissions = "nonsense";
    assert!(active.create(&Caller::Operator, &request, NOON).unwrap().is_err());

    // By itself it says that it does not know.
    assert!(matches!(small.default_keys("acct_1", NOON), Err(EngineError::Missing("lifecycle"))));
    assert!(matches!(small.permissions(), Err(EngineError::Missing("catalogue"))));
    assert!(matches!(small.find_endpoint("GET", "/"), Err(EngineError::Missing("catalogue"))));
}

#[test]
fn why_a_policy_decided_nobody_else_can_say() {
    let request = Request {
        credential: Credential::Absent,
        method: "GET",
        path: "/v1/charges",
        source: Source::Ipv4(0),
        context: None,
        account: None,
        api_version: None,
        now: NOON,
        attributes: &[],
    };
    let (_, answer) = load(deny()).explain(&request, None, Facts::default());
    assert!(matches!(answer, Err(EngineError::Missing("explain"))));
    let (_, answer) = standard().explain(&request, None, Facts::default());
    let Run::Done(explanation) = answer.unwrap() else { panic!("it needed a fact") };
    assert_eq!(explanation.steps.len(), 1);
}

#[test]
fn a_host_with_a_small_policy_has_accounts_keys_and_a_catalogue() {
    let policy = Some(Guest::new(honest()).build());
    let host = TestHost::start_with(Options { policy, ..Options::default() });
    // The account and its six keys were made by then.
    let secret = host.default_secret("secret", Mode::Test);
    assert_eq!(host.call("GET", "/v1/charges", secret.expose()).status, 200);
    let (key, secret) = host.key("restricted", &["charge_read"]);
    assert_eq!(key.permissions, "charge_read");
    // It decides by its own rules, and those do not ask for permissions.
    assert_eq!(host.call("POST", "/v1/payouts", secret.expose()).status, 200);
}

/// Also where the runs of the decision lie on both sides of the change.
#[test]
fn a_request_is_decided_by_one_policy_from_start_to_end() {
    let switch = Switch::new();
    let before_storage = switch.clone();
    let wrap = Box::new(move |inner| before_storage.wrap(inner));
    let host = TestHost::start_with(Options { wrap, ..Options::default() });
    let connected = host.make_account(CreateAccount {
        platform: Some(host.account.clone()),
        ..account_named("Connected")
    });
    let secret = host.default_secret("secret", Mode::Test);
    let before = host.host.policy().get();
    // From here on the key is at hand, and only the account has to be read.
    assert_eq!(host.call("GET", "/v1/charges", secret.expose()).status, 200);

    switch.hold_next();
    let deny_everybody = load(deny());
    let answer = thread::scope(|scope| {
        let answer = scope.spawn(|| {
            let secret = format!("Bearer {}", secret.expose());
            let headers = [("Authorization", secret.as_str()), ("Stripe-Context", &*connected)];
            host.call_with("GET", "/v1/charges", &headers, "")
        });
        // The first run of the standard policy has ended at the account, and
        // the host is reading it.
        host.block_on(switch.held());
        host.host.policy().activate(Arc::clone(&deny_everybody));
        switch.release();
        answer.join().unwrap()
    });
    assert_eq!(answer.status, 200, "the other policy had a word in it: {answer:?}");
    // And it is in force for the next.
    assert_eq!(host.call("GET", "/v1/charges", secret.expose()).message(), "no");

    host.finish();
    let log = host.logged(10);
    let policies: Vec<_> = log.iter().map(|entry| (entry.status, entry.policy)).collect();
    let (new, old) = (Some(deny_everybody.digest()), Some(before.digest()));
    assert_eq!(policies, [(403, new), (200, old), (200, old)]);
}

#[test]
fn policies_change_under_load_and_every_request_is_decided_by_one_of_them() {
    let host = TestHost::start();
    let (_, secret) = host.key("restricted", &["charge_read"]);
    let policies = [standard(), load(deny()), load(honest())];
    let answers = thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let call = |_| host.call("POST", "/v1/charges", secret.expose());
                    (0..150).map(call).collect::<Vec<_>>()
                })
            })
            .collect();
        let mut changes = policies.iter().cycle();
        while !callers.iter().all(thread::ScopedJoinHandle::is_finished) {
            host.host.policy().activate(Arc::clone(changes.next().unwrap()));
            thread::yield_now();
        }
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect::<Vec<_>>()
    });
    let mut counts = [0; 3];
    for answer in &answers {
        // The simulated API has its own opinion of a charge without fields.
        let by_honest = answer.status == 200 || answer.status == 400;
        let by =
            [answer.code() == "more_permissions_required", answer.message() == "no", by_honest];
        assert_eq!(by.iter().filter(|by| **by).count(), 1, "{answer:?}");
        for (count, by) in counts.iter_mut().zip(by) {
            *count += usize::from(by);
        }
    }
    println!("{} requests, by policy: {counts:?}", answers.len());
}

#[test]
fn a_failed_load_leaves_the_policy_in_force() {
    let host = TestHost::start();
    let before = host.host.policy().get().digest();
    assert!(engine().load(b"no component").is_err());
    assert!(ActivePolicy::load(engine(), Some(b"no component")).is_err());
    assert_eq!(host.host.policy().get().digest(), before);
    let secret = host.default_secret("secret", Mode::Test);
    assert_eq!(host.call("GET", "/v1/charges", secret.expose()).status, 200);
}

#[test]
fn making_keys_does_not_depend_on_deciding() {
    // An authorizer that loops is silent on making keys, so that the standard
    // policy answers for it: keys can be made even now.
    let host = TestHost::start();
    host.host.policy().activate(load("(loop $on (br $on)) (i32.const 0)"));
    let (_, secret) = host.key("restricted", &["charge_read"]);
    assert_eq!(host.call("GET", "/v1/charges", secret.expose()).status, 503);
    host.host.policy().activate(standard());
    assert_eq!(host.call("GET", "/v1/charges", secret.expose()).status, 200);
}

/// A policy that has a `lifecycle` of its own is not stood in for where that
/// fails: what it would have refused, the standard policy might not.
#[test]
fn a_policy_that_fails_at_making_keys_makes_none() {
    let host = TestHost::start();
    let count = || {
        let filter = KeyFilter { limit: 100, ..KeyFilter::default() };
        host.block_on(host.storage.list_keys(filter)).unwrap().len()
    };
    let before = count();
    for (what, fails) in [
        ("a trap", "unreachable"),
        ("a loop", "(loop $on (br $on)) (i32.const 0)"),
        ("an answer out of bounds", "(i32.const -8)"),
        ("a list out of bounds", "(i32.store (i32.const 8) (i32.const 100000000)) (i32.const 8)"),
    ] {
        let about_keys: String = ABOUT_KEYS
            .iter()
            .map(|name| {
                format!(
                    r#"(func (export "wardkey:policy/lifecycle@0.1.0#{name}")
                        (param i32) (result i32) {fails})"#
                )
            })
            .collect();
        let module = format!(
            r#"(module (memory (export "memory") 1)
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                    (i32.const 1024))
                (func (export "wardkey:policy/authorizer@0.1.0#authorize")
                    (param i32) (result i32) unreachable)
                (func (export "wardkey:policy/lifecycle@0.1.0#default-keys")
                    (param i32 i32 i64) (result i32) {fails})
                {about_keys})"#
        );
        let contract = |resolve: &mut _| {
            with_contract(resolve, include_str!("../../wit/lifecycle.wit"));
        };
        let policy = engine().load(&component(&module, contract, "mine")).unwrap();
        assert_eq!(policy.interfaces(), ["authorizer", "lifecycle"]);
        host.host.policy().activate(Arc::new(policy));

        let wanted = CreateKey {
            account: Some(host.account.clone()),
            kind: "restricted".to_owned(),
            name: "a key".to_owned(),
            ..CreateKey::default()
        };
        let keys = host.host.keys();
        let made = host.block_on(keys.create(by_operator(), wanted));
        // The list is no answer of `create` but reads as an empty plan, whose
        // prefix is none.
        assert!(made.is_err(), "{what}: a key was made");
        let made = host.block_on(keys.create_account(by_operator(), account_named("Other")));
        assert!(made.is_err(), "{what}: an account was made");
        assert_eq!(count(), before, "{what}");
        assert_eq!(host.block_on(host.storage.list_accounts(None, 10)).unwrap().len(), 1, "{what}");
    }
    host.host.policy().activate(standard());
    host.key("restricted", &["charge_read"]);
    assert_eq!(count(), before + 1);
}

#[test]
fn verify_answers_an_error_and_no_decision_where_the_policy_fails() {
    let host = TestHost::start();
    let secret = host.default_secret("secret", Mode::Test);
    let verify = |explain: bool| {
        let body = json!({
            "key": secret.expose(),
            "method": "GET",
            "path": "/v1/charges",
            "explain": explain,
        })
        .to_string();
        let request = format!(
            "POST /verify HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        crate::common::send_raw(host.internal, request.as_bytes())
    };
    assert_eq!(verify(false).json()["allowed"], json!(true));
    host.host.policy().activate(load("unreachable"));
    for explain in [false, true] {
        let answer = verify(explain);
        assert_eq!(answer.status, 500, "{answer:?}");
        assert_eq!(answer.json()["allowed"], Value::Null);
    }
    host.host.policy().activate(standard());
    assert_eq!(verify(true).json()["allowed"], json!(true));
}

/// To serve a request puts a policy in force here that refuses everything: those that
/// came with it must have been decided about by then. And all of them are served when
/// the first is answered.
#[test]
fn requests_that_come_together_are_decided_about_and_then_served_and_then_answered() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let storage = SqliteStorage::open(&dir.path().join("wardkey.db")).unwrap();
        let policy = Arc::new(ActivePolicy::load(engine(), None).unwrap());
        let (in_force, refusing) = (Arc::clone(&policy), load(deny()));
        // An `s` for each that was served, and an `a` for each that was answered.
        let course = Arc::new(Mutex::new(String::new()));
        let note = |what| {
            let course = Arc::clone(&course);
            move || course.lock().unwrap().push(what)
        };
        let (charges, customers, answered) = (note('s'), note('s'), note('a'));
        let refuse = move || drop(in_force.activate(refusing));
        let api = Router::new()
            .route("/v1/charges", get(async move || charges()))
            .route("/v1/customers", get(async move || (customers(), refuse()).0));
        let parts = common::parts(Arc::new(storage), policy, Clock::system());
        let parts = Parts { api: Api::Router(api), ..parts };
        let host = Host::start(parts).await.unwrap();
        let (keys, operator) = (host.keys(), Ask::by(Actor::Operator));
        let account = CreateAccount { name: "Together".to_owned(), ..CreateAccount::default() };
        keys.create_account(&operator, account).await.unwrap();
        let wanted = CreateKey {
            kind: "secret".to_owned(),
            name: "together".to_owned(),
            ..CreateKey::default()
        };
        let secret = keys.create(&operator, wanted).await.unwrap().secret.unwrap();
        let call = async |path: &str| {
            let authorization = format!("Bearer {}", secret.expose());
            let request = HttpRequest::get(path).header("authorization", authorization);
            let request = request.body(Body::empty()).unwrap();
            let answer = host.gate_router().oneshot(request).await.unwrap();
            answered();
            answer.status().as_u16()
        };
        // The key is at hand then, and it is known that requests come together.
        for _ in 0..64 {
            let charges =
                tokio::join!(call("/v1/charges"), call("/v1/charges"), call("/v1/charges"));
            assert_eq!(charges, (200, 200, 200));
        }
        course.lock().unwrap().clear();
        let together =
            tokio::join!(call("/v1/customers"), call("/v1/charges"), call("/v1/charges"));
        assert_eq!(together, (200, 200, 200));
        assert_eq!(*course.lock().unwrap(), "sssaaa");
        assert_eq!(call("/v1/charges").await, 403);
    });
}
