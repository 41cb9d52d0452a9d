//! The corpus: who asks for what, when, and what comes of it. One row for each
//! way through each rule.

use wardkey_policy::contract::{Credential, Decision, Key, Mode, Request};

use crate::{
    both::{World, decide, describe, describe_denial},
    rows::*,
};

/// The one place that asks. Every test below is rows.
#[track_caller]
fn check(key: &Key, request: &Request, expected: &str) -> Decision {
    let decision = decide(request, &world(key));
    assert_eq!(describe(&decision), expected, "{} {}", request.method, request.path);
    match &decision {
        Decision::Allow(grant) => {
            assert_eq!((&grant.key, grant.mode), (&key.id, key.mode));
        }
        Decision::Deny(denial) => {
            assert!(!denial.message.is_empty());
            // Whoever was recognised is named, for the log; nobody else is.
            let known = !expected.starts_with("unauthenticated");
            assert_eq!(denial.key, known.then(|| key.id.clone()));
        }
    }
    decision
}

#[track_caller]
fn check_message(key: &Key, request: &Request, expected: &str) {
    match decide(request, &world(key)) {
        Decision::Deny(denial) => assert_eq!(denial.message, expected),
        Decision::Allow(grant) => panic!("allowed: {grant:?}"),
    }
}

const CHARGES: &str = "/v1/charges";
const PAYOUTS: &str = "/v1/payouts";

// Who asks (S1–S3, S5–S7, S17, S82, S85).

#[test]
fn nobody_gets_in_without_a_key() {
    let none = presenting(Credential::Absent, get(CHARGES));
    check(&secret(), &none, "unauthenticated");
    check_message(
        &secret(),
        &none,
        "You did not provide an API key. You need to provide your API key in the Authorization \
         header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
    );
}

#[test]
fn a_text_that_is_no_key_is_not_looked_up() {
    for prefix in ["", "sk_live_", "acme_sk_live_", "rk_test_", "sk_org_"] {
        check(&secret(), &presenting(malformed(prefix), get(CHARGES)), "unauthenticated");
    }
    check_message(
        &secret(),
        &presenting(malformed("sk_live_"), get(CHARGES)),
        "Invalid API Key provided: sk_live_****5678",
    );
}

#[test]
fn an_unknown_key_is_told_from_an_ended_one() {
    let unknown = presenting(well_formed("sk_test_"), get(CHARGES));
    let without = World { key: None, ..world(&secret()) };
    let Decision::Deny(denial) = decide(&unknown, &without) else { panic!("it was let in") };
    assert_eq!(describe_denial(&denial), "unauthenticated");
    assert_eq!(denial.message, "Invalid API Key provided: sk_test_****1234");
    let ended = Key { ends_at: Some(NOW), ..secret() };
    check(&ended, &get(CHARGES), "ended: api_key_expired");
    check_message(&ended, &get(CHARGES), "Expired API Key provided: rk_test_****1234");
}

#[test]
fn the_prefix_decides_nothing_where_the_key_is_known() {
    for prefix in ["pk_live_", "sk_org_test_", "", "anything_"] {
        let request = presenting(well_formed(prefix), get(CHARGES));
        check(&restricted("charge_read"), &request, "allow on acct_owner by charge_read");
    }
}

#[test]
fn a_webhook_secret_is_no_key_even_where_one_is_stored_under_it() {
    for credential in [malformed("whsec_"), well_formed("whsec_")] {
        let request = presenting(credential.clone(), get(CHARGES));
        check(&secret(), &request, "unauthenticated");
        let Decision::Deny(denial) = decide(&request, &world(&secret())) else { unreachable!() };
        assert!(denial.message.contains("webhook signing secret"), "{}", denial.message);
    }
    // The word in the middle is no prefix.
    let request = presenting(malformed("sk_whsec_"), get(CHARGES));
    check_message(&secret(), &request, "Invalid API Key provided: sk_whsec_****5678");
}

#[test]
fn a_stranger_learns_nothing_of_the_api() {
    let stranger = |path| presenting(Credential::Absent, get(path));
    let empty = World::default();
    let listed = decide(&stranger(CHARGES), &empty);
    assert_eq!(decide(&stranger("/v1/no/such/thing"), &empty), listed);
    let malformed = |path| presenting(malformed("sk_test_"), get(path));
    assert_eq!(decide(&malformed("/v1/nothing"), &empty), decide(&malformed(CHARGES), &empty));
}

