//! The built-in simulated API: what the gate serves where no upstream is set.
//!
//! It answers as Stripe's v1 API does, so that Stripe's official SDKs work
//! against it unchanged. One table of resources drives the same few verbs:
//! what is created can be read, listed, changed, acted on and deleted. Nothing
//! else happens: no money moves, no event is sent, no object makes another,
//! parameters are not checked against a schema, and `expand` has no effect.
//!
//! # Invariants
//!
//! - Who may call what was decided before: this trusts its [`Caller`].
//! - An object is reached only from its own account and mode. That it exists in
//!   the account's other mode is said, to servers; of other accounts, nothing.
//! - A request with an idempotency key runs to its end once begun, even if its
//!   client goes away: a retry has to find the answer.

use std::{panic::resume_unwind, sync::Arc};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

pub(crate) use self::answer::SimulatedError;
use self::{
    answer::{Answer, Refused, invalid},
    idempotency::{IDEMPOTENCY_KEY, IDEMPOTENT_REPLAYED, Idempotency, Running},
    operations::Operation,
};
use crate::storage::{Mode, Storage, StorageError, StoredAnswer};

mod answer;
mod fields;
mod form;
mod idempotency;
mod operations;
mod resources;
#[cfg(test)]
mod tests;

/// A request's body. Far above any form that SDKs send; a longer one gets a 413.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Who the gate has already let in.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The account acted on, `acct_…`.
    pub account: &'a str,
    /// Which of its two sets of objects.
    pub mode: Mode,
    /// Whether objects are served only to who knows their client secret: the
    /// caller is a front end, whose key anybody can read.
    pub client_secret_required: bool,
}

/// The simulated API over its storage. Clones share everything.
#[derive(Clone)]
pub struct Simulated {
    storage: Arc<dyn Storage>,
    running: Running,
    // Changes read, merge and write, and storage has no such operation. One at
    // a time for all accounts is no loss: so does SQLite write.
    writing: Arc<Mutex<()>>,
}

/// A request as read, free of the connection it came on.
struct Call {
    account: String,
    mode: Mode,
    is_front_end: bool,
    now: u64,
    method: Method,
    path: String,
    params: Map<String, Value>,
    idempotency: Option<Idempotency>,
}

impl Simulated {
    /// Makes the API over what `storage` keeps.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, running: Running::default(), writing: Arc::default() }
    }

    /// Serves a request that the gate has authorized. Its path is clean: no dot
    /// segments, nothing encoded that could be read in two ways.
    ///
    /// `now` is in seconds since 1970-01-01 UTC.
    pub async fn serve(&self, caller: Caller<'_>, now: u64, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let echoed = parts.headers.get(IDEMPOTENCY_KEY).cloned();
        let (answer, is_replay) = match read(caller, now, parts, body).await {
            Ok(call) => self.run_to_end(call).await,
            Err(error) => (refuse(&error), false),
        };
        let mut response = answer.into_response();
        let headers = response.headers_mut();
        if let Some(key) = echoed {
            headers.insert(IDEMPOTENCY_KEY, key);
        }
        if is_replay {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }

    /// Answers in a task of its own. This future is dropped when the client
    /// hangs up, which must not come between a change and keeping its answer.
    async fn run_to_end(&self, call: Call) -> (Answer, bool) {
        let this = self.clone();
        let task = tokio::spawn(async move {
            match this.answer(&call).await {
                Ok(answer) => answer,
                Err(error) => (refuse(&error), false),
            }
        });
        match task.await {
            Ok(answer) => answer,
            // Nobody aborts the task, so that it has panicked: as if it were here.
            Err(error) => resume_unwind(error.into_panic()),
        }
    }

    /// Returns the answer, and whether it is that of an earlier request.
    async fn answer(&self, call: &Call) -> Refused<(Answer, bool)> {
        let Some(Idempotency { key, request_digest }) = &call.idempotency else {
            return Ok((self.execute(call).await?, false));
        };
        let Some(_claim) = self.running.claim(&call.account, call.mode, key) else {
            return Err(SimulatedError::IdempotencyInUse);
        };
        if let Some(kept) = self.storage.find_answer(&call.account, call.mode, key).await? {
            if kept.request_digest != *request_digest {
                return Err(SimulatedError::IdempotencyConflict);
            }
            return Ok((replay(kept)?, true));
        }
        let answer = self.execute(call).await?;
        let kept = StoredAnswer {
            request_digest: *request_digest,
            status: answer.status.as_u16(),
            body: answer.body.clone(),
        };
        self.storage.keep_answer(&call.account, call.mode, key, call.now, kept).await?;
        Ok((answer, false))
    }

    /// Runs the request. An `Err` has changed nothing, and is not kept: a retry
    /// shall be free to succeed. "No such object" is a finding and is kept.
    async fn execute(&self, call: &Call) -> Refused<Answer> {
        let _writing = match call.method {
            Method::GET => None,
            _ => Some(self.writing.lock().await),
        };
        let operation = Operation { storage: &*self.storage, call };
        match operation.run().await {
            Ok(object) => Ok(Answer::served(&object)),
            Err(error @ SimulatedError::NotFound { .. }) => Ok(refuse(&error)),
            Err(error) => Err(error),
        }
    }
}

