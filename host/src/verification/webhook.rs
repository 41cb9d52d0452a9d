//! Codes by a service of the operator's.

use std::fmt::{self, Write as _};

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderName, Request, Uri, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Serialize;
use sha2::Sha256;
use url::Url;
use zeroize::Zeroizing;

use super::{
    delivery::{DeliveryError, is_loopback},
    message::Message,
    tls::{self, Roots},
};

/// How much the head of an answer may have, in bytes. Its body is not read.
const MAX_ANSWER_HEAD_BYTES: usize = 16 * 1024;

/// What tells the receiver that it was us: `t=<unix>,v1=<hex>`, the HMAC-SHA256
/// of time, a dot, and the body. With the time in it, because what was signed
/// once must not be good for ever.
const SIGNATURE: HeaderName = HeaderName::from_static("wardkey-signature");

/// Sends codes to a URL.
pub struct Webhook {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
    secret: Zeroizing<String>,
    to: Vec<String>,
}

/// What is sent.
#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    code: &'a str,
    action: &'a str,
    caller: &'a str,
    to: &'a [String],
    expires_at: jiff::Timestamp,
}

impl Webhook {
    /// Makes the client. Paths of webhooks are often secrets: no error repeats
    /// the URL. No connection is made before the first code.
    ///
    /// `roots` is asked only if the URL is https://.
    pub(super) fn new(
        url: &str,
        secret: Zeroizing<String>,
        to: Vec<String>,
        roots: impl FnOnce() -> anyhow::Result<Roots>,
    ) -> anyhow::Result<Self> {
        let url = parse(url).map_err(anyhow::Error::msg)?;
        let roots = if url.scheme() == Some(&http::uri::Scheme::HTTPS) { roots()? } else { vec![] };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls::client_config(roots)?)
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new())
            // Codes are few, and a connection that was dropped meanwhile would
            // cost one of them.
            .pool_max_idle_per_host(0)
            .http1_max_buf_size(MAX_ANSWER_HEAD_BYTES)
            .build(connector);
        Ok(Self { client, url, secret, to })
    }

    /// Sends the code. Any status of success means that it is on its way; a
    /// redirect does not, as a code goes where the operator said and nowhere else.
    pub(super) async fn send(&self, message: &Message<'_>) -> Result<(), DeliveryError> {
        let unreachable = |err: Box<dyn std::error::Error + Send + Sync>| {
            // Neither the URL nor the code is in it: it speaks of connections.
            DeliveryError::Unreachable(err)
        };
        let body = Body {
            id: message.id,
            code: message.code.expose(),
            action: message.action,
            caller: message.caller,
            to: &self.to,
            expires_at: message.expires_at,
        };
        // Not wiped: the client takes it by value.
        let body = serde_json::to_vec(&body).map_err(|err| unreachable(err.into()))?;
        let request = Request::post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("wardkey/", env!("CARGO_PKG_VERSION")))
            .header(SIGNATURE, signature(&self.secret, message.now, &body))
            .body(Full::from(body))
            .map_err(|err| unreachable(err.into()))?;
        let response = self.client.request(request).await.map_err(|err| unreachable(err.into()))?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(DeliveryError::Refused(status)),
        }
    }

    /// Whether codes cross a network that others may read.
    pub(super) fn is_in_the_clear(&self) -> bool {
        self.url.scheme() == Some(&http::uri::Scheme::HTTP)
            && !self.url.host().is_some_and(is_loopback)
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("host", &self.url.host().unwrap_or_default()).finish()
    }
}

fn parse(url: &str) -> Result<Uri, &'static str> {
    let url = Url::parse(url).map_err(|_| "it is no URL: write it as https://HOST/PATH")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("it must start with https:// or http://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it must not hold a user name or password: the signature says who we are");
    }
    if url.fragment().is_some() {
        return Err("it must not have a `#`");
    }
    url.as_str().parse().map_err(|_| "it is no URL: write it as https://HOST/PATH")
}

