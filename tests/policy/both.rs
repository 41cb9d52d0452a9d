//! The two ways to put a question to the rules, natively and through the
//! component, and the one place that compares them.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use wardkey::{
    active_policy::STANDARD_POLICY,
    decide::MAX_RUNS,
    engine::{EngineError, Policy, Run, contract as host},
    facts::{Facts, Unread},
};
use wardkey_policy::{
    authorize,
    contract::{
        self as native, Account, Credential, Decision, Denial, DenialClass, Grant, Key, Mode,
        Request, Source, explain::Explanation,
    },
};

use crate::common::engine;

pub(crate) mod lifecycle;

/// The standard policy, compiled once for all tests.
pub(crate) fn standard() -> &'static Policy {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    POLICY.get_or_init(|| engine().load(STANDARD_POLICY).unwrap())
}

/// What is stored. A map, and nothing else: what storage does is not what these
/// tests are about.
#[derive(Default)]
pub(crate) struct World {
    /// The key whose secret a well-formed credential is.
    pub(crate) key: Option<Key>,
    pub(crate) accounts: BTreeMap<String, Account>,
}

impl World {
    /// Returns the key that the host hands over with a request.
    pub(crate) fn presented(&self, request: &Request) -> Option<&Key> {
        self.key.as_ref().filter(|_| matches!(request.credential, Credential::WellFormed(_)))
    }
}

impl wardkey_policy::Storage for World {
    fn find_accounts(&self, ids: &[String]) -> Vec<Option<Account>> {
        ids.iter().map(|id| self.accounts.get(id).cloned()).collect()
    }
}

/// Decides natively and through the component, with and without an explanation.
/// The four must agree on every field.
#[track_caller]
pub(crate) fn decide(request: &Request, world: &World) -> Decision {
    let decision = decide_quietly(request, world);
    let native = authorize::explain(request, world.presented(request), world);
    assert_eq!(native.decision, decision, "`explain` against `authorize`, natively: {request:#?}");
    let explained = component(standard(), request, world, Policy::explain).unwrap();
    assert_eq!(explained, host_explanation(&native), "explaining {request:#?}");
    check_steps(&native);
    decision
}

/// Decides natively and through the component, without explanations: for cases
/// by the thousand.
#[track_caller]
pub(crate) fn decide_quietly(request: &Request, world: &World) -> Decision {
    let decision = authorize::authorize(request, world.presented(request), world);
    let answer = component(standard(), request, world, Policy::authorize).unwrap();
    assert_eq!(answer, host_decision(&decision), "deciding {request:#?}");
    decision
}

/// Every step but the last was passed, and the last one was if the request was.
#[track_caller]
fn check_steps(Explanation { decision, steps }: &Explanation) {
    let (last, before) = steps.split_last().expect("no rule was asked");
    assert!(before.iter().all(|step| step.passed), "{steps:#?}");
    assert_eq!(last.passed, matches!(decision, Decision::Allow(_)), "{steps:#?}");
    let kebab = |rule: &str| rule.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    assert!(steps.iter().all(|step| kebab(&step.rule)), "{steps:#?}");
}

/// One of the questions that are put with a request.
type Ask<T> = fn(
    &Policy,
    &host::Request<'_>,
    Option<&host::Key>,
    Facts,
) -> (Facts, Result<Run<T>, EngineError>);

/// Puts a question to a component, and reads for it what it lacks.
pub(crate) fn component<T>(
    policy: &Policy,
    request: &Request,
    world: &World,
    ask: Ask<T>,
) -> Result<T, EngineError> {
    let attributes: Vec<(&str, &str)> =
        request.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let question = host_request(request, &attributes);
    let key = world.presented(request).map(host_key);
    let mut facts = Facts::default();
    for _ in 0..MAX_RUNS {
        let (read_so_far, answer) = ask(policy, &question, key.as_ref(), facts);
        facts = read_so_far;
        match answer? {
            Run::Done(answer) => return Ok(answer),
            Run::Unread(Unread(ids)) => read(world, ids, &mut facts),
        }
    }
    panic!("still not satisfied after {MAX_RUNS} runs: {request:#?}");
}

fn read(world: &World, ids: Vec<String>, facts: &mut Facts) {
    for id in ids {
        let account = world.accounts.get(&id).map(|account| {
            let Account { id, organization, platform } = account.clone();
            Arc::new(host::Account { id, organization, platform })
        });
        facts.add_account(id, account);
    }
}

/// Returns a decision as the corpus writes it: what callers and the host act
/// on, without messages.
pub(crate) fn describe(decision: &Decision) -> String {
    match decision {
        Decision::Allow(grant) => describe_grant(grant),
        Decision::Deny(denial) => describe_denial(denial),
    }
}

