//! The decision about a request: one function, straight down.
//!
//! The order matters to callers. Who is asking comes first (a stranger learns
//! nothing of the API), then whether the key may be used here and now, then
//! what for. The first rule that a request does not pass is the refusal.

use crate::{
    Storage,
    catalogue::{self, Endpoint, Found, Publishable},
    context::{self, Target},
    contract::{
        Credential, Decision, Denial, Grant, Key, Mode, PresentedCredential, Request,
        explain::{Explanation, Step},
    },
    denial, kind, limited, network, permission,
};

/// Within this long before its end a key's callers are told of it.
const NOTICE_BEFORE_END_SECS: u64 = 7 * 24 * 60 * 60;

/// Decides whether `request` may go ahead, with the `key` whose secret it presents.
pub fn authorize(request: &Request, key: Option<&Key>, storage: &impl Storage) -> Decision {
    decide(request, key, storage, &mut Silent)
}

/// Decides as [`authorize`] does, and says which rules were asked.
pub fn explain(request: &Request, key: Option<&Key>, storage: &impl Storage) -> Explanation {
    let mut steps = Vec::new();
    let decision = decide(request, key, storage, &mut steps);
    Explanation { decision, steps }
}

/// Who hears which rules were asked. Two listeners and not a flag, so that the
/// request path holds no trace of the explanation.
trait Listener {
    fn asked<T>(
        &mut self,
        rule: &str,
        detail: impl FnOnce() -> String,
        outcome: Result<T, Denial>,
    ) -> Result<T, Denial>;
}

struct Silent;

impl Listener for Silent {
    fn asked<T>(
        &mut self,
        _: &str,
        _: impl FnOnce() -> String,
        outcome: Result<T, Denial>,
    ) -> Result<T, Denial> {
        outcome
    }
}

impl Listener for Vec<Step> {
    fn asked<T>(
        &mut self,
        rule: &str,
        detail: impl FnOnce() -> String,
        outcome: Result<T, Denial>,
    ) -> Result<T, Denial> {
        self.push(Step { rule: rule.to_owned(), passed: outcome.is_ok(), detail: detail() });
        outcome
    }
}

fn decide(
    request: &Request,
    key: Option<&Key>,
    storage: &impl Storage,
    listener: &mut impl Listener,
) -> Decision {
    let credential = listener.asked(
        "credential-well-formed",
        || "the Authorization header holds a text with the shape of a key".to_owned(),
        well_formed(&request.credential),
    );
    let key = credential.and_then(|credential| {
        listener.asked(
            "key-known",
            || credential.masked.clone(),
            key.map(|key| (key, credential.masked.as_str()))
                .ok_or_else(|| denial::unknown_key(&credential.masked)),
        )
    });
    let (key, masked) = match key {
        Ok(found) => found,
        Err(denial) => return Decision::Deny(denial),
    };
    let mut template = None;
    match permit(request, key, masked, storage, listener, &mut template) {
        Ok(grant) => Decision::Allow(grant),
        Err(denial) => {
            let key = Some(key.id.clone());
            Decision::Deny(Denial { key, endpoint: template, ..denial })
        }
    }
}

/// The rules for a known key. `template` is left at the endpoint's, if it came
/// to that, for the refusal to name.
fn permit(
    request: &Request,
    key: &Key,
    masked: &str,
    storage: &impl Storage,
    listener: &mut impl Listener,
    template: &mut Option<String>,
) -> Result<Grant, Denial> {
    listener.asked(
        "key-not-ended",
        || match key.ends_at {
            Some(ends_at) => format!("ends at {ends_at}, now {}", request.now),
            None => "has no end".to_owned(),
        },
        not_ended(key, masked, request.now),
    )?;
    listener.asked(
        "address-allowed",
        || format!("{} of {} ranges", network::display(request.source), key.ipv4_nets.len()),
        if network::allows(&key.ipv4_nets, request.source) {
            Ok(())
        } else {
            Err(denial::address_not_allowed(&network::display(request.source)))
        },
    )?;

    let found = catalogue::find_endpoint(&request.method, &request.path);
    let endpoint = listener.asked(
        "endpoint-listed",
        || match &found {
            Some(found) => found.template.clone(),
            None => format!("{} {} is not in the catalogue", request.method, request.path),
        },
        listed(request, key, masked, found.as_ref().map(|found| found.endpoint)),
    )?;
    *template = found.map(|Found { template, .. }| template);
    listener.asked(
        "mode-has-endpoint",
        || if key.mode == Mode::Live { "live mode" } else { "test mode" }.to_owned(),
        if endpoint.is_some_and(|endpoint| endpoint.sandbox_only) && key.mode == Mode::Live {
            Err(denial::sandbox_only(masked))
        } else {
            Ok(())
        },
    )?;

    let target = if endpoint.is_some_and(|endpoint| endpoint.any_key) {
        Ok(Target { account: key.account.clone(), connected: false })
    } else {
        context::target(request, key, masked, storage)
    };
    let target = listener.asked(
        "account-reachable",
        || {
            let named = request.context.as_ref().or(request.account.as_ref());
            let named = named.map_or("none", String::as_str);
            format!("the key's owner is {}; the account named: {named}", key.account)
        },
        target,
    )?;
    let client_secret = listener.asked(
        "kind-may-call",
        || format!("a {} key", key.kind),
        kind_may_call(key, endpoint),
    )?;
    let needed = listener.asked(
        "permissions-held",
        || format!("holds `{}`, connect `{}`", key.permissions, key.connect_permissions),
        permissions_held(key, masked, endpoint, &target),
    )?;
    // An endpoint that nobody described may be anything, moving money included.
    let money_movement = endpoint.is_none_or(|endpoint| endpoint.money_movement);
    listener.asked(
        "access-not-limited",
        || format!("its clock runs from {}, now {}", limited::clock_start(key), request.now),
        if money_movement && limited::is_limited(key, request.now) {
            Err(denial::access_limited(masked))
        } else {
            Ok(())
        },
    )?;

    Ok(Grant {
        key: key.id.clone(),
        account: target.account,
        mode: key.mode,
        endpoint: template.clone(),
        permissions: needed,
        usage: match endpoint {
            Some(endpoint) if endpoint.money_movement => "money-movement".to_owned(),
            _ => String::new(),
        },
        notices: notices(key, request.now),
        attributes: if client_secret {
            vec![("client-secret".to_owned(), "required".to_owned())]
        } else {
            Vec::new()
        },
    })
}

