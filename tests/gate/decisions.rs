//! Who is let through and who is not, and what each is told.

use wardkey::{
    gate::GateConfig,
    keys::{CreateAccount, CreateKey},
    secret::Secret,
    storage::Mode,
};

use super::{Ward, base64, bearer, common};
use common::{NOON, Options, TestHost};

const DAY: u64 = 24 * 60 * 60;

fn restricted() -> CreateKey {
    CreateKey {
        kind: "restricted".to_owned(),
        permissions: vec!["charge_read".to_owned()],
        ..CreateKey::default()
    }
}

/// An organization's key with these permissions, and the organization's id.
fn organization_key(host: &TestHost, permissions: &[&str], connect: &[&str]) -> (String, Secret) {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let organization = host.make_organization();
    let (_, secret) = host.key_with(CreateKey {
        account: Some(organization.clone()),
        kind: "organization".to_owned(),
        permissions: names(permissions),
        connect_permissions: names(connect),
        ..CreateKey::default()
    });
    (organization, secret)
}

/// A new account of this organization or connected to this platform.
fn account(host: &TestHost, organization: Option<&str>, platform: Option<&str>) -> String {
    host.make_account(CreateAccount {
        name: "Another".to_owned(),
        organization: organization.map(str::to_owned),
        platform: platform.map(str::to_owned),
    })
}

fn rfc3339(seconds: u64) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_second(seconds.try_into().unwrap()).ok()
}

#[test]
fn without_a_key_nobody_gets_in_and_no_code_is_told() {
    let ward = Ward::start();
    for headers in [
        &[][..],
        &[("Authorization", "")],
        &[("Authorization", "Bearer")],
        &[("Authorization", "Bearer ")],
        &[("Authorization", "Basic ")],
        &[("Authorization", &format!("Basic {}", base64(b":")))],
    ] {
        let answer = ward.check("GET /v1/charges", headers, "401");
        assert!(answer.message().starts_with("You did not provide an API key."), "{answer:?}");
    }
    assert_eq!(ward.host.host.storage_reads(), 0);
}

#[test]
fn an_unknown_key_is_told_from_an_ended_one() {
    let ward = Ward::start();
    let stranger = Secret::generate(None, "sk_test_");
    let answer = ward.check_key(&stranger, "GET /v1/charges", "401");
    assert!(answer.message().starts_with("Invalid API Key provided: sk_test_*"), "{answer:?}");

    let (_, ends) =
        ward.host.key_with(CreateKey { expires_at: rfc3339(NOON + 60), ..restricted() });
    ward.check_key(&ends, "GET /v1/charges", "200");
    ward.host.clock.set(NOON + 59);
    ward.check_key(&ends, "GET /v1/charges", "200");
    ward.host.clock.set(NOON + 60);
    let answer = ward.check_key(&ends, "GET /v1/charges", "401 api_key_expired");
    assert!(answer.message().starts_with("Expired API Key provided: rk_test_*"), "{answer:?}");
    assert!(!answer.body.contains(&ends.expose()[8..40]));
    // Whoever it belonged to learns nothing of the API with it.
    ward.check_key(&ends, "GET /v1/no_such_thing", "401 api_key_expired");
}

#[test]
fn a_malformed_key_is_told_apart_by_nothing_but_its_masked_form() {
    let ward = Ward::start();
    let reads = ward.host.host.storage_reads();
    for (text, masked) in
        [("sk_test_", "sk_test_"), ("sk_test_short", "sk_test_"), ("hunter2", "*"), ("Bearer", "*")]
    {
        let headers = [("Authorization", &*format!("Bearer {text}"))];
        let answer = ward.check("GET /v1/charges", &headers, "401");
        let told = format!("Invalid API Key provided: {masked}");
        assert!(answer.message().starts_with(&told), "{answer:?}");
    }
    assert_eq!(ward.host.host.storage_reads(), reads, "a malformed key is looked up");
}

