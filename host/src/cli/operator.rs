//! Asking a host as its operator: over its socket if it runs, else one of our
//! own.

use std::{fmt::Display, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header},
};
use clap::Parser as _;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::Value;
use tokio::net::UnixStream;
use tower::ServiceExt as _;

use super::{Exit, HostArgs, person, print, serve, trust::TrustArgs};
use crate::{
    api::admin::AdminAccess,
    data_dir::{DataDir, DataDirError},
    gate::GateConfig,
    host::Api,
    keys::MAX_LIST,
    verification::{HEADER as VERIFICATION, VerificationConfig},
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How often a person may type a code. As many times as `sudo` asks.
const MAX_PROMPTS: usize = 3;

/// Who asks a host.
pub(super) struct Operator {
    host: Way,
    json: bool,
}

/// The way to a host.
enum Way {
    /// A host that runs.
    Socket(std::path::PathBuf),
    /// None runs: one that listens nowhere, for this command alone.
    Own { router: Router, _data_dir: Arc<DataDir> },
}

/// What a host refused, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refused {
    message: String,
    /// The answer.
    body: Value,
    pub(super) exit: Exit,
}

impl Refused {
    fn new(status: StatusCode, body: Value) -> Self {
        let message = body["error"]["message"].as_str().unwrap_or("the host refused");
        let message = match body["error"]["param"].as_str() {
            Some(param) if status == StatusCode::BAD_REQUEST => format!("{param}: {message}"),
            _ => message.to_owned(),
        };
        Self { message, body, exit: Exit::Failed }
    }

    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

/// What goes with a request, beside its body.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    /// Only if the key is at this revision.
    pub(super) if_revision: Option<u64>,
    /// Not twice.
    pub(super) idempotency_key: Option<String>,
    /// The code of a person that confirms it, `ID:CODE`.
    pub(super) verification: Option<String>,
}

impl Conditions {
    fn headers(&self) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        if let Some(revision) = self.if_revision {
            headers.insert(header::IF_MATCH, format!("\"{revision}\"").try_into()?);
        }
        for (name, flag, value) in [
            (IDEMPOTENCY_KEY, "--idempotency-key", &self.idempotency_key),
            (VERIFICATION, "--verification", &self.verification),
        ] {
            if let Some(value) = value {
                let value = HeaderValue::try_from(value)
                    .with_context(|| format!("{flag}: use visible ASCII characters"))?;
                headers.insert(name, value);
            }
        }
        Ok(headers)
    }
}

/// What a list shall be about: the query of its request.
#[derive(Default)]
pub(super) struct Filter(String);

impl Filter {
    /// Adds a parameter, if there is a value for it.
    pub(super) fn with(mut self, name: &str, value: Option<impl Display>) -> Self {
        if let Some(value) = value {
            self.0.push_str(&format!("&{name}={}", escaped(&value.to_string())));
        }
        self
    }

    /// Returns a path with it.
    pub(super) fn of(&self, path: &str) -> String {
        format!("{path}?{}", self.0.trim_start_matches('&'))
    }
}

impl Operator {
    /// Tells whether it speaks to a host that goes on running.
    pub(super) fn is_of_a_host_that_runs(&self) -> bool {
        matches!(self.host, Way::Socket(_))
    }

    /// Finds the host of this data directory, or makes one.
    pub(super) async fn connect(args: &HostArgs) -> Result<Self> {
        let path = args.data_dir.clone();
        let opened = tokio::task::spawn_blocking(move || serve::open_when_free(&path)).await?;
        let data_dir = match opened {
            Ok(data_dir) => Arc::new(data_dir),
            Err(DataDirError::Locked { socket, .. }) => {
                return Ok(Self { host: Way::Socket(socket), json: args.json });
            }
            Err(err) => return Err(err.into()),
        };
        let Variables { verification, trust } = Variables::try_parse_from(["wardkey"])?;
        let settings = serve::Settings {
            policy: args.policy.as_deref(),
            fall_back_after: None,
            trust: trust.trust(),
            gate: GateConfig { brand: args.brand.clone(), ..GateConfig::default() },
            api: Api::Simulated,
            log_retention_days: None,
            delivery: verification.delivery()?,
        };
        let (host, _) = serve::start_host(&data_dir, settings).await?;
        let router = host.admin_router(AdminAccess::Socket(Arc::clone(&data_dir)));
        Ok(Self { host: Way::Own { router, _data_dir: data_dir }, json: args.json })
    }

