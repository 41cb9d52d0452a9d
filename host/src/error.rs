//! From what went wrong to what the client is told. The only file that picks a
//! status for an error.
//!
//! | what happened | status | `type` |
//! | --- | --- | --- |
//! | no key, unknown key, unreadable credential | 401 | `invalid_request_error` |
//! | a key that has ended | 401 | `authentication_error` |
//! | a good key that may not do this | 403 | `invalid_request_error` |
//! | a person has not confirmed it | 403 | `invalid_request_error` |
//! | a policy that the configuration does not allow | 403 | `invalid_request_error` |
//! | the request is at fault | 400 (413 too large) | `invalid_request_error` |
//! | no such endpoint or object | 404 | `invalid_request_error` |
//! | a clash with the state of things | 409 | `invalid_request_error` |
//! | it holds only for another revision (`If-Match`) | 412 | `invalid_request_error` |
//! | an idempotency key that stands for another request | 400 | `idempotency_error` |
//! | too many requests | 429 | `invalid_request_error` |
//! | a bug, a failing policy, a damaged record | 500 | `api_error` |
//! | the upstream answers nonsense or nothing | 502, 504 | `api_error` |
//! | storage or the policy's time is not to be had | 503 | `api_error` |
//!
//! Two audiences: the client gets a stable `code` and a sentence; the log gets
//! the chain of causes, once, here. Neither gets a secret.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    credential::CredentialError,
    decide::DecideError,
    engine::{
        EngineError,
        contract::{Denial, DenialClass},
    },
    path::PathInvalid,
    scrub::scrub,
    simulated::SimulatedError,
    storage::{Mode, StorageError},
    trust::TrustError,
    vault::VaultError,
    verification::{self, ChallengeSent, VerificationError},
};

/// How long a client should wait before it tries again, in seconds. Storage
/// that comes back does so within about a second.
const RETRY_AFTER_SECS: &str = "1";

/// The same for a client that was told to slow down: a share is that of a minute.
const RETRY_AFTER_LIMIT_SECS: &str = "60";