// Whether the key may be used here and now (S42–S49, S55).

#[test]
fn a_key_ends_at_the_exact_second() {
    let key = Key { ends_at: Some(NOW), ..secret() };
    check(
        &key,
        &at(NOW - 1, get(CHARGES)),
        concat!(
            "allow on acct_owner by charge_read, ",
            "notice: This API key stops working in 1 h. Use its replacement.",
        ),
    );
    check(&key, &at(NOW, get(CHARGES)), "ended: api_key_expired");
    check(&key, &at(NOW + 1, get(CHARGES)), "ended: api_key_expired");
    check(&key, &at(u64::MAX, get(CHARGES)), "ended: api_key_expired");
    let never_began = Key { ends_at: Some(0), ..secret() };
    check(&never_began, &at(0, get(CHARGES)), "ended: api_key_expired");
    let last = Key { ends_at: Some(u64::MAX), ..secret() };
    check(&last, &get(CHARGES), "allow on acct_owner by charge_read");
    check(&last, &at(u64::MAX, get(CHARGES)), "ended: api_key_expired");
}

#[test]
fn the_last_week_is_announced() {
    for (left, notice) in [
        (7 * DAY + 1, None),
        (7 * DAY, Some(168)),
        (7 * DAY - 1, Some(168)),
        (DAY, Some(24)),
        (HOUR + 1, Some(2)),
        (HOUR, Some(1)),
        (1, Some(1)),
    ] {
        let key = Key { ends_at: Some(NOW + left), ..restricted("charge_read") };
        let notice = notice.map_or(String::new(), |hours| {
            format!(", notice: This API key stops working in {hours} h. Use its replacement.")
        });
        let expected = format!("allow on acct_owner by charge_read{notice}");
        check(&key, &get(CHARGES), &expected);
    }
}

#[test]
fn an_address_list_lets_in_what_it_names() {
    #[track_caller]
    fn row(list: &[&str], source: &str, allowed: bool) {
        let nets = list.iter().map(|entry| wardkey_policy::network::parse(entry).unwrap());
        let key = Key { ipv4_nets: nets.collect(), ..restricted("charge_read") };
        let source = if source.contains(':') { ipv6(source) } else { ipv4(source) };
        let expected = match allowed {
            true => "allow on acct_owner by charge_read",
            false => "forbidden: ip_not_allowed",
        };
        check(&key, &from(source, get(CHARGES)), expected);
    }
    row(&[], "203.0.113.9", true);
    row(&[], "2001:db8::1", true);
    // S44, word for word.
    row(&["100.10.38.0/24"], "100.10.38.0", true);
    row(&["100.10.38.0/24"], "100.10.38.255", true);
    row(&["100.10.38.0/24"], "100.10.39.1", false);
    row(&["100.10.38.0/24"], "100.10.37.255", false);
    row(&["192.0.2.7"], "192.0.2.7", true);
    row(&["192.0.2.7"], "192.0.2.6", false);
    row(&["192.0.2.7"], "192.0.2.8", false);
    row(&["192.0.2.6/31"], "192.0.2.7", true);
    row(&["192.0.2.6/31"], "192.0.2.8", false);
    row(&["0.0.0.0/0"], "0.0.0.0", true);
    row(&["0.0.0.0/0"], "255.255.255.255", true);
    row(&["0.0.0.0/1"], "127.255.255.255", true);
    row(&["0.0.0.0/1"], "128.0.0.0", false);
    row(&["255.255.255.255"], "255.255.255.255", true);
    row(&["192.0.2.7", "198.51.100.0/24"], "198.51.100.200", true);
    row(&["192.0.2.7", "198.51.100.0/24"], "198.51.101.0", false);
    // S80: an IPv6 address is in no list, not even in all of IPv4.
    row(&["0.0.0.0/0"], "2001:db8::1", false);
    row(&["0.0.0.0/0"], "::", false);
    // Written as IPv6 it would have been unwrapped by the host.
    row(&["203.0.113.9"], "::ffff:203.0.113.9", false);
}

