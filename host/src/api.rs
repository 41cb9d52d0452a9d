//! What the routes of the host's own APIs share: who calls, and how bodies and
//! queries are read.

use axum::{
    extract::{FromRequest, FromRequestParts, Request, rejection::JsonRejection},
    http::{header, request::Parts},
};
use serde::de::DeserializeOwned;

use crate::error::ApiError;

pub mod admin;
pub mod internal;

/// A JSON body. Unlike axum's own it answers with the host's envelope.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body = axum::Json::<T>::from_request(request, state).await;
        let axum::Json(value) = body.map_err(|err: JsonRejection| ApiError::Invalid {
            param: "body".to_owned(),
            // What axum adds about the position of the mistake can quote the
            // body, and a body can hold a secret.
            message: crate::scrub::scrub(&err.body_text()).into_owned(),
        })?;
        Ok(Self(value))
    }
}

/// A JSON body that may be left out: what it holds has defaults.
pub struct OptionalJson<T>(pub T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body = axum::body::Bytes::from_request(request, state).await;
        let body = body.map_err(|err| ApiError::Invalid {
            param: "body".to_owned(),
            message: err.body_text(),
        })?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        // `null` is what clients send that have nothing to say.
        let value = axum::Json::<Option<T>>::from_bytes(&body);
        let axum::Json(value) = value.map_err(|err: JsonRejection| ApiError::Invalid {
            param: "body".to_owned(),
            message: crate::scrub::scrub(&err.body_text()).into_owned(),
        })?;
        Ok(Self(value.unwrap_or_default()))
    }
}

/// The parameters of a query.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        let axum::extract::Query(value) = query.map_err(|err| ApiError::Invalid {
            param: "query".to_owned(),
            message: crate::scrub::scrub(&err.body_text()).into_owned(),
        })?;
        Ok(Self(value))
    }
}

/// Returns the credential of `authorization: Bearer …`.
pub(crate) fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credential) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim())
}
