//! A storage server over raw sockets that a test scripts: it cuts connections, lies about ranges, changes versions.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Length of the blocks of generated content.
const BLOCK: usize = 64 << 10;

/// The content of a file.
#[derive(Clone)]
pub(crate) enum Content {
    Bytes(Arc<Vec<u8>>),
    /// This many bytes, generated while they are sent: blocks that begin with their number.
    Generated(u64),
}

impl Content {
    pub(crate) fn of(bytes: impl Into<Vec<u8>>) -> Self {
        Content::Bytes(Arc::new(bytes.into()))
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Generated(size) => *size,
        }
    }

    /// Sends the bytes from `start` to `end`.
    fn send(&self, start: u64, end: u64, to: &mut impl Write) -> std::io::Result<()> {
        match self {
            Content::Bytes(bytes) => to.write_all(&bytes[start as usize..end as usize]),
            Content::Generated(_) => {
                let mut at = start;
                while at < end {
                    let offset = (at % BLOCK as u64) as usize;
                    let n = (BLOCK - offset).min((end - at) as usize);
                    to.write_all(&block(at / BLOCK as u64)[offset..offset + n])?;
                    at += n as u64;
                }
                Ok(())
            }
        }
    }
}

/// One block of generated content.
pub(crate) fn block(number: u64) -> Vec<u8> {
    let mut block = vec![number as u8; BLOCK];
    block[..8].copy_from_slice(&number.to_le_bytes());
    block
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Number of earlier requests.
    pub(crate) n: usize,
    /// Path and query.
    pub(crate) target: String,
    /// By name in lower case.
    pub(crate) headers: BTreeMap<String, String>,
}

impl Asked {
    /// The offset of the range that is asked for.
    pub(crate) fn offset(&self) -> Option<u64> {
        self.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) content: Content,
    pub(crate) start: u64,
    /// Number of bytes of the body after which the connection is cut.
    pub(crate) cut: Option<u64>,
    /// After the cut the connection stays open without a byte.
    pub(crate) stalls: bool,
    /// False if the answer states no length, and ends with the connection.
    pub(crate) has_length: bool,
}

impl Reply {
    pub(crate) fn status(status: u16, body: &str) -> Self {
        let content = Content::of(body);
        Reply { status, headers: Vec::new(), content, start: 0, cut: None, stalls: false, has_length: true }
    }

    /// What a good server answers.
    pub(crate) fn to(asked: &Asked, content: &Content, etag: &str) -> Self {
        let size = content.len();
        let same = asked.headers.get("if-range").is_none_or(|it| it == etag);
        let reply = Reply {
            status: 200,
            headers: vec![("ETag".into(), etag.into())],
            content: content.clone(),
            start: 0,
            cut: None,
            stalls: false,
            has_length: true,
        };
        match asked.offset().filter(|offset| same && *offset < size) {
            Some(start) => Reply { status: 206, start, ..reply }
                .with("Content-Range", format!("bytes {start}-{}/{size}", size - 1)),
            None => reply,
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|header| header.0 != name);
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|header| header.0 != name);
        self
    }

    /// Lets the connection stall where it would be cut.
    pub(crate) fn stalling(self) -> Self {
        Reply { stalls: true, ..self }
    }

    pub(crate) fn cut(mut self, after: u64) -> Self {
        self.cut = Some(after);
        self
    }
}

/// The server. Its thread ends with the process.
pub(crate) struct Storage {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Storage {
    pub(crate) fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let answer = Arc::new(answer);
        let seen = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, seen) = (answer.clone(), seen.clone());
                // A client that goes away is not of interest.
                thread::spawn(move || drop(serve(stream, &seen, &*answer)));
            }
        });
        Storage { url, asked }
    }

    pub(crate) fn url(&self, target: &str) -> String {
        format!("{}{target}", self.url)
    }

    pub(crate) fn requests(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// Answers one request.
fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Asked>>,
    answer: &dyn Fn(&Asked) -> Reply,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let asked = {
        let mut seen = seen.lock().unwrap();
        let asked = Asked { n: seen.len(), target, headers };
        seen.push(asked.clone());
        asked
    };
    let reply = answer(&asked);
    let size = reply.content.len();
    let end = reply.cut.map_or(size, |cut| size.min(reply.start + cut));
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    if reply.has_length {
        head += &format!("Content-Length: {}\r\n", size - reply.start);
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    reply.content.send(reply.start, end, &mut stream)?;
    if reply.stalls {
        // Until the client closes the connection.
        stream.read_exact(&mut [0])?;
    }
    Ok(())
}
