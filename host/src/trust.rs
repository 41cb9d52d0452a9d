//! Whose policies a host runs, and which: signatures, and what its operator
//! demands beside them.
//!
//! A signature is made where policies are built, with a key that no host has
//! ([`PolicySigner`]), and goes with the component as a small file of its own
//! ([`Signed`]). A host has public keys ([`PolicyKey`]), and [`Trust`] says what it
//! demands by them.
//!
//! What is signed is a text of four lines, each of which ends with a line feed:
//!
//! ```text
//! wardkey policy v1
//! <the SHA-256 digest of the component: 64 lower-case hexadecimal digits>
//! <the revision: decimal digits, without leading zeros>
//! <the name: 1 to 100 visible ASCII characters or spaces>
//! ```
//!
//! The signature is Ed25519 as in RFC 8032, without context and prehash, of these
//! bytes. The version of a policy is not signed: it is a word for people, and
//! nothing depends on it.
//!
//! # Invariants
//!
//! - Where there is a key, a component without a good signature is not even
//!   parsed: not when it is pushed, nor when it is put in force, nor at the start.
//! - What the operator demands comes from the configuration. Nothing in the
//!   database can overrule it, and what is there is checked each time that it is
//!   read to decide.

use std::{fmt, str::FromStr};

use crate::{active_policy::STANDARD_POLICY, secret::Digest, storage::PolicyRecord};

mod key;
mod signed;

use self::signed::{SIGNATURE_BYTES, statement};
pub use self::{
    key::{MalformedKey, PolicyKey, PolicySigner},
    signed::{MalformedSignature, PolicySignature, SignatureFileError, Signed, SignedError},
};

/// A policy and the overlays that must stand on it, in their order: the digests of
/// all of them. Its text is `SHA256[+SHA256…]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredStack {
    /// The policy.
    pub base: Digest,
    /// What stands on it.
    pub overlays: Vec<Digest>,
}

impl fmt::Display for RequiredStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base.to_hex())?;
        self.overlays.iter().try_for_each(|overlay| write!(f, "+{}", overlay.to_hex()))
    }
}

/// A text that is no stack of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write the whole digest of the policy, 64 hexadecimal digits, and behind a `+` each those of \
     the overlays on it, in their order"
)]
pub struct MalformedStack;

impl FromStr for RequiredStack {
    type Err = MalformedStack;

    fn from_str(text: &str) -> Result<Self, MalformedStack> {
        let mut digests = text.split('+').map(|hex| Digest::from_hex(hex).ok_or(MalformedStack));
        let base = digests.next().ok_or(MalformedStack)??;
        Ok(Self { base, overlays: digests.collect::<Result<_, _>>()? })
    }
}

/// What the operator demands of the policies that a host runs. By default,
/// nothing.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Whose signature a policy needs: that of one of these, so that a new key can
    /// be there before the old one goes. None: policies need no signature.
    pub keys: Vec<PolicyKey>,
    /// The lowest revision of a policy that may be put in force, also by a rollback.
    /// It is not that of the overlays on it.
    pub min_revision: u64,
    /// What may be in force. None: anything.
    pub required: Vec<RequiredStack>,
}

/// Why a policy may not be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// It has no signature.
    #[error(
        "the policy `{}` is not signed, and this host runs what is signed with a key of \
         `--policy-key`: sign it with `wardkey policies sign`, and push it with `--signature`",
        digest.to_hex()
    )]
    Unsigned {
        /// The policy.
        digest: Digest,
    },
    /// It has one that is not for this, or not by a known key.
    #[error(
        "the signature of the policy `{}` is not good for the name `{name}` and revision \
         {revision} with any key of `--policy-key`: sign these bytes under this name and revision \
         with one of them",
        digest.to_hex()
    )]
    BadSignature {
        /// The policy.
        digest: Digest,
        /// What it is said to be called.
        name: String,
        /// Which revision it is said to be.
        revision: u64,
    },
    /// It is too old, whatever was in force.
    #[error(
        "the policy is revision {revision}, and this host was started with `--min-revision \
         {min_revision}`: put a newer one in force"
    )]
    TooOld {
        /// Its revision.
        revision: u64,
        /// The lowest that is allowed.
        min_revision: u64,
    },
    /// It is none of those that may be in force.
    #[error(
        "`{stack}` is not what this host was started to run by `--require-policy`: put that in \
         force, or start it with another one"
    )]
    NotRequired {
        /// What it is.
        stack: RequiredStack,
    },
    /// Any of these, of what is in force by what is stored.
    #[error(
        "what is stored as being in force is refused: {0}. Nothing else is run in its place. To \
         get out of this, start with `--policy FILE.wasm`, a file that is allowed, and have \
         `wardkey policies rollback` go back to the last that is stored and allowed, or to the one \
         that `--to DIGEST` names, for the next start without that file"
    )]
    Stored(Box<TrustError>),
}

