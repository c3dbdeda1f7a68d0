//! Connections of the server: limits their number, and the time that each may be idle.
//!
//! A connection is closed if it sends no complete request head for a while, or if its client does not read the
//! response. At the limit of connections, a new connection replaces the one that has been idle for longest; if none is
//! idle, the new connection waits.
//!
//! A client may close its sending side after a request (a half-closed connection), and is answered nevertheless. A client
//! that is gone looks the same until something is sent to it. So a request that waits for a result is answered at once
//! when its client stops sending (see [`Sending`]); otherwise the connections of dead clients would keep their places.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Sleep, sleep, timeout};

/// Size of the read buffer of a connection, and so the largest head of a request.
const MAX_HEAD: usize = 16 << 10;

/// Upper bound of time limits: timers cannot represent much longer ones.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Limits of the connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Largest number of open connections.
    pub(super) max: usize,
    /// Time that a connection may be open without sending a complete request head.
    pub(super) idle: Duration,
    /// Time that a response may wait until the client reads more of it.
    pub(super) stall: Duration,
}

/// Accepts and serves connections. Never returns.
pub(super) async fn serve(listener: TcpListener, router: Router, limits: Limits) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new());
    http.header_read_timeout(limits.idle.min(MAX_TIMEOUT)).max_buf_size(MAX_HEAD).half_close(true);
    let connections = Arc::new(Connections::default());
    for number in 0.. {
        let stream = accept(&listener, &connections).await;
        // Close an idle connection, if necessary, only now that a new one has been accepted.
        connections.wait_for_place(limits.max.max(1)).await;
        // Send small responses without delay.
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        let write = Arc::new(write);
        let sending = Sending(write.clone());
        let io = StallLimited { read, write, stall: limits.stall.min(MAX_TIMEOUT), write_deadline: None };
        let service = TowerToHyperService::new(router.clone());
        let open = connections.open(number);
        let own = connections.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            own.set_busy(number, true);
            request.extensions_mut().insert(sending.clone());
            let (answer, own) = (service.call(request), own.clone());
            async move {
                let answer = answer.await;
                own.set_busy(number, false);
                answer
            }
        });
        let connection = http.serve_connection(TokioIo::new(io), service);
        let task = tokio::spawn(async move {
            let _open = open;
            // An error means that the client closed the connection or was too slow.
            if let Err(error) = connection.await {
                log::debug!("a connection of the embedded engine ended: {error}");
            }
        });
        connections.set_task(number, task.abort_handle());
    }
}

async fn accept(listener: &TcpListener, connections: &Connections) -> TcpStream {
    loop {
        let error = match listener.accept().await {
            Ok((it, _)) => return it,
            Err(error) => error,
        };
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
            // Probably the process has no more file descriptors: close an idle connection.
            log::warn!("the embedded engine cannot take a connection: {error}");
            connections.close_longest_idle();
            let _ = timeout(Duration::from_secs(1), connections.freed.notified()).await;
        }
    }
}

/// All open connections.
#[derive(Default)]
struct Connections {
    open: Mutex<HashMap<u64, Connection>>,
    freed: Notify,
}

struct Connection {
    /// True while a request is being handled.
    busy: bool,
    /// Time at which `busy` changed last, or at which the connection was opened.
    since: Instant,
    task: Option<AbortHandle>,
    /// The task was aborted; the connection is about to be removed.
    closing: bool,
}

/// Counts a connection as open until this value is dropped.
struct OpenConnection {
    connections: Arc<Connections>,
    number: u64,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.connections.open.lock().remove(&self.number);
        self.connections.freed.notify_one();
    }
}

impl Connections {
    fn open(self: &Arc<Self>, number: u64) -> OpenConnection {
        let connection = Connection { busy: false, since: Instant::now(), task: None, closing: false };
        self.open.lock().insert(number, connection);
        OpenConnection { connections: self.clone(), number }
    }

    fn set_task(&self, number: u64, task: AbortHandle) {
        if let Some(it) = self.open.lock().get_mut(&number) {
            it.task = Some(task);
        }
    }

    fn set_busy(&self, number: u64, busy: bool) {
        if let Some(it) = self.open.lock().get_mut(&number) {
            (it.busy, it.since) = (busy, Instant::now());
        }
        if !busy {
            // Wake `wait_for_place`, which may close this connection now that it is idle.
            self.freed.notify_one();
        }
    }

    /// Waits until fewer than `max` connections are open.
    async fn wait_for_place(&self, max: usize) {
        loop {
            let (open, closing) = {
                let all = self.open.lock();
                (all.len(), all.values().filter(|it| it.closing).count())
            };
            if open < max {
                return;
            }
            // Connections that are closing will soon be gone: close another one only if that is not enough.
            if max <= open - closing {
                self.close_longest_idle();
            }
            self.freed.notified().await;
        }
    }

    /// Closes the connection that has been idle for longest, if any is idle.
    fn close_longest_idle(&self) {
        let mut open = self.open.lock();
        let idle = open.values_mut().filter(|it| !it.busy && it.task.is_some());
        let Some(longest_idle) = idle.min_by_key(|it| it.since) else { return };
        if let Some(task) = longest_idle.task.take() {
            longest_idle.closing = true;
            task.abort();
        }
    }
}

/// The client of a request, as long as it sends. Each request has it as an extension.
#[derive(Clone, Debug)]
pub(super) struct Sending(Arc<OwnedWriteHalf>);

impl Sending {
    /// Waits until the client stops sending. Never ends if the client has sent more than the request.
    pub(super) async fn ended(&self) {
        let stream: &TcpStream = (*self.0).as_ref();
        // An error means that the connection is broken.
        if let Ok(1..) = stream.peek(&mut [0]).await {
            std::future::pending().await
        }
    }
}

/// A stream whose writes fail if the client does not read for a while.
struct StallLimited {
    read: OwnedReadHalf,
    write: Arc<OwnedWriteHalf>,
    stall: Duration,
    /// Deadline of the pending write.
    write_deadline: Option<Pin<Box<Sleep>>>,
}

impl StallLimited {
    fn check_stall(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if outcome.is_ready() {
            self.write_deadline = None;
            return outcome;
        }
        let stall = self.stall;
        ready!(self.write_deadline.get_or_insert_with(|| Box::pin(sleep(stall))).as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl StallLimited {
    /// Writes with `write`, as soon as the socket takes bytes.
    fn poll_write_with(
        &mut self,
        context: &mut Context<'_>,
        write: impl Fn(&OwnedWriteHalf) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let outcome = loop {
            match (*self.write).as_ref().poll_write_ready(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
            match write(&self.write) {
                // The socket is full again: wait.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => break Poll::Ready(outcome),
            }
        };
        self.check_stall(context, outcome)
    }
}

impl AsyncRead for StallLimited {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(context, buffer)
    }
}

impl AsyncWrite for StallLimited {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |it| it.try_write(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |it| it.try_write_vectored(parts))
    }

    fn is_write_vectored(&self) -> bool {
        self.write.is_write_vectored()
    }

    /// Nothing is buffered here.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The end of the connection follows, which drops the writing half; that shuts it down.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