fn signature(secret: &str, now: u64, body: &[u8]) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(format!("{now}.").as_bytes());
    mac.update(body);
    let mut signature = format!("t={now},v1=");
    for byte in mac.finalize().into_bytes() {
        // Writing to a string does not fail.
        let _ = write!(signature, "{byte:02x}");
    }
    signature
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Method};
    use jiff::Timestamp;
    use serde_json::json;

    use super::{
        super::{
            code::Code,
            delivery::Delivery,
            receiver::{Answer, Receiver},
            tls::self_signed,
        },
        *,
    };

    const SECRET: &str = "a secret of thirty-two characters";

    fn webhook(url: &str, roots: Roots) -> anyhow::Result<Webhook> {
        let secret = Zeroizing::new(SECRET.to_owned());
        Webhook::new(url, secret, vec!["+1 555 0100".to_owned()], || Ok(roots))
    }

    async fn send(url: &str, roots: Roots) -> Result<(), DeliveryError> {
        let delivery = Delivery::Webhook(Box::new(webhook(url, roots).unwrap()));
        let message = Message {
            id: "vrf_1",
            code: &Code::parse("012345").unwrap(),
            action: "create a key named 'x'",
            caller: "the operator",
            now: 1_000,
            expires_at: Timestamp::from_second(1_600).unwrap(),
        };
        delivery.send(&message).await
    }

    #[tokio::test]
    async fn a_code_is_posted_with_a_signature() {
        let mut receiver = Receiver::start(Answer::status(204), None).await;
        send(&format!("http://{}/codes?team=1", receiver.address), vec![]).await.unwrap();
        let posted = receiver.posted.recv().await.unwrap();
        assert_eq!(posted.method, Method::POST);
        assert_eq!(posted.uri, "/codes?team=1");
        assert_eq!(posted.headers["content-type"], "application/json");
        let expected = json!({
            "id": "vrf_1",
            "code": "012345",
            "action": "create a key named 'x'",
            "caller": "the operator",
            "to": ["+1 555 0100"],
            "expires_at": "1970-01-01T00:26:40Z",
        });
        assert_eq!(posted.json(), expected);
        // As its receiver checks it: over the bytes that came.
        let signed = [b"1000.", &posted.body[..]].concat();
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(&signed);
        let signature = posted.headers["wardkey-signature"].to_str().unwrap();
        let hex = signature.strip_prefix("t=1000,v1=").unwrap();
        let bytes: Vec<u8> =
            (0..32).map(|n| u8::from_str_radix(&hex[n * 2..][..2], 16).unwrap()).collect();
        mac.verify_slice(&bytes).unwrap();
    }

    #[test]
    fn a_signature_is_that_of_the_standard() {
        // By `printf '1000.{}' | openssl dgst -sha256 -hmac key`.
        let expected = "t=1000,v1=c32de42341dece79a1511c9e7f74a2734112edcfcf48943c976faf07047065db";
        assert_eq!(signature("key", 1_000, b"{}"), expected);
    }

    #[tokio::test]
    async fn any_status_of_success_is_a_delivery_and_no_other() {
        for (status, delivered) in [
            (200, true),
            (202, true),
            (204, true),
            (299, true),
            (301, false),
            (307, false),
            (400, false),
            (404, false),
            (500, false),
            (503, false),
        ] {
            let receiver = Receiver::start(Answer::status(status), None).await;
            let sent = send(&format!("http://{}", receiver.address), vec![]).await;
            match delivered {
                true => assert!(sent.is_ok(), "{status}: {sent:?}"),
                false => assert!(
                    matches!(&sent, Err(DeliveryError::Refused(found)) if *found == status),
                    "{status}: {sent:?}"
                ),
            }
        }
    }

    #[tokio::test]
    async fn a_code_does_not_follow_a_redirect() {
        let mut elsewhere = Receiver::start(Answer::status(200), None).await;
        let location = HeaderValue::from_str(&format!("http://{}/", elsewhere.address)).unwrap();
        for status in [301, 302, 303, 307, 308] {
            let answer =
                Answer::Status(status, HeaderName::from_static("location"), location.clone());
            let receiver = Receiver::start(answer, None).await;
            let sent = send(&format!("http://{}", receiver.address), vec![]).await;
            assert!(matches!(sent, Err(DeliveryError::Refused(_))), "{status}: {sent:?}");
        }
        assert!(elsewhere.posted.try_recv().is_err());
    }

    #[tokio::test]
    async fn an_answer_is_not_read_further_than_it_matters() {
        let receiver = Receiver::start(Answer::Endless, None).await;
        send(&format!("http://{}", receiver.address), vec![]).await.unwrap();
        let long = HeaderValue::from_str(&"x".repeat(2 * MAX_ANSWER_HEAD_BYTES)).unwrap();
        let answer = Answer::Status(200, HeaderName::from_static("x-test"), long);
        let receiver = Receiver::start(answer, None).await;
        let sent = send(&format!("http://{}", receiver.address), vec![]).await;
        assert!(matches!(sent, Err(DeliveryError::Unreachable(_))), "{sent:?}");
    }

    #[tokio::test]
    async fn a_code_goes_over_tls_to_those_who_are_trusted_only() {
        let (roots, config) = self_signed();
        let mut receiver = Receiver::start(Answer::status(200), Some(config)).await;
        let url = format!("https://{}", receiver.address);
        send(&url, roots).await.unwrap();
        assert!(receiver.posted.recv().await.is_some());
        for others in [self_signed().0, vec![]] {
            let sent = send(&url, others).await;
            assert!(matches!(sent, Err(DeliveryError::Unreachable(_))), "{sent:?}");
        }
        assert!(receiver.posted.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_receiver_that_nobody_runs_or_that_stalls_is_an_error() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let sent = send(&url, vec![]).await;
        assert!(matches!(sent, Err(DeliveryError::Unreachable(_))), "{sent:?}");

        let mut receiver = Receiver::start(Answer::Nothing, None).await;
        let url = format!("http://{}", receiver.address);
        let sending = tokio::spawn(async move { send(&url, vec![]).await });
        receiver.posted.recv().await.unwrap();
        // From here on the clock goes on by itself: nothing else is to happen.
        tokio::time::pause();
        let sent = sending.await.unwrap();
        assert!(matches!(sent, Err(DeliveryError::Slow)), "{sent:?}");
    }

    #[test]
    fn a_webhook_is_a_url_without_a_password() {
        for (url, expected) in [
            ("https://example.com/codes", ""),
            ("http://127.0.0.1:9000", ""),
            ("https://[::1]:9000/codes?a=b", ""),
            ("ftp://example.com", "https://"),
            ("https://user:hush@example.com", "user name or password"),
            ("https://user@example.com", "user name or password"),
            ("https://example.com/#hush", "`#`"),
            ("example.com/hush", "no URL"),
            ("https://", "no URL"),
            ("", "no URL"),
        ] {
            let found = webhook(url, vec![]).map(drop).map_err(|err| format!("{err:#}"));
            match expected {
                "" => assert_eq!(found, Ok(()), "{url}"),
                _ => {
                    let err = found.unwrap_err();
                    assert!(err.contains(expected) && !err.contains("hush"), "{url}: {err}");
                }
            }
        }
    }

    #[test]
    fn a_webhook_prints_neither_its_path_nor_its_secret() {
        let webhook = webhook("https://example.com/hush?hush", vec![]).unwrap();
        assert_eq!(format!("{webhook:?}"), "Webhook { host: \"example.com\" }");
    }

    #[test]
    fn only_what_leaves_the_machine_without_tls_is_in_the_clear() {
        for (url, expected) in [
            ("http://127.0.0.1:9000", false),
            ("http://[::1]", false),
            ("http://example.com", true),
            ("https://example.com", false),
        ] {
            assert_eq!(webhook(url, vec![]).unwrap().is_in_the_clear(), expected, "{url}");
        }
    }
}
