//! Cases that nobody thought of: keys, requests and accounts by the thousand,
//! the same ones in every run.

use wardkey_policy::{
    catalogue::Permission,
    contract::{Credential, Decision, Ipv4Net, Key, Mode, Request, Source},
    permission,
};

use crate::{
    both::{World, decide, decide_quietly},
    listing::{Line, endpoints},
    random::{Random, SEED},
    rows::*,
};

/// How many are decided, natively and through the component: about six seconds.
const CASES: u32 = 25_000;

/// One case in so many is explained as well.
const EXPLAINED: u32 = 10;

/// Says which case it was, if a test fails in the middle of it.
struct Case<'a> {
    number: u32,
    key: &'a Key,
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {SEED:#x}, case {}, with {:#?}", self.number, self.key);
        }
    }
}

#[test]
fn both_agree_on_generated_cases_and_no_case_breaks_a_law() {
    let lines = endpoints();
    let mut random = Random(SEED);
    let (mut allowed, mut kinds_of_answer) = (0, std::collections::BTreeMap::new());
    for number in 0..CASES {
        let line = random.pick(&lines);
        let key = random_key(&mut random, line);
        let request = random_request(&mut random, line);
        let mut world = world(&key);
        if random.one_in(80) {
            world.key = None;
        }
        if random.one_in(4) {
            let gone = random.pick(&accounts()).id.clone();
            world.accounts.remove(&gone);
        }
        let _case = Case { number, key: &key };
        let decision = match number % EXPLAINED {
            0 => decide(&request, &world),
            _ => decide_quietly(&request, &world),
        };
        check_laws(&decision, &world, &request, line);
        let answer = match &decision {
            Decision::Allow(_) => {
                allowed += 1;
                check_monotony(&mut random, &key, &request, &world);
                "allow".to_owned()
            }
            Decision::Deny(denial) => {
                let class = format!("{:?}", denial.class).replace("DenialClass::", "");
                format!("{class} {}", denial.code.as_deref().unwrap_or("-"))
            }
        };
        *kinds_of_answer.entry(answer).or_insert(0) += 1;
    }
    println!("{CASES} cases from seed {SEED:#x}: {kinds_of_answer:#?}");
    // Cases that never get past the first rules would prove little.
    assert!(allowed > CASES / 10, "only {allowed} of {CASES} were allowed");
    for expected in [
        "Unauthenticated -",
        "Ended api_key_expired",
        "Forbidden ip_not_allowed",
        "NotFound -",
        "InvalidRequest livemode_mismatch",
        "InvalidRequest version_required",
        "InvalidRequest context_required",
        "InvalidRequest context_invalid",
        "Forbidden account_invalid",
        "Forbidden key_kind_unknown",
        "Forbidden secret_key_required",
        "Forbidden more_permissions_required",
        "Forbidden access_limited",
    ] {
        assert!(kinds_of_answer.contains_key(expected), "no case came to {expected}");
    }
}

/// What holds whatever the case.
#[track_caller]
fn check_laws(decision: &Decision, world: &World, request: &Request, line: &Line) {
    let presented = world.presented(request);
    match decision {
        Decision::Allow(grant) => {
            let key = presented.expect("allowed without the key");
            assert_eq!((&grant.key, grant.mode), (&key.id, key.mode));
            assert!(key.ends_at.is_none_or(|ends_at| request.now < ends_at), "it had ended");
            let itself = grant.endpoint.as_deref() == Some("/v2/iam/api_keys/self");
            assert!(itself || grant.account.starts_with("acct_"), "{}", grant.account);
            if grant.endpoint.as_deref() == Some(line.template) {
                assert_eq!(grant.permissions.split(' ').collect::<Vec<_>>(), line.permissions);
                assert_eq!(grant.usage == "money-movement", line.money_movement);
                assert!(!(line.sandbox_only && key.mode == Mode::Live));
                let front_end = key.kind != "publishable" || line.publishable.is_some();
                assert!(front_end, "a publishable key got in");
            }
        }
        Decision::Deny(denial) => {
            assert!(!denial.message.is_empty());
            assert_eq!(
                denial.key.is_some(),
                presented.is_some() && !is_webhook(&request.credential)
            );
            let missing = &denial.missing_permissions;
            let unlisted = denial.endpoint.is_none();
            if denial.code.as_deref() == Some("more_permissions_required") && !unlisted {
                assert!(!missing.is_empty());
                let needed = |name: &str| line.permissions.contains(&name);
                assert!(missing.split(' ').all(needed), "`{missing}` is not needed");
            } else {
                assert_eq!(missing, "");
            }
        }
    }
}

fn is_webhook(credential: &Credential) -> bool {
    matches!(credential, Credential::WellFormed(presented) if presented.prefix == "whsec_")
}

/// More permissions never take anything away; a later time never gives any.
#[track_caller]
fn check_monotony(random: &mut Random, key: &Key, request: &Request, world: &World) {
    let more = random.pick(Permission::all()).name();
    let with = |held: &str| match held {
        "*" => "*".to_owned(),
        _ => {
            let mut names: Vec<&str> = held.split_whitespace().chain([more]).collect();
            names.sort_unstable();
            names.dedup();
            names.join(" ")
        }
    };
    for (permissions, connect_permissions) in [
        (with(&key.permissions), key.connect_permissions.clone()),
        (key.permissions.clone(), with(&key.connect_permissions)),
        ("*".to_owned(), key.connect_permissions.clone()),
        (key.permissions.clone(), "*".to_owned()),
    ] {
        let richer = Key { permissions, connect_permissions, ..key.clone() };
        let decision = wardkey_policy::authorize::authorize(request, Some(&richer), world);
        assert!(
            matches!(decision, Decision::Allow(_)),
            "{more} on top turned an allow into {decision:?}: {richer:#?} for {request:#?}"
        );
    }
}

