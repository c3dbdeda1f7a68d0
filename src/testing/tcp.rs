//! The fake server behind a real socket.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::fake::{Act, FakeServer, Seen};
use crate::client::{ServiceClient, ServiceClientBuilder};
use crate::http::Answer;
use crate::sync::{CancelToken, Mutex};

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
    open: Mutex<Vec<TcpStream>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
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
                .spawn(move || accept(&listener, &server, &shared))?
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
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        // Wakes the accepting thread, which then sees that it should stop.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.accepting.take() {
            drop(thread.join());
        }
        let open = std::mem::take(&mut *self.shared.open.lock());
        for stream in open {
            // The client may have closed it already.
            drop(stream.shutdown(Shutdown::Both));
        }
        let threads = std::mem::take(&mut *self.shared.threads.lock());
        for thread in threads {
            drop(thread.join());
        }
    }
}

fn accept(listener: &TcpListener, server: &FakeServer, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stop.is_cancelled() {
            return;
        }
        let Ok(stream) = stream else { continue };
        let Ok(clone) = stream.try_clone() else { continue };
        shared.open.lock().push(clone);
        let (server, serving) = (server.clone(), shared.clone());
        let thread = std::thread::Builder::new().name("fake-serve".into()).spawn(move || {
            // A connection that broke is the client's affair.
            drop(serve(&stream, &server, &serving.stop));
            drop(stream.shutdown(Shutdown::Both));
        });
        if let Ok(thread) = thread {
            shared.threads.lock().push(thread);
        }
    }
}

/// Serves one connection until an act ends it.
fn serve(stream: &TcpStream, server: &FakeServer, stop: &CancelToken) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut out = stream;
    while let Some(seen) = read(&mut reader)? {
        match server.act(seen) {
            Act::Answer(answer) => out.write_all(&bytes(&answer))?,
            Act::Reset => return Ok(()),
            Act::Stall => {
                stop.wait_timeout(FOREVER);
                return Ok(());
            }
            Act::StallBody(answer) => {
                out.write_all(half(&bytes(&answer), &answer))?;
                stop.wait_timeout(FOREVER);
                return Ok(());
            }
            Act::Truncate(answer) => return out.write_all(half(&bytes(&answer), &answer)),
            Act::Drip(answer, pause) => {
                for piece in bytes(&answer).chunks(16) {
                    out.write_all(piece)?;
                    if stop.wait_timeout(pause) {
                        return Ok(());
                    }
                }
            }
            Act::Garbage(bytes) => return out.write_all(&bytes),
        }
    }
    Ok(())
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

/// One request, or `None` when the client closed the connection.
fn read(reader: &mut impl BufRead) -> io::Result<Option<Seen>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let mut seen =
        Seen { method: method.into(), path: path.into(), headers: Vec::new(), body: Default::default() };
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
    Ok(Some(seen))
}