#[test]
fn the_refused_address_is_named() {
    let nets = vec![wardkey_policy::network::parse("192.0.2.7").unwrap()];
    let key = Key { ipv4_nets: nets, ..secret() };
    check_message(
        &key,
        &get(CHARGES),
        "The API key provided does not allow requests from your IP address (203.0.113.9).",
    );
    check_message(
        &key,
        &from(ipv6("2001:db8::1"), get(CHARGES)),
        "The API key provided does not allow requests from your IP address (2001:db8::1).",
    );
}

#[test]
fn a_damaged_network_lets_nobody_in() {
    let nets = vec![wardkey_policy::contract::Ipv4Net { address: 0, prefix_length: 33 }];
    check(&Key { ipv4_nets: nets, ..secret() }, &get(CHARGES), "forbidden: ip_not_allowed");
}

#[test]
fn who_comes_before_when_and_when_before_where() {
    let nets = vec![wardkey_policy::network::parse("192.0.2.7").unwrap()];
    let key = Key { ends_at: Some(NOW), ipv4_nets: nets, ..restricted("") };
    check(&key, &get("/v1/nothing"), "ended: api_key_expired");
    let key = Key { ends_at: None, ..key };
    check(&key, &get("/v1/nothing"), "forbidden: ip_not_allowed");
    let key = Key { ipv4_nets: Vec::new(), ..key };
    check(&key, &get("/v1/nothing"), "not found");
}

// What for: the catalogue.

#[test]
fn an_endpoint_that_is_not_listed_is_not_found() {
    for (method, path) in [
        ("GET", "/v1/nothing"),
        ("GET", "/v1"),
        ("GET", "/"),
        ("GET", ""),
        ("GET", "v1/charges"),
        ("GET", "/v1/charges/"),
        ("GET", "//v1/charges"),
        ("GET", "/V1/charges"),
        ("GET", "/v1/charges/ch_1/capture/more"),
        ("get", "/v1/charges"),
        ("PUT", "/v1/charges"),
        ("HEAD", "/v1/charges"),
        ("", "/v1/charges"),
        ("DELETE", "/v1/charges/ch_1"),
    ] {
        check(&secret(), &request(method, path), "not found");
    }
    check_message(
        &secret(),
        &get("/v1/nothing"),
        "Unrecognized request URL (GET: /v1/nothing). Check the method and the path.",
    );
}

#[test]
fn the_operator_may_let_unlisted_endpoints_through_for_keys_without_limits() {
    let unlisted = allow_unlisted(get("/v1/nothing"));
    check(&secret(), &unlisted, "allow on acct_owner");
    check(&live(secret()), &unlisted, "allow on acct_owner");
    check(&managed(), &unlisted, "allow on acct_owner");
    check(&restricted("charge_read"), &unlisted, "forbidden: more_permissions_required");
    check(&publishable(), &unlisted, "forbidden: more_permissions_required");
    // No permission covers it, so that all of them together do not either.
    let all = restricted(&every_permission());
    check(&all, &unlisted, "forbidden: more_permissions_required");
    // Only the exact word counts.
    for (name, value) in [("allow-unlisted", "no"), ("allow-unlisted", ""), ("unlisted", "yes")] {
        let attributes = vec![(name.to_owned(), value.to_owned())];
        check(&secret(), &Request { attributes, ..get("/v1/nothing") }, "not found");
    }
    // It changes nothing for those that are listed.
    check(
        &restricted(""),
        &allow_unlisted(get(CHARGES)),
        "forbidden: more_permissions_required, missing charge_read",
    );
    // On a connected account it is the connect permissions that have no limits.
    let organization = organization("*");
    let shop = |key: &Key, expected| {
        check(key, &context("acct_member/acct_branch", unlisted.clone()), expected);
    };
    shop(&organization, "forbidden: more_permissions_required");
    let everywhere = Key { connect_permissions: "*".to_owned(), ..organization };
    shop(&everywhere, "allow on acct_branch");
    check(&everywhere, &context("acct_member", unlisted.clone()), "allow on acct_member");
    // Nobody said that it moves no money.
    let old = Key { created_at: NOW - 181 * DAY, ..secret() };
    check(&old, &unlisted, "forbidden: access_limited");
}

fn every_permission() -> String {
    let all = wardkey_policy::catalogue::Permission::all().iter();
    wardkey_policy::permission::join(all.map(|permission| permission.name()))
}

