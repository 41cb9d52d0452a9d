//! Items S26–S85 of what was asked for, by their numbers, at the listeners of a
//! running host. Each row also says what must not have happened.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _};

use clap::Parser as _;
use serde_json::{Value, json};
use wardkey::verification::{Delivery, VerificationConfig};

use super::{
    DAY, KEYS, Life, MINUTE, Made, NOON, Options, has_mode, on, send_json, text, time, token,
    upstream::RecordingUpstream,
};

/// Makes a test of each row, on a host of its own, and the list of what the rows
/// cover.
macro_rules! items {
    ($([$($number:literal),+] $row:ident,)+) => {
        const COVERED: &[u32] = &[$($($number),+),+];

        mod row {
            $(#[test]
            fn $row() {
                super::$row(&super::Life::start());
            })+
        }
    };
}

items! {
    [26] secret_keys_are_made_in_both_modes,
    [27] a_live_secret_key_is_made_with_a_code_only,
    [28] a_key_has_to_be_named,
    [29] a_new_secret_is_shown_once,
    [30] a_note_is_offered_and_can_be_left_out,
    [31] a_restricted_key_may_do_what_was_chosen,
    [32] there_are_as_many_restricted_keys_as_wanted,
    [33, 77] a_live_secret_that_was_seen_is_never_revealed,
    [34, 35] a_live_secret_that_nobody_has_seen_can_be_revealed,
    [36] every_test_secret_can_be_seen_again,
    [37] publishable_keys_are_shown_without_asking,
    [38, 78] a_lost_secret_is_nowhere,
    [41] a_note_can_follow_a_reveal,
    [42] server_keys_can_be_limited_to_addresses,
    [43, 80] allowlists_are_ipv4_only,
    [44] every_prefix_length_is_taken_at_its_word,
    [46] a_limit_can_be_taken_off_again,
    [47] each_key_has_its_own_allowlist,
    [49] from_elsewhere_nothing_is_done,
    [50] name_and_note_are_changed_by_themselves,
    [51] a_change_never_touches_the_secret,
    [52] permissions_are_changed_in_place,
    [53, 79] server_keys_expire_and_publishable_ones_do_not,
    [55, 82] an_expired_key_can_do_nothing,
    [56] nothing_takes_the_place_of_an_expired_key,
    [57] there_is_no_way_back_from_an_end,
    [58] a_rotation_ends_one_key_and_makes_another,
    [59] every_kind_is_rotated,
    [60] a_rotation_can_wait_for_its_time,
    [61] without_an_overlap_the_old_key_ends_at_once,
    [62] with_an_overlap_both_keys_work_for_at_most_seven_days,
    [63] a_replacement_is_called_as_its_kind,
    [64] a_custom_name_is_lost_and_can_be_given_again,
    [65] a_replacement_is_shown_once,
    [66] what_a_schedule_made_can_be_revealed,
    [67] a_replacement_has_the_same_properties,
    [68] every_reason_to_rotate_is_served,
    [69] after_180_days_access_is_limited,
    [70, 83] limited_access_closes_three_things,
    [71] access_is_restored,
    [72] a_restored_key_has_180_days_more,
    [73] every_key_has_its_request_log,
    [76] a_secret_key_cannot_be_narrowed,
    [81] no_object_crosses_modes,
    [84] a_replacement_cannot_be_named,
    [85] a_webhook_secret_is_no_key,
}

/// What belongs to the page and its dialogs, or is advice to people. Of S46 the
/// menu does; that a limit can be taken off is a row.
const OF_THE_PAGE: &[u32] = &[39, 40, 45, 48, 54, 74, 75];

#[test]
fn every_item_has_its_row() {
    let covered: BTreeSet<u32> = COVERED.iter().copied().collect();
    let expected: BTreeSet<u32> =
        (26..=85).filter(|number| !OF_THE_PAGE.contains(number)).collect();
    assert_eq!(covered, expected);
    assert_eq!(covered.len(), COVERED.len(), "an item is covered twice");
}

const SERVER_KINDS: [&str; 2] = ["secret", "restricted"];

// Making keys.

fn secret_keys_are_made_in_both_modes(life: &Life) {
    for (live, prefix) in [(false, "sk_test_"), (true, "sk_live_")] {
        let others = life.list(&format!("livemode={}", !live));
        let made = life.make_kind("secret", live);
        assert!(made.secret.starts_with(prefix), "{prefix}");
        assert_eq!(made.shown["livemode"], live);
        assert_eq!(life.used(&made.secret), "200");
        assert_eq!(life.list(&format!("livemode={}", !live)), others, "nothing in the other mode");
    }
}

/// A host that sends codes, and who gets them.
struct WithCodes {
    life: Life,
    receiver: RecordingUpstream,
}

