//! The flags that say how codes are delivered.

use std::{convert::Infallible, fmt, path::PathBuf, str::FromStr};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use lettre::{Address, message::Mailbox};
use zeroize::Zeroizing;

use super::{
    delivery::Delivery,
    smtp::Mailer,
    tls::{Roots, platform_roots},
    webhook::Webhook,
};
use crate::secret_file;

/// The shortest secret of a webhook, in characters: 128 bits in hexadecimal.
const MIN_SECRET_CHARS: usize = 32;

/// How verification codes are delivered.
#[derive(Args, Clone, Debug)]
pub struct VerificationConfig {
    /// How the codes are delivered by which a person confirms dangerous
    /// management operations.
    #[arg(
        long = "verification",
        env = "WARDKEY_VERIFICATION",
        value_name = "DELIVERY",
        default_value = "console"
    )]
    channel: Channel,
    /// Who gets the codes: a mail address, or whatever the webhook makes of it.
    /// Repeat it, or separate with commas.
    #[arg(
        long = "verification-to",
        env = "WARDKEY_VERIFICATION_TO",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    to: Vec<String>,
    /// The mail server, smtps://USER:PASSWORD@HOST or
    /// smtp://USER:PASSWORD@HOST:587?tls=required. A path is the name that we
    /// call ourselves.
    #[arg(long, env = "WARDKEY_SMTP_URL", value_name = "URL", hide_env_values = true)]
    smtp_url: Option<Hidden>,
    /// The file that holds the URL of the mail server, as it holds a password.
    #[arg(long, env = "WARDKEY_SMTP_URL_FILE", value_name = "FILE")]
    smtp_url_file: Option<PathBuf>,
    /// The address that mails come from.
    #[arg(long, env = "WARDKEY_SMTP_FROM", value_name = "ADDRESS")]
    smtp_from: Option<String>,
    /// Where codes are posted to, https://HOST/PATH.
    #[arg(long, env = "WARDKEY_VERIFICATION_WEBHOOK", value_name = "URL", hide_env_values = true)]
    verification_webhook: Option<Hidden>,
    /// The file with the secret that what is posted is signed with.
    #[arg(long, env = "WARDKEY_VERIFICATION_WEBHOOK_SECRET_FILE", value_name = "FILE")]
    verification_webhook_secret_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Channel {
    /// To standard error, for development.
    Console,
    /// By mail.
    Smtp,
    /// By a service of yours.
    Webhook,
    /// Nothing is confirmed.
    None,
}

/// An argument that holds a secret. Never printed; wiped on drop.
#[derive(Clone)]
struct Hidden(Zeroizing<String>);

impl FromStr for Hidden {
    /// Whatever is wrong with it is said later: clap repeats what it refuses.
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(…)")
    }
}

impl VerificationConfig {
    /// Makes what delivers the codes. Reads the files that were named, and
    /// connects to nothing.
    ///
    /// # Errors
    ///
    /// A sentence that names the flag that is missing, too much or wrong. Never
    /// repeats a secret.
    pub fn delivery(&self) -> Result<Delivery> {
        self.delivery_with(platform_roots)
    }

    fn delivery_with(&self, roots: impl FnOnce() -> Result<Roots>) -> Result<Delivery> {
        self.refuse_leftovers()?;
        match self.channel {
            Channel::None => Ok(Delivery::None),
            Channel::Console => Ok(Delivery::Console),
            Channel::Smtp => Ok(Delivery::Smtp(Box::new(self.mailer(roots)?))),
            Channel::Webhook => Ok(Delivery::Webhook(Box::new(self.webhook(roots)?))),
        }
    }

    /// Refuses flags of a delivery that was not chosen: whoever has set them
    /// believes that codes go there.
    fn refuse_leftovers(&self) -> Result<()> {
        let (smtp, webhook) = (Channel::Smtp, Channel::Webhook);
        for (flag, is_set, channels) in [
            ("--verification-to", !self.to.is_empty(), &[smtp, webhook][..]),
            ("--smtp-url", self.smtp_url.is_some(), &[smtp]),
            ("--smtp-url-file", self.smtp_url_file.is_some(), &[smtp]),
            ("--smtp-from", self.smtp_from.is_some(), &[smtp]),
            ("--verification-webhook", self.verification_webhook.is_some(), &[webhook]),
            (
                "--verification-webhook-secret-file",
                self.verification_webhook_secret_file.is_some(),
                &[webhook],
            ),
        ] {
            if is_set && !channels.contains(&self.channel) {
                let names = channels.iter().map(Channel::name).collect::<Vec<_>>().join(" or ");
                bail!(
                    "{flag} is for --verification {names}, but --verification is {}",
                    self.channel.name()
                );
            }
        }
        Ok(())
    }