#[test]
fn sandbox_endpoints_are_not_there_in_live_mode() {
    let clocks = get("/v1/test_helpers/test_clocks");
    check(&restricted("billing_clock_read"), &clocks, "allow on acct_owner by billing_clock_read");
    check(&secret(), &clocks, "allow on acct_owner by billing_clock_read");
    for key in [live(secret()), live(restricted("billing_clock_read")), live(publishable())] {
        check(&key, &clocks, "invalid request: livemode_mismatch");
    }
    check(&live(secret()), &get(CHARGES), "allow on acct_owner by charge_read");
}

#[test]
fn every_key_may_ask_what_it_is() {
    let itself = get("/v2/iam/api_keys/self");
    for key in [secret(), restricted(""), publishable(), managed(), live(restricted(""))] {
        check(&key, &itself, "allow on acct_owner");
    }
    // Without naming an account or a version: it acts on none.
    check(&organization(""), &itself, "allow on org_home");
    check(&secret(), &context("acct_stranger", itself.clone()), "allow on acct_owner");
    let ended = Key { ends_at: Some(NOW), ..secret() };
    check(&ended, &itself, "ended: api_key_expired");
    check(&kind("unheard_of"), &itself, "forbidden: key_kind_unknown");
    let old = Key { created_at: 0, ..secret() };
    check(&old, &itself, "allow on acct_owner");
}

// What for: kinds and permissions (S11–S16, 2A).

#[test]
fn a_publishable_key_reaches_what_front_ends_call() {
    let row = |method: &str, path: &str, expected: &str| {
        check(&publishable(), &request(method, path), expected);
        check(&live(publishable()), &request(method, path), expected);
    };
    row("POST", "/v1/tokens", "allow on acct_owner by token_write");
    row("POST", "/v1/sources", "allow on acct_owner by source_write");
    row("POST", "/v1/payment_methods", "allow on acct_owner by payment_method_write");
    row(
        "POST",
        "/v1/confirmation_tokens",
        "allow on acct_owner by confirmation_token_client_write",
    );
    let with_secret =
        |permission| format!("allow on acct_owner by {permission}, client-secret required");
    row("GET", "/v1/payment_intents/pi_1", &with_secret("payment_intent_read"));
    row("POST", "/v1/payment_intents/pi_1/confirm", &with_secret("payment_intent_write"));
    row("GET", "/v1/setup_intents/seti_1", &with_secret("setup_intent_read"));
    row("POST", "/v1/setup_intents/seti_1/confirm", &with_secret("setup_intent_write"));
    row("GET", "/v1/sources/src_1", &with_secret("source_read"));
    for (method, path) in [
        ("GET", "/v1/charges"),
        ("GET", "/v1/payment_intents"),
        ("POST", "/v1/payment_intents"),
        ("POST", "/v1/payment_intents/pi_1"),
        ("POST", "/v1/payment_intents/pi_1/capture"),
        ("GET", "/v1/tokens/tok_1"),
        ("POST", "/v1/payouts"),
        ("GET", "/v1/balance"),
    ] {
        row(method, path, "forbidden: secret_key_required");
    }
    check_message(
        &publishable(),
        &get(CHARGES),
        "This API call cannot be made with a publishable API key. Please use a secret or \
         restricted API key.",
    );
}

#[test]
fn permissions_stored_with_a_publishable_key_mean_nothing() {
    let damaged = Key { permissions: "charge_read charge_write".to_owned(), ..publishable() };
    check(&damaged, &get(CHARGES), "forbidden: secret_key_required");
    let unrestricted = Key { permissions: "*".to_owned(), ..publishable() };
    check(&unrestricted, &get(CHARGES), "forbidden: secret_key_required");
    let unlisted = allow_unlisted(get("/v1/nothing"));
    check(&unrestricted, &unlisted, "forbidden: secret_key_required");
}

#[test]
fn only_a_publishable_key_is_asked_for_the_client_secret() {
    let intent = get("/v1/payment_intents/pi_1");
    check(&secret(), &intent, "allow on acct_owner by payment_intent_read");
    check(
        &restricted("payment_intent_read"),
        &intent,
        "allow on acct_owner by payment_intent_read",
    );
}

#[test]
fn a_secret_key_may_do_everything() {
    for key in [secret(), managed(), live(secret()), live(managed())] {
        check(&key, &get(CHARGES), "allow on acct_owner by charge_read");
        check(&key, &post(PAYOUTS), "allow on acct_owner by payout_write, money-movement");
        check(
            &key,
            &request("DELETE", "/v1/customers/cus_1"),
            "allow on acct_owner by customer_write",
        );
    }
}

