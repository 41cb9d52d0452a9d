//! Verification codes: a person confirms a dangerous management operation.
//!
//! Whoever asks for the operation is refused once, and meanwhile six digits go to
//! the operator by mail, webhook or console. The same request with the header
//! `Wardkey-Verification: <id>:<code>` is then let through, once. So a leaked
//! operator credential alone is not enough.
//!
//! # Invariants
//!
//! - A code confirms what it was asked for and nothing else: caller, operation
//!   and every argument are bound to it by a digest.
//! - A code is good once, for ten minutes, and for five attempts, of which one
//!   with other arguments is one.
//! - A code is in the message that delivers it and in memory, and nowhere else:
//!   not in a log, an error or what `Debug` prints.
//! - A challenge whose code was not delivered is void, and none is taken away
//!   from somebody to make room for another.
//! - Codes are delivered outside of the lock: a mail server that stalls holds up
//!   its own request only.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use self::{
    code::Code,
    message::{MAX_ACTION_CHARS, MAX_CALLER_CHARS, Message, for_people},
};
pub use self::{
    config::VerificationConfig,
    delivery::{Delivery, DeliveryError},
    smtp::Mailer,
    webhook::Webhook,
};
use crate::{
    clock::Clock,
    secret::{Digest, PUBLIC_ID_CHARS, mint_id},
};

mod code;
mod config;
mod delivery;
#[cfg(test)]
mod mail_server;
mod message;
#[cfg(test)]
mod receiver;
mod smtp;
mod tls;
mod webhook;

/// The header by which a request is confirmed: `<id>:<code>`.
pub const HEADER: HeaderName = HeaderName::from_static("wardkey-verification");

const ID_PREFIX: &str = "vrf_";

/// How long a code is good: long enough to get a mail and read it, and short
/// enough that a mailbox that is opened later holds none.
const CODE_LIFETIME: Duration = Duration::from_secs(10 * 60);

/// How many attempts a challenge takes: more than people need for six digits, and
/// a chance of one in 200 000 for who guesses.
const MAX_TRIES: u32 = 5;

/// How many challenges wait for their code at most, in all: each is a chance to
/// guess, so that all of them together are one in 4 000.
const MAX_OUTSTANDING: usize = 50;

/// The time that is looked back on when codes are counted.
const ISSUE_WINDOW: Duration = Duration::from_secs(10 * 60);

/// How many codes one caller can ask for in [`ISSUE_WINDOW`] without using them.
/// Codes that were used do not count: whoever confirms is not spamming.
const MAX_UNCONFIRMED_PER_CALLER: usize = 5;

/// How many codes are sent in [`ISSUE_WINDOW`] in all, used or not: a short
/// message costs money, and a person who gets one each ten seconds reads none.
const MAX_ISSUED: usize = 60;

/// The time that is looked back on when wrong attempts are counted.
const WRONG_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// How many wrong attempts a caller has in [`WRONG_WINDOW`] before it gets no
/// further codes. The limits above alone would let a patient one have 3 600 a
/// day, and with them a fair chance within months. With those on codes that it
/// has already got, this makes it one in 13 000 a day.
const MAX_WRONG_PER_CALLER: usize = 50;

/// What is to be confirmed.
#[derive(Clone, Debug)]
pub struct Operation {
    caller: String,
    action: String,
    binding: Digest,
}

impl Operation {
    /// Describes an operation. A code that was asked for with any other caller,
    /// action or arguments will not confirm it.
    ///
    /// `caller` says who asks, as a person knows them (`the operator`, a key's
    /// id). `action` follows "Somebody asks to": "create a live secret key named
    /// 'x'". Both may hold what a caller has typed: secrets and control
    /// characters do not get through. `arguments` are all that the operation
    /// depends on.
    pub fn new(caller: &str, action: &str, arguments: &Value) -> Self {
        let mut hash = Sha256::new_with_prefix(b"wardkey verification\0");
        // JSON with its members in the order of their names: how a client orders
        // them does not matter. Each field with its length, so that no part of
        // one can be read as a part of the next.
        for field in [caller, action, &arguments.to_string()] {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field);
        }
        Self {
            caller: for_people(caller, MAX_CALLER_CHARS),
            action: for_people(action, MAX_ACTION_CHARS),
            binding: Digest::from_bytes(hash.finalize().into()),
        }
    }
}

