//! `wardkey backup`, the way back, and the key-encryption key.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::program::{
    FREE_PORTS, Folder, Terminal, assert_no_secret, has_tool, with_and_without_a_host,
};

#[test]
fn a_copy_is_written_and_what_is_not_in_it_is_said() {
    with_and_without_a_host(|folder| {
        let (_, secret) = folder.key(&[]);
        let ended = folder.run(&["backup", "--to", "copy.db"]);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let copy = folder.path().join("copy.db");
        assert_eq!(ended.stdout.trim(), copy.display().to_string());
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
        for file in ["key-encryption.key", "operator.secret", "audit.key", "--accept-backup"] {
            assert!(ended.stderr.contains(file), "{file}: {}", ended.stderr);
        }
        let bytes = fs::read(&copy).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
        for file in ["key-encryption.key", "operator.secret", "audit.key"] {
            let text = fs::read_to_string(folder.data().join(file)).unwrap();
            let text = text.trim().as_bytes();
            assert!(!bytes.windows(text.len()).any(|window| window == text), "{file}");
        }

        // What is there is not written over.
        for (to, named) in [("copy.db", "exists"), ("nowhere/copy.db", "right now")] {
            let ended = folder.run(&["backup", "--to", to]);
            assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{to}");
            assert!(ended.stderr.contains(named), "{to}: {}", ended.stderr);
        }
        assert_eq!(fs::read(&copy).unwrap(), bytes);
        let answer = folder.json(&["backup", "--to", "second.db"]);
        assert_eq!(answer["not_included"].as_array().unwrap().len(), 3);
        assert_eq!(folder.run(&["backup"]).code, 2);
    });
}

#[test]
fn the_way_back_asks_for_a_look_first() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let (id, secret) = folder.key(&["--kind", "secret"]);
    assert_eq!(folder.run(&["backup", "--to", "copy.db"]).code, 0);
    folder.json(&["keys", "expire", &id, "--yes"]);
    assert_eq!(host.call("GET", "/v1/balance", &secret).status, 401);
    assert!(host.terminate().success());
    // Not a copy: nothing to accept, and nothing in the way.
    let host = folder.start(&["--accept-backup"]);
    assert!(host.stderr().contains("nothing to accept"), "{}", host.stderr());
    assert!(host.terminate().success());

    for left in ["wardkey.db-wal", "wardkey.db-shm"] {
        let _ = fs::remove_file(folder.data().join(left));
    }
    fs::copy(folder.path().join("copy.db"), folder.data().join("wardkey.db")).unwrap();
    for _ in 0..2 {
        let refused = folder.run(&FREE_PORTS);
        assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{}", refused.stderr);
        for part in ["began as a copy", "20", "good again", "audit list", "--accept-backup"] {
            assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
        }
        assert_no_secret(&refused.stderr);
    }
    // To look is not to accept, and the log goes on.
    assert_eq!(folder.json(&["keys", "show", &id])["status"], "active");
    assert_eq!(folder.run(&["audit", "list"]).code, 0);
    assert_eq!(folder.run(&["audit", "verify"]).code, 0);
    assert_eq!(folder.run(&FREE_PORTS).code, 1);

    let host = folder.start(&["--accept-backup"]);
    let log = host.stderr();
    assert!(log.contains("A COPY WAS ACCEPTED") && log.contains("7 keys are active"), "{log}");
    assert_eq!(host.call("GET", "/v1/balance", &secret).status, 200);
    folder.json(&["keys", "expire", &id, "--yes"]);
    assert_eq!(host.call("GET", "/v1/balance", &secret).status, 401);
    let noted = folder.json(&["audit", "list"]);
    assert_eq!(noted[1]["action"], "host.backup_accepted", "{noted}");
    assert_eq!(noted[1]["after"]["active_keys"], 7);
    assert!(host.terminate().success());
    // Once.
    assert!(folder.start(&[]).terminate().success());
}

#[test]
fn kept_secrets_are_sealed_anew() {
    with_and_without_a_host(|folder| {
        let (id, secret) = folder.key(&[]);
        let file = folder.data().join("key-encryption.key");
        let before = fs::read(&file).unwrap();
        let refused = folder.run(&["key-encryption-key", "replace"]);
        assert_eq!((refused.code, refused.stdout.as_str()), (2, ""));
        assert!(refused.stderr.contains("--yes"), "{}", refused.stderr);
        assert_eq!(fs::read(&file).unwrap(), before);

        let done = folder.json(&["key-encryption-key", "replace", "--yes"]);
        assert_eq!(done["secrets_resealed"], 7);
        assert_ne!(fs::read(&file).unwrap(), before);
        assert_eq!(folder.run(&["keys", "reveal", &id]).stdout.trim(), secret);
        let noted = folder.json(&["audit", "list"]);
        assert_eq!(noted[1]["action"], "key_encryption_key.replaced", "{noted}");
    });
    if has_tool("script") {
        let folder = Folder::ready();
        let before = fs::read(folder.data().join("key-encryption.key")).unwrap();
        let mut terminal = Terminal::run(&folder, &["key-encryption-key", "replace"]);
        terminal.wait_for("keep it with them").wait_for("[y/N]").enter("");
        assert_eq!(terminal.end().code, 1);
        assert_eq!(fs::read(folder.data().join("key-encryption.key")).unwrap(), before);
    }
}
