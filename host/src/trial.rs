//! A policy is tried before it may decide: a small set of requests that every
//! policy has to get right, whatever its rules are.
//!
//! It asks what no rules can change: that there is an answer within the budget,
//! that nobody gets in without a key, and that the interfaces which the policy
//! exports answer.

use crate::{
    engine::{
        EngineError, Policy, Run,
        contract::{
            Credential, Decision, MalformedCredential, Request, Source, WellFormedCredential,
        },
    },
    facts::Facts,
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
    /// It let somebody in whom it cannot know.
    #[error("the policy let {0} in when it was tried")]
    LetIn(&'static str),
}

/// Tries a policy with what it has to get right.
///
/// # Errors
///
/// [`TrialError`] says what it did instead.
pub fn try_policy(policy: &Policy, now: u64) -> Result<(), TrialError> {
    let digest = Digest::of("a secret that nobody has");
    let credentials = [
        ("a request without a key", Credential::Absent),
        (
            "a text that is no key",
            Credential::Malformed(MalformedCredential { prefix: "", masked: "********" }),
        ),
        (
            "a key that there is not",
            Credential::WellFormed(WellFormedCredential {
                prefix: "sk_test_",
                masked: "sk_test_********",
                digest: digest.to_words(),
            }),
        ),
    ];
    for (case, credential) in credentials {
        for (method, path) in [("GET", "/v1/charges"), ("POST", "/v1/payouts"), ("GET", "/")] {
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
            // That there is no such key is known, so that nothing is left to read.
            let mut facts = Facts::default();
            facts.add_key(digest, None);
            let failed = |source| TrialError::Failed { case, source };
            match policy.authorize(&request, facts).1.map_err(failed)? {
                Run::Done(Decision::Allow(_)) => return Err(TrialError::LetIn(case)),
                // It may read what is not there to be read: another key.
                Run::Done(Decision::Deny(_)) | Run::Unread(_) => {}
            }
        }
    }
    let interfaces = [
        ("the question which permissions there are", policy.permissions().map(drop)),
        (
            "the question which endpoint a request reaches",
            policy.find_endpoint("GET", "/").map(drop),
        ),
        (
            "the question which keys a new account gets",
            policy.default_keys("acct_1", now).map(drop),
        ),
    ];
    for (case, answered) in interfaces {
        match answered {
            Ok(()) | Err(EngineError::Missing(_)) => {}
            Err(source) => return Err(TrialError::Failed { case, source }),
        }
    }
    Ok(())
}
