//! Keys, callers and questions about the life of keys by the thousand, the same
//! ones in every run.

use std::collections::BTreeMap;

use wardkey_policy::{
    authorize::authorize,
    contract::{
        Decision, Denial, DenialClass, Key, Mode,
        lifecycle::{
            Caller, KeyChange, KeyPlan, KeyRequest, KeyUpdate, RotationPlan, RotationRequest,
            RotationSchedule, StoredKey,
        },
    },
    kind,
    lifecycle::{MAX_NAME_CHARS, MAX_NOTE_CHARS},
};

use crate::{
    both::lifecycle::{
        cancel_rotation, create, expire, import_key, restore, reveal, rotate, schedule_rotation,
        status, update, visible,
    },
    random::{Random, SEED},
    rows::*,
};

/// How many questions are put, natively and through the component: about four
/// seconds.
const CASES: u32 = 12_000;

/// Few, so that keys often hold the same: what a key may give to another is
/// decided where they nearly agree.
const PERMISSIONS: &[&str] = &[
    "api_key_read",
    "api_key_write",
    "billing_clock_read",
    "charge_read",
    "charge_write",
    "customer_read",
    "payout_read",
    "payout_write",
];

const NETWORKS: &[&str] = &["0.0.0.0/0", "203.0.113.0/24", "203.0.113.9", "192.0.2.0/25"];

const ADDRESSES: &[&str] = &["203.0.113.9", "203.0.113.200", "192.0.2.1", "192.0.2.200"];

/// What the keys of [`PERMISSIONS`] may be able to do.
const REQUESTS: &[(&str, &str)] = &[
    ("GET", "/v1/charges"),
    ("POST", "/v1/charges"),
    ("GET", "/v1/customers"),
    ("GET", "/v1/payouts"),
    ("POST", "/v1/payouts"),
    ("POST", "/v1/transfers"),
    ("GET", "/v1/balance"),
    ("GET", "/v1/test_helpers/test_clocks"),
    ("GET", "/v2/iam/api_keys"),
    ("POST", "/v2/iam/api_keys"),
    ("POST", "/v2/iam/api_keys/key_2/reveal"),
];

/// Says which case it was, if a test fails in the middle of it.
struct Case<'a> {
    number: u32,
    caller: &'a Caller,
    current: &'a StoredKey,
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { number, caller, current } = self;
            eprintln!("seed {SEED:#x}, case {number}: {caller:#?} of {current:#?}");
        }
    }
}

/// What came of a question.
struct Outcome {
    question: &'static str,
    /// The key that the caller has made, changed, seen the secret of, or had
    /// rotated later.
    product: Option<Key>,
    refusal: Option<Denial>,
}

#[test]
fn both_agree_on_generated_lives_and_no_case_breaks_a_law() {
    let mut random = Random(SEED);
    let mut answers = BTreeMap::new();
    for number in 0..CASES {
        let caller = random_caller(&mut random);
        let current = random_stored(&mut random, &caller);
        let _case = Case { number, caller: &caller, current: &current };
        let outcome = put(&mut random, &caller, &current);
        if outcome.refusal.is_none() {
            check_laws(&mut random, &caller, &current, &outcome);
        }
        check_sight(&caller, &current, &outcome);
        if number % 8 == 0 {
            check_status(&current);
        }
        let answer = match &outcome.refusal {
            Some(denial) => denial.code.clone().unwrap(),
            None => "yes".to_owned(),
        };
        *answers.entry(format!("{} {answer}", outcome.question)).or_insert(0) += 1;
    }
    println!("{CASES} cases from seed {SEED:#x}: {answers:#?}");
    // Cases that never get past the first rules would prove little.
    for question in ["create", "import", "update", "expire", "rotate", "schedule", "cancel"]
        .iter()
        .chain(&["reveal", "restore", "visible"])
    {
        let of = |answer: &str| answers.get(&format!("{question} {answer}")).copied().unwrap_or(0);
        let asked: u32 = answers
            .iter()
            .filter(|(answer, _)| answer.split(' ').next() == Some(question))
            .map(|(_, count)| count)
            .sum();
        assert!(of("yes") * 20 > asked, "{question}: only {} of {asked}", of("yes"));
    }
    for code in [
        "access_limited",
        "expiry_beyond_own",
        "ip_beyond_own",
        "key_ended",
        "key_kind_unknown",
        "key_replaced",
        "key_scope",
        "managed_key",
        "more_permissions_required",
        "no_rotation_scheduled",
        "operator_required",
        "parameter_invalid",
        "publishable_key_cannot_expire",
        "publishable_key_not_limited",
        "resource_missing",
        "rotation_not_due",
        "secret_key_required",
        "secret_not_kept",
        "secret_shown_once",
    ] {
        assert!(answers.keys().any(|answer| answer.ends_with(code)), "no case came to {code}");
    }
}

