//! The kinds of keys, and what their secrets start with.
//!
//! `kind` and `origin` are plain strings in the contract: a kind that is not
//! listed here can do nothing, and a policy that knows more kinds needs no new
//! host.

use crate::contract::Mode;

/// Front-end code may hold it; it reaches what the catalogue marks so.
pub const PUBLISHABLE: &str = "publishable";
/// No limits on what it may do.
pub const SECRET: &str = "secret";
/// May do what its permissions say.
pub const RESTRICTED: &str = "restricted";
/// Belongs to an organization and acts on its member accounts.
pub const ORGANIZATION: &str = "organization";
/// A secret key that a hosting platform made, delivers and rotates.
pub const MANAGED: &str = "managed";

/// Every kind that there is.
pub(crate) const ALL: &[&str] = &[PUBLISHABLE, SECRET, RESTRICTED, ORGANIZATION, MANAGED];

/// Made by the host: a default key, or what a scheduled rotation made.
pub const PLATFORM: &str = "platform";
/// Made because somebody asked for it and saw its secret.
pub const USER: &str = "user";

/// What webhook signing secrets start with. They are no API keys (S17, S85).
pub const WEBHOOK_PREFIX: &str = "whsec_";

/// Returns what the secrets of this kind start with, or `None` for a kind that
/// there is not.
///
/// **These are the first bytes of every key in use.** Changing one does not
/// end the keys that have it, but whoever scans code for leaked keys by their
/// start no longer finds the new ones.
pub fn prefix(kind: &str, mode: Mode) -> Option<&'static str> {
    Some(match (kind, mode) {
        (PUBLISHABLE, Mode::Test) => "pk_test_",
        (PUBLISHABLE, Mode::Live) => "pk_live_",
        (SECRET | MANAGED, Mode::Test) => "sk_test_",
        (SECRET | MANAGED, Mode::Live) => "sk_live_",
        (RESTRICTED, Mode::Test) => "rk_test_",
        (RESTRICTED, Mode::Live) => "rk_live_",
        (ORGANIZATION, Mode::Test) => "sk_org_test_",
        (ORGANIZATION, Mode::Live) => "sk_org_live_",
        _ => return None,
    })
}