#[test]
fn basic_authentication_is_as_good_as_bearer() {
    let ward = Ward::start();
    let (_, secret) = ward.host.key("restricted", &["charge_read"]);
    let secret = secret.expose();
    let basic = |text: String| format!("Basic {}", base64(text.as_bytes()));
    for (value, expected) in [
        (format!("Bearer {secret}"), "200"),
        (format!("bearer   {secret} "), "200"),
        (format!("BEARER {secret}"), "200"),
        (basic(format!("{secret}:")), "200"),
        (basic(format!("{secret}:whatever")), "200"),
        (basic(format!("{secret}:a:b")).replace("Basic", "bAsIc"), "200"),
        (basic(format!(":{secret}")), "401"),
        (basic(secret.to_owned()), "401 authorization_invalid"),
        (secret.to_owned(), "401 authorization_invalid"),
    ] {
        ward.check("GET /v1/charges", &[("Authorization", &value)], expected);
    }
}

#[test]
fn a_webhook_signing_secret_is_no_key_and_its_sender_is_told_so() {
    let ward = Ward::start();
    for text in [
        format!("whsec_{}", "a".repeat(32)),
        Secret::generate(None, "whsec_").expose().to_owned(),
        Secret::generate(None, "whsec_test_").expose().to_owned(),
    ] {
        let headers = [("Authorization", &*format!("Bearer {text}"))];
        let answer = ward.check("GET /v1/charges", &headers, "401");
        assert!(answer.message().contains("webhook signing secret"), "{answer:?}");
        assert!(!answer.body.contains(&text), "{answer:?}");
    }
}

#[test]
fn a_publishable_key_reaches_what_front_ends_need_and_nothing_else() {
    let ward = Ward::start();
    let secret = ward.host.default_secret("publishable", Mode::Test);
    for (request, expected) in [
        ("POST /v1/tokens", "200"),
        ("POST /v1/payment_methods", "200"),
        ("GET /v1/payment_intents/pi_1", "200"),
        ("GET /v1/payment_intents", "403 secret_key_required"),
        ("POST /v1/payment_intents", "403 secret_key_required"),
        ("POST /v1/payment_intents/pi_1/cancel", "403 secret_key_required"),
        ("GET /v1/charges", "403 secret_key_required"),
        ("POST /v1/payouts", "403 secret_key_required"),
        ("GET /v1/no_such_thing", "404"),
    ] {
        ward.check_key(&secret, request, expected);
    }
    // The API behind the gate is told what it has to check.
    ward.check_key(&secret, "GET /v1/payment_intents/pi_1", "200");
    assert_eq!(ward.api.last().header("wardkey-client-secret"), "required");
    ward.check_key(&secret, "POST /v1/tokens", "200");
    assert!(!ward.api.last().has("wardkey-client-secret"));
}

#[test]
fn what_is_missing_is_named() {
    let ward = Ward::start();
    let (_, charges) = ward.host.key("restricted", &["charge_read"]);
    let (_, nothing) = ward.host.key("restricted", &[]);
    let (_, write) = ward.host.key("restricted", &["charge_write"]);
    for (secret, request, missing) in [
        (&charges, "GET /v1/charges", ""),
        (&charges, "GET /v1/charges/ch_1", ""),
        (&charges, "GET /v1/charges/search?query=x", ""),
        (&charges, "POST /v1/charges", "charge_write"),
        (&charges, "GET /v1/payouts", "payout_read"),
        (&charges, "POST /v1/transfers/tr_1/reversals", "transfer_write"),
        (&charges, "DELETE /v1/customers/cus_1", "customer_write"),
        (&nothing, "GET /v1/charges", "charge_read"),
        (&write, "GET /v1/charges", ""),
        (&write, "POST /v1/charges", ""),
        (&write, "GET /v1/refunds", ""),
        (&write, "GET /v1/customers", "customer_read"),
    ] {
        let expected = if missing.is_empty() { "200" } else { "403 more_permissions_required" };
        let answer = ward.check_key(secret, request, expected);
        if !missing.is_empty() {
            let error = &answer.json()["error"];
            assert_eq!(error["missing_permissions"], serde_json::json!([missing]), "{request}");
            assert!(answer.message().contains(&format!("('{missing}')")), "{answer:?}");
        }
    }
}

