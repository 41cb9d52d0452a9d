//! Making keys: which a new account gets, and who may ask for what.

use wardkey_policy::{
    contract::{
        Denial, Key, Mode,
        lifecycle::{Caller, KeyPlan, KeyRequest},
    },
    lifecycle::{MAX_NAME_CHARS, MAX_NOTE_CHARS},
    network::MAX_NETWORKS,
};

use crate::{
    both::{
        describe_denial,
        lifecycle::{create, default_keys, import_key},
    },
    rows::{DAY, NOW, ORGANIZATION, OWNER, display, nets, organization},
};

/// A test key of that kind, asked for in the plainest way.
fn asking(kind: &str) -> KeyRequest {
    KeyRequest {
        account: if kind == "organization" { ORGANIZATION } else { OWNER }.to_owned(),
        mode: Mode::Test,
        kind: kind.to_owned(),
        name: "a key".to_owned(),
        note: String::new(),
        permissions: String::new(),
        connect_permissions: String::new(),
        ip_allowlist: String::new(),
        ends_at: None,
    }
}

fn with(permissions: &str, request: KeyRequest) -> KeyRequest {
    KeyRequest { permissions: permissions.to_owned(), ..request }
}

fn live(request: KeyRequest) -> KeyRequest {
    KeyRequest { mode: Mode::Live, ..request }
}

/// A key of the owner that asks.
fn held(kind: &str, permissions: &str) -> Key {
    Key {
        permissions: permissions.to_owned(),
        connect_permissions: if permissions == "*" { "*" } else { "" }.to_owned(),
        ..crate::rows::kind(kind)
    }
}

/// The one place that asks.
#[track_caller]
fn check(caller: &Caller, request: &KeyRequest, expected: &str) {
    assert_eq!(describe(&create(caller, request, NOW)), expected, "{caller:?}: {request:?}");
}

fn describe(answer: &Result<KeyPlan, Denial>) -> String {
    let KeyPlan { prefix, origin, permissions, connect_permissions, ipv4_nets, revealable, .. } =
        match answer {
            Ok(plan) => plan,
            Err(denial) => return describe_denial(denial),
        };
    let mut text = format!("{prefix} by {origin}");
    for (name, value) in [
        ("may", permissions.as_str()),
        ("connected may", connect_permissions),
        ("from", &display(ipv4_nets)),
        ("", if *revealable { "revealable" } else { "shown once" }),
    ] {
        if !value.is_empty() {
            text.push_str(&format!(", {name} {value}").replace(",  ", ", "));
        }
    }
    text
}

// Default keys (S8, S9, S20, S34, S37).

#[test]
fn a_new_account_has_six_keys() {
    let plans = default_keys(OWNER);
    let made: Vec<_> = plans
        .iter()
        .map(|plan| (plan.prefix.as_str(), plan.kind.as_str(), plan.permissions.as_str()))
        .collect();
    assert_eq!(
        made,
        [
            ("pk_test_", "publishable", ""),
            ("sk_test_", "secret", "*"),
            ("rk_test_", "restricted", ""),
            ("pk_live_", "publishable", ""),
            ("sk_live_", "secret", "*"),
            ("rk_live_", "restricted", ""),
        ]
    );
    for plan in &plans {
        assert_eq!((plan.account.as_str(), plan.origin.as_str()), (OWNER, "platform"));
        assert!(plan.revealable, "no person has seen it yet: {plan:?}");
        assert!(plan.ends_at.is_none() && plan.ipv4_nets.is_empty(), "{plan:?}");
        assert!(!plan.name.is_empty() && plan.note.is_empty(), "{plan:?}");
        assert_eq!(plan.connect_permissions, plan.permissions);
        let exposable = plan
            .attributes
            .iter()
            .any(|(name, value)| (name.as_str(), value.as_str()) == ("safe-to-expose", "yes"));
        assert_eq!(exposable, plan.kind == "publishable", "{plan:?}");
    }
}

// Kinds (S5–S7, S13–S16).

