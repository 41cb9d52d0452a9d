//! Cases that a policy carries itself, and has to pass: who asks for what, when,
//! and what has to come of it. How they are written is told in `wit/README.md`.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;
use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    engine::{
        Policy,
        contract::{
            Account, Credential, Decision, Denial, DenialClass, Grant, Ipv4Net as Net, Key, Mode,
            PresentedCredential, Request,
        },
    },
    question,
};

/// The most cases that a policy may carry: each may take its budget three times,
/// and whoever puts a policy in force waits for all of them.
pub const MAX_CASES: usize = 256;

/// The longest name of a case, in characters: it is read in a sentence.
const MAX_NAME_CHARS: usize = 100;

/// How much is told of a text that the policy or the case has brought, in
/// characters.
const MAX_TOLD_CHARS: usize = 120;

/// When a case happens that does not say so: 2030-01-01T00:00:00Z. Not when it is
/// run, as a case that passes today has to pass tomorrow.
const NOW: u64 = 1_893_456_000;

/// Whose a key is that does not say so.
const ACCOUNT: &str = "acct_1";

/// What a key is called that does not say so.
const KEY: &str = "key_1";

/// Where a request comes from that does not say so: an address for documentation.
const SOURCE: &str = "203.0.113.1";

/// Why a policy's cases are none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the policy's cases cannot be read: {0}")]
pub struct Unreadable(String);

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows, in words.
    pub name: String,
    /// The key that there is, whether or not the request presents its secret.
    key: Option<Key>,
    /// The accounts that there are.
    pub accounts: Vec<Account>,
    asked: Asked,
    presents: Presents,
    masked: String,
    source: IpAddr,
    now: u64,
    expect: Expect,
}

/// Reads the cases that a policy carries.
///
/// # Errors
///
/// If they are not written as `wit/README.md` says, or are too many.
pub fn read(section: &[u8]) -> Result<Vec<Case>, Unreadable> {
    let unreadable = |why: &dyn fmt::Display| Unreadable(told(&why.to_string()));
    let written: Vec<Written> = serde_json::from_slice(section).map_err(|err| unreadable(&err))?;
    if written.len() > MAX_CASES {
        let why = format!("there are {}, and at most {MAX_CASES} are run", written.len());
        return Err(Unreadable(why));
    }
    let cases = written.into_iter().map(|case| {
        let name = told(&case.name);
        case.read().map_err(|why| Unreadable(format!("`{name}`: {}", told(&why))))
    });
    cases.collect()
}

/// Returns how many cases a policy carries; none where they cannot be read, which
/// no policy passes its trial with.
pub(crate) fn count(policy: &Policy) -> usize {
    let cases = policy.cases().and_then(|section| read(section).ok());
    cases.map_or(0, |cases| cases.len())
}

impl Case {
    /// Returns the key whose secret the request presents, if there is such a key.
    pub fn presented_key(&self) -> Option<&Key> {
        self.key.as_ref().filter(|_| matches!(self.presents, Presents::WellFormed))
    }

