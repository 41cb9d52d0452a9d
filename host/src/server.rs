//! Listening: connections with bounds on their size, number and time.

use std::{convert::Infallible, io, net::IpAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::Request, response::Response};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tower::ServiceExt as _;

/// The address at the other end of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// How long a client may take to send the head of a request, and how long an
/// idle connection is kept. A browser's form takes less, and a slow attacker
/// gets no more.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest head of a request, in bytes. More gets a 431.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// How many connections a listener serves at once. Each takes about 20 KB when
/// idle; more wait in the system's queue.
const MAX_CONNECTIONS: usize = 4096;

/// How long requests that run may go on after the host was asked to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to leave a listener alone that cannot accept: as a rule the process
/// is out of file descriptors, and trying again at once would burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where connections come from.
pub trait Listener: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, Option<Peer>)>> + Send;
}

impl Listener for TcpListener {
    type Io = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<(Self::Io, Option<Peer>)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        // Answers are small and written whole: waiting for more would only
        // delay them.
        stream.set_nodelay(true)?;
        Ok((stream, Some(Peer(peer.ip()))))
    }
}

impl Listener for UnixListener {
    type Io = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<(Self::Io, Option<Peer>)> {
        Ok((UnixListener::accept(self).await?.0, None))
    }
}

/// What answers requests.
pub trait Service: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, request: Request) -> impl Future<Output = Response> + Send;
}

impl Service for Router {
    async fn answer(&self, request: Request) -> Response {
        self.clone().oneshot(request).await.unwrap_or_else(|err| match err {})
    }
}

/// Serves requests until `stop` turns true, and then what still runs.
pub async fn serve(
    listener: impl Listener,
    service: impl Service,
    mut stop: watch::Receiver<bool>,
) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let draining = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        // A client that has sent all it will may still read.
        .half_close(true);
    loop {
        let accepted = tokio::select! {
            // A connection is accepted once there is a place for it. Both waits
            // end when the host is asked to stop.
            accepted = async {
                let place = Arc::clone(&connections).acquire_owned().await;
                (place, listener.accept().await)
            } => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (Ok(place), accepted) = accepted else { break };
        let (io, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(err) => {
                tracing::warn!(%err, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = service.clone();
        let answer = hyper::service::service_fn(move |request: hyper::Request<_>| {
            let mut request: Request = request.map(Body::new);
            if let Some(peer) = peer {
                request.extensions_mut().insert(peer);
            }
            let service = service.clone();
            async move { Ok::<_, Infallible>(service.answer(request).await) }
        });
        let connection = http.serve_connection(TokioIo::new(io), answer);
        let connection = draining.watch(connection);
        tokio::spawn(async move {
            // A connection that breaks is the client's affair.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    let _ = timeout(DRAIN_TIMEOUT, draining.shutdown()).await;
}