#[test]
fn an_address_that_is_not_on_the_list_is_told_which_it_is() {
    let ward = Ward::start();
    let with = |list: &[&str]| {
        let ip_allowlist = list.iter().map(|&entry| entry.to_owned()).collect();
        ward.host.key_with(CreateKey { ip_allowlist, ..restricted() }).1
    };
    for (list, expected) in [
        (&[][..], "200"),
        (&["127.0.0.1"], "200"),
        (&["127.0.0.0/8"], "200"),
        (&["192.0.2.1", "127.0.0.1"], "200"),
        (&["192.0.2.1"], "403 ip_not_allowed"),
        (&["127.0.0.2"], "403 ip_not_allowed"),
    ] {
        let secret = with(list);
        let answer = ward.check_key(&secret, "GET /v1/charges", expected);
        assert_eq!(answer.message().contains("(127.0.0.1)"), expected != "200");
        // Nobody is trusted to say where a request comes from.
        let claims = [("Authorization", &*bearer(&secret)), ("X-Forwarded-For", "192.0.2.1")];
        ward.check("GET /v1/charges", &claims, expected);
    }
}

#[test]
fn a_forwarded_address_counts_only_from_who_is_trusted() {
    let gate = |trusted: &str| GateConfig {
        trusted_proxies: vec![trusted.parse().unwrap()],
        ..Options::default().gate
    };
    for (trusted, forwarded, expected, seen) in [
        ("127.0.0.0/8", "192.0.2.1", "200", "192.0.2.1"),
        ("127.0.0.0/8", "10.9.9.9, 192.0.2.1", "200", "192.0.2.1"),
        ("127.0.0.0/8", "192.0.2.1, 10.9.9.9", "403 ip_not_allowed", ""),
        ("127.0.0.0/8", "192.0.2.1, nonsense", "403 ip_not_allowed", ""),
        ("127.0.0.0/8", "", "403 ip_not_allowed", ""),
        ("10.0.0.0/8", "192.0.2.1", "403 ip_not_allowed", ""),
    ] {
        let ward = Ward::start_with(Options { gate: gate(trusted), ..Options::default() });
        let ip_allowlist = vec!["192.0.2.1".to_owned()];
        let (_, secret) = ward.host.key_with(CreateKey { ip_allowlist, ..restricted() });
        let headers = [("Authorization", &*bearer(&secret)), ("X-Forwarded-For", forwarded)];
        ward.check("GET /v1/charges", &headers, expected);
        if expected == "200" {
            assert_eq!(ward.api.last().header("x-forwarded-for"), seen);
        }
    }
}

