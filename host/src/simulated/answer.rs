//! Answers as Stripe shapes them: objects, lists, and the error envelope.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::{
    error::{AnsweredCode, ErrorBody},
    storage::{Mode, StorageError},
};

/// What became of a request that the simulated API did not serve.
#[derive(Debug)]
pub(crate) enum SimulatedError {
    /// No such endpoint.
    UnknownUrl {
        /// The request's method.
        method: String,
        /// The request's path.
        path: String,
    },
    /// No such object in this account and mode.
    NotFound {
        /// What kind of object was looked for: `customer`.
        object: String,
        /// The caller-supplied id.
        id: String,
        /// The parameter that named it; `None` if the path did.
        param: Option<String>,
        /// The mode asked in, if the account has such an object in the other.
        wrong_mode: Option<Mode>,
    },
    /// The request is at fault.
    Invalid {
        /// Stripe's error code, where it has one.
        code: Option<&'static str>,
        /// The parameter at fault, if it is one.
        param: Option<String>,
        /// A sentence for the caller.
        message: String,
    },
    /// The body is longer than the API takes.
    TooLarge,
    /// The idempotency key belongs to another request.
    IdempotencyConflict,
    /// The first request with this idempotency key still runs.
    IdempotencyInUse,
    /// Storage could not answer.
    Storage(StorageError),
}

/// The result of what can end a request.
pub(super) type Refused<T> = Result<T, SimulatedError>;

impl From<StorageError> for SimulatedError {
    fn from(err: StorageError) -> Self {
        Self::Storage(err)
    }
}

/// Makes the most common refusal.
pub(super) fn invalid(param: Option<&str>, message: impl Into<String>) -> SimulatedError {
    SimulatedError::Invalid { code: None, param: param.map(str::to_owned), message: message.into() }
}

/// A finished answer, as it is kept for an idempotency key.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
    /// The code of an error, for the request log.
    pub(super) code: Option<String>,
}

impl Answer {
    /// The answer of a request that was served.
    pub(super) fn served(object: &Value) -> Self {
        Self { status: StatusCode::OK, body: object.to_string().into_bytes(), code: None }
    }

    /// The answer of a request that was not. What it says is chosen where all
    /// errors are: in `error`.
    pub(super) fn refused(error: &SimulatedError) -> Self {
        let body = ErrorBody::from(error);
        Self {
            status: body.status,
            body: json!({ "error": &body }).to_string().into_bytes(),
            code: body.code,
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        response.extensions_mut().insert(AnsweredCode(self.code));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
