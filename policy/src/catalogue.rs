//! The API's endpoints and permissions, from `catalogue.toml`.
//!
//! The tables are made by the build script. What they say is data; what it
//! means is in [`permission`](crate::permission) and
//! [`authorize`](crate::authorize).

use crate::contract::catalogue as wit;

pub use self::wit::Publishable;

include!(concat!(env!("OUT_DIR"), "/catalogue_tables.rs"));

/// A piece of `TEXT`.
#[derive(Clone, Copy)]
struct Span {
    start: u16,
    len: u8,
}

impl Span {
    fn range(self) -> std::ops::Range<usize> {
        let start = usize::from(self.start);
        start..start + usize::from(self.len)
    }

    // Always there, both: the build script made the span of the text it cuts.

    fn text(self) -> &'static str {
        TEXT.get(self.range()).unwrap_or_default()
    }

    /// To compare by: whether characters are cut does not matter then.
    fn bytes(self) -> &'static [u8] {
        TEXT.as_bytes().get(self.range()).unwrap_or_default()
    }
}

/// A piece of `LISTS`, whose entries are indices into `PERMISSIONS`.
#[derive(Clone, Copy)]
struct Range {
    start: u16,
    len: u8,
}

impl Range {
    fn permissions(self) -> impl Iterator<Item = &'static Permission> {
        let start = usize::from(self.start);
        LISTS
            .get(start..start + usize::from(self.len))
            .unwrap_or_default()
            .iter()
            .filter_map(|&index| PERMISSIONS.get(usize::from(index)))
    }
}

/// A right that can be given to a key.
pub struct Permission {
    name: Span,
    title: Span,
    category: Span,
    implies: Range,
    covered_by: Range,
}

impl Permission {
    /// Returns the permission of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        let index = PERMISSIONS.binary_search_by(|permission| permission.name().cmp(name)).ok()?;
        PERMISSIONS.get(index)
    }

    /// Returns every permission, sorted by name.
    pub fn all() -> &'static [Self] {
        PERMISSIONS
    }

    /// Returns the name, such as `charge_read`.
    pub fn name(&self) -> &'static str {
        self.name.text()
    }

    /// Returns what a person calls it, such as `Charges and Refunds Read`.
    pub fn title(&self) -> &'static str {
        self.title.text()
    }

    /// Returns the heading that it is listed under.
    pub fn category(&self) -> &'static str {
        self.category.text()
    }

    /// Returns the permissions that it includes, itself not among them.
    pub fn implies(&self) -> impl Iterator<Item = &'static Self> {
        self.implies.permissions()
    }

    /// Returns the permissions that include it: itself first, then the others.
    pub fn covered_by(&self) -> impl Iterator<Item = &'static Self> {
        self.covered_by.permissions()
    }
}

/// An endpoint of the API.
pub struct Endpoint {
    method: u8,
    /// Who may call it with a publishable key.
    pub publishable: Publishable,
    /// Whether a key with limited access is kept from it.
    pub money_movement: bool,
    /// Whether it exists in test mode only.
    pub sandbox_only: bool,
    /// Whether any key may call it, whatever its permissions.
    pub any_key: bool,
    permissions: Range,
}

impl Endpoint {
    /// Returns every endpoint, in no order that means anything.
    pub fn all() -> &'static [Self] {
        ENDPOINTS
    }

    /// Returns the permissions that it needs, all of them, sorted by name.
    pub fn permissions(&self) -> impl Iterator<Item = &'static Permission> {
        self.permissions.permissions()
    }

    fn method(&self) -> &'static str {
        METHODS.get(usize::from(self.method)).copied().unwrap_or_default()
    }
}

/// A node of the tree of paths. `parameter` is 0 where there is none, because
/// the root is nobody's child.
struct Node {
    segment: Span,
    children: u16,
    child_count: u8,
    parameter: u16,
    endpoints: u16,
    endpoint_count: u8,
}

impl Node {
    fn literal(&self, segment: &str) -> Option<&'static Self> {
        let start = usize::from(self.children);
        let children = NODES.get(start..start + usize::from(self.child_count))?;
        let index = children
            .binary_search_by(|child| child.segment.bytes().cmp(segment.as_bytes()))
            .ok()?;
        children.get(index)
    }

    fn parameter(&self) -> Option<&'static Self> {
        (self.parameter != 0).then(|| NODES.get(usize::from(self.parameter))).flatten()
    }

    fn endpoint(&self, method: &str) -> Option<&'static Endpoint> {
        let start = usize::from(self.endpoints);
        let end = start + usize::from(self.endpoint_count);
        ENDPOINTS.get(start..end)?.iter().find(|endpoint| endpoint.method() == method)
    }
}

