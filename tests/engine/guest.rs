//! Policies as text: what `authorize` does is written in the test, and the rest
//! of the component is made around it from `wit/`.
//!
//! # Layout
//!
//! The offsets below follow from `wit/types.wit` by the canonical ABI. They are
//! checked by [`honest`], which every test of a hostile policy is measured
//! against: if a field moves, it stops working.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Where a policy writes its answer; a page full of zeros, which would read as
/// "allowed, with an empty grant".
pub(crate) const ANSWER: u32 = 1024;

/// Where a policy has the host write which accounts there are of those that it asked
/// for.
pub(crate) const FOUND: u32 = 2048;

/// Where it writes the list of the one account that it asks for.
const ASKED: u32 = 3072;

/// Where the texts of a policy lie.
const TEXTS: u32 = 4096;

/// A core module: its `authorize` and what stands beside it.
pub(crate) struct Guest {
    /// The instructions of `authorize`. `$request` is the address of the
    /// request, behind which lies its key; the result is that of the answer.
    pub(crate) authorize: String,
    /// Other fields of the module.
    pub(crate) more: String,
    /// The instructions of `cabi_realloc`, by which the host asks for room.
    pub(crate) realloc: String,
    /// Its memory, in pages of 64 KiB.
    pub(crate) pages: u32,
}

impl Guest {
    pub(crate) fn new(authorize: impl Into<String>) -> Self {
        Self {
            authorize: authorize.into(),
            more: String::new(),
            // Hands out what comes next, in steps of eight bytes.
            realloc: "(local $start i32)
                (local.set $start (global.get $free))
                (global.set $free (i32.and
                    (i32.add (i32.add (global.get $free) (local.get $size)) (i32.const 7))
                    (i32.const -8)))
                (local.get $start)"
                .to_owned(),
            pages: 4,
        }
    }

    /// Returns the component.
    pub(crate) fn build(&self) -> Vec<u8> {
        component(&self.module(), include_contract, "authorizer-policy")
    }

    /// Returns the core module's text.
    pub(crate) fn module(&self) -> String {
        let Self { authorize, more, realloc, pages } = self;
        let text: String = TEXT.iter().map(|byte| format!("\\{byte:02x}")).collect();
        format!(
            r#"(module
                (import "wardkey:policy/storage@0.1.0" "find-accounts"
                    (func $find_accounts (param i32 i32 i32)))
                (memory (export "memory") {pages})
                (global $free (mut i32) (i32.const 65536))
                (data (i32.const {TEXTS}) "{text}")
                (func (export "cabi_realloc")
                    (param $old i32) (param $old_size i32) (param $align i32) (param $size i32)
                    (result i32)
                    {realloc})
                (func $authorize (export "wardkey:policy/authorizer@0.1.0#authorize")
                    (param $request i32) (result i32)
                    {authorize})
                {more})"#
        )
    }
}

/// Texts that answers point at.
const TEXT: &[u8] =
    b"no key_another acct_1 x-name Upper wardkey\r\n a\r\nset-cookie:b \xc3\xa9 \xff\xfe account ";

/// Returns address and length of a piece of [`TEXT`].
pub(crate) fn text(piece: impl AsRef<[u8]>) -> (u32, u32) {
    let piece = piece.as_ref();
    let at = TEXT.windows(piece.len()).position(|window| window == piece).unwrap();
    (TEXTS + u32::try_from(at).unwrap(), u32::try_from(piece.len()).unwrap())
}

/// Makes a component of a core module's text and a world.
pub(crate) fn component(module: &str, contract: fn(&mut Resolve), world: &str) -> Vec<u8> {
    let mut bytes = wat::parse_str(module).unwrap_or_else(|err| panic!("{err}\n{module}"));
    let mut resolve = Resolve::default();
    contract(&mut resolve);
    let package = resolve.packages.iter().next().unwrap().0;
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    embed_component_metadata(&mut bytes, &resolve, world, StringEncoding::UTF8).unwrap();
    let mut encoder = ComponentEncoder::default().validate(true).module(&bytes).unwrap();
    encoder.encode().unwrap_or_else(|err| panic!("{err:#}\n{module}"))
}

/// The contract as it is in this repository.
pub(crate) fn include_contract(resolve: &mut Resolve) {
    resolve.push_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../wit")).unwrap();
}

/// The contract with this `lifecycle` in it, and a world `mine` that has it.
pub(crate) fn with_contract(resolve: &mut Resolve, lifecycle: &str) {
    with_world(resolve, lifecycle, "export lifecycle;");
}

/// The contract with another interface in it, and a world `mine` that exports
/// something else besides.
pub(crate) fn with_world(resolve: &mut Resolve, interface: &str, exports: &str) {
    let types = include_str!("../../wit/types.wit");
    let storage = include_str!("../../wit/storage.wit");
    let authorizer = include_str!("../../wit/authorizer.wit");
    let text = format!(
        "package wardkey:policy@0.1.0;
         {types} {storage} {authorizer} {interface}
         @since(version = 0.1.0) world mine {{ import storage; export authorizer; {exports} }}"
    );
    resolve.push_str("mine.wit", &text).unwrap();
}

