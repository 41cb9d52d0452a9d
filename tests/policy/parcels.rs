//! Another API's catalogue, built by the same steps as the standard policy:
//! what is particular to Stripe is data.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    thread,
};

use serde_json::json;
use wardkey::{
    engine::{Policy, contract as host},
    trial::try_policy,
};
use wardkey_policy::contract::{Key, Request};

use crate::{
    both::{component, lifecycle::default_keys},
    common::{Options, TestHost, by_operator, engine},
    rows::*,
};

#[expect(dead_code, reason = "what only the build script needs of it")]
#[path = "../../host/build/component.rs"]
pub(crate) mod build;

/// The catalogue, as a user would name it.
const CATALOGUE: &str = "policy/examples/parcels/catalogue.toml";

/// Returns the component. Built once for all tests, and by cargo only if
/// something has changed since the last time.
pub(crate) fn bytes() -> &'static [u8] {
    static COMPONENT: OnceLock<Vec<u8>> = OnceLock::new();
    COMPONENT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
        let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("parcels");
        fs::create_dir_all(&out).unwrap();
        // What the build of the standard policy had to download is not
        // downloaded again.
        let debian = Path::new(env!("WARDKEY_STANDARD_POLICY")).with_file_name("debian");
        if debian.is_dir() && !out.join("debian").exists() {
            std::os::unix::fs::symlink(debian, out.join("debian")).unwrap();
        }
        let component = build::build(&root, &out, Some(CATALOGUE.as_ref())).unwrap();
        fs::read(component).unwrap()
    })
}

fn policy() -> &'static Policy {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    POLICY.get_or_init(|| engine().load(bytes()).unwrap())
}

#[track_caller]
fn check(key: &Key, request: &Request, expected: &str) {
    let answer = component(policy(), request, &world(key), Policy::authorize).unwrap();
    let described = match answer {
        host::Decision::Allow(grant) => {
            let usage =
                if grant.usage.is_empty() { String::new() } else { format!(", {}", grant.usage) };
            format!("allow {} by {}{usage}", grant.endpoint.unwrap(), grant.permissions)
        }
        host::Decision::Deny(denial) => {
            let code = denial.code.as_deref().unwrap_or("-");
            format!("{:?} {code} {}", denial.class, denial.missing_permissions).trim().to_owned()
        }
    };
    assert_eq!(described, expected, "{} {}", request.method, request.path);
}

#[test]
fn the_rules_are_the_same_over_another_catalogue() {
    let parcel = get("/v1/parcels/p_1");
    check(&restricted("parcels:read"), &parcel, "allow /v1/parcels/:id by parcels:read");
    check(&restricted("parcels:write"), &parcel, "allow /v1/parcels/:id by parcels:read");
    check(&secret(), &parcel, "allow /v1/parcels/:id by parcels:read");
    let change = request("PATCH", "/v1/parcels/p_1");
    check(&restricted("parcels:write"), &change, "allow /v1/parcels/:id by parcels:write");
    check(
        &restricted("parcels:read"),
        &change,
        "DenialClass::Forbidden more_permissions_required parcels:write",
    );
    // Stripe's names mean nothing here, and Stripe's endpoints are not there.
    check(
        &restricted("charge_read"),
        &parcel,
        "DenialClass::Forbidden more_permissions_required parcels:read",
    );
    check(&secret(), &get("/v1/charges"), "DenialClass::NotFound -");
    check(&publishable(), &post("/v1/quotes"), "allow /v1/quotes by quotes:create");
    check(&publishable(), &parcel, "DenialClass::Forbidden secret_key_required");
}

#[test]
fn several_missing_permissions_are_all_named() {
    let label = post("/v1/parcels/p_1/label");
    let denied = "DenialClass::Forbidden more_permissions_required";
    check(&restricted(""), &label, &format!("{denied} labels:print parcels:read"));
    check(&restricted("labels:print"), &label, &format!("{denied} parcels:read"));
    check(&restricted("parcels:write"), &label, &format!("{denied} labels:print"));
    let both = "allow /v1/parcels/:id/label by labels:print parcels:read";
    check(&restricted("labels:print parcels:read"), &label, both);
    check(&restricted("labels:print parcels:write"), &label, both);
    let answer = component(policy(), &label, &world(&restricted("")), Policy::authorize).unwrap();
    let host::Decision::Deny(denial) = answer else { panic!("allowed") };
    assert!(
        denial.message.contains(
            "Enabling Label Printing ('labels:print') and Parcels Read ('parcels:read') permissions"
        ),
        "{}",
        denial.message
    );
}