#[test]
fn each_kind_has_its_prefix_and_its_permissions() {
    for (kind, test, in_live) in [
        ("publishable", "pk_test_ by user, revealable", "pk_live_ by user, revealable"),
        (
            "secret",
            "sk_test_ by user, may *, connected may *, revealable",
            "sk_live_ by user, may *, connected may *, shown once",
        ),
        ("restricted", "rk_test_ by user, revealable", "rk_live_ by user, shown once"),
        ("organization", "sk_org_test_ by user, revealable", "sk_org_live_ by user, shown once"),
        (
            "managed",
            "sk_test_ by user, may *, connected may *, shown once",
            "sk_live_ by user, may *, connected may *, shown once",
        ),
    ] {
        check(&Caller::Operator, &asking(kind), test);
        check(&Caller::Operator, &live(asking(kind)), in_live);
    }
    for kind in ["", "Secret", "secret ", "admin", "sk_live_"] {
        check(&Caller::Operator, &asking(kind), "invalid request: parameter_invalid in kind");
    }
}

#[test]
fn what_the_host_makes_by_itself_can_be_revealed_later() {
    check(
        &Caller::Platform,
        &live(asking("secret")),
        "sk_live_ by platform, may *, connected may *, revealable",
    );
    check(&Caller::Platform, &live(asking("restricted")), "rk_live_ by platform, revealable");
    check(
        &Caller::Platform,
        &live(asking("managed")),
        "sk_live_ by platform, may *, connected may *, shown once",
    );
}

#[test]
fn organizations_have_organization_keys_and_accounts_have_the_others() {
    let invalid = "invalid request: parameter_invalid in account";
    for kind in ["publishable", "secret", "restricted", "managed"] {
        let request = KeyRequest { account: ORGANIZATION.to_owned(), ..asking(kind) };
        check(&Caller::Operator, &request, invalid);
    }
    let request = KeyRequest { account: OWNER.to_owned(), ..asking("organization") };
    check(&Caller::Operator, &request, invalid);
}

/// Which of permissions, addresses and an end a kind can be given
/// (S14, S42, S53, S76, S79).
#[test]
fn kinds_and_what_can_be_chosen_for_them() {
    for (kind, permissions, everything, addresses, end) in [
        ("publishable", false, false, false, false),
        ("secret", false, true, true, true),
        ("restricted", true, false, true, true),
        ("organization", true, true, true, true),
        ("managed", false, true, false, true),
    ] {
        let invalid = |param| format!("invalid request: parameter_invalid in {param}");
        #[track_caller]
        fn row(request: &KeyRequest, possible: bool, refusal: &str) {
            let answer = describe(&create(&Caller::Operator, request, NOW));
            if possible {
                assert!(!answer.contains("invalid"), "{request:?}: {answer}");
            } else {
                assert_eq!(answer, refusal, "{request:?}");
            }
        }
        for mode in [Mode::Test, Mode::Live] {
            let plain = KeyRequest { mode, ..asking(kind) };
            row(&plain, true, "");
            row(&with("charge_read", plain.clone()), permissions, &invalid("permissions"));
            row(&with("*", plain.clone()), everything, &invalid("permissions"));
            row(&with("* charge_read", plain.clone()), false, &invalid("permissions"));
            let connect = KeyRequest { connect_permissions: "charge_read".into(), ..plain.clone() };
            row(&connect, permissions, &invalid("connect_permissions"));
            let connect = KeyRequest { connect_permissions: "*".into(), ..plain.clone() };
            row(&connect, everything, &invalid("connect_permissions"));
            let limited = KeyRequest { ip_allowlist: "192.0.2.7".into(), ..plain.clone() };
            row(&limited, addresses, &invalid("ip_allowlist"));
            let ending = KeyRequest { ends_at: Some(NOW + 1), ..plain.clone() };
            row(&ending, end, &invalid("expires_at"));
        }
    }
}

// Fields.

#[test]
fn permissions_are_sorted_and_said_once() {
    let row = |asked: &str, kept: &str| {
        let expected = format!("rk_test_ by user, may {kept}, revealable");
        check(&Caller::Operator, &with(asked, asking("restricted")), &expected);
        let connect = KeyRequest { connect_permissions: asked.to_owned(), ..asking("restricted") };
        let expected = format!("rk_test_ by user, connected may {kept}, revealable");
        check(&Caller::Operator, &connect, &expected);
    };
    row("charge_read", "charge_read");
    row("payout_write charge_read", "charge_read payout_write");
    row("charge_read charge_read", "charge_read");
    row("  charge_read\n\tcharge_write  charge_read ", "charge_read charge_write");
}