#[test]
fn write_includes_read_and_not_the_other_way_round() {
    let read = "allow on acct_owner by charge_read";
    let write = "allow on acct_owner by charge_write";
    check(&restricted("charge_read"), &get(CHARGES), read);
    check(&restricted("charge_write"), &get(CHARGES), read);
    check(&restricted("charge_write"), &post(CHARGES), write);
    check(
        &restricted("charge_read"),
        &post(CHARGES),
        "forbidden: more_permissions_required, missing charge_write",
    );
    check(
        &restricted(""),
        &get(CHARGES),
        "forbidden: more_permissions_required, missing charge_read",
    );
    // Refunds have no permission of their own.
    check(&restricted("charge_write"), &post("/v1/refunds"), write);
}

#[test]
fn a_permission_is_compared_whole() {
    for held in ["charge", "charge_rea", "charge_reads", "acharge_read", "CHARGE_READ", "*_read"] {
        check(
            &restricted(held),
            &get(CHARGES),
            "forbidden: more_permissions_required, missing charge_read",
        );
    }
    // `*` is a word of its own, not a part of a list.
    check(
        &restricted("* payout_write"),
        &get(CHARGES),
        "forbidden: more_permissions_required, missing charge_read",
    );
    let among = restricted("application_fee_read charge_read payout_write");
    check(&among, &get(CHARGES), "allow on acct_owner by charge_read");
}

#[test]
fn what_a_permission_implies_is_one_step_deep() {
    let clocks = get("/v1/test_helpers/test_clocks");
    let allowed = "allow on acct_owner by billing_clock_read";
    check(&restricted("customer_read"), &clocks, allowed);
    check(&restricted("customer_write"), &clocks, allowed);
    check(&restricted("billing_clock_write"), &clocks, allowed);
    // `balance_transaction_source_read` implies `transfer_read`, and that
    // implies `payout_read`.
    let sources = restricted("balance_transaction_source_read");
    check(&sources, &get("/v1/transfers"), "allow on acct_owner by transfer_read");
    check(&sources, &get("/v1/balance"), "allow on acct_owner by balance_read");
    check(&sources, &get(PAYOUTS), "forbidden: more_permissions_required, missing payout_read");
    check(&restricted("transfer_read"), &get(PAYOUTS), "allow on acct_owner by payout_read");
}

#[test]
fn the_missing_permission_is_named_as_people_know_it() {
    check_message(
        &restricted("payout_read"),
        &get("/v1/checkout/sessions"),
        "The provided key 'rk_test_****1234' does not have the required permissions for this \
         endpoint on account 'acct_owner'. Enabling Checkout Sessions Read \
         ('checkout_session_read') permissions on this key would allow this request to continue.",
    );
}

#[test]
fn a_kind_made_under_another_policy_may_do_nothing() {
    for name in ["", "Secret", "secret ", "admin", "restricted\0", "*"] {
        check(&kind(name), &get(CHARGES), "forbidden: key_kind_unknown");
        check(&live(kind(name)), &post("/v1/tokens"), "forbidden: key_kind_unknown");
    }
}

// On which account: Connect (2A, 4A).

#[test]
fn connect_permissions_count_on_connected_accounts_and_nowhere_else() {
    let key = Key { connect_permissions: "charge_read".to_owned(), ..restricted("payout_read") };
    for request in [context("acct_shop", get(CHARGES)), account("acct_shop", get(CHARGES))] {
        check(&key, &request, "allow on acct_shop by charge_read");
    }
    check(
        &key,
        &context("acct_shop/acct_courier", get(CHARGES)),
        "allow on acct_courier by charge_read",
    );
    check(&key, &get(CHARGES), "forbidden: more_permissions_required, missing charge_read");
    check(&key, &get(PAYOUTS), "allow on acct_owner by payout_read");
    check(
        &key,
        &context("acct_shop", get(PAYOUTS)),
        "forbidden: more_permissions_required, missing payout_read",
    );
    // Naming itself is naming nobody else.
    for request in [context(OWNER, get(PAYOUTS)), account(OWNER, get(PAYOUTS))] {
        check(&key, &request, "allow on acct_owner by payout_read");
    }
    check(&secret(), &context("acct_shop", post(CHARGES)), "allow on acct_shop by charge_write");
}