impl WithCodes {
    fn start() -> Self {
        #[derive(clap::Parser)]
        struct Flags {
            #[command(flatten)]
            verification: VerificationConfig,
        }
        let receiver = RecordingUpstream::start();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("webhook-secret");
        fs::write(&file, "0123456789".repeat(4)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let flags = Flags::parse_from([
            "wardkey",
            "--verification=webhook",
            &format!("--verification-webhook=http://{}/codes", receiver.address),
            &format!("--verification-webhook-secret-file={}", file.display()),
        ]);
        let delivery = flags.verification.delivery().unwrap();
        assert!(matches!(delivery, Delivery::Webhook(_)));
        let life = Life::start_with(Options { delivery, ..Options::default() });
        Self { life, receiver }
    }

    /// Asks for something that needs a code. Returns the challenge's id and its
    /// code.
    #[track_caller]
    fn challenge(&self, request: &str, body: &Value) -> (String, String) {
        let operator = &self.life.host.operator;
        let sent = self.receiver.count();
        let answer =
            self.life.check_as(operator, request, body.clone(), &[], "403 verification_required");
        assert_eq!(self.receiver.count(), sent + 1);
        let message: Value = serde_json::from_slice(&self.receiver.last().body).unwrap();
        let (id, code) = (text(&message["id"]), text(&message["code"]));
        assert_eq!(answer.json()["error"]["verification"]["id"], *id);
        assert!(!answer.body.contains(&code), "the code is in the answer");
        (id, code)
    }

    /// Asks again with a code.
    #[track_caller]
    fn confirm(&self, request: &str, body: &Value, id: &str, code: &str, expected: &str) -> Value {
        let header = [("Wardkey-Verification", &*format!("{id}:{code}"))];
        let operator = &self.life.host.operator;
        self.life.check_as(operator, request, body.clone(), &header, expected).json()
    }

    fn live_keys(&self) -> usize {
        self.life.state().keys.values().filter(|key| has_mode(key, true)).count()
    }
}

/// Returns a code that it is not.
fn another(code: &str) -> String {
    let number: u32 = code.parse().unwrap();
    format!("{:06}", (number + 1) % 1_000_000)
}

fn a_live_secret_key_is_made_with_a_code_only(_: &Life) {
    let codes = WithCodes::start();
    let life = &codes.life;
    let create = &*format!("POST {KEYS}");
    let wanted = &json!({ "kind": "secret", "livemode": true, "name": "a key" });
    let before = codes.live_keys();

    // A wrong code makes no key, and the right one exactly one.
    let (id, code) = codes.challenge(create, wanted);
    codes.confirm(create, wanted, &id, &another(&code), "403 verification_failed");
    assert_eq!(codes.live_keys(), before);
    let made = Made::from(codes.confirm(create, wanted, &id, &code, "201"));
    assert_eq!(codes.live_keys(), before + 1);
    assert_eq!(life.used(&made.secret), "200");
    assert!(codes.receiver.last().body.windows(6).any(|part| part == code.as_bytes()));
    // It is used up.
    codes.confirm(create, wanted, &id, &code, "403 verification_expired");

    // Five tries, and the right code is no good any more.
    let (id, code) = codes.challenge(create, wanted);
    for _ in 0..5 {
        codes.confirm(create, wanted, &id, &another(&code), "403 verification_failed");
    }
    codes.confirm(create, wanted, &id, &code, "403 verification_expired");

    // Ten minutes.
    let (id, code) = codes.challenge(create, wanted);
    life.wait_until(NOON + 10 * MINUTE - 1);
    codes.confirm(create, wanted, &id, &code, "201");
    let (id, code) = codes.challenge(create, wanted);
    life.wait_until(NOON + 20 * MINUTE - 1);
    codes.confirm(create, wanted, &id, &code, "403 verification_expired");
    assert_eq!(codes.live_keys(), before + 2);

    // It confirms what it was asked for, whoever has it.
    let (id, code) = codes.challenge(create, wanted);
    for (field, value) in [
        ("name", json!("another key")),
        ("kind", json!("restricted")),
        ("note", json!("elsewhere")),
        ("expires_at", json!(time(NOON + DAY))),
    ] {
        let mut other = wanted.clone();
        other[field] = value;
        codes.confirm(create, &other, &id, &code, "403 verification_mismatch");
    }
    codes.confirm(create, wanted, &id, &code, "201");
    let (id, code) = codes.challenge(create, wanted);
    let secret = life.default_key("restricted", false);
    let rotate = on(&text(&secret["id"]), "rotate");
    // In test mode there is nothing to confirm, and no code is used up by it.
    codes.confirm(&rotate, &json!({}), &id, &code, "200");
    let live = on(&text(&life.default_key("secret", true)["id"]), "rotate");
    codes.confirm(&live, &json!({}), &id, &code, "403 verification_mismatch");
    codes.confirm(create, wanted, &id, &code, "201");
    assert_eq!(codes.live_keys(), before + 4);

    // A code is asked for last: a request that is refused anyway sends none. And
    // test keys and publishable keys need none.
    let sent = codes.receiver.count();
    life.check(create, json!({ "kind": "secret", "livemode": true }), "400 parameter_missing");
    life.check(create, json!({ "kind": "secret", "name": "a key" }), "201");
    life.check(create, json!({ "kind": "publishable", "livemode": true, "name": "p" }), "201");
    assert_eq!(codes.receiver.count(), sent);

    // Nor is a code written down anywhere.
    for entry in life.host.block_on(life.audit()) {
        assert!(!serde_json::to_string(&entry).unwrap().contains(&code), "{entry:?}");
    }

    // A key is asked for a code as well: a stolen one leaves no other behind.
    let manager = json!({ "kind": "restricted", "livemode": true, "name": "a manager",
        "permissions": ["api_key_write"] });
    let (id, code) = codes.challenge(create, &manager);
    let manager = Made::from(codes.confirm(create, &manager, &id, &code, "201"));
    let wanted = json!({ "kind": "restricted", "livemode": true, "name": "a key" });
    let (id, code) = codes.challenge(create, &wanted);
    let header = [("Wardkey-Verification", &*format!("{id}:{code}"))];
    life.check_as(&manager.secret, create, wanted.clone(), &[], "403 verification_required");
    // That code is the operator's.
    let mismatch = "403 verification_mismatch";
    life.check_as(&manager.secret, create, wanted, &header, mismatch);
}

fn a_key_has_to_be_named(life: &Life) {
    let create = format!("POST {KEYS}");
    for live in [false, true] {
        for kind in ["secret", "restricted", "publishable"] {
            let named = |name| json!({ "kind": kind, "livemode": live, "name": name });
            let nameless = json!({ "kind": kind, "livemode": live });
            for wanted in [named(""), named("  "), nameless] {
                let refused = life.check(&create, wanted, "400 parameter_missing");
                assert_eq!(refused["error"]["param"], "name");
            }
        }
    }
    life.check(&create, json!({ "kind": "secret", "name": " a key " }), "201");
    assert_eq!(life.list("")[0]["name"], "a key");
}

fn a_new_secret_is_shown_once(life: &Life) {
    for kind in SERVER_KINDS {
        let made = life.make_kind(kind, true);
        assert_eq!(life.used(&made.secret), "200");
        let id = &made.id;
        let operator = &life.host.operator;
        for (request, body) in [
            (format!("GET {KEYS}/{id}"), Value::Null),
            (format!("GET {KEYS}?limit=100&include_expired=true"), Value::Null),
            (on(id, ""), json!({ "note": "vault" })),
            (on(id, "restore"), Value::Null),
            (on(id, "expire"), Value::Null),
        ] {
            let answer = life.check_as(operator, &request, body, &[], "200");
            assert!(!answer.body.contains(&made.secret), "{request}");
        }
        assert_eq!(life.stored(id).sealed_secret, None);
    }
}

fn a_note_is_offered_and_can_be_left_out(life: &Life) {
    let without = life.make_kind("secret", true);
    assert_eq!(without.shown["note"], "");
    let with = life.make(json!({ "kind": "secret", "livemode": true, "note": "vault: pay" }));
    assert_eq!(with.shown["note"], "vault: pay");
    // Offered at the end, when the value has been shown.
    life.check_key(&without.id, "", json!({ "note": "envelope" }), "200");
    assert_eq!(life.show(&without.id)["note"], "envelope");
    assert_eq!(life.show(&with.id)["note"], "vault: pay", "that of another key");
    for note in ["x".repeat(501), "two\nlines".to_owned()] {
        let change = json!({ "note": note });
        life.check_key(&with.id, "", change, "400 parameter_invalid");
    }
}

fn a_restricted_key_may_do_what_was_chosen(life: &Life) {
    let chosen = json!(["customer_read", "charge_write", "charge_write"]);
    let made = life.make(json!({ "kind": "restricted", "permissions": chosen }));
    assert_eq!(made.shown["permissions"], json!(["charge_write", "customer_read"]));
    for (request, expected) in [
        ("GET /v1/customers", "200"),
        ("POST /v1/charges", "200"),
        // To write includes to read.
        ("GET /v1/charges", "200"),
        ("POST /v1/customers", "403 more_permissions_required"),
        ("GET /v1/payouts", "403 more_permissions_required"),
        ("GET /v1/balance", "403 more_permissions_required"),
    ] {
        assert_eq!(life.call(&made.secret, request), expected, "{request}");
    }
    let owner = life.default_secret("secret", false);
    let customers = life.ask(&owner.secret, "GET /v1/customers").json();
    assert_eq!(customers["data"], json!([]), "a refused request has made one");

    let create = format!("POST {KEYS}");
    for permissions in [json!(["no_such_read"]), json!(["*"]), json!(["charge_read "])] {
        let wanted = json!({ "kind": "restricted", "name": "x", "permissions": permissions });
        let refused = life.check(&create, wanted, "400 parameter_invalid");
        assert_eq!(refused["error"]["param"], "permissions");
    }
}

fn there_are_as_many_restricted_keys_as_wanted(life: &Life) {
    let many = 60;
    let made: Vec<Made> = (0..many).map(|_| life.make_kind("restricted", false)).collect();
    let listed = life.list("livemode=false");
    for key in &made {
        assert_eq!(listed.iter().filter(|one| one["id"] == *key.id).count(), 1);
        assert_eq!(life.used(&key.secret), "200");
    }
    let secrets: BTreeSet<&String> = made.iter().map(|key| &key.secret).collect();
    assert_eq!(secrets.len(), many, "two keys have the same secret");
}

// Showing them.

fn a_live_secret_that_was_seen_is_never_revealed(life: &Life) {
    for kind in SERVER_KINDS {
        let made = life.make_kind(kind, true);
        let rotated = Made::from(life.check_key(&made.id, "rotate", json!({}), "200"));
        let overlap = json!({ "expire_current_key_in_minutes": 60 });
        let second = Made::from(life.check_key(&rotated.id, "rotate", overlap, "200"));
        for key in [&rotated, &second] {
            let refused = life.check_key(&key.id, "reveal", Value::Null, "403 secret_shown_once");
            assert!(!refused.to_string().contains(&key.secret));
            assert!(!life.show(&key.id)["actions"].to_string().contains("reveal"));
            assert_eq!(life.used(&key.secret), "200", "the refusal does nothing to the key");
        }
        let keeper = life.make_kind("secret", true);
        let reveal = on(&second.id, "reveal");
        life.check_as(&keeper.secret, &reveal, Value::Null, &[], "403 operator_required");
        life.host.clock.set(life.host.clock.now() + DAY);
        life.check_key(&second.id, "reveal", Value::Null, "403 secret_shown_once");
    }
}

fn a_live_secret_that_nobody_has_seen_can_be_revealed(life: &Life) {
    for kind in SERVER_KINDS {
        let shown = life.default_key(kind, true);
        assert_eq!(token(&shown), None, "it is not shown without being asked for");
        assert!(shown["actions"].to_string().contains("reveal"));
        let first = life.default_secret(kind, true);
        assert_eq!(life.used(&first.secret), "200");
        // And again, the same one, of the same key.
        let again = life.default_secret(kind, true);
        assert_eq!((&again.id, &again.secret), (&first.id, &first.secret));
        assert_eq!(again.shown["revision"], shown["revision"], "to reveal is no change");
        assert_eq!(life.last_audit().action, "api_key.revealed");
        assert_eq!(token(&life.show(&first.id)), None, "nor is it shown from then on");
    }
}

fn every_test_secret_can_be_seen_again(life: &Life) {
    for kind in SERVER_KINDS {
        let made = life.make_kind(kind, false);
        assert_eq!(token(&life.show(&made.id)), None);
        for _ in 0..2 {
            let seen = Made::from(life.check_key(&made.id, "reveal", Value::Null, "200"));
            assert_eq!(seen.secret, made.secret);
        }
        let rotated = Made::from(life.check_key(&made.id, "rotate", json!({}), "200"));
        let seen = Made::from(life.check_key(&rotated.id, "reveal", Value::Null, "200"));
        assert_eq!(seen.secret, rotated.secret);
        life.check_key(&made.id, "reveal", Value::Null, "409 key_ended");
        assert_eq!(life.default_secret(kind, false).secret.get(..3), made.secret.get(..3));
    }
}

fn publishable_keys_are_shown_without_asking(life: &Life) {
    for (live, prefix) in [(false, "pk_test_"), (true, "pk_live_")] {
        let made = life.make_kind("publishable", live);
        let default = life.default_key("publishable", live);
        for key in [life.show(&made.id), default] {
            assert_eq!(key["type"], "publishable_key");
            let secret = token(&key).unwrap();
            assert!(secret.starts_with(prefix));
            assert_eq!(life.used(&secret), "200");
            assert!(!key["actions"].to_string().contains("reveal"), "{key}");
        }
        for key in life.list(&format!("livemode={live}")) {
            assert_eq!(token(&key).is_some(), key["kind"] == "publishable", "{key}");
        }
    }
}

fn a_lost_secret_is_nowhere(life: &Life) {
    let mut lost = Vec::new();
    for kind in SERVER_KINDS {
        let made = life.make_kind(kind, true);
        life.check_key(&made.id, "reveal", Value::Null, "403 secret_shown_once");
        assert_eq!(life.stored(&made.id).sealed_secret, None, "there is nothing to recover");
        // The ways out: rotate it, or end it and make another.
        let rotated = Made::from(life.check_key(&made.id, "rotate", json!({}), "200"));
        assert_ne!(rotated.secret, made.secret);
        assert_eq!((&*life.used(&made.secret), &*life.used(&rotated.secret)), EXCHANGED);
        life.check_key(&rotated.id, "expire", Value::Null, "200");
        let another = life.make_kind(kind, true);
        assert_eq!((&*life.used(&rotated.secret), &*life.used(&another.secret)), EXCHANGED);
        lost.extend([made.secret, rotated.secret, another.secret]);
    }
    life.host.finish();
    for file in fs::read_dir(life.host.dir.path()).unwrap() {
        let path = file.unwrap().path();
        let held = fs::read(&path).unwrap();
        for secret in &lost {
            let found = held.windows(30).any(|part| part == &secret.as_bytes()[10..40]);
            assert!(!found, "a secret is in {}", path.display());
        }
    }
}

/// What came of a use of the old key and of the new one.
const EXCHANGED: (&str, &str) = ("401 api_key_expired", "200");

fn a_note_can_follow_a_reveal(life: &Life) {
    for live in [false, true] {
        for kind in SERVER_KINDS {
            let revealed = life.default_secret(kind, live);
            life.check_key(&revealed.id, "", json!({ "note": "vault: here" }), "200");
            let shown = life.show(&revealed.id);
            assert_eq!(shown["note"], "vault: here");
            assert_eq!(shown["name"], revealed.shown["name"]);
            assert_eq!(life.default_secret(kind, live).secret, revealed.secret);
        }
    }
}

// Addresses.

fn server_keys_can_be_limited_to_addresses(life: &Life) {
    let list = json!(["192.0.2.7", "198.51.100.0/24"]);
    for live in [false, true] {
        for kind in SERVER_KINDS {
            let wanted = json!({ "kind": kind, "livemode": live, "ip_allowlist": list });
            let made = life.make(wanted);
            let later = life.make_kind(kind, live);
            assert_eq!(life.used_from(&later.secret, "203.0.113.9"), "200");
            life.check_key(&later.id, "", json!({ "ip_allowlist": list }), "200");
            for key in [made, later] {
                assert_eq!(life.show(&key.id)["ip_allowlist"], list);
                for (address, expected) in [
                    ("192.0.2.7", "200"),
                    ("198.51.100.255", "200"),
                    ("192.0.2.8", "403 ip_not_allowed"),
                    ("203.0.113.9", "403 ip_not_allowed"),
                    ("2001:db8::7", "403 ip_not_allowed"),
                ] {
                    assert_eq!(life.used_from(&key.secret, address), expected, "{address}");
                }
            }
        }
        // What stands in front-end code is used from everywhere.
        let publishable = text(&life.default_key("publishable", live)["id"]);
        let limit = json!({ "ip_allowlist": list });
        let refused = life.check_key(&publishable, "", limit, "400 parameter_invalid");
        assert_eq!(refused["error"]["param"], "ip_allowlist");
        let wanted = json!({ "kind": "publishable", "livemode": live, "name": "p",
            "ip_allowlist": list });
        life.check(&format!("POST {KEYS}"), wanted, "400 parameter_invalid");
    }
}

fn allowlists_are_ipv4_only(life: &Life) {
    let key = life.make(json!({ "kind": "restricted", "ip_allowlist": ["192.0.2.7"] }));
    for entry in [
        "2001:db8::1",
        "2001:db8::/32",
        "::1",
        "::",
        "::/0",
        "::ffff:192.0.2.7",
        "[2001:db8::1]",
        "fe80::1%eth0",
    ] {
        for list in [json!([entry]), json!(["198.51.100.1", entry])] {
            let refused = life.check_key(
                &key.id,
                "",
                json!({ "ip_allowlist": list }),
                "400 parameter_invalid",
            );
            assert_eq!(refused["error"]["param"], "ip_allowlist");
            assert!(text(&refused["error"]["message"]).contains("IPv4"), "{refused}");
            let wanted = json!({ "kind": "secret", "name": "x", "ip_allowlist": list });
            life.check(&format!("POST {KEYS}"), wanted, "400 parameter_invalid");
        }
    }
    assert_eq!(life.used_from(&key.secret, "192.0.2.7"), "200");
    assert_eq!(life.used_from(&key.secret, "198.51.100.1"), "403 ip_not_allowed");
}

fn every_prefix_length_is_taken_at_its_word(life: &Life) {
    let key = life.make_kind("secret", false);
    let limit = |list: Value, expected| {
        life.check_key(&key.id, "", json!({ "ip_allowlist": list }), expected);
    };
    limit(json!(["100.10.38.0/24"]), "200");
    for (address, expected) in [
        ("100.10.38.0", "200"),
        ("100.10.38.255", "200"),
        ("100.10.39.1", "403 ip_not_allowed"),
        ("100.10.37.255", "403 ip_not_allowed"),
    ] {
        assert_eq!(life.used_from(&key.secret, address), expected, "{address}");
    }
    let base = u32::from_be_bytes([203, 0, 113, 128]);
    for bits in 0..=32_u32 {
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        let (first, last) = (base & mask, base | !mask);
        let address = |number: u32| std::net::Ipv4Addr::from(number).to_string();
        limit(json!([format!("{}/{bits}", address(first))]), "200");
        for number in [first, last] {
            assert_eq!(life.used_from(&key.secret, &address(number)), "200", "/{bits}");
        }
        for number in [first.checked_sub(1), last.checked_add(1)].into_iter().flatten() {
            let outside = life.used_from(&key.secret, &address(number));
            assert_eq!(outside, "403 ip_not_allowed", "{} of /{bits}", address(number));
        }
    }
    for entry in [
        "100.10.38.0/33",
        "100.10.38.0/-1",
        "100.10.38.0/",
        "100.10.38",
        "100.10.38.0/24/24",
        "256.0.0.1",
        "010.0.0.1",
        "100.10.38.7/24",
        "/24",
        "any",
        "100.10.38.0-100.10.38.9",
    ] {
        limit(json!([entry]), "400 parameter_invalid");
    }
}

fn a_limit_can_be_taken_off_again(life: &Life) {
    for live in [false, true] {
        let list = json!(["192.0.2.7"]);
        let wanted = json!({ "kind": "secret", "livemode": live, "ip_allowlist": list });
        let key = life.make(wanted);
        assert_eq!(life.used_from(&key.secret, "203.0.113.9"), "403 ip_not_allowed");
        // Another change leaves the limit alone.
        life.check_key(&key.id, "", json!({ "note": "limited" }), "200");
        assert_eq!(life.used_from(&key.secret, "203.0.113.9"), "403 ip_not_allowed");
        life.check_key(&key.id, "", json!({ "ip_allowlist": [] }), "200");
        assert_eq!(life.show(&key.id)["ip_allowlist"], json!([]));
        assert_eq!(life.used_from(&key.secret, "203.0.113.9"), "200");
        assert_eq!(life.used_from(&key.secret, "2001:db8::1"), "200");
    }
}

fn each_key_has_its_own_allowlist(life: &Life) {
    let addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let keys = addresses
        .map(|address| life.make(json!({ "kind": "restricted", "ip_allowlist": [address] })));
    let free = life.make_kind("restricted", false);
    for (own, key) in addresses.iter().zip(&keys) {
        for address in addresses {
            let expected = if address == *own { "200" } else { "403 ip_not_allowed" };
            assert_eq!(life.used_from(&key.secret, address), expected, "{own} from {address}");
        }
        assert_eq!(life.used_from(&free.secret, own), "200");
    }
    life.check_key(&keys[0].id, "", json!({ "ip_allowlist": [] }), "200");
    assert_eq!(life.used_from(&keys[1].secret, "192.0.2.1"), "403 ip_not_allowed");
}

fn from_elsewhere_nothing_is_done(life: &Life) {
    let key = life.make(json!({ "kind": "secret", "ip_allowlist": ["192.0.2.7"] }));
    let auth = format!("Bearer {}", key.secret);
    let from = |method, path, address| {
        let headers = [("Authorization", &*auth), ("X-Forwarded-For", address)];
        let body = if method == "POST" { "name=x" } else { "" };
        life.host.call_with(method, path, &headers, body)
    };
    let refused = from("POST", "/v1/customers", "192.0.2.8");
    assert_eq!(super::outcome(&refused), "403 ip_not_allowed");
    assert!(refused.message().contains("192.0.2.8"), "{refused:?}");
    let made = from("GET", "/v1/customers", "192.0.2.7").json();
    assert_eq!(made["data"], json!([]), "a refused request has made a customer");
    // Nor are keys managed from there.
    let headers = [("X-Forwarded-For", "192.0.2.8")];
    let expire = on(&life.make_kind("restricted", false).id, "expire");
    life.check_as(&key.secret, &expire, Value::Null, &headers, "403 ip_not_allowed");
    let headers = [("X-Forwarded-For", "192.0.2.7")];
    life.check_as(&key.secret, &expire, Value::Null, &headers, "200");
}

// Editing.

fn name_and_note_are_changed_by_themselves(life: &Life) {
    for live in [false, true] {
        for kind in SERVER_KINDS {
            let key = life.make(json!({ "kind": kind, "livemode": live, "note": "a note" }));
            for (change, name, note) in [
                (json!({ "name": "renamed" }), "renamed", "a note"),
                (json!({ "note": "moved" }), "renamed", "moved"),
                (json!({ "name": "both", "note": "both" }), "both", "both"),
                (json!({ "note": "" }), "both", ""),
                (json!({}), "both", ""),
            ] {
                let shown = life.check_key(&key.id, "", change, "200");
                assert_eq!((&shown["name"], &shown["note"]), (&json!(name), &json!(note)));
            }
            for name in ["", "   ", &"x".repeat(101)] {
                let refused =
                    life.check_key(&key.id, "", json!({ "name": name }), "400 parameter_invalid");
                assert_eq!(refused["error"]["param"], "name");
            }
        }
    }
}

fn a_change_never_touches_the_secret(life: &Life) {
    for live in [false, true] {
        let key = life.make_kind("restricted", live);
        let before = life.stored(&key.id);
        for change in [
            json!({ "name": "renamed" }),
            json!({ "note": "moved" }),
            json!({ "permissions": ["charge_read"] }),
            json!({ "connect_permissions": ["charge_read"] }),
            json!({ "ip_allowlist": ["192.0.2.0/24"] }),
        ] {
            let shown = life.check_key(&key.id, "", change, "200");
            assert_eq!(token(&shown), None);
            assert_eq!(life.used(&key.secret), "200");
        }
        let after = life.stored(&key.id);
        assert_eq!((after.digest, &after.masked), (before.digest, &before.masked));
        assert_eq!(after.sealed_secret, before.sealed_secret);
        assert_eq!((after.created_at, &after.prefix), (before.created_at, &before.prefix));
        for field in ["secret", "secret_key", "kind", "livemode", "account", "id", "expires_at"] {
            life.check_key(&key.id, "", json!({ field: "x" }), "400 parameter_invalid");
        }
    }
}

fn permissions_are_changed_in_place(life: &Life) {
    let key = life.make(json!({ "kind": "restricted", "permissions": ["charge_read"] }));
    let refused = "403 more_permissions_required";
    for (permissions, charges, customers) in [
        (json!(["charge_read"]), "200", refused),
        (json!(["customer_read"]), refused, "200"),
        (json!(["customer_read", "charge_write"]), "200", "200"),
        (json!([]), refused, refused),
    ] {
        life.check_key(&key.id, "", json!({ "permissions": permissions }), "200");
        // In force with the very next request.
        assert_eq!(life.call(&key.secret, "GET /v1/charges"), charges, "{permissions}");
        assert_eq!(life.call(&key.secret, "GET /v1/customers"), customers, "{permissions}");
    }
}

// Ending.

fn server_keys_expire_and_publishable_ones_do_not(life: &Life) {
    for live in [false, true] {
        for kind in SERVER_KINDS {
            for id in [life.make_kind(kind, live).id, text(&life.default_key(kind, live)["id"])] {
                let shown = life.check_key(&id, "expire", Value::Null, "200");
                assert_eq!(shown["status"], "expired");
                assert_eq!(shown["expires_at"], time(NOON));
                assert_eq!(shown["actions"], json!([]));
            }
        }
        let made = life.make_kind("publishable", live);
        let default = life.default_key("publishable", live);
        for key in [life.show(&made.id), default] {
            let (id, secret) = (text(&key["id"]), token(&key).unwrap());
            assert!(!key["actions"].to_string().contains("expire"), "{key}");
            life.check_key(&id, "expire", Value::Null, "400 publishable_key_cannot_expire");
            assert_eq!(life.used(&secret), "200");
        }
        let wanted = json!({ "kind": "publishable", "livemode": live, "name": "p",
            "expires_at": time(NOON + DAY) });
        let refused = life.check(&format!("POST {KEYS}"), wanted, "400 parameter_invalid");
        assert_eq!(refused["error"]["param"], "expires_at");
    }
}

fn an_expired_key_can_do_nothing(life: &Life) {
    let by_hand = life.make_kind("secret", false);
    let by_itself = life.make(json!({ "kind": "secret", "expires_at": time(NOON + DAY) }));
    let customer = text(&life.ask(&by_hand.secret, "POST /v1/customers").json()["id"]);
    assert_eq!(life.used(&by_itself.secret), "200");
    life.check_key(&by_hand.id, "expire", Value::Null, "200");
    // Without anybody seeing to its end.
    life.host.clock.set(NOON + DAY);
    let owner = life.default_secret("secret", false);
    for key in [&by_hand, &by_itself] {
        for request in [
            "GET /v1/customers",
            "POST /v1/customers",
            &format!("GET /v1/customers/{customer}"),
            "GET /v1/nothing",
            "GET /v2/iam/api_keys/self",
        ] {
            let answer = life.ask(&key.secret, request);
            assert_eq!(super::outcome(&answer), "401 api_key_expired", "{request}");
            assert_eq!(answer.json()["error"]["type"], "authentication_error");
        }
        let expired = "401 api_key_expired";
        life.check_as(&key.secret, &format!("GET {KEYS}"), Value::Null, &[], expired);
        let wanted = json!({ "kind": "restricted", "name": "x" });
        life.check_as(&key.secret, &format!("POST {KEYS}"), wanted, &[], expired);
        let ask = json!({ "key": key.secret, "method": "GET", "path": "/v1/customers",
            "source": "192.0.2.1" });
        let verified =
            send_json(life.host.internal, "POST", "/verify", &[], &ask.to_string()).json();
        assert!(verified.to_string().contains("api_key_expired"), "{verified}");
    }
    let customers = life.ask(&owner.secret, "GET /v1/customers").json();
    assert_eq!(customers["data"].as_array().map(Vec::len), Some(1), "{customers}");
}

fn nothing_takes_the_place_of_an_expired_key(life: &Life) {
    for live in [false, true] {
        let ids = |life: &Life| -> BTreeSet<String> { life.state().keys.into_keys().collect() };
        let key = life.make_kind("secret", live);
        let before = ids(life);
        let shown = life.check_key(&key.id, "expire", Value::Null, "200");
        assert_eq!(shown["id"], *key.id);
        assert_eq!(shown["replaced_by"], Value::Null);
        assert_eq!(ids(life), before);
        // Nor later, by itself.
        life.wait_until(life.host.clock.now() + 400 * DAY);
        assert_eq!(ids(life), before);
        life.make_kind("secret", live);
    }
}

fn there_is_no_way_back_from_an_end(life: &Life) {
    for kind in SERVER_KINDS {
        let key = life.make_kind(kind, false);
        life.check_key(&key.id, "expire", Value::Null, "200");
        let shown = life.show(&key.id);
        assert_eq!(shown["actions"], json!([]));
        let later = json!({ "at": time(NOON + DAY) });
        for (verb, body) in [
            ("", json!({ "name": "again" })),
            ("", json!({})),
            ("expire", Value::Null),
            ("rotate", json!({ "expire_current_key_in_minutes": 60 })),
            ("schedule_rotation", later),
            ("cancel_rotation", Value::Null),
            ("reveal", Value::Null),
            ("restore", Value::Null),
        ] {
            life.check_key(&key.id, verb, body, "409 key_ended");
        }
        life.check_key(&key.id, "", json!({ "expires_at": null }), "400 parameter_invalid");
        assert_eq!(life.show(&key.id), shown);
        assert_eq!(life.used(&key.secret), "401 api_key_expired");
    }
}

// Rotating.

/// Rotates a key. Returns its replacement.
#[track_caller]
fn rotate(life: &Life, id: &str, body: Value) -> Made {
    let made = Made::from(life.check_key(id, "rotate", body, "200"));
    assert_ne!(made.id, id);
    assert_eq!(made.shown["replaces"], id);
    assert_eq!(life.show(id)["replaced_by"], *made.id);
    made
}

fn a_rotation_ends_one_key_and_makes_another(life: &Life) {
    for live in [false, true] {
        let key = life.make_kind("secret", live);
        let other = life.make_kind("secret", live);
        let count = life.state().keys.len();
        let made = rotate(life, &key.id, Value::Null);
        assert_ne!(made.secret, key.secret);
        assert_eq!((&*life.used(&key.secret), &*life.used(&made.secret)), EXCHANGED);
        assert_eq!(life.used(&other.secret), "200", "another key has nothing to do with it");
        assert_eq!(life.state().keys.len(), count + 1);
        // It is rotated once; from then on its replacement is.
        life.check_key(&key.id, "rotate", Value::Null, "409 key_ended");
    }
}

fn every_kind_is_rotated(life: &Life) {
    for live in [false, true] {
        for kind in ["publishable", "secret", "restricted"] {
            for key in [life.make_kind(kind, live), {
                let id = text(&life.default_key(kind, live)["id"]);
                match kind {
                    "publishable" => Made::from(life.show(&id)),
                    _ => Made::from(life.check_key(&id, "reveal", Value::Null, "200")),
                }
            }] {
                let made = rotate(life, &key.id, json!({}));
                assert_eq!((&*life.used(&key.secret), &*life.used(&made.secret)), EXCHANGED);
                assert_eq!(made.shown["kind"], kind);
                assert_eq!(made.shown["livemode"], live);
                assert_eq!(made.secret.get(..8), key.secret.get(..8), "the same prefix");
            }
        }
    }
}

fn a_rotation_can_wait_for_its_time(life: &Life) {
    for kind in ["publishable", "secret", "restricted"] {
        let key = life.make_kind(kind, true);
        let at = life.host.clock.now() + 3 * DAY;
        let shown = life.check_key(&key.id, "schedule_rotation", json!({ "at": time(at) }), "200");
        assert_eq!(shown["rotation"]["at"], time(at));
        let count = life.state().keys.len();
        life.wait_until(at - 1);
        assert_eq!(life.state().keys.len(), count, "it has not waited");
        assert_eq!(life.used(&key.secret), "200");
        life.wait_until(at);
        let old = life.show(&key.id);
        assert_eq!((&old["status"], &old["rotation"]), (&json!("expired"), &Value::Null));
        assert_eq!(life.used(&key.secret), "401 api_key_expired");
        let new = life.stored(&text(&old["replaced_by"]));
        assert_eq!((new.origin.as_str(), new.rotation), ("platform", None));
        life.wait_until(at + 30 * DAY);
        assert_eq!(life.state().keys.len(), count + 1, "once means once");

        // Thought better of.
        let key = life.make_kind(kind, true);
        let at = life.host.clock.now() + DAY;
        life.check_key(&key.id, "schedule_rotation", json!({ "at": time(at) }), "200");
        life.check_key(&key.id, "cancel_rotation", Value::Null, "200");
        life.check_key(&key.id, "cancel_rotation", Value::Null, "409 no_rotation_scheduled");
        life.wait_until(at + DAY);
        assert_eq!(life.used(&key.secret), "200");
        let now = life.host.clock.now();
        for at in [now, now - 1, 0, now + 367 * DAY] {
            let wanted = json!({ "at": time(at) });
            let refused =
                life.check_key(&key.id, "schedule_rotation", wanted, "400 parameter_invalid");
            assert_eq!(refused["error"]["param"], "at");
        }
    }
}

fn without_an_overlap_the_old_key_ends_at_once(life: &Life) {
    for body in [Value::Null, json!({}), json!({ "expire_current_key_in_minutes": 0 })] {
        for kind in ["publishable", "secret", "restricted"] {
            let key = life.make_kind(kind, true);
            assert_eq!(life.used(&key.secret), "200", "so that the gate knows it");
            let made = rotate(life, &key.id, body.clone());
            assert_eq!((&*life.used(&key.secret), &*life.used(&made.secret)), EXCHANGED);
            let old = life.show(&key.id);
            assert_eq!(
                (&old["status"], &old["expires_at"]),
                (&json!("expired"), &time(NOON).into())
            );
            let listed = life.list("livemode=true");
            assert!(!listed.iter().any(|one| one["id"] == *key.id), "it is still listed");
        }
    }
}

fn with_an_overlap_both_keys_work_for_at_most_seven_days(life: &Life) {
    for kind in ["publishable", "secret", "restricted"] {
        for minutes in [1, 60, 7 * 24 * 60] {
            let key = life.make_kind(kind, true);
            let now = life.host.clock.now();
            let overlap = json!({ "expire_current_key_in_minutes": minutes });
            let made = rotate(life, &key.id, overlap);
            let end = now + minutes * MINUTE;
            let old = life.show(&key.id);
            assert_eq!((&old["status"], &old["expires_at"]), (&json!("active"), &time(end).into()));
            assert_eq!(made.shown["expires_at"], Value::Null);
            life.wait_until(end - 1);
            let (first, second) = (life.used(&key.secret), life.used(&made.secret));
            assert_eq!((&*first, &*second), ("200", "200"), "{minutes}");
            life.check_key(&key.id, "rotate", json!({}), "409 key_replaced");
            life.host.clock.set(end);
            assert_eq!((&*life.used(&key.secret), &*life.used(&made.secret)), EXCHANGED);
        }
    }
    let key = life.make_kind("secret", true);
    for minutes in [json!(10_081), json!(u32::MAX)] {
        let overlap = json!({ "expire_current_key_in_minutes": minutes });
        let refused = life.check_key(&key.id, "rotate", overlap, "400 parameter_invalid");
        assert_eq!(refused["error"]["param"], "expire_current_key_in_minutes");
    }
    for minutes in [json!(-1), json!("1"), json!(1.5), json!(u64::MAX)] {
        let overlap = json!({ "expire_current_key_in_minutes": minutes });
        life.check_key(&key.id, "rotate", overlap, "400 parameter_invalid");
    }
    // Nobody lives longer by an overlap.
    let end = life.host.clock.now() + MINUTE;
    let key = life.make(json!({ "kind": "secret", "expires_at": time(end) }));
    let made = rotate(life, &key.id, json!({ "expire_current_key_in_minutes": 60 }));
    assert_eq!(life.show(&key.id)["expires_at"], time(end));
    assert_eq!(made.shown["expires_at"], time(end));
}

fn a_replacement_is_called_as_its_kind(life: &Life) {
    for live in [false, true] {
        for (kind, expected) in
            [("publishable", "Publishable key"), ("secret", "Secret key"), ("restricted", "orders")]
        {
            let key = life.make(json!({ "kind": kind, "livemode": live, "name": "orders" }));
            let made = rotate(life, &key.id, json!({}));
            assert_eq!(made.shown["name"], expected);
            assert_eq!(life.show(&key.id)["name"], "orders", "the old key keeps its name");
        }
    }
}

fn a_custom_name_is_lost_and_can_be_given_again(life: &Life) {
    let key = life.make(json!({ "kind": "secret", "name": "orders" }));
    let made = rotate(life, &key.id, json!({}));
    assert_eq!(made.shown["name"], "Secret key");
    for kind in SERVER_KINDS {
        let made = rotate(life, &life.make_kind(kind, true).id, json!({}));
        let renamed = life.check_key(&made.id, "", json!({ "name": "orders again" }), "200");
        assert_eq!(renamed["name"], "orders again");
    }
    let made = rotate(life, &life.make_kind("publishable", true).id, json!({}));
    let refused = life.check_key(&made.id, "", json!({ "name": "x" }), "400 parameter_invalid");
    assert_eq!(refused["error"]["param"], "name");
}

fn a_replacement_is_shown_once(life: &Life) {
    for kind in SERVER_KINDS {
        let made = rotate(life, &life.make_kind(kind, true).id, json!({}));
        let operator = &life.host.operator;
        for request in [format!("GET {KEYS}/{}", made.id), format!("GET {KEYS}?limit=100")] {
            let answer = life.check_as(operator, &request, Value::Null, &[], "200");
            assert!(!answer.body.contains(&made.secret), "{request}");
        }
        life.check_key(&made.id, "reveal", Value::Null, "403 secret_shown_once");
        life.check_key(&made.id, "", json!({ "note": "vault: new" }), "200");
        assert_eq!(life.show(&made.id)["note"], "vault: new");
        // A note can be said at once, or is that of the old key.
        let noted = rotate(life, &made.id, json!({ "note": "at once" }));
        assert_eq!(noted.shown["note"], "at once");
        let kept = rotate(life, &noted.id, json!({}));
        assert_eq!(kept.shown["note"], "at once");
    }
}

fn what_a_schedule_made_can_be_revealed(life: &Life) {
    for kind in SERVER_KINDS {
        let key = life.make_kind(kind, true);
        life.check_key(&key.id, "reveal", Value::Null, "403 secret_shown_once");
        let at = life.host.clock.now() + DAY;
        life.check_key(&key.id, "schedule_rotation", json!({ "at": time(at) }), "200");
        life.wait_until(at);
        let new = text(&life.show(&key.id)["replaced_by"]);
        assert_eq!(life.show(&new)["origin"], "platform");
        let revealed = Made::from(life.check_key(&new, "reveal", Value::Null, "200"));
        assert_eq!(life.used(&revealed.secret), "200");
        // By hand somebody has seen it, also if the old key lives on.
        for minutes in [0, 60] {
            let overlap = json!({ "expire_current_key_in_minutes": minutes });
            let made = rotate(life, &life.make_kind(kind, true).id, overlap);
            assert_eq!(made.shown["origin"], "user");
            life.check_key(&made.id, "reveal", Value::Null, "403 secret_shown_once");
        }
        let by_hand = rotate(life, &new, json!({}));
        life.check_key(&by_hand.id, "reveal", Value::Null, "403 secret_shown_once");
    }
}

fn a_replacement_has_the_same_properties(life: &Life) {
    let wanted = json!({ "kind": "restricted", "livemode": true, "note": "vault",
        "permissions": ["charge_write", "customer_read"], "connect_permissions": ["charge_read"],
        "ip_allowlist": ["192.0.2.0/24", "203.0.113.9"], "expires_at": time(NOON + 90 * DAY) });
    let key = life.make(wanted);
    let by_hand = rotate(life, &key.id, json!({}));
    let at = NOON + DAY;
    life.check_key(&by_hand.id, "schedule_rotation", json!({ "at": time(at) }), "200");
    life.wait_until(at);
    let by_host = life.show(&text(&life.show(&by_hand.id)["replaced_by"]));
    for made in [&by_hand.shown, &by_host] {
        for field in [
            "account",
            "kind",
            "livemode",
            "type",
            "name",
            "note",
            "permissions",
            "connect_permissions",
            "ip_allowlist",
            "expires_at",
            "imported",
        ] {
            assert_eq!(made[field], key.shown[field], "{field}");
        }
    }
    let new = Made::from(life.check_key(&text(&by_host["id"]), "reveal", Value::Null, "200"));
    assert_eq!(life.used_from(&new.secret, "192.0.2.9"), "200");
    assert_eq!(life.used_from(&new.secret, "198.51.100.1"), "403 ip_not_allowed");
}

fn every_reason_to_rotate_is_served(life: &Life) {
    // A lost value: without knowing it.
    let lost = text(&life.default_key("secret", true)["id"]);
    assert_eq!(life.used(&rotate(life, &lost, json!({})).secret), "200");
    // A compromise: at once, whatever is scheduled.
    let leaked = life.make_kind("secret", true);
    let schedule = json!({ "at": time(NOON + DAY), "every_days": 30 });
    life.check_key(&leaked.id, "schedule_rotation", schedule, "200");
    let made = rotate(life, &leaked.id, json!({}));
    assert_eq!((&*life.used(&leaked.secret), &*life.used(&made.secret)), EXCHANGED);
    assert_eq!(life.show(&leaked.id)["rotation"], Value::Null);
    assert_eq!(made.shown["rotation"]["every_days"], 30, "the interval is kept");
    // Somebody leaves who knew it: another key sees to it.
    let known = life.make_kind("restricted", false);
    let keeper = life.make(json!({ "kind": "restricted", "permissions": ["api_key_write"] }));
    let request = on(&known.id, "rotate");
    let made = life.check_as(&keeper.secret, &request, Value::Null, &[], "200").json();
    let made = Made::from(made);
    assert_eq!((&*life.used(&known.secret), &*life.used(&made.secret)), EXCHANGED);
    // An interval: again and again, with an overlap.
    let key = life.make_kind("restricted", true);
    let schedule = json!({ "at": time(NOON + 30 * DAY), "every_days": 30,
        "expire_current_key_in_minutes": 60 });
    life.check_key(&key.id, "schedule_rotation", schedule, "200");
    let mut id = key.id;
    for round in 1..=3 {
        life.wait_until(NOON + round * 30 * DAY);
        let old = life.show(&id);
        assert_eq!(old["expires_at"], time(NOON + round * 30 * DAY + 60 * MINUTE));
        id = text(&old["replaced_by"]);
        let new = life.show(&id);
        assert_eq!(new["rotation"]["at"], time(NOON + (round + 1) * 30 * DAY));
        assert_eq!(new["status"], "active");
    }
}

// Limited access.

const LIMITED_AT: u64 = NOON + 180 * DAY + 1;

const MONEY: [&str; 3] =
    ["POST /v1/payouts", "POST /v1/transfers", "POST /v1/accounts/acct_1/external_accounts"];

/// A key that moves money, of each kind that can, and whether it is a live one.
fn movers(life: &Life) -> Vec<Made> {
    let mut keys = Vec::new();
    for live in [false, true] {
        keys.push(life.make_kind("secret", live));
        keys.push(life.default_secret("secret", live));
        let permissions = json!(["payout_write", "transfer_write", "customer_write"]);
        keys.push(
            life.make(
                json!({ "kind": "restricted", "livemode": live, "permissions": permissions }),
            ),
        );
    }
    keys
}

fn after_180_days_access_is_limited(life: &Life) {
    let keys = movers(life);
    life.wait_until(NOON + 90 * DAY);
    assert_eq!(life.call(&keys[0].secret, "POST /v1/payouts"), "200");
    life.wait_until(LIMITED_AT - 1);
    for key in &keys {
        assert_eq!(life.show(&key.id)["limited_access"], false, "at 180 days");
    }
    life.wait_until(LIMITED_AT);
    // What has moved money has its clock from then, in the database too.
    life.host.finish();
    for (number, key) in keys.iter().enumerate() {
        assert_eq!(life.show(&key.id)["limited_access"], number != 0, "{}", key.shown);
        // Used or not: only money counts.
        assert_eq!(life.call(&key.secret, "GET /v2/iam/api_keys/self"), "200");
    }
    assert_eq!(life.call(&keys[0].secret, "POST /v1/payouts"), "200");
    assert_eq!(life.call(&keys[1].secret, "POST /v1/payouts"), "403 access_limited");
    let id = text(&life.default_key("publishable", true)["id"]);
    assert_eq!(life.show(&id)["limited_access"], false, "it moves no money anyway");
}

fn limited_access_closes_three_things(life: &Life) {
    let keys = movers(life);
    life.wait_until(LIMITED_AT);
    for key in &keys {
        let is_secret = key.shown["kind"] == "secret";
        for request in MONEY {
            let expected = match (is_secret, request) {
                // The restricted ones do not hold it in the first place.
                (false, "POST /v1/accounts/acct_1/external_accounts") => {
                    "403 more_permissions_required"
                }
                _ => "403 access_limited",
            };
            assert_eq!(life.call(&key.secret, request), expected, "{request}");
        }
        for (request, wants) in [
            ("GET /v1/payouts", true),
            ("GET /v1/transfers", true),
            ("POST /v1/customers", true),
            ("POST /v1/charges", is_secret),
            ("POST /v1/refunds", is_secret),
            ("GET /v1/balance", is_secret),
        ] {
            let refused = life.call(&key.secret, request).starts_with("403");
            assert_eq!(refused, !wants, "{request}");
        }
        for path in ["/v1/payouts", "/v1/transfers"] {
            let list = life.ask(&key.secret, &format!("GET {path}")).json();
            assert_eq!(list["data"], json!([]), "a refused request has moved money");
        }
    }
    // Nor is it got round by having another key made.
    let wanted = json!({ "kind": "restricted", "name": "x", "permissions": ["payout_write"] });
    let create = format!("POST {KEYS}");
    life.check_as(&keys[0].secret, &create, wanted, &[], "403 access_limited");
    let rotate = on(&keys[0].id, "rotate");
    life.check_as(&keys[0].secret, &rotate, Value::Null, &[], "403 access_limited");
}

fn access_is_restored(life: &Life) {
    let keys = movers(life);
    life.wait_until(LIMITED_AT);
    for key in &keys {
        assert_eq!(life.call(&key.secret, "POST /v1/payouts"), "403 access_limited");
        let keeper = life.make(json!({ "kind": "secret", "livemode": key.shown["livemode"] }));
        let restore = on(&key.id, "restore");
        life.check_as(&keeper.secret, &restore, Value::Null, &[], "403 operator_required");
        let of_its_own = match key.shown["kind"] == "secret" {
            true => "403 operator_required",
            false => "403 more_permissions_required",
        };
        life.check_as(&key.secret, &restore, Value::Null, &[], of_its_own);
        assert_eq!(life.call(&key.secret, "POST /v1/payouts"), "403 access_limited");
        let shown = life.check_key(&key.id, "restore", Value::Null, "200");
        assert_eq!(shown["limited_access"], false);
        assert_eq!(shown["restored_at"], time(LIMITED_AT));
        assert_eq!(token(&shown), None, "the secret stays, and stays hidden");
        assert_eq!(life.call(&key.secret, "POST /v1/payouts"), "200");
    }
    life.check_key(
        &text(&life.default_key("publishable", true)["id"]),
        "restore",
        Value::Null,
        "400 publishable_key_not_limited",
    );
}

fn a_restored_key_has_180_days_more(life: &Life) {
    let keys = movers(life);
    life.wait_until(LIMITED_AT);
    let (restored, others) = keys.split_first().unwrap();
    life.check_key(&restored.id, "restore", Value::Null, "200");
    for (now, limited) in [(0, false), (DAY, false), (180 * DAY, false), (180 * DAY + 1, true)] {
        life.wait_until(LIMITED_AT + now);
        assert_eq!(life.show(&restored.id)["limited_access"], limited, "{now} s later");
    }
    assert_eq!(life.call(&restored.secret, "POST /v1/payouts"), "403 access_limited");
    for other in others {
        assert_eq!(life.show(&other.id)["limited_access"], true, "only one was restored");
    }
}

// Logs.

fn every_key_has_its_request_log(life: &Life) {
    let organization = life.host.make_organization();
    let wanted = json!({ "kind": "organization", "account": organization });
    let mut keys = vec![life.make(wanted)];
    for kind in ["publishable", "secret", "restricted", "managed"] {
        for live in [false, true] {
            keys.push(life.make_kind(kind, live));
        }
    }
    for key in &keys {
        life.used(&key.secret);
        life.call(&key.secret, "GET /v1/payouts");
    }
    // What an ended key did stays to be seen.
    let ended = keys.last().unwrap();
    life.check_key(&ended.id, "expire", Value::Null, "200");
    life.used(&ended.secret);
    life.host.finish();
    for key in &keys {
        let query = format!("GET /v2/request_logs?key={}", key.id);
        let list = life.check(&query, Value::Null, "200");
        let entries = list["data"].as_array().unwrap();
        let expected = if key.id == ended.id { 3 } else { 2 };
        assert_eq!(entries.len(), expected, "{}: {list}", key.shown);
        assert!(entries.iter().all(|entry| entry["key"] == *key.id), "{list}");
        assert!(!list.to_string().contains(&key.secret[10..40]));
    }
}

// What cannot be done.

fn a_secret_key_cannot_be_narrowed(life: &Life) {
    for live in [false, true] {
        let made = life.make_kind("secret", live);
        assert_eq!(made.shown["permissions"], json!(["*"]));
        for id in [&made.id, &text(&life.default_key("secret", live)["id"])] {
            for field in ["permissions", "connect_permissions"] {
                for list in [json!([]), json!(["charge_read"]), json!(["*", "charge_read"])] {
                    let refused =
                        life.check_key(id, "", json!({ field: list }), "400 parameter_invalid");
                    assert_eq!(refused["error"]["param"], field);
                }
            }
        }
        let wanted = json!({ "kind": "secret", "livemode": live, "name": "x",
            "permissions": ["charge_read"] });
        life.check(&format!("POST {KEYS}"), wanted, "400 parameter_invalid");
        assert_eq!(life.call(&made.secret, "GET /v1/balance"), "200");
    }
}

fn no_object_crosses_modes(life: &Life) {
    let test = life.default_secret("secret", false);
    let live = life.default_secret("secret", true);
    let auth = |key: &Made| format!("Bearer {}", key.secret);
    let product = life.host.call_with(
        "POST",
        "/v1/products",
        &[("Authorization", &auth(&test))],
        "name=Gold+plan",
    );
    let product = text(&product.json()["id"]);
    assert_eq!(life.call(&test.secret, &format!("GET /v1/products/{product}")), "200");
    for request in [
        format!("GET /v1/products/{product}"),
        format!("POST /v1/products/{product}"),
        format!("DELETE /v1/products/{product}"),
    ] {
        assert_eq!(life.call(&live.secret, &request), "404 resource_missing", "{request}");
    }
    let price = life.host.call_with(
        "POST",
        "/v1/prices",
        &[("Authorization", &auth(&live))],
        &format!("currency=usd&unit_amount=100&product={product}"),
    );
    assert_eq!(super::outcome(&price), "400 resource_missing", "{price:?}");
    for (path, key) in [("/v1/products", &live), ("/v1/prices", &live), ("/v1/prices", &test)] {
        let list = life.ask(&key.secret, &format!("GET {path}")).json();
        assert_eq!(list["data"], json!([]), "{path}");
    }
    // Nor are keys seen or changed across.
    let missing = "404 resource_missing";
    for (key, target) in [(&test, &live), (&live, &test)] {
        let show = format!("GET {KEYS}/{}", target.id);
        life.check_as(&key.secret, &show, Value::Null, &[], missing);
        life.check_as(&key.secret, &on(&target.id, "expire"), Value::Null, &[], missing);
    }
}

fn a_replacement_cannot_be_named(life: &Life) {
    for live in [false, true] {
        for kind in ["publishable", "secret", "restricted"] {
            let key = life.make_kind(kind, live);
            let named = json!({ "name": "chosen" });
            let refused = life.check_key(&key.id, "rotate", named, "400 parameter_invalid");
            assert!(text(&refused["error"]["message"]).contains("name"), "{refused}");
            let at = time(NOON + DAY);
            let named = json!({ "at": at, "name": "chosen" });
            life.check_key(&key.id, "schedule_rotation", named, "400 parameter_invalid");
            assert_eq!(life.used(&key.secret), "200", "it was not rotated");
        }
    }
}

fn a_webhook_secret_is_no_key(life: &Life) {
    let well_formed = wardkey::secret::Secret::generate(None, "whsec_");
    for secret in [well_formed.expose(), "whsec_x"] {
        let answer = life.ask(secret, "POST /v1/customers");
        assert_eq!(super::outcome(&answer), "401");
        assert!(answer.message().contains("webhook signing secret"), "{answer:?}");
        life.check_as(secret, &format!("GET {KEYS}"), Value::Null, &[], "401");
    }
    // Nor does it become one by being taken in.
    let import = json!({ "kind": "restricted", "name": "hook",
        "digest": well_formed.digest().to_hex(), "redacted": "whsec_****abcd" });
    let refused = life.check(&format!("POST {KEYS}/import"), import, "400 parameter_invalid");
    assert!(text(&refused["error"]["message"]).contains("webhook"), "{refused}");
    assert_eq!(life.call(well_formed.expose(), "POST /v1/customers"), "401");
}
