//! What a refusal says: class, code and message.
//!
//! The codes are Stripe's where Stripe documents one. Messages are for the
//! person who reads the log of a failing program: what is wrong, and what to do
//! about it.

use crate::{
    catalogue::Permission,
    contract::{Denial, DenialClass},
};

/// Makes a refusal with a code.
#[cold]
pub fn denial(class: DenialClass, code: &str, message: impl Into<String>) -> Denial {
    Denial {
        class,
        code: (!code.is_empty()).then(|| code.to_owned()),
        message: message.into(),
        param: None,
        missing_permissions: String::new(),
        key: None,
        endpoint: None,
    }
}

/// Makes a refusal that names the parameter or header at fault.
#[cold]
pub fn invalid(code: &str, param: &str, message: impl Into<String>) -> Denial {
    Denial { param: Some(param.to_owned()), ..denial(DenialClass::InvalidRequest, code, message) }
}

pub(crate) fn no_key() -> Denial {
    denial(
        DenialClass::Unauthenticated,
        "",
        "You did not provide an API key. You need to provide your API key in the Authorization \
         header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
    )
}

pub(crate) fn unknown_key(masked: &str) -> Denial {
    denial(DenialClass::Unauthenticated, "", format!("Invalid API Key provided: {masked}"))
}

pub(crate) fn webhook_secret(masked: &str) -> Denial {
    denial(
        DenialClass::Unauthenticated,
        "",
        format!(
            "Invalid API Key provided: {masked}. This is a webhook signing secret: it verifies the \
             events that you receive, and is never an API key. Use a key that starts with 'sk_' \
             or 'rk_'."
        ),
    )
}

pub(crate) fn ended_key(masked: &str) -> Denial {
    denial(DenialClass::Ended, "api_key_expired", format!("Expired API Key provided: {masked}"))
}

pub(crate) fn address_not_allowed(address: &str) -> Denial {
    denial(
        DenialClass::Forbidden,
        "ip_not_allowed",
        format!("The API key provided does not allow requests from your IP address ({address})."),
    )
}

pub(crate) fn unlisted_endpoint(method: &str, path: &str) -> Denial {
    denial(
        DenialClass::NotFound,
        "",
        format!("Unrecognized request URL ({method}: {path}). Check the method and the path."),
    )
}

pub(crate) fn unlisted_needs_unrestricted(masked: &str) -> Denial {
    denial(
        DenialClass::Forbidden,
        "more_permissions_required",
        format!(
            "The provided key '{masked}' has limited permissions, and this endpoint is not in the \
             catalogue, so that no permission covers it. Only a key without limits can call it."
        ),
    )
}

pub(crate) fn sandbox_only(masked: &str) -> Denial {
    denial(
        DenialClass::InvalidRequest,
        "livemode_mismatch",
        format!(
            "The provided key '{masked}' is a live mode key, and this endpoint exists in test \
             mode only."
        ),
    )
}

pub(crate) fn version_required() -> Denial {
    invalid(
        "version_required",
        "Stripe-Version",
        "Please include the Stripe-Version header when using an Organization API key.",
    )
}

pub(crate) fn context_required() -> Denial {
    invalid(
        "context_required",
        "Stripe-Context",
        "Please include the Stripe-Context header with your target account when using an \
         Organization API key.",
    )
}

pub(crate) fn context_invalid(param: &str, why: &str) -> Denial {
    invalid("context_invalid", param, format!("The {param} header {why}"))
}

pub(crate) fn account_invalid(masked: &str, account: &str) -> Denial {
    denial(
        DenialClass::Forbidden,
        "account_invalid",
        format!(
            "The provided key '{masked}' does not have access to account '{account}' (or that \
             account does not exist). Application access may have been revoked."
        ),
    )
}

/// A key that there is not, or that the caller must not learn of. The host says
/// the same where it finds none, so that the two look alike.
pub(crate) fn no_such_key(id: &str) -> Denial {
    Denial {
        param: Some("id".to_owned()),
        ..denial(DenialClass::NotFound, "resource_missing", format!("No such API key: '{id}'"))
    }
}

pub(crate) fn unknown_kind(kind: &str) -> Denial {
    denial(
        DenialClass::Forbidden,
        "key_kind_unknown",
        format!("The policy in force knows no keys of the kind '{kind}'."),
    )
}

pub(crate) fn secret_key_required() -> Denial {
    denial(
        DenialClass::Forbidden,
        "secret_key_required",
        "This API call cannot be made with a publishable API key. Please use a secret or \
         restricted API key.",
    )
}

pub(crate) fn no_connect_permissions(missing: String) -> Denial {
    Denial {
        missing_permissions: missing,
        ..denial(
            DenialClass::Forbidden,
            "more_permissions_required",
            "You passed a restricted API key with the Stripe-Account or Stripe-Context header, but \
             the restricted API key does not have any Connect permissions.",
        )
    }
}

pub(crate) fn missing_permissions(masked: &str, account: &str, missing: String) -> Denial {
    let named: Vec<String> = missing
        .split(' ')
        .map(|name| match Permission::find(name) {
            Some(permission) => format!("{} ('{name}')", permission.title()),
            None => format!("'{name}'"),
        })
        .collect();
    let message = format!(
        "The provided key '{masked}' does not have the required permissions for this endpoint on \
         account '{account}'. Enabling {} permissions on this key would allow this request to \
         continue.",
        named.join(" and "),
    );
    Denial {
        missing_permissions: missing,
        ..denial(DenialClass::Forbidden, "more_permissions_required", message)
    }
}

pub(crate) fn access_limited(masked: &str) -> Denial {
    denial(
        DenialClass::Forbidden,
        "access_limited",
        format!(
            "Access of the provided key '{masked}' has been limited, because it has not been used \
             to create transfers, payouts or payout destinations for over {} days. Restore its \
             access to make this request; every other request still works.",
            crate::limited::LIMITED_AFTER_DAYS,
        ),
    )
}
