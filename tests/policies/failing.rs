//! Policies that fail when they are in force: an alarm, and, where that is
//! configured, the way back without anybody's help.

use std::time::Instant;

use serde_json::json;

use crate::{program::wait_until, *};

/// A path that no trial has, and that makes a policy fail.
const LONG: &str = "/v1/customers/cus_and_so_on_and_so_on";

/// Lets in whom [`honest`] lets in, and fails on [`LONG`] in this way. Tells itself
/// from others by what it does not do.
fn failing_by(how: &str, refusal: Refusal) -> Vec<u8> {
    let text = honest_with("").replace(&guest::deny(), &refuse(refusal));
    Guest::new(format!("(if {IS_LONG} (then {how})) {text}")).build()
}

const TRAP: &str = "unreachable";
const LOOP: &str = "(loop $on (br $on))";
/// An answer that is none: allowed, as nobody.
fn nonsense() -> String {
    format!("(return (i32.const {}))", guest::ANSWER)
}

/// A host, and a key of each of several accounts.
struct Failing {
    place: Place,
    secrets: Vec<Secret>,
}

impl Failing {
    fn start(fall_back_after: Option<u32>) -> Self {
        let place = Place::start_with(Options { fall_back_after, ..Options::default() });
        let secrets = Self::secrets(&place);
        Self { place, secrets }
    }

    /// Makes a key of each of four accounts.
    fn secrets(place: &Place) -> Vec<Secret> {
        let secrets = (0..4).map(|number| {
            let account = place.host.make_account(common::account_named(&format!("a{number}")));
            let wanted = wardkey::keys::CreateKey {
                kind: "secret".to_owned(),
                account: Some(account),
                ..Default::default()
            };
            place.host.key_with(wanted).1
        });
        secrets.collect()
    }

    /// Puts a policy in force that fails, and one before it that does not.
    fn with_two(fall_back_after: Option<u32>, how: &str) -> Self {
        let failing = Self::start(fall_back_after);
        for (bytes, revision) in [(honest(ONE), 1), (failing_by(how, TWO), 2)] {
            let digest = failing.place.pushed(&bytes, revision);
            assert_eq!(failing.place.activate(&digest).status, 200);
        }
        failing
    }

    /// Sends so many requests that fail, with keys of two accounts.
    fn fail_two(&self, times: usize) {
        self.fail(0, times - 1);
        self.fail(1, 1);
    }

    /// Sends so many requests that fail, with the key of an account.
    fn fail(&self, account: usize, times: usize) {
        for _ in 0..times {
            let answer = self.place.host.call("GET", LONG, self.secrets[account].expose());
            // Never let through by what fails.
            assert!(answer.status == 500 || answer.status == 503, "{answer:?}");
        }
    }

    fn metric(&self, name: &str) -> u64 {
        let metrics = common::send(self.place.host.internal, "GET", "/metrics", &[], "").body;
        let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name}_total ")));
        line.unwrap_or_else(|| panic!("{name}: {metrics}")).parse().unwrap()
    }

    fn falls_back(&self) {
        wait_until("the host has fallen back", || self.metric("wardkey_policy_fallbacks") > 0);
    }

    fn status(&self) -> Value {
        self.place.ask("GET", "/v2/policies/in_force", "").json()
    }
}

#[test]
fn a_policy_that_fails_keys_of_several_accounts_is_gone_back_from() {
    for how in [TRAP, LOOP, &nonsense()] {
        let failing = Failing::with_two(Some(3), how);
        let two = digest(&failing_by(how, TWO));
        // One account, and another: whatever they do, the rules stay.
        failing.fail(0, 15);
        failing.fail(1, 5);
        wait_until("the alarm is raised", || failing.metric("wardkey_policy_alarms") == 1);
        assert_eq!(failing.status()["policy"], two);
        let start = Instant::now();
        failing.fail(2, 1);
        failing.falls_back();
        println!("{how:.12}: in force again {:?} after the failure", start.elapsed());
        failing.place.in_force(&honest(ONE), Some(ONE));
        failing.place.comes_back(&honest(ONE));
        let status = failing.status();
        assert_eq!(
            (&status["actor"], &status["reason"]),
            (&json!("platform"), &json!("fell back"))
        );
        let entry = failing.place.audit().pop().unwrap();
        assert_eq!((entry.action.as_str(), entry.actor.as_str()), ("policy.fell_back", "platform"));
        let after = entry.after.unwrap();
        assert_eq!((&after["failed"], &after["accounts"]), (&json!(21), &json!(3)), "{after}");
        // Nothing is wrong any more.
        let answer = failing.place.host.call("GET", LONG, failing.secrets[3].expose());
        assert_eq!((answer.status, answer.code().as_str()), (404, "resource_missing"));
        assert_eq!(failing.metric("wardkey_policy_alarms"), 1);
    }
}

