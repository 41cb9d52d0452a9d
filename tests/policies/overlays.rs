//! Policies that are stacked on others: they narrow, in their order, and everybody
//! can see which were asked.

use serde_json::json;

use crate::{program::wait_until, *};

/// Lets in whom [`honest`] lets in, but for requests of some kind, which it refuses
/// with these words.
fn refusing(which: &str, refusal: Refusal) -> Vec<u8> {
    let refuse = format!("(return (block (result i32) {}))", refuse(refusal));
    Guest::new(format!("(if {which} (then {refuse})) {}", honest_with(""))).build()
}

pub(crate) fn no_posts(refusal: Refusal) -> Vec<u8> {
    refusing(IS_POST, refusal)
}

fn no_gets(refusal: Refusal) -> Vec<u8> {
    refusing(IS_GET, refusal)
}

/// Lets everybody in as the key that was presented, whatever else it is asked.
fn generous() -> Vec<u8> {
    Guest::new(honest_with("")).build()
}

impl Place {
    pub(crate) fn activate_with(&self, policy: &str, overlays: &[&str]) -> Answer {
        let body = json!({ "overlays": overlays }).to_string();
        self.ask("POST", &format!("/v2/policies/{policy}/activate"), &body)
    }

    /// Returns which policies the log says were asked about a request.
    fn asked(&self, answer: &Answer) -> Vec<String> {
        let id = &answer.headers["request-id"];
        let entry = || self.host.logged(9).into_iter().find(|entry| entry.request_id == *id);
        wait_until("the request is in the log", || entry().is_some());
        let entry = entry().unwrap();
        entry.policy.iter().chain(&entry.overlays).map(Digest::to_hex).collect()
    }

    fn call(&self, method: &str, path: &str) -> Answer {
        self.host.call(method, path, self.secret.expose())
    }
}

#[test]
fn what_one_of_a_stack_refuses_is_refused_and_the_log_says_which() {
    let place = Place::start();
    let (first, second) = (no_posts(ONE), no_gets(TWO));
    let [first, second] = [first, second].map(|bytes| place.pushed(&bytes, 1));
    let standard = standard().to_owned();
    let is = |answer: &Answer| (answer.code(), answer.message());
    let said = |(code, message): Refusal| (code.to_owned(), message.to_owned());

    assert_eq!(place.activate_with("standard", &[&first, &second]).status, 200);
    let all = [standard.clone(), first.clone(), second.clone()];
    let post = place.call("POST", "/v1/customers");
    assert_eq!((post.status, is(&post)), (403, said(ONE)));
    // The first has refused it: the second was not asked.
    assert_eq!(place.asked(&post), all[..2]);
    let get = place.call("GET", "/v1/customers");
    assert_eq!((get.status, is(&get)), (403, said(TWO)));
    assert_eq!(place.asked(&get), all);
    // What the policy refuses, nobody else is asked about.
    let nowhere = place.call("DELETE", "/v1/nowhere");
    assert_eq!(nowhere.status, 404, "{nowhere:?}");
    assert_eq!(place.asked(&nowhere), all[..1]);
    // Each lets it through.
    let deleted = place.call("DELETE", "/v1/customers/cus_1");
    assert_eq!((deleted.status, deleted.code().as_str()), (404, "resource_missing"));
    assert_eq!(place.asked(&deleted), all);

    // In the other order, another is the last that is asked.
    assert_eq!(place.activate_with("standard", &[&second, &first]).status, 200);
    let get = place.call("GET", "/v1/customers");
    assert_eq!((is(&get), place.asked(&get)), (said(TWO), vec![standard.clone(), second.clone()]));
    let listed = place.ask("GET", "/v2/policies/in_force", "").json();
    assert_eq!(listed["overlays"], json!([second, first]));
    assert_eq!(place.listed_as("overlay").len(), 2);
    place.comes_back(STANDARD_POLICY);
    let back = place.restarted(None).unwrap();
    assert_eq!(
        back.policy()
            .in_force()
            .stable
            .overlay_digests()
            .iter()
            .map(Digest::to_hex)
            .collect::<Vec<_>>(),
        [second, first]
    );
}

#[test]
fn an_overlay_never_lets_in_whom_the_policy_refuses() {
    let place = Place::start();
    let overlay = place.pushed(&generous(), 1);
    assert_eq!(place.activate_with("standard", &[&overlay]).status, 200);
    let (_, limited) = place.host.key("restricted", &["charge_read"]);
    let call = |path| place.host.call("POST", path, limited.expose());
    assert_eq!(call("/v1/payouts").code(), "more_permissions_required");
    assert_eq!(place.host.call("GET", "/v1/charges", limited.expose()).status, 200);
    let strangers = Secret::generate(None, "sk_test_");
    assert_eq!(place.host.call("GET", "/v1/charges", strangers.expose()).status, 401);
}

/// What it says of who is let in as whom is nobody's business; what cannot be true
/// is still an error.
#[test]
fn what_an_overlay_grants_is_not_what_is_granted() {
    let place = Place::start();
    let others = Guest::new(honest_with(&store_text(guest::grant::ACCOUNT, "acct_1"))).build();
    let overlay = place.pushed(&others, 1);
    assert_eq!(place.activate_with("standard", &[&overlay]).status, 200);
    assert_eq!(place.call("GET", "/v1/charges").status, 200);
    place.host.finish();
    assert_eq!(place.host.logged(1)[0].account.as_deref(), Some(&*place.host.account));
}

