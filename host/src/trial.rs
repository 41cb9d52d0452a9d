//! A policy is tried before it may decide: a small set of requests that every
//! policy has to get right, whatever its rules are.
//!
//! It asks what no rules can change: that there is an answer within the budget,
//! that nobody gets in without a key, or as somebody else, and that the
//! interfaces which the policy exports answer. What its own rules are, the policy
//! may say in [`cases`] that it carries, and has to keep to.

use std::sync::Arc;

use futures_util::FutureExt as _;

use self::cases::{Case, Disagreement, Unreadable};
use crate::{
    decide::{DecideError, Reads, decide_by},
    engine::{
        EngineError, Policy,
        contract::{
            Account, Credential, Decision, Key, Mode, PresentedCredential, Request, Source,
        },
    },
    facts::Facts,
    stack::Stack,
};

pub mod cases;

/// What a policy has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// How many cases of its own.
    pub cases: usize,
}

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
    /// What it carries as cases is none.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It gave no decision in a case of its own.
    #[error("the policy failed in its case `{case}`: {source}")]
    FailedCase {
        /// The case.
        case: String,
        /// How it failed.
        source: DecideError,
    },
    /// It decided otherwise than it says itself.
    #[error(transparent)]
    Case(#[from] Disagreement),
}

/// The account of the keys that policies are tried with.
const ACCOUNT: &str = "acct_1";

/// Tries a policy with what it has to get right, and with its own cases.
///
/// # Errors
///
/// [`TrialError`] says what it did instead.
pub fn try_policy(policy: &Arc<Policy>, now: u64) -> Result<Passed, TrialError> {
    let stack = Stack::new(Arc::clone(policy), Vec::new());
    let presented =
        Credential::WellFormed(PresentedCredential { prefix: "trial_", masked: "trial_********" });
    let malformed = Credential::Malformed(PresentedCredential { prefix: "", masked: "********" });
    let key = |mode| Some(key(mode, now));
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
            match decide(&stack, &request, key.as_ref(), &[]) {
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
    let cases = policy.cases().map_or_else(|| Ok(Vec::new()), cases::read)?;
    cases.iter().try_for_each(|case| try_case(&stack, case))?;
    Ok(Passed { cases: cases.len() })
}

/// Tries a policy with a case of its own.
fn try_case(stack: &Stack, case: &Case) -> Result<(), TrialError> {
    let request = case.request();
    let decision = decide(stack, &request, case.presented_key(), &case.accounts)
        .map_err(|source| TrialError::FailedCase { case: case.name.clone(), source })?;
    Ok(case.judge(&decision)?)
}

/// Decides as a request is decided, over storage in which nothing else is but
/// these accounts.
fn decide(
    stack: &Stack,
    request: &Request<'_>,
    key: Option<&Key>,
    accounts: &[Account],
) -> Result<Decision, DecideError> {
    // It reads nothing, so that there is nothing to wait for.
    let reads = Reads::Only(accounts);
    let mut facts = Facts::default();
    let decided = decide_by(stack, request, key, &mut facts, reads).now_or_never();
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