#[test]
fn a_key_without_connect_permissions_is_told_so() {
    let key = restricted("charge_read");
    for request in [context("acct_shop", get(CHARGES)), account("acct_shop", get(CHARGES))] {
        check(&key, &request, "forbidden: more_permissions_required, missing charge_read");
        check_message(
            &key,
            &request,
            "You passed a restricted API key with the Stripe-Account or Stripe-Context header, \
             but the restricted API key does not have any Connect permissions.",
        );
    }
    // One that has some, but not this one, is told which.
    let key = Key { connect_permissions: "payout_read".to_owned(), ..key };
    check_message(
        &key,
        &context("acct_shop", get(CHARGES)),
        "The provided key 'rk_test_****1234' does not have the required permissions for this \
         endpoint on account 'acct_shop'. Enabling Charges and Refunds Read ('charge_read') \
         permissions on this key would allow this request to continue.",
    );
}

#[test]
fn an_account_that_is_not_connected_is_out_of_reach() {
    let key = Key { connect_permissions: "*".to_owned(), ..secret() };
    for named in [
        "acct_stranger",
        "acct_nobody",
        // Connected, but not to this owner.
        "acct_courier",
        "acct_far_shop",
        // Skips one, goes back, goes round.
        "acct_shop/acct_rider",
        "acct_courier/acct_shop",
        "acct_shop/acct_owner",
        "acct_shop/acct_shop",
        "acct_owner/acct_shop",
        "acct_shop/acct_nobody",
    ] {
        check(&key, &context(named, get(CHARGES)), "forbidden: account_invalid");
    }
    check(&key, &account("acct_stranger", get(CHARGES)), "forbidden: account_invalid");
    check_message(
        &key,
        &context("acct_shop/acct_rider", get(CHARGES)),
        "The provided key 'rk_test_****1234' does not have access to account 'acct_rider' (or \
         that account does not exist). Application access may have been revoked.",
    );
    // An account key goes by connections, not by membership.
    check(&key, &context("acct_twofold", get(CHARGES)), "allow on acct_twofold by charge_read");
}

#[test]
fn a_context_is_account_ids_joined_by_slashes() {
    let invalid = "invalid request: context_invalid in Stripe-Context";
    for named in [
        "",
        "/",
        "acct_shop/",
        "/acct_shop",
        "acct_shop//acct_courier",
        "shop",
        "org_home",
        "org_home/acct_member",
        " acct_shop",
        "ACCT_shop",
        "acct_shop, acct_courier",
    ] {
        // The last one starts well, and is then no account that there is.
        let expected = if named.contains(',') { "forbidden: account_invalid" } else { invalid };
        check(&secret(), &context(named, get(CHARGES)), expected);
        if !named.contains(',') {
            check(&organization("*"), &context(named, get(CHARGES)), invalid);
        }
    }
    let deep = "acct_shop/acct_courier/acct_rider/acct_bike";
    check(&secret(), &context(deep, get(CHARGES)), "allow on acct_bike by charge_read");
    let too_deep = format!("{deep}/acct_more");
    check(&secret(), &context(&too_deep, get(CHARGES)), invalid);
    let endless = "acct_a/".repeat(1000);
    check(&secret(), &context(&endless, get(CHARGES)), invalid);
}

#[test]
fn stripe_account_names_one_account() {
    let invalid = "invalid request: context_invalid in Stripe-Account";
    for named in ["", "acct_shop/acct_courier", "shop", "org_home"] {
        check(&secret(), &account(named, get(CHARGES)), invalid);
    }
}

#[test]
fn two_ways_of_naming_an_account_are_one_too_many() {
    for (one, other) in [("acct_shop", "acct_shop"), ("acct_shop", OWNER), ("", "")] {
        let both = account(one, context(other, get(CHARGES)));
        check(&secret(), &both, "invalid request: context_invalid in Stripe-Context");
        check(&organization("*"), &both, "invalid request: context_invalid in Stripe-Context");
    }
}

// On which account: organizations (S7, S15, 4A).

