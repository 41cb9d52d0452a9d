//! A mail server for tests, on a real socket. What it is sent is read by the
//! parser of a mail server that is in use, and not as our client would like it.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rustls::ServerConfig;
use smtp_proto::{
    AUTH_PLAIN, EXT_8BIT_MIME, EXT_AUTH, EXT_START_TLS, EhloResponse, Error, Request,
    request::receiver::{DataReceiver, RequestReceiver},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

/// How it behaves.
#[derive(Clone, Debug, Default)]
pub(super) struct Manner {
    /// Offers STARTTLS.
    pub(super) start_tls: Option<Arc<ServerConfig>>,
    /// Speaks TLS from the start.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// Says nothing any more when it gets this command; `connect` is the first.
    pub(super) stalls_at: Option<&'static str>,
    /// Refuses this command, quoting all that it was sent.
    pub(super) refuses: Option<&'static str>,
}

/// A mail that was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) login: Option<String>,
    pub(super) from: String,
    pub(super) to: Vec<String>,
    /// Headers and body, without the dots that SMTP adds.
    pub(super) data: String,
    pub(super) is_encrypted: bool,
}

impl Received {
    /// Returns the headers, one a line.
    pub(super) fn headers(&self) -> Vec<&str> {
        self.data.split("\r\n\r\n").next().unwrap_or_default().split("\r\n").collect()
    }

    /// Returns the text as a person reads it, without the lines that encodings
    /// leave at its end.
    pub(super) fn text(&self) -> String {
        let (head, body) = self.data.split_once("\r\n\r\n").unwrap();
        let bytes = match head.split("Content-Transfer-Encoding: ").nth(1) {
            Some("quoted-printable") => quoted_printable(&body.replace("=\r\n", "")),
            Some("base64") => BASE64.decode(body.replace("\r\n", "")).unwrap(),
            _ => body.as_bytes().to_vec(),
        };
        String::from_utf8(bytes).unwrap().trim_end().to_owned()
    }
}

fn quoted_printable(text: &str) -> Vec<u8> {
    let mut parts = text.split('=');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    bytes
}

pub(super) struct MailServer {
    pub(super) address: SocketAddr,
    pub(super) received: mpsc::UnboundedReceiver<Received>,
    /// Says that it says nothing any more.
    pub(super) stalled: mpsc::UnboundedReceiver<()>,
    /// The commands of all sessions.
    commands: Arc<Mutex<Vec<&'static str>>>,
}

impl MailServer {
    pub(super) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (received_by, received) = mpsc::unbounded_channel();
        let (stalled_by, stalled) = mpsc::unbounded_channel();
        let commands = Arc::default();
        let session = Session {
            manner,
            received: received_by,
            stalled: stalled_by,
            commands: Arc::clone(&commands),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let session = session.clone();
                // Sessions end as their clients want.
                tokio::spawn(async move { session.serve(Box::new(stream)).await });
            }
        });
        Self { address, received, stalled, commands }
    }

    pub(super) fn commands(&self) -> Vec<&'static str> {
        self.commands.lock().unwrap().clone()
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

#[derive(Clone)]
struct Session {
    manner: Manner,
    received: mpsc::UnboundedSender<Received>,
    stalled: mpsc::UnboundedSender<()>,
    commands: Arc<Mutex<Vec<&'static str>>>,
}

impl Session {
    async fn serve(self, mut stream: Box<dyn Stream>) -> io::Result<()> {
        let mut is_encrypted = false;
        if let Some(config) = &self.manner.tls {
            stream = Box::new(TlsAcceptor::from(Arc::clone(config)).accept(stream).await?);
            is_encrypted = true;
        }
        self.perhaps_stall("connect").await;
        stream.write_all(b"220 test ready\r\n").await?;
        let mut requests = RequestReceiver::default();
        let mut mail = Received { is_encrypted, ..Received::default() };
        loop {
            let mut bytes = [0; 4096];
            let len = stream.read(&mut bytes).await?;
            if len == 0 {
                return Ok(());
            }
            let mut rest = bytes[..len].iter();
            let request = match requests.ingest(&mut rest) {
                Ok(request) => request,
                Err(Error::NeedsMoreData { .. }) => continue,
                Err(err) => panic!("a mail server could not read this: {err:?}"),
            };
            let command = request.name();
            self.commands.lock().unwrap().push(command);
            self.perhaps_stall(command).await;
            if self.manner.refuses == Some(command) {
                stream.write_all(b"550 5.7.1 no\r\n").await?;
                continue;
            }
            let answer = match request {
                Request::Ehlo { .. } => self.capabilities(mail.is_encrypted),
                Request::StartTls => {
                    let config = self.manner.start_tls.clone().unwrap();
                    stream.write_all(b"220 go on\r\n").await?;
                    stream = Box::new(TlsAcceptor::from(config).accept(stream).await?);
                    mail.is_encrypted = true;
                    continue;
                }
                Request::Auth { initial_response, .. } => {
                    let login = BASE64.decode(initial_response.as_bytes()).unwrap();
                    mail.login = Some(String::from_utf8(login).unwrap());
                    b"235 welcome\r\n".to_vec()
                }
                Request::Mail { from } => {
                    mail.from = from.address.into_owned();
                    b"250 ok\r\n".to_vec()
                }
                Request::Rcpt { to } => {
                    mail.to.push(to.address.into_owned());
                    b"250 ok\r\n".to_vec()
                }
                Request::Data => {
                    stream.write_all(b"354 go on\r\n").await?;
                    let data = read_data(&mut stream).await?;
                    mail.data = String::from_utf8(data).unwrap();
                    if self.manner.refuses == Some("message") {
                        // As a filter does that shows what it did not like.
                        let quoted = mail.text().replace("\r\n", " ");
                        format!("554 5.7.1 refused: {quoted}\r\n").into_bytes()
                    } else {
                        let _ = self.received.send(mail.clone());
                        b"250 taken\r\n".to_vec()
                    }
                }
                Request::Quit => {
                    stream.write_all(b"221 bye\r\n").await?;
                    return Ok(());
                }
                _ => b"502 not here\r\n".to_vec(),
            };
            stream.write_all(&answer).await?;
        }
    }

    fn capabilities(&self, is_encrypted: bool) -> Vec<u8> {
        let mut response = EhloResponse::new("test");
        response.capabilities = EXT_8BIT_MIME | EXT_AUTH;
        response.auth_mechanisms = AUTH_PLAIN;
        if self.manner.start_tls.is_some() && !is_encrypted {
            response.capabilities |= EXT_START_TLS;
        }
        let mut bytes = Vec::new();
        response.write(&mut bytes).unwrap();
        bytes
    }

    async fn perhaps_stall(&self, command: &'static str) {
        if self.manner.stalls_at == Some(command) {
            let _ = self.stalled.send(());
            std::future::pending::<()>().await;
        }
    }
}

async fn read_data(stream: &mut Box<dyn Stream>) -> io::Result<Vec<u8>> {
    let (mut receiver, mut data) = (DataReceiver::new(), Vec::new());
    loop {
        let mut bytes = [0; 4096];
        let len = stream.read(&mut bytes).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if receiver.ingest(&mut bytes[..len].iter(), &mut data) {
            return Ok(data);
        }
    }
}
