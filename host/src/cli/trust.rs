//! What `wardkey serve` demands of policies, and the file that it is started with.

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::trust::{PolicyKey, RequiredStack, Signed, Trust};

#[derive(Args, Debug)]
pub(super) struct TrustArgs {
    /// The public key of who signs policies, as `wardkey policies keygen` prints
    /// it: a policy that none of these keys has signed is refused before it is
    /// read. The file of --policy needs its signature beside it, FILE.wasm.sig.
    /// Repeat it, or separate with commas [default: policies need no signature].
    #[arg(long, env = "WARDKEY_POLICY_KEY", value_name = "KEY", value_delimiter = ',')]
    policy_key: Vec<PolicyKey>,
    /// The digest of the policy that may be in force, and no other one, followed
    /// by those of the overlays that must stand on it, in their order. Repeat it,
    /// or separate with commas, where there are several [default: any policy].
    #[arg(
        long,
        env = "WARDKEY_REQUIRE_POLICY",
        value_name = "SHA256[+SHA256...]",
        value_delimiter = ','
    )]
    require_policy: Vec<RequiredStack>,
    /// The lowest revision of a policy that may be in force, also by a rollback; that
    /// of the standard policy is 0, and overlays have none to keep to. A file of
    /// --policy has a revision only where policies are signed.
    #[arg(long, env = "WARDKEY_MIN_REVISION", value_name = "N", default_value_t = 0)]
    min_revision: u64,
}

impl TrustArgs {
    /// Returns what is demanded.
    pub(super) fn trust(&self) -> Trust {
        Trust {
            keys: self.policy_key.clone(),
            min_revision: self.min_revision,
            required: self.require_policy.clone(),
        }
    }
}

/// Reads the signature beside a file, where policies are signed.
pub(super) fn read_signature(trust: &Trust, file: &Path) -> Result<Option<Signed>> {
    if trust.keys.is_empty() {
        return Ok(None);
    }
    let signed = Signed::read(&Signed::beside(file));
    let signed =
        signed.context("--policy-key is set, and the file needs its signature beside it")?;
    Ok(Some(signed))
}
