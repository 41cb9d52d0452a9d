//! Stripe's catalogue: the tables against the text they were made from, and
//! the text against what is known of the API.

use std::collections::{BTreeMap, BTreeSet};

use wardkey_policy::{
    catalogue::{self, Endpoint, Permission, Publishable},
    contract::{Decision, Key},
    permission,
};

use crate::{
    both::{World, decide_quietly, describe, standard},
    rows::*,
};

/// A line under `[endpoints]`, read without the program's own parser.
pub(crate) struct Line {
    pub(crate) method: &'static str,
    pub(crate) template: &'static str,
    pub(crate) permissions: Vec<&'static str>,
    pub(crate) money_movement: bool,
    pub(crate) sandbox_only: bool,
    pub(crate) publishable: Option<&'static str>,
}

impl Line {
    /// A path that the template fits.
    pub(crate) fn path(&self) -> String {
        self.template.replace(":id", "id_1")
    }
}

const TEXT: &str = include_str!("../../policy/catalogue.toml");

/// Returns the endpoints that the catalogue's text lists: one a line.
pub(crate) fn endpoints() -> Vec<Line> {
    let (_, endpoints) = TEXT.split_once("\n[endpoints]\n").unwrap();
    let lines = endpoints.lines().filter(|line| line.starts_with('"'));
    lines
        .map(|line| {
            let mut quoted = line.split('"').skip(1).step_by(2);
            let (method, template) = quoted.next().unwrap().split_once(' ').unwrap();
            Line {
                method,
                template,
                permissions: list(line, "permissions"),
                money_movement: line.contains("money-movement = true"),
                sandbox_only: line.contains("sandbox-only = true"),
                publishable: line
                    .split_once("publishable = \"")
                    .and_then(|(_, rest)| rest.split('"').next()),
            }
        })
        .collect()
}

/// Returns the permissions that the text lists, with what each implies.
pub(crate) fn permissions() -> BTreeMap<&'static str, Vec<&'static str>> {
    let (_, permissions) = TEXT.split_once("\n[permissions]\n").unwrap();
    let (permissions, _) = permissions.split_once("\n[endpoints]\n").unwrap();
    let lines = permissions.lines().filter(|line| line.contains("title ="));
    lines.map(|line| (line.split([' ', '=']).next().unwrap(), list(line, "implies"))).collect()
}

fn list(line: &'static str, name: &str) -> Vec<&'static str> {
    let start = format!("{name} = [");
    let Some((_, rest)) = line.split_once(&start) else { return Vec::new() };
    let (list, _) = rest.split_once(']').unwrap();
    list.split('"').skip(1).step_by(2).collect()
}

/// Wardkey's own endpoints, which every catalogue has, with the permission that
/// each needs. None: any key may call it.
const OWN_ENDPOINTS: &[(&str, Option<&str>)] = &[
    ("GET /v2/iam/api_keys", Some("api_key_read")),
    ("POST /v2/iam/api_keys", Some("api_key_write")),
    ("GET /v2/iam/api_keys/self", None),
    ("GET /v2/iam/api_keys/:id", Some("api_key_read")),
    ("POST /v2/iam/api_keys/:id", Some("api_key_write")),
    ("POST /v2/iam/api_keys/:id/expire", Some("api_key_write")),
    ("POST /v2/iam/api_keys/:id/rotate", Some("api_key_write")),
    ("POST /v2/iam/api_keys/:id/reveal", Some("api_key_write")),
    ("POST /v2/iam/api_keys/:id/restore", Some("api_key_write")),
    ("POST /v2/iam/api_keys/:id/schedule_rotation", Some("api_key_write")),
    ("POST /v2/iam/api_keys/:id/cancel_rotation", Some("api_key_write")),
    ("GET /v2/iam/permissions", None),
    ("POST /v2/iam/permissions/resolve", None),
    ("GET /v2/request_logs", Some("api_key_read")),
];

/// Permissions that the text lacks and every catalogue has.
const OWN_PERMISSIONS: &[&str] = &["api_key_read"];

/// What a permission implies whatever the text says.
fn implied_anyway(name: &str) -> &'static [&'static str] {
    if name == "api_key_write" { &["api_key_read"] } else { &[] }
}

