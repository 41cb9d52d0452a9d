//! Components that are not loaded, and what is said of them.

use wardkey::{
    active_policy::STANDARD_POLICY,
    engine::{
        LoadError, MAX_COMPONENT_BYTES,
        contract::{Credential, PresentedCredential, Request, Source},
    },
    facts::Facts,
};
use wit_parser::{Resolve, decoding};

use crate::{
    common::engine,
    guest::{ABOUT_KEYS, Guest, component, find_account, honest, include_contract, with_contract},
};

#[track_caller]
fn check(bytes: &[u8], expected: &str) -> LoadError {
    let refusal = engine().load(bytes).expect_err("it was loaded");
    let text = refusal.to_string();
    assert!(text.contains(expected), "`{expected}` is not in: {text}");
    assert!(!text.contains('\n'), "more than one line: {text}");
    refusal
}

/// A component as text.
#[track_caller]
fn check_text(text: &str, expected: &str) {
    check(&wat::parse_str(text).unwrap(), expected);
}

/// A component that is honest but for its contract.
#[track_caller]
fn check_contract(contract: fn(&mut Resolve), exports: &str, expected: &str) {
    let module = format!(
        r#"(module (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
            {exports})"#
    );
    check(&component(&module, contract, "mine"), expected);
}

#[test]
fn the_standard_policy_imports_storage_and_types_and_nothing_else() {
    let decoded = decoding::decode(STANDARD_POLICY).unwrap();
    let decoding::DecodedWasm::Component(resolve, world) = decoded else { panic!("no component") };
    let imports: Vec<String> =
        resolve.worlds[world].imports.keys().map(|name| resolve.name_world_key(name)).collect();
    assert_eq!(imports, ["wardkey:policy/types@0.1.0", "wardkey:policy/storage@0.1.0"]);
    let loaded = engine().load(STANDARD_POLICY).unwrap();
    assert_eq!(loaded.interfaces(), ["authorizer", "lifecycle", "catalogue", "explain"]);
}

#[test]
fn what_is_no_component_is_not_loaded() {
    let no_component = "this is no valid component";
    check(b"", no_component);
    check(b"\0", no_component);
    check(b"\0asm", no_component);
    check(b"\0asm\x0d\0\x01\0 and so on", no_component);
    check(b"#!/bin/sh\nrm -rf /\n", no_component);
    check(&vec![0; 100_000], no_component);
    check(&vec![0xff; 100_000], no_component);
    // A core module.
    check_text("(module)", no_component);
    // The text of a component: the convenience of tests is no format.
    check(b"(component)", no_component);
    // What a compiler left behind: an object file with a component's name.
    let compiled = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\xb7\0wasmtime";
    check(compiled, no_component);
}

#[test]
fn half_a_component_is_not_loaded() {
    let honest = Guest::new(honest()).build();
    assert_eq!(engine().load(&honest).unwrap().interfaces(), ["authorizer"]);
    // Sections are optional, so that a cut between two may leave a component
    // that is valid; it then lacks what it has to export.
    for bytes in [&honest, STANDARD_POLICY] {
        let step = bytes.len() / 23;
        for len in (1..bytes.len()).step_by(step.max(1)) {
            assert!(engine().load(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
        }
        assert!(engine().load(&bytes[1..]).is_err());
    }
}

/// Most are refused. What loads all the same is a component, and is asked: it
/// may answer what it likes, and the host checks that.
#[test]
fn no_component_with_a_flipped_byte_brings_the_host_down() {
    const STEP: usize = 11;
    let honest = Guest::new(honest()).build();
    let request = Request {
        credential: Credential::WellFormed(PresentedCredential {
            prefix: "sk_test_",
            masked: "sk_test_****1234",
        }),
        method: "GET",
        path: "/v1/charges",
        source: Source::Ipv4(0),
        context: None,
        account: None,
        api_version: None,
        now: 0,
        attributes: &[],
    };
    let (mut refused, mut failed, mut answered) = (0, 0, 0);
    for at in (0..honest.len()).step_by(STEP) {
        let mut bytes = honest.clone();
        bytes[at] ^= 0x55;
        let Ok(policy) = engine().load(&bytes) else {
            refused += 1;
            continue;
        };
        match policy.authorize(&request, None, Facts::default()).1 {
            Ok(_) => answered += 1,
            Err(_) => failed += 1,
        }
    }
    println!("{refused} refused, {failed} failed, {answered} answered");
    assert!(refused > 0 && answered > 0);
}

#[test]
fn a_component_that_is_too_large_is_not_read() {
    let text = "the component has 8388609 bytes, and at most 8388608 are read";
    check(&vec![0; MAX_COMPONENT_BYTES + 1], text);
    // It is measured before it is looked at.
    let refusal = check(&vec![0; MAX_COMPONENT_BYTES], "this is no valid component");
    assert!(matches!(refusal, LoadError::Invalid(_)));
}

#[test]
fn a_component_gets_no_clock_no_randomness_and_no_network() {
    for (import, item) in [
        ("wasi:clocks/monotonic-clock@0.2.0", r#"(export "now" (func (result u64)))"#),
        ("wasi:clocks/wall-clock@0.2.0", ""),
        ("wasi:random/random@0.2.0", r#"(export "get-random-u64" (func (result u64)))"#),
        ("wasi:sockets/tcp@0.2.0", ""),
        ("wasi:cli/environment@0.2.0", ""),
        ("wasi:http/outgoing-handler@0.2.0", ""),
        ("wardkey:host/secrets@0.1.0", ""),
        ("wardkey:policy/storage@0.2.0", ""),
        ("wardkey:policy/storage@1.1.0", ""),
        ("wardkey:policy/secrets@0.1.0", ""),
    ] {
        let text = format!(r#"(component (import "{import}" (instance {item})))"#);
        let expected = format!("the component imports `{import}`");
        check_text(&text, &expected);
    }
    check_text(r#"(component (import "now" (func (result u64))))"#, "imports `now`");
    // The right name on the wrong thing.
    let function = r#"(component (import "wardkey:policy/storage@0.1.0" (func)))"#;
    check_text(function, "imports `wardkey:policy/storage@0.1.0`");
}

#[test]
fn an_import_that_the_host_does_not_have_is_refused() {
    let contract = "does not fit the contract";
    check_text(
        r#"(component (import "wardkey:policy/storage@0.1.0"
            (instance (export "delete-key" (func (param "id" string))))))"#,
        contract,
    );
    check_text(
        r#"(component (import "wardkey:policy/storage@0.1.0"
            (instance (export "find-accounts" (func (param "ids" string))))))"#,
        contract,
    );
    check_text(
        r#"(component (import "wardkey:policy/types@0.1.0"
            (instance (export "now" (func (result u64))))))"#,
        contract,
    );
}