fn well_formed(credential: &Credential) -> Result<&PresentedCredential, Denial> {
    let (prefix, masked) = match credential {
        Credential::Absent => return Err(denial::no_key()),
        Credential::Malformed(malformed) => (&malformed.prefix, &malformed.masked),
        Credential::WellFormed(well_formed)
            if !well_formed.prefix.starts_with(kind::WEBHOOK_PREFIX) =>
        {
            return Ok(well_formed);
        }
        Credential::WellFormed(well_formed) => (&well_formed.prefix, &well_formed.masked),
    };
    Err(if prefix.starts_with(kind::WEBHOOK_PREFIX) {
        denial::webhook_secret(masked)
    } else {
        denial::unknown_key(masked)
    })
}

fn not_ended(key: &Key, masked: &str, now: u64) -> Result<(), Denial> {
    match key.ends_at {
        Some(ends_at) if now >= ends_at => Err(denial::ended_key(masked)),
        _ => Ok(()),
    }
}

/// Returns the listed endpoint, or `None` for one that is not listed and may be
/// called all the same: the operator said so, and no permission can cover it.
fn listed(
    request: &Request,
    key: &Key,
    masked: &str,
    endpoint: Option<&'static Endpoint>,
) -> Result<Option<&'static Endpoint>, Denial> {
    let operator_allows =
        request.attributes.iter().any(|(name, value)| name == "allow-unlisted" && value == "yes");
    match endpoint {
        Some(endpoint) => Ok(Some(endpoint)),
        None if !operator_allows => Err(denial::unlisted_endpoint(&request.method, &request.path)),
        None if key.permissions != permission::UNRESTRICTED => {
            Err(denial::unlisted_needs_unrestricted(masked))
        }
        None => Ok(None),
    }
}

/// Tells whether the caller must name the object's client secret as well.
fn kind_may_call(key: &Key, endpoint: Option<&Endpoint>) -> Result<bool, Denial> {
    match key.kind.as_str() {
        kind::PUBLISHABLE => {}
        kind::SECRET | kind::RESTRICTED | kind::ORGANIZATION | kind::MANAGED => return Ok(false),
        // Made under another policy: what it may do is not for us to guess.
        unknown => return Err(denial::unknown_kind(unknown)),
    }
    match endpoint {
        Some(endpoint) if endpoint.any_key => Ok(false),
        Some(endpoint) => match endpoint.publishable {
            Publishable::Yes => Ok(false),
            Publishable::WithClientSecret => Ok(true),
            Publishable::No => Err(denial::secret_key_required()),
        },
        None => Err(denial::secret_key_required()),
    }
}

/// Returns the permissions that the endpoint needed, if the key covers them.
fn permissions_held(
    key: &Key,
    masked: &str,
    endpoint: Option<&Endpoint>,
    target: &Target,
) -> Result<String, Denial> {
    let held = if target.connected { &key.connect_permissions } else { &key.permissions };
    let Some(endpoint) = endpoint else {
        // That the key has no limits at home says nothing of other accounts.
        return if held == permission::UNRESTRICTED {
            Ok(String::new())
        } else {
            Err(denial::unlisted_needs_unrestricted(masked))
        };
    };
    let needed = || permission::join(endpoint.permissions().map(|needed| needed.name()));
    // What a publishable key may call is marked on the endpoint; it holds no
    // permissions.
    if key.kind == kind::PUBLISHABLE || endpoint.any_key {
        return Ok(needed());
    }
    let missing = permission::missing(held, endpoint.permissions());
    if missing.is_empty() {
        Ok(needed())
    } else if target.connected && held.is_empty() {
        Err(denial::no_connect_permissions(missing))
    } else {
        Err(denial::missing_permissions(masked, &target.account, missing))
    }
}