#[test]
fn unknown_permissions_are_all_named() {
    let request = with("charge_read nope payout_wriet charge_read", asking("restricted"));
    check(&Caller::Operator, &request, "invalid request: parameter_invalid in permissions");
    let message = create(&Caller::Operator, &request, NOW).unwrap_err().message;
    assert_eq!(message, "There is no such permission: nope, payout_wriet.");
    let request =
        KeyRequest { connect_permissions: "rak_charge_read".to_owned(), ..asking("organization") };
    check(&Caller::Operator, &request, "invalid request: parameter_invalid in connect_permissions");
}

#[test]
fn an_address_list_holds_ipv4_and_nothing_else() {
    let row = |list: &str, expected: &str| {
        let request = KeyRequest { ip_allowlist: list.to_owned(), ..asking("restricted") };
        check(&Caller::Operator, &request, expected);
    };
    let invalid = "invalid request: parameter_invalid in ip_allowlist";
    row("", "rk_test_ by user, revealable");
    row("192.0.2.7", "rk_test_ by user, from 192.0.2.7/32, revealable");
    row("100.10.38.0/24", "rk_test_ by user, from 100.10.38.0/24, revealable");
    row("0.0.0.0/0", "rk_test_ by user, from 0.0.0.0/0, revealable");
    row("192.0.2.7 192.0.2.7/32", "rk_test_ by user, from 192.0.2.7/32, revealable");
    row(
        "198.51.100.0/24 192.0.2.7",
        "rk_test_ by user, from 198.51.100.0/24 192.0.2.7/32, revealable",
    );
    for list in [
        "2001:db8::/32",
        "::1",
        "::ffff:192.0.2.7",
        "100.10.38.1/24",
        "192.0.2.7/33",
        "192.0.2.7/",
        "192.0.2",
        "192.0.2.7,192.0.2.8",
        "localhost",
        "192.0.2.7 nonsense",
    ] {
        row(list, invalid);
    }
    let many = |count: usize| {
        (0..count).map(|n| format!("10.0.{}.{}", n / 256, n % 256)).collect::<Vec<_>>().join(" ")
    };
    let full = KeyRequest { ip_allowlist: many(MAX_NETWORKS), ..asking("restricted") };
    let plan = create(&Caller::Operator, &full, NOW).unwrap();
    assert_eq!(plan.ipv4_nets.len(), MAX_NETWORKS);
    row(&many(MAX_NETWORKS + 1), invalid);
    // Repeats do not count.
    row(&"192.0.2.7 ".repeat(MAX_NETWORKS + 1), "rk_test_ by user, from 192.0.2.7/32, revealable");
}

#[test]
fn an_end_lies_ahead() {
    let row = |ends_at, expected: &str| {
        let request = KeyRequest { ends_at: Some(ends_at), ..asking("restricted") };
        check(&Caller::Operator, &request, expected);
    };
    for passed in [0, NOW - 1, NOW] {
        row(passed, "invalid request: parameter_invalid in expires_at");
    }
    for ahead in [NOW + 1, u64::MAX] {
        row(ahead, "rk_test_ by user, revealable");
        let request = KeyRequest { ends_at: Some(ahead), ..asking("restricted") };
        assert_eq!(create(&Caller::Operator, &request, NOW).unwrap().ends_at, Some(ahead));
    }
}

