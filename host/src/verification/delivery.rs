//! The ways by which a code reaches a person.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use http::StatusCode;
use tokio::time::timeout;

use super::{message::Message, smtp::Mailer, webhook::Webhook};

/// How long a delivery may take: mail servers look up the sender while we wait,
/// which takes them seconds, and the client waits for us.
pub(super) const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// How codes are delivered.
#[derive(Debug)]
pub enum Delivery {
    /// Not at all: nothing is asked for. For where somebody else confirms.
    None,
    /// To the host's standard error, for development.
    Console,
    /// By mail.
    Smtp(Box<Mailer>),
    /// By a service of the operator's: a chat, a pager, short messages.
    Webhook(Box<Webhook>),
}

impl Delivery {
    /// Sends a code.
    ///
    /// # Errors
    ///
    /// If it is not known to be on its way within [`DELIVERY_TIMEOUT`].
    pub(super) async fn send(&self, message: &Message<'_>) -> Result<(), DeliveryError> {
        let sent = async {
            match self {
                Self::None => Ok(()),
                Self::Console => print(message).await,
                Self::Smtp(mailer) => mailer.send(message).await,
                Self::Webhook(webhook) => webhook.send(message).await,
            }
        };
        timeout(DELIVERY_TIMEOUT, sent).await.map_err(|_| DeliveryError::Slow)?
    }

    /// Returns where codes go, as whoever asks for an operation may know it.
    pub(super) fn sent_to(&self) -> String {
        match self {
            Self::None => "nobody".to_owned(),
            Self::Console => "the host's console".to_owned(),
            Self::Smtp(mailer) => mailer.sent_to(),
            Self::Webhook(_) => "the host's webhook".to_owned(),
        }
    }

    /// Tells the log at start where codes will go, and what is wrong with it.
    pub(super) fn announce(&self) {
        match self {
            Self::None => tracing::warn!(
                "--verification is none: whoever has the operator credential can do everything, \
                 and nobody confirms it"
            ),
            Self::Console => tracing::warn!(
                "--verification is console, the default for development: whoever reads this log \
                 can confirm everything. In production use --verification smtp or webhook"
            ),
            Self::Smtp(mailer) => {
                tracing::info!("verification codes go by mail: {mailer:?}");
                if mailer.is_in_the_clear() {
                    tracing::warn!(
                        "--smtp-url has no TLS: whoever is between this host and the mail server \
                         can read the codes. Add `?tls=required`, or use smtps://"
                    );
                }
            }
            Self::Webhook(webhook) => {
                tracing::info!("verification codes go to a webhook: {webhook:?}");
                if webhook.is_in_the_clear() {
                    tracing::warn!(
                        "--verification-webhook is http:// to another machine: whoever is between \
                         can read the codes. Use https://"
                    );
                }
            }
        }
    }
}

/// Writes to standard error, where it stands between the lines of the log.
async fn print(message: &Message<'_>) -> Result<(), DeliveryError> {
    let text = message.console_text();
    // A terminal may be stopped and a pipe full, and that must stop nobody else.
    tokio::task::spawn_blocking(move || io::stderr().lock().write_all(text.as_bytes()))
        .await
        .unwrap_or_else(|err| Err(io::Error::other(err)))
        .map_err(DeliveryError::Console)
}

/// Why a code did not get through. Never says the code.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// There was no answer in time.
    #[error("delivering a verification code took longer than {} s", DELIVERY_TIMEOUT.as_secs())]
    Slow,
    /// There is nobody to read it.
    #[error("a verification code cannot be written to standard error")]
    Console(#[source] io::Error),
    /// No mail can be made of it.
    #[error("no mail can be made of a verification code")]
    Mail(#[source] lettre::error::Error),
    /// The mail server refused it, or cannot be reached or trusted.
    #[error("the mail server did not take a verification code: {0}")]
    MailServer(String),
    /// The webhook answered otherwise than with a status of success.
    #[error("the webhook for verification codes answered with status {0}")]
    Refused(StatusCode),
    /// The webhook cannot be reached or trusted.
    #[error("the webhook for verification codes did not answer")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Returns an address of which only its owner reads all: `o***@example.com`.
pub(super) fn masked(local: &str, domain: &str) -> String {
    let first: String = local.chars().take(1).collect();
    format!("{first}***@{domain}")
}

/// Whether what is sent to `host` stays on this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_its_first_letter_and_its_domain() {
        for (local, expected) in [
            ("operator", "o***@example.com"),
            ("o", "o***@example.com"),
            ("", "***@example.com"),
            ("émile", "é***@example.com"),
        ] {
            assert_eq!(masked(local, "example.com"), expected);
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (host, expected) in [
            ("localhost", true),
            ("LOCALHOST", true),
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("[::1]", true),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
            ("10.0.0.1", false),
            ("[::2]", false),
            ("", false),
        ] {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }
}