fn notices(key: &Key, now: u64) -> Vec<String> {
    let mut notices = Vec::new();
    if let Some(ends_at) = key.ends_at
        && ends_at.saturating_sub(now) <= NOTICE_BEFORE_END_SECS
    {
        let hours = ends_at.saturating_sub(now).div_ceil(60 * 60);
        notices.push(format!("This API key stops working in {hours} h. Use its replacement."));
    }
    notices
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::contract::{Account, Source};

    /// Knows nothing, and counts what it is asked for.
    #[derive(Default)]
    struct Nothing {
        accounts_asked: Cell<u32>,
    }

    impl Storage for Nothing {
        fn find_accounts(&self, ids: &[String]) -> Vec<Option<Account>> {
            self.accounts_asked.set(self.accounts_asked.get() + 1);
            vec![None; ids.len()]
        }
    }

    fn key() -> Key {
        Key {
            id: "key_1".to_owned(),
            account: "acct_1".to_owned(),
            mode: Mode::Test,
            kind: kind::RESTRICTED.to_owned(),
            origin: kind::USER.to_owned(),
            created_at: 0,
            ends_at: Some(1000),
            restored_at: None,
            money_moved_at: None,
            permissions: "charge_read".to_owned(),
            connect_permissions: String::new(),
            ipv4_nets: Vec::new(),
            attributes: Vec::new(),
        }
    }

    fn request(prefix: &str, path: &str, now: u64) -> Request {
        Request {
            credential: Credential::WellFormed(PresentedCredential {
                prefix: prefix.to_owned(),
                masked: "rk_test_****1234".to_owned(),
            }),
            method: "GET".to_owned(),
            path: path.to_owned(),
            source: Source::Ipv4(0),
            context: None,
            account: None,
            api_version: None,
            now,
            attributes: Vec::new(),
        }
    }

    /// Returns the rules that were asked, in order.
    fn rules(request: &Request, key: Option<&Key>) -> Vec<String> {
        let explanation = explain(request, key, &Nothing::default());
        explanation.steps.into_iter().map(|step| step.rule).collect()
    }

    #[test]
    fn rules_are_asked_in_order_and_the_first_refusal_is_the_last() {
        let all = [
            "credential-well-formed",
            "key-known",
            "key-not-ended",
            "address-allowed",
            "endpoint-listed",
            "mode-has-endpoint",
            "account-reachable",
            "kind-may-call",
            "permissions-held",
            "access-not-limited",
        ];
        let known = Some(&key());
        let rows = [
            (request("rk_test_", "/v1/charges", 0), known, &all[..]),
            (request("rk_test_", "/v1/payouts", 0), known, &all[..9]),
            (request("rk_test_", "/v1/nothing", 0), known, &all[..5]),
            (request("rk_test_", "/v1/charges", 1000), known, &all[..3]),
            (request("rk_test_", "/v1/charges", 0), None, &all[..2]),
            (request("whsec_", "/v1/charges", 0), known, &all[..1]),
        ];
        for (request, key, expected) in rows {
            assert_eq!(rules(&request, key), expected, "{request:?}");
        }
    }

    /// A host that hands over a key with a credential that is none has a bug, and
    /// must not let anybody in by it.
    #[test]
    fn a_key_counts_only_with_a_credential_that_is_well_formed() {
        let presented = |prefix: &str| PresentedCredential {
            prefix: prefix.to_owned(),
            masked: "****".to_owned(),
        };
        for credential in [
            Credential::Absent,
            Credential::Malformed(presented("")),
            Credential::Malformed(presented("sk_live_")),
            Credential::WellFormed(presented("whsec_")),
        ] {
            let request = Request { credential, ..request("", "/v1/charges", 0) };
            let decision = authorize(&request, Some(&key()), &Nothing::default());
            let Decision::Deny(denial) = decision else { panic!("{:?}", request.credential) };
            assert_eq!(denial.key, None, "{:?}", request.credential);
        }
    }

    #[test]
    fn accounts_are_not_read_for_a_request_that_is_refused_anyway() {
        let named = |path, now| Request {
            context: Some("acct_2".to_owned()),
            ..request("rk_test_", path, now)
        };
        for (request, accounts) in [
            (named("/v1/charges", 1000), 0),
            (named("/v1/nothing", 0), 0),
            (named("/v2/iam/api_keys/self", 0), 0),
            (named("/v1/charges", 0), 1),
        ] {
            let storage = Nothing::default();
            authorize(&request, Some(&key()), &storage);
            assert_eq!(storage.accounts_asked.get(), accounts, "{} {}", request.path, request.now);
        }
    }
}