#[test]
fn names_and_notes_are_short_and_plain() {
    let row = |name: &str, note: &str, expected: &str| {
        let (name, note) = (name.to_owned(), note.to_owned());
        check(&Caller::Operator, &KeyRequest { name, note, ..asking("restricted") }, expected);
    };
    let made = "rk_test_ by user, revealable";
    row("", "", "invalid request: parameter_missing in name");
    row("   ", "", "invalid request: parameter_missing in name");
    // Characters are counted, not bytes.
    row(&"é".repeat(MAX_NAME_CHARS), &"é".repeat(MAX_NOTE_CHARS), made);
    let too_long = "invalid request: parameter_invalid in";
    row(&"n".repeat(MAX_NAME_CHARS + 1), "", &format!("{too_long} name"));
    row("n", &"n".repeat(MAX_NOTE_CHARS + 1), &format!("{too_long} note"));
    for control in ["a\nb", "a\u{0}b", "\u{1b}[31m", "a\u{85}b"] {
        row(control, "", &format!("{too_long} name"));
        row("n", control, &format!("{too_long} note"));
    }
    let request = KeyRequest { name: "  Büro 🔑 ".to_owned(), ..asking("restricted") };
    assert_eq!(create(&Caller::Operator, &request, NOW).unwrap().name, "Büro 🔑");
}

// Keys that ask for keys: never more than they hold.

#[test]
fn a_key_needs_the_permission_to_make_keys() {
    let needed = "forbidden: more_permissions_required, missing api_key_write";
    for (kind, permissions, expected) in [
        ("secret", "*", "rk_test_ by user, revealable"),
        ("restricted", "api_key_write", "rk_test_ by user, revealable"),
        ("restricted", "charge_write", needed),
        ("restricted", "", needed),
        ("restricted", "api_key_read", needed),
        ("publishable", "", "forbidden: secret_key_required"),
        ("publishable", "*", "forbidden: secret_key_required"),
        ("publishable", "api_key_write", "forbidden: secret_key_required"),
        ("foreign", "*", "forbidden: key_kind_unknown"),
    ] {
        check(&Caller::Key(held(kind, permissions)), &asking("restricted"), expected);
    }
}

#[test]
fn a_key_makes_keys_of_its_own_account_and_mode() {
    let scope = "forbidden: key_scope";
    let caller = Caller::Key(held("secret", "*"));
    let elsewhere = KeyRequest { account: "acct_shop".to_owned(), ..asking("restricted") };
    check(&caller, &elsewhere, &format!("{scope} in account"));
    check(&caller, &live(asking("restricted")), &format!("{scope} in livemode"));
    check(&caller, &asking("organization"), &format!("{scope} in account"));
    let live_caller = Caller::Key(Key { mode: Mode::Live, ..held("secret", "*") });
    check(&live_caller, &asking("restricted"), &format!("{scope} in livemode"));
    // An organization's key makes none at all, for itself neither.
    check(&Caller::Key(organization("*")), &asking("restricted"), scope);
    check(&Caller::Key(organization("*")), &asking("organization"), scope);
    check(&live_caller, &live(asking("restricted")), "rk_live_ by user, shown once");
}

#[test]
fn a_key_gives_no_more_than_it_holds() {
    let caller = Caller::Key(held("restricted", "api_key_write charge_write customer_read"));
    let row = |asked: &str, expected: &str| {
        check(&caller, &with(asked, asking("restricted")), expected);
    };
    row("", "rk_test_ by user, revealable");
    row("charge_write", "rk_test_ by user, may charge_write, revealable");
    row("charge_read", "rk_test_ by user, may charge_read, revealable");
    row("billing_clock_read", "rk_test_ by user, may billing_clock_read, revealable");
    row("api_key_write", "rk_test_ by user, may api_key_write, revealable");
    row(
        "charge_read payout_write customer_write",
        "forbidden: more_permissions_required, missing customer_write payout_write",
    );
    let connect =
        KeyRequest { connect_permissions: "payout_read".to_owned(), ..asking("restricted") };
    check(&caller, &connect, "forbidden: more_permissions_required, missing payout_read");
    // What it may do itself is not what it may do on connected accounts.
    let connect =
        KeyRequest { connect_permissions: "charge_read".to_owned(), ..asking("restricted") };
    check(&caller, &connect, "forbidden: more_permissions_required, missing charge_read");
    let connected = Caller::Key(Key {
        connect_permissions: "charge_write".to_owned(),
        ..held("restricted", "api_key_write")
    });
    check(&connected, &connect, "rk_test_ by user, connected may charge_read, revealable");
    check(
        &connected,
        &with("charge_read", connect),
        "forbidden: more_permissions_required, missing charge_read",
    );
    // A key without limits is more than any list.
    check(&caller, &asking("secret"), "forbidden: more_permissions_required, missing *");
    check(&caller, &asking("managed"), "forbidden: operator_required");
    check(&caller, &asking("publishable"), "pk_test_ by user, revealable");
    let all = Caller::Key(held("secret", "*"));
    check(&all, &asking("secret"), "sk_test_ by user, may *, connected may *, revealable");
    check(&all, &asking("managed"), "forbidden: operator_required");
}