/// Puts a question of chance.
fn put(random: &mut Random, caller: &Caller, current: &StoredKey) -> Outcome {
    fn outcome<T>(
        question: &'static str,
        answer: Result<T, Denial>,
        product: impl FnOnce(T) -> Option<Key>,
    ) -> Outcome {
        match answer {
            Ok(answer) => Outcome { question, product: product(answer), refusal: None },
            Err(denial) => Outcome { question, product: None, refusal: Some(denial) },
        }
    }
    let now = NOW;
    match random.below(13) {
        0 | 1 => {
            let request = random_request(random, current);
            outcome("create", create(caller, &request, now), |plan| {
                check_plan(caller, &plan);
                assert_eq!(plan.ends_at, request.ends_at);
                Some(made(&plan))
            })
        }
        2 => {
            let request = random_request(random, current);
            let prefix = *random.pick(&["sk_live_", "rk_test_", "pk_test_", "whsec_", "x_", ""]);
            outcome("import", import_key(caller, &request, prefix, now), |plan| {
                assert!(matches!(caller, Caller::Operator));
                assert_eq!((plan.prefix.as_str(), plan.revealable), (prefix, false));
                None
            })
        }
        3 | 4 => {
            let change = random_change(random);
            outcome("update", update(caller, current, &change, now), |update| {
                Some(changed(&change, current, update))
            })
        }
        5 => outcome("expire", expire(caller, current, now), |at| {
            assert_eq!(at, now);
            assert_ne!(current.key.kind, kind::PUBLISHABLE);
            None
        }),
        6 | 7 => {
            let minutes = *random.pick(&[0, 0, 1, 60, 10_080, 10_081]);
            let request = rotation_request(minutes);
            outcome("rotate", rotate(caller, current, &request, now), |plan| {
                check_rotation(caller, current, &request, &plan);
                Some(made(&plan.replacement))
            })
        }
        8 => {
            let wanted = random_schedule(random);
            outcome("schedule", schedule_rotation(caller, current, &wanted, now), |schedule| {
                assert_eq!(schedule, wanted);
                assert!(schedule.at > now && current.replaced_by.is_none());
                assert!(current.key.ends_at.is_none_or(|ends_at| schedule.at < ends_at));
                Some(current.key.clone())
            })
        }
        9 => outcome("cancel", cancel_rotation(caller, current, now), |()| {
            assert!(current.rotation.is_some());
            None
        }),
        10 => outcome("reveal", reveal(caller, current, now), |plan| {
            let StoredKey { key, has_secret, imported, .. } = current;
            assert!(*has_secret && !imported && key.kind != kind::MANAGED);
            let live = key.mode == Mode::Live;
            let exposed = key.kind == kind::PUBLISHABLE;
            assert!(!live || exposed || key.origin == kind::PLATFORM, "it was shown once");
            assert!(!live || matches!(caller, Caller::Operator));
            assert_eq!(plan.needs_code, live && !exposed);
            Some(key.clone())
        }),
        11 => outcome("restore", restore(caller, current, now), |at| {
            assert!(matches!(caller, Caller::Operator));
            assert_eq!(at, now);
            None
        }),
        _ => {
            let wanted = wardkey_policy::contract::lifecycle::KeyFilter {
                account: random.one_in(3).then(|| current.key.account.clone()),
                mode: random.one_in(3).then_some(current.key.mode),
            };
            outcome("visible", visible(caller, &wanted), |seen| {
                match caller {
                    Caller::Key(key) => {
                        assert_eq!(seen.account.as_ref(), Some(&key.account));
                        assert_eq!(seen.mode, Some(key.mode));
                        assert!(wanted.account.is_none() || seen.account == wanted.account);
                        assert!(wanted.mode.is_none() || seen.mode == wanted.mode);
                    }
                    _ => assert_eq!(seen, wanted),
                }
                None
            })
        }
    }
}

