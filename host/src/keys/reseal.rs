//! Replacing the key-encryption key while the host runs.

use serde_json::json;

use super::{Keys, ask::Ask};
use crate::{data_dir::DataDir, error::ApiError};

/// How many secrets are sealed anew in one transaction: a few milliseconds of
/// the thread that writes.
const BATCH: usize = 500;

impl Keys {
    /// Seals every secret under a new key-encryption key, and puts that in the
    /// place of the old one. Goes on where an earlier try was cut off: until the
    /// end both keys are there, and every secret opens under one of them.
    ///
    /// Returns how many secrets were sealed anew.
    ///
    /// # Errors
    ///
    /// If a part of the host failed, or a secret is sealed under neither key.
    /// The old key is still there then.
    pub async fn replace_key_encryption_key(
        &self,
        ask: &Ask,
        data_dir: &DataDir,
    ) -> Result<usize, ApiError> {
        const ACTION: &str = "key_encryption_key.replaced";
        let failed = |err: crate::data_dir::DataDirError| ApiError::Internal(err.into());
        self.vault.seal_under(&data_dir.next_key_encryption_key().map_err(failed)?);
        // What was sealed under the old key and is on its way to storage gets
        // there first: the passes below would miss it.
        drop(self.sealing.write().await);
        let mut resealed = 0;
        // Until there are none: one that was changed meanwhile was passed over.
        loop {
            let changed = self.reseal_all().await?;
            resealed += changed;
            if changed == 0 {
                break;
            }
        }
        self.note(ask, ACTION, json!({ "secrets": resealed })).await?;
        data_dir.finish_key_replacement().map_err(failed)?;
        self.vault.forget_previous();
        Ok(resealed)
    }

    async fn reseal_all(&self) -> Result<usize, ApiError> {
        let mut changed = 0;
        let mut after: Option<String> = None;
        loop {
            let page = self.storage.sealed_secrets(after.as_deref(), BATCH).await?;
            let Some((last, _)) = page.last() else { return Ok(changed) };
            after = Some(last.clone());
            let mut renewed = Vec::new();
            for (key_id, sealed) in page {
                if let Some(anew) = self.vault.reseal(&key_id, &sealed)? {
                    renewed.push((key_id, sealed, anew));
                }
            }
            changed += renewed.len();
            if !renewed.is_empty() {
                self.storage.replace_sealed_secrets(renewed).await?;
            }
        }
    }
}