#[test]
fn the_tables_hold_what_the_text_lists() {
    let (endpoints, mut permissions) = (endpoints(), permissions());
    println!(
        "{} endpoints and {} of Wardkey's own, {} permissions and {}",
        endpoints.len(),
        OWN_ENDPOINTS.len(),
        permissions.len(),
        OWN_PERMISSIONS.len(),
    );
    assert!(endpoints.len() >= 528, "only {} endpoints", endpoints.len());
    assert_eq!(Endpoint::all().len(), endpoints.len() + OWN_ENDPOINTS.len());
    let unique: BTreeSet<_> = endpoints.iter().map(|line| (line.method, line.template)).collect();
    assert_eq!(unique.len(), endpoints.len(), "an endpoint is listed twice");

    assert_eq!(permissions.len(), 206);
    permissions.extend(OWN_PERMISSIONS.iter().map(|name| (*name, Vec::new())));
    for (name, implies) in &mut permissions {
        implies.extend(implied_anyway(name));
    }
    let names: Vec<&str> = Permission::all().iter().map(Permission::name).collect();
    assert_eq!(names, permissions.keys().copied().collect::<Vec<_>>());
    for (name, implied) in &permissions {
        let found = Permission::find(name).unwrap();
        let mut implied = implied.clone();
        implied.sort_unstable();
        assert_eq!(found.implies().map(Permission::name).collect::<Vec<_>>(), implied, "{name}");
        assert!(!found.title().is_empty() && !found.category().is_empty(), "{name}");
        // Who includes a permission is the same list, the other way round.
        let covered_by: BTreeSet<&str> = found.covered_by().map(Permission::name).collect();
        let expected = permissions.iter().filter(|(_, implies)| implies.contains(name));
        let expected = expected.map(|(by, _)| *by).chain([*name]).collect();
        assert_eq!(covered_by, expected, "{name}");
    }
}

#[test]
fn every_endpoint_finds_itself() {
    for line in endpoints() {
        let name = format!("{} {}", line.method, line.template);
        for path in [line.path(), line.template.replace(":id", "x")] {
            let found = catalogue::find_endpoint(line.method, &path).expect(&name);
            assert_eq!(found.template, line.template, "{name}");
            let endpoint = found.endpoint;
            let mut needed = line.permissions.clone();
            needed.sort_unstable();
            let found: Vec<&str> = endpoint.permissions().map(Permission::name).collect();
            assert_eq!(found, needed, "{name}");
            assert_eq!(endpoint.money_movement, line.money_movement, "{name}");
            assert_eq!(endpoint.sandbox_only, line.sandbox_only, "{name}");
            assert!(!endpoint.any_key, "{name}");
            let publishable = match endpoint.publishable {
                Publishable::No => None,
                Publishable::Yes => Some("yes"),
                Publishable::WithClientSecret => Some("with-client-secret"),
            };
            assert_eq!(publishable, line.publishable, "{name}");
        }
    }
}

#[test]
fn the_component_lists_the_same() {
    let listed = standard().permissions().unwrap();
    let native = Permission::all().iter();
    assert_eq!(listed.len(), native.len());
    for (listed, native) in listed.iter().zip(native) {
        assert_eq!(listed.name, native.name());
        assert_eq!(listed.title, native.title());
        assert_eq!(listed.category, native.category());
        assert_eq!(listed.implies, permission::join(native.implies().map(Permission::name)));
    }
    for line in endpoints() {
        let found = standard().find_endpoint(line.method, &line.path()).unwrap().unwrap();
        assert_eq!((found.method.as_str(), found.path.as_str()), (line.method, line.template));
        let mut needed = line.permissions.clone();
        needed.sort_unstable();
        assert_eq!(found.permissions, needed.join(" "));
        assert_eq!(found.money_movement, line.money_movement);
        assert_eq!(found.sandbox_only, line.sandbox_only);
    }
    for (method, path) in [("GET", "/v1/nothing"), ("PUT", "/v1/charges"), ("", "")] {
        assert_eq!(standard().find_endpoint(method, path).unwrap(), None);
    }
}

