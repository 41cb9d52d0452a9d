//! Policies that are signed: `wardkey policies keygen` and `sign`, and what becomes
//! of that at a host.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::{Value, json};
use wardkey::engine::MAX_COMPONENT_BYTES;

use crate::{
    common::policy_named,
    guest::{Guest, deny},
    policies::{check_states, check_swap, status},
    program::{FREE_PORTS, Folder, end, wait_until},
};

/// Makes the key `NAME.key`, and returns its public key.
#[track_caller]
fn keygen(folder: &Folder, name: &str) -> String {
    let ended = folder.run(&["policies", "keygen", "--out", &format!("{name}.key")]);
    assert_eq!(ended.code, 0, "{ended:?}");
    // The key alone is for a script's variable.
    assert_eq!(ended.stdout.trim_end().len(), 64, "{ended:?}");
    ended.stdout.trim_end().to_owned()
}

/// Signs a file with the key `NAME.key`, and returns what is printed.
#[track_caller]
fn sign(folder: &Folder, file: &str, key: &str, name: &str, revision: &str) -> String {
    let key = format!("{key}.key");
    let said = ["--key", &key, "--name", name, "--revision", revision];
    let ended = folder.run(&[&["policies", "sign", file], &said[..]].concat());
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
    ended.stdout
}

/// Pushes `rules.wasm` and what else is said, and returns the digest.
fn push_signed(folder: &Folder, more: &[&str]) -> Result<String, String> {
    let args = ["policies", "push", "rules.wasm", "--version", "1"];
    let ended = folder.run(&[&args[..], more].concat());
    match ended.code {
        0 => Ok(ended.stdout.trim_end().to_owned()),
        _ => Err(ended.stderr),
    }
}