/// Whether the official SDKs should try again. Said of every refusal, because
/// trying again is what they would do with some.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("stripe-should-retry");

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The policy refused it.
    #[error("{}", .0.message)]
    Denied(Box<Denial>),
    /// Its credential cannot be read.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// Its path can be read in two ways.
    #[error(transparent)]
    Path(#[from] PathInvalid),
    /// A route of ours, and the caller is not its operator.
    #[error("this route needs the operator credential, in `authorization: Bearer …`")]
    OperatorRequired,
    /// The internal listener, and the caller is not one of the operator's
    /// services.
    #[error(
        "this listener is for this machine: call it as `localhost` or by a loopback address, or \
         with the token it was given"
    )]
    InternalOnly,
    /// A parameter is at fault.
    #[error("{message}")]
    Invalid {
        /// The parameter.
        param: String,
        /// What is wrong with it, and what would be right.
        message: String,
    },
    /// There is no such thing, or it is not the caller's to see.
    #[error("No such {what}: '{id}'")]
    NotFound {
        /// What was looked for.
        what: &'static str,
        /// The caller-supplied id.
        id: String,
    },
    /// There is no such route.
    #[error("Unrecognized request URL ({method}: {path}).")]
    NoRoute {
        /// The request's method.
        method: String,
        /// The request's path, scrubbed of secrets.
        path: String,
    },
    /// It clashes with what is there.
    #[error("{0}")]
    Conflict(String),
    /// A component that is not fit to be a policy.
    #[error("{0}")]
    PolicyRefused(String),
    /// A policy that the operator's configuration does not allow.
    #[error(transparent)]
    Untrusted(#[from] TrustError),
    /// Somebody else has changed it since it was read.
    #[error("'{id}' was changed meanwhile; read it again")]
    Changed {
        /// What was changed.
        id: String,
    },
    /// It was to be done to another revision than there is.
    #[error("the key was changed since you read it: read it again, and repeat what still holds")]
    PreconditionFailed,
    /// The idempotency key stands for another request.
    #[error(
        "this idempotency key was used for another request: use another one, or send the same \
         request"
    )]
    IdempotencyConflict,
    /// A request with this idempotency key is under way, or was done this moment.
    #[error("a request with this idempotency key is under way; send it again for its answer")]
    IdempotencyInUse,
    /// A person has not confirmed it.
    #[error(transparent)]
    Verification(#[from] VerificationError),
    /// The source has failed to authenticate too often.
    #[error("too many failed authentications from this address; good keys go on working")]
    TooManyFailures,
    /// The caller was refused too often.
    #[error("too many refused requests; wait a minute")]
    TooManyRefusals,
    /// The upstream could not be reached, or broke off.
    #[error("the upstream did not answer")]
    UpstreamAbsent(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The upstream took too long.
    #[error("the upstream took too long to answer")]
    UpstreamSlow,
    /// Something that the answer needs is not to be had at the moment.
    #[error("the service cannot answer right now")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A bug, or a damaged record. Trying again will not help.
    #[error("the service failed to answer")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<Denial> for ApiError {
    fn from(denial: Denial) -> Self {
        Self::Denied(Box::new(denial))
    }
}

impl From<StorageError> for ApiError {
    fn from(err: StorageError) -> Self {
        match err {
            StorageError::Unavailable(_) => Self::Unavailable(err.into()),
            StorageError::Damaged { .. } => Self::Internal(err.into()),
            StorageError::Exists { .. } => Self::Conflict(err.to_string()),
            StorageError::Changed { id } => Self::Changed { id },
        }
    }
}

impl From<VaultError> for ApiError {
    fn from(err: VaultError) -> Self {
        Self::Internal(err.into())
    }
}

impl ApiError {
    /// Returns the code of a refusal, which is an error that is the caller's.
    pub fn refusal(&self) -> Option<String> {
        let ErrorBody { status, code, .. } = self.into();
        status.is_client_error().then(|| code.unwrap_or_else(|| "refused".to_owned()))
    }

    /// Tells whether the caller has presented nothing that is known.
    pub fn is_failed_authentication(&self) -> bool {
        match self {
            Self::Denied(denial) => denial.class == DenialClass::Unauthenticated,
            Self::Credential(_) | Self::OperatorRequired => true,
            _ => false,
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(err: EngineError) -> Self {
        match err {
            EngineError::OutOfTime | EngineError::Starved => Self::Unavailable(err.into()),
            EngineError::Trapped(_) | EngineError::Garbage(_) | EngineError::Missing(_) => {
                Self::Internal(err.into())
            }
        }
    }
}

impl From<DecideError> for ApiError {
    fn from(err: DecideError) -> Self {
        match err {
            DecideError::Storage(err) => err.into(),
            DecideError::Engine {
                source: EngineError::OutOfTime | EngineError::Starved, ..
            } => Self::Unavailable(err.into()),
            DecideError::Engine { .. } | DecideError::Insatiable { .. } => {
                Self::Internal(err.into())
            }
        }
    }
}

/// What the client is told: the status and the fields of the envelope.
#[derive(Debug, Serialize)]
pub struct ErrorBody {
    /// The HTTP status.
    #[serde(skip)]
    pub status: StatusCode,
    /// Stripe's coarse kind of error, by which some SDKs choose a class.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// A stable word for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// A sentence for people.
    pub message: String,
    /// The parameter or header at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
    /// Every permission that was missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_permissions: Vec<String>,
    /// What a verification code was sent for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<ChallengeSent>,
}

const INVALID_REQUEST: &str = "invalid_request_error";
const API_ERROR: &str = "api_error";

impl ErrorBody {
    /// Makes an envelope with a code and without the rarer fields.
    pub fn new(
        status: StatusCode,
        kind: &'static str,
        code: Option<&str>,
        message: String,
    ) -> Self {
        let code = code.map(str::to_owned);
        let (param, missing_permissions, verification) = (None, Vec::new(), None);
        Self { status, kind, code, message, param, missing_permissions, verification }
    }
}

impl From<&Denial> for ErrorBody {
    fn from(denial: &Denial) -> Self {
        let (status, kind) = match denial.class {
            DenialClass::Unauthenticated => (StatusCode::UNAUTHORIZED, INVALID_REQUEST),
            DenialClass::Ended => (StatusCode::UNAUTHORIZED, "authentication_error"),
            DenialClass::Forbidden => (StatusCode::FORBIDDEN, INVALID_REQUEST),
            DenialClass::InvalidRequest => (StatusCode::BAD_REQUEST, INVALID_REQUEST),
            DenialClass::NotFound => (StatusCode::NOT_FOUND, INVALID_REQUEST),
            DenialClass::Conflict => (StatusCode::CONFLICT, INVALID_REQUEST),
            DenialClass::RateLimited => (StatusCode::TOO_MANY_REQUESTS, INVALID_REQUEST),
        };
        let missing = denial.missing_permissions.split_whitespace();
        Self {
            status,
            kind,
            code: denial.code.clone(),
            message: denial.message.clone(),
            param: denial.param.clone(),
            missing_permissions: missing.map(str::to_owned).collect(),
            verification: None,
        }
    }
}

impl From<&ApiError> for ErrorBody {
    fn from(err: &ApiError) -> Self {
        let message = sentence(&err.to_string());
        let plain = |status, kind, code| Self::new(status, kind, code, message.clone());
        match err {
            ApiError::Denied(denial) => Self::from(&**denial),
            // Several headers are not a bad credential but a request that two
            // servers could read differently.
            ApiError::Credential(CredentialError::Repeated) => {
                plain(StatusCode::BAD_REQUEST, INVALID_REQUEST, Some("authorization_invalid"))
            }
            ApiError::Credential(_) => {
                plain(StatusCode::UNAUTHORIZED, INVALID_REQUEST, Some("authorization_invalid"))
            }
            ApiError::Path(_) => {
                plain(StatusCode::BAD_REQUEST, INVALID_REQUEST, Some("path_invalid"))
            }
            ApiError::OperatorRequired => {
                plain(StatusCode::UNAUTHORIZED, INVALID_REQUEST, Some("operator_required"))
            }
            ApiError::InternalOnly => {
                plain(StatusCode::FORBIDDEN, INVALID_REQUEST, Some("internal_only"))
            }
            ApiError::Invalid { param, .. } => Self {
                param: Some(param.clone()),
                ..plain(StatusCode::BAD_REQUEST, INVALID_REQUEST, Some("parameter_invalid"))
            },
            ApiError::NotFound { .. } => Self {
                param: Some("id".to_owned()),
                ..plain(StatusCode::NOT_FOUND, INVALID_REQUEST, Some("resource_missing"))
            },
            ApiError::NoRoute { .. } => plain(StatusCode::NOT_FOUND, INVALID_REQUEST, None),
            ApiError::Conflict(_) => plain(StatusCode::CONFLICT, INVALID_REQUEST, Some("conflict")),
            ApiError::PolicyRefused(_) => {
                plain(StatusCode::BAD_REQUEST, INVALID_REQUEST, Some("policy_refused"))
            }
            ApiError::Untrusted(err) => {
                plain(StatusCode::FORBIDDEN, INVALID_REQUEST, Some(untrusted_code(err)))
            }
            ApiError::Changed { .. } => {
                plain(StatusCode::CONFLICT, INVALID_REQUEST, Some("resource_changed"))
            }
            ApiError::PreconditionFailed => {
                plain(StatusCode::PRECONDITION_FAILED, INVALID_REQUEST, Some("revision_changed"))
            }
            ApiError::IdempotencyConflict => {
                plain(StatusCode::BAD_REQUEST, "idempotency_error", Some("idempotency_key_reused"))
            }
            ApiError::IdempotencyInUse => {
                plain(StatusCode::CONFLICT, INVALID_REQUEST, Some("idempotency_key_in_use"))
            }
            ApiError::Verification(err) => {
                let (status, kind, code) = verification_status(err);
                let verification = err.challenge().cloned();
                let is_header = matches!(err, VerificationError::Malformed);
                let param = is_header.then(|| verification::HEADER.to_string());
                Self { param, verification, ..plain(status, kind, Some(code)) }
            }
            ApiError::TooManyFailures => plain(
                StatusCode::TOO_MANY_REQUESTS,
                INVALID_REQUEST,
                Some("too_many_failed_authentications"),
            ),
            ApiError::TooManyRefusals => {
                plain(StatusCode::TOO_MANY_REQUESTS, INVALID_REQUEST, Some("rate_limit"))
            }
            ApiError::UpstreamAbsent(_) => {
                plain(StatusCode::BAD_GATEWAY, API_ERROR, Some("upstream_unavailable"))
            }
            ApiError::UpstreamSlow => {
                plain(StatusCode::GATEWAY_TIMEOUT, API_ERROR, Some("upstream_timeout"))
            }
            ApiError::Unavailable(_) => {
                plain(StatusCode::SERVICE_UNAVAILABLE, API_ERROR, Some("unavailable"))
            }
            ApiError::Internal(_) => {
                plain(StatusCode::INTERNAL_SERVER_ERROR, API_ERROR, Some("internal"))
            }
        }
    }
}

impl From<&SimulatedError> for ErrorBody {
    fn from(err: &SimulatedError) -> Self {
        // Paths and parameters are quoted, and people put secrets there.
        let plain = |status, code, message: &str| {
            Self::new(status, INVALID_REQUEST, code, scrub(message).into_owned())
        };
        match err {
            SimulatedError::UnknownUrl { method, path } => {
                let message = format!("Unrecognized request URL ({method}: {path}).");
                plain(StatusCode::NOT_FOUND, None, &message)
            }
            SimulatedError::NotFound { object, id, param, wrong_mode } => {
                // A path that leads nowhere is a 404, a parameter a 400.
                let status = match param {
                    None => StatusCode::NOT_FOUND,
                    Some(_) => StatusCode::BAD_REQUEST,
                };
                let message = format!("No such {object}: '{id}'{}", hint(*wrong_mode));
                let param = scrub(param.as_deref().unwrap_or("id")).into_owned();
                Self { param: Some(param), ..plain(status, Some("resource_missing"), &message) }
            }
            SimulatedError::Invalid { code, param, message } => {
                let param = param.as_deref().map(|param| scrub(param).into_owned());
                Self { param, ..plain(StatusCode::BAD_REQUEST, *code, message) }
            }
            SimulatedError::TooLarge => {
                plain(StatusCode::PAYLOAD_TOO_LARGE, None, "The request body is too large.")
            }
            SimulatedError::IdempotencyConflict => Self {
                kind: "idempotency_error",
                ..plain(
                    StatusCode::BAD_REQUEST,
                    None,
                    "Keys for idempotent requests can only be used with the same parameters they \
                     were first used with. Try using a key other than this one.",
                )
            },
            SimulatedError::IdempotencyInUse => plain(
                StatusCode::CONFLICT,
                Some("idempotency_key_in_use"),
                "Another request with this idempotency key is in progress.",
            ),
            SimulatedError::Storage(StorageError::Unavailable(_)) => Self {
                kind: API_ERROR,
                ..plain(
                    StatusCode::SERVICE_UNAVAILABLE,
                    Some("unavailable"),
                    "The API cannot reach its storage. Try again.",
                )
            },
            // Objects are put and not created, so that `Exists` is a bug too.
            SimulatedError::Storage(
                StorageError::Damaged { .. }
                | StorageError::Exists { .. }
                | StorageError::Changed { .. },
            ) => Self {
                kind: API_ERROR,
                ..plain(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    Some("internal"),
                    "The API failed to answer.",
                )
            },
        }
    }
}

fn verification_status(err: &VerificationError) -> (StatusCode, &'static str, &'static str) {
    use VerificationError as E;
    let forbidden = |code| (StatusCode::FORBIDDEN, INVALID_REQUEST, code);
    match err {
        E::Required(_) => forbidden("verification_required"),
        E::Failed { .. } => forbidden("verification_failed"),
        E::Mismatch { .. } => forbidden("verification_mismatch"),
        E::Expired => forbidden("verification_expired"),
        E::Malformed => (StatusCode::BAD_REQUEST, INVALID_REQUEST, "verification_invalid"),
        E::RateLimited(_) => {
            (StatusCode::TOO_MANY_REQUESTS, INVALID_REQUEST, "verification_rate_limited")
        }
        E::Undelivered(_) => (StatusCode::SERVICE_UNAVAILABLE, API_ERROR, "unavailable"),
    }
}

fn untrusted_code(err: &TrustError) -> &'static str {
    match err {
        TrustError::Unsigned { .. } => "signature_required",
        TrustError::BadSignature { .. } => "signature_invalid",
        TrustError::TooOld { .. } | TrustError::NotRequired { .. } => "policy_not_allowed",
        TrustError::Stored(err) => untrusted_code(err),
    }
}

/// What to add for an object that the same account has in the other mode.
fn hint(wrong_mode: Option<Mode>) -> &'static str {
    match wrong_mode {
        None => "",
        Some(Mode::Test) => {
            "; a similar object exists in live mode, but a test mode key was used to make this \
             request."
        }
        Some(Mode::Live) => {
            "; a similar object exists in test mode, but a live mode key was used to make this \
             request."
        }
    }
}

/// The code of an error that was answered, for whoever logs the response.
#[derive(Clone, Debug)]
pub struct AnsweredCode(pub Option<String>);

impl IntoResponse for ErrorBody {
    fn into_response(self) -> Response {
        let status = self.status;
        let body = json!({ "error": self }).to_string();
        let mut response = (status, body).into_response();
        response.extensions_mut().insert(AnsweredCode(self.code));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // A client that was told to slow down would be told so again.
        let (retry, after) = match status {
            StatusCode::SERVICE_UNAVAILABLE => ("true", Some(RETRY_AFTER_SECS)),
            StatusCode::TOO_MANY_REQUESTS => ("false", Some(RETRY_AFTER_LIMIT_SECS)),
            _ => ("false", None),
        };
        headers.insert(SHOULD_RETRY, HeaderValue::from_static(retry));
        if let Some(after) = after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(after));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody::from(&self);
        if body.status.is_server_error() {
            tracing::error!(
                status = body.status.as_u16(),
                cause = %scrub(&format!("{:#}", anyhow::Error::from(self))),
                "a request was not answered"
            );
        }
        body.into_response()
    }
}

/// Makes a sentence of an error's message: errors speak in lower case, clients
/// are spoken to.
fn sentence(message: &str) -> String {
    let mut chars = message.chars();
    let mut text: String =
        chars.next().map(|first| first.to_ascii_uppercase()).into_iter().collect();
    text.push_str(chars.as_str());
    if !text.ends_with(['.', '?', '\'']) {
        text.push('.');
    }
    text
}