/// What holds for everything that was not refused.
#[track_caller]
fn check_laws(random: &mut Random, caller: &Caller, current: &StoredKey, outcome: &Outcome) {
    let Outcome { question, product, .. } = outcome;
    let about_current = !matches!(*question, "create" | "import" | "visible");
    let ended = current.key.ends_at.is_some_and(|ends_at| ends_at <= NOW);
    assert!(!(about_current && ended), "{question} of a key that has ended");
    if matches!(caller, Caller::Platform) {
        assert!(matches!(*question, "create" | "rotate" | "visible"), "{question}");
    }
    let Caller::Key(asking) = caller else { return };
    assert!(matches!(asking.kind.as_str(), "secret" | "restricted" | "managed"));
    let write = asking.permissions.split(' ').any(|held| matches!(held, "*" | "api_key_write"));
    assert!(write || *question == "visible", "{question} without the permission");
    if about_current {
        assert_eq!((&asking.account, asking.mode), (&current.key.account, current.key.mode));
    }
    let Some(product) = product else { return };
    assert_eq!((&asking.account, asking.mode), (&product.account, product.mode));
    if matches!(*question, "create" | "update" | "rotate" | "schedule" | "reveal") {
        assert_ne!(product.kind, kind::MANAGED, "{question}");
    }
    let without_limits = [&product.permissions, &product.connect_permissions];
    if matches!(*question, "create" | "rotate" | "reveal") && product.mode == Mode::Live {
        assert!(without_limits.iter().all(|held| *held != "*"), "{question}");
    }
    check_power(random, asking, product);
}

/// Whatever the product may do, whoever asked for it may do as well. Asked of
/// the decision itself, and not of what is written in the keys.
#[track_caller]
fn check_power(random: &mut Random, asking: &Key, product: &Key) {
    if product.kind == kind::PUBLISHABLE {
        // It may do what is open to everybody; it holds nothing.
        assert!(product.permissions.is_empty() && product.connect_permissions.is_empty());
        return;
    }
    for _ in 0..6 {
        let (method, path) = *random.pick(REQUESTS);
        let address = *random.pick(ADDRESSES);
        let mut asked = from(ipv4(address), request(method, path));
        if random.one_in(3) {
            asked = context("acct_shop", asked);
        }
        // Later too; but whose access is limited when is a matter of clocks.
        let moves_money = matches!(path, "/v1/payouts" | "/v1/transfers") && method == "POST";
        if !moves_money && random.one_in(2) {
            asked = at(*random.pick(&[NOW + 1, NOW + DAY - 1, NOW + DAY, NOW + 4000 * DAY]), asked);
        }
        let allows =
            |key: &Key| matches!(authorize(&asked, Some(key), &world(key)), Decision::Allow(_));
        assert!(
            !allows(product) || allows(asking),
            "{method} {path} at {}: {product:#?} may, and {asking:#?} may not",
            asked.now
        );
    }
}

/// What a caller is told of a key that it may not see is the same whatever
/// there is to it.
#[track_caller]
fn check_sight(caller: &Caller, current: &StoredKey, outcome: &Outcome) {
    let about_current = !matches!(outcome.question, "create" | "import" | "visible");
    let Caller::Key(asking) = caller else { return };
    let same = (&asking.account, asking.mode) == (&current.key.account, current.key.mode);
    if same || !about_current {
        let missing = outcome.refusal.as_ref().is_some_and(|r| r.class == DenialClass::NotFound);
        assert!(!missing, "{} of a key in sight", outcome.question);
        return;
    }
    let refusal = outcome.refusal.as_ref().expect("a key out of sight was touched");
    match refusal.class {
        DenialClass::NotFound => {
            assert_eq!(refusal.message, format!("No such API key: '{}'", current.key.id));
        }
        // What is said of the caller says nothing of the key.
        DenialClass::Forbidden => {
            let code = refusal.code.as_deref().unwrap();
            let about_caller = matches!(
                code,
                "secret_key_required"
                    | "key_scope"
                    | "key_kind_unknown"
                    | "more_permissions_required"
            );
            assert!(about_caller, "{code}");
        }
        class => panic!("{class:?}"),
    }
}