#[test]
fn wardkeys_own_endpoints_are_there_and_for_keys_with_their_permissions() {
    for &(name, permission) in OWN_ENDPOINTS {
        let (method, template) = name.split_once(' ').unwrap();
        let path = template.replace(":id", "key_1");
        let listed = standard().find_endpoint(method, &path).unwrap().expect(name);
        assert_eq!((listed.method.as_str(), listed.path.as_str()), (method, template));
        assert_eq!(listed.permissions, permission.unwrap_or_default(), "{name}");
        assert_eq!(listed.any_key, permission.is_none(), "{name}");
        assert!(!listed.money_movement && !listed.sandbox_only, "{name}");

        let allowed = match permission {
            Some(permission) => format!("allow on {OWNER} by {permission}"),
            None => format!("allow on {OWNER}"),
        };
        let check = |key: Key, expected: &str| {
            for key in [key.clone(), live(key.clone()), Key { created_at: 0, ..key }] {
                let decision = decide_quietly(&request(method, &path), &world(&key));
                assert_eq!(describe(&decision), expected, "{name} with {key:?}");
            }
        };
        check(secret(), &allowed);
        check(restricted("api_key_write"), &allowed);
        let Some(permission) = permission else {
            check(restricted(""), &allowed);
            check(publishable(), &allowed);
            continue;
        };
        let missing = format!("forbidden: more_permissions_required, missing {permission}");
        check(restricted("charge_write"), &missing);
        check(publishable(), "forbidden: secret_key_required");
        let reads = permission == "api_key_read";
        check(restricted("api_key_read"), if reads { &allowed } else { &missing });
    }
    // The operator's own are in no catalogue, and so refused to every key.
    for path in [
        "/v2/iam/api_keys/import",
        "/v2/iam/api_keys/key_1/import",
        "/v2/accounts",
        "/v2/accounts/acct_1",
        "/v2/organizations",
        "/v2/policies",
        "/v2/audit_log",
        "/v2/backups",
    ] {
        let decision = decide_quietly(&post(path), &world(&restricted("api_key_write")));
        // An id can be any text, and there is no key that is called so.
        let editing = path == "/v2/iam/api_keys/import";
        let expected = if editing { "allow on acct_owner by api_key_write" } else { "not found" };
        assert_eq!(describe(&decision), expected, "{path}");
    }
}

#[test]
fn get_needs_read_and_the_others_need_write() {
    for line in endpoints() {
        let name = format!("{} {}", line.method, line.template);
        assert!(!line.permissions.is_empty(), "{name}");
        let write = |permission: &&str| permission.ends_with("_write");
        let read = |permission: &&str| permission.ends_with("_read");
        match line.method {
            "GET" => assert!(line.permissions.iter().all(read), "{name}"),
            "POST" | "DELETE" => assert!(line.permissions.iter().any(write), "{name}"),
            other => panic!("Stripe's API has no {other}: {name}"),
        }
    }
}

#[test]
fn write_implies_read_of_the_same_thing() {
    let permissions = permissions();
    let mut pairs = 0;
    for (name, implies) in &permissions {
        assert!(name.ends_with("_read") || name.ends_with("_write"), "{name}");
        let Some(thing) = name.strip_suffix("_write") else { continue };
        let read = format!("{thing}_read");
        if permissions.contains_key(read.as_str()) {
            assert!(implies.contains(&read.as_str()), "{name} does not imply {read}");
            pairs += 1;
        }
    }
    println!("{pairs} pairs");
    assert!(pairs > 50);
    // No permission to read lets anybody write.
    for (name, implies) in &permissions {
        assert!(
            name.ends_with("_write") || implies.iter().all(|other| other.ends_with("_read")),
            "{name}"
        );
    }
}

#[test]
fn every_permission_that_an_endpoint_needs_can_be_held() {
    let permissions = permissions();
    for line in endpoints() {
        for needed in &line.permissions {
            assert!(permissions.contains_key(needed), "{} {}", line.method, line.template);
        }
    }
}

#[test]
fn exactly_six_endpoints_move_money() {
    let lines = endpoints();
    let money = lines.iter().filter(|line| line.money_movement);
    let names: BTreeSet<_> =
        money.map(|line| format!("{} {}", line.method, line.template)).collect();
    let expected = [
        "POST /v1/accounts/:id/external_accounts",
        "POST /v1/payouts",
        "POST /v1/payouts/:id/cancel",
        "POST /v1/payouts/:id/reverse",
        "POST /v1/transfers",
        "POST /v1/transfers/:id/reversals",
    ];
    assert_eq!(names, expected.map(str::to_owned).into());
}