#[test]
fn without_leave_to_go_back_there_is_an_alarm_and_nothing_more() {
    let failing = Failing::with_two(None, TRAP);
    for account in 0..4 {
        failing.fail(account, 10);
    }
    wait_until("the alarm is raised", || failing.metric("wardkey_policy_alarms") == 1);
    failing.place.in_force(&failing_by(TRAP, TWO), Some(TWO));
    assert_eq!(failing.metric("wardkey_policy_fallbacks"), 0);
    assert_eq!(failing.status()["decisions"]["failed"], 40);
    // Another time, another alarm.
    failing.place.host.clock.set(common::NOON + 60);
    failing.fail(0, 10);
    wait_until("it is raised again", || failing.metric("wardkey_policy_alarms") == 2);
}

/// By strangers and by good requests in between: a few failures are no rate.
#[test]
fn who_has_no_key_counts_for_nobody_and_few_failures_are_none() {
    let failing = Failing::with_two(Some(2), TRAP);
    for _ in 0..30 {
        let answer = failing.place.host.call_with("GET", LONG, &[], "");
        assert_eq!(answer.status, 500);
    }
    wait_until("the alarm is raised", || failing.metric("wardkey_policy_alarms") == 1);
    failing.place.in_force(&failing_by(TRAP, TWO), Some(TWO));

    let failing = Failing::with_two(Some(2), TRAP);
    failing.fail_two(9);
    failing.place.host.clock.set(common::NOON + 10);
    failing.fail_two(9);
    assert_eq!(failing.metric("wardkey_policy_alarms"), 0);
    failing.place.in_force(&failing_by(TRAP, TWO), Some(TWO));
    failing.fail(0, 1);
    failing.falls_back();
}

/// Keys that everybody can read in a web page, and keys that have ended.
#[test]
fn who_has_found_keys_brings_no_older_rules_back() {
    let failing = Failing::with_two(Some(2), TRAP);
    let place = &failing.place;
    let public = place.host.default_secret("publishable", Mode::Test);
    let ended = &failing.secrets[0];
    let id = place.host.block_on(place.host.storage.find_key_by_digest(ended.digest()));
    let path = format!("/v2/iam/api_keys/{}/expire", id.unwrap().unwrap().id);
    assert_eq!(place.ask("POST", &path, "").status, 200);
    for secret in [&public, ended, &failing.secrets[1]] {
        for _ in 0..10 {
            assert_eq!(place.host.call("GET", LONG, secret.expose()).status, 500);
        }
    }
    wait_until("the alarm is raised", || failing.metric("wardkey_policy_alarms") == 1);
    place.in_force(&failing_by(TRAP, TWO), Some(TWO));
    failing.fail(2, 1);
    failing.falls_back();
}

/// Neither storage that fails nor an explanation that does is the policy's failure.
#[test]
fn what_is_not_the_policys_fault_chooses_no_rules() {
    let switch = crate::failing_storage::Switch::new();
    let before_storage = switch.clone();
    let wrap = Box::new(move |inner| before_storage.wrap(inner));
    let options = Options { fall_back_after: Some(2), wrap, ..Options::default() };
    let place = Place::start_with(options);
    let secrets = Failing::secrets(&place);
    let one = place.pushed(&honest(ONE), 1);
    assert_eq!(place.activate(&one).status, 200);
    switch.set(crate::failing_storage::Health::Failing);
    for secret in secrets.iter().cycle().take(40) {
        assert_eq!(place.host.call("GET", "/v1/charges", secret.expose()).status, 503);
    }
    switch.set(crate::failing_storage::Health::Well);
    let failing = Failing { place, secrets };
    assert_eq!(failing.metric("wardkey_policy_alarms"), 0);
    assert_eq!(failing.status()["decisions"]["failed"], 0);
    failing.place.in_force(&honest(ONE), Some(ONE));
}

/// What it goes back to may fail as well. It goes on going back, and never forward.
#[test]
fn it_goes_back_step_by_step_and_never_forward() {
    let failing = Failing::start(Some(2));
    for (bytes, revision) in
        [(honest(ONE), 1), (failing_by(LOOP, TWO), 2), (failing_by(TRAP, THREE), 3)]
    {
        let digest = failing.place.pushed(&bytes, revision);
        assert_eq!(failing.place.activate(&digest).status, 200);
    }
    for (steps, bytes, refusal) in [(1, failing_by(LOOP, TWO), TWO), (2, honest(ONE), ONE)] {
        failing.fail_two(10);
        wait_until("one step", || failing.metric("wardkey_policy_fallbacks") == steps);
        failing.place.in_force(&bytes, Some(refusal));
    }
    // By hand from there: over what was fallen back from.
    assert_eq!(failing.place.roll_back(None).status, 200);
    failing.place.in_force(STANDARD_POLICY, None);
}

