//! What callers of the HTTP port can make a node keep: a bounded number of connections, none of them silent for long, and
//! a bounded number of large bodies.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::HTTP_BODY_BYTES_MAX;
use super::problem::Problem;

/// Most HTTP connections; further callers wait until one closes.
pub const HTTP_CONNECTIONS_MAX: usize = 256;
/// A connection over which nothing comes or goes for so long is closed. No answer takes as long.
pub const HTTP_IDLE_MAX: Duration = Duration::from_secs(60);
/// Bodies up to this length are received at once.
const SMALL_BODY_BYTES: u64 = 256 * 1024;
/// Larger bodies received or worked on at a time, and how long one may wait for its turn and take to come.
const LARGE_BODIES_MAX: usize = 16;
const LARGE_BODY_WAIT_MAX: Duration = Duration::from_secs(10);
const LARGE_BODY_MAX: Duration = Duration::from_secs(30);

/// A listener that accepts no more than [`HTTP_CONNECTIONS_MAX`] connections at a time.
#[derive(Debug)]
pub struct Limited {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Limited {
    /// Accepts from `listener`.
    pub fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            room: Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX)),
        }
    }
}

impl Listener for Limited {
    type Io = Guarded<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = self.room.clone().acquire_owned().await.expect("never closed");
        // Pauses by itself when the process is out of file descriptors.
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Guarded::new(stream, HTTP_IDLE_MAX, place), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that breaks when nothing comes or goes for a while.
#[derive(Debug)]
pub struct Guarded<S> {
    stream: S,
    idle_max: Duration,
    idle: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl<S> Guarded<S> {
    fn new(stream: S, idle_max: Duration, place: OwnedSemaphorePermit) -> Self {
        Self {
            stream,
            idle_max,
            idle: Box::pin(sleep(idle_max)),
            _place: place,
        }
    }

    /// What was tried comes to nothing as long as the other side is silent.
    fn or_idle<T>(&mut self, context: &mut Context<'_>, tried: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if tried.is_ready() {
            self.idle.as_mut().reset(Instant::now() + self.idle_max);
            return tried;
        }
        ready!(self.idle.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let tried = Pin::new(&mut this.stream).poll_read(context, buffer);
        this.or_idle(context, tried)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let tried = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.or_idle(context, tried)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let tried = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.or_idle(context, tried)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// Turns of requests with large bodies.
pub fn large_bodies() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(LARGE_BODIES_MAX))
}

/// Receives a large body only when it is its turn. Nothing was done when it does not come.
pub async fn one_of_few(State(turns): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let has_body = length.is_some() || request.headers().contains_key(header::TRANSFER_ENCODING);
    if !has_body || length.is_some_and(|length: u64| length <= SMALL_BODY_BYTES) {
        return next.run(request).await;
    }
    let refused = |status, detail: &str| Problem::new(status, detail).refused().into_response();
    if length.is_some_and(|length| length > HTTP_BODY_BYTES_MAX as u64) {
        return refused(StatusCode::PAYLOAD_TOO_LARGE, "body: too long");
    }
    let Ok(Ok(_turn)) = timeout(LARGE_BODY_WAIT_MAX, turns.acquire()).await else {
        return refused(StatusCode::TOO_MANY_REQUESTS, "too many large bodies at a time");
    };
    let (head, body) = request.into_parts();
    match timeout(LARGE_BODY_MAX, to_bytes(body, HTTP_BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(head, Body::from(bytes))).await,
        Ok(Err(error)) => refused(StatusCode::PAYLOAD_TOO_LARGE, &format!("body: {error}")),
        Err(_) => refused(StatusCode::REQUEST_TIMEOUT, "body: did not come in time"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_silent_connection_is_closed_and_a_busy_one_is_not() {
        let idle_max = Duration::from_millis(200);
        let room = Arc::new(Semaphore::new(1));
        let (mut client, server) = duplex(64);
        let place = room.clone().acquire_owned().await.unwrap();
        let mut server = Guarded::new(server, idle_max, place);
        for _ in 0..6 {
            sleep(idle_max / 4).await;
            client.write_all(b"x").await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), b'x');
        }
        let error = server.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(room.available_permits(), 0);
        drop(server);
        assert_eq!(room.available_permits(), 1);
    }

    #[tokio::test]
    async fn one_that_takes_nothing_is_closed() {
        let room = Arc::new(Semaphore::new(1));
        let (_client, server) = duplex(64);
        let place = room.acquire_owned().await.unwrap();
        let mut server = Guarded::new(server, Duration::from_millis(50), place);
        let error = server.write_all(&[0; 1_000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
