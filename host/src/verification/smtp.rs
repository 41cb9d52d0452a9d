//! Codes by mail.

use std::{
    fmt,
    time::{Duration, UNIX_EPOCH},
};

use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport as _, Message as Mail, Tokio1Executor,
    message::{
        Mailbox, SinglePart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters},
};
use url::Url;

use super::{
    delivery::{DeliveryError, is_loopback, masked},
    message::Message,
    tls::Roots,
};

const SUBJECT: &str = "Wardkey verification code";

/// How much of a mail server's answer is logged, in characters: what it says is
/// for people, and may be long.
const MAX_ANSWER_CHARS: usize = 300;

/// Says to programs that answer mail by themselves that nobody reads theirs.
const AUTO_SUBMITTED: HeaderName = HeaderName::new_from_ascii_str("Auto-Submitted");

/// Sends codes by a mail server.
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    server: String,
    from: Mailbox,
    to: Vec<Address>,
    is_encrypted: bool,
}

impl Mailer {
    /// Makes the client of the mail server at `url`, which holds a password: no
    /// error repeats a part of it. No connection is made before the first code.
    ///
    /// `roots` is asked only if the server is to be spoken to with TLS.
    pub(super) fn new(
        url: &str,
        from: Mailbox,
        to: Vec<Address>,
        roots: impl FnOnce() -> anyhow::Result<Roots>,
    ) -> anyhow::Result<Self> {
        let server = Server::parse(url).map_err(anyhow::Error::msg)?;
        // Reads port, user and password; what it says of TLS is replaced below.
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url)
            .map_err(|_| anyhow::Error::msg(NO_URL))?;
        if let Some(start) = server.tls {
            // None of its own: those of the platform are in `roots`.
            let mut parameters = TlsParameters::builder(server.host.clone())
                .certificate_store(CertificateStore::None);
            for root in roots()? {
                parameters = parameters.add_root_certificate(Certificate::from_der(root.to_vec())?);
            }
            let parameters = parameters.build()?;
            builder = builder.tls(match start {
                TlsStart::AtOnce => Tls::Wrapper(parameters),
                TlsStart::ByCommand => Tls::Required(parameters),
            });
        }
        // The limit of the delivery as a whole is the shorter one.
        let transport = builder.timeout(None).build();
        let is_encrypted = server.tls.is_some();
        Ok(Self { transport, server: server.host, from, to, is_encrypted })
    }

    /// Sends one mail to all addresses. A server that refuses one of them refuses
    /// the mail.
    pub(super) async fn send(&self, message: &Message<'_>) -> Result<(), DeliveryError> {
        let mail = self.mail(message).map_err(DeliveryError::Mail)?;
        let sent = self.transport.send(mail).await;
        sent.map(drop).map_err(|err| {
            // Servers quote what they refuse.
            let answer = err.to_string().replace(message.code.expose(), "******");
            DeliveryError::MailServer(super::message::for_people(&answer, MAX_ANSWER_CHARS))
        })
    }

    fn mail(&self, message: &Message<'_>) -> Result<Mail, lettre::error::Error> {
        let mut builder = Mail::builder()
            .from(self.from.clone())
            .subject(SUBJECT)
            .date(UNIX_EPOCH + Duration::from_secs(message.now))
            .message_id(Some(format!("<{}@{}>", message.id, self.from.email.domain())));
        for address in &self.to {
            builder = builder.to(address.clone().into());
        }
        // The crate takes text by value, and leaves a copy that is not wiped.
        let mut mail = builder.singlepart(SinglePart::plain(message.text().as_str().to_owned()))?;
        mail.headers_mut()
            .insert_raw(HeaderValue::new(AUTO_SUBMITTED, "auto-generated".to_owned()));
        Ok(mail)
    }

    pub(super) fn sent_to(&self) -> String {
        let masked = |address: &Address| masked(address.user(), address.domain());
        self.to.iter().map(masked).collect::<Vec<_>>().join(", ")
    }

    /// Whether codes cross a network that others may read.
    pub(super) fn is_in_the_clear(&self) -> bool {
        !self.is_encrypted && !is_loopback(&self.server)
    }
}

impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailer")
            .field("server", &self.server)
            .field("tls", &self.is_encrypted)
            .field("from", &format_args!("{}", self.from))
            .field("to", &format_args!("{}", self.sent_to()))
            .finish()
    }
}

const NO_URL: &str = "it is no URL: write it as smtps://USER:PASSWORD@HOST, and in the password \
                      `%40` for `@`, `%2F` for `/`, `%3A` for `:`";

