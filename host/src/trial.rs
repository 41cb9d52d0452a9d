//! A policy is tried before it may decide: a small set of requests that every
//! policy has to get right, whatever its rules are.
//!
//! It asks what no rules can change: that there is an answer within the budget,
//! that nobody gets in without a key, or as somebody else, and that the
//! interfaces which the policy exports answer.

use std::sync::Arc;

use crate::{
    decide::{MAX_RUNS, check},
    engine::{
        EngineError, Policy, Run,
        contract::{
            Credential, Decision, Key, MalformedCredential, Mode, Request, Source,
            WellFormedCredential,
        },
    },
    facts::{Facts, MAX_IDS, Unread},
    secret::Digest,
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
pub fn try_policy(policy: &Policy, now: u64) -> Result<(), TrialError> {
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
            let failed = |source| TrialError::Failed { case, source };
            let decision = decide(policy, &request, facts).map_err(failed)?;
            let decision = decision.ok_or(TrialError::Insatiable(case))?;
            if key.is_none() && matches!(decision, Decision::Allow(_)) {
                return Err(TrialError::LetIn(case));
            }
            check(&decision, key.as_deref()).map_err(failed)?;
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

/// Runs the policy as a request does, over storage in which nothing else is.
/// `None`: it asked for more than it may.
fn decide(
    policy: &Policy,
    request: &Request<'_>,
    mut facts: Facts,
) -> Result<Option<Decision>, EngineError> {
    for _ in 0..MAX_RUNS {
        let (read, answer) = policy.authorize(request, facts);
        facts = read;
        match answer? {
            Run::Done(decision) => return Ok(Some(decision)),
            Run::Unread(Unread::Key(digest)) => facts.add_key(digest, None),
            Run::Unread(Unread::Accounts(mut ids)) => {
                ids.retain(|id| facts.account(id).is_none());
                ids.sort_unstable();
                ids.dedup();
                if facts.len() + ids.len() > MAX_IDS {
                    return Ok(None);
                }
                ids.into_iter().for_each(|id| facts.add_account(id, None));
            }
        }
    }
    Ok(None)
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