#[test]
fn a_policy_is_signed_where_it_is_built_and_runs_where_the_key_is_trusted() {
    let folder = Folder::ready();
    let (_, secret) = folder.key(&["--kind", "secret"]);
    let rules = folder.path().join("rules.wasm");
    fs::write(&rules, Guest::new(deny()).build()).unwrap();
    let (us, them) = (keygen(&folder, "ours"), keygen(&folder, "theirs"));
    let printed = sign(&folder, "rules.wasm", "ours", "my rules", "7");
    for line in ["name                 my rules\n", "revision             7\n", &us] {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    let file = fs::read_to_string(folder.path().join("rules.wasm.sig")).unwrap();
    let file: Value = serde_json::from_str(&file).unwrap();
    assert_eq!(
        (&file["name"], &file["revision"], &file["key"]),
        (&json!("my rules"), &json!(7), &json!(us))
    );
    let signature = &["--signature", "rules.wasm.sig"][..];

    let host = folder.start(&["--policy-key", &us]);
    let refused = push_signed(&folder, &["--name", "my rules", "--revision", "7"]);
    assert!(refused.unwrap_err().contains("is not signed"));
    let digest = push_signed(&folder, signature).unwrap();
    assert_eq!(file["digest"], *digest);
    let same = [signature, &["--name", "my rules", "--revision", "7"]].concat();
    assert_eq!(push_signed(&folder, &same).unwrap(), digest);
    check_swap(&folder, &["activate", &digest], "standard", "my");
    assert_eq!(status(&host, &secret), 403);
    let shown = folder.run(&["policies", "show", &digest]).stdout;
    assert!(shown.contains("signed               true\n"), "{shown}");
    assert!(shown.contains(&format!("signed_by            {us}\n")), "{shown}");
    assert!(host.terminate().success());

    // It is what the next start demands that counts.
    for (flags, says) in [
        (&["--policy-key", &them][..], "`--policy-key`"),
        (&["--policy-key", &us, "--min-revision", "8"], "`--min-revision 8`"),
        (&["--require-policy", file["key"].as_str().unwrap()], "`--require-policy`"),
    ] {
        let ended = folder.run(&[&FREE_PORTS[..], flags].concat());
        assert_eq!(ended.code, 1, "{flags:?}: {ended:?}");
        assert!(ended.stderr.contains(says), "{flags:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("`--policy FILE.wasm`"), "{flags:?}: {}", ended.stderr);
    }
    let both = format!("{them},{us}");
    let host =
        folder.start(&["--policy-key", &both, "--min-revision", "7", "--require-policy", &digest]);
    assert_eq!(status(&host, &secret), 403);
    let refused = folder.run(&["policies", "rollback"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("`--min-revision 7`"), "{}", refused.stderr);
    assert!(host.terminate().success());
    // Where no host runs, the variables say it.
    let with_key = |key: &str| {
        let mut list = folder.command(&["policies", "list"]);
        list.env("WARDKEY_POLICY_KEY", key);
        end(list, "")
    };
    assert_eq!(with_key(&us).code, 0);
    let refused = with_key(&them);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    assert!(refused.stderr.contains("`--policy-key`"), "{}", refused.stderr);
}

#[test]
fn what_was_not_signed_like_this_is_not_sent() {
    let folder = Folder::ready();
    let file = |name: &str| folder.path().join(name);
    fs::write(file("rules.wasm"), policy_named("rules")).unwrap();
    fs::write(file("other.wasm"), policy_named("other")).unwrap();
    keygen(&folder, "ours");
    sign(&folder, "rules.wasm", "ours", "rules", "7");
    sign(&folder, "other.wasm", "ours", "rules", "7");
    let good = fs::read_to_string(file("rules.wasm.sig")).unwrap();
    fs::write(file("renamed.sig"), good.replace("\"rules\"", "\"other\"")).unwrap();
    fs::write(file("more.sig"), good.replacen('{', "{ \"version\": \"1\",", 1)).unwrap();
    for (more, says) in [
        (&["--signature", "rules.wasm.sig", "--name", "Rules"][..], "--name `Rules` is not what"),
        (&["--signature", "rules.wasm.sig", "--revision", "8"], "--revision 8 is not what"),
        (&["--signature", "other.wasm.sig"], "sign it again"),
        (&["--signature", "renamed.sig"], "sign it again"),
        (&["--signature", "more.sig"], "`more.sig` is no signature"),
        (&["--signature", "rules.wasm"], "`rules.wasm` is no signature"),
        (&["--signature", "missing.sig"], "`missing.sig`"),
    ] {
        let refused = push_signed(&folder, more).unwrap_err();
        assert!(refused.starts_with("error: ") && refused.contains(says), "{more:?}: {refused}");
    }
    check_states(&folder, &[("standard", "active")]);
    // Where nobody asks for signatures, one is kept.
    push_signed(&folder, &["--signature", "rules.wasm.sig"]).unwrap();
    let shown = folder.json(&[
        "policies",
        "show",
        &push_signed(&folder, &["--signature", "rules.wasm.sig"]).unwrap(),
    ]);
    assert_eq!((&shown["signed"], &shown["signed_by"]), (&json!(true), &Value::Null));
}

#[test]
fn a_private_key_and_what_is_no_signature_are_never_replaced() {
    let folder = Folder::empty();
    let file = |name: &str| folder.path().join(name);
    keygen(&folder, "ours");
    let mode = fs::metadata(file("ours.key")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let key = fs::read_to_string(file("ours.key")).unwrap();
    fs::write(file("rules.wasm"), "bytes").unwrap();
    fs::write(file("large.wasm"), vec![0; MAX_COMPONENT_BYTES + 1]).unwrap();
    fs::write(file("open.key"), &key).unwrap();
    fs::write(file("short.key"), "c2hvcnQ=").unwrap();
    fs::set_permissions(file("short.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let row = |file, key, name, out| {
        ["policies", "sign", file, "--key", key, "--name", name, "--revision", "1", "--out", out]
    };
    for (args, says) in [
        (&["policies", "keygen", "--out", "ours.key"][..], "is not replaced"),
        (&["policies", "keygen", "--out", "rules.wasm"], "is not replaced"),
        (&["policies", "keygen", "--out", "nowhere/ours.key"], "`nowhere/ours.key`"),
        (&row("rules.wasm", "ours.key", "a", "ours.key"), "not replaced"),
        (&row("rules.wasm", "ours.key", "a", "rules.wasm"), "not replaced"),
        (&row("rules.wasm", "open.key", "a", "a.sig"), "chmod 600"),
        (&row("rules.wasm", "short.key", "a", "a.sig"), "does not hold a private policy key"),
        (&row("rules.wasm", "missing.key", "a", "a.sig"), "`missing.key`"),
        (&row("missing.wasm", "ours.key", "a", "a.sig"), "`missing.wasm`"),
        (&row("large.wasm", "ours.key", "a", "a.sig"), "8388608"),
        (&row("rules.wasm", "ours.key", "a\nb", "a.sig"), "--name: use 1 to 100"),
        (&row("rules.wasm", "ours.key", "", "a.sig"), "--name: use 1 to 100"),
    ] {
        let ended = folder.run(args);
        assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(says), "{args:?}: {}", ended.stderr);
        assert!(!ended.stderr.contains(key.trim()), "{args:?}: {}", ended.stderr);
    }
    assert_eq!(fs::read_to_string(file("ours.key")).unwrap(), key);
    assert_eq!(fs::read_to_string(file("rules.wasm")).unwrap(), "bytes");
    assert!(!file("a.sig").exists());
    // A signature is replaced by a newer one.
    for revision in ["1", "2"] {
        sign(&folder, "rules.wasm", "ours", "rules", revision);
        let text = fs::read_to_string(file("rules.wasm.sig")).unwrap();
        assert!(text.contains(&format!("\"revision\": {revision},")), "{text}");
    }
    assert!(!folder.data().exists(), "no host is asked, or made");
}

#[test]
fn a_file_that_a_host_is_started_with_needs_its_signature_beside_it() {
    let folder = Folder::ready();
    let (_, secret) = folder.key(&["--kind", "secret"]);
    let path = folder.path();
    let (rules, signature) = (path.join("rules.wasm"), path.join("rules.wasm.sig"));
    let (open, closed) = (policy_named("rules"), Guest::new(deny()).build());
    fs::write(&rules, &open).unwrap();
    let (us, them) = (keygen(&folder, "ours"), keygen(&folder, "theirs"));
    let refused = |flags: &[&str], says: &str| {
        let ended = folder.run(&[&FREE_PORTS[..], &["--policy", "rules.wasm"], flags].concat());
        assert_eq!(ended.code, 1, "{flags:?}: {ended:?}");
        assert!(ended.stderr.contains("the policy `rules.wasm` was refused"), "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{flags:?}: {}", ended.stderr);
    };
    let signed = ["--policy-key", &us];
    refused(&signed, "`rules.wasm.sig`");
    // What it is comes second: it would not load.
    fs::write(&rules, "no component").unwrap();
    refused(&signed, "`rules.wasm.sig`");
    fs::write(&rules, &open).unwrap();
    sign(&folder, "rules.wasm", "theirs", "rules", "7");
    refused(&signed, "`--policy-key`");
    sign(&folder, "rules.wasm", "ours", "rules", "7");
    refused(&["--policy-key", &them], "`--policy-key`");
    refused(&["--policy-key", &us, "--min-revision", "8"], "`--min-revision 8`");
    refused(&["--require-policy", &us], "`--require-policy`");
    // Without signatures a file has no revision.
    let host = folder.start(&["--policy", "rules.wasm", "--min-revision", "8"]);
    assert!(host.terminate().success());

    let all = ["--policy", "rules.wasm", "--watch", "--policy-key", &us, "--min-revision", "7"];
    let host = folder.start(&all);
    assert_eq!(status(&host, &secret), 200);
    let is_told = |what: &str| wait_until(what, || host.stderr().contains(what));
    // The file comes first, and is good when its signature is there.
    fs::write(&rules, &closed).unwrap();
    is_told("the signature of the policy");
    assert_eq!(status(&host, &secret), 200);
    sign(&folder, "rules.wasm", "ours", "rules", "6");
    is_told("`--min-revision 7`");
    assert_eq!(status(&host, &secret), 200);
    sign(&folder, "rules.wasm", "ours", "rules", "8");
    wait_until("the other policy is in force", || status(&host, &secret) == 403);
    // What is in force stays when the signature goes.
    fs::remove_file(&signature).unwrap();
    is_told("cannot read the signature `rules.wasm.sig`");
    assert_eq!(status(&host, &secret), 403);
    assert!(host.terminate().success());
}