/// A challenge as its caller is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChallengeSent {
    /// The challenge's id, `vrf_…`.
    pub id: String,
    /// Where the code went, masked: `o***@example.com`.
    pub sent_to: String,
    /// From when on the code is no good.
    pub expires_at: Timestamp,
}

/// Why an operation is not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum VerificationError {
    /// A code is needed, and was sent.
    #[error(
        "this has to be confirmed: a verification code was sent to {}. Repeat the request with \
         the header `Wardkey-Verification: {}:CODE` until {}",
        .0.sent_to, .0.id, .0.expires_at
    )]
    Required(Box<ChallengeSent>),
    /// The code is wrong.
    #[error("the verification code is wrong; {}", TriesLeft(*.tries_left))]
    Failed {
        /// How many attempts are left.
        tries_left: u32,
    },
    /// The code was asked for by somebody else, or for something else.
    #[error(
        "the verification code is for another request: it confirms the very request that it was \
         asked for; {}", TriesLeft(*.tries_left)
    )]
    Mismatch {
        /// How many attempts are left.
        tries_left: u32,
    },
    /// There is no such challenge: it was used, has expired, was tried too often,
    /// or never was.
    #[error(
        "this verification has expired, or was used: repeat the request without the header \
         `Wardkey-Verification` to get another code"
    )]
    Expired,
    /// The header cannot be read.
    #[error(
        "the header `Wardkey-Verification` must be given once, as `<id>:<code>`: the id from the \
         answer before, `vrf_…`, and the six digits"
    )]
    Malformed,
    /// Too many codes were asked for.
    #[error("too many verification codes: {0}")]
    RateLimited(&'static str),
    /// The code did not get through. Its challenge is void.
    #[error("the verification code could not be delivered")]
    Undelivered(#[source] DeliveryError),
}

impl VerificationError {
    /// Returns the challenge that a code was sent for.
    pub fn challenge(&self) -> Option<&ChallengeSent> {
        match self {
            Self::Required(sent) => Some(sent),
            _ => None,
        }
    }
}

/// Says how often one may still try.
struct TriesLeft(u32);

impl std::fmt::Display for TriesLeft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => f.write_str(
                "no tries are left: repeat the request without the header to get another code",
            ),
            1 => f.write_str("one try is left"),
            left => write!(f, "{left} tries are left"),
        }
    }
}

/// Returns what a request presents in [`HEADER`].
///
/// # Errors
///
/// [`Malformed`](VerificationError::Malformed) if it has the header twice, or
/// with what is no text.
pub fn presented(headers: &HeaderMap) -> Result<Option<&str>, VerificationError> {
    let mut values = headers.get_all(HEADER).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| VerificationError::Malformed),
        (Some(_), Some(_)) => Err(VerificationError::Malformed),
    }
}

/// Asks people to confirm, and knows what they have confirmed.
///
/// Challenges are in memory only: a host that starts again has none, and whoever
/// waits for a code asks for another.
#[derive(Debug)]
pub struct Verifier {
    delivery: Delivery,
    clock: Clock,
    state: Mutex<State>,
}

impl Verifier {
    /// Makes a verifier without challenges.
    pub fn new(delivery: Delivery, clock: Clock) -> Self {
        Self { delivery, clock, state: Mutex::default() }
    }

    /// Tells the log at start where codes go, loudly if that is not for
    /// production.
    pub fn announce(&self) {
        self.delivery.announce();
    }

