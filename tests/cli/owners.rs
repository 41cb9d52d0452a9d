//! `wardkey accounts` and `wardkey organizations`.

use serde_json::{Value, json};

use crate::program::{assert_no_secret, with_and_without_a_host};

#[test]
fn accounts_and_organizations_are_made_and_joined() {
    with_and_without_a_host(|folder| {
        let made = folder.run(&["organizations", "create", "--name", "Acme"]);
        assert_eq!(made.code, 0, "{}", made.stderr);
        let organization = made.stdout.trim();
        assert!(organization.starts_with("org_"), "{organization}");
        let made = folder.run(&[
            "accounts",
            "create",
            "--name",
            "Acme Parcels",
            "--organization",
            organization,
        ]);
        assert_eq!(made.code, 0, "{}", made.stderr);
        let account = made.stdout.trim();
        assert!(account.starts_with("acct_"), "{account}");
        assert_no_secret(&made.stdout);
        // With its own keys.
        let keys = folder.json(&["keys", "list", "--account", account]);
        assert_eq!(keys.as_array().unwrap().len(), 6);

        let show = |id: &str| folder.json(&["accounts", "show", id]);
        assert_eq!(show(account)["name"], "Acme Parcels");
        assert_eq!(show(account)["organization"], organization);
        let left = folder.json(&["accounts", "update", account, "--no-organization"]);
        assert_eq!((&left["organization"], &left), (&Value::Null, &show(account)));
        let args = ["accounts", "update", account, "--organization", organization];
        assert_eq!(folder.json(&args)["organization"], organization);

        let connected =
            folder.json(&["accounts", "create", "--name", "Shop", "--platform", account]);
        assert_eq!(connected["platform"], json!(account));
        let listed = folder.json(&["accounts", "list"]);
        assert_eq!(listed.as_array().unwrap().len(), 3);
        let table = folder.run(&["accounts", "list"]).stdout;
        assert_eq!(table.lines().count(), 4);
        assert!(table.contains("Acme Parcels") && table.contains(organization), "{table}");
        assert!(folder.run(&["accounts", "show", account]).stdout.contains(organization));
    });
}

#[test]
fn what_cannot_be_made_or_joined_is_refused() {
    with_and_without_a_host(|folder| {
        let account = folder.json(&["accounts", "list"])[0]["id"].as_str().unwrap().to_owned();
        let before = folder.json(&["accounts", "list"]);
        for (args, code, named) in [
            (&["accounts", "create"][..], 2, "--name"),
            (&["accounts", "create", "--name", ""], 1, "name"),
            (&["accounts", "create", "--name", "a", "--organization", "org_none"], 1, "org_none"),
            (&["accounts", "create", "--name", "a", "--platform", "acct_none"], 1, "acct_none"),
            (&["accounts", "show", "acct_none"], 1, "acct_none"),
            (&["accounts", "update", &account], 2, "--organization"),
            (&["accounts", "update", &account, "--organization", "org_none"], 1, "org_none"),
            (
                &["accounts", "update", &account, "--organization", "o", "--no-organization"],
                2,
                "--no-organization",
            ),
            (&["organizations", "create", "--name", " "], 1, "name"),
        ] {
            let ended = folder.run(args);
            assert_eq!((ended.code, ended.stdout.as_str()), (code, ""), "{args:?}: {ended:?}");
            assert!(ended.stderr.contains(named), "{args:?}: {}", ended.stderr);
        }
        assert_eq!(folder.json(&["accounts", "list"]), before);
    });
}