    fn mailer(&self, roots: impl FnOnce() -> Result<Roots>) -> Result<Mailer> {
        let (flag, url) = match (&self.smtp_url, &self.smtp_url_file) {
            (Some(url), None) => ("--smtp-url", url.0.clone()),
            (None, Some(file)) => {
                let url = secret_file::read(file, "the URL of a mail server");
                ("--smtp-url-file", url.context("--smtp-url-file")?)
            }
            (Some(_), Some(_)) => bail!("--smtp-url and --smtp-url-file exclude each other"),
            (None, None) => bail!("--verification smtp needs --smtp-url or --smtp-url-file"),
        };
        let Some(from) = &self.smtp_from else {
            bail!("--verification smtp needs --smtp-from");
        };
        let from: Mailbox = from
            .parse()
            .with_context(|| format!("--smtp-from `{}` is no mail address", from.escape_debug()))?;
        if self.to.is_empty() {
            bail!("--verification smtp needs --verification-to: who is to get the codes?");
        }
        let parse = |address: &String| {
            address.trim().parse::<Address>().with_context(|| {
                format!("--verification-to `{}` is no mail address", address.escape_debug())
            })
        };
        let to = self.to.iter().map(parse).collect::<Result<_>>()?;
        Mailer::new(&url, from, to, roots).with_context(|| format!("{flag} is not usable"))
    }

    fn webhook(&self, roots: impl FnOnce() -> Result<Roots>) -> Result<Webhook> {
        const FLAG: &str = "--verification-webhook-secret-file";
        let Some(url) = &self.verification_webhook else {
            bail!("--verification webhook needs --verification-webhook");
        };
        let Some(file) = &self.verification_webhook_secret_file else {
            bail!("--verification webhook needs {FLAG}: by it the receiver knows that it is us");
        };
        let secret = secret_file::read(file, "the secret of a webhook").context(FLAG)?;
        if secret.len() < MIN_SECRET_CHARS {
            bail!("the secret in {FLAG} has fewer than {MIN_SECRET_CHARS} characters");
        }
        Webhook::new(&url.0, secret, self.to.clone(), roots)
            .context("--verification-webhook is not usable")
    }
}

impl Channel {
    fn name(&self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Smtp => "smtp",
            Self::Webhook => "webhook",
            Self::None => "none",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::verification::tls::self_signed;

    #[derive(Parser, Debug)]
    struct Program {
        #[command(flatten)]
        config: VerificationConfig,
    }

    /// Files that the flags name: `URL`, `SECRET`, `SHORT` and `OPEN` in them
    /// stand for their paths.
    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let write = |name: &str, text: &str| {
                secret_file::write(&dir.path().join(name), text).unwrap();
            };
            write("url", "smtps://user:hush@mail.example.com");
            write("secret", &"hush".repeat(8));
            write("short", "hush");
            write("open", &"hush".repeat(8));
            #[cfg(unix)]
            {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
                std::fs::set_permissions(dir.path().join("open"), mode).unwrap();
            }
            Self(dir)
        }

