//! The cases that the standard policy carries. What tries a pushed policy has them
//! decided by the component; here the native rules decide them too.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use wardkey::{
    active_policy::STANDARD_POLICY,
    engine::contract as host,
    trial::{
        Passed,
        cases::{Case, read},
        try_policy,
    },
};
use wardkey_policy::{
    authorize::explain,
    contract::{
        Account, Credential, Decision, Ipv4Net, Key, Mode, PresentedCredential, Request, Source,
    },
};

use crate::{
    both::{World, host_decision},
    common::engine,
    rows::NOW,
};

const FILE: &str = include_str!("../../policy/cases.json");

fn cases() -> Vec<Case> {
    read(FILE.as_bytes()).unwrap()
}

#[test]
fn the_standard_policy_carries_them_and_passes() {
    let standard = Arc::new(engine().load(STANDARD_POLICY).unwrap());
    assert_eq!(standard.cases(), Some(FILE.as_bytes()));
    // Once, so that what is measured is not what the first instance costs.
    try_policy(&standard, NOW).unwrap();
    let start = Instant::now();
    let passed = try_policy(&standard, NOW).unwrap();
    println!("the trial of the standard policy takes {:?}", start.elapsed());
    assert_eq!(passed, Passed { cases: cases().len() });
    // Whenever it is tried.
    for now in [0, u64::MAX] {
        assert_eq!(try_policy(&standard, now).unwrap(), passed);
    }
}

#[test]
fn the_native_rules_pass_them() {
    for case in cases() {
        let (request, world) = native(&case);
        let decision = explain(&request, world.presented(&request), &world).decision;
        case.judge(&host_decision(&decision)).unwrap_or_else(|err| panic!("{err}"));
    }
}

/// A rule that is added without a case for its refusal fails here.
#[test]
fn there_is_one_for_each_rule_and_some_that_pass_them_all() {
    let (mut refused_by, mut asked, mut allowed) = (BTreeSet::new(), BTreeSet::new(), 0);
    for case in cases() {
        let (request, world) = native(&case);
        let explained = explain(&request, world.presented(&request), &world);
        let mut rules = explained.steps.iter().map(|step| step.rule.clone());
        match explained.decision {
            Decision::Allow(_) => {
                asked.extend(rules);
                allowed += 1;
            }
            Decision::Deny(_) => refused_by.extend(rules.next_back()),
        }
    }
    assert_eq!(refused_by, asked);
    assert!(refused_by.len() >= 10 && allowed >= 10, "{refused_by:?}, {allowed} allowed");
}

#[test]
fn each_shows_something_else() {
    let names: BTreeSet<String> = cases().into_iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases().len());
}

// From the host's types to the rules': what a case is read as.

fn native(case: &Case) -> (Request, World) {
    let key = case.presented_key().map(native_key);
    let accounts = case.accounts.iter().map(|account| {
        let host::Account { id, organization, platform } = account.clone();
        (id.clone(), Account { id, organization, platform })
    });
    let world = World { key, accounts: accounts.collect() };
    (native_request(&case.request()), world)
}

fn native_key(key: &host::Key) -> Key {
    let host::Key {
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
    Key {
        id,
        account,
        mode: match mode {
            host::Mode::Test => Mode::Test,
            host::Mode::Live => Mode::Live,
        },
        kind,
        origin,
        created_at,
        ends_at,
        restored_at,
        money_moved_at,
        permissions,
        connect_permissions,
        ipv4_nets: ipv4_nets
            .into_iter()
            .map(|host::Ipv4Net { address, prefix_length }| Ipv4Net { address, prefix_length })
            .collect(),
        attributes,
    }
}

fn presented(credential: &host::PresentedCredential<'_>) -> PresentedCredential {
    let host::PresentedCredential { prefix, masked } = credential;
    PresentedCredential { prefix: (*prefix).to_owned(), masked: (*masked).to_owned() }
}

fn native_request(request: &host::Request<'_>) -> Request {
    let host::Request {
        credential,
        method,
        path,
        source,
        context,
        account,
        api_version,
        now,
        attributes,
    } = request;
    let text = |text: &Option<&str>| text.map(str::to_owned);
    Request {
        credential: match credential {
            host::Credential::Absent => Credential::Absent,
            host::Credential::Malformed(credential) => Credential::Malformed(presented(credential)),
            host::Credential::WellFormed(credential) => {
                Credential::WellFormed(presented(credential))
            }
        },
        method: (*method).to_owned(),
        path: (*path).to_owned(),
        source: match *source {
            host::Source::Ipv4(address) => Source::Ipv4(address),
            host::Source::Ipv6(address) => Source::Ipv6(address),
        },
        context: text(context),
        account: text(account),
        api_version: text(api_version),
        now: *now,
        attributes: attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    }
}
