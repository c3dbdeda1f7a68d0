//! The fake server behind a real socket.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::fake::{Act, FakeServer, Seen};
use crate::client::{ServiceClient, ServiceClientBuilder};
use crate::http::Answer;
use crate::sync::{CancelToken, Condvar, Mutex};

/// A fake server that listens on a loopback port. Dropping the value stops it.
#[derive(Debug)]
pub struct Listening {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: CancelToken,
    open: Mutex<HashMap<u64, TcpStream>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    listener: Mutex<ListenerState>,
    changed: Condvar,
}

/// The requested and the current state of the listening socket.
#[derive(Debug, Default)]
struct ListenerState {
    /// True if the socket is to be closed.
    close: bool,
    /// True if the socket is closed now.
    is_closed: bool,
}

impl Listening {
    pub(super) fn start(server: FakeServer) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let accepting = {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("fake-accept".into())
                .spawn(move || accept(listener, address, &server, &shared))?
        };
        Ok(Listening { address, shared, accepting: Some(accepting) })
    }

    /// The URL, for `ServiceClientBuilder::base_url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A builder of a client that reaches this server over its socket.
    pub fn client(&self) -> ServiceClientBuilder {
        ServiceClient::builder().without_environment().api_key("tml-test").base_url(self.url())
    }

    /// Closes all connections and refuses new ones until [`accept_again`](Self::accept_again).
    pub fn refuse(&self) {
        self.shared.close_listener(self.address);
    }

    /// Accepts connections again, on the same port.
    ///
    /// # Errors
    /// Another process uses the port now.
    pub fn accept_again(&self) -> io::Result<()> {
        self.shared.reopen_listener()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.listener.lock().close = false;
        self.shared.changed.notify_all();
        // Connect, so that `accept` returns and the accepting thread sees `stop`.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.accepting.take() {
            drop(thread.join());
        }
        self.shared.close_connections();
        let threads = std::mem::take(&mut *self.shared.threads.lock());
        for thread in threads {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn close_listener(&self, address: SocketAddr) {
        self.listener.lock().close = true;
        // Connect, so that `accept` returns and the accepting thread closes the socket.
        drop(TcpStream::connect(address));
        let mut state = self.listener.lock();
        while state.close && !state.is_closed && !self.stop.is_cancelled() {
            self.changed.wait(&mut state);
        }
        drop(state);
        self.close_connections();
    }

    fn reopen_listener(&self) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut state = self.listener.lock();
        state.close = false;
        self.changed.notify_all();
        while state.is_closed && !self.stop.is_cancelled() {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
        }
        Ok(())
    }

    fn close_connections(&self) {
        let open = std::mem::take(&mut *self.open.lock());
        for stream in open.into_values() {
            // Fails if the client has closed the connection.
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// Closes or reopens the socket as requested, and returns it once it is open. `None` when the server stops.
    fn open_listener(&self, mut listener: Option<TcpListener>, address: SocketAddr) -> Option<TcpListener> {
        let mut state = self.listener.lock();
        loop {
            if self.stop.is_cancelled() {
                return None;
            }
            if state.close {
                listener = None;
                state.is_closed = true;
                self.changed.notify_all();
                self.changed.wait(&mut state);
                continue;
            }
            match listener.map_or_else(|| TcpListener::bind(address), Ok) {
                Ok(listener) => {
                    state.is_closed = false;
                    self.changed.notify_all();
                    return Some(listener);
                }
                Err(_) => {
                    // The port may be busy while earlier connections are being closed: try again soon.
                    listener = None;
                    let soon = Instant::now() + Duration::from_millis(10);
                    self.changed.wait_until(&mut state, soon);
                }
            }
        }
    }
}

fn accept(listener: TcpListener, address: SocketAddr, server: &FakeServer, shared: &Arc<Shared>) {
    let mut listener = Some(listener);
    for id in 0.. {
        // A later request to close or stop also connects to the socket, so that `accept` returns.
        listener = shared.open_listener(listener, address);
        let Some(socket) = &listener else { return };
        let Ok((stream, _)) = socket.accept() else { continue };
        if shared.stop.is_cancelled() || shared.listener.lock().close {
            continue;
        }
        let Ok(clone) = stream.try_clone() else { continue };
        shared.open.lock().insert(id, clone);
        let (server, serving) = (server.clone(), shared.clone());
        let thread = std::thread::Builder::new().name("fake-serve".into()).spawn(move || {
            // An error means that the client closed the connection.
            let end = serve(&stream, &server, &serving).unwrap_or(End::Close);
            drop(serving.open.lock().remove(&id));
            match end {
                // Closing the last descriptor with unread data sends an RST.
                End::Reset => drop(stream),
                End::Close => drop(stream.shutdown(Shutdown::Both)),
                End::Refuse(pause) => {
                    serving.close_listener(address);
                    drop(stream.shutdown(Shutdown::Both));
                    if !serving.stop.wait_timeout(pause) {
                        // Fails if another process uses the port now.
                        drop(serving.reopen_listener());
                    }
                }
            }
        });
        if let Ok(thread) = thread {
            let mut threads = shared.threads.lock();
            threads.retain(|it| !it.is_finished());
            threads.push(thread);
        }
    }
}

/// The end of a connection.
enum End {
    Close,
    Reset,
    Refuse(Duration),
}

/// Serves one connection until an act ends it.
fn serve(stream: &TcpStream, server: &FakeServer, shared: &Shared) -> io::Result<End> {
    stream.set_nodelay(true)?;
    let stop = &shared.stop;
    let mut reader = BufReader::new(stream);
    let mut out = stream;
    loop {
        let Some((method, path)) = first_line(stream)? else { return Ok(End::Close) };
        if server.resets_unread(&method, &path) {
            return Ok(End::Reset);
        }
        // `first_line` bypasses the reader. That loses no bytes: the client sends one request at a time, so the reader
        // has none buffered here.
        match server.act(read(&mut reader, method, path)?) {
            Act::Answer(answer) => out.write_all(&bytes(&answer))?,
            Act::Reset | Act::ResetUnread => return Ok(End::Close),
            Act::Refuse(pause) => return Ok(End::Refuse(pause)),
            Act::Stall => {
                stop.wait_timeout(FOREVER);
                return Ok(End::Close);
            }
            Act::StallBody(answer) => {
                out.write_all(half(&bytes(&answer), &answer))?;
                stop.wait_timeout(FOREVER);
                return Ok(End::Close);
            }
            Act::Truncate(answer) => {
                out.write_all(half(&bytes(&answer), &answer))?;
                return Ok(End::Close);
            }
            Act::Drip(answer, pause) => {
                for piece in bytes(&answer).chunks(16) {
                    out.write_all(piece)?;
                    if stop.wait_timeout(pause) {
                        return Ok(End::Close);
                    }
                }
            }
            Act::Garbage(bytes) => {
                out.write_all(&bytes)?;
                return Ok(End::Close);
            }
        }
    }
}

/// Reads method and path of the next request. No byte after the first line is read.
fn first_line(mut stream: &TcpStream) -> io::Result<Option<(String, String)>> {
    const LONGEST: usize = 2048;
    let mut line = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        line.extend(byte);
        if LONGEST < line.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let line = String::from_utf8_lossy(&line);
    let mut words = line.split_whitespace().map(str::to_string);
    match words.next().zip(words.next()) {
        Some(it) => Ok(Some(it)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

const FOREVER: Duration = Duration::from_secs(3600);

/// The whole head and half of the body.
fn half<'a>(bytes: &'a [u8], answer: &Answer) -> &'a [u8] {
    &bytes[..bytes.len() - answer.body.len().div_ceil(2)]
}

fn bytes(answer: &Answer) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {} Scripted\r\n", answer.status).into_bytes();
    for (name, value) in &answer.headers {
        out.extend(format!("{name}: {value}\r\n").into_bytes());
    }
    if answer.status != 204 && answer.header("content-length").is_none() {
        out.extend(format!("content-length: {}\r\n", answer.body.len()).into_bytes());
    }
    out.extend(b"\r\n");
    out.extend(&answer.body);
    out
}

/// Reads a request after its first line.
fn read(reader: &mut impl BufRead, method: String, path: String) -> io::Result<Seen> {
    let mut seen = Seen { method, path, headers: Vec::new(), body: Default::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => seen.headers.push((name.to_ascii_lowercase(), value.trim().into())),
            None => break,
        }
    }
    let length = seen.header("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    seen.body = body.into();
    Ok(seen)
}
