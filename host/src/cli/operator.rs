//! Asking a host as its operator: over its socket if it runs, else one of our
//! own.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result, bail};
use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::Value;
use tokio::net::UnixStream;
use tower::ServiceExt as _;

use super::{HostArgs, serve};
use crate::{
    api::admin::AdminAccess,
    data_dir::{DataDir, DataDirError},
    gate::GateConfig,
    host::{Api, Host},
    verification::Delivery,
};

/// The way to a host.
pub(super) enum Operator {
    /// A host that runs.
    Socket(std::path::PathBuf),
    /// None runs: one that listens nowhere, for this command alone.
    Own { router: Router, host: Arc<Host>, _data_dir: Arc<DataDir> },
}

/// What a host refused, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refused {
    message: String,
}

impl Operator {
    /// Finds the host of this data directory, or makes one.
    pub(super) async fn connect(args: &HostArgs) -> Result<Self> {
        let path = args.data_dir.clone();
        let opened = tokio::task::spawn_blocking(move || serve::open_when_free(&path)).await?;
        let data_dir = match opened {
            Ok(data_dir) => Arc::new(data_dir),
            Err(DataDirError::Locked { socket, .. }) => return Ok(Self::Socket(socket)),
            Err(err) => return Err(err.into()),
        };
        let gate = GateConfig { brand: args.brand.clone(), ..GateConfig::default() };
        let host = serve::start_host(
            &data_dir,
            args.policy.as_deref(),
            gate,
            Api::Simulated,
            Delivery::Console,
        )
        .await?;
        let router = host.admin_router(AdminAccess::Socket(Arc::clone(&data_dir)));
        Ok(Self::Own { router, host, _data_dir: data_dir })
    }

    /// Asks without a body.
    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        self.ask(Method::GET, path, Body::empty()).await
    }

    /// Asks with a body.
    pub(super) async fn post(&self, path: &str, body: &impl Serialize) -> Result<Value> {
        self.ask(Method::POST, path, Body::from(serde_json::to_vec(body)?)).await
    }

    async fn ask(&self, method: Method, path: &str, body: Body) -> Result<Value> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)?;
        let (status, body) = match self {
            Self::Socket(socket) => ask_socket(socket, request).await?,
            Self::Own { router, .. } => {
                let response = router.clone().oneshot(request).await?;
                let (parts, body) = response.into_parts();
                (parts.status, body.collect().await?.to_bytes())
            }
        };
        let body: Value = serde_json::from_slice(&body).context("the host's answer is no JSON")?;
        if !status.is_success() {
            let message = body["error"]["message"].as_str().unwrap_or("the host refused");
            let message = match body["error"]["param"].as_str() {
                Some(param) if status == StatusCode::BAD_REQUEST => format!("{param}: {message}"),
                _ => message.to_owned(),
            };
            bail!(Refused { message });
        }
        Ok(body)
    }

    /// Writes what is still in memory, where the host is our own.
    pub(super) async fn finish(&self) -> Result<()> {
        if let Self::Own { host, .. } = self {
            host.finish().await?;
        }
        Ok(())
    }
}

async fn ask_socket(
    socket: &Path,
    request: Request<Body>,
) -> Result<(StatusCode, hyper::body::Bytes)> {
    let stream = UnixStream::connect(socket).await.context(
        "a host holds the data directory but does not answer at its socket: is it starting, or \
         stopping?",
    )?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}
