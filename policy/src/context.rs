//! Which account a request acts on (facts: organization keys, Connect).
//!
//! The `Stripe-Context` header is a path of account ids, relative to the key's
//! owner: each account must be connected to the one before it, and the first to
//! the owner (or be a member of it, where the owner is an organization).
//! `Stripe-Account` is the older way to name one connected account.

use crate::{
    Storage,
    contract::{Account, Denial, Key, Request},
    denial, kind,
};

/// The most accounts in one context: organization → platform → account →
/// recipient needs three, and each may cost a storage read.
pub const MAX_CONTEXT_ACCOUNTS: usize = 4;

/// The account that a request acts on.
pub struct Target {
    /// Its id.
    pub account: String,
    /// Whether the key reaches it through a connection between accounts, for
    /// which the key's connect permissions count in place of its own.
    pub connected: bool,
}

/// Finds the account that `request` acts on with `key`, or says why it cannot.
pub fn target(
    request: &Request,
    key: &Key,
    masked: &str,
    storage: &impl Storage,
) -> Result<Target, Denial> {
    let organization = key.kind == kind::ORGANIZATION;
    if organization && request.api_version.as_deref().unwrap_or_default().is_empty() {
        return Err(denial::version_required());
    }
    let (header, named) = match (&request.context, &request.account) {
        (Some(_), Some(_)) => {
            return Err(denial::context_invalid(
                "Stripe-Context",
                "and the Stripe-Account header cannot both be sent. Send Stripe-Context.",
            ));
        }
        (Some(context), None) => ("Stripe-Context", context),
        (None, Some(account)) => ("Stripe-Account", account),
        (None, None) if organization => return Err(denial::context_required()),
        (None, None) => {
            return Ok(Target { account: key.account.clone(), connected: false });
        }
    };
    // An organization key names its account in `Stripe-Context` only: that is
    // the header its users are told of, and one way is easier to audit.
    if organization && request.context.is_none() {
        return Err(denial::context_required());
    }

    let ids: Vec<String> = named.split('/').map(str::to_owned).collect();
    if ids.len() > MAX_CONTEXT_ACCOUNTS || (request.context.is_none() && ids.len() > 1) {
        return Err(denial::context_invalid(header, "names too many accounts."));
    }
    if !ids.iter().all(|id| id.starts_with("acct_")) {
        return Err(denial::context_invalid(
            header,
            "must hold account ids ('acct_…') joined by '/'.",
        ));
    }
    // Naming itself is naming nobody else.
    if let [only] = ids.as_slice()
        && *only == key.account
    {
        return Ok(Target { account: key.account.clone(), connected: false });
    }

    let accounts = storage.find_accounts(&ids);
    let mut owner = key.account.as_str();
    let mut connected = false;
    for (index, id) in ids.iter().enumerate() {
        let Some(Some(account)) = accounts.get(index) else {
            return Err(denial::account_invalid(masked, id));
        };
        let member = index == 0 && organization;
        if !belongs(account, owner, member) {
            return Err(denial::account_invalid(masked, id));
        }
        connected |= !member;
        owner = id;
    }
    Ok(Target { account: owner.to_owned(), connected })
}

fn belongs(account: &Account, owner: &str, member: bool) -> bool {
    let to = if member { &account.organization } else { &account.platform };
    to.as_deref() == Some(owner)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::contract::{Credential, Mode, Source};

    /// Knows a chain of accounts, `acct_1` of the owner's and so on, and keeps
    /// what it was asked.
    #[derive(Default)]
    struct Chain {
        asked: RefCell<Vec<Vec<String>>>,
    }

    impl Storage for Chain {
        fn find_accounts(&self, ids: &[String]) -> Vec<Option<Account>> {
            self.asked.borrow_mut().push(ids.to_vec());
            let find = |id: &String| {
                let n: u32 = id.strip_prefix("acct_")?.parse().ok()?;
                let platform = (n > 1).then(|| format!("acct_{}", n - 1));
                let platform = platform.or(Some("acct_owner".to_owned()));
                Some(Account { id: id.clone(), organization: None, platform })
            };
            ids.iter().map(find).collect()
        }
    }

    fn key() -> Key {
        Key {
            id: "key_1".to_owned(),
            account: "acct_owner".to_owned(),
            mode: Mode::Test,
            kind: kind::RESTRICTED.to_owned(),
            origin: kind::USER.to_owned(),
            created_at: 0,
            ends_at: None,
            restored_at: None,
            money_moved_at: None,
            permissions: String::new(),
            connect_permissions: String::new(),
            ipv4_nets: Vec::new(),
            attributes: Vec::new(),
        }
    }

    /// Returns what came of it, and how many ids each question held.
    fn ask(context: Option<&str>) -> (String, Vec<usize>) {
        let request = Request {
            credential: Credential::Absent,
            method: "GET".to_owned(),
            path: "/v1/charges".to_owned(),
            source: Source::Ipv4(0),
            context: context.map(str::to_owned),
            account: None,
            api_version: None,
            now: 0,
            attributes: Vec::new(),
        };
        let storage = Chain::default();
        let answer = match target(&request, &key(), "rk_test_****", &storage) {
            Ok(target) if target.connected => format!("connected {}", target.account),
            Ok(target) => target.account,
            Err(denial) => denial.code.unwrap_or_default(),
        };
        (answer, storage.asked.take().iter().map(Vec::len).collect())
    }

    /// Each question may cost a run of the whole decision.
    #[test]
    fn storage_is_asked_once_for_all_accounts_and_only_for_good_reason() {
        for (context, answer, asked) in [
            (None, "acct_owner", &[][..]),
            (Some("acct_owner"), "acct_owner", &[]),
            (Some("acct_1"), "connected acct_1", &[1]),
            (Some("acct_1/acct_2/acct_3/acct_4"), "connected acct_4", &[4]),
            (Some("acct_1/acct_3"), "account_invalid", &[2]),
            (Some("acct_nobody"), "account_invalid", &[1]),
            (Some("acct_1/acct_2/acct_3/acct_4/acct_5"), "context_invalid", &[]),
            (Some("org_1"), "context_invalid", &[]),
            (Some(""), "context_invalid", &[]),
        ] {
            assert_eq!(ask(context), (answer.to_owned(), asked.to_vec()), "{context:?}");
        }
    }

    #[test]
    fn a_storage_that_answers_less_than_it_was_asked_opens_nothing() {
        struct Silent;
        impl Storage for Silent {
            fn find_accounts(&self, _: &[String]) -> Vec<Option<Account>> {
                Vec::new()
            }
        }
        let request = Request {
            credential: Credential::Absent,
            method: String::new(),
            path: String::new(),
            source: Source::Ipv4(0),
            context: Some("acct_1".to_owned()),
            account: None,
            api_version: None,
            now: 0,
            attributes: Vec::new(),
        };
        assert!(target(&request, &key(), "", &Silent).is_err());
    }
}
