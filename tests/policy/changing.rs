//! What becomes of a key that there is: editing, ending and restoring it, and
//! who may do so.

use wardkey_policy::{
    contract::{
        Denial, Key, Mode,
        lifecycle::{Caller, KeyChange, KeyUpdate, RotationSchedule, StoredKey},
    },
    lifecycle::{MAX_NAME_CHARS, MAX_NOTE_CHARS},
};

use crate::{
    both::{
        describe_denial,
        lifecycle::{cancel_rotation, expire, restore, reveal, rotate, schedule_rotation, update},
    },
    rows::*,
};

#[track_caller]
fn check_update(caller: &Caller, current: &StoredKey, change: &KeyChange, expected: &str) {
    let answer = describe(update(caller, current, change, NOW), |update| {
        let KeyUpdate { name, note, permissions, connect_permissions, ipv4_nets } = update;
        let mut text = name;
        for (word, value) in [
            ("note", note),
            ("may", permissions),
            ("connected may", connect_permissions),
            ("from", display(&ipv4_nets)),
        ] {
            if !value.is_empty() {
                text.push_str(&format!(", {word} {value}"));
            }
        }
        text
    });
    assert_eq!(answer, expected, "{caller:?} wants {change:?} of {current:?}");
}

fn describe<T>(answer: Result<T, Denial>, ok: impl FnOnce(T) -> String) -> String {
    match answer {
        Ok(answer) => ok(answer),
        Err(denial) => describe_denial(&denial),
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn another(key: Key) -> StoredKey {
    stored(Key { id: "key_2".to_owned(), ..key })
}

// Editing (S50–S52).

#[test]
fn what_is_left_out_of_a_change_stays() {
    let key = Key {
        connect_permissions: "payout_read".to_owned(),
        ipv4_nets: nets("192.0.2.7"),
        ..restricted("charge_read")
    };
    let current = StoredKey { note: "vault".to_owned(), ..stored(key) };
    let row = |change: KeyChange, expected: &str| {
        check_update(&Caller::Operator, &current, &change, expected);
    };
    let rest = "may charge_read, connected may payout_read, from 192.0.2.7/32";
    row(no_change(), &format!("a key, note vault, {rest}"));
    row(KeyChange { name: some(" Büro "), ..no_change() }, &format!("Büro, note vault, {rest}"));
    row(KeyChange { note: some("safe"), ..no_change() }, &format!("a key, note safe, {rest}"));
    row(KeyChange { note: some(""), ..no_change() }, &format!("a key, {rest}"));
    row(
        KeyChange { permissions: some("payout_write charge_write"), ..no_change() },
        "a key, note vault, may charge_write payout_write, connected may payout_read, \
         from 192.0.2.7/32",
    );
    row(
        KeyChange { permissions: some(""), connect_permissions: some(""), ..no_change() },
        "a key, note vault, from 192.0.2.7/32",
    );
    row(
        KeyChange { ip_allowlist: some("198.51.100.0/24 192.0.2.8"), ..no_change() },
        "a key, note vault, may charge_read, connected may payout_read, \
         from 198.51.100.0/24 192.0.2.8/32",
    );
    // An empty list turns the restriction off (S46).
    row(
        KeyChange { ip_allowlist: some(""), ..no_change() },
        "a key, note vault, may charge_read, connected may payout_read",
    );
}

#[test]
fn a_change_is_checked_like_a_new_key() {
    let row = |change: KeyChange, param: &str| {
        let expected = format!("invalid request: parameter_invalid in {param}");
        check_update(&Caller::Operator, &stored(restricted("")), &change, &expected);
    };
    for name in ["", "  ", "a\nb", &"n".repeat(MAX_NAME_CHARS + 1)] {
        row(KeyChange { name: some(name), ..no_change() }, "name");
    }
    for note in ["a\0b", &"n".repeat(MAX_NOTE_CHARS + 1)] {
        row(KeyChange { note: some(note), ..no_change() }, "note");
    }
    for permissions in ["nope", "*", "charge_read *", "charge_*"] {
        row(KeyChange { permissions: some(permissions), ..no_change() }, "permissions");
        let connect = KeyChange { connect_permissions: some(permissions), ..no_change() };
        row(connect, "connect_permissions");
    }
    for list in ["::1", "192.0.2.1/24", "nonsense"] {
        row(KeyChange { ip_allowlist: some(list), ..no_change() }, "ip_allowlist");
    }
}

/// S14, S42, S64, S76.
#[test]
fn kinds_and_what_can_be_changed_of_them() {
    for (key, rename, permissions, addresses) in [
        (publishable(), false, false, false),
        (secret(), true, false, true),
        (restricted(""), true, true, true),
        (organization(""), true, true, true),
        (managed(), true, false, false),
    ] {
        let current = stored(key.clone());
        #[track_caller]
        fn row(current: &StoredKey, change: &KeyChange, possible: bool, param: &str) {
            let answer = update(&Caller::Operator, current, change, NOW);
            let expected = format!("invalid request: parameter_invalid in {param}");
            match answer {
                Ok(_) => assert!(possible, "{change:?} of {current:?}"),
                Err(denial) => {
                    assert!(!possible, "{change:?} of {current:?}: {denial:?}");
                    assert_eq!(describe_denial(&denial), expected);
                }
            }
        }
        row(&current, &KeyChange { note: some("safe"), ..no_change() }, true, "");
        row(&current, &KeyChange { name: some("new"), ..no_change() }, rename, "name");
        // The name that it has is no new one: a form that sends all of it back.
        row(&current, &KeyChange { name: some("a key"), ..no_change() }, true, "");
        for asked in ["charge_read", "charge_read payout_read"] {
            let change = KeyChange { permissions: some(asked), ..no_change() };
            row(&current, &change, permissions, "permissions");
            let change = KeyChange { connect_permissions: some(asked), ..no_change() };
            row(&current, &change, permissions, "connect_permissions");
        }
        // What it has anyway is no change. But a key without limits that is
        // asked to have none at all must not go on as if nothing had been said.
        let same = KeyChange { permissions: Some(key.permissions.clone()), ..no_change() };
        row(&current, &same, true, "");
        let none = KeyChange { permissions: some(""), ..no_change() };
        row(&current, &none, permissions || key.permissions.is_empty(), "permissions");
        let limited = KeyChange { ip_allowlist: some("192.0.2.7"), ..no_change() };
        row(&current, &limited, addresses, "ip_allowlist");
        row(&current, &KeyChange { ip_allowlist: some(""), ..no_change() }, true, "");
    }
}

#[test]
fn a_key_that_was_replaced_can_be_edited_until_it_ends() {
    let current = StoredKey {
        replaced_by: some("key_9"),
        ..stored(Key { ends_at: Some(NOW + 1), ..restricted("charge_read") })
    };
    check_update(&Caller::Operator, &current, &no_change(), "a key, may charge_read");
}

#[test]
fn a_key_edits_no_other_beyond_itself() {
    let caller = Caller::Key(Key {
        ipv4_nets: nets("192.0.2.0/24"),
        ends_at: Some(NOW + DAY),
        ..restricted("api_key_write charge_write customer_read")
    });
    let target = Key { ipv4_nets: nets("192.0.2.7"), ends_at: Some(NOW + DAY), ..restricted("") };
    let row = |target: Key, change: KeyChange, expected: &str| {
        check_update(&caller, &another(target), &change, expected);
    };
    let permissions = |asked: &str| KeyChange { permissions: some(asked), ..no_change() };
    row(target.clone(), no_change(), "a key, from 192.0.2.7/32");
    row(target.clone(), permissions("charge_read"), "a key, may charge_read, from 192.0.2.7/32");
    let missing = "forbidden: more_permissions_required, missing";
    row(target.clone(), permissions("payout_read"), &format!("{missing} payout_read"));
    let connect = KeyChange { connect_permissions: some("charge_read"), ..no_change() };
    row(target.clone(), connect, &format!("{missing} charge_read"));
    // The result counts: a stronger key is not its to edit, to make it weaker
    // is.
    let stronger = Key { permissions: "payout_write".to_owned(), ..target.clone() };
    row(stronger.clone(), no_change(), &format!("{missing} payout_write"));
    row(stronger, permissions(""), "a key, from 192.0.2.7/32");
    let list = |list: &str| KeyChange { ip_allowlist: some(list), ..no_change() };
    row(target.clone(), list("192.0.2.0/25"), "a key, from 192.0.2.0/25");
    let beyond = "forbidden: ip_beyond_own in ip_allowlist";
    for wider in ["", "0.0.0.0/0", "203.0.113.9", "192.0.2.0/23"] {
        row(target.clone(), list(wider), beyond);
    }
    let wide = Key { ipv4_nets: Vec::new(), ..target.clone() };
    row(wide.clone(), no_change(), beyond);
    row(wide, list("192.0.2.9"), "a key, from 192.0.2.9/32");
    // It would give its permissions to a key that outlives it.
    for ends_at in [None, Some(NOW + DAY + 1)] {
        let longer = Key { ends_at, ..target.clone() };
        row(longer, no_change(), "forbidden: expiry_beyond_own in expires_at");
    }
}

// Ending (S53–S57).

#[test]
fn a_server_key_ends_at_once() {
    for key in [secret(), restricted(""), managed(), organization("*"), live(secret())] {
        for ends_at in [None, Some(NOW + 1), Some(u64::MAX)] {
            let current = stored(Key { ends_at, ..key.clone() });
            assert_eq!(expire(&Caller::Operator, &current, NOW), Ok(NOW), "{current:?}");
        }
    }
    // Another policy's keys can be ended, and nothing else.
    assert_eq!(expire(&Caller::Operator, &stored(kind("foreign")), NOW), Ok(NOW));
    for current in [
        StoredKey { imported: true, ..stored(secret()) },
        StoredKey { replaced_by: some("key_9"), ..stored(secret()) },
    ] {
        assert_eq!(expire(&Caller::Operator, &current, NOW), Ok(NOW), "{current:?}");
    }
}

#[test]
fn a_publishable_key_cannot_expire() {
    for key in [publishable(), live(publishable())] {
        let denial = expire(&Caller::Operator, &stored(key), NOW).unwrap_err();
        let expected = "invalid request: publishable_key_cannot_expire";
        assert_eq!(describe_denial(&denial), expected);
        assert!(denial.message.contains("Rotate it"), "{}", denial.message);
    }
}

/// To kill a leaked key must be easy.
#[test]
fn a_key_ends_stronger_ones_and_itself() {
    let caller =
        Key { ipv4_nets: nets("192.0.2.7"), ends_at: Some(NOW + 1), ..restricted("api_key_write") };
    let asks = Caller::Key(caller.clone());
    for target in [secret(), managed(), restricted("payout_write"), kind("foreign")] {
        assert_eq!(expire(&asks, &another(target.clone()), NOW), Ok(NOW), "{target:?}");
    }
    assert_eq!(expire(&asks, &stored(caller), NOW), Ok(NOW), "itself");
    let asks = Caller::Key(live(restricted("api_key_write")));
    assert_eq!(expire(&asks, &another(live(secret())), NOW), Ok(NOW));
}

// Restoring (S69–S72).

#[test]
fn access_is_restored_by_the_operator_from_now_on() {
    let old = |key: Key| stored(Key { created_at: 0, ..key });
    for current in [
        old(secret()),
        old(live(restricted("payout_write"))),
        old(managed()),
        old(organization("*")),
        // Not limited at all, or never able to move money.
        stored(secret()),
        stored(restricted("")),
    ] {
        assert_eq!(restore(&Caller::Operator, &current, NOW), Ok(NOW), "{current:?}");
        for caller in [Caller::Platform, Caller::Key(Key { mode: current.key.mode, ..secret() })] {
            let answer = describe(restore(&caller, &current, NOW), |_| "restored".to_owned());
            let out_of_sight = matches!(caller, Caller::Key(_)) && current.key.account != OWNER;
            let expected = if out_of_sight {
                "not found: resource_missing in id"
            } else {
                "forbidden: operator_required"
            };
            assert_eq!(answer, expected, "{caller:?} of {current:?}");
        }
    }
    for (key, expected) in [
        (publishable(), "invalid request: publishable_key_not_limited"),
        (kind("foreign"), "forbidden: key_kind_unknown"),
    ] {
        let denial = restore(&Caller::Operator, &old(key), NOW).unwrap_err();
        assert_eq!(describe_denial(&denial), expected);
    }
}

// What holds for everything that is done to a key.

/// Returns the answer to each question about `current`, in plain words.
fn all_answers(caller: &Caller, current: &StoredKey) -> Vec<(&'static str, String)> {
    fn said<T>(answer: Result<T, Denial>) -> String {
        describe(answer, |_| "yes".to_owned())
    }
    let at_once = rotation_request(0);
    let wanted =
        RotationSchedule { at: NOW + HOUR, every_days: None, expire_current_in_minutes: 0 };
    vec![
        ("update", said(update(caller, current, &no_change(), NOW))),
        ("expire", said(expire(caller, current, NOW))),
        ("restore", said(restore(caller, current, NOW))),
        ("rotate", said(rotate(caller, current, &at_once, NOW))),
        ("schedule", said(schedule_rotation(caller, current, &wanted, NOW))),
        ("cancel", said(cancel_rotation(caller, current, NOW))),
        ("reveal", said(reveal(caller, current, NOW))),
    ]
}

#[track_caller]
fn check_all(caller: &Caller, current: &StoredKey, expected: &str) {
    for (question, answer) in all_answers(caller, current) {
        assert_eq!(answer, expected, "{question}: {caller:?} of {current:?}");
    }
}

#[test]
fn a_key_that_has_ended_is_only_looked_at() {
    for key in [secret(), restricted(""), publishable(), managed(), kind("foreign")] {
        for ends_at in [0, NOW - 1, NOW] {
            let ended = another(Key { ends_at: Some(ends_at), ..key.clone() });
            for caller in [Caller::Operator, Caller::Platform, Caller::Key(secret())] {
                check_all(&caller, &ended, "conflict: key_ended");
            }
        }
    }
}

/// Neither that there is such a key, nor that it has ended.
#[test]
fn a_key_out_of_reach_is_answered_like_none() {
    let caller = Caller::Key(secret());
    for key in [
        Key { account: "acct_shop".to_owned(), ..restricted("") },
        Key { account: "acct_shop".to_owned(), ends_at: Some(NOW), ..restricted("") },
        live(restricted("")),
        live(publishable()),
        live(kind("foreign")),
        organization(""),
        // Of the same name, in another world.
        live(secret()),
    ] {
        check_all(&caller, &another(key.clone()), "not found: resource_missing in id");
        let denial = expire(&caller, &another(key), NOW).unwrap_err();
        assert_eq!(denial.message, "No such API key: 'key_2'");
    }
}

#[test]
fn only_keys_that_manage_keys_touch_keys() {
    let missing = "forbidden: more_permissions_required, missing api_key_write";
    for (caller, expected) in [
        (publishable(), "forbidden: secret_key_required"),
        (Key { permissions: "*".to_owned(), ..publishable() }, "forbidden: secret_key_required"),
        (organization("*"), "forbidden: key_scope"),
        (kind("foreign"), "forbidden: key_kind_unknown"),
        (restricted(""), missing),
        (restricted("api_key_read"), missing),
        (restricted("charge_write"), missing),
    ] {
        let caller = Caller::Key(caller);
        // Whatever there is, and whether there is anything.
        for target in [restricted(""), live(secret()), Key { ends_at: Some(0), ..secret() }] {
            check_all(&caller, &another(target), expected);
        }
    }
}

#[test]
fn who_may_do_what_to_an_ordinary_key() {
    let rotating = |key: Key| StoredKey { rotation: Some(schedule(NOW, None)), ..another(key) };
    let operator = "forbidden: operator_required";
    let row = |caller: Key, current: StoredKey, answers: [&str; 7]| {
        let caller = Caller::Key(caller);
        let found = all_answers(&caller, &current);
        let found: Vec<&str> = found.iter().map(|(_, answer)| answer.as_str()).collect();
        assert_eq!(found, answers, "{caller:?} of {current:?}");
    };
    // In the order of `all_answers`: update, expire, restore, rotate, schedule,
    // cancel, reveal.
    let test = ["yes", "yes", operator, "yes", "yes", "yes", "yes"];
    row(restricted("api_key_write"), rotating(restricted("")), test);
    row(secret(), rotating(secret()), test);
    row(managed(), rotating(restricted("")), test);
    // In live mode no key reveals, nor makes another without limits.
    row(
        live(restricted("api_key_write")),
        rotating(live(restricted(""))),
        ["yes", "yes", operator, "yes", "yes", "yes", operator],
    );
    row(
        live(secret()),
        rotating(live(secret())),
        ["yes", "yes", operator, operator, operator, "yes", operator],
    );
    // Managed keys are the operator's.
    row(
        secret(),
        rotating(managed()),
        [operator, "yes", operator, operator, operator, operator, "forbidden: managed_key"],
    );
    // Itself.
    let itself = |key: Key| StoredKey { rotation: Some(schedule(NOW, None)), ..stored(key) };
    let scope = "forbidden: key_scope";
    let api_key_write = || restricted("api_key_write");
    row(
        api_key_write(),
        itself(api_key_write()),
        [scope, "yes", operator, "yes", scope, scope, "yes"],
    );
    row(
        live(api_key_write()),
        itself(live(api_key_write())),
        [scope, "yes", operator, "yes", scope, scope, operator],
    );
    row(
        live(secret()),
        itself(live(secret())),
        [scope, "yes", operator, operator, operator, scope, operator],
    );
    // Another policy's key.
    let unknown = "forbidden: key_kind_unknown";
    row(
        secret(),
        rotating(kind("foreign")),
        [unknown, "yes", operator, unknown, unknown, "yes", unknown],
    );
}

#[test]
fn by_itself_the_host_only_carries_out_rotations() {
    let operator = "forbidden: operator_required".to_owned();
    let current = StoredKey { rotation: Some(schedule(NOW, None)), ..stored(secret()) };
    for (question, answer) in all_answers(&Caller::Platform, &current) {
        let expected = if question == "rotate" { "yes" } else { &operator };
        assert_eq!(answer, expected, "{question}");
    }
}

#[test]
fn nobody_gets_more_out_of_another_key_than_it_holds() {
    let caller = |key: Key| Caller::Key(key);
    let limits = |key: Key| StoredKey { rotation: Some(schedule(NOW, None)), ..another(key) };
    let row = |caller: Caller, target: Key, expected: &str| {
        for (question, answer) in all_answers(&caller, &limits(target.clone())) {
            let expected = match question {
                "expire" => "yes",
                "restore" => "forbidden: operator_required",
                _ => expected,
            };
            assert_eq!(answer, expected, "{question}: {caller:?} of {target:?}");
        }
    };
    let missing = "forbidden: more_permissions_required, missing";
    let weak = restricted("api_key_write charge_read");
    row(caller(weak.clone()), restricted("charge_read"), "yes");
    row(caller(weak.clone()), restricted("charge_write"), &format!("{missing} charge_write"));
    row(caller(weak.clone()), secret(), &format!("{missing} *"));
    let connected = Key { connect_permissions: "charge_read".to_owned(), ..restricted("") };
    row(caller(weak.clone()), connected, &format!("{missing} charge_read"));
    let bound = Key { ipv4_nets: nets("192.0.2.0/24"), ..weak.clone() };
    row(caller(bound.clone()), restricted(""), "forbidden: ip_beyond_own in ip_allowlist");
    row(caller(bound), Key { ipv4_nets: nets("192.0.2.7"), ..restricted("") }, "yes");
    let ending = Key { ends_at: Some(NOW + 2 * HOUR), ..weak };
    row(caller(ending.clone()), restricted(""), "forbidden: expiry_beyond_own in expires_at");
    row(caller(ending), Key { ends_at: Some(NOW + 2 * HOUR), ..restricted("") }, "yes");
    // S70: a limited key that got itself a fresh one would not be limited.
    let limited = Key { created_at: 0, ..secret() };
    row(caller(limited.clone()), restricted("payout_write"), "forbidden: access_limited");
    row(caller(limited), restricted("charge_write"), "yes");
}

#[test]
fn the_two_modes_are_symmetric() {
    let (test, in_live) = (restricted("api_key_write"), live(restricted("api_key_write")));
    for (caller, target) in [(&test, &in_live), (&in_live, &test)] {
        assert_ne!(caller.mode, target.mode);
        check_all(
            &Caller::Key(caller.clone()),
            &another(target.clone()),
            "not found: resource_missing in id",
        );
    }
    assert_eq!(test.mode, Mode::Test);
}