impl Trust {
    /// Checks the signature of a policy, by the digest of its bytes.
    ///
    /// # Errors
    ///
    /// Where there are keys, if none of them has signed this.
    pub fn check_signature(
        &self,
        digest: Digest,
        name: &str,
        revision: u64,
        signature: Option<&[u8; SIGNATURE_BYTES]>,
    ) -> Result<(), TrustError> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let signature = signature.ok_or(TrustError::Unsigned { digest })?;
        match self.signer(digest, name, revision, signature) {
            Some(_) => Ok(()),
            None => Err(TrustError::BadSignature { digest, name: name.to_owned(), revision }),
        }
    }

    /// Returns which of the keys has signed this, if one has.
    fn signer(
        &self,
        digest: Digest,
        name: &str,
        revision: u64,
        signature: &[u8; SIGNATURE_BYTES],
    ) -> Option<PolicyKey> {
        let statement = statement(digest, name, revision);
        self.keys.iter().find(|key| key.has_signed(&statement, signature)).copied()
    }

    /// Checks what is to decide: a policy, and the overlays on it in their order.
    ///
    /// # Errors
    ///
    /// If it is too old, or none of those that are required.
    pub fn check_stack(
        &self,
        base: Digest,
        base_revision: u64,
        overlays: &[Digest],
    ) -> Result<(), TrustError> {
        if base_revision < self.min_revision {
            let (revision, min_revision) = (base_revision, self.min_revision);
            return Err(TrustError::TooOld { revision, min_revision });
        }
        self.check_required(base, overlays)
    }

    /// Checks a file that the host is started with, by the digest of its bytes.
    /// Without a signature nothing says which revision it is, and it comes from
    /// whoever configures the host: only what is required holds for it then.
    ///
    /// # Errors
    ///
    /// If it may not be run.
    pub fn check_file(&self, digest: Digest, signed: Option<&Signed>) -> Result<(), TrustError> {
        if self.keys.is_empty() {
            return self.check_required(digest, &[]);
        }
        let Signed { name, revision, signature, .. } =
            signed.ok_or(TrustError::Unsigned { digest })?;
        self.check_signature(digest, name, *revision, Some(signature.as_bytes()))?;
        self.check_stack(digest, *revision, &[])
    }

    /// Checks what is to decide as it is stored: a policy, and the overlays on it in
    /// their order.
    ///
    /// # Errors
    ///
    /// If it may not be run.
    pub fn check(
        &self,
        policy: &PolicyRecord,
        overlays: &[PolicyRecord],
    ) -> Result<(), TrustError> {
        let revision = self.check_stored(policy)?;
        for overlay in overlays {
            self.check_stored(overlay)?;
        }
        let overlays: Vec<Digest> = overlays.iter().map(|overlay| overlay.digest).collect();
        self.check_stack(policy.digest, revision, &overlays)
    }

    /// Checks the signature of a policy as it is stored, which says nothing else of
    /// it that would be believed. Returns the revision that it counts as.
    ///
    /// # Errors
    ///
    /// If it is missing or wrong.
    pub fn check_stored(&self, record: &PolicyRecord) -> Result<u64, TrustError> {
        let PolicyRecord { digest, name, revision, signature, .. } = record;
        match self.check_signature(*digest, name, *revision, signature.as_ref()) {
            Ok(()) => Ok(*revision),
            // A part of the host needs nobody to vouch for it, whatever storage
            // says of it.
            Err(_) if *digest == Digest::of_bytes(STANDARD_POLICY) => Ok(0),
            Err(err) => Err(err),
        }
    }

    /// Tells whether a policy that is kept gets the signature that has come for it
    /// now, which is good: where it has no good one, and where the same was signed
    /// with another key, as when keys are replaced. Without keys, no signature is
    /// better than another.
    pub fn is_better(
        &self,
        kept: &PolicyRecord,
        name: &str,
        revision: u64,
        signature: &[u8; SIGNATURE_BYTES],
    ) -> bool {
        match self.signer_of(kept) {
            Some(_) => {
                let is_same = kept.name == name && kept.revision == revision;
                is_same && kept.signature.as_ref() != Some(signature)
            }
            None => !self.keys.is_empty() || kept.signature.is_none(),
        }
    }

    /// Returns which of the keys has signed a stored policy, if one has.
    pub fn signer_of(&self, record: &PolicyRecord) -> Option<PolicyKey> {
        let PolicyRecord { digest, name, revision, signature, .. } = record;
        self.signer(*digest, name, *revision, signature.as_ref()?)
    }

    fn check_required(&self, base: Digest, overlays: &[Digest]) -> Result<(), TrustError> {
        let is_this = |stack: &RequiredStack| stack.base == base && stack.overlays == overlays;
        if self.required.is_empty() || self.required.iter().any(is_this) {
            return Ok(());
        }
        let stack = RequiredStack { base, overlays: overlays.to_vec() };
        Err(TrustError::NotRequired { stack })
    }
}

