//! `wardkey policies keygen` and `sign`: where policies are built, without a host.
//! And what a push makes of that.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::{Exit, print, read};
use crate::{
    engine::MAX_COMPONENT_BYTES,
    policies::{MAX_REVISION, check_text},
    secret::Digest,
    secret_file::unfinished,
    trust::{PolicySigner, SignatureFileError, Signed},
};

#[derive(Args, Debug)]
pub(in crate::cli) struct KeygenArgs {
    /// The file for the private key. It must not be there yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct SignArgs {
    /// The component.
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// The file with the private key, as `wardkey policies keygen` writes it.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// What to call the policy. Hosts know it under no other name.
    #[arg(long)]
    name: String,
    /// A number that goes up with every release.
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=MAX_REVISION))]
    revision: u64,
    /// The file for the signature [default: FILE.wasm.sig]. One that is there is
    /// replaced, anything else is not.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn keygen(args: &KeygenArgs) -> Result<Exit> {
    let signer = PolicySigner::generate();
    signer.save(&args.out)?;
    print::note(format_args!(
        "The private key is in `{}`. Keep it where policies are built, and off the hosts: whoever \
         has it decides what they run. The public key, for --policy-key:",
        args.out.display()
    ));
    print::line(signer.key())?;
    Ok(Exit::Fine)
}

pub(super) fn sign(args: &SignArgs) -> Result<Exit> {
    check_text("name", &args.name).context("--name")?;
    let signer = PolicySigner::load(&args.key)?;
    let bytes = read(&args.file)?;
    // Only so much of it was read.
    if bytes.len() > MAX_COMPONENT_BYTES {
        bail!(
            "`{}` has more than the {MAX_COMPONENT_BYTES} bytes of a policy",
            args.file.display()
        );
    }
    let signed = signer.sign(Digest::of_bytes(&bytes), &args.name, args.revision);
    let out = args.out.clone().unwrap_or_else(|| Signed::beside(&args.file));
    write(&out, &signed)?;
    print::field("name", &signed.name)?;
    print::field("revision", signed.revision)?;
    print::field("digest", signed.digest.to_hex())?;
    print::field("key", signed.key)?;
    print::field("signature in", out.display())?;
    Ok(Exit::Fine)
}

/// Writes a signature, over an older one or where nothing is. What is neither was
/// meant to be something else.
fn write(out: &Path, signed: &Signed) -> Result<()> {
    match Signed::read(out) {
        Ok(_) => {}
        Err(SignatureFileError::Unavailable { source, .. })
            if source.kind() == ErrorKind::NotFound => {}
        Err(err) => return Err(err).context("what is there is not replaced by a signature"),
    }
    // Whoever watches the file never reads half of it.
    let unfinished = unfinished(out);
    fs::write(&unfinished, format!("{signed}\n"))
        .and_then(|()| fs::rename(&unfinished, out))
        .with_context(|| format!("writing the signature `{}`", out.display()))
}

/// Reads a signature, and says early if it is not for this component.
pub(super) fn read_signature(file: &Path, component: &[u8]) -> Result<Signed> {
    let signed = Signed::read(file)?;
    signed
        .check(Digest::of_bytes(component))
        .with_context(|| format!("the signature `{}` is not sent", file.display()))?;
    Ok(signed)
}

/// Returns the name and the revision to push: what was signed, if anything was. To
/// say something else would be to send what no host takes.
pub(super) fn said(
    name: Option<String>,
    revision: Option<u64>,
    signed: Option<&Signed>,
) -> Result<(Option<String>, Option<u64>)> {
    let Some(signed) = signed else { return Ok((name, revision)) };
    if let Some(name) = &name
        && *name != signed.name
    {
        bail!("--name `{name}` is not what was signed, which is `{}`: leave it out", signed.name);
    }
    if let Some(revision) = revision
        && revision != signed.revision
    {
        bail!(
            "--revision {revision} is not what was signed, which is {}: leave it out",
            signed.revision
        );
    }
    Ok((Some(signed.name.clone()), Some(signed.revision)))
}