#[test]
fn an_overlay_that_fails_lets_nobody_in() {
    let place = Place::start();
    let failing = format!("(if {IS_LONG} (then unreachable)) {}", honest_with(""));
    let overlay = place.pushed(&Guest::new(failing).build(), 1);
    assert_eq!(place.activate_with("standard", &[&overlay]).status, 200);
    let answer = place.call("GET", "/v1/charges/ch_and_so_on_and_so_on_and");
    assert_eq!((answer.status, answer.code().as_str()), (500, "internal"));
    assert_eq!(place.call("GET", "/v1/charges").status, 200);
}

#[test]
fn overlays_stay_until_somebody_says_otherwise() {
    let place = Place::start();
    let [overlay, base] = [no_posts(ONE), honest(TWO)].map(|bytes| place.pushed(&bytes, 1));
    assert_eq!(place.activate_with("standard", &[&overlay]).status, 200);
    let in_force = || {
        let shown = place.ask("GET", "/v2/policies/in_force", "").json();
        (shown["policy"].as_str().unwrap().to_owned(), shown["overlays"].clone())
    };
    let (standard, with, without) = (standard().to_owned(), json!([overlay]), json!([]));

    assert_eq!(place.activate(&base).json()["overlays"], with);
    assert_eq!(in_force(), (base.clone(), with.clone()));
    assert_eq!(place.activate_with(&base, &[]).json()["overlays"], without);
    assert_eq!(in_force(), (base.clone(), without.clone()));
    // Back over all steps, each with the overlays that it had.
    for expected in [(&base, &with), (&standard, &with), (&standard, &without)] {
        assert_eq!(place.roll_back(None).status, 200);
        assert_eq!(in_force(), (expected.0.clone(), expected.1.clone()));
    }
    // To one that is named: what stands there stays there.
    assert_eq!(place.activate_with(&base, &[&overlay]).status, 200);
    assert_eq!(place.roll_back(Some("standard")).json()["overlays"], with);
    assert_eq!(in_force(), (standard, with));
}

#[test]
fn what_cannot_be_stacked_is_refused_and_what_is_in_force_stays() {
    let place = Place::start();
    let overlays: Vec<String> = [ONE, TWO, THREE]
        .into_iter()
        .flat_map(|refusal| [no_posts(refusal), no_gets(refusal)])
        .map(|bytes| place.pushed(&bytes, 2))
        .collect();
    let names: Vec<&str> = overlays.iter().map(String::as_str).collect();
    let whole = place.host.push_policy("whole");
    let retired = place.pushed(&honest(THREE), 2);
    assert_eq!(place.retire(&retired).status, 200);
    let before = place.list();
    for (policy, stacked, status, code, says) in [
        ("standard", &names[..5], 400, "parameter_invalid", "at most 4 policies"),
        ("standard", &[&*whole][..], 400, "parameter_invalid", "exports more than `authorizer`"),
        ("standard", &["standard"][..], 400, "parameter_invalid", "exports more than"),
        ("standard", &[names[0], names[0]][..], 400, "parameter_invalid", "asked twice"),
        (names[0], &[names[0]][..], 400, "parameter_invalid", "asked twice"),
        ("standard", &[&*retired][..], 409, "conflict", "retired"),
        ("standard", &["00000000"][..], 404, "resource_missing", "No such policy"),
    ] {
        refused(&place.activate_with(policy, stacked), status, code, says);
        assert_eq!(place.list(), before);
    }
    assert_eq!(place.activate_with("standard", &names[..4]).status, 200);
    // None of them is retired from under the policy.
    refused(&place.retire(names[3]), 409, "conflict", "in force");

    // An older one of the same name is no activation.
    let old = place.pushed(&refusing("(i32.const 0)", ONE), 1);
    refused(&place.activate_with("standard", &[&old]), 409, "conflict", "revision 2 was in force");
    let query = "name=other&version=1&revision=1";
    let other = refusing("(i32.const 0)", TWO);
    let answer = push_to(place.host.admin, &place.host.operator, query, &other);
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(place.activate_with("standard", &[&digest(&other)]).status, 200);
}

#[test]
fn verify_says_what_each_of_a_stack_says() {
    let place = Place::start();
    let overlay = place.pushed(&no_posts(ONE), 1);
    assert_eq!(place.activate_with("standard", &[&overlay]).status, 200);
    let ask = |method: &str| {
        let body = json!({ "key": place.secret.expose(), "method": method, "path": "/v1/customers",
            "explain": true });
        common::send_json(place.host.internal, "POST", "/verify", &[], &body.to_string()).json()
    };
    for (method, passed) in [("POST", false), ("GET", true)] {
        let answer = ask(method);
        assert_eq!(answer["allowed"], passed, "{answer}");
        assert_eq!(
            (&answer["policy"], &answer["overlays"]),
            (&json!(standard()), &json!([overlay]))
        );
        let steps = answer["steps"].as_array().unwrap();
        let last = json!({ "rule": "overlay", "passed": passed, "detail": overlay });
        assert_eq!(steps.last(), Some(&last));
        assert!(steps[..steps.len() - 1].iter().all(|step| step["passed"] == true), "{answer}");
    }
}
