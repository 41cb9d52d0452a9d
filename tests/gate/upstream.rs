//! An API behind the gate that remembers requests as they came over the wire.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// A request as the API read it, byte for byte.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded {
    /// The request line, without its end.
    pub(crate) line: String,
    /// Names and values as they came, in their order.
    pub(crate) headers: Vec<(String, String)>,
    /// The body, its chunks put together.
    pub(crate) body: Vec<u8>,
}

impl Recorded {
    /// Returns a header's only value; empty if there is none.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut found = self.headers.iter().filter(|(one, _)| one.eq_ignore_ascii_case(name));
        let value = found.next().map_or("", |(_, value)| value);
        assert!(found.next().is_none(), "`{name}` came twice: {self:?}");
        value
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(one, _)| one.eq_ignore_ascii_case(name))
    }

    fn is_chunked(&self) -> bool {
        self.has("transfer-encoding")
    }
}

/// The API. Its threads end with the program.
pub(crate) struct RecordingUpstream {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Recorded>>>,
}

impl RecordingUpstream {
    /// Starts one that answers everything with 200 and `{}`.
    pub(crate) fn start() -> Self {
        Self::answering("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n", "{}")
    }

    /// Starts one that answers everything with this head and body.
    pub(crate) fn answering(head: &'static str, body: &'static str) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let recorded = Arc::clone(&requests);
        let address = listen(move |stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut stream = stream;
            while let Some(mut request) = read_head(&mut reader) {
                request.body = read_body(&request, &mut reader);
                recorded.lock().unwrap().push(request);
                let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
                if stream.write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
        });
        Self { address, requests }
    }

    /// Returns how many requests have come.
    pub(crate) fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// Returns the latest request.
    #[track_caller]
    pub(crate) fn last(&self) -> Recorded {
        self.requests.lock().unwrap().last().cloned().expect("no request reached the API")
    }

    /// Returns all requests.
    pub(crate) fn all(&self) -> Vec<Recorded> {
        self.requests.lock().unwrap().clone()
    }
}

/// Listens on a port of its own and hands each connection to `serve`.
pub(crate) fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Reads a request's head; `None` at the end of the connection.
pub(crate) fn read_head(reader: &mut BufReader<TcpStream>) -> Option<Recorded> {
    let mut request = Recorded { line: read_line(reader)?, ..Recorded::default() };
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            return Some(request);
        }
        let (name, value) = line.split_once(':').unwrap();
        request.headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// Reads a line; bytes that are not UTF-8 become Latin-1, so that none is lost.
pub(crate) fn read_line(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).ok().filter(|read| *read > 0)?;
    let line = line.strip_suffix(b"\r\n").unwrap_or(&line);
    Some(line.iter().map(|byte| char::from(*byte)).collect())
}

fn read_body(request: &Recorded, reader: &mut BufReader<TcpStream>) -> Vec<u8> {
    let mut body = Vec::new();
    if request.is_chunked() {
        while let Some(chunk) = read_chunk(reader) {
            body.extend(chunk);
        }
    } else {
        let length = request.header("content-length").parse().unwrap_or(0);
        body.resize(length, 0);
        reader.read_exact(&mut body).unwrap_or_default();
    }
    body
}

/// Reads one chunk of a body; `None` at its end.
pub(crate) fn read_chunk(reader: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let size = usize::from_str_radix(read_line(reader)?.trim(), 16).ok()?;
    let mut chunk = vec![0; size];
    reader.read_exact(&mut chunk).ok()?;
    read_line(reader)?;
    (size > 0).then_some(chunk)
}