/// An endpoint with the template of its path.
pub struct Found {
    /// The endpoint.
    pub endpoint: &'static Endpoint,
    /// The path's template: `/v1/charges/:id`.
    pub template: String,
}

/// Returns the endpoint that a request reaches.
///
/// A path's literal segments win over parameters, also where a parameter would
/// match further down: `POST /v1/charges/search` is then not found, although
/// there is a `POST /v1/charges/:id`, if the catalogue has a
/// `/v1/charges/search` for any method. Otherwise a method that one reading of
/// the path lacks would be looked up under the other reading.
pub fn find_endpoint(method: &str, path: &str) -> Option<Found> {
    let mut template = String::with_capacity(path.len());
    let node = find_node(NODES.first()?, path.strip_prefix('/')?, &mut template)?;
    Some(Found { endpoint: node.endpoint(method)?, template })
}

/// Descends from `node` along `rest`, and leaves in `template` the way it went.
///
/// It turns back where a literal leads nowhere (`/v1/a/:id/b` for `/v1/a/c/b`
/// when there is also `/v1/a/c`). The depth is that of the catalogue's tree.
fn find_node(node: &'static Node, rest: &str, template: &mut String) -> Option<&'static Node> {
    // By hand: the library's search for a character is made for long texts, and takes
    // some 400 instructions for a segment (measured 2026-11 in the component).
    let (segment, rest) = match rest.bytes().position(|byte| byte == b'/') {
        Some(at) => (rest.get(..at)?, Some(rest.get(at + 1..)?)),
        None => (rest, None),
    };
    if segment.is_empty() {
        return None;
    }
    let before = template.len();
    let choices = [(node.literal(segment), segment), (node.parameter(), ":id")];
    for (child, name) in choices {
        let Some(child) = child else { continue };
        template.push('/');
        template.push_str(name);
        let found = match rest {
            Some(rest) => find_node(child, rest, template),
            None => (child.endpoint_count > 0).then_some(child),
        };
        if found.is_some() {
            return found;
        }
        template.truncate(before);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, path: &str, expected: Option<&str>) {
        let found = find_endpoint(method, path).map(|found| found.template);
        assert_eq!(found.as_deref(), expected, "{method} {path}");
    }

    #[test]
    fn a_path_finds_its_template() {
        check("GET", "/v1/charges", Some("/v1/charges"));
        check("GET", "/v1/charges/ch_1", Some("/v1/charges/:id"));
        check("POST", "/v1/charges/ch_1/capture", Some("/v1/charges/:id/capture"));
        check("GET", "/v1/charges/:id", Some("/v1/charges/:id"));
        check("GET", "/v2/iam/api_keys/self", Some("/v2/iam/api_keys/self"));
    }

    #[test]
    fn a_literal_wins_and_a_dead_end_is_turned_back_from() {
        check("GET", "/v1/charges/search", Some("/v1/charges/search"));
        // There is nothing below the search: it is then an id like any other.
        check("POST", "/v1/charges/search/capture", Some("/v1/charges/:id/capture"));
        // Where the literal has endpoints, a method that it lacks is not looked
        // up under the parameter.
        check("POST", "/v1/charges/search", None);
    }

    #[test]
    fn what_is_no_path_of_the_api_finds_nothing() {
        for path in ["", "/", "//", "v1/charges", "/v1", "/v1/charges/", "/v1//charges", "/v1/x/"] {
            check("GET", path, None);
        }
        check("PUT", "/v1/charges", None);
        check("", "/v1/charges", None);
    }

    #[test]
    fn permissions_are_found_by_their_whole_name() {
        for permission in Permission::all() {
            assert!(Permission::find(permission.name()).is_some(), "{}", permission.name());
            let first = permission.covered_by().next().map(Permission::name);
            assert_eq!(first, Some(permission.name()), "itself comes first");
        }
        for name in ["", "charge", "charge_read ", "CHARGE_READ", "*", "zzz"] {
            assert!(Permission::find(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_span_beyond_the_text_is_empty_and_no_panic() {
        assert_eq!(Span { start: u16::MAX, len: u8::MAX }.text(), "");
        assert_eq!(Range { start: u16::MAX, len: u8::MAX }.permissions().count(), 0);
    }
}
