//! A policy is tried before it may decide: a small set of requests that every
//! policy has to get right, whatever its rules are.
//!
//! It asks what no rules can change: that there is an answer within the budget,
//! that nobody gets in without a key, or as somebody else, and that the
//! interfaces which the policy exports answer.

use std::sync::Arc;

use futures_util::FutureExt as _;

use crate::{
    decide::{DecideError, Reads, decide_by},
    engine::{
        EngineError, Policy,
        contract::{
            Credential, Decision, Key, MalformedCredential, Mode, Request, Source,
            WellFormedCredential,
        },
    },
    facts::Facts,
    secret::Digest,
    stack::Stack,
};

/// Why a policy is not fit to decide.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// It gave no answer.
    #[error("the policy failed when it was tried with {case}: {source}")]
    Failed {
        /// What it was tried with.
        case: &'static str,
        /// How it failed.
        source: EngineError,
    },
    /// It went on asking for what is stored.
    #[error("the policy asked for more than it may when it was tried with {0}")]
    Insatiable(&'static str),
    /// It let somebody in whom it cannot know.
    #[error("the policy let {0} in when it was tried")]
    LetIn(&'static str),
}

/// The account of the keys that policies are tried with.
const ACCOUNT: &str = "acct_1";

/// Tries a policy with what it has to get right.
///
/// # Errors
///
/// [`TrialError`] says what it did instead.
pub fn try_policy(policy: &Arc<Policy>, now: u64) -> Result<(), TrialError> {
    let stack = Stack::new(Arc::clone(policy), Vec::new());
    let digest = Digest::of("a secret that nobody has");
    let presented = Credential::WellFormed(WellFormedCredential {
        prefix: "trial_",
        masked: "trial_********",
        digest: digest.to_words(),
    });
    let malformed = Credential::Malformed(MalformedCredential { prefix: "", masked: "********" });
    let key = |mode| Some(Arc::new(key(mode, now)));
    let cases = [
        ("a request without a key", Credential::Absent, None),
        ("a text that is no key", malformed, None),
        ("a key that there is not", presented.clone(), None),
        // Whether it lets these in is its own affair, but not as whom.
        ("a test key", presented.clone(), key(Mode::Test)),
        ("a live key", presented, key(Mode::Live)),
    ];
    for (case, credential, key) in cases {
        for (method, path) in [("GET", "/v1/charges"), ("POST", "/v1/customers"), ("GET", "/")] {
            let request = Request {
                credential: credential.clone(),
                method,
                path,
                source: Source::Ipv4(0),
                context: None,
                account: None,
                api_version: None,
                now,
                attributes: &[],
            };
            let mut facts = Facts::default();
            facts.add_key(digest, key.clone());
            match decide(&stack, &request, facts, key.as_deref()) {
                Ok(_) => {}
                // Nothing else is refused of what is decided without a key.
                Err(DecideError::Engine { source: EngineError::Garbage(_), .. })
                    if key.is_none() =>
                {
                    return Err(TrialError::LetIn(case));
                }
                Err(DecideError::Engine { source, .. }) => {
                    return Err(TrialError::Failed { case, source });
                }
                Err(DecideError::Insatiable { .. } | DecideError::Storage(_)) => {
                    return Err(TrialError::Insatiable(case));
                }
            }
        }
    }
    let interfaces = [
        ("the question which permissions there are", policy.permissions().map(drop)),
        (
            "the question which endpoint a request reaches",
            policy.find_endpoint("GET", "/").map(drop),
        ),
        ("the question which keys a new account gets", policy.default_keys(ACCOUNT, now).map(drop)),
    ];
    for (case, answered) in interfaces {
        match answered {
            Ok(()) | Err(EngineError::Missing(_)) => {}
            Err(source) => return Err(TrialError::Failed { case, source }),
        }
    }
    Ok(())
}

/// Decides as a request is decided, over storage in which nothing else is.
fn decide(
    stack: &Stack,
    request: &Request<'_>,
    mut facts: Facts,
    key: Option<&Key>,
) -> Result<Decision, DecideError> {
    // It reads nothing, so that there is nothing to wait for.
    let decided = decide_by(stack, request, &mut facts, key, Reads::Nothing).now_or_never();
    let policy = stack.policy().digest();
    decided.unwrap_or(Err(DecideError::Insatiable { policy })).map(|(decision, _)| decision)
}

/// A key of a kind that no policy knows.
fn key(mode: Mode, now: u64) -> Key {
    Key {
        id: "key_1".to_owned(),
        account: ACCOUNT.to_owned(),
        mode,
        kind: "trial".to_owned(),
        origin: "trial".to_owned(),
        created_at: now,
        ends_at: None,
        restored_at: None,
        money_moved_at: None,
        permissions: String::new(),
        connect_permissions: String::new(),
        ipv4_nets: Vec::new(),
        attributes: Vec::new(),
    }
}