#[test]
fn an_organization_key_needs_a_version_and_a_context() {
    let key = organization("charge_read");
    let no_version = Request { api_version: None, ..context("acct_member", get(CHARGES)) };
    check(&key, &no_version, "invalid request: version_required in Stripe-Version");
    let empty = Request { api_version: Some(String::new()), ..no_version.clone() };
    check(&key, &empty, "invalid request: version_required in Stripe-Version");
    let no_context = Request { context: None, ..context("", get(CHARGES)) };
    check(&key, &no_context, "invalid request: context_required in Stripe-Context");
    check_message(
        &key,
        &no_context,
        "Please include the Stripe-Context header with your target account when using an \
         Organization API key.",
    );
    // The older header does not do.
    let older = account("acct_member", no_context);
    check(&key, &older, "invalid request: context_required in Stripe-Context");
    check(&key, &get(CHARGES), "invalid request: version_required in Stripe-Version");
    check(&key, &context("acct_member", get(CHARGES)), "allow on acct_member by charge_read");
}

#[test]
fn an_organization_key_reaches_its_members() {
    let key = organization("charge_read");
    check(&key, &context("acct_member", get(CHARGES)), "allow on acct_member by charge_read");
    check(&key, &context("acct_twofold", get(CHARGES)), "allow on acct_twofold by charge_read");
    for named in ["acct_stranger", "acct_owner", "acct_nobody", "acct_branch", "acct_far_shop"] {
        check(&key, &context(named, get(CHARGES)), "forbidden: account_invalid");
    }
    let live_key = live(organization("*"));
    check(
        &live_key,
        &context("acct_member", post(PAYOUTS)),
        "allow on acct_member by payout_write, money-movement",
    );
    check(
        &key,
        &context("acct_member", post(CHARGES)),
        "forbidden: more_permissions_required, missing charge_write",
    );
}

#[test]
fn an_organization_key_reaches_what_is_connected_to_its_members() {
    let key = Key { connect_permissions: "charge_read".to_owned(), ..organization("payout_read") };
    check(
        &key,
        &context("acct_member/acct_branch", get(CHARGES)),
        "allow on acct_branch by charge_read",
    );
    check(
        &key,
        &context("acct_member/acct_branch/acct_seller/acct_buyer", get(CHARGES)),
        "allow on acct_buyer by charge_read",
    );
    check(
        &key,
        &context("acct_member/acct_branch", get(PAYOUTS)),
        "forbidden: more_permissions_required, missing payout_read",
    );
    check(&key, &context("acct_member", get(PAYOUTS)), "allow on acct_member by payout_read");
    check(
        &organization("charge_read"),
        &context("acct_member/acct_branch", get(CHARGES)),
        "forbidden: more_permissions_required, missing charge_read",
    );
    for named in [
        "acct_branch/acct_member",
        "acct_member/acct_seller",
        "acct_member/acct_twofold",
        "acct_stranger/acct_far_shop",
        "acct_member/acct_member",
    ] {
        check(&key, &context(named, get(CHARGES)), "forbidden: account_invalid");
    }
}

#[test]
fn an_organization_of_the_same_name_as_an_account_is_no_account() {
    // A key whose owner happens to be spelled like the account it names.
    let key = Key { account: "acct_member".to_owned(), ..organization("charge_read") };
    check(&key, &context("acct_member", get(CHARGES)), "allow on acct_member by charge_read");
    check(&key, &context("acct_branch", get(CHARGES)), "forbidden: account_invalid");
}

// Limited access (S69–S72, S83, 2D).

/// The six calls that a limited key cannot make.
const MONEY: [(&str, &str); 6] = [
    ("/v1/payouts", "payout_write"),
    ("/v1/payouts/po_1/cancel", "payout_write"),
    ("/v1/payouts/po_1/reverse", "payout_write"),
    ("/v1/transfers", "transfer_write"),
    ("/v1/transfers/tr_1/reversals", "transfer_write"),
    ("/v1/accounts/acct_1/external_accounts", "external_account_write"),
];

#[test]
fn a_key_is_limited_once_180_days_are_over() {
    for (path, permission) in MONEY {
        let allowed = format!("allow on acct_owner by {permission}, money-movement");
        for (age, expected) in [
            (0, allowed.as_str()),
            (180 * DAY - 1, &allowed),
            (180 * DAY, &allowed),
            (180 * DAY + 1, "forbidden: access_limited"),
            (10_000 * DAY, "forbidden: access_limited"),
        ] {
            let key = Key { created_at: NOW - age, ..restricted(permission) };
            check(&key, &post(path), expected);
            check(&live(key), &post(path), expected);
        }
    }
}