/// What is said to be possible is.
#[track_caller]
fn check_status(current: &StoredKey) {
    let operator = &Caller::Operator;
    let status = status(current, NOW);
    let said: Vec<&str> = status.actions.split_whitespace().collect();
    assert!(said.is_sorted());
    for (action, possible) in [
        ("expire", expire(operator, current, NOW).is_ok()),
        ("restore", restore(operator, current, NOW).is_ok()),
        // What is shown anyway has nothing to reveal (S37).
        ("reveal", current.key.kind != kind::PUBLISHABLE && reveal(operator, current, NOW).is_ok()),
        ("rotate", rotate(operator, current, &rotation_request(0), NOW).is_ok()),
        ("update", update(operator, current, &no_change(), NOW).is_ok()),
    ] {
        assert_eq!(said.contains(&action), possible, "{action}");
    }
    let asking = Key {
        permissions: "*".to_owned(),
        ipv4_nets: Vec::new(),
        // An organization's key would need more to come so far.
        account: OWNER.to_owned(),
        kind: current.key.kind.replace("organization", "restricted"),
        ..current.key.clone()
    };
    let payout = from(ipv4("203.0.113.9"), post("/v1/payouts"));
    let decision = authorize(&payout, Some(&asking), &world(&asking));
    let limited = matches!(
        decision,
        Decision::Deny(denial) if denial.code.as_deref() == Some("access_limited")
    );
    assert_eq!(status.limited_access, limited);
}

/// What every plan for a key is.
#[track_caller]
fn check_plan(caller: &Caller, plan: &KeyPlan) {
    let platform = matches!(caller, Caller::Platform);
    assert_eq!(kind::prefix(&plan.kind, plan.mode), Some(plan.prefix.as_str()));
    assert_eq!(plan.origin, if platform { kind::PLATFORM } else { kind::USER });
    assert!((1..=MAX_NAME_CHARS).contains(&plan.name.chars().count()));
    assert!(plan.note.chars().count() <= MAX_NOTE_CHARS);
    let exposed = plan.kind == kind::PUBLISHABLE;
    assert_eq!(plan.needs_code, plan.mode == Mode::Live && !exposed && !platform);
    if plan.kind == kind::MANAGED {
        assert!(!plan.revealable && !matches!(caller, Caller::Key(_)));
    }
    for held in [&plan.permissions, &plan.connect_permissions] {
        let names: Vec<&str> = held.split_whitespace().collect();
        assert_eq!(names.join(" "), *held);
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{held}");
        assert!(!names.contains(&"*") || names.len() == 1, "{held}");
    }
}

#[track_caller]
fn check_rotation(
    caller: &Caller,
    current: &StoredKey,
    request: &RotationRequest,
    plan: &RotationPlan,
) {
    let RotationPlan { replacement, current_ends_at, rotation, needs_code } = plan;
    let StoredKey { key, .. } = current;
    check_plan(caller, replacement);
    assert_eq!(replacement.needs_code, *needs_code);
    assert!(current.replaced_by.is_none());
    assert_eq!((&replacement.account, replacement.mode), (&key.account, key.mode));
    assert_eq!((&replacement.kind, replacement.ends_at), (&key.kind, key.ends_at));
    assert_eq!(replacement.permissions, key.permissions);
    assert_eq!(replacement.connect_permissions, key.connect_permissions);
    assert_eq!(replacement.ipv4_nets, key.ipv4_nets);
    let wanted = NOW + u64::from(request.expire_current_in_minutes) * 60;
    assert_eq!(*current_ends_at, key.ends_at.map_or(wanted, |ends_at| wanted.min(ends_at)));
    if let Some(next) = rotation {
        assert!(next.at > NOW && key.ends_at.is_none_or(|ends_at| next.at < ends_at));
        let before = current.rotation.as_ref().unwrap();
        assert_eq!(next.every_days, before.every_days);
        assert!(next.every_days.is_some());
    }
    if matches!(caller, Caller::Platform) {
        assert!(current.rotation.as_ref().is_some_and(|rotation| rotation.at <= NOW));
    }
}