#[test]
fn an_organization_key_says_for_whom_and_in_which_version() {
    let ward = Ward::start();
    let host = &ward.host;
    let (organization, secret) = organization_key(host, &["charge_read"], &["charge_read"]);
    let member = account(host, Some(&organization), None);
    let connected = account(host, None, Some(&member));
    let nested = account(host, None, Some(&connected));
    let stranger = account(host, None, None);
    let auth = bearer(&secret);
    let version = ("Stripe-Version", "2026-06-24.dahlia");

    let check = |context: &str, expected: &str| {
        let headers = [("Authorization", &*auth), version, ("Stripe-Context", context)];
        let answer = ward.check("GET /v1/charges", &headers, expected);
        if answer.status == 200 {
            let target = context.rsplit('/').next().unwrap();
            assert_eq!(ward.api.last().header("wardkey-account"), target);
        }
        answer
    };
    check(&member, "200");
    check(&format!("{member}/{connected}"), "200");
    check(&format!("{member}/{connected}/{nested}"), "200");
    for context in [
        &stranger,
        &connected,
        &format!("{member}/{stranger}"),
        &format!("{member}/{nested}"),
        &format!("{stranger}/{member}"),
        &format!("{member}/{member}"),
        "acct_missing",
    ] {
        let answer = check(context, "403 account_invalid");
        assert!(answer.message().contains("does not have access to account"), "{answer:?}");
    }
    for context in [
        &organization,
        "cus_1",
        "/",
        &format!("{member}/"),
        &format!("{member}//{connected}"),
        &format!("/{member}"),
        &[&*member; 5].join("/"),
        "*",
    ] {
        check(context, "400 context_invalid");
    }

    let auth = ("Authorization", &*auth);
    let named = ("Stripe-Context", &*member);
    for (headers, expected, param) in [
        (&[auth, version][..], "400 context_required", "Stripe-Context"),
        (&[auth, version, ("Stripe-Account", &member)], "400 context_required", "Stripe-Context"),
        (&[auth, named], "400 version_required", "Stripe-Version"),
        (&[auth, named, ("Stripe-Version", "")], "400 version_required", "Stripe-Version"),
        (&[auth], "400 version_required", "Stripe-Version"),
        (
            &[auth, version, named, ("Stripe-Account", &member)],
            "400 context_invalid",
            "Stripe-Context",
        ),
    ] {
        let answer = ward.check("GET /v1/charges", headers, expected);
        assert_eq!(answer.json()["error"]["param"], param, "{answer:?}");
    }
    // What it may do on members is one list, on their connected accounts another.
    let (organization, own_only) = organization_key(host, &["charge_read"], &[]);
    let member = account(host, Some(&organization), None);
    let connected = account(host, None, Some(&member));
    for (context, expected) in [
        (member.clone(), "200"),
        (format!("{member}/{connected}"), "403 more_permissions_required"),
    ] {
        let headers =
            [("Authorization", &*bearer(&own_only)), version, ("Stripe-Context", &context)];
        ward.check("GET /v1/charges", &headers, expected);
    }
}

#[test]
fn a_platform_key_acts_on_accounts_connected_to_it() {
    let ward = Ward::start();
    let host = &ward.host;
    let own = host.account.clone();
    let connected = account(host, None, Some(&own));
    let nested = account(host, None, Some(&connected));
    let stranger = account(host, None, None);
    let secret = host.default_secret("secret", Mode::Test);
    let (_, no_connect) = host.key("restricted", &["charge_read"]);
    let (_, connect) = host.key_with(CreateKey {
        permissions: Vec::new(),
        connect_permissions: vec!["charge_read".to_owned()],
        ..restricted()
    });
    for (secret, header, named, expected) in [
        (&secret, "Stripe-Account", connected.clone(), "200"),
        (&secret, "Stripe-Context", connected.clone(), "200"),
        (&secret, "Stripe-Context", format!("{connected}/{nested}"), "200"),
        (&secret, "Stripe-Account", format!("{connected}/{nested}"), "400 context_invalid"),
        (&secret, "Stripe-Account", nested, "403 account_invalid"),
        (&secret, "Stripe-Account", stranger, "403 account_invalid"),
        (&secret, "Stripe-Account", own.clone(), "200"),
        (&secret, "Stripe-Account", "me".to_owned(), "400 context_invalid"),
        (&secret, "Stripe-Account", String::new(), "400 context_invalid"),
        (&no_connect, "Stripe-Account", connected.clone(), "403 more_permissions_required"),
        (&no_connect, "Stripe-Account", own.clone(), "200"),
        (&connect, "Stripe-Account", connected.clone(), "200"),
        (&connect, "Stripe-Account", own.clone(), "403 more_permissions_required"),
    ] {
        let headers = [("Authorization", &*bearer(secret)), (header, &*named)];
        let answer = ward.check("GET /v1/charges", &headers, expected);
        if answer.status == 200 {
            let target = named.rsplit('/').next().unwrap();
            assert_eq!(ward.api.last().header("wardkey-account"), target);
        }
    }
    let auth = bearer(&secret);
    let auth = ("Authorization", &*auth);
    let account = ("Stripe-Account", &*connected);
    let context = ("Stripe-Context", &*connected);
    ward.check("GET /v1/charges", &[auth, account, context], "400 context_invalid");
    ward.check("GET /v1/charges", &[auth, account, account], "400 parameter_invalid");
    ward.check("GET /v1/charges", &[auth, account, ("Stripe-Account", &own)], {
        "400 parameter_invalid"
    });
    let long = "acct_".repeat(100);
    ward.check("GET /v1/charges", &[auth, ("Stripe-Context", &long)], "400 parameter_invalid");
    ward.check("GET /v1/charges", &[auth, ("Stripe-Account", "acct_é")], "400 parameter_invalid");
}