    /// Returns if a person has confirmed this operation; asks one if not.
    ///
    /// `presented` is what the request has in [`HEADER`]: see [`presented`]. A
    /// code that is accepted is used up, whatever becomes of the operation: check
    /// everything else before.
    ///
    /// # Errors
    ///
    /// [`Required`](VerificationError::Required) if a code was sent now; the
    /// others as they say.
    pub async fn require(
        &self,
        presented: Option<&str>,
        operation: &Operation,
    ) -> Result<(), VerificationError> {
        if matches!(self.delivery, Delivery::None) {
            return Ok(());
        }
        match presented {
            Some(presented) => {
                let (id, code) = parse(presented).ok_or(VerificationError::Malformed)?;
                self.redeem(id, &code, operation)
            }
            None => Err(self.challenge(operation).await),
        }
    }

    /// Sends a code, and returns the answer that says so, or why not.
    async fn challenge(&self, operation: &Operation) -> VerificationError {
        let now = self.clock.now();
        let id = mint_id(ID_PREFIX);
        let code = Code::generate();
        let expires_at = now + CODE_LIFETIME.as_secs();
        let challenge = Challenge {
            code: code.clone(),
            binding: operation.binding,
            expires_at,
            tries_left: MAX_TRIES,
        };
        if let Err(err) = self.state().admit(&id, challenge, &operation.caller, now) {
            return err;
        }
        let mut undelivered = Undelivered { verifier: self, id: Some(&id) };
        let expires_at = timestamp(expires_at);
        let message = Message {
            id: &id,
            code: &code,
            action: &operation.action,
            caller: &operation.caller,
            now,
            expires_at,
        };
        if let Err(err) = self.delivery.send(&message).await {
            return VerificationError::Undelivered(err);
        }
        undelivered.id = None;
        drop(undelivered);
        let sent_to = self.delivery.sent_to();
        VerificationError::Required(Box::new(ChallengeSent { id, sent_to, expires_at }))
    }

    fn redeem(
        &self,
        id: &str,
        code: &Code,
        operation: &Operation,
    ) -> Result<(), VerificationError> {
        let now = self.clock.now();
        let mut state = self.state();
        state.forget_old(now);
        let challenge = state.challenges.get_mut(id).ok_or(VerificationError::Expired)?;
        // Not whether the code would be right: who has changed the arguments
        // must not learn it.
        let is_bound = challenge.binding == operation.binding;
        if is_bound && bool::from(challenge.code.ct_eq(code)) {
            state.challenges.remove(id);
            for issued in state.issued.iter_mut().filter(|issued| issued.id == id) {
                issued.is_confirmed = true;
            }
            return Ok(());
        }
        challenge.tries_left -= 1;
        let tries_left = challenge.tries_left;
        if tries_left == 0 {
            state.challenges.remove(id);
        }
        state.wrong.push_back(Wrong { at: now, caller: operation.caller.clone() });
        drop(state);
        match is_bound {
            true => Err(VerificationError::Failed { tries_left }),
            false => Err(VerificationError::Mismatch { tries_left }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked has left whole entries.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a challenge away again, unless its code was delivered: also if the
/// request was given up meanwhile.
struct Undelivered<'a> {
    verifier: &'a Verifier,
    id: Option<&'a str>,
}

impl Drop for Undelivered<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.verifier.state().challenges.remove(id);
        }
    }
}

/// What waits for its code.
#[derive(Debug)]
struct Challenge {
    code: Code,
    binding: Digest,
    /// Seconds since 1970.
    expires_at: u64,
    tries_left: u32,
}

/// A code that was sent, or was to be: a delivery that fails may have cost.
#[derive(Debug)]
struct Issued {
    at: u64,
    id: String,
    caller: String,
    is_confirmed: bool,
}

/// An attempt that failed.
#[derive(Debug)]
struct Wrong {
    at: u64,
    caller: String,
}

/// All within bounds: of `challenges` by [`MAX_OUTSTANDING`], of `issued` by
/// [`MAX_ISSUED`], and of `wrong` by what can be tried on those within a day.
#[derive(Debug, Default)]
struct State {
    challenges: HashMap<String, Challenge>,
    issued: VecDeque<Issued>,
    wrong: VecDeque<Wrong>,
}