#[test]
fn it_never_goes_below_the_revision_that_the_activation_names() {
    let failing = Failing::start(Some(2));
    let mut last = String::new();
    for (bytes, revision) in [(honest(ONE), 1), (honest(THREE), 3), (failing_by(TRAP, TWO), 5)] {
        last = failing.place.pushed(&bytes, revision);
        let path = format!("/v2/policies/{last}/activate");
        let body = json!({ "min_revision": revision - 1 }).to_string();
        assert_eq!(failing.place.ask("POST", &path, &body).status, 200);
    }
    failing.fail_two(15);
    wait_until("the alarm is raised", || failing.metric("wardkey_policy_alarms") == 1);
    // The nearest has revision 3, and 4 is the least: errors, and no older rules.
    failing.fail_two(15);
    assert_eq!(failing.status()["policy"], last);
    assert_eq!(failing.metric("wardkey_policy_fallbacks"), 0);

    let body = json!({ "min_revision": 3 }).to_string();
    let path = format!("/v2/policies/{last}/activate");
    assert_eq!(failing.place.ask("POST", &path, &body).status, 200);
    failing.place.host.clock.set(common::NOON + 60);
    failing.fail_two(10);
    failing.falls_back();
    failing.place.in_force(&honest(THREE), Some(THREE));
    assert_eq!(failing.status()["min_revision"], 3, "the floor stays");
}

#[test]
fn nobody_lowers_the_floor_by_not_thinking_of_it() {
    let place = Place::start();
    let [one, two] = [(honest(ONE), 3), (honest(TWO), 4)]
        .map(|(bytes, revision)| place.pushed(&bytes, revision));
    let activate = |policy: &str, floor: Option<u64>| {
        let body = json!({ "min_revision": floor }).to_string();
        let answer = place.ask("POST", &format!("/v2/policies/{policy}/activate"), &body);
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let floor = || place.ask("GET", "/v2/policies/in_force", "").json()["min_revision"].clone();
    activate(&one, Some(3));
    activate(&two, None);
    assert_eq!(floor(), 3);
    activate(&two, Some(4));
    assert_eq!(floor(), 4);
    // Back to what it was when that was put in force.
    assert_eq!(place.roll_back(None).status, 200);
    assert_eq!(floor(), 3);
    activate(&two, Some(0));
    assert_eq!(floor(), 0);
    let body = json!({ "min_revision": u64::MAX }).to_string();
    let answer = place.ask("POST", &format!("/v2/policies/{two}/activate"), &body);
    refused(&answer, 400, "parameter_invalid", "use at most");
}

/// To take an overlay away would let through what it has refused.
#[test]
fn it_takes_no_overlay_away() {
    let failing = Failing::start(Some(2));
    let place = &failing.place;
    let base = place.pushed(&honest(ONE), 1);
    assert_eq!(place.activate(&base).status, 200);
    let overlay = place.pushed(&failing_by(TRAP, TWO), 1);
    let body = json!({ "overlays": [overlay] }).to_string();
    let path = format!("/v2/policies/{base}/activate");
    assert_eq!(place.ask("POST", &path, &body).status, 200);
    failing.fail_two(20);
    wait_until("the alarm is raised", || failing.metric("wardkey_policy_alarms") == 1);
    let next = place.pushed(&failing_by(TRAP, THREE), 2);
    assert_eq!(failing.status()["overlays"], json!([overlay]));

    // From another policy on the same overlay, back to the one that had it.
    assert_eq!(place.activate(&next).status, 200);
    place.host.clock.set(common::NOON + 60);
    failing.fail_two(20);
    failing.falls_back();
    let status = failing.status();
    assert_eq!((&status["policy"], &status["overlays"]), (&json!(base), &json!([overlay])));
}

#[test]
fn a_canary_that_fails_is_ended() {
    // One account will do: everybody else has the rules that it goes back to.
    let failing = Failing::start(Some(3));
    let one = failing.place.pushed(&honest(ONE), 1);
    assert_eq!(failing.place.activate(&one).status, 200);
    let canary = failing.place.pushed(&failing_by(TRAP, TWO), 2);
    let body = json!({ "percent": 100, "by": "key" }).to_string();
    let path = format!("/v2/policies/{canary}/canary");
    assert_eq!(failing.place.ask("POST", &path, &body).status, 200);
    failing.fail(0, 10);
    failing.falls_back();
    let status = failing.status();
    assert_eq!((&status["policy"], &status["canary"]), (&json!(one), &json!(null)), "{status}");
    assert_eq!(status["reason"], "fell back");
    failing.place.in_force(&honest(ONE), Some(ONE));
}

/// A file that the host was started with stays: there is nothing to go back to.
#[test]
fn a_host_with_a_file_stays_with_it() {
    let policy = Some(failing_by(TRAP, TWO));
    let options = Options { policy, fall_back_after: Some(2), ..Options::default() };
    let place = Place::start_with(options);
    for _ in 0..20 {
        assert_eq!(place.host.call("GET", LONG, place.secret.expose()).status, 500);
    }
    let failing = Failing { place, secrets: Vec::new() };
    wait_until("the alarm is raised", || failing.metric("wardkey_policy_alarms") == 1);
    assert_eq!(failing.metric("wardkey_policy_fallbacks"), 0);
    assert_eq!(failing.status()["number"], json!(null));
}
