//! HTTP/1.1 over a socket, without a client library: tests send what no library sends, and see each byte of the answer.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use tinkex::local::Server;

use super::TEST_TIMEOUT;

/// A raw connection to an engine.
pub(crate) fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.url().strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TEST_TIMEOUT)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// The head of a POST request, with the header lines `more`.
pub(crate) fn post(path: &str, key: &str, more: &str) -> String {
    format!("POST /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n{more}\r\n")
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|it| it.0 == name).map(|it| it.1.as_str())
    }

    /// True if the answer says that the server closes the connection after it.
    pub(crate) fn closes(&self) -> bool {
        self.header("connection").is_some_and(|it| it.eq_ignore_ascii_case("close"))
    }
}

/// A connection with the bytes that were read and are not part of an answer yet.
pub(crate) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(server: &Server) -> Connection {
        Connection { stream: connect(server), read: Vec::new() }
    }

    /// Sends bytes. Returns `false` if the server has closed the connection.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Tells the server that nothing more will be sent. Answers can still be read.
    pub(crate) fn end_sending(&self) {
        // Fails if the server has closed the connection already.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Reads more bytes; `false` at the end of the connection.
    fn fill(&mut self) -> Result<bool, String> {
        let mut part = [0; 16 << 10];
        match self.stream.read(&mut part) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.read.extend_from_slice(&part[..n]);
                Ok(true)
            }
            Err(it) if matches!(it.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(format!("no answer within {TEST_TIMEOUT:?}"))
            }
            Err(_) => Ok(false),
        }
    }

    /// Reads bytes up to and including `end`; `None` if the connection ends without a byte.
    fn take_until(&mut self, end: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let mut from = 0;
        loop {
            if let Some(at) = self.read[from..].windows(end.len()).position(|it| it == end) {
                return Ok(Some(self.read.drain(..from + at + end.len()).collect()));
            }
            from = self.read.len().saturating_sub(end.len());
            if !self.fill()? {
                let rest = String::from_utf8_lossy(&self.read).into_owned();
                return if rest.is_empty() {
                    Ok(None)
                } else {
                    Err(format!("the answer breaks off: {rest:?}"))
                };
            }
        }
    }

    fn take(&mut self, n: usize) -> Result<Vec<u8>, String> {
        while self.read.len() < n {
            if !self.fill()? {
                return Err(format!("the body breaks off after {} of {n} bytes", self.read.len()));
            }
        }
        Ok(self.read.drain(..n).collect())
    }

    /// Reads the next answer, without those of status 1xx. `None` if the connection ends instead. `is_head` says that the
    /// request was a HEAD request, whose answer has no body.
    ///
    /// # Errors
    /// The answer breaks the rules of HTTP/1.1, or none comes in time.
    pub(crate) fn response(&mut self, is_head: bool) -> Result<Option<Response>, String> {
        loop {
            let Some(head) = self.take_until(b"\r\n\r\n")? else { return Ok(None) };
            let (status, headers) = read_head(&head)?;
            if (100..200).contains(&status) {
                continue;
            }
            let mut response = Response { status, headers, body: Vec::new() };
            let lengths = response.headers.iter().filter(|it| it.0 == "content-length").count();
            let is_chunked = response.header("transfer-encoding") == Some("chunked");
            if 1 < lengths || (lengths == 1 && is_chunked) {
                return Err(format!("the length of the answer is ambiguous: {:?}", response.headers));
            }
            if is_head || status == 204 || status == 304 {
                return Ok(Some(response));
            }
            if let Some(length) = response.header("content-length") {
                let length = length.parse().map_err(|it| format!("content-length {length:?}: {it}"))?;
                response.body = self.take(length)?;
            } else if is_chunked {
                response.body = self.chunks()?;
            } else if response.closes() {
                while self.fill()? {}
                response.body = std::mem::take(&mut self.read);
            } else {
                return Err(format!("the answer has no length: {:?}", response.headers));
            }
            return Ok(Some(response));
        }
    }

    fn chunks(&mut self) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        loop {
            let line = self.take_until(b"\r\n")?.unwrap_or_default();
            let line = String::from_utf8_lossy(&line).trim().to_string();
            let size = usize::from_str_radix(&line, 16).map_err(|it| format!("chunk {line:?}: {it}"))?;
            body.extend(self.take(size)?);
            if self.take(2)? != b"\r\n" {
                return Err("a chunk has another length than it says".into());
            }
            if size == 0 {
                return Ok(body);
            }
        }
    }

    /// Waits for the end of the connection.
    ///
    /// # Errors
    /// The server sends more, or does not close the connection.
    pub(crate) fn expect_end(&mut self) -> Result<(), String> {
        while self.fill()? {}
        if self.read.is_empty() { Ok(()) } else { Err(format!("unexpected bytes: {:?}", self.read)) }
    }
}

type Head = (u16, Vec<(String, String)>);

fn read_head(head: &[u8]) -> Result<Head, String> {
    let text = std::str::from_utf8(head).map_err(|it| format!("the head of the answer: {it}"))?;
    let mut lines = text.trim_end().split("\r\n");
    let line = lines.next().unwrap_or_default();
    let status = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "));
    let status = status.and_then(|it| it.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| format!("not a status line: {line:?}"))?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let is_name = |it: u8| it.is_ascii_alphanumeric() || it == b'-';
        let is_valid = !name.is_empty() && name.bytes().all(is_name) && !value.contains(['\r', '\n', '\0']);
        is_valid.then(|| (name.to_ascii_lowercase(), value.trim().to_string()))
    };
    let headers = lines.map(|it| header(it).ok_or_else(|| format!("not a header: {it:?}")));
    Ok((status, headers.collect::<Result<_, _>>()?))
}