fn describe_grant(grant: &Grant) -> String {
    let mut text = format!("allow on {}", grant.account);
    if !grant.permissions.is_empty() {
        text.push_str(&format!(" by {}", grant.permissions));
    }
    if !grant.usage.is_empty() {
        text.push_str(&format!(", {}", grant.usage));
    }
    for (name, value) in &grant.attributes {
        text.push_str(&format!(", {name} {value}"));
    }
    for notice in &grant.notices {
        text.push_str(&format!(", notice: {notice}"));
    }
    text
}

pub(crate) fn describe_denial(denial: &Denial) -> String {
    let mut text = match denial.class {
        DenialClass::Unauthenticated => "unauthenticated",
        DenialClass::Ended => "ended",
        DenialClass::Forbidden => "forbidden",
        DenialClass::InvalidRequest => "invalid request",
        DenialClass::NotFound => "not found",
        DenialClass::Conflict => "conflict",
        DenialClass::RateLimited => "rate limited",
    }
    .to_owned();
    if let Some(code) = &denial.code {
        text.push_str(&format!(": {code}"));
    }
    if let Some(param) = &denial.param {
        text.push_str(&format!(" in {param}"));
    }
    if !denial.missing_permissions.is_empty() {
        text.push_str(&format!(", missing {}", denial.missing_permissions));
    }
    text
}

// From the rules' types to the host's: the same WIT, generated twice. Every
// struct is taken apart by name, so that a new field does not go uncompared.

fn host_mode(mode: Mode) -> host::Mode {
    match mode {
        Mode::Test => host::Mode::Test,
        Mode::Live => host::Mode::Live,
    }
}

pub(crate) fn host_key(key: &Key) -> host::Key {
    let Key {
        id,
        account,
        mode,
        kind,
        origin,
        created_at,
        ends_at,
        restored_at,
        money_moved_at,
        permissions,
        connect_permissions,
        ipv4_nets,
        attributes,
    } = key.clone();
    host::Key {
        id,
        account,
        mode: host_mode(mode),
        kind,
        origin,
        created_at,
        ends_at,
        restored_at,
        money_moved_at,
        permissions,
        connect_permissions,
        ipv4_nets: ipv4_nets.into_iter().map(host_net).collect(),
        attributes,
    }
}

fn host_net(net: native::Ipv4Net) -> host::Ipv4Net {
    let native::Ipv4Net { address, prefix_length } = net;
    host::Ipv4Net { address, prefix_length }
}

fn host_request<'a>(
    request: &'a Request,
    attributes: &'a [(&'a str, &'a str)],
) -> host::Request<'a> {
    let Request {
        credential,
        method,
        path,
        source,
        context,
        account,
        api_version,
        now,
        attributes: _,
    } = request;
    host::Request {
        credential: match credential {
            Credential::Absent => host::Credential::Absent,
            Credential::Malformed(native::PresentedCredential { prefix, masked }) => {
                host::Credential::Malformed(host::PresentedCredential { prefix, masked })
            }
            Credential::WellFormed(native::PresentedCredential { prefix, masked }) => {
                host::Credential::WellFormed(host::PresentedCredential { prefix, masked })
            }
        },
        method,
        path,
        source: match *source {
            Source::Ipv4(address) => host::Source::Ipv4(address),
            Source::Ipv6(address) => host::Source::Ipv6(address),
        },
        context: context.as_deref(),
        account: account.as_deref(),
        api_version: api_version.as_deref(),
        now: *now,
        attributes,
    }
}

pub(crate) fn host_decision(decision: &Decision) -> host::Decision {
    match decision {
        Decision::Allow(grant) => {
            let Grant { key, account, mode, endpoint, permissions, usage, notices, attributes } =
                grant.clone();
            let mode = host_mode(mode);
            host::Decision::Allow(host::Grant {
                key,
                account,
                mode,
                endpoint,
                permissions,
                usage,
                notices,
                attributes,
            })
        }
        Decision::Deny(denial) => host::Decision::Deny(host_denial(denial)),
    }
}

fn host_denial(denial: &Denial) -> host::Denial {
    let Denial { class, code, message, param, missing_permissions, key, endpoint } = denial.clone();
    host::Denial {
        class: match class {
            DenialClass::Unauthenticated => host::DenialClass::Unauthenticated,
            DenialClass::Ended => host::DenialClass::Ended,
            DenialClass::Forbidden => host::DenialClass::Forbidden,
            DenialClass::InvalidRequest => host::DenialClass::InvalidRequest,
            DenialClass::NotFound => host::DenialClass::NotFound,
            DenialClass::Conflict => host::DenialClass::Conflict,
            DenialClass::RateLimited => host::DenialClass::RateLimited,
        },
        code,
        message,
        param,
        missing_permissions,
        key,
        endpoint,
    }
}

fn host_explanation(explanation: &Explanation) -> host::explain::Explanation {
    let Explanation { decision, steps } = explanation;
    let steps = steps.iter().map(|step| {
        let native::explain::Step { rule, passed, detail } = step.clone();
        host::explain::Step { rule, passed, detail }
    });
    host::explain::Explanation { decision: host_decision(decision), steps: steps.collect() }
}