/// The key that a host makes of a plan.
fn made(plan: &KeyPlan) -> Key {
    Key {
        id: "key_9".to_owned(),
        account: plan.account.clone(),
        mode: plan.mode,
        origin: plan.origin.clone(),
        created_at: NOW,
        ends_at: plan.ends_at,
        permissions: plan.permissions.clone(),
        connect_permissions: plan.connect_permissions.clone(),
        ipv4_nets: plan.ipv4_nets.clone(),
        attributes: plan.attributes.clone(),
        ..kind(&plan.kind)
    }
}

/// The key that a host makes of a change.
#[track_caller]
fn changed(change: &KeyChange, current: &StoredKey, update: KeyUpdate) -> Key {
    let KeyUpdate { name, note, permissions, connect_permissions, ipv4_nets } = update;
    let key = &current.key;
    assert!(change.name.is_some() || name == current.name);
    assert!(change.note.is_some() || note == current.note);
    assert!(change.permissions.is_some() || permissions == key.permissions);
    assert!(change.connect_permissions.is_some() || connect_permissions == key.connect_permissions);
    assert!(change.ip_allowlist.is_some() || ipv4_nets == key.ipv4_nets);
    if key.kind != kind::RESTRICTED && key.kind != kind::ORGANIZATION {
        assert_eq!(permissions, key.permissions);
        assert_eq!(connect_permissions, key.connect_permissions);
    }
    Key { permissions, connect_permissions, ipv4_nets, ..key.clone() }
}

fn random_caller(random: &mut Random) -> Caller {
    match random.below(10) {
        0..3 => Caller::Operator,
        3 => Caller::Platform,
        _ => {
            let mut key = random_key(random, "key_1");
            key.ends_at = key.ends_at.filter(|&ends_at| ends_at > NOW);
            if key.kind == "restricted" && !random.one_in(8) {
                let mut names: Vec<&str> =
                    key.permissions.split_whitespace().chain(["api_key_write"]).collect();
                names.sort_unstable();
                names.dedup();
                key.permissions = names.join(" ");
            }
            Caller::Key(key)
        }
    }
}

fn random_stored(random: &mut Random, caller: &Caller) -> StoredKey {
    let mut key = match caller {
        Caller::Key(key) if random.one_in(8) => key.clone(),
        _ => random_key(random, "key_2"),
    };
    if let Caller::Key(caller) = caller
        && !random.one_in(6)
        && key.kind != "organization"
    {
        key.account.clone_from(&caller.account);
        key.mode = caller.mode;
        // Often nearly the same key.
        if random.one_in(2) {
            key.ipv4_nets.clone_from(&caller.ipv4_nets);
        }
        if random.one_in(2) {
            key.ends_at = caller.ends_at;
        }
    }
    let due = matches!(caller, Caller::Platform) && !random.one_in(4);
    StoredKey {
        note: if random.one_in(2) { "vault".to_owned() } else { String::new() },
        has_secret: !random.one_in(4),
        imported: random.one_in(8),
        replaced_by: random.one_in(8).then(|| "key_3".to_owned()),
        rotation: (due || random.one_in(2)).then(|| {
            let schedule = random_schedule(random);
            RotationSchedule { at: if due { NOW - HOUR } else { schedule.at }, ..schedule }
        }),
        ..stored(key)
    }
}