    /// Returns what the policy is asked.
    pub fn request(&self) -> Request<'_> {
        let Asked { method, path, prefix, context, account, api_version, allow_unlisted, .. } =
            &self.asked;
        let masked = &self.masked;
        Request {
            credential: match self.presents {
                Presents::Nothing => Credential::Absent,
                Presents::Malformed => {
                    Credential::Malformed(PresentedCredential { prefix, masked })
                }
                Presents::WellFormed => {
                    Credential::WellFormed(PresentedCredential { prefix, masked })
                }
            },
            method,
            path,
            source: question::source(self.source),
            context: context.as_deref(),
            account: account.as_deref(),
            api_version: api_version.as_deref(),
            now: self.now,
            attributes: question::attributes(*allow_unlisted),
        }
    }

    /// Compares a decision with what has to come of it.
    ///
    /// # Errors
    ///
    /// [`Disagreement`] says both.
    pub fn judge(&self, decision: &Decision) -> Result<(), Disagreement> {
        let disagreement = |expected: String, came: String| {
            let case = self.name.clone();
            Err(Disagreement { case, expected, came })
        };
        let differs = match (&self.expect, decision) {
            (Expect::Allow(expected), Decision::Allow(grant)) => expected.differs(grant),
            (Expect::Deny(expected), Decision::Deny(denial)) => expected.differs(denial),
            (Expect::Allow(_), Decision::Deny(denial)) => {
                let message = told(&denial.message);
                let came = format!("a refusal with {}: {message}", words(denial));
                return disagreement("that the request is let through".to_owned(), came);
            }
            (Expect::Deny(expected), Decision::Allow(_)) => {
                let code = code(expected.code.as_deref());
                let class = class(expected.class.into());
                let expected = format!("a refusal with the class `{class}` and {code}");
                return disagreement(expected, "that the request is let through".to_owned());
            }
        };
        match differs {
            Some((what, expected, came)) => {
                let expected = format!("{what} `{}`", told(&expected));
                disagreement(expected, format!("`{}`", told(&came)))
            }
            None => Ok(()),
        }
    }
}

/// A case that the policy does not pass.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the policy does not pass its case `{case}`: expected was {expected}, and there came {came}"
)]
pub struct Disagreement {
    case: String,
    expected: String,
    came: String,
}

