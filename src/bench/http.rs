//! One HTTP/1.1 connection with one request under way: as little as a measurement needs, so that the generator leaves
//! the machine to the servers. Parsing the head is `httparse`'s.

use std::io::Write as _;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::load::{Caller, Done};
use super::work::{Author, Operation};

/// Header lines that an answer may have.
const HEADERS_MAX: usize = 32;
/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A connection that is opened when it is needed.
#[derive(Debug)]
pub struct Connection {
    address: String,
    stream: Option<TcpStream>,
    out: Vec<u8>,
    inward: BytesMut,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: BytesMut,
}

impl Connection {
    /// To `host:port`.
    pub fn new(address: &str) -> Connection {
        let (out, inward) = (Vec::with_capacity(1 << 10), BytesMut::with_capacity(4 << 10));
        Connection { address: address.to_string(), stream: None, out, inward }
    }

    /// Another place to connect to.
    pub fn redirect(&mut self, address: &str) {
        self.stream = None;
        self.address = address.to_string();
    }

    /// Sends a request and waits for its answer. After an error, or when this is dropped midway, the next call connects
    /// anew.
    pub async fn call(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Answer, String> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                self.inward.clear();
                let stream = TcpStream::connect(&self.address).await.map_err(|error| name_of(&error))?;
                stream.set_nodelay(true).map_err(|error| name_of(&error))?;
                stream
            }
        };
        self.out.clear();
        let (address, length) = (&self.address, body.len());
        write!(
            self.out,
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        )
        .expect("writing to memory does not fail");
        self.out.extend_from_slice(body);
        stream.write_all(&self.out).await.map_err(|error| name_of(&error))?;
        let (answer, keep) = self.answer(&mut stream).await?;
        if keep {
            self.stream = Some(stream);
        }
        Ok(answer)
    }

    async fn answer(&mut self, stream: &mut TcpStream) -> Result<(Answer, bool), String> {
        loop {
            if let Some(head) = head(&self.inward)? {
                if head.length > ANSWER_BYTES_MAX {
                    return Err("answer too large".to_string());
                }
                self.inward.advance(head.bytes);
                while self.inward.len() < head.length {
                    self.receive(stream).await?;
                }
                let body = self.inward.split_to(head.length);
                return Ok((Answer { status: head.status, body }, head.keep));
            }
            self.receive(stream).await?;
        }
    }

    async fn receive(&mut self, stream: &mut TcpStream) -> Result<(), String> {
        self.inward.reserve(4 << 10);
        match stream.read_buf(&mut self.inward).await {
            Ok(0) => Err("closed".to_string()),
            Ok(_) => Ok(()),
            Err(error) => Err(name_of(&error)),
        }
    }
}

fn name_of(error: &std::io::Error) -> String {
    error.kind().to_string()
}

struct Head {
    bytes: usize,
    status: u16,
    length: usize,
    keep: bool,
}

/// The head of an answer, if all of it is there. Every answer of ours states its length.
fn head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|error| format!("not HTTP: {error}"))?;
    let httparse::Status::Complete(end) = parsed else { return Ok(None) };
    let field = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let length = field("content-length").and_then(|text| text.parse().ok());
    let keep = !field("connection").is_some_and(|text| text.eq_ignore_ascii_case("close"));
    Ok(Some(Head {
        bytes: end,
        status: response.code.unwrap_or(0),
        length: length.ok_or("an answer without a length")?,
        keep,
    }))
}

/// One client of a closed loop.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    author: Author,
    path: String,
    body: Vec<u8>,
}

impl Client {
    /// Asks `host:port` for what the author makes up.
    pub fn new(address: &str, author: Author) -> Client {
        Client { connection: Connection::new(address), author, path: String::new(), body: Vec::new() }
    }
}

impl Caller for Client {
    async fn call(&mut self) -> Result<Done, String> {
        let operation = self.author.draw();
        let (method, done) = encode(&operation, &mut self.path, &mut self.body);
        let answer = self.connection.call(method, &self.path, &self.body).await?;
        if answer.status == 200 { Ok(done) } else { Err(format!("status {}", answer.status)) }
    }
}

/// Puts an operation into a path and a body; gives the method, and what a good answer means.
pub fn encode(operation: &Operation<'_>, path: &mut String, body: &mut Vec<u8>) -> (&'static str, Done) {
    path.clear();
    body.clear();
    match operation {
        Operation::Put { key, value } => {
            path.extend(["/v1/kv/", key]);
            body.extend_from_slice(value.as_bytes());
            ("PUT", Done::Wrote(1))
        }
        Operation::Get { key } => {
            path.extend(["/v1/kv/", key]);
            ("GET", Done::Read)
        }
        Operation::Batch { keys, value } => {
            path.push_str("/v1/kv:batch");
            body.extend_from_slice(b"{\"operations\":[");
            for (number, key) in keys.iter().enumerate() {
                let comma = if number == 0 { "" } else { "," };
                write!(body, "{comma}{{\"op\":\"put\",\"key\":\"{key}\",\"value\":{value}}}")
                    .expect("writing to memory does not fail");
            }
            body.extend_from_slice(b"]}");
            ("POST", Done::Wrote(keys.len() as u64))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        for cut in 0..text.len() - 2 {
            assert!(head(&text[..cut]).expect("a beginning").is_none(), "cut at {cut}");
        }
        let whole = head(text).expect("HTTP").expect("whole");
        assert_eq!((whole.bytes, whole.status, whole.length, whole.keep), (text.len() - 2, 200, 2, true));
        let closing = b"HTTP/1.1 503 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert!(!head(closing).expect("HTTP").expect("whole").keep);
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "no length");
        assert!(head(b"SSH-2.0-x\r\n\r\n").is_err());
    }

    #[test]
    fn operations_become_requests_of_the_interface() {
        let (mut path, mut body) = (String::new(), Vec::new());
        let keys = ["a".to_string(), "b".to_string()];
        let batch = Operation::Batch { keys: &keys, value: "1" };
        assert_eq!(encode(&batch, &mut path, &mut body), ("POST", Done::Wrote(2)));
        let parsed: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(parsed["operations"][1]["key"], "b");
        assert_eq!(
            encode(&Operation::Put { key: "k", value: "2" }, &mut path, &mut body),
            ("PUT", Done::Wrote(1))
        );
        assert_eq!((path.as_str(), body.as_slice()), ("/v1/kv/k", &b"2"[..]));
    }
}