        fn parse(&self, flags: &str) -> Result<Program, clap::Error> {
            let path = |name: &str| self.0.path().join(name).display().to_string();
            let flags =
                ["URL", "SECRET", "SHORT", "OPEN"].iter().fold(flags.to_owned(), |flags, name| {
                    flags.replace(&format!("={name}"), &format!("={}", path(&name.to_lowercase())))
                });
            Program::try_parse_from(["wardkey"].into_iter().chain(flags.split_whitespace()))
        }
    }

    #[test]
    fn flags_make_a_delivery_or_a_sentence_that_names_one() {
        let files = Files::new();
        let smtp = "--verification=smtp --smtp-from=w@example.com --verification-to=o@example.com";
        let smtp = |more: &str| format!("{smtp} {more}");
        let webhook = "--verification=webhook --verification-webhook=https://example.com/hush";
        let webhook = |more: &str| format!("{webhook} {more}");
        for (flags, expected) in [
            (String::new(), "Ok Console"),
            ("--verification=console".to_owned(), "Ok Console"),
            ("--verification=none".to_owned(), "Ok None"),
            (smtp("--smtp-url=smtps://user:hush@mail.example.com"), "Ok Smtp"),
            (smtp("--smtp-url-file=URL"), "Ok Smtp"),
            (webhook("--verification-webhook-secret-file=SECRET"), "Ok Webhook"),
            (
                webhook("--verification-webhook-secret-file=SECRET --verification-to=x"),
                "Ok Webhook",
            ),
            // What is missing.
            (smtp(""), "--smtp-url"),
            ("--verification=smtp --smtp-url-file=URL".to_owned(), "--smtp-from"),
            (
                "--verification=smtp --smtp-url-file=URL --smtp-from=w@example.com".to_owned(),
                "--verification-to",
            ),
            ("--verification=webhook".to_owned(), "--verification-webhook"),
            (webhook(""), "--verification-webhook-secret-file"),
            // What contradicts.
            (smtp("--smtp-url=smtp://localhost --smtp-url-file=URL"), "exclude each other"),
            ("--verification-to=o@example.com".to_owned(), "--verification-to is for"),
            ("--smtp-url=smtps://user:hush@localhost".to_owned(), "--smtp-url is for"),
            ("--smtp-url-file=URL".to_owned(), "--smtp-url-file is for"),
            ("--smtp-from=w@example.com".to_owned(), "--smtp-from is for"),
            ("--verification=none --smtp-from=w@example.com".to_owned(), "--smtp-from is for"),
            (
                "--verification=smtp --verification-webhook=https://example.com/hush".to_owned(),
                "--verification-webhook is for",
            ),
            (webhook("--smtp-url=smtp://user:hush@localhost"), "--smtp-url is for"),
            // What is wrong.
            (smtp("--smtp-url=smtp://user:hush@mail.example.com"), "--smtp-url is not usable"),
            (smtp("--smtp-url-file=SECRET"), "--smtp-url-file is not usable"),
            (smtp("--smtp-url-file=OPEN"), "--smtp-url-file"),
            (smtp("--smtp-url-file=URL --verification-to=nobody"), "--verification-to `nobody`"),
            (
                "--verification=smtp --smtp-url-file=URL --smtp-from=nobody".to_owned(),
                "--smtp-from `nobody`",
            ),
            (webhook("--verification-webhook-secret-file=SHORT"), "fewer than 32"),
            (webhook("--verification-webhook-secret-file=OPEN"), "secret-file"),
            (
                "--verification=webhook --verification-webhook=hush \
                 --verification-webhook-secret-file=SECRET"
                    .to_owned(),
                "--verification-webhook is not usable",
            ),
        ] {
            let program = files.parse(&flags).unwrap();
            assert!(!format!("{program:?}").contains("hush"), "{program:?}");
            let found = match program.config.delivery_with(|| Ok(self_signed().0)) {
                Ok(delivery) => format!("Ok {delivery:?}"),
                Err(err) => format!("{err:#}"),
            };
            assert!(found.contains(expected), "{flags}: {found}");
            assert!(!found.contains("hush"), "{flags}: {found}");
            assert_eq!(found.starts_with("Ok"), expected.starts_with("Ok"), "{flags}: {found}");
        }
    }

    #[test]
    fn addresses_are_repeated_or_separated_by_commas() {
        for flags in [
            "--verification-to=a@example.com,b@example.com",
            "--verification-to=a@example.com --verification-to=b@example.com",
        ] {
            let program = Files::new().parse(flags).unwrap();
            assert_eq!(program.config.to, ["a@example.com", "b@example.com"]);
        }
    }

    #[test]
    fn an_unknown_delivery_is_refused_with_those_that_there_are() {
        let err = Files::new().parse("--verification=pigeon").unwrap_err().to_string();
        for name in ["console", "smtp", "webhook", "none"] {
            assert!(err.contains(name), "{err}");
        }
    }

    #[test]
    fn help_shows_no_secret_that_is_in_a_variable() {
        let command = <Program as clap::CommandFactory>::command();
        for flag in ["smtp_url", "verification_webhook"] {
            let argument = command.get_arguments().find(|argument| argument.get_id() == flag);
            assert!(argument.unwrap().is_hide_env_values_set(), "{flag}");
        }
    }

    #[test]
    fn roots_are_asked_for_only_if_there_is_tls() {
        for (flags, expected) in [
            ("--verification=console", false),
            (
                "--verification=smtp --smtp-url=smtp://localhost --smtp-from=w@example.com \
              --verification-to=o@example.com",
                false,
            ),
            (
                "--verification=smtp --smtp-url=smtps://localhost --smtp-from=w@example.com \
              --verification-to=o@example.com",
                true,
            ),
            (
                "--verification=webhook --verification-webhook=http://localhost \
              --verification-webhook-secret-file=SECRET",
                false,
            ),
            (
                "--verification=webhook --verification-webhook=https://localhost \
              --verification-webhook-secret-file=SECRET",
                true,
            ),
        ] {
            let files = Files::new();
            let program = files.parse(flags).unwrap();
            let found = program.config.delivery_with(|| bail!("there are none"));
            assert_eq!(found.is_err(), expected, "{flags}");
        }
    }
}