// As it is written.

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    key: Option<WrittenKey>,
    #[serde(default)]
    accounts: Vec<WrittenAccount>,
    request: Asked,
    now: Option<Time>,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKey {
    id: Option<String>,
    account: Option<String>,
    #[serde(default)]
    mode: WrittenMode,
    kind: String,
    #[serde(default)]
    origin: String,
    created_at: Option<Time>,
    ends_at: Option<Time>,
    restored_at: Option<Time>,
    money_moved_at: Option<Time>,
    #[serde(default)]
    permissions: String,
    #[serde(default)]
    connect_permissions: String,
    #[serde(default)]
    ipv4_nets: Vec<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WrittenMode {
    #[default]
    Test,
    Live,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAccount {
    id: String,
    organization: Option<String>,
    platform: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    method: String,
    path: String,
    presents: Option<Presents>,
    #[serde(default)]
    prefix: String,
    source: Option<String>,
    context: Option<String>,
    account: Option<String>,
    api_version: Option<String>,
    #[serde(default)]
    allow_unlisted: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Presents {
    Nothing,
    Malformed,
    WellFormed,
}

/// A time as the management API writes it.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "Timestamp")]
struct Time(u64);

impl TryFrom<Timestamp> for Time {
    type Error = &'static str;

    fn try_from(at: Timestamp) -> Result<Self, Self::Error> {
        u64::try_from(at.as_second()).map(Self).map_err(|_| "a time before 1970")
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Expect {
    Allow(ExpectedGrant),
    Deny(ExpectedDenial),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedGrant {
    account: Option<String>,
    endpoint: Option<String>,
    permissions: Option<String>,
    usage: Option<String>,
    notices: Option<Vec<String>>,
    attributes: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedDenial {
    class: Class,
    code: Option<String>,
    param: Option<String>,
    missing_permissions: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Class {
    Unauthenticated,
    Ended,
    Forbidden,
    InvalidRequest,
    NotFound,
    Conflict,
    RateLimited,
}

impl Written {
    fn read(self) -> Result<Case, String> {
        let Self { name, key, accounts, request: asked, now, expect } = self;
        let chars = name.chars().count();
        if !(1..=MAX_NAME_CHARS).contains(&chars) || name.contains(char::is_control) {
            return Err(format!("a name has 1 to {MAX_NAME_CHARS} characters, on one line"));
        }
        let Time(now) = now.unwrap_or(Time(NOW));
        let source = asked.source.as_deref().unwrap_or(SOURCE);
        let source = source.parse().map_err(|_| format!("`{source}` is no address of a source"))?;
        // A key that is stored is presented, unless it is said otherwise.
        let unsaid = if key.is_some() { Presents::WellFormed } else { Presents::Nothing };
        Ok(Case {
            name,
            key: key.map(|key| key.read(now)).transpose()?,
            accounts: accounts.into_iter().map(WrittenAccount::read).collect(),
            presents: asked.presents.unwrap_or(unsaid),
            masked: format!("{}********", asked.prefix),
            source,
            asked,
            now,
            expect,
        })
    }
}

impl WrittenKey {
    fn read(self, now: u64) -> Result<Key, String> {
        let at = |time: Option<Time>| time.map(|Time(at)| at);
        let nets = self.ipv4_nets.iter().map(|text| {
            let net = text.parse().or_else(|_| text.parse::<Ipv4Addr>().map(Ipv4Net::from));
            let net = net.map_err(|_| format!("`{text}` is no IPv4 network"))?;
            Ok(Net { address: net.network().into(), prefix_length: net.prefix_len() })
        });
        Ok(Key {
            id: self.id.unwrap_or_else(|| KEY.to_owned()),
            account: self.account.unwrap_or_else(|| ACCOUNT.to_owned()),
            mode: match self.mode {
                WrittenMode::Test => Mode::Test,
                WrittenMode::Live => Mode::Live,
            },
            kind: self.kind,
            origin: self.origin,
            created_at: at(self.created_at).unwrap_or(now),
            ends_at: at(self.ends_at),
            restored_at: at(self.restored_at),
            money_moved_at: at(self.money_moved_at),
            permissions: sorted(&self.permissions),
            connect_permissions: sorted(&self.connect_permissions),
            ipv4_nets: nets.collect::<Result<_, String>>()?,
            attributes: self.attributes.into_iter().collect(),
        })
    }
}

impl WrittenAccount {
    fn read(self) -> Account {
        let Self { id, organization, platform } = self;
        Account { id, organization, platform }
    }
}

/// What differs, with what it should be and what it is.
type Difference = Option<(&'static str, String, String)>;

impl ExpectedGrant {
    fn differs(&self, grant: &Grant) -> Difference {
        let endpoint = grant.endpoint.as_deref().unwrap_or_default();
        let texts = [
            ("the account", self.account.as_deref(), grant.account.as_str()),
            ("the endpoint", self.endpoint.as_deref(), endpoint),
            ("the usage", self.usage.as_deref(), &grant.usage),
        ];
        let texts = texts.into_iter().find_map(|(what, expected, came)| {
            expected.and_then(|expected| differ(what, expected.to_owned(), came.to_owned()))
        });
        let permissions = || {
            let expected = self.permissions.as_deref().map(sorted)?;
            differ("the permissions", expected, grant.permissions.clone())
        };
        let notices = || {
            let expected = self.notices.as_ref()?;
            differ("the notices", expected.join("; "), grant.notices.join("; "))
        };
        let attributes = || {
            let expected = self.attributes.as_ref()?.iter();
            let expected = expected.map(|(name, value)| format!("{name}: {value}"));
            let came = grant.attributes.iter().map(|(name, value)| format!("{name}: {value}"));
            let [expected, came] =
                [expected.collect::<Vec<_>>(), came.collect()].map(|all| all.join("; "));
            differ("the attributes", expected, came)
        };
        texts.or_else(permissions).or_else(notices).or_else(attributes)
    }
}

impl ExpectedDenial {
    fn differs(&self, denial: &Denial) -> Difference {
        let class_and_code = |class, code: Option<&str>| match code {
            Some(code) => format!("{class}: {code}"),
            None => format!("{class}, without a code"),
        };
        let expected = class_and_code(class(self.class.into()), self.code.as_deref());
        let came = class_and_code(class(denial.class), denial.code.as_deref());
        let param = || {
            let came = denial.param.clone().unwrap_or_default();
            differ("the parameter", self.param.clone()?, came)
        };
        let missing = || {
            let expected = self.missing_permissions.as_deref().map(sorted)?;
            differ("the missing permissions", expected, denial.missing_permissions.clone())
        };
        differ("the refusal", expected, came).or_else(param).or_else(missing)
    }
}

fn differ(what: &'static str, expected: String, came: String) -> Difference {
    (expected != came).then_some((what, expected, came))
}

impl From<Class> for DenialClass {
    fn from(class: Class) -> Self {
        match class {
            Class::Unauthenticated => Self::Unauthenticated,
            Class::Ended => Self::Ended,
            Class::Forbidden => Self::Forbidden,
            Class::InvalidRequest => Self::InvalidRequest,
            Class::NotFound => Self::NotFound,
            Class::Conflict => Self::Conflict,
            Class::RateLimited => Self::RateLimited,
        }
    }
}

/// Returns a class as cases write it.
fn class(class: DenialClass) -> &'static str {
    match class {
        DenialClass::Unauthenticated => "unauthenticated",
        DenialClass::Ended => "ended",
        DenialClass::Forbidden => "forbidden",
        DenialClass::InvalidRequest => "invalid_request",
        DenialClass::NotFound => "not_found",
        DenialClass::Conflict => "conflict",
        DenialClass::RateLimited => "rate_limited",
    }
}

fn code(code: Option<&str>) -> String {
    match code {
        Some(code) => format!("the code `{}`", told(code)),
        None => "no code".to_owned(),
    }
}

fn words(denial: &Denial) -> String {
    format!("the class `{}` and {}", class(denial.class), code(denial.code.as_deref()))
}

/// Returns names as the contract has them, in whichever order they were written.
fn sorted(names: &str) -> String {
    let mut names: Vec<&str> = names.split_whitespace().collect();
    names.sort_unstable();
    names.dedup();
    names.join(" ")
}

/// Returns what is told of a text that somebody else has written: on one line, and
/// not all of it where it is long.
fn told(text: &str) -> String {
    let mut shown = String::new();
    for char in text.chars().take(MAX_TOLD_CHARS) {
        match char.is_control() {
            true => shown.extend(char.escape_default()),
            false => shown.push(char),
        }
    }
    if text.chars().nth(MAX_TOLD_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A case by which a key reads; `more` is put into it.
    fn written(more: Value) -> Value {
        let mut case = json!({
            "name": "it reads",
            "key": { "kind": "reader" },
            "request": { "method": "GET", "path": "/" },
            "expect": { "allow": {} },
        });
        for (field, value) in more.as_object().unwrap() {
            case[field] = value.clone();
        }
        case
    }

    #[track_caller]
    fn one(more: Value) -> Case {
        let cases = read(json!([written(more)]).to_string().as_bytes());
        cases.unwrap().pop().unwrap()
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let case = one(json!({}));
        let key = case.key.as_ref().unwrap();
        assert_eq!((key.id.as_str(), key.account.as_str(), key.mode), (KEY, ACCOUNT, Mode::Test));
        assert_eq!((key.created_at, key.ends_at, &*key.permissions), (NOW, None, ""));
        let request = case.request();
        assert!(matches!(request.credential, Credential::WellFormed(_)));
        assert_eq!((request.now, request.attributes.len()), (NOW, 0));
        let case = one(json!({ "now": "2031-01-01T00:00:00Z" }));
        assert_eq!(case.key.as_ref().unwrap().created_at, case.request().now);
        let case = one(json!({ "key": null }));
        assert!(matches!(case.request().credential, Credential::Absent));
    }

    #[test]
    fn what_is_said_is_what_the_policy_gets() {
        let case = one(json!({
            "key": {
                "id": "key_9", "account": "org_1", "mode": "live", "kind": "k", "origin": "o",
                "created_at": "1970-01-01T00:00:01Z", "ends_at": "1970-01-01T00:00:02Z",
                "restored_at": "1970-01-01T00:00:03Z", "money_moved_at": "1970-01-01T00:00:04Z",
                "permissions": "write read", "connect_permissions": "b a",
                "ipv4_nets": ["192.0.2.7", "198.51.100.9/24"], "attributes": { "b": "2", "a": "1" },
            },
            "accounts": [{ "id": "acct_2", "organization": "org_1", "platform": "acct_1" }],
            "request": {
                "method": "POST", "path": "/a", "presents": "malformed", "prefix": "x_",
                "source": "::ffff:192.0.2.9", "context": "c", "account": "a", "api_version": "v",
                "allow_unlisted": true,
            },
        }));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = Key {
            id: "key_9".to_owned(),
            account: "org_1".to_owned(),
            mode: Mode::Live,
            kind: "k".to_owned(),
            origin: "o".to_owned(),
            created_at: 1,
            ends_at: Some(2),
            restored_at: Some(3),
            money_moved_at: Some(4),
            permissions: "read write".to_owned(),
            connect_permissions: "a b".to_owned(),
            ipv4_nets: vec![
                Net { address: 0xc000_0207, prefix_length: 32 },
                Net { address: 0xc633_6400, prefix_length: 24 },
            ],
            attributes: vec![pair("a", "1"), pair("b", "2")],
        };
        assert_eq!(case.key, Some(expected));
        let account = Account {
            id: "acct_2".to_owned(),
            organization: Some("org_1".to_owned()),
            platform: Some("acct_1".to_owned()),
        };
        assert_eq!(case.accounts, [account]);
        let request = Request {
            credential: Credential::Malformed(PresentedCredential {
                prefix: "x_",
                masked: "x_********",
            }),
            method: "POST",
            path: "/a",
            source: crate::engine::contract::Source::Ipv4(0xc000_0209),
            context: Some("c"),
            account: Some("a"),
            api_version: Some("v"),
            now: NOW,
            attributes: &[("allow-unlisted", "yes")],
        };
        assert_eq!(case.request(), request);
    }

    #[track_caller]
    fn check_unreadable(section: &str, says: &str) {
        let why = read(section.as_bytes()).unwrap_err().to_string();
        assert!(why.contains(says), "`{says}` is not in: {why}");
        assert!(!why.contains('\n') && why.chars().count() < 300, "{why}");
    }

    #[test]
    fn what_is_not_written_as_cases_are_is_refused_with_a_sentence() {
        for (section, says) in [
            ("", "the policy's cases cannot be read: EOF"),
            ("{}", "expected a sequence"),
            ("[] []", "trailing characters"),
            ("[1]", "expected struct"),
            ("[{}]", "missing field `name`"),
            ("\u{feff}[]", "expected value"),
        ] {
            check_unreadable(section, says);
        }
        let long = "x".repeat(1000);
        for (more, says) in [
            (json!({ "expected": {} }), "unknown field `expected`"),
            (json!({ long.as_str(): {} }), "…"),
            (json!({ "name": "" }), "``: a name has 1 to 100"),
            (json!({ "name": "two\nlines" }), "`two\\nlines`: a name has 1 to 100 characters"),
            (json!({ "name": long }), "a name has"),
            (json!({ "key": {} }), "missing field `kind`"),
            (json!({ "key": { "kind": "a", "mode": "both" } }), "unknown variant `both`"),
            (json!({ "key": { "kind": "a", "secret": "s" } }), "unknown field `secret`"),
            (
                json!({ "key": { "kind": "a", "ipv4_nets": ["::/0"] } }),
                "`it reads`: `::/0` is no IPv4 network",
            ),
            (json!({ "now": 1_893_456_000 }), "expected a timestamp string"),
            (json!({ "now": "1969-12-31T23:59:59Z" }), "a time before 1970"),
            (
                json!({ "request": { "method": "GET", "path": "/", "source": "here" } }),
                "`it reads`: `here` is no address",
            ),
            (json!({ "request": { "path": "/" } }), "missing field `method`"),
            (json!({ "expect": {} }), "expected"),
            (json!({ "expect": { "allow": {}, "deny": { "class": "ended" } } }), "expected"),
            (json!({ "expect": { "deny": {} } }), "missing field `class`"),
            (json!({ "expect": { "deny": { "class": "no" } } }), "unknown variant `no`"),
        ] {
            check_unreadable(&json!([written(more)]).to_string(), says);
        }
    }

    #[test]
    fn there_may_be_so_many_and_no_more() {
        let cases = |count| json!(vec![written(json!({})); count]).to_string();
        assert_eq!(read(cases(MAX_CASES).as_bytes()).unwrap().len(), MAX_CASES);
        let says = "there are 257, and at most 256 are run";
        check_unreadable(&cases(MAX_CASES + 1), says);
    }

    fn grant() -> Grant {
        Grant {
            key: KEY.to_owned(),
            account: "acct_2".to_owned(),
            mode: Mode::Test,
            endpoint: Some("/:id".to_owned()),
            permissions: "read write".to_owned(),
            usage: "use".to_owned(),
            notices: vec!["one".to_owned(), "two".to_owned()],
            attributes: vec![("a".to_owned(), "1".to_owned())],
        }
    }

    fn denial() -> Denial {
        Denial {
            class: DenialClass::Forbidden,
            code: Some("no".to_owned()),
            message: "Not\nyou.".to_owned(),
            param: Some("path".to_owned()),
            missing_permissions: "read write".to_owned(),
            key: None,
            endpoint: None,
        }
    }

    /// Compares a decision with what is expected; empty: they agree.
    #[track_caller]
    fn check(expect: Value, decision: &Decision, says: &str) {
        let judged = one(json!({ "expect": expect })).judge(decision);
        let told = judged.err().map_or(String::new(), |err| err.to_string());
        let expected = match says {
            "" => String::new(),
            says => format!("the policy does not pass its case `it reads`: expected was {says}"),
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn an_expected_grant_is_compared_in_what_it_says() {
        let row = |expect, says| check(json!({ "allow": expect }), &Decision::Allow(grant()), says);
        row(json!({}), "");
        row(
            json!({
                "account": "acct_2", "endpoint": "/:id", "permissions": "write read",
                "usage": "use", "notices": ["one", "two"], "attributes": { "a": "1" },
            }),
            "",
        );
        row(json!({ "account": "a" }), "the account `a`, and there came `acct_2`");
        row(json!({ "endpoint": "/" }), "the endpoint `/`, and there came `/:id`");
        row(json!({ "permissions": "" }), "the permissions ``, and there came `read write`");
        row(json!({ "usage": "" }), "the usage ``, and there came `use`");
        row(json!({ "notices": ["one"] }), "the notices `one`, and there came `one; two`");
        row(json!({ "attributes": {} }), "the attributes ``, and there came `a: 1`");
    }

    #[test]
    fn an_expected_refusal_is_compared_by_class_and_code_and_in_what_it_says() {
        let row = |expect, says| check(json!({ "deny": expect }), &Decision::Deny(denial()), says);
        row(json!({ "class": "forbidden", "code": "no" }), "");
        row(
            json!({
                "class": "forbidden", "code": "no", "param": "path",
                "missing_permissions": "write read",
            }),
            "",
        );
        row(
            json!({ "class": "forbidden" }),
            "the refusal `forbidden, without a code`, and there came `forbidden: no`",
        );
        row(
            json!({ "class": "not_found", "code": "no" }),
            "the refusal `not_found: no`, and there came `forbidden: no`",
        );
        let said = |more: Value| {
            let mut expect = json!({ "class": "forbidden", "code": "no" });
            expect.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            expect
        };
        row(said(json!({ "param": "" })), "the parameter ``, and there came `path`");
        row(
            said(json!({ "missing_permissions": "read" })),
            "the missing permissions `read`, and there came `read write`",
        );
    }

    #[test]
    fn yes_for_no_and_no_for_yes_are_told() {
        check(
            json!({ "deny": { "class": "rate_limited" } }),
            &Decision::Allow(grant()),
            "a refusal with the class `rate_limited` and no code, and there came that the request \
             is let through",
        );
        check(
            json!({ "allow": {} }),
            &Decision::Deny(denial()),
            "that the request is let through, and there came a refusal with the class `forbidden` \
             and the code `no`: Not\\nyou.",
        );
    }
}