#[test]
fn in_live_mode_no_key_makes_a_key_without_limits() {
    let caller = Caller::Key(Key { mode: Mode::Live, ..held("secret", "*") });
    check(&caller, &live(asking("secret")), "forbidden: operator_required");
    check(&caller, &live(asking("managed")), "forbidden: operator_required");
    check(
        &Caller::Operator,
        &live(asking("secret")),
        "sk_live_ by user, may *, connected may *, shown once",
    );
}

#[test]
fn what_a_key_makes_is_limited_to_its_own_networks() {
    let caller = Caller::Key(Key {
        ipv4_nets: nets("192.0.2.0/24 198.51.100.7"),
        ..held("restricted", "api_key_write")
    });
    let row = |list: &str, expected: &str| {
        check(
            &caller,
            &KeyRequest { ip_allowlist: list.to_owned(), ..asking("restricted") },
            expected,
        );
    };
    let beyond = "forbidden: ip_beyond_own in ip_allowlist";
    row("192.0.2.7", "rk_test_ by user, from 192.0.2.7/32, revealable");
    row("192.0.2.0/24", "rk_test_ by user, from 192.0.2.0/24, revealable");
    row("198.51.100.7", "rk_test_ by user, from 198.51.100.7/32, revealable");
    row("", beyond);
    row("0.0.0.0/0", beyond);
    row("192.0.2.0/23", beyond);
    row("192.0.2.7 203.0.113.1", beyond);
    // Cannot be limited, and so cannot be made.
    check(&caller, &asking("publishable"), beyond);
}

#[test]
fn what_a_key_makes_ends_no_later_than_it_does() {
    let caller =
        Caller::Key(Key { ends_at: Some(NOW + DAY), ..held("restricted", "api_key_write") });
    let row = |ends_at: Option<u64>, expected: &str| {
        check(&caller, &KeyRequest { ends_at, ..asking("restricted") }, expected);
    };
    row(Some(NOW + 1), "rk_test_ by user, revealable");
    row(Some(NOW + DAY), "rk_test_ by user, revealable");
    row(Some(NOW + DAY + 1), "forbidden: expiry_beyond_own in expires_at");
    row(None, "forbidden: expiry_beyond_own in expires_at");
    check(&caller, &asking("publishable"), "forbidden: expiry_beyond_own in expires_at");
}

/// Otherwise the way around limited access would be a new key (S70).
#[test]
fn a_key_with_limited_access_makes_nothing_that_moves_money() {
    let row = |made_days_ago: u64, asked: &str, expected: &str| {
        let caller = Key {
            created_at: NOW - made_days_ago * DAY,
            ..held("restricted", "api_key_write charge_write payout_write")
        };
        check(&Caller::Key(caller), &with(asked, asking("restricted")), expected);
    };
    row(180, "payout_write", "rk_test_ by user, may payout_write, revealable");
    row(181, "payout_write", "forbidden: access_limited");
    row(181, "charge_write payout_write", "forbidden: access_limited");
    // Everything else still works.
    row(181, "charge_write", "rk_test_ by user, may charge_write, revealable");
    row(181, "payout_read", "rk_test_ by user, may payout_read, revealable");
    row(181, "", "rk_test_ by user, revealable");
}

// Verification codes (S27).