#[test]
fn what_exists_in_test_mode_only_is_not_for_live_keys() {
    let ward = Ward::start();
    let test = ward.host.default_secret("secret", Mode::Test);
    let live = ward.host.default_secret("secret", Mode::Live);
    let clocks = "GET /v1/test_helpers/test_clocks";
    ward.check_key(&test, clocks, "200");
    ward.check_key(&live, clocks, "400 livemode_mismatch");
    ward.check_key(&live, "GET /v1/charges", "200");
    assert_eq!(ward.api.last().header("wardkey-mode"), "live");
}

#[test]
fn endpoints_that_nobody_described_are_refused_unless_the_operator_allows_them() {
    let unlisted = [
        "GET /v1/no_such_thing",
        "DELETE /v1/charges",
        "PATCH /v1/charges",
        "POST /v1/charges/search",
        "GET /v1/charges/",
        "GET /v1/Charges",
        "GET /v1/",
    ];
    let ward = Ward::start();
    let secret = ward.host.default_secret("secret", Mode::Test);
    for request in unlisted {
        ward.check_key(&secret, request, "404");
    }
    // Outside of its prefix the gate serves nothing.
    for request in ["GET /", "GET /v2/charges", "GET /v1", "GET /v10/charges", "GET /metrics"] {
        ward.check_key(&secret, request, "404");
    }

    let gate = GateConfig { allow_unlisted: true, ..Options::default().gate };
    let ward = Ward::start_with(Options { gate, ..Options::default() });
    let host = &ward.host;
    let unlimited = host.default_secret("secret", Mode::Test);
    let publishable = host.default_secret("publishable", Mode::Test);
    let (_, limited) = host.key("restricted", &["charge_write", "payout_write"]);
    for request in unlisted {
        ward.check_key(&unlimited, request, "200");
        ward.check_key(&limited, request, "403 more_permissions_required");
        ward.check_key(&publishable, request, "403 more_permissions_required");
    }
    ward.check_key(&unlimited, "GET /v2/charges", "404");
    ward.check_key(&limited, "GET /v1/charges", "200");
    // What nobody described may move money: not for a key of limited access.
    host.clock.set(NOON + 180 * DAY + 1);
    ward.check_key(&unlimited, unlisted[0], "403 access_limited");
    ward.check_key(&unlimited, "GET /v1/charges", "200");
}