fn random_key(random: &mut Random, id: &str) -> Key {
    let kind = match random.below(12) {
        0 => "publishable",
        1 => "organization",
        2 => "managed",
        3 if random.one_in(2) => "foreign",
        4 | 5 => "secret",
        _ => "restricted",
    };
    let fixed = match kind {
        "secret" | "managed" => Some("*"),
        "publishable" => Some(""),
        _ => None,
    };
    let account = match kind {
        "organization" => ORGANIZATION,
        _ if random.one_in(8) => "acct_member",
        _ => OWNER,
    };
    let mut held = || match fixed {
        Some(fixed) => fixed.to_owned(),
        None if kind == "organization" && random.one_in(3) => "*".to_owned(),
        None => random_permissions(random, 3),
    };
    let (permissions, connect_permissions) = (held(), held());
    let can_be_limited = !matches!(kind, "publishable" | "managed");
    Key {
        id: id.to_owned(),
        account: account.to_owned(),
        mode: if random.one_in(2) { Mode::Live } else { Mode::Test },
        origin: if random.one_in(3) { "platform" } else { "user" }.to_owned(),
        created_at: NOW - *random.pick(&[DAY, 180 * DAY, 181 * DAY]),
        restored_at: random.one_in(6).then_some(NOW - DAY),
        money_moved_at: random.one_in(6).then_some(NOW - 2 * DAY),
        ends_at: random_end(random),
        permissions,
        connect_permissions,
        ipv4_nets: if can_be_limited { nets(&random_networks(random)) } else { Vec::new() },
        ..crate::rows::kind(kind)
    }
}

fn random_end(random: &mut Random) -> Option<u64> {
    let ends = [NOW - DAY, NOW, NOW + 1, NOW + DAY, NOW + DAY, NOW + 40 * DAY, u64::MAX];
    random.one_in(3).then(|| *random.pick(&ends))
}

fn random_permissions(random: &mut Random, at_most: usize) -> String {
    let mut names: Vec<&str> =
        (0..random.below(at_most + 1)).map(|_| *random.pick(PERMISSIONS)).collect();
    names.sort_unstable();
    names.dedup();
    names.join(" ")
}

fn random_networks(random: &mut Random) -> String {
    let count = random.below(5).saturating_sub(2);
    (0..count).map(|_| *random.pick(NETWORKS)).collect::<Vec<_>>().join(" ")
}

fn random_request(random: &mut Random, current: &StoredKey) -> KeyRequest {
    let key = &current.key;
    let kind = match random.below(4) {
        0 => key.kind.clone(),
        1 => (*random.pick(&["publishable", "secret", "managed"])).to_owned(),
        _ => "restricted".to_owned(),
    };
    let can_be_limited = !matches!(kind.as_str(), "publishable" | "managed");
    let name = *random.pick(&["a key", "a key", "a key", " Büro ", "", "a\tb"]);
    KeyRequest {
        account: key.account.clone(),
        mode: key.mode,
        name: name.to_owned(),
        note: String::new(),
        permissions: match kind.as_str() {
            "restricted" | "organization" => random_permissions(random, 2),
            _ if random.one_in(6) => random_permissions(random, 1),
            _ => String::new(),
        },
        connect_permissions: match kind.as_str() {
            "restricted" if random.one_in(3) => random_permissions(random, 1),
            "organization" if random.one_in(3) => "*".to_owned(),
            _ => String::new(),
        },
        ip_allowlist: match random.below(if can_be_limited { 3 } else { 12 }) {
            0 => random_networks(random),
            _ => String::new(),
        },
        ends_at: random_end(random).filter(|_| kind != "publishable"),
        kind,
    }
}

fn random_change(random: &mut Random) -> KeyChange {
    let names = ["new", "a key", "", "a\0b"];
    let permissions = ["", "*", "nope", "charge_read"];
    let mut held = || match random.below(6) {
        0 => Some((*random.pick(&permissions)).to_owned()),
        1 => Some(random_permissions(random, 2)),
        _ => None,
    };
    let (permissions, connect_permissions) = (held(), held());
    KeyChange {
        name: random.one_in(4).then(|| (*random.pick(&names)).to_owned()),
        note: random.one_in(4).then(|| "safe".to_owned()),
        permissions,
        connect_permissions,
        ip_allowlist: random.one_in(3).then(|| random_networks(random)),
    }
}

fn random_schedule(random: &mut Random) -> RotationSchedule {
    let times = [NOW - DAY, NOW, NOW + 1, NOW + DAY, NOW + 30 * DAY, NOW + 400 * DAY];
    RotationSchedule {
        at: *random.pick(&times),
        every_days: random.one_in(2).then(|| *random.pick(&[1, 7, 30, 365])),
        expire_current_in_minutes: *random.pick(&[0, 60, 1440, 10_080]),
    }
}