#[cfg(test)]
mod tests {
    use super::{key::tests::signer, *};

    const BYTES: &[u8] = b"a component";

    fn digest() -> Digest {
        Digest::of_bytes(BYTES)
    }

    fn record(
        bytes: &[u8],
        name: &str,
        revision: u64,
        signature: Option<[u8; SIGNATURE_BYTES]>,
    ) -> PolicyRecord {
        PolicyRecord {
            digest: Digest::of_bytes(bytes),
            name: name.to_owned(),
            version: "1".to_owned(),
            revision,
            interfaces: "authorizer".to_owned(),
            size_bytes: bytes.len() as u64,
            pushed_at: 1,
            pushed_by: "operator".to_owned(),
            signature,
            retired_at: None,
        }
    }

    fn trusting(keys: &[PolicyKey]) -> Trust {
        Trust { keys: keys.to_vec(), ..Trust::default() }
    }

    fn describe(result: Result<(), TrustError>) -> &'static str {
        match result {
            Ok(()) => "ok",
            Err(TrustError::Unsigned { .. }) => "unsigned",
            Err(TrustError::BadSignature { .. }) => "bad signature",
            Err(TrustError::TooOld { .. }) => "too old",
            Err(TrustError::NotRequired { .. }) => "not required",
            Err(TrustError::Stored(_)) => "stored",
        }
    }

    #[test]
    fn a_signature_is_good_for_what_was_signed_and_nothing_else() {
        let (us, them) = (signer(7).key(), signer(8).key());
        let Signed { signature, .. } = signer(7).sign(digest(), "rules", 7);
        let good = *signature.as_bytes();
        let other = Digest::of_bytes(b"another component");
        // Each of these changes one thing.
        let rows = [
            ("nothing", &[us][..], digest(), "rules", 7, Some(good), "ok"),
            ("the component", &[us], other, "rules", 7, Some(good), "bad signature"),
            ("the name", &[us], digest(), "Rules", 7, Some(good), "bad signature"),
            ("the name's end", &[us], digest(), "rules ", 7, Some(good), "bad signature"),
            ("a line more", &[us], digest(), "rules\n", 7, Some(good), "bad signature"),
            ("no name", &[us], digest(), "", 7, Some(good), "bad signature"),
            ("a higher revision", &[us], digest(), "rules", 8, Some(good), "bad signature"),
            ("a lower revision", &[us], digest(), "rules", 6, Some(good), "bad signature"),
            ("another digit", &[us], digest(), "rules", 70, Some(good), "bad signature"),
            ("the key", &[them], digest(), "rules", 7, Some(good), "bad signature"),
            ("no signature", &[us], digest(), "rules", 7, None, "unsigned"),
            ("zeros", &[us], digest(), "rules", 7, Some([0; 64]), "bad signature"),
            // Keys are replaced one after the other.
            ("a key more", &[us, them], digest(), "rules", 7, Some(good), "ok"),
            ("a key before it", &[them, us], digest(), "rules", 7, Some(good), "ok"),
            ("no key", &[], digest(), "rules", 7, Some(good), "ok"),
            ("no key and no signature", &[], digest(), "rules", 7, None, "ok"),
        ];
        for (name, keys, digest, called, revision, signature, expected) in rows {
            let trust = trusting(keys);
            let checked = trust.check_signature(digest, called, revision, signature.as_ref());
            assert_eq!(describe(checked), expected, "{name}");
        }
        for bit in 0..SIGNATURE_BYTES * 8 {
            let mut changed = good;
            changed[bit / 8] ^= 1 << (bit % 8);
            let checked = trusting(&[us]).check_signature(digest(), "rules", 7, Some(&changed));
            assert_eq!(describe(checked), "bad signature", "bit {bit}");
        }
        assert_eq!(trusting(&[them, us]).signer(digest(), "rules", 7, &good), Some(us));
        assert_eq!(trusting(&[them]).signer(digest(), "rules", 7, &good), None);
    }

    /// The digest and the revision have a fixed form, and the name is the last: no
    /// two statements are the same text.
    #[test]
    fn a_name_cannot_pass_for_another_revision() {
        let Signed { signature, .. } = signer(7).sign(digest(), "1\nrules", 1);
        let trust = trusting(&[signer(7).key()]);
        let hex = digest().to_hex();
        for (name, revision) in [("rules", 11), ("rules", 1), ("1 rules", 1), (&hex, 1)] {
            let checked =
                trust.check_signature(digest(), name, revision, Some(signature.as_bytes()));
            assert_eq!(describe(checked), "bad signature", "{name}");
        }
    }

    #[test]
    fn a_stack_is_new_enough_and_one_of_those_that_are_required() {
        let [a, b, c] = ["a", "b", "c"].map(Digest::of);
        let all =
            |digests: &[Digest]| digests.iter().map(Digest::to_hex).collect::<Vec<_>>().join("+");
        let rows = [
            // What is required, from which revision on; what there is.
            (&[][..], 0, a, 0, &[][..], "ok"),
            (&[], 0, a, 0, &[b], "ok"),
            (&[], 7, a, 6, &[], "too old"),
            (&[], 7, a, 7, &[], "ok"),
            (&[], u64::MAX, a, u64::MAX, &[], "ok"),
            (&[all(&[a])], 0, a, 0, &[], "ok"),
            (&[all(&[a])], 0, b, 0, &[], "not required"),
            (&[all(&[a])], 0, a, 0, &[b], "not required"),
            (&[all(&[a])], 1, a, 0, &[], "too old"),
            (&[all(&[a, b])], 0, a, 0, &[b], "ok"),
            (&[all(&[a, b])], 0, a, 0, &[], "not required"),
            (&[all(&[a, b])], 0, b, 0, &[a], "not required"),
            (&[all(&[a, b, c])], 0, a, 0, &[b, c], "ok"),
            (&[all(&[a, b, c])], 0, a, 0, &[c, b], "not required"),
            (&[all(&[a, b, c])], 0, a, 0, &[b], "not required"),
            (&[all(&[a]), all(&[b, c])], 0, a, 0, &[], "ok"),
            (&[all(&[a]), all(&[b, c])], 0, b, 0, &[c], "ok"),
            (&[all(&[a]), all(&[b, c])], 0, b, 0, &[], "not required"),
            (&[all(&[a]), all(&[b, c])], 0, a, 0, &[c], "not required"),
        ];
        for (row, (required, min_revision, base, revision, overlays, expected)) in
            rows.into_iter().enumerate()
        {
            let required = required.iter().map(|text| text.parse().unwrap()).collect();
            let trust = Trust { required, min_revision, ..Trust::default() };
            let checked = trust.check_stack(base, revision, overlays);
            assert_eq!(describe(checked), expected, "row {row}");
        }
    }

    #[test]
    fn a_file_needs_its_signature_where_there_is_a_key() {
        let trust = |keys: &[PolicyKey], min_revision, required: &[Digest]| Trust {
            min_revision,
            required: required.iter().map(|digest| digest.to_hex().parse().unwrap()).collect(),
            ..trusting(keys)
        };
        let us = &[signer(7).key()][..];
        let signed = signer(7).sign(digest(), "rules", 7);
        let renamed = Signed { name: "other".to_owned(), ..signed.clone() };
        let theirs = signer(8).sign(digest(), "rules", 7);
        let (ours, other) = (&[digest()][..], &[Digest::of("another")][..]);
        for (name, trust, signed, expected) in [
            ("nothing is demanded", trust(&[], 0, &[]), None, "ok"),
            // It has no revision, and whoever names it could lower the limit.
            ("a limit", trust(&[], 9, &[]), None, "ok"),
            ("a limit, signed for nobody", trust(&[], 9, &[]), Some(&signed), "ok"),
            ("required", trust(&[], 9, ours), None, "ok"),
            ("another is required", trust(&[], 0, other), None, "not required"),
            ("unsigned", trust(us, 0, &[]), None, "unsigned"),
            ("signed", trust(us, 7, ours), Some(&signed), "ok"),
            ("signed and renamed", trust(us, 0, &[]), Some(&renamed), "bad signature"),
            ("signed by others", trust(us, 0, &[]), Some(&theirs), "bad signature"),
            ("signed and old", trust(us, 8, ours), Some(&signed), "too old"),
            ("signed and another", trust(us, 7, other), Some(&signed), "not required"),
        ] {
            assert_eq!(describe(trust.check_file(digest(), signed)), expected, "{name}");
        }
    }

    #[test]
    fn stacks_are_whole_digests_with_plus_signs_between() {
        let [a, b, c] = ["a", "b", "c"].map(|text| Digest::of(text).to_hex());
        for text in [a.clone(), format!("{a}+{b}"), format!("{a}+{b}+{c}"), format!("{a}+{a}")] {
            let stack: RequiredStack = text.parse().unwrap();
            assert_eq!(stack.to_string(), text);
            assert_eq!(stack.overlays.len(), text.matches('+').count());
        }
        let short = &a[..63];
        for text in
            ["", "+", short, "standard", &format!("{a}+"), &format!("+{a}"), &format!("{a}++{b}")]
        {
            assert_eq!(text.parse::<RequiredStack>(), Err(MalformedStack), "{text}");
        }
        for text in [format!("{a} + {b}"), format!("{a},{b}"), format!("{a}+{short}")] {
            assert_eq!(text.parse::<RequiredStack>(), Err(MalformedStack), "{text}");
        }
    }

    #[test]
    fn a_stored_policy_counts_as_what_was_signed_and_the_standard_one_as_0() {
        let sign = |bytes: &[u8]| {
            let signed = signer(7).sign(Digest::of_bytes(bytes), "rules", 7);
            Some(*signed.signature.as_bytes())
        };
        let (ours, standard) = (sign(BYTES), sign(STANDARD_POLICY));
        let trust = trusting(&[signer(7).key()]);
        let signed = record(BYTES, "rules", 7, ours);
        for (name, record, expected) in [
            ("signed", record(BYTES, "rules", 7, ours), Ok(7)),
            ("renamed", record(BYTES, "Rules", 7, ours), Err("bad signature")),
            ("newer", record(BYTES, "rules", 8, ours), Err("bad signature")),
            ("unsigned", record(BYTES, "rules", 7, None), Err("unsigned")),
            ("other bytes", record(b"other", "rules", 7, ours), Err("bad signature")),
            ("the standard one", record(STANDARD_POLICY, "s", 9, None), Ok(0)),
            ("the same, signed", record(STANDARD_POLICY, "rules", 7, standard), Ok(7)),
            ("called like it", record(BYTES, "standard", 0, None), Err("unsigned")),
        ] {
            let checked = trust.check_stored(&record);
            assert_eq!(checked.map_err(|err| describe(Err(err))), expected, "{name}");
            assert_eq!(Trust::default().check_stored(&record), Ok(record.revision), "{name}");
            // Whatever it stands on, and whatever stands on it.
            let refused = expected.err().unwrap_or("ok");
            let overlays = [signed.clone(), record.clone()];
            assert_eq!(describe(trust.check(&signed, &overlays)), refused, "{name} on another");
            assert_eq!(
                describe(trust.check(&record, std::slice::from_ref(&signed))),
                refused,
                "{name} under another"
            );
        }
        let trust = Trust { min_revision: 7, ..trust };
        let standard = record(STANDARD_POLICY, "s", 9, None);
        assert_eq!(describe(trust.check(&standard, &[])), "too old");
        // What an overlay allows is not more than what it stands on does.
        assert_eq!(describe(trust.check(&signed, &[standard])), "ok");
        let required = |stack: String| Trust {
            required: vec![stack.parse().unwrap()],
            ..trusting(&[signer(7).key()])
        };
        let (this, other) = (signed.digest.to_hex(), Digest::of("other").to_hex());
        for (stack, expected) in [
            (this.clone(), "not required"),
            (format!("{this}+{this}"), "ok"),
            (format!("{this}+{other}"), "not required"),
        ] {
            let trust = required(stack);
            assert_eq!(describe(trust.check(&signed, std::slice::from_ref(&signed))), expected);
        }
    }
}
