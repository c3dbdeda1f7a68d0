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

/// A fake server that listens on a port of this machine; it is gone when this is dropped.
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
    door: Mutex<Door>,
    moved: Condvar,
}

/// Whether connections are accepted.
#[derive(Debug, Default)]
struct Door {
    /// As it should be.
    shut: bool,
    /// As it is.
    is_shut: bool,
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

    /// The address, for `ServiceClientBuilder::base_url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client of this server, over its socket.
    pub fn client(&self) -> ServiceClientBuilder {
        ServiceClient::builder().without_environment().api_key("tml-test").base_url(self.url())
    }

    /// Closes all connections and refuses new ones, until [`accept_again`](Self::accept_again).
    pub fn refuse(&self) {
        self.shared.shut(self.address);
    }

    /// Accepts connections again, on the same port.
    ///
    /// # Errors
    /// Somebody else took the port meanwhile.
    pub fn accept_again(&self) -> io::Result<()> {
        self.shared.reopen()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.door.lock().shut = false;
        self.shared.moved.notify_all();
        // Wakes the accepting thread, which then sees that it should stop.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.accepting.take() {
            drop(thread.join());
        }
        self.shared.hang_up();
        let threads = std::mem::take(&mut *self.shared.threads.lock());
        for thread in threads {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn shut(&self, address: SocketAddr) {
        self.door.lock().shut = true;
        // Wakes the accepting thread, which then sees that it should close its socket.
        drop(TcpStream::connect(address));
        let mut door = self.door.lock();
        while door.shut && !door.is_shut && !self.stop.is_cancelled() {
            self.moved.wait(&mut door);
        }
        drop(door);
        self.hang_up();
    }

    fn reopen(&self) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut door = self.door.lock();
        door.shut = false;
        self.moved.notify_all();
        while door.is_shut && !self.stop.is_cancelled() {
            if self.moved.wait_until(&mut door, deadline).timed_out() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
        }
        Ok(())
    }

    /// Closes all connections.
    fn hang_up(&self) {
        let open = std::mem::take(&mut *self.open.lock());
        for stream in open.into_values() {
            // The client may have closed it already.
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// The socket to accept from, as the door should be. `None` when the server stops.
    fn listener(&self, mut listener: Option<TcpListener>, address: SocketAddr) -> Option<TcpListener> {
        let mut door = self.door.lock();
        loop {
            if self.stop.is_cancelled() {
                return None;
            }
            if door.shut {
                listener = None;
                door.is_shut = true;
                self.moved.notify_all();
                self.moved.wait(&mut door);
                continue;
            }
            match listener.map_or_else(|| TcpListener::bind(address), Ok) {
                Ok(it) => {
                    door.is_shut = false;
                    self.moved.notify_all();
                    return Some(it);
                }
                Err(_) => {
                    // Connections of before may still be on their way out.
                    listener = None;
                    let soon = Instant::now() + Duration::from_millis(10);
                    self.moved.wait_until(&mut door, soon);
                }
            }
        }
    }
}

fn accept(listener: TcpListener, address: SocketAddr, server: &FakeServer, shared: &Arc<Shared>) {
    let mut listener = Some(listener);
    for id in 0.. {
        // Looked at with the socket open: whoever wants something after this can wake us by connecting.
        listener = shared.listener(listener, address);
        let Some(socket) = &listener else { return };
        let Ok((stream, _)) = socket.accept() else { continue };
        if shared.stop.is_cancelled() || shared.door.lock().shut {
            continue;
        }
        let Ok(clone) = stream.try_clone() else { continue };
        shared.open.lock().insert(id, clone);
        let (server, serving) = (server.clone(), shared.clone());
        let thread = std::thread::Builder::new().name("fake-serve".into()).spawn(move || {
            // A connection that broke is the client's affair.
            let end = serve(&stream, &server, &serving).unwrap_or(End::Close);
            drop(serving.open.lock().remove(&id));
            match end {
                // Closing the last descriptor with data unread is what sends an RST.
                End::Reset => drop(stream),
                End::Close => drop(stream.shutdown(Shutdown::Both)),
                End::Refuse(pause) => {
                    serving.shut(address);
                    drop(stream.shutdown(Shutdown::Both));
                    if !serving.stop.wait_timeout(pause) {
                        // Whoever took the port meanwhile keeps it.
                        drop(serving.reopen());
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

/// How a connection ends.
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
        // The reader has nothing left over: the client sends one request at a time.
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

/// Method and path of the next request. Not a byte behind its first line is taken from the socket.
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

/// The rest of a request whose first line was taken already.
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
