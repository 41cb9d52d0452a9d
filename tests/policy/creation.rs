//! Making keys: which a new account gets, and who may ask for what.

use wardkey_policy::{
    contract::{
        Denial, Mode,
        lifecycle::{Caller, CallerKey, KeyPlan, KeyRequest},
    },
    lifecycle::{MAX_NAME_CHARS, MAX_NOTE_CHARS},
    network::MAX_NETWORKS,
};

use crate::{
    both::{create, default_keys, describe_denial},
    rows::{NOW, ORGANIZATION, OWNER},
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
fn held(kind: &str, permissions: &str) -> CallerKey {
    CallerKey {
        id: "key_1".to_owned(),
        account: OWNER.to_owned(),
        mode: Mode::Test,
        kind: kind.to_owned(),
        permissions: permissions.to_owned(),
        connect_permissions: if permissions == "*" { "*" } else { "" }.to_owned(),
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
    let nets: Vec<String> = ipv4_nets
        .iter()
        .map(|net| format!("{}/{}", std::net::Ipv4Addr::from(net.address), net.prefix_length))
        .collect();
    let mut text = format!("{prefix} by {origin}");
    for (name, value) in [
        ("may", permissions.as_str()),
        ("connected may", connect_permissions),
        ("from", &nets.join(" ")),
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
        ("publishable", "", needed),
        ("publishable", "*", needed),
        ("publishable", "api_key_write", needed),
    ] {
        check(&Caller::Key(held(kind, permissions)), &asking("restricted"), expected);
    }
}

#[test]
fn a_key_makes_keys_of_its_own_account_and_mode() {
    let scope = "forbidden: key_scope";
    let caller = Caller::Key(held("secret", "*"));
    let elsewhere = KeyRequest { account: "acct_shop".to_owned(), ..asking("restricted") };
    check(&caller, &elsewhere, scope);
    check(&caller, &live(asking("restricted")), scope);
    check(&caller, &asking("organization"), scope);
    let live_caller = Caller::Key(CallerKey { mode: Mode::Live, ..held("secret", "*") });
    check(&live_caller, &asking("restricted"), scope);
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
    let connected = Caller::Key(CallerKey {
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
    let caller = Caller::Key(CallerKey { mode: Mode::Live, ..held("secret", "*") });
    check(&caller, &live(asking("secret")), "forbidden: operator_required");
    check(&caller, &live(asking("managed")), "forbidden: operator_required");
    let organization = CallerKey {
        account: ORGANIZATION.to_owned(),
        mode: Mode::Live,
        ..held("organization", "*")
    };
    let caller = Caller::Key(organization);
    check(&caller, &live(with("*", asking("organization"))), "forbidden: operator_required");
    let connect =
        KeyRequest { connect_permissions: "*".to_owned(), ..live(asking("organization")) };
    check(&caller, &connect, "forbidden: operator_required");
    check(
        &Caller::Operator,
        &live(asking("secret")),
        "sk_live_ by user, may *, connected may *, shown once",
    );
}