/// When TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TlsStart {
    /// With the connection.
    AtOnce,
    /// By the command STARTTLS, and before anything else is said.
    ByCommand,
}

/// What we have to know of a mail server's URL.
struct Server {
    host: String,
    tls: Option<TlsStart>,
}

impl Server {
    /// Reads the URL more strictly than lettre, which overlooks what it does not
    /// know: a mistyped `tls` would be no TLS.
    fn parse(url: &str) -> Result<Self, &'static str> {
        let url = Url::parse(url).map_err(|_| NO_URL)?;
        let scheme = url.scheme();
        if !matches!(scheme, "smtp" | "smtps") {
            return Err("it must start with smtp:// or smtps://");
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or("it names no host")?;
        if host.starts_with('[') {
            return Err("its host must be a name or an IPv4 address");
        }
        let query: Vec<_> = url.query_pairs().collect();
        let query: Vec<_> = query.iter().map(|(key, value)| (&**key, &**value)).collect();
        let tls = match (scheme, &query[..]) {
            ("smtps", [] | [("tls", "required")]) => Some(TlsStart::AtOnce),
            ("smtp", [("tls", "required")]) => Some(TlsStart::ByCommand),
            ("smtp", []) => None,
            (_, [("tls", "opportunistic")]) => {
                return Err("TLS that is only used if it is offered can be taken away by whoever \
                            is between: write `?tls=required`");
            }
            _ => return Err("the only thing that may follow a `?` is `tls=required`"),
        };
        if url.fragment().is_some() {
            return Err("it must not have a `#`: in a password it is written as `%23`");
        }
        match (url.username(), url.password()) {
            ("", None) => {}
            ("", Some(_)) | (_, None) => {
                return Err("it must hold both user and password, or none");
            }
            (_, Some(_)) if tls.is_none() && !is_loopback(host) => {
                return Err("its password would go over the network in the clear: use smtps://, \
                            or add `?tls=required`");
            }
            (_, Some(_)) => {}
        }
        Ok(Self { host: host.to_owned(), tls })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{
        super::{
            code::Code,
            delivery::Delivery,
            mail_server::{MailServer, Manner, Received},
            message::{MAX_ACTION_CHARS, for_people},
            tls::self_signed,
        },
        *,
    };

    const CODE: &str = "012345";
    const ID: &str = "vrf_FakeFakeFakeFakeFakeFake";

    fn mailer(url: &str, roots: Roots) -> anyhow::Result<Delivery> {
        let from = "Wardkey <wardkey@example.net>".parse().unwrap();
        let to = ["operator@example.com", "deputy@example.org"].map(|to| to.parse().unwrap());
        let mailer = Mailer::new(url, from, to.to_vec(), || Ok(roots))?;
        Ok(Delivery::Smtp(Box::new(mailer)))
    }

    async fn send(delivery: &Delivery, action: &str) -> Result<(), DeliveryError> {
        let message = Message {
            id: ID,
            code: &Code::parse(CODE).unwrap(),
            action: &for_people(action, MAX_ACTION_CHARS),
            caller: "the operator",
            now: 1_000,
            expires_at: Timestamp::from_second(1_600).unwrap(),
        };
        delivery.send(&message).await
    }

    /// Sends a mail to a server that takes it.
    async fn sent(manner: Manner, url: &str, roots: Roots, action: &str) -> Received {
        let mut server = MailServer::start(manner).await;
        let url = url.replace("HOST", &server.address.to_string());
        send(&mailer(&url, roots).unwrap(), action).await.unwrap();
        server.received.recv().await.unwrap()
    }

    #[tokio::test]
    async fn a_mail_carries_the_code_to_everybody_who_shall_have_it() {
        let mail = sent(Manner::default(), "smtp://HOST", vec![], "create a key named 'x'").await;
        assert_eq!(mail.from, "wardkey@example.net");
        assert_eq!(mail.to, ["operator@example.com", "deputy@example.org"]);
        let headers = mail.headers();
        for header in [
            "From: Wardkey <wardkey@example.net>",
            "To: operator@example.com, deputy@example.org",
            "Subject: Wardkey verification code",
            "Date: Thu, 01 Jan 1970 00:16:40 +0000",
            "Auto-Submitted: auto-generated",
            "Content-Type: text/plain; charset=utf-8",
            "Content-Transfer-Encoding: 7bit",
            &format!("Message-ID: <{ID}@example.net>"),
        ] {
            assert!(headers.contains(&header), "{header} is not in {headers:#?}");
        }
        for line in [
            "Somebody asks to create a key named 'x'.",
            "Code:        012345",
            "Asked by:    the operator",
            "Valid until: 1970-01-01T00:26:40Z, once, and for this operation only",
        ] {
            assert!(mail.text().lines().any(|found| found == line), "{line} in {}", mail.text());
        }
        assert!(mail.text().contains("If this was not you: somebody has your operator credential"));
    }

    #[tokio::test]
    async fn a_name_adds_no_header_and_ends_no_mail() {
        let plain = sent(Manner::default(), "smtp://HOST", vec![], "create a key named 'x'").await;
        for name in [
            "x\r\nBcc: mallory@example.com",
            "x\nSubject: all is well",
            "x\r\n.\r\nMAIL FROM:<mallory@example.com>\r\n",
            "x\r\n\r\nCode: 999999",
            "\r\n.\r\n",
            ".",
            "東京",
            &"é".repeat(1_000),
        ] {
            let action = format!("create a key named '{name}'");
            let mail = sent(Manner::default(), "smtp://HOST", vec![], &action).await;
            // Long lines and letters beyond ASCII are encoded, and nothing else
            // is otherwise.
            let headers = |mail: &Received| {
                let is_encoding = |line: &&str| line.starts_with("Content-Transfer-Encoding: ");
                let lines = mail.headers().into_iter().filter(|line| !is_encoding(line));
                lines.map(str::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(headers(&mail), headers(&plain), "{name:?}");
            assert_eq!(mail.to, plain.to, "{name:?}");
            let text = mail.text();
            assert_eq!(text.lines().count(), plain.text().lines().count(), "{name:?}");
            let first = format!("Somebody asks to {}.", for_people(&action, MAX_ACTION_CHARS));
            assert_eq!(text.lines().next(), Some(&first[..]), "{name:?}");
        }
    }

    #[tokio::test]
    async fn with_tls_password_and_code_go_through_it() {
        let (roots, config) = self_signed();
        let start_tls = Manner { start_tls: Some(config.clone()), ..Manner::default() };
        let at_once = Manner { tls: Some(config), ..Manner::default() };
        for (manner, url) in [
            (start_tls, "smtp://postman:p%40ss@HOST?tls=required"),
            (at_once.clone(), "smtps://postman:p%40ss@HOST"),
            (at_once, "smtps://postman:p%40ss@HOST?tls=required"),
        ] {
            let mail = sent(manner, url, roots.clone(), "create a key").await;
            assert!(mail.is_encrypted, "{url}");
            assert_eq!(mail.login.as_deref(), Some("\0postman\0p@ss"), "{url}");
        }
    }

    /// What the mail server was told, and why there was no mail.
    async fn refused(manner: Manner, url: &str, roots: Roots) -> (Vec<&'static str>, String) {
        let server = MailServer::start(manner).await;
        let url = url.replace("HOST", &server.address.to_string());
        let err = send(&mailer(&url, roots).unwrap(), "create a key").await.unwrap_err();
        (server.commands(), format!("{:#}", anyhow::Error::from(err)))
    }

    #[tokio::test]
    async fn nothing_is_told_to_a_server_that_has_not_shown_who_it_is() {
        let (_, config) = self_signed();
        let start_tls = Manner { start_tls: Some(config.clone()), ..Manner::default() };
        let at_once = Manner { tls: Some(config), ..Manner::default() };
        let (others, _) = self_signed();
        let url = "smtp://postman:password@HOST?tls=required";
        for (manner, url, roots, commands, expected) in [
            // TLS is not offered.
            (Manner::default(), url, &others, &["EHLO"][..], "STARTTLS is not supported"),
            // It is, with a certificate that nobody stands for.
            (start_tls.clone(), url, &others, &["EHLO", "STARTTLS"], "certificate"),
            (start_tls, url, &vec![], &["EHLO", "STARTTLS"], "certificate"),
            (at_once, "smtps://postman:password@HOST", &others, &[], "certificate"),
        ] {
            let (found, err) = refused(manner, url, roots.clone()).await;
            assert!(err.contains(expected), "{err}");
            // What follows a failure, if anything, is a goodbye.
            let found: Vec<_> = found.into_iter().filter(|command| *command != "QUIT").collect();
            assert_eq!(found, commands, "{err}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_told_without_what_was_refused() {
        for (refuses, expected) in [
            ("EHLO", "550"),
            ("AUTH", "550"),
            ("MAIL", "550"),
            ("RCPT", "550"),
            ("DATA", "550"),
            ("message", "Code:        ******"),
        ] {
            let manner = Manner { refuses: Some(refuses), ..Manner::default() };
            let (_, err) = refused(manner, "smtp://postman:password@HOST", vec![]).await;
            assert!(err.contains(expected), "{refuses}: {err}");
            assert!(!err.contains(CODE) && !err.contains("password"), "{refuses}: {err}");
        }
    }

    #[tokio::test]
    async fn a_server_that_nobody_runs_is_an_error() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        drop(listener);
        let err = send(&mailer(&url, vec![]).unwrap(), "create a key").await.unwrap_err();
        assert!(matches!(err, DeliveryError::MailServer(_)), "{err:?}");
    }

    #[tokio::test]
    async fn a_server_that_stalls_is_left() {
        for stalls_at in ["connect", "EHLO", "RCPT", "DATA"] {
            let manner = Manner { stalls_at: Some(stalls_at), ..Manner::default() };
            let mut server = MailServer::start(manner).await;
            let delivery = mailer(&format!("smtp://{}", server.address), vec![]).unwrap();
            let sending = tokio::spawn(async move { send(&delivery, "create a key").await });
            server.stalled.recv().await.unwrap();
            // From here on the clock goes on by itself: nothing else is to happen.
            tokio::time::pause();
            let err = sending.await.unwrap().unwrap_err();
            tokio::time::resume();
            assert!(matches!(err, DeliveryError::Slow), "{stalls_at}: {err:?}");
        }
    }

    #[test]
    fn the_url_of_a_mail_server_is_read_strictly() {
        let clear = "in the clear";
        for (url, expected) in [
            ("smtp://127.0.0.1:1025", ""),
            ("smtp://localhost", ""),
            ("smtp://mail.example.com", ""),
            ("smtp://mail.example.com:587/wardkey.example.com?tls=required", ""),
            ("smtps://user:pass@mail.example.com", ""),
            ("smtps://user:pass@mail.example.com:465?tls=required", ""),
            ("smtp://user:pass@mail.example.com?tls=required", ""),
            ("smtp://user:pass@127.0.0.1", ""),
            ("smtp://user:pass@mail.example.com", clear),
            ("smtp://user:pass@mail.example.com?tls=opportunistic", "taken away"),
            ("smtp://user:pass@mail.example.com?tsl=required", "`tls=required`"),
            ("smtp://user:pass@mail.example.com?tls=Required", "`tls=required`"),
            ("smtp://user:pass@mail.example.com?tls=required&tls=none", "`tls=required`"),
            ("smtps://user:pass@mail.example.com?tls=none", "`tls=required`"),
            ("smtps://user@mail.example.com", "both user and password"),
            ("smtps://:pass@mail.example.com", "both user and password"),
            ("smtps://user:pa#ss@mail.example.com", "no URL"),
            ("smtps://user:pass@mail.example.com#x", "`#`"),
            ("smtps://user:pass@[::1]", "IPv4"),
            ("smtps://", "no host"),
            ("https://user:pass@mail.example.com", "smtp://"),
            ("user:pass@mail.example.com", "smtp://"),
            ("mail.example.com", "no URL"),
            ("", "no URL"),
        ] {
            let (roots, _) = self_signed();
            let found = mailer(url, roots).map(drop).map_err(|err| format!("{err:#}"));
            match expected {
                "" => assert_eq!(found, Ok(()), "{url}"),
                _ => {
                    let err = found.unwrap_err();
                    assert!(err.contains(expected), "{url}: {err}");
                    assert!(!err.contains("pass@"), "{url}: {err}");
                }
            }
        }
    }

    #[test]
    fn a_mailer_prints_neither_password_nor_addresses() {
        let (roots, _) = self_signed();
        let delivery = mailer("smtps://user:hush@mail.example.com", roots).unwrap();
        let printed = format!("{delivery:?}");
        for word in ["hush", "user", "operator@", "deputy@"] {
            assert!(!printed.contains(word), "{word} is in {printed}");
        }
        assert!(printed.contains("mail.example.com"), "{printed}");
        assert_eq!(delivery.sent_to(), "o***@example.com, d***@example.org");
    }

    #[test]
    fn only_what_leaves_the_machine_without_tls_is_in_the_clear() {
        for (url, expected) in [
            ("smtp://127.0.0.1:1025", false),
            ("smtp://localhost", false),
            ("smtp://mail.example.com", true),
            ("smtp://mail.example.com?tls=required", false),
            ("smtps://mail.example.com", false),
        ] {
            let Ok(Delivery::Smtp(mailer)) = mailer(url, self_signed().0) else { panic!("{url}") };
            assert_eq!(mailer.is_in_the_clear(), expected, "{url}");
        }
    }
}