/// What keys need to manage keys is the same over every API.
#[test]
fn keys_are_managed_here_too() {
    let (list, make) = (get("/v2/iam/api_keys"), post("/v2/iam/api_keys"));
    for key in [restricted("api_key_read"), restricted("api_key_write"), secret()] {
        check(&key, &list, "allow /v2/iam/api_keys by api_key_read");
    }
    check(&restricted("api_key_write"), &make, "allow /v2/iam/api_keys by api_key_write");
    for key in [restricted("api_key_read"), restricted("parcels:write")] {
        let denied = "DenialClass::Forbidden more_permissions_required api_key_write";
        check(&key, &make, denied);
    }
}

#[test]
fn a_literal_beats_a_parameter_here_too() {
    let search = get("/v1/parcels/search");
    check(&restricted("parcels:search"), &search, "allow /v1/parcels/search by parcels:search");
    check(
        &restricted("parcels:read"),
        &search,
        "DenialClass::Forbidden more_permissions_required parcels:search",
    );
    // There is a `DELETE /v1/parcels/:id`, and none for the search.
    check(&secret(), &request("DELETE", "/v1/parcels/search"), "DenialClass::NotFound -");
}

#[test]
fn money_and_sandbox_are_the_catalogues_to_say() {
    let withdraw = post("/v1/wallet/withdrawals");
    check(
        &restricted("wallet:withdraw"),
        &withdraw,
        "allow /v1/wallet/withdrawals by wallet:withdraw, money-movement",
    );
    let old = Key { created_at: 0, ..secret() };
    check(&old, &withdraw, "DenialClass::Forbidden access_limited");
    check(&old, &get("/v1/wallet"), "allow /v1/wallet by wallet:read");
    let deliver = post("/v1/simulator/parcels/p_1/deliver");
    check(&secret(), &deliver, "allow /v1/simulator/parcels/:id/deliver by parcels:write");
    check(&live(secret()), &deliver, "DenialClass::InvalidRequest livemode_mismatch");
}

#[test]
fn it_lists_its_own_permissions_and_gives_the_same_default_keys() {
    let names: Vec<String> =
        policy().permissions().unwrap().into_iter().map(|permission| permission.name).collect();
    assert_eq!(
        names,
        [
            // Wardkey's own.
            "api_key_read",
            "api_key_write",
            "labels:print",
            "parcels:read",
            "parcels:search",
            "parcels:write",
            "quotes:create",
            "tracking:read",
            "wallet:read",
            "wallet:withdraw"
        ]
    );
    let kinds = |plans: &[host::lifecycle::KeyPlan]| {
        plans.iter().map(|plan| plan.prefix.clone()).collect::<Vec<_>>()
    };
    let native: Vec<String> = default_keys(OWNER).into_iter().map(|plan| plan.prefix).collect();
    assert_eq!(kinds(&policy().default_keys(OWNER, NOW).unwrap()), native);
    assert_ne!(policy().digest(), crate::both::standard().digest());
}

/// They lie beside the catalogue, and not beside the rules.
#[test]
fn it_carries_its_own_cases_and_passes() {
    let file = include_str!("../../policy/examples/parcels/cases.json");
    let policy = Arc::new(engine().load(bytes()).unwrap());
    assert_eq!(policy.cases(), Some(file.as_bytes()));
    assert_eq!(try_policy(&policy, NOW).unwrap().cases, 12);
}

#[test]
fn a_host_guards_the_other_api() {
    let upstream = upstream();
    let options =
        Options { policy: Some(bytes().to_vec()), upstream: Some(upstream), ..Options::default() };
    let host = TestHost::start_with(options);
    let (_, reader) = host.key("restricted", &["parcels:read"]);
    assert_eq!(host.call("GET", "/v1/parcels/p_1", reader.expose()).body, "delivered");
    let refused = host.call("POST", "/v1/parcels/p_1/label", reader.expose());
    assert_eq!((refused.status, refused.code().as_str()), (403, "more_permissions_required"));
    assert_eq!(refused.json()["error"]["missing_permissions"], json!(["labels:print"]));
    assert_eq!(host.call("GET", "/v1/charges", reader.expose()).status, 404);
    // Nobody can hold what this API does not know.
    let wanted = wardkey::keys::CreateKey {
        account: Some(host.account.clone()),
        kind: "restricted".to_owned(),
        name: "a key".to_owned(),
        permissions: vec!["charge_read".to_owned()],
        ..Default::default()
    };
    let keys = host.host.keys();
    let made = host.block_on(keys.create(by_operator(), wanted));
    assert!(made.unwrap_err().to_string().contains("charge_read"));
}

/// An API that delivers whatever it is asked.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\ndelivered",
            );
        }
    });
    address
}