/// The functions of `lifecycle`, but for `default-keys`: each takes the address
/// of what it is asked, and returns that of its answer.
pub(crate) const ABOUT_KEYS: &[&str] = &[
    "create",
    "import-key",
    "visible",
    "describe",
    "update",
    "expire",
    "rotate",
    "schedule-rotation",
    "cancel-rotation",
    "reveal",
    "restore",
];

// Pieces of `authorize`.

/// Stores a number in the answer.
pub(crate) fn store(offset: u32, value: u32) -> String {
    format!("(i32.store (i32.const {}) (i32.const {value}))\n", ANSWER + offset)
}

/// Stores a piece of [`TEXT`] in the answer.
pub(crate) fn store_text(offset: u32, piece: impl AsRef<[u8]>) -> String {
    let (at, len) = text(piece);
    store(offset, at) + &store(offset + 4, len)
}

/// Returns the answer.
pub(crate) fn answer() -> String {
    format!("(i32.const {ANSWER})")
}

/// A denial: forbidden, with "no" as its message.
pub(crate) fn deny() -> String {
    store(0, 1) + &store(4, 2) + &store_text(20, "no") + &answer()
}

/// Where it lies behind a request whether there is a key.
const HAS_KEY: u32 = 120;

/// Where the fields of the key lie.
const KEY: u32 = 128;

/// Tells a request by the length of its path: no trial has one of more than 30 bytes.
pub(crate) const IS_LONG: &str =
    "(i32.gt_u (i32.load offset=32 (local.get $request)) (i32.const 30))";

/// Asks for an account that there is not: another one for each number below 100.
pub(crate) fn find_account(number: u32) -> String {
    format!(
        "(i32.store (i32.const {ASKED}) (i32.const {id}))
         (i32.store offset=4 (i32.const {ASKED}) (i32.const 2))
         (i32.store (i32.const {id}) (i32.const {letters}))
         (call $find_accounts (i32.const {ASKED}) (i32.const 1) (i32.const {FOUND}))\n",
        id = ASKED + 8,
        letters = two_letters(number),
    )
}

/// Returns two bytes of ASCII as a number, other ones for each number below 100.
pub(crate) fn two_letters(number: u32) -> u32 {
    u32::from_le_bytes([b'0' + (number % 10) as u8, b'a' + (number / 10) as u8, 0, 0])
}

/// Copies eight bytes from the key to the grant.
fn copy(from: u32, to: u32) -> String {
    let (from, to) = (KEY + from, ANSWER + 4 + to);
    format!(
        "(i64.store align=4 (i32.const {to})
            (i64.load offset={from} align=4 (local.get $request)))\n"
    )
}

/// Allows whoever presents a key that there is, as that key, and refuses
/// everybody else. `more` alters the grant.
pub(crate) fn honest_with(more: &str) -> String {
    // Where the key's fields lie, and where the grant's do.
    const ID: u32 = 0;
    const ACCOUNT: u32 = 8;
    const MODE: u32 = 16;
    let copies = copy(ID, ID) + &copy(ACCOUNT, ACCOUNT);
    let mode = format!(
        "(i32.store8 (i32.const {}) (i32.load8_u offset={} (local.get $request)))\n",
        ANSWER + 4 + MODE,
        KEY + MODE
    );
    format!(
        "(if (i32.eqz (i32.load8_u offset={} (local.get $request))) (then (return {})))
         {copies} {mode} {more} {}",
        HAS_KEY,
        block(&deny()),
        answer()
    )
}

pub(crate) fn honest() -> String {
    honest_with("")
}

fn block(body: &str) -> String {
    format!("(block (result i32) {body})")
}

/// Where the fields of a grant lie in an answer.
pub(crate) mod grant {
    pub(crate) const KEY: u32 = 4;
    pub(crate) const ACCOUNT: u32 = 12;
    pub(crate) const MODE: u32 = 20;
    pub(crate) const ENDPOINT: u32 = 24;
    pub(crate) const PERMISSIONS: u32 = 36;
    pub(crate) const NOTICES: u32 = 52;
    pub(crate) const ATTRIBUTES: u32 = 60;
}

/// Where the fields of a denial lie in an answer.
pub(crate) mod denial {
    pub(crate) const CLASS: u32 = 4;
    pub(crate) const CODE: u32 = 8;
    pub(crate) const MESSAGE: u32 = 20;
}

/// Stores a list of one attribute in a grant.
pub(crate) fn attribute(name: &str, value: &str) -> String {
    const ENTRY: u32 = 512;
    let (name, value) = (text(name), text(value));
    let entry = [name.0, name.1, value.0, value.1];
    let mut stores = store(grant::ATTRIBUTES, ANSWER + ENTRY) + &store(grant::ATTRIBUTES + 4, 1);
    for (word, offset) in entry.into_iter().zip([0, 4, 8, 12]) {
        stores.push_str(&store(ENTRY + offset, word));
    }
    stores
}