impl State {
    /// Takes in a challenge, if it is within the limits.
    fn admit(
        &mut self,
        id: &str,
        challenge: Challenge,
        caller: &str,
        now: u64,
    ) -> Result<(), VerificationError> {
        self.forget_old(now);
        let limited = |why| Err(VerificationError::RateLimited(why));
        let unconfirmed =
            self.issued.iter().filter(|issued| issued.caller == caller && !issued.is_confirmed);
        if unconfirmed.count() >= MAX_UNCONFIRMED_PER_CALLER {
            return limited("use one of those that were sent, or wait ten minutes");
        }
        if self.wrong.iter().filter(|wrong| wrong.caller == caller).count() >= MAX_WRONG_PER_CALLER
        {
            return limited("too many of them were entered wrongly; wait a day");
        }
        if self.issued.len() >= MAX_ISSUED {
            return limited("this host has sent as many as it may; wait ten minutes");
        }
        if self.challenges.len() >= MAX_OUTSTANDING {
            return limited("too many of them wait to be entered; wait ten minutes");
        }
        self.challenges.insert(id.to_owned(), challenge);
        let (id, caller) = (id.to_owned(), caller.to_owned());
        self.issued.push_back(Issued { at: now, id, caller, is_confirmed: false });
        Ok(())
    }

    /// Drops what no longer counts.
    fn forget_old(&mut self, now: u64) {
        self.challenges.retain(|_, challenge| now < challenge.expires_at);
        let is_old = |at: u64, window: Duration| at + window.as_secs() <= now;
        // The oldest are in front: the clock does not go back.
        while self.issued.front().is_some_and(|issued| is_old(issued.at, ISSUE_WINDOW)) {
            self.issued.pop_front();
        }
        while self.wrong.front().is_some_and(|wrong| is_old(wrong.at, WRONG_WINDOW)) {
            self.wrong.pop_front();
        }
    }
}

/// Reads `<id>:<code>`.
fn parse(presented: &str) -> Option<(&str, Code)> {
    let (id, code) = presented.split_once(':')?;
    let body = id.strip_prefix(ID_PREFIX)?;
    let is_id = body.len() == PUBLIC_ID_CHARS && body.bytes().all(|b| b.is_ascii_alphanumeric());
    is_id.then(|| Code::parse(code)).flatten().map(|code| (id, code))
}