#[test]
fn a_live_secret_is_made_with_a_verification_code() {
    for (kind, expected) in [
        ("publishable", false),
        ("secret", true),
        ("restricted", true),
        ("organization", true),
        ("managed", true),
    ] {
        let needs_code = |caller: &Caller, request: KeyRequest| {
            create(caller, &request, NOW).unwrap().needs_code
        };
        assert!(!needs_code(&Caller::Operator, asking(kind)), "{kind} in test mode");
        assert_eq!(needs_code(&Caller::Operator, live(asking(kind))), expected, "{kind}");
        // Nobody sees what the host makes by itself.
        assert!(!needs_code(&Caller::Platform, live(asking(kind))), "{kind} by the platform");
    }
    // Whoever stole a key must not leave another behind that nobody noticed.
    let thief = Caller::Key(Key { mode: Mode::Live, ..held("restricted", "api_key_write") });
    assert!(create(&thief, &live(asking("restricted")), NOW).unwrap().needs_code);
    assert!(!create(&thief, &live(asking("publishable")), NOW).unwrap().needs_code);
    assert!(default_keys(OWNER).iter().all(|plan| !plan.needs_code));
}

// Imported keys.

#[track_caller]
fn check_import(caller: &Caller, prefix: &str, request: &KeyRequest, expected: &str) {
    let answer = import_key(caller, request, prefix, NOW);
    assert_eq!(describe(&answer), expected, "{caller:?}: {prefix} {request:?}");
    if let Ok(plan) = answer {
        assert!(!plan.revealable, "its secret is not kept");
        assert_eq!(plan.needs_code, plan.mode == Mode::Live && plan.kind != "publishable");
    }
}

#[test]
fn only_the_operator_imports_keys() {
    let required = "forbidden: operator_required";
    let request = asking("restricted");
    check_import(&Caller::Operator, "rk_test_", &request, "rk_test_ by user, shown once");
    check_import(&Caller::Platform, "rk_test_", &request, required);
    check_import(&Caller::Key(held("secret", "*")), "rk_test_", &request, required);
    check_import(&Caller::Key(held("publishable", "")), "rk_test_", &request, required);
}

#[test]
fn what_an_imported_secret_starts_with_does_not_say_something_else() {
    let row = |prefix: &str, request: KeyRequest, expected: &str| {
        check_import(&Caller::Operator, prefix, &request, expected);
    };
    let invalid = "invalid request: parameter_invalid in secret";
    // A secret key can be imported as a restricted one: it then does less than
    // it did, and its users need not be touched.
    row("sk_live_", live(asking("restricted")), "sk_live_ by user, shown once");
    row("sk_test_", asking("managed"), "sk_test_ by user, may *, connected may *, shown once");
    row("rk_live_", live(asking("secret")), "rk_live_ by user, may *, connected may *, shown once");
    row("pk_live_", live(asking("publishable")), "pk_live_ by user, shown once");
    row("sk_org_live_", live(asking("organization")), "sk_org_live_ by user, shown once");
    // Everybody can read it, or nobody may.
    row("pk_test_", asking("restricted"), invalid);
    row("sk_test_", asking("publishable"), invalid);
    row("rk_test_", asking("publishable"), invalid);
    // Of the other mode.
    row("sk_live_", asking("secret"), invalid);
    row("rk_test_", live(asking("restricted")), invalid);
    row("pk_live_", asking("publishable"), invalid);
    // Webhook signing secrets are no API keys (S17, S85).
    row("whsec_", asking("secret"), invalid);
    row("whsec_live_", asking("publishable"), invalid);
    // Somebody else's, or none.
    row("", asking("restricted"), " by user, shown once");
    row("acme_live_", asking("restricted"), "acme_live_ by user, shown once");
}

#[test]
fn an_imported_key_is_asked_for_like_any_other() {
    for request in [
        asking("admin"),
        KeyRequest { name: " ".to_owned(), ..asking("restricted") },
        with("nope", asking("restricted")),
        with("charge_read", asking("secret")),
        KeyRequest { ends_at: Some(NOW), ..asking("restricted") },
        KeyRequest { ip_allowlist: "::1".to_owned(), ..asking("restricted") },
        KeyRequest { account: ORGANIZATION.to_owned(), ..asking("secret") },
    ] {
        let made = describe(&create(&Caller::Operator, &request, NOW));
        assert!(made.starts_with("invalid request"), "{made}");
        check_import(&Caller::Operator, "", &request, &made);
    }
}