#[test]
fn the_clock_runs_from_the_latest_of_made_restored_and_moved() {
    let just = NOW - 180 * DAY;
    let over = just - 1;
    let row = |created_at, restored_at, money_moved_at, limited| {
        let key = Key { created_at, restored_at, money_moved_at, ..secret() };
        let expected = match limited {
            true => "forbidden: access_limited",
            false => "allow on acct_owner by payout_write, money-movement",
        };
        check(&key, &post(PAYOUTS), expected);
    };
    row(over, None, None, true);
    row(just, None, None, false);
    row(just, Some(0), Some(0), false);
    row(over, Some(just), None, false);
    row(over, Some(just), Some(over), false);
    row(over, None, Some(just), false);
    row(over, Some(over), Some(just), false);
    row(over, Some(over), Some(over), true);
    row(0, Some(over), Some(over), true);
    row(0, Some(NOW), Some(0), false);
    // Clocks that were set wrong once: the future limits nobody.
    row(NOW + DAY, None, None, false);
    row(0, None, Some(u64::MAX), false);
}

#[test]
fn a_limited_key_does_everything_else() {
    let old = Key { created_at: 0, ..secret() };
    for (method, path) in [
        ("GET", "/v1/payouts"),
        ("GET", "/v1/payouts/po_1"),
        ("POST", "/v1/payouts/po_1"),
        ("GET", "/v1/transfers"),
        ("POST", "/v1/transfers/tr_1"),
        ("POST", "/v1/transfers/tr_1/reversals/trr_1"),
        ("GET", "/v1/accounts/acct_1/external_accounts"),
        ("POST", "/v1/charges"),
        ("POST", "/v1/refunds"),
    ] {
        let decision = decide(&request(method, path), &world(&old));
        assert!(matches!(decision, Decision::Allow(_)), "{method} {path}: {decision:?}");
    }
}

#[test]
fn what_is_missing_comes_before_what_is_limited() {
    let old = Key { created_at: 0, ..restricted("payout_read") };
    check(&old, &post(PAYOUTS), "forbidden: more_permissions_required, missing payout_write");
    let old = Key { created_at: 0, ..publishable() };
    check(&old, &post(PAYOUTS), "forbidden: secret_key_required");
    check_message(
        &Key { created_at: 0, ..secret() },
        &post(PAYOUTS),
        "Access of the provided key 'rk_test_****1234' has been limited, because it has not been \
         used to create transfers, payouts or payout destinations for over 180 days. Restore its \
         access to make this request; every other request still works.",
    );
}

// What the answer carries besides.

#[test]
fn the_template_is_named_in_grants_and_in_late_refusals() {
    let template = |decision| match decision {
        Decision::Allow(grant) => grant.endpoint,
        Decision::Deny(denial) => denial.endpoint,
    };
    let capture = post("/v1/charges/ch_1/capture");
    let named = Some("/v1/charges/:id/capture".to_owned());
    for key in [secret(), restricted("charge_read"), publishable(), kind("other")] {
        assert_eq!(template(decide(&capture, &world(&key))), named, "{key:?}");
    }
    let unlisted = get("/v1/nothing");
    assert_eq!(template(decide(&unlisted, &world(&secret()))), None);
    assert_eq!(template(decide(&allow_unlisted(unlisted), &world(&secret()))), None);
    let ended = Key { ends_at: Some(0), ..secret() };
    assert_eq!(template(decide(&capture, &world(&ended))), None, "the template came too early");
}

#[test]
fn origin_and_attributes_of_a_key_decide_nothing() {
    for origin in ["platform", "user", "", "anything"] {
        let attributes = vec![("safe-to-expose".to_owned(), "yes".to_owned())];
        let key = Key { origin: origin.to_owned(), attributes, ..restricted("charge_read") };
        check(&key, &get(CHARGES), "allow on acct_owner by charge_read");
        check(&key, &post(CHARGES), "forbidden: more_permissions_required, missing charge_write");
    }
}

#[test]
fn a_grant_is_of_the_keys_mode() {
    for mode in [Mode::Test, Mode::Live] {
        let key = Key { mode, ..secret() };
        check(&key, &get(CHARGES), "allow on acct_owner by charge_read");
    }
}
