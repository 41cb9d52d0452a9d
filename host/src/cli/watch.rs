//! `wardkey serve --policy FILE --watch`: a policy that is being written is in
//! force as soon as it is good.
//!
//! # Invariants
//!
//! - What the file holds is loaded and tried before it is in force. What fails
//!   leaves the one in force alone, so that a file that is half written is no
//!   outage.
//! - What was refused is not tried again until the file holds something else.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::time::{MissedTickBehavior, interval};

use super::policies::read;
use crate::{
    engine::{Engine, Policy},
    host::Host,
    secret::Digest,
    trial::try_policy,
};

/// How often to look.
const PAUSE: Duration = Duration::from_millis(300);

/// What a file holds, as far as it is known.
type Seen = Option<Digest>;

/// Looks at the file again and again, and puts in force what it holds.
pub(super) async fn watch(host: Arc<Host>, engine: Arc<Engine>, file: PathBuf) {
    let mut seen: Seen = Some(host.policy().get().digest());
    let mut ticks = interval(PAUSE);
    // Whoever was held up looks once, and not once for each time missed.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (engine, path, now) = (Arc::clone(&engine), file.clone(), host.clock.now());
        let looked = tokio::task::spawn_blocking(move || look(&engine, &path, seen, now));
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
fn look(engine: &Engine, file: &Path, seen: Seen, now: u64) -> (Seen, Result<Option<Arc<Policy>>>) {
    // By its bytes, and not by its size and time: those of two writes can be
    // the same.
    let bytes = match read(file) {
        Ok(bytes) => bytes,
        // Some tools remove a file before they write it. Told once.
        Err(_) if seen.is_none() => return (None, Ok(None)),
        Err(err) => return (None, Err(err)),
    };
    let digest = Digest::of_bytes(&bytes);
    if seen == Some(digest) {
        return (seen, Ok(None));
    }
    let loaded = load(engine, &bytes, now)
        .with_context(|| format!("the policy `{}` was refused", file.display()));
    (Some(digest), loaded.map(Some))
}

fn load(engine: &Engine, bytes: &[u8], now: u64) -> Result<Arc<Policy>> {
    let policy = Arc::new(engine.load(bytes)?);
    try_policy(&policy, now)?;
    Ok(policy)
}