    /// Asks without a body.
    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        let request = self.request(Method::GET, path, HeaderMap::new(), Bytes::new())?;
        Ok(self.ask(request).await??)
    }

    /// Asks with a body.
    pub(super) async fn post(&self, path: &str, body: &impl Serialize) -> Result<Value> {
        self.post_if(path, body, Conditions::default()).await
    }

    /// Asks with a component as the body.
    pub(super) async fn post_component(&self, path: &str, component: Vec<u8>) -> Result<Value> {
        let wasm = HeaderValue::from_static("application/wasm");
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, wasm)]);
        let request = self.request(Method::POST, path, headers, component.into())?;
        Ok(self.ask(request).await??)
    }

    /// Asks with a body and under conditions. Where the host wants a person to
    /// confirm it, asks for the code, and then the same again.
    pub(super) async fn post_if(
        &self,
        path: &str,
        body: &impl Serialize,
        conditions: Conditions,
    ) -> Result<Value> {
        let body = Bytes::from(serde_json::to_vec(body)?);
        let mut headers = conditions.headers()?;
        let mut challenge = None;
        let mut prompts = 0;
        loop {
            let request = self.request(Method::POST, path, headers.clone(), body.clone())?;
            let refused = match self.ask(request).await? {
                Ok(answer) => return Ok(answer),
                Err(refused) => refused,
            };
            let code = refused.code();
            if code == "verification_required" {
                challenge = Some(Challenge::from(&refused.body));
            }
            let Some(challenge) = &challenge else { return Err(refused.into()) };
            let may_be_asked = matches!(code, "verification_required" | "verification_failed")
                && prompts < MAX_PROMPTS;
            if !may_be_asked {
                return Err(refused.into());
            }
            if !person::is_there() {
                return Err(self.code_needed(challenge, refused)?.into());
            }
            match code {
                "verification_failed" => print::note(&refused),
                _ => print::note(format_args!(
                    "A verification code was sent to {}. It is good until {}.",
                    challenge.sent_to, challenge.expires_at
                )),
            }
            let Some(code) = person::ask("Code: ").await? else {
                return Err(self.code_needed(challenge, refused)?.into());
            };
            let confirmed = format!("{}:{code}", challenge.id);
            let confirmed = HeaderValue::try_from(confirmed).context("a code is six digits")?;
            headers.insert(VERIFICATION, confirmed);
            prompts += 1;
        }
    }

    /// Says how to go on where nobody is there to be asked for a code.
    fn code_needed(&self, challenge: &Challenge, refused: Refused) -> Result<Refused> {
        let Challenge { id, sent_to, expires_at } = challenge;
        let message = match self.host {
            Way::Socket(_) => format!(
                "a verification code is needed, and was sent to {sent_to}; it is good until \
                 {expires_at}. Repeat the same command with `--verification {id}:CODE`"
            ),
            // It knows of the code as long as this command runs.
            Way::Own { .. } => "a verification code is needed, and no host runs that could wait \
                                 for it: start one with `wardkey serve`, or run this command in a \
                                 terminal, where it asks for the code"
                .to_owned(),
        };
        if self.json {
            // With the code's id in it.
            print::json(&refused.body)?;
        }
        Ok(Refused { message, exit: Exit::CodeNeeded, ..refused })
    }

    /// Asks for a list page by page: all of it, or its first `limit` entries.
    /// `cursor` is the field that `starting_after` takes.
    pub(super) async fn list(
        &self,
        path: &str,
        filter: Filter,
        cursor: &str,
        limit: usize,
    ) -> Result<Vec<Value>> {
        let mut entries: Vec<Value> = Vec::new();
        loop {
            let after = entries.last().map(|entry| print::text(entry, cursor));
            let left = (limit - entries.len()).min(MAX_LIST);
            let Filter(query) = Filter::default().with("starting_after", after);
            let page = self.get(&format!("{path}?limit={left}{}{query}", filter.0)).await?;
            let data = page["data"].as_array().map(Vec::as_slice).unwrap_or_default();
            entries.extend_from_slice(data);
            if page["has_more"] != true || data.is_empty() || entries.len() >= limit {
                return Ok(entries);
            }
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Request<Body>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))?;
        request.headers_mut().extend(headers);
        Ok(request)
    }

    async fn ask(&self, request: Request<Body>) -> Result<Result<Value, Refused>> {
        let (status, body) = match &self.host {
            Way::Socket(socket) => ask_socket(socket, request).await?,
            Way::Own { router, .. } => {
                let response = router.clone().oneshot(request).await?;
                let (parts, body) = response.into_parts();
                (parts.status, body.collect().await?.to_bytes())
            }
        };
        let body: Value = serde_json::from_slice(&body).context("the host's answer is no JSON")?;
        Ok(if status.is_success() { Ok(body) } else { Err(Refused::new(status, body)) })
    }
}

/// How a host of our own delivers codes, and which policies it runs: as the
/// variables of `serve` say. Flags would stand in the help of every command, for
/// the few that need them and for when no host runs.
#[derive(clap::Parser)]
struct Variables {
    #[command(flatten)]
    verification: VerificationConfig,
    #[command(flatten)]
    trust: TrustArgs,
}

/// A code that was sent to a person.
struct Challenge {
    id: String,
    sent_to: String,
    expires_at: String,
}

impl From<&Value> for Challenge {
    fn from(body: &Value) -> Self {
        let sent = &body["error"]["verification"];
        let field = |name| print::text(sent, name);
        Self { id: field("id"), sent_to: field("sent_to"), expires_at: field("expires_at") }
    }
}

/// Writes text so that it stands in a path or query as it is.
pub(super) fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

async fn ask_socket(socket: &Path, request: Request<Body>) -> Result<(StatusCode, Bytes)> {
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