#[test]
fn every_kind_of_key_learns_what_it_is() {
    let ward = Ward::start();
    let host = &ward.host;
    let (organization, org_key) = organization_key(host, &[], &[]);
    let ends = host.key_with(CreateKey { expires_at: rfc3339(NOON + 60), ..restricted() });
    let made = |kind: &str| host.key(kind, &[]).1;
    for (secret, kind, owner) in [
        (made("secret"), "secret", &host.account),
        (made("restricted"), "restricted", &host.account),
        (made("publishable"), "publishable", &host.account),
        (made("managed"), "managed", &host.account),
        (org_key, "organization", &organization),
        (host.default_secret("secret", Mode::Live), "secret", &host.account),
        (host.default_secret("publishable", Mode::Live), "publishable", &host.account),
        (ends.1, "restricted", &host.account),
    ] {
        let answer = host.call("GET", "/v2/iam/api_keys/self", secret.expose());
        assert_eq!(answer.status, 200, "{kind}: {answer:?}");
        let about = answer.json();
        assert_eq!(about["kind"], kind);
        assert_eq!(about["account"], **owner);
        assert_eq!(about["status"], "active");
        assert_eq!(about["livemode"], secret.expose().contains("_live_"));
        assert!(answer.headers["request-id"].starts_with("req_"));
        // Of a key that may stand in front-end code there is nothing to hide.
        let is_told = answer.body.contains(secret.expose());
        assert_eq!(is_told, kind == "publishable", "a key is told its secret");
    }
    assert_eq!(ward.api.count(), 0, "the route is the host's own");
    let stranger = Secret::generate(None, "sk_test_");
    ward.check_key(&stranger, "GET /v2/iam/api_keys/self", "401");
    let secret = host.default_secret("secret", Mode::Test);
    ward.check_key(&secret, "POST /v2/iam/api_keys/self", "404");
    ward.check_key(&secret, "GET /v2/iam/api_keys/self/", "404");
    ward.check_key(&secret, "GET /v2/iam/api_keys", "404");
}

#[test]
fn within_seven_days_of_its_end_a_keys_callers_are_told() {
    let ward = Ward::start();
    let end = NOON + 10 * DAY;
    let (_, secret) = ward.host.key_with(CreateKey { expires_at: rfc3339(end), ..restricted() });
    for (now, notice) in [
        (end - 7 * DAY - 1, ""),
        (end - 7 * DAY, "This API key stops working in 168 h. Use its replacement."),
        (end - 60 * 60, "This API key stops working in 1 h. Use its replacement."),
        (end - 1, "This API key stops working in 1 h. Use its replacement."),
    ] {
        ward.host.clock.set(now);
        let answer = ward.check_key(&secret, "GET /v1/charges", "200");
        let told = answer.headers.get("stripe-notice").map_or("", String::as_str);
        assert_eq!(told, notice);
    }
}

#[test]
fn the_version_is_echoed_on_every_answer() {
    let ward = Ward::start();
    let (_, secret) = ward.host.key("restricted", &["charge_read"]);
    let auth = bearer(&secret);
    for (request, auth, expected) in [
        ("GET /v1/charges", &*auth, "200"),
        ("GET /v1/payouts", &auth, "403 more_permissions_required"),
        ("GET /v1/charges", "", "401"),
        ("GET /v1//charges", &auth, "400 path_invalid"),
    ] {
        let headers = [("Authorization", auth), ("Stripe-Version", "2026-06-24.dahlia")];
        let answer = ward.check(request, &headers, expected);
        assert_eq!(answer.headers["stripe-version"], "2026-06-24.dahlia", "{answer:?}");
        assert_eq!(answer.headers.keys().filter(|name| *name == "stripe-version").count(), 1);
        let answer = ward.check(request, &headers[..1], expected);
        assert!(!answer.headers.contains_key("stripe-version"), "{answer:?}");
    }
}

#[test]
fn a_branded_host_takes_its_own_keys_only() {
    let gate = GateConfig { brand: Some("acme".parse().unwrap()), ..Options::default().gate };
    let ward = Ward::start_with(Options { gate, ..Options::default() });
    let (_, secret) = ward.host.key("secret", &[]);
    assert!(secret.expose().starts_with("acme_sk_test_"), "another start");
    ward.check_key(&secret, "GET /v1/charges", "200");
    let other = Secret::generate(Some(&"other".parse().unwrap()), "sk_test_");
    let plain = Secret::generate(None, "sk_test_");
    let cut = Secret::from_string(secret.expose()["acme_".len()..].to_owned());
    for secret in [other, plain, cut] {
        ward.check_key(&secret, "GET /v1/charges", "401");
    }
}
