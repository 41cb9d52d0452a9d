//! TLS towards mail servers and webhooks: one set of roots, one stack.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};

/// The certificates of the authorities that are trusted.
pub(super) type Roots = Vec<CertificateDer<'static>>;

/// Returns the authorities that the machine trusts.
///
/// # Errors
///
/// A machine without any is refused at start: it would find out with the first
/// code that nobody gets.
pub(super) fn platform_roots() -> Result<Roots> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let Some(err) = found.errors.into_iter().next() else {
            bail!(
                "this machine has no certificates of authorities: install its package \
                 `ca-certificates`, or name a file of them in the variable SSL_CERT_FILE"
            );
        };
        return Err(err).context("reading the certificates of authorities on this machine");
    }
    Ok(found.certs)
}

/// Returns how to speak TLS to servers that one of `roots` stands for.
pub(super) fn client_config(roots: Roots) -> Result<ClientConfig> {
    let mut store = RootCertStore::empty();
    // Machines have an odd one among them, and that must not take away the rest.
    store.add_parsable_certificates(roots);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(config)
}

/// Makes a certificate for a server of a test on this machine, and the roots of
/// those who trust it.
#[cfg(test)]
pub(super) fn self_signed() -> (Roots, Arc<rustls::ServerConfig>) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let chain = vec![made.cert.der().clone()];
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.clone(), key)
        .unwrap();
    (chain, Arc::new(config))
}