/// Reads a request whole, or refuses it before anything is done.
async fn read(caller: Caller<'_>, now: u64, parts: Parts, body: Body) -> Refused<Call> {
    let body = read_body(body).await?;
    let query = parts.uri.query().unwrap_or_default();
    let is_post = parts.method == Method::POST;
    // Parameters in both places could contradict each other, and those in the
    // wrong one would be passed over in silence.
    if is_post && !query.is_empty() {
        return Err(invalid(None, "Send the parameters of a POST in its body."));
    }
    if !is_post && !body.is_empty() {
        return Err(invalid(None, "Send the parameters in the query, not in a body."));
    }
    if !body.is_empty() {
        require_form(&parts.headers)?;
    }
    let form = if is_post { &body } else { query };
    let idempotency = if is_post {
        // Neither a method nor a path has a line break in it.
        let Caller { client_secret_required, .. } = caller;
        let (method, path) = (&parts.method, parts.uri.path());
        let request = format!("{method}\n{path}\n{client_secret_required}\n{body}");
        Idempotency::read(&parts.headers, &request)?
    } else {
        None
    };
    Ok(Call {
        account: caller.account.to_owned(),
        mode: caller.mode,
        is_front_end: caller.client_secret_required,
        now,
        params: form::parse(form.as_bytes())?,
        path: parts.uri.path().to_owned(),
        method: parts.method,
        idempotency,
    })
}

async fn read_body(body: Body) -> Refused<String> {
    let collected = Limited::new(body, MAX_BODY_BYTES).collect().await;
    let bytes = match collected {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(SimulatedError::TooLarge),
        Err(_) => return Err(invalid(None, "The request body is cut off.")),
    };
    // A form is ASCII when it is encoded as it should be; raw UTF-8 is let pass.
    String::from_utf8(bytes.into()).map_err(|_| invalid(None, "The request body is not UTF-8."))
}

/// Refuses a body that says it is something else than a form. One that says
/// nothing is read as a form, as `curl` users and older clients expect.
fn require_form(headers: &HeaderMap) -> Refused<()> {
    let Some(declared) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let declared = declared.to_str().unwrap_or_default();
    let media_type = declared.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Ok(());
    }
    Err(invalid(
        None,
        "This API takes form-encoded bodies: send `Content-Type: \
         application/x-www-form-urlencoded`. JSON and multipart are not read.",
    ))
}

/// Makes an answer of an error. Storage's troubles are for the log alone.
fn refuse(error: &SimulatedError) -> Answer {
    if let SimulatedError::Storage(cause) = error {
        tracing::error!(error = cause as &dyn std::error::Error, "simulated API failed");
    }
    Answer::refused(error)
}

fn replay(kept: StoredAnswer) -> Refused<Answer> {
    match StatusCode::from_u16(kept.status) {
        Ok(status) => Ok(Answer { status, body: kept.body, code: None }),
        Err(source) => Err(SimulatedError::Storage(StorageError::Damaged {
            id: "idempotency answer".to_owned(),
            source: source.into(),
        })),
    }
}
