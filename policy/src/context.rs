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
