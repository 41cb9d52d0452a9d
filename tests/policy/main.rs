//! See `tests/README.md`.
#[path = "../common/mod.rs"]
mod common;

#[test]
fn a_host_starts() {
    let host = common::TestHost::start();
    let (_, secret) = host.key("restricted", &["charge_read"]);
    assert_eq!(host.call("GET", "/v1/charges", secret.expose()).status, 200);
}
