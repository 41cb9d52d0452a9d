//! An overlay: while it is in force, live keys may read and nothing else. For an
//! incident, or for the hour in which a database is moved.
//!
//! It is stacked on another policy and asked about what that has allowed. So it
//! says nothing of permissions, and has to answer for two things: whom it refuses,
//! and that it lets nobody in as somebody else. It allows as the key that it was
//! shown, and what that may do is for the policy below to say.

// A copy of it has its own, beside the sources.
wit_bindgen::generate!({ path: "../../../wit", world: "authorizer-policy" });

use exports::wardkey::policy::authorizer::{Decision, Guest, Request};
use wardkey::policy::types::{Denial, DenialClass, Grant, Key, Mode};

/// The methods that change nothing.
const READING: [&str; 3] = ["GET", "HEAD", "OPTIONS"];

struct ReadOnly;

impl Guest for ReadOnly {
    fn authorize(request: Request, key: Option<Key>) -> Decision {
        let Some(key) = key else {
            return Decision::Deny(refusal(DenialClass::Unauthenticated, None, "Invalid API key."));
        };
        if key.mode == Mode::Live && !READING.contains(&&*request.method) {
            let message = "Live keys may only read at the moment. Try again later.";
            return Decision::Deny(Denial {
                code: Some("read_only".to_owned()),
                ..refusal(DenialClass::Forbidden, Some(key.id), message)
            });
        }
        Decision::Allow(granted(key))
    }
}

fn granted(key: Key) -> Grant {
    Grant {
        key: key.id,
        account: key.account,
        mode: key.mode,
        endpoint: None,
        permissions: String::new(),
        usage: String::new(),
        notices: Vec::new(),
        attributes: Vec::new(),
    }
}

fn refusal(class: DenialClass, key: Option<String>, message: &str) -> Denial {
    Denial {
        class,
        code: None,
        message: message.to_owned(),
        param: None,
        missing_permissions: String::new(),
        key,
        endpoint: None,
    }
}

export!(ReadOnly);
