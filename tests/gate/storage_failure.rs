//! Storage that fails or stalls: requests wait or are told to try again, and
//! nobody is let through or sent away for it.

use std::{sync::Arc, thread, time::Instant};

use wardkey::{
    audit::AuditKey,
    cache::Cache,
    keys::{CreateAccount, CreateKey},
    secret::Secret,
    storage::{Change, Mode},
};

use super::{Options, Ward, bearer, common::by_operator, failing_storage};
use failing_storage::{Health, Switch};

fn start() -> (Ward, Switch) {
    let switch = Switch::new();
    let wrapped = switch.clone();
    let wrap = Box::new(move |storage| wrapped.wrap(storage));
    (Ward::start_with(Options { wrap, ..Options::default() }), switch)
}

#[test]
fn while_storage_fails_keys_at_hand_work_and_others_are_told_to_try_again() {
    let (ward, switch) = start();
    let (_, known) = ward.host.key("restricted", &["charge_read"]);
    let (_, other) = ward.host.key("restricted", &["charge_read"]);
    let stranger = Secret::generate(None, "sk_test_");
    ward.check_key(&known, "GET /v1/charges", "200");

    switch.set(Health::Failing);
    for _ in 0..2 {
        ward.check_key(&known, "GET /v1/charges", "200");
        ward.check_key(&known, "GET /v1/payouts", "403 more_permissions_required");
        ward.check_key(&other, "GET /v1/charges", "503 unavailable");
        // Whether there is such a key is not known, so that it is no 401.
        let answer = ward.check_key(&stranger, "GET /v1/charges", "503 unavailable");
        assert_eq!(answer.headers["retry-after"], "1");
        assert!(!answer.body.contains("switched off"), "{answer:?}");
        // What needs no storage is told at once.
        ward.check("GET /v1/charges", &[], "401");
        ward.check("GET /v1/charges", &[("Authorization", "Bearer x")], "401");
        ward.check_key(&known, "GET /v2/iam/api_keys/self", "503 unavailable");
        let headers = [("Authorization", &*bearer(&known)), ("Stripe-Account", "acct_unknown")];
        ward.check("GET /v1/charges", &headers, "503 unavailable");
    }

    switch.set(Health::Well);
    ward.check_key(&other, "GET /v1/charges", "200");
    ward.check_key(&stranger, "GET /v1/charges", "401");
}

#[test]
fn a_read_that_stalls_ends_within_the_hosts_limit() {
    let (ward, switch) = start();
    let (_, known) = ward.host.key("restricted", &["charge_read"]);
    let (_, other) = ward.host.key("restricted", &["charge_read"]);
    ward.check_key(&known, "GET /v1/charges", "200");

    switch.set(Health::Silent);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let answer = ward.host.call("GET", "/v1/charges", other.expose());
                assert_eq!(super::outcome(&answer), "503 unavailable");
                super::check_refusal(&answer);
            });
        }
        // Those who wait hold up nobody whose key is at hand.
        let answer = ward.host.call("GET", "/v1/charges", known.expose());
        assert_eq!(answer.status, 200);
    });
    // Two seconds, also for those who waited for another's read.
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    assert_eq!(ward.api.count(), 2, "a request without a decision reached the API");

    switch.set(Health::Well);
    ward.check_key(&other, "GET /v1/charges", "200");
}

#[test]
fn a_burst_of_requests_with_one_key_is_one_read() {
    let (ward, switch) = start();
    let (_, secret) = ward.host.key("restricted", &["charge_read"]);
    for (secret, expected) in [(secret, 200), (Secret::generate(None, "sk_test_"), 401)] {
        let (before, counted) = (switch.reads(), ward.host.host.storage_reads());
        switch.hold_next();
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let answer = ward.host.call("GET", "/v1/charges", secret.expose());
                    assert_eq!(answer.status, expected);
                });
            }
            ward.host.block_on(switch.held());
            switch.release();
        });
        assert_eq!(switch.reads(), before + 1);
        assert_eq!(ward.host.host.storage_reads(), counted + 1, "the host counts its reads");
    }
}

#[test]
fn an_account_that_left_while_it_was_read_is_not_remembered_as_a_member() {
    let (ward, switch) = start();
    let host = &ward.host;
    let keys = host.host.keys();
    let organization = host.make_organization();
    let (_, secret) = host.key_with(CreateKey {
        account: Some(organization.clone()),
        kind: "organization".to_owned(),
        permissions: vec!["charge_read".to_owned()],
        ..CreateKey::default()
    });
    let member = host.make_account(CreateAccount {
        name: "Member".to_owned(),
        organization: Some(organization.clone()),
        platform: None,
    });
    let auth = bearer(&secret);
    let headers =
        [("Authorization", &*auth), ("Stripe-Version", "1"), ("Stripe-Context", &*member)];
    // The key is at hand, the account is not.
    ward.check("GET /v1/charges", &headers[..2], "400 context_required");

    switch.hold_next();
    thread::scope(|scope| {
        // Began before the change: either answer is right for it.
        scope.spawn(|| host.call_with("GET", "/v1/charges", &headers, ""));
        host.block_on(switch.held());
        host.block_on(keys.set_organization(by_operator(), &member, None)).unwrap();
        switch.release();
    });
    ward.check("GET /v1/charges", &headers, "403 account_invalid");
    let joined = keys.set_organization(by_operator(), &member, Some(&organization));
    host.block_on(joined).unwrap();
    ward.check("GET /v1/charges", &headers, "200");
}

#[test]
fn a_slow_read_that_began_before_a_change_is_not_kept() {
    let (ward, switch) = start();
    let host = &ward.host;
    let (mut key, _) = host.key("restricted", &["charge_read"]);
    let secret = Secret::generate(None, "rk_test_");
    (key.id, key.digest) = ("key_later".to_owned(), secret.digest());
    let digest = key.digest;
    let cache = Arc::new(Cache::new(switch.wrap(Arc::clone(&host.storage))));
    host.block_on(async {
        switch.hold_next();
        let slow = tokio::spawn({
            let cache = Arc::clone(&cache);
            async move { cache.key(digest).await }
        });
        switch.held().await;
        let change = Change { new_keys: vec![key], ..Change::default() };
        host.storage.commit(change, Arc::new(AuditKey::generate())).await.unwrap();
        cache.key_changed(digest);
        switch.release();
        assert!(slow.await.unwrap().unwrap().is_none(), "it was read before the change");
        assert!(cache.key(digest).await.unwrap().is_some(), "the old answer was kept");
    });
}

#[test]
fn a_failing_simulated_api_says_that_it_was_not_served() {
    let switch = Switch::new();
    let wrapped = switch.clone();
    let wrap = Box::new(move |storage| wrapped.wrap(storage));
    let host = super::TestHost::start_with(Options { wrap, ..Options::default() });
    let secret = host.default_secret("secret", Mode::Test);
    assert_eq!(host.call("GET", "/v1/customers", secret.expose()).status, 200);
    switch.set(Health::Failing);
    let auth = bearer(&secret);
    let headers = [("Authorization", &*auth)];
    for (method, path) in
        [("GET", "/v1/customers"), ("POST", "/v1/customers"), ("POST", "/v1/payouts")]
    {
        let answer = host.call_with(method, path, &headers, "");
        assert_eq!(super::outcome(&answer), "503 unavailable", "{answer:?}");
        assert_eq!(answer.headers["retry-after"], "1");
    }
    switch.set(Health::Well);
    let list = host.call("GET", "/v1/payouts", secret.expose()).json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(0), "{list}");
}
