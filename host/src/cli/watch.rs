//! `wardkey serve --policy FILE --watch`: a policy that is being written is in
//! force as soon as it is good.
//!
//! # Invariants
//!
//! - What the file holds is loaded and tried before it is in force. What fails
//!   leaves the one in force alone, so that a file that is half written is no
//!   outage.
//! - What was refused is not tried again until the file holds something else, or,
//!   where policies are signed, another signature is beside it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::time::{MissedTickBehavior, interval};

use super::{policies::read, trust::read_signature};
use crate::{
    engine::{Engine, Policy},
    host::Host,
    secret::Digest,
    trial::try_policy,
    trust::{Signed, Trust},
};

/// How often to look.
const PAUSE: Duration = Duration::from_millis(300);

/// What a file holds and which signature is beside it, as far as it is known.
type Seen = Option<(Digest, Option<Signed>)>;

/// Looks at the file again and again, and puts in force what it holds.
pub(super) async fn watch(host: Arc<Host>, engine: Arc<Engine>, trust: Trust, file: PathBuf) {
    let signed = read_signature(&trust, &file).ok().flatten();
    let mut seen: Seen = Some((host.policy().get().digest(), signed));
    let mut ticks = interval(PAUSE);
    // Whoever was held up looks once, and not once for each time missed.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (engine, path, now) = (Arc::clone(&engine), file.clone(), host.clock.now());
        let (trust, seen_before) = (trust.clone(), seen.clone());
        let looked =
            tokio::task::spawn_blocking(move || look(&engine, &trust, &path, seen_before, now));
        let Ok((now_seen, found)) = looked.await else { continue };
        seen = now_seen;
        match found {
            Ok(None) => {}
            Ok(Some(policy)) => {
                let digest = policy.digest().to_hex();
                let before = host.policy().activate(policy).digest().to_hex();
                tracing::info!(%digest, %before, "the policy `{}` is in force", file.display());
            }
            Err(err) => tracing::warn!("{err:#}; what is in force stays"),
        }
    }
}

/// Returns the policy in a file, if it is another than was seen there, and what
/// is seen now.
fn look(
    engine: &Engine,
    trust: &Trust,
    file: &Path,
    seen: Seen,
    now: u64,
) -> (Seen, Result<Option<Arc<Policy>>>) {
    // By its bytes, and not by its size and time: those of two writes can be
    // the same.
    let bytes = match read(file) {
        Ok(bytes) => bytes,
        // Some tools remove a file before they write it. Told once.
        Err(_) if seen.is_none() => return (None, Ok(None)),
        Err(err) => return (None, Err(err)),
    };
    // Whichever of both was written first, the other one makes it good.
    let digest = Digest::of_bytes(&bytes);
    let signed = read_signature(trust, file);
    let found = Some((digest, signed.as_ref().ok().cloned().flatten()));
    if seen == found {
        return (seen, Ok(None));
    }
    let loaded = signed
        .and_then(|signed| Ok(trust.check_file(digest, signed.as_ref())?))
        .and_then(|()| load(engine, &bytes, now))
        .with_context(|| format!("the policy `{}` was refused", file.display()));
    (found, loaded.map(Some))
}

fn load(engine: &Engine, bytes: &[u8], now: u64) -> Result<Arc<Policy>> {
    let policy = Arc::new(engine.load(bytes)?);
    try_policy(&policy, now)?;
    Ok(policy)
}