fn timestamp(seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).ok();
    seconds.and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use axum::{body::to_bytes, http::HeaderValue, response::IntoResponse as _};
    use serde_json::json;
    use zeroize::Zeroizing;

    use super::{
        receiver::{Answer, Receiver},
        *,
    };
    use crate::error::ApiError;

    const START: u64 = 1_700_000_000;

    /// A host whose codes are posted to a server of the test.
    struct Desk {
        verifier: std::sync::Arc<Verifier>,
        clock: Clock,
        receiver: Receiver,
    }

    impl Desk {
        async fn new() -> Self {
            Self::with(Answer::status(200)).await
        }

        async fn with(answer: Answer) -> Self {
            let receiver = Receiver::start(answer, None).await;
            let url = format!("http://{}", receiver.address);
            let webhook = Webhook::new(&url, Zeroizing::default(), vec![], || Ok(vec![])).unwrap();
            let clock = Clock::by_hand(START);
            let delivery = Delivery::Webhook(Box::new(webhook));
            let verifier = Verifier::new(delivery, clock.clone()).into();
            Self { verifier, clock, receiver }
        }

        /// Asks for a code, and returns the header that its reader would make, or
        /// the answer if there is none.
        async fn ask(&mut self, operation: &Operation) -> Result<Header, VerificationError> {
            let err = self.verifier.require(None, operation).await.unwrap_err();
            let VerificationError::Required(sent) = err else { return Err(err) };
            let posted = self.receiver.posted.recv().await.unwrap().json();
            let text = |name: &str| posted[name].as_str().unwrap().to_owned();
            assert_eq!(text("id"), sent.id);
            Ok(Header { id: sent.id, code: text("code") })
        }

        async fn present(&self, header: &str, operation: &Operation) -> String {
            match self.verifier.require(Some(header), operation).await {
                Ok(()) => "ok".to_owned(),
                Err(VerificationError::Failed { tries_left }) => format!("failed {tries_left}"),
                Err(VerificationError::Mismatch { tries_left }) => {
                    format!("mismatch {tries_left}")
                }
                Err(VerificationError::Expired) => "expired".to_owned(),
                Err(VerificationError::Malformed) => "malformed".to_owned(),
                Err(err) => panic!("{err}"),
            }
        }
    }

    #[derive(Clone)]
    struct Header {
        id: String,
        code: String,
    }

    impl Header {
        fn right(&self) -> String {
            format!("{}:{}", self.id, self.code)
        }

        fn wrong(&self) -> String {
            let last = if self.code.ends_with('0') { '1' } else { '0' };
            format!("{}:{}{last}", self.id, &self.code[..code::CODE_DIGITS - 1])
        }
    }

    fn operation_by(caller: &str) -> Operation {
        Operation::new(caller, "create a key named 'x'", &json!({ "name": "x", "live": true }))
    }

    fn operation() -> Operation {
        operation_by("the operator")
    }

    #[tokio::test]
    async fn a_code_confirms_once() {
        let mut desk = Desk::new().await;
        let header = desk.ask(&operation()).await.unwrap();
        assert_eq!(desk.present(&header.right(), &operation()).await, "ok");
        assert_eq!(desk.present(&header.right(), &operation()).await, "expired");
    }

    #[tokio::test]
    async fn a_challenge_says_where_the_code_went_and_until_when_it_is_good() {
        let desk = Desk::new().await;
        let err = desk.verifier.require(None, &operation()).await.unwrap_err();
        let sent = err.challenge().unwrap();
        assert!(sent.id.starts_with("vrf_"));
        assert_eq!(sent.sent_to, "the host's webhook");
        assert_eq!(sent.expires_at.as_second(), 1_700_000_600);
    }

    #[tokio::test]
    async fn five_wrong_codes_are_the_end_of_a_challenge() {
        let mut desk = Desk::new().await;
        for wrong in 0..=MAX_TRIES {
            let header = desk.ask(&operation()).await.unwrap();
            for left in (0..MAX_TRIES).rev().take(wrong as usize) {
                let found = desk.present(&header.wrong(), &operation()).await;
                assert_eq!(found, format!("failed {left}"));
            }
            let expected = if wrong < MAX_TRIES { "ok" } else { "expired" };
            assert_eq!(desk.present(&header.right(), &operation()).await, expected, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_code_confirms_what_it_was_asked_for_and_nothing_else() {
        let mut desk = Desk::new().await;
        let new = Operation::new;
        let action = "create a key named 'x'";
        let arguments = json!({ "name": "x", "live": true });
        for other in [
            new("another", action, &arguments),
            new("the operator", "create a key named 'y'", &arguments),
            new("the operator", action, &json!({ "name": "y", "live": true })),
            new("the operator", action, &json!({ "name": "x", "live": "true" })),
            new("the operator", action, &json!({ "name": "x", "live": true, "note": null })),
            new("the operator", action, &json!({})),
            new("the operator", action, &json!(null)),
            // As somebody reads it, it is the same.
            new("the operator", "create a key named 'x'\u{200B}", &arguments),
            // Parts of one field in the next.
            new("the operatorcreate", " a key named 'x'", &arguments),
            new("the operator", "create a key named", &json!(" 'x'")),
        ] {
            let header = desk.ask(&operation()).await.unwrap();
            // Whether the code is right makes no difference.
            assert_eq!(desk.present(&header.right(), &other).await, "mismatch 4", "{other:?}");
            assert_eq!(desk.present(&header.wrong(), &other).await, "mismatch 3", "{other:?}");
            assert_eq!(desk.present(&header.right(), &operation()).await, "ok", "{other:?}");
        }
        let header = desk.ask(&operation()).await.unwrap();
        let reordered: Value = serde_json::from_str(r#"{"live":true,"name":"x"}"#).unwrap();
        let same = new("the operator", action, &reordered);
        assert_eq!(desk.present(&header.right(), &same).await, "ok");
    }

    #[tokio::test]
    async fn other_arguments_use_up_the_tries_too() {
        let mut desk = Desk::new().await;
        let header = desk.ask(&operation()).await.unwrap();
        for left in (0..MAX_TRIES).rev() {
            let found = desk.present(&header.right(), &operation_by("another")).await;
            assert_eq!(found, format!("mismatch {left}"));
        }
        assert_eq!(desk.present(&header.right(), &operation()).await, "expired");
    }

    #[tokio::test]
    async fn a_code_is_good_for_ten_minutes() {
        for (after, expected) in [(0, "ok"), (599, "ok"), (600, "expired"), (10_000, "expired")] {
            let mut desk = Desk::new().await;
            let header = desk.ask(&operation()).await.unwrap();
            desk.clock.set(START + after);
            assert_eq!(desk.present(&header.right(), &operation()).await, expected, "{after}");
        }
    }

    #[tokio::test]
    async fn a_header_is_an_id_and_six_digits() {
        let desk = Desk::new().await;
        for (header, expected) in [
            ("vrf_FakeFakeFakeFakeFakeFake:012345", "expired"),
            ("", "malformed"),
            (":", "malformed"),
            ("012345", "malformed"),
            ("vrf_FakeFakeFakeFakeFakeFake", "malformed"),
            ("vrf_FakeFakeFakeFakeFakeFake:", "malformed"),
            ("vrf_FakeFakeFakeFakeFakeFake:12345", "malformed"),
            ("vrf_FakeFakeFakeFakeFakeFake: 012345", "malformed"),
            ("vrf_FakeFakeFakeFakeFakeFake:01234x", "malformed"),
            ("vrf_FakeFakeFakeFakeFakeFake:012345:", "malformed"),
            ("vrf_FakeFakeFakeFakeFakeFak:012345", "malformed"),
            ("vrf_FakeFakeFakeFakeFakeFake1:012345", "malformed"),
            ("vrf_FakeFakeFakeFakeFakeFak-:012345", "malformed"),
            ("key_FakeFakeFakeFakeFakeFake:012345", "malformed"),
            ("012345:vrf_FakeFakeFakeFakeFakeFake", "malformed"),
        ] {
            assert_eq!(desk.present(header, &operation()).await, expected, "`{header}`");
        }
    }

    #[test]
    fn a_request_presents_at_most_one_header() {
        let text = |text| HeaderValue::from_static(text);
        let bytes = HeaderValue::from_bytes(b"vrf_\xFF:012345").unwrap();
        for (values, expected) in [
            (vec![], Ok(None)),
            (vec![text("a")], Ok(Some("a"))),
            (vec![text("")], Ok(Some(""))),
            (vec![text("a"), text("a")], Err(())),
            (vec![bytes], Err(())),
        ] {
            let headers: HeaderMap = values.into_iter().map(|value| (HEADER, value)).collect();
            assert_eq!(presented(&headers).map_err(drop), expected);
        }
    }

    #[tokio::test]
    async fn a_caller_gets_five_codes_in_ten_minutes_that_it_does_not_use() {
        let mut desk = Desk::new().await;
        let first = desk.ask(&operation()).await.unwrap();
        for _ in 1..MAX_UNCONFIRMED_PER_CALLER {
            desk.ask(&operation()).await.unwrap();
        }
        let limited = |found| matches!(found, Err(VerificationError::RateLimited(_)));
        assert!(limited(desk.ask(&operation()).await));
        // Others are not held up.
        desk.ask(&operation_by("another")).await.unwrap();
        // Who uses one gets one more.
        assert_eq!(desk.present(&first.right(), &operation()).await, "ok");
        desk.ask(&operation()).await.unwrap();
        assert!(limited(desk.ask(&operation()).await));
        desk.clock.set(START + 599);
        assert!(limited(desk.ask(&operation()).await));
        desk.clock.set(START + 600);
        desk.ask(&operation()).await.unwrap();
    }

    #[tokio::test]
    async fn a_host_sends_sixty_codes_in_ten_minutes() {
        let mut desk = Desk::new().await;
        for n in 0..MAX_ISSUED {
            let by = operation_by(&format!("caller {}", n % 3));
            let header = desk.ask(&by).await.unwrap();
            assert_eq!(desk.present(&header.right(), &by).await, "ok", "{n}");
        }
        let found = desk.ask(&operation()).await;
        assert!(matches!(found, Err(VerificationError::RateLimited(_))));
        desk.clock.set(START + 600);
        desk.ask(&operation()).await.unwrap();
    }

    #[tokio::test]
    async fn fifty_codes_wait_at_most_and_none_makes_room_for_another() {
        let mut desk = Desk::new().await;
        let caller = |n: usize| operation_by(&format!("caller {}", n / MAX_UNCONFIRMED_PER_CALLER));
        let mut headers = Vec::new();
        for n in 0..MAX_OUTSTANDING {
            headers.push(desk.ask(&caller(n)).await.unwrap());
        }
        let late = operation_by("late");
        let found = desk.ask(&late).await;
        assert!(matches!(found, Err(VerificationError::RateLimited(_))));
        // All of them are still good, and what is used makes room.
        assert_eq!(desk.present(&headers[0].right(), &caller(0)).await, "ok");
        desk.ask(&late).await.unwrap();
        assert!(desk.ask(&late).await.is_err());
        for (n, header) in headers.iter().enumerate().skip(1) {
            assert_eq!(desk.present(&header.right(), &caller(n)).await, "ok", "{n}");
        }
    }

    #[tokio::test]
    async fn codes_that_have_expired_make_room() {
        let mut desk = Desk::new().await;
        for n in 0..MAX_OUTSTANDING {
            desk.ask(&operation_by(&format!("caller {n}"))).await.unwrap();
        }
        assert!(desk.ask(&operation()).await.is_err());
        desk.clock.set(START + 600);
        desk.ask(&operation()).await.unwrap();
        assert_eq!(desk.verifier.state().challenges.len(), 1);
    }

    #[tokio::test]
    async fn who_guesses_gets_no_codes_for_a_day() {
        let mut desk = Desk::new().await;
        for n in 0..MAX_WRONG_PER_CALLER / MAX_TRIES as usize {
            desk.clock.set(START + n as u64 * 600);
            let header = desk.ask(&operation()).await.unwrap();
            for _ in 0..MAX_TRIES {
                desk.present(&header.wrong(), &operation()).await;
            }
        }
        for (after, expected) in [(6_000, true), (86_399, true), (86_400, false)] {
            desk.clock.set(START + after);
            let found = desk.ask(&operation()).await;
            let limited = matches!(found, Err(VerificationError::RateLimited(_)));
            assert_eq!(limited, expected, "{after}");
            desk.ask(&operation_by("another")).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_code_that_is_not_delivered_is_void() {
        let mut desk = Desk::with(Answer::status(500)).await;
        let err = desk.verifier.require(None, &operation()).await.unwrap_err();
        assert!(matches!(err, VerificationError::Undelivered(DeliveryError::Refused(_))), "{err}");
        let posted = desk.receiver.posted.recv().await.unwrap().json();
        let header =
            format!("{}:{}", posted["id"].as_str().unwrap(), posted["code"].as_str().unwrap());
        assert_eq!(desk.present(&header, &operation()).await, "expired");
        // It may have cost something, and so it counts.
        for _ in 1..MAX_UNCONFIRMED_PER_CALLER {
            let err = desk.verifier.require(None, &operation()).await.unwrap_err();
            assert!(matches!(err, VerificationError::Undelivered(_)), "{err}");
        }
        let err = desk.verifier.require(None, &operation()).await.unwrap_err();
        assert!(matches!(err, VerificationError::RateLimited(_)), "{err}");
    }

    #[tokio::test]
    async fn a_delivery_holds_up_nobody_and_is_void_if_it_is_given_up() {
        let mut desk = Desk::with(Answer::Nothing).await;
        let verifier = std::sync::Arc::clone(&desk.verifier);
        let asking = tokio::spawn(async move { verifier.require(None, &operation()).await });
        let posted = desk.receiver.posted.recv().await.unwrap().json();
        // It is under way, and yet the challenges can be looked at.
        assert_eq!(desk.verifier.state().challenges.len(), 1);
        let id = posted["id"].as_str().unwrap();
        assert_eq!(
            desk.present(&format!("{id}:{}", "x".repeat(6)), &operation()).await,
            "malformed"
        );
        asking.abort();
        assert!(asking.await.unwrap_err().is_cancelled());
        assert_eq!(desk.verifier.state().challenges.len(), 0);
    }

    #[tokio::test]
    async fn without_a_delivery_nothing_is_asked_for() {
        let verifier = Verifier::new(Delivery::None, Clock::by_hand(START));
        for header in [None, Some("vrf_FakeFakeFakeFakeFakeFake:012345"), Some("nonsense")] {
            verifier.require(header, &operation()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn codes_are_printed_nowhere() {
        let mut desk = Desk::new().await;
        let header = desk.ask(&operation()).await.unwrap();
        let printed = format!("{:?}", desk.verifier);
        assert!(printed.contains(&header.id), "{printed}");
        assert!(!printed.contains(&header.code), "{printed}");
        // Nor a digest of one, which is as good.
        let digest = Digest::of(&header.code).to_hex();
        assert!(!printed.contains(&digest), "{printed}");
    }

    #[tokio::test]
    async fn clients_are_told_what_to_do() {
        let sent = ChallengeSent {
            id: "vrf_1".to_owned(),
            sent_to: "o***@example.com".to_owned(),
            expires_at: timestamp(1_600),
        };
        let none = Value::Null;
        let again = "without the header";
        for (err, status, code, message) in [
            (
                VerificationError::Required(Box::new(sent)),
                403,
                "verification_required",
                "to o***@example.com. Repeat the request with the header \
                 `Wardkey-Verification: vrf_1:CODE` until 1970-01-01T00:26:40Z.",
            ),
            (VerificationError::Failed { tries_left: 4 }, 403, "verification_failed", "4 tries"),
            (VerificationError::Failed { tries_left: 1 }, 403, "verification_failed", "one try"),
            (VerificationError::Failed { tries_left: 0 }, 403, "verification_failed", again),
            (
                VerificationError::Mismatch { tries_left: 4 },
                403,
                "verification_mismatch",
                "4 tries",
            ),
            (VerificationError::Expired, 403, "verification_expired", again),
            (
                VerificationError::Malformed,
                400,
                "verification_invalid",
                "`Wardkey-Verification` must be given once, as `<id>:<code>`",
            ),
            (VerificationError::RateLimited("wait"), 429, "verification_rate_limited", "wait"),
            (
                VerificationError::Undelivered(DeliveryError::MailServer("hush".to_owned())),
                503,
                "unavailable",
                "could not be delivered",
            ),
        ] {
            let is_malformed = matches!(err, VerificationError::Malformed);
            let is_required = err.challenge().is_some();
            let response = ApiError::from(err).into_response();
            assert_eq!(response.status(), status, "{code}");
            let body = to_bytes(response.into_body(), 10_000).await.unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            let error = &body["error"];
            assert_eq!(error["code"], code);
            let found = error["message"].as_str().unwrap();
            assert!(found.contains(message), "{found}");
            assert!(!found.contains("hush"), "{found}");
            let param = if is_malformed { json!("wardkey-verification") } else { none.clone() };
            assert_eq!(error["param"], param, "{code}");
            let verification = match is_required {
                true => json!({
                    "id": "vrf_1",
                    "sent_to": "o***@example.com",
                    "expires_at": "1970-01-01T00:26:40Z",
                }),
                false => none.clone(),
            };
            assert_eq!(error["verification"], verification, "{code}");
        }
    }
}
