//! What is done to the host itself, at its socket.

use std::{path::PathBuf, sync::Arc};

use axum::{Extension, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Asked, to_its_end};
use crate::{api::Json, data_dir::DataDir, error::ApiError, host::Host};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackUp {
    /// The file to write, which must not be there.
    to: PathBuf,
}

pub(super) async fn back_up(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Json(wanted): Json<BackUp>,
) -> Result<axum::Json<Value>, ApiError> {
    to_its_end(async move {
        let now = host.clock.now();
        host.keys.note(&ask, "host.backed_up", json!({ "to": wanted.to })).await?;
        host.storage.back_up(&wanted.to, now).await?;
        Ok(axum::Json(json!({
            "object": "backup",
            "to": wanted.to,
            "created": crate::keys::timestamp(now),
        })))
    })
    .await
}

pub(super) async fn replace_key_encryption_key(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Extension(data_dir): Extension<Arc<DataDir>>,
) -> Result<axum::Json<Value>, ApiError> {
    to_its_end(async move {
        let resealed = host.keys.replace_key_encryption_key(&ask, &data_dir).await?;
        Ok(axum::Json(json!({
            "object": "key_encryption_key_replacement",
            "secrets_resealed": resealed,
        })))
    })
    .await
}