#[test]
fn a_component_without_an_authorizer_is_refused() {
    let missing = "it does not export `wardkey:policy/authorizer@0.1.0`";
    check_text("(component)", missing);
    check_text(
        r#"(component (instance $i) (export "wardkey:policy/authorizer" (instance $i)))"#,
        missing,
    );
    check_text(
        r#"(component (instance $i) (export "wardkey:policy/authorizer@0.2.0" (instance $i)))"#,
        missing,
    );
    check_text(
        r#"(component (instance $i) (export "wardkey:policy/authorizer@0.1.0" (instance $i)))"#,
        "it does not export `authorize`",
    );
}

#[test]
fn an_authorizer_of_other_types_is_refused_and_not_asked() {
    check_contract(
        |resolve| {
            resolve
                .push_str(
                    "mine.wit",
                    "package wardkey:policy@0.1.0;
                     interface authorizer { authorize: func(request: string) -> bool; }
                     world mine { export authorizer; }",
                )
                .unwrap();
        },
        r#"(func (export "wardkey:policy/authorizer@0.1.0#authorize") (param i32 i32) (result i32)
            (i32.const 1))"#,
        "does not fit the contract",
    );
}

#[test]
fn another_interface_is_whole_or_not_there() {
    let authorizer = r#"(func (export "wardkey:policy/authorizer@0.1.0#authorize")
        (param i32) (result i32) unreachable)"#;
    // Half of it: the standard policy's answers would hide the mistake.
    check_contract(
        |resolve| {
            with_contract(
                resolve,
                "@since(version = 0.1.0) interface lifecycle { default-keys: func() -> bool; }",
            );
        },
        &format!(
            r#"{authorizer}
            (func (export "wardkey:policy/lifecycle@0.1.0#default-keys") (result i32) unreachable)"#
        ),
        "does not have export `create`",
    );
    // The right names on other types.
    fn names() -> impl Iterator<Item = &'static &'static str> {
        ["default-keys"].iter().chain(ABOUT_KEYS)
    }
    let bodies: String = names()
        .map(|name| {
            let name = format!("wardkey:policy/lifecycle@0.1.0#{name}");
            format!(r#"(func (export "{name}") (result i32) unreachable)"#)
        })
        .collect();
    check_contract(
        |resolve| {
            let names: String = names().map(|name| format!("{name}: func() -> bool;")).collect();
            let interface = format!("@since(version = 0.1.0) interface lifecycle {{ {names} }}");
            with_contract(resolve, &interface);
        },
        &format!("{authorizer} {bodies}"),
        "does not fit the contract",
    );
}

#[test]
fn a_component_that_cannot_start_is_refused() {
    let started = |start: &str| {
        let more = format!("(func $start {start}) (start $start)");
        Guest { more, ..Guest::new(honest()) }.build()
    };
    let contract = "does not fit the contract";
    check(&started("unreachable"), contract);
    check(&started("(loop $on (br $on))"), "time budget");
    check(&started("(local i32) (call $start)"), contract);
    assert!(engine().load(&started("nop")).is_ok());
    // It reads storage before anybody has asked anything.
    check(&started(&find_account(0)), contract);
}

#[test]
fn a_component_that_needs_more_than_there_is_is_refused() {
    // A thousand pages are 62 MiB.
    let hog = Guest { pages: 1000, ..Guest::new(honest()) };
    let refusal = engine().load(&hog.build()).expect_err("it was loaded");
    assert!(refusal.to_string().contains("memory"), "{refusal}");
    // The most that there is.
    let full = Guest { pages: 64, ..Guest::new(honest()) };
    assert!(engine().load(&full.build()).is_ok());
    let tables = Guest { more: "(table 30000 funcref)".to_owned(), ..Guest::new(honest()) };
    let refusal = engine().load(&tables.build()).expect_err("it was loaded");
    assert!(refusal.to_string().contains("table"), "{refusal}");
    let memories = "(memory $a 1) (memory $b 1) (memory $c 1)".to_owned();
    let refusal = engine().load(&Guest { more: memories, ..Guest::new(honest()) }.build());
    assert!(refusal.is_err());
}

#[test]
fn the_contract_of_this_repository_is_what_the_tests_are_built_by() {
    let mut resolve = Resolve::default();
    include_contract(&mut resolve);
    let worlds: Vec<&str> = resolve.worlds.iter().map(|(_, world)| world.name.as_str()).collect();
    assert_eq!(worlds, ["authorizer-policy", "policy"]);
}
