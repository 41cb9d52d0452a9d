//! The overlay to copy: built as its author would, and put on the standard policy.

use std::path::{Path, PathBuf};

use serde_json::json;
use wardkey::{
    secret::Digest,
    storage::{LogFilter, Mode},
};

use crate::{common::TestHost, parcels};

/// Returns the component.
fn bytes() -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("parcels");
    // With what that one has downloaded and compiled.
    parcels::bytes();
    parcels::build::build_package(&root, &out, "policy/examples/read-only").unwrap()
}

#[test]
fn live_keys_may_only_read_while_it_is_on_the_policy() {
    let host = TestHost::start();
    let pushed =
        host.push_policy_as(&host.operator, "name=read-only&version=1&revision=1", &bytes());
    assert_eq!(pushed.status, 201, "{pushed:?}");
    assert_eq!(pushed.json()["interfaces"], json!(["authorizer"]));
    let overlay = pushed.json()["digest"].as_str().unwrap().to_owned();
    let [test, live] = [Mode::Test, Mode::Live].map(|mode| host.default_secret("secret", mode));
    let (_, limited) = host.key("restricted", &["charge_read"]);
    let create = |secret| host.call("POST", "/v1/customers", secret);
    assert_eq!(create(live.expose()).status, 200);

    let put = |overlays: &[&str]| {
        let body = json!({ "overlays": overlays });
        assert_eq!(host.manage("POST", "/v2/policies/standard/activate", body).status, 200);
    };
    put(&[&overlay]);
    let refused = create(live.expose());
    assert_eq!((refused.status, refused.code().as_str()), (403, "read_only"), "{refused:?}");
    assert_eq!(host.call("GET", "/v1/customers", live.expose()).status, 200);
    assert_eq!(create(test.expose()).status, 200);
    // It widens nothing, and says nothing to those whom the policy refuses.
    assert_eq!(create(limited.expose()).code(), "more_permissions_required");
    assert_eq!(host.call_with("GET", "/v1/customers", &[], "").status, 401);
    put(&[]);
    assert_eq!(create(live.expose()).status, 200);

    host.finish();
    let filter = LogFilter { code: Some("read_only".to_owned()), limit: 9, ..Default::default() };
    let logged = host.block_on(host.storage.find_log(filter)).unwrap();
    assert_eq!(logged[0].1.overlays.iter().map(Digest::to_hex).collect::<Vec<_>>(), [overlay]);
    assert_eq!((logged.len(), logged[0].1.path.as_str()), (1, "/v1/customers"));
}