const DAYS_AROUND_LIMIT: [u64; 5] = [0, 90, 180, 181, 4000];

fn random_time(random: &mut Random) -> Option<u64> {
    let days = *random.pick(&DAYS_AROUND_LIMIT);
    let wobble = [0, 1, HOUR][random.below(3)];
    (!random.one_in(3)).then(|| NOW - days * DAY - wobble)
}

fn random_key(random: &mut Random, line: &Line) -> Key {
    let kinds = ["restricted", "restricted", "restricted", "secret", "organization"];
    let kind = match random.below(10) {
        0 => "publishable",
        1 => "managed",
        2 if random.one_in(3) => "foreign",
        _ => random.pick(&kinds),
    };
    let organization = kind == "organization";
    Key {
        id: format!("key_{}", random.below(100)),
        account: if organization { ORGANIZATION } else { OWNER }.to_owned(),
        mode: if random.one_in(3) { Mode::Live } else { Mode::Test },
        created_at: random_time(random).unwrap_or(0),
        restored_at: random_time(random).filter(|_| random.one_in(2)),
        money_moved_at: random_time(random).filter(|_| random.one_in(2)),
        ends_at: random.one_in(4).then(|| {
            let ahead = [0, 1, HOUR, 7 * DAY, 8 * DAY, u64::MAX - NOW];
            if random.one_in(4) {
                NOW - random.pick(&ahead[..4])
            } else {
                NOW + random.pick(&ahead)
            }
        }),
        permissions: random_permissions(random, kind, line),
        connect_permissions: random_permissions(random, kind, line),
        ipv4_nets: (0..random.below(5).saturating_sub(2)).map(|_| random_net(random)).collect(),
        ..crate::rows::kind(kind)
    }
}

fn random_permissions(random: &mut Random, kind: &str, line: &Line) -> String {
    if matches!(kind, "secret" | "managed") || (kind != "restricted" && random.one_in(6)) {
        return "*".to_owned();
    }
    let mut names: Vec<&str> =
        (0..random.below(6)).map(|_| random.pick(Permission::all()).name()).collect();
    for needed in &line.permissions {
        let needed = Permission::find(needed).unwrap();
        let covering: Vec<&str> = needed.covered_by().map(Permission::name).collect();
        match random.below(4) {
            0 => {}
            1 => names.push(*random.pick(&covering)),
            _ => names.push(needed.name()),
        }
    }
    names.sort_unstable();
    names.dedup();
    permission::join(names.into_iter())
}

/// A network that may or may not hold 203.0.113.9, the caller of most cases.
fn random_net(random: &mut Random) -> Ipv4Net {
    let address = u32::from(std::net::Ipv4Addr::new(203, 0, 113, 9));
    let address = if random.one_in(4) { address ^ (1 << random.below(32)) } else { address };
    // Longer than there are bits: damage.
    let prefix_length = u8::try_from(random.below(34)).unwrap();
    Ipv4Net { address, prefix_length }
}

fn random_request(random: &mut Random, line: &Line) -> Request {
    let path = random_path(random, line);
    let method =
        if random.one_in(40) { *random.pick(&["PUT", "get", "HEAD"]) } else { line.method };
    let mut request = request(method, &path);
    if random.one_in(20) {
        request.credential = match random.below(4) {
            0 => Credential::Absent,
            1 => malformed(["", "sk_live_", "whsec_"][random.below(3)]),
            2 => well_formed("whsec_"),
            _ => well_formed("sk_test_"),
        };
    }
    if random.one_in(12) {
        request.source = match random.below(3) {
            0 => ipv6("2001:db8::1"),
            1 => Source::Ipv4(u32::try_from(random.next() >> 32).unwrap()),
            _ => ipv4("203.0.113.10"),
        };
    }
    if !random.one_in(8) {
        request.api_version = Some(if random.one_in(20) { "" } else { "2026-06-24" }.to_owned());
    }
    if random.one_in(2) {
        request.context = Some(random_context(random));
    }
    if random.one_in(12) {
        request.account = Some(random_context(random));
    }
    if random.one_in(10) {
        request = allow_unlisted(request);
    }
    request
}

fn random_path(random: &mut Random, line: &Line) -> String {
    let segments = ["id_1", "search", "capture", "x", "self", "é", ":id"];
    let mut path = line.template.to_owned();
    while let Some(at) = path.find(":id") {
        let segment = if random.one_in(10) { random.pick(&segments) } else { "ch_1" };
        if segment == ":id" {
            break;
        }
        path.replace_range(at..at + ":id".len(), segment);
    }
    match random.below(60) {
        0 => path + "/",
        1 => path + "/x",
        2 => path.replacen("/v1", "/v2", 1),
        3 => "/v2/iam/api_keys/self".to_owned(),
        4 => "/v1/nothing".to_owned(),
        _ => path,
    }
}

fn random_context(random: &mut Random) -> String {
    let chains = [
        "acct_member",
        "acct_member/acct_branch",
        "acct_member/acct_branch/acct_seller/acct_buyer",
        "acct_shop",
        "acct_shop/acct_courier",
        "acct_shop/acct_courier/acct_rider/acct_bike",
        OWNER,
        "acct_twofold",
    ];
    if !random.one_in(3) {
        return (*random.pick(&chains)).to_owned();
    }
    let accounts = accounts();
    let mut ids: Vec<String> =
        (0..=random.below(5)).map(|_| random.pick(&accounts).id.clone()).collect();
    if random.one_in(4) {
        ids.push((*random.pick(&["", "org_home", "acct_nobody", "shop"])).to_owned());
    }
    ids.join("/")
}
