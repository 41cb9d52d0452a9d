//! What codes are posted to in tests: a real server on a real socket.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri},
    response::Response,
};
use futures_util::stream;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rustls::ServerConfig;
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_rustls::TlsAcceptor;

/// What it answers.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// This status and header.
    Status(u16, HeaderName, HeaderValue),
    /// 200 and a body without an end.
    Endless,
    /// Nothing.
    Nothing,
}

impl Answer {
    pub(super) fn status(status: u16) -> Self {
        Self::Status(status, HeaderName::from_static("x-test"), HeaderValue::from_static("1"))
    }
}

/// What was posted.
pub(super) struct Posted {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Posted {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    pub(super) posted: mpsc::UnboundedReceiver<Posted>,
}

impl Receiver {
    pub(super) async fn start(answer: Answer, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, posted) = mpsc::unbounded_channel();
        let handler = async move |method, uri, headers, body| {
            let _ = sender.send(Posted { method, uri, headers, body });
            match answer {
                Answer::Status(status, name, value) => {
                    Response::builder().status(status).header(name, value).body(Body::empty())
                }
                Answer::Endless => {
                    let part = Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 1024]));
                    Response::builder().body(Body::from_stream(stream::repeat(part)))
                }
                Answer::Nothing => std::future::pending().await,
            }
            .unwrap()
        };
        let router = Router::new().fallback(handler);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(router.clone());
                let tls = tls.clone();
                // Connections end as their clients want.
                tokio::spawn(async move {
                    match tls {
                        None => {
                            let stream = TokioIo::new(stream);
                            let _ = http1::Builder::new().serve_connection(stream, service).await;
                        }
                        Some(config) => {
                            let accepted = TlsAcceptor::from(config).accept(stream).await;
                            let Ok(stream) = accepted else { return };
                            let stream = TokioIo::new(stream);
                            let _ = http1::Builder::new().serve_connection(stream, service).await;
                        }
                    }
                });
            }
        });
        Self { address, posted }
    }
}
