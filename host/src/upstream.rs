//! The API behind the gate: requests go on as they were authorized.
//!
//! Both bodies stream. The bytes of the target that were authorized are the
//! bytes that are sent: nothing between the decision and here decodes them.

use std::{str::FromStr, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header, uri::Authority},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::timeout;

use crate::{error::ApiError, hygiene};

/// How long to wait for a connection. Upstreams are next door.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long to wait for the head of a response. Longer than the SDKs' own 80
/// seconds would be an answer that nobody reads.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long an idle connection is kept. Shorter than common servers keep
/// theirs, so that we rarely write into one that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the API behind the gate listens: `http://host[:port]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl(Authority);

impl FromStr for UpstreamUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri = Uri::from_str(text).map_err(|_| "this is no URL")?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err("https is not spoken to upstreams: put a local TLS proxy between");
            }
            _ => return Err("write it as http://HOST:PORT"),
        }
        let authority = uri.authority().ok_or("it names no host")?;
        if uri.path() != "/" || uri.query().is_some() {
            return Err("it must not have a path: requests keep the path they came with");
        }
        if authority.as_str().contains('@') {
            return Err("it must not hold a user name or password");
        }
        Ok(Self(authority.clone()))
    }
}

/// The client side of the proxy, with its pool of connections.
#[derive(Clone)]
pub struct Upstream {
    client: Client<HttpConnector, Body>,
    url: UpstreamUrl,
}

impl Upstream {
    /// Makes the client. No connection is made before the first request.
    pub fn new(url: UpstreamUrl) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            // The gate has already taken the request's bytes off the wire, and
            // a request that may have been acted on is not for us to repeat.
            .retry_canceled_requests(false)
            .build(connector);
        Self { client, url }
    }

    /// Sends a request on and returns the head of the response; its body
    /// follows as it comes. The request's headers are final.
    ///
    /// # Errors
    ///
    /// If there is no upstream, or no answer in time.
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let target = request.uri().path_and_query().cloned();
        let uri = Uri::builder().scheme("http").authority(self.url.0.clone());
        *request.uri_mut() = uri
            .path_and_query(target.map_or_else(|| "/".into(), |target| target.to_string()))
            .build()
            .map_err(|err| ApiError::Internal(err.into()))?;
        *request.version_mut() = Version::HTTP_11;
        if let Ok(host) = HeaderValue::from_str(self.url.0.as_str()) {
            request.headers_mut().insert(header::HOST, host);
        }
        let response = timeout(RESPONSE_TIMEOUT, self.client.request(request))
            .await
            .map_err(|_| ApiError::UpstreamSlow)?
            .map_err(|err| ApiError::UpstreamAbsent(err.into()))?;
        // Nobody asked it to: `Upgrade` is not sent on. The client would wait for
        // a protocol that no one speaks.
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(ApiError::UpstreamAbsent("it switched protocols unasked".into()));
        }
        let mut response = response.map(Body::new);
        hygiene::clean_response_headers(response.headers_mut());
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::UpstreamUrl;

    #[test]
    fn an_upstream_is_plain_http_without_a_path() {
        for (url, good) in [
            ("http://127.0.0.1:9000", true),
            ("http://api.internal", true),
            ("http://[::1]:9000/", true),
            ("https://api.example.com", false),
            ("127.0.0.1:9000", false),
            ("http://127.0.0.1:9000/v1", false),
            ("http://user:pass@127.0.0.1", false),
            ("http://", false),
            ("", false),
        ] {
            assert_eq!(url.parse::<UpstreamUrl>().is_ok(), good, "{url}");
        }
    }
}