#[test]
fn exactly_the_test_helpers_are_for_the_sandbox() {
    for line in endpoints() {
        let helper = line.template.starts_with("/v1/test_helpers/");
        assert_eq!(line.sandbox_only, helper, "{} {}", line.method, line.template);
    }
}

#[test]
fn nothing_that_moves_money_is_open_to_publishable_keys() {
    for line in endpoints() {
        assert!(!line.money_movement || line.publishable.is_none(), "{}", line.template);
    }
}

#[test]
fn a_literal_segment_beats_a_parameter() {
    let lines = endpoints();
    let mut rivals = 0;
    for literal in &lines {
        for other in lines.iter().filter(|other| other.method == literal.method) {
            if other.template == literal.template || !fits(other.template, &literal.path()) {
                continue;
            }
            rivals += 1;
            let found = catalogue::find_endpoint(literal.method, &literal.path()).unwrap();
            assert_eq!(found.template, literal.template, "and not {}", other.template);
        }
    }
    println!("{rivals} paths fit two templates");
    assert!(rivals > 5);
    // A method that only the other reading has is not looked up there: a search
    // is not a charge whose id is "search".
    assert!(catalogue::find_endpoint("GET", "/v1/charges/search").is_some());
    assert!(catalogue::find_endpoint("POST", "/v1/charges/ch_1").is_some());
    assert!(catalogue::find_endpoint("POST", "/v1/charges/search").is_none());
}

fn fits(template: &str, path: &str) -> bool {
    let (template, path) = (template.split('/'), path.split('/'));
    template.clone().count() == path.clone().count()
        && template.zip(path).all(|(want, have)| want == have || want == ":id")
}

#[test]
fn no_spelling_of_a_path_finds_another_endpoint() {
    for line in endpoints() {
        let path = line.path();
        for other in [
            format!("{path}/"),
            format!("/{path}"),
            format!("{path}/x/y/z"),
            path.to_uppercase(),
            path.replacen("/v1", "", 1),
            path.replacen('/', "", 1),
        ] {
            let found = catalogue::find_endpoint(line.method, &other);
            // A parameter takes any segment, so `ID_1` fits the same
            // template, but no other.
            if let Some(found) = found {
                assert_eq!(found.template, line.template, "{other}");
                assert!(line.template.contains(":id"), "{other}");
            }
        }
    }
}

/// Each permission alone, on each endpoint: allowed exactly if the text says
/// so. The rules themselves are asked, not only the tables.
#[test]
fn one_permission_opens_what_the_text_says_and_nothing_else() {
    let (lines, permissions) = (endpoints(), permissions());
    let mut opened = 0;
    for (&held, implies) in &permissions {
        let key = restricted(held);
        let world = world(&key);
        for line in &lines {
            let request = request(line.method, &line.path());
            let decision = wardkey_policy::authorize::authorize(&request, Some(&key), &world);
            let missing: BTreeSet<&str> = line
                .permissions
                .iter()
                .copied()
                .filter(|needed| *needed != held && !implies.contains(needed))
                .collect();
            let allowed = matches!(decision, Decision::Allow(_));
            let name = format!("{} {} with {held}", line.method, line.template);
            assert_eq!(allowed, missing.is_empty(), "{name}");
            if let Decision::Deny(denial) = decision {
                let named = denial.missing_permissions.split(' ').collect::<BTreeSet<_>>();
                assert_eq!(named, missing, "{name}");
            }
            opened += usize::from(allowed);
        }
    }
    println!("{} questions, {opened} allowed", lines.len() * permissions.len());
}

#[test]
fn every_endpoint_is_decided_the_same_in_the_component() {
    let all = permissions().into_keys().collect::<Vec<_>>().join(" ");
    for line in endpoints() {
        let request = request(line.method, &line.path());
        for key in [secret(), restricted(&all), restricted(""), publishable()] {
            for key in [key.clone(), live(key.clone()), Key { created_at: 0, ..key }] {
                decide_quietly(&request, &world(&key));
            }
        }
        // Holding everything by name is as good as holding everything.
        let unrestricted = decide_quietly(&request, &world(&secret()));
        let by_name = decide_quietly(&request, &world(&restricted(&all)));
        assert_eq!(describe(&by_name), describe(&unrestricted));
        assert!(matches!(unrestricted, Decision::Allow(_)), "{}", line.template);
        assert!(matches!(decide_quietly(&request, &World::default()), Decision::Deny(_)));
    }
}
